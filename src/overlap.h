/* SPDX-License-Identifier: BSD-3-Clause */
/* Which of many boxes overlap, found by a sweep along one dimension. Pure; allocates. */
#ifndef FTMEM_OVERLAP_H
#define FTMEM_OVERLAP_H

#include "box.h"

/* Calls pair for each pair i < j of boxes that have an element in common, until it
 * returns false. box: [count], of one ndim, not empty. ENOMEM. */
int overlap_pairs(const struct box *box, uint32_t count,
                  bool (*pair)(void *arg, uint32_t i, uint32_t j), void *arg);

/* Boxes sorted so that those that meet another one are found without looking at all. */
struct overlap_index;
/* box is borrowed. ENOMEM. */
int overlap_index_new(const struct box *box, uint32_t count, struct overlap_index **out);
void overlap_index_free(struct overlap_index *x);
/* Calls hit for each box that has an element in common with b, in ascending order of its
 * start in the sweep's dimension, until it returns false. */
void overlap_find(const struct overlap_index *x, const struct box *b,
                  bool (*hit)(void *arg, uint32_t i), void *arg);

#endif
