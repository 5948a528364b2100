/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The way back. In a fill copy threads check blocks where they lie in the slot; who finds the
 * last good one of a band queues the band's runs, all of them, on IN. What is left at the end,
 * bands with blocks that are damaged or never became ready, goes block by block.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "copy_device_impl.h"
#include "error.h"

/* Waits until what was queued on IN is over. EDEVICE. */
static int in_drain(struct copy *c, struct copy_gpu *g)
{
	uint64_t pause = PAUSE_MIN_NS;
	int rc = c->ops->record(g->in, DEVICE_IN);

	if (rc < 0) {
		c->ops->drain(g->d);
		return rc;
	}
	/* The device's end of the copy, or of itself, is the deadline. */
	while ((rc = c->ops->query(g->in)) == 0)
		pause_grow(&pause, PAUSE_MAX_NS);
	return rc < 0 ? rc : 0;
}

static void batch_in(struct run_batch *b, uint8_t *to, const uint8_t *from, uint64_t bytes)
{
	run_batch_add(b, (struct device_run){to, from, bytes}, from);
}

/* --- fills --- */

static void fill_fail(struct copy *c)
{
	pthread_mutex_lock(&c->lock);
	if (!atomic_exchange(&c->fill_failed, true))
		snprintf(c->fill_reason, sizeof(c->fill_reason), "%.250s", error_msg());
	pthread_mutex_unlock(&c->lock);
}

static void band_in(struct copy *c, const struct copy_bands *b, const struct band *band)
{
	for (uint32_t i = 0; i < band->count && !atomic_load(&c->fill_failed); i++) {
		const struct band_part *part = &b->part[band->first + i];
		const struct band_run *run = b->run + part->first;
		struct copy_gpu *g = c->gpu[part->device];
		struct run_batch batch = {.c = c, .gpu = g, .lane = DEVICE_IN};
		int rc;

		pthread_mutex_lock(&g->in_lock);
		for (uint32_t j = 0; j < part->count; j++)
			batch_in(&batch, run[j].addr, c->fill.data + run[j].offset, run[j].bytes);
		rc = run_batch_queue(&batch);
		pthread_mutex_unlock(&g->in_lock);
		if (rc < 0)
			fill_fail(c);
	}
}

