/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A whole job whose state lies on devices, of the kind that tests/util/test_device.c makes
 * up: 4 ranks, one per node, two devices each. Steps are queued on a stream and overwrite
 * the state behind each fence, while it is copied.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster.h"
#include "mpi_check.h"
#include "test_device.h"
#include "test_random.h"

#define ROWS   300u
#define COLS   401u /* of words */
#define MOMENT 30011u /* words, replicated */
#define SMALL  60u    /* private tensors of some bytes */
#define PARTS  (SMALL + 3)
#define BUFFERS 3

#define POISON_BYTE  0xa5
#define GARBAGE_BYTE 0x3c

/* The last: by columns, each rank with some of the next one's. */
enum shape { WHOLE, BY_ROWS, BY_COLUMNS, OVERLAPPING };
#define OVERLAP 23u

/* A region, and what steps write to it. */
struct part {
	struct ftmem_region region;
	char name[32];
	int device;
	uint8_t *content[BUFFERS];
};

static struct {
	struct cluster c;
	MPI_Comm comm;  /* of the ranks that the job runs on */
	uint32_t ranks;
	struct part part[PARTS];
	uint32_t parts;
	struct test_stream *stream;
	uint32_t turn;  /* of the buffers */
	bool stay;      /* private regions do, at the next restore */
	uint8_t *garbage;
} job;

/* --- the state --- */

static struct part *add_part(const char *name, int device, uint64_t bytes)
{
	struct part *p = &job.part[job.parts++];

	CHECK(job.parts <= PARTS);
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->device = device;
	p->region = (struct ftmem_region)FTMEM_REGION_INIT;
	p->region.name = p->name;
	p->region.bytes = bytes;
	for (int i = 0; i < BUFFERS; i++) {
		p->content[i] = malloc(bytes);
		CHECK(p->content[i]);
	}
	p->region.addr = device == DEVICE_HOST ? malloc(bytes) : test_device_alloc(device, bytes);
	CHECK(p->region.addr);
	return p;
}

/* A box of words; its bytes have to fit. */
static void make_box(struct part *p, uint32_t ndim, const uint64_t *shape, const uint64_t *start,
                     const uint64_t *extent)
{
	uint64_t bytes = 4;

	p->region.elem_bytes = 4;
	p->region.ndim = ndim;
	for (uint32_t d = 0; d < ndim; d++) {
		p->region.shape[d] = shape[d];
		p->region.start[d] = start[d];
		p->region.extent[d] = extent[d];
		bytes *= extent[d];
	}
	CHECK(bytes == p->region.bytes);
}

static void add_matrix(enum shape shape)
{
	const uint64_t whole[2] = {ROWS, COLS};
	uint64_t start[2] = {0, 0}, end[2] = {ROWS, COLS}, extent[2];
	uint32_t d = shape == BY_ROWS ? 0 : 1, rank = job.c.rank;

	if (shape != WHOLE) {
		start[d] = whole[d] * rank / job.ranks;
		end[d] = whole[d] * (rank + 1) / job.ranks;
	}
	if (shape == OVERLAPPING && rank + 1 < job.ranks)
		end[d] += OVERLAP;
	extent[0] = end[0] - start[0];
	extent[1] = end[1] - start[1];
	make_box(add_part("matrix", 0, 4 * extent[0] * extent[1]), 2, whole, start, extent);
}

static void add_parts(enum shape shape)
{
	const uint64_t moment = MOMENT, zero = 0;
	char name[32];

	add_matrix(shape);
	make_box(add_part("moment", 1, 4 * MOMENT), 1, &moment, &zero, &moment);
	add_part("loader", DEVICE_HOST, 1000);
	for (uint32_t i = 0; i < SMALL; i++) {
		snprintf(name, sizeof(name), "small.%u", i);
		add_part(name, (int)(i % TEST_DEVICES), 1 + 37 * (uint64_t)i);
	}
	job.garbage = malloc(4 * ROWS * COLS);
	CHECK(job.garbage);
	memset(job.garbage, GARBAGE_BYTE, 4 * ROWS * COLS);
}

