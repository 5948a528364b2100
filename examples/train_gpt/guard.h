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

/* Rows of a tensor that all ranks have in common, of rows x columns numbers; with one
 * column it is a vector. Those that several ranks register are equal on all. */
struct guard_box {
	const char *name;
	void *addr;
	size_t elem_bytes, rows, columns;
	size_t first, count; /* the rows at addr */
};

/* Collective. Results are libftmem's; errors are printed by rank 0. */
int guard_open(struct guard *g, const struct args *args, int rank);
/* Local; errors are printed by any rank. */
int guard_tensor(struct guard *g, const struct guard_box *box);
/* What is of this rank alone. */
int guard_private(struct guard *g, const char *name, void *addr, size_t bytes);
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
