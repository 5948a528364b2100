/* SPDX-License-Identifier: BSD-3-Clause */
/* Machines, starts of the job, and recovery: what seal.c, gather.c and restore.c do. */
#include "world.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* --- chance and words --- */

uint32_t world_random(struct world *w, uint32_t below)
{
	uint64_t z = w->random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (uint32_t)((z ^ z >> 31) >> 32) % below;
}

bool world_chance(struct world *w, uint32_t percent)
{
	return world_random(w, 100) < percent;
}

void world_trace(struct world *w, const char *fmt, ...)
{
	va_list args;

	if (!w->trace)
		return;
	va_start(args, fmt);
	printf("t=%-5llu ", (unsigned long long)w->step);
	vprintf(fmt, args);
	printf("\n");
	va_end(args);
}

void world_break(struct world *w, const char *fmt, ...)
{
	va_list args;

	if (w->broken[0])
		return;
	va_start(args, fmt);
	vsnprintf(w->broken, sizeof(w->broken), fmt, args);
	va_end(args);
	world_trace(w, "BROKEN PROMISE: %s", w->broken);
}

void world_init(struct world *w, uint64_t seed, enum flaw flaw, bool trace, struct tally *tally)
{
	memset(w->machine, 0, sizeof(w->machine[0]) * w->machines);
	memset(w, 0, offsetof(struct world, machine));
	w->seed = w->random = seed;
	w->flaw = flaw;
	w->trace = trace;
	w->tally = tally;
	w->clock = UINT64_C(1) << 60;
}

void world_deinit(struct world *w)
{
	for (uint32_t i = 0; i <= WORLD_STARTS; i++)
		map_free(w->map[i]);
}

/* --- what is stored --- */

static struct machine *machine_of_rank(struct world *w, uint32_t rank)
{
	return &w->machine[w->machine_of[w->node_of[rank]]];
}

static bool holds(const struct world_arena *a)
{
	for (int s = 0; s < 2; s++)
		if (a->slot[s].state == SLOT_PREPARED || a->slot[s].state == SLOT_COMMITTED)
			return true;
	return false;
}

static struct world_arena *find_arena(struct machine *m, uint64_t epoch, uint32_t rank)
{
	for (uint32_t i = 0; i < WORLD_ARENAS; i++)
		if (m->arena[i].used && m->arena[i].epoch == epoch && m->arena[i].rank == rank)
			return &m->arena[i];
	return NULL;
}

static uint64_t geometry_of(const struct world *w)
{
	uint64_t g = w->ranks * 64 + w->parity * 8 + w->aim;

	for (uint32_t r = 0; r < w->ranks; r++)
		g = g * 31 + w->node_of[r];
	return g;
}

/* A number that a flaw may spoil: without the clock, or without chance. */
static uint64_t next_number(struct world *w, uint64_t largest, enum flaw counts)
{
	uint64_t chance = (uint64_t)world_random(w, UINT32_MAX) << 8;

	if (w->flaw == FLAW_CLOCK_ALONE)
		return w->clock;
	return recover_next(largest, w->flaw == counts ? 0 : w->clock,
	                    w->flaw == counts || w->flaw == FLAW_COUNTS_IF_LATE ? 0 : chance);
}

static uint64_t next_epoch(struct world *w, uint64_t newest)
{
	return next_number(w, newest, FLAW_COUNTS_EPOCHS);
}

/* Which epoch to seal: the newest that is there, if all its arenas are where their
 * ranks are, else another. */
static void choose_epoch(struct world *w)
{
	uint64_t newest = 0;
	bool veto = false, stored = false;

	for (uint32_t node = 0; node < w->nodes; node++)
		for (uint32_t i = 0; i < WORLD_ARENAS; i++) {
			const struct world_arena *a = &w->machine[w->machine_of[node]].arena[i];

			if (a->used && a->epoch > newest)
				newest = a->epoch;
			stored = stored || (a->used && holds(a));
		}
	for (uint32_t node = 0; node < w->nodes; node++)
		for (uint32_t i = 0; i < WORLD_ARENAS; i++) {
			const struct world_arena *a = &w->machine[w->machine_of[node]].arena[i];

			if (a->used && a->epoch == newest)
				veto = veto || w->node_of[a->rank] != node
				       || a->geometry != w->geometry;
		}
	w->joined = newest > 0 && !veto;
	w->late = w->joined && stored;
	w->epoch = w->joined ? newest : next_epoch(w, newest);
}

