/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A counter-based random number generator: Philox4x32 with 10 rounds (Salmon et
 * al., "Parallel random numbers: as easy as 1, 2, 3", 2011). Its whole state is a
 * seed and a counter, so that it can be stored, restored and shared out between
 * ranks: number i of a stream is the same whoever asks for it.
 */
#ifndef TRAIN_RNG_H
#define TRAIN_RNG_H

#include <stdint.h>

struct rng {
	uint64_t seed;
	uint64_t counter; /* numbers drawn so far */
};

void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Number index of a stream: 64 uniform bits; two independent normal deviates. */
uint64_t rng_bits(uint64_t seed, uint32_t stream, uint64_t index);
void rng_normal(uint64_t seed, uint32_t stream, uint64_t index, double out[2]);

#endif
