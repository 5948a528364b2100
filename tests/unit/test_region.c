/* SPDX-License-Identifier: BSD-3-Clause */
/* Linked with --wrap=malloc,calloc,realloc and alloc_fail.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "error.h"
#include "layout_fixture.h"
#include "region.h"
#include "test_random.h"
#include "util/alloc_fail.h"

/* The i-th region of the set is called name. */
static const struct region *assert_is(const struct region_set *set, uint32_t i, const char *name)
{
	const struct region *r = NULL;
	uint32_t at = 0;

	for (uint32_t j = 0; j <= i; j++)
		r = region_set_next(set, &at);
	assert_non_null(r);
	assert_string_equal(r->name, name);
	return r;
}

static void refused(struct region_set *set, const struct ftmem_region *r, const char *why)
{
	uint32_t count = region_set_count(set);

	assert_int_equal(region_set_add(set, r, DEVICE_HOST), FTMEM_EINVAL);
	if (!strstr(error_msg(), why))
		fail_msg("\"%s\" does not say \"%s\"", error_msg(), why);
	assert_int_equal(region_set_count(set), count);
}

static void regions_without_sense_are_refused_by_name(void **state)
{
	struct region_set *set = set_of_three();
	char name[FTMEM_REGION_NAME_MAX + 2];
	struct ftmem_region r = FTMEM_REGION_INIT;

	(void)state;
	refused(set, NULL, "NULL");
	r.addr = memory;
	r.bytes = 1;
	refused(set, &r, "no name");
	r.name = "";
	refused(set, &r, "no name");
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	r.name = name;
	refused(set, &r, "255");
	name[sizeof(name) - 2] = '\0';
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	r.name = "v";
	r.bytes = 0;
	refused(set, &r, "\"v\" of 0 bytes: it has no bytes");
	r.bytes = REGION_DATA_MAX + 1;
	refused(set, &r, "\"v\"");
	r.bytes = 2;
	r.addr = NULL;
	refused(set, &r, "\"v\" of 2 bytes: its address is NULL");
	r.addr = (void *)(UINTPTR_MAX - 1);
	refused(set, &r, "address space");
	r.addr = memory;
	r.name = "box";
	refused(set, &r, "\"box\" of 2 bytes: there is one of this name");
	region_set_free(set);
}

static void boxes_that_do_not_fit_are_refused(void **state)
{
	struct region_set *set;
	struct ftmem_region r;
	uint32_t d;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	r = box();
	r.ndim = FTMEM_MAX_DIMS + 1;
	refused(set, &r, "8 dimensions");
	r = box();
	r.elem_bytes = 0;
	refused(set, &r, "elem_bytes");
	r = box();
	r.bytes = 25;
	refused(set, &r,
	        "\"box\" of 25 bytes: bytes is not elem_bytes times the product of extent: "
	        "4-byte elements of the box [1:3, 5:8] have 24");
	r = box();
	r.extent[1] = 0;
	refused(set, &r, "its extent is 0 in dimension 1");
	r = box();
	r.shape[0] = 0;
	refused(set, &r, "its shape is 0 in dimension 0");
	r = box();
	r.start[1] = 6;
	refused(set, &r,
	        "its box [1:3, 6:9] reaches beyond the tensor in dimension 1: that is [3, 8] of "
	        "4-byte elements");
	r = box();
	r.start[1] = UINT64_MAX - 3;
	refused(set, &r, "18446744073709551615] reaches beyond the tensor in dimension 1");
	r.start[1] = UINT64_MAX;
	refused(set, &r, "its start + extent in dimension 1 is 2^64 or more");
	r = box();
	r.extent[0] = UINT64_MAX;
	refused(set, &r, "its start + extent in dimension 0 is 2^64 or more");
	r = box();
	r.shape[0] = r.extent[0] = UINT64_C(1) << 62;
	r.start[0] = 0;
	refused(set, &r,
	        "its tensor, [4611686018427387904, 8] of 4-byte elements, has 2^64 bytes or more");
	r = box();
	r.shape[0] = UINT64_MAX;
	refused(set, &r, "has 2^64 bytes or more");
	r = box();
	r.ndim = FTMEM_MAX_DIMS;
	for (d = 0; d < FTMEM_MAX_DIMS; d++) {
		r.shape[d] = 2;
		r.start[d] = 1;
		r.extent[d] = 1;
	}
	r.bytes = 4;
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	/* The longest that is said fits. */
	for (d = 0; d < FTMEM_MAX_DIMS; d++) {
		r.shape[d] = UINT64_MAX - 1;
		r.start[d] = UINT64_MAX - 2;
	}
	refused(set, &r, "18446744073709551614] of 4-byte elements, has 2^64 bytes or more");
	r.elem_bytes = UINT32_MAX;
	r.start[7] = UINT64_MAX - 1;
	refused(set, &r, "in dimension 7: that is [18446744073709551614, ");
	refused(set, &r, ", 18446744073709551614] of 4294967295-byte elements");
	region_set_free(set);
}

