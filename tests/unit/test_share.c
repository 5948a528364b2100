/* SPDX-License-Identifier: BSD-3-Clause */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "error.h"
#include "fake_net.h"
#include "share.h"
#include "test_random.h"

/* Never met: nobody waits for what does not come. */
#define LONG_MS 60000

int __real_match_solve(struct match *m);
int __wrap_match_solve(struct match *m);

static _Thread_local bool solve_fails;

int __wrap_match_solve(struct match *m)
{
	return solve_fails ? error_set(FTMEM_ENOMEM, "made to fail") : __real_match_solve(m);
}

/* One rank's part in a job. */
struct rank {
	struct net *net;
	struct region_set *set;
	struct layout *layout;
	uint32_t group;
	bool no_memory; /* as an owner */
	struct share_cell *cells;
	uint32_t count;
	int rc;
	char error[ERROR_MSG_MAX];
	pthread_t thread;
};

struct job {
	struct fake_net *f;
	uint32_t ranks;
	struct rank rank[FAKE_NET_RANKS];
};

static void job_init(struct job *j, uint32_t ranks, uint64_t seed)
{
	*j = (struct job){.f = fake_net_new(ranks, seed), .ranks = ranks};
	for (uint32_t r = 0; r < ranks; r++) {
		j->rank[r].net = fake_net_of(j->f, r);
		j->rank[r].group = r % 2;
		assert_int_equal(region_set_new(&j->rank[r].set), 0);
	}
}

static void job_deinit(struct job *j)
{
	for (uint32_t r = 0; r < j->ranks; r++) {
		region_set_free(j->rank[r].set);
		layout_free(j->rank[r].layout);
		free(j->rank[r].cells);
	}
	fake_net_free(j->f);
}

/* Never touched. */
static uint8_t memory[1];

static void add_box(struct rank *r, const char *name, uint32_t elem_bytes, const uint64_t *shape,
                    const struct box *box)
{
	struct ftmem_region region = FTMEM_REGION_INIT;

	region.name = name;
	region.addr = memory;
	region.elem_bytes = elem_bytes;
	region.ndim = box->ndim;
	region.bytes = box_count(box) * elem_bytes;
	memcpy(region.shape, shape, box->ndim * sizeof(*shape));
	memcpy(region.start, box->start, sizeof(region.start));
	memcpy(region.extent, box->extent, sizeof(region.extent));
	assert_int_equal(region_set_add(r->set, &region, DEVICE_HOST), 0);
}

static void add_1d(struct rank *r, const char *name, uint32_t elem_bytes, uint64_t shape,
                   uint64_t start, uint64_t extent)
{
	struct box box = {.ndim = 1, .start = {start}, .extent = {extent}};

	add_box(r, name, elem_bytes, &shape, &box);
}

static void add_private(struct rank *r, const char *name, uint64_t bytes)
{
	struct ftmem_region region = FTMEM_REGION_INIT;

	region.name = name;
	region.addr = memory;
	region.bytes = bytes;
	assert_int_equal(region_set_add(r->set, &region, DEVICE_HOST), 0);
}

static void *settle_main(void *arg)
{
	struct rank *r = arg;

	solve_fails = r->no_memory;
	r->rc = share_settle(r->net, LONG_MS, r->group, r->layout, &r->cells, &r->count);
	if (r->rc)
		snprintf(r->error, sizeof(r->error), "%s", error_msg());
	return NULL;
}

static void freeze_all(struct job *j)
{
	for (uint32_t i = 0; i < j->ranks; i++)
		assert_int_equal(layout_freeze(j->rank[i].set, &j->rank[i].layout), 0);
}

static void settle_all(struct job *j)
{
	for (uint32_t i = 0; i < j->ranks; i++)
		assert_int_equal(pthread_create(&j->rank[i].thread, NULL, settle_main, &j->rank[i]),
		                 0);
	for (uint32_t i = 0; i < j->ranks; i++)
		pthread_join(j->rank[i].thread, NULL);
	assert_int_equal(fake_net_unreceived(j->f), 0);
	assert_int_equal(fake_net_under_way(j->f), 0);
	for (uint32_t i = 0; i < j->ranks; i++)
		assert_false(j->rank[i].net->broken);
}

