/* SPDX-License-Identifier: BSD-3-Clause */
#include "slot.h"

#include <string.h>

#include "checksum.h"
#include "clock.h"
#include "error.h"

_Static_assert(offsetof(struct arena_header, arena_bytes) == 16
                       && offsetof(struct arena_header, rank) == 48
                       && offsetof(struct arena_header, map_offset) == 64
                       && offsetof(struct arena_header, slot_offset) == 96
                       && offsetof(struct arena_header, job) == 120
                       && offsetof(struct arena_header, rails_bytes) == 248
                       && offsetof(struct slot_header, header_sum) == 36,
               "documented in docs/formats.md");

/* A reader that keeps meeting a writer calls the slot FILLING. */
#define READ_TRIES 8

static int add(uint64_t *to, uint64_t bytes)
{
	return __builtin_add_overflow(*to, bytes, to) || *to > INT64_MAX;
}

static int add_pages(uint64_t *to, uint64_t bytes)
{
	if (add(to, bytes) || add(to, ARENA_PAGE - 1))
		return 1;
	*to &= ~(uint64_t)(ARENA_PAGE - 1);
	return 0;
}

static int check_rail(const struct rail *r, uint32_t index, uint32_t rank, uint32_t *member)
{
	int at;

	if (!rail_valid(r))
		return error_set(FTMEM_EINVAL, "rail %u of rank %u makes no sense", index, rank);
	at = rail_find(r, rank);
	if (at < 0)
		return error_set(FTMEM_EINVAL, "rank %u is no member of its rail %u", rank, index);
	if (index && r->data_bytes[at])
		return error_set(FTMEM_EINVAL, "rank %u has data in more than its first rail",
		                 rank);
	*member = (uint32_t)at;
	return 0;
}

int slot_shape_init(struct slot_shape *s, const struct rail *rails, uint32_t count, uint32_t rank)
{
	uint64_t sums = 0, at = 0;
	int rc;

	memset(s, 0, sizeof(*s));
	if (!count || count > ARENA_RAILS_MAX)
		return error_set(FTMEM_EINVAL, "rank %u is in %u rails: 1 to %u can be stored",
		                 rank, count, ARENA_RAILS_MAX);
	s->rails = count;
	s->rail = rails;
	for (uint32_t i = 0; i < count; i++) {
		rc = check_rail(&rails[i], i, rank, &s->member[i]);
		if (rc)
			return rc;
		s->data_sum[i] = sums;
		for (uint32_t j = 0; j < rails[i].n; j++)
			sums += rail_data_blocks(&rails[i], j);
	}
	for (uint32_t i = 0; i < count; i++) {
		s->parity_sum[i] = sums;
		sums += (uint64_t)rails[i].m * rail_rows(&rails[i]);
	}
	s->sums_bytes = sums * sizeof(uint32_t);
	s->data_bytes = rails[0].data_bytes[s->member[0]];

	s->sums_offset = ARENA_PAGE;
	at = ARENA_PAGE;
	if (add_pages(&at, s->sums_bytes))
		goto overflow;
	s->data_offset = at;
	if (add_pages(&at, s->data_bytes))
		goto overflow;
	for (uint32_t i = 0; i < count; i++) {
		s->parity_offset[i] = at;
		if (add_pages(&at, rails[i].m * rail_parity_bytes(&rails[i])))
			goto overflow;
	}
	s->slot_bytes = at;
	return 0;
overflow:
	return error_set(FTMEM_EINVAL, "the slots of rank %u would exceed the address space", rank);
}

uint64_t slot_data_sum_index(const struct slot_shape *s, uint32_t rail, uint32_t member,
                             uint32_t chunk, uint32_t row)
{
	const struct rail *r = &s->rail[rail];
	uint64_t index = s->data_sum[rail];

	for (uint32_t i = 0; i < member; i++)
		index += rail_data_blocks(r, i);
	return index + (uint64_t)chunk * rail_chunk_rows(r, member) + row;
}

uint64_t slot_parity_sum_index(const struct slot_shape *s, uint32_t rail, uint32_t parity_row,
                               uint32_t row)
{
	return s->parity_sum[rail] + (uint64_t)parity_row * rail_rows(&s->rail[rail]) + row;
}

void slot_init(struct slot *s, const struct slot_shape *shape, void *base)
{
	s->base = base;
	s->header = base;
	s->sums = (uint32_t *)(void *)(s->base + shape->sums_offset);
	s->data = s->base + shape->data_offset;
	s->shape = shape;
}

uint8_t *slot_parity(const struct slot *s, uint32_t rail, uint32_t parity_row)
{
	return s->base + s->shape->parity_offset[rail]
	       + parity_row * rail_parity_bytes(&s->shape->rail[rail]);
}

static uint64_t word_of(uint64_t version, enum slot_state state)
{
	return version << 8 | (uint64_t)state;
}

/* What header_sum covers, in the order of the format. */
uint32_t slot_header_sum(const struct slot_header *h)
{
	return checksum(&h->version, offsetof(struct slot_header, header_sum)
	                                     - offsetof(struct slot_header, version));
}

