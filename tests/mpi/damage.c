/* SPDX-License-Identifier: BSD-3-Clause */
#include "damage.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "mpi_check.h"
#include "test_random.h"

struct field {
	const char *name;
	uint32_t offset, bytes;
};
#define FIELD(type, name) {#name, offsetof(struct type, name), sizeof(((struct type *)0)->name)}

static const struct field arena_field[] = {
	FIELD(arena_header, magic),       FIELD(arena_header, format),
	FIELD(arena_header, header_sum),  FIELD(arena_header, arena_bytes),
	FIELD(arena_header, epoch),       FIELD(arena_header, geometry),
	FIELD(arena_header, layout),      FIELD(arena_header, rank),
	FIELD(arena_header, ranks),       FIELD(arena_header, rails),
	FIELD(arena_header, block_bytes), FIELD(arena_header, map_offset),
	FIELD(arena_header, map_bytes),   FIELD(arena_header, rails_offset),
	FIELD(arena_header, map_sum),     FIELD(arena_header, rails_sum),
	FIELD(arena_header, slot_offset), FIELD(arena_header, slot_bytes),
	FIELD(arena_header, job),         FIELD(arena_header, node),
	FIELD(arena_header, rails_bytes), FIELD(arena_header, late),
	FIELD(arena_header, reserved),
};
static const struct field slot_field[] = {
	FIELD(slot_header, state),      FIELD(slot_header, version),
	FIELD(slot_header, incarnation), FIELD(slot_header, sums_bytes),
	FIELD(slot_header, sums_sum),   FIELD(slot_header, header_sum),
	FIELD(slot_header, filled_ns),
};
#define COUNT(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))

const char *const damage_place_name[DAMAGE_PLACES] = {
	[DAMAGE_DATA] = "data",
	[DAMAGE_LAYOUT] = "layout",
	[DAMAGE_PARITY] = "parity",
	[DAMAGE_SUMS] = "checksums",
	[DAMAGE_SLOT_HEADER] = "slot header",
	[DAMAGE_STATE] = "state",
	[DAMAGE_ARENA_HEADER] = "arena header",
	[DAMAGE_MAP] = "map",
	[DAMAGE_RAILS] = "rails",
	[DAMAGE_RUN] = "run",
};
static const char *const kind_name[DAMAGE_KINDS] = {"flip", "zeros", "other page", "shifted"};

static uint64_t ends[DAMAGE_ENDS];

uint32_t damage_fields(enum damage_place place)
{
	return place == DAMAGE_ARENA_HEADER  ? COUNT(arena_field)
	       : place == DAMAGE_SLOT_HEADER ? COUNT(slot_field)
	                                     : 0;
}

static const struct field *field_of(const struct damage *d)
{
	if (d->field == DAMAGE_ANY)
		return NULL;
	return d->place == DAMAGE_ARENA_HEADER ? &arena_field[d->field] : &slot_field[d->field];
}

/* --- where --- */

static uint64_t parity_bytes(const struct arena *a)
{
	const struct slot_shape *shape = &a->shape;
	uint32_t last = shape->rails - 1;

	return shape->parity_offset[last] - shape->parity_offset[0] +
	       a->rails[last].m * rail_parity_bytes(&a->rails[last]);
}

uint64_t damage_bytes(const struct arena *a, enum damage_place place)
{
	switch (place) {
	case DAMAGE_DATA: return a->shape.data_bytes;
	/* The shortest layout is longer. */
	case DAMAGE_LAYOUT: return a->shape.data_bytes < 64 ? a->shape.data_bytes : 64;
	case DAMAGE_PARITY: return parity_bytes(a);
	case DAMAGE_SUMS: return a->shape.sums_bytes;
	case DAMAGE_SLOT_HEADER: return sizeof(struct slot_header);
	case DAMAGE_STATE: return sizeof(uint64_t);
	case DAMAGE_ARENA_HEADER: return sizeof(struct arena_header);
	case DAMAGE_MAP: return a->header->map_bytes;
	case DAMAGE_RUN: return sizeof(struct arena_run);
	default: return a->header->rails_bytes;
	}
}

