/* SPDX-License-Identifier: BSD-3-Clause */
/* ftmem_repair() and ftmem_forget(), called by all ranks, and what they promise. */
#include <stdatomic.h>

#include "sim.h"

/* --- repair --- */

/* The first rank that calls finds what is damaged. */
static struct sim_repair *begin(struct sim_process *p)
{
	struct sim_repair *r = &sim.repair[p->repairs++];

	if (r->begun)
		return r;
	r->begun = true;
	sim.tally->repairs++;
	if (sim.damaging && sim_chance(60))
		sim_damage_some();
	if (sim.damaging && sim_chance(50))
		sim_damage_slots();
	sim_judge_memory();
	r->damages = sim.damages;
	/* A state may be published anew before the call begins. */
	r->marked = sim.floor.known && sim.floor.bads > 0;
	r->content = sim.floor.content;
	return r;
}

/* The run is noted as it was. */
static bool run_is_noted(const struct sim_process *p, const struct sim_arena *a)
{
	const struct arena_run *run = (const void *)(a->buffer->memory + ARENA_RUN_OFFSET);
	uint64_t entered = atomic_load(&run->entered);

	return atomic_load(&run->inverse) == ~entered && entered == p->ft->incarnation;
}

static void judge_arena(const struct sim_process *p, const struct sim_arena *a)
{
	const struct sim_view *v = sim_view(a->buffer);

	if (!v || a->epoch != p->ft->epoch->number)
		return;
	if (!sim_view_head_is_whole(a->buffer))
		sim_break("header, map or rails of rank %u are damaged after a repair", a->rank);
	else if (!run_is_noted(p, a))
		sim_break("the run of rank %u's arena is damaged after a repair", a->rank);
	for (int i = 0; i < 2; i++)
		if (v->published[i].state == SLOT_COMMITTED && !sim_view_is_good(v, i))
			sim_break("rank %u's slot %d is damaged after a repair", a->rank, i);
}

/* All is whole, whatever was damaged before. */
static void judge_whole(const struct sim_process *p, const struct sim_repair *r, uint64_t blocks)
{
	sim_judge_memory();
	if (r->damages != sim.damages || sim.hit_inside)
		return;
	if (!sim.floor.known || sim.floor.epoch != p->ft->epoch->number)
		sim_break("a repair succeeds, though no version is on all ranks");
	else if (!sim_floor_is_whole(&sim.floor))
		sim_break("after a repair version %u of run %u is not whole",
		          sim.floor.content.version, sim.floor.content.run);
	for (uint32_t i = 0; i < sim.nodes; i++) {
		const struct sim_machine *m = &sim.machine[sim.machine_of[i]];

		for (uint32_t j = 0; j < m->arenas && m->state == SIM_USED; j++)
			judge_arena(p, &m->arena[j]);
	}
	if (blocks > 0 && sim.damages == 0)
		sim_break("%llu blocks are mended, though nothing was damaged",
		          (unsigned long long)blocks);
	if (blocks == 0 && r->marked && sim_content_cmp(r->content, sim.floor.content) == 0)
		sim_break("nothing is mended, though version %u was damaged", r->content.version);
}

/* What was refused is not there any more; but what is left is the version before. */
static void judge_refused(void)
{
	sim_judge_memory();
	if (sim_floor_is_left(&sim.floor, false))
		sim_break("version %u of run %u is not repaired, though parity covers its damage: "
		          "%s", sim.floor.content.version, sim.floor.content.run, error_msg());
	sim.tally->beyond++;
	if (!sim.floor.known || !sim_floor_is_left(&sim.older, false))
		return;
	sim.beyond = sim.floor.content;
	sim_floor_drop(&sim.floor);
	sim.floor = sim.older;
	sim.older = (struct sim_floor){0};
	sim.tally->spared++;
	sim_trace("version %u of run %u is what is left", sim.floor.content.version,
	          sim.floor.content.run);
	/* Whoever fills the next version is to die. */
	if (sim_chance(60) && sim.target < 0) {
		sim.target = sim_chance(50) ? STEP_EXCHANGE : STEP_PREPARE;
		sim.target_count = 1;
	}
}