static void settle_well(struct job *j)
{
	freeze_all(j);
	settle_all(j);
	for (uint32_t i = 0; i < j->ranks; i++)
		assert_int_equal(j->rank[i].rc, 0);
}

static uint64_t stored_elements(const struct layout *l, uint32_t region)
{
	uint64_t elements = 0;

	for (uint32_t i = 0; i < l->pieces; i++)
		if (l->piece[i].region == region)
			elements += box_count(&l->piece[i].box);
	return elements;
}

static void replicas_are_divided_evenly(void **state)
{
	struct job j;

	(void)state;
	job_init(&j, 8, 1);
	for (uint32_t r = 0; r < 8; r++)
		add_1d(&j.rank[r], "w", 4, 1 << 20, 0, 1 << 20);
	settle_well(&j);
	for (uint32_t r = 0; r < 8; r++) {
		assert_int_equal(stored_elements(j.rank[r].layout, 0), (1 << 20) / 8);
		assert_int_equal(j.rank[r].count, 1);
		assert_int_equal(j.rank[r].cells[0].region, 0);
		assert_int_equal(j.rank[r].cells[0].cell.holders, 8);
	}
	job_deinit(&j);
}

static void two_shares_go_to_different_groups(void **state)
{
	struct job j;

	(void)state;
	job_init(&j, 6, 1);
	for (uint32_t r = 0; r < 6; r++) {
		j.rank[r].group = r / 3;
		for (uint32_t t = 0; t < 10; t++) {
			char name[16];

			snprintf(name, sizeof(name), "bias.%u", t);
			add_1d(&j.rank[r], name, 1, 2 * MATCH_SHARE_MIN, 0, 2 * MATCH_SHARE_MIN);
		}
	}
	settle_well(&j);
	for (uint32_t t = 0; t < 10; t++) {
		uint64_t stored[2] = {0};

		for (uint32_t r = 0; r < 6; r++)
			stored[j.rank[r].group] += stored_elements(j.rank[r].layout, t);
		assert_int_equal(stored[0], MATCH_SHARE_MIN);
		assert_int_equal(stored[1], MATCH_SHARE_MIN);
	}
	job_deinit(&j);
}

static void what_one_rank_has_it_stores_whole(void **state)
{
	struct job j;

	(void)state;
	job_init(&j, 5, 1);
	for (uint32_t r = 0; r < 5; r++) {
		add_private(&j.rank[r], "rng", 100 + r);
		add_1d(&j.rank[r], "w", 4, 5000, 1000 * r, 1000);
	}
	settle_well(&j);
	for (uint32_t r = 0; r < 5; r++) {
		const struct layout *l = j.rank[r].layout;

		assert_int_equal(l->pieces, 2);
		assert_int_equal(l->piece[0].bytes, 100 + r);
		assert_true(box_equal(&l->piece[1].box, &l->region[1].box));
		assert_int_equal(j.rank[r].count, 0);
	}
	job_deinit(&j);
}

static void a_rank_alone_stores_all_and_sends_nothing(void **state)
{
	struct job j;

	(void)state;
	job_init(&j, 1, 1);
	add_private(&j.rank[0], "rng", 7);
	add_1d(&j.rank[0], "w", 4, 5000, 0, 1000);
	add_1d(&j.rank[0], "w", 4, 5000, 3000, 1000);
	settle_well(&j);
	assert_int_equal(j.rank[0].layout->pieces, 3);
	assert_int_equal(stored_elements(j.rank[0].layout, 1), 1000);
	assert_int_equal(stored_elements(j.rank[0].layout, 2), 1000);
	assert_int_equal(j.rank[0].count, 0);
	assert_int_equal(fake_net_messages(j.f), 0);
	job_deinit(&j);
}

