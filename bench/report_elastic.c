/* SPDX-License-Identifier: BSD-3-Clause */
#include "report_elastic.h"

#include <inttypes.h>
#include <math.h>

#include "json.h"

#define MIB 1048576.0

static const char *const shape_text[SHAPES] = {"rows", "rotated", "columns",
                                               "grid", "whole",   "fewer"};

static double median(const struct series *s)
{
	return series_summary(s).median;
}

/* GB/s of all ranks while regions were filled. */
static double rate(const struct shape_results *s, uint64_t bytes)
{
	return (double)bytes / median(&s->fill_s) / 1e9;
}

/* --- for people --- */

static void bytes_row(FILE *f, const char *name, double alone, double shared, double ratio)
{
	if (!isnan(ratio))
		fprintf(f, "  %-24s %12.2f %12.2f %12.5f\n", name, alone / MIB, shared / MIB,
		        ratio);
}

static void times_row(FILE *f, const char *name, const struct series *before,
                      const struct series *after)
{
	fprintf(f, "  %-24s %12.5f %12.5f %12.5f\n", name, median(before), median(after),
	        median(after) / median(before));
}

static void print_shares(FILE *f, const struct args *a, const struct results *r)
{
	const struct protect_results *one = &r->alone, *all = &r->protect;
	char title[48];

	snprintf(title, sizeof(title), "%" PRIu32 " replicas, MiB a rank", a->replicas);
	fprintf(f, "\n  %-24s %12s %12s %12s\n", title, "alone", "shared", "ratio");
	bytes_row(f, "registered", one->bytes.registered, all->bytes.registered,
	          r->shares.registered);
	bytes_row(f, "stored", one->bytes.stored, all->bytes.stored, r->shares.stored);
	bytes_row(f, "arena", one->bytes.arena, all->bytes.arena, r->shares.arena);
	bytes_row(f, "sent for a version", one->bytes.sent, all->bytes.sent, r->shares.sent);
	times_row(f, "copy, s", &one->copy_s, &all->copy_s);
	times_row(f, "protect, s", &one->protect_s, &all->protect_s);
	fprintf(f, "  stored, arena and sent are 1/%" PRIu32 " within 1%%: %s\n", a->replicas,
	        !r->shares_checked ? "not checked, the state is too small"
	        : r->shares_right  ? "yes"
	                           : "NO");
}

static void print_compared(FILE *f, const struct results *r)
{
	const struct protect_results *c = r->compared;

	fprintf(f, "\n  %-24s %12s %12s %12s\n", "replicas compared, s", "not", "compared",
	        "ratio");
	times_row(f, "copy", &c[0].copy_s, &c[1].copy_s);
	times_row(f, "protect", &c[0].protect_s, &c[1].protect_s);
}

static void print_shapes(FILE *f, const struct results *r)
{
	fprintf(f, "\n  %-14s %10s %10s %10s %10s %10s %10s %8s\n", "stored as rows", "restore,",
	        "fill,", "filled,", "of that", "filled,", "moved,", "of");
	fprintf(f, "  %-14s %10s %10s %10s %10s %10s %10s %8s\n", "restored as", "s", "s", "MiB",
	        "moved, MiB", "GB/s", "GB/s", "same");
	for (int i = 0; i < SHAPES; i++) {
		const struct shape_results *s = &r->shape[i];

		if (s->restore_s.count == 0)
			fprintf(f, "  %-14s not possible with these ranks and nodes\n",
			        shape_text[i]);
		else
			fprintf(f, "  %-14s %10.5f %10.5f %10.2f %10.2f %10.2f %10.2f %7.0f%%\n",
			        shape_text[i], median(&s->restore_s), median(&s->fill_s),
			        (double)s->filled / MIB, (double)s->moved / MIB, rate(s, s->filled),
			        rate(s, s->moved), 100 * s->of_same);
	}
}

void report_elastic_table(FILE *f, const struct args *a, const struct results *r)
{
	if (a->replicas > 1)
		print_shares(f, a, r);
	if (a->compare)
		print_compared(f, r);
	if (a->reshape)
		print_shapes(f, r);
}

/* --- for programs --- */

static void json_protect(FILE *f, const struct protect_results *p, const char *after)
{
	fputs("\"copy_s\": ", f);
	json_series(f, &p->copy_s);
	fputs(", \"protect_s\": ", f);
	json_series(f, &p->protect_s);
	fputs(after, f);
}

static void json_bytes(FILE *f, const struct rank_bytes *b, const char *suffix, const char *after)
{
	const struct {
		const char *key;
		double value;
	} all[] = {{"registered", b->registered},
	           {"stored", b->stored},
	           {"arena", b->arena},
	           {"sent", b->sent}};
	const char *before = "";

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		fprintf(f, "%s\"%s%s\": ", before, all[i].key, suffix);
		json_number(f, all[i].value);
		before = ", ";
	}
	fputs(after, f);
}

static void json_shares(FILE *f, const struct args *a, const struct results *r)
{
	fprintf(f, "  \"shares\": {\"replicas\": %" PRIu32 ",\n    \"alone\": {", a->replicas);
	json_bytes(f, &r->alone.bytes, "_bytes", ",\n      ");
	json_protect(f, &r->alone, "},\n    \"shared\": {");
	json_bytes(f, &r->protect.bytes, "_bytes", ",\n      ");
	json_protect(f, &r->protect, "},\n    ");
	json_bytes(f, &r->shares, "_ratio", ",\n");
	fprintf(f, "    \"checked\": %s, \"right\": %s},\n", r->shares_checked ? "true" : "false",
	        r->shares_right ? "true" : "false");
}

static void json_compared(FILE *f, const struct results *r)
{
	fputs("  \"compare\": {\n    \"off\": {", f);
	json_protect(f, &r->compared[0], "},\n    \"on\": {");
	json_protect(f, &r->compared[1], "}},\n");
}

static void json_shape(FILE *f, const char *name, const struct shape_results *s)
{
	fprintf(f,
	        ",\n    \"%s\": {\"ranks\": %" PRIu32 ", \"filled_bytes\": %" PRIu64
	        ", \"moved_bytes\": %" PRIu64 ",\n      \"restore_s\": ",
	        name, s->ranks, s->filled, s->moved);
	json_series(f, &s->restore_s);
	fputs(",\n      \"fill_s\": ", f);
	json_series(f, &s->fill_s);
	fputs(",\n      ", f);
	json_double(f, "filled_GBps", rate(s, s->filled), ", ");
	json_double(f, "moved_GBps", rate(s, s->moved), ", ");
	json_double(f, "of_same", s->of_same, "}");
}

static void json_shapes(FILE *f, const struct args *a, const struct results *r)
{
	fprintf(f,
	        "  \"reshape\": {\"tensors\": %" PRIu32 ", \"element_bytes\": 8, "
	        "\"shape\": [%" PRIu64 ", %" PRIu64 "]",
	        a->regions, r->tensor.shape[0], r->tensor.shape[1]);
	for (int i = 0; i < SHAPES; i++)
		if (r->shape[i].restore_s.count > 0)
			json_shape(f, shape_text[i], &r->shape[i]);
	fputs("},\n", f);
}

void report_elastic_json(FILE *f, const struct args *a, const struct results *r)
{
	if (a->replicas > 1)
		json_shares(f, a, r);
	if (a->compare)
		json_compared(f, r);
	if (a->reshape)
		json_shapes(f, a, r);
}
