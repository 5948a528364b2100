/* SPDX-License-Identifier: BSD-3-Clause */
#include "report_load.h"

#include <inttypes.h>
#include <math.h>

#include "json.h"

static const char *const trainer_text[TRAINERS][2] = {{"computes", "computes, ceiling"},
                                                      {"sums over ranks", "sums, ceiling"}};
static const char *const trainer_key[TRAINERS] = {"compute", "collective"};
static const char *const ceiling_key[2] = {"free", "ceiling"};

static double median(const struct series *s)
{
	return series_summary(s).median;
}

/* --- for people --- */

static void print_trainer(FILE *f, const char *name, const struct load_results *l)
{
	if (l->alone_s.count == 0)
		return;
	fprintf(f, "  %-18s %10.5f %10.5f %6.1f%% %10.5f %10.5f %10.5f %5.0f%%", name,
	        median(&l->alone_s), median(&l->beside_s), 100 * median(&l->lost),
	        median(&l->lost_s), median(&l->protect_s), median(&l->fence_s),
	        100 * median(&l->busy));
	fprintf(f, " %9" PRIu32 "\n", l->snapshots);
}

static void print_load(FILE *f, const struct results *r)
{
	fprintf(f, "\n  %-18s %10s %10s %7s %10s %10s %10s %6s %9s\n", "trainer that", "alone,",
	        "beside,", "lost", "lost for", "protect,", "fence,", "busy", "snapshots");
	fprintf(f, "  %-18s %10s %10s %7s %10s %10s %10s\n", "", "s a step", "s a step", "",
	        "each, s", "s", "s");
	for (int i = 0; i < TRAINERS; i++)
		for (int capped = 0; capped < 2; capped++)
			print_trainer(f, trainer_text[i][capped], &r->load[i][capped]);
	if (r->load_ceiling)
		fprintf(f, "  ceiling: %.1f MB/s sent by a rank\n", (double)r->load_ceiling / 1e6);
}

void report_load_table(FILE *f, const struct args *a, const struct results *r)
{
	fputs("\n  threads of the library, of a core: ", f);
	if (isnan(r->rest_percent))
		fputs("unknown", f);
	else
		fprintf(f, "%.3f%% at rest", r->rest_percent);
	if (!isnan(r->waiting_percent))
		fprintf(f, ", %.2f%% waiting for a rank", r->waiting_percent);
	fputc('\n', f);
	if (a->with_load)
		print_load(f, r);
}

/* --- for programs --- */

static void json_trainer(FILE *f, const struct load_results *l, const char *key)
{
	const struct {
		const char *key;
		const struct series *series;
	} all[] = {{"alone_s", &l->alone_s}, {"beside_s", &l->beside_s}, {"lost", &l->lost},
	           {"lost_s", &l->lost_s},   {"protect_s", &l->protect_s},
	           {"fence_s", &l->fence_s}, {"busy", &l->busy}};

	fprintf(f, "\"%s\": {\"snapshots\": %" PRIu32, key, l->snapshots);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		fprintf(f, ",\n        \"%s\": ", all[i].key);
		json_series(f, all[i].series);
	}
	fputs("}", f);
}

static void json_load(FILE *f, const struct results *r)
{
	fprintf(f, "  \"load\": {\"ceiling_Bps\": %" PRIu64, r->load_ceiling);
	for (int i = 0; i < TRAINERS; i++) {
		const char *before = "";

		fprintf(f, ",\n    \"%s\": {", trainer_key[i]);
		for (int capped = 0; capped < 2; capped++) {
			if (r->load[i][capped].alone_s.count == 0)
				continue;
			fputs(before, f);
			json_trainer(f, &r->load[i][capped], ceiling_key[capped]);
			before = ",\n      ";
		}
		fputs("}", f);
	}
	fputs("},\n", f);
}

void report_load_json(FILE *f, const struct args *a, const struct results *r)
{
	fputs("  \"idle\": {", f);
	json_double(f, "rest_percent", r->rest_percent, ", ");
	json_double(f, "waiting_percent", r->waiting_percent, "},\n");
	if (a->with_load)
		json_load(f, r);
}
