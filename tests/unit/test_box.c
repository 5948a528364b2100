/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../util/test_random.h"
#include "box.h"

__extension__ typedef unsigned __int128 uint128;

#define ELEMENTS_MAX 4096u
#define ROUNDS       3000

static uint64_t seed;

static uint32_t below(uint32_t n)
{
	return test_random_below(&seed, n);
}

static void seed_random(const char *test)
{
	seed = test_random_seed(test);
}

/* Every element of a box in row-major order: coord is set to the first by begin(). */
static bool begin(const struct box *b, uint64_t coord[FTMEM_MAX_DIMS])
{
	for (uint32_t d = 0; d < b->ndim; d++) {
		coord[d] = b->start[d];
		if (b->extent[d] == 0)
			return false;
	}
	return true;
}

static bool next(const struct box *b, uint64_t coord[FTMEM_MAX_DIMS])
{
	for (uint32_t d = b->ndim; d-- > 0;) {
		if (++coord[d] - b->start[d] < b->extent[d])
			return true;
		coord[d] = b->start[d];
	}
	return false;
}

/* Of an element of all among its elements. */
static uint32_t number_in(const struct box *all, const uint64_t coord[FTMEM_MAX_DIMS])
{
	uint64_t number = 0;

	for (uint32_t d = 0; d < all->ndim; d++) {
		assert_true(coord[d] >= all->start[d] && coord[d] - all->start[d] < all->extent[d]);
		number = number * all->extent[d] + (coord[d] - all->start[d]);
	}
	return (uint32_t)number;
}

/* Counts each element of b, which lies in all. */
static uint32_t mark(const struct box *all, const struct box *b, uint8_t seen[ELEMENTS_MAX])
{
	uint64_t coord[FTMEM_MAX_DIMS];
	uint32_t count = 0;

	for (bool more = begin(b, coord); more; more = next(b, coord), count++)
		seen[number_in(all, coord)]++;
	return count;
}

static void check_tail(const struct box *b)
{
	for (uint32_t d = b->ndim; d < FTMEM_MAX_DIMS; d++) {
		assert_int_equal(b->start[d], 0);
		assert_int_equal(b->extent[d], 0);
	}
}

/* A box of 1 to 8 dimensions, not empty, of at most ELEMENTS_MAX elements. */
static struct box random_space(void)
{
	static const uint32_t max[] = {0, 300, 60, 15, 7, 5, 4, 3, 3};
	struct box b = {.ndim = 1 + below(FTMEM_MAX_DIMS)};
	uint32_t left = ELEMENTS_MAX;

	for (uint32_t n = 0, at = below(b.ndim); n < b.ndim; n++, at = (at + 1) % b.ndim) {
		uint32_t most = left < max[b.ndim] ? left : max[b.ndim];

		b.start[at] = below(4) > 0 ? below(1000) : test_random(&seed) >> 1;
		b.extent[at] = 1 + below(most);
		left /= (uint32_t)b.extent[at];
	}
	return b;
}

/* Within all; mostly not empty, and often as wide as it. */
static struct box random_within(const struct box *all, bool may_be_empty)
{
	struct box b = *all;

	for (uint32_t d = 0; d < b.ndim; d++) {
		uint32_t extent = (uint32_t)all->extent[d], skip;

		if (below(3) == 0)
			continue;
		skip = below(extent);
		b.start[d] += skip;
		b.extent[d] = 1 + below(extent - skip);
		if (may_be_empty && below(40) == 0)
			b.extent[d] = 0;
	}
	return b;
}

static void counts_contains_and_intersects_as_sets_do(void **state)
{
	(void)state;
	seed_random(__func__);
	for (int round = 0; round < ROUNDS; round++) {
		struct box all = random_space(), out, before;
		struct box a = random_within(&all, true), b = random_within(&all, true);
		uint8_t seen_a[ELEMENTS_MAX] = {0}, seen_b[ELEMENTS_MAX] = {0};
		uint8_t seen[ELEMENTS_MAX] = {0};
		uint32_t in_a = mark(&all, &a, seen_a), in_b = mark(&all, &b, seen_b), common = 0;

		assert_int_equal(box_count(&a), in_a);
		for (uint32_t i = 0; i < ELEMENTS_MAX; i++)
			common += seen_a[i] && seen_b[i];
		memset(&out, 0xa5, sizeof(out));
		before = out;
		assert_int_equal(box_intersect(&a, &b, &out), common > 0);
		if (common == 0) {
			assert_memory_equal(&out, &before, sizeof(out));
		} else {
			assert_int_equal(mark(&all, &out, seen), common);
			for (uint32_t i = 0; i < ELEMENTS_MAX; i++)
				assert_int_equal(seen[i], seen_a[i] && seen_b[i]);
			check_tail(&out);
		}
		if (in_a > 0 && in_b > 0) {
			assert_int_equal(box_contains(&a, &b), common == in_b);
			assert_int_equal(box_equal(&a, &b), common == in_a && common == in_b);
		}
		assert_true(box_contains(&all, &a));
		assert_true(box_equal(&a, &a));
	}
}

