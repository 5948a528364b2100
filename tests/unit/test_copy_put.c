/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The writing half of copy_host.c. Links with --wrap of box_view_scatter: a thread that
 * comes to the gate there has a part of a put in its hands.
 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "copy_bench.h"

void __real_box_view_scatter(const struct box_view *v, uint8_t *array, uint64_t from,
                             const uint8_t *packed, uint64_t bytes);
void __wrap_box_view_scatter(const struct box_view *v, uint8_t *array, uint64_t from,
                             const uint8_t *packed, uint64_t bytes);

static _Atomic pthread_t scatterer; /* the last one */
static _Atomic uint64_t scattered;  /* bytes */

void __wrap_box_view_scatter(const struct box_view *v, uint8_t *array, uint64_t from,
                             const uint8_t *packed, uint64_t bytes)
{
	atomic_store(&scatterer, pthread_self());
	atomic_fetch_add(&scattered, bytes);
	gate_pass();
	__real_box_view_scatter(v, array, from, packed, bytes);
}

/* One end of a put: an array that holds a box, and a box in it. */
struct end {
	struct box outer, inner;
	uint32_t elem_bytes;
	uint64_t array_bytes, bytes;
	uint8_t *array, *packed;
	struct box_view view;
};

static void end_init(struct end *e, uint64_t elements, uint64_t *random)
{
	static const uint32_t sizes[] = {1, 2, 3, 4, 8, 16, 200};

	e->elem_bytes = sizes[test_random_below(random, 7)];
	e->outer = test_boxes_outer(elements, random);
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

/* Any range of the source into any of the other; want: what it must become. */
static struct copy_put new_put(struct end *to, const struct end *source, uint64_t *random,
                               uint8_t **want)
{
	struct copy_put put = {
		.to = to->array,
		.to_view = to->view,
		.source = source->array,
		.source_view = source->view,
		.to_from = test_random_below(random, (uint32_t)to->bytes),
		.source_from = test_random_below(random, (uint32_t)source->bytes),
		.device = DEVICE_HOST,
	};
	uint64_t room = to->bytes - put.to_from;

	if (room > source->bytes - put.source_from)
		room = source->bytes - put.source_from;
	put.bytes = test_random_below(random, (uint32_t)room + 1);
	*want = malloc(to->array_bytes);
	assert_non_null(*want);
	memcpy(*want, to->array, to->array_bytes);
	memcpy(to->packed + put.to_from, source->packed + put.source_from, put.bytes);
	test_boxes_unpack(&to->outer, &to->inner, to->elem_bytes, *want, to->packed);
	return put;
}

static void puts_bring_any_range_of_any_box(void **state)
{
	enum { MOST = 90 };
	static const uint32_t threads[] = {1, 2, 5};
	uint64_t random = test_random_seed(__func__);
	struct end to[MOST], source[MOST];
	struct copy_put put[MOST];
	uint8_t *want[MOST];

	(void)state;
	for (int round = 0; round < 30; round++) {
		struct copy_config config = {.threads = threads[round % 3]};
		uint32_t count = 1 + test_random_below(&random, round % 2 ? MOST : 3);
		struct copy *copy = NULL;

		for (uint32_t i = 0; i < count; i++) {
			uint64_t elements = test_random_below(&random, 15) ? 3000 : 60000;

			end_init(&to[i], elements, &random);
			end_init(&source[i], elements, &random);
			put[i] = new_put(&to[i], &source[i], &random, &want[i]);
		}
		assert_int_equal(copy_host()->open(&config, &copy), 0);
		assert_int_equal(copy_host()->put(copy, put, count), 0);
		for (uint32_t i = 0; i < count; i++) {
			assert_memory_equal(to[i].array, want[i], to[i].array_bytes);
			free(want[i]);
			end_deinit(&to[i]);
			end_deinit(&source[i]);
		}
		copy_host()->close(copy);
	}
}

/* A region of columns, and packed bytes for some of its columns. */
struct columns {
	struct box_view view;
	uint8_t *region, *packed;
	uint64_t region_bytes;
};

static void columns_init(struct columns *c, uint64_t rows)
{
	const struct box outer = {2, {0, 0}, {rows, 24}}, inner = {2, {0, 4}, {rows, 16}};
	uint64_t random = 70;

	box_view(&outer, &inner, 8, &c->view);
	c->region_bytes = rows * 24 * 8;
	c->region = calloc(1, c->region_bytes);
	c->packed = malloc(c->view.bytes);
	assert_non_null(c->region);
	assert_non_null(c->packed);
	test_random_fill(&random, c->packed, c->view.bytes);
	atomic_store(&scattered, 0);
}

static void columns_deinit(struct columns *c)
{
	free(c->region);
	free(c->packed);
}

/* Bytes from .. from + bytes - 1 of the columns. */
static struct copy_put columns_put(const struct columns *c, uint64_t from, uint64_t bytes)
{
	return (struct copy_put){
		.to = c->region,
		.to_view = c->view,
		.source = c->packed,
		.source_view = box_view_flat(c->view.bytes),
		.to_from = from,
		.source_from = from,
		.bytes = bytes,
		.device = DEVICE_HOST,
	};
}

/* Each byte once, and nothing beside them. */
static void assert_columns_are_there(const struct columns *c)
{
	const uint8_t *packed = c->packed;
	static const uint8_t zero[4 * 8];

	assert_int_equal(atomic_exchange(&scattered, 0), c->view.bytes);
	for (uint64_t at = 0; at < c->region_bytes; at += 24 * 8, packed += 16 * 8) {
		assert_memory_equal(c->region + at, zero, 4 * 8);
		assert_memory_equal(c->region + at + 4 * 8, packed, 16 * 8);
		assert_memory_equal(c->region + at + 20 * 8, zero, 4 * 8);
	}
}

static void many_puts_fill_one_region(void **state)
{
	enum { ROWS = 40000, MOST = 20000 };
	const struct copy_config config = {.threads = 4};
	uint64_t random = test_random_seed(__func__);
	struct copy_put *put = malloc(MOST * sizeof(*put));
	struct copy *copy = NULL;

	(void)state;
	assert_non_null(put);
	assert_int_equal(copy_host()->open(&config, &copy), 0);
	for (int round = 0; round < 8; round++) {
		uint32_t step = 1u << (10 + 2 * round);
		uint64_t from = 0, bytes;
		uint32_t count = 0;
		struct columns c;

		columns_init(&c, ROWS);
		for (; from < c.view.bytes; from += bytes) {
			bytes = 1 + test_random_below(&random, step);
			if (bytes > c.view.bytes - from || count == MOST - 1)
				bytes = c.view.bytes - from;
			put[count++] = columns_put(&c, from, bytes);
		}
		assert_int_equal(copy_host()->put(copy, put, count), 0);
		assert_columns_are_there(&c);
		columns_deinit(&c);
	}
	copy_host()->close(copy);
	free(put);
}

struct putter {
	pthread_t thread;
	struct copy *copy;
	const struct copy_put *put;
	uint32_t count;
};

static void *put_thread(void *arg)
{
	struct putter *p = arg;

	return copy_host()->put(p->copy, p->put, p->count) == 0 ? NULL : arg;
}

static void putter_start(struct putter *p)
{
	assert_int_equal(pthread_create(&p->thread, NULL, put_thread, p), 0);
}

static void putter_end(struct putter *p)
{
	void *failed;

	assert_int_equal(pthread_join(p->thread, &failed), 0);
	assert_null(failed);
}

/* Five threads come to the gate with a part of the puts. */
static void assert_shared(const struct columns *c, const struct copy_put *put, uint32_t count)
{
	const struct copy_config config = {.threads = 5};
	struct putter p = {.put = put, .count = count};

	assert_int_equal(copy_host()->open(&config, &p.copy), 0);
	gate_set(true);
	putter_start(&p);
	for (int i = 0; i < 5; i++)
		gate_await();
	gate_set(false);
	putter_end(&p);
	assert_columns_are_there(c);
	copy_host()->close(p.copy);
}

static void all_threads_share_a_big_put(void **state)
{
	struct copy_put put;
	struct columns c;

	(void)state;
	columns_init(&c, 5 * 8192 + 3);
	put = columns_put(&c, 0, c.view.bytes);
	assert_true(put.bytes > 5 << 20);
	assert_shared(&c, &put, 1);
	columns_deinit(&c);
}

static void all_threads_share_many_small_puts(void **state)
{
	enum { COUNT = 5000 };
	struct copy_put *put = malloc(COUNT * sizeof(*put));
	struct columns c;

	(void)state;
	assert_non_null(put);
	columns_init(&c, 2 * COUNT);
	for (uint32_t i = 0; i < COUNT; i++)
		put[i] = columns_put(&c, 256 * i, 256);
	assert_shared(&c, put, COUNT);
	columns_deinit(&c);
	free(put);
}

static void small_puts_are_done_by_the_caller(void **state)
{
	const struct copy_config config = {.threads = 2};
	struct copy *copy = NULL;
	struct copy_put put[2];
	struct columns c;

	(void)state;
	columns_init(&c, 8193);
	assert_int_equal(copy_host()->open(&config, &copy), 0);
	put[0] = columns_put(&c, 0, c.view.bytes - 129);
	put[1] = columns_put(&c, c.view.bytes - 129, 129);
	assert_int_equal(copy_host()->put(copy, &put[0], 1), 0);
	assert_true(pthread_equal(scatterer, pthread_self()));
	assert_int_equal(copy_host()->put(copy, &put[1], 1), 0);
	assert_true(pthread_equal(scatterer, pthread_self()));
	assert_columns_are_there(&c);
	assert_int_equal(copy_host()->put(copy, put, 2), 0);
	assert_false(pthread_equal(scatterer, pthread_self()));
	assert_columns_are_there(&c);
	copy_host()->close(copy);
	columns_deinit(&c);
}

/* None of the threads has come to it yet. */
static void a_put_that_nobody_began_is_not_cancelled(void **state)
{
	const struct copy_config config = {.threads = 2, .pin = wait_at_gate};
	struct copy_put put;
	struct columns c;
	struct putter p = {.put = &put, .count = 1};

	(void)state;
	columns_init(&c, 20000);
	put = columns_put(&c, 0, c.view.bytes);
	gate_set(true);
	assert_int_equal(copy_host()->open(&config, &p.copy), 0);
	putter_start(&p);
	while (copy_host()->done(p.copy))
		sched_yield();
	copy_host()->cancel(p.copy);
	gate_set(false);
	putter_end(&p);
	assert_columns_are_there(&c);
	copy_host()->close(p.copy);
	columns_deinit(&c);
}

static void a_put_is_neither_fenced_nor_cancelled(void **state)
{
	struct copy_put put;
	struct columns c;
	struct putter p;
	struct bench b;

	(void)state;
	bench_init(&b, 2, 56);
	columns_init(&c, 20000);
	put = columns_put(&c, 0, c.view.bytes);
	p = (struct putter){.copy = b.copy, .put = &put, .count = 1};
	gate_set(true);
	putter_start(&p);
	gate_await();
	assert_int_equal(b.ops->begin(b.copy, &b.job, NULL), FTMEM_EINVAL);
	assert_false(b.ops->done(b.copy));
	b.ops->cancel(b.copy);
	assert_int_equal(b.ops->fence(b.copy, NULL, 0), 0);
	assert_false(b.ops->done(b.copy));
	gate_set(false);
	putter_end(&p);
	assert_columns_are_there(&c);
	bench_begin(&b);
	assert_int_equal(bench_fence(&b), 0);
	assert_int_equal(assert_resolved(&b), b.plan->blocks);
	columns_deinit(&c);
	bench_deinit(&b);
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
		TEST(puts_bring_any_range_of_any_box),
		TEST(many_puts_fill_one_region),
		TEST(all_threads_share_a_big_put),
		TEST(all_threads_share_many_small_puts),
		TEST(small_puts_are_done_by_the_caller),
		TEST(a_put_is_neither_fenced_nor_cancelled),
		TEST(a_put_that_nobody_began_is_not_cancelled),
	};

	if (sem_init(&gate_arrived, 0, 0) != 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
