/* SPDX-License-Identifier: BSD-3-Clause */
/* What threads write into regions in host memory: shares of puts, blocks of a slot. */
#ifndef FTMEM_COPY_WRITE_H
#define FTMEM_COPY_WRITE_H

#include "copy.h"

/* Bytes that a thread takes at a time. */
#define COPY_SHARE_BYTES (UINT64_C(1) << 20)

/* The next `bytes` of some puts, from behind `done` bytes of the first. */
struct copy_puts {
	const struct copy_put *put;
	uint32_t count;
	uint64_t done, bytes;
};

struct copy_puts copy_puts_all(const struct copy_put *put, uint32_t count);
/* Takes a share of what is left, from the front: that many bytes, or some dozen puts. */
struct copy_puts copy_puts_take(struct copy_puts *left);
void copy_puts_write(const struct copy_puts *taken);

/* Whether the block fits its checksum: only then it is written, but for what belongs into
 * the memory of devices. */
bool copy_fill_block(const struct copy_fill *fill, uint32_t index);

#endif
