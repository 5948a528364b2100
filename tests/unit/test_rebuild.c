/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One thread for each agent. What a rebuild must give is the slots as they were before
 * they were spoiled: data, parity, checksums.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "error.h"
#include "fake_net.h"
#include "rebuild.h"
#include "tags.h"
#include "test_job.h"
#include "test_random.h"

#define VERSION 3
#define SPOILED 0x99
#define BADS 256
#define BLOCK ((uint64_t)TEST_JOB_BLOCK)
/* Met by nobody unless a test wants it. */
#define LONG_MS 60000
#define SHORT_MS 200

/* aligned_alloc() is made to fail like the others, as allocation 0; and where a test
 * makes a rebuild fail half-way its staging stays, for transfers may still write. */
static bool fail_aligned, gives_up;
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	void *memory = fail_aligned ? NULL : __real_aligned_alloc(align, bytes);

	if (gives_up)
		test_job_given_up(memory);
	return memory;
}

struct cluster {
	struct test_job job;
	struct fake_net *net;
	uint8_t *whole[TEST_JOB_RANKS];   /* slot 0 of each rank as it was filled */
	bool lost[TEST_JOB_RANKS];
	uint32_t agent[TEST_JOB_RANKS];
	bool parity, fails;               /* meant to fail: then none waits for the others */
	uint32_t window, timeout_ms;
	struct rebuild_bad bad[BADS];     /* of the rail rail_id */
	uint32_t bads, rail_id;
};

struct agent {
	struct cluster *c;
	uint32_t rank;
	int rc;
	struct rebuild_report report;
	char message[256];
};

static void set_up(struct cluster *c, const struct test_job_spec *spec)
{
	memset(c, 0, sizeof(*c));
	test_job_init(&c->job, spec);
	c->parity = true;
	c->window = 2;
	c->timeout_ms = LONG_MS;
	for (uint32_t i = 0; i < c->job.ranks; i++) {
		struct slot *s = &c->job.arena[i]->slot[0];

		test_job_fill(s, i, VERSION);
		c->whole[i] = malloc(s->shape->slot_bytes);
		assert_non_null(c->whole[i]);
		memcpy(c->whole[i], s->base, s->shape->slot_bytes);
		c->agent[i] = i;
	}
}

static void tear_down(struct cluster *c)
{
	for (uint32_t i = 0; i < c->job.ranks; i++)
		free(c->whole[i]);
	fake_net_free(c->net);
	test_job_deinit(&c->job);
}

/* All slots as they were, those of lost ranks spoiled; a new network. */
static void reset(struct cluster *c, uint64_t seed)
{
	for (uint32_t i = 0; i < c->job.ranks; i++) {
		struct slot *s = &c->job.arena[i]->slot[0];

		memcpy(s->base, c->whole[i], s->shape->slot_bytes);
		if (c->lost[i])
			memset(s->base + ARENA_PAGE, SPOILED, s->shape->slot_bytes - ARENA_PAGE);
	}
	fake_net_free(c->net);
	c->net = fake_net_new(c->job.ranks, seed);
	c->bads = 0;
}

static void lose(struct cluster *c, uint64_t mask)
{
	for (uint32_t i = 0; i < c->job.ranks; i++)
		c->lost[i] = mask >> i & 1;
}

static struct rail rail_of(const struct cluster *c, uint32_t id)
{
	for (uint32_t i = 0; i < c->job.ranks; i++)
		for (uint32_t j = 0; j < c->job.arena[i]->shape.rails; j++)
			if (c->job.arena[i]->rails[j].id == id)
				return c->job.arena[i]->rails[j];
	fail_msg("no rail %u", id);
	return (struct rail){0};
}

/* What agent knows of a rail's members; whether it has a part in it. */
static bool members_of(const struct cluster *c, const struct rail *r, uint32_t agent,
                       struct rebuild_member *member)
{
	bool mine = false;

	for (uint32_t i = 0; i < r->n; i++) {
		struct arena *a = c->job.arena[r->rank[i]];

		member[i] = (struct rebuild_member){c->agent[r->rank[i]], c->lost[r->rank[i]], NULL, 0};
		if (member[i].agent != agent)
			continue;
		mine = true;
		member[i].slot = &a->slot[0];
		while (a->rails[member[i].rail_index].id != r->id)
			member[i].rail_index++;
	}
	return mine;
}

