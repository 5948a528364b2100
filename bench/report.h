/* SPDX-License-Identifier: BSD-3-Clause */
/* Results for people and for programs. The JSON keys are in README.md. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <stdio.h>

#include "results.h"

void report_table(FILE *f, const struct args *a, const struct world *w, const struct results *r);
void report_json(FILE *f, const struct args *a, const struct world *w, const struct results *r);

#endif
