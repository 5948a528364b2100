/* SPDX-License-Identifier: BSD-3-Clause */
/* What the copy backend of one rank says, and what all make of it: 4 ranks, one per node. */
#include "cluster.h"
#include "error.h"
#include "mpi_check.h"
#include "session.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static struct cluster job;
static const uint32_t odd = 2; /* the rank where it fails */

/* --- the host's backend, but for what the test says --- */

static bool fail_prepare, fail_begin, fail_fill, fail_fill_end, fail_put;
static uint32_t prepared, busy_looks;
static atomic_bool stuck;
static void *last_stream;
static pthread_t trainer;

const struct copy_ops *__real_copy_host(void);
const struct copy_ops *__wrap_copy_host(void);

/* Whatever this library was built for. */
const struct device_ops *device_ops(void)
{
	return NULL;
}

static int gone(void)
{
	return error_set(FTMEM_EDEVICE, "the device is gone");
}

static int odd_prepare(struct copy *c, struct copy_plan *plan, void *addr, uint64_t bytes)
{
	int rc = fail_prepare ? error_set(FTMEM_ENOMEM, "no page to pin")
	                      : __real_copy_host()->prepare(c, plan, addr, bytes);

	if (rc == 0) {
		plan->ready = (struct copy_ready *)plan;
		prepared++;
	}
	return rc;
}

static void odd_release(struct copy *c, struct copy_plan *plan)
{
	prepared -= plan->ready != NULL;
	plan->ready = NULL;
	__real_copy_host()->release(c, plan);
}

static int odd_begin(struct copy *c, const struct copy_job *begun, void *stream)
{
	last_stream = stream;
	return fail_begin ? gone() : __real_copy_host()->begin(c, begun, stream);
}

static bool odd_done(struct copy *c)
{
	if (stuck)
		return false;
	if (pthread_equal(pthread_self(), trainer) && busy_looks > 0) {
		busy_looks--;
		return false;
	}
	return __real_copy_host()->done(c);
}

static int odd_fill(struct copy *c, const struct copy_fill *fill, uint32_t ready)
{
	return fail_fill ? gone() : __real_copy_host()->fill(c, fill, ready);
}

static int odd_fill_end(struct copy *c, uint64_t *damaged)
{
	int rc = __real_copy_host()->fill_end(c, damaged);

	return rc == 0 && fail_fill_end ? gone() : rc;
}

static int odd_put(struct copy *c, const struct copy_put *put, uint32_t count)
{
	return fail_put ? gone() : __real_copy_host()->put(c, put, count);
}

static void odd_figures(struct copy *c, struct copy_figures *out)
{
	(void)c;
	*out = (struct copy_figures){
		.device_bytes = 3000000,
		.staged_bytes = 1000000,
		.stalls = 7,
		.stall_s = 0.25,
		.last_stall_s = 0.125,
		.device_copy_s = 0.5,
	};
}

const struct copy_ops *__wrap_copy_host(void)
{
	static struct copy_ops ops;

	if (!ops.name) {
		ops = *__real_copy_host();
		ops.prepare = odd_prepare;
		ops.release = odd_release;
		ops.begin = odd_begin;
		ops.done = odd_done;
		ops.fill = odd_fill;
		ops.fill_end = odd_fill_end;
		ops.put = odd_put;
		ops.figures = odd_figures;
	}
	return &ops;
}

/* --- the job --- */

static void init(void)
{
	const uint64_t bytes[] = {100000 + 3000 * check_rank(), 4095};

	trainer = pthread_self();
	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	cluster_regions(&job, bytes, 2);
}

static void start_fresh(void)
{
	init();
	cluster_start_fresh(&job);
}

static void finish(void)
{
	cluster_close(&job);
	CHECK(prepared == 0);
	cluster_deinit(&job);
}

/* That rank has the message of its backend, the others its number as well. */
static void check_told(const char *part)
{
	CHECK_MESSAGE(part);
	if (job.rank != odd)
		CHECK_MESSAGE("rank 2");
}

