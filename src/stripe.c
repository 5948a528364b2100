/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "ec/codec.h"
#include "error.h"
#include "stripe_impl.h"

static bool has_data(const struct stripe *s)
{
	return s->rail->data_bytes[s->me] > 0;
}

static int alloc_peers(struct stripe *s)
{
	s->peer = calloc(s->n, sizeof(*s->peer));
	s->own_trailer = calloc(1, stripe_trailer_bytes(s, s->me));
	if (!s->peer || !s->own_trailer)
		return FTMEM_ENOMEM;
	s->staging_bytes += stripe_trailer_bytes(s, s->me);
	for (uint32_t i = 0; i < s->n; i++) {
		if (i == s->me)
			continue;
		s->peer[i].trailer = calloc(1, stripe_trailer_bytes(s, i));
		if (!s->peer[i].trailer)
			return FTMEM_ENOMEM;
		s->staging_bytes += stripe_trailer_bytes(s, i);
	}
	return 0;
}

static int alloc_rows(struct stripe *s)
{
	uint64_t block = s->rail->block_bytes, per_row = (uint64_t)s->m * s->k * block;
	uint64_t bytes = s->config.window * per_row + block;

	s->row = calloc(s->config.window, sizeof(*s->row));
	s->staging = aligned_alloc(ARENA_PAGE, bytes);
	if (!s->row || !s->staging)
		return FTMEM_ENOMEM;
	memset(s->staging, 0, bytes); /* taken now, not in the middle of a snapshot */
	s->zeros = s->staging + bytes - block;
	s->zeros_sum = checksum(s->zeros, block);
	s->staging_bytes += bytes;
	for (uint32_t w = 0; w < s->config.window; w++) {
		struct stripe_row *r = &s->row[w];

		r->send = calloc((size_t)(s->n - 1) * s->m, sizeof(*r->send));
		r->recv = calloc((size_t)s->m * s->k, sizeof(*r->recv));
		r->staging = s->staging + w * per_row;
		if (!r->send || !r->recv)
			return FTMEM_ENOMEM;
	}
	return 0;
}

int stripe_new(const struct stripe_config *config, struct stripe **out)
{
	const struct rail *rail = &config->shape->rail[config->rail];
	struct stripe *s = NULL;
	int rc = FTMEM_ENOMEM;

	*out = NULL;
	if (tag_rail(rail->id, TAG_SUMS) > config->net->tag_max)
		return error_set(FTMEM_ENET,
		                 "rail %" PRIu32 " needs a message tag beyond this MPI's "
		                 "limit of %" PRIu32,
		                 rail->id, config->net->tag_max);
	s = calloc(1, sizeof(*s));
	if (!s)
		goto fail;
	s->config = *config;
	s->rail = rail;
	s->me = config->shape->member[config->rail];
	s->n = rail->n;
	s->m = rail->m;
	s->k = rail_k(rail);
	s->rows = rail_rows(rail);
	s->own_rows = rail_chunk_rows(rail, s->me);
	s->phase = PHASE_OVER;
	rc = alloc_peers(s);
	if (rc == 0 && s->m > 0)
		rc = alloc_rows(s);
	if (rc == 0 && s->m > 0)
		rc = codec_new(s->k, s->m, &s->codec);
	if (rc < 0)
		goto fail;
	*out = s;
	return 0;
fail:
	stripe_free(s);
	return error_set(rc, "no memory for the exchange buffers of rail %" PRIu32, rail->id);
}

static void each_req(struct stripe *s, void (*fn)(struct stripe *s, struct net_req *req, void *arg),
                     void *arg)
{
	for (uint32_t i = 0; s->peer && i < s->n; i++) {
		fn(s, &s->peer[i].intent_send, arg);
		fn(s, &s->peer[i].intent_recv, arg);
		fn(s, &s->peer[i].trailer_send, arg);
		fn(s, &s->peer[i].trailer_recv, arg);
	}
	for (uint32_t w = 0; s->row && w < s->config.window; w++) {
		for (uint32_t i = 0; s->row[w].send && i < (s->n - 1) * s->m; i++)
			fn(s, &s->row[w].send[i], arg);
		for (uint32_t i = 0; s->row[w].recv && i < s->m * s->k; i++)
			fn(s, &s->row[w].recv[i], arg);
	}
}

static void count_active(struct stripe *s, struct net_req *req, void *arg)
{
	(void)s;
	*(uint32_t *)arg += req->active;
}

static void cancel_req(struct stripe *s, struct net_req *req, void *arg)
{
	(void)arg;
	s->config.net->ops->cancel(s->config.net, req);
}

bool stripe_busy(const struct stripe *s)
{
	uint32_t active = 0;

	each_req((struct stripe *)s, count_active, &active);
	return active > 0;
}

void stripe_free(struct stripe *s)
{
	if (!s)
		return;
	/* What MPI may still write into is not given back to the allocator. */
	if (stripe_busy(s)) {
		each_req(s, cancel_req, NULL);
		return;
	}
	for (uint32_t i = 0; s->peer && i < s->n; i++)
		free(s->peer[i].trailer);
	for (uint32_t w = 0; s->row && w < s->config.window; w++) {
		free(s->row[w].send);
		free(s->row[w].recv);
	}
	free(s->peer);
	free(s->row);
	free(s->staging);
	free(s->own_trailer);
	codec_free(s->codec);
	free(s);
}

uint64_t stripe_staging_bytes(const struct stripe *s)
{
	return s->staging_bytes;
}

