/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Boxes are taken one after the other. Each keeps, as its own pieces, what of it no
 * earlier box has, and cuts the pieces of the earlier ones that it meets into what it
 * covers and what it does not. So a piece lies in its own box, in no earlier one, and
 * in or beside each later one; when all are done the pieces are the cells. Only boxes
 * that overlap look at each other's pieces.
 */
#include "match_impl.h"

#include <stdlib.h>

#include "error.h"
#include "overlap.h"

/* Ends a list of pieces; a box that overlaps no other has none. */
#define NONE UINT32_MAX
#define LONE (UINT32_MAX - 1)

struct pair {
	uint32_t first, second; /* boxes that overlap, in their order */
};

struct piece {
	struct box box;
	uint32_t next;
};

struct cutter {
	const struct box *box;
	uint32_t boxes;
	uint32_t *head;     /* [boxes]: first of its pieces */
	uint32_t *own;      /* [boxes + 1]: its pieces as cells: own[i] .. own[i + 1] - 1 */
	struct bytes pair;  /* struct pair, by second, then first */
	struct bytes piece; /* struct piece */
	uint32_t spare;     /* list of pieces that are no more */
	uint32_t pieces;
	int rc; /* of finding pairs */
};

static const struct pair *pairs(const struct cutter *c, uint64_t *count)
{
	*count = c->pair.size / sizeof(struct pair);
	return (const struct pair *)c->pair.at;
}

static struct piece *piece_at(const struct cutter *c, uint32_t i)
{
	return (struct piece *)c->piece.at + i;
}

static bool add_pair(void *arg, uint32_t i, uint32_t j)
{
	struct cutter *c = arg;
	struct pair pair = {i, j};

	if (c->pair.size / sizeof(pair) == MATCH_PLACES_MAX)
		c->rc = MATCH_TOO_MANY;
	else
		c->rc = bytes_put(&c->pair, &pair, sizeof(pair));
	return c->rc == FTMEM_OK;
}

static int compare_pairs(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;

	if (x->second != y->second)
		return x->second < y->second ? -1 : 1;
	return (x->first > y->first) - (x->first < y->first);
}

static int find_pairs(struct cutter *c)
{
	int rc = overlap_pairs(c->box, c->boxes, add_pair, c);

	if (rc == FTMEM_OK)
		rc = c->rc;
	if (rc == FTMEM_OK && c->pair.size > 0)
		qsort(c->pair.at, c->pair.size / sizeof(struct pair), sizeof(struct pair),
		      compare_pairs);
	return rc;
}

static int put_piece(struct cutter *c, uint32_t owner, const struct box *box)
{
	uint32_t at = c->spare;

	if (c->pieces == 2 * MATCH_CELLS_MAX)
		return MATCH_TOO_MANY;
	if (at != NONE) {
		c->spare = piece_at(c, at)->next;
	} else {
		at = (uint32_t)(c->piece.size / sizeof(struct piece));
		if (!bytes_grow(&c->piece, sizeof(struct piece)))
			return FTMEM_ENOMEM;
	}
	*piece_at(c, at) = (struct piece){*box, c->head[owner]};
	c->head[owner] = at;
	c->pieces++;
	return FTMEM_OK;
}

/* Cuts the pieces of owner by a box, and keeps what lies in it or not. */
static int cut_pieces(struct cutter *c, uint32_t owner, const struct box *by, bool keep)
{
	uint32_t at = c->head[owner], next;

	c->head[owner] = NONE;
	for (; at != NONE; at = next) {
		struct piece *piece = piece_at(c, at);
		struct box part[BOX_SUBTRACT_MAX + 1], common;
		uint32_t parts;

		next = piece->next;
		if (!box_intersect(&piece->box, by, &common)) {
			piece->next = c->head[owner];
			c->head[owner] = at;
			continue;
		}
		parts = box_subtract(&piece->box, by, part);
		if (keep)
			part[parts++] = common;
		piece->next = c->spare;
		c->spare = at;
		c->pieces--;
		for (uint32_t i = 0; i < parts; i++) {
			int rc = put_piece(c, owner, &part[i]);

			if (rc)
				return rc;
		}
	}
	return FTMEM_OK;
}

/* From now on the box has pieces: at first itself. */
static int begin_box(struct cutter *c, uint32_t i)
{
	if (c->head[i] != LONE)
		return FTMEM_OK;
	c->head[i] = NONE;
	return put_piece(c, i, &c->box[i]);
}

