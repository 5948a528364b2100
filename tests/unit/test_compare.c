/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "checksum.h"
#include "compare.h"
#include "error.h"
#include "fake_net.h"
#include "test_job.h"
#include "test_random.h"

/* Never met but by what never comes. */
#define LONG_MS    60000
#define SHORT_MS   300
#define RANKS      6u
#define TENSORS    12u
#define TEXT_BYTES 600

/* A cell that some ranks hold, in the middle of a region twice as wide. */
struct shared {
	const char *name;
	struct box box;
	uint32_t elem_bytes, holders; /* holders: bits of ranks */
};

struct part {
	struct net *net;
	struct fake_net *f;
	struct layout layout;
	struct region region[TENSORS];
	struct share_cell cell[TENSORS];
	uint32_t tensor[TENSORS]; /* of each region */
	struct compare *compare;
	bool fails;
	int rc;
	uint32_t timeout_ms, lines;
	char text[TEXT_BYTES], line[TEXT_BYTES];
};

struct world {
	struct fake_net *f;
	uint32_t ranks;
	struct part part[RANKS];
};

static uint32_t index_in(uint32_t set, uint32_t rank)
{
	return (uint32_t)__builtin_popcount(set & ((1u << rank) - 1));
}

static void add_cell(struct part *p, const struct shared *s, uint32_t number)
{
	struct region *r = &p->region[p->layout.regions];
	uint32_t last = s->box.ndim - 1;

	*r = (struct region){.name = (char *)s->name, .elem_bytes = s->elem_bytes, .box = s->box};
	r->box.extent[last] *= 2;
	r->bytes = box_count(&r->box) * s->elem_bytes;
	r->addr = calloc(r->bytes, 1);
	assert_non_null(r->addr);
	p->cell[p->layout.regions] = (struct share_cell){
		.region = p->layout.regions,
		.cell = {.box = s->box,
	                 .holders = (uint32_t)__builtin_popcount(s->holders),
	                 .ordinal = index_in(s->holders, p->net->rank)},
	};
	p->tensor[p->layout.regions++] = number;
}

/* Eight bytes at a time: there are megabytes. */
static void fill_random(uint64_t random, uint8_t *at, uint64_t bytes)
{
	for (uint64_t i = 0; i < bytes; i += sizeof(random)) {
		uint64_t word = test_random(&random);

		memcpy(at + i, &word, bytes - i < sizeof(word) ? bytes - i : sizeof(word));
	}
}

/* The same in all holders; what is not shared differs from rank to rank. */
static void fill(struct part *p, uint32_t i)
{
	struct region *r = &p->region[i];
	struct box_view view;
	uint8_t *packed;

	box_view(&r->box, &p->cell[i].cell.box, r->elem_bytes, &view);
	packed = malloc(view.bytes);
	assert_non_null(packed);
	fill_random(100 + p->net->rank, r->addr, r->bytes);
	fill_random(p->tensor[i], packed, view.bytes);
	box_view_scatter(&view, r->addr, 0, packed, view.bytes);
	free(packed);
}

static void world_init(struct world *w, uint32_t ranks, const struct shared *s, uint32_t count)
{
	memset(w, 0, sizeof(*w));
	w->ranks = ranks;
	w->f = fake_net_new(ranks, 7);
	for (uint32_t i = 0; i < ranks; i++) {
		struct part *p = &w->part[i];

		p->f = w->f;
		p->net = fake_net_of(w->f, i);
		p->timeout_ms = LONG_MS;
		p->layout.region = p->region;
		for (uint32_t j = 0; j < count; j++)
			if (s[j].holders >> i & 1)
				add_cell(p, &s[j], j);
		for (uint32_t j = 0; j < p->layout.regions; j++)
			fill(p, j);
		assert_int_equal(compare_new(&p->layout, p->cell, p->layout.regions, &p->compare),
		                 0);
	}
}

static void world_deinit(struct world *w)
{
	for (uint32_t i = 0; i < w->ranks; i++) {
		struct part *p = &w->part[i];

		compare_free(p->compare);
		for (uint32_t j = 0; j < p->layout.regions; j++)
			free(p->region[j].addr);
	}
	fake_net_free(w->f);
}

