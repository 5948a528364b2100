/* SPDX-License-Identifier: BSD-3-Clause */
/* Linked with --wrap=malloc,calloc,realloc and alloc_fail.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"
#include "region.h"
#include "util/alloc_fail.h"

static uint8_t memory[4096];

static int add_bytes(struct region_set *set, const char *name, void *addr, uint64_t bytes)
{
	struct ftmem_region r = FTMEM_REGION_INIT;

	r.name = name;
	r.addr = addr;
	r.bytes = bytes;
	return region_set_add(set, &r);
}

/* A box of 2 x 3 elements of 4 bytes at [1, 5] of a tensor of 3 x 8. */
static struct ftmem_region box(void)
{
	return (struct ftmem_region){
		.size = sizeof(struct ftmem_region),
		.name = "box",
		.addr = memory,
		.bytes = 24,
		.elem_bytes = 4,
		.ndim = 2,
		.shape = {3, 8},
		.start = {1, 5},
		.extent = {2, 3},
	};
}

static struct region_set *set_of_three(void)
{
	struct ftmem_region r = box();
	struct region_set *set;

	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(add_bytes(set, "w", memory, 100), FTMEM_OK);
	assert_int_equal(region_set_add(set, &r), FTMEM_OK);
	assert_int_equal(add_bytes(set, "sevenby", memory + 100, 1), FTMEM_OK);
	return set;
}

static struct layout *layout_of_three(void)
{
	struct region_set *set = set_of_three();
	struct layout *l;

	assert_int_equal(layout_freeze(set, &l), FTMEM_OK);
	region_set_free(set);
	return l;
}

static void refused(struct region_set *set, const struct ftmem_region *r, const char *why)
{
	uint32_t count = region_set_count(set);

	assert_int_equal(region_set_add(set, r), FTMEM_EINVAL);
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
	assert_int_equal(region_set_add(set, &r), FTMEM_OK);
	r.name = "v";
	r.bytes = 0;
	refused(set, &r, "\"v\" of 0 bytes: it has no bytes");
	r.bytes = LAYOUT_DATA_MAX + 1;
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
	refused(set, &r, "product");
	r = box();
	r.extent[1] = 0;
	refused(set, &r, "product");
	r = box();
	r.start[1] = 6;
	refused(set, &r, "beyond the tensor");
	r = box();
	r.start[1] = UINT64_MAX;
	refused(set, &r, "beyond the tensor");
	r = box();
	r.extent[0] = UINT64_MAX;
	refused(set, &r, "beyond the tensor");
	r = box();
	r.shape[0] = r.extent[0] = UINT64_C(1) << 62;
	r.start[0] = 0;
	refused(set, &r, "2^64");
	r = box();
	r.shape[0] = UINT64_MAX;
	refused(set, &r, "2^64");
	r = box();
	r.ndim = FTMEM_MAX_DIMS;
	for (d = 0; d < FTMEM_MAX_DIMS; d++) {
		r.shape[d] = 2;
		r.start[d] = 1;
		r.extent[d] = 1;
	}
	r.bytes = 4;
	assert_int_equal(region_set_add(set, &r), FTMEM_OK);
	region_set_free(set);
}

struct newer_region {
	struct ftmem_region known;
	uint64_t more;
};

static void structs_of_other_versions_are_understood(void **state)
{
	struct newer_region newer = {.known = box()};
	struct region_set *set;
	struct layout *l;

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
	assert_int_equal(region_set_add(set, &newer.known), FTMEM_OK);
	newer.known.size = offsetof(struct ftmem_region, elem_bytes);
	newer.known.name = "old";
	assert_int_equal(region_set_add(set, &newer.known), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &l), FTMEM_OK);
	assert_int_equal(layout_find(l, "box")->ndim, 2);
	assert_int_equal(layout_find(l, "old")->ndim, 0);
	layout_free(l);
	region_set_free(set);
}

