/* SPDX-License-Identifier: BSD-3-Clause */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "clock.h"
#include "error.h"
#include "fake_net.h"
#include "test_job.h"

#define TAG 7u
/* Never met but by what never comes. */
#define LONG_MS 60000

static void a_message_arrives_and_is_counted(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct net *a = fake_net_of(f, 0), *b = fake_net_of(f, 1);
	struct net_req send = {0}, recv = {0};
	char out[] = "snapshot", in[sizeof(out)];

	(void)state;
	assert_int_equal(net_send(a, 1, TAG, out, sizeof(out), &send), 0);
	assert_int_equal(net_recv(b, 0, TAG, in, sizeof(in), &recv), 0);
	assert_int_equal(net_wait(b, &recv, clock_deadline(LONG_MS), "test"), 0);
	assert_int_equal(net_wait(a, &send, clock_deadline(LONG_MS), "test"), 0);
	assert_string_equal(in, "snapshot");
	assert_int_equal(atomic_load(&a->sent_bytes), sizeof(out));
	assert_int_equal(atomic_load(&b->sent_bytes), 0);
	fake_net_free(f);
}

static void a_failed_send_is_not_counted(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct net_req send = {0};

	(void)state;
	fake_net_break(f, 0);
	assert_int_equal(net_send(fake_net_of(f, 0), 1, TAG, "x", 1, &send), FTMEM_ENET);
	assert_int_equal(atomic_load(&fake_net_of(f, 0)->sent_bytes), 0);
	fake_net_free(f);
}

static void an_idle_request_is_done(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct net_req req = {0};

	(void)state;
	assert_int_equal(net_test(fake_net_of(f, 0), &req), 0);
	assert_int_equal(net_wait(fake_net_of(f, 0), &req, 0, "test"), 0);
	net_free(fake_net_of(f, 0));
	net_free(NULL);
	fake_net_free(f);
}

static void a_wait_ends_at_its_deadline_and_names_what_and_whom(void **state)
{
	struct fake_net *f = fake_net_new(3, 1);
	struct net *a = fake_net_of(f, 0);
	struct net_req req = {0};
	uint64_t deadline = clock_deadline(5);
	char in[4];

	(void)state;
	assert_int_equal(net_recv(a, 2, TAG, in, sizeof(in), &req), 0);
	assert_int_equal(net_wait(a, &req, deadline, "the blocks"), FTMEM_ETIMEOUT);
	assert_true(clock_ns() > deadline);
	assert_true(req.active);
	assert_non_null(strstr(error_msg(), "the blocks"));
	assert_non_null(strstr(error_msg(), "rank 2"));
	a->ops->cancel(a, &req);
	fake_net_free(f);
}

static void a_wait_past_its_deadline_still_takes_what_is_there(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct net_req send = {0}, recv = {0};
	char in[2];

	(void)state;
	assert_int_equal(net_send(fake_net_of(f, 0), 1, TAG, "x", 2, &send), 0);
	assert_int_equal(net_recv(fake_net_of(f, 1), 0, TAG, in, 2, &recv), 0);
	assert_int_equal(net_wait(fake_net_of(f, 1), &recv, 1, "test"), 0);
	assert_int_equal(net_wait(fake_net_of(f, 0), &send, 1, "test"), 0);
	fake_net_free(f);
}

static void a_message_of_another_size_is_refused(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct net_req send = {0}, recv = {0};
	char in[8];

	(void)state;
	assert_int_equal(net_send(fake_net_of(f, 0), 1, TAG, "four", 4, &send), 0);
	assert_int_equal(net_recv(fake_net_of(f, 1), 0, TAG, in, 8, &recv), 0);
	assert_int_equal(net_wait(fake_net_of(f, 1), &recv, clock_deadline(LONG_MS), "test"),
	                 FTMEM_ENET);
	assert_false(recv.active);
	assert_int_equal(net_wait(fake_net_of(f, 0), &send, clock_deadline(LONG_MS), "test"), 0);
	fake_net_free(f);
}

/* --- collectives: one thread per rank --- */

#define RANKS 9

struct member {
	struct net *net;
	enum net_reduce op;
	uint64_t words[3], all[RANKS];
	int rc;
	char error[256];
};

static void *reduce_main(void *arg)
{
	struct member *m = arg;

	m->rc = net_allreduce(m->net, m->words, 3, m->op, clock_deadline(LONG_MS), "voting");
	return NULL;
}

