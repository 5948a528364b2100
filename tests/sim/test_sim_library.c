/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random schedules of whole jobs (sim.h): ranks, machines and SMPs that go at any step of
 * the library's work, messages that take their time, clocks that are set back, and starts
 * with other machines, other places and other numbers of ranks: 40,000, or as schedules.h says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "schedules.h"
#include "sim.h"
#include "test_env.h"
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

static struct sim_tally tally;

static bool schedule_holds(uint64_t seed, int flaw, bool trace)
{
	memset(&sim, 0, sizeof(sim));
	sim.seed = sim.random = seed;
	sim.flaw = (enum sim_flaw)flaw;
	sim.trace = trace;
	sim.tally = &tally;
	sim.wall_ns = UINT64_C(1) << 60;
	tally.schedules++;
	sim_schedule();
	return !sim.broken[0];
}

/* How often everything happened. Returns how many kinds never did. */
static int print_tally(const struct sim_tally *t)
{
	const struct schedules_kind kind[] = {
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
		{"refusals: too much is damaged", t->corrupt},
		{"repairs, of all ranks", t->repairs},
		{"of these that mended something", t->mended},
		{"blocks mended", t->blocks},
		{"repairs refused: too much is damaged", t->beyond},
		{"of these that left the version before", t->spared},
		{"deaths in a repair", t->repairs_cut},
		{"repairs that failed after a loss, by rank", t->repairs_failed},
		{"jobs forgotten", t->forgotten},
		{"of these that were cut short", t->forgets_cut},
		{"bits that flipped where they were read", t->hit_inside},
		{"fresh starts", t->fresh},
		{"calls that failed after a loss", t->failed},
	};
	int never;

	print_message("%llu schedules, %llu turns\n", (unsigned long long)t->schedules,
	              (unsigned long long)t->switches);
	never = schedules_print(kind, sizeof(kind) / sizeof(kind[0]));
	print_message("Bits that flipped\n");
	for (int i = 0; i < SIM_PLACES; i++) {
		print_message("%10llu  %s\n", (unsigned long long)t->damages[i],
		              sim_place_name[i]);
		never += t->damages[i] == 0;
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
	uint64_t count = schedules_run(schedule_holds, 40000);
	int never = print_tally(&tally);

	(void)state;
	if (count >= 5000 && never > 0)
		fail_msg("%d kinds of events never happened", never);
}

static void a_seed_gives_the_same_course_again(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim_tally first;

		memset(&tally, 0, sizeof(tally));
		schedule_holds(seed, SIM_SOUND, false);
		first = tally;
		memset(&tally, 0, sizeof(tally));
		schedule_holds(seed, SIM_SOUND, false);
		assert_memory_equal(&first, &tally, sizeof(first));
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
		[SIM_CLEARS_EARLY] = "empties the older slot before all hold what is repaired",
		[SIM_FITS_SUMS] = "writes checksums that fit what is damaged",
		[SIM_SPARES_NOTHING] = "fills the older slot when a repair was refused",
		[SIM_LONE_FORGET] = "forgets before all may",
	};

	(void)state;
	if (test_quick())
		skip();
	schedules_notice(schedule_holds, name, SIM_FLAWS, 1, FLAW_SCHEDULES, sim.broken);
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
