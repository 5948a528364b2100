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
#include "courier.h"
#include "error.h"
#include "fake_net.h"
#include "tags.h"
#include "test_job.h"
#include "test_random.h"

/* Never met but by what never comes. */
#define LONG_MS  60000
#define SHORT_MS 300

/* What one rank does on a thread of its own. */
struct agent {
	struct fake_net *f;
	struct net *net;
	pthread_barrier_t *start;
	uint32_t timeout_ms, bytes;
	bool break_others; /* as soon as it fails, so that they need not wait */
	bool fails;        /* what it has under way may be given up */
	bool good;         /* what came and what was answered is right */
	int rc;
	char error[ERROR_MSG_MAX];
};

struct record {
	uint32_t dest, from; /* UINT32_MAX: of all */
};

static const uint8_t *record_of(uint32_t dest, uint32_t from, uint32_t bytes, uint8_t *out)
{
	struct record r = {dest, from};
	uint64_t random = (uint64_t)dest << 32 | from;

	test_random_fill(&random, out, bytes);
	memcpy(out, &r, sizeof(r));
	return out;
}

/* One of its own and one of all for each rank; the answer is the record again. */
static int put_all(struct agent *a, struct route *r, uint8_t *record)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < a->net->size; i++) {
		rc = route_put(r, i, record_of(i, a->net->rank, a->bytes, record), a->bytes);
		if (rc == 0)
			rc = route_put(r, i, record_of(i, UINT32_MAX, a->bytes, record), a->bytes);
	}
	return rc;
}

static int answer_all(struct agent *a, struct route *r, uint8_t *expected)
{
	int rc = 0;

	a->good = route_arrived(r) == a->net->size + 1;
	for (uint32_t i = 0; rc == 0 && i < route_arrived(r); i++) {
		struct route_record got = route_get(r, i);
		struct record head;

		memcpy(&head, got.at, sizeof(head));
		record_of(a->net->rank, head.from, a->bytes, expected);
		a->good = a->good && got.bytes == a->bytes
		          && memcmp(got.at, expected, got.bytes) == 0
		          && got.count == (head.from == UINT32_MAX ? a->net->size : 1);
		rc = route_answer(r, i, got.at, got.bytes);
	}
	return rc;
}

static void check_replies(struct agent *a, const struct route *r, uint8_t *expected)
{
	for (uint32_t i = 0; i < 2 * a->net->size; i++) {
		struct route_reply reply = route_reply(r, i);

		record_of(i / 2, i % 2 ? UINT32_MAX : a->net->rank, a->bytes, expected);
		a->good = a->good && reply.bytes == a->bytes
		          && memcmp(reply.at, expected, a->bytes) == 0
		          && reply.index < (i % 2 ? a->net->size : 1);
	}
}

static void *travel(void *arg)
{
	struct agent *a = arg;
	struct route *r = NULL;
	uint8_t *record;

	if (a->fails)
		test_job_may_give_up(true);
	pthread_barrier_wait(a->start);
	record = malloc(a->bytes);
	a->rc = record ? route_new(a->net->rank, a->net->size, &r)
	               : error_set(FTMEM_ENOMEM, "no memory for the test's record");
	if (a->rc == 0)
		a->rc = put_all(a, r, record);
	if (a->rc == 0)
		a->rc = courier_forward(a->net, r, a->timeout_ms, "the records");
	if (a->rc == 0)
		a->rc = answer_all(a, r, record);
	if (a->rc == 0)
		a->rc = courier_back(a->net, r, a->timeout_ms, "the answers");
	if (a->rc == 0)
		check_replies(a, r, record);
	snprintf(a->error, sizeof(a->error), "%s", error_msg());
	for (uint32_t i = 0; a->rc < 0 && a->break_others && i < a->net->size; i++)
		if (i != a->net->rank)
			fake_net_break(a->f, i);
	route_free(r);
	free(record);
	if (a->fails)
		test_job_may_give_up(false);
	return NULL;
}

static void run_all(struct fake_net *f, struct agent *agent, uint32_t ranks, struct agent model)
{
	pthread_barrier_t start;
	pthread_t thread[FAKE_NET_RANKS];

	pthread_barrier_init(&start, NULL, ranks);
	for (uint32_t i = 0; i < ranks; i++) {
		agent[i] = model;
		agent[i].f = f;
		agent[i].net = fake_net_of(f, i);
		agent[i].start = &start;
		assert_int_equal(pthread_create(&thread[i], NULL, travel, &agent[i]), 0);
	}
	for (uint32_t i = 0; i < ranks; i++)
		pthread_join(thread[i], NULL);
	pthread_barrier_destroy(&start);
}

static void assert_all_good(struct fake_net *f, const struct agent *agent, uint32_t ranks)
{
	for (uint32_t i = 0; i < ranks; i++) {
		if (agent[i].rc < 0)
			print_error("rank %u: %s\n", i, agent[i].error);
		assert_int_equal(agent[i].rc, 0);
		assert_true(agent[i].good);
		assert_false(agent[i].net->broken);
		assert_false(agent[i].net->lingering);
	}
	assert_int_equal(fake_net_under_way(f), 0);
	assert_int_equal(fake_net_unreceived(f), 0);
}