static void removed_names_are_free_again(void **state)
{
	struct region_set *set = set_of_three();
	struct layout *l;

	(void)state;
	assert_int_equal(region_set_remove(set, NULL), FTMEM_EINVAL);
	assert_int_equal(region_set_remove(set, "nothing"), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "\"nothing\" is not registered"));
	assert_int_equal(region_set_remove(set, "w"), FTMEM_OK);
	assert_int_equal(region_set_remove(set, "w"), FTMEM_EINVAL);
	assert_int_equal(region_set_count(set), 2);
	assert_int_equal(add_bytes(set, "w", memory, 5), FTMEM_OK);
	assert_int_equal(region_set_count(set), 3);
	assert_int_equal(layout_freeze(set, &l), FTMEM_OK);
	assert_int_equal(l->count, 3);
	assert_string_equal(l->entry[0].name, "box");
	assert_string_equal(l->entry[2].name, "w");
	assert_int_equal(layout_find(l, "w")->bytes, 5);
	layout_free(l);
	region_set_free(set);
}

/* Against a plain array of what should be there. */
static void thousands_come_and_go_in_order(void **state)
{
	enum { NAMES = 5000, STEPS = 40000 };
	static uint8_t present[NAMES];
	uint64_t seed = 88172645463325252u;
	struct region_set *set;
	uint32_t count = 0, i, n;
	struct layout *l;
	char name[16];

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	for (i = 0; i < STEPS; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		n = (uint32_t)(seed >> 33) % NAMES;
		snprintf(name, sizeof(name), "r%u", n);
		if (i % 3 == 0) {
			assert_int_equal(region_set_remove(set, name),
			                 present[n] ? FTMEM_OK : FTMEM_EINVAL);
			count -= present[n];
			present[n] = 0;
		} else {
			assert_int_equal(add_bytes(set, name, memory, n + 1),
			                 present[n] ? FTMEM_EINVAL : FTMEM_OK);
			count += !present[n];
			present[n] = 1;
		}
		assert_int_equal(region_set_count(set), count);
	}
	assert_int_equal(layout_freeze(set, &l), FTMEM_OK);
	assert_int_equal(l->count, count);
	for (n = 0; n < NAMES; n++) {
		snprintf(name, sizeof(name), "r%u", n);
		if (present[n])
			assert_int_equal(layout_find(l, name)->bytes, n + 1);
		else
			assert_null(layout_find(l, name));
	}
	layout_free(l);
	region_set_free(set);
}

static void parts_of_the_data_follow_each_other_aligned(void **state)
{
	struct layout *l = layout_of_three();

	(void)state;
	assert_int_equal(l->count, 3);
	/* 32 + (24 + 8) + (24 + 48 + 8) + (24 + 8), rounded up */
	assert_int_equal(l->blob_bytes, 192);
	assert_int_equal(l->entry[0].offset, 192);
	assert_int_equal(l->entry[1].offset, 192 + 128);
	assert_int_equal(l->entry[2].offset, 192 + 128 + 64);
	assert_int_equal(l->data_bytes, 192 + 128 + 64 + 64);
	assert_ptr_equal(l->entry[0].addr, memory);
	assert_ptr_equal(l->entry[2].addr, memory + 100);
	assert_int_equal(l->digest, digest_more(DIGEST_INIT, l->blob, l->blob_bytes));
	layout_free(l);
}

static void blob_is_as_documented(void **state)
{
	/* clang-format off */
	static const uint8_t expected[192] = {
		'F', 'T', 'L', 'Y', 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
		192, 0, 0, 0, 0, 0, 0, 0, 0xc0, 1, 0, 0, 0, 0, 0, 0,
		/* "w": bytes, elem_bytes, ndim, name_bytes, reserved, name */
		100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		1, 0, 0, 0, 0, 0, 0, 0, 'w', 0, 0, 0, 0, 0, 0, 0,
		/* "box" with shape, start, extent */
		24, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0,
		3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
		8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
		5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
		3, 0, 0, 0, 0, 0, 0, 0, 'b', 'o', 'x', 0, 0, 0, 0, 0,
		/* "sevenby": its zero byte fills the word */
		1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		7, 0, 0, 0, 0, 0, 0, 0, 's', 'e', 'v', 'e', 'n', 'b', 'y', 0,
	};
	/* clang-format on */
	struct layout *l = layout_of_three();

	(void)state;
	assert_int_equal(l->blob_bytes, sizeof(expected));
	assert_memory_equal(l->blob, expected, sizeof(expected));
	layout_free(l);
}

