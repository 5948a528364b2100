/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What ranks tell each other about boxes, of any bytes: records at the owner of a name and its
 * answers (plan.h, match.h), and the messages that bring them (route.h). What is refused is
 * refused with the right code, what is taken makes sense, and an owner's own answers are never
 * refused. The first byte of the input says which.
 */
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "fuzz.h"
#include "match.h"
#include "plan.h"
#include "route.h"

#define RECORDS_MAX 24u
#define CELLS_MAX   256u
#define INDEX_MAX   4u
#define WORDS_MAX   32u

enum what { WHAT_PLAN, WHAT_MATCH, WHAT_ROUTE, WHAT_ANSWER, WHATS };

/* --- tensors and boxes --- */

/* One of few names and small shapes, so that boxes meet. */
static struct tensor take_tensor(struct fuzz_input *in)
{
	uint8_t kind = fuzz_u8(in);
	struct tensor t = {.name = {(char)('a' + kind % 2)}, .home = TENSOR_GLOBAL};

	t.elem_bytes = kind & 2 ? 1 : 4;
	t.ndim = 1 + (kind >> 2 & 3) % FTMEM_MAX_DIMS;
	if (kind & 16) {
		t.home = kind >> 6;
		t.elem_bytes = 1;
		t.ndim = 1;
	}
	for (uint32_t d = 0; d < t.ndim; d++)
		t.shape[d] = kind & 32 ? fuzz_number(in) : 12;
	return t;
}

static struct box take_box(struct fuzz_input *in, const struct tensor *t)
{
	struct box b = {.ndim = t->ndim};

	for (uint32_t d = 0; d < t->ndim; d++) {
		uint8_t at = fuzz_u8(in);

		b.start[d] = at & 15;
		b.extent[d] = at >> 4;
		if (at >= 0xf0) {
			b.start[d] = fuzz_number(in);
			b.extent[d] = fuzz_number(in);
		}
	}
	return b;
}

/* Some bytes of it become others, and its end another one, if the input says so. */
static void damage(struct fuzz_input *in, struct bytes *b)
{
	uint8_t how = fuzz_u8(in);

	if (how < 0xc0 || b->size == 0)
		return;
	for (uint32_t i = 0; i < (how & 3u); i++) {
		uint64_t at = fuzz_number(in) % b->size;

		b->at[at] = fuzz_u8(in);
	}
	if (how & 4)
		b->size -= fuzz_least(b->size, fuzz_u8(in));
}

/* In memory of exactly its size. */
static uint8_t *exact(const struct bytes *b)
{
	struct fuzz_input in = {b->at, b->size};

	return fuzz_copy(&in, b->size);
}

/* Each of the first words of an answer one more and one less. */
static void vary_words(struct bytes *answer, const void *question,
                       void (*read)(const void *question, const struct bytes *answer))
{
	for (uint64_t at = 0; at + 4 <= answer->size && at < 4 * WORDS_MAX; at += 4) {
		uint32_t was, is;

		memcpy(&was, answer->at + at, 4);
		for (int i = 0; i < 2; i++) {
			is = i ? was + 1 : was - 1;
			memcpy(answer->at + at, &is, 4);
			read(question, answer);
		}
		memcpy(answer->at + at, &was, 4);
	}
}

/* --- plan --- */

struct said {
	bool wanted;
	struct plan_stored stored; /* tensor and box of either kind */
};

static bool is_part(const struct said *s, uint32_t count, const struct tensor *t,
                    const struct plan_part *p)
{
	for (uint32_t i = 0; i < count; i++)
		if (!s[i].wanted && tensor_same(&s[i].stored.tensor, t)
		    && s[i].stored.agent == p->agent && s[i].stored.rank == p->rank
		    && s[i].stored.piece == p->piece && box_contains(&s[i].stored.box, &p->box))
			return true;
	return false;
}

