/* SPDX-License-Identifier: BSD-3-Clause */
/* What goes wrong in an exchange: who skips, fails, damages, or is not heard of again. */
#include "stripe_cluster.h"

/* --- dissent --- */

static void one_that_skips_makes_all_dissent_before_anything_is_sent(void **state)
{
	struct test_job_spec spec = spec_of(4, 2, sizes[6]);
	struct cluster c;

	(void)state;
	for (uint32_t who = 0; who < 4; who++) {
		uint64_t before;

		set_up(&c, &spec, 2, 8 + who);
		for (uint32_t i = 0; i < 4; i++)
			begin(&c, &c.part[i], 1, i != who);
		before = atomic_load(&fake_net_of(c.net, 0)->sent_bytes);
		finish(&c);
		assert_all(&c, STRIPE_DISSENTED);
		assert_true(atomic_load(&fake_net_of(c.net, 0)->sent_bytes) - before <= 3 * 16);
		assert_int_equal(fake_net_messages(c.net), 4 * 3);
		begin_all(&c, 2);
		finish(&c);
		assert_complete(&c);
		tear_down(&c);
	}
}

static void different_versions_make_all_dissent_and_the_next_goes_through(void **state)
{
	struct test_job_spec spec = spec_of(3, 1, sizes[6]);
	struct cluster c;

	(void)state;
	set_up(&c, &spec, 2, 9);
	for (uint32_t i = 0; i < 3; i++)
		begin(&c, &c.part[i], i == 1 ? 6 : 5, true);
	finish(&c);
	assert_all(&c, STRIPE_DISSENTED);
	begin_all(&c, 7);
	finish(&c);
	assert_complete(&c);
	tear_down(&c);
}

/* --- failures --- */

/* Failed copies anywhere in the block order. */
static void a_failed_copy_fails_all_members_and_the_exchange_still_ends(void **state)
{
	struct test_job_spec spec = spec_of(5, 2, sizes[6]);
	uint64_t seed = test_random_seed("stripe");
	struct cluster c;

	(void)state;
	for (uint32_t who = 0; who < 5; who++)
		for (uint32_t blocks = 1; blocks < 4; blocks++) {
			set_up(&c, &spec, 2, seed++);
			begin_all(&c, 1);
			if (c.part[who].plan.blocks < blocks) {
				tear_down(&c);
				continue;
			}
			c.part[who].failed = blocks;
			finish(&c);
			assert_all(&c, STRIPE_FAILED);
			assert_int_equal(fake_net_unreceived(c.net), 0);
			begin_all(&c, 2);
			finish(&c);
			assert_complete(&c);
			tear_down(&c);
		}
}

static void a_damaged_block_fails_its_receiver(void **state)
{
	struct test_job_spec spec = spec_of(4, 2, sizes[6]);
	uint64_t seed = test_random_seed("stripe");
	uint32_t tag = tag_rail(0, TAG_BLOCK), damaged = 0;

	(void)state;
	for (uint32_t from = 0; from < 4; from++)
		for (uint32_t to = 0; to < 4; to++)
			for (uint32_t nth = 1; nth < 12 && from != to; nth += 3) {
				struct cluster c;

				set_up(&c, &spec, 2, seed++);
				fake_net_corrupt(c.net, from, to, tag, nth);
				begin_all(&c, 1);
				finish(&c);
				if (fake_net_corrupted(c.net)) {
					damaged++;
					for (uint32_t i = 0; i < 4; i++)
						assert_int_equal(stripe_state(c.part[i].stripe),
						                 i == to ? STRIPE_FAILED
						                         : STRIPE_COMPLETE);
				} else {
					assert_all(&c, STRIPE_COMPLETE);
				}
				fake_net_corrupt(c.net, from, to, tag, 0);
				begin_all(&c, 2);
				finish(&c);
				assert_complete(&c);
				tear_down(&c);
			}
	assert_true(damaged > 12);
}

/* Its checksums go into the table of members that did not get those blocks. */
static void a_damaged_trailer_fails_its_receiver(void **state)
{
	struct test_job_spec spec = spec_of(4, 1, sizes[6]);
	uint64_t seed = test_random_seed("stripe");

	(void)state;
	for (uint32_t from = 0; from < 4; from++)
		for (uint32_t to = 0; to < 4; to++) {
			struct cluster c;

			if (from == to)
				continue;
			set_up(&c, &spec, 2, seed++);
			fake_net_corrupt(c.net, from, to, tag_rail(0, TAG_TRAILER), 1);
			begin_all(&c, 1);
			finish(&c);
			for (uint32_t i = 0; i < 4; i++)
				assert_int_equal(stripe_state(c.part[i].stripe),
				                 i == to ? STRIPE_FAILED : STRIPE_COMPLETE);
			tear_down(&c);
		}
}

