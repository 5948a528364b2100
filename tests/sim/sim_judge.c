/* SPDX-License-Identifier: BSD-3-Clause */
/* What was promised (docs/protocol.md, section 1). */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define CANDIDATES (2 * SIM_ARENAS * SIM_NODES)

static int content_cmp(struct sim_content a, struct sim_content b)
{
	if (a.run != b.run)
		return a.run < b.run ? -1 : 1;
	return (a.version > b.version) - (a.version < b.version);
}

/* --- what the memory holds --- */

/* A version of an epoch that some slots hold. */
struct candidate {
	uint64_t epoch;
	struct stamp stamp;
	uint32_t held, ranks;               /* bits; how many the epoch has */
	uint32_t machine[SIM_RANKS];
	struct sim_buffer *buffer;          /* of one of its arenas */
};

static struct candidate *candidate_of(struct candidate *list, uint32_t *count, uint64_t epoch,
                                      struct stamp stamp)
{
	for (uint32_t i = 0; i < *count; i++)
		if (list[i].epoch == epoch && stamp_cmp(list[i].stamp, stamp) == 0)
			return &list[i];
	memset(&list[*count], 0, sizeof(list[0]));
	list[*count].epoch = epoch;
	list[*count].stamp = stamp;
	return &list[(*count)++];
}

static bool holds(const struct slot_header *s)
{
	uint64_t state = atomic_load(&s->state) & 0xff;

	return state == SLOT_PREPARED || state == SLOT_COMMITTED;
}

static void look_at(struct sim_buffer *b, uint32_t machine, struct candidate *list, uint32_t *count)
{
	const struct arena_header *h = (const void *)b->memory;

	for (int i = 0; h->magic == ARENA_MAGIC && i < 2; i++) {
		const struct slot_header *s = (const void *)(b->memory + h->slot_offset[i]);
		struct candidate *c;

		if (!holds(s))
			continue;
		c = candidate_of(list, count, h->epoch,
		                 (struct stamp){s->incarnation, s->version});
		c->held |= 1u << h->rank;
		c->ranks = h->ranks;
		c->machine[h->rank] = machine;
		c->buffer = b;
	}
}

uint32_t sim_run_of(uint64_t incarnation)
{
	uint32_t run = sim.run;

	while (run > 0 && sim.incarnation[run] != incarnation)
		run--;
	return run;
}

static void take_floor(const struct candidate *c, struct sim_content content)
{
	struct sim_floor *f = &sim.floor;
	struct arena *a = NULL;

	if (content_cmp(f->content, content) != 0)
		sim_trace("version %u of run %u is on all ranks", content.version, content.run);
	sim.outside++;
	map_free(f->map);
	f->map = NULL;
	sim_require(arena_attach(sim_handle_open(c->buffer), true, &a) == 0, "an arena is whole");
	sim_require(map_copy(a->map, &f->map) == 0, "memory");
	arena_free(a);
	sim.outside--;
	f->known = true;
	f->epoch = c->epoch;
	f->content = content;
	for (uint32_t i = 0; i < c->ranks; i++) {
		f->machine[i] = c->machine[i];
		f->losses[i] = sim.machine[c->machine[i]].losses;
	}
}

void sim_judge_memory(void)
{
	static struct candidate list[CANDIDATES];
	const struct candidate *best = NULL;
	struct sim_content newest = {0, 0};
	uint32_t count = 0;

	for (uint32_t node = 0; node < sim.nodes; node++) {
		struct sim_machine *m = &sim.machine[sim.machine_of[node]];

		for (uint32_t i = 0; i < m->arenas && m->state == SIM_USED; i++)
			look_at(m->arena[i].buffer, sim.machine_of[node], list, &count);
	}
	for (uint32_t i = 0; i < count; i++) {
		struct sim_content c = {sim_run_of(list[i].stamp.incarnation),
		                        (uint32_t)list[i].stamp.version};
		int order = content_cmp(c, newest);

		if (list[i].held != (1u << list[i].ranks) - 1 || order < 0
		    || (order == 0 && best && best->epoch > list[i].epoch))
			continue;
		best = &list[i];
		newest = c;
	}
	if (best && (!sim.floor.known || content_cmp(newest, sim.floor.content) >= 0))
		take_floor(best, newest);
}

/* Whether some slot in reach holds the newest version, in the epoch in which all held it. */
bool sim_judge_floor_is_visible(void)
{
	for (uint32_t node = 0; node < sim.nodes && sim.floor.known; node++) {
		const struct sim_machine *m = &sim.machine[sim.machine_of[node]];

		for (uint32_t i = 0; i < 2 * m->arenas; i++) {
			const uint8_t *memory = m->arena[i / 2].buffer->memory;
			const struct arena_header *h = (const void *)memory;
			const struct slot_header *s =
				(const void *)(memory + h->slot_offset[i % 2]);

			if (h->magic == ARENA_MAGIC && h->epoch == sim.floor.epoch && holds(s)
			    && s->version == sim.floor.content.version
			    && sim_run_of(s->incarnation) == sim.floor.content.run)
				return true;
		}
	}
	return false;
}

