/* SPDX-License-Identifier: BSD-3-Clause */
#include "transfer_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "test_job.h"
#include "test_random.h"

_Thread_local uint64_t world_buffers, world_summed, world_gathers;

/* The one world of the program at a time. */
static struct world *present;

static void *get(uint64_t bytes)
{
	void *p = calloc(1, bytes + 1);

	if (!p)
		abort();
	return p;
}

/* --- the network, watched --- */

static int begun(struct net *net, uint32_t peer, struct net_req *req, int rc)
{
	struct world_watch *w = &present->watch[net->rank];
	bool in = req->receive;
	uint32_t peers = 0, seen = 0;

	if (rc < 0)
		return rc;
	while (seen < w->firsts[in] && w->first[in][seen] != peer)
		seen++;
	if (seen == w->firsts[in])
		w->first[in][w->firsts[in]++] = peer;
	w->posted[in]++;
	if (++w->active[in][peer] > w->peer_most)
		w->peer_most = w->active[in][peer];
	for (uint32_t i = 0; i < FAKE_NET_RANKS; i++)
		peers += w->active[in][i] > 0;
	if (peers > w->peers_most[in])
		w->peers_most[in] = peers;
	return 0;
}

static int watched_send(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
                        struct net_req *req)
{
	struct world_watch *w = &present->watch[net->rank];
	uint32_t first = 0;

	for (uint32_t i = 0; i < present->ranks; i++)
		first += present->flow[i][net->rank].parts > 0;
	first = first < TRANSFER_STREAMS ? first : TRANSFER_STREAMS;
	w->sent_too_early = w->sent_too_early || w->firsts[1] < first;
	return begun(net, peer, req, w->ops->send(net, peer, tag, buf, bytes, req));
}

static int watched_recv(struct net *net, uint32_t peer, uint32_t tag, void *buf, size_t bytes,
                        struct net_req *req)
{
	struct world_watch *w = &present->watch[net->rank];

	return begun(net, peer, req, w->ops->recv(net, peer, tag, buf, bytes, req));
}

static int watched_test(struct net *net, struct net_req *req)
{
	struct world_watch *w = &present->watch[net->rank];
	uint32_t peer = req->peer;
	int rc = w->ops->test(net, req);

	if (!req->active) {
		w->active[req->receive][peer]--;
		atomic_fetch_add(&w->ended, 1);
	}
	return rc;
}

static void watch(struct world *w, uint32_t rank)
{
	struct net *net = fake_net_of(w->net, rank);
	struct world_watch *watch = &w->watch[rank];

	watch->ops = net->ops;
	watch->above = *net->ops;
	watch->above.send = watched_send;
	watch->above.recv = watched_recv;
	watch->above.test = watched_test;
	net->ops = &watch->above;
}

/* --- memory of a device --- */

/* The stubs' handle is the world. */
static int region_device(const struct world *w)
{
	return w->memory == WORLD_DEVICE ? WORLD_DEVICE_NUMBER : DEVICE_HOST;
}

static int stub_put(struct copy *c, const struct copy_put *put, uint32_t count)
{
	struct world *w = (struct world *)c;

	for (uint32_t i = 0; i < count; i++) {
		const struct copy_put *p = &put[i];
		uint64_t done = 0;

		if (atomic_fetch_add(&w->puts, 1) + 1 == atomic_load(&w->put_fails_at))
			return error_set(FTMEM_EDEVICE, "the device is gone");
		if (p->device != region_device(w) || p->bytes == 0
		    || p->bytes > p->to_view.bytes - p->to_from
		    || p->bytes > p->source_view.bytes - p->source_from)
			abort();
		while (done < p->bytes) {
			uint64_t from, to, from_left, to_left, n = p->bytes - done;

			from = box_view_at(&p->source_view, p->source_from + done, &from_left);
			to = box_view_at(&p->to_view, p->to_from + done, &to_left);
			n = from_left < n ? from_left : n;
			n = to_left < n ? to_left : n;
			memcpy(p->to + to, p->source + from, n);
			done += n;
		}
	}
	return 0;
}

static const struct copy_ops stub[] = {
	[WORLD_DEVICE] = {.name = "device", .put = stub_put},
	[WORLD_OTHER] = {.name = "other", .put = stub_put},
};

