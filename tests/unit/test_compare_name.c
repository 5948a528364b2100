/* SPDX-License-Identifier: BSD-3-Clause */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "compare_world.h"
#include "error.h"
#include "route.h"
#include "test_job.h"

/* Never met but by what never comes. */
#define LONG_MS  60000
#define SHORT_MS 300

/* What this thread's rank has no memory for. */
static _Thread_local bool no_route, no_record;

int __real_route_new(uint32_t rank, uint32_t ranks, struct route **out);
int __wrap_route_new(uint32_t rank, uint32_t ranks, struct route **out);
int __wrap_route_new(uint32_t rank, uint32_t ranks, struct route **out)
{
	return no_route ? error_set(FTMEM_ENOMEM, "the test wants no route")
	                : __real_route_new(rank, ranks, out);
}

int __real_route_put(struct route *r, uint32_t dest, const void *record, uint32_t bytes);
int __wrap_route_put(struct route *r, uint32_t dest, const void *record, uint32_t bytes);
int __wrap_route_put(struct route *r, uint32_t dest, const void *record, uint32_t bytes)
{
	return no_record ? error_set(FTMEM_ENOMEM, "the test wants no record")
	                 : __real_route_put(r, dest, record, bytes);
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
	uint32_t timeout_ms = p->timeout_ms > 0 ? p->timeout_ms : LONG_MS;

	no_route = p->no_route;
	no_record = p->no_record;
	if (p->fails)
		test_job_may_give_up(true);
	p->rc = compare_name(p->compare, p->net, timeout_ms, 5, &log, p->text, sizeof(p->text));
	for (uint32_t i = 0; p->net->broken && p->timeout_ms == 0 && i < p->net->size; i++)
		if (i != p->net->rank)
			fake_net_break(p->f, i);
	if (p->fails)
		test_job_may_give_up(false);
	return NULL;
}

static void name_all(struct world *w)
{
	pthread_t thread[COMPARE_WORLD_RANKS];

	for (uint32_t i = 0; i < w->ranks; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, name_one, &w->part[i]), 0);
	for (uint32_t i = 0; i < w->ranks; i++)
		pthread_join(thread[i], NULL);
}

static void assert_named(struct world *w, const char *text)
{
	assert_true(world_word(w) != 0);
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

/* Several cells of one tensor, of one check and of several. */
static const struct shared some[] = {
	{"w", {.ndim = 1, .start = {0}, .extent = {4}}, 4, 0x0f},
	{"w", {.ndim = 1, .start = {8}, .extent = {4}}, 4, 0x3f},
	{"v", {.ndim = 2, .start = {3, 4}, .extent = {5, 70000}}, 8, 0x07},
	{"pair", {.ndim = 1, .start = {0}, .extent = {9}}, 1, 0x12},
};

static void the_one_in_the_minority_is_named_and_says_so(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 6, some, 4);
	world_flip(&w, 2, 0, 5, 1);
	assert_named(&w, "rank 2 differs from 3 others: tensor w, box [0:4]");
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(w.part[i].lines, i == 2);
	assert_string_equal(w.part[2].line,
	                    "version 5: tensor w, box [0:4]: this rank differs from 3 others in 1 "
	                    "of 1 parts of 1 MiB, the first of them begins at byte 0 of the box");
	world_deinit(&w);
}

static void the_lowest_of_several_is_named(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 6, some, 4);
	world_flip(&w, 4, 1, 0, 8);
	world_flip(&w, 3, 1, 0, 8);
	world_flip(&w, 1, 2, 5 * 70000 * 8 - 1, 2);
	world_flip(&w, 1, 2, COMPARE_BYTES, 2);
	assert_named(&w, "rank 1 differs from 2 others: tensor v, box [3:8, 4:70004]");
	assert_int_equal(w.part[1].lines, 1);
	assert_non_null(strstr(w.part[1].line, "in 2 of 3 parts of 1 MiB, the first of them "
	                                       "begins at byte 1048576 of the box"));
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
	world_flip(&w, 4, 3, 0, 8);
	assert_named(&w, "the 2 ranks that hold it differ, without a majority; rank 1 is one of "
	                 "them: tensor pair, box [0:9]");
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(w.part[i].lines, some[3].holders >> i & 1);
	for (uint32_t i = 1; i < 5; i += 3)
		assert_string_equal(w.part[i].line,
		                    "version 5: tensor pair, box [0:9]: this rank's differs from 1 "
		                    "other, no majority, in 1 of 1 parts of 1 MiB, the first of "
		                    "them begins at byte 0 of the box");
	world_deinit(&w);
	world_init(&w, 6, some, 4);
	world_flip(&w, 0, 0, 0, 8);
	world_flip(&w, 3, 0, 0, 8);
	assert_named(&w, "the 4 ranks that hold it differ, without a majority; rank 0 is one of "
	                 "them: tensor w, box [0:4]");
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(w.part[i].lines, i < 4);
		assert_true(i >= 4 || strstr(w.part[i].line, "differs from 2 others, no majority"));
	}
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
	world_flip(&w, 0, 0, 0, 1);
	world_flip(&w, 1, 1, 0, 1);
	world_flip(&w, 2, 1, 0, 1);
	world_flip(&w, 4, 1, 0, 2);
	assert_named(&w, "rank 4 differs from 4 others: tensor w, box [0:4]");
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(w.part[i].lines, i < 2 ? 2 : 1);
	world_deinit(&w);
}