/* Flips a bit of a byte of the tensor's cell in one rank. */
static void flip(struct world *w, uint32_t rank, uint32_t tensor, uint64_t at, uint8_t bit)
{
	struct part *p = &w->part[rank];

	for (uint32_t i = 0; i < p->layout.regions; i++) {
		const struct region *r = &p->region[i];
		struct box_view view;
		uint64_t follow;

		if (p->tensor[i] != tensor)
			continue;
		box_view(&r->box, &p->cell[i].cell.box, r->elem_bytes, &view);
		((uint8_t *)r->addr)[box_view_at(&view, at, &follow)] ^= bit;
		return;
	}
	fail();
}

/* What a copy backend does with the checks. */
static void take_sums(struct part *p)
{
	static uint8_t packed[COMPARE_BYTES];
	struct copy_job job = {0};

	compare_attach(p->compare, &job);
	for (uint32_t i = 0; i < job.checks; i++) {
		const struct copy_check *c = &job.check[i];

		assert_in_range(c->bytes, 1, COMPARE_BYTES);
		box_view_gather(&c->view, c->addr, c->from, packed, c->bytes);
		job.check_sum[i] = checksum(packed, c->bytes);
	}
}

static uint64_t sum_of_words(struct world *w)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < w->ranks; i++) {
		take_sums(&w->part[i]);
		sum += compare_word(w->part[i].compare);
	}
	return sum;
}

static void count_line(void *arg, int level, const char *line)
{
	struct part *p = arg;

	assert_int_equal(level, FTMEM_LOG_ERROR);
	if (p->lines++ == 0)
		snprintf(p->line, sizeof(p->line), "%s", line);
}

static void *name_one(void *arg)
{
	struct part *p = arg;
	struct log log = {.fn = count_line, .arg = p, .level = FTMEM_LOG_INFO};

	if (p->fails)
		test_job_may_give_up(true);
	p->rc = compare_name(p->compare, p->net, p->timeout_ms, 5, &log, p->text, sizeof(p->text));
	for (uint32_t i = 0; p->net->broken && p->timeout_ms == LONG_MS && i < p->net->size; i++)
		if (i != p->net->rank)
			fake_net_break(p->f, i);
	if (p->fails)
		test_job_may_give_up(false);
	return NULL;
}

static void name_all(struct world *w)
{
	pthread_t thread[RANKS];

	for (uint32_t i = 0; i < w->ranks; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, name_one, &w->part[i]), 0);
	for (uint32_t i = 0; i < w->ranks; i++)
		pthread_join(thread[i], NULL);
}

static void assert_named(struct world *w, const char *text)
{
	assert_true(sum_of_words(w) != 0);
	name_all(w);
	for (uint32_t i = 0; i < w->ranks; i++) {
		assert_int_equal(w->part[i].rc, 0);
		assert_string_equal(w->part[i].text, text);
	}
}

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

/* --- the word --- */

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

	for (uint32_t i = 0; i < TENSORS; i++) {
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
		struct shared s[TENSORS];
		struct world w;

		make_random(s, 2 + turn % 5, &random);
		world_init(&w, 2 + turn % 5, s, TENSORS);
		assert_true(sum_of_words(&w) == 0);
		world_deinit(&w);
	}
}

