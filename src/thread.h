/* SPDX-License-Identifier: BSD-3-Clause */
/* Threads of the library: the trainer's signals are for the trainer's threads. */
#ifndef FTMEM_THREAD_H
#define FTMEM_THREAD_H

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

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

/* A condition whose deadlines are of the monotonic clock (clock.h). Returns pthread's error. */
static inline int thread_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	int err = pthread_condattr_init(&attr);

	if (err)
		return err;
	err = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	if (!err)
		err = pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
	return err;
}

/* How late the calling thread's sleeps may end: by default the kernel lets them last
 * 50 us longer than asked for. Returns what was set before, below 0 if that is unknown;
 * where it is refused sleeps are longer. */
static inline int thread_slack(int ns)
{
	int before = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);

	if (ns > 0)
		(void)prctl(PR_SET_TIMERSLACK, (unsigned long)ns, 0, 0, 0);
	return before;
}
/* For threads that wait for blocks. */
#define THREAD_SLACK_NS 1000

#endif
