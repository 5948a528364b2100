/* SPDX-License-Identifier: BSD-3-Clause */
/* What the parts of fault_trainer share. */
#ifndef FTMEM_FAULT_TRAINER_H
#define FTMEM_FAULT_TRAINER_H

#include <mpi.h>

#include "session.h"

#define REGIONS   5
#define RANKS_MAX 64
#define TRIES     3

enum status { DONE = 0, USAGE = 2, FAILED = 3, WRONG = 4, LOST = 5, NOT_WHOLE = 6 };

struct head {
	uint64_t step, run, grown;
};

struct trainer {
	const char *folder, *job, *hold;
	char *nodes, *node[RANKS_MAX];
	uint32_t parity, group_nodes, timeout_ms, wait_ms, step_ms;
	uint64_t run, steps, grow, repair, bytes;
	bool async, farewell, prove;
	int rank, ranks;
	struct ftmem *ft;
	struct head head;
	uint64_t *region[REGIONS];
	uint64_t words[REGIONS];
	uint64_t noted; /* the newest version written to committed.<rank> */
	uint64_t restored;
	bool fresh;
};

/* Ends this process; what must never be is written down first. */
void quit(const struct trainer *t, enum status status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4), noreturn));
/* Ends this process if the library failed; else returns rc. */
int check(const struct trainer *t, int rc, const char *what);

/* Not zero, so that a region that nobody filled shows. */
void state_poison(struct trainer *t);
/* ftmem_restore(), again if ftmem-smp died meanwhile: the library starts another. */
int restore(struct trainer *t);
/* Whether all ranks hold the state that was snapshotted as the version restored. */
void check_state(struct trainer *t);

/* --- fault_whole.c --- */

/* After a restore: one slot holds the version, committed and whole, and the other nothing. */
void whole_check(struct trainer *t);
/* Spoils rank 1's memory of the version, which is committed, and has it mended. */
void whole_repair(struct trainer *t, uint64_t version);
/* Whether an ftmem-smp of this node says that it has this rank's memory. */
bool whole_held(const struct trainer *t);
/* With --prove: what is stored, without each set of as many nodes of each group as parity
 * covers. */
void whole_prove(struct trainer *t);

#endif
