/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bits flip in what ranks hold: in blocks, checksums and headers of slots, in their states, in
 * headers, maps, rails and runs of arenas. No more than parity makes up for, unless a schedule
 * is wild: then all that is left of the promises is that nothing wrong is restored.
 */
#include <string.h>

#include "sim.h"

#define TRIES 16

const char *const sim_place_name[SIM_PLACES] = {
	[SIM_DATA] = "data",
	[SIM_PARITY] = "parity",
	[SIM_SUMS] = "checksums",
	[SIM_SLOT_HEADER] = "header of a slot",
	[SIM_STATE] = "state of a slot",
	[SIM_ARENA_HEADER] = "header of an arena",
	[SIM_MAP] = "map of an arena",
	[SIM_RAILS] = "rails of an arena",
	[SIM_RUN_WORD] = "run of an arena",
};

struct target {
	uint32_t machine;
	struct sim_view *view;
	uint8_t *memory;           /* of the arena */
	enum sim_place_kind place;
	int slot;                  /* -1: the arena's head */
	struct sim_stored block;
	uint8_t *at;
	uint64_t bytes;
};

/* --- choosing --- */

static bool choose_arena(struct target *t)
{
	uint32_t machine = sim_chance(85) ? sim.machine_of[sim_random(sim.nodes)]
	                                  : sim_random(sim.machines);
	struct sim_machine *m = &sim.machine[machine];
	struct sim_buffer *b;

	if (m->arenas == 0)
		return false;
	b = m->arena[sim_random(m->arenas)].buffer;
	t->machine = machine;
	t->view = sim_view(b);
	t->memory = b->memory;
	return t->view;
}

static bool is_held(const struct target *t)
{
	enum slot_state state = t->view->published[t->slot].state;

	return state == SLOT_PREPARED || state == SLOT_COMMITTED;
}

struct pick {
	bool parity;
	uint32_t skip, count;
	struct sim_stored block;
};

static void pick_block(void *arg, const struct sim_stored *s)
{
	struct pick *p = arg;

	if (s->parity != p->parity)
		return;
	if (p->count++ == p->skip)
		p->block = *s;
}

static bool choose_block(struct target *t)
{
	struct pick p = {.parity = t->place == SIM_PARITY, .skip = UINT32_MAX};

	sim_view_blocks(t->view, pick_block, &p);
	if (p.count == 0)
		return false;
	p.skip = sim_random(p.count);
	p.count = 0;
	sim_view_blocks(t->view, pick_block, &p);
	t->block = p.block;
	t->at = t->view->slot[t->slot].base + p.block.offset;
	t->bytes = p.block.bytes;
	return true;
}

static bool point_into_slot(struct target *t)
{
	uint8_t *base = t->view->slot[t->slot].base;

	t->bytes = sizeof(uint64_t);
	t->at = base;
	if (t->place == SIM_STATE)
		return true;
	if (!is_held(t))
		return false;
	t->at = base + sizeof(uint64_t);
	t->bytes = offsetof(struct slot_header, filled_ns) - sizeof(uint64_t);
	if (t->place == SIM_SLOT_HEADER)
		return true;
	t->at = base + t->view->shape.sums_offset;
	t->bytes = t->view->shape.sums_bytes;
	return t->place == SIM_SUMS ? t->bytes > 0 : choose_block(t);
}

static bool point_into_head(struct target *t)
{
	const struct arena_header *h = &t->view->header;

	t->slot = -1;
	switch (t->place) {
	case SIM_ARENA_HEADER: t->at = t->memory, t->bytes = sizeof(*h); break;
	case SIM_MAP: t->at = t->memory + h->map_offset, t->bytes = h->map_bytes; break;
	case SIM_RAILS: t->at = t->memory + h->rails_offset, t->bytes = h->rails_bytes; break;
	default: t->at = t->memory + ARENA_RUN_OFFSET, t->bytes = sizeof(struct arena_run); break;
	}
	return true;
}

/* Some rank goes through what is stored just now. */
static bool somebody_restores(void)
{
	for (uint32_t i = 0; i < sim.ranks; i++)
		if (sim.process[i].alive && sim.process[i].restoring)
			return true;
	return false;
}

static bool somebody_repairs(void)
{
	for (uint32_t i = 0; i < sim.ranks; i++)
		if (sim.process[i].alive && sim.process[i].repairing)
			return true;
	return false;
}

static bool is_content(enum sim_place_kind place)
{
	return place <= SIM_SUMS;
}

