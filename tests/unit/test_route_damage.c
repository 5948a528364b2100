/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages of a route that make no sense, one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "error.h"
#include "route.h"

/* A message of the way there in pieces of 32 bits; rank 3 of 6 gets it from rank 2 (round 0),
 * 1 (round 1) or 5 (round 2). */
static int in_of(uint32_t round, const uint32_t *words, uint32_t count, uint32_t cut)
{
	struct route *r = NULL;
	uint8_t *exact = malloc(4 * count + 1);
	const uint8_t *out;
	uint64_t bytes;
	int rc;

	assert_non_null(exact);
	if (count > 0)
		memcpy(exact, words, 4 * count);
	exact = realloc(exact, 4 * count - cut ? 4 * count - cut : 1);
	assert_non_null(exact);
	assert_int_equal(route_new(3, 6, &r), 0);
	assert_int_equal(route_put(r, 3, "put!", 4), 0);
	for (uint32_t i = 0; i < round; i++) {
		assert_int_equal(route_out(r, i, &out, &bytes), 0);
		assert_int_equal(route_in(r, i, (const uint8_t[4]){0}, 4), 0);
	}
	assert_int_equal(route_out(r, round, &out, &bytes), 0);
	rc = route_in(r, round, exact, 4 * count - cut);
	route_free(r);
	free(exact);
	return rc;
}

static void assert_in_refused(uint32_t round, const uint32_t *words, uint32_t count, uint32_t cut)
{
	char peer[16];

	snprintf(peer, sizeof(peer), "rank %u", route_from(3, 6, round));
	assert_int_equal(in_of(round, words, count, cut), FTMEM_ENET);
	assert_non_null(strstr(error_msg(), peer));
}

static void records_that_make_no_sense_are_refused(void **state)
{
	const uint32_t good[] = {2, 3, 4, 1, 0x21747570, 5, 3, 9, 0x00636261};

	(void)state;
	assert_int_equal(in_of(0, good, 9, 1), 0);
	for (uint32_t cut = 2; cut <= sizeof(good); cut++)
		assert_in_refused(0, good, 9, cut);
	assert_in_refused(0, good, 9, 0);
	/* A rank that there is not; one on another way; one that came from too far. */
	assert_in_refused(0, (const uint32_t[]){1, 6, 4, 1, 0}, 5, 0);
	assert_in_refused(0, (const uint32_t[]){1, 4, 4, 1, 0}, 5, 0);
	assert_in_refused(1, (const uint32_t[]){1, 5, 4, 1, 0}, 5, 0);
	assert_in_refused(2, (const uint32_t[]){1, 1, 4, 1, 0}, 5, 0);
	assert_int_equal(in_of(1, (const uint32_t[]){1, 1, 4, 1, 0}, 5, 0), FTMEM_ENET);
	assert_int_equal(in_of(2, (const uint32_t[]){1, 3, 4, 1, 0}, 5, 0), 0);
	/* No bytes; no sender; more senders than can be counted; more records than there are. */
	assert_in_refused(0, (const uint32_t[]){1, 3, 0, 1}, 4, 0);
	assert_in_refused(0, (const uint32_t[]){1, 3, 4, 0, 0}, 5, 0);
	assert_int_equal(in_of(0, (const uint32_t[]){1, 3, 4, UINT32_MAX, 0x21747570}, 5, 0),
	                 FTMEM_ENET);
	assert_int_equal(in_of(0, (const uint32_t[]){1, 3, 4, UINT32_MAX - 1, 0x21747570}, 5, 0),
	                 0);
	assert_in_refused(0, (const uint32_t[]){UINT32_MAX, 3, 4, 1, 0}, 5, 0);
	assert_in_refused(0, (const uint32_t[]){1, 3, UINT32_MAX, 1, 0}, 5, 0);
	assert_in_refused(0, NULL, 0, 0);
}

/* Answers to two records that rank 0 sent to rank 1, one put twice. */
static int back_in_of(const uint32_t *words, uint32_t count, uint32_t cut)
{
	const uint8_t none[4] = {0}, *out;
	struct route *r = NULL;
	uint8_t *exact = malloc(4 * count - cut + 1);
	uint64_t bytes;
	int rc;

	assert_non_null(exact);
	if (count > 0)
		memcpy(exact, words, 4 * count - cut);
	exact = realloc(exact, 4 * count - cut ? 4 * count - cut : 1);
	assert_non_null(exact);
	assert_int_equal(route_new(0, 2, &r), 0);
	assert_int_equal(route_put(r, 1, "a", 1), 0);
	assert_int_equal(route_put(r, 1, "b", 1), 0);
	assert_int_equal(route_put(r, 1, "b", 1), 0);
	assert_int_equal(route_out(r, 0, &out, &bytes), 0);
	assert_int_equal(route_in(r, 0, none, sizeof(none)), 0);
	assert_int_equal(route_back_out(r, 0, &out, &bytes), 0);
	rc = route_back_in(r, 0, exact, 4 * count - cut);
	if (rc < 0)
		assert_non_null(strstr(error_msg(), "rank 1"));
	else
		assert_int_equal(route_reply(r, 2).index, words[4] + 1);
	route_free(r);
	free(exact);
	return rc;
}

static void answers_that_make_no_sense_are_refused(void **state)
{
	const uint32_t good[] = {1, 5, 0, 0, 7, 4, 0};

	(void)state;
	assert_int_equal(back_in_of((const uint32_t[]){0, 5, 0, 1, 7, 4, 0}, 7, 0), 0);
	for (uint32_t cut = 1; cut <= sizeof(good); cut++)
		assert_int_equal(back_in_of(good, 7, cut), FTMEM_ENET);
	/* Of a record that was not sent; twice; not of all; with an index beyond all. */
	assert_int_equal(back_in_of((const uint32_t[]){0, 5, 0, 2, 7, 0}, 6, 0), FTMEM_ENET);
	assert_int_equal(back_in_of((const uint32_t[]){0, 5, 0, 0, 7, 0}, 6, 0), FTMEM_ENET);
	assert_int_equal(back_in_of((const uint32_t[]){0, 5, 0}, 3, 0), FTMEM_ENET);
	assert_int_equal(back_in_of((const uint32_t[]){0, 0, 0, 1, UINT32_MAX, 0}, 6, 0),
	                 FTMEM_ENET);
	assert_int_equal(back_in_of((const uint32_t[]){0, 0, 0, 1, 0, UINT32_MAX}, 6, 0),
	                 FTMEM_ENET);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_that_make_no_sense_are_refused),
		cmocka_unit_test(answers_that_make_no_sense_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
