/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "checksum.h"
#include "error.h"
#include "route.h"
#include "test_random.h"

#define RANKS 40u
#define PUTS  64u
#define KINDS 4096u
#define WIRE  (1u << 20)

/* A kind of record: equal everywhere. */
struct kind {
	uint32_t dest, bytes;
	uint8_t at[300];
};

struct put {
	uint32_t kind, index;
};

/* All ranks of a job, and what each put. */
struct world {
	uint32_t ranks, kinds;
	struct route *route[RANKS];
	struct kind *kind;
	uint32_t puts[RANKS];
	struct put put[RANKS][PUTS];
	uint64_t digest; /* of all that was seen */
};

static struct kind kinds[KINDS];
static uint8_t wire[RANKS][WIRE];
static uint64_t wire_bytes[RANKS];
/* If not NULL: what the next messages are damaged with. */
static uint64_t *damage;

static void world_init(struct world *w, uint32_t ranks)
{
	*w = (struct world){.ranks = ranks, .kind = kinds, .digest = DIGEST_INIT};
	for (uint32_t i = 0; i < ranks; i++)
		assert_int_equal(route_new(i, ranks, &w->route[i]), 0);
}

static void world_deinit(struct world *w)
{
	for (uint32_t i = 0; i < w->ranks; i++)
		route_free(w->route[i]);
}

/* Distinct ones: they begin with their number. */
static void make_kinds(struct world *w, uint32_t count, uint64_t *random)
{
	w->kinds = count;
	for (uint32_t i = 0; i < count; i++) {
		struct kind *k = &kinds[i];

		k->dest = test_random_below(random, w->ranks);
		k->bytes = 4 + test_random_below(random, sizeof(k->at) - 3);
		test_random_fill(random, k->at, k->bytes);
		memcpy(k->at, &i, sizeof(i));
	}
}

static int put_kind(struct world *w, uint32_t rank, uint32_t kind)
{
	const struct kind *k = &w->kind[kind];
	int rc = route_put(w->route[rank], k->dest, k->at, k->bytes);

	if (rc == 0)
		w->put[rank][w->puts[rank]++].kind = kind;
	return rc;
}

/* A few bytes of each message become others. */
static void damage_wire(uint32_t ranks)
{
	for (uint32_t i = 0; i < ranks; i++)
		for (uint32_t n = test_random_below(damage, 3); wire_bytes[i] > 0 && n-- > 0;)
			wire[i][test_random_below(damage, (uint32_t)wire_bytes[i])] =
				(uint8_t)test_random_below(damage, 256);
}

/* One round of either way of all ranks. The messages are kept in wire[]. */
static int step(struct world *w, uint32_t round, bool back)
{
	for (uint32_t i = 0; i < w->ranks; i++) {
		const uint8_t *out = NULL;
		uint64_t bytes = 0;
		int rc = back ? route_back_out(w->route[i], round, &out, &bytes)
		              : route_out(w->route[i], round, &out, &bytes);

		if (rc < 0)
			return rc;
		assert_true(bytes <= WIRE);
		if (bytes > 0)
			memcpy(wire[i], out, bytes);
		wire_bytes[i] = bytes;
		w->digest = digest_more(w->digest, wire[i], bytes);
	}
	if (damage)
		damage_wire(w->ranks);
	for (uint32_t i = 0; i < w->ranks; i++) {
		uint32_t from = back ? route_to(i, w->ranks, round)
		                     : route_from(i, w->ranks, round);
		int rc = back ? route_back_in(w->route[i], round, wire[from], wire_bytes[from])
		              : route_in(w->route[i], round, wire[from], wire_bytes[from]);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int go_there(struct world *w)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < route_rounds(w->ranks); i++)
		rc = step(w, i, false);
	return rc;
}

static int go_back(struct world *w)
{
	int rc = 0;

	for (uint32_t i = route_rounds(w->ranks); rc == 0 && i-- > 0;)
		rc = step(w, i, true);
	return rc;
}

/* What the answer to a kind is: some have none. */
static uint32_t answer_to(const struct kind *k, uint8_t out[4 + 300])
{
	memcpy(out, &k->dest, 4);
	memcpy(out + 4, k->at, k->bytes);
	return k->at[0] % 5 == 0 ? 0 : 4 + k->bytes;
}

