/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Host memory: threads of our own copy it while the caller goes on.
 *
 * One job at a time. begin() stores it under the lock and wakes one thread; each
 * thread that enters wakes the next, so that begin() costs one wake-up whatever
 * the number of threads. Threads take blocks from an atomic counter, in the
 * plan's order, then checks. The last thread to leave ends the job: `busy` falls.
 * A job that is cancelled ends the same way: whoever sees it first fails all blocks
 * not yet taken.
 *
 * If another engine brings some of the bytes (copy_host.h) there are parts before the
 * blocks: all that is read from regions. Blocks land when these are over. The other engine
 * wakes the first thread then.
 *
 * Puts and fills are jobs of their own kinds, which are not cancelled. Threads take
 * ranges of puts, or blocks to fill from, under the lock; while no block is ready they
 * wait inside the job.
 */
#include "copy_host.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clock.h"
#include "copy_read.h"
#include "copy_write.h"
#include "error.h"
#include "thread.h"

/* Keeps what all threads write away from what they read. */
#define CACHE_LINE 64
/* After its deadline a fence cancels; the blocks in hand are done in microseconds
 * unless the machine is in trouble. */
#define IN_HAND_NS UINT64_C(10000000000)

/* Blocks of a slot on their way into regions: those before next are taken. */
struct filling {
	struct copy_fill fill;
	uint32_t next, ready;
	uint64_t damaged;
	bool last; /* no more become ready */
};

static const struct copy_arrivals no_arrivals = {0};

enum job_kind { JOB_READ, JOB_PUT, JOB_FILL };

struct copy {
	struct copy_config config;
	pthread_t *thread;
	uint32_t threads; /* started */
	bool sync_ready;
	pthread_mutex_t lock;
	pthread_cond_t work; /* a job, more of one, or the end */
	pthread_cond_t over; /* busy fell */

	/* Under the lock. The job is also read by threads inside it. */
	struct copy_job job;
	struct copy_arrivals arrivals; /* of the job or the fill; no functions: none */
	uint64_t lead;                 /* parts of the job before its blocks */
	enum job_kind kind;            /* what of job, left, filling is under way */
	struct copy_puts left;
	struct filling filling;
	uint64_t number; /* of the job */
	uint32_t inside; /* threads */
	bool quit;

	char gap_before[CACHE_LINE];
	_Atomic uint64_t next; /* block, then check, to take */
	char gap_after[CACHE_LINE];
	_Atomic uint64_t early;     /* parts that a fence waits for and that are not over, while
	                               blocks may still land; else above 0 */
	_Atomic bool busy;          /* changed under the lock */
	_Atomic uint32_t cancelled; /* 0 or 1 */
};

/* --- reading --- */

/* The lead, blocks, and checks that are not of the lead. */
static uint64_t job_parts(const struct copy *c)
{
	return (uint64_t)c->job.plan->blocks + c->job.checks + c->arrivals.earlies;
}

/* The block that says whether the checks were taken: it lands after them. */
static bool is_seal(const struct copy_job *job, uint32_t index)
{
	return job->checks > 0 && index == job->plan->blocks - 1;
}

static void mark(const struct copy_job *job, uint32_t index, enum copy_landed landed)
{
	atomic_store_explicit(&job->landed[index], (unsigned char)landed, memory_order_release);
}

/* Parts of the lead are over; says so if they were the last. */
static void early_over(struct copy *c, uint64_t parts)
{
	if (parts == 0 || atomic_fetch_sub(&c->early, parts) > parts)
		return;
	pthread_mutex_lock(&c->lock);
	pthread_cond_broadcast(&c->over);
	pthread_mutex_unlock(&c->lock);
}

/* Waits for threads that copy memory. */
static void early_await(struct copy *c)
{
	if (atomic_load(&c->early) == 0)
		return;
	pthread_mutex_lock(&c->lock);
	while (atomic_load(&c->early) > 0)
		pthread_cond_wait(&c->over, &c->lock);
	pthread_mutex_unlock(&c->lock);
}

static void read_early(struct copy *c, uint64_t index)
{
	uint32_t earlies = c->arrivals.earlies;

	if (index < earlies)
		copy_read_early(&c->job, c->arrivals.early[index]);
	else
		copy_read_check(&c->job, (uint32_t)(index - earlies));
	early_over(c, 1);
}

