/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The open set of the regions a rank registers, changed by add and remove, until it is
 * frozen into a layout (layout.h). Not thread safe.
 */
#ifndef FTMEM_REGION_H
#define FTMEM_REGION_H

#include "box.h"
#include "device.h"
#include "ftmem.h"

/* Slot data of one rank at most, so that sums of sizes never overflow. */
#define REGION_DATA_MAX (UINT64_C(1) << 48)

struct region {
	char *name;           /* owned */
	void *addr;
	uint64_t bytes;
	uint32_t elem_bytes;  /* 0 if private */
	uint64_t shape[FTMEM_MAX_DIMS];
	struct box box;       /* of the tensor called name; ndim 0: private to the rank */
	int device;           /* DEVICE_HOST, or the number of the one that holds it */
};

struct region_set;

int region_set_new(struct region_set **out);
void region_set_free(struct region_set *set);
/*
 * EINVAL names the region and what is wrong: null, zero size, a name that is missing,
 * too long or taken, a shape without ndim, a box that does not fit. A name is taken if
 * another region has it, unless both are boxes of one tensor that do not overlap. ENOMEM.
 */
int region_set_add(struct region_set *set, const struct ftmem_region *r, int device);
/* All of that name. EINVAL: there is none. */
int region_set_remove(struct region_set *set, const char *name);
uint32_t region_set_count(const struct region_set *set);
/* In order of registration: begin with *at = 0; NULL: no more. Valid until the next add
 * or remove. */
const struct region *region_set_next(const struct region_set *set, uint32_t *at);

/* What is wrong with a region's size and box, in text or constant, NULL if nothing: for
 * those that are read from a layout too. */
#define REGION_FAULT (BOX_TEXT + 384)
const char *region_fault(const struct region *r, char text[REGION_FAULT]);
/* Both are boxes, and their tensors have the same elements and shape. */
bool region_same_tensor(const struct region *a, const struct region *b);

#endif
