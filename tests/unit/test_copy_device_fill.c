/* SPDX-License-Identifier: BSD-3-Clause */
/* The way back: blocks of a slot, and parts of others, into regions on devices. */
#include "device_bench.h"

#include "error.h"

/* A slot that holds what the regions held, which are then overwritten. */
struct fill_bench {
	struct device_bench b;
	struct copy_fill fill;
	uint8_t *content;
	uint8_t *slot;    /* as captured */
	uint32_t *sums;
};

static void spoil(struct fill_bench *f)
{
	memset(f->b.t.memory, SPOILED, f->b.t.memory_bytes);
	for (int d = 0; d < TEST_DEVICES; d++) {
		uint64_t at = 0, bytes = 0;

		for (uint32_t i = 0; bench_next(&f->b, &i, &at, &bytes);)
			test_device_set(f->b.mirror[d] + at, SPOILED, bytes);
	}
}

static void slot_reset(struct fill_bench *f)
{
	memcpy(f->b.job.data, f->slot, f->b.t.layout.data_bytes);
	memcpy(f->b.job.sums, f->sums, f->b.plan->blocks * sizeof(*f->sums));
}

static void fill_init(struct fill_bench *f, const struct bench_spec *spec)
{
	struct device_bench *b = &f->b;

	bench_init(b, spec);
	f->content = bench_content(b);
	bench_capture(b, f->content);
	f->slot = malloc(b->t.layout.data_bytes);
	f->sums = calloc(b->plan->blocks, sizeof(*f->sums));
	assert_non_null(f->slot);
	assert_non_null(f->sums);
	memcpy(f->slot, b->job.data, b->t.layout.data_bytes);
	memcpy(f->sums, b->job.sums, b->plan->blocks * sizeof(*f->sums));
	f->fill = (struct copy_fill){b->plan, b->job.data, b->job.sums};
	spoil(f);
}

static void fill_deinit(struct fill_bench *f)
{
	free(f->content);
	free(f->slot);
	free(f->sums);
	bench_deinit(&f->b);
}

static int begin(struct fill_bench *f, uint32_t ready)
{
	return f->b.ops->fill(f->b.copy, &f->fill, ready);
}

static uint64_t end(struct fill_bench *f)
{
	uint64_t damaged = 99;

	assert_int_equal(f->b.ops->fill_end(f->b.copy, &damaged), 0);
	assert_true(f->b.ops->done(f->b.copy));
	return damaged;
}

/* Whether anything of the block belongs into a region. */
static bool fills(const struct fill_bench *f, const struct copy_block *block)
{
	return block->count > 0 && block->offset >= f->b.t.layout.blob_bytes;
}

static void assert_nothing_else_written(struct fill_bench *f)
{
	uint64_t wrong = 0;
	uint8_t *now = malloc(f->b.t.memory_bytes);

	assert_non_null(now);
	for (int d = -1; d < TEST_DEVICES; d++) {
		const uint8_t *from = d < 0 ? f->b.t.memory : f->b.mirror[d];
		uint64_t at = 0, bytes = 0;

		for (uint32_t i = 0; bench_next(&f->b, &i, &at, &bytes);)
			test_device_read(now + at, from + at, bytes);
		for (uint64_t i = 0; i < f->b.t.memory_bytes; i++)
			wrong += now[i] != SPOILED && now[i] != f->content[i];
	}
	assert_int_equal(wrong, 0);
	free(now);
}

/* What blocks hold of regions is there if they are not left out, and nothing else was
 * written: copied again, the others are not as before. left_out may be NULL. */
static void assert_filled(struct fill_bench *f, const bool *left_out)
{
	struct device_bench *b = &f->b;

	assert_nothing_else_written(f);
	bench_begin(b, NULL);
	assert_int_equal(bench_fence(b, NULL), 0);
	bench_await(b);
	for (uint32_t i = 0; i < b->plan->blocks; i++) {
		const struct copy_block *block = &b->plan->block[i];

		assert_int_equal(bench_landed(b, i), COPY_LANDED);
		if (fills(f, block))
			assert_int_equal(memcmp(b->job.data + block->offset,
			                        f->slot + block->offset, block->bytes) != 0,
			                 left_out && left_out[i]);
	}
	slot_reset(f);
}

