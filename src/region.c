/* SPDX-License-Identifier: BSD-3-Clause */
#include "region.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"
#include "sized.h"

#define BLOB_MAGIC   0x594c5446u /* "FTLY" in memory */
#define BLOB_FORMAT  1u
#define BLOB_ALIGN   8
#define INDEX_NONE   UINT32_MAX
#define SET_ROOM_MIN 16u
#define SET_ROOM_MAX (1u << 30)

struct blob_head {
	uint32_t magic, format, count, reserved;
	uint64_t blob_bytes, data_bytes;
};
_Static_assert(sizeof(struct blob_head) == 32, "documented in docs/formats.md");

/* Then shape, start, extent: ndim words each; then the name, a zero byte, and zeros
 * up to BLOB_ALIGN. */
struct blob_entry {
	uint64_t bytes;
	uint32_t elem_bytes, ndim, name_bytes, reserved;
};
_Static_assert(sizeof(struct blob_entry) == 24, "documented in docs/formats.md");

#define BLOB_ENTRY_MIN (sizeof(struct blob_entry) + BLOB_ALIGN)

/* Removed entries stay, without a name, until room is made: so the positions in the
 * index hold, and removal needs no memory. */
struct region_set {
	struct layout_entry *entry;
	uint32_t used, live, room; /* entries; room is a power of two */
	struct name_index index;
};

static uint64_t round_up(uint64_t value, uint64_t align)
{
	return (value + align - 1) / align * align;
}

/* Power-of-two tables at most half full, so that every search ends. */
static int index_init(struct name_index *index, uint32_t count)
{
	uint32_t places = 2;

	while (places / 2 < count)
		places *= 2;
	index->place = calloc(places, sizeof(*index->place));
	if (!index->place)
		return error_set(FTMEM_ENOMEM, "no memory for an index of %u regions", count);
	index->mask = places - 1;
	return FTMEM_OK;
}

static uint32_t index_hash(const char *name)
{
	uint64_t digest = digest_more(DIGEST_INIT, name, strlen(name));

	return (uint32_t)(digest ^ digest >> 32);
}

static void index_put(struct name_index *index, const char *name, uint32_t position)
{
	uint32_t at = index_hash(name) & index->mask;

	while (index->place[at] != 0)
		at = (at + 1) & index->mask;
	index->place[at] = position + 1;
}

static uint32_t index_find(const struct name_index *index, const struct layout_entry *entry,
                           const char *name)
{
	uint32_t at = index_hash(name) & index->mask, position;

	for (; index->place[at] != 0; at = (at + 1) & index->mask) {
		position = index->place[at] - 1;
		if (entry[position].name && strcmp(entry[position].name, name) == 0)
			return position;
	}
	return INDEX_NONE;
}

int region_set_new(struct region_set **out)
{
	struct region_set *set = calloc(1, sizeof(*set));

	if (!set || index_init(&set->index, 0) != FTMEM_OK) {
		region_set_free(set);
		return error_set(FTMEM_ENOMEM, "no memory for the set of regions");
	}
	*out = set;
	return FTMEM_OK;
}

void region_set_free(struct region_set *set)
{
	uint32_t i;

	if (!set)
		return;
	for (i = 0; i < set->used; i++)
		free(set->entry[i].name);
	free(set->entry);
	free(set->index.place);
	free(set);
}

uint32_t region_set_count(const struct region_set *set)
{
	return set->live;
}

/* Drops the removed entries and, if that does not leave half of it free, doubles
 * the room. */
static int set_make_room(struct region_set *set)
{
	uint32_t room = set->room < SET_ROOM_MIN ? SET_ROOM_MIN : set->room, i, live = 0;
	struct name_index index = {0};
	struct layout_entry *entry;

	if (set->used < set->room)
		return FTMEM_OK;
	if (set->live >= room / 2)
		room *= 2;
	entry = room <= SET_ROOM_MAX ? calloc(room, sizeof(*entry)) : NULL;
	if (!entry || index_init(&index, room) != FTMEM_OK) {
		free(entry);
		return error_set(FTMEM_ENOMEM, "no memory for more than %u regions", set->live);
	}
	for (i = 0; i < set->used; i++) {
		if (!set->entry[i].name)
			continue;
		entry[live] = set->entry[i];
		index_put(&index, entry[live].name, live);
		live++;
	}
	free(set->entry);
	free(set->index.place);
	set->entry = entry;
	set->index = index;
	set->used = live;
	set->room = room;
	return FTMEM_OK;
}

