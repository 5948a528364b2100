/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which version to restore, and from where: pure functions of what all surviving
 * SMPs hold. Every rank computes the same plan from the same table. No clock,
 * thread, allocation or I/O.
 *
 * A candidate is an epoch and a stamp. It is recoverable if every rail of that
 * epoch's map lacks at most m members whose slot is PREPARED or COMMITTED with
 * exactly that stamp. The best candidate has the largest stamp (incarnation, then
 * version), then the largest epoch.
 */
#ifndef FTMEM_RECOVER_H
#define FTMEM_RECOVER_H

#include "commit.h"
#include "map.h"
#include "slot.h"

/* One arena found, by whoever attached it: also those that hold nothing, which may
 * prove that a version was not committed. */
struct recover_arena {
	uint64_t epoch;
	uint32_t rank;   /* whose it was */
	uint32_t agent;  /* rank of the present job that attached it */
	struct commit_slot slot[2]; /* damaged ones as EMPTY */
	bool unsure;     /* it cannot tell what was committed: a slot is damaged, or it was
	                    not part of the last run that arenas of its epoch know of */
	uint64_t entered; /* incarnation of the last run it was part of; 0: none, or unknown */
};

/* The epochs found, each once: the map each was sealed with. Arenas of an epoch that
 * is not listed, or of a rank that its map does not have, are passed over. */
struct recover_epoch {
	uint64_t epoch;
	const struct map *map;
};

struct recover_input {
	const struct recover_epoch *epoch;
	uint32_t epochs;
	const struct recover_arena *arena;
	uint32_t arenas;
};

struct recover_choice {
	uint64_t epoch;
	struct stamp stamp;
};

/* Where one rank of the old job is. */
struct recover_source {
	int32_t arena; /* index into recover_input.arena; -1: lost */
	uint32_t slot;
};

/*
 * The best recoverable candidate below limit (NULL: no limit). source: [ranks of
 * the chosen epoch's map], filled; must have room for the largest map. When two
 * arenas hold the same rank and stamp, a COMMITTED slot wins, then the lower agent.
 * Returns 0; ELOST: none is recoverable, but one may have been committed (choice is
 * the best of those, source filled); FTMEM_FRESH: no candidate below limit that may
 * have been committed; choice and epoch_index are untouched, source is not defined.
 * The index of the chosen epoch in input->epoch is returned in *epoch_index.
 *
 * A candidate may have been committed if a slot says so, or if no surviving arena of
 * its epoch denies it: one that is sure and holds neither that stamp nor a larger one
 * committed, which all ranks do from a commit on. So a crash in the middle of a job's
 * first snapshots is FRESH.
 */
int recover_choose(const struct recover_input *in, const struct recover_choice *limit,
                   struct recover_choice *choice, uint32_t *epoch_index,
                   struct recover_source *source);

/*
 * The number of a run (incarnation) or of an epoch that begins now: larger than all that are
 * stored and no less than now_ns (CLOCK_REALTIME), so that runs which cannot see one another's
 * arenas differ, and the later one wins. Where the clock is behind what is stored, it is chance,
 * a random number, that makes them differ. All ranks use the same number, made of the largest
 * and of the chance of one of them.
 */
uint64_t recover_next(uint64_t largest, uint64_t now_ns, uint64_t chance);
/* About 18 minutes of the clock. */
#define RECOVER_SPREAD (UINT64_C(1) << 40)

/* The largest incarnation of a version that is stored, or of a run that an arena was part of;
 * 0: there is none. */
uint64_t recover_largest(const struct recover_input *in);

/*
 * What an unrecoverable choice lacks, for the user: each group that lacks too many,
 * with the names of the nodes whose ranks are missing and how many more of them are
 * needed. Writes at most bytes bytes with the terminating 0 (cut with "..." if it
 * does not fit). source: as recover_choose() left it.
 */
void recover_explain(const struct recover_epoch *epoch, const struct recover_choice *choice,
                     const struct recover_source *source, char *text, size_t bytes);

#endif