static void subtraction_is_exact_and_disjoint(void **state)
{
	(void)state;
	seed_random(__func__);
	for (int round = 0; round < ROUNDS; round++) {
		struct box all = random_space(), out[BOX_SUBTRACT_MAX];
		struct box a = random_within(&all, true), b = random_within(&all, true);
		uint8_t seen_a[ELEMENTS_MAX] = {0}, seen_b[ELEMENTS_MAX] = {0};
		uint8_t seen[ELEMENTS_MAX] = {0};
		uint32_t count = box_subtract(&a, &b, out);

		assert_true(count <= 2 * all.ndim);
		mark(&all, &a, seen_a);
		mark(&all, &b, seen_b);
		for (uint32_t i = 0; i < count; i++) {
			assert_true(mark(&all, &out[i], seen) > 0);
			check_tail(&out[i]);
		}
		for (uint32_t i = 0; i < ELEMENTS_MAX; i++)
			assert_int_equal(seen[i], seen_a[i] && !seen_b[i]);
	}
}

static void ends_at_two_to_the_64th_do_not_wrap(void **state)
{
	struct box a = {.ndim = 2, .start = {UINT64_MAX - 9, 0}, .extent = {10, 4}};
	struct box b = {.ndim = 2, .start = {UINT64_MAX - 4, 1}, .extent = {5, 3}}, out[16];
	struct box low = {.ndim = 2, .start = {0, 0}, .extent = {5, 4}};

	(void)state;
	assert_true(box_intersect(&a, &b, out));
	assert_true(box_equal(out, &b));
	assert_true(box_contains(&a, &b));
	assert_false(box_contains(&b, &a));
	assert_int_equal(box_subtract(&a, &b, out), 2);
	assert_int_equal(out[0].extent[0], 5);
	assert_int_equal(box_subtract(&b, &a, out), 0);
	assert_false(box_intersect(&a, &low, out));
	assert_false(box_contains(&a, &low));
	assert_false(box_contains(&low, &a));
	low.extent[0] = UINT64_MAX;
	assert_false(box_contains(&a, &low));
	assert_false(box_contains(&low, &a));
}

static void order_is_by_starts_then_extents(void **state)
{
	const struct box sorted[] = {
		{.ndim = 2, .start = {0, 0}, .extent = {9, 9}},
		{.ndim = 2, .start = {0, 5}, .extent = {1, 1}},
		{.ndim = 2, .start = {2, 3}, .extent = {1, 9}},
		{.ndim = 2, .start = {2, 3}, .extent = {2, 1}},
		{.ndim = 2, .start = {2, 3}, .extent = {2, 3}},
		{.ndim = 2, .start = {UINT64_MAX, 0}, .extent = {1, 1}},
	};
	int count = (int)(sizeof(sorted) / sizeof(sorted[0]));

	(void)state;
	for (int i = 0; i < count; i++)
		for (int j = 0; j < count; j++) {
			assert_int_equal(box_compare(&sorted[i], &sorted[j]), (i > j) - (i < j));
			assert_int_equal(box_equal(&sorted[i], &sorted[j]), i == j);
		}
}

/* The least number of boxes that elements from .. to - 1 are, one behind the other: tries
 * every way to divide them. */
