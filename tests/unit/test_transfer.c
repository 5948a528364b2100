/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "checksum.h"
#include "clock.h"
#include "error.h"
#include "tags.h"
#include "test_random.h"
#include "transfer_world.h"

#define KIB ((uint64_t)1024)
#define MIB (1024 * KIB)

void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
uint32_t __real_checksum(const void *data, size_t bytes);
uint32_t __wrap_checksum(const void *data, size_t bytes);
void __real_box_view_gather(const struct box_view *v, const uint8_t *array, uint64_t from,
                            uint8_t *packed, uint64_t bytes);
void __wrap_box_view_gather(const struct box_view *v, const uint8_t *array, uint64_t from,
                            uint8_t *packed, uint64_t bytes);
int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);

static bool fail_aligned;

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	world_buffers += bytes;
	return fail_aligned ? NULL : __real_aligned_alloc(align, bytes);
}

uint32_t __wrap_checksum(const void *data, size_t bytes)
{
	world_summed += bytes;
	return __real_checksum(data, bytes);
}

void __wrap_box_view_gather(const struct box_view *v, const uint8_t *array, uint64_t from,
                            uint8_t *packed, uint64_t bytes)
{
	world_gathers++;
	__real_box_view_gather(v, array, from, packed, bytes);
}

/* Time that passes when somebody looks at it, and when the test says so; 0: real time. */
static _Atomic uint64_t fake_ns, fake_tick_ns;

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	uint64_t tick = atomic_load(&fake_tick_ns), now;

	if (tick == 0 || id != CLOCK_MONOTONIC)
		return __real_clock_gettime(id, t);
	now = atomic_fetch_add(&fake_ns, tick);
	t->tv_sec = (time_t)(now / 1000000000u);
	t->tv_nsec = (long)(now % 1000000000u);
	return 0;
}

static int end_fake_time(void **state)
{
	(void)state;
	atomic_store(&fake_tick_ns, 0);
	return 0;
}

/* --- what arrives --- */

static uint64_t extent_up_to(struct world *w, uint64_t most)
{
	return 1 + test_random_below(&w->random, (uint32_t)most);
}

static void add_random(struct world *w, uint32_t from, uint32_t to, uint32_t big_percent)
{
	static const uint32_t elem[] = {1, 2, 3, 4, 8, 16};
	uint32_t ndim = 1 + test_random_below(&w->random, 4);
	uint32_t roll = test_random_below(&w->random, 100);
	uint32_t pad = test_random_below(&w->random, 3);
	uint64_t extent[FTMEM_MAX_DIMS];

	if (roll < big_percent) {
		extent[0] = 100 + extent_up_to(w, 300);
		extent[1] = 100 + extent_up_to(w, 900);
		world_add(w, from, to, 8, 2, extent, pad);
		return;
	}
	for (uint32_t d = 0; d < ndim; d++)
		extent[d] = extent_up_to(w, roll < 60 ? 3 : 9);
	/* An empty one is left out by both ends. */
	if (roll == 99)
		extent[0] = 0;
	world_add(w, from, to, elem[test_random_below(&w->random, 6)], ndim, extent, pad);
}

static void all_to_all(struct world *w, uint32_t parts, uint32_t big_percent)
{
	for (uint32_t i = 0; i < w->ranks; i++)
		for (uint32_t j = 0; j < w->ranks; j++) {
			uint32_t count = test_random_below(&w->random, parts + 1);

			for (uint32_t k = 0; i != j && k < count; k++)
				add_random(w, i, j, big_percent);
		}
	world_fill(w);
}

/* Nothing but what the ranks were to get, and nothing left behind. */
static void assert_whole(struct world *w)
{
	for (uint32_t i = 0; i < w->ranks; i++) {
		if (w->rank[i].rc < 0)
			fail_msg("rank %u: %s", i, w->rank[i].message);
		assert_true(world_arrived(w, i));
		assert_false(fake_net_of(w->net, i)->broken);
		assert_false(fake_net_of(w->net, i)->lingering);
		assert_true(w->rank[i].buffers <= TRANSFER_BUFFER_MAX);
	}
	assert_int_equal(fake_net_under_way(w->net), 0);
	assert_int_equal(fake_net_unreceived(w->net), 0);
}

