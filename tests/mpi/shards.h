/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A job whose state is global tensors, cut in some way over its ranks, and a region
 * private to each. Every byte of an element follows from the tensor's name, the element's
 * index in the tensor and the version, so that any rank can fill and verify any box;
 * private bytes follow from the rank. Guards around the arrays show writes beyond them.
 *
 * All ranks of the comm call all functions but those that only draw; the job runs on the
 * first few of them. As with cluster.h, what the library does not do as expected ends the
 * run.
 */
#ifndef FTMEM_TEST_SHARDS_H
#define FTMEM_TEST_SHARDS_H

#include "cluster.h"

#define SHARDS_TENSORS  12
#define SHARDS_ARRAYS   256
#define SHARDS_ELEM_MAX 16 /* bytes */

enum shards_kind {
	SHARDS_WHOLE,   /* data-parallel: every rank has all */
	SHARDS_ZERO1,   /* moments in flat shares, everything else whole */
	SHARDS_ROWS,    /* along the first dimension */
	SHARDS_COLUMNS, /* along the last one, ranks in reverse */
	SHARDS_GRID,    /* blocks on a grid of ranks, 6 = 2 x 3; what has one dimension lies
	                   along the grid's rows, so that its columns hold replicas */
	SHARDS_KINDS,
};
const char *shards_kind_text(enum shards_kind kind);

struct shards_tensor {
	char name[32];
	bool moment;
	uint32_t elem_bytes, ndim;
	uint64_t shape[FTMEM_MAX_DIMS];
};

/* What one region of this rank holds. */
struct shards_array {
	struct ftmem_region region;
	uint8_t *memory; /* with guards */
};

struct shards {
	struct cluster c; /* nodes, options, the handle; its comm: all ranks */
	MPI_Comm part;    /* of the ranks that the job runs on */
	uint32_t ranks;   /* how many: the first ones of the comm */
	struct shards_tensor tensor[SHARDS_TENSORS];
	uint32_t tensors;
	uint64_t private_bytes; /* 0: no private region */
	uint32_t home;          /* rank whose private bytes this rank gets at the next
	                           restore; FTMEM_NO_RANK: they stay */
	struct shards_array array[SHARDS_ARRAYS]; /* of this rank */
	uint32_t arrays;
};

/* A job on all ranks of comm, with no tensors yet, rank i on node i. */
void shards_init(struct shards *s, MPI_Comm comm);
void shards_deinit(struct shards *s);

/* The state of a small model with odd sizes: matrices, their moments, and more. */
void shards_model(struct shards *s);
/* Any tensors. */
void shards_random_model(struct shards *s, uint64_t *random);
uint64_t shards_model_bytes(const struct shards *s);

/* The job's next run is on the first so many ranks. */
void shards_ranks(struct shards *s, uint32_t ranks);
bool shards_runs(const struct shards *s);

/* The arrays of this rank, anew, with nothing in them. */
void shards_shape(struct shards *s, enum shards_kind kind);
/* Each tensor in a way of its own: one of the kinds, or random boxes that one rank or
 * several hold, perhaps besides boxes of other ranks that overlap them partly. If not
 * all, some elements are with no rank. random: the same on all ranks. */
void shards_random_shape(struct shards *s, bool all, uint64_t *random);

/* Or box by box: frees the former arrays and adds the private one, if there is to be one;
 * then adds a box of this rank, which runs, unless it is empty. */
void shards_boxes(struct shards *s);
void shards_box(struct shards *s, const struct shards_tensor *t, const uint64_t *start,
                const uint64_t *extent);

void shards_fill(struct shards *s, uint64_t version);
void shards_poison(struct shards *s);
void shards_verify(const struct shards *s, uint64_t version);

/* As those of cluster.h, on the ranks that run; the others pass them. */
void shards_start(struct shards *s);
void shards_close(struct shards *s);
void shards_commit(struct shards *s, uint64_t version);
void shards_restore(struct shards *s, uint64_t version);
void shards_restore_fails(struct shards *s, int result);
/* Sum of what the ranks store; collective. */
uint64_t shards_stored_bytes(const struct shards *s);

#endif
