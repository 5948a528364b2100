/* SPDX-License-Identifier: BSD-3-Clause */
/* src/cuda/ over a driver that is none: what it asks of one, and that every call leaves the
 * thread as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "device.h"
#include "error.h"
#include "fake_cuda.h"

/* Functions that the driver has not. */
static const char *lacks[2];

static const struct device_ops *ops(void)
{
	return device_ops();
}

/* As the process is once it uses the driver; the thread has the context of device 1. */
static int set_up(void **state)
{
	(void)state;
	memset(&cuda, 0, sizeof(cuda));
	cuda.loaded = true;
	cuda.lacks[0] = lacks[0];
	cuda.lacks[1] = lacks[1];
	cuda.mapped = FAKE_BYTES;
	cuda.id[0] = 10;
	cuda.id[1] = 11;
	self.depth = 1;
	self.stack[0] = context_of(1);
	self.mode = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
	return 0;
}

/* As it was, whatever the test called; and all contexts were given back. */
static int tear_down(void **state)
{
	(void)state;
	assert_int_equal(self.mode, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
	for (int i = 0; i < FAKE_DEVICES; i++)
		assert_int_equal(cuda.retained[i], 0);
	assert_int_equal(cuda.pins, 0);
	return 0;
}

static void assert_thread_is_as_before(int depth)
{
	assert_int_equal(self.depth, depth);
	assert_int_equal(self.mode, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
}

static void assert_said(const char *words)
{
	if (!strstr(error_msg(), words))
		print_error("message: %s\n", error_msg());
	assert_non_null(strstr(error_msg(), words));
}

static struct device *device_open(int number)
{
	struct device *d = NULL;

	assert_int_equal(ops()->open(number, &d), 0);
	assert_non_null(d);
	return d;
}

static struct device_event *event_of(struct device *d)
{
	struct device_event *e = NULL;

	assert_int_equal(ops()->event_new(d, true, &e), 0);
	return e;
}

/* The first: afterwards the driver is known. */
static void without_a_driver_all_is_host_memory(void **state)
{
	struct device *d = NULL;
	int device = 5;

	(void)state;
	cuda.loaded = false;
	assert_int_equal(ops()->where(cuda.memory[0], 10, &device), 0);
	assert_int_equal(device, DEVICE_HOST);
	assert_int_equal(ops()->stream(NULL, &device), FTMEM_EINVAL);
	assert_int_equal(ops()->open(0, &d), FTMEM_EDEVICE);
	assert_said("not loaded");
}

static void tells_whose_memory_it_is(void **state)
{
	int device, host[4];

	(void)state;
	for (int i = 0; i < FAKE_DEVICES; i++) {
		device = -5;
		assert_int_equal(ops()->where(cuda.memory[i], FAKE_BYTES, &device), 0);
		assert_int_equal(device, i);
	}
	assert_int_equal(ops()->where(host, sizeof(host), &device), 0);
	assert_int_equal(device, DEVICE_HOST);
	assert_int_equal(ops()->where(NULL, 10, &device), 0);
	assert_int_equal(device, DEVICE_HOST);
	assert_int_equal(ops()->where(cuda.managed, 10, &device), FTMEM_EINVAL);
	assert_said("managed memory");
	assert_int_equal(ops()->where(cuda.memory[1] + 96, FAKE_BYTES, &device), FTMEM_EINVAL);
	assert_said("ends 4000 bytes on");
	assert_int_equal(ops()->where(cuda.memory[1], UINT64_MAX, &device), FTMEM_EINVAL);
	cuda.mapped = 1000;
	assert_int_equal(ops()->where(cuda.memory[0], 1000, &device), 0);
	assert_int_equal(device, 0);
	assert_int_equal(ops()->where(cuda.memory[0], 1001, &device), FTMEM_EINVAL);
	assert_said("the last byte");
	assert_thread_is_as_before(1);
}

static void tells_it_on_a_thread_without_a_context(void **state)
{
	int device = -5;

	(void)state;
	self.depth = 0;
	cuda.needs_context = true;
	assert_int_equal(ops()->where(cuda.memory[0], FAKE_BYTES, &device), 0);
	assert_int_equal(device, 0);
	assert_thread_is_as_before(0);
}

static void what_the_driver_does_not_know_is_the_hosts(void **state)
{
	static const CUresult none[] = {CUDA_ERROR_NOT_INITIALIZED, CUDA_ERROR_INVALID_CONTEXT,
	                                CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_DEINITIALIZED};
	int device;

	(void)state;
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		device = 5;
		cuda.pointer = none[i];
		assert_int_equal(ops()->where(&device, 4, &device), 0);
		assert_int_equal(device, DEVICE_HOST);
	}
	cuda.pointer = CUDA_ERROR_LAUNCH_FAILED;
	assert_int_equal(ops()->where(&device, 4, &device), FTMEM_EDEVICE);
	assert_said("launch failed");
}

static void all_calls_leave_the_thread_as_it_was(void **state)
{
	(void)state;
	for (int depth = 0; depth < 2; depth++) {
		uint8_t host[64];
		struct device_run run = {host, cuda.memory[0], 64};
		struct device_event *e;
		struct device *d;
		double seconds;
		void *at;
		int device = -5;

		self.depth = depth;
		self.stack[0] = context_of(1);
		d = device_open(0);
		assert_thread_is_as_before(depth);
		e = event_of(d);
		assert_int_equal(ops()->record(e, DEVICE_OUT), 0);
		assert_int_equal(ops()->query(e), 1);
		assert_int_equal(ops()->elapsed(e, e, &seconds), 0);
		assert_true(seconds > 0.2499 && seconds < 0.2501);
		assert_int_equal(ops()->lane_wait(d, DEVICE_IN, e), 0);
		assert_int_equal(ops()->record_on(e, stream_of(0)), 0);
		assert_int_equal(ops()->stream_wait(stream_of(1), e), 0);
		assert_int_equal(ops()->stream(stream_of(0), &device), 0);
		assert_int_equal(device, 0);
		/* Without a context there is no default stream. */
		assert_int_equal(ops()->stream_wait(NULL, e), depth ? 0 : FTMEM_EDEVICE);
		assert_int_equal(ops()->stream(NULL, &device), depth ? 0 : FTMEM_EINVAL);
		assert_int_equal(device, depth);
		assert_int_equal(ops()->copy(d, DEVICE_OUT, &run, 1), 0);
		assert_int_equal(ops()->alloc(d, 100, &at), 0);
		ops()->free(d, at);
		ops()->free(d, NULL);
		assert_int_equal(ops()->pin(d, host, 64), 0);
		ops()->unpin(d, host);
		assert_thread_is_as_before(depth);
		ops()->event_free(e);
		ops()->close(d);
		assert_thread_is_as_before(depth);
	}
}

/* Whichever devices are open: on one rank it is device 0, on the next another. */
static void without_a_context_no_default_stream_is_meant(void **state)
{
	void *none[] = {NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD};
	struct device *d[FAKE_DEVICES];
	int device = -5;

	(void)state;
	self.depth = 0;
	for (int i = FAKE_DEVICES - 1; i >= 0; i--) {
		d[i] = device_open(i);
		for (int j = 0; j < 3; j++) {
			assert_int_equal(ops()->stream(none[j], &device), FTMEM_EINVAL);
			assert_said("this thread has no current device: call cudaSetDevice()");
			assert_null(strstr(error_msg(), "reset"));
		}
	}
	assert_int_equal(device, -5);
	assert_int_equal(ops()->stream(stream_of(1), &device), 0);
	assert_int_equal(device, 1);
	assert_thread_is_as_before(0);
	ops()->close(d[1]);
	ops()->close(d[0]);
}

static void streams_are_checked(void **state)
{
	struct device *d = device_open(0);
	struct device_event *e = event_of(d);
	int device = -5;

	(void)state;
	cuda.status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
	assert_int_equal(ops()->stream(stream_of(0), &device), FTMEM_EINVAL);
	assert_said("captured");
	cuda.capturing = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
	assert_int_equal(ops()->stream(NULL, &device), FTMEM_EINVAL);
	assert_said("another stream is being captured");
	cuda.capturing = CUDA_ERROR_INVALID_HANDLE;
	assert_int_equal(ops()->stream(stream_of(0), &device), FTMEM_EINVAL);
	assert_said("destroyed");
	cuda.capturing = CUDA_ERROR_INVALID_CONTEXT;
	assert_int_equal(ops()->stream(stream_of(0), &device), FTMEM_EINVAL);
	assert_said("no current device");
	cuda.capturing = CUDA_ERROR_LAUNCH_FAILED;
	assert_int_equal(ops()->stream(stream_of(0), &device), FTMEM_EDEVICE);
	assert_int_equal(device, -5);
	assert_thread_is_as_before(1);
	ops()->event_free(e);
	ops()->close(d);
	/* On a thread without a context some device must be open. */
	self.depth = 0;
	cuda.capturing = CUDA_SUCCESS;
	cuda.status = CU_STREAM_CAPTURE_STATUS_NONE;
	assert_int_equal(ops()->stream(stream_of(0), &device), FTMEM_EINVAL);
	assert_said("no current device");
	assert_thread_is_as_before(0);
}

/* Runs of all sizes up to 9 bytes, from device 0 into a buffer. */
static void copy_some(struct device *d, enum device_lane lane, uint32_t count)
{
	struct device_run *run = calloc(count, sizeof(*run));
	uint8_t buffer[FAKE_BYTES];
	size_t at = 0;

	assert_non_null(run);
	memset(buffer, 0xa5, sizeof(buffer));
	for (size_t i = 0; i < FAKE_BYTES; i++)
		cuda.memory[0][i] = (uint8_t)(i * 7 + i / 256);
	for (uint32_t i = 0; i < count && at + 9 < FAKE_BYTES; i++) {
		void *inside = cuda.memory[0] + at, *outside = buffer + at;

		run[i].to = lane == DEVICE_IN ? inside : outside;
		run[i].from = lane == DEVICE_IN ? outside : inside;
		run[i].bytes = i % 10;
		at += i % 10;
	}
	assert_int_equal(ops()->copy(d, lane, run, count), 0);
	assert_memory_equal(buffer, cuda.memory[0], at);
	if (lane != DEVICE_IN)
		for (size_t i = at; i < FAKE_BYTES; i++)
			assert_int_equal(buffer[i], 0xa5);
	free(run);
}

static void copies_in_batches_of_a_few_hundred(void **state)
{
	struct device *d = device_open(0);

	(void)state;
	for (uint32_t count = 0; count < 800; count += 7)
		for (enum device_lane lane = DEVICE_OUT; lane < DEVICE_LANES; lane++)
			copy_some(d, lane, count);
	assert_true(lacks[1] || (cuda.largest > 400 && cuda.largest <= 512));
	ops()->close(d);
}

static void copies_one_by_one_where_batches_are_not_taken(void **state)
{
	static const CUresult refused[] = {CUDA_ERROR_NOT_SUPPORTED, CUDA_ERROR_INVALID_VALUE};
	struct device *d;

	(void)state;
	for (int i = 0; i < 3; i++) {
		cuda.own_addresses = i == 2;
		cuda.batch = i < 2 ? refused[i] : CUDA_SUCCESS;
		cuda.copies = 0;
		d = device_open(0);
		for (enum device_lane lane = DEVICE_OUT; lane < DEVICE_LANES; lane++)
			copy_some(d, lane, 700);
		assert_int_equal(cuda.batches, 0);
		assert_true(cuda.copies > 3 * 600);
		ops()->close(d);
	}
}

static void copies_that_fail_say_why(void **state)
{
	struct device *d = device_open(0);
	uint8_t host[64];
	struct device_run run = {host, cuda.memory[0], 64};

	(void)state;
	cuda.batch = CUDA_ERROR_LAUNCH_FAILED;
	cuda.copy = CUDA_ERROR_LAUNCH_FAILED;
	assert_int_equal(ops()->copy(d, DEVICE_OUT, &run, 1), FTMEM_EDEVICE);
	assert_said("launch failed");
	cuda.batch = CUDA_ERROR_INVALID_VALUE;
	cuda.copy = CUDA_ERROR_INVALID_VALUE;
	assert_int_equal(ops()->copy(d, DEVICE_OUT, &run, 1), FTMEM_EDEVICE);
	assert_said("64 bytes cannot be copied");
	/* Freed: the driver does not know its addresses. */
	cuda.batch = cuda.copy = CUDA_SUCCESS;
	cuda.mapped = 63;
	assert_int_equal(ops()->copy(d, DEVICE_OUT, &run, 1), FTMEM_EDEVICE);
	assert_said("ftmem_region_remove()");
	run = (struct device_run){cuda.memory[0], host, 64};
	assert_int_equal(ops()->copy(d, DEVICE_IN, &run, 1), FTMEM_EDEVICE);
	assert_int_equal(cuda.copies, 0);
	assert_thread_is_as_before(1);
	ops()->close(d);
}

static void answers_with_errors_after_a_reset(void **state)
{
	struct device *d = device_open(0);
	struct device_event *e = event_of(d), *other = NULL;
	uint8_t host[64];
	struct device_run run = {host, cuda.memory[0], 64};
	unsigned long long ids[] = {0, 99};
	double seconds;
	void *at = &at;
	int device = -5;

	(void)state;
	for (int i = 0; i < 2; i++) {
		cuda.id[0] = ids[i];
		assert_int_equal(ops()->query(e), FTMEM_EDEVICE);
		assert_said("reset");
		assert_int_equal(ops()->record(e, DEVICE_OUT), FTMEM_EDEVICE);
		assert_int_equal(ops()->record_on(e, NULL), FTMEM_EDEVICE);
		assert_int_equal(ops()->lane_wait(d, DEVICE_IN, e), FTMEM_EDEVICE);
		assert_int_equal(ops()->stream_wait(NULL, e), FTMEM_EDEVICE);
		assert_int_equal(ops()->stream(stream_of(1), &device), FTMEM_EDEVICE);
		assert_int_equal(ops()->elapsed(e, e, &seconds), FTMEM_EDEVICE);
		assert_int_equal(ops()->copy(d, DEVICE_OUT, &run, 1), FTMEM_EDEVICE);
		assert_int_equal(ops()->event_new(d, true, &other), FTMEM_EDEVICE);
		assert_int_equal(ops()->alloc(d, 10, &at), FTMEM_EDEVICE);
		assert_int_equal(ops()->pin(d, host, 64), FTMEM_EDEVICE);
		ops()->free(d, at);
	}
	assert_null(other);
	assert_int_equal(cuda.copies, 0);
	assert_thread_is_as_before(1);
	ops()->event_free(e);
	ops()->close(d);
}

static void a_failed_device_answers_with_its_error(void **state)
{
	struct device *d = device_open(0);
	struct device_event *e = event_of(d);

	(void)state;
	cuda.query = CUDA_ERROR_NOT_READY;
	assert_int_equal(ops()->query(e), 0);
	cuda.query = CUDA_ERROR_LAUNCH_FAILED;
	assert_int_equal(ops()->query(e), FTMEM_EDEVICE);
	assert_said("start the job again");
	assert_int_equal(ops()->record(e, DEVICE_OUT), FTMEM_EDEVICE);
	ops()->event_free(e);
	ops()->close(d);
	assert_thread_is_as_before(1);
}

static void only_events_that_are_to_have_a_time_get_one(void **state)
{
	struct device *d = device_open(0);
	struct device_event *e = NULL;
	unsigned timed = cuda.timed;

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(ops()->event_new(d, i == 1, &e), 0);
		assert_int_equal(cuda.timed, timed + (unsigned)i);
		ops()->event_free(e);
	}
	ops()->close(d);
}

