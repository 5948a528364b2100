/* SPDX-License-Identifier: BSD-3-Clause */
/* SMPs die under a running job: 4 ranks. */
#include "clock.h"
#include "cluster.h"
#include "mpi_check.h"
#include "test_random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct cluster job;

static void start_fresh(const char *layout, uint64_t bytes)
{
	cluster_init(&job, MPI_COMM_WORLD, layout);
	job.opts.block_bytes = 4096;
	cluster_regions(&job, &bytes, 1);
	cluster_start_fresh(&job);
}

/* By one rank; the others go on meanwhile. */
static void kill_smps(uint32_t nodes)
{
	for (uint32_t i = 0; job.rank == 0 && i < job.nodes; i++)
		if (nodes >> i & 1)
			CHECK(cluster_kill_smp(&job, i, true));
}

static void kill_smps_at_once(uint32_t nodes)
{
	check_barrier(job.comm);
	for (uint32_t i = 0; job.rank == 0 && i < job.nodes; i++)
		if (nodes >> i & 1)
			CHECK(cluster_kill_smp(&job, i, false));
	check_barrier(job.comm);
}

/* Until an SMP on this rank's node holds so many arenas of it. */
static void await_handover(uint32_t arenas)
{
	uint64_t deadline = clock_deadline(30000);
	uint32_t own = 0;

	/* Not one that is yet to be killed. */
	check_barrier(job.comm);
	while (own < arenas) {
		struct smp_client *smp = cluster_smp(&job, job.node_of[job.rank]);
		struct smp_entry *entry = NULL;
		uint32_t count = 0;

		own = 0;
		if (smp && smp_list(smp, &entry, &count) == 0)
			for (uint32_t i = 0; i < count; i++)
				own += entry[i].rank == job.rank && entry[i].owner == getpid();
		free(entry);
		smp_close(smp);
		CHECK_MSG(clock_ns() < deadline, "only %u arenas were handed over", own);
		clock_sleep(2000000);
	}
	check_barrier(job.comm);
}

static void comes_back(uint64_t version, uint32_t lost)
{
	cluster_close(&job);
	cluster_lose(&job, lost);
	cluster_start(&job);
	cluster_restore(&job, version);
}

static void the_job_goes_on_and_memory_is_handed_over(void)
{
	static const char *const layouts[] = {"1,1,1,1", "2,2", "4"};

	for (uint32_t l = 0; l < 3; l++)
		for (uint32_t set = 1; set < 16; set = 2 * set + 1) {
			uint32_t nodes = l == 0 ? 4 : l == 1 ? 2 : 1;

			if (set >= 1u << nodes)
				continue;
			check_note("layout %s, nodes %#x", layouts[l], set);
			start_fresh(layouts[l], 60000);
			cluster_commit(&job, 1);
			cluster_commit(&job, 2);
			kill_smps(set);
			cluster_commit(&job, 3);
			cluster_commit(&job, 4);
			check_barrier(job.comm);
			await_handover(1);
			comes_back(4, nodes > 1 ? 1 : 0);
			cluster_commit(&job, 5);
			cluster_deinit(&job);
		}
}

static void an_idle_job_hands_over_too(void)
{
	start_fresh("2,2", 60000);
	cluster_commit(&job, 1);
	kill_smps(3);
	await_handover(1);
	kill_smps(2);
	await_handover(1);
	comes_back(1, 2);
	cluster_deinit(&job);
}

/* No time to hand over but at the end. */
static void a_job_that_ends_at_once_hands_over_first(void)
{
	for (uint32_t set = 1; set < 16; set = 2 * set + 1) {
		check_note("nodes %#x", set);
		start_fresh("1,1,1,1", 60000);
		cluster_commit(&job, 1);
		cluster_commit(&job, 2);
		kill_smps_at_once(set);
		comes_back(2, 0);
		comes_back(2, 8);
		cluster_deinit(&job);
	}
}

static void the_former_epoch_is_handed_over_with_the_new_one(void)
{
	const uint64_t bytes = 60000, other = 50000;

	start_fresh("1,1,1,1", bytes);
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	CHECK_RESULT(ftmem_region_remove(job.ft, "r0"), 0);
	cluster_regions(&job, &other, 1);
	cluster_add_regions(&job);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	check_barrier(job.comm);
	kill_smps(15);
	await_handover(2);
	cluster_close(&job);
	cluster_lose(&job, 4);
	cluster_regions(&job, &bytes, 1);
	cluster_start(&job);
	cluster_restore(&job, 2);
	cluster_deinit(&job);
}

