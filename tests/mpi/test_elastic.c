/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random tensors, cut at random over 1 to 12 ranks on random nodes, come back on any other
 * ranks and nodes, cut in another way, after the loss of what parity covers: each byte.
 *
 * Each round is a job of its own. FTMEM_TEST_ROUNDS sets how many; the seed of the first
 * is the one printed, that of each next one more.
 */
#include "map.h"
#include "mpi_check.h"
#include "shards.h"
#include "test_random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODES_MOST 8 /* of one run */

static struct shards job;
static uint64_t shared; /* random numbers that all ranks draw alike */

/* The map of the run that stored what is stored now. */
static struct map *stored;

static uint32_t draw(uint32_t below)
{
	return test_random_below(&shared, below);
}

static uint32_t bits(uint32_t set)
{
	return (uint32_t)__builtin_popcount(set);
}

/* --- nodes, as numbers of cluster.h --- */

static uint32_t used_nodes(void)
{
	uint32_t set = 0;

	for (uint32_t i = 0; i < job.ranks; i++)
		set |= 1u << job.c.node_of[i];
	return set;
}

/* The number of a node of a map. */
static uint32_t node_number(const struct map *m, uint32_t node)
{
	for (uint32_t i = 0; i < job.c.nodes; i++)
		if (strcmp(job.c.node[i], m->node[node].name) == 0)
			return i;
	CHECK(false);
	return 0;
}

static uint32_t group_nodes(const struct map *m, uint32_t group)
{
	uint32_t set = 0;

	for (uint32_t i = 0; i < m->nodes; i++)
		if (m->node[i].group == group)
			set |= 1u << node_number(m, i);
	return set;
}

static void note_stored(void)
{
	struct map_rank rank[CLUSTER_RANKS] = {0};

	for (uint32_t i = 0; i < job.ranks; i++)
		snprintf(rank[i].node, sizeof(rank[i].node), "%s", job.c.node[job.c.node_of[i]]);
	map_free(stored);
	stored = NULL;
	CHECK_RESULT(map_new(rank, job.ranks, job.c.opts.group_nodes, job.c.opts.parity, &stored),
	             0);
}

/* Some of a set, at most so many. */
static uint32_t some_of(uint32_t set, uint32_t most)
{
	uint32_t some = 0;

	for (uint32_t i = 0; i < 3 * most && bits(some) < most; i++)
		if (draw(3))
			some |= set & 1u << draw(CLUSTER_NODES);
	return some;
}

/* Nodes that can be done without, as far as what is stored goes. */
static uint32_t spare_nodes(void)
{
	uint32_t set = 0;

	for (uint32_t g = 0; stored && g < stored->groups; g++)
		set |= some_of(group_nodes(stored, g), stored->parity);
	return set;
}

/* Ranks on nodes: on each one that is needed, and on others. */
static void place(uint32_t needed)
{
	uint32_t count = bits(needed), nodes = needed, ranks = 1 + draw(job.c.size), most;

	ranks = ranks < count ? count : ranks;
	most = ranks < NODES_MOST ? ranks : NODES_MOST;
	if (count < most)
		count += draw(most - count + 1);
	while (bits(nodes) < count || nodes == 0)
		nodes |= 1u << draw(CLUSTER_NODES);
	for (uint32_t i = 0; i < ranks;) {
		uint32_t left = nodes;

		for (uint32_t j = 0; j < i; j++)
			left &= ~(1u << job.c.node_of[j]);
		job.c.node_of[i] = draw(CLUSTER_NODES);
		i += (left ? left : nodes) >> job.c.node_of[i] & 1;
	}
	/* Neither node by node nor in turn. */
	for (uint32_t i = ranks; i > 1; i--) {
		uint32_t with = draw(i), node = job.c.node_of[i - 1];

		job.c.node_of[i - 1] = job.c.node_of[with];
		job.c.node_of[with] = node;
	}
	shards_ranks(&job, ranks);
}

