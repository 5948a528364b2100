/* SPDX-License-Identifier: BSD-3-Clause */
#include "report.h"

#include <inttypes.h>
#include <math.h>

#include "json.h"
#include "report_elastic.h"
#include "report_load.h"

static const char *const start_text[START_KINDS] = {"first", "restart", "nodes replaced"};
static const char *const start_key[START_KINDS] = {"first", "restart", "replace"};

#define MIB 1048576.0
#define LOAD_NOTED 0.5 /* runnable processes before the run began */

static void row(FILE *f, const char *name, const char *unit, const struct series *s)
{
	struct summary sum = series_summary(s);
	int digits = unit[0] == 'u' ? 1 : 5;

	if (s->count)
		fprintf(f, "  %-24s %12.*f %12.*f %12.*f  %s\n", name, digits, sum.median, digits,
		        sum.min, digits, sum.max, unit);
}

static void print_times(FILE *f, const struct results *r)
{
	char name[32];

	fprintf(f, "  %-24s %12s %12s %12s\n", "", "median", "min", "max");
	row(f, "call", "us", &r->protect.call_us);
	row(f, "copy", "s", &r->protect.copy_s);
	row(f, "protect", "s", &r->protect.protect_s);
	row(f, "restore, nothing lost", "s", &r->restore_s);
	for (uint32_t i = 1; i <= LOST_MAX; i++) {
		snprintf(name, sizeof(name), "rebuild, %" PRIu32 " lost", i);
		row(f, name, "s", &r->rebuild_s[i]);
	}
	for (int i = 0; i < START_KINDS; i++) {
		snprintf(name, sizeof(name), "open, %s", start_text[i]);
		row(f, name, "s", &r->open_s[i]);
	}
	for (int i = 0; i < START_KINDS; i++) {
		snprintf(name, sizeof(name), "seal, %s", start_text[i]);
		row(f, name, "s", &r->seal_s[i]);
	}
}

static void limit_row(FILE *f, const char *name, const struct limit *l)
{
	if (!isnan(l->sum))
		fprintf(f, "  %-24s %12.2f %12.2f\n", name, l->sum, l->rank);
}

static void floor_row(FILE *f, const char *name, const struct floor_result *r)
{
	const struct floor_time *t = &r->time;

	if (t->overlap > 0)
		fprintf(f, "  %-22s %9.4f %9.4f %9.4f %9.4f %9.4f %9.4f %7.0f%%\n", name, t->copy,
		        t->checksum, t->verify, t->mpi, t->encode, t->all, 100 * r->reached);
}

static void print_limits(FILE *f, const struct results *r)
{
	char name[32];

	fprintf(f, "\n  %-24s %12s %12s\n", "limits, GB/s", "all ranks", "one rank");
	limit_row(f, "memcpy", &r->limits.copy);
	limit_row(f, "checksum", &r->limits.checksum);
	limit_row(f, "verify", &r->limits.verify);
	limit_row(f, "mpi", &r->limits.mpi);
	limit_row(f, "encode", &r->limits.encode);
	fprintf(f, "\n  %-22s %9s %9s %9s %9s %9s %9s %8s\n", "floor, s", "copy", "checksum",
	        "verify", "mpi", "encode", "all", "reached");
	floor_row(f, "protect", &r->protect_floor);
	floor_row(f, "restore, nothing lost", &r->restore_floor);
	for (uint32_t i = 1; i <= LOST_MAX; i++) {
		snprintf(name, sizeof(name), "rebuild, %" PRIu32 " lost", i);
		floor_row(f, name, &r->rebuild_floor[i]);
	}
	fprintf(f, "  all: the sum over the %.2f CPUs that work for a rank at a time\n",
	        r->protect_floor.time.overlap);
}

void report_table(FILE *f, const struct args *a, const struct world *w, const struct results *r)
{
	fprintf(f, "\n%u ranks on %u nodes, %.2f MiB each in %u regions; groups of %u nodes, "
	        "%u may be lost\nblocks of %u KiB, window %u, %u copy threads; %u CPUs for %u "
	        "ranks; %u repetitions\n\n",
	        w->size, w->nodes, (double)a->bytes / MIB, a->regions, r->stats.group_nodes,
	        r->stats.parity, r->stats.block_bytes / 1024, r->stats.window,
	        r->stats.copy_threads, w->cpus, w->host_ranks, a->repeat);
	if (r->load_before > LOAD_NOTED)
		fprintf(f, "note: the machine was busy before (load %.1f): times mean little\n\n",
		        r->load_before);
	print_times(f, r);
	print_limits(f, r);
	report_load_table(f, a, r);
	report_elastic_table(f, a, r);
	fprintf(f, "\n  memory held: %.3f times the state, budget %.3f\n"
	        "  memory beyond state and arenas: %.1f MiB of a rank, budget 64 MiB\n",
	        r->held_ratio, r->held_budget, (double)r->rss_extra_bytes / MIB);
	if (r->verified)
		fprintf(f, "  verified: yes, %.2f MiB compared\n", (double)r->verified_bytes / MIB);
	else
		fprintf(f, "  verified: NO, %" PRIu64 " bytes wrong\n", r->wrong_bytes);
}

/* An object of those members that were measured. */
static void json_rebuilds(FILE *f, const struct series *s)
{
	const char *before = "";

	fputs("  \"rebuild_s\": {", f);
	for (uint32_t i = 1; i <= LOST_MAX; i++) {
		if (s[i].count == 0)
			continue;
		fprintf(f, "%s\"%" PRIu32 "\": ", before, i);
		json_series(f, &s[i]);
		before = ", ";
	}
	fputs("},\n", f);
}

