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
#include "match.h"

/* A record, how many ranks sent it, and the answer. */
struct said {
	struct match_claim claim;
	uint32_t count;
	struct bytes answer;
};

static struct match_claim claim_of(const char *name, uint32_t elem_bytes, uint32_t group)
{
	struct match_claim c = {.tensor = {.home = TENSOR_GLOBAL, .elem_bytes = elem_bytes},
	                        .group = group};

	snprintf(c.tensor.name, sizeof(c.tensor.name), "%s", name);
	return c;
}

static void add_dim(struct match_claim *c, uint64_t shape, uint64_t start, uint64_t extent)
{
	uint32_t d = c->tensor.ndim++;

	c->box.ndim = c->tensor.ndim;
	c->tensor.shape[d] = shape;
	c->box.start[d] = start;
	c->box.extent[d] = extent;
}

static struct said say_1d(const char *name, uint32_t elem_bytes, uint64_t shape, uint64_t start,
                          uint64_t extent, uint32_t group, uint32_t count)
{
	struct said s = {.claim = claim_of(name, elem_bytes, group), .count = count};

	add_dim(&s.claim, shape, start, extent);
	return s;
}

static struct said say_2d(const char *name, uint32_t elem_bytes, uint64_t side, uint64_t start0,
                          uint64_t extent0, uint64_t start1, uint64_t extent1)
{
	struct said s = {.claim = claim_of(name, elem_bytes, 0), .count = 1};

	add_dim(&s.claim, side, start0, extent0);
	add_dim(&s.claim, side, start1, extent1);
	return s;
}

static int add(struct match *m, const struct said *s)
{
	struct bytes b = {0};
	int rc = match_claim_put(&b, &s->claim);

	if (!rc)
		rc = match_add(m, b.at, (uint32_t)b.size, s->count);
	bytes_deinit(&b);
	return rc;
}

/* order: [count] in which they are added, NULL: as they are. */
static int solve_in_order(struct said *said, uint32_t count, const uint32_t *order)
{
	struct match *m = NULL;
	int rc = match_new(&m);

	for (uint32_t i = 0; i < count && !rc; i++)
		rc = add(m, &said[order ? order[i] : i]);
	if (!rc)
		rc = match_solve(m);
	for (uint32_t i = 0; i < count && !rc; i++)
		rc = match_answer(m, i, &said[order ? order[i] : i].answer);
	match_free(m);
	return rc;
}

static void solve(struct said *said, uint32_t count)
{
	assert_int_equal(solve_in_order(said, count, NULL), 0);
}

static void forget(struct said *said, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		bytes_deinit(&said[i].answer);
}

static int read_said(const struct said *s, uint32_t index, struct match_cell **cells,
                     uint32_t *count)
{
	return match_read(&s->claim, s->answer.at, (uint32_t)s->answer.size, index, cells, count);
}

/* The one cell of a claim. */
static struct match_cell only_cell(const struct said *s, uint32_t index)
{
	struct match_cell *cells = NULL, cell;
	uint32_t count = 0;

	assert_int_equal(read_said(s, index, &cells, &count), 0);
	assert_int_equal(count, 1);
	cell = cells[0];
	free(cells);
	return cell;
}

/* --- against counting elements --- */

#define RANKS_MAX  12
#define CELLS_MAX  4096
#define SHAPE_MAX  7
#define GROUPS_MAX 4

/* What all holders of a cell read of it. */
struct seen_cell {
	struct match_cell cell;
	uint32_t holders, takers, taken[GROUPS_MAX], held[GROUPS_MAX];
	bool ordinal[RANKS_MAX], share[RANKS_MAX];
};

struct job {
	uint32_t ranks, ndim, elem_bytes, groups;
	uint64_t shape[FTMEM_MAX_DIMS], elements;
	struct box box[RANKS_MAX]; /* ndim 0: the rank has none */
	uint32_t group[RANKS_MAX], said_by[RANKS_MAX], index[RANKS_MAX];
	struct said said[RANKS_MAX];
	uint32_t saids;
	struct seen_cell seen[CELLS_MAX];
	uint32_t cells;
	uint32_t *stored, *held; /* [elements] by how many ranks */
};

