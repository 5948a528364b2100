/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Replicas of one tensor: stored once, compared when asked, refused when ranks do not
 * mean the same by a name. 4 ranks, one per node.
 */
#include "cluster.h"
#include "mpi_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS  512u
#define COLS  700u
#define BYTES (ROWS * COLS * sizeof(uint32_t))

static struct cluster job;
static uint32_t *whole; /* the tensor, on each rank */

static uint32_t element(uint64_t version, uint32_t i)
{
	return (uint32_t)(version * 2654435761u + i * 40503u + i / 7);
}

static struct ftmem_region box(const char *name, void *addr, uint64_t row, uint64_t rows)
{
	return (struct ftmem_region){
		.size = sizeof(struct ftmem_region),
		.name = name,
		.addr = addr,
		.bytes = rows * COLS * sizeof(uint32_t),
		.elem_bytes = sizeof(uint32_t),
		.ndim = 2,
		.shape = {ROWS, COLS},
		.start = {row, 0},
		.extent = {rows, COLS},
	};
}

static void init(const char *layout)
{
	cluster_init(&job, MPI_COMM_WORLD, layout);
	whole = realloc(whole, BYTES);
	CHECK(whole);
}

static void open_with(const struct ftmem_region *r, int sealed)
{
	CHECK_RESULT(cluster_try_open(&job), 0);
	CHECK_RESULT(ftmem_region_add(job.ft, r), 0);
	CHECK_RESULT(ftmem_seal(job.ft), sealed);
}

static void start_whole(void)
{
	struct ftmem_region r = box("w", whole, 0, ROWS);

	open_with(&r, 0);
}

static void fill(uint64_t version)
{
	for (uint32_t i = 0; i < ROWS * COLS; i++)
		whole[i] = element(version, i);
}

static void snapshot(uint64_t version, int result)
{
	CHECK_RESULT(ftmem_snapshot(job.ft, version, NULL), 0);
	CHECK_RESULT(ftmem_fence(job.ft, NULL), 0);
	CHECK_RESULT(ftmem_wait(job.ft, version, 30000), result);
	check_barrier(job.comm);
}

static void commit(uint64_t version)
{
	fill(version);
	snapshot(version, 0);
}

static void restores(uint64_t version)
{
	uint64_t got = 0;

	memset(whole, 0xee, BYTES);
	CHECK_RESULT(ftmem_restore(job.ft, &got), 0);
	CHECK_MSG(got == version, "version %" PRIu64 " instead of %" PRIu64, got, version);
	for (uint32_t i = 0; i < ROWS * COLS; i++)
		CHECK_MSG(whole[i] == element(version, i), "element %u is wrong", i);
}

static void finds_nothing(void)
{
	uint64_t version;

	CHECK_RESULT(ftmem_restore(job.ft, &version), FTMEM_FRESH);
}

static void each_rank_stores_its_share_alone(void)
{
	static const char *const layouts[] = {"1,1,1,1", "2,2", "4", "1,3"};

	for (uint32_t i = 0; i < 4; i++) {
		struct ftmem_stats stats;

		check_note("nodes %s", layouts[i]);
		init(layouts[i]);
		start_whole();
		finds_nothing();
		commit(1);
		stats = cluster_stats(&job);
		CHECK(stats.region_bytes == BYTES);
		CHECK_MSG(stats.data_bytes * 4 < BYTES * 101 / 100 + 4 * 4096,
		          "%" PRIu64 " bytes stored", stats.data_bytes);
		CHECK_MSG(check_max(job.comm, stats.data_bytes) * 4 >= BYTES, "too little");
		restores(1);
		cluster_close(&job);
		if (job.nodes > 1)
			cluster_lose(&job, 2);
		start_whole();
		restores(1);
		stats = cluster_stats(&job);
		CHECK(stats.moved_bytes >= BYTES / 2 && stats.moved_bytes < BYTES);
		cluster_deinit(&job);
	}
}

static void start_comparing(uint32_t every)
{
	init("1,1,1,1");
	job.opts.compare_every = every;
	start_whole();
	finds_nothing();
}

