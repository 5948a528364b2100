/* SPDX-License-Identifier: BSD-3-Clause */
#include "stripe.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "clock.h"
#include "ec/codec.h"
#include "error.h"
#include "tags.h"

struct intent {
	uint64_t version;
	uint64_t go;
};

struct trailer {
	uint64_t version;
	uint32_t good, count;
	uint32_t sum, reserved;       /* checksum of it all with this field 0 */
	uint32_t sums[];
};

enum phase { PHASE_TELL, PHASE_MOVE, PHASE_OVER };

/* One other member. */
struct peer {
	struct intent intent;
	struct net_req intent_send, intent_recv;
	struct trailer *trailer;      /* received */
	struct net_req trailer_send, trailer_recv;
};

/* One row of blocks in flight. */
struct row {
	struct net_req *send;         /* [(n - 1) * m] */
	struct net_req *recv;         /* [m * k] */
	uint32_t sends, recvs;        /* active */
	uint32_t left[RAIL_MAX];      /* per parity row: blocks still to come */
	uint8_t *staging;             /* [m * k] blocks */
};

struct stripe {
	struct stripe_config config;
	const struct rail *rail;
	uint32_t me, n, k, m, rows, own_rows;
	struct codec *codec;
	struct peer *peer;            /* [n], own unused */
	struct row *row;              /* [window] */
	uint8_t *staging, *zeros;
	uint64_t staging_bytes;
	struct intent own_intent;
	struct trailer *own_trailer;

	enum phase phase;
	enum stripe_state state;
	struct slot *slot;
	const struct copy_job *job;
	uint32_t send_row, send_step; /* cursor: row, position in the row */
	uint32_t recv_row;            /* next row to post */
	uint32_t encode_row;          /* rows below it are encoded */
	bool told, sealed, damaged;
};

static bool has_data(const struct stripe *s)
{
	return s->rail->data_bytes[s->me] > 0;
}

static size_t trailer_bytes(const struct stripe *s, uint32_t member)
{
	return sizeof(struct trailer) + sizeof(uint32_t) * rail_data_blocks(s->rail, member);
}

static uint32_t *sum_at(const struct stripe *s, uint32_t member, uint32_t chunk, uint32_t row)
{
	return s->slot->sums + slot_data_sum_index(s->config.shape, s->config.rail, member, chunk, row);
}

