/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The routes of all ranks of a job that is made up, driven in one loop: what each rank
 * takes out of its own is put into the one it is for, and counted.
 */
#ifndef FTMEM_TEST_FABRIC_H
#define FTMEM_TEST_FABRIC_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "route.h"

struct fabric_count {
	uint64_t messages, bytes; /* sent */
	uint64_t received;        /* bytes */
	uint64_t peak;            /* of route_memory() */
};

struct fabric {
	uint32_t ranks;
	struct route **route;       /* [ranks] */
	struct fabric_count *count; /* [ranks] */
	bool *done;                 /* [ranks] */
	/* What a message of the way back would have, if answers are only stand-ins; or NULL. */
	uint64_t (*weigh)(const uint8_t *message, uint64_t bytes);
	/* Sees what each rank gets; or NULL. */
	void (*watch)(uint32_t rank, const uint8_t *in, uint64_t bytes);
};

static inline void fabric_init(struct fabric *f, uint32_t ranks)
{
	memset(f, 0, sizeof(*f));
	f->ranks = ranks;
	f->route = calloc((size_t)ranks + 1, sizeof(struct route *));
	f->count = calloc((size_t)ranks + 1, sizeof(*f->count));
	f->done = calloc((size_t)ranks + 1, sizeof(*f->done));
	assert_true(f->route && f->count && f->done);
	for (uint32_t i = 0; i < ranks; i++)
		assert_int_equal(route_new(i, ranks, &f->route[i]), 0);
}

static inline void fabric_deinit(struct fabric *f)
{
	for (uint32_t i = 0; i < f->ranks; i++)
		route_free(f->route[i]);
	free(f->route);
	free(f->count);
	free(f->done);
}

static inline void fabric_measure(struct fabric *f, uint32_t rank)
{
	uint64_t now = route_memory(f->route[rank]);

	f->count[rank].peak = now > f->count[rank].peak ? now : f->count[rank].peak;
}

static inline void fabric_take(struct fabric *f, uint32_t rank, uint32_t round, bool back,
                               const uint8_t **out, uint64_t *bytes)
{
	assert_int_equal(back ? route_back_out(f->route[rank], round, out, bytes)
	                      : route_out(f->route[rank], round, out, bytes),
	                 0);
	f->count[rank].messages++;
	f->count[rank].bytes += back && f->weigh ? f->weigh(*out, *bytes) : *bytes;
	fabric_measure(f, rank);
}

static inline void fabric_put(struct fabric *f, uint32_t rank, uint32_t round, bool back,
                              const uint8_t *in, uint64_t bytes)
{
	f->count[rank].received += back && f->weigh ? f->weigh(in, bytes) : bytes;
	if (f->watch)
		f->watch(rank, in, bytes);
	assert_int_equal(back ? route_back_in(f->route[rank], round, in, bytes)
	                      : route_in(f->route[rank], round, in, bytes),
	                 0);
	fabric_measure(f, rank);
}

/* Ranks that send to each other in a round form circles. In a circle each gets its message
 * after it was read itself; only the first one's has to be kept. */
static inline void fabric_circle(struct fabric *f, uint32_t first, uint32_t round, bool back)
{
	const uint8_t *out = NULL;
	uint8_t *kept;
	uint64_t bytes = 0, kept_bytes;
	uint32_t rank = first, peer;

	fabric_take(f, first, round, back, &out, &kept_bytes);
	kept = malloc(kept_bytes ? kept_bytes : 1);
	assert_non_null(kept);
	if (kept_bytes)
		memcpy(kept, out, kept_bytes);
	for (;; rank = peer) {
		peer = back ? route_to(rank, f->ranks, round) : route_from(rank, f->ranks, round);
		f->done[rank] = true;
		if (peer == first)
			break;
		fabric_take(f, peer, round, back, &out, &bytes);
		fabric_put(f, rank, round, back, out, bytes);
	}
	fabric_put(f, rank, round, back, kept, kept_bytes);
	free(kept);
}

static inline void fabric_round(struct fabric *f, uint32_t round, bool back)
{
	memset(f->done, 0, f->ranks * sizeof(*f->done));
	for (uint32_t i = 0; i < f->ranks; i++)
		if (!f->done[i])
			fabric_circle(f, i, round, back);
}

static inline void fabric_forward(struct fabric *f)
{
	for (uint32_t round = 0; round < route_rounds(f->ranks); round++)
		fabric_round(f, round, false);
}

static inline void fabric_back(struct fabric *f)
{
	for (uint32_t round = route_rounds(f->ranks); round-- > 0;)
		fabric_round(f, round, true);
}

#endif
