/* SPDX-License-Identifier: BSD-3-Clause */
#include <search.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../util/alloc_fail.h"
#include "../util/plan_fixture.h"

#define PIECES   64u
#define TENSORS  6u
#define ELEMENTS 4096u
#define WANTS    40u
#define NOBODY   (-1)

static bool tsearch_fails;
void *__real_tsearch(const void *key, void **root, int (*compare)(const void *, const void *));
void *__wrap_tsearch(const void *key, void **root, int (*compare)(const void *, const void *));

void *__wrap_tsearch(const void *key, void **root, int (*compare)(const void *, const void *))
{
	return tsearch_fails ? NULL : __real_tsearch(key, root, compare);
}

static int ask(const struct plan *p, uint32_t record, const struct tensor *t, struct box box,
               struct plan_part **parts, uint32_t *count)
{
	struct plan_wanted w = {*t, box};
	struct bytes b = {0};
	int rc;

	*parts = NULL;
	*count = 0;
	assert_int_equal(plan_answer(p, record, &b), 0);
	rc = plan_read(&w, b.at, (uint32_t)b.size, parts, count);
	bytes_deinit(&b);
	return rc;
}

static void expect_error(const struct plan *p, uint32_t record, const struct tensor *t,
                         struct box box, int error, const char *text)
{
	struct plan_part *parts;
	uint32_t count;

	assert_int_equal(ask(p, record, t, box, &parts, &count), error);
	assert_null(parts);
	if (!strstr(error_msg(), text))
		fail_msg("\"%s\" lacks \"%s\"", error_msg(), text);
}

/* --- against a map of all elements --- */

struct piece {
	struct box box;
	uint32_t agent, rank, piece;
};

struct stored_tensor {
	struct tensor tensor;
	struct piece piece[PIECES];
	uint32_t pieces;
	int16_t map[ELEMENTS]; /* which piece holds it, or NOBODY */
};

static uint64_t index_of(const struct tensor *t, const uint64_t *at)
{
	uint64_t index = 0;

	for (uint32_t d = 0; d < t->ndim; d++)
		index = index * t->shape[d] + at[d];
	return index;
}

/* Calls each for every element of b. */
static void walk(const struct tensor *t, const struct box *b,
                 void (*each)(void *arg, uint64_t index), void *arg)
{
	uint64_t at[FTMEM_MAX_DIMS];
	uint32_t d;

	memcpy(at, b->start, sizeof(at));
	do {
		each(arg, index_of(t, at));
		for (d = b->ndim; d-- > 0;) {
			if (++at[d] < b->start[d] + b->extent[d])
				break;
			at[d] = b->start[d];
		}
	} while (d != UINT32_MAX);
}

struct filling {
	struct stored_tensor *s;
	int16_t value;
};

static void fill_element(void *arg, uint64_t index)
{
	struct filling *f = arg;

	f->s->map[index] = f->value;
}

/* Cuts b in two, and these again, until there are enough pieces; leaves some out. */
static void cut(uint64_t *seed, struct stored_tensor *s, struct box b, uint32_t cuts,
                uint32_t holes, uint32_t ranks)
{
	uint32_t d = test_random_below(seed, b.ndim);

	if (cuts > 0 && b.extent[d] > 1) {
		uint64_t at = 1 + test_random_below(seed, (uint32_t)b.extent[d] - 1);
		struct box low = b, high = b;

		low.extent[d] = at;
		high.start[d] += at;
		high.extent[d] -= at;
		cut(seed, s, low, (cuts - 1) / 2, holes, ranks);
		cut(seed, s, high, cuts - 1 - (cuts - 1) / 2, holes, ranks);
		return;
	}
	if (test_random_below(seed, 100) >= holes) {
		struct filling f = {s, (int16_t)s->pieces};

		s->piece[s->pieces] = (struct piece){b, test_random_below(seed, ranks),
		                                     test_random_below(seed, 99), s->pieces};
		walk(&s->tensor, &b, fill_element, &f);
		s->pieces++;
	}
}

