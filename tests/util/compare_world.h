/* SPDX-License-Identifier: BSD-3-Clause */
/* Ranks of one process that share cells of tensors, each with its regions in memory. */
#ifndef FTMEM_TEST_COMPARE_WORLD_H
#define FTMEM_TEST_COMPARE_WORLD_H

#include "compare.h"
#include "fake_net.h"

#define COMPARE_WORLD_RANKS   6u
#define COMPARE_WORLD_TENSORS 12u
#define COMPARE_WORLD_LINE    1100 /* longer than any line */

/* A cell that some ranks hold, in the middle of a region twice as wide. */
struct shared {
	const char *name;
	struct box box;
	uint32_t elem_bytes, holders; /* holders: bits of ranks */
};

struct part {
	struct net *net;
	struct fake_net *f;
	struct layout layout;
	struct region region[COMPARE_WORLD_TENSORS];
	struct share_cell cell[COMPARE_WORLD_TENSORS];
	uint32_t tensor[COMPARE_WORLD_TENSORS]; /* of each region */
	struct compare *compare;
	/* For tests that name what differs: what is to fail; what came of it. */
	bool fails, no_route, no_record;
	uint32_t timeout_ms;
	int rc;
	uint32_t lines;
	char text[COMPARE_TEXT], line[COMPARE_WORLD_LINE];
};

struct world {
	struct fake_net *f;
	uint32_t ranks;
	struct part part[COMPARE_WORLD_RANKS];
};

/* Replicas are equal; what is not shared differs from rank to rank. */
void world_init(struct world *w, uint32_t ranks, const struct shared *s, uint32_t count);
void world_deinit(struct world *w);
/* Flips a bit of a byte of the tensor's cell in one rank. */
void world_flip(struct world *w, uint32_t rank, uint32_t tensor, uint64_t at, uint8_t bit);
/* Takes all checksums; the sum of all ranks' words. */
uint64_t world_word(struct world *w);

#endif
