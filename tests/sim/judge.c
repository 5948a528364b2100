/* SPDX-License-Identifier: BSD-3-Clause */
/* What was promised (docs/protocol.md, section 1), as far as can be seen from outside. */
#include "world.h"

bool judge_home_is_there(const struct world *w, uint32_t rank)
{
	return w->machine[w->home[rank]].state == MACHINE_USED;
}

/* Whether every rail lacks at most parity of the arenas that held the newest
 * committed version when it was committed. */
bool judge_within_tolerance(const struct world *w)
{
	struct rail rail;

	for (uint32_t id = 0; id < map_rail_count(w->floor_map); id++) {
		uint32_t lacking = 0;

		map_rail(w->floor_map, id, &rail);
		for (uint32_t i = 0; i < rail.n; i++)
			lacking += !judge_home_is_there(w, rail.rank[i]);
		if (lacking > rail.m)
			return false;
	}
	return true;
}

/* What is promised next is promised of the arenas that are there now. */
static void take_homes(struct world *w)
{
	w->floor_map = w->map[w->run];
	w->floor_epoch = w->epoch;
	for (uint32_t r = 0; r < w->ranks; r++)
		w->home[r] = w->machine_of[w->node_of[r]];
}

static void all_hold(struct world *w, struct identity data)
{
	if (!w->floor_known || identity_cmp(w->floor, data) != 0 || w->floor_map != w->map[w->run])
		world_trace(w, "committed: version %u of run %u", data.version, data.run);
	w->floor_known = true;
	w->floor = data;
	w->afresh = 0;
	take_homes(w);
}

/* The newest version may now be taken for committed by some rank. */
void judge_committed(struct world *w, struct identity data)
{
	all_hold(w, data);
	w->floor_entered = true;
}

/* What is restored in place is on all ranks. They have not all noted that they take part in this
 * run; but in that of what was there, if it is that or something older. */
void judge_held(struct world *w)
{
	bool same = w->floor_known && w->floor_entered &&
	            identity_cmp(w->restored, w->floor) <= 0;

	all_hold(w, w->restored);
	w->floor_entered = same;
}

void judge_entered(struct world *w)
{
	if (w->found == 0 && w->in_place)
		judge_committed(w, w->restored);
	if (w->found != FTMEM_FRESH || w->afresh == w->run)
		return;
	w->afresh = w->run;
	take_homes(w);
}

void judge_forgotten(struct world *w)
{
	w->floor_known = w->floor_entered = false;
	w->afresh = 0;
}

static void judge_sources(struct world *w)
{
	w->restored = (struct identity){0, 0};
	for (uint32_t r = 0; r < w->ranks; r++) {
		const struct world_arena *a;
		uint32_t slot = w->source[r].slot;

		if (w->source[r].arena < 0)
			continue;
		a = w->table_arena[w->source[r].arena];
		if (a->rank != r)
			world_break(w, "rank %u is restored from the arena of rank %u", r, a->rank);
		if (!w->restored.run)
			w->restored = a->data[slot];
		if (identity_cmp(a->data[slot], w->restored) != 0)
			world_break(w,
			            "mixed: version %u of run %u on rank %u, version %u of run %u",
			            a->data[slot].version, a->data[slot].run, r,
			            w->restored.version, w->restored.run);
		if (!a->parity[slot])
			world_break(w, "rank %u has no complete parity of what is restored", r);
	}
	if (!w->restored.run)
		world_break(w, "what is restored has no content");
	else if (w->copied[w->restored.run][w->restored.version] != (1u << w->ranks) - 1)
		world_break(w, "version %u of run %u was not snapshotted by all ranks",
		            w->restored.version, w->restored.run);
}

/* Whether a machine out of reach holds a version, of whatever run. */
static bool anything_is_hidden(const struct world *w)
{
	for (uint32_t i = 0; i < w->machines; i++)
		for (uint32_t j = 0; w->machine[i].state == MACHINE_AWAY && j < WORLD_ARENAS; j++)
			if (w->machine[i].arena[j].used)
				return true;
	return false;
}

