/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A ceiling on bytes per second, as a token bucket: what is sent may run ahead of
 * the rate by one bucket. One thread.
 */
#ifndef FTMEM_LIMITER_H
#define FTMEM_LIMITER_H

#include <stdbool.h>
#include <stdint.h>

struct limiter {
	uint64_t rate;      /* bytes/s, 0: no ceiling */
	double tokens;      /* bytes that may be sent now; below 0: wait */
	uint64_t last_ns;
};

/* Bucket: what the rate gives in 10 ms. */
#define LIMITER_BURST_S 0.01

/* Whether to send now; then call limiter_spend(). */
static inline bool limiter_allows(struct limiter *l, uint64_t now_ns)
{
	double burst = (double)l->rate * LIMITER_BURST_S;

	if (l->rate == 0)
		return true;
	l->tokens += (double)(now_ns - l->last_ns) * 1e-9 * (double)l->rate;
	l->last_ns = now_ns;
	if (l->tokens > burst)
		l->tokens = burst;
	return l->tokens >= 0;
}

static inline void limiter_spend(struct limiter *l, uint64_t bytes)
{
	if (l->rate)
		l->tokens -= (double)bytes;
}

#endif
