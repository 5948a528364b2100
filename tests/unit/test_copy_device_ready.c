/* SPDX-License-Identifier: BSD-3-Clause */
/* What is taken before the first snapshot: devices, staging memory, pinned memory, bands. */
#include "device_bench.h"

#include "error.h"

#define MIB        (UINT64_C(1) << 20)
#define BOUNCE     (2 * MIB) /* through which checks read */

/* A plan of one region at addresses that nobody may touch, and an engine. */
struct large {
	struct test_layout t;
	struct copy_plan *plan;
	struct copy *copy;
	void *arena;
	struct log log;
	uint32_t warnings;
	char warning[512]; /* the last */
};

static void keep_warning(void *arg, int level, const char *line)
{
	struct large *l = arg;

	if (level != FTMEM_LOG_WARN)
		return;
	l->warnings++;
	snprintf(l->warning, sizeof(l->warning), "%s", line);
}

static void large_init(struct large *l, uint64_t bytes, uint32_t block_bytes, uint64_t staging)
{
	const uint64_t small = 64;
	struct copy_config config = {.threads = 1, .device_staging = staging, .log = &l->log};
	uint64_t random = 7;
	struct rail rail;

	memset(l, 0, sizeof(*l));
	l->log = (struct log){keep_warning, l, FTMEM_LOG_WARN, LOG_NO_RANK};
	test_layout_init(&l->t, &small, 1, 0, &random);
	l->t.layout.region[0].addr = (void *)(UINTPTR_MAX / 4);
	l->t.layout.region[0].bytes = l->t.layout.piece[0].bytes = bytes;
	l->t.layout.region[0].device = 0;
	l->t.layout.data_bytes = test_layout_align(l->t.layout.piece[0].offset + bytes);
	rail = test_layout_rail(&l->t, 4, 1, block_bytes);
	assert_int_equal(copy_plan_new(&l->t.layout, &rail, 1, &l->plan), 0);
	l->arena = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(l->arena != MAP_FAILED);
	bench_band_bytes = 0;
	assert_int_equal(copy_device()->open(&config, &l->copy), 0);
}

static int large_prepare(struct large *l)
{
	return copy_device()->prepare(l->copy, l->plan, l->arena, 4096);
}

static void large_deinit(struct large *l)
{
	copy_device()->release(l->copy, l->plan);
	copy_device()->close(l->copy);
	copy_plan_free(l->plan);
	munmap(l->arena, 4096);
	test_layout_deinit(&l->t);
	test_device_reset();
}

/* What can be pinned is, at the first prepare() that can. */
static void checks_read_through_pinned_memory(void **state)
{
	(void)state;
	for (unsigned fail = 0; fail < 2; fail++) {
		struct large l;

		large_init(&l, MIB, 65536, 0);
		if (fail) {
			test_device_fail_pin(1);
			assert_int_equal(large_prepare(&l), 0);
			assert_int_equal(test_device_figures().pinned, 0);
			copy_device()->release(l.copy, l.plan);
			test_device_fail_pin(0);
		}
		assert_int_equal(large_prepare(&l), 0);
		assert_int_equal(test_device_figures().pinned, 4096 + BOUNCE);
		/* Once. */
		copy_device()->release(l.copy, l.plan);
		assert_int_equal(large_prepare(&l), 0);
		assert_int_equal(test_device_figures().pinned, 4096 + BOUNCE);
		assert_int_equal(l.warnings, fail);
		large_deinit(&l);
	}
}

static void a_device_short_of_memory_gives_what_it_has(void **state)
{
	static const struct {
		uint64_t largest, least; /* MiB: of an allocation; that is to be had */
	} cases[] = {{0, 150}, {150, 150}, {149, 131}, {70, 64}, {64, 64}, {63, 0}};
	uint64_t got = 0, most;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[64];
		struct large l;

		large_init(&l, 200 * MIB, 4 * MIB, 150 * MIB);
		test_device_fail_alloc_above(cases[i].largest * MIB);
		for (int again = 0; again < 2; again++) {
			assert_int_equal(large_prepare(&l), 0);
			got = test_device_figures().allocated;
			most = cases[i].largest ? cases[i].largest : 150;
			assert_true(got >= cases[i].least * MIB);
			assert_true(got <= (cases[i].least ? most * MIB : 0));
			if (again == 0)
				copy_device()->release(l.copy, l.plan);
		}
		assert_int_equal(l.warnings, got < 150 * MIB);
		if (l.warnings > 0) {
			snprintf(text, sizeof(text), "device 0: %llu of %llu bytes",
			         (unsigned long long)got, 150ull << 20);
			assert_non_null(strstr(l.warning, text));
		}
		large_deinit(&l);
	}
}

/* Of each device once. */
static void each_device_that_is_short_of_memory_is_named(void **state)
{
	const struct bench_spec spec = {.place = ON_ALL, .staging = 1 << 20, .random = 640};
	struct device_bench b;

	(void)state;
	bench_open(&b, &spec);
	test_device_fail_alloc(1);
	for (int again = 0; again < 2; again++) {
		assert_int_equal(bench_prepare(&b), 0);
		assert_int_equal(atomic_load(&b.warnings), 2);
		b.ops->release(b.copy, b.plan);
	}
	bench_deinit(&b);
}

static void staging_that_cannot_be_tried_is_given_back(void **state)
{
	const struct bench_spec spec = {.place = ON_DEVICE_0, .staging = 1 << 20, .random = 650};
	struct device_bench b;
	uint8_t *now;

	(void)state;
	bench_open(&b, &spec);
	test_device_slow(20000000);
	test_device_fail_record(1);
	assert_int_equal(bench_prepare(&b), FTMEM_EDEVICE);
	assert_int_equal(test_device_figures().copying, 0);
	assert_int_equal(test_device_figures().allocated, 0);
	test_device_slow(0);
	test_device_fail_issue(1);
	assert_int_equal(bench_prepare(&b), FTMEM_EDEVICE);
	test_device_fail_copy(1);
	assert_int_equal(bench_prepare(&b), FTMEM_EDEVICE);
	test_device_mend(0);
	assert_int_equal(bench_prepare(&b), 0);
	now = bench_content(&b);
	bench_capture(&b, now);
	free(now);
	bench_deinit(&b);
}

/* A lane takes some hundred at once. */
static void no_plan_has_many_bands(void **state)
{
	static const struct {
		uint64_t mib;
		uint32_t block_bytes, least;
	} plans[] = {{1, 4096, 1},          {1024, 65536, 30},     {12100, 16 << 20, 60},
	             {12185, 16 << 20, 60}, {100000, 4 << 20, 120}, {1000000, 64 << 20, 120}};

	(void)state;
	for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
		struct large l;

		large_init(&l, plans[i].mib * MIB, plans[i].block_bytes, 0);
		assert_int_equal(large_prepare(&l), 0);
		assert_in_range(bench_bands, plans[i].least, 140);
		large_deinit(&l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checks_read_through_pinned_memory),
		cmocka_unit_test(a_device_short_of_memory_gives_what_it_has),
		cmocka_unit_test(each_device_that_is_short_of_memory_is_named),
		cmocka_unit_test(staging_that_cannot_be_tried_is_given_back),
		cmocka_unit_test(no_plan_has_many_bands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
