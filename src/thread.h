/* SPDX-License-Identifier: BSD-3-Clause */
/* Threads of the library: the trainer's signals are for the trainer's threads. */
#ifndef FTMEM_THREAD_H
#define FTMEM_THREAD_H

#include <pthread.h>
#include <signal.h>

/* pthread_create() with all signals blocked in the new thread. Returns its error. */
static inline int thread_start(pthread_t *thread, void *(*run)(void *), void *arg)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	err = pthread_sigmask(SIG_SETMASK, &all, &before);
	if (err)
		return err;
	err = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

#endif
