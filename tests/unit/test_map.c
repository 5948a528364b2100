/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../util/alloc_fail.h"
#include "error.h"
#include "map.h"

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(random_state >> 33) % n;
}

/* Ranks in order on nodes of count[i] ranks each. */
static struct map_rank *place(const uint32_t *count, uint32_t nodes, uint32_t *ranks)
{
	struct map_rank *rank;
	uint32_t r = 0;

	*ranks = 0;
	for (uint32_t i = 0; i < nodes; i++)
		*ranks += count[i];
	rank = calloc(*ranks, sizeof(*rank));
	assert_non_null(rank);
	for (uint32_t i = 0; i < nodes; i++)
		for (uint32_t j = 0; j < count[i]; j++)
			snprintf(rank[r++].node, sizeof(rank->node), "node%u", i);
	return rank;
}

/* Nodes of one rank each. */
static struct map *map_of_nodes(uint32_t nodes, uint32_t aim, uint32_t parity)
{
	struct map_rank *rank = calloc(nodes, sizeof(*rank));
	struct map *m = NULL;

	assert_non_null(rank);
	for (uint32_t i = 0; i < nodes; i++)
		snprintf(rank[i].node, sizeof(rank[i].node), "n%u", i);
	assert_int_equal(map_new(rank, nodes, aim, parity, &m), 0);
	free(rank);
	return m;
}

/* What holds for every map, whatever it was made of. */
static void check_rails(const struct map *m)
{
	uint32_t *homes = calloc(m->ranks, sizeof(*homes));
	uint32_t *lent = calloc(m->ranks, sizeof(*lent));
	struct rail rail;

	assert_non_null(homes);
	assert_non_null(lent);
	for (uint32_t id = 0; id < map_rail_count(m); id++) {
		uint32_t group;

		map_rail(m, id, &rail);
		assert_int_equal(rail.id, id);
		assert_int_equal(rail.m, m->parity);
		group = m->node[m->node_of_rank[rail.rank[0]]].group;
		assert_int_equal(rail.n, m->group[group].nodes);
		for (uint32_t i = 0; i < rail.n; i++) {
			uint32_t node = m->node_of_rank[rail.rank[i]];

			assert_int_equal(m->node[node].group, group);
			if (i)
				assert_true(node > m->node_of_rank[rail.rank[i - 1]]);
			homes[rail.rank[i]] += rail.data_bytes[i] == 1;
			lent[rail.rank[i]] += rail.data_bytes[i] == 0;
		}
	}
	for (uint32_t r = 0; r < m->ranks; r++) {
		const struct map_node *node = &m->node[m->node_of_rank[r]];
		uint32_t extra = m->group[node->group].rails - node->ranks;

		/* Each rank's data is in one rail; what a node lends, its ranks share. */
		assert_int_equal(homes[r], 1);
		assert_true(lent[r] == extra / node->ranks || lent[r] == extra / node->ranks + 1);
	}
	free(lent);
	free(homes);
}

static void check_rails_of(const struct map *m, uint32_t rank)
{
	uint32_t *ids = NULL, count = 0, found = 0;
	struct rail rail;

	assert_int_equal(map_rails_of(m, rank, &ids, &count), 0);
	for (uint32_t i = 0; i < count; i++) {
		int at;

		map_rail(m, ids[i], &rail);
		at = rail_find(&rail, rank);
		assert_true(at >= 0);
		assert_int_equal(rail.data_bytes[at], i == 0);
		assert_true(i == 0 || ids[i] > ids[i - 1]);
	}
	for (uint32_t id = 0; id < map_rail_count(m); id++) {
		map_rail(m, id, &rail);
		found += rail_find(&rail, rank) >= 0;
	}
	assert_int_equal(found, count);
	free(ids);
}

