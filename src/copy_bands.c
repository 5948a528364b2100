/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A plan is walked twice: to count what its bands need, then to fill that in. In a band
 * each device has its turn, and each chunk its rows one after the other, so that offsets
 * grow and what are neighbours in the slot come as neighbours.
 */
#include "copy_bands.h"

#include <stdlib.h>

#include "error.h"

/* The first band has that part of the others' bytes. */
#define BAND_FIRST 16

/* Bits for devices. */
_Static_assert(DEVICE_MAX <= 64, "a word has a bit for each");

struct maker {
	const struct copy_plan *plan;
	struct copy_bands *out; /* NULL: only counted */
	uint64_t parts, runs;
	uint32_t bands;
	struct band_part part; /* in hand */
	struct band_run run;   /* in hand; no bytes: none */
	uint32_t region;       /* of the run */
};

/* --- runs --- */

static uint64_t staged(uint64_t bytes)
{
	return (bytes + BAND_ALIGN - 1) / BAND_ALIGN * BAND_ALIGN;
}

static void run_end(struct maker *m)
{
	if (m->run.bytes == 0)
		return;
	if (m->out)
		m->out->run[m->runs] = m->run;
	m->runs++;
	m->part.count++;
	m->part.bytes += m->run.bytes;
	m->part.stage_bytes += staged(m->run.bytes);
	m->run.bytes = 0;
}

static void run_add(struct maker *m, uint32_t region, uint8_t *addr, uint64_t offset,
                    uint64_t bytes)
{
	struct band_run *run = &m->run;

	if (run->bytes > 0 && m->region == region && run->addr + run->bytes == addr
	    && run->offset + run->bytes == offset) {
		run->bytes += bytes;
		return;
	}
	run_end(m);
	*run = (struct band_run){addr, offset, bytes};
	m->region = region;
}

static void piece_add(struct maker *m, const struct copy_piece *piece, uint64_t offset)
{
	uint64_t n, at, follow;

	if (!piece->view) {
		run_add(m, piece->region, piece->addr, offset, piece->bytes);
		return;
	}
	for (uint64_t done = 0; done < piece->bytes; done += n) {
		at = box_view_at(piece->view, piece->from + done, &follow);
		n = piece->bytes - done < follow ? piece->bytes - done : follow;
		run_add(m, piece->region, piece->addr + at, offset + done, n);
	}
}

static void block_add(struct maker *m, const struct copy_block *block)
{
	const struct copy_piece *piece = m->plan->piece + block->first;

	for (uint32_t i = 0; i < block->count; i++)
		if (piece[i].device == m->part.device)
			piece_add(m, &piece[i], block->offset + piece[i].offset);
}

/* --- bands --- */

static void part_add(struct maker *m, uint32_t from, uint32_t to, int device)
{
	uint32_t chunks = m->plan->chunks;

	m->part = (struct band_part){.device = device, .first = (uint32_t)m->runs};
	for (uint32_t chunk = 0; chunk < chunks; chunk++)
		for (uint32_t row = from; row < to; row++)
			block_add(m, &m->plan->block[row * chunks + chunk]);
	run_end(m);
	if (m->out)
		m->out->part[m->parts] = m->part;
	m->parts++;
}

static bool on_host(const struct copy_plan *plan, const struct copy_block *block)
{
	for (uint32_t i = 0; i < block->count; i++)
		if (plan->piece[block->first + i].device == DEVICE_HOST)
			return true;
	return false;
}

/* A bit for each device that has any of these blocks. */
static uint64_t devices_of(const struct copy_plan *plan, uint32_t from, uint32_t to)
{
	uint64_t devices = 0;

	for (uint32_t i = from; i < to; i++) {
		const struct copy_block *block = &plan->block[i];

		for (uint32_t j = 0; j < block->count; j++) {
			int device = plan->piece[block->first + j].device;

			if (device != DEVICE_HOST)
				devices |= UINT64_C(1) << device;
		}
	}
	return devices;
}

/* Rows from .. to - 1. */
static void band_add(struct maker *m, uint32_t from, uint32_t to)
{
	struct band band = {.block_end = to * m->plan->chunks, .first = (uint32_t)m->parts};
	uint64_t devices = devices_of(m->plan, from * m->plan->chunks, band.block_end);

	for (int device = 0; device < DEVICE_MAX; device++)
		if (devices >> device & 1)
			part_add(m, from, to, device);
	band.count = (uint32_t)m->parts - band.first;
	if (m->out)
		m->out->band[m->bands] = band;
	m->bands++;
}

