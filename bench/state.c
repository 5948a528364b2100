/* SPDX-License-Identifier: BSD-3-Clause */
#include "state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "error.h"

#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)
#define WORDS 512 /* checked at a time */

static int take(struct state *s, uint64_t bytes)
{
	void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (data == MAP_FAILED)
		return error_sys(FTMEM_ENOMEM, errno, "no memory for a state of %llu bytes; "
		                 "use a smaller --bytes", (unsigned long long)bytes);
	s->data = data;
	s->bytes = bytes;
	state_poison(s);
	return 0;
}

int state_init(struct state *s, uint64_t bytes, uint32_t regions, uint32_t rank)
{
	*s = (struct state){.id = rank, .regions = regions};
	return take(s, bytes);
}

int state_init_boxes(struct state *s, const struct state_box *box, uint32_t tensors)
{
	*s = (struct state){.kind = STATE_BOXES, .regions = tensors, .box = *box};
	return take(s, tensors * box->extent[0] * box->extent[1] * sizeof(uint64_t));
}

void state_deinit(struct state *s)
{
	if (s->data)
		munmap(s->data, s->bytes);
	*s = (struct state){0};
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static void generate(uint64_t seed, uint64_t first, uint64_t *out, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t x = (seed + first + i) * GOLDEN;

		out[i] = x ^ (x >> 32);
	}
}

/* Words that follow each other both in memory and in the pattern. */
struct stretch {
	uint64_t seed, first, offset, bytes;
};

static uint64_t stretch_count(const struct state *s)
{
	return s->kind == STATE_BOXES ? s->regions * s->box.extent[0] : 1;
}

/* All there is, or one row of a box. */
static struct stretch stretch_at(const struct state *s, uint64_t version, uint64_t i)
{
	const struct state_box *b = &s->box;
	uint64_t row, bytes;

	if (s->kind != STATE_BOXES)
		return (struct stretch){mix(mix(s->id + UINT64_C(1)) + version), 0, 0, s->bytes};
	row = b->start[0] + i % b->extent[0];
	bytes = b->extent[1] * sizeof(uint64_t);
	return (struct stretch){
		.seed = mix(mix(i / b->extent[0] + UINT64_C(1)) + version),
		.first = row * b->shape[1] + b->start[1],
		.offset = i * bytes,
		.bytes = bytes,
	};
}

static void stretch_fill(const struct stretch *r, uint8_t *data)
{
	uint64_t words = r->bytes / 8, last;

	generate(r->seed, r->first, (uint64_t *)(void *)data, words);
	generate(r->seed, r->first + words, &last, 1);
	memcpy(data + words * 8, &last, r->bytes % 8);
}

void state_fill(struct state *s, uint64_t version)
{
	for (uint64_t i = 0; i < stretch_count(s); i++) {
		struct stretch r = stretch_at(s, version, i);

		stretch_fill(&r, s->data + r.offset);
	}
}

void state_poison(struct state *s)
{
	memset(s->data, 0xee, s->bytes);
}

void state_replicate(struct state *s, uint32_t id)
{
	s->kind = STATE_REPLICA;
	s->id = id;
}

/* Wrong bytes; *first is where in data, if there are any. */
static uint64_t stretch_check(const struct stretch *r, const uint8_t *data, uint64_t *first)
{
	uint64_t wrong = 0;

	for (uint64_t at = 0; at < r->bytes; at += sizeof(uint64_t) * WORDS) {
		uint64_t want[WORDS];
		size_t len = r->bytes - at < sizeof(want) ? (size_t)(r->bytes - at) : sizeof(want);

		generate(r->seed, r->first + at / 8, want, WORDS);
		if (memcmp(data + at, want, len) == 0)
			continue;
		for (size_t i = 0; i < len; i++) {
			if (data[at + i] == ((const uint8_t *)want)[i])
				continue;
			if (wrong++ == 0)
				*first = at + i;
		}
	}
	return wrong;
}

uint64_t state_check(const struct state *s, uint64_t version, uint64_t *first)
{
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < stretch_count(s); i++) {
		struct stretch r = stretch_at(s, version, i);
		uint64_t at = 0, here = stretch_check(&r, s->data + r.offset, &at);

		if (here > 0 && wrong == 0)
			*first = r.offset + at;
		wrong += here;
	}
	return wrong;
}

/* Start of region number i; i == regions: the end. */
static uint64_t cut(const struct state *s, uint32_t i)
{
	uint64_t share = s->bytes / s->regions;

	if (i == s->regions)
		return s->bytes;
	return share * i + (share > s->regions ? i : 0);
}

void state_region(const struct state *s, uint32_t i, char text[STATE_NAME],
                  struct ftmem_region *out)
{
	uint64_t start = s->kind == STATE_BOXES ? s->bytes / s->regions * i : cut(s, i);
	uint64_t end = s->kind == STATE_BOXES ? s->bytes / s->regions * (i + 1) : cut(s, i + 1);

	*out = (struct ftmem_region)FTMEM_REGION_INIT;
	out->name = text;
	out->addr = s->data + start;
	out->bytes = end - start;
	switch (s->kind) {
	case STATE_PRIVATE:
		snprintf(text, STATE_NAME, "part%" PRIu32, i);
		break;
	case STATE_REPLICA:
		snprintf(text, STATE_NAME, "group%" PRIu32 ".part%" PRIu32, s->id, i);
		out->elem_bytes = 1;
		out->ndim = 1;
		out->shape[0] = out->extent[0] = out->bytes;
		break;
	case STATE_BOXES:
		snprintf(text, STATE_NAME, "tensor%" PRIu32, i);
		out->elem_bytes = sizeof(uint64_t);
		out->ndim = 2;
		memcpy(out->shape, s->box.shape, sizeof(s->box.shape));
		memcpy(out->start, s->box.start, sizeof(s->box.start));
		memcpy(out->extent, s->box.extent, sizeof(s->box.extent));
		break;
	}
}
