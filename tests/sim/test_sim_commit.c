/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random schedules of jobs that crash, lose machines, get them back and recover,
 * and of recoveries that crash too: 100,000, or as schedules.h says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "schedules.h"
#include "test_env.h"
#include "world.h"

#define FLAW_SCHEDULES 200000
/* From here on those flaws are noticed soonest that take ten thousands of schedules. */
#define FLAW_FIRST     580001

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
		per_node[i] = 1 + (world_chance(w, 40) ? world_random(w, w->nodes > 4 ? 2 : 3) : 0);
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

/* Most are small: they have room for the same mistakes, and more of them fit a second. */
static void make_job(struct world *w)
{
	static const uint32_t restless[] = {3, 3, 10, 40};

	w->nodes = world_chance(w, 4)    ? 1
	           : world_chance(w, 80) ? 2 + world_random(w, 2)
	                                 : 2 + world_random(w, WORLD_NODES - 1);
	w->parity = w->nodes == 1 ? 1 : 1 + world_random(w, w->nodes - 1 < 3 ? w->nodes - 1 : 3);
	w->aim = 2 + world_random(w, 5);
	w->restless = restless[world_random(w, 4)];
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
	w->tally->machines_lost++;
	world_trace(w, "machine %u is %s", w->machine_of[node],
	            m->state == MACHINE_AWAY ? "out of reach" : "gone");
	if (m->state == MACHINE_GONE)
		memset(m->arena, 0, sizeof(m->arena));
	for (uint32_t r = 0; r < w->ranks; r++)
		if (w->node_of[r] == node)
			world_kill(w, r);
}

/* Something happens to ranks or machines, first of all to who was aimed at. */
static void strike(struct world *w)
{
	uint32_t what = world_random(w, 10), count = 0;

	if (what < 8 && w->aimed_at >= 0) {
		if (what < 3)
			world_kill(w, (uint32_t)w->aimed_at);
		else
			lose_machine(w, w->node_of[w->aimed_at]);
		w->aimed_at = -1;
		what = world_random(w, 20);
	}
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

		without[i] = m->state != MACHINE_USED || world_chance(w, w->restless);
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
			w->tally->machines_back++;
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

/* Runs until steps have passed or, if aim is a point, some rank is there for the n-th time. */
static void run_until_crash(struct world *w, uint32_t steps, int aim, uint32_t n)
{
	static const uint32_t percent[] = {0, 0, 2, 10};

	w->skip_percent = percent[world_random(w, 4)];
	w->fail_percent = percent[world_random(w, 4)];
	w->aimed_at = -1;
	world_start(w);
	for (uint32_t i = 0; i < steps && !w->broken[0] && world_step(w); i++)
		if ((int)world_death(w, w->stepped) == aim && --n == 0) {
			w->aimed_at = (int)w->stepped;
			return;
		}
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
		judge_forgotten(w);
		return;
	}
	world_trace(w, "the machines come back");
	for (uint32_t i = 0; i < w->nodes; i++)
		w->machine[w->machine_of[i]].state = MACHINE_AWAY;
	for (uint32_t r = 0; r < w->ranks; r++)
		if (!judge_home_is_there(w, r))
			take(w, node++, w->home[r]);
	while (node < w->nodes)
		w->machine_of[node++] = new_machine(w);
}

/* A point to crash at, or -1: none in particular. */
static int choose_aim(struct world *w)
{
	if (w->floor_known && world_chance(w, 40))
		return (int)world_random(w, DEATH_IDLE);
	return world_chance(w, 60) ? (int)world_random(w, DEATHS) : -1;
}

static void run_and_crash(struct world *w)
{
	uint32_t steps = w->ranks * (world_chance(w, 90) ? 60 : 250);
	int aim = choose_aim(w);

	run_until_crash(w, aim < 0 ? 1 + world_random(w, steps) : steps, aim,
	                1 + world_random(w, 4));
	if (w->broken[0])
		return;
	if (w->found == FTMEM_ELOST) {
		handle_refusal(w);
		return;
	}
	crash(w);
	replace_machines(w);
	if (world_chance(w, w->restless + 5))
		reorder(w);
}