/* --- what ranks got --- */

static bool home_is_there(uint32_t rank)
{
	const struct sim_machine *m = &sim.machine[sim.floor.machine[rank]];

	return m->state == SIM_USED && m->losses == sim.floor.losses[rank];
}

/* Whether every rail lacks no more of what all held than parity makes up for. */
static bool promised(void)
{
	struct rail rail;

	for (uint32_t id = 0; sim.floor.known && id < map_rail_count(sim.floor.map); id++) {
		uint32_t lacking = 0;

		map_rail(sim.floor.map, id, &rail);
		for (uint32_t i = 0; i < rail.n; i++)
			lacking += !home_is_there(rail.rank[i]);
		if (lacking > rail.m)
			return false;
	}
	return sim.floor.known;
}

static bool nothing_is_lost(void)
{
	for (uint32_t i = 0; i < sim.machines; i++)
		if (sim.machine[i].state != SIM_USED || sim.machine[i].losses > 0)
			return false;
	return true;
}

static void judge_content(struct sim_process *p)
{
	struct sim_content c = p->got;

	if (p->parts == 0)
		return;
	if (c.run == 0) {
		sim_break("rank %u gets as version %u what was never snapshotted", p->rank,
		          c.version);
		return;
	}
	if (sim.restored.run != 0 && content_cmp(c, sim.restored) != 0)
		sim_break("mixed: rank %u gets version %u of run %u, another one version %u of "
		          "run %u", p->rank, c.version, c.run, sim.restored.version,
		          sim.restored.run);
	sim.restored = c;
	if (sim.went[c.run][c.version] != sim.all[c.run])
		sim_break("version %u of run %u was not snapshotted by all ranks", c.version,
		          c.run);
	else if (promised() && !sim.unordered && content_cmp(c, sim.floor.content) < 0)
		sim_break("version %u of run %u is restored, but all held version %u of run %u",
		          c.version, c.run, sim.floor.content.version, sim.floor.content.run);
}

static bool excused(int rc)
{
	return sim.disturbed && (rc == FTMEM_ENET || rc == FTMEM_ETIMEOUT || rc == FTMEM_ESMP);
}

void sim_judge_restore(struct sim_process *p, int rc)
{
	bool first = !sim.chosen;

	if (excused(rc)) {
		sim.tally->failed++;
		return;
	}
	if (sim.chosen && rc != sim.found)
		sim_break("ranks disagree: rank %u gets result %d, another one %d: %s", p->rank,
		          rc, sim.found, error_msg());
	if (rc == 0)
		judge_content(p);
	else if (rc != FTMEM_FRESH && rc != FTMEM_ELOST)
		sim_break("ftmem_restore() fails on rank %u: %s", p->rank, error_msg());
	else if (promised())
		sim_break("version %u of run %u was on all ranks and is not found: %s",
		          sim.floor.content.version, sim.floor.content.run,
		          rc == FTMEM_FRESH ? "fresh" : error_msg());
	else if (rc == FTMEM_FRESH && sim.floor_visible)
		sim_break("version %u of run %u is there and taken for nothing",
		          sim.floor.content.version, sim.floor.content.run);
	else if (rc == FTMEM_ELOST && !sim.floor.known && nothing_is_lost())
		sim_break("refused, though nothing is lost and no version was on all ranks");
	sim.chosen = true;
	sim.found = rc;
	if (!first)
		return;
	sim.tally->restores += rc == 0;
	sim.tally->fresh += rc == FTMEM_FRESH;
	sim.tally->refused += rc == FTMEM_ELOST;
	if (rc == FTMEM_FRESH)
		sim.floor.known = false;
}

static bool anything_is_hidden(void)
{
	for (uint32_t i = 0; i < sim.machines; i++)
		if (sim.machine[i].state == SIM_AWAY && sim.machine[i].arenas > 0)
			return true;
	return false;
}

void sim_judge_incarnation(uint64_t incarnation)
{
	bool behind = false;

	if (sim.incarnation[sim.run] != 0 && sim.incarnation[sim.run] != incarnation)
		sim_break("ranks of run %u number it differently", sim.run);
	sim.incarnation[sim.run] = incarnation;
	for (uint32_t r = 1; r < sim.run; r++) {
		behind = behind || sim.incarnation[r] >= incarnation;
		if (sim.incarnation[r] == incarnation && sim.flaw == SIM_SOUND)
			sim_break("runs %u and %u bear the same incarnation", r, sim.run);
	}
	sim.unordered = sim.unordered || (behind && anything_is_hidden());
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
	if (!sim.floor.known || content_cmp(sim.floor.content, sim.restored) < 0)
		sim_break("version %u of run %u was restored, but is not on all ranks",
		          sim.restored.version, sim.restored.run);
}