/* That have so many bytes: at least one; no block of the plan is larger than its first. */
static uint32_t band_rows(const struct copy_plan *plan, uint32_t rows, uint64_t bytes)
{
	uint64_t row_bytes = (uint64_t)plan->chunks * plan->block[0].bytes;
	uint64_t enough = row_bytes > 0 ? bytes / row_bytes + (bytes % row_bytes > 0) : rows;

	return enough < 1 ? 1 : enough < rows ? (uint32_t)enough : rows;
}

static void bands_add(struct maker *m, uint64_t band_bytes)
{
	uint32_t rows = m->plan->blocks > 0 ? m->plan->blocks / m->plan->chunks : 0, step, to;
	uint64_t part = BAND_FIRST;

	for (uint32_t row = 0; row < rows; row = to) {
		step = band_rows(m->plan, rows, band_bytes / part);
		part = part > 1 ? part / 2 : 1;
		to = rows - row > step ? row + step : rows;
		band_add(m, row, to);
	}
}

/* --- the whole --- */

static void list_early(struct copy_bands *b, const struct copy_plan *plan)
{
	uint32_t early = 0;

	for (uint32_t i = 0; i < plan->blocks; i++)
		if (on_host(plan, &plan->block[i]))
			b->early[early++] = i;
}

static void list_devices(struct copy_bands *b, const struct copy_plan *plan)
{
	uint64_t devices = devices_of(plan, 0, plan->blocks);

	for (int device = 0; device < DEVICE_MAX; device++)
		if (devices >> device & 1)
			b->device[b->devices++] = device;
	for (uint32_t i = 0; i < b->parts; i++)
		b->device_bytes += b->part[i].bytes;
}

/* Also for none, so that NULL is an error. */
static void *room_for(uint32_t count, size_t bytes)
{
	return calloc(count > 0 ? count : 1, bytes);
}

static bool bands_allocate(struct copy_bands *b, const struct maker *counted)
{
	const struct copy_plan *plan = counted->plan;

	if (counted->parts > UINT32_MAX || counted->runs > UINT32_MAX)
		return false;
	b->bands = counted->bands;
	b->parts = (uint32_t)counted->parts;
	b->runs = (uint32_t)counted->runs;
	for (uint32_t i = 0; i < plan->blocks; i++)
		b->earlies += on_host(plan, &plan->block[i]);
	b->band = room_for(b->bands, sizeof(*b->band));
	b->part = room_for(b->parts, sizeof(*b->part));
	b->run = room_for(b->runs, sizeof(*b->run));
	b->early = room_for(b->earlies, sizeof(*b->early));
	return b->band && b->part && b->run && b->early;
}

int copy_bands_new(const struct copy_plan *plan, uint64_t band_bytes, struct copy_bands **out)
{
	struct copy_bands *b = calloc(1, sizeof(*b));
	struct maker count = {.plan = plan}, fill = {.plan = plan, .out = b};

	if (!b)
		goto fail;
	bands_add(&count, band_bytes);
	if (!bands_allocate(b, &count))
		goto fail;
	bands_add(&fill, band_bytes);
	list_early(b, plan);
	list_devices(b, plan);
	*out = b;
	return 0;
fail:
	copy_bands_free(b);
	return error_set(FTMEM_ENOMEM, "no memory for the bands of a plan of %u blocks",
	                 plan->blocks);
}

void copy_bands_free(struct copy_bands *b)
{
	if (!b)
		return;
	free(b->band);
	free(b->part);
	free(b->run);
	free(b->early);
	free(b);
}

/* --- what to stage --- */

const struct band_part *copy_bands_part(const struct copy_bands *b, uint32_t band, int device)
{
	const struct band_part *part = b->part + b->band[band].first;

	for (uint32_t i = 0; i < b->band[band].count; i++)
		if (part[i].device == device)
			return &part[i];
	return NULL;
}

uint32_t copy_bands_split(const struct copy_bands *b, int device, uint64_t direct_bytes,
                          uint64_t room)
{
	uint64_t direct = 0;
	uint32_t split = b->bands;

	for (uint32_t i = 0; i < b->parts; i++)
		direct += b->part[i].device == device ? b->part[i].bytes : 0;
	for (; split > 0; split--) {
		const struct band_part *part = copy_bands_part(b, split - 1, device);

		uint64_t bytes = part ? part->bytes : 0, stage = part ? part->stage_bytes : 0;

		if (stage > room || direct - bytes < direct_bytes)
			break;
		room -= stage;
		direct -= bytes;
	}
	return split;
}
