/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Versions that cannot begin at once: the slot is in use and waited for, or the copy does
 * not begin. One progress thread for each rank; nothing depends on how fast a thread is.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "clock.h"
#include "engine_cluster.h"
#include "error.h"
#include "progress.h"

/* Never met but by what never comes. */
#define LONG_MS 60000
#define VERSIONS 200

/* The SMP is not what is tested here. */
void __wrap_keeper_watch(struct keeper *k, uint64_t now_ns);
void __wrap_keeper_watch(struct keeper *k, uint64_t now_ns)
{
	(void)k;
	(void)now_ns;
}

struct trainer {
	struct progress *p;
	_Atomic uint32_t retired;
	_Atomic bool hold; /* in retire() */
};

struct world {
	struct engine_cluster c;
	struct trainer t[TEST_JOB_RANKS];
	uint32_t ranks;
};

static void retire(void *arg)
{
	struct trainer *t = arg;

	atomic_fetch_add(&t->retired, 1);
	while (atomic_load(&t->hold))
		clock_sleep(100000);
}

static void start(struct world *w, uint32_t rank, uint32_t timeout_ms, bool wait_busy)
{
	const struct commit_slot empty[2] = {0};
	struct engine_rank *r = &w->c.rank[rank];
	const struct progress_config config = {
		.net = r->net,
		.copy_ops = engine_copy(),
		.copy = r->copy,
		.log = &r->log,
		.timeout_ms = timeout_ms,
		.wait_busy = wait_busy,
		.retire = retire,
		.retire_arg = &w->t[rank],
	};

	assert_int_equal(progress_new(&config, &w->t[rank].p), 0);
	progress_set_epoch(w->t[rank].p, r->epoch, empty, 3);
	assert_int_equal(progress_start(w->t[rank].p), 0);
}

static void set_up(struct world *w, uint32_t nodes, uint32_t timeout_ms, bool wait_busy)
{
	struct test_job_spec spec = {.nodes = nodes, .parity = 1,
	                             .data_bytes = {20000, 9000, 33333}};

	memset(w, 0, sizeof(*w));
	engine_cluster_init(&w->c, &spec, 11);
	w->ranks = w->c.ranks;
	for (uint32_t i = 0; i < w->ranks; i++)
		start(w, i, timeout_ms, wait_busy);
}

