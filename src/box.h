/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Boxes of a tensor's index space, and where their elements lie in memory. Pure; no
 * allocation. Elements are in row-major order: the last dimension runs fastest.
 *
 * A box is start[d] .. start[d] + extent[d] - 1 in each of its ndim dimensions; one
 * with an extent of 0 is empty. Boxes that are compared or cut have the same ndim,
 * 1 to FTMEM_MAX_DIMS, and fewer than 2^63 elements. What lies beyond ndim is 0.
 */
#ifndef FTMEM_BOX_H
#define FTMEM_BOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ftmem.h"

struct box {
	uint32_t ndim;
	uint64_t start[FTMEM_MAX_DIMS], extent[FTMEM_MAX_DIMS];
};

uint64_t box_count(const struct box *b); /* elements */
bool box_equal(const struct box *a, const struct box *b);
/* inner begins and ends within outer, dimension by dimension, even if it is empty. */
bool box_contains(const struct box *outer, const struct box *inner);
/* False, and *out untouched, if they have no element in common. */
bool box_intersect(const struct box *a, const struct box *b, struct box *out);
/* By all starts, then all extents, dimension 0 first: for qsort(). */
int box_compare(const struct box *a, const struct box *b);

/* What of a is not in b, as disjoint boxes; how many (0: nothing). */
#define BOX_SUBTRACT_MAX (2 * FTMEM_MAX_DIMS)
uint32_t box_subtract(const struct box *a, const struct box *b,
                      struct box out[BOX_SUBTRACT_MAX]);

/* Elements from .. to - 1 of a box in row-major order, as the fewest disjoint boxes, in
 * that order; how many. from <= to <= box_count(b). */
#define BOX_RANGE_MAX (2 * FTMEM_MAX_DIMS - 1)
uint32_t box_range(const struct box *b, uint64_t from, uint64_t to,
                   struct box out[BOX_RANGE_MAX]);

/*
 * Where share number i of count begins, in elements, when a box is cut into near-equal
 * shares: the nearest cut that takes whole rows of the most dimensions whose size is
 * at most 1/256 of a share. i == count: the end. Grows with i.
 */
uint64_t box_cut(const struct box *b, uint64_t i, uint64_t count);

/* "[0:4, 16:32]": from inclusive, to exclusive. Returns text. */
#define BOX_TEXT (FTMEM_MAX_DIMS * 44)
const char *box_text(const struct box *b, char text[BOX_TEXT]);

/*
 * The elements of a box inner within an array in memory that holds exactly the box
 * outer: runs of neighbouring bytes. Packed, they stand one behind the other in
 * row-major order of inner.
 */
struct box_view {
	uint64_t bytes;                  /* of inner */
	uint64_t offset;                 /* of the first run in the array */
	uint64_t run;                    /* bytes that are neighbours in both; bytes if all are */
	uint32_t dims;                   /* of runs, outermost first; 0: one run */
	uint64_t count[FTMEM_MAX_DIMS];  /* runs in this dimension */
	uint64_t stride[FTMEM_MAX_DIMS]; /* bytes from one to the next */
};

/* inner lies in outer and is not empty; elem_bytes >= 1. */
void box_view(const struct box *outer, const struct box *inner, uint32_t elem_bytes,
              struct box_view *out);
/* One run of that many bytes at the array's start. */
struct box_view box_view_flat(uint64_t bytes);
/* The run that holds byte `from` of the packed form: its place in the array, and how
 * many bytes of it follow from there. from < bytes. */
uint64_t box_view_at(const struct box_view *v, uint64_t from, uint64_t *follow);
/* Copies bytes from .. from + bytes - 1 of the packed form out of, or into, the array. */
void box_view_gather(const struct box_view *v, const uint8_t *array, uint64_t from,
                     uint8_t *packed, uint64_t bytes);
void box_view_scatter(const struct box_view *v, uint8_t *array, uint64_t from,
                      const uint8_t *packed, uint64_t bytes);

#endif
