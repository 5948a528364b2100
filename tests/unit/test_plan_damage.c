/* SPDX-License-Identifier: BSD-3-Clause */
/* Records, answers and orders that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../util/plan_fixture.h"

/* --- what makes no sense --- */

static void records_that_are_none_are_refused(void **state)
{
	struct tensor t = tensor_1d("w", 10);
	struct plan_stored s = {t, box_1d(2, 4), 1, 2, 3};
	struct bytes b = {0};
	struct plan *p = NULL;

	(void)state;
	assert_int_equal(plan_new(&p), 0);
	assert_int_equal(plan_stored_put(&b, &s), 0);
	for (uint64_t cut_at = 0; cut_at < b.size; cut_at++)
		assert_int_equal(add_exact(p, b.at, cut_at), FTMEM_EINVAL);
	assert_int_equal(bytes_put_u32(&b, 0), 0);
	assert_int_equal(add_exact(p, b.at, b.size), FTMEM_EINVAL);
	bytes_deinit(&b);
	/* Boxes that are empty, or not of the tensor. */
	assert_int_equal(add_stored(p, &t, box_1d(2, 0), 0, 0, 0), FTMEM_EINVAL);
	assert_int_equal(add_stored(p, &t, box_1d(7, 4), 0, 0, 0), FTMEM_EINVAL);
	assert_int_equal(add_wanted(p, &t, box_1d(11, 1)), FTMEM_EINVAL);
	assert_int_equal(add_wanted(p, &t, box_1d(UINT64_MAX, 2)), FTMEM_EINVAL);
	assert_int_equal(add_wanted(p, &t, box_1d(2, UINT64_MAX)), FTMEM_EINVAL);
	/* None of them took a number. */
	assert_int_equal(add_stored(p, &t, box_1d(0, 10), 0, 0, 0), 0);
	assert_int_equal(add_wanted(p, &t, box_1d(0, 10)), 0);
	assert_int_equal(plan_solve(p), 0);
	assert_int_equal(plan_answer(p, 1, &b), 0);
	assert_true(b.size > 4);
	bytes_deinit(&b);
	plan_free(p);
}

static void damage(uint64_t *seed, struct bytes *b)
{
	static const uint8_t value[] = {0, 1, 2, 8, 9, 0x7f, 0x80, 0xff};

	for (uint32_t n = 1 + test_random_below(seed, 3); n > 0; n--)
		b->at[test_random_below(seed, (uint32_t)b->size)] =
			value[test_random_below(seed, 8)];
}

static void damaged_records_are_refused_or_make_sense(void **state)
{
	uint64_t seed = test_random_seed("damaged records"), shape[] = {6, 5, 4};
	struct tensor t = make_tensor("w", TENSOR_GLOBAL, 3, shape);
	uint32_t refused = 0, taken = 0;

	(void)state;
	for (int round = 0; round < 3000; round++) {
		struct bytes answer = {0};
		struct plan *p = NULL;
		uint32_t records = 0;

		assert_int_equal(plan_new(&p), 0);
		for (uint32_t i = 0; i < 12; i++) {
			struct plan_stored s = {t, whole_of(&t), 0, 0, i};
			struct plan_wanted w = {t, random_box(&seed, &t)};
			struct bytes b = {0};
			int rc;

			s.box.start[0] = i % 6;
			s.box.extent[0] = 1;
			assert_int_equal(i < 6 ? plan_stored_put(&b, &s) : plan_wanted_put(&b, &w),
			                 0);
			if (test_random_below(&seed, 4) == 0)
				damage(&seed, &b);
			rc = add_exact(p, b.at, b.size);
			assert_true(rc == 0 || rc == FTMEM_EINVAL);
			records += rc == 0;
			refused += rc != 0;
			bytes_deinit(&b);
		}
		taken += records;
		assert_int_equal(plan_solve(p), 0);
		for (uint32_t i = 0; i < records + 1; i++)
			assert_int_equal(plan_answer(p, i, &answer), 0);
		bytes_deinit(&answer);
		plan_free(p);
	}
	assert_true(refused > 0 && taken > 0);
}

/* An answer that is damaged gives an error, or parts that lie in the box and are as large. */
static void read_anything(const struct plan_wanted *w, const uint8_t *answer, uint64_t bytes)
{
	uint8_t *exact = malloc(bytes ? bytes : 1);
	struct plan_part *part = NULL;
	uint64_t elements = 0;
	uint32_t count = 0;
	int rc;

	assert_non_null(exact);
	memcpy(exact, answer, bytes);
	rc = plan_read(w, exact, (uint32_t)bytes, &part, &count);
	free(exact);
	assert_true(rc == 0 || bytes == 0 || rc == FTMEM_ENET || rc == FTMEM_ELAYOUT
	            || rc == FTMEM_ECORRUPT);
	if (rc) {
		assert_null(part);
		return;
	}
	for (uint32_t i = 0; i < count; i++) {
		assert_true(box_contains(&w->box, &part[i].box));
		elements += box_count(&part[i].box);
	}
	assert_int_equal(elements, box_count(&w->box));
	free(part);
}

