/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of one version on one rank: copied, exchanged, prepared, voted on,
 * committed or dropped. Carries out what commit.h decides. Driven by polling.
 *
 * If replicas are compared (compare.h), that is before the version is prepared, and one
 * whose replicas differ never is.
 *
 * snapshot_call() is made by the trainer's thread while the engine is idle, all
 * else by the progress thread; progress.c hands the engine from one to the other
 * under its lock.
 */
#ifndef FTMEM_SNAPSHOT_H
#define FTMEM_SNAPSHOT_H

#include "commit.h"
#include "epoch.h"

enum snapshot_phase { SNAPSHOT_IDLE, SNAPSHOT_FILLING, SNAPSHOT_COMPARING, SNAPSHOT_VOTING };

struct snapshot {
	struct net *net;
	const struct copy_ops *copy_ops;
	struct copy *copy;
	struct epoch *epoch;
	const struct log *log;
	uint32_t timeout_ms;     /* of naming what differs */
	void (*started)(void *arg); /* the copy has begun, see struct copy_job */
	void *started_arg;
	struct commit commit;

	enum snapshot_phase phase;
	uint64_t version;
	bool go, cancelled;
	struct copy_job job;
	enum commit_event filled; /* how filling ended */
	struct net_req vote;      /* also of the comparison */
	uint64_t words[3];        /* all-reduce: prepared, version, its complement;
	                             comparing: ranks that compared, sum of their words */
	uint64_t called_ns, copied_ns, over_ns;
	bool compare;            /* replicas of the version under way */
	bool compared, differs;  /* of the version that is over */
	bool committed, retire;  /* the same */
	char reason[COMPARE_TEXT]; /* why it was dropped here, "" if elsewhere */
};

void snapshot_init(struct snapshot *s, const struct commit_slot slots[2], uint64_t incarnation);

/* Begins to fill the spare slot; only if commit_can_fill(). started() is called if there is
 * anything to copy. False: the copy could not begin (reason is set); the version must still
 * be started, as a skip. */
bool snapshot_call(struct snapshot *s, uint64_t version, bool compare, void *stream);

/* Starts the exchange and vote of a version; go as snapshot_call() said, false if it
 * was not called. compare: whether all ranks compare their replicas of it. */
void snapshot_start(struct snapshot *s, uint64_t version, bool go, bool compare,
                    uint64_t called_ns);
/* Does what can be done now: 1 if there was something, 0, or ENET: the network is
 * of no more use. */
int snapshot_step(struct snapshot *s);
/* After a start: whether the version is resolved, see committed and retire. */
bool snapshot_over(const struct snapshot *s);

/* Writes for whom or what the version waits. */
void snapshot_describe(const struct snapshot *s, char *text, size_t bytes);

#endif
