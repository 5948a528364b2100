/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Host memory and that of devices: adds to copy_host() what devices hold. What reads nothing on
 * a device goes to copy_host() unchanged, and without a plan of devices there is no further
 * thread, no device is opened, and no stream looked at.
 *
 * begin() records an event on the caller's stream, gives the job to the driver thread and to
 * the copy threads, wakes the driver, and returns. The driver wakes the copy threads and queues
 * copies (copy_device_issue.c); their bytes arrive in the slot, band by band. Copy threads first
 * read what lies in host memory, then wait for the bands, and check and land the blocks. A
 * fence waits until all is queued, and lets its stream wait for the events behind what reads
 * the regions.
 *
 * The lock may be held while that of copy_host() or arrival_lock is taken, never the other way
 * round.
 */
#include "copy_device_impl.h"

#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "thread.h"

/* After its deadline a fence cancels; what is in hand is queued in milliseconds unless the
 * machine is in trouble. */
#define IN_HAND_NS UINT64_C(10000000000)

static bool device_done(struct copy *c)
{
	return !atomic_load_explicit(&c->under_way, memory_order_acquire)
	       && !atomic_load_explicit(&c->filling, memory_order_acquire)
	       && c->inner->done(c->host);
}

static int check_rests(struct copy *c)
{
	if (device_done(c))
		return 0;
	return error_set(FTMEM_EINVAL, "the former copy of device memory is still under way");
}

/* --- beginning --- */

static bool has_device(const struct copy_plan *plan, int number)
{
	return number >= 0 && number < DEVICE_MAX && (plan->devices >> number & 1);
}

static bool reads_devices(const struct copy_job *job)
{
	bool reads = job->plan->on_device;

	for (uint32_t i = 0; i < job->checks; i++)
		reads = reads || job->check[i].device != DEVICE_HOST;
	return reads;
}

static void job_use(struct copy *c, struct copy_gpu *g)
{
	g->bytes = 0;
	g->split = g->issued = g->reached = 0;
	g->direct = g->last = NULL;
	g->has_staged = g->lost = false;
	g->fenced = g->timed = false;
	c->use[c->uses++] = g;
}

/* All of the plan, also those of regions that other ranks store: the stream may be theirs,
 * and replicas there compared. With nothing under way. */
static int job_devices(struct copy *c, const struct copy_plan *plan)
{
	bool ready = c->driver_started && (plan->ready || !plan->on_device);

	c->uses = 0;
	for (int i = 0; ready && i < DEVICE_MAX; i++) {
		if (!has_device(plan, i))
			continue;
		ready = c->gpu[i];
		if (ready)
			job_use(c, c->gpu[i]);
	}
	return ready ? 0 : error_set(FTMEM_EINVAL, "the plan was not prepared");
}

/* Whose the stream is, if its work can be waited for. */
static int stream_device(struct copy *c, const struct copy_plan *plan, void *stream, int *number)
{
	int rc;

	*number = c->use[0]->number;
	if (stream == COPY_AT_REST)
		return 0;
	rc = c->ops->stream(stream, number);
	if (rc < 0 || has_device(plan, *number))
		return rc;
	return error_set(FTMEM_EINVAL,
	                 "the stream is of device %d, which holds no region: pass one of device "
	                 "%d, which does",
	                 *number, c->use[0]->number);
}

/* The event is of the device of the stream. */
static int job_record(struct copy *c, void *stream, int number)
{
	struct copy_gpu *g = c->gpu[number];

	c->as_of = g->as_of;
	/* Behind what was filled: nothing else is in that lane. */
	if (stream == COPY_AT_REST)
		return c->ops->record(g->as_of, DEVICE_IN);
	return c->ops->record_on(g->as_of, stream);
}

/* On a copy thread: until the block's bytes are in the slot. */
static bool job_arrived(void *arg, uint32_t block)
{
	struct copy *c = arg;

	if (atomic_load_explicit(&c->arrived, memory_order_acquire) > block)
		return true;
	pthread_mutex_lock(&c->arrival_lock);
	while (atomic_load(&c->arrived) <= block && !job_stops(c))
		pthread_cond_wait(&c->arrival, &c->arrival_lock);
	pthread_mutex_unlock(&c->arrival_lock);
	return atomic_load(&c->arrived) > block;
}

/* With the lock held and nothing under way. */
static int job_begin(struct copy *c, const struct copy_job *job, void *stream, int number)
{
	struct copy_arrivals arrivals = {.wait = job_arrived, .arg = c};
	int rc = job_record(c, stream, number);

	if (rc < 0)
		return rc;
	if (job->plan->on_device) {
		arrivals.early = job->plan->ready->bands->early;
		arrivals.earlies = job->plan->ready->bands->earlies;
	}
	c->job = *job;
	c->checked = c->issued = false;
	c->at_rest = stream == COPY_AT_REST;
	atomic_store(&c->arrived, 0);
	atomic_store(&c->cancelled, false);
	atomic_store(&c->failed, false);
	atomic_store(&c->under_way, true);
	rc = copy_host_begin(c->host, job, &arrivals);
	if (rc < 0)
		atomic_store(&c->under_way, false);
	return rc;
}

