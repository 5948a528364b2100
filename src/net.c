/* SPDX-License-Identifier: BSD-3-Clause */
#include "net.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"

/*
 * Fruitless looks before a waiter sleeps: a look costs up to a system call, and where
 * threads outnumber cores each is taken from someone who has something to do. It does not
 * yield: that gives a whole time slice to a trainer that computes, and a waiter's blocks
 * then come milliseconds apart, while who wakes from a sleep comes first.
 */
#define SPINS 8
/* It sleeps longer and longer, from what a block takes to come to what a waiter may cost: a
 * look and a change of threads, 30 us or so, each 8 ms. */
#define SLEEP_LEAST_NS UINT64_C(20000)
#define SLEEP_MOST_NS  UINT64_C(8000000)
/* Sleeps of each length. */
#define SLEEPS 16

int net_send(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
             struct net_req *req)
{
	int rc = net->ops->send(net, peer, tag, buf, bytes, req);

	if (rc == 0)
		atomic_fetch_add_explicit(&net->sent_bytes, bytes, memory_order_relaxed);
	return rc;
}

int net_recv(struct net *net, uint32_t peer, uint32_t tag, void *buf, size_t bytes,
             struct net_req *req)
{
	return net->ops->recv(net, peer, tag, buf, bytes, req);
}

int net_test(struct net *net, struct net_req *req)
{
	return req->active ? net->ops->test(net, req) : 0;
}

void net_free(struct net *net)
{
	if (net)
		net->ops->free(net);
}

void net_backoff(struct net_backoff *b)
{
	uint64_t ns = SLEEP_LEAST_NS;

	if (b->idle < UINT32_MAX)
		b->idle++;
	if (b->idle <= SPINS)
		return;
	for (uint32_t turn = (b->idle - SPINS) / SLEEPS; turn > 0 && ns < SLEEP_MOST_NS; turn--)
		ns *= 2;
	clock_sleep(ns < SLEEP_MOST_NS ? ns : SLEEP_MOST_NS);
}

static int timed_out(const struct net_req *req, const char *what)
{
	if (req->peer == NET_ALL)
		return error_set(FTMEM_ETIMEOUT,
		                 "%s: not every rank joined before the deadline; is one of them "
		                 "gone or busy? FTMEM_TIMEOUT_MS sets the deadline", what);
	return error_set(FTMEM_ETIMEOUT, "%s: no answer from rank %" PRIu32 " before the deadline",
	                 what, req->peer);
}

int net_wait(struct net *net, struct net_req *req, uint64_t deadline_ns, const char *what)
{
	struct net_backoff backoff = {0};
	int rc;

	while (req->active) {
		rc = net_test(net, req);
		if (rc < 0)
			return rc;
		if (!req->active)
			break;
		if (clock_ns() > deadline_ns)
			return timed_out(req, what);
		net_backoff(&backoff);
	}
	return 0;
}

static int check_usable(const struct net *net, const char *what)
{
	return net->broken ? error_set(FTMEM_ENET,
	                               "%s: an earlier collective step did not end; start "
	                               "the job again",
	                               what)
	                   : 0;
}

/* A collective that was not joined or did not end leaves the network unusable: later
 * calls would match the wrong ones on other ranks. Its memory is left to MPI. */
static int collected(struct net *net, struct net_req *req, void *copy, int rc)
{
	if (rc < 0)
		net->broken = true;
	if (req->active)
		net->ops->cancel(net, req);
	else
		free(copy);
	return rc;
}

int net_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                  uint64_t deadline_ns, const char *what)
{
	size_t bytes = sizeof(*words) * count;
	struct net_req req = {0};
	uint64_t *copy = malloc(bytes ? bytes : 1);
	int rc = check_usable(net, what);

	if (rc == 0 && !copy)
		rc = error_set(FTMEM_ENOMEM, "%s: no memory for %zu bytes", what, bytes);
	if (rc == 0) {
		memcpy(copy, words, bytes);
		rc = net->ops->allreduce(net, copy, count, op, &req);
	}
	if (rc == 0)
		rc = net_wait(net, &req, deadline_ns, what);
	if (rc == 0)
		memcpy(words, copy, bytes);
	return collected(net, &req, copy, rc);
}

/* Rows of an all-gather, first in the order of ranks from this one on. */
struct spread {
	struct net_req send, recv;
	uint8_t rows[];
};

/* Hands the rows that it has to the rank that many before it, gets those that follow. */
static int spread_round(struct net *net, struct spread *s, uint32_t have, size_t bytes,
                        size_t take, uint64_t deadline_ns, const char *what)
{
	uint32_t from = (uint32_t)(((uint64_t)net->rank + have) % net->size);
	uint32_t to = (uint32_t)(((uint64_t)net->rank + net->size - have) % net->size);
	int rc = net_recv(net, from, NET_TAG, s->rows + have * bytes, take, &s->recv);

	if (rc == 0)
		rc = net_send(net, to, NET_TAG, s->rows, take, &s->send);
	if (rc == 0)
		rc = net_wait(net, &s->recv, deadline_ns, what);
	if (rc == 0)
		rc = net_wait(net, &s->send, deadline_ns, what);
	/* Who is waited for may itself wait for the one that is missing. */
	return rc == FTMEM_ETIMEOUT ? timed_out(&(struct net_req){.peer = NET_ALL}, what) : rc;
}

/* ceil(log2(ranks)) messages of each rank (Bruck et al., 1997): all-gathers of some MPIs send
 * one to each other rank, and connect to all. */
static int spread(struct net *net, struct spread *s, size_t bytes, uint64_t deadline_ns,
                  const char *what)
{
	uint32_t have = 1;
	int rc = 0;

	while (rc == 0 && have < net->size) {
		uint32_t rows = have < net->size - have ? have : net->size - have;

		rc = spread_round(net, s, have, bytes, rows * bytes, deadline_ns, what);
		have += rows;
	}
	return rc;
}

int net_allgather(struct net *net, const void *in, size_t bytes, void *out,
                  uint64_t deadline_ns, const char *what)
{
	uint64_t head = (uint64_t)bytes * (net->size - net->rank);
	uint64_t all = (uint64_t)bytes * net->size;
	struct spread *s = malloc(sizeof(*s) + all);
	int rc = check_usable(net, what);

	if (rc == 0 && !s)
		rc = error_set(FTMEM_ENOMEM, "%s: no memory for %zu bytes per rank", what, bytes);
	else if (rc == 0 && all > NET_MESSAGE_MAX)
		rc = error_set(FTMEM_ENET, "%s: %zu bytes per rank are too many", what, bytes);
	if (s) {
		s->send = s->recv = (struct net_req){0};
		memcpy(s->rows, in, bytes);
	}
	if (rc == 0)
		rc = spread(net, s, bytes, deadline_ns, what);
	if (rc == 0) {
		memcpy((uint8_t *)out + (all - head), s->rows, head);
		memcpy(out, s->rows + head, all - head);
	}
	net->broken = net->broken || rc < 0;
	if (!s || (!s->send.active && !s->recv.active)) {
		free(s);
		return rc;
	}
	/* Its memory is left to MPI. */
	net->lingering = true;
	net->ops->cancel(net, &s->recv);
	net->ops->cancel(net, &s->send);
	return rc;
}
