/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The bytes of a plan that lie on devices, cut into bands. A band is some rows of blocks:
 * what is contiguous in a region and in the slot's chunk becomes one run of up to
 * megabytes, while the blocks of early bands are complete long before the last. Pure.
 */
#ifndef FTMEM_COPY_BANDS_H
#define FTMEM_COPY_BANDS_H

#include "copy.h"

/* Runs of staged parts begin at multiples of this in device memory. */
#define BAND_ALIGN 256

/* Neighbouring bytes, in one region and in the slot's data. */
struct band_run {
	uint8_t *addr;       /* of the region */
	uint64_t offset;     /* in the slot's data */
	uint64_t bytes;
};

/* What one device has of a band. */
struct band_part {
	int device;
	uint32_t first, count;  /* runs */
	uint64_t bytes;
	uint64_t stage_bytes;   /* the same with each run padded to BAND_ALIGN */
};

struct band {
	uint32_t block_end;     /* in the plan's order: one past its last block */
	uint32_t first, count;  /* parts, by device; none: all its blocks are in host memory */
};

/* Immutable. */
struct copy_bands {
	uint32_t bands, parts, runs;
	struct band *band;
	struct band_part *part;
	struct band_run *run;
	uint32_t *early;        /* blocks with pieces in host memory, growing */
	uint32_t earlies;
	int device[DEVICE_MAX]; /* that have parts, growing */
	uint32_t devices;
	uint64_t device_bytes;
};

/*
 * Bands of as few rows as have that many bytes. The first one has a sixteenth, and each
 * further one twice as many, up to that: who works on what bands bring begins early. ENOMEM.
 */
int copy_bands_new(const struct copy_plan *plan, uint64_t band_bytes, struct copy_bands **out);
void copy_bands_free(struct copy_bands *b); /* accepts NULL */
/* What the device has of the band, NULL if nothing. */
const struct band_part *copy_bands_part(const struct copy_bands *b, uint32_t band, int device);

/*
 * The first band from which on to stage: as many bands from the end as leave at least
 * direct_bytes of the device's bytes before them, and whose parts fit into `room` bytes of
 * staging. b->bands: none.
 */
uint32_t copy_bands_split(const struct copy_bands *b, int device, uint64_t direct_bytes,
                          uint64_t room);

#endif
