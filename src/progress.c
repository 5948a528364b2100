/* SPDX-License-Identifier: BSD-3-Clause */
#include "progress.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "thread.h"

/* Versions asked for and not resolved; further ones mean that peers are gone. */
#define QUEUE 1024
/* Resolved versions that ftmem_wait() still knows. */
#define HISTORY 256
/* An idle thread looks after its SMP so often. */
#define IDLE_NS UINT64_C(500000000)
/* What a version waits for, in words: also where names are long. */
#define WAITS_TEXT 192

struct call {
	uint64_t version, called_ns;
	bool go, skip, compare; /* skip: asked for, no lack of a slot */
};

struct outcome {
	uint64_t version;
	bool committed;
	char reason[COMPARE_TEXT];
};
_Static_assert(COMPARE_TEXT + 64 <= ERROR_MSG_MAX, "a message holds the reason of a drop");

struct progress {
	struct progress_config config;
	pthread_t thread;
	bool running;              /* the thread exists; trainer's thread only */
	atomic_bool abandon;       /* give up what is under way */

	pthread_mutex_t lock;      /* guards all below but what engine uses while busy */
	pthread_cond_t wake;       /* the thread: a call or stop */
	pthread_cond_t resolved;   /* waiters: a version is resolved, or broken */
	bool stop, broken;
	struct call queue[QUEUE];
	uint32_t first, count;     /* the first is under way once the thread took it */
	struct outcome outcome[HISTORY];
	uint32_t outcomes;
	uint64_t next_version;     /* the least that may be asked for */
	bool any_version;
	uint64_t calls;            /* since the epoch was set; the same on all ranks */
	char waits_for[WAITS_TEXT];       /* last report of the thread */
	char broken_text[256];
	struct progress_stats stats;

	char warned[ERROR_MSG_MAX]; /* of a copy that did not begin; trainer's thread only */
	struct snapshot engine;
};

/*
 * The copy thread, or who cancels the copy before it begins, wakes the progress thread, which
 * has nothing to send before: woken by the trainer it would often take the trainer's core, in
 * the middle of ftmem_snapshot().
 * Who queued the version holds the lock meanwhile, so the thread finds it.
 */
static void wake_up(void *arg)
{
	struct progress *p = arg;

	pthread_cond_signal(&p->wake);
}

static int sync_init(struct progress *p)
{
	int err = thread_cond_init(&p->wake);

	if (err)
		return err;
	err = thread_cond_init(&p->resolved);
	if (err)
		goto no_resolved;
	err = pthread_mutex_init(&p->lock, NULL);
	if (err)
		goto no_lock;
	return 0;
no_lock:
	pthread_cond_destroy(&p->resolved);
no_resolved:
	pthread_cond_destroy(&p->wake);
	return err;
}

int progress_new(const struct progress_config *config, struct progress **out)
{
	struct progress *p = calloc(1, sizeof(*p));

	*out = NULL;
	if (!p || sync_init(p) != 0) {
		free(p);
		return error_set(FTMEM_ENOMEM, "no memory for the progress thread");
	}
	p->config = *config;
	p->engine.net = config->net;
	p->engine.copy_ops = config->copy_ops;
	p->engine.copy = config->copy;
	p->engine.log = config->log;
	p->engine.timeout_ms = config->timeout_ms;
	p->engine.started = wake_up;
	p->engine.started_arg = p;
	*out = p;
	return 0;
}