static int rebuild_one(struct agent *a, uint32_t id)
{
	const struct cluster *c = a->c;
	struct rail rail = rail_of(c, id);
	struct rebuild_member member[RAIL_MAX];
	const struct rebuild_config config = {
		.net = fake_net_of(c->net, a->rank),
		.rail = &rail,
		.member = member,
		.bad = c->bad,
		.bad_count = c->bads > 0 && c->rail_id == id ? c->bads : 0,
		.parity = c->parity,
		.window = c->window,
		.timeout_ms = c->timeout_ms,
	};

	return members_of(c, &rail, a->rank, member) ? rebuild_rails(&config, 1, &a->report) : 0;
}

static void *agent_main(void *arg)
{
	struct agent *a = arg;

	for (uint32_t id = 0; a->rc == 0 && id < map_rail_count(a->c->job.map); id++)
		a->rc = rebuild_one(a, id);
	snprintf(a->message, sizeof(a->message), "%.255s", error_msg());
	for (uint32_t i = 0; a->rc < 0 && a->c->fails && i < a->c->job.ranks; i++)
		fake_net_break(a->c->net, i);
	return NULL;
}

static void run(struct cluster *c, struct agent *a)
{
	pthread_t thread[TEST_JOB_RANKS];

	gives_up = c->fails || c->timeout_ms == SHORT_MS;
	for (uint32_t i = 0; i < c->job.ranks; i++) {
		a[i] = (struct agent){.c = c, .rank = i};
		assert_int_equal(pthread_create(&thread[i], NULL, agent_main, &a[i]), 0);
	}
	for (uint32_t i = 0; i < c->job.ranks; i++)
		pthread_join(thread[i], NULL);
}

static bool slot_whole(const struct cluster *c, uint32_t rank)
{
	const struct slot *s = &c->job.arena[rank]->slot[0];
	struct slot want;
	bool same;

	slot_init(&want, s->shape, c->whole[rank]);
	same = memcmp(s->data, want.data, s->shape->data_bytes) == 0;
	if (!c->parity)
		return same;
	for (uint32_t i = 0; same && i < s->shape->rails; i++)
		same = memcmp(slot_parity(s, i, 0), slot_parity(&want, i, 0),
		              s->shape->rail[i].m * rail_parity_bytes(&s->shape->rail[i])) == 0;
	return same && memcmp(s->sums, want.sums, s->shape->sums_bytes) == 0;
}

static void assert_whole(const struct cluster *c, const struct agent *a)
{
	for (uint32_t i = 0; i < c->job.ranks; i++) {
		if (a[i].rc != 0)
			fail_msg("agent %u: %s", i, a[i].message);
		if (!slot_whole(c, i))
			fail_msg("rank %u is not what it was", i);
	}
	assert_int_equal(fake_net_under_way(c->net), 0);
	assert_int_equal(fake_net_unreceived(c->net), 0);
}

static void rebuild_all(struct cluster *c)
{
	struct agent a[TEST_JOB_RANKS];

	run(c, a);
	assert_whole(c, a);
}

/* --- losses --- */

static const uint64_t sizes[][6] = {
	{BLOCK * 7 + 5, 1, 63, BLOCK * 3 + 5, BLOCK * 7, BLOCK - 1},
	{0, BLOCK * 9 + 1, 0, 4095, 0, BLOCK * 15},
	{BLOCK * 4, BLOCK * 4, BLOCK * 4, BLOCK * 4, BLOCK * 4, BLOCK * 4},
	{0, 0, 0, 1, 0, 0},
};

#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static struct test_job_spec spec_of(uint32_t n, uint32_t m, const uint64_t *bytes)
{
	struct test_job_spec spec = {.nodes = n, .parity = m};

	memcpy(spec.data_bytes, bytes, n * sizeof(*bytes));
	return spec;
}

static void for_every_subset(struct cluster *c, uint32_t n, uint32_t m, uint64_t *random,
                             void (*fn)(struct cluster *c, uint32_t losses, uint64_t *random))
{
	for (uint64_t mask = 0; mask < UINT64_C(1) << n; mask++) {
		uint32_t losses = (uint32_t)__builtin_popcountll(mask);

		if (losses > m)
			continue;
		lose(c, mask);
		c->window = 1 + test_random_below(random, 4);
		reset(c, test_random(random));
		fn(c, losses, random);
	}
}