static bool choose(struct target *t)
{
	/* Most of an arena is blocks. */
	t->place = (enum sim_place_kind)sim_random(sim_chance(50) ? SIM_PLACES : SIM_SUMS);
	if (!choose_arena(t))
		return false;
	/* What flips after it was verified goes into the regions, or into what is rebuilt. */
	if (is_content(t->place) && (somebody_restores() || (somebody_repairs() && !sim.wild)))
		t->place = (enum sim_place_kind)(SIM_SLOT_HEADER
		                                 + sim_random(SIM_PLACES - SIM_SLOT_HEADER));
	t->slot = (int)sim_random(2);
	return t->place <= SIM_STATE ? point_into_slot(t) : point_into_head(t);
}

/* --- hitting --- */

static void mark(struct sim_floor *f, const struct target *t)
{
	bool is_block = t->place == SIM_DATA || t->place == SIM_PARITY;

	/* Of a run that is not known nothing is lost. */
	if (t->place != SIM_RUN_WORD)
		sim_floor_hit(f, t->machine, t->view, t->slot, is_block ? &t->block : NULL);
}

static bool is_too_much(const struct target *t)
{
	struct sim_floor after = sim.floor;

	mark(&after, t);
	return sim_floor_is_left(&sim.floor, true) && !sim_floor_is_left(&after, true);
}

static void flip(const struct target *t)
{
	uint64_t bit[3];
	uint32_t bits = 1 + (sim_chance(40) ? sim_random(3) : 0);

	for (uint32_t i = 0; i < bits; i++) {
		bool again = false;

		bit[i] = (uint64_t)sim_random((uint32_t)t->bytes) * 8 + sim_random(8);
		for (uint32_t j = 0; j < i; j++)
			again = again || bit[j] == bit[i];
		if (!again)
			t->at[bit[i] / 8] ^= (uint8_t)(1u << bit[i] % 8);
	}
}

static void tell(const struct target *t)
{
	const struct commit_slot *s = t->slot < 0 ? NULL : &t->view->published[t->slot];

	sim_trace("bits flip on machine %u, arena of rank %u: %s%s%s", t->machine,
	          t->view->header.rank, sim_place_name[t->place],
	          s ? t->slot ? ", slot 1" : ", slot 0" : "",
	          s && !is_held(t) ? " (holds nothing)" : "");
}

static bool damage(const struct target *t)
{
	if (!sim.wild && is_too_much(t))
		return false;
	if (is_content(t->place) && somebody_repairs()) {
		sim.tally->hit_inside++;
		sim.hit_inside = sim.disturbed = true;
		sim.floor.clouded = sim.older.clouded = true;
	}
	mark(&sim.floor, t);
	mark(&sim.older, t);
	tell(t);
	flip(t);
	sim.damages++;
	sim.tally->damages[t->place]++;
	return true;
}

void sim_damage_some(void)
{
	uint32_t more = sim_chance(60) ? 1 : 1 + sim_random(sim.wild ? 8 : 3);

	sim_judge_memory();
	for (uint32_t tries = 0; more > 0 && tries < TRIES; tries++) {
		struct target t;

		memset(&t, 0, sizeof(t));
		more -= choose(&t) && damage(&t);
	}
	sim.floor_visible = sim.floor_visible && sim_judge_floor_is_visible();
}

static void damage_slot(uint32_t machine, struct sim_arena *a)
{
	struct target t = {.machine = machine, .memory = a->buffer->memory};

	t.view = sim_view(a->buffer);
	t.place = (enum sim_place_kind)(SIM_SUMS + sim_random(3));
	t.slot = t.view ? sim_view_find(t.view, sim.floor.stamp) : -1;
	if (t.slot >= 0 && point_into_slot(&t))
		(void)damage(&t);
}

void sim_damage_slots(void)
{
	uint32_t percent = 20 + sim_random(60);

	sim_judge_memory();
	for (uint32_t i = 0; i < sim.nodes && sim.floor.known; i++) {
		struct sim_machine *m = &sim.machine[sim.machine_of[i]];

		for (uint32_t j = 0; j < m->arenas && m->state == SIM_USED; j++)
			if (m->arena[j].epoch == sim.floor.epoch && sim_chance(percent))
				damage_slot(sim.machine_of[i], &m->arena[j]);
	}
	sim.floor_visible = sim.floor_visible && sim_judge_floor_is_visible();
}

void sim_damage_step(void)
{
	if (sim.damage_in == 0 || --sim.damage_in > 0)
		return;
	sim_damage_some();
	sim.damage_in = sim_chance(50) ? 1 + sim_random(1500) : 0;
}
