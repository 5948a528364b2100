/* SPDX-License-Identifier: BSD-3-Clause */
#include "match_impl.h"

#include <stdlib.h>

#include "error.h"

struct claim {
	struct match_claim said;
	uint32_t number, count; /* of the record; ranks that sent it */
	uint64_t elements;
	const struct tensor *other; /* same name, but not alike; or NULL */
	bool many;                  /* the tensor's boxes overlap in too many cells */
	uint32_t cells;
	uint64_t inside, part; /* the first of its cells in match.inside, in match.part */
};

struct cell {
	struct box box;
	uint32_t holders, shares;
};

/* A claim's part in a cell: see struct match_holder. */
struct part {
	uint32_t ordinal, share, first, takers;
};

struct match {
	struct bytes claim;  /* struct claim, by number */
	struct bytes cell;   /* struct cell */
	struct bytes inside; /* uint32_t: cells, box by box */
	struct bytes part;   /* struct part, claim by claim, in the order of inside */
	uint64_t ranks;      /* that sent records, each counted for each of its records */
};

/* The claims of one tensor, alike, sorted: run by run of those of one box. */
struct tensor_claims {
	struct claim **claim;
	uint32_t claims, boxes;
	struct box *box; /* [boxes] distinct ones */
	uint32_t *first; /* [boxes + 1] claims of box i: first[i] .. first[i + 1] - 1 */
	struct match_cut cut;
	struct bytes holder; /* struct match_holder, of one cell */
};

static int no_memory(const struct match *m)
{
	return error_set(FTMEM_ENOMEM, "no memory to match %llu claims",
	                 (unsigned long long)(m->claim.size / sizeof(struct claim)));
}

int match_new(struct match **out)
{
	struct match *m = calloc(1, sizeof(*m));

	if (!m)
		return error_set(FTMEM_ENOMEM, "no memory to match claims");
	*out = m;
	return FTMEM_OK;
}

void match_free(struct match *m)
{
	if (!m)
		return;
	bytes_deinit(&m->claim);
	bytes_deinit(&m->cell);
	bytes_deinit(&m->inside);
	bytes_deinit(&m->part);
	free(m);
}

static uint32_t claim_count(const struct match *m)
{
	return (uint32_t)(m->claim.size / sizeof(struct claim));
}

static struct claim *claim_at(const struct match *m, uint32_t i)
{
	return (struct claim *)m->claim.at + i;
}

/* Within the tensor, and of some elements, fewer than 2^63. */
static bool box_fits(const struct match_claim *claim)
{
	uint64_t count = 1;

	for (uint32_t d = 0; d < claim->box.ndim; d++) {
		uint64_t size = claim->tensor.shape[d], extent = claim->box.extent[d];

		if (extent == 0 || extent > size || claim->box.start[d] > size - extent
		    || __builtin_mul_overflow(count, extent, &count))
			return false;
	}
	return count <= INT64_MAX;
}

int match_add(struct match *m, const uint8_t *record, uint32_t bytes, uint32_t count)
{
	struct bytes_reader r = {.at = record, .left = bytes};
	struct claim c = {.number = claim_count(m), .count = count};

	tensor_get(&r, &c.said.tensor);
	box_get(&r, c.said.tensor.ndim, &c.said.box);
	c.said.group = bytes_get_u32(&r);
	if (r.bad || r.left > 0 || c.said.tensor.home != TENSOR_GLOBAL || !box_fits(&c.said))
		return error_set(FTMEM_EINVAL, "a record of %u bytes is no claim of a tensor",
		                 bytes);
	if (count == 0 || count > UINT32_MAX - m->ranks)
		return error_set(FTMEM_EINVAL, "%u ranks that claim tensor \"%s\" cannot be", count,
		                 c.said.tensor.name);
	c.elements = box_count(&c.said.box);
	m->ranks += count;
	return bytes_put(&m->claim, &c, sizeof(c));
}

