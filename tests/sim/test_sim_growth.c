/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What open, seal, commit and recovery cost one rank of a job of any size: one rank runs
 * the whole library, the others are made up (growth.h). Ranks that are looked at: the first,
 * the last, the middle one, one whose group lost a node, others at random.
 *
 *   test_sim_growth [--nodes N,N,...] [--parity M] [--json FILE]
 *
 * As a test it checks that nothing grows faster than with the logarithm of the ranks but
 * for the table of ranks, and that this has no more bytes for each rank than is documented.
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "error.h"
#include "growth_report.h"
#include "rebuild.h"
#include "test_random.h"

#define SAMPLES 6
#define BYTES   (UINT64_C(64) << 10)
#define BLOCK   4096

struct growth_world growth_world;

static uint32_t sizes[GROWTH_SIZES] = {8, 64, 512, 2048}, size_count = 4, parity = 1;
static const char *json;
static uint8_t state[BYTES];
static bool rebuilds; /* the real rank has a part in that */

void growth_require(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "growth: not so: %s (%s)\n", what, error_msg());
	abort();
}

/* --- what runs beside the one rank --- */

const struct copy_ops *__real_copy_host(void);
const struct copy_ops *__wrap_copy_host(void);
int __real_rebuild_rails(const struct rebuild_config *config, uint32_t count,
                         struct rebuild_report *report);
int __wrap_rebuild_rails(const struct rebuild_config *config, uint32_t count,
                         struct rebuild_report *report);

/* The same number of steps in every run: whoever looks after the copy finds it done. */
static int begin_and_wait(struct copy *c, const struct copy_job *job, void *stream)
{
	int rc = __real_copy_host()->begin(c, job, stream);

	return rc ? rc : __real_copy_host()->fence(c, stream, UINT64_MAX);
}

const struct copy_ops *__wrap_copy_host(void)
{
	static struct copy_ops ops;

	ops = *__real_copy_host();
	ops.begin = begin_and_wait;
	return &ops;
}

/* Where nothing is lost a rank looks through its own blocks; else bytes move in proportion
 * to those of a rank, between the members of the rail, however large the job is. */
int __wrap_rebuild_rails(const struct rebuild_config *config, uint32_t count,
                         struct rebuild_report *report)
{
	for (uint32_t i = 0; i < count; i++) {
		growth_require(config[i].rail->n == growth_world.job->group_nodes,
		               "a rail is as large in any job");
		for (uint32_t j = 0; j < config[i].rail->n; j++)
			rebuilds = rebuilds || config[i].member[j].lost;
	}
	return rebuilds ? 0 : __real_rebuild_rails(config, count, report);
}

/* --- one rank --- */

static void quiet(void *arg, int level, const char *line)
{
	(void)arg;
	if (level <= FTMEM_LOG_ERROR)
		fprintf(stderr, "%s\n", line);
}

static struct ftmem *start(struct growth_cost *open_cost, struct growth_cost *seal_cost)
{
	struct ftmem_opts opts = FTMEM_OPTS_INIT;
	struct ftmem_region region = FTMEM_REGION_INIT;
	struct ftmem *ft = NULL;
	char node[FTMEM_NAME_MAX + 1];

	growth_node_name(growth_world.rank, node, sizeof(node));
	opts.job = "growth";
	opts.node = node;
	opts.group_nodes = growth_world.job->group_nodes;
	opts.parity = growth_world.job->parity;
	/* Not as this machine has caches and CPUs. */
	opts.block_bytes = BLOCK;
	opts.window = 2;
	opts.copy_threads = 1;
	opts.log = quiet;
	growth_cost_begin();
	growth_require(ftmem_open(&opts, &ft) == 0, "ftmem_open");
	*open_cost = growth_cost_end();
	if (!growth_world.map)
		growth_require(map_copy(ft->map, &growth_world.map) == 0, "map");
	region.name = "state";
	region.addr = state;
	region.bytes = sizeof(state);
	growth_cost_begin();
	growth_require(ftmem_region_add(ft, &region) == 0, "ftmem_region_add");
	growth_require(ftmem_seal(ft) == 0, "ftmem_seal");
	*seal_cost = growth_cost_end();
	growth_world.data_bytes = ft->epoch->layout->data_bytes;
	return ft;
}

static void end(struct ftmem *ft)
{
	growth_cost_resume();
	ftmem_close(ft);
	growth_cost_pause();
	growth_require(growth_cost_live() == 0, "all memory is given back");
}

