/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/scrub_walk.h"

#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"

/* A map is longer only if it lies. */
#define MAP_MAX   (UINT64_C(64) << 20)
/* Bytes of a slot that may lack memory, as those of parts that were never written. */
#define HOLES_MAX (UINT64_C(64) << 20)
/* Each block counts as so many bytes of a step at least: it takes two calls. */
#define BLOCK_MIN 512u

static bool read_at(struct walk *w, void *to, uint64_t bytes, uint64_t offset)
{
	w->cost += bytes;
	return pread(w->fd, to, bytes, (off_t)offset) == (ssize_t)bytes;
}

/* --- the description --- */

static bool all_zeros(const void *bytes, size_t count)
{
	const uint8_t *at = bytes;

	for (size_t i = 0; i < count; i++)
		if (at[i])
			return false;
	return true;
}

static enum walk_result broken(struct walk *w, enum wire_damage damage)
{
	w->damage = damage;
	return WALK_END;
}

static void range_begin(struct walk *w, uint64_t offset, uint64_t bytes)
{
	w->at = offset;
	w->left = bytes;
	w->sum = 0;
	w->unreadable = false;
}

/* The next of the range, up to most bytes; returns how many. */
static uint64_t range_step(struct walk *w, uint64_t most)
{
	uint64_t bytes = w->left < most ? w->left : most;

	if (bytes && read_at(w, w->buffer, bytes, w->at))
		w->sum = checksum_more(w->sum, w->buffer, bytes);
	else if (bytes)
		w->unreadable = true;
	w->at += bytes;
	w->left -= bytes;
	return bytes;
}

static bool range_fits(const struct walk *w, uint32_t sum)
{
	return !w->unreadable && w->sum == sum;
}

enum walk_result walk_open(struct walk *w, int fd, uint64_t bytes, uint64_t epoch, uint32_t rank)
{
	struct arena_header h, again;

	w->fd = fd;
	w->cost = 0;
	w->damage = WIRE_WHOLE;
	if (!read_at(w, &h, sizeof(h), 0))
		return broken(w, WIRE_DAMAGE_HEADER);
	if (h.magic == ARENA_UNWRITTEN || all_zeros(&h, sizeof(h)))
		return WALK_LEFT;
	if (arena_check_header(&h, bytes) || h.epoch != epoch || h.rank != rank
	    || h.map_bytes > MAP_MAX) {
		/* It may be written at this moment. */
		if (!read_at(w, &again, sizeof(again), 0) || memcmp(&h, &again, sizeof(h)) == 0)
			return broken(w, WIRE_DAMAGE_HEADER);
		return WALK_LEFT;
	}
	w->header = h;
	if (!read_at(w, w->buffer, h.rails_bytes, h.rails_offset)
	    || arena_check_rails(&w->header, w->buffer, w->rail, &w->shape))
		return broken(w, WIRE_DAMAGE_RAILS);
	w->phase = WALK_MAP;
	range_begin(w, h.map_offset, h.map_bytes);
	return WALK_ON;
}

enum walk_result walk_map(struct walk *w)
{
	w->cost = 0;
	range_step(w, WALK_STEP);
	if (w->left)
		return WALK_ON;
	return broken(w, range_fits(w, w->header.map_sum) ? WIRE_WHOLE : WIRE_DAMAGE_MAP);
}

/* --- a slot --- */

static uint64_t word_of(const struct slot_header *h)
{
	return atomic_load_explicit(&h->state, memory_order_relaxed);
}

/* Whether the header of the slot is still what it was. */
static bool same_slot(struct walk *w)
{
	struct slot_header now;

	/* What was read before must not be of later than this. */
	atomic_thread_fence(memory_order_acquire);
	/* It is read into memory that nobody else writes, and has no padding. */
	/* NOLINTNEXTLINE(bugprone-suspicious-memory-comparison) */
	return read_at(w, &now, sizeof(now), w->base) && memcmp(&now, &w->slot, sizeof(now)) == 0;
}

static bool is_there(const struct walk *w)
{
	struct stat st;

	return fstat(w->fd, &st) == 0
	       && (uint64_t)st.st_blocks * 512 + HOLES_MAX >= w->header.slot_bytes;
}

static enum wire_damage slot_damage(const struct walk *w)
{
	const struct slot_header *h = &w->slot;
	uint64_t word = word_of(h);

	if ((word & 0xff) != SLOT_COMMITTED)
		return WIRE_DAMAGE_STATE;
	if (slot_header_sum(h) != h->header_sum || h->version != word >> 8
	    || h->sums_bytes != w->shape.sums_bytes)
		return WIRE_DAMAGE_HEADER;
	return is_there(w) ? WIRE_WHOLE : WIRE_DAMAGE_MISSING;
}

enum walk_result walk_slot(struct walk *w, int slot)
{
	uint64_t word;

	w->cost = 0;
	w->base = w->header.slot_offset[slot];
	w->damage = WIRE_WHOLE;
	w->bad = w->confirmed = w->named = 0;
	w->done = w->done_bytes = w->bytes = 0;
	if (!read_at(w, &w->slot, sizeof(w->slot), w->base)) {
		memset(&w->slot, 0, sizeof(w->slot));
		return broken(w, WIRE_DAMAGE_HEADER);
	}
	word = word_of(&w->slot);
	if (!word || (word & 0xff) == SLOT_FILLING || (word & 0xff) == SLOT_PREPARED)
		return WALK_LEFT;
	w->damage = slot_damage(w);
	/* A word that is written at this moment may be seen in part. */
	if (w->damage)
		return same_slot(w) ? WALK_END : WALK_LEFT;
	return WALK_ON;
}

static uint64_t data_blocks(const struct walk *w)
{
	return rail_data_blocks(&w->rail[0], w->shape.member[0]);
}

