/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The smallest protected job: an array and a step counter in each rank's memory.
 *
 *   mpirun -n 2 01_hello       kill it whenever you like (Ctrl-C, kill -9),
 *   mpirun -n 2 01_hello       and it goes on where it was
 *
 * One machine counts as one node: its memory outlives the program, not the machine.
 * With each rank on a node of its own, nodes may be lost as well.
 */
#include <ftmem.h>
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <unistd.h>

#define CELLS 100000
#define STEPS 100

static struct {
	uint64_t step;
	uint64_t cell[CELLS];
} state; /* what must not be lost */

static int protect(struct ftmem **ft)
{
	struct ftmem_opts opts = FTMEM_OPTS_INIT;
	struct ftmem_region region = FTMEM_REGION_INIT;
	uint64_t version;

	opts.job = "hello"; /* the same name finds the same memory again */
	region.name = "state";
	region.addr = &state;
	region.bytes = sizeof(state);
	if (ftmem_open(&opts, ft) < 0 || ftmem_region_add(*ft, &region) < 0 ||
	    ftmem_seal(*ft) < 0)
		return -1;
	return ftmem_restore(*ft, &version) < 0 ? -1 : 0; /* or FTMEM_FRESH: first start */
}

int main(int argc, char **argv)
{
	struct ftmem *ft = NULL;
	int level, rank, wrong = 0;

	MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	if (protect(&ft) < 0) {
		fprintf(stderr, "rank %d: %s\n", rank, ftmem_errmsg());
		MPI_Abort(MPI_COMM_WORLD, 1);
	}
	if (rank == 0)
		printf("starting at step %" PRIu64 "\n", state.step);
	while (state.step < STEPS) {
		usleep(100000); /* work that only reads the state would be here */
		if (ftmem_fence(ft, NULL) < 0) /* the last snapshot has read it: */
			fprintf(stderr, "rank %d: %s\n", rank, ftmem_errmsg());
		state.step++;                  /* it may be changed */
		for (int i = 0; i < CELLS; i++)
			state.cell[i] += state.step;
		if (ftmem_snapshot(ft, state.step, NULL) < 0) /* > 0: skipped, no harm */
			fprintf(stderr, "rank %d: %s\n", rank, ftmem_errmsg());
		if (rank == 0 && state.step % 10 == 0)
			printf("step %" PRIu64 "\n", state.step);
		fflush(stdout);
	}
	for (int i = 0; i < CELLS; i++)
		wrong += state.cell[i] != STEPS * (STEPS + 1) / 2;
	printf("rank %d: %d of %d cells are wrong\n", rank, wrong, CELLS);
	ftmem_forget(ft); /* the job is done: the next run begins anew */
	ftmem_close(ft);
	MPI_Finalize();
	return wrong != 0;
}