static void *gather_main(void *arg)
{
	struct member *m = arg;

	m->rc = net_allgather(m->net, m->words, sizeof(m->words[0]), m->all,
	                      clock_deadline(LONG_MS), "meeting");
	return NULL;
}

static void run_all(struct fake_net *f, uint32_t ranks, struct member *m,
                    void *(*main)(void *arg))
{
	pthread_t thread[RANKS];

	for (uint32_t i = 0; i < ranks; i++) {
		m[i].net = fake_net_of(f, i);
		assert_int_equal(pthread_create(&thread[i], NULL, main, &m[i]), 0);
	}
	for (uint32_t i = 0; i < ranks; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(m[i].rc, 0);
	}
}

static void all_ranks_get_the_same_reduction(void **state)
{
	static const uint64_t want[][3] = {
		[NET_MIN] = {0, 3, 5}, [NET_MAX] = {3, 9, 5}, [NET_SUM] = {6, 22, 20},
	};
	static const uint64_t second[] = {9, 3, 4, 6};
	struct fake_net *f = fake_net_new(4, 2);

	(void)state;
	fake_net_set_chance(f, 30);
	for (enum net_reduce op = NET_MIN; op <= NET_SUM; op++) {
		struct member m[4];

		for (uint32_t i = 0; i < 4; i++)
			m[i] = (struct member){.op = op, .words = {i, second[i], 5}};
		run_all(f, 4, m, reduce_main);
		for (uint32_t i = 0; i < 4; i++)
			assert_memory_equal(m[i].words, want[op], sizeof(want[op]));
	}
	fake_net_free(f);
}

static void all_ranks_gather_by_rank(void **state)
{
	(void)state;
	for (uint32_t ranks = 1; ranks <= RANKS; ranks++) {
		struct fake_net *f = fake_net_new(ranks, 3);
		struct member m[RANKS] = {0};

		fake_net_set_chance(f, 30);
		for (uint32_t i = 0; i < ranks; i++)
			m[i].words[0] = 100 + i;
		/* Messages of one do not meet those of the next. */
		run_all(f, ranks, m, gather_main);
		run_all(f, ranks, m, gather_main);
		for (uint32_t i = 0; i < ranks; i++)
			for (uint32_t j = 0; j < ranks; j++)
				assert_int_equal(m[i].all[j], 100 + j);
		fake_net_free(f);
	}
}

static int reduce_now(struct net *net, uint64_t *words)
{
	return net_allreduce(net, words, 2, NET_MAX, clock_ns(), "agreeing");
}

static int gather_now(struct net *net, uint64_t *all)
{
	uint64_t mine = 8;

	return net_allgather(net, &mine, sizeof(mine), all, clock_ns(), "agreeing");
}

static void a_collective_that_does_not_end_breaks_the_network(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct net *a = fake_net_of(f, 0);
	uint64_t words[2] = {1, 2};

	(void)state;
	assert_int_equal(reduce_now(a, words), FTMEM_ETIMEOUT);
	assert_non_null(strstr(error_msg(), "agreeing"));
	assert_true(a->broken);
	/* Nothing is begun any more: it would meet the wrong call elsewhere. */
	assert_int_equal(net_allreduce(a, words, 2, NET_MAX, clock_deadline(LONG_MS), "more"),
	                 FTMEM_ENET);
	assert_int_equal(net_allgather(a, words, 8, words, clock_deadline(LONG_MS), "more"),
	                 FTMEM_ENET);
	assert_int_equal(words[0], 1);
	assert_int_equal(words[1], 2);
	fake_net_free(f);
}

/* What the other rank may still write to is not given back. There under ASan only. */
__attribute__((weak)) void __lsan_disable(void);
__attribute__((weak)) void __lsan_enable(void);

static int gather_and_leave(struct net *net, uint64_t *all)
{
	int rc;

	if (__lsan_disable)
		__lsan_disable();
	rc = gather_now(net, all);
	if (__lsan_enable)
		__lsan_enable();
	return rc;
}

static void a_late_result_meets_memory_that_is_still_there(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	uint64_t words[2] = {1, 2}, late[2] = {3, 4}, all[2] = {5, 6}, late_all[2] = {7, 7};

	(void)state;
	assert_int_equal(reduce_now(fake_net_of(f, 0), words), FTMEM_ETIMEOUT);
	assert_int_equal(reduce_now(fake_net_of(f, 1), late), 0);
	assert_int_equal(late[0], 3);
	assert_int_equal(words[0], 1);
	fake_net_free(f);
	f = fake_net_new(2, 1);
	assert_int_equal(gather_and_leave(fake_net_of(f, 0), all), FTMEM_ETIMEOUT);
	assert_int_equal(gather_and_leave(fake_net_of(f, 1), late_all), FTMEM_ETIMEOUT);
	assert_non_null(strstr(error_msg(), "not every rank joined"));
	assert_int_equal(late_all[0], 7);
	assert_int_equal(all[0], 5);
	fake_net_free(f);
}

