/* SPDX-License-Identifier: BSD-3-Clause */
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "growth.h"

static atomic_bool counting;
static atomic_uint_fast64_t steps, live, peak;
static struct growth_cost sent;

/* --- steps: the library is built with -fsanitize-coverage=trace-pc --- */

void __sanitizer_cov_trace_pc(void);

void __sanitizer_cov_trace_pc(void)
{
	if (atomic_load_explicit(&counting, memory_order_relaxed))
		atomic_fetch_add_explicit(&steps, 1, memory_order_relaxed);
}

/* --- memory: of what is allocated while it counts, what lives --- */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t align, size_t bytes);
void __real_free(void *at);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void __wrap_free(void *at);

static void *count_more(void *at)
{
	uint64_t now, most = atomic_load(&peak);

	if (!at || !atomic_load(&counting))
		return at;
	now = atomic_fetch_add(&live, malloc_usable_size(at)) + malloc_usable_size(at);
	while (now > most && !atomic_compare_exchange_weak(&peak, &most, now))
		;
	return at;
}

static void count_less(void *at)
{
	if (at && atomic_load(&counting))
		atomic_fetch_sub(&live, malloc_usable_size(at));
}

void *__wrap_malloc(size_t bytes)
{
	return count_more(__real_malloc(bytes));
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	return count_more(__real_calloc(count, bytes));
}

void *__wrap_realloc(void *old, size_t bytes)
{
	count_less(old);
	return count_more(__real_realloc(old, bytes));
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	return count_more(__real_aligned_alloc(align, bytes));
}

void __wrap_free(void *at)
{
	count_less(at);
	__real_free(at);
}

/* --- phases --- */

void growth_cost_begin(void)
{
	memset(&sent, 0, sizeof(sent));
	steps = 0;
	peak = atomic_load(&live);
	counting = true;
}

struct growth_cost growth_cost_end(void)
{
	struct growth_cost cost = sent;

	counting = false;
	cost.steps = steps;
	cost.memory = peak;
	return cost;
}

void growth_cost_pause(void)
{
	counting = false;
}

void growth_cost_resume(void)
{
	counting = true;
}

uint64_t growth_cost_live(void)
{
	return live;
}

void growth_cost_send(uint64_t messages, uint64_t bytes, uint64_t table_bytes)
{
	sent.messages += messages;
	sent.bytes += bytes;
	sent.table_bytes += table_bytes;
}
