/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Nodes that come back with what they held, which is older than what the others did meanwhile, or
 * less: whether they deny that it was committed, and what is written over. 3 ranks, one per node,
 * parity 1. Starts are cut short by functions that the linker wraps.
 */
#include "cluster.h"
#include "error.h"
#include "mpi_check.h"
#include "rescue.h"

#include <string.h>

static struct cluster job;
static bool rebuilding_fails;
static uint64_t last_noted = UINT64_MAX; /* later runs are not */

int __real_rescue_rebuild(struct rescue *r, const struct rebuild_pass *pass,
                          struct rebuild_report *report);
int __wrap_rescue_rebuild(struct rescue *r, const struct rebuild_pass *pass,
                          struct rebuild_report *report);
int __wrap_rescue_rebuild(struct rescue *r, const struct rebuild_pass *pass,
                          struct rebuild_report *report)
{
	return rebuilding_fails ? error_set(FTMEM_ENOMEM, "it fails, says the test")
	                        : __real_rescue_rebuild(r, pass, report);
}

void __real_arena_enter(struct arena *a, uint64_t incarnation);
void __wrap_arena_enter(struct arena *a, uint64_t incarnation);
void __wrap_arena_enter(struct arena *a, uint64_t incarnation)
{
	if (incarnation <= last_noted)
		__real_arena_enter(a, incarnation);
}

static void begin(void)
{
	const uint64_t bytes = 30000;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1");
	job.opts.block_bytes = 4096;
	cluster_regions(&job, &bytes, 1);
	cluster_start_fresh(&job);
}

/* As if the job had been killed before these nodes heard what the vote on version had come to, or
 * before those were prepared. Between two runs. */
static void cut_short(uint64_t version, uint32_t prepared, uint32_t empty)
{
	uint32_t node = 1u << job.node_of[job.rank];
	struct slot *slot;
	struct arena *a = cluster_arena(&job, version, &slot);
	struct stamp stamp;
	bool damaged;

	slot_read(slot, &stamp, &damaged);
	if (node & prepared)
		slot_set_prepared(slot, stamp);
	if (node & empty)
		slot_set_empty(slot);
	arena_free(a);
	MPI_Barrier(job.comm);
}

/* The first node is out of reach, and another one in its place; and the other way round. */
static void swap_first(char other[FTMEM_NAME_MAX + 1])
{
	char name[FTMEM_NAME_MAX + 1];

	memcpy(name, job.node[0], sizeof(name));
	if (other[0])
		memcpy(job.node[0], other, sizeof(name));
	else
		cluster_replace(&job, 1u << 0);
	memcpy(other, name, sizeof(name));
}

/* The first node holds nothing, and is away while version 1 is committed. */
static void commit_without_first(char other[FTMEM_NAME_MAX + 1])
{
	other[0] = '\0';
	begin();
	cluster_close(&job);
	swap_first(other);
	cluster_start_fresh(&job);
	cluster_commit(&job, 1);
	cluster_close(&job);
}

/* The first node comes back when one more is gone and one only prepared the version: that is lost,
 * but nothing is erased. */
static void refuses_until_all_are_back(char other[FTMEM_NAME_MAX + 1], uint32_t prepared,
                                       uint32_t lost)
{
	cut_short(1, prepared, 0);
	cluster_lose(&job, lost);
	swap_first(other);
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_ELOST);
	cluster_close(&job);
	swap_first(other);
	cluster_start(&job);
	cluster_restore(&job, 1);
	cluster_deinit(&job);
}

static void who_was_away_does_not_deny_what_was_committed(void)
{
	char other[FTMEM_NAME_MAX + 1];

	commit_without_first(other);
	refuses_until_all_are_back(other, 1u << 2, 1u << 1);
}

/* The run that committed it is known to the one that is left, which only rebuilt it. */
static void nor_if_only_a_rebuilt_slot_is_left(void)
{
	char other[FTMEM_NAME_MAX + 1];
	struct slot *slot;
	struct arena *a;

	commit_without_first(other);
	a = cluster_arena(&job, 1, &slot);
	last_noted = arena_entered(a);
	arena_free(a);
	cluster_lose(&job, 1u << 1);
	cluster_start(&job);
	cluster_restore(&job, 1);
	last_noted = UINT64_MAX;
	cluster_close(&job);
	refuses_until_all_are_back(other, 1u << 1, 1u << 2);
}

/* The first node comes back with version 2, of which it did not hear that it was committed, and
 * the others have prepared 3. */
static void what_others_committed_is_not_written_over(void)
{
	char other[FTMEM_NAME_MAX + 1] = "";
	uint64_t got;

	begin();
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
	cut_short(2, 1u << 0, 0);
	swap_first(other);
	cluster_start(&job);
	cluster_restore(&job, 2);
	cluster_commit(&job, 3);
	cluster_close(&job);
	cut_short(3, 1u << 1 | 1u << 2, 1u << 0);
	swap_first(other);
	cluster_start(&job);
	rebuilding_fails = true;
	CHECK_RESULT(ftmem_restore(job.ft, &got), FTMEM_ENOMEM);
	rebuilding_fails = false;
	cluster_close(&job);
	cluster_lose(&job, 1u << 2);
	cluster_start(&job);
	cluster_restore(&job, 2);
	cluster_deinit(&job);
}

static void who_joined_late_denies_what_it_would_hold(void)
{
	begin();
	for (uint32_t lost = 0; lost < 2; lost++) {
		/* It ends in its first snapshot, and loses a node. */
		cluster_commit(&job, 1);
		cluster_close(&job);
		cut_short(1, 1u << 2, 1u << 0 | 1u << 1);
		cluster_lose(&job, 1u << lost);
		cluster_start_fresh(&job);
	}
	cluster_commit(&job, 1);
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"who_was_away_does_not_deny_what_was_committed",
	         who_was_away_does_not_deny_what_was_committed},
		{"nor_if_only_a_rebuilt_slot_is_left", nor_if_only_a_rebuilt_slot_is_left},
		{"what_others_committed_is_not_written_over",
	         what_others_committed_is_not_written_over},
		{"who_joined_late_denies_what_it_would_hold",
	         who_joined_late_denies_what_it_would_hold},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
