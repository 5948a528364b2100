/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random schedules of whole jobs (sim.h): ranks, machines and SMPs that go at any step of
 * the library's work, messages that take their time, clocks that are set back, and starts
 * with other machines, other places and other numbers of ranks. FTMEM_SCHEDULES: how many
 * (default 14 000); FTMEM_SEED: from this one on (default: it alone, with its trace).
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

/* --- tests --- */

static bool schedule_holds(uint64_t seed, enum sim_flaw flaw, bool trace, struct sim_tally *tally)
{
	memset(&sim, 0, sizeof(sim));
	sim.seed = sim.random = seed;
	sim.flaw = flaw;
	sim.trace = trace;
	sim.tally = tally;
	sim.wall_ns = UINT64_C(1) << 60;
	tally->schedules++;
	sim_schedule();
	return !sim.broken[0];
}

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
	uint64_t first = env_number("FTMEM_SEED", 0);
	uint64_t count = env_number("FTMEM_SCHEDULES", first ? 1 : 14000);
	bool one = count == 1;
	struct sim_tally tally = {0}, again = {0};
	int never;

	(void)state;
	if (first == 0)
		first = 1;
	for (uint64_t seed = first; seed < first + count; seed++) {
		if (schedule_holds(seed, SIM_SOUND, one, &tally))
			continue;
		if (!one)
			schedule_holds(seed, SIM_SOUND, true, &again);
		fflush(stdout);
		fail_msg("schedule %llu breaks a promise, see the trace; again with\n"
		         "FTMEM_SEED=%llu %s", (unsigned long long)seed,
		         (unsigned long long)seed, program_invocation_name);
	}
	never = print_tally(&tally);
	if (count >= 5000 && never > 0)
		fail_msg("%d kinds of events never happened", never);
}

static void a_seed_gives_the_same_course_again(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim_tally first = {0}, again = {0};

		schedule_holds(seed, SIM_SOUND, false, &first);
		schedule_holds(seed, SIM_SOUND, false, &again);
		assert_memory_equal(&first, &again, sizeof(first));
	}
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
		cmocka_unit_test(a_seed_gives_the_same_course_again),
		cmocka_unit_test(every_flaw_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