static void choose_options(void)
{
	uint32_t nodes = bits(used_nodes()), most = nodes < 4 ? nodes - 1 : 3;

	job.c.opts.parity = most > 0 ? 1 + draw(most) : 1;
	job.c.opts.group_nodes = 2 + draw(7);
	job.c.opts.block_bytes = draw(2) ? 4096 : 0;
	job.c.opts.window = 1 + draw(4);
	job.c.opts.copy_threads = 1 + draw(2);
	job.c.opts.compare_every = draw(3);
}

/* --- private regions --- */

/* All get those of few old ranks, or none. */
static uint32_t give(void *arg, const char *name, uint32_t rank, uint32_t ranks, uint32_t old_ranks)
{
	uint32_t turn = *(const uint32_t *)arg;

	CHECK_MSG(strcmp(name, "private") == 0 && ranks == job.ranks && rank == job.c.rank,
	          "private_from() was called for region %s of rank %u of %u", name, rank, ranks);
	return (rank + turn) % 3 ? (rank * turn + 1) % old_ranks : FTMEM_NO_RANK;
}

static void choose_private(uint32_t old_ranks)
{
	static uint32_t turn;
	uint32_t rule = draw(3);

	turn = draw(100);
	/* By number, which must do if there are not more ranks. */
	job.c.opts.private_rule = 0;
	job.c.opts.private_from = NULL;
	job.home = job.c.rank;
	if (rule == 0 && job.ranks <= old_ranks)
		return;
	if (rule == 1) {
		job.c.opts.private_from = give;
		job.c.opts.private_arg = &turn;
	} else {
		job.c.opts.private_rule = FTMEM_PRIVATE_DROP;
	}
	if (job.ranks != old_ranks && shards_runs(&job))
		job.home = rule == 1 ? give(&turn, "private", job.c.rank, job.ranks, old_ranks)
		                     : FTMEM_NO_RANK;
}

/* --- runs --- */

static void describe(uint32_t round, const char *what)
{
	char text[64];

	check_note("round %u (alone: FTMEM_TEST_SEED=%llu FTMEM_TEST_ROUNDS=1): %s: %u ranks on "
	           "nodes %s, groups of %u, parity %u, %llu bytes in %u tensors",
	           round, (unsigned long long)(check_seed() + round), what, job.ranks,
	           cluster_set_text(used_nodes(), text), job.c.opts.group_nodes, job.c.opts.parity,
	           (unsigned long long)shards_model_bytes(&job), job.tensors);
}

/* A job that has stored a version, and perhaps some before; the last is returned. */
static uint64_t begin(uint32_t round)
{
	uint64_t version = 1 + draw(3);

	shards_init(&job, MPI_COMM_WORLD);
	shared = check_seed() + round;
	job.c.salt = shared;
	shards_random_model(&job, &shared);
	job.private_bytes = draw(3) ? 1 + draw(3000) : 0;
	place(0);
	choose_options();
	describe(round, "begins");
	shards_random_shape(&job, true, &shared);
	shards_start(&job);
	shards_restore_fails(&job, FTMEM_FRESH);
	for (uint64_t v = 1; v <= version; v++)
		shards_commit(&job, v);
	shards_close(&job);
	note_stored();
	return version;
}

static void end(void)
{
	shards_deinit(&job);
	map_free(stored);
	stored = NULL;
}

static uint32_t rounds_of(uint32_t usual, uint32_t quick)
{
	const char *text = getenv("FTMEM_TEST_ROUNDS");

	if (text)
		return (uint32_t)atoi(text);
	return check_quick() ? quick : usual;
}

/* Every node that holds what is stored. */
static uint32_t holders(void)
{
	uint32_t set = 0;

	for (uint32_t g = 0; g < stored->groups; g++)
		set |= group_nodes(stored, g);
	return set;
}

