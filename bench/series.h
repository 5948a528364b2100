/* SPDX-License-Identifier: BSD-3-Clause */
/* One number measured several times. */
#ifndef BENCH_SERIES_H
#define BENCH_SERIES_H

#include <stdint.h>

#define SERIES_MAX 999

struct series {
	uint32_t count;
	double value[SERIES_MAX];
};

/* The least, the middle (of an even number: mean of the two in the middle) and
 * the largest; NAN if there is none. */
struct summary {
	double min, median, max;
};

/* Beyond SERIES_MAX values are ignored. */
void series_add(struct series *s, double value);
struct summary series_summary(const struct series *s);

#endif
