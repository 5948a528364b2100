/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One rank of the training. Parameters are replicated; each rank owns a shard of
 * them and of both moments of AdamW. A step:
 *
 *   gradients   each sequence of the batch on one rank, summed in a fixed tree
 *               order (tree.h) by the owner of each shard
 *   update      each rank its shard, then all gather the parameters
 *
 * Between the two the state may be read but is not written: that is when snapshots
 * are taken. The result does not depend on the number of ranks.
 */
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include "args.h"
#include "rng.h"
#include "tree.h"

#define TRAIN_NODE_MAX 64

/* What a restart needs besides parameters and moments; the same on all ranks. */
struct train_state {
	uint64_t step;  /* done */
	uint64_t ranks; /* that did the last one */
	struct rng rng; /* counter: the place in the stream of sequences */
	double loss;    /* running mean */
};

struct trainer {
	const struct args *args;
	int rank, ranks;
	unsigned char *text;
	size_t text_bytes;
	struct model *model;
	size_t parameters, first, count; /* the own shard */
	real *params;                    /* all */
	real *moment1, *moment2;         /* of the shard */
	struct train_state state;
	char node[TRAIN_NODE_MAX];       /* where this rank ran, to tell a move */
	const real *grads;               /* of the shard, after trainer_gradient() */
	struct tree leaves, owned;
	real *outbox, *inbox;
	double *losses;                  /* of the sequences of the batch */
	int *counts;                     /* tables for MPI */
};

/* Prints what fails. MPI must be initialised. */
int trainer_new(const struct args *args, struct trainer **out);
void trainer_free(struct trainer *t); /* accepts NULL */

/* Collective: the gradient of the next batch and its mean loss. */
double trainer_gradient(struct trainer *t);
/* Collective: the optimizer's step. */
void trainer_update(struct trainer *t, double loss);
/* Collective: the state into a file that does not tell the number of ranks. Rank 0
 * writes and prints what fails; all ranks get the result. */
int trainer_dump(struct trainer *t, const char *path);

#endif
