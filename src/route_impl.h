/* SPDX-License-Identifier: BSD-3-Clause */
/* What the two ways of a route share: there, route.c, and back, route_back.c. */
#ifndef FTMEM_ROUTE_IMPL_H
#define FTMEM_ROUTE_IMPL_H

#include <string.h>

#include "bytes.h"
#include "route.h"

/*
 * A message of the way there: uint32_t records, then of each uint32_t dest, bytes, count
 * and the record. Of the way back: of each record that came in the round uint32_t number
 * (in the order in which they came), index, bytes and the answer.
 */
#define ROUTE_HEAD        12u
#define ROUTE_NUMBER_BITS 26
#define ROUTE_NUMBER_MAX  ((UINT32_C(1) << ROUTE_NUMBER_BITS) - 1)

struct route_slot {
	uint32_t hash;
	uint32_t number; /* + 1; 0: free */
};

/* Distinct records that leave this rank in one round, or stay. */
struct route_bucket {
	struct bytes message;    /* as it will be sent; those that stay look the same */
	struct bytes at;         /* uint64_t of each: where it is in the message */
	uint32_t count;          /* stays when the bucket is emptied */
	uint32_t slots;          /* a power of two, or 0 */
	struct route_slot *slot; /* owned: a hash table of them */
};

/* What became of a record that was put, or that came. */
struct route_member {
	uint32_t bucket : 32 - ROUTE_NUMBER_BITS;
	uint32_t number : ROUTE_NUMBER_BITS;
	uint32_t base; /* its index begins there among all that melted */
};

/* Of a round; the last one, which is no round: of this rank itself. */
struct route_lane {
	struct route_bucket bucket; /* what leaves in it; stays */
	struct bytes member;        /* struct route_member of each that came in it; was put */
	struct bytes back;          /* answers to these, as they will be sent */
};

struct route {
	uint32_t rank, ranks, rounds;
	uint64_t *answer_at; /* [arrived] + 1, in answers; 0: none. Owned, as below */
	struct bytes answers;
	uint64_t *reply_at;       /* [put] + 1, in the last lane's back */
	struct route_lane lane[]; /* [rounds + 1] */
};

static inline uint32_t route_load(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static inline void route_store(uint8_t *at, uint32_t value)
{
	memcpy(at, &value, sizeof(value));
}

static inline uint32_t route_members(const struct route_lane *l)
{
	return (uint32_t)(l->member.size / sizeof(struct route_member));
}

static inline const struct route_member *route_member(const struct route_lane *l, uint32_t i)
{
	return &((const struct route_member *)(const void *)l->member.at)[i];
}

/* Frees all but the number of its records. */
void route_bucket_empty(struct route_bucket *b);
/* ENET that names the peer. */
int route_nonsense(uint32_t peer, const char *what);

#endif