static void fills_what_lies_on_the_host_and_on_devices(void **state)
{
	static const enum bench_place place[] = {ON_DEVICE_0, ON_ALL, ANYWHERE, ON_HOST};

	(void)state;
	for (uint32_t i = 0; i < 12; i++) {
		struct bench_spec spec = {.place = place[i % 4],
		                          .threads = 1 + i % 3,
		                          .band_bytes = i < 6 ? 0 : 300000,
		                          .small = i * 20,
		                          .random = 400 + i};
		struct fill_bench f;

		fill_init(&f, &spec);
		for (int again = 0; again < 2; again++) {
			spoil(&f);
			assert_int_equal(begin(&f, f.b.plan->blocks), 0);
			assert_int_equal(end(&f), 0);
			assert_filled(&f, NULL);
		}
		fill_deinit(&f);
	}
}

/* Of a driver each is on its own, though they lie one behind the other: in memory, and
 * some in the slot. */
static void regions_may_be_allocations_of_their_own(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 8; i++) {
		struct bench_spec spec = {.place = i % 2 ? ON_ALL : ON_DEVICE_0,
		                          .staging = i % 4 < 2 ? 0 : 500000,
		                          .band_bytes = i < 4 ? 0 : 1 << 20,
		                          .small = i * 10,
		                          .checks = true,
		                          .apart = true,
		                          .random = 415 + i};
		struct fill_bench f;

		fill_init(&f, &spec);
		assert_int_equal(begin(&f, f.b.plan->blocks), 0);
		assert_int_equal(end(&f), 0);
		assert_filled(&f, NULL);
		fill_deinit(&f);
	}
}

/* Bytes come into the slot block after block. */
static void blocks_are_used_when_they_are_ready(void **state)
{
	(void)state;
	for (uint32_t round = 0; round < 5; round++) {
		struct bench_spec spec = {.place = ANYWHERE,
		                          .threads = 1 + round % 3,
		                          .random = 420 + round};
		struct fill_bench f;

		fill_init(&f, &spec);
		memset(f.b.job.data, SPOILED, f.b.t.layout.data_bytes);
		assert_int_equal(begin(&f, 0), 0);
		for (uint32_t i = 0; i < f.b.plan->blocks; i++) {
			const struct copy_block *block = &f.b.plan->block[i];

			memcpy(f.b.job.data + block->offset, f.slot + block->offset, block->bytes);
			if (i % (1 + 4 * round) == 0)
				f.b.ops->fill_more(f.b.copy, i + 1);
		}
		f.b.ops->fill_more(f.b.copy, f.b.plan->blocks);
		assert_int_equal(end(&f), 0);
		assert_filled(&f, NULL);
		fill_deinit(&f);
	}
}

/* While the next ones are rebuilt. */
static void whole_bands_do_not_wait_for_the_end(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .random = 430};
	struct fill_bench f;
	uint64_t deadline = clock_deadline(BENCH_PATIENCE_MS);

	(void)state;
	fill_init(&f, &spec);
	assert_int_equal(begin(&f, f.b.plan->blocks / 2), 0);
	while (test_device_figures().bytes[DEVICE_IN] < f.b.device_bytes / 4
	       && clock_ns() < deadline)
		clock_sleep(200000);
	assert_true(test_device_figures().bytes[DEVICE_IN] >= f.b.device_bytes / 4);
	f.b.ops->fill_more(f.b.copy, f.b.plan->blocks);
	assert_int_equal(end(&f), 0);
	assert_int_equal(test_device_figures().bytes[DEVICE_IN], f.b.device_bytes);
	assert_filled(&f, NULL);
	fill_deinit(&f);
}

