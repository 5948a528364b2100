/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Snapshots of regions on devices: what is captured, who waits for it, staging. What goes
 * wrong is in test_copy_device_faults.c, the way back in test_copy_device_fill.c, what it
 * costs in test_copy_device_cost.c. Links with --wrap of copy_read_early: a slow read of host
 * memory.
 */
#include <stdatomic.h>

#include "device_bench.h"

#include "copy_read.h"

void __real_copy_read_early(const struct copy_job *job, uint32_t index);
void __wrap_copy_read_early(const struct copy_job *job, uint32_t index);

static _Atomic uint64_t early_ns;

void __wrap_copy_read_early(const struct copy_job *job, uint32_t index)
{
	if (atomic_load(&early_ns) > 0)
		clock_sleep(atomic_load(&early_ns));
	__real_copy_read_early(job, index);
}

static void copies_what_lies_on_the_host_and_on_devices(void **state)
{
	static const enum bench_place place[] = {ON_DEVICE_0, ON_ALL, ANYWHERE, ON_HOST};
	static const uint32_t threads[] = {1, 2, 5};

	(void)state;
	for (uint32_t i = 0; i < 24; i++) {
		struct bench_spec spec = {.place = place[i % 4],
		                          .threads = threads[i % 3],
		                          .staging = i % 2 ? 300000 : 0,
		                          .band_bytes = i < 12 ? 0 : 1 << 20,
		                          .checks = i % 5 > 1,
		                          .random = 10 + i};
		struct device_bench b;

		bench_init(&b, &spec);
		for (int again = 0; again < 3; again++) {
			uint8_t *content = bench_content(&b);

			bench_capture(&b, content);
			free(content);
		}
		bench_deinit(&b);
	}
}

static void a_stream_of_the_other_device_will_do(void **state)
{
	const struct bench_spec alone = {.place = ON_DEVICE_1, .random = 40},
	                        both = {.place = ON_ALL, .random = 41};

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct test_stream *s;
		struct device_bench b;
		uint8_t *content;

		bench_init(&b, i == 0 ? &alone : &both);
		s = test_stream_new(1);
		content = bench_content(&b);
		bench_expect(&b, content);
		bench_queue(&b, s, content);
		bench_write_host(&b, content);
		bench_begin(&b, s);
		assert_int_equal(bench_fence(&b, s), 0);
		assert_captured(&b);
		free(content);
		bench_deinit(&b);
	}
}

/* Regions of whose bytes this rank stores none, as others do: their streams will do, their
 * replicas are compared, and nothing is opened for that after prepare(). */
static void devices_of_replicas_alone_are_prepared_too(void **state)
{
	const struct bench_spec spec = {.place = ON_HOST, .random = 42};
	struct test_device_figures before, after;
	struct test_stream *s[2];
	struct device_bench b;
	uint8_t *content;

	(void)state;
	bench_open(&b, &spec);
	b.plan->devices = 1 << 1;
	assert_int_equal(bench_prepare(&b), 0);
	before = test_device_figures();
	assert_int_equal(before.devices, 1);
	s[0] = test_stream_new(0);
	s[1] = test_stream_new(1);
	content = bench_content(&b);
	bench_write(&b, content);
	bench_expect(&b, content);
	b.check[0] = (struct copy_check){b.mirror[1], box_view_flat(3000), 7, 2993, 1};
	b.want_sum[0] = checksum_more(0, content + 7, 2993);
	for (uint32_t checks = 0; checks < 2; checks++) {
		b.job.checks = checks;
		assert_int_equal(bench_try(&b, s[0]), FTMEM_EINVAL);
		assert_true(b.ops->done(b.copy));
		bench_begin(&b, s[1]);
		assert_int_equal(bench_fence(&b, s[0]), 0);
		assert_int_equal(bench_fence(&b, s[1]), 0);
		assert_captured(&b);
		bench_begin(&b, COPY_AT_REST);
		assert_captured(&b);
	}
	after = test_device_figures();
	assert_int_equal(after.devices, before.devices);
	assert_int_equal(after.events_made, before.events_made);
	assert_int_equal(after.pins, before.pins);
	free(content);
	bench_deinit(&b);
}

static void without_devices_streams_are_not_looked_at(void **state)
{
	const struct bench_spec spec = {.place = ON_HOST, .random = 43};
	struct device_bench b;
	uint8_t *content;
	int no_stream;

	(void)state;
	bench_init(&b, &spec);
	content = bench_content(&b);
	bench_expect(&b, content);
	bench_write(&b, content);
	bench_begin(&b, &no_stream);
	assert_int_equal(bench_fence(&b, &no_stream), 0);
	assert_captured(&b);
	assert_int_equal(bench_fence(&b, &no_stream), 0);
	assert_int_equal(test_device_figures().devices, 0);
	free(content);
	bench_deinit(&b);
}

