/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Makes a chosen version whole: verifies what its holders have and rebuilds the slots
 * of the ranks that lost theirs. Each rank of the job that stored it (the old ranks)
 * has an agent among the present ranks: who attached its arena or, if it is lost, the
 * rank of the same number (modulo the number of ranks).
 */
#ifndef FTMEM_RESCUE_H
#define FTMEM_RESCUE_H

#include "gather.h"
#include "rebuild.h"

/* An old rank for which this rank acts. */
struct rescue_member {
	uint32_t rank;
	bool lost;
	struct slot *slot;         /* if lost, from rescue_prepare() on; then filled */
	/* Where the slot is in no arena: */
	struct rail *rails;
	struct slot_shape shape;
	struct slot temporary;
	void *memory;
	size_t memory_bytes;
};

struct rescue {
	struct ftmem *ft;
	const struct gather *gather;
	struct recover_choice choice;
	const struct recover_epoch *epoch;
	bool in_place;             /* the version is of the sealed epoch */
	uint32_t ranks;            /* old */
	struct recover_source *source; /* [ranks] */
	uint32_t *agent;           /* [ranks] */
	bool *lost;                /* [ranks] */
	uint64_t *data_bytes;      /* [ranks] */
	uint64_t busiest;          /* bytes that the busiest agent goes through when it
	                              reads its slots, parity too, and helps to rebuild:
	                              no more than four times their data */
	uint32_t block_bytes;
	struct rescue_member *member; /* for which this rank acts */
	uint32_t members;
	struct rescue_bad *bad;    /* of all ranks */
	uint32_t bad_count;
	struct rescue_rail *job;   /* rails to be rebuilt in which this rank has a part */
	uint32_t jobs;
};

/* A block that fails its checksum; whole: so many that the slot counts as lost. */
struct rescue_bad {
	uint32_t rank, rail_id, parity, index, row, whole;
};

/* source is taken. Collective, as are the following. ENOMEM, ENET, ETIMEOUT. */
int rescue_new(struct ftmem *ft, const struct gather *g, const struct recover_choice *choice,
               uint32_t epoch_index, struct recover_source *source, struct rescue **out);
void rescue_free(struct rescue *r); /* accepts NULL */

/* Verifies all blocks. *possible: whether k good blocks are left of every stripe. */
int rescue_verify(struct rescue *r, bool *possible);

/*
 * Finds a slot for what each lost member held, in place in the rank's own arena, FILLING, and
 * the rails to go through: those in which something is missing, or all. ENOMEM on all ranks,
 * with nothing written, if a node has no room for what is to be held beside the arenas.
 */
int rescue_prepare(struct rescue *r, bool all);

/*
 * Rebuilds what was prepared; afterwards member[].slot holds the data of each old rank acted
 * for, and in place the parity too. report is added to. ECORRUPT as well. pass: NULL after
 * rescue_verify(); else all rails were prepared, the version is in place, and each rank's
 * arena is its own; landed() is called for the rail of the own data.
 */
int rescue_rebuild(struct rescue *r, const struct rebuild_pass *pass,
                   struct rebuild_report *report);

/* In place, once all is rebuilt: the own slot is prepared, if it was lost, and the arena notes the
 * last run that any knew of. Nobody gives up what else it holds before all hold this version.
 * Collective. ENET, ETIMEOUT. */
int rescue_hold(struct rescue *r);
/*
 * In place, after all hold it: the version is committed on the present membership, and
 * snapshots begin behind it. other: what the own arena's other slot holds; unless that is
 * COMMITTED it is emptied. Older epochs go.
 */
void rescue_commit(struct rescue *r, struct commit_slot other);

/* Adds a rank to a list of the kind "1 (n1), 3 (n3)", if there is room. */
void rescue_list_rank(const struct map *map, uint32_t rank, char *text, size_t bytes);
/* Ranks whose slots are lost or have damaged blocks: after rescue_verify(). */
void rescue_list_damaged(const struct rescue *r, char *text, size_t bytes);

/* Whether it is one of these. */
bool rescue_is_damaged(const struct rescue *r, uint32_t rank);

/* The member acted for, or NULL. */
struct rescue_member *rescue_find(struct rescue *r, uint32_t rank);

#endif
