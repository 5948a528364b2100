/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Ranks come back on other nodes than those that hold their arenas, or with other
 * groups: 4 ranks.
 */
#include "cluster.h"
#include "mpi_check.h"

static struct cluster job;

/* A job that has stored version 2, and 1 before. */
static void begin(const char *layout, uint32_t parity, uint32_t turn)
{
	cluster_init(&job, MPI_COMM_WORLD, layout);
	job.opts.parity = parity;
	job.opts.block_bytes = turn % 2 ? 4096 : 0;
	cluster_sizes(&job, turn);
	cluster_start_fresh(&job);
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
}

/* Rank i goes to the node of rank i + by. */
static void shift(uint32_t by)
{
	uint32_t old[CLUSTER_RANKS];

	for (uint32_t i = 0; i < job.size; i++)
		old[i] = job.node_of[i];
	for (uint32_t i = 0; i < job.size; i++)
		job.node_of[i] = old[(i + by) % job.size];
}

/* Starts, finds version, and stores the next one if more. */
static void go_on(uint64_t version, bool more)
{
	cluster_start(&job);
	cluster_restore(&job, version);
	if (more)
		cluster_commit(&job, version + 1);
	cluster_close(&job);
}

static void restores_with_host_file_reordered(void)
{
	uint32_t turn = 0;

	for (uint32_t m = 1; m <= 2; m++)
		for (uint32_t set = 0; set < 16; set++) {
			uint32_t by = 1 + turn % 3, second = set ? set : 1;
			char text[64];

			if ((uint32_t)__builtin_popcount(set) > m || (check_quick() && set % 4))
				continue;
			check_note("parity %u, lost %s, ranks shifted by %u", m,
			           cluster_set_text(set, text), by);
			begin("1,1,1,1", m, turn++);
			cluster_lose(&job, set);
			shift(by);
			go_on(2, turn % 2);
			/* Whole again on the new nodes, and once more in another order. */
			cluster_lose(&job, second);
			shift(by);
			go_on(2 + turn % 2, false);
			cluster_lose(&job, second);
			go_on(2 + turn % 2, false);
			cluster_deinit(&job);
		}
}

static void restores_with_ranks_of_a_node_reordered(void)
{
	static const char *const layouts[] = {"2,2", "2,2r", "1,3", "3,1", "1,2,1"};

	for (uint32_t i = 0; i < 5; i++)
		for (uint32_t j = check_quick() ? i % 4 : 0; j < 4; j += check_quick() ? 3 : 1) {
			check_note("from layout %s to %s", layouts[i], layouts[j]);
			begin(layouts[i], 1, i + j);
			/* A third node is away if there are two from now on. */
			if (i != j && job.nodes == 2)
				cluster_lose(&job, 1u << (i + j) % 2);
			cluster_place(&job, layouts[j]);
			go_on(2, true);
			cluster_lose(&job, 1u << j % 2);
			go_on(3, false);
			cluster_deinit(&job);
		}
}

static void restores_on_more_nodes_and_back(void)
{
	for (uint32_t lost = 0; lost < 4; lost += check_quick() ? 2 : 1) {
		check_note("2, 4 and again 2 nodes, lost %u", lost);
		begin("2,2", 1, lost);
		cluster_lose(&job, lost < 2 ? 1u << lost : 0);
		cluster_place(&job, "1,1,1,1");
		job.opts.parity = 2;
		go_on(2, true);
		cluster_lose(&job, 1u << lost);
		go_on(3, true);
		/* Two nodes are left alone: what they hold grows old. */
		cluster_place(&job, "2,2");
		job.opts.parity = 1;
		go_on(4, true);
		cluster_place(&job, "1,1,1,1");
		go_on(5, true);
		cluster_lose(&job, 1u << lost);
		go_on(6, false);
		cluster_deinit(&job);
	}
}

static void restores_from_one_node_and_back(void)
{
	check_note("1, 3 and again 1 node");
	begin("4", 1, 0);
	CHECK(job.rank != 0 || check_logged("no parity"));
	go_on(2, true);
	cluster_place(&job, "2,1,1");
	job.opts.parity = 2;
	go_on(3, true);
	cluster_lose(&job, 6);
	go_on(4, true);
	cluster_place(&job, "4");
	go_on(5, true);
	go_on(6, false);
	cluster_deinit(&job);
}

