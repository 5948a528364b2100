/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random schedules of whole jobs (sim.h): ranks, machines and SMPs that go at any step of
 * the library's work, messages that take their time, clocks that are set back, and starts
 * with other machines, other places and other numbers of ranks. FTMEM_SCHEDULES: how many
 * (default 10 000); FTMEM_SEED: only this one, with its trace.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sim.h"
#include "test_random.h"

#define TIMEOUT_NS UINT64_C(1000000000)
#define TURNS_MOST 400000u
#define FLAW_SCHEDULES 20000u

struct sim sim;

/* --- chance and words --- */

uint32_t sim_random(uint32_t below)
{
	return test_random_below(&sim.random, below);
}

bool sim_chance(uint32_t percent)
{
	return sim_random(100) < percent;
}

void sim_trace(const char *fmt, ...)
{
	va_list args;

	if (!sim.trace)
		return;
	va_start(args, fmt);
	printf("t=%-6llu %7.3f s  ", (unsigned long long)sim.turn, (double)sim.clock_ns * 1e-9);
	vprintf(fmt, args);
	printf("\n");
	va_end(args);
}

void sim_break(const char *fmt, ...)
{
	va_list args;

	if (sim.broken[0])
		return;
	va_start(args, fmt);
	vsnprintf(sim.broken, sizeof(sim.broken), fmt, args);
	va_end(args);
	sim_trace("BROKEN PROMISE: %s", sim.broken);
}

void sim_require(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "simulator, seed %llu: not so: %s\n", (unsigned long long)sim.seed, what);
	abort();
}

/* --- the job --- */

static uint32_t new_machine(void)
{
	sim_require(sim.machines < SIM_MACHINES, "enough machines");
	return sim.machines++;
}

static void place_ranks(void)
{
	uint32_t least = sim.nodes;

	sim.ranks = least;
	if (sim_chance(30))
		sim.ranks += sim_random(sim_chance(80) ? 3 : SIM_RANKS - least + 1);
	for (uint32_t r = 0; r < sim.ranks; r++)
		sim.node_of[r] = r < least ? r : sim_random(least);
}

static void make_job(void)
{
	static const uint32_t bytes[] = {256, 1024, 9000, 40000};

	sim.nodes = sim_chance(4) ? 1 : 2 + sim_random(sim_chance(85) ? 2 : 5);
	sim.parity = sim.nodes < 3 ? 1 : 1 + sim_random(sim.nodes - 1 < 3 ? sim.nodes - 1 : 3);
	sim.aim = 2 + sim_random(4);
	sim.elastic = sim_chance(30);
	sim.bytes = bytes[sim_random(4)];
	sim.layout_seed = sim_random(1000);
	place_ranks();
	for (uint32_t i = 0; i < sim.nodes; i++)
		sim.machine_of[i] = new_machine();
}

/* --- losses --- */

static void kill_process(struct sim_process *p, bool reached)
{
	if (!p->alive)
		return;
	if (p->progress != STAGE_OVER) {
		sim_trace("rank %u dies in %s", p->rank, p->doing);
		sim.tally->ranks_died++;
		sim.tally->interrupted += p->restoring;
	}
	p->alive = false;
	sim.outside++;
	fake_net_end(sim.net, p->rank, reached);
	sim.outside--;
	sim_process_end(p);
}

static void lose_machine(uint32_t node)
{
	struct sim_machine *m = &sim.machine[sim.machine_of[node]];
	bool gone = sim_chance(50);

	if (m->state != SIM_USED)
		return;
	sim.tally->machines_lost++;
	sim_trace("machine %u is %s", sim.machine_of[node], gone ? "gone" : "out of reach");
	for (uint32_t r = 0; r < sim.ranks; r++)
		if (sim.node_of[r] == node)
			kill_process(&sim.process[r], sim_chance(50));
	m->state = SIM_AWAY;
	if (gone) {
		m->losses++;
		sim_smp_kill(m);
	}
}

/* All its threads rest for longer than others wait for it. */
static void stall(struct sim_process *p)
{
	uint64_t until = sim.clock_ns + TIMEOUT_NS * (1 + sim_random(8));

	sim_trace("rank %u rests", p->rank);
	sim.tally->idle++;
	for (uint32_t i = 0; i < SIM_FIBERS; i++)
		if (p->fiber[i] && p->fiber[i]->state == FIBER_READY) {
			p->fiber[i]->state = FIBER_ASLEEP;
			p->fiber[i]->waits_for = NULL;
			p->fiber[i]->wake_ns = until;
		}
}

