/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The state a rank protects: memory filled with a pattern in which every 8-byte
 * word follows from its place and the version, so that data of another rank, of
 * another version or from another place is seen as wrong. The place is the rank (of
 * replicas their number) and the offset; or the tensor and the word's index in it.
 */
#ifndef BENCH_STATE_H
#define BENCH_STATE_H

#include <stdint.h>

#include "ftmem.h"

enum state_kind {
	STATE_PRIVATE,  /* regions of the rank alone; id: the rank */
	STATE_REPLICA,  /* tensors that all ranks with the same id hold whole */
	STATE_BOXES,    /* a box of each of some tensors of two dimensions */
};

/* In words of 8 bytes. */
struct state_box {
	uint64_t shape[2], start[2], extent[2];
};

struct state {
	uint8_t *data; /* page-aligned */
	uint64_t bytes;
	enum state_kind kind;
	uint32_t id, regions;
	struct state_box box; /* STATE_BOXES: the same of each tensor */
};

/* STATE_PRIVATE. Memory is touched. ENOMEM, ESYS. */
int state_init(struct state *s, uint64_t bytes, uint32_t regions, uint32_t rank);
/* STATE_BOXES, of as many tensors. The same. */
int state_init_boxes(struct state *s, const struct state_box *box, uint32_t tensors);
void state_deinit(struct state *s);

/* From now on STATE_REPLICA, not STATE_PRIVATE; the content is stale. */
void state_replicate(struct state *s, uint32_t id);

void state_fill(struct state *s, uint64_t version);
/* Garbage that is no version's content. */
void state_poison(struct state *s);
/* Bytes that are not as state_fill(version) left them; *first: offset of the
 * first of them. */
uint64_t state_check(const struct state *s, uint64_t version, uint64_t *first);

/* Region number i, below regions, to be registered; text becomes its name. Of
 * STATE_PRIVATE and STATE_REPLICA regions are uneven and not aligned where their size
 * allows. */
#define STATE_NAME 48
void state_region(const struct state *s, uint32_t i, char text[STATE_NAME],
                  struct ftmem_region *out);

#endif
