/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random boxes, what packing them means, element by element, and a layout with pieces
 * of boxes (test_layout.h).
 */
#ifndef FTMEM_TEST_BOXES_H
#define FTMEM_TEST_BOXES_H

#include "test_layout.h"

#define TEST_BOXES_PIECES 4u /* of one region at most */

static inline uint64_t test_boxes_count(const struct box *b)
{
	uint64_t count = 1;

	for (uint32_t d = 0; d < b->ndim; d++)
		count *= b->extent[d];
	return count;
}

/* Of at most that many elements. */
static inline struct box test_boxes_outer(uint64_t elements, uint64_t *random)
{
	struct box b = {.ndim = 1 + test_random_below(random, FTMEM_MAX_DIMS)};
	uint32_t first = test_random_below(random, b.ndim);

	for (uint32_t i = 0; i < b.ndim; i++) {
		uint32_t d = (first + i) % b.ndim, most = i == 0 ? 200 : 9;

		b.start[d] = test_random_below(random, 3) * UINT64_C(0x100000001);
		if (most > elements)
			most = (uint32_t)elements;
		b.extent[d] = 1 + test_random_below(random, most);
		elements /= b.extent[d];
	}
	b.extent[b.ndim - 1] *= 1 + test_random_below(random, (uint32_t)elements);
	return b;
}

/* Not empty, within outer; in half of the dimensions all of it. */
static inline struct box test_boxes_inner(const struct box *outer, uint64_t *random)
{
	struct box b = *outer;

	for (uint32_t d = 0; d < b.ndim; d++) {
		uint32_t from;

		if (test_random_below(random, 2) == 0)
			continue;
		from = test_random_below(random, (uint32_t)b.extent[d]);
		b.start[d] += from;
		b.extent[d] = 1 + test_random_below(random, (uint32_t)b.extent[d] - from);
	}
	return b;
}

/* Where element number i of inner lies in an array that holds outer, in elements. */
static inline uint64_t test_boxes_at(const struct box *outer, const struct box *inner, uint64_t i)
{
	uint64_t at = 0, stride = 1;

	for (uint32_t d = inner->ndim; d-- > 0;) {
		at += stride * (inner->start[d] - outer->start[d] + i % inner->extent[d]);
		i /= inner->extent[d];
		stride *= outer->extent[d];
	}
	return at;
}

static inline void test_boxes_pack(const struct box *outer, const struct box *inner,
                                   uint32_t elem_bytes, const uint8_t *array, uint8_t *packed)
{
	for (uint64_t i = 0; i < test_boxes_count(inner); i++)
		memcpy(packed + i * elem_bytes, array + test_boxes_at(outer, inner, i) * elem_bytes,
		       elem_bytes);
}

static inline void test_boxes_unpack(const struct box *outer, const struct box *inner,
                                     uint32_t elem_bytes, uint8_t *array, const uint8_t *packed)
{
	for (uint64_t i = 0; i < test_boxes_count(inner); i++)
		memcpy(array + test_boxes_at(outer, inner, i) * elem_bytes, packed + i * elem_bytes,
		       elem_bytes);
}

/* Up to TEST_BOXES_PIECES disjoint pieces of a box, not always all of it; how many. */
static inline uint32_t test_boxes_cut(const struct box *box, struct box *piece, uint64_t *random)
{
	uint32_t count = 1;

	piece[0] = *box;
	while (count < TEST_BOXES_PIECES && test_random_below(random, 4) > 0) {
		struct box *cut = &piece[test_random_below(random, count)];
		uint32_t d = test_random_below(random, box->ndim);
		uint64_t at;

		if (cut->extent[d] < 2)
			break;
		at = 1 + test_random_below(random, (uint32_t)cut->extent[d] - 1);
		piece[count] = *cut;
		piece[count].start[d] += at;
		piece[count].extent[d] -= at;
		cut->extent[d] = at;
		count++;
	}
	/* Of some boxes a piece is not stored here. */
	if (count > 1 && test_random_below(random, 3) == 0) {
		count--;
		piece[test_random_below(random, count)] = piece[count];
	}
	return count;
}

static inline void test_boxes_add(struct layout *l, uint32_t region, uint64_t elements,
                                  uint64_t *random)
{
	static const uint32_t sizes[] = {1, 2, 3, 4, 8, 16};
	struct region *r = &l->region[region];
	struct box piece[TEST_BOXES_PIECES];
	uint32_t pieces;

	r->elem_bytes = sizes[test_random_below(random, 6)];
	r->box = test_boxes_outer(elements, random);
	r->bytes = test_boxes_count(&r->box) * r->elem_bytes;
	pieces = test_boxes_cut(&r->box, piece, random);
	for (uint32_t i = 0; i < pieces; i++)
		l->piece[l->pieces++] = (struct layout_piece){
			.region = region,
			.box = piece[i],
			.bytes = test_boxes_count(&piece[i]) * r->elem_bytes,
		};
}

/* As test_layout_init(), and then so many regions that are boxes of at most that many
 * elements, with pieces of them. */
static inline void test_boxes_init(struct test_layout *t, const uint64_t *bytes, uint32_t count,
                                   uint32_t boxes, uint64_t elements, uint64_t *random)
{
	uint64_t at = 0, space = test_random_below(random, 3);
	struct layout *l = &t->layout;

	memset(t, 0, sizeof(*t));
	l->regions = count + boxes;
	l->blob_bytes = 200 + 3 * (uint64_t)count;
	l->blob = malloc(l->blob_bytes);
	l->region = calloc(l->regions, sizeof(*l->region));
	l->piece = calloc(count + TEST_BOXES_PIECES * boxes, sizeof(*l->piece));
	if (!l->blob || !l->region || !l->piece)
		abort();
	test_random_fill(random, l->blob, l->blob_bytes);
	for (uint32_t i = 0; i < l->regions; i++) {
		if (i < count) {
			l->region[i].bytes = bytes[i];
			l->piece[l->pieces++] =
				(struct layout_piece){.region = i, .bytes = bytes[i]};
		} else {
			test_boxes_add(l, i, elements, random);
		}
		l->region_bytes += l->region[i].bytes;
		t->memory_bytes += l->region[i].bytes + space;
	}
	t->memory = malloc(t->memory_bytes);
	if (!t->memory)
		abort();
	test_random_fill(random, t->memory, t->memory_bytes);
	for (uint32_t i = 0; i < l->regions; i++) {
		l->region[i].addr = t->memory + at;
		l->region[i].device = DEVICE_HOST;
		at += l->region[i].bytes + space;
	}
	l->data_bytes = test_layout_align(l->blob_bytes);
	for (uint32_t i = 0; i < l->pieces; i++) {
		l->piece[i].offset = l->data_bytes;
		l->data_bytes = test_layout_align(l->data_bytes + l->piece[i].bytes);
	}
}

/* test_layout_image() for it. */
static inline uint8_t *test_boxes_image(const struct test_layout *t)
{
	const struct layout *l = &t->layout;
	uint8_t *image = calloc(1, l->data_bytes + 1);

	if (!image)
		abort();
	memcpy(image, l->blob, l->blob_bytes);
	for (uint32_t p = 0; p < l->pieces; p++) {
		const struct region *r = &l->region[l->piece[p].region];

		if (r->box.ndim == 0)
			memcpy(image + l->piece[p].offset, r->addr, r->bytes);
		else
			test_boxes_pack(&r->box, &l->piece[p].box, r->elem_bytes, r->addr,
			                image + l->piece[p].offset);
	}
	return image;
}

#endif
