/* SPDX-License-Identifier: BSD-3-Clause */
#include "rail.h"

#include <stddef.h>

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t ceil_div(uint64_t a, uint64_t b)
{
	return a / b + (a % b != 0);
}

static uint64_t chunk_of(const struct rail *r, uint64_t data_bytes)
{
	return ceil_div(ceil_div(data_bytes, rail_k(r)), RAIL_ALIGN) * RAIL_ALIGN;
}

uint64_t rail_chunk_bytes(const struct rail *r, uint32_t member)
{
	return chunk_of(r, r->data_bytes[member]);
}

uint64_t rail_parity_bytes(const struct rail *r)
{
	uint64_t most = 0;

	for (uint32_t i = 0; i < r->n; i++)
		if (r->data_bytes[i] > most)
			most = r->data_bytes[i];
	return chunk_of(r, most);
}

uint32_t rail_rows(const struct rail *r)
{
	return (uint32_t)ceil_div(rail_parity_bytes(r), r->block_bytes);
}

uint32_t rail_chunk_rows(const struct rail *r, uint32_t member)
{
	return (uint32_t)ceil_div(rail_chunk_bytes(r, member), r->block_bytes);
}

uint32_t rail_data_blocks(const struct rail *r, uint32_t member)
{
	return rail_k(r) * rail_chunk_rows(r, member);
}

uint64_t rail_data_offset(const struct rail *r, uint32_t member, uint32_t chunk, uint32_t row)
{
	return chunk * rail_chunk_bytes(r, member) + (uint64_t)row * r->block_bytes;
}

/* Bytes that remain of total after the first rows blocks, at most one block. */
static uint64_t block_of(const struct rail *r, uint64_t total, uint32_t row)
{
	uint64_t before = (uint64_t)row * r->block_bytes;

	return before < total ? min_u64(total - before, r->block_bytes) : 0;
}

uint32_t rail_data_len(const struct rail *r, uint32_t member, uint32_t chunk, uint32_t row)
{
	uint64_t chunk_bytes = rail_chunk_bytes(r, member);
	uint64_t begin = chunk * chunk_bytes;
	uint64_t end = r->data_bytes[member];

	if (begin >= end)
		return 0;
	return (uint32_t)block_of(r, min_u64(chunk_bytes, end - begin), row);
}

uint32_t rail_parity_len(const struct rail *r, uint32_t row)
{
	return (uint32_t)block_of(r, rail_parity_bytes(r), row);
}

int rail_find(const struct rail *r, uint32_t rank)
{
	for (uint32_t i = 0; i < r->n; i++)
		if (r->rank[i] == rank)
			return (int)i;
	return -1;
}

static bool ranks_differ(const struct rail *r)
{
	for (uint32_t i = 0; i < r->n; i++)
		for (uint32_t j = 0; j < i; j++)
			if (r->rank[i] == r->rank[j])
				return false;
	return true;
}

bool rail_valid(const struct rail *r)
{
	if (r->n < 1 || r->n > RAIL_MAX || r->m >= r->n || (r->n == 1) != (r->m == 0))
		return false;
	if (r->block_bytes == 0 || r->block_bytes % 4096 != 0)
		return false;
	for (uint32_t i = 0; i < r->n; i++)
		if (r->data_bytes[i] > RAIL_DATA_MAX)
			return false;
	/* All blocks of a member can be counted in 32 bits. */
	if (ceil_div(rail_parity_bytes(r), r->block_bytes) > UINT32_MAX / rail_k(r))
		return false;
	return ranks_differ(r);
}