static int compare_u64(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

static int compare_shapes(const struct tensor *a, const struct tensor *b)
{
	int order = compare_u64(a->elem_bytes, b->elem_bytes);

	order = order ? order : compare_u64(a->ndim, b->ndim);
	for (uint32_t d = 0; d < a->ndim && !order; d++)
		order = compare_u64(a->shape[d], b->shape[d]);
	return order;
}

/* Tensor by tensor, those alike together; small boxes first, as match_cut() wants it.
 * The order in which records came tells only apart what is the same in all else. */
static int compare_claims(const void *a, const void *b)
{
	const struct claim *x = *(struct claim *const *)a, *y = *(struct claim *const *)b;
	int order = tensor_compare(&x->said.tensor, &y->said.tensor);

	order = order ? order : compare_shapes(&x->said.tensor, &y->said.tensor);
	order = order ? order : compare_u64(x->elements, y->elements);
	order = order ? order : box_compare(&x->said.box, &y->said.box);
	order = order ? order : compare_u64(x->count, y->count);
	return order ? order : compare_u64(x->number, y->number);
}

static void find_boxes(struct tensor_claims *t)
{
	t->boxes = 0;
	for (uint32_t i = 0; i < t->claims; i++) {
		const struct box *box = &t->claim[i]->said.box;

		if (t->boxes > 0 && box_equal(box, &t->box[t->boxes - 1]))
			continue;
		t->first[t->boxes] = i;
		t->box[t->boxes++] = *box;
	}
	t->first[t->boxes] = t->claims;
}

/* Lists the cells of box i, and makes its claims' parts in them. */
static int list_box(struct match *m, struct tensor_claims *t, uint32_t i,
                    const struct match_place *place, uint32_t count)
{
	uint32_t cells = (uint32_t)(m->cell.size / sizeof(struct cell));
	uint64_t inside = m->inside.size / sizeof(uint32_t);

	for (uint32_t j = 0; j < count; j++)
		if (bytes_put_u32(&m->inside, cells + place[j].cell))
			return FTMEM_ENOMEM;
	for (uint32_t j = t->first[i]; j < t->first[i + 1]; j++) {
		t->claim[j]->inside = inside;
		t->claim[j]->cells = count;
		t->claim[j]->part = m->part.size / sizeof(struct part);
		if (!bytes_grow(&m->part, count * sizeof(struct part)))
			return FTMEM_ENOMEM;
	}
	return FTMEM_OK;
}

static int list_boxes(struct match *m, struct tensor_claims *t)
{
	const struct match_place *place = (const struct match_place *)t->cut.place.at;
	uint64_t places = t->cut.place.size / sizeof(*place), at = 0;

	for (uint32_t i = 0; i < t->boxes; i++) {
		uint64_t end = at;
		int rc;

		while (end < places && place[end].box == i)
			end++;
		rc = list_box(m, t, i, &place[at], (uint32_t)(end - at));
		if (rc)
			return rc;
		at = end;
	}
	return FTMEM_OK;
}

static int compare_by_cell(const void *a, const void *b)
{
	const struct match_place *x = a, *y = b;

	if (x->cell != y->cell)
		return x->cell < y->cell ? -1 : 1;
	return (x->box > y->box) - (x->box < y->box);
}

static int hold_cell(struct tensor_claims *t, const struct match_place *place)
{
	for (uint32_t i = t->first[place->box]; i < t->first[place->box + 1]; i++) {
		const struct claim *c = t->claim[i];
		struct match_holder holder = {
			.group = c->said.group, .count = c->count, .part = c->part + place->index};
		int rc = bytes_put(&t->holder, &holder, sizeof(holder));

		if (rc)
			return rc;
	}
	return FTMEM_OK;
}

static int deal_cell(struct match *m, struct tensor_claims *t, const struct box *box)
{
	struct match_holder *holder = (struct match_holder *)t->holder.at;
	uint32_t count = (uint32_t)(t->holder.size / sizeof(*holder));
	struct part *part = (struct part *)m->part.at;
	struct cell cell = {.box = *box};

	match_deal(&t->claim[0]->said.tensor, box, holder, count, &cell.holders, &cell.shares);
	for (uint32_t i = 0; i < count; i++)
		part[holder[i].part] = (struct part){holder[i].ordinal, holder[i].share,
		                                     holder[i].first, holder[i].takers};
	return bytes_put(&m->cell, &cell, sizeof(cell));
}

/* Cell by cell: who holds it takes what of it. */
static int deal_cells(struct match *m, struct tensor_claims *t)
{
	struct match_place *place = (struct match_place *)t->cut.place.at;
	uint64_t places = t->cut.place.size / sizeof(*place);
	const struct box *box = (const struct box *)t->cut.cell.at;
	int rc = FTMEM_OK;

	qsort(place, places, sizeof(*place), compare_by_cell);
	for (uint64_t i = 0; i < places && !rc; i++) {
		rc = hold_cell(t, &place[i]);
		if (rc || (i + 1 < places && place[i + 1].cell == place[i].cell))
			continue;
		rc = deal_cell(m, t, &box[place[i].cell]);
		t->holder.size = 0;
	}
	return rc;
}

static int match_boxes(struct match *m, struct tensor_claims *t)
{
	int rc = match_cut(t->box, t->boxes, &t->cut);

	if (rc == MATCH_TOO_MANY) {
		for (uint32_t i = 0; i < t->claims; i++)
			t->claim[i]->many = true;
		return FTMEM_OK;
	}
	if (rc == FTMEM_OK)
		rc = list_boxes(m, t);
	return rc ? rc : deal_cells(m, t);
}

/* All claims of one name. */
static int match_name(struct match *m, struct claim **claim, uint32_t claims)
{
	const struct tensor *low = &claim[0]->said.tensor, *high = &claim[claims - 1]->said.tensor;
	struct tensor_claims t = {.claim = claim, .claims = claims};
	struct box *box = NULL;
	uint32_t *first = NULL;
	int rc = FTMEM_ENOMEM;

	if (!tensor_alike(low, high)) {
		for (uint32_t i = 0; i < claims; i++)
			claim[i]->other = tensor_alike(low, &claim[i]->said.tensor) ? high : low;
		return FTMEM_OK;
	}
	box = malloc(claims * sizeof(*box));
	first = malloc(((size_t)claims + 1) * sizeof(*first));
	if (box && first) {
		t.box = box;
		t.first = first;
		find_boxes(&t);
		rc = match_boxes(m, &t);
	} else {
		no_memory(m);
	}
	free(box);
	free(first);
	match_cut_deinit(&t.cut);
	bytes_deinit(&t.holder);
	return rc;
}

int match_solve(struct match *m)
{
	uint32_t count = claim_count(m);
	struct claim **sorted;
	int rc = FTMEM_OK;

	if (count == 0)
		return FTMEM_OK;
	sorted = malloc(count * sizeof(*sorted));
	if (!sorted)
		return no_memory(m);
	for (uint32_t i = 0; i < count; i++)
		sorted[i] = claim_at(m, i);
	qsort(sorted, count, sizeof(*sorted), compare_claims);
	for (uint32_t at = 0, end; at < count && !rc; at = end) {
		end = at + 1;
		while (end < count
		       && tensor_same(&sorted[at]->said.tensor, &sorted[end]->said.tensor))
			end++;
		rc = match_name(m, &sorted[at], end - at);
	}
	free(sorted);
	return rc;
}

static int answer_cells(const struct match *m, const struct claim *c, struct bytes *out)
{
	const uint32_t *inside = (const uint32_t *)m->inside.at + c->inside;
	const struct part *part = (const struct part *)m->part.at + c->part;
	int rc = bytes_put_u32(out, MATCH_CELLS);

	rc = rc ? rc : bytes_put_u32(out, c->count);
	rc = rc ? rc : bytes_put_u32(out, c->cells);
	for (uint32_t i = 0; i < c->cells && !rc; i++) {
		const struct cell *cell = (const struct cell *)m->cell.at + inside[i];
		const uint32_t word[] = {cell->holders, part[i].ordinal, cell->shares,
		                         part[i].share, part[i].first,   part[i].takers};

		rc = box_put(out, &cell->box);
		rc = rc ? rc : bytes_put(out, word, sizeof(word));
	}
	return rc;
}

int match_answer(const struct match *m, uint32_t i, struct bytes *out)
{
	const struct claim *c = claim_at(m, i);
	uint64_t begin = out->size;
	int rc;

	if (c->other) {
		rc = bytes_put_u32(out, MATCH_UNLIKE);
		rc = rc ? rc : tensor_put(out, c->other);
	} else if (c->many) {
		rc = bytes_put_u32(out, MATCH_MANY);
	} else {
		rc = answer_cells(m, c, out);
	}
	if (rc)
		out->size = begin;
	return rc;
}
