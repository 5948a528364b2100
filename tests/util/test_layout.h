/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A settled layout over memory of its own, for tests of what copies it. Its regions
 * are private, so each is one piece. They lie one after the other in memory with space
 * bytes between them, filled with random bytes.
 */
#ifndef FTMEM_TEST_LAYOUT_H
#define FTMEM_TEST_LAYOUT_H

#include <stdlib.h>
#include <string.h>

#include "layout.h"
#include "rail.h"
#include "test_random.h"

struct test_layout {
	struct layout layout;
	uint8_t *memory;
	uint64_t memory_bytes;
};

static inline uint64_t test_layout_align(uint64_t bytes)
{
	return (bytes + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN;
}

static inline void test_layout_init(struct test_layout *t, const uint64_t *bytes, uint32_t count,
                                    uint64_t space, uint64_t *random)
{
	uint64_t offset, at = 0;

	memset(t, 0, sizeof(*t));
	if (count == 0)
		return;
	t->layout.regions = t->layout.pieces = count;
	t->layout.blob_bytes = 200 + 3 * (uint64_t)count;
	t->layout.blob = malloc(t->layout.blob_bytes);
	t->layout.region = calloc(count, sizeof(*t->layout.region));
	t->layout.piece = calloc(count, sizeof(*t->layout.piece));
	for (uint32_t i = 0; i < count; i++)
		t->memory_bytes += bytes[i] + space;
	t->memory = malloc(t->memory_bytes);
	if (!t->layout.blob || !t->layout.region || !t->layout.piece || !t->memory)
		abort();
	test_random_fill(random, t->layout.blob, t->layout.blob_bytes);
	test_random_fill(random, t->memory, t->memory_bytes);
	offset = test_layout_align(t->layout.blob_bytes);
	for (uint32_t i = 0; i < count; i++) {
		t->layout.region[i].addr = t->memory + at;
		t->layout.region[i].bytes = bytes[i];
		t->layout.region[i].device = DEVICE_HOST;
		t->layout.piece[i].region = i;
		t->layout.piece[i].offset = offset;
		t->layout.piece[i].bytes = bytes[i];
		t->layout.region_bytes += bytes[i];
		at += bytes[i] + space;
		offset = test_layout_align(offset + bytes[i]);
	}
	t->layout.data_bytes = offset;
}

static inline void test_layout_deinit(struct test_layout *t)
{
	free(t->layout.blob);
	free(t->layout.region);
	free(t->layout.piece);
	free(t->memory);
}

/* A rail whose member 1 (0 if alone) has the layout's data. */
static inline struct rail test_layout_rail(const struct test_layout *t, uint32_t n, uint32_t m,
                                           uint32_t block_bytes)
{
	struct rail r = {.id = 3, .n = n, .m = m, .block_bytes = block_bytes};

	for (uint32_t i = 0; i < n; i++) {
		r.rank[i] = i;
		r.data_bytes[i] = 5000 * i;
	}
	r.data_bytes[n > 1] = t->layout.data_bytes;
	return r;
}

/* The slot's data as the layout defines it: blob and pieces, zeros between. */
static inline uint8_t *test_layout_image(const struct test_layout *t)
{
	uint8_t *image = calloc(1, t->layout.data_bytes + 1);

	if (!image)
		abort();
	if (t->layout.regions > 0)
		memcpy(image, t->layout.blob, t->layout.blob_bytes);
	for (uint32_t i = 0; i < t->layout.pieces; i++)
		memcpy(image + t->layout.piece[i].offset,
		       t->layout.region[t->layout.piece[i].region].addr, t->layout.piece[i].bytes);
	return image;
}

#endif