static struct growth_cost commit(struct ftmem *ft, uint64_t version)
{
	memset(state, (int)version, sizeof(state));
	growth_cost_begin();
	growth_require(ftmem_snapshot(ft, version, NULL) == 0, "ftmem_snapshot");
	growth_require(ftmem_wait(ft, version, 10000) == 0, "ftmem_wait");
	return growth_cost_end();
}

/* What the others hold when this rank ends. */
static void remember(const struct ftmem *ft)
{
	struct gather_record *r = &growth_world.record;
	const struct arena *a = ft->epoch->arena;

	*r = (struct gather_record){
		.epoch = a->header->epoch, .map_sum = a->header->map_sum, .valid = 1};
	for (int i = 0; i < 2; i++) {
		struct stamp stamp;
		bool damaged;

		r->state[i] = slot_read(&a->slot[i], &stamp, &damaged);
		r->incarnation[i] = stamp.incarnation;
		r->version[i] = stamp.version;
	}
}

static struct growth_cost recover(struct ftmem *ft, uint64_t newest)
{
	struct growth_cost cost;
	uint64_t version = 0;

	memset(state, 0xff, sizeof(state));
	rebuilds = false;
	growth_cost_begin();
	growth_require(ftmem_restore(ft, &version) == 0, "ftmem_restore");
	cost = growth_cost_end();
	growth_require(version == newest, "the newest version is restored");
	for (uint64_t i = 0; i < sizeof(state); i++)
		growth_require(state[i] == (uint8_t)newest, "every byte is restored");
	return cost;
}

/* All start again, without the lost node, and then once more. */
static void run_recovery(struct growth_stream plan, bool shares, uint64_t newest,
                         struct growth_figures *out)
{
	const struct growth_job *job = growth_world.job;
	struct growth_cost open_cost, seal_cost, cost;
	struct ftmem *ft;

	growth_world.restarted = true;
	growth_world.shares = shares;
	ft = start(&open_cost, &seal_cost);
	growth_figures_add(out, GROWTH_SEAL, &seal_cost);
	growth_world.plan = plan;
	cost = recover(ft, newest);
	growth_figures_add(out, GROWTH_RECOVERY, &cost);
	growth_require(growth_world.plan.read == (shares ? plan.size : 0),
	               "the records that come are heard");
	growth_require(rebuilds == (growth_node_of(growth_world.rank) / job->group_nodes
	                            == job->lost_node / job->group_nodes),
	               "the group of the lost node rebuilds, and no other");
	cost = commit(ft, newest + 1);
	growth_figures_add(out, GROWTH_COMMIT, &cost);
	remember(ft);
	end(ft);
}

static void run_rank(const struct growth_job *job, uint32_t rank, struct growth_stream plan,
                     struct growth_figures *out)
{
	struct growth_cost open_cost, seal_cost, cost;
	struct ftmem *ft;

	growth_world = (struct growth_world){.job = job, .rank = rank};
	ft = start(&open_cost, &seal_cost);
	growth_figures_add(out, GROWTH_OPEN, &open_cost);
	growth_figures_add(out, GROWTH_SEAL, &seal_cost);
	for (uint64_t version = 1; version <= 3; version++)
		cost = commit(ft, version);
	growth_figures_add(out, GROWTH_COMMIT, &cost);
	remember(ft);
	end(ft);
	run_recovery(plan, true, 3, out);
	run_recovery(plan, false, 4, out);
	growth_smp_end();
	map_free(growth_world.map);
}

static void run_job(uint32_t nodes, uint64_t *random, struct growth_figures *out)
{
	struct growth_job job = {
		.nodes = nodes, .node_ranks = 8, .ranks = 8 * nodes, .group_nodes = 8,
		.parity = parity, .lost_node = nodes / 2, .region_bytes = sizeof(state)};
	uint32_t rank[SAMPLES] = {0, job.ranks - 1, job.ranks / 4 + 1, 8 * job.lost_node + 11};
	struct growth_stream plan[SAMPLES] = {{0}};

	/* The lost node's own ranks are not among them: what they held is not there. */
	for (uint32_t i = 4; i < SAMPLES; i++)
		do {
			rank[i] = (uint32_t)(test_random(random) % job.ranks);
		} while (rank[i] / 8 == job.lost_node);
	*out = (struct growth_figures){.nodes = nodes, .ranks = job.ranks, .sampled = SAMPLES};
	growth_plan(&job, rank, SAMPLES, plan);
	for (uint32_t i = 0; i < SAMPLES; i++) {
		run_rank(&job, rank[i], plan[i], out);
		free(plan[i].at);
	}
}

