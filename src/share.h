/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The distributed match at seal: each rank claims its boxes at the owners of their
 * names, learns its shares, and settles its layout with them. What a rank sends and
 * keeps grows with its own regions and the logarithm of the ranks.
 */
#ifndef FTMEM_SHARE_H
#define FTMEM_SHARE_H

#include "layout.h"
#include "match.h"
#include "net.h"

/* A cell of one of the rank's boxes that other ranks hold too. */
struct share_cell {
	uint32_t region;   /* of the layout */
	struct match_cell cell;
};

/*
 * Collective. Settles l, which is frozen. *cells, the caller's to free: cells with more
 * than one holder, by region, then box. group: of this rank's node. Local errors (EINVAL,
 * ENOMEM) are told by all ranks to the end of the match, so that none waits; the caller
 * agrees on the result. ENET, ETIMEOUT.
 */
int share_settle(struct net *net, uint32_t timeout_ms, uint32_t group, struct layout *l,
                 struct share_cell **cells, uint32_t *count);

#endif
