/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "../util/test_random.h"
#include "elastic.h"
#include "error.h"

#define POISON 0xb7

/* --- tensors --- */

/* Of 1 to 4 dimensions and up to 65536 elements: sometimes enough for several shares. */
void tensor_random(struct tensor *t, uint32_t number, uint64_t *random)
{
	static const uint32_t sizes[] = {1, 2, 4, 8};
	uint32_t bits = test_random_below(random, 3) ? 10 : 16, left;

	*t = (struct tensor){.home = TENSOR_GLOBAL, .ndim = 1 + test_random_below(random, 4)};
	snprintf(t->name, sizeof(t->name), "t%u", number);
	t->elem_bytes = sizes[test_random_below(random, 4)];
	left = UINT32_C(1) << bits;
	for (uint32_t d = 0; d < t->ndim; d++) {
		uint32_t most = d + 1 == t->ndim ? left : 1u << bits / t->ndim;

		most = most > left ? left : most;
		t->shape[d] = most / 2 + 1 + test_random_below(random, (most + 1) / 2);
		if (t->shape[d] > most)
			t->shape[d] = most;
		left /= (uint32_t)t->shape[d];
	}
}

uint64_t tensor_elements(const struct tensor *t)
{
	uint64_t count = 1;

	for (uint32_t d = 0; d < t->ndim; d++)
		count *= t->shape[d];
	return count;
}

void tensor_element(const struct tensor *t, uint64_t index, uint8_t *bytes)
{
	uint64_t state = index * UINT64_C(0x9e3779b97f4a7c15) + t->home, word;

	for (const char *at = t->name; *at; at++)
		state = state * 131 + (uint8_t)*at;
	word = test_random(&state);
	memcpy(bytes, &word, t->elem_bytes);
}

void tensor_walk(const struct tensor *t, const struct box *b,
                 void (*each)(void *arg, uint64_t index), void *arg)
{
	uint64_t at[FTMEM_MAX_DIMS];
	uint32_t d;

	memcpy(at, b->start, sizeof(at));
	do {
		uint64_t index = 0;

		for (d = 0; d < t->ndim; d++)
			index = index * t->shape[d] + at[d];
		each(arg, index);
		for (d = b->ndim; d-- > 0;) {
			if (++at[d] < b->start[d] + b->extent[d])
				break;
			at[d] = b->start[d];
		}
	} while (d != UINT32_MAX);
}

/* --- shardings --- */

void sharding_random(struct sharding *s, const struct tensor *t, uint32_t ranks, uint64_t *random)
{
	uint32_t grid, kind = test_random_below(random, 10);

	*s = (struct sharding){.kind = kind < 7   ? SHARDING_GRID
	                               : kind < 9 ? SHARDING_CYCLIC
	                                          : SHARDING_RANDOM,
	                       .seed = test_random(random)};
	s->dim[0] = test_random_below(random, t->ndim);
	s->dim[1] = (s->dim[0] + 1) % t->ndim;
	/* Data-parallel, all ranks apart, or something between; one row or a grid of them. */
	grid = test_random_below(random, 3) == 0 ? 1 : 1 + test_random_below(random, ranks);
	s->cut[1] = t->ndim > 1 ? 1 + test_random_below(random, grid < 4 ? grid : 4) : 1;
	s->cut[0] = grid / s->cut[1];
	s->halo = test_random_below(random, 4) ? 0 : test_random_below(random, 4);
	s->blocks = 1 + test_random_below(random, ranks * ELASTIC_BOXES);
	s->absent = test_random_below(random, 12) ? ranks : test_random_below(random, ranks);
}

/* Piece number i of count of b in one dimension; false: it is empty. */
static bool cut(struct box *b, uint32_t dim, uint64_t i, uint64_t count)
{
	uint64_t from = b->extent[dim] * i / count, to = b->extent[dim] * (i + 1) / count;

	b->start[dim] += from;
	b->extent[dim] = to - from;
	return to > from;
}

static void widen(struct box *b, uint32_t dim, uint64_t halo, uint64_t length)
{
	uint64_t from = b->start[dim] < halo ? 0 : b->start[dim] - halo;
	uint64_t to = b->start[dim] + b->extent[dim] + halo;

	b->start[dim] = from;
	b->extent[dim] = (to < length ? to : length) - from;
}

uint32_t sharding_boxes(const struct sharding *s, const struct tensor *t, uint32_t rank,
                        uint32_t ranks, struct box out[ELASTIC_BOXES])
{
	uint32_t place = rank % (s->cut[0] * s->cut[1]), count = 0;
	uint64_t random = s->seed + rank;
	struct box whole = {.ndim = t->ndim};

	memcpy(whole.extent, t->shape, sizeof(whole.extent));
	if (rank == s->absent)
		return 0;
	switch (s->kind) {
	case SHARDING_GRID:
		out[0] = whole;
		if (!cut(&out[0], s->dim[0], place / s->cut[1], s->cut[0])
		    || (s->cut[1] > 1 && !cut(&out[0], s->dim[1], place % s->cut[1], s->cut[1])))
			return 0;
		widen(&out[0], s->dim[0], s->halo, t->shape[s->dim[0]]);
		return 1;
	case SHARDING_CYCLIC:
		for (uint32_t i = rank; i < s->blocks; i += ranks) {
			out[count] = whole;
			count += cut(&out[count], s->dim[0], i, s->blocks);
		}
		return count;
	default:
		out[0] = whole;
		for (uint32_t d = 0; d < t->ndim; d++) {
			uint32_t from = test_random_below(&random, (uint32_t)t->shape[d]);
			uint32_t most = (uint32_t)t->shape[d] - from;

			out[0].start[d] = from;
			out[0].extent[d] = 1 + test_random_below(&random, most);
		}
		return 1;
	}
}

