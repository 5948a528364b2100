/* SPDX-License-Identifier: BSD-3-Clause */
#include "ops.h"

#include <string.h>
#include <tgmath.h>

/* 128 bits of numbers: every machine has instructions for them. */
typedef real vec __attribute__((vector_size(16), aligned(sizeof(real)), may_alias));

#define LANES (sizeof(vec) / sizeof(real))
#define TILE_ROWS 4
#define TILE_COLS (2 * LANES)

/* A tile of the product, its sums in registers all the way. */
static void matmul_tile(real *c, size_t c_row, struct view a, struct view b, size_t k, bool add)
{
	vec *c0 = (vec *)c, *c1 = (vec *)(c + c_row);
	vec *c2 = (vec *)(c + 2 * c_row), *c3 = (vec *)(c + 3 * c_row);
	vec s00 = {0}, s01 = {0}, s10 = {0}, s11 = {0};
	vec s20 = {0}, s21 = {0}, s30 = {0}, s31 = {0};

	for (size_t i = 0; i < k; i++) {
		const real *x = a.at + i * a.col;
		const vec *y = (const vec *)(b.at + i * b.row);
		vec y0 = y[0], y1 = y[1];

		s00 += x[0] * y0;
		s01 += x[0] * y1;
		s10 += x[a.row] * y0;
		s11 += x[a.row] * y1;
		s20 += x[2 * a.row] * y0;
		s21 += x[2 * a.row] * y1;
		s30 += x[3 * a.row] * y0;
		s31 += x[3 * a.row] * y1;
	}
	if (add) {
		s00 += c0[0];
		s01 += c0[1];
		s10 += c1[0];
		s11 += c1[1];
		s20 += c2[0];
		s21 += c2[1];
		s30 += c3[0];
		s31 += c3[1];
	}
	c0[0] = s00;
	c0[1] = s01;
	c1[0] = s10;
	c1[1] = s11;
	c2[0] = s20;
	c2[1] = s21;
	c3[0] = s30;
	c3[1] = s31;
}

/* What does not fill a tile. */
static void matmul_rest(real *c, size_t c_row, struct view a, struct view b,
                        size_t m, size_t n, size_t k, bool add)
{
	for (size_t i = 0; i < m; i++) {
		for (size_t j = 0; j < n; j++) {
			real sum = 0;

			for (size_t l = 0; l < k; l++)
				sum += a.at[i * a.row + l * a.col] * b.at[l * b.row + j];
			c[i * c_row + j] = add ? c[i * c_row + j] + sum : sum;
		}
	}
}

void matmul(real *c, size_t c_row, struct view a, struct view b,
            size_t m, size_t n, size_t k, bool add)
{
	size_t rows = m - m % TILE_ROWS, cols = n - n % TILE_COLS;
	struct view low = {a.at + rows * a.row, a.row, a.col};
	struct view right = {b.at + cols, b.row, 1};

	for (size_t j = 0; j < cols; j += TILE_COLS) {
		struct view part = {b.at + j, b.row, 1};

		for (size_t i = 0; i < rows; i += TILE_ROWS) {
			struct view band = {a.at + i * a.row, a.row, a.col};

			matmul_tile(c + i * c_row + j, c_row, band, part, k, add);
		}
	}
	matmul_rest(c + cols, c_row, a, right, rows, n - cols, k, add);
	matmul_rest(c + rows * c_row, c_row, low, b, m - rows, n, k, add);
}

void transpose(real *out, const real *in, size_t in_row, size_t m, size_t n)
{
	for (size_t i = 0; i < m; i++)
		for (size_t j = 0; j < n; j++)
			out[j * m + i] = in[i * in_row + j];
}

void linear(real *y, const real *x, const real *w, const real *bias, size_t t, size_t k, size_t n)
{
	if (bias)
		for (size_t i = 0; i < t; i++)
			memcpy(y + i * n, bias, n * sizeof(real));
	matmul(y, n, (struct view){x, k, 1}, (struct view){w, n, 1}, t, n, k, bias != NULL);
}

void linear_back(real *dx, real *dw, real *dbias, const real *dy, const real *x, const real *w,
                 real *scratch, size_t t, size_t k, size_t n)
{
	transpose(scratch, w, n, k, n);
	matmul(dx, k, (struct view){dy, n, 1}, (struct view){scratch, k, 1}, t, k, n, false);
	matmul(dw, n, (struct view){x, 1, k}, (struct view){dy, n, 1}, k, n, t, true);
	for (size_t i = 0; dbias && i < t; i++)
		for (size_t j = 0; j < n; j++)
			dbias[j] += dy[i * n + j];
}

void layernorm(real *y, real *saved, const real *x, const real *gain, const real *bias,
               size_t t, size_t n)
{
	for (size_t i = 0; i < t; i++, x += n, y += n, saved += 2) {
		real mean = 0, variance = 0;

		for (size_t j = 0; j < n; j++)
			mean += x[j];
		mean /= (real)n;
		for (size_t j = 0; j < n; j++)
			variance += (x[j] - mean) * (x[j] - mean);
		saved[0] = mean;
		saved[1] = 1 / sqrt(variance / (real)n + (real)1e-5);
		for (size_t j = 0; j < n; j++)
			y[j] = gain[j] * (x[j] - mean) * saved[1] + bias[j];
	}
}

