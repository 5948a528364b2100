/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver thread. It queues all copies of a job at once, ordered by events alone, so that
 * nothing on a device waits for this thread:
 *
 *   STAGE  as_of | bands s .. of the regions into staging memory | staged | checks
 *   OUT    as_of | began | band 0, event | band 1, event | ... | staged | band s, event | ...
 *
 * Bands before s go from the regions to the slot; those from s on when they are out of the
 * optimizer's way. Then it looks at the events until all are reached: as the bands of all
 * devices arrive, so do blocks, which copy threads wait for. What fails in between ends the
 * job, but not before all that was queued is over, or its device is lost.
 */
#include "copy_device_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "thread.h"

/* Streams that waited less did not wait: so long take the events themselves. */
#define STALL_S 10e-6

/* Between which places a part is copied. */
enum way { TO_SLOT, TO_STAGING, STAGING_TO_SLOT };

void pause_grow(uint64_t *pause, uint64_t most)
{
	clock_sleep(*pause);
	*pause = *pause * 2 < most ? *pause * 2 : most;
}

bool job_stops(const struct copy *c)
{
	return atomic_load(&c->cancelled) || atomic_load(&c->failed);
}

void arrival_tell(struct copy *c)
{
	pthread_mutex_lock(&c->arrival_lock);
	pthread_cond_broadcast(&c->arrival);
	pthread_mutex_unlock(&c->arrival_lock);
}

/* With the cause as the thread's message. What fails at every step is logged once. */
static void job_fail(struct copy *c)
{
	bool first;

	pthread_mutex_lock(&c->lock);
	first = !atomic_exchange(&c->failed, true);
	if (first)
		snprintf(c->reason, sizeof(c->reason), "%.*s", (int)sizeof(c->reason) - 1,
		         error_msg());
	pthread_mutex_unlock(&c->lock);
	arrival_tell(c);
	if (!first || strcmp(c->logged, c->reason) == 0)
		return;
	memcpy(c->logged, c->reason, sizeof(c->logged));
	log_line(c->config.log, FTMEM_LOG_ERROR,
	         "device memory was not copied, the version is dropped: %s", c->logged);
}

/* --- arriving --- */

static void gpu_reach(struct copy *c, const struct copy_ready *r, struct copy_gpu *g)
{
	const struct copy_bands *b = r->bands;
	const struct band_part *part;
	int rc;

	while (!g->lost && g->reached < b->bands) {
		part = copy_bands_part(b, g->reached, g->number);
		if (part && g->reached >= g->issued)
			break;
		rc = part ? c->ops->query(r->event[part - b->part]) : 1;
		if (rc == 0)
			break;
		if (rc < 0) {
			g->lost = true;
			job_fail(c);
			break;
		}
		g->reached++;
	}
}

/* From the first on, of all devices. */
static uint32_t blocks_arrived(struct copy *c)
{
	const struct copy_plan *plan = c->job.plan;
	uint32_t bands = UINT32_MAX, blocks = plan->blocks;

	if (plan->on_device) {
		for (uint32_t i = 0; i < c->uses; i++) {
			gpu_reach(c, plan->ready, c->use[i]);
			if (c->use[i]->reached < bands)
				bands = c->use[i]->reached;
		}
		blocks = bands > 0 ? plan->ready->bands->band[bands - 1].block_end : 0;
	}
	/* The last one says that the checks are taken. */
	if (!c->checked && blocks == plan->blocks && blocks > 0)
		blocks--;
	return blocks;
}

bool job_advance(struct copy *c)
{
	uint32_t blocks = blocks_arrived(c);

	if (blocks == atomic_load(&c->arrived) || atomic_load(&c->failed))
		return false;
	pthread_mutex_lock(&c->arrival_lock);
	atomic_store_explicit(&c->arrived, blocks, memory_order_release);
	pthread_cond_broadcast(&c->arrival);
	pthread_mutex_unlock(&c->arrival_lock);
	return true;
}