static uint32_t kind_of(const struct world *w, const struct route_record *r)
{
	uint32_t kind;

	assert_true(r->bytes >= 4);
	memcpy(&kind, r->at, sizeof(kind));
	assert_true(kind < w->kinds);
	assert_int_equal(r->bytes, w->kind[kind].bytes);
	assert_memory_equal(r->at, w->kind[kind].at, r->bytes);
	return kind;
}

static uint32_t times_put(const struct world *w, uint32_t kind)
{
	uint32_t times = 0;

	for (uint32_t i = 0; i < w->ranks; i++)
		for (uint32_t j = 0; j < w->puts[i]; j++)
			times += w->put[i][j].kind == kind;
	return times;
}

/* Every kind that was put has arrived once, where it should, with its count. */
static void check_arrived(const struct world *w)
{
	static bool seen[KINDS];

	memset(seen, 0, sizeof(seen));
	for (uint32_t i = 0; i < w->ranks; i++)
		for (uint32_t j = 0; j < route_arrived(w->route[i]); j++) {
			struct route_record r = route_get(w->route[i], j);
			uint32_t kind = kind_of(w, &r);

			assert_false(seen[kind]);
			seen[kind] = true;
			assert_int_equal(w->kind[kind].dest, i);
			assert_int_equal(r.count, times_put(w, kind));
		}
	for (uint32_t i = 0; i < w->kinds; i++)
		assert_int_equal(seen[i], times_put(w, i) > 0);
}

/* From the last to the first: the order does not matter. */
static int answer_all(struct world *w)
{
	uint8_t answer[4 + 300];

	for (uint32_t i = 0; i < w->ranks; i++)
		for (uint32_t j = route_arrived(w->route[i]); j-- > 0;) {
			struct route_record r = route_get(w->route[i], j);
			uint32_t bytes = answer_to(&w->kind[kind_of(w, &r)], answer);
			int rc = bytes ? route_answer(w->route[i], j, answer, bytes) : 0;

			if (rc < 0)
				return rc;
		}
	return 0;
}

/* Every put has its answer, and an index of its own among the equal ones. */
static void check_replies(struct world *w)
{
	static uint8_t seen[KINDS][RANKS * PUTS];
	uint8_t answer[4 + 300];

	memset(seen, 0, w->kinds * sizeof(seen[0]));
	for (uint32_t i = 0; i < w->ranks; i++)
		for (uint32_t j = 0; j < w->puts[i]; j++) {
			struct put *p = &w->put[i][j];
			struct route_reply r = route_reply(w->route[i], j);

			assert_int_equal(r.bytes, answer_to(&w->kind[p->kind], answer));
			assert_true(r.bytes == 0 || memcmp(r.at, answer, r.bytes) == 0);
			assert_true(r.index < times_put(w, p->kind));
			assert_false(seen[p->kind][r.index]);
			seen[p->kind][r.index] = 1;
			p->index = r.index;
			w->digest = digest_more(w->digest, &r.index, sizeof(r.index));
		}
}

static void put_random(struct world *w, uint64_t *random)
{
	for (uint32_t i = 0; i < w->ranks; i++) {
		uint32_t puts = test_random_below(random, PUTS);

		for (uint32_t j = 0; j < puts; j++)
			assert_int_equal(put_kind(w, i, test_random_below(random, w->kinds)), 0);
	}
}

/* --- what must hold --- */

static void peers_lie_powers_of_two_apart(void **state)
{
	(void)state;
	assert_int_equal(route_rounds(1), 0);
	assert_int_equal(route_rounds(2), 1);
	assert_int_equal(route_rounds(3), 2);
	assert_int_equal(route_rounds(4), 2);
	assert_int_equal(route_rounds(5), 3);
	assert_int_equal(route_rounds(16384), 14);
	assert_int_equal(route_rounds(UINT32_MAX), 32);
	assert_int_equal(route_to(3, 5, 2), 2);
	assert_int_equal(route_to(UINT32_MAX - 1, UINT32_MAX, 31), (1u << 31) - 1);
	for (uint32_t ranks = 2; ranks <= RANKS; ranks++)
		for (uint32_t round = 0; round < route_rounds(ranks); round++)
			for (uint32_t i = 0; i < ranks; i++) {
				assert_int_equal(route_to(i, ranks, round),
				                 (i + (1u << round)) % ranks);
				assert_int_equal(
					route_from(route_to(i, ranks, round), ranks, round), i);
			}
}

