/* SPDX-License-Identifier: BSD-3-Clause */
/* Pieces of JSON. */
#ifndef BENCH_JSON_H
#define BENCH_JSON_H

#include <stdio.h>

#include "series.h"

/* What is not finite is null: JSON has no NaN. */
void json_number(FILE *f, double x);
/* {"min": .., "median": .., "max": ..} */
void json_series(FILE *f, const struct series *s);
/* "key": x, and what follows */
void json_double(FILE *f, const char *key, double x, const char *after);
/* A line of the outermost object. */
void json_member(FILE *f, const char *key, const struct series *s);
void json_setting(FILE *f, const char *key, uint64_t value);

#endif