/* An answer that was damaged may say anything that makes sense. */
static void read_parts(const struct plan_wanted *w, const struct bytes *answer, bool own,
                       const struct said *said, uint32_t count)
{
	uint8_t *copy = exact(answer);
	struct plan_part *part = NULL;
	uint32_t parts = 0;
	uint64_t elements = 0;
	int rc = plan_read(w, copy, (uint32_t)answer->size, &part, &parts);

	free(copy);
	FUZZ_REQUIRE(rc == 0 || rc == FTMEM_ELAYOUT || rc == FTMEM_ECORRUPT
	             || (!own && (rc == FTMEM_ENET || rc == FTMEM_ENOMEM)));
	for (uint32_t i = 0; i < parts && rc == 0; i++) {
		FUZZ_REQUIRE(box_contains(&w->box, &part[i].box));
		elements += box_count(&part[i].box);
		FUZZ_REQUIRE(!own || is_part(said, count, &w->tensor, &part[i]));
		for (uint32_t j = 0; own && j < i; j++) {
			struct box common;

			FUZZ_REQUIRE(!box_intersect(&part[i].box, &part[j].box, &common));
		}
	}
	FUZZ_REQUIRE(rc != 0 || elements == box_count(&w->box));
	free(part);
}

static void read_other_parts(const void *wanted, const struct bytes *answer)
{
	read_parts(wanted, answer, false, NULL, 0);
}

static bool add_record(struct plan *p, struct fuzz_input *in, struct said *said)
{
	struct bytes b = {0}, before = {0};
	uint8_t kind = fuzz_u8(in);
	struct plan_stored *s = &said->stored;
	bool same;
	int rc;

	said->wanted = kind & 1;
	s->agent = kind >> 1 & 3;
	s->rank = kind >> 3 & 3;
	s->piece = kind >> 5;
	s->tensor = take_tensor(in);
	s->box = take_box(in, &s->tensor);
	rc = said->wanted ? plan_wanted_put(&b, &(struct plan_wanted){s->tensor, s->box})
	                  : plan_stored_put(&b, s);
	FUZZ_REQUIRE(rc == 0 && bytes_put(&before, b.at, b.size) == 0);
	damage(in, &b);
	same = b.size == before.size && memcmp(b.at, before.at, b.size) == 0;
	bytes_deinit(&before);
	before.at = exact(&b);
	rc = plan_add(p, before.at, (uint32_t)b.size);
	FUZZ_REQUIRE(rc == 0 || rc == FTMEM_EINVAL);
	free(before.at);
	bytes_deinit(&b);
	/* One that became another is asked for, but not compared. */
	if (rc == 0 && !same)
		said->stored.tensor.name[0] = '\0';
	return rc == 0;
}

static void fuzz_plan(struct fuzz_input *in)
{
	struct said said[RECORDS_MAX] = {0};
	struct plan_unwanted rest;
	struct plan *p = NULL;
	uint32_t count = 0;
	bool damaged = false;

	FUZZ_REQUIRE(plan_new(&p) == 0);
	while (count < RECORDS_MAX && in->left > 0) {
		if (!add_record(p, in, &said[count]))
			continue;
		damaged |= said[count].stored.tensor.name[0] == '\0';
		count++;
	}
	FUZZ_REQUIRE(plan_solve(p) == 0 && plan_unwanted(p, &rest) == 0);
	FUZZ_REQUIRE(memchr(rest.example, 0, sizeof(rest.example)) != NULL);
	for (uint32_t i = 0; i < count; i++) {
		const struct plan_wanted w = {said[i].stored.tensor, said[i].stored.box};
		struct bytes answer = {0};

		FUZZ_REQUIRE(plan_answer(p, i, &answer) == 0);
		if (said[i].wanted && w.tensor.name[0]) {
			FUZZ_REQUIRE(answer.size > 0);
			read_parts(&w, &answer, !damaged, said, count);
			if (i + 1 == count)
				vary_words(&answer, &w, read_other_parts);
			damage(in, &answer);
			read_parts(&w, &answer, false, said, count);
		}
		bytes_deinit(&answer);
	}
	plan_free(p);
}

/* --- match --- */

struct claimed {
	struct match_claim claim;
	uint32_t count;
};

/* Cells of all claims, each once, and what all shares of them have together. */
struct cells {
	struct {
		char name;
		struct box box;
	} at[CELLS_MAX];
	uint32_t count;
	uint64_t elements, shared;
	bool all; /* were looked at */
};

