/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "recover.h"

#define MAX_ARENAS 64

/* A job under construction. */
struct table {
	struct recover_epoch epoch[4];
	struct recover_arena arena[MAX_ARENAS];
	struct recover_input in;
	struct recover_source source[MAX_ARENAS];
	struct recover_choice choice;
	uint32_t index;
};

static const struct commit_slot empty = {SLOT_EMPTY, {0, 0}};

static struct commit_slot slot(enum slot_state state, uint64_t incarnation, uint64_t version)
{
	return (struct commit_slot){state, {incarnation, version}};
}

static struct map *make_map(uint32_t nodes, uint32_t per_node, uint32_t aim, uint32_t parity)
{
	struct map_rank *rank = calloc(nodes * per_node, sizeof(*rank));
	struct map *m = NULL;

	assert_non_null(rank);
	for (uint32_t r = 0; r < nodes * per_node; r++)
		snprintf(rank[r].node, sizeof(rank[r].node), "n%u", r / per_node);
	assert_int_equal(map_new(rank, nodes * per_node, aim, parity, &m), 0);
	free(rank);
	return m;
}

static void table_init(struct table *t)
{
	memset(t, 0, sizeof(*t));
	t->in.epoch = t->epoch;
	t->in.arena = t->arena;
}

static void table_deinit(struct table *t)
{
	for (uint32_t i = 0; i < t->in.epochs; i++)
		map_free((struct map *)t->epoch[i].map);
}

static const struct map *add_epoch(struct table *t, uint64_t epoch, struct map *map)
{
	t->epoch[t->in.epochs++] = (struct recover_epoch){epoch, map};
	return map;
}

static struct recover_arena *add_arena(struct table *t, uint64_t epoch, uint32_t rank,
                                       struct commit_slot a, struct commit_slot b)
{
	struct recover_arena *arena = &t->arena[t->in.arenas++];

	assert_true(t->in.arenas <= MAX_ARENAS);
	*arena = (struct recover_arena){.epoch = epoch, .rank = rank, .agent = rank};
	arena->slot[0] = a;
	arena->slot[1] = b;
	return arena;
}

/* All ranks of the epoch with these slots, but those in the set lost. */
static void add_all(struct table *t, uint64_t epoch, uint32_t ranks, uint64_t lost,
                    struct commit_slot a, struct commit_slot b)
{
	for (uint32_t r = 0; r < ranks; r++)
		if (!(lost >> r & 1))
			add_arena(t, epoch, r, a, b);
}

static int choose(struct table *t, const struct recover_choice *limit)
{
	return recover_choose(&t->in, limit, &t->choice, &t->index, t->source);
}

static void expect(const struct table *t, uint64_t epoch, uint64_t incarnation, uint64_t version)
{
	assert_int_equal(t->choice.epoch, epoch);
	assert_int_equal(t->choice.stamp.incarnation, incarnation);
	assert_int_equal(t->choice.stamp.version, version);
	assert_int_equal(t->epoch[t->index].epoch, epoch);
}

static void nothing_stored_is_fresh(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	assert_int_equal(choose(&t, NULL), FTMEM_FRESH);
	add_epoch(&t, 1, make_map(4, 1, 8, 1));
	assert_int_equal(choose(&t, NULL), FTMEM_FRESH);
	add_all(&t, 1, 4, 0, empty, slot(SLOT_FILLING, 1, 1));
	assert_int_equal(choose(&t, NULL), FTMEM_FRESH);
	table_deinit(&t);
}

/* Every set of lost nodes of several groups: recoverable if and only if no group lost
 * more than parity covers. */
static void every_set_of_losses_is_judged_by_its_groups(void **state)
{
	(void)state;
	for (uint32_t parity = 1; parity <= 2; parity++) {
		struct map *map = make_map(8, 2, 4, parity);

		assert_int_equal(map->groups, 2);
		for (uint32_t lost = 0; lost < 256; lost++) {
			struct table t;
			uint64_t ranks = 0;
			bool fits = (uint32_t)__builtin_popcount(lost & 15) <= parity
			            && (uint32_t)__builtin_popcount(lost >> 4) <= parity;
			int rc;

			table_init(&t);
			t.epoch[0] = (struct recover_epoch){3, map};
			t.in.epochs = 1;
			for (uint32_t r = 0; r < 16; r++)
				ranks |= (uint64_t)(lost >> r / 2 & 1) << r;
			add_all(&t, 3, 16, ranks, slot(SLOT_COMMITTED, 1, 9),
			        slot(SLOT_COMMITTED, 1, 8));
			rc = choose(&t, NULL);
			if (lost == 255) {
				assert_int_equal(rc, FTMEM_FRESH);
				continue;
			}
			assert_int_equal(rc, fits ? 0 : FTMEM_ELOST);
			expect(&t, 3, 1, 9);
			for (uint32_t r = 0; r < 16; r++) {
				if (ranks >> r & 1) {
					assert_int_equal(t.source[r].arena, -1);
					continue;
				}
				assert_int_equal(t.arena[t.source[r].arena].rank, r);
				assert_int_equal(t.source[r].slot, 0);
			}
		}
		map_free(map);
	}
}

