/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An oracle says of each byte of a slot's data where it comes from, by the layout's boxes
 * and indices alone. No test reads or writes what is said to be on a device.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "copy_bands.h"
#include "error.h"
#include "test_boxes.h"

#define MIB (UINT64_C(1) << 20)

/* Where a byte of the slot's data comes from. */
struct origin {
	const uint8_t *addr; /* NULL: from no region; then of host memory if it is the blob's */
	int device;
	uint32_t region;
	bool blob;
	uint32_t runs; /* that bring it */
};

struct world {
	struct test_layout t;
	struct rail rail;
	uint32_t member;
	struct copy_plan *plan;
	struct origin *origin; /* [data_bytes] */
};

/* --- the oracle --- */

static void origin_of_piece(struct world *w, const struct layout_piece *p)
{
	const struct region *r = &w->t.layout.region[p->region];
	const uint8_t *addr = r->addr;

	for (uint64_t i = 0; i < p->bytes; i++) {
		struct origin *o = &w->origin[p->offset + i];
		uint64_t at = i;

		if (r->box.ndim > 0)
			at = test_boxes_at(&r->box, &p->box, i / r->elem_bytes) * r->elem_bytes
			     + i % r->elem_bytes;
		o->addr = addr + at;
		o->device = r->device;
		o->region = p->region;
	}
}

static void world_plan(struct world *w, uint32_t n, uint32_t m, uint32_t block_bytes)
{
	const struct layout *l = &w->t.layout;

	w->rail = test_layout_rail(&w->t, n, m, block_bytes);
	w->member = n > 1;
	assert_int_equal(copy_plan_new(l, &w->rail, w->member, &w->plan), 0);
	w->origin = calloc(l->data_bytes + 1, sizeof(*w->origin));
	assert_non_null(w->origin);
	for (uint64_t i = 0; i < l->blob_bytes; i++)
		w->origin[i] = (struct origin){.device = DEVICE_HOST, .blob = true};
	for (uint32_t i = 0; i < l->pieces; i++)
		origin_of_piece(w, &l->piece[i]);
}

static void world_deinit(struct world *w)
{
	copy_plan_free(w->plan);
	free(w->origin);
	test_layout_deinit(&w->t);
}

static const int devices[] = {DEVICE_HOST, 0, 2, DEVICE_MAX - 1};

/* Of the first `kinds` devices above; mostly neighbours of the same. */
static void world_random(struct world *w, uint32_t kinds, uint64_t *random)
{
	uint32_t count = test_random_below(random, 12), n, m, kind = 0;
	uint32_t boxes = count == 0 ? 1 : test_random_below(random, 8);
	uint64_t bytes[12];

	memset(w, 0, sizeof(*w));
	for (uint32_t i = 0; i < count; i++)
		bytes[i] = 1 + test_random_below(random, 1u << test_random_below(random, 16));
	/* Without padding between them, regions can be neighbours in the slot. */
	for (uint32_t i = 0; i < count && test_random_below(random, 2); i++)
		bytes[i] = test_layout_align(bytes[i]);
	n = 1 + test_random_below(random, 6);
	m = n > 1 ? 1 + test_random_below(random, n - 1) : 0;
	test_boxes_init(&w->t, bytes, count, boxes, 3000, random);
	for (uint32_t i = 0; i < w->t.layout.regions; i++) {
		if (i == 0 || test_random_below(random, 3) == 0)
			kind = test_random_below(random, kinds);
		w->t.layout.region[i].device = devices[kind];
	}
	world_plan(w, n, m, 4096 * (1 + test_random_below(random, 3)));
}

static uint64_t random_band(const struct world *w, uint64_t *random)
{
	uint64_t row = (uint64_t)rail_k(&w->rail) * w->rail.block_bytes;

	switch (test_random_below(random, 5)) {
	case 0: return 0;
	case 1: return UINT64_MAX;
	case 2: return row;
	default: return test_random_below(random, (uint32_t)(8 * row));
	}
}