/* Whether no device touches the regions or the slot any more. */
static bool job_over(struct copy *c)
{
	for (uint32_t i = 0; i < c->uses; i++) {
		struct copy_gpu *g = c->use[i];

		if (g->lost)
			continue;
		if (g->reached < g->issued || (g->has_staged && c->ops->query(g->staged) == 0))
			return false;
	}
	return true;
}

static void job_drain(struct copy *c)
{
	uint64_t pause = PAUSE_MIN_NS;
	bool begun = false, moved;

	for (;;) {
		moved = job_advance(c);
		if (job_over(c))
			return;
		if (!begun && c->ops->query(c->as_of) != 0)
			begun = moved = true;
		if (moved)
			pause = PAUSE_MIN_NS;
		pause_grow(&pause, begun ? PAUSE_MAX_NS : PAUSE_IDLE_NS);
	}
}

/* --- queueing --- */

/* *at: where in staging memory, grows. On error some of it may be under way. */
static int part_copy(struct copy *c, struct copy_gpu *g, const struct band_part *part, enum way way,
                     uint64_t *at)
{
	const struct band_run *run = c->job.plan->ready->bands->run + part->first;
	struct run_batch batch = {.c = c, .gpu = g, .lane = DEVICE_OUT};

	if (way == TO_STAGING)
		batch.lane = DEVICE_STAGE;
	for (uint32_t i = 0; i < part->count; i++) {
		uint8_t *staged = way == TO_SLOT ? NULL : (uint8_t *)g->staging + *at;
		uint8_t *slot = way == TO_STAGING ? NULL : c->job.data + run[i].offset;
		struct device_run copied = {
			.to = slot ? slot : staged,
			.from = way == STAGING_TO_SLOT ? staged : run[i].addr,
			.bytes = run[i].bytes,
		};

		run_batch_add(&batch, copied, slot);
		if (staged)
			*at += (run[i].bytes + BAND_ALIGN - 1) / BAND_ALIGN * BAND_ALIGN;
	}
	return run_batch_queue(&batch);
}

/* An event behind all that is queued in the lane. Where there is none, nothing is queued: a
 * job is over only when no device touches its memory. */
static int lane_mark(struct copy *c, struct copy_gpu *g, struct device_event *event,
                     enum device_lane lane)
{
	int rc = c->ops->record(event, lane);

	if (rc < 0)
		c->ops->drain(g->d);
	return rc;
}

/* Queues a part to the slot, and its event even if that fails. */
static int part_out(struct copy *c, struct copy_gpu *g, uint32_t band, enum way way, uint64_t *at)
{
	const struct copy_ready *r = c->job.plan->ready;
	const struct band_part *part = copy_bands_part(r->bands, band, g->number);
	struct device_event *event;
	int rc = 0, mark_rc;

	if (part) {
		event = r->event[part - r->bands->part];
		rc = part_copy(c, g, part, way, at);
		/* Before the next event is: a block that has not arrived must not seem to. */
		if (rc < 0)
			job_fail(c);
		mark_rc = lane_mark(c, g, event, DEVICE_OUT);
		if (mark_rc < 0)
			return mark_rc;
		g->last = event;
		if (way == TO_SLOT)
			g->direct = event;
	}
	g->issued = band + 1;
	return rc;
}

static int stage_mark(struct copy *c, struct copy_gpu *g)
{
	int rc = lane_mark(c, g, g->staged, DEVICE_STAGE);

	g->has_staged = g->has_staged || rc == 0;
	return rc;
}

/* From the regions into staging memory. */
static int issue_stage(struct copy *c, struct copy_gpu *g)
{
	const struct copy_bands *b = c->job.plan->ready->bands;
	const struct band_part *part;
	uint64_t at = 0;
	int rc = 0, mark_rc;

	if (g->split >= b->bands || job_stops(c))
		return 0;
	for (uint32_t band = g->split; rc == 0 && band < b->bands; band++) {
		part = copy_bands_part(b, band, g->number);
		if (part)
			rc = part_copy(c, g, part, TO_STAGING, &at);
	}
	if (rc < 0)
		job_fail(c);
	mark_rc = stage_mark(c, g);
	return rc < 0 ? rc : mark_rc;
}

