/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What snapshots of regions on devices cost, and what figures tell of it. Links with --wrap of
 * pthread_cond_signal, to count.
 */
#include "device_bench.h"

#include "alloc_fail.h"

int __real_pthread_cond_signal(pthread_cond_t *cond);
int __wrap_pthread_cond_signal(pthread_cond_t *cond);

static _Thread_local unsigned signals; /* of this thread */

int __wrap_pthread_cond_signal(pthread_cond_t *cond)
{
	signals++;
	return __real_pthread_cond_signal(cond);
}

static void nothing_is_allocated_after_prepare(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		struct bench_spec spec = {.place = ANYWHERE,
		                          .staging = i * 500000,
		                          .small = 200,
		                          .checks = i == 1,
		                          .random = 130 + i};
		struct test_device_figures before, after;
		struct device_bench b;
		uint8_t *now;

		bench_init(&b, &spec);
		now = bench_content(&b);
		bench_write(&b, now);
		bench_expect(&b, now);
		before = test_device_figures();
		assert_true(i == 0 || before.allocs > 0);
		alloc_fail_at(0);
		for (int round = 0; round < 5; round++) {
			bench_begin(&b, NULL);
			assert_int_equal(bench_fence(&b, NULL), 0);
			assert_captured(&b);
		}
		alloc_fail_off();
		assert_int_equal(alloc_fail_count(), 0);
		after = test_device_figures();
		assert_int_equal(after.allocs, before.allocs);
		assert_int_equal(after.events_made, before.events_made);
		assert_int_equal(after.pins, before.pins);
		free(now);
		bench_deinit(&b);
	}
}

static void small_tensors_cost_no_call_each(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .small = 4000, .random = 140};
	struct test_device_figures f;
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	bench_capture(&b, now);
	f = test_device_figures();
	assert_true(f.runs > 4000);
	assert_true(bench_bands > 10);
	assert_true(f.copies <= bench_bands + 2);
	free(now);
	bench_deinit(&b);
}

/* To wake a thread takes longer than all else that the trainer's thread does in begin(). */
static void a_snapshot_wakes_one_thread(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		struct bench_spec spec = {.place = i == 3 ? ON_HOST : ANYWHERE,
		                          .threads = 3,
		                          .checks = i == 1,
		                          .random = 145 + i};
		struct device_bench b;
		uint8_t *now;

		bench_init(&b, &spec);
		now = bench_content(&b);
		bench_write(&b, now);
		bench_expect(&b, now);
		signals = 0;
		bench_begin(&b, NULL);
		assert_int_equal(signals, 1);
		assert_int_equal(bench_fence(&b, NULL), 0);
		assert_int_equal(signals, 1);
		assert_captured(&b);
		free(now);
		bench_deinit(&b);
	}
}

/* The stream stalls until all is staged, and has gone on before anything leaves a device. */
static void figures_tell_of_the_last_copy(void **state)
{
	const struct bench_spec spec = {.place = ON_ALL, .staging = 16 << 20, .random = 150};
	struct copy_figures f;
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	f = bench_figures(&b);
	assert_int_equal(f.device_bytes, b.device_bytes);
	assert_int_equal(f.staged_bytes, 0);
	assert_int_equal(f.stalls, 0);
	now = bench_content(&b);
	bench_write(&b, now);
	bench_expect(&b, now);
	test_device_hold(0, DEVICE_STAGE, 0);
	test_device_hold(0, DEVICE_OUT, 0);
	bench_begin(&b, NULL);
	assert_int_equal(bench_fence(&b, NULL), 0);
	assert_true(test_stream_await_wait(NULL));
	clock_sleep(2000000);
	test_device_go(0, DEVICE_STAGE);
	assert_true(test_stream_sync(NULL));
	test_device_go(0, DEVICE_OUT);
	assert_captured(&b);
	f = bench_figures(&b);
	assert_int_equal(f.device_bytes, b.device_bytes);
	assert_int_equal(f.staged_bytes, b.device_bytes);
	assert_int_equal(f.stalls, 1);
	assert_true(f.last_stall_s >= 0.0019);
	assert_true(f.stall_s >= f.last_stall_s);
	assert_true(f.device_copy_s > 0);
	/* Without a fence nobody waits. */
	bench_begin(&b, NULL);
	assert_captured(&b);
	f = bench_figures(&b);
	assert_int_equal(f.stalls, 1);
	assert_true(f.last_stall_s == 0);
	free(now);
	bench_deinit(&b);
}

static void a_stall(struct device_bench *b)
{
	test_device_hold(0, DEVICE_OUT, 0);
	bench_begin(b, NULL);
	assert_int_equal(bench_fence(b, NULL), 0);
	assert_true(test_stream_await_wait(NULL));
	clock_sleep(100000);
	test_device_go(0, DEVICE_OUT);
	assert_captured(b);
	assert_true(bench_figures(b).last_stall_s > 0);
	assert_true(bench_figures(b).device_copy_s > 0);
}

