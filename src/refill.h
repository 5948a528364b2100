/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A restore in one pass: the copy threads check the blocks of each rank's slot and write
 * them into its regions, while the trainer's thread rebuilds what is lost, block after
 * block, and checks parity. Blocks of a slot that is rebuilt follow as they come. Damage is
 * only noted: who meets it restores again by the way of rescue_verify() and move.h, which
 * overwrites all that was written here.
 */
#ifndef FTMEM_REFILL_H
#define FTMEM_REFILL_H

#include "rescue.h"

struct refill_report {
	struct rebuild_report rebuilt;
	double seconds;  /* from the first block to the last one in the regions */
};

/* Whether that can be: the version is in place, no other epoch holds anything, and what each
 * rank stores is all of its own regions, no shares. Collective. ENET, ETIMEOUT. */
int refill_fits(struct rescue *r, bool *fits);

/*
 * If it fits. Collective. *whole: nothing is damaged, the regions hold the version, and so
 * do the slots of all ranks, PREPARED or COMMITTED. Else, as after errors, the regions are
 * unspecified, and the slots of lost ranks still FILLING. ECORRUPT, EDEVICE, ENOMEM, ENET,
 * ETIMEOUT; ENOMEM also with nothing written, see rescue_prepare().
 */
int refill_run(struct rescue *r, struct refill_report *report, bool *whole);

#endif