static void every_element_arrives_and_nothing_else_is_touched(void **state)
{
	uint64_t random = test_random_seed("transfer");

	(void)state;
	for (uint32_t ranks = 1; ranks <= 12; ranks += 1 + ranks / 6)
		for (enum world_memory memory = WORLD_DEVICE; memory <= WORLD_HOST; memory++) {
			struct world w;

			world_init(&w, ranks, memory, test_random(&random));
			fake_net_set_chance(w.net, 20 + test_random_below(&random, 81));
			all_to_all(&w, 20, ranks < 5 ? 8 : 1);
			world_run(&w);
			assert_whole(&w);
			world_deinit(&w);
		}
}

static void nothing_to_move_is_done_at_once(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 3, WORLD_DEVICE, 1);
	world_add(&w, 0, 1, 4, 2, (const uint64_t[]){5, 0}, 0);
	world_fill(&w);
	w.timeout_ms = 0;
	world_run(&w);
	assert_whole(&w);
	assert_int_equal(fake_net_messages(w.net), 0);
	assert_int_equal(w.rank[0].buffers, 0);
	world_deinit(&w);
}

/* Large contiguous parts: one message of the network and one checksum at each end. */
static void contiguous_parts_are_moved_without_a_copy(void **state)
{
	static const uint64_t size[] = {100, 200 * KIB, 3 * MIB + 5, 128 * KIB, 512 * KIB};
	const uint32_t messages = 1 + 1 + 7 + 1 + 1;

	(void)state;
	for (enum world_memory memory = WORLD_OTHER; memory <= WORLD_HOST; memory++) {
		struct world w;
		uint64_t bytes = 0;

		world_init(&w, 2, memory, 1);
		for (uint32_t i = 0; i < 5; i++) {
			world_add_flat(&w, 0, 1, size[i]);
			bytes += size[i];
		}
		world_fill(&w);
		world_run(&w);
		assert_whole(&w);
		assert_int_equal(fake_net_messages(w.net), messages + 1);
		assert_int_equal(w.rank[0].gathers, 0);
		assert_int_equal(w.puts, 0);
		assert_int_equal(w.rank[0].summed, bytes);
		assert_int_equal(w.rank[1].summed, bytes);
		world_deinit(&w);
	}
}

static void what_a_device_holds_is_written_by_its_backend(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 2, WORLD_DEVICE, 1);
	world_add_flat(&w, 0, 1, 3 * MIB);
	world_fill(&w);
	world_run(&w);
	assert_whole(&w);
	assert_int_equal(w.rank[0].gathers, 0);
	assert_int_equal(w.puts, 6);
	world_deinit(&w);
}

static void small_parts_share_messages(void **state)
{
	/* One that is full, the others in a second; none is cut. */
	static const struct {
		uint32_t parts;
		uint64_t bytes;
		uint32_t messages;
	} c[] = {{50000, 3, 1},
	         {700, 1000, 2},
	         {5, 128 * KIB - 1, 2},
	         {4096, 128, 1},
	         {4097, 128, 2}};

	(void)state;
	for (uint32_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
		struct world w;

		world_init(&w, 2, i % 2 ? WORLD_HOST : WORLD_DEVICE, 1);
		for (uint32_t j = 0; j < c[i].parts; j++)
			world_add_flat(&w, 0, 1, c[i].bytes);
		world_fill(&w);
		world_run(&w);
		assert_whole(&w);
		assert_int_equal(fake_net_messages(w.net), c[i].messages + 1);
		assert_int_equal(w.rank[1].summed, c[i].parts * c[i].bytes);
		world_deinit(&w);
	}
}

/* --- order and bounds --- */

static void few_streams_at_a_time_nearest_first(void **state)
{
	uint64_t random = test_random_seed("transfer");
	const uint32_t ranks = 12;
	struct world w;

	(void)state;
	world_init(&w, ranks, WORLD_DEVICE, test_random(&random));
	for (uint32_t i = 0; i < ranks; i++)
		for (uint32_t j = 0; j < ranks; j++)
			for (uint32_t k = 0; i != j && k < 3; k++)
				world_add_flat(&w, i, j, 128 * KIB);
	world_fill(&w);
	world_run(&w);
	assert_whole(&w);
	for (uint32_t i = 0; i < ranks; i++) {
		const struct world_watch *watch = &w.watch[i];

		assert_false(watch->sent_too_early);
		assert_int_equal(watch->peer_most, 2);
		for (uint32_t k = 0; k < 2; k++) {
			assert_int_equal(watch->peers_most[k], TRANSFER_STREAMS);
			assert_int_equal(watch->firsts[k], ranks - 1);
			for (uint32_t j = 1; j < ranks; j++)
				assert_int_equal(watch->first[k][j - 1],
				                 (i + (k ? ranks - j : j)) % ranks);
		}
		assert_int_equal(w.rank[i].buffers, TRANSFER_BUFFER_MAX);
	}
	world_deinit(&w);
}

