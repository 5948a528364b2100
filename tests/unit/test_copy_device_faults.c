/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Snapshots of regions on devices that do not go well: streams and memory that will not do,
 * errors in the middle, devices that fail, jobs given up. Links with --wrap of
 * pthread_cond_timedwait: time that passes when the test says so.
 */
#include <errno.h>
#include <sched.h>

#include "device_bench.h"

#include "alloc_fail.h"
#include "error.h"

int __real_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock,
                                  const struct timespec *until);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock,
                                  const struct timespec *until);

static _Thread_local unsigned expire_waits; /* of this thread end by their deadline at once */

int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock,
                                  const struct timespec *until)
{
	if (expire_waits == 0)
		return __real_pthread_cond_timedwait(cond, lock, until);
	expire_waits--;
	return ETIMEDOUT;
}

/* Regions hold it, and that is expected. */
static void set_state(struct device_bench *b, const uint8_t *content)
{
	bench_write(b, content);
	bench_expect(b, content);
}

static void is_well(struct device_bench *b, void *stream)
{
	bench_begin(b, stream);
	assert_int_equal(bench_fence(b, stream), 0);
	assert_captured(b);
}

static void streams_that_will_not_do_are_refused_with_the_reason(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .random = 210};
	struct test_stream *capturing, *foreign;
	struct device_bench b;
	uint8_t *now;
	int no_stream;

	(void)state;
	bench_init(&b, &spec);
	capturing = test_stream_new(0);
	foreign = test_stream_new(1);
	now = bench_content(&b);
	set_state(&b, now);
	test_stream_capture(capturing, true);
	assert_true(bench_try(&b, capturing) < 0);
	assert_non_null(strstr(error_msg(), "capture"));
	assert_true(b.ops->done(b.copy));
	assert_int_equal(bench_try(&b, foreign), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "device 1"));
	assert_true(b.ops->done(b.copy));
	assert_true(bench_try(&b, &no_stream) < 0);
	assert_true(b.ops->done(b.copy));
	test_stream_capture(capturing, false);
	is_well(&b, capturing);
	/* The capture begins between the calls: the stream does not wait, and one that can
	 * wait still may. */
	test_device_hold(0, DEVICE_OUT, 0);
	bench_begin(&b, capturing);
	test_stream_capture(capturing, true);
	assert_int_equal(bench_fence(&b, capturing), FTMEM_EINVAL);
	assert_int_equal(bench_fence(&b, &no_stream), FTMEM_EINVAL);
	assert_int_equal(bench_fence(&b, foreign), 0);
	assert_int_equal(bench_fence(&b, NULL), 0);
	test_device_go(0, DEVICE_OUT);
	assert_captured(&b);
	/* Idle or not: the graph would be replayed without a fence. */
	assert_int_equal(bench_fence(&b, capturing), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "capture"));
	test_stream_capture(capturing, false);
	assert_int_equal(bench_fence(&b, capturing), 0);
	free(now);
	bench_deinit(&b);
}

static void memory_is_told_by_its_address(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .random = 220};
	struct device_bench b;
	uint8_t *managed, byte;
	int device = 77;

	(void)state;
	bench_init(&b, &spec);
	managed = test_device_managed(64);
	assert_int_equal(b.ops->where(b.mirror[1], 8, &device), 0);
	assert_int_equal(device, 1);
	assert_int_equal(b.ops->where(&byte, 1, &device), 0);
	assert_int_equal(device, DEVICE_HOST);
	device = 77;
	assert_int_equal(b.ops->where(managed, 64, &device), FTMEM_EINVAL);
	assert_int_equal(b.ops->where(b.mirror[0], b.t.memory_bytes + 1, &device), FTMEM_EINVAL);
	assert_int_equal(device, 77);
	bench_deinit(&b);
}

static void assert_why(struct device_bench *b, const char *reason)
{
	char text[512] = "none";

	b->ops->why(b->copy, text, sizeof(text));
	if (reason[0] == '\0')
		assert_string_equal(text, "");
	else
		assert_non_null(strstr(text, reason));
}

