/* SPDX-License-Identifier: BSD-3-Clause */
#include "shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "mpi_check.h"
#include "test_random.h"

#define GUARD       61 /* odd, so that no array is aligned */
#define GUARD_BYTE  0xc3
#define POISON_BYTE 0xa5

#define TIMEOUT_MS 60000

/* --- arrays --- */

static void free_arrays(struct shards *s)
{
	for (uint32_t i = 0; i < s->arrays; i++)
		free(s->array[i].memory);
	s->arrays = 0;
}

/* Takes the memory of a region that is described but for its address. */
static void add_array(struct shards *s, const struct ftmem_region *region)
{
	struct shards_array *a = &s->array[s->arrays++];

	CHECK(s->arrays <= SHARDS_ARRAYS);
	a->region = *region;
	a->memory = malloc(region->bytes + 2 * GUARD);
	CHECK(a->memory);
	memset(a->memory, GUARD_BYTE, region->bytes + 2 * GUARD);
	a->region.addr = a->memory + GUARD;
}

void shards_box(struct shards *s, const struct shards_tensor *t, const uint64_t *start,
                const uint64_t *extent)
{
	struct ftmem_region region = FTMEM_REGION_INIT;

	region.name = t->name;
	region.bytes = t->elem_bytes;
	region.elem_bytes = t->elem_bytes;
	region.ndim = t->ndim;
	for (uint32_t d = 0; d < t->ndim; d++) {
		region.shape[d] = t->shape[d];
		region.start[d] = start[d];
		region.extent[d] = extent[d];
		region.bytes *= extent[d];
	}
	if (region.bytes > 0)
		add_array(s, &region);
}

void shards_boxes(struct shards *s)
{
	struct ftmem_region region = FTMEM_REGION_INIT;

	free_arrays(s);
	region.name = "private";
	region.bytes = s->private_bytes;
	if (shards_runs(s) && region.bytes > 0)
		add_array(s, &region);
}

/* --- what they hold --- */

static uint64_t key_of(const struct shards *s, const struct ftmem_region *r, uint32_t rank,
                       uint64_t version)
{
	uint64_t state = digest_more(DIGEST_INIT, r->name, strlen(r->name)) + s->c.salt;

	state ^= test_random(&state) + version;
	state ^= test_random(&state) + (r->ndim == 0 ? rank + 1 : 0);
	return test_random(&state);
}

static void make_element(uint64_t key, uint64_t index, uint32_t elem_bytes, uint8_t *out)
{
	for (uint32_t b = 0; b < elem_bytes; b += 8) {
		uint64_t state = key + index * (SHARDS_ELEM_MAX / 8) + b / 8;
		uint64_t word = test_random(&state);

		memcpy(out + b, &word, elem_bytes - b < 8 ? elem_bytes - b : 8);
	}
}

/* A region's elements in rows, a private one's bytes in one. */
static uint64_t row_length(const struct ftmem_region *r)
{
	return r->ndim == 0 ? r->bytes : r->extent[r->ndim - 1];
}

static uint32_t element_bytes(const struct ftmem_region *r)
{
	return r->ndim == 0 ? 1 : r->elem_bytes;
}

/* The index in the tensor of the first element of a row. */
static uint64_t row_index(const struct ftmem_region *r, uint64_t row)
{
	uint64_t index = 0, stride = 1;

	for (uint32_t d = r->ndim; d-- > 0;) {
		index += stride * r->start[d];
		if (d + 1 < r->ndim) {
			index += stride * (row % r->extent[d]);
			row /= r->extent[d];
		}
		stride *= r->shape[d];
	}
	return index;
}

void shards_fill(struct shards *s, uint64_t version)
{
	for (uint32_t i = 0; i < s->arrays; i++) {
		const struct ftmem_region *r = &s->array[i].region;
		uint64_t key = key_of(s, r, s->c.rank, version), row = row_length(r);
		uint32_t elem = element_bytes(r);
		uint8_t *at = r->addr, *end = at + r->bytes;

		for (uint64_t j = 0; at < end; j++)
			for (uint64_t k = 0, index = row_index(r, j); k < row; k++, at += elem)
				make_element(key, index + k, elem, at);
	}
}

void shards_poison(struct shards *s)
{
	for (uint32_t i = 0; i < s->arrays; i++)
		memset(s->array[i].region.addr, POISON_BYTE, s->array[i].region.bytes);
}

static void verify_guards(const struct shards *s)
{
	for (uint32_t i = 0; i < s->arrays; i++) {
		const struct shards_array *a = &s->array[i];

		for (uint64_t j = 0; j < GUARD; j++)
			CHECK_MSG(a->memory[j] == GUARD_BYTE
			                  && a->memory[GUARD + a->region.bytes + j] == GUARD_BYTE,
			          "bytes beside a box of %s were written", a->region.name);
	}
}

static void verify_poison(const struct ftmem_region *r)
{
	const uint8_t *bytes = r->addr;

	for (uint64_t i = 0; i < r->bytes; i++)
		CHECK_MSG(bytes[i] == POISON_BYTE, "region %s was written at byte %llu", r->name,
		          (unsigned long long)i);
}

