/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ISA-L. ec_encode_data() takes any length and alignment. xor_gen() is faster for
 * sums, but wants two sources or more, aligned pointers, and goes byte by byte
 * through what is left of 128.
 */
#include "ec/kernel.h"

#include <isa-l/crc.h>
#include <isa-l/erasure_code.h>
#include <isa-l/raid.h>
#include <stdbool.h>
#include <string.h>

#include "ec/codec_ref.h"

#define TABLE_BYTES 32
#define XOR_ALIGN   32
#define XOR_UNIT    128
#define ROWS_MAX    KERNEL_SOURCES_MAX
/* ISA-L counts in int. */
#define LEN_MAX     ((size_t)1 << 30)

static void isal_expand(uint32_t count, const uint8_t *coef, uint8_t *table)
{
	for (uint32_t c = 0; c < count; c++)
		gf_vect_mul_init(coef[c], table + (size_t)c * TABLE_BYTES);
}

static void dot_part(uint32_t k, uint32_t rows, const uint8_t *table, size_t at, size_t len,
                     const uint8_t *const *src, uint8_t *const *dst)
{
	unsigned char *from[KERNEL_SOURCES_MAX], *to[ROWS_MAX];

	for (uint32_t i = 0; i < k; i++)
		from[i] = (unsigned char *)src[i] + at;
	for (uint32_t r = 0; r < rows; r++)
		to[r] = dst[r] + at;
	ec_encode_data((int)len, (int)k, (int)rows, (unsigned char *)table, from, to);
}

static void isal_dot(uint32_t k, uint32_t rows, const uint8_t *table, size_t len,
                     const uint8_t *const *src, uint8_t *const *dst)
{
	for (size_t at = 0; at < len; at += LEN_MAX)
		dot_part(k, rows, table, at, len - at < LEN_MAX ? len - at : LEN_MAX, src, dst);
}

static bool all_aligned(uint32_t count, void *const *pointer)
{
	uintptr_t bits = 0;

	for (uint32_t i = 0; i < count; i++)
		bits |= (uintptr_t)pointer[i];
	return bits % XOR_ALIGN == 0;
}

/* Sums the first bytes, as many as suit xor_gen(), and returns how many. */
static size_t add_head(uint32_t k, size_t len, const uint8_t *const *src, uint8_t *dst)
{
	size_t head = (len < LEN_MAX ? len : LEN_MAX) / XOR_UNIT * XOR_UNIT;
	void *array[KERNEL_SOURCES_MAX + 1];

	for (uint32_t i = 0; i < k; i++)
		array[i] = (void *)src[i];
	array[k] = dst;
	if (head == 0 || !all_aligned(k + 1, array))
		return 0;
	return xor_gen((int)k + 1, (int)head, array) == 0 ? head : 0;
}

static void isal_add(uint32_t k, size_t len, const uint8_t *const *src, uint8_t *dst)
{
	const uint8_t *rest[KERNEL_SOURCES_MAX];
	size_t at = 0, head;

	if (k == 1) {
		if (len)
			memcpy(dst, src[0], len);
		return;
	}
	memcpy(rest, src, k * sizeof(*rest));
	while ((head = add_head(k, len - at, rest, dst + at)) > 0) {
		at += head;
		for (uint32_t i = 0; i < k; i++)
			rest[i] = src[i] + at;
	}
	gf_ref_xor(k, len - at, rest, dst + at);
}

static uint32_t isal_crc32c(uint32_t sum, const void *data, size_t bytes)
{
	unsigned char *at = (unsigned char *)data;

	sum = ~sum;
	while (bytes > 0) {
		size_t part = bytes < LEN_MAX ? bytes : LEN_MAX;

		sum = crc32_iscsi(at, (int)part, sum);
		at += part;
		bytes -= part;
	}
	return ~sum;
}

const struct kernel_ops *kernel(void)
{
	static const struct kernel_ops ops = {
		.name = "ISA-L",
		.table_bytes = TABLE_BYTES,
		.expand = isal_expand,
		.dot = isal_dot,
		.add = isal_add,
		.crc32c = isal_crc32c,
	};

	return &ops;
}
