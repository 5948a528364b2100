/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Private memory of this process beyond what it had at the beginning: what the
 * library takes besides the arenas. Arenas are shared memory and do not count
 * (the kernel's RssAnon leaves them out).
 */
#ifndef BENCH_USAGE_H
#define BENCH_USAGE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct usage {
	uint64_t before;
	_Atomic uint64_t peak;
	_Atomic bool stop;
	bool running;
	pthread_t thread;
};

/* Now is the beginning. */
void usage_init(struct usage *u);
/* Looks now. */
void usage_look(struct usage *u);
/* Looks every millisecond until usage_watch_end(): for passes that are not timed. */
int usage_watch(struct usage *u);
void usage_watch_end(struct usage *u);
/* The largest amount seen beyond the beginning, in bytes. */
uint64_t usage_extra(const struct usage *u);

#endif
