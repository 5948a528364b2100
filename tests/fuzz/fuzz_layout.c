/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A stored layout of any bytes: what layout_parse() accepts is a set of regions that could
 * have been registered, and is written again as the same bytes. The first byte of the input
 * says whether sizes that follow from the rest are made to fit.
 */
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "fuzz.h"
#include "layout_impl.h"
#include "tensor.h"

#define BLOB_MAX    16384u
#define REGIONS_MAX 48u
#define PIECES_MAX  96u

enum { SIZES_FIT = 1, DATA_FITS = 2, MORE_BEHIND = 4 };

static uint64_t end_of(const struct layout_piece *p)
{
	return blob_round_up(p->offset + p->bytes, LAYOUT_ALIGN);
}

static void check_places(const struct layout *l)
{
	uint64_t at = l->blob_bytes, bytes = 0;

	FUZZ_REQUIRE(l->blob_bytes % LAYOUT_ALIGN == 0 && l->data_bytes <= 2 * REGION_DATA_MAX);
	for (uint32_t i = 0; i < l->pieces; i++) {
		const struct layout_piece *p = &l->piece[i];
		const struct region *r = &l->region[p->region];

		FUZZ_REQUIRE(p->region < l->regions && p->box.ndim == r->box.ndim);
		FUZZ_REQUIRE(p->offset == at && p->bytes > 0);
		at = end_of(p);
		if (r->box.ndim == 0)
			FUZZ_REQUIRE(p->bytes == r->bytes);
		else
			FUZZ_REQUIRE(box_contains(&r->box, &p->box)
			             && p->bytes == box_count(&p->box) * r->elem_bytes);
		for (uint32_t j = 0; j < i; j++) {
			struct box common;

			FUZZ_REQUIRE(l->piece[j].region != p->region
			             || !box_intersect(&l->piece[j].box, &p->box, &common));
		}
	}
	for (uint32_t i = 0; i < l->regions; i++)
		bytes += l->region[i].bytes;
	FUZZ_REQUIRE(at == l->data_bytes && bytes == l->region_bytes);
}

/* As a trainer would register it. */
static void add_region(struct region_set *set, const struct region *from)
{
	struct ftmem_region r = FTMEM_REGION_INIT;

	r.name = from->name;
	r.addr = (void *)(uintptr_t)64;
	r.bytes = from->bytes;
	r.elem_bytes = from->elem_bytes;
	r.ndim = from->box.ndim;
	for (uint32_t d = 0; d < from->box.ndim; d++) {
		r.shape[d] = from->shape[d];
		r.start[d] = from->box.start[d];
		r.extent[d] = from->box.extent[d];
	}
	FUZZ_REQUIRE(region_set_add(set, &r, DEVICE_HOST) == 0);
}

static void check_written_again(const struct layout *l, const uint8_t *blob)
{
	struct layout_piece *piece = calloc(l->pieces + 1, sizeof(*piece));
	struct region_set *set = NULL;
	struct layout *again = NULL;
	uint32_t boxes = 0;

	FUZZ_REQUIRE(piece != NULL && region_set_new(&set) == 0);
	for (uint32_t i = 0; i < l->regions; i++)
		add_region(set, &l->region[i]);
	for (uint32_t i = 0; i < l->pieces; i++)
		if (l->piece[i].box.ndim > 0)
			piece[boxes++] = l->piece[i];
	FUZZ_REQUIRE(layout_freeze(set, &again) == 0);
	FUZZ_REQUIRE(layout_settle(again, piece, boxes) == 0);
	FUZZ_REQUIRE(again->blob_bytes == l->blob_bytes && again->digest == l->digest);
	FUZZ_REQUIRE(l->blob_bytes == 0 || memcmp(again->blob, blob, l->blob_bytes) == 0);
	layout_free(again);
	region_set_free(set);
	free(piece);
}

