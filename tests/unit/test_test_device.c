/* SPDX-License-Identifier: BSD-3-Clause */
/* That the test device keeps what device.h says of a device, so that tests on it count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "clock.h"
#include "error.h"
#include "test_device.h"

#define BYTES (4 * TEST_DEVICE_PIECE)

static const struct device_ops *ops;
static struct device *device;
static uint8_t *host;         /* BYTES, pinned */
static uint8_t *at;           /* BYTES of device 0 */
static uint8_t content[BYTES]; /* theirs */

static int begin(void **state)
{
	(void)state;
	ops = device_ops();
	host = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (host == MAP_FAILED || ops->open(0, &device) || ops->pin(device, host, BYTES))
		return -1;
	at = test_device_alloc(0, BYTES);
	for (size_t i = 0; i < BYTES; i++)
		content[i] = (uint8_t)(i * 7 + i / 251);
	test_device_write(at, content, BYTES);
	return 0;
}

static int end(void **state)
{
	(void)state;
	for (int i = 0; i < DEVICE_LANES; i++)
		test_device_go(0, (enum device_lane)i);
	ops->drain(device);
	ops->unpin(device, host);
	ops->close(device);
	munmap(host, BYTES);
	test_device_reset();
	return 0;
}

static struct device_event *new_event(void)
{
	struct device_event *e = NULL;

	assert_int_equal(ops->event_new(device, true, &e), 0);
	assert_non_null(e);
	return e;
}

static int copy_out(void)
{
	const struct device_run run = {host, at, BYTES};

	return ops->copy(device, DEVICE_OUT, &run, 1);
}

static void await_event(const struct device_event *e)
{
	uint64_t deadline = clock_deadline(20000);
	int rc;

	while ((rc = ops->query(e)) == 0 && clock_ns() < deadline)
		clock_sleep(50000);
	assert_int_equal(rc, 1);
}

static void memory_is_known_by_its_address(void **state)
{
	uint8_t *other = test_device_alloc(1, 100), *managed = test_device_managed(100);
	int where = 77;

	(void)state;
	assert_int_equal(ops->where(at, BYTES, &where), 0);
	assert_int_equal(where, 0);
	assert_int_equal(ops->where(other + 99, 1, &where), 0);
	assert_int_equal(where, 1);
	assert_int_equal(ops->where(content, BYTES, &where), 0);
	assert_int_equal(where, DEVICE_HOST);
	assert_int_equal(ops->where(host, BYTES, &where), 0);
	assert_int_equal(where, DEVICE_HOST);
	assert_int_equal(ops->where(managed, 100, &where), FTMEM_EINVAL);
	assert_int_equal(ops->where(other, 101, &where), FTMEM_EINVAL);
	test_device_free(other);
	assert_int_equal(ops->where(other, 100, &where), 0);
	assert_int_equal(where, DEVICE_HOST);
	test_device_lose(0);
	assert_int_equal(ops->where(at, 1, &where), FTMEM_EDEVICE);
}

static void an_event_is_reached_after_what_stands_before_it(void **state)
{
	struct device_event *e = new_event();

	(void)state;
	assert_int_equal(ops->query(e), 1);
	test_device_hold(0, DEVICE_OUT, 1);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	assert_true(test_device_await_hold(0, DEVICE_OUT));
	/* A piece is there, the rest is not. */
	assert_memory_equal(host, content, TEST_DEVICE_PIECE);
	assert_int_equal(ops->query(e), 0);
	assert_int_equal(host[BYTES - 1], 0);
	test_device_go(0, DEVICE_OUT);
	await_event(e);
	assert_memory_equal(host, content, BYTES);
	/* Recorded again it is not reached any more. */
	test_device_hold(0, DEVICE_OUT, 0);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	assert_int_equal(ops->query(e), 0);
	test_device_go(0, DEVICE_OUT);
	await_event(e);
	ops->event_free(e);
}

static void add(void *arg)
{
	atomic_fetch_add((_Atomic unsigned *)arg, 1);
}

