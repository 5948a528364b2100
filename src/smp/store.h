/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The arenas that ftmem-smp holds: owner of their memory and of who may write them.
 * Never maps them: slot headers are read with pread(), so that neither a torn write
 * nor hostile contents can do more than show nonsense, and no page is allocated by
 * looking at it.
 *
 * A lease belongs to a process, wherever that can be watched, and ends with it; else
 * to the connection it was taken on.
 *
 * What the scrubber (scrub.h) finds is kept with each arena, and told with its slots as
 * long as they hold the version that it looked at.
 */
#ifndef FTMEM_SMP_STORE_H
#define FTMEM_SMP_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "smp/process.h"
#include "smp/wire.h"

/* Arenas at most: of one node and job, so far more than there are. */
#define STORE_MAX 4096u

/* Who asks: connection is not 0; process may be NULL. */
struct holder {
	struct process *process;
	uint64_t connection;
	int32_t pid;
};

/* What is known of a slot: valid while its state word and incarnation are these. */
struct store_slot_check {
	uint64_t word, incarnation;
	uint64_t looked_ns; /* CLOCK_MONOTONIC of the last full look; 0: none yet */
	uint64_t next;      /* the block that the next look begins with */
	struct wire_check found;
};

struct store_check {
	uint32_t damage;    /* enum wire_damage, of the description */
	uint64_t looked_ns; /* at the description; 0: not yet */
	bool first;         /* asked for: before all others */
	struct store_slot_check slot[2];
};

struct store_entry {
	uint64_t epoch, bytes;
	uint32_t rank;
	int fd; /* owned */
	dev_t dev;
	ino_t ino;
	struct holder lease; /* connection 0: free */
	struct store_check check; /* the scrubber's */
};

struct store;

/* table outlives the store and is borrowed. ENOMEM. */
int store_new(const char *job, struct process_table *table, struct store **out);
void store_free(struct store *s); /* accepts NULL */
/* From now on it takes at most so many arenas, if that is less than STORE_MAX. */
void store_limit(struct store *s, uint32_t arenas);

uint32_t store_count(const struct store *s);
uint32_t store_leases(const struct store *s);
uint64_t store_bytes(const struct store *s);
/* Changes whenever arenas come or go. */
uint64_t store_generation(const struct store *s);
/* Changes whenever one is to be looked at anew. */
uint64_t store_asks(const struct store *s);
/* NULL beyond the end. */
const struct store_entry *store_at(const struct store *s, uint64_t index);
/* The same, for the scrubber to note what it finds. */
struct store_entry *store_scrubbed(struct store *s, uint64_t index);
/* What the slots seem to hold, of which nothing is verified but what the scrubber found. */
void store_slots(const struct store_entry *e, struct wire_slot out[2]);

/* All: *fd is the store's. */

/* EINVAL: there is one of that epoch and rank, a size that cannot be. ENOMEM, ESYS. */
int store_create(struct store *s, uint64_t epoch, uint32_t rank, uint64_t bytes,
                 const struct holder *holder, int *fd);
/* holder NULL: without lease. EINVAL: no such arena. EATTACHED names the holder, whose
 * pid is left in *pid. */
int store_attach(struct store *s, uint64_t epoch, uint32_t rank, const struct holder *holder,
                 int *fd, int32_t *pid);
/* Takes fd, which came from outside. Leases. EINVAL: it is no arena of this job, epoch
 * and rank in sealed memory, or another one is held. EATTACHED as above. */
int store_adopt(struct store *s, uint64_t epoch, uint32_t rank, int fd, const struct holder *holder,
                int32_t *pid);
/* With again what was found is forgotten, and the scrubber looks at the arena before all
 * others. EINVAL: no such arena. */
int store_check(struct store *s, uint64_t epoch, uint32_t rank, bool again,
                const struct store_entry **out);
/* EINVAL: no such arena, or leased by another. */
int store_release(struct store *s, uint64_t epoch, uint32_t rank, const struct holder *holder);

/* Below: arenas are removed at once. Their memory is freed by a thread (reap.h): soon, and before
 * store_finish() or store_free() returns. */

/* EINVAL: no such arena. EATTACHED: another holds it. */
int store_drop(struct store *s, uint64_t epoch, uint32_t rank, const struct holder *holder,
               int32_t *pid);
/* All arenas of epochs below epoch. */
void store_retire(struct store *s, uint64_t epoch);
/* All arenas. */
void store_forget(struct store *s);
/* Returns when the memory of all that was removed is free. */
void store_finish(struct store *s);

/* Leases of the process, that has ended and is referenced by the caller, are free. */
void store_process_ended(struct store *s, const struct process *process);
/* A connection has ended; with bye, its process said that it is done, so that leases
 * taken there are free though the process lives. */
void store_connection_ended(struct store *s, uint64_t connection, bool bye);
/* Whether anyone but holder has a lease. */
bool store_leased_by_others(const struct store *s, const struct holder *holder);

#endif