static void for_every_rail(void (*fn)(struct cluster *c, uint32_t losses, uint64_t *random),
                           bool parity)
{
	uint64_t random = test_random_seed("rebuild");

	for (uint32_t n = 2; n <= 6; n++)
		for (uint32_t m = 1; m <= 3 && m < n; m++)
			for (uint32_t i = 0; i < SIZES; i++) {
				struct test_job_spec spec = spec_of(n, m, sizes[i]);
				struct cluster c;

				set_up(&c, &spec);
				c.parity = parity;
				for_every_subset(&c, n, m, &random, fn);
				tear_down(&c);
			}
}

/* And every byte is counted once, by whom it was stored. */
static void rebuild_losses(struct cluster *c, uint32_t losses, uint64_t *random)
{
	struct agent a[TEST_JOB_RANKS];

	(void)losses;
	fake_net_set_chance(c->net, 30 + test_random_below(random, 71));
	run(c, a);
	assert_whole(c, a);
	for (uint32_t i = 0; i < c->job.ranks; i++) {
		const struct rail *r = &c->job.arena[i]->rails[0];

		assert_int_equal(a[i].report.data_bytes, c->lost[i] ? r->data_bytes[i] : 0);
		assert_int_equal(a[i].report.parity_bytes,
		                 c->lost[i] && c->parity ? r->m * rail_parity_bytes(r) : 0);
		assert_int_equal(a[i].report.repaired_blocks, 0);
	}
}

static void every_subset_of_m_losses_is_rebuilt(void **state)
{
	(void)state;
	for_every_rail(rebuild_losses, true);
}

static void data_alone_is_rebuilt_where_parity_is_not_wanted(void **state)
{
	(void)state;
	for_every_rail(rebuild_losses, false);
}

/* --- bad blocks --- */

static uint8_t *block_of(const struct cluster *c, const struct rail *r, const struct rebuild_bad *b,
                         uint32_t *len)
{
	const struct slot *s = &c->job.arena[r->rank[b->member]]->slot[0];

	*len = b->parity ? rail_parity_len(r, b->row) : rail_data_len(r, b->member, b->index, b->row);
	return b->parity ? slot_parity(s, 0, b->index) + b->row * BLOCK
	                 : s->data + (*len ? rail_data_offset(r, b->member, b->index, b->row) : 0);
}

/* The block of member in a row of a stripe. */
static struct rebuild_bad bad_at(const struct rail *r, uint32_t member, uint32_t stripe,
                                 uint32_t row)
{
	bool parity = rail_is_parity(r, stripe, member);

	return (struct rebuild_bad){member, parity, parity ? rail_parity_row(r, stripe, member)
	                                                   : rail_chunk(r, stripe, member), row};
}

/* Spoils up to m blocks of each row of each stripe, the lost ones among them. */
static uint32_t spoil_blocks(struct cluster *c, const struct rail *r, uint32_t losses,
                             uint64_t *random)
{
	uint32_t spoiled = 0;

	for (uint32_t stripe = 0; stripe < r->n; stripe++)
		for (uint32_t row = 0; row < rail_rows(r) && c->bads + r->m < BADS; row++) {
			uint32_t left = test_random_below(random, r->m - losses + 1);
			uint32_t first = test_random_below(random, r->n);

			for (uint32_t i = 0; left > 0 && i < r->n; i++) {
				struct rebuild_bad b = bad_at(r, (first + i) % r->n, stripe, row);
				uint32_t len;
				uint8_t *block = block_of(c, r, &b, &len);

				if (c->lost[b.member] || len == 0)
					continue;
				block[test_random_below(random, len)] ^= 0x10;
				c->bad[c->bads++] = b;
				/* What is not wanted is not repaired, but not used either. */
				spoiled += c->parity || !b.parity;
				left--;
			}
		}
	return spoiled;
}

