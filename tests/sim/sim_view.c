/* SPDX-License-Identifier: BSD-3-Clause */
/* What lies where in arenas, and what their ranks published in them: known from when they were
 * made, so that it stays known when they are damaged. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

/* --- views --- */

struct sim_view *sim_view(struct sim_buffer *b)
{
	const struct arena_header *h = (const void *)b->memory;
	struct sim_view *v;

	if (b->view || h->magic != ARENA_MAGIC)
		return b->view;
	sim.outside++;
	v = calloc(1, sizeof(*v));
	sim_require(v, "memory");
	v->header = *h;
	v->head = malloc(h->slot_offset[0]);
	v->rail = calloc(h->rails, sizeof(*v->rail));
	sim_require(v->head && v->rail, "memory");
	memcpy(v->head, b->memory, h->slot_offset[0]);
	sim_require(arena_check_rails(h, b->memory + h->rails_offset, v->rail, &v->shape) == 0,
	            "an arena is whole when it is made");
	for (int i = 0; i < 2; i++)
		slot_init(&v->slot[i], &v->shape, b->memory + h->slot_offset[i]);
	sim.outside--;
	b->view = v;
	return v;
}

void sim_view_free(struct sim_view *v)
{
	if (!v)
		return;
	free(v->head);
	free(v->rail);
	free(v);
}

bool sim_view_head_is_whole(const struct sim_buffer *b)
{
	const struct arena_header *h = &b->view->header;

	return memcmp(b->memory, h, sizeof(*h)) == 0
	       && memcmp(b->memory + h->map_offset, b->view->head + h->map_offset, h->map_bytes)
	                  == 0
	       && memcmp(b->memory + h->rails_offset, b->view->head + h->rails_offset,
	                 h->rails_bytes)
	                  == 0;
}

/* --- what was published --- */

struct sim_view *sim_view_of_slot(const struct slot *s, int *number)
{
	for (uint32_t i = 0; i < SIM_HANDLES; i++) {
		struct sim_buffer *b = sim.handle[i].buffer;
		struct sim_view *v = b ? sim_view(b) : NULL;

		for (int j = 0; v && j < 2; j++)
			if (v->slot[j].base == s->base) {
				*number = j;
				return v;
			}
	}
	return NULL;
}

static bool holds(enum slot_state state)
{
	return state == SLOT_PREPARED || state == SLOT_COMMITTED;
}

void sim_view_publish(const struct slot *s, enum slot_state state, struct stamp stamp)
{
	int i = 0;
	struct sim_view *v = sim_view_of_slot(s, &i);

	if (!v)
		return;
	v->published[i].state = state;
	if (state != SLOT_COMMITTED)
		v->published[i].stamp = stamp;
}

int sim_view_find(const struct sim_view *v, struct stamp stamp)
{
	for (int i = 0; i < 2; i++)
		if (holds(v->published[i].state) && stamp_cmp(v->published[i].stamp, stamp) == 0)
			return i;
	return -1;
}

bool sim_view_can_be_read(const struct sim_view *v, int slot)
{
	struct stamp stamp;
	bool damaged = false;
	enum slot_state state = slot_read(&v->slot[slot], &stamp, &damaged);

	return holds(state) && !damaged && stamp_cmp(stamp, v->published[slot].stamp) == 0;
}

bool sim_view_is_good(const struct sim_view *v, int slot)
{
	bool good;

	sim.outside++;
	good = v->published[slot].state == SLOT_COMMITTED && sim_view_can_be_read(v, slot)
	       && slot_verify(&v->slot[slot], NULL, NULL) == 0;
	sim.outside--;
	return good;
}

/* --- blocks --- */

static void visit_data(const struct sim_view *v,
                       void (*visit)(void *arg, const struct sim_stored *s), void *arg)
{
	const struct slot_shape *shape = &v->shape;
	const struct rail *r = &v->rail[0];
	uint32_t me = shape->member[0];

	for (uint32_t chunk = 0; chunk < rail_k(r); chunk++)
		for (uint32_t row = 0; row < rail_chunk_rows(r, me); row++) {
			struct sim_stored s = {
				.rail = r->id,
				.stripe = rail_stripe_of_chunk(r, me, chunk),
				.row = row,
				.offset = shape->data_offset + rail_data_offset(r, me, chunk, row),
				.bytes = rail_data_len(r, me, chunk, row),
				.sum = slot_data_sum_index(shape, 0, me, chunk, row),
			};

			if (s.bytes > 0)
				visit(arg, &s);
		}
}

static void visit_parity(const struct sim_view *v, uint32_t rail,
                         void (*visit)(void *arg, const struct sim_stored *s), void *arg)
{
	const struct slot_shape *shape = &v->shape;
	const struct rail *r = &v->rail[rail];

	for (uint32_t p = 0; p < r->m; p++)
		for (uint32_t row = 0; row < rail_rows(r); row++) {
			struct sim_stored s = {
				.rail = r->id,
				.stripe = rail_stripe_of_parity(r, shape->member[rail], p),
				.row = row,
				.parity = true,
				.offset = shape->parity_offset[rail] + p * rail_parity_bytes(r)
			                  + (uint64_t)row * r->block_bytes,
				.bytes = rail_parity_len(r, row),
				.sum = slot_parity_sum_index(shape, rail, p, row),
			};

			if (s.bytes > 0)
				visit(arg, &s);
		}
}

void sim_view_blocks(const struct sim_view *v,
                     void (*visit)(void *arg, const struct sim_stored *s), void *arg)
{
	visit_data(v, visit, arg);
	for (uint32_t i = 0; i < v->shape.rails; i++)
		visit_parity(v, i, visit, arg);
}
