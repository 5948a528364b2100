/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Each allocation of the library fails in turn on one rank of 3, one per node: while the job is
 * opened, sealed, restored with a node lost, snapshotted and closed. Whatever it was, all ranks
 * get a result, nothing wrong is restored, what was committed stays, and a job that begins anew
 * works. FTMEM_TEST_FULL=1: every allocation; else one of STRIDE, from a random one on.
 */
#include "alloc_fail.h"
#include "cluster.h"
#include "mpi_check.h"

#include <stdlib.h>

/* Before these a rank has not joined the others: a_rank_that_does_not_open in test_refuse.c. */
#define FIRST        3u
#define STRIDE       24u
#define STRIDE_QUICK 64u
/* After which a rank that is out of memory in the midst of a collective step is given up. */
#define PEER_MS      3000u

static struct cluster job;
static const uint32_t odd = 1;
static uint64_t committed;

static struct {
	unsigned again, out_of_step;
} seen;

/* How a collective call ended, on the rank where it ended worst. */
enum ending { GOOD, NO_MEMORY, OUT_OF_STEP };

static enum ending agree(int rc, const char *what)
{
	enum ending mine = rc >= 0 ? GOOD : rc == FTMEM_ENOMEM ? NO_MEMORY : OUT_OF_STEP;
	enum ending worst;

	CHECK_MSG(rc >= 0 || rc == FTMEM_ENOMEM || rc == FTMEM_ENET || rc == FTMEM_ETIMEOUT ||
	                  rc == FTMEM_EDEVICE || rc == FTMEM_ECORRUPT,
	          "%s: %d: %s", what, rc, ftmem_errmsg());
	CHECK_MSG(rc >= 0 || ftmem_errmsg()[0], "%s: %d without a message", what, rc);
	worst = (enum ending)check_max(MPI_COMM_WORLD, (uint64_t)mine);
	/* Without memory for a message a rank cannot tell the others. */
	CHECK_MSG(worst != NO_MEMORY || mine == NO_MEMORY,
	          "%s: %d, but another rank lacks memory", what, rc);
	return worst;
}

static int step_open(void)
{
	return cluster_try_open(&job);
}

static int step_seal(void)
{
	return ftmem_seal(job.ft);
}

static int step_restore(void)
{
	uint64_t got = 0;
	int rc;

	cluster_poison(&job);
	rc = ftmem_restore(job.ft, &got);
	if (rc < 0)
		return rc;
	CHECK_MSG(rc == 0 && got == committed, "%d: version %llu, not %llu", rc,
	          (unsigned long long)got, (unsigned long long)committed);
	cluster_verify(&job, got);
	return rc;
}

/* A step that lacked memory can be taken again. */
static bool step(int (*take)(void), const char *what)
{
	enum ending end = agree(take(), what);

	if (end == NO_MEMORY) {
		seen.again++;
		end = agree(take(), what);
		CHECK_MSG(end != NO_MEMORY, "%s: no memory twice", what);
	}
	seen.out_of_step += end == OUT_OF_STEP;
	return end == GOOD;
}

/* Not collective: what fails changes nothing. */
static void add_regions(void)
{
	for (uint32_t i = 0; i < job.regions; i++) {
		struct ftmem_region d = cluster_describe(&job.region[i]);
		int rc = ftmem_region_add(job.ft, &d);

		if (rc == FTMEM_ENOMEM)
			rc = ftmem_region_add(job.ft, &d);
		CHECK_MSG(rc == 0, "adding a region: %d: %s", rc, ftmem_errmsg());
	}
}

/* What is sealed and restored needs no more memory. */
static void train(void)
{
	for (int i = 0; i < 2; i++) {
		CHECK_RESULT(ftmem_fence(job.ft, NULL), 0);
		cluster_fill(&job, ++committed);
		CHECK_RESULT(ftmem_snapshot(job.ft, committed, NULL), 0);
		CHECK_RESULT(ftmem_wait(job.ft, committed, 30000), 0);
	}
}

static void begin(uint32_t timeout_ms)
{
	MPI_Comm_dup(MPI_COMM_WORLD, &job.comm);
	job.opts.timeout_ms = timeout_ms;
}

/* A job that begins anew, without one of its nodes. */
static void all_is_there(unsigned lost)
{
	cluster_lose(&job, 1u << lost);
	begin(30000);
	cluster_start(&job);
	cluster_restore(&job, committed);
	cluster_close(&job);
}

/* Returns whether there was an n-th allocation. */
static bool lacks_memory_at(unsigned n)
{
	bool hit;

	check_note("allocation %u of rank %u fails", n, odd);
	begin(PEER_MS);
	alloc_fail_at(job.rank == odd ? n : 0);
	if (step(step_open, "opening")) {
		add_regions();
		if (step(step_seal, "sealing") && step(step_restore, "restoring"))
			train();
	}
	ftmem_close(job.ft);
	job.ft = NULL;
	alloc_fail_off();
	hit = check_max(MPI_COMM_WORLD, job.rank == odd && alloc_fail_count() >= n) == 1;
	all_is_there(n % 3);
	return hit;
}

/* As soon as a rank has joined the others it tells them why it cannot go on: none waits for it
 * in vain, and all can try again. */
static void who_lacks_memory_when_it_has_joined_says_so(void)
{
	const uint64_t bytes = 1000;
	int rc;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1");
	cluster_regions(&job, &bytes, 1);
	alloc_fail_at(job.rank == odd ? FIRST : 0);
	rc = cluster_try_open(&job);
	alloc_fail_off();
	CHECK_RESULT(rc, FTMEM_ENOMEM);
	CHECK_MESSAGE(job.rank == odd ? "no memory" : "rank 1 (node");
	cluster_start(&job);
	cluster_deinit(&job);
}

static void any_allocation_may_fail(void)
{
	const uint64_t bytes[] = {70000, 4097};
	unsigned stride = check_full() ? 1 : check_quick() ? STRIDE_QUICK : STRIDE;
	unsigned n = FIRST + (unsigned)(check_seed() % stride);

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1");
	job.opts.copy_threads = 1;
	cluster_regions(&job, bytes, 2);
	cluster_start(&job);
	cluster_commit(&job, 1);
	cluster_close(&job);
	committed = 1;
	while (lacks_memory_at(n))
		n += stride;
	job.comm = MPI_COMM_WORLD;
	cluster_deinit(&job);
	check_say("of %u allocations one of %u failed: %u steps were taken again, %u ended the "
	          "job",
	          n, stride, seen.again, seen.out_of_step);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"who_lacks_memory_when_it_has_joined_says_so",
	         who_lacks_memory_when_it_has_joined_says_so},
		{"any_allocation_may_fail", any_allocation_may_fail},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
