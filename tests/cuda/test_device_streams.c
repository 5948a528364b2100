/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Streams and events of a real device. What must not have happened yet cannot have: a
 * stream stands at a gate.
 */
#include <stdio.h>

#include "gpu.h"

#define BYTES 100000

static uint64_t random_state;

static const struct device_ops *ops(void)
{
	return device_ops();
}

/* A stream at a gate, and an event behind it. */
struct stage {
	struct device *d;
	struct device_event *e;
	cudaStream_t s;
	struct gate gate;
};

static void stage_init(struct stage *t)
{
	*t = (struct stage){.d = gpu_open(0), .s = gpu_stream(), .gate = GATE_INIT};
	t->e = gpu_event(t->d);
}

static void stage_deinit(struct stage *t)
{
	CUDA(cudaStreamSynchronize(t->s));
	CUDA(cudaStreamDestroy(t->s));
	ops()->event_free(t->e);
	ops()->close(t->d);
}

static bool lane_is_over(struct device *d, enum device_lane lane)
{
	struct device_event *e = gpu_event(d);
	int rc;

	OK(ops()->record(e, lane));
	rc = ops()->query(e);
	assert_true(rc >= 0);
	ops()->event_free(e);
	return rc == 1;
}

/* --- events --- */

static void an_event_is_reached_after_what_came_before(void **state)
{
	struct stage t;

	(void)state;
	stage_init(&t);
	assert_int_equal(ops()->query(t.e), 1);
	gate_on(t.s, &t.gate);
	OK(ops()->record_on(t.e, t.s));
	for (int i = 0; i < 100; i++)
		assert_int_equal(ops()->query(t.e), 0);
	gate_open(&t.gate);
	gpu_await(t.e);
	stage_deinit(&t);
}

static void an_event_counts_again_when_it_is_recorded_again(void **state)
{
	struct stage t;

	(void)state;
	stage_init(&t);
	OK(ops()->record_on(t.e, t.s));
	gpu_await(t.e);
	gate_on(t.s, &t.gate);
	OK(ops()->record_on(t.e, t.s));
	assert_int_equal(ops()->query(t.e), 0);
	gate_open(&t.gate);
	gpu_await(t.e);
	stage_deinit(&t);
}

static void events_tell_the_time_between_them(void **state)
{
	struct device_event *to;
	struct stage t;
	double seconds = -1;

	(void)state;
	stage_init(&t);
	to = gpu_event(t.d);
	OK(ops()->record_on(t.e, t.s));
	gate_on(t.s, &t.gate);
	OK(ops()->record_on(to, t.s));
	gpu_await(t.e);
	gate_open(&t.gate);
	gpu_await(to);
	OK(ops()->elapsed(t.e, to, &seconds));
	assert_true(seconds > 0 && seconds < PATIENCE_S);
	OK(ops()->elapsed(t.e, t.e, &seconds));
	assert_true(seconds == 0);
	ops()->event_free(to);
	OK(ops()->event_new(t.d, false, &to));
	OK(ops()->record_on(to, t.s));
	gpu_await(to);
	assert_int_equal(ops()->elapsed(t.e, to, &seconds), FTMEM_EDEVICE);
	ops()->event_free(to);
	stage_deinit(&t);
}

static void the_time_of_an_event_never_recorded_is_not_known(void **state)
{
	struct device_event *to;
	struct stage t;
	double seconds;

	(void)state;
	stage_init(&t);
	to = gpu_event(t.d);
	OK(ops()->record_on(t.e, t.s));
	gpu_await(t.e);
	assert_int_equal(ops()->elapsed(t.e, to, &seconds), FTMEM_EDEVICE);
	ops()->event_free(to);
	stage_deinit(&t);
}

/* --- lanes --- */