static void what_never_becomes_ready_is_left_out(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 6; i++) {
		struct bench_spec spec = {.place = ANYWHERE, .random = 440 + i};
		struct fill_bench f;
		bool *left_out;
		uint32_t ready;

		fill_init(&f, &spec);
		ready = i == 5 ? 0 : f.b.plan->blocks / 3 + 5 * i;
		left_out = calloc(f.b.plan->blocks, sizeof(*left_out));
		assert_non_null(left_out);
		for (uint32_t j = ready; j < f.b.plan->blocks; j++)
			left_out[j] = true;
		assert_int_equal(begin(&f, i % 2 ? 0 : ready), 0);
		f.b.ops->fill_more(f.b.copy, ready);
		assert_int_equal(end(&f), 0);
		assert_filled(&f, left_out);
		free(left_out);
		fill_deinit(&f);
	}
}

static void damaged_blocks_are_counted_and_left_out(void **state)
{
	uint64_t random = test_random_seed(__func__);

	(void)state;
	for (uint32_t round = 0; round < 8; round++) {
		struct bench_spec spec = {.place = round % 2 ? ANYWHERE : ON_DEVICE_0,
		                          .threads = 1 + round % 3,
		                          .random = test_random(&random)};
		uint64_t count = 0;
		struct fill_bench f;
		bool *left_out;

		fill_init(&f, &spec);
		left_out = calloc(f.b.plan->blocks, sizeof(*left_out));
		assert_non_null(left_out);
		for (uint32_t i = 0; i < 1 + 3 * round; i++) {
			uint32_t at = test_random_below(&random, f.b.plan->blocks);
			const struct copy_block *block = &f.b.plan->block[at];

			if (block->bytes == 0 || left_out[at])
				continue;
			f.b.job.data[block->offset + test_random_below(&random, block->bytes)] ^= 1;
			left_out[at] = true;
			count++;
		}
		assert_int_equal(begin(&f, f.b.plan->blocks), 0);
		assert_int_equal(end(&f), count);
		assert_filled(&f, left_out);
		free(left_out);
		fill_deinit(&f);
	}
}

static void the_layout_is_not_written(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .random = 450};
	struct fill_bench f;
	struct layout *l = &f.b.t.layout;
	uint8_t *blob;

	(void)state;
	fill_init(&f, &spec);
	blob = malloc(l->blob_bytes);
	assert_non_null(blob);
	memcpy(blob, l->blob, l->blob_bytes);
	memset(l->blob, SPOILED, l->blob_bytes);
	assert_int_equal(begin(&f, f.b.plan->blocks), 0);
	assert_int_equal(end(&f), 0);
	for (uint64_t i = 0; i < l->blob_bytes; i++)
		assert_int_equal(l->blob[i], SPOILED);
	memcpy(l->blob, blob, l->blob_bytes);
	assert_filled(&f, NULL);
	free(blob);
	fill_deinit(&f);
}

static void a_fill_is_neither_fenced_nor_cancelled(void **state)
{
	const struct bench_spec spec = {.place = ANYWHERE, .random = 460};
	const struct copy_put put = {0};
	struct fill_bench f;

	(void)state;
	fill_init(&f, &spec);
	assert_int_equal(begin(&f, 3), 0);
	assert_int_equal(f.b.ops->begin(f.b.copy, &f.b.job, NULL), FTMEM_EINVAL);
	assert_int_equal(f.b.ops->put(f.b.copy, &put, 1), FTMEM_EINVAL);
	assert_int_equal(begin(&f, 3), FTMEM_EINVAL);
	f.b.ops->cancel(f.b.copy);
	assert_int_equal(f.b.ops->fence(f.b.copy, NULL, 0), 0);
	assert_false(f.b.ops->done(f.b.copy));
	f.b.ops->fill_more(f.b.copy, f.b.plan->blocks);
	assert_int_equal(end(&f), 0);
	assert_filled(&f, NULL);
	fill_deinit(&f);
}

static void closing_ends_a_fill_that_waits(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		struct bench_spec spec = {.place = ANYWHERE, .random = 470 + i};
		struct fill_bench f;

		fill_init(&f, &spec);
		test_device_slow(3000000);
		assert_int_equal(begin(&f, i * f.b.plan->blocks / 2), 0);
		f.b.ops->close(f.b.copy);
		f.b.copy = NULL;
		assert_int_equal(test_device_figures().pins, 0);
		fill_deinit(&f);
	}
}