/* What is wrong with a region's size and box, NULL if nothing. */
static const char *entry_fault(const struct layout_entry *e)
{
	uint64_t box = e->elem_bytes, tensor = e->elem_bytes;
	uint32_t d;

	if (e->bytes == 0)
		return "it has no bytes";
	if (e->bytes > LAYOUT_DATA_MAX)
		return "it has more bytes than a rank can have (2^48)";
	if (e->ndim > FTMEM_MAX_DIMS)
		return "it has more than 8 dimensions";
	if (e->ndim > 0 && e->elem_bytes == 0)
		return "it is a box, but elem_bytes is 0";
	for (d = 0; d < e->ndim; d++) {
		if (e->start[d] > e->shape[d] || e->extent[d] > e->shape[d] - e->start[d])
			return "its box reaches beyond the tensor: start + extent > shape";
		if (__builtin_mul_overflow(box, e->extent[d], &box)
		    || __builtin_mul_overflow(tensor, e->shape[d], &tensor))
			return "its tensor has more than 2^64 bytes";
	}
	if (e->ndim > 0 && box != e->bytes)
		return "bytes is not elem_bytes times the product of extent";
	return NULL;
}

/* Beyond ndim all is zero, whatever the caller left there: equal regions are equal
 * bytes. */
static void entry_fill(struct layout_entry *e, const struct ftmem_region *r)
{
	uint32_t d;

	*e = (struct layout_entry){.addr = r->addr, .bytes = r->bytes, .ndim = r->ndim};
	e->elem_bytes = r->ndim > 0 ? r->elem_bytes : 0;
	for (d = 0; d < r->ndim && d < FTMEM_MAX_DIMS; d++) {
		e->shape[d] = r->shape[d];
		e->start[d] = r->start[d];
		e->extent[d] = r->extent[d];
	}
}

static int region_take(const struct ftmem_region *r, struct ftmem_region *own)
{
	if (!r)
		return error_set(FTMEM_EINVAL, "the region is NULL");
	switch (sized_copy(own, sizeof(*own), r, offsetof(struct ftmem_region, elem_bytes))) {
	case SIZED_OK: break;
	case SIZED_UNSET:
		return error_set(FTMEM_EINVAL,
		                 "struct ftmem_region has size %zu: begin with FTMEM_REGION_INIT",
		                 r->size);
	default:
		return error_set(FTMEM_EINVAL,
		                 "struct ftmem_region has fields set that this libftmem does not "
		                 "know: it is older than the header the program was built with");
	}
	if (!own->name || own->name[0] == '\0')
		return error_set(FTMEM_EINVAL, "the region at %p has no name", own->addr);
	if (strnlen(own->name, FTMEM_REGION_NAME_MAX + 1) > FTMEM_REGION_NAME_MAX)
		return error_set(FTMEM_EINVAL,
		                 "region \"%.80s...\": its name is longer than %d bytes", own->name,
		                 FTMEM_REGION_NAME_MAX);
	return FTMEM_OK;
}

int region_set_add(struct region_set *set, const struct ftmem_region *r)
{
	struct ftmem_region own = {0};
	struct layout_entry entry;
	const char *fault;
	size_t name_bytes;
	int rc;

	rc = region_take(r, &own);
	if (rc != FTMEM_OK)
		return rc;
	entry_fill(&entry, &own);
	fault = entry_fault(&entry);
	if (!fault && !own.addr)
		fault = "its address is NULL";
	if (!fault && (uintptr_t)own.addr > UINTPTR_MAX - own.bytes)
		fault = "it reaches beyond the address space";
	if (!fault && index_find(&set->index, set->entry, own.name) != INDEX_NONE)
		fault = "there is one of this name already; names are unique in a rank";
	if (fault)
		return error_set(FTMEM_EINVAL, "region \"%s\" of %" PRIu64 " bytes: %s", own.name,
		                 own.bytes, fault);

	rc = set_make_room(set);
	if (rc != FTMEM_OK)
		return rc;
	name_bytes = strlen(own.name) + 1;
	entry.name = malloc(name_bytes);
	if (!entry.name)
		return error_set(FTMEM_ENOMEM, "no memory for region \"%s\"", own.name);
	memcpy(entry.name, own.name, name_bytes);
	set->entry[set->used] = entry;
	index_put(&set->index, entry.name, set->used);
	set->used++;
	set->live++;
	return FTMEM_OK;
}

