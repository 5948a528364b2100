/* SPDX-License-Identifier: BSD-3-Clause */
/* Linked with --wrap=pthread_create. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "thread.h"

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);

static bool refused;

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg)
{
	return refused ? EAGAIN : __real_pthread_create(thread, attr, run, arg);
}

static void *mask_of(void *arg)
{
	pthread_sigmask(SIG_SETMASK, NULL, arg);
	return NULL;
}

/* Only SIGUSR1 is blocked here, before and after. */
static void expect_own_mask(void)
{
	sigset_t mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	assert_int_equal(sigismember(&mask, SIGUSR1), 1);
	assert_int_equal(sigismember(&mask, SIGTERM), 0);
}

static int block_one(void **state)
{
	sigset_t one;

	(void)state;
	refused = false;
	sigemptyset(&one);
	sigaddset(&one, SIGUSR1);
	return pthread_sigmask(SIG_SETMASK, &one, NULL);
}

static void signals_stay_with_the_one_who_starts_it(void **state)
{
	static const int signals[] = {SIGHUP, SIGINT, SIGTERM, SIGCHLD, SIGUSR1, SIGUSR2, SIGALRM};
	pthread_t thread;
	sigset_t mask;

	(void)state;
	sigemptyset(&mask);
	assert_int_equal(thread_start(&thread, mask_of, &mask), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		assert_int_equal(sigismember(&mask, signals[i]), 1);
	expect_own_mask();
}

static void one_that_cannot_be_started_changes_nothing(void **state)
{
	pthread_t thread;

	(void)state;
	refused = true;
	assert_int_equal(thread_start(&thread, mask_of, NULL), EAGAIN);
	expect_own_mask();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(signals_stay_with_the_one_who_starts_it, block_one),
		cmocka_unit_test_setup(one_that_cannot_be_started_changes_nothing, block_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
