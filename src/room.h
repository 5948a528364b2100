/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory for all ranks of a node: asked for before any takes it, so that a limit is an
 * error of all ranks and not a killed process. */
#ifndef FTMEM_ROOM_H
#define FTMEM_ROOM_H

#include "session.h"

/* Collective. Whether each node can take what its ranks need together; what names it in
 * the message: "the arenas". ENOMEM on all ranks if one cannot. */
int room_check(struct ftmem *ft, uint64_t need, const char *what);

/* Touches what was checked, with this rank's share of the node's threads. ENOMEM. */
int room_touch(struct ftmem *ft, void *addr, size_t bytes);

#endif
