/* SPDX-License-Identifier: BSD-3-Clause */
/* What the measurements have in common. All functions are collective; those that
 * return bool have told stderr why when it is false. */
#ifndef BENCH_RUN_IMPL_H
#define BENCH_RUN_IMPL_H

#include "run.h"
#include "usage.h"

struct run {
	const struct world *world;
	const struct args *args;
	const struct ftmem_opts *opts;
	const struct opts *resolved;
	struct results *results;
	struct state state;
	struct job job;
	struct node node;
	struct usage usage;
};

/* Opens and watches the SMP. */
bool run_open(struct run *r, double *open_s);
/* The same, and seals. */
bool run_start(struct run *r, double *open_s, double *seal_s);
/* Snapshots: two that are not timed, in which memory is watched, then the timed ones. */
bool run_protect(struct run *r, const char *what, struct protect_results *out);
/* The end of the job, and of all that it holds. */
void run_drop(struct run *r);

#endif
