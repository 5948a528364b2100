/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Moves boxes between ranks, in bounded memory: from slots of arenas into regions.
 *
 * What goes from one rank to another is a stream: its parts packed one behind the other,
 * in messages of TRANSFER_MESSAGE bytes at most (a range of a large part, or as many small
 * ones as fit), and then the checksums of all messages, taken by the sender and compared
 * by the receiver. Streams are served in the order of their distance (rank + 1 first, mod
 * ranks), at most TRANSFER_STREAMS each way at a time, so that nobody is flooded and the
 * first in order can always proceed. A message whose bytes are neighbours in memory goes
 * from there, and to there in host memory, without another copy.
 */
#ifndef FTMEM_TRANSFER_H
#define FTMEM_TRANSFER_H

#include "copy.h"
#include "net.h"

#define TRANSFER_MESSAGE (UINT64_C(512) << 10)
#define TRANSFER_STREAMS 4u
/* Buffers of one rank at most: two for each stream. */
#define TRANSFER_BUFFER_MAX (4 * TRANSFER_STREAMS * TRANSFER_MESSAGE)

/* A box in an array: of a slot to be sent, of a region to be filled. */
struct transfer_part {
	uint8_t *array;
	struct box_view view;
	int device;    /* of the array: DEVICE_HOST, always if sent, or its number */
};

/* Both ends give the same sizes in the same order. */
struct transfer_stream {
	uint32_t peer;                     /* another rank */
	uint32_t parts;
	const struct transfer_part *part;  /* borrowed */
};

struct transfer_config {
	struct net *net;
	const struct copy_ops *copy_ops;
	struct copy *copy;
	uint32_t timeout_ms;               /* without any progress */
};

/*
 * Collective among those that have streams. Streams in any order, one for each peer and
 * direction at most.
 *
 * ECORRUPT (a checksum did not fit; names the peer) and what copy_ops.put() says are told
 * after all else went its way: other ranks have theirs, and the network is as good as
 * before. After EINVAL, ENOMEM, ENET and ETIMEOUT (names the peer that stood still the
 * longest) messages may be on their way: the network is broken, and if this rank's own
 * memory may still be touched, region memory included, lingering.
 */
int transfer_run(const struct transfer_config *config,
                 const struct transfer_stream *out, uint32_t outs,
                 const struct transfer_stream *in, uint32_t ins);

#endif
