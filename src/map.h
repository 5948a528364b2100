/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The map of a job: which rank is on which node, which node in which group, and
 * the rails that follow. Pure: equal input gives the equal map on every rank.
 *
 * Nodes are numbered by their lowest rank. Groups are of near-equal size around
 * the aim, each with more than m nodes. Without racks a group is a run of
 * neighbouring nodes; with racks, nodes sorted by rack are dealt to the groups
 * in turn, so that a group has as few nodes of one rack as can be.
 */
#ifndef FTMEM_MAP_H
#define FTMEM_MAP_H

#include "ftmem.h"
#include "rail.h"

struct map_node {
	char name[FTMEM_NAME_MAX + 1];
	uint32_t group;
	uint32_t first_rank; /* the lowest rank */
	uint32_t ranks;
	uint32_t offset;     /* of its ranks in map.rank */
};

struct map_group {
	uint32_t nodes;      /* in it, more than parity */
	uint32_t offset;     /* of its nodes in map.member */
	uint32_t rails;      /* the ranks of its fullest node */
	uint32_t first_rail; /* ids first_rail .. first_rail + rails - 1 */
};

struct map {
	uint32_t ranks, nodes, groups, parity; /* parity 0 if nodes is 1 */
	struct map_node *node;   /* [nodes] */
	struct map_group *group; /* [groups] */
	uint32_t *node_of_rank;  /* [ranks] */
	uint32_t *local_index;   /* [ranks] position among the ranks of its node */
	uint32_t *rank;          /* [ranks] node by node, ascending in each */
	uint32_t *member;        /* [nodes] nodes group by group, ascending in each */
};

/* What each rank contributes. */
struct map_rank {
	char node[FTMEM_NAME_MAX + 1];
	char rack[FTMEM_NAME_MAX + 1]; /* "" if none */
};

/*
 * rank: [ranks]. aim >= 2, parity >= 1. One node: parity becomes 0. EINVAL: fewer
 * nodes than parity + 1 (says how many there are and would be needed), a group
 * that would exceed RAIL_MAX, a name that is none, a node with two racks. ENOMEM.
 */
int map_new(const struct map_rank *rank, uint32_t ranks, uint32_t aim,
            uint32_t parity, struct map **out);
void map_free(struct map *m); /* accepts NULL */
/* ENOMEM. */
int map_copy(const struct map *m, struct map **out);

/*
 * The rails of the job are numbered 0 .. map_rail_count() - 1, group by group. A
 * group has as many rails as its fullest node has ranks. Rail l of a group has as
 * members, for each node of the group in order, the node's rank of local index l,
 * or of index l modulo its number of ranks if it has fewer.
 */
uint32_t map_rail_count(const struct map *m);

/*
 * Rail number id: fills id, n, m and rank; data_bytes is 1 for members that have
 * their data in this rail and 0 for those that only hold parity, for the caller to
 * replace by sizes; block_bytes is left 0.
 */
void map_rail(const struct map *m, uint32_t id, struct rail *out);

/* The ids of the rails rank takes part in, its own (where its data lies) first.
 * ENOMEM. */
int map_rails_of(const struct map *m, uint32_t rank, uint32_t **ids, uint32_t *count);

/*
 * Serialised form, kept in every arena: little-endian 32-bit words and names.
 *
 *    0  magic "FTMM", ranks, nodes, groups, parity, 0, 0, 0
 *   32  for each node: its name, padded with zeros to 64 bytes; its group
 *       for each rank: its node
 */
uint64_t map_blob_bytes(const struct map *m);
void map_blob_write(const struct map *m, uint8_t *blob);
/* From untrusted bytes: bytes must be what map_blob_bytes() said. ECORRUPT says what
 * does not add up. ENOMEM. */
int map_blob_read(const uint8_t *blob, uint64_t bytes, struct map **out);

#endif