int region_set_remove(struct region_set *set, const char *name)
{
	uint32_t position;

	if (!name)
		return error_set(FTMEM_EINVAL, "the name of the region to remove is NULL");
	position = index_find(&set->index, set->entry, name);
	if (position == INDEX_NONE)
		return error_set(FTMEM_EINVAL, "region \"%.255s\" is not registered", name);
	free(set->entry[position].name);
	set->entry[position].name = NULL;
	set->live--;
	return FTMEM_OK;
}

static uint64_t blob_entry_bytes(const struct layout_entry *e)
{
	return sizeof(struct blob_entry) + 3 * sizeof(uint64_t) * e->ndim
	       + round_up(strlen(e->name) + 1, BLOB_ALIGN);
}

/* NULL: ENOMEM. */
static struct layout *layout_new(uint32_t count, uint64_t names_bytes)
{
	struct layout *l = calloc(1, sizeof(*l));

	if (!l)
		goto fail;
	l->digest = DIGEST_INIT;
	if (index_init(&l->index, count) != FTMEM_OK)
		goto fail;
	if (count > 0) {
		l->entry = calloc(count, sizeof(*l->entry));
		l->names = malloc(names_bytes + 1);
		if (!l->entry || !l->names)
			goto fail;
	}
	return l;
fail:
	layout_free(l);
	error_set(FTMEM_ENOMEM, "no memory for a layout of %u regions", count);
	return NULL;
}

void layout_free(struct layout *l)
{
	if (!l)
		return;
	free(l->entry);
	free(l->names);
	free(l->index.place);
	free(l->blob);
	free(l);
}

/* Adds a copy of an entry whose name is copied to *names; offsets come later. */
static void layout_push(struct layout *l, const struct layout_entry *from, char **names)
{
	struct layout_entry *e = &l->entry[l->count];
	size_t bytes = strlen(from->name) + 1;

	*e = *from;
	e->name = *names;
	memcpy(e->name, from->name, bytes);
	*names += bytes;
	index_put(&l->index, e->name, l->count);
	l->count++;
}

/* Offsets follow from the order, the sizes and the blob's size. */
static bool layout_place(struct layout *l)
{
	uint64_t at = l->blob_bytes;
	uint32_t i;

	for (i = 0; i < l->count; i++) {
		if (at > LAYOUT_DATA_MAX - l->entry[i].bytes)
			return false;
		l->entry[i].offset = at;
		at += round_up(l->entry[i].bytes, LAYOUT_ALIGN);
	}
	l->data_bytes = at;
	return at <= LAYOUT_DATA_MAX;
}

static uint8_t *blob_put(uint8_t *at, const void *from, size_t bytes)
{
	memcpy(at, from, bytes);
	return at + bytes;
}

static uint8_t *blob_put_entry(uint8_t *at, const struct layout_entry *e)
{
	size_t name_bytes = strlen(e->name), dims = e->ndim * sizeof(uint64_t);
	struct blob_entry head = {
		.bytes = e->bytes,
		.elem_bytes = e->elem_bytes,
		.ndim = e->ndim,
		.name_bytes = (uint32_t)name_bytes,
	};

	at = blob_put(at, &head, sizeof(head));
	at = blob_put(at, e->shape, dims);
	at = blob_put(at, e->start, dims);
	at = blob_put(at, e->extent, dims);
	memcpy(at, e->name, name_bytes);
	return at + round_up(name_bytes + 1, BLOB_ALIGN);
}

static int layout_write(struct layout *l)
{
	struct blob_head head = {
		.magic = BLOB_MAGIC,
		.format = BLOB_FORMAT,
		.count = l->count,
		.blob_bytes = l->blob_bytes,
		.data_bytes = l->data_bytes,
	};
	uint8_t *at;
	uint32_t i;

	l->blob = calloc(1, l->blob_bytes);
	if (!l->blob)
		return error_set(FTMEM_ENOMEM, "no memory for a layout of %u regions", l->count);
	at = blob_put(l->blob, &head, sizeof(head));
	for (i = 0; i < l->count; i++)
		at = blob_put_entry(at, &l->entry[i]);
	l->digest = digest_more(DIGEST_INIT, l->blob, l->blob_bytes);
	return FTMEM_OK;
}

static int error_too_large(uint32_t count)
{
	return error_set(FTMEM_EINVAL,
	                 "the %u regions have more bytes together than a rank can have (2^48)",
	                 count);
}