/* In which there are too many ties to log them all. */
static void a_minority_is_logged_before_ties(void **state)
{
	struct shared s[COMPARE_WORLD_TENSORS];
	struct world w;

	(void)state;
	for (uint32_t i = 0; i < COMPARE_WORLD_TENSORS; i++)
		s[i] = (struct shared){"w", box1(4 * i, 2), 4, 0x3};
	s[COMPARE_WORLD_TENSORS - 1].holders = 0x7;
	world_init(&w, 3, s, COMPARE_WORLD_TENSORS);
	for (uint32_t i = 0; i < COMPARE_WORLD_TENSORS; i++)
		world_flip(&w, 1, i, 0, 1);
	assert_named(&w, "rank 1 differs from 2 others: tensor w, box [44:46]");
	assert_int_equal(w.part[0].lines, 8);
	assert_int_equal(w.part[1].lines, 8);
	assert_int_equal(w.part[2].lines, 0);
	assert_non_null(strstr(w.part[1].line, "box [44:46]: this rank differs from 2 others in"));
	world_deinit(&w);
}

static void at_most_eight_lines_are_logged(void **state)
{
	struct shared s[COMPARE_WORLD_TENSORS];
	struct world w;

	(void)state;
	for (uint32_t i = 0; i < COMPARE_WORLD_TENSORS; i++)
		s[i] = (struct shared){"w", box1(4 * i, 2), 4, 0x7};
	world_init(&w, 3, s, COMPARE_WORLD_TENSORS);
	for (uint32_t i = 0; i < COMPARE_WORLD_TENSORS; i++)
		world_flip(&w, 1, i, 0, 1);
	assert_named(&w, "rank 1 differs from 2 others: tensor w, box [0:2]");
	assert_int_equal(w.part[1].lines, 8);
	world_deinit(&w);
}

static void equal_replicas_are_found_equal(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 6, some, 4);
	assert_true(world_word(&w) == 0);
	name_all(&w);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(w.part[i].rc, 0);
		assert_string_equal(w.part[i].text,
		                    "replicas differed, but checked one by one they are equal");
	}
	world_deinit(&w);
}

/* The longest name in the longest box. */
static void the_longest_text_is_whole_with_its_ranks_first(void **state)
{
	char name[FTMEM_REGION_NAME_MAX + 1], box[BOX_TEXT], want[COMPARE_WORLD_LINE];
	struct shared s = {name, {.ndim = FTMEM_MAX_DIMS}, 4, 0x7};
	struct world w;

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	for (uint32_t d = 0; d < FTMEM_MAX_DIMS; d++) {
		s.box.start[d] = UINT64_C(18000000000000000000) + d;
		s.box.extent[d] = 2;
	}
	box_text(&s.box, box);
	world_init(&w, 3, &s, 1);
	world_flip(&w, 0, 0, 0, 1);
	snprintf(want, sizeof(want), "rank 0 differs from 2 others: tensor %s, box %s", name, box);
	assert_named(&w, want);
	snprintf(want, sizeof(want), "tensor %s, box %s: this rank differs", name, box);
	assert_non_null(strstr(w.part[0].line, want));
	assert_non_null(strstr(w.part[0].line, "begins at byte 0 of the box"));
	world_deinit(&w);
	s.holders = 0x3;
	world_init(&w, 2, &s, 1);
	world_flip(&w, 0, 0, 0, 1);
	snprintf(want, sizeof(want),
	         "the 2 ranks that hold it differ, without a majority; rank 0 is one of them: "
	         "tensor %s, box %s",
	         name, box);
	assert_named(&w, want);
	world_deinit(&w);
}

