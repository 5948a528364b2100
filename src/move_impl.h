/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What move.c and move_plan.c share: the state of a move. move_plan.c finds where the
 * parts of all regions are and who wants what from this rank, move.c moves them.
 */
#ifndef FTMEM_MOVE_IMPL_H
#define FTMEM_MOVE_IMPL_H

#include "layout.h"
#include "move.h"
#include "plan.h"
#include "transfer.h"

/* A region that is asked for, and where its parts are. */
struct wish {
	const struct region *region;
	struct plan_wanted wanted;
	uint32_t number;         /* of its record */
	struct plan_part *part;  /* owned */
	uint32_t parts;
};

/* A part of a wish, in the order in which it comes. */
struct delivery {
	const struct wish *wish;
	const struct plan_part *part;
};

struct move {
	struct rescue *r;
	struct ftmem *ft;
	struct layout **stored;        /* [r->members] of each member's slot */
	struct bytes record;           /* the one in hand */
	struct wish *wish;
	uint32_t wishes;
	struct delivery *delivery;     /* by agent, then the order of plan_order_compare() */
	uint32_t deliveries;
	struct plan_order *order;      /* of other ranks from this one, in that order */
	uint32_t orders;
	struct transfer_part *part;    /* of all streams */
	struct transfer_stream *out, *in;
	uint32_t outs, ins;
	struct plan_unwanted unwanted; /* of the names that this rank owns */
};

/* Of a piece of a stored layout, as plan.h names it. */
struct box move_piece_box(const struct layout *l, const struct layout_piece *p);
/* The slot that holds a piece, and its layout; NULL if this rank has no such. */
const struct slot *move_find_piece(const struct move *v, uint32_t rank, uint32_t piece,
                                   const struct layout **layout);

/* Collective. Fills all of v up to orders; what is not asked for is told on rank 0.
 * Results as move_restore(), the same on all ranks. */
int move_plan(struct move *v);

#endif
