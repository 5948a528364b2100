/* SPDX-License-Identifier: BSD-3-Clause */
#include "layout.h"

#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"
#include "layout_impl.h"

static uint64_t blob_region_bytes(const struct region *r)
{
	return sizeof(struct blob_region) + 3 * sizeof(uint64_t) * r->box.ndim
	       + blob_round_up(strlen(r->name) + 1, BLOB_ALIGN);
}

static uint64_t blob_piece_bytes(const struct layout_piece *p)
{
	return sizeof(struct blob_piece) + 2 * sizeof(uint64_t) * p->box.ndim;
}

int layout_no_memory(uint32_t regions)
{
	return error_set(FTMEM_ENOMEM, "no memory for a layout of %u regions", regions);
}

static int error_too_large(uint32_t regions)
{
	return error_set(FTMEM_EINVAL,
	                 "the %u regions have more bytes together than a rank can have (2^48)",
	                 regions);
}

struct layout *layout_new(uint32_t regions, uint64_t names_bytes)
{
	struct layout *l = calloc(1, sizeof(*l));

	if (!l)
		goto fail;
	l->digest = DIGEST_INIT;
	if (regions > 0) {
		l->region = calloc(regions, sizeof(*l->region));
		l->names = malloc(names_bytes);
		if (!l->region || !l->names)
			goto fail;
	}
	return l;
fail:
	layout_free(l);
	layout_no_memory(regions);
	return NULL;
}

void layout_free(struct layout *l)
{
	if (!l)
		return;
	free(l->region);
	free(l->piece);
	free(l->names);
	free(l->blob);
	free(l);
}

bool layout_push(struct layout *l, const struct region *from, char **names)
{
	struct region *r = &l->region[l->regions++];
	size_t bytes = strlen(from->name) + 1;

	/* There is room, and so an array: layout_new() was asked for it. */
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
	*r = *from;
	r->name = *names;
	memcpy(r->name, from->name, bytes);
	*names += bytes;
	l->region_bytes += r->bytes;
	return l->region_bytes <= REGION_DATA_MAX;
}

int layout_freeze(const struct region_set *set, struct layout **out)
{
	uint64_t names_bytes = 0;
	const struct region *r;
	bool fits = true;
	struct layout *l;
	uint32_t at = 0;
	char *names;

	while ((r = region_set_next(set, &at)))
		names_bytes += strlen(r->name) + 1;
	l = layout_new(region_set_count(set), names_bytes);
	if (!l)
		return FTMEM_ENOMEM;
	names = l->names;
	for (at = 0; fits && (r = region_set_next(set, &at));)
		fits = layout_push(l, r, &names);
	if (!fits) {
		layout_free(l);
		return error_too_large(region_set_count(set));
	}
	*out = l;
	return FTMEM_OK;
}

int layout_piece_compare(const void *a, const void *b)
{
	const struct layout_piece *p = a, *q = b;

	if (p->region != q->region)
		return p->region < q->region ? -1 : 1;
	return box_compare(&p->box, &q->box);
}

bool layout_place(struct layout *l)
{
	uint64_t at = l->blob_bytes;
	uint32_t i;

	for (i = 0; i < l->pieces; i++) {
		struct layout_piece *p = &l->piece[i];
		const struct region *r = &l->region[p->region];

		p->bytes = r->box.ndim > 0 ? box_count(&p->box) * r->elem_bytes : r->bytes;
		p->offset = at;
		if (at > REGION_DATA_MAX || p->bytes > REGION_DATA_MAX - at)
			return false;
		at += blob_round_up(p->bytes, LAYOUT_ALIGN);
	}
	l->data_bytes = at;
	return at <= REGION_DATA_MAX;
}

static uint8_t *blob_put(uint8_t *at, const void *from, size_t bytes)
{
	memcpy(at, from, bytes);
	return at + bytes;
}

