/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Jobs and fills of copy_host() whose blocks another engine brings into the slot, or takes
 * from there, in part: for plans with pieces on devices (copy_plan.on_device).
 *
 * Such a job first copies what of its blocks lies in host memory, then takes its checks of
 * host memory; a fence waits for no more than that. A block is checksummed and lands when
 * it is whole. If the plan has nothing on a device, its blocks are read as of any job, but
 * none before wait() lets it: then all the job is what a fence waits for.
 */
#ifndef FTMEM_COPY_HOST_H
#define FTMEM_COPY_HOST_H

#include "copy.h"

struct copy_arrivals {
	const uint32_t *early; /* blocks with pieces in host memory */
	uint32_t earlies;
	/* Waits until the block's other bytes are in the slot. False: they will not come,
	 * which ends the job as copy_ops.cancel() does. */
	bool (*wait)(void *arg, uint32_t block);
	/* Of a fill: the block fits its checksum, and its pieces in host memory are written. */
	void (*deliver)(void *arg, uint32_t block);
	void *arg;
};

/* As begin() and fill() of copy_host(). What arrivals point to is borrowed until the job,
 * or the fill, is over. Both functions are called on copy threads, without locks held;
 * who cancels makes wait() return. */
int copy_host_begin(struct copy *c, const struct copy_job *job,
                    const struct copy_arrivals *arrivals);
/* After copy_host_begin() with a wait(), which wakes no thread: whoever is awake anyway, and
 * not the trainer's thread, begins the job. */
void copy_host_wake(struct copy *c);
int copy_host_fill(struct copy *c, const struct copy_fill *fill, uint32_t ready,
                   const struct copy_arrivals *arrivals);

#endif