static void rebuild_bad_blocks(struct cluster *c, uint32_t losses, uint64_t *random)
{
	struct rail r = rail_of(c, 0);
	uint32_t spoiled = spoil_blocks(c, &r, losses, random), repaired = 0;
	struct rebuild_member member[RAIL_MAX];
	struct agent a[TEST_JOB_RANKS];
	bool possible = false;

	members_of(c, &r, 0, member);
	assert_int_equal(rebuild_possible(&r, member, c->bad, c->bads, &possible), 0);
	assert_true(possible);
	run(c, a);
	assert_whole(c, a);
	for (uint32_t i = 0; i < c->job.ranks; i++)
		repaired += (uint32_t)a[i].report.repaired_blocks;
	assert_int_equal(repaired, spoiled);
}

static void bad_blocks_of_live_members_are_rebuilt_besides(void **state)
{
	(void)state;
	for_every_rail(rebuild_bad_blocks, true);
	for_every_rail(rebuild_bad_blocks, false);
}

/* --- agents --- */

static void one_rank_may_act_for_several_members(void **state)
{
	uint64_t random = test_random_seed("rebuild");

	(void)state;
	for (uint32_t run = 0; run < 100; run++) {
		uint32_t n = 2 + test_random_below(&random, 5);
		uint32_t m = 1 + test_random_below(&random, n - 1 < 3 ? n - 1 : 3);
		struct test_job_spec spec = spec_of(n, m, sizes[run % SIZES]);
		struct rail r;
		struct cluster c;
		uint64_t mask = 0;

		for (uint32_t i = 0; i < m; i++)
			mask |= UINT64_C(1) << test_random_below(&random, n);
		set_up(&c, &spec);
		lose(&c, mask);
		reset(&c, test_random(&random));
		for (uint32_t i = 0; i < n; i++)
			c.agent[i] = test_random_below(&random, n);
		r = rail_of(&c, 0);
		spoil_blocks(&c, &r, (uint32_t)__builtin_popcountll(mask), &random);
		rebuild_all(&c);
		tear_down(&c);
	}
}

/* Ranks alone on their node are members of all rails of their group. */
static void ranks_rebuild_one_rail_after_the_other(void **state)
{
	uint64_t random = test_random_seed("rebuild");

	(void)state;
	for (uint32_t run = 0; run < 40; run++) {
		struct test_job_spec spec = {.nodes = 4, .parity = 1 + run % 2, .ranks_on = {2, 1, 3, 2}};
		uint32_t ranks = 8, node, first = 0;
		struct cluster c;

		for (uint32_t i = 0; i < ranks; i++)
			spec.data_bytes[i] = test_random_below(&random, 9) * 4099;
		set_up(&c, &spec);
		/* A whole node, and ranks of it move to another number. */
		node = test_random_below(&random, 4);
		for (uint32_t i = 0; i < node; i++)
			first += spec.ranks_on[i];
		for (uint32_t i = first; i < first + spec.ranks_on[node]; i++)
			c.lost[i] = true;
		for (uint32_t i = 0; i < ranks; i++)
			c.agent[i] = test_random_below(&random, 3) == 0 ? test_random_below(&random, ranks) : i;
		reset(&c, test_random(&random));
		rebuild_all(&c);
		tear_down(&c);
	}
}

/* --- what is possible --- */

static bool possible_by_counting(const struct cluster *c, const struct rail *r)
{
	for (uint32_t stripe = 0; stripe < r->n; stripe++)
		for (uint32_t row = 0; row < rail_rows(r); row++) {
			uint32_t erased = 0;

			for (uint32_t i = 0; i < r->n; i++) {
				struct rebuild_bad at = bad_at(r, i, stripe, row);
				bool bad = c->lost[i];
				uint32_t len;

				block_of(c, r, &at, &len);
				for (uint32_t x = 0; x < c->bads; x++)
					bad = bad || memcmp(&c->bad[x], &at, sizeof(at)) == 0;
				erased += bad && len > 0;
			}
			if (erased > r->m)
				return false;
		}
	return true;
}

