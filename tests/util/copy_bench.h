/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A layout, its plan and a slot, for tests of a backend that copies them; and a gate at
 * which its threads can be stopped.
 */
#ifndef FTMEM_TEST_COPY_BENCH_H
#define FTMEM_TEST_COPY_BENCH_H

#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "checksum.h"
#include "clock.h"
#include "copy.h"
#include "test_boxes.h"

#define MINUTE 60000

/* The gate: closed, every thread that comes posts arrived and waits. */
static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_opened = PTHREAD_COND_INITIALIZER;
static sem_t gate_arrived;
static bool gate_closed;

static inline void gate_set(bool closed)
{
	pthread_mutex_lock(&gate_lock);
	gate_closed = closed;
	pthread_cond_broadcast(&gate_opened);
	pthread_mutex_unlock(&gate_lock);
}

/* Until one more thread has come to the gate. */
static inline void gate_await(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 20;
	assert_int_equal(sem_timedwait(&gate_arrived, &until), 0);
}

static inline void gate_pass(void)
{
	pthread_mutex_lock(&gate_lock);
	if (gate_closed)
		sem_post(&gate_arrived);
	while (gate_closed)
		pthread_cond_wait(&gate_opened, &gate_lock);
	pthread_mutex_unlock(&gate_lock);
}

/* Open, and nobody has come. */
static inline void gate_clear(void)
{
	gate_set(false);
	while (sem_trywait(&gate_arrived) == 0)
		continue;
}

static inline void wait_at_gate(void *arg)
{
	(void)arg;
	gate_pass();
}

#define CHECKS 5

/* A layout, its plan, a slot to copy it to, checks, and a backend. */
struct bench {
	struct test_layout t;
	struct rail rail;
	struct copy_plan *plan;
	struct copy_job job;
	uint8_t *image; /* what the slot must hold */
	struct copy_check check[CHECKS];
	uint32_t check_sum[CHECKS], want_sum[CHECKS];
	const struct copy_ops *ops;
	struct copy *copy;
};

/* A range of a box in a region, and its checksum. */
static inline struct copy_check new_check(const struct region *r, uint64_t *random, uint32_t *sum)
{
	struct box inner = test_boxes_inner(&r->box, random);
	uint64_t bytes = test_boxes_count(&inner) * r->elem_bytes;
	uint8_t *packed = malloc(bytes);
	struct copy_check k = {.addr = r->addr, .device = r->device};

	assert_non_null(packed);
	test_boxes_pack(&r->box, &inner, r->elem_bytes, r->addr, packed);
	box_view(&r->box, &inner, r->elem_bytes, &k.view);
	k.from = test_random_below(random, (uint32_t)bytes);
	k.bytes = 1 + test_random_below(random, (uint32_t)(bytes - k.from));
	*sum = checksum_more(0, packed + k.from, k.bytes);
	free(packed);
	return k;
}

/* Every other one has checks. */
static inline void bench_init(struct bench *b, uint32_t threads, uint64_t random)
{
	static const uint64_t bytes[] = {1, 63, 64, 100000, 65, 4095, (1 << 20) + 1, 7, 4096, 9};
	struct copy_config config = {.threads = threads};

	memset(b, 0, sizeof(*b));
	b->job.checks = random % 2 ? CHECKS : 0;
	test_boxes_init(&b->t, bytes, 10, CHECKS, 30000, &random);
	b->rail = test_layout_rail(&b->t, 4, 1, 8192);
	assert_int_equal(copy_plan_new(&b->t.layout, &b->rail, 1, &b->plan), 0);
	assert_true(b->plan->blocks > 100);
	b->image = test_boxes_image(&b->t);
	for (uint32_t i = 0; i < CHECKS; i++)
		b->check[i] = new_check(&b->t.layout.region[10 + i], &random, &b->want_sum[i]);
	b->job.plan = b->plan;
	b->job.data = calloc(1, b->t.layout.data_bytes);
	b->job.sums = calloc(b->plan->blocks, sizeof(*b->job.sums));
	b->job.landed = calloc(b->plan->blocks, 1);
	b->job.check = b->check;
	b->job.check_sum = b->check_sum;
	assert_non_null(b->job.data);
	assert_non_null(b->job.sums);
	assert_non_null(b->job.landed);
	b->ops = copy_host();
	assert_int_equal(b->ops->open(&config, &b->copy), 0);
}

static inline void bench_deinit(struct bench *b)
{
	b->ops->close(b->copy);
	copy_plan_free(b->plan);
	test_layout_deinit(&b->t);
	free(b->image);
	free(b->job.data);
	free(b->job.sums);
	free((void *)b->job.landed);
}

static inline void flags_clear(struct bench *b)
{
	for (uint32_t i = 0; i < b->plan->blocks; i++)
		atomic_store(&b->job.landed[i], COPY_PENDING);
	for (uint32_t i = 0; i < CHECKS; i++)
		b->check_sum[i] = ~b->want_sum[i];
}

static inline void bench_begin(struct bench *b)
{
	flags_clear(b);
	assert_int_equal(b->ops->begin(b->copy, &b->job, NULL), 0);
}

static inline int bench_fence(struct bench *b)
{
	return b->ops->fence(b->copy, NULL, clock_deadline(MINUTE));
}

static inline unsigned landed_of(const struct bench *b, uint32_t index)
{
	return atomic_load_explicit(&b->job.landed[index], memory_order_acquire);
}

static inline void assert_block_is_right(const struct bench *b, uint32_t index)
{
	const struct copy_block *block = &b->plan->block[index];

	assert_memory_equal(b->job.data + block->offset, b->image + block->offset, block->bytes);
	assert_int_equal(b->job.sums[block->sum],
	                 checksum_more(0, b->image + block->offset, block->bytes));
}

static inline void assert_checks_are_right(const struct bench *b)
{
	for (uint32_t i = 0; i < b->job.checks; i++)
		assert_int_equal(b->check_sum[i], b->want_sum[i]);
}

/* Blocks landed; each of them is right, each other has failed; if none has, the checks
 * are right. */
static inline uint32_t assert_resolved(const struct bench *b)
{
	uint32_t landed = 0;

	assert_true(b->ops->done(b->copy));
	for (uint32_t i = 0; i < b->plan->blocks; i++) {
		if (landed_of(b, i) != COPY_LANDED) {
			assert_int_equal(landed_of(b, i), COPY_FAILED);
			continue;
		}
		assert_block_is_right(b, i);
		landed++;
	}
	if (landed == b->plan->blocks)
		assert_checks_are_right(b);
	return landed;
}

#endif
