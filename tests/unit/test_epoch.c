/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "engine_cluster.h"
#include "tags.h"

/* aligned_alloc() is made to fail like the others, as allocation 0. */
static bool fail_aligned;
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	return fail_aligned ? NULL : __real_aligned_alloc(align, bytes);
}

/* A rank alone on its node is in both rails. */
static const struct test_job_spec lending = {
	.nodes = 2, .parity = 1, .ranks_on = {1, 2}, .data_bytes = {30000, 5000, 70000},
};

static unsigned open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static void an_epoch_has_all_that_a_snapshot_needs(void **state)
{
	struct engine_cluster c;

	(void)state;
	engine_cluster_init(&c, &lending, 1);
	for (uint32_t i = 0; i < c.ranks; i++) {
		const struct epoch *e = c.rank[i].epoch;
		uint64_t staging = 0;

		assert_int_equal(e->number, 1);
		assert_int_equal(e->geometry, e->arena->header->geometry);
		assert_int_equal(e->arena->shape.rails, i == 0 ? 2 : 1);
		assert_ptr_equal(epoch_rail(e), &e->arena->rails[0]);
		assert_int_equal(epoch_rail(e)->rank[epoch_member(e)], i);
		assert_int_equal(e->plan->blocks, rail_data_blocks(epoch_rail(e), epoch_member(e)));
		for (uint32_t b = 0; b < e->plan->blocks; b++)
			assert_int_equal(atomic_load(&e->landed[b]), COPY_PENDING);
		for (uint32_t x = 0; x < e->arena->shape.rails; x++)
			staging += stripe_staging_bytes(e->stripe[x]);
		assert_int_equal(epoch_staging_bytes(e), staging);
		assert_true(staging > 0);
	}
	engine_cluster_deinit(&c);
}

static void own_checksums_are_those_of_the_own_data(void **state)
{
	struct engine_cluster c;

	(void)state;
	engine_cluster_init(&c, &lending, 1);
	for (uint32_t i = 0; i < c.ranks; i++) {
		const struct epoch *e = c.rank[i].epoch;

		for (int s = 0; s < 2; s++) {
			const struct slot *slot = &e->arena->slot[s];
			uint64_t at =
				slot_data_sum_index(&e->arena->shape, 0, epoch_member(e), 0, 0);

			assert_ptr_equal(epoch_own_sums(e, slot), slot->sums + at);
		}
	}
	engine_cluster_deinit(&c);
}

static void a_rank_without_regions_has_an_epoch(void **state)
{
	const struct test_job_spec spec = {.nodes = 3, .parity = 1, .data_bytes = {0, 9000, 0}};
	struct engine_cluster c;

	(void)state;
	engine_cluster_init(&c, &spec, 1);
	assert_int_equal(c.rank[0].epoch->plan->blocks, 0);
	assert_int_equal(c.rank[1].epoch->plan->blocks > 0, 1);
	engine_cluster_deinit(&c);
}

static struct epoch_config config_of(const struct engine_cluster *c)
{
	return (struct epoch_config){
		.net = c->rank[0].net,
		.copy_ops = engine_copy(),
		.copy = c->rank[0].copy,
		.window = 2,
	};
}

static void assert_new_fails(const struct epoch_config *config, struct epoch_parts parts, int rc)
{
	struct epoch *e = NULL;

	assert_int_equal(epoch_new(config, &parts, &e), rc);
	assert_null(e);
}

/* The parts are taken on error, too. */
static void a_failed_allocation_leaves_nothing(void **state)
{
	struct engine_cluster c;
	struct epoch_config config;
	struct epoch *e = NULL;
	unsigned fds, n;
	int rc = FTMEM_ENOMEM;

	(void)state;
	engine_cluster_init(&c, &lending, 1);
	config = config_of(&c);
	fds = open_fds();
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		struct epoch_parts parts = engine_parts(&c, 0, 0);

		alloc_fail_at(n);
		rc = epoch_new(&config, &parts, &e);
		alloc_fail_off();
		assert_true(rc == 0 || !e);
	}
	assert_int_equal(rc, 0);
	assert_true(n > 10);
	epoch_free(e, false);
	fail_aligned = true;
	assert_new_fails(&config, engine_parts(&c, 0, 0), FTMEM_ENOMEM);
	fail_aligned = false;
	assert_int_equal(open_fds(), fds);
	engine_cluster_deinit(&c);
}

static void what_does_not_fit_is_refused(void **state)
{
	struct engine_cluster c;
	struct epoch_config config;
	unsigned fds;

	(void)state;
	engine_cluster_init(&c, &lending, 1);
	config = config_of(&c);
	fds = open_fds();
	assert_new_fails(&config, engine_parts(&c, 1, 0), FTMEM_EINVAL);
	c.rank[0].net->tag_max = TAG_RAILS;
	assert_new_fails(&config, engine_parts(&c, 0, 0), FTMEM_ENET);
	assert_int_equal(open_fds(), fds);
	epoch_free(NULL, false);
	engine_cluster_deinit(&c);
}