/* The size of the data that regions and pieces call for, if they are good. */
static uint64_t data_of(const uint8_t *blob, uint64_t bytes, const struct blob_head *head)
{
	struct bytes_reader r = {.at = blob + sizeof(*head), .left = bytes - sizeof(*head)};
	uint64_t region_bytes[REGIONS_MAX] = {0}, at = head->blob_bytes;
	uint32_t elem[REGIONS_MAX] = {0}, ndim[REGIONS_MAX] = {0};

	for (uint32_t i = 0; i < head->regions; i++) {
		uint32_t name;

		region_bytes[i] = bytes_get_u64(&r);
		elem[i] = bytes_get_u32(&r);
		ndim[i] = bytes_get_u32(&r);
		name = bytes_get_u32(&r);
		bytes_get(&r, 4 + (uint64_t)ndim[i] * 24
		                      + blob_round_up(name + UINT64_C(1), BLOB_ALIGN));
	}
	for (uint32_t i = 0; i < head->pieces && !r.bad; i++) {
		uint32_t region = bytes_get_u32(&r) % REGIONS_MAX;
		uint64_t size = elem[region];

		bytes_get_u32(&r);
		bytes_get(&r, ndim[region] * UINT64_C(8));
		for (uint32_t d = 0; d < ndim[region] && !r.bad; d++)
			size *= bytes_get_u64(&r);
		at = blob_round_up(at + (ndim[region] ? size : region_bytes[region]), LAYOUT_ALIGN);
	}
	return at;
}

/* Makes the sizes in the head those that it would have if the rest is good. */
static void fit_sizes(uint8_t *blob, uint64_t bytes, uint8_t how)
{
	struct blob_head head;

	if (bytes < sizeof(head))
		return;
	memcpy(&head, blob, sizeof(head));
	if (how & SIZES_FIT)
		head.blob_bytes = bytes;
	head.regions %= REGIONS_MAX;
	head.pieces %= PIECES_MAX;
	if (how & DATA_FITS)
		head.data_bytes = data_of(blob, bytes, &head);
	memcpy(blob, &head, sizeof(head));
}

