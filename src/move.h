/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a version holds into the regions that are sealed now, whatever the ranks, nodes
 * and boxes were and are: pieces are matched by tensor name at the owners of the names
 * (plan.h), parts at hand are copied, the others come from the ranks that act for their
 * holders (transfer.h).
 *
 * Private regions come from the old rank of the same number; if the number of ranks
 * differs, from the one that opts.private_rule or opts.private_from says.
 */
#ifndef FTMEM_MOVE_H
#define FTMEM_MOVE_H

#include "rescue.h"

struct move_report {
	uint64_t local_bytes; /* that this rank's regions got from slots at hand */
	uint64_t moved_bytes; /* that they got from other ranks */
	double seconds;       /* from the plan's end to the last byte */
};

/* After rescue_rebuild(). Collective; same result on all ranks. ELAYOUT: a region that
 * is not stored as asked for: nothing is written. ECORRUPT, EDEVICE, ENOMEM, ENET,
 * ETIMEOUT: regions are unspecified. */
int move_restore(struct rescue *r, struct move_report *report);

#endif
