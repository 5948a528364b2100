/* SPDX-License-Identifier: BSD-3-Clause */
#include "copy.h"

#include <stdlib.h>

#include "error.h"

/* A run of the slot's data that comes from one address. Number 0 is the blob, then
 * the layout's entries; their offsets grow. */
struct extent {
	uint8_t *addr;
	uint64_t begin, end;
};

/* Walks the extents once while the blocks are filled by growing offset. */
struct cursor {
	const struct layout *layout;
	uint32_t at;
};

static struct extent extent_of(const struct layout *l, uint32_t number)
{
	const struct layout_entry *e;

	if (number == 0)
		return (struct extent){l->blob, 0, l->blob_bytes};
	e = &l->entry[number - 1];
	return (struct extent){e->addr, e->offset, e->offset + e->bytes};
}

/* The blob is not written on restore, so it must not melt into a region's piece. */
static void piece_add(struct copy_plan *plan, struct copy_block *block, uint8_t *addr,
                      uint32_t offset, uint32_t bytes)
{
	struct copy_piece *last = block->count > 0 ? &plan->piece[plan->pieces - 1] : NULL;

	if (last && last->addr + last->bytes == addr && last->offset + last->bytes == offset
	    && block->offset + offset > plan->blob_bytes) {
		last->bytes += bytes;
		return;
	}
	plan->piece[plan->pieces++] = (struct copy_piece){addr, offset, bytes};
	block->count++;
}

static void block_fill(struct copy_plan *plan, struct copy_block *block, struct cursor *c)
{
	uint64_t end = block->offset + block->bytes;

	block->first = plan->pieces;
	while (c->at <= c->layout->count) {
		struct extent e = extent_of(c->layout, c->at);
		uint64_t from = e.begin > block->offset ? e.begin : block->offset;
		uint64_t to = e.end < end ? e.end : end;

		if (from < to && e.addr)
			piece_add(plan, block, e.addr + (from - e.begin),
			          (uint32_t)(from - block->offset), (uint32_t)(to - from));
		if (e.end > end)
			break;
		c->at++;
	}
}

static void plan_fill(struct copy_plan *plan, const struct layout *layout, const struct rail *rail,
                      uint32_t member)
{
	uint32_t rows = rail_chunk_rows(rail, member);
	struct cursor cursor = {layout, 0};

	for (uint32_t chunk = 0; chunk < rail_k(rail); chunk++)
		for (uint32_t row = 0; row < rows; row++) {
			uint32_t index = copy_plan_index(rail, member, chunk, row);
			struct copy_block *block = &plan->block[index];

			block->bytes = rail_data_len(rail, member, chunk, row);
			block->offset = rail_data_offset(rail, member, chunk, row);
			block->sum = chunk * rows + row;
			if (block->bytes > 0)
				block_fill(plan, block, &cursor);
		}
}

static int check_fit(const struct layout *layout, const struct rail *rail, uint32_t member)
{
	if (!rail_valid(rail) || member >= rail->n)
		return error_set(FTMEM_EINVAL, "rail %u has no valid member %u", rail->id, member);
	if (rail->data_bytes[member] != layout->data_bytes)
		return error_set(FTMEM_EINVAL,
		                 "rail %u has room for %llu bytes of data, the layout needs %llu",
		                 rail->id, (unsigned long long)rail->data_bytes[member],
		                 (unsigned long long)layout->data_bytes);
	return 0;
}

int copy_plan_new(const struct layout *layout, const struct rail *rail, uint32_t member,
                  struct copy_plan **out)
{
	struct copy_plan *plan = NULL;
	uint64_t pieces;
	int rc = check_fit(layout, rail, member);

	if (rc)
		return rc;
	plan = calloc(1, sizeof(*plan));
	if (!plan)
		goto fail;
	plan->blocks = rail_data_blocks(rail, member);
	if (plan->blocks > 0) {
		/* Every end of a piece is the end of a block or of an extent. */
		pieces = (uint64_t)plan->blocks + layout->count + 1;
		if (pieces > UINT32_MAX)
			goto fail;
		plan->blob_bytes = layout->blob_bytes;
		plan->block = calloc(plan->blocks, sizeof(*plan->block));
		plan->piece = calloc(pieces, sizeof(*plan->piece));
		if (!plan->block || !plan->piece)
			goto fail;
		plan_fill(plan, layout, rail, member);
	}
	*out = plan;
	return 0;
fail:
	copy_plan_free(plan);
	return error_set(FTMEM_ENOMEM, "no memory for the plan to copy %llu bytes",
	                 (unsigned long long)layout->data_bytes);
}

void copy_plan_free(struct copy_plan *plan)
{
	if (!plan)
		return;
	free(plan->block);
	free(plan->piece);
	free(plan);
}

uint32_t copy_plan_index(const struct rail *rail, uint32_t member, uint32_t chunk, uint32_t row)
{
	(void)member;
	return row * rail_k(rail) + chunk;
}