static uint32_t band_of(const struct copy_bands *b, uint32_t block)
{
	uint32_t low = 0, high = b->bands - 1, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (block < b->band[middle].block_end)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static void fill_deliver(void *arg, uint32_t block)
{
	struct copy *c = arg;
	struct copy_ready *r = c->fill.plan->ready;
	uint32_t band = band_of(r->bands, block);

	r->good[block] = 1;
	if (atomic_fetch_sub(&r->left[band], 1) > 1 || r->bands->band[band].count == 0)
		return;
	band_in(c, r->bands, &r->bands->band[band]);
}

int fill_begin(struct copy *c, const struct copy_fill *fill, uint32_t ready)
{
	const struct copy_arrivals arrivals = {.deliver = fill_deliver, .arg = c};
	struct copy_ready *r = fill->plan->ready;
	uint32_t first = 0;
	int rc;

	for (uint32_t i = 0; i < r->bands->bands; i++) {
		atomic_store(&r->left[i], r->bands->band[i].block_end - first);
		first = r->bands->band[i].block_end;
	}
	memset(r->good, 0, fill->plan->blocks);
	c->fill = *fill;
	atomic_store(&c->fill_failed, false);
	atomic_store(&c->filling, true);
	rc = copy_host_fill(c->host, fill, ready, &arrivals);
	if (rc < 0)
		atomic_store(&c->filling, false);
	return rc;
}

/* What of a good block belongs to the device. */
static void block_in(struct run_batch *batch, const struct copy_fill *fill, uint32_t index)
{
	const struct copy_block *block = &fill->plan->block[index];
	const struct copy_piece *piece = fill->plan->piece + block->first;

	for (uint32_t i = 0; i < block->count; i++) {
		const uint8_t *from = fill->data + block->offset + piece[i].offset;
		uint64_t at = 0, follow = piece[i].bytes, left;

		if (piece[i].device != batch->gpu->number)
			continue;
		for (uint64_t done = 0; done < piece[i].bytes; done += follow) {
			left = piece[i].bytes - done;
			if (piece[i].view)
				at = box_view_at(piece[i].view, piece[i].from + done, &follow);
			if (follow > left)
				follow = left;
			batch_in(batch, piece[i].addr + at, from + done, follow);
		}
	}
}

/* Good blocks of bands that are not whole. */
static void rest_in(struct copy *c, struct copy_gpu *g)
{
	const struct copy_ready *r = c->fill.plan->ready;
	struct run_batch batch = {.c = c, .gpu = g, .lane = DEVICE_IN};
	uint32_t block = 0;

	for (uint32_t i = 0; i < r->bands->bands; i++) {
		if (atomic_load(&r->left[i]) == 0)
			block = r->bands->band[i].block_end;
		for (; block < r->bands->band[i].block_end; block++)
			if (r->good[block])
				block_in(&batch, &c->fill, block);
	}
	if (run_batch_queue(&batch) < 0)
		fill_fail(c);
}

int fill_drain(struct copy *c)
{
	const struct copy_bands *b = c->fill.plan->ready->bands;
	int rc = 0, gpu_rc;

	for (uint32_t i = 0; i < b->devices; i++) {
		gpu_rc = in_drain(c, c->gpu[b->device[i]]);
		if (rc == 0)
			rc = gpu_rc;
	}
	return rc;
}

int fill_finish(struct copy *c, uint64_t *damaged)
{
	const struct copy_bands *b = c->fill.plan->ready->bands;
	int rc = c->inner->fill_end(c->host, damaged);

	for (uint32_t i = 0; i < b->devices && !atomic_load(&c->fill_failed); i++)
		rest_in(c, c->gpu[b->device[i]]);
	if (fill_drain(c) < 0)
		fill_fail(c);
	atomic_store(&c->filling, false);
	if (rc == 0 && atomic_load(&c->fill_failed))
		rc = error_set(FTMEM_EDEVICE, "%s", c->fill_reason);
	return rc;
}

/* --- puts --- */

static void put_in(struct run_batch *batch, const struct copy_put *put)
{
	uint64_t to, source, to_follow, follow;

	for (uint64_t done = 0; done < put->bytes; done += follow) {
		to = box_view_at(&put->to_view, put->to_from + done, &to_follow);
		source = box_view_at(&put->source_view, put->source_from + done, &follow);
		if (follow > to_follow)
			follow = to_follow;
		if (follow > put->bytes - done)
			follow = put->bytes - done;
		batch_in(batch, put->to + to, put->source + source, follow);
	}
}

/* Queues all puts of the device. */
static int puts_in(struct copy *c, struct copy_gpu *g, const struct copy_put *put, uint32_t count)
{
	struct run_batch batch = {.c = c, .gpu = g, .lane = DEVICE_IN};

	for (uint32_t i = 0; i < count; i++)
		if (put[i].device == g->number)
			put_in(&batch, &put[i]);
	return run_batch_queue(&batch);
}

static int puts_host(struct copy *c, const struct copy_put *put, uint32_t count, uint32_t hosts)
{
	struct copy_put *host;
	uint32_t n = 0;
	int rc;

	if (hosts == 0)
		return 0;
	if (hosts == count)
		return c->inner->put(c->host, put, count);
	host = malloc(hosts * sizeof(*host));
	if (!host)
		return error_set(FTMEM_ENOMEM, "no memory to copy %u parts", hosts);
	for (uint32_t i = 0; i < count; i++)
		if (put[i].device == DEVICE_HOST)
			host[n++] = put[i];
	rc = c->inner->put(c->host, host, hosts);
	free(host);
	return rc;
}

/* A bit for each device, all of which are open then. */
static int puts_devices(struct copy *c, const struct copy_put *put, uint32_t count,
                        uint64_t *devices, uint32_t *hosts)
{
	struct copy_gpu *g;
	int rc = 0;

	*devices = 0;
	*hosts = 0;
	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		if (put[i].device == DEVICE_HOST) {
			++*hosts;
			continue;
		}
		rc = gpu_need(c, put[i].device, &g);
		if (rc == 0)
			*devices |= UINT64_C(1) << g->number;
	}
	return rc;
}

int device_put(struct copy *c, const struct copy_put *put, uint32_t count)
{
	uint64_t devices;
	uint32_t hosts;
	int rc = puts_devices(c, put, count, &devices, &hosts), gpu_rc;

	/* Devices copy while the processor does. */
	for (int i = 0; rc == 0 && i < DEVICE_MAX; i++)
		if (devices >> i & 1)
			rc = puts_in(c, c->gpu[i], put, count);
	if (rc == 0)
		rc = puts_host(c, put, count, hosts);
	for (int i = 0; i < DEVICE_MAX; i++) {
		if (!(devices >> i & 1) || !c->gpu[i])
			continue;
		gpu_rc = in_drain(c, c->gpu[i]);
		if (rc == 0)
			rc = gpu_rc;
	}
	return rc;
}