static void an_smp_may_die_before_the_restore(void)
{
	for (uint32_t set = 1; set < 16; set = 2 * set + 1) {
		check_note("nodes %#x", set);
		start_fresh("1,1,1,1", 60000);
		cluster_commit(&job, 1);
		cluster_commit(&job, 2);
		cluster_close(&job);
		cluster_start(&job);
		check_barrier(job.comm);
		kill_smps(set);
		check_barrier(job.comm);
		cluster_restore(&job, 2);
		cluster_commit(&job, 3);
		await_handover(1);
		comes_back(3, 1);
		cluster_deinit(&job);
	}
}

/* Restore, forget and seal find out by themselves. */
static void collective_calls_hand_over_first(void)
{
	const uint64_t bytes = 40000;

	start_fresh("1,1,1,1", 60000);
	cluster_commit(&job, 1);
	kill_smps_at_once(15);
	cluster_restore(&job, 1);
	kill_smps_at_once(15);
	CHECK_RESULT(ftmem_region_remove(job.ft, "r0"), 0);
	cluster_regions(&job, &bytes, 1);
	cluster_add_regions(&job);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_commit(&job, 2);
	kill_smps_at_once(15);
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	job.salt++;
	cluster_commit(&job, 0);
	comes_back(0, 2);
	cluster_deinit(&job);
}

/* At any time, again and again. */
static void deaths_at_random_times_do_no_harm(void)
{
	uint32_t rounds = check_quick() ? 6 : 25;
	uint64_t random = check_seed();

	start_fresh("1,1,1,1", 150000);
	for (uint64_t v = 1; v <= rounds; v++) {
		uint32_t node = test_random_below(&random, 4),
			 us = test_random_below(&random, 4000);

		check_note("version %llu, node %u after %u us", (unsigned long long)v, node, us);
		CHECK_RESULT(ftmem_fence(job.ft, NULL), 0);
		cluster_fill(&job, v);
		CHECK_RESULT(ftmem_snapshot(job.ft, v, NULL), 0);
		clock_sleep(us * UINT64_C(1000));
		if (job.rank == (node + 1) % 4)
			cluster_kill_smp(&job, node, true);
		CHECK_RESULT(ftmem_wait(job.ft, v, 30000), 0);
		check_barrier(job.comm);
		if (v % 2)
			await_handover(1);
	}
	await_handover(1);
	comes_back(rounds, 4);
	cluster_deinit(&job);
}

/* While none can be started versions are stored in the trainers alone. */
static void the_job_goes_on_while_no_smp_can_be_started(void)
{
	const char *dir = getenv("FTMEM_DIR"), *program = getenv("FTMEM_SMP");
	char path[4096];

	if (!dir || !program)
		return;
	snprintf(path, sizeof(path), "%.4000s/smp", dir);
	if (check_rank() == 0)
		CHECK(symlink(program, path) == 0);
	check_barrier(MPI_COMM_WORLD);
	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	cluster_regions(&job, (const uint64_t[]){60000}, 1);
	job.opts.smp_path = path;
	cluster_start_fresh(&job);
	cluster_commit(&job, 1);
	check_barrier(job.comm);
	if (job.rank == 0)
		CHECK(unlink(path) == 0);
	kill_smps(15);
	check_barrier(job.comm);
	cluster_commit(&job, 2);
	cluster_commit(&job, 3);
	CHECK_RESULT(ftmem_seal(job.ft), FTMEM_ESMP);
	cluster_commit(&job, 4);
	check_barrier(job.comm);
	if (job.rank == 0)
		CHECK(symlink(program, path) == 0);
	check_barrier(job.comm);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	await_handover(1);
	cluster_commit(&job, 5);
	comes_back(5, 1);
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"the_job_goes_on_and_memory_is_handed_over",
	         the_job_goes_on_and_memory_is_handed_over},
		{"an_idle_job_hands_over_too", an_idle_job_hands_over_too},
		{"a_job_that_ends_at_once_hands_over_first",
	         a_job_that_ends_at_once_hands_over_first},
		{"the_former_epoch_is_handed_over_with_the_new_one",
	         the_former_epoch_is_handed_over_with_the_new_one},
		{"an_smp_may_die_before_the_restore", an_smp_may_die_before_the_restore},
		{"collective_calls_hand_over_first", collective_calls_hand_over_first},
		{"deaths_at_random_times_do_no_harm", deaths_at_random_times_do_no_harm},
		{"the_job_goes_on_while_no_smp_can_be_started",
	         the_job_goes_on_while_no_smp_can_be_started},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