/* --- what must hold --- */

static void records_and_answers_arrive_on_any_number_of_ranks(void **state)
{
	uint64_t seed = test_random_seed("courier");
	struct agent agent[FAKE_NET_RANKS];

	(void)state;
	for (uint32_t ranks = 1; ranks <= FAKE_NET_RANKS; ranks++) {
		struct fake_net *f = fake_net_new(ranks, seed + ranks);

		fake_net_set_chance(f, 40);
		run_all(f, agent, ranks, (struct agent){.timeout_ms = LONG_MS, .bytes = 90});
		assert_all_good(f, agent, ranks);
		fake_net_free(f);
	}
}

/* Two messages for each round and way: the size, and what is left in pieces of 4 MiB. */
static void long_messages_go_in_pieces(void **state)
{
	uint64_t seed = test_random_seed("courier");
	struct fake_net *f = fake_net_new(2, seed);
	struct agent agent[2];

	(void)state;
	run_all(f, agent, 2, (struct agent){.timeout_ms = LONG_MS, .bytes = 90});
	assert_all_good(f, agent, 2);
	assert_int_equal(fake_net_messages(f), 2 * 2 * 2);
	run_all(f, agent, 2, (struct agent){.timeout_ms = LONG_MS, .bytes = 5u << 20});
	assert_all_good(f, agent, 2);
	assert_int_equal(fake_net_messages(f), 2 * 2 * 2 + 2 * 2 * (1 + 3));
	fake_net_free(f);
}

static void several_trips_follow_one_another(void **state)
{
	struct fake_net *f = fake_net_new(3, test_random_seed("courier"));
	struct agent agent[3];

	(void)state;
	for (uint32_t i = 0; i < 20; i++) {
		run_all(f, agent, 3, (struct agent){.timeout_ms = LONG_MS, .bytes = 8 + i});
		assert_all_good(f, agent, 3);
	}
	fake_net_free(f);
}

/* --- failures --- */

/* Rank 0 is the first to wait for rank 2. */
static void a_silent_rank_is_named_by_the_next_and_all_end(void **state)
{
	struct fake_net *f = fake_net_new(3, 1);
	struct agent agent[3];

	(void)state;
	fake_net_silence(f, 2);
	run_all(f, agent, 3, (struct agent){.timeout_ms = SHORT_MS, .bytes = 90, .fails = true});
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(agent[i].rc, FTMEM_ETIMEOUT);
		assert_non_null(strstr(agent[i].error, "the records: no answer from rank "));
		assert_true(agent[i].net->broken);
		assert_true(agent[i].net->lingering);
	}
	assert_non_null(strstr(agent[0].error, "rank 2 "));
	assert_int_equal(fake_net_under_way(f), 0);
	fake_net_free(f);
}

/* What rank 2 sends is there already; what is for rank 1 stays. */
static void a_rank_that_takes_nothing_is_named(void **state)
{
	struct fake_net *f = fake_net_new(3, 1);
	struct net *sender = fake_net_of(f, 2);
	struct route *r = NULL;
	struct net_req req = {0};
	uint64_t size = 4;

	(void)state;
	fake_net_hold(f, 0, 1, FAKE_NET_ANY);
	assert_int_equal(route_new(0, 3, &r), 0);
	assert_int_equal(net_send(sender, 0, TAG_ROUTE, &size, sizeof(size), &req), 0);
	test_job_may_give_up(true);
	assert_int_equal(courier_forward(fake_net_of(f, 0), r, 50, "the records"), FTMEM_ETIMEOUT);
	test_job_may_give_up(false);
	assert_non_null(strstr(error_msg(), "the records: no answer from rank 1 "));
	assert_true(fake_net_of(f, 0)->broken);
	assert_true(fake_net_of(f, 0)->lingering);
	assert_int_equal(net_wait(sender, &req, clock_deadline(LONG_MS), "the test"), 0);
	route_free(r);
	fake_net_free(f);
}

static void what_is_held_on_the_way_back_names_its_sender(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct route *r[2] = {NULL};
	const uint8_t *out;
	uint64_t bytes;

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(route_new(i, 2, &r[i]), 0);
		assert_int_equal(route_out(r[i], 0, &out, &bytes), 0);
		assert_int_equal(route_in(r[i], 0, (const uint8_t[4]){0}, 4), 0);
	}
	test_job_may_give_up(true);
	assert_int_equal(courier_back(fake_net_of(f, 0), r[0], 5, "the answers"), FTMEM_ETIMEOUT);
	test_job_may_give_up(false);
	assert_non_null(strstr(error_msg(), "the answers: no answer from rank 1 "));
	assert_true(fake_net_of(f, 0)->broken);
	assert_true(fake_net_of(f, 0)->lingering);
	route_free(r[0]);
	route_free(r[1]);
	fake_net_free(f);
}

