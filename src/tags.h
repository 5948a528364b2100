/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Message tags. Two ranks may share several rails, so the exchange's tags carry the
 * rail's number; those of a restore are below TAG_EXCHANGE.
 */
#ifndef FTMEM_TAGS_H
#define FTMEM_TAGS_H

#include <stdint.h>

#include "rail.h"

enum tag_kind { TAG_INTENT, TAG_BLOCK, TAG_TRAILER, TAG_KINDS };

#define TAG_EXCHANGE (UINT32_C(1) << 14)
static inline uint32_t tag_exchange(uint32_t rail_id, enum tag_kind kind)
{
	return TAG_EXCHANGE + rail_id * TAG_KINDS + (uint32_t)kind;
}

/* Between members of a rail that is rebuilt; ranks rebuild one rail at a time. */
enum tag_role { TAG_SOURCE, TAG_RESULT, TAG_SUMS };
static inline uint32_t tag_rebuild(enum tag_role role, uint32_t from, uint32_t to)
{
	return (uint32_t)role * RAIL_MAX * RAIL_MAX + from * RAIL_MAX + to;
}

/* Data of a rank that now runs on another node than its arena. */
#define TAG_MOVE (UINT32_C(3) * RAIL_MAX * RAIL_MAX)

#endif
