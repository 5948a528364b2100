/* SPDX-License-Identifier: BSD-3-Clause */
/* Which tensors there are, and who has which boxes of them. */
#include "shards.h"

#include <stdio.h>
#include <string.h>

#include "mpi_check.h"
#include "test_random.h"

#define CELLS_MAX 12

/* --- the tensors --- */

static void add_tensor(struct shards *s, const char *name, bool moment, uint32_t elem_bytes,
                       uint32_t ndim, const uint64_t *shape)
{
	struct shards_tensor *t = &s->tensor[s->tensors++];

	CHECK(s->tensors <= SHARDS_TENSORS);
	*t = (struct shards_tensor){
		.moment = moment,
		.elem_bytes = elem_bytes,
		.ndim = ndim,
	};
	snprintf(t->name, sizeof(t->name), "%s", name);
	memcpy(t->shape, shape, ndim * sizeof(*shape));
}

void shards_model(struct shards *s)
{
	/* The first is large enough that several ranks share it. */
	const uint64_t embed[] = {151, 223}, up[] = {29, 83}, conv[] = {13, 7, 5, 3};
	const uint64_t bias[] = {257}, step[] = {1};

	s->tensors = 0;
	add_tensor(s, "embed", false, 4, 2, embed);
	add_tensor(s, "embed.m", true, 1, 2, embed);
	add_tensor(s, "embed.v", true, 2, 2, embed);
	add_tensor(s, "up", false, 2, 2, up);
	add_tensor(s, "up.m", true, 8, 2, up);
	add_tensor(s, "conv", false, 1, 4, conv);
	add_tensor(s, "conv.m", true, 3, 4, conv);
	add_tensor(s, "bias", false, 8, 1, bias);
	add_tensor(s, "step", false, 8, 1, step);
}

void shards_random_model(struct shards *s, uint64_t *random)
{
	static const uint32_t sizes[] = {1, 2, 3, 4, 8, SHARDS_ELEM_MAX};
	uint32_t count = 1 + test_random_below(random, 6);

	s->tensors = 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t ndim = 1 + test_random_below(random, test_random_below(random, 6) ? 3 : 8);
		uint32_t left = test_random_below(random, 4) ? 8000 : 60000;
		uint32_t first = test_random_below(random, ndim);
		bool moment = test_random_below(random, 2);
		uint64_t shape[FTMEM_MAX_DIMS];
		char name[32];

		for (uint32_t j = 0; j < ndim; j++) {
			uint64_t *size = &shape[(first + j) % ndim];
			uint32_t most = j == 0 && ndim > 1 ? left / 4 : left;

			*size = 1 + test_random_below(random, j > 1 && most > 9 ? 9 : most);
			left /= (uint32_t)*size;
		}
		snprintf(name, sizeof(name), "tensor %u", i);
		add_tensor(s, name, moment, sizes[test_random_below(random, 6)], ndim, shape);
	}
}

static uint64_t tensor_bytes(const struct shards_tensor *t)
{
	uint64_t bytes = t->elem_bytes;

	for (uint32_t d = 0; d < t->ndim; d++)
		bytes *= t->shape[d];
	return bytes;
}

uint64_t shards_model_bytes(const struct shards *s)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < s->tensors; i++)
		bytes += tensor_bytes(&s->tensor[i]);
	return bytes;
}

/* --- kinds of shards --- */

const char *shards_kind_text(enum shards_kind kind)
{
	static const char *const text[] = {"whole", "ZeRO-1", "rows", "columns", "grid"};

	return text[kind];
}

struct span {
	uint64_t start[FTMEM_MAX_DIMS], extent[FTMEM_MAX_DIMS];
};

static struct span whole_span(const struct shards_tensor *t)
{
	struct span span = {0};

	memcpy(span.extent, t->shape, sizeof(span.extent));
	return span;
}

/* Part number i of so many near-equal ones along a dimension. */
static void cut_span(struct span *span, uint32_t d, uint32_t i, uint32_t parts)
{
	uint64_t extent = span->extent[d], from = extent * i / parts;

	span->start[d] += from;
	span->extent[d] = extent * (i + 1) / parts - from;
}

/* Elements from .. to - 1, in row-major order, of what span has from dimension d on. */
static void add_flat(struct shards *s, const struct shards_tensor *t, struct span span, uint32_t d,
                     uint64_t from, uint64_t to)
{
	uint64_t inner = 1, first, last;

	for (uint32_t i = d + 1; i < t->ndim; i++)
		inner *= t->shape[i];
	first = (from + inner - 1) / inner;
	last = to / inner;
	span.extent[d] = 1;
	if (first > last) {
		span.start[d] = last;
		add_flat(s, t, span, d + 1, from - last * inner, to - last * inner);
		return;
	}
	if (from < first * inner) {
		span.start[d] = first - 1;
		add_flat(s, t, span, d + 1, from - (first - 1) * inner, inner);
	}
	if (to > last * inner) {
		span.start[d] = last;
		add_flat(s, t, span, d + 1, 0, to - last * inner);
	}
	span.start[d] = first;
	span.extent[d] = last - first;
	shards_box(s, t, span.start, span.extent);
}

