/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the fuzz targets share. A target is a file fuzz_<name>.c with the two functions
 * below; libFuzzer makes inputs for it (run.sh), and replay.c runs those that are kept in
 * corpus/<name> as a test of every build.
 */
#ifndef FTMEM_FUZZ_H
#define FTMEM_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* If a target has one. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed);
/* Writes inputs from which to begin, all of them sensible, with fuzz_seed(). */
void fuzz_seeds(const char *dir);
void fuzz_seed(const char *dir, const char *name, const void *data, size_t size);

#define FUZZ_REQUIRE(condition)                                                                    \
	((condition) ? (void)0 : fuzz_fail(#condition, __FILE__, __LINE__))
void fuzz_fail(const char *condition, const char *file, int line) __attribute__((noreturn));

/* For LLVMFuzzerCustomMutator(): as libFuzzer does, or moves, swaps or counts up words of the
 * input, which begin at its byte `from`. */
size_t fuzz_mutate(uint8_t *data, size_t size, size_t size_max, unsigned seed, size_t from);

/* What is left of an input: beyond its end all is 0. */
struct fuzz_input {
	const uint8_t *at;
	size_t left;
};
void fuzz_take(struct fuzz_input *in, void *to, size_t bytes);
uint8_t fuzz_u8(struct fuzz_input *in);
uint32_t fuzz_u32(struct fuzz_input *in);
/* One byte for a small number or one at the edge of a range; nine for any. */
uint64_t fuzz_number(struct fuzz_input *in);
/* A copy of the next bytes in memory of exactly that size, to be freed. */
uint8_t *fuzz_copy(struct fuzz_input *in, size_t bytes);
size_t fuzz_least(size_t a, size_t b);

/* Descriptors that are open. */
unsigned fuzz_open_fds(void);

/* Memory that holds a new arena of that job, rank and epoch, not sealed: of 4 nodes with one
 * rank each, slot 0 committed, slot 1 being filled. Any rank and epoch: the header says so. */
#define FUZZ_JOB "job"
int fuzz_arena(uint32_t rank, uint64_t epoch);

#endif
