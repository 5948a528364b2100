/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/scrub.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "smp/scrub_walk.h"

#define SECOND   UINT64_C(1000000000)
/* Between two looks for what is due, when nothing was. */
#define REST_NS  SECOND
/* What was missed, because others were served, is made up for so far back; and steps are
 * taken several at a time after such a pause, so as to wake a processor less often. */
#define BURST_NS (SECOND / 16)
#define PAUSE_NS (SECOND / 64)
/* Arenas that are asked in a step whether they are due, and what that counts for each. */
#define ASK_MAX  64u
#define ASK_COST 1024u
/* What is looked at at all counts as so much at least: nobody keeps a processor busy. */
#define OPEN_COST 65536u

enum phase { PICK, MAP, SLOT };

struct scrub {
	struct store *store;
	const struct log *log;
	uint64_t due_ns;  /* when what was read so far will have been, at the rate */
	uint64_t wake_ns;
	uint64_t cursor;  /* index of the arena in hand, or to be asked next */
	uint64_t passed;  /* arenas in a row that were not due */
	uint64_t asks;    /* of the store, that were followed */
	enum phase phase;
	/* the arena in hand: its place may change */
	uint64_t epoch, generation;
	uint32_t rank;
	ino_t ino;
	int slot;
	struct walk walk;
};

int scrub_new(struct store *store, const struct log *log, struct scrub **out)
{
	struct scrub *s = calloc(1, sizeof(*s));

	if (!s)
		return error_set(FTMEM_ENOMEM, "no memory to look for damage");
	s->store = store;
	s->log = log;
	*out = s;
	return 0;
}

void scrub_free(struct scrub *s)
{
	free(s);
}

uint64_t scrub_due(const struct scrub *s)
{
	bool asked = s->asks != store_asks(s->store);

	return asked && s->due_ns < s->wake_ns ? s->due_ns : s->wake_ns;
}

/* --- what is due --- */

static bool is_old(uint64_t looked_ns, uint64_t now_ns)
{
	return !looked_ns || now_ns - looked_ns >= SCRUB_AGAIN_S * SECOND;
}

static bool slot_is_due(const struct store_slot_check *c, uint64_t word, uint64_t incarnation,
                        uint64_t now_ns)
{
	return c->word != word || c->incarnation != incarnation || is_old(c->looked_ns, now_ns);
}

static bool arena_is_due(const struct store_entry *e, uint64_t now_ns)
{
	struct wire_slot slot[2];

	if (e->check.first || is_old(e->check.looked_ns, now_ns))
		return true;
	/* Its slots cannot be found. */
	if (e->check.damage == WIRE_DAMAGE_HEADER || e->check.damage == WIRE_DAMAGE_RAILS)
		return false;
	store_slots(e, slot);
	for (int i = 0; i < 2; i++)
		if (slot[i].state == SLOT_COMMITTED
		    && slot_is_due(&e->check.slot[i], slot[i].version << 8 | SLOT_COMMITTED,
		                   slot[i].incarnation, now_ns))
			return true;
	return false;
}

/* --- what was found --- */

static void log_found(const struct scrub *s, const struct store_entry *e, uint64_t version,
                      const struct wire_check *found)
{
	char text[WIRE_BLOCK_TEXT];

	if (found->damage)
		log_line(s->log, FTMEM_LOG_WARN,
		         "rank %" PRIu32 ", epoch %" PRIu64 ", slot %d: damaged: %s", e->rank,
		         e->epoch, s->slot, wire_damage_text(found->damage));
	else if (found->bad)
		log_line(s->log, FTMEM_LOG_WARN,
		         "rank %" PRIu32 ", epoch %" PRIu64 ", slot %d, version %" PRIu64
		         ": damaged blocks: %" PRIu64 ", the first: %s",
		         e->rank, e->epoch, s->slot, version, found->bad,
		         wire_block_text(&found->block[0], text));
	else
		log_line(s->log, FTMEM_LOG_INFO,
		         "rank %" PRIu32 ", epoch %" PRIu64 ", slot %d, version %" PRIu64
		         ": nothing is damaged any more",
		         e->rank, e->epoch, s->slot, version);
}

static void note_description(const struct scrub *s, struct store_entry *e, uint64_t now_ns)
{
	if (s->walk.damage && s->walk.damage != e->check.damage)
		log_line(s->log, FTMEM_LOG_WARN,
		         "rank %" PRIu32 ", epoch %" PRIu64 ": damaged: %s", e->rank, e->epoch,
		         wire_damage_text(s->walk.damage));
	e->check.damage = s->walk.damage;
	e->check.looked_ns = now_ns;
}

/* What is known of the slot; emptied if that was of something else. */
static struct store_slot_check *check_of(const struct scrub *s, struct store_entry *e)
{
	const struct slot_header *h = &s->walk.slot;
	struct store_slot_check *c = &e->check.slot[s->slot];
	uint64_t word = atomic_load_explicit(&h->state, memory_order_relaxed);

	if (c->word != word || c->incarnation != h->incarnation)
		*c = (struct store_slot_check){
			.word = word, .incarnation = h->incarnation, .next = c->next};
	return c;
}

/* end: all of it was looked at. */
static void note_slot(const struct scrub *s, struct store_entry *e, bool end, uint64_t now_ns)
{
	struct store_slot_check *c = check_of(s, e);
	const struct walk *w = &s->walk;
	struct wire_check found = c->found;
	bool first = !found.checked_ns;

	if (end || w->confirmed > found.bad) {
		found.damage = w->damage;
		found.bad = w->damage ? 0 : w->confirmed;
		found.named = w->damage ? 0 : w->named;
		memcpy(found.block, w->block, sizeof(found.block));
	}
	found.bytes = w->bytes;
	if (end || first)
		found.done = w->done_bytes;
	if (end)
		found.checked_ns = clock_wall_ns();
	if (end)
		c->looked_ns = now_ns;
	if (found.damage != c->found.damage || found.bad != c->found.bad)
		log_found(s, e, c->word >> 8, &found);
	c->found = found;
}

