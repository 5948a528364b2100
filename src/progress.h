/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The one thread that drives snapshots under way and makes their MPI calls. It
 * takes versions from a queue, in call order, and sleeps when there are none. While
 * it runs, the network, the engine and the keeper are its own; collective calls of
 * the trainer stop it first (progress_stop()) and start it again afterwards.
 */
#ifndef FTMEM_PROGRESS_H
#define FTMEM_PROGRESS_H

#include "keeper.h"
#include "snapshot.h"

struct progress;

struct progress_config {
	struct net *net;
	const struct copy_ops *copy_ops;
	struct copy *copy;
	struct keeper *keeper;
	const struct log *log;
	uint32_t timeout_ms;       /* after which a version that waits is reported, and a copy
	                              that was cancelled counts as stuck */
	uint32_t compare_every;    /* versions asked for from one comparison of replicas to
	                              the next, 0: never */
	bool wait_busy;            /* progress_snapshot() waits for the spare slot, at most
	                              timeout_ms */
	void (*pin)(void *arg);    /* called first on the thread */
	void *pin_arg;
	/* Called on the thread when the epoch's first version is committed. */
	void (*retire)(void *arg);
	void *retire_arg;
};

struct progress_stats {
	uint64_t committed, dropped, skipped, newest, compared, differing;
	bool stored;               /* newest is valid */
	double call_s, copy_s, protect_s;
	uint64_t waited;           /* calls that waited for the spare slot */
	double wait_s;             /* sum */
};

/* ENOMEM, ESYS. */
int progress_new(const struct progress_config *config, struct progress **out);
/* Stops if running; versions under way are given up. Cancels a copy under way and waits for its
 * end, which a device that is stuck may not come to (copy_ops.done()). Accepts NULL. */
void progress_free(struct progress *p);

/* While stopped: from now on versions of this epoch. slots: as commit_init(). */
void progress_set_epoch(struct progress *p, struct epoch *e, const struct commit_slot slots[2],
                        uint64_t incarnation);

/* ESYS; nothing to do if running. On a broken network (net.h) it only looks after the
 * SMP: snapshots get ENET. */
int progress_start(struct progress *p);
/* Waits until every version asked for is resolved or the network has failed, then ends
 * the thread. ETIMEOUT: it runs on; the message says for whom it waits. Nothing to do
 * if stopped. */
int progress_stop(struct progress *p, uint64_t deadline_ns);

/* Ends the thread without waiting for what is under way: for when the network is about
 * to end, or a version must not be waited for any longer. Only if it is just finding out
 * which replica differs (compare_name()) that is ended first, which may take timeout_ms
 * for each of its messages. Further versions are refused with why. */
void progress_abandon(struct progress *p, const char *why);
/* ENET if the network failed: nothing can be done with it any more. */
int progress_check(struct progress *p);

/* As ftmem_snapshot(), ftmem_skip() and ftmem_wait(), with their results. */
int progress_snapshot(struct progress *p, uint64_t version, void *stream);
int progress_skip(struct progress *p, uint64_t version);
int progress_wait(struct progress *p, uint64_t version, uint64_t deadline_ns);

/* Any thread. */
void progress_read(struct progress *p, struct progress_stats *out);

/* After a restore: this version is committed, larger ones may come again. */
void progress_note_restored(struct progress *p, uint64_t version);
/* Nothing is stored, any version may come. */
void progress_note_forgotten(struct progress *p);

#endif