/* A plan whose wanted records 0 .. 4 have all kinds of answers. */
static struct plan *all_kinds(struct plan_wanted want[5])
{
	struct tensor t[5];
	struct plan *p = NULL;
	uint64_t longer = 11;

	assert_int_equal(plan_new(&p), 0);
	for (uint32_t i = 0; i < 5; i++) {
		char name[] = {(char)('a' + i), 0};

		t[i] = tensor_1d(name, 10);
		want[i] = (struct plan_wanted){t[i], box_1d(1, 8)};
		if (i == 1)
			want[i].tensor = make_tensor(name, TENSOR_GLOBAL, 1, &longer);
		assert_int_equal(add_wanted(p, &want[i].tensor, want[i].box), 0);
	}
	assert_int_equal(add_stored(p, &t[0], box_1d(0, 5), 1, 2, 3), 0);
	assert_int_equal(add_stored(p, &t[0], box_1d(5, 5), 4, 5, 6), 0);
	assert_int_equal(add_stored(p, &t[1], box_1d(0, 10), 0, 0, 0), 0);
	assert_int_equal(add_stored(p, &t[2], box_1d(0, 7), 0, 0, 1), 0);
	assert_int_equal(add_stored(p, &t[3], box_1d(0, 7), 0, 0, 2), 0);
	assert_int_equal(add_stored(p, &t[3], box_1d(6, 4), 0, 0, 3), 0);
	assert_int_equal(plan_solve(p), 0);
	return p;
}

static void damaged_answers_are_refused_or_make_sense(void **state)
{
	static const int verdict[5] = {0, FTMEM_ELAYOUT, FTMEM_ELAYOUT, FTMEM_ECORRUPT,
	                               FTMEM_ELAYOUT};
	uint64_t seed = test_random_seed("damaged answers");
	struct plan_wanted want[5];
	struct plan *p = all_kinds(want);

	(void)state;
	for (uint32_t i = 0; i < 5; i++) {
		struct plan_part *part = NULL;
		struct bytes b = {0}, copy = {0};
		uint32_t count;

		assert_int_equal(plan_answer(p, i, &b), 0);
		for (uint64_t cut_at = 0; cut_at < b.size; cut_at++) {
			part = NULL;
			assert_int_equal(plan_read(&want[i], b.at, (uint32_t)cut_at, &part, &count),
			                 cut_at ? FTMEM_ENET : FTMEM_ENOMEM);
			assert_null(part);
			read_anything(&want[i], b.at, cut_at);
		}
		assert_int_equal(bytes_put(&copy, b.at, b.size), 0);
		assert_int_equal(bytes_put_u32(&copy, 1), 0);
		assert_int_equal(plan_read(&want[i], copy.at, (uint32_t)copy.size, &part, &count),
		                 FTMEM_ENET);
		for (int round = 0; round < 5000; round++) {
			memcpy(copy.at, b.at, b.size);
			copy.size = b.size;
			damage(&seed, &copy);
			read_anything(&want[i], copy.at, copy.size);
		}
		assert_int_equal(plan_read(&want[i], b.at, (uint32_t)b.size, &part, &count),
		                 verdict[i]);
		free(part);
		bytes_deinit(&copy);
		bytes_deinit(&b);
	}
	plan_free(p);
}

static int read_as(const struct plan *p, uint32_t record, const struct plan_wanted *w)
{
	struct plan_part *part = NULL;
	struct bytes b = {0};
	uint32_t count;
	int rc;

	assert_int_equal(plan_answer(p, record, &b), 0);
	rc = plan_read(w, b.at, (uint32_t)b.size, &part, &count);
	bytes_deinit(&b);
	free(part);
	return rc;
}

static void answers_to_something_else_are_refused(void **state)
{
	struct plan_wanted want[5], other;
	struct plan *p = all_kinds(want);

	(void)state;
	/* Parts of a larger and of a smaller box. */
	other = want[0];
	other.box = box_1d(0, 10);
	assert_int_equal(read_as(p, 0, &other), FTMEM_ENET);
	other.box = box_1d(1, 7);
	assert_int_equal(read_as(p, 0, &other), FTMEM_ENET);
	/* A tensor that differs, but is of another name, or does not. */
	assert_int_equal(read_as(p, 1, &want[1]), FTMEM_ELAYOUT);
	other = want[1];
	other.tensor.name[0]++;
	assert_int_equal(read_as(p, 1, &other), FTMEM_ENET);
	other = want[1];
	other.tensor.shape[0] = 10;
	assert_int_equal(read_as(p, 1, &other), FTMEM_ENET);
	/* What is missing was not asked for. */
	other = want[2];
	other.box = box_1d(1, 7);
	assert_int_equal(read_as(p, 2, &other), FTMEM_ENET);
	plan_free(p);
}

