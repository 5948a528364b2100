/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One progress thread for each rank; the test's thread is the trainer of all of them.
 * Nothing here depends on how fast a thread is.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "clock.h"
#include "engine_cluster.h"
#include "error.h"
#include "progress.h"

/* Never met but by what never comes. */
#define LONG_MS 60000
#define INCARNATION 3
/* Versions that may wait, see progress.c. */
#define QUEUE 1024

/* The SMP is not what is tested here. */
static _Atomic uint32_t watched;
void __wrap_keeper_watch(struct keeper *k, uint64_t now_ns);
void __wrap_keeper_watch(struct keeper *k, uint64_t now_ns)
{
	(void)k;
	(void)now_ns;
	atomic_fetch_add(&watched, 1);
}

static bool fail_threads;
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*main)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*main)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*main)(void *), void *arg)
{
	return fail_threads ? EAGAIN : __real_pthread_create(t, a, main, arg);
}

struct trainer {
	struct progress *p;
	_Atomic uint32_t retired, pinned, blocked;
	_Atomic bool hold;         /* in retire() */
	struct progress_stats at_retire;
};

struct world {
	struct engine_cluster c;
	struct trainer t[TEST_JOB_RANKS];
	uint32_t ranks;
};

static void pin(void *arg)
{
	struct trainer *t = arg;
	sigset_t set;

	atomic_fetch_add(&t->pinned, 1);
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	if (sigismember(&set, SIGUSR1) && sigismember(&set, SIGTERM))
		atomic_fetch_add(&t->blocked, 1);
}

static void retire(void *arg)
{
	struct trainer *t = arg;

	progress_read(t->p, &t->at_retire);
	atomic_fetch_add(&t->retired, 1);
	while (atomic_load(&t->hold))
		clock_sleep(100000);
}

static struct progress_config config_of(struct world *w, uint32_t rank)
{
	struct engine_rank *r = &w->c.rank[rank];

	return (struct progress_config){
		.net = r->net,
		.copy_ops = engine_copy(),
		.copy = r->copy,
		.log = &r->log,
		.timeout_ms = LONG_MS,
		.pin = pin,
		.pin_arg = &w->t[rank],
		.retire = retire,
		.retire_arg = &w->t[rank],
	};
}

static void enter(struct world *w, uint32_t rank)
{
	const struct commit_slot empty[2] = {0};

	progress_set_epoch(w->t[rank].p, w->c.rank[rank].epoch, empty, INCARNATION);
	assert_int_equal(progress_start(w->t[rank].p), 0);
}

static void set_up(struct world *w, uint32_t nodes, uint32_t timeout_ms)
{
	struct test_job_spec spec = {.nodes = nodes, .parity = 1,
	                             .data_bytes = {20000, 9000, 33333, 1}};

	memset(w, 0, sizeof(*w));
	engine_cluster_init(&w->c, &spec, 11);
	w->ranks = w->c.ranks;
	for (uint32_t i = 0; i < w->ranks; i++) {
		struct progress_config config = config_of(w, i);

		if (timeout_ms > 0)
			config.timeout_ms = timeout_ms;
		assert_int_equal(progress_new(&config, &w->t[i].p), 0);
		enter(w, i);
	}
}

/* progress_free() keeps what a vote may still write to. */
static void end(struct world *w, uint32_t rank, bool vote_under_way)
{
	struct progress *p = w->t[rank].p;

	if (vote_under_way)
		test_job_given_up(p);
	progress_free(p);
	w->t[rank].p = NULL;
}

static void tear_down(struct world *w)
{
	for (uint32_t i = 0; i < w->ranks; i++)
		end(w, i, false);
	engine_cluster_deinit(&w->c);
}

static uint64_t later(void)
{
	return clock_deadline(LONG_MS);
}

static int call(struct world *w, uint32_t rank, uint64_t version)
{
	/* Regions may change only while nothing reads them. */
	if (!engine_copy_under_way(w->c.rank[rank].copy))
		engine_fill_regions(&w->c.rank[rank], version);
	return progress_snapshot(w->t[rank].p, version, NULL);
}