/* --- what goes where --- */

void world_init(struct world *w, uint32_t ranks, enum world_memory memory, uint64_t seed)
{
	memset(w, 0, sizeof(*w));
	w->net = fake_net_new(ranks, seed);
	w->ranks = ranks;
	w->memory = memory;
	w->random = seed;
	w->timeout_ms = 60000;
	for (uint32_t i = 0; i < ranks; i++) {
		w->rank[i].w = w;
		w->rank[i].rank = i;
		watch(w, i);
	}
	present = w;
}

void world_deinit(struct world *w)
{
	for (uint32_t i = 0; i < w->ranks; i++)
		for (uint32_t j = 0; j < w->ranks; j++) {
			struct world_flow *flow = &w->flow[i][j];

			for (uint32_t k = 0; k < 2; k++) {
				free(flow->list[k]);
				free(flow->memory[k]);
			}
			free(flow->part);
			free(flow->want);
		}
	fake_net_free(w->net);
}

void world_add(struct world *w, uint32_t from, uint32_t to, uint32_t elem_bytes, uint32_t ndim,
               const uint64_t *extent, uint32_t pad)
{
	struct world_flow *flow = &w->flow[from][to];
	struct world_part *p;

	/* Room is doubled at powers of two. */
	if ((flow->parts & (flow->parts - 1)) == 0) {
		p = get(2 * (flow->parts + 1) * sizeof(*p));
		if (flow->parts > 0)
			memcpy(p, flow->part, flow->parts * sizeof(*p));
		free(flow->part);
		flow->part = p;
	}
	p = &flow->part[flow->parts++];
	*p = (struct world_part){.elem_bytes = elem_bytes};
	for (uint32_t i = 0; i < 2; i++) {
		p->outer[i].ndim = p->inner[i].ndim = ndim;
		for (uint32_t d = 0; d < ndim; d++) {
			uint64_t before = test_random_below(&w->random, pad + 1);
			uint64_t behind = test_random_below(&w->random, pad + 1);

			p->outer[i].start[d] = test_random_below(&w->random, 100);
			p->outer[i].extent[d] = before + extent[d] + behind;
			p->inner[i].start[d] = p->outer[i].start[d] + before;
			p->inner[i].extent[d] = extent[d];
		}
	}
}

void world_add_flat(struct world *w, uint32_t from, uint32_t to, uint64_t bytes)
{
	world_add(w, from, to, 1, 1, &bytes, 0);
}

/* Where the element of inner at index lies in outer, in elements. */
static uint64_t element(const struct box *outer, const struct box *inner, const uint64_t *index)
{
	uint64_t at = 0;

	for (uint32_t d = 0; d < outer->ndim; d++)
		at = at * outer->extent[d] + inner->start[d] - outer->start[d] + index[d];
	return at;
}

static void expect(const struct world_part *p, const uint8_t *from, uint8_t *to)
{
	uint64_t index[FTMEM_MAX_DIMS] = {0}, count = box_count(&p->inner[0]);

	for (uint64_t i = 0; i < count; i++) {
		memcpy(to + element(&p->outer[1], &p->inner[1], index) * p->elem_bytes,
		       from + element(&p->outer[0], &p->inner[0], index) * p->elem_bytes,
		       p->elem_bytes);
		for (uint32_t d = p->inner[0].ndim; d-- > 0;) {
			if (++index[d] < p->inner[0].extent[d])
				break;
			index[d] = 0;
		}
	}
}

static void fill(struct world *w, struct world_flow *flow)
{
	uint64_t at[2];

	for (uint32_t i = 0; i < 2; i++) {
		for (uint32_t j = 0; j < flow->parts; j++)
			flow->bytes[i] += box_count(&flow->part[j].outer[i])
			                  * flow->part[j].elem_bytes;
		flow->memory[i] = get(flow->bytes[i]);
		flow->list[i] = get(flow->parts * sizeof(*flow->list[i]));
	}
	test_random_fill(&w->random, flow->memory[0], flow->bytes[0]);
	memset(flow->memory[1], 0x5a, flow->bytes[1]);
	flow->want = get(flow->bytes[1]);
	memcpy(flow->want, flow->memory[1], flow->bytes[1]);
	at[0] = at[1] = 0;
	for (uint32_t j = 0; j < flow->parts; j++) {
		const struct world_part *p = &flow->part[j];

		expect(p, flow->memory[0] + at[0], flow->want + at[1]);
		for (uint32_t i = 0; i < 2; i++) {
			flow->list[i][j].array = flow->memory[i] + at[i];
			flow->list[i][j].device = i ? region_device(w) : DEVICE_HOST;
			if (box_count(&p->inner[i]) > 0)
				box_view(&p->outer[i], &p->inner[i], p->elem_bytes,
				         &flow->list[i][j].view);
			at[i] += box_count(&p->outer[i]) * p->elem_bytes;
		}
	}
}

