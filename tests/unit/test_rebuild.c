/* SPDX-License-Identifier: BSD-3-Clause */
#include "rebuild_cluster.h"

/* --- losses --- */

static void for_every_subset(struct cluster *c, uint32_t n, uint32_t m, uint64_t *random,
                             void (*fn)(struct cluster *c, uint32_t losses, uint64_t *random))
{
	for (uint64_t mask = 0; mask < UINT64_C(1) << n; mask++) {
		uint32_t losses = (uint32_t)__builtin_popcountll(mask);

		if (losses > m)
			continue;
		lose(c, mask);
		c->window = 1 + test_random_below(random, 4);
		reset(c, test_random(random));
		fn(c, losses, random);
	}
}

static void for_every_rail(void (*fn)(struct cluster *c, uint32_t losses, uint64_t *random),
                           bool parity)
{
	uint64_t random = test_random_seed("rebuild");

	for (uint32_t n = 2; n <= 6; n++)
		for (uint32_t m = 1; m <= 3 && m < n; m++)
			for (uint32_t i = 0; i < SIZES; i++) {
				struct test_job_spec spec = spec_of(n, m, sizes[i]);
				struct cluster c;

				set_up(&c, &spec);
				c.parity = parity;
				for_every_subset(&c, n, m, &random, fn);
				tear_down(&c);
			}
}

/* And every byte is counted once, by whom it was stored. */
static void rebuild_losses(struct cluster *c, uint32_t losses, uint64_t *random)
{
	struct agent a[TEST_JOB_RANKS];

	(void)losses;
	fake_net_set_chance(c->net, 30 + test_random_below(random, 71));
	run(c, a);
	assert_whole(c, a);
	for (uint32_t i = 0; i < c->job.ranks; i++) {
		const struct rail *r = &c->job.arena[i]->rails[0];

		assert_int_equal(a[i].report.data_bytes, c->lost[i] ? r->data_bytes[i] : 0);
		assert_int_equal(a[i].report.parity_bytes,
		                 c->lost[i] && c->parity ? r->m * rail_parity_bytes(r) : 0);
		assert_int_equal(a[i].report.repaired_blocks, 0);
	}
}

static void every_subset_of_m_losses_is_rebuilt(void **state)
{
	(void)state;
	for_every_rail(rebuild_losses, true);
}

static void data_alone_is_rebuilt_where_parity_is_not_wanted(void **state)
{
	(void)state;
	for_every_rail(rebuild_losses, false);
}

/* --- bad blocks --- */

static void rebuild_bad_blocks(struct cluster *c, uint32_t losses, uint64_t *random)
{
	struct rail r = rail_of(c, 0);
	uint32_t spoiled = spoil_blocks(c, &r, losses, random), repaired = 0;
	struct rebuild_member member[RAIL_MAX];
	struct agent a[TEST_JOB_RANKS];
	bool possible = false;

	members_of(c, &r, 0, member);
	assert_int_equal(rebuild_possible(&r, member, c->bad, c->bads, &possible), 0);
	assert_true(possible);
	run(c, a);
	assert_whole(c, a);
	for (uint32_t i = 0; i < c->job.ranks; i++)
		repaired += (uint32_t)a[i].report.repaired_blocks;
	assert_int_equal(repaired, spoiled);
}

static void bad_blocks_of_live_members_are_rebuilt_besides(void **state)
{
	(void)state;
	for_every_rail(rebuild_bad_blocks, true);
	for_every_rail(rebuild_bad_blocks, false);
}

static bool has_data(const struct rail *r, uint32_t stripe)
{
	for (uint32_t i = 0; i < r->n; i++)
		if (!rail_is_parity(r, stripe, i) && r->data_bytes[i] > 0)
			return true;
	return false;
}

/* All that is left of a stripe is spoiled: its parity, if it has no data. */
static void rebuild_stripes_of_nothing(struct cluster *c, uint32_t losses, uint64_t *random)
{
	struct rail r = rail_of(c, 0);

	(void)losses;
	(void)random;
	for (uint32_t stripe = 0; stripe < r.n; stripe++)
		for (uint32_t i = 0; i < r.n && !has_data(&r, stripe); i++) {
			struct rebuild_bad b = bad_at(&r, i, stripe, 0);
			uint32_t len;
			uint8_t *block = block_of(c, &r, &b, &len);

			if (c->lost[i] || !b.parity)
				continue;
			block[0] ^= 0x10;
			c->bad[c->bads++] = b;
		}
	rebuild_all(c);
}

static void parity_of_stripes_without_data_is_rebuilt(void **state)
{
	const uint64_t bytes[6] = {BLOCK * 5 + 7, 0, 0, 0, 0, 0};
	uint64_t random = test_random_seed("rebuild");

	(void)state;
	for (uint32_t n = 2; n <= 6; n++)
		for (uint32_t m = 1; m <= 3 && m < n; m++) {
			struct test_job_spec spec = spec_of(n, m, bytes);
			struct cluster c;

			set_up(&c, &spec);
			for_every_subset(&c, n, m, &random, rebuild_stripes_of_nothing);
			tear_down(&c);
		}
}

/* --- agents --- */

