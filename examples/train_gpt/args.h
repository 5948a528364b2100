/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line. */
#ifndef TRAIN_ARGS_H
#define TRAIN_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "model.h"

struct args {
	struct model_config model;
	uint64_t batch;       /* sequences per step, of all ranks together */
	uint64_t steps, seed;
	uint64_t every;       /* steps between snapshots */
	uint64_t print;       /* steps between lines of progress, 0: none */
	uint64_t pause_ms;    /* between steps, to watch */
	uint64_t die_at;      /* step, 0: never */
	uint64_t die_rank;
	uint64_t parity;      /* 0: the library's default */
	double rate;
	const char *text, *job, *dump; /* dump may be NULL */
	bool protect, quiet, help;
};

/* 0, or -1 with a message that names the argument. Strings are borrowed from argv. */
int args_parse(struct args *out, int argc, char **argv, char *message, size_t bytes);
void args_usage(void);

#endif