static uint32_t fewest(const struct box *b, uint32_t from, uint32_t to)
{
	static uint64_t coord[ELEMENTS_MAX + 1][FTMEM_MAX_DIMS];
	static uint32_t best[ELEMENTS_MAX + 1];
	uint32_t n = 0;

	for (bool more = begin(b, coord[0]); more; n++) {
		memcpy(coord[n + 1], coord[n], sizeof(coord[0]));
		more = next(b, coord[n + 1]);
	}
	best[from] = 0;
	for (uint32_t end = from + 1; end <= to; end++) {
		uint64_t low[FTMEM_MAX_DIMS], high[FTMEM_MAX_DIMS];

		best[end] = UINT32_MAX;
		memcpy(low, coord[end - 1], sizeof(low));
		memcpy(high, coord[end - 1], sizeof(high));
		for (uint32_t i = end; i-- > from;) {
			uint64_t volume = 1;

			for (uint32_t d = 0; d < b->ndim; d++) {
				low[d] = coord[i][d] < low[d] ? coord[i][d] : low[d];
				high[d] = coord[i][d] > high[d] ? coord[i][d] : high[d];
				volume *= high[d] - low[d] + 1;
			}
			if (volume == end - i && best[i] + 1 < best[end])
				best[end] = best[i] + 1;
		}
	}
	return best[to];
}

static void range_is_exact_in_order_and_the_fewest(void **state)
{
	uint32_t most = 0;

	(void)state;
	seed_random(__func__);
	for (int round = 0; round < ROUNDS; round++) {
		struct box b = random_space(), out[BOX_RANGE_MAX];
		uint32_t count = (uint32_t)box_count(&b), from = below(count + 1);
		uint32_t to = from + below(count + 1 - from), pieces, at = from;

		if (below(8) == 0)
			from = at = 0;
		if (below(8) == 0)
			to = count;
		pieces = box_range(&b, from, to, out);
		assert_true(pieces <= 2 * b.ndim - 1);
		most = pieces > most ? pieces : most;
		for (uint32_t i = 0; i < pieces; i++) {
			uint64_t coord[FTMEM_MAX_DIMS];

			check_tail(&out[i]);
			for (bool more = begin(&out[i], coord); more; more = next(&out[i], coord))
				assert_int_equal(number_in(&b, coord), at++);
		}
		assert_int_equal(at, to);
		if (count <= 300)
			assert_int_equal(pieces, fewest(&b, from, to));
	}
	assert_true(most > 5);
}

static void the_longest_range_needs_all_boxes(void **state)
{
	struct box b = {.ndim = 8}, out[BOX_RANGE_MAX], empty = {.ndim = 2, .extent = {0, 3}};

	(void)state;
	for (int d = 0; d < 8; d++)
		b.extent[d] = 3;
	assert_int_equal(box_range(&b, 1, box_count(&b) - 1, out), BOX_RANGE_MAX);
	assert_int_equal(box_range(&b, 0, box_count(&b), out), 1);
	assert_true(box_equal(&b, out));
	assert_int_equal(box_range(&b, 5, 5, out), 0);
	assert_int_equal(box_range(&empty, 0, 0, out), 0);
}

/* The largest product of trailing extents that is at most 1/256 of a share. */
static uint64_t granule(const struct box *b, uint64_t share)
{
	uint64_t best = 1, product = 1;

	for (uint32_t d = b->ndim; d-- > 0;) {
		product *= b->extent[d];
		if (product > 0 && product <= share / 256)
			best = product;
	}
	return best;
}

static void check_cut(const struct box *b, uint64_t count, uint64_t i)
{
	uint64_t all = box_count(b), share = all / count, unit = granule(b, share);
	uint64_t from = box_cut(b, i, count), to = box_cut(b, i + 1, count), size = to - from;
	uint128 exact = (uint128)i * all, cut = (uint128)from * count;
	uint128 apart = exact > cut ? exact - cut : cut - exact;

	assert_true(from <= to && to <= all);
	assert_int_equal(from % unit, 0);
	assert_true(2 * apart <= (uint128)unit * count);
	if (share >= 256)
		assert_true(size >= share - share / 100 && size <= share + share / 100);
	else
		assert_true(size <= share + 1 && size + 1 >= share);
}

