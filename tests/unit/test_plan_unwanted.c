/* SPDX-License-Identifier: BSD-3-Clause */
/* What is stored and not wanted. Linked with --wrap=malloc,calloc,realloc. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../util/alloc_fail.h"
#include "../util/plan_fixture.h"

#define ELEMENTS 4096u
#define TENSORS  4u

static struct plan *new_plan(void)
{
	struct plan *p = NULL;

	assert_int_equal(plan_new(&p), 0);
	return p;
}

static struct plan_unwanted unwanted_of(struct plan *p)
{
	struct plan_unwanted u;

	memset(&u, 0xee, sizeof(u));
	assert_int_equal(plan_solve(p), 0);
	assert_int_equal(plan_unwanted(p, &u), 0);
	return u;
}

static void expect(struct plan *p, uint64_t bytes, uint32_t tensors, uint32_t privates,
                   const char *example)
{
	struct plan_unwanted u = unwanted_of(p);

	assert_int_equal(u.bytes, bytes);
	assert_int_equal(u.tensors, tensors);
	assert_int_equal(u.privates, privates);
	assert_string_equal(u.example, example);
	plan_free(p);
}

/* --- against a map of all elements --- */

struct mapped {
	struct tensor tensor;
	uint8_t stored[ELEMENTS], wanted[ELEMENTS];
};

/* The element number `index` of b, as a number of the tensor's. */
static uint64_t element_of(const struct tensor *t, const struct box *b, uint64_t index)
{
	uint64_t at[FTMEM_MAX_DIMS], number = 0;

	for (uint32_t d = b->ndim; d-- > 0;) {
		at[d] = b->start[d] + index % b->extent[d];
		index /= b->extent[d];
	}
	for (uint32_t d = 0; d < b->ndim; d++)
		number = number * t->shape[d] + at[d];
	return number;
}

static void mark(uint8_t *map, const struct tensor *t, const struct box *b)
{
	for (uint64_t i = 0; i < box_count(b); i++)
		map[element_of(t, b, i)] = 1;
}

static uint32_t marked(const uint8_t *map, const struct tensor *t, const struct box *b)
{
	uint32_t count = 0;

	for (uint64_t i = 0; i < box_count(b); i++)
		count += map[element_of(t, b, i)];
	return count;
}

/* Cuts b in two, and these again; stores most of what comes of it. */
static void store(uint64_t *seed, struct plan *p, struct mapped *m, struct box b, uint32_t cuts,
                  uint32_t holes)
{
	uint32_t d = test_random_below(seed, b.ndim);

	if (cuts > 0 && b.extent[d] > 1) {
		struct box high = b;

		b.extent[d] = 1 + test_random_below(seed, (uint32_t)b.extent[d] - 1);
		high.start[d] += b.extent[d];
		high.extent[d] -= b.extent[d];
		store(seed, p, m, b, cuts / 2, holes);
		store(seed, p, m, high, cuts / 2, holes);
	} else if (test_random_below(seed, 100) >= holes) {
		assert_int_equal(add_stored(p, &m->tensor, b, 0, 0, 0), 0);
		mark(m->stored, &m->tensor, &b);
	}
}

static void want(uint64_t *seed, struct plan *p, struct mapped *m)
{
	struct box b = random_box(seed, &m->tensor);

	/* Mostly small ones, so that something is left. */
	for (uint32_t d = 0; d < b.ndim && test_random_below(seed, 8); d++)
		b.extent[d] = (b.extent[d] + 3) / 4;
	for (uint32_t n = 1 + test_random_below(seed, 2); n > 0; n--)
		assert_int_equal(add_wanted(p, &m->tensor, b), 0);
	mark(m->wanted, &m->tensor, &b);
}

