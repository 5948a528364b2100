/* SPDX-License-Identifier: BSD-3-Clause */
/* Ranks with the same state: what shares save, and what comparing replicas costs. All
 * functions are collective; those that return bool have told stderr why when it is false. */
#ifndef BENCH_SHARES_H
#define BENCH_SHARES_H

#include "run_impl.h"

/* EINVAL: options that do not fit the ranks or the library's options. */
int shares_check_options(const struct run *r);
/* The state stored by each rank for itself, then dropped: what shares are compared with.
 * The state is of replicas afterwards. */
bool shares_measure_alone(struct run *r);
/* After both were measured: results.shares, and whether they are right. */
void shares_judge(struct run *r);
/* Begins and ends with the job open and a version stored. */
bool shares_measure_compare(struct run *r);

#endif
