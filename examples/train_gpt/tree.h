/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sums vectors in the order of one fixed binary tree over their numbers, so that
 * rounding does not depend on how the vectors are shared out between ranks.
 *
 * Leaf i is vector i. A node of level l that starts at s is the sum of the leaves
 * s .. s + 2^l - 1, and s is a multiple of 2^l. A rank that holds a run of leaves
 * reduces it to the fewest nodes (its parts); whoever gets the parts of all ranks
 * in order ends with the same sum, bit for bit, as one rank that has every leaf.
 */
#ifndef TRAIN_TREE_H
#define TRAIN_TREE_H

#include <stddef.h>
#include <stdint.h>

#include "real.h"

#define TREE_PARTS_MAX 64

struct tree_part {
	uint32_t start, level;
};

/* The parts of the leaves first .. end - 1, at most TREE_PARTS_MAX; their number. */
uint32_t tree_split(uint32_t first, uint32_t end, struct tree_part *parts);

struct tree {
	size_t length;                         /* of each vector */
	uint32_t count;
	struct tree_part part[TREE_PARTS_MAX];
	real *sum[TREE_PARTS_MAX + 1];         /* sum[i] belongs to part[i] */
};

void tree_init(struct tree *t, size_t length);
void tree_deinit(struct tree *t);

/* Room for the next vector, content unspecified; NULL without memory. */
real *tree_room(struct tree *t);
/* Takes what was written there as that part; parts come in order of their start. */
void tree_push(struct tree *t, struct tree_part part);
/* Adds up what is there: the sum, valid until the next tree_room(); t is empty. */
const real *tree_finish(struct tree *t);

#endif