static void nodes_are_numbered_by_their_lowest_rank(void **state)
{
	struct map_rank rank[] = {{"c", ""}, {"a", ""}, {"c", ""}, {"b", ""}, {"a", ""}};
	const uint32_t node[] = {0, 1, 0, 2, 1}, local[] = {0, 0, 1, 0, 1};
	struct map *m = NULL;

	(void)state;
	assert_int_equal(map_new(rank, 5, 8, 1, &m), 0);
	assert_int_equal(m->nodes, 3);
	assert_int_equal(m->groups, 1);
	assert_string_equal(m->node[0].name, "c");
	assert_string_equal(m->node[1].name, "a");
	assert_string_equal(m->node[2].name, "b");
	assert_int_equal(m->node[2].first_rank, 3);
	assert_memory_equal(m->node_of_rank, node, sizeof(node));
	assert_memory_equal(m->local_index, local, sizeof(local));
	check_rails(m);
	map_free(m);
}

static void one_node_has_no_parity(void **state)
{
	const uint32_t count[] = {3};
	struct map_rank *rank;
	struct rail rail;
	struct map *m = NULL;
	uint32_t ranks;

	(void)state;
	rank = place(count, 1, &ranks);
	assert_int_equal(map_new(rank, ranks, 8, 2, &m), 0);
	assert_int_equal(m->parity, 0);
	assert_int_equal(map_rail_count(m), 3);
	map_rail(m, 2, &rail);
	assert_int_equal(rail.n, 1);
	assert_int_equal(rail.m, 0);
	assert_int_equal(rail.rank[0], 2);
	map_free(m);
	free(rank);
}

static void groups_are_near_equal_and_larger_than_parity(void **state)
{
	(void)state;
	for (uint32_t nodes = 2; nodes < 80; nodes++) {
		for (uint32_t aim = 2; aim <= 16; aim += 2) {
			for (uint32_t parity = 1; parity <= 4 && parity < nodes; parity++) {
				struct map *m = map_of_nodes(nodes, aim, parity);
				uint32_t least = nodes / m->groups;
				uint32_t last = 0;

				assert_true(least > parity);
				for (uint32_t g = 0; g < m->groups; g++)
					assert_true(m->group[g].nodes == least
					            || m->group[g].nodes == least + 1);
				/* Runs of neighbours. */
				for (uint32_t i = 0; i < nodes; i++) {
					assert_true(m->node[i].group == last
					            || m->node[i].group == last + 1);
					last = m->node[i].group;
				}
				assert_int_equal(last, m->groups - 1);
				check_rails(m);
				map_free(m);
			}
		}
	}
}

static void groups_are_around_the_aim(void **state)
{
	const uint32_t nodes[] = {8, 11, 12, 16, 20, 64, 1000}, groups[] = {1, 1, 2, 2, 3, 8, 125};

	(void)state;
	for (uint32_t i = 0; i < 7; i++) {
		struct map *m = map_of_nodes(nodes[i], 8, 1);

		assert_int_equal(m->groups, groups[i]);
		map_free(m);
	}
}

static void unequal_rank_counts_share_what_is_lent(void **state)
{
	const uint32_t count[][4] = {
		{1, 1, 1, 1}, {3, 1, 2, 3}, {5, 2, 1, 4}, {1, 8, 3, 8}, {7, 7, 7, 2},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(count) / sizeof(count[0]); i++) {
		struct map *m = NULL;
		uint32_t ranks;
		struct map_rank *rank = place(count[i], 4, &ranks);

		for (uint32_t aim = 2; aim <= 4; aim += 2) {
			assert_int_equal(map_new(rank, ranks, aim, 1, &m), 0);
			check_rails(m);
			for (uint32_t r = 0; r < ranks; r++)
				check_rails_of(m, r);
			map_free(m);
		}
		free(rank);
	}
}

static void racks_are_spread_over_the_groups(void **state)
{
	struct map_rank rank[24];
	struct map *m = NULL;

	(void)state;
	/* Racks of unequal size, in any order: 11, 6, 5 and 2 nodes. */
	for (uint32_t i = 0; i < 24; i++) {
		uint32_t rack = i % 12 < 5 ? 0 : i % 4;

		memset(&rank[i], 0, sizeof(rank[i]));
		snprintf(rank[i].node, sizeof(rank[i].node), "n%u", i);
		snprintf(rank[i].rack, sizeof(rank[i].rack), "r%u", rack);
	}
	assert_int_equal(map_new(rank, 24, 8, 1, &m), 0);
	assert_int_equal(m->groups, 3);
	for (uint32_t rack = 0; rack < 4; rack++) {
		uint32_t in_group[3] = {0}, all = 0;
		char name[FTMEM_NAME_MAX + 1];

		snprintf(name, sizeof(name), "r%u", rack);
		for (uint32_t i = 0; i < 24; i++) {
			if (strcmp(rank[i].rack, name) != 0)
				continue;
			in_group[m->node[i].group]++;
			all++;
		}
		for (int g = 0; g < 3; g++)
			assert_true(in_group[g] == all / 3 || in_group[g] == all / 3 + 1);
	}
	for (int g = 0; g < 3; g++)
		assert_int_equal(m->group[g].nodes, 8);
	check_rails(m);
	map_free(m);
}

