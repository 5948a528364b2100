/* SPDX-License-Identifier: BSD-3-Clause */
#include "test_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checksum.h"
#include "ec/codec_ref.h"
#include "error.h"
#include "test_random.h"

__attribute__((weak)) void __lsan_ignore_object(const void *p);
__attribute__((weak)) void __lsan_disable(void);
__attribute__((weak)) void __lsan_enable(void);

void test_job_given_up(const void *memory)
{
	if (__lsan_ignore_object && memory)
		__lsan_ignore_object(memory);
}

void test_job_may_give_up(bool may)
{
	if (__lsan_disable && may)
		__lsan_disable();
	if (__lsan_enable && !may)
		__lsan_enable();
}

static void require(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "test job: %s: %s\n", what, error_msg());
	abort();
}

struct map *test_job_map(const struct test_job_spec *spec)
{
	struct map_rank place[TEST_JOB_RANKS] = {0};
	struct map *map = NULL;
	uint32_t ranks = 0;

	for (uint32_t i = 0; i < spec->nodes; i++)
		for (uint32_t j = 0; j < (spec->ranks_on[i] ? spec->ranks_on[i] : 1); j++) {
			require(ranks < TEST_JOB_RANKS, "too many ranks");
			snprintf(place[ranks++].node, sizeof(place[0].node), "node%u", i);
		}
	require(map_new(place, ranks, TEST_JOB_RANKS, spec->parity ? spec->parity : 1, &map) == 0,
	        "map");
	return map;
}

static int new_memfd(uint64_t bytes)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	require(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0, "memfd");
	return fd;
}

struct arena *test_job_arena(const struct map *map, const uint64_t *data_bytes, uint32_t rank)
{
	struct arena_spec spec = {.job = "job",
	                          .node = "node",
	                          .epoch = 1,
	                          .geometry = 1,
	                          .layout = 1,
	                          .rank = rank,
	                          .map = map};
	struct arena *arena = NULL;
	struct rail *rails;
	uint32_t *ids = NULL;
	uint64_t bytes;

	require(map_rails_of(map, rank, &ids, &spec.rails_count) == 0, "rails");
	rails = calloc(spec.rails_count, sizeof(*rails));
	require(rails, "rails");
	for (uint32_t i = 0; i < spec.rails_count; i++) {
		map_rail(map, ids[i], &rails[i]);
		rails[i].block_bytes = TEST_JOB_BLOCK;
		for (uint32_t j = 0; j < rails[i].n; j++)
			rails[i].data_bytes[j] *= data_bytes[rails[i].rank[j]];
	}
	spec.rails = rails;
	require(arena_bytes(&spec, &bytes) == 0, "arena bytes");
	require(arena_create(new_memfd(bytes), &spec, &arena) == 0, "arena");
	free(rails);
	free(ids);
	return arena;
}

void test_job_init(struct test_job *job, const struct test_job_spec *spec)
{
	memset(job, 0, sizeof(*job));
	job->map = test_job_map(spec);
	job->ranks = job->map->ranks;
	memcpy(job->data_bytes, spec->data_bytes, sizeof(job->data_bytes));
	for (uint32_t i = 0; i < job->ranks; i++)
		job->arena[i] = test_job_arena(job->map, job->data_bytes, i);
}

void test_job_deinit(struct test_job *job)
{
	for (uint32_t i = 0; i < job->ranks; i++)
		arena_free(job->arena[i]);
	map_free(job->map);
}

void test_job_data(uint32_t rank, uint64_t version, uint8_t *data, uint64_t bytes)
{
	uint64_t random = (uint64_t)rank << 32 ^ version * 7919;

	for (uint64_t i = 0; i < bytes; i += sizeof(random)) {
		uint64_t word = test_random(&random);

		memcpy(data + i, &word, bytes - i < sizeof(word) ? bytes - i : sizeof(word));
	}
}

void test_job_parity(const struct rail *r, uint32_t stripe, uint32_t parity_row, uint32_t row,
                     const uint8_t *const *data, uint8_t *out)
{
	uint32_t k = rail_k(r), len = rail_parity_len(r, row);
	uint8_t coef[RAIL_MAX];
	const uint8_t *src[RAIL_MAX];
	uint8_t *padded = calloc(k, len);

	require(padded, "memory");
	for (uint32_t d = 0; d < k; d++) {
		uint32_t member = rail_member_of_code(r, stripe, d),
			 bytes = rail_data_len(r, member, d, row);

		if (bytes > 0 && data[member])
			memcpy(padded + (size_t)d * len,
			       data[member] + rail_data_offset(r, member, d, row), bytes);
		src[d] = padded + (size_t)d * len;
		coef[d] = codec_ref_coefficient(k, r->m, parity_row, d);
	}
	gf_ref_dot(k, coef, len, src, out);
	free(padded);
}

