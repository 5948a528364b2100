/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The trainer's side of the conversation with the node's SMP. Not thread safe.
 * Every call has the deadline of the client's timeout: ETIMEOUT. ESMP: there is no
 * SMP and none could be started, or it does not understand us (the message says
 * which format versions met), or the socket is not ours.
 */
#ifndef FTMEM_SMP_CLIENT_H
#define FTMEM_SMP_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "commit.h"
#include "log.h"
#include "smp/path.h"
#include "smp/wire.h"

struct smp_client;

struct smp_config {
	const char *dir, *job, *node;
	const char *smp_path;    /* NULL: do not start one */
	uint32_t rank;           /* or WIRE_RANK_OBSERVER */
	uint32_t expire_s, timeout_ms;
	uint32_t scrub_mib_s;    /* 0: leave it, or WIRE_SCRUB_OFF */
	const struct log *log;
};

/* What the SMP tells of itself. */
struct smp_info {
	int32_t pid;
	uint64_t started_ns;      /* CLOCK_REALTIME */
	uint64_t bytes;           /* of all arenas */
	uint32_t arenas;
	uint32_t clients;         /* connections of ranks */
	uint32_t expire_s, idle_s;/* settled time until expiry, how much has passed */
	uint32_t scrub_mib_s;     /* 0: nothing is scrubbed */
};

/* An arena held by the SMP. */
struct smp_entry {
	uint64_t epoch;
	uint32_t rank;
	uint64_t bytes;
	int32_t owner;               /* pid of the live process that leases it, 0: none */
	struct commit_slot slot[2];  /* as the SMP reads them: states not verified */
	uint64_t filled_ns[2];
	uint32_t damage;             /* enum wire_damage of the arena, by the scrubber */
	struct wire_check check[2];  /* of the slots: valid for this version */
};

/* Connects; starts an SMP if there is none, elected by an exclusive lock; the folder
 * is created if an SMP may be started. Strings of config are copied. A rank's expire_s and
 * scrub_mib_s, if not 0, replace the SMP's. If 0, one that is started to replace an SMP
 * which died gets that one's. */
int smp_connect(const struct smp_config *config, struct smp_client **out);
/* Says goodbye: ends this client's leases. Accepts NULL. */
void smp_close(struct smp_client *c);

/* Whether the SMP is still there. Does not wait. */
bool smp_alive(struct smp_client *c);
/* After it died: connects again, starting one if there is none. Leases are gone:
 * hand the arenas over with smp_adopt(). */
int smp_reconnect(struct smp_client *c);

int32_t smp_pid(const struct smp_client *c);
int smp_info(struct smp_client *c, struct smp_info *out);

/* Fills *entries (free() it) with what is held now, sorted by epoch, then rank. */
int smp_list(struct smp_client *c, struct smp_entry **entries, uint32_t *count);
/* A new arena of zeroed memory, leased to this process. *fd is the caller's.
 * EINVAL if there is one of that epoch and rank; ENOMEM. */
int smp_create(struct smp_client *c, uint64_t epoch, uint32_t rank, uint64_t bytes, int *fd);
/* The descriptor of an arena; with lease, exclusively for writing. Waits for the
 * former holder's end until the deadline, then EATTACHED names its pid. EINVAL if
 * there is no such arena. */
int smp_attach(struct smp_client *c, uint64_t epoch, uint32_t rank, bool lease, int *fd);
/* Hands an arena to an SMP that does not have it. fd is borrowed. Fine if it has
 * the same memory already. */
int smp_adopt(struct smp_client *c, uint64_t epoch, uint32_t rank, int fd);
int smp_release(struct smp_client *c, uint64_t epoch, uint32_t rank);
/* Removes the arena; its memory is freed soon after. */
int smp_drop(struct smp_client *c, uint64_t epoch, uint32_t rank);
/* Lets the SMP check the arena's slots anew before all others; does not wait for the
 * result. EINVAL: no such arena. */
int smp_scrub_again(struct smp_client *c, uint64_t epoch, uint32_t rank);
/*
 * What the SMP found in an arena, without waiting for it: ask, then take until it is there.
 * Other calls in between throw the answer away. Both: BUSY: not yet. ask: also if an earlier
 * answer is still to come. take: EINVAL: no such arena, or nothing was asked. ESMP.
 */
int smp_check_ask(struct smp_client *c, uint64_t epoch, uint32_t rank);
int smp_check_take(struct smp_client *c, struct smp_entry *out);
/* All arenas of epochs below epoch; memory as with smp_drop(). */
int smp_retire(struct smp_client *c, uint64_t epoch);
/* All arenas of the job on this node; memory likewise. */
int smp_forget(struct smp_client *c);
/* Frees all, ends the process and waits until it hung up, longer than for an answer: much memory
 * is not freed at once. Unless force is set, EATTACHED while other ranks are connected or other
 * processes hold leases. */
int smp_stop(struct smp_client *c, bool force);

#endif
