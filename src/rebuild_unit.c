/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <string.h>

#include "checksum.h"
#include "ec/codec.h"
#include "error.h"
#include "rebuild_impl.h"
#include "tags.h"

static uint8_t *block_at(const struct rebuild *r, uint32_t stripe, uint32_t member, uint32_t row)
{
	const struct rebuild_member *m = &r->config->member[member];

	if (rail_is_parity(r->rail, stripe, member))
		return slot_parity(m->slot, m->rail_index, rail_parity_row(r->rail, stripe, member))
		       + (uint64_t)row * r->rail->block_bytes;
	return m->slot->data +
	       rail_data_offset(r->rail, member, rail_chunk(r->rail, stripe, member), row);
}

static bool is_here(const struct rebuild *r, uint32_t member)
{
	return r->config->member[member].agent == r->me;
}

static uint32_t agent_of(const struct rebuild *r, uint32_t member)
{
	return r->config->member[member].agent;
}

/* --- planning --- */

/* Whether this rank has a part in the unit. */
static bool concerns(const struct rebuild *r, const struct rebuild_unit *u)
{
	bool mine = false;

	for (uint32_t c = 0; c < u->sources; c++)
		mine = mine || is_here(r, u->source[c]);
	for (uint32_t w = 0; w < u->wants; w++)
		mine = mine || is_here(r, u->want[w]);
	return mine;
}

bool rebuild_unit_plan(const struct rebuild *r, uint64_t i, struct rebuild_unit *u)
{
	uint64_t erased, usable;
	uint32_t live = 0, turn, at;

	u->row = (uint32_t)(i / r->n);
	u->stripe = (uint32_t)(i % r->n);
	u->len = rail_parity_len(r->rail, u->row);
	erased = r->erased ? r->erased[(uint64_t)u->stripe * r->rows + u->row] : r->lost;
	usable = ~erased;
	erased = rebuild_without_empty(r->rail, u->stripe, u->row, erased);
	u->wants = 0;
	u->sources = 0;
	u->decoded = false;
	for (uint32_t x = 0; x < r->n; x++) {
		if (usable & REBUILD_BIT(x))
			live++;
		if ((erased & REBUILD_BIT(x))
		    && (r->config->parity || !rail_is_parity(r->rail, u->stripe, x)))
			u->want[u->wants++] = x;
	}
	if (u->wants == 0)
		return false;
	/* Where there is no data all parity may be missing: it follows from nothing. */
	usable = live > 0 ? usable : erased;
	turn = (u->stripe + u->row % REBUILD_ROTATION) % (live > 0 ? live : u->wants);
	for (at = 0; !(usable & REBUILD_BIT(at)) || turn > 0; at++)
		turn -= (usable & REBUILD_BIT(at)) != 0;
	u->decoder = at;
	for (; u->sources < r->k; at = (at + 1) % r->n)
		if (!(erased & REBUILD_BIT(at)))
			u->source[u->sources++] = at;
	return concerns(r, u);
}

/* --- checksums --- */

/* Where member at keeps the checksum of a data block of member x. */
static uint32_t *data_sum(const struct rebuild *r, const struct rebuild_unit *u, uint32_t at,
                          uint32_t x)
{
	const struct rebuild_member *m = &r->config->member[at];

	return m->slot->sums + slot_data_sum_index(m->slot->shape, m->rail_index, x,
	                                           rail_chunk(r->rail, u->stripe, x), u->row);
}

/* Where member x keeps the checksum of its own parity block. */
static uint32_t *parity_sum(const struct rebuild *r, const struct rebuild_unit *u, uint32_t x)
{
	const struct rebuild_member *m = &r->config->member[x];

	return m->slot->sums
	       + slot_parity_sum_index(m->slot->shape, m->rail_index,
	                               rail_parity_row(r->rail, u->stripe, x), u->row);
}

/* In a pass it is not this module that decides what follows. */
static int damaged(struct rebuild *r, const struct rebuild_unit *u, uint32_t member)
{
	r->report->damaged_blocks++;
	if (r->config->pass)
		return 0;
	return error_set(FTMEM_ECORRUPT, "rank %" PRIu32 ": block %" PRIu32 " of stripe %" PRIu32
	                 " of rail %" PRIu32 " does not fit its checksum while it is rebuilt",
	                 r->rail->rank[member], u->row, u->stripe, r->rail->id);
}