/* On one rank, or alike on some that are not all holders. */
static void a_flipped_bit_anywhere_shows(void **state)
{
	uint64_t random = test_random_seed("compare");

	(void)state;
	for (uint32_t turn = 0; turn < 300; turn++) {
		uint32_t tensor = test_random_below(&random, TENSORS), wrong, ranks = 2 + turn % 5;
		uint8_t bit = (uint8_t)(1u << test_random_below(&random, 8));
		struct shared s[TENSORS];
		struct world w;
		uint64_t at;

		make_random(s, ranks, &random);
		world_init(&w, ranks, s, TENSORS);
		at = test_random_below(&random,
		                       (uint32_t)box_count(&s[tensor].box) * s[tensor].elem_bytes);
		do
			wrong = test_random_below(&random, 1u << ranks) & s[tensor].holders;
		while (wrong == 0 || wrong == s[tensor].holders);
		for (uint32_t i = 0; i < ranks; i++)
			if (wrong >> i & 1)
				flip(&w, i, tensor, at, bit);
		assert_true(sum_of_words(&w) != 0);
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
	assert_true(sum_of_words(&w) == 0);
	flip(&w, 0, 0, 3, 1);
	flip(&w, 1, 1, 3, 1);
	assert_true(sum_of_words(&w) != 0);
	flip(&w, 1, 1, 3, 1);
	flip(&w, 1, 2, 3, 1);
	assert_true(sum_of_words(&w) != 0);
	flip(&w, 0, 0, 3, 1);
	flip(&w, 1, 2, 3, 1);
	flip(&w, 0, 3, 7, 1);
	flip(&w, 1, 3, COMPARE_BYTES + 7, 1);
	assert_true(sum_of_words(&w) != 0);
	world_deinit(&w);
}

/* --- the name --- */

static void the_one_in_the_minority_is_named_and_says_so(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 6, some, 4);
	flip(&w, 2, 0, 5, 1);
	assert_named(&w, "tensor w, box [0:4]: rank 2 differs from 3 others");
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(w.part[i].lines, i == 2);
	assert_string_equal(w.part[2].line,
	                    "version 5: tensor w, box [0:4]: this rank differs from 3 others in 1 "
	                    "of 1 parts of 1 MiB, first at byte 0");
	world_deinit(&w);
}

static void the_lowest_of_several_is_named(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 6, some, 4);
	flip(&w, 4, 1, 0, 8);
	flip(&w, 3, 1, 0, 8);
	flip(&w, 1, 2, 5 * 70000 * 8 - 1, 2);
	flip(&w, 1, 2, COMPARE_BYTES, 2);
	assert_named(&w, "tensor v, box [3:8, 4:70004]: rank 1 differs from 2 others");
	assert_int_equal(w.part[1].lines, 1);
	assert_non_null(strstr(w.part[1].line, "in 2 of 3 parts of 1 MiB, first at byte 1048576"));
	assert_int_equal(w.part[3].lines, 1);
	assert_int_equal(w.part[4].lines, 1);
	assert_non_null(strstr(w.part[4].line, "differs from 4 others"));
	world_deinit(&w);
}

static void without_a_majority_it_says_that_they_differ(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 6, some, 4);
	flip(&w, 4, 3, 0, 8);
	assert_named(&w, "tensor pair, box [0:9]: the 2 ranks that hold it differ, without a "
	                 "majority; rank 1 is one of them");
	world_deinit(&w);
	world_init(&w, 6, some, 4);
	flip(&w, 0, 0, 0, 8);
	flip(&w, 3, 0, 0, 8);
	assert_named(&w, "tensor w, box [0:4]: the 4 ranks that hold it differ, without a "
	                 "majority; rank 0 is one of them");
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(w.part[i].lines, 0);
	world_deinit(&w);
}

/* Two against two against one: the one differs from all. */
static void a_minority_is_named_before_ties(void **state)
{
	static const struct shared five = {"w", {.ndim = 1, .extent = {4}}, 4, 0x1f};
	struct shared both[2] = {some[3], five};
	struct world w;

	(void)state;
	both[0].holders = 0x3;
	world_init(&w, 5, both, 2);
	flip(&w, 0, 0, 0, 1);
	flip(&w, 1, 1, 0, 1);
	flip(&w, 2, 1, 0, 1);
	flip(&w, 4, 1, 0, 2);
	assert_named(&w, "tensor w, box [0:4]: rank 4 differs from 4 others");
	world_deinit(&w);
}

static void at_most_eight_lines_are_logged(void **state)
{
	struct shared s[TENSORS];
	struct world w;

	(void)state;
	for (uint32_t i = 0; i < TENSORS; i++)
		s[i] = (struct shared){"w", box1(4 * i, 2), 4, 0x7};
	world_init(&w, 3, s, TENSORS);
	for (uint32_t i = 0; i < TENSORS; i++)
		flip(&w, 1, i, 0, 1);
	assert_named(&w, "tensor w, box [0:2]: rank 1 differs from 2 others");
	assert_int_equal(w.part[1].lines, 8);
	world_deinit(&w);
}

static void equal_replicas_are_found_equal(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 6, some, 4);
	assert_true(sum_of_words(&w) == 0);
	name_all(&w);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(w.part[i].rc, 0);
		assert_string_equal(w.part[i].text,
		                    "replicas differed, but checked one by one they are equal");
	}
	world_deinit(&w);
}

