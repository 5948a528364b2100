/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The time of a protect, a restore and a rebuild if every byte that must be moved took
 * what limit.h measured, and nothing waited. Pure.
 */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include "limit.h"

/* For what: bytes of a rank's state, from k members and m parity. */
struct floor_case {
	uint64_t bytes;
	uint32_t k, m; /* k >= 1; m 0: no parity */
	uint32_t copy_threads;
	double cores; /* CPUs a rank has */
};

/* Seconds of one rank on one CPU; of ranks with unequal parts their mean. */
struct floor_time {
	double copy, checksum, verify, mpi, encode;
	double overlap; /* P: CPUs that work for the rank at a time */
	double all;     /* sum / P */
};

struct floor_time floor_protect(const struct floor_case *c, const struct limits *l);
/* With nothing lost. */
struct floor_time floor_restore(const struct floor_case *c, const struct limits *l);
/* Until all redundancy is whole, with 1 to m members of each rail lost. */
struct floor_time floor_rebuild(const struct floor_case *c, const struct limits *l, uint32_t lost);

#endif
