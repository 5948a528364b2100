/* SPDX-License-Identifier: BSD-3-Clause */
#include "courier.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "tags.h"

/* Longer messages are cut: each piece has a deadline of its own. */
#define PIECE_BYTES (UINT64_C(4) << 20)
_Static_assert(PIECE_BYTES <= NET_MESSAGE_MAX, "the network takes a piece");

enum { IN, OUT };

struct half {
	uint32_t peer;
	uint8_t *at;
	uint64_t left, deadline;
	struct net_req req;
};

/* A message each way, first its size. On the heap, since what is given up may still
 * be read or written. */
struct exchange {
	struct half half[2];
	uint64_t size[2];
	uint8_t *bytes[2]; /* owned; OUT: a copy, which may outlive the route */
};

static int half_next(struct net *net, struct half *h, int way, uint32_t timeout_ms)
{
	uint64_t bytes = h->left < PIECE_BYTES ? h->left : PIECE_BYTES;
	int rc;

	if (way == IN)
		rc = net_recv(net, h->peer, TAG_ROUTE, h->at, bytes, &h->req);
	else
		rc = net_send(net, h->peer, TAG_ROUTE, h->at, bytes, &h->req);
	h->at += bytes;
	h->left -= bytes;
	h->deadline = clock_deadline(timeout_ms);
	return rc;
}

/* Receives are posted before sends. */
static int exchange_run(struct net *net, struct exchange *x, uint32_t timeout_ms, const char *what)
{
	struct net_backoff backoff = {0};
	bool open;

	do {
		bool progress = false;

		open = false;
		for (int way = IN; way <= OUT; way++) {
			struct half *h = &x->half[way];
			int rc = net_test(net, &h->req);

			if (rc == 0 && !h->req.active && h->left > 0) {
				rc = half_next(net, h, way, timeout_ms);
				progress = true;
			}
			if (rc < 0)
				return rc;
			open = open || h->req.active;
			if (h->req.active && clock_ns() > h->deadline)
				return error_set(FTMEM_ETIMEOUT,
				                 "%s: no answer from %s before the deadline; is it "
				                 "gone or busy? FTMEM_TIMEOUT_MS sets the deadline",
				                 what, net_who(net, h->peer).text);
		}
		if (progress)
			backoff = (struct net_backoff){0};
		else if (open)
			net_backoff(&backoff);
	} while (open);
	return 0;
}

static int exchange_both(struct net *net, struct exchange *x, uint32_t timeout_ms, const char *what)
{
	int rc;

	for (int way = IN; way <= OUT; way++) {
		x->half[way].at = (uint8_t *)&x->size[way];
		x->half[way].left = sizeof(x->size[way]);
	}
	rc = exchange_run(net, x, timeout_ms, what);
	if (rc < 0)
		return rc;
	x->bytes[IN] = x->size[IN] < SIZE_MAX ? malloc(x->size[IN] + 1) : NULL;
	if (!x->bytes[IN])
		return error_set(FTMEM_ENOMEM,
		                 "%s: no memory for %" PRIu64 " bytes from rank %" PRIu32, what,
		                 x->size[IN], x->half[IN].peer);
	for (int way = IN; way <= OUT; way++) {
		x->half[way].at = x->bytes[way];
		x->half[way].left = x->size[way];
	}
	return exchange_run(net, x, timeout_ms, what);
}

static void exchange_free(struct net *net, struct exchange *x)
{
	bool lingers = false;

	if (!x)
		return;
	for (int way = IN; way <= OUT; way++) {
		if (!x->half[way].req.active)
			continue;
		lingers = true;
		net->ops->cancel(net, &x->half[way].req);
	}
	net->lingering = net->lingering || lingers;
	if (lingers)
		return;
	free(x->bytes[IN]);
	free(x->bytes[OUT]);
	free(x);
}

static int exchange_new(uint32_t to, uint32_t from, const uint8_t *out, uint64_t bytes,
                        const char *what, struct exchange **result)
{
	struct exchange *x = calloc(1, sizeof(*x));
	uint8_t *copy = malloc(bytes + 1);

	*result = x;
	if (!x || !copy) {
		free(copy);
		return error_set(FTMEM_ENOMEM, "%s: no memory for %" PRIu64 " bytes to send", what,
		                 bytes);
	}
	if (bytes > 0)
		memcpy(copy, out, bytes);
	x->bytes[OUT] = copy;
	x->size[OUT] = bytes;
	x->half[IN].peer = from;
	x->half[OUT].peer = to;
	return 0;
}

static int forward_round(struct net *net, struct route *r, uint32_t round, uint32_t timeout_ms,
                         const char *what)
{
	struct exchange *x = NULL;
	const uint8_t *out = NULL;
	uint64_t bytes = 0;
	int rc = route_out(r, round, &out, &bytes);

	if (rc == 0)
		rc = exchange_new(route_to(net->rank, net->size, round),
		                  route_from(net->rank, net->size, round), out, bytes, what, &x);
	if (rc == 0)
		rc = exchange_both(net, x, timeout_ms, what);
	if (rc == 0)
		rc = route_in(r, round, x->bytes[IN], x->size[IN]);
	exchange_free(net, x);
	return rc;
}

static int back_round(struct net *net, struct route *r, uint32_t round, uint32_t timeout_ms,
                      const char *what)
{
	struct exchange *x = NULL;
	const uint8_t *out = NULL;
	uint64_t bytes = 0;
	int rc = route_back_out(r, round, &out, &bytes);

	if (rc == 0)
		rc = exchange_new(route_from(net->rank, net->size, round),
		                  route_to(net->rank, net->size, round), out, bytes, what, &x);
	if (rc == 0)
		rc = exchange_both(net, x, timeout_ms, what);
	if (rc == 0)
		rc = route_back_in(r, round, x->bytes[IN], x->size[IN]);
	exchange_free(net, x);
	return rc;
}

static int check_usable(const struct net *net, const char *what)
{
	return net->broken ? error_set(FTMEM_ENET,
	                               "%s: an earlier collective step did not end; "
	                               "start the job again",
	                               what)
	                   : 0;
}

/* Whoever failed is out of step with the others. */
static int ended(struct net *net, int rc)
{
	net->broken = net->broken || rc < 0;
	return rc;
}

int courier_forward(struct net *net, struct route *r, uint32_t timeout_ms, const char *what)
{
	uint32_t rounds = route_rounds(net->size);
	int rc = check_usable(net, what);

	for (uint32_t round = 0; rc == 0 && round < rounds; round++)
		rc = forward_round(net, r, round, timeout_ms, what);
	return ended(net, rc);
}

int courier_back(struct net *net, struct route *r, uint32_t timeout_ms, const char *what)
{
	uint32_t rounds = route_rounds(net->size);
	int rc = check_usable(net, what);

	for (uint32_t round = rounds; rc == 0 && round-- > 0;)
		rc = back_round(net, r, round, timeout_ms, what);
	return ended(net, rc);
}