/* All the job's streams are over. */
static void free_parts(void)
{
	for (uint32_t i = 0; i < job.parts; i++) {
		struct part *p = &job.part[i];

		for (int j = 0; j < BUFFERS; j++)
			free(p->content[j]);
		if (p->device == DEVICE_HOST)
			free(p->region.addr);
	}
	free(job.garbage);
	job.garbage = NULL;
	job.parts = 0;
}

static uint32_t word(uint64_t key, uint64_t index)
{
	uint64_t state = key + index;

	return (uint32_t)test_random(&state);
}

/* What a part holds at that version: of a box by the place in the tensor, else by rank. */
static void make_content(const struct part *p, uint64_t version, uint8_t *out)
{
	const struct ftmem_region *r = &p->region;
	uint64_t key = job.c.salt + version * 7919 + (uint64_t)p->name[0] * 104729;
	uint64_t index, row = r->ndim == 0 ? 1 : r->extent[r->ndim - 1];
	uint32_t value;

	if (r->ndim == 0)
		key += (uint64_t)(job.c.rank + 1) << 40 ^ r->bytes << 20;
	for (uint64_t at = 0; at < r->bytes; at += 4) {
		uint64_t left = r->bytes - at, i = at / 4;

		index = i;
		if (r->ndim == 2)
			index = (r->start[0] + i / row) * r->shape[1] + r->start[1] + i % row;
		value = word(key, index);
		memcpy(out + at, &value, left < 4 ? left : 4);
	}
}

/* Queues a step that writes this version's state; what is on the host is written at once. */
static void step(uint64_t version)
{
	uint32_t turn = job.turn++ % BUFFERS;

	/* Whose buffers these were. */
	if (turn == 0)
		CHECK(test_stream_sync(job.stream));
	for (uint32_t i = 0; i < job.parts; i++) {
		struct part *p = &job.part[i];

		make_content(p, version, p->content[turn]);
		if (p->device == DEVICE_HOST)
			memcpy(p->region.addr, p->content[turn], p->region.bytes);
		else
			test_stream_copy(job.stream, p->region.addr, p->content[turn],
			                 p->region.bytes);
	}
}

/* The optimizer's: all is another state as soon as it may. */
static void queue_garbage(void)
{
	for (uint32_t i = 0; i < job.parts; i++) {
		struct part *p = &job.part[i];

		if (p->device == DEVICE_HOST)
			memset(p->region.addr, GARBAGE_BYTE, p->region.bytes);
		else
			test_stream_copy(job.stream, p->region.addr, job.garbage, p->region.bytes);
	}
}

static void poison(void)
{
	CHECK(test_stream_sync(job.stream));
	for (uint32_t i = 0; i < job.parts; i++)
		test_device_set(job.part[i].region.addr, POISON_BYTE, job.part[i].region.bytes);
}

static void verify(uint64_t version)
{
	uint8_t *got = malloc(4 * ROWS * COLS), *want = malloc(4 * ROWS * COLS);

	CHECK(got && want);
	for (uint32_t i = 0; i < job.parts; i++) {
		const struct part *p = &job.part[i];

		test_device_read(got, p->region.addr, p->region.bytes);
		make_content(p, version, want);
		if (p->region.ndim == 0 && job.stay)
			memset(want, POISON_BYTE, p->region.bytes);
		for (uint64_t j = 0; j < p->region.bytes; j++)
			CHECK_MSG(got[j] == want[j],
			          "%s (on %d) is not that of version %" PRIu64 " from byte %" PRIu64
			          " of %" PRIu64 " on: %02x", p->name, p->device, version, j,
			          p->region.bytes, got[j]);
	}
	free(got);
	free(want);
}

/* --- the job --- */

static bool runs(void)
{
	return job.c.rank < job.ranks;
}

static void init(const char *layout)
{
	memset(&job, 0, sizeof(job));
	cluster_init(&job.c, MPI_COMM_WORLD, layout);
	job.c.opts.block_bytes = 4096;
	job.comm = MPI_COMM_NULL;
}