static void refuses_what_cannot_be_protected(void **state)
{
	struct map_rank rank[] = {{"a", ""}, {"b", ""}, {"a", "r1"}}, bad = {"", ""};
	struct map_rank many[65];
	struct map *m = NULL;

	(void)state;
	assert_int_equal(map_new(rank, 2, 8, 2, &m), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "at least 3 nodes, but there are 2"));
	assert_int_equal(map_new(rank, 3, 8, 1, &m), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "rack"));
	assert_int_equal(map_new(rank, 0, 8, 1, &m), FTMEM_EINVAL);
	assert_int_equal(map_new(rank, 2, 1, 1, &m), FTMEM_EINVAL);
	assert_int_equal(map_new(rank, 2, 8, 0, &m), FTMEM_EINVAL);
	assert_int_equal(map_new(&bad, 1, 8, 1, &m), FTMEM_EINVAL);
	strcpy(bad.node, "a b");
	assert_int_equal(map_new(&bad, 1, 8, 1, &m), FTMEM_EINVAL);
	memset(bad.node, 'a', sizeof(bad.node));
	assert_int_equal(map_new(&bad, 1, 8, 1, &m), FTMEM_EINVAL);

	memset(many, 0, sizeof(many));
	for (int i = 0; i < 65; i++)
		snprintf(many[i].node, sizeof(many[i].node), "n%d", i);
	assert_int_equal(map_new(many, 65, 128, 1, &m), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "65 nodes would exceed 64"));
	assert_null(m);
	assert_int_equal(map_new(many, 64, 128, 1, &m), 0);
	map_free(m);
	map_free(NULL);
}

static uint8_t *write_blob(const struct map *m, uint64_t *bytes)
{
	uint8_t *blob;

	*bytes = map_blob_bytes(m);
	blob = malloc(*bytes);
	assert_non_null(blob);
	memset(blob, 0xee, *bytes);
	map_blob_write(m, blob);
	return blob;
}

static struct map *sample(void)
{
	const uint32_t count[] = {2, 1, 3, 1, 2};
	uint32_t ranks;
	struct map_rank *rank = place(count, 5, &ranks);
	struct map *m = NULL;

	assert_int_equal(map_new(rank, ranks, 2, 1, &m), 0);
	assert_int_equal(m->groups, 2);
	free(rank);
	return m;
}

static void check_equal(const struct map *copy, const struct map *m)
{
	assert_int_equal(copy->ranks, m->ranks);
	assert_int_equal(copy->nodes, m->nodes);
	assert_int_equal(copy->groups, m->groups);
	assert_int_equal(copy->parity, m->parity);
	assert_memory_equal(copy->node, m->node, m->nodes * sizeof(*m->node));
	assert_memory_equal(copy->group, m->group, m->groups * sizeof(*m->group));
	assert_memory_equal(copy->node_of_rank, m->node_of_rank, m->ranks * 4);
	assert_memory_equal(copy->local_index, m->local_index, m->ranks * 4);
	assert_memory_equal(copy->rank, m->rank, m->ranks * 4);
	assert_memory_equal(copy->member, m->member, m->nodes * 4);
	check_rails(copy);
}

static void blob_gives_the_equal_map(void **state)
{
	struct map *m = sample(), *copy = NULL;
	uint64_t bytes;
	uint8_t *blob = write_blob(m, &bytes);

	(void)state;
	assert_int_equal(map_blob_read(blob, bytes, &copy), 0);
	check_equal(copy, m);
	map_free(copy);
	map_free(m);
	free(blob);
}

