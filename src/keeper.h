/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A rank's link to its SMP, and the arenas the SMP must hold for it: when the SMP
 * dies, another is started and the arenas are handed over. Asks it now and then whether its
 * scrubber found damage in them, without waiting for the answer. One thread at a time.
 */
#ifndef FTMEM_KEEPER_H
#define FTMEM_KEEPER_H

#include <stdatomic.h>

#include "slot.h"
#include "smp/client.h"

#define KEEPER_ARENAS 2

struct keeper {
	struct smp_client *smp;
	const struct log *log;
	struct arena *arena[KEEPER_ARENAS]; /* borrowed; NULL: none */
	uint64_t next_look_ns;
	bool owing;            /* the SMP may lack an arena */
	bool failing;          /* said so already */
	uint64_t next_ask_ns;  /* for damage */
	int asked;             /* the arena asked for, or to be asked for next */
	bool asking;
	uint64_t bad[KEEPER_ARENAS]; /* damaged blocks of each, as told last */
	_Atomic uint64_t damaged;    /* their sum: any thread may read it */
};

/* Connects; starts an SMP if there is none. */
int keeper_init(struct keeper *k, const struct smp_config *config);
void keeper_deinit(struct keeper *k);

/* From now on the SMP must hold a, which is writable; a freed arena must be let go first. */
void keeper_hold(struct keeper *k, struct arena *a);
void keeper_let_go(struct keeper *k, const struct arena *a);

/* Makes sure that there is an SMP with our arenas, whose headers are mended where that is to
 * be done, as the log then says. ESMP, ETIMEOUT; a later call
 * tries again. */
int keeper_ensure(struct keeper *k);
/* The same, but looks only now and then, and logs a failure once; and damage that the SMP
 * found, once. */
void keeper_watch(struct keeper *k, uint64_t now_ns);

#endif