static void a_failing_network_fails_collectives_and_leaves_outputs(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct net *a = fake_net_of(f, 0);
	uint64_t words[2] = {1, 2};

	(void)state;
	fake_net_break(f, 0);
	assert_int_equal(reduce_now(a, words), FTMEM_ENET);
	assert_int_equal(words[0], 1);
	assert_true(a->broken);
	assert_int_equal(gather_now(a, words), FTMEM_ENET);
	assert_int_equal(words[0], 1);
	fake_net_free(f);
}

/* A rank that could not join must not join the next call in its place. */
static void a_rank_without_memory_joins_no_later_call(void **state)
{
	uint64_t words[2] = {1, 2}, other[2] = {3, 4};

	(void)state;
	for (int gather = 0; gather < 2; gather++) {
		struct fake_net *f = fake_net_new(2, 1);
		struct net *a = fake_net_of(f, 0);
		int rc;

		alloc_fail_at(1);
		rc = gather ? gather_now(a, words) : reduce_now(a, words);
		alloc_fail_off();
		assert_int_equal(rc, FTMEM_ENOMEM);
		assert_int_equal(words[0], 1);
		assert_int_equal(reduce_now(a, words), FTMEM_ENET);
		assert_int_equal(reduce_now(fake_net_of(f, 1), other), FTMEM_ETIMEOUT);
		fake_net_free(f);
	}
}

/* --- roll calls --- */

/* Before that nobody is named. */
#define ANSWER_MS 300

static const char *name_node(void *arg, uint32_t rank)
{
	static const char *const name[] = {"ada", "bob", "cyd", "dot", "eve"};

	(void)arg;
	return name[rank];
}

static struct fake_net *roll_world(uint32_t ranks)
{
	struct fake_net *f = fake_net_new(ranks, 1);

	for (uint32_t i = 0; i < ranks; i++) {
		fake_net_of(f, i)->node = name_node;
		assert_int_equal(net_roll_open(fake_net_of(f, i)), 0);
	}
	return f;
}

static void roll_end(struct fake_net *f, uint32_t ranks)
{
	for (uint32_t i = 0; i < ranks; i++)
		net_roll_close(fake_net_of(f, i));
	fake_net_free(f);
}

/* Joins a collective call whose deadline is so near that its roll is called at once. */
static void join(struct net *net, uint64_t words[1], struct net_req *req)
{
	assert_int_equal(net_allreduce_begin(net, words, 1, NET_MAX, clock_ns(), req), 0);
}

static void *reduce_soon(void *arg)
{
	struct member *m = arg;

	m->rc = net_allreduce(m->net, m->words, 1, NET_MAX, clock_deadline(10 * ANSWER_MS),
	                      "agreeing");
	snprintf(m->error, sizeof(m->error), "%s", error_msg());
	return NULL;
}

static void *gather_soon(void *arg)
{
	struct member *m = arg;

	if (__lsan_disable)
		__lsan_disable();
	m->rc = net_allgather(m->net, m->words, sizeof(m->words[0]), m->all,
	                      clock_deadline(10 * ANSWER_MS), "agreeing");
	if (__lsan_enable)
		__lsan_enable();
	snprintf(m->error, sizeof(m->error), "%s", error_msg());
	return NULL;
}

static void run_without(uint32_t absent, void *(*main)(void *arg))
{
	struct fake_net *f = roll_world(5);
	struct member m[5] = {0};
	pthread_t thread[5];

	for (uint32_t i = 0; i < 5; i++) {
		m[i].net = fake_net_of(f, i);
		if (i != absent)
			assert_int_equal(pthread_create(&thread[i], NULL, main, &m[i]), 0);
	}
	for (uint32_t i = 0; i < 5; i++) {
		if (i == absent)
			continue;
		pthread_join(thread[i], NULL);
		assert_int_equal(m[i].rc, FTMEM_ETIMEOUT);
		assert_non_null(strstr(m[i].error, "agreeing: not every rank joined"));
		assert_non_null(strstr(m[i].error, "no sign of rank 3 (dot);"));
	}
	roll_end(f, 5);
}

