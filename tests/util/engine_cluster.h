/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Ranks of one process, each with regions, an epoch on a memfd, a network that is made
 * up, and a copy backend that does what the test says.
 */
#ifndef FTMEM_TEST_ENGINE_CLUSTER_H
#define FTMEM_TEST_ENGINE_CLUSTER_H

#include "commit.h"
#include "epoch.h"
#include "fake_net.h"
#include "test_job.h"

#define ENGINE_REGIONS 3

struct engine_rank {
	uint32_t rank;
	uint8_t *memory[ENGINE_REGIONS];
	uint64_t bytes[ENGINE_REGIONS];   /* 0: no such region */
	struct epoch *epoch;
	struct net *net;
	struct copy *copy;
	struct log log;
	char lines[4096];                 /* what was logged */
	_Atomic uint32_t logged;
};

struct engine_cluster {
	struct map *map;
	struct fake_net *net;
	uint32_t ranks;
	struct engine_rank rank[TEST_JOB_RANKS];
	uint64_t data_bytes[TEST_JOB_RANKS];
};

/* spec.data_bytes: of the regions together; 0: the rank has none. */
void engine_cluster_init(struct engine_cluster *c, const struct test_job_spec *spec, uint64_t seed);
/* Epochs that are still busy are given up. */
void engine_cluster_deinit(struct engine_cluster *c);

/* The layout of one rank and the arena of another, to be handed to epoch_new(). */
struct epoch_parts engine_parts(const struct engine_cluster *c, uint32_t layout, uint32_t arena);

/* Regions hold what they hold at that version. */
void engine_fill_regions(struct engine_rank *r, uint64_t version);
/* Whether a rank's slot holds regions, checksums and parity of that version, compared
 * with what the slots of the other ranks hold; says what differs. */
bool engine_protected(const struct engine_cluster *c, uint32_t rank, uint64_t version);
/* The state of the slot that holds or fills version; SLOT_EMPTY if there is none. */
enum slot_state engine_state(const struct engine_cluster *c, uint32_t rank, uint64_t version);
/* The slot of that version, or NULL. */
struct slot *engine_slot(const struct engine_cluster *c, uint32_t rank, uint64_t version);

/* Copies when done() is asked, unless held. Any thread. */
const struct copy_ops *engine_copy(void);
void engine_copy_hold(struct copy *c, bool hold);
/* Does not even end when it is cancelled. */
void engine_copy_stick(struct copy *c, bool stuck);
/* prepare() fails with ENOMEM while that is said; how many plans were released. */
void engine_copy_fail_prepare(struct copy *c, bool fail);
uint32_t engine_copy_released(struct copy *c);
/* The next begin() fails with EDEVICE; n-th block from the next begin() on fails. */
void engine_copy_fail_begin(struct copy *c);
void engine_copy_fail_block(struct copy *c, uint32_t n);
/* What why() says; stays the caller's. */
void engine_copy_tell(struct copy *c, const char *why);
/* Whether the last copy was cancelled; whether a job is borrowed now. */
bool engine_copy_cancelled(struct copy *c);
bool engine_copy_under_way(struct copy *c);

#endif
