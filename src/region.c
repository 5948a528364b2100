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
#include "tensor.h"

#define SET_ROOM_MIN 16u
#define SET_ROOM_MAX (1u << 30)

struct entry {
	struct region region; /* without a name: removed */
	uint32_t older;       /* position + 1 of the one of the same name before it, 0: none */
};

/* Names to the newest entries called so: a hash table, open addressing. */
struct name_index {
	uint32_t *place; /* [mask + 1] position + 1, 0: free */
	uint32_t mask;
};

/* Removed entries stay, without a name, until room is made: so the positions in the
 * index hold, and removal needs no memory. */
struct region_set {
	struct entry *entry;
	uint32_t used, live, room; /* entries; room is a power of two */
	struct name_index index;
};

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

/* Where the name is in the index, else the free place where it belongs. */
static uint32_t *index_place(const struct name_index *index, const struct entry *entry,
                             const char *name)
{
	uint32_t at = index_hash(name) & index->mask;
	const char *there;

	for (; index->place[at] != 0; at = (at + 1) & index->mask) {
		there = entry[index->place[at] - 1].region.name;
		if (there && strcmp(there, name) == 0)
			break;
	}
	return &index->place[at];
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
		free(set->entry[i].region.name);
	free(set->entry);
	free(set->index.place);
	free(set);
}

uint32_t region_set_count(const struct region_set *set)
{
	return set->live;
}

const struct region *region_set_next(const struct region_set *set, uint32_t *at)
{
	while (*at < set->used) {
		const struct region *r = &set->entry[(*at)++].region;

		if (r->name)
			return r;
	}
	return NULL;
}

/* Behind all others; there is room in entry and index. */
static void entry_append(struct entry *entry, struct name_index *index, uint32_t position,
                         const struct region *r)
{
	uint32_t *place = index_place(index, entry, r->name);

	entry[position] = (struct entry){.region = *r, .older = *place};
	*place = position + 1;
}

/* Drops the removed entries and, if that does not leave half of it free, doubles
 * the room. */
static int set_make_room(struct region_set *set)
{
	uint32_t room = set->room < SET_ROOM_MIN ? SET_ROOM_MIN : set->room, i, live = 0;
	struct name_index index = {0};
	struct entry *entry;

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
		if (set->entry[i].region.name)
			entry_append(entry, &index, live++, &set->entry[i].region);
	}
	free(set->entry);
	free(set->index.place);
	set->entry = entry;
	set->index = index;
	set->used = live;
	set->room = room;
	return FTMEM_OK;
}

bool region_same_tensor(const struct region *a, const struct region *b)
{
	return a->box.ndim > 0 && a->box.ndim == b->box.ndim && a->elem_bytes == b->elem_bytes
	       && memcmp(a->shape, b->shape, a->box.ndim * sizeof(a->shape[0])) == 0;
}

static const char *tensor_of_text(const struct region *r, char text[TENSOR_TEXT])
{
	struct tensor t = {.elem_bytes = r->elem_bytes, .ndim = r->box.ndim};

	memcpy(t.shape, r->shape, sizeof(t.shape));
	return tensor_text(&t, text);
}

/* What is wrong with one dimension of a box. */
static const char *dim_fault(const struct region *r, uint32_t d, char text[REGION_FAULT])
{
	uint64_t start = r->box.start[d], extent = r->box.extent[d], shape = r->shape[d];
	char box[BOX_TEXT], tensor[TENSOR_TEXT];

	if (extent > 0 && start <= shape && extent <= shape - start)
		return NULL;
	if (extent == 0 || shape == 0)
		snprintf(text, REGION_FAULT, "its %s is 0 in dimension %u",
		         shape == 0 ? "shape" : "extent", d);
	else if (extent > UINT64_MAX - start)
		snprintf(text, REGION_FAULT, "its start + extent in dimension %u is 2^64 or more",
		         d);
	else
		snprintf(text, REGION_FAULT,
		         "its box %s reaches beyond the tensor in dimension %u: that is %s",
		         box_text(&r->box, box), d, tensor_of_text(r, tensor));
	return text;
}

/* What is wrong with the size of a box whose dimensions are right. */
static const char *size_fault(const struct region *r, char text[REGION_FAULT])
{
	uint64_t tensor_bytes = r->elem_bytes, bytes;
	char box[BOX_TEXT], tensor[TENSOR_TEXT];

	for (uint32_t d = 0; d < r->box.ndim; d++)
		if (__builtin_mul_overflow(tensor_bytes, r->shape[d], &tensor_bytes)) {
			snprintf(text, REGION_FAULT, "its tensor, %s, has 2^64 bytes or more",
			         tensor_of_text(r, tensor));
			return text;
		}
	bytes = r->elem_bytes * box_count(&r->box);
	if (bytes == r->bytes)
		return NULL;
	snprintf(text, REGION_FAULT,
	         "bytes is not elem_bytes times the product of extent: %" PRIu32
	         "-byte elements of the box %s have %" PRIu64,
	         r->elem_bytes, box_text(&r->box, box), bytes);
	return text;
}

