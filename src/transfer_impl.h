/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What transfer.c and transfer_stream.c share: the state of a transfer. Lanes serve one
 * stream after the other, each lane with two messages in flight.
 */
#ifndef FTMEM_TRANSFER_IMPL_H
#define FTMEM_TRANSFER_IMPL_H

#include "transfer.h"

#define TRANSFER_FLIGHTS 2u
#define TRANSFER_LANES   (2 * TRANSFER_STREAMS)
/* Parts that are handed to the regions' backend at once. */
#define TRANSFER_PUTS    64u

_Static_assert(TRANSFER_LANES *TRANSFER_FLIGHTS *TRANSFER_MESSAGE == TRANSFER_BUFFER_MAX,
               "two for each stream");

/* Whole parts, or a range of the packed form of one. */
struct message {
	uint32_t part, parts;
	uint64_t from, bytes;
};

struct place {
	uint32_t part;
	uint64_t from;
};

struct stream {
	const struct transfer_stream *what;
	uint32_t distance;
	uint64_t messages;
	uint32_t *sums;   /* [messages] of the bytes that are here */
	uint32_t *theirs; /* [messages] of a stream that comes in: what the sender says */
};

/* All streams of one direction, by distance. */
struct queue {
	struct stream *stream;
	uint32_t count, next;
	bool in;
};

struct flight {
	struct net_req req;
	struct message message;
	uint64_t number; /* the stream's last: the checksums */
	uint8_t *at;     /* its bytes: in an array, or the buffer */
	uint8_t *buffer;
};

/* Serves one stream after the other. */
struct lane {
	struct queue *queue;
	struct stream *stream; /* NULL: none is left */
	struct place place;
	uint64_t next;     /* number of the next message */
	uint64_t moved_ns; /* when something last happened */
	struct flight flight[TRANSFER_FLIGHTS];
};

struct transfer {
	const struct transfer_config *config;
	struct queue in, out;
	struct lane lane[TRANSFER_LANES]; /* those that receive first */
	uint32_t lanes;
	uint8_t *buffer;
	uint32_t *sums;
	struct copy_put put[TRANSFER_PUTS];
	int rc; /* the first error of content */
};

/* How many messages the parts of a stream are cut into. */
uint64_t transfer_messages(const struct transfer_stream *s);
/* The next stream of the lane's queue, if there is one. */
void transfer_lane_take(struct lane *l);
/* Looks at all that the lane has under way and begins what it can. *moved: set if
 * anything happened. An error ends the transfer. */
int transfer_lane_poll(struct transfer *t, struct lane *l, bool *moved);

#endif