/* What happens to that rank, or around it. */
static void strike(struct sim_process *p)
{
	uint32_t what = sim_random(20), more = 0;

	sim_judge_memory();
	sim.disturbed = true;
	if (sim.struck)
		sim.tally->died[sim.target] += what < 18;
	if (what < 6) {
		kill_process(p, sim_chance(50));
	} else if (what < 16) {
		lose_machine(sim.node_of[p->rank]);
		more = sim_random(sim_chance(80) ? sim.parity : sim.nodes);
	} else if (what < 18) {
		for (uint32_t r = 0; r < sim.ranks; r++)
			kill_process(&sim.process[r], sim_chance(50));
	} else if (what == 18) {
		sim_trace("the SMP of machine %u dies", p->machine);
		sim.tally->smps_died++;
		sim_smp_kill(&sim.machine[p->machine]);
	} else {
		stall(p);
	}
	for (; more > 0; more--)
		lose_machine(sim_random(sim.nodes));
	sim.struck = NULL;
	sim.target = what == 18 && sim_chance(50) ? STEP_ADOPT : -1;
	sim.target_count = 1;
}

/* --- starts --- */

static bool all_over(void)
{
	for (uint32_t r = 0; r < sim.ranks; r++)
		if (sim.process[r].alive && sim.process[r].progress != STAGE_OVER)
			return false;
	return true;
}

/* Every wait has a deadline. */
static void look_for_hangs(void)
{
	for (uint32_t r = 0; r < sim.ranks; r++) {
		const struct sim_process *p = &sim.process[r];

		if (p->alive && p->progress != STAGE_OVER
		    && sim.clock_ns > p->since_ns + 60 * TIMEOUT_NS)
			sim_break("rank %u is in %s for more than %llu timeouts", r, p->doing,
			          (unsigned long long)60);
	}
}

/* False: nothing is left to do. */
static bool run(uint64_t turns)
{
	for (uint64_t done = 0; done < turns && !sim.struck && !sim.broken[0]; done += 500) {
		if (all_over())
			return false;
		if (!sim_turns(turns - done < 500 ? turns - done : 500) && !all_over())
			sim_break("all that is left waits for ever");
		look_for_hangs();
	}
	return !all_over();
}

static void set_clock(void)
{
	uint64_t passed = sim_random(3600) * UINT64_C(1000000000) + sim_random(1000000000);

	if (!sim_chance(8)) {
		sim.wall_ns += passed;
		return;
	}
	sim.wall_ns -= 3 * passed;
	sim.tally->clock_back++;
	sim_trace("the clock is set back by %llu s",
	          (unsigned long long)(3 * passed / 1000000000));
}

/* The step at which somebody is struck, or -1. Most of the first start is left in peace, so
 * that there is something to lose, and then much happens in restores. */
static int choose_target(void)
{
	if (sim_chance(sim.run == 1 ? 70 : 20))
		return -1;
	if (sim.floor.known && sim_chance(60))
		return STEP_GATHERING + (int)sim_random(STEPS - STEP_GATHERING);
	return (int)sim_random(STEPS);
}

static void begin(void)
{
	sim.run++;
	sim.tally->starts++;
	set_clock();
	sim.run_random = (uint64_t)sim_random(UINT32_MAX) << 32 | sim_random(UINT32_MAX);
	sim.calls = sim_random(5) + (sim.run == 1);
	sim.disturbed = sim.chosen = false;
	sim.restored = (struct sim_content){0, 0};
	sim.all[sim.run] = (1u << sim.ranks) - 1;
	sim.target = choose_target();
	sim.target_count = 1 + sim_random(sim_chance(50) ? 1 : 6);
	sim_trace("run %u: %u ranks, %u nodes, parity %u, groups of %u, %u bytes%s", sim.run,
	          sim.ranks, sim.nodes, sim.parity, sim.aim, sim.bytes,
	          sim.elastic ? ", elastic" : "");
	sim_net_begin();
	for (uint32_t r = 0; r < sim.ranks; r++) {
		struct sim_process *p = &sim.process[r];

		sim_trace("    rank %u on machine %u", r, sim.machine_of[sim.node_of[r]]);
		memset(p, 0, sizeof(*p));
		p->rank = r;
		p->machine = sim.machine_of[sim.node_of[r]];
		p->alive = true;
		p->since_ns = sim.clock_ns;
		sim_process_begin(p);
		sim_fiber_new(p, sim_trainer, p);
	}
}

