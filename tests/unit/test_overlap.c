/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../util/alloc_fail.h"
#include "../util/test_random.h"
#include "error.h"
#include "overlap.h"

#define BOXES_MAX  60u
#define MANY       16384u
#define TREE_DEPTH 15u

/* How often two boxes were looked at: the test's measure of work. */
static uint64_t compared;

bool __real_box_intersect(const struct box *a, const struct box *b, struct box *out);
bool __wrap_box_intersect(const struct box *a, const struct box *b, struct box *out);

bool __wrap_box_intersect(const struct box *a, const struct box *b, struct box *out)
{
	compared++;
	return __real_box_intersect(a, b, out);
}

/* Independent of box.c; box of at least 1 dimension, small numbers. */
static bool meet(const struct box *a, const struct box *b)
{
	for (uint32_t d = 0; d < a->ndim; d++) {
		uint64_t low = a->start[d] > b->start[d] ? a->start[d] : b->start[d];
		uint64_t end_a = a->start[d] + a->extent[d], end_b = b->start[d] + b->extent[d];

		if (low >= end_a || low >= end_b)
			return false;
	}
	return true;
}

/* Dense or sparse, some empty, some very long. */
static void random_boxes(uint64_t *seed, struct box *box, uint32_t count, uint32_t ndim)
{
	uint32_t space = 1 + test_random_below(seed, 60), size = 1 + test_random_below(seed, 12);

	for (uint32_t i = 0; i < count; i++) {
		box[i] = (struct box){.ndim = ndim};
		for (uint32_t d = 0; d < ndim; d++) {
			box[i].start[d] = test_random_below(seed, space);
			box[i].extent[d] = 1 + test_random_below(seed, size);
			if (test_random_below(seed, 8) == 0)
				box[i].extent[d] = space;
			if (test_random_below(seed, 50) == 0)
				box[i].extent[d] = 0;
		}
	}
}

struct seen {
	const struct box *box;
	uint32_t pair[BOXES_MAX][BOXES_MAX];
	uint32_t order[BOXES_MAX];
	uint32_t hits, stop; /* after so many hits; 0: never */
};

static bool see_pair(void *arg, uint32_t i, uint32_t j)
{
	struct seen *seen = arg;

	assert_true(i < j && j < BOXES_MAX);
	seen->pair[i][j]++;
	return ++seen->hits != seen->stop;
}

static bool see_hit(void *arg, uint32_t i)
{
	struct seen *seen = arg;

	assert_true(seen->hits < BOXES_MAX);
	seen->order[seen->hits] = i;
	return ++seen->hits != seen->stop;
}

static void pairs_are_all_that_meet_once_each(void **state)
{
	uint64_t seed = test_random_seed(__func__);

	(void)state;
	for (int round = 0; round < 2000; round++) {
		struct box box[BOXES_MAX];
		struct seen seen = {.box = box};
		uint32_t count = test_random_below(&seed, BOXES_MAX + 1), all = 0;

		random_boxes(&seed, box, count, 1 + test_random_below(&seed, FTMEM_MAX_DIMS));
		assert_int_equal(overlap_pairs(box, count, see_pair, &seen), 0);
		for (uint32_t i = 0; i < count; i++)
			for (uint32_t j = i + 1; j < count; j++) {
				assert_int_equal(seen.pair[i][j], meet(&box[i], &box[j]));
				all += seen.pair[i][j];
			}
		assert_int_equal(seen.hits, all);
		if (all == 0)
			continue;
		seen.hits = 0;
		seen.stop = 1 + test_random_below(&seed, all);
		assert_int_equal(overlap_pairs(box, count, see_pair, &seen), 0);
		assert_int_equal(seen.hits, seen.stop);
	}
}

/* Whether starts never fall along one dimension at least. */
static bool ascending(const struct seen *seen)
{
	for (uint32_t d = 0; d < seen->box[0].ndim; d++) {
		uint32_t i = 1;

		while (i < seen->hits
		       && seen->box[seen->order[i]].start[d]
		                  >= seen->box[seen->order[i - 1]].start[d])
			i++;
		if (i >= seen->hits)
			return true;
	}
	return false;
}