/* Each copy in turn; the caller hears of it, and can do it once more. */
static void a_fill_that_fails_says_so(void **state)
{
	const struct bench_spec spec = {.place = ANYWHERE, .band_bytes = 400000, .random = 480};
	struct fill_bench f;
	uint64_t damaged;
	int rc = -1;

	(void)state;
	fill_init(&f, &spec);
	for (unsigned n = 1; rc != 0; n++) {
		test_device_fail_issue(n);
		assert_int_equal(begin(&f, f.b.plan->blocks), 0);
		rc = f.b.ops->fill_end(f.b.copy, &damaged);
		test_device_fail_issue(0);
		assert_true(rc == 0 || rc == FTMEM_EDEVICE);
		assert_true(f.b.ops->done(f.b.copy));
		assert_true(n > 1 || rc == FTMEM_EDEVICE);
	}
	assert_filled(&f, NULL);
	test_device_fail_copy(1);
	rc = begin(&f, f.b.plan->blocks);
	if (rc == 0)
		rc = f.b.ops->fill_end(f.b.copy, &damaged);
	assert_int_equal(rc, FTMEM_EDEVICE);
	assert_true(f.b.ops->done(f.b.copy));
	fill_deinit(&f);
}

/* The event behind all copies: nothing is under way when the fill is over. */
static void a_fill_without_its_event_is_over_when_all_is_copied(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .random = 490};
	struct fill_bench f;
	uint64_t damaged;

	(void)state;
	fill_init(&f, &spec);
	test_device_slow(10000000);
	test_device_fail_record(1);
	assert_int_equal(begin(&f, f.b.plan->blocks), 0);
	assert_int_equal(f.b.ops->fill_end(f.b.copy, &damaged), FTMEM_EDEVICE);
	assert_int_equal(test_device_figures().copying, 0);
	assert_true(f.b.ops->done(f.b.copy));
	test_device_slow(0);
	assert_int_equal(begin(&f, f.b.plan->blocks), 0);
	assert_int_equal(end(&f), 0);
	assert_filled(&f, NULL);
	fill_deinit(&f);
}

/* --- puts --- */

/* One end of a put: an array that holds a box, and a box in it. */
struct end {
	struct box outer, inner;
	uint32_t elem_bytes;
	uint64_t array_bytes, bytes;
	uint8_t *array, *packed;
	struct box_view view;
};

static void end_init(struct end *e, uint64_t *random)
{
	static const uint32_t sizes[] = {1, 2, 3, 4, 8, 16};

	e->elem_bytes = sizes[test_random_below(random, 6)];
	e->outer = test_boxes_outer(1 + test_random_below(random, 3000), random);
	e->inner = test_random_below(random, 3) == 0 ? e->outer
	                                             : test_boxes_inner(&e->outer, random);
	e->array_bytes = test_boxes_count(&e->outer) * e->elem_bytes;
	e->bytes = test_boxes_count(&e->inner) * e->elem_bytes;
	e->array = malloc(e->array_bytes);
	e->packed = malloc(e->bytes);
	assert_non_null(e->array);
	assert_non_null(e->packed);
	test_random_fill(random, e->array, e->array_bytes);
	test_boxes_pack(&e->outer, &e->inner, e->elem_bytes, e->array, e->packed);
	box_view(&e->outer, &e->inner, e->elem_bytes, &e->view);
}

static void end_deinit(struct end *e)
{
	free(e->array);
	free(e->packed);
}

/* Any range of the source into any of the other, which lies there; to->array becomes what
 * must be there. */
static struct copy_put new_put(struct end *to, int device, const struct end *source,
                               uint64_t *random)
{
	struct copy_put put = {
		.to_view = to->view,
		.source = source->array,
		.source_view = source->view,
		.to_from = test_random_below(random, (uint32_t)to->bytes),
		.source_from = test_random_below(random, (uint32_t)source->bytes),
		.device = device,
	};
	uint64_t room = to->bytes - put.to_from;

	if (room > source->bytes - put.source_from)
		room = source->bytes - put.source_from;
	put.bytes = test_random_below(random, (uint32_t)room + 1);
	put.to = device == DEVICE_HOST ? malloc(to->array_bytes)
	                               : test_device_alloc(device, to->array_bytes);
	assert_non_null(put.to);
	test_device_write(put.to, to->array, to->array_bytes);
	memcpy(to->packed + put.to_from, source->packed + put.source_from, put.bytes);
	test_boxes_unpack(&to->outer, &to->inner, to->elem_bytes, to->array, to->packed);
	return put;
}

