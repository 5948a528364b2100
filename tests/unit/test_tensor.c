/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../util/alloc_fail.h"
#include "../util/test_random.h"
#include "error.h"
#include "tensor.h"

static const struct tensor weights = {.name = "layer.0/weight",
                                      .home = TENSOR_GLOBAL,
                                      .elem_bytes = 4,
                                      .ndim = 2,
                                      .shape = {10, 20}};
static const struct tensor private = {
	.name = "rng", .home = 7, .elem_bytes = 1, .ndim = 1, .shape = {5000}};

static void owners_are_spread_by_name_and_home(void **state)
{
	const uint32_t ranks = 1000, names = 50000;
	uint32_t *by_name = calloc(ranks, sizeof(*by_name));
	uint32_t *by_home = calloc(ranks, sizeof(*by_home));
	char name[64];

	(void)state;
	assert_true(by_name && by_home);
	for (uint32_t i = 0; i < names; i++) {
		uint32_t owner;

		snprintf(name, sizeof(name), "model.layers.%u.weight", i);
		owner = tensor_owner(name, TENSOR_GLOBAL, ranks);
		assert_true(owner < ranks);
		assert_int_equal(owner, tensor_owner(name, TENSOR_GLOBAL, ranks));
		by_name[owner]++;
		owner = tensor_owner("rng", i, ranks);
		assert_true(owner < ranks);
		by_home[owner]++;
		assert_int_equal(tensor_owner(name, i, 1), 0);
	}
	/* 50 each would be even. */
	for (uint32_t r = 0; r < ranks; r++) {
		assert_in_range(by_name[r], 10, 100);
		assert_in_range(by_home[r], 10, 100);
	}
	free(by_home);
	free(by_name);
}

static void same_is_the_name_alike_the_elements(void **state)
{
	struct tensor other = weights;

	(void)state;
	assert_true(tensor_same(&weights, &other));
	assert_true(tensor_alike(&weights, &other));
	other.shape[1] = 21;
	assert_true(tensor_same(&weights, &other));
	assert_false(tensor_alike(&weights, &other));
	other = weights;
	other.elem_bytes = 2;
	assert_false(tensor_alike(&weights, &other));
	other = weights;
	other.ndim = 1;
	assert_false(tensor_alike(&weights, &other));
	other = weights;
	other.home = 0;
	assert_false(tensor_same(&weights, &other));
	assert_true(tensor_alike(&weights, &other));
	assert_true(tensor_compare(&weights, &other) > 0);
	assert_true(tensor_compare(&other, &weights) < 0);
	strcpy(other.name, "layer.1");
	assert_false(tensor_same(&weights, &other));
	assert_true(tensor_compare(&weights, &other) < 0);
	assert_true(tensor_compare(&other, &weights) > 0);
	assert_int_equal(tensor_compare(&weights, &weights), 0);
}

static void text_is_shape_and_element(void **state)
{
	struct tensor most = {.elem_bytes = UINT32_MAX, .ndim = FTMEM_MAX_DIMS};
	char text[TENSOR_TEXT];

	(void)state;
	assert_ptr_equal(tensor_text(&weights, text), text);
	assert_string_equal(text, "[10, 20] of 4-byte elements");
	for (int d = 0; d < FTMEM_MAX_DIMS; d++)
		most.shape[d] = UINT64_MAX;
	assert_non_null(strstr(tensor_text(&most, text), "] of 4294967295-byte elements"));
	assert_int_equal(strlen(text), 8 * 20 + 7 * 2 + strlen("[] of 4294967295-byte elements"));
}

static struct tensor random_tensor(uint64_t *seed)
{
	struct tensor t = {.home = TENSOR_GLOBAL, .elem_bytes = 1 + test_random_below(seed, 64)};
	uint32_t length = 1 + test_random_below(seed, FTMEM_REGION_NAME_MAX);

	for (uint32_t i = 0; i < length; i++)
		t.name[i] = (char)(1 + test_random_below(seed, 255));
	t.ndim = 1 + test_random_below(seed, FTMEM_MAX_DIMS);
	for (uint32_t d = 0; d < t.ndim; d++)
		t.shape[d] = 1 + test_random_below(seed, 100);
	return t;
}