static void a_region_is_where_it_was_said_to_be(void **state)
{
	static const int device[] = {DEVICE_HOST, 0, DEVICE_MAX - 1};
	struct ftmem_region r = FTMEM_REGION_INIT;
	struct region_set *set;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	r.addr = memory;
	r.bytes = 1;
	for (uint32_t i = 0; i < 3; i++) {
		const char name[] = {(char)('a' + i), '\0'};

		r.name = name;
		assert_int_equal(region_set_add(set, &r, device[i]), FTMEM_OK);
		assert_int_equal(assert_is(set, i, name)->device, device[i]);
	}
	region_set_free(set);
}

static void a_shape_without_ndim_is_refused(void **state)
{
	const char *why = "\"box\" of 24 bytes: it has a shape, but ndim is 0: set ndim, or leave "
			  "shape and extent 0 for a private region";
	struct ftmem_region r = box();
	struct region_set *set;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	r.ndim = 0;
	refused(set, &r, why);
	r.shape[0] = 0;
	refused(set, &r, why);
	r.shape[0] = 3;
	r.extent[0] = 0;
	refused(set, &r, why);
	/* An element size alone says nothing. */
	r.shape[0] = 0;
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	region_set_free(set);
}

struct newer_region {
	struct ftmem_region known;
	uint64_t more;
};

static void structs_of_other_versions_are_understood(void **state)
{
	struct newer_region newer = {.known = box()};
	const struct region *r;
	struct region_set *set;
	uint32_t at = 0;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	newer.known.size = 0;
	refused(set, &newer.known, "FTMEM_REGION_INIT");
	newer.known.size = offsetof(struct ftmem_region, bytes);
	refused(set, &newer.known, "FTMEM_REGION_INIT");
	newer.known.size = sizeof(newer);
	newer.more = 1;
	refused(set, &newer.known, "older");
	newer.more = 0;
	assert_int_equal(region_set_add(set, &newer.known, DEVICE_HOST), FTMEM_OK);
	newer.known.size = offsetof(struct ftmem_region, elem_bytes);
	newer.known.name = "old";
	assert_int_equal(region_set_add(set, &newer.known, DEVICE_HOST), FTMEM_OK);
	r = region_set_next(set, &at);
	assert_string_equal(r->name, "box");
	assert_int_equal(r->box.ndim, 2);
	r = region_set_next(set, &at);
	assert_string_equal(r->name, "old");
	assert_int_equal(r->box.ndim, 0);
	assert_int_equal(r->elem_bytes, 0);
	region_set_free(set);
}

static void removed_names_are_free_again(void **state)
{
	struct region_set *set = set_of_three();
	uint32_t at = 0;

	(void)state;
	assert_int_equal(region_set_remove(set, NULL), FTMEM_EINVAL);
	assert_int_equal(region_set_remove(set, "nothing"), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "\"nothing\" is not registered"));
	assert_int_equal(region_set_remove(set, "w"), FTMEM_OK);
	assert_int_equal(region_set_remove(set, "w"), FTMEM_EINVAL);
	assert_int_equal(region_set_count(set), 2);
	assert_int_equal(add_bytes(set, "w", memory, 5), FTMEM_OK);
	assert_int_equal(region_set_count(set), 3);
	assert_is(set, 0, "box");
	assert_is(set, 1, "sevenby");
	assert_int_equal(assert_is(set, 2, "w")->bytes, 5);
	for (uint32_t i = 0; i < 3; i++)
		assert_non_null(region_set_next(set, &at));
	assert_null(region_set_next(set, &at));
	assert_null(region_set_next(set, &at));
	region_set_free(set);
}

