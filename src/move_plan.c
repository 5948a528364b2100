/* SPDX-License-Identifier: BSD-3-Clause */
/* Who has what, who wants what: through the owners of the names. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "courier.h"
#include "error.h"
#include "move_impl.h"

/* --- what is stored, as boxes --- */

/* A private region is a tensor of bytes that belongs to its rank. */
static void tensor_of(const struct region *g, uint32_t home, struct tensor *t, struct box *box)
{
	bool global = g->box.ndim > 0;

	*t = (struct tensor){
		.home = global ? TENSOR_GLOBAL : home,
		.elem_bytes = global ? g->elem_bytes : 1,
		.ndim = global ? g->box.ndim : 1,
	};
	memcpy(t->name, g->name, strlen(g->name) + 1);
	if (global) {
		memcpy(t->shape, g->shape, sizeof(t->shape));
		*box = g->box;
	} else {
		t->shape[0] = g->bytes;
		*box = (struct box){.ndim = 1, .extent = {g->bytes}};
	}
}

struct box move_piece_box(const struct layout *l, const struct layout_piece *p)
{
	if (p->box.ndim > 0)
		return p->box;
	return (struct box){.ndim = 1, .extent = {l->region[p->region].bytes}};
}

static int parse_stored(struct move *v)
{
	struct rescue *r = v->r;
	int rc = 0;

	v->stored = calloc(r->members ? r->members : 1, sizeof(*v->stored));
	if (!v->stored)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " layouts", r->members);
	for (uint32_t i = 0; rc == 0 && i < r->members; i++) {
		const struct slot *slot = r->member[i].slot;

		rc = layout_parse(slot->data, slot->shape->data_bytes, &v->stored[i]);
		if (rc == 0 && v->stored[i]->data_bytes != slot->shape->data_bytes)
			rc = error_set(FTMEM_ECORRUPT,
			               "the layout stored by rank %" PRIu32 " describes %" PRIu64
			               " bytes, its slot has %" PRIu64,
			               r->member[i].rank, v->stored[i]->data_bytes,
			               slot->shape->data_bytes);
	}
	return rc;
}

/* --- what is asked for --- */

/* The old rank whose private region of that name this rank gets; FTMEM_NO_RANK: none. */
static int choose_home(const struct move *v, const char *name, uint32_t *home)
{
	const struct opts *opts = &v->ft->opts;
	uint32_t me = v->ft->net->rank, ranks = v->ft->net->size, old = v->r->ranks;

	*home = me;
	if (ranks == old)
		return 0;
	if (opts->private_from) {
		*home = opts->private_from(opts->private_arg, name, me, ranks, old);
		if (*home < old || *home == FTMEM_NO_RANK)
			return 0;
		return error_set(FTMEM_EINVAL,
		                 "private_from() of struct ftmem_opts gave rank %" PRIu32
		                 " for region \"%s\": it must be below %" PRIu32
		                 ", the ranks that stored it, or FTMEM_NO_RANK",
		                 *home, name, old);
	}
	if (opts->private_rule == FTMEM_PRIVATE_DROP)
		*home = FTMEM_NO_RANK;
	else if (me >= old)
		return error_set(FTMEM_ELAYOUT,
		                 "region \"%s\" is private and was stored by %" PRIu32
		                 " ranks: there is none for rank %" PRIu32
		                 "; set FTMEM_PRIVATE=drop or private_from() of struct "
		                 "ftmem_opts, or register it as a box of a tensor",
		                 name, old, me);
	return 0;
}

static int make_wishes(struct move *v)
{
	const struct layout *want = v->ft->epoch->layout;
	int rc = 0;

	v->wish = calloc(want->regions ? want->regions : 1, sizeof(*v->wish));
	if (!v->wish)
		return error_set(FTMEM_ENOMEM, "no memory to ask for %" PRIu32 " regions",
		                 want->regions);
	for (uint32_t i = 0; rc == 0 && i < want->regions; i++) {
		const struct region *g = &want->region[i];
		struct wish *w = &v->wish[v->wishes];
		uint32_t home = TENSOR_GLOBAL;

		if (g->box.ndim == 0) {
			rc = choose_home(v, g->name, &home);
			if (rc < 0 || home == FTMEM_NO_RANK)
				continue;
		}
		w->region = g;
		tensor_of(g, home, &w->wanted.tensor, &w->wanted.box);
		v->wishes++;
	}
	return rc;
}

/* --- the plan --- */

static int put_record(struct move *v, struct route *route, const struct tensor *t)
{
	uint32_t owner = tensor_owner(t->name, t->home, v->ft->net->size);
	int rc = route_put(route, owner, v->record.at, (uint32_t)v->record.size);

	v->record.size = 0;
	return rc;
}

