/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "copy_device_impl.h"
#include "error.h"
#include "thread.h"

/* Small enough that the processor checks the first blocks while most bands still copy; large
 * enough that queueing a band costs nothing beside copying it. But a lane takes some hundred
 * bands at once: who queues more waits for the link, and a fence for who queues. */
#define BAND_BYTES_MIN (UINT64_C(32) << 20)
#define BANDS_MOST     128u
/* Of staging memory no less than that is asked for when a device is short of it. */
#define STAGING_LEAST  (UINT64_C(64) << 20)

/* --- devices --- */

static void gpu_free(struct copy *c, struct copy_gpu *g)
{
	const struct device_ops *ops = c->ops;

	if (!g)
		return;
	if (g->d) {
		ops->free(g->d, g->staging);
		ops->event_free(g->as_of);
		ops->event_free(g->began);
		ops->event_free(g->staged);
		ops->event_free(g->asked);
		ops->event_free(g->half[0]);
		ops->event_free(g->half[1]);
		ops->event_free(g->in);
		ops->close(g->d);
	}
	pthread_mutex_destroy(&g->in_lock);
	free(g->run);
	free(g);
}

static int gpu_events(struct copy *c, struct copy_gpu *g)
{
	struct device_event **timed[] = {&g->began, &g->staged, &g->asked};
	struct device_event **plain[] = {&g->as_of, &g->half[0], &g->half[1], &g->in};
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < sizeof(timed) / sizeof(timed[0]); i++)
		rc = c->ops->event_new(g->d, true, timed[i]);
	for (size_t i = 0; rc == 0 && i < sizeof(plain) / sizeof(plain[0]); i++)
		rc = c->ops->event_new(g->d, false, plain[i]);
	return rc;
}

static int gpu_room(struct copy_gpu *g, uint32_t runs)
{
	struct device_run *run;

	if (runs <= g->run_room)
		return 0;
	run = realloc(g->run, runs * sizeof(*run));
	if (!run)
		return error_set(FTMEM_ENOMEM, "no memory to copy %u runs of device %d", runs,
		                 g->number);
	g->run = run;
	g->run_room = runs;
	return 0;
}

int gpu_need(struct copy *c, int number, struct copy_gpu **out)
{
	struct copy_gpu *g;
	int rc;

	if (number < 0 || number >= DEVICE_MAX)
		return error_set(FTMEM_EINVAL, "device %d: numbers are below %d", number,
		                 DEVICE_MAX);
	*out = c->gpu[number];
	if (*out)
		return 0;
	g = calloc(1, sizeof(*g));
	if (!g || pthread_mutex_init(&g->in_lock, NULL) != 0) {
		free(g);
		return error_set(FTMEM_ENOMEM, "no memory to use device %d", number);
	}
	g->number = number;
	g->pace = COPY_PACE_UNKNOWN;
	rc = c->ops->open(number, &g->d);
	if (rc == 0)
		rc = gpu_events(c, g);
	if (rc == 0)
		rc = gpu_room(g, RUNS_AT_ONCE);
	if (rc < 0) {
		gpu_free(c, g);
		return rc;
	}
	c->gpu[number] = *out = g;
	return 0;
}

/* --- what copies need whatever the plan --- */

/* The buffer through which checks read. */
static int bounce_need(struct copy *c, const struct copy_gpu *g)
{
	if (!c->bounce)
		c->bounce = aligned_alloc((size_t)sysconf(_SC_PAGESIZE), 2 * BOUNCE_BYTES);
	if (!c->bounce)
		return error_set(FTMEM_ENOMEM, "no memory to compare replicas in device memory");
	/* Checks are slow either way. */
	if (!c->bounce_pinned)
		c->bounce_pinned = c->ops->pin(g->d, c->bounce, 2 * BOUNCE_BYTES) == 0;
	return 0;
}

