/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of a plan share: the owner's, plan.c and plan_unwanted.c, and plan_read.c,
 * of those that ask. */
#ifndef FTMEM_PLAN_IMPL_H
#define FTMEM_PLAN_IMPL_H

#include "overlap.h"
#include "plan.h"

/* A record begins with one of these. */
enum kind { KIND_STORED = 1, KIND_WANTED = 2 };

/* An answer begins with one of these. */
enum verdict {
	VERDICT_PARTS = 1, /* the parts, as many as there are */
	VERDICT_ABSENT,    /* nothing more */
	VERDICT_UNLIKE,    /* the tensor as it is stored */
	VERDICT_MISSING,   /* a box that is not stored */
	VERDICT_OVERLAP,   /* old rank and piece, of two */
	VERDICT_MIXED,     /* the same: they are of different shapes */
};

/* ENOMEM, said of a name. */
int plan_no_memory(const char *name);

/* --- the owner's part --- */

struct source {
	uint32_t agent, rank, piece;
};

/* All that is said about one name. */
struct group {
	struct tensor tensor; /* first: the key. As it is stored, if it is */
	struct group *next;
	uint32_t wanted; /* the last wanted box: its number + 1, 0: none */
	uint32_t pieces, room;
	struct box *box;       /* [pieces] that are stored */
	struct source *source; /* [pieces] */
	enum verdict fault;    /* of what is stored: of pieces a and b */
	uint32_t a, b;
	struct overlap_index *index; /* of box, if it is wanted and has no fault */
};

struct wanted {
	const struct group *group;
	uint32_t before; /* the wanted box of the group before it, as in group */
	uint32_t elem_bytes;
	uint64_t shape[FTMEM_MAX_DIMS];
	struct box box;
};

#define NOT_WANTED UINT32_MAX

struct plan {
	void *tree;          /* of groups, see tsearch() */
	struct group *first; /* all of them, owned */
	struct wanted *wanted;
	uint32_t *number; /* [records] of what is wanted, or NOT_WANTED */
	uint32_t records, wanteds, record_room, wanted_room;
};

/* Its tensor is as what is stored. */
bool plan_fits(const struct wanted *w);
/* Elements of b that are stored; the group has an index. */
uint64_t plan_covered(const struct group *g, const struct box *b);
/* Grows b upward, one dimension after the other, up to the end of bounds or the first of
 * the others, which index is of. None of them meets b, which lies in bounds. */
void plan_grow(const struct overlap_index *index, const struct box *other, const struct box *bounds,
               struct box *b);

#endif
