/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Host memory: threads of our own copy it while the caller goes on.
 *
 * One job at a time. begin() stores it under the lock and wakes one thread; each
 * thread that enters wakes the next, so that begin() costs one wake-up whatever
 * the number of threads. Threads take blocks from an atomic counter, in the
 * plan's order. The last thread to leave ends the job: `busy` falls. A job that is
 * cancelled ends the same way: whoever sees it first fails all blocks not yet
 * taken.
 */
#include "copy.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "clock.h"
#include "error.h"
#include "thread.h"

/* Keeps what all threads write away from what they read. */
#define CACHE_LINE 64
/* After its deadline a fence cancels; the blocks in hand are done in microseconds
 * unless the machine is in trouble. */
#define IN_HAND_NS UINT64_C(10000000000)
#define NO_BLOCK   UINT32_MAX

struct copy {
	struct copy_config config;
	pthread_t *thread;
	uint32_t threads; /* started */
	bool sync_ready;
	pthread_mutex_t lock;
	pthread_cond_t work; /* a job, or the end */
	pthread_cond_t over; /* busy fell */

	/* Under the lock. The job is also read by threads inside it. */
	struct copy_job job;
	bool restore;
	uint64_t number; /* of the job */
	uint32_t inside; /* threads */
	uint32_t bad;    /* restore: the first block found damaged */
	bool quit;

	char gap_before[CACHE_LINE];
	_Atomic uint64_t next; /* block to take */
	char gap_after[CACHE_LINE];
	_Atomic bool busy;          /* changed under the lock */
	_Atomic uint32_t cancelled; /* 0 or 1 */
};

/* Copies a block into the slot. Padding in it is zero already. */
static void block_gather(const struct copy_job *job, const struct copy_block *block)
{
	const struct copy_piece *piece = job->plan->piece + block->first;
	uint8_t *data = job->data + block->offset;

	for (uint32_t i = 0; i < block->count; i++)
		memcpy(data + piece[i].offset, piece[i].addr, piece[i].bytes);
	job->sums[block->sum] = checksum(data, block->bytes);
}

static void block_scatter(const struct copy_job *job, const struct copy_block *block)
{
	const struct copy_piece *piece = job->plan->piece + block->first;
	const uint8_t *data = job->data + block->offset;

	for (uint32_t i = 0; i < block->count; i++)
		if (block->offset + piece[i].offset >= job->plan->blob_bytes)
			memcpy(piece[i].addr, data + piece[i].offset, piece[i].bytes);
}

static void snapshot_block(struct copy *c, uint32_t index)
{
	const struct copy_job *job = &c->job;
	enum copy_landed landed = COPY_LANDED;

	block_gather(job, &job->plan->block[index]);
	/* Whoever cancelled may write to the regions from then on, should this thread
	 * have stalled. Adding 0 instead of loading keeps the reads above before it. */
	if (atomic_fetch_add_explicit(&c->cancelled, 0, memory_order_acq_rel))
		landed = COPY_FAILED;
	atomic_store_explicit(&job->landed[index], (unsigned char)landed, memory_order_release);
}

static void restore_block(struct copy *c, uint32_t index)
{
	const struct copy_block *block = &c->job.plan->block[index];

	if (checksum(c->job.data + block->offset, block->bytes) == c->job.sums[block->sum]) {
		block_scatter(&c->job, block);
		return;
	}
	pthread_mutex_lock(&c->lock);
	if (index < c->bad)
		c->bad = index;
	pthread_mutex_unlock(&c->lock);
	atomic_store(&c->cancelled, 1);
}

/* Takes all blocks that nobody has taken yet. */
static void fail_rest(struct copy *c)
{
	uint32_t blocks = c->job.plan->blocks;
	uint64_t first = atomic_exchange(&c->next, blocks);

	for (uint64_t i = first; i < blocks && !c->restore; i++)
		atomic_store_explicit(&c->job.landed[i], COPY_FAILED, memory_order_release);
}

static void job_run(struct copy *c)
{
	uint32_t blocks = c->job.plan->blocks;
	uint64_t index;

	while (!atomic_load_explicit(&c->cancelled, memory_order_acquire)) {
		index = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
		if (index >= blocks)
			return;
		if (c->restore)
			restore_block(c, (uint32_t)index);
		else
			snapshot_block(c, (uint32_t)index);
	}
	fail_rest(c);
}

