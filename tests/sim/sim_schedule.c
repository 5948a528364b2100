/* SPDX-License-Identifier: BSD-3-Clause */
/* Jobs, what they lose and when, and with what they start again. */
#include <string.h>

#include "sim.h"

#define TIMEOUT_NS ((uint64_t)SIM_TIMEOUT_MS * 1000000)
/* Of one start: more means that it does not come to its end. */
#define TURNS_MOST 400000u

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
	sim.damaging = sim_chance(50);
	sim.wild = sim.damaging && sim_chance(25);
	sim.mending = sim_chance(50);
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
		sim.tally->repairs_cut += p->repairing;
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
		sim.floor_visible = sim.floor_visible && sim_judge_floor_is_visible();
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
	if (sim.mends && sim_chance(50))
		return STEP_MEND + (int)sim_random(STEP_FORGETEMPTY - STEP_MEND);
	if (sim.forget_at < sim.calls && sim_chance(40))
		return STEP_FORGETTING;
	if (sim.forget_at < sim.calls && sim_chance(70))
		return STEP_FORGETEMPTY + (int)sim_random(STEPS - STEP_FORGETEMPTY);
	if (sim_chance(sim.run == 1 ? 70 : 20))
		return -1;
	if (sim.floor.known && sim_chance(60))
		return STEP_GATHERING + (int)sim_random(STEPS - STEP_GATHERING);
	return (int)sim_random(STEPS);
}

static void begin(void)
{
	sim.run = ++sim.runs;
	sim.tally->starts++;
	set_clock();
	sim.run_random = (uint64_t)sim_random(UINT32_MAX) << 32 | sim_random(UINT32_MAX);
	sim.calls = sim_random(5) + (sim.run == 1);
	sim.disturbed = sim.chosen = sim.hit_inside = false;
	sim.mends = sim.mending && sim_chance(50);
	sim.forget_at = sim_chance(5) ? sim_random(5) : UINT32_MAX;
	sim.forgetting = 0;
	memset(sim.repair, 0, sizeof(sim.repair));
	if (sim.damaging && sim_chance(40))
		sim_damage_some();
	sim.damage_in = sim.damaging && sim_chance(40) ? 1 + sim_random(3000) : 0;
	sim.start_damages = sim.damages;
	sim.restored = (struct sim_content){0, 0};
	sim_judge_memory();
	sim.floor_visible = sim_judge_floor_is_visible();
	sim.fallback = sim.older.content;
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
		p->run = sim.run;
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
	bool gone = !sim_floor_is_left(&sim.floor, true);
	uint32_t node = 0;

	for (uint32_t i = 0; i < sim.nodes; i++)
		sim.machine[sim.machine_of[i]].state = SIM_AWAY;
	if (gone) {
		sim_trace("the user gives the job up");
		for (uint32_t i = 0; i < sim.machines; i++)
			sim_smp_kill(&sim.machine[i]);
		sim_floor_drop(&sim.floor);
		sim_floor_drop(&sim.older);
		sim.half_forgotten = false;
	}
	for (uint32_t r = 0; !gone && r < sim.floor.map->ranks; r++)
		if (sim.machine[sim.floor.machine[r]].state != SIM_USED && node < sim.nodes)
			take(node++, sim.floor.machine[r]);
	sim_trace("machines that held the version are back: %u", node);
	while (node < sim.nodes)
		sim.machine_of[node++] = new_machine();
}

void sim_schedule(void)
{
	uint32_t starts = 2 + sim_random(sim_chance(70) ? 3 : SIM_STARTS - 3);

	make_job();
	for (uint32_t i = 0; i < starts && !sim.broken[0]; i++) {
		run_start();
		if (sim.broken[0])
			break;
		if (sim.chosen && (sim.found == FTMEM_ELOST || sim.found == FTMEM_ECORRUPT)) {
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
	sim_floor_drop(&sim.floor);
	sim_floor_drop(&sim.older);
}