static void seal(struct world *w, uint32_t rank)
{
	struct machine *m = machine_of_rank(w, rank);
	struct process *p = &w->process[rank];
	uint32_t i = 0;

	p->arena = find_arena(m, w->epoch, rank);
	p->life = LIFE_SEALED;
	if (p->arena)
		return;
	while (i < WORLD_ARENAS && m->arena[i].used)
		i++;
	if (i == WORLD_ARENAS) {
		world_break(w, "a machine has too few arenas for this test");
		return;
	}
	p->arena = &m->arena[i];
	*p->arena = (struct world_arena){.used = true,
	                                 .epoch = w->epoch,
	                                 .geometry = w->geometry,
	                                 .rank = rank,
	                                 .late = w->late,
	                                 .map = w->map[w->run]};
	world_trace(w, "rank %u takes an arena of epoch %llu on machine %u%s", rank,
	            (unsigned long long)w->epoch, w->machine_of[w->node_of[rank]],
	            w->late ? ", late" : "");
}

/* --- what to restore --- */

static void describe(const struct world *w, const struct world_arena *a, struct recover_arena *out)
{
	*out = (struct recover_arena){.epoch = a->epoch, .rank = a->rank, .entered = a->entered};
	out->agent = a->rank < w->ranks ? a->rank : 0;
	memcpy(out->slot, a->slot, sizeof(out->slot));
}

/* The last run that any arena of an epoch knows of. */
static uint64_t last_run(const struct world *w, uint64_t epoch)
{
	uint64_t last = 0;

	for (uint32_t i = 0; i < w->tabled; i++)
		if (w->table[i].epoch == epoch && w->table[i].entered > last)
			last = w->table[i].entered;
	return last;
}

/* Who can tell what was committed. */
static void doubt(struct world *w)
{
	for (uint32_t i = 0; i < w->tabled; i++) {
		struct recover_arena *a = &w->table[i];

		a->unsure = a->entered == 0 || (a->entered < last_run(w, a->epoch) &&
		                                w->flaw != FLAW_BELIEVES_OLD);
		if (w->flaw == FLAW_DOUBTS_LATE)
			a->unsure = w->table_arena[i]->late;
	}
}

/* The table that all ranks gather, and the epochs with the maps that speak for them. */
static struct recover_input gather(struct world *w, struct recover_epoch *epoch)
{
	struct recover_input in = {epoch, 0, w->table, 0};

	for (uint32_t node = 0; node < w->nodes; node++)
		for (uint32_t i = 0; i < WORLD_ARENAS; i++) {
			struct world_arena *a = &w->machine[w->machine_of[node]].arena[i];
			uint32_t e = 0;

			if (!a->used)
				continue;
			describe(w, a, &w->table[in.arenas]);
			w->table_arena[in.arenas++] = a;
			if (!holds(a))
				continue;
			while (e < in.epochs && epoch[e].epoch != a->epoch)
				e++;
			if (e == in.epochs || a->late)
				epoch[e] = (struct recover_epoch){a->epoch, a->map};
			in.epochs += e == in.epochs;
		}
	w->tabled = in.arenas;
	doubt(w);
	return in;
}

/* What moves from an older epoch must not overwrite what an epoch that was joined
 * still holds, although that cannot be restored now. */
static void leave_joined_epoch(struct world *w, const struct recover_input *in)
{
	bool holding = false;

	for (uint32_t i = 0; i < in->arenas; i++)
		holding = holding
		          || (w->table_arena[i]->epoch == w->epoch && holds(w->table_arena[i]));
	if (!holding || w->flaw == FLAW_STAYS_IN_JOINED)
		return;
	w->epoch = next_epoch(w, w->epoch);
	w->joined = w->late = false;
	world_trace(w, "all leave the epoch that they joined for epoch %llu",
	            (unsigned long long)w->epoch);
}