/* On the first so many ranks, with the state cut that way. */
static void start(uint32_t ranks, enum shape shape)
{
	MPI_Comm all = job.c.comm;

	job.ranks = ranks;
	MPI_Comm_split(all, runs() ? 0 : MPI_UNDEFINED, (int)job.c.rank, &job.comm);
	if (!runs())
		return;
	add_parts(shape);
	job.stream = test_stream_new(0);
	job.c.comm = job.comm;
	CHECK_RESULT(cluster_try_open(&job.c), 0);
	job.c.comm = all;
	for (uint32_t i = 0; i < job.parts; i++)
		CHECK_RESULT(ftmem_region_add(job.c.ft, &job.part[i].region), 0);
	CHECK_RESULT(ftmem_seal(job.c.ft), 0);
}

static void end(void)
{
	if (job.stream)
		CHECK(test_stream_sync(job.stream));
	cluster_close(&job.c);
	job.stream = NULL;
	free_parts();
	test_device_reset();
	if (job.comm != MPI_COMM_NULL)
		MPI_Comm_free(&job.comm);
}

static void finish(void)
{
	end();
	cluster_deinit(&job.c);
}

/* A step and its snapshot, of which the next step does not know. */
static void snapshot(uint64_t version)
{
	step(version);
	CHECK_RESULT(ftmem_snapshot(job.c.ft, version, job.stream), 0);
	CHECK_RESULT(ftmem_fence(job.c.ft, job.stream), 0);
	queue_garbage();
}

static void resolve(uint64_t version, int result)
{
	if (!runs())
		return;
	snapshot(version);
	CHECK_RESULT(ftmem_wait(job.c.ft, version, job.c.opts.timeout_ms), result);
	check_barrier(job.comm);
}

static void commit(uint64_t version)
{
	resolve(version, 0);
}

static void restores(uint64_t version)
{
	uint64_t got = UINT64_MAX;

	if (!runs())
		return;
	poison();
	CHECK_RESULT(ftmem_restore(job.c.ft, &got), 0);
	CHECK_MSG(got == version, "version %" PRIu64 " instead of %" PRIu64, got, version);
	verify(version);
}

static void finds_nothing(void)
{
	uint64_t version;

	if (runs())
		CHECK_RESULT(ftmem_restore(job.c.ft, &version), FTMEM_FRESH);
}

/* --- cases --- */

static void state_on_devices_is_captured_while_steps_go_on(void)
{
	struct ftmem_stats stats;

	init("1,1,1,1");
	start(4, BY_ROWS);
	finds_nothing();
	test_device_slow(2000000);
	for (uint64_t v = 1; v <= 8; v++)
		commit(v);
	stats = cluster_stats(&job.c);
	CHECK(stats.committed == 8);
	CHECK_MSG(stats.device_bytes > 0 && stats.device_bytes < stats.data_bytes,
	          "%" PRIu64 " of %" PRIu64 " bytes on devices", stats.device_bytes,
	          stats.data_bytes);
	CHECK(stats.staged_bytes == 0);
	restores(8);
	commit(9);
	restores(9);
	finish();
}

static void staging_holds_what_has_not_left_the_device(void)
{
	init("1,1,1,1");
	job.c.opts.device_staging = 8 << 20;
	start(4, BY_ROWS);
	finds_nothing();
	/* Nothing leaves the device before the step behind the fence is over. */
	test_device_hold(0, DEVICE_OUT, 0);
	test_device_hold(1, DEVICE_OUT, 0);
	snapshot(1);
	CHECK(test_stream_sync(job.stream));
	test_device_go(0, DEVICE_OUT);
	test_device_go(1, DEVICE_OUT);
	CHECK_RESULT(ftmem_wait(job.c.ft, 1, job.c.opts.timeout_ms), 0);
	CHECK(cluster_stats(&job.c).staged_bytes == cluster_stats(&job.c).device_bytes);
	restores(1);
	for (uint64_t v = 2; v <= 6; v++)
		commit(v);
	restores(6);
	finish();
}