static void cuts_are_near_equal_whole_rows_and_grow(void **state)
{
	(void)state;
	seed_random(__func__);
	for (int round = 0; round < 20 * ROUNDS; round++) {
		struct box b = {.ndim = 1 + below(FTMEM_MAX_DIMS)};
		uint64_t left = UINT64_C(1) << (1 + below(62)), count;

		for (uint32_t n = 0, d = below(b.ndim); n < b.ndim; n++, d = (d + 1) % b.ndim) {
			b.start[d] = below(1000);
			b.extent[d] = 1 + test_random(&seed) % left;
			if (below(2) == 0)
				b.extent[d] = 1 + b.extent[d] % 100;
			b.extent[d] = b.extent[d] < left ? b.extent[d] : left;
			left /= b.extent[d];
		}
		count = 1 + (below(10) > 0 ? below(5000) : test_random(&seed) >> below(64) >> 1);
		assert_int_equal(box_cut(&b, 0, count), 0);
		assert_int_equal(box_cut(&b, count, count), box_count(&b));
		check_cut(&b, count, 0);
		check_cut(&b, count, count - 1);
		for (int i = 0; i < 5; i++)
			check_cut(&b, count, test_random(&seed) % count);
	}
}

static void shares_of_a_small_box_are_within_one_element(void **state)
{
	(void)state;
	for (uint64_t rows = 0; rows < 12; rows++) {
		struct box b = {.ndim = 2, .extent = {rows, 3}};

		for (uint64_t count = 1; count < 50; count++) {
			for (uint64_t i = 0; i < count; i++)
				check_cut(&b, count, i);
			assert_int_equal(box_cut(&b, count, count), rows * 3);
		}
	}
}

static void cuts_fall_inside_rows_that_are_huge(void **state)
{
	struct box b = {.ndim = 2, .extent = {2, UINT64_C(1) << 40}};

	(void)state;
	assert_int_equal(box_cut(&b, 1, 3), ((UINT64_C(1) << 41) + 1) / 3);
	b = (struct box){.ndim = 2, .extent = {4096, 1000}};
	/* Of about 1,365 rows each: whole rows are fine enough. */
	assert_int_equal(box_cut(&b, 1, 3), 1365 * 1000);
	assert_int_equal(box_cut(&b, 2, 3), 2731 * 1000);
	/* Of 128 rows each: they are not, though here it comes out even. */
	assert_int_equal(box_cut(&b, 1, 32), 128 * 1000);
}

static void text_is_from_and_to(void **state)
{
	struct box b = {.ndim = 2, .start = {0, 16}, .extent = {4, 16}};
	char text[BOX_TEXT];

	(void)state;
	assert_ptr_equal(box_text(&b, text), text);
	assert_string_equal(text, "[0:4, 16:32]");
	b = (struct box){.ndim = FTMEM_MAX_DIMS};
	for (int d = 0; d < FTMEM_MAX_DIMS; d++) {
		b.start[d] = UINT64_MAX - 1;
		b.extent[d] = 1;
	}
	assert_int_equal(strlen(box_text(&b, text)), 8 * 41 + 7 * 2 + 2);
	assert_int_equal(text[strlen(text) - 1], ']');
}

/* Where in the array each byte of the packed form is. */
static uint32_t byte_places(const struct box *outer, const struct box *inner, uint32_t elem_bytes,
                            uint32_t *place)
{
	uint64_t coord[FTMEM_MAX_DIMS];
	uint32_t count = 0;

	for (bool more = begin(inner, coord); more; more = next(inner, coord))
		for (uint32_t i = 0; i < elem_bytes; i++)
			place[count++] = number_in(outer, coord) * elem_bytes + i;
	return count;
}

/* Every byte is where it must be, and no run could be longer. */
static void check_view(const struct box_view *v, const uint32_t *place, uint32_t bytes)
{
	uint64_t runs = 1;

	assert_int_equal(v->bytes, bytes);
	for (uint32_t d = 0; d < v->dims; d++) {
		assert_true(v->count[d] > 1);
		runs *= v->count[d];
	}
	assert_int_equal(runs * v->run, bytes);
	for (uint32_t i = 0; i < bytes; i++) {
		uint64_t follow = 0;

		assert_int_equal(box_view_at(v, i, &follow), place[i]);
		assert_true(follow > 0 && follow <= bytes - i);
		assert_int_equal(place[i + follow - 1], place[i] + follow - 1);
		if (i + follow < bytes)
			assert_int_not_equal(place[i + follow], place[i] + follow);
	}
}

