/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A rail: n ranks on n different nodes of a group that encode together, and the
 * arithmetic of its stripes. Pure; no allocation.
 *
 * k = n - m. There are n stripes. In stripe s the members s .. s+m-1 (mod n)
 * hold parity rows 0 .. m-1, the others hold data:
 *
 *   n = 4, m = 2          member 0   1    2    3
 *              stripe 0       P0   P1   d0   d1
 *              stripe 1       d1   P0   P1   d0
 *              stripe 2       d0   d1   P0   P1
 *              stripe 3       P1   d0   d1   P0
 *
 * dC is the member's chunk C as well as the codec's data index: member i has
 * chunk c in stripe i - m - c (mod n). Its data of D bytes is cut into k chunks
 * of ceil(D / k) bytes rounded up to 64; what lies beyond D counts as zeros. A
 * chunk is cut into blocks of block_bytes, the last one shorter. Row b of a
 * stripe is block b of its chunks; a parity chunk is as long as the longest
 * chunk of the rail.
 *
 * A node with fewer ranks than its group's fullest node lends ranks that have
 * their data elsewhere: such members have 0 data bytes and hold only parity.
 */
#ifndef FTMEM_RAIL_H
#define FTMEM_RAIL_H

#include <stdbool.h>
#include <stdint.h>

#define RAIL_ALIGN 64
/* Members of a rail at most: bounds staging memory and the codec's matrix. */
#define RAIL_MAX 64
/* Bytes of a member's data at most: 64 PiB, far from overflow of any sum below. */
#define RAIL_DATA_MAX (UINT64_C(1) << 56)

struct rail {
	uint32_t id;           /* unique among the rails of the job */
	uint32_t n, m;         /* members, parity; n > m; n = 1 with m = 0 */
	uint32_t block_bytes;  /* multiple of 4096 */
	uint32_t rank[RAIL_MAX];
	uint64_t data_bytes[RAIL_MAX];
};

static inline uint32_t rail_k(const struct rail *r) { return r->n - r->m; }

/* Bytes of each of the member's k chunks. */
uint64_t rail_chunk_bytes(const struct rail *r, uint32_t member);
/* Bytes of a parity chunk: the longest chunk of all members. */
uint64_t rail_parity_bytes(const struct rail *r);
/* Rows: blocks of a parity chunk; blocks of the member's own chunk. */
uint32_t rail_rows(const struct rail *r);
uint32_t rail_chunk_rows(const struct rail *r, uint32_t member);
/* Checksums of the member's data: k * rail_chunk_rows(). */
uint32_t rail_data_blocks(const struct rail *r, uint32_t member);

/* Offset in the member's data, and length (0 if beyond the end), of block row of
 * chunk. */
uint64_t rail_data_offset(const struct rail *r, uint32_t member, uint32_t chunk, uint32_t row);
uint32_t rail_data_len(const struct rail *r, uint32_t member, uint32_t chunk, uint32_t row);
/* Offset in a parity chunk is row * block_bytes; length of its block row. */
uint32_t rail_parity_len(const struct rail *r, uint32_t row);

/* Does member hold parity in stripe, and then which row; else which chunk. */
static inline bool rail_is_parity(const struct rail *r, uint32_t stripe, uint32_t member)
{
	return (member + r->n - stripe) % r->n < r->m;
}
static inline uint32_t rail_parity_row(const struct rail *r, uint32_t stripe, uint32_t member)
{
	return (member + r->n - stripe) % r->n;
}
static inline uint32_t rail_chunk(const struct rail *r, uint32_t stripe, uint32_t member)
{
	return (member + r->n - stripe) % r->n - r->m;
}
/* The codec's index of the member's block in stripe: data 0.., then parity. */
static inline uint32_t rail_code_index(const struct rail *r, uint32_t stripe, uint32_t member)
{
	return rail_is_parity(r, stripe, member)
		? rail_k(r) + rail_parity_row(r, stripe, member)
		: rail_chunk(r, stripe, member);
}
/* Inverses. */
static inline uint32_t rail_stripe_of_chunk(const struct rail *r, uint32_t member, uint32_t chunk)
{
	return (member + 2 * r->n - r->m - chunk) % r->n;
}
static inline uint32_t rail_stripe_of_parity(const struct rail *r, uint32_t member, uint32_t row)
{
	return (member + r->n - row) % r->n;
}
static inline uint32_t rail_member_of_code(const struct rail *r, uint32_t stripe, uint32_t index)
{
	uint32_t k = rail_k(r);

	return (stripe + (index < k ? index + r->m : index - k)) % r->n;
}

/* The member that is this rank, or -1. */
int rail_find(const struct rail *r, uint32_t rank);
/* Whether the fields make sense: for rails read from memory that may be damaged. */
bool rail_valid(const struct rail *r);

#endif
