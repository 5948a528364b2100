/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "rail.h"
#include "test_random.h"

static const uint64_t sizes[] = {0, 1, 63, 64, 65, 4095, 4096, 4097, (1u << 20) + 1, 3u << 20};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

/* Members of unequal size; the first has sizes[first]. */
static struct rail rail_of(uint32_t n, uint32_t m, uint32_t block_bytes, uint32_t first)
{
	struct rail r = {.id = 7, .n = n, .m = m, .block_bytes = block_bytes};

	for (uint32_t i = 0; i < n; i++) {
		r.rank[i] = 100 + 3 * i;
		r.data_bytes[i] = sizes[(first + i * 3) % SIZES];
	}
	return r;
}

/* Calls check with every n up to 16, m up to 4 and first size. */
static void for_all_rails(void (*check)(const struct rail *r))
{
	for (uint32_t n = 1; n <= 16; n++)
		for (uint32_t m = n > 1; m < n && m <= 4; m++)
			for (uint32_t first = 0; first < SIZES; first++) {
				struct rail r = rail_of(n, m, 4096 * (1 + first % 3), first);

				assert_true(rail_valid(&r));
				check(&r);
				if (n == 1)
					break;
			}
}

static void check_stripe_members(const struct rail *r)
{
	for (uint32_t s = 0; s < r->n; s++) {
		uint32_t data = 0, parity = 0;
		bool used[RAIL_MAX] = {false};

		for (uint32_t i = 0; i < r->n; i++) {
			uint32_t index = rail_code_index(r, s, i);

			assert_true(index < r->n);
			assert_false(used[index]);
			used[index] = true;
			if (rail_is_parity(r, s, i)) {
				assert_int_equal(index, rail_k(r) + rail_parity_row(r, s, i));
				parity++;
			} else {
				assert_int_equal(index, rail_chunk(r, s, i));
				data++;
			}
		}
		assert_int_equal(data, rail_k(r));
		assert_int_equal(parity, r->m);
	}
}

static void every_stripe_has_k_data_and_m_parity_members(void **state)
{
	(void)state;
	for_all_rails(check_stripe_members);
}

static void check_member_stripes(const struct rail *r)
{
	for (uint32_t i = 0; i < r->n; i++) {
		bool chunk[RAIL_MAX] = {false}, row[RAIL_MAX] = {false};

		for (uint32_t s = 0; s < r->n; s++) {
			if (rail_is_parity(r, s, i)) {
				assert_false(row[rail_parity_row(r, s, i)]);
				row[rail_parity_row(r, s, i)] = true;
			} else {
				assert_false(chunk[rail_chunk(r, s, i)]);
				chunk[rail_chunk(r, s, i)] = true;
			}
		}
		for (uint32_t c = 0; c < rail_k(r); c++)
			assert_true(chunk[c]);
		for (uint32_t p = 0; p < r->m; p++)
			assert_true(row[p]);
	}
}

static void every_member_has_each_chunk_and_parity_row_once(void **state)
{
	(void)state;
	for_all_rails(check_member_stripes);
}

static void check_inverses(const struct rail *r)
{
	for (uint32_t i = 0; i < r->n; i++) {
		for (uint32_t c = 0; c < rail_k(r); c++) {
			uint32_t s = rail_stripe_of_chunk(r, i, c);

			assert_true(s < r->n);
			assert_false(rail_is_parity(r, s, i));
			assert_int_equal(rail_chunk(r, s, i), c);
		}
		for (uint32_t p = 0; p < r->m; p++) {
			uint32_t s = rail_stripe_of_parity(r, i, p);

			assert_true(s < r->n);
			assert_true(rail_is_parity(r, s, i));
			assert_int_equal(rail_parity_row(r, s, i), p);
		}
		for (uint32_t s = 0; s < r->n; s++)
			assert_int_equal(rail_member_of_code(r, s, rail_code_index(r, s, i)), i);
	}
}

