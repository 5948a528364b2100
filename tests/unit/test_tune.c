/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tune.h"

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1024) * KIB)

static void blocks_are_a_sixteenth_of_the_cache_within_bounds(void **state)
{
	static const struct {
		uint64_t l2_bytes, block_bytes;
	} of[] = {
		{1, 64 * KIB},
		{256 * KIB, 64 * KIB},
		{512 * KIB, 64 * KIB},
		{MIB, 64 * KIB},
		{MIB + 256 * KIB, 64 * KIB},
		{2 * MIB - 1, 64 * KIB},
		{2 * MIB, 128 * KIB},
		{3 * MIB, 128 * KIB},
		{4 * MIB - 1, 128 * KIB},
		{4 * MIB, 256 * KIB},
		{16 * MIB, 256 * KIB},
		{UINT64_MAX, 256 * KIB},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++)
		assert_int_equal(tune_block_bytes(of[i].l2_bytes), of[i].block_bytes);
}

static void blocks_without_a_known_cache_are_those_of_a_common_one(void **state)
{
	(void)state;
	assert_int_equal(tune_block_bytes(0), 128 * KIB);
}

static void more_than_two_rows_take_at_most_a_quarter_of_the_cache(void **state)
{
	(void)state;
	assert_int_equal(tune_window(2 * MIB, 128 * KIB), 4);
	assert_int_equal(tune_window(2 * MIB, 128 * KIB + 1), 3);
	assert_int_equal(tune_window(2 * MIB, 171 * KIB), 2);
	assert_int_equal(tune_window(2 * MIB, 7 * 128 * KIB), 2);
	assert_int_equal(tune_window(MIB, 3 * 64 * KIB), 2);
	assert_int_equal(tune_window(64 * MIB, 64 * KIB), 4);
	assert_int_equal(tune_window(UINT64_MAX, 1), 4);
	assert_int_equal(tune_window(1, UINT64_MAX), 2);
}

static void two_rows_are_in_flight_where_nothing_is_known(void **state)
{
	(void)state;
	assert_int_equal(tune_window(0, 128 * KIB), 2);
	assert_int_equal(tune_window(2 * MIB, 0), 2);
	assert_int_equal(tune_window(0, 0), 2);
}

static void one_cpu_is_left_to_the_exchange_and_few_copy(void **state)
{
	static const uint32_t threads[] = {1, 1, 1, 2, 3, 4, 4, 4};

	(void)state;
	for (uint32_t cpus = 0; cpus < sizeof(threads) / sizeof(threads[0]); cpus++)
		assert_int_equal(tune_copy_threads(cpus, false), threads[cpus]);
	assert_int_equal(tune_copy_threads(UINT32_MAX, false), 4);
}

static void more_threads_checksum_what_devices_send(void **state)
{
	static const uint32_t threads[] = {1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12};

	(void)state;
	for (uint32_t cpus = 0; cpus < sizeof(threads) / sizeof(threads[0]); cpus++)
		assert_int_equal(tune_copy_threads(cpus, true), threads[cpus]);
	assert_int_equal(tune_copy_threads(UINT32_MAX, true), 12);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_are_a_sixteenth_of_the_cache_within_bounds),
		cmocka_unit_test(blocks_without_a_known_cache_are_those_of_a_common_one),
		cmocka_unit_test(more_than_two_rows_take_at_most_a_quarter_of_the_cache),
		cmocka_unit_test(two_rows_are_in_flight_where_nothing_is_known),
		cmocka_unit_test(one_cpu_is_left_to_the_exchange_and_few_copy),
		cmocka_unit_test(more_threads_checksum_what_devices_send),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
