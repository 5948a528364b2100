/* SPDX-License-Identifier: BSD-3-Clause */
/* The network as the real rank sees it: replaces net_mpi.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "courier.h"
#include "growth.h"
#include "tags.h"

#define RECEIVES 1024
#define SENDS    1024
/* An all-reduce of more words has one for each rank. */
#define WORDS_FEW 64u

/* Of one message, of which the peer sends the like. */
struct sent {
	uint32_t to, tag;
	uint8_t *bytes; /* NULL: free */
	uint64_t size, number;
};

struct wanted {
	bool active;
	uint32_t from, tag;
	uint8_t *to;
};

struct mirror {
	struct net net;
	const char *what; /* of the collective call under way */
	bool planning;    /* the courier brings records of growth_plan() */
	uint8_t *rows;    /* of all ranks, while they are gathered */
	size_t row_bytes;
	struct sent sent[SENDS];
	struct wanted wanted[RECEIVES];
	uint64_t sends;
};

static struct mirror mirror;

uint32_t growth_rounds(uint32_t ranks)
{
	uint32_t rounds = 0;

	while (rounds < 32 && UINT64_C(1) << rounds < ranks)
		rounds++;
	return rounds;
}

uint32_t growth_node_of(uint32_t rank)
{
	return rank / growth_world.job->node_ranks;
}

void growth_node_name(uint32_t rank, char *name, size_t bytes)
{
	uint32_t node = growth_node_of(rank);
	bool spare = growth_world.restarted && node == growth_world.job->lost_node;

	snprintf(name, bytes, "%s%05u", spare ? "spare" : "node", node);
}

/* --- from rank to rank --- */

/* Whether what the courier brings comes from growth_plan(). */
static bool from_plan(uint32_t tag)
{
	return tag == TAG_ROUTE && mirror.planning;
}

/* A member of a rail sends to the one d further on what that d before it sends to this
 * rank. Ranks of one machine, and couriers that bring nothing, all say the same. */
static uint32_t like(uint32_t peer, uint32_t tag)
{
	struct rail rail;
	int me, at;

	if (tag == TAG_ROUTE)
		return NET_ALL;
	if (tag < TAG_RAILS)
		return peer;
	growth_cost_pause();
	map_rail(growth_world.map, (tag - TAG_RAILS) / TAG_KINDS, &rail);
	me = rail_find(&rail, growth_world.rank);
	at = rail_find(&rail, peer);
	growth_cost_resume();
	growth_require(me >= 0 && at >= 0, "messages of own rails go to their members");
	return rail.rank[((uint32_t)me + (uint32_t)me + rail.n - (uint32_t)at) % rail.n];
}

static int mirror_send(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
                       struct net_req *req)
{
	uint32_t i = 0;

	(void)net;
	growth_cost_send(1, bytes, tag == NET_TAG ? bytes : 0);
	*req = (struct net_req){.peer = peer, .active = true, .bytes = bytes};
	if (from_plan(tag) || tag == NET_TAG)
		return 0;
	growth_cost_pause();
	while (i < SENDS && mirror.sent[i].bytes)
		i++;
	growth_require(i < SENDS, "room for messages");
	mirror.sent[i] = (struct sent){tag == TAG_ROUTE ? NET_ALL : peer, tag, malloc(bytes + 1),
	                               bytes, mirror.sends++};
	growth_require(mirror.sent[i].bytes, "memory");
	memcpy(mirror.sent[i].bytes, buf, bytes);
	growth_cost_resume();
	return 0;
}

static int mirror_recv(struct net *net, uint32_t peer, uint32_t tag, void *buf, size_t bytes,
                       struct net_req *req)
{
	uint32_t i = 0;

	(void)net;
	while (i < RECEIVES && mirror.wanted[i].active)
		i++;
	growth_require(i < RECEIVES, "room for receives");
	mirror.wanted[i] = (struct wanted){true, peer, tag, buf};
	*req = (struct net_req){.handle = {i}, .peer = peer, .active = true, .receive = true,
	                        .bytes = bytes};
	return 0;
}

static void plan_arrives(const struct wanted *w, uint64_t bytes)
{
	struct growth_stream *s = &growth_world.plan;

	growth_require(bytes <= s->size - s->read, "the real rank and the others agree on records");
	memcpy(w->to, s->at + s->read, bytes);
	s->read += bytes;
}

