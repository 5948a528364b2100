/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From stored boxes to boxes that are asked for: what the owner of a tensor's name
 * finds from what all ranks say. Pure; allocates.
 *
 * Two kinds of record come to the owner (tensor_owner()): a piece that is stored, and a
 * box that is wanted. The answer to a wanted box is the list of its parts: each lies in
 * one stored piece, together they are the box, and no two overlap. What a rank wants and
 * another holds it then orders from there with a third kind of record, sent straight to
 * the holder's agent; so both know what goes from one to the other, and in which order.
 */
#ifndef FTMEM_PLAN_H
#define FTMEM_PLAN_H

#include "tensor.h"

struct plan_stored {
	struct tensor tensor;
	struct box box;
	uint32_t agent;  /* rank of the present job that has it at hand */
	uint32_t rank;   /* old rank whose slot holds it */
	uint32_t piece;  /* of that rank's layout */
};
struct plan_wanted {
	struct tensor tensor;
	struct box box;
};

/* Records for the owner. ENOMEM. */
int plan_stored_put(struct bytes *b, const struct plan_stored *s);
int plan_wanted_put(struct bytes *b, const struct plan_wanted *w);

struct plan;

int plan_new(struct plan **out);
void plan_free(struct plan *p);
/* A record of either kind, numbered in order. EINVAL: none of these. ENOMEM. */
int plan_add(struct plan *p, const uint8_t *record, uint32_t bytes);
/* After the last add. ENOMEM. What cannot be had is told in the answers. */
int plan_solve(struct plan *p);
/* The answer to record number i, appended: nothing for a stored one. ENOMEM. */
int plan_answer(const struct plan *p, uint32_t i, struct bytes *out);

/* What this owner knows to be stored and in no wanted box. */
#define PLAN_EXAMPLE (FTMEM_REGION_NAME_MAX + BOX_TEXT + 48)
struct plan_unwanted {
	uint64_t bytes;    /* UINT64_MAX: so many or more */
	uint32_t tensors;  /* of which at least one element is */
	uint32_t privates; /* private regions, likewise */
	/* The first by name, tensors before private regions: `tensor "w" [256:512, 0:8]`, a
	 * box of it that is stored but not wanted; `tensor "w"` if nothing of it is wanted;
	 * `private region "rng" of rank 3`; "" if there is none. */
	char example[PLAN_EXAMPLE];
};
/* After plan_solve(). Exact if no answer tells a fault. ENOMEM. */
int plan_unwanted(const struct plan *p, struct plan_unwanted *out);

/* Part of a wanted box, and where it is. */
struct plan_part {
	struct box box;
	uint32_t agent, rank, piece;
};
/*
 * Reads the answer to w. *parts is the caller's to free, by agent, rank, piece, box.
 * ELAYOUT names the tensor and: it is not stored; it is with another element size or
 * shape (which); not all of the box is stored (names a part that is missing). ECORRUPT:
 * stored pieces overlap or differ in shape. ENET: the answer makes no sense; that ranks
 * are below their number is for the caller to check. ENOMEM, also for an empty answer:
 * its owner had none.
 */
int plan_read(const struct plan_wanted *w, const uint8_t *answer, uint32_t bytes,
              struct plan_part **parts, uint32_t *count);

/* What a rank orders from an agent. */
struct plan_order {
	uint32_t to;          /* the rank that wants it */
	uint32_t rank, piece; /* old rank and piece of its layout */
	struct box box;       /* within the piece */
};
int plan_order_put(struct bytes *b, const struct plan_order *o);
/* ENET: it makes no sense. */
int plan_order_get(const uint8_t *record, uint32_t bytes, struct plan_order *out);
/* By to, rank, piece, box: the order in which both ends send and take; for qsort(). */
int plan_order_compare(const struct plan_order *a, const struct plan_order *b);

#endif
