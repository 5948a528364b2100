/* SPDX-License-Identifier: BSD-3-Clause */
/* Snapshots come faster than they can be stored, or not as they should: any ranks. */
#include "cluster.h"
#include "mpi_check.h"
#include "test_random.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static struct cluster job;

static void init(uint64_t bytes)
{
	char layout[64] = "1";

	for (uint32_t i = 1; i < check_size(); i++)
		memcpy(layout + 2 * i - 1, ",1", 3);
	cluster_init(&job, MPI_COMM_WORLD, layout);
	cluster_regions(&job, &bytes, 1);
}

static void start_fresh(uint64_t bytes)
{
	init(bytes);
	cluster_start_fresh(&job);
}

/* What is committed is there after a restart. */
static void finish(void)
{
	struct ftmem_stats s = cluster_stats(&job);

	CHECK(s.stored && check_same(job.comm, s.newest));
	cluster_close(&job);
	cluster_lose(&job, 1u << s.newest % job.nodes);
	cluster_start(&job);
	cluster_restore(&job, s.newest);
	cluster_deinit(&job);
}

static void pause_for_a_while(uint64_t *random, uint32_t most_us)
{
	struct timespec t = {0, (long)test_random_below(random, most_us) * 1000};

	nanosleep(&t, NULL);
}

/* Asks for versions first .. first + count - 1 as fast as can be; ranks dawdle at
 * random. Returns how many were taken up here. */
static uint32_t ask_for(uint64_t first, uint32_t count, uint32_t dawdle_us)
{
	uint64_t random = check_seed() + first * 100 + job.rank;
	uint32_t taken = 0;

	for (uint64_t v = first; v < first + count; v++) {
		int rc;

		CHECK_RESULT(ftmem_fence(job.ft, NULL), 0);
		cluster_fill(&job, v);
		rc = ftmem_snapshot(job.ft, v, NULL);
		CHECK_MSG(rc == 0 || rc == FTMEM_BUSY, "version %llu: %d", (unsigned long long)v,
		          rc);
		taken += rc == 0;
		if (dawdle_us && test_random_below(&random, 4) == 0)
			pause_for_a_while(&random, dawdle_us);
	}
	return taken;
}

/* All ranks agree on each version's fate. Returns how many are committed. */
static uint32_t agree_on(uint64_t first, uint32_t count)
{
	uint32_t committed = 0;

	for (uint64_t v = first; v < first + count; v++) {
		int rc = ftmem_wait(job.ft, v, job.opts.timeout_ms);

		CHECK_MSG(rc == 0 || rc == FTMEM_DROPPED, "version %llu: %d", (unsigned long long)v,
		          rc);
		CHECK_MSG(check_same(job.comm, (uint64_t)rc), "ranks differ on version %llu",
		          (unsigned long long)v);
		committed += rc == 0;
	}
	return committed;
}

static void versions_asked_for_in_a_tight_loop_are_stored_or_skipped(void)
{
	uint32_t taken, committed;
	struct ftmem_stats s;

	start_fresh(200000);
	taken = ask_for(1, 120, 0);
	committed = agree_on(1, 120);
	/* The first finds all ranks idle. */
	CHECK(committed > 0);
	s = cluster_stats(&job);
	CHECK_MSG(s.committed == committed && s.skipped == 120 - taken
	                  && s.dropped == taken - committed,
	          "%llu committed, %llu skipped, %llu dropped of %u "
	          "taken, %u committed",
	          (unsigned long long)s.committed, (unsigned long long)s.skipped,
	          (unsigned long long)s.dropped, taken, committed);
	check_barrier(job.comm);
	cluster_commit(&job, 121);
	check_say("   %u of 120 versions committed", committed);
	finish();
}

