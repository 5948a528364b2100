/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Nodes are lost between two starts. Argument: a layout of nodes, see cluster.h.
 */
#include <stdio.h>
#include <string.h>

#include "cluster.h"
#include "mpi_check.h"
#include "test_random.h"

#define PARITY_MAX 3u

static const char *layout;
static uint32_t nodes;

static uint32_t max_parity(void)
{
	return nodes - 1 < PARITY_MAX ? nodes - 1 : PARITY_MAX;
}

static uint32_t bits(uint32_t set)
{
	return (uint32_t)__builtin_popcount(set);
}

/* Another set of count nodes, moving with turn. */
static uint32_t next_set(uint32_t count, uint32_t turn)
{
	uint32_t sets = 0, found = 0;

	for (uint32_t set = 0; set < 1u << nodes; set++)
		sets += bits(set) == count;
	for (uint32_t set = 0; set < 1u << nodes; set++)
		if (bits(set) == count && found++ == turn % sets)
			return set;
	return 0;
}

/* Everything is tried with few ranks; with many a sample, the same for a seed. */
static bool chosen(uint64_t *random)
{
	uint32_t ranks = check_size(), one_of = 1;

	if (nodes > 4 && ranks > nodes)
		one_of = 6;
	if (check_quick())
		one_of = ranks > nodes ? 24 : nodes > 4 ? 16 : nodes > 3 ? 4 : 2;
	return test_random_below(random, one_of) == 0;
}

static void prepare(struct cluster *c, uint32_t parity, uint32_t turn)
{
	c->opts.parity = parity;
	c->opts.block_bytes = turn % 2 ? 4096 : 0;
	c->salt += turn;
	cluster_sizes(c, turn);
	cluster_start(c);
	CHECK_RESULT(ftmem_forget(c->ft), 0);
	cluster_commit(c, 6);
	cluster_commit(c, 7);
	cluster_close(c);
}

/* Loses set, comes back; loses as much as can be, at once or after a further version,
 * and comes back again. */
static void lose_and_restore(struct cluster *c, uint32_t parity, uint32_t set, uint32_t turn)
{
	uint32_t second = next_set(parity, turn);
	uint64_t newest = 7;
	char a[64], b[64];

	check_note("layout %s, parity %u, turn %u: lost %s, then %s", layout, parity, turn,
	           cluster_set_text(set, a), cluster_set_text(second, b));
	prepare(c, parity, turn);
	cluster_lose(c, set);
	cluster_start(c);
	cluster_restore(c, 7);
	CHECK(cluster_stats(c).lost_members <= bits(set));
	if (turn % 3 == 2)
		cluster_commit(c, ++newest);
	cluster_close(c);
	cluster_lose(c, second);
	cluster_start(c);
	cluster_restore(c, newest);
	cluster_commit(c, newest + 1);
	cluster_close(c);
}

static void restores_every_loss_up_to_parity(void)
{
	uint64_t random = check_seed();
	uint32_t tried = 0, turn = 0;
	struct cluster c;

	cluster_init(&c, MPI_COMM_WORLD, layout);
	for (uint32_t m = 1; m <= max_parity(); m++)
		for (uint32_t set = 0; set < 1u << nodes; set++) {
			if (bits(set) > m || !chosen(&random))
				continue;
			lose_and_restore(&c, m, set, turn++);
			tried++;
		}
	cluster_deinit(&c);
	check_say("   layout %s: %u sets of lost nodes", layout, tried);
}

/* The nodes of set are away: others take their place, until they are back. */
static void miss_and_return(struct cluster *c, uint32_t parity, uint32_t set, uint32_t turn)
{
	uint64_t before;
	char text[64];

	check_note("layout %s, parity %u, turn %u: missing %s", layout, parity, turn,
	           cluster_set_text(set, text));
	prepare(c, parity, turn);
	before = cluster_digest(c, set);
	cluster_replace(c, set);
	cluster_start(c);
	cluster_restore_fails(c, FTMEM_ELOST);
	CHECK_MESSAGE("version 7");
	for (uint32_t i = 0; i < c->nodes; i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%u", i);
		CHECK_MSG(!(set >> i & 1) || strstr(ftmem_errmsg(), name)
		                  || strstr(ftmem_errmsg(), c->node[i]),
		          "node %s is not named", name);
	}
	CHECK_RESULT(ftmem_snapshot(c->ft, 9, NULL), FTMEM_EINVAL);
	cluster_close(c);
	CHECK_MSG(cluster_digest(c, set) == before, "what is stored was written to");
	cluster_lose(c, set);
	cluster_name_nodes(c);
	cluster_start(c);
	cluster_restore(c, 7);
	cluster_close(c);
}

static void refuses_one_more_and_restores_when_it_is_back(void)
{
	uint64_t random = check_seed() + 1;
	uint32_t tried = 0, turn = 0;
	struct cluster c;

	cluster_init(&c, MPI_COMM_WORLD, layout);
	for (uint32_t m = 1; m <= max_parity() && m + 1 < nodes; m++)
		for (uint32_t set = 0; set < 1u << nodes; set++) {
			if (bits(set) != m + 1 || !chosen(&random))
				continue;
			miss_and_return(&c, m, set, turn++);
			tried++;
		}
	cluster_deinit(&c);
	check_say("   layout %s: %u sets of missing nodes", layout, tried);
}

static void begins_anew_when_all_is_lost(void)
{
	struct cluster c;

	cluster_init(&c, MPI_COMM_WORLD, layout);
	prepare(&c, 1, 0);
	cluster_lose(&c, ~0u);
	cluster_start_fresh(&c);
	c.salt++;
	cluster_commit(&c, 1);
	cluster_close(&c);
	cluster_start(&c);
	cluster_restore(&c, 1);
	cluster_deinit(&c);
}

/* Whether each group of so many neighbours can bear the loss of set. */
static bool bearable(uint32_t set, uint32_t group, uint32_t parity)
{
	for (uint32_t i = 0; i < nodes; i += group)
		if (bits(set >> i & ((1u << group) - 1)) > parity)
			return false;
	return true;
}

/* More are lost than one group could bear, but each bears its own. */
static void each_group_bears_its_own_losses(void)
{
	uint64_t random = check_seed() + 2;
	uint32_t group = nodes % 3 == 0 ? 3 : 2, turn = 0;
	struct cluster c;

	if (nodes < 4 || nodes % group)
		return;
	cluster_init(&c, MPI_COMM_WORLD, layout);
	c.opts.group_nodes = group;
	for (uint32_t set = 0; set < 1u << nodes; set++) {
		if (bits(set) < 2 || !chosen(&random))
			continue;
		if (bearable(set, group, 1))
			lose_and_restore(&c, 1, set, turn++);
		else if (bits(set) == 2)
			miss_and_return(&c, 1, set, turn++);
	}
	cluster_deinit(&c);
	check_say("   layout %s: %u sets in groups of %u", layout, turn, group);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"restores_every_loss_up_to_parity", restores_every_loss_up_to_parity},
		{"refuses_one_more_and_restores_when_it_is_back",
	         refuses_one_more_and_restores_when_it_is_back},
		{"begins_anew_when_all_is_lost", begins_anew_when_all_is_lost},
		{"each_group_bears_its_own_losses", each_group_bears_its_own_losses},
	};

	check_init(&argc, &argv);
	CHECK_MSG(argc > 1, "usage: test_loss LAYOUT");
	layout = argv[1];
	nodes = 1;
	for (const char *at = layout; *at; at++)
		nodes += *at == ',';
	return CHECK_RUN(cases);
}
