/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Jobs that are made up: tensors whose content follows from their names, and the boxes
 * of them that each rank has.
 */
#ifndef FTMEM_TEST_ELASTIC_H
#define FTMEM_TEST_ELASTIC_H

#include "fabric.h"
#include "layout.h"
#include "plan.h"

#define ELASTIC_RANKS   12u
#define ELASTIC_TENSORS 6u
#define ELASTIC_BOXES   8u /* of one tensor, of one rank */
#define ELASTIC_REGIONS (ELASTIC_TENSORS * ELASTIC_BOXES + 1)

enum sharding_kind { SHARDING_GRID, SHARDING_CYCLIC, SHARDING_RANDOM, SHARDING_KINDS };

/* How the ranks of a job share a tensor. */
struct sharding {
	enum sharding_kind kind;
	uint64_t seed;
	uint32_t dim[2], cut[2]; /* GRID: the box of rank r is number r % (cuts) of the grid */
	uint64_t halo;           /* GRID: reaches so far over its neighbours in dim[0] */
	uint32_t blocks;         /* CYCLIC: along dim[0], dealt to the ranks in turn */
	uint32_t absent;         /* a rank that has none of it, or no rank */
};

struct elastic_region {
	struct tensor tensor;
	struct box box;
	uint64_t bytes;
	uint8_t *memory;
	/* When restored: */
	uint32_t number; /* of its record */
	struct plan_part *part;
	uint32_t parts;
	uint8_t *hits; /* of each byte: how often it was written */
};

struct elastic_rank {
	uint32_t regions;
	struct elastic_region region[ELASTIC_REGIONS];
	struct layout *layout;
	uint8_t *slot;
};

struct elastic_job {
	uint32_t ranks;
	struct elastic_rank *rank;
};

void sharding_random(struct sharding *s, const struct tensor *t, uint32_t ranks, uint64_t *random);
uint32_t sharding_boxes(const struct sharding *s, const struct tensor *t, uint32_t rank,
                        uint32_t ranks, struct box out[ELASTIC_BOXES]);

void tensor_random(struct tensor *t, uint32_t number, uint64_t *random);
uint64_t tensor_elements(const struct tensor *t);
/* The bytes of one element. */
void tensor_element(const struct tensor *t, uint64_t index, uint8_t *bytes);
/* Calls each for every element of b in row-major order, with its index in the tensor. */
void tensor_walk(const struct tensor *t, const struct box *b,
                 void (*each)(void *arg, uint64_t index), void *arg);

void elastic_init(struct elastic_job *job, uint32_t ranks);
void elastic_deinit(struct elastic_job *job);
/* The tensor called "rng" that is private to a rank. */
void elastic_private(struct tensor *t, uint32_t home);
/* Its memory is filled with the tensor's content, or with poison. */
void elastic_add(struct elastic_rank *r, const struct tensor *t, const struct box *b, bool filled);
/* The layout of all its regions, not settled. */
void elastic_freeze(struct elastic_rank *r);
/* Piece number p of the layout of old rank home, but for the agent. */
void elastic_stored(const struct layout *l, uint32_t home, uint32_t p, struct plan_stored *out);
/* Whether its memory is what it must be. */
bool elastic_good(const struct elastic_region *g);

#endif