static void random_box(uint64_t *state, const struct job *j, struct box *out)
{
	*out = (struct box){.ndim = j->ndim};
	for (uint32_t d = 0; d < j->ndim; d++) {
		out->extent[d] = 1 + test_random_below(state, (uint32_t)j->shape[d]);
		out->start[d] = test_random_below(state,
		                                  (uint32_t)(j->shape[d] - out->extent[d] + 1));
	}
}

/* Equal claims melt, as the router melts them. */
static void claim_box(struct job *j, uint32_t rank)
{
	struct match_claim c = claim_of("w", j->elem_bytes, j->group[rank]);
	uint32_t i = 0;

	for (uint32_t d = 0; d < j->ndim; d++)
		add_dim(&c, j->shape[d], j->box[rank].start[d], j->box[rank].extent[d]);
	while (i < j->saids
	       && !(box_equal(&j->said[i].claim.box, &c.box) && j->said[i].claim.group == c.group))
		i++;
	if (i == j->saids)
		j->said[j->saids++].claim = c;
	j->said_by[rank] = i;
	j->index[rank] = j->said[i].count++;
}

static void make_job(uint64_t *state, struct job *j)
{
	static const uint32_t elem_bytes[] = {1, 4, 20000, 40000, 65536, 200000};
	struct box pool[4];

	*j = (struct job){.ndim = 1 + test_random_below(state, 4),
	                  .ranks = 1 + test_random_below(state, RANKS_MAX),
	                  .groups = 1 + test_random_below(state, GROUPS_MAX),
	                  .elem_bytes = elem_bytes[test_random_below(state, 6)],
	                  .elements = 1};
	for (uint32_t d = 0; d < j->ndim; d++) {
		j->shape[d] = 1 + test_random_below(state, j->ndim == 1 ? 300 : SHAPE_MAX);
		j->elements *= j->shape[d];
	}
	for (uint32_t i = 0; i < 4; i++)
		random_box(state, j, &pool[i]);
	for (uint32_t r = 0; r < j->ranks; r++) {
		uint32_t choice = test_random_below(state, 8);

		j->group[r] = test_random_below(state, j->groups);
		if (choice == 0)
			continue;
		if (choice < 6)
			j->box[r] = pool[choice % 4];
		else
			random_box(state, j, &j->box[r]);
		claim_box(j, r);
	}
	j->stored = calloc(j->elements, sizeof(*j->stored));
	j->held = calloc(j->elements, sizeof(*j->held));
	assert_non_null(j->stored);
	assert_non_null(j->held);
}

static void end_job(struct job *j)
{
	forget(j->said, j->saids);
	free(j->stored);
	free(j->held);
}

/* Adds 1 to each element of a box. */
static void count_box(const struct job *j, const struct box *b, uint32_t *count)
{
	for (uint64_t i = 0; i < box_count(b); i++) {
		uint64_t rest = i, at = 0, step = 1;

		for (uint32_t d = j->ndim; d-- > 0;) {
			at += (b->start[d] + rest % b->extent[d]) * step;
			rest /= b->extent[d];
			step *= j->shape[d];
		}
		assert_true(at < j->elements);
		count[at]++;
	}
}

static struct seen_cell *seen_of(struct job *j, const struct match_cell *cell)
{
	uint32_t i = 0;

	while (i < j->cells && !box_equal(&j->seen[i].cell.box, &cell->box))
		i++;
	assert_true(i < CELLS_MAX);
	if (i == j->cells)
		j->seen[j->cells++] = (struct seen_cell){.cell = *cell};
	assert_int_equal(j->seen[i].cell.holders, cell->holders);
	assert_int_equal(j->seen[i].cell.shares, cell->shares);
	return &j->seen[i];
}

static uint64_t share_elements(const struct match_cell *cell)
{
	struct box part[BOX_RANGE_MAX];
	uint32_t parts = match_share(cell, part);
	uint64_t elements = 0;

	for (uint32_t i = 0; i < parts; i++) {
		assert_true(box_contains(&cell->box, &part[i]));
		elements += box_count(&part[i]);
	}
	return elements;
}

/* At most a row of 1/256 of a share off at either end, or one element. */
static void check_share_size(const struct match_cell *cell)
{
	uint64_t mean = box_count(&cell->box) / cell->shares, is = share_elements(cell);
	uint64_t off = is > mean ? is - mean : mean - is;

	assert_true(is > 0);
	assert_true(off <= 2 + 2 * mean / 256);
}

