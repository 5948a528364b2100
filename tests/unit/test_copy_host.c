/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Links with --wrap of copy_read_block and checksum (a thread that comes to the gate there
 * has a block or a check in its hands), pthread_cond_timedwait (time that passes when the
 * test says so) and pthread_create (threads that do not start).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "copy_bench.h"
#include "copy_read.h"
#include "error.h"

void __real_copy_read_block(const struct copy_job *job, uint32_t index);
void __wrap_copy_read_block(const struct copy_job *job, uint32_t index);
uint32_t __real_checksum(const void *data, size_t bytes);
uint32_t __wrap_checksum(const void *data, size_t bytes);
int __real_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock,
                                  const struct timespec *until);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock,
                                  const struct timespec *until);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);

/* If set, only who comes with these bytes stops at the gate. */
static const void *_Atomic gate_for;

void __wrap_copy_read_block(const struct copy_job *job, uint32_t index)
{
	__real_copy_read_block(job, index);
	if (!atomic_load(&gate_for))
		gate_pass();
}

uint32_t __wrap_checksum(const void *data, size_t bytes)
{
	if (!atomic_load(&gate_for) || atomic_load(&gate_for) == data)
		gate_pass();
	return __real_checksum(data, bytes);
}

/* Waits that end by their deadline at once; then the gate opens if asked to. */
static _Atomic unsigned expire_waits;
static _Atomic bool then_open;

int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock,
                                  const struct timespec *until)
{
	if (atomic_load(&expire_waits) > 0) {
		atomic_fetch_sub(&expire_waits, 1);
		return ETIMEDOUT;
	}
	if (atomic_exchange(&then_open, false))
		gate_set(false);
	return __real_pthread_cond_timedwait(cond, lock, until);
}

static unsigned threads_until_refusal; /* 0: none is refused */

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg)
{
	if (threads_until_refusal > 0 && --threads_until_refusal == 0)
		return EAGAIN;
	return __real_pthread_create(thread, attr, fn, arg);
}

static int gate_reset(void **state)
{
	(void)state;
	gate_clear();
	atomic_store(&gate_for, NULL);
	atomic_store(&expire_waits, 0);
	atomic_store(&then_open, false);
	threads_until_refusal = 0;
	return 0;
}

static void copies_everything_with_any_number_of_threads(void **state)
{
	static const uint32_t threads[] = {1, 2, 3, 8};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct bench b;

		bench_init(&b, threads[i], 10 + i);
		for (int again = 0; again < 3; again++) {
			memset(b.job.sums, 0x55, b.plan->blocks * sizeof(*b.job.sums));
			bench_begin(&b);
			assert_int_equal(bench_fence(&b), 0);
			assert_int_equal(assert_resolved(&b), b.plan->blocks);
			assert_memory_equal(b.job.data, b.image, b.t.layout.data_bytes);
		}
		bench_deinit(&b);
	}
}

static void regions_may_be_written_after_the_fence(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 3, 20);
	bench_begin(&b);
	assert_int_equal(bench_fence(&b), 0);
	memset(b.t.memory, 0, b.t.memory_bytes);
	assert_int_equal(assert_resolved(&b), b.plan->blocks);
	bench_deinit(&b);
}

/* What the exchange does: uses each block as soon as its flag says so. */
/* Whatever the slot held before, also where no piece lies. */
static void a_landed_block_is_complete(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 2, 21);
	for (int round = 0; round < 20; round++) {
		memset(b.job.data, 0xa5, b.t.layout.data_bytes);
		bench_begin(&b);
		for (uint32_t i = 0; i < b.plan->blocks; i++) {
			while (landed_of(&b, i) == COPY_PENDING)
				sched_yield();
			assert_block_is_right(&b, i);
		}
		assert_int_equal(bench_fence(&b), 0);
	}
	bench_deinit(&b);
}

static void count_start(void *arg)
{
	atomic_fetch_add((_Atomic unsigned *)arg, 1);
}

static void a_job_says_once_that_it_has_started(void **state)
{
	_Atomic unsigned starts = 0;
	struct bench b;

	(void)state;
	bench_init(&b, 4, 23);
	b.job.started = count_start;
	b.job.started_arg = (void *)&starts;
	for (unsigned round = 1; round <= 20; round++) {
		bench_begin(&b);
		assert_int_equal(bench_fence(&b), 0);
		assert_int_equal(atomic_load(&starts), round);
	}
	bench_deinit(&b);
}

