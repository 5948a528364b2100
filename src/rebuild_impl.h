/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the parts of a rebuild share: rebuild.c (which blocks are erased, the loop over
 * units and rails), rebuild_unit.c (one row of one stripe).
 */
#ifndef FTMEM_REBUILD_IMPL_H
#define FTMEM_REBUILD_IMPL_H

#include "rebuild.h"

/* Decoders rotate over the live members with stripe and row; the rows' share of the
 * rotation repeats after this many, which bounds the number of decoding matrices. */
#define REBUILD_ROTATION 4

#define REBUILD_BIT(i) (UINT64_C(1) << (i))

/* Something on its way. Parity and tables of checksums, for which the receiver has no
 * checksum, are followed by it; data is compared with the checksums taken when it was
 * copied. */
struct rebuild_transfer {
	struct net_req block, sum;
	uint32_t value;
};

/* One row of one stripe. Members are numbers in the rail. */
struct rebuild_unit {
	uint32_t stripe, row, len;
	uint32_t decoder;
	uint32_t source[RAIL_MAX], sources; /* k, the decoder first; none if none is wanted */
	uint32_t want[RAIL_MAX], wants;
	struct rebuild_transfer *recv_source; /* [k] */
	struct rebuild_transfer *send_source; /* [k] */
	struct rebuild_transfer *recv_result; /* [wants] */
	struct rebuild_transfer *send_result; /* [wants] */
	uint8_t *staging;              /* [k + m] blocks */
	bool decoded;
};

/* Decoding matrices, one for each pattern that comes up. */
struct rebuild_pattern {
	uint32_t have[RAIL_MAX], want[RAIL_MAX], wants;
	struct codec_decoder *decoder;
};

/* One rail. */
struct rebuild {
	const struct rebuild_config *config;
	const struct rail *rail;
	uint32_t n, k, m, rows, me;
	uint64_t lost;
	uint64_t *erased;              /* [n * rows], NULL if no single block is bad */
	struct codec *codec;
	struct rebuild_pattern *pattern;   /* [n * REBUILD_ROTATION] */
	struct rebuild_unit *unit;         /* [window] */
	struct rebuild_transfer *transfer; /* of all units */
	struct rebuild_transfer *sums;     /* [n] */
	uint8_t *staging, *zeros;
	uint64_t head, tail, next;     /* units in flight: [head, tail); scan position */
	uint64_t decode_next;          /* units are decoded in order */
	uint32_t landed;               /* rows, as last told to pass->landed() */
	struct rebuild_report *report;
};

/* What a look at the network found. */
struct rebuild_look {
	bool progress;
	uint32_t active;
	uint32_t peer;                 /* of something active */
};

/* Bytes of the member's block in a row of a stripe; 0: it has none. */
uint32_t rebuild_len(const struct rail *rail, uint32_t stripe, uint32_t member, uint32_t row);
/* Takes out members whose block has no bytes: those are never missing. */
uint64_t rebuild_without_empty(const struct rail *rail, uint32_t stripe, uint32_t row,
                               uint64_t mask);

/* Fills u for unit number i; false if there is nothing to do in it for this rank. */
bool rebuild_unit_plan(const struct rebuild *r, uint64_t i, struct rebuild_unit *u);
/* In a pass, of a unit that was planned: checks parity at hand that no decoder looks at.
 * Whether there is such. */
bool rebuild_unit_audit(struct rebuild *r, const struct rebuild_unit *u);
int rebuild_unit_begin(struct rebuild *r, struct rebuild_unit *u);
/* turn: all units before it are decoded. 1 when the unit is over, 0 not yet. */
int rebuild_unit_step(struct rebuild *r, struct rebuild_unit *u, bool turn,
                      struct rebuild_look *look);

#endif