static void a_replica_that_differs_is_named_and_its_version_dropped(void)
{
	start_comparing(1);
	commit(1);
	CHECK(cluster_stats(&job).compared == 1);
	for (uint32_t bad = 0; bad < 4; bad++) {
		uint64_t version = 2 + 2 * bad;
		char text[64];

		check_note("rank %u differs", bad);
		snprintf(text, sizeof(text), "rank %u differs from 3 others", bad);
		fill(version);
		check_log_forget();
		if (job.rank == bad)
			((uint8_t *)whole)[BYTES / 4 * bad + 12345] ^= 0x10;
		snapshot(version, FTMEM_DROPPED);
		CHECK_MESSAGE("tensor w");
		CHECK_MESSAGE(text);
		CHECK(check_logged("this rank differs from 3 others") == (job.rank == bad));
		CHECK(cluster_stats(&job).differing == bad + 1);
		commit(version + 1);
	}
	fill(20);
	if (job.rank == 3)
		whole[0]++;
	snapshot(20, FTMEM_DROPPED);
	/* The last one in which all were equal is there. */
	restores(9);
	cluster_deinit(&job);
}

static void without_a_majority_all_are_named(void)
{
	start_comparing(1);
	commit(1);
	fill(2);
	whole[ROWS * COLS - 1] += job.rank % 2;
	snapshot(2, FTMEM_DROPPED);
	CHECK_MESSAGE("tensor w");
	CHECK_MESSAGE("without a majority");
	CHECK(check_logged("its replicas differ") == (job.rank == 0));
	commit(3);
	cluster_deinit(&job);
}

static void replicas_are_compared_as_often_as_asked_for(void)
{
	start_comparing(3);
	for (uint64_t v = 1; v <= 7; v++) {
		fill(v);
		if (job.rank == 1 && v != 3)
			whole[5]++;
		snapshot(v, v == 6 ? FTMEM_DROPPED : 0);
	}
	CHECK(cluster_stats(&job).compared == 2);
	CHECK(cluster_stats(&job).differing == 1);
	cluster_deinit(&job);
	/* By default never. */
	start_comparing(0);
	fill(1);
	whole[7] += job.rank;
	snapshot(1, 0);
	CHECK(cluster_stats(&job).compared == 0);
	cluster_deinit(&job);
}

/* Where boxes overlap partly, what they have in common is shared and compared. */
static void partial_overlaps_are_compared(void)
{
	struct ftmem_region r;
	uint32_t first, rows;

	init("1,1,1,1");
	job.opts.compare_every = 1;
	/* Ranks 0 and 1 have the upper two thirds and all; 2 and 3 overlap in a part. */
	first = (uint32_t[]){0, 0, ROWS / 2, ROWS / 3}[job.rank];
	rows = (uint32_t[]){2 * ROWS / 3, ROWS, ROWS / 2, ROWS / 3}[job.rank];
	r = box("w", whole + (size_t)first * COLS, first, rows);
	open_with(&r, 0);
	finds_nothing();
	commit(1);
	fill(2);
	/* In row ROWS / 2, which all four hold. */
	if (job.rank == 2)
		whole[(ROWS / 2) * COLS + 3] ^= 1;
	snapshot(2, FTMEM_DROPPED);
	CHECK_MESSAGE("rank 2 differs from 3 others");
	commit(3);
	cluster_close(&job);
	cluster_lose(&job, 1);
	start_whole();
	restores(3);
	cluster_deinit(&job);
}

static void a_tensor_of_two_shapes_is_refused(void)
{
	struct ftmem_region r;

	init("1,1,1,1");
	r = box("w", whole, 0, ROWS);
	if (job.rank == 2)
		r.shape[0] = ROWS + 1;
	open_with(&r, FTMEM_EINVAL);
	CHECK_MESSAGE("w");
	/* Mended, the same job goes on. */
	CHECK_RESULT(ftmem_region_remove(job.ft, "w"), 0);
	r.shape[0] = ROWS;
	CHECK_RESULT(ftmem_region_add(job.ft, &r), 0);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	finds_nothing();
	commit(1);
	cluster_deinit(&job);
}

