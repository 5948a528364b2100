/* SPDX-License-Identifier: BSD-3-Clause */
/* Results of shares and of restores on other shapes; nothing without those options. */
#ifndef BENCH_REPORT_ELASTIC_H
#define BENCH_REPORT_ELASTIC_H

#include <stdio.h>

#include "results.h"

void report_elastic_table(FILE *f, const struct args *a, const struct results *r);
/* Lines of the outermost object. */
void report_elastic_json(FILE *f, const struct args *a, const struct results *r);

#endif
