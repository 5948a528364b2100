/* SPDX-License-Identifier: BSD-3-Clause */
/* Rebuilding in one pass, of blocks that nobody verified. */
#include "checksum.h"
#include "rebuild_cluster.h"

/* Blocks of a member's own data that do not fit their checksums: what who copies them to
 * the regions finds. */
static uint32_t bad_data(const struct cluster *c, uint32_t rank)
{
	const struct slot *s = &c->job.arena[rank]->slot[0];
	const struct rail *r = &c->job.arena[rank]->rails[0];
	uint32_t me = s->shape->member[0], bad = 0;

	for (uint32_t chunk = 0; chunk < rail_k(r); chunk++)
		for (uint32_t row = 0; row < rail_chunk_rows(r, me); row++) {
			uint32_t len = rail_data_len(r, me, chunk, row);

			bad += len > 0 &&
			       checksum(s->data + rail_data_offset(r, me, chunk, row), len) !=
				       s->sums[slot_data_sum_index(s->shape, 0, me, chunk, row)];
		}
	return bad;
}

/* Runs to its end with all messages received; whether damage was met by anyone. */
static bool meets_damage(struct cluster *c, uint64_t *random)
{
	struct agent a[TEST_JOB_RANKS];
	bool damaged = false;

	fake_net_set_chance(c->net, 30 + test_random_below(random, 71));
	run(c, a);
	for (uint32_t i = 0; i < c->job.ranks; i++) {
		if (a[i].rc != 0)
			fail_msg("agent %u: %s", i, a[i].message);
		damaged = damaged || a[i].report.damaged_blocks > 0 || bad_data(c, i) > 0;
		assert_int_equal(a[i].report.repaired_blocks, 0);
	}
	assert_int_equal(fake_net_under_way(c->net), 0);
	assert_int_equal(fake_net_unreceived(c->net), 0);
	return damaged;
}

static void set_up_pass(struct cluster *c, uint32_t n, uint32_t m, const uint64_t *bytes)
{
	struct test_job_spec spec = spec_of(n, m, bytes);

	set_up(c, &spec);
	c->one_pass = true;
}

static void assert_all_whole(const struct cluster *c)
{
	for (uint32_t i = 0; i < c->job.ranks; i++)
		if (!slot_whole(c, i))
			fail_msg("rank %u is not what it was", i);
}

static void every_subset_of_m_losses_is_rebuilt(void **state)
{
	uint64_t random = test_random_seed("pass");

	(void)state;
	for (uint32_t n = 2; n <= 5; n++)
		for (uint32_t m = 1; m <= 3 && m < n; m++)
			for (uint32_t i = 0; i < SIZES; i++) {
				struct cluster c;

				set_up_pass(&c, n, m, sizes[i]);
				for (uint64_t mask = 0; mask < UINT64_C(1) << n; mask++) {
					if ((uint32_t)__builtin_popcountll(mask) > m)
						continue;
					lose(&c, mask);
					c.window = 1 + test_random_below(&random, 4);
					reset(&c, test_random(&random));
					assert_false(meets_damage(&c, &random));
					assert_all_whole(&c);
				}
				tear_down(&c);
			}
}

/* Whoever needs it, or nobody. */
static void damage_each_block(uint32_t m, uint64_t lost, uint64_t *random)
{
	struct cluster c;
	struct rail r;

	set_up_pass(&c, 4, m, sizes[2]);
	lose(&c, lost);
	r = rail_of(&c, 0);
	for (uint32_t x = 0; x < 4 * 4 * rail_rows(&r); x++) {
		struct rebuild_bad b = bad_at(&r, x % 4, x / 4 % 4, x / 16);
		uint32_t len;
		uint8_t *block = block_of(&c, &r, &b, &len);

		if (c.lost[b.member] || len == 0)
			continue;
		reset(&c, test_random(random));
		block[test_random_below(random, len)] ^= 0x20;
		if (!meets_damage(&c, random))
			fail_msg("m %u, lost %x: member %u, stripe %u, row %u", m, (unsigned)lost,
			         x % 4, x / 4 % 4, x / 16);
	}
	tear_down(&c);
}

static void any_damaged_block_of_a_live_member_is_met(void **state)
{
	uint64_t random = test_random_seed("pass");

	(void)state;
	for (uint32_t m = 1; m <= 3; m++)
		for (uint64_t lost = 0; lost < 16; lost++)
			if ((uint32_t)__builtin_popcountll(lost) <= m)
				damage_each_block(m, lost, &random);
}

