/* SPDX-License-Identifier: BSD-3-Clause */
/* A run's calls beyond snapshot and restore, and what it says of itself: 4 ranks. */
#include "cluster.h"
#include "error.h"
#include "mpi_check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct cluster job;

static void init(uint64_t bytes, const char *layout)
{
	cluster_init(&job, MPI_COMM_WORLD, layout);
	cluster_regions(&job, &bytes, 1);
}

static void start_fresh(uint64_t bytes, const char *layout)
{
	init(bytes, layout);
	cluster_start_fresh(&job);
}

static void restores_twice(void)
{
	start_fresh(300000, "1,1,1,1");
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	/* A trainer that steps back within one run. */
	cluster_restore(&job, 2);
	cluster_restore(&job, 2);
	job.salt++;
	cluster_commit(&job, 3);
	cluster_restore(&job, 3);
	cluster_close(&job);
	cluster_lose(&job, 2);
	cluster_start(&job);
	cluster_restore(&job, 3);
	cluster_restore(&job, 3);
	cluster_commit(&job, 4);
	cluster_restore(&job, 4);
	cluster_deinit(&job);
}

/* The version after the restored one comes again, with other content. */
static void a_version_that_comes_again_is_the_later_one(void)
{
	for (uint32_t lost = 0; lost < 4; lost++) {
		check_note("lost %u", lost);
		start_fresh(40000, "1,1,1,1");
		cluster_commit(&job, 1);
		cluster_commit(&job, 2);
		cluster_close(&job);
		cluster_start(&job);
		cluster_restore(&job, 2);
		CHECK_RESULT(ftmem_forget(job.ft), 0);
		job.salt++;
		cluster_commit(&job, 1);
		cluster_close(&job);
		cluster_lose(&job, 1u << lost);
		cluster_start(&job);
		cluster_restore(&job, 1);
		cluster_deinit(&job);
	}
}

static void nothing_is_left_after_forgetting(void)
{
	uint64_t newest;

	start_fresh(100000, "1,1,1,1");
	cluster_commit(&job, 5);
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	CHECK(!cluster_stats(&job).stored);
	cluster_restore_fails(&job, FTMEM_FRESH);
	/* Versions begin again. */
	job.salt++;
	cluster_commit(&job, 0);
	CHECK(cluster_stats(&job).stored && cluster_stats(&job).newest == 0);
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_lose(&job, 8);
	cluster_start(&job);
	cluster_restore(&job, 1);
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	cluster_close(&job);
	cluster_start_fresh(&job);
	cluster_commit(&job, 0);
	cluster_close(&job);
	/* Before a seal, and in place of a restore. */
	CHECK_RESULT(cluster_try_open(&job), 0);
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	check_barrier(job.comm);
	CHECK(cluster_epochs(&job, job.node_of[job.rank], &newest) == 0);
	check_barrier(job.comm);
	cluster_add_regions(&job);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_restore_fails(&job, FTMEM_FRESH);
	cluster_commit(&job, 3);
	cluster_close(&job);
	cluster_start(&job);
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_start(&job);
	cluster_restore(&job, 1);
	cluster_deinit(&job);
}

/* What cannot be restored can be given up. */
static bool retire_fails;

int __wrap_smp_retire(struct smp_client *c, uint64_t epoch);
int __real_smp_retire(struct smp_client *c, uint64_t epoch);
int __wrap_smp_retire(struct smp_client *c, uint64_t epoch)
{
	return retire_fails ? error_set(FTMEM_ESMP, "it fails, says the test")
	                    : __real_smp_retire(c, epoch);
}

/* Not on one rank alone. */
static void what_could_not_be_forgotten_is_to_be_forgotten_again(void)
{
	start_fresh(50000, "1,1,1,1");
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_start(&job);
	retire_fails = job.rank == 2;
	CHECK_RESULT(ftmem_forget(job.ft), FTMEM_ESMP);
	retire_fails = false;
	CHECK_RESULT(ftmem_snapshot(job.ft, 1, NULL), FTMEM_EINVAL);
	CHECK_MESSAGE("ftmem_forget");
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	cluster_commit(&job, 1);
	cluster_deinit(&job);
}