static int driver_need(struct copy *c)
{
	int err;

	if (c->driver_started)
		return 0;
	err = thread_start(&c->driver, device_drive, c);
	if (err)
		return error_sys(FTMEM_ESYS, err,
		                 "the thread that drives devices does not start: raise the limit "
		                 "of processes (ulimit -u)");
	(void)pthread_setname_np(c->driver, "ftmem-device");
	c->driver_started = true;
	return 0;
}

/* --- plans --- */

static void ready_free(struct copy *c, struct copy_ready *r)
{
	ready_unpin(c, r);
	for (uint32_t i = 0; i < r->events; i++)
		c->ops->event_free(r->event[i]);
	for (uint32_t i = 0; i < r->gpus; i++) {
		struct copy_gpu *g = c->gpu[r->bands->device[i]];

		if (--g->plans > 0)
			continue;
		c->ops->free(g->d, g->staging);
		g->staging = NULL;
		g->staging_bytes = 0;
	}
	copy_bands_free(r->bands);
	free(r->event);
	free((void *)r->left);
	free(r->good);
	free(r);
}

static uint64_t stage_bytes(const struct copy_bands *b, int device)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < b->parts; i++)
		bytes += b->part[i].device == device ? b->part[i].stage_bytes : 0;
	return bytes;
}

/* A device's first copy within itself may have to load code, which some drivers do only when
 * all its streams are at rest: it is not to be a snapshot's. */
static int staging_try(struct copy *c, struct copy_gpu *g)
{
	uint8_t *at = g->staging;
	struct device_run run = {at, at + g->staging_bytes / 2, g->staging_bytes / 2};
	uint64_t pause = PAUSE_MIN_NS;
	int rc = 0;

	if (run.bytes > 0)
		rc = c->ops->copy(g->d, DEVICE_STAGE, &run, 1);
	if (rc == 0)
		rc = c->ops->record(g->staged, DEVICE_STAGE);
	/* The end of the copy, or of the device, is the deadline. */
	while (rc == 0 && (rc = c->ops->query(g->staged)) == 0)
		pause_grow(&pause, PAUSE_MAX_NS);
	if (rc > 0)
		return 0;
	/* The memory will be freed. */
	c->ops->drain(g->d);
	return rc;
}

/* As much as there is, at most that many bytes; 0: none. */
static uint64_t staging_alloc(struct copy *c, struct copy_gpu *g, uint64_t bytes)
{
	int rc;

	while ((rc = c->ops->alloc(g->d, bytes, &g->staging)) < 0) {
		g->staging = NULL;
		if (rc != FTMEM_ENOMEM || bytes <= STAGING_LEAST)
			return 0;
		bytes -= bytes / 8;
		if (bytes < STAGING_LEAST)
			bytes = STAGING_LEAST;
	}
	return bytes;
}

/* Without it streams wait at fences until all has left the device. */
static int staging_take(struct copy *c, const struct copy_bands *b, struct copy_gpu *g)
{
	uint64_t bytes = stage_bytes(b, g->number);

	if (bytes > c->config.device_staging)
		bytes = c->config.device_staging;
	if (bytes <= g->staging_bytes)
		return 0;
	c->ops->free(g->d, g->staging);
	g->staging = NULL;
	g->staging_bytes = staging_alloc(c, g, bytes);
	if (g->staging_bytes < bytes && !g->warned_staging) {
		log_line(c->config.log, FTMEM_LOG_WARN,
		         "device %d: %llu of %llu bytes of staging memory, fences wait until what "
		         "does not fit has left it: %s",
		         g->number, (unsigned long long)g->staging_bytes, (unsigned long long)bytes,
		         error_msg());
		g->warned_staging = true;
	}
	return g->staging_bytes > 0 ? staging_try(c, g) : 0;
}

static int gpus_take(struct copy *c, struct copy_ready *r)
{
	const struct copy_bands *b = r->bands;
	uint32_t runs;
	int rc = 0;

	while (rc == 0 && r->gpus < b->devices) {
		struct copy_gpu *g = NULL;

		rc = gpu_need(c, b->device[r->gpus], &g);
		if (!g)
			break;
		g->plans++;
		r->gpus++;
		runs = 0;
		for (uint32_t i = 0; i < b->parts; i++)
			if (b->part[i].device == g->number && b->part[i].count > runs)
				runs = b->part[i].count;
		rc = gpu_room(g, runs);
		if (rc == 0)
			rc = staging_take(c, b, g);
	}
	return rc;
}

