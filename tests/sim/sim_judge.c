/* SPDX-License-Identifier: BSD-3-Clause */
/* What was promised (docs/protocol.md, section 1). */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

uint32_t sim_run_of(uint64_t incarnation)
{
	uint32_t run = sim.runs;

	while (run > 0 && sim.incarnation[run] != incarnation)
		run--;
	return run;
}

/* Whether some slot in reach holds the newest version, in the epoch in which all held it. */
bool sim_judge_floor_is_visible(void)
{
	for (uint32_t node = 0; node < sim.nodes && sim.floor.known; node++) {
		const struct sim_machine *m = &sim.machine[sim.machine_of[node]];

		for (uint32_t i = 0; i < m->arenas; i++) {
			struct sim_buffer *b = m->arena[i].buffer;
			const struct sim_view *v = sim_view(b);
			int slot = v && v->header.epoch == sim.floor.epoch
			                   ? sim_view_find(v, sim.floor.stamp)
			                   : -1;

			if (slot >= 0 && sim_view_head_is_whole(b)
			    && sim_view_can_be_read(v, slot))
				return true;
		}
	}
	return false;
}

/* --- what ranks got --- */

static bool nothing_is_lost(void)
{
	if (sim.damages > 0 || sim.half_forgotten)
		return false;
	for (uint32_t i = 0; i < sim.machines; i++)
		if (sim.machine[i].state != SIM_USED || sim.machine[i].losses > 0)
			return false;
	return true;
}

/* Nothing older than that is to come back; run 0: nothing is left. */
static struct sim_content least(void)
{
	static const struct sim_content nothing = {0, 0};

	if (sim_floor_is_left(&sim.floor, false))
		return sim.floor.content;
	if (sim_content_cmp(sim.fallback, sim.older.content) == 0
	    && sim_floor_is_left(&sim.older, false))
		return sim.older.content;
	return nothing;
}

static void judge_content(struct sim_process *p)
{
	struct sim_content c = p->got, floor = least();

	if (p->parts == 0)
		return;
	if (c.run == 0) {
		sim_break("rank %u gets as version %u what was never snapshotted", p->rank,
		          c.version);
		return;
	}
	if (sim.restored.run != 0 && sim_content_cmp(c, sim.restored) != 0)
		sim_break("mixed: rank %u gets version %u of run %u, another one version %u of "
		          "run %u", p->rank, c.version, c.run, sim.restored.version,
		          sim.restored.run);
	sim.restored = c;
	if (sim.went[c.run][c.version] != sim.all[c.run])
		sim_break("version %u of run %u was not snapshotted by all ranks", c.version,
		          c.run);
	else if (c.run <= sim.forgotten)
		sim_break("version %u of run %u is restored, which was forgotten", c.version,
		          c.run);
	else if (!sim.unordered && sim_content_cmp(c, floor) < 0)
		sim_break("version %u of run %u is restored, but all held version %u of run %u",
		          c.version, c.run, floor.version, floor.run);
	if (sim_content_cmp(c, sim.beyond) == 0)
		sim.beyond = (struct sim_content){0, 0};
}

bool sim_judge_excuses(int rc)
{
	return sim.disturbed && (rc == FTMEM_ENET || rc == FTMEM_ETIMEOUT || rc == FTMEM_ESMP
	                         || (rc == FTMEM_ECORRUPT && sim.hit_inside));
}

/* What was damaged before is whole. */
static void judge_whole(void)
{
	sim.half_forgotten = false;
	sim.doubtful = 0;
	/* Too much was gone of what was newer. */
	if (sim.restored.run > 0 && sim_content_cmp(sim.restored, sim.floor.content) < 0)
		sim_floor_drop(&sim.floor);
	sim_judge_memory();
	if (sim.damages != sim.start_damages || sim.unordered || sim.restored.run == 0)
		return;
	if (!sim_floor_is_whole(&sim.floor))
		sim_break("version %u of run %u was restored, but is not whole",
		          sim.restored.version, sim.restored.run);
}

static void judge_nothing(const struct sim_process *p, int rc)
{
	struct sim_content floor = least();

	if (rc != FTMEM_FRESH && rc != FTMEM_ELOST && (rc != FTMEM_ECORRUPT || sim.damages == 0))
		sim_break("ftmem_restore() fails on rank %u: %s", p->rank, error_msg());
	else if (floor.run > 0)
		sim_break("version %u of run %u was on all ranks and is not found: %s",
		          floor.version, floor.run, rc == FTMEM_FRESH ? "fresh" : error_msg());
	else if (rc == FTMEM_FRESH && sim.floor_visible)
		sim_break("version %u of run %u is there and taken for nothing",
		          sim.floor.content.version, sim.floor.content.run);
	else if (rc == FTMEM_ELOST && !sim.floor.known && nothing_is_lost())
		sim_break("refused, though nothing is lost and no version was on all ranks");
}

void sim_judge_restore(struct sim_process *p, int rc)
{
	bool first = !sim.chosen;

	if (sim_judge_excuses(rc)) {
		sim.tally->failed++;
		return;
	}
	if (sim.chosen && rc != sim.found)
		sim_break("ranks disagree: rank %u gets result %d, another one %d: %s", p->rank,
		          rc, sim.found, error_msg());
	if (rc == 0)
		judge_content(p);
	else
		judge_nothing(p, rc);
	sim.chosen = true;
	sim.found = rc;
	if (!first)
		return;
	sim.tally->restores += rc == 0;
	sim.tally->fresh += rc == FTMEM_FRESH;
	sim.tally->refused += rc == FTMEM_ELOST;
	sim.tally->corrupt += rc == FTMEM_ECORRUPT;
	if (rc == 0)
		judge_whole();
	if (rc != FTMEM_FRESH)
		return;
	sim_floor_drop(&sim.floor);
	sim_floor_drop(&sim.older);
	sim.half_forgotten = false;
}

bool sim_judge_anything_is_hidden(void)
{
	for (uint32_t i = 0; i < sim.machines; i++)
		if (sim.machine[i].state == SIM_AWAY && sim.machine[i].arenas > 0)
			return true;
	return false;
}

void sim_judge_incarnation(uint32_t run, uint64_t incarnation)
{
	bool behind = false;

	if (sim.incarnation[run] != 0 && sim.incarnation[run] != incarnation)
		sim_break("ranks of run %u number it differently", run);
	sim.incarnation[run] = incarnation;
	for (uint32_t r = 1; r < run; r++) {
		behind = behind || sim.incarnation[r] >= incarnation;
		if (sim.incarnation[r] == incarnation && sim.flaw == SIM_SOUND)
			sim_break("runs %u and %u bear the same incarnation", r, run);
	}
	sim.unordered = sim.unordered || (behind && sim_judge_anything_is_hidden());
}

/* When a start is over: who restored has made it whole again. */
void sim_judge_end(void)
{
	bool all = sim.chosen && sim.found == 0;

	for (uint32_t i = 0; i < sim.ranks; i++)
		all = all && sim.process[i].progress >= STAGE_RESTORED;
	sim_judge_memory();
	if (!all || sim.restored.run == 0 || sim.unordered || sim.disturbed)
		return;
	if (!sim.floor.known || sim_content_cmp(sim.floor.content, sim.restored) < 0)
		sim_break("version %u of run %u was restored, but is not on all ranks",
		          sim.restored.version, sim.restored.run);
}
