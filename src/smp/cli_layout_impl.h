/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ftmem layout: what is found of a job on this machine, put in order for those who print
 * it. cli_layout.c finds, cli_layout_view.c orders, the others print.
 */
#ifndef FTMEM_SMP_CLI_LAYOUT_IMPL_H
#define FTMEM_SMP_CLI_LAYOUT_IMPL_H

#include "layout.h"
#include "smp/cli.h"

/* The layout of one rank that is held here. */
struct layout_held {
	uint32_t rank;
	uint32_t node; /* of the map */
	struct layout *layout;
};

/* An arena, or the layout in it, that cannot be read. */
struct layout_damage {
	const struct cli_site *site;
	uint32_t rank;
	char text[256];
};

/* A region, or a piece of one that its rank stores. */
struct layout_ref {
	const struct layout_held *held;
	const struct region *region;
	const struct box *box;
	uint64_t bytes;
};

/* All regions that share a name: boxes of a tensor, or private ones. */
struct layout_name {
	const struct region *region; /* any of them: name, element, shape */
	bool private;
	uint64_t bytes;              /* of the whole tensor; of all private ones here */
	uint64_t stored;             /* here */
	const struct layout_ref *box, *share; /* by box, then rank */
	size_t boxes, shares;
	size_t distinct;             /* boxes that differ */
};

struct layout_view {
	const struct cli *cli;
	/* Of the newest committed version, or prepared one if none is committed. */
	uint64_t epoch;
	struct stamp stamp;
	bool committed;
	struct map *map;
	struct layout_held *held; /* by rank, each once */
	uint32_t held_count;
	struct layout_damage *damage;
	uint32_t damages;
	/* What the arguments ask for, by name. */
	struct layout_ref *box, *share;
	size_t boxes, shares;
	struct layout_name *name;
	size_t names;
	uint64_t registered, stored, data; /* of all ranks held here, asked for or not */
	/* With --lose, else NULL. */
	bool *lost;           /* [nodes] */
	uint32_t *group_lost; /* [groups] how many of its nodes */
};

/* Fills what follows from map and held. ENOMEM; EINVAL: --lose names no node. */
int layout_view_build(struct layout_view *v);
void layout_view_deinit(struct layout_view *v);

/* Whether the group lost more than parity covers. */
bool layout_group_fails(const struct layout_view *v, uint32_t group);
bool layout_survives(const struct layout_view *v);
/* Whether what the rank holds is gone beyond repair. */
bool layout_rank_lost(const struct layout_view *v, const struct layout_held *held);
/* Bytes of a name that are gone. */
uint64_t layout_name_lost(const struct layout_view *v, const struct layout_name *name);
/* Ranks of which that is so, but whose layout is not held here. */
uint32_t layout_unknown_lost(const struct layout_view *v);
/* The end of the boxes that equal name->box[from]. */
size_t layout_same_box(const struct layout_name *name, size_t from);
const char *layout_node(const struct layout_view *v, const struct layout_held *held);

void layout_print_text(const struct layout_view *v);
void layout_print_json(const struct layout_view *v);

#endif
