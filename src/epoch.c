/* SPDX-License-Identifier: BSD-3-Clause */
#include "epoch.h"

#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "tune.h"

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

/* Fewer rows in flight than wished for where they would take more than is promised. */
static int fit_window(struct epoch *e, const struct epoch_config *config)
{
	const struct slot_shape *shape = &e->arena->shape;
	uint64_t fixed = 0, row = 0, room;
	uint32_t wanted;

	for (uint32_t i = 0; i < shape->rails; i++) {
		const struct rail *r = &shape->rail[i];

		fixed += r->block_bytes;
		for (uint32_t j = 0; j < r->n; j++)
			fixed += 64 + sizeof(uint32_t) * rail_data_blocks(r, j);
		row += (uint64_t)r->m * rail_k(r) * r->block_bytes;
	}
	room = fixed < EPOCH_STAGING_MAX / 2 ? EPOCH_STAGING_MAX - fixed : EPOCH_STAGING_MAX / 2;
	wanted = config->window ? config->window : tune_window(config->l2_bytes, row);
	e->window = row * wanted > room ? (uint32_t)(room / row) : wanted;
	if (e->window > 0)
		return 0;
	return error_set(
		FTMEM_EINVAL,
		"blocks of %u bytes take %llu MiB of exchange buffers in this "
		"group, more than the %llu MiB that are left for them: set FTMEM_BLOCK_BYTES or "
		"FTMEM_GROUP_NODES lower",
		shape->rail[0].block_bytes, (unsigned long long)(row >> 20),
		(unsigned long long)(room >> 20));
}

static int new_stripes(struct epoch *e, const struct epoch_config *config)
{
	uint32_t rails = e->arena->shape.rails;
	int rc = fit_window(e, config);

	if (rc < 0)
		return rc;
	e->stripe = calloc(rails, sizeof(struct stripe *));
	if (!e->stripe)
		return error_set(FTMEM_ENOMEM, "no memory for %u rails", rails);
	for (uint32_t i = 0; rc == 0 && i < rails; i++) {
		struct stripe_config sc = {
			.net = config->net,
			.shape = &e->arena->shape,
			.rail = i,
			.window = e->window,
			.limiter = &e->limiter,
			.log = config->log,
		};

		rc = stripe_new(&sc, &e->stripe[i]);
	}
	return rc;
}

int epoch_new(const struct epoch_config *config, const struct epoch_parts *parts,
              struct epoch **out)
{
	struct epoch *e = calloc(1, sizeof(*e));
	int rc;

	*out = NULL;
	if (!e) {
		layout_free(parts->layout);
		free(parts->cell);
		arena_free(parts->arena);
		return error_set(FTMEM_ENOMEM, "no memory for the epoch");
	}
	e->layout = parts->layout;
	e->cell = parts->cell;
	e->cells = parts->cells;
	e->arena = parts->arena;
	e->copy_ops = config->copy_ops;
	e->copy = config->copy;
	e->number = e->arena->header->epoch;
	e->geometry = e->arena->header->geometry;
	e->limiter = (struct limiter){.rate = config->max_bandwidth, .last_ns = clock_ns()};
	rc = copy_plan_new(e->layout, epoch_rail(e), epoch_member(e), &e->plan);
	if (rc == 0 && config->compare)
		rc = compare_new(e->layout, e->cell, e->cells, &e->compare);
	if (rc < 0)
		goto fail;
	e->landed = calloc(e->plan->blocks ? e->plan->blocks : 1, 1);
	if (!e->landed) {
		rc = error_set(FTMEM_ENOMEM, "no memory for %u block marks", e->plan->blocks);
		goto fail;
	}
	rc = new_stripes(e, config);
	/* Last, since it may take seconds. */
	if (rc == 0)
		rc = e->copy_ops->prepare(e->copy, e->plan, e->arena->base, e->arena->bytes);
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
	if (e->plan)
		e->copy_ops->release(e->copy, e->plan);
	copy_plan_free(e->plan);
	compare_free(e->compare);
	free(e->cell);
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