static void fewer_streams_take_fewer_buffers(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 5, WORLD_DEVICE, 1);
	world_add_flat(&w, 0, 1, 9 * MIB);
	world_add_flat(&w, 2, 1, 9);
	world_fill(&w);
	world_run(&w);
	assert_whole(&w);
	assert_int_equal(w.rank[0].buffers, 2 * TRANSFER_MESSAGE);
	assert_int_equal(w.rank[1].buffers, 4 * TRANSFER_MESSAGE);
	assert_int_equal(w.rank[2].buffers, 2 * TRANSFER_MESSAGE);
	assert_int_equal(w.rank[3].buffers, 0);
	world_deinit(&w);
}

/* --- what goes wrong --- */

/* Each message of one stream: data in place, data in buffers, checksums. The others get
 * theirs, and the network can be used again. */
static void a_damaged_bit_is_found_and_the_sender_named(void **state)
{
	uint64_t random = test_random_seed("transfer");

	(void)state;
	for (enum world_memory memory = WORLD_DEVICE; memory <= WORLD_HOST; memory++) {
		uint32_t nth = 1;
		bool damaged = true;

		for (; damaged; nth++) {
			struct world w;

			world_init(&w, 3, memory, test_random(&random));
			world_add_flat(&w, 0, 2, MIB);
			for (uint32_t i = 0; i < 100; i++)
				add_random(&w, 0, 2, 0);
			world_add(&w, 0, 2, 8, 2, (const uint64_t[]){300, 500}, 2);
			all_to_all(&w, 20, 5);
			fake_net_corrupt(w.net, 0, 2, TAG_TRANSFER, nth);
			world_run(&w);
			damaged = fake_net_corrupted(w.net);
			if (damaged) {
				assert_int_equal(w.rank[2].rc, FTMEM_ECORRUPT);
				assert_non_null(strstr(w.rank[2].message, "rank 0"));
				w.rank[2].rc = 0;
				memcpy(w.flow[0][2].memory[1], w.flow[0][2].want,
				       w.flow[0][2].bytes[1]);
				/* Regions are not written once something is wrong. */
				memcpy(w.flow[1][2].memory[1], w.flow[1][2].want,
				       w.flow[1][2].bytes[1]);
			}
			assert_whole(&w);
			world_deinit(&w);
		}
		assert_true(nth > 6);
	}
}

static void a_device_that_fails_keeps_nobody_waiting(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 2, WORLD_DEVICE, 1);
	world_add_flat(&w, 0, 1, 2 * MIB);
	world_add_flat(&w, 1, 0, 64);
	world_fill(&w);
	atomic_store(&w.put_fails_at, 3);
	world_run(&w);
	assert_true((w.rank[0].rc == FTMEM_EDEVICE) != (w.rank[1].rc == FTMEM_EDEVICE));
	for (uint32_t i = 0; i < 2; i++) {
		if (w.rank[i].rc == FTMEM_EDEVICE)
			assert_string_equal(w.rank[i].message, "the device is gone");
		else
			assert_true(world_arrived(&w, i));
		assert_false(fake_net_of(w.net, i)->broken);
	}
	/* No write after the one that failed on that rank. */
	assert_in_range(w.puts, 3, 5);
	assert_int_equal(fake_net_unreceived(w.net), 0);
	world_deinit(&w);
}

/* Lets time pass until the rank has given up. */
static void end_in_time(struct world *w, uint32_t rank)
{
	while (!atomic_load(&w->rank[rank].over)) {
		atomic_fetch_add(&fake_ns, (uint64_t)w->timeout_ms * 2000000u);
		clock_sleep(100000);
	}
	world_end(w, rank);
}

