/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * CRC-32C (Castagnoli, iSCSI; RFC 3720 B.4: "123456789" gives 0xe3069283).
 * ISA-L's kernel where built with it, else tables. Any thread.
 */
#ifndef FTMEM_CHECKSUM_H
#define FTMEM_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint32_t checksum(const void *data, size_t bytes);
/* Continues: checksum_more(checksum(a), b) == checksum(a followed by b). */
uint32_t checksum_more(uint32_t sum, const void *data, size_t bytes);
/*
 * Of the exclusive or of count blocks of bytes bytes each, from their checksums: CRC is
 * linear but for its start value, so they are added, and if their number is even also the
 * checksum of as many zeros (zeros_sum).
 */
static inline uint32_t checksum_of_xor(const uint32_t *sums, uint32_t count, uint32_t zeros_sum)
{
	uint32_t sum = count % 2 == 0 ? zeros_sum : 0;

	for (uint32_t i = 0; i < count; i++)
		sum ^= sums[i];
	return sum;
}
/* The plain C one, for tests and for builds without ISA-L. */
uint32_t checksum_more_ref(uint32_t sum, const void *data, size_t bytes);

/* A 64-bit digest (FNV-1a) to tell layouts and geometries apart; not for
 * integrity. Start with DIGEST_INIT. */
#define DIGEST_INIT UINT64_C(0xcbf29ce484222325)
uint64_t digest_more(uint64_t digest, const void *data, size_t bytes);
/* Spreads each bit of a word over all of it: for pseudo-random choices. A permutation
 * (the finalizer of SplitMix64; Steele, Lea, Flood, 2014). */
static inline uint64_t digest_mix(uint64_t word)
{
	word = (word ^ word >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	word = (word ^ word >> 27) * UINT64_C(0x94d049bb133111eb);
	return word ^ word >> 31;
}

#endif
