/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A layout whose regions lie in host memory and on test devices, its plan, a slot, and the
 * engine that copies them. Programs that include it link with --wrap of copy_bands_new, so
 * that a few MiB have many bands.
 *
 * Content is bytes of all regions, as they would lie in host memory. It is written to host
 * regions by the caller, to those of devices at once or by a stream.
 */
#ifndef FTMEM_TEST_DEVICE_BENCH_H
#define FTMEM_TEST_DEVICE_BENCH_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "checksum.h"
#include "clock.h"
#include "copy.h"
#include "copy_bands.h"
#include "test_boxes.h"
#include "test_device.h"

#define BENCH_CHECKS     6
#define BENCH_PATIENCE_MS 20000
#define SPOILED          0x5b

int __real_copy_bands_new(const struct copy_plan *plan, uint64_t band_bytes,
                          struct copy_bands **out);
int __wrap_copy_bands_new(const struct copy_plan *plan, uint64_t band_bytes,
                          struct copy_bands **out);

static uint64_t bench_band_bytes;
static uint32_t bench_bands; /* of the last plan */

int __wrap_copy_bands_new(const struct copy_plan *plan, uint64_t band_bytes,
                          struct copy_bands **out)
{
	int rc = __real_copy_bands_new(plan, bench_band_bytes ? bench_band_bytes : band_bytes,
	                               out);

	bench_bands = rc == 0 ? (*out)->bands : 0;
	return rc;
}

/* Where regions lie. */
enum bench_place { ON_DEVICE_0, ON_DEVICE_1, ON_ALL, ANYWHERE, ON_HOST };

struct bench_spec {
	enum bench_place place;
	uint32_t threads;      /* 0: 2 */
	uint64_t staging;
	uint64_t band_bytes;   /* 0: 64 KiB */
	uint32_t small;        /* regions of a few bytes, beside the usual ones */
	bool checks;
	bool apart;            /* each region is an allocation of its own */
	uint64_t random;
};

struct device_bench {
	struct test_layout t;
	struct rail rail;
	struct copy_plan *plan;
	struct copy_job job;
	uint8_t *arena;
	uint64_t arena_bytes, device_bytes;
	uint8_t *mirror[TEST_DEVICES]; /* as t.memory, where their regions are */
	uint64_t *allocation;          /* bytes of those that a mirror consists of */
	uint32_t allocations;
	uint8_t *image;                /* what the slot must hold */
	struct box inner[BENCH_CHECKS];
	struct copy_check check[BENCH_CHECKS];
	uint32_t check_sum[BENCH_CHECKS], want_sum[BENCH_CHECKS];
	uint64_t random;
	const struct copy_ops *ops;
	struct copy *copy;
	struct log log;
	_Atomic uint32_t warnings, errors;
};

/* --- content --- */

/* The caller's to free. */
static inline uint8_t *bench_content(struct device_bench *b)
{
	uint8_t *content = malloc(b->t.memory_bytes);

	assert_non_null(content);
	test_random_fill(&b->random, content, b->t.memory_bytes);
	return content;
}

static inline uint64_t bench_offset(const struct device_bench *b, const struct region *r)
{
	const uint8_t *base = r->device == DEVICE_HOST ? b->t.memory : b->mirror[r->device];

	return (uint64_t)((uintptr_t)r->addr - (uintptr_t)base);
}

static inline void bench_write_host(struct device_bench *b, const uint8_t *content)
{
	for (uint32_t i = 0; i < b->t.layout.regions; i++) {
		const struct region *r = &b->t.layout.region[i];

		if (r->device == DEVICE_HOST)
			memcpy(r->addr, content + bench_offset(b, r), r->bytes);
	}
}

/* Of all allocations of a mirror in turn: where it begins, and its bytes. False: no more. */
static inline bool bench_next(const struct device_bench *b, uint32_t *i, uint64_t *at,
                              uint64_t *bytes)
{
	if (*i == b->allocations)
		return false;
	*at = *i == 0 ? 0 : *at + *bytes;
	*bytes = b->allocation[(*i)++];
	return true;
}