static void ranks_without_regions_take_part(void **state)
{
	struct job j;

	(void)state;
	job_init(&j, 6, 1);
	add_1d(&j.rank[2], "w", 1, 100, 0, 100);
	add_1d(&j.rank[5], "w", 1, 100, 0, 100);
	settle_well(&j);
	for (uint32_t r = 0; r < 6; r++)
		assert_int_equal(j.rank[r].count, r == 2 || r == 5);
	assert_int_equal(
		stored_elements(j.rank[2].layout, 0) + stored_elements(j.rank[5].layout, 0), 100);
	assert_int_equal(j.rank[0].layout->data_bytes, 0);
	job_deinit(&j);
}

/* --- against counting elements --- */

#define TENSORS 5
#define SIDE    12

static const char *const tensor_name[TENSORS] = {"wte", "wpe", "ln", "attn", "mlp"};

/* Boxes of a tensor of SIDE x SIDE elements, of one rank disjoint: rows, columns, blocks,
 * all of it, two opposite quarters, or none. */
static void add_random(struct job *j, uint64_t *state, uint32_t rank, uint32_t tensor)
{
	static const uint32_t elem_bytes[TENSORS] = {70000, 20000, 4, 65536, 3000};
	const uint64_t shape[2] = {SIDE, SIDE};
	struct box box = {.ndim = 2, .extent = {SIDE, SIDE}};
	uint32_t kind = test_random_below(state, 6);

	if (kind == 0)
		return;
	if (kind == 1 || kind == 3) {
		box.extent[0] = 1 + test_random_below(state, SIDE);
		box.start[0] = test_random_below(state, SIDE + 1 - (uint32_t)box.extent[0]);
	}
	if (kind == 2 || kind == 3) {
		box.extent[1] = 1 + test_random_below(state, SIDE);
		box.start[1] = test_random_below(state, SIDE + 1 - (uint32_t)box.extent[1]);
	}
	if (kind == 4) {
		box.extent[0] = box.extent[1] = SIDE / 2;
		add_box(&j->rank[rank], tensor_name[tensor], elem_bytes[tensor], shape, &box);
		box.start[0] = box.start[1] = SIDE / 2;
	}
	add_box(&j->rank[rank], tensor_name[tensor], elem_bytes[tensor], shape, &box);
}

static uint32_t tensor_of(const struct region *r)
{
	uint32_t t = 0;

	while (t < TENSORS && strcmp(r->name, tensor_name[t]) != 0)
		t++;
	assert_true(t < TENSORS);
	return t;
}

typedef uint32_t counts[TENSORS * SIDE * SIDE];

static uint64_t element(uint32_t tensor, uint64_t row, uint64_t column)
{
	return (tensor * SIDE + row) * SIDE + column;
}

static void count_box(counts count, uint32_t tensor, const struct box *b)
{
	for (uint64_t i = 0; i < b->extent[0]; i++)
		for (uint64_t k = 0; k < b->extent[1]; k++)
			count[element(tensor, b->start[0] + i, b->start[1] + k)]++;
}

static void count_rank(const struct rank *r, counts held, counts stored, counts shared)
{
	const struct layout *l = r->layout;

	for (uint32_t i = 0; i < l->regions; i++)
		if (l->region[i].box.ndim)
			count_box(held, tensor_of(&l->region[i]), &l->region[i].box);
	for (uint32_t i = 0; i < l->pieces; i++) {
		const struct region *region = &l->region[l->piece[i].region];

		assert_true(box_contains(&region->box, &l->piece[i].box));
		if (region->box.ndim)
			count_box(stored, tensor_of(region), &l->piece[i].box);
	}
	for (uint32_t i = 0; i < r->count; i++) {
		const struct share_cell *c = &r->cells[i];

		assert_true(box_contains(&l->region[c->region].box, &c->cell.box));
		count_box(shared, tensor_of(&l->region[c->region]), &c->cell.box);
		if (i > 0)
			assert_true(c->region > c[-1].region
			            || (c->region == c[-1].region
			                && box_compare(&c->cell.box, &c[-1].cell.box) > 0));
	}
}