/* Rows of an all-gather, from the sender's own on. */
static void rows_arrive(const struct wanted *w, uint64_t bytes)
{
	for (uint64_t i = 0; i < bytes / mirror.row_bytes; i++)
		memcpy(w->to + i * mirror.row_bytes,
		       mirror.rows + (w->from + i) % mirror.net.size * mirror.row_bytes,
		       mirror.row_bytes);
}

static bool message_arrives(const struct wanted *w, uint64_t bytes)
{
	uint32_t to = like(w->from, w->tag);
	struct sent *first = NULL;

	for (uint32_t i = 0; i < SENDS; i++) {
		struct sent *s = &mirror.sent[i];

		if (s->bytes && s->to == to && s->tag == w->tag
		    && (!first || s->number < first->number))
			first = s;
	}
	if (!first)
		return false;
	growth_require(first->size == bytes, "peers send messages of equal size");
	memcpy(w->to, first->bytes, bytes);
	growth_cost_pause();
	free(first->bytes);
	growth_cost_resume();
	first->bytes = NULL;
	return true;
}

static int mirror_test(struct net *net, struct net_req *req)
{
	struct wanted *w = &mirror.wanted[req->handle[0]];

	(void)net;
	if (req->receive) {
		if (w->tag == NET_TAG)
			rows_arrive(w, req->bytes);
		else if (from_plan(w->tag))
			plan_arrives(w, req->bytes);
		else if (!message_arrives(w, req->bytes))
			return 0;
		w->active = false;
	}
	req->active = false;
	return 0;
}

static void mirror_cancel(struct net *net, struct net_req *req)
{
	(void)net;
	req->active = false;
}

/* --- all ranks --- */

static bool is(const char *what)
{
	return mirror.what && strcmp(mirror.what, what) == 0;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* What other ranks know and the real one does not. */
static void reduce_known(uint64_t *words, uint32_t count, enum net_reduce op)
{
	const struct growth_world *w = &growth_world;

	if (is("finding the epoch") && count == 5) {
		words[0] = larger(words[0], w->record.epoch);
		words[1] = larger(words[1], larger(w->record.incarnation[0],
		                                   w->record.incarnation[1]));
		words[2] = 1;
	}
	if (is("restoring") && count == 1 && op == NET_MIN && w->shares)
		words[0] = 0;
	if (is("sharing a map") && count == 1)
		words[0] = larger(words[0], map_blob_bytes(w->map));
	if (is("sharing a map") && count > 1)
		map_blob_write(w->map, (uint8_t *)words);
}

static int mirror_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                            struct net_req *req)
{
	uint64_t bytes = UINT64_C(8) * count, rounds = growth_rounds(net->size);
	bool table = count > WORDS_FEW;

	*req = (struct net_req){.peer = NET_ALL, .active = true};
	growth_cost_send(2 * rounds, 2 * bytes * (table ? 1 : rounds), table ? 2 * bytes : 0);
	for (uint32_t i = 0; i < count && op == NET_SUM; i++)
		words[i] *= net->size;
	/* A word for each rank, of which this one knows some; all are alike. */
	for (uint32_t i = 0; i < count && is("sharing sizes") && count > 1; i++)
		words[i] = words[i] ? words[i] : growth_world.data_bytes;
	if (growth_world.restarted && op != NET_SUM)
		reduce_known(words, count, op);
	return 0;
}

static void fill_places(struct map_rank *all, uint32_t ranks)
{
	for (uint32_t i = 0; i < ranks; i++) {
		memset(&all[i], 0, sizeof(all[i]));
		growth_node_name(i, all[i].node, sizeof(all[i].node));
	}
}

static void fill_boot(uint64_t *all, uint32_t ranks, uint64_t mine)
{
	for (uint32_t i = 0; i < ranks; i++)
		all[i] = mine ^ growth_node_of(i) ^ growth_node_of(growth_world.rank);
}

static void fill_records(struct gather_record *all, uint32_t ranks)
{
	const struct growth_world *w = &growth_world;

	for (uint32_t i = 0; i < ranks; i++) {
		if (i == w->rank)
			continue;
		all[i] = w->record;
		all[i].rank = i;
		if (growth_node_of(i) != w->job->lost_node)
			continue;
		/* Made anew for this start, with other names in its map. */
		memset(all[i].state, 0, sizeof(all[i].state));
		memset(all[i].version, 0, sizeof(all[i].version));
		memset(all[i].incarnation, 0, sizeof(all[i].incarnation));
		all[i].late = all[i].unsure = 1;
		all[i].map_sum = ~w->record.map_sum;
	}
}

