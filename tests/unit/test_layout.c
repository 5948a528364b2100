/* SPDX-License-Identifier: BSD-3-Clause */
/* Linked with --wrap=malloc,calloc,realloc and alloc_fail.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "checksum.h"
#include "error.h"
#include "layout_fixture.h"
#include "test_random.h"
#include "util/alloc_fail.h"

static void assert_same(const struct layout *a, const struct layout *b)
{
	assert_int_equal(a->regions, b->regions);
	assert_int_equal(a->pieces, b->pieces);
	assert_int_equal(a->blob_bytes, b->blob_bytes);
	assert_int_equal(a->data_bytes, b->data_bytes);
	assert_int_equal(a->region_bytes, b->region_bytes);
	assert_int_equal(a->digest, b->digest);
	for (uint32_t i = 0; i < a->regions; i++) {
		const struct region *r = &a->region[i], *q = &b->region[i];

		assert_string_equal(r->name, q->name);
		assert_int_equal(r->bytes, q->bytes);
		assert_int_equal(r->elem_bytes, q->elem_bytes);
		assert_memory_equal(r->shape, q->shape, sizeof(r->shape));
		assert_memory_equal(&r->box, &q->box, sizeof(r->box));
	}
	for (uint32_t i = 0; i < a->pieces; i++) {
		const struct layout_piece *p = &a->piece[i], *q = &b->piece[i];

		assert_int_equal(p->region, q->region);
		assert_int_equal(p->offset, q->offset);
		assert_int_equal(p->bytes, q->bytes);
		assert_memory_equal(&p->box, &q->box, sizeof(p->box));
	}
}

static void freezing_takes_the_regions_and_decides_nothing(void **state)
{
	struct layout *l = layout_of(set_of_three());

	(void)state;
	assert_int_equal(l->regions, 3);
	assert_string_equal(l->region[0].name, "w");
	assert_ptr_equal(l->region[0].addr, memory);
	assert_string_equal(l->region[1].name, "box");
	assert_int_equal(l->region[1].box.start[1], 5);
	assert_string_equal(l->region[2].name, "sevenby");
	assert_ptr_equal(l->region[2].addr, memory + 100);
	assert_int_equal(l->region_bytes, 125);
	assert_int_equal(l->pieces, 0);
	assert_null(l->piece);
	assert_null(l->blob);
	layout_free(l);
}

/* Where its memory lies is the rank's own affair: what is stored does not say it. */
static void a_layout_knows_devices_but_does_not_store_them(void **state)
{
	struct layout *host = layout_of_three(), *l, *parsed;
	struct region_set *set;
	struct ftmem_region r = box();

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(add_bytes(set, "w", memory, 100), FTMEM_OK);
	assert_int_equal(region_set_add(set, &r, 7), FTMEM_OK);
	assert_int_equal(add_bytes(set, "sevenby", memory + 100, 1), FTMEM_OK);
	l = layout_of(set);
	assert_int_equal(layout_settle_whole(l), FTMEM_OK);
	assert_int_equal(l->region[0].device, DEVICE_HOST);
	assert_int_equal(l->region[1].device, 7);
	assert_int_equal(l->region[2].device, DEVICE_HOST);
	assert_int_equal(l->digest, host->digest);
	assert_int_equal(parse_copy(l->blob, l->blob_bytes, &parsed), FTMEM_OK);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(parsed->region[i].device, DEVICE_HOST);
	layout_free(parsed);
	layout_free(l);
	layout_free(host);
}

static void parts_of_the_data_follow_each_other_aligned(void **state)
{
	struct layout *l = layout_of_three();

	(void)state;
	assert_int_equal(l->pieces, 3);
	/* 32 + (24 + 8) + (24 + 48 + 8) + (24 + 8) + 8 + (8 + 32) + 8, rounded up */
	assert_int_equal(l->blob_bytes, 256);
	assert_int_equal(l->piece[0].offset, 256);
	assert_int_equal(l->piece[0].bytes, 100);
	assert_int_equal(l->piece[1].offset, 256 + 128);
	assert_int_equal(l->piece[1].bytes, 24);
	assert_true(box_equal(&l->piece[1].box, &l->region[1].box));
	assert_int_equal(l->piece[2].offset, 256 + 128 + 64);
	assert_int_equal(l->piece[2].bytes, 1);
	assert_int_equal(l->data_bytes, 256 + 128 + 64 + 64);
	assert_int_equal(l->digest, digest_more(DIGEST_INIT, l->blob, l->blob_bytes));
	layout_free(l);
}

