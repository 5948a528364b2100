/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What an arena without a version says of versions that others hold: it was there and none was
 * committed, or it was away or is new and knows nothing. 3 ranks, one per node, parity 1.
 */
#include "cluster.h"
#include "mpi_check.h"

#include <string.h>

static struct cluster job;

static void start_fresh(void)
{
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_FRESH);
}

static void begin(void)
{
	const uint64_t bytes = 30000;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1");
	job.opts.block_bytes = 4096;
	cluster_regions(&job, &bytes, 1);
	start_fresh();
}

/* As if the job had been killed before these nodes heard what the vote had come to, or before
 * those were prepared. Between two runs. */
static void cut_short(uint32_t prepared, uint32_t empty)
{
	uint32_t node = 1u << job.node_of[job.rank];
	struct slot *slot;
	struct arena *a = cluster_arena(&job, 1, &slot);
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

static void who_was_away_does_not_deny_what_was_committed(void)
{
	char spare[FTMEM_NAME_MAX + 1];

	begin();
	cluster_close(&job);
	cluster_replace(&job, 1u << 0);
	memcpy(spare, job.node[0], sizeof(spare));
	start_fresh();
	cluster_commit(&job, 1);
	cluster_close(&job);
	cut_short(1u << 2, 0);
	cluster_lose(&job, 1u << 1);
	cluster_name_nodes(&job);
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_ELOST);
	cluster_close(&job);
	/* Nothing was erased. */
	memcpy(job.node[0], spare, sizeof(spare));
	cluster_start(&job);
	cluster_restore(&job, 1);
	cluster_deinit(&job);
}

static void who_joined_late_denies_what_it_would_hold(void)
{
	begin();
	for (uint32_t lost = 0; lost < 2; lost++) {
		/* It ends in its first snapshot, and loses a node. */
		cluster_commit(&job, 1);
		cluster_close(&job);
		cut_short(1u << 2, 3);
		cluster_lose(&job, 1u << lost);
		start_fresh();
	}
	cluster_commit(&job, 1);
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"who_was_away_does_not_deny_what_was_committed",
	         who_was_away_does_not_deny_what_was_committed},
		{"who_joined_late_denies_what_it_would_hold",
	         who_joined_late_denies_what_it_would_hold},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