static void equal_regions_have_equal_digests_whatever_lies_beyond_ndim(void **state)
{
	struct layout *l = layout_of_three(), *other;
	struct ftmem_region r = box();
	struct region_set *set;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(add_bytes(set, "w", memory + 7, 100), FTMEM_OK);
	r.shape[5] = 9;
	assert_int_equal(region_set_add(set, &r), FTMEM_OK);
	r.ndim = 0;
	r.name = "sevenby";
	r.bytes = 1;
	assert_int_equal(region_set_add(set, &r), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &other), FTMEM_OK);
	assert_int_equal(other->digest, l->digest);
	assert_int_equal(other->entry[1].shape[5], 0);
	assert_int_equal(other->entry[2].shape[0], 0);
	layout_free(other);
	assert_int_equal(region_set_remove(set, "w"), FTMEM_OK);
	assert_int_equal(add_bytes(set, "w", memory, 100), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &other), FTMEM_OK);
	assert_int_not_equal(other->digest, l->digest);
	layout_free(other);
	layout_free(l);
	region_set_free(set);
}

static void layout_of_nothing_is_no_bytes(void **state)
{
	struct layout *l, *parsed;
	struct region_set *set;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &l), FTMEM_OK);
	assert_int_equal(l->count, 0);
	assert_int_equal(l->data_bytes, 0);
	assert_int_equal(l->blob_bytes, 0);
	assert_null(l->blob);
	assert_null(layout_find(l, "w"));
	assert_int_equal(layout_parse(NULL, 0, &parsed), FTMEM_OK);
	assert_int_equal(parsed->digest, l->digest);
	assert_int_equal(layout_covers(parsed, l), FTMEM_OK);
	layout_free(parsed);
	layout_free(l);
	layout_free(NULL);
	region_set_free(set);
	region_set_free(NULL);
}

static void sizes_beyond_all_memory_are_refused_together(void **state)
{
	struct region_set *set;
	struct layout *l;
	char name[16];
	uint32_t i;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(add_bytes(set, "a", memory, LAYOUT_DATA_MAX / 2), FTMEM_OK);
	assert_int_equal(add_bytes(set, "b", memory, LAYOUT_DATA_MAX / 2 - 4096), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &l), FTMEM_OK);
	layout_free(l);
	assert_int_equal(add_bytes(set, "c", memory, LAYOUT_DATA_MAX), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &l), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "the 3 regions"));
	region_set_free(set);
	/* so many that their sum wraps to next to nothing */
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	for (i = 0; i < 1 << 16; i++) {
		snprintf(name, sizeof(name), "r%u", i);
		assert_int_equal(add_bytes(set, name, memory, LAYOUT_DATA_MAX), FTMEM_OK);
	}
	assert_int_equal(layout_freeze(set, &l), FTMEM_EINVAL);
	region_set_free(set);
}

static void parse_gives_back_what_was_frozen(void **state)
{
	struct layout *l = layout_of_three(), *parsed;
	uint8_t *bytes = malloc(l->data_bytes + 1);
	uint32_t i;

	(void)state;
	/* unaligned, with the data behind it */
	assert_non_null(bytes);
	memset(bytes, 0xff, l->data_bytes + 1);
	memcpy(bytes + 1, l->blob, l->blob_bytes);
	assert_int_equal(layout_parse(bytes + 1, l->data_bytes, &parsed), FTMEM_OK);
	free(bytes);
	assert_int_equal(parsed->count, l->count);
	assert_int_equal(parsed->blob_bytes, l->blob_bytes);
	assert_int_equal(parsed->data_bytes, l->data_bytes);
	assert_int_equal(parsed->digest, l->digest);
	assert_null(parsed->blob);
	for (i = 0; i < l->count; i++) {
		assert_string_equal(parsed->entry[i].name, l->entry[i].name);
		assert_null(parsed->entry[i].addr);
		assert_int_equal(parsed->entry[i].offset, l->entry[i].offset);
		assert_ptr_equal(layout_find(parsed, l->entry[i].name), &parsed->entry[i]);
	}
	assert_int_equal(layout_covers(parsed, l), FTMEM_OK);
	assert_int_equal(layout_covers(l, parsed), FTMEM_OK);
	layout_free(parsed);
	layout_free(l);
}

/* Parsed from memory of exactly that size, so that a sanitizer sees what is beyond. */
static int parse_copy(const uint8_t *blob, uint64_t bytes)
{
	uint8_t *copy = malloc(bytes ? bytes : 1);
	struct layout *l = NULL;
	int rc;

	assert_non_null(copy);
	memcpy(copy, blob, bytes);
	rc = layout_parse(copy, bytes, &l);
	if (rc == FTMEM_OK)
		layout_free(l);
	free(copy);
	return rc;
}

