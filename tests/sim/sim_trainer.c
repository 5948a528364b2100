/* SPDX-License-Identifier: BSD-3-Clause */
/* What one rank of the job does, and the state that it trains. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"
#include "test_random.h"

#define POISON 0xb7b7b7b7b7b7b7b7u

/* --- state --- */

/* A word of a tensor, or of what is private to a rank. */
static uint64_t word_of(struct sim_content c, uint32_t tensor, uint32_t index)
{
	uint64_t state = ((uint64_t)c.run << 40) + ((uint64_t)c.version << 8) + tensor;

	state = test_random(&state) + index;
	return test_random(&state);
}

static uint64_t part_word(const struct sim_part *t, struct sim_content c, uint32_t i)
{
	return word_of(c, t->tensor, t->from + i);
}

static void fill(struct sim_process *p, struct sim_content c)
{
	for (uint32_t i = 0; i < p->parts; i++)
		for (uint32_t j = 0; j < p->part[i].count; j++)
			p->part[i].word[j] = part_word(&p->part[i], c, j);
}

static void poison(struct sim_process *p)
{
	for (uint32_t i = 0; i < p->parts; i++)
		for (uint32_t j = 0; j < p->part[i].count; j++)
			p->part[i].word[j] = POISON;
}

/* Which run trained what lies in the regions, by their first word; 0: none. */
static uint32_t find_run(const struct sim_process *p, uint32_t version)
{
	struct sim_content c = {sim.runs, version};

	while (c.run > 0 && p->part[0].word[0] != part_word(&p->part[0], c, 0))
		c.run--;
	return c.run;
}

static void check(struct sim_process *p)
{
	for (uint32_t i = 0; i < p->parts; i++)
		for (uint32_t j = 0; j < p->part[i].count; j++)
			if (p->part[i].word[j] != part_word(&p->part[i], p->got, j)) {
				sim_break("rank %u: word %u of %s is not that of version %u "
				          "of run %u%s", p->rank, p->part[i].from + j,
				          p->part[i].name, p->got.version, p->got.run,
				          p->part[i].word[j] == POISON ? ": it was not restored"
				                                       : "");
				return;
			}
}

/* Where the tensor is cut before that rank: the same on all ranks. */
static uint32_t cut(uint32_t tensor, uint32_t rank, uint32_t words)
{
	uint64_t random = sim.layout_seed * 1000u + sim.ranks * 10u + tensor;
	uint32_t total = 0, before = 0;

	for (uint32_t i = 0; i < sim.ranks; i++) {
		uint32_t weight = test_random_below(&random, 5);

		total += weight;
		before += i < rank ? weight : 0;
	}
	return total == 0 ? (rank ? words : 0) : (uint32_t)((uint64_t)words * before / total);
}

static void add_part(struct sim_process *p, const char *name, uint32_t tensor, uint32_t from,
                     uint32_t to, uint32_t shape)
{
	struct sim_part *t = &p->part[p->parts];

	if (to <= from)
		return;
	*t = (struct sim_part){.tensor = tensor, .from = from, .count = to - from, .shape = shape};
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->word = malloc(sizeof(*t->word) * t->count);
	sim_require(t->word, "memory");
	p->parts++;
}

static int add_region(struct sim_process *p, const struct sim_part *t)
{
	struct ftmem_region region = FTMEM_REGION_INIT;

	region.name = t->name;
	region.addr = t->word;
	region.bytes = 8 * (uint64_t)t->count;
	if (t->shape > 0) {
		region.elem_bytes = 8;
		region.ndim = 1;
		region.shape[0] = t->shape;
		region.start[0] = t->from;
		region.extent[0] = t->count;
	}
	return ftmem_region_add(p->ft, &region);
}

/* Shards, replicas, and what is the rank's own; of some ranks no shard. The second tensor is
 * cut in another way after each seal of a run. */
static int add_regions(struct sim_process *p)
{
	uint32_t words = sim.bytes / 8, r = p->rank, way = 1 + 100 * p->seals;
	int rc = 0;

	add_part(p, "weights", 0, cut(0, r, words), cut(0, r + 1, words), words);
	if (r % 2 == 0)
		add_part(p, "head", 2, 0, 40, 40);
	if (!sim.elastic)
		add_part(p, "rng", 3 + r, 0, 3 + r, 0);
	add_part(p, "moments", 1, cut(way, r, words + 7), cut(way, r + 1, words + 7), words + 7);
	poison(p);
	for (uint32_t i = 0; rc == 0 && i < p->parts; i++)
		rc = add_region(p, &p->part[i]);
	return rc;
}

static void free_parts(struct sim_process *p)
{
	while (p->parts > 0)
		free(p->part[--p->parts].word);
}

/* The layout changes in the middle of a run. */
static int add_regions_anew(struct sim_process *p)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < p->parts; i++)
		rc = ftmem_region_remove(p->ft, p->part[i].name);
	free_parts(p);
	p->seals++;
	return rc == 0 ? add_regions(p) : rc;
}

/* --- the trainer --- */

static void says(void *arg, int level, const char *line)
{
	const struct sim_process *p = arg;

	(void)level;
	sim_trace("rank %u: \"%s\"", p->rank, line);
}

void sim_does(struct sim_process *p, const char *what)
{
	p->doing = what;
	p->since_ns = sim.clock_ns;
}

bool sim_well(struct sim_process *p, int rc)
{
	sim_trace("rank %u: %s%s%s%s", p->rank, p->doing, rc ? ": " : "",
	          rc ? ftmem_strerror(rc) : "", rc < 0 ? " !" : "");
	if (rc >= 0)
		return true;
	sim.tally->failed++;
	if (!sim.disturbed)
		sim_break("%s fails on rank %u, though nobody is gone: %s", p->doing, p->rank,
		          error_msg());
	return false;
}