/* Of the block that a byte of the slot's data is in. */
static uint32_t index_of(const struct world *w, uint64_t offset)
{
	uint64_t chunk_bytes = rail_chunk_bytes(&w->rail, w->member);

	return copy_plan_index(&w->rail, w->member, (uint32_t)(offset / chunk_bytes),
	                       (uint32_t)(offset % chunk_bytes / w->rail.block_bytes));
}

/* --- what must hold --- */

static void assert_run(struct world *w, const struct band_run *run, int device, uint32_t from,
                       uint32_t to)
{
	assert_true(run->bytes > 0);
	assert_true(run->offset < w->t.layout.data_bytes);
	assert_true(run->bytes <= w->t.layout.data_bytes - run->offset);
	for (uint64_t i = 0; i < run->bytes; i++) {
		struct origin *o = &w->origin[run->offset + i];
		uint32_t index = index_of(w, run->offset + i);

		if (o->addr != run->addr + i || o->device != device
		    || o->region != w->origin[run->offset].region || o->runs++ > 0)
			fail_msg("byte %llu", (unsigned long long)(run->offset + i));
		assert_true(index >= from && index < to);
	}
}

static void assert_part(struct world *w, const struct copy_bands *b, const struct band_part *part,
                        uint32_t from, uint32_t to)
{
	uint64_t bytes = 0, stage_bytes = 0;

	assert_true(part->count > 0);
	for (uint32_t i = part->first; i < part->first + part->count; i++) {
		const struct band_run *run = &b->run[i], *before = run - 1;

		assert_run(w, run, part->device, from, to);
		bytes += run->bytes;
		stage_bytes += run->bytes;
		while (stage_bytes % BAND_ALIGN)
			stage_bytes++;
		if (i == part->first)
			continue;
		assert_true(run->offset >= before->offset + before->bytes);
		/* Neighbours of a region are one run. */
		assert_true(run->offset != before->offset + before->bytes
		            || run->addr != before->addr + before->bytes
		            || w->origin[run->offset].region != w->origin[before->offset].region);
	}
	assert_int_equal(part->bytes, bytes);
	assert_int_equal(part->stage_bytes, stage_bytes);
}

/* Of the band of that number, in rows of so many bytes. */
static uint64_t rows_of_band(uint32_t number, uint64_t band_bytes, uint64_t row_bytes)
{
	uint64_t bytes = number < 4 ? band_bytes / (UINT64_C(16) >> number) : band_bytes;
	uint64_t rows = bytes / row_bytes + (bytes % row_bytes > 0);

	return rows > 0 ? rows : 1;
}

/* Bands tile the plan, parts the bands, runs the parts. */
static void assert_bands(struct world *w, const struct copy_bands *b, uint64_t band_bytes)
{
	uint32_t chunks = rail_k(&w->rail), blocks = w->plan->blocks, from = 0, parts = 0, runs = 0;
	uint64_t row_bytes = 0;

	if (blocks > 0)
		row_bytes = (uint64_t)chunks * rail_data_len(&w->rail, w->member, 0, 0);
	for (uint32_t i = 0; i < b->bands; i++) {
		const struct band *band = &b->band[i];
		uint64_t rows = rows_of_band(i, band_bytes, row_bytes);
		uint64_t end = from + rows * chunks;

		assert_true(from < blocks);
		assert_int_equal(band->block_end, rows > blocks || end > blocks ? blocks : end);
		assert_int_equal(band->first, parts);
		for (uint32_t p = parts; p < parts + band->count; p++) {
			assert_true(p == parts || b->part[p - 1].device < b->part[p].device);
			assert_int_equal(b->part[p].first, runs);
			assert_part(w, b, &b->part[p], from, band->block_end);
			runs += b->part[p].count;
		}
		parts += band->count;
		from = band->block_end;
	}
	assert_int_equal(from, blocks);
	assert_int_equal(parts, b->parts);
	assert_int_equal(runs, b->runs);
}

