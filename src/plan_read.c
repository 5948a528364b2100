/* SPDX-License-Identifier: BSD-3-Clause */
/* The part of a plan of those that have and want: their records, answers and orders. */
#include "plan_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "error.h"

/* --- records --- */

int plan_stored_put(struct bytes *b, const struct plan_stored *s)
{
	int rc = bytes_put_u32(b, KIND_STORED);

	rc = rc ? rc : tensor_put(b, &s->tensor);
	rc = rc ? rc : box_put(b, &s->box);
	rc = rc ? rc : bytes_put_u32(b, s->agent);
	rc = rc ? rc : bytes_put_u32(b, s->rank);
	return rc ? rc : bytes_put_u32(b, s->piece);
}

int plan_wanted_put(struct bytes *b, const struct plan_wanted *w)
{
	int rc = bytes_put_u32(b, KIND_WANTED);

	rc = rc ? rc : tensor_put(b, &w->tensor);
	return rc ? rc : box_put(b, &w->box);
}

/* --- answers --- */

/* `tensor "w"`, `region "w" of rank 3` */
#define WHAT_TEXT (FTMEM_REGION_NAME_MAX + 40)

static const char *what_text(const struct tensor *t, char text[WHAT_TEXT])
{
	if (t->home == TENSOR_GLOBAL)
		snprintf(text, WHAT_TEXT, "tensor \"%s\"", t->name);
	else
		snprintf(text, WHAT_TEXT, "region \"%s\" of rank %u", t->name, t->home);
	return text;
}

static int no_sense(const struct plan_wanted *w)
{
	char what[WHAT_TEXT];

	return error_set(FTMEM_ENET, "the answer about %s makes no sense",
	                 what_text(&w->tensor, what));
}

static int read_absent(const struct plan_wanted *w)
{
	char what[WHAT_TEXT];

	return error_set(FTMEM_ELAYOUT,
	                 "%s is not stored: restore with the regions that "
	                 "were snapshotted, then add others",
	                 what_text(&w->tensor, what));
}

static int read_unlike(const struct plan_wanted *w, struct bytes_reader *r)
{
	char what[WHAT_TEXT], is[TENSOR_TEXT], asked[TENSOR_TEXT];
	struct tensor t;

	tensor_get(r, &t);
	if (r->bad || r->left || !tensor_same(&t, &w->tensor) || tensor_alike(&t, &w->tensor))
		return no_sense(w);
	/* Private regions have nothing but bytes. */
	if (t.home != TENSOR_GLOBAL)
		return error_set(FTMEM_ELAYOUT,
		                 "%s is stored with %" PRIu64 " bytes and asked for with %" PRIu64
		                 ": they must be the same",
		                 what_text(&w->tensor, what), t.shape[0], w->tensor.shape[0]);
	return error_set(FTMEM_ELAYOUT,
	                 "%s is stored as %s and asked for as %s: they must be the "
	                 "same",
	                 what_text(&w->tensor, what), tensor_text(&t, is),
	                 tensor_text(&w->tensor, asked));
}

static int read_missing(const struct plan_wanted *w, struct bytes_reader *r)
{
	char what[WHAT_TEXT], asked[BOX_TEXT], lacks[BOX_TEXT];
	struct box b;

	box_get(r, w->box.ndim, &b);
	if (r->bad || r->left || !box_contains(&w->box, &b))
		return no_sense(w);
	return error_set(FTMEM_ELAYOUT,
	                 "of %s the box %s is asked for, but its part %s is not "
	                 "stored",
	                 what_text(&w->tensor, what), box_text(&w->box, asked),
	                 box_text(&b, lacks));
}

static int read_fault(const struct plan_wanted *w, struct bytes_reader *r, enum verdict verdict)
{
	uint32_t rank = bytes_get_u32(r), piece = bytes_get_u32(r);
	uint32_t other_rank = bytes_get_u32(r), other = bytes_get_u32(r);
	char what[WHAT_TEXT];

	if (r->bad || r->left)
		return no_sense(w);
	return error_set(FTMEM_ECORRUPT,
	                 "what is stored of %s contradicts itself: piece %u of "
	                 "rank %u and piece %u of rank %u %s",
	                 what_text(&w->tensor, what), piece, rank, other, other_rank,
	                 verdict == VERDICT_OVERLAP ? "overlap" : "are of different tensors");
}