static void a_long_name_is_cut(void **state)
{
	char name[FTMEM_REGION_NAME_MAX + 1];
	struct shared s = {name, box1(0, 4), 4, 0x7};
	struct log log = {.fn = count_line};
	struct world w;
	char text[32];

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	world_init(&w, 3, &s, 1);
	flip(&w, 0, 0, 0, 1);
	assert_true(sum_of_words(&w) != 0);
	name_all(&w);
	assert_non_null(strstr(w.part[1].text, "box [0:4]: rank 0 differs from 2 others"));
	world_deinit(&w);
	world_init(&w, 1, &s, 0);
	assert_int_equal(compare_name(w.part[0].compare, w.part[0].net, LONG_MS, 5, &log, text,
	                              sizeof(text)),
	                 0);
	assert_int_equal(strlen(text), sizeof(text) - 1);
	world_deinit(&w);
}

/* --- failures --- */

static void a_silent_rank_leaves_a_text_that_says_so(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 2, some, 1);
	take_sums(&w.part[0]);
	fake_net_silence(w.f, 1);
	for (uint32_t i = 0; i < 2; i++) {
		w.part[i].timeout_ms = SHORT_MS;
		w.part[i].fails = true;
	}
	name_all(&w);
	assert_int_equal(w.part[0].rc, FTMEM_ETIMEOUT);
	assert_non_null(strstr(w.part[0].text, "could not be found out"));
	assert_non_null(strstr(w.part[0].text, "rank 1"));
	assert_true(w.part[0].net->broken);
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

/* Either all name the same or all fail. */
static void naming_tells_every_failed_allocation(void **state)
{
	static const char named[] = "tensor w, box [0:4]: rank 2 differs from 3 others";
	uint32_t agreed = 0, broken = 0, without = 0;
	bool failed = true;

	(void)state;
	for (unsigned n = 1; failed; n++) {
		struct world w;

		world_init(&w, 5, some, 2);
		flip(&w, 2, 0, 5, 1);
		sum_of_words(&w);
		for (uint32_t i = 0; i < 5; i++)
			w.part[i].fails = true;
		alloc_fail_at(n);
		name_all(&w);
		alloc_fail_off();
		failed = alloc_fail_count() >= n;
		for (uint32_t i = 0; i < 5; i++) {
			const struct part *p = &w.part[i];

			assert_true(failed || p->rc == 0);
			assert_true(p->rc < 0 || strcmp(p->text, named) == 0);
			assert_true(p->rc == 0 || strstr(p->text, "find out what differs")
			            || strstr(p->text, "could not be found out"));
			agreed += p->rc == 0;
			broken += p->net->broken;
			without += p->rc == FTMEM_ENOMEM && !p->net->broken;
			assert_true(p->net->broken || w.part[0].net->broken
			            || strcmp(p->text, w.part[0].text) == 0);
		}
		world_deinit(&w);
	}
	assert_true(agreed > 0);
	assert_true(broken > 0);
	assert_true(without > 0 && without % 5 == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checks_cover_each_shared_byte_once),
		cmocka_unit_test(a_rank_that_shares_nothing_has_no_checks_and_no_word),
		cmocka_unit_test(words_of_equal_replicas_add_up_to_nothing),
		cmocka_unit_test(a_flipped_bit_anywhere_shows),
		cmocka_unit_test(equal_differences_in_several_places_show),
		cmocka_unit_test(the_one_in_the_minority_is_named_and_says_so),
		cmocka_unit_test(the_lowest_of_several_is_named),
		cmocka_unit_test(without_a_majority_it_says_that_they_differ),
		cmocka_unit_test(a_minority_is_named_before_ties),
		cmocka_unit_test(at_most_eight_lines_are_logged),
		cmocka_unit_test(equal_replicas_are_found_equal),
		cmocka_unit_test(a_long_name_is_cut),
		cmocka_unit_test(a_silent_rank_leaves_a_text_that_says_so),
		cmocka_unit_test(compare_new_tells_every_failed_allocation),
		cmocka_unit_test(naming_tells_every_failed_allocation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