/* --- jobs --- */

void elastic_init(struct elastic_job *job, uint32_t ranks)
{
	job->ranks = ranks;
	job->rank = calloc(ranks, sizeof(*job->rank));
	assert_non_null(job->rank);
}

void elastic_deinit(struct elastic_job *job)
{
	for (uint32_t i = 0; i < job->ranks; i++) {
		struct elastic_rank *r = &job->rank[i];

		for (uint32_t k = 0; k < r->regions; k++) {
			free(r->region[k].memory);
			free(r->region[k].part);
			free(r->region[k].hits);
		}
		layout_free(r->layout);
		free(r->slot);
	}
	free(job->rank);
}

void elastic_private(struct tensor *t, uint32_t home)
{
	*t = (struct tensor){.name = "rng", .home = home, .elem_bytes = 1, .ndim = 1};
	t->shape[0] = 1 + (home * 7919u + 13) % 200;
}

struct writing {
	const struct tensor *tensor;
	uint8_t *at;
};

static void write_element(void *arg, uint64_t index)
{
	struct writing *w = arg;

	tensor_element(w->tensor, index, w->at);
	w->at += w->tensor->elem_bytes;
}

void elastic_add(struct elastic_rank *r, const struct tensor *t, const struct box *b, bool filled)
{
	struct elastic_region *g = &r->region[r->regions++];
	struct writing w;

	assert_true(r->regions <= ELASTIC_REGIONS);
	*g = (struct elastic_region){
		.tensor = *t, .box = *b, .bytes = box_count(b) * t->elem_bytes};
	g->memory = malloc(g->bytes);
	assert_non_null(g->memory);
	memset(g->memory, POISON, g->bytes);
	w = (struct writing){t, g->memory};
	if (filled)
		tensor_walk(t, b, write_element, &w);
}

struct comparing {
	const struct tensor *tensor;
	const uint8_t *at;
	bool good;
};

static void compare_element(void *arg, uint64_t index)
{
	struct comparing *c = arg;
	uint8_t bytes[8];

	tensor_element(c->tensor, index, bytes);
	c->good = c->good && memcmp(c->at, bytes, c->tensor->elem_bytes) == 0;
	c->at += c->tensor->elem_bytes;
}

bool elastic_good(const struct elastic_region *g)
{
	struct comparing c = {&g->tensor, g->memory, true};

	tensor_walk(&g->tensor, &g->box, compare_element, &c);
	return c.good;
}

void elastic_freeze(struct elastic_rank *r)
{
	struct region_set *set = NULL;

	assert_int_equal(region_set_new(&set), 0);
	for (uint32_t i = 0; i < r->regions; i++) {
		const struct elastic_region *g = &r->region[i];
		struct ftmem_region region = FTMEM_REGION_INIT;

		region.name = g->tensor.name;
		region.addr = g->memory;
		region.bytes = g->bytes;
		if (g->tensor.home == TENSOR_GLOBAL) {
			region.elem_bytes = g->tensor.elem_bytes;
			region.ndim = g->tensor.ndim;
			memcpy(region.shape, g->tensor.shape, sizeof(region.shape));
			memcpy(region.start, g->box.start, sizeof(region.start));
			memcpy(region.extent, g->box.extent, sizeof(region.extent));
		}
		if (region_set_add(set, &region, DEVICE_HOST))
			fail_msg("%s", error_msg());
	}
	assert_int_equal(layout_freeze(set, &r->layout), 0);
	region_set_free(set);
}

void elastic_stored(const struct layout *l, uint32_t home, uint32_t p, struct plan_stored *out)
{
	const struct region *g = &l->region[l->piece[p].region];

	*out = (struct plan_stored){.rank = home, .piece = p, .box = l->piece[p].box};
	snprintf(out->tensor.name, sizeof(out->tensor.name), "%s", g->name);
	if (g->box.ndim == 0) {
		out->tensor.home = home;
		out->tensor.elem_bytes = out->tensor.ndim = 1;
		out->tensor.shape[0] = g->bytes;
		out->box = (struct box){.ndim = 1, .extent = {g->bytes}};
		return;
	}
	out->tensor.home = TENSOR_GLOBAL;
	out->tensor.elem_bytes = g->elem_bytes;
	out->tensor.ndim = g->box.ndim;
	memcpy(out->tensor.shape, g->shape, sizeof(g->shape));
}