static void call_all(struct world *w, uint64_t version, int result)
{
	for (uint32_t i = 0; i < w->ranks; i++)
		assert_int_equal(call(w, i, version), result);
}

static void assert_waits(struct world *w, uint64_t version, int result)
{
	for (uint32_t i = 0; i < w->ranks; i++)
		if (progress_wait(w->t[i].p, version, later()) != result)
			fail_msg("rank %u, version %u: %s", i, (unsigned)version, error_msg());
}

static void assert_stored(struct world *w, uint64_t version)
{
	for (uint32_t i = 0; i < w->ranks; i++) {
		struct progress_stats s;

		progress_read(w->t[i].p, &s);
		assert_true(s.stored);
		assert_int_equal(s.newest, version);
		assert_int_equal(engine_state(&w->c, i, version), SLOT_COMMITTED);
		assert_true(engine_protected(&w->c, i, version));
	}
}

/* --- what goes well --- */

static void versions_are_stored_in_call_order(void **state)
{
	struct world w;

	(void)state;
	for (uint32_t nodes = 1; nodes <= 4; nodes++) {
		set_up(&w, nodes, 0);
		for (uint64_t version = 0; version < 20; version += 3) {
			call_all(&w, version, 0);
			assert_waits(&w, version, 0);
			assert_stored(&w, version);
		}
		for (uint32_t i = 0; i < w.ranks; i++) {
			struct progress_stats s;

			progress_read(w.t[i].p, &s);
			assert_int_equal(s.committed, 7);
			assert_int_equal(s.dropped + s.skipped, 0);
			assert_true(s.protect_s >= s.copy_s && s.copy_s > 0 && s.call_s > 0);
			/* The first commit, before anybody learns of it. */
			assert_int_equal(atomic_load(&w.t[i].retired), 1);
			assert_false(w.t[i].at_retire.stored);
		}
		tear_down(&w);
	}
}

static void the_copy_threads_of_the_host_will_do(void **state)
{
	const struct copy_config copy = {.threads = 2};
	struct copy *host[3];
	struct world w;

	(void)state;
	set_up(&w, 3, 0);
	for (uint32_t i = 0; i < 3; i++) {
		struct progress_config config = config_of(&w, i);

		end(&w, i, false);
		assert_int_equal(copy_host()->open(&copy, &host[i]), 0);
		config.copy_ops = copy_host();
		config.copy = host[i];
		assert_int_equal(progress_new(&config, &w.t[i].p), 0);
		enter(&w, i);
	}
	for (uint64_t version = 1; version < 30; version++) {
		for (uint32_t i = 0; i < 3; i++) {
			engine_fill_regions(&w.c.rank[i], version);
			assert_int_equal(progress_snapshot(w.t[i].p, version, NULL), 0);
		}
		for (uint32_t i = 0; i < 3; i++)
			assert_int_equal(copy_host()->fence(host[i], NULL, later()), 0);
		assert_waits(&w, version, 0);
		assert_stored(&w, version);
	}
	for (uint32_t i = 0; i < 3; i++) {
		end(&w, i, false);
		copy_host()->close(host[i]);
	}
	tear_down(&w);
}

static void the_thread_is_pinned_and_leaves_signals_to_the_trainer(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 1, 0);
	call_all(&w, 1, 0);
	assert_waits(&w, 1, 0);
	assert_int_equal(atomic_load(&w.t[0].pinned), 1);
	assert_int_equal(atomic_load(&w.t[0].blocked), 1);
	tear_down(&w);
}

/* --- busy --- */