static int publish(struct move *v, struct route *route)
{
	struct plan_stored s = {.agent = v->ft->net->rank};
	uint32_t number = 0;
	int rc = 0;

	for (uint32_t i = 0; i < v->r->members; i++) {
		const struct layout *l = v->stored[i];

		s.rank = v->r->member[i].rank;
		for (uint32_t p = 0; rc == 0 && p < l->pieces; p++, number++) {
			tensor_of(&l->region[l->piece[p].region], s.rank, &s.tensor, &s.box);
			s.box = move_piece_box(l, &l->piece[p]);
			s.piece = p;
			rc = plan_stored_put(&v->record, &s);
			if (rc == 0)
				rc = put_record(v, route, &s.tensor);
		}
	}
	for (uint32_t i = 0; rc == 0 && i < v->wishes; i++) {
		v->wish[i].number = number++;
		rc = plan_wanted_put(&v->record, &v->wish[i].wanted);
		if (rc == 0)
			rc = put_record(v, route, &v->wish[i].wanted.tensor);
	}
	return rc;
}

/* As owner of names: finds where what is wanted lies. */
static int solve(struct move *v, struct route *route)
{
	uint32_t arrived = route_arrived(route);
	struct plan *plan = NULL;
	int rc = plan_new(&plan);

	for (uint32_t i = 0; rc == 0 && i < arrived; i++) {
		struct route_record record = route_get(route, i);

		rc = plan_add(plan, record.at, record.bytes);
	}
	if (rc == 0)
		rc = plan_solve(plan);
	for (uint32_t i = 0; rc == 0 && i < arrived; i++) {
		v->record.size = 0;
		rc = plan_answer(plan, i, &v->record);
		if (rc == 0 && v->record.size > UINT32_MAX)
			rc = error_set(FTMEM_EINVAL, "a region comes in too many parts to tell: "
			                             "register it in smaller boxes");
		if (rc == 0 && v->record.size > 0)
			rc = route_answer(route, i, v->record.at, (uint32_t)v->record.size);
	}
	if (rc == 0)
		rc = plan_unwanted(plan, &v->unwanted);
	plan_free(plan);
	return rc;
}

static int read_answers(struct move *v, const struct route *route)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < v->wishes; i++) {
		struct wish *w = &v->wish[i];
		struct route_reply reply = route_reply(route, w->number);

		rc = plan_read(&w->wanted, reply.at, reply.bytes, &w->part, &w->parts);
		v->deliveries += w->parts;
	}
	return rc;
}

static int find_parts(struct move *v)
{
	struct ftmem *ft = v->ft;
	struct route *route = NULL;
	int rc = route_new(ft->net->rank, ft->net->size, &route);

	if (rc == 0)
		rc = publish(v, route);
	rc = session_agree(ft, rc, "describing what is stored");
	if (rc == 0) {
		rc = courier_forward(ft->net, route, ft->opts.timeout_ms, "planning the restore");
		if (rc == 0)
			rc = solve(v, route);
		rc = session_agree_sent(ft, rc, 0, "planning the restore");
	}
	if (rc == 0) {
		rc = courier_back(ft->net, route, ft->opts.timeout_ms, "planning the restore");
		if (rc == 0)
			rc = read_answers(v, route);
		rc = session_agree_sent(ft, rc, 0, "comparing layouts");
	}
	route_free(route);
	return rc;
}

/* --- what nobody asks for --- */

static void warn_unwanted(const struct move *v, const uint64_t sum[3], const char *example)
{
	const struct opts *opts = &v->ft->opts;
	bool chosen = v->r->ranks != v->ft->net->size
	              && (opts->private_from || opts->private_rule == FTMEM_PRIVATE_DROP);

	if (v->ft->net->rank != 0 || (sum[1] == 0 && chosen))
		return;
	log_line(&opts->log, FTMEM_LOG_WARN,
	         "%" PRIu64 " bytes of %" PRIu64 " tensors and %" PRIu64
	         " private regions are stored but asked for by no rank, %s for one: they are left "
	         "out of the next version",
	         sum[0], sum[1], sum[2], example);
}

/* A slip in what ranks register would cost its owner the state for good: they are told. */
static int report_unwanted(struct move *v)
{
	struct net *net = v->ft->net;
	uint64_t sum[3] = {v->unwanted.bytes, v->unwanted.tensors, v->unwanted.privates};
	uint64_t first = v->unwanted.example[0] ? net->rank : UINT64_MAX;
	uint64_t words[(PLAN_EXAMPLE + 7) / 8] = {0};
	int rc = net_allreduce(net, sum, 3, NET_SUM, session_deadline(v->ft), "comparing layouts");

	if (rc == 0 && sum[1] + sum[2] > 0)
		rc = net_allreduce(net, &first, 1, NET_MIN, session_deadline(v->ft),
		                   "comparing layouts");
	if (rc < 0 || sum[1] + sum[2] == 0)
		return rc;
	if (first == net->rank)
		memcpy(words, v->unwanted.example, sizeof(v->unwanted.example));
	rc = net_allreduce(net, words, sizeof(words) / sizeof(words[0]), NET_MAX,
	                   session_deadline(v->ft), "comparing layouts");
	if (rc == 0)
		warn_unwanted(v, sum, (const char *)words);
	return rc;
}