/* Cells tell how many hold them. */
static void check_holders(const struct rank *r, counts held)
{
	for (uint32_t i = 0; i < r->count; i++) {
		const struct share_cell *c = &r->cells[i];
		uint32_t t = tensor_of(&r->layout->region[c->region]);

		for (uint64_t k = 0; k < c->cell.box.extent[0]; k++)
			assert_int_equal(
				held[element(t, c->cell.box.start[0] + k, c->cell.box.start[1])],
				c->cell.holders);
	}
}

static void every_element_is_stored_once_by_a_rank_that_has_it(void **state)
{
	uint64_t seed = test_random_seed("every_element"), at = seed;

	(void)state;
	for (uint32_t round = 0; round < 60; round++) {
		static counts held, stored, shared;
		struct job j;

		memset(held, 0, sizeof(held));
		memset(stored, 0, sizeof(stored));
		memset(shared, 0, sizeof(shared));
		job_init(&j, 1 + test_random_below(&at, 9), test_random(&at));
		for (uint32_t r = 0; r < j.ranks; r++) {
			add_private(&j.rank[r], "rng", 1 + test_random_below(&at, 100));
			for (uint32_t t = 0; t < TENSORS; t++)
				add_random(&j, &at, r, t);
		}
		settle_well(&j);
		for (uint32_t r = 0; r < j.ranks; r++)
			count_rank(&j.rank[r], held, stored, shared);
		for (uint32_t r = 0; r < j.ranks; r++)
			check_holders(&j.rank[r], held);
		for (uint32_t i = 0; i < TENSORS * SIDE * SIDE; i++) {
			uint32_t h = held[i];

			assert_int_equal(stored[i], h > 0);
			assert_int_equal(shared[i], h > 1 ? h : 0);
		}
		job_deinit(&j);
	}
}

static void shares_are_the_same_at_each_start(void **state)
{
	uint64_t digest[7] = {0};

	(void)state;
	for (uint32_t start = 0; start < 3; start++) {
		struct job j;

		job_init(&j, 7, start + 1);
		for (uint32_t r = 0; r < 7; r++) {
			add_1d(&j.rank[r], "w", 65536, 40, r < 4 ? 0 : 5, 20 + r / 2);
			add_1d(&j.rank[r], "b", 4, 64, 0, 64);
		}
		settle_well(&j);
		for (uint32_t r = 0; r < 7; r++) {
			if (start > 0)
				assert_int_equal(j.rank[r].layout->digest, digest[r]);
			digest[r] = j.rank[r].layout->digest;
		}
		job_deinit(&j);
	}
}

/* --- what is wrong --- */

static void a_shape_that_differs_is_told_and_nobody_waits(void **state)
{
	struct job j;

	(void)state;
	job_init(&j, 6, 1);
	for (uint32_t r = 0; r < 6; r++) {
		if (r != 4)
			add_1d(&j.rank[r], "emb", 4, r == 3 ? 120 : 100, 0, 100);
		add_1d(&j.rank[r], "w", 4, 100, 0, 100);
	}
	freeze_all(&j);
	settle_all(&j);
	for (uint32_t r = 0; r < 6; r++) {
		assert_int_equal(j.rank[r].rc, r == 4 ? 0 : FTMEM_EINVAL);
		assert_true((j.rank[r].layout->piece == NULL) == (r != 4));
		assert_true((j.rank[r].cells == NULL) == (r != 4));
		if (r == 4)
			continue;
		assert_non_null(strstr(j.rank[r].error, "emb"));
		assert_non_null(strstr(j.rank[r].error, "[100]"));
		assert_non_null(strstr(j.rank[r].error, "[120]"));
	}
	job_deinit(&j);
}