/* Told by an error, or met as damage; else all is whole. */
static void what_is_damaged_on_its_way_is_met(void **state)
{
	uint64_t random = test_random_seed("pass");

	(void)state;
	for (uint32_t m = 1; m <= 2; m++) {
		bool hit = true;
		uint32_t met = 0;

		for (uint32_t nth = 1; hit; nth++) {
			struct agent a[TEST_JOB_RANKS];
			struct cluster c;
			bool damaged = false;

			set_up_pass(&c, 4, m, sizes[2]);
			lose(&c, m == 1 ? 4 : 9);
			reset(&c, test_random(&random));
			c.fails = true;
			fake_net_corrupt(c.net, FAKE_NET_ANY, FAKE_NET_ANY, FAKE_NET_ANY, nth);
			run(&c, a);
			for (uint32_t i = 0; i < 4; i++)
				damaged = damaged || a[i].rc < 0 ||
				          a[i].report.damaged_blocks > 0 || bad_data(&c, i) > 0;
			hit = fake_net_corrupted(c.net);
			assert_int_equal(damaged, hit);
			met += hit;
			if (!hit)
				assert_all_whole(&c);
			tear_down(&c);
		}
		assert_true(met > 5);
	}
}

/* What landed() was told, and whether it was so. */
struct watch {
	const struct cluster *c;
	uint32_t rank, rows;
	bool right;
};

static void look(void *arg, uint32_t rows)
{
	struct watch *w = arg;
	const struct slot *s = &w->c->job.arena[w->rank]->slot[0];
	const struct rail *r = &w->c->job.arena[w->rank]->rails[0];
	uint32_t me = s->shape->member[0];
	struct slot want;

	slot_init(&want, s->shape, w->c->whole[w->rank]);
	w->right = w->right && rows > w->rows;
	for (uint32_t chunk = 0; chunk < rail_k(r); chunk++)
		for (uint32_t row = w->rows; row < rows; row++) {
			uint64_t at = rail_data_offset(r, me, chunk, row);
			uint32_t len = rail_data_len(r, me, chunk, row);

			w->right = w->right &&
			           (len == 0 || memcmp(s->data + at, want.data + at, len) == 0);
		}
	w->rows = rows;
}

static void rows_land_in_order_and_whole(void **state)
{
	uint64_t random = test_random_seed("pass");

	(void)state;
	for (uint32_t i = 0; i < 40; i++) {
		uint32_t lost = 1u << i % 4 | 1u << i / 4 % 4;
		struct watch watch[4];
		struct cluster c;
		struct rail r;

		set_up_pass(&c, 4, 2, sizes[i % SIZES]);
		lose(&c, lost);
		c.window = 1 + test_random_below(&random, 4);
		reset(&c, test_random(&random));
		r = rail_of(&c, 0);
		for (uint32_t x = 0; x < 4; x++) {
			watch[x] = (struct watch){&c, x, 0, true};
			c.pass[x] = (struct rebuild_pass){look, &watch[x]};
		}
		assert_false(meets_damage(&c, &random));
		for (uint32_t x = 0; x < 4; x++) {
			assert_true(!(lost >> x & 1) || watch[x].right);
			assert_int_equal(watch[x].rows, rail_rows(&r));
		}
		tear_down(&c);
	}
}

/* In their rails, lent members as well. */
static void ranks_go_through_all_their_rails(void **state)
{
	uint64_t random = test_random_seed("pass");

	(void)state;
	for (uint32_t i = 0; i < 20; i++) {
		struct test_job_spec spec = {
			.nodes = 4, .parity = 1 + i % 2, .ranks_on = {2, 1, 3, 2}};
		struct cluster c;

		for (uint32_t x = 0; x < 8; x++)
			spec.data_bytes[x] = test_random_below(&random, 9) * 4099;
		set_up(&c, &spec);
		c.one_pass = true;
		lose(&c, i % 4 == 0 ? 3 : i % 4 == 1 ? 4 : i % 4 == 2 ? 0x38 : 0);
		reset(&c, test_random(&random));
		assert_false(meets_damage(&c, &random));
		assert_all_whole(&c);
		tear_down(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_subset_of_m_losses_is_rebuilt),
		cmocka_unit_test(any_damaged_block_of_a_live_member_is_met),
		cmocka_unit_test(what_is_damaged_on_its_way_is_met),
		cmocka_unit_test(rows_land_in_order_and_whole),
		cmocka_unit_test(ranks_go_through_all_their_rails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