static void begin_stored(void)
{
	init("1,1,1,1");
	start_whole();
	finds_nothing();
	commit(1);
	cluster_close(&job);
	memset(whole, 0xaa, BYTES);
}

static void refused(const struct ftmem_region *r, const char *part)
{
	uint64_t version = 77;

	open_with(r, 0);
	CHECK_RESULT(ftmem_restore(job.ft, &version), FTMEM_ELAYOUT);
	CHECK_MESSAGE(part);
	CHECK(version == 77);
	for (uint32_t i = 0; i < ROWS * COLS; i++)
		CHECK_MSG(whole[i] == 0xaaaaaaaa, "something was written");
	cluster_close(&job);
}

static void what_does_not_fit_is_refused_by_name_and_nothing_is_written(void)
{
	struct ftmem_region r;

	begin_stored();
	r = box("v", whole, 0, ROWS);
	refused(&r, "v");
	r = box("w", whole, 0, ROWS);
	r.elem_bytes = 2;
	r.shape[1] = r.extent[1] = 2 * COLS;
	refused(&r, "2-byte");
	r = box("w", whole, 0, ROWS);
	r.shape[0] = ROWS + 8;
	refused(&r, "w");
	r = (struct ftmem_region){.size = sizeof(r), .name = "w", .addr = whole, .bytes = BYTES};
	refused(&r, "w");
	/* All of that has left the version as it was. */
	start_whole();
	restores(1);
	cluster_deinit(&job);
}

static void a_box_that_is_not_all_stored_is_refused_with_the_part(void)
{
	struct ftmem_region r;
	uint64_t rows = ROWS / 8;

	init("1,1,1,1");
	/* Rows from the first half alone. */
	r = box("w", whole + (size_t)job.rank * rows * COLS, job.rank * rows, rows);
	open_with(&r, 0);
	finds_nothing();
	commit(1);
	cluster_close(&job);
	memset(whole, 0xaa, BYTES);
	r = box("w", whole, 0, ROWS);
	refused(&r, "[256:512, 0:700]");
	/* On one rank is enough, and all hear what it was. */
	r = box("w", whole, job.rank * rows, rows + (job.rank == 3));
	refused(&r, "[256:257, 0:700]");
	refused(&r, job.rank == 3 ? "w" : "rank 3 (node n3)");
	cluster_deinit(&job);
}

static void what_nobody_asks_for_is_told(void)
{
	struct ftmem_region r;
	uint64_t version = 0;

	begin_stored();
	r = box("w", whole, 0, ROWS / 2);
	open_with(&r, 0);
	check_log_forget();
	CHECK_RESULT(ftmem_restore(job.ft, &version), 0);
	CHECK(check_logged("tensor \"w\" [256:512, 0:700]") == (job.rank == 0));
	/* All of what is stored now is asked for. */
	check_log_forget();
	CHECK_RESULT(ftmem_restore(job.ft, &version), 0);
	CHECK(!check_logged("asked for by no rank"));
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"each_rank_stores_its_share_alone", each_rank_stores_its_share_alone},
		{"a_replica_that_differs_is_named_and_its_version_dropped",
	         a_replica_that_differs_is_named_and_its_version_dropped},
		{"without_a_majority_all_are_named", without_a_majority_all_are_named},
		{"replicas_are_compared_as_often_as_asked_for",
	         replicas_are_compared_as_often_as_asked_for},
		{"partial_overlaps_are_compared", partial_overlaps_are_compared},
		{"a_tensor_of_two_shapes_is_refused", a_tensor_of_two_shapes_is_refused},
		{"what_does_not_fit_is_refused_by_name_and_nothing_is_written",
	         what_does_not_fit_is_refused_by_name_and_nothing_is_written},
		{"a_box_that_is_not_all_stored_is_refused_with_the_part",
	         a_box_that_is_not_all_stored_is_refused_with_the_part},
		{"what_nobody_asks_for_is_told", what_nobody_asks_for_is_told},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