static void make_mapped(uint64_t *seed, struct plan *p, struct mapped *m, uint32_t number)
{
	static const uint32_t longest[] = {4096, 64, 16, 8};
	uint32_t home = test_random_below(seed, 4) ? TENSOR_GLOBAL : number;
	uint32_t ndim = home == TENSOR_GLOBAL ? 1 + test_random_below(seed, 4) : 1;
	uint32_t wants = test_random_below(seed, 5) ? test_random_below(seed, 30) : 0;
	uint64_t shape[FTMEM_MAX_DIMS];
	char name[16];

	for (uint32_t d = 0; d < ndim; d++)
		shape[d] = 1 + test_random_below(seed, longest[ndim - 1]);
	snprintf(name, sizeof(name), "t%u", number);
	*m = (struct mapped){.tensor = make_tensor(name, home, ndim, shape)};
	while (wants > 0 && test_random_below(seed, 2)) {
		want(seed, p, m);
		wants--;
	}
	store(seed, p, m, whole_of(&m->tensor), test_random_below(seed, 60),
	      test_random_below(seed, 4) ? 0 : 20);
	for (; wants > 0; wants--)
		want(seed, p, m);
}

static uint32_t count_unwanted(const struct mapped *m)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < ELEMENTS; i++)
		count += m->stored[i] && !m->wanted[i];
	return count;
}

/* "[0:4, 16:32]" */
static struct box parse_box(const char *text, uint32_t ndim)
{
	struct box b = {.ndim = ndim};

	assert_int_equal(*text++, '[');
	for (uint32_t d = 0; d < ndim; d++) {
		char *end = NULL;

		b.start[d] = strtoull(text, &end, 10);
		assert_int_equal(*end, ':');
		b.extent[d] = strtoull(end + 1, &end, 10) - b.start[d];
		text = end + strspn(end, ", ");
	}
	assert_string_equal(text, "]");
	return b;
}

/* It is of m, and its box, if it has one, is stored and not wanted. */
static void check_example(const struct mapped *m, const char *text, uint32_t *boxes)
{
	const struct tensor *t = &m->tensor;
	char begin[64];
	struct box b;

	if (t->home != TENSOR_GLOBAL) {
		snprintf(begin, sizeof(begin), "private region \"%s\" of rank %u", t->name,
		         t->home);
		assert_string_equal(text, begin);
		return;
	}
	snprintf(begin, sizeof(begin), "tensor \"%s\"", t->name);
	assert_memory_equal(text, begin, strlen(begin));
	text += strlen(begin);
	b = whole_of(t);
	if (*text == '\0') {
		assert_int_equal(marked(m->wanted, t, &b), 0);
		return;
	}
	b = parse_box(text + 1, t->ndim);
	assert_true(box_count(&b) > 0);
	assert_int_equal(marked(m->wanted, t, &b), 0);
	assert_int_equal(marked(m->stored, t, &b), box_count(&b));
	++*boxes;
}

static void random_round(uint64_t *seed, uint32_t *boxes)
{
	static struct mapped m[TENSORS];
	uint32_t tensors = 0, privates = 0, first = TENSORS;
	struct plan *p = new_plan();
	struct plan_unwanted u;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < TENSORS; i++) {
		uint32_t elements;

		make_mapped(seed, p, &m[i], i);
		elements = count_unwanted(&m[i]);
		bytes += (uint64_t)elements * m[i].tensor.elem_bytes;
		if (elements == 0)
			continue;
		/* Their names ascend. */
		if (first == TENSORS
		    || (m[first].tensor.home != TENSOR_GLOBAL && m[i].tensor.home == TENSOR_GLOBAL))
			first = i;
		tensors += m[i].tensor.home == TENSOR_GLOBAL;
		privates += m[i].tensor.home != TENSOR_GLOBAL;
	}
	u = unwanted_of(p);
	assert_int_equal(u.bytes, bytes);
	assert_int_equal(u.tensors, tensors);
	assert_int_equal(u.privates, privates);
	if (first == TENSORS)
		assert_string_equal(u.example, "");
	else
		check_example(&m[first], u.example, boxes);
	plan_free(p);
}

