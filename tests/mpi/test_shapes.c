/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A job comes back on any other number of ranks with its state cut in any other way: all
 * ordered pairs of shapes, and back to the same one, on 8 ranks.
 */
#include "mpi_check.h"
#include "shards.h"
#include "test_random.h"

static const uint32_t counts[] = {2, 3, 4, 6, 8};
#define COUNTS ((uint32_t)(sizeof(counts) / sizeof(counts[0])))
#define SHAPES (COUNTS * SHARDS_KINDS)

/* Slot data that is no tensor's: the layout, and up to a block of padding for a piece. */
#define OVERHEAD_BYTES 8192

static struct shards job;
static uint64_t shared; /* random numbers that all ranks draw alike */
static bool seen[SHAPES][SHAPES];

static uint32_t draw(uint32_t below)
{
	return test_random_below(&shared, below);
}

static void begin(void)
{
	shards_init(&job, MPI_COMM_WORLD);
	job.c.opts.block_bytes = 4096;
	shards_model(&job);
	shared = check_seed();
}

/* Ranks on the first so many nodes, in runs. */
static void enter_shape(uint32_t ranks, uint32_t nodes, enum shards_kind kind)
{
	for (uint32_t i = 0; i < ranks; i++)
		job.c.node_of[i] = i * nodes / ranks;
	shards_ranks(&job, ranks);
	shards_shape(&job, kind);
	shards_start(&job);
}

/* Whatever replicas there are, each element is stored once. */
static void check_stored(void)
{
	uint64_t stored = shards_stored_bytes(&job), model = shards_model_bytes(&job);

	CHECK_MSG(stored >= model && stored < model + job.ranks * OVERHEAD_BYTES,
	          "%llu bytes are stored of a model of %llu", (unsigned long long)stored,
	          (unsigned long long)model);
}

/* Where a walk stands: the version that is stored, in a shape. */
struct walk {
	uint64_t version;
	uint32_t shape;
};

/* Restores what is stored, perhaps without a node, in another shape. */
static void step(struct walk *w, uint32_t shape)
{
	static const char *const node[] = {"n0", "n1", "none", "none", "none", "none"};
	uint32_t ranks = counts[shape % COUNTS], lost = draw(6);
	enum shards_kind kind = (enum shards_kind)(shape / COUNTS);

	check_note("version %llu: from %u ranks, %s to %u ranks, %s; node lost: %s",
	           (unsigned long long)w->version, counts[w->shape % COUNTS],
	           shards_kind_text((enum shards_kind)(w->shape / COUNTS)), ranks,
	           shards_kind_text(kind), node[lost]);
	if (lost < 2)
		cluster_lose(&job.c, 1u << lost);
	enter_shape(ranks, 2, kind);
	shards_restore(&job, w->version);
	check_stored();
	/* Else what was protected again in this shape is what the next one finds. */
	if (draw(4))
		shards_commit(&job, ++w->version);
	shards_close(&job);
	seen[w->shape][shape] = true;
	w->shape = shape;
}

/*
 * The shapes so that each follows each once: a de Bruijn sequence of order 2, as the
 * words i, and i j for all j > i, in that order. It closes with the first.
 */
static void walk_all(struct walk *w)
{
	for (uint32_t i = 0; i < SHAPES; i++) {
		if (i > 0)
			step(w, i);
		for (uint32_t j = i + 1; j < SHAPES; j++) {
			step(w, i);
			step(w, j);
		}
	}
	step(w, 0);
	for (uint32_t i = 0; i < SHAPES * SHAPES; i++)
		CHECK_MSG(seen[i / SHAPES][i % SHAPES], "the walk left out a pair");
}

static void every_shape_is_restored_on_every_shape(void)
{
	struct walk w = {.version = 1};

	begin();
	enter_shape(counts[0], 2, SHARDS_WHOLE);
	shards_restore_fails(&job, FTMEM_FRESH);
	shards_commit(&job, w.version);
	shards_close(&job);
	if (check_quick())
		for (uint32_t i = 0; i < 30; i++)
			step(&w, draw(SHAPES));
	else
		walk_all(&w);
	shards_deinit(&job);
}

/* One rank on each node: nodes that no rank is on any more count as lost. */
static void ranks_and_nodes_come_and_go(void)
{
	uint32_t steps = check_quick() ? 8 : 50, at = 4, next, parity;
	uint64_t version = 1;

	begin();
	job.c.opts.parity = 2;
	enter_shape(counts[at], counts[at], SHARDS_GRID);
	shards_restore_fails(&job, FTMEM_FRESH);
	shards_commit(&job, version);
	shards_close(&job);
	for (uint32_t i = 0; i < steps; i++) {
		enum shards_kind kind = (enum shards_kind)draw(SHARDS_KINDS);
		uint32_t away, lost = 0;

		parity = job.c.opts.parity;
		do {
			next = draw(COUNTS);
			away = counts[at] > counts[next] ? counts[at] - counts[next] : 0;
		} while (away > parity);
		for (; away < parity && draw(2); away++)
			lost |= 1u << draw(counts[next]);
		check_note("from %u to %u nodes, lost: set %x of them, %s", counts[at],
		           counts[next], lost, shards_kind_text(kind));
		at = next;
		job.c.opts.parity = counts[at] > 2 ? 2 : 1;
		cluster_lose(&job.c, lost);
		enter_shape(counts[at], counts[at], kind);
		shards_restore(&job, version);
		shards_commit(&job, ++version);
		shards_close(&job);
	}
	shards_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"every_shape_is_restored_on_every_shape", every_shape_is_restored_on_every_shape},
		{"ranks_and_nodes_come_and_go", ranks_and_nodes_come_and_go},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