static void inverses_lead_back(void **state)
{
	(void)state;
	for_all_rails(check_inverses);
}

/* The picture in rail.h. */
static void rotates_as_documented(void **state)
{
	static const uint32_t index[4][4] = {
		{2, 3, 0, 1},
		{1, 2, 3, 0},
		{0, 1, 2, 3},
		{3, 0, 1, 2},
	};
	struct rail r = rail_of(4, 2, 4096, 0);

	(void)state;
	for (uint32_t s = 0; s < 4; s++)
		for (uint32_t i = 0; i < 4; i++)
			assert_int_equal(rail_code_index(&r, s, i), index[s][i]);
}

static void check_tiling(const struct rail *r)
{
	for (uint32_t i = 0; i < r->n; i++) {
		uint32_t rows = rail_chunk_rows(r, i), blocks = 0;
		uint64_t at = 0;

		assert_true(rows <= rail_rows(r));
		assert_int_equal(rail_chunk_bytes(r, i) % RAIL_ALIGN, 0);
		for (uint32_t c = 0; c < rail_k(r); c++)
			for (uint32_t row = 0; row < rows; row++, blocks++) {
				uint32_t len = rail_data_len(r, i, c, row);

				assert_true(len <= r->block_bytes);
				assert_true(len <= rail_parity_len(r, row));
				if (len > 0)
					assert_true(rail_data_offset(r, i, c, row) == at);
				at += len;
			}
		assert_true(at == r->data_bytes[i]);
		assert_int_equal(blocks, rail_data_blocks(r, i));
		assert_int_equal(rail_data_len(r, i, 0, rows), 0);
		assert_int_equal(rail_data_len(r, i, 0, UINT32_MAX), 0);
	}
}

static void blocks_tile_the_data_exactly(void **state)
{
	(void)state;
	for_all_rails(check_tiling);
}

static void check_parity(const struct rail *r)
{
	uint64_t sum = 0, most = 0;

	for (uint32_t row = 0; row < rail_rows(r); row++) {
		assert_true(rail_parity_len(r, row) > 0);
		assert_true(row + 1 == rail_rows(r) || rail_parity_len(r, row) == r->block_bytes);
		sum += rail_parity_len(r, row);
	}
	for (uint32_t i = 0; i < r->n; i++)
		if (rail_chunk_bytes(r, i) > most)
			most = rail_chunk_bytes(r, i);
	assert_true(sum == rail_parity_bytes(r));
	assert_true(sum == most);
	assert_int_equal(rail_parity_len(r, rail_rows(r)), 0);
}

static void a_parity_chunk_covers_the_longest_chunk(void **state)
{
	(void)state;
	for_all_rails(check_parity);
}

static void no_data_takes_no_blocks(void **state)
{
	struct rail r = {.n = 3, .m = 1, .block_bytes = 4096, .rank = {0, 1, 2}};

	(void)state;
	assert_true(rail_valid(&r));
	assert_int_equal(rail_rows(&r), 0);
	assert_int_equal(rail_data_blocks(&r, 1), 0);
	assert_int_equal(rail_parity_bytes(&r), 0);
	assert_int_equal(rail_data_len(&r, 0, 0, 0), 0);
}

static void counts_do_not_overflow_at_the_largest_sizes(void **state)
{
	struct rail r = {.n = 64, .m = 1, .block_bytes = UINT32_C(1) << 30};

	(void)state;
	for (uint32_t i = 0; i < r.n; i++) {
		r.rank[i] = i;
		r.data_bytes[i] = RAIL_DATA_MAX - i;
	}
	assert_true(rail_valid(&r));
	assert_true(rail_chunk_bytes(&r, 0) * 63 >= RAIL_DATA_MAX);
	assert_true(rail_chunk_bytes(&r, 0) * 63 < RAIL_DATA_MAX + 63 * 64 + 63);
	assert_true((uint64_t)rail_rows(&r) << 30 >= rail_parity_bytes(&r));
	assert_true(rail_data_offset(&r, 63, 62, rail_chunk_rows(&r, 63) - 1)
	                    + rail_data_len(&r, 63, 62, rail_chunk_rows(&r, 63) - 1)
	            == r.data_bytes[63]);
	r.block_bytes = 4096;
	assert_false(rail_valid(&r));
}

