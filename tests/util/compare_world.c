/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "checksum.h"
#include "compare_world.h"
#include "test_random.h"

static uint32_t index_in(uint32_t set, uint32_t rank)
{
	return (uint32_t)__builtin_popcount(set & ((1u << rank) - 1));
}

static void add_cell(struct part *p, const struct shared *s, uint32_t number)
{
	struct region *r = &p->region[p->layout.regions];
	uint32_t last = s->box.ndim - 1;

	*r = (struct region){.name = (char *)s->name, .elem_bytes = s->elem_bytes, .box = s->box};
	r->box.extent[last] *= 2;
	r->bytes = box_count(&r->box) * s->elem_bytes;
	r->device = number > 0 ? (int)number : DEVICE_HOST;
	r->addr = calloc(r->bytes, 1);
	assert_non_null(r->addr);
	p->cell[p->layout.regions] = (struct share_cell){
		.region = p->layout.regions,
		.cell = {.box = s->box,
	                 .holders = (uint32_t)__builtin_popcount(s->holders),
	                 .ordinal = index_in(s->holders, p->net->rank)},
	};
	p->tensor[p->layout.regions++] = number;
}

/* Eight bytes at a time: there are megabytes. */
static void fill_random(uint64_t random, uint8_t *at, uint64_t bytes)
{
	for (uint64_t i = 0; i < bytes; i += sizeof(random)) {
		uint64_t word = test_random(&random);

		memcpy(at + i, &word, bytes - i < sizeof(word) ? bytes - i : sizeof(word));
	}
}

/* The same in all holders; what is not shared differs from rank to rank. */
static void fill(struct part *p, uint32_t i)
{
	struct region *r = &p->region[i];
	struct box_view view;
	uint8_t *packed;

	box_view(&r->box, &p->cell[i].cell.box, r->elem_bytes, &view);
	packed = malloc(view.bytes);
	assert_non_null(packed);
	fill_random(100 + p->net->rank, r->addr, r->bytes);
	fill_random(p->tensor[i], packed, view.bytes);
	box_view_scatter(&view, r->addr, 0, packed, view.bytes);
	free(packed);
}

void world_init(struct world *w, uint32_t ranks, const struct shared *s, uint32_t count)
{
	memset(w, 0, sizeof(*w));
	w->ranks = ranks;
	w->f = fake_net_new(ranks, 7);
	for (uint32_t i = 0; i < ranks; i++) {
		struct part *p = &w->part[i];

		p->f = w->f;
		p->net = fake_net_of(w->f, i);
		p->layout.region = p->region;
		for (uint32_t j = 0; j < count; j++)
			if (s[j].holders >> i & 1)
				add_cell(p, &s[j], j);
		for (uint32_t j = 0; j < p->layout.regions; j++)
			fill(p, j);
		assert_int_equal(compare_new(&p->layout, p->cell, p->layout.regions, &p->compare),
		                 0);
	}
}

void world_deinit(struct world *w)
{
	for (uint32_t i = 0; i < w->ranks; i++) {
		struct part *p = &w->part[i];

		compare_free(p->compare);
		for (uint32_t j = 0; j < p->layout.regions; j++)
			free(p->region[j].addr);
	}
	fake_net_free(w->f);
}

void world_flip(struct world *w, uint32_t rank, uint32_t tensor, uint64_t at, uint8_t bit)
{
	struct part *p = &w->part[rank];

	for (uint32_t i = 0; i < p->layout.regions; i++) {
		const struct region *r = &p->region[i];
		struct box_view view;
		uint64_t follow;

		if (p->tensor[i] != tensor)
			continue;
		box_view(&r->box, &p->cell[i].cell.box, r->elem_bytes, &view);
		((uint8_t *)r->addr)[box_view_at(&view, at, &follow)] ^= bit;
		return;
	}
	fail();
}

static int device_at(const struct part *p, const uint8_t *addr)
{
	uint32_t i = 0;

	while (i < p->layout.regions && p->region[i].addr != addr)
		i++;
	assert_in_range(i, 0, p->layout.regions - 1);
	return p->region[i].device;
}

/* What a copy backend does with the checks. */
static void take_sums(struct part *p)
{
	static uint8_t packed[COMPARE_BYTES];
	struct copy_job job = {0};

	compare_attach(p->compare, &job);
	for (uint32_t i = 0; i < job.checks; i++) {
		const struct copy_check *c = &job.check[i];

		assert_in_range(c->bytes, 1, COMPARE_BYTES);
		assert_int_equal(c->device, device_at(p, c->addr));
		box_view_gather(&c->view, c->addr, c->from, packed, c->bytes);
		job.check_sum[i] = checksum(packed, c->bytes);
	}
}

uint64_t world_word(struct world *w)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < w->ranks; i++) {
		take_sums(&w->part[i]);
		sum += compare_word(w->part[i].compare);
	}
	return sum;
}
