/* SPDX-License-Identifier: BSD-3-Clause */
/* Who is where among all processes that the launcher started, before any job is open. */
#ifndef FTMEM_WORLD_H
#define FTMEM_WORLD_H

#include "ftmem.h"

/* As ftmem_world(), with its results; out is the whole struct, its size stays. */
int world_find(struct ftmem_world *out);

#endif