static int alloc_peers(struct stripe *s)
{
	s->peer = calloc(s->n, sizeof(*s->peer));
	s->own_trailer = calloc(1, trailer_bytes(s, s->me));
	if (!s->peer || !s->own_trailer)
		return FTMEM_ENOMEM;
	s->staging_bytes += trailer_bytes(s, s->me);
	for (uint32_t i = 0; i < s->n; i++) {
		if (i == s->me)
			continue;
		s->peer[i].trailer = calloc(1, trailer_bytes(s, i));
		if (!s->peer[i].trailer)
			return FTMEM_ENOMEM;
		s->staging_bytes += trailer_bytes(s, i);
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
	s->staging_bytes += bytes;
	for (uint32_t w = 0; w < s->config.window; w++) {
		struct row *r = &s->row[w];

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
	if (tag_exchange(rail->id, TAG_TRAILER) > config->net->tag_max)
		return error_set(FTMEM_ENET, "rail %" PRIu32 " needs a message tag beyond this MPI's "
		                 "limit of %" PRIu32, rail->id, config->net->tag_max);
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
	s->own_intent = (struct intent){version, go};
	s->slot = slot;
	s->job = job;
	s->phase = PHASE_TELL;
	s->state = STRIPE_RUNNING;
	s->send_row = s->send_step = s->recv_row = s->encode_row = 0;
	s->told = s->sealed = s->damaged = false;
}

/* --- tell --- */

static int post_intents(struct stripe *s)
{
	struct net *net = s->config.net;
	uint32_t tag = tag_exchange(s->rail->id, TAG_INTENT);
	int rc = 0;

	for (uint32_t t = 1; rc == 0 && t < s->n; t++) {
		uint32_t i = (s->me + t) % s->n;
		struct peer *p = &s->peer[i];

		rc = net_recv(net, s->rail->rank[i], tag, &p->intent, sizeof(p->intent), &p->intent_recv);
		if (rc == 0)
			rc = net_send(net, s->rail->rank[i], tag, &s->own_intent, sizeof(s->own_intent),
			              &p->intent_send);
	}
	return rc;
}

static int test_req(struct stripe *s, struct net_req *req, uint32_t *done, uint32_t *active)
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

static bool all_go(const struct stripe *s)
{
	bool go = s->own_intent.go;

	for (uint32_t i = 0; i < s->n; i++) {
		const struct intent *other = &s->peer[i].intent;

		if (i == s->me)
			continue;
		if (other->version != s->own_intent.version)
			log_line(s->config.log, FTMEM_LOG_ERROR,
			         "rank %" PRIu32 " snapshots version %" PRIu64 " while this rank snapshots %"
			         PRIu64 ": all ranks must pass the same versions; both are dropped",
			         s->rail->rank[i], other->version, s->own_intent.version);
		go = go && other->go && other->version == s->own_intent.version;
	}
	return go;
}

static int post_trailer_recvs(struct stripe *s)
{
	uint32_t tag = tag_exchange(s->rail->id, TAG_TRAILER);
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < s->n; i++)
		if (i != s->me)
			rc = net_recv(s->config.net, s->rail->rank[i], tag, s->peer[i].trailer,
			              trailer_bytes(s, i), &s->peer[i].trailer_recv);
	return rc;
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
		rc = test_req(s, &s->peer[i].intent_send, &done, &active);
		if (rc == 0)
			rc = test_req(s, &s->peer[i].intent_recv, &done, &active);
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
	rc = post_trailer_recvs(s);
	return rc < 0 ? rc : 1;
}

/* --- move: receive and encode --- */

/* The stripe of an own parity row, and the member of its data block d. */
static uint32_t source_of(const struct stripe *s, uint32_t j, uint32_t d)
{
	return rail_member_of_code(s->rail, rail_stripe_of_parity(s->rail, s->me, j), d);
}

static void encode(struct stripe *s, uint32_t b, uint32_t j)
{
	const struct row *r = &s->row[b % s->config.window];
	uint32_t len = rail_parity_len(s->rail, b);
	uint8_t *dst = slot_parity(s->slot, s->config.rail, j) + (uint64_t)b * s->rail->block_bytes;
	const uint8_t *src[RAIL_MAX];

	for (uint32_t d = 0; d < s->k; d++) {
		bool present = rail_data_len(s->rail, source_of(s, j, d), d, b) > 0;

		src[d] = present ? r->staging + (uint64_t)(j * s->k + d) * s->rail->block_bytes : s->zeros;
	}
	codec_encode(s->codec, j, len, src, dst);
	s->slot->sums[slot_parity_sum_index(s->config.shape, s->config.rail, j, b)] =
		checksum(dst, len);
}

static int post_row(struct stripe *s, uint32_t b)
{
	struct row *r = &s->row[b % s->config.window];
	uint32_t tag = tag_exchange(s->rail->id, TAG_BLOCK);

	memset(r->left, 0, sizeof(r->left));
	/* Per sender in the order in which it sends: by parity row. */
	for (uint32_t j = 0; j < s->m; j++) {
		for (uint32_t d = 0; d < s->k; d++) {
			uint32_t member = source_of(s, j, d);
			uint32_t len = rail_data_len(s->rail, member, d, b);
			int rc;

			if (len == 0)
				continue;
			rc = net_recv(s->config.net, s->rail->rank[member], tag,
			              r->staging + (uint64_t)(j * s->k + d) * s->rail->block_bytes, len,
			              &r->recv[j * s->k + d]);
			if (rc < 0)
				return rc;
			r->left[j]++;
			r->recvs++;
		}
		/* Nobody has data in this row of the stripe: its parity is known. */
		if (r->left[j] == 0)
			encode(s, b, j);
	}
	return 0;
}

/* A block has arrived: its checksum, and zeros up to the length of the row. */
static void take_block(struct stripe *s, uint32_t b, uint32_t j, uint32_t d)
{
	struct row *r = &s->row[b % s->config.window];
	uint32_t member = source_of(s, j, d);
	uint32_t len = rail_data_len(s->rail, member, d, b), row_len = rail_parity_len(s->rail, b);
	uint8_t *block = r->staging + (uint64_t)(j * s->k + d) * s->rail->block_bytes;

	*sum_at(s, member, d, b) = checksum(block, len);
	memset(block + len, 0, row_len - len);
	r->left[j]--;
	r->recvs--;
}

static int step_receive_row(struct stripe *s, uint32_t b, bool *progress)
{
	struct row *r = &s->row[b % s->config.window];

	for (uint32_t j = 0; r->recvs > 0 && j < s->m; j++) {
		for (uint32_t d = 0; r->left[j] > 0 && d < s->k; d++) {
			struct net_req *req = &r->recv[j * s->k + d];
			int rc;

			if (!req->active)
				continue;
			rc = net_test(s->config.net, req);
			if (rc < 0)
				return rc;
			if (req->active)
				continue;
			*progress = true;
			take_block(s, b, j, d);
			if (r->left[j] == 0)
				encode(s, b, j);
		}
	}
	return 0;
}

static int step_receive(struct stripe *s, bool *progress)
{
	int rc = 0;

	while (rc == 0 && s->recv_row < s->rows && s->recv_row < s->encode_row + s->config.window) {
		rc = post_row(s, s->recv_row++);
		*progress = true;
	}
	for (uint32_t b = s->encode_row; rc == 0 && b < s->recv_row; b++)
		rc = step_receive_row(s, b, progress);
	while (s->encode_row < s->recv_row && s->row[s->encode_row % s->config.window].recvs == 0)
		s->encode_row++;
	return rc;
}

/* --- move: send --- */

/* 1 sent or nothing to send at this position, 0 not yet. */
static int send_one(struct stripe *s)
{
	struct row *r = &s->row[s->send_row % s->config.window];
	uint32_t member = (s->me + 1 + s->send_step / s->m) % s->n, j = s->send_step % s->m;
	uint32_t stripe = rail_stripe_of_parity(s->rail, member, j);
	uint32_t chunk, len;
	int rc;

	if (rail_is_parity(s->rail, stripe, s->me))
		return 1;
	chunk = rail_chunk(s->rail, stripe, s->me);
	len = rail_data_len(s->rail, s->me, chunk, s->send_row);
	if (len == 0)
		return 1;
	if (atomic_load_explicit(&s->job->landed[copy_plan_index(s->rail, s->me, chunk, s->send_row)],
	                         memory_order_acquire) == COPY_PENDING)
		return 0;
	if (!limiter_allows(s->config.limiter, clock_ns()))
		return 0;
	rc = net_send(s->config.net, s->rail->rank[member], tag_exchange(s->rail->id, TAG_BLOCK),
	              s->slot->data + rail_data_offset(s->rail, s->me, chunk, s->send_row), len,
	              &r->send[s->send_step]);
	if (rc < 0)
		return rc;
	limiter_spend(s->config.limiter, len);
	r->sends++;
	return 1;
}

static int test_sends(struct stripe *s, bool *progress)
{
	for (uint32_t w = 0; w < s->config.window; w++) {
		struct row *r = &s->row[w];

		for (uint32_t i = 0; r->sends > 0 && i < (s->n - 1) * s->m; i++) {
			int rc;

			if (!r->send[i].active)
				continue;
			rc = net_test(s->config.net, &r->send[i]);
			if (rc < 0)
				return rc;
			if (!r->send[i].active) {
				r->sends--;
				*progress = true;
			}
		}
	}
	return 0;
}

static int step_send(struct stripe *s, bool *progress)
{
	uint32_t steps = (s->n - 1) * s->m;
	int rc = test_sends(s, progress);

	while (rc == 0 && s->send_row < s->own_rows) {
		/* The first block of a row waits until the window has moved past it. */
		if (s->send_step == 0 && s->row[s->send_row % s->config.window].sends > 0)
			break;
		rc = send_one(s);
		if (rc <= 0)
			break;
		rc = 0;
		*progress = true;
		if (++s->send_step == steps) {
			s->send_step = 0;
			s->send_row++;
		}
	}
	return rc;
}

/* --- seal --- */

/* 1 all blocks landed, -1 one failed, 0 not yet. */
static int own_copy(const struct stripe *s)
{
	int verdict = 1;

	for (uint32_t i = 0; s->job && i < s->job->plan->blocks; i++) {
		switch (atomic_load_explicit(&s->job->landed[i], memory_order_acquire)) {
		case COPY_PENDING:
			return 0;
		case COPY_FAILED:
			verdict = -1;
			break;
		default:
			break;
		}
	}
	return verdict;
}

static int send_trailers(struct stripe *s, bool *progress)
{
	uint32_t tag = tag_exchange(s->rail->id, TAG_TRAILER), count = rail_data_blocks(s->rail, s->me);
	int good, rc = 0;

	/* Rows that were sent have landed; without peers nothing is sent. */
	if (s->sealed || (s->m > 0 && s->send_row < s->own_rows))
		return 0;
	good = own_copy(s);
	if (good == 0)
		return 0;
	s->sealed = true;
	s->damaged = s->damaged || good < 0;
	*progress = true;
	s->own_trailer->version = s->own_intent.version;
	s->own_trailer->good = good > 0;
	s->own_trailer->count = count;
	if (count > 0)
		memcpy(s->own_trailer->sums, sum_at(s, s->me, 0, 0), count * sizeof(uint32_t));
	s->own_trailer->sum = 0;
	s->own_trailer->sum = checksum(s->own_trailer, trailer_bytes(s, s->me));
	for (uint32_t t = 1; rc == 0 && t < s->n; t++) {
		uint32_t i = (s->me + t) % s->n;

		rc = net_send(s->config.net, s->rail->rank[i], tag, s->own_trailer,
		              trailer_bytes(s, s->me), &s->peer[i].trailer_send);
	}
	return rc;
}

/* Most of its checksums are of blocks that did not come here: nothing else tells
 * whether they are right. */
static bool trailer_fits(const struct stripe *s, uint32_t member)
{
	struct trailer *t = s->peer[member].trailer;
	uint32_t sum = t->sum;

	t->sum = 0;
	t->sum = checksum(t, trailer_bytes(s, member));
	return t->sum == sum;
}

/* Compares what arrived from member with the checksums it took when it copied. */
static void check_trailer(struct stripe *s, uint32_t member)
{
	const struct trailer *t = s->peer[member].trailer;
	uint32_t rows = rail_chunk_rows(s->rail, member);

	if (!trailer_fits(s, member) || t->version != s->own_intent.version ||
	    t->count != rail_data_blocks(s->rail, member)) {
		log_line(s->config.log, FTMEM_LOG_ERROR, "rank %" PRIu32 " sealed another version or layout, "
		         "or its checksums were damaged on their way", s->rail->rank[member]);
		s->damaged = true;
		return;
	}
	if (!t->good) {
		s->damaged = true;
		return;
	}
	for (uint32_t j = 0; j < s->m; j++) {
		uint32_t stripe = rail_stripe_of_parity(s->rail, s->me, j), chunk;

		if (rail_is_parity(s->rail, stripe, member) || rows == 0)
			continue;
		chunk = rail_chunk(s->rail, stripe, member);
		for (uint32_t b = 0; b < rows; b++) {
			if (rail_data_len(s->rail, member, chunk, b) == 0 ||
			    *sum_at(s, member, chunk, b) == t->sums[chunk * rows + b])
				continue;
			log_line(s->config.log, FTMEM_LOG_ERROR, "a block of rank %" PRIu32 " was damaged on "
			         "its way: version %" PRIu64 " is dropped", s->rail->rank[member],
			         s->own_intent.version);
			s->damaged = true;
			return;
		}
	}
	if (t->count > 0)
		memcpy(sum_at(s, member, 0, 0), t->sums, t->count * sizeof(uint32_t));
}

static int step_seal(struct stripe *s, bool *progress, uint32_t *active)
{
	uint32_t done = 0;
	int rc = send_trailers(s, progress);

	/* Received trailers wait until the blocks they speak of are there. */
	for (uint32_t i = 0; rc == 0 && i < s->n; i++) {
		rc = test_req(s, &s->peer[i].trailer_send, &done, active);
		if (rc == 0)
			rc = test_req(s, &s->peer[i].trailer_recv, &done, active);
	}
	*progress = *progress || done > 0;
	return rc;
}

static int step_move(struct stripe *s)
{
	bool progress = false;
	uint32_t active = 0;
	int rc = 0;

	if (s->m > 0)
		rc = step_receive(s, &progress);
	if (rc == 0 && s->m > 0 && has_data(s))
		rc = step_send(s, &progress);
	if (rc == 0)
		rc = step_seal(s, &progress, &active);
	if (rc < 0)
		return rc;
	for (uint32_t w = 0; s->m > 0 && w < s->config.window; w++)
		active += s->row[w].sends;
	if (!s->sealed || active > 0 || (s->m > 0 && s->encode_row < s->rows))
		return progress;
	for (uint32_t i = 0; i < s->n; i++)
		if (i != s->me)
			check_trailer(s, i);
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
		rank = peer_of(i < s->n ? &s->peer[i].intent_recv : &s->peer[i - s->n].intent_send, 1);
	for (uint32_t b = s->encode_row; rank < 0 && b < s->recv_row; b++)
		rank = peer_of(s->row[b % window].recv, s->m * s->k);
	for (uint32_t w = 0; rank < 0 && s->m > 0 && w < window; w++)
		rank = peer_of(s->row[(s->send_row + w) % window].send, (s->n - 1) * s->m);
	for (uint32_t i = 0; rank < 0 && i < 2 * s->n; i++)
		rank = peer_of(i < s->n ? &s->peer[i].trailer_recv : &s->peer[i - s->n].trailer_send, 1);
	return rank;
}
