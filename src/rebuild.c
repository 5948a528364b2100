/* SPDX-License-Identifier: BSD-3-Clause */
#include "rebuild.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "clock.h"
#include "ec/codec.h"
#include "error.h"
#include "tags.h"

/* Decoders rotate over the live members with stripe and row; the rows' share of the
 * rotation repeats after this many, which bounds the number of decoding matrices. */
#define ROTATION 4

#define BIT(i) (UINT64_C(1) << (i))

/* One row of one stripe. Members are numbers in the rail. */
struct unit {
	uint32_t stripe, row, len;
	uint32_t decoder;
	uint32_t source[RAIL_MAX];     /* [k], the decoder first */
	uint32_t want[RAIL_MAX], wants;
	struct net_req *recv_source;   /* [k] */
	struct net_req *send_source;   /* [k] */
	struct net_req *recv_result;   /* [wants] */
	struct net_req *send_result;   /* [wants] */
	uint8_t *staging;              /* [k + m] blocks */
	bool decoded;
};

/* Decoding matrices, one for each pattern that comes up. */
struct pattern {
	uint32_t have[RAIL_MAX], want[RAIL_MAX], wants;
	struct codec_decoder *decoder;
};

struct rebuild {
	const struct rebuild_config *config;
	const struct rail *rail;
	uint32_t n, k, m, rows, me;
	uint64_t lost;
	uint64_t *erased;              /* [n * rows], NULL if no single block is bad */
	struct codec *codec;
	struct pattern *pattern;       /* [n * ROTATION] */
	struct unit *unit;             /* [window] */
	struct net_req *reqs;
	uint8_t *staging, *zeros;
	uint32_t reqs_per_unit;
	uint64_t head, tail, next;     /* units in flight: [head, tail); scan position */
	uint64_t decode_next;          /* units are decoded in order */
	struct rebuild_report *report;
};

/* --- which blocks are erased --- */

static uint64_t lost_mask(const struct rail *rail, const struct rebuild_member *member)
{
	uint64_t mask = 0;

	for (uint32_t i = 0; i < rail->n; i++)
		if (member[i].lost)
			mask |= BIT(i);
	return mask;
}

static uint64_t *erased_table(const struct rail *rail, uint64_t lost,
                              const struct rebuild_bad *bad, uint32_t count)
{
	uint32_t rows = rail_rows(rail);
	uint64_t *table = malloc(sizeof(*table) * rail->n * (rows ? rows : 1));

	if (!table)
		return NULL;
	for (uint64_t i = 0; i < (uint64_t)rail->n * rows; i++)
		table[i] = lost;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t stripe = bad[i].parity
			? rail_stripe_of_parity(rail, bad[i].member, bad[i].index)
			: rail_stripe_of_chunk(rail, bad[i].member, bad[i].index);

		if (bad[i].member < rail->n && bad[i].row < rows)
			table[(uint64_t)stripe * rows + bad[i].row] |= BIT(bad[i].member);
	}
	return table;
}

static uint32_t block_len(const struct rail *rail, uint32_t stripe, uint32_t member, uint32_t row)
{
	return rail_is_parity(rail, stripe, member)
		? rail_parity_len(rail, row)
		: rail_data_len(rail, member, rail_chunk(rail, stripe, member), row);
}

/* Blocks of no bytes are never missing. */
static uint64_t without_empty(const struct rail *rail, uint32_t stripe, uint32_t row, uint64_t mask)
{
	for (uint32_t i = 0; i < rail->n; i++)
		if ((mask & BIT(i)) && block_len(rail, stripe, i, row) == 0)
			mask &= ~BIT(i);
	return mask;
}

int rebuild_possible(const struct rail *rail, const struct rebuild_member *member,
                     const struct rebuild_bad *bad, uint32_t bad_count, bool *possible)
{
	uint64_t lost = lost_mask(rail, member);
	uint32_t rows = rail_rows(rail);
	uint64_t *table;

	*possible = (uint32_t)__builtin_popcountll(lost) <= rail->m;
	if (!*possible || bad_count == 0)
		return 0;
	table = erased_table(rail, lost, bad, bad_count);
	if (!table)
		return error_set(FTMEM_ENOMEM, "no memory for the table of erased blocks");
	for (uint32_t s = 0; s < rail->n; s++)
		for (uint32_t b = 0; b < rows; b++) {
			uint64_t mask = without_empty(rail, s, b, table[(uint64_t)s * rows + b]);

			if ((uint32_t)__builtin_popcountll(mask) > rail->m)
				*possible = false;
		}
	free(table);
	return 0;
}

