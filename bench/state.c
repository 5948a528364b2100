/* SPDX-License-Identifier: BSD-3-Clause */
#include "state.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "error.h"

#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)
#define WORDS 512 /* checked at a time */

int state_init(struct state *s, uint64_t bytes, uint32_t rank)
{
	void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*s = (struct state){0};
	if (data == MAP_FAILED)
		return error_sys(FTMEM_ENOMEM, errno, "no memory for a state of %llu bytes; "
		                 "use a smaller --bytes", (unsigned long long)bytes);
	*s = (struct state){.data = data, .bytes = bytes, .rank = rank};
	state_poison(s);
	return 0;
}

void state_deinit(struct state *s)
{
	if (s->data)
		munmap(s->data, s->bytes);
	*s = (struct state){0};
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static void generate(uint64_t seed, uint64_t first, uint64_t *out, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t x = (seed + first + i) * GOLDEN;

		out[i] = x ^ (x >> 32);
	}
}

static uint64_t seed_of(const struct state *s, uint64_t version)
{
	return mix(mix(s->rank + UINT64_C(1)) + version);
}

void state_fill(struct state *s, uint64_t version)
{
	uint64_t words = s->bytes / 8, seed = seed_of(s, version), last;

	generate(seed, 0, (uint64_t *)(void *)s->data, words);
	generate(seed, words, &last, 1);
	memcpy(s->data + words * 8, &last, s->bytes % 8);
}

void state_poison(struct state *s)
{
	memset(s->data, 0xee, s->bytes);
}

uint64_t state_check(const struct state *s, uint64_t version, uint64_t *first)
{
	uint64_t seed = seed_of(s, version), wrong = 0;

	for (uint64_t at = 0; at < s->bytes; at += sizeof(uint64_t) * WORDS) {
		uint64_t want[WORDS];
		size_t len = s->bytes - at < sizeof(want) ? (size_t)(s->bytes - at) : sizeof(want);

		generate(seed, at / 8, want, WORDS);
		if (memcmp(s->data + at, want, len) == 0)
			continue;
		for (size_t i = 0; i < len; i++) {
			if (s->data[at + i] == ((const uint8_t *)want)[i])
				continue;
			if (wrong++ == 0)
				*first = at + i;
		}
	}
	return wrong;
}

uint64_t state_cut(const struct state *s, uint32_t i, uint32_t count)
{
	uint64_t share = s->bytes / count;

	if (i == count)
		return s->bytes;
	return share * i + (share > count ? i : 0);
}