void stripe_begin(struct stripe *s, uint64_t version, bool go, struct slot *slot,
                  const struct copy_job *job)
{
	s->own_intent = (struct stripe_intent){version, go};
	s->slot = slot;
	s->job = job;
	s->phase = PHASE_TELL;
	s->state = STRIPE_RUNNING;
	s->send_row = s->send_step = s->recv_row = s->encode_row = 0;
	s->told = s->sealed = s->damaged = false;
}

int stripe_test(struct stripe *s, struct net_req *req, uint32_t *done, uint32_t *active)
{
	int rc;

	if (!req->active)
		return 0;
	rc = net_test(s->config.net, req);
	if (rc < 0)
		return rc;
	*(req->active ? active : done) += 1;
	return 0;
}

/* --- tell --- */

static int post_intents(struct stripe *s)
{
	struct net *net = s->config.net;
	uint32_t tag = tag_rail(s->rail->id, TAG_INTENT);
	int rc = 0;

	for (uint32_t t = 1; rc == 0 && t < s->n; t++) {
		uint32_t i = (s->me + t) % s->n;
		struct stripe_peer *p = &s->peer[i];

		rc = net_recv(net, s->rail->rank[i], tag, &p->intent, sizeof(p->intent),
		              &p->intent_recv);
		if (rc == 0)
			rc = net_send(net, s->rail->rank[i], tag, &s->own_intent,
			              sizeof(s->own_intent), &p->intent_send);
	}
	return rc;
}

static bool all_go(const struct stripe *s)
{
	bool go = s->own_intent.go;

	for (uint32_t i = 0; i < s->n; i++) {
		const struct stripe_intent *other = &s->peer[i].intent;

		if (i == s->me)
			continue;
		if (other->version != s->own_intent.version)
			log_line(s->config.log, FTMEM_LOG_ERROR,
			         "rank %" PRIu32 " snapshots version %" PRIu64
			         " while this rank snapshots %" PRIu64
			         ": all ranks must pass the same versions; both are dropped",
			         s->rail->rank[i], other->version, s->own_intent.version);
		go = go && other->go && other->version == s->own_intent.version;
	}
	return go;
}

static int step_tell(struct stripe *s)
{
	uint32_t done = 0, active = 0;
	int rc = 0;

	if (!s->told) {
		s->told = true;
		rc = post_intents(s);
		if (rc < 0)
			return rc;
		done = 1;
	}
	for (uint32_t i = 0; i < s->n; i++) {
		rc = stripe_test(s, &s->peer[i].intent_send, &done, &active);
		if (rc == 0)
			rc = stripe_test(s, &s->peer[i].intent_recv, &done, &active);
		if (rc < 0)
			return rc;
	}
	if (active > 0)
		return done > 0;
	if (!all_go(s)) {
		s->phase = PHASE_OVER;
		s->state = STRIPE_DISSENTED;
		return 1;
	}
	s->phase = PHASE_MOVE;
	rc = stripe_seal_begin(s);
	return rc < 0 ? rc : 1;
}

/* --- all parts in their order --- */

static int step_move(struct stripe *s)
{
	bool progress = false;
	uint32_t active = 0;
	int rc = 0;

	if (s->m > 0)
		rc = stripe_receive(s, &progress);
	if (rc == 0 && s->m > 0 && has_data(s))
		rc = stripe_send(s, &progress);
	if (rc == 0)
		rc = stripe_seal(s, &progress, &active);
	if (rc < 0)
		return rc;
	for (uint32_t w = 0; s->m > 0 && w < s->config.window; w++)
		active += s->row[w].sends;
	if (!s->sealed || active > 0 || (s->m > 0 && s->encode_row < s->rows))
		return progress;
	for (uint32_t i = 0; i < s->n; i++)
		if (i != s->me)
			stripe_check(s, i);
	s->phase = PHASE_OVER;
	s->state = s->damaged ? STRIPE_FAILED : STRIPE_COMPLETE;
	return 1;
}

int stripe_step(struct stripe *s)
{
	switch (s->phase) {
	case PHASE_TELL:
		return step_tell(s);
	case PHASE_MOVE:
		return step_move(s);
	default:
		return 0;
	}
}

enum stripe_state stripe_state(const struct stripe *s)
{
	return s->state;
}

static int64_t peer_of(const struct net_req *req, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (req[i].active)
			return req[i].peer;
	return -1;
}

/* Who stalls is more likely behind the oldest row than behind a trailer, for which all
 * wait until the last row is through. */
int64_t stripe_waits_for(const struct stripe *s)
{
	uint32_t window = s->config.window;
	int64_t rank = -1;

	for (uint32_t i = 0; rank < 0 && i < 2 * s->n; i++)
		rank = peer_of(i < s->n ? &s->peer[i].intent_recv : &s->peer[i - s->n].intent_send,
		               1);
	for (uint32_t b = s->encode_row; rank < 0 && b < s->recv_row; b++)
		rank = peer_of(s->row[b % window].recv, s->m * s->k);
	for (uint32_t w = 0; rank < 0 && s->m > 0 && w < window; w++)
		rank = peer_of(s->row[(s->send_row + w) % window].send, (s->n - 1) * s->m);
	for (uint32_t i = 0; rank < 0 && i < 2 * s->n; i++)
		rank = peer_of(
			i < s->n ? &s->peer[i].trailer_recv : &s->peer[i - s->n].trailer_send, 1);
	return rank;
}
