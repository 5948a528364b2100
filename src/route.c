/* SPDX-License-Identifier: BSD-3-Clause */
#include "route.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

#include "checksum.h"
#include "error.h"
#include "route_impl.h"

#define COUNT_AT  8u
#define SLOTS_MIN 8u

uint32_t route_rounds(uint32_t ranks)
{
	return ranks > 1 ? 32 - (uint32_t)__builtin_clz(ranks - 1) : 0;
}

uint32_t route_to(uint32_t rank, uint32_t ranks, uint32_t round)
{
	return (uint32_t)((rank + (UINT64_C(1) << round)) % ranks);
}

uint32_t route_from(uint32_t rank, uint32_t ranks, uint32_t round)
{
	return (uint32_t)(((uint64_t)rank + ranks - (UINT64_C(1) << round)) % ranks);
}

int route_nonsense(uint32_t peer, const char *what)
{
	return error_set(FTMEM_ENET,
	                 "%s from rank %" PRIu32 " make no sense: do all ranks run the same "
	                 "libftmem?",
	                 what, peer);
}

/* --- melting --- */

static uint64_t record_at(const struct route_bucket *b, uint32_t number)
{
	return ((const uint64_t *)(const void *)b->at.at)[number];
}

/* Nothing is added any more. */
static void bucket_close(struct route_bucket *b)
{
	free(b->slot);
	b->slot = NULL;
	b->slots = 0;
}

void route_bucket_empty(struct route_bucket *b)
{
	bucket_close(b);
	bytes_deinit(&b->at);
	bytes_deinit(&b->message);
}

/* Where the record is in the table, or a free slot for it. */
static struct route_slot *bucket_find(const struct route_bucket *b, uint32_t hash, uint32_t dest,
                                      const void *record, uint32_t bytes)
{
	for (uint32_t i = hash;; i++) {
		struct route_slot *s = &b->slot[i & (b->slots - 1)];
		const uint8_t *at;

		if (s->number == 0)
			return s;
		if (s->hash != hash)
			continue;
		at = b->message.at + record_at(b, s->number - 1);
		if (route_load(at) == dest && route_load(at + 4) == bytes
		    && memcmp(at + ROUTE_HEAD, record, bytes) == 0)
			return s;
	}
}

/* A free slot for one more, at most three quarters taken. */
static int bucket_room(struct route_bucket *b)
{
	uint32_t slots = b->slots ? 2 * b->slots : SLOTS_MIN;
	struct route_slot *slot;

	if (b->count == ROUTE_NUMBER_MAX)
		return error_set(FTMEM_ENOMEM,
		                 "more than %" PRIu32 " records on one way through "
		                 "a rank: register fewer regions",
		                 ROUTE_NUMBER_MAX);
	if (b->count + 1 <= b->slots / 4 * 3)
		return 0;
	slot = calloc(slots, sizeof(*slot));
	if (!slot)
		return error_set(FTMEM_ENOMEM, "no memory for a table of %" PRIu32 " records",
		                 slots);
	for (uint32_t i = 0; i < b->slots; i++) {
		uint32_t to = b->slot[i].hash;

		if (b->slot[i].number == 0)
			continue;
		while (slot[to & (slots - 1)].number)
			to++;
		slot[to & (slots - 1)] = b->slot[i];
	}
	free(b->slot);
	b->slot = slot;
	b->slots = slots;
	return 0;
}

/* The number of records that leads a message. */
static int bucket_lead(struct route_bucket *b)
{
	if (b->message.size == 0 && bytes_put_u32(&b->message, 0) < 0)
		return FTMEM_ENOMEM;
	route_store(b->message.at, b->count);
	return 0;
}

static int bucket_append(struct route_bucket *b, uint32_t dest, uint32_t count, const void *record,
                         uint32_t bytes)
{
	uint8_t *to;

	if (bucket_lead(b) < 0 || bytes_put_u64(&b->at, b->message.size) < 0)
		return FTMEM_ENOMEM;
	to = bytes_grow(&b->message, ROUTE_HEAD + (uint64_t)bytes);
	if (!to) {
		b->at.size -= sizeof(uint64_t);
		return FTMEM_ENOMEM;
	}
	route_store(to, dest);
	route_store(to + 4, bytes);
	route_store(to + COUNT_AT, count);
	memcpy(to + ROUTE_HEAD, record, bytes);
	b->count++;
	return 0;
}

/* On error b is as it was. */
static int bucket_add(struct route_bucket *b, uint32_t dest, uint32_t count, const void *record,
                      uint32_t bytes, struct route_member *m)
{
	uint32_t hash = checksum_more(dest, record, bytes);
	struct route_slot *s;
	uint8_t *at;
	int rc = bucket_room(b);

	if (rc < 0)
		return rc;
	s = bucket_find(b, hash, dest, record, bytes);
	if (s->number == 0) {
		rc = bucket_append(b, dest, count, record, bytes);
		if (rc < 0)
			return rc;
		*s = (struct route_slot){hash, b->count};
		m->number = b->count - 1;
		m->base = 0;
		return 0;
	}
	m->number = s->number - 1;
	at = b->message.at + record_at(b, m->number) + COUNT_AT;
	m->base = route_load(at);
	if (count > UINT32_MAX - m->base)
		return error_set(FTMEM_ENET, "more than %" PRIu32 " equal records", UINT32_MAX);
	route_store(at, m->base + count);
	return 0;
}