static void ranks_of_one_node_may_each_lose_in_their_own_rail(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(3, 2, 8, 1));
	/* Ranks 0 (rail 0) and 3 (rail 1) are on different nodes: one each. */
	add_all(&t, 1, 6, 1u << 0 | 1u << 3, slot(SLOT_COMMITTED, 1, 1), empty);
	assert_int_equal(choose(&t, NULL), 0);
	t.in.arenas = 0;
	add_all(&t, 1, 6, 1u << 0 | 1u << 2, slot(SLOT_COMMITTED, 1, 1), empty);
	assert_int_equal(choose(&t, NULL), FTMEM_ELOST);
	table_deinit(&t);
}

static void one_node_without_parity_needs_all_its_ranks(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(1, 3, 8, 1));
	add_all(&t, 1, 3, 0, slot(SLOT_COMMITTED, 1, 1), empty);
	assert_int_equal(choose(&t, NULL), 0);
	t.in.arenas = 0;
	add_all(&t, 1, 3, 1u << 1, slot(SLOT_COMMITTED, 1, 1), empty);
	assert_int_equal(choose(&t, NULL), FTMEM_ELOST);
	table_deinit(&t);
}

static void the_newest_recoverable_version_wins(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(4, 1, 8, 1));
	/* Version 5 is prepared on three of four: that suffices. */
	add_all(&t, 1, 3, 0, slot(SLOT_COMMITTED, 1, 4), slot(SLOT_PREPARED, 1, 5));
	add_arena(&t, 1, 3, slot(SLOT_COMMITTED, 1, 4), slot(SLOT_FILLING, 1, 5));
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 1, 1, 5);
	assert_int_equal(t.source[3].arena, -1);
	assert_int_equal(t.source[2].slot, 1);
	/* On two it does not. */
	t.arena[2].slot[1] = empty;
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 1, 1, 4);
	for (int r = 0; r < 4; r++)
		assert_int_equal(t.source[r].arena, r);
	table_deinit(&t);
}

static void versions_of_two_runs_are_never_mixed(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(4, 1, 8, 1));
	/* Version 5 of run 1 on two, of run 2 on two: neither is whole. */
	add_all(&t, 1, 2, 0, slot(SLOT_PREPARED, 1, 5), slot(SLOT_COMMITTED, 1, 4));
	add_arena(&t, 1, 2, slot(SLOT_PREPARED, 2, 5), slot(SLOT_COMMITTED, 1, 4));
	add_arena(&t, 1, 3, slot(SLOT_PREPARED, 2, 5), slot(SLOT_COMMITTED, 1, 4));
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 1, 1, 4);
	/* A later run wins over a larger version. */
	t.in.arenas = 0;
	add_all(&t, 1, 4, 0, slot(SLOT_COMMITTED, 2, 3), slot(SLOT_COMMITTED, 1, 7));
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 1, 2, 3);
	table_deinit(&t);
}

static void epochs_are_weighed_by_stamp_then_number(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 2, make_map(4, 1, 8, 1));
	add_epoch(&t, 1, make_map(2, 2, 8, 1));
	/* The older epoch holds the newer version: the new one's first is not whole. */
	add_all(&t, 1, 4, 0, slot(SLOT_COMMITTED, 1, 6), slot(SLOT_COMMITTED, 1, 5));
	add_all(&t, 2, 2, 0, slot(SLOT_PREPARED, 1, 7), empty);
	add_arena(&t, 2, 2, slot(SLOT_FILLING, 1, 7), empty);
	add_arena(&t, 2, 3, empty, empty);
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 1, 1, 6);
	assert_int_equal(t.index, 1);
	/* The same stamp in both: the newer epoch, if it is whole. */
	for (int i = 4; i < 8; i++)
		t.arena[i].slot[0] = slot(SLOT_PREPARED, 1, 6);
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 2, 1, 6);
	t.arena[4].slot[0] = t.arena[5].slot[0] = empty;
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 1, 1, 6);
	table_deinit(&t);
}