static void see_cell(struct job *j, uint32_t rank, const struct match_cell *cell)
{
	struct seen_cell *seen = seen_of(j, cell);
	struct box part[BOX_RANGE_MAX];
	uint32_t parts = match_share(cell, part);

	assert_true(box_contains(&j->box[rank], &cell->box));
	assert_true(cell->ordinal < cell->holders);
	assert_false(seen->ordinal[cell->ordinal]);
	seen->ordinal[cell->ordinal] = true;
	seen->holders++;
	seen->held[j->group[rank]]++;
	if (cell->share == UINT32_MAX) {
		assert_int_equal(parts, 0);
		return;
	}
	assert_true(cell->share < cell->shares);
	assert_false(seen->share[cell->share]);
	seen->share[cell->share] = true;
	seen->takers++;
	seen->taken[j->group[rank]]++;
	check_share_size(cell);
	for (uint32_t i = 0; i < parts; i++)
		count_box(j, &part[i], j->stored);
}

static void read_rank(struct job *j, uint32_t rank)
{
	struct match_cell *cells = NULL;
	uint64_t elements = 0;
	uint32_t count = 0;

	assert_int_equal(
		read_said(&j->said[j->said_by[rank]], j->index[rank], &cells, &count), 0);
	for (uint32_t i = 0; i < count; i++) {
		see_cell(j, rank, &cells[i]);
		elements += box_count(&cells[i].box);
		for (uint32_t k = 0; k < i; k++) {
			struct box both;

			assert_false(box_intersect(&cells[i].box, &cells[k].box, &both));
		}
	}
	assert_int_equal(elements, box_count(&j->box[rank]));
	count_box(j, &j->box[rank], j->held);
	free(cells);
}

static uint32_t right_shares(const struct job *j, const struct seen_cell *c)
{
	uint64_t elements = box_count(&c->cell.box);
	uint64_t shares = elements * j->elem_bytes / MATCH_SHARE_MIN;

	if (shares > elements)
		shares = elements;
	if (shares > c->holders)
		shares = c->holders;
	return shares > 0 ? (uint32_t)shares : 1;
}

static void check_cell(const struct job *j, const struct seen_cell *c)
{
	uint32_t least = UINT32_MAX, most = 0;

	assert_int_equal(c->holders, c->cell.holders);
	assert_int_equal(c->takers, c->cell.shares);
	assert_int_equal(c->cell.shares, right_shares(j, c));
	/* Groups that still could take more have as many as any other, or one less. */
	for (uint32_t g = 0; g < j->groups; g++) {
		if (c->taken[g] < c->held[g] && c->taken[g] < least)
			least = c->taken[g];
		if (c->taken[g] > most)
			most = c->taken[g];
	}
	assert_true(least == UINT32_MAX || most <= least + 1);
}

static void check_holders(struct job *j)
{
	for (uint32_t i = 0; i < j->cells; i++) {
		uint32_t *in_cell = calloc(j->elements, sizeof(*in_cell));

		assert_non_null(in_cell);
		count_box(j, &j->seen[i].cell.box, in_cell);
		for (uint64_t e = 0; e < j->elements; e++)
			if (in_cell[e])
				assert_int_equal(j->held[e], j->seen[i].holders);
		free(in_cell);
	}
}

static void every_element_is_in_the_share_of_one_rank_that_has_it(void **state)
{
	uint64_t seed = test_random_seed("every_element"), at = seed;
	static struct job j;

	(void)state;
	for (uint32_t round = 0; round < 3000; round++) {
		make_job(&at, &j);
		solve(j.said, j.saids);
		for (uint32_t r = 0; r < j.ranks; r++)
			if (j.box[r].ndim)
				read_rank(&j, r);
		for (uint32_t i = 0; i < j.cells; i++)
			check_cell(&j, &j.seen[i]);
		check_holders(&j);
		for (uint64_t e = 0; e < j.elements; e++)
			assert_int_equal(j.stored[e], j.held[e] > 0);
		end_job(&j);
	}
}