/* Of rank: whose private bytes they are. */
static void verify_array(const struct shards *s, const struct ftmem_region *r, uint32_t rank,
                         uint64_t version)
{
	uint64_t key = key_of(s, r, rank, version), row = row_length(r);
	const uint8_t *at = r->addr, *end = at + r->bytes;
	uint32_t elem = element_bytes(r);
	uint8_t want[SHARDS_ELEM_MAX];

	for (uint64_t j = 0; at < end; j++)
		for (uint64_t k = 0, index = row_index(r, j); k < row; k++, at += elem) {
			make_element(key, index + k, elem, want);
			CHECK_MSG(memcmp(at, want, elem) == 0,
			          "rank %u: element %llu of %s (byte %llu of %llu of its box) is "
			          "not that of version %llu: %02x ..",
			          s->c.rank, (unsigned long long)(index + k), r->name,
			          (unsigned long long)(at - (const uint8_t *)r->addr),
			          (unsigned long long)r->bytes, (unsigned long long)version, at[0]);
		}
}

void shards_verify(const struct shards *s, uint64_t version)
{
	verify_guards(s);
	for (uint32_t i = 0; i < s->arrays; i++) {
		const struct ftmem_region *r = &s->array[i].region;

		if (r->ndim == 0 && s->home == FTMEM_NO_RANK)
			verify_poison(r);
		else
			verify_array(s, r, s->home, version);
	}
}

/* --- the job --- */

void shards_init(struct shards *s, MPI_Comm comm)
{
	char layout[16];
	int size;

	memset(s, 0, sizeof(*s));
	MPI_Comm_size(comm, &size);
	snprintf(layout, sizeof(layout), "%d", size);
	cluster_init(&s->c, comm, layout);
	/* Where ranks are many and cores few, a process may wait long for its turn. */
	s->c.opts.timeout_ms = TIMEOUT_MS;
	s->c.nodes = CLUSTER_NODES;
	for (uint32_t i = 0; i < s->c.size; i++)
		s->c.node_of[i] = i % CLUSTER_NODES;
	s->part = MPI_COMM_NULL;
	s->home = s->c.rank;
	shards_ranks(s, s->c.size);
}

void shards_deinit(struct shards *s)
{
	cluster_deinit(&s->c);
	free_arrays(s);
	if (s->part != MPI_COMM_NULL)
		MPI_Comm_free(&s->part);
}

void shards_ranks(struct shards *s, uint32_t ranks)
{
	CHECK(ranks > 0 && ranks <= s->c.size);
	if (s->part != MPI_COMM_NULL)
		MPI_Comm_free(&s->part);
	s->ranks = ranks;
	MPI_Comm_split(s->c.comm, shards_runs(s) ? 0 : MPI_UNDEFINED, (int)s->c.rank, &s->part);
}

bool shards_runs(const struct shards *s)
{
	return s->c.rank < s->ranks;
}

void shards_start(struct shards *s)
{
	MPI_Comm all = s->c.comm;

	if (!shards_runs(s))
		return;
	s->c.comm = s->part;
	CHECK_RESULT(cluster_try_open(&s->c), 0);
	s->c.comm = all;
	for (uint32_t i = 0; i < s->arrays; i++)
		CHECK_RESULT(ftmem_region_add(s->c.ft, &s->array[i].region), 0);
	CHECK_RESULT(ftmem_seal(s->c.ft), 0);
}

void shards_close(struct shards *s)
{
	cluster_close(&s->c);
}

void shards_commit(struct shards *s, uint64_t version)
{
	if (!shards_runs(s))
		return;
	CHECK_RESULT(ftmem_fence(s->c.ft, NULL), 0);
	shards_fill(s, version);
	CHECK_RESULT(ftmem_snapshot(s->c.ft, version, NULL), 0);
	CHECK_RESULT(ftmem_wait(s->c.ft, version, s->c.opts.timeout_ms), 0);
}

void shards_restore(struct shards *s, uint64_t version)
{
	uint64_t got = UINT64_MAX;

	if (!shards_runs(s))
		return;
	shards_poison(s);
	CHECK_RESULT(ftmem_restore(s->c.ft, &got), 0);
	CHECK_MSG(got == version, "version %llu was restored, not %llu", (unsigned long long)got,
	          (unsigned long long)version);
	shards_verify(s, version);
}

void shards_restore_fails(struct shards *s, int result)
{
	uint64_t got = UINT64_MAX;

	if (!shards_runs(s))
		return;
	shards_poison(s);
	CHECK_RESULT(ftmem_restore(s->c.ft, &got), result);
	CHECK(got == UINT64_MAX);
	verify_guards(s);
	for (uint32_t i = 0; i < s->arrays; i++)
		verify_poison(&s->array[i].region);
}

uint64_t shards_stored_bytes(const struct shards *s)
{
	uint64_t bytes = shards_runs(s) ? cluster_stats(&s->c).data_bytes : 0;

	MPI_Allreduce(MPI_IN_PLACE, &bytes, 1, MPI_UINT64_T, MPI_SUM, s->c.comm);
	return bytes;
}
