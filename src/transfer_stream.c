/* SPDX-License-Identifier: BSD-3-Clause */
/* One stream: how it is cut into messages, and how they are sent and received. */
#include <inttypes.h>

#include "checksum.h"
#include "clock.h"
#include "error.h"
#include "tags.h"
#include "transfer_impl.h"

/* A part of this size has messages of its own, which need no copy if it is contiguous;
 * smaller ones share messages. */
#define LARGE (TRANSFER_MESSAGE / 4)

/* --- messages --- */

/* The next message, cut by the sizes of the parts alone: alike at both ends. */
static bool message_cut(const struct transfer_stream *s, struct place *place, struct message *m)
{
	uint64_t bytes;

	while (place->part < s->parts && s->part[place->part].view.bytes == 0)
		place->part++;
	if (place->part == s->parts)
		return false;
	*m = (struct message){.part = place->part, .from = place->from};
	bytes = s->part[place->part].view.bytes;
	if (bytes >= LARGE) {
		bytes -= place->from;
		m->parts = 1;
		m->bytes = bytes < TRANSFER_MESSAGE ? bytes : TRANSFER_MESSAGE;
		place->from += m->bytes;
		if (m->bytes == bytes)
			*place = (struct place){place->part + 1, 0};
		return true;
	}
	for (; place->part < s->parts; place->part++) {
		bytes = s->part[place->part].view.bytes;
		if (bytes >= LARGE || bytes > TRANSFER_MESSAGE - m->bytes)
			break;
		m->bytes += bytes;
		m->parts++;
	}
	return true;
}

/* What the message has of one of its parts, beginning at m->from. */
static uint64_t message_share(const struct message *m, const struct transfer_part *p)
{
	return m->parts == 1 ? m->bytes : p->view.bytes;
}

uint64_t transfer_messages(const struct transfer_stream *s)
{
	struct place place = {0, 0};
	struct message m;
	uint64_t messages = 0;

	while (message_cut(s, &place, &m))
		messages++;
	return messages;
}

/* Where its bytes are neighbours; NULL if they are not, or not in host memory. */
static uint8_t *message_direct(const struct transfer_stream *s, const struct message *m)
{
	const struct transfer_part *p = &s->part[m->part];
	uint64_t follow;
	uint8_t *at;

	if (m->parts > 1 || p->device != DEVICE_HOST)
		return NULL;
	at = p->array + box_view_at(&p->view, m->from, &follow);
	return follow < m->bytes ? NULL : at;
}

static void message_gather(const struct transfer_stream *s, const struct message *m,
                           uint8_t *packed)
{
	for (uint32_t i = 0; i < m->parts; i++) {
		const struct transfer_part *p = &s->part[m->part + i];
		uint64_t bytes = message_share(m, p);

		if (bytes > 0)
			box_view_gather(&p->view, p->array, m->from, packed, bytes);
		packed += bytes;
	}
}

static int message_put(struct transfer *t, const struct transfer_stream *s, const struct message *m,
                       const uint8_t *packed)
{
	const struct transfer_config *config = t->config;
	uint32_t count = 0;
	uint64_t offset = 0;
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < m->parts; i++) {
		const struct transfer_part *p = &s->part[m->part + i];
		uint64_t bytes = message_share(m, p);

		if (bytes > 0)
			t->put[count++] = (struct copy_put){
				.to = p->array,
				.to_view = p->view,
				.source = packed,
				.source_view = box_view_flat(m->bytes),
				.to_from = m->from,
				.source_from = offset,
				.bytes = bytes,
				.device = p->device,
			};
		offset += bytes;
		if (count == TRANSFER_PUTS || (count > 0 && i + 1 == m->parts)) {
			rc = config->copy_ops->put(config->copy, t->put, count);
			count = 0;
		}
	}
	return rc;
}

/* --- lanes --- */

void transfer_lane_take(struct lane *l)
{
	struct queue *q = l->queue;

	l->stream = q->next < q->count ? &q->stream[q->next++] : NULL;
	l->place = (struct place){0, 0};
	l->next = 0;
}

/* Begins the next message of the stream; after the last comes that with the checksums. */
static int lane_begin(struct transfer *t, struct lane *l, struct flight *f)
{
	struct net *net = t->config->net;
	struct stream *s = l->stream;
	uint32_t peer = s->what->peer;
	uint64_t bytes = s->messages * sizeof(*s->sums);

	f->number = l->next++;
	f->at = (uint8_t *)(l->queue->in ? s->theirs : s->sums);
	if (f->number < s->messages && message_cut(s->what, &l->place, &f->message)) {
		bytes = f->message.bytes;
		f->at = message_direct(s->what, &f->message);
		if (!f->at)
			f->at = f->buffer;
	}
	if (l->queue->in)
		return net_recv(net, peer, TAG_TRANSFER, f->at, bytes, &f->req);
	if (f->at == f->buffer)
		message_gather(s->what, &f->message, f->buffer);
	return net_send(net, peer, TAG_TRANSFER, f->at, bytes, &f->req);
}

/* A message is under way (out), or has come (in). Once something is wrong, regions need
 * not be written any more. */
static void lane_look_at(struct transfer *t, struct lane *l, struct flight *f)
{
	struct stream *s = l->stream;

	if (f->number == s->messages)
		return;
	s->sums[f->number] = checksum(f->at, f->message.bytes);
	if (l->queue->in && f->at == f->buffer && t->rc == 0)
		t->rc = message_put(t, s->what, &f->message, f->at);
}

static void lane_end(struct transfer *t, struct lane *l)
{
	struct stream *s = l->stream;

	for (uint64_t i = 0; l->queue->in && t->rc == 0 && i < s->messages; i++)
		if (s->sums[i] != s->theirs[i])
			t->rc = error_set(FTMEM_ECORRUPT,
			                  "message %" PRIu64 " of %" PRIu64 " from rank %" PRIu32
			                  " was damaged on its way: restore again; if that "
			                  "repeats, replace the node of that rank or of rank "
			                  "%" PRIu32,
			                  i + 1, s->messages, s->what->peer, t->config->net->rank);
	transfer_lane_take(l);
}

int transfer_lane_poll(struct transfer *t, struct lane *l, bool *moved)
{
	struct net *net = t->config->net;
	bool active = false, here = false;
	int rc;

	for (uint32_t i = 0; l->stream && i < TRANSFER_FLIGHTS; i++) {
		struct flight *f = &l->flight[i];

		if (f->req.active) {
			rc = net_test(net, &f->req);
			if (rc < 0)
				return rc;
			if (!f->req.active) {
				here = true;
				if (l->queue->in)
					lane_look_at(t, l, f);
			}
		}
		if (!f->req.active && l->next <= l->stream->messages) {
			rc = lane_begin(t, l, f);
			if (rc < 0)
				return rc;
			here = true;
			if (!l->queue->in)
				lane_look_at(t, l, f);
		}
		active = active || f->req.active;
	}
	if (l->stream && !active && l->next > l->stream->messages) {
		lane_end(t, l);
		here = true;
	}
	if (here)
		l->moved_ns = clock_ns();
	*moved = *moved || here;
	return 0;
}
