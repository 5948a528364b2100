/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of match share: match.c brings the claims of a tensor together,
 * match_cells.c cuts its boxes into cells, match_deal.c deals a cell to its holders,
 * match_read.c is the part of those who claim.
 */
#ifndef FTMEM_MATCH_IMPL_H
#define FTMEM_MATCH_IMPL_H

#include "match.h"

/* match_cut(): the boxes overlap in too many cells. */
#define MATCH_TOO_MANY   1
/* Of boxes that overlap, at most: pairs, and cells counted for each box they lie in. */
#define MATCH_PLACES_MAX (16 * MATCH_CELLS_MAX)

/* A cell that lies in a box. */
struct match_place {
	uint32_t box, cell;
	uint32_t index; /* of the cell among those of the box */
};

/* The boxes of one tensor, cut. Zeroed is empty. */
struct match_cut {
	struct bytes cell;  /* struct box */
	struct bytes place; /* struct match_place, by box, then cell */
};

/*
 * box: [count], distinct, small ones first: what is cut, and how fast, depends on their
 * order. No two cells overlap, and each box is the union of those that are placed in it.
 * MATCH_TOO_MANY, ENOMEM. *out is the caller's to end in any case.
 */
int match_cut(const struct box *box, uint32_t count, struct match_cut *out);
void match_cut_deinit(struct match_cut *cut);

/* The ranks of one claim as holders of a cell. */
struct match_holder {
	uint32_t group, count; /* at least 1 rank */
	uint64_t part;         /* of the claim: for whoever deals */
	/* Dealt: the ranks have the ordinals from here on; of the shares they take some,
	 * beginning with the rank of index first, the one of index 0 following the last. */
	uint32_t ordinal, share, first, takers;
};

/* holder: [count], in any order; sorts them by group, then part, and deals. */
void match_deal(const struct tensor *t, const struct box *cell, struct match_holder *holder,
                uint32_t count, uint32_t *holders, uint32_t *shares);

/* Begins an answer. */
enum match_verdict {
	MATCH_CELLS = 1,  /* the claim's count, how many cells, and the cells */
	MATCH_UNLIKE = 2, /* a tensor of the same name */
	MATCH_MANY = 3
};

#endif
