/* SPDX-License-Identifier: BSD-3-Clause */
#include "plan_impl.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "overlap.h"

/* --- records --- */

/* Its ends are below 2^64, see box_get(). */
static bool box_is_of(const struct box *b, const struct tensor *t)
{
	for (uint32_t d = 0; d < t->ndim; d++)
		if (b->start[d] + b->extent[d] > t->shape[d])
			return false;
	return true;
}

/* The first of what two kinds of record have in common; false: it is neither. */
static bool record_get(struct bytes_reader *r, enum kind *kind, struct tensor *t, struct box *b)
{
	uint32_t word = bytes_get_u32(r);

	if (word != KIND_STORED && word != KIND_WANTED)
		return false;
	*kind = (enum kind)word;
	tensor_get(r, t);
	if (r->bad)
		return false;
	box_get(r, t->ndim, b);
	return !r->bad && box_is_of(b, t);
}

/* --- the owner's part --- */

int plan_new(struct plan **out)
{
	struct plan *p = calloc(1, sizeof(*p));

	if (!p)
		return error_set(FTMEM_ENOMEM, "no memory for a plan");
	*out = p;
	return 0;
}

static void keep(void *group)
{
	(void)group;
}

void plan_free(struct plan *p)
{
	if (!p)
		return;
	tdestroy(p->tree, keep);
	for (struct group *g = p->first, *next; g; g = next) {
		next = g->next;
		overlap_index_free(g->index);
		free(g->box);
		free(g->source);
		free(g);
	}
	free(p->wanted);
	free(p->number);
	free(p);
}

static int compare_groups(const void *a, const void *b)
{
	return tensor_compare(a, b);
}

int plan_no_memory(const char *name)
{
	return error_set(FTMEM_ENOMEM, "no memory to plan the restore of \"%s\"", name);
}

/* Room for one more of count in an array; NULL: there is none, and old is as it was. */
static void *more_room(void *old, uint32_t count, uint32_t *room, size_t each)
{
	uint32_t more = *room ? *room * 2 : 1;
	void *at;

	if (count < *room)
		return old;
	at = more > *room ? realloc(old, more * each) : NULL;
	if (at)
		*room = more;
	return at;
}

/* The group of a tensor, made if need be; NULL: no memory. */
static struct group *group_of(struct plan *p, const struct tensor *t)
{
	struct group *const *found = tfind(t, &p->tree, compare_groups);
	struct group *g;

	if (found)
		return *found;
	g = calloc(1, sizeof(*g));
	if (!g)
		return NULL;
	g->tensor = *t;
	if (!tsearch(g, &p->tree, compare_groups)) {
		free(g);
		return NULL;
	}
	g->next = p->first;
	p->first = g;
	return g;
}

static int add_stored(struct group *g, const struct tensor *t, const struct box *b,
                      struct source source)
{
	uint32_t room = g->room;
	void *box, *from;

	box = more_room(g->box, g->pieces, &room, sizeof(*g->box));
	if (!box)
		return plan_no_memory(t->name);
	g->box = box;
	room = g->room;
	from = more_room(g->source, g->pieces, &room, sizeof(*g->source));
	if (!from)
		return plan_no_memory(t->name);
	g->source = from;
	g->room = room;

	if (g->pieces == 0)
		g->tensor = *t;
	if (!g->fault && !tensor_alike(t, &g->tensor)) {
		g->fault = VERDICT_MIXED;
		g->b = g->pieces;
	}
	g->box[g->pieces] = *b;
	g->source[g->pieces++] = source;
	return 0;
}

static int add_wanted(struct plan *p, struct group *g, const struct tensor *t, const struct box *b)
{
	struct wanted *w = more_room(p->wanted, p->wanteds, &p->wanted_room, sizeof(*w));

	if (!w)
		return plan_no_memory(t->name);
	p->wanted = w;
	w = &p->wanted[p->wanteds++];
	w->group = g;
	w->before = g->wanted;
	w->box = *b;
	w->elem_bytes = t->elem_bytes;
	memcpy(w->shape, t->shape, sizeof(w->shape));
	g->wanted = p->wanteds;
	return 0;
}

int plan_add(struct plan *p, const uint8_t *record, uint32_t bytes)
{
	struct bytes_reader r = {.at = record, .left = bytes};
	struct source source = {0};
	struct tensor t;
	struct group *g;
	enum kind kind;
	struct box b;
	void *number;
	int rc;

	if (!record_get(&r, &kind, &t, &b))
		goto invalid;
	if (kind == KIND_STORED) {
		source.agent = bytes_get_u32(&r);
		source.rank = bytes_get_u32(&r);
		source.piece = bytes_get_u32(&r);
	}
	if (r.bad || r.left)
		goto invalid;

	number = more_room(p->number, p->records, &p->record_room, sizeof(*p->number));
	if (!number)
		return plan_no_memory(t.name);
	p->number = number;
	g = group_of(p, &t);
	if (!g)
		return plan_no_memory(t.name);
	p->number[p->records] = kind == KIND_WANTED ? p->wanteds : NOT_WANTED;
	rc = kind == KIND_WANTED ? add_wanted(p, g, &t, &b) : add_stored(g, &t, &b, source);
	if (!rc)
		p->records++;
	return rc;
invalid:
	return error_set(FTMEM_EINVAL,
	                 "a record of %u bytes tells neither what is stored nor what is wanted",
	                 bytes);
}

