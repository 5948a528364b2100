/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "checksum.h"
#include "ec/kernel.h"

/* RFC 3720, B.4. */
static void gives_the_known_sums(void **state)
{
	uint8_t zeros[32] = {0}, ones[32], up[32], down[32];

	(void)state;
	memset(ones, 0xff, sizeof(ones));
	for (uint8_t i = 0; i < 32; i++) {
		up[i] = i;
		down[i] = (uint8_t)(31 - i);
	}
	assert_int_equal(checksum("123456789", 9), 0xe3069283);
	assert_int_equal(checksum(zeros, 32), 0x8a9136aa);
	assert_int_equal(checksum(ones, 32), 0x62a8ab43);
	assert_int_equal(checksum(up, 32), 0x46dd794e);
	assert_int_equal(checksum(down, 32), 0x113fdb5c);
	assert_int_equal(checksum_more_ref(0, "123456789", 9), 0xe3069283);
}

static void is_zero_of_nothing(void **state)
{
	(void)state;
	assert_int_equal(checksum(NULL, 0), 0);
	assert_int_equal(checksum_more(0x12345678, NULL, 0), 0x12345678);
	assert_int_equal(checksum_more_ref(0x12345678, NULL, 0), 0x12345678);
}

static void equals_the_reference_at_every_length_and_offset(void **state)
{
	static uint8_t data[4096 + 64];

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * i * 31 + i / 7);
	for (size_t len = 0; len < 600; len++)
		for (size_t at = 0; at < 17; at++)
			assert_int_equal(checksum(data + at, len),
			                 checksum_more_ref(0, data + at, len));
	for (size_t len = 4000; len < 4096; len++)
		assert_int_equal(checksum(data + 3, len), checksum_more_ref(0, data + 3, len));
}

static void continues_across_any_cut(void **state)
{
	uint8_t data[300];
	uint32_t whole;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + 1);
	whole = checksum(data, sizeof(data));
	for (size_t cut = 0; cut <= sizeof(data); cut++)
		assert_int_equal(checksum_more(checksum(data, cut), data + cut, sizeof(data) - cut),
		                 whole);
}

static void sees_every_flipped_bit(void **state)
{
	uint8_t data[256] = {0};
	uint32_t whole = checksum(data, sizeof(data));

	(void)state;
	for (size_t bit = 0; bit < 8 * sizeof(data); bit++) {
		data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_not_equal(checksum(data, sizeof(data)), whole);
		data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* The zero page serves for data of more bytes than ISA-L's int counts. */
static void takes_more_than_four_gib(void **state)
{
	size_t bytes = ((size_t)1 << 32) + 12345;
	uint8_t *data;
	uint32_t sum = 0;

	(void)state;
	if (!kernel()->crc32c)
		skip();
	data = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (data == MAP_FAILED)
		skip();
	for (size_t at = 0; at < bytes; at += (size_t)1 << 20) {
		size_t part = bytes - at < (size_t)1 << 20 ? bytes - at : (size_t)1 << 20;

		sum = checksum_more(sum, data + at, part);
	}
	assert_int_equal(checksum(data, bytes), sum);
	munmap(data, bytes);
}

static void of_a_sum_follows_from_those_of_its_terms(void **state)
{
	static uint8_t block[5][1000], sum[1000], zeros[1000];
	uint32_t sums[5];

	(void)state;
	for (uint32_t count = 1; count <= 5; count++)
		for (size_t len = 0; len <= sizeof(sum); len += 1 + len / 3) {
			memset(sum, 0, sizeof(sum));
			for (uint32_t i = 0; i < count; i++)
				for (size_t j = 0; j < len; j++) {
					block[i][j] = (uint8_t)(j * j + 31 * i + len + count);
					sum[j] ^= block[i][j];
				}
			for (uint32_t i = 0; i < count; i++)
				sums[i] = checksum(block[i], len);
			assert_int_equal(checksum_of_xor(sums, count, checksum(zeros, len)),
			                 checksum(sum, len));
		}
}

/* http://www.isthe.com/chongo/tech/comp/fnv: test vectors of FNV-1a, 64 bits. */
static void digests_as_fnv_1a_does(void **state)
{
	(void)state;
	assert_true(digest_more(DIGEST_INIT, "", 0) == UINT64_C(0xcbf29ce484222325));
	assert_true(digest_more(DIGEST_INIT, "a", 1) == UINT64_C(0xaf63dc4c8601ec8c));
	assert_true(digest_more(DIGEST_INIT, "foobar", 6) == UINT64_C(0x85944171f73967e8));
	assert_true(digest_more(digest_more(DIGEST_INIT, "foo", 3), "bar", 3)
	            == UINT64_C(0x85944171f73967e8));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_the_known_sums),
		cmocka_unit_test(is_zero_of_nothing),
		cmocka_unit_test(equals_the_reference_at_every_length_and_offset),
		cmocka_unit_test(continues_across_any_cut),
		cmocka_unit_test(sees_every_flipped_bit),
		cmocka_unit_test(takes_more_than_four_gib),
		cmocka_unit_test(of_a_sum_follows_from_those_of_its_terms),
		cmocka_unit_test(digests_as_fnv_1a_does),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
