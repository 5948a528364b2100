/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * All members of a rail exchange on one thread, in an order that a seed says. Blocks
 * land in a random order too, with the checksums that a copy backend takes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "checksum.h"
#include "error.h"
#include "fake_net.h"
#include "stripe.h"
#include "tags.h"
#include "test_job.h"
#include "test_random.h"

/* Calls of the members until they must all be through. */
#define PATIENCE 4000000u

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

/* One rank's part in one rail. */
struct part {
	uint32_t rank, rail;
	const struct arena *arena;
	struct slot slot;
	struct stripe *stripe;
	struct copy_plan plan;
	struct copy_job job;
	_Atomic unsigned char *landed;
	uint32_t pending, failed;    /* blocks that have not landed; that are to fail */
	bool go;
};

struct cluster {
	struct test_job job;
	struct fake_net *net;
	struct limiter limiter[TEST_JOB_RANKS];
	struct part part[4 * TEST_JOB_RANKS];
	uint32_t parts;
	uint64_t random, version;
};

static void add_part(struct cluster *c, uint32_t rank, uint32_t rail, uint32_t window)
{
	struct part *p = &c->part[c->parts++];
	const struct arena *a = c->job.arena[rank];
	const struct rail *r = &a->shape.rail[rail];
	const struct stripe_config config = {
		.net = fake_net_of(c->net, rank),
		.shape = &a->shape,
		.rail = rail,
		.window = window,
		.limiter = &c->limiter[rank],
	};

	*p = (struct part){.rank = rank, .rail = rail, .arena = a};
	p->plan.blocks = rail == 0 ? rail_data_blocks(r, a->shape.member[0]) : 0;
	p->landed = calloc(p->plan.blocks + 1, 1);
	assert_non_null(p->landed);
	assert_int_equal(stripe_new(&config, &p->stripe), 0);
}

static void set_up(struct cluster *c, const struct test_job_spec *spec, uint32_t window,
                   uint64_t seed)
{
	memset(c, 0, sizeof(*c));
	c->random = seed;
	test_job_init(&c->job, spec);
	c->net = fake_net_new(c->job.ranks, seed);
	fake_net_set_chance(c->net, 20 + test_random_below(&c->random, 81));
	for (uint32_t i = 0; i < c->job.ranks; i++)
		for (uint32_t j = 0; j < c->job.arena[i]->shape.rails; j++)
			add_part(c, i, j, window);
}

static void tear_down(struct cluster *c)
{
	for (uint32_t i = 0; i < c->parts; i++) {
		if (stripe_busy(c->part[i].stripe))
			test_job_given_up(c->part[i].stripe);
		stripe_free(c->part[i].stripe);
		free((void *)c->part[i].landed);
	}
	fake_net_free(c->net);
	test_job_deinit(&c->job);
}

/* --- a copy backend of our own --- */

static void land(struct part *p, uint32_t index)
{
	const struct rail *r = &p->arena->shape.rail[0];
	uint32_t me = p->arena->shape.member[0], k = rail_k(r);
	uint32_t chunk = index % k, row = index / k, len = rail_data_len(r, me, chunk, row);
	uint64_t sum = slot_data_sum_index(&p->arena->shape, 0, me, chunk, row);

	if (p->failed > 0) {
		p->failed--;
		atomic_store(&p->landed[index], COPY_FAILED);
	} else {
		p->slot.sums[sum] = checksum(p->slot.data + (len ? rail_data_offset(r, me, chunk, row) : 0),
		                             len);
		atomic_store(&p->landed[index], COPY_LANDED);
	}
	p->pending--;
}

/* A block of those that have not landed. */
static void land_one(struct cluster *c, struct part *p)
{
	uint32_t turn = test_random_below(&c->random, p->pending), i = 0;

	while (atomic_load(&p->landed[i]) != COPY_PENDING || turn > 0)
		turn -= atomic_load(&p->landed[i++]) == COPY_PENDING;
	land(p, i);
}

static void begin(struct cluster *c, struct part *p, uint64_t version, bool go)
{
	p->go = go;
	p->slot = p->arena->slot[version % 2];
	p->pending = go ? p->plan.blocks : 0;
	memset((void *)p->landed, COPY_PENDING, p->plan.blocks);
	p->job = (struct copy_job){&p->plan, p->slot.data, NULL, p->landed};
	if (p->rail == 0)
		test_job_data(p->rank, version, p->slot.data, p->arena->shape.data_bytes);
	stripe_begin(p->stripe, version, go, &p->slot, p->rail == 0 ? &p->job : NULL);
	c->version = version;
}

static void begin_all(struct cluster *c, uint64_t version)
{
	for (uint32_t i = 0; i < c->parts; i++)
		begin(c, &c->part[i], version, true);
}

/* What remains in the slots of former versions must not be taken for this one's. */
static void spoil(struct cluster *c)
{
	for (uint32_t i = 0; i < c->job.ranks; i++)
		for (int j = 0; j < 2; j++) {
			const struct slot *s = &c->job.arena[i]->slot[j];

			memset(s->base + ARENA_PAGE, 0x99, s->shape->slot_bytes - ARENA_PAGE);
		}
}

