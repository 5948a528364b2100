/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Runs many random schedules, of which each follows from its number, the seed.
 *
 *   FTMEM_SCHEDULES  how many
 *   FTMEM_SEED       from this one on; unless FTMEM_SCHEDULES is set it alone, with its trace
 */
#ifndef FTMEM_TEST_SCHEDULES_H
#define FTMEM_TEST_SCHEDULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether one keeps all promises. flaw: what is spoiled, 0: nothing. */
typedef bool schedule(uint64_t seed, int flaw, bool trace);

/* Of the environment. */
uint64_t schedules_number(const char *name, uint64_t otherwise);

/* So many, or as the environment says; returns how many. Where a promise breaks the test fails, and
 * says how that schedule is run again. */
uint64_t schedules_run(schedule *holds, uint64_t count);

/* That some of so many from first on break a promise with each flaw; name: what it does. broken:
 * what a schedule that did not hold says. */
void schedules_notice(schedule *holds, const char *const *name, int flaws, uint64_t first,
                      uint64_t most, const char *broken);

/* How often something happened. */
struct schedules_kind {
	const char *name;
	uint64_t count;
};
/* Prints it; returns how many never did. */
int schedules_print(const struct schedules_kind *kind, size_t kinds);

#endif
