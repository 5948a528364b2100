/* SPDX-License-Identifier: BSD-3-Clause */
/* The life of versions on one rank: what snapshot.c and stripe.c do. */
#include <stdlib.h>
#include <string.h>

#include "world.h"

/* A restored version that moved to a new epoch is snapshotted again. */
static bool snapshots_again(const struct world *w)
{
	return w->found == 0 && !w->in_place;
}

static struct identity identity_of(const struct world *w, uint32_t call, uint32_t version)
{
	if (snapshots_again(w) && call == 0)
		return w->restored;
	return (struct identity){w->run, version};
}

static uint32_t version_of(const struct world *w, uint32_t call)
{
	return w->base + 2 * (snapshots_again(w) ? call : call + 1);
}

void engine_init(struct world *w, uint32_t rank)
{
	const struct map *map = w->map[w->run];
	struct process *p = &w->process[rank];
	uint32_t *ids = NULL;

	if (map_rails_of(map, rank, &ids, &p->parts) || p->parts > WORLD_RAILS) {
		world_break(w, "rank %u is in too many rails for this test", rank);
		p->parts = 0;
	}
	for (uint32_t i = 0; i < p->parts; i++) {
		map_rail(map, ids[i], &p->part[i].rail);
		p->part[i].me = (uint32_t)rail_find(&p->part[i].rail, rank);
	}
	free(ids);
}

void engine_begin(struct world *w, uint32_t rank, const struct commit_slot slots[2])
{
	struct process *p = &w->process[rank];
	bool again = snapshots_again(w) && w->flaw != FLAW_STAMPS_ANEW;

	/* What is restored keeps its stamp: it is no newer than it was. */
	commit_init(&p->commit, slots, again ? w->choice.stamp.incarnation : w->incarnation);
	p->life = LIFE_RUN;
}

/* --- messages --- */

static void send(struct world *w, const struct part *from, uint32_t to, struct message message)
{
	struct process *p = &w->process[from->rail.rank[to]];

	if (p->life == LIFE_DEAD)
		return;
	for (uint32_t i = 0; i < p->parts; i++) {
		struct inbox *inbox = &p->part[i].inbox[from->me];

		if (p->part[i].rail.id != from->rail.id)
			continue;
		if (inbox->count == WORLD_INBOX) {
			world_break(w, "an inbox is too small for this test");
			return;
		}
		inbox->message[(inbox->first + inbox->count++) % WORLD_INBOX] = message;
		p->part[i].coming++;
	}
}

bool engine_deliver(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];
	struct inbox *ready[WORLD_RAILS * WORLD_NODES];
	struct part *to[WORLD_RAILS * WORLD_NODES];
	uint32_t count = 0, chosen;

	for (uint32_t i = 0; i < p->parts; i++)
		for (uint32_t j = 0; p->part[i].coming > 0 && j < p->part[i].rail.n; j++)
			if (p->part[i].inbox[j].count > p->part[i].inbox[j].arrived) {
				to[count] = &p->part[i];
				ready[count++] = &p->part[i].inbox[j];
			}
	if (count == 0)
		return false;
	chosen = world_random(w, count);
	ready[chosen]->arrived++;
	to[chosen]->coming--;
	return true;
}

static bool receive(struct part *part, uint32_t from, enum message_kind kind, struct message *out)
{
	struct inbox *inbox = &part->inbox[from];

	if (inbox->arrived == 0 || inbox->message[inbox->first].kind != kind)
		return false;
	*out = inbox->message[inbox->first];
	inbox->first = (inbox->first + 1) % WORLD_INBOX;
	inbox->arrived--;
	inbox->count--;
	return true;
}

/* --- one rail --- */

/* Sends to, or hears from, one member that is still missing. */
static bool exchange(struct world *w, struct process *p, struct part *part, struct message message)
{
	uint32_t kind = message.kind;
	struct message got;

	for (uint32_t i = 0; i < part->rail.n; i++) {
		if (!(part->sent[kind] >> i & 1)) {
			part->sent[kind] |= 1u << i;
			send(w, part, i, message);
			return true;
		}
		if (part->heard[kind] >> i & 1 || !receive(part, i, message.kind, &got))
			continue;
		part->heard[kind] |= 1u << i;
		if (kind == MESSAGE_INTENT)
			part->all_go = part->all_go && got.good && got.version == p->version;
		if (kind == MESSAGE_BLOCKS)
			part->mixed = part->mixed || identity_cmp(got.data, p->data) != 0;
		if (kind == MESSAGE_TRAILER && w->flaw != FLAW_IGNORES_TRAILERS)
			part->bad = part->bad || !got.good;
		return true;
	}
	return false;
}

static bool complete(const struct part *part, enum message_kind kind)
{
	uint32_t all = (1u << part->rail.n) - 1;

	return part->sent[kind] == all && part->heard[kind] == all;
}