/* The others may go on for a while, and be struck again. */
static void aftermath(void)
{
	uint32_t kind = sim_random(10);

	/* Who lost an SMP is to hand over what it has. */
	if (sim.target == STEP_ADOPT)
		kind = 9;
	if (kind < 5)
		return;
	if (kind == 5) {
		sim.target = (int)sim_random(STEPS);
		sim.target_count = 1;
	}
	if (run(kind < 8 ? 1 + sim_random(600) : TURNS_MOST) && sim.struck) {
		strike(sim.struck);
		run(1 + sim_random(200));
	}
}

static void end(void)
{
	bool orderly = !sim.disturbed && all_over();

	if (!sim.broken[0])
		sim_judge_end();
	sim.tally->orderly += orderly;
	for (uint32_t r = 0; r < sim.ranks; r++)
		kill_process(&sim.process[r], true);
	sim_fibers_end();
	sim_net_end();
	sim_trace("all has ended");
}

static void run_start(void)
{
	begin();
	if (sim.target < 0 && sim_chance(sim.run == 1 ? 20 : 70)) {
		if (run(1 + sim_random(4000)) && !sim.broken[0])
			strike(&sim.process[sim_random(sim.ranks)]);
	} else if (run(TURNS_MOST) && !sim.struck && !sim.broken[0]) {
		sim_break("a run does not come to its end");
	}
	if (sim.struck && !sim.broken[0])
		strike(sim.struck);
	if (sim.disturbed && !sim.broken[0])
		aftermath();
	end();
}

/* --- between starts --- */

static void take(uint32_t node, uint32_t machine)
{
	sim.machine[machine].state = SIM_USED;
	sim.machine_of[node] = machine;
}

static void replace_machines(void)
{
	bool without[SIM_NODES];

	for (uint32_t i = 0; i < sim.nodes; i++) {
		struct sim_machine *m = &sim.machine[sim.machine_of[i]];

		without[i] = m->state != SIM_USED || sim_chance(4);
		if (without[i])
			m->state = SIM_AWAY;
	}
	for (uint32_t i = 0; i < sim.nodes; i++) {
		uint32_t start = sim_random(sim.machines);

		for (uint32_t j = 0; j < sim.machines && without[i]; j++) {
			uint32_t machine = (start + j) % sim.machines;

			if (sim.machine[machine].state != SIM_AWAY || sim_chance(50))
				continue;
			take(i, machine);
			sim.tally->machines_back++;
			without[i] = false;
		}
		if (without[i])
			sim.machine_of[i] = new_machine();
	}
}

/* Another host file. */
static void reorder(void)
{
	uint32_t a = sim_random(sim.nodes), b = sim_random(sim.nodes);
	uint32_t machine = sim.machine_of[a];

	sim.machine_of[a] = sim.machine_of[b];
	sim.machine_of[b] = machine;
}

/* More or fewer ranks, on the same nodes. */
static void resize(void)
{
	sim.tally->resized++;
	place_ranks();
}

static void handle_refusal(void)
{
	bool gone = !sim.floor.known;
	uint32_t node = 0;

	for (uint32_t r = 0; !gone && r < sim.floor.map->ranks; r++)
		gone = sim.machine[sim.floor.machine[r]].losses != sim.floor.losses[r];
	for (uint32_t i = 0; i < sim.nodes; i++)
		sim.machine[sim.machine_of[i]].state = SIM_AWAY;
	if (gone) {
		sim_trace("the user gives the job up");
		for (uint32_t i = 0; i < sim.machines; i++)
			sim_smp_kill(&sim.machine[i]);
		sim.floor.known = false;
	}
	for (uint32_t r = 0; !gone && r < sim.floor.map->ranks; r++)
		if (sim.machine[sim.floor.machine[r]].state != SIM_USED && node < sim.nodes)
			take(node++, sim.floor.machine[r]);
	sim_trace("machines that held the version are back: %u", node);
	while (node < sim.nodes)
		sim.machine_of[node++] = new_machine();
}

static void run_schedule(void)
{
	uint32_t starts = 2 + sim_random(sim_chance(70) ? 3 : SIM_STARTS - 3);

	make_job();
	for (uint32_t i = 0; i < starts && !sim.broken[0]; i++) {
		run_start();
		if (sim.broken[0])
			break;
		if (sim.chosen && sim.found == FTMEM_ELOST) {
			handle_refusal();
			continue;
		}
		replace_machines();
		if (sim_chance(12))
			reorder();
		if (sim.elastic && sim_chance(40))
			resize();
	}
	for (uint32_t i = 0; i < sim.machines; i++)
		sim_smp_kill(&sim.machine[i]);
	map_free(sim.floor.map);
}

