/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "clock.h"
#include "ec/codec.h"
#include "error.h"
#include "rebuild_impl.h"
#include "tags.h"

/* --- which blocks are erased --- */

static uint64_t lost_mask(const struct rail *rail, const struct rebuild_member *member)
{
	uint64_t mask = 0;

	for (uint32_t i = 0; i < rail->n; i++)
		if (member[i].lost)
			mask |= REBUILD_BIT(i);
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
			table[(uint64_t)stripe * rows + bad[i].row] |= REBUILD_BIT(bad[i].member);
	}
	return table;
}

uint32_t rebuild_len(const struct rail *rail, uint32_t stripe, uint32_t member, uint32_t row)
{
	return rail_is_parity(rail, stripe, member)
		? rail_parity_len(rail, row)
		: rail_data_len(rail, member, rail_chunk(rail, stripe, member), row);
}

/* Blocks of no bytes are never missing. */
uint64_t rebuild_without_empty(const struct rail *rail, uint32_t stripe, uint32_t row,
                               uint64_t mask)
{
	for (uint32_t i = 0; i < rail->n; i++)
		if ((mask & REBUILD_BIT(i)) && rebuild_len(rail, stripe, i, row) == 0)
			mask &= ~REBUILD_BIT(i);
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
			uint64_t mask =
				rebuild_without_empty(rail, s, b, table[(uint64_t)s * rows + b]);

			if ((uint32_t)__builtin_popcountll(mask) > rail->m)
				*possible = false;
		}
	free(table);
	return 0;
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

static size_t sums_bytes(const struct rebuild *r)
{
	return rail_sums(r->rail) * sizeof(uint32_t);
}

/* The first live member gives each lost one the checksums of all members' data. */
static int post_sums(struct rebuild *r)
{
	const struct rebuild_member *member = r->config->member;
	uint32_t giver = (uint32_t)__builtin_ctzll(~r->lost), tag = tag_rail(r->rail->id, TAG_SUMS);
	bool give = member[giver].agent == r->me;
	struct net *net = r->config->net;
	size_t bytes = sums_bytes(r);
	int rc = 0;

	for (uint32_t x = 0; rc == 0 && bytes > 0 && x < r->n; x++) {
		struct rebuild_transfer *t = &r->sums[x];
		bool take = member[x].agent == r->me;

		if (!member[x].lost)
			continue;
		if (take && give) {
			memcpy(sums_of(&member[x]), sums_of(&member[giver]), bytes);
		} else if (take) {
			rc = net_recv(net, member[giver].agent, tag, sums_of(&member[x]), bytes,
			              &t->block);
			if (rc == 0)
				rc = net_recv(net, member[giver].agent, tag, &t->value,
				              sizeof(t->value), &t->sum);
		} else if (give) {
			t->value = checksum(sums_of(&member[giver]), bytes);
			rc = net_send(net, member[x].agent, tag, sums_of(&member[giver]), bytes,
			              &t->block);
			if (rc == 0)
				rc = net_send(net, member[x].agent, tag, &t->value,
				              sizeof(t->value), &t->sum);
		}
	}
	return rc;
}

/* The table of member x has come, if it was to come here. */
static int check_sums(const struct rebuild *r, uint32_t x)
{
	const struct rebuild_member *member = &r->config->member[x];

	if (member->agent != r->me ||
	    checksum(sums_of(member), sums_bytes(r)) == r->sums[x].value)
		return 0;
	return error_set(FTMEM_ECORRUPT,
	                 "the checksums for rank %" PRIu32 " were damaged on their way",
	                 r->rail->rank[x]);
}

static int test_sums(struct rebuild *r, struct rebuild_look *look)
{
	int rc = 0;

	for (uint32_t x = 0; rc == 0 && x < r->n; x++) {
		struct rebuild_transfer *t = &r->sums[x];

		if (!t->block.active && !t->sum.active)
			continue;
		rc = net_test(r->config->net, &t->block);
		if (rc == 0)
			rc = net_test(r->config->net, &t->sum);
		if (t->block.active || t->sum.active) {
			look->active++;
			look->peer = t->block.active ? t->block.peer : t->sum.peer;
		} else if (rc == 0) {
			look->progress = true;
			rc = check_sums(r, x);
		}
	}
	return rc;
}

