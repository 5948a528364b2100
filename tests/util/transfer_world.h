/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Ranks that move boxes to each other over a fake network, one thread for each, and an
 * oracle: where each element must arrive, from the boxes' indices alone. What is next to
 * the boxes must stay as it is.
 */
#ifndef FTMEM_TEST_TRANSFER_WORLD_H
#define FTMEM_TEST_TRANSFER_WORLD_H

#include <pthread.h>
#include <stdatomic.h>

#include "fake_net.h"
#include "transfer.h"

/* An inner box that is taken out of an array, or put into one. */
struct world_part {
	uint32_t elem_bytes;
	struct box outer[2], inner[2]; /* [0] sent, [1] received; equal extents of inner */
};

/* All that goes from one rank to another. */
struct world_flow {
	struct world_part *part;
	uint32_t parts;
	struct transfer_part *list[2];
	uint8_t *memory[2], *want;
	uint64_t bytes[2];
};

#define WORLD_DEVICE_NUMBER 3

enum world_memory {
	WORLD_DEVICE, /* regions are that device's: written by put() alone */
	WORLD_OTHER,  /* a device's backend, but regions in host memory */
	WORLD_HOST,   /* the host's backend */
};

/* What a rank did on the network; written by its thread. */
struct world_watch {
	const struct net_ops *ops; /* below */
	struct net_ops above;
	uint32_t active[2][FAKE_NET_RANKS];           /* [1]: receives */
	uint32_t peers_most[2], peer_most;            /* at one time; for one peer */
	uint32_t first[2][FAKE_NET_RANKS], firsts[2]; /* peers in the order of their first */
	uint32_t posted[2];
	bool sent_too_early;    /* before all first receives were posted */
	_Atomic uint64_t ended; /* requests that were completed */
};

struct world;

struct world_rank {
	struct world *w;
	pthread_t thread;
	uint32_t rank;
	struct copy *copy;
	int rc;
	char message[256];
	uint64_t buffers; /* bytes of aligned_alloc() */
	uint64_t summed, gathers;
	_Atomic bool over;
};

struct world {
	struct fake_net *net;
	uint32_t ranks;
	uint32_t timeout_ms;
	enum world_memory memory;
	bool gives_up; /* what is allocated may be left behind */
	uint64_t random;
	struct world_flow flow[FAKE_NET_RANKS][FAKE_NET_RANKS]; /* from, to */
	struct world_watch watch[FAKE_NET_RANKS];
	struct world_rank rank[FAKE_NET_RANKS];
	_Atomic uint64_t puts;
	_Atomic uint32_t put_fails_at; /* from 1; 0: none does */
};

void world_init(struct world *w, uint32_t ranks, enum world_memory memory, uint64_t seed);
void world_deinit(struct world *w);

/* Appends a part of these extents; pad: elements that may be around it in both arrays. */
void world_add(struct world *w, uint32_t from, uint32_t to, uint32_t elem_bytes, uint32_t ndim,
               const uint64_t *extent, uint32_t pad);
/* One contiguous at both ends. */
void world_add_flat(struct world *w, uint32_t from, uint32_t to, uint64_t bytes);
/* Gives all parts memory; after the last of them was added. */
void world_fill(struct world *w);

/* Begins and ends transfer_run() on a rank; what the rank gives and expects, shuffled. */
void world_begin(struct world *w, uint32_t rank);
void world_end(struct world *w, uint32_t rank);
/* On all ranks. */
void world_run(struct world *w);
/* On the calling thread. */
int world_run_here(struct world *w, uint32_t rank);
/* Whether all that goes to the rank is there, and nothing else. */
bool world_arrived(const struct world *w, uint32_t rank);

/* Of the calling thread, counted by the test's wrappers. */
extern _Thread_local uint64_t world_buffers, world_summed, world_gathers;

#endif
