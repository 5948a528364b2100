/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rebuilds what is missing in one rail: the slots of lost members, and single blocks
 * of live ones that fail their checksum.
 *
 * A unit is one row of one stripe: n blocks, of which any k give the rest. For each
 * unit in which a block is erased one live member, rotating, is the decoder: k - 1
 * others send it theirs, it decodes, checks the data against the checksums taken
 * when it was copied, and sends the results to their owners. So the work and the
 * traffic are spread over all live members, and the owner of a lost slot receives
 * each byte once.
 *
 * Each member is acted for by a rank of the present job, its agent; one rank may be
 * the agent of several.
 */
#ifndef FTMEM_REBUILD_H
#define FTMEM_REBUILD_H

#include "log.h"
#include "net.h"
#include "slot.h"

/* A block of a live member that fails its checksum. */
struct rebuild_bad {
	uint32_t member;
	uint32_t parity;  /* 1: index is a parity row, 0: a chunk */
	uint32_t index;
	uint32_t row;
};

/* Here: what this rank, as agent, holds of a member. */
struct rebuild_member {
	uint32_t agent;
	bool lost;
	struct slot *slot;    /* NULL if agent is another rank */
	uint32_t rail_index;  /* of this rail in slot->shape */
};

/*
 * Instead of a pass to verify and another to rebuild: the one pass over all blocks. Parity
 * at hand and whatever arrives is checked; data at hand is left to who copies it to the
 * regions, and so is rebuilt data, which must then be compared with the checksums in its
 * slot. What is damaged is counted, and all goes to its end.
 */
struct rebuild_pass {
	/* Up to that row all data of members for which this rank acts is rebuilt. May be
	 * NULL. */
	void (*landed)(void *arg, uint32_t rows);
	void *arg;
};

struct rebuild_config {
	struct net *net;
	const struct rail *rail;
	const struct rebuild_member *member;   /* [rail->n] */
	const struct rebuild_bad *bad;         /* of all members */
	uint32_t bad_count;
	const struct rebuild_pass *pass;       /* NULL: all but the bad blocks were verified */
	bool parity;           /* rebuild erased parity too, not only data */
	uint32_t window;       /* units in flight, >= 1 */
	uint32_t timeout_ms;   /* without any progress */
};

struct rebuild_report {
	uint64_t data_bytes, parity_bytes; /* rebuilt and stored by this rank */
	uint64_t repaired_blocks;          /* of live members */
	uint64_t damaged_blocks;           /* seen in a pass; some may be seen twice */
};

/* Whether every unit has at most m erased blocks. Pure. ENOMEM. */
int rebuild_possible(const struct rail *rail, const struct rebuild_member *member,
                     const struct rebuild_bad *bad, uint32_t bad_count, bool *possible);

/*
 * Rebuilds count rails at once: all those in which this rank is an agent and anything is
 * missing, with a pass all in which it is an agent; likewise on all other ranks. Fills
 * data, parity and checksum tables of lost members' slots, not their headers; report is
 * added to. The configs share net and timeout. ECORRUPT: a block (in a pass only a table
 * of checksums) does not fit its checksum. ENOMEM, ENET, ETIMEOUT (names the rank waited
 * for). After an error messages may be on their way: the network must not be used for
 * another rebuild.
 */
int rebuild_rails(const struct rebuild_config *config, uint32_t count,
                  struct rebuild_report *report);

#endif
