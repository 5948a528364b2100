/* SPDX-License-Identifier: BSD-3-Clause */
/* Results of trainers beside snapshots, and of threads at rest. */
#ifndef BENCH_REPORT_LOAD_H
#define BENCH_REPORT_LOAD_H

#include <stdio.h>

#include "results.h"

void report_load_table(FILE *f, const struct args *a, const struct results *r);
/* Lines of the outermost object. */
void report_load_json(FILE *f, const struct args *a, const struct results *r);

#endif