/* Of what is missing some is lost, the rest only has no rank any more. Nodes that hold
 * nothing, or what is old, may be lost too. */
static void lose(uint32_t missing)
{
	uint32_t lost = some_of(missing, bits(missing));

	if (draw(4) == 0)
		lost |= some_of(0xffff & ~holders(), 4);
	cluster_lose(&job.c, lost);
}

static void hop(uint32_t round, uint64_t *version, bool last)
{
	uint32_t missing = spare_nodes(), old_ranks = stored->ranks, commits = draw(3);
	bool all = !last || draw(2);
	char text[64], what[96];

	lose(missing);
	place(holders() & ~missing);
	choose_options();
	choose_private(old_ranks);
	snprintf(what, sizeof(what), "version %llu of %u ranks without nodes %s",
	         (unsigned long long)*version, old_ranks, cluster_set_text(missing, text));
	describe(round, what);
	shards_random_shape(&job, all, &shared);
	shards_start(&job);
	shards_restore(&job, *version);
	job.home = job.c.rank;
	/* What private bytes came from elsewhere are stored as this rank's. */
	if (commits == 0 && job.ranks != old_ranks)
		commits = 1;
	for (uint32_t i = 0; i < commits; i++)
		shards_commit(&job, ++*version);
	if (shards_runs(&job))
		CHECK(cluster_stats(&job.c).differing == 0);
	shards_close(&job);
	note_stored();
}

static void any_shape_is_restored_on_any_other(void)
{
	uint32_t rounds = rounds_of(60, 10);

	for (uint32_t i = 0; i < rounds; i++) {
		uint64_t version = begin(i);
		uint32_t hops = 1 + draw(4);

		for (uint32_t j = 0; j < hops; j++)
			hop(i, &version, j + 1 == hops);
		end();
	}
}

/* One node more of a group than parity covers, while others stay; 0 if there are none. */
static uint32_t too_many(void)
{
	uint32_t nodes = group_nodes(stored, draw(stored->groups)), missing = 0;

	while (stored->nodes > stored->parity + 1 && bits(missing) <= stored->parity)
		missing |= nodes & 1u << draw(CLUSTER_NODES);
	return missing;
}

/* Starts without those nodes: some are lost, which parity covers, the others away. */
static void is_refused(uint32_t round, uint32_t missing, uint32_t lost)
{
	cluster_lose(&job.c, lost);
	place(holders() & ~missing);
	for (uint32_t i = 0; i < job.ranks; i++)
		while ((missing & ~lost) >> job.c.node_of[i] & 1)
			job.c.node_of[i] = draw(CLUSTER_NODES);
	choose_options();
	choose_private(stored->ranks);
	describe(round, "too much is away");
	shards_random_shape(&job, draw(2), &shared);
	shards_start(&job);
	shards_restore_fails(&job, FTMEM_ELOST);
	if (shards_runs(&job))
		CHECK_MESSAGE("nothing was erased");
	shards_close(&job);
}

static void one_more_loss_is_refused_and_nothing_is_written(void)
{
	uint32_t rounds = rounds_of(25, 5), refused = 0;

	for (uint32_t i = 0; i < rounds; i++) {
		uint64_t version = begin(i);
		uint32_t missing = too_many(), lost = some_of(missing, stored->parity);

		if (missing) {
			is_refused(i, missing, lost);
			refused++;
			/* Those that were only away are back. */
			place(holders() & ~lost);
			choose_options();
			choose_private(stored->ranks);
			describe(i, "enough is back");
			shards_random_shape(&job, true, &shared);
			shards_start(&job);
			shards_restore(&job, version);
			shards_close(&job);
		}
		end();
	}
	check_say("refused %u times", refused);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"any_shape_is_restored_on_any_other", any_shape_is_restored_on_any_other},
		{"one_more_loss_is_refused_and_nothing_is_written",
	         one_more_loss_is_refused_and_nothing_is_written},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
