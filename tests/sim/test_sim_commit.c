/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random schedules of jobs that crash, lose machines, get them back and recover,
 * and of recoveries that crash too. FTMEM_SCHEDULES: how many (default 20 000);
 * FTMEM_SEED: only this one, with its trace.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "world.h"

/* --- the promises --- */

static bool home_is_there(const struct world *w, uint32_t rank)
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
			lacking += !home_is_there(w, rail.rank[i]);
		if (lacking > rail.m)
			return false;
	}
	return true;
}

/* The newest version may now be taken for committed by some rank. */
void judge_committed(struct world *w, struct identity data)
{
	if (!w->floor_known || identity_cmp(w->floor, data) != 0 || w->floor_map != w->map[w->run])
		world_trace(w, "committed: version %u of run %u", data.version, data.run);
	w->floor_known = true;
	w->floor = data;
	w->floor_map = w->map[w->run];
	for (uint32_t r = 0; r < w->ranks; r++)
		w->home[r] = w->machine_of[w->node_of[r]];
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

/* Whether anything that a machine of the job holds is the newest committed version. */
static bool floor_is_visible(const struct world *w)
{
	for (uint32_t node = 0; node < w->nodes; node++)
		for (uint32_t i = 0; i < WORLD_ARENAS; i++) {
			const struct world_arena *a = &w->machine[w->machine_of[node]].arena[i];

			for (int s = 0; a->used && s < 2; s++)
				if (a->slot[s].state == SLOT_COMMITTED
				    && identity_cmp(a->data[s], w->floor) == 0)
					return true;
		}
	return false;
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
		w->restores++;
		w->moves += !w->in_place;
		judge_sources(w);
		if (promised && identity_cmp(w->restored, w->floor) < 0)
			world_break(w,
			            "version %u of run %u is restored, but version %u of run %u "
			            "was committed",
			            w->restored.version, w->restored.run, w->floor.version,
			            w->floor.run);
		return;
	}
	if (w->found == FTMEM_ELOST && !w->floor_known && all_machines_are_used(w))
		world_break(w, "refused, though nothing is lost and nothing was committed");
	w->refusals += w->found == FTMEM_ELOST;
	w->fresh += w->found == FTMEM_FRESH;
	if (promised)
		world_break(w, "version %u of run %u was committed and is not found",
		            w->floor.version, w->floor.run);
	else if (w->found == FTMEM_FRESH && w->floor_known && floor_is_visible(w))
		world_break(w, "version %u of run %u is there and taken for nothing",
		            w->floor.version, w->floor.run);
	if (w->found == FTMEM_FRESH)
		w->floor_known = false;
}

/* --- schedules --- */

static uint32_t new_machine(struct world *w)
{
	if (w->machines == WORLD_MACHINES) {
		world_break(w, "too few machines for this test");
		return 0;
	}
	return w->machines++;
}

static void place_ranks(struct world *w)
{
	uint32_t per_node[WORLD_NODES], r = 0;
	bool cyclic = world_chance(w, 30);

	w->ranks = 0;
	for (uint32_t i = 0; i < w->nodes; i++) {
		per_node[i] = 1 + world_random(w, w->nodes > 4 ? 2 : 3);
		w->ranks += per_node[i];
	}
	for (uint32_t round = 0; r < w->ranks; round++)
		for (uint32_t i = 0; i < w->nodes; i++)
			for (; per_node[i] > 0; per_node[i]--) {
				w->node_of[r++] = i;
				if (cyclic) {
					per_node[i]--;
					break;
				}
			}
}

static void make_job(struct world *w)
{
	w->nodes = world_chance(w, 5) ? 1 : 2 + world_random(w, WORLD_NODES - 1);
	w->parity = w->nodes == 1 ? 1 : 1 + world_random(w, w->nodes - 1 < 3 ? w->nodes - 1 : 3);
	w->aim = 2 + world_random(w, 5);
	place_ranks(w);
	for (uint32_t i = 0; i < w->nodes; i++)
		w->machine_of[i] = new_machine(w);
}

