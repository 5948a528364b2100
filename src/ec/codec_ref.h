/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The same arithmetic, byte by byte and without tables of the kernels: test
 * oracle, and the kernel of builds without ISA-L.
 */
#ifndef FTMEM_CODEC_REF_H
#define FTMEM_CODEC_REF_H

#include <stddef.h>
#include <stdint.h>

uint8_t gf_ref_mul(uint8_t a, uint8_t b);
uint8_t gf_ref_inv(uint8_t a); /* a != 0 */
/*
 * Coefficient of data block col in parity row: (255 + col) / ((255 - row) + col),
 * sums and the quotient in the field. Row and column points, 255 - row and col,
 * are distinct since k + m <= 255, and do not depend on k or m: a code with fewer
 * blocks is the same code with the missing ones zero.
 */
uint8_t codec_ref_coefficient(uint32_t k, uint32_t m, uint32_t row, uint32_t col);
/* dst = sum of coef[i] * src[i]. */
void gf_ref_dot(uint32_t k, const uint8_t *coef, size_t len,
                const uint8_t *const *src, uint8_t *dst);

/* dst = sum of src[i], word by word. k >= 1. */
void gf_ref_xor(uint32_t k, size_t len, const uint8_t *const *src, uint8_t *dst);

#endif
