/* SPDX-License-Identifier: BSD-3-Clause */
/* ftmem_bench: what libftmem costs, beside what the machine could do. */
#include <errno.h>
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "report.h"
#include "run.h"

#define EXPIRE_S 120 /* of memory that a killed bench leaves behind */

/* Whether this process speaks for all, before MPI can tell. */
static bool speaks(void)
{
	static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK",
	                                    "SLURM_PROCID"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		const char *rank = getenv(names[i]);

		if (rank)
			return strcmp(rank, "0") == 0;
	}
	return true;
}

/* The job's name is the same on all ranks and no other run's. */
static void name_job(char *name, size_t bytes)
{
	uint64_t id = (uint64_t)getpid();

	MPI_Bcast(&id, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
	snprintf(name, bytes, "bench-%" PRIu64, id);
}

/* A file beside the one asked for, renamed when complete. */
static int json_open(const struct world *w, const char *path, char *part, size_t bytes, FILE **f)
{
	*f = NULL;
	if (!path || w->rank != 0 || strcmp(path, "-") == 0)
		return 0;
	if ((size_t)snprintf(part, bytes, "%s.part", path) >= bytes)
		return error_set(FTMEM_EINVAL, "--json: the name is too long");
	*f = fopen(part, "we");
	return *f ? 0 : error_sys(FTMEM_ESYS, errno, "--json: cannot write %s", part);
}

static int json_close(const char *path, const char *part, FILE *f)
{
	int bad = ferror(f);

	if (fclose(f) != 0 || bad || rename(part, path) != 0) {
		unlink(part);
		return error_set(FTMEM_ESYS, "--json: writing %s failed", path);
	}
	return 0;
}

static int report(const struct world *w, const struct args *a, const struct results *r,
                  const char *part, FILE *f)
{
	if (w->rank != 0)
		return 0;
	if (a->json && !f) {
		report_json(stdout, a, w, r);
	} else {
		report_table(stdout, a, w, r);
	}
	if (fflush(stdout) != 0)
		return error_sys(FTMEM_ESYS, errno, "cannot write to standard output");
	if (f)
		report_json(f, a, w, r);
	return f ? json_close(a->json, part, f) : 0;
}

static bool bench(const struct world *w, const struct args *a, const struct ftmem_opts *opts,
                  const struct opts *resolved)
{
	struct results *results = calloc(1, sizeof(*results));
	char part[OPTS_PATH_MAX];
	FILE *f = NULL;
	bool done = false;

	if (!world_check(w, results ? 0 : FTMEM_ENOMEM, "the results")
	    || !world_check(w, json_open(w, a->json, part, sizeof(part), &f), "options"))
		goto out;
	if (run_all(w, a, opts, resolved, results)) {
		done = world_check(w, report(w, a, results, part, f), "report")
		       && results->verified && results->shares_right;
	} else if (f) {
		fclose(f);
		unlink(part);
	}
out:
	free(results);
	return done;
}

/* Node name from the options, then who is where. */
static bool place(struct world *w, const struct args *a, struct ftmem_opts *opts, char *node,
                  size_t bytes, struct opts *resolved)
{
	int rank, result;

	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	if (a->ranks_per_node) {
		snprintf(node, bytes, "node%" PRIu32, (uint32_t)rank / a->ranks_per_node);
		opts->node = node;
	}
	result = opts_resolve(opts, resolved);
	*w = (struct world){.rank = (uint32_t)rank};
	if (!world_check(w, result, "options"))
		return false;
	return world_init(w, resolved->node);
}

int main(int argc, char **argv)
{
	struct ftmem_opts opts = FTMEM_OPTS_INIT;
	static struct opts resolved;
	struct args args;
	struct world world;
	char text[512], job[FTMEM_NAME_MAX + 1], node[FTMEM_NAME_MAX + 1];
	int level;
	bool done = false;

	switch (args_parse(argc, argv, &args, text, sizeof(text))) {
	case ARGS_HELP:
		for (unsigned i = 0; speaks() && args_help(i); i++)
			fputs(args_help(i), stdout);
		return 0;
	case ARGS_WRONG:
		if (speaks())
			fprintf(stderr, "ftmem_bench: %s\n", text);
		return 2;
	case ARGS_RUN:
		break;
	}
	if (MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level) != MPI_SUCCESS)
		return 1;
	node_guard_init();
	name_job(job, sizeof(job));
	opts.job = job;
	opts.parity = args.parity;
	opts.group_nodes = args.group;
	opts.expire_s = EXPIRE_S;
	/* Of simulated nodes the library warns that they are one machine. */
	if (!getenv("FTMEM_LOG_LEVEL"))
		opts.log_level = args.ranks_per_node ? FTMEM_LOG_ERROR : FTMEM_LOG_WARN;
	if (place(&world, &args, &opts, node, sizeof(node), &resolved))
		done = bench(&world, &args, &opts, &resolved);
	MPI_Finalize();
	return done ? 0 : 1;
}