static void unknown_epochs_and_ranks_are_passed_over(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(3, 1, 8, 1));
	add_all(&t, 1, 3, 0, slot(SLOT_COMMITTED, 1, 2), empty);
	add_arena(&t, 9, 0, slot(SLOT_COMMITTED, 5, 50), empty);
	add_arena(&t, 1, 3, slot(SLOT_COMMITTED, 5, 50), empty);
	add_arena(&t, 1, UINT32_MAX, slot(SLOT_COMMITTED, 5, 50), empty);
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 1, 1, 2);
	table_deinit(&t);
}

static void stale_arenas_of_an_earlier_run_do_not_disturb(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(4, 1, 8, 1));
	add_all(&t, 1, 4, 0, slot(SLOT_COMMITTED, 2, 8), slot(SLOT_PREPARED, 2, 9));
	/* A node that was away for long is back with what it had. */
	add_arena(&t, 1, 2, slot(SLOT_COMMITTED, 1, 20), slot(SLOT_PREPARED, 1, 21))->agent = 0;
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 1, 2, 9);
	assert_int_equal(t.source[2].arena, 2);
	table_deinit(&t);
}

static void of_duplicates_the_committed_then_the_lower_agent_wins(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(2, 1, 8, 1));
	add_arena(&t, 1, 0, slot(SLOT_PREPARED, 1, 2), empty)->agent = 0;
	add_arena(&t, 1, 0, slot(SLOT_PREPARED, 1, 1), slot(SLOT_COMMITTED, 1, 2))->agent = 5;
	add_arena(&t, 1, 0, slot(SLOT_COMMITTED, 1, 2), empty)->agent = 3;
	add_arena(&t, 1, 1, slot(SLOT_PREPARED, 1, 2), empty)->agent = 4;
	add_arena(&t, 1, 1, slot(SLOT_PREPARED, 1, 2), empty)->agent = 4;
	assert_int_equal(choose(&t, NULL), 0);
	assert_int_equal(t.source[0].arena, 2);
	assert_int_equal(t.source[1].arena, 3);
	table_deinit(&t);
}

static void damaged_slots_count_as_lost(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(4, 1, 8, 1));
	add_all(&t, 1, 4, 0, slot(SLOT_COMMITTED, 1, 4), slot(SLOT_COMMITTED, 1, 5));
	t.arena[1].slot[1] = empty;
	t.arena[1].unsure = true;
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 1, 1, 5);
	assert_int_equal(t.source[1].arena, -1);
	t.arena[3].slot[1] = empty;
	t.arena[3].unsure = true;
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 1, 1, 4);
	table_deinit(&t);
}

static void a_limit_leads_through_all_candidates(void **state)
{
	struct recover_choice limit;
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(3, 1, 8, 1));
	add_epoch(&t, 2, make_map(3, 1, 8, 1));
	add_all(&t, 1, 3, 0, slot(SLOT_COMMITTED, 1, 3), slot(SLOT_COMMITTED, 1, 4));
	add_all(&t, 2, 3, 0, slot(SLOT_COMMITTED, 1, 4), slot(SLOT_COMMITTED, 2, 1));
	assert_int_equal(choose(&t, NULL), 0);
	expect(&t, 2, 2, 1);
	limit = t.choice;
	assert_int_equal(choose(&t, &limit), 0);
	expect(&t, 2, 1, 4);
	limit = t.choice;
	assert_int_equal(choose(&t, &limit), 0);
	expect(&t, 1, 1, 4);
	limit = t.choice;
	assert_int_equal(choose(&t, &limit), 0);
	expect(&t, 1, 1, 3);
	/* The limit may be the output itself. */
	assert_int_equal(choose(&t, &t.choice), FTMEM_FRESH);
	expect(&t, 1, 1, 3);
	table_deinit(&t);
}