static void a_stream_waits_for_what_was_recorded_last(void **state)
{
	struct test_stream *s = test_stream_new(0);
	struct device_event *e = new_event();
	_Atomic unsigned ran = 0;

	(void)state;
	/* Never recorded: nothing to wait for. */
	assert_int_equal(ops->stream_wait(s, e), 0);
	test_stream_launch(s, add, (void *)&ran);
	assert_true(test_stream_sync(s));
	assert_int_equal(atomic_load(&ran), 1);
	/* Of two recordings the wait between them is for the first. */
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	assert_int_equal(ops->stream_wait(s, e), 0);
	test_stream_launch(s, add, (void *)&ran);
	test_device_hold(0, DEVICE_OUT, 0);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	assert_true(test_stream_sync(s));
	assert_int_equal(atomic_load(&ran), 2);
	assert_int_equal(ops->query(e), 0);
	/* And now for the second. */
	assert_int_equal(ops->stream_wait(s, e), 0);
	test_stream_launch(s, add, (void *)&ran);
	assert_true(test_device_await_hold(0, DEVICE_OUT));
	assert_false(test_stream_idle(s));
	assert_int_equal(atomic_load(&ran), 2);
	test_device_go(0, DEVICE_OUT);
	assert_true(test_stream_sync(s));
	assert_int_equal(atomic_load(&ran), 3);
	assert_memory_equal(host, content, BYTES);
	ops->event_free(e);
	test_stream_free(s);
}

static void a_lane_waits_for_a_stream(void **state)
{
	static uint8_t later[BYTES];
	struct device_event *e = new_event(), *over = new_event();
	struct test_gate gate = {0};

	(void)state;
	memset(later, 0x77, BYTES);
	test_stream_gate(NULL, &gate);
	test_stream_copy(NULL, at, later, BYTES);
	assert_int_equal(ops->record_on(e, NULL), 0);
	assert_int_equal(ops->lane_wait(device, DEVICE_OUT, e), 0);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(over, DEVICE_OUT), 0);
	assert_true(test_gate_await(&gate));
	assert_int_equal(ops->query(over), 0);
	test_gate_open(&gate);
	await_event(over);
	assert_memory_equal(host, later, BYTES);
	ops->event_free(over);
	ops->event_free(e);
}

static void what_no_fence_guards_is_torn(void **state)
{
	struct device_event *e = new_event();

	(void)state;
	test_device_hold(0, DEVICE_OUT, 2);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	assert_true(test_device_await_hold(0, DEVICE_OUT));
	test_device_set(at, 0xee, BYTES);
	test_device_go(0, DEVICE_OUT);
	await_event(e);
	assert_memory_equal(host, content, BYTES / 2);
	assert_int_equal(host[BYTES / 2], 0xee);
	ops->event_free(e);
}

static void time_passes_between_events(void **state)
{
	struct device_event *from = new_event(), *to = new_event();
	double seconds = -1;

	(void)state;
	assert_int_equal(ops->elapsed(from, to, &seconds), FTMEM_EDEVICE);
	test_device_slow(8000000); /* 2 ms for all of them */
	assert_int_equal(ops->record(from, DEVICE_OUT), 0);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(to, DEVICE_OUT), 0);
	await_event(to);
	assert_int_equal(ops->elapsed(from, to, &seconds), 0);
	assert_true(seconds > 0.0015);
	assert_int_equal(ops->elapsed(to, from, &seconds), 0);
	assert_true(seconds < -0.0015);
	ops->event_free(to);
	assert_int_equal(ops->event_new(device, false, &to), 0);
	assert_int_equal(ops->record(to, DEVICE_OUT), 0);
	await_event(to);
	assert_int_equal(ops->elapsed(from, to, &seconds), FTMEM_EDEVICE);
	ops->event_free(from);
	ops->event_free(to);
}

static void the_caller_waits_for_memory_that_is_not_pinned(void **state)
{
	static uint8_t plain[BYTES];
	const struct device_run run[2] = {{plain, at, BYTES}, {host, at, 5}};

	(void)state;
	assert_int_equal(ops->copy(device, DEVICE_OUT, run, 2), 0);
	assert_memory_equal(plain, content, BYTES);
	assert_memory_equal(host, content, 5);
}