static void lost_nodes_are_rebuilt_into_device_memory(void)
{
	static const uint32_t lost[2][3] = {{0x1, 0x8, 0x2}, {0x3, 0xa, 0xc}};

	for (uint32_t parity = 1; parity <= 2; parity++) {
		uint64_t version = 1;

		init("1,1,1,1");
		job.c.opts.parity = parity;
		start(4, BY_ROWS);
		finds_nothing();
		commit(version);
		end();
		for (uint32_t i = 0; i < 3; i++) {
			check_note("parity %u, lost set %x", parity, lost[parity - 1][i]);
			cluster_lose(&job.c, lost[parity - 1][i]);
			start(4, BY_ROWS);
			restores(version);
			if (i < 2)
				commit(++version);
			end();
		}
		start(4, BY_ROWS);
		restores(version);
		finish();
	}
}

static void other_numbers_of_ranks_get_their_boxes(void)
{
	static const struct {
		uint32_t ranks;
		enum shape shape;
		uint32_t lost;
	} hop[] = {{3, OVERLAPPING, 0x8},
	           {2, BY_ROWS, 0x4},
	           {2, WHOLE, 0},
	           {2, BY_COLUMNS, 0x1},
	           {4, OVERLAPPING, 0},
	           {4, BY_COLUMNS, 0x2}};
	uint32_t before = 4;
	uint64_t version = 1;

	init("1,1,1,1");
	start(4, BY_ROWS);
	finds_nothing();
	commit(version);
	for (uint32_t i = 0; i < sizeof(hop) / sizeof(hop[0]); i++) {
		end();
		check_note("to %u ranks, lost %x", hop[i].ranks, hop[i].lost);
		cluster_lose(&job.c, hop[i].lost);
		/* Of ranks that there were not before nothing private is stored. */
		job.stay = hop[i].ranks > before;
		job.c.opts.private_rule = job.stay ? FTMEM_PRIVATE_DROP : FTMEM_PRIVATE_RANK;
		before = hop[i].ranks;
		start(hop[i].ranks, hop[i].shape);
		restores(version);
		job.stay = false;
		commit(++version);
	}
	restores(version);
	finish();
}

/* Of what several ranks hold one stores each byte. */
static void check_stored_once(void)
{
	uint64_t stored = cluster_stats(&job.c).device_bytes, held = 4 * (ROWS * COLS + MOMENT);

	MPI_Allreduce(MPI_IN_PLACE, &stored, 1, MPI_UINT64_T, MPI_SUM, job.comm);
	for (uint32_t i = 0; i < job.parts; i++)
		if (job.part[i].device != DEVICE_HOST && job.part[i].region.ndim == 0)
			held += job.ranks * job.part[i].region.bytes;
	CHECK_MSG(stored == held, "%" PRIu64 " bytes are stored of %" PRIu64, stored, held);
}

/* Bytes of a box that others hold too: in its last columns, or in a vector. */
static uint8_t *shared_bytes(const struct part *p)
{
	const struct ftmem_region *r = &p->region;
	uint64_t index = r->ndim == 2 ? 11 * r->extent[1] - 5 : 5000;

	return (uint8_t *)r->addr + 4 * index;
}

/* One rank holds other bytes than the rest, on one device or the other. */
static void differ(uint64_t version, uint32_t bad)
{
	step(version);
	CHECK(test_stream_sync(job.stream));
	if (job.c.rank == bad)
		test_device_set(shared_bytes(&job.part[bad % 2]), 0x77, 3);
	CHECK_RESULT(ftmem_snapshot(job.c.ft, version, job.stream), 0);
	CHECK_RESULT(ftmem_fence(job.c.ft, job.stream), 0);
	queue_garbage();
	CHECK_RESULT(ftmem_wait(job.c.ft, version, job.c.opts.timeout_ms), FTMEM_DROPPED);
	CHECK_MESSAGE(bad % 2 ? "tensor moment" : "tensor matrix");
	check_barrier(job.comm);
}

static void replicas_on_devices_are_shared_and_compared(void)
{
	static const enum shape shape[] = {WHOLE, OVERLAPPING};

	for (int i = 0; i < 2; i++) {
		init("1,1,1,1");
		job.c.opts.compare_every = 1;
		start(4, shape[i]);
		finds_nothing();
		commit(1);
		check_stored_once();
		CHECK(cluster_stats(&job.c).compared == 1);
		CHECK(cluster_stats(&job.c).differing == 0);
		differ(2, 0);
		commit(3);
		differ(4, 3);
		commit(5);
		CHECK(cluster_stats(&job.c).differing == 2);
		restores(5);
		end();
		cluster_lose(&job.c, 4);
		start(4, shape[1 - i]);
		restores(5);
		finish();
	}
}