static uint8_t *place_at(const struct arena *a, const struct slot *s, enum damage_place place)
{
	switch (place) {
	case DAMAGE_DATA:
	case DAMAGE_LAYOUT: return s->data;
	case DAMAGE_PARITY: return slot_parity(s, 0, 0);
	case DAMAGE_SUMS: return (uint8_t *)s->sums;
	case DAMAGE_SLOT_HEADER:
	case DAMAGE_STATE: return (uint8_t *)s->header;
	case DAMAGE_ARENA_HEADER: return a->base;
	case DAMAGE_MAP: return a->base + a->header->map_offset;
	case DAMAGE_RUN: return a->base + ARENA_RUN_OFFSET;
	default: return a->base + a->header->rails_offset;
	}
}

/* --- what --- */

static void flip(uint8_t *at, uint64_t bytes, const struct damage *d, uint64_t *random)
{
	const struct field *f = field_of(d);
	uint64_t first = f ? f->offset * UINT64_C(8) : 0, bits = (f ? f->bytes : bytes) * 8;

	for (uint32_t i = 0; i < d->bits; i++) {
		uint64_t bit = d->bit != DAMAGE_ANY ? d->bit : first + test_random(random) % bits;

		at[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* from: what else there could be. */
static void tear(uint8_t *at, uint64_t bytes, const uint8_t *from, enum damage_kind kind,
                 uint64_t *random)
{
	uint64_t page = test_random(random) % ((bytes + ARENA_PAGE - 1) / ARENA_PAGE) * ARENA_PAGE;
	uint64_t length = bytes - page < ARENA_PAGE ? bytes - page : ARENA_PAGE;
	uint64_t by = 1 + test_random(random) % (length < 64 ? length : 64);

	at += page;
	if (kind == DAMAGE_ZEROS)
		memset(at, 0, length);
	else if (kind == DAMAGE_OTHER)
		memcpy(at, from + page, length);
	else
		memmove(at + by, at, length - by);
}

static uint32_t same_but_time(const struct arena *a, const struct slot *s)
{
	uint64_t filled = s->header->filled_ns;
	uint32_t sum;

	s->header->filled_ns = 0;
	sum = checksum(a->base, a->bytes);
	s->header->filled_ns = filled;
	return sum;
}

bool damage_do(const struct arena *a, const struct slot *s, const struct damage *d,
               uint64_t *random)
{
	const struct slot *other = &a->slot[s == &a->slot[0]];
	uint64_t bytes = damage_bytes(a, d->place);
	uint8_t *at = place_at(a, s, d->place);
	uint32_t before = same_but_time(a, s);

	if (bytes == 0)
		return false;
	if (d->kind == DAMAGE_FLIP)
		flip(at, bytes, d, random);
	else
		tear(at, bytes,
		     d->place <= DAMAGE_STATE ? place_at(a, other, d->place) : s->data, d->kind,
		     random);
	return same_but_time(a, s) != before;
}

void damage_stripe(const struct arena *a, const struct slot *s, uint32_t stripe, uint64_t *random)
{
	const struct rail *r = &a->rails[0];
	uint32_t me = a->shape.member[0], row = test_random_below(random, rail_chunk_rows(r, me));
	uint8_t *block;

	if (rail_is_parity(r, stripe, me))
		block = slot_parity(s, 0, rail_parity_row(r, stripe, me)) +
		        (uint64_t)row * r->block_bytes;
	else
		block = s->data + rail_data_offset(r, me, rail_chunk(r, stripe, me), row);
	block[test_random_below(random, 64)] ^= 4;
}

const char *damage_text(const struct damage *d, char text[96])
{
	const struct field *f = field_of(d);

	if (d->kind != DAMAGE_FLIP)
		snprintf(text, 96, "%s of %s", kind_name[d->kind], damage_place_name[d->place]);
	else
		snprintf(text, 96, "%u bits of %s%s%s", d->bits, damage_place_name[d->place],
		         f ? "." : "", f ? f->name : "");
	return text;
}

bool damage_looks_empty(const struct damage *d)
{
	return d->kind == DAMAGE_ZEROS &&
	       (d->place == DAMAGE_SLOT_HEADER || d->place == DAMAGE_STATE);
}

bool damage_number(uint32_t i, uint32_t bits, struct damage *d)
{
	static const enum damage_place header[] = {DAMAGE_ARENA_HEADER, DAMAGE_SLOT_HEADER};

	*d = (struct damage){DAMAGE_DATA, DAMAGE_FLIP, DAMAGE_ANY, 1, DAMAGE_ANY};
	for (int h = 0; h < 2; h++) {
		if (i < damage_fields(header[h])) {
			d->place = header[h];
			d->field = i;
			return true;
		}
		i -= damage_fields(header[h]);
	}
	if (i >= DAMAGE_PLACES * DAMAGE_KINDS)
		return false;
	d->place = (enum damage_place)(i % DAMAGE_PLACES);
	d->kind = (enum damage_kind)(i / DAMAGE_PLACES);
	d->bits = bits;
	return true;
}

/* --- what must be true afterwards --- */

uint64_t damage_digest(const struct slot *s)
{
	uint64_t digest = checksum(s->data, s->shape->data_bytes);

	for (uint32_t i = 0; i < s->shape->rails; i++) {
		const struct rail *r = &s->shape->rail[i];

		for (uint32_t p = 0; p < r->m; p++)
			digest = digest * 31 +
			         checksum(slot_parity(s, i, p), rail_parity_bytes(r));
	}
	return digest;
}

struct arena *damage_none(const struct cluster *c, uint64_t version, struct slot **newest)
{
	struct arena *a = cluster_arena(c, version, newest);
	uint64_t entered = arena_entered(a);

	CHECK_MSG(entered > 0 && entered < UINT64_MAX, "rank %u: the note of its run is damaged",
	          c->rank);
	for (int i = 0; i < 2; i++) {
		struct stamp stamp;
		bool damaged;
		enum slot_state state = slot_read(&a->slot[i], &stamp, &damaged);

		CHECK_MSG(!damaged, "slot %d of rank %u is damaged", i, c->rank);
		CHECK_MSG(state == SLOT_COMMITTED || state == SLOT_EMPTY, "slot %d: state %02x", i,
		          state);
		CHECK_MSG(&a->slot[i] != *newest ||
		                  (state == SLOT_COMMITTED && stamp.version == version),
		          "slot %d holds version %llu", i, (unsigned long long)stamp.version);
		if (state == SLOT_COMMITTED)
			CHECK_MSG(slot_verify(&a->slot[i], NULL, NULL) == 0,
			          "slot %d of rank %u, version %llu: blocks are damaged", i,
			          c->rank, (unsigned long long)stamp.version);
	}
	return a;
}

/* --- figures --- */

void damage_count(enum damage_end end, uint32_t ranks)
{
	ends[end] += ranks;
}

void damage_say(const char *what)
{
	uint64_t all = 0;

	for (int i = 0; i < DAMAGE_ENDS; i++)
		all += ends[i];
	check_say("%s: damaged %llu times; mended %llu, an older version %llu, refused %llu, "
	          "without effect %llu, wrong 0",
	          what, (unsigned long long)all, (unsigned long long)ends[DAMAGE_MENDED],
	          (unsigned long long)ends[DAMAGE_OLDER],
	          (unsigned long long)ends[DAMAGE_REFUSED],
	          (unsigned long long)ends[DAMAGE_HARMLESS]);
}