static void assert_is_there(const struct copy_put *put, const struct end *to)
{
	uint8_t *got = malloc(to->array_bytes);

	assert_non_null(got);
	test_device_read(got, put->to, to->array_bytes);
	assert_memory_equal(got, to->array, to->array_bytes);
	free(got);
}

static void puts_bring_any_range_of_any_box(void **state)
{
	enum { MOST = 40 };
	uint64_t random = test_random_seed(__func__);
	struct end to[MOST], source[MOST];
	struct copy_put put[MOST];

	(void)state;
	for (int round = 0; round < 20; round++) {
		struct copy_config config = {.threads = 1 + (uint32_t)round % 3};
		uint32_t count = 1 + test_random_below(&random, round % 2 ? MOST : 3);
		struct copy *copy = NULL;

		for (uint32_t i = 0; i < count; i++) {
			int device = (int)test_random_below(&random, TEST_DEVICES + 1) - 1;

			end_init(&to[i], &random);
			end_init(&source[i], &random);
			put[i] = new_put(&to[i], device, &source[i], &random);
		}
		assert_int_equal(copy_device()->open(&config, &copy), 0);
		assert_int_equal(copy_device()->put(copy, put, count), 0);
		for (uint32_t i = 0; i < count; i++) {
			assert_is_there(&put[i], &to[i]);
			if (put[i].device == DEVICE_HOST)
				free(put[i].to);
			end_deinit(&to[i]);
			end_deinit(&source[i]);
		}
		copy_device()->close(copy);
		test_device_reset();
	}
}

static void a_put_into_a_device_that_fails_says_so(void **state)
{
	uint8_t bytes[100] = {1, 2, 3};
	const struct copy_config config = {.threads = 1};
	struct copy_put put = {
		.to_view = box_view_flat(100),
		.source = bytes,
		.source_view = box_view_flat(100),
		.bytes = 100,
		.device = 1,
	};
	struct copy *copy = NULL;

	(void)state;
	put.to = test_device_alloc(1, 100);
	assert_int_equal(copy_device()->open(&config, &copy), 0);
	test_device_fail_issue(1);
	assert_int_equal(copy_device()->put(copy, &put, 1), FTMEM_EDEVICE);
	assert_true(copy_device()->done(copy));
	assert_int_equal(copy_device()->put(copy, &put, 1), 0);
	test_device_fail_record(1);
	assert_int_equal(copy_device()->put(copy, &put, 1), FTMEM_EDEVICE);
	assert_int_equal(test_device_figures().copying, 0);
	assert_int_equal(copy_device()->put(copy, &put, 1), 0);
	test_device_lose(1);
	assert_int_equal(copy_device()->put(copy, &put, 1), FTMEM_EDEVICE);
	assert_true(copy_device()->done(copy));
	copy_device()->close(copy);
	test_device_reset();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fills_what_lies_on_the_host_and_on_devices),
		cmocka_unit_test(regions_may_be_allocations_of_their_own),
		cmocka_unit_test(blocks_are_used_when_they_are_ready),
		cmocka_unit_test(whole_bands_do_not_wait_for_the_end),
		cmocka_unit_test(what_never_becomes_ready_is_left_out),
		cmocka_unit_test(damaged_blocks_are_counted_and_left_out),
		cmocka_unit_test(the_layout_is_not_written),
		cmocka_unit_test(a_fill_is_neither_fenced_nor_cancelled),
		cmocka_unit_test(closing_ends_a_fill_that_waits),
		cmocka_unit_test(a_fill_that_fails_says_so),
		cmocka_unit_test(a_fill_without_its_event_is_over_when_all_is_copied),
		cmocka_unit_test(puts_bring_any_range_of_any_box),
		cmocka_unit_test(a_put_into_a_device_that_fails_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
