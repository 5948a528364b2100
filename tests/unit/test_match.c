/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "error.h"
#include "match.h"
#include "match_fixture.h"
#include "test_random.h"

/* --- how shares are dealt --- */

static void a_box_of_one_rank_is_one_share(void **state)
{
	struct said s = say_1d("alone", 4, 1 << 20, 5, 1000000, 3, 1);
	struct match_cell cell;

	(void)state;
	solve(&s, 1);
	cell = only_cell(&s, 0);
	assert_true(box_equal(&cell.box, &s.claim.box));
	assert_int_equal(cell.holders, 1);
	assert_int_equal(cell.ordinal, 0);
	assert_int_equal(cell.shares, 1);
	assert_int_equal(cell.share, 0);
	forget(&s, 1);
}

static void large_replicas_give_every_holder_a_share(void **state)
{
	struct said s[2] = {say_1d("large", 8, 1 << 20, 0, 1 << 20, 0, 3),
	                    say_1d("large", 8, 1 << 20, 0, 1 << 20, 1, 5)};

	(void)state;
	solve(s, 2);
	for (uint32_t i = 0; i < 8; i++) {
		struct match_cell cell = only_cell(&s[i >= 3], i < 3 ? i : i - 3);

		assert_int_equal(cell.holders, 8);
		assert_int_equal(cell.ordinal, i);
		assert_int_equal(cell.shares, 8);
		assert_true(cell.share < 8);
		assert_int_equal(share_elements(&cell), (1 << 20) / 8);
	}
	forget(s, 2);
}

static void a_share_is_never_smaller_than_the_least(void **state)
{
	(void)state;
	for (uint64_t bytes = 1; bytes < 10 * MATCH_SHARE_MIN; bytes += 4099) {
		struct said s = say_1d("least", 1, bytes, 0, bytes, 0, 6);
		uint64_t shares = bytes / MATCH_SHARE_MIN;
		struct match_cell cell;

		solve(&s, 1);
		cell = only_cell(&s, 0);
		assert_int_equal(cell.shares, shares == 0 ? 1 : shares > 6 ? 6 : shares);
		forget(&s, 1);
	}
}

static void there_are_no_more_shares_than_elements(void **state)
{
	struct said s = say_1d("coarse", 1 << 30, 2, 0, 2, 0, 6);

	(void)state;
	solve(&s, 1);
	assert_int_equal(only_cell(&s, 0).shares, 2);
	forget(&s, 1);
}

static void two_shares_go_to_different_groups(void **state)
{
	(void)state;
	for (uint32_t n = 0; n < 200; n++) {
		uint32_t takers[2] = {0};
		char name[32];

		snprintf(name, sizeof(name), "layer.%u.bias", n);
		struct said s[2] = {say_1d(name, 1, 2 << 16, 0, 2 << 16, 7, 4),
		                    say_1d(name, 1, 2 << 16, 0, 2 << 16, 9, 4)};
		solve(s, 2);
		for (uint32_t i = 0; i < 8; i++)
			takers[i / 4] += only_cell(&s[i / 4], i % 4).share != UINT32_MAX;
		assert_int_equal(takers[0], 1);
		assert_int_equal(takers[1], 1);
		forget(s, 2);
	}
}

static void check_spread(const uint32_t *stored, uint32_t ranks, uint32_t total)
{
	for (uint32_t r = 0; r < ranks; r++)
		assert_true(stored[r] * ranks * 10 <= total * 13);
}

static void small_tensors_spread_over_ranks(void **state)
{
	uint32_t stored[8] = {0};

	(void)state;
	for (uint32_t n = 0; n < 1000; n++) {
		char name[48];

		snprintf(name, sizeof(name), "transformer.layer.%u.norm.weight", n);
		struct said s[2] = {say_1d(name, 4, 512, 0, 512, 0, 4),
		                    say_1d(name, 4, 512, 0, 512, 1, 4)};
		solve(s, 2);
		for (uint32_t i = 0; i < 8; i++)
			stored[i] += only_cell(&s[i / 4], i % 4).share != UINT32_MAX;
		forget(s, 2);
	}
	check_spread(stored, 8, 1000);
}

static void small_boxes_of_one_tensor_spread_over_ranks(void **state)
{
	static struct said s[2000];
	uint32_t stored[8] = {0};

	(void)state;
	for (uint32_t n = 0; n < 2000; n++)
		s[n] = say_1d("flat", 4, 1000 * 64, n / 2 * 64, 64, n % 2, 4);
	solve(s, 2000);
	for (uint32_t n = 0; n < 2000; n++)
		for (uint32_t i = 0; i < 4; i++)
			stored[n % 2 * 4 + i] += only_cell(&s[n], i).share != UINT32_MAX;
	check_spread(stored, 8, 1000);
	forget(s, 2000);
}

/* --- what is wrong --- */