static void a_lane_waits_for_a_stream(void **state)
{
	uint8_t *at = gpu_alloc(BYTES), *host, *old, *new;
	struct device_run run;
	struct stage t;

	(void)state;
	CUDA(cudaHostAlloc((void **)&host, BYTES, cudaHostAllocDefault));
	CUDA(cudaHostAlloc((void **)&new, BYTES, cudaHostAllocDefault));
	stage_init(&t);
	old = gpu_random(at, BYTES, &random_state);
	test_random_fill(&random_state, new, BYTES);
	memset(host, 0, BYTES);
	run = (struct device_run){host, at, BYTES};
	/* The stream writes behind the gate: what is copied is as of after that. */
	gate_on(t.s, &t.gate);
	CUDA(cudaMemcpyAsync(at, new, BYTES, cudaMemcpyDefault, t.s));
	OK(ops()->record_on(t.e, t.s));
	OK(ops()->lane_wait(t.d, DEVICE_OUT, t.e));
	OK(ops()->copy(t.d, DEVICE_OUT, &run, 1));
	assert_false(lane_is_over(t.d, DEVICE_OUT));
	gpu_drain(t.d, DEVICE_STAGE);
	gpu_drain(t.d, DEVICE_IN);
	gate_open(&t.gate);
	gpu_drain(t.d, DEVICE_OUT);
	assert_memory_equal(host, new, BYTES);
	stage_deinit(&t);
	free(old);
	CUDA(cudaFreeHost(new));
	CUDA(cudaFreeHost(host));
	CUDA(cudaFree(at));
}

/* As a snapshot and its fence: what the stream writes after the fence is not copied. */
static void a_stream_waits_for_a_lane(void **state)
{
	uint8_t *at = gpu_alloc(BYTES), *host, *old, *new;
	cudaStream_t writer = gpu_stream();
	struct device_event *copied;
	struct device_run run;
	struct stage t;

	(void)state;
	CUDA(cudaHostAlloc((void **)&host, BYTES, cudaHostAllocDefault));
	CUDA(cudaHostAlloc((void **)&new, BYTES, cudaHostAllocDefault));
	stage_init(&t);
	copied = gpu_event(t.d);
	old = gpu_random(at, BYTES, &random_state);
	test_random_fill(&random_state, new, BYTES);
	run = (struct device_run){host, at, BYTES};
	gate_on(t.s, &t.gate);
	OK(ops()->record_on(t.e, t.s));
	OK(ops()->lane_wait(t.d, DEVICE_OUT, t.e));
	OK(ops()->copy(t.d, DEVICE_OUT, &run, 1));
	OK(ops()->record(copied, DEVICE_OUT));
	OK(ops()->stream_wait(writer, copied));
	CUDA(cudaMemcpyAsync(at, new, BYTES, cudaMemcpyDefault, writer));
	assert_int_equal(cudaStreamQuery(writer), cudaErrorNotReady);
	(void)cudaGetLastError();
	gate_open(&t.gate);
	CUDA(cudaStreamSynchronize(writer));
	assert_int_equal(ops()->query(copied), 1);
	assert_memory_equal(host, old, BYTES);
	gpu_assert_holds(at, new, BYTES);
	CUDA(cudaStreamDestroy(writer));
	ops()->event_free(copied);
	stage_deinit(&t);
	free(old);
	CUDA(cudaFreeHost(new));
	CUDA(cudaFreeHost(host));
	CUDA(cudaFree(at));
}

static void lanes_wait_for_each_other_and_several_streams_for_one(void **state)
{
	cudaStream_t other[3];
	struct device_event *staged;
	struct stage t;

	(void)state;
	stage_init(&t);
	staged = gpu_event(t.d);
	gate_on(t.s, &t.gate);
	OK(ops()->record_on(t.e, t.s));
	OK(ops()->lane_wait(t.d, DEVICE_STAGE, t.e));
	OK(ops()->record(staged, DEVICE_STAGE));
	OK(ops()->lane_wait(t.d, DEVICE_OUT, staged));
	for (int i = 0; i < 3; i++) {
		other[i] = gpu_stream();
		OK(ops()->stream_wait(other[i], staged));
	}
	assert_false(lane_is_over(t.d, DEVICE_OUT));
	for (int i = 0; i < 3; i++)
		assert_int_equal(cudaStreamQuery(other[i]), cudaErrorNotReady);
	(void)cudaGetLastError();
	gate_open(&t.gate);
	for (int i = 0; i < 3; i++) {
		CUDA(cudaStreamSynchronize(other[i]));
		CUDA(cudaStreamDestroy(other[i]));
	}
	gpu_drain(t.d, DEVICE_OUT);
	ops()->event_free(staged);
	stage_deinit(&t);
}

