/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "copy.h"
#include "error.h"
#include "test_layout.h"

static struct copy_plan *plan_of(const struct test_layout *t, const struct rail *rail)
{
	struct copy_plan *plan = NULL;

	assert_int_equal(copy_plan_new(&t->layout, rail, rail->n > 1, &plan), 0);
	assert_non_null(plan);
	return plan;
}

/* Every block is where the rail says; what its pieces bring is the layout's image. */
static void assert_plan_is_right(const struct test_layout *t, const struct rail *rail)
{
	struct copy_plan *plan = plan_of(t, rail);
	uint8_t *image = test_layout_image(t), *made = calloc(1, t->layout.data_bytes + 1);
	uint32_t member = rail->n > 1, rows = rail_chunk_rows(rail, member), index = 0;

	assert_non_null(made);
	assert_int_equal(plan->blocks, rail_data_blocks(rail, member));
	for (uint32_t row = 0; row < rows; row++)
		for (uint32_t chunk = 0; chunk < rail_k(rail); chunk++, index++) {
			const struct copy_block *b = &plan->block[index];

			assert_int_equal(copy_plan_index(rail, member, chunk, row), index);
			assert_int_equal(b->bytes, rail_data_len(rail, member, chunk, row));
			assert_int_equal(b->offset, rail_data_offset(rail, member, chunk, row));
			assert_int_equal(b->sum, chunk * rows + row);
			assert_true(b->count == 0 || b->first + b->count <= plan->pieces);
			for (uint32_t p = b->first; p < b->first + b->count; p++) {
				const struct copy_piece *piece = &plan->piece[p];

				assert_true(piece->bytes > 0);
				assert_true(piece->offset + piece->bytes <= b->bytes);
				memcpy(made + b->offset + piece->offset, piece->addr, piece->bytes);
			}
		}
	if (plan->blocks > 0)
		assert_true(plan->blob_bytes == t->layout.blob_bytes);
	assert_memory_equal(made, image, t->layout.data_bytes);
	free(made);
	free(image);
	copy_plan_free(plan);
}

static void follows_rail_and_layout(void **state)
{
	static const uint64_t bytes[] = {1, 63, 64, 65, 4095, (1 << 20) + 1, 7, 128, 100000};
	uint64_t random = 5;
	struct test_layout t;

	(void)state;
	for (uint32_t count = 1; count <= 9; count++)
		for (uint64_t space = 0; space < 2; space++) {
			test_layout_init(&t, bytes, count, space, &random);
			for (uint32_t n = 1; n <= 6; n++)
				for (uint32_t m = n > 1; m < n && m < 4; m++) {
					struct rail r = test_layout_rail(&t, n, m, 4096 * (n + m));

					assert_plan_is_right(&t, &r);
				}
			test_layout_deinit(&t);
		}
}

static void random_layouts_come_out_right(void **state)
{
	uint64_t random = test_random_seed(__func__);

	(void)state;
	for (int round = 0; round < 300; round++) {
		uint32_t count = 1 + test_random_below(&random, 60), n, m;
		uint64_t bytes[60];
		struct test_layout t;
		struct rail r;

		for (uint32_t i = 0; i < count; i++)
			bytes[i] =
				1
				+ test_random_below(&random, 1u << test_random_below(&random, 17));
		n = 1 + test_random_below(&random, 9);
		m = n > 1 ? 1 + test_random_below(&random, n - 1) : 0;
		test_layout_init(&t, bytes, count, test_random_below(&random, 3), &random);
		r = test_layout_rail(&t, n, m, 4096 * (1 + test_random_below(&random, 8)));
		assert_plan_is_right(&t, &r);
		test_layout_deinit(&t);
	}
}

static void no_regions_make_an_empty_plan(void **state)
{
	struct test_layout t;
	struct rail r;
	struct copy_plan *plan;

	(void)state;
	test_layout_init(&t, NULL, 0, 0, NULL);
	r = test_layout_rail(&t, 3, 1, 4096);
	plan = plan_of(&t, &r);
	assert_int_equal(plan->blocks, 0);
	assert_int_equal(plan->pieces, 0);
	copy_plan_free(plan);
	copy_plan_free(NULL);
}

/* Regions that touch in memory and in the slot are one piece up to a block's end;
 * those that touch in memory alone are not. */
static void merges_neighbours(void **state)
{
	static const uint64_t bytes[] = {640, 64, 128, 100, 64, 64};
	uint64_t random = 6;
	struct test_layout t;
	struct copy_plan *plan;
	struct rail r;

	(void)state;
	test_layout_init(&t, bytes, 6, 0, &random);
	r = test_layout_rail(&t, 1, 0, 4096);
	plan = plan_of(&t, &r);
	assert_int_equal(plan->blocks, 1);
	assert_int_equal(plan->pieces, 3); /* blob, 640 to 100, 64 to 64 */
	assert_int_equal(plan->piece[1].bytes, 640 + 64 + 128 + 100);
	assert_int_equal(plan->piece[2].bytes, 128);
	copy_plan_free(plan);
	test_layout_deinit(&t);
}