static void different_shapes_are_told_to_all_who_claim_the_name(void **state)
{
	struct said s[] = {say_1d("emb", 4, 100, 0, 50, 0, 2), say_1d("emb", 4, 120, 0, 50, 1, 1),
	                   say_1d("fine", 4, 100, 0, 50, 1, 1),
	                   say_1d("emb", 4, 100, 50, 50, 2, 1)};

	(void)state;
	solve(s, 4);
	expect_error(&s[0], FTMEM_EINVAL, "[100]", "[120]");
	expect_error(&s[1], FTMEM_EINVAL, "[100]", "[120]");
	expect_error(&s[3], FTMEM_EINVAL, "[100]", "[120]");
	assert_int_equal(only_cell(&s[2], 0).holders, 1);
	forget(s, 4);
}

static void different_dimensions_and_element_sizes_are_told(void **state)
{
	struct said s[] = {say_2d("head", 4, 10, 0, 10, 0, 10),
	                   say_1d("head", 4, 100, 0, 100, 0, 1), say_1d("bias", 2, 8, 0, 8, 0, 1),
	                   say_1d("bias", 4, 8, 0, 8, 0, 1)};

	(void)state;
	solve(s, 4);
	expect_error(&s[0], FTMEM_EINVAL, "[10, 10]", "[100]");
	expect_error(&s[1], FTMEM_EINVAL, "[10, 10]", "[100]");
	expect_error(&s[2], FTMEM_EINVAL, "2-byte", "4-byte");
	expect_error(&s[3], FTMEM_EINVAL, "2-byte", "4-byte");
	forget(s, 4);
}

static void equal_records_that_did_not_melt_are_counted_together(void **state)
{
	(void)state;
	for (uint32_t order = 0; order < 2; order++) {
		struct said s[2] = {say_1d("twice", 4, 8, 0, 8, 3, order ? 5 : 2),
		                    say_1d("twice", 4, 8, 0, 8, 3, order ? 2 : 5)};

		solve(s, 2);
		assert_int_equal(only_cell(&s[order], 1).holders, 7);
		assert_int_equal(only_cell(&s[order], 1).ordinal, 1);
		assert_int_equal(only_cell(&s[1 - order], 4).ordinal, 6);
		forget(s, 2);
	}
}

static void an_owner_without_memory_is_told(void **state)
{
	struct said s = say_1d("poor", 1, 8, 0, 8, 0, 1);

	(void)state;
	expect_error(&s, FTMEM_ENOMEM, "memory", "poor");
}

static void what_is_no_claim_is_refused(void **state)
{
	struct said good = say_2d("w", 4, 10, 2, 3, 4, 5), bad = good;
	struct match *m = NULL;
	struct bytes b = {0};

	(void)state;
	assert_int_equal(match_new(&m), 0);
	assert_int_equal(match_claim_put(&b, &good.claim), 0);
	for (uint32_t bytes = 0; bytes < b.size; bytes++)
		assert_int_equal(match_add(m, b.at, bytes, 1), FTMEM_EINVAL);
	assert_int_equal(match_add(m, b.at, (uint32_t)b.size, 0), FTMEM_EINVAL);
	assert_int_equal(match_add(m, b.at, (uint32_t)b.size, 1), 0);
	assert_int_equal(match_add(m, b.at, (uint32_t)b.size, UINT32_MAX), FTMEM_EINVAL);
	assert_int_equal(bytes_put_u32(&b, 0), 0);
	assert_int_equal(match_add(m, b.at, (uint32_t)b.size, 1), FTMEM_EINVAL);

	bad.claim.box.extent[1] = 7;
	assert_int_equal(add(m, &bad), FTMEM_EINVAL);
	bad.claim.box.extent[1] = 0;
	assert_int_equal(add(m, &bad), FTMEM_EINVAL);
	bad = good;
	bad.claim.box.start[0] = UINT64_MAX - 2;
	assert_int_equal(add(m, &bad), FTMEM_EINVAL);
	bad = say_1d("w", 1, 10, 0, 10, 0, 1);
	bad.claim.tensor.home = 3;
	assert_int_equal(add(m, &bad), FTMEM_EINVAL);
	assert_int_equal(match_solve(m), 0);
	bytes_deinit(&b);
	match_free(m);
	match_free(NULL);
}

static void no_claims_are_solved(void **state)
{
	struct match *m = NULL;

	(void)state;
	assert_int_equal(match_new(&m), 0);
	assert_int_equal(match_solve(m), 0);
	match_free(m);
}

/* Reads the first bytes of an answer, from memory of just that size. */
static int read_part(const struct said *s, uint32_t bytes, uint32_t index)
{
	uint8_t *part = malloc(bytes ? bytes : 1);
	struct match_cell *cells = NULL;
	uint32_t count = 0;
	int rc;

	assert_non_null(part);
	memcpy(part, s->answer.at, bytes);
	rc = match_read(&s->claim, part, bytes, index, &cells, &count);
	free(part);
	free(cells);
	return rc;
}