/* Whatever the calling thread's default stream would be: that of device 0 here. */
static void what_is_at_rest_needs_no_stream(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_1, .random = 45};
	struct device_bench b;
	uint8_t *content;

	(void)state;
	bench_init(&b, &spec);
	content = bench_content(&b);
	bench_expect(&b, content);
	bench_write(&b, content);
	assert_int_equal(bench_try(&b, NULL), FTMEM_EINVAL);
	bench_begin(&b, COPY_AT_REST);
	assert_captured(&b);
	free(content);
	bench_deinit(&b);
}

/* A kernel queued before the snapshot ends after the fence was called; another one, behind
 * the fence, writes as soon as it may. */
static void captures_the_state_as_of_the_work_queued(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 16; i++) {
		struct bench_spec spec = {.place = i % 2 ? ANYWHERE : ON_DEVICE_0,
		                          .staging = i % 4 < 2 ? 0 : 400000 * (uint64_t)(i / 4),
		                          .random = 50 + i};
		struct test_gate gate = {0};
		uint8_t *before, *now, *after;
		struct test_stream *s;
		struct device_bench b;

		bench_init(&b, &spec);
		test_device_slow(i % 3 * 1000000);
		s = test_stream_new(0);
		before = bench_content(&b);
		now = bench_content(&b);
		after = bench_content(&b);
		bench_write(&b, before);
		test_stream_gate(s, &gate);
		bench_queue(&b, s, now);
		bench_write_host(&b, now);
		bench_expect(&b, now);
		bench_begin(&b, s);
		assert_int_equal(bench_fence(&b, s), 0);
		bench_write_host(&b, after);
		bench_queue(&b, s, after);
		test_gate_open(&gate);
		assert_captured(&b);
		assert_true(test_stream_sync(s));
		free(before);
		free(now);
		free(after);
		bench_deinit(&b);
	}
}

/* Nothing leaves the device before the fence has returned. */
static void the_host_does_not_wait_at_a_fence(void **state)
{
	const struct bench_spec spec = {.place = ANYWHERE, .random = 70};
	struct device_bench b;
	uint8_t *now, *after;

	(void)state;
	bench_init(&b, &spec);
	for (int round = 0; round < 3; round++) {
		now = bench_content(&b);
		after = bench_content(&b);
		bench_write(&b, now);
		bench_expect(&b, now);
		test_device_hold(0, DEVICE_OUT, 0);
		test_device_hold(1, DEVICE_OUT, 0);
		bench_begin(&b, NULL);
		assert_int_equal(bench_fence(&b, NULL), 0);
		bench_write_host(&b, after);
		bench_queue(&b, NULL, after);
		assert_true(test_device_await_hold(0, DEVICE_OUT));
		assert_true(test_device_await_hold(1, DEVICE_OUT));
		assert_false(b.ops->done(b.copy));
		assert_false(test_stream_idle(NULL));
		test_device_go(0, DEVICE_OUT);
		test_device_go(1, DEVICE_OUT);
		assert_captured(&b);
		assert_true(test_stream_sync(NULL));
		free(now);
		free(after);
	}
	bench_deinit(&b);
}

static void several_streams_have_a_fence_each(void **state)
{
	const struct bench_spec spec = {.place = ON_ALL, .random = 80};
	struct test_stream *s[3];
	struct device_bench b;
	uint8_t *now, *after;

	(void)state;
	bench_init(&b, &spec);
	for (int i = 0; i < 3; i++)
		s[i] = test_stream_new(i % 2);
	now = bench_content(&b);
	after = bench_content(&b);
	for (int round = 0; round < 4; round++) {
		bench_write(&b, now);
		bench_expect(&b, now);
		test_device_hold(0, DEVICE_OUT, 2);
		test_device_hold(1, DEVICE_OUT, 0);
		bench_begin(&b, s[round % 3]);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(bench_fence(&b, s[i]), 0);
			bench_queue(&b, s[i], after);
		}
		assert_true(test_device_await_hold(0, DEVICE_OUT));
		for (int i = 0; i < 3; i++)
			assert_false(test_stream_idle(s[i]));
		test_device_go(0, DEVICE_OUT);
		test_device_go(1, DEVICE_OUT);
		assert_captured(&b);
		for (int i = 0; i < 3; i++)
			assert_true(test_stream_sync(s[i]));
	}
	free(now);
	free(after);
	bench_deinit(&b);
}

