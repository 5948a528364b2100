/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../util/alloc_fail.h"
#include "bytes.h"
#include "error.h"

static void what_is_put_is_read_back_in_order(void **state)
{
	struct bytes b = {0};
	struct bytes_reader r;
	const uint8_t *at;
	uint8_t *grown;

	(void)state;
	for (uint32_t i = 0; i < 10000; i++) {
		assert_int_equal(bytes_put_u32(&b, i), 0);
		assert_int_equal(bytes_put_u64(&b, UINT64_MAX - i), 0);
		assert_int_equal(bytes_put(&b, "abcdefg", i % 8), 0);
		grown = bytes_grow(&b, 3);
		assert_non_null(grown);
		memcpy(grown, "xyz", 3);
		assert_true(b.size <= b.room);
	}
	r = (struct bytes_reader){.at = b.at, .left = b.size};
	for (uint32_t i = 0; i < 10000; i++) {
		assert_int_equal(bytes_get_u32(&r), i);
		assert_true(bytes_get_u64(&r) == UINT64_MAX - i);
		at = bytes_get(&r, i % 8);
		assert_memory_equal(at, "abcdefg", i % 8);
		at = bytes_get(&r, 3);
		assert_memory_equal(at, "xyz", 3);
	}
	assert_int_equal(r.left, 0);
	assert_false(r.bad);
	bytes_deinit(&b);
	assert_null(b.at);
	assert_int_equal(b.size + b.room, 0);
	bytes_deinit(&b);
}

static void nothing_may_be_put_and_read(void **state)
{
	struct bytes b = {0};
	struct bytes_reader r = {0};

	(void)state;
	assert_int_equal(bytes_put(&b, NULL, 0), 0);
	assert_non_null(bytes_grow(&b, 0));
	assert_int_equal(b.size, 0);
	bytes_get(&r, 0);
	assert_false(r.bad);
	bytes_deinit(&b);
}

static void all_is_zero_after_what_is_not_there(void **state)
{
	const uint8_t seven[] = {1, 2, 3, 4, 5, 6, 7};
	struct bytes_reader r = {.at = seven, .left = sizeof(seven)}, all = r, none = r;

	(void)state;
	assert_true(bytes_get_u64(&r) == 0);
	assert_true(r.bad);
	assert_int_equal(bytes_get_u32(&r), 0);
	assert_null(bytes_get(&r, 1));
	assert_null(bytes_get(&r, 0));
	assert_true(r.bad);

	assert_int_not_equal(bytes_get_u32(&all), 0);
	assert_int_equal(bytes_get_u32(&all), 0);
	assert_true(all.bad);

	assert_null(bytes_get(&none, UINT64_MAX));
	assert_true(none.bad);
}

static void a_failed_allocation_leaves_it_as_it_was(void **state)
{
	struct bytes b = {0}, was;
	uint64_t much;

	(void)state;
	alloc_fail_at(1);
	assert_int_equal(bytes_put_u32(&b, 1), FTMEM_ENOMEM);
	alloc_fail_off();
	assert_null(b.at);
	assert_int_equal(b.size + b.room, 0);

	assert_int_equal(bytes_put(&b, "kept", 4), 0);
	was = b;
	much = b.room;
	alloc_fail_at(1);
	assert_null(bytes_grow(&b, much));
	alloc_fail_off();
	assert_memory_equal(&b, &was, sizeof(b));
	/* Sizes that no machine has, and whose sum is too large for a number. */
	assert_null(bytes_grow(&b, UINT64_MAX));
	assert_null(bytes_grow(&b, UINT64_MAX - 3));
	assert_null(bytes_grow(&b, UINT64_C(1) << 48));
	assert_null(bytes_grow(&b, UINT64_C(1) << 63));
	assert_int_equal(bytes_put(&b, &much, UINT64_MAX / 2), FTMEM_ENOMEM);
	assert_memory_equal(&b, &was, sizeof(b));
	assert_non_null(strstr(error_msg(), "no memory for"));
	assert_memory_equal(b.at, "kept", 4);
	assert_non_null(bytes_grow(&b, much));
	assert_memory_equal(b.at, "kept", 4);
	bytes_deinit(&b);
}

static void many_small_ones_take_few_allocations(void **state)
{
	struct bytes b = {0};

	(void)state;
	alloc_fail_at(0);
	for (uint32_t i = 0; i < 100000; i++)
		assert_int_equal(bytes_put_u32(&b, i), 0);
	assert_true(alloc_fail_count() < 16);
	alloc_fail_off();
	bytes_deinit(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_put_is_read_back_in_order),
		cmocka_unit_test(nothing_may_be_put_and_read),
		cmocka_unit_test(all_is_zero_after_what_is_not_there),
		cmocka_unit_test(a_failed_allocation_leaves_it_as_it_was),
		cmocka_unit_test(many_small_ones_take_few_allocations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