static void run_schedule(struct world *w)
{
	uint32_t starts = 2 + world_random(w, world_chance(w, 80) ? 5 : WORLD_STARTS - 4);

	make_job(w);
	for (uint32_t i = 0; i < starts && !w->broken[0]; i++)
		run_and_crash(w);
	/* The last start is left in peace until it has chosen. */
	if (!w->broken[0])
		run_until_crash(w, 20 * w->ranks, -1, 0);
}

/* --- tests --- */

/* Of the last schedule. */
static struct world w;
static struct tally tally;

static bool schedule_holds(uint64_t seed, int flaw, bool trace)
{
	world_init(&w, seed, (enum flaw)flaw, trace, &tally);
	tally.schedules++;
	run_schedule(&w);
	world_deinit(&w);
	tally.steps += w.step;
	return !w.broken[0];
}

/* Says how often everything happened. Returns how many kinds never did. */
static int print_tally(const struct tally *t)
{
	const struct schedules_kind kind[] = {
		{"starts of a job", t->starts},
		{"ranks that died", t->kills},
		{"machines lost", t->machines_lost},
		{"machines that came back", t->machines_back},
		{"clocks set back", t->clock_back},
		{"runs numbered below one out of reach", t->unordered},
		{"versions committed", t->commits},
		{"versions dropped", t->drops},
		{"versions restored", t->restores},
		{"of these into a new epoch", t->moves},
		{"slots rebuilt", t->rebuilds},
		{"deaths while a version is restored", t->interrupted},
		{"refusals: too much is lost", t->refusals},
		{"fresh starts", t->fresh},
	};
	int never;

	print_message("%llu schedules, %llu steps\n", (unsigned long long)t->schedules,
	              (unsigned long long)t->steps);
	never = schedules_print(kind, sizeof(kind) / sizeof(kind[0]));
	print_message("A rank died\n");
	for (int i = 0; i < DEATHS; i++) {
		if (!death_name[i])
			continue;
		print_message("%10llu  %s\n", (unsigned long long)t->death[i], death_name[i]);
		never += t->death[i] == 0;
	}
	return never;
}

static void every_schedule_keeps_the_promises(void **state)
{
	uint64_t count = schedules_run(schedule_holds, 100000);
	int never = print_tally(&tally);

	(void)state;
	if (count >= 1000 && never > 0)
		fail_msg("%d kinds of events never happened", never);
}

static void every_flaw_is_noticed(void **state)
{
	static const char *const name[FLAWS] = {
		[FLAW_OVERWRITES_NEWEST] = "fills the newest committed slot",
		[FLAW_SKIPS_SILENTLY] = "says GO although it skips",
		[FLAW_IGNORES_TRAILERS] = "is prepared whatever the trailers say",
		[FLAW_COUNTS_INCARNATIONS] = "counts incarnations without the clock",
		[FLAW_COUNTS_EPOCHS] = "counts epochs without the clock",
		[FLAW_COUNTS_IF_LATE] = "counts where the clock is behind, without chance",
		[FLAW_CLOCK_ALONE] = "numbers by the clock alone",
		[FLAW_HASTY_RECOVERY] = "clears before all are prepared",
		[FLAW_ENTERS_EARLY] = "notes a run before it holds what that restored",
		[FLAW_BELIEVES_OLD] = "believes arenas that were away",
		[FLAW_DOUBTS_LATE] = "believes all arenas but those that replaced lost ones",
		[FLAW_STAMPS_ANEW] = "stamps anew what moves to a new epoch",
		[FLAW_STAYS_IN_JOINED] = "moves into slots of an epoch that was joined",
	};

	(void)state;
	/* Some take ten thousands of schedules. */
	if (test_quick())
		skip();
	schedules_notice(schedule_holds, name, FLAWS, FLAW_FIRST, FLAW_SCHEDULES, w.broken);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_schedule_keeps_the_promises),
		cmocka_unit_test(every_flaw_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
