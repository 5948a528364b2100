/* SPDX-License-Identifier: BSD-3-Clause */
#include "load.h"

#include <math.h>
#include <mpi.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "error.h"

#define CACHED    (UINT64_C(256) << 10) /* of what is computed with, fits in L2 */
#define SWEPT     (UINT64_C(32) << 20)
#define REDUCED   (UINT64_C(4) << 20)
#define STEP_NS   UINT64_C(10000000)    /* of computing; the sweep comes on top */
#define PHASE_S   0.3                   /* at least */
#define PAIRS     5                     /* at most: of phases alone and beside */
#define FIRST     8                     /* steps to get to know a trainer */
#define CHUNK_S   0.03                  /* of steps between looks at a snapshot */
#define SHARE     4                     /* the ceiling is this part of what is sent without */
#define WAIT_MS   600000

struct load {
	struct run *r;
	MPI_Comm comm;
	double *cached, *swept;
	float *reduced;
	uint32_t turns;       /* over what is cached, of a step */
	bool snapshots;       /* of this phase */
	enum trainer trainer;
	int fenced;           /* first bad result */
	struct load_results *out;
};

static double seconds_since(uint64_t start_ns)
{
	return (double)(clock_ns() - start_ns) / 1e9;
}

/* --- trainers --- */

static void compute(struct load *l, uint32_t turns)
{
	size_t count = CACHED / sizeof(double);

	for (uint32_t turn = 0; turn < turns; turn++)
		for (size_t i = 0; i < count; i++) {
			double x = l->cached[i];

			for (int k = 0; k < 4; k++)
				x = x * 0.999 + 0.001;
			l->cached[i] = x;
		}
}

static void sweep(struct load *l)
{
	size_t count = SWEPT / sizeof(double) / 2;

	for (size_t i = 0; i < count; i++)
		l->swept[i] = 0.9 * l->swept[i] + 0.1 * l->swept[count + i];
}

/* The state may be written, as an optimizer does after each step. */
static void fence(struct load *l)
{
	int rc = l->snapshots ? ftmem_fence(l->r->job.ft, NULL) : 0;

	if (l->fenced == 0)
		l->fenced = rc;
}

static void step(struct load *l)
{
	if (l->trainer == TRAINER_COMPUTE) {
		compute(l, l->turns);
		fence(l);
		sweep(l);
		return;
	}
	MPI_Allreduce(MPI_IN_PLACE, l->reduced, (int)(REDUCED / sizeof(float)), MPI_FLOAT, MPI_SUM,
	              l->comm);
	fence(l);
}

static uint64_t thread_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* By processor time, which does not grow when ranks share cores. */
static void calibrate(struct load *l)
{
	uint64_t start = thread_ns(), spent;
	uint32_t turns = 0;

	do {
		compute(l, 8);
		turns += 8;
		spent = thread_ns() - start;
	} while (spent < 5 * STEP_NS);
	l->turns = (uint32_t)world_max(ceil((double)turns * STEP_NS / (double)spent));
}

/* --- a phase: steps alone, or beside snapshots --- */

/* Its time is added to *s. */
static void run_steps(struct load *l, uint32_t steps, double *s)
{
	uint64_t start = clock_ns();

	for (uint32_t i = 0; i < steps; i++)
		step(l);
	*s += seconds_since(start);
}

/* From a new state on, which an optimizer would have written. */
static double run_alone(struct load *l, uint32_t steps)
{
	double s = 0;

	l->snapshots = false;
	state_fill(&l->r->state, l->r->job.version + 1);
	world_barrier();
	run_steps(l, steps, &s);
	return world_max(s) / steps;
}

struct beside {
	double steps_s, under_way_s, fence_s;
	uint32_t steps, snapshots;
};

/* Whether a rank still waits for the version. */
static bool under_way(struct load *l, uint64_t version, const struct beside *b)
{
	return world_sum(b->steps_s < WAIT_MS / 1e3
	                 && ftmem_wait(l->r->job.ft, version, 0) == FTMEM_ETIMEOUT) > 0;
}

static bool look(struct load *l, uint64_t version, const struct ftmem_stats *before,
                 struct beside *b)
{
	int waited = ftmem_wait(l->r->job.ft, version, WAIT_MS);
	struct ftmem_stats stats;
	double protect_s;

	if (!world_check(l->r->world, waited, "ftmem_wait")
	    || !world_check(l->r->world, l->fenced, "ftmem_fence")
	    || !job_stats(&l->r->job, &stats))
		return false;
	l->r->job.version = version;
	protect_s = world_max(stats.protect_s);
	series_add(&l->out->protect_s, protect_s);
	b->under_way_s += protect_s;
	b->fence_s += stats.fence_s - before->fence_s;
	b->snapshots++;
	return true;
}

/* And as many steps as it takes until it is committed, by the chunk. */
static bool run_snapshot(struct load *l, struct beside *b)
{
	uint64_t version = l->r->job.version + 1, start;
	struct ftmem_stats before;
	int called;

	if (!job_stats(&l->r->job, &before))
		return false;
	state_fill(&l->r->state, version);
	world_barrier();
	start = clock_ns();
	called = ftmem_snapshot(l->r->job.ft, version, NULL);
	b->steps_s += seconds_since(start);
	if (!world_check(l->r->world, called, "ftmem_snapshot"))
		return false;
	do {
		run_steps(l, l->out->chunk, &b->steps_s);
		b->steps += l->out->chunk;
	} while (under_way(l, version, b));
	return look(l, version, &before, b);
}

