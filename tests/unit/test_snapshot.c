/* SPDX-License-Identifier: BSD-3-Clause */
/* The engines of all ranks, stepped on one thread in an order that a seed says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "clock.h"
#include "engine_cluster.h"
#include "error.h"
#include "snapshot.h"
#include "tags.h"
#include "test_random.h"

#define PATIENCE 1000000u
#define INCARNATION 7u

static const struct test_job_spec one = {.nodes = 1, .data_bytes = {10000}};
static const struct test_job_spec two = {.nodes = 2, .parity = 1, .data_bytes = {30000, 9}};
static const struct test_job_spec three = {.nodes = 3, .parity = 2, .data_bytes = {0, 9000, 50000}};
/* Rank 0 is in both rails. */
static const struct test_job_spec lending = {
	.nodes = 2, .parity = 1, .ranks_on = {1, 2}, .data_bytes = {30000, 5000, 70000},
};
static const struct test_job_spec four = {
	.nodes = 4, .parity = 1, .data_bytes = {20000, 9000, 33333, 1},
};
static const struct test_job_spec *const specs[] = {&one, &two, &three, &lending, &four};

#define SPECS (sizeof(specs) / sizeof(specs[0]))

struct world {
	struct engine_cluster c;
	struct snapshot engine[TEST_JOB_RANKS];
	uint64_t random;
};

static void set_up(struct world *w, const struct test_job_spec *spec, uint64_t seed)
{
	const struct commit_slot empty[2] = {0};

	memset(w, 0, sizeof(*w));
	w->random = seed;
	engine_cluster_init(&w->c, spec, seed);
	fake_net_set_chance(w->c.net, 30 + test_random_below(&w->random, 71));
	for (uint32_t i = 0; i < w->c.ranks; i++) {
		struct engine_rank *r = &w->c.rank[i];
		struct snapshot *s = &w->engine[i];

		s->net = r->net;
		s->copy_ops = engine_copy();
		s->copy = r->copy;
		s->epoch = r->epoch;
		s->log = &r->log;
		snapshot_init(s, empty, INCARNATION);
	}
}

static void tear_down(struct world *w)
{
	engine_cluster_deinit(&w->c);
}

/* As progress.c does: the trainer's call, then the start. */
static bool call(struct world *w, uint32_t rank, uint64_t version)
{
	engine_fill_regions(&w->c.rank[rank], version);
	return snapshot_call(&w->engine[rank], version, false, NULL);
}

static void start(struct world *w, uint32_t rank, uint64_t version, bool go)
{
	snapshot_start(&w->engine[rank], version, go, false, clock_ns());
}

static void take(struct world *w, uint64_t version)
{
	for (uint32_t i = 0; i < w->c.ranks; i++)
		start(w, i, version, call(w, i, version));
}

static bool over(const struct world *w)
{
	for (uint32_t i = 0; i < w->c.ranks; i++)
		if (!snapshot_over(&w->engine[i]))
			return false;
	return true;
}

static void step(struct world *w)
{
	assert_true(snapshot_step(&w->engine[test_random_below(&w->random, w->c.ranks)]) >= 0);
}

static void finish(struct world *w)
{
	for (uint32_t i = 0; i < PATIENCE && !over(w); i++)
		step(w);
	assert_true(over(w));
	assert_int_equal(fake_net_under_way(w->c.net), 0);
	assert_int_equal(fake_net_unreceived(w->c.net), 0);
}

static void step_all(struct world *w, uint32_t times)
{
	for (uint32_t i = 0; i < times; i++)
		step(w);
}

static void assert_states(const struct world *w, uint64_t version, enum slot_state state)
{
	for (uint32_t i = 0; i < w->c.ranks; i++)
		assert_int_equal(engine_state(&w->c, i, version), state);
}

static void assert_committed(const struct world *w, uint64_t version)
{
	assert_states(w, version, SLOT_COMMITTED);
	for (uint32_t i = 0; i < w->c.ranks; i++) {
		const struct snapshot *s = &w->engine[i];
		struct stamp stamp;
		bool damaged;

		assert_true(s->committed);
		assert_true(engine_protected(&w->c, i, version));
		slot_read(engine_slot(&w->c, i, version), &stamp, &damaged);
		assert_int_equal(stamp.version, version);
		assert_int_equal(stamp.incarnation, INCARNATION);
		assert_true(s->over_ns >= s->copied_ns && s->copied_ns >= s->called_ns);
	}
}

