/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The regions a rank registers, and the layout they are frozen into.
 *
 * A layout is the ordered list of the regions with their offsets in the slot's
 * data. Its serialised form (docs/formats.md) is itself the first piece of that
 * data, so that it is copied, checksummed and protected like the rest:
 *
 *     slot data = [ blob | region 0 | region 1 | ... ], each 64-byte aligned
 *
 * A rank without regions has no slot data at all, and no blob.
 */
#ifndef FTMEM_REGION_H
#define FTMEM_REGION_H

#include "ftmem.h"

#define LAYOUT_ALIGN 64
/* Slot data of one rank at most, so that sums of sizes never overflow. */
#define LAYOUT_DATA_MAX (UINT64_C(1) << 48)

/* The open set, changed by add and remove. Not thread safe. */
struct region_set;

int region_set_new(struct region_set **out);
void region_set_free(struct region_set *set);
/* EINVAL names the region and what is wrong: null, zero size, a name that is
 * missing, too long or taken, a box that does not fit. ENOMEM. */
int region_set_add(struct region_set *set, const struct ftmem_region *r);
int region_set_remove(struct region_set *set, const char *name);
uint32_t region_set_count(const struct region_set *set);

struct layout_entry {
	char *name;
	void *addr;      /* NULL in a parsed layout */
	uint64_t offset; /* in the slot's data */
	uint64_t bytes;
	uint32_t elem_bytes, ndim;
	uint64_t shape[FTMEM_MAX_DIMS], start[FTMEM_MAX_DIMS], extent[FTMEM_MAX_DIMS];
};

/* Names to entries: a hash table of positions, open addressing. */
struct name_index {
	uint32_t *place; /* [mask + 1] position + 1, 0: free */
	uint32_t mask;
};

/* Frozen, immutable; any thread may read. Made by freeze or parse alone. */
struct layout {
	uint32_t count;
	struct layout_entry *entry; /* in order of registration */
	uint8_t *blob;              /* serialised form, owned; NULL if parsed or empty */
	uint64_t blob_bytes;        /* multiple of 64; 0 if count is 0 */
	uint64_t data_bytes;        /* D: blob and regions with padding; 0 if count is 0 */
	uint64_t digest;            /* of the blob; equal layouts have equal digests */
	struct name_index index;    /* of entry, for layout_find() */
	char *names;                /* owned: what the entries' names point into */
};

/* The set may be changed or freed afterwards. EINVAL: more than LAYOUT_DATA_MAX
 * bytes. ENOMEM. */
int layout_freeze(const struct region_set *set, struct layout **out);
/* From untrusted bytes: bytes is what is at hand, at least the blob; 0 bytes are an
 * empty layout. ECORRUPT says what does not add up. ENOMEM. */
int layout_parse(const uint8_t *blob, uint64_t bytes, struct layout **out);
void layout_free(struct layout *l);
/* NULL if there is none. */
const struct layout_entry *layout_find(const struct layout *l, const char *name);
/* ELAYOUT names the first entry of want that stored lacks or holds otherwise. */
int layout_covers(const struct layout *stored, const struct layout *want);

#endif
