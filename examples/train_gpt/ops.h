/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The arithmetic of a transformer, forward and backward. Every sum is taken in one
 * fixed order: the same input gives the same bits. Backward functions add to the
 * gradients of parameters and overwrite those of activations.
 */
#ifndef TRAIN_OPS_H
#define TRAIN_OPS_H

#include <stdbool.h>
#include <stddef.h>

#include "real.h"

/* A matrix in memory: element (i, j) is at[i * row + j * col]. */
struct view {
	const real *at;
	size_t row, col;
};

/* c[m][n] = a[m][k] b[k][n], added to c if add. c and b have rows of neighbours:
 * row i of c is c + i * c_row, and b.col is 1. */
void matmul(real *c, size_t c_row, struct view a, struct view b,
            size_t m, size_t n, size_t k, bool add);

/* out[n][m] = in[m][n], row i of in at in + i * in_row. */
void transpose(real *out, const real *in, size_t in_row, size_t m, size_t n);

/* y[t][n] = x[t][k] w[k][n] + bias[n]; bias may be NULL. */
void linear(real *y, const real *x, const real *w, const real *bias, size_t t, size_t k, size_t n);
/* scratch: n * k numbers. dbias may be NULL. */
void linear_back(real *dx, real *dw, real *dbias, const real *dy, const real *x, const real *w,
                 real *scratch, size_t t, size_t k, size_t n);

/* y = gain * (x - mean) / deviation + bias, row by row; saved: 2 numbers a row. */
void layernorm(real *y, real *saved, const real *x, const real *gain, const real *bias,
               size_t t, size_t n);
/* dx is added to: it is the residual stream. */
void layernorm_back(real *dx, real *dgain, real *dbias, const real *dy, const real *saved,
                    const real *x, const real *gain, size_t t, size_t n);

/* The tanh approximation; saved: the tanh of each number. */
void gelu(real *y, real *saved, const real *x, size_t n);
void gelu_back(real *dx, const real *dy, const real *saved, const real *x, size_t n);

/* One head of causal attention over t positions: rows of q, k, v and out are row
 * numbers apart, the head is size wide. probs: t * t. scratch: size * t. */
struct head {
	size_t t, size, row, out_row;
};
void attention(real *out, real *probs, const real *q, const real *k, const real *v,
               real *scratch, const struct head *h);
/* scratch: t * t + size * t. dq, dk, dv have rows as q, k, v have. */
void attention_back(real *dq, real *dk, real *dv, const real *dout, const real *probs,
                    const real *q, const real *k, const real *v, real *scratch,
                    const struct head *h);

/* Mean of -log(softmax(logits)[target]) over t rows of n; logits become their own
 * gradient times scale. */
double cross_entropy(real *logits, const unsigned char *target, real scale, size_t t, size_t n);

#endif
