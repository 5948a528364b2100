/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "compare_world.h"
#include "test_random.h"

static struct box box1(uint64_t start, uint64_t extent)
{
	return (struct box){.ndim = 1, .start = {start}, .extent = {extent}};
}

static struct box box2(uint64_t x, uint64_t y, uint64_t w, uint64_t h)
{
	return (struct box){.ndim = 2, .start = {x, y}, .extent = {w, h}};
}

/* Several cells of one tensor, of one check and of several. */
static const struct shared some[] = {
	{"w", {.ndim = 1, .start = {0}, .extent = {4}}, 4, 0x0f},
	{"w", {.ndim = 1, .start = {8}, .extent = {4}}, 4, 0x3f},
	{"v", {.ndim = 2, .start = {3, 4}, .extent = {5, 70000}}, 8, 0x07},
	{"pair", {.ndim = 1, .start = {0}, .extent = {9}}, 1, 0x12},
};

static void checks_cover_each_shared_byte_once(void **state)
{
	struct world w;
	struct copy_job job = {0};
	uint64_t bytes = 0, from = 0;

	(void)state;
	world_init(&w, 6, some, 4);
	compare_attach(w.part[0].compare, &job);
	assert_int_equal(job.checks, 1 + 1 + 3);
	for (uint32_t i = 0; i < job.checks; i++)
		bytes += job.check[i].bytes;
	assert_int_equal(bytes, 16 + 16 + 5 * 70000 * 8);
	assert_int_equal(compare_bytes(w.part[0].compare), bytes);
	for (uint32_t i = 2; i < 5; i++) {
		assert_ptr_equal(job.check[i].addr, w.part[0].region[2].addr);
		assert_int_equal(job.check[i].from, from);
		assert_int_equal(job.check[i].view.run, 70000 * 8);
		from += job.check[i].bytes;
	}
	assert_int_equal(from, 5 * 70000 * 8);
	world_deinit(&w);
}

static void a_rank_that_shares_nothing_has_no_checks_and_no_word(void **state)
{
	struct world w;
	struct copy_job job = {.checks = 9};

	(void)state;
	world_init(&w, 6, some, 1);
	compare_attach(w.part[5].compare, &job);
	assert_int_equal(job.checks, 0);
	assert_int_equal(compare_bytes(w.part[5].compare), 0);
	assert_true(compare_word(w.part[5].compare) == 0);
	world_deinit(&w);
	compare_free(NULL);
}

static void make_random(struct shared *s, uint32_t ranks, uint64_t *random)
{
	static const char *const names[] = {"a", "b", "bias"};

	for (uint32_t i = 0; i < COMPARE_WORLD_TENSORS; i++) {
		s[i].name = names[i % 3];
		s[i].elem_bytes = 1 + test_random_below(random, 8);
		s[i].box = i % 2 ? box1(100 * i, 1 + test_random_below(random, 90))
		                 : box2(9 * i, i, 1 + test_random_below(random, 9),
		                        1 + test_random_below(random, 9));
		do
			s[i].holders = test_random_below(random, 1u << ranks);
		while (__builtin_popcount(s[i].holders) < 2);
	}
}

static void words_of_equal_replicas_add_up_to_nothing(void **state)
{
	uint64_t random = test_random_seed("compare");

	(void)state;
	for (uint32_t turn = 0; turn < 300; turn++) {
		struct shared s[COMPARE_WORLD_TENSORS];
		struct world w;

		make_random(s, 2 + turn % 5, &random);
		world_init(&w, 2 + turn % 5, s, COMPARE_WORLD_TENSORS);
		assert_true(world_word(&w) == 0);
		world_deinit(&w);
	}
}

/* On one rank, or alike on some that are not all holders. */
static void a_flipped_bit_anywhere_shows(void **state)
{
	uint64_t random = test_random_seed("compare");

	(void)state;
	for (uint32_t turn = 0; turn < 300; turn++) {
		uint32_t tensor = test_random_below(&random, COMPARE_WORLD_TENSORS);
		uint32_t wrong, ranks = 2 + turn % 5;
		uint8_t bit = (uint8_t)(1u << test_random_below(&random, 8));
		struct shared s[COMPARE_WORLD_TENSORS];
		struct world w;
		uint64_t at;

		make_random(s, ranks, &random);
		world_init(&w, ranks, s, COMPARE_WORLD_TENSORS);
		at = test_random_below(&random,
		                       (uint32_t)box_count(&s[tensor].box) * s[tensor].elem_bytes);
		do
			wrong = test_random_below(&random, 1u << ranks) & s[tensor].holders;
		while (wrong == 0 || wrong == s[tensor].holders);
		for (uint32_t i = 0; i < ranks; i++)
			if (wrong >> i & 1)
				world_flip(&w, i, tensor, at, bit);
		assert_true(world_word(&w) != 0);
		world_deinit(&w);
	}
}

/* The same difference in several places must not cancel itself out. */
static void equal_differences_in_several_places_show(void **state)
{
	static const struct shared zeros[] = {
		{"z", {.ndim = 1, .start = {0}, .extent = {8}}, 1, 0x3},
		{"z", {.ndim = 1, .start = {16}, .extent = {8}}, 1, 0x3},
		{"y", {.ndim = 1, .start = {0}, .extent = {8}}, 1, 0x3},
		{"big", {.ndim = 1, .start = {0}, .extent = {2 * COMPARE_BYTES}}, 1, 0x3},
	};
	struct world w;

	(void)state;
	world_init(&w, 2, zeros, 4);
	for (uint32_t i = 0; i < 2; i++)
		for (uint32_t j = 0; j < 4; j++)
			memset(w.part[i].region[j].addr, 0, w.part[i].region[j].bytes);
	assert_true(world_word(&w) == 0);
	world_flip(&w, 0, 0, 3, 1);
	world_flip(&w, 1, 1, 3, 1);
	assert_true(world_word(&w) != 0);
	world_flip(&w, 1, 1, 3, 1);
	world_flip(&w, 1, 2, 3, 1);
	assert_true(world_word(&w) != 0);
	world_flip(&w, 0, 0, 3, 1);
	world_flip(&w, 1, 2, 3, 1);
	world_flip(&w, 0, 3, 7, 1);
	world_flip(&w, 1, 3, COMPARE_BYTES + 7, 1);
	assert_true(world_word(&w) != 0);
	world_deinit(&w);
}

static void compare_new_tells_every_failed_allocation(void **state)
{
	struct compare *c = NULL;
	struct world w;
	int rc = FTMEM_ENOMEM;
	unsigned n;

	(void)state;
	world_init(&w, 6, some, 4);
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = compare_new(&w.part[0].layout, w.part[0].cell, w.part[0].layout.regions, &c);
		alloc_fail_off();
		assert_true((rc == 0) == (c != NULL));
	}
	assert_int_equal(rc, 0);
	assert_true(n > 4);
	compare_free(c);
	world_deinit(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checks_cover_each_shared_byte_once),
		cmocka_unit_test(a_rank_that_shares_nothing_has_no_checks_and_no_word),
		cmocka_unit_test(words_of_equal_replicas_add_up_to_nothing),
		cmocka_unit_test(a_flipped_bit_anywhere_shows),
		cmocka_unit_test(equal_differences_in_several_places_show),
		cmocka_unit_test(compare_new_tells_every_failed_allocation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
