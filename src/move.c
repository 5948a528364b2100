/* SPDX-License-Identifier: BSD-3-Clause */
#include "move.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "courier.h"
#include "error.h"
#include "layout.h"
#include "plan.h"
#include "transfer.h"

/* A region that is asked for, and where its parts are. */
struct wish {
	const struct region *region;
	struct plan_wanted wanted;
	uint32_t number;         /* of its record */
	struct plan_part *part;  /* owned */
	uint32_t parts;
};

/* A part of a wish, in the order in which it comes. */
struct delivery {
	const struct wish *wish;
	const struct plan_part *part;
};

struct move {
	struct rescue *r;
	struct ftmem *ft;
	struct layout **stored;        /* [r->members] of each member's slot */
	struct bytes record;           /* the one in hand */
	struct wish *wish;
	uint32_t wishes;
	struct delivery *delivery;     /* by agent, then the order of plan_order_compare() */
	uint32_t deliveries;
	struct plan_order *order;      /* of other ranks from this one, in that order */
	uint32_t orders;
	struct transfer_part *part;    /* of all streams */
	struct transfer_stream *out, *in;
	uint32_t outs, ins;
};

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

static struct box piece_box(const struct layout *l, const struct layout_piece *p)
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
			s.box = piece_box(l, &l->piece[p]);
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
static const struct slot *find_piece(const struct move *v, uint32_t rank, uint32_t piece,
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

	if (o->to < v->ft->net->size && find_piece(v, o->rank, o->piece, &l)) {
		box = piece_box(l, &l->piece[o->piece]);
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
		rc = session_agree_sent(ft, rc, 0, "ordering what is stored elsewhere");
	}
	route_free(route);
	return rc;
}

/* --- moving --- */

/* In the slot that holds it; *array is the piece's. */
static struct box_view stored_view(const struct move *v, uint32_t rank, uint32_t piece,
                                   const struct box *box, uint8_t **array)
{
	const struct layout *l;
	const struct slot *slot = find_piece(v, rank, piece, &l);
	const struct layout_piece *p = &l->piece[piece];
	const struct region *g = &l->region[p->region];
	struct box outer = piece_box(l, p);
	struct box_view view;

	*array = slot->data + p->offset;
	box_view(&outer, box, g->box.ndim > 0 ? g->elem_bytes : 1, &view);
	return view;
}

static struct box_view wanted_view(const struct delivery *d)
{
	struct box_view view;

	box_view(&d->wish->wanted.box, &d->part->box, d->wish->wanted.tensor.elem_bytes, &view);
	return view;
}

/* Adds a part to the stream of its peer; parts come peer by peer. */
static void add_part(struct transfer_stream *stream, uint32_t *streams, uint32_t peer,
                     struct transfer_part *part)
{
	if (*streams == 0 || stream[*streams - 1].peer != peer)
		stream[(*streams)++] = (struct transfer_stream){peer, 0, part};
	stream[*streams - 1].parts++;
}

static int make_streams(struct move *v)
{
	uint64_t total = (uint64_t)v->orders + v->deliveries;
	struct transfer_part *part;

	v->part = calloc(total ? total : 1, sizeof(*v->part));
	v->out = calloc(v->orders ? v->orders : 1, sizeof(*v->out));
	v->in = calloc(v->deliveries ? v->deliveries : 1, sizeof(*v->in));
	if (!v->part || !v->out || !v->in)
		return error_set(FTMEM_ENOMEM, "no memory to move %" PRIu64 " parts", total);
	part = v->part;
	for (uint32_t i = 0; i < v->orders; i++, part++) {
		const struct plan_order *o = &v->order[i];

		part->view = stored_view(v, o->rank, o->piece, &o->box, &part->array);
		add_part(v->out, &v->outs, o->to, part);
	}
	for (uint32_t i = 0; i < v->deliveries; i++) {
		const struct delivery *d = &v->delivery[i];

		if (d->part->agent == v->ft->net->rank)
			continue;
		part->array = d->wish->region->addr;
		part->view = wanted_view(d);
		add_part(v->in, &v->ins, d->part->agent, part++);
	}
	return 0;
}

