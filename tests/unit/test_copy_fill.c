/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The way back of copy_host.c: blocks of a slot into regions. Links with --wrap of
 * checksum: a thread that comes to the gate there has a block in its hands.
 */
#include <sched.h>

#include "copy_bench.h"

uint32_t __real_checksum(const void *data, size_t bytes);
uint32_t __wrap_checksum(const void *data, size_t bytes);
uint32_t __wrap_checksum(const void *data, size_t bytes)
{
	gate_pass();
	return __real_checksum(data, bytes);
}

/* A slot that holds what the regions held, which are then overwritten. */
struct fill_bench {
	struct bench b;
	struct copy_fill fill;
	uint8_t *regions; /* as they were */
};

#define SPOILED 0x5b

static void spoil(struct fill_bench *f)
{
	memset(f->b.t.memory, SPOILED, f->b.t.memory_bytes);
}

static void fill_bench_init(struct fill_bench *f, uint32_t threads, uint64_t random)
{
	struct bench *b = &f->b;

	bench_init(b, threads, random);
	bench_begin(b);
	assert_int_equal(bench_fence(b), 0);
	assert_int_equal(assert_resolved(b), b->plan->blocks);
	f->regions = malloc(b->t.memory_bytes);
	assert_non_null(f->regions);
	memcpy(f->regions, b->t.memory, b->t.memory_bytes);
	f->fill = (struct copy_fill){b->plan, b->job.data, b->job.sums};
	spoil(f);
}

static void fill_bench_deinit(struct fill_bench *f)
{
	free(f->regions);
	bench_deinit(&f->b);
}

static uint64_t end(struct fill_bench *f)
{
	uint64_t damaged = 99;

	assert_int_equal(f->b.ops->fill_end(f->b.copy, &damaged), 0);
	assert_true(f->b.ops->done(f->b.copy));
	return damaged;
}

/* What the first blocks hold of regions is there, and nothing else was written. Copied
 * again, blocks that were filled are as before, and others are not. */
static void assert_filled(struct fill_bench *f, uint32_t blocks)
{
	struct bench *b = &f->b;

	for (uint64_t i = 0; i < b->t.memory_bytes; i++)
		assert_true(b->t.memory[i] == SPOILED || b->t.memory[i] == f->regions[i]);
	memset(b->job.data, 0, b->t.layout.data_bytes);
	bench_begin(b);
	assert_int_equal(bench_fence(b), 0);
	for (uint32_t i = 0; i < b->plan->blocks; i++) {
		const struct copy_block *block = &b->plan->block[i];

		if (block->count == 0 || block->offset < b->t.layout.blob_bytes)
			continue;
		assert_int_equal(memcmp(b->job.data + block->offset, b->image + block->offset,
		                        block->bytes) == 0,
		                 i < blocks);
	}
}

static void fills_everything_with_any_number_of_threads(void **state)
{
	static const uint32_t threads[] = {1, 2, 3, 8};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct fill_bench f;

		fill_bench_init(&f, threads[i], 80 + i);
		for (int again = 0; again < 3; again++) {
			spoil(&f);
			assert_int_equal(
				f.b.ops->fill(f.b.copy, &f.fill, f.b.plan->blocks), 0);
			assert_int_equal(end(&f), 0);
			assert_filled(&f, f.b.plan->blocks);
		}
		fill_bench_deinit(&f);
	}
}

/* It is no region, and others may read it. */
static void the_layout_is_not_written(void **state)
{
	struct fill_bench f;
	struct layout *l = &f.b.t.layout;

	(void)state;
	fill_bench_init(&f, 2, 84);
	memset(l->blob, SPOILED, l->blob_bytes);
	assert_int_equal(f.b.ops->fill(f.b.copy, &f.fill, f.b.plan->blocks), 0);
	assert_int_equal(end(&f), 0);
	for (uint64_t i = 0; i < l->blob_bytes; i++)
		assert_int_equal(l->blob[i], SPOILED);
	assert_filled(&f, f.b.plan->blocks);
	fill_bench_deinit(&f);
}

/* Bytes come into the slot block after block. */
static void blocks_are_used_when_they_are_ready(void **state)
{
	(void)state;
	for (uint32_t round = 0; round < 10; round++) {
		struct fill_bench f;
		uint32_t step = 1 + 3 * round;

		fill_bench_init(&f, 1 + round % 3, 85);
		memset(f.b.job.data, SPOILED, f.b.t.layout.data_bytes);
		assert_int_equal(f.b.ops->fill(f.b.copy, &f.fill, 0), 0);
		for (uint32_t i = 0; i < f.b.plan->blocks; i++) {
			const struct copy_block *block = &f.b.plan->block[i];

			memcpy(f.b.job.data + block->offset, f.b.image + block->offset,
			       block->bytes);
			if (i % step == 0)
				f.b.ops->fill_more(f.b.copy, i + 1);
			if (i % 64 == 0)
				sched_yield();
		}
		f.b.ops->fill_more(f.b.copy, f.b.plan->blocks);
		assert_int_equal(end(&f), 0);
		assert_filled(&f, f.b.plan->blocks);
		fill_bench_deinit(&f);
	}
}