static uint64_t round_trip(uint32_t ranks, uint32_t count, uint64_t seed)
{
	static struct world w;

	world_init(&w, ranks);
	make_kinds(&w, count, &seed);
	put_random(&w, &seed);
	assert_int_equal(go_there(&w), 0);
	check_arrived(&w);
	assert_int_equal(answer_all(&w), 0);
	assert_int_equal(go_back(&w), 0);
	check_replies(&w);
	world_deinit(&w);
	return w.digest;
}

/* Few kinds melt nearly all, many nearly none. */
static void records_find_their_owner_and_answers_their_way_back(void **state)
{
	uint64_t seed = test_random_seed("route");

	(void)state;
	for (uint32_t ranks = 1; ranks <= RANKS; ranks++) {
		round_trip(ranks, 7, seed++);
		round_trip(ranks, 200, seed++);
		round_trip(ranks, KINDS, seed++);
	}
}

static void every_run_sends_the_same_bytes(void **state)
{
	uint64_t seed = test_random_seed("route");

	(void)state;
	for (uint32_t ranks = 1; ranks <= RANKS; ranks += 13)
		assert_true(round_trip(ranks, 200, seed) == round_trip(ranks, 200, seed));
}

/* Nor on the order in which a rank puts them. */
static void an_index_does_not_depend_on_other_records(void **state)
{
	uint64_t seed = test_random_seed("route"), holders[8];
	static struct world w[2];

	(void)state;
	for (uint32_t turn = 0; turn < 2; turn++) {
		world_init(&w[turn], 23);
		make_kinds(&w[turn], 500, &(uint64_t){seed});
	}
	for (uint32_t kind = 0; kind < 8; kind++)
		holders[kind] = test_random(&seed);
	for (uint32_t i = 0; i < 23; i++) {
		for (uint32_t kind = 0; kind < 8; kind++) {
			if (holders[kind] >> i & 1)
				put_kind(&w[0], i, kind);
			if (holders[7 - kind] >> i & 1)
				put_kind(&w[1], i, 7 - kind);
			put_kind(&w[1], i, 8 + test_random_below(&seed, 492));
		}
	}
	for (uint32_t turn = 0; turn < 2; turn++) {
		assert_int_equal(go_there(&w[turn]), 0);
		assert_int_equal(answer_all(&w[turn]), 0);
		assert_int_equal(go_back(&w[turn]), 0);
		check_replies(&w[turn]);
	}
	for (uint32_t i = 0; i < 23; i++)
		for (uint32_t a = 0; a < w[0].puts[i]; a++)
			for (uint32_t b = 0; b < w[1].puts[i]; b++)
				assert_true(w[0].put[i][a].kind != w[1].put[i][b].kind
				            || w[0].put[i][a].index == w[1].put[i][b].index);
	world_deinit(&w[0]);
	world_deinit(&w[1]);
}

/* The same for all: no rank gets more than a message of each kind in a round. */
static void what_all_say_alike_floods_nobody(void **state)
{
	static struct world w;
	uint64_t random = 1;

	(void)state;
	world_init(&w, 32);
	make_kinds(&w, 1, &random);
	for (uint32_t i = 0; i < 32; i++)
		assert_int_equal(put_kind(&w, i, 0), 0);
	for (uint32_t round = 0; round < 5; round++) {
		assert_int_equal(step(&w, round, false), 0);
		for (uint32_t i = 0; i < 32; i++)
			assert_true(wire_bytes[i] <= 4 + 12 + kinds[0].bytes);
	}
	check_arrived(&w);
	assert_int_equal(route_get(w.route[kinds[0].dest], 0).count, 32);
	assert_int_equal(answer_all(&w), 0);
	for (uint32_t round = 5; round-- > 0;) {
		assert_int_equal(step(&w, round, true), 0);
		for (uint32_t i = 0; i < 32; i++)
			assert_true(wire_bytes[i] <= 12 + 4 + kinds[0].bytes);
	}
	check_replies(&w);
	world_deinit(&w);
}

