/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the machine can do at the library's block size, with all ranks at once
 * and one thread each.
 */
#ifndef BENCH_LIMIT_H
#define BENCH_LIMIT_H

#include "state.h"
#include "world.h"

/* GB/s (10^9 bytes): the mean of a rank, and all ranks together. NAN if the job
 * has no such work (one node: no parity, no messages). */
struct limit {
	double rank, sum;
};

struct limits {
	struct limit copy;     /* as snapshots copy, to memory out of cache */
	struct limit encode;   /* source bytes read in cache for one parity block out
	                          of it */
	struct limit checksum; /* in cache */
	struct limit verify;   /* checksum of the state, out of cache */
	struct limit mpi;      /* sent from out of cache to the next node, while
	                          receiving as much into it */
};

/* Collective. k data and m parity members; m 0: no parity. ENOMEM. */
int limits_measure(const struct world *w, const struct state *s, uint32_t block_bytes,
                   uint32_t k, uint32_t m, struct limits *out);

#endif