/* From the regions to the slot. */
static int issue_direct(struct copy *c)
{
	const struct copy_bands *b = c->job.plan->ready->bands;
	int rc = 0;

	for (uint32_t band = 0; rc == 0 && band < b->bands && !job_stops(c); band++) {
		for (uint32_t i = 0; rc == 0 && i < c->uses; i++)
			if (band < c->use[i]->split)
				rc = part_out(c, c->use[i], band, TO_SLOT, NULL);
		job_advance(c);
	}
	return rc;
}

/* From staging memory to the slot. */
static int issue_staged(struct copy *c, struct copy_gpu *g)
{
	const struct copy_bands *b = c->job.plan->ready->bands;
	uint64_t at = 0;
	int rc;

	if (g->split >= b->bands || job_stops(c))
		return 0;
	rc = c->ops->lane_wait(g->d, DEVICE_OUT, g->staged);
	for (uint32_t band = g->split; rc == 0 && band < b->bands && !job_stops(c); band++) {
		rc = part_out(c, g, band, STAGING_TO_SLOT, &at);
		job_advance(c);
	}
	return rc;
}

/* What a stream waits for at its fence is queued first: on all devices what is staged, then
 * what goes straight. */
static int issue_bands(struct copy *c)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < c->uses; i++)
		rc = issue_stage(c, c->use[i]);
	if (rc == 0)
		rc = issue_direct(c);
	for (uint32_t i = 0; rc == 0 && i < c->uses; i++)
		rc = issue_staged(c, c->use[i]);
	return rc;
}

/* Reads nothing before the regions are as the job is to find them. */
static int lanes_begin(struct copy *c)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < c->uses; i++) {
		struct copy_gpu *g = c->use[i];

		rc = c->ops->lane_wait(g->d, DEVICE_OUT, c->as_of);
		if (rc == 0)
			rc = c->ops->lane_wait(g->d, DEVICE_STAGE, c->as_of);
		if (rc == 0)
			rc = c->ops->record(g->began, DEVICE_OUT);
	}
	return rc;
}

/* How the job's bytes leave their devices. */
static void job_split(struct copy *c)
{
	const struct copy_plan *plan = c->job.plan;
	const struct copy_bands *b = plan->on_device ? plan->ready->bands : NULL;
	uint64_t staged = 0;

	for (uint32_t i = 0; b && i < c->uses; i++) {
		struct copy_gpu *g = c->use[i];
		for (uint32_t j = 0; j < b->parts; j++)
			g->bytes += b->part[j].device == g->number ? b->part[j].bytes : 0;
		g->split = copy_bands_split(b, g->number, copy_stage_direct(&g->pace, g->bytes),
		                            g->staging_bytes);
		for (uint32_t band = g->split; band < b->bands; band++) {
			const struct band_part *part = copy_bands_part(b, band, g->number);

			staged += part ? part->bytes : 0;
		}
	}
	pthread_mutex_lock(&c->lock);
	c->figures.staged_bytes = staged;
	pthread_mutex_unlock(&c->lock);
}

static void job_issue(struct copy *c)
{
	int rc;

	job_split(c);
	rc = lanes_begin(c);
	if (rc == 0 && c->job.plan->on_device)
		rc = issue_bands(c);
	if (rc == 0)
		rc = checks_take(c);
	if (rc < 0)
		job_fail(c);
	/* What was queued of checks still reads the regions. */
	if (!c->checked)
		for (uint32_t i = 0; i < c->uses; i++)
			(void)stage_mark(c, c->use[i]);
	pthread_mutex_lock(&c->lock);
	c->issued = true;
	pthread_cond_broadcast(&c->moved);
	pthread_mutex_unlock(&c->lock);
}