static void streams_that_cannot_be_waited_for_are_refused(void **state)
{
	struct test_stream *s = test_stream_new(1);
	struct device_event *e = new_event();
	int where = 77;

	(void)state;
	assert_int_equal(ops->stream(NULL, &where), 0);
	assert_int_equal(where, 0);
	assert_int_equal(ops->stream(s, &where), 0);
	assert_int_equal(where, 1);
	assert_int_equal(ops->stream(host, &where), FTMEM_EINVAL);
	assert_int_equal(ops->record_on(e, s), FTMEM_EINVAL);
	test_stream_capture(s, true);
	assert_int_equal(ops->stream(s, &where), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "capture"));
	test_stream_capture(s, false);
	assert_int_equal(ops->stream(s, &where), 0);
	ops->event_free(e);
}

static void a_copy_is_refused_when_that_is_asked_for(void **state)
{
	struct device_event *e = new_event();

	(void)state;
	test_device_fail_issue(2);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(copy_out(), FTMEM_EDEVICE);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	await_event(e);
	ops->event_free(e);
}

static void a_failed_device_touches_nothing_and_answers_so(void **state)
{
	struct device_event *e = new_event(), *none = NULL;
	void *memory = NULL;
	int where;

	(void)state;
	test_device_hold(0, DEVICE_OUT, 0);
	test_device_fail_copy(1);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	assert_int_equal(ops->query(e), 0);
	test_device_go(0, DEVICE_OUT);
	while (ops->query(e) == 0)
		clock_sleep(50000);
	assert_int_equal(ops->query(e), FTMEM_EDEVICE);
	assert_memory_equal(host, content, BYTES / 2);
	assert_int_equal(host[BYTES / 2], 0);
	assert_int_equal(copy_out(), FTMEM_EDEVICE);
	assert_int_equal(ops->record(e, DEVICE_OUT), FTMEM_EDEVICE);
	assert_int_equal(ops->record_on(e, NULL), FTMEM_EDEVICE);
	assert_int_equal(ops->lane_wait(device, DEVICE_IN, e), FTMEM_EDEVICE);
	assert_int_equal(ops->stream_wait(NULL, e), FTMEM_EDEVICE);
	assert_int_equal(ops->stream(NULL, &where), FTMEM_EDEVICE);
	assert_int_equal(ops->event_new(device, true, &none), FTMEM_EDEVICE);
	assert_int_equal(ops->alloc(device, 1, &memory), FTMEM_EDEVICE);
	test_device_mend(0);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	await_event(e);
	assert_memory_equal(host, content, BYTES);
	ops->event_free(e);
}

static void freed_memory_is_not_copied(void **state)
{
	struct device_event *e = new_event();

	(void)state;
	test_device_hold(0, DEVICE_OUT, 1);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	assert_true(test_device_await_hold(0, DEVICE_OUT));
	test_device_free(at);
	assert_int_equal(copy_out(), FTMEM_EDEVICE);
	assert_int_equal(ops->query(e), 0);
	test_device_go(0, DEVICE_OUT);
	while (ops->query(e) == 0)
		clock_sleep(50000);
	assert_int_equal(ops->query(e), FTMEM_EDEVICE);
	assert_int_equal(host[TEST_DEVICE_PIECE], 0);
	ops->event_free(e);
}

static void a_copy_stays_within_one_allocation(void **state)
{
	static const uint64_t bytes[] = {100, 1, BYTES, 5000};
	uint64_t all = 0;
	void *row[4];
	int where;

	(void)state;
	test_device_alloc_row(0, bytes, 4, row);
	for (int i = 0; i < 4; i++) {
		struct device_run run = {row[i], host, bytes[i]};

		assert_ptr_equal(row[i], (uint8_t *)row[0] + all);
		assert_int_equal(ops->where(row[i], bytes[i], &where), 0);
		assert_int_equal(where, 0);
		test_device_write(row[i], content, bytes[i]);
		assert_int_equal(ops->copy(device, DEVICE_IN, &run, 1), 0);
		all += bytes[i];
		if (i == 3)
			break;
		assert_int_equal(ops->where(row[i], bytes[i] + 1, &where), FTMEM_EINVAL);
		run.bytes++;
		assert_int_equal(ops->copy(device, DEVICE_IN, &run, 1), FTMEM_EDEVICE);
		run = (struct device_run){host, (uint8_t *)row[i] + bytes[i] - 1, 2};
		assert_int_equal(ops->copy(device, DEVICE_OUT, &run, 1), FTMEM_EDEVICE);
		assert_non_null(strstr(error_msg(), "border of an allocation"));
	}
	ops->drain(device);
	/* Each goes alone. */
	test_device_free(row[1]);
	assert_int_equal(ops->where(row[1], 1, &where), 0);
	assert_int_equal(where, DEVICE_HOST);
	assert_int_equal(ops->where(row[2], bytes[2], &where), 0);
	assert_int_equal(where, 0);
}

