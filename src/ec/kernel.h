/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The loops over bytes, one constant table of them. The build links exactly one of
 * kernel_isal.c and kernel_ref.c. Pure; any thread; any length and alignment;
 * outputs must not overlap inputs.
 */
#ifndef FTMEM_KERNEL_H
#define FTMEM_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* Sources of one call at most. */
#define KERNEL_SOURCES_MAX 254

struct kernel_ops {
	const char *name;
	/* Bytes of the expanded form of one coefficient. */
	size_t table_bytes;
	/* Expands coef[count] into table[count * table_bytes]. */
	void (*expand)(uint32_t count, const uint8_t *coef, uint8_t *table);
	/* dst[r] = sum of coef[r * k + i] * src[i] for r < rows: one pass over the k
	 * sources for every few rows. table: expanded from coef[rows * k]. */
	void (*dot)(uint32_t k, uint32_t rows, const uint8_t *table, size_t len,
	            const uint8_t *const *src, uint8_t *const *dst);
	/* dst = sum of src[i], i < k. */
	void (*add)(uint32_t k, size_t len, const uint8_t *const *src, uint8_t *dst);
	/* Continues a CRC-32C as checksum_more() does. NULL: none, tables will do. */
	uint32_t (*crc32c)(uint32_t sum, const void *data, size_t bytes);
};

const struct kernel_ops *kernel(void);

#endif
