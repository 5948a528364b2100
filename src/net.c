/* SPDX-License-Identifier: BSD-3-Clause */
#include "net.h"

#include <inttypes.h>
#include <stdio.h>
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

/* Ranks call the roll when they have waited so long, or a quarter of their deadline if that is
 * less, and name nobody before others had time to answer. */
#define ROLL_NS   UINT64_C(500000000)
#define ANSWER_NS UINT64_C(250000000)
/* They answer sooner: who joins late must not be named for a call that it did not hear. */
#define HEAR_NS   UINT64_C(20000000)
/* Ranks 1, 2, 4, ... before and after one. */
#define NEIGHBOURS_MAX 64u

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

struct net_who net_who(const struct net *net, uint32_t rank)
{
	struct net_who who;

	if (net->node)
		snprintf(who.text, sizeof(who.text), "rank %" PRIu32 " (%.63s)", rank,
		         net->node(net->node_arg, rank));
	else
		snprintf(who.text, sizeof(who.text), "rank %" PRIu32, rank);
	return who;
}

/* --- roll calls --- */

/* Steps are collective calls, numbered alike on all ranks. */
struct neighbour {
	uint32_t rank;
	bool asked, silent;   /* it has said something; it was told something, and nothing since */
	uint64_t told, heard; /* the latest step that this rank, that it has joined */
	uint64_t out, in;
	struct net_req send, recv;
};

struct net_roll {
	uint64_t step, call_ns; /* the latest, and when its roll is called */
	uint64_t hear_ns;       /* from when on those who called it before are answered */
	uint64_t called;        /* the latest whose roll was called */
	uint32_t count;
	struct neighbour neighbour[NEIGHBOURS_MAX];
};

static void add_neighbour(const struct net *net, struct net_roll *roll, uint64_t rank)
{
	for (uint32_t i = 0; i < roll->count; i++)
		if (roll->neighbour[i].rank == rank)
			return;
	if (rank != net->rank)
		roll->neighbour[roll->count++].rank = (uint32_t)rank;
}

int net_roll_open(struct net *net)
{
	net->roll = calloc(1, sizeof(*net->roll));
	if (!net->roll)
		return error_set(FTMEM_ENOMEM, "no memory for the network");
	for (uint64_t away = 1; away < net->size; away *= 2) {
		add_neighbour(net, net->roll, (net->rank + away) % net->size);
		add_neighbour(net, net->roll, (net->rank + net->size - away) % net->size);
	}
	return 0;
}

void net_roll_close(struct net *net)
{
	bool lingered = net->lingering, told = false;

	if (!net->roll)
		return;
	net->lingering = false;
	for (uint32_t i = 0; i < net->roll->count; i++) {
		net->ops->cancel(net, &net->roll->neighbour[i].recv);
		net->ops->cancel(net, &net->roll->neighbour[i].send);
		told = told || net->roll->neighbour[i].told > 0;
	}
	/* Else its memory is left to MPI. */
	if (!net->lingering)
		free(net->roll);
	net->roll = NULL;
	/* What was told may still be on its way when everybody is through. */
	net->lingering = net->lingering || lingered || told;
}

static void roll_begin(struct net *net, uint64_t deadline_ns)
{
	uint64_t now = clock_ns(), quarter = deadline_ns > now ? (deadline_ns - now) / 4 : 0;

	if (!net->roll)
		return;
	net->roll->step++;
	net->roll->call_ns = now + (quarter < ROLL_NS ? quarter : ROLL_NS);
	net->roll->hear_ns = now + (quarter < HEAR_NS ? quarter : HEAR_NS);
}

/* All that it has said. */
static int hear(struct net *net, struct neighbour *n)
{
	int rc = 0;

	while (rc == 0) {
		if (!n->recv.active)
			rc = net->ops->recv(net, n->rank, NET_TAG_ROLL, &n->in, sizeof(n->in),
			                    &n->recv);
		if (rc == 0)
			rc = net_test(net, &n->recv);
		if (rc < 0 || n->recv.active)
			break;
		n->heard = n->in;
		n->silent = false;
		n->asked = true;
	}
	return rc;
}

