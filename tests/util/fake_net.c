/* SPDX-License-Identifier: BSD-3-Clause */
#include "fake_net.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "test_random.h"

#define POISON 0xee
#define HOLDS 16
#define ROUNDS 512

/* A send or receive, from its call until both its end was told and nobody needs it. */
struct op {
	struct op *next;
	uint64_t id;
	uint32_t from, to, tag;
	bool receive, matched;
	bool told;                /* its rank asks no more: it ended, or was cancelled */
	uint64_t bytes;
	const uint8_t *source;    /* of a send: the sender's buffer, or copy */
	uint8_t *copy;            /* owned */
	uint8_t *target;          /* of a receive */
	bool flip;
};

/* The n-th collective call of each rank. */
struct round {
	enum net_reduce op;
	uint64_t bytes;           /* of one rank */
	uint32_t joined, told;    /* bits of ranks */
	bool clash, written;
	uint8_t *in[FAKE_NET_RANKS]; /* owned copies */
	uint8_t *out[FAKE_NET_RANKS];
};

struct pattern {
	uint32_t from, to, tag;
	uint32_t left;            /* messages until the chosen one */
};

struct endpoint {
	struct net net;
	struct fake_net *f;
	uint32_t rounds;
	bool silent, broken;
};

struct fake_net {
	pthread_mutex_t lock;
	struct endpoint end[FAKE_NET_RANKS];
	uint32_t ranks, chance;
	uint64_t random, next_id, messages;
	struct op *first;         /* oldest first */
	struct round round[ROUNDS];
	struct pattern hold[HOLDS];
	uint32_t holds;
	bool hold_collectives, corrupted;
	struct pattern corrupt, cut;
	struct fake_net *given_up; /* next */
};

/* Keeps what was given up reachable for leak checkers. */
static struct fake_net *given_up;

static struct fake_net *world_of(struct net *net)
{
	return ((struct endpoint *)net)->f;
}

static bool matches(const struct pattern *p, uint32_t from, uint32_t to, uint32_t tag)
{
	return (p->from == FAKE_NET_ANY || p->from == from) &&
	       (p->to == FAKE_NET_ANY || p->to == to) && (p->tag == FAKE_NET_ANY || p->tag == tag);
}

/* Counts a message: whether it is the chosen one. */
static bool chosen(struct pattern *p, const struct op *send)
{
	return p->left > 0 && matches(p, send->from, send->to, send->tag) && --p->left == 0;
}

static bool held(const struct fake_net *f, const struct op *o)
{
	if (f->end[o->from].silent || f->end[o->to].silent)
		return true;
	for (uint32_t i = 0; i < f->holds; i++)
		if (matches(&f->hold[i], o->from, o->to, o->tag))
			return true;
	return false;
}

static bool lucky(struct fake_net *f)
{
	return test_random_below(&f->random, 100) < f->chance;
}

static int check_broken(const struct endpoint *e)
{
	return e->broken ? error_set(FTMEM_ENET, "the network of rank %" PRIu32 " is broken",
	                             e->net.rank) : 0;
}

/* --- transfers --- */

/* A second try: the first may be the one that a test made fail. */
static void *get(size_t bytes)
{
	void *p = calloc(1, bytes);

	if (!p)
		p = calloc(1, bytes);
	if (!p)
		abort();
	return p;
}

static struct op *op_new(struct fake_net *f, uint32_t from, uint32_t to, uint32_t tag, size_t bytes)
{
	struct op *o = get(sizeof(*o)), **at = &f->first;

	*o = (struct op){.id = ++f->next_id, .from = from, .to = to, .tag = tag, .bytes = bytes};
	while (*at)
		at = &(*at)->next;
	*at = o;
	return o;
}

static struct op *op_find(struct fake_net *f, uint64_t id)
{
	struct op *o = f->first;

	while (o && o->id != id)
		o = o->next;
	return o;
}

static void op_free(struct fake_net *f, struct op *o)
{
	struct op **at = &f->first;

	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
	free(o->copy);
	free(o);
}

static void buffer(struct op *o)
{
	if (o->copy || o->receive)
		return;
	o->copy = get(o->bytes + 1);
	memcpy(o->copy, o->source, o->bytes);
	o->source = o->copy;
}

static void begin(struct net_req *req, const struct op *o, uint32_t peer)
{
	*req = (struct net_req){{o->id, 0}, peer, true, o->receive, o->bytes};
}

static int check_call(struct net *net, uint32_t peer, uint32_t tag, const struct net_req *req)
{
	if (peer >= net->size || peer == net->rank || tag > net->tag_max || req->active)
		return error_set(FTMEM_ENET,
		                 "rank %" PRIu32 " calls with peer %" PRIu32 ", tag %" PRIu32 "%s",
		                 net->rank, peer, tag, req->active ? ", request in use" : "");
	return 0;
}

