/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What tests on a real device share: errors of CUDA's runtime, memory with random bytes,
 * streams that stand until they are let go, and parts of a test in a process of its own.
 */
#ifndef FTMEM_TEST_GPU_H
#define FTMEM_TEST_GPU_H

#include <pthread.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "clock.h"
#include "device.h"
#include "error.h"
#include "test_random.h"

#define GPU_SKIPPED 77
#define PATIENCE_S 30

static inline void gpu_check(cudaError_t err, const char *call, const char *file, int line)
{
	if (err != cudaSuccess)
		printf("%s: %s (%s)\n", call, cudaGetErrorString(err), cudaGetErrorName(err));
	_assert_int_equal((int)err, cudaSuccess, file, line);
}
#define CUDA(call) gpu_check((call), #call, __FILE__, __LINE__)

static inline void gpu_check_ok(int rc, const char *call, const char *file, int line)
{
	if (rc != 0)
		printf("%s: %d: %s\n", call, rc, error_msg());
	_assert_int_equal(rc, 0, file, line);
}
#define OK(call) gpu_check_ok((call), #call, __FILE__, __LINE__)

/* Refused with that code and these words. */
#define REFUSED(call, code, words)                               \
	do {                                                     \
		assert_int_equal((call), (code));                \
		if (!strstr(error_msg(), (words)))               \
			printf("message: %s\n", error_msg());    \
		assert_non_null(strstr(error_msg(), (words)));   \
	} while (0)

/* The number of devices; without one the test program is skipped. */
static inline int gpu_count(void)
{
	int count = 0;
	cudaError_t err = cudaGetDeviceCount(&count);

	if (err == cudaSuccess && count > 0)
		return count;
	printf("no device: %s\n", err == cudaSuccess ? "none is there" : cudaGetErrorString(err));
	exit(GPU_SKIPPED);
}

/* --- memory --- */

static inline void *gpu_alloc(size_t bytes)
{
	void *at = NULL;

	CUDA(cudaMalloc(&at, bytes));
	return at;
}

/* On the legacy default stream; device memory, or of the host, in any combination. */
static inline void gpu_copy(void *to, const void *from, size_t bytes)
{
	CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
}

/* The same random bytes in host memory, the caller's to free, and on the device. */
static inline uint8_t *gpu_random(void *at, size_t bytes, uint64_t *random)
{
	uint8_t *host = malloc(bytes);

	assert_non_null(host);
	test_random_fill(random, host, bytes);
	gpu_copy(at, host, bytes);
	return host;
}

static inline void gpu_assert_holds(const void *at, const uint8_t *want, size_t bytes)
{
	uint8_t *host = malloc(bytes);

	assert_non_null(host);
	gpu_copy(host, at, bytes);
	assert_memory_equal(host, want, bytes);
	free(host);
}

/* --- streams --- */

static inline cudaStream_t gpu_stream(void)
{
	cudaStream_t s;

	CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
	return s;
}

/* What a stream stands at until it is opened, or for PATIENCE_S. */
struct gate {
	pthread_mutex_t lock;
	pthread_cond_t opened;
	bool open, late;
};
#define GATE_INIT {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false}

static inline void CUDART_CB gate_stand(void *arg)
{
	struct gate *g = arg;
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_S;
	pthread_mutex_lock(&g->lock);
	while (!g->open && !g->late)
		g->late = pthread_cond_timedwait(&g->opened, &g->lock, &until) != 0;
	pthread_mutex_unlock(&g->lock);
}

static inline void gate_on(cudaStream_t s, struct gate *g)
{
	CUDA(cudaLaunchHostFunc(s, gate_stand, g));
}

static inline void gate_open(struct gate *g)
{
	pthread_mutex_lock(&g->lock);
	g->open = true;
	pthread_cond_broadcast(&g->opened);
	assert_false(g->late);
	pthread_mutex_unlock(&g->lock);
}

/* --- devices --- */

static inline struct device *gpu_open(int number)
{
	struct device *d = NULL;

	OK(device_ops()->open(number, &d));
	return d;
}

static inline struct device_event *gpu_event(struct device *d)
{
	struct device_event *e = NULL;

	OK(device_ops()->event_new(d, true, &e));
	return e;
}

/* Until the event is reached. */
static inline void gpu_await(const struct device_event *e)
{
	uint64_t deadline = clock_deadline(PATIENCE_S * 1000);
	int rc;

	while ((rc = device_ops()->query(e)) == 0)
		assert_true(clock_ns() < deadline);
	OK(rc - 1);
}

/* Until all that is queued in the lane is over. */
static inline void gpu_drain(struct device *d, enum device_lane lane)
{
	struct device_event *e = gpu_event(d);

	OK(device_ops()->record(e, lane));
	gpu_await(e);
	device_ops()->event_free(e);
}

/* --- a process of its own --- */

extern char **environ;

/* Runs this program with a part's name as its argument: exit status 0. A part that hangs is
 * ended by its alarm. */
static inline void gpu_run_part(const char *part)
{
	char name[64];
	char *argv[] = {(char *)"/proc/self/exe", name, NULL};
	int status = 0;
	pid_t pid;

	(void)snprintf(name, sizeof(name), "%s", part);
	fflush(NULL);
	assert_int_equal(posix_spawn(&pid, argv[0], NULL, NULL, argv, environ), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status))
		printf("part %s: signal %d\n", part, WTERMSIG(status));
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == GPU_SKIPPED)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* In a part. */
#define NEED(condition)                                                                \
	do {                                                                           \
		if (!(condition)) {                                                    \
			printf("%s:%d: not so: %s; last message: %s\n", __FILE__,      \
			       __LINE__, #condition, error_msg());                     \
			exit(1);                                                       \
		}                                                                      \
	} while (0)

#endif