/* One thread at the gate: it holds the first block, no other has landed. */
static void blocks_are_taken_in_the_order_of_the_plan(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 1, 22);
	gate_set(true);
	bench_begin(&b);
	gate_await();
	assert_false(b.ops->done(b.copy));
	assert_memory_equal(b.job.data, b.image, b.plan->block[0].bytes);
	for (uint32_t i = 0; i < b.plan->blocks; i++)
		assert_int_equal(landed_of(&b, i), COPY_PENDING);
	for (uint32_t i = 1; i < b.plan->blocks; i++)
		if (b.plan->block[i].bytes > 0)
			assert_int_equal(b.job.data[b.plan->block[i].offset], 0);
	gate_set(false);
	assert_int_equal(bench_fence(&b), 0);
	assert_int_equal(assert_resolved(&b), b.plan->blocks);
	bench_deinit(&b);
}

static void all_threads_take_part(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 5, 23);
	gate_set(true);
	bench_begin(&b);
	for (int i = 0; i < 5; i++)
		gate_await();
	gate_set(false);
	assert_int_equal(bench_fence(&b), 0);
	assert_int_equal(assert_resolved(&b), b.plan->blocks);
	bench_deinit(&b);
}

static void one_job_at_a_time(void **state)
{
	const uint8_t source[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	uint8_t to[8] = {0};
	const struct copy_put put = {.to = to,
	                             .to_view = box_view_flat(8),
	                             .source = source,
	                             .source_view = box_view_flat(8),
	                             .bytes = 8,
	                             .device = DEVICE_HOST};
	struct bench b;

	(void)state;
	bench_init(&b, 1, 24);
	gate_set(true);
	bench_begin(&b);
	assert_int_equal(b.ops->begin(b.copy, &b.job, NULL), FTMEM_EINVAL);
	assert_int_equal(b.ops->put(b.copy, &put, 1), FTMEM_EINVAL);
	assert_int_equal(to[0], 0);
	gate_set(false);
	assert_int_equal(bench_fence(&b), 0);
	assert_int_equal(assert_resolved(&b), b.plan->blocks);
	assert_int_equal(b.ops->put(b.copy, &put, 1), 0);
	assert_memory_equal(to, source, 8);
	bench_deinit(&b);
}

static void nothing_to_copy_is_done_at_once(void **state)
{
	struct copy_plan empty = {0};
	struct copy_job job = {.plan = &empty};
	struct bench b;

	(void)state;
	bench_init(&b, 2, 25);
	assert_true(b.ops->done(b.copy));
	assert_int_equal(b.ops->fence(b.copy, NULL, 0), 0);
	assert_int_equal(b.ops->begin(b.copy, &job, NULL), 0);
	assert_true(b.ops->done(b.copy));
	assert_int_equal(b.ops->fence(b.copy, NULL, 0), 0);
	assert_int_equal(b.ops->put(b.copy, NULL, 0), 0);
	bench_deinit(&b);
}

static void cancel_fails_what_has_not_landed(void **state)
{
	char why[8] = "nothing";
	struct bench b;

	(void)state;
	bench_init(&b, 2, 26);
	gate_set(true);
	bench_begin(&b);
	gate_await();
	gate_await();
	b.ops->cancel(b.copy);
	assert_false(b.ops->done(b.copy));
	gate_set(false);
	assert_int_equal(bench_fence(&b), 0);
	assert_int_equal(assert_resolved(&b), 0);
	b.ops->why(b.copy, why, sizeof(why));
	assert_string_equal(why, "");
	bench_begin(&b);
	assert_int_equal(bench_fence(&b), 0);
	assert_int_equal(assert_resolved(&b), b.plan->blocks);
	b.ops->cancel(b.copy);
	assert_int_equal(assert_resolved(&b), b.plan->blocks);
	bench_deinit(&b);
}

static void a_late_fence_cancels_and_waits_for_the_blocks_in_hand(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 2, 27);
	gate_set(true);
	bench_begin(&b);
	gate_await();
	gate_await();
	atomic_store(&expire_waits, 1);
	atomic_store(&then_open, true); /* by the second wait: after the cancel */
	assert_int_equal(bench_fence(&b), FTMEM_ETIMEOUT);
	assert_false(atomic_load(&then_open));
	memset(b.t.memory, 0, b.t.memory_bytes);
	assert_int_equal(assert_resolved(&b), 0);
	bench_deinit(&b);
}