static void shares_are_stored_in_order_beside_what_is_private(void **state)
{
	struct layout *l = layout_in_shares();

	(void)state;
	assert_int_equal(l->regions, 4);
	assert_int_equal(l->pieces, 4);
	assert_int_equal(l->piece[0].region, 0);
	assert_int_equal(l->piece[0].box.ndim, 0);
	assert_int_equal(l->piece[1].region, 1);
	assert_int_equal(l->piece[1].box.start[0], 1);
	assert_int_equal(l->piece[1].bytes, 12);
	assert_int_equal(l->piece[2].region, 1);
	assert_int_equal(l->piece[2].box.start[0], 2);
	assert_int_equal(l->piece[2].bytes, 12);
	assert_int_equal(l->piece[2].offset, l->piece[1].offset + 64);
	assert_int_equal(l->piece[3].region, 2);
	assert_int_equal(l->piece[3].bytes, 1);
	assert_int_equal(l->data_bytes, l->blob_bytes + 128 + 64 + 64 + 64);
	assert_int_equal(l->region_bytes, 157);
	layout_free(l);
}

static void boxes_that_others_store_leave_only_the_blob(void **state)
{
	struct ftmem_region r = box();
	struct layout *l, *parsed;
	struct region_set *set;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	l = layout_of(set);
	assert_int_equal(layout_settle(l, NULL, 0), FTMEM_OK);
	assert_int_equal(l->pieces, 0);
	assert_non_null(l->piece);
	assert_int_equal(l->blob_bytes, 128);
	assert_int_equal(l->data_bytes, 128);
	assert_int_equal(parse_copy(l->blob, l->blob_bytes, &parsed), FTMEM_OK);
	assert_same(parsed, l);
	layout_free(parsed);
	layout_free(l);
}

static void blob_is_as_documented(void **state)
{
	/* clang-format off */
	static const uint8_t expected[256] = {
		'F', 'T', 'L', 'Y', 2, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0,
		0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0,
		/* "w": bytes, elem_bytes, ndim, name_bytes, reserved, name */
		100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		1, 0, 0, 0, 0, 0, 0, 0, 'w', 0, 0, 0, 0, 0, 0, 0,
		/* "box" with shape, start, extent */
		24, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0,
		3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
		8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
		5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
		3, 0, 0, 0, 0, 0, 0, 0, 'b', 'o', 'x', 0, 0, 0, 0, 0,
		/* "sevenby": its zero byte fills the word */
		1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		7, 0, 0, 0, 0, 0, 0, 0, 's', 'e', 'v', 'e', 'n', 'b', 'y', 0,
		/* pieces: region, reserved; start, extent */
		0, 0, 0, 0, 0, 0, 0, 0,
		1, 0, 0, 0, 0, 0, 0, 0,
		1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
		2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
		2, 0, 0, 0, 0, 0, 0, 0,
	};
	/* clang-format on */
	struct layout *l = layout_of_three();

	(void)state;
	assert_int_equal(l->blob_bytes, sizeof(expected));
	assert_memory_equal(l->blob, expected, sizeof(expected));
	layout_free(l);
}

static void digests_are_equal_if_regions_and_pieces_are(void **state)
{
	struct layout_piece whole = piece(1, 1, 3, 5, 8);
	struct layout *l = layout_of_three(), *other;
	struct region_set *set = set_of_three();

	(void)state;
	assert_int_equal(layout_freeze(set, &other), FTMEM_OK);
	assert_int_equal(layout_settle(other, &whole, 1), FTMEM_OK);
	assert_int_equal(other->digest, l->digest);
	layout_free(other);
	whole.box.extent[0] = 1;
	assert_int_equal(layout_freeze(set, &other), FTMEM_OK);
	assert_int_equal(layout_settle(other, &whole, 1), FTMEM_OK);
	assert_int_not_equal(other->digest, l->digest);
	layout_free(other);
	assert_int_equal(region_set_remove(set, "w"), FTMEM_OK);
	assert_int_equal(add_bytes(set, "w", memory, 100), FTMEM_OK);
	other = layout_of(set);
	assert_int_equal(layout_settle_whole(other), FTMEM_OK);
	assert_int_not_equal(other->digest, l->digest);
	layout_free(other);
	layout_free(l);
}

static void layout_of_nothing_is_no_bytes(void **state)
{
	struct layout *l, *parsed;
	struct region_set *set;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	l = layout_of(set);
	assert_int_equal(layout_settle_whole(l), FTMEM_OK);
	assert_int_equal(l->regions, 0);
	assert_int_equal(l->pieces, 0);
	assert_int_equal(l->data_bytes, 0);
	assert_int_equal(l->blob_bytes, 0);
	assert_int_equal(l->digest, DIGEST_INIT);
	assert_null(l->blob);
	assert_int_equal(layout_parse(NULL, 0, &parsed), FTMEM_OK);
	assert_same(parsed, l);
	layout_free(parsed);
	layout_free(l);
	layout_free(NULL);
}