/* The same bytes for two owners are two records. */
static void equal_bytes_for_different_ranks_do_not_melt(void **state)
{
	static struct world w;

	(void)state;
	world_init(&w, 9);
	for (uint32_t dest = 0; dest < 9; dest++)
		assert_int_equal(route_put(w.route[4], dest, "same", 4), 0);
	assert_int_equal(go_there(&w), 0);
	for (uint32_t dest = 0; dest < 9; dest++) {
		assert_int_equal(route_arrived(w.route[dest]), 1);
		assert_int_equal(route_get(w.route[dest], 0).count, 1);
		assert_int_equal(route_answer(w.route[dest], 0, &dest, sizeof(dest)), 0);
	}
	assert_int_equal(go_back(&w), 0);
	for (uint32_t dest = 0; dest < 9; dest++) {
		assert_int_equal(route_reply(w.route[4], dest).bytes, sizeof(dest));
		assert_memory_equal(route_reply(w.route[4], dest).at, &dest, sizeof(dest));
	}
	world_deinit(&w);
}

static int by_checksum(const void *a, const void *b)
{
	uint32_t x = checksum(a, sizeof(uint64_t)), y = checksum(b, sizeof(uint64_t));

	return (x > y) - (x < y);
}

/* Of 300,000 records some ten pairs have one checksum. */
static void different_records_of_one_checksum_do_not_melt(void **state)
{
	static uint64_t record[300000];
	uint64_t random = test_random_seed("route");
	uint32_t count = sizeof(record) / sizeof(record[0]), pairs = 0;

	(void)state;
	for (uint32_t i = 0; i < count; i++)
		record[i] = test_random(&random);
	qsort(record, count, sizeof(record[0]), by_checksum);
	for (uint32_t i = 1; i < count; i++) {
		struct route *r = NULL;

		if (by_checksum(&record[i - 1], &record[i]) != 0)
			continue;
		assert_int_equal(route_new(0, 1, &r), 0);
		assert_int_equal(route_put(r, 0, &record[i - 1], sizeof(record[0])), 0);
		assert_int_equal(route_put(r, 0, &record[i], sizeof(record[0])), 0);
		assert_int_equal(route_arrived(r), 2);
		route_free(r);
		pairs++;
	}
	assert_true(pairs > 0);
}

static void without_any_answer_replies_are_empty(void **state)
{
	static struct world w;

	(void)state;
	for (uint32_t ranks = 1; ranks <= 5; ranks += 2) {
		world_init(&w, ranks);
		for (uint32_t i = 0; i < ranks; i++)
			for (uint32_t j = 0; j < 2; j++)
				assert_int_equal(route_put(w.route[i], ranks - 1, "x", 1), 0);
		assert_int_equal(go_there(&w), 0);
		assert_int_equal(go_back(&w), 0);
		for (uint32_t i = 0; i < ranks; i++)
			for (uint32_t j = 0; j < 2; j++) {
				assert_int_equal(route_reply(w.route[i], j).bytes, 0);
				assert_true(route_reply(w.route[i], j).index < 2 * ranks);
			}
		world_deinit(&w);
	}
}

static void a_put_without_sense_is_refused(void **state)
{
	struct route *r = NULL;

	(void)state;
	assert_int_equal(route_new(1, 3, &r), 0);
	assert_int_equal(route_put(r, 3, "x", 1), FTMEM_EINVAL);
	assert_int_equal(route_put(r, 0, "x", 0), FTMEM_EINVAL);
	route_free(r);
	route_free(NULL);
}

/* What went on leaves only a few bytes behind. */
static void memory_is_freed_when_records_moved_on(void **state)
{
	static struct world w;
	uint8_t record[200] = {0}, answer[400] = {0};
	uint64_t full;

	(void)state;
	world_init(&w, 4);
	for (uint32_t i = 0; i < 2000; i++) {
		memcpy(record, &i, sizeof(i));
		assert_int_equal(route_put(w.route[0], 3, record, sizeof(record)), 0);
	}
	full = route_memory(w.route[0]);
	assert_true(full >= 2000 * sizeof(record));
	assert_int_equal(step(&w, 0, false), 0);
	assert_true(route_memory(w.route[0]) < 2000 * 24);
	assert_true(route_memory(w.route[1]) >= 2000 * sizeof(record));
	assert_int_equal(step(&w, 1, false), 0);
	assert_true(route_memory(w.route[1]) < 2000 * 24);
	for (uint32_t i = 0; i < 2000; i++)
		assert_int_equal(route_answer(w.route[3], i, answer, sizeof(answer)), 0);
	assert_int_equal(step(&w, 1, true), 0);
	assert_true(route_memory(w.route[1]) >= 2000 * sizeof(answer));
	assert_int_equal(step(&w, 0, true), 0);
	assert_true(route_memory(w.route[1]) < 2000 * 24);
	assert_true(route_memory(w.route[0]) >= 2000 * sizeof(answer));
	world_deinit(&w);
}

