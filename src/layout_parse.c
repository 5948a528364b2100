/* SPDX-License-Identifier: BSD-3-Clause */
/* Layouts out of untrusted bytes. */
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"
#include "layout_impl.h"
#include "overlap.h"

#define BLOB_REGION_MIN (sizeof(struct blob_region) + BLOB_ALIGN)

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

/* What is wrong with the head, NULL if nothing. */
static const char *blob_head_fault(const struct blob_head *head, uint64_t bytes)
{
	uint64_t room;

	if (head->magic != BLOB_MAGIC)
		return "it does not begin as one";
	if (head->format != BLOB_FORMAT)
		return "it is of another format version than this libftmem writes";
	if (head->blob_bytes > bytes || head->blob_bytes > SIZE_MAX
	    || head->blob_bytes < sizeof(*head) || head->blob_bytes % LAYOUT_ALIGN != 0)
		return "its fields are out of range";
	room = head->blob_bytes - sizeof(*head);
	if (head->regions == 0 || head->regions > room / BLOB_REGION_MIN)
		return "it has no room for as many regions as it says";
	room -= head->regions * BLOB_REGION_MIN;
	if (head->pieces > room / sizeof(struct blob_piece))
		return "it has no room for as many pieces as it says";
	return NULL;
}

/* What is wrong with the next region, in text or constant, NULL if nothing. */
static const char *blob_get_region(struct blob_reader *r, struct layout *l, char **names,
                                   char text[REGION_FAULT])
{
	char name[FTMEM_REGION_NAME_MAX + 1 + BLOB_ALIGN];
	struct region region = {.name = name, .device = DEVICE_HOST};
	struct blob_region head;
	const char *fault;
	size_t dims, padded;

	if (!blob_get(r, &head, sizeof(head)))
		return "it is cut off";
	if (head.ndim > FTMEM_MAX_DIMS || head.reserved != 0 || head.name_bytes == 0
	    || head.name_bytes > FTMEM_REGION_NAME_MAX || (head.ndim == 0 && head.elem_bytes != 0))
		return "its fields are out of range";
	dims = head.ndim * sizeof(uint64_t);
	padded = blob_round_up(head.name_bytes + 1, BLOB_ALIGN);
	if (!blob_get(r, region.shape, dims) || !blob_get(r, region.box.start, dims)
	    || !blob_get(r, region.box.extent, dims) || !blob_get(r, name, padded))
		return "it is cut off";
	if (memchr(name, '\0', head.name_bytes)
	    || !all_zero((const uint8_t *)name + head.name_bytes, padded - head.name_bytes))
		return "its name is damaged";

	region.bytes = head.bytes;
	region.elem_bytes = head.elem_bytes;
	region.box.ndim = head.ndim;
	fault = region_fault(&region, text);
	if (!fault && !layout_push(l, &region, names))
		fault = "the regions have more bytes together than a rank can have (2^48)";
	return fault;
}

/* Passes over regions up to `to` of which no piece came. False: one of them is private. */
static bool pass_boxes(const struct layout *l, uint32_t *next, uint32_t to)
{
	while (*next < to) {
		if (l->region[(*next)++].box.ndim == 0)
			return false;
	}
	return true;
}

#define PRIVATE_LACKS "a private region has no piece"

/* What is wrong with the next piece, NULL if nothing. *next: the region behind that of
 * the piece before. */
static const char *blob_get_piece(struct blob_reader *r, struct layout *l, uint32_t *next)
{
	struct layout_piece *p = &l->piece[l->pieces];
	const struct region *region;
	struct blob_piece head;
	size_t dims;

	if (!blob_get(r, &head, sizeof(head)))
		return "it is cut off";
	if (head.region >= l->regions || head.reserved != 0)
		return "its fields are out of range";
	region = &l->region[head.region];
	p->region = head.region;
	p->box.ndim = region->box.ndim;
	dims = region->box.ndim * sizeof(uint64_t);
	if (!blob_get(r, p->box.start, dims) || !blob_get(r, p->box.extent, dims))
		return "it is cut off";
	if (!box_contains(&region->box, &p->box) || box_count(&p->box) == 0)
		return "it is empty or reaches beyond its region";
	/* Equal ones are out of order too: a private region is there once. */
	if (l->pieces > 0 && layout_piece_compare(p - 1, p) >= 0)
		return "it is out of order";
	if (!pass_boxes(l, next, head.region))
		return PRIVATE_LACKS;
	*next = head.region + 1;
	l->pieces++;
	return NULL;
}

/* ECORRUPT, ENOMEM. */
static int blob_get_regions(struct blob_reader *r, struct layout *l, uint32_t count)
{
	char *names = l->names, text[REGION_FAULT];
	const char *fault;
	uint32_t i;

	for (i = 0; i < count; i++) {
		fault = blob_get_region(r, l, &names, text);
		if (fault)
			return error_set(FTMEM_ECORRUPT,
			                 "stored layout, behind %u of %u regions: %s", i, count,
			                 fault);
	}
	return FTMEM_OK;
}

static int blob_get_pieces(struct blob_reader *r, struct layout *l, uint32_t count)
{
	const char *fault;
	uint32_t next = 0;

	if (layout_piece_room(l, count) != FTMEM_OK)
		return FTMEM_ENOMEM;
	while (l->pieces < count) {
		fault = blob_get_piece(r, l, &next);
		if (fault)
			return error_set(FTMEM_ECORRUPT,
			                 "stored layout, behind %u of %u pieces: %s", l->pieces,
			                 count, fault);
	}
	if (!pass_boxes(l, &next, l->regions))
		return error_set(FTMEM_ECORRUPT, "stored layout, behind all %u pieces: %s", count,
		                 PRIVATE_LACKS);
	return FTMEM_OK;
}

