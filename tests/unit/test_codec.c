/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "ec/codec.h"
#include "ec/codec_ref.h"
#include "error.h"
#include "test_random.h"

#define N_MAX 255
#define GUARD 64
#define PAINT 0xa7

/* All blocks of one code word, each with guards around it, at chosen misalignment. */
struct word {
	uint32_t k, m;
	size_t len;
	struct codec *codec;
	uint8_t *memory[N_MAX];
	uint8_t *block[N_MAX];
};

static void word_init(struct word *w, uint32_t k, uint32_t m, size_t len, uint64_t *random,
                      bool aligned)
{
	memset(w, 0, sizeof(*w));
	w->k = k;
	w->m = m;
	w->len = len;
	assert_int_equal(codec_new(k, m, &w->codec), 0);
	for (uint32_t i = 0; i < k + m; i++) {
		size_t at = aligned ? 0 : test_random_below(random, GUARD);

		w->memory[i] = aligned_alloc(GUARD, (len + 4 * GUARD) / GUARD * GUARD);
		assert_non_null(w->memory[i]);
		memset(w->memory[i], PAINT, len + 3 * GUARD);
		w->block[i] = w->memory[i] + GUARD + at;
		if (i < k)
			test_random_fill(random, w->block[i], len);
	}
	for (uint32_t row = 0; row < m; row++)
		codec_encode(w->codec, row, len, (const uint8_t *const *)w->block,
		             w->block[k + row]);
}

static void word_deinit(struct word *w)
{
	for (uint32_t i = 0; i < w->k + w->m; i++)
		free(w->memory[i]);
	codec_free(w->codec);
}

static void assert_guards(const struct word *w)
{
	for (uint32_t i = 0; i < w->k + w->m; i++)
		for (size_t g = 1; g <= GUARD; g++) {
			assert_int_equal(w->block[i][-(ptrdiff_t)g], PAINT);
			assert_int_equal(w->block[i][w->len + g - 1], PAINT);
		}
}

static void assert_parity_is_reference(const struct word *w)
{
	uint8_t *want = malloc(w->len + 1), coef[N_MAX];

	for (uint32_t row = 0; row < w->m; row++) {
		for (uint32_t i = 0; i < w->k; i++)
			coef[i] = codec_ref_coefficient(w->k, w->m, row, i);
		gf_ref_dot(w->k, coef, w->len, (const uint8_t *const *)w->block, want);
		assert_memory_equal(want, w->block[w->k + row], w->len);
	}
	free(want);
}

/* Rebuilds want[count] from have[k] and compares. */
static void assert_rebuilds(const struct word *w, const uint32_t *have, const uint32_t *want,
                            uint32_t count)
{
	struct codec_decoder *decoder = NULL;
	const uint8_t *src[N_MAX];
	uint8_t *dst[N_MAX];

	assert_int_equal(codec_decoder_new(w->codec, have, want, count, &decoder), 0);
	for (uint32_t i = 0; i < w->k; i++)
		src[i] = w->block[have[i]];
	for (uint32_t i = 0; i < count; i++) {
		dst[i] = malloc(w->len + 1);
		dst[i][w->len] = PAINT;
	}
	codec_decode(decoder, w->len, src, dst);
	for (uint32_t i = 0; i < count; i++) {
		assert_memory_equal(dst[i], w->block[want[i]], w->len);
		assert_int_equal(dst[i][w->len], PAINT);
		free(dst[i]);
	}
	codec_decoder_free(decoder);
}

static void shuffle(uint64_t *random, uint32_t *list, uint32_t count)
{
	for (uint32_t i = count; i > 1; i--) {
		uint32_t j = test_random_below(random, i), held = list[i - 1];

		list[i - 1] = list[j];
		list[j] = held;
	}
}

static void multiplies_in_the_field(void **state)
{
	(void)state;
	assert_int_equal(gf_ref_mul(0x80, 2), 0x1d);
	assert_int_equal(gf_ref_mul(0x53, 0xca), 0x8f);
	for (unsigned a = 1; a < 256; a++) {
		assert_int_equal(gf_ref_mul((uint8_t)a, gf_ref_inv((uint8_t)a)), 1);
		assert_int_equal(gf_ref_mul((uint8_t)a, 1), a);
		assert_int_equal(gf_ref_mul((uint8_t)a, 0), 0);
		for (unsigned b = 1; b < 256; b++) {
			uint8_t ab = gf_ref_mul((uint8_t)a, (uint8_t)b);

			assert_int_not_equal(ab, 0);
			assert_int_equal(ab, gf_ref_mul((uint8_t)b, (uint8_t)a));
			assert_int_equal(gf_ref_mul((uint8_t)(a ^ 0x5a), (uint8_t)b),
			                 ab ^ gf_ref_mul(0x5a, (uint8_t)b));
		}
	}
}