static void a_stuck_thread_does_not_hang_the_fence(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 1, 28);
	gate_set(true);
	bench_begin(&b);
	gate_await();
	atomic_store(&expire_waits, 2);
	assert_int_equal(bench_fence(&b), FTMEM_ETIMEOUT);
	assert_non_null(strstr(error_msg(), "stuck"));
	assert_false(b.ops->done(b.copy));
	gate_set(false);
	assert_int_equal(bench_fence(&b), 0);
	assert_int_equal(assert_resolved(&b), 0);
	bench_deinit(&b);
}

/* The threads have not come to their first wait yet. */
static void a_job_that_nobody_began_is_cancelled_at_once(void **state)
{
	struct copy_config config = {.threads = 2, .pin = wait_at_gate};
	_Atomic unsigned starts = 0;
	struct bench b;

	(void)state;
	bench_init(&b, 1, 29);
	b.ops->close(b.copy);
	b.job.started = count_start;
	b.job.started_arg = (void *)&starts;
	gate_set(true);
	assert_int_equal(b.ops->open(&config, &b.copy), 0);
	bench_begin(&b);
	assert_int_equal(atomic_load(&starts), 0);
	assert_int_equal(b.ops->fence(b.copy, NULL, 0), FTMEM_ETIMEOUT);
	assert_int_equal(assert_resolved(&b), 0);
	assert_int_equal(atomic_load(&starts), 1);
	bench_begin(&b);
	b.ops->cancel(b.copy);
	assert_int_equal(assert_resolved(&b), 0);
	assert_int_equal(atomic_load(&starts), 2);
	bench_begin(&b);
	gate_set(false);
	assert_int_equal(bench_fence(&b), 0);
	assert_int_equal(assert_resolved(&b), b.plan->blocks);
	assert_int_equal(atomic_load(&starts), 3);
	bench_deinit(&b);
}

static void close_ends_a_job_under_way(void **state)
{
	struct bench b;

	(void)state;
	for (uint64_t round = 0; round < 10; round++) {
		bench_init(&b, 3, 30 + round);
		bench_begin(&b);
		b.ops->close(b.copy);
		b.copy = NULL;
		for (uint32_t i = 0; i < b.plan->blocks; i++)
			if (landed_of(&b, i) == COPY_LANDED)
				assert_block_is_right(&b, i);
			else
				assert_int_equal(landed_of(&b, i), COPY_FAILED);
		bench_deinit(&b);
	}
}

static void *fence_thread(void *arg)
{
	return bench_fence(arg) == 0 ? NULL : arg;
}

static void any_thread_may_fence(void **state)
{
	pthread_t thread[3];
	struct bench b;
	void *failed;

	(void)state;
	bench_init(&b, 1, 40);
	gate_set(true);
	bench_begin(&b);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, fence_thread, &b), 0);
	gate_set(false);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pthread_join(thread[i], &failed), 0);
		assert_null(failed);
	}
	assert_int_equal(assert_resolved(&b), b.plan->blocks);
	bench_deinit(&b);
}

/* --- checks --- */

static void checks_alone_are_a_job(void **state)
{
	struct copy_plan empty = {0};
	uint64_t random = test_random_seed(__func__);

	(void)state;
	for (uint64_t round = 0; round < 30; round++) {
		uint32_t threads = 1 + test_random_below(&random, 4);
		struct bench b;

		bench_init(&b, threads, test_random(&random) | 1);
		flags_clear(&b);
		b.job.plan = &empty;
		assert_int_equal(b.ops->begin(b.copy, &b.job, NULL), 0);
		assert_int_equal(bench_fence(&b), 0);
		assert_true(b.ops->done(b.copy));
		assert_checks_are_right(&b);
		bench_deinit(&b);
	}
}

/* One check, of the whole of a region that is contiguous: it comes to the gate. */
static void check_one_region(struct bench *b)
{
	const struct region *r = &b->t.layout.region[3];

	b->job.checks = 1;
	b->check[0] =
		(struct copy_check){r->addr, box_view_flat(r->bytes), 0, r->bytes, DEVICE_HOST};
	b->want_sum[0] = __real_checksum(r->addr, r->bytes);
	atomic_store(&gate_for, (const void *)r->addr);
	gate_set(true);
}

static void a_fence_waits_for_the_checks(void **state)
{
	struct copy_plan empty = {0};
	struct bench b;

	(void)state;
	bench_init(&b, 2, 50);
	b.job.plan = &empty;
	check_one_region(&b);
	assert_int_equal(b.ops->begin(b.copy, &b.job, NULL), 0);
	gate_await();
	assert_false(b.ops->done(b.copy));
	atomic_store(&then_open, true); /* by the fence's wait */
	assert_int_equal(bench_fence(&b), 0);
	assert_false(atomic_load(&then_open));
	assert_true(b.ops->done(b.copy));
	assert_checks_are_right(&b);
	bench_deinit(&b);
}