/* A restore leaves out the blob's pieces, so no region may be part of one. */
static void never_merges_a_region_into_the_blob(void **state)
{
	uint8_t memory[256] = {0};
	struct layout_entry entry = {.addr = memory + 128, .offset = 128, .bytes = 64};
	struct test_layout t = {.layout = {.count = 1,
	                                   .entry = &entry,
	                                   .blob = memory,
	                                   .blob_bytes = 128,
	                                   .data_bytes = 192}};
	struct rail r = test_layout_rail(&t, 1, 0, 4096);
	struct copy_plan *plan = plan_of(&t, &r);

	(void)state;
	assert_int_equal(plan->pieces, 2);
	assert_int_equal(plan->piece[0].bytes, 128);
	copy_plan_free(plan);
}

/* Their number of pieces grows with regions and blocks, not with their product. */
static void thousands_of_tiny_regions_take_a_piece_each(void **state)
{
	enum { COUNT = 50000 };
	uint64_t *bytes = malloc(COUNT * sizeof(*bytes)), random = 7;
	struct test_layout t;
	struct copy_plan *plan;
	struct rail r;

	(void)state;
	assert_non_null(bytes);
	for (uint32_t i = 0; i < COUNT; i++)
		bytes[i] = 1 + i % 63;
	test_layout_init(&t, bytes, COUNT, 0, &random);
	r = test_layout_rail(&t, 4, 2, 8192);
	assert_plan_is_right(&t, &r);
	plan = plan_of(&t, &r);
	assert_true(plan->pieces >= COUNT);
	assert_true(plan->pieces <= COUNT + 1 + plan->blocks);
	copy_plan_free(plan);
	test_layout_deinit(&t);
	free(bytes);
}

/* A layout read back has the places of the regions that are asked for alone. */
static void leaves_out_what_has_no_address(void **state)
{
	static const uint64_t bytes[] = {64, 10000, 64, 5000, 64};
	uint64_t random = 11, wanted = 0, offset;
	uint8_t *blob, *third;
	struct test_layout t;
	struct copy_plan *plan;
	struct rail r;

	(void)state;
	test_layout_init(&t, bytes, 5, 0, &random);
	blob = t.layout.blob;
	third = t.layout.entry[3].addr;
	offset = t.layout.entry[3].offset;
	t.layout.blob = NULL;
	for (uint32_t i = 0; i < 5; i++)
		if (i != 3)
			t.layout.entry[i].addr = NULL;
	r = test_layout_rail(&t, 3, 1, 4096);
	plan = plan_of(&t, &r);
	assert_int_equal(plan->blocks, rail_data_blocks(&r, 1));
	for (uint32_t i = 0; i < plan->blocks; i++)
		for (uint32_t p = 0; p < plan->block[i].count; p++) {
			const struct copy_piece *piece = &plan->piece[plan->block[i].first + p];

			assert_true(piece->addr - third
			            == (ptrdiff_t)(plan->block[i].offset + piece->offset - offset));
			wanted += piece->bytes;
		}
	assert_true(wanted == bytes[3]);
	copy_plan_free(plan);
	t.layout.blob = blob;
	test_layout_deinit(&t);
}

static void refuses_what_does_not_fit(void **state)
{
	static const uint64_t bytes[] = {1000};
	uint64_t random = 8;
	struct copy_plan *plan = NULL;
	struct test_layout t;
	struct rail r, bad;

	(void)state;
	test_layout_init(&t, bytes, 1, 0, &random);
	r = test_layout_rail(&t, 3, 1, 4096);
	assert_int_equal(copy_plan_new(&t.layout, &r, 2, &plan), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "rail 3"));
	assert_int_equal(copy_plan_new(&t.layout, &r, 3, &plan), FTMEM_EINVAL);
	bad = r;
	bad.block_bytes = 100;
	assert_int_equal(copy_plan_new(&t.layout, &bad, 1, &plan), FTMEM_EINVAL);
	assert_null(plan);
	test_layout_deinit(&t);
}

static void says_so_when_memory_runs_out(void **state)
{
	static const uint64_t bytes[] = {1000, 5000};
	uint64_t random = 9;
	struct copy_plan *plan = NULL;
	struct test_layout t;
	int rc = FTMEM_ENOMEM;
	struct rail r;
	unsigned n;

	(void)state;
	test_layout_init(&t, bytes, 2, 0, &random);
	r = test_layout_rail(&t, 3, 1, 4096);
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = copy_plan_new(&t.layout, &r, 1, &plan);
		alloc_fail_off();
		assert_true((rc == 0) == (plan != NULL));
	}
	assert_int_equal(rc, 0);
	assert_true(n > 2);
	copy_plan_free(plan);
	test_layout_deinit(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(follows_rail_and_layout),
		cmocka_unit_test(random_layouts_come_out_right),
		cmocka_unit_test(no_regions_make_an_empty_plan),
		cmocka_unit_test(merges_neighbours),
		cmocka_unit_test(never_merges_a_region_into_the_blob),
		cmocka_unit_test(thousands_of_tiny_regions_take_a_piece_each),
		cmocka_unit_test(leaves_out_what_has_no_address),
		cmocka_unit_test(refuses_what_does_not_fit),
		cmocka_unit_test(says_so_when_memory_runs_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
