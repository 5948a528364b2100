/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The version of a former epoch, whose arenas lie anywhere, into the regions that are
 * sealed now: each rank gets the slot of the old rank of its number from that one's
 * agent, verifies it and copies what is asked for by name.
 */
#ifndef FTMEM_MOVE_H
#define FTMEM_MOVE_H

#include "rescue.h"

/* Pure. ELAYOUT: another number of ranks. */
int move_check(const struct rescue *r);

/* After rescue_rebuild(). Collective. ELAYOUT: a region that is not stored as asked
 * for: nothing is written. ECORRUPT, EDEVICE, ENOMEM, ENET,
 * ETIMEOUT. */
int move_restore(struct rescue *r);

#endif
