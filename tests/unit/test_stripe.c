/* SPDX-License-Identifier: BSD-3-Clause */
#include "stripe_cluster.h"

#include "alloc_fail.h"

/* aligned_alloc() is made to fail like the others, as allocation 0. */
static bool fail_aligned;
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	return fail_aligned ? NULL : __real_aligned_alloc(align, bytes);
}

/* Time as the limiter sees it. */
static bool fake_clock;
static struct timespec fake_now;
int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	if (!fake_clock)
		return __real_clock_gettime(id, t);
	*t = fake_now;
	return 0;
}

static void parity_and_checksums_are_those_of_the_reference(void **state)
{
	uint64_t seed = test_random_seed("stripe");

	(void)state;
	for (uint32_t n = 2; n <= 6; n++)
		for (uint32_t m = 1; m <= 4 && m < n; m++)
			for (uint32_t i = 0; i < SIZES; i++) {
				struct test_job_spec spec = spec_of(n, m, sizes[i]);
				struct cluster c;

				set_up(&c, &spec, 1 + (n + m + i) % 4, seed++);
				spoil(&c);
				begin_all(&c, 1);
				finish(&c);
				assert_complete(&c);
				tear_down(&c);
			}
}

static void any_window_will_do(void **state)
{
	struct test_job_spec spec = spec_of(4, 2, sizes[6]);
	uint64_t seed = test_random_seed("stripe");

	(void)state;
	for (uint32_t window = 1; window <= 4; window++)
		for (int i = 0; i < 5; i++) {
			struct cluster c;

			set_up(&c, &spec, window, seed++);
			begin_all(&c, 1);
			finish(&c);
			assert_complete(&c);
			tear_down(&c);
		}
}

/* A rank alone on its node lends itself to the other rails of its group. */
static void ranks_that_lend_themselves_hold_parity_in_several_rails(void **state)
{
	struct test_job_spec spec = {.nodes = 3, .parity = 1, .ranks_on = {2, 1, 3}};
	uint64_t seed = test_random_seed("stripe");

	(void)state;
	memcpy(spec.data_bytes, sizes[6], sizeof(sizes[6]));
	for (spec.parity = 1; spec.parity <= 2; spec.parity++)
		for (int i = 0; i < 4; i++) {
			struct cluster c;

			set_up(&c, &spec, 2, seed++);
			spoil(&c);
			assert_int_equal(c.job.arena[2]->shape.rails, 3);
			begin_all(&c, 1);
			finish(&c);
			assert_complete(&c);
			tear_down(&c);
		}
}

static void one_node_only_waits_for_its_copy(void **state)
{
	struct test_job_spec spec = {.nodes = 1, .data_bytes = {3 * BLOCK + 1}};
	struct cluster c;

	(void)state;
	set_up(&c, &spec, 2, 5);
	begin_all(&c, 1);
	assert_int_equal(c.part[0].pending, 4);
	for (int i = 0; i < 10; i++)
		stripe_step(c.part[0].stripe);
	assert_all(&c, STRIPE_RUNNING);
	finish(&c);
	assert_complete(&c);
	begin_all(&c, 2);
	c.part[0].failed = 1;
	finish(&c);
	assert_all(&c, STRIPE_FAILED);
	assert_int_equal(fake_net_messages(c.net), 0);
	tear_down(&c);
}

/* --- versions one after the other --- */

/* Each member begins the next version as soon as it is through with one. */
static void versions_may_overlap_on_the_wire(void **state)
{
	struct test_job_spec spec = spec_of(4, 1, sizes[6]);
	uint64_t seed = test_random_seed("stripe");

	(void)state;
	for (int run = 0; run < 6; run++) {
		uint64_t at[4] = {1, 1, 1, 1}, least = 1;
		struct cluster c;

		set_up(&c, &spec, 2, seed++);
		begin_all(&c, 1);
		for (uint32_t i = 0; i < PATIENCE && least < 12; i++) {
			step(&c);
			least = UINT64_MAX;
			for (uint32_t x = 0; x < 4; x++) {
				struct part *p = &c.part[x];

				least = at[x] < least ? at[x] : least;
				if (stripe_state(p->stripe) == STRIPE_RUNNING || at[x] == 12)
					continue;
				assert_int_equal(stripe_state(p->stripe), STRIPE_COMPLETE);
				assert_true(test_job_filled(&p->slot, x, at[x]));
				begin(&c, p, ++at[x], true);
			}
		}
		assert_int_equal(least, 12);
		finish(&c);
		assert_complete(&c);
		tear_down(&c);
	}
}