static void says_what_there_is_too_little_of(void **state)
{
	struct device *d = device_open(0), *none = NULL;
	struct device_event *e = NULL;
	uint8_t host[64];
	void *at = NULL;

	(void)state;
	cuda.alloc = CUDA_ERROR_OUT_OF_MEMORY;
	assert_int_equal(ops()->alloc(d, 12345, &at), FTMEM_ENOMEM);
	assert_said("12345 bytes to spare: lower device_staging");
	assert_int_equal(ops()->event_new(d, true, &e), FTMEM_ENOMEM);
	for (int i = 0; i < 2; i++) {
		cuda.pin = i == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_NOT_PERMITTED;
		assert_int_equal(ops()->pin(d, host, 64), FTMEM_ENOMEM);
		assert_said("ulimit -l");
	}
	/* No limit helps against these. */
	cuda.pin = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
	assert_int_equal(ops()->pin(d, host, 64), FTMEM_EDEVICE);
	assert_said("64 bytes of host memory cannot be pinned");
	assert_null(strstr(error_msg(), "ulimit"));
	cuda.pin = CUDA_ERROR_LAUNCH_FAILED;
	assert_int_equal(ops()->pin(d, host, 64), FTMEM_EDEVICE);
	assert_said("start the job again");
	assert_null(strstr(error_msg(), "ulimit"));
	ops()->close(d);
	assert_int_equal(ops()->open(FAKE_DEVICES, &none), FTMEM_EDEVICE);
	assert_said("CUDA device 2");
	alloc_fail_at(1);
	assert_int_equal(ops()->open(0, &none), FTMEM_ENOMEM);
	alloc_fail_off();
	assert_null(none);
	assert_null(e);
	assert_null(at);
}