static void a_job_that_never_committed_is_fresh(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(4, 1, 8, 1));
	/* The crash came in the middle of the first snapshot. */
	add_all(&t, 1, 2, 0, slot(SLOT_PREPARED, 1, 1), empty);
	add_arena(&t, 1, 2, slot(SLOT_FILLING, 1, 1), empty);
	add_arena(&t, 1, 3, empty, empty);
	assert_int_equal(choose(&t, NULL), FTMEM_FRESH);
	/* Or of the second, when the first had been dropped. */
	t.arena[2].slot[0] = slot(SLOT_PREPARED, 1, 2);
	t.arena[3].slot[0] = slot(SLOT_PREPARED, 1, 2);
	assert_int_equal(choose(&t, NULL), FTMEM_FRESH);
	/* But who says COMMITTED is believed. */
	t.arena[0].slot[0].state = SLOT_COMMITTED;
	assert_int_equal(choose(&t, NULL), FTMEM_ELOST);
	expect(&t, 1, 1, 1);
	t.arena[0].slot[0].state = SLOT_PREPARED;
	/* And what was damaged or rebuilt may have held it. */
	t.arena[2].unsure = t.arena[3].unsure = true;
	t.arena[2].slot[0] = t.arena[3].slot[0] = empty;
	assert_int_equal(choose(&t, NULL), FTMEM_ELOST);
	table_deinit(&t);
}

static void survivors_that_all_hold_it_are_not_fresh(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(4, 1, 8, 1));
	/* The others may have seen it committed before they were lost. */
	add_all(&t, 1, 2, 0, slot(SLOT_PREPARED, 1, 1), empty);
	assert_int_equal(choose(&t, NULL), FTMEM_ELOST);
	/* One that has committed a newer one does not deny it. */
	t.arena[1].slot[0] = slot(SLOT_COMMITTED, 1, 3);
	assert_int_equal(choose(&t, NULL), FTMEM_ELOST);
	expect(&t, 1, 1, 3);
	table_deinit(&t);
}

static void too_much_lost_names_the_best_that_may_have_been_committed(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(4, 1, 8, 1));
	/* Version 8 was under way; rank 1 did not have it. */
	add_arena(&t, 1, 0, slot(SLOT_COMMITTED, 1, 7), slot(SLOT_PREPARED, 1, 8));
	add_arena(&t, 1, 1, slot(SLOT_COMMITTED, 1, 7), slot(SLOT_FILLING, 1, 8));
	assert_int_equal(choose(&t, NULL), FTMEM_ELOST);
	expect(&t, 1, 1, 7);
	assert_int_equal(t.source[0].arena, 0);
	assert_int_equal(t.source[1].arena, 1);
	assert_int_equal(t.source[2].arena, -1);
	table_deinit(&t);
}

static void every_new_run_gets_an_incarnation_of_its_own(void **state)
{
	struct table t;

	(void)state;
	table_init(&t);
	assert_int_equal(recover_largest(&t.in), 0);
	add_arena(&t, 7, 0, slot(SLOT_PREPARED, 5, 1), slot(SLOT_COMMITTED, 1200, 1));
	add_arena(&t, 8, 9, slot(SLOT_FILLING, 9000, 1), slot(SLOT_COMMITTED, 1100, 1));
	assert_int_equal(recover_largest(&t.in), 1200);
	t.arena[0].entered = 1300;
	assert_int_equal(recover_largest(&t.in), 1300);
	assert_int_equal(recover_next(0, 0, 0), 1);
	assert_int_equal(recover_next(0, 1000, 77), 1000);
	assert_int_equal(recover_next(1200, 1201, 77), 1201);
	assert_int_equal(recover_next(1200, 1200, 0), 1201);
	assert_int_equal(recover_next(1200, 1000, 0), 1201);
	table_deinit(&t);
}

/* Else runs that see the same but not each other would count to the same number. */
static void where_the_clock_is_behind_chance_tells_runs_apart(void **state)
{
	uint64_t largest = UINT64_C(1) << 60;

	(void)state;
	assert_true(recover_next(largest, 1000, 77) != recover_next(largest, 1000, 78));
	assert_int_equal(recover_next(largest, 1000, RECOVER_SPREAD + 77), largest + 78);
	assert_true(recover_next(largest, 1000, UINT64_MAX) <= largest + RECOVER_SPREAD);
}

static void the_explanation_names_groups_nodes_and_how_many(void **state)
{
	char text[256];
	struct table t;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(8, 1, 4, 1));
	add_all(&t, 1, 8, 1u << 1 | 1u << 2 | 1u << 3 | 1u << 5, slot(SLOT_COMMITTED, 1, 42),
	        empty);
	assert_int_equal(choose(&t, NULL), FTMEM_ELOST);
	recover_explain(&t.epoch[t.index], &t.choice, t.source, text, sizeof(text));
	assert_string_equal(
		text, "version 42 cannot be rebuilt: group 0 (4 nodes, parity 1) lacks n1, n2, n3: "
		      "2 more of them needed");
	/* The group of n5 lacks no more than parity covers; with n6 it does. */
	t.source[6].arena = -1;
	recover_explain(&t.epoch[t.index], &t.choice, t.source, text, sizeof(text));
	assert_string_equal(
		text, "version 42 cannot be rebuilt: group 0 (4 nodes, parity 1) lacks n1, n2, n3: "
		      "2 more of them needed; "
		      "group 1 (4 nodes, parity 1) lacks n5, n6: "
		      "1 more of them needed");
	table_deinit(&t);
}

