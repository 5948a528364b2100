/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a name stands for, as ranks tell each other: a global tensor, or the private
 * region of one rank, which counts as a one-dimensional tensor of bytes.
 */
#ifndef FTMEM_TENSOR_H
#define FTMEM_TENSOR_H

#include "box.h"
#include "bytes.h"

/* tensor.home of what belongs to no rank. */
#define TENSOR_GLOBAL UINT32_MAX

struct tensor {
	char name[FTMEM_REGION_NAME_MAX + 1];
	uint32_t home;       /* TENSOR_GLOBAL, or the rank whose private region it is */
	uint32_t elem_bytes, ndim;
	uint64_t shape[FTMEM_MAX_DIMS];
};

/* The rank that brings together what is said about a name: by hash of name and home. */
uint32_t tensor_owner(const char *name, uint32_t home, uint32_t ranks);
/* The same name and home. */
bool tensor_same(const struct tensor *a, const struct tensor *b);
/* The same elements and shape. */
bool tensor_alike(const struct tensor *a, const struct tensor *b);
/* By name, then home: for qsort(). */
int tensor_compare(const struct tensor *a, const struct tensor *b);
/* "[10, 20] of 4-byte elements". Returns text. */
#define TENSOR_TEXT (FTMEM_MAX_DIMS * 22 + 32)
const char *tensor_text(const struct tensor *t, char text[TENSOR_TEXT]);

/*
 * Written and read back within one job. ENOMEM: b is as it was. The reader trusts no field:
 * bytes_reader.bad, and all zero, unless the tensor has a name, elements, fewer than 2^64
 * bytes, and bytes as elements if it has a home; the box is not empty, has fewer than 2^63
 * elements, and its ends are below 2^64.
 */
int tensor_put(struct bytes *b, const struct tensor *t);
void tensor_get(struct bytes_reader *r, struct tensor *t);
int box_put(struct bytes *b, const struct box *box);
void box_get(struct bytes_reader *r, uint32_t ndim, struct box *box);

#endif