static void the_order_of_claims_does_not_matter(void **state)
{
	uint64_t seed = test_random_seed("the_order"), at = seed;
	struct said again[RANKS_MAX];
	static struct job j;

	(void)state;
	for (uint32_t round = 0; round < 500; round++) {
		uint32_t order[RANKS_MAX];

		make_job(&at, &j);
		solve(j.said, j.saids);
		for (uint32_t i = 0; i < j.saids; i++) {
			uint32_t other = test_random_below(&at, i + 1);

			again[i] = (struct said){.claim = j.said[i].claim,
			                         .count = j.said[i].count};
			order[i] = order[other];
			order[other] = i;
		}
		assert_int_equal(solve_in_order(again, j.saids, order), 0);
		for (uint32_t i = 0; i < j.saids; i++) {
			assert_int_equal(again[i].answer.size, j.said[i].answer.size);
			assert_memory_equal(again[i].answer.at, j.said[i].answer.at,
			                    again[i].answer.size);
		}
		forget(again, j.saids);
		end_job(&j);
	}
}

/* --- how shares are dealt --- */

static void a_box_of_one_rank_is_one_share(void **state)
{
	struct said s = say_1d("alone", 4, 1 << 20, 5, 1000000, 3, 1);
	struct match_cell cell;

	(void)state;
	solve(&s, 1);
	cell = only_cell(&s, 0);
	assert_true(box_equal(&cell.box, &s.claim.box));
	assert_int_equal(cell.holders, 1);
	assert_int_equal(cell.ordinal, 0);
	assert_int_equal(cell.shares, 1);
	assert_int_equal(cell.share, 0);
	forget(&s, 1);
}

static void large_replicas_give_every_holder_a_share(void **state)
{
	struct said s[2] = {say_1d("large", 8, 1 << 20, 0, 1 << 20, 0, 3),
	                    say_1d("large", 8, 1 << 20, 0, 1 << 20, 1, 5)};

	(void)state;
	solve(s, 2);
	for (uint32_t i = 0; i < 8; i++) {
		struct match_cell cell = only_cell(&s[i >= 3], i < 3 ? i : i - 3);

		assert_int_equal(cell.holders, 8);
		assert_int_equal(cell.ordinal, i);
		assert_int_equal(cell.shares, 8);
		assert_true(cell.share < 8);
		assert_int_equal(share_elements(&cell), (1 << 20) / 8);
	}
	forget(s, 2);
}

static void a_share_is_never_smaller_than_the_least(void **state)
{
	(void)state;
	for (uint64_t bytes = 1; bytes < 10 * MATCH_SHARE_MIN; bytes += 4099) {
		struct said s = say_1d("least", 1, bytes, 0, bytes, 0, 6);
		uint64_t shares = bytes / MATCH_SHARE_MIN;
		struct match_cell cell;

		solve(&s, 1);
		cell = only_cell(&s, 0);
		assert_int_equal(cell.shares, shares == 0 ? 1 : shares > 6 ? 6 : shares);
		forget(&s, 1);
	}
}

static void there_are_no_more_shares_than_elements(void **state)
{
	struct said s = say_1d("coarse", 1 << 30, 2, 0, 2, 0, 6);

	(void)state;
	solve(&s, 1);
	assert_int_equal(only_cell(&s, 0).shares, 2);
	forget(&s, 1);
}

static void two_shares_go_to_different_groups(void **state)
{
	(void)state;
	for (uint32_t n = 0; n < 200; n++) {
		uint32_t takers[2] = {0};
		char name[32];

		snprintf(name, sizeof(name), "layer.%u.bias", n);
		struct said s[2] = {say_1d(name, 1, 2 << 16, 0, 2 << 16, 7, 4),
		                    say_1d(name, 1, 2 << 16, 0, 2 << 16, 9, 4)};
		solve(s, 2);
		for (uint32_t i = 0; i < 8; i++)
			takers[i / 4] += only_cell(&s[i / 4], i % 4).share != UINT32_MAX;
		assert_int_equal(takers[0], 1);
		assert_int_equal(takers[1], 1);
		forget(s, 2);
	}
}

static void check_spread(const uint32_t *stored, uint32_t ranks, uint32_t total)
{
	for (uint32_t r = 0; r < ranks; r++)
		assert_true(stored[r] * ranks * 10 <= total * 13);
}

static void small_tensors_spread_over_ranks(void **state)
{
	uint32_t stored[8] = {0};

	(void)state;
	for (uint32_t n = 0; n < 1000; n++) {
		char name[48];

		snprintf(name, sizeof(name), "transformer.layer.%u.norm.weight", n);
		struct said s[2] = {say_1d(name, 4, 512, 0, 512, 0, 4),
		                    say_1d(name, 4, 512, 0, 512, 1, 4)};
		solve(s, 2);
		for (uint32_t i = 0; i < 8; i++)
			stored[i] += only_cell(&s[i / 4], i % 4).share != UINT32_MAX;
		forget(s, 2);
	}
	check_spread(stored, 8, 1000);
}