/* Computed with logarithm tables, apart from this code. */
static void has_the_documented_coefficients(void **state)
{
	static const uint8_t want[4][6] = {
		{0x01, 0x01, 0x01, 0x01, 0x01, 0x01},
		{0x7f, 0xfc, 0x7e, 0xfe, 0xe9, 0x74},
		{0xe2, 0xff, 0xe6, 0xfd, 0xb4, 0x85},
		{0x80, 0x1d, 0x83, 0x1b, 0xc7, 0x60},
	};

	(void)state;
	for (uint32_t row = 0; row < 4; row++)
		for (uint32_t col = 0; col < 6; col++)
			assert_int_equal(codec_ref_coefficient(6, 4, row, col), want[row][col]);
	for (uint32_t col = 0; col < 254; col++)
		assert_int_equal(codec_ref_coefficient(254, 1, 0, col), 1);
}

/* The same, for data byte t of block i = 37 i + 101 t + 1. */
static void gives_the_known_parities(void **state)
{
	static const struct {
		uint32_t k, m;
		uint8_t parity[4][8];
	} known[] = {
		{2,
	         2,
	         {{0x27, 0xed, 0x3b, 0x65, 0x2f, 0xe5, 0xdb, 0x2d},
	          {0xbb, 0xa7, 0x1a, 0x59, 0x68, 0x18, 0x82, 0x91}}},
		{4,
	         3,
	         {{0x1c, 0x88, 0x14, 0x80, 0xf4, 0xc8, 0xbc, 0x10},
	          {0x84, 0x77, 0x9d, 0x96, 0xb3, 0x91, 0xaf, 0xad},
	          {0x2b, 0x32, 0xee, 0x75, 0xc7, 0xed, 0xe1, 0xf2}}},
		{6,
	         4,
	         {{0x33, 0x6d, 0xcf, 0xad, 0x93, 0xf5, 0x57, 0x35},
	          {0xb7, 0x49, 0x98, 0x61, 0xc3, 0x5a, 0x32, 0x1f},
	          {0xc1, 0x50, 0x02, 0x52, 0x06, 0x59, 0x42, 0x4a},
	          {0xc2, 0x16, 0xde, 0xc9, 0x6b, 0x00, 0x9f, 0x4f}}},
	};

	(void)state;
	for (size_t v = 0; v < sizeof(known) / sizeof(known[0]); v++) {
		uint8_t data[6][8], parity[8];
		const uint8_t *src[6];
		struct codec *codec = NULL;

		for (unsigned i = 0; i < 6; i++) {
			src[i] = data[i];
			for (unsigned t = 0; t < 8; t++)
				data[i][t] = (uint8_t)(37 * i + 101 * t + 1);
		}
		assert_int_equal(codec_new(known[v].k, known[v].m, &codec), 0);
		for (uint32_t row = 0; row < known[v].m; row++) {
			codec_encode(codec, row, 8, src, parity);
			assert_memory_equal(parity, known[v].parity[row], 8);
		}
		codec_free(codec);
	}
}

static void encodes_as_the_reference_does(void **state)
{
	uint64_t random = 1;

	(void)state;
	for (uint32_t k = 1; k <= 16; k++)
		for (uint32_t m = 1; m <= 4; m++) {
			struct word w;

			word_init(&w, k, m, 1 + test_random_below(&random, 1500), &random, k % 2);
			assert_parity_is_reference(&w);
			assert_guards(&w);
			word_deinit(&w);
		}
}

/* From the last k blocks, as much parity as there is, rebuilds all the others. */
static void holds_at_the_largest_sizes(void **state)
{
	static const uint32_t sizes[][2] = {
		{254, 1}, {253, 2}, {251, 4}, {128, 127}, {127, 128}, {1, 254}, {1, 1}, {1, 4},
	};
	uint64_t random = 2;

	(void)state;
	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		uint32_t have[N_MAX], want[N_MAX];
		struct word w;

		word_init(&w, sizes[s][0], sizes[s][1], 193, &random, false);
		assert_parity_is_reference(&w);
		assert_guards(&w);
		for (uint32_t i = 0; i < w.k; i++)
			have[i] = w.m + i;
		for (uint32_t i = 0; i < w.m; i++)
			want[i] = i;
		assert_rebuilds(&w, have, want, w.m);
		word_deinit(&w);
	}
}

/* have: every set of k blocks, in random order; want: all others. */
static void assert_every_choice_rebuilds(const struct word *w, uint64_t *random)
{
	uint32_t n = w->k + w->m;

	for (uint32_t set = 0; set < 1u << n; set++) {
		uint32_t have[N_MAX], want[N_MAX], had = 0, wanted = 0;

		if ((uint32_t)__builtin_popcount(set) != w->k)
			continue;
		for (uint32_t i = 0; i < n; i++)
			if (set >> i & 1)
				have[had++] = i;
			else
				want[wanted++] = i;
		shuffle(random, have, had);
		shuffle(random, want, wanted);
		assert_rebuilds(w, have, want, wanted);
		/* Fewer lost: one plan for each alone, from the same sources. */
		for (uint32_t i = 0; i < wanted; i++)
			assert_rebuilds(w, have, &want[i], 1);
	}
}

