/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the parts of a rescue share: rescue.c (who acts for whom, and where slots are),
 * rescue_rails.c (what is bad in the rails, and their rebuilding).
 */
#ifndef FTMEM_RESCUE_IMPL_H
#define FTMEM_RESCUE_IMPL_H

#include "rescue.h"

/* A rail of the job that stored the version. */
void rescue_old_rail(const struct rescue *r, uint32_t id, struct rail *rail);

/* What rebuild.h needs to know of one rail. */
struct rescue_rail {
	struct rail rail;
	struct rebuild_member member[RAIL_MAX];
	struct rebuild_bad *bad;
	uint32_t bad_count;
	bool lost;
};

/* What is bad, and what was prepared. */
void rescue_rails_free(struct rescue *r);

/* Gives each lost member acted for a slot, FILLING if in the own arena. Collective; results
 * as rescue_prepare(). */
int rescue_make_room(struct rescue *r);

#endif