static void lose_machine(struct world *w, uint32_t node)
{
	struct machine *m = &w->machine[w->machine_of[node]];

	if (m->state != MACHINE_USED)
		return;
	m->state = world_chance(w, 50) ? MACHINE_AWAY : MACHINE_GONE;
	world_trace(w, "machine %u is %s", w->machine_of[node],
	            m->state == MACHINE_AWAY ? "out of reach" : "gone");
	if (m->state == MACHINE_GONE)
		memset(m->arena, 0, sizeof(m->arena));
	for (uint32_t r = 0; r < w->ranks; r++)
		if (w->node_of[r] == node)
			world_kill(w, r);
}

/* Something happens to ranks or machines; the others may go on for a while. */
static void strike(struct world *w)
{
	uint32_t what = world_random(w, 10), count = 0;

	if (what < 3)
		world_kill(w, world_random(w, w->ranks));
	else if (what < 8)
		count = 1 + world_random(w, w->parity);
	else if (what == 8)
		count = 1 + world_random(w, w->nodes);
	for (uint32_t i = 0; i < count; i++)
		lose_machine(w, world_random(w, w->nodes));
}

static void crash(struct world *w)
{
	uint32_t more = world_chance(w, 50) ? world_random(w, 60) : 0;

	strike(w);
	for (uint32_t i = 0; i < more && world_step(w); i++)
		;
	if (world_chance(w, 15))
		strike(w);
	for (uint32_t r = 0; r < w->ranks; r++)
		w->process[r].life = LIFE_DEAD;
	world_trace(w, "all has ended");
}

static void take(struct world *w, uint32_t node, uint32_t machine)
{
	w->machine[machine].state = MACHINE_USED;
	w->machine_of[node] = machine;
}

/* Nodes without a machine get another, perhaps one that was away. */
static void replace_machines(struct world *w)
{
	bool without[WORLD_NODES];

	for (uint32_t i = 0; i < w->nodes; i++) {
		struct machine *m = &w->machine[w->machine_of[i]];

		without[i] = m->state != MACHINE_USED || world_chance(w, 3);
		if (m->state == MACHINE_USED && without[i])
			m->state = MACHINE_AWAY;
	}
	for (uint32_t i = 0; i < w->nodes; i++) {
		uint32_t start = world_random(w, w->machines);

		for (uint32_t j = 0; j < w->machines && without[i]; j++) {
			uint32_t machine = (start + j) % w->machines;

			if (w->machine[machine].state != MACHINE_AWAY || world_chance(w, 50))
				continue;
			take(w, i, machine);
			without[i] = false;
		}
		if (without[i])
			w->machine_of[i] = new_machine(w);
	}
}

/* Another host file: ranks come to other machines, or other numbers to a node. */
static void reorder(struct world *w)
{
	uint32_t a = world_random(w, w->nodes), b = world_random(w, w->nodes);
	uint32_t machine = w->machine_of[a];

	w->machine_of[a] = w->machine_of[b];
	w->machine_of[b] = machine;
	if (world_chance(w, 30)) {
		uint32_t r = world_random(w, w->ranks), s = world_random(w, w->ranks);
		uint32_t node = w->node_of[r];

		w->node_of[r] = w->node_of[s];
		w->node_of[s] = node;
	}
}

static void run_until_crash(struct world *w, uint32_t steps)
{
	static const uint32_t percent[] = {0, 0, 2, 10};

	w->skip_percent = percent[world_random(w, 4)];
	w->fail_percent = percent[world_random(w, 4)];
	world_start(w);
	for (uint32_t i = 0; i < steps && !w->broken[0] && world_step(w); i++)
		;
}

/* Refused: nothing may have been destroyed, so that the same call succeeds when the
 * machines are back; if they are gone for good, the job's user forgets it. */
