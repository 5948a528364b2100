/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sets of regions and layouts for the tests of both. Include cmocka.h before.
 *
 * Three regions: "w", 100 private bytes; "box", 2 x 3 elements of 4 bytes at [1, 5] of a
 * tensor of 3 x 8; "sevenby", 1 private byte.
 */
#ifndef FTMEM_LAYOUT_FIXTURE_H
#define FTMEM_LAYOUT_FIXTURE_H

#include <stdlib.h>
#include <string.h>

#include "layout.h"

static uint8_t memory[4096];

static inline int add_bytes(struct region_set *set, const char *name, void *addr, uint64_t bytes)
{
	struct ftmem_region r = FTMEM_REGION_INIT;

	r.name = name;
	r.addr = addr;
	r.bytes = bytes;
	return region_set_add(set, &r, DEVICE_HOST);
}

static inline struct ftmem_region box(void)
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

/* Of a region in that tensor: [r0:r1, c0:c1]. */
static inline struct layout_piece piece(uint32_t region, uint64_t r0, uint64_t r1, uint64_t c0,
                                        uint64_t c1)
{
	return (struct layout_piece){
		.region = region,
		.box = {.ndim = 2, .start = {r0, c0}, .extent = {r1 - r0, c1 - c0}}};
}

static inline struct region_set *set_of_three(void)
{
	struct ftmem_region r = box();
	struct region_set *set;

	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(add_bytes(set, "w", memory, 100), FTMEM_OK);
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	assert_int_equal(add_bytes(set, "sevenby", memory + 100, 1), FTMEM_OK);
	return set;
}

/* Not settled. The set is freed. */
static inline struct layout *layout_of(struct region_set *set)
{
	struct layout *l = NULL;

	assert_int_equal(layout_freeze(set, &l), FTMEM_OK);
	assert_non_null(l);
	region_set_free(set);
	return l;
}

static inline struct layout *layout_of_three(void)
{
	struct layout *l = layout_of(set_of_three());

	assert_int_equal(layout_settle_whole(l), FTMEM_OK);
	return l;
}

/* The box in its two rows, its second region [0:1, 0:8] in none. */
static inline struct layout *layout_in_shares(void)
{
	struct layout_piece p[] = {piece(1, 2, 3, 5, 8), piece(1, 1, 2, 5, 8)};
	struct region_set *set = set_of_three();
	struct ftmem_region r = box();
	struct layout *l;

	r.start[0] = r.start[1] = 0;
	r.extent[0] = 1;
	r.extent[1] = 8;
	r.bytes = 32;
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	l = layout_of(set);
	assert_int_equal(layout_settle(l, p, 2), FTMEM_OK);
	return l;
}

/* Parsed from memory of exactly that size, so that a sanitizer sees what is beyond. */
static inline int parse_copy(const uint8_t *blob, uint64_t bytes, struct layout **out)
{
	uint8_t *copy = malloc(bytes ? bytes : 1);
	int rc;

	assert_non_null(copy);
	if (bytes > 0)
		memcpy(copy, blob, bytes);
	*out = NULL;
	rc = layout_parse(copy, bytes, out);
	assert_true((rc == FTMEM_OK) == (*out != NULL));
	free(copy);
	return rc;
}

#endif
