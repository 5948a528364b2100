/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * All members of all rails of a job exchange on one thread, in an order that a seed
 * says. Blocks land in a random order too, with the checksums that a copy backend
 * takes.
 */
#ifndef FTMEM_TEST_STRIPE_CLUSTER_H
#define FTMEM_TEST_STRIPE_CLUSTER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "checksum.h"
#include "error.h"
#include "fake_net.h"
#include "stripe.h"
#include "tags.h"
#include "test_job.h"
#include "test_random.h"

/* Calls of the members until they must all be through. */
#define PATIENCE 4000000u

/* One rank's part in one rail. */
struct part {
	uint32_t rank, rail;
	const struct arena *arena;
	struct slot slot;
	struct stripe *stripe;
	struct copy_plan plan;
	struct copy_job job;
	_Atomic unsigned char *landed;
	uint8_t *data;               /* what the copy takes */
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

static inline void add_part(struct cluster *c, uint32_t rank, uint32_t rail, uint32_t window)
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
	p->data = malloc(a->shape.data_bytes + 1);
	assert_non_null(p->landed);
	assert_non_null(p->data);
	assert_int_equal(stripe_new(&config, &p->stripe), 0);
}

static inline void set_up(struct cluster *c, const struct test_job_spec *spec, uint32_t window,
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

static inline void tear_down(struct cluster *c)
{
	for (uint32_t i = 0; i < c->parts; i++) {
		if (stripe_busy(c->part[i].stripe))
			test_job_given_up(c->part[i].stripe);
		stripe_free(c->part[i].stripe);
		free((void *)c->part[i].landed);
		free(c->part[i].data);
	}
	fake_net_free(c->net);
	test_job_deinit(&c->job);
}

/* --- a copy backend of our own --- */

static inline void land(struct part *p, uint32_t index)
{
	const struct rail *r = &p->arena->shape.rail[0];
	uint32_t me = p->arena->shape.member[0], k = rail_k(r);
	uint32_t chunk = index % k, row = index / k, len = rail_data_len(r, me, chunk, row);
	uint64_t sum = slot_data_sum_index(&p->arena->shape, 0, me, chunk, row);
	uint64_t offset = len ? rail_data_offset(r, me, chunk, row) : 0;

	if (p->failed > 0) {
		p->failed--;
		atomic_store(&p->landed[index], COPY_FAILED);
	} else {
		memcpy(p->slot.data + offset, p->data + offset, len);
		p->slot.sums[sum] = checksum(p->slot.data + offset, len);
		atomic_store(&p->landed[index], COPY_LANDED);
	}
	p->pending--;
}

/* A block of those that have not landed. */
static inline void land_one(struct cluster *c, struct part *p)
{
	uint32_t turn = test_random_below(&c->random, p->pending), i = 0;

	while (atomic_load(&p->landed[i]) != COPY_PENDING || turn > 0)
		turn -= atomic_load(&p->landed[i++]) == COPY_PENDING;
	land(p, i);
}

static inline void begin(struct cluster *c, struct part *p, uint64_t version, bool go)
{
	p->go = go;
	p->slot = p->arena->slot[version % 2];
	p->pending = go ? p->plan.blocks : 0;
	memset((void *)p->landed, COPY_PENDING, p->plan.blocks);
	p->job = (struct copy_job){
		.plan = &p->plan, .data = p->slot.data, .landed = p->landed};
	if (p->rail == 0)
		test_job_data(p->rank, version, p->data, p->arena->shape.data_bytes);
	stripe_begin(p->stripe, version, go, &p->slot, p->rail == 0 ? &p->job : NULL);
	c->version = version;
}

static inline void begin_all(struct cluster *c, uint64_t version)
{
	for (uint32_t i = 0; i < c->parts; i++)
		begin(c, &c->part[i], version, true);
}

/* What remains in the slots of former versions must not be taken for this one's. */
static inline void spoil(struct cluster *c)
{
	for (uint32_t i = 0; i < c->job.ranks; i++)
		for (int j = 0; j < 2; j++) {
			const struct slot *s = &c->job.arena[i]->slot[j];

			memset(s->base + ARENA_PAGE, 0x99, s->shape->slot_bytes - ARENA_PAGE);
		}
}

/* Lets something happen; false if all are through. */
static inline bool step(struct cluster *c)
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

static inline void finish(struct cluster *c)
{
	for (uint32_t i = 0; i < PATIENCE; i++)
		if (!step(c))
			return;
	fail_msg("the exchange does not end");
}

static inline void assert_all(const struct cluster *c, enum stripe_state state)
{
	for (uint32_t i = 0; i < c->parts; i++)
		assert_int_equal(stripe_state(c->part[i].stripe), state);
}

static inline void assert_complete(struct cluster *c)
{
	assert_all(c, STRIPE_COMPLETE);
	for (uint32_t i = 0; i < c->job.ranks; i++)
		assert_true(test_job_filled(&c->job.arena[i]->slot[c->version % 2], i, c->version));
	for (uint32_t i = 0; i < c->parts; i++)
		assert_false(stripe_busy(c->part[i].stripe));
	assert_int_equal(fake_net_under_way(c->net), 0);
	assert_int_equal(fake_net_unreceived(c->net), 0);
}

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

static inline struct test_job_spec spec_of(uint32_t n, uint32_t m, const uint64_t *bytes)
{
	struct test_job_spec spec = {.nodes = n, .parity = m};

	memcpy(spec.data_bytes, bytes, n * sizeof(*bytes));
	return spec;
}

#endif
