/* SPDX-License-Identifier: BSD-3-Clause */
/* What every rank tells the owners of names at a restore, and hears from them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fabric.h"
#include "growth.h"
#include "plan.h"

static const uint32_t *watched;
static uint32_t watched_count;
static struct growth_stream *streams;

static void stream_put(struct growth_stream *s, const void *from, uint64_t bytes)
{
	uint8_t *grown = realloc(s->at, s->size + bytes + 1);

	growth_require(grown, "memory");
	s->at = grown;
	if (bytes > 0)
		memcpy(s->at + s->size, from, bytes);
	s->size += bytes;
}

/* As courier.c sends it: the size first. */
static void watch(uint32_t rank, const uint8_t *in, uint64_t bytes)
{
	for (uint32_t i = 0; i < watched_count; i++)
		if (watched[i] == rank) {
			stream_put(&streams[i], &bytes, sizeof(bytes));
			stream_put(&streams[i], in, bytes);
		}
}

/* The same records as move_plan.c makes of one private region that is where it was. */
static void put_records(const struct growth_job *job, struct route *route, uint32_t rank)
{
	struct plan_stored s = {.agent = rank, .rank = rank, .piece = 0};
	struct plan_wanted w;
	struct bytes b = {0};
	uint32_t owner;

	s.tensor = (struct tensor){.name = "state", .home = rank, .elem_bytes = 1, .ndim = 1};
	s.tensor.shape[0] = job->region_bytes;
	s.box = (struct box){.ndim = 1, .extent = {job->region_bytes}};
	w = (struct plan_wanted){s.tensor, s.box};
	owner = tensor_owner(s.tensor.name, s.tensor.home, job->ranks);
	growth_require(plan_stored_put(&b, &s) == 0 &&
	                       route_put(route, owner, b.at, (uint32_t)b.size) == 0,
	               "stored");
	b.size = 0;
	growth_require(plan_wanted_put(&b, &w) == 0 &&
	                       route_put(route, owner, b.at, (uint32_t)b.size) == 0,
	               "wanted");
	bytes_deinit(&b);
}

static void answer(struct route *route)
{
	struct plan *plan = NULL;
	struct bytes b = {0};
	uint32_t arrived = route_arrived(route);

	growth_require(plan_new(&plan) == 0, "plan");
	for (uint32_t i = 0; i < arrived; i++) {
		struct route_record record = route_get(route, i);

		growth_require(plan_add(plan, record.at, record.bytes) == 0, "plan");
	}
	growth_require(plan_solve(plan) == 0, "plan");
	for (uint32_t i = 0; i < arrived; i++) {
		b.size = 0;
		growth_require(plan_answer(plan, i, &b) == 0, "plan");
		if (b.size > 0)
			growth_require(route_answer(route, i, b.at, (uint32_t)b.size) == 0, "plan");
	}
	plan_free(plan);
	bytes_deinit(&b);
}

void growth_plan(const struct growth_job *job, const uint32_t *rank, uint32_t count,
                 struct growth_stream *out)
{
	struct fabric f;

	watched = rank;
	watched_count = count;
	streams = out;
	fabric_init(&f, job->ranks);
	f.watch = watch;
	for (uint32_t r = 0; r < job->ranks; r++)
		put_records(job, f.route[r], r);
	fabric_forward(&f);
	for (uint32_t r = 0; r < job->ranks; r++)
		answer(f.route[r]);
	fabric_back(&f);
	fabric_deinit(&f);
}