static void check_read(const struct bytes *b, const struct tensor *t, const struct box *box)
{
	struct bytes_reader r = {.at = b->at, .left = b->size};
	struct tensor read;
	struct box read_box;

	memset(&read, 0xa5, sizeof(read));
	memset(&read_box, 0xa5, sizeof(read_box));
	tensor_get(&r, &read);
	assert_false(r.bad);
	assert_memory_equal(&read, t, sizeof(*t));
	box_get(&r, t->ndim, &read_box);
	assert_false(r.bad);
	assert_memory_equal(&read_box, box, sizeof(*box));
	assert_int_equal(r.left, 0);
}

/* Every shorter record is refused, whatever is behind it. */
static void check_cuts(const struct bytes *b, uint32_t ndim)
{
	for (uint64_t left = 0; left < b->size; left++) {
		const struct tensor no_tensor = {0};
		const struct box no_box = {0};
		struct bytes_reader r = {.left = left};
		uint8_t *exact = malloc(left > 0 ? left : 1);
		struct tensor t;
		struct box box;

		assert_non_null(exact);
		memcpy(exact, b->at, left);
		r.at = exact;
		tensor_get(&r, &t);
		assert_true(!r.bad || memcmp(&t, &no_tensor, sizeof(t)) == 0);
		box_get(&r, ndim, &box);
		assert_true(r.bad);
		assert_memory_equal(&box, &no_box, sizeof(box));
		free(exact);
	}
}

static void what_is_put_is_read_back_and_never_less(void **state)
{
	uint64_t seed = test_random_seed(__func__);

	(void)state;
	for (int round = 0; round < 300; round++) {
		struct tensor t = random_tensor(&seed);
		struct box box = {.ndim = t.ndim};
		struct bytes b = {0};

		if (round < 2)
			t = round == 0 ? weights : private;
		box.ndim = t.ndim;
		for (uint32_t d = 0; d < t.ndim; d++) {
			box.start[d] = test_random(&seed) >> 1;
			box.extent[d] = t.shape[d];
		}
		assert_int_equal(tensor_put(&b, &t), 0);
		assert_int_equal(box_put(&b, &box), 0);
		check_read(&b, &t, &box);
		check_cuts(&b, t.ndim);
		bytes_deinit(&b);
	}
}

static bool tensor_refused(const struct tensor *t)
{
	struct bytes b = {0};
	struct bytes_reader r;
	struct tensor read;
	bool bad;

	assert_int_equal(tensor_put(&b, t), 0);
	r = (struct bytes_reader){.at = b.at, .left = b.size};
	tensor_get(&r, &read);
	bad = r.bad;
	assert_int_equal(read.ndim, bad ? 0 : t->ndim);
	bytes_deinit(&b);
	return bad;
}

static void tensors_that_cannot_be_are_refused(void **state)
{
	struct tensor t = weights;

	(void)state;
	assert_false(tensor_refused(&t));
	t.name[0] = '\0';
	assert_true(tensor_refused(&t));
	t = weights;
	t.elem_bytes = 0;
	assert_true(tensor_refused(&t));
	t = weights;
	t.ndim = 0;
	assert_true(tensor_refused(&t));
	t = weights;
	t.shape[0] = 0;
	assert_true(tensor_refused(&t));
	t.shape[0] = UINT64_C(1) << 58;
	assert_true(tensor_refused(&t));
	t.shape[1] = 15;
	assert_false(tensor_refused(&t));
	/* What is private is bytes. */
	t = weights;
	t.home = 3;
	assert_true(tensor_refused(&t));
	t = private;
	assert_false(tensor_refused(&t));
	t.elem_bytes = 4;
	assert_true(tensor_refused(&t));
}