static bool run_beside(struct load *l, struct beside *b)
{
	*b = (struct beside){0};
	l->snapshots = true;
	do {
		if (!run_snapshot(l, b))
			return false;
	} while (world_max(b->steps_s) < PHASE_S);
	b->steps_s = world_max(b->steps_s);
	b->fence_s = world_max(b->fence_s);
	return true;
}

/* Which of both comes first alternates. */
static bool run_pair(struct load *l, uint32_t turn)
{
	struct load_results *out = l->out;
	double alone_s = 0, beside_s;
	struct beside b;

	if (turn % 2 == 0)
		alone_s = run_alone(l, out->alone);
	if (!run_beside(l, &b))
		return false;
	if (turn % 2 == 1)
		alone_s = run_alone(l, out->alone);
	beside_s = b.steps_s / b.steps;
	out->snapshots += b.snapshots;
	series_add(&out->alone_s, alone_s);
	series_add(&out->beside_s, beside_s);
	series_add(&out->lost, beside_s / alone_s - 1);
	series_add(&out->lost_s, (b.steps_s - alone_s * b.steps) / b.snapshots);
	series_add(&out->fence_s, b.fence_s / b.snapshots);
	series_add(&out->busy, fmin(1, b.under_way_s / b.steps_s));
	return true;
}

/* How many steps there are in a phase. The first snapshot after a start is not looked at. */
static bool get_ready(struct load *l)
{
	struct beside ignored;
	double alone_s;

	run_alone(l, 1);
	alone_s = run_alone(l, FIRST);
	*l->out = (struct load_results){
		.alone = (uint32_t)ceil(PHASE_S / alone_s),
		.chunk = (uint32_t)ceil(CHUNK_S / alone_s),
	};
	if (!run_beside(l, &ignored))
		return false;
	l->out->protect_s.count = 0;
	return true;
}

/* --- all --- */

int load_check_options(const struct run *r)
{
	if (r->resolved->max_bandwidth != 0)
		return error_set(FTMEM_EINVAL, "--with-load measures with and without a ceiling: "
		                               "unset FTMEM_MAX_BANDWIDTH");
	return 0;
}

/* The job again, with what it holds. */
static bool start_with(struct run *r, uint64_t ceiling)
{
	struct ftmem_opts opts = *r->opts;
	double open_s, seal_s, restore_s;
	bool done;

	opts.max_bandwidth = ceiling;
	job_stop(&r->job);
	r->job.opts = &opts;
	done = run_start(r, &open_s, &seal_s) && job_restore(&r->job, false, &restore_s);
	r->job.opts = r->opts;
	if (done)
		r->results->verified_bytes += world_sum_u64(r->state.bytes);
	return done;
}

static bool measure_with(struct load *l, uint32_t turn, bool capped)
{
	struct results *out = l->r->results;

	if (!start_with(l->r, capped ? out->load_ceiling : 0))
		return false;
	for (int i = 0; i < TRAINERS; i++) {
		l->trainer = (enum trainer)i;
		l->out = &out->load[i][capped];
		if (l->trainer == TRAINER_COLLECTIVE && l->r->world->size == 1)
			continue;
		if (turn == 0 && !get_ready(l))
			return false;
		if (!run_pair(l, turn))
			return false;
	}
	return true;
}

static void find_ceiling(struct run *r)
{
	const struct protect_results *p = &r->results->protect;
	double rate = p->bytes.sent / series_summary(&p->protect_s).median;

	r->results->load_ceiling = r->results->m ? (uint64_t)fmax(1, rate / SHARE) : 0;
}

static bool load_init(struct load *l)
{
	bool got;

	l->cached = calloc(1, CACHED);
	l->swept = calloc(1, SWEPT);
	l->reduced = calloc(1, REDUCED);
	MPI_Comm_dup(MPI_COMM_WORLD, &l->comm);
	got = l->cached && l->swept && l->reduced;
	if (!world_check(l->r->world, got ? 0 : FTMEM_ENOMEM, "memory of the trainers") || !got)
		return false;
	/* Pages that were never written are all one and the same. */
	for (size_t i = 0; i < SWEPT / sizeof(double); i++)
		l->swept[i] = 1;
	calibrate(l);
	return true;
}

static void load_deinit(struct load *l)
{
	MPI_Comm_free(&l->comm);
	free(l->cached);
	free(l->swept);
	free(l->reduced);
}

bool load_measure(struct run *r)
{
	struct load l = {.r = r};
	uint32_t pairs = r->args->repeat < PAIRS ? r->args->repeat : PAIRS;
	bool done = load_init(&l);

	find_ceiling(r);
	world_say(r->world, "trainers without and with snapshots, %u times", pairs);
	for (uint32_t i = 0; done && i < pairs; i++) {
		done = measure_with(&l, i, false);
		if (done && r->results->load_ceiling)
			done = measure_with(&l, i, true);
	}
	load_deinit(&l);
	return done && start_with(r, 0);
}
