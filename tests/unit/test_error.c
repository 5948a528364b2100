/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "error.h"

static void *message_of_another_thread(void *arg)
{
	char *seen = (char *)arg;

	memcpy(seen, error_msg(), strlen(error_msg()) + 1);
	error_set(FTMEM_ENET, "theirs");
	return NULL;
}

static void message_is_empty_until_something_is_wrong(void **state)
{
	char seen[ERROR_MSG_MAX] = "?";
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, message_of_another_thread, seen), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_string_equal(seen, "");
}

static void messages_belong_to_their_thread(void **state)
{
	char seen[ERROR_MSG_MAX] = "?";
	pthread_t thread;

	(void)state;
	assert_int_equal(error_set(FTMEM_EINVAL, "ours, rank %d", 7), FTMEM_EINVAL);
	assert_int_equal(pthread_create(&thread, NULL, message_of_another_thread, seen), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_string_equal(seen, "");
	assert_string_equal(error_msg(), "ours, rank 7");
}

static void message_may_contain_the_former_one(void **state)
{
	(void)state;
	error_set(FTMEM_ESYS, "inner");
	assert_int_equal(error_set(FTMEM_ESMP, "outer: %s", error_msg()), FTMEM_ESMP);
	assert_string_equal(error_msg(), "outer: inner");
	error_sys(FTMEM_ESYS, ENOENT, "again: %s", error_msg());
	assert_string_equal(error_msg(), "again: outer: inner: No such file or directory");
}

static void long_messages_are_cut_but_name_the_system_error(void **state)
{
	char text[2 * ERROR_MSG_MAX];
	const char *cause = ": No such file or directory";

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	error_set(FTMEM_EINVAL, "%s", text);
	assert_int_equal(strlen(error_msg()), ERROR_MSG_MAX - 1);
	assert_int_equal(error_sys(FTMEM_ESYS, ENOENT, "%s", text), FTMEM_ESYS);
	assert_int_equal(strlen(error_msg()), ERROR_MSG_MAX - 1);
	assert_string_equal(error_msg() + ERROR_MSG_MAX - 1 - strlen(cause), cause);
}

static void every_result_has_its_text(void **state)
{
	(void)state;
#define CHECK_TEXT(name, value, text)                                                              \
	assert_int_equal(name, value);                                                             \
	assert_string_equal(error_text(name), text);
	FTMEM_RESULTS(CHECK_TEXT)
#undef CHECK_TEXT
	assert_string_equal(error_text(-1000), "unknown result");
	assert_string_equal(error_text(1000), "unknown result");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(message_is_empty_until_something_is_wrong),
		cmocka_unit_test(messages_belong_to_their_thread),
		cmocka_unit_test(message_may_contain_the_former_one),
		cmocka_unit_test(long_messages_are_cut_but_name_the_system_error),
		cmocka_unit_test(every_result_has_its_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