static void make_stored(uint64_t *seed, struct stored_tensor *s, uint32_t number, uint32_t ranks)
{
	static const uint32_t longest[] = {4096, 64, 16, 8};
	uint32_t ndim = 1 + test_random_below(seed, 4);
	uint64_t shape[FTMEM_MAX_DIMS];
	char name[16];

	for (uint32_t d = 0; d < ndim; d++)
		shape[d] = 1 + test_random_below(seed, longest[ndim - 1]);
	/* Some share a name and differ in home. */
	snprintf(name, sizeof(name), "t%u", number / 2);
	s->tensor = make_tensor(name, number % 2 ? number : TENSOR_GLOBAL, number % 2 ? 1 : ndim,
	                        shape);
	s->pieces = 0;
	for (uint32_t i = 0; i < ELEMENTS; i++)
		s->map[i] = NOBODY;
	cut(seed, s, whole_of(&s->tensor), test_random_below(seed, PIECES),
	    test_random_below(seed, 3) == 0 ? 10 : 0, ranks);
}

struct counting {
	const struct stored_tensor *s;
	uint8_t *seen;    /* NULL: none */
	int16_t expected; /* piece */
	uint32_t missing, wrong;
};

static void count_element(void *arg, uint64_t index)
{
	struct counting *c = arg;

	c->missing += c->s->map[index] == NOBODY;
	c->wrong += c->s->map[index] != c->expected;
	if (c->seen)
		c->seen[index]++;
}

static uint32_t missing_in(const struct stored_tensor *s, const struct box *b)
{
	struct counting c = {.s = s};

	walk(&s->tensor, b, count_element, &c);
	return c.missing;
}

static int part_order(const struct plan_part *a, const struct plan_part *b)
{
	if (a->agent != b->agent)
		return a->agent < b->agent ? -1 : 1;
	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	if (a->piece != b->piece)
		return a->piece < b->piece ? -1 : 1;
	return box_compare(&a->box, &b->box);
}

/* Every element of b in exactly one part, and there its piece holds it. */
static void check_parts(const struct stored_tensor *s, const struct box *b,
                        const struct plan_part *part, uint32_t count)
{
	uint8_t seen[ELEMENTS] = {0};
	uint64_t all = 0;

	for (uint32_t i = 0; i < count; i++) {
		struct counting c = {.s = s, .seen = seen, .expected = (int16_t)part[i].piece};
		const struct piece *p = &s->piece[part[i].piece];

		assert_true(part[i].piece < s->pieces);
		assert_true(box_contains(b, &part[i].box));
		assert_true(box_contains(&p->box, &part[i].box));
		assert_int_equal(part[i].agent, p->agent);
		assert_int_equal(part[i].rank, p->rank);
		walk(&s->tensor, &part[i].box, count_element, &c);
		assert_int_equal(c.wrong, 0);
		if (i)
			assert_true(part_order(&part[i - 1], &part[i]) < 0);
	}
	for (uint32_t i = 0; i < ELEMENTS; i++) {
		assert_true(seen[i] <= 1);
		all += seen[i];
	}
	assert_int_equal(all, box_count(b));
}

/* The box in the message: of elements that are missing, all of them, and no larger one. */
static void check_hole(const struct stored_tensor *s, const struct box *b)
{
	const char *at = strstr(error_msg(), "its part [");
	struct box hole = {.ndim = b->ndim};

	assert_non_null(at);
	assert_non_null(strstr(error_msg(), s->tensor.name));
	at += strlen("its part [");
	for (uint32_t d = 0; d < b->ndim; d++) {
		char *end = NULL;

		hole.start[d] = strtoull(at, &end, 10);
		assert_int_equal(*end, ':');
		hole.extent[d] = strtoull(end + 1, &end, 10) - hole.start[d];
		at = end + strspn(end, ", ");
	}
	assert_int_equal(*at, ']');
	assert_true(box_contains(b, &hole));
	assert_int_equal(missing_in(s, &hole), box_count(&hole));
	for (uint32_t d = 0; d < b->ndim; d++) {
		struct box more = hole;

		more.extent[d]++;
		if (box_contains(b, &more))
			assert_true(missing_in(s, &more) < box_count(&more));
		more.start[d]--;
		if (hole.start[d] > 0 && box_contains(b, &more))
			assert_true(missing_in(s, &more) < box_count(&more));
	}
}