static void what_is_stored_in_no_wanted_box_is_counted(void **state)
{
	uint64_t seed = test_random_seed("unwanted");
	uint32_t boxes = 0;

	(void)state;
	for (int i = 0; i < 2000; i++)
		random_round(&seed, &boxes);
	assert_true(boxes > 500);
}

/* --- what it says --- */

static void nothing_is_unwanted_if_all_is_wanted(void **state)
{
	struct tensor t = tensor_1d("w", 10), absent = tensor_1d("v", 10);
	struct tensor rng = make_tensor("rng", 2, 1, (uint64_t[]){5});
	struct plan *p = new_plan();

	(void)state;
	expect(new_plan(), 0, 0, 0, "");
	assert_int_equal(add_stored(p, &t, box_1d(0, 4), 0, 0, 0), 0);
	assert_int_equal(add_stored(p, &t, box_1d(4, 6), 0, 1, 0), 0);
	assert_int_equal(add_stored(p, &rng, box_1d(0, 5), 0, 2, 1), 0);
	assert_int_equal(add_wanted(p, &rng, box_1d(0, 5)), 0);
	assert_int_equal(add_wanted(p, &t, box_1d(0, 7)), 0);
	assert_int_equal(add_wanted(p, &t, box_1d(3, 7)), 0);
	assert_int_equal(add_wanted(p, &absent, box_1d(3, 7)), 0);
	expect(p, 0, 0, 0, "");
}

/* Stored in slices of two rows, of which the upper half is not asked for. */
static void the_example_is_larger_than_a_piece(void **state)
{
	uint64_t shape[] = {512, 8};
	struct tensor t = make_tensor("w", TENSOR_GLOBAL, 2, shape);
	struct plan *p = new_plan();

	(void)state;
	for (uint64_t row = 0; row < 512; row += 2) {
		struct box slice = {.ndim = 2, .start = {row, 0}, .extent = {2, 8}};

		assert_int_equal(add_stored(p, &t, slice, 0, 0, 0), 0);
	}
	for (uint64_t column = 0; column < 8; column += 4) {
		struct box half = {.ndim = 2, .start = {0, column}, .extent = {256, 4}};

		assert_int_equal(add_wanted(p, &t, half), 0);
	}
	expect(p, 256 * 8 * 4, 1, 0, "tensor \"w\" [256:512, 0:8]");
}

static void tensors_go_before_private_regions_and_by_name(void **state)
{
	struct tensor rng = make_tensor("a", 3, 1, (uint64_t[]){5}), other = rng;
	struct tensor v = tensor_1d("v", 6), w = tensor_1d("w", 10);
	struct plan *p = new_plan();

	(void)state;
	assert_int_equal(add_stored(p, &rng, box_1d(0, 5), 0, 3, 0), 0);
	expect(p, 5, 0, 1, "private region \"a\" of rank 3");
	p = new_plan();
	other.home = 12;
	assert_int_equal(add_stored(p, &other, box_1d(0, 5), 0, 12, 0), 0);
	assert_int_equal(add_stored(p, &rng, box_1d(0, 5), 0, 3, 0), 0);
	expect(p, 10, 0, 2, "private region \"a\" of rank 3");
	p = new_plan();
	assert_int_equal(add_stored(p, &w, box_1d(0, 10), 0, 3, 1), 0);
	assert_int_equal(add_stored(p, &rng, box_1d(0, 5), 0, 3, 0), 0);
	assert_int_equal(add_wanted(p, &w, box_1d(0, 9)), 0);
	expect(p, 4 + 5, 1, 1, "tensor \"w\" [9:10]");
	p = new_plan();
	assert_int_equal(add_stored(p, &v, box_1d(0, 6), 0, 3, 2), 0);
	assert_int_equal(add_stored(p, &w, box_1d(0, 10), 0, 3, 1), 0);
	assert_int_equal(add_wanted(p, &w, box_1d(0, 9)), 0);
	expect(p, 4 + 24, 2, 0, "tensor \"v\"");
}

