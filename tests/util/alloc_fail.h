/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Makes one chosen allocation of a test program fail. Link the test with
 * alloc_fail.c and
 *
 *     -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc
 *
 * so that every call from the objects linked into the program, on any thread,
 * comes through here; shared libraries (libc's strdup() too) keep their own. The
 * usual loop tries each allocation in turn until the call needs no more:
 *
 *     for (n = 1; rc == FTMEM_ENOMEM; n++) {
 *             alloc_fail_at(n);
 *             rc = thing_new(&thing);
 *             alloc_fail_off();
 *     }
 */
#ifndef FTMEM_TEST_ALLOC_FAIL_H
#define FTMEM_TEST_ALLOC_FAIL_H

/* The n-th allocation from now fails, those before and after succeed; counting
 * starts at 1. 0 lets none fail and only counts. */
void alloc_fail_at(unsigned n);
/* Lets all allocations succeed and stops counting. */
void alloc_fail_off(void);
/* Allocations between the last alloc_fail_at() and alloc_fail_off() or now. */
unsigned alloc_fail_count(void);

#endif
