/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <string.h>

#include "checksum.h"
#include "stripe_impl.h"

int stripe_seal_begin(struct stripe *s)
{
	uint32_t tag = tag_rail(s->rail->id, TAG_TRAILER);
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < s->n; i++)
		if (i != s->me)
			rc = net_recv(s->config.net, s->rail->rank[i], tag, s->peer[i].trailer,
			              stripe_trailer_bytes(s, i), &s->peer[i].trailer_recv);
	return rc;
}

/* 1 all blocks landed, -1 one failed, 0 not yet. */
static int own_copy(const struct stripe *s)
{
	int verdict = 1;

	for (uint32_t i = 0; s->job && i < s->job->plan->blocks; i++) {
		switch (atomic_load_explicit(&s->job->landed[i], memory_order_acquire)) {
		case COPY_PENDING:
			return 0;
		case COPY_FAILED:
			verdict = -1;
			break;
		default:
			break;
		}
	}
	return verdict;
}

static int send_trailers(struct stripe *s, bool *progress)
{
	uint32_t tag = tag_rail(s->rail->id, TAG_TRAILER), count = rail_data_blocks(s->rail, s->me);
	int good, rc = 0;

	/* Rows that were sent have landed; without peers nothing is sent. */
	if (s->sealed || (s->m > 0 && s->send_row < s->own_rows))
		return 0;
	good = own_copy(s);
	if (good == 0)
		return 0;
	s->sealed = true;
	s->damaged = s->damaged || good < 0;
	*progress = true;
	s->own_trailer->version = s->own_intent.version;
	s->own_trailer->good = good > 0;
	s->own_trailer->count = count;
	if (count > 0)
		memcpy(s->own_trailer->sums, stripe_sum_at(s, s->me, 0, 0),
		       count * sizeof(uint32_t));
	s->own_trailer->sum = 0;
	s->own_trailer->sum = checksum(s->own_trailer, stripe_trailer_bytes(s, s->me));
	for (uint32_t t = 1; rc == 0 && t < s->n; t++) {
		uint32_t i = (s->me + t) % s->n;

		rc = net_send(s->config.net, s->rail->rank[i], tag, s->own_trailer,
		              stripe_trailer_bytes(s, s->me), &s->peer[i].trailer_send);
	}
	return rc;
}

/* Most of its checksums are of blocks that did not come here: nothing else tells
 * whether they are right. */
static bool trailer_fits(const struct stripe *s, uint32_t member)
{
	struct stripe_trailer *t = s->peer[member].trailer;
	uint32_t sum = t->sum;

	t->sum = 0;
	t->sum = checksum(t, stripe_trailer_bytes(s, member));
	return t->sum == sum;
}

/* Compares what arrived from member with the checksums it took when it copied. */
void stripe_check(struct stripe *s, uint32_t member)
{
	const struct stripe_trailer *t = s->peer[member].trailer;
	uint32_t rows = rail_chunk_rows(s->rail, member);

	if (!trailer_fits(s, member) || t->version != s->own_intent.version ||
	    t->count != rail_data_blocks(s->rail, member)) {
		log_line(s->config.log, FTMEM_LOG_ERROR,
		         "rank %" PRIu32 " sealed another version or layout, "
		         "or its checksums were damaged on their way",
		         s->rail->rank[member]);
		s->damaged = true;
		return;
	}
	if (!t->good) {
		s->damaged = true;
		return;
	}
	for (uint32_t j = 0; j < s->m; j++) {
		uint32_t stripe = rail_stripe_of_parity(s->rail, s->me, j), chunk;

		if (rail_is_parity(s->rail, stripe, member) || rows == 0)
			continue;
		chunk = rail_chunk(s->rail, stripe, member);
		for (uint32_t b = 0; b < rows; b++) {
			if (rail_data_len(s->rail, member, chunk, b) == 0 ||
			    *stripe_sum_at(s, member, chunk, b) == t->sums[chunk * rows + b])
				continue;
			log_line(s->config.log, FTMEM_LOG_ERROR,
			         "a block of rank %" PRIu32 " was damaged on "
			         "its way: version %" PRIu64 " is dropped",
			         s->rail->rank[member], s->own_intent.version);
			s->damaged = true;
			return;
		}
	}
	if (t->count > 0)
		memcpy(stripe_sum_at(s, member, 0, 0), t->sums, t->count * sizeof(uint32_t));
}

int stripe_seal(struct stripe *s, bool *progress, uint32_t *active)
{
	uint32_t done = 0;
	int rc = send_trailers(s, progress);

	/* Received trailers wait until the blocks they speak of are there. */
	for (uint32_t i = 0; rc == 0 && i < s->n; i++) {
		rc = stripe_test(s, &s->peer[i].trailer_send, &done, active);
		if (rc == 0)
			rc = stripe_test(s, &s->peer[i].trailer_recv, &done, active);
	}
	*progress = *progress || done > 0;
	return rc;
}
