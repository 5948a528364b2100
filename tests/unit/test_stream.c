/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "stream.h"
#include "test_random.h"

#define MOST  20000
#define SPACE (MOST + 256)

static void copies_every_length_at_every_alignment(void **state)
{
	static uint8_t from[SPACE], to[SPACE], want[SPACE];
	uint64_t random = test_random_seed("stream");

	(void)state;
	for (size_t i = 0; i < SPACE; i++)
		from[i] = (uint8_t)test_random(&random);
	for (int round = 0; round < 4000; round++) {
		size_t len = test_random_below(&random, MOST + 1),
		       source = test_random_below(&random, 128),
		       target = test_random_below(&random, 128);

		if (round < 130)
			len = 4096 + (size_t)round; /* about where it begins to stream */
		memset(to, round, SPACE);
		memset(want, round, SPACE);
		memcpy(want + target, from + source, len);
		stream_copy(to + target, from + source, len);
		assert_memory_equal(to, want, SPACE);
	}
}

/* What it fetches ahead lies behind the source, perhaps in no mapping. */
static void reads_to_the_last_byte_of_a_mapping(void **state)
{
	size_t page = 4096, len = 8 * page;
	uint8_t *map = mmap(NULL, len + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	                    -1, 0);
	uint8_t *to = malloc(len);

	(void)state;
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_non_null(to);
	assert_int_equal(munmap(map + len, page), 0);
	memset(map, 7, len);
	stream_copy(to, map, len);
	assert_memory_equal(to, map, len);
	munmap(map, len);
	free(to);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies_every_length_at_every_alignment),
		cmocka_unit_test(reads_to_the_last_byte_of_a_mapping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