static void check_find(const struct overlap_index *x, const struct box *box, uint32_t count,
                       const struct box *b, uint64_t *seed)
{
	struct seen seen = {.box = box};
	uint32_t found[BOXES_MAX] = {0}, all = 0;

	overlap_find(x, b, see_hit, &seen);
	for (uint32_t i = 0; i < seen.hits; i++)
		found[seen.order[i]]++;
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(found[i], meet(&box[i], b));
	assert_true(seen.hits == 0 || ascending(&seen));
	all = seen.hits;
	if (all == 0)
		return;
	seen.hits = 0;
	seen.stop = 1 + test_random_below(seed, all);
	overlap_find(x, b, see_hit, &seen);
	assert_int_equal(seen.hits, seen.stop);
}

static void finds_all_that_meet_a_box_by_start(void **state)
{
	uint64_t seed = test_random_seed(__func__);

	(void)state;
	for (int round = 0; round < 1000; round++) {
		struct box box[BOXES_MAX], asked[20];
		uint32_t count = test_random_below(&seed, BOXES_MAX + 1);
		uint32_t ndim = 1 + test_random_below(&seed, FTMEM_MAX_DIMS);
		struct overlap_index *x = NULL;

		random_boxes(&seed, box, count, ndim);
		random_boxes(&seed, asked, 20, ndim);
		assert_int_equal(overlap_index_new(box, count, &x), 0);
		for (uint32_t i = 0; i < 20; i++)
			check_find(x, box, count, &asked[i], &seed);
		overlap_index_free(x);
	}
	overlap_index_free(NULL);
}

static void boxes_at_the_end_of_numbers_are_found(void **state)
{
	const struct box box[] = {
		{.ndim = 1, .start = {UINT64_MAX - 4}, .extent = {5}},
		{.ndim = 1, .start = {UINT64_MAX}, .extent = {1}},
		{.ndim = 1, .start = {0}, .extent = {UINT64_C(1) << 62}},
	};
	struct seen seen = {.box = box};
	struct overlap_index *x = NULL;

	(void)state;
	assert_int_equal(overlap_pairs(box, 3, see_pair, &seen), 0);
	assert_int_equal(seen.hits, 1);
	assert_int_equal(seen.pair[0][1], 1);
	assert_int_equal(overlap_index_new(box, 3, &x), 0);
	seen.hits = 0;
	overlap_find(x, &box[1], see_hit, &seen);
	assert_int_equal(seen.hits, 2);
	assert_int_equal(seen.order[0], 0);
	assert_int_equal(seen.order[1], 1);
	overlap_index_free(x);
}

static bool no_pair(void *arg, uint32_t i, uint32_t j)
{
	(void)arg;
	fail_msg("boxes %u and %u do not overlap", i, j);
	return false;
}

static bool count_hit(void *arg, uint32_t i)
{
	uint32_t *found = arg;

	found[i]++;
	return true;
}

/* MANY boxes that do not meet: the pairs, and each found by itself. Per box, so many others
 * are looked at, and those on the way down the index. */
static void check_work(const struct box *box, uint32_t limit)
{
	uint32_t *found = calloc(MANY, sizeof(*found));
	struct overlap_index *x = NULL;

	assert_non_null(found);
	compared = 0;
	assert_int_equal(overlap_pairs(box, MANY, no_pair, NULL), 0);
	assert_in_range(compared, 0, (uint64_t)limit * MANY);
	assert_int_equal(overlap_index_new(box, MANY, &x), 0);
	compared = 0;
	for (uint32_t i = 0; i < MANY; i++)
		overlap_find(x, &box[i], count_hit, found);
	assert_in_range(compared, 0, (uint64_t)(limit + TREE_DEPTH) * MANY);
	for (uint32_t i = 0; i < MANY; i++)
		assert_int_equal(found[i], 1);
	overlap_index_free(x);
	free(found);
}

