/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A job in which slots are lost and blocks spoiled; one thread for each agent rebuilds
 * them. What must come out are the slots as they were: data, parity, checksums.
 */
#ifndef FTMEM_TEST_REBUILD_CLUSTER_H
#define FTMEM_TEST_REBUILD_CLUSTER_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "error.h"
#include "fake_net.h"
#include "rebuild.h"
#include "test_job.h"
#include "test_random.h"

#define VERSION 3
#define SPOILED 0x99
#define BADS 256
#define BLOCK ((uint64_t)TEST_JOB_BLOCK)
/* Met by nobody unless a test wants it. */
#define LONG_MS 60000
#define SHORT_MS 200

struct cluster {
	struct test_job job;
	struct fake_net *net;
	uint8_t *whole[TEST_JOB_RANKS];   /* slot 0 of each rank as it was filled */
	bool lost[TEST_JOB_RANKS];
	uint32_t agent[TEST_JOB_RANKS];
	bool parity, fails;               /* meant to fail: then none waits for the others */
	bool one_pass;                    /* with these, by agent */
	struct rebuild_pass pass[TEST_JOB_RANKS];
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

static inline void set_up(struct cluster *c, const struct test_job_spec *spec)
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

static inline void tear_down(struct cluster *c)
{
	for (uint32_t i = 0; i < c->job.ranks; i++)
		free(c->whole[i]);
	fake_net_free(c->net);
	test_job_deinit(&c->job);
}

/* All slots as they were, those of lost ranks spoiled; a new network. */
static inline void reset(struct cluster *c, uint64_t seed)
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

static inline void lose(struct cluster *c, uint64_t mask)
{
	for (uint32_t i = 0; i < c->job.ranks; i++)
		c->lost[i] = mask >> i & 1;
}

static inline struct rail rail_of(const struct cluster *c, uint32_t id)
{
	for (uint32_t i = 0; i < c->job.ranks; i++)
		for (uint32_t j = 0; j < c->job.arena[i]->shape.rails; j++)
			if (c->job.arena[i]->rails[j].id == id)
				return c->job.arena[i]->rails[j];
	fail_msg("no rail %u", id);
	return (struct rail){0};
}

/* What agent knows of a rail's members; whether it has a part in it. */
static inline bool members_of(const struct cluster *c, const struct rail *r, uint32_t agent,
                       struct rebuild_member *member)
{
	bool mine = false;

	for (uint32_t i = 0; i < r->n; i++) {
		struct arena *a = c->job.arena[r->rank[i]];

		member[i] =
			(struct rebuild_member){c->agent[r->rank[i]], c->lost[r->rank[i]], NULL, 0};
		if (member[i].agent != agent)
			continue;
		mine = true;
		member[i].slot = &a->slot[0];
		while (a->rails[member[i].rail_index].id != r->id)
			member[i].rail_index++;
	}
	return mine;
}

static inline bool anything_missing(const struct cluster *c, const struct rail *r)
{
	bool missing = c->bads > 0 && c->rail_id == r->id;

	for (uint32_t i = 0; i < r->n; i++)
		missing = missing || c->lost[r->rank[i]];
	return missing;
}

/* All rails of an agent at once. */
static inline int rebuild_here(struct agent *a)
{
	const struct cluster *c = a->c;
	struct rail rail[TEST_JOB_RANKS];
	struct rebuild_member member[TEST_JOB_RANKS][RAIL_MAX];
	struct rebuild_config config[TEST_JOB_RANKS];
	uint32_t count = 0;

	for (uint32_t id = 0; id < map_rail_count(c->job.map); id++) {
		rail[count] = rail_of(c, id);
		if (!members_of(c, &rail[count], a->rank, member[count]) ||
		    !(c->one_pass || anything_missing(c, &rail[count])))
			continue;
		config[count] = (struct rebuild_config){
			.net = fake_net_of(c->net, a->rank),
			.rail = &rail[count],
			.member = member[count],
			.bad = c->bad,
			.bad_count = c->rail_id == id ? c->bads : 0,
			.pass = c->one_pass ? &c->pass[a->rank] : NULL,
			.parity = c->parity,
			.window = c->window,
			.timeout_ms = c->timeout_ms,
		};
		count++;
	}
	return rebuild_rails(config, count, &a->report);
}

static inline void *agent_main(void *arg)
{
	struct agent *a = arg;
	bool fails = a->c->fails || a->c->timeout_ms == SHORT_MS;

	/* What a transfer that was given up may still touch stays allocated. */
	if (fails)
		test_job_may_give_up(true);
	a->rc = rebuild_here(a);
	if (fails)
		test_job_may_give_up(false);
	snprintf(a->message, sizeof(a->message), "%.255s", error_msg());
	for (uint32_t i = 0; a->rc < 0 && a->c->fails && i < a->c->job.ranks; i++)
		fake_net_break(a->c->net, i);
	return NULL;
}

static inline void run(struct cluster *c, struct agent *a)
{
	pthread_t thread[TEST_JOB_RANKS];

	for (uint32_t i = 0; i < c->job.ranks; i++) {
		a[i] = (struct agent){.c = c, .rank = i};
		assert_int_equal(pthread_create(&thread[i], NULL, agent_main, &a[i]), 0);
	}
	for (uint32_t i = 0; i < c->job.ranks; i++)
		pthread_join(thread[i], NULL);
}

static inline bool slot_whole(const struct cluster *c, uint32_t rank)
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

static inline void assert_whole(const struct cluster *c, const struct agent *a)
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

static inline void rebuild_all(struct cluster *c)
{
	struct agent a[TEST_JOB_RANKS];

	run(c, a);
	assert_whole(c, a);
}

static const uint64_t sizes[][6] = {
	{BLOCK * 7 + 5, 1, 63, BLOCK * 3 + 5, BLOCK * 7, BLOCK - 1},
	{0, BLOCK * 9 + 1, 0, 4095, 0, BLOCK * 15},
	{BLOCK * 4, BLOCK * 4, BLOCK * 4, BLOCK * 4, BLOCK * 4, BLOCK * 4},
	{0, 0, 0, 1, 0, 0},
};

#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static inline struct test_job_spec spec_of(uint32_t n, uint32_t m, const uint64_t *bytes)
{
	struct test_job_spec spec = {.nodes = n, .parity = m};

	memcpy(spec.data_bytes, bytes, n * sizeof(*bytes));
	return spec;
}

static inline uint8_t *block_of(const struct cluster *c, const struct rail *r,
                                const struct rebuild_bad *b, uint32_t *len)
{
	const struct slot *s = &c->job.arena[r->rank[b->member]]->slot[0];

	*len = b->parity ? rail_parity_len(r, b->row)
	                 : rail_data_len(r, b->member, b->index, b->row);
	return b->parity ? slot_parity(s, 0, b->index) + b->row * BLOCK
	                 : s->data + (*len ? rail_data_offset(r, b->member, b->index, b->row) : 0);
}

/* The block of member in a row of a stripe. */
static inline struct rebuild_bad bad_at(const struct rail *r, uint32_t member, uint32_t stripe,
                                 uint32_t row)
{
	bool parity = rail_is_parity(r, stripe, member);

	return (struct rebuild_bad){member, parity, parity ? rail_parity_row(r, stripe, member)
	                                                   : rail_chunk(r, stripe, member), row};
}

/* Spoils up to m blocks of each row of each stripe, the lost ones among them. */
static inline uint32_t spoil_blocks(struct cluster *c, const struct rail *r, uint32_t losses,
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

#endif