static void a_text_is_cut_to_the_room_for_it(void **state)
{
	struct log log = {.fn = count_line};
	struct world w;
	char text[32];

	(void)state;
	world_init(&w, 1, some, 0);
	assert_int_equal(compare_name(w.part[0].compare, w.part[0].net, LONG_MS, 5, &log, text,
	                              sizeof(text)),
	                 0);
	assert_string_equal(text, "replicas differed, but checked ");
	world_deinit(&w);
}

/* --- failures --- */

static void a_silent_rank_leaves_a_text_that_says_so(void **state)
{
	struct world w;

	(void)state;
	for (uint32_t stage = 0; stage < 2; stage++) {
		world_init(&w, 2, some, 1);
		world_word(&w);
		if (stage == 0)
			fake_net_silence(w.f, 1);
		else
			fake_net_hold(w.f, 1, 0, FAKE_NET_ANY);
		for (uint32_t i = 0; i < 2; i++) {
			w.part[i].timeout_ms = SHORT_MS;
			w.part[i].fails = true;
		}
		name_all(&w);
		assert_int_equal(w.part[0].rc, FTMEM_ETIMEOUT);
		assert_non_null(strstr(w.part[0].text, "could not be found out"));
		assert_non_null(strstr(w.part[0].text,
		                       stage == 0 ? "not every rank joined" : "rank 1"));
		assert_true(w.part[0].net->broken);
		world_deinit(&w);
	}
}

/* Before the first message: nobody waits for it, and the network is as good as before. */
static void a_rank_without_memory_to_ask_makes_no_one_wait(void **state)
{
	(void)state;
	for (uint32_t kind = 0; kind < 3; kind++) {
		struct world w;

		world_init(&w, 6, some, 4);
		world_flip(&w, 2, 0, 5, 1);
		world_word(&w);
		w.part[1].no_route = kind == 0;
		w.part[3].no_record = kind > 0;
		w.part[4].no_record = kind > 1;
		name_all(&w);
		for (uint32_t i = 0; i < 6; i++) {
			assert_int_equal(w.part[i].rc, 0);
			assert_false(w.part[i].net->broken);
			assert_int_equal(w.part[i].lines, 0);
			assert_string_equal(w.part[i].text,
			                    kind == 0 ? "where its replicas differ could not be "
			                                "found out: rank 1 has no memory for it"
			                              : "where its replicas differ could not be "
			                                "found out: rank 3 has no memory for it");
			w.part[i].no_route = w.part[i].no_record = false;
		}
		/* The next time there is. */
		assert_named(&w, "rank 2 differs from 3 others: tensor w, box [0:4]");
		world_deinit(&w);
	}
}

/* Either all name the same, or all say that they cannot, or the network is of no more use. */
static void naming_tells_every_failed_allocation(void **state)
{
	static const char named[] = "rank 2 differs from 3 others: tensor w, box [0:4]";
	uint32_t agreed = 0, broken = 0, without = 0;
	bool failed = true;

	(void)state;
	for (unsigned n = 1; failed; n++) {
		struct world w;

		world_init(&w, 5, some, 2);
		world_flip(&w, 2, 0, 5, 1);
		world_word(&w);
		for (uint32_t i = 0; i < 5; i++)
			w.part[i].fails = true;
		alloc_fail_at(n);
		name_all(&w);
		alloc_fail_off();
		failed = alloc_fail_count() >= n;
		for (uint32_t i = 0; i < 5; i++) {
			const struct part *p = &w.part[i];
			bool unknown = strstr(p->text, "could not be found out: ");

			assert_true(failed || p->rc == 0);
			assert_true(unknown || strcmp(p->text, named) == 0);
			assert_true(p->rc == 0 || (unknown && p->net->broken));
			agreed += p->rc == 0 && !unknown;
			broken += p->net->broken;
			without += p->rc == 0 && unknown;
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
		cmocka_unit_test(the_one_in_the_minority_is_named_and_says_so),
		cmocka_unit_test(the_lowest_of_several_is_named),
		cmocka_unit_test(without_a_majority_it_says_that_they_differ),
		cmocka_unit_test(a_minority_is_named_before_ties),
		cmocka_unit_test(a_minority_is_logged_before_ties),
		cmocka_unit_test(at_most_eight_lines_are_logged),
		cmocka_unit_test(equal_replicas_are_found_equal),
		cmocka_unit_test(the_longest_text_is_whole_with_its_ranks_first),
		cmocka_unit_test(a_text_is_cut_to_the_room_for_it),
		cmocka_unit_test(a_silent_rank_leaves_a_text_that_says_so),
		cmocka_unit_test(a_rank_without_memory_to_ask_makes_no_one_wait),
		cmocka_unit_test(naming_tells_every_failed_allocation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
