/* SPDX-License-Identifier: BSD-3-Clause */
/* Layouts out of bytes that are damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "checksum.h"
#include "error.h"
#include "layout_fixture.h"
#include "test_random.h"

static void blobs_that_are_cut_off_are_corrupt(void **state)
{
	struct layout *l = layout_in_shares(), *parsed;
	uint64_t bytes;

	(void)state;
	for (bytes = 1; bytes < l->blob_bytes; bytes++)
		assert_int_equal(parse_copy(l->blob, bytes, &parsed), FTMEM_ECORRUPT);
	assert_int_equal(parse_copy(l->blob, l->blob_bytes, &parsed), FTMEM_OK);
	layout_free(parsed);
	layout_free(l);
}

/* What parse lets through is a layout like any other: written again it is the same. */
static void assert_sound(const struct layout *l, const uint8_t *blob)
{
	uint64_t at = l->blob_bytes;

	for (uint32_t i = 0; i < l->pieces; i++) {
		const struct layout_piece *p = &l->piece[i];
		const struct region *r = &l->region[p->region];

		assert_true(p->region < l->regions);
		assert_true(box_contains(&r->box, &p->box));
		assert_int_equal(p->offset, at);
		assert_true(p->bytes > 0 && p->bytes <= r->bytes);
		at += (p->bytes + 63) / 64 * 64;
		for (uint32_t j = 0; j < i; j++) {
			struct box common;

			if (l->piece[j].region == p->region)
				assert_false(box_intersect(&l->piece[j].box, &p->box, &common));
		}
	}
	assert_int_equal(l->data_bytes, at);
	assert_int_equal(l->digest, digest_more(DIGEST_INIT, blob, l->blob_bytes));
}