static void what_never_becomes_ready_is_left_out(void **state)
{
	(void)state;
	for (uint32_t threads = 1; threads <= 4; threads++) {
		struct fill_bench f;
		uint32_t ready;

		fill_bench_init(&f, threads, 86);
		ready = f.b.plan->blocks / 2;
		assert_int_equal(f.b.ops->fill(f.b.copy, &f.fill, threads == 1 ? ready : 0), 0);
		f.b.ops->fill_more(f.b.copy, ready);
		assert_int_equal(end(&f), 0);
		assert_filled(&f, ready);
		spoil(&f);
		memcpy(f.b.job.data, f.b.image, f.b.t.layout.data_bytes);
		assert_int_equal(f.b.ops->fill(f.b.copy, &f.fill, 0), 0);
		assert_int_equal(end(&f), 0);
		assert_filled(&f, 0);
		fill_bench_deinit(&f);
	}
}

static void damaged_blocks_are_counted_and_left_out(void **state)
{
	struct fill_bench f;
	uint64_t random = test_random_seed(__func__);

	(void)state;
	fill_bench_init(&f, 3, 88);
	for (uint32_t count = 1; count < 9; count++) {
		const uint32_t blocks = f.b.plan->blocks;

		memcpy(f.b.job.data, f.b.image, f.b.t.layout.data_bytes);
		for (uint32_t i = blocks - count; i < blocks; i++) {
			const struct copy_block *block = &f.b.plan->block[i];

			f.b.job.sums[block->sum] =
				__real_checksum(f.b.image + block->offset, block->bytes);
			if (block->bytes > 0)
				f.b.job.data[block->offset +
				             test_random_below(&random, block->bytes)] ^= 1;
		}
		spoil(&f);
		assert_int_equal(f.b.ops->fill(f.b.copy, &f.fill, blocks), 0);
		assert_int_equal(end(&f), count);
		assert_filled(&f, blocks - count);
		/* The sums that assert_filled() took are of what was not filled. */
		for (uint32_t i = 0; i < blocks; i++) {
			const struct copy_block *block = &f.b.plan->block[i];

			f.b.job.sums[block->sum] =
				__real_checksum(f.b.image + block->offset, block->bytes);
		}
	}
	fill_bench_deinit(&f);
}

/* All threads come to the gate with a block. */
static void all_threads_take_part(void **state)
{
	struct fill_bench f;

	(void)state;
	fill_bench_init(&f, 5, 90);
	gate_set(true);
	assert_int_equal(f.b.ops->fill(f.b.copy, &f.fill, 0), 0);
	f.b.ops->fill_more(f.b.copy, f.b.plan->blocks);
	for (int i = 0; i < 5; i++)
		gate_await();
	gate_set(false);
	assert_int_equal(end(&f), 0);
	assert_filled(&f, f.b.plan->blocks);
	fill_bench_deinit(&f);
}

static void a_fill_is_neither_fenced_nor_cancelled(void **state)
{
	const struct copy_put put = {.device = DEVICE_HOST};
	struct fill_bench f;

	(void)state;
	fill_bench_init(&f, 2, 91);
	assert_int_equal(f.b.ops->fill(f.b.copy, &f.fill, 3), 0);
	assert_int_equal(f.b.ops->begin(f.b.copy, &f.b.job, NULL), FTMEM_EINVAL);
	assert_int_equal(f.b.ops->put(f.b.copy, &put, 1), FTMEM_EINVAL);
	assert_int_equal(f.b.ops->fill(f.b.copy, &f.fill, 3), FTMEM_EINVAL);
	f.b.ops->cancel(f.b.copy);
	assert_int_equal(f.b.ops->fence(f.b.copy, NULL, 0), 0);
	assert_false(f.b.ops->done(f.b.copy));
	f.b.ops->fill_more(f.b.copy, f.b.plan->blocks);
	assert_int_equal(end(&f), 0);
	assert_filled(&f, f.b.plan->blocks);
	fill_bench_deinit(&f);
}

static void closing_ends_a_fill_that_waits(void **state)
{
	struct fill_bench f;

	(void)state;
	for (uint32_t ready = 0; ready < 8; ready += 7) {
		fill_bench_init(&f, 3, 92);
		assert_int_equal(f.b.ops->fill(f.b.copy, &f.fill, ready), 0);
		fill_bench_deinit(&f);
	}
}

static void a_plan_without_blocks_is_filled_at_once(void **state)
{
	struct fill_bench f;
	const struct copy_plan none = {0};
	const struct copy_fill fill = {.plan = &none};

	(void)state;
	fill_bench_init(&f, 1, 94);
	assert_int_equal(f.b.ops->fill(f.b.copy, &fill, 0), 0);
	assert_true(f.b.ops->done(f.b.copy));
	assert_int_equal(end(&f), 0);
	fill_bench_deinit(&f);
}

static int reset(void **state)
{
	(void)state;
	gate_clear();
	return 0;
}

#define TEST(name) cmocka_unit_test_setup(name, reset)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(fills_everything_with_any_number_of_threads),
		TEST(the_layout_is_not_written),
		TEST(blocks_are_used_when_they_are_ready),
		TEST(what_never_becomes_ready_is_left_out),
		TEST(damaged_blocks_are_counted_and_left_out),
		TEST(all_threads_take_part),
		TEST(a_fill_is_neither_fenced_nor_cancelled),
		TEST(closing_ends_a_fill_that_waits),
		TEST(a_plan_without_blocks_is_filled_at_once),
	};

	if (sem_init(&gate_arrived, 0, 0) != 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