static void finds_members(void **state)
{
	struct rail r = rail_of(5, 2, 4096, 0);

	(void)state;
	for (uint32_t i = 0; i < r.n; i++)
		assert_int_equal(rail_find(&r, r.rank[i]), i);
	assert_int_equal(rail_find(&r, 1), -1);
	assert_int_equal(rail_find(&r, 0), -1); /* rank[5] is not a member */
}

static void damaged_rails_are_not_valid(void **state)
{
	static const struct {
		uint32_t n, m, block_bytes;
		bool valid;
	} cases[] = {
		{1, 0, 4096, true},
		{2, 1, 4096, true},
		{64, 63, 8192, true},
		{64, 1, UINT32_MAX / 4096 * 4096, true},
		{0, 0, 4096, false},
		{1, 1, 4096, false},
		{2, 0, 4096, false},
		{2, 2, 4096, false},
		{2, 3, 4096, false},
		{65, 1, 4096, false},
		{UINT32_MAX, 1, 4096, false},
		{2, UINT32_MAX, 4096, false},
		{2, 1, 0, false},
		{2, 1, 4095, false},
		{2, 1, 2048, false},
		{2, 1, 6144, false},
	};
	struct rail r;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		r = rail_of(RAIL_MAX, 1, cases[i].block_bytes, 0);
		r.n = cases[i].n;
		r.m = cases[i].m;
		assert_int_equal(rail_valid(&r), cases[i].valid);
	}
	r = rail_of(4, 1, 4096, 0);
	r.rank[3] = r.rank[1];
	assert_false(rail_valid(&r));
	r = rail_of(4, 1, 1 << 30, 0);
	r.data_bytes[2] = RAIL_DATA_MAX + 1;
	assert_false(rail_valid(&r));
	r.data_bytes[2] = UINT64_MAX;
	assert_false(rail_valid(&r));
	r = rail_of(4, 1, 4096, 0);
	r.data_bytes[0] = (uint64_t)3 * 4096 * (UINT32_MAX / 3);
	assert_true(rail_valid(&r));
	r.data_bytes[0]++;
	assert_false(rail_valid(&r));
}

/* Whatever bytes are read as a rail, the answer comes without harm. */
static void random_bytes_are_judged_without_harm(void **state)
{
	uint64_t random = test_random_seed(__func__);
	struct rail r;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		test_random_fill(&random, &r, sizeof(r));
		r.n %= 70;
		r.m %= 5;
		if (round % 2)
			r.block_bytes = r.block_bytes / 4096 * 4096;
		for (uint32_t i = 0; i < RAIL_MAX; i++)
			r.data_bytes[i] >>= round % 64;
		if (rail_valid(&r))
			for (uint32_t i = 0; i < r.n; i++)
				assert_true((uint64_t)rail_k(&r) * rail_chunk_rows(&r, i)
				            == rail_data_blocks(&r, i));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_stripe_has_k_data_and_m_parity_members),
		cmocka_unit_test(every_member_has_each_chunk_and_parity_row_once),
		cmocka_unit_test(inverses_lead_back),
		cmocka_unit_test(rotates_as_documented),
		cmocka_unit_test(blocks_tile_the_data_exactly),
		cmocka_unit_test(a_parity_chunk_covers_the_longest_chunk),
		cmocka_unit_test(no_data_takes_no_blocks),
		cmocka_unit_test(counts_do_not_overflow_at_the_largest_sizes),
		cmocka_unit_test(finds_members),
		cmocka_unit_test(damaged_rails_are_not_valid),
		cmocka_unit_test(random_bytes_are_judged_without_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
