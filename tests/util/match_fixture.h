/* SPDX-License-Identifier: BSD-3-Clause */
/* Claims and their answers, for the tests of match. Include cmocka.h before. */
#ifndef FTMEM_TEST_MATCH_FIXTURE_H
#define FTMEM_TEST_MATCH_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "match.h"

/* A record, how many ranks sent it, and the answer. */
struct said {
	struct match_claim claim;
	uint32_t count;
	struct bytes answer;
};

static inline struct match_claim claim_of(const char *name, uint32_t elem_bytes, uint32_t group)
{
	struct match_claim c = {.tensor = {.home = TENSOR_GLOBAL, .elem_bytes = elem_bytes},
	                        .group = group};

	snprintf(c.tensor.name, sizeof(c.tensor.name), "%s", name);
	return c;
}

static inline void add_dim(struct match_claim *c, uint64_t shape, uint64_t start, uint64_t extent)
{
	uint32_t d = c->tensor.ndim++;

	c->box.ndim = c->tensor.ndim;
	c->tensor.shape[d] = shape;
	c->box.start[d] = start;
	c->box.extent[d] = extent;
}

static inline struct said say_1d(const char *name, uint32_t elem_bytes, uint64_t shape,
                                 uint64_t start, uint64_t extent, uint32_t group, uint32_t count)
{
	struct said s = {.claim = claim_of(name, elem_bytes, group), .count = count};

	add_dim(&s.claim, shape, start, extent);
	return s;
}

static inline struct said say_2d(const char *name, uint32_t elem_bytes, uint64_t side,
                                 uint64_t start0, uint64_t extent0, uint64_t start1,
                                 uint64_t extent1)
{
	struct said s = {.claim = claim_of(name, elem_bytes, 0), .count = 1};

	add_dim(&s.claim, side, start0, extent0);
	add_dim(&s.claim, side, start1, extent1);
	return s;
}

static inline int add(struct match *m, const struct said *s)
{
	struct bytes b = {0};
	int rc = match_claim_put(&b, &s->claim);

	if (!rc)
		rc = match_add(m, b.at, (uint32_t)b.size, s->count);
	bytes_deinit(&b);
	return rc;
}

/* order: [count] in which they are added, NULL: as they are. */
static inline int solve_in_order(struct said *said, uint32_t count, const uint32_t *order)
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

static inline void solve(struct said *said, uint32_t count)
{
	assert_int_equal(solve_in_order(said, count, NULL), 0);
}

static inline void forget(struct said *said, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		bytes_deinit(&said[i].answer);
}

static inline int read_said(const struct said *s, uint32_t index, struct match_cell **cells,
                            uint32_t *count)
{
	return match_read(&s->claim, s->answer.at, (uint32_t)s->answer.size, index, cells, count);
}

/* The one cell of a claim. */
static inline struct match_cell only_cell(const struct said *s, uint32_t index)
{
	struct match_cell *cells = NULL, cell;
	uint32_t count = 0;

	assert_int_equal(read_said(s, index, &cells, &count), 0);
	assert_int_equal(count, 1);
	cell = cells[0];
	free(cells);
	return cell;
}

static inline uint64_t share_elements(const struct match_cell *cell)
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

static inline void expect_error(const struct said *s, int code, const char *a, const char *b)
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

#endif