/* --- the rest --- */

static void sends_keep_to_the_ceiling(void **state)
{
	struct test_job_spec spec = spec_of(3, 1, sizes[5]);
	struct net *net;
	struct cluster c;
	uint64_t budget, begun;

	(void)state;
	fake_clock = true;
	fake_now = (struct timespec){100, 0};
	set_up(&c, &spec, 2, 4);
	fake_net_set_chance(c.net, 100);
	for (uint32_t i = 0; i < 3; i++)
		c.limiter[i] = (struct limiter){.rate = 100000, .last_ns = UINT64_C(100000000000)};
	net = fake_net_of(c.net, 0);
	begin_all(&c, 1);
	begun = atomic_load(&net->sent_bytes);
	for (uint32_t ms = 0; ms < 1000; ms++) {
		for (int i = 0; i < 50; i++)
			step(&c);
		/* Intents and trailers do not count; a bucket and a block more may be out. */
		budget = ms * 100 + 1000 + BLOCK + 2 * (16 + 128);
		assert_true(atomic_load(&net->sent_bytes) - begun <= budget);
		fake_now.tv_nsec += 1000000;
		if (fake_now.tv_nsec == 1000000000)
			fake_now = (struct timespec){fake_now.tv_sec + 1, 0};
	}
	finish(&c);
	assert_complete(&c);
	tear_down(&c);
	fake_clock = false;
}

static void staging_is_bounded_by_the_window(void **state)
{
	struct test_job_spec spec = spec_of(4, 2, sizes[6]);
	uint64_t last = 0;

	(void)state;
	for (uint32_t window = 1; window <= 4; window++) {
		struct cluster c;
		uint64_t bytes;

		set_up(&c, &spec, window, 1);
		bytes = stripe_staging_bytes(c.part[0].stripe);
		assert_true(bytes >= window * 4 * BLOCK);
		assert_true(last == 0 || bytes - last == 4 * BLOCK);
		last = bytes;
		tear_down(&c);
	}
}

static void a_rail_beyond_the_tags_is_refused(void **state)
{
	struct test_job_spec spec = spec_of(2, 1, sizes[5]);
	struct stripe_config config;
	struct stripe *s = NULL;
	struct cluster c;

	(void)state;
	set_up(&c, &spec, 2, 1);
	config = (struct stripe_config){.net = fake_net_of(c.net, 0), .window = 2,
	                                .shape = &c.job.arena[0]->shape, .limiter = &c.limiter[0]};
	fake_net_of(c.net, 0)->tag_max = tag_rail(0, TAG_SUMS) - 1;
	assert_int_equal(stripe_new(&config, &s), FTMEM_ENET);
	assert_null(s);
	fake_net_of(c.net, 0)->tag_max = tag_rail(0, TAG_SUMS);
	assert_int_equal(stripe_new(&config, &s), 0);
	stripe_free(s);
	stripe_free(NULL);
	tear_down(&c);
}

static void a_failed_allocation_leaves_nothing(void **state)
{
	struct test_job_spec spec = spec_of(4, 2, sizes[6]);
	struct stripe_config config;
	struct stripe *s = NULL;
	struct cluster c;
	int rc = FTMEM_ENOMEM;
	unsigned n;

	(void)state;
	set_up(&c, &spec, 2, 1);
	config = (struct stripe_config){.net = fake_net_of(c.net, 0), .window = 2,
	                                .shape = &c.job.arena[0]->shape, .limiter = &c.limiter[0]};
	fail_aligned = true;
	assert_int_equal(stripe_new(&config, &s), FTMEM_ENOMEM);
	fail_aligned = false;
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		assert_null(s);
		alloc_fail_at(n);
		rc = stripe_new(&config, &s);
		alloc_fail_off();
	}
	assert_int_equal(rc, 0);
	assert_true(n > 8);
	stripe_free(s);
	tear_down(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parity_and_checksums_are_those_of_the_reference),
		cmocka_unit_test(any_window_will_do),
		cmocka_unit_test(ranks_that_lend_themselves_hold_parity_in_several_rails),
		cmocka_unit_test(one_node_only_waits_for_its_copy),
		cmocka_unit_test(versions_may_overlap_on_the_wire),
		cmocka_unit_test(sends_keep_to_the_ceiling),
		cmocka_unit_test(staging_is_bounded_by_the_window),
		cmocka_unit_test(a_rail_beyond_the_tags_is_refused),
		cmocka_unit_test(a_failed_allocation_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