static void choose(struct world *w)
{
	struct recover_epoch epoch[WORLD_TABLE];
	struct recover_input in = gather(w, epoch);
	uint32_t index = 0;

	w->incarnation =
		next_number(w, recover_largest(&in), FLAW_COUNTS_INCARNATIONS);
	judge_incarnation(w);
	w->found = recover_choose(&in, NULL, &w->choice, &index, w->source);
	w->base = w->found == 0 ? (uint32_t)w->choice.stamp.version : 0;
	w->in_place = w->found == 0 && w->choice.epoch == w->epoch;
	judge_choice(w);
	world_trace(w, "incarnation %llu: %s", (unsigned long long)w->incarnation,
	            w->found == FTMEM_FRESH   ? "nothing is stored"
	            : w->found == FTMEM_ELOST ? "too much is lost"
	            : w->in_place             ? "a version is restored in place"
	                                      : "a version moves to a new epoch");
	if (w->found == 0 && !w->in_place)
		leave_joined_epoch(w, &in);
	if (w->found == 0)
		world_trace(w, "restores version %llu of incarnation %llu, epoch %llu: run %u",
		            (unsigned long long)w->choice.stamp.version,
		            (unsigned long long)w->choice.stamp.incarnation,
		            (unsigned long long)w->choice.epoch, w->restored.run);
}

static void enter(struct world *w, uint32_t rank)
{
	world_trace(w, "rank %u notes that it takes part in the run", rank);
	w->process[rank].arena->entered = w->incarnation;
	w->process[rank].life = LIFE_ENTERED;
}

static bool all_reached(const struct world *w, enum life life)
{
	for (uint32_t r = 0; r < w->ranks; r++)
		if (w->process[r].life < life || w->process[r].life == LIFE_DEAD)
			return false;
	return true;
}

static bool step_sealed(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];

	if (w->found == FOUND_UNKNOWN) {
		if (!all_reached(w, LIFE_SEALED))
			return false;
		choose(w);
	}
	if (w->found == FTMEM_ELOST)
		return false;
	if (w->found == FTMEM_FRESH)
		p->life = LIFE_AFRESH;
	else if (w->in_place)
		p->life = w->source[rank].arena < 0 ? LIFE_REBUILD : LIFE_HOLD;
	else if (p->arena->epoch != w->epoch)
		seal(w, rank);
	else
		enter(w, rank);
	return true;
}

static int slot_of_choice(const struct world *w, const struct world_arena *a)
{
	for (int s = 0; s < 2 && w->found == 0; s++)
		if ((a->slot[s].state == SLOT_PREPARED || a->slot[s].state == SLOT_COMMITTED)
		    && stamp_cmp(a->slot[s].stamp, w->choice.stamp) == 0)
			return s;
	return -1;
}

/* One of them, but that of what is restored; false: there is none. */
static bool clear_slot(struct world *w, uint32_t rank)
{
	struct world_arena *a = w->process[rank].arena;
	int keep = slot_of_choice(w, a);

	for (int s = 0; s < 2; s++)
		if (s != keep && a->slot[s].state != SLOT_EMPTY) {
			world_trace(w, "rank %u clears slot %d", rank, s);
			a->slot[s] = (struct commit_slot){SLOT_EMPTY, {0, 0}};
			return true;
		}
	return false;
}

static void clear(struct world *w, uint32_t rank)
{
	struct machine *m = machine_of_rank(w, rank);

	if (clear_slot(w, rank))
		return;
	for (uint32_t i = 0; i < WORLD_ARENAS; i++)
		if (m->arena[i].used && m->arena[i].epoch < w->epoch)
			m->arena[i].used = false;
	engine_begin(w, rank, w->process[rank].arena->slot);
}

static bool committed_somewhere(const struct world *w, uint64_t epoch, struct stamp stamp)
{
	for (uint32_t i = 0; i < w->tabled; i++)
		for (int s = 0; w->table[i].epoch == epoch && s < 2; s++)
			if (w->table[i].slot[s].state == SLOT_COMMITTED
			    && stamp_cmp(w->table[i].slot[s].stamp, stamp) == 0)
				return true;
	return false;
}

/* Where a lost version is rebuilt. */
static uint32_t spare_slot(const struct world *w, const struct world_arena *a)
{
	struct commit_slot slots[2];

	for (int s = 0; s < 2; s++) {
		slots[s] = a->slot[s];
		if (slots[s].state == SLOT_PREPARED
		    && committed_somewhere(w, a->epoch, slots[s].stamp))
			slots[s].state = SLOT_COMMITTED;
	}
	return commit_spare(slots);
}

/* All hold what is restored, if anything is, and no rank stores anything before all have
 * noted that they take part. */
