/* SPDX-License-Identifier: BSD-3-Clause */
#include "tensor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "checksum.h"
#include "error.h"

uint32_t tensor_owner(const char *name, uint32_t home, uint32_t ranks)
{
	uint64_t digest = digest_more(DIGEST_INIT, name, strlen(name));

	digest = digest_more(digest, &home, sizeof(home));
	return (uint32_t)((digest ^ digest >> 32) % ranks);
}

int tensor_compare(const struct tensor *a, const struct tensor *b)
{
	int order = strcmp(a->name, b->name);

	return order ? order : (a->home > b->home) - (a->home < b->home);
}

bool tensor_same(const struct tensor *a, const struct tensor *b)
{
	return tensor_compare(a, b) == 0;
}

bool tensor_alike(const struct tensor *a, const struct tensor *b)
{
	return a->elem_bytes == b->elem_bytes && a->ndim == b->ndim
	       && memcmp(a->shape, b->shape, a->ndim * sizeof(*a->shape)) == 0;
}

const char *tensor_text(const struct tensor *t, char text[TENSOR_TEXT])
{
	size_t at = 1;

	text[0] = '[';
	for (uint32_t d = 0; d < t->ndim && d < FTMEM_MAX_DIMS; d++)
		at += (size_t)snprintf(text + at, TENSOR_TEXT - at, "%s%" PRIu64, d > 0 ? ", " : "",
		                       t->shape[d]);
	snprintf(text + at, TENSOR_TEXT - at, "] of %" PRIu32 "-byte elements", t->elem_bytes);
	return text;
}

static int put_words(struct bytes *b, const uint64_t *word, uint32_t count)
{
	return bytes_put(b, word, count * sizeof(*word));
}

int tensor_put(struct bytes *b, const struct tensor *t)
{
	uint32_t length = (uint32_t)strlen(t->name);
	uint64_t before = b->size;

	if (bytes_put_u32(b, length) || bytes_put(b, t->name, length) || bytes_put_u32(b, t->home)
	    || bytes_put_u32(b, t->elem_bytes) || bytes_put_u32(b, t->ndim)
	    || put_words(b, t->shape, t->ndim)) {
		b->size = before;
		return FTMEM_ENOMEM;
	}
	return FTMEM_OK;
}

static bool get_name(struct bytes_reader *r, char name[FTMEM_REGION_NAME_MAX + 1])
{
	uint32_t length = bytes_get_u32(r);
	const uint8_t *at;

	if (length == 0 || length > FTMEM_REGION_NAME_MAX)
		return false;
	at = bytes_get(r, length);
	if (!at || memchr(at, '\0', length))
		return false;
	memcpy(name, at, length);
	return true;
}

/* Of at least one element, and fewer than 2^64 bytes. */
static bool get_shape(struct bytes_reader *r, struct tensor *t)
{
	uint64_t bytes = t->elem_bytes;

	if (t->ndim == 0 || t->ndim > FTMEM_MAX_DIMS)
		return false;
	for (uint32_t d = 0; d < t->ndim; d++) {
		t->shape[d] = bytes_get_u64(r);
		if (__builtin_mul_overflow(bytes, t->shape[d], &bytes) || bytes == 0)
			return false;
	}
	return t->home == TENSOR_GLOBAL || (t->elem_bytes == 1 && t->ndim == 1);
}

void tensor_get(struct bytes_reader *r, struct tensor *t)
{
	bool good;

	*t = (struct tensor){0};
	good = get_name(r, t->name);
	t->home = bytes_get_u32(r);
	t->elem_bytes = bytes_get_u32(r);
	t->ndim = bytes_get_u32(r);
	if (good && get_shape(r, t) && !r->bad)
		return;
	*t = (struct tensor){0};
	r->bad = true;
}

int box_put(struct bytes *b, const struct box *box)
{
	uint64_t before = b->size;

	if (put_words(b, box->start, box->ndim) || put_words(b, box->extent, box->ndim)) {
		b->size = before;
		return FTMEM_ENOMEM;
	}
	return FTMEM_OK;
}

/* Neither empty nor of 2^63 elements, and with ends below 2^64. */
static bool box_sensible(const struct box *box)
{
	uint64_t count = 1, end;

	for (uint32_t d = 0; d < box->ndim; d++)
		if (__builtin_add_overflow(box->start[d], box->extent[d], &end)
		    || __builtin_mul_overflow(count, box->extent[d], &count))
			return false;
	return count > 0 && count <= INT64_MAX;
}

void box_get(struct bytes_reader *r, uint32_t ndim, struct box *box)
{
	*box = (struct box){0};
	if (ndim > 0 && ndim <= FTMEM_MAX_DIMS) {
		box->ndim = ndim;
		for (uint32_t d = 0; d < ndim; d++)
			box->start[d] = bytes_get_u64(r);
		for (uint32_t d = 0; d < ndim; d++)
			box->extent[d] = bytes_get_u64(r);
		if (!r->bad && box_sensible(box))
			return;
	}
	*box = (struct box){0};
	r->bad = true;
}
