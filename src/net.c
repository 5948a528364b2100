/* SPDX-License-Identifier: BSD-3-Clause */
#include "net.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"

/* Polls before a waiter gives its core away, and before it sleeps. */
#define SPINS 64
#define YIELDS 256
#define SLEEP_NS 50000

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
	b->idle++;
	if (b->idle > YIELDS)
		clock_sleep(SLEEP_NS);
	else if (b->idle > SPINS)
		sched_yield();
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
static int collected(struct net *net, const struct net_req *req, void *copy, int rc)
{
	if (rc < 0)
		net->broken = true;
	if (!req->active)
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

int net_allgather(struct net *net, const void *in, size_t bytes, void *out,
                  uint64_t deadline_ns, const char *what)
{
	struct net_req req = {0};
	uint8_t *copy = malloc(bytes * (net->size + 1) + 1);
	int rc = check_usable(net, what);

	if (rc == 0 && !copy)
		rc = error_set(FTMEM_ENOMEM, "%s: no memory for %zu bytes per rank", what, bytes);
	if (rc == 0) {
		memcpy(copy + bytes * net->size, in, bytes);
		rc = net->ops->allgather(net, copy + bytes * net->size, bytes, copy, &req);
	}
	if (rc == 0)
		rc = net_wait(net, &req, deadline_ns, what);
	if (rc == 0)
		memcpy(out, copy, bytes * net->size);
	return collected(net, &req, copy, rc);
}