struct overlap_found {
	bool any;
	uint32_t a, b;
};

static bool overlap_note(void *arg, uint32_t i, uint32_t j)
{
	*(struct overlap_found *)arg = (struct overlap_found){true, i, j};
	return false;
}

/* Boxes of one tensor: ECORRUPT if two overlap; what, and the number of the first, are
 * for the message. */
static int check_apart(const struct box *box, uint32_t count, const char *what,
                       const uint32_t *number)
{
	struct overlap_found found = {0};
	int rc = FTMEM_OK;

	if (count > 1)
		rc = overlap_pairs(box, count, overlap_note, &found);
	if (rc == FTMEM_OK && found.any)
		rc = error_set(FTMEM_ECORRUPT, "stored layout: %s %u and %u overlap", what,
		               number[found.a], number[found.b]);
	return rc;
}

/* What checks the whole: numbers in an order in which those that may meet are
 * neighbours, and their boxes. */
struct check {
	struct box *box;
	uint32_t *number;
};

static int region_name_compare(const void *a, const void *b, void *arg)
{
	const struct region *region = arg;

	return strcmp(region[*(const uint32_t *)a].name, region[*(const uint32_t *)b].name);
}

/* ECORRUPT: regions of one name are not boxes of one tensor that lie apart. */
static int check_regions(const struct layout *l, struct check *c)
{
	uint32_t i, from, to;
	int rc = FTMEM_OK;

	for (i = 0; i < l->regions; i++)
		c->number[i] = i;
	qsort_r(c->number, l->regions, sizeof(*c->number), region_name_compare, l->region);
	for (i = 0; i < l->regions; i++)
		c->box[i] = l->region[c->number[i]].box;
	for (from = 0; rc == FTMEM_OK && from < l->regions; from = to) {
		const struct region *first = &l->region[c->number[from]];

		for (to = from + 1; to < l->regions; to++) {
			const struct region *r = &l->region[c->number[to]];

			if (strcmp(first->name, r->name) != 0)
				break;
			if (!region_same_tensor(first, r))
				return error_set(FTMEM_ECORRUPT,
				                 "stored layout: regions %u and %u have the same "
				                 "name, but are not boxes of one tensor",
				                 c->number[from], c->number[to]);
		}
		rc = check_apart(c->box + from, to - from, "regions", c->number + from);
	}
	return rc;
}

/* ECORRUPT: pieces of one region overlap. */
static int check_pieces(const struct layout *l, struct check *c)
{
	uint32_t i, from, to;
	int rc = FTMEM_OK;

	for (i = 0; i < l->pieces; i++) {
		c->number[i] = i;
		c->box[i] = l->piece[i].box;
	}
	for (from = 0; rc == FTMEM_OK && from < l->pieces; from = to) {
		for (to = from + 1; to < l->pieces; to++) {
			if (l->piece[to].region != l->piece[from].region)
				break;
		}
		rc = check_apart(c->box + from, to - from, "pieces", c->number + from);
	}
	return rc;
}

static int check_overlaps(const struct layout *l)
{
	uint64_t most = l->regions > l->pieces ? l->regions : l->pieces;
	struct check c;
	int rc;

	c.box = calloc(most, sizeof(*c.box));
	c.number = calloc(most, sizeof(*c.number));
	if (c.box && c.number) {
		rc = check_regions(l, &c);
		if (rc == FTMEM_OK)
			rc = check_pieces(l, &c);
	} else {
		rc = layout_no_memory(l->regions);
	}
	free(c.box);
	free(c.number);
	return rc;
}

/* Reads what is behind the head. ECORRUPT, ENOMEM. */
static int layout_read(struct layout *l, struct blob_reader *r, const struct blob_head *head)
{
	int rc = blob_get_regions(r, l, head->regions);

	if (rc == FTMEM_OK)
		rc = blob_get_pieces(r, l, head->pieces);
	if (rc != FTMEM_OK)
		return rc;
	if (r->left >= LAYOUT_ALIGN || !all_zero(r->at, r->left))
		return error_set(FTMEM_ECORRUPT,
		                 "stored layout: there is something behind its last piece");
	l->blob_bytes = head->blob_bytes;
	if (!layout_place(l) || l->data_bytes != head->data_bytes)
		return error_set(FTMEM_ECORRUPT, "stored layout: its pieces do not add up to the "
		                                 "size it says");
	return check_overlaps(l);
}

static int parse_blob(const uint8_t *blob, uint64_t bytes, struct layout **out)
{
	struct blob_reader r = {blob, bytes};
	const char *fault = "it is cut off";
	struct blob_head head = {0};

	if (blob_get(&r, &head, sizeof(head)))
		fault = blob_head_fault(&head, bytes);
	if (fault)
		return error_set(FTMEM_ECORRUPT, "stored layout: %s", fault);
	/* Names are part of the blob: together they are shorter. */
	*out = layout_new(head.regions, head.blob_bytes);
	if (!*out)
		return FTMEM_ENOMEM;
	r.left = head.blob_bytes - sizeof(head);
	(*out)->digest = digest_more(DIGEST_INIT, blob, head.blob_bytes);
	return layout_read(*out, &r, &head);
}

int layout_parse(const uint8_t *blob, uint64_t bytes, struct layout **out)
{
	struct layout *l = NULL;
	int rc;

	if (bytes > 0) {
		rc = parse_blob(blob, bytes, &l);
	} else {
		l = layout_new(0, 0);
		rc = l ? layout_settle_whole(l) : FTMEM_ENOMEM;
	}
	if (rc != FTMEM_OK) {
		layout_free(l);
		return rc;
	}
	*out = l;
	return FTMEM_OK;
}
