/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Why nobody waits in a circle: of all streams that are not done, anywhere, take one of
 * the least distance; both its ends serve streams by distance and have none that comes
 * before it, so it is under way at both and goes on.
 *
 * What is wrong with the content of one stream does not end the others: whoever waits for
 * this rank gets its data, and the error is told when all is done. What is wrong with the
 * network ends everything at once.
 */
#include "transfer.h"

#include <inttypes.h>
#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "transfer_impl.h"

/* No cache line is written by the network for two messages. */
#define ALIGN 64u

/* Those that wait for the one that is gone stand still later. */
static int timed_out(const struct transfer *t)
{
	const struct lane *first = NULL;

	for (uint32_t i = 0; i < t->lanes; i++)
		if (t->lane[i].stream && (!first || t->lane[i].moved_ns < first->moved_ns))
			first = &t->lane[i];
	return error_set(FTMEM_ETIMEOUT,
	                 "moving stored data: nothing %s %s for %" PRIu32 " ms; is it gone or "
	                 "busy? FTMEM_TIMEOUT_MS sets the deadline",
	                 first && !first->queue->in ? "could be sent to" : "came from",
	                 net_who(t->config->net, first ? first->stream->what->peer : 0).text,
	                 t->config->timeout_ms);
}

static int run(struct transfer *t)
{
	uint64_t deadline = clock_deadline(t->config->timeout_ms);
	struct net_backoff backoff = {0};
	uint32_t open;

	do {
		bool moved = false;

		open = 0;
		for (uint32_t i = 0; i < t->lanes; i++) {
			int rc = transfer_lane_poll(t, &t->lane[i], &moved);

			if (rc < 0)
				return rc;
			open += t->lane[i].stream != NULL;
		}
		if (moved || open == 0) {
			backoff = (struct net_backoff){0};
			deadline = clock_deadline(t->config->timeout_ms);
		} else if (clock_ns() > deadline) {
			return timed_out(t);
		} else {
			net_backoff(&backoff);
		}
	} while (open > 0);
	return 0;
}

static int by_distance(const void *a, const void *b)
{
	const struct stream *x = a, *y = b;

	return (x->distance > y->distance) - (x->distance < y->distance);
}

/* Streams without bytes are left out: both ends know. */
static int queue_fill(struct queue *q, const struct net *net, const struct transfer_stream *list,
                      uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct stream *s = &q->stream[q->count];
		uint32_t peer = list[i].peer;

		if (peer >= net->size || peer == net->rank)
			return error_set(FTMEM_EINVAL,
			                 "rank %" PRIu32 " cannot move data to or from rank "
			                 "%" PRIu32 " of %" PRIu32,
			                 net->rank, peer, net->size);
		*s = (struct stream){.what = &list[i]};
		s->distance = q->in ? net->rank - peer : peer - net->rank;
		if (s->distance >= net->size)
			s->distance += net->size;
		s->messages = transfer_messages(&list[i]);
		if (s->messages > NET_MESSAGE_MAX / sizeof(*s->sums))
			return error_set(FTMEM_EINVAL,
			                 "%" PRIu64 " messages are too many between ranks "
			                 "%" PRIu32 " and %" PRIu32,
			                 s->messages, net->rank, peer);
		q->count += s->messages > 0;
	}
	qsort(q->stream, q->count, sizeof(*q->stream), by_distance);
	for (uint32_t i = 1; i < q->count; i++)
		if (q->stream[i].distance == q->stream[i - 1].distance)
			return error_set(FTMEM_EINVAL, "rank %" PRIu32 " is named twice",
			                 q->stream[i].what->peer);
	return 0;
}

static int queue_init(struct queue *q, const struct net *net, const struct transfer_stream *list,
                      uint32_t count, bool in)
{
	q->in = in;
	q->stream = calloc((size_t)count + 1, sizeof(*q->stream));
	if (!q->stream)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " streams", count);
	return queue_fill(q, net, list, count);
}

static uint64_t queue_messages(const struct queue *q)
{
	uint64_t messages = 0;

	for (uint32_t i = 0; i < q->count; i++)
		messages += q->stream[i].messages;
	return messages;
}

static int sums_init(struct transfer *t)
{
	uint64_t count = queue_messages(&t->out) + 2 * queue_messages(&t->in);
	uint32_t *next;

	t->sums = calloc(count + 1, sizeof(*t->sums));
	if (!t->sums)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu64 " checksums", count);
	next = t->sums;
	for (uint32_t i = 0; i < t->out.count; i++) {
		t->out.stream[i].sums = next;
		next += t->out.stream[i].messages;
	}
	for (uint32_t i = 0; i < t->in.count; i++) {
		t->in.stream[i].sums = next;
		t->in.stream[i].theirs = next + t->in.stream[i].messages;
		next += 2 * t->in.stream[i].messages;
	}
	return 0;
}

static int lanes_init(struct transfer *t)
{
	struct queue *queue[] = {&t->in, &t->out};
	uint8_t *next;

	for (uint32_t i = 0; i < 2; i++)
		for (uint32_t j = 0; j < queue[i]->count && j < TRANSFER_STREAMS; j++)
			t->lane[t->lanes++].queue = queue[i];
	if (t->lanes == 0)
		return 0;
	t->buffer = aligned_alloc(ALIGN, t->lanes * TRANSFER_FLIGHTS * TRANSFER_MESSAGE);
	if (!t->buffer)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu64 " bytes of buffers",
		                 t->lanes * TRANSFER_FLIGHTS * TRANSFER_MESSAGE);
	next = t->buffer;
	for (uint32_t i = 0; i < t->lanes; i++) {
		for (uint32_t j = 0; j < TRANSFER_FLIGHTS; j++, next += TRANSFER_MESSAGE)
			t->lane[i].flight[j].buffer = next;
		transfer_lane_take(&t->lane[i]);
	}
	return 0;
}

static void transfer_free(struct transfer *t)
{
	struct net *net = t->config->net;
	bool active = false;

	for (uint32_t i = 0; i < t->lanes; i++)
		for (uint32_t j = 0; j < TRANSFER_FLIGHTS; j++) {
			active = active || t->lane[i].flight[j].req.active;
			net->ops->cancel(net, &t->lane[i].flight[j].req);
		}
	/* A message that was given up may still touch its memory: it is not reused. */
	if (active) {
		net->lingering = true;
	} else {
		free(t->buffer);
		free(t->sums);
	}
	free(t->in.stream);
	free(t->out.stream);
	free(t);
}

int transfer_run(const struct transfer_config *config, const struct transfer_stream *out,
                 uint32_t outs, const struct transfer_stream *in, uint32_t ins)
{
	struct net *net = config->net;
	struct transfer *t;
	int rc;

	if (net->broken)
		return error_set(FTMEM_ENET, "moving stored data: an earlier collective step did "
		                             "not end; start the job again");
	t = calloc(1, sizeof(*t));
	if (!t) {
		net->broken = true;
		return error_set(FTMEM_ENOMEM, "no memory to move stored data");
	}
	t->config = config;
	rc = queue_init(&t->in, net, in, ins, true);
	if (rc == 0)
		rc = queue_init(&t->out, net, out, outs, false);
	if (rc == 0)
		rc = sums_init(t);
	if (rc == 0)
		rc = lanes_init(t);
	if (rc == 0)
		rc = run(t);
	/* What others sent meanwhile would be taken for another try's. */
	if (rc < 0)
		net->broken = true;
	else
		rc = t->rc;
	transfer_free(t);
	return rc;
}