static void possible_is_what_counting_says(void **state)
{
	uint64_t random = test_random_seed("rebuild");
	uint32_t yes = 0, no = 0;

	(void)state;
	for (uint32_t run = 0; run < 300; run++) {
		uint32_t n = 2 + test_random_below(&random, 5), m = 1 + test_random_below(&random, n - 1);
		struct test_job_spec spec = spec_of(n, m, sizes[run % SIZES]);
		struct rebuild_member member[RAIL_MAX];
		struct cluster c;
		struct rail r;
		bool possible = false;

		memset(&c, 0, sizeof(c));
		test_job_init(&c.job, &spec);
		lose(&c, test_random_below(&random, 3) == 0 ? UINT64_C(1) << test_random_below(&random, n)
		                                            : 0);
		r = rail_of(&c, 0);
		while (rail_rows(&r) > 0 && c.bads < n * 2)
			c.bad[c.bads++] = bad_at(&r, test_random_below(&random, n),
			                         test_random_below(&random, n),
			                         test_random_below(&random, rail_rows(&r)));
		members_of(&c, &r, 0, member);
		assert_int_equal(rebuild_possible(&r, member, c.bad, c.bads, &possible), 0);
		assert_int_equal(possible, possible_by_counting(&c, &r));
		yes += possible;
		no += !possible;
		tear_down(&c);
	}
	assert_true(yes > 20 && no > 20);
}

static void more_than_m_losses_are_impossible(void **state)
{
	struct test_job_spec spec = spec_of(5, 2, sizes[2]);
	struct rebuild_member member[RAIL_MAX];
	struct cluster c;
	struct rail r;

	(void)state;
	set_up(&c, &spec);
	r = rail_of(&c, 0);
	for (uint64_t mask = 0; mask < 32; mask++) {
		bool possible;

		lose(&c, mask);
		members_of(&c, &r, 0, member);
		assert_int_equal(rebuild_possible(&r, member, NULL, 0, &possible), 0);
		assert_int_equal(possible, __builtin_popcountll(mask) <= 2);
	}
	tear_down(&c);
}

/* --- failures --- */

/* A block of a live member that is wrong, though nobody says so. */
static void wrong_sources_are_found_out(void **state)
{
	struct test_job_spec spec = spec_of(4, 2, sizes[2]);
	uint64_t random = test_random_seed("rebuild");
	uint32_t found = 0;

	(void)state;
	for (uint32_t chunk = 0; chunk < 2; chunk++)
		for (uint32_t row = 0; row < 4; row++) {
			struct agent a[TEST_JOB_RANKS];
			struct cluster c;
			struct rail r;

			set_up(&c, &spec);
			lose(&c, 2);
			reset(&c, test_random(&random));
			r = rail_of(&c, 0);
			c.fails = true;
			c.job.arena[0]->slot[0].data[rail_data_offset(&r, 0, chunk, row)] ^= 1;
			run(&c, a);
			for (uint32_t i = 0; i < 4; i++) {
				if (a[i].rc != FTMEM_ECORRUPT)
					continue;
				found++;
				/* Of its owner as it arrives, else of what is made of it. */
				assert_true(strstr(a[i].message, "rank 0") || strstr(a[i].message, "rank 1"));
			}
			tear_down(&c);
		}
	assert_true(found > 0);
}

static void data_damaged_on_its_way_is_found_out(void **state)
{
	struct test_job_spec spec = spec_of(4, 1, sizes[2]);
	uint64_t random = test_random_seed("rebuild");
	uint32_t found = 0;

	(void)state;
	for (uint32_t nth = 1; nth < 40; nth++) {
		struct agent a[TEST_JOB_RANKS];
		struct cluster c;
		bool corrupt = false;

		set_up(&c, &spec);
		c.parity = false;
		lose(&c, 4);
		reset(&c, test_random(&random));
		c.fails = true;
		fake_net_corrupt(c.net, FAKE_NET_ANY, FAKE_NET_ANY, FAKE_NET_ANY, nth);
		run(&c, a);
		for (uint32_t i = 0; i < 4; i++)
			corrupt = corrupt || a[i].rc == FTMEM_ECORRUPT;
		assert_int_equal(corrupt, fake_net_corrupted(c.net));
		found += corrupt;
		if (!corrupt)
			assert_whole(&c, a);
		tear_down(&c);
	}
	assert_true(found > 5);
}

/* Whoever has a part waits no longer than the timeout, and who waits for the silent one
 * directly names it. */