void world_fill(struct world *w)
{
	for (uint32_t i = 0; i < w->ranks; i++)
		for (uint32_t j = 0; j < w->ranks; j++)
			fill(w, &w->flow[i][j]);
}

bool world_arrived(const struct world *w, uint32_t rank)
{
	for (uint32_t i = 0; i < w->ranks; i++) {
		const struct world_flow *flow = &w->flow[i][rank];

		if (memcmp(flow->memory[1], flow->want, flow->bytes[1]) != 0) {
			fprintf(stderr, "rank %u to rank %u: not what is expected\n", i, rank);
			return false;
		}
	}
	return true;
}

/* --- runs --- */

static uint32_t list_streams(struct world_rank *r, uint32_t end, uint64_t *random,
                             struct transfer_stream *out)
{
	struct world *w = r->w;
	uint32_t count = 0;

	for (uint32_t i = 0; i < w->ranks; i++) {
		const struct world_flow *flow = end ? &w->flow[i][r->rank] : &w->flow[r->rank][i];
		uint32_t swap = test_random_below(random, count + 1);

		/* A stream of nothing is as good as none. */
		if (i == r->rank || (flow->parts == 0 && test_random_below(random, 2) == 0))
			continue;
		out[count] = out[swap];
		out[swap] = (struct transfer_stream){i, flow->parts, flow->list[end]};
		count++;
	}
	return count;
}

static int run(struct world_rank *r)
{
	struct world *w = r->w;
	struct transfer_config config = {
		.net = fake_net_of(w->net, r->rank),
		.copy_ops = w->memory == WORLD_HOST ? copy_host() : &stub[w->memory],
		.copy = w->memory == WORLD_HOST ? r->copy : (struct copy *)w,
		.timeout_ms = w->timeout_ms,
	};
	struct transfer_stream out[FAKE_NET_RANKS] = {0}, in[FAKE_NET_RANKS] = {0};
	uint64_t random = w->random + r->rank;
	uint32_t outs = list_streams(r, 0, &random, out), ins = list_streams(r, 1, &random, in);
	int rc;

	if (w->gives_up)
		test_job_may_give_up(true);
	rc = transfer_run(&config, out, outs, in, ins);
	if (w->gives_up)
		test_job_may_give_up(false);
	return rc;
}

static void *rank_thread(void *arg)
{
	struct world_rank *r = arg;

	r->rc = run(r);
	snprintf(r->message, sizeof(r->message), "%s", r->rc < 0 ? error_msg() : "");
	r->buffers = world_buffers;
	r->summed = world_summed;
	r->gathers = world_gathers;
	atomic_store(&r->over, true);
	return NULL;
}

void world_begin(struct world *w, uint32_t rank)
{
	const struct copy_config config = {.threads = 2};

	if (w->memory == WORLD_HOST && copy_host()->open(&config, &w->rank[rank].copy) < 0)
		abort();
	if (pthread_create(&w->rank[rank].thread, NULL, rank_thread, &w->rank[rank]) != 0)
		abort();
}

void world_end(struct world *w, uint32_t rank)
{
	if (pthread_join(w->rank[rank].thread, NULL) != 0)
		abort();
	copy_host()->close(w->rank[rank].copy);
}

void world_run(struct world *w)
{
	for (uint32_t i = 0; i < w->ranks; i++)
		world_begin(w, i);
	for (uint32_t i = 0; i < w->ranks; i++)
		world_end(w, i);
}

int world_run_here(struct world *w, uint32_t rank)
{
	return run(&w->rank[rank]);
}