/* --- who sends what to whom --- */

static int compare_deliveries(const void *a, const void *b)
{
	const struct plan_part *x = ((const struct delivery *)a)->part;
	const struct plan_part *y = ((const struct delivery *)b)->part;
	struct plan_order p = {0, x->rank, x->piece, x->box}, q = {0, y->rank, y->piece, y->box};

	if (x->agent != y->agent)
		return x->agent < y->agent ? -1 : 1;
	return plan_order_compare(&p, &q);
}

static int compare_orders(const void *a, const void *b)
{
	return plan_order_compare(a, b);
}

static int sort_deliveries(struct move *v)
{
	uint32_t at = 0;

	v->delivery = calloc(v->deliveries ? v->deliveries : 1, sizeof(*v->delivery));
	if (!v->delivery)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " parts", v->deliveries);
	for (uint32_t i = 0; i < v->wishes; i++)
		for (uint32_t p = 0; p < v->wish[i].parts; p++)
			v->delivery[at++] = (struct delivery){&v->wish[i], &v->wish[i].part[p]};
	qsort(v->delivery, v->deliveries, sizeof(*v->delivery), compare_deliveries);
	return 0;
}

static int put_orders(struct move *v, struct route *route)
{
	int rc = sort_deliveries(v);

	for (uint32_t i = 0; rc == 0 && i < v->deliveries; i++) {
		const struct plan_part *p = v->delivery[i].part;
		struct plan_order order = {v->ft->net->rank, p->rank, p->piece, p->box};

		if (p->agent == v->ft->net->rank)
			continue;
		v->record.size = 0;
		rc = plan_order_put(&v->record, &order);
		if (rc == 0)
			rc = route_put(route, p->agent, v->record.at, (uint32_t)v->record.size);
	}
	return rc;
}

/* The slot that holds a piece, and the piece; NULL if this rank has no such. */
const struct slot *move_find_piece(const struct move *v, uint32_t rank, uint32_t piece,
                                   const struct layout **layout)
{
	struct rescue_member *m = rescue_find(v->r, rank);
	const struct layout *l = m ? v->stored[m - v->r->member] : NULL;

	*layout = l;
	return l && piece < l->pieces ? m->slot : NULL;
}

static int check_order(const struct move *v, const struct plan_order *o)
{
	const struct layout *l;
	struct box box;

	if (o->to < v->ft->net->size && move_find_piece(v, o->rank, o->piece, &l)) {
		box = move_piece_box(l, &l->piece[o->piece]);
		if (box.ndim == o->box.ndim && box_contains(&box, &o->box))
			return 0;
	}
	return error_set(FTMEM_ENET,
	                 "rank %" PRIu32 " asks for piece %" PRIu32 " of rank %" PRIu32
	                 ", which is not here: start the job again",
	                 o->to, o->piece, o->rank);
}

static int take_orders(struct move *v, const struct route *route)
{
	uint32_t arrived = route_arrived(route);
	int rc = 0;

	v->order = calloc(arrived ? arrived : 1, sizeof(*v->order));
	if (!v->order)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " orders", arrived);
	for (uint32_t i = 0; rc == 0 && i < arrived; i++) {
		struct route_record record = route_get(route, i);

		rc = plan_order_get(record.at, record.bytes, &v->order[i]);
		if (rc == 0)
			rc = check_order(v, &v->order[i]);
		v->orders++;
	}
	if (rc == 0)
		qsort(v->order, v->orders, sizeof(*v->order), compare_orders);
	return rc;
}

static int check_local(const struct move *v)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < v->deliveries; i++) {
		const struct plan_part *p = v->delivery[i].part;
		struct plan_order order = {v->ft->net->rank, p->rank, p->piece, p->box};

		if (p->agent == v->ft->net->rank)
			rc = check_order(v, &order);
	}
	return rc;
}

static int exchange_orders(struct move *v)
{
	struct ftmem *ft = v->ft;
	struct route *route = NULL;
	int rc = route_new(ft->net->rank, ft->net->size, &route);

	if (rc == 0)
		rc = put_orders(v, route);
	rc = session_agree(ft, rc, "ordering what is stored elsewhere");
	if (rc == 0) {
		rc = courier_forward(ft->net, route, ft->opts.timeout_ms,
		                     "ordering what is stored elsewhere");
		if (rc == 0)
			rc = take_orders(v, route);
		if (rc == 0)
			rc = check_local(v);
		rc = session_agree_sent(ft, rc, 0, "ordering what is stored elsewhere");
	}
	route_free(route);
	return rc;
}

/* --- the whole --- */

int move_plan(struct move *v)
{
	int rc = parse_stored(v);

	if (rc == 0)
		rc = make_wishes(v);
	rc = session_agree(v->ft, rc, "reading what is stored");
	if (rc == 0)
		rc = find_parts(v);
	if (rc == 0)
		rc = report_unwanted(v);
	return rc == 0 ? exchange_orders(v) : rc;
}