/* Everywhere, at once. */
static inline void bench_write(struct device_bench *b, const uint8_t *content)
{
	bench_write_host(b, content);
	for (int d = 0; d < TEST_DEVICES; d++) {
		uint64_t at = 0, bytes = 0;

		for (uint32_t i = 0; bench_next(b, &i, &at, &bytes);)
			test_device_write(b->mirror[d] + at, content + at, bytes);
	}
}

/* To devices, when the stream comes to it. The content stays until then. */
static inline void bench_queue(struct device_bench *b, struct test_stream *s,
                               const uint8_t *content)
{
	for (int d = 0; d < TEST_DEVICES; d++) {
		uint64_t at = 0, bytes = 0;

		for (uint32_t i = 0; bench_next(b, &i, &at, &bytes);)
			test_stream_copy(s, b->mirror[d] + at, content + at, bytes);
	}
}

static inline uint32_t bench_check_sum(const struct device_bench *b, uint32_t i,
                                       const uint8_t *content)
{
	const struct region *r = &b->t.layout.region[b->t.layout.regions - 1 - i];
	uint64_t bytes = test_boxes_count(&b->inner[i]) * r->elem_bytes;
	uint8_t *packed = malloc(bytes);
	uint32_t sum;

	assert_non_null(packed);
	test_boxes_pack(&r->box, &b->inner[i], r->elem_bytes, content + bench_offset(b, r),
	                packed);
	sum = checksum_more(0, packed + b->check[i].from, b->check[i].bytes);
	free(packed);
	return sum;
}

/* What is captured next must be that. */
static inline void bench_expect(struct device_bench *b, const uint8_t *content)
{
	struct layout *l = &b->t.layout;
	void **at = malloc(l->regions * sizeof(*at));

	assert_non_null(at);
	for (uint32_t i = 0; i < BENCH_CHECKS; i++)
		b->want_sum[i] = bench_check_sum(b, i, content);
	for (uint32_t i = 0; i < l->regions; i++) {
		at[i] = l->region[i].addr;
		l->region[i].addr =
			(uint8_t *)(uintptr_t)content + bench_offset(b, &l->region[i]);
	}
	free(b->image);
	b->image = test_boxes_image(&b->t);
	for (uint32_t i = 0; i < l->regions; i++)
		l->region[i].addr = at[i];
	free(at);
}

/* --- life --- */

static inline int bench_device(enum bench_place place, uint64_t *random)
{
	switch (place) {
	case ON_DEVICE_0: return 0;
	case ON_DEVICE_1: return 1;
	case ON_ALL: return (int)test_random_below(random, TEST_DEVICES);
	case ANYWHERE: return (int)test_random_below(random, TEST_DEVICES + 1) - 1;
	default: return DEVICE_HOST;
	}
}

/* The mirrors; regions are still in host memory. */
static inline void bench_allocate(struct device_bench *b, bool apart)
{
	const struct layout *l = &b->t.layout;
	uint64_t next = b->t.memory_bytes;
	void **at;

	b->allocations = apart ? l->regions : 1;
	b->allocation = calloc(b->allocations, sizeof(*b->allocation));
	at = calloc(b->allocations, sizeof(*at));
	assert_non_null(b->allocation);
	assert_non_null(at);
	for (uint32_t i = b->allocations; i-- > 0;) {
		uint64_t offset = bench_offset(b, &l->region[i]);

		b->allocation[i] = next - offset;
		next = offset;
	}
	for (int d = 0; d < TEST_DEVICES; d++) {
		test_device_alloc_row(d, b->allocation, b->allocations, at);
		b->mirror[d] = at[0];
	}
	free(at);
}

/* From host memory, where the layout was made, to where they are to lie. */
static inline void bench_place(struct device_bench *b, enum bench_place place)
{
	struct layout *l = &b->t.layout;

	for (uint32_t i = 0; i < l->regions; i++) {
		struct region *r = &l->region[i];
		uint64_t offset = bench_offset(b, r);

		r->device = bench_device(place, &b->random);
		/* On several devices each has some. */
		if ((place == ON_ALL || place == ANYWHERE) && (i == 3 || i == 6))
			r->device = i == 3;
		if (r->device != DEVICE_HOST)
			r->addr = b->mirror[r->device] + offset;
	}
}

