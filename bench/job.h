/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The job under measurement, through the public API. All functions are
 * collective; those that return bool have told stderr why when it is false.
 * Times are in seconds, of the slowest rank. Also a rank that is idle calls them.
 */
#ifndef BENCH_JOB_H
#define BENCH_JOB_H

#include <stdbool.h>

#include "state.h"
#include "world.h"

struct job {
	const struct world *world;
	const struct ftmem_opts *opts;
	struct state *state;
	bool idle;         /* this rank takes no part: the library is not called */
	struct ftmem *ft;
	uint64_t version;  /* the newest one committed, 0: none */
	uint64_t wrong;    /* bytes that a restore got wrong, of this rank */
};

bool job_open(struct job *j, double *open_s);
/* Registers the state and seals. */
bool job_seal(struct job *j, double *seal_s);
/* Accepts one that is not open. */
void job_stop(struct job *j);

struct job_protect_times {
	double call, copy, protect;
};
/* Fills the state anew and snapshots it, until committed. */
bool job_protect(struct job *j, struct job_protect_times *out);

/* The first restore of a new job: there must be nothing. */
bool job_restore_nothing(struct job *j);
/*
 * Restores into garbage and compares. False too if another version than the last
 * one came back or a byte is wrong. lost: whether nodes were lost, which the
 * library must have noticed.
 */
bool job_restore(struct job *j, bool lost, double *restore_s);

/* Before job_seal() or after: nothing is stored any more. */
bool job_forget(struct job *j);
/* Zeros if idle. */
bool job_stats(struct job *j, struct ftmem_stats *out);

#endif
