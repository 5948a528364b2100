/* SPDX-License-Identifier: BSD-3-Clause */
/* In which order a snapshot's copies are queued, and what stands behind them. */
#include "device_bench.h"

#include "error.h"

/* When it is over nothing is copied any more. */
static uint32_t resolve(struct device_bench *b)
{
	bench_await(b);
	assert_int_equal(test_device_figures().copying, 0);
	return bench_resolve(b);
}

/* Each of a snapshot's in turn. What was queued before it is waited for all the same. */
static void an_event_that_is_not_recorded_drops_one_version(void **state)
{
	static const uint64_t staging[] = {0, 900000, 16 << 20};

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		struct bench_spec spec = {.place = i == 0 ? ON_DEVICE_0 : ON_ALL,
		                          .staging = staging[i],
		                          .checks = i == 1,
		                          .band_bytes = 500000,
		                          .random = 600 + i};
		uint32_t landed = 0;
		struct device_bench b;
		uint8_t *now;
		unsigned n;

		bench_init(&b, &spec);
		now = bench_content(&b);
		bench_write(&b, now);
		bench_expect(&b, now);
		for (n = 1; landed < b.plan->blocks; n++) {
			test_device_slow(3000000);
			test_device_fail_record(n);
			bench_begin(&b, NULL);
			assert_int_equal(bench_fence(&b, NULL), 0);
			landed = resolve(&b);
			test_device_fail_record(0);
			test_device_slow(0);
			bench_begin(&b, NULL);
			assert_int_equal(bench_fence(&b, NULL), 0);
			assert_int_equal(resolve(&b), b.plan->blocks);
		}
		assert_true(n > 4);
		free(now);
		bench_deinit(&b);
	}
}

static void await_staged(uint64_t more_than)
{
	uint64_t deadline = clock_deadline(BENCH_PATIENCE_MS);

	while (test_device_figures().bytes[DEVICE_STAGE] <= more_than && clock_ns() < deadline)
		clock_sleep(100000);
	assert_true(test_device_figures().bytes[DEVICE_STAGE] > more_than);
}

/* Without pinned memory who queues copies to the host waits for them: by then all devices
 * stage. */
static void all_is_staged_before_anything_leaves_a_device(void **state)
{
	static const uint64_t staging[] = {16 << 20, 600000};

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		struct bench_spec spec = {.place = ON_ALL,
		                          .staging = staging[i],
		                          .random = 620 + i};
		struct device_bench b;
		uint64_t before;
		uint8_t *now;

		bench_open(&b, &spec);
		test_device_fail_pin(1);
		assert_int_equal(bench_prepare(&b), 0);
		now = bench_content(&b);
		bench_write(&b, now);
		bench_expect(&b, now);
		before = test_device_figures().bytes[DEVICE_STAGE];
		test_device_hold(0, DEVICE_OUT, 0);
		test_device_hold(1, DEVICE_OUT, 0);
		bench_begin(&b, NULL);
		await_staged(before + (i == 0 ? b.device_bytes - 1 : 0));
		test_device_go(0, DEVICE_OUT);
		test_device_go(1, DEVICE_OUT);
		assert_int_equal(bench_fence(&b, NULL), 0);
		assert_int_equal(resolve(&b), b.plan->blocks);
		free(now);
		bench_deinit(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_event_that_is_not_recorded_drops_one_version),
		cmocka_unit_test(all_is_staged_before_anything_leaves_a_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