/* Memory of exactly the sizes in question, so that a sanitizer sees what leaves it. */
static void check_copies(const struct box_view *v, const uint32_t *place, uint32_t array_bytes,
                         uint32_t from, uint32_t bytes)
{
	uint8_t *array = malloc(array_bytes), *now = malloc(array_bytes), *packed = malloc(bytes);

	assert_true(array && now && (packed || bytes == 0));
	test_random_fill(&seed, array, array_bytes);
	box_view_gather(v, array, from, packed, bytes);
	for (uint32_t i = 0; i < bytes; i++)
		assert_int_equal(packed[i], array[place[from + i]]);

	test_random_fill(&seed, packed, bytes);
	memcpy(now, array, array_bytes);
	box_view_scatter(v, now, from, packed, bytes);
	for (uint32_t i = 0; i < bytes; i++)
		array[place[from + i]] = packed[i];
	assert_memory_equal(now, array, array_bytes);
	free(packed);
	free(now);
	free(array);
}

static void views_find_gather_and_scatter_any_range(void **state)
{
	static const uint32_t elem_bytes[] = {1, 2, 3, 4, 5, 8, 16, 24};
	static uint32_t place[ELEMENTS_MAX * 24];

	(void)state;
	seed_random(__func__);
	for (int round = 0; round < ROUNDS; round++) {
		struct box outer = random_space(), inner = random_within(&outer, false);
		uint32_t elem = elem_bytes[below(8)];
		uint32_t bytes = byte_places(&outer, &inner, elem, place);
		uint32_t array_bytes = (uint32_t)box_count(&outer) * elem;
		struct box_view v;

		memset(&v, 0xa5, sizeof(v));
		box_view(&outer, &inner, elem, &v);
		check_view(&v, place, bytes);
		check_copies(&v, place, array_bytes, 0, bytes);
		for (int i = 0; i < 6; i++) {
			uint32_t from = below(bytes), size = below(bytes - from + 1);

			check_copies(&v, place, array_bytes, from, size);
			check_copies(&v, place, array_bytes, from, bytes - from);
		}
	}
}

static void neighbours_melt_into_one_run(void **state)
{
	const struct box outer = {.ndim = 4, .extent = {5, 6, 1, 8}};
	struct box inner = outer;
	struct box_view v, flat = box_view_flat(5 * 6 * 8 * 2);

	(void)state;
	box_view(&outer, &inner, 2, &v);
	assert_memory_equal(&v, &flat, sizeof(v));
	/* Rows 2 and 3 of the outermost dimension. */
	inner.start[0] = 2;
	inner.extent[0] = 2;
	box_view(&outer, &inner, 2, &v);
	assert_int_equal(v.dims, 0);
	assert_int_equal(v.offset, 2 * 6 * 8 * 2);
	assert_int_equal(v.run, v.bytes);
	/* A column: one dimension of runs. */
	inner = outer;
	inner.start[3] = 3;
	inner.extent[3] = 2;
	box_view(&outer, &inner, 2, &v);
	assert_int_equal(v.dims, 1);
	assert_int_equal(v.run, 4);
	assert_int_equal(v.count[0], 30);
	assert_int_equal(v.stride[0], 16);
}

static void a_flat_view_is_a_plain_copy(void **state)
{
	struct box_view v = box_view_flat(1000);
	uint32_t place[1000];

	(void)state;
	seed_random(__func__);
	for (uint32_t i = 0; i < 1000; i++)
		place[i] = i;
	check_view(&v, place, 1000);
	check_copies(&v, place, 1000, 0, 1000);
	check_copies(&v, place, 1000, 17, 300);
	check_copies(&v, place, 1000, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_contains_and_intersects_as_sets_do),
		cmocka_unit_test(subtraction_is_exact_and_disjoint),
		cmocka_unit_test(ends_at_two_to_the_64th_do_not_wrap),
		cmocka_unit_test(order_is_by_starts_then_extents),
		cmocka_unit_test(range_is_exact_in_order_and_the_fewest),
		cmocka_unit_test(the_longest_range_needs_all_boxes),
		cmocka_unit_test(cuts_are_near_equal_whole_rows_and_grow),
		cmocka_unit_test(shares_of_a_small_box_are_within_one_element),
		cmocka_unit_test(cuts_fall_inside_rows_that_are_huge),
		cmocka_unit_test(text_is_from_and_to),
		cmocka_unit_test(views_find_gather_and_scatter_any_range),
		cmocka_unit_test(neighbours_melt_into_one_run),
		cmocka_unit_test(a_flat_view_is_a_plain_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
