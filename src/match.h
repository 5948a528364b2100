/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who stores what of the boxes that several ranks registered: what the owner of a
 * tensor's name decides from the claims of all ranks. Pure; allocates.
 *
 * A claim is a box of a tensor, held by a number of ranks of one group. The owner cuts
 * the boxes of a tensor into cells, so that each box is a union of cells and no two
 * cells overlap: a box that overlaps no other is a cell itself. A cell that R ranks
 * hold is cut into S shares of near-equal bytes: S = R, or fewer where shares would
 * become smaller than MATCH_SHARE_MIN. If fewer, the shares are dealt to the groups in
 * turn, as evenly as can be, beginning with a group that follows from the tensor's
 * name and the cell's place, and likewise to the ranks in a group, so that small tensors
 * and cells spread over ranks.
 * All follows from the claims alone, not from their order.
 */
#ifndef FTMEM_MATCH_H
#define FTMEM_MATCH_H

#include "tensor.h"

#define MATCH_SHARE_MIN (UINT64_C(64) << 10)
/* Cells of one tensor whose boxes overlap partly, at most. Pairs of such boxes, and cells
 * counted for each distinct box that they lie in: 16 times as many. */
#define MATCH_CELLS_MAX 65536u

struct match_claim {
	struct tensor tensor; /* global */
	struct box box;
	uint32_t group;       /* of the ranks that hold it */
};

/* The record that is sent to tensor_owner(). ENOMEM. */
int match_claim_put(struct bytes *b, const struct match_claim *claim);

struct match;

int match_new(struct match **out);
void match_free(struct match *m);
/* A record and how many ranks sent it, numbered in order. EINVAL: no claim. ENOMEM. */
int match_add(struct match *m, const uint8_t *record, uint32_t bytes, uint32_t count);
/* After the last add. ENOMEM. What is wrong with a tensor is told in the answers. */
int match_solve(struct match *m);
/* The answer to record number i, appended. ENOMEM. */
int match_answer(const struct match *m, uint32_t i, struct bytes *out);

/* A cell of a rank's box, as read from the answer. */
struct match_cell {
	struct box box;
	uint32_t holders;  /* R */
	uint32_t ordinal;  /* of this rank among them: 0 .. holders - 1, each once */
	uint32_t shares;   /* S */
	uint32_t share;    /* this rank's: 0 .. shares - 1, each once; UINT32_MAX: none */
};
/* Reads an answer for the index-th of the ranks that sent the record; one of 0 bytes
 * stands for an owner out of memory: ENOMEM. *cells, in no particular order, is the
 * caller's to free. EINVAL: other ranks registered the tensor with another shape or
 * element size, or its boxes overlap too much (MATCH_CELLS_MAX): says so, and names
 * the tensor; ENET: the answer makes no sense. ENOMEM. */
int match_read(const struct match_claim *claim, const uint8_t *answer, uint32_t bytes,
               uint32_t index, struct match_cell **cells, uint32_t *count);

/* The boxes of a share, in row-major order; how many, 0 if it is none. */
uint32_t match_share(const struct match_cell *cell, struct box out[BOX_RANGE_MAX]);

#endif
