/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kernel pins some GB/s on one thread, and drivers refuse single pieces of hundreds of
 * GiB: so arenas are pinned in pieces, by several threads. Nor do drivers know that pieces are
 * neighbours: a run ends where a piece does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "copy_device_impl.h"
#include "error.h"
#include "thread.h"

/* Unless the configuration says. */
#define PIECE_BYTES (UINT64_C(1) << 30)
#define THREADS_MAX 64

struct pin_job {
	const struct device_ops *ops;
	struct device *d;
	uint8_t *base;
	uint64_t bytes, piece, pieces;
	bool *done; /* [pieces] */
	_Atomic uint64_t next;
	_Atomic bool failed;
	_Atomic bool has_reason; /* taken by who writes it */
	char reason[256];
};

static uint64_t piece_size(const struct copy *c)
{
	return c->config.pin_piece > 0 ? c->config.pin_piece : PIECE_BYTES;
}

static void pin_pieces(struct pin_job *job)
{
	uint64_t i, left;

	while (!atomic_load(&job->failed) && (i = atomic_fetch_add(&job->next, 1)) < job->pieces) {
		left = job->bytes - i * job->piece;
		if (job->ops->pin(job->d, job->base + i * job->piece,
		                  left < job->piece ? left : job->piece) == 0) {
			job->done[i] = true;
			continue;
		}
		atomic_store(&job->failed, true);
		if (!atomic_exchange(&job->has_reason, true))
			snprintf(job->reason, sizeof(job->reason), "%.250s", error_msg());
	}
}

static void *pin_thread(void *arg)
{
	struct pin_job *job = arg;

	pin_pieces(job);
	return NULL;
}

/* The caller is one of the threads; those that do not start are not needed. */
static void pin_all(struct pin_job *job, uint32_t threads)
{
	pthread_t thread[THREADS_MAX];
	uint32_t started = 0;

	while (started < THREADS_MAX && started + 1 < threads && started + 1 < job->pieces
	       && thread_start(&thread[started], pin_thread, job) == 0)
		started++;
	pin_pieces(job);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(thread[i], NULL);
}

static void warn(struct copy *c, const char *reason)
{
	if (!c->warned_pin)
		log_line(c->config.log, FTMEM_LOG_WARN,
		         "memory of snapshots is not pinned, copies from and to devices will be "
		         "slow: %s",
		         reason);
	c->warned_pin = true;
}

static struct device *ready_device(const struct copy *c, const struct copy_ready *r)
{
	return c->gpu[r->bands->device[0]]->d;
}

void ready_pin(struct copy *c, struct copy_ready *r, void *addr, uint64_t bytes)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), before = (uintptr_t)addr % page;
	struct pin_job job = {
		.ops = c->ops,
		.d = ready_device(c, r),
		.base = (uint8_t *)addr - before,
		.bytes = (bytes + before + page - 1) / page * page,
		.piece = piece_size(c),
	};

	if (bytes == 0)
		return;
	job.pieces = (job.bytes + job.piece - 1) / job.piece;
	job.done = calloc(job.pieces, sizeof(*job.done));
	if (!job.done) {
		warn(c, "out of memory");
		return;
	}
	pin_all(&job, c->config.pin_threads);
	if (atomic_load(&job.failed)) {
		for (uint64_t i = 0; i < job.pieces; i++)
			if (job.done[i])
				c->ops->unpin(job.d, job.base + i * job.piece);
		warn(c, job.reason);
	} else {
		r->pinned = job.base;
		r->pinned_bytes = job.bytes;
	}
	free(job.done);
}

void ready_unpin(struct copy *c, struct copy_ready *r)
{
	for (uint64_t at = 0; r->pinned && at < r->pinned_bytes; at += piece_size(c))
		c->ops->unpin(ready_device(c, r), r->pinned + at);
	r->pinned = NULL;
}

/* Bytes from there to the end of the piece that was pinned. */
static uint64_t piece_follow(const struct copy *c, const void *host)
{
	for (const struct copy_ready *r = c->ready; r; r = r->next) {
		uint64_t at = (uintptr_t)host - (uintptr_t)r->pinned;

		if (r->pinned && (uintptr_t)host >= (uintptr_t)r->pinned && at < r->pinned_bytes)
			return piece_size(c) - at % piece_size(c);
	}
	return UINT64_MAX;
}

void run_batch_add(struct run_batch *b, struct device_run run, const void *host)
{
	uint64_t left = run.bytes, n;

	for (uint64_t done = 0; left > 0; done += n, left -= n) {
		n = host ? piece_follow(b->c, (const uint8_t *)host + done) : left;
		if (n > left)
			n = left;
		if (b->count == b->gpu->run_room)
			(void)run_batch_queue(b);
		b->gpu->run[b->count++] = (struct device_run){(uint8_t *)run.to + done,
		                                              (const uint8_t *)run.from + done, n};
	}
}

int run_batch_queue(struct run_batch *b)
{
	if (b->count > 0 && b->rc == 0)
		b->rc = b->c->ops->copy(b->gpu->d, b->lane, b->gpu->run, b->count);
	b->count = 0;
	return b->rc;
}
