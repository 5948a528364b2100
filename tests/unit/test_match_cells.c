/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "match.h"
#include "match_fixture.h"
#include "test_random.h"

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
		out->start[d] =
			test_random_below(state, (uint32_t)(j->shape[d] - out->extent[d] + 1));
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

	assert_int_equal(read_said(&j->said[j->said_by[rank]], j->index[rank], &cells, &count), 0);
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

			again[i] =
				(struct said){.claim = j.said[i].claim, .count = j.said[i].count};
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

/* --- how many cells there may be --- */

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
		cmocka_unit_test(as_many_cells_as_may_be_are_solved),
		cmocka_unit_test(one_cell_more_is_an_error),
		cmocka_unit_test(boxes_that_overlap_each_other_too_often_are_an_error),
		cmocka_unit_test(cells_that_lie_in_too_many_boxes_are_an_error),
		cmocka_unit_test(a_tensor_cut_for_many_ranks_is_solved),
		cmocka_unit_test(many_tensors_that_all_ranks_hold_are_solved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