static int fake_send(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
                     struct net_req *req)
{
	struct fake_net *f = world_of(net);
	struct op *o;
	int rc;

	pthread_mutex_lock(&f->lock);
	rc = check_broken((struct endpoint *)net);
	if (rc == 0)
		rc = check_call(net, peer, tag, req);
	if (rc == 0) {
		o = op_new(f, net->rank, peer, tag, bytes);
		o->source = buf;
		o->flip = bytes > 0 && chosen(&f->corrupt, o);
		o->bytes -= bytes > 0 && chosen(&f->cut, o);
		begin(req, o, peer);
		f->messages++;
		/* Some networks take a copy at once, some read when the receiver is there. */
		if (test_random_below(&f->random, 2) == 0)
			buffer(o);
	}
	pthread_mutex_unlock(&f->lock);
	return rc;
}

static int fake_recv(struct net *net, uint32_t peer, uint32_t tag, void *buf, size_t bytes,
                     struct net_req *req)
{
	struct fake_net *f = world_of(net);
	struct op *o;
	int rc;

	pthread_mutex_lock(&f->lock);
	rc = check_broken((struct endpoint *)net);
	if (rc == 0)
		rc = check_call(net, peer, tag, req);
	if (rc == 0) {
		o = op_new(f, peer, net->rank, tag, bytes);
		o->receive = true;
		o->target = buf;
		memset(buf, POISON, bytes);
		begin(req, o, peer);
	}
	pthread_mutex_unlock(&f->lock);
	return rc;
}

/* The message that a receive gets: the oldest of its sender and tag, unless an older
 * receive is still to get that one. */
static struct op *message_for(struct fake_net *f, const struct op *recv)
{
	struct op *message = NULL;
	uint32_t before = 0;

	for (struct op *o = f->first; o != recv; o = o->next)
		before += o->receive && !o->told && o->from == recv->from && o->to == recv->to &&
		          o->tag == recv->tag;
	for (struct op *o = f->first; o && !message; o = o->next) {
		if (o->receive || o->matched || o->from != recv->from || o->to != recv->to ||
		    o->tag != recv->tag)
			continue;
		if (before-- == 0)
			message = o;
	}
	return message;
}

/* The sender's request may still have to be told. */
static void deliver(struct fake_net *f, struct op *recv, struct op *send)
{
	memcpy(recv->target, send->source, send->bytes < recv->bytes ? send->bytes : recv->bytes);
	if (send->flip) {
		recv->target[recv->bytes / 2] ^= 4;
		f->corrupted = true;
	}
	send->matched = true;
	if (send->told)
		op_free(f, send);
}

static int test_receive(struct fake_net *f, struct op *o, struct net_req *req)
{
	struct op *send = message_for(f, o);
	uint64_t got;

	if (!send || held(f, o) || !lucky(f))
		return 0;
	got = send->bytes;
	deliver(f, o, send);
	req->active = false;
	op_free(f, o);
	if (got != req->bytes)
		return error_set(FTMEM_ENET,
		                 "rank %" PRIu32 " sent %" PRIu64 " bytes where %" PRIu64
		                 " were expected",
		                 req->peer, got, req->bytes);
	return 0;
}

static void test_send(struct fake_net *f, struct op *o, struct net_req *req)
{
	/* A copy that was taken lets the sender go on, unless its peer is silent. */
	if ((!o->matched && !o->copy) || (!o->matched && held(f, o)) || !lucky(f))
		return;
	req->active = false;
	if (o->matched)
		op_free(f, o);
	else
		o->told = true;
}

static void fake_cancel(struct net *net, struct net_req *req)
{
	struct fake_net *f = world_of(net);
	struct op *o;

	pthread_mutex_lock(&f->lock);
	o = req->active && req->peer != NET_ALL ? op_find(f, req->handle[0]) : NULL;
	if (o && o->matched) {
		op_free(f, o);
	} else if (o) {
		/* A send may still be received. A receive gets nothing more, but stays so
		 * that leak checkers find its buffer. */
		buffer(o);
		o->told = true;
	}
	req->active = false;
	pthread_mutex_unlock(&f->lock);
}

/* --- collectives --- */

static uint64_t reduce_word(enum net_reduce op, uint64_t a, uint64_t b)
{
	switch (op) {
	case NET_MIN: return a < b ? a : b;
	case NET_MAX: return a > b ? a : b;
	default: return a + b;
	}
}

