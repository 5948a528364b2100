/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Looks for flipped bits in what ftmem-smp holds, while nothing else is to be done: reads
 * the committed slots of all arenas, block by block, and compares them with their
 * checksums, these with theirs, and the description of each arena with its own.
 *
 * A step at a time, of at most 256 KiB (scrub_walk.h), at a rate: between two steps the server
 * serves its clients. Arenas are looked at in turn; a version that was looked at as a whole
 * is left alone for SCRUB_AGAIN_S. A slot that is written anew meanwhile is left, and its
 * next look goes on behind the block where this one stopped, so that no part of a slot is
 * passed over for ever where versions come faster than they can be read.
 *
 * A block counts as damaged if it does not fit its checksum, twice, while the header of its
 * slot stayed the same, and the checksums still fit theirs. Everything read may be hostile:
 * a slot's parts follow from rails that were checked, and are read with pread(), so that
 * nothing it says costs memory or faults. A slot whose memory is not there is not walked.
 *
 * What is found is kept in the store (struct store_check).
 */
#ifndef FTMEM_SMP_SCRUB_H
#define FTMEM_SMP_SCRUB_H

#include <stdint.h>

#include "log.h"
#include "smp/store.h"

#define SCRUB_AGAIN_S 600u
/* MiB/s at most: more than memory has. */
#define SCRUB_MIB_S_MAX (1u << 20)

struct scrub;

/* store and log are borrowed. ENOMEM. */
int scrub_new(struct store *store, const struct log *log, struct scrub **out);
void scrub_free(struct scrub *s); /* accepts NULL */

/* When the next step is due, on CLOCK_MONOTONIC. */
uint64_t scrub_due(const struct scrub *s);
/* One step, at mib_s, which is not 0. */
void scrub_step(struct scrub *s, uint32_t mib_s, uint64_t now_ns);

#endif