static void small_boxes_of_one_tensor_spread_over_ranks(void **state)
{
	static struct said s[2000];
	uint32_t stored[8] = {0};

	(void)state;
	for (uint32_t n = 0; n < 2000; n++)
		s[n] = say_1d("flat", 4, 1000 * 64, n / 2 * 64, 64, n % 2, 4);
	solve(s, 2000);
	for (uint32_t n = 0; n < 2000; n++)
		for (uint32_t i = 0; i < 4; i++)
			stored[n % 2 * 4 + i] += only_cell(&s[n], i).share != UINT32_MAX;
	check_spread(stored, 8, 1000);
	forget(s, 2000);
}

/* --- what is wrong --- */

static void expect_error(const struct said *s, int code, const char *a, const char *b)
{
	struct match_cell *cells = (struct match_cell *)1;
	uint32_t count = 77;

	assert_int_equal(read_said(s, 0, &cells, &count), code);
	assert_ptr_equal(cells, (struct match_cell *)1);
	assert_int_equal(count, 77);
	assert_non_null(strstr(error_msg(), s->claim.tensor.name));
	assert_non_null(strstr(error_msg(), a));
	assert_non_null(strstr(error_msg(), b));
}

static void different_shapes_are_told_to_all_who_claim_the_name(void **state)
{
	struct said s[] = {say_1d("emb", 4, 100, 0, 50, 0, 2), say_1d("emb", 4, 120, 0, 50, 1, 1),
	                   say_1d("fine", 4, 100, 0, 50, 1, 1), say_1d("emb", 4, 100, 50, 50, 2, 1)};

	(void)state;
	solve(s, 4);
	expect_error(&s[0], FTMEM_EINVAL, "[100]", "[120]");
	expect_error(&s[1], FTMEM_EINVAL, "[100]", "[120]");
	expect_error(&s[3], FTMEM_EINVAL, "[100]", "[120]");
	assert_int_equal(only_cell(&s[2], 0).holders, 1);
	forget(s, 4);
}

static void different_dimensions_and_element_sizes_are_told(void **state)
{
	struct said s[] = {say_2d("head", 4, 10, 0, 10, 0, 10), say_1d("head", 4, 100, 0, 100, 0, 1),
	                   say_1d("bias", 2, 8, 0, 8, 0, 1), say_1d("bias", 4, 8, 0, 8, 0, 1)};

	(void)state;
	solve(s, 4);
	expect_error(&s[0], FTMEM_EINVAL, "[10, 10]", "[100]");
	expect_error(&s[1], FTMEM_EINVAL, "[10, 10]", "[100]");
	expect_error(&s[2], FTMEM_EINVAL, "2-byte", "4-byte");
	expect_error(&s[3], FTMEM_EINVAL, "2-byte", "4-byte");
	forget(s, 4);
}

/* rows boxes of a row each, columns boxes of a column each. */
static struct said *say_grid(uint32_t rows, uint32_t columns)
{
	struct said *s = calloc(rows + columns, sizeof(*s));

	assert_non_null(s);
	for (uint32_t i = 0; i < rows; i++)
		s[i] = say_2d("grid", 1, 512, i, 1, 0, columns);
	for (uint32_t i = 0; i < columns; i++)
		s[rows + i] = say_2d("grid", 1, 512, 0, rows, i, 1);
	return s;
}

static void as_many_cells_as_may_be_are_solved(void **state)
{
	struct said *s = say_grid(256, 256);
	struct match_cell *cells = NULL;
	uint32_t count = 0;

	(void)state;
	solve(s, 512);
	for (uint32_t i = 0; i < 512; i++) {
		assert_int_equal(read_said(&s[i], 0, &cells, &count), 0);
		assert_int_equal(count, 256);
		for (uint32_t k = 0; k < count; k++)
			assert_int_equal(cells[k].holders, 2);
		free(cells);
	}
	forget(s, 512);
	free(s);
}

