/* SPDX-License-Identifier: BSD-3-Clause */
#include "schedules.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

uint64_t schedules_number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

uint64_t schedules_run(schedule *holds, uint64_t count)
{
	uint64_t first = schedules_number("FTMEM_SEED", 0);
	bool one;

	count = schedules_number("FTMEM_SCHEDULES", first ? 1 : count);
	one = count == 1;
	if (first == 0)
		first = 1;
	for (uint64_t seed = first; seed < first + count; seed++) {
		if (holds(seed, 0, one))
			continue;
		if (!one)
			holds(seed, 0, true);
		fflush(stdout);
		fail_msg("schedule %llu breaks a promise, see the trace; again with\n"
		         "FTMEM_SEED=%llu %s", (unsigned long long)seed,
		         (unsigned long long)seed, program_invocation_name);
	}
	return count;
}

void schedules_notice(schedule *holds, const char *const *name, int flaws, uint64_t first,
                      uint64_t most, const char *broken)
{
	for (int flaw = 1; flaw < flaws; flaw++) {
		uint64_t n = 0;

		while (n < most && holds(first + n, flaw, false))
			n++;
		if (n == most)
			fail_msg("nobody notices who %s", name[flaw]);
		print_message("schedule %llu notices who %s: %s\n", (unsigned long long)n + 1,
		              name[flaw], broken);
	}
}

int schedules_print(const struct schedules_kind *kind, size_t kinds)
{
	int never = 0;

	for (size_t i = 0; i < kinds; i++) {
		print_message("%10llu  %s\n", (unsigned long long)kind[i].count, kind[i].name);
		never += kind[i].count == 0;
	}
	return never;
}