static void what_lies_beyond_ndim_is_zero(void **state)
{
	struct ftmem_region r = box();
	const struct region *got;
	struct region_set *set;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	r.shape[5] = r.start[2] = r.extent[7] = 9;
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	r.ndim = r.shape[0] = r.extent[0] = 0;
	r.name = "private";
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	got = assert_is(set, 0, "box");
	assert_int_equal(got->shape[1], 8);
	assert_int_equal(got->shape[5], 0);
	assert_int_equal(got->box.start[2], 0);
	assert_int_equal(got->box.extent[7], 0);
	got = assert_is(set, 1, "private");
	assert_int_equal(got->shape[1], 0);
	assert_int_equal(got->box.extent[1], 0);
	assert_int_equal(got->box.start[0], 0);
	assert_int_equal(got->elem_bytes, 0);
	region_set_free(set);
}

/* The box() of one row, from column start, of extent columns. */
static struct ftmem_region row(uint64_t start, uint64_t extent)
{
	struct ftmem_region r = box();

	r.start[0] = 0;
	r.extent[0] = 1;
	r.start[1] = start;
	r.extent[1] = extent;
	r.bytes = 4 * extent;
	return r;
}

static void boxes_of_one_tensor_share_a_name_while_they_lie_apart(void **state)
{
	struct region_set *set = set_of_three();
	struct ftmem_region r = row(5, 3);

	(void)state;
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	r = row(0, 2);
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	r = row(2, 3);
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	assert_int_equal(region_set_count(set), 6);
	r = row(4, 2);
	refused(set, &r, "\"box\" of 8 bytes: its box [0:1, 4:6] overlaps [0:1, 2:5], which");
	r = row(0, 1);
	refused(set, &r, "[0:1, 0:1] overlaps [0:1, 0:2], which");
	r = box();
	refused(set, &r, "[1:3, 5:8] overlaps [1:3, 5:8], which");
	assert_int_equal(region_set_remove(set, "box"), FTMEM_OK);
	assert_int_equal(region_set_count(set), 2);
	assert_int_equal(region_set_remove(set, "box"), FTMEM_EINVAL);
	r = box();
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	r = row(0, 8);
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	assert_int_equal(assert_is(set, 3, "box")->bytes, 32);
	region_set_free(set);
}

static void boxes_of_another_tensor_need_another_name(void **state)
{
	struct region_set *set = set_of_three();
	struct ftmem_region r;

	(void)state;
	r = row(0, 2);
	r.shape[0] = 4;
	refused(set, &r,
	        "\"box\" of 8 bytes: its tensor is [4, 8] of 4-byte elements, and that of a box of "
	        "this name that is registered already [3, 8] of 4-byte elements: give it one");
	r = row(0, 2);
	r.elem_bytes = 8;
	r.bytes = 16;
	refused(set, &r, "its tensor is [3, 8] of 8-byte elements, and");
	r = row(0, 2);
	r.ndim = 1;
	r.shape[0] = 2;
	r.extent[0] = 2;
	refused(set, &r, "its tensor is [2] of 4-byte elements, and");
	r = row(0, 2);
	r.name = "w";
	refused(set, &r, "there is one of this name");
	r = row(0, 2);
	r.ndim = r.shape[0] = r.extent[0] = 0;
	refused(set, &r, "there is one of this name");
	region_set_free(set);
}

