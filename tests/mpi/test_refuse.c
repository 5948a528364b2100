/* SPDX-License-Identifier: BSD-3-Clause */
/* Jobs that cannot be opened: 4 ranks, one per node. All ranks learn it, soon. */
#include "cluster.h"
#include "mpi_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* There under ASan only. */
__attribute__((weak)) void __lsan_disable(void);
__attribute__((weak)) void __lsan_enable(void);

static struct cluster job;
static const uint32_t odd = 2; /* the rank that is wrong where one is */

static void init(const char *layout)
{
	const uint64_t bytes = 5000;

	cluster_init(&job, MPI_COMM_WORLD, layout);
	cluster_regions(&job, &bytes, 1);
}

/* After a refusal the same processes open, store and restore. */
static void works_now(void)
{
	cluster_start_fresh(&job);
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_start(&job);
	cluster_restore(&job, 1);
	cluster_deinit(&job);
}

static void refused(int result, const char *message)
{
	CHECK_RESULT(cluster_try_open(&job), result);
	CHECK(!job.ft);
	CHECK_MESSAGE(message);
}

/* One rank is wrong: the others are told which. */
static void refused_for_one(int result, const char *message)
{
	refused(result, job.rank == odd ? message : "rank 2");
}

static void fewer_nodes_than_parity_needs(void)
{
	init("1,1,1,1");
	job.opts.parity = 4;
	refused(FTMEM_EINVAL, "parity 4 needs at least 5 nodes");
	cluster_place(&job, "2,2");
	job.opts.parity = 2;
	refused(FTMEM_EINVAL, "parity 2 needs at least 3 nodes");
	cluster_place(&job, "2,1,1");
	works_now();
}

static void options_out_of_range(void)
{
	static const struct {
		uint32_t parity, group_nodes, block_bytes, window, copy_threads, log_level;
		const char *name;
	} bad[] = {
		{5, 0, 0, 0, 0, 0, "parity"},
		{0, 65, 0, 0, 0, 0, "group_nodes"},
		{0, 1, 0, 0, 0, 0, "group_nodes"},
		{0, 0, 1000, 0, 0, 0, "block_bytes"},
		{0, 0, 8388608, 0, 0, 0, "block_bytes"},
		{0, 0, 0, 17, 0, 0, "window"},
		{0, 0, 0, 0, 65, 0, "copy_threads"},
		{0, 0, 0, 0, 0, 9, "log_level"},
	};

	init("1,1,1,1");
	for (size_t i = 0; i < 2 * sizeof(bad) / sizeof(bad[0]); i++) {
		struct ftmem_opts good = job.opts;
		bool one = i % 2;

		check_note("%s, %s", bad[i / 2].name, one ? "one rank" : "all ranks");
		if (!one || job.rank == odd) {
			job.opts.parity = bad[i / 2].parity;
			job.opts.group_nodes = bad[i / 2].group_nodes;
			job.opts.block_bytes = bad[i / 2].block_bytes;
			job.opts.window = bad[i / 2].window;
			job.opts.copy_threads = bad[i / 2].copy_threads;
			job.opts.log_level = bad[i / 2].log_level;
		}
		if (one)
			refused_for_one(FTMEM_EINVAL, bad[i / 2].name);
		else
			refused(FTMEM_EINVAL, bad[i / 2].name);
		job.opts = good;
	}
	works_now();
}

static void names_that_are_none(void)
{
	static const char *const bad[] = {
		"a b", "../x",
		"a/b", ".hidden",
		"-x",  "caf\xc3\xa9",
		"a\n", "0123456789012345678901234567890123456789012345678901234567890123",
	};
	char own[sizeof(job.job)];

	init("1,1,1,1");
	memcpy(own, job.job, sizeof(own));
	job.job[0] = '\0';
	unsetenv("FTMEM_JOB");
	refused(FTMEM_EINVAL, "job");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct ftmem_opts opts = job.opts;

		check_note("name \"%s\"", bad[i]);
		opts.comm = &job.comm;
		opts.job = job.rank == odd || i % 2 ? bad[i] : own;
		opts.node = job.node[job.node_of[job.rank]];
		CHECK_RESULT(ftmem_open(&opts, &job.ft), FTMEM_EINVAL);
		CHECK_MESSAGE(job.rank == odd || i % 2 ? "job" : "rank 2");
		opts.job = own;
		opts.node = job.rank == odd ? bad[i] : opts.node;
		CHECK_RESULT(ftmem_open(&opts, &job.ft), FTMEM_EINVAL);
		CHECK_MESSAGE(job.rank == odd ? "node" : "rank 2");
	}
	memcpy(job.job, own, sizeof(own));
	works_now();
}

static void structs_that_are_none(void)
{
	struct {
		struct ftmem_opts opts;
		uint64_t more;
	} longer;

	init("1,1,1,1");
	job.opts.size = job.rank == odd ? 0 : sizeof(job.opts);
	refused_for_one(FTMEM_EINVAL, "FTMEM_OPTS_INIT");
	job.opts.size = sizeof(job.opts);
	longer.opts = job.opts;
	longer.opts.size = sizeof(longer);
	longer.opts.job = job.job;
	longer.opts.node = job.node[job.node_of[job.rank]];
	longer.opts.comm = &job.comm;
	longer.more = job.rank == odd;
	CHECK_RESULT(ftmem_open(&longer.opts, &job.ft), FTMEM_EINVAL);
	longer.more = 0;
	CHECK_RESULT(ftmem_open(&longer.opts, &job.ft), 0);
	cluster_close(&job);
	works_now();
}

