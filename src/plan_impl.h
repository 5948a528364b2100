/* SPDX-License-Identifier: BSD-3-Clause */
/* What the two ends of a plan share: the owner, plan.c, and those that ask, plan_read.c. */
#ifndef FTMEM_PLAN_IMPL_H
#define FTMEM_PLAN_IMPL_H

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

#endif
