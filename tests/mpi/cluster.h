/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A job on simulated nodes, started and started again within one mpirun. Every byte
 * of its state follows from rank, version, region and offset, so that each restored
 * one can be verified; guards around the regions show writes beyond them.
 *
 * What is called collective has to be called by all ranks of the cluster's comm. All
 * but the try_ functions end the run if the library does not do what is expected.
 */
#ifndef FTMEM_TEST_CLUSTER_H
#define FTMEM_TEST_CLUSTER_H

#include <mpi.h>

#include <stdbool.h>
#include <stdint.h>

#include "ftmem.h"
#include "slot.h"
#include "smp/client.h"

#define CLUSTER_RANKS   32
#define CLUSTER_NODES   16
#define CLUSTER_REGIONS 8

struct cluster_region {
	char name[32];
	uint64_t bytes;
	uint8_t *memory; /* with guards */
	bool absent;     /* not registered */
};

struct cluster {
	MPI_Comm comm;
	uint32_t rank, size;
	char job[FTMEM_NAME_MAX + 1];
	uint32_t nodes;
	uint32_t node_of[CLUSTER_RANKS];
	char node[CLUSTER_NODES][FTMEM_NAME_MAX + 1];
	struct ftmem_opts opts;
	uint64_t salt; /* of the pattern: tells two runs of the same versions apart */
	uint32_t regions;
	struct cluster_region region[CLUSTER_REGIONS];
	struct ftmem *ft; /* NULL while the job is not running */
};

/* layout: ranks of each node, "2,1,3"; with "r" behind it ranks are dealt to the nodes
 * in turn. Nodes are n0, n1, ..; the job's name is its own in this run. */
void cluster_init(struct cluster *c, MPI_Comm comm, const char *layout);
/* Ends the job if it runs, all its SMPs, and frees the memory. Collective. */
void cluster_deinit(struct cluster *c);
/* Ranks that a layout takes. */
uint32_t cluster_layout_ranks(const char *layout);

/* Another placement, before the next open. */
void cluster_place(struct cluster *c, const char *layout);
/* All nodes have their names n0, n1, .. again. */
void cluster_name_nodes(struct cluster *c);
/* A node, or a set of them, gets names that no node had before: spares. */
void cluster_replace(struct cluster *c, uint32_t nodes);

/* Own regions r0, r1, .. of these sizes, 0: none of that number. Frees former ones. */
void cluster_regions(struct cluster *c, const uint64_t *bytes, uint32_t count);
/* One region of the size that turn gives this rank: 0, 1, 4095, 1 MiB + 1, .. */
void cluster_sizes(struct cluster *c, uint32_t turn);
struct ftmem_region cluster_describe(const struct cluster_region *r);
uint8_t *cluster_bytes(const struct cluster_region *r);

void cluster_fill(struct cluster *c, uint64_t version);
void cluster_poison(struct cluster *c);
void cluster_verify(const struct cluster *c, uint64_t version);
/* That nothing was written since cluster_poison(). */
void cluster_verify_poison(const struct cluster *c);

/* Collective. */
int cluster_try_open(struct cluster *c);
void cluster_add_regions(struct cluster *c);
/* Opens, adds the regions, seals. */
void cluster_start(struct cluster *c);
/* The same, and finds nothing to restore. */
void cluster_start_fresh(struct cluster *c);
int cluster_try_start(struct cluster *c);
void cluster_close(struct cluster *c);
/* Fills with version's pattern, snapshots and waits for the commit. */
void cluster_commit(struct cluster *c, uint64_t version);
/* Restores into poisoned memory: that version, every byte. */
void cluster_restore(struct cluster *c, uint64_t version);
/* Restores, with that result on all ranks and nothing written. */
void cluster_restore_fails(struct cluster *c, int result);

/* Ends the SMPs of a set of nodes: what they hold is lost. Collective. */
void cluster_lose(struct cluster *c, uint32_t nodes);
/* Kills the node's SMP; what it holds the ranks that run have, too. If asked, waits until it is
 * gone: before, it looks alive to whoever does not ask it anything. False: there was none. Not
 * collective. */
bool cluster_kill_smp(const struct cluster *c, uint32_t node, bool wait);
/* As an observer; NULL if no SMP runs there. Not collective. */
struct smp_client *cluster_smp(const struct cluster *c, uint32_t node);
/* A digest of all arenas on the nodes but these. Collective. */
uint64_t cluster_digest(const struct cluster *c, uint32_t but);
/* This rank's arena on its node that holds version, to be written to, and the slot;
 * not while the job runs. Of several the latest. arena_free() ends it. */
struct arena *cluster_arena(const struct cluster *c, uint64_t version, struct slot **slot);
/* How many epochs a node holds arenas of, and the newest. Not collective. */
uint32_t cluster_epochs(const struct cluster *c, uint32_t node, uint64_t *newest);

/* "{0,2}" */
const char *cluster_set_text(uint32_t set, char text[64]);
struct ftmem_stats cluster_stats(const struct cluster *c);

#endif