static int cut_boxes(struct cutter *c)
{
	uint64_t count;
	const struct pair *pair = pairs(c, &count);

	for (uint64_t i = 0; i < count; i++) {
		uint32_t first = pair[i].first, second = pair[i].second;
		int rc = begin_box(c, first);

		if (rc == FTMEM_OK)
			rc = begin_box(c, second);
		if (rc == FTMEM_OK)
			rc = cut_pieces(c, second, &c->box[first], false);
		if (rc == FTMEM_OK)
			rc = cut_pieces(c, first, &c->box[second], true);
		if (rc)
			return rc;
		/* Halfway through a box there may be more pieces than in the end. */
		if ((i + 1 == count || pair[i + 1].second != second) && c->pieces > MATCH_CELLS_MAX)
			return MATCH_TOO_MANY;
	}
	return FTMEM_OK;
}

static int put_place(struct match_cut *out, uint32_t box, uint32_t cell)
{
	struct match_place place = {box, cell, 0};

	return bytes_put(&out->place, &place, sizeof(place));
}

static int put_cell(struct cutter *c, uint32_t owner, const struct box *box, struct match_cut *out)
{
	uint32_t cell = c->own[owner + 1]++;
	int rc = bytes_put(&out->cell, box, sizeof(*box));

	return rc ? rc : put_place(out, owner, cell);
}

/* Pieces become cells, each placed in the box whose piece it is. */
static int number_cells(struct cutter *c, struct match_cut *out)
{
	for (uint32_t i = 0; i < c->boxes; i++) {
		int rc = FTMEM_OK;

		c->own[i + 1] = c->own[i];
		if (c->head[i] == LONE)
			rc = put_cell(c, i, &c->box[i], out);
		else
			for (uint32_t at = c->head[i]; at != NONE && !rc;
			     at = piece_at(c, at)->next)
				rc = put_cell(c, i, &piece_at(c, at)->box, out);
		if (rc)
			return rc;
	}
	return FTMEM_OK;
}

/* And in each later box that has it. */
static int place_cells(struct cutter *c, struct match_cut *out)
{
	uint64_t count, placed = 0;
	const struct pair *pair = pairs(c, &count);
	const struct box *cell = (const struct box *)out->cell.at;

	for (uint64_t i = 0; i < count; i++) {
		uint32_t end = c->own[pair[i].first + 1];

		for (uint32_t j = c->own[pair[i].first]; j < end; j++) {
			int rc;

			if (!box_contains(&c->box[pair[i].second], &cell[j]))
				continue;
			if (++placed > MATCH_PLACES_MAX)
				return MATCH_TOO_MANY;
			rc = put_place(out, pair[i].second, j);
			if (rc)
				return rc;
		}
	}
	return FTMEM_OK;
}

static int compare_places(const void *a, const void *b)
{
	const struct match_place *x = a, *y = b;

	if (x->box != y->box)
		return x->box < y->box ? -1 : 1;
	return (x->cell > y->cell) - (x->cell < y->cell);
}

static void sort_places(struct match_cut *out)
{
	struct match_place *place = (struct match_place *)out->place.at;
	uint64_t count = out->place.size / sizeof(*place);

	qsort(place, count, sizeof(*place), compare_places);
	for (uint64_t i = 1; i < count; i++)
		if (place[i].box == place[i - 1].box)
			place[i].index = place[i - 1].index + 1;
}

int match_cut(const struct box *box, uint32_t count, struct match_cut *out)
{
	struct cutter c = {.box = box, .boxes = count, .spare = NONE};
	int rc;

	c.head = malloc(count * sizeof(*c.head));
	c.own = calloc((size_t)count + 1, sizeof(*c.own));
	if (!c.head || !c.own) {
		rc = error_set(FTMEM_ENOMEM, "no memory to cut %u boxes of a tensor", count);
		goto fail;
	}
	for (uint32_t i = 0; i < count; i++)
		c.head[i] = LONE;
	rc = find_pairs(&c);
	if (rc == FTMEM_OK)
		rc = cut_boxes(&c);
	if (rc == FTMEM_OK)
		rc = number_cells(&c, out);
	if (rc == FTMEM_OK)
		rc = place_cells(&c, out);
	if (rc == FTMEM_OK)
		sort_places(out);
fail:
	free(c.head);
	free(c.own);
	bytes_deinit(&c.pair);
	bytes_deinit(&c.piece);
	return rc;
}

void match_cut_deinit(struct match_cut *cut)
{
	bytes_deinit(&cut->cell);
	bytes_deinit(&cut->place);
}
