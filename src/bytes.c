/* SPDX-License-Identifier: BSD-3-Clause */
#include "bytes.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"

#define ROOM_MIN 256u
#define ROOM_MAX (UINT64_C(1) << 48) /* more than a rank can have: doubling stays in bounds */

void bytes_deinit(struct bytes *b)
{
	free(b->at);
	*b = (struct bytes){0};
}

/* Doubles, so that many small records cost few copies. */
static int make_room(struct bytes *b, uint64_t size)
{
	uint64_t need, room = b->room > ROOM_MIN ? b->room : ROOM_MIN;
	uint8_t *at = NULL;

	if (b->at && size <= b->room - b->size)
		return FTMEM_OK;
	if (!__builtin_add_overflow(b->size, size, &need) && need <= ROOM_MAX) {
		while (room < need)
			room *= 2;
		at = realloc(b->at, room);
	}
	if (!at)
		return error_set(FTMEM_ENOMEM,
		                 "no memory for %llu more bytes of records, %llu so far",
		                 (unsigned long long)size, (unsigned long long)b->size);
	b->at = at;
	b->room = room;
	return FTMEM_OK;
}

uint8_t *bytes_grow(struct bytes *b, uint64_t size)
{
	uint8_t *at;

	if (make_room(b, size))
		return NULL;
	at = b->at + b->size;
	b->size += size;
	return at;
}

int bytes_put(struct bytes *b, const void *from, uint64_t size)
{
	uint8_t *at = bytes_grow(b, size);

	if (!at)
		return FTMEM_ENOMEM;
	if (size > 0)
		memcpy(at, from, size);
	return FTMEM_OK;
}

int bytes_put_u32(struct bytes *b, uint32_t value)
{
	return bytes_put(b, &value, sizeof(value));
}

int bytes_put_u64(struct bytes *b, uint64_t value)
{
	return bytes_put(b, &value, sizeof(value));
}

const uint8_t *bytes_get(struct bytes_reader *r, uint64_t size)
{
	const uint8_t *at = r->at;

	if (r->bad || size > r->left) {
		r->bad = true;
		return NULL;
	}
	if (size > 0)
		r->at += size;
	r->left -= size;
	return at;
}

uint32_t bytes_get_u32(struct bytes_reader *r)
{
	const uint8_t *at = bytes_get(r, sizeof(uint32_t));
	uint32_t value = 0;

	if (at)
		memcpy(&value, at, sizeof(value));
	return value;
}

uint64_t bytes_get_u64(struct bytes_reader *r)
{
	const uint8_t *at = bytes_get(r, sizeof(uint64_t));
	uint64_t value = 0;

	if (at)
		memcpy(&value, at, sizeof(value));
	return value;
}