const char *region_fault(const struct region *r, char text[REGION_FAULT])
{
	const char *fault = NULL;

	if (r->bytes == 0)
		return "it has no bytes";
	if (r->bytes > REGION_DATA_MAX)
		return "it has more bytes than a rank can have (2^48)";
	if (r->box.ndim > FTMEM_MAX_DIMS)
		return "it has more than 8 dimensions";
	if (r->box.ndim == 0)
		return NULL;
	if (r->elem_bytes == 0)
		return "it is a box, but elem_bytes is 0";
	for (uint32_t d = 0; d < r->box.ndim && !fault; d++)
		fault = dim_fault(r, d, text);
	return fault ? fault : size_fault(r, text);
}

/* Without a name. Beyond ndim all is zero, whatever the caller left there: equal regions
 * are equal bytes. */
static struct region region_from(const struct ftmem_region *r, int device)
{
	struct region own = {
		.addr = r->addr, .bytes = r->bytes, .box.ndim = r->ndim, .device = device};
	uint32_t d;

	own.elem_bytes = r->ndim > 0 ? r->elem_bytes : 0;
	for (d = 0; d < r->ndim && d < FTMEM_MAX_DIMS; d++) {
		own.shape[d] = r->shape[d];
		own.box.start[d] = r->start[d];
		own.box.extent[d] = r->extent[d];
	}
	return own;
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

/* A dimension that was forgotten would make a replica of each rank a region of its own. */
static const char *ndim_fault(const struct ftmem_region *r)
{
	if (r->ndim == 0 && (r->shape[0] != 0 || r->extent[0] != 0))
		return "it has a shape, but ndim is 0: set ndim, or leave shape and extent 0 for a "
		       "private region";
	return NULL;
}

/* What is wrong with where a region is, NULL if nothing. */
static const char *addr_fault(const struct region *r)
{
	if (!r->addr)
		return "its address is NULL";
	if ((uintptr_t)r->addr > UINTPTR_MAX - r->bytes)
		return "it reaches beyond the address space";
	return NULL;
}

static int error_region(const char *name, const struct region *r, const char *fault)
{
	return error_set(FTMEM_EINVAL, "region \"%s\" of %" PRIu64 " bytes: %s", name, r->bytes,
	                 fault);
}

/* EINVAL: the regions that have the name already do not let r have it too. */
static int set_check_name(const struct region_set *set, const char *name, const struct region *r)
{
	uint32_t at = *index_place(&set->index, set->entry, name);
	char box[BOX_TEXT], taken[BOX_TEXT], here[TENSOR_TEXT], there[TENSOR_TEXT];
	const struct region *other;
	struct box common;

	for (; at != 0; at = set->entry[at - 1].older) {
		other = &set->entry[at - 1].region;
		if (r->box.ndim == 0 || other->box.ndim == 0)
			return error_region(name, r,
			                    "there is one of this name already; only boxes of one "
			                    "tensor may share a name");
		if (!region_same_tensor(r, other))
			return error_set(
				FTMEM_EINVAL,
				"region \"%s\" of %" PRIu64 " bytes: its tensor is %s, and "
				"that of a box of this name that is registered already %s: "
				"give it one shape and element size, or another name",
				name, r->bytes, tensor_of_text(r, here),
				tensor_of_text(other, there));
		if (box_intersect(&r->box, &other->box, &common))
			return error_set(FTMEM_EINVAL,
			                 "region \"%s\" of %" PRIu64 " bytes: its box %s overlaps "
			                 "%s, which is registered already: a rank registers each "
			                 "element once",
			                 name, r->bytes, box_text(&r->box, box),
			                 box_text(&other->box, taken));
	}
	return FTMEM_OK;
}

int region_set_add(struct region_set *set, const struct ftmem_region *r, int device)
{
	struct ftmem_region own = {0};
	char text[REGION_FAULT];
	struct region region;
	const char *fault;
	size_t name_bytes;
	int rc;

	rc = region_take(r, &own);
	if (rc != FTMEM_OK)
		return rc;
	region = region_from(&own, device);
	fault = ndim_fault(&own);
	if (!fault)
		fault = region_fault(&region, text);
	if (!fault)
		fault = addr_fault(&region);
	if (fault)
		return error_region(own.name, &region, fault);
	rc = set_check_name(set, own.name, &region);
	if (rc == FTMEM_OK)
		rc = set_make_room(set);
	if (rc != FTMEM_OK)
		return rc;

	name_bytes = strlen(own.name) + 1;
	region.name = malloc(name_bytes);
	if (!region.name)
		return error_set(FTMEM_ENOMEM, "no memory for region \"%s\"", own.name);
	memcpy(region.name, own.name, name_bytes);
	entry_append(set->entry, &set->index, set->used++, &region);
	set->live++;
	return FTMEM_OK;
}

int region_set_remove(struct region_set *set, const char *name)
{
	uint32_t at;

	if (!name)
		return error_set(FTMEM_EINVAL, "the name of the region to remove is NULL");
	at = *index_place(&set->index, set->entry, name);
	if (at == 0)
		return error_set(FTMEM_EINVAL, "region \"%.255s\" is not registered", name);
	for (; at != 0; at = set->entry[at - 1].older) {
		free(set->entry[at - 1].region.name);
		set->entry[at - 1].region.name = NULL;
		set->live--;
	}
	return FTMEM_OK;
}