/* Every call leads to one vote, in call order, though ranks are versions apart. */
static void a_busy_slot_skips_the_version_on_all_ranks(void **state)
{
	struct progress_stats s;
	struct world w;

	(void)state;
	set_up(&w, 2, 0);
	assert_int_equal(call(&w, 0, 1), 0);
	for (uint64_t version = 2; version < 100; version++)
		assert_int_equal(call(&w, 0, version), FTMEM_BUSY);
	progress_read(w.t[0].p, &s);
	assert_int_equal(s.skipped, 98);
	/* The other rank is free for each of them, but not alone in its opinion. */
	for (uint64_t version = 1; version < 100; version++) {
		assert_int_equal(call(&w, 1, version), 0);
		assert_int_equal(progress_wait(w.t[1].p, version, later()),
		                 version == 1 ? 0 : FTMEM_DROPPED);
	}
	assert_int_equal(progress_wait(w.t[0].p, 99, later()), FTMEM_DROPPED);
	assert_non_null(strstr(error_msg(), "of this rank"));
	assert_stored(&w, 1);
	progress_read(w.t[1].p, &s);
	assert_int_equal(s.dropped, 98);
	assert_int_equal(s.committed, 1);
	call_all(&w, 100, 0);
	assert_waits(&w, 100, 0);
	assert_stored(&w, 100);
	tear_down(&w);
}

/* Committed, but not yet known to be: the engine is still the thread's. */
static void a_version_that_is_not_resolved_keeps_the_slot_busy(void **state)
{
	uint64_t deadline = later();
	struct world w;

	(void)state;
	set_up(&w, 1, 0);
	atomic_store(&w.t[0].hold, true);
	call_all(&w, 1, 0);
	while (atomic_load(&w.t[0].retired) == 0 && clock_ns() < deadline)
		clock_sleep(100000);
	assert_int_equal(engine_state(&w.c, 0, 1), SLOT_COMMITTED);
	assert_int_equal(progress_wait(w.t[0].p, 1, 0), FTMEM_ETIMEOUT);
	assert_int_equal(call(&w, 0, 2), FTMEM_BUSY);
	atomic_store(&w.t[0].hold, false);
	assert_waits(&w, 1, 0);
	assert_waits(&w, 2, FTMEM_DROPPED);
	call_all(&w, 3, 0);
	assert_waits(&w, 3, 0);
	tear_down(&w);
}

static void a_copy_that_does_not_begin_is_dropped_and_told(void **state)
{
	struct progress_stats s;
	struct world w;

	(void)state;
	set_up(&w, 2, 0);
	engine_copy_fail_begin(w.c.rank[1].copy);
	assert_int_equal(call(&w, 0, 4), 0);
	assert_int_equal(call(&w, 1, 4), FTMEM_DROPPED);
	assert_string_equal(error_msg(), "the test wants no copy to begin");
	assert_waits(&w, 4, FTMEM_DROPPED);
	assert_int_equal(progress_wait(w.t[1].p, 4, later()), FTMEM_DROPPED);
	assert_non_null(strstr(error_msg(), "the test wants no copy"));
	for (uint32_t i = 0; i < 2; i++) {
		progress_read(w.t[i].p, &s);
		assert_int_equal(s.dropped, 1);
		assert_int_equal(s.skipped, 0);
	}
	call_all(&w, 5, 0);
	assert_waits(&w, 5, 0);
	tear_down(&w);
}

/* --- wrong calls --- */

static void versions_must_grow(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 1, 0);
	assert_int_equal(call(&w, 0, FTMEM_VERSION_MAX), FTMEM_EINVAL);
	call_all(&w, 7, 0);
	assert_waits(&w, 7, 0);
	assert_int_equal(call(&w, 0, 7), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "8"));
	assert_int_equal(call(&w, 0, 0), FTMEM_EINVAL);
	assert_int_equal(progress_wait(w.t[0].p, 6, later()), FTMEM_EINVAL);
	assert_int_equal(progress_wait(w.t[0].p, 8, later()), FTMEM_EINVAL);
	call_all(&w, FTMEM_VERSION_MAX - 1, 0);
	assert_waits(&w, FTMEM_VERSION_MAX - 1, 0);
	assert_int_equal(call(&w, 0, FTMEM_VERSION_MAX), FTMEM_EINVAL);
	tear_down(&w);
}