/* Each copy in turn. Blocks fail, nothing else does. */
static void a_refused_copy_drops_one_version(void **state)
{
	static const uint64_t staging[] = {0, 400000, 16 << 20};

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		struct bench_spec spec = {.place = ANYWHERE,
		                          .staging = staging[i],
		                          .checks = i == 1,
		                          .band_bytes = 200000,
		                          .random = 230 + i};
		uint32_t landed = 0;
		struct device_bench b;
		uint8_t *now;
		unsigned n;

		bench_init(&b, &spec);
		now = bench_content(&b);
		set_state(&b, now);
		for (n = 1; landed < b.plan->blocks; n++) {
			int rc;

			test_device_fail_issue(n);
			bench_begin(&b, NULL);
			rc = bench_fence(&b, NULL);
			assert_true(rc == 0 || rc == FTMEM_EDEVICE);
			landed = bench_resolve(&b);
			test_device_fail_issue(0);
			assert_why(&b, landed < b.plan->blocks ? "made to be refused" : "");
			is_well(&b, NULL);
			assert_why(&b, "");
		}
		assert_true(n > 4);
		free(now);
		bench_deinit(&b);
	}
}

static void assert_answers_edevice(struct device_bench *b)
{
	for (int again = 0; again < 2; again++) {
		assert_int_equal(bench_try(b, NULL), FTMEM_EDEVICE);
		assert_true(b->ops->done(b->copy));
	}
}

/* Each copy in turn fails with its device. */
static void a_device_that_fails_in_a_copy_drops_versions_until_it_is_back(void **state)
{
	static const uint64_t staging[] = {0, 400000, 16 << 20};

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		struct bench_spec spec = {.place = ON_DEVICE_0,
		                          .staging = staging[i],
		                          .checks = i == 1,
		                          .band_bytes = 200000,
		                          .random = 240 + i};
		uint32_t landed = 0;
		struct device_bench b;
		uint8_t *now;
		unsigned n;

		bench_init(&b, &spec);
		now = bench_content(&b);
		set_state(&b, now);
		for (n = 1; landed < b.plan->blocks; n++) {
			int rc;

			test_device_fail_copy(n);
			bench_begin(&b, NULL);
			rc = bench_fence(&b, NULL);
			assert_true(rc == 0 || rc == FTMEM_EDEVICE);
			landed = bench_resolve(&b);
			test_device_fail_copy(0);
			if (landed < b.plan->blocks)
				assert_answers_edevice(&b);
			test_device_mend(0);
			is_well(&b, NULL);
		}
		assert_true(n > 4);
		free(now);
		bench_deinit(&b);
	}
}

/* At any moment; of two devices only the other one still answers. */
static void a_device_is_lost_in_mid_copy(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 8; i++) {
		struct bench_spec spec = {.place = ON_ALL,
		                          .staging = i % 2 * 500000,
		                          .random = 250 + i};
		struct device_bench b;
		uint8_t *now;
		int lost = (int)(i / 2 % 2);

		bench_init(&b, &spec);
		now = bench_content(&b);
		set_state(&b, now);
		test_device_hold(lost, DEVICE_OUT, i);
		bench_begin(&b, NULL);
		assert_true(test_device_await_hold(lost, DEVICE_OUT));
		test_device_lose(lost);
		assert_true(bench_resolve(&b) < b.plan->blocks);
		assert_true(test_stream_sync(NULL));
		/* Nothing is under way any more. */
		assert_int_equal(bench_fence(&b, NULL), 0);
		if (i % 3 == 0)
			assert_int_not_equal(bench_try(&b, NULL), FTMEM_ETIMEOUT);
		bench_await(&b);
		if (i % 4 == 0) {
			test_device_go(lost, DEVICE_OUT);
			test_device_mend(lost);
			is_well(&b, NULL);
		}
		free(now);
		bench_deinit(&b);
	}
}

/* Those that have not landed, though the device still copies. */
static void await_blocks(struct device_bench *b)
{
	uint64_t deadline = clock_deadline(BENCH_PATIENCE_MS);

	for (uint32_t i = 0; i < b->plan->blocks; i++)
		while (bench_landed(b, i) == COPY_PENDING && clock_ns() < deadline)
			sched_yield();
	assert_true(clock_ns() < deadline);
}

static uint64_t copied(void)
{
	struct test_device_figures f = test_device_figures();

	return f.bytes[DEVICE_OUT] + f.bytes[DEVICE_STAGE];
}