static void the_longest_example_fits(void **state)
{
	const uint64_t far = UINT64_MAX / 2;
	struct tensor t = {.home = TENSOR_GLOBAL, .elem_bytes = 1, .ndim = FTMEM_MAX_DIMS};
	struct box b = {.ndim = FTMEM_MAX_DIMS}, half;
	struct plan_unwanted u;
	struct plan *p = new_plan();

	(void)state;
	memset(t.name, 'n', FTMEM_REGION_NAME_MAX);
	for (uint32_t d = 0; d < FTMEM_MAX_DIMS; d++)
		b.extent[d] = t.shape[d] = 1;
	b.extent[0] = t.shape[0] = far;
	half = b;
	half.extent[0] = 1;
	assert_int_equal(add_stored(p, &t, b, 0, 0, 0), 0);
	assert_int_equal(add_wanted(p, &t, half), 0);
	u = unwanted_of(p);
	assert_int_equal(u.bytes, far - 1);
	assert_non_null(strstr(u.example, "[1:9223372036854775807, 0:1"));
	assert_int_equal(u.example[strlen(u.example) - 1], ']');
	plan_free(p);
}

static void more_bytes_than_can_be_counted_are_the_most(void **state)
{
	struct tensor t = tensor_1d("w", UINT64_C(1) << 61);
	struct tensor v = tensor_1d("v", UINT64_C(1) << 61);
	struct plan *p = new_plan();

	(void)state;
	/* Pieces that overlap, of a tensor that nobody wants, are not looked at further. */
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(add_stored(p, &t, box_1d(0, UINT64_C(1) << 61), 0, i, 0), 0);
	assert_int_equal(add_stored(p, &v, box_1d(0, UINT64_C(1) << 61), 0, 0, 1), 0);
	expect(p, UINT64_MAX, 2, 0, "tensor \"v\"");
}

/* The answers say what is wrong: here it only must not crash. */
static void what_contradicts_itself_is_left_to_the_answers(void **state)
{
	struct tensor t = tensor_1d("w", 10),
		      flat = make_tensor("w", TENSOR_GLOBAL, 2, (uint64_t[]){5, 2});
	struct tensor wide = t;
	struct plan *p = new_plan();

	(void)state;
	wide.elem_bytes = 8;
	assert_int_equal(add_stored(p, &t, box_1d(0, 4), 0, 0, 0), 0);
	assert_int_equal(add_stored(p, &t, box_1d(3, 4), 0, 1, 0), 0);
	assert_int_equal(add_wanted(p, &t, box_1d(0, 1)), 0);
	expect(p, 0, 0, 0, "");
	p = new_plan();
	assert_int_equal(add_stored(p, &t, box_1d(0, 4), 0, 0, 0), 0);
	assert_int_equal(add_wanted(p, &flat, whole_of(&flat)), 0);
	expect(p, 16, 1, 0, "tensor \"w\" [0:4]");
	p = new_plan();
	assert_int_equal(add_stored(p, &t, box_1d(0, 4), 0, 0, 0), 0);
	assert_int_equal(add_wanted(p, &wide, box_1d(0, 4)), 0);
	expect(p, 16, 1, 0, "tensor \"w\" [0:4]");
	p = new_plan();
	assert_int_equal(add_stored(p, &t, box_1d(0, 4), 0, 0, 0), 0);
	assert_int_equal(add_stored(p, &flat, whole_of(&flat), 0, 0, 0), 0);
	expect(p, 56, 1, 0, "tensor \"w\"");
}

/* --- memory, size --- */

