/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a seal has frozen: the layout, the arena, and all that a snapshot needs so
 * that it allocates nothing.
 */
#ifndef FTMEM_EPOCH_H
#define FTMEM_EPOCH_H

#include "compare.h"
#include "copy.h"
#include "limiter.h"
#include "net.h"
#include "slot.h"
#include "stripe.h"

/* Buffers for the exchange at most: bounds the window, see struct ftmem_stats. */
#define EPOCH_STAGING_MAX (UINT64_C(64) << 20)

struct epoch {
	uint64_t number, geometry;
	uint32_t window;               /* block rows in flight */
	struct layout *layout;
	struct share_cell *cell;       /* [cells] that other ranks hold too */
	uint32_t cells;
	struct compare *compare;       /* NULL if replicas are never compared */
	struct arena *arena;
	struct copy_plan *plan;
	_Atomic unsigned char *landed; /* [plan->blocks] */
	const struct copy_ops *copy_ops;
	struct copy *copy;             /* for which the plan is prepared */
	struct stripe **stripe;        /* [arena->shape.rails]; the data's first */
	struct limiter limiter;
};

struct epoch_config {
	struct net *net;
	const struct copy_ops *copy_ops;
	struct copy *copy;             /* nothing is under way */
	uint32_t window;               /* 0: chosen from the cache */
	uint64_t l2_bytes;             /* 0: unknown */
	uint64_t max_bandwidth;
	bool compare;
	const struct log *log;
};

/* What a seal settled. */
struct epoch_parts {
	struct layout *layout;
	struct share_cell *cell;
	uint32_t cells;
	struct arena *arena;
};

/* Takes the parts, also on error. ENOMEM, ESYS, ENET, EDEVICE; EINVAL: blocks too large. */
int epoch_new(const struct epoch_config *config, const struct epoch_parts *parts,
              struct epoch **out);
/* Accepts NULL. No copy is under way, so that none touches the arena any more. If a transfer
 * still is, or linger is set, the arena stays mapped. */
void epoch_free(struct epoch *e, bool linger);

/* The rail in which the rank's data lies, and its member there. */
const struct rail *epoch_rail(const struct epoch *e);
uint32_t epoch_member(const struct epoch *e);

/* The checksums of the rank's own data in one of its slots, for struct copy_job. */
uint32_t *epoch_own_sums(const struct epoch *e, const struct slot *slot);

uint64_t epoch_staging_bytes(const struct epoch *e);

#endif
