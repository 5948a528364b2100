/* SPDX-License-Identifier: BSD-3-Clause */
/* How much memory there is to take, and taking it. Any thread. */
#ifndef FTMEM_MEMORY_H
#define FTMEM_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/*
 * Bytes that can still be taken: the least of MemAvailable and of the room below
 * the limits of this process's control groups (v1 and v2), all levels that it can
 * see. Page cache of files counts as room: the kernel gives it up first.
 */
uint64_t memory_available(void);
/* The same with root before /proc and the mount points, for tests; "" is the system. */
uint64_t memory_available_in(const char *root);

/*
 * Faults in a mapping for writing, in parallel on up to threads threads, so
 * that no page is touched for the first time later. Contents are kept. ENOMEM if the
 * kernel has no page to give, never a signal (but a control group may kill: ask
 * memory_available() first). Before Linux 5.14, which brought MADV_POPULATE_WRITE,
 * one byte of each page goes through a pipe and back: a page that cannot be had then
 * fails the system call instead of raising SIGBUS. Nobody else may write meanwhile.
 */
int memory_touch(void *addr, size_t bytes, uint32_t threads);

/* mmap() for arenas: shared, MADV_HUGEPAGE, MADV_DONTFORK, MADV_DONTDUMP where the
 * kernel has them. fd is borrowed; munmap() ends it. ENOMEM, ESYS. */
int memory_map(int fd, size_t bytes, int writable, void **addr);

#endif