/* Each rank waits until its slot is free, so all are free for all. */
static void where_slots_are_waited_for_every_version_is_stored(void)
{
	const uint32_t count = check_quick() ? 20 : 60;
	struct ftmem_stats s;

	init(200000);
	job.opts.when_busy = FTMEM_BUSY_WAIT;
	cluster_start_fresh(&job);
	CHECK(ask_for(1, count, 1000) == count);
	CHECK(agree_on(1, count) == count);
	s = cluster_stats(&job);
	CHECK(s.committed == count && s.skipped == 0 && s.dropped == 0);
	CHECK(s.waited < count && (s.waited > 0) == (s.wait_s > 0));
	finish();
}

static void ranks_that_dawdle_agree_on_every_version(void)
{
	uint32_t rounds = check_quick() ? 2 : 6, committed = 0;

	start_fresh(70001);
	for (uint32_t i = 0; i < rounds; i++) {
		check_note("round %u", i);
		ask_for(1 + i * 40, 40, 1000 + 3000 * (i % 3));
		committed += agree_on(1 + i * 40, 40);
	}
	check_say("   %u of %u versions committed", committed, rounds * 40);
	check_barrier(job.comm);
	cluster_commit(&job, 1 + rounds * 40);
	finish();
}

static void the_newest_committed_is_restored_when_more_are_under_way(void)
{
	uint32_t rounds = check_quick() ? 2 : 8;

	start_fresh(300000);
	cluster_commit(&job, 1);
	for (uint64_t i = 0, v = 2; i < rounds; i++, v += 10) {
		struct ftmem_stats s;
		uint64_t got = 0;

		check_note("round %llu", (unsigned long long)i);
		ask_for(v, 10, 2000);
		/* Closing waits for what is under way. */
		agree_on(v, 10);
		s = cluster_stats(&job);
		cluster_close(&job);
		cluster_lose(&job, 1u << i % job.nodes);
		cluster_start(&job);
		cluster_poison(&job);
		CHECK_RESULT(ftmem_restore(job.ft, &got), 0);
		CHECK_MSG(got == (s.newest > 1 ? s.newest : got), "version %llu, not %llu",
		          (unsigned long long)got, (unsigned long long)s.newest);
		cluster_verify(&job, got);
	}
	cluster_deinit(&job);
}

static void closing_waits_for_what_is_under_way(void)
{
	uint32_t rounds = check_quick() ? 2 : 5;
	uint64_t v = 1;

	start_fresh(500000);
	for (uint32_t i = 0; i < rounds; i++, v++) {
		check_note("round %u", i);
		cluster_fill(&job, v);
		CHECK_RESULT(ftmem_snapshot(job.ft, v, NULL), 0);
		cluster_close(&job);
		cluster_start(&job);
		cluster_restore(&job, v);
	}
	cluster_deinit(&job);
}

/* No rank has it, and the next is stored. Versions grow as those of snapshots. */
static void a_version_that_one_rank_skips_is_dropped_everywhere(void)
{
	bool odd = check_rank() == check_size() - 1;
	struct ftmem_stats s;

	start_fresh(50000);
	cluster_commit(&job, 1);
	for (uint64_t v = 2; v < 6; v++) {
		CHECK_RESULT(ftmem_fence(job.ft, NULL), 0);
		cluster_fill(&job, v);
		CHECK_RESULT(odd ? ftmem_skip(job.ft, v) : ftmem_snapshot(job.ft, v, NULL), 0);
		CHECK_RESULT(ftmem_wait(job.ft, v, job.opts.timeout_ms), FTMEM_DROPPED);
		if (odd)
			CHECK_MESSAGE("this rank skipped it");
		check_barrier(job.comm);
	}
	CHECK_RESULT(ftmem_skip(job.ft, 5), FTMEM_EINVAL);
	CHECK_MESSAGE("version 5 does not grow");
	CHECK_RESULT(ftmem_skip(job.ft, FTMEM_VERSION_MAX), FTMEM_EINVAL);
	s = cluster_stats(&job);
	CHECK(s.newest == 1 && s.committed == 1);
	CHECK_MSG(s.skipped == (odd ? 4 : 0) && s.dropped == (odd ? 0 : 4),
	          "%llu skipped, %llu dropped", (unsigned long long)s.skipped,
	          (unsigned long long)s.dropped);
	/* On all of them; and without waiting for what is under way. */
	CHECK_RESULT(ftmem_skip(job.ft, 6), 0);
	CHECK_RESULT(ftmem_skip(job.ft, 7), 0);
	CHECK_RESULT(ftmem_wait(job.ft, 7, job.opts.timeout_ms), FTMEM_DROPPED);
	CHECK_RESULT(ftmem_wait(job.ft, 6, job.opts.timeout_ms), FTMEM_DROPPED);
	check_barrier(job.comm);
	cluster_commit(&job, 8);
	finish();
}