static void tear_down(struct world *w)
{
	for (uint32_t i = 0; i < w->ranks; i++)
		progress_free(w->t[i].p);
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

static void assert_waits(struct world *w, uint64_t version, int result)
{
	for (uint32_t i = 0; i < w->ranks; i++)
		if (progress_wait(w->t[i].p, version, later()) != result)
			fail_msg("rank %u, version %u: %s", i, (unsigned)version, error_msg());
}

static void assert_stored(struct world *w, uint64_t version)
{
	for (uint32_t i = 0; i < w->ranks; i++) {
		assert_int_equal(engine_state(&w->c, i, version), SLOT_COMMITTED);
		assert_true(engine_protected(&w->c, i, version));
	}
}

static struct progress_stats stats_of(struct world *w, uint32_t rank)
{
	struct progress_stats s;

	progress_read(w->t[rank].p, &s);
	return s;
}

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

/* --- waiting for the slot --- */

/* While a call waits for the slot this happens on another thread. */
struct meanwhile {
	struct world *w;
	pthread_t thread;
	void (*then)(struct world *w);
};

static void *wait_for_waiter(void *arg)
{
	struct meanwhile *m = arg;
	uint64_t deadline = later();

	while (stats_of(m->w, 0).waited == 0 && clock_ns() < deadline)
		clock_sleep(100000);
	m->then(m->w);
	return NULL;
}

static void meanwhile(struct meanwhile *m, struct world *w, void (*then)(struct world *w))
{
	*m = (struct meanwhile){.w = w, .then = then};
	assert_int_equal(pthread_create(&m->thread, NULL, wait_for_waiter, m), 0);
}

static void let_go(struct world *w)
{
	atomic_store(&w->t[0].hold, false);
}

/* The version is committed, but the engine is still the thread's. */
static void hold_slot(struct world *w, uint64_t version)
{
	uint64_t deadline = later();

	atomic_store(&w->t[0].hold, true);
	assert_int_equal(call(w, 0, version), 0);
	while (atomic_load(&w->t[0].retired) == 0 && clock_ns() < deadline)
		clock_sleep(100000);
	assert_int_equal(atomic_load(&w->t[0].retired), 1);
}

static void a_busy_slot_is_waited_for_where_that_is_asked_for(void **state)
{
	struct progress_stats s;
	struct meanwhile m;
	struct world w;

	(void)state;
	set_up(&w, 1, LONG_MS, true);
	hold_slot(&w, 1);
	meanwhile(&m, &w, let_go);
	assert_int_equal(call(&w, 0, 2), 0);
	pthread_join(m.thread, NULL);
	assert_waits(&w, 1, 0);
	assert_waits(&w, 2, 0);
	assert_stored(&w, 2);
	s = stats_of(&w, 0);
	assert_int_equal(s.waited, 1);
	assert_true(s.wait_s > 0 && s.call_s >= s.wait_s);
	assert_int_equal(s.skipped + s.dropped, 0);
	/* Nobody waits for a slot that is free. */
	assert_int_equal(call(&w, 0, 3), 0);
	assert_waits(&w, 3, 0);
	assert_int_equal(stats_of(&w, 0).waited, 1);
	tear_down(&w);
}

static void a_slot_is_waited_for_until_the_deadline(void **state)
{
	struct progress_stats s;
	struct world w;

	(void)state;
	set_up(&w, 2, 1, true);
	assert_int_equal(call(&w, 0, 5), 0);
	await_waiting(&w, 0, 5, "rank 1");
	assert_int_equal(call(&w, 0, 6), FTMEM_BUSY);
	assert_non_null(strstr(error_msg(), "rank 1"));
	/* What is wrong is told at once. */
	assert_int_equal(call(&w, 0, 6), FTMEM_EINVAL);
	s = stats_of(&w, 0);
	assert_int_equal(s.waited, 1);
	assert_int_equal(s.skipped, 1);
	assert_int_equal(call(&w, 1, 5), 0);
	assert_waits(&w, 5, 0);
	assert_int_equal(call(&w, 1, 6), 0);
	assert_waits(&w, 6, FTMEM_DROPPED);
	tear_down(&w);
}

static void break_network(struct world *w)
{
	fake_net_break(w->c.net, 0);
}

static void give_up(struct world *w)
{
	progress_abandon(w->t[0].p, "the test gives up");
}

/* The other rank never comes. */
static void who_waits_for_the_slot_hears_of_the_end_at_once(void **state)
{
	void (*const ends[])(struct world *) = {break_network, give_up};
	struct meanwhile m;
	struct world w;

	(void)state;
	for (int i = 0; i < 2; i++) {
		set_up(&w, 2, LONG_MS, true);
		assert_int_equal(call(&w, 0, 5), 0);
		meanwhile(&m, &w, ends[i]);
		assert_int_equal(call(&w, 0, 6), FTMEM_ENET);
		assert_non_null(strstr(error_msg(), i ? "the test gives up" : "is broken"));
		pthread_join(m.thread, NULL);
		assert_int_equal(call(&w, 0, 7), FTMEM_ENET);
		tear_down(&w);
	}
}

/* Neither where that is asked for nor for the peer that never comes. */
static void a_version_that_is_skipped_waits_for_no_slot(void **state)
{
	struct progress_stats s;
	struct world w;

	(void)state;
	set_up(&w, 2, LONG_MS, true);
	assert_int_equal(call(&w, 0, 5), 0);
	assert_int_equal(progress_skip(w.t[0].p, 6), 0);
	assert_int_equal(progress_skip(w.t[0].p, 6), FTMEM_EINVAL);
	s = stats_of(&w, 0);
	assert_int_equal(s.waited, 0);
	assert_int_equal(s.skipped, 1);
	assert_int_equal(call(&w, 1, 5), 0);
	assert_waits(&w, 5, 0);
	assert_int_equal(call(&w, 1, 6), 0);
	assert_waits(&w, 6, FTMEM_DROPPED);
	assert_stored(&w, 5);
	fake_net_break(w.c.net, 0);
	assert_int_equal(call(&w, 0, 7), 0);
	assert_int_equal(progress_wait(w.t[0].p, 7, later()), FTMEM_ENET);
	assert_int_equal(progress_skip(w.t[0].p, 8), FTMEM_ENET);
	tear_down(&w);
}

struct steps {
	struct world *w;
	uint32_t rank;
	int rc;
};

static void *take_steps(void *arg)
{
	struct steps *s = arg;

	for (uint64_t version = 0; s->rc == 0 && version < VERSIONS; version++)
		s->rc = progress_snapshot(s->w->t[s->rank].p, version, NULL);
	return NULL;
}

/* The engine goes from hand to hand as fast as it can. */
static void trainers_that_wait_store_every_version(void **state)
{
	struct steps steps[3];
	pthread_t thread[3];
	struct world w;

	(void)state;
	set_up(&w, 3, LONG_MS, true);
	for (uint32_t i = 0; i < 3; i++)
		engine_fill_regions(&w.c.rank[i], VERSIONS - 1);
	for (uint32_t i = 0; i < 3; i++) {
		steps[i] = (struct steps){&w, i, 0};
		assert_int_equal(pthread_create(&thread[i], NULL, take_steps, &steps[i]), 0);
	}
	for (uint32_t i = 0; i < 3; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(steps[i].rc, 0);
	}
	assert_waits(&w, VERSIONS - 1, 0);
	assert_stored(&w, VERSIONS - 1);
	for (uint32_t i = 0; i < 3; i++) {
		struct progress_stats s = stats_of(&w, i);

		assert_int_equal(s.committed, VERSIONS);
		assert_int_equal(s.skipped + s.dropped, 0);
	}
	tear_down(&w);
}

/* --- copies that do not begin --- */

static uint32_t count(const char *text, const char *what)
{
	uint32_t found = 0;

	for (; (text = strstr(text, what)); text++)
		found++;
	return found;
}

/* As a stream that is captured for many steps. */
static void a_copy_that_never_begins_is_warned_of_once(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 2, LONG_MS, false);
	for (uint64_t version = 1; version < 6; version++) {
		engine_copy_fail_begin(w.c.rank[1].copy);
		assert_int_equal(call(&w, 0, version), 0);
		assert_int_equal(call(&w, 1, version), FTMEM_DROPPED);
		assert_string_equal(error_msg(), "the test wants no copy to begin");
		assert_waits(&w, version, FTMEM_DROPPED);
	}
	assert_int_equal(count(w.c.rank[1].lines, "is dropped: the test wants no copy"), 1);
	assert_int_equal(count(w.c.rank[0].lines, "is dropped"), 0);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(call(&w, i, 6), 0);
	assert_waits(&w, 6, 0);
	assert_stored(&w, 6);
	tear_down(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_busy_slot_is_waited_for_where_that_is_asked_for),
		cmocka_unit_test(a_slot_is_waited_for_until_the_deadline),
		cmocka_unit_test(who_waits_for_the_slot_hears_of_the_end_at_once),
		cmocka_unit_test(a_version_that_is_skipped_waits_for_no_slot),
		cmocka_unit_test(trainers_that_wait_store_every_version),
		cmocka_unit_test(a_copy_that_never_begins_is_warned_of_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