/* --- what may be --- */

/* At most constant + log2 * log2(ranks) + linear * ranks, to a commit also m times the
 * data. The linear part is the table of ranks: bytes of it that are sent and held, steps to
 * read it. Steps have room for compilers that do not optimise. */
static const struct growth_fit allowed[GROWTH_PHASES][GROWTH_QUANTITIES] = {
	[GROWTH_OPEN] = {{20, 24, 0, 0}, {2048, 256, 136, 0}, {0, 0, 136, 0},
	                 {262144, 0, 264, 0}, {60000, 6000, 240, 0}},
	[GROWTH_SEAL] = {{20, 50, 0, 0}, {4096, 512, 16, 0}, {0, 0, 16, 0},
	                 {393216, 0, 66, 0}, {30000, 2000, 80, 0}},
	[GROWTH_COMMIT] = {{50, 2, 0, 0}, {16384, 64, 0, 0}, {0, 0, 0, 0},
	                   {393216, 0, 46, 0}, {50000, 0, 0, 0}},
	[GROWTH_RECOVERY] = {{40, 100, 0, 0}, {16384, 2048, 122, 0}, {8192, 0, 122, 0},
	                     {1048576, 8192, 246, 0}, {60000, 6000, 340, 0}},
};

static bool is_allowed(const struct growth_figures *f, int phase, int quantity)
{
	const struct growth_fit *a = &allowed[phase][quantity];
	double value = f->value[phase][quantity];
	double most = a->constant + a->log2 * growth_rounds(f->ranks) + a->linear * f->ranks;

	if (phase == GROWTH_COMMIT && quantity == GROWTH_BYTES)
		most += (double)parity * BYTES;
	if (value > most)
		print_error("%u ranks, %s: %s is %.0f, allowed %.0f\n", f->ranks,
		            growth_phase_name[phase], growth_quantity_name[quantity], value, most);
	return value <= most;
}

static void only_the_table_of_ranks_grows_with_their_number(void **unused)
{
	static struct growth_figures figures[GROWTH_SIZES];
	const char *seed = getenv("FTMEM_SEED");
	uint64_t random = seed ? strtoull(seed, NULL, 0) : 1;
	bool good = true;

	(void)unused;
	printf("FTMEM_SEED=%" PRIu64 "\n", random);
	for (uint32_t i = 0; i < size_count; i++)
		run_job(sizes[i], &random, &figures[i]);
	growth_print(figures, size_count);
	for (uint32_t i = 0; i < size_count; i++)
		for (int p = 0; p < GROWTH_PHASES; p++)
			for (int q = 0; q < GROWTH_QUANTITIES; q++)
				good = is_allowed(&figures[i], p, q) && good;
	if (json) {
		struct growth_job job = {.node_ranks = 8, .group_nodes = 8, .parity = parity};

		assert_true(growth_write(json, &job, figures, size_count));
	}
	assert_true(good);
}

static bool read_sizes(char *text)
{
	size_count = 0;
	for (char *word = strtok(text, ","); word; word = strtok(NULL, ",")) {
		unsigned long nodes = strtoul(word, NULL, 10);

		if (size_count == GROWTH_SIZES || nodes < 8 || nodes > 65536 || nodes % 8 != 0)
			return false;
		sizes[size_count++] = (uint32_t)nodes;
	}
	return size_count > 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_the_table_of_ranks_grows_with_their_number),
	};
	bool good = argc % 2 == 1;

	for (int i = 1; good && i < argc; i += 2) {
		if (strcmp(argv[i], "--json") == 0)
			json = argv[i + 1];
		else if (strcmp(argv[i], "--parity") == 0)
			parity = (uint32_t)strtoul(argv[i + 1], NULL, 10);
		else
			good = strcmp(argv[i], "--nodes") == 0 && read_sizes(argv[i + 1]);
	}
	if (!good || parity < 1 || parity > 4) {
		fprintf(stderr, "usage: test_sim_growth [--nodes N,N,...] [--parity 1..4] "
		                "[--json FILE]\n       N: multiples of 8 up to 65536\n");
		return 2;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
