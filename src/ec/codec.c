/* SPDX-License-Identifier: BSD-3-Clause */
#include "ec/codec.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "ec/codec_ref.h"
#include "ec/kernel.h"
#include "error.h"

#define CODE_MAX 255

struct codec {
	uint32_t k, m;
	uint8_t *coef;  /* [m * k] */
	uint8_t *table; /* the same, expanded by the kernel */
};

struct codec_decoder {
	uint32_t k, count;
	bool sum;       /* the only wanted block is the sum of the sources */
	uint8_t *table; /* [count * k], expanded */
};

int codec_new(uint32_t k, uint32_t m, struct codec **out)
{
	const struct kernel_ops *ops = kernel();
	struct codec *c = NULL;

	if (k < 1 || m < 1 || k > CODE_MAX || m > CODE_MAX || k + m > CODE_MAX)
		return error_set(FTMEM_EINVAL,
		                 "no erasure code of %u data and %u parity blocks: at least 1 of "
		                 "each, at most %d in sum",
		                 k, m, CODE_MAX);
	c = calloc(1, sizeof(*c));
	if (!c)
		goto fail;
	c->k = k;
	c->m = m;
	c->coef = malloc((size_t)m * k);
	c->table = malloc((size_t)m * k * ops->table_bytes);
	if (!c->coef || !c->table)
		goto fail;
	for (uint32_t row = 0; row < m; row++)
		for (uint32_t col = 0; col < k; col++)
			c->coef[row * k + col] = codec_ref_coefficient(k, m, row, col);
	ops->expand(m * k, c->coef, c->table);
	*out = c;
	return 0;
fail:
	codec_free(c);
	return error_set(FTMEM_ENOMEM, "no memory for an erasure code of %u + %u blocks", k, m);
}

void codec_free(struct codec *c)
{
	if (!c)
		return;
	free(c->coef);
	free(c->table);
	free(c);
}

void codec_encode(const struct codec *c, uint32_t row, size_t len, const uint8_t *const *src,
                  uint8_t *dst)
{
	const struct kernel_ops *ops = kernel();

	if (row == 0)
		ops->add(c->k, len, src, dst);
	else
		ops->dot(c->k, 1, c->table + (size_t)row * c->k * ops->table_bytes, len, src, &dst);
}

/* Row of the generator matrix of block index. */
static void generator_row(const struct codec *c, uint32_t index, uint8_t *row)
{
	if (index >= c->k) {
		memcpy(row, c->coef + (size_t)(index - c->k) * c->k, c->k);
		return;
	}
	memset(row, 0, c->k);
	row[index] = 1;
}

/* row += factor * other. Rows of a matrix to invert are mostly zeros. */
static void row_add(uint32_t width, uint8_t *row, uint8_t factor, const uint8_t *other)
{
	for (uint32_t i = 0; i < width; i++)
		if (other[i])
			row[i] ^= gf_ref_mul(factor, other[i]);
}

static void row_scale(uint32_t width, uint8_t *row, uint8_t factor)
{
	for (uint32_t i = 0; i < width; i++)
		if (row[i])
			row[i] = gf_ref_mul(factor, row[i]);
}

static void row_swap(uint32_t width, uint8_t *a, uint8_t *b)
{
	for (uint32_t i = 0; i < width; i++) {
		uint8_t held = a[i];

		a[i] = b[i];
		b[i] = held;
	}
}

/* Gauss and Jordan on k rows of 2 * k: [ matrix | identity ] becomes [ identity |
 * inverse ]. False if there is none. */
static bool invert(uint32_t k, uint8_t *rows)
{
	uint32_t width = 2 * k;

	for (uint32_t col = 0; col < k; col++) {
		uint8_t *pivot = rows + (size_t)col * width;
		uint32_t from = col;

		while (from < k && !rows[(size_t)from * width + col])
			from++;
		if (from == k)
			return false;
		if (from != col)
			row_swap(width, pivot, rows + (size_t)from * width);
		if (pivot[col] != 1)
			row_scale(width, pivot, gf_ref_inv(pivot[col]));
		for (uint32_t r = 0; r < k; r++) {
			uint8_t *row = rows + (size_t)r * width;

			if (r != col && row[col])
				row_add(width, row, row[col], pivot);
		}
	}
	return true;
}

