/* SPDX-License-Identifier: BSD-3-Clause */
#include <string.h>

#include "checksum.h"
#include "clock.h"
#include "ec/codec.h"
#include "stripe_impl.h"

/* --- receive and encode --- */

/* The stripe of an own parity row, and the member of its data block d. */
static uint32_t source_of(const struct stripe *s, uint32_t j, uint32_t d)
{
	return rail_member_of_code(s->rail, rail_stripe_of_parity(s->rail, s->me, j), d);
}

static void encode(struct stripe *s, uint32_t b, uint32_t j)
{
	const struct stripe_row *r = &s->row[b % s->config.window];
	uint32_t len = rail_parity_len(s->rail, b), sum[RAIL_MAX];
	uint8_t *dst = slot_parity(s->slot, s->config.rail, j) + (uint64_t)b * s->rail->block_bytes;
	const uint8_t *src[RAIL_MAX];
	bool whole = len == s->rail->block_bytes;

	for (uint32_t d = 0; d < s->k; d++) {
		uint32_t member = source_of(s, j, d),
			 have = rail_data_len(s->rail, member, d, b);

		src[d] = have > 0
			? r->staging + (uint64_t)(j * s->k + d) * s->rail->block_bytes
			: s->zeros;
		sum[d] = have > 0 ? *stripe_sum_at(s, member, d, b) : s->zeros_sum;
		whole = whole && (have == 0 || have == len);
	}
	codec_encode(s->codec, j, len, src, dst);
	/* The first row is the sum of the data: its checksum costs no look at memory that
	 * was written past the cache. */
	s->slot->sums[slot_parity_sum_index(s->config.shape, s->config.rail, j, b)] =
		j == 0 && whole ? checksum_of_xor(sum, s->k, s->zeros_sum) : checksum(dst, len);
}

static int post_row(struct stripe *s, uint32_t b)
{
	struct stripe_row *r = &s->row[b % s->config.window];
	uint32_t tag = tag_rail(s->rail->id, TAG_BLOCK);

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
			              r->staging + (uint64_t)(j * s->k + d) * s->rail->block_bytes,
			              len, &r->recv[j * s->k + d]);
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
	struct stripe_row *r = &s->row[b % s->config.window];
	uint32_t member = source_of(s, j, d);
	uint32_t len = rail_data_len(s->rail, member, d, b), row_len = rail_parity_len(s->rail, b);
	uint8_t *block = r->staging + (uint64_t)(j * s->k + d) * s->rail->block_bytes;

	*stripe_sum_at(s, member, d, b) = checksum(block, len);
	memset(block + len, 0, row_len - len);
	r->left[j]--;
	r->recvs--;
}

static int step_receive_row(struct stripe *s, uint32_t b, bool *progress)
{
	struct stripe_row *r = &s->row[b % s->config.window];

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

int stripe_receive(struct stripe *s, bool *progress)
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

/* --- send --- */

/* 1 sent or nothing to send at this position, 0 not yet. */
static int send_one(struct stripe *s)
{
	struct stripe_row *r = &s->row[s->send_row % s->config.window];
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
	if (atomic_load_explicit(
		    &s->job->landed[copy_plan_index(s->rail, s->me, chunk, s->send_row)],
		    memory_order_acquire)
	    == COPY_PENDING)
		return 0;
	if (!limiter_allows(s->config.limiter, clock_ns()))
		return 0;
	rc = net_send(s->config.net, s->rail->rank[member], tag_rail(s->rail->id, TAG_BLOCK),
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
		struct stripe_row *r = &s->row[w];

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

int stripe_send(struct stripe *s, bool *progress)
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
