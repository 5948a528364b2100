/* SPDX-License-Identifier: BSD-3-Clause */
#include "overlap.h"

#include <stdlib.h>

#include "error.h"

/* A box along the sweep's dimension. */
struct span {
	uint64_t first, last; /* its elements, both included */
	uint64_t reach;       /* the greatest last in the tree below it */
	uint32_t box;
};

/*
 * Spans sorted by first, which are also a balanced tree: the root of spans from .. to - 1
 * is the one in the middle, its subtrees are those before and those behind. What ends
 * too early is left out by reach, what begins too late by the order.
 */
struct overlap_index {
	const struct box *box; /* borrowed */
	struct span *span;     /* of the boxes that are not empty */
	uint32_t spans, dim;
};

static int compare_words(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static int compare_spans(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	if (x->first != y->first)
		return x->first < y->first ? -1 : 1;
	return (x->box > y->box) - (x->box < y->box);
}

static uint32_t distinct_starts(const struct box *box, uint32_t count, uint32_t dim, uint64_t *word)
{
	uint32_t distinct = 1;

	for (uint32_t i = 0; i < count; i++)
		word[i] = box[i].start[dim];
	qsort(word, count, sizeof(*word), compare_words);
	for (uint32_t i = 1; i < count; i++)
		distinct += word[i] != word[i - 1];
	return distinct;
}

/* The dimension in which most starts are different: where the boxes lie apart. False: no
 * memory. */
static bool choose_dim(const struct box *box, uint32_t count, uint32_t *dim)
{
	uint32_t most = 0;
	uint64_t *word;

	*dim = 0;
	if (count == 0 || box[0].ndim < 2)
		return true;
	word = calloc(count, sizeof(*word));
	if (!word)
		return false;
	for (uint32_t d = 0; d < box[0].ndim; d++) {
		uint32_t distinct = distinct_starts(box, count, d, word);

		if (distinct > most) {
			most = distinct;
			*dim = d;
		}
	}
	free(word);
	return true;
}

static uint32_t middle(uint32_t from, uint32_t to)
{
	return from + (to - from) / 2;
}

static uint64_t set_reach(struct span *span, uint32_t from, uint32_t to)
{
	uint32_t root = middle(from, to);
	uint64_t before, behind, reach;

	if (from == to)
		return 0;
	before = set_reach(span, from, root);
	behind = set_reach(span, root + 1, to);
	reach = before > behind ? before : behind;
	span[root].reach = reach > span[root].last ? reach : span[root].last;
	return span[root].reach;
}

static void add_spans(struct overlap_index *x, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct box *b = &x->box[i];
		uint64_t first = b->start[x->dim];

		if (box_count(b) > 0)
			x->span[x->spans++] = (struct span){
				.first = first, .last = first + (b->extent[x->dim] - 1), .box = i};
	}
	qsort(x->span, x->spans, sizeof(*x->span), compare_spans);
	set_reach(x->span, 0, x->spans);
}

/* NULL: no memory, which is said. */
static struct overlap_index *index_make(const struct box *box, uint32_t count)
{
	struct overlap_index *x = calloc(1, sizeof(*x));

	if (!x)
		goto fail;
	x->box = box;
	x->span = calloc(count > 0 ? count : 1, sizeof(*x->span));
	if (!x->span || !choose_dim(box, count, &x->dim))
		goto fail;
	add_spans(x, count);
	return x;
fail:
	overlap_index_free(x);
	error_set(FTMEM_ENOMEM, "no memory for an index of %u boxes", count);
	return NULL;
}

int overlap_index_new(const struct box *box, uint32_t count, struct overlap_index **out)
{
	struct overlap_index *x = index_make(box, count);

	if (!x)
		return FTMEM_ENOMEM;
	*out = x;
	return FTMEM_OK;
}

void overlap_index_free(struct overlap_index *x)
{
	if (!x)
		return;
	free(x->span);
	free(x);
}

/* What is asked for, and who is told. */
struct query {
	const struct overlap_index *index;
	const struct box *box;
	uint64_t first, last; /* of box along the sweep's dimension */
	bool (*hit)(void *arg, uint32_t i);
	void *arg;
};

static bool meets(const struct query *q, uint32_t i)
{
	struct box common;

	return box_intersect(&q->index->box[i], q->box, &common);
}

/* False once hit said so. */
static bool find(const struct query *q, uint32_t from, uint32_t to)
{
	uint32_t at = middle(from, to);
	const struct span *root = &q->index->span[at];

	if (from == to || root->reach < q->first)
		return true;
	if (!find(q, from, at))
		return false;
	if (root->first > q->last)
		return true;
	if (meets(q, root->box) && !q->hit(q->arg, root->box))
		return false;
	return find(q, at + 1, to);
}

void overlap_find(const struct overlap_index *x, const struct box *b,
                  bool (*hit)(void *arg, uint32_t i), void *arg)
{
	struct query q = {.index = x, .box = b, .hit = hit, .arg = arg};

	if (box_count(b) == 0)
		return;
	q.first = b->start[x->dim];
	q.last = q.first + (b->extent[x->dim] - 1);
	find(&q, 0, x->spans);
}

/* Pairs of span i and those behind it. False once pair said so. */
static bool pairs_of(const struct overlap_index *x, uint32_t i,
                     bool (*pair)(void *arg, uint32_t i, uint32_t j), void *arg)
{
	const struct span *a = &x->span[i];
	struct box common;

	for (uint32_t j = i + 1; j < x->spans && x->span[j].first <= a->last; j++) {
		uint32_t other = x->span[j].box, low = a->box < other ? a->box : other;

		if (box_intersect(&x->box[a->box], &x->box[other], &common)
		    && !pair(arg, low, a->box + other - low))
			return false;
	}
	return true;
}

int overlap_pairs(const struct box *box, uint32_t count,
                  bool (*pair)(void *arg, uint32_t i, uint32_t j), void *arg)
{
	struct overlap_index *x = index_make(box, count);

	if (!x)
		return FTMEM_ENOMEM;
	for (uint32_t i = 0; i < x->spans && pairs_of(x, i, pair, arg); i++)
		;
	overlap_index_free(x);
	return FTMEM_OK;
}