/* --- seal --- */

static void what_one_rank_cannot_pin_no_rank_seals(void)
{
	uint8_t more[5000] = {0};
	struct ftmem_region r = FTMEM_REGION_INIT;

	init();
	CHECK_RESULT(cluster_try_open(&job), 0);
	cluster_add_regions(&job);
	fail_prepare = job.rank == odd;
	CHECK_RESULT(ftmem_seal(job.ft), FTMEM_ENOMEM);
	check_told("no page to pin");
	CHECK(prepared == 0);
	fail_prepare = false;
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_restore_fails(&job, FTMEM_FRESH);
	cluster_commit(&job, 1);
	/* A later one leaves the epoch before it as it was. */
	r.name = "more";
	r.addr = more;
	r.bytes = sizeof(more);
	CHECK_RESULT(ftmem_region_add(job.ft, &r), 0);
	fail_prepare = job.rank == odd;
	CHECK_RESULT(ftmem_seal(job.ft), FTMEM_ENOMEM);
	CHECK(prepared == 1);
	fail_prepare = false;
	CHECK_RESULT(ftmem_region_remove(job.ft, "more"), 0);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	CHECK(prepared == 1);
	cluster_commit(&job, 2);
	finish();
}

/* --- snapshot --- */

static void a_copy_that_does_not_begin_is_dropped_with_the_reason(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	for (uint64_t v = 2; v < 4; v++) {
		fail_begin = job.rank == odd;
		check_log_forget();
		CHECK_RESULT(ftmem_snapshot(job.ft, v, NULL), fail_begin ? FTMEM_DROPPED : 0);
		if (fail_begin)
			CHECK_MESSAGE("the device is gone");
		/* It is news once. */
		CHECK(check_logged("is dropped: the device is gone") == (fail_begin && v == 2));
		CHECK_RESULT(ftmem_wait(job.ft, v, job.opts.timeout_ms), FTMEM_DROPPED);
		if (fail_begin)
			CHECK_MESSAGE("the device is gone");
		CHECK_RESULT(ftmem_fence(job.ft, NULL), 0);
		fail_begin = false;
		check_barrier(job.comm);
	}
	CHECK(cluster_stats(&job).dropped == 2 && cluster_stats(&job).newest == 1);
	cluster_commit(&job, 4);
	finish();
}

static void a_region_is_removed_when_its_copy_is_done(void)
{
	start_fresh();
	cluster_fill(&job, 1);
	CHECK_RESULT(ftmem_snapshot(job.ft, 1, NULL), 0);
	busy_looks = 20;
	CHECK_RESULT(ftmem_region_remove(job.ft, "r1"), 0);
	CHECK(busy_looks == 0);
	CHECK_RESULT(ftmem_wait(job.ft, 1, job.opts.timeout_ms), 0);
	finish();
}

static void figures_are_shown(void)
{
	struct ftmem_stats s;

	start_fresh();
	s = cluster_stats(&job);
	CHECK(s.device_bytes == 3000000 && s.staged_bytes == 1000000 && s.stalls == 7);
	CHECK(s.stall_s == 0.25 && s.last_stall_s == 0.125 && s.device_copy_s == 0.5);
	CHECK(s.device_copy_rate == 6000000);
	finish();
}

/* --- restore --- */

static void restore_fails_then_succeeds(uint64_t version)
{
	uint64_t got = 77;

	CHECK_RESULT(ftmem_restore(job.ft, &got), FTMEM_EDEVICE);
	check_told("the device is gone");
	CHECK(got == 77);
	/* They are not what is stored. */
	CHECK_RESULT(ftmem_snapshot(job.ft, version + 1, NULL), FTMEM_EINVAL);
	fail_fill = fail_fill_end = fail_put = false;
	cluster_restore(&job, version);
	cluster_commit(&job, version + 1);
}