/* What lies in slots at hand. */
static int make_puts(struct move *v, struct copy_put **out, uint32_t *count)
{
	struct copy_put *put = calloc(v->deliveries ? v->deliveries : 1, sizeof(*put));

	*out = put;
	if (!put)
		return error_set(FTMEM_ENOMEM, "no memory to copy %" PRIu32 " parts",
		                 v->deliveries);
	for (uint32_t i = 0; i < v->deliveries; i++) {
		const struct delivery *d = &v->delivery[i];
		uint8_t *array;

		if (d->part->agent != v->ft->net->rank)
			continue;
		put->to = d->wish->region->addr;
		put->to_view = wanted_view(d);
		put->source_view =
			stored_view(v, d->part->rank, d->part->piece, &d->part->box, &array);
		put->source = array;
		put->bytes = put->to_view.bytes;
		put++;
	}
	*count = (uint32_t)(put - *out);
	return 0;
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

static uint64_t stream_bytes(const struct transfer_stream *stream, uint32_t count)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < count; i++)
		for (uint32_t p = 0; p < stream[i].parts; p++)
			bytes += stream[i].part[p].view.bytes;
	return bytes;
}

/* What the busiest rank has to copy, send and receive: so long others may have to wait. */
static int find_busiest(struct move *v, const struct copy_put *put, uint32_t puts,
                        uint64_t *busiest)
{
	struct net *net = v->ft->net;

	*busiest = stream_bytes(v->out, v->outs) + stream_bytes(v->in, v->ins);
	for (uint32_t i = 0; i < puts; i++)
		*busiest += put[i].bytes;
	return net_allreduce(net, busiest, 1, NET_MAX, session_deadline(v->ft),
	                     "moving stored data");
}

/* The deadline grows by a millisecond for each 100 KB. */
static uint32_t patience_ms(const struct ftmem *ft, uint64_t bytes)
{
	uint64_t ms = ft->opts.timeout_ms + bytes / 100000;

	return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

static int fill_regions(struct move *v, struct move_report *report)
{
	struct ftmem *ft = v->ft;
	struct transfer_config config = {
		.net = ft->net,
		.copy_ops = ft->copy_ops,
		.copy = ft->copy,
	};
	uint64_t begin = clock_ns(), busiest = 0;
	struct copy_put *put = NULL;
	uint32_t puts = 0;
	int rc = check_local(v), local_rc;

	if (rc == 0)
		rc = make_streams(v);
	if (rc == 0)
		rc = make_puts(v, &put, &puts);
	rc = session_agree(ft, rc, "moving stored data");
	if (rc == 0)
		rc = find_busiest(v, put, puts, &busiest);
	if (rc == 0) {
		/* From here on they hold neither what they held nor what they shall. */
		ft->must_restore = true;
		config.timeout_ms = patience_ms(ft, busiest);
		local_rc = puts > 0 ? ft->copy_ops->put(ft->copy, put, puts) : 0;
		if (local_rc < 0)
			log_line(&ft->opts.log, FTMEM_LOG_ERROR, "%s", error_msg());
		/* Also a rank that failed serves the others. */
		rc = transfer_run(&config, v->out, v->outs, v->in, v->ins);
		rc = rc == 0 ? local_rc : rc;
		rc = session_agree_sent(ft, rc, busiest, "filling the regions");
	}
	for (uint32_t i = 0; i < puts; i++)
		report->local_bytes += put[i].bytes;
	report->moved_bytes = stream_bytes(v->in, v->ins);
	report->seconds = (double)(clock_ns() - begin) * 1e-9;
	free(put);
	return rc;
}

/* --- the whole --- */

static void move_deinit(struct move *v)
{
	for (uint32_t i = 0; v->stored && i < v->r->members; i++)
		layout_free(v->stored[i]);
	for (uint32_t i = 0; v->wish && i < v->wishes; i++)
		free(v->wish[i].part);
	free(v->stored);
	bytes_deinit(&v->record);
	free(v->wish);
	free(v->delivery);
	free(v->order);
	free(v->part);
	free(v->out);
	free(v->in);
}

int move_restore(struct rescue *r, struct move_report *report)
{
	struct move v = {.r = r, .ft = r->ft};
	int rc = parse_stored(&v);

	*report = (struct move_report){0};
	if (rc == 0)
		rc = make_wishes(&v);
	rc = session_agree(v.ft, rc, "reading the layouts");
	if (rc == 0)
		rc = find_parts(&v);
	if (rc == 0)
		rc = exchange_orders(&v);
	if (rc == 0)
		rc = fill_regions(&v, report);
	move_deinit(&v);
	return rc;
}