static void a_message_of_another_size_is_an_error(void **state)
{
	struct test_job_spec spec = spec_of(3, 1, sizes[5]);

	(void)state;
	for (enum tag_kind kind = TAG_INTENT; kind <= TAG_TRAILER; kind++) {
		int rc = 0, error = 0;
		struct cluster c;

		set_up(&c, &spec, 2, 77);
		fake_net_cut(c.net, 0, 1, tag_rail(0, kind), 1);
		begin_all(&c, 1);
		for (uint32_t i = 0; i < PATIENCE / 100 && error == 0; i++) {
			struct part *p = &c.part[i % 3];

			if (p->pending > 0)
				land_one(&c, p);
			rc = stripe_step(p->stripe);
			if (rc < 0)
				error = rc;
		}
		assert_int_equal(error, FTMEM_ENET);
		tear_down(&c);
	}
}

static void a_broken_network_is_an_error(void **state)
{
	struct test_job_spec spec = spec_of(3, 1, sizes[5]);

	(void)state;
	for (uint32_t after = 0; after < 200; after += 7) {
		struct cluster c;

		set_up(&c, &spec, 2, 78);
		begin_all(&c, 1);
		for (uint32_t i = 0; i < after; i++)
			step(&c);
		fake_net_break(c.net, 1);
		if (stripe_state(c.part[1].stripe) == STRIPE_RUNNING) {
			int rc = 0;

			for (uint32_t i = 0; rc >= 0 && i < 100; i++) {
				if (c.part[1].pending > 0)
					land_one(&c, &c.part[1]);
				rc = stripe_step(c.part[1].stripe);
			}
			assert_int_equal(rc, FTMEM_ENET);
		}
		tear_down(&c);
	}
}

/* Silent from some moment on: nobody who lacks something calls the version complete,
 * and who is asked for whom it waits names somebody. Members that name the silent one,
 * or had all from it before. */
static uint32_t wait_for_silent(uint32_t n, uint32_t who, uint32_t after, uint64_t seed)
{
	struct test_job_spec spec = spec_of(n, 1, sizes[6]);
	uint32_t named = 0;
	struct cluster c;

	set_up(&c, &spec, 2, seed);
	begin_all(&c, 1);
	for (uint32_t i = 0; i < after; i++)
		step(&c);
	fake_net_silence(c.net, who);
	for (uint32_t i = 0; i < 4000; i++)
		step(&c);
	for (uint32_t i = 0; i < n; i++) {
		int64_t rank = stripe_waits_for(c.part[i].stripe);

		if (i == who)
			continue;
		if (stripe_state(c.part[i].stripe) == STRIPE_COMPLETE) {
			assert_true(test_job_filled(&c.part[i].slot, i, 1));
			named++;
			continue;
		}
		assert_int_equal(stripe_state(c.part[i].stripe), STRIPE_RUNNING);
		assert_true(rank >= 0 && rank != i);
		named += rank == who;
	}
	tear_down(&c);
	return named;
}

static void a_silent_member_is_waited_for_and_named(void **state)
{
	uint64_t seed = test_random_seed("stripe");

	(void)state;
	for (uint32_t after = 0; after < 200; after += 23)
		for (uint32_t who = 0; who < 2; who++)
			assert_int_equal(wait_for_silent(2, who, after, seed++), 1);
	/* What stalls a third one is for a fourth to say; but before blocks flow it is
	 * clear to all. */
	for (uint32_t who = 0; who < 4; who++)
		assert_int_equal(wait_for_silent(4, who, 0, seed++), 3);
	for (uint32_t after = 0; after < 400; after += 57)
		for (uint32_t who = 0; who < 4; who++)
			assert_true(wait_for_silent(4, who, after, seed++) > 0);
}

static void nobody_is_waited_for_when_all_is_done(void **state)
{
	struct test_job_spec spec = spec_of(3, 1, sizes[5]);
	struct cluster c;

	(void)state;
	set_up(&c, &spec, 2, 3);
	assert_int_equal(stripe_waits_for(c.part[0].stripe), -1);
	assert_int_equal(stripe_step(c.part[0].stripe), 0);
	begin_all(&c, 1);
	finish(&c);
	assert_int_equal(stripe_waits_for(c.part[0].stripe), -1);
	assert_int_equal(stripe_step(c.part[0].stripe), 0);
	tear_down(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_that_skips_makes_all_dissent_before_anything_is_sent),
		cmocka_unit_test(different_versions_make_all_dissent_and_the_next_goes_through),
		cmocka_unit_test(a_failed_copy_fails_all_members_and_the_exchange_still_ends),
		cmocka_unit_test(a_damaged_block_fails_its_receiver),
		cmocka_unit_test(a_damaged_trailer_fails_its_receiver),
		cmocka_unit_test(a_message_of_another_size_is_an_error),
		cmocka_unit_test(a_broken_network_is_an_error),
		cmocka_unit_test(a_silent_member_is_waited_for_and_named),
		cmocka_unit_test(nobody_is_waited_for_when_all_is_done),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