static void note_cell(struct cells *c, char name, const struct match_cell *cell)
{
	struct box part[BOX_RANGE_MAX];
	uint32_t parts = match_share(cell, part), i = 0;

	for (uint32_t p = 0; p < parts; p++) {
		FUZZ_REQUIRE(box_contains(&cell->box, &part[p]));
		c->shared += box_count(&part[p]);
	}
	while (i < c->count && (c->at[i].name != name || !box_equal(&c->at[i].box, &cell->box))) {
		struct box common;

		FUZZ_REQUIRE(c->at[i].name != name
		             || !box_intersect(&c->at[i].box, &cell->box, &common));
		i++;
	}
	if (i < c->count)
		return;
	if (c->count == CELLS_MAX) {
		c->all = false;
		return;
	}
	c->at[c->count].name = name;
	c->at[c->count++].box = cell->box;
	c->elements += box_count(&cell->box);
}

static void read_cells(const struct claimed *s, const struct bytes *answer, bool own,
                       uint32_t index, struct cells *cells)
{
	uint8_t *copy = exact(answer);
	struct match_cell *cell = NULL;
	uint64_t elements = 0;
	uint32_t count = 0;
	int rc = match_read(&s->claim, copy, (uint32_t)answer->size, index, &cell, &count);

	free(copy);
	FUZZ_REQUIRE(rc == 0 || rc == FTMEM_EINVAL
	             || (!own && (rc == FTMEM_ENET || rc == FTMEM_ENOMEM)));
	for (uint32_t i = 0; i < count && rc == 0; i++) {
		FUZZ_REQUIRE(box_contains(&s->claim.box, &cell[i].box));
		FUZZ_REQUIRE(cell[i].ordinal < cell[i].holders);
		FUZZ_REQUIRE(cell[i].share < cell[i].shares || cell[i].share == UINT32_MAX);
		elements += box_count(&cell[i].box);
		if (own && cells)
			note_cell(cells, s->claim.tensor.name[0], &cell[i]);
	}
	FUZZ_REQUIRE(rc != 0 || elements == box_count(&s->claim.box));
	free(cell);
}

static void read_other_cells(const void *claimed, const struct bytes *answer)
{
	read_cells(claimed, answer, false, 0, NULL);
}

static bool add_claim(struct match *m, struct fuzz_input *in, struct claimed *s, bool *damaged)
{
	struct bytes b = {0}, before = {0};
	uint8_t kind = fuzz_u8(in);
	int rc;

	s->claim.tensor = take_tensor(in);
	s->claim.box = take_box(in, &s->claim.tensor);
	s->claim.group = kind & 3;
	s->count = kind & 0x80 ? (uint32_t)fuzz_number(in) : 1 + (kind >> 2 & 3u) % INDEX_MAX;
	FUZZ_REQUIRE(match_claim_put(&b, &s->claim) == 0 && bytes_put(&before, b.at, b.size) == 0);
	damage(in, &b);
	*damaged = b.size != before.size || memcmp(b.at, before.at, b.size) != 0;
	bytes_deinit(&before);
	before.at = exact(&b);
	rc = match_add(m, before.at, (uint32_t)b.size, s->count);
	FUZZ_REQUIRE(rc == 0 || rc == FTMEM_EINVAL);
	free(before.at);
	bytes_deinit(&b);
	return rc == 0;
}

static void fuzz_match(struct fuzz_input *in)
{
	struct claimed said[RECORDS_MAX] = {0};
	struct cells cells = {.all = true};
	bool any = false, damaged;
	struct match *m = NULL;
	uint32_t count = 0;

	FUZZ_REQUIRE(match_new(&m) == 0);
	while (count < RECORDS_MAX && in->left > 0)
		if (add_claim(m, in, &said[count], &damaged)) {
			any |= damaged;
			count++;
		}
	FUZZ_REQUIRE(match_solve(m) == 0);
	for (uint32_t i = 0; i < count; i++) {
		struct bytes answer = {0};

		FUZZ_REQUIRE(match_answer(m, i, &answer) == 0 && answer.size > 0);
		for (uint32_t j = 0; j < said[i].count && j < INDEX_MAX; j++)
			read_cells(&said[i], &answer, !any, j, &cells);
		cells.all &= said[i].count <= INDEX_MAX;
		if (i + 1 == count)
			vary_words(&answer, &said[i], read_other_cells);
		damage(in, &answer);
		read_cells(&said[i], &answer, false, fuzz_u8(in) % 8u, NULL);
		bytes_deinit(&answer);
	}
	FUZZ_REQUIRE(any || !cells.all || cells.shared == cells.elements);
	match_free(m);
}

/* --- route --- */