/* --- one rail --- */

/* Takes further units into the window. After a block that was checked others have their
 * turn: in other rails somebody may wait. */
static int refill(struct rebuild *r, struct rebuild_look *look)
{
	uint64_t units = (uint64_t)r->rows * r->n;
	bool audited = false;
	int rc = 0;

	while (rc == 0 && !audited && r->next < units && r->tail < r->head + r->config->window) {
		struct rebuild_unit *u = &r->unit[r->tail % r->config->window];
		bool mine = rebuild_unit_plan(r, r->next++, u);

		audited = r->config->pass && rebuild_unit_audit(r, u);
		look->progress = look->progress || audited;
		if (!mine)
			continue;
		rc = rebuild_unit_begin(r, u);
		r->tail++;
		look->progress = true;
	}
	return rc;
}

/* Tells up to which row nothing is missing any more. */
static void tell_landed(struct rebuild *r)
{
	const struct rebuild_pass *pass = r->config->pass;
	uint64_t over = r->head < r->tail ? r->unit[r->head % r->config->window].row
	                                  : r->next / r->n;

	if (!pass || !pass->landed || over == r->landed)
		return;
	r->landed = (uint32_t)over;
	pass->landed(pass->arg, r->landed);
}

/* 1 when the rail is whole, 0 not yet. */
static int step_rail(struct rebuild *r, struct rebuild_look *look)
{
	struct rebuild_look sums = {0};
	bool oldest = true;
	int rc = test_sums(r, &sums);

	look->progress = look->progress || sums.progress;
	if (sums.active > 0)
		look->peer = sums.peer;
	look->active += sums.active;
	if (rc < 0 || sums.active > 0)
		return rc;
	rc = refill(r, look);
	for (uint64_t i = r->head; rc >= 0 && i < r->tail; i++) {
		struct rebuild_unit *u = &r->unit[i % r->config->window];

		rc = rebuild_unit_step(r, u, r->decode_next == i, look);
		r->decode_next += r->decode_next == i && u->decoded;
		oldest = oldest && rc == 1;
		r->head += oldest;
	}
	if (rc < 0)
		return rc;
	tell_landed(r);
	return r->head == r->tail && r->next == (uint64_t)r->rows * r->n;
}

static int alloc_units(struct rebuild *r)
{
	uint32_t window = r->config->window, each = 2 * r->k + 2 * r->m;
	uint64_t block = r->rail->block_bytes, per_unit = (r->k + r->m) * block;

	r->pattern = calloc((size_t)r->n * REBUILD_ROTATION, sizeof(*r->pattern));
	r->unit = calloc(window, sizeof(*r->unit));
	r->transfer = calloc((size_t)window * each, sizeof(*r->transfer));
	r->sums = calloc(r->n, sizeof(*r->sums));
	r->staging = aligned_alloc(ARENA_PAGE, window * per_unit + block);
	if (!r->pattern || !r->unit || !r->transfer || !r->sums || !r->staging)
		return FTMEM_ENOMEM;
	r->zeros = r->staging + window * per_unit;
	memset(r->zeros, 0, block);
	for (uint32_t i = 0; i < window; i++) {
		struct rebuild_unit *u = &r->unit[i];

		u->recv_source = r->transfer + (size_t)i * each;
		u->send_source = u->recv_source + r->k;
		u->recv_result = u->send_source + r->k;
		u->send_result = u->recv_result + r->m;
		u->staging = r->staging + i * per_unit;
	}
	return 0;
}

static int rebuild_init(struct rebuild *r, const struct rebuild_config *config,
                        struct rebuild_report *report)
{
	int rc = 0;