/* False: the block will not be whole. */
static bool block_await(struct copy *c, uint32_t index)
{
	if (!c->arrivals.wait)
		return true;
	if (c->job.plan->on_device)
		early_await(c);
	return c->arrivals.wait(c->arrivals.arg, index);
}

static void snapshot_block(struct copy *c, uint32_t index)
{
	const struct copy_job *job = &c->job;
	enum copy_landed landed = COPY_LANDED;

	if (block_await(c, index))
		copy_read_block(job, index);
	else
		atomic_store(&c->cancelled, 1);
	/* Whoever cancelled may write to the regions from then on, should this thread
	 * have stalled. Adding 0 instead of loading keeps the reads above before it. */
	if (atomic_fetch_add_explicit(&c->cancelled, 0, memory_order_acq_rel))
		landed = COPY_FAILED;
	if (!is_seal(job, index))
		mark(job, index, landed);
}

/* Whoever has taken the first part says so. */
static void say_started(const struct copy_job *job)
{
	if (job->plan->blocks > 0 && job->started)
		job->started(job->started_arg);
}

/* Takes all that nobody has taken yet. Returns how much of it is of the lead. */
static uint64_t fail_rest(struct copy *c)
{
	uint64_t first = atomic_exchange(&c->next, job_parts(c)), lead = c->lead;

	for (uint64_t i = first > lead ? first - lead : 0; i < c->job.plan->blocks; i++)
		mark(&c->job, (uint32_t)i, COPY_FAILED);
	/* Whoever waits for the first block finds it failed. */
	if (first == 0)
		say_started(&c->job);
	return first < lead ? lead - first : 0;
}

static void read_parts(struct copy *c)
{
	uint64_t parts = job_parts(c), lead = c->lead, index;
	uint32_t blocks = c->job.plan->blocks;

	while (!atomic_load_explicit(&c->cancelled, memory_order_acquire)) {
		index = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
		if (index >= parts)
			return;
		if (index == 0)
			say_started(&c->job);
		if (index < lead)
			read_early(c, index);
		else if (index - lead < blocks)
			snapshot_block(c, (uint32_t)(index - lead));
		else
			copy_read_check(&c->job, (uint32_t)(index - lead - blocks));
	}
	early_over(c, fail_rest(c));
}

/* --- writing --- */

static void write_shares(struct copy *c)
{
	struct copy_puts taken;

	do {
		pthread_mutex_lock(&c->lock);
		taken = copy_puts_take(&c->left);
		pthread_mutex_unlock(&c->lock);
		copy_puts_write(&taken);
	} while (taken.count > 0);
}

/* --- filling --- */

/* With the lock held: waits for a block. False: none is left or will be. */
static bool fill_take(struct copy *c, uint32_t *index)
{
	struct filling *f = &c->filling;

	/* Only close() and fill_end() end the wait for blocks that nobody makes ready. */
	while (f->next == f->ready && f->ready < f->fill.plan->blocks && !f->last)
		pthread_cond_wait(&c->work, &c->lock);
	if (f->next == f->ready)
		return false;
	*index = f->next++;
	if (f->next < f->ready)
		pthread_cond_signal(&c->work);
	return true;
}

static void fill_blocks(struct copy *c)
{
	uint32_t index;
	bool good;

	pthread_mutex_lock(&c->lock);
	while (fill_take(c, &index)) {
		pthread_mutex_unlock(&c->lock);
		good = copy_fill_block(&c->filling.fill, index);
		if (good && c->arrivals.deliver)
			c->arrivals.deliver(c->arrivals.arg, index);
		pthread_mutex_lock(&c->lock);
		c->filling.damaged += !good;
	}
	pthread_mutex_unlock(&c->lock);
}

/* --- the job --- */

/* With the lock held: whether there is work for another thread. */
static bool job_open(struct copy *c)
{
	switch (c->kind) {
	case JOB_PUT: return c->left.count > 0;
	case JOB_FILL: return c->filling.next < c->filling.ready;
	default: return atomic_load(&c->next) < job_parts(c);
	}
}

static void job_run(struct copy *c, enum job_kind kind)
{
	switch (kind) {
	case JOB_PUT: write_shares(c); break;
	case JOB_FILL: fill_blocks(c); break;
	default: read_parts(c); break;
	}
}

/* With the lock held and no thread inside. */
static void job_end(struct copy *c)
{
	uint32_t blocks = c->kind == JOB_READ ? c->job.plan->blocks : 0;

	if (blocks > 0 && c->job.checks > 0)
		mark(&c->job, blocks - 1, atomic_load(&c->cancelled) ? COPY_FAILED : COPY_LANDED);
	atomic_store_explicit(&c->busy, false, memory_order_release);
	pthread_cond_broadcast(&c->over);
}

