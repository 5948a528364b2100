/* SPDX-License-Identifier: BSD-3-Clause */
/* The measurements, in order. */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include "node.h"
#include "results.h"

/*
 * Collective. Fills *out. False: something failed and stderr was told. Wrong bytes
 * after a restore end the measurements, but are a result. Leaves no SMP.
 */
bool run_all(const struct world *w, const struct args *a, const struct ftmem_opts *opts,
             const struct opts *resolved, struct results *out);

#endif