/* --- streams --- */

static void tells_the_device_of_any_stream(void **state)
{
	int count = gpu_count(), device;
	cudaStream_t blocking, s;

	(void)state;
	for (int i = 0; i < count; i++) {
		CUDA(cudaSetDevice(i));
		s = gpu_stream();
		CUDA(cudaStreamCreate(&blocking));
		device = -1;
		OK(ops()->stream(NULL, &device));
		assert_int_equal(device, i);
		device = -1;
		OK(ops()->stream(cudaStreamLegacy, &device));
		assert_int_equal(device, i);
		device = -1;
		OK(ops()->stream(cudaStreamPerThread, &device));
		assert_int_equal(device, i);
		CUDA(cudaSetDevice(0));
		device = -1;
		OK(ops()->stream(s, &device));
		assert_int_equal(device, i);
		device = -1;
		OK(ops()->stream(blocking, &device));
		assert_int_equal(device, i);
		CUDA(cudaStreamDestroy(s));
		CUDA(cudaStreamDestroy(blocking));
	}
}

/* The legacy default stream comes after what blocking streams do, and before what they do
 * next; the per-thread one is a stream of its own. */
static void default_streams_behave_as_in_cuda(void **state)
{
	cudaStream_t blocking, defaults[] = {NULL, cudaStreamLegacy, cudaStreamPerThread};
	struct stage t;

	(void)state;
	CUDA(cudaStreamCreate(&blocking));
	for (int i = 0; i < 3; i++) {
		stage_init(&t);
		gate_on(i == 2 ? cudaStreamPerThread : blocking, &t.gate);
		OK(ops()->record_on(t.e, defaults[i]));
		assert_int_equal(ops()->query(t.e), 0);
		gate_open(&t.gate);
		gpu_await(t.e);
		stage_deinit(&t);
	}
	for (int i = 0; i < 3; i++) {
		stage_init(&t);
		gate_on(t.s, &t.gate);
		OK(ops()->record_on(t.e, t.s));
		OK(ops()->stream_wait(defaults[i], t.e));
		assert_int_equal(cudaStreamQuery(i == 2 ? cudaStreamPerThread : NULL),
		                 cudaErrorNotReady);
		(void)cudaGetLastError();
		gate_open(&t.gate);
		CUDA(cudaStreamSynchronize(defaults[i]));
		assert_int_equal(ops()->query(t.e), 1);
		stage_deinit(&t);
	}
	CUDA(cudaStreamDestroy(blocking));
}

struct fence {
	struct device_event *e;
	cudaStream_t s;
	bool set_device; /* first */
	int rc, device;
	char reason[ERROR_MSG_MAX];
};

static void *fence_elsewhere(void *arg)
{
	struct fence *f = arg;

	if (f->set_device && cudaSetDevice(0) != cudaSuccess)
		return NULL;
	f->rc = ops()->stream(f->s, &f->device);
	if (f->rc == 0)
		f->rc = ops()->stream_wait(f->s, f->e);
	(void)snprintf(f->reason, sizeof(f->reason), "%s", error_msg());
	return NULL;
}

static void a_thread_without_a_device_has_no_default_stream(void **state)
{
	cudaStream_t defaults[] = {NULL, cudaStreamLegacy, cudaStreamPerThread};
	struct stage t;
	pthread_t thread;

	(void)state;
	stage_init(&t);
	for (int i = 0; i < 3; i++) {
		struct fence f = {t.e, defaults[i], false, -1, -1, ""};

		assert_int_equal(pthread_create(&thread, NULL, fence_elsewhere, &f), 0);
		pthread_join(thread, NULL);
		assert_int_equal(f.rc, FTMEM_EINVAL);
		assert_int_equal(f.device, -1);
		assert_non_null(strstr(f.reason, "call cudaSetDevice()"));
	}
	stage_deinit(&t);
}