static void a_long_explanation_is_cut(void **state)
{
	char whole[256], text[256];
	struct table t;
	size_t len;

	(void)state;
	table_init(&t);
	add_epoch(&t, 1, make_map(4, 1, 4, 1));
	add_all(&t, 1, 4, 7, slot(SLOT_COMMITTED, 1, 42), empty);
	assert_int_equal(choose(&t, NULL), FTMEM_ELOST);
	recover_explain(&t.epoch[0], &t.choice, t.source, whole, sizeof(whole));
	len = strlen(whole);
	for (size_t bytes = 0; bytes <= len + 2; bytes++) {
		memset(text, '#', sizeof(text));
		recover_explain(&t.epoch[0], &t.choice, t.source, text, bytes);
		assert_int_equal(text[bytes], '#');
		if (bytes == 0)
			continue;
		assert_true(strlen(text) < bytes);
		if (bytes > len) {
			assert_string_equal(text, whole);
		} else if (bytes > 3) {
			assert_int_equal(strlen(text), bytes - 1);
			assert_string_equal(text + bytes - 4, "...");
			assert_memory_equal(text, whole, bytes - 4);
		}
	}
	table_deinit(&t);
}

/* Work that grows with the square would take minutes. */
static void a_job_of_131072_ranks_is_planned(void **state)
{
	const uint32_t nodes = 16384, ranks = 131072;
	struct recover_epoch epoch = {1, make_map(nodes, 8, 8, 1)};
	struct recover_arena *arena = calloc(2 * ranks, sizeof(*arena));
	struct recover_source *source = calloc(ranks, sizeof(*source));
	struct recover_input in = {&epoch, 1, arena, 0};
	struct recover_choice choice;
	uint32_t index;

	(void)state;
	assert_non_null(arena);
	assert_non_null(source);
	for (uint32_t r = ranks; r-- > 0;) {
		if (r / 8 % 8 == 3)
			continue;
		arena[in.arenas] = (struct recover_arena){.epoch = 1, .rank = r, .agent = r};
		arena[in.arenas].slot[0] = slot(SLOT_COMMITTED, 3, 100);
		arena[in.arenas++].slot[1] = slot(r % 1000 ? SLOT_PREPARED : SLOT_FILLING, 3, 101);
	}
	assert_int_equal(recover_choose(&in, NULL, &choice, &index, source), 0);
	assert_int_equal(choice.stamp.version, 100);
	free(source);
	free(arena);
	map_free((struct map *)epoch.map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_stored_is_fresh),
		cmocka_unit_test(every_set_of_losses_is_judged_by_its_groups),
		cmocka_unit_test(ranks_of_one_node_may_each_lose_in_their_own_rail),
		cmocka_unit_test(one_node_without_parity_needs_all_its_ranks),
		cmocka_unit_test(the_newest_recoverable_version_wins),
		cmocka_unit_test(versions_of_two_runs_are_never_mixed),
		cmocka_unit_test(epochs_are_weighed_by_stamp_then_number),
		cmocka_unit_test(unknown_epochs_and_ranks_are_passed_over),
		cmocka_unit_test(stale_arenas_of_an_earlier_run_do_not_disturb),
		cmocka_unit_test(of_duplicates_the_committed_then_the_lower_agent_wins),
		cmocka_unit_test(damaged_slots_count_as_lost),
		cmocka_unit_test(a_limit_leads_through_all_candidates),
		cmocka_unit_test(a_job_that_never_committed_is_fresh),
		cmocka_unit_test(survivors_that_all_hold_it_are_not_fresh),
		cmocka_unit_test(too_much_lost_names_the_best_that_may_have_been_committed),
		cmocka_unit_test(every_new_run_gets_an_incarnation_of_its_own),
		cmocka_unit_test(where_the_clock_is_behind_chance_tells_runs_apart),
		cmocka_unit_test(the_explanation_names_groups_nodes_and_how_many),
		cmocka_unit_test(a_long_explanation_is_cut),
		cmocka_unit_test(a_job_of_131072_ranks_is_planned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
