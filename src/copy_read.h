/* SPDX-License-Identifier: BSD-3-Clause */
/* What a copy thread reads from regions: blocks into a slot, checks of replicas. */
#ifndef FTMEM_COPY_READ_H
#define FTMEM_COPY_READ_H

#include "copy.h"

/*
 * Copies a block of the job into the slot and notes its checksum. The bytes that no piece
 * covers become zero. Of contiguous pieces the checksum is that of the region's
 * bytes: what a write to the region meanwhile tears will not be taken for the state.
 *
 * Of a plan with anything on a device the pieces are in the slot already: the checksum is
 * that of the slot's bytes.
 */
void copy_read_block(const struct copy_job *job, uint32_t index);
/* Of such a plan: copies those of the block's pieces that lie in host memory. */
void copy_read_early(const struct copy_job *job, uint32_t index);

/* Takes one of the job's checks, unless it is of a device's memory. */
void copy_read_check(const struct copy_job *job, uint32_t index);

#endif