static void restores_with_other_options(void)
{
	check_note("other options");
	begin("1,1,1,1", 1, 0);
	job.opts.block_bytes = 8192;
	cluster_lose(&job, 4);
	go_on(2, true);
	job.opts.parity = 3;
	cluster_lose(&job, 1);
	go_on(3, true);
	job.opts.group_nodes = 2;
	job.opts.parity = 1;
	cluster_lose(&job, 7);
	go_on(4, true);
	job.opts.window = 7;
	job.opts.copy_threads = 3;
	job.opts.max_bandwidth = 200000000;
	cluster_lose(&job, 5);
	go_on(5, true);
	job.opts.group_nodes = 4;
	cluster_lose(&job, 10);
	go_on(6, false);
	cluster_deinit(&job);
}

static void restores_with_nodes_replaced_and_reordered(void)
{
	for (uint32_t set = 1; set < 16; set++) {
		char text[64];

		if (__builtin_popcount(set) > 2 || (check_quick() && set % 3))
			continue;
		check_note("replaced %s", cluster_set_text(set, text));
		begin("1,1,1,1", 2, set);
		cluster_lose(&job, set);
		cluster_replace(&job, set);
		shift(set % 4);
		go_on(2, true);
		cluster_lose(&job, 15 & ~set & (set << 1 | 1));
		go_on(3, false);
		cluster_deinit(&job);
	}
}

/* Nodes that were away for a whole other run hold an epoch of the same number. */
static void the_later_run_wins_over_nodes_that_were_away(void)
{
	uint64_t salt;

	check_note("another run meanwhile");
	begin("1,1,1,1", 2, 1);
	cluster_lose(&job, 12);
	/* The other two are away: all that is left is new. */
	cluster_place(&job, "0,0,2,2");
	job.opts.parity = 1;
	cluster_start_fresh(&job);
	salt = ++job.salt;
	cluster_commit(&job, 1);
	cluster_close(&job);
	/* All together, but half of the new run is lost. */
	cluster_lose(&job, 8);
	cluster_place(&job, "1,1,1,1");
	job.salt = salt;
	go_on(1, true);
	go_on(2, false);
	cluster_deinit(&job);
}

/* A node misses versions while a spare stands in for it. */
static void a_node_that_was_away_is_brought_up_to_date(void)
{
	for (uint32_t stored = 1; stored <= 3; stored++)
		for (uint32_t lost = 0; lost < 2; lost++) {
			check_note("%u versions missed, %s", stored,
			           lost ? "another node lost" : "none lost");
			begin("1,1,1,1", 1, stored);
			cluster_replace(&job, 4);
			cluster_start(&job);
			cluster_restore(&job, 2);
			for (uint32_t v = 3; v < 3 + stored; v++)
				cluster_commit(&job, v);
			cluster_close(&job);
			cluster_name_nodes(&job);
			cluster_lose(&job, lost ? 2 : 0);
			cluster_start(&job);
			/* With the other node gone, the last that all but one hold. */
			if (!lost)
				cluster_restore(&job, 2 + stored);
			else if (stored == 1)
				cluster_restore(&job, 2);
			else
				cluster_restore_fails(&job, FTMEM_ELOST);
			cluster_close(&job);
			cluster_deinit(&job);
		}
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"restores_with_host_file_reordered", restores_with_host_file_reordered},
		{"restores_with_ranks_of_a_node_reordered",
	         restores_with_ranks_of_a_node_reordered},
		{"restores_on_more_nodes_and_back", restores_on_more_nodes_and_back},
		{"restores_from_one_node_and_back", restores_from_one_node_and_back},
		{"restores_with_other_options", restores_with_other_options},
		{"restores_with_nodes_replaced_and_reordered",
	         restores_with_nodes_replaced_and_reordered},
		{"the_later_run_wins_over_nodes_that_were_away",
	         the_later_run_wins_over_nodes_that_were_away},
		{"a_node_that_was_away_is_brought_up_to_date",
	         a_node_that_was_away_is_brought_up_to_date},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