static void assert_all_brought(struct world *w, const struct copy_bands *b)
{
	uint64_t bytes = 0;
	bool held[DEVICE_MAX] = {0};
	uint32_t count = 0;

	for (uint64_t i = 0; i < w->t.layout.data_bytes; i++) {
		struct origin *o = &w->origin[i];
		bool on_device = o->addr && o->device != DEVICE_HOST;

		assert_int_equal(o->runs, on_device);
		bytes += on_device;
		if (on_device)
			held[o->device] = true;
		o->runs = 0;
	}
	assert_int_equal(b->device_bytes, bytes);
	for (int device = 0; device < DEVICE_MAX; device++)
		if (held[device])
			assert_int_equal(b->device[count++], device);
	assert_int_equal(b->devices, count);
}

static void assert_early(const struct world *w, const struct copy_bands *b)
{
	uint32_t early = 0;

	for (uint32_t i = 0; i < w->plan->blocks; i++) {
		const struct copy_block *block = &w->plan->block[i];
		bool host = false;

		for (uint64_t at = block->offset; at < block->offset + block->bytes; at++) {
			const struct origin *o = &w->origin[at];

			host = host || o->blob || (o->addr && o->device == DEVICE_HOST);
		}
		if (host) {
			assert_true(early < b->earlies);
			assert_int_equal(b->early[early++], i);
		}
	}
	assert_int_equal(b->earlies, early);
}

static struct copy_bands *bands_of(const struct copy_plan *plan, uint64_t band_bytes)
{
	struct copy_bands *b = NULL;

	assert_int_equal(copy_bands_new(plan, band_bytes, &b), 0);
	assert_non_null(b);
	return b;
}

/* --- bands --- */

static void each_device_byte_is_in_one_run_of_its_band(void **state)
{
	uint64_t random = test_random_seed(__func__);

	(void)state;
	for (uint32_t round = 0; round < 150; round++) {
		struct world w;

		world_random(&w, 1 + round % 4, &random);
		for (uint32_t i = 0; i < 3; i++) {
			uint64_t band_bytes = random_band(&w, &random);
			struct copy_bands *b = bands_of(w.plan, band_bytes);

			assert_bands(&w, b, band_bytes);
			assert_all_brought(&w, b);
			assert_early(&w, b);
			copy_bands_free(b);
		}
		world_deinit(&w);
	}
}

static void no_blocks_are_no_bands(void **state)
{
	struct world w = {0};
	struct copy_bands *b;

	(void)state;
	test_layout_init(&w.t, NULL, 0, 0, NULL);
	world_plan(&w, 3, 1, 4096);
	b = bands_of(w.plan, MIB);
	assert_int_equal(b->bands, 0);
	assert_int_equal(b->parts, 0);
	assert_int_equal(b->runs, 0);
	assert_int_equal(b->earlies, 0);
	assert_int_equal(b->devices, 0);
	assert_int_equal(copy_bands_split(b, 0, 0, UINT64_MAX), 0);
	copy_bands_free(b);
	copy_bands_free(NULL);
	world_deinit(&w);
}

/* One region on a device, in rows of three blocks; the blob is in the first block alone. */
static struct copy_bands *rows_of_three(struct world *w, uint32_t rows, uint64_t band_bytes)
{
	uint64_t bytes = (uint64_t)rows * 3 * 4096 - 256, random = 3;

	memset(w, 0, sizeof(*w));
	test_layout_init(&w->t, &bytes, 1, 0, &random);
	w->t.layout.region[0].device = 2;
	world_plan(w, 4, 1, 4096);
	assert_int_equal(w->plan->blocks, 3 * rows);
	return bands_of(w->plan, band_bytes);
}

