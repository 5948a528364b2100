/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A decoder-only transformer over bytes: embedding plus position, then layers of
 * causal attention and an MLP, each behind a layer norm and added to the residual
 * stream, a last layer norm, and logits for the next byte. All parameters lie in
 * one vector, so that it can be cut into shards anywhere.
 */
#ifndef TRAIN_MODEL_H
#define TRAIN_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "real.h"

#define MODEL_VOCAB 256u

struct model_config {
	uint32_t layers, dim, heads, context; /* dim is a multiple of heads */
};

/* A named part of the parameter vector. */
struct model_tensor {
	char name[24];
	size_t rows, columns; /* a vector has one column */
	size_t offset, count;
	double init;   /* all numbers, or */
	double spread; /* standard deviation at random, if not 0 */
	bool decays;   /* weights do, gains and biases do not */
};

struct model;

int model_new(const struct model_config *config, struct model **out); /* -1: no memory */
void model_free(struct model *m);                                     /* accepts NULL */

size_t model_parameters(const struct model *m);
const struct model_tensor *model_tensors(const struct model *m, uint32_t *count);

void model_init(const struct model *m, uint64_t seed, real *params);

/* Mean loss, in nats a byte, of predicting text[1 .. context] each from what is
 * before it. */
double model_loss(struct model *m, const real *params, const unsigned char *text);
/* The same, and grads = d(loss) / d(params) times scale. */
double model_gradient(struct model *m, const real *params, const unsigned char *text,
                      real scale, real *grads);

#endif
