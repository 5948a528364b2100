/* SPDX-License-Identifier: BSD-3-Clause */
#include "rng.h"

#include <math.h>

#define ROUNDS 10

void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
	uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
	uint32_t k[2] = {key[0], key[1]};

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t a = UINT64_C(0xd2511f53) * c[0];
		uint64_t b = UINT64_C(0xcd9e8d57) * c[2];

		c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k[0];
		c[1] = (uint32_t)b;
		c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k[1];
		c[3] = (uint32_t)a;
		k[0] += 0x9e3779b9; /* the golden ratio */
		k[1] += 0xbb67ae85; /* the square root of 3, less 1 */
	}
	for (int i = 0; i < 4; i++)
		out[i] = c[i];
}

static void draw(uint64_t seed, uint32_t stream, uint64_t index, uint32_t out[4])
{
	uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), stream, 0};
	uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};

	philox(counter, key, out);
}

uint64_t rng_bits(uint64_t seed, uint32_t stream, uint64_t index)
{
	uint32_t w[4];

	draw(seed, stream, index, w);
	return (uint64_t)w[1] << 32 | w[0];
}

/* In (0, 1]: never 0, whose logarithm is not finite. */
static double unit(uint32_t high, uint32_t low)
{
	uint64_t bits = ((uint64_t)high << 32 | low) >> 11;

	return (double)(bits + 1) * 0x1p-53;
}

void rng_normal(uint64_t seed, uint32_t stream, uint64_t index, double out[2])
{
	const double turn = 6.283185307179586;
	uint32_t w[4];
	double radius, angle;

	draw(seed, stream, index, w);
	radius = sqrt(-2.0 * log(unit(w[1], w[0])));
	angle = turn * unit(w[3], w[2]);
	out[0] = radius * cos(angle);
	out[1] = radius * sin(angle);
}
