/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "copy.h"
#include "error.h"
#include "test_boxes.h"

static struct copy_plan *plan_of(const struct test_layout *t, const struct rail *rail)
{
	struct copy_plan *plan = NULL;

	assert_int_equal(copy_plan_new(&t->layout, rail, rail->n > 1, &plan), 0);
	assert_non_null(plan);
	return plan;
}

static void piece_bring(const struct copy_piece *piece, uint8_t *to)
{
	if (!piece->view) {
		memcpy(to, piece->addr, piece->bytes);
		return;
	}
	assert_true(piece->view->dims > 0);
	assert_true(piece->from + piece->bytes <= piece->view->bytes);
	box_view_gather(piece->view, piece->addr, piece->from, to, piece->bytes);
}

/* Every block is where the rail says; what its pieces bring is the layout's image. */
static void assert_plan_is_right(const struct test_layout *t, const struct rail *rail)
{
	struct copy_plan *plan = plan_of(t, rail);
	uint8_t *image = test_boxes_image(t), *made = calloc(1, t->layout.data_bytes + 1);
	uint32_t member = rail->n > 1, rows = rail_chunk_rows(rail, member), index = 0;

	assert_non_null(made);
	assert_int_equal(plan->blocks, rail_data_blocks(rail, member));
	assert_int_equal(plan->chunks, rail_k(rail));
	assert_null(plan->ready);
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
				piece_bring(piece, made + b->offset + piece->offset);
			}
		}
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
		uint32_t count = test_random_below(&random, 60), n, m;
		uint32_t boxes = count == 0 ? 1 : test_random_below(&random, 20);
		uint64_t bytes[60];
		struct test_layout t;
		struct rail r;

		for (uint32_t i = 0; i < count; i++)
			bytes[i] =
				1
				+ test_random_below(&random, 1u << test_random_below(&random, 17));
		n = 1 + test_random_below(&random, 9);
		m = n > 1 ? 1 + test_random_below(&random, n - 1) : 0;
		test_boxes_init(&t, bytes, count, boxes, 5000, &random);
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
	assert_null(plan->view);
	copy_plan_free(plan);
	test_layout_deinit(&t);
}

/* They touch as in merges_neighbours(), but may be allocations of their own. */
static void regions_on_devices_are_pieces_of_their_own(void **state)
{
	static const uint64_t bytes[] = {640, 64, 128, 64, 64, 64};
	static const int device[] = {1, 1, DEVICE_HOST, 0, 0, 1};
	struct region region[7] = {0};
	uint64_t random = 6;
	struct test_layout t;
	struct layout more;
	struct copy_plan *plan;
	struct rail r;

	(void)state;
	test_layout_init(&t, bytes, 6, 0, &random);
	r = test_layout_rail(&t, 1, 0, 4096);
	plan = plan_of(&t, &r);
	assert_false(plan->on_device);
	assert_int_equal(plan->devices, 0);
	assert_int_equal(plan->pieces, 2);
	copy_plan_free(plan);
	for (uint32_t i = 0; i < 6; i++)
		t.layout.region[i].device = device[i];
	plan = plan_of(&t, &r);
	assert_true(plan->on_device);
	assert_int_equal(plan->devices, 1 << 0 | 1 << 1);
	assert_int_equal(plan->pieces, 7);
	assert_int_equal(plan->piece[0].device, DEVICE_HOST);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(plan->piece[1 + i].device, device[i]);
		assert_int_equal(plan->piece[1 + i].region, i);
		assert_int_equal(plan->piece[1 + i].bytes, bytes[i]);
		assert_ptr_equal(plan->piece[1 + i].addr, t.layout.region[i].addr);
	}
	copy_plan_free(plan);
	/* A region of which others store all. */
	memcpy(region, t.layout.region, 6 * sizeof(region[0]));
	region[6] = region[5];
	region[6].device = 9;
	more = t.layout;
	more.region = region;
	more.regions = 7;
	assert_int_equal(copy_plan_new(&more, &r, 0, &plan), 0);
	assert_int_equal(plan->devices, 1 << 0 | 1 << 1 | 1 << 9);
	assert_int_equal(plan->pieces, 7);
	copy_plan_free(plan);
	test_layout_deinit(&t);
}

/* Half of the columns of a matrix, a block in the middle of its rows, and all columns
 * of some rows, which are neighbours in memory. */
static void only_pieces_that_are_not_contiguous_have_a_view(void **state)
{
	uint8_t memory[100 * 128] = {0}, blob[64] = {0};
	struct region region = {.addr = memory,
	                        .bytes = sizeof(memory),
	                        .elem_bytes = 2,
	                        .box = {2, {10, 0}, {100, 64}},
	                        .device = 5};
	struct layout_piece pieces[] = {
		{.box = {2, {10, 32}, {80, 32}}, .offset = 64, .bytes = 5120},
		{.box = {2, {90, 0}, {12, 64}}, .offset = 5184, .bytes = 1536},
		{.box = {2, {102, 0}, {8, 64}}, .offset = 6720, .bytes = 1024},
	};
	struct test_layout t = {.layout = {.regions = 1,
	                                   .pieces = 3,
	                                   .region = &region,
	                                   .piece = pieces,
	                                   .blob = blob,
	                                   .blob_bytes = 64,
	                                   .data_bytes = 7744}};
	struct rail r = test_layout_rail(&t, 1, 0, 4096);
	struct copy_plan *plan = plan_of(&t, &r);

	(void)state;
	assert_int_equal(plan->blocks, 2);
	assert_int_equal(plan->pieces, 4); /* blob, 80 half rows in two blocks, 20 rows */
	for (uint32_t i = 1; i < 3; i++) {
		assert_ptr_equal(plan->piece[i].addr, memory);
		assert_ptr_equal(plan->piece[i].view, plan->view);
		assert_int_equal(plan->piece[i].device, 5);
	}
	assert_int_equal(plan->piece[1].from, 0);
	assert_int_equal(plan->piece[1].bytes, 4096 - 64);
	assert_int_equal(plan->piece[2].from, 4096 - 64);
	assert_int_equal(plan->piece[2].bytes, 5120 + 64 - 4096);
	assert_null(plan->piece[3].view);
	assert_int_equal(plan->piece[3].device, 5);
	assert_ptr_equal(plan->piece[3].addr, memory + 80 * 128);
	assert_int_equal(plan->piece[3].bytes, 1536 + 1024);
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
	uint64_t random = 9; /* with boxes that need a view */
	struct copy_plan *plan = NULL;
	struct test_layout t;
	int rc = FTMEM_ENOMEM;
	struct rail r;
	unsigned n;

	(void)state;
	test_boxes_init(&t, bytes, 2, 8, 1000, &random);
	r = test_layout_rail(&t, 3, 1, 4096);
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = copy_plan_new(&t.layout, &r, 1, &plan);
		alloc_fail_off();
		assert_true((rc == 0) == (plan != NULL));
	}
	assert_int_equal(rc, 0);
	assert_int_equal(n - 2, 4);
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
		cmocka_unit_test(regions_on_devices_are_pieces_of_their_own),
		cmocka_unit_test(only_pieces_that_are_not_contiguous_have_a_view),
		cmocka_unit_test(thousands_of_tiny_regions_take_a_piece_each),
		cmocka_unit_test(refuses_what_does_not_fit),
		cmocka_unit_test(says_so_when_memory_runs_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
