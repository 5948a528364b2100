/* SPDX-License-Identifier: BSD-3-Clause */
/* The way back of a route. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

#include "error.h"
#include "route_impl.h"

static int answer_put(struct bytes *to, uint32_t number, uint32_t index, const uint8_t *answer,
                      uint32_t bytes)
{
	uint8_t *at = bytes_grow(to, ROUTE_HEAD + (uint64_t)bytes);

	if (!at)
		return FTMEM_ENOMEM;
	route_store(at, number);
	route_store(at + 4, index);
	route_store(at + 8, bytes);
	if (bytes > 0)
		memcpy(at + ROUTE_HEAD, answer, bytes);
	return 0;
}

/* at: + 1; 0: none, which is empty. */
static struct route_reply answer_get(const struct bytes *from, uint64_t at)
{
	const uint8_t *head;

	if (at == 0)
		return (struct route_reply){0};
	head = from->at + (at - 1);
	return (struct route_reply){head + ROUTE_HEAD, route_load(head + 8), route_load(head + 4)};
}

static int places(uint64_t **at, uint32_t count)
{
	if (!*at)
		*at = calloc((size_t)count + 1, sizeof(**at));
	return *at ? 0 : error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " answers", count);
}

int route_answer(struct route *r, uint32_t i, const void *answer, uint32_t bytes)
{
	uint64_t at = r->answers.size;
	int rc = places(&r->answer_at, route_arrived(r));

	if (rc == 0)
		rc = answer_put(&r->answers, i, 0, answer, bytes);
	if (rc == 0)
		r->answer_at[i] = at + 1;
	return rc;
}

static struct route_reply own_answer(const struct route *r, uint32_t number)
{
	return answer_get(&r->answers, r->answer_at ? r->answer_at[number] : 0);
}

/* Those that melted into records that stayed here take their answers from here. */
int route_back_out(struct route *r, uint32_t round, const uint8_t **out, uint64_t *bytes)
{
	struct route_lane *l = &r->lane[round];
	uint32_t members = route_members(l);
	int rc = 0;

	route_bucket_empty(&r->lane[r->rounds].bucket);
	for (uint32_t i = 0; rc == 0 && i < members; i++) {
		const struct route_member *m = route_member(l, i);
		struct route_reply own;

		if (m->bucket != r->rounds)
			continue;
		own = own_answer(r, m->number);
		rc = answer_put(&l->back, i, m->base, own.at, own.bytes);
	}
	bytes_deinit(&l->member);
	*out = l->back.at;
	*bytes = l->back.size;
	return rc;
}

/* Reads the answers to all that was sent in that round, each once. */
static bool answers_read(struct bytes_reader *reader, struct route_reply *answer, uint32_t count)
{
	uint32_t read = 0;

	while (reader->left > 0 && !reader->bad) {
		uint32_t number = bytes_get_u32(reader);
		uint32_t index = bytes_get_u32(reader);
		uint32_t bytes = bytes_get_u32(reader);
		const uint8_t *at = bytes_get(reader, bytes);

		if (!at || number >= count || answer[number].at)
			return false;
		answer[number] = (struct route_reply){at, bytes, index};
		read++;
	}
	return !reader->bad && read == count;
}

/* Gives the answers to those of a lane that left in that round. */
static int pass_on(struct route *r, uint32_t round, struct route_lane *l,
                   const struct route_reply *answer)
{
	uint32_t members = route_members(l);
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < members; i++) {
		const struct route_member *m = route_member(l, i);
		const struct route_reply *a;

		if (m->bucket != round)
			continue;
		a = &answer[m->number];
		if (a->index > UINT32_MAX - m->base)
			return route_nonsense(route_to(r->rank, r->ranks, round), "answers");
		if (l == &r->lane[r->rounds])
			r->reply_at[i] = l->back.size + 1;
		rc = answer_put(&l->back, i, a->index + m->base, a->at, a->bytes);
	}
	return rc;
}

int route_back_in(struct route *r, uint32_t round, const uint8_t *in, uint64_t bytes)
{
	struct bytes_reader reader = {.at = in, .left = bytes};
	struct route_lane *own = &r->lane[r->rounds];
	uint32_t count = r->lane[round].bucket.count;
	struct route_reply *answer = calloc((size_t)count + 1, sizeof(*answer));
	int rc = places(&r->reply_at, route_members(own));

	bytes_deinit(&r->lane[round].back);
	if (!answer)
		rc = error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " answers", count);
	if (rc == 0 && !answers_read(&reader, answer, count))
		rc = route_nonsense(route_to(r->rank, r->ranks, round), "answers");
	if (rc == 0)
		rc = pass_on(r, round, own, answer);
	for (uint32_t i = 0; rc == 0 && i < round; i++)
		rc = pass_on(r, round, &r->lane[i], answer);
	free(answer);
	return rc;
}

struct route_reply route_reply(const struct route *r, uint32_t i)
{
	const struct route_lane *own = &r->lane[r->rounds];
	const struct route_member *m = route_member(own, i);
	struct route_reply reply;

	if (m->bucket != r->rounds)
		return answer_get(&own->back, r->reply_at ? r->reply_at[i] : 0);
	reply = own_answer(r, m->number);
	reply.index = m->base;
	return reply;
}