/* Runs differ, whatever the clock does. Later ones have larger numbers, unless it went back
 * behind what they cannot see. */
void judge_incarnation(struct world *w)
{
	bool behind = false;

	for (uint32_t r = 1; r < w->run; r++) {
		behind = behind || w->incarnations[r] >= w->incarnation;
		if (w->incarnations[r] == w->incarnation && w->flaw == FLAW_NONE)
			world_break(w, "runs %u and %u bear the same incarnation", r, w->run);
	}
	w->incarnations[w->run] = w->incarnation;
	behind = behind && anything_is_hidden(w);
	w->unordered = w->unordered || behind;
	w->tally->unordered += behind;
}

/* Whether a slot tells that what it holds was committed: by itself or, if it is of an arena that
 * held it then, because nobody may deny it. */
static bool tells(const struct world *w, uint32_t machine, const struct world_arena *a, int s)
{
	return a->slot[s].state == SLOT_COMMITTED
	       || (a->slot[s].state == SLOT_PREPARED && w->floor_entered && !w->unordered
	           && a->epoch == w->floor_epoch && machine == w->home[a->rank]);
}

/* Whether anything that a machine of the job holds is the newest committed version. */
static bool floor_is_visible(const struct world *w)
{
	for (uint32_t node = 0; node < w->nodes; node++)
		for (uint32_t i = 0; i < WORLD_ARENAS; i++) {
			const struct world_arena *a = &w->machine[w->machine_of[node]].arena[i];

			for (int s = 0; a->used && s < 2; s++)
				if (tells(w, w->machine_of[node], a, s)
				    && identity_cmp(a->data[s], w->floor) == 0)
					return true;
		}
	return false;
}

/* Whether parity covers what was lost since all began with nothing, and nothing was committed
 * since; nor does somebody come back who knows of an older commit. */
static bool may_not_refuse(const struct world *w)
{
	if (!w->afresh || w->floor_known || w->unordered || w->choice.epoch != w->floor_epoch
	    || !judge_within_tolerance(w))
		return false;
	for (uint32_t i = 0; i < w->tabled; i++)
		for (int s = 0; s < 2; s++)
			if (w->table[i].slot[s].state == SLOT_COMMITTED
			    && stamp_cmp(w->table[i].slot[s].stamp, w->choice.stamp) == 0)
				return false;
	return true;
}

static bool all_machines_are_used(const struct world *w)
{
	for (uint32_t i = 0; i < w->machines; i++)
		if (w->machine[i].state != MACHINE_USED)
			return false;
	return true;
}

void judge_choice(struct world *w)
{
	bool promised = w->floor_known && judge_within_tolerance(w);

	if (w->found == 0) {
		w->tally->restores++;
		w->tally->moves += !w->in_place;
		judge_sources(w);
		if (promised && !w->unordered && identity_cmp(w->restored, w->floor) < 0)
			world_break(w,
			            "version %u of run %u is restored, but version %u of run %u "
			            "was committed",
			            w->restored.version, w->restored.run, w->floor.version,
			            w->floor.run);
		return;
	}
	if (w->found == FTMEM_ELOST && !w->floor_known && all_machines_are_used(w))
		world_break(w, "refused, though nothing is lost and nothing was committed");
	if (w->found == FTMEM_ELOST && may_not_refuse(w))
		world_break(w, "refused, though parity covers what is lost and nothing was "
		               "committed");
	w->tally->refusals += w->found == FTMEM_ELOST;
	w->tally->fresh += w->found == FTMEM_FRESH;
	if (promised)
		world_break(w, "version %u of run %u was committed and is not found",
		            w->floor.version, w->floor.run);
	else if (w->found == FTMEM_FRESH && w->floor_known && floor_is_visible(w))
		world_break(w, "version %u of run %u is there and taken for nothing",
		            w->floor.version, w->floor.run);
	/* What was noted of an older run stays true until all have noted this one. */
	if (w->found == FTMEM_FRESH)
		w->floor_known = w->floor_entered = false;
}