static void write_round(struct fake_net *f, struct round *r)
{
	for (uint32_t i = 0; i < f->ranks && !r->clash; i++) {
		if (!r->out[i])
			continue;
		for (uint32_t j = 0; j < f->ranks; j++) {
			uint64_t a, b;

			for (uint64_t at = 0; at < r->bytes; at += sizeof(a)) {
				memcpy(&a, r->out[i] + at, sizeof(a));
				memcpy(&b, r->in[j] + at, sizeof(b));
				a = j == 0 ? b : reduce_word(r->op, a, b);
				memcpy(r->out[i] + at, &a, sizeof(a));
			}
		}
	}
	r->written = true;
}

/* The last to join writes all results, also those nobody waits for any more. */
static int join(struct net *net, enum net_reduce op, const void *in, uint64_t bytes,
                void *out, struct net_req *req)
{
	struct endpoint *e = (struct endpoint *)net;
	struct fake_net *f = e->f;
	struct round *r = &f->round[e->rounds];
	uint32_t me = net->rank;
	int rc = check_broken(e);

	if (rc < 0)
		return rc;
	if (req->active || e->rounds + 1 == ROUNDS)
		abort();
	if (r->joined == 0)
		*r = (struct round){.op = op, .bytes = bytes};
	r->clash = r->clash || r->op != op || r->bytes != bytes;
	r->in[me] = get(bytes + 1);
	memcpy(r->in[me], in, bytes);
	r->out[me] = out;
	r->joined |= 1u << me;
	*req = (struct net_req){{0, e->rounds++}, NET_ALL, true, false, bytes};
	return 0;
}

static int fake_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                          struct net_req *req)
{
	struct fake_net *f = world_of(net);
	int rc;

	pthread_mutex_lock(&f->lock);
	rc = join(net, op, words, sizeof(*words) * count, words, req);
	pthread_mutex_unlock(&f->lock);
	return rc;
}

static int test_round(struct endpoint *e, struct net_req *req)
{
	struct fake_net *f = e->f;
	struct round *r = &f->round[req->handle[1]];
	bool silent = false;

	for (uint32_t i = 0; i < f->ranks; i++)
		silent = silent || f->end[i].silent;
	if (silent || f->hold_collectives || r->joined != (1u << f->ranks) - 1)
		return 0;
	if (!r->written)
		write_round(f, r);
	if (!lucky(f))
		return 0;
	req->active = false;
	r->told |= 1u << e->net.rank;
	return r->clash ? error_set(FTMEM_ENET, "ranks joined different collective calls") : 0;
}

static int fake_test(struct net *net, struct net_req *req)
{
	struct endpoint *e = (struct endpoint *)net;
	struct fake_net *f = e->f;
	struct op *o;
	int rc;

	pthread_mutex_lock(&f->lock);
	rc = check_broken(e);
	if (rc == 0 && req->peer == NET_ALL) {
		rc = test_round(e, req);
	} else if (rc == 0) {
		o = op_find(f, req->handle[0]);
		if (!o)
			abort();
		if (o->receive)
			rc = test_receive(f, o, req);
		else
			test_send(f, o, req);
	}
	pthread_mutex_unlock(&f->lock);
	return rc;
}

static void fake_free(struct net *net)
{
	(void)net;
}

static const struct net_ops fake_ops = {
	.send = fake_send,
	.recv = fake_recv,
	.allreduce = fake_allreduce,
	.test = fake_test,
	.cancel = fake_cancel,
	.free = fake_free,
};

/* --- life and control --- */

struct fake_net *fake_net_new(uint32_t ranks, uint64_t seed)
{
	struct fake_net *f = get(sizeof(*f));

	if (ranks == 0 || ranks > FAKE_NET_RANKS)
		abort();
	pthread_mutex_init(&f->lock, NULL);
	f->ranks = ranks;
	f->chance = 100;
	f->random = seed;
	for (uint32_t i = 0; i < ranks; i++)
		f->end[i] = (struct endpoint){
			.net = {.ops = &fake_ops,
		                .rank = i,
		                .size = ranks,
		                .tag_max = FAKE_NET_TAG_MAX},
			.f = f,
		};
	return f;
}

static bool in_use(const struct fake_net *f)
{
	bool used = f->first;

	for (uint32_t i = 0; i < ROUNDS; i++)
		used = used || f->round[i].joined != f->round[i].told;
	return used;
}