static inline void bench_add_check(struct device_bench *b, uint32_t i)
{
	const struct region *r = &b->t.layout.region[b->t.layout.regions - 1 - i];
	struct copy_check *k = &b->check[i];
	uint64_t bytes;

	b->inner[i] = test_boxes_inner(&r->box, &b->random);
	bytes = test_boxes_count(&b->inner[i]) * r->elem_bytes;
	k->addr = r->addr;
	k->device = r->device;
	box_view(&r->box, &b->inner[i], r->elem_bytes, &k->view);
	k->from = test_random_below(&b->random, (uint32_t)bytes);
	k->bytes = 1 + test_random_below(&b->random, (uint32_t)(bytes - k->from));
}

static inline void bench_count_line(void *arg, int level, const char *line)
{
	struct device_bench *b = arg;

	(void)line;
	if (level == FTMEM_LOG_WARN)
		atomic_fetch_add(&b->warnings, 1);
	if (level == FTMEM_LOG_ERROR)
		atomic_fetch_add(&b->errors, 1);
}

static inline void bench_plan(struct device_bench *b)
{
	uint64_t page = 4096, slot = (b->t.layout.data_bytes + page - 1) / page * page;

	b->rail = test_layout_rail(&b->t, 4, 1, 8192);
	assert_int_equal(copy_plan_new(&b->t.layout, &b->rail, 1, &b->plan), 0);
	for (uint32_t i = 0; i < b->plan->pieces; i++)
		if (b->plan->piece[i].device != DEVICE_HOST)
			b->device_bytes += b->plan->piece[i].bytes;
	/* A page before the slot, and one behind it. */
	b->arena_bytes = slot + 2 * page;
	b->arena = mmap(NULL, b->arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	                -1, 0);
	assert_true(b->arena != MAP_FAILED);
	b->job.plan = b->plan;
	b->job.data = b->arena + page;
	b->job.sums = calloc(b->plan->blocks, sizeof(*b->job.sums));
	b->job.landed = calloc(b->plan->blocks, 1);
	b->job.check = b->check;
	b->job.check_sum = b->check_sum;
	assert_non_null(b->job.sums);
	assert_non_null(b->job.landed);
}

/* Opened, but not prepared. */
static inline void bench_open(struct device_bench *b, const struct bench_spec *spec)
{
	static const uint64_t usual[] = {1, 63, 64, 100000, 65, 4095, (1 << 20) + 1, 7, 4096, 9};
	struct copy_config config = {
		.threads = spec->threads ? spec->threads : 2,
		.device_staging = spec->staging,
		.pin_piece = 256 << 10,
		.pin_threads = 2,
		.log = &b->log,
	};
	uint32_t count = 10 + spec->small;
	uint64_t *bytes = calloc(count, sizeof(*bytes));

	memset(b, 0, sizeof(*b));
	assert_non_null(bytes);
	b->log = (struct log){bench_count_line, b, FTMEM_LOG_WARN, LOG_NO_RANK};
	b->random = spec->random;
	bench_band_bytes = spec->band_bytes ? spec->band_bytes : 65536;
	for (uint32_t i = 0; i < count; i++)
		bytes[i] = i < 10 ? usual[i] : 1 + test_random_below(&b->random, 500);
	test_boxes_init(&b->t, bytes, count, BENCH_CHECKS, 3000, &b->random);
	free(bytes);
	bench_allocate(b, spec->apart);
	bench_place(b, spec->place);
	for (uint32_t i = 0; i < BENCH_CHECKS; i++)
		bench_add_check(b, i);
	b->job.checks = spec->checks ? BENCH_CHECKS : 0;
	bench_plan(b);
	b->ops = copy_device();
	assert_non_null(b->ops);
	assert_int_equal(b->ops->open(&config, &b->copy), 0);
}

