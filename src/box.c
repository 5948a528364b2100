/* SPDX-License-Identifier: BSD-3-Clause */
#include "box.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Products of an index and a number of elements exceed 64 bits. */
__extension__ typedef unsigned __int128 uint128;

#define CUT_FINENESS 256u

uint64_t box_count(const struct box *b)
{
	uint64_t count = 1;

	for (uint32_t d = 0; d < b->ndim; d++)
		count *= b->extent[d];
	return count;
}

int box_compare(const struct box *a, const struct box *b)
{
	if (a->ndim != b->ndim)
		return a->ndim < b->ndim ? -1 : 1;
	for (uint32_t d = 0; d < a->ndim; d++)
		if (a->start[d] != b->start[d])
			return a->start[d] < b->start[d] ? -1 : 1;
	for (uint32_t d = 0; d < a->ndim; d++)
		if (a->extent[d] != b->extent[d])
			return a->extent[d] < b->extent[d] ? -1 : 1;
	return 0;
}

bool box_equal(const struct box *a, const struct box *b)
{
	return box_compare(a, b) == 0;
}

/* Here as below, differences instead of ends: start + extent may be 2^64. */
bool box_contains(const struct box *outer, const struct box *inner)
{
	if (outer->ndim != inner->ndim)
		return false;
	for (uint32_t d = 0; d < outer->ndim; d++) {
		uint64_t before = inner->start[d] - outer->start[d];

		if (inner->start[d] < outer->start[d] || before > outer->extent[d]
		    || inner->extent[d] > outer->extent[d] - before)
			return false;
	}
	return true;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

bool box_intersect(const struct box *a, const struct box *b, struct box *out)
{
	struct box common;

	/* Most that are asked about have nothing in common: nothing is written before. */
	for (uint32_t d = 0; d < a->ndim; d++) {
		uint64_t from = max_u64(a->start[d], b->start[d]);

		if (from - a->start[d] >= a->extent[d] || from - b->start[d] >= b->extent[d])
			return false;
	}
	common = (struct box){.ndim = a->ndim};
	for (uint32_t d = 0; d < a->ndim; d++) {
		uint64_t from = max_u64(a->start[d], b->start[d]);

		common.start[d] = from;
		common.extent[d] = min_u64(a->extent[d] - (from - a->start[d]),
		                           b->extent[d] - (from - b->start[d]));
	}
	*out = common;
	return true;
}

uint32_t box_subtract(const struct box *a, const struct box *b, struct box out[BOX_SUBTRACT_MAX])
{
	struct box rest = *a, common;
	uint32_t count = 0;

	if (box_count(a) == 0)
		return 0;
	if (!box_intersect(a, b, &common)) {
		out[0] = rest;
		return 1;
	}
	/* Slabs before and behind, one dimension after the other, until the common part
	 * is left. */
	for (uint32_t d = 0; d < rest.ndim; d++) {
		uint64_t before = common.start[d] - rest.start[d];
		uint64_t behind = rest.extent[d] - before - common.extent[d];

		if (before > 0) {
			out[count] = rest;
			out[count++].extent[d] = before;
		}
		if (behind > 0) {
			out[count] = rest;
			out[count].start[d] = common.start[d] + common.extent[d];
			out[count++].extent[d] = behind;
		}
		rest.start[d] = common.start[d];
		rest.extent[d] = common.extent[d];
	}
	return count;
}

/* Elements of one index in each dimension: the product of the extents behind it. */
static void row_sizes(const struct box *b, uint64_t size[FTMEM_MAX_DIMS])
{
	uint64_t product = 1;

	for (uint32_t d = FTMEM_MAX_DIMS; d-- > 0;) {
		size[d] = product;
		if (d < b->ndim)
			product *= b->extent[d];
	}
}

uint32_t box_range(const struct box *b, uint64_t from, uint64_t to, struct box out[BOX_RANGE_MAX])
{
	const struct box whole = *b;
	uint64_t size[FTMEM_MAX_DIMS];
	uint32_t count = 0;

	row_sizes(&whole, size);
	while (from < to) {
		struct box *piece = &out[count++];
		uint64_t rest = from;
		uint32_t d = 0;

		/* The longest box that begins here takes whole rows of the outermost dimension
		 * in which a row begins here and does not reach too far. */
		*piece = whole;
		for (; rest % size[d] != 0 || to - from < size[d]; d++) {
			piece->start[d] += rest / size[d];
			piece->extent[d] = 1;
			rest %= size[d];
		}
		piece->start[d] += rest / size[d];
		piece->extent[d] = min_u64(whole.extent[d] - rest / size[d], (to - from) / size[d]);
		from += piece->extent[d] * size[d];
	}
	return count;
}

uint64_t box_cut(const struct box *b, uint64_t i, uint64_t count)
{
	uint64_t elements = box_count(b), limit = elements / count / CUT_FINENESS, unit = 1;

	for (uint32_t d = b->ndim; d-- > 0 && b->extent[d] <= limit / unit;)
		unit *= max_u64(b->extent[d], 1);
	return (uint64_t)(((uint128)i * (elements / unit) + count / 2) / count) * unit;
}

const char *box_text(const struct box *b, char text[BOX_TEXT])
{
	size_t at = 1;

	text[0] = '[';
	for (uint32_t d = 0; d < b->ndim && d < FTMEM_MAX_DIMS; d++)
		at += (size_t)snprintf(text + at, BOX_TEXT - at, "%s%" PRIu64 ":%" PRIu64,
		                       d > 0 ? ", " : "", b->start[d], b->start[d] + b->extent[d]);
	text[at] = ']';
	text[at + 1] = '\0';
	return text;
}

/* Dimensions come innermost first; those that continue evenly melt into one. */
static void view_add(struct box_view *v, uint64_t count, uint64_t stride)
{
	uint32_t last = v->dims - 1;

	if (count == 1)
		return;
	if (v->dims == 0 && stride == v->run) {
		v->run *= count;
	} else if (v->dims > 0 && stride == v->count[last] * v->stride[last]) {
		v->count[last] *= count;
	} else {
		v->count[v->dims] = count;
		v->stride[v->dims++] = stride;
	}
}

static void swap(uint64_t *a, uint64_t *b)
{
	uint64_t other = *a;

	*a = *b;
	*b = other;
}

void box_view(const struct box *outer, const struct box *inner, uint32_t elem_bytes,
              struct box_view *out)
{
	uint64_t stride = elem_bytes;

	*out = (struct box_view){.bytes = box_count(inner) * elem_bytes, .run = elem_bytes};
	for (uint32_t d = outer->ndim; d-- > 0;) {
		view_add(out, inner->extent[d], stride);
		out->offset += (inner->start[d] - outer->start[d]) * stride;
		stride *= outer->extent[d];
	}
	for (uint32_t low = 0, high = out->dims; low + 1 < high; low++) {
		high--;
		swap(&out->count[low], &out->count[high]);
		swap(&out->stride[low], &out->stride[high]);
	}
}

struct box_view box_view_flat(uint64_t bytes)
{
	return (struct box_view){.bytes = bytes, .run = bytes};
}

/* Where a walk over the runs is. */
struct walk {
	const struct box_view *view;
	uint64_t at;                    /* the run's place in the array */
	uint64_t index[FTMEM_MAX_DIMS]; /* its number in each dimension */
	uint64_t skip;                  /* bytes of it that do not belong to the range */
	uint64_t head, runs, tail;      /* still to come: the rest of a run, runs, part of one */
};

/* Runs of one length at even distances in the array. */
struct stretch {
	uint64_t at, run, count, stride;
};

static void walk_seek(struct walk *w, const struct box_view *v, uint64_t from)
{
	uint64_t number = 0;

	*w = (struct walk){.view = v, .at = v->offset, .skip = from};
	if (v->dims > 0) {
		number = from / v->run;
		w->skip = from % v->run;
	}
	for (uint32_t d = v->dims; d-- > 0;) {
		w->index[d] = number % v->count[d];
		w->at += w->index[d] * v->stride[d];
		number /= v->count[d];
	}
}

static void walk_init(struct walk *w, const struct box_view *v, uint64_t from, uint64_t bytes)
{
	walk_seek(w, v, from);
	if (v->dims == 0 || w->skip > 0)
		w->head = min_u64(v->run - w->skip, bytes);
	bytes -= w->head;
	if (bytes > 0) {
		w->runs = bytes / v->run;
		w->tail = bytes % v->run;
	}
}

/* count runs on, at most to the end of the innermost dimension. */
static void walk_step(struct walk *w, uint64_t count)
{
	const struct box_view *v = w->view;
	uint32_t d = v->dims;

	while (d-- > 0) {
		w->index[d] += count;
		w->at += count * v->stride[d];
		if (w->index[d] < v->count[d])
			return;
		w->at -= w->index[d] * v->stride[d];
		w->index[d] = 0;
		count = 1;
	}
}

static bool walk_next(struct walk *w, struct stretch *s)
{
	const struct box_view *v = w->view;

	if (w->head > 0) {
		*s = (struct stretch){.at = w->at + w->skip, .run = w->head, .count = 1};
		w->head = 0;
		walk_step(w, 1);
	} else if (w->runs > 0) {
		uint32_t last = v->dims - 1;
		uint64_t count = min_u64(w->runs, v->count[last] - w->index[last]);

		*s = (struct stretch){w->at, v->run, count, v->stride[last]};
		w->runs -= count;
		walk_step(w, count);
	} else if (w->tail > 0) {
		*s = (struct stretch){.at = w->at, .run = w->tail, .count = 1};
		w->tail = 0;
	} else {
		return false;
	}
	return true;
}

uint64_t box_view_at(const struct box_view *v, uint64_t from, uint64_t *follow)
{
	struct walk w;

	walk_seek(&w, v, from);
	*follow = v->run - w.skip;
	return w.at + w.skip;
}

/* Inlined, so that a constant run becomes one load and one store. */
static inline __attribute__((always_inline)) void copy_each(uint8_t *to, uint64_t to_step,
                                                            const uint8_t *from, uint64_t from_step,
                                                            uint64_t count, uint64_t run)
{
	for (; count > 0; count--, to += to_step, from += from_step)
		memcpy(to, from, run);
}

static void copy_runs(uint8_t *to, uint64_t to_step, const uint8_t *from, uint64_t from_step,
                      uint64_t count, uint64_t run)
{
	switch (run) {
	case 1: copy_each(to, to_step, from, from_step, count, 1); break;
	case 2: copy_each(to, to_step, from, from_step, count, 2); break;
	case 4: copy_each(to, to_step, from, from_step, count, 4); break;
	case 8: copy_each(to, to_step, from, from_step, count, 8); break;
	case 16: copy_each(to, to_step, from, from_step, count, 16); break;
	default: copy_each(to, to_step, from, from_step, count, run); break;
	}
}

void box_view_gather(const struct box_view *v, const uint8_t *array, uint64_t from, uint8_t *packed,
                     uint64_t bytes)
{
	struct stretch s;
	struct walk w;

	walk_init(&w, v, from, bytes);
	while (walk_next(&w, &s)) {
		copy_runs(packed, s.run, array + s.at, s.stride, s.count, s.run);
		packed += s.run * s.count;
	}
}

void box_view_scatter(const struct box_view *v, uint8_t *array, uint64_t from,
                      const uint8_t *packed, uint64_t bytes)
{
	struct stretch s;
	struct walk w;

	walk_init(&w, v, from, bytes);
	while (walk_next(&w, &s)) {
		copy_runs(array + s.at, s.stride, packed, s.run, s.count, s.run);
		packed += s.run * s.count;
	}
}