	r->config = config;
	r->report = report;
	r->rail = config->rail;
	r->n = r->rail->n;
	r->m = r->rail->m;
	r->k = rail_k(r->rail);
	r->rows = rail_rows(r->rail);
	if (r->m == 0)
		return 0;
	r->me = config->net->rank;
	r->lost = lost_mask(r->rail, config->member);
	if (config->bad_count > 0) {
		r->erased = erased_table(r->rail, r->lost, config->bad, config->bad_count);
		rc = r->erased ? 0 : FTMEM_ENOMEM;
	}
	if (rc == 0)
		rc = alloc_units(r);
	if (rc == 0)
		rc = codec_new(r->k, r->m, &r->codec);
	if (rc == FTMEM_ENOMEM)
		error_set(rc, "no memory to rebuild rail %" PRIu32, r->rail->id);
	return rc;
}

static void give_up(struct rebuild *r, struct net_req *req, bool *active)
{
	*active = *active || req->active;
	r->config->net->ops->cancel(r->config->net, req);
}

static void rebuild_deinit(struct rebuild *r)
{
	size_t transfers = r->config ? (size_t)r->config->window * (2 * r->k + 2 * r->m) : 0;
	bool active = false;

	for (size_t i = 0; r->transfer && i < transfers; i++) {
		give_up(r, &r->transfer[i].block, &active);
		give_up(r, &r->transfer[i].sum, &active);
	}
	for (uint32_t i = 0; r->sums && i < r->n; i++) {
		give_up(r, &r->sums[i].block, &active);
		give_up(r, &r->sums[i].sum, &active);
	}
	for (uint32_t i = 0; r->pattern && i < r->n * REBUILD_ROTATION; i++)
		codec_decoder_free(r->pattern[i].decoder);
	/* A transfer that was given up may still touch its memory: it is not reused. */
	if (active) {
		r->config->net->lingering = true;
	} else {
		free(r->staging);
		free(r->transfer);
		free(r->sums);
	}
	codec_free(r->codec);
	free(r->pattern);
	free(r->unit);
	free(r->erased);
}

/* --- all rails --- */

/* Drives all rails at once: whoever waits for this rank in one of them must not wait
 * for the others. */
static int run(struct rebuild *r, uint32_t count)
{
	uint32_t timeout_ms = r->config->timeout_ms;
	uint64_t deadline = clock_deadline(timeout_ms);
	struct net_backoff backoff = {0};
	uint32_t open;

	do {
		struct rebuild_look look = {.peer = r->me};

		open = 0;
		for (uint32_t i = 0; i < count; i++) {
			int rc = r[i].m > 0 ? step_rail(&r[i], &look) : 1;

			if (rc < 0)
				return rc;
			open += rc == 0;
		}
		if (look.progress) {
			backoff = (struct net_backoff){0};
			deadline = clock_deadline(timeout_ms);
		} else if (open > 0 && clock_ns() > deadline) {
			return error_set(FTMEM_ETIMEOUT,
			                 "rebuilding: no answer from %s within %" PRIu32 " ms",
			                 net_who(r->config->net, look.peer).text, timeout_ms);
		} else {
			net_backoff(&backoff);
		}
	} while (open > 0);
	return 0;
}

int rebuild_rails(const struct rebuild_config *config, uint32_t count,
                  struct rebuild_report *report)
{
	struct rebuild *r;
	int rc = 0;

	if (count == 0)
		return 0;
	r = calloc(count, sizeof(*r));
	if (!r)
		return error_set(FTMEM_ENOMEM, "no memory to rebuild %" PRIu32 " rails", count);
	for (uint32_t i = 0; rc == 0 && i < count; i++)
		rc = rebuild_init(&r[i], &config[i], report);
	for (uint32_t i = 0; rc == 0 && i < count; i++)
		if (r[i].m > 0)
			rc = post_sums(&r[i]);
	if (rc == 0)
		rc = run(r, count);
	for (uint32_t i = 0; i < count; i++)
		rebuild_deinit(&r[i]);
	free(r);
	return rc;
}