/* --- parity that nobody needs --- */

static bool is_source(const struct rebuild_unit *u, uint32_t x)
{
	for (uint32_t c = 0; c < u->sources; c++)
		if (u->source[c] == x)
			return true;
	return false;
}

static void check_parity(struct rebuild *r, const struct rebuild_unit *u, uint32_t x)
{
	if (checksum(block_at(r, u->stripe, x, u->row), u->len) != *parity_sum(r, u, x))
		(void)damaged(r, u, x);
}

bool rebuild_unit_audit(struct rebuild *r, const struct rebuild_unit *u)
{
	bool any = false;

	for (uint32_t x = 0; x < r->n; x++) {
		if (!is_here(r, x) || r->config->member[x].lost ||
		    !rail_is_parity(r->rail, u->stripe, x) || is_source(u, x))
			continue;
		check_parity(r, u, x);
		any = true;
	}
	return any;
}

/* --- transfers --- */

static int transfer_send(struct rebuild *r, const struct rebuild_unit *u, uint32_t to,
                         enum tag_kind kind, uint32_t x, const uint8_t *block, uint32_t sum,
                         struct rebuild_transfer *t)
{
	struct net *net = r->config->net;
	uint32_t tag = tag_rail(r->rail->id, kind),
		 len = rebuild_len(r->rail, u->stripe, x, u->row);
	int rc = net_send(net, agent_of(r, to), tag, block, len, &t->block);

	t->value = sum;
	if (rc == 0 && rail_is_parity(r->rail, u->stripe, x))
		rc = net_send(net, agent_of(r, to), tag, &t->value, sizeof(t->value), &t->sum);
	return rc;
}

static int transfer_recv(struct rebuild *r, const struct rebuild_unit *u, uint32_t from,
                         enum tag_kind kind, uint32_t x, uint8_t *block,
                         struct rebuild_transfer *t)
{
	struct net *net = r->config->net;
	uint32_t tag = tag_rail(r->rail->id, kind),
		 len = rebuild_len(r->rail, u->stripe, x, u->row);
	int rc = net_recv(net, agent_of(r, from), tag, block, len, &t->block);

	if (rc == 0 && rail_is_parity(r->rail, u->stripe, x))
		rc = net_recv(net, agent_of(r, from), tag, &t->value, sizeof(t->value), &t->sum);
	return rc;
}

static int test_one(struct rebuild *r, struct net_req *req, struct rebuild_look *look)
{
	int rc;

	if (!req->active)
		return 0;
	rc = net_test(r->config->net, req);
	if (rc < 0)
		return rc;
	if (req->active) {
		look->active++;
		look->peer = req->peer;
	} else {
		look->progress = true;
	}
	return 0;
}

static int test_all(struct rebuild *r, struct rebuild_transfer *t, uint32_t count,
                    struct rebuild_look *look)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		rc = test_one(r, &t[i].block, look);
		if (rc == 0)
			rc = test_one(r, &t[i].sum, look);
	}
	return rc;
}

int rebuild_unit_begin(struct rebuild *r, struct rebuild_unit *u)
{
	bool decode_here = is_here(r, u->decoder);
	int rc = 0;

	for (uint32_t c = 1; rc == 0 && c < r->k; c++) {
		uint32_t x = u->source[c];

		if (rebuild_len(r->rail, u->stripe, x, u->row) == 0 || is_here(r, x) == decode_here)
			continue;
		if (decode_here)
			rc = transfer_recv(r, u, x, TAG_SOURCE, x,
			                   u->staging + (uint64_t)c * r->rail->block_bytes,
			                   &u->recv_source[c]);
		else
			rc = transfer_send(
				r, u, u->decoder, TAG_SOURCE, x, block_at(r, u->stripe, x, u->row),
				rail_is_parity(r->rail, u->stripe, x) ? *parity_sum(r, u, x) : 0,
				&u->send_source[c]);
	}
	for (uint32_t w = 0; rc == 0 && !decode_here && w < u->wants; w++)
		if (is_here(r, u->want[w]))
			rc = transfer_recv(r, u, u->decoder, TAG_RESULT, u->want[w],
			                   block_at(r, u->stripe, u->want[w], u->row),
			                   &u->recv_result[w]);
	return rc;
}