void layernorm_back(real *dx, real *dgain, real *dbias, const real *dy, const real *saved,
                    const real *x, const real *gain, size_t t, size_t n)
{
	for (size_t i = 0; i < t; i++, x += n, dx += n, dy += n, saved += 2) {
		real mean = saved[0], scale = saved[1], along = 0, total = 0;

		for (size_t j = 0; j < n; j++) {
			real unit = (x[j] - mean) * scale;

			dgain[j] += dy[j] * unit;
			dbias[j] += dy[j];
			total += dy[j] * gain[j];
			along += dy[j] * gain[j] * unit;
		}
		total /= (real)n;
		along /= (real)n;
		for (size_t j = 0; j < n; j++)
			dx[j] += scale * (dy[j] * gain[j] - total - (x[j] - mean) * scale * along);
	}
}

#define GELU_SCALE ((real)0.7978845608028654) /* sqrt(2 / pi) */
#define GELU_CUBIC ((real)0.044715)

void gelu(real *y, real *saved, const real *x, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		saved[i] = tanh(GELU_SCALE * (x[i] + GELU_CUBIC * x[i] * x[i] * x[i]));
		y[i] = (real)0.5 * x[i] * (1 + saved[i]);
	}
}

void gelu_back(real *dx, const real *dy, const real *saved, const real *x, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		real inner = GELU_SCALE * (1 + 3 * GELU_CUBIC * x[i] * x[i]);
		real slope = (1 - saved[i] * saved[i]) * inner;

		dx[i] = dy[i] * (real)0.5 * (1 + saved[i] + x[i] * slope);
	}
}

/* Row i of probs: softmax of its first i + 1 numbers times scale, the rest 0. */
static void causal_softmax(real *probs, real scale, size_t t)
{
	for (size_t i = 0; i < t; i++) {
		real *p = probs + i * t, top = p[0], sum = 0;

		for (size_t j = 1; j <= i; j++)
			top = p[j] > top ? p[j] : top;
		for (size_t j = 0; j <= i; j++) {
			p[j] = exp((p[j] - top) * scale);
			sum += p[j];
		}
		for (size_t j = 0; j <= i; j++)
			p[j] /= sum;
		memset(p + i + 1, 0, (t - i - 1) * sizeof(real));
	}
}

void attention(real *out, real *probs, const real *q, const real *k, const real *v,
               real *scratch, const struct head *h)
{
	size_t t = h->t, size = h->size;
	struct view queries = {q, h->row, 1}, keys = {scratch, t, 1};

	transpose(scratch, k, h->row, t, size);
	matmul(probs, t, queries, keys, t, t, size, false);
	causal_softmax(probs, 1 / sqrt((real)size), t);
	matmul(out, h->out_row, (struct view){probs, t, 1}, (struct view){v, h->row, 1},
	       t, size, t, false);
}

void attention_back(real *dq, real *dk, real *dv, const real *dout, const real *probs,
                    const real *q, const real *k, const real *v, real *scratch,
                    const struct head *h)
{
	size_t t = h->t, size = h->size;
	real scale = 1 / sqrt((real)size);
	real *ds = scratch, *turned = scratch + t * t;
	struct view upstream = {dout, h->out_row, 1};

	transpose(turned, v, h->row, t, size);
	matmul(ds, t, upstream, (struct view){turned, t, 1}, t, t, size, false);
	for (size_t i = 0; i < t; i++) {
		const real *p = probs + i * t;
		real *d = ds + i * t, along = 0;

		for (size_t j = 0; j <= i; j++)
			along += p[j] * d[j];
		for (size_t j = 0; j < t; j++)
			d[j] = p[j] * (d[j] - along) * scale;
	}
	matmul(dq, h->row, (struct view){ds, t, 1}, (struct view){k, h->row, 1}, t, size, t, false);
	matmul(dk, h->row, (struct view){ds, 1, t}, (struct view){q, h->row, 1}, t, size, t, false);
	matmul(dv, h->row, (struct view){probs, 1, t}, upstream, t, size, t, false);
}

double cross_entropy(real *logits, const unsigned char *target, real scale, size_t t, size_t n)
{
	double loss = 0;

	for (size_t i = 0; i < t; i++, logits += n) {
		real top = logits[0], sum = 0, picked;

		for (size_t j = 1; j < n; j++)
			top = logits[j] > top ? logits[j] : top;
		picked = logits[target[i]] - top;
		for (size_t j = 0; j < n; j++) {
			logits[j] = exp(logits[j] - top);
			sum += logits[j];
		}
		loss += (double)(log(sum) - picked);
		for (size_t j = 0; j < n; j++)
			logits[j] *= scale / ((real)t * sum);
		logits[target[i]] -= scale / (real)t;
	}
	return loss / (double)t;
}