static void an_answer_that_makes_no_sense_is_refused(void **state)
{
	struct said s[] = {say_1d("w", 40000, 30, 0, 20, 0, 3),
	                   say_1d("w", 40000, 30, 10, 20, 1, 2), say_1d("v", 4, 30, 0, 20, 0, 3),
	                   say_1d("v", 8, 30, 0, 20, 0, 3)};

	(void)state;
	solve(s, 4);
	for (uint32_t i = 0; i < 4; i++) {
		uint32_t size = (uint32_t)s[i].answer.size;

		for (uint32_t bytes = 1; bytes < size; bytes++)
			assert_int_equal(read_part(&s[i], bytes, 0), FTMEM_ENET);
		assert_int_equal(bytes_put_u32(&s[i].answer, 0), 0);
		assert_int_equal(read_part(&s[i], size + 4, 0), FTMEM_ENET);
		s[i].answer.size = size;
	}
	assert_int_equal(read_part(&s[0], (uint32_t)s[0].answer.size, 2), 0);
	assert_int_equal(read_part(&s[0], (uint32_t)s[0].answer.size, 3), FTMEM_ENET);
	/* That of a smaller box, and of a larger one. */
	s[0].claim.box.extent[0]++;
	assert_int_equal(read_part(&s[0], (uint32_t)s[0].answer.size, 0), FTMEM_ENET);
	s[0].claim.box.extent[0] -= 2;
	assert_int_equal(read_part(&s[0], (uint32_t)s[0].answer.size, 0), FTMEM_ENET);
	/* That of another name, and of a tensor that is alike. */
	s[3].claim.tensor.name[0] = 'u';
	assert_int_equal(read_part(&s[3], (uint32_t)s[3].answer.size, 0), FTMEM_ENET);
	s[2].claim.tensor.elem_bytes = 8;
	assert_int_equal(read_part(&s[2], (uint32_t)s[2].answer.size, 0), FTMEM_ENET);
	forget(s, 4);
}

static void a_damaged_answer_never_gives_shares_outside_the_box(void **state)
{
	struct said s[] = {say_2d("w", 40000, 12, 0, 8, 0, 12), say_2d("w", 40000, 12, 4, 8, 2, 7)};
	uint64_t seed = test_random_seed("a_damaged_answer"), at = seed;

	(void)state;
	solve(s, 2);
	for (uint32_t round = 0; round < 20000; round++) {
		uint32_t byte = test_random_below(&at, (uint32_t)s[0].answer.size);
		uint8_t flip = (uint8_t)(1u << test_random_below(&at, 8));
		struct box part[BOX_RANGE_MAX];
		struct match_cell *cells = NULL;
		uint32_t count = 0;

		s[0].answer.at[byte] ^= flip;
		if (read_said(&s[0], 0, &cells, &count) == 0) {
			for (uint32_t i = 0; i < count; i++) {
				uint32_t parts = match_share(&cells[i], part);

				assert_true(cells[i].ordinal < cells[i].holders);
				for (uint32_t k = 0; k < parts; k++)
					assert_true(box_contains(&s[0].claim.box, &part[k]));
			}
			free(cells);
		}
		s[0].answer.at[byte] ^= flip;
	}
	forget(s, 2);
}

static void every_allocation_failure_is_told(void **state)
{
	struct said s[40];
	struct match_cell *cells = NULL;
	uint32_t count = 0;
	unsigned n;
	int rc = FTMEM_ENOMEM;

	(void)state;
	for (uint32_t i = 0; i < 40; i++)
		s[i] = i < 20 ? say_2d("w", 4, 40, 2 * i, 2, 0, 40)
		              : say_2d("w", 4, 40, 0, 40, 2 * (i - 20), 2);
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = solve_in_order(s, 40, NULL);
		alloc_fail_off();
		if (rc)
			forget(s, 40);
	}
	assert_int_equal(rc, 0);
	assert_true(n > 10);
	alloc_fail_at(1);
	assert_int_equal(read_said(&s[0], 0, &cells, &count), FTMEM_ENOMEM);
	alloc_fail_off();
	forget(s, 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_box_of_one_rank_is_one_share),
		cmocka_unit_test(large_replicas_give_every_holder_a_share),
		cmocka_unit_test(a_share_is_never_smaller_than_the_least),
		cmocka_unit_test(there_are_no_more_shares_than_elements),
		cmocka_unit_test(two_shares_go_to_different_groups),
		cmocka_unit_test(small_tensors_spread_over_ranks),
		cmocka_unit_test(small_boxes_of_one_tensor_spread_over_ranks),
		cmocka_unit_test(different_shapes_are_told_to_all_who_claim_the_name),
		cmocka_unit_test(different_dimensions_and_element_sizes_are_told),
		cmocka_unit_test(equal_records_that_did_not_melt_are_counted_together),
		cmocka_unit_test(an_owner_without_memory_is_told),
		cmocka_unit_test(what_is_no_claim_is_refused),
		cmocka_unit_test(no_claims_are_solved),
		cmocka_unit_test(an_answer_that_makes_no_sense_is_refused),
		cmocka_unit_test(a_damaged_answer_never_gives_shares_outside_the_box),
		cmocka_unit_test(every_allocation_failure_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