/* Five quarters of 2^64 elements are a quarter, if nobody looks. */
static void parts_that_add_up_by_overflow_are_refused(void **state)
{
	const uint64_t elements = UINT64_C(1) << 62;
	struct plan_wanted w = {tensor_1d("w", elements), box_1d(0, elements)};
	struct plan_part *part = NULL;
	struct bytes b = {0};
	uint32_t count;

	(void)state;
	w.tensor.elem_bytes = 1;
	assert_int_equal(bytes_put_u32(&b, 1), 0);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(box_put(&b, &w.box), 0);
		for (int j = 0; j < 3; j++)
			assert_int_equal(bytes_put_u32(&b, 0), 0);
		if (i == 0)
			assert_int_equal(plan_read(&w, b.at, (uint32_t)b.size, &part, &count), 0);
		free(part);
		part = NULL;
	}
	assert_int_equal(plan_read(&w, b.at, (uint32_t)b.size, &part, &count), FTMEM_ENET);
	assert_null(part);
	bytes_deinit(&b);
}

/* --- orders --- */

static void orders_are_read_as_written(void **state)
{
	struct plan_order o = {7, 8, 9, {.ndim = 2, .start = {1, 2}, .extent = {3, 4}}};
	struct plan_order back, before;
	struct bytes b = {0};

	(void)state;
	memset(&back, 0xee, sizeof(back));
	before = back;
	assert_int_equal(plan_order_put(&b, &o), 0);
	for (uint64_t cut_at = 0; cut_at < b.size; cut_at++) {
		uint8_t *exact = malloc(cut_at ? cut_at : 1);

		assert_non_null(exact);
		memcpy(exact, b.at, cut_at);
		assert_int_equal(plan_order_get(exact, (uint32_t)cut_at, &back), FTMEM_ENET);
		assert_memory_equal(&back, &before, sizeof(back));
		free(exact);
	}
	assert_int_equal(plan_order_get(b.at, (uint32_t)b.size, &back), 0);
	assert_int_equal(plan_order_compare(&o, &back), 0);
	assert_true(box_equal(&o.box, &back.box));
	assert_int_equal(bytes_put_u32(&b, 0), 0);
	assert_int_equal(plan_order_get(b.at, (uint32_t)b.size, &back), FTMEM_ENET);
	bytes_deinit(&b);
}

static void orders_without_a_box_are_refused(void **state)
{
	static const struct box bad[] = {
		{.ndim = 0},
		{.ndim = 1, .extent = {0}},
		{.ndim = 2, .extent = {UINT64_MAX, 2}},
		{.ndim = 1, .start = {UINT64_MAX}, .extent = {1}},
		{.ndim = 3, .extent = {UINT64_C(1) << 31, UINT64_C(1) << 31, 2}},
	};
	uint32_t ndim = FTMEM_MAX_DIMS + 1;
	struct plan_order back, o = {1, 2, 3, {.ndim = FTMEM_MAX_DIMS}};
	struct bytes b = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		o.box = bad[i];
		b.size = 0;
		assert_int_equal(plan_order_put(&b, &o), 0);
		assert_int_equal(plan_order_get(b.at, (uint32_t)b.size, &back), FTMEM_ENET);
	}
	for (uint32_t d = 0; d < FTMEM_MAX_DIMS; d++)
		o.box.extent[d] = 1;
	o.box.ndim = FTMEM_MAX_DIMS;
	b.size = 0;
	assert_int_equal(plan_order_put(&b, &o), 0);
	assert_int_equal(bytes_put_u64(&b, 0), 0);
	assert_int_equal(bytes_put_u64(&b, 1), 0);
	memcpy(b.at + 12, &ndim, sizeof(ndim));
	assert_int_equal(plan_order_get(b.at, (uint32_t)b.size, &back), FTMEM_ENET);
	bytes_deinit(&b);
}

static void orders_go_by_rank_piece_and_box(void **state)
{
	const struct plan_order order[] = {
		{0, 9, 9, {.ndim = 1, .start = {9}, .extent = {1}}},
		{1, 0, 9, {.ndim = 1, .start = {9}, .extent = {1}}},
		{1, 1, 0, {.ndim = 1, .start = {9}, .extent = {1}}},
		{1, 1, 1, {.ndim = 1, .start = {0}, .extent = {2}}},
		{1, 1, 1, {.ndim = 1, .start = {1}, .extent = {1}}},
		{UINT32_MAX, 0, 0, {.ndim = 1, .start = {1}, .extent = {1}}},
	};

	(void)state;
	for (int i = 0; i < 6; i++)
		for (int j = 0; j < 6; j++) {
			int c = plan_order_compare(&order[i], &order[j]);

			assert_int_equal((c > 0) - (c < 0), (i > j) - (i < j));
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_that_are_none_are_refused),
		cmocka_unit_test(damaged_records_are_refused_or_make_sense),
		cmocka_unit_test(damaged_answers_are_refused_or_make_sense),
		cmocka_unit_test(answers_to_something_else_are_refused),
		cmocka_unit_test(parts_that_add_up_by_overflow_are_refused),
		cmocka_unit_test(orders_are_read_as_written),
		cmocka_unit_test(orders_without_a_box_are_refused),
		cmocka_unit_test(orders_go_by_rank_piece_and_box),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