static void who_joins_no_collective_call_is_named_by_all_next_to_it(void **state)
{
	(void)state;
	run_without(3, reduce_soon);
	run_without(3, gather_soon);
}

static void who_joined_and_went_on_answers_and_is_not_named(void **state)
{
	struct fake_net *f = roll_world(3);
	struct net *a = fake_net_of(f, 0), *b = fake_net_of(f, 1), *c = fake_net_of(f, 2);
	uint64_t words[3][1] = {{0}};
	struct net_req req[3] = {{.active = false}};

	(void)state;
	for (uint32_t i = 0; i < 3; i++)
		join(fake_net_of(f, i), words[i], &req[i]);
	net_roll_call(a);
	assert_string_equal(net_roll_missing(a).text, "");
	clock_sleep(UINT64_C(1000000) * ANSWER_MS);
	assert_string_equal(net_roll_missing(a).text, "rank 1 (bob) and 1 more");
	net_roll_answer(b);
	net_roll_call(a);
	assert_string_equal(net_roll_missing(a).text, "rank 2 (cyd)");
	net_roll_answer(c);
	net_roll_call(a);
	assert_string_equal(net_roll_missing(a).text, "");
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(net_wait(fake_net_of(f, i), &req[i], clock_deadline(LONG_MS), "x"),
		                 0);
	roll_end(f, 3);
}

/* Long before it would call the roll itself. */
static void who_joins_late_answers_soon(void **state)
{
	struct fake_net *f = roll_world(3);
	struct net *a = fake_net_of(f, 0), *b = fake_net_of(f, 1);
	uint64_t words[2][1] = {{0}};
	struct net_req req[2] = {{.active = false}};

	(void)state;
	join(a, words[0], &req[0]);
	net_roll_call(a);
	assert_int_equal(net_allreduce_begin(b, words[1], 1, NET_MAX, clock_deadline(100 * LONG_MS),
	                                     &req[1]),
	                 0);
	clock_sleep(UINT64_C(1000000) * ANSWER_MS);
	net_roll_call(b);
	net_roll_call(a);
	assert_string_equal(net_roll_missing(a).text, "rank 2 (cyd)");
	/* It has not waited long enough to name anybody. */
	assert_string_equal(net_roll_missing(b).text, "");
	a->ops->cancel(a, &req[0]);
	b->ops->cancel(b, &req[1]);
	roll_end(f, 3);
}

/* The progress thread answers for a rank that computes: it has not joined. */
static void who_answered_before_it_joined_answers_again(void **state)
{
	struct fake_net *f = roll_world(3);
	struct net *a = fake_net_of(f, 0), *b = fake_net_of(f, 1);
	uint64_t words[4][1] = {{0}};
	struct net_req req[4] = {{.active = false}};

	(void)state;
	join(b, words[0], &req[0]);
	join(a, words[1], &req[1]);
	join(a, words[2], &req[2]);
	net_roll_call(a);
	clock_sleep(UINT64_C(1000000) * ANSWER_MS);
	net_roll_answer(b);
	net_roll_call(a);
	assert_string_equal(net_roll_missing(a).text, "rank 1 (bob) and 1 more");
	assert_int_equal(net_allreduce_begin(b, words[3], 1, NET_MAX, clock_deadline(100 * LONG_MS),
	                                     &req[3]),
	                 0);
	clock_sleep(UINT64_C(1000000) * ANSWER_MS);
	net_roll_call(b);
	net_roll_call(a);
	assert_string_equal(net_roll_missing(a).text, "rank 2 (cyd)");
	for (int i = 0; i < 4; i++) {
		struct net *net = i == 1 || i == 2 ? a : b;

		net->ops->cancel(net, &req[i]);
	}
	roll_end(f, 3);
}

static const struct net_ops *fake_ops;
static struct net_ops eager_ops;

/* As MPI does with what is short: a send is over before it is received. */
static int eager_test(struct net *net, struct net_req *req)
{
	if (req->receive || req->peer == NET_ALL)
		return fake_ops->test(net, req);
	req->active = false;
	return 0;
}

