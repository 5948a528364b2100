/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line of ftmem_bench. Pure: prints nothing, ends nothing. */
#ifndef BENCH_ARGS_H
#define BENCH_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARGS_REPEAT_MAX 999
#define ARGS_LOSE_MAX 64

struct args {
	uint64_t bytes;          /* state of each rank */
	uint32_t regions;        /* that the state is cut into */
	uint32_t parity, group;  /* 0: as the library decides */
	uint32_t ranks_per_node; /* 0: nodes as launched */
	uint32_t repeat;
	uint32_t replicas;       /* ranks with the same state */
	bool compare, with_load, reshape; /* whether to measure these too */
	bool lose_given;
	uint32_t lose_count;     /* 0 with lose_given: lose none */
	uint32_t lose[ARGS_LOSE_MAX];
	const char *json;        /* NULL: none; points into argv */
};

enum args_result { ARGS_RUN, ARGS_HELP, ARGS_WRONG };

/* ARGS_WRONG: text says which option is wrong and what it takes. */
enum args_result args_parse(int argc, char **argv, struct args *out, char *text, size_t bytes);

/* Its parts in order; NULL: no more. */
const char *args_help(unsigned part);

#endif