static void random_round(uint64_t *seed, uint32_t *complete, uint32_t *holes)
{
	static struct stored_tensor s[TENSORS];
	uint32_t tensors = 1 + test_random_below(seed, TENSORS);
	uint32_t ranks = 1 + test_random_below(seed, 12), records = 0, of[WANTS], number[WANTS];
	uint32_t next[TENSORS] = {0}, left = 0, wants = 0;
	struct plan_part *part;
	struct box want[WANTS];
	struct plan *p = NULL;
	uint32_t count;

	assert_int_equal(plan_new(&p), 0);
	for (uint32_t i = 0; i < tensors; i++) {
		make_stored(seed, &s[i], i, ranks);
		left += s[i].pieces;
	}
	/* In any order. */
	while (left > 0 || wants < WANTS) {
		uint32_t i = test_random_below(seed, tensors), k = next[i];

		if (wants < WANTS && test_random_below(seed, 3) == 0) {
			want[wants] = random_box(seed, &s[i].tensor);
			of[wants] = i;
			number[wants] = records++;
			assert_int_equal(add_wanted(p, &s[i].tensor, want[wants]), 0);
			wants++;
		} else if (k < s[i].pieces) {
			const struct piece *q = &s[i].piece[k];

			assert_int_equal(
				add_stored(p, &s[i].tensor, q->box, q->agent, q->rank, q->piece),
				0);
			next[i]++;
			records++;
			left--;
		}
	}
	assert_int_equal(plan_solve(p), 0);
	for (uint32_t w = 0; w < wants; w++) {
		const struct stored_tensor *of_w = &s[of[w]];
		int rc = ask(p, number[w], &of_w->tensor, want[w], &part, &count);

		if (missing_in(of_w, &want[w]) == 0) {
			assert_int_equal(rc, 0);
			check_parts(of_w, &want[w], part, count);
			++*complete;
		} else {
			assert_int_equal(rc, FTMEM_ELAYOUT);
			assert_null(part);
			if (of_w->pieces > 0)
				check_hole(of_w, &want[w]);
			++*holes;
		}
		free(part);
	}
	plan_free(p);
}

static void every_element_is_in_one_part_or_a_hole_is_named(void **state)
{
	uint64_t seed = test_random_seed("plan");
	uint32_t complete = 0, holes = 0;

	(void)state;
	for (int i = 0; i < 400; i++)
		random_round(&seed, &complete, &holes);
	assert_true(complete > 4000);
	assert_true(holes > 500);
}

/* --- what is wrong --- */

static void a_stored_record_has_no_answer(void **state)
{
	struct tensor t = tensor_1d("w", 10);
	struct bytes b = {0};
	struct plan *p = NULL;

	(void)state;
	assert_int_equal(plan_new(&p), 0);
	assert_int_equal(add_stored(p, &t, box_1d(0, 10), 0, 0, 0), 0);
	assert_int_equal(plan_solve(p), 0);
	assert_int_equal(bytes_put_u32(&b, 7), 0);
	assert_int_equal(plan_answer(p, 0, &b), 0);
	assert_int_equal(b.size, 4);
	bytes_deinit(&b);
	plan_free(p);
	plan_free(NULL);
}

static void what_is_not_stored_is_named(void **state)
{
	struct tensor t = tensor_1d("w", 10), other = tensor_1d("v", 10);
	struct tensor mine = make_tensor("rng", 2, 1, (uint64_t[]){5}), theirs = mine;
	struct plan *p = NULL;

	(void)state;
	theirs.home = 3;
	assert_int_equal(plan_new(&p), 0);
	assert_int_equal(add_stored(p, &t, box_1d(0, 4), 0, 0, 0), 0);
	assert_int_equal(add_stored(p, &mine, box_1d(0, 5), 0, 0, 1), 0);
	assert_int_equal(add_wanted(p, &other, box_1d(0, 4)), 0);
	assert_int_equal(add_wanted(p, &theirs, box_1d(0, 5)), 0);
	assert_int_equal(add_wanted(p, &t, box_1d(2, 6)), 0);
	assert_int_equal(plan_solve(p), 0);
	expect_error(p, 2, &other, box_1d(0, 4), FTMEM_ELAYOUT, "tensor \"v\" is not stored");
	expect_error(p, 3, &theirs, box_1d(0, 5), FTMEM_ELAYOUT,
	             "region \"rng\" of rank 3 is not stored");
	expect_error(p, 4, &t, box_1d(2, 6), FTMEM_ELAYOUT, "[4:8]");
	plan_free(p);
}