static void forgetting_helps_where_too_much_is_lost(void)
{
	start_fresh(100000, "1,1,1,1");
	cluster_commit(&job, 5);
	cluster_close(&job);
	cluster_lose(&job, 5);
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_ELOST);
	CHECK_RESULT(ftmem_snapshot(job.ft, 6, NULL), FTMEM_EINVAL);
	CHECK_MESSAGE("ftmem_forget");
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_start(&job);
	cluster_restore(&job, 1);
	cluster_deinit(&job);
}

/* Halves of the world, each with a job of its own, of one name or of two. */
static void two_jobs_at_once(void)
{
	uint32_t half = check_rank() % 2;
	MPI_Comm comm;

	MPI_Comm_split(MPI_COMM_WORLD, (int)half, (int)check_rank(), &comm);
	cluster_init(&job, comm, "1,1");
	snprintf(job.job, sizeof(job.job), "half%u", half);
	job.salt += half;
	cluster_regions(&job, (const uint64_t[]){200000 + 1000 * check_rank()}, 1);
	cluster_start_fresh(&job);
	for (uint64_t v = 1; v < 4 + 3 * half; v++)
		cluster_commit(&job, v);
	cluster_close(&job);
	cluster_lose(&job, 1u << half);
	cluster_start(&job);
	cluster_restore(&job, 3 + 3 * half);
	cluster_commit(&job, 10);
	if (half == 0)
		CHECK_RESULT(ftmem_forget(job.ft), 0);
	check_barrier(MPI_COMM_WORLD);
	cluster_close(&job);
	cluster_start(&job);
	if (half == 0)
		cluster_restore_fails(&job, FTMEM_FRESH);
	else
		cluster_restore(&job, 10);
	cluster_deinit(&job);
	MPI_Comm_free(&comm);
}

/* Two jobs in one process, one for each of two communicators. */
static void two_jobs_in_one_process(void)
{
	struct cluster other;

	start_fresh(70000, "1,1,1,1");
	cluster_init(&other, MPI_COMM_WORLD, "2,2");
	cluster_regions(&other, (const uint64_t[]){50000}, 1);
	other.salt++;
	cluster_start_fresh(&other);
	for (uint64_t v = 1; v < 6; v++) {
		cluster_fill(&job, v);
		CHECK_RESULT(ftmem_snapshot(job.ft, v, NULL), 0);
		cluster_commit(&other, v);
		CHECK_RESULT(ftmem_wait(job.ft, v, 30000), 0);
		CHECK_RESULT(ftmem_fence(job.ft, NULL), 0);
	}
	cluster_close(&other);
	cluster_close(&job);
	cluster_lose(&job, 1);
	cluster_lose(&other, 2);
	cluster_start(&other);
	cluster_start(&job);
	cluster_restore(&job, 5);
	cluster_restore(&other, 5);
	cluster_deinit(&other);
	cluster_deinit(&job);
}

/* --- statistics --- */

static atomic_bool enough;

static void *read_all_the_time(void *arg)
{
	(void)arg;
	while (!atomic_load(&enough)) {
		struct ftmem_stats s = cluster_stats(&job);

		CHECK(s.committed >= s.stored && s.nodes == 4);
	}
	return NULL;
}

static void statistics_make_sense(void)
{
	struct ftmem_stats s;
	pthread_t reader;

	start_fresh(500000, "1,1,1,1");
	job.opts.parity = 1;
	s = cluster_stats(&job);
	CHECK(s.committed == 0 && s.dropped == 0 && s.skipped == 0 && !s.stored);
	CHECK(s.nodes == 4 && s.groups == 1 && s.group_nodes == 4 && s.parity == 1);
	CHECK(s.block_bytes >= 65536 && s.block_bytes <= 262144);
	CHECK(check_same(job.comm, s.block_bytes));
	CHECK(s.window >= 2 && s.window <= 4 && s.copy_threads >= 1 && s.copy_threads <= 12);
	CHECK(s.data_bytes >= 500000 && s.data_bytes < 501000);
	atomic_store(&enough, false);
	CHECK(pthread_create(&reader, NULL, read_all_the_time, NULL) == 0);
	for (uint64_t v = 1; v <= 5; v++)
		cluster_commit(&job, v);
	atomic_store(&enough, true);
	pthread_join(reader, NULL);
	s = cluster_stats(&job);
	CHECK(s.committed == 5 && s.newest == 5 && s.stored && s.lost_members == 0);
	CHECK(s.device_bytes == 0 && s.staged_bytes == 0 && s.stalls == 0 && s.waited == 0);
	CHECK(s.device_copy_s == 0 && s.device_copy_rate == 0 && s.stall_s == 0);
	CHECK(s.call_s > 0 && s.copy_s > 0 && s.protect_s >= s.copy_s && s.protect_s < 30);
	/* Each version sends m x D, and little else. */
	CHECK_MSG(s.sent_bytes >= 5 * s.data_bytes && s.sent_bytes < 5 * s.data_bytes + 20000,
	          "%llu bytes sent", (unsigned long long)s.sent_bytes);
	cluster_close(&job);
	cluster_lose(&job, 2);
	cluster_start(&job);
	cluster_restore(&job, 5);
	s = cluster_stats(&job);
	CHECK(s.lost_members == 1 && s.repaired_blocks == 0 && s.stored && s.newest == 5);
	CHECK(s.rebuild_s > 0 && s.restore_s >= s.rebuild_s && s.restore_s < 30);
	CHECK(s.committed == 0);
	cluster_deinit(&job);
}