int layout_freeze(const struct region_set *set, struct layout **out)
{
	uint64_t blob_bytes = sizeof(struct blob_head), names_bytes = 0;
	struct layout *l;
	char *names;
	uint32_t i;
	int rc = FTMEM_OK;

	for (i = 0; i < set->used; i++) {
		if (!set->entry[i].name)
			continue;
		blob_bytes += blob_entry_bytes(&set->entry[i]);
		names_bytes += strlen(set->entry[i].name) + 1;
	}
	l = layout_new(set->live, names_bytes);
	if (!l)
		return FTMEM_ENOMEM;
	names = l->names;
	for (i = 0; i < set->used; i++) {
		if (set->entry[i].name)
			layout_push(l, &set->entry[i], &names);
	}
	if (l->count > 0) {
		l->blob_bytes = round_up(blob_bytes, LAYOUT_ALIGN);
		rc = layout_place(l) ? layout_write(l) : error_too_large(l->count);
	}
	if (rc != FTMEM_OK) {
		layout_free(l);
		return rc;
	}
	*out = l;
	return FTMEM_OK;
}

/* What of the blob has not been read yet. */
struct blob_reader {
	const uint8_t *at;
	uint64_t left;
};

static bool blob_get(struct blob_reader *r, void *to, size_t bytes)
{
	if (bytes > r->left)
		return false;
	memcpy(to, r->at, bytes);
	r->at += bytes;
	r->left -= bytes;
	return true;
}

static bool all_zero(const uint8_t *at, uint64_t bytes)
{
	while (bytes > 0 && at[bytes - 1] == 0)
		bytes--;
	return bytes == 0;
}

/* What is wrong with the next entry, NULL if nothing. */
static const char *blob_get_entry(struct blob_reader *r, struct layout *l, char **names)
{
	char name[FTMEM_REGION_NAME_MAX + 1 + BLOB_ALIGN];
	struct layout_entry entry = {0};
	struct blob_entry head;
	const char *fault;
	size_t dims, padded;

	if (!blob_get(r, &head, sizeof(head)))
		return "it is cut off";
	if (head.ndim > FTMEM_MAX_DIMS || head.reserved != 0 || head.name_bytes == 0
	    || head.name_bytes > FTMEM_REGION_NAME_MAX)
		return "its fields are out of range";
	dims = head.ndim * sizeof(uint64_t);
	padded = round_up(head.name_bytes + 1, BLOB_ALIGN);
	if (!blob_get(r, entry.shape, dims) || !blob_get(r, entry.start, dims)
	    || !blob_get(r, entry.extent, dims) || !blob_get(r, name, padded))
		return "it is cut off";
	if (memchr(name, '\0', head.name_bytes)
	    || !all_zero((const uint8_t *)name + head.name_bytes, padded - head.name_bytes))
		return "its name is damaged";
	if (index_find(&l->index, l->entry, name) != INDEX_NONE)
		return "its name is there twice";

	entry.bytes = head.bytes;
	entry.elem_bytes = head.elem_bytes;
	entry.ndim = head.ndim;
	if (head.ndim == 0 && head.elem_bytes != 0)
		return "its fields are out of range";
	fault = entry_fault(&entry);
	if (fault)
		return fault;
	entry.name = name;
	layout_push(l, &entry, names);
	return NULL;
}

/* What is wrong with the head, NULL if nothing. */
static const char *blob_head_fault(const struct blob_head *head, uint64_t bytes)
{
	if (head->magic != BLOB_MAGIC)
		return "it does not begin as one";
	if (head->format != BLOB_FORMAT)
		return "it is of another format version than this libftmem writes";
	if (head->blob_bytes > bytes || head->blob_bytes > SIZE_MAX
	    || head->blob_bytes < sizeof(*head) || head->blob_bytes % LAYOUT_ALIGN != 0
	    || head->reserved != 0)
		return "its fields are out of range";
	if (head->count == 0 || head->count > SET_ROOM_MAX
	    || head->count > (head->blob_bytes - sizeof(*head)) / BLOB_ENTRY_MIN)
		return "it has no room for as many regions as it says";
	return NULL;
}