static void assert_dropped(const struct world *w, uint64_t version)
{
	for (uint32_t i = 0; i < w->c.ranks; i++)
		assert_false(w->engine[i].committed);
	assert_states(w, version, SLOT_EMPTY);
}

/* --- what goes well --- */

static void versions_are_committed_one_after_the_other(void **state)
{
	uint64_t seed = test_random_seed("snapshot");

	(void)state;
	for (uint32_t i = 0; i < SPECS; i++) {
		struct world w;

		set_up(&w, specs[i], seed++);
		for (uint64_t version = 3; version < 40; version += 5) {
			take(&w, version);
			finish(&w);
			assert_committed(&w, version);
			for (uint32_t r = 0; r < w.c.ranks; r++)
				assert_int_equal(w.engine[r].retire, version == 3);
			if (version > 3)
				assert_states(&w, version - 5, SLOT_COMMITTED);
			if (version > 8)
				assert_null(engine_slot(&w.c, 0, version - 10));
		}
		tear_down(&w);
	}
}

static void slots_say_at_each_stage_what_they_hold(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, &two, 3);
	assert_states(&w, 5, SLOT_EMPTY);
	assert_true(call(&w, 0, 5));
	assert_int_equal(engine_state(&w.c, 0, 5), SLOT_FILLING);
	assert_false(commit_can_fill(&w.engine[0].commit));
	start(&w, 0, 5, true);
	fake_net_hold_collectives(w.c.net);
	start(&w, 1, 5, call(&w, 1, 5));
	fake_net_hold(w.c.net, 0, 1, FAKE_NET_ANY);
	step_all(&w, 2000);
	assert_states(&w, 5, SLOT_FILLING);
	fake_net_release(w.c.net);
	fake_net_hold_collectives(w.c.net);
	step_all(&w, 2000);
	assert_states(&w, 5, SLOT_PREPARED);
	assert_true(engine_protected(&w.c, 0, 5));
	assert_true(engine_protected(&w.c, 1, 5));
	fake_net_release(w.c.net);
	finish(&w);
	assert_committed(&w, 5);
	assert_true(commit_can_fill(&w.engine[0].commit));
	tear_down(&w);
}

/* Nobody is prepared before its copy has landed and all peers' blocks are there. */
static void a_copy_that_takes_its_time_is_waited_for(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, &four, 4);
	engine_copy_hold(w.c.rank[2].copy, true);
	take(&w, 5);
	step_all(&w, 4000);
	assert_states(&w, 5, SLOT_FILLING);
	engine_copy_hold(w.c.rank[2].copy, false);
	finish(&w);
	assert_committed(&w, 5);
	tear_down(&w);
}

static void the_former_version_stays_until_the_next_is_committed(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, &four, 4);
	take(&w, 5);
	finish(&w);
	take(&w, 6);
	for (uint32_t i = 0; i < PATIENCE && !over(&w); i++) {
		step(&w);
		assert_states(&w, 5, SLOT_COMMITTED);
	}
	assert_true(over(&w));
	tear_down(&w);
}

/* --- what is dropped --- */

static void one_that_skips_drops_the_version_for_all(void **state)
{
	uint64_t seed = test_random_seed("snapshot");

	(void)state;
	for (uint32_t i = 1; i < SPECS; i++)
		for (uint32_t who = 0; who < 2; who++) {
			struct world w;

			set_up(&w, specs[i], seed++);
			take(&w, 5);
			finish(&w);
			for (uint32_t r = 0; r < w.c.ranks; r++)
				start(&w, r, 6, r != who && call(&w, r, 6));
			finish(&w);
			assert_dropped(&w, 6);
			assert_states(&w, 5, SLOT_COMMITTED);
			take(&w, 7);
			finish(&w);
			assert_committed(&w, 7);
			tear_down(&w);
		}
}

/* The copy is of no more use once a member of the own rail skips. */
static void a_skip_cancels_the_copies_of_its_group(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, &four, 6);
	for (uint32_t r = 0; r < 4; r++)
		engine_copy_hold(w.c.rank[r].copy, true);
	for (uint32_t r = 0; r < 4; r++)
		start(&w, r, 6, r != 3 && call(&w, r, 6));
	finish(&w);
	assert_dropped(&w, 6);
	for (uint32_t r = 0; r < 3; r++) {
		assert_true(engine_copy_cancelled(w.c.rank[r].copy));
		assert_string_not_equal(w.engine[r].reason, "");
	}
	tear_down(&w);
}