static int open_job(struct sim_process *p)
{
	struct ftmem_opts opts = FTMEM_OPTS_INIT;
	char node[32];

	snprintf(node, sizeof(node), "machine%u", p->machine);
	opts.job = "sim";
	opts.node = node;
	opts.dir = "/tmp";
	opts.smp_path = "/bin/true";
	opts.group_nodes = sim.aim;
	opts.parity = sim.parity;
	opts.timeout_ms = SIM_TIMEOUT_MS;
	opts.block_bytes = 4096;
	opts.window = 2;
	opts.copy_threads = 1;
	opts.log_level = sim.trace ? FTMEM_LOG_DEBUG : FTMEM_LOG_ERROR;
	opts.log = says;
	opts.log_arg = p;
	return ftmem_open(&opts, &p->ft);
}

/* The base of its versions in *base; false: there is nothing to go on from. Some begin anew
 * where too much is lost. */
static bool restore(struct sim_process *p, uint64_t *base)
{
	uint64_t random = sim.run_random + 1;
	uint64_t version = 0;
	int rc;

	sim_does(p, "ftmem_restore()");
	p->restoring = true;
	rc = ftmem_restore(p->ft, &version);
	sim_step(STEP_RESTORED);
	p->restoring = false;
	sim_trace("rank %u: ftmem_restore() returns %s%s%s", p->rank,
	          rc ? ftmem_strerror(rc) : "a version", rc < 0 ? ": " : "",
	          rc < 0 ? error_msg() : "");
	if (rc == 0) {
		p->got.version = (uint32_t)version;
		p->got.run = p->parts ? find_run(p, p->got.version) : 0;
		if (p->got.run)
			check(p);
	}
	sim_judge_restore(p, rc);
	*base = version;
	if ((rc == FTMEM_ELOST || rc == FTMEM_ECORRUPT) && !sim.disturbed
	    && test_random_below(&random, 2) == 0) {
		p->progress = STAGE_RESTORED;
		return sim_forget(p);
	}
	if (rc < 0)
		return false;
	sim_judge_incarnation(p->run, p->ft->incarnation);
	p->progress = STAGE_RESTORED;
	return true;
}

static bool snapshot(struct sim_process *p, uint32_t version, bool waits)
{
	uint32_t *went = &sim.went[p->run][version];
	int rc;

	fill(p, (struct sim_content){p->run, version});
	*went |= 1u << p->rank;
	sim_does(p, "ftmem_snapshot()");
	if (sim_chance(3)) {
		sim_does(p, "ftmem_skip()");
		rc = ftmem_skip(p->ft, version);
		*went &= ~(1u << p->rank);
		sim.tally->skipped++;
	} else {
		rc = ftmem_snapshot(p->ft, version, NULL);
		sim.tally->busy += rc == FTMEM_BUSY;
		sim.tally->snapshots += rc == 0;
	}
	if (rc != 0)
		*went &= ~(1u << p->rank);
	if (!sim_well(p, rc))
		return false;
	sim_does(p, "ftmem_fence()");
	if (!sim_well(p, ftmem_fence(p->ft, NULL)))
		return false;
	poison(p);
	if (!waits)
		return true;
	sim_does(p, "ftmem_wait()");
	rc = ftmem_wait(p->ft, version, 5 * SIM_TIMEOUT_MS);
	sim.tally->committed += rc == 0;
	sim.tally->dropped += rc == FTMEM_DROPPED;
	return sim_well(p, rc);
}

static bool seal_anew(struct sim_process *p)
{
	sim.tally->resealed += p->rank == 0;
	sim_does(p, "ftmem_region_remove()");
	if (!sim_well(p, add_regions_anew(p)))
		return false;
	sim_does(p, "ftmem_seal()");
	return sim_well(p, ftmem_seal(p->ft));
}

static void train(struct sim_process *p, uint64_t base)
{
	uint64_t random = sim.run_random; /* the same on all ranks */
	uint32_t seal = test_random_below(&random, 15), version = (uint32_t)base;

	for (uint32_t i = 0; i < sim.calls && version + 2 < SIM_VERSIONS; i++) {
		bool waits = test_random_below(&random, 4) > 0;
		bool mends = test_random_below(&random, 3) == 0;

		if (i == seal && !seal_anew(p))
			return;
		if (i == sim.forget_at && !sim_forget(p))
			return;
		version = i == sim.forget_at ? 2 : version + 2;
		if (!snapshot(p, version, waits || i + 1 == sim.calls))
			return;
		if (sim.mends && mends && p->repairs < SIM_REPAIRS && !sim_repair(p))
			return;
	}
}

void *sim_trainer(void *process)
{
	struct sim_process *p = process;
	uint64_t base = 0;
	bool good;

	sim_does(p, "ftmem_open()");
	good = sim_well(p, open_job(p));
	sim_does(p, "ftmem_region_add()");
	good = good && sim_well(p, add_regions(p));
	sim_does(p, "ftmem_seal()");
	good = good && sim_well(p, ftmem_seal(p->ft)) && restore(p, &base);
	if (good)
		train(p, base);
	sim_does(p, "ftmem_close()");
	sim_step(STEP_CLOSING);
	ftmem_close(p->ft);
	p->ft = NULL;
	free_parts(p);
	if (!sim.disturbed && sim_process_holds(p))
		sim_break("rank %u holds memory or descriptors after ftmem_close()", p->rank);
	p->progress = STAGE_OVER;
	sim_does(p, "nothing");
	return NULL;
}