/* With the lock held. The threads inside end the job; if none has come yet, none
 * need come. */
static void job_cancel(struct copy *c)
{
	if (!atomic_load(&c->busy) || c->kind != JOB_READ)
		return;
	atomic_store(&c->cancelled, 1);
	if (c->inside == 0) {
		(void)fail_rest(c);
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
	enum job_kind kind;

	/* A thread of this policy does not push the trainer off its processor when
	 * begin() wakes it. Refused, it copies all the same. */
	(void)pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
	if (c->config.pin)
		c->config.pin(c->config.pin_arg);
	pthread_mutex_lock(&c->lock);
	while (job_wait(c, &seen)) {
		c->inside++;
		kind = c->kind;
		if (job_open(c))
			pthread_cond_signal(&c->work);
		pthread_mutex_unlock(&c->lock);
		job_run(c, kind);
		pthread_mutex_lock(&c->lock);
		/* Who leaves has seen that nothing is left to take. */
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

/* With the lock held: whether regions are read. */
static bool reading(struct copy *c)
{
	return atomic_load(&c->busy) && c->kind == JOB_READ && atomic_load(&c->early) > 0;
}

/* With the lock held: whether no region was read any more by the deadline. */
static bool wait_read(struct copy *c, uint64_t deadline_ns)
{
	struct timespec until = {(time_t)(deadline_ns / 1000000000u),
	                         (long)(deadline_ns % 1000000000u)};
	int err = 0;

	while (reading(c) && err == 0)
		err = pthread_cond_timedwait(&c->over, &c->lock, &until);
	return !reading(c);
}

/* With the lock held. */
static int check_rests(struct copy *c)
{
	if (host_done(c))
		return 0;
	return error_set(FTMEM_EINVAL, "the former copy of host memory is still under way: "
	                               "call ftmem_fence() first");
}

/* With the lock held. */
static void job_start(struct copy *c, enum job_kind kind)
{
	c->kind = kind;
	c->number++;
	if (kind == JOB_PUT)
		c->arrivals = (struct copy_arrivals){0};
	c->lead = c->arrivals.wait ? (uint64_t)c->arrivals.earlies + c->job.checks : 0;
	/* Blocks that are in the slot already keep nobody from writing to the regions. */
	atomic_store(&c->early, c->lead + !(c->arrivals.wait && c->job.plan->on_device));
	atomic_store(&c->next, 0);
	atomic_store(&c->cancelled, 0);
	atomic_store(&c->busy, true);
}

int copy_host_begin(struct copy *c, const struct copy_job *job,
                    const struct copy_arrivals *arrivals)
{
	int rc;

	pthread_mutex_lock(&c->lock);
	rc = check_rests(c);
	if (rc == 0 && (job->plan->blocks > 0 || job->checks > 0)) {
		c->job = *job;
		c->arrivals = *arrivals;
		job_start(c, JOB_READ);
	}
	pthread_mutex_unlock(&c->lock);
	/* After the lock, so that who wakes does not run into it. */
	if (!arrivals->wait)
		copy_host_wake(c);
	return rc;
}

void copy_host_wake(struct copy *c)
{
	pthread_cond_signal(&c->work);
}

static int host_begin(struct copy *c, const struct copy_job *job, void *stream)
{
	(void)stream;
	return copy_host_begin(c, job, &no_arrivals);
}

static int host_fence(struct copy *c, void *stream, uint64_t deadline_ns)
{
	bool over, late = false;

	(void)stream;
	if (host_done(c) || atomic_load(&c->early) == 0)
		return 0;
	pthread_mutex_lock(&c->lock);
	over = wait_read(c, deadline_ns);
	if (!over) {
		late = true;
		job_cancel(c);
		over = wait_read(c, clock_ns() + IN_HAND_NS);
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

/* The wait has no deadline: it is for work that the caller asked for, done by
 * threads that wait for nobody. */
static int host_put(struct copy *c, const struct copy_put *put, uint32_t count)
{
	struct copy_puts all = copy_puts_all(put, count);
	/* To wake a thread for them would take longer. */
	bool small = all.bytes <= COPY_SHARE_BYTES;
	int rc;

	pthread_mutex_lock(&c->lock);
	rc = check_rests(c);
	if (rc == 0 && !small) {
		c->left = all;
		job_start(c, JOB_PUT);
		pthread_cond_signal(&c->work);
		while (!host_done(c))
			pthread_cond_wait(&c->over, &c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	if (rc == 0 && small)
		copy_puts_write(&all);
	return rc;
}

int copy_host_fill(struct copy *c, const struct copy_fill *fill, uint32_t ready,
                   const struct copy_arrivals *arrivals)
{
	int rc;

	pthread_mutex_lock(&c->lock);
	rc = check_rests(c);
	if (rc == 0) {
		c->filling = (struct filling){.fill = *fill, .ready = ready};
		c->arrivals = *arrivals;
		if (fill->plan->blocks > 0)
			job_start(c, JOB_FILL);
	}
	pthread_mutex_unlock(&c->lock);
	pthread_cond_signal(&c->work);
	return rc;
}

static int host_fill(struct copy *c, const struct copy_fill *fill, uint32_t ready)
{
	return copy_host_fill(c, fill, ready, &no_arrivals);
}

static void host_fill_more(struct copy *c, uint32_t ready)
{
	pthread_mutex_lock(&c->lock);
	c->filling.ready = ready;
	pthread_mutex_unlock(&c->lock);
	pthread_cond_signal(&c->work);
}

/* With the lock held. Threads that are on their way into the job find its end. */
static void fill_finish(struct copy *c)
{
	c->filling.last = true;
	pthread_cond_broadcast(&c->work);
	while (!host_done(c))
		pthread_cond_wait(&c->over, &c->lock);
}

/* Waits without a deadline, like host_put(). */
static int host_fill_end(struct copy *c, uint64_t *damaged)
{
	pthread_mutex_lock(&c->lock);
	fill_finish(c);
	*damaged = c->filling.damaged;
	pthread_mutex_unlock(&c->lock);
	return 0;
}

static void host_close(struct copy *c)
{
	if (!c)
		return;
	if (c->sync_ready) {
		pthread_mutex_lock(&c->lock);
		job_cancel(c);
		fill_finish(c);
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

static int sync_init(struct copy *c)
{
	int err = thread_cond_init(&c->over);

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

/* A byte that cannot be read fails the system call: no signal. Unlike process_vm_readv() it
 * reads as a copy thread does, also what a driver mapped. True where that cannot be asked. */
static bool both_readable(const uint8_t *first, const uint8_t *last)
{
	struct iovec ends[] = {{(void *)first, 1}, {(void *)last, 1}};
	int pipe_fd[2];
	ssize_t done;
	bool readable;

	if (pipe2(pipe_fd, O_CLOEXEC) != 0)
		return true;
	done = writev(pipe_fd[1], ends, 2);
	readable = done == 2 || (done < 0 && errno != EFAULT);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	return readable;
}

static int host_where(const void *addr, uint64_t bytes, int *device)
{
	*device = DEVICE_HOST;
	if (both_readable(addr, (const uint8_t *)addr + bytes - 1))
		return 0;
	return error_set(FTMEM_EINVAL,
	                 "memory at %p is not readable by the processor: if it is a device's, "
	                 "libftmem was built without CUDA (FTMEM_WITH_CUDA) and has to be built "
	                 "with it",
	                 addr);
}

static int host_prepare(struct copy *c, struct copy_plan *plan, void *addr, uint64_t bytes)
{
	(void)c;
	(void)plan;
	(void)addr;
	(void)bytes;
	return 0;
}

static void host_release(struct copy *c, struct copy_plan *plan)
{
	(void)c;
	(void)plan;
}

/* Copies of host memory do not fail: they are cancelled, and who does knows why. */
static void host_why(struct copy *c, char *text, size_t bytes)
{
	(void)c;
	if (bytes > 0)
		text[0] = '\0';
}

static void host_figures(struct copy *c, struct copy_figures *out)
{
	(void)c;
	*out = (struct copy_figures){0};
}

const struct copy_ops *copy_host(void)
{
	static const struct copy_ops ops = {
		.name = "host",
		.where = host_where,
		.open = host_open,
		.prepare = host_prepare,
		.release = host_release,
		.begin = host_begin,
		.fence = host_fence,
		.cancel = host_cancel,
		.done = host_done,
		.why = host_why,
		.put = host_put,
		.fill = host_fill,
		.fill_more = host_fill_more,
		.fill_end = host_fill_end,
		.figures = host_figures,
		.close = host_close,
	};

	return &ops;
}
