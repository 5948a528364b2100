/* SPDX-License-Identifier: BSD-3-Clause */
/* What is stored and nobody wants: gone, without an error, once a restore is done. */
#include "plan_impl.h"

#include <stdio.h>
#include <stdlib.h>

#include "overlap.h"

/* The wanted boxes of one tensor, and what of its stored pieces lies beside them. */
struct rest {
	struct box *box; /* [boxes], distinct, by box_compare() */
	struct overlap_index *index;
	uint32_t *met;  /* [boxes] numbers of those that meet a piece */
	uint64_t *edge; /* [2 * boxes] for choose_cut() */
	uint32_t boxes, mets;
	uint64_t elements;
	struct box first; /* the lowest that was found; ndim 0: none */
};

static void rest_deinit(struct rest *r)
{
	overlap_index_free(r->index);
	free(r->box);
	free(r->met);
	free(r->edge);
}

static int compare_boxes(const void *a, const void *b)
{
	return box_compare(a, b);
}

/* Takes the wanted boxes of g, of which there is at least one. */
static int rest_init(struct rest *r, const struct plan *p, const struct group *g)
{
	const struct wanted *w;
	uint32_t count = 0, all = 0;

	for (uint32_t i = g->wanted; i != 0; i = p->wanted[i - 1].before)
		count++;
	r->box = calloc(count, sizeof(*r->box));
	r->met = calloc(count, sizeof(*r->met));
	r->edge = calloc(count, 2 * sizeof(*r->edge));
	if (!r->box || !r->met || !r->edge)
		return plan_no_memory(g->tensor.name);
	for (uint32_t i = g->wanted; i != 0; i = w->before) {
		w = &p->wanted[i - 1];
		if (plan_fits(w))
			r->box[all++] = w->box;
	}
	qsort(r->box, all, sizeof(*r->box), compare_boxes);
	for (uint32_t i = 0; i < all; i++)
		if (i == 0 || !box_equal(&r->box[i], &r->box[r->boxes - 1]))
			r->box[r->boxes++] = r->box[i];
	return overlap_index_new(r->box, r->boxes, &r->index);
}

static bool note_met(void *arg, uint32_t i)
{
	struct rest *r = arg;

	r->met[r->mets++] = i;
	return true;
}

/* Of the first mets, those that meet b come to the front; how many. */
static uint32_t keep_met(struct rest *r, const struct box *b, uint32_t mets)
{
	uint32_t kept = 0;
	struct box common;

	for (uint32_t i = 0; i < mets; i++) {
		uint32_t number = r->met[i];

		if (!box_intersect(&r->box[number], b, &common))
			continue;
		r->met[i] = r->met[kept];
		r->met[kept++] = number;
	}
	return kept;
}

static bool any_contains(const struct rest *r, const struct box *b, uint32_t mets)
{
	for (uint32_t i = 0; i < mets; i++)
		if (box_contains(&r->box[r->met[i]], b))
			return true;
	return false;
}

/* Where wanted boxes begin or end within b, in one dimension; how many times. */
static uint32_t find_edges(struct rest *r, const struct box *b, uint32_t mets, uint32_t d)
{
	uint64_t from = b->start[d], to = from + b->extent[d];
	uint32_t edges = 0;

	for (uint32_t i = 0; i < mets; i++) {
		const struct box *w = &r->box[r->met[i]];

		if (w->start[d] > from)
			r->edge[edges++] = w->start[d];
		if (w->start[d] + w->extent[d] < to)
			r->edge[edges++] = w->start[d] + w->extent[d];
	}
	return edges;
}