static bool step_part(struct world *w, struct process *p, struct part *part)
{
	bool go = p->go[p->resolved], lies = !go && w->flaw == FLAW_SKIPS_SILENTLY;
	struct identity data = p->copy_good ? p->data : (struct identity){0, 0};

	if (!complete(part, MESSAGE_INTENT))
		return exchange(w, p, part,
		                (struct message){MESSAGE_INTENT, p->version, go || lies, data});
	if (!part->all_go || !(go || lies)) {
		part->state = RAIL_DISSENTED;
		return true;
	}
	if (p->copy_steps > 0)
		return false;
	if (!complete(part, MESSAGE_BLOCKS))
		return exchange(w, p, part, (struct message){MESSAGE_BLOCKS, 0, true, data});
	if (!complete(part, MESSAGE_TRAILER))
		return exchange(w, p, part,
		                (struct message){MESSAGE_TRAILER, 0, p->copy_good || lies, data});
	part->bad = part->bad || world_chance(w, w->fail_percent);
	part->state = part->bad || !p->copy_good ? RAIL_FAILED : RAIL_COMPLETE;
	return true;
}

/* --- the protocol --- */

static bool step_commit(struct world *w, struct process *p, enum commit_event event)
{
	int newest = commit_newest(&p->commit);
	struct commit_out out;
	uint32_t rank = (uint32_t)(p - w->process);

	if (commit_step(&p->commit, event, p->version, &out)) {
		world_break(w, "rank %u: event %d of version %u is refused", rank, (int)event,
		            p->version);
		return false;
	}
	if (event == COMMIT_CALL && newest >= 0 && w->flaw == FLAW_OVERWRITES_NEWEST) {
		p->commit.slot[out.slot].state = SLOT_EMPTY;
		p->commit.current = out.slot = (uint32_t)newest;
		p->commit.slot[newest] = (struct commit_slot){SLOT_FILLING, p->commit.under_way};
	}
	p->pending = out.actions;
	p->slot = out.slot;
	return true;
}

static void vote(struct world *w, struct process *p, bool yes)
{
	struct vote *v = &w->vote[p->resolved];
	uint32_t bit = 1u << (uint32_t)(p - w->process);

	if ((v->yes | v->no) == 0)
		v->least = v->most = p->version;
	v->least = p->version < v->least ? p->version : v->least;
	v->most = p->version > v->most ? p->version : v->most;
	*(yes ? &v->yes : &v->no) |= bit;
	if (v->yes == (1u << w->ranks) - 1 && v->least == v->most) {
		w->tally->commits++;
		judge_committed(w, p->data);
	} else if ((v->yes | v->no) == (1u << w->ranks) - 1) {
		w->tally->drops++;
	}
}

static void retire(struct world *w, uint32_t rank)
{
	struct machine *m = &w->machine[w->machine_of[w->node_of[rank]]];

	for (uint32_t i = 0; i < WORLD_ARENAS; i++)
		if (m->arena[i].used && m->arena[i].epoch < w->epoch)
			m->arena[i].used = false;
}

/* The first of the actions that are still to be taken. */
static void act(struct world *w, uint32_t rank)
{
	static const char *const name[] = {"publishes FILLING",   "says GO",
	                                   "says SKIP",           "begins to copy",
	                                   "cancels the copy",    "publishes PREPARED",
	                                   "publishes COMMITTED", "publishes EMPTY",
	                                   "votes yes",           "votes no",
	                                   "retires older epochs"};
	struct process *p = &w->process[rank];
	uint32_t action = p->pending & -p->pending;
	struct world_arena *a = p->arena;
	struct commit_slot *slot = &a->slot[p->slot];

	p->pending ^= action;
	world_trace(w, "rank %u %s, version %u, slot %u", rank, name[__builtin_ctz(action)],
	            p->version, p->slot);
	switch ((enum commit_action)action) {
	case COMMIT_PUBLISH_FILLING: *slot = (struct commit_slot){SLOT_FILLING, {0, 0}}; break;
	case COMMIT_BEGIN_COPY:
		a->data[p->slot] = (struct identity){0, 0};
		a->parity[p->slot] = false;
		break;
	case COMMIT_PUBLISH_PREPARED:
		*slot = (struct commit_slot){SLOT_PREPARED, p->commit.under_way};
		break;
	case COMMIT_PUBLISH_COMMITTED: slot->state = SLOT_COMMITTED; break;
	case COMMIT_PUBLISH_EMPTY: *slot = (struct commit_slot){SLOT_EMPTY, {0, 0}}; break;
	case COMMIT_VOTE_YES:
	case COMMIT_VOTE_NO: vote(w, p, action == COMMIT_VOTE_YES); break;
	case COMMIT_RETIRE: retire(w, rank); break;
	default: break;
	}
}

