/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The exchange of one version within one rail, as seen by one member. Driven by
 * polling; never waits.
 *
 *   tell     each member tells each other GO or SKIP and its version. Unless all
 *            say GO to the same version, nothing is exchanged.
 *   move     row by row: own data blocks go, as they land, to the members that hold
 *            parity of their stripe; blocks of the others arrive in staging buffers;
 *            when the k blocks of a row are there, its parity block is written once.
 *            Once all said GO this always runs to its end, even if a copy failed.
 *   seal     each member sends each other the checksums of all its data and whether
 *            its copy is good; what was received is compared with them.
 *
 * Sends go to members me+1, me+2, .. so that nobody is flooded. At most `window`
 * rows are in flight in each direction. All messages between two members are
 * ordered, so consecutive versions may overlap on the wire.
 */
#ifndef FTMEM_STRIPE_H
#define FTMEM_STRIPE_H

#include "copy.h"
#include "limiter.h"
#include "log.h"
#include "net.h"
#include "slot.h"

struct stripe;

struct stripe_config {
	struct net *net;
	const struct slot_shape *shape; /* borrowed */
	uint32_t rail;                  /* index into shape->rail */
	uint32_t window;
	struct limiter *limiter;        /* borrowed */
	const struct log *log;
};

enum stripe_state {
	STRIPE_RUNNING,
	STRIPE_COMPLETE,  /* parity and checksums of this rail are in the slot */
	STRIPE_DISSENTED, /* a member skips: nothing was exchanged */
	STRIPE_FAILED,    /* exchanged, but a copy failed or a checksum did not fit */
};

/* Allocates all it needs. ENOMEM; ENET if the rail's number is beyond MPI's tags. */
int stripe_new(const struct stripe_config *config, struct stripe **out);
/* Gives up transfers under way: their memory must then stay mapped. */
void stripe_free(struct stripe *s);
/* Whether a transfer is under way. */
bool stripe_busy(const struct stripe *s);

uint64_t stripe_staging_bytes(const struct stripe *s);

/*
 * Begins a version: go false tells the others SKIP. slot and job (NULL if this rail
 * does not hold the rank's data) are borrowed until the state is no longer RUNNING.
 */
void stripe_begin(struct stripe *s, uint64_t version, bool go, struct slot *slot,
                  const struct copy_job *job);
/* Does what can be done now: 1 if there was something, 0, or ENET. */
int stripe_step(struct stripe *s);
enum stripe_state stripe_state(const struct stripe *s);
/* A rank that this member waits for, or -1. */
int64_t stripe_waits_for(const struct stripe *s);

#endif
