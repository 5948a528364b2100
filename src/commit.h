/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Two-phase commit of one rank, as a pure step function: an event goes in, the
 * actions to take come out. No clock, thread, allocation or I/O. The safety
 * argument is in docs/protocol.md.
 *
 *   IDLE --CALL--> FILLING --FILLED--> VOTING --YES--> IDLE (committed)
 *                     |                   \-----NO---> IDLE (dropped)
 *                     |--DISSENT/FAILED--> VOTING (no) --NO--> IDLE
 *   IDLE --SKIP--> VOTING (no) --NO--> IDLE
 *
 * Versions are handled one after the other. The trainer's call is decided when it
 * comes, with commit_can_fill(): a CALL if true, else a SKIP, which waits in order
 * until the versions before it are resolved and is stepped then. Every CALL or SKIP
 * leads to exactly one vote, and every vote to exactly one YES or NO.
 *
 * A CALL is followed by exactly one of
 *   FILLED   all members of all own rails said GO to this very version, all blocks
 *            and trailers came, and all of them and the own copy are good;
 *   DISSENT  a member said SKIP, or GO to another version;
 *   FAILED   all said GO, but the own copy, a block or a trailer is not good.
 * After DISSENT and FAILED the slot is published EMPTY at once, yet the exchange
 * goes on to its end in every rail whose members all said GO, with trailers that say
 * failed if the own copy did not complete. The next version's CALL is not stepped
 * before that, since it may take the same slot.
 *
 * There is no event for a vote that does not end: a rank that voted yes stays
 * PREPARED, since others may have committed on the strength of it.
 */
#ifndef FTMEM_COMMIT_H
#define FTMEM_COMMIT_H

#include <stdbool.h>

#include "slot.h"

enum commit_phase { COMMIT_IDLE, COMMIT_FILLING, COMMIT_VOTING };

enum commit_event {
	COMMIT_CALL,    /* the trainer asks for a version, the spare slot is free */
	COMMIT_SKIP,    /* the trainer asked while the spare slot was in use */
	COMMIT_DISSENT, /* a rail peer said that it skips this version */
	COMMIT_FILLED,  /* data, parity and their checksums are complete */
	COMMIT_FAILED,  /* copy or exchange failed here or at a rail peer */
	COMMIT_YES,     /* the all-reduce says: prepared everywhere */
	COMMIT_NO,      /* the all-reduce says: somebody gave up */
};

enum commit_action { /* bits, to be taken in this order */
	COMMIT_PUBLISH_FILLING = 1,   /* slot_set_filling(slot) */
	COMMIT_TELL_GO = 2,           /* tell all members of all own rails: I fill */
	COMMIT_TELL_SKIP = 4,         /* tell them: I do not */
	COMMIT_BEGIN_COPY = 8,
	COMMIT_CANCEL_COPY = 16,      /* if it is still under way */
	COMMIT_PUBLISH_PREPARED = 32,
	COMMIT_PUBLISH_COMMITTED = 64,
	COMMIT_PUBLISH_EMPTY = 128,
	COMMIT_VOTE_YES = 256,        /* join the all-reduce */
	COMMIT_VOTE_NO = 512,
	COMMIT_RETIRE = 1024,         /* first commit since commit_init(): arenas of
	                                 older epochs go */
};

struct commit_slot {
	enum slot_state state;
	struct stamp stamp;
};

struct commit {
	enum commit_phase phase;
	struct commit_slot slot[2];
	uint64_t incarnation; /* of this run */
	uint64_t next;        /* the least version that may be asked for */
	uint32_t current;     /* slot of the version under way, if filling */
	bool filling;         /* whether a slot is FILLING or PREPARED under way */
	bool epoch_committed; /* whether a version was committed since commit_init() */
	struct stamp under_way;
};

struct commit_out {
	uint32_t actions; /* bits of enum commit_action */
	uint32_t slot;    /* that PUBLISH_* speak of */
};

/*
 * slots: what the arena's slots hold; all but COMMITTED counts as EMPTY (recovery
 * has resolved what was PREPARED). incarnation: see recover_incarnation(); a new one
 * after every restore and forget, also within one run, since versions may come
 * again after those.
 */
void commit_init(struct commit *c, const struct commit_slot slots[2], uint64_t incarnation);

/* Whether a call that comes now may fill: no version is under way. */
bool commit_can_fill(const struct commit *c);

/*
 * version: for CALL and SKIP; must be larger than that of any CALL or SKIP before,
 * also of dropped ones, and below FTMEM_VERSION_MAX. The session checks this
 * against the last version asked for or restored before it answers the trainer.
 * EINVAL for such a version and for an event that the phase does not allow: c is
 * unchanged, out->actions 0.
 */
int commit_step(struct commit *c, enum commit_event event, uint64_t version,
                struct commit_out *out);

/* The newest committed slot, or -1. */
int commit_newest(const struct commit *c);

/* The slot to be written next, by a snapshot or by a rebuild: one that holds nothing,
 * else the one that is not the newest committed. */
uint32_t commit_spare(const struct commit_slot slots[2]);

#endif