/* Its slot and marks are written until then. */
static void a_version_is_not_over_before_its_copy_rests(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, &two, 6);
	engine_copy_stick(w.c.rank[0].copy, true);
	start(&w, 0, 6, call(&w, 0, 6));
	start(&w, 1, 6, false);
	step_all(&w, 2000);
	assert_true(engine_copy_cancelled(w.c.rank[0].copy));
	assert_true(engine_copy_under_way(w.c.rank[0].copy));
	assert_int_equal(engine_state(&w.c, 0, 6), SLOT_FILLING);
	assert_int_equal(fake_net_joined(w.c.net, 0), 0);
	engine_copy_stick(w.c.rank[0].copy, false);
	finish(&w);
	assert_dropped(&w, 6);
	tear_down(&w);
}

static void all_may_skip(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, &lending, 6);
	for (uint32_t r = 0; r < 3; r++)
		start(&w, r, 6, false);
	finish(&w);
	assert_dropped(&w, 6);
	take(&w, 7);
	finish(&w);
	assert_committed(&w, 7);
	tear_down(&w);
}

static void a_failed_copy_drops_the_version_for_all(void **state)
{
	uint64_t seed = test_random_seed("snapshot");

	(void)state;
	for (uint32_t i = 0; i < SPECS; i++)
		for (uint32_t block = 1; block < 5; block++) {
			struct world w;
			uint32_t who = (uint32_t)(seed % specs[i]->nodes);

			set_up(&w, specs[i], seed++);
			if (w.c.rank[who].epoch->plan->blocks < block) {
				tear_down(&w);
				continue;
			}
			engine_copy_fail_block(w.c.rank[who].copy, block);
			take(&w, 6);
			finish(&w);
			assert_dropped(&w, 6);
			assert_string_not_equal(w.engine[who].reason, "");
			take(&w, 7);
			finish(&w);
			assert_committed(&w, 7);
			tear_down(&w);
		}
}

static void a_failed_copy_says_why(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, &three, 6);
	engine_copy_tell(w.c.rank[1].copy, "the test freed the memory");
	take(&w, 6);
	finish(&w);
	assert_committed(&w, 6);
	assert_string_equal(w.engine[1].reason, "");
	engine_copy_fail_block(w.c.rank[1].copy, 1);
	take(&w, 7);
	finish(&w);
	assert_dropped(&w, 7);
	assert_string_equal(w.engine[1].reason, "the test freed the memory");
	engine_copy_tell(w.c.rank[1].copy, "");
	engine_copy_fail_block(w.c.rank[1].copy, 1);
	take(&w, 8);
	finish(&w);
	assert_dropped(&w, 8);
	assert_string_equal(w.engine[1].reason, "a copy or a block of its group failed");
	tear_down(&w);
}

static void a_copy_that_does_not_begin_is_a_skip_with_a_reason(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, &three, 6);
	engine_copy_fail_begin(w.c.rank[1].copy);
	for (uint32_t r = 0; r < 3; r++) {
		bool go = call(&w, r, 6);

		assert_int_equal(go, r != 1);
		start(&w, r, 6, go);
	}
	assert_int_equal(engine_state(&w.c, 1, 6), SLOT_EMPTY);
	finish(&w);
	assert_dropped(&w, 6);
	assert_non_null(strstr(w.engine[1].reason, "the test wants no copy"));
	take(&w, 7);
	finish(&w);
	assert_committed(&w, 7);
	tear_down(&w);
}

static void a_damaged_block_drops_the_version_for_all(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, &four, 6);
	fake_net_corrupt(w.c.net, 0, 1, tag_rail(0, TAG_BLOCK), 1);
	take(&w, 6);
	finish(&w);
	assert_true(fake_net_corrupted(w.c.net));
	assert_dropped(&w, 6);
	take(&w, 7);
	finish(&w);
	assert_committed(&w, 7);
	tear_down(&w);
}

