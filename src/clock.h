/* SPDX-License-Identifier: BSD-3-Clause */
/* Time, in nanoseconds: monotonic for deadlines, the wall clock for stamps. */
#ifndef FTMEM_CLOCK_H
#define FTMEM_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t clock_wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The deadline that lies ms milliseconds ahead. */
static inline uint64_t clock_deadline(uint32_t ms)
{
	return clock_ns() + (uint64_t)ms * 1000000u;
}

static inline void clock_sleep(uint64_t ns)
{
	struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

	nanosleep(&t, NULL);
}

#endif