/* --- units --- */

static uint8_t *block_at(const struct rebuild *r, uint32_t stripe, uint32_t member, uint32_t row)
{
	const struct rebuild_member *m = &r->config->member[member];

	if (rail_is_parity(r->rail, stripe, member))
		return slot_parity(m->slot, m->rail_index, rail_parity_row(r->rail, stripe, member)) +
		       (uint64_t)row * r->rail->block_bytes;
	return m->slot->data +
	       rail_data_offset(r->rail, member, rail_chunk(r->rail, stripe, member), row);
}

static bool is_here(const struct rebuild *r, uint32_t member)
{
	return r->config->member[member].agent == r->me;
}

/* Fills u for unit number i; false if nothing is to be done in it. */
static bool plan_unit(const struct rebuild *r, uint64_t i, struct unit *u)
{
	uint64_t erased, usable;
	uint32_t live = 0, turn, at;

	u->row = (uint32_t)(i / r->n);
	u->stripe = (uint32_t)(i % r->n);
	u->len = rail_parity_len(r->rail, u->row);
	erased = r->erased ? r->erased[(uint64_t)u->stripe * r->rows + u->row] : r->lost;
	usable = ~erased;
	erased = without_empty(r->rail, u->stripe, u->row, erased);
	u->wants = 0;
	u->decoded = false;
	for (uint32_t x = 0; x < r->n; x++) {
		if (usable & BIT(x))
			live++;
		if ((erased & BIT(x)) && (r->config->parity || !rail_is_parity(r->rail, u->stripe, x)))
			u->want[u->wants++] = x;
	}
	if (u->wants == 0 || live == 0)
		return false;
	turn = (u->stripe + u->row % ROTATION) % live;
	for (at = 0; !(usable & BIT(at)) || turn > 0; at++)
		turn -= (usable & BIT(at)) != 0;
	u->decoder = at;
	for (uint32_t c = 0; c < r->k; at = (at + 1) % r->n)
		if (!(erased & BIT(at)))
			u->source[c++] = at;
	return true;
}

/* Whether this rank has a part in the unit. */
static bool concerns(const struct rebuild *r, const struct unit *u)
{
	bool mine = false;

	for (uint32_t c = 0; c < r->k; c++)
		mine = mine || is_here(r, u->source[c]);
	for (uint32_t w = 0; w < u->wants; w++)
		mine = mine || is_here(r, u->want[w]);
	return mine;
}

static int begin_unit(struct rebuild *r, struct unit *u)
{
	struct net *net = r->config->net;
	uint32_t decoder_rank = r->config->member[u->decoder].agent;
	bool decode_here = is_here(r, u->decoder);
	int rc = 0;

	for (uint32_t c = 1; rc == 0 && c < r->k; c++) {
		uint32_t x = u->source[c], len = block_len(r->rail, u->stripe, x, u->row);
		uint32_t tag = tag_rebuild(TAG_SOURCE, x, u->decoder);

		if (len == 0 || is_here(r, x) == decode_here)
			continue;
		if (decode_here)
			rc = net_recv(net, r->config->member[x].agent, tag,
			              u->staging + (uint64_t)c * r->rail->block_bytes, len, &u->recv_source[c]);
		else
			rc = net_send(net, decoder_rank, tag, block_at(r, u->stripe, x, u->row), len,
			              &u->send_source[c]);
	}
	for (uint32_t w = 0; rc == 0 && !decode_here && w < u->wants; w++) {
		uint32_t x = u->want[w];

		if (is_here(r, x))
			rc = net_recv(net, decoder_rank, tag_rebuild(TAG_RESULT, u->decoder, x),
			              block_at(r, u->stripe, x, u->row),
			              block_len(r->rail, u->stripe, x, u->row), &u->recv_result[w]);
	}
	return rc;
}