static uint64_t bytes_of(const struct copy_plan *plan, int device)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < plan->blocks; i++)
		for (uint32_t j = 0; j < plan->block[i].count; j++) {
			const struct copy_piece *piece = &plan->piece[plan->block[i].first + j];

			bytes += piece->device == device ? piece->bytes : 0;
		}
	return bytes;
}

/* Much longer than it took from there to here, however busy the machine is. */
static void sleep_long_since(uint64_t begun_ns)
{
	uint64_t took_ns = clock_ns() - begun_ns;

	clock_sleep(took_ns > 10000000 ? 10 * took_ns : 100000000);
}

/* On device 0 the fence comes after a long step, on device 1 at once. */
static void each_device_stages_for_its_own_fences(void **state)
{
	const struct bench_spec spec = {
		.place = ON_ALL, .staging = 8 << 20, .random = 151, .band_bytes = 20000};
	struct test_stream *s[] = {test_stream_new(0), test_stream_new(1)};
	struct copy_figures f;
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	bench_write(&b, now);
	bench_expect(&b, now);
	for (uint64_t round = 0; round < 4; round++) {
		struct test_gate gate = {0};
		uint64_t begun_ns = clock_ns();

		test_device_hold(1, DEVICE_OUT, 0);
		test_device_hold(1, DEVICE_STAGE, 0);
		bench_begin(&b, s[0]);
		test_stream_gate(s[0], &gate);
		assert_int_equal(bench_fence(&b, s[1]), 0);
		assert_int_equal(bench_fence(&b, s[0]), 0);
		assert_true(test_stream_await_wait(s[1]));
		sleep_long_since(begun_ns);
		test_device_go(1, DEVICE_STAGE);
		test_device_go(1, DEVICE_OUT);
		assert_captured(&b);
		test_gate_open(&gate);
		assert_true(test_stream_sync(s[0]));
		f = bench_figures(&b);
		assert_int_equal(f.stalls, round + 1);
		if (round < 2)
			continue;
		assert_true(f.staged_bytes > bytes_of(b.plan, 1) / 2);
		assert_true(f.staged_bytes <= bytes_of(b.plan, 1));
	}
	free(now);
	bench_deinit(&b);
}

/* At a version with checks a fence waits on the host until they are taken. */
static void a_version_with_checks_does_not_change_what_is_staged(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .staging = 8 << 20, .random = 153,
	                                .band_bytes = 20000, .checks = true};
	uint64_t staged[6];
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	bench_write(&b, now);
	bench_expect(&b, now);
	for (int round = 0; round < 6; round++) {
		uint64_t begun_ns = clock_ns();

		b.job.checks = round == 2 || round == 3 ? BENCH_CHECKS : 0;
		test_device_hold(0, DEVICE_OUT, 0);
		bench_begin(&b, NULL);
		assert_int_equal(bench_fence(&b, NULL), 0);
		sleep_long_since(begun_ns);
		test_device_go(0, DEVICE_OUT);
		assert_captured(&b);
		staged[round] = bench_figures(&b).staged_bytes;
	}
	assert_true(staged[4] > b.device_bytes / 2);
	assert_true(staged[5] > b.device_bytes / 2);
	free(now);
	bench_deinit(&b);
}

/* Nor of a plan that came to nothing. */
static void figures_do_not_tell_of_a_copy_before_the_last(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .random = 155};
	struct copy_plan none = {0};
	struct copy_figures f;
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_init(&b, &spec);
	now = bench_content(&b);
	bench_write(&b, now);
	bench_expect(&b, now);
	for (int way = 0; way < 3; way++) {
		a_stall(&b);
		test_device_hold(0, DEVICE_OUT, 3);
		if (way == 1)
			test_device_fail_issue(2);
		bench_begin(&b, NULL);
		if (way == 0)
			b.ops->cancel(b.copy);
		test_device_go(0, DEVICE_OUT);
		if (way < 2)
			assert_true(bench_resolve(&b) < b.plan->blocks);
		else
			assert_captured(&b);
		f = bench_figures(&b);
		assert_true(f.last_stall_s == 0);
		assert_int_equal(f.device_copy_s > 0, way == 2);
		assert_int_equal(f.device_bytes, b.device_bytes);
		assert_int_equal(f.stalls, way + 1);
	}
	assert_int_equal(b.ops->prepare(b.copy, &none, b.arena, b.arena_bytes), 0);
	assert_int_equal(bench_figures(&b).device_bytes, b.device_bytes);
	b.job.plan = &none;
	bench_begin(&b, NULL);
	f = bench_figures(&b);
	assert_int_equal(f.device_bytes, 0);
	assert_true(f.device_copy_s == 0);
	b.ops->release(b.copy, &none);
	free(now);
	bench_deinit(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_allocated_after_prepare),
		cmocka_unit_test(small_tensors_cost_no_call_each),
		cmocka_unit_test(a_snapshot_wakes_one_thread),
		cmocka_unit_test(figures_tell_of_the_last_copy),
		cmocka_unit_test(figures_do_not_tell_of_a_copy_before_the_last),
		cmocka_unit_test(each_device_stages_for_its_own_fences),
		cmocka_unit_test(a_version_with_checks_does_not_change_what_is_staged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
