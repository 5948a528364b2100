/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "commit.h"
#include "error.h"

#define EVENTS 7

enum place { IDLE, FILLING, VOTING_YES, VOTING_NO, PLACES };

static const struct commit_slot nothing[2] = {{SLOT_EMPTY, {0, 0}}, {SLOT_EMPTY, {0, 0}}};

static void step(struct commit *c, enum commit_event event, uint64_t version, uint32_t actions)
{
	struct commit_out out;

	assert_int_equal(commit_step(c, event, version, &out), 0);
	assert_int_equal(out.actions, actions);
	if (actions)
		assert_int_equal(out.slot, c->current);
}

static const uint32_t on_call = COMMIT_PUBLISH_FILLING | COMMIT_TELL_GO | COMMIT_BEGIN_COPY;
static const uint32_t on_filled = COMMIT_PUBLISH_PREPARED | COMMIT_VOTE_YES;
static const uint32_t on_failed = COMMIT_CANCEL_COPY | COMMIT_PUBLISH_EMPTY | COMMIT_VOTE_NO;
static const uint32_t on_skip = COMMIT_TELL_SKIP | COMMIT_VOTE_NO;

static void go_to(struct commit *c, enum place place)
{
	commit_init(c, nothing, 1);
	if (place == FILLING || place == VOTING_YES)
		step(c, COMMIT_CALL, 5, on_call);
	if (place == VOTING_YES)
		step(c, COMMIT_FILLED, 0, on_filled);
	if (place == VOTING_NO)
		step(c, COMMIT_SKIP, 5, on_skip);
}

static void every_event_in_every_phase(void **state)
{
	/* What is not listed is refused: no event has no actions there. */
	static const struct {
		enum place place;
		enum commit_event event;
		uint32_t actions;
		enum commit_phase after;
	} allowed[] = {
		{IDLE, COMMIT_CALL, COMMIT_PUBLISH_FILLING | COMMIT_TELL_GO | COMMIT_BEGIN_COPY,
	         COMMIT_FILLING},
		{IDLE, COMMIT_SKIP, COMMIT_TELL_SKIP | COMMIT_VOTE_NO, COMMIT_VOTING},
		{FILLING, COMMIT_DISSENT,
	         COMMIT_CANCEL_COPY | COMMIT_PUBLISH_EMPTY | COMMIT_VOTE_NO, COMMIT_VOTING},
		{FILLING, COMMIT_FAILED, COMMIT_CANCEL_COPY | COMMIT_PUBLISH_EMPTY | COMMIT_VOTE_NO,
	         COMMIT_VOTING},
		{FILLING, COMMIT_FILLED, COMMIT_PUBLISH_PREPARED | COMMIT_VOTE_YES, COMMIT_VOTING},
		{VOTING_YES, COMMIT_YES, COMMIT_PUBLISH_COMMITTED | COMMIT_RETIRE, COMMIT_IDLE},
		{VOTING_YES, COMMIT_NO, COMMIT_PUBLISH_EMPTY, COMMIT_IDLE},
		{VOTING_NO, COMMIT_NO, 0, COMMIT_IDLE},
	};
	const size_t count = sizeof(allowed) / sizeof(allowed[0]);

	(void)state;
	for (int place = 0; place < PLACES; place++) {
		for (int event = 0; event <= EVENTS; event++) {
			struct commit c, before;
			struct commit_out out = {~0u, ~0u};
			size_t i = 0;
			int rc;

			memset(&c, 0, sizeof(c));
			go_to(&c, (enum place)place);
			memcpy(&before, &c, sizeof(c));
			while (i < count
			       && ((int)allowed[i].place != place
			           || (int)allowed[i].event != event))
				i++;
			rc = commit_step(&c, (enum commit_event)event, 7, &out);
			if (i < count) {
				assert_int_equal(rc, 0);
				assert_int_equal(out.actions, allowed[i].actions);
				assert_int_equal(c.phase, allowed[i].after);
			} else {
				assert_int_equal(rc, FTMEM_EINVAL);
				assert_int_equal(out.actions, 0);
				assert_memory_equal(&c, &before, sizeof(c));
				assert_non_null(strstr(error_msg(), "commit: event"));
			}
			assert_int_equal(commit_can_fill(&c), c.phase == COMMIT_IDLE);
		}
	}
}

static void fills_the_slot_that_is_not_the_newest_committed(void **state)
{
	struct commit c;

	(void)state;
	commit_init(&c, nothing, 1);
	assert_int_equal(commit_newest(&c), -1);
	for (uint64_t v = 1; v <= 6; v++) {
		int newest = commit_newest(&c);

		step(&c, COMMIT_CALL, v, on_call);
		assert_int_not_equal((int)c.current, newest);
		assert_int_equal(commit_newest(&c), newest);
		step(&c, COMMIT_FILLED, 0, on_filled);
		assert_int_equal(commit_newest(&c), newest);
		/* Every third is dropped: its slot is used again. */
		if (v % 3 == 0) {
			step(&c, COMMIT_NO, 0, COMMIT_PUBLISH_EMPTY);
			assert_int_equal(commit_newest(&c), newest);
			assert_int_equal(c.slot[c.current].state, SLOT_EMPTY);
		} else {
			step(&c, COMMIT_YES, 0,
			     COMMIT_PUBLISH_COMMITTED | (v == 1 ? COMMIT_RETIRE : 0));
			assert_int_equal(commit_newest(&c), c.current);
			assert_int_equal(c.slot[c.current].stamp.version, v);
		}
	}
}

