/* SPDX-License-Identifier: BSD-3-Clause */
/* What writes layouts (layout.c) and what reads them (layout_parse.c) share. */
#ifndef FTMEM_LAYOUT_IMPL_H
#define FTMEM_LAYOUT_IMPL_H

#include <stdbool.h>

#include "layout.h"

#define BLOB_MAGIC  0x594c5446u /* "FTLY" in memory */
#define BLOB_FORMAT 2u
#define BLOB_ALIGN  8

struct blob_head {
	uint32_t magic, format, regions, pieces;
	uint64_t blob_bytes, data_bytes;
};
_Static_assert(sizeof(struct blob_head) == 32, "documented in docs/formats.md");

/* Then shape, start, extent: ndim words each; then the name, a zero byte, and zeros
 * up to BLOB_ALIGN. */
struct blob_region {
	uint64_t bytes;
	uint32_t elem_bytes, ndim, name_bytes, reserved;
};
_Static_assert(sizeof(struct blob_region) == 24, "documented in docs/formats.md");

/* Then start and extent: as many words each as the region has dimensions. */
struct blob_piece {
	uint32_t region, reserved;
};
_Static_assert(sizeof(struct blob_piece) == 8, "documented in docs/formats.md");

static inline uint64_t blob_round_up(uint64_t value, uint64_t align)
{
	return (value + align - 1) / align * align;
}

int layout_no_memory(uint32_t regions);
/* Room for regions and their names; without any yet. NULL: ENOMEM. */
struct layout *layout_new(uint32_t regions, uint64_t names_bytes);
/* Adds a copy of a region whose name is copied to *names. False: too many bytes. */
bool layout_push(struct layout *l, const struct region *from, char **names);
/* Room for pieces, once. ENOMEM. */
int layout_piece_room(struct layout *l, uint64_t count);
/* By region, then box: for qsort(). */
int layout_piece_compare(const void *a, const void *b);
/* Sizes and offsets of the pieces; they follow from the order, the boxes and the blob's
 * size. False: too many bytes. */
bool layout_place(struct layout *l);

#endif