/* The slot belongs to others as soon as done() says so. */
static void a_cancelled_job_is_done_when_nothing_touches_its_memory(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 8; i++) {
		struct bench_spec spec = {.place = ANYWHERE,
		                          .staging = i % 2 * 400000,
		                          .random = 260 + i};
		struct device_bench b;
		uint8_t *now;
		uint64_t before;

		bench_init(&b, &spec);
		now = bench_content(&b);
		set_state(&b, now);
		test_device_hold(0, DEVICE_OUT, 3 * i);
		bench_begin(&b, NULL);
		assert_true(test_device_await_hold(0, DEVICE_OUT));
		b.ops->cancel(b.copy);
		await_blocks(&b);
		for (int look = 0; look < 20; look++) {
			assert_false(b.ops->done(b.copy));
			sched_yield();
		}
		test_device_go(0, DEVICE_OUT);
		assert_true(bench_resolve(&b) < b.plan->blocks);
		before = copied();
		assert_int_equal(bench_fence(&b, NULL), 0);
		assert_true(test_stream_sync(NULL));
		for (int look = 0; look < 20; look++)
			sched_yield();
		assert_int_equal(copied(), before);
		is_well(&b, NULL);
		free(now);
		bench_deinit(&b);
	}
}

/* Of a snapshot that is staged, or whose replicas are compared. */
static void a_job_is_not_done_while_regions_are_read_within_the_device(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		struct bench_spec spec = {.place = ON_DEVICE_0,
		                          .staging = i % 2 ? 16 << 20 : 0,
		                          .checks = i % 2 == 0,
		                          .random = 265 + i};
		struct device_bench b;
		uint8_t *now;

		bench_init(&b, &spec);
		now = bench_content(&b);
		set_state(&b, now);
		test_device_hold(0, DEVICE_STAGE, i / 2);
		if (i % 2)
			test_device_fail_issue(5);
		bench_begin(&b, NULL);
		assert_true(test_device_await_hold(0, DEVICE_STAGE));
		if (i % 2 == 0)
			b.ops->cancel(b.copy);
		/* The last block lands after the checks. */
		if (i % 2)
			await_blocks(&b);
		for (int look = 0; look < 20; look++) {
			clock_sleep(100000);
			assert_false(b.ops->done(b.copy));
		}
		test_device_go(0, DEVICE_STAGE);
		assert_true(bench_resolve(&b) < b.plan->blocks);
		is_well(&b, NULL);
		free(now);
		bench_deinit(&b);
	}
}

/* Checks in device memory are queued bit by bit: here they wait for the work before. */
static void a_late_fence_drops_the_version(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .checks = true, .random = 268};
	struct test_gate gate = {0};
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	set_state(&b, now);
	test_stream_gate(NULL, &gate);
	bench_begin(&b, NULL);
	assert_int_equal(b.ops->fence(b.copy, NULL, 0), FTMEM_ETIMEOUT);
	assert_false(b.ops->done(b.copy));
	test_gate_open(&gate);
	assert_true(bench_resolve(&b) < b.plan->blocks);
	is_well(&b, NULL);
	free(now);
	bench_deinit(&b);
}

/* In a copy to memory that is not pinned, which it waits for: regions may be read then. */
static void a_stuck_driver_does_not_hang_the_fence(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .random = 269};
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_open(&b, &spec);
	test_device_fail_pin(1);
	assert_int_equal(bench_prepare(&b), 0);
	now = bench_content(&b);
	set_state(&b, now);
	test_device_hold(0, DEVICE_OUT, 1);
	bench_begin(&b, NULL);
	assert_true(test_device_await_hold(0, DEVICE_OUT));
	expire_waits = 2;
	assert_int_equal(bench_fence(&b, NULL), FTMEM_EDEVICE);
	assert_non_null(strstr(error_msg(), "stuck"));
	assert_int_equal(expire_waits, 0);
	assert_false(b.ops->done(b.copy));
	test_device_go(0, DEVICE_OUT);
	assert_true(bench_resolve(&b) < b.plan->blocks);
	is_well(&b, NULL);
	free(now);
	bench_deinit(&b);
}

