/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How MPI is there when the job is opened. Argument:
 *   single   the trainer initialised it without MPI_THREAD_MULTIPLE
 *   none     the trainer did not initialise it
 *   world    nor did it, and asks where it is before it opens the job
 *   alone    no launcher: one process
 *   lost     no launcher, but a world size in the environment
 *   late     the trainer finalised it
 */
#include "cluster.h"
#include "mpi_check.h"

#include <stdlib.h>
#include <string.h>

static struct ftmem_opts options(void)
{
	struct ftmem_opts opts = FTMEM_OPTS_INIT;

	opts.job = "launch";
	opts.log = check_log;
	return opts;
}

static void refuses_mpi_without_threads(void)
{
	struct ftmem_opts opts = options();
	struct ftmem *ft = NULL;

	CHECK_RESULT(ftmem_open(&opts, &ft), FTMEM_EINVAL);
	CHECK_MESSAGE("MPI_THREAD_MULTIPLE");
	CHECK(!ft);
}

static void refuses_a_world_that_is_not_there(void)
{
	struct ftmem_world world = FTMEM_WORLD_INIT;
	struct ftmem_opts opts = options();
	struct ftmem *ft = NULL;

	setenv("WORLD_SIZE", "4", 1);
	CHECK_RESULT(ftmem_open(&opts, &ft), FTMEM_EINVAL);
	CHECK_MESSAGE("WORLD_SIZE is 4");
	CHECK_MESSAGE("mpirun -n 4");
	CHECK(!ft);
	CHECK_RESULT(ftmem_world(&world), FTMEM_EINVAL);
	CHECK_MESSAGE("mpirun -n 4");
}

static void stores_and_restores(void)
{
	const uint64_t bytes = 10000;
	struct cluster job;
	char layout[] = "1,1,1";

	layout[2 * check_size() - 1] = '\0';
	cluster_init(&job, MPI_COMM_WORLD, layout);
	cluster_regions(&job, &bytes, 1);
	cluster_start_fresh(&job);
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_lose(&job, check_size() > 1 ? 1 : 0);
	cluster_start(&job);
	cluster_restore(&job, 1);
	cluster_deinit(&job);
}

static void is_alone(void)
{
	struct ftmem_world w = FTMEM_WORLD_INIT;

	CHECK_RESULT(ftmem_world(&w), 0);
	CHECK(w.rank == 0 && w.ranks == 1 && w.local_rank == 0 && w.local_ranks == 1);
	CHECK(strcmp(w.host, "127.0.0.1") == 0 && w.port > 0);
}

/* The library initialises MPI, and finalises it at exit. */
static int initialises_mpi(int argc, char **argv, bool by_world)
{
	struct ftmem_world world = FTMEM_WORLD_INIT;
	struct ftmem_opts opts = options();
	struct ftmem *ft = NULL;
	int level = 0, rc = by_world ? ftmem_world(&world) : 0;

	if (rc == 0)
		rc = ftmem_open(&opts, &ft);
	check_init(&argc, &argv);
	CHECK_RESULT(rc, 0);
	CHECK(!by_world || (world.rank == check_rank() && world.ranks == check_size()));
	MPI_Query_thread(&level);
	CHECK(level == MPI_THREAD_MULTIPLE);
	ftmem_close(ft);
	stores_and_restores();
	check_say("ok initialises_mpi");
	return 0;
}

static int refuses_after_the_end(int argc, char **argv)
{
	struct ftmem_opts opts = options();
	struct ftmem *ft = NULL;
	int rc;

	check_init(&argc, &argv);
	MPI_Finalize();
	rc = ftmem_open(&opts, &ft);
	return rc == FTMEM_EINVAL && strstr(ftmem_errmsg(), "finalised") ? 0 : 1;
}

int main(int argc, char **argv)
{
	static const struct check_case single[] = {
		{"refuses_mpi_without_threads", refuses_mpi_without_threads},
	};
	static const struct check_case lost[] = {
		{"refuses_a_world_that_is_not_there", refuses_a_world_that_is_not_there},
	};
	static const struct check_case alone[] = {
		{"is_alone", is_alone},
		{"stores_and_restores", stores_and_restores},
	};
	const char *mode = argc > 1 ? argv[1] : "";

	if (strcmp(mode, "none") == 0 || strcmp(mode, "world") == 0)
		return initialises_mpi(argc, argv, strcmp(mode, "world") == 0);
	if (strcmp(mode, "late") == 0)
		return refuses_after_the_end(argc, argv);
	if (strcmp(mode, "single") == 0)
		MPI_Init(&argc, &argv);
	check_init(&argc, &argv);
	if (strcmp(mode, "single") == 0)
		return CHECK_RUN(single);
	if (strcmp(mode, "lost") == 0)
		return CHECK_RUN(lost);
	CHECK(strcmp(mode, "alone") == 0);
	return CHECK_RUN(alone);
}