/* A message as it could come: of small numbers, or of any bytes. */
static void take_message(struct fuzz_input *in, struct bytes *b)
{
	uint32_t records = fuzz_u8(in), raw = records & 0x80;

	records %= 8;
	FUZZ_REQUIRE(raw || bytes_put_u32(b, records) == 0);
	for (uint32_t i = 0; i < records; i++) {
		uint32_t dest = fuzz_u8(in), bytes = fuzz_u8(in) % 16u;
		uint32_t count = (uint32_t)fuzz_number(in);
		uint8_t data[16];

		fuzz_take(in, data, bytes);
		FUZZ_REQUIRE(raw
		             || (bytes_put_u32(b, dest) == 0 && bytes_put_u32(b, bytes) == 0
		                 && bytes_put_u32(b, count) == 0));
		FUZZ_REQUIRE(bytes_put(b, data, bytes) == 0);
	}
}

/* Answers to as many records as were sent. */
static void take_answers(struct fuzz_input *in, uint32_t sent, struct bytes *b)
{
	for (uint32_t i = 0; i < sent && i < 64; i++) {
		uint8_t bytes = fuzz_u8(in) % 16u, data[16];

		fuzz_take(in, data, bytes);
		FUZZ_REQUIRE(bytes_put_u32(b, i) == 0 && bytes_put_u32(b, fuzz_u8(in)) == 0
		             && bytes_put_u32(b, bytes) == 0 && bytes_put(b, data, bytes) == 0);
	}
	damage(in, b);
}

static int go_there(struct fuzz_input *in, struct route *r, uint32_t rounds, uint32_t *sent)
{
	int rc = 0;

	for (uint32_t i = 0; i < rounds && !rc; i++) {
		struct bytes message = {0};
		const uint8_t *out;
		uint64_t bytes;
		uint8_t *copy;

		FUZZ_REQUIRE(route_out(r, i, &out, &bytes) == 0 && bytes >= sizeof(*sent));
		memcpy(&sent[i], out, sizeof(*sent));
		take_message(in, &message);
		copy = exact(&message);
		rc = route_in(r, i, copy, message.size);
		free(copy);
		bytes_deinit(&message);
	}
	FUZZ_REQUIRE(rc == 0 || rc == FTMEM_ENET);
	return rc;
}

static int come_back(struct fuzz_input *in, struct route *r, uint32_t rounds, const uint32_t *sent)
{
	int rc = 0;

	for (uint32_t i = rounds; i-- > 0 && !rc;) {
		struct bytes message = {0};
		const uint8_t *out;
		uint64_t bytes;
		uint8_t *copy;

		FUZZ_REQUIRE(route_back_out(r, i, &out, &bytes) == 0);
		take_answers(in, sent[i], &message);
		copy = exact(&message);
		rc = route_back_in(r, i, copy, message.size);
		free(copy);
		bytes_deinit(&message);
	}
	FUZZ_REQUIRE(rc == 0 || rc == FTMEM_ENET);
	return rc;
}

static void fuzz_route(struct fuzz_input *in)
{
	uint32_t ranks = 1 + fuzz_u8(in) % 20u, rank = fuzz_u8(in) % ranks, sum = 0;
	uint32_t rounds = route_rounds(ranks), puts = fuzz_u8(in) % 16u, sent[8] = {0};
	struct route *r = NULL;

	FUZZ_REQUIRE(route_new(rank, ranks, &r) == 0);
	for (uint32_t i = 0; i < puts; i++) {
		uint8_t at = fuzz_u8(in), data[4] = {at >> 6, 1, 2, 3};

		FUZZ_REQUIRE(route_put(r, at % ranks, data, 1 + (at >> 4 & 3)) == 0);
	}
	if (go_there(in, r, rounds, sent))
		goto out;
	for (uint32_t i = 0; i < route_arrived(r); i++) {
		struct route_record record = route_get(r, i);

		FUZZ_REQUIRE(record.bytes > 0 && record.count > 0);
		for (uint32_t j = 0; j < record.bytes; j++)
			sum += record.at[j];
		if (i % 4 != 3)
			FUZZ_REQUIRE(route_answer(r, i, record.at, record.bytes) == 0);
	}
	if (come_back(in, r, rounds, sent))
		goto out;
	for (uint32_t i = 0; i < puts; i++) {
		struct route_reply reply = route_reply(r, i);

		for (uint32_t j = 0; j < reply.bytes; j++)
			sum += reply.at[j];
	}
	FUZZ_REQUIRE(route_memory(r) + sum > 0);
out:
	route_free(r);
}