static void what_happened_before_a_restore_is_forgotten(void **state)
{
	struct world w;
	struct progress_stats s;

	(void)state;
	set_up(&w, 1, 0);
	for (uint64_t version = 1; version < 4; version++) {
		call_all(&w, version, 0);
		assert_waits(&w, version, 0);
	}
	assert_int_equal(progress_stop(w.t[0].p, later()), 0);
	progress_note_restored(w.t[0].p, 2);
	assert_int_equal(progress_wait(w.t[0].p, 2, 0), 0);
	assert_int_equal(progress_wait(w.t[0].p, 3, 0), FTMEM_EINVAL);
	assert_int_equal(call(&w, 0, 2), FTMEM_EINVAL);
	progress_read(w.t[0].p, &s);
	assert_int_equal(s.newest, 2);
	progress_note_forgotten(w.t[0].p);
	progress_read(w.t[0].p, &s);
	assert_false(s.stored);
	assert_int_equal(progress_wait(w.t[0].p, 2, 0), FTMEM_EINVAL);
	enter(&w, 0);
	call_all(&w, 1, 0);
	assert_waits(&w, 1, 0);
	tear_down(&w);
}

static void what_slots_hold_is_the_newest(void **state)
{
	const struct commit_slot slots[2] = {{SLOT_COMMITTED, {2, 41}}, {SLOT_COMMITTED, {1, 90}}};
	struct progress_stats s;
	struct world w;

	(void)state;
	set_up(&w, 1, 0);
	assert_int_equal(progress_stop(w.t[0].p, later()), 0);
	progress_set_epoch(w.t[0].p, w.c.rank[0].epoch, slots, INCARNATION);
	progress_read(w.t[0].p, &s);
	assert_true(s.stored);
	assert_int_equal(s.newest, 41);
	tear_down(&w);
}

/* --- waiting --- */

/* Until the thread says that the version waits for that rank. */
static void await_waiting(struct world *w, uint32_t rank, uint64_t version, const char *whom)
{
	uint64_t deadline = later();
	bool named = false;

	while (!named && clock_ns() < deadline) {
		assert_int_equal(progress_wait(w->t[rank].p, version, clock_deadline(20)),
		                 FTMEM_ETIMEOUT);
		named = strstr(error_msg(), whom);
	}
	assert_true(named);
}

static void who_waits_learns_for_whom(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 3, 1);
	assert_int_equal(call(&w, 0, 5), 0);
	assert_int_equal(call(&w, 2, 5), 0);
	await_waiting(&w, 0, 5, "rank 1");
	assert_int_equal(progress_stop(w.t[0].p, clock_deadline(1)), FTMEM_ETIMEOUT);
	assert_non_null(strstr(error_msg(), "rank 1"));
	assert_int_equal(call(&w, 1, 5), 0);
	assert_waits(&w, 5, 0);
	assert_int_equal(progress_stop(w.t[0].p, later()), 0);
	/* And the user was told once. */
	assert_non_null(strstr(w.c.rank[0].lines, "still waiting"));
	assert_non_null(strstr(w.c.rank[0].lines, "rank 1"));
	tear_down(&w);
}

static void a_wait_of_no_time_tells_how_it_is(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 2, 0);
	assert_int_equal(call(&w, 0, 5), 0);
	assert_int_equal(progress_wait(w.t[0].p, 5, 0), FTMEM_ETIMEOUT);
	assert_int_equal(call(&w, 1, 5), 0);
	assert_waits(&w, 5, 0);
	assert_int_equal(progress_wait(w.t[0].p, 5, 0), 0);
	tear_down(&w);
}

static void an_idle_thread_looks_after_its_smp(void **state)
{
	uint64_t deadline = later();
	struct world w;

	(void)state;
	set_up(&w, 1, 0);
	atomic_store(&watched, 0);
	while (atomic_load(&watched) == 0 && clock_ns() < deadline)
		clock_sleep(1000000);
	assert_true(atomic_load(&watched) > 0);
	tear_down(&w);
}

/* --- stopping --- */