static bool note_overlap(void *arg, uint32_t i, uint32_t j)
{
	struct group *g = arg;

	g->fault = VERDICT_OVERLAP;
	g->a = i;
	g->b = j;
	return false;
}

int plan_solve(struct plan *p)
{
	for (struct group *g = p->first; g; g = g->next) {
		int rc = 0;

		if (!g->wanted || g->pieces == 0 || g->fault)
			continue;
		rc = overlap_pairs(g->box, g->pieces, note_overlap, g);
		if (!rc && !g->fault)
			rc = overlap_index_new(g->box, g->pieces, &g->index);
		if (rc)
			return rc;
	}
	return 0;
}

/* --- answers --- */

/* What of a box is stored. */
struct cover {
	const struct group *group;
	const struct box *box;
	uint64_t elements;
	struct bytes *out; /* NULL: only counts */
	int rc;
};

static int part_put(struct bytes *out, const struct box *b, const struct source *s)
{
	int rc = box_put(out, b);

	rc = rc ? rc : bytes_put_u32(out, s->agent);
	rc = rc ? rc : bytes_put_u32(out, s->rank);
	return rc ? rc : bytes_put_u32(out, s->piece);
}

static bool cover_part(void *arg, uint32_t i)
{
	struct cover *c = arg;
	struct box part;

	if (!box_intersect(c->box, &c->group->box[i], &part))
		return true;
	c->elements += box_count(&part);
	if (c->out)
		c->rc = part_put(c->out, &part, &c->group->source[i]);
	return c->rc == 0;
}

uint64_t plan_covered(const struct group *g, const struct box *b)
{
	struct cover c = {.group = g, .box = b};

	overlap_find(g->index, b, cover_part, &c);
	return c.elements;
}

/* Where a box that grows ends in one dimension. */
struct reach {
	const struct box *other;
	uint32_t dim;
	uint64_t to;
};

static bool limit_reach(void *arg, uint32_t i)
{
	struct reach *r = arg;
	uint64_t start = r->other[i].start[r->dim];

	r->to = start < r->to ? start : r->to;
	return true;
}

void plan_grow(const struct overlap_index *index, const struct box *other, const struct box *bounds,
               struct box *b)
{
	for (uint32_t d = 0; d < b->ndim; d++) {
		struct reach r = {other, d, bounds->start[d] + bounds->extent[d]};

		b->extent[d] = r.to - b->start[d];
		overlap_find(index, b, limit_reach, &r);
		b->extent[d] = r.to - b->start[d];
	}
}

/* The first box in b, as large as can be, of which nothing is stored. Not all of b is.
 * Halving looks at the lower half first, so that what is found can grow upward only. */
static struct box find_missing(const struct group *g, const struct box *b)
{
	struct box at = *b;

	while (plan_covered(g, &at) > 0) {
		struct box half = at;
		uint32_t d = 0;

		for (uint32_t i = 1; i < at.ndim; i++)
			d = at.extent[i] > at.extent[d] ? i : d;
		half.extent[d] /= 2;
		if (plan_covered(g, &half) < box_count(&half)) {
			at = half;
			continue;
		}
		at.start[d] += half.extent[d];
		at.extent[d] -= half.extent[d];
	}
	plan_grow(g->index, g->box, b, &at);
	return at;
}

static int answer_parts(const struct wanted *w, struct bytes *out)
{
	struct cover c = {.group = w->group, .box = &w->box, .out = out};
	uint64_t begin = out->size;
	struct box missing;

	c.rc = bytes_put_u32(out, VERDICT_PARTS);
	if (c.rc)
		return c.rc;
	overlap_find(w->group->index, &w->box, cover_part, &c);
	if (c.rc || c.elements == box_count(&w->box))
		return c.rc;
	out->size = begin;
	missing = find_missing(w->group, &w->box);
	c.rc = bytes_put_u32(out, VERDICT_MISSING);
	return c.rc ? c.rc : box_put(out, &missing);
}

static int answer_fault(const struct group *g, struct bytes *out)
{
	const struct source *a = &g->source[g->a], *b = &g->source[g->b];
	const uint32_t word[] = {g->fault, a->rank, a->piece, b->rank, b->piece};
	int rc = 0;

	for (size_t i = 0; i < sizeof(word) / sizeof(word[0]) && !rc; i++)
		rc = bytes_put_u32(out, word[i]);
	return rc;
}

bool plan_fits(const struct wanted *w)
{
	const struct tensor *t = &w->group->tensor;

	return w->elem_bytes == t->elem_bytes && w->box.ndim == t->ndim
	       && memcmp(w->shape, t->shape, t->ndim * sizeof(*t->shape)) == 0;
}

int plan_answer(const struct plan *p, uint32_t i, struct bytes *out)
{
	uint64_t begin = out->size;
	const struct wanted *w;
	const struct group *g;
	int rc;

	if (i >= p->records || p->number[i] == NOT_WANTED)
		return 0;
	w = &p->wanted[p->number[i]];
	g = w->group;
	if (g->pieces == 0) {
		rc = bytes_put_u32(out, VERDICT_ABSENT);
	} else if (g->fault) {
		rc = answer_fault(g, out);
	} else if (!plan_fits(w)) {
		rc = bytes_put_u32(out, VERDICT_UNLIKE);
		rc = rc ? rc : tensor_put(out, &g->tensor);
	} else {
		rc = answer_parts(w, out);
	}
	if (rc)
		out->size = begin;
	return rc;
}