/* --- answers and orders of any bytes --- */

static void fuzz_answer(struct fuzz_input *in)
{
	const struct tensor t = take_tensor(in);
	const struct plan_wanted w = {t, {.ndim = 1, .start = {2}, .extent = {7}}};
	const struct claimed s = {.claim = {.tensor = t, .box = w.box}};
	struct bytes b = {.at = (uint8_t *)(uintptr_t)in->at, .size = in->left}, again = {0};
	uint8_t *copy = exact(&b);
	struct plan_order order;

	if (plan_order_get(copy, (uint32_t)b.size, &order) == 0) {
		FUZZ_REQUIRE(plan_order_put(&again, &order) == 0 && again.size == b.size);
		FUZZ_REQUIRE(memcmp(again.at, copy, b.size) == 0);
	}
	bytes_deinit(&again);
	free(copy);
	if (t.ndim != 1)
		return;
	read_parts(&w, &b, false, NULL, 0);
	read_cells(&s, &b, false, 1, NULL);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed)
{
	return fuzz_mutate(data, size, size_max, seed, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, fuzz_least(size, 4096)};

	switch ((enum what)(fuzz_u8(&in) % WHATS)) {
	case WHAT_PLAN: fuzz_plan(&in); break;
	case WHAT_MATCH: fuzz_match(&in); break;
	case WHAT_ROUTE: fuzz_route(&in); break;
	default: fuzz_answer(&in); break;
	}
	return 0;
}

void fuzz_seeds(const char *dir)
{
	/* Kind, tensor, box of two dimensions, no damage. */
	static const uint8_t plan[] = {
		WHAT_PLAN, 0,    4, 0x60, 0xc0, 0, 2,    4, 0x66, 0xc0, 0, 1, 4,
		0x62,      0xb1, 0, 1,    4,    0, 0xc0, 0, 0x21, 16,   8, 0};
	static const uint8_t match[] = {
		WHAT_MATCH, 0, 4, 0x60, 0xc0, 0, 5, 4, 0x60, 0xc0, 0, 2, 4, 0x63, 0x82, 0};
	static const uint8_t route[] = {
		WHAT_ROUTE, 5, 3, 4, 3, 3, 0x43, 0x85, 1, 3, 2, 1, 7, 8, 1, 4, 2, 1, 7, 8,
		1,          3, 1, 2, 9, 2, 1,    1,    0, 0, 0, 0, 0, 0};
	const struct plan_order order = {1, 2, 3, {.ndim = 2, .start = {4, 5}, .extent = {6, 7}}};
	const struct box part[] = {{.ndim = 1, .start = {2}, .extent = {3}},
	                           {.ndim = 1, .start = {5}, .extent = {4}}};
	struct bytes b = {0};

	fuzz_seed(dir, "plan", plan, sizeof(plan));
	fuzz_seed(dir, "match", match, sizeof(match));
	fuzz_seed(dir, "route", route, sizeof(route));
	FUZZ_REQUIRE(bytes_put(&b, "\3\0", 2) == 0 && plan_order_put(&b, &order) == 0);
	fuzz_seed(dir, "order", b.at, b.size);
	b.size = 2;
	FUZZ_REQUIRE(bytes_put_u32(&b, 1) == 0);
	for (uint32_t i = 0; i < 2; i++)
		FUZZ_REQUIRE(box_put(&b, &part[i]) == 0 && bytes_put_u32(&b, i) == 0
		             && bytes_put_u32(&b, i) == 0 && bytes_put_u32(&b, i) == 0);
	fuzz_seed(dir, "parts", b.at, b.size);
	b.size = 2;
	for (uint32_t i = 0; i < 2; i++)
		FUZZ_REQUIRE(bytes_put_u32(&b, i == 0 ? 1 : 0) == 0);
	b.size = 6;
	FUZZ_REQUIRE(bytes_put_u32(&b, 2) == 0 && bytes_put_u32(&b, 2) == 0);
	for (uint32_t i = 0; i < 2; i++) {
		const uint32_t word[] = {2, 0, 2, 0, 0, 2};

		FUZZ_REQUIRE(box_put(&b, &part[i]) == 0 && bytes_put(&b, word, sizeof(word)) == 0);
	}
	fuzz_seed(dir, "cells", b.at, b.size);
	bytes_deinit(&b);
}
