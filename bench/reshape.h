/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Restores on other shapes. As many tensors as the state has regions, each of rows of
 * 8-byte elements, are stored by rows, an equal number on each rank, so that each stores
 * as many bytes as its state has, rounded down to whole rows. They are restored in
 * other boxes: what all ranks but the last ask for together is always all there is.
 */
#ifndef BENCH_RESHAPE_H
#define BENCH_RESHAPE_H

#include "run_impl.h"

/* EINVAL, ENOMEM: what --reshape cannot be measured with. */
int reshape_check_options(const struct run *r);
/* Collective. Drops the job that is open and begins anew, in the same job; it is stopped
 * at the end. */
bool reshape_measure(struct run *r);

#endif