static void a_silent_agent_is_named(void **state)
{
	struct test_job_spec spec = spec_of(2, 1, sizes[2]);
	struct agent a[TEST_JOB_RANKS];
	struct cluster c;

	(void)state;
	for (uint32_t lost = 0; lost < 2; lost++) {
		char name[16];

		set_up(&c, &spec);
		lose(&c, 1u << lost);
		reset(&c, 5);
		c.timeout_ms = SHORT_MS;
		fake_net_silence(c.net, 1 - lost);
		run(&c, a);
		snprintf(name, sizeof(name), "rank %u", 1 - lost);
		assert_int_equal(a[lost].rc, FTMEM_ETIMEOUT);
		assert_non_null(strstr(a[lost].message, name));
		tear_down(&c);
	}
	spec = spec_of(4, 1, sizes[2]);
	set_up(&c, &spec);
	lose(&c, 8);
	reset(&c, 5);
	c.timeout_ms = SHORT_MS;
	fake_net_hold(c.net, 2, FAKE_NET_ANY, FAKE_NET_ANY);
	run(&c, a);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(a[i].rc, FTMEM_ETIMEOUT);
	assert_true(strstr(a[0].message, "rank 2") || strstr(a[1].message, "rank 2"));
	tear_down(&c);
}

static void a_broken_network_is_an_error(void **state)
{
	struct test_job_spec spec = spec_of(3, 1, sizes[2]);
	struct agent a[TEST_JOB_RANKS];
	struct cluster c;

	(void)state;
	set_up(&c, &spec);
	lose(&c, 1);
	reset(&c, 5);
	c.timeout_ms = SHORT_MS;
	fake_net_break(c.net, 1);
	run(&c, a);
	assert_int_equal(a[1].rc, FTMEM_ENET);
	assert_int_equal(a[0].rc, FTMEM_ETIMEOUT);
	tear_down(&c);
}

static void without_parity_there_is_nothing_to_do(void **state)
{
	struct rail rail = {.n = 1, .block_bytes = TEST_JOB_BLOCK};
	struct rebuild_member member = {0};
	const struct rebuild_config config = {.rail = &rail, .member = &member, .window = 1};
	struct rebuild_report report = {0};

	(void)state;
	assert_int_equal(rebuild_rails(&config, 1, &report), 0);
	assert_int_equal(report.data_bytes, 0);
}

/* One rank acts for all: nothing is sent, so that allocations are all its own. */
static void a_failed_allocation_is_told_and_leaves_nothing(void **state)
{
	struct test_job_spec spec = spec_of(4, 2, sizes[2]);
	struct agent a = {0};
	struct cluster c;
	struct rail r;
	uint64_t random = 3;
	bool possible;
	unsigned n;

	(void)state;
	set_up(&c, &spec);
	memset(c.agent, 0, sizeof(c.agent));
	lose(&c, 4);
	reset(&c, 1);
	r = rail_of(&c, 0);
	spoil_blocks(&c, &r, 1, &random);
	a = (struct agent){.c = &c, .rc = FTMEM_ENOMEM};
	for (n = 1; a.rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		a.rc = rebuild_one(&a, 0);
		alloc_fail_off();
	}
	assert_int_equal(a.rc, 0);
	assert_true(n > 6);
	assert_true(slot_whole(&c, 2));
	fail_aligned = true;
	assert_int_equal(rebuild_one(&a, 0), FTMEM_ENOMEM);
	assert_non_null(strstr(error_msg(), "rail 0"));
	fail_aligned = false;
	alloc_fail_at(1);
	assert_int_equal(rebuild_possible(&r, (struct rebuild_member[4]){0}, c.bad, c.bads, &possible),
	                 FTMEM_ENOMEM);
	alloc_fail_off();
	tear_down(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_subset_of_m_losses_is_rebuilt),
		cmocka_unit_test(data_alone_is_rebuilt_where_parity_is_not_wanted),
		cmocka_unit_test(bad_blocks_of_live_members_are_rebuilt_besides),
		cmocka_unit_test(one_rank_may_act_for_several_members),
		cmocka_unit_test(ranks_rebuild_one_rail_after_the_other),
		cmocka_unit_test(possible_is_what_counting_says),
		cmocka_unit_test(more_than_m_losses_are_impossible),
		cmocka_unit_test(wrong_sources_are_found_out),
		cmocka_unit_test(data_damaged_on_its_way_is_found_out),
		cmocka_unit_test(a_silent_agent_is_named),
		cmocka_unit_test(a_broken_network_is_an_error),
		cmocka_unit_test(without_parity_there_is_nothing_to_do),
		cmocka_unit_test(a_failed_allocation_is_told_and_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
