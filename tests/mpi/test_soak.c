/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Everything together at random: runs with changing regions, SMPs that die, restarts
 * with nodes lost, replaced, away and back, ranks in another order, other parity,
 * damaged blocks. As long as no more is gone than parity covers, the newest version
 * that was committed comes back.
 */
#include "cluster.h"
#include "mpi_check.h"
#include "test_random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODES 7

static struct cluster job;
static uint64_t shared; /* random numbers that all ranks draw alike */

/* What is stored: as the oracle knows it. */
static struct {
	uint64_t version;
	uint64_t bytes[3]; /* of this rank's regions */
	uint32_t used;     /* the nodes that hold it */
	uint32_t parity;   /* losses that it bears */
} stored;

static uint32_t draw(uint32_t below)
{
	return test_random_below(&shared, below);
}

static uint32_t bits(uint32_t set)
{
	return (uint32_t)__builtin_popcount(set);
}

static uint32_t used_nodes(void)
{
	uint32_t set = 0;

	for (uint32_t i = 0; i < job.size; i++)
		set |= 1u << job.node_of[i];
	return set;
}

/* Ranks on any nodes, unless too many that hold what is stored were left out then. */
static void place(uint32_t lost)
{
	uint32_t nodes, parity;

	do {
		nodes = 1 + draw(job.size);
		for (uint32_t i = 0; i < job.size; i++)
			job.node_of[i] = draw(3) ? job.node_of[i] : draw(NODES);
	} while (bits(stored.used & (lost | ~used_nodes())) > stored.parity
	         || bits(used_nodes()) > nodes + 2);
	nodes = bits(used_nodes());
	parity = nodes < 2 ? 1 : 1 + draw(nodes - 1 < 3 ? nodes - 1 : 3);
	job.opts.parity = parity;
	job.opts.block_bytes = draw(2) ? 4096 : 0;
	job.opts.window = 1 + draw(4);
}

static void regions(void)
{
	static const uint64_t sizes[] = {0, 1, 4095, 20000, 65536, 200001};

	for (uint32_t i = 0; i < 3; i++)
		for (uint32_t rank = 0; rank < job.size; rank++) {
			uint32_t which = draw(6);

			if (rank == job.rank)
				stored.bytes[i] = sizes[which];
		}
}

static void commit(void)
{
	struct ftmem_stats s;

	cluster_commit(&job, ++stored.version);
	check_barrier(job.comm);
	s = cluster_stats(&job);
	stored.used = used_nodes();
	stored.parity = s.parity;
	for (uint32_t i = 0; i < 3; i++)
		stored.bytes[i] = i < job.regions ? job.region[i].bytes : 0;
}

/* A new epoch, with or without a commit in it. */
static void change_regions(bool then_commit)
{
	uint64_t before[3], after[3];

	memcpy(before, stored.bytes, sizeof(before));
	regions();
	memcpy(after, stored.bytes, sizeof(after));
	memcpy(stored.bytes, before, sizeof(before));
	for (uint32_t i = 0; i < job.regions; i++)
		if (!job.region[i].absent)
			CHECK_RESULT(ftmem_region_remove(job.ft, job.region[i].name), 0);
	cluster_regions(&job, after, 3);
	cluster_add_regions(&job);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	if (then_commit)
		commit();
}

static void kill_smps(void)
{
	uint32_t set = draw(1u << NODES);

	check_barrier(job.comm);
	for (uint32_t i = 0; job.rank == 0 && i < NODES; i++)
		if (set & used_nodes() & 1u << i)
			cluster_kill_smp(&job, i, false);
	check_barrier(job.comm);
}

static void run(uint32_t round)
{
	uint32_t steps = 1 + draw(4);
	bool sealed_last = false;

	for (uint32_t i = 0; i < steps; i++) {
		uint32_t what = draw(10);

		check_note("round %u, step %u of %u: %u; %u nodes, parity %u", round, i, steps,
		           what, bits(used_nodes()), job.opts.parity);
		sealed_last = false;
		if (what < 4) {
			commit();
		} else if (what < 6) {
			change_regions(true);
		} else if (what == 6) {
			change_regions(false);
			sealed_last = true;
		} else if (what == 7) {
			cluster_restore(&job, stored.version);
		} else if (what == 8) {
			kill_smps();
			commit();
		} else {
			CHECK_RESULT(ftmem_forget(job.ft), 0);
			job.salt++;
			stored.version = draw(1000);
			commit();
		}
		/* What is not committed does not count for a restore within the run. */
		if (sealed_last && draw(2)) {
			commit();
			sealed_last = false;
		}
		if (sealed_last)
			break;
	}
}

/* A byte of a block of this rank. */
static void damage(void)
{
	struct slot *slot;
	struct arena *a = cluster_arena(&job, stored.version, &slot);
	uint64_t own = shared + job.rank;

	if (a->shape.data_bytes > 0)
		slot->data[test_random(&own) % a->shape.data_bytes] ^= 0x10;
	arena_free(a);
}

/* Loses and damages what can be borne, moves, and comes back. */
static void restart(uint32_t round)
{
	uint32_t lost = 0, hurt = 0, bearable = stored.parity;
	char a[64], b[64];

	while (bits(lost | hurt) < bearable && draw(4)) {
		uint32_t node = 1u << draw(NODES);

		if (draw(3))
			lost |= node & stored.used;
		else
			hurt |= node & stored.used;
	}
	hurt &= ~lost;
	check_note("round %u: version %llu of %u nodes, parity %u; lost %s, hurt %s", round,
	           (unsigned long long)stored.version, bits(stored.used), stored.parity,
	           cluster_set_text(lost, a), cluster_set_text(hurt, b));
	cluster_close(&job);
	if (hurt >> job.node_of[job.rank] & 1)
		damage();
	cluster_lose(&job, lost | (draw(4) ? 0 : ~used_nodes()));
	place(lost | hurt);
	cluster_regions(&job, stored.bytes, 3);
	cluster_start(&job);
	cluster_restore(&job, stored.version);
	stored.used = used_nodes();
	stored.parity = cluster_stats(&job).parity;
}

static void the_newest_committed_version_comes_back(void)
{
	uint32_t rounds = check_quick() ? 12 : 120;
	const char *text = getenv("FTMEM_TEST_ROUNDS");

	if (text)
		rounds = (uint32_t)atoi(text);
	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1,1");
	job.nodes = NODES;
	shared = check_seed();
	regions();
	cluster_regions(&job, stored.bytes, 3);
	stored.parity = NODES;
	place(0);
	cluster_start_fresh(&job);
	commit();
	for (uint32_t i = 0; i < rounds; i++) {
		run(i);
		restart(i);
	}
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"the_newest_committed_version_comes_back",
	         the_newest_committed_version_comes_back},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