static void blobs_that_are_cut_off_are_corrupt(void **state)
{
	struct layout *l = layout_of_three();
	uint64_t bytes;

	(void)state;
	for (bytes = 1; bytes < l->blob_bytes; bytes++)
		assert_int_equal(parse_copy(l->blob, bytes), FTMEM_ECORRUPT);
	assert_int_equal(parse_copy(l->blob, l->blob_bytes), FTMEM_OK);
	layout_free(l);
}

static void any_changed_bit_gives_another_layout_or_none(void **state)
{
	struct layout *l = layout_of_three(), *parsed;
	uint64_t bit;
	int rc;

	(void)state;
	for (bit = 0; bit < l->blob_bytes * 8; bit++) {
		l->blob[bit / 8] ^= (uint8_t)(1u << bit % 8);
		rc = layout_parse(l->blob, l->blob_bytes, &parsed);
		if (rc == FTMEM_OK) {
			assert_int_not_equal(parsed->digest, l->digest);
			assert_int_equal(layout_covers(parsed, l), FTMEM_ELAYOUT);
			layout_free(parsed);
		} else {
			assert_int_equal(rc, FTMEM_ECORRUPT);
		}
		l->blob[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	layout_free(l);
}

static void garbage_never_does_harm(void **state)
{
	struct layout *l = layout_of_three();
	uint64_t seed = 42;
	uint8_t blob[192];
	uint32_t round, hits, i;

	(void)state;
	for (round = 0; round < 20000; round++) {
		memcpy(blob, l->blob, sizeof(blob));
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		hits = 1 + (uint32_t)(seed >> 60);
		for (i = 0; i < hits; i++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			blob[(seed >> 32) % sizeof(blob)] = (uint8_t)(seed >> 24);
		}
		(void)parse_copy(blob, sizeof(blob));
	}
	layout_free(l);
}

static void corrupt(struct layout *l, uint64_t at, uint64_t value, size_t bytes, const char *why)
{
	uint8_t saved[8];
	struct layout *parsed;

	memcpy(saved, l->blob + at, bytes);
	memcpy(l->blob + at, &value, bytes);
	assert_int_equal(layout_parse(l->blob, l->blob_bytes, &parsed), FTMEM_ECORRUPT);
	if (!strstr(error_msg(), why))
		fail_msg("\"%s\" does not say \"%s\"", error_msg(), why);
	memcpy(l->blob + at, saved, bytes);
}

static void damage_is_described(void **state)
{
	struct layout *l = layout_of_three();

	(void)state;
	corrupt(l, 0, 0, 4, "does not begin as one");
	corrupt(l, 4, 2, 4, "another format version");
	corrupt(l, 8, 0, 4, "as many regions");
	corrupt(l, 8, UINT32_MAX, 4, "as many regions");
	corrupt(l, 8, 2, 4, "behind its last region");
	corrupt(l, 8, 4, 4, "behind 3 of 4 regions: it is cut off");
	corrupt(l, 12, 1, 4, "out of range");
	corrupt(l, 16, 128, 8, "behind 1 of 3 regions: it is cut off");
	corrupt(l, 16, 256, 8, "out of range");
	corrupt(l, 16, UINT64_MAX - 63, 8, "out of range");
	corrupt(l, 16, 0, 8, "out of range");
	corrupt(l, 24, 0, 8, "add up");
	corrupt(l, 32, 0, 8, "behind 0 of 3 regions: it has no bytes");
	corrupt(l, 32, LAYOUT_DATA_MAX, 8, "add up");
	corrupt(l, 40, 1, 4, "behind 0 of 3 regions: its fields are out of range");
	corrupt(l, 44, 9, 4, "behind 0 of 3 regions: its fields are out of range");
	corrupt(l, 48, 0, 4, "behind 0 of 3 regions: its fields are out of range");
	corrupt(l, 48, 256, 4, "behind 0 of 3 regions: its fields are out of range");
	corrupt(l, 48, 2, 4, "behind 0 of 3 regions: its name is damaged");
	corrupt(l, 60, 1, 4, "behind 0 of 3 regions: its name is damaged");
	corrupt(l, 64, 25, 8, "behind 1 of 3 regions: bytes is not");
	corrupt(l, 88, 2, 8, "behind 1 of 3 regions: its box reaches beyond");
	layout_free(l);
}

static void a_name_stored_twice_is_corrupt(void **state)
{
	struct region_set *set;
	struct layout *l;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(add_bytes(set, "a", memory, 1), FTMEM_OK);
	assert_int_equal(add_bytes(set, "b", memory, 1), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &l), FTMEM_OK);
	assert_int_equal(l->blob[88], 'b');
	corrupt(l, 88, 'a', 1, "there twice");
	layout_free(l);
	region_set_free(set);
}

static void what_is_asked_for_must_be_stored_alike(void **state)
{
	struct layout *stored = layout_of_three(), *want;
	struct region_set *set;
	struct ftmem_region r = box();

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(region_set_add(set, &r), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &want), FTMEM_OK);
	assert_int_equal(layout_covers(stored, want), FTMEM_OK);
	assert_int_equal(layout_covers(want, stored), FTMEM_ELAYOUT);
	assert_non_null(strstr(error_msg(), "\"w\" is not among the 1 stored"));
	layout_free(want);

	assert_int_equal(region_set_remove(set, "box"), FTMEM_OK);
	r.start[1] = 4;
	assert_int_equal(region_set_add(set, &r), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &want), FTMEM_OK);
	assert_int_equal(layout_covers(stored, want), FTMEM_ELAYOUT);
	assert_non_null(strstr(error_msg(), "box [2,3] at [1,5] of tensor [3,8]"));
	assert_non_null(strstr(error_msg(), "box [2,3] at [1,4] of tensor [3,8]"));
	layout_free(want);

	assert_int_equal(region_set_remove(set, "box"), FTMEM_OK);
	assert_int_equal(add_bytes(set, "box", memory, 24), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &want), FTMEM_OK);
	assert_int_equal(layout_covers(stored, want), FTMEM_ELAYOUT);
	assert_non_null(strstr(error_msg(), "24 private bytes"));
	layout_free(want);
	layout_free(stored);
	region_set_free(set);
}

