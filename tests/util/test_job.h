/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The arenas of a whole job in one process, on memfds, and an oracle: data that follows
 * from rank and version, parity and checksums computed by the plain reference codec.
 */
#ifndef FTMEM_TEST_JOB_H
#define FTMEM_TEST_JOB_H

#include "slot.h"

#define TEST_JOB_RANKS 16
#define TEST_JOB_BLOCK 4096u

struct test_job_spec {
	uint32_t nodes, parity;
	uint32_t ranks_on[TEST_JOB_RANKS];     /* by node; 0: one */
	uint64_t data_bytes[TEST_JOB_RANKS];   /* by rank; ranks are numbered node by node */
};

struct test_job {
	struct map *map;
	uint32_t ranks;
	uint64_t data_bytes[TEST_JOB_RANKS];
	struct arena *arena[TEST_JOB_RANKS];
};

/* One group of all nodes. Arenas are zeroed memory. */
void test_job_init(struct test_job *job, const struct test_job_spec *spec);
void test_job_deinit(struct test_job *job);
/* The same for ranks' sizes that are known later than the map. */
struct map *test_job_map(const struct test_job_spec *spec);
/* A new arena of rank; the caller frees it. */
struct arena *test_job_arena(const struct map *map, const uint64_t *data_bytes, uint32_t rank);

/* The data of rank at that version: deterministic, random-looking. */
void test_job_data(uint32_t rank, uint64_t version, uint8_t *data, uint64_t bytes);

/* Parity block row of rail r's stripe, from the data of all members: len is that of
 * rail_parity_len(). data: [r->n], by member; NULL counts as zeros. */
void test_job_parity(const struct rail *r, uint32_t stripe, uint32_t parity_row, uint32_t row,
                     const uint8_t *const *data, uint8_t *out);

/* Fills a slot of rank's shape as a snapshot does: data, parity, all checksums, but not
 * the header. */
void test_job_fill(const struct slot *slot, uint32_t rank, uint64_t version);
/* Whether it is filled so, byte by byte; describes the first difference on stderr. */
bool test_job_filled(const struct slot *slot, uint32_t rank, uint64_t version);
/* The same without parity and its checksums. */
bool test_job_data_filled(const struct slot *slot, uint32_t rank, uint64_t version);

/* Tells leak checkers that memory was given up on purpose. */
void test_job_given_up(const void *memory);
/* What this thread allocates from now on may be given up on purpose, or not any more. */
void test_job_may_give_up(bool may);

#endif
