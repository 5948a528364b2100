/* SPDX-License-Identifier: BSD-3-Clause */
#include "json.h"

#include <inttypes.h>
#include <math.h>

void json_number(FILE *f, double x)
{
	if (isfinite(x))
		fprintf(f, "%.9g", x);
	else
		fputs("null", f);
}

void json_series(FILE *f, const struct series *s)
{
	struct summary sum = series_summary(s);

	fputs("{\"min\": ", f);
	json_number(f, sum.min);
	fputs(", \"median\": ", f);
	json_number(f, sum.median);
	fputs(", \"max\": ", f);
	json_number(f, sum.max);
	fputs("}", f);
}

void json_member(FILE *f, const char *key, const struct series *s)
{
	fprintf(f, "  \"%s\": ", key);
	json_series(f, s);
	fputs(",\n", f);
}

void json_double(FILE *f, const char *key, double x, const char *after)
{
	fprintf(f, "\"%s\": ", key);
	json_number(f, x);
	fputs(after, f);
}

void json_setting(FILE *f, const char *key, uint64_t value)
{
	fprintf(f, "  \"%s\": %" PRIu64 ",\n", key, value);
}