static void a_message_cut_short_breaks_the_network(void **state)
{
	(void)state;
	for (uint32_t nth = 1; nth <= 4; nth++) {
		struct world w;

		world_init(&w, 3, nth % 2 ? WORLD_DEVICE : WORLD_HOST, nth);
		for (uint32_t i = 0; i < 3; i++)
			for (uint32_t j = 0; j < 3; j++)
				if (i != j)
					world_add_flat(&w, i, j, 3 * TRANSFER_MESSAGE);
		world_fill(&w);
		w.gives_up = true;
		atomic_store(&fake_tick_ns, 1);
		fake_net_cut(w.net, 1, 2, TAG_TRANSFER, nth);
		for (uint32_t i = 0; i < 3; i++)
			world_begin(&w, i);
		world_end(&w, 2);
		assert_int_equal(w.rank[2].rc, FTMEM_ENET);
		assert_non_null(strstr(w.rank[2].message, "rank 1"));
		assert_true(fake_net_of(w.net, 2)->broken);
		end_in_time(&w, 0);
		end_in_time(&w, 1);
		assert_int_equal(fake_net_under_way(w.net), 0);
		world_deinit(&w);
	}
}

static void ends_that_disagree_about_sizes_are_told(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 2, WORLD_DEVICE, 1);
	world_add_flat(&w, 0, 1, 700);
	world_fill(&w);
	w.flow[0][1].list[0][0].view = box_view_flat(699);
	w.gives_up = true;
	atomic_store(&fake_tick_ns, 1);
	for (uint32_t i = 0; i < 2; i++)
		world_begin(&w, i);
	world_end(&w, 1);
	assert_int_equal(w.rank[1].rc, FTMEM_ENET);
	end_in_time(&w, 0);
	world_deinit(&w);
}

static uint64_t ended(struct world *w)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < w->ranks; i++)
		count += atomic_load(&w->watch[i].ended);
	return count;
}

static void a_silent_peer_is_named_when_time_is_up(void **state)
{
	(void)state;
	for (enum world_memory memory = WORLD_DEVICE; memory <= WORLD_HOST; memory++) {
		struct world w;

		world_init(&w, 4, memory, 1);
		for (uint32_t i = 0; i < 4; i++)
			for (uint32_t j = 0; j < 4; j++)
				if (i != j)
					world_add_flat(&w, i, j, 1000);
		world_fill(&w);
		w.gives_up = true;
		atomic_store(&fake_tick_ns, 1);
		fake_net_silence(w.net, 2);
		for (uint32_t i = 0; i < 4; i++)
			world_begin(&w, i);
		/* Three that live, two messages each way to each other. */
		while (ended(&w) < 3 * 2 * 4)
			clock_sleep(100000);
		for (uint32_t i = 0; i < 4; i++) {
			end_in_time(&w, i);
			assert_int_equal(w.rank[i].rc, FTMEM_ETIMEOUT);
			if (i != 2)
				assert_non_null(strstr(w.rank[i].message, "rank 2"));
			assert_true(fake_net_of(w.net, i)->broken);
			assert_true(fake_net_of(w.net, i)->lingering);
		}
		assert_int_equal(fake_net_under_way(w.net), 0);
		world_deinit(&w);
	}
}

/* Not the one that is waited for too, but came this far. */
static void the_peer_that_stood_still_the_longest_is_named(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 3, WORLD_HOST, 1);
	world_add_flat(&w, 1, 0, 1000);
	world_add_flat(&w, 2, 0, 40 * TRANSFER_MESSAGE);
	world_fill(&w);
	w.gives_up = true;
	atomic_store(&fake_tick_ns, 1);
	fake_net_silence(w.net, 1);
	for (uint32_t i = 0; i < 3; i++)
		world_begin(&w, i);
	while (atomic_load(&w.watch[0].ended) == 0)
		clock_sleep(1000);
	fake_net_silence(w.net, 2);
	for (uint32_t i = 0; i < 3; i++)
		end_in_time(&w, i);
	assert_int_equal(w.rank[0].rc, FTMEM_ETIMEOUT);
	assert_non_null(strstr(w.rank[0].message, "came from rank 1"));
	world_deinit(&w);
}

