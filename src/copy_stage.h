/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How much of a device's regions goes straight to the host, and how much within the device
 * first: a stream must not wait for a decision of the host, so it is made before the copy
 * begins, from what the copies before it have shown. Pure.
 */
#ifndef FTMEM_COPY_STAGE_H
#define FTMEM_COPY_STAGE_H

#include <stdint.h>

/* Of a device's former copies. */
struct copy_pace {
	double window_s;    /* from a copy's beginning until a stream came to its fence;
	                       INFINITY: the copy was over before; < 0: not known */
	double former_s;    /* the same of the copy before */
	double bytes_per_s; /* of the device to the host; 0: not known */
};
#define COPY_PACE_UNKNOWN ((struct copy_pace){-1, -1, 0})

void copy_stage_learn(struct copy_pace *pace, double window_s);

/* How many of a device's `bytes` are expected to leave it before the fence: 0 if nothing is
 * known, so that all is staged for which there is room. */
uint64_t copy_stage_direct(const struct copy_pace *pace, uint64_t bytes);

#endif