static void any_changed_bit_gives_another_layout_or_none(void **state)
{
	struct layout *l = layout_in_shares(), *parsed;
	uint64_t bit;
	int rc;

	(void)state;
	for (bit = 0; bit < l->blob_bytes * 8; bit++) {
		l->blob[bit / 8] ^= (uint8_t)(1u << bit % 8);
		rc = parse_copy(l->blob, l->blob_bytes, &parsed);
		if (rc == FTMEM_OK) {
			assert_int_not_equal(parsed->digest, l->digest);
			assert_sound(parsed, l->blob);
			layout_free(parsed);
		} else {
			assert_int_equal(rc, FTMEM_ECORRUPT);
		}
		l->blob[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	layout_free(l);
}

/* Bytes and words are hit, words mostly with what is near a limit. */
static void hit(uint8_t *blob, uint64_t bytes, uint64_t *random)
{
	static const uint64_t value[] = {0, 1, 2, 3, 5, 7, 8, 64, UINT32_MAX, UINT64_MAX};
	uint64_t word = value[test_random_below(random, 10)];
	uint32_t at = test_random_below(random, (uint32_t)bytes / 8) * 8;

	if (test_random_below(random, 2) == 0)
		memcpy(blob + at, &word, sizeof(word));
	else
		blob[at + test_random_below(random, 8)] = (uint8_t)test_random(random);
}

static void garbage_never_does_harm(void **state)
{
	struct layout *l = layout_in_shares(), *parsed;
	uint64_t random = test_random_seed(__func__);
	uint8_t *blob = malloc(l->blob_bytes);
	uint32_t passed = 0;
	int rc;

	(void)state;
	assert_non_null(blob);
	for (uint32_t round = 0; round < 100000; round++) {
		memcpy(blob, l->blob, l->blob_bytes);
		for (uint32_t hits = 1 + test_random_below(&random, 3); hits > 0; hits--)
			hit(blob, l->blob_bytes, &random);
		rc = parse_copy(blob, l->blob_bytes, &parsed);
		if (rc != FTMEM_OK) {
			assert_int_equal(rc, FTMEM_ECORRUPT);
			continue;
		}
		assert_sound(parsed, blob);
		layout_free(parsed);
		passed++;
	}
	assert_true(passed > 0);
	free(blob);
	layout_free(l);
}

static void corrupt(struct layout *l, uint64_t at, uint64_t value, size_t bytes, const char *why)
{
	uint8_t saved[8];
	struct layout *parsed;

	memcpy(saved, l->blob + at, bytes);
	memcpy(l->blob + at, &value, bytes);
	assert_int_equal(parse_copy(l->blob, l->blob_bytes, &parsed), FTMEM_ECORRUPT);
	if (!strstr(error_msg(), why))
		fail_msg("\"%s\" does not say \"%s\"", error_msg(), why);
	memcpy(l->blob + at, saved, bytes);
}

static void damage_is_described(void **state)
{
	struct layout *l = layout_of_three();

	(void)state;
	corrupt(l, 0, 0, 4, "does not begin as one");
	corrupt(l, 4, 1, 4, "another format version");
	corrupt(l, 4, 3, 4, "another format version");
	corrupt(l, 8, 0, 4, "as many regions");
	corrupt(l, 8, UINT32_MAX, 4, "as many regions");
	corrupt(l, 8, 2, 4, "behind 0 of 3 pieces");
	corrupt(l, 8, 4, 4, "behind 3 of 4 regions: ");
	corrupt(l, 12, UINT32_MAX, 4, "as many pieces");
	corrupt(l, 12, 2, 4, "behind all 2 pieces: a private region has no piece");
	corrupt(l, 12, 0, 4, "behind all 0 pieces: a private region has no piece");
	corrupt(l, 12, 4, 4, "behind 3 of 4 pieces: ");
	corrupt(l, 16, 192, 8, "behind 1 of 3 pieces: it is cut off");
	corrupt(l, 16, 128, 8, "as many pieces");
	corrupt(l, 16, 64, 8, "as many regions");
	corrupt(l, 16, 320, 8, "out of range");
	corrupt(l, 16, UINT64_MAX - 63, 8, "out of range");
	corrupt(l, 16, 0, 8, "out of range");
	corrupt(l, 24, 0, 8, "add up");
	corrupt(l, 32, 0, 8, "behind 0 of 3 regions: it has no bytes");
	corrupt(l, 32, REGION_DATA_MAX + 1, 8, "behind 0 of 3 regions: it has more bytes");
	corrupt(l, 32, REGION_DATA_MAX, 8, "behind 1 of 3 regions: the regions have more bytes");
	corrupt(l, 32, REGION_DATA_MAX - 25, 8, "add up");
	corrupt(l, 40, 1, 4, "behind 0 of 3 regions: its fields are out of range");
	corrupt(l, 44, 9, 4, "behind 0 of 3 regions: its fields are out of range");
	corrupt(l, 48, 0, 4, "behind 0 of 3 regions: its fields are out of range");
	corrupt(l, 48, 256, 4, "behind 0 of 3 regions: its fields are out of range");
	corrupt(l, 48, 2, 4, "behind 0 of 3 regions: its name is damaged");
	corrupt(l, 52, 1, 4, "behind 0 of 3 regions: its fields are out of range");
	corrupt(l, 60, 1, 4, "behind 0 of 3 regions: its name is damaged");
	corrupt(l, 64, 25, 8, "behind 1 of 3 regions: bytes is not");
	corrupt(l, 88, 2, 8, "behind 1 of 3 regions: its box [1:3, 5:8] reaches beyond");
	corrupt(l, 232, 1, 1, "there is something behind its last piece");
	corrupt(l, 255, 1, 1, "there is something behind its last piece");
	layout_free(l);
}

/* Of the layout in shares: where its pieces begin, and how many bytes they have. */
enum { PIECES_AT = 32 + 32 + 80 + 32 + 80, BOX_PIECE = 8 + 32 };
enum { FIRST_BOX = PIECES_AT + 8, SECOND_BOX = FIRST_BOX + BOX_PIECE };
enum { START = 8, EXTENT = 24 };

static void pieces_that_are_not_in_their_region_are_corrupt(void **state)
{
	static const char beyond[] = "behind 1 of 4 pieces: it is empty or reaches beyond";
	struct layout *l = layout_in_shares();

	(void)state;
	assert_int_equal(l->blob[SECOND_BOX + START], 2);
	corrupt(l, FIRST_BOX + START, 0, 8, beyond);
	corrupt(l, FIRST_BOX + START, 3, 8, beyond);
	corrupt(l, FIRST_BOX + START, UINT64_MAX, 8, beyond);
	corrupt(l, FIRST_BOX + START + 8, 4, 8, beyond);
	corrupt(l, FIRST_BOX + START + 8, 6, 8, beyond);
	corrupt(l, FIRST_BOX + EXTENT, 3, 8, beyond);
	corrupt(l, FIRST_BOX + EXTENT, UINT64_MAX, 8, beyond);
	corrupt(l, FIRST_BOX + EXTENT, 0, 8, beyond);
	corrupt(l, FIRST_BOX + EXTENT + 8, 0, 8, beyond);
	corrupt(l, FIRST_BOX, 4, 4, "behind 1 of 4 pieces: its fields are out of range");
	corrupt(l, FIRST_BOX + 4, 1, 4, "behind 1 of 4 pieces: its fields are out of range");
	/* region 3 is the same tensor's row 0 */
	corrupt(l, FIRST_BOX, 3, 4, beyond);
	layout_free(l);
}

static void pieces_that_overlap_or_are_out_of_order_are_corrupt(void **state)
{
	struct layout *l = layout_in_shares();

	(void)state;
	corrupt(l, FIRST_BOX + START, 2, 8, "behind 2 of 4 pieces: it is out of order");
	corrupt(l, SECOND_BOX + START, 1, 8, "behind 2 of 4 pieces: it is out of order");
	/* both rows, and the second again; sized so that only the overlap is wrong */
	corrupt(l, FIRST_BOX + EXTENT, 2, 8, "pieces 1 and 2 overlap");
	corrupt(l, SECOND_BOX + BOX_PIECE, 0, 4, "behind 3 of 4 pieces: it is out of order");
	layout_free(l);
}

static void private_regions_are_there_whole_and_once(void **state)
{
	struct region_set *set;
	struct layout *l;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(add_bytes(set, "a", memory, 1), FTMEM_OK);
	assert_int_equal(add_bytes(set, "b", memory, 1), FTMEM_OK);
	assert_int_equal(add_bytes(set, "c", memory, 1), FTMEM_OK);
	l = layout_of(set);
	assert_int_equal(layout_settle_whole(l), FTMEM_OK);
	corrupt(l, 128, 1, 4, "behind 0 of 3 pieces: a private region has no piece");
	corrupt(l, 136, 0, 4, "behind 1 of 3 pieces: it is out of order");
	corrupt(l, 136, 2, 4, "behind 1 of 3 pieces: a private region has no piece");
	corrupt(l, 144, 1, 4, "behind 2 of 3 pieces: it is out of order");
	layout_free(l);
}

static void regions_of_one_name_are_boxes_of_one_tensor(void **state)
{
	enum { FIRST = 32, SECOND = FIRST + 80, SHAPE = 24, BOX_START = 40, NAME = 72 };
	struct ftmem_region r = box();
	struct region_set *set;
	struct layout *l;

	(void)state;
	assert_int_equal(region_set_new(&set), FTMEM_OK);
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	r.start[1] = 2;
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), FTMEM_OK);
	assert_int_equal(add_bytes(set, "x", memory, 1), FTMEM_OK);
	assert_int_equal(add_bytes(set, "y", memory, 1), FTMEM_OK);
	l = layout_of(set);
	assert_int_equal(layout_settle(l, NULL, 0), FTMEM_OK);
	corrupt(l, SECOND + BOX_START + 8, 3, 8, "regions 0 and 1 overlap");
	corrupt(l, SECOND + BOX_START + 8, 5, 8, "regions 0 and 1 overlap");
	corrupt(l, SECOND + SHAPE, 4, 8, "regions 0 and 1 have the same name, but are not boxes");
	corrupt(l, SECOND + SHAPE + 8, 9, 8, "have the same name, but are not boxes");
	assert_int_equal(l->blob[SECOND + 80 + 24], 'x');
	corrupt(l, SECOND + 80 + 24, 'y', 1, "regions 2 and 3 have the same name, but are not");
	/* a box renamed to a private region's name */
	l->blob[SECOND + NAME + 1] = l->blob[SECOND + NAME + 2] = 0;
	l->blob[SECOND + 16] = 1;
	corrupt(l, SECOND + NAME, 'x', 1, "regions 1 and 2 have the same name, but are not");
	layout_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blobs_that_are_cut_off_are_corrupt),
		cmocka_unit_test(any_changed_bit_gives_another_layout_or_none),
		cmocka_unit_test(garbage_never_does_harm),
		cmocka_unit_test(damage_is_described),
		cmocka_unit_test(pieces_that_are_not_in_their_region_are_corrupt),
		cmocka_unit_test(pieces_that_overlap_or_are_out_of_order_are_corrupt),
		cmocka_unit_test(private_regions_are_there_whole_and_once),
		cmocka_unit_test(regions_of_one_name_are_boxes_of_one_tensor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