static void spare_slot_spares_what_is_stored(void **state)
{
	const struct commit_slot empty = {SLOT_EMPTY, {0, 0}}, filling = {SLOT_FILLING, {9, 9}};
	const struct commit_slot prepared = {SLOT_PREPARED, {1, 3}};
	const struct commit_slot old = {SLOT_COMMITTED, {1, 7}}, new = {SLOT_COMMITTED, {2, 4}};
	const struct {
		struct commit_slot slot[2];
		uint32_t spare;
	} cases[] = {
		{{empty, empty}, 0},  {{old, empty}, 1},      {{filling, old}, 0},
		{{old, new}, 0},      {{new, old}, 1},        {{new, prepared}, 1},
		{{prepared, old}, 0}, {{prepared, empty}, 1}, {{filling, prepared}, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(commit_spare(cases[i].slot), cases[i].spare);
}

static void begins_with_what_is_committed_only(void **state)
{
	const struct commit_slot slots[2] = {{SLOT_COMMITTED, {4, 10}}, {SLOT_PREPARED, {4, 11}}};
	const struct commit_slot half[2] = {{SLOT_FILLING, {4, 10}}, {SLOT_COMMITTED, {4, 9}}};
	struct commit c;

	(void)state;
	commit_init(&c, slots, 5);
	assert_int_equal(commit_newest(&c), 0);
	assert_int_equal(c.slot[1].state, SLOT_EMPTY);
	/* A new incarnation may come to the same version again. */
	step(&c, COMMIT_CALL, 10, on_call);
	assert_int_equal(c.current, 1);
	assert_int_equal(c.under_way.incarnation, 5);

	commit_init(&c, half, 5);
	assert_int_equal(commit_newest(&c), 1);
	step(&c, COMMIT_CALL, 1, on_call);
	assert_int_equal(c.current, 0);
}

static void versions_grow_or_are_refused(void **state)
{
	const struct commit_slot slots[2] = {{SLOT_COMMITTED, {4, 10}}, {SLOT_EMPTY, {0, 0}}};
	struct commit_out out;
	struct commit c;

	(void)state;
	commit_init(&c, nothing, 1);
	step(&c, COMMIT_CALL, 0, on_call);
	step(&c, COMMIT_FAILED, 0, on_failed);
	step(&c, COMMIT_NO, 0, 0);
	/* Dropped and skipped versions do not come again either. */
	assert_int_equal(commit_step(&c, COMMIT_CALL, 0, &out), FTMEM_EINVAL);
	step(&c, COMMIT_SKIP, 3, on_skip);
	step(&c, COMMIT_NO, 0, 0);
	assert_int_equal(commit_step(&c, COMMIT_CALL, 3, &out), FTMEM_EINVAL);
	assert_int_equal(commit_step(&c, COMMIT_SKIP, 3, &out), FTMEM_EINVAL);
	assert_int_equal(commit_step(&c, COMMIT_CALL, FTMEM_VERSION_MAX, &out), FTMEM_EINVAL);
	assert_int_equal(out.actions, 0);
	assert_int_equal(c.phase, COMMIT_IDLE);
	step(&c, COMMIT_CALL, FTMEM_VERSION_MAX - 1, on_call);

	commit_init(&c, slots, 4);
	assert_int_equal(commit_step(&c, COMMIT_CALL, 10, &out), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "at least 11"));
	step(&c, COMMIT_CALL, 11, on_call);
	/* What is stored last must be what counts as newest. */
	commit_init(&c, slots, 3);
	assert_int_equal(commit_step(&c, COMMIT_CALL, 11, &out), FTMEM_EINVAL);
}

static void the_first_commit_after_a_start_retires_older_epochs(void **state)
{
	const struct commit_slot slots[2] = {{SLOT_COMMITTED, {4, 10}}, {SLOT_EMPTY, {0, 0}}};
	struct commit c;

	(void)state;
	commit_init(&c, slots, 5);
	step(&c, COMMIT_CALL, 11, on_call);
	step(&c, COMMIT_FILLED, 0, on_filled);
	step(&c, COMMIT_NO, 0, COMMIT_PUBLISH_EMPTY);
	step(&c, COMMIT_CALL, 12, on_call);
	step(&c, COMMIT_FILLED, 0, on_filled);
	step(&c, COMMIT_YES, 0, COMMIT_PUBLISH_COMMITTED | COMMIT_RETIRE);
	step(&c, COMMIT_CALL, 13, on_call);
	step(&c, COMMIT_FILLED, 0, on_filled);
	step(&c, COMMIT_YES, 0, COMMIT_PUBLISH_COMMITTED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_event_in_every_phase),
		cmocka_unit_test(fills_the_slot_that_is_not_the_newest_committed),
		cmocka_unit_test(spare_slot_spares_what_is_stored),
		cmocka_unit_test(begins_with_what_is_committed_only),
		cmocka_unit_test(versions_grow_or_are_refused),
		cmocka_unit_test(the_first_commit_after_a_start_retires_older_epochs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
