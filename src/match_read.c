/* SPDX-License-Identifier: BSD-3-Clause */
#include "match_impl.h"

#include <stdlib.h>

#include "error.h"

int match_claim_put(struct bytes *b, const struct match_claim *claim)
{
	uint64_t begin = b->size;
	int rc = tensor_put(b, &claim->tensor);

	rc = rc ? rc : box_put(b, &claim->box);
	rc = rc ? rc : bytes_put_u32(b, claim->group);
	if (rc)
		b->size = begin;
	return rc;
}

static int no_sense(const struct match_claim *claim)
{
	return error_set(FTMEM_ENET, "the answer to a claim of tensor \"%s\" makes no sense",
	                 claim->tensor.name);
}

static int read_unlike(const struct match_claim *claim, struct bytes_reader *r)
{
	char here[TENSOR_TEXT], there[TENSOR_TEXT];
	struct tensor other;

	tensor_get(r, &other);
	if (r->bad || r->left > 0 || !tensor_same(&other, &claim->tensor)
	    || tensor_alike(&other, &claim->tensor))
		return no_sense(claim);
	return error_set(FTMEM_EINVAL,
	                 "tensor \"%s\" is registered here as %s and on another rank as %s: give "
	                 "it one shape and element size on all ranks, or another name",
	                 claim->tensor.name, tensor_text(&claim->tensor, here),
	                 tensor_text(&other, there));
}

static int read_many(const struct match_claim *claim, const struct bytes_reader *r)
{
	if (r->left > 0)
		return no_sense(claim);
	return error_set(FTMEM_EINVAL,
	                 "the boxes of tensor \"%s\" overlap too much: in more than %u cells, or "
	                 "each other too often; register boxes that are equal, or do not overlap, "
	                 "on all ranks",
	                 claim->tensor.name, MATCH_CELLS_MAX);
}

/* The cell as the rank of that index sees it; false: it makes no sense. */
static bool read_cell(const struct match_claim *claim, struct bytes_reader *r, uint32_t index,
                      uint32_t ranks, struct match_cell *cell)
{
	uint32_t base, share, first, takers, turn;

	box_get(r, claim->tensor.ndim, &cell->box);
	cell->holders = bytes_get_u32(r);
	base = bytes_get_u32(r);
	cell->shares = bytes_get_u32(r);
	share = bytes_get_u32(r);
	first = bytes_get_u32(r);
	takers = bytes_get_u32(r);
	if (r->bad || !box_contains(&claim->box, &cell->box) || ranks > cell->holders
	    || base > cell->holders - ranks || cell->shares == 0 || cell->shares > cell->holders
	    || cell->shares > box_count(&cell->box) || first >= ranks || takers > ranks
	    || takers > cell->shares || share > cell->shares - takers)
		return false;
	cell->ordinal = base + index;
	turn = index >= first ? index - first : ranks - first + index;
	cell->share = turn < takers ? share + turn : UINT32_MAX;
	return true;
}

static int read_cells(const struct match_claim *claim, struct bytes_reader *r, uint32_t index,
                      struct match_cell **cells, uint32_t *count)
{
	uint64_t each = 2 * sizeof(uint64_t) * claim->tensor.ndim + 6 * sizeof(uint32_t);
	uint64_t left = box_count(&claim->box);
	uint32_t ranks = bytes_get_u32(r), n = bytes_get_u32(r);
	struct match_cell *cell;

	if (r->bad || index >= ranks || n == 0 || n != r->left / each || r->left % each > 0)
		return no_sense(claim);
	cell = malloc(n * sizeof(*cell));
	if (!cell)
		return error_set(FTMEM_ENOMEM, "no memory for %u cells of tensor \"%s\"", n,
		                 claim->tensor.name);
	for (uint32_t i = 0; i < n; i++) {
		if (!read_cell(claim, r, index, ranks, &cell[i]) || box_count(&cell[i].box) > left)
			goto fail;
		left -= box_count(&cell[i].box);
	}
	if (left > 0)
		goto fail;
	*cells = cell;
	*count = n;
	return FTMEM_OK;
fail:
	free(cell);
	return no_sense(claim);
}

int match_read(const struct match_claim *claim, const uint8_t *answer, uint32_t bytes,
               uint32_t index, struct match_cell **cells, uint32_t *count)
{
	struct bytes_reader r = {.at = answer, .left = bytes};

	if (bytes == 0)
		return error_set(FTMEM_ENOMEM,
		                 "the rank that matches the claims of tensor \"%s\" had no memory "
		                 "for it",
		                 claim->tensor.name);
	switch (bytes_get_u32(&r)) {
	case MATCH_CELLS: return read_cells(claim, &r, index, cells, count);
	case MATCH_UNLIKE: return read_unlike(claim, &r);
	case MATCH_MANY: return read_many(claim, &r);
	default: return no_sense(claim);
	}
}

uint32_t match_share(const struct match_cell *cell, struct box out[BOX_RANGE_MAX])
{
	if (cell->share >= cell->shares)
		return 0;
	return box_range(&cell->box, box_cut(&cell->box, cell->share, cell->shares),
	                 box_cut(&cell->box, (uint64_t)cell->share + 1, cell->shares), out);
}