static void another_shape_is_named(void **state)
{
	uint64_t shape[] = {10, 20}, turned[] = {20, 10};
	struct tensor t = make_tensor("w", TENSOR_GLOBAL, 2, shape), wide = t, flat, other;
	struct plan_part *part;
	struct plan *p = NULL;
	uint32_t count;

	(void)state;
	wide.elem_bytes = 8;
	flat = tensor_1d("w", 200);
	other = make_tensor("w", TENSOR_GLOBAL, 2, turned);
	assert_int_equal(plan_new(&p), 0);
	/* The first that is told is not the one that is stored. */
	assert_int_equal(add_wanted(p, &other, whole_of(&other)), 0);
	assert_int_equal(add_stored(p, &t, whole_of(&t), 0, 0, 0), 0);
	assert_int_equal(add_wanted(p, &wide, whole_of(&wide)), 0);
	assert_int_equal(add_wanted(p, &flat, whole_of(&flat)), 0);
	assert_int_equal(add_wanted(p, &t, whole_of(&t)), 0);
	assert_int_equal(plan_solve(p), 0);
	expect_error(p, 0, &other, whole_of(&other), FTMEM_ELAYOUT,
	             "stored as [10, 20] of 4-byte elements and asked for as [20, 10] of 4-byte");
	expect_error(p, 2, &wide, whole_of(&wide), FTMEM_ELAYOUT,
	             "asked for as [10, 20] of 8-byte");
	expect_error(p, 3, &flat, whole_of(&flat), FTMEM_ELAYOUT, "asked for as [200]");
	assert_int_equal(ask(p, 4, &t, whole_of(&t), &part, &count), 0);
	assert_int_equal(count, 1);
	free(part);
	plan_free(p);
}

static void another_size_of_a_private_region_is_named(void **state)
{
	struct tensor is = make_tensor("rng", 1, 1, (uint64_t[]){16});
	struct tensor asked = make_tensor("rng", 1, 1, (uint64_t[]){17});
	struct plan *p = NULL;

	(void)state;
	assert_int_equal(plan_new(&p), 0);
	assert_int_equal(add_stored(p, &is, box_1d(0, 16), 0, 1, 0), 0);
	assert_int_equal(add_wanted(p, &asked, box_1d(0, 17)), 0);
	assert_int_equal(plan_solve(p), 0);
	expect_error(
		p, 1, &asked, box_1d(0, 17), FTMEM_ELAYOUT,
		"region \"rng\" of rank 1 is stored with 16 bytes and asked for with 17: they");
	plan_free(p);
}

static void stored_pieces_that_overlap_are_named(void **state)
{
	struct tensor t = tensor_1d("w", 10), good = tensor_1d("v", 10);
	struct plan_part *part;
	struct plan *p = NULL;
	uint32_t count;

	(void)state;
	assert_int_equal(plan_new(&p), 0);
	assert_int_equal(add_stored(p, &t, box_1d(0, 4), 0, 5, 1), 0);
	assert_int_equal(add_stored(p, &t, box_1d(6, 4), 0, 6, 2), 0);
	assert_int_equal(add_stored(p, &t, box_1d(3, 3), 0, 7, 3), 0);
	assert_int_equal(add_stored(p, &good, box_1d(0, 10), 0, 7, 4), 0);
	assert_int_equal(add_wanted(p, &t, box_1d(6, 4)), 0);
	assert_int_equal(add_wanted(p, &good, box_1d(6, 4)), 0);
	assert_int_equal(plan_solve(p), 0);
	expect_error(p, 4, &t, box_1d(6, 4), FTMEM_ECORRUPT,
	             "tensor \"w\" contradicts itself: piece 1 of rank 5 and piece 3 of rank 7 "
	             "overlap");
	assert_int_equal(ask(p, 5, &good, box_1d(6, 4), &part, &count), 0);
	free(part);
	plan_free(p);
}