/* Whoever fails must not go on: the others would take its messages for others. */
static void a_network_that_fails_is_told_and_broken(void **state)
{
	struct fake_net *f = fake_net_new(3, 1);
	struct agent agent[3];

	(void)state;
	fake_net_break(f, 1);
	run_all(f, agent, 3,
	        (struct agent){
			.timeout_ms = LONG_MS, .bytes = 90, .fails = true, .break_others = true});
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(agent[i].rc, FTMEM_ENET);
		assert_true(agent[i].net->broken);
	}
	fake_net_free(f);
}

static void a_message_cut_short_is_refused(void **state)
{
	(void)state;
	for (uint32_t n = 1; n <= 2; n++) {
		struct fake_net *f = fake_net_new(2, n);
		struct agent agent[2];

		fake_net_cut(f, 0, 1, TAG_ROUTE, n);
		run_all(f, agent, 2,
		        (struct agent){.timeout_ms = LONG_MS,
		                       .bytes = 90,
		                       .fails = true,
		                       .break_others = true});
		assert_int_equal(agent[1].rc, FTMEM_ENET);
		assert_true(agent[1].net->broken);
		fake_net_free(f);
	}
}

/* Takes its part by hand and sends what is no message of a route. */
static void *send_nonsense(void *arg)
{
	struct net *net = arg;
	struct net_req req[4] = {0};
	uint64_t size = 3, got;
	uint8_t rest[4];
	int rc = 0;

	rc |= net_recv(net, 0, TAG_ROUTE, &got, sizeof(got), &req[0]);
	rc |= net_recv(net, 0, TAG_ROUTE, rest, sizeof(rest), &req[1]);
	rc |= net_send(net, 0, TAG_ROUTE, &size, sizeof(size), &req[2]);
	rc |= net_send(net, 0, TAG_ROUTE, "bad", 3, &req[3]);
	for (uint32_t i = 0; i < 4; i++)
		rc |= net_wait(net, &req[i], clock_deadline(LONG_MS), "the test");
	return rc == 0 ? arg : NULL;
}

static void a_message_without_sense_is_refused(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct net *net = fake_net_of(f, 0);
	struct route *r = NULL;
	void *done = NULL;
	pthread_t thread;

	(void)state;
	assert_int_equal(route_new(0, 2, &r), 0);
	assert_int_equal(pthread_create(&thread, NULL, send_nonsense, fake_net_of(f, 1)), 0);
	assert_int_equal(courier_forward(net, r, LONG_MS, "the records"), FTMEM_ENET);
	assert_non_null(strstr(error_msg(), "rank 1"));
	assert_true(net->broken);
	assert_false(net->lingering);
	pthread_join(thread, &done);
	assert_non_null(done);
	route_free(r);
	fake_net_free(f);
}

static void nothing_is_sent_on_a_broken_network(void **state)
{
	struct fake_net *f = fake_net_new(2, 1);
	struct route *r = NULL;

	(void)state;
	assert_int_equal(route_new(0, 2, &r), 0);
	fake_net_of(f, 0)->broken = true;
	assert_int_equal(courier_forward(fake_net_of(f, 0), r, 5, "the records"), FTMEM_ENET);
	assert_int_equal(courier_back(fake_net_of(f, 0), r, 5, "the answers"), FTMEM_ENET);
	assert_int_equal(fake_net_messages(f), 0);
	route_free(r);
	fake_net_free(f);
}

static void every_failed_allocation_is_told_and_breaks_the_network(void **state)
{
	uint32_t told = 0;
	bool failed = true;

	(void)state;
	for (unsigned n = 1; failed; n++) {
		struct fake_net *f = fake_net_new(3, n);
		struct agent agent[3];

		alloc_fail_at(n);
		run_all(f, agent, 3,
		        (struct agent){.timeout_ms = LONG_MS,
		                       .bytes = 90,
		                       .fails = true,
		                       .break_others = true});
		alloc_fail_off();
		failed = alloc_fail_count() >= n;
		for (uint32_t i = 0; i < 3; i++) {
			assert_true(agent[i].rc == 0 || agent[i].rc == FTMEM_ENOMEM
			            || agent[i].rc == FTMEM_ENET);
			told += agent[i].rc == FTMEM_ENOMEM;
			assert_true(agent[i].rc != 0 || agent[i].good);
			assert_true(failed || agent[i].rc == 0);
		}
		fake_net_free(f);
	}
	assert_true(told > 3 * 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_and_answers_arrive_on_any_number_of_ranks),
		cmocka_unit_test(long_messages_go_in_pieces),
		cmocka_unit_test(several_trips_follow_one_another),
		cmocka_unit_test(a_silent_rank_is_named_by_the_next_and_all_end),
		cmocka_unit_test(a_rank_that_takes_nothing_is_named),
		cmocka_unit_test(what_is_held_on_the_way_back_names_its_sender),
		cmocka_unit_test(a_network_that_fails_is_told_and_broken),
		cmocka_unit_test(a_message_cut_short_is_refused),
		cmocka_unit_test(a_message_without_sense_is_refused),
		cmocka_unit_test(nothing_is_sent_on_a_broken_network),
		cmocka_unit_test(every_failed_allocation_is_told_and_breaks_the_network),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
