/* SPDX-License-Identifier: BSD-3-Clause */
#include "fuzz.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checksum.h"
#include "error.h"
#include "slot.h"

#define FDS_MAX 512

void fuzz_fail(const char *condition, const char *file, int line)
{
	fprintf(stderr, "%s:%d: does not hold: %s\nlast message: %s\n", file, line, condition,
	        error_msg());
	abort();
}

void fuzz_seed(const char *dir, const char *name, const void *data, size_t size)
{
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "wb");
	FUZZ_REQUIRE(file != NULL);
	FUZZ_REQUIRE(fwrite(data, 1, size, file) == size);
	FUZZ_REQUIRE(fclose(file) == 0);
}

/* Of libFuzzer; not there in a replay, which does not need it. */
__attribute__((weak)) size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);

size_t fuzz_mutate(uint8_t *data, size_t size, size_t size_max, unsigned seed, size_t from)
{
	uint64_t r = digest_mix(seed);
	size_t word = r & 1 ? 8 : 4, words = size > from ? (size - from) / word : 0;
	size_t run = word * (1 + (r >> 1) % 6);
	uint8_t *a, *b, swap[48];
	uint64_t value = 0;

	if ((r >> 8) % 3 || words < 16)
		return LLVMFuzzerMutate(data, size, size_max);
	words -= run / word;
	a = data + from + (r >> 16) % words * word;
	b = data + from + (r >> 40) % words * word;
	switch ((r >> 10) % 4) {
	case 0: memmove(a, b, run); break;
	case 1:
		memcpy(swap, a, run);
		memmove(a, b, run);
		memcpy(b, swap, run);
		break;
	default:
		memcpy(&value, a, word);
		value += (r >> 12 & 1) ? 1 : UINT64_MAX;
		memcpy(a, &value, word);
		break;
	}
	return size;
}

size_t fuzz_least(size_t a, size_t b)
{
	return a < b ? a : b;
}

void fuzz_take(struct fuzz_input *in, void *to, size_t bytes)
{
	size_t n = fuzz_least(bytes, in->left);

	memset(to, 0, bytes);
	if (n == 0)
		return;
	memcpy(to, in->at, n);
	in->at += n;
	in->left -= n;
}

uint8_t fuzz_u8(struct fuzz_input *in)
{
	uint8_t value;

	fuzz_take(in, &value, sizeof(value));
	return value;
}

uint32_t fuzz_u32(struct fuzz_input *in)
{
	uint32_t value;

	fuzz_take(in, &value, sizeof(value));
	return value;
}

uint64_t fuzz_number(struct fuzz_input *in)
{
	static const uint64_t edge[] = {
		4095,
		4096,
		8192,
		12289,
		65536,
		UINT32_MAX - UINT64_C(1),
		UINT32_MAX,
		UINT32_MAX + UINT64_C(1),
		INT64_MAX - UINT64_C(4095),
		INT64_MAX,
		INT64_MAX + UINT64_C(1),
		UINT64_MAX - 4095,
		UINT64_MAX,
	};
	uint8_t code = fuzz_u8(in);
	uint64_t any;

	if (code < 0xe0)
		return code;
	if (code < 0xf0)
		return edge[(code - 0xe0u) % (sizeof(edge) / sizeof(edge[0]))];
	fuzz_take(in, &any, sizeof(any));
	return any;
}

uint8_t *fuzz_copy(struct fuzz_input *in, size_t bytes)
{
	uint8_t *copy = malloc(bytes ? bytes : 1);

	FUZZ_REQUIRE(copy != NULL);
	fuzz_take(in, copy, bytes);
	return copy;
}

unsigned fuzz_open_fds(void)
{
	struct pollfd fd[FDS_MAX];
	unsigned open = 0;

	for (int i = 0; i < FDS_MAX; i++)
		fd[i] = (struct pollfd){.fd = i};
	FUZZ_REQUIRE(poll(fd, FDS_MAX, 0) >= 0);
	for (int i = 0; i < FDS_MAX; i++)
		open += !(fd[i].revents & POLLNVAL);
	return open;
}

int fuzz_arena(uint32_t rank, uint64_t epoch)
{
	struct map_rank place[4] = {{"n0", ""}, {"n1", ""}, {"n2", ""}, {"n3", ""}};
	struct arena_spec spec = {.job = FUZZ_JOB, .node = "n0", .epoch = 1, .rank = rank % 4};
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct arena *a = NULL;
	struct map *map = NULL;
	struct arena_header h;
	struct rail rail;
	uint64_t bytes;

	FUZZ_REQUIRE(fd >= 0 && map_new(place, 4, 4, 1, &map) == 0);
	map_rail(map, 0, &rail);
	rail.block_bytes = ARENA_PAGE;
	spec.map = map;
	spec.rails = &rail;
	spec.rails_count = 1;
	FUZZ_REQUIRE(arena_bytes(&spec, &bytes) == 0 && ftruncate(fd, (off_t)bytes) == 0);
	FUZZ_REQUIRE(arena_create(dup(fd), &spec, &a) == 0);
	slot_set_filling(&a->slot[0], (struct stamp){1, 41});
	slot_set_prepared(&a->slot[0], (struct stamp){1, 41});
	slot_set_committed(&a->slot[0]);
	slot_set_filling(&a->slot[1], (struct stamp){1, 42});
	h = *a->header;
	h.rank = rank;
	h.epoch = epoch;
	h.header_sum = arena_header_sum(&h);
	FUZZ_REQUIRE(pwrite(fd, &h, sizeof(h), 0) == (ssize_t)sizeof(h));
	arena_free(a);
	map_free(map);
	return fd;
}
