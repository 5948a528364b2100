/* SPDX-License-Identifier: BSD-3-Clause */
/* AdamW (Loshchilov and Hutter, 2019) on one shard of the parameter vector. */
#ifndef TRAIN_ADAMW_H
#define TRAIN_ADAMW_H

#include "model.h"

struct adamw {
	double rate, beta1, beta2, epsilon, decay;
};

/* Step number step (from 1) of the parameters at params, which are numbers
 * first .. first + count - 1 of the model's; all four vectors have count numbers.
 * Each is updated on its own: where the shards are cut changes nothing. */
void adamw_step(const struct adamw *a, const struct model *m, uint64_t step, size_t first,
                size_t count, real *params, real *moment1, real *moment2, const real *grads);

#endif