static void stopping_drains_what_was_asked_for(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 2, 0);
	for (int round = 0; round < 20; round++) {
		uint64_t version = 10 * (uint64_t)round;

		call_all(&w, version, 0);
		for (uint32_t i = 0; i < 2; i++)
			assert_int_equal(progress_stop(w.t[i].p, later()), 0);
		assert_stored(&w, version);
		assert_int_equal(progress_stop(w.t[0].p, 0), 0);
		for (uint32_t i = 0; i < 2; i++) {
			assert_int_equal(progress_start(w.t[i].p), 0);
			assert_int_equal(progress_start(w.t[i].p), 0);
		}
	}
	tear_down(&w);
}

static void what_is_asked_for_while_stopped_waits_for_the_start(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 2, 0);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(progress_stop(w.t[i].p, later()), 0);
	call_all(&w, 3, 0);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(progress_start(w.t[i].p), 0);
	assert_waits(&w, 3, 0);
	assert_stored(&w, 3);
	tear_down(&w);
}

static void a_stop_whose_deadline_passed_leaves_the_thread_at_work(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 2, 0);
	assert_int_equal(call(&w, 0, 3), 0);
	assert_int_equal(progress_stop(w.t[0].p, clock_deadline(1)), FTMEM_ETIMEOUT);
	assert_int_equal(call(&w, 1, 3), 0);
	assert_waits(&w, 3, 0);
	assert_stored(&w, 3);
	tear_down(&w);
}

/* --- a network that fails --- */

static void a_broken_network_ends_snapshots_and_tells_why(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 2, 0);
	call_all(&w, 1, 0);
	assert_waits(&w, 1, 0);
	fake_net_break(w.c.net, 0);
	assert_int_equal(call(&w, 0, 2), 0);
	assert_int_equal(progress_wait(w.t[0].p, 2, later()), FTMEM_ENET);
	assert_non_null(strstr(error_msg(), "the network of rank 0 is broken"));
	assert_true(w.c.rank[0].net->broken);
	assert_int_equal(call(&w, 0, 3), FTMEM_ENET);
	assert_int_equal(progress_check(w.t[0].p), FTMEM_ENET);
	assert_int_equal(progress_check(w.t[1].p), 0);
	assert_non_null(strstr(w.c.rank[0].lines, "no further version"));
	/* What was stored still is, and is known. */
	assert_int_equal(progress_wait(w.t[0].p, 1, later()), 0);
	assert_true(engine_protected(&w.c, 0, 1));
	assert_int_equal(progress_stop(w.t[0].p, later()), 0);
	assert_int_equal(progress_start(w.t[0].p), 0);
	assert_int_equal(call(&w, 0, 4), FTMEM_ENET);
	tear_down(&w);
}

/* Votes would meet the collective steps of other ranks, and theirs would meet votes. */
static void nothing_is_voted_on_a_network_that_a_collective_step_broke(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 2, 0);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(progress_stop(w.t[i].p, later()), 0);
	w.c.rank[0].net->broken = true;
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(progress_start(w.t[i].p), 0);
	assert_int_equal(call(&w, 0, 3), FTMEM_ENET);
	assert_int_equal(progress_check(w.t[0].p), FTMEM_ENET);
	assert_int_equal(engine_state(&w.c, 0, 3), SLOT_EMPTY);
	tear_down(&w);
}

/* Peers are gone: the trainer goes on calling, until no call is taken any more; then it
 * still can stop. */
static void a_full_queue_is_the_end_and_can_be_stopped(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 2, 0);
	assert_int_equal(call(&w, 0, 0), 0);
	await_waiting(&w, 0, 0, "rank 1");
	for (uint64_t version = 1; version < QUEUE; version++)
		assert_int_equal(call(&w, 0, version), FTMEM_BUSY);
	assert_int_equal(call(&w, 0, QUEUE), FTMEM_ENET);
	assert_int_equal(progress_wait(w.t[0].p, 5, later()), FTMEM_ENET);
	assert_int_equal(progress_stop(w.t[0].p, later()), 0);
	assert_int_equal(progress_check(w.t[0].p), FTMEM_ENET);
	assert_int_equal(progress_start(w.t[0].p), 0);
	assert_int_equal(call(&w, 0, QUEUE + 1), FTMEM_ENET);
	assert_int_equal(progress_stop(w.t[0].p, later()), 0);
	tear_down(&w);
}

