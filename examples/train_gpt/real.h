/* SPDX-License-Identifier: BSD-3-Clause */
/* The number type of the model. The gradient check compiles the model in double. */
#ifndef TRAIN_REAL_H
#define TRAIN_REAL_H

#ifndef TRAIN_REAL
#define TRAIN_REAL float
#endif

typedef TRAIN_REAL real;

#endif