static void one_cell_more_is_an_error(void **state)
{
	struct said *s = say_grid(256, 257);

	(void)state;
	solve(s, 513);
	expect_error(&s[0], FTMEM_EINVAL, "65536", "cells");
	expect_error(&s[512], FTMEM_EINVAL, "65536", "cells");
	forget(s, 513);
	free(s);
}

/* All intervals of 70 elements: few cells, but many pairs. */
static void boxes_that_overlap_each_other_too_often_are_an_error(void **state)
{
	static struct said s[70 * 71 / 2];
	struct match_cell *cells = NULL;
	uint32_t count = 0, n = 0;

	(void)state;
	for (uint32_t start = 0; start < 70; start++)
		for (uint32_t end = start + 1; end <= 70; end++)
			s[n++] = say_1d("often", 1, 70, start, end - start, 0, 1);
	solve(s, n);
	for (uint32_t i = 0; i < n; i++)
		expect_error(&s[i], FTMEM_EINVAL, "often", "cells");
	forget(s, n);
	solve(s, 1000);
	assert_int_equal(read_said(&s[69], 0, &cells, &count), 0);
	assert_int_equal(count, 70);
	free(cells);
	forget(s, 1000);
}

/* Few pairs, but each large box has all cells of a grid. */
static void cells_that_lie_in_too_many_boxes_are_an_error(void **state)
{
	struct said *grid = say_grid(200, 200), *s = calloc(430, sizeof(*s));
	struct match_cell *cells = NULL;
	uint32_t count = 0;

	(void)state;
	assert_non_null(s);
	memcpy(s, grid, 400 * sizeof(*s));
	for (uint32_t i = 0; i < 30; i++)
		s[400 + i] = say_2d("grid", 1, 512, 0, 200 + i, 0, 200 + i);
	solve(s, 430);
	expect_error(&s[0], FTMEM_EINVAL, "grid", "cells");
	expect_error(&s[429], FTMEM_EINVAL, "grid", "cells");
	forget(s, 430);
	solve(s, 410);
	assert_int_equal(read_said(&s[0], 0, &cells, &count), 0);
	assert_int_equal(count, 200);
	assert_int_equal(cells[199].holders, 12);
	free(cells);
	forget(s, 410);
	free(s);
	free(grid);
}

static void equal_records_that_did_not_melt_are_counted_together(void **state)
{
	(void)state;
	for (uint32_t order = 0; order < 2; order++) {
		struct said s[2] = {say_1d("twice", 4, 8, 0, 8, 3, order ? 5 : 2),
		                    say_1d("twice", 4, 8, 0, 8, 3, order ? 2 : 5)};

		solve(s, 2);
		assert_int_equal(only_cell(&s[order], 1).holders, 7);
		assert_int_equal(only_cell(&s[order], 1).ordinal, 1);
		assert_int_equal(only_cell(&s[1 - order], 4).ordinal, 6);
		forget(s, 2);
	}
}

static void an_owner_without_memory_is_told(void **state)
{
	struct said s = say_1d("poor", 1, 8, 0, 8, 0, 1);

	(void)state;
	expect_error(&s, FTMEM_ENOMEM, "memory", "poor");
}

static void what_is_no_claim_is_refused(void **state)
{
	struct said good = say_2d("w", 4, 10, 2, 3, 4, 5), bad = good;
	struct match *m = NULL;
	struct bytes b = {0};

	(void)state;
	assert_int_equal(match_new(&m), 0);
	assert_int_equal(match_claim_put(&b, &good.claim), 0);
	for (uint32_t bytes = 0; bytes < b.size; bytes++)
		assert_int_equal(match_add(m, b.at, bytes, 1), FTMEM_EINVAL);
	assert_int_equal(match_add(m, b.at, (uint32_t)b.size, 0), FTMEM_EINVAL);
	assert_int_equal(match_add(m, b.at, (uint32_t)b.size, 1), 0);
	assert_int_equal(match_add(m, b.at, (uint32_t)b.size, UINT32_MAX), FTMEM_EINVAL);
	assert_int_equal(bytes_put_u32(&b, 0), 0);
	assert_int_equal(match_add(m, b.at, (uint32_t)b.size, 1), FTMEM_EINVAL);

	bad.claim.box.extent[1] = 7;
	assert_int_equal(add(m, &bad), FTMEM_EINVAL);
	bad.claim.box.extent[1] = 0;
	assert_int_equal(add(m, &bad), FTMEM_EINVAL);
	bad = good;
	bad.claim.box.start[0] = UINT64_MAX - 2;
	assert_int_equal(add(m, &bad), FTMEM_EINVAL);
	bad = say_1d("w", 1, 10, 0, 10, 0, 1);
	bad.claim.tensor.home = 3;
	assert_int_equal(add(m, &bad), FTMEM_EINVAL);
	assert_int_equal(match_solve(m), 0);
	bytes_deinit(&b);
	match_free(m);
	match_free(NULL);
}