static void judge_repair(struct sim_process *p, const struct sim_repair *r, int rc, uint64_t blocks)
{
	switch (rc) {
	case 0:
		sim.tally->mended += blocks > 0;
		sim.tally->blocks += blocks;
		judge_whole(p, r, blocks);
		break;
	case FTMEM_ECORRUPT:
		if (!sim.hit_inside)
			judge_refused();
		break;
	case FTMEM_FRESH:
		if (sim.floor.known && sim.floor.epoch == p->ft->epoch->number
		    && sim_judge_floor_is_visible())
			sim_break("version %u is there, and ftmem_repair() finds nothing",
			          sim.floor.content.version);
		break;
	default:
		if (rc != FTMEM_EINVAL || p->seals == 0)
			sim_break("ftmem_repair() fails on rank %u: %s", p->rank, error_msg());
	}
}

bool sim_repair(struct sim_process *p)
{
	struct sim_repair *r = begin(p);
	uint64_t blocks = 0;
	int rc;

	sim_does(p, "ftmem_repair()");
	p->repairing = true;
	sim_step(STEP_MEND);
	rc = ftmem_repair(p->ft, &blocks);
	sim_step(STEP_MENDED);
	p->repairing = false;
	sim_trace("rank %u: ftmem_repair() returns %s%s%s, %llu blocks mended", p->rank,
	          ftmem_strerror(rc), rc < 0 ? ": " : "", rc < 0 ? error_msg() : "",
	          (unsigned long long)blocks);
	if (sim_judge_excuses(rc)) {
		sim.tally->repairs_failed++;
		return false;
	}
	if (r->over && r->found != rc && !sim.hit_inside)
		sim_break("ranks disagree: ftmem_repair() returns %d on rank %u, %d on another",
		          rc, p->rank, r->found);
	if (!r->over) {
		r->over = true;
		r->found = rc;
		judge_repair(p, r, rc, blocks);
	}
	return rc >= 0 || rc == FTMEM_EINVAL || (rc == FTMEM_ECORRUPT && !sim.hit_inside);
}

/* --- forget --- */

void sim_forget_joined(struct sim_process *p)
{
	sim.forgetting |= 1u << p->rank;
	if (sim.forgetting != (1u << sim.ranks) - 1 || sim.half_forgotten)
		return;
	sim_trace("all ranks may forget");
	sim.half_forgotten = true;
	sim.doubtful = p->run;
	sim_floor_drop(&sim.floor);
	sim_floor_drop(&sim.older);
	sim.fallback = (struct sim_content){0, 0};
	sim.floor_visible = false;
	sim.tally->forgets_cut++;
}

static bool anything_is_held(void)
{
	for (uint32_t i = 0; i < sim.nodes; i++) {
		const struct sim_machine *m = &sim.machine[sim.machine_of[i]];

		for (uint32_t j = 0; j < 2 * m->arenas && m->state == SIM_USED; j++) {
			const struct sim_view *v = sim_view(m->arena[j / 2].buffer);

			if (v && (v->published[j % 2].state == SLOT_PREPARED
			          || v->published[j % 2].state == SLOT_COMMITTED))
				return true;
		}
	}
	return false;
}

/* All have erased what they had when the first one is told so. */
static void judge_forgotten(struct sim_process *p)
{
	if (sim.runs > p->run)
		return;
	if (!sim.half_forgotten)
		sim_break("rank %u forgets before all may", p->rank);
	if (anything_is_held())
		sim_break("something is held after ftmem_forget()");
	sim.tally->forgotten++;
	sim.tally->forgets_cut--;
	sim.half_forgotten = false;
	sim.forgetting = 0;
	if (!sim_judge_anything_is_hidden())
		sim.forgotten = p->run;
	sim.restored = (struct sim_content){0, 0};
	sim.found = FTMEM_FRESH;
	sim.runs++;
	sim.all[sim.runs] = (1u << sim.ranks) - 1;
}

bool sim_forget(struct sim_process *p)
{
	int rc;

	sim_does(p, "ftmem_forget()");
	p->forgetting = true;
	rc = ftmem_forget(p->ft);
	sim_step(STEP_FORGOTTEN);
	p->forgetting = false;
	if (!sim_well(p, rc))
		return false;
	judge_forgotten(p);
	p->run++;
	sim_judge_incarnation(p->run, p->ft->incarnation);
	return true;
}