/* The trainer asks for its next version. */
static bool call(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];
	bool idle = p->called == p->resolved, first = snapshots_again(w) && p->called == 0;
	bool again = snapshots_again(w) && p->called > 0;

	if (p->called == WORLD_CALLS)
		return false;
	/* ftmem_restore() returns when all know that the version is committed again. */
	for (uint32_t r = 0; again && r < w->ranks; r++)
		if (w->process[r].resolved == 0 || w->vote[0].no)
			return false;
	if (again && p->called == 1)
		commit_init(&p->commit, p->arena->slot, w->incarnation);
	p->go[p->called++] = idle && commit_can_fill(&p->commit)
	                     && (first || !world_chance(w, w->skip_percent));
	if (!idle) {
		world_trace(w, "rank %u asks for version %u: skipped", rank,
		            version_of(w, p->called - 1));
		return true;
	}
	p->version = version_of(w, p->resolved);
	if (!first && w->fail_percent > 0 && world_chance(w, 1))
		p->version++; /* the user's mistake: another version than the other ranks */
	p->data = identity_of(w, p->resolved, p->version);
	p->copy_steps = 1 + world_random(w, 8);
	world_trace(w, "rank %u asks for version %u%s", rank, p->version,
	            p->go[p->resolved] ? "" : ": skipped");
	if (p->go[p->resolved])
		step_commit(w, p, COMMIT_CALL);
	return true;
}

/* The engine takes up the next version. */
static bool start(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];

	if (p->called == p->resolved)
		return false;
	if (!p->go[p->resolved]) {
		if (p->commit.phase != COMMIT_IDLE)
			return false;
		p->version = p->version > version_of(w, p->resolved) ? p->version
		                                                     : version_of(w, p->resolved);
		p->data = identity_of(w, p->resolved, p->version);
		step_commit(w, p, COMMIT_SKIP);
		/* It joins the vote when it has heard its peers, as all do. */
		p->pending = 0;
		p->copy_steps = 0;
	}
	p->copy_good = false;
	for (uint32_t i = 0; i < p->parts; i++) {
		struct part *part = &p->part[i];

		part->state = RAIL_RUNNING;
		part->all_go = true;
		part->bad = part->mixed = false;
		for (int kind = 0; kind < 3; kind++)
			part->sent[kind] = part->heard[kind] = 1u << part->me;
	}
	p->engine = ENGINE_FILLING;
	return true;
}

static void copy(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];

	if (--p->copy_steps > 0)
		return;
	p->copy_good = !world_chance(w, w->fail_percent);
	if (p->copy_good && p->data.run == w->run)
		w->copied[p->data.run][p->data.version] |= 1u << rank;
	if (!p->copy_good)
		world_trace(w, "rank %u: the copy fails", rank);
}

/* All rails are through and the copy rests. */
static void conclude(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];
	enum commit_event event = COMMIT_FILLED;
	bool parity = true;

	p->engine = ENGINE_VOTING;
	for (uint32_t i = 0; i < p->parts; i++) {
		if (p->part[i].state == RAIL_FAILED && event != COMMIT_DISSENT)
			event = COMMIT_FAILED;
		if (p->part[i].state == RAIL_DISSENTED)
			event = COMMIT_DISSENT;
		parity = parity && p->part[i].state == RAIL_COMPLETE && !p->part[i].mixed;
	}
	if (!p->go[p->resolved]) {
		p->pending = COMMIT_VOTE_NO;
		return;
	}
	p->arena->data[p->slot] = p->copy_good ? p->data : (struct identity){0, 0};
	p->arena->parity[p->slot] = parity;
	step_commit(w, p, event);
}

static bool step_filling(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];
	bool running = false;

	if (p->copy_steps > 0 && world_chance(w, 50)) {
		copy(w, rank);
		return true;
	}
	for (uint32_t i = 0; i < p->parts; i++) {
		if (p->part[i].state != RAIL_RUNNING)
			continue;
		running = true;
		if (step_part(w, p, &p->part[i]))
			return true;
	}
	if (p->copy_steps > 0) {
		copy(w, rank);
		return true;
	}
	if (running)
		return false;
	conclude(w, rank);
	return true;
}

enum death engine_stage(const struct process *p)
{
	for (uint32_t i = 0; i < p->parts; i++) {
		const struct part *part = &p->part[i];

		if (part->state != RAIL_RUNNING)
			continue;
		return !complete(part, MESSAGE_INTENT)   ? DEATH_INTENTS
		       : p->copy_steps > 0               ? DEATH_COPY
		       : !complete(part, MESSAGE_BLOCKS) ? DEATH_BLOCKS
		                                         : DEATH_TRAILERS;
	}
	return p->copy_steps > 0 ? DEATH_COPY : DEATH_EXCHANGED;
}

static bool step_voting(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];
	const struct vote *v = &w->vote[p->resolved];
	uint32_t all = (1u << w->ranks) - 1;

	if ((v->yes | v->no) != all)
		return false;
	p->engine = ENGINE_IDLE;
	step_commit(w, p, v->yes == all && v->least == v->most ? COMMIT_YES : COMMIT_NO);
	p->resolved++;
	return true;
}

bool engine_step(struct world *w, uint32_t rank)
{
	struct process *p = &w->process[rank];

	if (p->pending) {
		act(w, rank);
		return true;
	}
	if (world_chance(w, p->called == p->resolved ? 100 : (w->skip_percent + 3) / 5)
	    && call(w, rank))
		return true;
	switch (p->engine) {
	case ENGINE_IDLE: return start(w, rank);
	case ENGINE_FILLING: return step_filling(w, rank);
	default: return step_voting(w, rank);
	}
}