/* --- decoding --- */

static int decoder_for(struct rebuild *r, const struct rebuild_unit *u, struct codec_decoder **out)
{
	struct rebuild_pattern *p =
		&r->pattern[u->stripe * REBUILD_ROTATION + u->row % REBUILD_ROTATION];
	uint32_t have[RAIL_MAX] = {0}, want[RAIL_MAX] = {0};
	int rc;

	for (uint32_t c = 0; c < r->k; c++)
		have[c] = rail_code_index(r->rail, u->stripe, u->source[c]);
	for (uint32_t w = 0; w < u->wants; w++)
		want[w] = rail_code_index(r->rail, u->stripe, u->want[w]);
	if (!p->decoder || p->wants != u->wants
	    || memcmp(p->have, have, sizeof(have[0]) * r->k) != 0
	    || memcmp(p->want, want, sizeof(want[0]) * u->wants) != 0) {
		codec_decoder_free(p->decoder);
		p->decoder = NULL;
		rc = codec_decoder_new(r->codec, have, want, u->wants, &p->decoder);
		if (rc < 0)
			return rc;
		memcpy(p->have, have, sizeof(have[0]) * r->k);
		memcpy(p->want, want, sizeof(want[0]) * u->wants);
		p->wants = u->wants;
	}
	*out = p->decoder;
	return 0;
}

/* A source that came from another rank is what its owner holds. */
static int check_source(struct rebuild *r, const struct rebuild_unit *u, uint32_t c,
                        const uint8_t *block, uint32_t len)
{
	uint32_t x = u->source[c], sum = checksum(block, len);
	uint32_t expected = rail_is_parity(r->rail, u->stripe, x) ? u->recv_source[c].value
	                                                          : *data_sum(r, u, u->decoder, x);

	return sum == expected ? 0 : damaged(r, u, x);
}

/* Pointers to the k source blocks, each u->len bytes long. */
static int gather_sources(struct rebuild *r, struct rebuild_unit *u, const uint8_t **src)
{
	int rc = 0;

	for (uint32_t c = 0; rc == 0 && c < r->k; c++) {
		uint32_t x = u->source[c], len = rebuild_len(r->rail, u->stripe, x, u->row);
		uint8_t *staging = u->staging + (uint64_t)c * r->rail->block_bytes;

		src[c] = staging;
		if (len == 0) {
			src[c] = r->zeros;
			continue;
		}
		if (r->config->pass && is_here(r, x) && rail_is_parity(r->rail, u->stripe, x))
			check_parity(r, u, x);
		if (is_here(r, x) && len == u->len) {
			src[c] = block_at(r, u->stripe, x, u->row);
			continue;
		}
		if (is_here(r, x))
			memcpy(staging, block_at(r, u->stripe, x, u->row), len);
		else
			rc = check_source(r, u, c, staging, len);
		memset(staging + len, 0, u->len - len);
	}
	return rc;
}

/* Of rebuilt data, which in a pass is left to who copies it. */
static bool is_checked(const struct rebuild *r, const struct rebuild_unit *u, uint32_t x)
{
	return !r->config->pass || rail_is_parity(r->rail, u->stripe, x);
}

static uint32_t result_sum(const struct rebuild *r, const struct rebuild_unit *u, uint32_t x,
                           const uint8_t *block)
{
	uint32_t len = rebuild_len(r->rail, u->stripe, x, u->row);

	return is_checked(r, u, x) ? checksum(block, len) : 0;
}

/* A result is in its place; with this checksum, which is compared, or for the parity of
 * a lost member noted. */