/* --- what the machine says --- */

/* Each rank as on a machine of its own kind: 16 CPUs, second-level caches of so many MiB. */
static void start_on(const uint32_t l2_mib[4])
{
	char machine[64];

	snprintf(machine, sizeof(machine), "numa:1 l2:16(size=%u) core:1 pu:1",
	         l2_mib[job.rank] << 20);
	setenv("HWLOC_SYNTHETIC", machine, 1);
	cluster_start(&job);
	unsetenv("HWLOC_SYNTHETIC");
}

static bool in_use(uint32_t block_bytes, uint32_t window, uint32_t copy_threads)
{
	struct ftmem_stats s = cluster_stats(&job);

	return s.block_bytes == block_bytes && s.window == window
	       && s.copy_threads == copy_threads;
}

static void the_machine_says_what_is_not_set(void)
{
	static const uint32_t small[4] = {4, 2, 16, 64}, large[4] = {4, 4, 8, 64};

	init(3000000, "1,1,1,1");
	start_on(small);
	/* The least of the blocks; windows are each rank's own. */
	CHECK(in_use(131072, job.rank < 2 ? 2 : 4, 3));
	cluster_restore_fails(&job, FTMEM_FRESH);
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_lose(&job, 15);
	start_on(large);
	CHECK(in_use(262144, job.rank < 3 ? 2 : 4, 3));
	cluster_restore_fails(&job, FTMEM_FRESH);
	cluster_deinit(&job);
}

static uint64_t newest_epoch_here(void)
{
	uint64_t newest;

	check_barrier(job.comm);
	CHECK(cluster_epochs(&job, job.node_of[job.rank], &newest) == 1);
	check_barrier(job.comm);
	return newest;
}

/* Blocks are as stored, and a rank whose node is lost joins. */
static void machines_of_other_caches_join_what_is_stored(void)
{
	static const uint32_t small[4] = {4, 2, 16, 64}, large[4] = {4, 4, 8, 64};
	uint64_t epoch;

	init(3000000, "1,1,1,1");
	start_on(small);
	cluster_restore_fails(&job, FTMEM_FRESH);
	cluster_commit(&job, 1);
	epoch = newest_epoch_here();
	cluster_close(&job);
	/* The first rank is among those that hold nothing. */
	cluster_lose(&job, 1);
	start_on(large);
	CHECK(in_use(131072, job.rank < 2 ? 2 : 4, 3));
	CHECK(newest_epoch_here() == epoch);
	cluster_restore(&job, 1);
	cluster_commit(&job, 2);
	CHECK(newest_epoch_here() == epoch);
	cluster_close(&job);
	/* What is set is taken, in a new epoch, and then stays. */
	job.opts.block_bytes = 8192;
	job.opts.window = 5;
	setenv("FTMEM_COPY_THREADS", "2", 1);
	start_on(large);
	unsetenv("FTMEM_COPY_THREADS");
	CHECK(in_use(8192, 5, 2));
	cluster_restore(&job, 2);
	cluster_commit(&job, 3);
	CHECK(newest_epoch_here() > epoch);
	epoch = newest_epoch_here();
	cluster_close(&job);
	job.opts.block_bytes = 0;
	cluster_lose(&job, 8);
	start_on(small);
	CHECK(in_use(8192, 5, 3));
	CHECK(newest_epoch_here() == epoch);
	cluster_restore(&job, 3);
	cluster_deinit(&job);
}

