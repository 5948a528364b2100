/* SPDX-License-Identifier: BSD-3-Clause */
/* The ranks of the run and the nodes they stand for. All functions but
 * world_say() are collective. */
#ifndef BENCH_WORLD_H
#define BENCH_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "ftmem.h"

struct world {
	uint32_t rank, size;
	uint32_t node, nodes;    /* numbered by their lowest rank */
	bool leader;             /* the lowest rank of its node */
	uint32_t shift;          /* ranks of the first node */
	uint32_t hosts;          /* by name; several may be one machine */
	uint32_t host_ranks;     /* of the run, on this machine */
	uint32_t cpus;           /* that those may use, together */
	double cores;            /* CPUs for each rank, the least of all machines */
	char name[FTMEM_NAME_MAX + 1]; /* of the node */
};

/* name: of this rank's node. False if there is no memory, or if ranks of one node
 * are on different machines; stderr was told. */
bool world_init(struct world *w, const char *name);

/* Waits without taking the processor from ranks that still work. */
void world_barrier(void);
double world_max(double x);
double world_sum(double x);
uint64_t world_sum_u64(uint64_t x);

/*
 * True if result is 0 on all ranks. Else the lowest rank where it is not says so
 * on stderr, with what (the call made) and the thread's message.
 */
bool world_check(const struct world *w, int result, const char *what);

/* Rank 0 tells stderr what is being done. */
void world_say(const struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
