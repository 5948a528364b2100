/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a rank registered and what of it its slots hold. Of its private regions a rank
 * stores all; of a box of a global tensor the pieces that are its share (share.h), the
 * whole box if nobody else has it.
 *
 * The serialised form (docs/formats.md) is itself the first piece of the slot's data,
 * so that it is copied, checksummed and protected like the rest:
 *
 *     slot data = [ blob | piece 0 | piece 1 | ... ], each 64-byte aligned
 *
 * A piece's elements are packed in row-major order. A rank without regions has no slot
 * data at all, and no blob.
 */
#ifndef FTMEM_LAYOUT_H
#define FTMEM_LAYOUT_H

#include "region.h"

#define LAYOUT_ALIGN 64

struct layout_piece {
	uint32_t region;      /* index into layout.region */
	struct box box;       /* in the tensor; ndim 0: the whole private region */
	uint64_t offset;      /* in the slot's data */
	uint64_t bytes;
};

/* Immutable once settled; any thread may read. */
struct layout {
	uint32_t regions, pieces;
	struct region *region;      /* in order of registration; if parsed, addr is NULL and
	                               device DEVICE_HOST */
	struct layout_piece *piece; /* by region, then box_compare(); NULL until settled */
	uint8_t *blob;              /* serialised, owned; NULL if parsed, empty or not settled */
	uint64_t blob_bytes;        /* multiple of 64; 0 if there are no regions */
	uint64_t data_bytes;        /* D: blob and pieces with padding; 0 without regions */
	uint64_t region_bytes;      /* registered */
	uint64_t digest;            /* of the blob; equal layouts have equal digests */
	char *names;                /* owned: what the regions' names point into */
};

/* The regions, not settled. The set may be changed or freed afterwards. EINVAL: more
 * than REGION_DATA_MAX bytes. ENOMEM. */
int layout_freeze(const struct region_set *set, struct layout **out);
/*
 * Decides what is stored: pieces of boxes, in any order, whose offset and bytes are
 * filled in here; each lies within its region's box and they do not overlap (not
 * checked). Private regions are added here. Once. EINVAL: more than REGION_DATA_MAX
 * bytes. ENOMEM.
 */
int layout_settle(struct layout *l, const struct layout_piece *piece, uint32_t count);
/* Every region whole: what a rank alone would store. ENOMEM, EINVAL. */
int layout_settle_whole(struct layout *l);

/* From untrusted bytes: bytes is what is at hand, at least the blob; 0 bytes are an
 * empty layout. ECORRUPT says what does not add up, also a piece that is not in its
 * region or overlaps another. ENOMEM. */
int layout_parse(const uint8_t *blob, uint64_t bytes, struct layout **out);
void layout_free(struct layout *l);

#endif
