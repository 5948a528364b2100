/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One rank's part in a protected job: wires the modules together. The collective
 * steps (open, seal, restore, forget) run on the trainer's thread while the progress
 * thread is stopped; each step that may fail on one rank ends in session_agree(), so
 * that all ranks return the same result.
 */
#ifndef FTMEM_SESSION_H
#define FTMEM_SESSION_H

#include <pthread.h>

#include "epoch.h"
#include "keeper.h"
#include "map.h"
#include "opts.h"
#include "progress.h"
#include "topo.h"

/* For ftmem_stats(), which any thread may call. */
struct session_figures {
	uint64_t data_bytes, region_bytes, held_bytes, staging_bytes; /* of the sealed epoch */
	uint32_t window;                                /* the same; 0: none yet */
	uint64_t repaired_blocks;
	uint32_t lost_members;
	uint64_t moved_bytes;                           /* by the last restore */
	double rebuild_s, restore_s, move_s;            /* of the last restore */
};

struct ftmem {
	struct opts opts;
	struct net *net;
	struct map *map;
	struct topo *topo;
	struct keeper keeper;
	const struct copy_ops *copy_ops;
	struct copy *copy;
	struct region_set *regions;
	struct progress *progress;

	struct epoch *epoch;       /* sealed last; NULL before the first seal */
	struct epoch *former;      /* kept until the first commit of epoch */
	bool regions_changed;      /* since the last seal */
	bool must_restore;         /* versions of an earlier start are stored */
	bool block_chosen;         /* from the caches: what is stored goes first */
	uint64_t incarnation;      /* of this run; 0 before the first seal */

	pthread_mutex_t lock;      /* guards figures, and opts.block_bytes once open */
	struct session_figures figures;
	_Atomic uint64_t fence_ns;
};

int session_open(const struct ftmem_opts *opts, struct ftmem **out);
void session_close(struct ftmem *ft);
int session_seal(struct ftmem *ft);
int session_restore(struct ftmem *ft, uint64_t *version); /* restore.c */
int session_stored(struct ftmem *ft, const char *region, uint64_t *version,
                   uint64_t *bytes); /* stored.c */
int session_forget(struct ftmem *ft);

/* Collective, the first step of opening: finds out who is where and whether all pass the
 * same options; fills ft->map and ft->topo. EINVAL, ENOMEM, ENET, ETIMEOUT. session_meet.c */
int session_meet(struct ftmem *ft);

/* Collective. The result on which all ranks agree: the worst. Where this rank's own
 * is better, the message names the rank that failed and gives its message. */
int session_agree(struct ftmem *ft, int rc, const char *what);
/* The same where ranks come at different times, since the busiest has so many bytes to go
 * through: waits 10 ns for each longer. */
int session_agree_late(struct ftmem *ft, int rc, uint64_t bytes, const char *what);
/*
 * The same after messages from rank to rank. Who failed has marked its network, whose
 * messages may still be on their way; but all ranks are at the same collective step, and
 * take this one more. Then no rank uses the network any more.
 */
int session_agree_sent(struct ftmem *ft, int rc, uint64_t bytes, const char *what);

/* Before a collective step: versions under way are resolved, the thread is stopped. */
int session_pause(struct ftmem *ft);
/* After it, also if it failed. Returns rc, or ESYS if the thread cannot start. */
int session_resume(struct ftmem *ft, int rc);
/* The scrubber looks anew at what was written over in the arena of the sealed epoch. */
void session_scrub_again(struct ftmem *ft);

/* Begins to snapshot into the sealed epoch, with what its slots hold. */
void session_enter(struct ftmem *ft, const struct commit_slot slots[2], uint64_t incarnation);

/* Seals a new epoch in any case, while paused: what is stored must not be touched. */
int session_seal_anew(struct ftmem *ft);

/* The epoch's first commit: older epochs go, here and in the SMP. ESMP, ETIMEOUT. */
int session_retire_former(struct ftmem *ft);

/* No collective step and no version any more: this rank is out of step with others. */
void session_give_up(struct ftmem *ft, const char *why);

uint64_t session_deadline(const struct ftmem *ft);

/* For recover_next(): a random number on rank 0, 0 on the others; the largest is what all
 * ranks take. */
uint64_t session_chance(const struct ftmem *ft);

#endif