/* Training goes on, and so do versions. */
static void what_fails_on_one_device_drops_one_version(void)
{
	init("1,1,1,1");
	start(4, BY_ROWS);
	finds_nothing();
	commit(1);
	if (job.c.rank == 2)
		test_device_fail_issue(1);
	resolve(2, FTMEM_DROPPED);
	test_device_fail_issue(0);
	commit(3);
	/* A stream that is captured is refused on its rank. */
	step(4);
	if (job.c.rank == 1) {
		test_stream_capture(job.stream, true);
		CHECK_RESULT(ftmem_snapshot(job.c.ft, 4, job.stream), FTMEM_DROPPED);
		CHECK_MESSAGE("capture");
		test_stream_capture(job.stream, false);
	} else {
		CHECK_RESULT(ftmem_snapshot(job.c.ft, 4, job.stream), 0);
	}
	CHECK_RESULT(ftmem_fence(job.c.ft, job.stream), 0);
	CHECK_RESULT(ftmem_wait(job.c.ft, 4, job.c.opts.timeout_ms), FTMEM_DROPPED);
	check_barrier(job.comm);
	commit(5);
	/* A device that is lost for good takes all later versions with it, but nothing else. */
	if (job.c.rank == 3)
		test_device_lose(0);
	step(6);
	CHECK_RESULT(ftmem_snapshot(job.c.ft, 6, job.stream), job.c.rank == 3 ? FTMEM_DROPPED : 0);
	CHECK_RESULT(ftmem_wait(job.c.ft, 6, job.c.opts.timeout_ms), FTMEM_DROPPED);
	end();
	start(4, BY_ROWS);
	restores(5);
	finish();
}

static void memory_freed_after_registration_is_said_to_be(void)
{
	init("1,1,1,1");
	start(4, BY_ROWS);
	finds_nothing();
	commit(1);
	if (job.c.rank == 2)
		test_device_free(job.part[0].region.addr);
	for (uint64_t v = 2; v < 4; v++) {
		CHECK_RESULT(ftmem_snapshot(job.c.ft, v, job.stream), 0);
		CHECK_RESULT(ftmem_fence(job.c.ft, job.stream), 0);
		CHECK_RESULT(ftmem_wait(job.c.ft, v, job.c.opts.timeout_ms), FTMEM_DROPPED);
		if (job.c.rank == 2)
			CHECK_MESSAGE("freed");
		check_barrier(job.comm);
	}
	end();
	start(4, BY_ROWS);
	restores(1);
	finish();
}

static void managed_memory_is_refused_by_name(void)
{
	struct ftmem_region r = FTMEM_REGION_INIT;

	init("1,1,1,1");
	CHECK_RESULT(cluster_try_open(&job.c), 0);
	r.name = "wandering";
	r.addr = test_device_managed(100);
	r.bytes = 100;
	CHECK_RESULT(ftmem_region_add(job.c.ft, &r), FTMEM_EINVAL);
	CHECK_MESSAGE("wandering");
	finish();
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"state_on_devices_is_captured_while_steps_go_on",
	         state_on_devices_is_captured_while_steps_go_on},
		{"staging_holds_what_has_not_left_the_device",
	         staging_holds_what_has_not_left_the_device},
		{"lost_nodes_are_rebuilt_into_device_memory",
	         lost_nodes_are_rebuilt_into_device_memory},
		{"other_numbers_of_ranks_get_their_boxes", other_numbers_of_ranks_get_their_boxes},
		{"replicas_on_devices_are_shared_and_compared",
	         replicas_on_devices_are_shared_and_compared},
		{"what_fails_on_one_device_drops_one_version",
	         what_fails_on_one_device_drops_one_version},
		{"memory_freed_after_registration_is_said_to_be",
	         memory_freed_after_registration_is_said_to_be},
		{"managed_memory_is_refused_by_name", managed_memory_is_refused_by_name},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
