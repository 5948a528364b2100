/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Structs of the public API that lead with their size: what a caller built against
 * an older or newer header may pass.
 */
#ifndef FTMEM_SIZED_H
#define FTMEM_SIZED_H

#include <stddef.h>
#include <string.h>

/* Larger than any such struct will grow: beyond it the size field is garbage. */
#define SIZED_MAX 4096

enum sized_result {
	SIZED_OK,
	SIZED_UNSET,   /* size is not that of any version of the struct */
	SIZED_UNKNOWN, /* fields are set that this version does not know */
};

/*
 * Copies the struct at from, whose first member is its size, into to; members that
 * the caller's version lacks become zero. least: bytes of the first version.
 */
static inline enum sized_result sized_copy(void *to, size_t bytes, const void *from, size_t least)
{
	const unsigned char *tail = (const unsigned char *)from;
	size_t size, i;

	memcpy(&size, from, sizeof(size));
	if (size < least || size > SIZED_MAX)
		return SIZED_UNSET;
	for (i = bytes; i < size; i++) {
		if (tail[i] != 0)
			return SIZED_UNKNOWN;
	}
	memset(to, 0, bytes);
	memcpy(to, from, size < bytes ? size : bytes);
	memcpy(to, &bytes, sizeof(bytes));
	return SIZED_OK;
}

#endif
