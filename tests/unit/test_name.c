/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "name.h"

static void names_are_short_and_plain(void **state)
{
	char name[FTMEM_NAME_MAX + 2];

	(void)state;
	memset(name, 'a', sizeof(name));
	name[FTMEM_NAME_MAX] = '\0';
	assert_true(name_valid(name));
	name[FTMEM_NAME_MAX] = 'a';
	name[FTMEM_NAME_MAX + 1] = '\0';
	assert_false(name_valid(name));
	assert_true(name_valid("_A.z-09"));
	assert_false(name_valid(NULL));
	assert_false(name_valid(""));
	assert_false(name_valid(".x"));
	assert_false(name_valid("-x"));
	assert_false(name_valid("a b"));
	assert_false(name_valid("a/b"));
	assert_false(name_valid("a@b"));
	assert_true(name_valid("a-.b"));
	assert_false(name_valid("caf\xc3\xa9"));
}

static void no_byte_behind_the_longest_is_read(void **state)
{
	/* Not terminated: a sanitizer sees a read too far. */
	char *name = malloc(FTMEM_NAME_MAX + 1);

	(void)state;
	assert_non_null(name);
	memset(name, 'a', FTMEM_NAME_MAX + 1);
	assert_false(name_valid(name));
	free(name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_short_and_plain),
		cmocka_unit_test(no_byte_behind_the_longest_is_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
