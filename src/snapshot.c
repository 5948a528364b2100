/* SPDX-License-Identifier: BSD-3-Clause */
#include "snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "error.h"

void snapshot_init(struct snapshot *s, const struct commit_slot slots[2], uint64_t incarnation)
{
	commit_init(&s->commit, slots, incarnation);
	s->phase = SNAPSHOT_IDLE;
}

static void take_reason(struct snapshot *s)
{
	snprintf(s->reason, sizeof(s->reason), "%.*s", (int)sizeof(s->reason) - 1, error_msg());
}

/* Steps the protocol and publishes what it says. EINVAL: it refuses; nothing is done. */
static int step_commit(struct snapshot *s, enum commit_event event, struct commit_out *out)
{
	struct slot *slot;
	int rc = commit_step(&s->commit, event, s->version, out);

	if (rc < 0) {
		take_reason(s);
		log_line(s->log, FTMEM_LOG_ERROR, "version %" PRIu64 ": %s", s->version, s->reason);
		return rc;
	}
	slot = &s->epoch->arena->slot[out->slot];
	if (out->actions & COMMIT_PUBLISH_FILLING)
		slot_set_filling(slot, s->commit.under_way);
	if (out->actions & COMMIT_PUBLISH_PREPARED)
		slot_set_prepared(slot, s->commit.slot[out->slot].stamp);
	if (out->actions & COMMIT_PUBLISH_COMMITTED)
		slot_set_committed(slot);
	if (out->actions & COMMIT_PUBLISH_EMPTY)
		slot_set_empty(slot);
	return 0;
}

bool snapshot_call(struct snapshot *s, uint64_t version, bool compare, void *stream)
{
	struct commit_out out;
	struct slot *slot;

	s->version = version;
	s->reason[0] = '\0';
	if (step_commit(s, COMMIT_CALL, &out) < 0)
		return false;
	slot = &s->epoch->arena->slot[out.slot];
	s->job = (struct copy_job){
		.plan = s->epoch->plan,
		.data = slot->data,
		.sums = epoch_own_sums(s->epoch, slot),
		.landed = s->epoch->landed,
		.started = s->started,
		.started_arg = s->started_arg,
	};
	if (compare && s->epoch->compare)
		compare_attach(s->epoch->compare, &s->job);
	if (s->copy_ops->begin(s->copy, &s->job, stream) == 0)
		return true;
	take_reason(s);
	(void)step_commit(s, COMMIT_FAILED, &out);
	return false;
}

void snapshot_start(struct snapshot *s, uint64_t version, bool go, bool compare,
                    uint64_t called_ns)
{
	const struct epoch *e = s->epoch;
	bool called = s->version == version;
	struct commit_out out;

	s->version = version;
	s->go = go;
	s->called_ns = called_ns;
	s->copied_ns = 0;
	s->committed = s->retire = s->cancelled = s->compared = s->differs = false;
	s->compare = compare && e->compare;
	s->phase = SNAPSHOT_FILLING;
	if (!go && !called)
		snprintf(s->reason, sizeof(s->reason),
		         "the spare slot of this rank was still in use");
	/* Refused or not, the vote of a skip is no. */
	if (!go && s->commit.phase == COMMIT_IDLE)
		(void)step_commit(s, COMMIT_SKIP, &out);
	for (uint32_t i = 0; i < e->arena->shape.rails; i++)
		stripe_begin(e->stripe[i], version, go, &e->arena->slot[s->commit.current],
		             i == 0 ? &s->job : NULL);
}

/* --- filling --- */

static void note_reason(struct snapshot *s)
{
	if (s->reason[0])
		return;
	if (s->filled == COMMIT_FAILED)
		s->copy_ops->why(s->copy, s->reason, sizeof(s->reason));
	if (s->filled == COMMIT_FAILED && !s->reason[0])
		snprintf(s->reason, sizeof(s->reason), "a copy or a block of its group failed");
	if (s->filled == COMMIT_DISSENT)
		snprintf(s->reason, sizeof(s->reason), "another rank of its group skipped it");
}

static int begin_vote(struct snapshot *s)
{
	struct commit_out out;
	bool prepared = s->go && step_commit(s, s->filled, &out) == 0 &&
	                s->filled == COMMIT_FILLED;

	s->words[0] = prepared;
	s->words[1] = s->version;
	s->words[2] = ~s->version;
	s->phase = SNAPSHOT_VOTING;
	return net_allreduce_begin(s->net, s->words, 3, NET_MIN, clock_deadline(s->timeout_ms),
	                           &s->vote);
}

/* All rails are through and the copy rests. */
static int conclude(struct snapshot *s)
{
	const struct epoch *e = s->epoch;
	bool good;

	s->filled = COMMIT_FILLED;
	for (uint32_t i = 0; i < e->arena->shape.rails; i++) {
		enum stripe_state state = stripe_state(e->stripe[i]);

		if (state == STRIPE_FAILED && s->filled != COMMIT_DISSENT)
			s->filled = COMMIT_FAILED;
		if (state == STRIPE_DISSENTED)
			s->filled = COMMIT_DISSENT;
	}
	if (s->go)
		note_reason(s);
	if (!s->compare)
		return begin_vote(s);
	good = s->go && s->filled == COMMIT_FILLED;
	s->words[0] = good;
	s->words[1] = good ? compare_word(e->compare) : 0;
	s->phase = SNAPSHOT_COMPARING;
	return net_allreduce_begin(s->net, s->words, 2, NET_SUM, clock_deadline(s->timeout_ms),
	                           &s->vote);
}