static int events_take(struct copy *c, struct copy_ready *r)
{
	const struct copy_bands *b = r->bands;
	int rc;

	for (; r->events < b->parts; r->events++) {
		rc = c->ops->event_new(c->gpu[b->part[r->events].device]->d, true,
		                       &r->event[r->events]);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static uint64_t band_bytes(const struct copy_plan *plan)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < plan->blocks; i++)
		bytes += plan->block[i].bytes;
	return bytes / BANDS_MOST > BAND_BYTES_MIN ? bytes / BANDS_MOST : BAND_BYTES_MIN;
}

static int ready_new(struct copy *c, struct copy_plan *plan, struct copy_ready **out)
{
	struct copy_ready *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return error_set(FTMEM_ENOMEM, "no memory to prepare a plan");
	r->plan = plan;
	rc = copy_bands_new(plan, band_bytes(plan), &r->bands);
	if (rc < 0)
		goto fail;
	r->event = calloc(r->bands->parts, sizeof(struct device_event *));
	r->left = calloc(r->bands->bands, sizeof(*r->left));
	r->good = calloc(plan->blocks, 1);
	if (!r->event || !r->left || !r->good) {
		rc = error_set(FTMEM_ENOMEM, "no memory to prepare a plan of %u blocks",
		               plan->blocks);
		goto fail;
	}
	rc = gpus_take(c, r);
	if (rc == 0)
		rc = events_take(c, r);
	if (rc < 0)
		goto fail;
	*out = r;
	return 0;
fail:
	ready_free(c, r);
	return rc;
}

/* Whatever this rank stores of their regions: streams are theirs, and replicas there are
 * compared. */
static int plan_open(struct copy *c, const struct copy_plan *plan)
{
	struct copy_gpu *g = NULL;
	int rc = 0;

	if (plan->devices == 0)
		return 0;
	for (int i = 0; rc == 0 && i < DEVICE_MAX; i++)
		if (plan->devices >> i & 1)
			rc = gpu_need(c, i, &g);
	if (rc == 0)
		rc = bounce_need(c, g);
	if (rc == 0)
		rc = driver_need(c);
	if (rc == 0)
		atomic_store(&c->on_devices, true);
	return rc;
}

int ready_prepare(struct copy *c, struct copy_plan *plan, void *addr, uint64_t bytes)
{
	struct copy_ready *r = NULL;
	bool first = !c->ready;
	int rc = plan_open(c, plan);

	if (rc < 0)
		return rc;
	if (plan->on_device) {
		rc = ready_new(c, plan, &r);
		if (rc < 0)
			return rc;
		ready_pin(c, r, addr, bytes);
		r->next = c->ready;
		c->ready = plan->ready = r;
	}
	/* While another plan is there it may be this one that is given up. */
	if (first) {
		pthread_mutex_lock(&c->lock);
		c->figures.device_bytes = r ? r->bands->device_bytes : 0;
		pthread_mutex_unlock(&c->lock);
	}
	return 0;
}

void ready_release(struct copy *c, struct copy_plan *plan)
{
	struct copy_ready **at = &c->ready;

	if (!plan->ready)
		return;
	while (*at && *at != plan->ready)
		at = &(*at)->next;
	if (*at)
		*at = plan->ready->next;
	ready_free(c, plan->ready);
	plan->ready = NULL;
}

void ready_close(struct copy *c)
{
	while (c->ready)
		ready_release(c, c->ready->plan);
	for (int i = 0; i < DEVICE_MAX; i++) {
		if (c->gpu[i] && c->bounce_pinned)
			c->ops->unpin(c->gpu[i]->d, c->bounce);
		if (c->gpu[i])
			c->bounce_pinned = false;
		gpu_free(c, c->gpu[i]);
	}
	free(c->bounce);
}