static void a_neighbour_that_reads_nothing_is_told_one_thing(void **state)
{
	struct fake_net *f = roll_world(2);
	struct net *a = fake_net_of(f, 0), *b = fake_net_of(f, 1);
	uint64_t mine[1] = {0}, its[1] = {0};
	struct net_req req[2] = {{.active = false}};

	(void)state;
	fake_ops = a->ops;
	eager_ops = *fake_ops;
	eager_ops.test = eager_test;
	a->ops = b->ops = &eager_ops;
	for (int i = 0; i < 100; i++) {
		join(a, mine, &req[0]);
		net_roll_call(a);
		net_roll_call(a);
		join(b, its, &req[1]);
		assert_int_equal(net_wait(a, &req[0], clock_deadline(LONG_MS), "x"), 0);
		assert_int_equal(net_wait(b, &req[1], clock_deadline(LONG_MS), "x"), 0);
		assert_int_equal(fake_net_messages(f), 1);
	}
	/* What it has read late it answers, and is told what is new. */
	clock_sleep(UINT64_C(1000000) * ANSWER_MS);
	assert_string_equal(net_roll_missing(a).text, "rank 1 (bob)");
	net_roll_call(b);
	net_roll_call(a);
	assert_string_equal(net_roll_missing(a).text, "");
	net_roll_call(b);
	assert_string_equal(net_roll_missing(b).text, "");
	roll_end(f, 2);
}

static void what_was_told_lingers_when_the_network_is_closed(void **state)
{
	struct fake_net *f = roll_world(2);
	struct net *a = fake_net_of(f, 0), *b = fake_net_of(f, 1);
	uint64_t words[2][1] = {{0}};
	struct net_req req[2] = {{.active = false}};

	(void)state;
	join(a, words[0], &req[0]);
	net_roll_call(a);
	join(b, words[1], &req[1]);
	assert_int_equal(net_wait(a, &req[0], clock_deadline(LONG_MS), "x"), 0);
	assert_int_equal(net_wait(b, &req[1], clock_deadline(LONG_MS), "x"), 0);
	assert_false(a->lingering);
	net_roll_close(a);
	net_roll_close(b);
	assert_true(a->lingering);
	assert_false(b->lingering);
	fake_net_free(f);
}

/* They only help to say why something failed. */
static void roll_calls_over_a_failing_network_name_whoever_is_not_heard(void **state)
{
	struct fake_net *f = roll_world(2);
	struct net *a = fake_net_of(f, 0);
	uint64_t words[1] = {0};
	struct net_req req = {0};

	(void)state;
	join(a, words, &req);
	fake_net_break(f, 0);
	net_roll_call(a);
	clock_sleep(UINT64_C(1000000) * ANSWER_MS);
	assert_string_equal(net_roll_missing(a).text, "rank 1 (bob)");
	a->ops->cancel(a, &req);
	roll_end(f, 2);
}

static void without_memory_or_roll_nobody_is_named(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct net *a = fake_net_of(f, 0);

	(void)state;
	alloc_fail_at(1);
	assert_int_equal(net_roll_open(a), FTMEM_ENOMEM);
	alloc_fail_off();
	net_roll_call(a);
	net_roll_answer(a);
	assert_string_equal(net_roll_missing(a).text, "");
	assert_string_equal(net_who(a, 1).text, "rank 1");
	net_roll_close(a);
	fake_net_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_arrives_and_is_counted),
		cmocka_unit_test(a_failed_send_is_not_counted),
		cmocka_unit_test(an_idle_request_is_done),
		cmocka_unit_test(a_wait_ends_at_its_deadline_and_names_what_and_whom),
		cmocka_unit_test(a_wait_past_its_deadline_still_takes_what_is_there),
		cmocka_unit_test(a_message_of_another_size_is_refused),
		cmocka_unit_test(all_ranks_get_the_same_reduction),
		cmocka_unit_test(all_ranks_gather_by_rank),
		cmocka_unit_test(a_collective_that_does_not_end_breaks_the_network),
		cmocka_unit_test(a_late_result_meets_memory_that_is_still_there),
		cmocka_unit_test(a_failing_network_fails_collectives_and_leaves_outputs),
		cmocka_unit_test(a_rank_without_memory_joins_no_later_call),
		cmocka_unit_test(who_joins_no_collective_call_is_named_by_all_next_to_it),
		cmocka_unit_test(who_joined_and_went_on_answers_and_is_not_named),
		cmocka_unit_test(a_neighbour_that_reads_nothing_is_told_one_thing),
		cmocka_unit_test(what_was_told_lingers_when_the_network_is_closed),
		cmocka_unit_test(who_joins_late_answers_soon),
		cmocka_unit_test(who_answered_before_it_joined_answers_again),
		cmocka_unit_test(roll_calls_over_a_failing_network_name_whoever_is_not_heard),
		cmocka_unit_test(without_memory_or_roll_nobody_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
