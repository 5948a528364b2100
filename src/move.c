/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "move_impl.h"

/* In the slot that holds it; *array is the piece's. */
static struct box_view stored_view(const struct move *v, uint32_t rank, uint32_t piece,
                                   const struct box *box, uint8_t **array)
{
	const struct layout *l;
	const struct slot *slot = move_find_piece(v, rank, piece, &l);
	const struct layout_piece *p = &l->piece[piece];
	const struct region *g = &l->region[p->region];
	struct box outer = move_piece_box(l, p);
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
		part->device = DEVICE_HOST;
		add_part(v->out, &v->outs, o->to, part);
	}
	for (uint32_t i = 0; i < v->deliveries; i++) {
		const struct delivery *d = &v->delivery[i];

		if (d->part->agent == v->ft->net->rank)
			continue;
		part->array = d->wish->region->addr;
		part->device = d->wish->region->device;
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
		put->device = d->wish->region->device;
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
	char cause[ERROR_MSG_MAX];
	uint32_t puts = 0;
	int rc = make_streams(v), local_rc;

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
		snprintf(cause, sizeof(cause), "%s", error_msg());
		if (local_rc < 0)
			log_line(&ft->opts.log, FTMEM_LOG_ERROR, "%s", cause);
		/* Also a rank that failed serves the others. */
		rc = transfer_run(&config, v->out, v->outs, v->in, v->ins);
		if (rc == 0 && local_rc < 0)
			rc = error_set(local_rc, "%s", cause);
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
	int rc = move_plan(&v);

	*report = (struct move_report){0};
	if (rc == 0)
		rc = fill_regions(&v, report);
	move_deinit(&v);
	return rc;
}
