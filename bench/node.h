/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The snapshot-management process of this rank's node, as the bench must handle
 * it: see what it holds, lose it as a failed node is lost, leave nothing behind.
 * All but node_guard_init() do something only on the node's leader.
 */
#ifndef BENCH_NODE_H
#define BENCH_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "opts.h"

struct node {
	const struct opts *opts; /* borrowed */
	bool leader;
	int32_t pid;             /* of the SMP; 0: none known */
	uint64_t started;        /* tells it from a later process of the same pid */
};

/* From now on a signal that ends this process ends the watched SMP as well. */
void node_guard_init(void);

void node_init(struct node *n, const struct opts *opts, bool leader);
/* After ftmem_open(): remembers the SMP. ESMP, ETIMEOUT. */
int node_watch(struct node *n);
/* Bytes of all arenas that the SMP holds, 0 if not the leader. */
int node_held(struct node *n, uint64_t *bytes);
/* Kills the SMP; its memory is gone when this returns. ESMP, ESYS. */
int node_lose(struct node *n);
/* Ends the SMP, if there is one, and removes its files. Never fails for good: the
 * SMP is killed if it does not listen. */
void node_drop(struct node *n);

#endif