static void a_failed_allocation_leaves_the_result_alone(void **state)
{
	struct tensor t = tensor_1d("w", 10);
	struct plan *p = new_plan();
	struct plan_unwanted u = {.tensors = 77};
	int rc = FTMEM_ENOMEM;
	unsigned n;

	(void)state;
	assert_int_equal(add_stored(p, &t, box_1d(0, 10), 0, 0, 0), 0);
	assert_int_equal(add_wanted(p, &t, box_1d(2, 3)), 0);
	assert_int_equal(plan_solve(p), 0);
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		assert_int_equal(u.tensors, 77);
		alloc_fail_at(n);
		rc = plan_unwanted(p, &u);
		alloc_fail_off();
	}
	assert_int_equal(rc, 0);
	assert_true(n > 4);
	assert_int_equal(u.tensors, 1);
	assert_int_equal(u.bytes, 7 * 4);
	plan_free(p);
}

#define MANY 16384u
#define SIDE 128u

/* Box i of MANY in a row of 64 elements each, or of a grid of 8 x 8 each. */
static struct box box_of_many(const struct tensor *t, uint32_t i)
{
	if (t->ndim == 1)
		return box_1d(i * 64u, 64);
	return (struct box){.ndim = 2, .start = {i / SIDE * 8, i % SIDE * 8}, .extent = {8, 8}};
}

/* Pieces: 1 or MANY. Of what is wanted, in no order, each skip-th is left out and each
 * other one shifted, so that it overlaps the next. */
static void check_many(const struct tensor *t, uint32_t pieces, uint32_t skip, uint64_t shift)
{
	uint8_t *wanted = calloc(MANY, 64);
	struct plan *p = new_plan();
	struct plan_unwanted u;
	uint64_t left = 0;

	assert_non_null(wanted);
	for (uint32_t i = 0; i < pieces; i++)
		assert_int_equal(
			add_stored(p, t, pieces == 1 ? whole_of(t) : box_of_many(t, i), 0, 0, i),
			0);
	for (uint32_t n = 0; n < MANY; n++) {
		uint32_t i = n * 5051u % MANY;
		struct box b = box_of_many(t, i);
		uint64_t *start = &b.start[t->ndim - 1];

		if (skip && i % skip == 0)
			continue;
		if (i % 2 && *start + b.extent[t->ndim - 1] + shift <= t->shape[t->ndim - 1])
			*start += shift;
		assert_int_equal(add_wanted(p, t, b), 0);
		mark(wanted, t, &b);
	}
	for (uint32_t i = 0; i < MANY * 64u; i++)
		left += !wanted[i];
	u = unwanted_of(p);
	assert_int_equal(u.bytes, left * t->elem_bytes);
	assert_int_equal(u.tensors, left > 0);
	plan_free(p);
	free(wanted);
}

/* Quadratic work here would take minutes. */
static void tensors_of_16384_pieces_and_boxes_are_counted(void **state)
{
	struct tensor t[2] = {tensor_1d("w", MANY * 64u),
	                      make_tensor("w", TENSOR_GLOBAL, 2, (uint64_t[]){SIDE * 8, SIDE * 8})};

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		check_many(&t[i], MANY, 0, 0);
		check_many(&t[i], MANY, 3, 5);
		check_many(&t[i], 1, 0, 0);
		check_many(&t[i], 1, 3, 5);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_stored_in_no_wanted_box_is_counted),
		cmocka_unit_test(nothing_is_unwanted_if_all_is_wanted),
		cmocka_unit_test(the_example_is_larger_than_a_piece),
		cmocka_unit_test(tensors_go_before_private_regions_and_by_name),
		cmocka_unit_test(the_longest_example_fits),
		cmocka_unit_test(more_bytes_than_can_be_counted_are_the_most),
		cmocka_unit_test(what_contradicts_itself_is_left_to_the_answers),
		cmocka_unit_test(a_failed_allocation_leaves_the_result_alone),
		cmocka_unit_test(tensors_of_16384_pieces_and_boxes_are_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