static int compare_edges(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* The middle edge in the dimension that has most, so that both sides have half of them.
 * There is one: the boxes meet b, and none contains it. */
static uint64_t choose_cut(struct rest *r, const struct box *b, uint32_t mets, uint32_t *dim)
{
	uint32_t most = 0;

	for (uint32_t d = 0; d < b->ndim; d++) {
		uint32_t edges = find_edges(r, b, mets, d);

		if (edges > most) {
			most = edges;
			*dim = d;
		}
	}
	most = find_edges(r, b, mets, *dim);
	qsort(r->edge, most, sizeof(*r->edge), compare_edges);
	return r->edge[most / 2];
}

/* Counts what of b is in none of the first mets. Halving, not subtracting one box after
 * the other: what is left in between would be many boxes, each compared with all. */
static void count_rest(struct rest *r, const struct box *b, uint32_t mets)
{
	struct box low = *b, high = *b;
	uint32_t d = 0;
	uint64_t at;

	mets = keep_met(r, b, mets);
	if (any_contains(r, b, mets))
		return;
	if (mets == 0) {
		r->elements += box_count(b);
		if (r->first.ndim == 0 || box_compare(b, &r->first) < 0)
			r->first = *b;
		return;
	}
	at = choose_cut(r, b, mets, &d);
	low.extent[d] = at - b->start[d];
	high.start[d] = at;
	high.extent[d] -= low.extent[d];
	count_rest(r, &low, mets);
	count_rest(r, &high, mets);
}

/* The first that was found, as large as it is easily seen to be: pieces may be small. */
static void grow_first(struct rest *r, const struct group *g)
{
	struct box whole = {.ndim = g->tensor.ndim}, large = r->first;

	for (uint32_t d = 0; d < whole.ndim; d++)
		whole.extent[d] = g->tensor.shape[d];
	plan_grow(r->index, r->box, &whole, &large);
	if (plan_covered(g, &large) == box_count(&large))
		r->first = large;
}

/* Of a tensor of which something is wanted. */
static int rest_find(struct rest *r, const struct plan *p, const struct group *g)
{
	int rc = rest_init(r, p, g);

	if (rc)
		return rc;
	for (uint32_t i = 0; i < g->pieces; i++) {
		r->mets = 0;
		overlap_find(r->index, &g->box[i], note_met, r);
		count_rest(r, &g->box[i], r->mets);
	}
	if (r->elements > 0)
		grow_first(r, g);
	return 0;
}

static uint64_t add_to_limit(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static bool goes_before(const struct tensor *a, const struct tensor *b)
{
	bool a_private = a->home != TENSOR_GLOBAL, b_private = b->home != TENSOR_GLOBAL;

	return a_private != b_private ? b_private : tensor_compare(a, b) < 0;
}

/* box.ndim 0: nothing of it is wanted. */
static void tell_example(const struct tensor *t, const struct box *box, char text[PLAN_EXAMPLE])
{
	char where[BOX_TEXT];

	if (t->home != TENSOR_GLOBAL)
		snprintf(text, PLAN_EXAMPLE, "private region \"%s\" of rank %u", t->name, t->home);
	else if (box->ndim == 0)
		snprintf(text, PLAN_EXAMPLE, "tensor \"%s\"", t->name);
	else
		snprintf(text, PLAN_EXAMPLE, "tensor \"%s\" %s", t->name, box_text(box, where));
}

/* Adds what of g is unwanted; *example: the tensor that out->example is of. */
static int add_group(const struct plan *p, const struct group *g, struct plan_unwanted *out,
                     const struct tensor **example)
{
	const struct tensor *t = &g->tensor;
	struct rest r = {0};
	uint64_t bytes;
	int rc = 0;

	if (g->wanted)
		rc = rest_find(&r, p, g);
	else
		for (uint32_t i = 0; i < g->pieces; i++)
			r.elements = add_to_limit(r.elements, box_count(&g->box[i]));
	if (rc || r.elements == 0)
		goto out;
	if (__builtin_mul_overflow(r.elements, t->elem_bytes, &bytes))
		bytes = UINT64_MAX;
	out->bytes = add_to_limit(out->bytes, bytes);
	out->tensors += t->home == TENSOR_GLOBAL;
	out->privates += t->home != TENSOR_GLOBAL;
	if (!*example || goes_before(t, *example)) {
		*example = t;
		tell_example(t, &r.first, out->example);
	}
out:
	rest_deinit(&r);
	return rc;
}

int plan_unwanted(const struct plan *p, struct plan_unwanted *out)
{
	const struct tensor *example = NULL;
	struct plan_unwanted found = {0};

	for (const struct group *g = p->first; g; g = g->next) {
		int rc;

		if (g->pieces == 0 || (g->wanted && g->fault))
			continue;
		rc = add_group(p, g, &found, &example);
		if (rc)
			return rc;
	}
	*out = found;
	return 0;
}
