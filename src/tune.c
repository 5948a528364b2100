/* SPDX-License-Identifier: BSD-3-Clause */
#include "tune.h"

#define BLOCK_UNKNOWN (UINT32_C(128) << 10)

uint32_t tune_block_bytes(uint64_t l2_bytes)
{
	uint32_t block = TUNE_BLOCK_MIN;

	if (l2_bytes == 0)
		return BLOCK_UNKNOWN;
	while (block < TUNE_BLOCK_MAX && 2 * block <= l2_bytes / 16)
		block *= 2;
	return block;
}

uint32_t tune_window(uint64_t l2_bytes, uint64_t row_bytes)
{
	uint64_t rows = row_bytes > 0 ? l2_bytes / 4 / row_bytes : 0;

	if (rows < TUNE_WINDOW_MIN)
		return TUNE_WINDOW_MIN;
	return rows < TUNE_WINDOW_MAX ? (uint32_t)rows : TUNE_WINDOW_MAX;
}

uint32_t tune_copy_threads(uint32_t cpus, bool devices)
{
	uint32_t most = devices ? TUNE_THREADS_DEVICE_MAX : TUNE_THREADS_MAX;

	if (cpus <= 2)
		return 1;
	return cpus - 1 < most ? cpus - 1 : most;
}