static int decoder_for(struct rebuild *r, const struct unit *u, struct codec_decoder **out)
{
	struct pattern *p = &r->pattern[u->stripe * ROTATION + u->row % ROTATION];
	uint32_t have[RAIL_MAX], want[RAIL_MAX];
	int rc;

	for (uint32_t c = 0; c < r->k; c++)
		have[c] = rail_code_index(r->rail, u->stripe, u->source[c]);
	for (uint32_t w = 0; w < u->wants; w++)
		want[w] = rail_code_index(r->rail, u->stripe, u->want[w]);
	if (!p->decoder || p->wants != u->wants || memcmp(p->have, have, sizeof(have[0]) * r->k) != 0 ||
	    memcmp(p->want, want, sizeof(want[0]) * u->wants) != 0) {
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

/* Pointers to the k source blocks, each u->len bytes long. */
static void gather_sources(struct rebuild *r, struct unit *u, const uint8_t **src)
{
	for (uint32_t c = 0; c < r->k; c++) {
		uint32_t x = u->source[c], len = block_len(r->rail, u->stripe, x, u->row);
		uint8_t *staging = u->staging + (uint64_t)c * r->rail->block_bytes;

		if (len == 0) {
			src[c] = r->zeros;
		} else if (is_here(r, x) && len == u->len) {
			src[c] = block_at(r, u->stripe, x, u->row);
		} else {
			if (is_here(r, x))
				memcpy(staging, block_at(r, u->stripe, x, u->row), len);
			memset(staging + len, 0, u->len - len);
			src[c] = staging;
		}
	}
}

static int damaged(const struct rebuild *r, const struct unit *u, uint32_t member)
{
	return error_set(FTMEM_ECORRUPT, "rank %" PRIu32 ": block %" PRIu32 " of stripe %" PRIu32
	                 " of rail %" PRIu32 " was rebuilt, but does not fit its checksum",
	                 r->rail->rank[member], u->row, u->stripe, r->rail->id);
}

/* Checks data wherever it passes, and stores a lost parity block's checksum. */
static int check_block(struct rebuild *r, const struct unit *u, uint32_t owner, uint32_t member,
                       const uint8_t *block, uint32_t len)
{
	const struct rebuild_member *at = &r->config->member[owner];
	const struct slot_shape *shape = at->slot->shape;
	uint32_t sum = checksum(block, len);
	uint64_t i;

	if (!rail_is_parity(r->rail, u->stripe, member)) {
		i = slot_data_sum_index(shape, at->rail_index, member,
		                        rail_chunk(r->rail, u->stripe, member), u->row);
		return at->slot->sums[i] == sum ? 0 : damaged(r, u, member);
	}
	if (owner != member)
		return 0;
	i = slot_parity_sum_index(shape, at->rail_index, rail_parity_row(r->rail, u->stripe, member),
	                          u->row);
	if (r->config->member[member].lost)
		at->slot->sums[i] = sum;
	return at->slot->sums[i] == sum ? 0 : damaged(r, u, member);
}

static int store_result(struct rebuild *r, struct unit *u, uint32_t w)
{
	uint32_t x = u->want[w], len = block_len(r->rail, u->stripe, x, u->row);
	int rc = check_block(r, u, x, x, block_at(r, u->stripe, x, u->row), len);

	if (rc < 0)
		return rc;
	if (!r->config->member[x].lost)
		r->report->repaired_blocks++;
	if (rail_is_parity(r->rail, u->stripe, x))
		r->report->parity_bytes += len;
	else
		r->report->data_bytes += len;
	return 0;
}

static int decode_unit(struct rebuild *r, struct unit *u)
{
	const uint8_t *src[RAIL_MAX];
	uint8_t *dst[RAIL_MAX];
	struct codec_decoder *decoder;
	int rc = decoder_for(r, u, &decoder);

	if (rc < 0)
		return rc;
	gather_sources(r, u, src);
	for (uint32_t w = 0; w < u->wants; w++) {
		uint32_t x = u->want[w];

		dst[w] = u->staging + (uint64_t)(r->k + w) * r->rail->block_bytes;
		if (is_here(r, x) && block_len(r->rail, u->stripe, x, u->row) == u->len)
			dst[w] = block_at(r, u->stripe, x, u->row);
	}
	codec_decode(decoder, u->len, src, dst);
	for (uint32_t w = 0; rc == 0 && w < u->wants; w++) {
		uint32_t x = u->want[w], len = block_len(r->rail, u->stripe, x, u->row);

		rc = check_block(r, u, u->decoder, x, dst[w], len);
		if (rc < 0)
			return rc;
		if (!is_here(r, x)) {
			rc = net_send(r->config->net, r->config->member[x].agent,
			              tag_rebuild(TAG_RESULT, u->decoder, x), dst[w], len, &u->send_result[w]);
			continue;
		}
		if (len < u->len)
			memcpy(block_at(r, u->stripe, x, u->row), dst[w], len);
		rc = store_result(r, u, w);
	}
	u->decoded = true;
	return rc;
}

/* --- the loop --- */

static int test_all(struct rebuild *r, struct net_req *req, uint32_t count, uint32_t *active,
                    bool *progress, const struct net_req **waits)
{
	for (uint32_t i = 0; i < count; i++) {
		int rc;

		if (!req[i].active)
			continue;
		rc = net_test(r->config->net, &req[i]);
		if (rc < 0)
			return rc;
		if (req[i].active) {
			(*active)++;
			*waits = &req[i];
		} else {
			*progress = true;
		}
	}
	return 0;
}

/* Tests the results that come from the decoder: each is checked as it arrives. */
static int test_results(struct rebuild *r, struct unit *u, uint32_t *active, bool *progress,
                        const struct net_req **waits)
{
	int rc = 0;

	for (uint32_t w = 0; rc == 0 && w < u->wants; w++) {
		if (!u->recv_result[w].active)
			continue;
		rc = test_all(r, &u->recv_result[w], 1, active, progress, waits);
		if (rc == 0 && !u->recv_result[w].active)
			rc = store_result(r, u, w);
	}
	return rc;
}

/* 1 when the unit is over, 0 not yet. */
static int step_unit(struct rebuild *r, uint64_t number, bool *progress,
                     const struct net_req **waits)
{
	struct unit *u = &r->unit[number % r->config->window];
	uint32_t active = 0, sources = 0;
	int rc = test_all(r, u->recv_source, r->k, &sources, progress, waits);

	if (rc == 0 && sources == 0 && !u->decoded && r->decode_next == number) {
		if (is_here(r, u->decoder))
			rc = decode_unit(r, u);
		u->decoded = true;
		r->decode_next++;
		*progress = true;
	}
	if (rc == 0)
		rc = test_all(r, u->send_source, r->k, &active, progress, waits);
	if (rc == 0)
		rc = test_all(r, u->send_result, u->wants, &active, progress, waits);
	if (rc == 0)
		rc = test_results(r, u, &active, progress, waits);
	if (rc < 0)
		return rc;
	return u->decoded && sources == 0 && active == 0;
}

/* Takes further units into the window. */
static int refill(struct rebuild *r, bool *progress)
{
	uint64_t units = (uint64_t)r->rows * r->n;
	int rc = 0;

	while (rc == 0 && r->next < units && r->tail < r->head + r->config->window) {
		struct unit *u = &r->unit[r->tail % r->config->window];

		if (!plan_unit(r, r->next++, u) || !concerns(r, u))
			continue;
		rc = begin_unit(r, u);
		r->tail++;
		*progress = true;
	}
	return rc;
}

static int run(struct rebuild *r)
{
	uint64_t units = (uint64_t)r->rows * r->n, deadline = clock_deadline(r->config->timeout_ms);
	struct net_backoff backoff = {0};

	for (;;) {
		const struct net_req *waits = NULL;
		bool progress = false, first = true;
		int rc = refill(r, &progress);

		if (rc < 0)
			return rc;
		if (r->head == r->tail && r->next == units)
			return 0;
		for (uint64_t i = r->head; i < r->tail; i++) {
			rc = step_unit(r, i, &progress, &waits);
			if (rc < 0)
				return rc;
			if (rc == 1 && first)
				r->head++;
			else
				first = false;
		}
		if (progress) {
			backoff = (struct net_backoff){0};
			deadline = clock_deadline(r->config->timeout_ms);
		} else if (clock_ns() > deadline) {
			return error_set(FTMEM_ETIMEOUT, "rebuilding rail %" PRIu32 ": no answer from rank %"
			                 PRIu32 " within %" PRIu32 " ms", r->rail->id,
			                 waits ? waits->peer : r->me, r->config->timeout_ms);
		} else {
			net_backoff(&backoff);
		}
	}
}

/* --- checksums of lost members --- */

static uint64_t rail_sums(const struct rail *rail)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < rail->n; i++)
		count += rail_data_blocks(rail, i);
	return count;
}

