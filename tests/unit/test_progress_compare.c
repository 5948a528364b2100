/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What comes of a version whose replicas differ, from the comparison to the message of
 * who waits for it. Each rank holds the one cell; progress threads as in test_progress.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "clock.h"
#include "engine_cluster.h"
#include "error.h"
#include "progress.h"
#include "route.h"

/* Never met but by what never comes. */
#define LONG_MS 60000
#define RANKS   3u

/* The SMP is not what is tested here. */
void __wrap_keeper_watch(struct keeper *k, uint64_t now_ns);
void __wrap_keeper_watch(struct keeper *k, uint64_t now_ns)
{
	(void)k;
	(void)now_ns;
}

/* The rank that has no memory for a route. */
static _Atomic uint32_t without = RANKS;
int __real_route_new(uint32_t rank, uint32_t ranks, struct route **out);
int __wrap_route_new(uint32_t rank, uint32_t ranks, struct route **out);
int __wrap_route_new(uint32_t rank, uint32_t ranks, struct route **out)
{
	return rank == atomic_load(&without) ? error_set(FTMEM_ENOMEM, "the test wants no route")
	                                     : __real_route_new(rank, ranks, out);
}

struct replica {
	struct layout layout;
	struct region region;
	struct share_cell cell;
	uint32_t element;
	struct progress *p;
};

struct world {
	struct engine_cluster c;
	struct replica replica[RANKS];
	char name[FTMEM_REGION_NAME_MAX + 1];
	struct box box;
};

static void retire(void *arg)
{
	(void)arg;
}

static void share(struct world *w, uint32_t rank)
{
	struct replica *r = &w->replica[rank];

	r->region = (struct region){
		.name = w->name,
		.addr = &r->element,
		.bytes = sizeof(r->element),
		.elem_bytes = sizeof(r->element),
		.box = w->box,
		.device = DEVICE_HOST,
	};
	r->layout = (struct layout){.region = &r->region, .regions = 1};
	r->cell.cell = (struct match_cell){.box = w->box, .holders = RANKS, .ordinal = rank};
	assert_int_equal(compare_new(&r->layout, &r->cell, 1, &w->c.rank[rank].epoch->compare), 0);
}

static void start(struct world *w, uint32_t rank)
{
	const struct commit_slot empty[2] = {0};
	struct engine_rank *r = &w->c.rank[rank];
	const struct progress_config config = {
		.net = r->net,
		.copy_ops = engine_copy(),
		.copy = r->copy,
		.log = &r->log,
		.timeout_ms = LONG_MS,
		.compare_every = 1,
		.retire = retire,
	};

	assert_int_equal(progress_new(&config, &w->replica[rank].p), 0);
	progress_set_epoch(w->replica[rank].p, r->epoch, empty, 3);
	assert_int_equal(progress_start(w->replica[rank].p), 0);
}

/* The longest name, the longest box. */
static void set_up(struct world *w)
{
	struct test_job_spec spec = {.nodes = RANKS, .parity = 1, .data_bytes = {9000, 100, 1}};

	memset(w, 0, sizeof(*w));
	engine_cluster_init(&w->c, &spec, 11);
	memset(w->name, 'n', sizeof(w->name) - 1);
	w->box.ndim = FTMEM_MAX_DIMS;
	for (uint32_t d = 0; d < FTMEM_MAX_DIMS; d++) {
		w->box.start[d] = UINT64_C(18000000000000000000) + d;
		w->box.extent[d] = 1;
	}
	for (uint32_t i = 0; i < RANKS; i++) {
		share(w, i);
		start(w, i);
	}
}

static void tear_down(struct world *w)
{
	for (uint32_t i = 0; i < RANKS; i++)
		progress_free(w->replica[i].p);
	engine_cluster_deinit(&w->c);
}

static void take(struct world *w, uint64_t version, int result)
{
	for (uint32_t i = 0; i < RANKS; i++) {
		engine_fill_regions(&w->c.rank[i], version);
		assert_int_equal(progress_snapshot(w->replica[i].p, version, NULL), 0);
	}
	for (uint32_t i = 0; i < RANKS; i++)
		if (progress_wait(w->replica[i].p, version, clock_deadline(LONG_MS)) != result)
			fail_msg("rank %u, version %u: %s", i, (unsigned)version, error_msg());
}

/* All ranks say why. */
static void assert_dropped(struct world *w, uint64_t version, const char *why)
{
	char want[ERROR_MSG_MAX];

	snprintf(want, sizeof(want), "version %u was dropped: %s", (unsigned)version, why);
	for (uint32_t i = 0; i < RANKS; i++) {
		assert_int_equal(progress_wait(w->replica[i].p, version, 0), FTMEM_DROPPED);
		assert_string_equal(error_msg(), want);
		assert_int_equal(engine_state(&w->c, i, version), SLOT_EMPTY);
	}
	snprintf(want, sizeof(want), "version %u is dropped, its replicas differ: %s",
	         (unsigned)version, why);
	assert_non_null(strstr(w->c.rank[0].lines, want));
}

static void assert_compared(struct world *w, uint64_t compared, uint64_t differing)
{
	for (uint32_t i = 0; i < RANKS; i++) {
		struct progress_stats s;

		progress_read(w->replica[i].p, &s);
		assert_int_equal(s.compared, compared);
		assert_int_equal(s.differing, differing);
		assert_int_equal(s.dropped, differing);
	}
}

static void the_longest_name_and_box_are_told_whole(void **state)
{
	char box[BOX_TEXT], want[ERROR_MSG_MAX];
	struct world w;

	(void)state;
	set_up(&w);
	take(&w, 1, 0);
	w.replica[2].element++;
	take(&w, 2, FTMEM_DROPPED);
	snprintf(want, sizeof(want), "rank 2 differs from 2 others: tensor %s, box %s", w.name,
	         box_text(&w.box, box));
	assert_dropped(&w, 2, want);
	assert_compared(&w, 2, 1);
	w.replica[2].element--;
	take(&w, 3, 0);
	assert_compared(&w, 3, 1);
	tear_down(&w);
}

static void no_memory_to_find_out_drops_that_version_and_no_other(void **state)
{
	struct world w;

	(void)state;
	set_up(&w);
	take(&w, 1, 0);
	w.replica[2].element++;
	atomic_store(&without, 1);
	take(&w, 2, FTMEM_DROPPED);
	atomic_store(&without, RANKS);
	assert_dropped(&w, 2, "where its replicas differ could not be found out: rank 1 has no "
	                      "memory for it");
	assert_compared(&w, 2, 1);
	for (uint32_t i = 0; i < RANKS; i++) {
		assert_int_equal(progress_check(w.replica[i].p), 0);
		assert_false(w.c.rank[i].net->broken);
	}
	w.replica[2].element--;
	take(&w, 3, 0);
	assert_compared(&w, 3, 1);
	tear_down(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_longest_name_and_box_are_told_whole),
		cmocka_unit_test(no_memory_to_find_out_drops_that_version_and_no_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