/* Reads the entries behind the head; what is wrong with them, NULL if nothing. */
static const char *blob_get_entries(struct blob_reader *r, struct layout *l,
                                    const struct blob_head *head)
{
	char *names = l->names;
	const char *fault;

	while (l->count < head->count) {
		fault = blob_get_entry(r, l, &names);
		if (fault)
			return fault;
	}
	if (r->left >= LAYOUT_ALIGN || !all_zero(r->at, r->left))
		return "there is something behind its last region";
	if (!layout_place(l) || l->data_bytes != head->data_bytes)
		return "its regions do not add up to the size it says";
	return NULL;
}

static int layout_read(struct blob_reader *r, uint64_t bytes, struct layout **out)
{
	struct blob_head head = {0};
	const uint8_t *blob = r->at;
	const char *fault = "it is cut off";
	struct layout *l;

	if (blob_get(r, &head, sizeof(head)))
		fault = blob_head_fault(&head, bytes);
	if (fault)
		return error_set(FTMEM_ECORRUPT, "stored layout: %s", fault);
	/* Names are part of the blob: together they are shorter. */
	l = layout_new(head.count, head.blob_bytes);
	if (!l)
		return FTMEM_ENOMEM;
	l->blob_bytes = head.blob_bytes;
	r->left = head.blob_bytes - sizeof(head);
	fault = blob_get_entries(r, l, &head);
	if (fault) {
		error_set(FTMEM_ECORRUPT, "stored layout, behind %u of %u regions: %s", l->count,
		          head.count, fault);
		layout_free(l);
		return FTMEM_ECORRUPT;
	}
	l->digest = digest_more(DIGEST_INIT, blob, head.blob_bytes);
	*out = l;
	return FTMEM_OK;
}

int layout_parse(const uint8_t *blob, uint64_t bytes, struct layout **out)
{
	struct blob_reader r = {blob, bytes};
	struct layout *l;

	if (bytes > 0)
		return layout_read(&r, bytes, out);
	l = layout_new(0, 0);
	if (!l)
		return FTMEM_ENOMEM;
	*out = l;
	return FTMEM_OK;
}

const struct layout_entry *layout_find(const struct layout *l, const char *name)
{
	uint32_t position = index_find(&l->index, l->entry, name);

	return position == INDEX_NONE ? NULL : &l->entry[position];
}

static void list_write(char *text, size_t bytes, const uint64_t *value, uint32_t count)
{
	size_t at = 0;
	uint32_t d;

	text[0] = '\0';
	for (d = 0; d < count && at < bytes; d++)
		at += (size_t)snprintf(text + at, bytes - at, "%s%" PRIu64, d > 0 ? "," : "",
		                       value[d]);
}

/* What an entry holds, for messages: "4096 bytes" or with its box. */
static void entry_describe(const struct layout_entry *e, char *text, size_t bytes)
{
	char shape[96], start[96], extent[96];

	if (e->ndim == 0) {
		snprintf(text, bytes, "%" PRIu64 " private bytes", e->bytes);
		return;
	}
	list_write(shape, sizeof(shape), e->shape, e->ndim);
	list_write(start, sizeof(start), e->start, e->ndim);
	list_write(extent, sizeof(extent), e->extent, e->ndim);
	snprintf(text, bytes, "box [%s] at [%s] of tensor [%s] with %u-byte elements", extent,
	         start, shape, e->elem_bytes);
}

static bool entry_same(const struct layout_entry *a, const struct layout_entry *b)
{
	size_t dims = a->ndim * sizeof(uint64_t);

	return a->bytes == b->bytes && a->elem_bytes == b->elem_bytes && a->ndim == b->ndim
	       && memcmp(a->shape, b->shape, dims) == 0 && memcmp(a->start, b->start, dims) == 0
	       && memcmp(a->extent, b->extent, dims) == 0;
}

int layout_covers(const struct layout *stored, const struct layout *want)
{
	const struct layout_entry *have, *e;
	char held[384], asked[384];
	uint32_t i;

	for (i = 0; i < want->count; i++) {
		e = &want->entry[i];
		have = layout_find(stored, e->name);
		if (!have)
			return error_set(
				FTMEM_ELAYOUT,
				"region \"%s\" is not among the %u stored regions: register "
				"the regions that were snapshotted, or forget the job",
				e->name, stored->count);
		if (entry_same(have, e))
			continue;
		entry_describe(have, held, sizeof(held));
		entry_describe(e, asked, sizeof(asked));
		return error_set(FTMEM_ELAYOUT,
		                 "region \"%s\" was stored as %s but is registered as %s", e->name,
		                 held, asked);
	}
	return FTMEM_OK;
}
