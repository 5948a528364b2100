/* SPDX-License-Identifier: BSD-3-Clause */
#include "share.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "courier.h"
#include "error.h"

#define WHAT "dividing replicas into shares"

/* What a rank learns of its boxes. */
struct learnt {
	struct bytes piece; /* struct layout_piece */
	struct bytes cell;  /* struct share_cell */
};

static struct match_claim claim_of(const struct region *r, uint32_t group)
{
	struct match_claim c = {.box = r->box, .group = group};

	strncpy(c.tensor.name, r->name, sizeof(c.tensor.name) - 1);
	c.tensor.home = TENSOR_GLOBAL;
	c.tensor.elem_bytes = r->elem_bytes;
	c.tensor.ndim = r->box.ndim;
	memcpy(c.tensor.shape, r->shape, sizeof(c.tensor.shape));
	return c;
}

static int put_claims(const struct net *net, uint32_t group, const struct layout *l,
                      struct route *route)
{
	struct bytes record = {0};
	int rc = FTMEM_OK;

	for (uint32_t i = 0; i < l->regions && !rc; i++) {
		struct match_claim claim;

		if (l->region[i].box.ndim == 0)
			continue;
		claim = claim_of(&l->region[i], group);
		record.size = 0;
		rc = match_claim_put(&record, &claim);
		if (!rc)
			rc = route_put(route,
			               tensor_owner(claim.tensor.name, TENSOR_GLOBAL, net->size),
			               record.at, (uint32_t)record.size);
	}
	bytes_deinit(&record);
	return rc;
}

/* Before anyone begins, so that a rank that cannot take part makes no one wait. */
static int agree_to_begin(struct net *net, uint32_t timeout_ms, int rc)
{
	uint64_t failed = rc != 0;
	int agreed = net_allreduce(net, &failed, 1, NET_MAX, clock_deadline(timeout_ms), WHAT);

	if (rc || agreed)
		return rc ? rc : agreed;
	return failed ? error_set(FTMEM_ENOMEM, "another rank has no memory for " WHAT) : FTMEM_OK;
}

/* Of the tensors that this rank is the owner of. Who gets no answer knows why. */
static int answer_claims(struct route *route)
{
	struct bytes answer = {0};
	struct match *m = NULL;
	uint32_t claims = route_arrived(route);
	int rc = match_new(&m);

	for (uint32_t i = 0; i < claims && !rc; i++) {
		struct route_record record = route_get(route, i);

		rc = match_add(m, record.at, record.bytes, record.count);
	}
	if (!rc)
		rc = match_solve(m);
	for (uint32_t i = 0; i < claims && !rc; i++) {
		answer.size = 0;
		rc = match_answer(m, i, &answer);
		if (!rc && answer.size > UINT32_MAX)
			rc = error_set(FTMEM_EINVAL, "a tensor's boxes overlap in too many cells");
		if (!rc)
			rc = route_answer(route, i, answer.at, (uint32_t)answer.size);
	}
	bytes_deinit(&answer);
	match_free(m);
	return rc;
}

static int learn_cell(struct learnt *to, uint32_t region, const struct match_cell *cell)
{
	struct share_cell shared = {region, *cell};
	struct box box[BOX_RANGE_MAX];
	uint32_t boxes = match_share(cell, box);
	int rc = cell->holders > 1 ? bytes_put(&to->cell, &shared, sizeof(shared)) : FTMEM_OK;

	for (uint32_t i = 0; i < boxes && !rc; i++) {
		struct layout_piece piece = {.region = region, .box = box[i]};

		rc = bytes_put(&to->piece, &piece, sizeof(piece));
	}
	return rc;
}

static int read_answers(const struct route *route, uint32_t group, const struct layout *l,
                        struct learnt *to)
{
	uint32_t claim = 0;
	int rc = FTMEM_OK;

	for (uint32_t i = 0; i < l->regions && !rc; i++) {
		struct match_cell *cell = NULL;
		struct match_claim said;
		struct route_reply reply;
		uint32_t cells = 0;

		if (l->region[i].box.ndim == 0)
			continue;
		said = claim_of(&l->region[i], group);
		reply = route_reply(route, claim++);
		rc = match_read(&said, reply.at, reply.bytes, reply.index, &cell, &cells);
		for (uint32_t j = 0; j < cells && !rc; j++)
			rc = learn_cell(to, i, &cell[j]);
		free(cell);
	}
	return rc;
}

static int compare_cells(const void *a, const void *b)
{
	const struct share_cell *x = a, *y = b;

	if (x->region != y->region)
		return x->region < y->region ? -1 : 1;
	return box_compare(&x->cell.box, &y->cell.box);
}

static int settle(struct layout *l, struct learnt *from, struct share_cell **cells, uint32_t *count)
{
	struct share_cell *cell = (struct share_cell *)from->cell.at;
	uint64_t pieces = from->piece.size / sizeof(struct layout_piece);
	uint64_t n = from->cell.size / sizeof(*cell);
	int rc;

	if (pieces > UINT32_MAX || n > UINT32_MAX)
		return error_set(FTMEM_EINVAL, "the boxes of a rank are cut into too many shares");
	rc = layout_settle(l, (const struct layout_piece *)from->piece.at, (uint32_t)pieces);
	if (rc)
		return rc;
	if (n > 0)
		qsort(cell, n, sizeof(*cell), compare_cells);
	from->cell = (struct bytes){0};
	*cells = cell;
	*count = (uint32_t)n;
	return FTMEM_OK;
}

int share_settle(struct net *net, uint32_t timeout_ms, uint32_t group, struct layout *l,
                 struct share_cell **cells, uint32_t *count)
{
	struct route *route = NULL;
	struct learnt learnt = {0};
	int rc = route_new(net->rank, net->size, &route), answered = FTMEM_OK;

	if (!rc)
		rc = put_claims(net, group, l, route);
	rc = agree_to_begin(net, timeout_ms, rc);
	if (!rc)
		rc = courier_forward(net, route, timeout_ms, WHAT);
	if (!rc) {
		answered = answer_claims(route);
		rc = courier_back(net, route, timeout_ms, WHAT);
	}
	if (!rc)
		rc = answered;
	if (!rc)
		rc = read_answers(route, group, l, &learnt);
	if (!rc)
		rc = settle(l, &learnt, cells, count);
	route_free(route);
	bytes_deinit(&learnt.piece);
	bytes_deinit(&learnt.cell);
	return rc;
}