/* Against a plain array of what should be there: how many boxes, or a private region. */
static void thousands_come_and_go_in_order(void **state)
{
	enum { NAMES = 2000, STEPS = 40000, BOXES = 4, PRIVATE = BOXES + 1 };
	static uint8_t present[NAMES], seen[NAMES];
	uint64_t seed = test_random_seed(__func__);
	uint32_t count = 0, i, n, at = 0;
	const struct region *r;
	struct region_set *set;
	char name[16];

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	for (i = 0; i < STEPS; i++) {
		n = test_random_below(&seed, NAMES);
		snprintf(name, sizeof(name), "r%u", n);
		if (i % 4 == 0) {
			assert_int_equal(region_set_remove(set, name),
			                 present[n] ? FTMEM_OK : FTMEM_EINVAL);
			count -= present[n] == PRIVATE ? 1 : present[n];
			present[n] = 0;
		} else if (i % 4 == 1) {
			assert_int_equal(add_bytes(set, name, memory, n + 1),
			                 present[n] ? FTMEM_EINVAL : FTMEM_OK);
			count += !present[n];
			if (!present[n])
				present[n] = PRIVATE;
		} else {
			struct ftmem_region b = row(present[n], 1);

			b.name = name;
			assert_int_equal(region_set_add(set, &b, DEVICE_HOST),
			                 present[n] >= BOXES ? FTMEM_EINVAL : FTMEM_OK);
			count += present[n] < BOXES;
			present[n] += present[n] < BOXES;
			if (present[n] == BOXES) {
				assert_int_equal(region_set_remove(set, name), FTMEM_OK);
				count -= BOXES;
				present[n] = 0;
			}
		}
		assert_int_equal(region_set_count(set), count);
	}
	for (i = 0; (r = region_set_next(set, &at)); i++) {
		n = (uint32_t)strtoul(r->name + 1, NULL, 10);
		if (r->box.ndim == 0)
			assert_int_equal(r->bytes, n + 1);
		else
			assert_int_equal(r->box.start[1], seen[n]); /* in order */
		seen[n] = (uint8_t)(r->box.ndim == 0 ? PRIVATE : seen[n] + 1);
	}
	assert_int_equal(i, count);
	assert_memory_equal(seen, present, sizeof(seen));
	region_set_free(set);
}

static int build_all(void)
{
	struct ftmem_region r = box();
	struct region_set *set = NULL;
	uint32_t count;
	char name[16];
	int rc, i;

	rc = region_set_new(&set);
	if (rc != FTMEM_OK)
		return rc;
	rc = region_set_add(set, &r, DEVICE_HOST);
	for (i = 0; rc == FTMEM_OK && i < 20; i++) {
		snprintf(name, sizeof(name), "%d", i);
		rc = add_bytes(set, name, memory, 1);
	}
	r = row(0, 8);
	if (rc == FTMEM_OK)
		rc = region_set_add(set, &r, DEVICE_HOST);
	count = region_set_count(set);
	if (count > 0) { /* the set is as it was before */
		assert_int_equal(region_set_remove(set, "box"), FTMEM_OK);
		assert_int_equal(region_set_count(set), count - 1 - (rc == FTMEM_OK));
	}
	region_set_free(set);
	return rc;
}

static void every_failed_allocation_leaves_the_set_whole(void **state)
{
	unsigned n;
	int rc = FTMEM_ENOMEM;

	(void)state;
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = build_all();
		alloc_fail_off();
		assert_int_equal(rc, alloc_fail_count() < n ? FTMEM_OK : FTMEM_ENOMEM);
	}
	assert_true(n > 25);
	region_set_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(regions_without_sense_are_refused_by_name),
		cmocka_unit_test(boxes_that_do_not_fit_are_refused),
		cmocka_unit_test(a_region_is_where_it_was_said_to_be),
		cmocka_unit_test(a_shape_without_ndim_is_refused),
		cmocka_unit_test(structs_of_other_versions_are_understood),
		cmocka_unit_test(removed_names_are_free_again),
		cmocka_unit_test(what_lies_beyond_ndim_is_zero),
		cmocka_unit_test(boxes_of_one_tensor_share_a_name_while_they_lie_apart),
		cmocka_unit_test(boxes_of_another_tensor_need_another_name),
		cmocka_unit_test(thousands_come_and_go_in_order),
		cmocka_unit_test(every_failed_allocation_leaves_the_set_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