static uint32_t window_of(struct engine_cluster *c, uint32_t window, uint64_t l2_bytes)
{
	struct epoch_config config = config_of(c);
	const struct epoch_parts parts = engine_parts(c, 0, 0);
	struct epoch *e = NULL;
	uint32_t got;

	config.window = window;
	config.l2_bytes = l2_bytes;
	assert_int_equal(epoch_new(&config, &parts, &e), 0);
	got = e->window;
	epoch_free(e, false);
	return got;
}

/* Rank 0 is in two rails of one data member and one parity. */
static void a_window_that_is_not_set_fits_the_cache(void **state)
{
	const uint64_t row = UINT64_C(2) * TEST_JOB_BLOCK;
	struct engine_cluster c;

	(void)state;
	engine_cluster_init(&c, &lending, 1);
	assert_int_equal(window_of(&c, 0, 0), 2);
	assert_int_equal(window_of(&c, 0, 4 * 3 * row), 3);
	assert_int_equal(window_of(&c, 0, 4 * 9 * row), 4);
	assert_int_equal(window_of(&c, 1, 4 * 9 * row), 1);
	engine_cluster_deinit(&c);
}

/* Whether memory is mapped. */
static bool mapped(const void *at)
{
	unsigned char in_core;

	return mincore((void *)(uintptr_t)at, 4096, &in_core) == 0;
}

static void the_arena_stays_mapped_while_a_transfer_is_under_way(void **state)
{
	struct engine_cluster c;

	(void)state;
	for (int way = 0; way < 3; way++) {
		struct copy_job job = {0};
		struct epoch *e;
		struct arena *arena;
		const uint8_t *base;

		engine_cluster_init(&c, &lending, 1);
		e = c.rank[0].epoch;
		arena = e->arena;
		base = arena->base;
		if (way == 1) {
			stripe_begin(e->stripe[0], 1, true, &arena->slot[0], &job);
			assert_true(stripe_step(e->stripe[0]) >= 0);
			assert_true(stripe_busy(e->stripe[0]));
			test_job_given_up(e->stripe[0]);
		}
		test_job_given_up(way ? arena : NULL);
		c.rank[0].epoch = NULL;
		epoch_free(e, way == 2);
		assert_int_equal(mapped(base), way > 0);
		engine_cluster_deinit(&c);
	}
}

/* --- what the copy backend makes of the plan --- */

static const uint8_t *prepared_at;
static uint64_t prepared_bytes;
static bool released_mapped;

static int note_prepare(struct copy *c, struct copy_plan *plan, void *addr, uint64_t bytes)
{
	prepared_at = addr;
	prepared_bytes = bytes;
	return engine_copy()->prepare(c, plan, addr, bytes);
}

static void note_release(struct copy *c, struct copy_plan *plan)
{
	released_mapped = mapped(prepared_at);
	engine_copy()->release(c, plan);
}

static void a_plan_is_released_before_the_arena_is_unmapped(void **state)
{
	struct copy_ops ops = *engine_copy();
	struct engine_cluster c;
	struct epoch_config config;
	struct epoch *e = NULL;

	(void)state;
	engine_cluster_init(&c, &lending, 1);
	ops.prepare = note_prepare;
	ops.release = note_release;
	config = config_of(&c);
	config.copy_ops = &ops;
	for (int linger = 0; linger < 2; linger++) {
		const struct epoch_parts parts = engine_parts(&c, 0, 0);

		assert_int_equal(epoch_new(&config, &parts, &e), 0);
		assert_ptr_equal(prepared_at, parts.arena->base);
		assert_int_equal(prepared_bytes, parts.arena->bytes);
		assert_non_null(e->plan->ready);
		test_job_given_up(linger ? parts.arena : NULL);
		released_mapped = false;
		epoch_free(e, linger);
		assert_true(released_mapped);
		assert_int_equal(mapped(prepared_at), linger);
		assert_int_equal(engine_copy_released(c.rank[0].copy), linger + 1);
	}
	engine_cluster_deinit(&c);
}

static void what_cannot_be_prepared_is_no_epoch(void **state)
{
	struct engine_cluster c;
	struct epoch_config config;
	unsigned fds;

	(void)state;
	engine_cluster_init(&c, &lending, 1);
	config = config_of(&c);
	fds = open_fds();
	engine_copy_fail_prepare(c.rank[0].copy, true);
	assert_new_fails(&config, engine_parts(&c, 0, 0), FTMEM_ENOMEM);
	engine_copy_fail_prepare(c.rank[0].copy, false);
	assert_int_equal(engine_copy_released(c.rank[0].copy), 0);
	assert_int_equal(open_fds(), fds);
	engine_cluster_deinit(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_epoch_has_all_that_a_snapshot_needs),
		cmocka_unit_test(own_checksums_are_those_of_the_own_data),
		cmocka_unit_test(a_rank_without_regions_has_an_epoch),
		cmocka_unit_test(a_failed_allocation_leaves_nothing),
		cmocka_unit_test(what_does_not_fit_is_refused),
		cmocka_unit_test(a_window_that_is_not_set_fits_the_cache),
		cmocka_unit_test(the_arena_stays_mapped_while_a_transfer_is_under_way),
		cmocka_unit_test(a_plan_is_released_before_the_arena_is_unmapped),
		cmocka_unit_test(what_cannot_be_prepared_is_no_epoch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