/* --- giving up --- */

/* In the exchange, with a copy under way, and in the vote. */
static void what_is_given_up_touches_nothing_that_was_freed(void **state)
{
	struct world w;

	(void)state;
	for (int stage = 0; stage < 3; stage++) {
		uint64_t deadline = later();

		set_up(&w, 2, 0);
		if (stage == 1)
			engine_copy_hold(w.c.rank[0].copy, true);
		if (stage == 2)
			fake_net_hold_collectives(w.c.net);
		assert_int_equal(call(&w, 0, 3), 0);
		if (stage > 0)
			assert_int_equal(call(&w, 1, 3), 0);
		if (stage == 1)
			await_waiting(&w, 1, 3, "rank 0");
		while (stage == 2 && clock_ns() < deadline &&
		       (fake_net_joined(w.c.net, 0) == 0 || fake_net_joined(w.c.net, 1) == 0))
			clock_sleep(100000);
		end(&w, 0, stage == 2);
		/* The other one finds the memory of the first in place. */
		fake_net_release(w.c.net);
		if (stage == 2) {
			assert_int_equal(progress_wait(w.t[1].p, 3, later()), 0);
			assert_int_equal(engine_state(&w.c, 0, 3), SLOT_PREPARED);
		}
		end(&w, 1, false);
		tear_down(&w);
	}
}

static void there_is_little_to_start(void **state)
{
	struct progress_config config;
	struct progress *p = NULL;
	struct world w;

	(void)state;
	set_up(&w, 1, 0);
	config = config_of(&w, 0);
	alloc_fail_at(1);
	assert_int_equal(progress_new(&config, &p), FTMEM_ENOMEM);
	alloc_fail_off();
	assert_null(p);
	assert_int_equal(progress_new(&config, &p), 0);
	assert_int_equal(progress_stop(p, 0), 0);
	fail_threads = true;
	assert_int_equal(progress_start(p), FTMEM_ESYS);
	fail_threads = false;
	assert_int_equal(progress_stop(p, 0), 0);
	progress_free(p);
	progress_free(NULL);
	tear_down(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(versions_are_stored_in_call_order),
		cmocka_unit_test(the_copy_threads_of_the_host_will_do),
		cmocka_unit_test(the_thread_is_pinned_and_leaves_signals_to_the_trainer),
		cmocka_unit_test(a_busy_slot_skips_the_version_on_all_ranks),
		cmocka_unit_test(a_version_that_is_not_resolved_keeps_the_slot_busy),
		cmocka_unit_test(a_copy_that_does_not_begin_is_dropped_and_told),
		cmocka_unit_test(versions_must_grow),
		cmocka_unit_test(what_happened_before_a_restore_is_forgotten),
		cmocka_unit_test(what_slots_hold_is_the_newest),
		cmocka_unit_test(who_waits_learns_for_whom),
		cmocka_unit_test(a_wait_of_no_time_tells_how_it_is),
		cmocka_unit_test(an_idle_thread_looks_after_its_smp),
		cmocka_unit_test(stopping_drains_what_was_asked_for),
		cmocka_unit_test(what_is_asked_for_while_stopped_waits_for_the_start),
		cmocka_unit_test(a_stop_whose_deadline_passed_leaves_the_thread_at_work),
		cmocka_unit_test(a_broken_network_ends_snapshots_and_tells_why),
		cmocka_unit_test(nothing_is_voted_on_a_network_that_a_collective_step_broke),
		cmocka_unit_test(a_full_queue_is_the_end_and_can_be_stopped),
		cmocka_unit_test(what_is_given_up_touches_nothing_that_was_freed),
		cmocka_unit_test(there_is_little_to_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
