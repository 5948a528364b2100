/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * All that three ranks on three nodes can do with a few versions and crashes.
 * Each takes its actions one by one. Between any two everything may stop and nodes
 * may be lost, as long as no more than parity nodes lack what they lost; then
 * recovery runs, one action after the other too, and may be cut short as well.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "recover.h"

#define RANKS    3
#define VERSIONS 3

enum said { SAID_NOTHING, SAID_GO, SAID_GO_BAD, SAID_SKIP }; /* BAD: its copy will fail */

/* What a rank does next to recover. */
enum repair {
	REPAIR_NONE,
	REPAIR_BEGIN,
	REPAIR_PREPARE,
	REPAIR_JOIN,
	REPAIR_COMMIT,
	REPAIR_CLEAR,
	REPAIR_RUN
};

struct model_rank {
	struct commit c;
	uint8_t said[VERSIONS + 1];  /* enum said, by version of this run */
	uint8_t vote[VERSIONS + 1];  /* 0 none, 1 yes, 2 no */
	uint8_t calls;               /* the last version asked for */
	uint8_t repair;              /* enum repair */
	bool hollow;                 /* its node was lost and is not rebuilt */
	uint32_t pending;            /* actions to take */
	uint32_t slot;               /* they speak of */
	struct commit_slot arena[2]; /* as published */
	struct stamp content[2];     /* whose data and parity are complete */
};

struct model {
	struct model_rank rank[RANKS];
	uint8_t incarnation, base; /* the version this run began with */
	bool fresh;                /* it began with nothing */
	struct stamp choice;       /* what it restored */
	struct stamp committed;    /* the newest that all voted for */
	uint32_t whole;            /* stamps that all ranks snapshotted, by stamp_bit() */
};

typedef int (*step_fn)(struct commit *c, enum commit_event event, uint64_t version,
                       struct commit_out *out);

struct key {
	uint64_t word[RANKS + 1];
};

struct explorer {
	step_fn step;
	bool hasty; /* wrong: recovery commits and clears before all are prepared */
	struct map *map;
	uint32_t parity, versions, crashes;
	struct model *seen;
	struct key *key;
	uint32_t *table;
	uint32_t count, room, table_size;
	uint32_t wrong; /* promises broken */
	uint32_t restored, fresh;
	const char *promise; /* the first one broken */
};

static uint32_t stamp_bit(struct stamp stamp)
{
	return 1u << (stamp.incarnation * (VERSIONS + 1) + stamp.version);
}

static uint64_t pack(uint64_t word, uint64_t value, unsigned bits)
{
	return word << bits | value;
}

static uint64_t pack_stamp(uint64_t word, struct stamp stamp)
{
	return pack(pack(word, stamp.incarnation, 2), stamp.version, 2);
}

static uint64_t pack_slot(uint64_t word, const struct commit_slot *slot)
{
	unsigned state = slot->state == SLOT_EMPTY      ? 0
	                 : slot->state == SLOT_FILLING  ? 1
	                 : slot->state == SLOT_PREPARED ? 2
	                                                : 3;

	return pack_stamp(pack(word, state, 2), slot->stamp);
}