/* One thread: it has taken all blocks when it comes to the check. */
static void begin_up_to_the_check(struct bench *b)
{
	uint32_t last = b->plan->blocks - 1;

	check_one_region(b);
	bench_begin(b);
	gate_await();
	for (uint32_t i = 0; i < last; i++)
		assert_int_equal(landed_of(b, i), COPY_LANDED);
	assert_int_equal(landed_of(b, last), COPY_PENDING);
	assert_false(b->ops->done(b->copy));
}

static void the_last_block_lands_after_the_checks(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 1, 52);
	begin_up_to_the_check(&b);
	gate_set(false);
	assert_int_equal(bench_fence(&b), 0);
	assert_int_equal(assert_resolved(&b), b.plan->blocks);
	bench_deinit(&b);
}

/* Nobody would know else that the sums are of no use. */
static void a_cancelled_check_fails_the_last_block(void **state)
{
	struct bench b;

	(void)state;
	for (int way = 0; way < 2; way++) {
		bench_init(&b, 1, 54);
		begin_up_to_the_check(&b);
		if (way == 0) {
			b.ops->cancel(b.copy);
			gate_set(false);
			assert_int_equal(bench_fence(&b), 0);
		} else {
			atomic_store(&expire_waits, 1);
			atomic_store(&then_open, true);
			assert_int_equal(bench_fence(&b), FTMEM_ETIMEOUT);
		}
		assert_int_equal(assert_resolved(&b), b.plan->blocks - 1);
		assert_int_equal(landed_of(&b, b.plan->blocks - 1), COPY_FAILED);
		atomic_store(&gate_for, NULL);
		bench_begin(&b);
		assert_int_equal(bench_fence(&b), 0);
		assert_int_equal(assert_resolved(&b), b.plan->blocks);
		bench_deinit(&b);
	}
}

/* Jobs cancelled, fenced and finished at any moment, one after the other. */
static void any_order_of_calls_resolves_every_block(void **state)
{
	uint64_t random = test_random_seed(__func__);
	struct bench b;

	(void)state;
	bench_init(&b, 3, 61);
	for (int round = 0; round < 300; round++) {
		uint32_t until = test_random_below(&random, b.plan->blocks);
		uint32_t what = test_random_below(&random, 4);
		int rc = 0;

		bench_begin(&b);
		while (what < 3 && landed_of(&b, until) == COPY_PENDING)
			sched_yield();
		if (what == 1 || what == 3)
			b.ops->cancel(b.copy);
		if (what == 2)
			rc = b.ops->fence(b.copy, NULL, 0);
		assert_true(rc == 0 || rc == FTMEM_ETIMEOUT);
		assert_int_equal(bench_fence(&b), 0);
		if (what == 0)
			assert_int_equal(assert_resolved(&b), b.plan->blocks);
		else
			assert_resolved(&b);
	}
	bench_deinit(&b);
}

struct pinned {
	_Atomic uint32_t calls, open_to_signals, pushing;
};

static void count_pin(void *arg)
{
	struct sched_param param = {0};
	struct pinned *p = arg;
	sigset_t set;
	int policy;

	/* Where the policy may be set it must have been. */
	if (pthread_getschedparam(pthread_self(), &policy, &param) == 0 && policy != SCHED_BATCH
	    && pthread_setschedparam(pthread_self(), SCHED_BATCH, &param) == 0)
		atomic_fetch_add(&p->pushing, 1);
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	if (!sigismember(&set, SIGTERM) || !sigismember(&set, SIGCHLD))
		atomic_fetch_add(&p->open_to_signals, 1);
	atomic_fetch_add(&p->calls, 1);
}

