/* SPDX-License-Identifier: BSD-3-Clause */
/* What the library's own threads take of a core while no block moves. */
#ifndef BENCH_IDLE_H
#define BENCH_IDLE_H

#include "run_impl.h"

/* Collective. Begins and ends with the job open and a version stored. False: stderr was
 * told. */
bool idle_measure(struct run *r);

#endif