static int store_result(struct rebuild *r, const struct rebuild_unit *u, uint32_t x, uint32_t sum)
{
	bool parity = rail_is_parity(r->rail, u->stripe, x), lost = r->config->member[x].lost;
	uint32_t *noted = parity ? parity_sum(r, u, x) : data_sum(r, u, x, x);

	if (parity && lost)
		*noted = sum;
	if (is_checked(r, u, x) && *noted != sum)
		return damaged(r, u, x);
	r->report->repaired_blocks += !lost;
	*(parity ? &r->report->parity_bytes : &r->report->data_bytes) +=
		rebuild_len(r->rail, u->stripe, x, u->row);
	return 0;
}

/* Checks what was decoded and brings it to its owner. */
static int deliver(struct rebuild *r, struct rebuild_unit *u, uint32_t w, const uint8_t *block)
{
	uint32_t x = u->want[w], len = rebuild_len(r->rail, u->stripe, x, u->row);
	uint32_t sum = result_sum(r, u, x, block);

	if (!rail_is_parity(r->rail, u->stripe, x) && is_checked(r, u, x) &&
	    *data_sum(r, u, u->decoder, x) != sum)
		return damaged(r, u, x);
	if (!is_here(r, x))
		return transfer_send(r, u, x, TAG_RESULT, x, block, sum, &u->send_result[w]);
	if (len < u->len)
		memcpy(block_at(r, u->stripe, x, u->row), block, len);
	return store_result(r, u, x, sum);
}

static int decode(struct rebuild *r, struct rebuild_unit *u)
{
	const uint8_t *src[RAIL_MAX];
	uint8_t *dst[RAIL_MAX];
	struct codec_decoder *decoder;
	int rc = decoder_for(r, u, &decoder);

	if (rc == 0)
		rc = gather_sources(r, u, src);
	if (rc < 0)
		return rc;
	for (uint32_t w = 0; w < u->wants; w++) {
		uint32_t x = u->want[w];

		dst[w] = u->staging + (uint64_t)(r->k + w) * r->rail->block_bytes;
		if (is_here(r, x) && rebuild_len(r->rail, u->stripe, x, u->row) == u->len)
			dst[w] = block_at(r, u->stripe, x, u->row);
	}
	codec_decode(decoder, u->len, src, dst);
	for (uint32_t w = 0; rc == 0 && w < u->wants; w++)
		rc = deliver(r, u, w, dst[w]);
	return rc;
}

/* Results that come from the decoder: each is checked as it arrives. */
static int step_results(struct rebuild *r, struct rebuild_unit *u, struct rebuild_look *look)
{
	int rc = 0;

	for (uint32_t w = 0; rc == 0 && w < u->wants; w++) {
		struct rebuild_transfer *t = &u->recv_result[w];
		uint32_t x = u->want[w], sum;

		if (!t->block.active && !t->sum.active)
			continue;
		rc = test_all(r, t, 1, look);
		if (rc < 0 || t->block.active || t->sum.active)
			continue;
		sum = result_sum(r, u, x, block_at(r, u->stripe, x, u->row));
		if (rail_is_parity(r->rail, u->stripe, x) && sum != t->value)
			rc = damaged(r, u, x);
		else
			rc = store_result(r, u, x, sum);
	}
	return rc;
}

int rebuild_unit_step(struct rebuild *r, struct rebuild_unit *u, bool turn,
                      struct rebuild_look *look)
{
	struct rebuild_look sources = {0}, rest = {0};
	int rc = test_all(r, u->recv_source, r->k, &sources);

	if (rc == 0 && sources.active == 0 && !u->decoded && turn) {
		if (is_here(r, u->decoder))
			rc = decode(r, u);
		u->decoded = true;
		sources.progress = true;
	}
	if (rc == 0)
		rc = test_all(r, u->send_source, r->k, &rest);
	if (rc == 0)
		rc = test_all(r, u->send_result, u->wants, &rest);
	if (rc == 0)
		rc = step_results(r, u, &rest);
	look->progress = look->progress || sources.progress || rest.progress;
	if (sources.active + rest.active > 0)
		look->peer = sources.active ? sources.peer : rest.peer;
	look->active += sources.active + rest.active;
	if (rc < 0)
		return rc;
	return u->decoded && sources.active + rest.active == 0;
}
