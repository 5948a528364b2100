/* SPDX-License-Identifier: BSD-3-Clause */
/* Rebuilds that cannot succeed: what is wrong, damaged, silent, or out of memory. */
#include "rebuild_cluster.h"

#include "alloc_fail.h"

/* aligned_alloc() is made to fail like the others, as allocation 0. */
static bool fail_aligned;
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	return fail_aligned ? NULL : __real_aligned_alloc(align, bytes);
}

/* A block of a live member that is wrong, though nobody says so. */
static void wrong_sources_are_found_out(void **state)
{
	struct test_job_spec spec = spec_of(4, 2, sizes[2]);
	uint64_t random = test_random_seed("rebuild");
	uint32_t found = 0;

	(void)state;
	for (uint32_t chunk = 0; chunk < 2; chunk++)
		for (uint32_t row = 0; row < 4; row++) {
			struct agent a[TEST_JOB_RANKS];
			struct cluster c;
			struct rail r;

			set_up(&c, &spec);
			lose(&c, 2);
			reset(&c, test_random(&random));
			r = rail_of(&c, 0);
			c.fails = true;
			c.job.arena[0]->slot[0].data[rail_data_offset(&r, 0, chunk, row)] ^= 1;
			run(&c, a);
			for (uint32_t i = 0; i < 4; i++) {
				if (a[i].rc != FTMEM_ECORRUPT)
					continue;
				found++;
				/* Of its owner as it arrives, else of what is made of it. */
				assert_true(strstr(a[i].message, "rank 0")
				            || strstr(a[i].message, "rank 1"));
			}
			tear_down(&c);
		}
	assert_true(found > 0);
}

/* Any message between any two ranks: data, parity and checksums. Whatever is told to
 * be whole is, and what is not is told. */
static uint32_t damage_messages(uint32_t m, bool parity, uint64_t lost, uint64_t *random)
{
	struct test_job_spec spec = spec_of(4, m, sizes[2]);
	uint32_t found = 0;
	bool damaged = true;

	for (uint32_t nth = 1; damaged; nth++) {
		struct agent a[TEST_JOB_RANKS];
		struct cluster c;
		bool corrupt = false;

		set_up(&c, &spec);
		c.parity = parity;
		lose(&c, lost);
		reset(&c, test_random(random));
		c.fails = true;
		fake_net_corrupt(c.net, FAKE_NET_ANY, FAKE_NET_ANY, FAKE_NET_ANY, nth);
		run(&c, a);
		for (uint32_t i = 0; i < 4; i++)
			corrupt = corrupt || a[i].rc == FTMEM_ECORRUPT;
		damaged = fake_net_corrupted(c.net);
		if (damaged != corrupt)
			fail_msg("message %u: %s", nth,
			         damaged ? "its damage is not found" : "not damaged");
		found += corrupt;
		if (!corrupt)
			assert_whole(&c, a);
		tear_down(&c);
	}
	return found;
}

static void what_is_damaged_on_its_way_is_found_out(void **state)
{
	uint64_t random = test_random_seed("rebuild");

	(void)state;
	for (uint64_t lost = 1; lost < 16; lost *= 2) {
		assert_true(damage_messages(1, false, lost, &random) > 5);
		assert_true(damage_messages(1, true, lost, &random) > 5);
	}
	assert_true(damage_messages(2, true, 9, &random) > 5);
}

/* Whoever has a part waits no longer than the timeout, and who waits for the silent one
 * directly names it. */
static void a_silent_agent_is_named(void **state)
{
	struct test_job_spec spec = spec_of(2, 1, sizes[2]);
	struct agent a[TEST_JOB_RANKS];
	struct cluster c;

	(void)state;
	for (uint32_t lost = 0; lost < 2; lost++) {
		char name[16];

		set_up(&c, &spec);
		lose(&c, 1u << lost);
		reset(&c, 5);
		c.timeout_ms = SHORT_MS;
		fake_net_silence(c.net, 1 - lost);
		run(&c, a);
		snprintf(name, sizeof(name), "rank %u", 1 - lost);
		assert_int_equal(a[lost].rc, FTMEM_ETIMEOUT);
		assert_non_null(strstr(a[lost].message, name));
		tear_down(&c);
	}
	spec = spec_of(4, 1, sizes[2]);
	set_up(&c, &spec);
	lose(&c, 8);
	reset(&c, 5);
	c.timeout_ms = SHORT_MS;
	fake_net_hold(c.net, 2, FAKE_NET_ANY, FAKE_NET_ANY);
	run(&c, a);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(a[i].rc, FTMEM_ETIMEOUT);
	assert_true(strstr(a[0].message, "rank 2") || strstr(a[1].message, "rank 2"));
	tear_down(&c);
}

static void a_broken_network_is_an_error(void **state)
{
	struct test_job_spec spec = spec_of(3, 1, sizes[2]);
	struct agent a[TEST_JOB_RANKS];
	struct cluster c;

	(void)state;
	set_up(&c, &spec);
	lose(&c, 1);
	reset(&c, 5);
	c.timeout_ms = SHORT_MS;
	fake_net_break(c.net, 1);
	run(&c, a);
	assert_int_equal(a[1].rc, FTMEM_ENET);
	assert_int_equal(a[0].rc, FTMEM_ETIMEOUT);
	tear_down(&c);
}

static void without_parity_there_is_nothing_to_do(void **state)
{
	struct rail rail = {.n = 1, .block_bytes = TEST_JOB_BLOCK};
	struct rebuild_member member = {0};
	const struct rebuild_config config = {.rail = &rail, .member = &member, .window = 1};
	struct rebuild_report report = {0};

	(void)state;
	assert_int_equal(rebuild_rails(&config, 1, &report), 0);
	assert_int_equal(report.data_bytes, 0);
}

/* One rank acts for all: nothing is sent, so that allocations are all its own. */
static void a_failed_allocation_is_told_and_leaves_nothing(void **state)
{
	struct test_job_spec spec = spec_of(4, 2, sizes[2]);
	struct agent a = {0};
	struct cluster c;
	struct rail r;
	uint64_t random = 3;
	bool possible;
	unsigned n;

	(void)state;
	set_up(&c, &spec);
	memset(c.agent, 0, sizeof(c.agent));
	lose(&c, 4);
	reset(&c, 1);
	r = rail_of(&c, 0);
	spoil_blocks(&c, &r, 1, &random);
	a = (struct agent){.c = &c, .rc = FTMEM_ENOMEM};
	for (n = 1; a.rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		a.rc = rebuild_here(&a);
		alloc_fail_off();
	}
	assert_int_equal(a.rc, 0);
	assert_true(n > 6);
	assert_true(slot_whole(&c, 2));
	fail_aligned = true;
	assert_int_equal(rebuild_here(&a), FTMEM_ENOMEM);
	assert_non_null(strstr(error_msg(), "rail 0"));
	fail_aligned = false;
	alloc_fail_at(1);
	assert_int_equal(
		rebuild_possible(&r, (struct rebuild_member[4]){0}, c.bad, c.bads, &possible),
		FTMEM_ENOMEM);
	alloc_fail_off();
	tear_down(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_sources_are_found_out),
		cmocka_unit_test(what_is_damaged_on_its_way_is_found_out),
		cmocka_unit_test(a_silent_agent_is_named),
		cmocka_unit_test(a_broken_network_is_an_error),
		cmocka_unit_test(without_parity_there_is_nothing_to_do),
		cmocka_unit_test(a_failed_allocation_is_told_and_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