static void decodes_every_subset_of_m_losses(void **state)
{
	uint64_t random = 3;

	(void)state;
	for (uint32_t n = 2; n <= 8; n++)
		for (uint32_t m = 1; m <= 4 && m < n; m++) {
			struct word w;

			word_init(&w, n - m, m, 131, &random, false);
			assert_every_choice_rebuilds(&w, &random);
			word_deinit(&w);
		}
}

static void works_at_every_length_and_alignment(void **state)
{
	static const size_t odd[] = {255, 256, 257, 4095, 4096, 65537, 131072, 131073};
	uint64_t random = 4;

	(void)state;
	for (size_t i = 0; i < 201 + sizeof(odd) / sizeof(odd[0]); i++) {
		size_t len = i <= 200 ? i : odd[i - 201];

		for (uint32_t k = 1; k <= 5; k++)
			for (int aligned = 0; aligned < 2; aligned++) {
				uint32_t have[8] = {5, 1, 6, 3, 4}, want[3] = {2, 0, 7};
				struct word w;

				word_init(&w, k, 3, len, &random, aligned);
				if (len < 5000)
					assert_parity_is_reference(&w);
				assert_guards(&w);
				if (k == 5)
					assert_rebuilds(&w, have, want, 3);
				word_deinit(&w);
			}
	}
}

static void rebuilds_any_choice_of_a_random_code(void **state)
{
	uint64_t random = test_random_seed(__func__);

	(void)state;
	for (int round = 0; round < 300; round++) {
		uint32_t k = 1 + test_random_below(&random, 40);
		uint32_t m = 1 + test_random_below(&random, 12);
		uint32_t order[N_MAX];
		struct word w;

		word_init(&w, k, m, test_random_below(&random, 700), &random, round % 2);
		for (uint32_t i = 0; i < k + m; i++)
			order[i] = i;
		shuffle(&random, order, k + m);
		assert_rebuilds(&w, order, order + k, 1 + test_random_below(&random, m));
		assert_guards(&w);
		word_deinit(&w);
	}
}

static void refuses_codes_that_do_not_exist(void **state)
{
	static const uint32_t bad[][2] = {
		{0, 1},   {1, 0},     {0, 0},          {255, 1},        {254, 2},
		{1, 255}, {128, 128}, {UINT32_MAX, 2}, {2, UINT32_MAX},
	};
	struct codec *codec = (struct codec *)state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(codec_new(bad[i][0], bad[i][1], &codec), FTMEM_EINVAL);
		assert_ptr_equal(codec, state);
	}
	codec_free(NULL);
	codec_decoder_free(NULL);
}

static void refuses_sources_that_do_not_determine_the_rest(void **state)
{
	static const struct {
		uint32_t have[3], want[2], count;
		const char *says;
	} bad[] = {
		{{0, 1, 1}, {2}, 1, "source block 1"},
		{{0, 1, 5}, {2}, 1, "source block 5"},
		{{0, UINT32_MAX, 1}, {2}, 1, "source block"},
		{{0, 1, 3}, {3}, 1, "wanted block 3"},
		{{0, 1, 3}, {5}, 1, "wanted block 5"},
		{{0, 1, 3}, {2, 2}, 2, "wanted block 2"},
		{{0, 1, 3}, {2}, 0, "no block"},
	};
	struct codec_decoder *decoder = NULL;
	struct codec *codec = NULL;

	(void)state;
	assert_int_equal(codec_new(3, 2, &codec), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(
			codec_decoder_new(codec, bad[i].have, bad[i].want, bad[i].count, &decoder),
			FTMEM_EINVAL);
		assert_null(decoder);
		assert_non_null(strstr(error_msg(), bad[i].says));
	}
	codec_free(codec);
}

static void says_so_when_memory_runs_out(void **state)
{
	const uint32_t have[] = {4, 1, 3}, want[] = {0, 2};
	struct codec_decoder *decoder = NULL;
	struct codec *codec = NULL;
	int rc = FTMEM_ENOMEM;
	unsigned n;

	(void)state;
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = codec_new(3, 2, &codec);
		alloc_fail_off();
		assert_true((rc == 0) == (codec != NULL));
	}
	assert_int_equal(rc, 0);
	assert_true(n > 2);
	rc = FTMEM_ENOMEM;
	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = codec_decoder_new(codec, have, want, 2, &decoder);
		alloc_fail_off();
		assert_true((rc == 0) == (decoder != NULL));
	}
	assert_int_equal(rc, 0);
	assert_true(n > 2);
	codec_decoder_free(decoder);
	codec_free(codec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(multiplies_in_the_field),
		cmocka_unit_test(has_the_documented_coefficients),
		cmocka_unit_test(gives_the_known_parities),
		cmocka_unit_test(encodes_as_the_reference_does),
		cmocka_unit_test(holds_at_the_largest_sizes),
		cmocka_unit_test(decodes_every_subset_of_m_losses),
		cmocka_unit_test(works_at_every_length_and_alignment),
		cmocka_unit_test(rebuilds_any_choice_of_a_random_code),
		cmocka_unit_test(refuses_codes_that_do_not_exist),
		cmocka_unit_test(refuses_sources_that_do_not_determine_the_rest),
		cmocka_unit_test(says_so_when_memory_runs_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