void fake_net_free(struct fake_net *f)
{
	if (!f)
		return;
	if (in_use(f)) {
		f->given_up = given_up;
		given_up = f;
		return;
	}
	for (uint32_t i = 0; i < f->end[0].rounds; i++)
		for (uint32_t j = 0; j < f->ranks; j++)
			free(f->round[i].in[j]);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

void fake_net_destroy(struct fake_net *f)
{
	if (!f)
		return;
	while (f->first)
		op_free(f, f->first);
	for (uint32_t i = 0; i < ROUNDS; i++)
		for (uint32_t j = 0; f->round[i].joined && j < f->ranks; j++)
			free(f->round[i].in[j]);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

struct net *fake_net_of(struct fake_net *f, uint32_t rank)
{
	return &f->end[rank].net;
}

void fake_net_set_chance(struct fake_net *f, uint32_t percent)
{
	pthread_mutex_lock(&f->lock);
	f->chance = percent;
	pthread_mutex_unlock(&f->lock);
}

void fake_net_hold(struct fake_net *f, uint32_t from, uint32_t to, uint32_t tag)
{
	pthread_mutex_lock(&f->lock);
	if (f->holds == HOLDS)
		abort();
	f->hold[f->holds++] = (struct pattern){from, to, tag, 0};
	pthread_mutex_unlock(&f->lock);
}

void fake_net_hold_collectives(struct fake_net *f)
{
	pthread_mutex_lock(&f->lock);
	f->hold_collectives = true;
	pthread_mutex_unlock(&f->lock);
}

void fake_net_release(struct fake_net *f)
{
	pthread_mutex_lock(&f->lock);
	f->holds = 0;
	f->hold_collectives = false;
	pthread_mutex_unlock(&f->lock);
}

void fake_net_silence(struct fake_net *f, uint32_t rank)
{
	pthread_mutex_lock(&f->lock);
	f->end[rank].silent = true;
	pthread_mutex_unlock(&f->lock);
}

static void end_op(struct fake_net *f, struct op *o, uint32_t rank, bool reached)
{
	if (o->receive && o->to == rank) {
		op_free(f, o);
	} else if (!o->receive && o->from == rank) {
		buffer(o);
		o->told = true;
		if (o->matched || !reached)
			op_free(f, o);
	}
}

void fake_net_end(struct fake_net *f, uint32_t rank, bool reached)
{
	struct op *next;

	pthread_mutex_lock(&f->lock);
	for (struct op *o = f->first; o; o = next) {
		next = o->next;
		end_op(f, o, rank, reached);
	}
	for (uint32_t i = 0; i < f->end[rank].rounds; i++) {
		struct round *r = &f->round[i];

		r->out[rank] = NULL;
		if (r->written || reached)
			continue;
		r->joined &= ~(1u << rank);
		free(r->in[rank]);
		r->in[rank] = NULL;
	}
	pthread_mutex_unlock(&f->lock);
}

void fake_net_break(struct fake_net *f, uint32_t rank)
{
	pthread_mutex_lock(&f->lock);
	f->end[rank].broken = true;
	pthread_mutex_unlock(&f->lock);
}

void fake_net_corrupt(struct fake_net *f, uint32_t from, uint32_t to, uint32_t tag, uint32_t n)
{
	pthread_mutex_lock(&f->lock);
	f->corrupt = (struct pattern){from, to, tag, n};
	f->corrupted = false;
	pthread_mutex_unlock(&f->lock);
}

bool fake_net_corrupted(struct fake_net *f)
{
	bool corrupted;

	pthread_mutex_lock(&f->lock);
	corrupted = f->corrupted;
	pthread_mutex_unlock(&f->lock);
	return corrupted;
}

void fake_net_cut(struct fake_net *f, uint32_t from, uint32_t to, uint32_t tag, uint32_t n)
{
	pthread_mutex_lock(&f->lock);
	f->cut = (struct pattern){from, to, tag, n};
	pthread_mutex_unlock(&f->lock);
}

uint32_t fake_net_under_way(struct fake_net *f)
{
	uint32_t count = 0;

	pthread_mutex_lock(&f->lock);
	for (const struct op *o = f->first; o; o = o->next)
		count += !o->told;
	pthread_mutex_unlock(&f->lock);
	return count;
}

uint32_t fake_net_unreceived(struct fake_net *f)
{
	uint32_t count = 0;

	pthread_mutex_lock(&f->lock);
	for (const struct op *o = f->first; o; o = o->next)
		count += !o->receive && !o->matched;
	pthread_mutex_unlock(&f->lock);
	return count;
}

uint64_t fake_net_messages(struct fake_net *f)
{
	uint64_t messages;

	pthread_mutex_lock(&f->lock);
	messages = f->messages;
	pthread_mutex_unlock(&f->lock);
	return messages;
}

uint32_t fake_net_joined(struct fake_net *f, uint32_t rank)
{
	uint32_t joined;

	pthread_mutex_lock(&f->lock);
	joined = f->end[rank].rounds;
	pthread_mutex_unlock(&f->lock);
	return joined;
}
