/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How a trainer may end, with a version under way. Driven by ending.sh, which looks at
 * the exit status of mpirun. Argument:
 *   return    main returns without ftmem_close(); libftmem initialised MPI
 *   before    MPI_Finalize() comes before ftmem_close()
 *   fail      one rank ends with status 7, the others wait for it
 *   fork      a forked child ends with exit()
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ftmem.h"

#define BYTES (UINT64_C(32) << 20)

static struct ftmem *begin(int *rank)
{
	struct ftmem_opts opts = FTMEM_OPTS_INIT;
	struct ftmem_region region = FTMEM_REGION_INIT;
	struct ftmem *ft = NULL;
	const char *text = getenv("OMPI_COMM_WORLD_RANK");
	static char node[16];
	uint64_t version;

	snprintf(node, sizeof(node), "n%s", text ? text : "0");
	opts.job = "ending";
	opts.node = node;
	region.name = "state";
	region.bytes = BYTES;
	region.addr = calloc(1, BYTES);
	if (!region.addr || ftmem_open(&opts, &ft) != 0 || ftmem_region_add(ft, &region) != 0 ||
	    ftmem_seal(ft) != 0 || ftmem_restore(ft, &version) < 0) {
		fprintf(stderr, "%s\n", ftmem_errmsg());
		exit(1);
	}
	MPI_Comm_rank(MPI_COMM_WORLD, rank);
	return ft;
}

static int fork_and_wait(void)
{
	int status = -1;
	pid_t child = fork();

	if (child == 0)
		exit(0);
	alarm(20); /* a child that does not end ends this */
	return child > 0 && waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	struct ftmem *ft;
	int rank, level;

	if (strcmp(mode, "before") == 0)
		MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
	ft = begin(&rank);
	for (uint64_t version = 1; version <= 3; version++)
		if (ftmem_fence(ft, NULL) != 0 || ftmem_snapshot(ft, version, NULL) < 0)
			return 1;
	if (strcmp(mode, "before") == 0) {
		MPI_Finalize();
		ftmem_close(ft);
	} else if (strcmp(mode, "fail") == 0) {
		if (rank == 0)
			exit(7);
		MPI_Recv(&level, 1, MPI_INT, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	} else if (strcmp(mode, "fork") == 0) {
		int rc = fork_and_wait();

		ftmem_close(ft);
		return rc;
	}
	return 0;
}