static int step_filling(struct snapshot *s)
{
	const struct epoch *e = s->epoch;
	bool running = false, progress = false, copied;
	int rc;

	for (uint32_t i = 0; i < e->arena->shape.rails; i++) {
		rc = stripe_step(e->stripe[i]);
		if (rc < 0)
			return rc;
		progress = progress || rc > 0;
		running = running || stripe_state(e->stripe[i]) == STRIPE_RUNNING;
	}
	if (s->go && !s->cancelled && stripe_state(e->stripe[0]) == STRIPE_DISSENTED) {
		s->copy_ops->cancel(s->copy);
		s->cancelled = true;
	}
	copied = !s->go || s->copy_ops->done(s->copy);
	if (copied && s->copied_ns == 0)
		s->copied_ns = clock_ns();
	if (running || !copied)
		return progress;
	rc = conclude(s);
	return rc < 0 ? rc : 1;
}

static int test_vote(struct snapshot *s)
{
	int rc = net_test(s->net, &s->vote);

	if (rc == 0 && s->vote.active)
		net_roll_call(s->net);
	return rc;
}

/* --- comparing --- */

/* All ranks find the same: that all compared, and whether all are equal. */
static int step_comparing(struct snapshot *s)
{
	int rc = test_vote(s);

	if (rc < 0 || s->vote.active)
		return rc;
	s->compared = s->words[0] == s->net->size;
	s->differs = s->compared && s->words[1] != 0;
	if (s->differs) {
		rc = compare_name(s->epoch->compare, s->net, s->timeout_ms, s->version, s->log,
		                  s->reason, sizeof(s->reason));
		if (rc < 0)
			return rc;
		if (s->net->rank == 0)
			log_line(s->log, FTMEM_LOG_ERROR,
			         "version %" PRIu64 " is dropped, its replicas differ: %s",
			         s->version, s->reason);
		s->filled = COMMIT_FAILED;
	}
	rc = begin_vote(s);
	return rc < 0 ? rc : 1;
}

/* --- voting --- */

static int step_voting(struct snapshot *s)
{
	struct commit_out out = {0};
	bool same;
	int rc = test_vote(s);

	if (rc < 0 || s->vote.active)
		return rc;
	same = s->words[1] == ~s->words[2];
	if (!same)
		log_line(s->log, FTMEM_LOG_ERROR,
		         "ranks snapshot different versions at once, between %" PRIu64
		         " and %" PRIu64 ": all must pass the same; they are dropped",
		         s->words[1], ~s->words[2]);
	s->committed = same && s->words[0] == 1;
	if (s->commit.phase == COMMIT_VOTING)
		s->committed = step_commit(s, s->committed ? COMMIT_YES : COMMIT_NO, &out) == 0 &&
		               s->committed;
	s->retire = out.actions & COMMIT_RETIRE;
	memset((void *)s->epoch->landed, COPY_PENDING, s->epoch->plan->blocks);
	s->over_ns = clock_ns();
	s->phase = SNAPSHOT_IDLE;
	return 1;
}

int snapshot_step(struct snapshot *s)
{
	switch (s->phase) {
	case SNAPSHOT_FILLING:
		return step_filling(s);
	case SNAPSHOT_COMPARING:
		return step_comparing(s);
	case SNAPSHOT_VOTING:
		return step_voting(s);
	default:
		return 0;
	}
}

bool snapshot_over(const struct snapshot *s)
{
	return s->phase == SNAPSHOT_IDLE;
}

/* Votes end together: the roll call tells who may not have voted. */
static void describe_vote(const struct snapshot *s, char *text, size_t bytes)
{
	struct net_who missing = net_roll_missing(s->net);

	snprintf(text, bytes, "version %" PRIu64 ", for the votes of all ranks%s%s", s->version,
	         missing.text[0] ? "; no sign of " : "", missing.text);
}

void snapshot_describe(const struct snapshot *s, char *text, size_t bytes)
{
	int64_t rank = -1;

	for (uint32_t i = 0; s->phase == SNAPSHOT_FILLING && rank < 0 &&
	     i < s->epoch->arena->shape.rails; i++)
		if (stripe_state(s->epoch->stripe[i]) == STRIPE_RUNNING)
			rank = stripe_waits_for(s->epoch->stripe[i]);
	if (s->phase == SNAPSHOT_IDLE)
		snprintf(text, bytes, "nothing");
	else if (s->phase == SNAPSHOT_VOTING || s->phase == SNAPSHOT_COMPARING)
		describe_vote(s, text, bytes);
	else if (rank >= 0)
		snprintf(text, bytes, "version %" PRIu64 ", for %s", s->version,
		         net_who(s->net, (uint32_t)rank).text);
	else
		snprintf(text, bytes, "version %" PRIu64 ", for its own copy", s->version);
}
