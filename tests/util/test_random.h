/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random numbers for tests, the same everywhere for one seed. test_random_seed()
 * takes the seed from FTMEM_TEST_SEED or the clock and prints it, so that a
 * failure can be had again.
 */
#ifndef FTMEM_TEST_RANDOM_H
#define FTMEM_TEST_RANDOM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline uint64_t test_random_seed(const char *test)
{
	const char *text = getenv("FTMEM_TEST_SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);

	printf("%s: FTMEM_TEST_SEED=%llu\n", test, (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

/* SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014). */
static inline uint64_t test_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* 0 .. below - 1 */
static inline uint32_t test_random_below(uint64_t *state, uint32_t below)
{
	return (uint32_t)((test_random(state) >> 32) * below >> 32);
}

static inline void test_random_fill(uint64_t *state, void *data, size_t bytes)
{
	uint8_t *at = data;

	for (size_t i = 0; i < bytes; i++)
		at[i] = (uint8_t)(test_random(state) >> 24);
}

#endif