/* Devices may still copy then. */
static void a_fence_returns_when_host_regions_have_been_read(void **state)
{
	const struct bench_spec spec = {.place = ANYWHERE, .random = 82};
	struct device_bench b;
	uint8_t *now, *after;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	after = bench_content(&b);
	bench_write(&b, now);
	bench_expect(&b, now);
	atomic_store(&early_ns, 500000);
	test_device_hold(0, DEVICE_OUT, 0);
	bench_begin(&b, NULL);
	assert_int_equal(bench_fence(&b, NULL), 0);
	bench_write_host(&b, after);
	assert_false(b.ops->done(b.copy));
	test_device_go(0, DEVICE_OUT);
	assert_captured(&b);
	atomic_store(&early_ns, 0);
	free(now);
	free(after);
	bench_deinit(&b);
}

static void *fence_thread(void *arg)
{
	return bench_fence(arg, NULL) == 0 ? NULL : arg;
}

static void any_thread_may_fence(void **state)
{
	const struct bench_spec spec = {.place = ANYWHERE, .random = 85};
	pthread_t thread[4];
	struct device_bench b;
	uint8_t *now;
	void *failed;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	for (int round = 0; round < 5; round++) {
		bench_write(&b, now);
		bench_expect(&b, now);
		bench_begin(&b, NULL);
		for (int i = 0; i < 4; i++)
			assert_int_equal(pthread_create(&thread[i], NULL, fence_thread, &b), 0);
		for (int i = 0; i < 4; i++) {
			assert_int_equal(pthread_join(thread[i], &failed), 0);
			assert_null(failed);
		}
		assert_captured(&b);
	}
	free(now);
	bench_deinit(&b);
}

static void nothing_is_waited_for_when_all_is_copied(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .random = 90};
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	assert_true(b.ops->done(b.copy));
	assert_int_equal(bench_fence(&b, NULL), 0);
	now = bench_content(&b);
	bench_capture(&b, now);
	assert_int_equal(bench_fence(&b, NULL), 0);
	assert_true(test_stream_sync(NULL));
	free(now);
	bench_deinit(&b);
}

static void one_job_at_a_time(void **state)
{
	const struct bench_spec spec = {.place = ANYWHERE, .random = 95};
	struct device_bench b;
	struct copy_put put = {0};
	struct copy_fill fill = {0};
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	bench_write(&b, now);
	bench_expect(&b, now);
	test_device_hold(0, DEVICE_OUT, 1);
	bench_begin(&b, NULL);
	assert_true(test_device_await_hold(0, DEVICE_OUT));
	fill = (struct copy_fill){b.plan, b.job.data, b.job.sums};
	assert_int_equal(b.ops->begin(b.copy, &b.job, NULL), FTMEM_EINVAL);
	assert_int_equal(b.ops->put(b.copy, &put, 1), FTMEM_EINVAL);
	assert_int_equal(b.ops->fill(b.copy, &fill, 0), FTMEM_EINVAL);
	test_device_go(0, DEVICE_OUT);
	assert_captured(&b);
	free(now);
	bench_deinit(&b);
}

/* What the exchange does: uses each block as soon as its flag says so. */
static void a_landed_block_is_complete_while_others_are_copied(void **state)
{
	const struct bench_spec spec = {.place = ANYWHERE, .random = 97};
	struct device_bench b;
	uint32_t early = 0;
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	bench_write(&b, now);
	bench_expect(&b, now);
	test_device_hold_copies(0, DEVICE_OUT, 4);
	bench_begin(&b, NULL);
	assert_true(test_device_await_hold(0, DEVICE_OUT));
	while (bench_landed(&b, 0) == COPY_PENDING)
		clock_sleep(100000);
	for (uint32_t i = 0; i < b.plan->blocks; i++)
		if (bench_landed(&b, i) != COPY_PENDING) {
			assert_block_is_right(&b, i);
			early++;
		}
	assert_true(early > 0);
	assert_true(early < b.plan->blocks);
	test_device_go(0, DEVICE_OUT);
	for (uint32_t i = 0; i < b.plan->blocks; i++) {
		while (bench_landed(&b, i) == COPY_PENDING)
			clock_sleep(100000);
		assert_block_is_right(&b, i);
	}
	assert_captured(&b);
	free(now);
	bench_deinit(&b);
}

/* --- staging --- */

/* Nothing leaves the device until the kernel behind the fence is over. */
static void what_is_staged_does_not_hold_up_the_optimizer(void **state)
{
	const struct bench_spec spec = {.place = ANYWHERE, .staging = 8 << 20, .random = 110};
	struct device_bench b;
	uint8_t *now, *after;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	after = bench_content(&b);
	bench_write(&b, now);
	bench_expect(&b, now);
	test_device_hold(0, DEVICE_OUT, 0);
	test_device_hold(1, DEVICE_OUT, 0);
	bench_begin(&b, NULL);
	assert_int_equal(bench_fence(&b, NULL), 0);
	bench_write_host(&b, after);
	bench_queue(&b, NULL, after);
	assert_true(test_stream_sync(NULL));
	assert_false(b.ops->done(b.copy));
	test_device_go(0, DEVICE_OUT);
	test_device_go(1, DEVICE_OUT);
	assert_captured(&b);
	assert_int_equal(bench_figures(&b).staged_bytes, b.device_bytes);
	free(now);
	free(after);
	bench_deinit(&b);
}

