/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A job of thousands of ranks of which one is real: it runs the library from ftmem_open()
 * to ftmem_restore() as it is, and what the others would say comes from here. That is known,
 * since all ranks hold the same bytes and do the same things:
 *
 *   growth_net.c   the network: who is where, what the others hold, what a peer sends
 *   growth_smp.c   the SMP: arenas on memfds
 *   growth_plan.c  the records on their way to the owners of names, from the real route and
 *                  plan of all ranks
 *   growth_cost.c  counts what the real one sends, takes and does
 *
 * How an all-reduce is counted, with L = ceil(log2 ranks): as 2 L messages of its words or,
 * beyond 512 bytes, as 2 L messages of twice its words together (halving and doubling). All
 * else is the library's own.
 */
#ifndef FTMEM_TEST_GROWTH_H
#define FTMEM_TEST_GROWTH_H

#include "gather.h"

/* What one rank sends, has allocated at most and executes. */
struct growth_cost {
	uint64_t messages, bytes;
	uint64_t table_bytes; /* of bytes: rows of tables with a row for each rank */
	uint64_t memory;      /* heap, the most since the phase began */
	uint64_t steps;       /* basic blocks of the library */
};

/* Begins a phase; what it costs. The code of this test must not count. */
void growth_cost_begin(void);
struct growth_cost growth_cost_end(void);
void growth_cost_pause(void);
void growth_cost_resume(void);
/* Bytes allocated and not freed while it counted. */
uint64_t growth_cost_live(void);
void growth_cost_send(uint64_t messages, uint64_t bytes, uint64_t table_bytes);

/* Bytes that the real rank receives from others in its courier, in their order. */
struct growth_stream {
	uint8_t *at;
	uint64_t size, read;
};

struct growth_job {
	uint32_t nodes, node_ranks, ranks, group_nodes, parity;
	uint32_t lost_node;      /* UINT32_MAX: none; replaced by one of another name */
	uint64_t region_bytes;   /* of the one region of each rank */
};

/* The job as the real rank, and after the first start what it stored. */
struct growth_world {
	const struct growth_job *job;
	uint32_t rank;
	bool restarted;
	bool shares;     /* others store shares: the restore goes by the owners of names */
	/* Of the first start, as the other ranks hold it. */
	struct gather_record record;
	struct map *map;
	uint64_t data_bytes;
	struct growth_stream plan; /* for the restore */
};
extern struct growth_world growth_world;

uint32_t growth_rounds(uint32_t ranks);
uint32_t growth_node_of(uint32_t rank);
void growth_node_name(uint32_t rank, char *name, size_t bytes);

/* Ends what a start left; the arenas stay. */
void growth_net_end(void);
/* All arenas go. */
void growth_smp_end(void);

/* The streams of these ranks when all restore what they stored. */
void growth_plan(const struct growth_job *job, const uint32_t *rank, uint32_t count,
                 struct growth_stream *out);

/* Says what is wrong and ends the program. */
void growth_require(bool good, const char *what);

#endif