/* The data of all members of a rail. */
static void data_of(const struct rail *r, uint64_t version, uint8_t **data)
{
	for (uint32_t i = 0; i < r->n; i++) {
		data[i] = calloc(1, r->data_bytes[i] + 1);
		require(data[i], "memory");
		test_job_data(r->rank[i], version, data[i], r->data_bytes[i]);
	}
}

static void data_free(const struct rail *r, uint8_t **data)
{
	for (uint32_t i = 0; i < r->n; i++)
		free(data[i]);
}

static void fill_data_sums(const struct slot *slot, uint32_t rail, const uint8_t *const *data)
{
	const struct rail *r = &slot->shape->rail[rail];

	for (uint32_t i = 0; i < r->n; i++)
		for (uint32_t c = 0; c < rail_k(r); c++)
			for (uint32_t b = 0; b < rail_chunk_rows(r, i); b++)
				slot->sums[slot_data_sum_index(slot->shape, rail, i, c, b)] =
					checksum(data[i]
				                         + (rail_data_len(r, i, c, b)
				                                    ? rail_data_offset(r, i, c, b)
				                                    : 0),
				                 rail_data_len(r, i, c, b));
}

static void fill_parity(const struct slot *slot, uint32_t rail, const uint8_t *const *data)
{
	const struct rail *r = &slot->shape->rail[rail];

	for (uint32_t j = 0; j < r->m; j++)
		for (uint32_t b = 0; b < rail_rows(r); b++) {
			uint8_t *at = slot_parity(slot, rail, j) + (uint64_t)b * r->block_bytes;

			test_job_parity(r, rail_stripe_of_parity(r, slot->shape->member[rail], j),
			                j, b, data, at);
			slot->sums[slot_parity_sum_index(slot->shape, rail, j, b)] =
				checksum(at, rail_parity_len(r, b));
		}
}

void test_job_fill(const struct slot *slot, uint32_t rank, uint64_t version)
{
	test_job_data(rank, version, slot->data, slot->shape->data_bytes);
	for (uint32_t i = 0; i < slot->shape->rails; i++) {
		uint8_t *data[RAIL_MAX];

		data_of(&slot->shape->rail[i], version, data);
		fill_data_sums(slot, i, (const uint8_t *const *)data);
		fill_parity(slot, i, (const uint8_t *const *)data);
		data_free(&slot->shape->rail[i], data);
	}
}

static bool differs(uint32_t rank, uint32_t rail, const char *what, uint32_t a, uint32_t b,
                    uint32_t row)
{
	fprintf(stderr, "rank %u, rail %u: %s %u/%u, row %u differs\n", rank, rail, what, a, b,
	        row);
	return false;
}

static bool data_sums_equal(const struct slot *slot, const struct slot *want, uint32_t rank,
                            uint32_t rail)
{
	const struct rail *r = &slot->shape->rail[rail];

	for (uint32_t i = 0; i < r->n; i++)
		for (uint32_t c = 0; c < rail_k(r); c++)
			for (uint32_t b = 0; b < rail_chunk_rows(r, i); b++) {
				uint64_t at = slot_data_sum_index(slot->shape, rail, i, c, b);

				if (rail_data_len(r, i, c, b) > 0
				    && slot->sums[at] != want->sums[at])
					return differs(rank, rail, "checksum of member", i, c, b);
			}
	return true;
}

static bool parity_equal(const struct slot *slot, const struct slot *want, uint32_t rank,
                         uint32_t rail)
{
	const struct rail *r = &slot->shape->rail[rail];

	for (uint32_t j = 0; j < r->m; j++)
		for (uint32_t b = 0; b < rail_rows(r); b++) {
			uint64_t at = slot_parity_sum_index(slot->shape, rail, j, b);
			uint64_t offset = (uint64_t)b * r->block_bytes;

			if (memcmp(slot_parity(slot, rail, j) + offset,
			           slot_parity(want, rail, j) + offset, rail_parity_len(r, b))
			    != 0)
				return differs(rank, rail, "parity", j, 0, b);
			if (slot->sums[at] != want->sums[at])
				return differs(rank, rail, "checksum of parity", j, 0, b);
		}
	return true;
}

static bool filled(const struct slot *slot, uint32_t rank, uint64_t version, bool parity)
{
	struct slot want;
	void *base = calloc(1, slot->shape->slot_bytes);
	bool good;

	require(base, "memory");
	slot_init(&want, slot->shape, base);
	test_job_fill(&want, rank, version);
	good = memcmp(slot->data, want.data, slot->shape->data_bytes) == 0 ||
	       differs(rank, 0, "data", 0, 0, 0);
	for (uint32_t i = 0; good && i < slot->shape->rails; i++)
		good = data_sums_equal(slot, &want, rank, i) &&
		       (!parity || parity_equal(slot, &want, rank, i));
	free(base);
	return good;
}

bool test_job_filled(const struct slot *slot, uint32_t rank, uint64_t version)
{
	return filled(slot, rank, version, true);
}

bool test_job_data_filled(const struct slot *slot, uint32_t rank, uint64_t version)
{
	return filled(slot, rank, version, false);
}