static void what_does_not_fit_into_staging_is_waited_for(void **state)
{
	static const uint64_t staging[] = {1, 100000, 300000, 600000};

	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		struct bench_spec spec = {.place = ON_DEVICE_0,
		                          .staging = staging[i],
		                          .random = 120 + i};
		struct device_bench b;
		uint8_t *now, *after;

		bench_init(&b, &spec);
		assert_true(test_device_figures().allocated <= staging[i]);
		now = bench_content(&b);
		after = bench_content(&b);
		for (int round = 0; round < 3; round++) {
			bench_write(&b, now);
			bench_expect(&b, now);
			test_device_hold(0, DEVICE_OUT, 0);
			bench_begin(&b, NULL);
			assert_int_equal(bench_fence(&b, NULL), 0);
			bench_write_host(&b, after);
			bench_queue(&b, NULL, after);
			assert_true(test_device_await_hold(0, DEVICE_OUT));
			assert_false(test_stream_idle(NULL));
			test_device_go(0, DEVICE_OUT);
			assert_captured(&b);
			assert_true(test_stream_sync(NULL));
			assert_true(bench_figures(&b).staged_bytes <= staging[i]);
			if (round == 0 && staging[i] >= 300000)
				assert_true(bench_figures(&b).staged_bytes > 0);
		}
		free(now);
		free(after);
		bench_deinit(&b);
	}
}

/* --- all of it, at random --- */

static void any_order_of_calls_captures_the_right_state(void **state)
{
	uint64_t random = test_random_seed(__func__);

	(void)state;
	for (int i = 0; i < 8; i++) {
		struct bench_spec spec = {
			.place = test_random_below(&random, 3) ? ANYWHERE : ON_DEVICE_0,
			.threads = 1 + test_random_below(&random, 4),
			.staging = (test_random(&random) & 1) * test_random_below(&random, 2000000),
			.band_bytes = 20000 + test_random_below(&random, 400000),
			.small = test_random_below(&random, 100),
			.checks = test_random_below(&random, 2),
			.random = test_random(&random),
		};
		struct test_stream *s[2];
		struct device_bench b;
		uint8_t *content[2];

		bench_init(&b, &spec);
		s[0] = test_stream_new(0);
		s[1] = test_stream_new(0);
		content[0] = bench_content(&b);
		content[1] = bench_content(&b);
		test_device_slow(test_random_below(&random, 3) * 1000000);
		for (int round = 0; round < 10; round++) {
			struct test_stream *on = s[test_random_below(&random, 2)];
			uint8_t *now = content[round % 2], *after = content[1 - round % 2];
			uint32_t what = test_random_below(&random, 6);

			bench_write_host(&b, now);
			bench_queue(&b, on, now);
			bench_expect(&b, now);
			bench_begin(&b, on);
			if (what == 0)
				b.ops->cancel(b.copy);
			if (what == 1)
				clock_sleep(test_random_below(&random, 2000000));
			for (int j = 0; j < 2; j++)
				assert_int_equal(bench_fence(&b, s[j]), 0);
			bench_write_host(&b, after);
			bench_queue(&b, s[0], after);
			if (what == 2)
				b.ops->cancel(b.copy);
			if (what == 0 || what == 2)
				bench_resolve(&b);
			else
				assert_captured(&b);
			assert_true(test_stream_sync(s[0]));
			assert_true(test_stream_sync(s[1]));
		}
		free(content[0]);
		free(content[1]);
		bench_deinit(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies_what_lies_on_the_host_and_on_devices),
		cmocka_unit_test(a_stream_of_the_other_device_will_do),
		cmocka_unit_test(devices_of_replicas_alone_are_prepared_too),
		cmocka_unit_test(without_devices_streams_are_not_looked_at),
		cmocka_unit_test(what_is_at_rest_needs_no_stream),
		cmocka_unit_test(captures_the_state_as_of_the_work_queued),
		cmocka_unit_test(the_host_does_not_wait_at_a_fence),
		cmocka_unit_test(several_streams_have_a_fence_each),
		cmocka_unit_test(a_fence_returns_when_host_regions_have_been_read),
		cmocka_unit_test(any_thread_may_fence),
		cmocka_unit_test(nothing_is_waited_for_when_all_is_copied),
		cmocka_unit_test(one_job_at_a_time),
		cmocka_unit_test(a_landed_block_is_complete_while_others_are_copied),
		cmocka_unit_test(what_is_staged_does_not_hold_up_the_optimizer),
		cmocka_unit_test(what_does_not_fit_into_staging_is_waited_for),
		cmocka_unit_test(any_order_of_calls_captures_the_right_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
