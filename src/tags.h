/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Message tags. Two ranks may share several rails, so tags carry the rail's number;
 * within a rail and kind messages between two ranks are told apart by their order.
 */
#ifndef FTMEM_TAGS_H
#define FTMEM_TAGS_H

#include <stdint.h>

enum tag_kind {
	TAG_INTENT,  /* the exchange: GO or SKIP */
	TAG_BLOCK,   /* data for parity */
	TAG_TRAILER, /* checksums of a member's data */
	TAG_SOURCE,  /* rebuilding: to the decoder */
	TAG_RESULT,  /* from the decoder */
	TAG_SUMS,    /* checksums for a lost member */
	TAG_KINDS
};

/* What is stored, on its way into regions. */
#define TAG_TRANSFER 1u
/* Records on their way to the owner of a name, and back. */
#define TAG_ROUTE 2u
/* Between ranks of one machine, when they open. */
#define TAG_MEET 3u

#define TAG_RAILS 16u
static inline uint32_t tag_rail(uint32_t rail_id, enum tag_kind kind)
{
	return TAG_RAILS + rail_id * TAG_KINDS + (uint32_t)kind;
}

#endif
