/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A growing run of bytes, and a reader of one: for the records that ranks send each
 * other. Numbers are in the byte order of the machine. Embedded; zeroed is empty.
 */
#ifndef FTMEM_BYTES_H
#define FTMEM_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes {
	uint8_t *at; /* owned */
	uint64_t size, room;
};

void bytes_deinit(struct bytes *b);
/* ENOMEM: b is as it was. */
int bytes_put(struct bytes *b, const void *from, uint64_t size);
int bytes_put_u32(struct bytes *b, uint32_t value);
int bytes_put_u64(struct bytes *b, uint64_t value);
/* Room for size more bytes, content unspecified; NULL: ENOMEM. Valid until the next call. */
uint8_t *bytes_grow(struct bytes *b, uint64_t size);

struct bytes_reader {
	const uint8_t *at;
	uint64_t left;
	bool bad; /* something was asked for that is not there: all values since are 0 */
};
/* NULL if so much is not left. */
const uint8_t *bytes_get(struct bytes_reader *r, uint64_t size);
uint32_t bytes_get_u32(struct bytes_reader *r);
uint64_t bytes_get_u64(struct bytes_reader *r);

#endif
