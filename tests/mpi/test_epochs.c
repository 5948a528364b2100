/* SPDX-License-Identifier: BSD-3-Clause */
/* Regions change between seals: 4 ranks, one per node. */
#include "cluster.h"
#include "mpi_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct cluster job;

static void init(void)
{
	const uint64_t bytes[] = {100000 + 5000 * check_rank(), 4095, 1};

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	job.opts.block_bytes = 4096;
	cluster_regions(&job, bytes, 3);
}

static void start_fresh(void)
{
	init();
	cluster_start_fresh(&job);
}

static void add(uint32_t i)
{
	struct ftmem_region d = cluster_describe(&job.region[i]);

	job.region[i].absent = false;
	CHECK_RESULT(ftmem_region_add(job.ft, &d), 0);
}

static void take_away(uint32_t i)
{
	job.region[i].absent = true;
	CHECK_RESULT(ftmem_region_remove(job.ft, job.region[i].name), 0);
}

static void resize(uint32_t i, uint64_t bytes)
{
	uint8_t *memory = malloc(bytes + 128);

	CHECK(memory);
	take_away(i);
	memset(memory, 0xc3, bytes + 128);
	free(job.region[i].memory);
	job.region[i].memory = memory;
	job.region[i].bytes = bytes;
	add(i);
}

static uint32_t epochs_held(void)
{
	uint64_t newest;

	return cluster_epochs(&job, job.node_of[job.rank], &newest);
}

/* Closes, loses a node, starts with the regions as they are: version is there. */
static void comes_back(uint64_t version)
{
	cluster_close(&job);
	cluster_lose(&job, 1u << version % 4);
	cluster_start(&job);
	cluster_restore(&job, version);
}

static void regions_come_go_and_grow(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	take_away(1);
	CHECK_RESULT(ftmem_snapshot(job.ft, 2, NULL), FTMEM_EINVAL);
	CHECK_MESSAGE("ftmem_seal");
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_commit(&job, 2);
	comes_back(2);
	add(1);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_commit(&job, 3);
	resize(0, 250000 + job.rank);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_commit(&job, 4);
	cluster_commit(&job, 5);
	comes_back(5);
	/* Only some ranks change. */
	if (job.rank % 2)
		resize(2, 70000);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_commit(&job, 6);
	comes_back(6);
	/* A rank has nothing any more. */
	if (job.rank == 1)
		for (uint32_t i = 0; i < 3; i++)
			take_away(i);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_commit(&job, 7);
	comes_back(7);
	cluster_deinit(&job);
}

static void the_first_commit_retires_the_former_epoch(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	CHECK(epochs_held() == 1);
	resize(0, 90000);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	CHECK(epochs_held() == 2);
	/* Twice without a commit: the epoch between held nothing. */
	resize(0, 80000);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	CHECK(epochs_held() == 2);
	check_barrier(job.comm);
	cluster_commit(&job, 3);
	CHECK(epochs_held() == 1);
	cluster_commit(&job, 4);
	comes_back(4);
	cluster_deinit(&job);
}

static void the_former_epoch_is_there_until_then(void)
{
	for (uint32_t lost = 0; lost < 5; lost++) {
		check_note("node %u lost between the epochs", lost);
		start_fresh();
		cluster_commit(&job, 1);
		cluster_commit(&job, 2);
		resize(0, 90000);
		resize(2, 5);
		CHECK_RESULT(ftmem_seal(job.ft), 0);
		cluster_close(&job);
		cluster_lose(&job, 1u << lost);
		/* As the trainer does that starts again: the former regions. */
		cluster_regions(&job, (const uint64_t[]){100000 + 5000 * job.rank, 4095, 1}, 3);
		cluster_start(&job);
		cluster_restore(&job, 2);
		cluster_commit(&job, 3);
		CHECK(epochs_held() == 1);
		comes_back(3);
		cluster_deinit(&job);
	}
}

/* The handle goes on after a crash of nothing: what was sealed first comes back. */
static void the_former_epoch_is_restored_by_the_same_run(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	take_away(2);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_restore(&job, 2);
	CHECK(epochs_held() == 1);
	cluster_commit(&job, 3);
	comes_back(3);
	cluster_deinit(&job);
}