/* Tensor and box as other ranks send them: what is taken is written as it came. */
static void read_tensor(const uint8_t *data, uint64_t bytes)
{
	struct bytes_reader r = {.at = data, .left = bytes};
	char text[TENSOR_TEXT], where[BOX_TEXT];
	struct bytes again = {0};
	struct tensor t;
	struct box box;

	tensor_get(&r, &t);
	box_get(&r, t.ndim, &box);
	if (r.bad)
		return;
	FUZZ_REQUIRE(tensor_put(&again, &t) == 0 && box_put(&again, &box) == 0);
	FUZZ_REQUIRE(again.size == bytes - r.left && memcmp(again.at, data, again.size) == 0);
	FUZZ_REQUIRE(strlen(tensor_text(&t, text)) < TENSOR_TEXT);
	FUZZ_REQUIRE(strlen(box_text(&box, where)) < BOX_TEXT);
	for (uint64_t shares = 1; shares < 6; shares++) {
		uint64_t before = 0;

		for (uint64_t i = 0; i <= shares; i++) {
			struct box part[BOX_RANGE_MAX];
			uint64_t cut = box_cut(&box, i, shares), elements = 0;
			uint32_t n;

			FUZZ_REQUIRE(cut >= before && cut <= box_count(&box));
			n = box_range(&box, before, cut, part);
			for (uint32_t p = 0; p < n; p++)
				elements += box_count(&part[p]);
			FUZZ_REQUIRE(n <= BOX_RANGE_MAX && elements == cut - before);
			before = cut;
		}
		FUZZ_REQUIRE(before == box_count(&box));
	}
	bytes_deinit(&again);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed)
{
	return fuzz_mutate(data, size, size_max, seed, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	uint8_t how = fuzz_u8(&in), *blob;
	uint64_t bytes = fuzz_least(in.left, BLOB_MAX), behind = how & MORE_BEHIND ? 5 : 0;
	struct layout *l = NULL;
	int rc;

	read_tensor(in.at, in.left);
	if (how & SIZES_FIT)
		bytes = blob_round_up(bytes, LAYOUT_ALIGN);
	blob = fuzz_copy(&in, bytes + behind);
	fit_sizes(blob, bytes, how);
	rc = layout_parse(blob, bytes + behind, &l);
	FUZZ_REQUIRE((rc == 0) == (l != NULL));
	FUZZ_REQUIRE(rc == 0 || rc == FTMEM_ECORRUPT);
	if (l) {
		check_places(l);
		check_written_again(l, blob);
	}
	layout_free(l);
	free(blob);
	return 0;
}

struct seed {
	struct region_set *set;
	struct layout *layout;
	struct layout_piece piece[8];
	uint32_t pieces;
};

static void seed_region(struct seed *s, const char *name, uint64_t bytes, uint32_t ndim,
                        uint64_t side, uint64_t start, uint64_t extent)
{
	struct ftmem_region r = FTMEM_REGION_INIT;
	uint64_t count = 4;

	r.name = name;
	r.addr = s;
	r.ndim = ndim;
	r.elem_bytes = ndim ? 4 : 0;
	for (uint32_t d = 0; d < ndim; d++) {
		r.shape[d] = side;
		r.start[d] = start;
		r.extent[d] = extent;
		count *= extent;
	}
	r.bytes = ndim ? count : bytes;
	FUZZ_REQUIRE(region_set_add(s->set, &r, DEVICE_HOST) == 0);
}

static void seed_write(struct seed *s, const char *dir, const char *name)
{
	uint8_t input[1 + 4096] = {SIZES_FIT | DATA_FITS};
	struct layout *l = NULL;

	FUZZ_REQUIRE(layout_freeze(s->set, &l) == 0);
	FUZZ_REQUIRE((s->pieces ? layout_settle(l, s->piece, s->pieces) : layout_settle_whole(l))
	             == 0);
	memcpy(input + 1, l->blob, l->blob_bytes);
	fuzz_seed(dir, name, input, 1 + l->blob_bytes);
	layout_free(l);
	region_set_free(s->set);
}

static void seed_tensor(const char *dir)
{
	struct tensor t = {.name = "w", .home = TENSOR_GLOBAL, .elem_bytes = 2, .ndim = 3,
	                   .shape = {7, 1000, 3}};
	struct box box = {.ndim = 3, .start = {1, 10, 0}, .extent = {6, 990, 3}};
	struct bytes b = {0};

	FUZZ_REQUIRE(bytes_put(&b, "", 1) == 0 && tensor_put(&b, &t) == 0);
	FUZZ_REQUIRE(box_put(&b, &box) == 0);
	fuzz_seed(dir, "tensor", b.at, b.size);
	bytes_deinit(&b);
}

void fuzz_seeds(const char *dir)
{
	struct seed s = {0};

	FUZZ_REQUIRE(region_set_new(&s.set) == 0);
	seed_region(&s, "rng", 100, 0, 0, 0, 0);
	seed_region(&s, "step", 8, 0, 0, 0, 0);
	seed_write(&s, dir, "private");
	FUZZ_REQUIRE(region_set_new(&s.set) == 0);
	seed_region(&s, "rng", 100, 0, 0, 0, 0);
	seed_region(&s, "weight", 0, 2, 16, 4, 8);
	seed_region(&s, "weight", 0, 2, 16, 0, 4);
	seed_region(&s, "cube", 0, 8, 3, 1, 2);
	seed_write(&s, dir, "boxes");
	FUZZ_REQUIRE(region_set_new(&s.set) == 0);
	seed_region(&s, "weight", 0, 2, 16, 4, 8);
	seed_region(&s, "rng", 100, 0, 0, 0, 0);
	for (uint32_t i = 0; i < 4; i++)
		s.piece[s.pieces++] = (struct layout_piece){
			.box = {.ndim = 2, .start = {4 + 2 * i, 5}, .extent = {2, 3 + i}}};
	seed_write(&s, dir, "shares");
	seed_tensor(dir);
}
