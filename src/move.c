/* SPDX-License-Identifier: BSD-3-Clause */
#include "move.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "tags.h"

/* A run of bytes on its way, piece by piece. */
#define PIECE_BYTES (UINT64_C(4) << 20)

struct stream {
	uint32_t peer;
	bool receive;
	uint8_t *part[2];      /* checksums, then data */
	uint64_t left[2];
	struct net_req req;
};

/* Sends or receives the next piece. */
static int stream_next(struct net *net, struct stream *s)
{
	int i = s->left[0] > 0 ? 0 : 1, rc;
	uint64_t bytes = s->left[i] < PIECE_BYTES ? s->left[i] : PIECE_BYTES;

	if (s->receive)
		rc = net_recv(net, s->peer, TAG_MOVE, s->part[i], bytes, &s->req);
	else
		rc = net_send(net, s->peer, TAG_MOVE, s->part[i], bytes, &s->req);
	s->part[i] += bytes;
	s->left[i] -= bytes;
	return rc;
}

static int run_streams(struct ftmem *ft, struct stream *stream, uint32_t count)
{
	uint64_t deadline = session_deadline(ft);
	struct net_backoff backoff = {0};
	uint32_t open;

	do {
		bool progress = false;
		uint32_t peer = 0;

		open = 0;
		for (uint32_t i = 0; i < count; i++) {
			struct stream *s = &stream[i];
			int rc = net_test(ft->net, &s->req);

			if (rc == 0 && !s->req.active && s->left[0] + s->left[1] > 0) {
				rc = stream_next(ft->net, s);
				progress = true;
			}
			if (rc < 0)
				return rc;
			open += s->req.active;
			peer = s->req.active ? s->peer : peer;
		}
		if (progress) {
			backoff = (struct net_backoff){0};
			deadline = session_deadline(ft);
		} else if (clock_ns() > deadline) {
			return error_set(FTMEM_ETIMEOUT,
			                 "moving stored data: no answer from rank %" PRIu32, peer);
		} else {
			net_backoff(&backoff);
		}
	} while (open > 0);
	return 0;
}

static struct stream stream_of(const struct slot *slot, uint32_t peer, bool receive)
{
	const struct rail *rail = &slot->shape->rail[0];
	uint32_t me = slot->shape->member[0];

	return (struct stream){
		.peer = peer,
		.receive = receive,
		.part = {(uint8_t *)(slot->sums + slot_data_sum_index(slot->shape, 0, me, 0, 0)),
		         slot->data},
		.left = {rail_data_blocks(rail, me) * sizeof(uint32_t), slot->shape->data_bytes},
	};
}

/* Brings the slot of this rank's number here. */
static int fetch(struct rescue *r, struct rescue_member *mine, struct stream *stream)
{
	struct ftmem *ft = r->ft;
	uint32_t count = 0, me = ft->net->rank;
	int rc = 0;

	for (uint32_t i = 0; i < r->members; i++)
		if (r->member[i].rank != me)
			stream[count++] = stream_of(r->member[i].slot, r->member[i].rank, false);
	if (r->agent[me] != me)
		stream[count++] = stream_of(mine->slot, r->agent[me], true);
	rc = run_streams(ft, stream, count);
	for (uint32_t i = 0; rc < 0 && i < count; i++) {
		ft->net->lingering = ft->net->lingering || stream[i].req.active;
		ft->net->ops->cancel(ft->net, &stream[i].req);
	}
	return rc;
}

/* What is stored, at the addresses where it is asked for. */
static int match(const struct slot *slot, const struct layout *want, struct layout **out)
{
	struct layout *stored = NULL;
	int rc = layout_parse(slot->data, slot->shape->data_bytes, &stored);

	if (rc == 0)
		rc = layout_covers(stored, want);
	if (rc < 0) {
		layout_free(stored);
		return rc;
	}
	for (uint32_t i = 0; i < stored->count; i++) {
		const struct layout_entry *e = layout_find(want, stored->entry[i].name);

		stored->entry[i].addr = e ? e->addr : NULL;
	}
	*out = stored;
	return 0;
}

static int fill_regions(struct ftmem *ft, const struct slot *slot, const struct layout *stored)
{
	const struct slot_shape *shape = slot->shape;
	struct copy_job job = {
		.data = slot->data,
		.sums = slot->sums + slot_data_sum_index(shape, 0, shape->member[0], 0, 0),
	};
	struct copy_plan *plan = NULL;
	int rc = copy_plan_new(stored, &shape->rail[0], shape->member[0], &plan);

	if (rc < 0)
		return rc;
	job.plan = plan;
	job.landed = calloc(plan->blocks ? plan->blocks : 1, 1);
	rc = job.landed ? ft->copy_ops->restore(ft->copy, &job)
	                : error_set(FTMEM_ENOMEM, "no memory for %u block marks", plan->blocks);
	free(job.landed);
	copy_plan_free(plan);
	return rc;
}

int move_check(const struct rescue *r)
{
	uint32_t ranks = r->ft->net->size;

	if (r->ranks == ranks)
		return 0;
	return error_set(FTMEM_ELAYOUT,
	                 "version %" PRIu64 " was stored by %" PRIu32 " ranks, this job "
	                 "has %" PRIu32 ": start it with %" PRIu32 " ranks",
	                 r->choice.stamp.version, r->ranks, ranks, r->ranks);
}

int move_restore(struct rescue *r)
{
	struct ftmem *ft = r->ft;
	struct rescue_member *mine = rescue_find(r, ft->net->rank);
	struct stream *stream = NULL;
	struct layout *stored = NULL;
	int rc = 0;

	stream = calloc(r->members + 1, sizeof(*stream));
	if (!stream)
		rc = error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " streams", r->members);
	if (!mine)
		mine = &r->received;
	rc = session_agree(ft, rc, "moving stored data");
	if (rc == 0) {
		rc = session_agree(ft, fetch(r, mine, stream), "moving stored data");
		/* What is on its way would be taken for another try's. */
		ft->net->broken = ft->net->broken || rc < 0;
	}
	if (rc == 0 && (mine->slot->shape->data_bytes > 0 || ft->epoch->layout->count > 0))
		rc = match(mine->slot, ft->epoch->layout, &stored);
	rc = session_agree(ft, rc, "comparing layouts");
	if (rc == 0 && stored)
		rc = fill_regions(ft, mine->slot, stored);
	rc = session_agree(ft, rc, "filling the regions");
	layout_free(stored);
	free(stream);
	return rc;
}