static bool step_entered(struct world *w, uint32_t rank)
{
	static const struct commit_slot nothing[2];
	struct process *p = &w->process[rank];

	if (!all_reached(w, LIFE_ENTERED) && w->flaw != FLAW_HASTY_RECOVERY)
		return false;
	if (all_reached(w, LIFE_ENTERED))
		judge_entered(w);
	if (w->in_place)
		p->life = LIFE_COMMIT;
	else
		engine_begin(w, rank, nothing);
	return true;
}

/* The next step of recovery in place. */
static bool step_recovery(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];
	struct world_arena *a = p->arena;

	switch (p->life) {
	case LIFE_AFRESH:
		if (!clear_slot(w, rank))
			enter(w, rank);
		return true;
	case LIFE_REBUILD:
		w->tally->rebuilds++;
		p->slot = spare_slot(w, a);
		if (w->flaw == FLAW_ENTERS_EARLY)
			a->entered = w->incarnation;
		a->slot[p->slot] = (struct commit_slot){SLOT_FILLING, {0, 0}};
		a->data[p->slot] = (struct identity){0, 0};
		p->life = LIFE_PREPARE;
		break;
	case LIFE_PREPARE:
		a->data[p->slot] = w->restored;
		a->parity[p->slot] = true;
		a->slot[p->slot] = (struct commit_slot){SLOT_PREPARED, w->choice.stamp};
		p->life = LIFE_HOLD;
		break;
	case LIFE_HOLD:
		if (a->entered < last_run(w, a->epoch))
			a->entered = last_run(w, a->epoch);
		p->life = LIFE_JOIN;
		return true;
	case LIFE_JOIN:
		if (!all_reached(w, LIFE_JOIN) && w->flaw != FLAW_HASTY_RECOVERY)
			return false;
		if (all_reached(w, LIFE_JOIN))
			judge_held(w);
		enter(w, rank);
		return true;
	case LIFE_ENTERED: return step_entered(w, rank);
	case LIFE_COMMIT:
		a->slot[slot_of_choice(w, a)].state = SLOT_COMMITTED;
		p->life = LIFE_CLEAR;
		break;
	default: clear(w, rank); return true;
	}
	world_trace(w, "rank %u %s slot %u", rank,
	            p->life == LIFE_PREPARE ? "rebuilds into"
	            : p->life == LIFE_HOLD  ? "publishes PREPARED again,"
	                                    : "publishes COMMITTED again, not in",
	            p->slot);
	return true;
}

/* --- life of the job --- */

/* Seconds to hours, to the nanosecond; sometimes somebody sets the clock back. */
static void pass_time(struct world *w)
{
	uint64_t passed = world_random(w, 3600) * UINT64_C(1000000000);

	passed += world_random(w, 1000000000);
	if (!world_chance(w, 8)) {
		w->clock += passed;
		return;
	}
	w->clock -= 3 * passed;
	w->tally->clock_back++;
	world_trace(w, "the clock is set back by %llu s",
	            (unsigned long long)(3 * passed / 1000000000));
}

void world_start(struct world *w)
{
	struct map_rank place[WORLD_RANKS];

	w->run++;
	w->tally->starts++;
	pass_time(w);
	memset(w->process, 0, sizeof(w->process));
	memset(w->vote, 0, sizeof(w->vote));
	memset(place, 0, sizeof(place));
	for (uint32_t r = 0; r < w->ranks; r++)
		snprintf(place[r].node, sizeof(place[r].node), "machine%u",
		         w->machine_of[w->node_of[r]]);
	if (map_new(place, w->ranks, w->aim, w->parity, &w->map[w->run])) {
		world_break(w, "no map");
		return;
	}
	w->geometry = geometry_of(w);
	w->found = FOUND_UNKNOWN;
	choose_epoch(w);
	world_trace(w, "run %u: %u ranks, %u nodes, parity %u, groups %u; epoch %llu%s", w->run,
	            w->ranks, w->nodes, w->map[w->run]->parity, w->map[w->run]->groups,
	            (unsigned long long)w->epoch, w->joined ? ", joined" : "");
	for (uint32_t r = 0; r < w->ranks; r++) {
		world_trace(w, "    rank %u on node %u, machine %u", r, w->node_of[r],
		            w->machine_of[w->node_of[r]]);
		engine_init(w, r);
	}
}