/* One that is silent may read nothing, and is told no more; unless it waits for this very step. */
static int tell(struct net *net, struct neighbour *n, uint64_t step)
{
	int rc = net_test(net, &n->send);

	if (rc < 0 || n->send.active || n->told == step || (n->silent && n->heard < step))
		return rc;
	n->out = n->told = step;
	n->silent = true;
	n->asked = false;
	return net->ops->send(net, n->rank, NET_TAG_ROLL, &n->out, sizeof(n->out), &n->send);
}

/* If a message fails its rank shows no sign; what is waited for fails by itself. */
void net_roll_answer(struct net *net)
{
	struct net_roll *roll = net->roll;

	if (!roll || clock_ns() < roll->hear_ns)
		return;
	for (uint32_t i = 0; i < roll->count; i++) {
		struct neighbour *n = &roll->neighbour[i];

		if (hear(net, n) == 0
		    && (n->asked || n->heard >= roll->step || roll->called == roll->step))
			(void)tell(net, n, roll->step);
	}
}

void net_roll_call(struct net *net)
{
	if (net->roll && clock_ns() >= net->roll->call_ns)
		net->roll->called = net->roll->step;
	net_roll_answer(net);
}

struct net_who net_roll_missing(const struct net *net)
{
	const struct net_roll *roll = net->roll;
	struct net_who who = {""}, first = {""};
	uint32_t missing = 0;

	if (!roll || roll->called != roll->step || clock_ns() < roll->call_ns + ANSWER_NS)
		return who;
	for (uint32_t i = 0; i < roll->count; i++)
		if (roll->neighbour[i].heard < roll->step && missing++ == 0)
			first = net_who(net, roll->neighbour[i].rank);
	if (missing > 1)
		snprintf(who.text, sizeof(who.text), "%.100s and %" PRIu32 " more", first.text,
		         missing - 1);
	return missing > 1 ? who : first;
}

/* --- waiting --- */

static int timed_out(const struct net *net, uint32_t peer, const char *what)
{
	struct net_who missing = net_roll_missing(net);

	if (peer != NET_ALL)
		return error_set(FTMEM_ETIMEOUT, "%s: no answer from %s before the deadline", what,
		                 net_who(net, peer).text);
	return error_set(FTMEM_ETIMEOUT,
	                 "%s: not every rank joined before the deadline%s%s; is one of them gone "
	                 "or busy? FTMEM_TIMEOUT_MS sets the deadline",
	                 what, missing.text[0] ? ": there is no sign of " : "", missing.text);
}

/* peer: whom to name, or NET_ALL. */
static int wait_for(struct net *net, struct net_req *req, uint32_t peer, uint64_t deadline_ns,
                    const char *what)
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
			return timed_out(net, peer, what);
		if (peer == NET_ALL)
			net_roll_call(net);
		net_backoff(&backoff);
	}
	return 0;
}

int net_wait(struct net *net, struct net_req *req, uint64_t deadline_ns, const char *what)
{
	return wait_for(net, req, req->peer, deadline_ns, what);
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
		net->broken = net->out_of_step = true;
	if (req->active)
		net->ops->cancel(net, req);
	else
		free(copy);
	return rc;
}

int net_allreduce_begin(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                        uint64_t deadline_ns, struct net_req *req)
{
	roll_begin(net, deadline_ns);
	return net->ops->allreduce(net, words, count, op, req);
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
		rc = net_allreduce_begin(net, copy, count, op, deadline_ns, &req);
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
	/* Who is waited for may itself wait for the one that is missing. */
	if (rc == 0)
		rc = wait_for(net, &s->recv, NET_ALL, deadline_ns, what);
	return rc == 0 ? wait_for(net, &s->send, NET_ALL, deadline_ns, what) : rc;
}

/* ceil(log2(ranks)) messages of each rank (Bruck et al., 1997): all-gathers of some MPIs send
 * one to each other rank, and connect to all. */
static int spread(struct net *net, struct spread *s, size_t bytes, uint64_t deadline_ns,
                  const char *what)
{
	uint32_t have = 1;
	int rc = 0;

	roll_begin(net, deadline_ns);
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