static void stored_pieces_of_two_shapes_are_named(void **state)
{
	struct tensor t = tensor_1d("w", 10), longer = tensor_1d("w", 11);
	struct plan *p = NULL;

	(void)state;
	assert_int_equal(plan_new(&p), 0);
	assert_int_equal(add_stored(p, &t, box_1d(0, 4), 0, 5, 1), 0);
	assert_int_equal(add_stored(p, &longer, box_1d(4, 4), 0, 6, 2), 0);
	assert_int_equal(add_wanted(p, &t, box_1d(0, 4)), 0);
	assert_int_equal(plan_solve(p), 0);
	expect_error(p, 2, &t, box_1d(0, 4), FTMEM_ECORRUPT,
	             "piece 1 of rank 5 and piece 2 of rank 6 are of different tensors");
	plan_free(p);
}

/* --- memory, size --- */

static int plan_something(void)
{
	struct plan_part *part = NULL;
	struct tensor t[2] = {tensor_1d("w", 10), tensor_1d("v", 10)};
	struct bytes record[6] = {{0}}, b = {0};
	struct plan *p = NULL;
	uint32_t count;
	int rc = 0;

	for (uint32_t i = 0; i < 6 && !rc; i++) {
		struct plan_stored s = {t[i / 3], box_1d(i % 3 * 5, 5), 0, 0, i};
		struct plan_wanted w = {t[i / 3], box_1d(i < 3 ? 2 : 1, 8)};

		rc = i % 3 < 2 ? plan_stored_put(&record[i], &s) : plan_wanted_put(&record[i], &w);
	}
	rc = rc ? rc : plan_new(&p);
	/* One of v is left out. */
	for (uint32_t i = 0; i < 6 && !rc; i++)
		rc = i == 3 ? 0 : plan_add(p, record[i].at, (uint32_t)record[i].size);
	rc = rc ? rc : plan_solve(p);
	rc = rc ? rc : plan_answer(p, 4, &b);
	if (rc)
		assert_int_equal(b.size, 0);
	b.size = 0;
	rc = rc ? rc : plan_answer(p, 2, &b);
	if (!rc) {
		struct plan_wanted w = {t[0], box_1d(2, 8)};

		rc = plan_read(&w, b.at, (uint32_t)b.size, &part, &count);
		assert_true(rc || count == 2);
	}
	free(part);
	plan_free(p);
	bytes_deinit(&b);
	for (uint32_t i = 0; i < 6; i++)
		bytes_deinit(&record[i]);
	return rc;
}

static void every_failed_allocation_is_reported(void **state)
{
	struct tensor t = tensor_1d("w", 10);
	struct plan *p = NULL;
	int rc = FTMEM_ENOMEM;
	unsigned n;

	(void)state;
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = plan_something();
		alloc_fail_off();
	}
	assert_int_equal(rc, 0);
	assert_true(n > 10);

	assert_int_equal(plan_new(&p), 0);
	tsearch_fails = true;
	rc = add_wanted(p, &t, box_1d(0, 10));
	tsearch_fails = false;
	assert_int_equal(rc, FTMEM_ENOMEM);
	assert_int_equal(add_wanted(p, &t, box_1d(0, 10)), 0);
	plan_free(p);
}