static void another_version_on_one_rank_is_dropped_everywhere(void)
{
	uint32_t odd = check_size() - 1;

	start_fresh(50000);
	cluster_commit(&job, 1);
	check_log_forget();
	CHECK_RESULT(ftmem_snapshot(job.ft, job.rank == odd ? 4 : 2, NULL), 0);
	CHECK_RESULT(ftmem_wait(job.ft, job.rank == odd ? 4 : 2, job.opts.timeout_ms),
	             FTMEM_DROPPED);
	CHECK(check_logged("all must pass the same")
	      || check_logged("must pass the same versions"));
	check_barrier(job.comm);
	cluster_commit(&job, 5);
	/* Once more, so that the odd one is behind. */
	CHECK_RESULT(ftmem_snapshot(job.ft, job.rank == 0 ? 6 : 7, NULL), 0);
	CHECK_RESULT(ftmem_wait(job.ft, job.rank == 0 ? 6 : 7, job.opts.timeout_ms), FTMEM_DROPPED);
	check_barrier(job.comm);
	CHECK(cluster_stats(&job).newest == 5 && cluster_stats(&job).dropped == 2);
	cluster_close(&job);
	cluster_start(&job);
	cluster_restore(&job, 5);
	cluster_commit(&job, 8);
	finish();
}

/* Groups that agree within but not with one another. */
static void another_version_in_one_group_is_dropped_everywhere(void)
{
	uint64_t version;

	if (check_size() < 4)
		return;
	init(50000);
	job.opts.group_nodes = 2;
	cluster_start_fresh(&job);
	CHECK(cluster_stats(&job).groups == 2);
	cluster_commit(&job, 1);
	check_log_forget();
	version = job.rank < 2 ? 2 : 4;
	CHECK_RESULT(ftmem_snapshot(job.ft, version, NULL), 0);
	CHECK_RESULT(ftmem_wait(job.ft, version, job.opts.timeout_ms), FTMEM_DROPPED);
	CHECK(check_logged("all must pass the same"));
	check_barrier(job.comm);
	CHECK(cluster_stats(&job).newest == 1);
	cluster_commit(&job, 5);
	finish();
}

static void a_version_that_does_not_grow_is_refused(void)
{
	start_fresh(1000);
	cluster_commit(&job, 3);
	CHECK_RESULT(ftmem_snapshot(job.ft, 3, NULL), FTMEM_EINVAL);
	CHECK_MESSAGE("version 3");
	CHECK_RESULT(ftmem_snapshot(job.ft, 2, NULL), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_snapshot(job.ft, 0, NULL), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_snapshot(job.ft, FTMEM_VERSION_MAX, NULL), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_snapshot(job.ft, UINT64_MAX, NULL), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_wait(job.ft, 77, 100), FTMEM_EINVAL);
	cluster_commit(&job, 4);
	cluster_close(&job);
	cluster_start(&job);
	cluster_restore(&job, 4);
	CHECK_RESULT(ftmem_snapshot(job.ft, 4, NULL), FTMEM_EINVAL);
	cluster_commit(&job, FTMEM_VERSION_MAX - 1);
	finish();
}