static void a_copy_is_the_equal_map(void **state)
{
	struct map *m = sample(), *copy = NULL;
	int rc = FTMEM_ENOMEM;

	(void)state;
	for (unsigned n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = map_copy(m, &copy);
		alloc_fail_off();
		assert_true(rc == 0 || !copy);
	}
	assert_int_equal(rc, 0);
	check_equal(copy, m);
	map_free(copy);
	map_free(m);
}

static void blob_is_laid_out_as_documented(void **state)
{
	struct map_rank rank[] = {{"x", ""}, {"y", ""}, {"x", ""}};
	static const uint8_t head[32] = {'F', 'T', 'M', 'M', 3, 0, 0, 0, 2, 0,
	                                 0,   0,   1,   0,   0, 0, 1, 0, 0, 0};
	uint8_t expected[32 + 2 * 68 + 3 * 4] = {0};
	struct map *m = NULL;
	uint64_t bytes;
	uint8_t *blob;

	(void)state;
	assert_int_equal(map_new(rank, 3, 8, 1, &m), 0);
	memcpy(expected, head, sizeof(head));
	expected[32] = 'x';
	expected[32 + 68] = 'y';
	expected[32 + 2 * 68 + 4] = 1;
	blob = write_blob(m, &bytes);
	assert_int_equal(bytes, sizeof(expected));
	assert_memory_equal(blob, expected, sizeof(expected));
	map_free(m);
	free(blob);
}

/* Reading must refuse, or give a map that makes sense and has these very bytes. */
static void read_anything(const uint8_t *blob, uint64_t bytes)
{
	uint8_t *exact = malloc(bytes ? bytes : 1), *again;
	struct map *m = NULL;
	uint64_t size;
	int rc;

	assert_non_null(exact);
	memcpy(exact, blob, bytes);
	rc = map_blob_read(exact, bytes, &m);
	if (rc) {
		assert_int_equal(rc, FTMEM_ECORRUPT);
		assert_null(m);
	} else {
		check_rails(m);
		again = write_blob(m, &size);
		assert_int_equal(size, bytes);
		assert_memory_equal(again, exact, bytes);
		free(again);
		map_free(m);
	}
	free(exact);
}

static void arbitrary_bytes_are_refused_or_make_sense(void **state)
{
	struct map *m = sample();
	uint64_t bytes;
	uint8_t *blob = write_blob(m, &bytes), *broken = malloc(bytes);

	(void)state;
	assert_non_null(broken);
	for (uint64_t cut = 0; cut < bytes; cut++)
		read_anything(blob, cut);
	for (uint64_t at = 0; at < bytes; at++) {
		static const uint8_t value[] = {0, 1, 2, 5, 0x40, 0x7f, 0x80, 0xff};

		for (size_t v = 0; v < sizeof(value); v++) {
			memcpy(broken, blob, bytes);
			broken[at] = value[v];
			read_anything(broken, bytes);
		}
	}
	random_state = 1;
	for (int i = 0; i < 20000; i++) {
		memcpy(broken, blob, bytes);
		for (uint32_t n = 1 + random_below(4); n > 0; n--)
			broken[random_below((uint32_t)bytes)] = (uint8_t)random_below(256);
		read_anything(broken, bytes);
	}
	free(broken);
	free(blob);
	map_free(m);
}