static void no_claims_are_solved(void **state)
{
	struct match *m = NULL;

	(void)state;
	assert_int_equal(match_new(&m), 0);
	assert_int_equal(match_solve(m), 0);
	match_free(m);
}

/* Reads the first bytes of an answer, from memory of just that size. */
static int read_part(const struct said *s, uint32_t bytes, uint32_t index)
{
	uint8_t *part = malloc(bytes ? bytes : 1);
	struct match_cell *cells = NULL;
	uint32_t count = 0;
	int rc;

	assert_non_null(part);
	memcpy(part, s->answer.at, bytes);
	rc = match_read(&s->claim, part, bytes, index, &cells, &count);
	free(part);
	free(cells);
	return rc;
}

static void an_answer_that_makes_no_sense_is_refused(void **state)
{
	struct said s[] = {say_1d("w", 40000, 30, 0, 20, 0, 3), say_1d("w", 40000, 30, 10, 20, 1, 2),
	                   say_1d("v", 4, 30, 0, 20, 0, 3), say_1d("v", 8, 30, 0, 20, 0, 3)};

	(void)state;
	solve(s, 4);
	for (uint32_t i = 0; i < 4; i++) {
		uint32_t size = (uint32_t)s[i].answer.size;

		for (uint32_t bytes = 1; bytes < size; bytes++)
			assert_int_equal(read_part(&s[i], bytes, 0), FTMEM_ENET);
		assert_int_equal(bytes_put_u32(&s[i].answer, 0), 0);
		assert_int_equal(read_part(&s[i], size + 4, 0), FTMEM_ENET);
		s[i].answer.size = size;
	}
	assert_int_equal(read_part(&s[0], (uint32_t)s[0].answer.size, 2), 0);
	assert_int_equal(read_part(&s[0], (uint32_t)s[0].answer.size, 3), FTMEM_ENET);
	/* That of another name, and of a tensor that is alike. */
	s[3].claim.tensor.name[0] = 'u';
	assert_int_equal(read_part(&s[3], (uint32_t)s[3].answer.size, 0), FTMEM_ENET);
	s[2].claim.tensor.elem_bytes = 8;
	assert_int_equal(read_part(&s[2], (uint32_t)s[2].answer.size, 0), FTMEM_ENET);
	forget(s, 4);
}

static void a_damaged_answer_never_gives_shares_outside_the_box(void **state)
{
	struct said s[] = {say_2d("w", 40000, 12, 0, 8, 0, 12), say_2d("w", 40000, 12, 4, 8, 2, 7)};
	uint64_t seed = test_random_seed("a_damaged_answer"), at = seed;

	(void)state;
	solve(s, 2);
	for (uint32_t round = 0; round < 20000; round++) {
		uint32_t byte = test_random_below(&at, (uint32_t)s[0].answer.size);
		uint8_t flip = (uint8_t)(1u << test_random_below(&at, 8));
		struct box part[BOX_RANGE_MAX];
		struct match_cell *cells = NULL;
		uint32_t count = 0;

		s[0].answer.at[byte] ^= flip;
		if (read_said(&s[0], 0, &cells, &count) == 0) {
			for (uint32_t i = 0; i < count; i++) {
				uint32_t parts = match_share(&cells[i], part);

				assert_true(cells[i].ordinal < cells[i].holders);
				for (uint32_t k = 0; k < parts; k++)
					assert_true(box_contains(&s[0].claim.box, &part[k]));
			}
			free(cells);
		}
		s[0].answer.at[byte] ^= flip;
	}
	forget(s, 2);
}