static bool step_process(struct world *w, uint32_t rank)
{
	switch (w->process[rank].life) {
	case LIFE_DEAD: return false;
	case LIFE_SEAL: seal(w, rank); return true;
	case LIFE_SEALED: return step_sealed(w, rank);
	case LIFE_RUN: return engine_step(w, rank);
	default: return step_recovery(w, rank);
	}
}

bool world_step(struct world *w)
{
	uint32_t first = world_random(w, w->ranks);
	bool deliver = world_chance(w, 50);

	w->step++;
	for (int turn = 0; turn < 2; turn++, deliver = !deliver)
		for (uint32_t i = 0; i < w->ranks; i++) {
			uint32_t rank = (first + i) % w->ranks;

			if (w->process[rank].life == LIFE_DEAD)
				continue;
			if (deliver ? engine_deliver(w, rank) : step_process(w, rank)) {
				w->stepped = rank;
				return !w->broken[0];
			}
		}
	return false;
}

const char *const death_name[DEATHS] = {
	[DEATH_UNSEALED] = "before it has an arena",
	[DEATH_SEALED] = "sealed, before it knows what is restored",
	[DEATH_AFRESH] = "before all its slots are EMPTY, where nothing is restored",
	[DEATH_REBUILD] = "before its lost slot is FILLING",
	[DEATH_PREPARE] = "before its rebuilt slot is PREPARED",
	[DEATH_HOLD] = "before it notes the last run that any knew of",
	[DEATH_JOIN] = "before it hears that all hold the version",
	[DEATH_ENTERED] = "before it hears that all noted that they take part",
	[DEATH_COMMIT] = "before the restored slot is COMMITTED",
	[DEATH_CLEAR] = "before its other slot is EMPTY",
	[DEATH_IDLE] = "between versions",
	[DEATH_COPY] = "while it copies",
	[DEATH_INTENTS] = "while intents are exchanged",
	[DEATH_BLOCKS] = "while blocks are exchanged",
	[DEATH_TRAILERS] = "while trailers are exchanged",
	[DEATH_EXCHANGED] = "when all is exchanged",
	[DEATH_VOTE] = "voted, before it hears the result",
	[DEATH_ACTION + 0] = "before its slot is FILLING",
	[DEATH_ACTION + 1] = "before it says GO",
	[DEATH_ACTION + 3] = "before it begins to copy",
	[DEATH_ACTION + 4] = "before it cancels the copy",
	[DEATH_ACTION + 5] = "before its slot is PREPARED",
	[DEATH_ACTION + 6] = "before its slot is COMMITTED",
	[DEATH_ACTION + 7] = "before its slot is EMPTY",
	[DEATH_ACTION + 8] = "before it votes yes",
	[DEATH_ACTION + 9] = "before it votes no",
	[DEATH_ACTION + 10] = "before older epochs are retired",
};

static enum death death_in_run(const struct process *p)
{
	if (p->pending)
		return DEATH_ACTION + (enum death)__builtin_ctz(p->pending);
	return p->engine == ENGINE_IDLE     ? DEATH_IDLE
	       : p->engine == ENGINE_VOTING ? DEATH_VOTE
	                                    : engine_stage(p);
}

enum death world_death(const struct world *w, uint32_t rank)
{
	static const enum death in_life[] = {
		[LIFE_SEAL] = DEATH_UNSEALED,   [LIFE_SEALED] = DEATH_SEALED,
		[LIFE_AFRESH] = DEATH_AFRESH,   [LIFE_REBUILD] = DEATH_REBUILD,
		[LIFE_PREPARE] = DEATH_PREPARE, [LIFE_HOLD] = DEATH_HOLD,
		[LIFE_JOIN] = DEATH_JOIN,       [LIFE_ENTERED] = DEATH_ENTERED,
		[LIFE_COMMIT] = DEATH_COMMIT,   [LIFE_CLEAR] = DEATH_CLEAR,
	};
	const struct process *p = &w->process[rank];

	return p->life == LIFE_RUN ? death_in_run(p) : in_life[p->life];
}

void world_kill(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];
	enum death where;

	if (p->life == LIFE_DEAD)
		return;
	where = world_death(w, rank);
	world_trace(w, "rank %u dies %s", rank, death_name[where]);
	w->tally->death[where]++;
	w->tally->kills++;
	w->tally->interrupted += p->life != LIFE_RUN && w->found == 0;
	p->life = LIFE_DEAD;
}