static void every_thread_is_pinned_and_stays_out_of_the_way(void **state)
{
	struct pinned p = {0};
	struct copy_config config = {.threads = 6, .pin = count_pin, .pin_arg = &p};
	struct copy *copy = NULL;
	sigset_t before, after;

	(void)state;
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	assert_int_equal(copy_host()->open(&config, &copy), 0);
	copy_host()->close(copy);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	assert_int_equal(p.calls, 6);
	assert_int_equal(p.open_to_signals, 0);
	assert_int_equal(p.pushing, 0);
	assert_int_equal(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
}

static void open_fails_whole(void **state)
{
	struct copy_config config = {.threads = 3};
	struct copy *copy = NULL;
	int rc = FTMEM_ENOMEM;
	unsigned n;

	(void)state;
	copy_host()->close(NULL);
	for (n = 1; rc == FTMEM_ENOMEM && n < 3; n++) {
		alloc_fail_at(n);
		rc = copy_host()->open(&config, &copy);
		alloc_fail_off();
		assert_int_equal(rc, FTMEM_ENOMEM);
		assert_null(copy);
	}
	for (n = 1; n <= 3; n++) {
		threads_until_refusal = n;
		assert_int_equal(copy_host()->open(&config, &copy), FTMEM_ESYS);
		assert_null(copy);
		assert_non_null(strstr(error_msg(), "of 3"));
	}
	config.threads = 0;
	assert_int_equal(copy_host()->open(&config, &copy), FTMEM_EINVAL);
	assert_null(copy);
}

static void takes_all_memory_for_that_of_the_host(void **state)
{
	int files[2], device = 0;

	(void)state;
	assert_int_equal(pipe(files), 0);
	close(files[0]);
	close(files[1]);
	assert_int_equal(copy_host()->where(&device, sizeof(device), &device), 0);
	assert_int_equal(device, DEVICE_HOST);
	assert_string_equal(copy_host()->name, "host");
	/* None was left open. */
	assert_int_equal(fcntl(files[0], F_GETFD), -1);
	assert_int_equal(fcntl(files[1], F_GETFD), -1);
}

static void assert_unreadable(const uint8_t *at, uint64_t bytes)
{
	int device = 0;

	assert_int_equal(copy_host()->where(at, bytes, &device), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "not readable by the processor"));
	assert_non_null(strstr(error_msg(), "FTMEM_WITH_CUDA"));
}

/* As device memory is in a build that cannot tell it. Of three pages the middle one. */
static void memory_that_the_processor_cannot_read_is_refused(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint8_t *at = mmap(NULL, 3 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int device = 0;

	(void)state;
	assert_ptr_not_equal(at, MAP_FAILED);
	assert_int_equal(mprotect(at + page, page, PROT_NONE), 0);
	assert_int_equal(copy_host()->where(at, page, &device), 0);
	assert_int_equal(copy_host()->where(at + 2 * page, page, &device), 0);
	assert_unreadable(at + page, page);
	assert_unreadable(at + page - 1, 2);
	assert_unreadable(at + 2 * page - 1, 2);
	assert_int_equal(munmap(at + page, page), 0);
	assert_unreadable(at + page, 1);
	munmap(at, page);
	munmap(at + 2 * page, page);
}

static void memory_is_taken_as_readable_where_that_cannot_be_asked(void **state)
{
	struct rlimit files, none;
	int device = 0, rc;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	none = (struct rlimit){0, files.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	rc = copy_host()->where(&device, sizeof(device), &device);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	assert_int_equal(rc, 0);
	assert_int_equal(device, DEVICE_HOST);
}

#define TEST(name) cmocka_unit_test_setup(name, gate_reset)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(copies_everything_with_any_number_of_threads),
		TEST(regions_may_be_written_after_the_fence),
		TEST(a_landed_block_is_complete),
		TEST(a_job_says_once_that_it_has_started),
		TEST(blocks_are_taken_in_the_order_of_the_plan),
		TEST(all_threads_take_part),
		TEST(one_job_at_a_time),
		TEST(nothing_to_copy_is_done_at_once),
		TEST(cancel_fails_what_has_not_landed),
		TEST(a_late_fence_cancels_and_waits_for_the_blocks_in_hand),
		TEST(a_stuck_thread_does_not_hang_the_fence),
		TEST(a_job_that_nobody_began_is_cancelled_at_once),
		TEST(close_ends_a_job_under_way),
		TEST(any_thread_may_fence),
		TEST(checks_alone_are_a_job),
		TEST(a_fence_waits_for_the_checks),
		TEST(the_last_block_lands_after_the_checks),
		TEST(a_cancelled_check_fails_the_last_block),
		TEST(any_order_of_calls_resolves_every_block),
		TEST(every_thread_is_pinned_and_stays_out_of_the_way),
		TEST(open_fails_whole),
		TEST(takes_all_memory_for_that_of_the_host),
		TEST(memory_that_the_processor_cannot_read_is_refused),
		TEST(memory_is_taken_as_readable_where_that_cannot_be_asked),
	};

	if (sem_init(&gate_arrived, 0, 0) != 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