void slot_set_empty(struct slot *s)
{
	atomic_store_explicit(&s->header->state, word_of(0, SLOT_EMPTY), memory_order_release);
	/* What is written next must not be seen under the former state. */
	atomic_thread_fence(memory_order_seq_cst);
}

void slot_set_filling(struct slot *s, struct stamp stamp)
{
	atomic_store_explicit(&s->header->state, word_of(stamp.version, SLOT_FILLING),
	                      memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	s->header->filled_ns = clock_wall_ns();
}

void slot_set_prepared(struct slot *s, struct stamp stamp)
{
	struct slot_header *h = s->header;

	h->version = stamp.version;
	h->incarnation = stamp.incarnation;
	h->sums_bytes = s->shape->sums_bytes;
	h->sums_sum = checksum(s->sums, s->shape->sums_bytes);
	h->header_sum = slot_header_sum(h);
	atomic_store_explicit(&h->state, word_of(stamp.version, SLOT_PREPARED),
	                      memory_order_release);
}

void slot_set_committed(struct slot *s)
{
	atomic_store_explicit(&s->header->state, word_of(s->header->version, SLOT_COMMITTED),
	                      memory_order_release);
}

static bool content_fits(const struct slot *s, uint64_t word, struct stamp *stamp)
{
	struct slot_header h;

	/* A copy: what is checked must be what is used. */
	h.version = s->header->version;
	h.incarnation = s->header->incarnation;
	h.sums_bytes = s->header->sums_bytes;
	h.sums_sum = s->header->sums_sum;
	if (slot_header_sum(&h) != s->header->header_sum || h.version != word >> 8
	    || h.sums_bytes != s->shape->sums_bytes
	    || checksum(s->sums, s->shape->sums_bytes) != h.sums_sum)
		return false;
	*stamp = (struct stamp){h.incarnation, h.version};
	return true;
}

/* Whether content read under the first word is content under the second. */
static bool same_content(uint64_t a, uint64_t b)
{
	return a == b
	       || (a >> 8 == b >> 8 && (a & 0xff) == SLOT_PREPARED && (b & 0xff) == SLOT_COMMITTED);
}

enum slot_state slot_read(const struct slot *s, struct stamp *stamp, bool *damaged)
{
	uint64_t word = atomic_load_explicit(&s->header->state, memory_order_acquire);
	bool fits;

	*damaged = false;
	for (int i = 0; i < READ_TRIES; i++) {
		uint64_t before = word;

		*stamp = (struct stamp){0};
		if (word == word_of(0, SLOT_EMPTY))
			return SLOT_EMPTY;
		if ((word & 0xff) == SLOT_FILLING)
			return SLOT_FILLING;
		fits = ((word & 0xff) == SLOT_PREPARED || (word & 0xff) == SLOT_COMMITTED)
		       && content_fits(s, word, stamp);
		atomic_thread_fence(memory_order_acquire);
		word = atomic_load_explicit(&s->header->state, memory_order_acquire);
		if (!same_content(before, word))
			continue;
		if (fits)
			return (enum slot_state)(word & 0xff);
		*stamp = (struct stamp){0};
		*damaged = true;
		return SLOT_EMPTY;
	}
	*stamp = (struct stamp){0};
	return SLOT_FILLING;
}

struct verify {
	const struct slot *slot;
	void (*bad)(void *arg, uint32_t rail, bool parity, uint32_t index, uint32_t row);
	void *arg;
	uint64_t count;
};

static void verify_block(struct verify *v, uint32_t rail, bool parity, uint32_t index, uint32_t row,
                         const uint8_t *block, uint32_t bytes)
{
	const struct slot_shape *shape = v->slot->shape;
	uint64_t sum = parity ? slot_parity_sum_index(shape, rail, index, row)
	                      : slot_data_sum_index(shape, rail, shape->member[rail], index, row);

	if (!bytes || checksum(block, bytes) == v->slot->sums[sum])
		return;
	v->count++;
	if (v->bad)
		v->bad(v->arg, rail, parity, index, row);
}

uint64_t slot_verify(const struct slot *s,
                     void (*bad)(void *arg, uint32_t rail, bool parity, uint32_t index,
                                 uint32_t row),
                     void *arg)
{
	struct verify v = {s, bad, arg, 0};
	const struct rail *r = &s->shape->rail[0];
	uint32_t member = s->shape->member[0];

	for (uint32_t chunk = 0; chunk < rail_k(r); chunk++)
		for (uint32_t row = 0; row < rail_chunk_rows(r, member); row++)
			verify_block(&v, 0, false, chunk, row,
			             s->data + rail_data_offset(r, member, chunk, row),
			             rail_data_len(r, member, chunk, row));
	for (uint32_t rail = 0; rail < s->shape->rails; rail++) {
		r = &s->shape->rail[rail];
		for (uint32_t p = 0; p < r->m; p++)
			for (uint32_t row = 0; row < rail_rows(r); row++)
				verify_block(&v, rail, true, p, row,
				             slot_parity(s, rail, p)
				                     + (uint64_t)row * r->block_bytes,
				             rail_parity_len(r, row));
	}
	return v.count;
}