void progress_set_epoch(struct progress *p, struct epoch *e, const struct commit_slot slots[2],
                        uint64_t incarnation)
{
	int newest;

	p->engine.epoch = e;
	snapshot_init(&p->engine, slots, incarnation);
	newest = commit_newest(&p->engine.commit);
	pthread_mutex_lock(&p->lock);
	p->calls = 0;
	if (newest >= 0) {
		p->stats.newest = slots[newest].stamp.version;
		p->stats.stored = true;
	}
	pthread_mutex_unlock(&p->lock);
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

/* --- the thread --- */

static void record(struct progress *p, uint64_t version, bool committed, const char *reason)
{
	struct outcome *o = &p->outcome[p->outcomes++ % HISTORY];

	o->version = version;
	o->committed = committed;
	snprintf(o->reason, sizeof(o->reason), "%.*s", (int)sizeof(o->reason) - 1, reason);
}

static void resolve(struct progress *p, const struct call *call)
{
	const struct snapshot *s = &p->engine;
	char reason[sizeof(s->reason)];
	bool dropped = !s->committed && call->go;

	/* Once the count falls the engine is the trainer's thread's again. */
	pthread_mutex_lock(&p->lock);
	memcpy(reason, s->reason, sizeof(reason));
	record(p, call->version, s->committed, reason);
	p->stats.compared += s->compared;
	p->stats.differing += s->differs;
	if (s->committed) {
		p->stats.committed++;
		p->stats.newest = call->version;
		p->stats.stored = true;
		p->stats.copy_s = (double)(s->copied_ns - s->called_ns) * 1e-9;
		p->stats.protect_s = (double)(s->over_ns - s->called_ns) * 1e-9;
	} else if (dropped) {
		p->stats.dropped++;
	}
	p->first = (p->first + 1) % QUEUE;
	p->count--;
	p->waits_for[0] = '\0';
	pthread_cond_broadcast(&p->resolved);
	pthread_mutex_unlock(&p->lock);
	if (dropped)
		log_line(p->config.log, FTMEM_LOG_DEBUG, "version %" PRIu64 " dropped: %s",
		         call->version, reason[0] ? reason : "another rank gave it up");
}

static void break_down(struct progress *p)
{
	log_line(p->config.log, FTMEM_LOG_ERROR,
	         "%s: no further version will be stored until the job "
	         "is started again",
	         error_msg());
	/* The others may have voted. */
	p->config.net->broken = true;
	pthread_mutex_lock(&p->lock);
	p->broken = true;
	snprintf(p->broken_text, sizeof(p->broken_text), "%.200s", error_msg());
	pthread_cond_broadcast(&p->resolved);
	pthread_mutex_unlock(&p->lock);
}

/* Keeps waits_for current, and tells the user once when a version takes long. */
static void report_wait(struct progress *p, uint64_t *next_ns, uint64_t *warn_ns, uint64_t now)
{
	char text[WAITS_TEXT];

	if (now < *next_ns)
		return;
	*next_ns = now + IDLE_NS;
	snapshot_describe(&p->engine, text, sizeof(text));
	pthread_mutex_lock(&p->lock);
	memcpy(p->waits_for, text, sizeof(text));
	pthread_mutex_unlock(&p->lock);
	if (now < *warn_ns)
		return;
	*warn_ns = UINT64_MAX;
	log_line(p->config.log, FTMEM_LOG_WARN,
	         "still waiting after %" PRIu32 " ms: %s; versions are "
	         "skipped until it comes",
	         p->config.timeout_ms, text);
}

/* Drives one version to its end. False: given up, or the network failed. */
static bool drive(struct progress *p, const struct call *call)
{
	struct net_backoff backoff = {0};
	uint64_t report_ns = clock_ns() + IDLE_NS, warn_ns = clock_deadline(p->config.timeout_ms);

	snapshot_start(&p->engine, call->version, call->go, call->compare, call->called_ns);
	if (call->skip)
		snprintf(p->engine.reason, sizeof(p->engine.reason), "this rank skipped it");
	while (!snapshot_over(&p->engine)) {
		uint64_t now;
		int rc = snapshot_step(&p->engine);

		if (rc < 0) {
			break_down(p);
			return false;
		}
		if (atomic_load_explicit(&p->abandon, memory_order_relaxed))
			return false;
		if (rc > 0) {
			backoff = (struct net_backoff){0};
			continue;
		}
		net_backoff(&backoff);
		net_roll_answer(p->config.net);
		now = clock_ns();
		keeper_watch(p->config.keeper, now);
		report_wait(p, &report_ns, &warn_ns, now);
	}
	return true;
}

/* Waits for a call. False: the thread is to end. */
static bool next_call(struct progress *p, struct call *call)
{
	bool got;

	pthread_mutex_lock(&p->lock);
	while (!p->stop && (p->count == 0 || p->broken)) {
		struct timespec until = timespec_of(clock_ns() + IDLE_NS);

		if (pthread_cond_timedwait(&p->wake, &p->lock, &until) == ETIMEDOUT) {
			pthread_mutex_unlock(&p->lock);
			keeper_watch(p->config.keeper, clock_ns());
			net_roll_answer(p->config.net);
			pthread_mutex_lock(&p->lock);
		}
	}
	got = !p->stop;
	if (got)
		*call = p->queue[p->first];
	pthread_mutex_unlock(&p->lock);
	return got;
}

static void *thread_main(void *arg)
{
	struct progress *p = arg;
	struct call call;

	if (p->config.pin)
		p->config.pin(p->config.pin_arg);
	(void)thread_slack(THREAD_SLACK_NS);
	while (next_call(p, &call)) {
		if (!drive(p, &call))
			continue;
		if (p->engine.retire)
			p->config.retire(p->config.retire_arg);
		resolve(p, &call);
	}
	return NULL;
}

/* --- the trainer's side --- */

static int broken(const struct progress *p)
{
	return error_set(FTMEM_ENET, "snapshots stopped: %s; start the job again", p->broken_text);
}

static int create_thread(struct progress *p)
{
	int rc = thread_start(&p->thread, thread_main, p);

	/* A name is for debuggers; to have none is no failure. */
	if (rc == 0)
		(void)pthread_setname_np(p->thread, "ftmem-progress");
	return rc;
}

int progress_start(struct progress *p)
{
	int rc;

	if (p->running)
		return 0;
	p->stop = false;
	/* A vote would meet the collective steps of other ranks. */
	if (p->config.net->broken && !p->broken) {
		p->broken = true;
		snprintf(p->broken_text, sizeof(p->broken_text), "a collective step did not end");
	}
	rc = create_thread(p);
	if (rc != 0)
		return error_sys(FTMEM_ESYS, rc, "starting the progress thread");
	p->running = true;
	return 0;
}

int progress_stop(struct progress *p, uint64_t deadline_ns)
{
	struct timespec until = timespec_of(deadline_ns);
	char waits_for[WAITS_TEXT];
	bool idle;

	if (!p->running)
		return 0;
	pthread_mutex_lock(&p->lock);
	while (p->count > 0 && !p->broken)
		if (pthread_cond_timedwait(&p->resolved, &p->lock, &until) == ETIMEDOUT)
			break;
	idle = p->count == 0 || p->broken;
	p->stop = idle;
	/* The version under way may never end. */
	if (p->broken)
		atomic_store(&p->abandon, true);
	memcpy(waits_for, p->waits_for, sizeof(waits_for));
	pthread_cond_broadcast(&p->wake);
	pthread_mutex_unlock(&p->lock);
	if (!idle)
		return error_set(FTMEM_ETIMEOUT, "a snapshot is still under way: it waits for %s",
		                 waits_for[0] ? waits_for : "a peer");
	pthread_join(p->thread, NULL);
	p->running = false;
	return 0;
}

int progress_check(struct progress *p)
{
	int rc;

	pthread_mutex_lock(&p->lock);
	rc = p->broken ? broken(p) : 0;
	pthread_mutex_unlock(&p->lock);
	return rc;
}

/* Whether the copy has let go of its job, which lies in the engine. */
static bool copy_rests(struct progress *p)
{
	uint64_t deadline = clock_deadline(p->config.timeout_ms);
	struct net_backoff backoff = {0};

	if (p->config.copy_ops->done(p->config.copy))
		return true;
	p->config.copy_ops->cancel(p->config.copy);
	while (!p->config.copy_ops->done(p->config.copy)) {
		if (clock_ns() > deadline)
			return false;
		net_backoff(&backoff);
	}
	return true;
}

void progress_abandon(struct progress *p, const char *why)
{
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	if (!p->broken)
		snprintf(p->broken_text, sizeof(p->broken_text), "%s", why);
	p->broken = true;
	atomic_store(&p->abandon, true);
	pthread_cond_broadcast(&p->wake);
	pthread_cond_broadcast(&p->resolved);
	pthread_mutex_unlock(&p->lock);
	if (p->running)
		pthread_join(p->thread, NULL);
	p->running = false;
}

void progress_free(struct progress *p)
{
	if (!p)
		return;
	if (p->running)
		progress_abandon(p, "the job was closed");
	/* A vote that did not end writes into the engine some day. */
	if (!copy_rests(p) || p->engine.vote.active)
		return;
	pthread_cond_destroy(&p->wake);
	pthread_cond_destroy(&p->resolved);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static int refuse_version(const struct progress *p, uint64_t version)
{
	return error_set(FTMEM_EINVAL,
	                 "version %" PRIu64 " does not grow: it must be at least %" PRIu64
	                 " and below 2^56",
	                 version, p->next_version);
}

/* Under the lock: whether the spare slot is free, and the engine the trainer's thread's. */
static bool slot_free(const struct progress *p)
{
	return p->count == 0 && commit_can_fill(&p->engine.commit);
}

/* Under the lock, which the wait gives up. Only this thread queues versions, so none comes
 * between the wait's end and its own. */
static void await_slot(struct progress *p)
{
	uint64_t begin = clock_ns();
	struct timespec until = timespec_of(clock_deadline(p->config.timeout_ms));

	if (slot_free(p))
		return;
	p->stats.waited++;
	while (!slot_free(p) && !p->broken)
		if (pthread_cond_timedwait(&p->resolved, &p->lock, &until) == ETIMEDOUT)
			break;
	p->stats.wait_s += (double)(clock_ns() - begin) * 1e-9;
	if (!slot_free(p) && !p->broken)
		error_set(FTMEM_BUSY,
		          "the version before did not end in %" PRIu32 " ms: it waits for %s",
		          p->config.timeout_ms, p->waits_for[0] ? p->waits_for : "its exchange");
}

/* Under the lock: there is a place in the queue. Begins to fill if the spare slot is free and
 * the version is not to be skipped. */
static int enqueue(struct progress *p, uint64_t version, bool skip, void *stream)
{
	bool fill = !skip && slot_free(p);
	struct call *call = &p->queue[(p->first + p->count) % QUEUE];

	p->any_version = true;
	p->next_version = version + 1;
	*call = (struct call){.version = version, .called_ns = clock_ns(), .skip = skip};
	p->calls++;
	call->compare = p->config.compare_every && p->calls % p->config.compare_every == 0;
	if (fill)
		call->go = snapshot_call(&p->engine, version, call->compare, stream);
	p->stats.skipped += !fill;
	p->stats.dropped += fill && !call->go;
	p->count++;
	if (!call->go || p->engine.epoch->plan->blocks == 0)
		wake_up(p);
	if (!fill)
		return skip ? 0 : FTMEM_BUSY;
	return call->go ? 0 : FTMEM_DROPPED;
}

/* Under the lock. */
static int take_version(struct progress *p, uint64_t version, bool skip, void *stream)
{
	if (!p->broken && (version >= FTMEM_VERSION_MAX ||
	                   (p->any_version && version < p->next_version)))
		return refuse_version(p, version);
	if (p->config.wait_busy && !skip && !p->broken)
		await_slot(p);
	if (!p->broken && p->count == QUEUE) {
		p->broken = true;
		snprintf(p->broken_text, sizeof(p->broken_text), "%d versions wait for other ranks",
		         QUEUE);
	}
	return p->broken ? broken(p) : enqueue(p, version, skip, stream);
}

/* A copy that does not begin often does not at the next step either: the same is said once. */
static void warn_dropped(struct progress *p, uint64_t version)
{
	if (strcmp(p->warned, error_msg()) == 0)
		return;
	snprintf(p->warned, sizeof(p->warned), "%s", error_msg());
	log_line(p->config.log, FTMEM_LOG_WARN, "version %" PRIu64 " is dropped: %s", version,
	         p->warned);
	/* Who takes the line may have called the library. */
	error_set(FTMEM_DROPPED, "%s", p->warned);
}

int progress_snapshot(struct progress *p, uint64_t version, void *stream)
{
	uint64_t begin = clock_ns();
	int rc;

	pthread_mutex_lock(&p->lock);
	rc = take_version(p, version, false, stream);
	p->stats.call_s = (double)(clock_ns() - begin) * 1e-9;
	pthread_mutex_unlock(&p->lock);
	if (rc == FTMEM_DROPPED)
		warn_dropped(p, version);
	return rc;
}

int progress_skip(struct progress *p, uint64_t version)
{
	int rc;

	pthread_mutex_lock(&p->lock);
	rc = take_version(p, version, true, NULL);
	pthread_mutex_unlock(&p->lock);
	return rc;
}

static const struct outcome *find_outcome(const struct progress *p, uint64_t version)
{
	uint32_t known = p->outcomes < HISTORY ? p->outcomes : HISTORY;

	for (uint32_t i = 1; i <= known; i++) {
		const struct outcome *o = &p->outcome[(p->outcomes - i) % HISTORY];

		if (o->version == version)
			return o;
	}
	return NULL;
}

static bool is_queued(const struct progress *p, uint64_t version)
{
	for (uint32_t i = 0; i < p->count; i++)
		if (p->queue[(p->first + i) % QUEUE].version == version)
			return true;
	return false;
}

/* Under the lock. 1: not resolved yet. */
static int look(const struct progress *p, uint64_t version)
{
	const struct outcome *o = find_outcome(p, version);

	if (o && o->committed)
		return 0;
	if (o) {
		error_set(FTMEM_DROPPED, "version %" PRIu64 " was dropped: %s", version,
		          o->reason[0] ? o->reason : "another rank skipped it or gave it up");
		return FTMEM_DROPPED;
	}
	if (!is_queued(p, version))
		return error_set(FTMEM_EINVAL,
		                 "version %" PRIu64 " was never asked for, or resolved more "
		                 "than %d versions ago",
		                 version, HISTORY);
	return p->broken ? broken(p) : 1;
}

int progress_wait(struct progress *p, uint64_t version, uint64_t deadline_ns)
{
	struct timespec until = timespec_of(deadline_ns);
	int rc;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		rc = look(p, version);
		if (rc != 1)
			break;
		if (pthread_cond_timedwait(&p->resolved, &p->lock, &until) == ETIMEDOUT) {
			rc = error_set(FTMEM_ETIMEOUT,
			               "version %" PRIu64 " is not resolved; under way: %s",
			               version, p->waits_for[0] ? p->waits_for : "its exchange");
			break;
		}
	}
	pthread_mutex_unlock(&p->lock);
	return rc;
}

void progress_read(struct progress *p, struct progress_stats *out)
{
	pthread_mutex_lock(&p->lock);
	*out = p->stats;
	pthread_mutex_unlock(&p->lock);
}

void progress_note_restored(struct progress *p, uint64_t version)
{
	pthread_mutex_lock(&p->lock);
	p->outcomes = 0;
	record(p, version, true, "");
	p->stats.newest = version;
	p->stats.stored = true;
	p->any_version = true;
	p->next_version = version + 1;
	pthread_mutex_unlock(&p->lock);
}

void progress_note_forgotten(struct progress *p)
{
	pthread_mutex_lock(&p->lock);
	p->outcomes = 0;
	p->stats.stored = false;
	p->stats.newest = 0;
	p->any_version = false;
	p->next_version = 0;
	pthread_mutex_unlock(&p->lock);
}