static uint8_t *blob_put_region(uint8_t *at, const struct region *r)
{
	size_t name_bytes = strlen(r->name), dims = r->box.ndim * sizeof(uint64_t);
	struct blob_region head = {
		.bytes = r->bytes,
		.elem_bytes = r->elem_bytes,
		.ndim = r->box.ndim,
		.name_bytes = (uint32_t)name_bytes,
	};

	at = blob_put(at, &head, sizeof(head));
	at = blob_put(at, r->shape, dims);
	at = blob_put(at, r->box.start, dims);
	at = blob_put(at, r->box.extent, dims);
	memcpy(at, r->name, name_bytes);
	return at + blob_round_up(name_bytes + 1, BLOB_ALIGN);
}

static uint8_t *blob_put_piece(uint8_t *at, const struct layout_piece *p)
{
	struct blob_piece head = {.region = p->region};
	size_t dims = p->box.ndim * sizeof(uint64_t);

	at = blob_put(at, &head, sizeof(head));
	at = blob_put(at, p->box.start, dims);
	return blob_put(at, p->box.extent, dims);
}

static int layout_write(struct layout *l)
{
	struct blob_head head = {
		.magic = BLOB_MAGIC,
		.format = BLOB_FORMAT,
		.regions = l->regions,
		.pieces = l->pieces,
		.blob_bytes = l->blob_bytes,
		.data_bytes = l->data_bytes,
	};
	uint8_t *at;
	uint32_t i;

	l->blob = calloc(1, l->blob_bytes);
	if (!l->blob)
		return layout_no_memory(l->regions);
	at = blob_put(l->blob, &head, sizeof(head));
	for (i = 0; i < l->regions; i++)
		at = blob_put_region(at, &l->region[i]);
	for (i = 0; i < l->pieces; i++)
		at = blob_put_piece(at, &l->piece[i]);
	l->digest = digest_more(DIGEST_INIT, l->blob, l->blob_bytes);
	return FTMEM_OK;
}

/* What layout_settle() does once the pieces are there, in any order. */
static int layout_finish(struct layout *l)
{
	uint64_t bytes = sizeof(struct blob_head);
	uint32_t i;

	qsort(l->piece, l->pieces, sizeof(*l->piece), layout_piece_compare);
	for (i = 0; i < l->regions; i++)
		bytes += blob_region_bytes(&l->region[i]);
	for (i = 0; i < l->pieces; i++)
		bytes += blob_piece_bytes(&l->piece[i]);
	l->blob_bytes = l->regions > 0 ? blob_round_up(bytes, LAYOUT_ALIGN) : 0;
	if (!layout_place(l))
		return error_too_large(l->regions);
	return l->regions > 0 ? layout_write(l) : FTMEM_OK;
}

/* Adds the regions of one kind whole; there is room. */
static void add_whole(struct layout *l, bool boxes)
{
	uint32_t i;

	for (i = 0; i < l->regions; i++) {
		if ((l->region[i].box.ndim > 0) == boxes)
			l->piece[l->pieces++] =
				(struct layout_piece){.region = i, .box = l->region[i].box};
	}
}

int layout_piece_room(struct layout *l, uint64_t count)
{
	l->piece = calloc(count > 0 ? count : 1, sizeof(*l->piece));
	return l->piece ? FTMEM_OK : layout_no_memory(l->regions);
}

int layout_settle(struct layout *l, const struct layout_piece *piece, uint32_t count)
{
	uint32_t i;

	if (count > UINT32_MAX - l->regions)
		return error_set(FTMEM_EINVAL, "%u regions are in too many shares", l->regions);
	if (layout_piece_room(l, (uint64_t)count + l->regions) != FTMEM_OK)
		return FTMEM_ENOMEM;
	for (i = 0; i < count; i++)
		l->piece[l->pieces++] =
			(struct layout_piece){.region = piece[i].region, .box = piece[i].box};
	add_whole(l, false);
	return layout_finish(l);
}

int layout_settle_whole(struct layout *l)
{
	if (layout_piece_room(l, l->regions) != FTMEM_OK)
		return FTMEM_ENOMEM;
	add_whole(l, true);
	add_whole(l, false);
	return layout_finish(l);
}