static inline int bench_prepare(struct device_bench *b)
{
	return b->ops->prepare(b->copy, b->plan, b->arena, b->arena_bytes);
}

static inline void bench_init(struct device_bench *b, const struct bench_spec *spec)
{
	bench_open(b, spec);
	assert_int_equal(bench_prepare(b), 0);
}

static inline void bench_deinit(struct device_bench *b)
{
	for (int d = 0; d < TEST_DEVICES; d++)
		for (int i = 0; i < DEVICE_LANES; i++)
			test_device_go(d, (enum device_lane)i);
	if (b->copy)
		b->ops->release(b->copy, b->plan);
	b->ops->close(b->copy);
	copy_plan_free(b->plan);
	munmap(b->arena, b->arena_bytes);
	test_layout_deinit(&b->t);
	free(b->allocation);
	free(b->image);
	free(b->job.sums);
	free((void *)b->job.landed);
	test_device_reset();
}

/* --- copies --- */

static inline int bench_try(struct device_bench *b, void *stream)
{
	for (uint32_t i = 0; i < b->plan->blocks; i++)
		atomic_store(&b->job.landed[i], COPY_PENDING);
	for (uint32_t i = 0; i < BENCH_CHECKS; i++)
		b->check_sum[i] = ~b->want_sum[i];
	memset(b->job.sums, 0x55, b->plan->blocks * sizeof(*b->job.sums));
	memset(b->job.data, 0xa5, b->t.layout.data_bytes);
	return b->ops->begin(b->copy, &b->job, stream);
}

static inline void bench_begin(struct device_bench *b, void *stream)
{
	assert_int_equal(bench_try(b, stream), 0);
}

static inline int bench_fence(struct device_bench *b, void *stream)
{
	return b->ops->fence(b->copy, stream, clock_deadline(BENCH_PATIENCE_MS));
}

static inline void bench_await(struct device_bench *b)
{
	uint64_t deadline = clock_deadline(BENCH_PATIENCE_MS);

	while (!b->ops->done(b->copy) && clock_ns() < deadline)
		clock_sleep(100000);
	assert_true(b->ops->done(b->copy));
}

static inline unsigned bench_landed(const struct device_bench *b, uint32_t index)
{
	return atomic_load_explicit(&b->job.landed[index], memory_order_acquire);
}

static inline void assert_block_is_right(const struct device_bench *b, uint32_t index)
{
	const struct copy_block *block = &b->plan->block[index];

	assert_memory_equal(b->job.data + block->offset, b->image + block->offset, block->bytes);
	assert_int_equal(b->job.sums[block->sum],
	                 checksum_more(0, b->image + block->offset, block->bytes));
}

/* Waits for the end. Blocks landed; each of them is right, each other has failed; if none
 * has, the checks are right. */
static inline uint32_t bench_resolve(struct device_bench *b)
{
	uint32_t landed = 0;

	bench_await(b);
	for (uint32_t i = 0; i < b->plan->blocks; i++) {
		if (bench_landed(b, i) != COPY_LANDED) {
			assert_int_equal(bench_landed(b, i), COPY_FAILED);
			continue;
		}
		assert_block_is_right(b, i);
		landed++;
	}
	for (uint32_t i = 0; landed == b->plan->blocks && i < b->job.checks; i++)
		assert_int_equal(b->check_sum[i], b->want_sum[i]);
	return landed;
}

static inline void assert_captured(struct device_bench *b)
{
	assert_int_equal(bench_resolve(b), b->plan->blocks);
}

/* A snapshot of what is everywhere. */
static inline void bench_capture(struct device_bench *b, const uint8_t *content)
{
	bench_write(b, content);
	bench_expect(b, content);
	bench_begin(b, NULL);
	assert_int_equal(bench_fence(b, NULL), 0);
	assert_captured(b);
}

static inline struct copy_figures bench_figures(struct device_bench *b)
{
	struct copy_figures f;

	memset(&f, 0xff, sizeof(f));
	b->ops->figures(b->copy, &f);
	return f;
}

#endif