static void a_driver_that_is_too_old_says_so(void **state)
{
	struct device *d = NULL;
	int device = -5;

	(void)state;
	assert_int_equal(ops()->where(cuda.memory[1], 10, &device), 0);
	assert_int_equal(device, 1);
	assert_int_equal(ops()->open(1, &d), FTMEM_EDEVICE);
	assert_said("has no cuCtxGetId: one of CUDA 12.0 or later is needed");
	assert_int_equal(ops()->stream(stream_of(1), &device), FTMEM_EINVAL);
	assert_null(d);
}

/* Argument "old": a driver of before CUDA 12.8; "older": one of before 12.0. */
int main(int argc, char **argv)
{
	const struct CMUnitTest older[] = {
		cmocka_unit_test_setup_teardown(a_driver_that_is_too_old_says_so, set_up,
		                                tear_down),
	};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(without_a_driver_all_is_host_memory, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(tells_whose_memory_it_is, set_up, tear_down),
		cmocka_unit_test_setup_teardown(tells_it_on_a_thread_without_a_context, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(what_the_driver_does_not_know_is_the_hosts, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(all_calls_leave_the_thread_as_it_was, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(without_a_context_no_default_stream_is_meant,
		                                set_up, tear_down),
		cmocka_unit_test_setup_teardown(streams_are_checked, set_up, tear_down),
		cmocka_unit_test_setup_teardown(copies_in_batches_of_a_few_hundred, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(copies_one_by_one_where_batches_are_not_taken,
		                                set_up, tear_down),
		cmocka_unit_test_setup_teardown(copies_that_fail_say_why, set_up, tear_down),
		cmocka_unit_test_setup_teardown(answers_with_errors_after_a_reset, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(a_failed_device_answers_with_its_error, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(only_events_that_are_to_have_a_time_get_one,
		                                set_up, tear_down),
		cmocka_unit_test_setup_teardown(says_what_there_is_too_little_of, set_up,
		                                tear_down),
	};

	if (argc > 1 && strcmp(argv[1], "older") == 0) {
		lacks[0] = "cuCtxGetId";
		return cmocka_run_group_tests(older, NULL, NULL);
	}
	if (argc > 1) {
		lacks[0] = "cuStreamGetDevice";
		lacks[1] = "cuMemcpyBatchAsync";
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
