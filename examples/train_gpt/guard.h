/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * All that the trainer does with libftmem. Without protection (ft is NULL) every
 * function does nothing, and restoring says that nothing is stored.
 */
#ifndef TRAIN_GUARD_H
#define TRAIN_GUARD_H

#include "args.h"
#include "ftmem.h"

struct guard {
	struct ftmem *ft;
	int rank;
	uint64_t last;   /* version asked for */
	uint64_t failed; /* calls */
	double lost_s;   /* training time given to snapshots */
};

/* Collective. Results are libftmem's; errors are printed by rank 0. */
int guard_open(struct guard *g, const struct args *args, int rank);
/* Local; an error is printed by any rank. */
int guard_region(struct guard *g, const char *name, void *addr, size_t bytes);
/* Collective. Seals the regions and fills them with what is stored. */
int guard_restore(struct guard *g, uint64_t *version);
/* Both never stop the training: what fails is counted, and printed the first time. */
void guard_snapshot(struct guard *g, uint64_t version);
void guard_fence(struct guard *g);
/* Waits for the last version. */
void guard_drain(struct guard *g);
/* Zeroes without protection. */
void guard_stats(struct guard *g, struct ftmem_stats *out);
/* Collective. */
void guard_close(struct guard *g);

#endif
