/* SPDX-License-Identifier: BSD-3-Clause */
#include "copy_read.h"

#include <string.h>

#include "checksum.h"
#include "stream.h"

/* Stays in L1, and on any stack. */
#define BOUNCE_BYTES 16384u

static uint32_t smaller(uint32_t a, uint64_t b)
{
	return b < a ? (uint32_t)b : a;
}

/* Bytes that no piece covers are zero. They are written each time: what damaged them once
 * would damage all versions to come. */
static uint32_t pad(uint8_t *to, uint32_t bytes, uint32_t sum)
{
	memset(to, 0, bytes);
	return checksum_more(sum, to, bytes);
}

/* All pieces have arrived. */
static void seal_block(const struct copy_job *job, const struct copy_block *block)
{
	const struct copy_piece *piece = job->plan->piece + block->first;
	uint8_t *data = job->data + block->offset;
	uint32_t at = 0;

	for (uint32_t i = 0; i < block->count; i++) {
		memset(data + at, 0, piece[i].offset - at);
		at = piece[i].offset + piece[i].bytes;
	}
	memset(data + at, 0, block->bytes - at);
	job->sums[block->sum] = checksum_more(0, data, block->bytes);
}

void copy_read_early(const struct copy_job *job, uint32_t index)
{
	const struct copy_block *block = &job->plan->block[index];
	const struct copy_piece *piece = job->plan->piece + block->first;

	for (uint32_t i = 0; i < block->count; i++) {
		uint8_t *to = job->data + block->offset + piece[i].offset;

		if (piece[i].device != DEVICE_HOST)
			continue;
		if (piece[i].view)
			box_view_gather(piece[i].view, piece[i].addr, piece[i].from, to,
			                piece[i].bytes);
		else
			stream_copy(to, piece[i].addr, piece[i].bytes);
	}
}

void copy_read_block(const struct copy_job *job, uint32_t index)
{
	const struct copy_block *block = &job->plan->block[index];
	const struct copy_piece *piece = job->plan->piece + block->first;
	uint8_t *data = job->data + block->offset;
	uint32_t sum = 0, at = 0;

	if (job->plan->on_device) {
		seal_block(job, block);
		return;
	}
	for (uint32_t i = 0; i < block->count; i++) {
		uint8_t *to = data + piece[i].offset;

		sum = pad(data + at, piece[i].offset - at, sum);
		at = piece[i].offset + piece[i].bytes;
		if (piece[i].view) {
			box_view_gather(piece[i].view, piece[i].addr, piece[i].from, to,
			                piece[i].bytes);
			sum = checksum_more(sum, to, piece[i].bytes);
		} else {
			/* The region's bytes are in the cache now, the slot's are not. */
			stream_copy(to, piece[i].addr, piece[i].bytes);
			sum = checksum_more(sum, piece[i].addr, piece[i].bytes);
		}
	}
	job->sums[block->sum] = pad(data + at, block->bytes - at, sum);
}

void copy_read_check(const struct copy_job *job, uint32_t index)
{
	const struct copy_check *k = &job->check[index];
	uint8_t bounce[BOUNCE_BYTES];
	uint32_t sum = 0, n;

	if (k->device != DEVICE_HOST)
		return;
	if (k->view.dims == 0) {
		job->check_sum[index] = checksum(k->addr + k->view.offset + k->from, k->bytes);
		return;
	}
	for (uint64_t done = 0; done < k->bytes; done += n) {
		n = smaller(BOUNCE_BYTES, k->bytes - done);
		box_view_gather(&k->view, k->addr, k->from + done, bounce, n);
		sum = checksum_more(sum, bounce, n);
	}
	job->check_sum[index] = sum;
}