static void an_answer_is_whole_or_not_there(void **state)
{
	struct tensor t = tensor_1d("w", 1000);
	struct bytes b = {0};
	struct plan *p = NULL;
	int rc = FTMEM_ENOMEM;
	unsigned n;

	(void)state;
	assert_int_equal(plan_new(&p), 0);
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(add_stored(p, &t, box_1d(i, 1), 0, 0, i), 0);
	assert_int_equal(add_wanted(p, &t, box_1d(0, 1000)), 0);
	assert_int_equal(plan_solve(p), 0);
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		assert_int_equal(bytes_put_u32(&b, 7), 0);
		alloc_fail_at(n);
		rc = plan_answer(p, 1000, &b);
		alloc_fail_off();
		assert_true(rc == 0 || b.size == 4);
		bytes_deinit(&b);
	}
	assert_int_equal(rc, 0);
	assert_true(n > 3);
	plan_free(p);
}

/* Wants each box and all; every one has as many parts as expected. */
static void check_large(const struct tensor *t, const struct box *stored, uint32_t pieces,
                        const struct box *want, uint32_t wants, uint32_t expected)
{
	struct plan_part *part = NULL;
	struct box whole = whole_of(t);
	struct plan *p = NULL;
	uint32_t count;

	assert_int_equal(plan_new(&p), 0);
	for (uint32_t i = 0; i < pieces; i++)
		assert_int_equal(add_stored(p, t, stored[i], i, i, 0), 0);
	for (uint32_t i = 0; i < wants; i++)
		assert_int_equal(add_wanted(p, t, want[i]), 0);
	assert_int_equal(add_wanted(p, t, whole), 0);
	assert_int_equal(plan_solve(p), 0);
	for (uint32_t i = 0; i < wants; i++) {
		assert_int_equal(ask(p, pieces + i, t, want[i], &part, &count), 0);
		assert_int_equal(count, expected);
		free(part);
	}
	assert_int_equal(ask(p, pieces + wants, t, whole, &part, &count), 0);
	assert_int_equal(count, pieces);
	free(part);
	plan_free(p);
}

/* Quadratic work here would take minutes. */
static void tensors_of_16384_pieces_are_planned(void **state)
{
	const uint32_t n = 16384, side = 128;
	struct box *stored = calloc(n, sizeof(*stored)), *want = calloc(n, sizeof(*want));
	struct tensor t = tensor_1d("w", n * 64u);

	(void)state;
	assert_non_null(stored);
	assert_non_null(want);
	for (uint32_t i = 0; i < n; i++) {
		stored[i] = box_1d(i * 64u, 64);
		want[i] = box_1d(i * 63u + 1, 64);
	}
	/* Each begins 1 - i mod 64 behind a cut, so that none coincides with a piece. */
	for (uint32_t i = 0; i < n; i++)
		if (want[i].start[0] % 64 == 0)
			want[i].start[0]++;
	check_large(&t, stored, n, want, n, 2);

	t = make_tensor("w", TENSOR_GLOBAL, 2, (uint64_t[]){side * 8, side * 8});
	for (uint32_t i = 0; i < n; i++) {
		uint64_t row = i / side, column = i % side;

		stored[i] =
			(struct box){.ndim = 2, .start = {row * 8, column * 8}, .extent = {8, 8}};
		want[i] = (struct box){.ndim = 2,
		                       .start = {row * 7 + row % 7 + 1, column * 7 + 1},
		                       .extent = {2, 2}};
		for (uint32_t d = 0; d < 2; d++)
			want[i].start[d] = want[i].start[d] / 8 * 8 + 7;
		for (uint32_t d = 0; d < 2; d++)
			if (want[i].start[d] > side * 8 - 2)
				want[i].start[d] -= 8;
	}
	check_large(&t, stored, n, want, n, 4);
	free(stored);
	free(want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_element_is_in_one_part_or_a_hole_is_named),
		cmocka_unit_test(a_stored_record_has_no_answer),
		cmocka_unit_test(what_is_not_stored_is_named),
		cmocka_unit_test(another_shape_is_named),
		cmocka_unit_test(another_size_of_a_private_region_is_named),
		cmocka_unit_test(stored_pieces_that_overlap_are_named),
		cmocka_unit_test(stored_pieces_of_two_shapes_are_named),
		cmocka_unit_test(every_failed_allocation_is_reported),
		cmocka_unit_test(an_answer_is_whole_or_not_there),
		cmocka_unit_test(tensors_of_16384_pieces_are_planned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