static uint32_t grid_rows(uint32_t ranks)
{
	uint32_t rows = 1;

	for (uint32_t i = 2; i * i <= ranks; i++)
		if (ranks % i == 0)
			rows = i;
	return rows;
}

static void add_kind(struct shards *s, const struct shards_tensor *t, enum shards_kind kind)
{
	uint32_t rank = s->c.rank, ranks = s->ranks, columns = ranks / grid_rows(ranks);
	uint64_t count = tensor_bytes(t) / t->elem_bytes;
	struct span span = whole_span(t);

	if (kind == SHARDS_ZERO1 && t->moment) {
		add_flat(s, t, span, 0, count * rank / ranks, count * (rank + 1) / ranks);
		return;
	}
	if (kind == SHARDS_ROWS)
		cut_span(&span, 0, rank, ranks);
	if (kind == SHARDS_COLUMNS)
		cut_span(&span, t->ndim - 1, ranks - 1 - rank, ranks);
	if (kind == SHARDS_GRID && t->ndim > 1)
		cut_span(&span, 0, rank / columns, ranks / columns);
	if (kind == SHARDS_GRID)
		cut_span(&span, t->ndim - 1, rank % columns, columns);
	shards_box(s, t, span.start, span.extent);
}

void shards_shape(struct shards *s, enum shards_kind kind)
{
	shards_boxes(s);
	for (uint32_t i = 0; shards_runs(s) && i < s->tensors; i++)
		add_kind(s, &s->tensor[i], kind);
}

/* --- random shards --- */

/* A tensor in disjoint cells; how many. */
static uint32_t random_cells(const struct shards_tensor *t, struct span *cell, uint64_t *random)
{
	uint32_t cuts = test_random_below(random, CELLS_MAX), count = 1;

	cell[0] = whole_span(t);
	for (uint32_t i = 0; i < cuts; i++) {
		struct span *one = &cell[test_random_below(random, count)];
		uint32_t d = test_random_below(random, t->ndim);
		uint64_t at;

		if (one->extent[d] < 2)
			continue;
		at = 1 + test_random_below(random, (uint32_t)one->extent[d] - 1);
		cell[count] = *one;
		cell[count].start[d] += at;
		cell[count++].extent[d] -= at;
		one->extent[d] = at;
	}
	return count;
}

static struct span random_span(const struct shards_tensor *t, uint64_t *random)
{
	struct span span = {0};

	for (uint32_t d = 0; d < t->ndim; d++) {
		span.start[d] = test_random_below(random, (uint32_t)t->shape[d]);
		span.extent[d] =
			1 + test_random_below(random, (uint32_t)(t->shape[d] - span.start[d]));
	}
	return span;
}

/* Cells with one or more of some of the ranks; each of the others has nothing, or a box
 * that overlaps them. */
static void add_random(struct shards *s, const struct shards_tensor *t, bool all, uint64_t *random)
{
	uint32_t ranks = s->ranks, certain = test_random_below(random, ranks);
	uint32_t among = (uint32_t)test_random(random) | 1u << certain;
	uint32_t more = test_random_below(random, 3), cells;
	struct span cell[CELLS_MAX];

	if (test_random_below(random, 2))
		among = ~0u;
	cells = random_cells(t, cell, random);
	for (uint32_t i = 0; i < cells; i++) {
		uint32_t holders = (uint32_t)test_random(random) & (uint32_t)test_random(random);
		uint32_t one = test_random_below(random, ranks);
		bool left_out = !all && test_random_below(random, 3) == 0;

		while (!(among >> one & 1))
			one = (one + 1) % ranks;
		holders = (more == 0 ? 0 : more == 1 ? holders : ~0u) | 1u << one;
		if (!left_out && (holders & among) >> s->c.rank & 1)
			shards_box(s, t, cell[i].start, cell[i].extent);
	}
	for (uint32_t i = 0; i < ranks; i++) {
		struct span span = random_span(t, random);
		uint32_t which = test_random_below(random, 3);

		if (i == s->c.rank && !(among >> i & 1) && which > 0)
			shards_box(s, t, span.start, span.extent);
	}
}

void shards_random_shape(struct shards *s, bool all, uint64_t *random)
{
	uint32_t like = test_random_below(random, 3 * SHARDS_KINDS);
	uint64_t own;

	shards_boxes(s);
	for (uint32_t i = 0; i < s->tensors; i++) {
		uint32_t kind = like < SHARDS_KINDS ? like
		                                    : test_random_below(random, 2 * SHARDS_KINDS);

		/* Ranks that do not run draw as many numbers as the others. */
		own = test_random(random);
		if (!shards_runs(s))
			continue;
		if (kind < SHARDS_KINDS)
			add_kind(s, &s->tensor[i], (enum shards_kind)kind);
		else
			add_random(s, &s->tensor[i], all, &own);
	}
}
