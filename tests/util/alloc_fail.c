/* SPDX-License-Identifier: BSD-3-Clause */
#include "alloc_fail.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);

static _Atomic bool counting;
static _Atomic unsigned counted, chosen;

void alloc_fail_at(unsigned n)
{
	atomic_store(&counting, false);
	atomic_store(&counted, 0);
	atomic_store(&chosen, n);
	atomic_store(&counting, true);
}

void alloc_fail_off(void)
{
	atomic_store(&counting, false);
}

unsigned alloc_fail_count(void)
{
	return atomic_load(&counted);
}

static bool fails(void)
{
	if (!atomic_load(&counting) || atomic_fetch_add(&counted, 1) + 1 != atomic_load(&chosen))
		return false;
	errno = ENOMEM;
	return true;
}

void *__wrap_malloc(size_t bytes)
{
	return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
	return fails() ? NULL : __real_realloc(old, bytes);
}