static void one_rank_may_act_for_several_members(void **state)
{
	uint64_t random = test_random_seed("rebuild");

	(void)state;
	for (uint32_t run = 0; run < 100; run++) {
		uint32_t n = 2 + test_random_below(&random, 5);
		uint32_t m = 1 + test_random_below(&random, n - 1 < 3 ? n - 1 : 3);
		struct test_job_spec spec = spec_of(n, m, sizes[run % SIZES]);
		struct rail r;
		struct cluster c;
		uint64_t mask = 0;

		for (uint32_t i = 0; i < m; i++)
			mask |= UINT64_C(1) << test_random_below(&random, n);
		set_up(&c, &spec);
		lose(&c, mask);
		reset(&c, test_random(&random));
		for (uint32_t i = 0; i < n; i++)
			c.agent[i] = test_random_below(&random, n);
		r = rail_of(&c, 0);
		spoil_blocks(&c, &r, (uint32_t)__builtin_popcountll(mask), &random);
		rebuild_all(&c);
		tear_down(&c);
	}
}

/* Ranks alone on their node are members of all rails of their group. */
static void ranks_rebuild_all_their_rails_at_once(void **state)
{
	uint64_t random = test_random_seed("rebuild");

	(void)state;
	for (uint32_t run = 0; run < 40; run++) {
		struct test_job_spec spec = {
			.nodes = 4, .parity = 1 + run % 2, .ranks_on = {2, 1, 3, 2}};
		uint32_t ranks = 8, node, first = 0;
		struct cluster c;

		for (uint32_t i = 0; i < ranks; i++)
			spec.data_bytes[i] = test_random_below(&random, 9) * 4099;
		set_up(&c, &spec);
		/* A whole node, and ranks of it move to another number. */
		node = test_random_below(&random, 4);
		for (uint32_t i = 0; i < node; i++)
			first += spec.ranks_on[i];
		for (uint32_t i = first; i < first + spec.ranks_on[node]; i++)
			c.lost[i] = true;
		for (uint32_t i = 0; i < ranks; i++)
			c.agent[i] = test_random_below(&random, 3) == 0
			                     ? test_random_below(&random, ranks)
			                     : i;
		reset(&c, test_random(&random));
		rebuild_all(&c);
		tear_down(&c);
	}
}

/* --- what is possible --- */

static bool possible_by_counting(const struct cluster *c, const struct rail *r)
{
	for (uint32_t stripe = 0; stripe < r->n; stripe++)
		for (uint32_t row = 0; row < rail_rows(r); row++) {
			uint32_t erased = 0;

			for (uint32_t i = 0; i < r->n; i++) {
				struct rebuild_bad at = bad_at(r, i, stripe, row);
				bool bad = c->lost[i];
				uint32_t len;

				block_of(c, r, &at, &len);
				for (uint32_t x = 0; x < c->bads; x++)
					bad = bad || memcmp(&c->bad[x], &at, sizeof(at)) == 0;
				erased += bad && len > 0;
			}
			if (erased > r->m)
				return false;
		}
	return true;
}

static void possible_is_what_counting_says(void **state)
{
	uint64_t random = test_random_seed("rebuild");
	uint32_t yes = 0, no = 0;

	(void)state;
	for (uint32_t run = 0; run < 300; run++) {
		uint32_t n = 2 + test_random_below(&random, 5),
			 m = 1 + test_random_below(&random, n - 1);
		struct test_job_spec spec = spec_of(n, m, sizes[run % SIZES]);
		struct rebuild_member member[RAIL_MAX];
		struct cluster c;
		struct rail r;
		bool possible = false;

		memset(&c, 0, sizeof(c));
		test_job_init(&c.job, &spec);
		lose(&c, test_random_below(&random, 3) == 0
		                 ? UINT64_C(1) << test_random_below(&random, n)
		                 : 0);
		r = rail_of(&c, 0);
		while (rail_rows(&r) > 0 && c.bads < n * 2)
			c.bad[c.bads++] = bad_at(&r, test_random_below(&random, n),
			                         test_random_below(&random, n),
			                         test_random_below(&random, rail_rows(&r)));
		members_of(&c, &r, 0, member);
		assert_int_equal(rebuild_possible(&r, member, c.bad, c.bads, &possible), 0);
		assert_int_equal(possible, possible_by_counting(&c, &r));
		yes += possible;
		no += !possible;
		tear_down(&c);
	}
	assert_true(yes > 20 && no > 20);
}

static void more_than_m_losses_are_impossible(void **state)
{
	struct test_job_spec spec = spec_of(5, 2, sizes[2]);
	struct rebuild_member member[RAIL_MAX];
	struct cluster c;
	struct rail r;

	(void)state;
	set_up(&c, &spec);
	r = rail_of(&c, 0);
	for (uint64_t mask = 0; mask < 32; mask++) {
		bool possible;

		lose(&c, mask);
		members_of(&c, &r, 0, member);
		assert_int_equal(rebuild_possible(&r, member, NULL, 0, &possible), 0);
		assert_int_equal(possible, __builtin_popcountll(mask) <= 2);
	}
	tear_down(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_subset_of_m_losses_is_rebuilt),
		cmocka_unit_test(data_alone_is_rebuilt_where_parity_is_not_wanted),
		cmocka_unit_test(bad_blocks_of_live_members_are_rebuilt_besides),
		cmocka_unit_test(parity_of_stripes_without_data_is_rebuilt),
		cmocka_unit_test(one_rank_may_act_for_several_members),
		cmocka_unit_test(ranks_rebuild_all_their_rails_at_once),
		cmocka_unit_test(possible_is_what_counting_says),
		cmocka_unit_test(more_than_m_losses_are_impossible),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
