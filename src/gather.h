/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is stored in the job, as every rank sees it: the arenas that the SMPs hold,
 * each attached by one rank of the present job, its agent (the rank whose it is if
 * that runs on the arena's node, else one of the node's ranks). Collective.
 */
#ifndef FTMEM_GATHER_H
#define FTMEM_GATHER_H

#include "recover.h"
#include "session.h"

/* An arena of which this rank is the agent. */
struct gather_arena {
	struct arena *arena;
	bool own;       /* of the sealed epoch: borrowed */
};

/* An arena as its agent describes it to all: a row of the table. */
struct gather_record {
	uint64_t epoch, entered, incarnation[2], version[2];
	uint32_t rank, map_sum;
	uint32_t state[2];
	uint8_t valid, unsure, late, reserved[5];
};

struct gather {
	struct ftmem *ft;
	struct gather_arena *here;
	uint32_t here_count;
	struct recover_arena *arena;   /* of all ranks, the same on all */
	uint32_t *here_index;          /* [arenas] index into here, if agent is this rank */
	uint32_t arenas;
	struct recover_epoch *epoch;   /* with their maps, owned */
	uint32_t epochs;
	uint64_t damaged;              /* arenas and slots that cannot be read, of all ranks */
};

/* An epoch may be sealed or not. EATTACHED, ENOMEM, ENET, ESMP, ETIMEOUT: on all ranks. */
int gather_new(struct ftmem *ft, struct gather **out);
/* Detaches and ends the leases. Accepts NULL. */
void gather_free(struct gather *g);

struct recover_input gather_input(const struct gather *g);

/*
 * recover_choose() of what was gathered, on all ranks alike. *source is the caller's to free,
 * NULL unless 0 is returned. FRESH: nothing is stored. ELOST says what is missing, ECORRUPT
 * that what is below limit or left is damaged. ENOMEM, ENET, ETIMEOUT.
 */
int gather_choose(const struct gather *g, const struct recover_choice *limit,
                  struct recover_choice *choice, uint32_t *epoch_index,
                  struct recover_source **source);

/* Where another arena of that rank holds what was chosen, too: leaves the source, which is
 * damaged, out of the table. Equal on all ranks. */
bool gather_pass_over(struct gather *g, const struct recover_choice *choice, uint32_t rank,
                      const struct recover_source *source);

/* The slot from which an old rank's part comes, if this rank is the agent of its arena;
 * else NULL. */
struct slot *gather_slot(const struct gather *g, const struct recover_source *source,
                         struct arena **arena);

#endif