static void rows_of_a_chunk_are_one_run(void **state)
{
	struct world w;
	struct copy_bands *b = rows_of_three(&w, 8, 8 * 3 * 4096);

	(void)state;
	/* One, one, two and four rows. */
	assert_int_equal(b->bands, 4);
	assert_int_equal(b->runs, 12);
	assert_int_equal(b->run[0].offset, 256);
	assert_int_equal(b->run[0].bytes, 4096 - 256);
	assert_int_equal(b->run[6].offset, 2 * 4096);
	assert_int_equal(b->run[6].bytes, 2 * 4096);
	assert_int_equal(b->run[9].offset, 4 * 4096);
	assert_int_equal(b->run[9].bytes, 4 * 4096);
	assert_ptr_equal(b->run[9].addr, w.t.memory + 4 * 4096 - 256);
	assert_int_equal(b->run[10].offset, 12 * 4096);
	assert_int_equal(b->earlies, 1);
	assert_int_equal(b->early[0], 0);
	copy_bands_free(b);
	world_deinit(&w);
}

static void the_first_bands_are_small(void **state)
{
	static const uint32_t end[] = {1, 3, 7, 15, 31, 47, 60};
	struct world w;
	struct copy_bands *b = rows_of_three(&w, 60, 16 * 3 * 4096);

	(void)state;
	assert_int_equal(b->bands, sizeof(end) / sizeof(end[0]));
	for (uint32_t i = 0; i < b->bands; i++)
		assert_int_equal(b->band[i].block_end, 3 * end[i]);
	copy_bands_free(b);
	/* A row at least. */
	b = bands_of(w.plan, 3 * 4096);
	assert_int_equal(b->bands, 60);
	copy_bands_free(b);
	/* Bytes of a part of a row are one: no more bands than asked for. */
	b = bands_of(w.plan, 3 * 4096 * 19 / 10);
	assert_int_equal(b->bands, 4 + 28);
	copy_bands_free(b);
	world_deinit(&w);
}

static void a_device_finds_its_part_of_a_band(void **state)
{
	uint64_t random = 12;

	(void)state;
	for (uint32_t round = 0; round < 20; round++) {
		struct copy_bands *b;
		struct world w;

		world_random(&w, 4, &random);
		b = bands_of(w.plan, 20000);
		for (uint32_t band = 0; band < b->bands; band++) {
			const struct band *in = &b->band[band];
			uint32_t found = 0;

			for (int device = 0; device < DEVICE_MAX; device++) {
				const struct band_part *part = copy_bands_part(b, band, device);

				if (!part)
					continue;
				assert_ptr_equal(part, &b->part[in->first + found++]);
				assert_int_equal(part->device, device);
			}
			assert_int_equal(found, in->count);
		}
		copy_bands_free(b);
		world_deinit(&w);
	}
}

/* The state of GPT-2 XL under Adam at addresses that nobody may touch: what 75,000
 * blocks hold is told in little more runs than there are tensors. */
static void twenty_gigabytes_are_few_runs(void **state)
{
	enum { COUNT = 1743 };
	uint64_t *bytes = calloc(COUNT, sizeof(*bytes)), total = 0, random = 4;
	struct test_layout t;
	struct layout *l = &t.layout;
	struct copy_plan *plan;
	struct copy_bands *b;
	struct rail r;

	(void)state;
	assert_non_null(bytes);
	for (uint32_t i = 0; i < COUNT; i++)
		bytes[i] = 64;
	test_layout_init(&t, bytes, COUNT, 0, &random);
	l->data_bytes = test_layout_align(l->blob_bytes);
	for (uint32_t i = 0; i < COUNT; i++) {
		uint64_t size = i % 2 ? 6400 + 64 * i : 22 * MIB + 512 * i;

		l->region[i].addr = (void *)(uintptr_t)((i + 1) * (UINT64_C(1) << 30));
		l->region[i].bytes = l->piece[i].bytes = size;
		l->region[i].device = 0;
		l->piece[i].offset = l->data_bytes;
		l->data_bytes += size;
		total += size;
	}
	r = test_layout_rail(&t, 8, 1, 256 << 10);
	assert_int_equal(copy_plan_new(l, &r, 1, &plan), 0);
	assert_true(plan->blocks > 75000);
	b = bands_of(plan, 256 * MIB);
	assert_int_equal(b->device_bytes, total);
	assert_true(b->bands > 70);
	/* Each end of a run is one of a tensor, or of a chunk's part of a band. */
	assert_true(b->runs <= COUNT + b->bands * plan->chunks);
	copy_bands_free(b);
	copy_plan_free(plan);
	test_layout_deinit(&t);
	free(bytes);
}