static void every_allocation_failure_is_told(void **state)
{
	struct said s[40];
	struct match_cell *cells = NULL;
	uint32_t count = 0;
	unsigned n;
	int rc = FTMEM_ENOMEM;

	(void)state;
	for (uint32_t i = 0; i < 40; i++)
		s[i] = i < 20 ? say_2d("w", 4, 40, 2 * i, 2, 0, 40)
		              : say_2d("w", 4, 40, 0, 40, 2 * (i - 20), 2);
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = solve_in_order(s, 40, NULL);
		alloc_fail_off();
		if (rc)
			forget(s, 40);
	}
	assert_int_equal(rc, 0);
	assert_true(n > 10);
	alloc_fail_at(1);
	assert_int_equal(read_said(&s[0], 0, &cells, &count), FTMEM_ENOMEM);
	alloc_fail_off();
	forget(s, 40);
}

/* --- many --- */

static void a_tensor_cut_for_many_ranks_is_solved(void **state)
{
	static struct said s[16385];
	struct match_cell *cells = NULL;
	uint32_t count = 0;

	(void)state;
	for (uint32_t i = 0; i < 16384; i++)
		s[i] = say_2d("w", 4, 128, i / 128, 1, i % 128, 1);
	solve(s, 16384);
	for (uint32_t i = 0; i < 16384; i++)
		assert_int_equal(only_cell(&s[i], 0).holders, 1);
	forget(s, 16384);
	/* And someone has it whole. */
	s[16384] = say_2d("w", 4, 128, 0, 128, 0, 128);
	solve(s, 16385);
	for (uint32_t i = 0; i < 16384; i++)
		assert_int_equal(only_cell(&s[i], 0).holders, 2);
	assert_int_equal(read_said(&s[16384], 0, &cells, &count), 0);
	assert_int_equal(count, 16384);
	free(cells);
	forget(s, 16385);
}

static void many_tensors_that_all_ranks_hold_are_solved(void **state)
{
	static struct said s[500 * 256];
	uint64_t bytes = 0;

	(void)state;
	for (uint32_t i = 0; i < 500 * 256; i++) {
		char name[32];

		snprintf(name, sizeof(name), "layer.%u.weight", i / 256);
		s[i] = say_1d(name, 4, 1 << 20, 0, 1 << 20, i % 256, 64);
	}
	solve(s, 500 * 256);
	for (uint32_t i = 0; i < 500 * 256; i += 101) {
		struct match_cell cell = only_cell(&s[i], 63);

		assert_int_equal(cell.holders, 16384);
		assert_int_equal(cell.ordinal, i % 256 * 64 + 63);
		assert_int_equal(cell.shares, 64);
	}
	for (uint32_t i = 0; i < 500 * 256; i++)
		bytes += s[i].answer.size;
	assert_true(bytes < UINT64_C(500) * 256 * 64);
	forget(s, 500 * 256);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_element_is_in_the_share_of_one_rank_that_has_it),
		cmocka_unit_test(the_order_of_claims_does_not_matter),
		cmocka_unit_test(a_box_of_one_rank_is_one_share),
		cmocka_unit_test(large_replicas_give_every_holder_a_share),
		cmocka_unit_test(a_share_is_never_smaller_than_the_least),
		cmocka_unit_test(there_are_no_more_shares_than_elements),
		cmocka_unit_test(two_shares_go_to_different_groups),
		cmocka_unit_test(small_tensors_spread_over_ranks),
		cmocka_unit_test(small_boxes_of_one_tensor_spread_over_ranks),
		cmocka_unit_test(different_shapes_are_told_to_all_who_claim_the_name),
		cmocka_unit_test(different_dimensions_and_element_sizes_are_told),
		cmocka_unit_test(as_many_cells_as_may_be_are_solved),
		cmocka_unit_test(one_cell_more_is_an_error),
		cmocka_unit_test(boxes_that_overlap_each_other_too_often_are_an_error),
		cmocka_unit_test(cells_that_lie_in_too_many_boxes_are_an_error),
		cmocka_unit_test(equal_records_that_did_not_melt_are_counted_together),
		cmocka_unit_test(an_owner_without_memory_is_told),
		cmocka_unit_test(what_is_no_claim_is_refused),
		cmocka_unit_test(no_claims_are_solved),
		cmocka_unit_test(an_answer_that_makes_no_sense_is_refused),
		cmocka_unit_test(a_damaged_answer_never_gives_shares_outside_the_box),
		cmocka_unit_test(every_allocation_failure_is_told),
		cmocka_unit_test(a_tensor_cut_for_many_ranks_is_solved),
		cmocka_unit_test(many_tensors_that_all_ranks_hold_are_solved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