static void streams_can_be_made_to_wait_by_any_thread(void **state)
{
	struct stage t;
	struct fence f;
	pthread_t thread;

	(void)state;
	for (int i = 0; i < 2; i++) {
		stage_init(&t);
		f = (struct fence){t.e, i == 0 ? gpu_stream() : NULL, i == 1, -1, -1, ""};
		gate_on(t.s, &t.gate);
		OK(ops()->record_on(t.e, t.s));
		assert_int_equal(pthread_create(&thread, NULL, fence_elsewhere, &f), 0);
		pthread_join(thread, NULL);
		OK(f.rc);
		assert_int_equal(f.device, 0);
		assert_int_equal(cudaStreamQuery(f.s), cudaErrorNotReady);
		(void)cudaGetLastError();
		gate_open(&t.gate);
		CUDA(cudaStreamSynchronize(f.s));
		if (f.s)
			CUDA(cudaStreamDestroy(f.s));
		stage_deinit(&t);
	}
}

static void knows_the_device_of_a_stream(void **state)
{
	struct stage t;
	cudaStream_t s;
	int device = -1;

	(void)state;
	if (gpu_count() < 2)
		skip();
	stage_init(&t);
	CUDA(cudaSetDevice(1));
	s = gpu_stream();
	OK(ops()->stream(s, &device));
	assert_int_equal(device, 1);
	device = -1;
	OK(ops()->stream(NULL, &device));
	assert_int_equal(device, 1);
	/* To wait for it is allowed. */
	OK(ops()->stream_wait(s, t.e));
	CUDA(cudaStreamSynchronize(s));
	CUDA(cudaStreamDestroy(s));
	CUDA(cudaSetDevice(0));
	stage_deinit(&t);
}

static void the_current_device_stays(void **state)
{
	int count = gpu_count(), device = -1;
	struct stage t;

	(void)state;
	CUDA(cudaSetDevice(count - 1));
	t = (struct stage){.d = gpu_open(0), .gate = GATE_INIT};
	t.e = gpu_event(t.d);
	OK(ops()->record(t.e, DEVICE_OUT));
	gpu_await(t.e);
	CUDA(cudaGetDevice(&device));
	assert_int_equal(device, count - 1);
	ops()->event_free(t.e);
	ops()->close(t.d);
	CUDA(cudaGetDevice(&device));
	assert_int_equal(device, count - 1);
	CUDA(cudaSetDevice(0));
}

/* --- captures --- */

static void capture_end(cudaStream_t s)
{
	cudaGraph_t graph = NULL;

	CUDA(cudaStreamEndCapture(s, &graph));
	assert_non_null(graph);
	CUDA(cudaGraphDestroy(graph));
}

static void refuses_a_stream_that_is_captured(void **state)
{
	static const enum cudaStreamCaptureMode modes[] = {cudaStreamCaptureModeGlobal,
	                                                   cudaStreamCaptureModeThreadLocal,
	                                                   cudaStreamCaptureModeRelaxed};
	struct stage t;
	int device;

	(void)state;
	stage_init(&t);
	for (int i = 0; i < 3; i++) {
		CUDA(cudaStreamBeginCapture(t.s, modes[i]));
		REFUSED(ops()->stream(t.s, &device), FTMEM_EINVAL, "captured");
		capture_end(t.s);
		OK(ops()->stream(t.s, &device));
	}
	stage_deinit(&t);
}