/* In one group, and in two rails that do not speak of it to each other. */
static void different_versions_at_once_are_dropped(void **state)
{
	struct world w;

	(void)state;
	for (int i = 0; i < 2; i++) {
		set_up(&w, i ? &lending : &four, 6);
		for (uint32_t r = 0; r < w.c.ranks; r++)
			start(&w, r, r == 1 ? 7 : 6, call(&w, r, r == 1 ? 7 : 6));
		finish(&w);
		assert_dropped(&w, 6);
		assert_dropped(&w, 7);
		assert_non_null(strstr(w.c.rank[1].lines, "all must pass the same"));
		take(&w, 8);
		finish(&w);
		assert_committed(&w, 8);
		tear_down(&w);
	}
}

/* Two jobs of one node each that were one: only the vote sees it. */
static void the_vote_alone_finds_different_versions(void **state)
{
	const struct test_job_spec spec = {
		.nodes = 1, .ranks_on = {3}, .data_bytes = {900, 900, 900}};
	struct world w;

	(void)state;
	set_up(&w, &spec, 6);
	for (uint32_t r = 0; r < 3; r++)
		start(&w, r, 6 + r, call(&w, r, 6 + r));
	finish(&w);
	for (uint64_t version = 6; version < 9; version++)
		assert_dropped(&w, version);
	tear_down(&w);
}

/* --- what must never be --- */

/* A slot that holds a committed version is not written because a call was refused. */
static void a_refused_call_touches_nothing(void **state)
{
	struct commit_slot slots[2] = {{SLOT_COMMITTED, {INCARNATION, 5}}, {SLOT_EMPTY, {0, 0}}};
	struct world w;

	(void)state;
	set_up(&w, &two, 6);
	take(&w, 5);
	finish(&w);
	/* Stored by a later run than this one: what comes now must not shadow it. */
	slots[0].stamp.incarnation = INCARNATION + 1;
	for (uint32_t r = 0; r < 2; r++)
		snapshot_init(&w.engine[r], slots, INCARNATION);
	for (uint32_t r = 0; r < 2; r++) {
		bool go = call(&w, r, 6);

		assert_false(go);
		assert_string_not_equal(w.engine[r].reason, "");
		assert_false(engine_copy_under_way(w.c.rank[r].copy));
		start(&w, r, 6, go);
	}
	finish(&w);
	for (uint32_t r = 0; r < 2; r++) {
		assert_false(w.engine[r].committed);
		assert_int_equal(engine_state(&w.c, r, 5), SLOT_COMMITTED);
		assert_true(engine_protected(&w.c, r, 5));
	}
	tear_down(&w);
}

static void who_voted_stays_prepared_when_the_network_fails(void **state)
{
	struct world w;
	int rc = 0;

	(void)state;
	set_up(&w, &two, 6);
	fake_net_hold_collectives(w.c.net);
	take(&w, 6);
	step_all(&w, 3000);
	assert_states(&w, 6, SLOT_PREPARED);
	fake_net_break(w.c.net, 0);
	for (int i = 0; i < 10 && rc == 0; i++)
		rc = snapshot_step(&w.engine[0]);
	assert_int_equal(rc, FTMEM_ENET);
	assert_false(snapshot_over(&w.engine[0]));
	assert_states(&w, 6, SLOT_PREPARED);
	tear_down(&w);
}

static void a_network_that_fails_during_the_exchange_is_an_error(void **state)
{
	uint64_t seed = test_random_seed("snapshot");

	(void)state;
	for (uint32_t after = 0; after < 120; after += 9) {
		struct world w;
		int rc = 0;

		set_up(&w, &four, seed++);
		fake_net_hold_collectives(w.c.net);
		take(&w, 6);
		step_all(&w, after);
		fake_net_break(w.c.net, 2);
		for (int i = 0; i < 20000 && rc >= 0; i++) {
			step_all(&w, 0);
			rc = snapshot_step(&w.engine[2]);
		}
		assert_int_equal(rc, FTMEM_ENET);
		assert_int_equal(engine_state(&w.c, 2, 6) == SLOT_COMMITTED, 0);
		tear_down(&w);
	}
}

/* --- whom it waits for --- */

