/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "limiter.h"
#include "test_random.h"

#define SECOND UINT64_C(1000000000)
#define RATE UINT64_C(1000000)

static void no_rate_is_no_ceiling(void **state)
{
	struct limiter l = {0};

	(void)state;
	for (int i = 0; i < 100; i++) {
		assert_true(limiter_allows(&l, 5));
		limiter_spend(&l, UINT64_MAX);
	}
}

static void a_spent_bucket_fills_at_the_rate(void **state)
{
	struct limiter l = {.rate = RATE, .last_ns = SECOND};

	(void)state;
	assert_true(limiter_allows(&l, SECOND));
	limiter_spend(&l, RATE / 2);
	assert_false(limiter_allows(&l, SECOND));
	assert_false(limiter_allows(&l, SECOND + SECOND / 2 - SECOND / 1000));
	assert_true(limiter_allows(&l, SECOND + SECOND / 2));
}

/* However often it is asked meanwhile. */
static void asking_costs_nothing(void **state)
{
	struct limiter l = {.rate = RATE, .last_ns = 0};

	(void)state;
	limiter_allows(&l, 0);
	limiter_spend(&l, RATE);
	for (uint64_t now = 0; now < SECOND - SECOND / 1000; now += 9973)
		assert_false(limiter_allows(&l, now));
	assert_true(limiter_allows(&l, SECOND + SECOND / 1000));
}

static void a_long_rest_gives_one_bucket(void **state)
{
	struct limiter l = {.rate = RATE, .last_ns = 0};
	uint64_t now = 1000 * SECOND, sent = 0;

	(void)state;
	while (limiter_allows(&l, now)) {
		limiter_spend(&l, 1000);
		sent += 1000;
	}
	assert_true(sent <= (uint64_t)(RATE * LIMITER_BURST_S) + 1000);
	assert_true(sent >= (uint64_t)(RATE * LIMITER_BURST_S));
}

/* Whatever the sizes and pauses: no more than the rate gives, one bucket and one
 * message; and no less where there is always something to send. */
static void what_passes_keeps_to_the_rate(void **state)
{
	uint64_t random = test_random_seed("limiter");

	(void)state;
	for (int run = 0; run < 20; run++) {
		struct limiter l = {.rate = RATE + test_random_below(&random, 1u << 30),
		                    .last_ns = 7};
		uint64_t now = 7, sent = 0, biggest = 0;
		double may;

		for (int i = 0; i < 20000; i++) {
			uint64_t bytes = 1 + test_random_below(&random, 131072);

			now += test_random_below(&random, 100000);
			if (!limiter_allows(&l, now))
				continue;
			limiter_spend(&l, bytes);
			sent += bytes;
			biggest = bytes > biggest ? bytes : biggest;
			may = (double)l.rate * ((double)(now - 7) * 1e-9 + LIMITER_BURST_S);
			assert_true((double)sent <= may + (double)biggest);
		}
		assert_true(sent > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_rate_is_no_ceiling),
		cmocka_unit_test(a_spent_bucket_fills_at_the_rate),
		cmocka_unit_test(asking_costs_nothing),
		cmocka_unit_test(a_long_rest_gives_one_bucket),
		cmocka_unit_test(what_passes_keeps_to_the_rate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
