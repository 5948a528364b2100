/* SPDX-License-Identifier: BSD-3-Clause */
#include "copy.h"

#include <stdlib.h>

#include "error.h"

/* A run of the slot's data that comes from one place. Number 0 is the blob, then the
 * layout's pieces; their offsets grow. */
struct extent {
	uint8_t *addr;               /* as in a copy_piece */
	const struct box_view *view;
	uint64_t begin, end;
	int device;
	uint32_t region;
};

/* Walks the extents once while the blocks are filled by growing offset. */
struct cursor {
	const struct layout *layout;
	struct extent extent;
	uint32_t at;    /* its number */
	uint32_t views; /* of the plan that are in use */
};

static struct box_view view_of(const struct layout *l, const struct layout_piece *piece)
{
	const struct region *region = &l->region[piece->region];
	struct box_view view;

	if (piece->box.ndim == 0)
		return box_view_flat(piece->bytes);
	box_view(&region->box, &piece->box, region->elem_bytes, &view);
	return view;
}

static uint32_t count_views(const struct layout *l)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < l->pieces; i++)
		count += view_of(l, &l->piece[i]).dims > 0;
	return count;
}

static struct extent piece_extent(struct copy_plan *plan, struct cursor *c)
{
	const struct layout_piece *piece = &c->layout->piece[c->at - 1];
	const struct region *region = &c->layout->region[piece->region];
	struct box_view view = view_of(c->layout, piece);
	struct extent e = {
		.addr = region->addr,
		.begin = piece->offset,
		.end = piece->offset + piece->bytes,
		.device = region->device,
		.region = piece->region,
	};

	if (view.dims == 0) {
		e.addr += view.offset;
		return e;
	}
	/* There are as many as count_views() said. */
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
	plan->view[c->views] = view;
	e.view = &plan->view[c->views++];
	return e;
}

static void cursor_advance(struct copy_plan *plan, struct cursor *c)
{
	if (++c->at <= c->layout->pieces)
		c->extent = piece_extent(plan, c);
}

static bool continues(const struct copy_piece *last, const struct copy_piece *next)
{
	return !last->view && !next->view && last->device == next->device
	       && (last->device == DEVICE_HOST || last->region == next->region)
	       && last->addr + last->bytes == next->addr
	       && last->offset + last->bytes == next->offset;
}

static void piece_add(struct copy_plan *plan, struct copy_block *block, struct copy_piece piece)
{
	struct copy_piece *last = block->count > 0 ? &plan->piece[plan->pieces - 1] : NULL;

	if (last && continues(last, &piece)) {
		last->bytes += piece.bytes;
		return;
	}
	plan->piece[plan->pieces++] = piece;
	plan->on_device = plan->on_device || piece.device != DEVICE_HOST;
	block->count++;
}

static void block_fill(struct copy_plan *plan, struct copy_block *block, struct cursor *c)
{
	uint64_t end = block->offset + block->bytes;

	block->first = plan->pieces;
	while (c->at <= c->layout->pieces) {
		const struct extent *e = &c->extent;
		uint64_t from = e->begin > block->offset ? e->begin : block->offset;
		uint64_t to = e->end < end ? e->end : end;
		struct copy_piece piece = {
			.addr = e->addr,
			.view = e->view,
			.device = e->device,
			.region = e->region,
		};

		if (from < to) {
			if (e->view)
				piece.from = from - e->begin;
			else
				piece.addr += from - e->begin;
			piece.offset = (uint32_t)(from - block->offset);
			piece.bytes = (uint32_t)(to - from);
			piece_add(plan, block, piece);
		}
		if (e->end > end)
			break;
		cursor_advance(plan, c);
	}
}

static void plan_fill(struct copy_plan *plan, const struct layout *layout, const struct rail *rail,
                      uint32_t member)
{
	uint32_t rows = rail_chunk_rows(rail, member);
	struct cursor cursor = {
		.layout = layout,
		.extent = {layout->blob, NULL, 0, layout->blob_bytes, DEVICE_HOST, 0},
	};

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

/* Whose work a snapshot waits for, and whose replicas may be compared. */
static uint64_t devices_of(const struct layout *l)
{
	uint64_t devices = 0;

	for (uint32_t i = 0; i < l->regions; i++)
		if (l->region[i].device >= 0 && l->region[i].device < DEVICE_MAX)
			devices |= UINT64_C(1) << l->region[i].device;
	return devices;
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

static int plan_allocate(struct copy_plan *plan, const struct layout *layout)
{
	/* Every end of a piece is the end of a block or of an extent. */
	uint64_t pieces = (uint64_t)plan->blocks + layout->pieces + 1;
	uint32_t views = count_views(layout);

	if (pieces > UINT32_MAX)
		return FTMEM_ENOMEM;
	plan->block = calloc(plan->blocks, sizeof(*plan->block));
	plan->piece = calloc(pieces, sizeof(*plan->piece));
	if (views > 0)
		plan->view = calloc(views, sizeof(*plan->view));
	return plan->block && plan->piece && (plan->view || views == 0) ? 0 : FTMEM_ENOMEM;
}

int copy_plan_new(const struct layout *layout, const struct rail *rail, uint32_t member,
                  struct copy_plan **out)
{
	struct copy_plan *plan = NULL;
	int rc = check_fit(layout, rail, member);

	if (rc)
		return rc;
	plan = calloc(1, sizeof(*plan));
	if (!plan)
		goto fail;
	plan->blocks = rail_data_blocks(rail, member);
	plan->chunks = rail_k(rail);
	plan->blob_bytes = layout->blob_bytes;
	plan->devices = devices_of(layout);
	if (plan->blocks > 0) {
		if (plan_allocate(plan, layout) < 0)
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
	free(plan->view);
	free(plan);
}

uint32_t copy_plan_index(const struct rail *rail, uint32_t member, uint32_t chunk, uint32_t row)
{
	(void)member;
	return row * rail_k(rail) + chunk;
}