static void it_says_for_whom_it_waits(void **state)
{
	char text[128];
	struct world w;

	(void)state;
	set_up(&w, &four, 6);
	snapshot_describe(&w.engine[0], text, sizeof(text));
	assert_string_equal(text, "nothing");
	fake_net_set_chance(w.c.net, 100);
	for (uint32_t r = 0; r < 3; r++)
		start(&w, r, 6, call(&w, r, 6));
	for (uint32_t i = 0; i < 3000; i++)
		assert_true(snapshot_step(&w.engine[i % 3]) >= 0);
	for (uint32_t r = 0; r < 3; r++) {
		snapshot_describe(&w.engine[r], text, sizeof(text));
		assert_string_equal(text, "version 6, for rank 3");
	}
	fake_net_hold_collectives(w.c.net);
	start(&w, 3, 6, call(&w, 3, 6));
	step_all(&w, 4000);
	snapshot_describe(&w.engine[0], text, sizeof(text));
	assert_string_equal(text, "version 6, for the votes of all ranks");
	fake_net_release(w.c.net);
	finish(&w);
	tear_down(&w);
	set_up(&w, &one, 6);
	engine_copy_hold(w.c.rank[0].copy, true);
	take(&w, 6);
	step_all(&w, 10);
	snapshot_describe(&w.engine[0], text, sizeof(text));
	assert_string_equal(text, "version 6, for its own copy");
	engine_copy_hold(w.c.rank[0].copy, false);
	finish(&w);
	tear_down(&w);
}

/* --- at random --- */

/* Skips, failures and versions that differ, in any order: either all commit what all
 * took, or none does, and what was committed last is still there. */
static void whatever_happens_all_ranks_agree(void **state)
{
	uint64_t seed = test_random_seed("snapshot");

	(void)state;
	for (uint32_t run = 0; run < 12; run++) {
		uint64_t last = 0;
		struct world w;

		set_up(&w, specs[run % SPECS], seed++);
		for (uint64_t version = 2; version < 100; version += 2) {
			bool good = true;

			for (uint32_t r = 0; r < w.c.ranks; r++) {
				uint32_t fate = test_random_below(&w.random, 12 * w.c.ranks);
				uint64_t mine = version + (fate == 3 && r > 0);

				if (fate == 1)
					engine_copy_fail_begin(w.c.rank[r].copy);
				if (fate == 2 && w.c.rank[r].epoch->plan->blocks > 0)
					engine_copy_fail_block(w.c.rank[r].copy, 1);
				good = good
				       && (fate > 3
				           || (fate == 2 && w.c.rank[r].epoch->plan->blocks == 0)
				           || (fate == 3 && r == 0));
				start(&w, r, mine, fate > 0 && call(&w, r, mine));
			}
			finish(&w);
			if (good) {
				assert_committed(&w, version);
				last = version;
				continue;
			}
			for (uint32_t r = 0; r < w.c.ranks; r++) {
				assert_false(w.engine[r].committed);
				if (last > 0)
					assert_true(engine_protected(&w.c, r, last));
			}
		}
		assert_true(last > 0);
		tear_down(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(versions_are_committed_one_after_the_other),
		cmocka_unit_test(slots_say_at_each_stage_what_they_hold),
		cmocka_unit_test(a_copy_that_takes_its_time_is_waited_for),
		cmocka_unit_test(the_former_version_stays_until_the_next_is_committed),
		cmocka_unit_test(one_that_skips_drops_the_version_for_all),
		cmocka_unit_test(a_skip_cancels_the_copies_of_its_group),
		cmocka_unit_test(a_version_is_not_over_before_its_copy_rests),
		cmocka_unit_test(all_may_skip),
		cmocka_unit_test(a_failed_copy_drops_the_version_for_all),
		cmocka_unit_test(a_failed_copy_says_why),
		cmocka_unit_test(a_copy_that_does_not_begin_is_a_skip_with_a_reason),
		cmocka_unit_test(a_damaged_block_drops_the_version_for_all),
		cmocka_unit_test(different_versions_at_once_are_dropped),
		cmocka_unit_test(the_vote_alone_finds_different_versions),
		cmocka_unit_test(a_refused_call_touches_nothing),
		cmocka_unit_test(who_voted_stays_prepared_when_the_network_fails),
		cmocka_unit_test(a_network_that_fails_during_the_exchange_is_an_error),
		cmocka_unit_test(it_says_for_whom_it_waits),
		cmocka_unit_test(whatever_happens_all_ranks_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