static uint32_t *sums_of(const struct rebuild_member *m)
{
	return m->slot->sums + slot_data_sum_index(m->slot->shape, m->rail_index, 0, 0, 0);
}

/* The first live member gives each lost one the checksums of all members' data. */
static int share_sums(struct rebuild *r)
{
	const struct rebuild_member *member = r->config->member;
	size_t bytes = rail_sums(r->rail) * sizeof(uint32_t);
	uint64_t deadline = clock_deadline(r->config->timeout_ms);
	uint32_t giver = (uint32_t)__builtin_ctzll(~r->lost);
	int rc = 0;

	for (uint32_t x = 0; rc == 0 && bytes > 0 && x < r->n; x++) {
		uint32_t tag = tag_rebuild(TAG_SUMS, giver, x);

		if (!member[x].lost)
			continue;
		if (is_here(r, x) && is_here(r, giver))
			memcpy(sums_of(&member[x]), sums_of(&member[giver]), bytes);
		else if (is_here(r, x))
			rc = net_recv(r->config->net, member[giver].agent, tag, sums_of(&member[x]), bytes,
			              &r->reqs[x]);
		else if (is_here(r, giver))
			rc = net_send(r->config->net, member[x].agent, tag, sums_of(&member[giver]), bytes,
			              &r->reqs[x]);
	}
	for (uint32_t x = 0; rc == 0 && x < r->n; x++)
		rc = net_wait(r->config->net, &r->reqs[x], deadline, "checksums of lost ranks");
	return rc;
}