/* With the lock held and no thread inside. */
static void job_end(struct copy *c)
{
	atomic_store_explicit(&c->busy, false, memory_order_release);
	pthread_cond_broadcast(&c->over);
}

/* With the lock held. The threads inside end the job; if none has come yet, none
 * need come. */
static void job_cancel(struct copy *c)
{
	if (!atomic_load(&c->busy))
		return;
	atomic_store(&c->cancelled, 1);
	if (c->inside == 0) {
		fail_rest(c);
		job_end(c);
	}
}

/* With the lock held: waits for a job this thread has not been in. False: quit. The
 * library's end is the deadline: close() wakes all. */
static bool job_wait(struct copy *c, uint64_t *seen)
{
	while (!c->quit && (!atomic_load(&c->busy) || c->number == *seen))
		pthread_cond_wait(&c->work, &c->lock);
	*seen = c->number;
	return !c->quit;
}

static void *copy_thread(void *arg)
{
	const struct sched_param none = {0};
	struct copy *c = arg;
	uint64_t seen = 0;

	/* A thread of this policy does not push the trainer off its processor when
	 * begin() wakes it. Refused, it copies all the same. */
	(void)pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
	if (c->config.pin)
		c->config.pin(c->config.pin_arg);
	pthread_mutex_lock(&c->lock);
	while (job_wait(c, &seen)) {
		c->inside++;
		if (atomic_load(&c->next) < c->job.plan->blocks)
			pthread_cond_signal(&c->work);
		pthread_mutex_unlock(&c->lock);
		job_run(c);
		pthread_mutex_lock(&c->lock);
		/* Who leaves has seen that no block is left to take. */
		if (--c->inside == 0)
			job_end(c);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

static bool host_done(struct copy *c)
{
	return !atomic_load_explicit(&c->busy, memory_order_acquire);
}

/* With the lock held: whether the job was over by the deadline. */
static bool wait_over(struct copy *c, uint64_t deadline_ns)
{
	struct timespec until = {(time_t)(deadline_ns / 1000000000u),
	                         (long)(deadline_ns % 1000000000u)};
	int err = 0;

	while (!host_done(c) && err == 0)
		err = pthread_cond_timedwait(&c->over, &c->lock, &until);
	return host_done(c);
}

static int job_begin(struct copy *c, const struct copy_job *job, bool restore)
{
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	if (!host_done(c)) {
		rc = error_set(FTMEM_EINVAL, "the former copy of host memory is still under way: "
		                             "call ftmem_fence() first");
	} else if (job->plan->blocks > 0) {
		c->job = *job;
		c->restore = restore;
		c->bad = NO_BLOCK;
		c->number++;
		atomic_store(&c->next, 0);
		atomic_store(&c->cancelled, 0);
		atomic_store(&c->busy, true);
	}
	pthread_mutex_unlock(&c->lock);
	/* After the lock, so that who wakes does not run into it. */
	pthread_cond_signal(&c->work);
	return rc;
}

static int host_begin(struct copy *c, const struct copy_job *job, void *stream)
{
	(void)stream;
	return job_begin(c, job, false);
}

static int host_fence(struct copy *c, void *stream, uint64_t deadline_ns)
{
	bool over, late = false;

	(void)stream;
	if (host_done(c))
		return 0;
	pthread_mutex_lock(&c->lock);
	over = wait_over(c, deadline_ns);
	if (!over) {
		late = true;
		job_cancel(c);
		over = wait_over(c, clock_ns() + IN_HAND_NS);
	}
	pthread_mutex_unlock(&c->lock);
	if (!over)
		return error_set(FTMEM_ETIMEOUT,
		                 "a copy thread is stuck: regions may be written, but not freed "
		                 "before ftmem_close(); is the machine short of memory?");
	if (late)
		return error_set(FTMEM_ETIMEOUT,
		                 "host memory was not copied in time, the version is dropped: "
		                 "raise copy_threads or timeout_ms");
	return 0;
}

static void host_cancel(struct copy *c)
{
	pthread_mutex_lock(&c->lock);
	job_cancel(c);
	pthread_mutex_unlock(&c->lock);
}

static int restore_result(const struct copy *c, const struct copy_job *job)
{
	const struct copy_block *block;

	if (c->bad != NO_BLOCK) {
		block = &job->plan->block[c->bad];
		return error_set(FTMEM_ECORRUPT,
		                 "block %u of %u, %u bytes at %llu of the stored data, does not "
		                 "match its checksum: rebuild it from parity or restore another "
		                 "version",
		                 c->bad, job->plan->blocks, block->bytes,
		                 (unsigned long long)block->offset);
	}
	if (atomic_load(&c->cancelled))
		return error_set(FTMEM_EDEVICE, "the copy back to host memory was cancelled: "
		                                "restore again");
	return 0;
}

/* The wait has no deadline: it is for work that the caller asked for, done by
 * threads that wait for nobody. */
static int host_restore(struct copy *c, const struct copy_job *job)
{
	int rc = job_begin(c, job, true);

	if (rc || job->plan->blocks == 0)
		return rc;
	pthread_mutex_lock(&c->lock);
	while (!host_done(c))
		pthread_cond_wait(&c->over, &c->lock);
	rc = restore_result(c, job);
	pthread_mutex_unlock(&c->lock);
	return rc;
}

static void host_close(struct copy *c)
{
	if (!c)
		return;
	if (c->sync_ready) {
		pthread_mutex_lock(&c->lock);
		job_cancel(c);
		while (!host_done(c))
			pthread_cond_wait(&c->over, &c->lock);
		c->quit = true;
		pthread_cond_broadcast(&c->work);
		pthread_mutex_unlock(&c->lock);
		for (uint32_t i = 0; i < c->threads; i++)
			pthread_join(c->thread[i], NULL);
		pthread_cond_destroy(&c->over);
		pthread_cond_destroy(&c->work);
		pthread_mutex_destroy(&c->lock);
	}
	free(c->thread);
	free(c);
}

/* Deadlines are of the monotonic clock. */
static int sync_init(struct copy *c)
{
	pthread_condattr_t attr;
	int err = pthread_condattr_init(&attr);

	if (err)
		return err;
	err = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	if (!err)
		err = pthread_cond_init(&c->over, &attr);
	pthread_condattr_destroy(&attr);
	if (err)
		return err;
	err = pthread_cond_init(&c->work, NULL);
	if (err) {
		pthread_cond_destroy(&c->over);
		return err;
	}
	err = pthread_mutex_init(&c->lock, NULL);
	if (err) {
		pthread_cond_destroy(&c->over);
		pthread_cond_destroy(&c->work);
		return err;
	}
	c->sync_ready = true;
	return 0;
}

static int threads_start(struct copy *c)
{
	while (c->threads < c->config.threads) {
		int err = thread_start(&c->thread[c->threads], copy_thread, c);

		if (err)
			return err;
		/* A name is for debuggers; to have none is no failure. */
		(void)pthread_setname_np(c->thread[c->threads], "ftmem-copy");
		c->threads++;
	}
	return 0;
}

static int host_open(const struct copy_config *config, struct copy **out)
{
	struct copy *c = NULL;
	int err, rc;

	if (config->threads == 0)
		return error_set(FTMEM_EINVAL, "copy_threads is 0: at least 1 is needed");
	c = calloc(1, sizeof(*c));
	if (c)
		c->thread = calloc(config->threads, sizeof(*c->thread));
	if (!c || !c->thread) {
		rc = error_set(FTMEM_ENOMEM, "no memory for %u copy threads", config->threads);
		goto fail;
	}
	c->config = *config;
	err = sync_init(c);
	if (!err)
		err = threads_start(c);
	if (err) {
		rc = error_sys(FTMEM_ESYS, err,
		               "copy thread %u of %u does not start: raise the limit of processes "
		               "(ulimit -u) or lower copy_threads",
		               c->threads + 1, config->threads);
		goto fail;
	}
	*out = c;
	return 0;
fail:
	host_close(c);
	return rc;
}

/* What no device owns. */
static bool host_owns(const void *addr, uint64_t bytes)
{
	(void)bytes;
	return addr != NULL;
}

const struct copy_ops *copy_host(void)
{
	static const struct copy_ops ops = {
		.name = "host",
		.owns = host_owns,
		.open = host_open,
		.begin = host_begin,
		.fence = host_fence,
		.cancel = host_cancel,
		.done = host_done,
		.restore = host_restore,
		.close = host_close,
	};

	return &ops;
}