/* --- the way there --- */

int route_new(uint32_t rank, uint32_t ranks, struct route **out)
{
	uint32_t rounds = route_rounds(ranks);
	struct route *r = calloc(1, sizeof(*r) + (rounds + 1) * sizeof(r->lane[0]));

	*out = r;
	if (!r)
		return error_set(FTMEM_ENOMEM, "no memory for the ways of records");
	r->rank = rank;
	r->ranks = ranks;
	r->rounds = rounds;
	return 0;
}

void route_free(struct route *r)
{
	if (!r)
		return;
	for (uint32_t i = 0; i <= r->rounds; i++) {
		route_bucket_empty(&r->lane[i].bucket);
		bytes_deinit(&r->lane[i].member);
		bytes_deinit(&r->lane[i].back);
	}
	bytes_deinit(&r->answers);
	free(r->answer_at);
	free(r->reply_at);
	free(r);
}

static uint32_t distance(const struct route *r, uint32_t dest)
{
	return dest >= r->rank ? dest - r->rank : dest + (r->ranks - r->rank);
}

/* Into the bucket it leaves by; list: of those that came so. On error all is as it was:
 * the first bytes_put() makes room, so that the last one cannot fail. */
static int take(struct route *r, struct bytes *list, uint32_t dest, uint32_t count,
                const void *record, uint32_t bytes)
{
	uint32_t far = distance(r, dest);
	uint32_t bucket = far ? (uint32_t)__builtin_ctz(far) : r->rounds;
	struct route_member m = {.bucket = bucket};
	int rc = bytes_put(list, &m, sizeof(m));

	if (rc < 0)
		return rc;
	rc = bucket_add(&r->lane[bucket].bucket, dest, count, record, bytes, &m);
	list->size -= sizeof(m);
	return rc < 0 ? rc : bytes_put(list, &m, sizeof(m));
}

int route_put(struct route *r, uint32_t dest, const void *record, uint32_t bytes)
{
	if (dest >= r->ranks || bytes == 0)
		return error_set(FTMEM_EINVAL,
		                 "a record of %" PRIu32 " bytes for rank %" PRIu32 " of %" PRIu32,
		                 bytes, dest, r->ranks);
	return take(r, &r->lane[r->rounds].member, dest, 1, record, bytes);
}

int route_out(struct route *r, uint32_t round, const uint8_t **out, uint64_t *bytes)
{
	struct route_bucket *b = &r->lane[round].bucket;
	int rc = bucket_lead(b);

	if (rc < 0)
		return rc;
	bucket_close(b);
	bytes_deinit(&b->at);
	*out = b->message.at;
	*bytes = b->message.size;
	return 0;
}

/* Whether a record for dest may come in that round: it went as far as it had to. */
static bool on_its_way(const struct route *r, uint32_t round, uint32_t dest)
{
	uint64_t step = UINT64_C(1) << round, far;

	if (dest >= r->ranks)
		return false;
	far = distance(r, dest);
	return far % (2 * step) == 0 && far + step < r->ranks;
}

int route_in(struct route *r, uint32_t round, const uint8_t *in, uint64_t bytes)
{
	struct bytes_reader reader = {.at = in, .left = bytes};
	uint32_t records = bytes_get_u32(&reader);
	uint32_t peer = route_from(r->rank, r->ranks, round);
	int rc = 0;

	route_bucket_empty(&r->lane[round].bucket);
	for (uint32_t i = 0; rc == 0 && i < records; i++) {
		uint32_t dest = bytes_get_u32(&reader);
		uint32_t size = bytes_get_u32(&reader);
		uint32_t count = bytes_get_u32(&reader);
		const uint8_t *at = bytes_get(&reader, size);

		if (!at || size == 0 || count == 0 || !on_its_way(r, round, dest))
			return route_nonsense(peer, "records");
		rc = take(r, &r->lane[round].member, dest, count, at, size);
	}
	if (rc == 0 && (reader.bad || reader.left > 0))
		return route_nonsense(peer, "records");
	if (round + 1 == r->rounds)
		bucket_close(&r->lane[r->rounds].bucket);
	return rc;
}

uint32_t route_arrived(const struct route *r)
{
	return r->lane[r->rounds].bucket.count;
}

struct route_record route_get(const struct route *r, uint32_t i)
{
	const struct route_bucket *b = &r->lane[r->rounds].bucket;
	const uint8_t *at = b->message.at + record_at(b, i);

	return (struct route_record){at + ROUTE_HEAD, route_load(at + 4),
	                             route_load(at + COUNT_AT)};
}

uint64_t route_memory(const struct route *r)
{
	uint64_t bytes = sizeof(*r) + r->answers.room;

	for (uint32_t i = 0; i <= r->rounds; i++) {
		const struct route_lane *l = &r->lane[i];

		bytes += sizeof(*l) + l->bucket.message.room + l->bucket.at.room
		         + l->bucket.slots * sizeof(struct route_slot) + l->member.room
		         + l->back.room;
	}
	bytes += r->answer_at ? ((uint64_t)route_arrived(r) + 1) * sizeof(uint64_t) : 0;
	bytes += r->reply_at ? ((uint64_t)route_members(&r->lane[r->rounds]) + 1) * sizeof(uint64_t)
	                     : 0;
	return bytes;
}