/* --- steps --- */

/* The arena in hand, NULL: it is held no more. */
static struct store_entry *in_hand(struct scrub *s)
{
	struct store_entry *e = store_scrubbed(s->store, s->cursor);
	uint64_t generation = store_generation(s->store);

	for (uint64_t i = 0; generation != s->generation && (e = store_scrubbed(s->store, i)); i++)
		if (e->epoch == s->epoch && e->rank == s->rank && e->ino == s->ino &&
		    e->fd == s->walk.fd) {
			s->cursor = i;
			break;
		}
	s->generation = generation;
	return e;
}

static struct store_entry *asked_for(struct scrub *s)
{
	struct store_entry *e;

	if (s->asks == store_asks(s->store))
		return NULL;
	for (uint64_t i = 0; (e = store_scrubbed(s->store, i)); i++)
		if (e->check.first)
			return e;
	s->asks = store_asks(s->store);
	return NULL;
}

/* Returns what it counts. */
static uint64_t open_arena(struct scrub *s, struct store_entry *e, uint64_t now_ns)
{
	s->epoch = e->epoch;
	s->rank = e->rank;
	s->ino = e->ino;
	s->generation = store_generation(s->store);
	s->passed = 0;
	s->phase = PICK;
	e->check.first = false;
	switch (walk_open(&s->walk, e->fd, e->bytes, e->epoch, e->rank)) {
	case WALK_ON:
		s->phase = MAP;
		break;
	case WALK_END:
		note_description(s, e, now_ns);
		s->cursor++;
		break;
	default:
		/* Not written yet: that is soon to change, or never will. */
		e->check.looked_ns = now_ns;
		s->cursor++;
		break;
	}
	return s->walk.cost + OPEN_COST;
}

/* Looks for one that is due. */
static uint64_t pick(struct scrub *s, uint64_t now_ns)
{
	uint64_t cost = 0;

	for (uint32_t i = 0; i < ASK_MAX; i++) {
		struct store_entry *e = store_scrubbed(s->store, s->cursor);

		if (s->passed > store_count(s->store)) {
			s->passed = 0;
			s->wake_ns = now_ns + REST_NS;
			break;
		}
		cost += ASK_COST;
		if (e && arena_is_due(e, now_ns))
			return cost + open_arena(s, e, now_ns);
		s->passed++;
		s->cursor = e ? s->cursor + 1 : 0;
	}
	return cost;
}

/* Goes on with the next slot that is due, else the next arena. */
static uint64_t next_slot(struct scrub *s, struct store_entry *e, int slot, uint64_t now_ns)
{
	uint64_t cost = 0;

	for (s->slot = slot; s->slot < 2; s->slot++) {
		enum walk_result got = walk_slot(&s->walk, s->slot);
		const struct store_slot_check *c;

		cost += s->walk.cost;
		if (got == WALK_END)
			note_slot(s, e, true, now_ns);
		if (got != WALK_ON)
			continue;
		c = check_of(s, e);
		if (!is_old(c->looked_ns, now_ns))
			continue;
		walk_begin(&s->walk, c->next);
		s->phase = SLOT;
		return cost;
	}
	s->phase = PICK;
	s->cursor++;
	return cost;
}

static uint64_t step_map(struct scrub *s, struct store_entry *e, uint64_t now_ns)
{
	enum walk_result got = walk_map(&s->walk);
	uint64_t cost = s->walk.cost;

	if (got == WALK_ON)
		return cost;
	note_description(s, e, now_ns);
	return cost + next_slot(s, e, 0, now_ns);
}

static uint64_t step_slot(struct scrub *s, struct store_entry *e, uint64_t now_ns)
{
	enum walk_result got = walk_step(&s->walk);
	uint64_t cost = s->walk.cost;

	if (got != WALK_LEFT)
		note_slot(s, e, got == WALK_END, now_ns);
	e->check.slot[s->slot].next = walk_next(&s->walk);
	if (got == WALK_END || got == WALK_LEFT)
		cost += next_slot(s, e, s->slot + 1, now_ns);
	return cost;
}

static uint64_t step(struct scrub *s, uint64_t now_ns)
{
	struct store_entry *e = asked_for(s);

	if (e) {
		s->cursor = (uint64_t)(e - store_scrubbed(s->store, 0));
		return open_arena(s, e, now_ns);
	}
	e = s->phase == PICK ? NULL : in_hand(s);
	if (!e)
		s->phase = PICK;
	switch (s->phase) {
	case MAP: return step_map(s, e, now_ns);
	case SLOT: return step_slot(s, e, now_ns);
	default: return pick(s, now_ns);
	}
}

void scrub_step(struct scrub *s, uint32_t mib_s, uint64_t now_ns)
{
	uint64_t cost;

	s->wake_ns = now_ns;
	if (s->due_ns + BURST_NS < now_ns)
		s->due_ns = now_ns - BURST_NS;
	cost = step(s, now_ns);
	s->due_ns += cost * SECOND / ((uint64_t)mib_s << 20);
	if (s->due_ns > now_ns && s->wake_ns < s->due_ns + PAUSE_NS)
		s->wake_ns = s->due_ns + PAUSE_NS;
}