/* What the ranks say; the real one says in. */
static void fill_rows(const void *in, size_t bytes)
{
	uint32_t ranks = mirror.net.size;
	uint64_t word;

	mirror.rows = malloc(bytes * ranks + 1);
	mirror.row_bytes = bytes;
	growth_require(mirror.rows, "memory");
	for (uint32_t i = 0; i < ranks; i++)
		memcpy(mirror.rows + i * bytes, in, bytes);
	if (is("gathering nodes"))
		fill_places((struct map_rank *)(void *)mirror.rows, ranks);
	if (is("gathering machines")) {
		memcpy(&word, in, sizeof(word));
		fill_boot((uint64_t *)(void *)mirror.rows, ranks, word);
	}
	if (is("gathering what is stored") && growth_world.restarted)
		fill_records((struct gather_record *)(void *)mirror.rows, ranks);
}

int __real_net_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                         uint64_t deadline_ns, const char *what);
int __real_net_allgather(struct net *net, const void *in, size_t bytes, void *out,
                         uint64_t deadline_ns, const char *what);
int __wrap_net_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                         uint64_t deadline_ns, const char *what);
int __wrap_net_allgather(struct net *net, const void *in, size_t bytes, void *out,
                         uint64_t deadline_ns, const char *what);

int __wrap_net_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                         uint64_t deadline_ns, const char *what)
{
	int rc;

	mirror.what = what;
	rc = __real_net_allreduce(net, words, count, op, deadline_ns, what);
	mirror.what = NULL;
	return rc;
}

int __wrap_net_allgather(struct net *net, const void *in, size_t bytes, void *out,
                         uint64_t deadline_ns, const char *what)
{
	int rc;

	mirror.what = what;
	growth_cost_pause();
	fill_rows(in, bytes);
	growth_cost_resume();
	rc = __real_net_allgather(net, in, bytes, out, deadline_ns, what);
	growth_cost_pause();
	free(mirror.rows);
	growth_cost_resume();
	mirror.rows = NULL;
	mirror.what = NULL;
	return rc;
}

int __real_courier_forward(struct net *net, struct route *r, uint32_t timeout_ms,
                           const char *what);
int __real_courier_back(struct net *net, struct route *r, uint32_t timeout_ms, const char *what);
int __wrap_courier_forward(struct net *net, struct route *r, uint32_t timeout_ms,
                           const char *what);
int __wrap_courier_back(struct net *net, struct route *r, uint32_t timeout_ms, const char *what);

int __wrap_courier_forward(struct net *net, struct route *r, uint32_t timeout_ms, const char *what)
{
	int rc;

	mirror.planning = strcmp(what, "planning the restore") == 0;
	rc = __real_courier_forward(net, r, timeout_ms, what);
	mirror.planning = false;
	return rc;
}

int __wrap_courier_back(struct net *net, struct route *r, uint32_t timeout_ms, const char *what)
{
	int rc;

	mirror.planning = strcmp(what, "planning the restore") == 0;
	rc = __real_courier_back(net, r, timeout_ms, what);
	mirror.planning = false;
	return rc;
}

/* --- life --- */

static void mirror_free(struct net *net)
{
	(void)net;
	growth_net_end();
}

void growth_net_end(void)
{
	for (uint32_t i = 0; i < SENDS; i++)
		growth_require(!mirror.sent[i].bytes, "a message that was sent is received");
	memset(&mirror, 0, sizeof(mirror));
}

static const struct net_ops mirror_ops = {
	.send = mirror_send,
	.recv = mirror_recv,
	.allreduce = mirror_allreduce,
	.test = mirror_test,
	.cancel = mirror_cancel,
	.free = mirror_free,
};

int net_mpi_open(const void *comm, uint32_t timeout_ms, struct net **out)
{
	(void)comm;
	(void)timeout_ms;
	memset(&mirror, 0, sizeof(mirror));
	mirror.net.ops = &mirror_ops;
	mirror.net.rank = growth_world.rank;
	mirror.net.size = growth_world.job->ranks;
	mirror.net.tag_max = INT32_MAX;
	*out = &mirror.net;
	return 0;
}
