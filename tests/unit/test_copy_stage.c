/* SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "copy_stage.h"

#define GIB (UINT64_C(1) << 30)

static uint64_t direct(double window_s, double bytes_per_s, uint64_t bytes)
{
	return copy_stage_direct(&(struct copy_pace){window_s, window_s, bytes_per_s}, bytes);
}

static void everything_is_staged_while_nothing_is_known(void **state)
{
	(void)state;
	assert_int_equal(direct(-1, 0, 8 * GIB), 0);
	assert_int_equal(direct(-1, 50e9, 8 * GIB), 0);
	assert_int_equal(direct(0.1, 0, 8 * GIB), 0);
	assert_int_equal(direct(INFINITY, 0, 8 * GIB), 0);
}

static void nothing_is_staged_if_copies_are_over_before_the_fence(void **state)
{
	(void)state;
	assert_int_equal(direct(INFINITY, 50e9, 8 * GIB), 8 * GIB);
	assert_int_equal(direct(10, 50e9, 8 * GIB), 8 * GIB);
	assert_int_equal(direct(INFINITY, 1e-9, UINT64_MAX), UINT64_MAX);
	assert_int_equal(direct(1e300, 1e300, UINT64_MAX), UINT64_MAX);
	assert_int_equal(direct(INFINITY, 50e9, 0), 0);
}

static void one_long_step_says_little_of_the_next(void **state)
{
	struct copy_pace pace = COPY_PACE_UNKNOWN;

	(void)state;
	pace.bytes_per_s = 50e9;
	assert_int_equal(copy_stage_direct(&pace, GIB), 0);
	copy_stage_learn(&pace, INFINITY);
	assert_int_equal(copy_stage_direct(&pace, GIB), GIB);
	copy_stage_learn(&pace, 0.001);
	assert_int_equal(copy_stage_direct(&pace, GIB), direct(0.001, 50e9, GIB));
	copy_stage_learn(&pace, INFINITY);
	assert_int_equal(copy_stage_direct(&pace, GIB), direct(0.001, 50e9, GIB));
	copy_stage_learn(&pace, INFINITY);
	assert_int_equal(copy_stage_direct(&pace, GIB), GIB);
}

/* A little less than what the window has room for. */
static void what_leaves_in_the_window_is_not_staged(void **state)
{
	(void)state;
	for (int ms = 1; ms < 200; ms += 13) {
		double window_s = ms * 1e-3;
		uint64_t room = (uint64_t)(window_s * 50e9);
		uint64_t bytes = direct(window_s, 50e9, 20 * GIB);

		assert_true(bytes < room);
		assert_true(bytes > room / 10 * 9);
	}
	assert_int_equal(direct(0, 50e9, 8 * GIB), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_is_staged_while_nothing_is_known),
		cmocka_unit_test(nothing_is_staged_if_copies_are_over_before_the_fence),
		cmocka_unit_test(what_leaves_in_the_window_is_not_staged),
		cmocka_unit_test(one_long_step_says_little_of_the_next),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
