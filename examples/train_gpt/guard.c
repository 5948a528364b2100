/* SPDX-License-Identifier: BSD-3-Clause */
#include "guard.h"

#include <stdio.h>
#include <time.h>

#define DRAIN_MS 30000u

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int report(const struct guard *g, const char *what, int result)
{
	if (g->rank == 0)
		fprintf(stderr, "train_gpt: %s: %s: %s\n", what, ftmem_strerror(result),
		        ftmem_errmsg());
	return result;
}

int guard_open(struct guard *g, const struct args *args, int rank)
{
	struct ftmem_opts opts = FTMEM_OPTS_INIT;
	int result;

	*g = (struct guard){.rank = rank};
	if (!args->protect)
		return FTMEM_OK;
	opts.job = args->job;
	opts.parity = (uint32_t)args->parity;
	opts.private_rule = FTMEM_PRIVATE_DROP; /* with another number of ranks */
	if (args->quiet)
		opts.log_level = FTMEM_LOG_WARN;
	result = ftmem_open(&opts, &g->ft);
	return result < 0 ? report(g, "cannot protect the training", result) : FTMEM_OK;
}

static int region_add(struct guard *g, const struct ftmem_region *region)
{
	int result = g->ft ? ftmem_region_add(g->ft, region) : FTMEM_OK;

	if (result < 0)
		fprintf(stderr, "train_gpt: rank %d: %s\n", g->rank, ftmem_errmsg());
	return result;
}

int guard_tensor(struct guard *g, const struct guard_box *box)
{
	struct ftmem_region region = FTMEM_REGION_INIT;

	region.name = box->name;
	region.addr = box->addr;
	region.bytes = (uint64_t)box->count * box->columns * box->elem_bytes;
	region.elem_bytes = (uint32_t)box->elem_bytes;
	region.ndim = box->columns > 1 ? 2 : 1;
	region.shape[0] = box->rows;
	region.shape[1] = box->columns;
	region.start[0] = box->first;
	region.extent[0] = box->count;
	region.extent[1] = box->columns;
	return region_add(g, &region);
}

int guard_private(struct guard *g, const char *name, void *addr, size_t bytes)
{
	struct ftmem_region region = FTMEM_REGION_INIT;

	region.name = name;
	region.addr = addr;
	region.bytes = bytes;
	return region_add(g, &region);
}

int guard_restore(struct guard *g, uint64_t *version)
{
	int result;

	if (!g->ft)
		return FTMEM_FRESH;
	result = ftmem_seal(g->ft);
	if (result < 0)
		return report(g, "cannot take the memory for snapshots", result);
	result = ftmem_restore(g->ft, version);
	return result < 0 ? report(g, "cannot restore", result) : result;
}

static void warn(struct guard *g, const char *what, uint64_t version, int result)
{
	if (!g->failed++)
		fprintf(stderr, "train_gpt: warning: rank %d: %s of version %llu: %s: %s; "
		        "training goes on\n", g->rank, what, (unsigned long long)version,
		        ftmem_strerror(result), ftmem_errmsg());
}

void guard_snapshot(struct guard *g, uint64_t version)
{
	double start = now();
	int result;

	if (!g->ft)
		return;
	result = ftmem_snapshot(g->ft, version, NULL);
	g->lost_s += now() - start;
	if (result < 0)
		warn(g, "snapshot", version, result);
	else if (result == FTMEM_OK)
		g->last = version; /* else skipped: the stats count it */
}

void guard_fence(struct guard *g)
{
	double start = now();
	int result;

	if (!g->ft)
		return;
	result = ftmem_fence(g->ft, NULL);
	g->lost_s += now() - start;
	if (result < 0)
		warn(g, "fence", g->last, result);
}

void guard_drain(struct guard *g)
{
	int result;

	if (!g->ft || !g->last)
		return;
	result = ftmem_wait(g->ft, g->last, DRAIN_MS);
	if (result < 0)
		warn(g, "wait", g->last, result);
}

void guard_stats(struct guard *g, struct ftmem_stats *out)
{
	*out = (struct ftmem_stats)FTMEM_STATS_INIT;
	if (g->ft && ftmem_stats(g->ft, out) < 0)
		*out = (struct ftmem_stats)FTMEM_STATS_INIT;
}

void guard_close(struct guard *g)
{
	ftmem_close(g->ft);
	g->ft = NULL;
}