static void who_drains_waits_for_all_lanes(void **state)
{
	(void)state;
	test_device_slow(4000000);
	for (int i = 0; i < DEVICE_LANES; i++) {
		const struct device_run run = {host, at, BYTES};

		assert_int_equal(ops->copy(device, (enum device_lane)i, &run, 1), 0);
	}
	ops->drain(device);
	assert_int_equal(test_device_figures().queued, 0);
	/* A device that failed carries nothing out. */
	test_device_hold(0, DEVICE_OUT, 0);
	assert_int_equal(copy_out(), 0);
	test_device_lose(0);
	ops->drain(device);
}

static void an_event_is_not_recorded_when_that_is_asked_for(void **state)
{
	struct device_event *e = new_event();

	(void)state;
	test_device_fail_record(2);
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	await_event(e);
	test_device_hold(0, DEVICE_OUT, 0);
	assert_int_equal(copy_out(), 0);
	assert_int_equal(ops->record(e, DEVICE_OUT), FTMEM_EDEVICE);
	assert_int_equal(ops->query(e), 1);
	assert_int_equal(ops->record(e, DEVICE_OUT), 0);
	assert_int_equal(ops->query(e), 0);
	test_device_go(0, DEVICE_OUT);
	await_event(e);
	ops->event_free(e);
}

static void what_is_taken_and_given_back_is_counted(void **state)
{
	struct test_device_figures f = test_device_figures();
	void *memory = NULL;

	(void)state;
	assert_int_equal(f.devices, 1);
	assert_int_equal(f.pins, 1);
	assert_int_equal(f.pinned, BYTES);
	test_device_fail_alloc(2);
	assert_int_equal(ops->alloc(device, 1000, &memory), 0);
	assert_int_equal(test_device_figures().allocated, 1000);
	for (int i = 0; i < 2; i++)
		assert_int_equal(ops->alloc(device, 1000, &memory), FTMEM_ENOMEM);
	ops->free(device, memory);
	ops->free(device, NULL);
	test_device_fail_alloc(0);
	test_device_fail_alloc_above(1000);
	assert_int_equal(ops->alloc(device, 1001, &memory), FTMEM_ENOMEM);
	assert_int_equal(ops->alloc(device, 1000, &memory), 0);
	ops->free(device, memory);
	f = test_device_figures();
	assert_int_equal(f.allocated, 0);
	assert_int_equal(f.allocs, 2);
	ops->unpin(device, host);
	assert_int_equal(test_device_figures().pins, 0);
	test_device_fail_pin(1);
	for (int i = 0; i < 2; i++)
		assert_int_equal(ops->pin(device, host, BYTES), FTMEM_ENOMEM);
	test_device_fail_pin(0);
	assert_int_equal(ops->pin(device, host, BYTES), 0);
	assert_int_equal(ops->pin(device, host, BYTES), FTMEM_EDEVICE);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(memory_is_known_by_its_address),
		TEST(an_event_is_reached_after_what_stands_before_it),
		TEST(a_stream_waits_for_what_was_recorded_last),
		TEST(a_lane_waits_for_a_stream),
		TEST(what_no_fence_guards_is_torn),
		TEST(time_passes_between_events),
		TEST(the_caller_waits_for_memory_that_is_not_pinned),
		TEST(streams_that_cannot_be_waited_for_are_refused),
		TEST(a_copy_is_refused_when_that_is_asked_for),
		TEST(a_failed_device_touches_nothing_and_answers_so),
		TEST(freed_memory_is_not_copied),
		TEST(a_copy_stays_within_one_allocation),
		TEST(who_drains_waits_for_all_lanes),
		TEST(an_event_is_not_recorded_when_that_is_asked_for),
		TEST(what_is_taken_and_given_back_is_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