static void sizes_beyond_all_memory_are_refused_together(void **state)
{
	struct region_set *set;
	struct layout *l;
	char name[16];
	uint32_t i;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(add_bytes(set, "a", memory, REGION_DATA_MAX / 2), FTMEM_OK);
	assert_int_equal(add_bytes(set, "b", memory, REGION_DATA_MAX / 2 - 4096), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &l), FTMEM_OK);
	assert_int_equal(layout_settle_whole(l), FTMEM_OK);
	layout_free(l);
	/* the regions fit, but not together with the blob */
	assert_int_equal(add_bytes(set, "c", memory, 4096), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &l), FTMEM_OK);
	assert_int_equal(layout_settle_whole(l), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "the 3 regions"));
	layout_free(l);
	assert_int_equal(add_bytes(set, "d", memory, 1), FTMEM_OK);
	assert_int_equal(layout_freeze(set, &l), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "the 4 regions"));
	region_set_free(set);
	/* so many that their sum wraps to next to nothing */
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	for (i = 0; i < 1 << 16; i++) {
		snprintf(name, sizeof(name), "r%u", i);
		assert_int_equal(add_bytes(set, name, memory, REGION_DATA_MAX), FTMEM_OK);
	}
	assert_int_equal(layout_freeze(set, &l), FTMEM_EINVAL);
	region_set_free(set);
}

static void parse_gives_back_what_was_settled(void **state)
{
	struct layout *l = layout_in_shares(), *parsed;
	uint8_t *bytes = malloc(l->data_bytes + 1);

	(void)state;
	/* unaligned, with the data behind it */
	assert_non_null(bytes);
	memset(bytes, 0xff, l->data_bytes + 1);
	memcpy(bytes + 1, l->blob, l->blob_bytes);
	assert_int_equal(layout_parse(bytes + 1, l->data_bytes, &parsed), FTMEM_OK);
	free(bytes);
	assert_same(parsed, l);
	assert_null(parsed->blob);
	assert_null(parsed->region[0].addr);
	layout_free(parsed);
	layout_free(l);
}

/* A random tensor, some of the boxes it is cut into registered. Returns how many. */
static uint32_t add_tensor(struct region_set *set, const char *name, uint64_t *random)
{
	struct ftmem_region r = FTMEM_REGION_INIT;
	struct box whole = {.ndim = 1 + test_random_below(random, FTMEM_MAX_DIMS)};
	uint32_t added = 0;
	uint64_t from, to, count;

	r.name = name;
	r.addr = memory;
	r.ndim = whole.ndim;
	r.elem_bytes = 1 + test_random_below(random, 8);
	for (uint32_t d = 0; d < whole.ndim; d++)
		r.shape[d] = whole.extent[d] = 1 + test_random_below(random, 5);
	count = box_count(&whole);
	for (from = 0; from < count && added < 20; from = to) {
		struct box cut[BOX_RANGE_MAX];
		uint32_t cuts;

		to = from + 1 + test_random_below(random, (uint32_t)(count - from));
		cuts = box_range(&whole, from, to, cut);
		for (uint32_t i = 0; i < cuts; i++) {
			if (test_random_below(random, 3) == 0)
				continue;
			memcpy(r.start, cut[i].start, sizeof(r.start));
			memcpy(r.extent, cut[i].extent, sizeof(r.extent));
			r.bytes = r.elem_bytes * box_count(&cut[i]);
			assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
			added++;
		}
	}
	return added;
}

/* Disjoint parts of the boxes of l, in random order; what is left out others store. */
static uint32_t random_pieces(const struct layout *l, struct layout_piece *p, uint32_t room,
                              uint64_t *random)
{
	uint32_t pieces = 0;

	for (uint32_t i = 0; i < l->regions; i++) {
		struct box cut[BOX_RANGE_MAX];
		uint32_t count = (uint32_t)box_count(&l->region[i].box), from, to, cuts;

		if (l->region[i].box.ndim == 0)
			continue;
		from = test_random_below(random, count + 1);
		to = from + test_random_below(random, count - from + 1);
		cuts = box_range(&l->region[i].box, from, to, cut);
		for (uint32_t j = 0; j < cuts && pieces < room; j++)
			p[pieces++] = (struct layout_piece){.region = i, .box = cut[j]};
	}
	for (uint32_t i = pieces; i > 1; i--) {
		uint32_t j = test_random_below(random, i);
		struct layout_piece swap = p[j];

		p[j] = p[i - 1];
		p[i - 1] = swap;
	}
	return pieces;
}

