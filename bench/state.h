/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The state a rank protects: memory filled with a pattern in which every 8-byte
 * word follows from rank, version and offset, so that data of another rank, of
 * another version or from another place is seen as wrong.
 */
#ifndef BENCH_STATE_H
#define BENCH_STATE_H

#include <stdint.h>

struct state {
	uint8_t *data; /* page-aligned */
	uint64_t bytes;
	uint32_t rank;
};

/* Memory is touched. ENOMEM, ESYS. */
int state_init(struct state *s, uint64_t bytes, uint32_t rank);
void state_deinit(struct state *s);

void state_fill(struct state *s, uint64_t version);
/* Garbage that is no version's content. */
void state_poison(struct state *s);
/* Bytes that are not as state_fill(version) left them; *first: offset of the
 * first of them. */
uint64_t state_check(const struct state *s, uint64_t version, uint64_t *first);

/* Start of part number i of count; i == count: the end. Parts are uneven and
 * not aligned where their size allows. */
uint64_t state_cut(const struct state *s, uint32_t i, uint32_t count);

#endif