/* With the lock held: nothing is known of the copy that begins. */
static void last_forget(struct copy *c, const struct copy_plan *plan)
{
	c->figures.device_bytes = plan->on_device ? plan->ready->bands->device_bytes : 0;
	c->figures.staged_bytes = 0;
	c->figures.last_stall_s = 0;
	c->figures.device_copy_s = 0;
	c->reason[0] = '\0';
}

static int device_begin(struct copy *c, const struct copy_job *job, void *stream)
{
	bool devices = job->plan->devices != 0, reads = reads_devices(job);
	int number = DEVICE_HOST, rc = check_rests(c);

	if (rc == 0 && devices)
		rc = job_devices(c, job->plan);
	if (rc == 0 && devices)
		rc = stream_device(c, job->plan, stream, &number);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&c->lock);
	atomic_fetch_add(&c->turn, 1);
	last_forget(c, job->plan);
	if (reads)
		rc = job_begin(c, job, stream, number);
	pthread_mutex_unlock(&c->lock);
	if (!reads)
		return c->inner->begin(c->host, job, stream);
	/* The one wake-up of this thread, which takes longer than all else here: the driver
	 * wakes the copy threads. */
	if (rc == 0)
		pthread_cond_signal(&c->work);
	return rc;
}

/* --- fence and cancel --- */

/* With the lock held: whether all was queued by the deadline. */
static bool wait_issued(struct copy *c, uint64_t deadline_ns)
{
	struct timespec until = {(time_t)(deadline_ns / 1000000000u),
	                         (long)(deadline_ns % 1000000000u)};
	int err = 0;

	while (atomic_load(&c->under_way) && !c->issued && err == 0)
		err = pthread_cond_timedwait(&c->moved, &c->lock, &until);
	return !atomic_load(&c->under_way) || c->issued;
}

/* With the lock held. */
static void job_cancel(struct copy *c)
{
	if (!atomic_load(&c->under_way))
		return;
	atomic_store(&c->cancelled, true);
	arrival_tell(c);
}

static void device_cancel(struct copy *c)
{
	pthread_mutex_lock(&c->lock);
	job_cancel(c);
	pthread_mutex_unlock(&c->lock);
	c->inner->cancel(c->host);
}

/* With the lock held. The first fence of a device's streams measures when it was come to. */
static int stream_fence(struct copy *c, void *stream, int number)
{
	struct copy_gpu *own = has_device(c->job.plan, number) ? c->gpu[number] : NULL;
	int rc = 0;

	/* What cannot be measured is not. */
	if (own && !own->fenced)
		own->timed = c->ops->record_on(own->asked, stream) == 0;
	if (own)
		own->fenced = true;
	for (uint32_t i = 0; rc == 0 && i < c->uses; i++) {
		const struct copy_gpu *g = c->use[i];

		if (g->direct)
			rc = c->ops->stream_wait(stream, g->direct);
		if (rc == 0 && g->has_staged)
			rc = c->ops->stream_wait(stream, g->staged);
	}
	return rc;
}

/* For a fence that came too late, unless its job is over and another began. */
static void fence_cancel(struct copy *c, uint64_t turn)
{
	pthread_mutex_lock(&c->lock);
	if (atomic_load(&c->turn) == turn) {
		job_cancel(c);
		if (!c->reason[0])
			snprintf(c->reason, sizeof(c->reason),
			         "a fence waited for it longer than timeout_ms");
		c->inner->cancel(c->host);
	}
	pthread_mutex_unlock(&c->lock);
}

/* What devices hold, on a stream of that one. *late: the job was cancelled for it. */
static int fence_devices(struct copy *c, void *stream, int number, uint64_t deadline_ns,
                         bool *late)
{
	bool issued;
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	issued = wait_issued(c, deadline_ns);
	if (!issued) {
		*late = true;
		job_cancel(c);
		issued = wait_issued(c, clock_ns() + IN_HAND_NS);
	}
	if (issued && atomic_load(&c->under_way))
		rc = stream_fence(c, stream, number);
	pthread_mutex_unlock(&c->lock);
	if (!issued)
		return error_set(FTMEM_EDEVICE,
		                 "the driver of a device is stuck: regions may not be written, nor "
		                 "freed before ftmem_close()");
	return rc;
}

/* Also where there is nothing to wait for a captured stream is refused: the graph would be
 * replayed without the fence. */
static int device_fence(struct copy *c, void *stream, uint64_t deadline_ns)
{
	bool late = false;
	uint64_t turn = atomic_load(&c->turn);
	int number = DEVICE_HOST, rc = 0;

	if (atomic_load(&c->on_devices))
		rc = c->ops->stream(stream, &number);
	if (!atomic_load_explicit(&c->under_way, memory_order_acquire))
		/* A device that failed keeps nobody from what it has no part in. */
		rc = rc == FTMEM_EDEVICE ? 0 : rc;
	else if (rc == 0)
		rc = fence_devices(c, stream, number, deadline_ns, &late);
	if (late)
		fence_cancel(c, turn);
	if (rc < 0)
		return rc;
	rc = c->inner->fence(c->host, stream, deadline_ns);
	if (rc < 0)
		fence_cancel(c, turn);
	if (rc == 0 && late)
		rc = error_set(FTMEM_ETIMEOUT, "copies from device memory were not queued in time, "
		                               "the version is dropped: raise timeout_ms");
	return rc;
}