/* One wrong word each, with what the message must say. */
static void damage_is_named(void **state)
{
	struct map *m = sample(), *out = NULL;
	const uint32_t node = 32, ranks = 32 + 5 * 68;
	const struct {
		uint32_t at;
		uint8_t value;
		const char *text;
	} damage[] = {
		{0, 'X', "begin"},
		{4, 8, "size"},
		{12, 0, "groups make no sense"},
		{12, 6, "groups make no sense"},
		{16, 0, "parity makes no sense"},
		{16, 64, "parity makes no sense"},
		{16, 2, "too few or too many nodes"},
		{20, 1, "reserved"},
		{node, 0, "name is none"},
		{node, '/', "name is none"},
		{node + 63, 'x', "padded"},
		{node + 4, '1', "two nodes have one name"},
		{node + 64, 2, "group is none"},
		{node + 67, 1, "group is none"},
		{ranks, 1, "numbered"},
		{ranks + 8 * 4, 3, "a node has no ranks"},
		{ranks + 8 * 4, 5, "numbered"},
	};
	uint64_t bytes;

	(void)state;
	for (size_t i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
		uint8_t *blob = write_blob(m, &bytes);

		blob[damage[i].at] = damage[i].value;
		if (strstr(damage[i].text, "no ranks"))
			blob[ranks + 7 * 4] = 3;
		assert_int_equal(map_blob_read(blob, bytes, &out), FTMEM_ECORRUPT);
		if (!strstr(error_msg(), damage[i].text))
			fail_msg("damage %zu: \"%s\" lacks \"%s\"", i, error_msg(), damage[i].text);
		free(blob);
	}
	map_free(m);
}

static void every_failed_allocation_is_reported(void **state)
{
	struct map_rank rank[] = {{"a", "x"}, {"b", "y"}, {"c", "x"}, {"a", "x"}};
	struct map *m = NULL;
	uint32_t *ids = NULL, count;
	uint64_t bytes;
	uint8_t *blob;
	int rc = FTMEM_ENOMEM;

	(void)state;
	for (unsigned n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = map_new(rank, 4, 8, 1, &m);
		alloc_fail_off();
		assert_true(rc == 0 || !m);
	}
	assert_int_equal(rc, 0);

	alloc_fail_at(1);
	assert_int_equal(map_rails_of(m, 0, &ids, &count), FTMEM_ENOMEM);
	alloc_fail_off();
	assert_null(ids);

	blob = write_blob(m, &bytes);
	map_free(m);
	m = NULL;
	rc = FTMEM_ENOMEM;
	for (unsigned n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = map_blob_read(blob, bytes, &m);
		alloc_fail_off();
		assert_true(rc == 0 || !m);
	}
	assert_int_equal(rc, 0);
	map_free(m);
	free(blob);
}

/* Quadratic work here would take minutes. */
static void a_job_of_131072_ranks_is_mapped(void **state)
{
	const uint32_t ranks = 131072, nodes = 16384;
	struct map_rank *rank = calloc(ranks, sizeof(*rank));
	struct map *m = NULL, *copy = NULL;
	uint64_t bytes;
	uint8_t *blob;

	(void)state;
	assert_non_null(rank);
	random_state = 7;
	for (uint32_t r = 0; r < ranks; r++) {
		uint32_t node = r < nodes ? r : random_below(nodes);

		snprintf(rank[r].node, sizeof(rank[r].node), "a-rather-long-prefix-%u", node);
		snprintf(rank[r].rack, sizeof(rank[r].rack), "rack%u", node / 32);
	}
	assert_int_equal(map_new(rank, ranks, 8, 2, &m), 0);
	assert_int_equal(m->nodes, nodes);
	assert_int_equal(m->groups, nodes / 8);
	check_rails(m);
	blob = write_blob(m, &bytes);
	assert_int_equal(map_blob_read(blob, bytes, &copy), 0);
	assert_memory_equal(copy->node_of_rank, m->node_of_rank, ranks * 4);
	map_free(copy);
	map_free(m);
	free(blob);
	free(rank);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nodes_are_numbered_by_their_lowest_rank),
		cmocka_unit_test(one_node_has_no_parity),
		cmocka_unit_test(groups_are_near_equal_and_larger_than_parity),
		cmocka_unit_test(groups_are_around_the_aim),
		cmocka_unit_test(unequal_rank_counts_share_what_is_lent),
		cmocka_unit_test(racks_are_spread_over_the_groups),
		cmocka_unit_test(refuses_what_cannot_be_protected),
		cmocka_unit_test(blob_gives_the_equal_map),
		cmocka_unit_test(a_copy_is_the_equal_map),
		cmocka_unit_test(blob_is_laid_out_as_documented),
		cmocka_unit_test(arbitrary_bytes_are_refused_or_make_sense),
		cmocka_unit_test(damage_is_named),
		cmocka_unit_test(every_failed_allocation_is_reported),
		cmocka_unit_test(a_job_of_131072_ranks_is_mapped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
