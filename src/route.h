/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Brings records from the ranks that have them to the ranks that own them, and answers
 * back, in 2 * ceil(log2(ranks)) messages for each rank each way. Pure: bytes go in and
 * out, courier.h sends them.
 *
 * In round r of the way there, a rank sends to rank + 2^r (mod ranks) what still has
 * to go a distance with bit r set, as in the all-to-all of Bruck et al. (1997). Equal
 * records on their way to the same rank melt into one with a count, so what thousands
 * of replicas say alike reaches its owner as one record, and no rank is flooded. On
 * the way back, in the opposite order of rounds, an answer is given to each of those
 * that melted, and tells each its index among them: 0 .. count - 1, deterministic for
 * equal records on equal ranks.
 */
#ifndef FTMEM_ROUTE_H
#define FTMEM_ROUTE_H

#include <stdint.h>

struct route;

/* ENOMEM. */
int route_new(uint32_t rank, uint32_t ranks, struct route **out);
void route_free(struct route *r); /* accepts NULL */

/* A record of at least 1 byte for rank dest, copied. Numbered 0, 1, .. in the order
 * of calls; equal ones of one rank melt too. ENOMEM; EINVAL: dest, size. */
int route_put(struct route *r, uint32_t dest, const void *record, uint32_t bytes);

/* Rounds of each way: 0 for one rank. */
uint32_t route_rounds(uint32_t ranks);
/* To whom a rank sends, from whom it receives in that round of the way there; on the
 * way back they change roles. */
uint32_t route_to(uint32_t rank, uint32_t ranks, uint32_t round);
uint32_t route_from(uint32_t rank, uint32_t ranks, uint32_t round);

/*
 * The way there, rounds 0, 1, .. route_rounds() - 1: each rank takes out what goes, then
 * puts in what came, before the next round. *out is valid until route_in(). ENOMEM; what
 * came makes no sense: ENET; after an error a route can only be freed.
 */
int route_out(struct route *r, uint32_t round, const uint8_t **out, uint64_t *bytes);
int route_in(struct route *r, uint32_t round, const uint8_t *in, uint64_t bytes);

/* After the last round: the records that have come to this rank, in a deterministic order;
 * they stay until the first route_back_out(). */
struct route_record {
	const uint8_t *at;
	uint32_t bytes;
	uint32_t count; /* how many melted into it */
};
uint32_t route_arrived(const struct route *r);
struct route_record route_get(const struct route *r, uint32_t i);

/* The answer to arrived record i, copied; none: empty. ENOMEM. */
int route_answer(struct route *r, uint32_t i, const void *answer, uint32_t bytes);

/* The way back, rounds route_rounds() - 1 .. 0; as above, also with 0 bytes. */
int route_back_out(struct route *r, uint32_t round, const uint8_t **out, uint64_t *bytes);
int route_back_in(struct route *r, uint32_t round, const uint8_t *in, uint64_t bytes);

/* After the last round back: the answer to record number i that this rank put. */
struct route_reply {
	const uint8_t *at;
	uint32_t bytes;
	uint32_t index; /* among the count that melted */
};
struct route_reply route_reply(const struct route *r, uint32_t i);

/* Bytes it holds now, at least: for the simulator. */
uint64_t route_memory(const struct route *r);

#endif
