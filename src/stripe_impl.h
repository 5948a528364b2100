/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the parts of a stripe share: stripe.c (life, telling, the order of the parts),
 * stripe_move.c (blocks on their way), stripe_seal.c (checksums at the end).
 */
#ifndef FTMEM_STRIPE_IMPL_H
#define FTMEM_STRIPE_IMPL_H

#include "stripe.h"
#include "tags.h"

struct stripe_intent {
	uint64_t version;
	uint64_t go;
};

struct stripe_trailer {
	uint64_t version;
	uint32_t good, count;
	uint32_t sum, reserved;       /* checksum of it all with this field 0 */
	uint32_t sums[];
};

enum stripe_phase { PHASE_TELL, PHASE_MOVE, PHASE_OVER };

/* One other member. */
struct stripe_peer {
	struct stripe_intent intent;
	struct net_req intent_send, intent_recv;
	struct stripe_trailer *trailer;      /* received */
	struct net_req trailer_send, trailer_recv;
};

/* One row of blocks in flight. */
struct stripe_row {
	struct net_req *send;         /* [(n - 1) * m] */
	struct net_req *recv;         /* [m * k] */
	uint32_t sends, recvs;        /* active */
	uint32_t left[RAIL_MAX];      /* per parity row: blocks still to come */
	uint8_t *staging;             /* [m * k] blocks */
};

struct stripe {
	struct stripe_config config;
	const struct rail *rail;
	uint32_t me, n, k, m, rows, own_rows;
	struct codec *codec;
	struct stripe_peer *peer;            /* [n], own unused */
	struct stripe_row *row;              /* [window] */
	uint8_t *staging, *zeros;
	uint32_t zeros_sum;                  /* checksum of a block of zeros */
	uint64_t staging_bytes;
	struct stripe_intent own_intent;
	struct stripe_trailer *own_trailer;

	enum stripe_phase phase;
	enum stripe_state state;
	struct slot *slot;
	const struct copy_job *job;
	uint32_t send_row, send_step; /* cursor: row, position in the row */
	uint32_t recv_row;            /* next row to post */
	uint32_t encode_row;          /* rows below it are encoded */
	bool told, sealed, damaged;
};

static inline size_t stripe_trailer_bytes(const struct stripe *s, uint32_t member)
{
	return sizeof(struct stripe_trailer) + sizeof(uint32_t) * rail_data_blocks(s->rail, member);
}

static inline uint32_t *stripe_sum_at(const struct stripe *s, uint32_t member, uint32_t chunk,
                                      uint32_t row)
{
	return s->slot->sums
	       + slot_data_sum_index(s->config.shape, s->config.rail, member, chunk, row);
}

/* Tests a request and counts it as done or still active. */
int stripe_test(struct stripe *s, struct net_req *req, uint32_t *done, uint32_t *active);

/* Receives rows, encodes those that are complete; sends what has landed. Set *progress
 * if anything was done. */
int stripe_receive(struct stripe *s, bool *progress);
int stripe_send(struct stripe *s, bool *progress);

/* Expects the others' checksums; sends the own once all data has landed and counts
 * what is still active; compares what one member sent with what was received. */
int stripe_seal_begin(struct stripe *s);
int stripe_seal(struct stripe *s, bool *progress, uint32_t *active);
void stripe_check(struct stripe *s, uint32_t member);

#endif
