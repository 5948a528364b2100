/* SPDX-License-Identifier: BSD-3-Clause */
/* restore.c, and what it tells the user on the way: restore_tell.c. */
#ifndef FTMEM_RESTORE_IMPL_H
#define FTMEM_RESTORE_IMPL_H

#include "move.h"
#include "refill.h"

/* Which version, and who holds it; and if a newer one was committed. On rank 0. */
void restore_tell_found(const struct rescue *r);
/* Whose blocks a lost rank was rebuilt from: the live members of its rail. */
void restore_tell_rebuilt(const struct rescue *r, const struct rebuild_report *report,
                          double seconds);
/* On rank 0. */
void restore_tell_whole(const struct ftmem *ft, uint64_t version, double seconds);

#endif
