/* SPDX-License-Identifier: BSD-3-Clause */
#include "commit.h"

#include <string.h>

#include "error.h"

static int newest(const struct commit_slot slot[2])
{
	bool first = slot[0].state == SLOT_COMMITTED, second = slot[1].state == SLOT_COMMITTED;

	if (first && second)
		return stamp_cmp(slot[0].stamp, slot[1].stamp) < 0;
	return first ? 0 : second ? 1 : -1;
}

static bool holds_nothing(const struct commit_slot *slot)
{
	return slot->state != SLOT_PREPARED && slot->state != SLOT_COMMITTED;
}

static void slot_clear(struct commit_slot *slot)
{
	*slot = (struct commit_slot){SLOT_EMPTY, {0, 0}};
}

void commit_init(struct commit *c, const struct commit_slot slots[2], uint64_t incarnation)
{
	memset(c, 0, sizeof(*c));
	c->phase = COMMIT_IDLE;
	c->incarnation = incarnation;
	for (int i = 0; i < 2; i++) {
		slot_clear(&c->slot[i]);
		if (slots[i].state != SLOT_COMMITTED)
			continue;
		c->slot[i] = slots[i];
		if (slots[i].stamp.incarnation == incarnation && slots[i].stamp.version >= c->next)
			c->next = slots[i].stamp.version + 1;
	}
}

bool commit_can_fill(const struct commit *c)
{
	return c->phase == COMMIT_IDLE;
}

int commit_newest(const struct commit *c)
{
	return newest(c->slot);
}

uint32_t commit_spare(const struct commit_slot slots[2])
{
	if (holds_nothing(&slots[0]))
		return 0;
	if (holds_nothing(&slots[1]))
		return 1;
	return newest(slots) == 0;
}

static int refuse(const struct commit *c, enum commit_event event)
{
	static const char *const event_name[] = {
		[COMMIT_CALL] = "call",       [COMMIT_SKIP] = "skip",
		[COMMIT_DISSENT] = "dissent", [COMMIT_FILLED] = "filled",
		[COMMIT_FAILED] = "failed",   [COMMIT_YES] = "yes",
		[COMMIT_NO] = "no",
	};
	static const char *const phase_name[] = {
		[COMMIT_IDLE] = "idle",
		[COMMIT_FILLING] = "filling",
		[COMMIT_VOTING] = "voting",
	};

	return error_set(FTMEM_EINVAL, "commit: event %s cannot be while %s%s",
	                 (uint32_t)event <= COMMIT_NO ? event_name[event] : "unknown",
	                 phase_name[c->phase],
	                 c->phase == COMMIT_VOTING && !c->filling ? " (no)" : "");
}

/* Whether a version may begin; remembers it as under way. */
static int begin(struct commit *c, enum commit_event event, uint64_t version)
{
	struct stamp stamp = {c->incarnation, version};
	int last = newest(c->slot);

	if (c->phase != COMMIT_IDLE)
		return refuse(c, event);
	if (version < c->next || version >= FTMEM_VERSION_MAX)
		return error_set(FTMEM_EINVAL, "version %llu must be at least %llu and below %llu",
		                 (unsigned long long)version, (unsigned long long)c->next,
		                 (unsigned long long)FTMEM_VERSION_MAX);
	/* What is stored last must win over what is stored already. */
	if (last >= 0 && stamp_cmp(stamp, c->slot[last].stamp) <= 0)
		return error_set(FTMEM_EINVAL,
		                 "commit: incarnation %llu is older than that of what is stored",
		                 (unsigned long long)c->incarnation);
	c->next = version + 1;
	c->under_way = stamp;
	return 0;
}

static int step_call(struct commit *c, uint64_t version, struct commit_out *out)
{
	int rc = begin(c, COMMIT_CALL, version);

	if (rc)
		return rc;
	c->current = commit_spare(c->slot);
	c->slot[c->current] = (struct commit_slot){SLOT_FILLING, c->under_way};
	c->filling = true;
	c->phase = COMMIT_FILLING;
	out->actions = COMMIT_PUBLISH_FILLING | COMMIT_TELL_GO | COMMIT_BEGIN_COPY;
	return 0;
}

static int step_skip(struct commit *c, uint64_t version, struct commit_out *out)
{
	int rc = begin(c, COMMIT_SKIP, version);

	if (rc)
		return rc;
	c->phase = COMMIT_VOTING;
	out->actions = COMMIT_TELL_SKIP | COMMIT_VOTE_NO;
	return 0;
}

/* The copy and the exchange are over, one way or the other. */
static int step_filled(struct commit *c, enum commit_event event, struct commit_out *out)
{
	if (c->phase != COMMIT_FILLING)
		return refuse(c, event);
	c->phase = COMMIT_VOTING;
	if (event == COMMIT_FILLED) {
		c->slot[c->current].state = SLOT_PREPARED;
		out->actions = COMMIT_PUBLISH_PREPARED | COMMIT_VOTE_YES;
		return 0;
	}
	slot_clear(&c->slot[c->current]);
	c->filling = false;
	out->actions = COMMIT_CANCEL_COPY | COMMIT_PUBLISH_EMPTY | COMMIT_VOTE_NO;
	return 0;
}

static int step_vote(struct commit *c, enum commit_event event, struct commit_out *out)
{
	/* A yes without one's own would commit what this rank does not hold. */
	if (c->phase != COMMIT_VOTING || (event == COMMIT_YES && !c->filling))
		return refuse(c, event);
	c->phase = COMMIT_IDLE;
	if (event == COMMIT_YES) {
		c->slot[c->current].state = SLOT_COMMITTED;
		out->actions = COMMIT_PUBLISH_COMMITTED;
		if (!c->epoch_committed)
			out->actions |= COMMIT_RETIRE;
		c->epoch_committed = true;
	} else if (c->filling) {
		slot_clear(&c->slot[c->current]);
		out->actions = COMMIT_PUBLISH_EMPTY;
	}
	c->filling = false;
	return 0;
}

int commit_step(struct commit *c, enum commit_event event, uint64_t version, struct commit_out *out)
{
	int rc;

	*out = (struct commit_out){0, 0};
	switch (event) {
	case COMMIT_CALL: rc = step_call(c, version, out); break;
	case COMMIT_SKIP: rc = step_skip(c, version, out); break;
	case COMMIT_DISSENT:
	case COMMIT_FILLED:
	case COMMIT_FAILED: rc = step_filled(c, event, out); break;
	case COMMIT_YES:
	case COMMIT_NO: rc = step_vote(c, event, out); break;
	default: rc = refuse(c, event);
	}
	out->slot = c->current;
	return rc;
}