static void many_disjoint_boxes_are_not_all_compared(void **state)
{
	struct box *box = calloc(MANY, sizeof(*box));

	(void)state;
	assert_non_null(box);
	/* Shards of one dimension, in no order. */
	for (uint32_t i = 0; i < MANY; i++)
		box[i] = (struct box){
			.ndim = 1, .start = {(uint64_t)i * 7919 % MANY * 10}, .extent = {10}};
	check_work(box, 1);
	/* The same, as columns: the sweep must run along the second dimension. */
	for (uint32_t i = 0; i < MANY; i++)
		box[i] = (struct box){
			.ndim = 2, .start = {0, (uint64_t)i * 10}, .extent = {1000, 10}};
	check_work(box, 1);
	for (uint32_t i = 0; i < MANY; i++)
		box[i] = (struct box){
			.ndim = 2, .start = {i / 128 * 9, i % 128 * 5}, .extent = {9, 5}};
	check_work(box, 128);
	free(box);
}

static void one_long_box_does_not_slow_the_rest(void **state)
{
	struct box *box = calloc(MANY, sizeof(*box));
	uint32_t *found = calloc(MANY, sizeof(*found));
	struct overlap_index *x = NULL;

	(void)state;
	assert_true(box && found);
	for (uint32_t i = 0; i < MANY; i++)
		box[i] = (struct box){.ndim = 1, .start = {(uint64_t)i * 10}, .extent = {10}};
	box[0].extent[0] = (uint64_t)MANY * 10;
	assert_int_equal(overlap_index_new(box, MANY, &x), 0);
	compared = 0;
	for (uint32_t i = 1; i < MANY; i++)
		overlap_find(x, &box[i], count_hit, found);
	assert_in_range(compared, 0, 2 * TREE_DEPTH * MANY);
	assert_int_equal(found[0], MANY - 1);
	for (uint32_t i = 1; i < MANY; i++)
		assert_int_equal(found[i], 1);
	overlap_index_free(x);
	free(found);
	free(box);
}

static void empty_boxes_are_not_looked_at(void **state)
{
	const struct box box[] = {
		{.ndim = 1, .start = {0}, .extent = {0}},
		{.ndim = 1, .start = {3}, .extent = {0}},
		{.ndim = 1, .start = {4}, .extent = {10}},
		{.ndim = 1, .start = {7}, .extent = {0}},
	};
	struct overlap_index *x = NULL;
	uint32_t found[4] = {0};

	(void)state;
	compared = 0;
	assert_int_equal(overlap_pairs(box, 4, no_pair, NULL), 0);
	assert_int_equal(overlap_index_new(box, 4, &x), 0);
	overlap_find(x, &box[0], count_hit, found);
	overlap_find(x, &box[3], count_hit, found);
	assert_int_equal(compared, 0);
	overlap_find(x, &box[2], count_hit, found);
	assert_int_equal(compared, 1);
	assert_int_equal(found[0] + found[1] + found[3], 0);
	assert_int_equal(found[2], 1);
	overlap_index_free(x);
}

static void every_failed_allocation_is_reported(void **state)
{
	const struct box box[] = {
		{.ndim = 2, .start = {0, 0}, .extent = {2, 2}},
		{.ndim = 2, .start = {1, 1}, .extent = {2, 2}},
	};
	struct overlap_index *x = NULL;
	struct seen seen = {.box = box};
	int rc = FTMEM_ENOMEM;

	(void)state;
	for (unsigned n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = overlap_index_new(box, 2, &x);
		alloc_fail_off();
		assert_true(rc == 0 || !x);
		assert_true(rc == 0 || strstr(error_msg(), "no memory"));
	}
	assert_int_equal(rc, 0);
	overlap_index_free(x);
	rc = FTMEM_ENOMEM;
	for (unsigned n = 1; rc == FTMEM_ENOMEM; n++) {
		assert_int_equal(seen.hits, 0);
		alloc_fail_at(n);
		rc = overlap_pairs(box, 2, see_pair, &seen);
		alloc_fail_off();
	}
	assert_int_equal(rc, 0);
	assert_int_equal(seen.hits, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pairs_are_all_that_meet_once_each),
		cmocka_unit_test(finds_all_that_meet_a_box_by_start),
		cmocka_unit_test(boxes_at_the_end_of_numbers_are_found),
		cmocka_unit_test(many_disjoint_boxes_are_not_all_compared),
		cmocka_unit_test(one_long_box_does_not_slow_the_rest),
		cmocka_unit_test(empty_boxes_are_not_looked_at),
		cmocka_unit_test(every_failed_allocation_is_reported),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
