/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/reap.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "error.h"
#include "thread.h"

#define WAITING_MAX 4096u

struct reap {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more, none; /* something to do; nothing is left */
	uint32_t waiting;          /* in fd[] */
	bool closing, end;         /* the thread closes one; it shall end */
	int fd[WAITING_MAX];
};

/* With the lock held, which is let go meanwhile. */
static void close_last(struct reap *r)
{
	int fd = r->fd[--r->waiting];

	pthread_mutex_unlock(&r->lock);
	close(fd);
	pthread_mutex_lock(&r->lock);
}

static void *reap_thread(void *arg)
{
	struct reap *r = arg;

	pthread_mutex_lock(&r->lock);
	for (;;) {
		while (!r->waiting && !r->end)
			pthread_cond_wait(&r->more, &r->lock);
		if (!r->waiting)
			break;
		r->closing = true;
		close_last(r);
		r->closing = false;
		if (!r->waiting)
			pthread_cond_signal(&r->none);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

int reap_new(struct reap **out)
{
	struct reap *r = calloc(1, sizeof(*r));
	int err;

	*out = NULL;
	if (!r)
		return error_set(FTMEM_ENOMEM, "no memory to free arenas in the background");
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->more, NULL);
	pthread_cond_init(&r->none, NULL);
	err = thread_start(&r->thread, reap_thread, r);
	if (err) {
		pthread_cond_destroy(&r->none);
		pthread_cond_destroy(&r->more);
		pthread_mutex_destroy(&r->lock);
		free(r);
		return error_sys(FTMEM_ESYS, err, "cannot start a thread that frees arenas");
	}
	(void)pthread_setname_np(r->thread, "ftmem-reap");
	*out = r;
	return 0;
}

void reap_free(struct reap *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->end = true;
	pthread_cond_signal(&r->more);
	pthread_mutex_unlock(&r->lock);
	pthread_join(r->thread, NULL);
	pthread_cond_destroy(&r->none);
	pthread_cond_destroy(&r->more);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

void reap_close(struct reap *r, int fd)
{
	bool full;

	pthread_mutex_lock(&r->lock);
	full = r->waiting == WAITING_MAX;
	if (!full)
		r->fd[r->waiting++] = fd;
	pthread_cond_signal(&r->more);
	pthread_mutex_unlock(&r->lock);
	if (full)
		close(fd);
}

uint32_t reap_waiting(struct reap *r)
{
	uint32_t waiting;

	if (!r)
		return 0;
	pthread_mutex_lock(&r->lock);
	waiting = r->waiting + r->closing;
	pthread_mutex_unlock(&r->lock);
	return waiting;
}

void reap_finish(struct reap *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	while (r->waiting)
		close_last(r);
	/* As long as close() takes, which has no deadline either. */
	while (r->closing)
		pthread_cond_wait(&r->none, &r->lock);
	pthread_mutex_unlock(&r->lock);
}