/* Lets something happen; false if all are through. */
static bool step(struct cluster *c)
{
	struct part *p = &c->part[test_random_below(&c->random, c->parts)];
	bool running = false;

	if (p->pending > 0 && test_random_below(&c->random, 3) == 0)
		land_one(c, p);
	assert_true(stripe_step(p->stripe) >= 0);
	for (uint32_t i = 0; i < c->parts; i++)
		running = running || stripe_state(c->part[i].stripe) == STRIPE_RUNNING ||
		          c->part[i].pending > 0;
	return running;
}

static void finish(struct cluster *c)
{
	for (uint32_t i = 0; i < PATIENCE; i++)
		if (!step(c))
			return;
	fail_msg("the exchange does not end");
}

static void assert_all(const struct cluster *c, enum stripe_state state)
{
	for (uint32_t i = 0; i < c->parts; i++)
		assert_int_equal(stripe_state(c->part[i].stripe), state);
}

static void assert_complete(struct cluster *c)
{
	assert_all(c, STRIPE_COMPLETE);
	for (uint32_t i = 0; i < c->job.ranks; i++)
		assert_true(test_job_filled(&c->job.arena[i]->slot[c->version % 2], i, c->version));
	for (uint32_t i = 0; i < c->parts; i++)
		assert_false(stripe_busy(c->part[i].stripe));
	assert_int_equal(fake_net_under_way(c->net), 0);
	assert_int_equal(fake_net_unreceived(c->net), 0);
}

/* --- sizes --- */

#define BLOCK ((uint64_t)TEST_JOB_BLOCK)

static const uint64_t sizes[][6] = {
	{0, 1, 63, BLOCK * 3 + 5, BLOCK * 2, BLOCK - 1},
	{BLOCK * 9 + 1, 0, 0, 0, 0, 0},
	{1, 0, 0, 0, 0, 0},
	{0, 0, 0, 0, 0, 0},
	{64, 65, 4095, 4096, 4097, 1},
	{BLOCK * 4, BLOCK * 4, BLOCK * 4, BLOCK * 4, BLOCK * 4, BLOCK * 4},
	{3, BLOCK * 30 + 77, BLOCK * 5 - 1, 2, BLOCK * 12 + 64, BLOCK * 7},
};

#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static struct test_job_spec spec_of(uint32_t n, uint32_t m, const uint64_t *bytes)
{
	struct test_job_spec spec = {.nodes = n, .parity = m};

	memcpy(spec.data_bytes, bytes, n * sizeof(*bytes));
	return spec;
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
	uint32_t tag = tag_exchange(0, TAG_BLOCK), damaged = 0;

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
						                 i == to ? STRIPE_FAILED : STRIPE_COMPLETE);
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
			fake_net_corrupt(c.net, from, to, tag_exchange(0, TAG_TRAILER), 1);
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
		fake_net_cut(c.net, 0, 1, tag_exchange(0, kind), 1);
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
	for (uint32_t i = 0; i < 6000; i++)
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
	for (uint32_t after = 0; after < 200; after += 13)
		for (uint32_t who = 0; who < 2; who++)
			assert_int_equal(wait_for_silent(2, who, after, seed++), 1);
	/* What stalls a third one is for a fourth to say; but before blocks flow it is
	 * clear to all. */
	for (uint32_t who = 0; who < 4; who++)
		assert_int_equal(wait_for_silent(4, who, 0, seed++), 3);
	for (uint32_t after = 0; after < 400; after += 37)
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
	fake_net_of(c.net, 0)->tag_max = tag_exchange(0, TAG_TRAILER) - 1;
	assert_int_equal(stripe_new(&config, &s), FTMEM_ENET);
	assert_null(s);
	fake_net_of(c.net, 0)->tag_max = tag_exchange(0, TAG_TRAILER);
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
		cmocka_unit_test(one_that_skips_makes_all_dissent_before_anything_is_sent),
		cmocka_unit_test(different_versions_make_all_dissent_and_the_next_goes_through),
		cmocka_unit_test(a_failed_copy_fails_all_members_and_the_exchange_still_ends),
		cmocka_unit_test(a_damaged_block_fails_its_receiver),
		cmocka_unit_test(a_damaged_trailer_fails_its_receiver),
		cmocka_unit_test(a_message_of_another_size_is_an_error),
		cmocka_unit_test(a_broken_network_is_an_error),
		cmocka_unit_test(a_silent_member_is_waited_for_and_named),
		cmocka_unit_test(nobody_is_waited_for_when_all_is_done),
		cmocka_unit_test(sends_keep_to_the_ceiling),
		cmocka_unit_test(staging_is_bounded_by_the_window),
		cmocka_unit_test(a_rail_beyond_the_tags_is_refused),
		cmocka_unit_test(a_failed_allocation_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
