/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What snapshots take from a trainer. Two stand-ins run on the threads that call the
 * library: one computes (in cache, then once through more memory than fits in it), one
 * sums buffers over all ranks. Each runs alone, and beside snapshots that follow one
 * another, without and with a ceiling on parity traffic. All functions are collective.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "run_impl.h"

/* EINVAL: options that it cannot be measured with. */
int load_check_options(const struct run *r);
/* After run_protect(), whose results give the ceiling. Begins and ends with the job open
 * and a version stored, restored and compared. False: stderr was told. */
bool load_measure(struct run *r);

#endif