static void what_landed_before_a_cancel_stays_right(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .random = 270};
	struct device_bench b;
	uint8_t *now, *after;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	after = bench_content(&b);
	set_state(&b, now);
	test_device_hold_copies(0, DEVICE_OUT, 5);
	bench_begin(&b, NULL);
	assert_true(test_device_await_hold(0, DEVICE_OUT));
	while (bench_landed(&b, 0) == COPY_PENDING)
		sched_yield();
	b.ops->cancel(b.copy);
	assert_int_equal(bench_fence(&b, NULL), 0);
	bench_queue(&b, NULL, after);
	test_device_go(0, DEVICE_OUT);
	/* What landed is of one state. */
	assert_true(bench_resolve(&b) < b.plan->blocks);
	assert_true(test_stream_sync(NULL));
	free(now);
	free(after);
	bench_deinit(&b);
}

/* The work before the snapshot is not over yet: nothing has been copied. */
static void a_job_that_has_not_begun_to_copy_is_cancelled(void **state)
{
	const struct bench_spec spec = {.place = ANYWHERE, .staging = 300000, .random = 275};
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	for (int round = 0; round < 3; round++) {
		struct test_gate gate = {0};

		set_state(&b, now);
		test_stream_gate(NULL, &gate);
		bench_begin(&b, NULL);
		b.ops->cancel(b.copy);
		assert_int_equal(bench_fence(&b, NULL), 0);
		test_gate_open(&gate);
		assert_true(bench_resolve(&b) < b.plan->blocks);
		is_well(&b, NULL);
	}
	free(now);
	bench_deinit(&b);
}

static void freed_memory_drops_the_version(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		struct bench_spec spec = {.place = i == 3 ? ON_DEVICE_0 : ANYWHERE,
		                          .staging = i % 2 * 400000,
		                          .random = 280 + i};
		struct device_bench b;
		uint8_t *now;

		bench_init(&b, &spec);
		now = bench_content(&b);
		set_state(&b, now);
		test_device_free(b.mirror[0]);
		for (int again = 0; again < 3; again++) {
			int rc;

			bench_begin(&b, NULL);
			rc = bench_fence(&b, NULL);
			assert_true(rc == 0 || rc == FTMEM_EDEVICE);
			assert_true(bench_resolve(&b) < b.plan->blocks);
			assert_why(&b, "freed");
		}
		/* Not at every step. */
		assert_int_equal(atomic_load(&b.errors), 1);
		free(now);
		bench_deinit(&b);
	}
}

static void memory_freed_in_mid_copy_drops_the_version(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .random = 290};
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	set_state(&b, now);
	test_device_hold(0, DEVICE_OUT, 7);
	bench_begin(&b, NULL);
	assert_true(test_device_await_hold(0, DEVICE_OUT));
	test_device_free(b.mirror[0]);
	test_device_go(0, DEVICE_OUT);
	assert_true(bench_resolve(&b) < b.plan->blocks);
	free(now);
	bench_deinit(&b);
}

static void memory_that_cannot_be_pinned_is_copied_all_the_same(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		struct bench_spec spec = {.place = ANYWHERE,
		                          .staging = i / 2 * UINT64_C(400000),
		                          .checks = true,
		                          .random = 300 + i};
		struct device_bench b;
		uint8_t *now;

		bench_open(&b, &spec);
		test_device_fail_pin(1 + i % 2);
		assert_int_equal(bench_prepare(&b), 0);
		assert_int_equal(atomic_load(&b.warnings), 1);
		now = bench_content(&b);
		set_state(&b, now);
		is_well(&b, NULL);
		/* Prepared anew it does not complain once more. */
		b.ops->release(b.copy, b.plan);
		assert_int_equal(bench_prepare(&b), 0);
		is_well(&b, NULL);
		assert_int_equal(atomic_load(&b.warnings), 1);
		free(now);
		bench_deinit(&b);
	}
}

static void without_memory_for_staging_streams_wait(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .staging = 1 << 20, .random = 310};
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_open(&b, &spec);
	test_device_fail_alloc(1);
	assert_int_equal(bench_prepare(&b), 0);
	assert_int_equal(atomic_load(&b.warnings), 1);
	now = bench_content(&b);
	set_state(&b, now);
	is_well(&b, NULL);
	free(now);
	bench_deinit(&b);
}