static void options_that_differ(void)
{
	static const char *const name[] = {"parity", "group_nodes", "block_bytes", "job"};

	init("1,1,1,1");
	for (uint32_t i = 0; i < 4; i++) {
		struct ftmem_opts good = job.opts;
		char own[sizeof(job.job)];

		check_note("%s", name[i]);
		memcpy(own, job.job, sizeof(own));
		if (job.rank == odd && i == 0)
			job.opts.parity = 2;
		if (job.rank == odd && i == 1)
			job.opts.group_nodes = 4;
		if (job.rank == odd && i == 2)
			job.opts.block_bytes = 4096;
		if (job.rank == odd && i == 3)
			snprintf(job.job, sizeof(job.job), "other");
		refused(FTMEM_EINVAL, name[i]);
		CHECK_MESSAGE("rank 2");
		job.opts = good;
		memcpy(job.job, own, sizeof(own));
	}
	/* These are each rank's own business. */
	job.opts.window = 1 + job.rank;
	job.opts.copy_threads = 1 + job.rank % 2;
	job.opts.expire_s = 100 + job.rank;
	job.opts.timeout_ms += job.rank;
	works_now();
}

static void a_node_in_two_racks(void)
{
	init("2,2");
	job.opts.rack = job.rank % 2 ? "left" : "right";
	refused(FTMEM_EINVAL, "rack");
	job.opts.rack = job.rank < 2 ? "left" : "right";
	works_now();
}

static void an_smp_that_cannot_be_used(void)
{
	char folder[4096];
	const char *dir = getenv("FTMEM_DIR");

	init("1,1,1,1");
	job.opts.smp_path = job.rank == odd ? "/nowhere/ftmem-smp" : NULL;
	refused_for_one(FTMEM_ESMP, "/nowhere/ftmem-smp");
	job.opts.smp_path = job.rank == odd ? "/bin/true" : NULL;
	refused_for_one(FTMEM_ESMP, "/bin/true");
	job.opts.smp_path = NULL;
	job.opts.dir = job.rank == odd ? "relative" : NULL;
	refused_for_one(FTMEM_EINVAL, "absolute");
	CHECK(dir);
	snprintf(folder, sizeof(folder), "%.4000s/open", dir);
	if (job.rank == odd)
		CHECK(mkdir(folder, 0755) == 0 && chmod(folder, 0755) == 0);
	job.opts.dir = job.rank == odd ? folder : NULL;
	refused_for_one(FTMEM_ESMP, "0700");
	/* Sockets have short names. */
	memset(folder, 'x', 200);
	folder[0] = '/';
	folder[200] = '\0';
	job.opts.dir = job.rank == odd ? folder : NULL;
	CHECK_RESULT(cluster_try_open(&job), FTMEM_EINVAL);
	job.opts.dir = NULL;
	works_now();
}

static void a_launcher_without_mpi(void)
{
	char size[16];

	init("1,1,1,1");
	snprintf(size, sizeof(size), "%u", job.size * 2);
	setenv("WORLD_SIZE", size, 1);
	refused(FTMEM_EINVAL, "mpirun -n 8");
	CHECK_MESSAGE("WORLD_SIZE");
	snprintf(size, sizeof(size), "%u", job.size);
	setenv("WORLD_SIZE", size, 1);
	works_now();
	init("1,1,1,1");
	setenv("WORLD_SIZE", "", 1);
	works_now();
	unsetenv("WORLD_SIZE");
}

/* One that never comes: the others do not wait forever. */
static void a_rank_that_does_not_open(void)
{
	init("1,1,1,1");
	/* What was begun there is never ended: the communicator is of no more use. */
	MPI_Comm_dup(MPI_COMM_WORLD, &job.comm);
	job.opts.timeout_ms = 500;
	/* Memory that MPI may still write to is kept on purpose. */
	if (__lsan_disable)
		__lsan_disable();
	if (job.rank != odd)
		refused(FTMEM_ETIMEOUT, "not every rank");
	check_barrier(MPI_COMM_WORLD);
	if (job.rank == odd)
		refused(FTMEM_ETIMEOUT, "not every rank");
	check_barrier(MPI_COMM_WORLD);
	if (__lsan_enable)
		__lsan_enable();
	job.comm = MPI_COMM_WORLD;
	job.opts.timeout_ms = 30000;
	works_now();
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"fewer_nodes_than_parity_needs", fewer_nodes_than_parity_needs},
		{"options_out_of_range", options_out_of_range},
		{"names_that_are_none", names_that_are_none},
		{"structs_that_are_none", structs_that_are_none},
		{"options_that_differ", options_that_differ},
		{"a_node_in_two_racks", a_node_in_two_racks},
		{"an_smp_that_cannot_be_used", an_smp_that_cannot_be_used},
		{"a_launcher_without_mpi", a_launcher_without_mpi},
		{"a_rank_that_does_not_open", a_rank_that_does_not_open},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
