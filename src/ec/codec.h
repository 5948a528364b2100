/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Systematic Reed-Solomon erasure code over GF(2^8), polynomial 0x11d.
 *
 * k data blocks, m parity blocks, k >= 1, m >= 1, k + m <= 255. Block index:
 * 0 .. k-1 data, k .. k+m-1 parity. The coefficients form a Cauchy matrix scaled
 * by columns so that the first parity row is all ones: parity 0 is the XOR of the
 * data. Any k blocks determine all. (J. Bloemer et al., "An XOR-based
 * erasure-resilient coding scheme", ICSI TR-95-048, 1995; J. Plank, L. Xu,
 * "Optimizing Cauchy Reed-Solomon codes", NCA 2006.)
 *
 * A codec is immutable: any thread may use it. Kernels: ISA-L or plain C.
 */
#ifndef FTMEM_CODEC_H
#define FTMEM_CODEC_H

#include <stddef.h>
#include <stdint.h>

struct codec;

/* EINVAL for k, m out of range; ENOMEM. */
int codec_new(uint32_t k, uint32_t m, struct codec **out);
void codec_free(struct codec *c);

/* dst = parity block number row (0 .. m-1) of the k sources. Buffers of len
 * bytes, any alignment; dst is written only. */
void codec_encode(const struct codec *c, uint32_t row, size_t len,
                  const uint8_t *const *src, uint8_t *dst);

/* A plan to rebuild some blocks from k others. */
struct codec_decoder;

/*
 * have: k distinct block indices in the order in which sources will be given;
 * want: count indices to rebuild, none of them in have. EINVAL, ENOMEM.
 */
int codec_decoder_new(const struct codec *c, const uint32_t *have,
                      const uint32_t *want, uint32_t count,
                      struct codec_decoder **out);
void codec_decoder_free(struct codec_decoder *d);
/* dst[i] = block want[i] for all i < count: one pass over the k sources. */
void codec_decode(const struct codec_decoder *d, size_t len,
                  const uint8_t *const *src, uint8_t *const *dst);

#endif