static void an_owner_out_of_memory_is_told_and_nobody_waits(void **state)
{
	uint32_t owner = tensor_owner("w", TENSOR_GLOBAL, 4);
	struct job j;

	(void)state;
	job_init(&j, 4, 1);
	j.rank[owner].no_memory = true;
	for (uint32_t r = 0; r < 4; r++)
		if (r % 2 != owner % 2)
			add_1d(&j.rank[r], "w", 4, 100, 0, 100);
	freeze_all(&j);
	settle_all(&j);
	for (uint32_t r = 0; r < 4; r++) {
		bool told = r == owner || r % 2 != owner % 2;

		assert_int_equal(j.rank[r].rc, told ? FTMEM_ENOMEM : 0);
		if (told && r != owner)
			assert_non_null(strstr(j.rank[r].error, "\"w\""));
	}
	job_deinit(&j);
}

static void a_rank_that_cannot_begin_lets_no_one_begin(void **state)
{
	struct job j;

	(void)state;
	job_init(&j, 4, 1);
	for (uint32_t r = 0; r < 4; r++)
		add_1d(&j.rank[r], "w", 4, 100, 0, 100);
	freeze_all(&j);
	/* The way of the first rank that comes. */
	alloc_fail_at(1);
	settle_all(&j);
	alloc_fail_off();
	for (uint32_t r = 0; r < 4; r++)
		assert_int_equal(j.rank[r].rc, FTMEM_ENOMEM);
	assert_int_equal(fake_net_messages(j.f), 0);
	/* Nothing is lost by that. */
	settle_all(&j);
	for (uint32_t r = 0; r < 4; r++)
		assert_int_equal(j.rank[r].rc, 0);
	job_deinit(&j);
}

static void a_broken_network_is_told(void **state)
{
	struct job j;

	(void)state;
	job_init(&j, 1, 1);
	add_1d(&j.rank[0], "w", 4, 100, 0, 100);
	freeze_all(&j);
	fake_net_break(j.f, 0);
	settle_main(&j.rank[0]);
	assert_int_equal(j.rank[0].rc, FTMEM_ENET);
	job_deinit(&j);
}

/* But those of the network that the test makes up, which asks again. */
static void every_allocation_failure_is_told(void **state)
{
	unsigned told = 0, asked_again = 0;
	bool failed = true;

	(void)state;
	for (unsigned n = 1; failed; n++) {
		struct job j;

		job_init(&j, 1, 1);
		add_private(&j.rank[0], "rng", 8);
		add_1d(&j.rank[0], "w", 4, 100, 0, 100);
		add_1d(&j.rank[0], "b", 4, 100, 0, 100);
		freeze_all(&j);
		alloc_fail_at(n);
		settle_main(&j.rank[0]);
		alloc_fail_off();
		failed = alloc_fail_count() >= n;
		assert_true(j.rank[0].rc == 0 || (failed && j.rank[0].rc == FTMEM_ENOMEM));
		told += j.rank[0].rc != 0;
		asked_again += failed && j.rank[0].rc == 0;
		job_deinit(&j);
	}
	assert_true(told > 20);
	assert_int_equal(asked_again, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replicas_are_divided_evenly),
		cmocka_unit_test(two_shares_go_to_different_groups),
		cmocka_unit_test(what_one_rank_has_it_stores_whole),
		cmocka_unit_test(a_rank_alone_stores_all_and_sends_nothing),
		cmocka_unit_test(ranks_without_regions_take_part),
		cmocka_unit_test(every_element_is_stored_once_by_a_rank_that_has_it),
		cmocka_unit_test(shares_are_the_same_at_each_start),
		cmocka_unit_test(a_shape_that_differs_is_told_and_nobody_waits),
		cmocka_unit_test(an_owner_out_of_memory_is_told_and_nobody_waits),
		cmocka_unit_test(a_rank_that_cannot_begin_lets_no_one_begin),
		cmocka_unit_test(a_broken_network_is_told),
		cmocka_unit_test(every_allocation_failure_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