static void calls_out_of_order_are_refused(void)
{
	uint64_t version = 99;

	init(1000);
	CHECK_RESULT(cluster_try_open(&job), 0);
	CHECK_RESULT(ftmem_snapshot(job.ft, 1, NULL), FTMEM_EINVAL);
	CHECK_MESSAGE("ftmem_seal");
	CHECK_RESULT(ftmem_skip(job.ft, 1), FTMEM_EINVAL);
	CHECK_MESSAGE("ftmem_skip: no layout yet");
	CHECK_RESULT(ftmem_restore(job.ft, &version), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_fence(job.ft, NULL), 0);
	CHECK_RESULT(ftmem_wait(job.ft, 1, 10), FTMEM_EINVAL);
	cluster_add_regions(&job);
	CHECK_RESULT(ftmem_snapshot(job.ft, 1, NULL), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	CHECK_RESULT(ftmem_restore(job.ft, NULL), FTMEM_EINVAL);
	/* Nothing is stored: a first start may skip the restore. */
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_start(&job);
	CHECK_RESULT(ftmem_snapshot(job.ft, 2, NULL), FTMEM_EINVAL);
	CHECK_MESSAGE("ftmem_restore");
	CHECK_RESULT(ftmem_skip(job.ft, 2), FTMEM_EINVAL);
	CHECK_MESSAGE("ftmem_skip: job");
	CHECK(version == 99);
	cluster_restore(&job, 1);
	cluster_commit(&job, 2);
	finish();
	CHECK_RESULT(ftmem_snapshot(NULL, 1, NULL), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_skip(NULL, 1), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_seal(NULL), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_open(NULL, NULL), FTMEM_EINVAL);
	ftmem_close(NULL);
}

static void bad_regions_are_refused_and_change_nothing(void)
{
	struct ftmem_region d;
	uint8_t byte = 0;

	start_fresh(1000);
	cluster_commit(&job, 1);
	d = cluster_describe(&job.region[0]);
	CHECK_RESULT(ftmem_region_add(job.ft, &d), FTMEM_EINVAL);
	CHECK_MESSAGE("r0");
	d.name = "zero";
	d.addr = &byte;
	d.bytes = 0;
	CHECK_RESULT(ftmem_region_add(job.ft, &d), FTMEM_EINVAL);
	d.bytes = 1;
	d.addr = NULL;
	CHECK_RESULT(ftmem_region_add(job.ft, &d), FTMEM_EINVAL);
	d.name = NULL;
	CHECK_RESULT(ftmem_region_add(job.ft, &d), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_region_add(job.ft, NULL), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_region_remove(job.ft, "unknown"), FTMEM_EINVAL);
	CHECK_MESSAGE("unknown");
	CHECK_RESULT(ftmem_region_remove(job.ft, NULL), FTMEM_EINVAL);
	/* No seal is needed. */
	cluster_commit(&job, 2);
	finish();
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"versions_asked_for_in_a_tight_loop_are_stored_or_skipped",
	         versions_asked_for_in_a_tight_loop_are_stored_or_skipped},
		{"where_slots_are_waited_for_every_version_is_stored",
	         where_slots_are_waited_for_every_version_is_stored},
		{"ranks_that_dawdle_agree_on_every_version",
	         ranks_that_dawdle_agree_on_every_version},
		{"the_newest_committed_is_restored_when_more_are_under_way",
	         the_newest_committed_is_restored_when_more_are_under_way},
		{"closing_waits_for_what_is_under_way", closing_waits_for_what_is_under_way},
		{"a_version_that_one_rank_skips_is_dropped_everywhere",
	         a_version_that_one_rank_skips_is_dropped_everywhere},
		{"another_version_on_one_rank_is_dropped_everywhere",
	         another_version_on_one_rank_is_dropped_everywhere},
		{"another_version_in_one_group_is_dropped_everywhere",
	         another_version_in_one_group_is_dropped_everywhere},
		{"a_version_that_does_not_grow_is_refused",
	         a_version_that_does_not_grow_is_refused},
		{"calls_out_of_order_are_refused", calls_out_of_order_are_refused},
		{"bad_regions_are_refused_and_change_nothing",
	         bad_regions_are_refused_and_change_nothing},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