static int build_all(void)
{
	struct ftmem_region r = box();
	struct region_set *set = NULL;
	struct layout *l = NULL, *parsed = NULL;
	uint32_t count;
	char name[16];
	int rc, i;

	rc = region_set_new(&set);
	if (rc != FTMEM_OK)
		return rc;
	rc = region_set_add(set, &r);
	for (i = 0; rc == FTMEM_OK && i < 20; i++) {
		snprintf(name, sizeof(name), "%d", i);
		rc = add_bytes(set, name, memory, 1);
	}
	if (rc == FTMEM_OK)
		rc = layout_freeze(set, &l);
	if (rc == FTMEM_OK)
		rc = layout_parse(l->blob, l->blob_bytes, &parsed);
	count = region_set_count(set);
	if (count > 0) { /* the set is as it was before */
		assert_int_equal(region_set_remove(set, "box"), FTMEM_OK);
		assert_int_equal(region_set_count(set), count - 1);
	}
	layout_free(parsed);
	layout_free(l);
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
	assert_true(n > 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(regions_without_sense_are_refused_by_name),
		cmocka_unit_test(boxes_that_do_not_fit_are_refused),
		cmocka_unit_test(structs_of_other_versions_are_understood),
		cmocka_unit_test(removed_names_are_free_again),
		cmocka_unit_test(thousands_come_and_go_in_order),
		cmocka_unit_test(parts_of_the_data_follow_each_other_aligned),
		cmocka_unit_test(blob_is_as_documented),
		cmocka_unit_test(equal_regions_have_equal_digests_whatever_lies_beyond_ndim),
		cmocka_unit_test(layout_of_nothing_is_no_bytes),
		cmocka_unit_test(sizes_beyond_all_memory_are_refused_together),
		cmocka_unit_test(parse_gives_back_what_was_frozen),
		cmocka_unit_test(blobs_that_are_cut_off_are_corrupt),
		cmocka_unit_test(any_changed_bit_gives_another_layout_or_none),
		cmocka_unit_test(garbage_never_does_harm),
		cmocka_unit_test(damage_is_described),
		cmocka_unit_test(a_name_stored_twice_is_corrupt),
		cmocka_unit_test(what_is_asked_for_must_be_stored_alike),
		cmocka_unit_test(every_failed_allocation_leaves_the_set_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