static void json_starts(FILE *f, const char *key, const struct series *s)
{
	const char *before = "";

	fprintf(f, "  \"%s\": {", key);
	for (int i = 0; i < START_KINDS; i++) {
		if (s[i].count == 0)
			continue;
		fprintf(f, "%s\"%s\": ", before, start_key[i]);
		json_series(f, &s[i]);
		before = ", ";
	}
	fputs("},\n", f);
}

static void json_limit(FILE *f, const char *name, const struct limit *l, const char *after)
{
	char key[64];

	fputs("    ", f);
	snprintf(key, sizeof(key), "%s_GBps", name);
	json_double(f, key, l->sum, ", ");
	snprintf(key, sizeof(key), "%s_GBps_per_rank", name);
	json_double(f, key, l->rank, after);
}

static void json_limits(FILE *f, const struct results *r)
{
	fputs("  \"limits\": {\n", f);
	json_limit(f, "memcpy", &r->limits.copy, ",\n");
	json_limit(f, "encode", &r->limits.encode, ",\n");
	json_limit(f, "checksum", &r->limits.checksum, ",\n");
	json_limit(f, "verify", &r->limits.verify, ",\n");
	json_limit(f, "mpi", &r->limits.mpi, "\n  },\n");
}

static void json_floor(FILE *f, const struct floor_time *t)
{
	fputs("{", f);
	json_double(f, "copy", t->copy, ", ");
	json_double(f, "checksum", t->checksum, ", ");
	json_double(f, "verify", t->verify, ", ");
	json_double(f, "mpi", t->mpi, ", ");
	json_double(f, "encode", t->encode, ", ");
	json_double(f, "overlap", t->overlap, ", ");
	json_double(f, "all", t->all, "}");
}

static void json_floors(FILE *f, const struct results *r)
{
	fputs("  \"floor_s\": ", f);
	json_floor(f, &r->protect_floor.time);
	fputs(",\n  ", f);
	json_double(f, "of_floor", r->protect_floor.reached, ",\n");
	if (r->restore_floor.time.overlap > 0) {
		fputs("  \"restore_floor_s\": ", f);
		json_floor(f, &r->restore_floor.time);
		fputs(",\n  ", f);
		json_double(f, "of_restore_floor", r->restore_floor.reached, ",\n");
	}
}

static void json_rebuild_floors(FILE *f, const struct results *r)
{
	const char *before = "";
	char key[16];

	fputs("  \"rebuild_floor_s\": {", f);
	for (uint32_t i = 1; i <= LOST_MAX; i++) {
		if (r->rebuild_floor[i].time.overlap <= 0)
			continue;
		fprintf(f, "%s\"%" PRIu32 "\": ", before, i);
		json_floor(f, &r->rebuild_floor[i].time);
		before = ",\n    ";
	}
	fputs("},\n  \"of_rebuild_floor\": {", f);
	before = "";
	for (uint32_t i = 1; i <= LOST_MAX; i++) {
		if (r->rebuild_floor[i].time.overlap <= 0)
			continue;
		fputs(before, f);
		snprintf(key, sizeof(key), "%" PRIu32, i);
		json_double(f, key, r->rebuild_floor[i].reached, "");
		before = ", ";
	}
	fputs("},\n", f);
}

static void json_settings(FILE *f, const struct args *a, const struct world *w,
                          const struct results *r)
{
	fprintf(f, "  \"library\": \"%d.%d.%d\",\n", FTMEM_VERSION_MAJOR, FTMEM_VERSION_MINOR,
	        FTMEM_VERSION_PATCH);
	json_setting(f, "ranks", w->size);
	json_setting(f, "nodes", w->nodes);
	json_setting(f, "hosts", w->hosts);
	json_setting(f, "ranks_on_host", w->host_ranks);
	json_setting(f, "cpus_on_host", w->cpus);
	json_setting(f, "bytes", a->bytes);
	json_setting(f, "regions", a->regions);
	fputs("  ", f);
	json_double(f, "load_before", r->load_before, ",\n");
	json_setting(f, "repeat", a->repeat);
	json_setting(f, "groups", r->stats.groups);
	json_setting(f, "group_nodes", r->stats.group_nodes);
	json_setting(f, "parity", r->stats.parity);
	json_setting(f, "block_bytes", r->stats.block_bytes);
	json_setting(f, "window", r->stats.window);
	json_setting(f, "copy_threads", r->stats.copy_threads);
}

void report_json(FILE *f, const struct args *a, const struct world *w, const struct results *r)
{
	fputs("{\n", f);
	json_settings(f, a, w, r);
	json_member(f, "call_us", &r->protect.call_us);
	json_member(f, "copy_s", &r->protect.copy_s);
	json_member(f, "protect_s", &r->protect.protect_s);
	json_rebuilds(f, r->rebuild_s);
	json_member(f, "restore_s", &r->restore_s);
	json_starts(f, "open_s", r->open_s);
	json_starts(f, "seal_s", r->seal_s);
	json_setting(f, "held_bytes", r->held_bytes);
	fputs("  ", f);
	json_double(f, "held_ratio", r->held_ratio, ",\n  ");
	json_double(f, "held_budget", r->held_budget, ",\n");
	json_setting(f, "rss_extra_bytes", r->rss_extra_bytes);
	json_limits(f, r);
	json_floors(f, r);
	json_rebuild_floors(f, r);
	report_load_json(f, a, r);
	report_elastic_json(f, a, r);
	json_setting(f, "verified_bytes", r->verified_bytes);
	fprintf(f, "  \"verified\": %s\n}\n", r->verified ? "true" : "false");
}