static int check_indices(const struct codec *c, const uint32_t *have, const uint32_t *want,
                         uint32_t count)
{
	enum { UNKNOWN, HAD, WANTED } use[CODE_MAX] = {UNKNOWN};
	uint32_t n = c->k + c->m;

	for (uint32_t i = 0; i < c->k; i++) {
		if (have[i] >= n || use[have[i]] != UNKNOWN)
			return error_set(FTMEM_EINVAL,
			                 "source block %u of an erasure code of %u is out of range "
			                 "or given twice",
			                 have[i], n);
		use[have[i]] = HAD;
	}
	for (uint32_t i = 0; i < count; i++) {
		if (want[i] >= n || use[want[i]] != UNKNOWN)
			return error_set(FTMEM_EINVAL,
			                 "wanted block %u of an erasure code of %u is out of "
			                 "range, among the sources or given twice",
			                 want[i], n);
		use[want[i]] = WANTED;
	}
	if (count == 0)
		return error_set(FTMEM_EINVAL, "no block is wanted from the erasure code");
	return 0;
}

/* coef[i] = row of wanted block i in terms of the sources: its generator row times
 * the inverse of the sources' rows. */
static void compose(const struct codec *c, const uint8_t *rows, const uint32_t *want,
                    uint32_t count, uint8_t *coef)
{
	for (uint32_t i = 0; i < count; i++) {
		uint8_t generator[CODE_MAX];

		generator_row(c, want[i], generator);
		for (uint32_t col = 0; col < c->k; col++)
			if (generator[col])
				row_add(c->k, coef + (size_t)i * c->k, generator[col],
				        rows + (size_t)col * 2 * c->k + c->k);
	}
}

static bool all_ones(const uint8_t *coef, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (coef[i] != 1)
			return false;
	return true;
}

/* coef: [count * k], zeroed. */
static int decoder_solve(const struct codec *c, const uint32_t *have, const uint32_t *want,
                         uint32_t count, uint8_t *coef)
{
	uint32_t k = c->k;
	uint8_t *rows = calloc((size_t)k * 2, k);

	if (!rows)
		return FTMEM_ENOMEM;
	for (uint32_t i = 0; i < k; i++) {
		generator_row(c, have[i], rows + (size_t)i * 2 * k);
		rows[(size_t)i * 2 * k + k + i] = 1;
	}
	if (!invert(k, rows)) {
		free(rows);
		return FTMEM_EINVAL;
	}
	compose(c, rows, want, count, coef);
	free(rows);
	return 0;
}

int codec_decoder_new(const struct codec *c, const uint32_t *have, const uint32_t *want,
                      uint32_t count, struct codec_decoder **out)
{
	const struct kernel_ops *ops = kernel();
	struct codec_decoder *d = NULL;
	uint8_t *coef = NULL;
	int rc = check_indices(c, have, want, count);

	if (rc)
		return rc;
	rc = FTMEM_ENOMEM;
	d = calloc(1, sizeof(*d));
	coef = calloc(count, c->k);
	if (!d || !coef)
		goto fail;
	d->k = c->k;
	d->count = count;
	d->table = malloc((size_t)count * c->k * ops->table_bytes);
	if (!d->table)
		goto fail;
	rc = decoder_solve(c, have, want, count, coef);
	if (rc)
		goto fail;
	d->sum = count == 1 && all_ones(coef, c->k);
	ops->expand(count * c->k, coef, d->table);
	free(coef);
	*out = d;
	return 0;
fail:
	free(coef);
	codec_decoder_free(d);
	return error_set(rc,
	                 rc == FTMEM_ENOMEM ? "no memory to rebuild %u of %u + %u blocks"
	                                    : "%u of %u + %u blocks cannot be rebuilt",
	                 count, c->k, c->m);
}

void codec_decoder_free(struct codec_decoder *d)
{
	if (!d)
		return;
	free(d->table);
	free(d);
}

void codec_decode(const struct codec_decoder *d, size_t len, const uint8_t *const *src,
                  uint8_t *const *dst)
{
	const struct kernel_ops *ops = kernel();

	if (d->sum)
		ops->add(d->k, len, src, dst[0]);
	else
		ops->dot(d->k, d->count, d->table, len, src, dst);
}