/* It would have to wait for the capture. */
static void refuses_the_legacy_stream_while_a_blocking_one_is_captured(void **state)
{
	cudaStream_t blocking;
	struct stage t;
	int device;

	(void)state;
	stage_init(&t);
	CUDA(cudaStreamCreate(&blocking));
	CUDA(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeGlobal));
	REFUSED(ops()->stream(NULL, &device), FTMEM_EINVAL, "captured");
	REFUSED(ops()->stream(cudaStreamLegacy, &device), FTMEM_EINVAL, "captured");
	OK(ops()->stream(t.s, &device));
	capture_end(blocking);
	OK(ops()->stream(NULL, &device));
	CUDA(cudaStreamDestroy(blocking));
	stage_deinit(&t);
}

struct work {
	struct device *d;
	struct device_event *e;
	void *at, *host;
	int rc;
};

/* What the library does while a training captures a graph. */
static void *work_elsewhere(void *arg)
{
	struct work *w = arg;
	struct device_run out = {w->host, w->at, BYTES}, in = {w->at, w->host, BYTES};
	struct device_event *e = NULL;
	double seconds;
	int rc, device;

	rc = ops()->where(w->at, BYTES, &device);
	rc = rc ? rc : ops()->event_new(w->d, true, &e);
	rc = rc ? rc : ops()->record(w->e, DEVICE_OUT);
	rc = rc ? rc : ops()->copy(w->d, DEVICE_OUT, &out, 1);
	rc = rc ? rc : ops()->record(e, DEVICE_OUT);
	rc = rc ? rc : ops()->lane_wait(w->d, DEVICE_IN, e);
	rc = rc ? rc : ops()->copy(w->d, DEVICE_IN, &in, 1);
	while (rc == 0 && ops()->query(e) == 0)
		continue;
	rc = rc ? rc : ops()->elapsed(w->e, e, &seconds);
	ops()->event_free(e);
	w->rc = rc;
	if (rc < 0)
		printf("%s\n", error_msg());
	return NULL;
}

static void disturbs_no_capture_elsewhere(void **state)
{
	struct work w = {.at = gpu_alloc(BYTES)};
	struct stage t;
	pthread_t thread;

	(void)state;
	stage_init(&t);
	w.d = t.d;
	w.e = t.e;
	CUDA(cudaHostAlloc(&w.host, BYTES, cudaHostAllocDefault));
	CUDA(cudaStreamBeginCapture(t.s, cudaStreamCaptureModeGlobal));
	assert_int_equal(pthread_create(&thread, NULL, work_elsewhere, &w), 0);
	pthread_join(thread, NULL);
	assert_int_equal(w.rc, 0);
	/* Nor on the thread that captures. */
	(void)work_elsewhere(&w);
	assert_int_equal(w.rc, 0);
	capture_end(t.s);
	gpu_drain(t.d, DEVICE_IN);
	CUDA(cudaFreeHost(w.host));
	CUDA(cudaFree(w.at));
	stage_deinit(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_event_is_reached_after_what_came_before),
		cmocka_unit_test(an_event_counts_again_when_it_is_recorded_again),
		cmocka_unit_test(events_tell_the_time_between_them),
		cmocka_unit_test(the_time_of_an_event_never_recorded_is_not_known),
		cmocka_unit_test(a_lane_waits_for_a_stream),
		cmocka_unit_test(a_stream_waits_for_a_lane),
		cmocka_unit_test(lanes_wait_for_each_other_and_several_streams_for_one),
		cmocka_unit_test(tells_the_device_of_any_stream),
		cmocka_unit_test(default_streams_behave_as_in_cuda),
		cmocka_unit_test(a_thread_without_a_device_has_no_default_stream),
		cmocka_unit_test(streams_can_be_made_to_wait_by_any_thread),
		cmocka_unit_test(knows_the_device_of_a_stream),
		cmocka_unit_test(the_current_device_stays),
		cmocka_unit_test(refuses_a_stream_that_is_captured),
		cmocka_unit_test(refuses_the_legacy_stream_while_a_blocking_one_is_captured),
		cmocka_unit_test(disturbs_no_capture_elsewhere),
	};

	(void)gpu_count();
	random_state = test_random_seed("device_streams");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
