/* SPDX-License-Identifier: BSD-3-Clause */
#include "epoch.h"

#include <stdlib.h>

#include "clock.h"
#include "error.h"

const struct rail *epoch_rail(const struct epoch *e)
{
	return &e->arena->shape.rail[0];
}

uint32_t epoch_member(const struct epoch *e)
{
	return e->arena->shape.member[0];
}

uint32_t *epoch_own_sums(const struct epoch *e, const struct slot *slot)
{
	return slot->sums + slot_data_sum_index(&e->arena->shape, 0, epoch_member(e), 0, 0);
}

static int new_stripes(struct epoch *e, const struct epoch_config *config)
{
	uint32_t rails = e->arena->shape.rails;
	int rc = 0;

	e->stripe = calloc(rails, sizeof(struct stripe *));
	if (!e->stripe)
		return error_set(FTMEM_ENOMEM, "no memory for %u rails", rails);
	for (uint32_t i = 0; rc == 0 && i < rails; i++) {
		struct stripe_config sc = {
			.net = config->net,
			.shape = &e->arena->shape,
			.rail = i,
			.window = config->window,
			.limiter = &e->limiter,
			.log = config->log,
		};

		rc = stripe_new(&sc, &e->stripe[i]);
	}
	return rc;
}

int epoch_new(const struct epoch_config *config, struct layout *layout, struct arena *arena,
              struct epoch **out)
{
	struct epoch *e = calloc(1, sizeof(*e));
	int rc;

	*out = NULL;
	if (!e) {
		layout_free(layout);
		arena_free(arena);
		return error_set(FTMEM_ENOMEM, "no memory for the epoch");
	}
	e->layout = layout;
	e->arena = arena;
	e->number = arena->header->epoch;
	e->geometry = arena->header->geometry;
	e->limiter = (struct limiter){.rate = config->max_bandwidth, .last_ns = clock_ns()};
	rc = copy_plan_new(layout, epoch_rail(e), epoch_member(e), &e->plan);
	if (rc < 0)
		goto fail;
	e->landed = calloc(e->plan->blocks ? e->plan->blocks : 1, 1);
	if (!e->landed) {
		rc = error_set(FTMEM_ENOMEM, "no memory for %u block marks", e->plan->blocks);
		goto fail;
	}
	rc = new_stripes(e, config);
	if (rc < 0)
		goto fail;
	*out = e;
	return 0;
fail:
	epoch_free(e, false);
	return rc;
}

void epoch_free(struct epoch *e, bool linger)
{
	bool busy = linger;

	if (!e)
		return;
	for (uint32_t i = 0; e->stripe && i < e->arena->shape.rails; i++) {
		busy = busy || (e->stripe[i] && stripe_busy(e->stripe[i]));
		stripe_free(e->stripe[i]);
	}
	free(e->stripe);
	free(e->landed);
	copy_plan_free(e->plan);
	layout_free(e->layout);
	if (!busy)
		arena_free(e->arena);
	free(e);
}

uint64_t epoch_staging_bytes(const struct epoch *e)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < e->arena->shape.rails; i++)
		bytes += stripe_staging_bytes(e->stripe[i]);
	return bytes;
}