static int compare_words(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Equal for states that differ only in which rank is which. */
static struct key key_of(const struct model *m)
{
	struct key key;
	uint64_t w = m->incarnation;

	w = pack(pack(w, m->base, 2), m->fresh, 1);
	w = pack_stamp(pack_stamp(w, m->choice), m->committed);
	key.word[RANKS] = pack(w, m->whole, 32);
	for (int r = 0; r < RANKS; r++) {
		const struct model_rank *rank = &m->rank[r];

		w = pack(rank->c.phase, rank->c.filling, 1);
		w = pack(pack(w, rank->calls, 2), rank->repair, 3);
		w = pack(pack(w, rank->hollow, 1), rank->slot, 1);
		w = pack(w, rank->pending, 11);
		for (int v = 1; v <= VERSIONS; v++)
			w = pack(pack(w, rank->said[v], 2), rank->vote[v], 2);
		for (int s = 0; s < 2; s++) {
			w = pack_slot(w, &rank->arena[s]);
			w = pack_stamp(w, rank->content[s]);
		}
		key.word[r] = w;
	}
	qsort(key.word, RANKS, sizeof(key.word[0]), compare_words);
	return key;
}

/* What all ranks snapshotted, and what all voted for. */
static void note_outcomes(struct model *m)
{
	for (int v = m->base + 1; v <= VERSIONS; v++) {
		struct stamp stamp = {m->incarnation, (uint64_t)v};
		bool all_go = true, all_yes = true;

		for (int r = 0; r < RANKS; r++) {
			all_go &= m->rank[r].said[v] == SAID_GO;
			all_yes &= m->rank[r].vote[v] == 1;
		}
		if (all_go)
			m->whole |= stamp_bit(stamp);
		if (all_yes)
			m->committed = stamp;
	}
	/* What is older than that must not be restored, whatever it was. */
	m->whole &= ~(stamp_bit(m->committed) - 1);
}

/* Once all are past a version, what was said of it matters no more. */
static void forget_details(struct model *m)
{
	for (int v = 1; v <= VERSIONS; v++) {
		for (int r = 0; r < RANKS; r++)
			if (m->rank[r].calls <= v)
				return;
		for (int r = 0; r < RANKS; r++)
			m->rank[r].said[v] = m->rank[r].vote[v] = 0;
	}
}

static void explorer_add(struct explorer *e, struct model *m)
{
	uint64_t hash = UINT64_C(0x243f6a8885a308d3);
	struct key key;
	uint32_t at;

	for (int r = 0; r < RANKS; r++) /* what nobody else can see happens at once */
		m->rank[r].pending &=
			~(uint32_t)(COMMIT_TELL_GO | COMMIT_CANCEL_COPY | COMMIT_RETIRE);
	note_outcomes(m);
	forget_details(m);
	key = key_of(m);
	for (int r = 0; r <= RANKS; r++)
		hash = ((hash ^ key.word[r]) * UINT64_C(0x9e3779b97f4a7c15)) ^ hash >> 29;
	at = (uint32_t)(hash >> 20) & (e->table_size - 1);
	for (; e->table[at]; at = (at + 1) & (e->table_size - 1))
		if (memcmp(&e->key[e->table[at] - 1], &key, sizeof(key)) == 0)
			return;
	if (e->count == e->room) {
		e->room *= 2;
		e->seen = realloc(e->seen, e->room * sizeof(*e->seen));
		e->key = realloc(e->key, e->room * sizeof(*e->key));
		assert_non_null(e->seen);
		assert_non_null(e->key);
	}
	assert_true(e->count < e->table_size / 2);
	e->seen[e->count] = *m;
	e->key[e->count] = key;
	e->table[at] = ++e->count;
}

static void broken(struct explorer *e, const char *promise)
{
	if (!e->wrong++)
		e->promise = promise;
}

/* Takes the first of the actions that a rank still has to take. */
static void take_action(struct model_rank *rank)
{
	uint32_t action = rank->pending & -rank->pending;
	struct commit_slot *slot = &rank->arena[rank->slot];

	rank->pending ^= action;
	switch ((enum commit_action)action) {
	case COMMIT_PUBLISH_FILLING: *slot = (struct commit_slot){SLOT_FILLING, {0, 0}}; break;
	case COMMIT_PUBLISH_PREPARED:
		*slot = (struct commit_slot){SLOT_PREPARED, rank->c.under_way};
		break;
	case COMMIT_PUBLISH_COMMITTED: slot->state = SLOT_COMMITTED; break;
	case COMMIT_PUBLISH_EMPTY: *slot = (struct commit_slot){SLOT_EMPTY, {0, 0}}; break;
	case COMMIT_BEGIN_COPY: rank->content[rank->slot] = (struct stamp){0, 0}; break;
	case COMMIT_VOTE_YES: rank->vote[rank->calls] = 1; break;
	case COMMIT_VOTE_NO: rank->vote[rank->calls] = 2; break;
	case COMMIT_TELL_SKIP: rank->said[rank->calls] = SAID_SKIP; break;
	default: break;
	}
}

/* The model after one more event at rank r. */
static void event(struct explorer *e, const struct model *m, int r, enum commit_event event,
                  enum said said)
{
	struct model next = *m;
	struct model_rank *rank = &next.rank[r];
	struct commit_out out;

	if (event == COMMIT_CALL || event == COMMIT_SKIP)
		rank->calls++;
	if (e->step(&rank->c, event, rank->calls, &out)) {
		broken(e, "every event that can come is allowed");
		return;
	}
	/* Peers may hear it as soon as it is decided: later is the same to them. */
	if (event == COMMIT_CALL)
		rank->said[rank->calls] = (uint8_t)said;
	if (event == COMMIT_FILLED)
		rank->content[out.slot] = rank->c.under_way;
	rank->pending = out.actions;
	rank->slot = out.slot;
	explorer_add(e, &next);
}

/* What the rail has said of version v: all of them GO, one of them SKIP. */
static void heard(const struct model *m, int v, bool *all_go, bool *skip, bool *bad)
{
	*all_go = true;
	*skip = *bad = false;
	for (int r = 0; r < RANKS; r++) {
		*all_go &= m->rank[r].said[v] == SAID_GO || m->rank[r].said[v] == SAID_GO_BAD;
		*skip |= m->rank[r].said[v] == SAID_SKIP;
		*bad |= m->rank[r].said[v] == SAID_GO_BAD;
	}
}

static bool voted(const struct model *m, int v, bool *yes)
{
	*yes = true;
	for (int r = 0; r < RANKS; r++) {
		if (!m->rank[r].vote[v])
			return false;
		*yes &= m->rank[r].vote[v] == 1;
	}
	return true;
}

/* All that rank r of a running job may do next. */
static void explore_rank(struct explorer *e, const struct model *m, int r)
{
	const struct model_rank *rank = &m->rank[r];
	bool all_go, skip, bad, yes;

	if (rank->pending) {
		struct model next = *m;

		take_action(&next.rank[r]);
		explorer_add(e, &next);
	} else if (rank->c.phase == COMMIT_IDLE) {
		if (rank->calls == e->versions)
			return;
		event(e, m, r, COMMIT_CALL, SAID_GO);
		event(e, m, r, COMMIT_CALL, SAID_GO_BAD);
		event(e, m, r, COMMIT_SKIP, SAID_SKIP);
	} else if (rank->c.phase == COMMIT_FILLING) {
		heard(m, rank->calls, &all_go, &skip, &bad);
		if (skip)
			event(e, m, r, COMMIT_DISSENT, SAID_NOTHING);
		if (all_go)
			event(e, m, r, COMMIT_FAILED, SAID_NOTHING);
		if (all_go && !bad)
			event(e, m, r, COMMIT_FILLED, SAID_NOTHING);
	} else if (voted(m, rank->calls, &yes)) {
		event(e, m, r, yes ? COMMIT_YES : COMMIT_NO, SAID_NOTHING);
	}
}

/* The slot of an arena that holds the choice, or -1. */
static int slot_of(const struct model_rank *rank, struct stamp choice)
{
	for (int s = 0; s < 2; s++)
		if ((rank->arena[s].state == SLOT_PREPARED
		     || rank->arena[s].state == SLOT_COMMITTED)
		    && stamp_cmp(rank->arena[s].stamp, choice) == 0)
			return s;
	return -1;
}

/* Rank r's next step of a recovery. */
static void explore_repair(struct explorer *e, const struct model *m, int r)
{
	struct model next = *m;
	struct model_rank *rank = &next.rank[r];
	int held = m->fresh ? -1 : slot_of(rank, m->choice);

	switch ((enum repair)rank->repair) {
	case REPAIR_BEGIN:
		rank->repair = REPAIR_JOIN;
		if (m->fresh || held >= 0)
			break;
		rank->slot = commit_spare(rank->arena);
		rank->arena[rank->slot] = (struct commit_slot){SLOT_FILLING, {0, 0}};
		rank->content[rank->slot] = (struct stamp){0, 0};
		rank->repair = REPAIR_PREPARE;
		break;
	case REPAIR_PREPARE:
		rank->arena[rank->slot] = (struct commit_slot){SLOT_PREPARED, m->choice};
		rank->content[rank->slot] = m->choice;
		rank->repair = REPAIR_JOIN;
		break;
	case REPAIR_JOIN:
		rank->hollow = false;
		rank->repair = REPAIR_COMMIT;
		break;
	case REPAIR_COMMIT:
		for (int i = 0; i < RANKS && !e->hasty; i++)
			if (m->rank[i].repair && m->rank[i].repair < REPAIR_COMMIT)
				return;
		if (!m->fresh) {
			next.committed = m->choice;
			rank->arena[held].state = SLOT_COMMITTED;
		}
		rank->repair = REPAIR_CLEAR;
		break;
	case REPAIR_CLEAR:
		for (int s = 0; s < 2; s++)
			if (s != held)
				rank->arena[s] = (struct commit_slot){SLOT_EMPTY, {0, 0}};
		rank->repair = REPAIR_RUN;
		break;
	default:
		commit_init(&rank->c, rank->arena, m->incarnation);
		rank->repair = REPAIR_NONE;
		break;
	}
	explorer_add(e, &next);
}

static void check_restored(struct explorer *e, const struct model *m,
                           const struct recover_source *source)
{
	if (!(m->whole & stamp_bit(m->choice)))
		broken(e, "the restored version was snapshotted by all");
	if (stamp_cmp(m->choice, m->committed) < 0)
		broken(e, "nothing older than the newest committed version is restored");
	for (int r = 0; r < RANKS; r++)
		if (source[r].arena >= 0
		    && stamp_cmp(m->rank[r].content[source[r].slot], m->choice) != 0)
			broken(e, "never mixed: all slots hold the version that is restored");
}

/* Everything stops now, the memory of the nodes in the set lost is gone, and the job
 * is started again. */
static void crash(struct explorer *e, const struct model *m, unsigned lost)
{
	struct recover_arena arena[RANKS];
	struct recover_epoch epoch = {1, e->map};
	struct recover_input in = {&epoch, 1, arena, 0};
	struct recover_source source[RANKS];
	struct recover_choice choice = {0, {0, 0}};
	struct model next = *m;
	uint32_t index, hollow = 0;
	int rc;

	for (uint32_t r = 0; r < RANKS; r++) {
		struct model_rank *rank = &next.rank[r];

		if (lost >> r & 1) {
			memset(rank->arena, 0, sizeof(rank->arena));
			memset(rank->content, 0, sizeof(rank->content));
			rank->hollow = true;
		} else {
			arena[in.arenas] =
				(struct recover_arena){.epoch = 1, .rank = r, .agent = r};
			memcpy(arena[in.arenas++].slot, rank->arena, sizeof(arena->slot));
		}
		hollow += rank->hollow;
	}
	if (hollow > e->parity)
		return;
	rc = recover_choose(&in, NULL, &choice, &index, source);
	next.choice = choice.stamp;
	next.fresh = rc != 0;
	if (rc == 0) {
		e->restored++;
		check_restored(e, &next, source);
	} else {
		e->fresh++;
		if (m->committed.incarnation)
			broken(e, "a committed version stays recoverable");
		else if (rc != FTMEM_FRESH)
			broken(e, "a job that never committed starts afresh");
	}
	if (++next.incarnation > e->crashes)
		return;
	next.base = (uint8_t)next.choice.version;
	for (int r = 0; r < RANKS; r++) {
		struct model_rank *rank = &next.rank[r];

		memset(&rank->c, 0, sizeof(rank->c));
		memset(rank->said, 0, sizeof(rank->said));
		memset(rank->vote, 0, sizeof(rank->vote));
		rank->pending = rank->slot = 0;
		rank->calls = next.base;
		rank->repair = REPAIR_BEGIN;
	}
	explorer_add(e, &next);
}

static void explorer_run(struct explorer *e, step_fn step, uint32_t parity, uint32_t versions,
                         uint32_t crashes)
{
	struct map_rank rank[RANKS] = {{"a", ""}, {"b", ""}, {"c", ""}};
	struct model first;

	e->step = step;
	e->parity = parity;
	e->versions = versions;
	e->crashes = crashes;
	e->room = 1u << 16;
	e->table_size = 1u << 23;
	e->seen = malloc(e->room * sizeof(*e->seen));
	e->key = malloc(e->room * sizeof(*e->key));
	e->table = calloc(e->table_size, sizeof(*e->table));
	assert_true(e->seen && e->key && e->table);
	assert_int_equal(map_new(rank, RANKS, 8, parity, &e->map), 0);

	memset(&first, 0, sizeof(first));
	first.incarnation = 1;
	for (int r = 0; r < RANKS; r++)
		commit_init(&first.rank[r].c, first.rank[r].arena, 1);
	explorer_add(e, &first);
	for (uint32_t i = 0; i < e->count; i++) {
		struct model m = e->seen[i];

		for (unsigned lost = 0; lost < 1u << RANKS; lost++)
			crash(e, &m, lost);
		for (int r = 0; r < RANKS; r++) {
			if (m.rank[r].repair)
				explore_repair(e, &m, r);
			else
				explore_rank(e, &m, r);
		}
	}
	map_free(e->map);
	free(e->table);
	free(e->key);
	free(e->seen);
}

static void all_schedules_keep_the_promises(void **state)
{
	static const struct {
		uint32_t parity, versions, crashes;
	} runs[] = {{1, 3, 1}, {2, 3, 1}, {1, 2, 2}, {2, 2, 2}, {1, 3, 2}, {2, 3, 2}, {1, 2, 3}};
	/* The last three take a gigabyte. */
	const size_t count = getenv("FTMEM_TEST_DEEP") ? 7 : 4;
	struct explorer e;

	(void)state;
	for (size_t i = 0; i < count; i++) {
		memset(&e, 0, sizeof(e));
		explorer_run(&e, commit_step, runs[i].parity, runs[i].versions, runs[i].crashes);
		if (e.wrong)
			fail_msg("%u of %u states break: %s", e.wrong, e.count, e.promise);
		print_message("parity %u, %u versions, %u crashes: %u states, %u restores, "
		              "%u fresh starts\n",
		              runs[i].parity, runs[i].versions, runs[i].crashes, e.count,
		              e.restored, e.fresh);
		assert_true(e.restored > 1000 && e.fresh > 1000);
	}
}

/* Three wrong protocols: were one of them not caught, the exploration would prove
 * nothing. */
static int overwrites_the_newest(struct commit *c, enum commit_event event, uint64_t version,
                                 struct commit_out *out)
{
	int newest = commit_newest(c), rc = commit_step(c, event, version, out);

	if (rc || event != COMMIT_CALL || newest < 0)
		return rc;
	c->slot[c->current] = (struct commit_slot){SLOT_EMPTY, {0, 0}};
	c->current = out->slot = (uint32_t)newest;
	c->slot[newest] = (struct commit_slot){SLOT_FILLING, c->under_way};
	return 0;
}

static int votes_before_it_is_prepared(struct commit *c, enum commit_event event, uint64_t version,
                                       struct commit_out *out)
{
	int rc;

	if (event == COMMIT_FAILED)
		event = COMMIT_FILLED;
	rc = commit_step(c, event, version, out);
	if (event == COMMIT_FILLED)
		out->actions &= ~(uint32_t)COMMIT_PUBLISH_PREPARED;
	return rc;
}

static int keeps_what_is_dropped(struct commit *c, enum commit_event event, uint64_t version,
                                 struct commit_out *out)
{
	int rc = commit_step(c, event, version, out);

	if (event != COMMIT_NO || !(out->actions & COMMIT_PUBLISH_EMPTY))
		return rc;
	c->slot[c->current] = (struct commit_slot){SLOT_COMMITTED, c->under_way};
	out->actions = COMMIT_PUBLISH_COMMITTED;
	return rc;
}

static void wrong_protocols_are_caught(void **state)
{
	static const step_fn wrong[] = {overwrites_the_newest, votes_before_it_is_prepared,
	                                keeps_what_is_dropped};
	struct explorer e;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		memset(&e, 0, sizeof(e));
		explorer_run(&e, wrong[i], 1, 3, 1);
		assert_true(e.wrong > 0);
		print_message("wrong protocol %zu breaks: %s\n", i, e.promise);
	}
}

static void a_hasty_recovery_is_caught(void **state)
{
	struct explorer e = {.hasty = true};

	(void)state;
	explorer_run(&e, commit_step, 1, 2, 2);
	assert_true(e.wrong > 0);
	print_message("a hasty recovery breaks: %s\n", e.promise);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_schedules_keep_the_promises),
		cmocka_unit_test(wrong_protocols_are_caught),
		cmocka_unit_test(a_hasty_recovery_is_caught),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