static int compare_words(uint32_t a, uint32_t b)
{
	return (a > b) - (a < b);
}

static int compare_parts(const void *a, const void *b)
{
	const struct plan_part *x = a, *y = b;
	int order = compare_words(x->agent, y->agent);

	order = order ? order : compare_words(x->rank, y->rank);
	order = order ? order : compare_words(x->piece, y->piece);
	return order ? order : box_compare(&x->box, &y->box);
}

static int read_parts(const struct plan_wanted *w, struct bytes_reader *r, struct plan_part **parts,
                      uint32_t *count)
{
	uint64_t each = 2 * sizeof(uint64_t) * w->box.ndim + 3 * sizeof(uint32_t);
	uint64_t n = r->left / each, left = box_count(&w->box);
	struct plan_part *part;

	if (n == 0)
		return no_sense(w);
	part = calloc(n, sizeof(*part));
	if (!part)
		return plan_no_memory(w->tensor.name);
	for (uint64_t i = 0; i < n; i++) {
		box_get(r, w->box.ndim, &part[i].box);
		part[i].agent = bytes_get_u32(r);
		part[i].rank = bytes_get_u32(r);
		part[i].piece = bytes_get_u32(r);
		if (r->bad || !box_contains(&w->box, &part[i].box)
		    || box_count(&part[i].box) > left)
			goto fail;
		left -= box_count(&part[i].box);
	}
	if (left || r->left)
		goto fail;
	qsort(part, n, sizeof(*part), compare_parts);
	*parts = part;
	*count = (uint32_t)n;
	return 0;
fail:
	free(part);
	return no_sense(w);
}

int plan_read(const struct plan_wanted *w, const uint8_t *answer, uint32_t bytes,
              struct plan_part **parts, uint32_t *count)
{
	struct bytes_reader r = {.at = answer, .left = bytes};
	uint32_t verdict = bytes_get_u32(&r);

	if (bytes == 0)
		return error_set(FTMEM_ENOMEM,
		                 "the rank that plans the restore of \"%s\" had no memory for it",
		                 w->tensor.name);
	switch (verdict) {
	case VERDICT_PARTS: return read_parts(w, &r, parts, count);
	case VERDICT_ABSENT: return r.left ? no_sense(w) : read_absent(w);
	case VERDICT_UNLIKE: return read_unlike(w, &r);
	case VERDICT_MISSING: return read_missing(w, &r);
	case VERDICT_OVERLAP:
	case VERDICT_MIXED: return read_fault(w, &r, (enum verdict)verdict);
	default: return no_sense(w);
	}
}

/* --- orders --- */

int plan_order_put(struct bytes *b, const struct plan_order *o)
{
	const uint32_t word[] = {o->to, o->rank, o->piece, o->box.ndim};
	int rc = 0;

	for (size_t i = 0; i < sizeof(word) / sizeof(word[0]) && !rc; i++)
		rc = bytes_put_u32(b, word[i]);
	return rc ? rc : box_put(b, &o->box);
}

int plan_order_get(const uint8_t *record, uint32_t bytes, struct plan_order *out)
{
	struct bytes_reader r = {.at = record, .left = bytes};
	struct plan_order o = {.to = bytes_get_u32(&r)};
	uint32_t ndim;

	o.rank = bytes_get_u32(&r);
	o.piece = bytes_get_u32(&r);
	ndim = bytes_get_u32(&r);
	box_get(&r, ndim, &o.box);
	if (r.bad || r.left)
		return error_set(FTMEM_ENET, "an order of %u bytes makes no sense", bytes);
	*out = o;
	return 0;
}

int plan_order_compare(const struct plan_order *a, const struct plan_order *b)
{
	int order = compare_words(a->to, b->to);

	order = order ? order : compare_words(a->rank, b->rank);
	order = order ? order : compare_words(a->piece, b->piece);
	return order ? order : box_compare(&a->box, &b->box);
}
