/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the machine says of options that are not set. Pure. A block and the k + m - 1 others
 * of its row are to stay in the second-level cache between copy, checksum and send, and
 * between receive, checksum and encode.
 */
#ifndef FTMEM_TUNE_H
#define FTMEM_TUNE_H

#include <stdbool.h>
#include <stdint.h>

#define TUNE_BLOCK_MIN   (UINT32_C(64) << 10)
#define TUNE_BLOCK_MAX   (UINT32_C(256) << 10)
#define TUNE_WINDOW_MIN  2u
#define TUNE_WINDOW_MAX  4u
#define TUNE_THREADS_MAX 4u
#define TUNE_THREADS_DEVICE_MAX 12u

/* A power of two, a 16th of the cache where the bounds allow it; l2_bytes 0: unknown. */
uint32_t tune_block_bytes(uint64_t l2_bytes);

/* One row is received while the other is encoded; more where they take no more than a
 * quarter of the cache. row_bytes: the buffers of one row, 0: none are exchanged. */
uint32_t tune_window(uint64_t l2_bytes, uint64_t row_bytes);

/* cpus: those that the library's threads of one rank have. One is left to the thread that
 * drives the exchange; a few copying cores fill a rank's share of the memory channels. Where
 * there are devices, what comes over their links is only checksummed, but faster. */
uint32_t tune_copy_threads(uint32_t cpus, bool devices);

#endif
