/* SPDX-License-Identifier: BSD-3-Clause */
#include "ec/codec_ref.h"

#include <string.h>

uint8_t gf_ref_mul(uint8_t a, uint8_t b)
{
	unsigned int product = 0;

	for (unsigned int x = a; b; b >>= 1) {
		if (b & 1)
			product ^= x;
		x <<= 1;
		if (x & 0x100)
			x ^= 0x11d;
	}
	return (uint8_t)product;
}

uint8_t gf_ref_inv(uint8_t a)
{
	/* a^254: a^255 is 1 for every a but 0. 254 = 2 + 4 + ... + 128. */
	uint8_t power = a, inverse = 1;

	for (int i = 0; i < 7; i++) {
		power = gf_ref_mul(power, power);
		inverse = gf_ref_mul(inverse, power);
	}
	return inverse;
}

uint8_t codec_ref_coefficient(uint32_t k, uint32_t m, uint32_t row, uint32_t col)
{
	(void)k;
	(void)m;
	return gf_ref_mul((uint8_t)(255 ^ col), gf_ref_inv((uint8_t)((255 - row) ^ col)));
}

void gf_ref_dot(uint32_t k, const uint8_t *coef, size_t len, const uint8_t *const *src,
                uint8_t *dst)
{
	for (size_t at = 0; at < len; at++) {
		uint8_t sum = 0;

		for (uint32_t i = 0; i < k; i++)
			sum ^= gf_ref_mul(coef[i], src[i][at]);
		dst[at] = sum;
	}
}

void gf_ref_xor(uint32_t k, size_t len, const uint8_t *const *src, uint8_t *dst)
{
	size_t at = 0;

	/* Eight words at a time stay in registers over all sources. */
	for (; len - at >= 64; at += 64) {
		uint64_t sum[8], word[8];

		memcpy(sum, src[0] + at, sizeof(sum));
		for (uint32_t i = 1; i < k; i++) {
			memcpy(word, src[i] + at, sizeof(word));
			for (int w = 0; w < 8; w++)
				sum[w] ^= word[w];
		}
		memcpy(dst + at, sum, sizeof(sum));
	}
	for (; at < len; at++) {
		uint8_t sum = src[0][at];

		for (uint32_t i = 1; i < k; i++)
			sum ^= src[i][at];
		dst[at] = sum;
	}
}