/* --- life --- */

static int rebuild_init(struct rebuild *r, const struct rebuild_config *config)
{
	uint32_t window = config->window;
	uint64_t block, per_unit;

	r->config = config;
	r->rail = config->rail;
	r->n = r->rail->n;
	r->m = r->rail->m;
	r->k = rail_k(r->rail);
	r->rows = rail_rows(r->rail);
	r->me = config->net->rank;
	r->lost = lost_mask(r->rail, config->member);
	r->reqs_per_unit = 2 * r->k + 2 * r->m;
	block = r->rail->block_bytes;
	per_unit = (r->k + r->m) * block;
	if (config->bad_count > 0) {
		r->erased = erased_table(r->rail, r->lost, config->bad, config->bad_count);
		if (!r->erased)
			return FTMEM_ENOMEM;
	}
	r->pattern = calloc((size_t)r->n * ROTATION, sizeof(*r->pattern));
	r->unit = calloc(window, sizeof(*r->unit));
	r->reqs = calloc((size_t)window * r->reqs_per_unit + r->n, sizeof(*r->reqs));
	r->staging = aligned_alloc(ARENA_PAGE, window * per_unit + block);
	if (!r->pattern || !r->unit || !r->reqs || !r->staging)
		return FTMEM_ENOMEM;
	r->zeros = r->staging + window * per_unit;
	memset(r->zeros, 0, block);
	for (uint32_t i = 0; i < window; i++) {
		struct unit *u = &r->unit[i];

		u->recv_source = r->reqs + r->n + (size_t)i * r->reqs_per_unit;
		u->send_source = u->recv_source + r->k;
		u->recv_result = u->send_source + r->k;
		u->send_result = u->recv_result + r->m;
		u->staging = r->staging + i * per_unit;
	}
	return codec_new(r->k, r->m, &r->codec);
}

static void rebuild_deinit(struct rebuild *r)
{
	bool active = false;

	for (size_t i = 0; r->reqs && i < (size_t)r->config->window * r->reqs_per_unit + r->n; i++) {
		active = active || r->reqs[i].active;
		r->config->net->ops->cancel(r->config->net, &r->reqs[i]);
	}
	for (uint32_t i = 0; r->pattern && i < r->n * ROTATION; i++)
		codec_decoder_free(r->pattern[i].decoder);
	/* A transfer that was given up may still write: its memory is not reused. */
	if (active)
		r->config->net->lingering = true;
	else
		free(r->staging);
	codec_free(r->codec);
	free(r->pattern);
	free(r->unit);
	free(r->reqs);
	free(r->erased);
}

int rebuild_rail(const struct rebuild_config *config, struct rebuild_report *report)
{
	struct rebuild r = {.report = report};
	int rc;

	if (config->rail->m == 0)
		return 0;
	rc = rebuild_init(&r, config);
	if (rc == FTMEM_ENOMEM)
		error_set(rc, "no memory to rebuild rail %" PRIu32, config->rail->id);
	if (rc == 0)
		rc = share_sums(&r);
	if (rc == 0)
		rc = run(&r);
	rebuild_deinit(&r);
	return rc;
}
