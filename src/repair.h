/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ftmem_repair(): verifies what all ranks hold of the newest committed version and mends it
 * from parity, while the job runs. Only what is damaged is written over, in a slot that stays
 * committed; a slot that cannot be read is rebuilt as in a restore (rescue.h). Regions are
 * neither read nor written, and the run goes on under its incarnation.
 */
#ifndef FTMEM_REPAIR_H
#define FTMEM_REPAIR_H

#include "session.h"

/* Collective; versions may be asked for. blocks may be NULL. Results as ftmem_repair(). */
int session_repair(struct ftmem *ft, uint64_t *blocks);

#endif