static void says_so_when_memory_runs_out(void **state)
{
	uint64_t random = 5;
	struct copy_bands *b = NULL;
	int rc = FTMEM_ENOMEM;
	struct world w;
	unsigned n;

	(void)state;
	world_random(&w, 4, &random);
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = copy_bands_new(w.plan, MIB, &b);
		alloc_fail_off();
		assert_true((rc == 0) == (b != NULL));
	}
	assert_int_equal(rc, 0);
	assert_int_equal(n - 2, 5);
	copy_bands_free(b);
	world_deinit(&w);
}

/* --- what to stage --- */

static bool splits(const struct copy_bands *b, int device, uint32_t split, uint64_t direct_bytes,
                   uint64_t room)
{
	uint64_t direct = 0, stage = 0;

	for (uint32_t i = 0; i < b->bands; i++)
		for (uint32_t p = b->band[i].first; p < b->band[i].first + b->band[i].count; p++) {
			if (b->part[p].device != device)
				continue;
			direct += i < split ? b->part[p].bytes : 0;
			stage += i < split ? 0 : b->part[p].stage_bytes;
		}
	return direct >= direct_bytes && stage <= room;
}

static uint64_t near(uint64_t value, uint64_t *random)
{
	uint64_t off = test_random_below(random, 3);

	return off == 0 && value > 0 ? value - 1 : off == 1 ? value + 1 : value;
}

/* Sums of some bands, or next to them. */
static uint64_t random_sum(const struct copy_bands *b, int device, bool from_end, uint64_t *random)
{
	uint32_t bands = test_random_below(random, b->bands + 1);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < b->parts; i++) {
		bool in = from_end
		                  ? b->bands - bands > 0 && i >= b->band[b->bands - bands - 1].first
		                  : bands < b->bands && i < b->band[bands].first;

		if (in && b->part[i].device == device)
			sum += from_end ? b->part[i].stage_bytes : b->part[i].bytes;
	}
	return near(sum, random);
}

static void as_many_bands_are_staged_as_may_be(void **state)
{
	uint64_t random = test_random_seed(__func__);
	uint32_t some = 0;

	(void)state;
	for (uint32_t round = 0; round < 200; round++) {
		struct copy_bands *b;
		struct world w;

		world_random(&w, 2 + round % 3, &random);
		b = bands_of(w.plan, test_random_below(&random, 60000));
		for (uint32_t i = 0; i < 20; i++) {
			int device = devices[1 + test_random_below(&random, 3)];
			uint64_t direct = random_sum(b, device, false, &random);
			uint64_t room = random_sum(b, device, true, &random);
			uint32_t want = 0;

			if (i == 0)
				room = UINT64_MAX;
			if (i == 1)
				direct = 0;
			while (want < b->bands && !splits(b, device, want, direct, room))
				want++;
			assert_int_equal(copy_bands_split(b, device, direct, room), want);
			some += want > 0 && want < b->bands;
		}
		copy_bands_free(b);
		world_deinit(&w);
	}
	assert_true(some > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_device_byte_is_in_one_run_of_its_band),
		cmocka_unit_test(no_blocks_are_no_bands),
		cmocka_unit_test(rows_of_a_chunk_are_one_run),
		cmocka_unit_test(the_first_bands_are_small),
		cmocka_unit_test(a_device_finds_its_part_of_a_band),
		cmocka_unit_test(twenty_gigabytes_are_few_runs),
		cmocka_unit_test(says_so_when_memory_runs_out),
		cmocka_unit_test(as_many_bands_are_staged_as_may_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