static void regions_that_one_rank_cannot_fill_are_restored_by_none(void)
{
	for (int turn = 0; turn < 4; turn++) {
		bool lost = turn / 2 == 1, ends = turn % 2 == 1;

		check_note("%s%s", ends ? "at the end" : "at the beginning", lost ? ", lost" : "");
		start_fresh();
		cluster_commit(&job, 1);
		cluster_close(&job);
		if (lost)
			cluster_lose(&job, 1u << odd);
		cluster_start(&job);
		fail_fill = !ends && job.rank == odd;
		fail_fill_end = ends && job.rank == odd;
		restore_fails_then_succeeds(1);
		finish();
	}
}

/* Other regions: into a new epoch, through puts, and protected again. */
static void parts_that_one_rank_cannot_write_are_restored_by_none(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	cluster_close(&job);
	job.region[1].absent = true;
	cluster_start(&job);
	fail_put = job.rank == odd;
	restore_fails_then_succeeds(1);
	finish();
}

/* No stream of the trainer has anything to do with it. */
static void what_is_protected_again_is_at_rest(void)
{
	uint64_t got;

	start_fresh();
	cluster_commit(&job, 1);
	cluster_close(&job);
	job.region[1].absent = true;
	cluster_start(&job);
	fail_begin = job.rank == odd;
	CHECK_RESULT(ftmem_restore(job.ft, &got), FTMEM_ENET);
	CHECK_MESSAGE("could not be protected again");
	if (fail_begin)
		CHECK_MESSAGE("the device is gone");
	fail_begin = false;
	cluster_restore(&job, 1);
	CHECK(last_stream == COPY_AT_REST);
	cluster_commit(&job, 2);
	CHECK(last_stream == NULL);
	finish();
}

/* --- close --- */

static bool mapped(const void *at)
{
	unsigned char in_core;

	return mincore((void *)(uintptr_t)at, 4096, &in_core) == 0;
}

/* As if a device did not answer any more; each rank has a job of its own. */
static void what_a_stuck_copy_uses_stays(void)
{
	static struct ftmem *left; /* for tools that look for leaks */
	const uint64_t bytes = 50000;
	const uint8_t *base;

	cluster_init(&job, MPI_COMM_SELF, "1");
	snprintf(job.job, sizeof(job.job), "stuck%u", check_rank());
	cluster_regions(&job, &bytes, 1);
	job.opts.timeout_ms = 2000;
	cluster_start_fresh(&job);
	atomic_store(&stuck, true);
	CHECK_RESULT(ftmem_snapshot(job.ft, 1, NULL), 0);
	left = job.ft;
	base = left->epoch->arena->base;
	left->opts.timeout_ms = 1; /* of the version; the copy has what it had */
	check_log_forget();
	cluster_close(&job);
	CHECK(check_logged("does not end"));
	CHECK(mapped(base) && prepared == 1);
	atomic_store(&stuck, false);
	left->copy_ops->close(left->copy);
	prepared = 0;
	cluster_deinit(&job);
	check_barrier(MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"what_one_rank_cannot_pin_no_rank_seals", what_one_rank_cannot_pin_no_rank_seals},
		{"a_copy_that_does_not_begin_is_dropped_with_the_reason",
	         a_copy_that_does_not_begin_is_dropped_with_the_reason},
		{"a_region_is_removed_when_its_copy_is_done",
	         a_region_is_removed_when_its_copy_is_done},
		{"figures_are_shown", figures_are_shown},
		{"regions_that_one_rank_cannot_fill_are_restored_by_none",
	         regions_that_one_rank_cannot_fill_are_restored_by_none},
		{"parts_that_one_rank_cannot_write_are_restored_by_none",
	         parts_that_one_rank_cannot_write_are_restored_by_none},
		{"what_is_protected_again_is_at_rest", what_is_protected_again_is_at_rest},
		{"what_a_stuck_copy_uses_stays", what_a_stuck_copy_uses_stays},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