/* --- damage --- */

/* Messages of one round are damaged: the run ends well or with ENET. */
static void damaged_messages_never_crash(void **state)
{
	uint64_t seed = test_random_seed("route");
	uint32_t refused = 0;
	static struct world w;

	(void)state;
	for (uint32_t turn = 0; turn < 2000; turn++) {
		uint32_t hit = test_random_below(&seed, 6);
		int rc = 0;

		world_init(&w, 6);
		make_kinds(&w, 20, &seed);
		put_random(&w, &seed);
		for (uint32_t i = 0; rc == 0 && i < 6; i++) {
			for (uint32_t j = 0; i == 3 && j < 6; j++)
				if (route_arrived(w.route[j]) > 0)
					assert_int_equal(route_answer(w.route[j], 0, "answer", 6),
					                 0);
			damage = i == hit ? &seed : NULL;
			rc = step(&w, i < 3 ? i : 5 - i, i >= 3);
			damage = NULL;
		}
		assert_true(rc == 0 || rc == FTMEM_ENET);
		refused += rc < 0;
		for (uint32_t i = 0; rc == 0 && i < 6; i++)
			for (uint32_t j = 0; j < w.puts[i]; j++)
				assert_true(route_reply(w.route[i], j).bytes <= 6);
		world_deinit(&w);
	}
	assert_in_range(refused, 1, 1999);
}

/* --- no memory --- */

static int trip_without(struct world *w, uint32_t ranks)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < ranks; i++)
		rc = route_new(i, ranks, &w->route[i]);
	for (uint32_t i = 0; rc == 0 && i < ranks * 30; i++)
		rc = put_kind(w, i % ranks, i * 7 % w->kinds);
	if (rc == 0)
		rc = go_there(w);
	if (rc == 0)
		rc = answer_all(w);
	return rc == 0 ? go_back(w) : rc;
}

static void every_failed_allocation_is_told(void **state)
{
	static struct world w;
	uint64_t random = 5;

	(void)state;
	for (uint32_t ranks = 1; ranks <= 5; ranks += 2) {
		int rc = FTMEM_ENOMEM;

		for (unsigned n = 1; rc == FTMEM_ENOMEM; n++) {
			w = (struct world){.ranks = ranks, .kind = kinds, .digest = DIGEST_INIT};
			make_kinds(&w, 40, &random);
			alloc_fail_at(n);
			rc = trip_without(&w, ranks);
			alloc_fail_off();
			if (rc == 0)
				check_replies(&w);
			world_deinit(&w);
		}
		assert_int_equal(rc, 0);
	}
}

/* A rank that could not put all still goes with the others. */
static void a_put_that_fails_changes_nothing(void **state)
{
	uint64_t seed = test_random_seed("route");
	static struct world w;

	(void)state;
	world_init(&w, 3);
	make_kinds(&w, 100, &seed);
	for (uint32_t i = 0; i < 3 * PUTS; i++) {
		uint32_t kind = test_random_below(&seed, 100);
		int rc = FTMEM_ENOMEM;

		for (unsigned n = 1; rc == FTMEM_ENOMEM; n++) {
			alloc_fail_at(n);
			rc = put_kind(&w, i % 3, kind);
			alloc_fail_off();
		}
		assert_int_equal(rc, 0);
	}
	assert_int_equal(go_there(&w), 0);
	check_arrived(&w);
	assert_int_equal(answer_all(&w), 0);
	assert_int_equal(go_back(&w), 0);
	check_replies(&w);
	world_deinit(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(peers_lie_powers_of_two_apart),
		cmocka_unit_test(records_find_their_owner_and_answers_their_way_back),
		cmocka_unit_test(every_run_sends_the_same_bytes),
		cmocka_unit_test(an_index_does_not_depend_on_other_records),
		cmocka_unit_test(what_all_say_alike_floods_nobody),
		cmocka_unit_test(equal_bytes_for_different_ranks_do_not_melt),
		cmocka_unit_test(different_records_of_one_checksum_do_not_melt),
		cmocka_unit_test(without_any_answer_replies_are_empty),
		cmocka_unit_test(a_put_without_sense_is_refused),
		cmocka_unit_test(memory_is_freed_when_records_moved_on),
		cmocka_unit_test(damaged_messages_never_crash),
		cmocka_unit_test(every_failed_allocation_is_told),
		cmocka_unit_test(a_put_that_fails_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