static void a_broken_network_is_an_error(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 2, WORLD_DEVICE, 1);
	world_add_flat(&w, 0, 1, 10);
	world_fill(&w);
	fake_net_break(w.net, 0);
	assert_int_equal(world_run_here(&w, 0), FTMEM_ENET);
	assert_true(fake_net_of(w.net, 0)->broken);
	assert_false(fake_net_of(w.net, 0)->lingering);
	/* What an earlier one left behind would be taken for this one's. */
	fake_net_of(w.net, 1)->broken = true;
	assert_int_equal(world_run_here(&w, 1), FTMEM_ENET);
	assert_int_equal(w.watch[1].posted[1], 0);
	world_deinit(&w);
}

static void lists_that_make_no_sense_are_refused(void **state)
{
	uint8_t byte = 1;
	const struct transfer_part part = {&byte, box_view_flat(1), DEVICE_HOST};
	const struct transfer_stream self = {1, 1, &part}, beyond = {3, 1, &part};
	const struct transfer_stream twice[] = {{2, 1, &part}, {0, 1, &part}, {2, 1, &part}};

	(void)state;
	for (uint32_t i = 0; i < 6; i++) {
		const struct transfer_stream *list = i < 2 ? &self : i < 4 ? &beyond : twice;
		uint32_t count = i < 4 ? 1 : 3;
		struct world w;
		struct transfer_config config = {.copy_ops = copy_host(), .timeout_ms = 1};

		world_init(&w, 3, WORLD_DEVICE, 1);
		world_fill(&w);
		config.net = fake_net_of(w.net, 1);
		assert_int_equal(
			transfer_run(&config, list, i % 2 ? count : 0, list, i % 2 ? 0 : count),
			FTMEM_EINVAL);
		assert_int_equal(fake_net_under_way(w.net), 0);
		world_deinit(&w);
	}
}

/* Before anything is sent. */
static void out_of_memory_is_an_error(void **state)
{
	uint32_t failed = 0;
	int rc = FTMEM_ENOMEM;

	(void)state;
	for (unsigned n = 0; rc == FTMEM_ENOMEM; n++) {
		struct world w;

		world_init(&w, 2, WORLD_DEVICE, 1);
		world_add_flat(&w, 0, 1, 3 * MIB);
		world_add_flat(&w, 1, 0, 100);
		world_fill(&w);
		w.timeout_ms = 5;
		atomic_store(&fake_tick_ns, 1000000);
		/* The last try waits for a peer that does not come. */
		w.gives_up = true;
		fail_aligned = n == 0;
		if (n > 0)
			alloc_fail_at(n);
		rc = world_run_here(&w, 0);
		alloc_fail_off();
		fail_aligned = false;
		if (rc == FTMEM_ENOMEM) {
			failed++;
			assert_int_equal(fake_net_messages(w.net), 0);
			assert_int_equal(w.watch[0].posted[1], 0);
			assert_false(fake_net_of(w.net, 0)->lingering);
		}
		assert_true(fake_net_of(w.net, 0)->broken);
		world_deinit(&w);
	}
	assert_int_equal(rc, FTMEM_ETIMEOUT);
	assert_int_equal(failed, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_element_arrives_and_nothing_else_is_touched),
		cmocka_unit_test(nothing_to_move_is_done_at_once),
		cmocka_unit_test(contiguous_parts_are_moved_without_a_copy),
		cmocka_unit_test(what_a_device_holds_is_written_by_its_backend),
		cmocka_unit_test(small_parts_share_messages),
		cmocka_unit_test(few_streams_at_a_time_nearest_first),
		cmocka_unit_test(fewer_streams_take_fewer_buffers),
		cmocka_unit_test(a_damaged_bit_is_found_and_the_sender_named),
		cmocka_unit_test(a_device_that_fails_keeps_nobody_waiting),
		cmocka_unit_test_teardown(a_message_cut_short_breaks_the_network, end_fake_time),
		cmocka_unit_test_teardown(ends_that_disagree_about_sizes_are_told, end_fake_time),
		cmocka_unit_test_teardown(a_silent_peer_is_named_when_time_is_up, end_fake_time),
		cmocka_unit_test_teardown(the_peer_that_stood_still_the_longest_is_named,
	                                  end_fake_time),
		cmocka_unit_test(a_broken_network_is_an_error),
		cmocka_unit_test(lists_that_make_no_sense_are_refused),
		cmocka_unit_test_teardown(out_of_memory_is_an_error, end_fake_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