static void handle_refusal(struct world *w)
{
	bool gone = !w->floor_known;
	uint32_t node = 0;

	for (uint32_t r = 0; !gone && r < w->ranks; r++)
		gone = w->machine[w->home[r]].state == MACHINE_GONE;
	if (gone) {
		world_trace(w, "the user forgets the job");
		for (uint32_t i = 0; i < w->nodes; i++)
			memset(w->machine[w->machine_of[i]].arena, 0, sizeof(w->machine[0].arena));
		w->floor_known = false;
		return;
	}
	world_trace(w, "the machines come back");
	for (uint32_t i = 0; i < w->nodes; i++)
		w->machine[w->machine_of[i]].state = MACHINE_AWAY;
	for (uint32_t r = 0; r < w->ranks; r++)
		if (!home_is_there(w, r))
			take(w, node++, w->home[r]);
	while (node < w->nodes)
		w->machine_of[node++] = new_machine(w);
}

static uint32_t how_long(struct world *w)
{
	uint32_t kind = world_random(w, 10);

	return 1 + world_random(w, w->ranks * (kind < 3 ? 10 : kind < 8 ? 110 : 300));
}

static void run_schedule(struct world *w)
{
	uint32_t starts = 2 + world_random(w, WORLD_STARTS - 4);

	make_job(w);
	for (uint32_t i = 0; i < starts && !w->broken[0]; i++) {
		run_until_crash(w, how_long(w));
		if (w->broken[0])
			return;
		if (w->found == FTMEM_ELOST) {
			handle_refusal(w);
			continue;
		}
		crash(w);
		replace_machines(w);
		if (world_chance(w, 10))
			reorder(w);
	}
	/* The last start is left in peace until it has chosen. */
	if (!w->broken[0])
		run_until_crash(w, 400);
}

/* --- tests --- */

struct summary {
	uint64_t commits, drops, restores, moves, refusals, fresh, steps;
};

static bool schedule_holds(uint64_t seed, enum flaw flaw, bool trace, struct summary *sum)
{
	static struct world w;
	char broken[sizeof(w.broken)];

	world_init(&w, seed, flaw, trace);
	run_schedule(&w);
	world_deinit(&w);
	memcpy(broken, w.broken, sizeof(broken));
	sum->commits += w.commits;
	sum->drops += w.drops;
	sum->restores += w.restores;
	sum->moves += w.moves;
	sum->refusals += w.refusals;
	sum->fresh += w.fresh;
	sum->steps += w.step;
	return !broken[0];
}

static uint64_t env_number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static void every_schedule_keeps_the_promises(void **state)
{
	uint64_t count = env_number("FTMEM_SCHEDULES", 20000), first = 1;
	const char *one = getenv("FTMEM_SEED");
	struct summary sum = {0};

	(void)state;
	if (one) {
		first = env_number("FTMEM_SEED", 1);
		count = 1;
	}
	for (uint64_t seed = first; seed < first + count; seed++) {
		if (schedule_holds(seed, FLAW_NONE, one != NULL, &sum))
			continue;
		if (!one)
			schedule_holds(seed, FLAW_NONE, true, &sum);
		fail_msg("seed %llu: see the trace; again with FTMEM_SEED=%llu",
		         (unsigned long long)seed, (unsigned long long)seed);
	}
	print_message("%llu schedules, %llu steps: %llu versions committed, %llu dropped, "
	              "%llu restores, %llu of them into a new epoch, %llu refusals, "
	              "%llu fresh starts\n",
	              (unsigned long long)count, (unsigned long long)sum.steps,
	              (unsigned long long)sum.commits, (unsigned long long)sum.drops,
	              (unsigned long long)sum.restores, (unsigned long long)sum.moves,
	              (unsigned long long)sum.refusals, (unsigned long long)sum.fresh);
	assert_true(one || (sum.commits > count && sum.restores > count && sum.moves > 0));
}

static void every_flaw_is_noticed(void **state)
{
	struct summary sum = {0};

	(void)state;
	for (int flaw = FLAW_NONE + 1; flaw <= FLAW_HASTY_RECOVERY; flaw++) {
		uint64_t seed = 1;

		while (seed < 200000 && schedule_holds(seed, (enum flaw)flaw, false, &sum))
			seed++;
		if (seed == 200000)
			fail_msg("flaw %d is not noticed", flaw);
		print_message("flaw %d is noticed in schedule %llu\n", flaw,
		              (unsigned long long)seed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_schedule_keeps_the_promises),
		cmocka_unit_test(every_flaw_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
