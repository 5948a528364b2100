/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the environment asks of tests. A variable is set if it is neither empty nor 0.
 *
 *   FTMEM_TEST_QUICK   a selection: slow builds
 *   FTMEM_TEST_FULL    many times as much; goes before FTMEM_TEST_QUICK
 *   FTMEM_REQUIRE_ALL  what cannot be tried here (without root) is a failure
 */
#ifndef FTMEM_TEST_ENV_H
#define FTMEM_TEST_ENV_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline bool test_is_set(const char *name)
{
	const char *text = getenv(name);

	return text && text[0] && strcmp(text, "0") != 0;
}

static inline bool test_full(void)
{
	return test_is_set("FTMEM_TEST_FULL");
}

static inline bool test_quick(void)
{
	return test_is_set("FTMEM_TEST_QUICK") && !test_full();
}

static inline bool test_requires_all(void)
{
	return test_is_set("FTMEM_REQUIRE_ALL");
}

#endif
