/* SPDX-License-Identifier: BSD-3-Clause */
#include "copy_write.h"

#include "checksum.h"
#include "stream.h"

/* Puts that a thread takes at a time. */
#define SHARE_PUTS  64u
/* Stays in L1, and on any stack. */
#define BOUNCE_BYTES 16384u

static uint32_t smaller(uint32_t a, uint64_t b)
{
	return b < a ? (uint32_t)b : a;
}

/* --- puts --- */

static void put_strided(const struct copy_put *put, uint64_t to_from, uint64_t source_from,
                        uint64_t bytes)
{
	uint8_t bounce[BOUNCE_BYTES];
	uint32_t n;

	for (uint64_t done = 0; done < bytes; done += n) {
		n = smaller(BOUNCE_BYTES, bytes - done);
		box_view_gather(&put->source_view, put->source, source_from + done, bounce, n);
		box_view_scatter(&put->to_view, put->to, to_from + done, bounce, n);
	}
}

/* Of the put, bytes from its byte `from` on. */
static void put_bytes(const struct copy_put *put, uint64_t from, uint64_t bytes)
{
	const struct box_view *to_view = &put->to_view, *source_view = &put->source_view;
	uint64_t to_from = put->to_from + from, source_from = put->source_from + from;

	if (bytes == 0)
		return;
	if (to_view->dims > 0 && source_view->dims > 0)
		put_strided(put, to_from, source_from, bytes);
	else if (to_view->dims > 0)
		box_view_scatter(to_view, put->to, to_from,
		                 put->source + source_view->offset + source_from, bytes);
	else if (source_view->dims > 0)
		box_view_gather(source_view, put->source, source_from,
		                put->to + to_view->offset + to_from, bytes);
	else
		stream_copy(put->to + to_view->offset + to_from,
		       put->source + source_view->offset + source_from, bytes);
}

void copy_puts_write(const struct copy_puts *taken)
{
	uint64_t from = taken->done, left = taken->bytes;

	for (uint32_t i = 0; i < taken->count; i++) {
		uint64_t rest = taken->put[i].bytes - from, n = rest < left ? rest : left;

		put_bytes(&taken->put[i], from, n);
		left -= n;
		from = 0;
	}
}

struct copy_puts copy_puts_all(const struct copy_put *put, uint32_t count)
{
	struct copy_puts all = {.put = put, .count = count};

	for (uint32_t i = 0; i < count; i++)
		all.bytes += put[i].bytes;
	return all;
}

struct copy_puts copy_puts_take(struct copy_puts *left)
{
	struct copy_puts taken = {.put = left->put, .done = left->done};

	while (left->count > 0 && taken.count < SHARE_PUTS && taken.bytes < COPY_SHARE_BYTES) {
		uint64_t rest = left->put->bytes - left->done;
		uint64_t room = COPY_SHARE_BYTES - taken.bytes;

		taken.count++;
		if (rest > room) {
			taken.bytes += room;
			left->done += room;
			break;
		}
		taken.bytes += rest;
		left->done = 0;
		left->put++;
		left->count--;
	}
	left->bytes -= taken.bytes;
	return taken;
}

/* --- blocks --- */

/* The blob is no region: what holds it stays as it is. */
static void block_scatter(const struct copy_fill *fill, const struct copy_block *block)
{
	const struct copy_piece *piece = fill->plan->piece + block->first;
	uint64_t blob_bytes = fill->plan->blob_bytes;

	for (uint32_t i = 0; i < block->count; i++) {
		const uint8_t *from = fill->data + block->offset + piece[i].offset;
		uint64_t at = block->offset + piece[i].offset;
		uint32_t skip = at < blob_bytes ? smaller(piece[i].bytes, blob_bytes - at) : 0;

		if (piece[i].device != DEVICE_HOST)
			continue;
		if (piece[i].view)
			box_view_scatter(piece[i].view, piece[i].addr, piece[i].from, from,
			                 piece[i].bytes);
		else
			stream_copy(piece[i].addr + skip, from + skip, piece[i].bytes - skip);
	}
}

bool copy_fill_block(const struct copy_fill *fill, uint32_t index)
{
	const struct copy_block *block = &fill->plan->block[index];

	if (block->bytes == 0)
		return true;
	if (checksum(fill->data + block->offset, block->bytes) != fill->sums[block->sum])
		return false;
	block_scatter(fill, block);
	return true;
}