static void prepare_fails_whole(void **state)
{
	const struct bench_spec spec = {.place = ON_ALL, .staging = 100000, .random = 320};
	int rc = FTMEM_ENOMEM;
	struct device_bench b;
	uint8_t *now;
	unsigned n;

	(void)state;
	bench_open(&b, &spec);
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = bench_prepare(&b);
		alloc_fail_off();
		assert_true(rc == 0 || rc == FTMEM_ENOMEM);
	}
	assert_true(n > 3);
	now = bench_content(&b);
	set_state(&b, now);
	is_well(&b, NULL);
	b.ops->release(b.copy, b.plan);
	b.ops->release(b.copy, b.plan);
	test_device_lose(1);
	assert_int_equal(bench_prepare(&b), FTMEM_EDEVICE);
	assert_null(b.plan->ready);
	free(now);
	bench_deinit(&b);
}

static void close_ends_a_copy_and_gives_all_back(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 6; i++) {
		struct bench_spec spec = {.place = ANYWHERE,
		                          .staging = i % 2 * 400000,
		                          .checks = i % 3 == 0,
		                          .random = 330 + i};
		struct test_device_figures f;
		struct device_bench b;
		uint8_t *now;

		bench_init(&b, &spec);
		now = bench_content(&b);
		set_state(&b, now);
		test_device_slow(10000000);
		test_device_hold(0, DEVICE_OUT, i);
		bench_begin(&b, NULL);
		assert_true(test_device_await_hold(0, DEVICE_OUT));
		test_device_go(0, DEVICE_OUT);
		b.ops->close(b.copy);
		b.copy = NULL;
		f = test_device_figures();
		assert_int_equal(f.devices, 0);
		assert_int_equal(f.pins, 0);
		assert_int_equal(f.events, 0);
		assert_int_equal(f.allocated, 0);
		assert_int_equal(f.queued, 0);
		for (uint32_t j = 0; j < b.plan->blocks; j++)
			if (bench_landed(&b, j) == COPY_LANDED)
				assert_block_is_right(&b, j);
			else
				assert_int_equal(bench_landed(&b, j), COPY_FAILED);
		free(now);
		bench_deinit(&b);
	}
}

static void release_gives_back_what_no_other_plan_needs(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .staging = 200000, .random = 340};
	struct copy_plan *other = NULL;
	struct device_bench b;
	uint8_t *now, *arena;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	set_state(&b, now);
	arena = mmap(NULL, b.arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	             0);
	assert_true(arena != MAP_FAILED);
	assert_int_equal(copy_plan_new(&b.t.layout, &b.rail, 1, &other), 0);
	assert_int_equal(b.ops->prepare(b.copy, other, arena, b.arena_bytes), 0);
	assert_true(test_device_figures().pinned >= 2 * b.arena_bytes);
	assert_true(test_device_figures().allocated <= 200000);
	is_well(&b, NULL);
	b.ops->release(b.copy, other);
	copy_plan_free(other);
	munmap(arena, b.arena_bytes);
	is_well(&b, NULL);
	assert_true(test_device_figures().allocated > 0);
	b.ops->release(b.copy, b.plan);
	assert_int_equal(test_device_figures().allocated, 0);
	assert_true(test_device_figures().pins <= 1);
	free(now);
	bench_deinit(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(streams_that_will_not_do_are_refused_with_the_reason),
		cmocka_unit_test(memory_is_told_by_its_address),
		cmocka_unit_test(a_refused_copy_drops_one_version),
		cmocka_unit_test(a_device_that_fails_in_a_copy_drops_versions_until_it_is_back),
		cmocka_unit_test(a_device_is_lost_in_mid_copy),
		cmocka_unit_test(a_cancelled_job_is_done_when_nothing_touches_its_memory),
		cmocka_unit_test(a_job_is_not_done_while_regions_are_read_within_the_device),
		cmocka_unit_test(a_late_fence_drops_the_version),
		cmocka_unit_test(a_stuck_driver_does_not_hang_the_fence),
		cmocka_unit_test(what_landed_before_a_cancel_stays_right),
		cmocka_unit_test(a_job_that_has_not_begun_to_copy_is_cancelled),
		cmocka_unit_test(freed_memory_drops_the_version),
		cmocka_unit_test(memory_freed_in_mid_copy_drops_the_version),
		cmocka_unit_test(memory_that_cannot_be_pinned_is_copied_all_the_same),
		cmocka_unit_test(without_memory_for_staging_streams_wait),
		cmocka_unit_test(prepare_fails_whole),
		cmocka_unit_test(close_ends_a_copy_and_gives_all_back),
		cmocka_unit_test(release_gives_back_what_no_other_plan_needs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
