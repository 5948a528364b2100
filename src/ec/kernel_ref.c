/* SPDX-License-Identifier: BSD-3-Clause */
/* Plain C: a coefficient's expanded form is its row of the multiplication table. */
#include "ec/kernel.h"

#include "ec/codec_ref.h"

#define ROW_BYTES 256

static void plain_expand(uint32_t count, const uint8_t *coef, uint8_t *table)
{
	for (uint32_t c = 0; c < count; c++)
		for (unsigned int x = 0; x < ROW_BYTES; x++)
			*table++ = gf_ref_mul(coef[c], (uint8_t)x);
}

static void plain_dot(uint32_t k, uint32_t rows, const uint8_t *table, size_t len,
                      const uint8_t *const *src, uint8_t *const *dst)
{
	for (uint32_t r = 0; r < rows; r++, table += (size_t)k * ROW_BYTES)
		for (size_t at = 0; at < len; at++) {
			uint8_t sum = 0;

			for (uint32_t i = 0; i < k; i++)
				sum ^= table[(size_t)i * ROW_BYTES + src[i][at]];
			dst[r][at] = sum;
		}
}

const struct kernel_ops *kernel(void)
{
	static const struct kernel_ops ops = {
		.name = "plain C",
		.table_bytes = ROW_BYTES,
		.expand = plain_expand,
		.dot = plain_dot,
		.add = gf_ref_xor,
	};

	return &ops;
}
