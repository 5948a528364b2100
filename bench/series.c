/* SPDX-License-Identifier: BSD-3-Clause */
#include "series.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void series_add(struct series *s, double value)
{
	if (s->count < SERIES_MAX)
		s->value[s->count++] = value;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct summary series_summary(const struct series *s)
{
	double sorted[SERIES_MAX];
	uint32_t n = s->count;

	if (n == 0)
		return (struct summary){NAN, NAN, NAN};
	memcpy(sorted, s->value, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), ascending);
	return (struct summary){
		sorted[0],
		(sorted[(n - 1) / 2] + sorted[n / 2]) / 2,
		sorted[n - 1],
	};
}