static void a_region_that_is_not_stored_is_refused(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
	cluster_regions(&job, (const uint64_t[]){100000 + 5000 * job.rank, 4095, 1, 77}, 4);
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_ELAYOUT);
	CHECK_MESSAGE("r3");
	cluster_close(&job);
	/* On one rank alone, and with a node lost. */
	cluster_lose(&job, 1);
	job.region[3].absent = job.rank != 2;
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_ELAYOUT);
	CHECK_MESSAGE("r3");
	cluster_close(&job);
	/* Nothing was lost by that. */
	job.region[3].absent = true;
	cluster_start(&job);
	cluster_restore(&job, 2);
	cluster_deinit(&job);
}

static void a_subset_of_what_is_stored_is_fine(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
	cluster_lose(&job, 8);
	job.region[job.rank % 3].absent = true;
	cluster_start(&job);
	cluster_restore(&job, 2);
	cluster_commit(&job, 3);
	comes_back(3);
	cluster_close(&job);
	/* What was not asked for is gone by now. */
	job.region[job.rank % 3].absent = false;
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_ELAYOUT);
	cluster_deinit(&job);
}

static void another_size_is_refused(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_regions(&job,
	                (const uint64_t[]){100000 + 5000 * job.rank, 4095 + (job.rank == 3), 1}, 3);
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_ELAYOUT);
	CHECK_MESSAGE(job.rank == 3 ? "r1" : "rank 3");
	cluster_close(&job);
	cluster_regions(&job, (const uint64_t[]){100000 + 5000 * job.rank, 4095, 1}, 3);
	cluster_start(&job);
	cluster_restore(&job, 1);
	cluster_deinit(&job);
}

/* The same names and sizes in another order fit. */
static void another_order_is_fine(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_lose(&job, 2);
	CHECK_RESULT(cluster_try_open(&job), 0);
	for (uint32_t i = 3; i-- > 0;)
		add(i);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_restore(&job, 1);
	cluster_deinit(&job);
}

static void a_region_may_move_in_memory(void)
{
	uint64_t newest = 0, after = 0;

	start_fresh();
	cluster_commit(&job, 1);
	cluster_epochs(&job, job.node_of[job.rank], &newest);
	resize(0, job.region[0].bytes);
	resize(1, job.region[1].bytes);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_commit(&job, 2);
	cluster_commit(&job, 3);
	cluster_epochs(&job, job.node_of[job.rank], &after);
	CHECK_MSG(epochs_held() == 1 && newest > 0 && after > 0, "%u epochs", epochs_held());
	resize(2, job.region[2].bytes);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_restore(&job, 3);
	comes_back(3);
	cluster_deinit(&job);
}

/* Starts that come to nothing do not pile up memory. */
static void epochs_that_hold_nothing_do_not_pile_up(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	for (uint32_t i = 0; i < 4; i++) {
		cluster_close(&job);
		cluster_regions(&job, (const uint64_t[]){1000 + i, 4095, 1}, 3);
		cluster_start(&job);
		cluster_restore_fails(&job, FTMEM_ELAYOUT);
		CHECK_MSG(epochs_held() <= 2, "%u epochs after %u starts", epochs_held(), i + 1);
	}
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"regions_come_go_and_grow", regions_come_go_and_grow},
		{"the_first_commit_retires_the_former_epoch",
	         the_first_commit_retires_the_former_epoch},
		{"the_former_epoch_is_there_until_then", the_former_epoch_is_there_until_then},
		{"the_former_epoch_is_restored_by_the_same_run",
	         the_former_epoch_is_restored_by_the_same_run},
		{"a_region_that_is_not_stored_is_refused", a_region_that_is_not_stored_is_refused},
		{"a_subset_of_what_is_stored_is_fine", a_subset_of_what_is_stored_is_fine},
		{"another_size_is_refused", another_size_is_refused},
		{"another_order_is_fine", another_order_is_fine},
		{"a_region_may_move_in_memory", a_region_may_move_in_memory},
		{"epochs_that_hold_nothing_do_not_pile_up",
	         epochs_that_hold_nothing_do_not_pile_up},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