static bool schedule_holds(uint64_t seed, enum sim_flaw flaw, bool trace, struct sim_tally *tally)
{
	memset(&sim, 0, sizeof(sim));
	sim.seed = sim.random = seed;
	sim.flaw = flaw;
	sim.trace = trace;
	sim.tally = tally;
	sim.wall_ns = UINT64_C(1) << 60;
	tally->schedules++;
	run_schedule();
	return !sim.broken[0];
}

/* --- tests --- */

static uint64_t env_number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

/* How often everything happened. Returns how many kinds never did. */
static int print_tally(const struct sim_tally *t)
{
	const struct {
		const char *name;
		uint64_t count;
	} kind[] = {
		{"starts of a job", t->starts},
		{"of these that ended in order", t->orderly},
		{"ranks that died", t->ranks_died},
		{"machines lost", t->machines_lost},
		{"SMPs that died alone", t->smps_died},
		{"ranks that rested too long", t->idle},
		{"machines that came back", t->machines_back},
		{"clocks set back", t->clock_back},
		{"snapshots begun, of one rank", t->snapshots},
		{"committed", t->committed},
		{"dropped", t->dropped},
		{"busy", t->busy},
		{"skipped", t->skipped},
		{"versions restored", t->restores},
		{"numbers of ranks changed", t->resized},
		{"layouts changed in a run", t->resealed},
		{"deaths in a restore", t->interrupted},
		{"refusals: too much is lost", t->refused},
		{"fresh starts", t->fresh},
		{"calls that failed after a loss", t->failed},
	};
	int never = 0;

	print_message("%llu schedules, %llu turns\n", (unsigned long long)t->schedules,
	              (unsigned long long)t->switches);
	for (size_t i = 0; i < sizeof(kind) / sizeof(kind[0]); i++) {
		print_message("%10llu  %s\n", (unsigned long long)kind[i].count, kind[i].name);
		never += kind[i].count == 0;
	}
	print_message("Steps: how often passed, and how often a rank died there\n");
	for (int i = 0; i < STEPS; i++) {
		if (i == STEP_OTHER)
			continue;
		print_message("%10llu %8llu  %s\n", (unsigned long long)t->passed[i],
		              (unsigned long long)t->died[i], sim_step_name[i]);
		never += t->died[i] == 0;
	}
	return never;
}

static void the_library_keeps_its_promises(void **state)
{
	uint64_t count = env_number("FTMEM_SCHEDULES", 10000), first = 1;
	const char *one = getenv("FTMEM_SEED");
	struct sim_tally tally = {0}, again = {0};
	int never;

	(void)state;
	if (one) {
		first = env_number("FTMEM_SEED", 1);
		count = 1;
	}
	for (uint64_t seed = first; seed < first + count; seed++) {
		if (schedule_holds(seed, SIM_SOUND, one != NULL, &tally))
			continue;
		if (!one)
			schedule_holds(seed, SIM_SOUND, true, &again);
		fail_msg("schedule %llu breaks a promise, see the trace; again with\n"
		         "FTMEM_SEED=%llu %s", (unsigned long long)seed,
		         (unsigned long long)seed, program_invocation_name);
	}
	never = print_tally(&tally);
	if (count >= 5000 && never > 0)
		fail_msg("%d kinds of events never happened", never);
}

static void every_flaw_is_noticed(void **state)
{
	static const char *const name[SIM_FLAWS] = {
		[SIM_STALE_BLOCK] = "rebuilds from a stale block, with checksums that say nothing",
		[SIM_LEAVES_PART] = "leaves a part out when it fills the regions",
		[SIM_CLOCK_ALONE] = "numbers runs and epochs by the clock alone",
		[SIM_WRONG_SLOT] = "fills the newest committed slot",
		[SIM_EARLY_END] = "gives older epochs up when a new one is sealed",
		[SIM_NO_VOTE] = "commits without a vote",
		[SIM_OLDER_VERSION] = "chooses the version before the newest",
	};
	struct sim_tally tally = {0};

	(void)state;
	if (getenv("FTMEM_TEST_QUICK"))
		skip();
	for (int flaw = SIM_SOUND + 1; flaw < SIM_FLAWS; flaw++) {
		uint64_t seed = 1;

		while (seed < FLAW_SCHEDULES
		       && schedule_holds(seed, (enum sim_flaw)flaw, false, &tally))
			seed++;
		if (seed == FLAW_SCHEDULES)
			fail_msg("nobody notices who %s", name[flaw]);
		print_message("schedule %llu notices who %s: %s\n", (unsigned long long)seed,
		              name[flaw], sim.broken);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_library_keeps_its_promises),
		cmocka_unit_test(every_flaw_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