static void random_layouts_are_read_as_they_were_written(void **state)
{
	enum { ROOM = 2000 };
	struct layout_piece *p = calloc(ROOM, sizeof(*p));
	uint64_t random = test_random_seed(__func__);

	(void)state;
	assert_non_null(p);
	for (int round = 0; round < 300; round++) {
		uint32_t names = 1 + test_random_below(&random, 8), privates = 0, count;
		struct layout *l, *parsed;
		struct region_set *set;
		char name[16];

		assert_int_equal(region_set_new(&set), FTMEM_OK);
		for (uint32_t i = 0; i < names; i++) {
			snprintf(name, sizeof(name), "%u", i);
			if (test_random_below(&random, 2) == 0) {
				(void)add_tensor(set, name, &random);
			} else {
				assert_int_equal(add_bytes(set, name, memory, 1 + i), FTMEM_OK);
				privates++;
			}
		}
		l = layout_of(set);
		count = random_pieces(l, p, ROOM, &random);
		assert_int_equal(layout_settle(l, p, count), FTMEM_OK);
		assert_int_equal(l->pieces, count + privates);
		assert_int_equal(parse_copy(l->blob, l->blob_bytes, &parsed), FTMEM_OK);
		assert_same(parsed, l);
		layout_free(parsed);
		layout_free(l);
	}
	free(p);
}

static void a_hundred_thousand_regions_are_read(void **state)
{
	enum { REGIONS = 100000 };
	struct region_set *set;
	struct layout *l, *parsed;
	struct ftmem_region r = box();
	char name[32];

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	for (uint32_t i = 0; i < REGIONS; i++) {
		snprintf(name, sizeof(name), "layer.%u.weight", i);
		r.name = name;
		assert_int_equal(i % 2 ? region_set_add(set, &r, DEVICE_HOST)
		                       : add_bytes(set, name, memory, 9),
		                 FTMEM_OK);
	}
	l = layout_of(set);
	assert_int_equal(layout_settle_whole(l), FTMEM_OK);
	assert_int_equal(l->pieces, REGIONS);
	assert_int_equal(parse_copy(l->blob, l->blob_bytes, &parsed), FTMEM_OK);
	assert_same(parsed, l);
	layout_free(parsed);
	layout_free(l);
}

static int build_all(unsigned n)
{
	struct layout_piece p[] = {piece(1, 2, 3, 5, 8), piece(1, 1, 2, 5, 8)};
	struct layout *l = NULL, *whole = NULL, *parsed = NULL;
	struct region_set *set = set_of_three();
	int rc;

	alloc_fail_at(n);
	rc = layout_freeze(set, &l);
	if (rc == FTMEM_OK)
		rc = layout_freeze(set, &whole);
	if (rc == FTMEM_OK)
		rc = layout_settle(l, p, 2);
	if (rc == FTMEM_OK)
		rc = layout_settle_whole(whole);
	if (rc == FTMEM_OK)
		rc = layout_parse(l->blob, l->blob_bytes, &parsed);
	layout_free(parsed);
	parsed = NULL;
	if (rc == FTMEM_OK)
		rc = layout_parse(NULL, 0, &parsed);
	alloc_fail_off();
	layout_free(parsed);
	layout_free(whole);
	layout_free(l);
	region_set_free(set);
	return rc;
}

static void every_failed_allocation_is_told(void **state)
{
	unsigned n;
	int rc = FTMEM_ENOMEM;

	(void)state;
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		rc = build_all(n);
		assert_int_equal(rc, alloc_fail_count() < n ? FTMEM_OK : FTMEM_ENOMEM);
	}
	assert_true(n > 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(freezing_takes_the_regions_and_decides_nothing),
		cmocka_unit_test(a_layout_knows_devices_but_does_not_store_them),
		cmocka_unit_test(parts_of_the_data_follow_each_other_aligned),
		cmocka_unit_test(shares_are_stored_in_order_beside_what_is_private),
		cmocka_unit_test(boxes_that_others_store_leave_only_the_blob),
		cmocka_unit_test(blob_is_as_documented),
		cmocka_unit_test(digests_are_equal_if_regions_and_pieces_are),
		cmocka_unit_test(layout_of_nothing_is_no_bytes),
		cmocka_unit_test(sizes_beyond_all_memory_are_refused_together),
		cmocka_unit_test(parse_gives_back_what_was_settled),
		cmocka_unit_test(random_layouts_are_read_as_they_were_written),
		cmocka_unit_test(a_hundred_thousand_regions_are_read),
		cmocka_unit_test(every_failed_allocation_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