/* Fields of a record: length of the name, name, home, elem_bytes, ndim, shape. */
static void fields_out_of_bounds_are_refused(void **state)
{
	uint8_t long_name[4 + 300 + 12 + 8] = {0};
	const uint32_t word[] = {300, 0, 1, FTMEM_MAX_DIMS + 1};
	const uint64_t one = 1;
	struct bytes_reader r = {.at = long_name, .left = sizeof(long_name)};
	struct bytes b = {0};
	struct tensor t;
	struct box box;

	(void)state;
	memcpy(long_name, word, 4);
	memset(long_name + 4, 'x', 300);
	memcpy(long_name + 304, (const uint32_t[]){TENSOR_GLOBAL, 1, 1}, 12);
	long_name[316] = 1;
	tensor_get(&r, &t);
	assert_true(r.bad);

	assert_int_equal(tensor_put(&b, &weights), 0);
	b.at[4 + 3] = '\0';
	r = (struct bytes_reader){.at = b.at, .left = b.size};
	tensor_get(&r, &t);
	assert_true(r.bad);
	b.at[4 + 3] = 'e';
	memcpy(b.at + 4 + strlen(weights.name) + 8, &word[3], 4);
	assert_non_null(bytes_grow(&b, 1000));
	for (uint64_t at = b.size - 1000; at < b.size; at += sizeof(one))
		memcpy(b.at + at, &one, sizeof(one));
	r = (struct bytes_reader){.at = b.at, .left = b.size};
	tensor_get(&r, &t);
	assert_true(r.bad);

	for (uint32_t ndim = 0; ndim < 20; ndim++) {
		r = (struct bytes_reader){.at = b.at + b.size - 1000, .left = 1000};
		box_get(&r, ndim, &box);
		assert_int_equal(r.bad, ndim == 0 || ndim > FTMEM_MAX_DIMS);
	}
	bytes_deinit(&b);
}

static bool box_refused(const struct box *box)
{
	struct bytes b = {0};
	struct bytes_reader r;
	struct box read;
	bool bad;

	assert_int_equal(box_put(&b, box), 0);
	r = (struct bytes_reader){.at = b.at, .left = b.size};
	box_get(&r, box->ndim, &read);
	bad = r.bad;
	assert_int_equal(read.ndim, bad ? 0 : box->ndim);
	bytes_deinit(&b);
	return bad;
}

static void boxes_that_cannot_be_are_refused(void **state)
{
	struct box box = {.ndim = 3, .start = {1, 2, 3}, .extent = {4, 5, 6}};

	(void)state;
	assert_false(box_refused(&box));
	box.extent[1] = 0;
	assert_true(box_refused(&box));
	box.extent[1] = 5;
	box.start[0] = UINT64_MAX - 3;
	assert_true(box_refused(&box));
	box.start[0]--;
	assert_false(box_refused(&box));
	box = (struct box){.ndim = 2, .extent = {UINT64_C(1) << 31, UINT64_C(1) << 32}};
	assert_true(box_refused(&box));
	box.extent[0]--;
	assert_false(box_refused(&box));
	box.extent[0] = box.extent[1] = UINT64_C(1) << 32;
	assert_true(box_refused(&box));
}

static void a_failed_allocation_leaves_no_part(void **state)
{
	const struct box box = {.ndim = 2, .extent = {1, 1}};
	struct tensor t = weights;
	struct bytes b = {0};

	(void)state;
	memset(t.name, 'n', FTMEM_REGION_NAME_MAX);
	for (uint32_t filled = 0; filled < 600; filled++) {
		int rc;

		assert_int_equal(bytes_put(&b, "x", 1), 0);
		alloc_fail_at(1);
		rc = tensor_put(&b, &t);
		alloc_fail_off();
		assert_true(rc == 0 || (rc == FTMEM_ENOMEM && b.size == filled + 1));
		b.size = filled + 1;
		alloc_fail_at(1);
		rc = box_put(&b, &box);
		alloc_fail_off();
		assert_true(rc == 0 || (rc == FTMEM_ENOMEM && b.size == filled + 1));
		b.size = filled + 1;
	}
	bytes_deinit(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(owners_are_spread_by_name_and_home),
		cmocka_unit_test(same_is_the_name_alike_the_elements),
		cmocka_unit_test(text_is_shape_and_element),
		cmocka_unit_test(what_is_put_is_read_back_and_never_less),
		cmocka_unit_test(tensors_that_cannot_be_are_refused),
		cmocka_unit_test(fields_out_of_bounds_are_refused),
		cmocka_unit_test(boxes_that_cannot_be_are_refused),
		cmocka_unit_test(a_failed_allocation_leaves_no_part),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