/* 2 x D x (1 + m/k) and little else, where all ranks hold as much. */
static void memory_is_as_budgeted(void)
{
	static const struct {
		const char *layout;
		uint32_t parity, k;
	} with[] = {{"1,1,1,1", 1, 3},
	            {"1,1,1,1", 2, 2},
	            {"1,1,1,1", 3, 1},
	            {"2,2", 1, 1},
	            {"4", 0, 1}};
	const uint64_t bytes = UINT64_C(8) << 20;

	for (size_t i = 0; i < sizeof(with) / sizeof(with[0]); i++) {
		struct ftmem_stats s;
		double budget;

		check_note("layout %s, parity %u", with[i].layout, with[i].parity);
		init(bytes, with[i].layout);
		job.opts.parity = with[i].parity ? with[i].parity : 1;
		cluster_start(&job);
		s = cluster_stats(&job);
		budget = 2.0 * (double)s.data_bytes * (1 + (double)with[i].parity / with[i].k);
		CHECK(s.parity == with[i].parity);
		CHECK_MSG((double)s.held_bytes <= budget + (double)s.data_bytes * 0.001 + 65536
		                  && (double)s.held_bytes >= budget,
		          "%.0f bytes held, budget %.0f", (double)s.held_bytes, budget);
		CHECK_MSG(s.staging_bytes <= UINT64_C(64) << 20, "%llu bytes of staging",
		          (unsigned long long)s.staging_bytes);
		cluster_restore_fails(&job, FTMEM_FRESH);
		cluster_commit(&job, 1);
		cluster_deinit(&job);
	}
}

/* However large the blocks and the window are. */
static void staging_stays_within_its_bound(void)
{
	static const char *const layouts[] = {"1,1,1,1", "2,1,1"};

	for (uint32_t i = 0; i < 2; i++)
		for (uint32_t window = 1; window <= 16; window *= 4) {
			int rc;

			check_note("layout %s, window %u", layouts[i], window);
			init(4500000, layouts[i]);
			job.opts.parity = 2;
			job.opts.block_bytes = 4 << 20;
			job.opts.window = window;
			CHECK_RESULT(cluster_try_open(&job), 0);
			cluster_add_regions(&job);
			rc = ftmem_seal(job.ft);
			CHECK_MSG(rc == 0 || rc == FTMEM_EINVAL, "%d", rc);
			CHECK(check_same(job.comm, (uint64_t)rc));
			if (rc == 0) {
				struct ftmem_stats s = cluster_stats(&job);

				CHECK_MSG(s.staging_bytes <= UINT64_C(64) << 20,
				          "%llu bytes of staging",
				          (unsigned long long)s.staging_bytes);
				cluster_commit(&job, 1);
			}
			cluster_deinit(&job);
		}
}

static void the_bandwidth_ceiling_changes_nothing_but_speed(void)
{
	start_fresh(400000, "1,1,1,1");
	cluster_close(&job);
	job.opts.max_bandwidth = 20000000;
	job.opts.parity = 2;
	job.opts.block_bytes = 4096;
	cluster_start(&job);
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	CHECK(cluster_stats(&job).protect_s > 0.02);
	cluster_close(&job);
	cluster_lose(&job, 3);
	cluster_start(&job);
	cluster_restore(&job, 2);
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"restores_twice", restores_twice},
		{"a_version_that_comes_again_is_the_later_one",
	         a_version_that_comes_again_is_the_later_one},
		{"nothing_is_left_after_forgetting", nothing_is_left_after_forgetting},
		{"what_could_not_be_forgotten_is_to_be_forgotten_again",
	         what_could_not_be_forgotten_is_to_be_forgotten_again},
		{"forgetting_helps_where_too_much_is_lost",
	         forgetting_helps_where_too_much_is_lost},
		{"two_jobs_at_once", two_jobs_at_once},
		{"two_jobs_in_one_process", two_jobs_in_one_process},
		{"statistics_make_sense", statistics_make_sense},
		{"the_machine_says_what_is_not_set", the_machine_says_what_is_not_set},
		{"machines_of_other_caches_join_what_is_stored",
	         machines_of_other_caches_join_what_is_stored},
		{"memory_is_as_budgeted", memory_is_as_budgeted},
		{"staging_stays_within_its_bound", staging_stays_within_its_bound},
		{"the_bandwidth_ceiling_changes_nothing_but_speed",
	         the_bandwidth_ceiling_changes_nothing_but_speed},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