/* A block of the slot. */
struct unit {
	struct wire_block name;
	uint64_t offset; /* in the arena */
	uint32_t bytes;  /* 0: nothing stands there */
	uint64_t sum;    /* index of its checksum */
};

static void unit_data(const struct walk *w, uint64_t index, struct unit *u)
{
	const struct rail *r = &w->rail[0];
	uint32_t member = w->shape.member[0], rows = rail_chunk_rows(r, member);
	uint32_t chunk = (uint32_t)(index / rows), row = (uint32_t)(index % rows);

	u->name = (struct wire_block){0, 0, chunk, row};
	u->bytes = rail_data_len(r, member, chunk, row);
	u->offset = w->base + w->shape.data_offset + rail_data_offset(r, member, chunk, row);
	u->sum = slot_data_sum_index(&w->shape, 0, member, chunk, row);
}

static void unit_parity(const struct walk *w, uint64_t index, struct unit *u)
{
	const struct rail *r = w->rail;
	uint32_t rail = 0, parity, row;

	while (index >= (uint64_t)r->m * rail_rows(r)) {
		index -= (uint64_t)r->m * rail_rows(r);
		r = &w->rail[++rail];
	}
	parity = (uint32_t)(index / rail_rows(r));
	row = (uint32_t)(index % rail_rows(r));
	u->name = (struct wire_block){rail, 1, parity, row};
	u->bytes = rail_parity_len(r, row);
	u->offset = w->base + w->shape.parity_offset[rail] + parity * rail_parity_bytes(r)
	            + (uint64_t)row * r->block_bytes;
	u->sum = slot_parity_sum_index(&w->shape, rail, parity, row);
}

static void unit_at(const struct walk *w, uint64_t index, struct unit *u)
{
	uint64_t data = data_blocks(w);

	if (index < data)
		unit_data(w, index, u);
	else
		unit_parity(w, index - data, u);
}

uint64_t walk_next(const struct walk *w)
{
	return w->count ? (w->first + w->done) % w->count : 0;
}

/* Begins with the block that comes next, if there is one. */
static void block_begin(struct walk *w)
{
	struct unit u;

	if (w->done == w->count)
		return;
	unit_at(w, walk_next(w), &u);
	range_begin(w, u.offset, u.bytes);
}

static void sums_begin(struct walk *w, enum walk_phase phase)
{
	w->phase = phase;
	range_begin(w, w->base + w->shape.sums_offset, w->shape.sums_bytes);
}

void walk_begin(struct walk *w, uint64_t next)
{
	w->count = data_blocks(w);
	w->bytes = w->shape.data_bytes;
	for (uint32_t i = 0; i < w->shape.rails; i++) {
		w->count += (uint64_t)w->rail[i].m * rail_rows(&w->rail[i]);
		w->bytes += w->rail[i].m * rail_parity_bytes(&w->rail[i]);
	}
	w->first = w->count ? next % w->count : 0;
	w->done = w->done_bytes = 0;
	w->again = false;
	sums_begin(w, WALK_SUMS);
}

static void note_bad(struct walk *w, const struct unit *u)
{
	if (w->named < WIRE_BLOCKS)
		w->block[w->named++] = u->name;
	w->bad++;
}

/* The block in hand was read. False: it does not fit and is to be read once more, in a later
 * step: it may be written at this moment. */
static bool block_end(struct walk *w)
{
	struct unit u;
	uint64_t at;
	uint32_t sum;
	bool fits;

	unit_at(w, walk_next(w), &u);
	at = w->base + w->shape.sums_offset + u.sum * sizeof(sum);
	fits = !u.bytes || (read_at(w, &sum, sizeof(sum), at) && range_fits(w, sum));
	if (!fits && !w->again) {
		w->again = true;
		block_begin(w);
		return false;
	}
	if (!fits)
		note_bad(w, &u);
	w->again = false;
	w->done++;
	w->done_bytes += u.bytes;
	block_begin(w);
	return true;
}

static void blocks_step(struct walk *w)
{
	uint64_t budget = WALK_STEP;

	while (budget && w->done < w->count) {
		uint64_t bytes = range_step(w, budget), charge = bytes;

		if (!w->left && !block_end(w))
			return;
		/* The first damage is told as soon as it is sure. */
		if (w->bad && !w->confirmed)
			return;
		if (charge < BLOCK_MIN)
			charge = BLOCK_MIN;
		budget -= charge < budget ? charge : budget;
	}
}

/* The checksums were read, the second time because some block does not fit its own. */
static enum walk_result sums_end(struct walk *w)
{
	bool confirming = w->phase == WALK_CONFIRM, fits = range_fits(w, w->slot.sums_sum);

	if (!fits && w->again)
		return broken(w, WIRE_DAMAGE_SUMS);
	w->again = !fits;
	if (!fits) {
		sums_begin(w, w->phase);
		return WALK_ON;
	}
	w->phase = WALK_BLOCKS;
	w->confirmed = w->bad;
	block_begin(w);
	if (w->done == w->count)
		return WALK_END;
	return confirming ? WALK_FOUND : WALK_ON;
}

enum walk_result walk_step(struct walk *w)
{
	w->cost = 0;
	if (w->phase == WALK_BLOCKS)
		blocks_step(w);
	else
		range_step(w, WALK_STEP);
	if (!same_slot(w))
		return WALK_LEFT;
	if (w->phase != WALK_BLOCKS)
		return w->left ? WALK_ON : sums_end(w);
	if (w->bad > w->confirmed && (!w->confirmed || w->done == w->count)) {
		sums_begin(w, WALK_CONFIRM);
		return WALK_ON;
	}
	return w->done == w->count ? WALK_END : WALK_ON;
}
