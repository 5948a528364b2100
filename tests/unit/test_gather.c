/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "gather.h"

#define EPOCH 7u

static const struct recover_choice choice = {EPOCH, {5, 6}};

static struct recover_arena arena_of(uint64_t epoch, uint32_t rank, uint32_t slot,
                                     enum slot_state state, uint64_t version)
{
	struct recover_arena a = {.epoch = epoch, .rank = rank};

	a.slot[slot] = (struct commit_slot){state, {5, version}};
	return a;
}

static void a_damaged_source_gives_way_to_another_arena_of_its_rank(void **state)
{
	struct recover_arena arena[] = {
		arena_of(EPOCH, 2, 0, SLOT_COMMITTED, 6),
		arena_of(EPOCH, 1, 0, SLOT_COMMITTED, 6),
		arena_of(EPOCH, 2, 1, SLOT_PREPARED, 6),
	};
	struct gather g = {.arena = arena, .arenas = 3};
	const struct recover_source source = {0, 0}, other = {2, 1};

	(void)state;
	assert_true(gather_pass_over(&g, &choice, 2, &source));
	assert_int_equal(arena[0].slot[0].state, SLOT_EMPTY);
	assert_int_equal(arena[0].slot[0].stamp.version, 0);
	/* What it held it cannot deny. */
	assert_true(arena[0].unsure);
	assert_int_equal(arena[1].slot[0].state, SLOT_COMMITTED);
	/* Now it is the only one. */
	assert_false(gather_pass_over(&g, &choice, 2, &other));
	assert_int_equal(arena[2].slot[1].state, SLOT_PREPARED);
}

static void a_source_stays_that_no_other_arena_makes_up_for(void **state)
{
	struct recover_arena arena[] = {
		arena_of(EPOCH, 2, 0, SLOT_COMMITTED, 6),
		arena_of(EPOCH, 1, 0, SLOT_COMMITTED, 6),
		arena_of(EPOCH, 2, 1, SLOT_COMMITTED, 4),
		arena_of(EPOCH, 2, 1, SLOT_FILLING, 6),
		arena_of(EPOCH - 1, 2, 0, SLOT_COMMITTED, 6),
	};
	struct gather g = {.arena = arena, .arenas = 5};
	const struct recover_source source = {0, 0}, lost = {-1, 0};

	(void)state;
	assert_false(gather_pass_over(&g, &choice, 2, &source));
	assert_false(gather_pass_over(&g, &choice, 3, &lost));
	assert_int_equal(arena[0].slot[0].state, SLOT_COMMITTED);
	assert_false(arena[0].unsure);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_damaged_source_gives_way_to_another_arena_of_its_rank),
		cmocka_unit_test(a_source_stays_that_no_other_arena_makes_up_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