/* --- figures --- */

static bool reads_checks(const struct copy *c)
{
	for (uint32_t i = 0; i < c->job.checks; i++)
		if (c->job.check[i].device != DEVICE_HOST)
			return true;
	return false;
}

/* When the fence's stream came to it, and how long it then waited for its own device. False:
 * not known. */
static bool measure_fence(struct copy *c, struct copy_gpu *g, double *window_s, double *stall_s)
{
	const struct device_event *awaited[] = {g->direct, g->has_staged ? g->staged : NULL};
	int rc = c->ops->query(g->asked);
	double waited_s;

	*window_s = INFINITY;
	*stall_s = 0;
	if (rc <= 0)
		return rc == 0;
	if (!g->last || c->ops->elapsed(g->began, g->asked, window_s) < 0)
		return false;
	for (size_t i = 0; i < sizeof(awaited) / sizeof(awaited[0]); i++) {
		if (!awaited[i])
			continue;
		if (c->ops->elapsed(g->asked, awaited[i], &waited_s) < 0)
			return false;
		if (waited_s > *stall_s)
			*stall_s = waited_s;
	}
	/* A fence before the copy began. */
	if (*window_s < 0)
		*window_s = 0;
	return true;
}

/* What fences tell of the steps to come, and how long a stream waited. A
 * device whose streams have none waits with the others', or there is none at all. With nobody
 * there to fence, or checks that a fence waited for on the host, nothing is learned. */
static double measure_fences(struct copy *c)
{
	double window_s, stall_s, least_s = INFINITY, longest_s = 0;
	bool learns = !c->at_rest && !reads_checks(c);

	for (uint32_t i = 0; i < c->uses; i++) {
		struct copy_gpu *g = c->use[i];

		if (!g->timed || !measure_fence(c, g, &window_s, &stall_s))
			continue;
		if (learns)
			copy_stage_learn(&g->pace, window_s);
		least_s = window_s < least_s ? window_s : least_s;
		longest_s = stall_s > longest_s ? stall_s : longest_s;
	}
	for (uint32_t i = 0; learns && i < c->uses; i++)
		if (!c->use[i]->fenced)
			copy_stage_learn(&c->use[i]->pace, least_s);
	return longest_s;
}

/* Of a job whose bytes have all arrived. */
static void job_measure(struct copy *c)
{
	double seconds, slowest = 0, stall_s;

	for (uint32_t i = 0; i < c->uses; i++) {
		struct copy_gpu *g = c->use[i];

		if (!g->last || c->ops->elapsed(g->began, g->last, &seconds) < 0 || seconds <= 0)
			continue;
		g->pace.bytes_per_s = (double)g->bytes / seconds;
		if (seconds > slowest)
			slowest = seconds;
	}
	stall_s = measure_fences(c);
	pthread_mutex_lock(&c->lock);
	c->figures.device_copy_s = slowest;
	c->figures.stalls += stall_s >= STALL_S;
	c->figures.stall_s += stall_s;
	c->figures.last_stall_s = stall_s;
	pthread_mutex_unlock(&c->lock);
}

/* --- the thread --- */

void *device_drive(void *arg)
{
	struct copy *c = arg;

	thread_slack(THREAD_SLACK_NS);
	if (c->config.pin)
		c->config.pin(c->config.pin_arg);
	pthread_mutex_lock(&c->lock);
	for (;;) {
		/* The library's end is the deadline: close() wakes. */
		while (!c->quit && !atomic_load(&c->under_way))
			pthread_cond_wait(&c->work, &c->lock);
		if (!atomic_load(&c->under_way))
			break;
		pthread_mutex_unlock(&c->lock);
		copy_host_wake(c->host);
		job_issue(c);
		job_drain(c);
		if (!job_stops(c))
			job_measure(c);
		pthread_mutex_lock(&c->lock);
		atomic_store_explicit(&c->under_way, false, memory_order_release);
		pthread_cond_broadcast(&c->moved);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}