/* --- the way back --- */

static int puts_all(struct copy *c, const struct copy_put *put, uint32_t count)
{
	int rc = check_rests(c);

	return rc < 0 ? rc : device_put(c, put, count);
}

static int device_fill(struct copy *c, const struct copy_fill *fill, uint32_t ready)
{
	int rc = check_rests(c);

	if (rc < 0)
		return rc;
	if (!fill->plan->on_device)
		return c->inner->fill(c->host, fill, ready);
	if (!fill->plan->ready)
		return error_set(FTMEM_EINVAL, "the plan was not prepared");
	return fill_begin(c, fill, ready);
}

static void device_fill_more(struct copy *c, uint32_t ready)
{
	c->inner->fill_more(c->host, ready);
}

static int device_fill_end(struct copy *c, uint64_t *damaged)
{
	if (!atomic_load(&c->filling))
		return c->inner->fill_end(c->host, damaged);
	return fill_finish(c, damaged);
}

/* --- the whole --- */

static int device_where(const void *addr, uint64_t bytes, int *device)
{
	return device_ops()->where(addr, bytes, device);
}

static void device_why(struct copy *c, char *text, size_t bytes)
{
	pthread_mutex_lock(&c->lock);
	snprintf(text, bytes, "%s%s", c->reason[0] ? "device memory was not copied: " : "",
	         c->reason);
	pthread_mutex_unlock(&c->lock);
}

static void device_figures(struct copy *c, struct copy_figures *out)
{
	pthread_mutex_lock(&c->lock);
	*out = c->figures;
	pthread_mutex_unlock(&c->lock);
}

/* Until no device touches the job. What was queued is over some day, or its device is lost. */
static void job_end(struct copy *c)
{
	device_cancel(c);
	pthread_mutex_lock(&c->lock);
	while (atomic_load(&c->under_way))
		pthread_cond_wait(&c->moved, &c->lock);
	c->quit = true;
	pthread_cond_signal(&c->work);
	pthread_mutex_unlock(&c->lock);
	if (c->driver_started)
		pthread_join(c->driver, NULL);
}

static void device_close(struct copy *c)
{
	if (!c)
		return;
	if (c->host) {
		job_end(c);
		/* Also ends a fill: nothing more is queued then. */
		c->inner->close(c->host);
		if (atomic_load(&c->filling))
			(void)fill_drain(c);
		ready_close(c);
	}
	if (c->sync_ready) {
		pthread_cond_destroy(&c->work);
		pthread_cond_destroy(&c->moved);
		pthread_cond_destroy(&c->arrival);
		pthread_mutex_destroy(&c->arrival_lock);
		pthread_mutex_destroy(&c->lock);
	}
	free(c);
}

static int sync_init(struct copy *c)
{
	int err = thread_cond_init(&c->moved);

	if (err)
		return err;
	err = pthread_cond_init(&c->work, NULL);
	if (err)
		goto no_work;
	err = pthread_cond_init(&c->arrival, NULL);
	if (err)
		goto no_arrival;
	err = pthread_mutex_init(&c->arrival_lock, NULL);
	if (err)
		goto no_arrival_lock;
	err = pthread_mutex_init(&c->lock, NULL);
	if (err)
		goto no_lock;
	c->sync_ready = true;
	return 0;
no_lock:
	pthread_mutex_destroy(&c->arrival_lock);
no_arrival_lock:
	pthread_cond_destroy(&c->arrival);
no_arrival:
	pthread_cond_destroy(&c->work);
no_work:
	pthread_cond_destroy(&c->moved);
	return err;
}

static int device_open(const struct copy_config *config, struct copy **out)
{
	struct copy *c = calloc(1, sizeof(*c));
	int rc;

	if (!c || sync_init(c) != 0) {
		free(c);
		return error_set(FTMEM_ENOMEM, "no memory to copy device memory");
	}
	c->config = *config;
	c->ops = device_ops();
	c->inner = copy_host();
	rc = c->inner->open(config, &c->host);
	if (rc < 0) {
		device_close(c);
		return rc;
	}
	*out = c;
	return 0;
}

const struct copy_ops *copy_device(void)
{
	static const struct copy_ops ops = {
		.name = "device",
		.where = device_where,
		.open = device_open,
		.prepare = ready_prepare,
		.release = ready_release,
		.begin = device_begin,
		.fence = device_fence,
		.cancel = device_cancel,
		.done = device_done,
		.why = device_why,
		.put = puts_all,
		.fill = device_fill,
		.fill_more = device_fill_more,
		.fill_end = device_fill_end,
		.figures = device_figures,
		.close = device_close,
	};

	return device_ops() ? &ops : NULL;
}
