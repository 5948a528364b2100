/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory, copies and failures of a real device. Links with --wrap of dlsym: with
 * FTMEM_TEST_ONE_BY_ONE in the environment the driver seems to take no batches of copies.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "gpu.h"

#define MIB (UINT64_C(1) << 20)

void *__real_dlsym(void *library, const char *symbol);
void *__wrap_dlsym(void *library, const char *symbol);
void *__wrap_dlsym(void *library, const char *symbol)
{
	if (getenv("FTMEM_TEST_ONE_BY_ONE") && strcmp(symbol, "cuMemcpyBatchAsync") == 0)
		return NULL;
	return __real_dlsym(library, symbol);
}

static uint64_t random_state;

/* A function of the driver, which the process has loaded. */
static void find(const char *symbol, void *function)
{
	void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
	void *address = driver ? dlsym(driver, symbol) : NULL;

	NEED(address);
	memcpy(function, &address, sizeof(address));
}
#define FIND(name, version)               \
	PFN_##name##_v##version name##_fn; \
	find(#name, &name##_fn)

static const struct device_ops *ops(void)
{
	return device_ops();
}

static int where(const void *at, uint64_t bytes)
{
	int device = -99;

	OK(ops()->where(at, bytes, &device));
	return device;
}

/* --- where --- */

static void tells_device_from_host_memory(void **state)
{
	static int fixed[100];
	uint8_t *host = malloc(100), *pinned, *registered = aligned_alloc(4096, 8192);
	uint8_t *at = gpu_alloc(3 * MIB);

	(void)state;
	CUDA(cudaHostAlloc((void **)&pinned, 100, cudaHostAllocDefault));
	CUDA(cudaHostRegister(registered, 8192, cudaHostRegisterPortable));
	assert_int_equal(where(at, 3 * MIB), 0);
	assert_int_equal(where(at + 1, 1), 0);
	assert_int_equal(where(at + 3 * MIB - 1, 1), 0);
	assert_int_equal(where(host, 100), DEVICE_HOST);
	assert_int_equal(where(fixed, sizeof(fixed)), DEVICE_HOST);
	assert_int_equal(where(&host, sizeof(host)), DEVICE_HOST);
	assert_int_equal(where(pinned, 100), DEVICE_HOST);
	assert_int_equal(where(registered, 8192), DEVICE_HOST);
	CUDA(cudaHostUnregister(registered));
	CUDA(cudaFreeHost(pinned));
	CUDA(cudaFree(at));
	free(registered);
	free(host);
}

static void tells_which_device(void **state)
{
	int count = gpu_count(), device;

	(void)state;
	for (int i = 0; i < count; i++) {
		void *at;

		CUDA(cudaSetDevice(i));
		at = gpu_alloc(1000);
		CUDA(cudaSetDevice(0));
		assert_int_equal(where(at, 1000), i);
		CUDA(cudaGetDevice(&device));
		assert_int_equal(device, 0);
		CUDA(cudaFree(at));
	}
}

static void knows_memory_of_a_pool(void **state)
{
	cudaStream_t s = gpu_stream();
	void *at = NULL;

	(void)state;
	CUDA(cudaMallocAsync(&at, 5000, s));
	CUDA(cudaStreamSynchronize(s));
	assert_int_equal(where(at, 5000), 0);
	CUDA(cudaFreeAsync(at, s));
	CUDA(cudaStreamSynchronize(s));
	CUDA(cudaStreamDestroy(s));
}

static void refuses_managed_memory(void **state)
{
	void *at = NULL;
	int device = 7;

	(void)state;
	if (cudaMallocManaged(&at, 65536, cudaMemAttachGlobal) != cudaSuccess) {
		(void)cudaGetLastError();
		skip();
	}
	REFUSED(ops()->where(at, 65536, &device), FTMEM_EINVAL, "managed memory");
	CUDA(cudaFree(at));
}

static void refuses_more_than_was_allocated(void **state)
{
	void *at = gpu_alloc(4 * MIB);
	int device = 7;

	(void)state;
	REFUSED(ops()->where(at, 1 << 30, &device), FTMEM_EINVAL, "more than there are");
	CUDA(cudaFree(at));
}

/* The way of PyTorch's expandable segments: addresses are reserved, and mapped in parts. */
struct segment {
	CUdeviceptr base;
	size_t part;
	CUmemGenericAllocationHandle handle[2];
};

static void segment_map(struct segment *s, unsigned parts)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
	                            .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
	CUmemAccessDesc access = {.location = prop.location,
	                          .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	FIND(cuMemAddressReserve, 10020);
	FIND(cuMemCreate, 10020);
	FIND(cuMemMap, 10020);
	FIND(cuMemSetAccess, 10020);

	s->part = 2 * MIB;
	assert_int_equal(cuMemAddressReserve_fn(&s->base, 4 * s->part, 0, 0, 0), CUDA_SUCCESS);
	for (unsigned i = 0; i < parts; i++) {
		assert_int_equal(cuMemCreate_fn(&s->handle[i], s->part, &prop, 0), CUDA_SUCCESS);
		assert_int_equal(
			cuMemMap_fn(s->base + i * s->part, s->part, 0, s->handle[i], 0),
			CUDA_SUCCESS);
	}
	assert_int_equal(cuMemSetAccess_fn(s->base, parts * s->part, &access, 1), CUDA_SUCCESS);
}

static void segment_unmap(struct segment *s, unsigned parts)
{
	FIND(cuMemUnmap, 10020);
	FIND(cuMemAddressFree, 10020);
	FIND(cuMemRelease, 10020);

	for (unsigned i = 0; i < parts; i++) {
		assert_int_equal(cuMemUnmap_fn(s->base + i * s->part, s->part), CUDA_SUCCESS);
		assert_int_equal(cuMemRelease_fn(s->handle[i]), CUDA_SUCCESS);
	}
	assert_int_equal(cuMemAddressFree_fn(s->base, 4 * s->part), CUDA_SUCCESS);
}

static void takes_a_segment_of_several_parts_and_copies_it(void **state)
{
	struct device *d = gpu_open(0);
	struct segment s;
	uint8_t *at, *want, *got;
	struct device_run run;

	(void)state;
	segment_map(&s, 2);
	at = (uint8_t *)(uintptr_t)s.base;
	CUDA(cudaHostAlloc((void **)&got, 2 * MIB, cudaHostAllocDefault));
	assert_int_equal(where(at, 2 * s.part), 0);
	want = gpu_random(at + MIB, 2 * MIB, &random_state);
	run = (struct device_run){got, at + MIB, 2 * MIB};
	OK(ops()->copy(d, DEVICE_OUT, &run, 1));
	gpu_drain(d, DEVICE_OUT);
	assert_memory_equal(got, want, 2 * MIB);
	free(want);
	CUDA(cudaFreeHost(got));
	segment_unmap(&s, 2);
	ops()->close(d);
}

static void refuses_what_is_reserved_but_not_mapped(void **state)
{
	struct device *d = gpu_open(0);
	struct segment s;
	void *at;
	uint8_t host[16];
	struct device_run run;
	int device = 7;

	(void)state;
	segment_map(&s, 1);
	at = (void *)(uintptr_t)s.base;
	REFUSED(ops()->where(at, 2 * s.part, &device), FTMEM_EINVAL, "the last byte");
	run = (struct device_run){host, (uint8_t *)at + s.part, 16};
	REFUSED(ops()->copy(d, DEVICE_OUT, &run, 1), FTMEM_EDEVICE, "ftmem_region_remove()");
	segment_unmap(&s, 1);
	ops()->close(d);
}

struct asked {
	void *at;
	int device, rc;
	cudaError_t err;
	CUcontext context;
};

static void *ask_elsewhere(void *arg)
{
	FIND(cuCtxGetCurrent, 4000);
	struct device_event *e = NULL;
	struct device *d = NULL;
	struct asked *a = arg;

	a->rc = ops()->where(a->at, 100, &a->device);
	if (a->rc == 0)
		a->rc = ops()->open(0, &d);
	if (a->rc == 0)
		a->rc = ops()->event_new(d, true, &e);
	if (a->rc == 0)
		a->rc = ops()->record(e, DEVICE_OUT);
	if (a->rc == 0 && ops()->query(e) < 0)
		a->rc = -1;
	ops()->event_free(e);
	ops()->close(d);
	if (cuCtxGetCurrent_fn(&a->context) != CUDA_SUCCESS)
		a->rc = -1;
	return NULL;
}

static void works_on_a_thread_without_a_context_and_leaves_it_so(void **state)
{
	struct asked a = {.at = gpu_alloc(100), .device = -99, .context = (CUcontext)&a};
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, ask_elsewhere, &a), 0);
	pthread_join(thread, NULL);
	assert_int_equal(a.rc, 0);
	assert_int_equal(a.device, 0);
	assert_null(a.context);
	CUDA(cudaFree(a.at));
}

/* --- copies --- */

struct copies {
	struct device *d;
	uint32_t count;
	size_t bytes;        /* with gaps */
	uint8_t *on_device, *elsewhere, *host;
	struct device_run *run;
};

/* Runs of random sizes, addresses and order, with gaps, of `count` times up to `most` bytes. */
static void copies_init(struct copies *c, uint32_t count, uint32_t most)
{
	size_t *offset = calloc(count, sizeof(*offset));

	c->d = gpu_open(0);
	c->count = count;
	c->run = calloc(count, sizeof(*c->run));
	assert_non_null(offset);
	assert_non_null(c->run);
	c->bytes = 0;
	for (uint32_t i = 0; i < count; i++) {
		offset[i] = c->bytes;
		c->run[i].bytes = test_random_below(&random_state, most + 1);
		c->bytes += c->run[i].bytes + 1 + test_random_below(&random_state, 9);
	}
	c->on_device = gpu_alloc(c->bytes);
	c->elsewhere = gpu_alloc(c->bytes);
	CUDA(cudaHostAlloc((void **)&c->host, c->bytes, cudaHostAllocDefault));
	for (uint32_t i = 0; i < count; i++)
		c->run[i].to = (void *)(uintptr_t)offset[i];
	free(offset);
}

static void copies_deinit(struct copies *c)
{
	CUDA(cudaFreeHost(c->host));
	CUDA(cudaFree(c->on_device));
	CUDA(cudaFree(c->elsewhere));
	free(c->run);
	ops()->close(c->d);
}

/* All runs from one memory to the same places in another, and nothing between them. */
static void copies_do(struct copies *c, enum device_lane lane, uint8_t *to, uint8_t *from)
{
	uint8_t *want = malloc(c->bytes), *source = malloc(c->bytes);
	struct device_run *run = calloc(c->count, sizeof(*run));

	assert_non_null(want);
	assert_non_null(source);
	assert_non_null(run);
	test_random_fill(&random_state, source, c->bytes);
	memset(want, 0xa5, c->bytes);
	gpu_copy(from, source, c->bytes);
	gpu_copy(to, want, c->bytes);
	for (uint32_t i = 0; i < c->count; i++) {
		size_t at = (uintptr_t)c->run[i].to;

		run[i] = (struct device_run){to + at, from + at, c->run[i].bytes};
		memcpy(want + at, source + at, run[i].bytes);
	}
	OK(ops()->copy(c->d, lane, run, c->count));
	memset(run, 0, c->count * sizeof(*run));
	gpu_drain(c->d, lane);
	gpu_assert_holds(to, want, c->bytes);
	free(run);
	free(source);
	free(want);
}

static void copies_all(uint32_t count, uint32_t most)
{
	struct copies c;
	uint8_t *pageable;

	copies_init(&c, count, most);
	pageable = malloc(c.bytes);
	assert_non_null(pageable);
	copies_do(&c, DEVICE_OUT, c.host, c.on_device);
	copies_do(&c, DEVICE_IN, c.on_device, c.host);
	copies_do(&c, DEVICE_STAGE, c.elsewhere, c.on_device);
	copies_do(&c, DEVICE_STAGE, c.host, c.on_device);
	copies_do(&c, DEVICE_OUT, pageable, c.on_device);
	copies_do(&c, DEVICE_IN, c.on_device, pageable);
	free(pageable);
	copies_deinit(&c);
}

static void copies_many_small_runs(void **state)
{
	(void)state;
	copies_all(2000, 900);
}

static void copies_few_large_runs(void **state)
{
	(void)state;
	copies_all(5, 20 * MIB);
}

static void copies_nothing(void **state)
{
	struct device *d = gpu_open(0);
	struct device_run none[3] = {{0}};

	(void)state;
	OK(ops()->copy(d, DEVICE_OUT, none, 0));
	OK(ops()->copy(d, DEVICE_OUT, none, 3));
	gpu_drain(d, DEVICE_OUT);
	ops()->close(d);
}

static void refuses_memory_that_was_freed_and_goes_on(void **state)
{
	struct copies c;
	struct device_run run;
	void *at;

	(void)state;
	copies_init(&c, 3, 100000);
	/* Large enough for addresses of its own. */
	at = gpu_alloc(64 * MIB);
	CUDA(cudaFree(at));
	run = (struct device_run){c.host, at, 1000};
	REFUSED(ops()->copy(c.d, DEVICE_OUT, &run, 1), FTMEM_EDEVICE, "ftmem_region_remove()");
	run = (struct device_run){at, c.host, 1000};
	REFUSED(ops()->copy(c.d, DEVICE_IN, &run, 1), FTMEM_EDEVICE, "ftmem_region_remove()");
	CUDA(cudaGetLastError());
	copies_do(&c, DEVICE_OUT, c.host, c.on_device);
	copies_deinit(&c);
}

/* --- memory --- */

static void takes_memory_and_says_how_much_is_too_much(void **state)
{
	struct device *d = gpu_open(0);
	void *at = NULL;

	(void)state;
	OK(ops()->alloc(d, 3 * MIB, &at));
	assert_int_equal(where(at, 3 * MIB), 0);
	ops()->free(d, at);
	ops()->free(d, NULL);
	REFUSED(ops()->alloc(d, UINT64_C(1) << 50, &at), FTMEM_ENOMEM, "device_staging");
	CUDA(cudaGetLastError());
	ops()->close(d);
}

static uint8_t *shared_memory(size_t bytes)
{
	int fd = memfd_create("ftmem-test", MFD_CLOEXEC);
	uint8_t *at;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(at, MAP_FAILED);
	close(fd);
	return at;
}

/* As an arena is pinned; runs cross the border of its pieces. */
static void pins_shared_memory_in_pieces(void **state)
{
	struct device *d = gpu_open(0);
	uint8_t *arena = shared_memory(8 * MIB), *at = gpu_alloc(8 * MIB), *want;
	cudaStream_t s = gpu_stream();
	struct device_event *e = gpu_event(d);
	/* None goes across the border of two pieces. */
	struct device_run run[] = {{arena + MIB, at + MIB, 3 * MIB},
	                           {arena + 4 * MIB, at + 4 * MIB, 3 * MIB}};
	struct gate gate = GATE_INIT;

	(void)state;
	OK(ops()->pin(d, arena, 4 * MIB));
	OK(ops()->pin(d, arena + 4 * MIB, 4 * MIB));
	assert_int_equal(where(arena, 8 * MIB), DEVICE_HOST);
	want = gpu_random(at, 8 * MIB, &random_state);
	/* Pinned: the caller does not wait for the copy. */
	gate_on(s, &gate);
	OK(ops()->record_on(e, s));
	OK(ops()->lane_wait(d, DEVICE_OUT, e));
	OK(ops()->copy(d, DEVICE_OUT, run, 2));
	gate_open(&gate);
	gpu_drain(d, DEVICE_OUT);
	assert_memory_equal(arena + MIB, want + MIB, 6 * MIB);
	/* Not for want of memory. */
	REFUSED(ops()->pin(d, arena, 4 * MIB), FTMEM_EDEVICE, "cannot be pinned");
	assert_null(strstr(error_msg(), "ulimit"));
	CUDA(cudaGetLastError());
	ops()->unpin(d, arena);
	ops()->unpin(d, arena + 4 * MIB);
	OK(ops()->pin(d, arena, 8 * MIB));
	ops()->unpin(d, arena);
	free(want);
	ops()->event_free(e);
	CUDA(cudaStreamDestroy(s));
	CUDA(cudaFree(at));
	munmap(arena, 8 * MIB);
	ops()->close(d);
}

static void there_is_no_device_of_that_number(void **state)
{
	struct device *d = NULL;

	(void)state;
	REFUSED(ops()->open(63, &d), FTMEM_EDEVICE, "CUDA device 63");
	assert_null(d);
	ops()->close(NULL);
	ops()->event_free(NULL);
}

/* --- in processes of their own --- */

static bool driver_loaded(void)
{
	return dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD) != NULL;
}

/* Neither the driver is started nor a context made where there are none. */
static void part_untouched(void)
{
	int x = 0, device = -99, count = 0, active;
	unsigned flags;

	NEED(ops()->where(&x, sizeof(x), &device) == 0 && device == DEVICE_HOST);
	NEED(ops()->stream(NULL, &device) == FTMEM_EINVAL);
	NEED(!driver_loaded());
	NEED(dlopen("libcuda.so.1", RTLD_LAZY));
	NEED(ops()->where(&x, sizeof(x), &device) == 0 && device == DEVICE_HOST);
	FIND(cuInit, 2000);
	FIND(cuDeviceGetCount, 2000);
	FIND(cuDevicePrimaryCtxGetState, 7000);
	NEED(cuInit_fn(0) == CUDA_SUCCESS);
	NEED(ops()->where(&x, sizeof(x), &device) == 0 && device == DEVICE_HOST);
	NEED(cuDeviceGetCount_fn(&count) == CUDA_SUCCESS && count > 0);
	for (int i = 0; i < count; i++) {
		active = 1;
		NEED(cuDevicePrimaryCtxGetState_fn(i, &flags, &active) == CUDA_SUCCESS);
		NEED(!active);
	}
}

/* After a reset: all that the library asks of the device. */
static void need_all_refused(struct device *d, struct device_event *e, void *at, const char *words)
{
	uint8_t host[16];
	struct device_run run = {host, at, sizeof(host)};
	struct device_event *other = NULL;
	void *more = NULL;
	double seconds;

	NEED(ops()->query(e) == FTMEM_EDEVICE && strstr(error_msg(), words));
	NEED(ops()->copy(d, DEVICE_OUT, &run, 1) == FTMEM_EDEVICE);
	NEED(ops()->record(e, DEVICE_OUT) == FTMEM_EDEVICE && strstr(error_msg(), words));
	NEED(ops()->record_on(e, NULL) == FTMEM_EDEVICE);
	NEED(ops()->lane_wait(d, DEVICE_IN, e) == FTMEM_EDEVICE);
	NEED(ops()->stream_wait(NULL, e) == FTMEM_EDEVICE);
	NEED(ops()->elapsed(e, e, &seconds) == FTMEM_EDEVICE);
	NEED(ops()->event_new(d, true, &other) == FTMEM_EDEVICE);
	NEED(ops()->alloc(d, 1000, &more) == FTMEM_EDEVICE);
	NEED(ops()->query(e) == FTMEM_EDEVICE);
}

/* After an error that stays the driver refuses what it likes; nothing may hang or crash. */
static void need_refused_or_done(struct device *d, struct device_event *e, void *at,
                                 const char *words)
{
	uint8_t host[16];
	struct device_run run = {host, at, sizeof(host)};
	struct device_event *other = NULL;
	double seconds;

	NEED(ops()->query(e) == FTMEM_EDEVICE && strstr(error_msg(), words));
	NEED(ops()->copy(d, DEVICE_OUT, &run, 1) == FTMEM_EDEVICE);
	(void)ops()->record(e, DEVICE_OUT);
	(void)ops()->record_on(e, NULL);
	(void)ops()->lane_wait(d, DEVICE_IN, e);
	(void)ops()->stream_wait(NULL, e);
	(void)ops()->elapsed(e, e, &seconds);
	if (ops()->event_new(d, true, &other) == 0)
		ops()->event_free(other);
	NEED(ops()->query(e) == FTMEM_EDEVICE);
}

static void part_reset(void)
{
	uint8_t *arena = aligned_alloc(4096, 65536);
	struct device_event *e = NULL;
	struct device *d = NULL;
	void *at = NULL, *staging = NULL, *again = NULL;
	cudaStream_t s = NULL;
	int device;

	NEED(cudaMalloc(&at, 1000) == cudaSuccess && cudaStreamCreate(&s) == cudaSuccess);
	NEED(ops()->open(0, &d) == 0 && ops()->event_new(d, true, &e) == 0);
	NEED(ops()->alloc(d, 1000, &staging) == 0 && ops()->pin(d, arena, 65536) == 0);
	NEED(ops()->record(e, DEVICE_OUT) == 0);
	NEED(cudaDeviceReset() == cudaSuccess);
	need_all_refused(d, e, at, "reset");
	NEED(ops()->stream(s, &device) == FTMEM_EDEVICE);
	NEED(ops()->stream(NULL, &device) == FTMEM_EDEVICE);
	NEED(ops()->pin(d, arena, 65536) == FTMEM_EDEVICE);
	/* The device is used again: what was made before is still gone. */
	NEED(cudaMalloc(&again, 1000) == cudaSuccess);
	need_all_refused(d, e, again, "reset");
	NEED(ops()->stream(s, &device) == FTMEM_EDEVICE);
	ops()->unpin(d, arena);
	ops()->free(d, staging);
	ops()->event_free(e);
	ops()->close(d);
	NEED(cudaMemset(again, 1, 1000) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
	/* And can be opened anew. */
	NEED(ops()->open(0, &d) == 0 && ops()->event_new(d, true, &e) == 0);
	NEED(ops()->record(e, DEVICE_OUT) == 0 && ops()->stream(NULL, &device) == 0);
	ops()->event_free(e);
	ops()->close(d);
	free(arena);
}

/* A kernel that ends with an error which stays. */
static const char trap[] = ".version 7.0\n.target sm_52\n.address_size 64\n"
                           ".visible .entry trap_at_once()\n{\n\ttrap;\n\tret;\n}\n";

static void part_sticky(void)
{
	void *at = NULL;
	struct device_event *e = NULL;
	struct device *d = NULL;
	CUmodule module;
	CUfunction kernel;

	NEED(cudaMalloc(&at, 1000) == cudaSuccess);
	NEED(ops()->open(0, &d) == 0 && ops()->event_new(d, true, &e) == 0);
	FIND(cuModuleLoadData, 2000);
	FIND(cuModuleGetFunction, 2000);
	FIND(cuLaunchKernel, 4000);
	if (cuModuleLoadData_fn(&module, trap) != CUDA_SUCCESS) {
		printf("no compiler in the driver\n");
		exit(GPU_SKIPPED);
	}
	NEED(cuModuleGetFunction_fn(&kernel, module, "trap_at_once") == CUDA_SUCCESS);
	NEED(cuLaunchKernel_fn(kernel, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL) == CUDA_SUCCESS);
	NEED(cudaDeviceSynchronize() != cudaSuccess);
	need_refused_or_done(d, e, at, "start the job again");
	ops()->free(d, at);
	ops()->event_free(e);
	ops()->close(d);
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {{"untouched", part_untouched}, {"reset", part_reset}, {"sticky", part_sticky}};

static void starts_no_driver_and_makes_no_context(void **state)
{
	(void)state;
	gpu_run_part("untouched");
}

static void a_device_that_was_reset_answers_with_errors(void **state)
{
	(void)state;
	gpu_run_part("reset");
}

static void a_device_that_failed_answers_with_errors(void **state)
{
	(void)state;
	gpu_run_part("sticky");
}

static int run_part(const char *name)
{
	alarm(60);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		if (strcmp(parts[i].name, name) == 0) {
			parts[i].run();
			return 0;
		}
	}
	return 2;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tells_device_from_host_memory),
		cmocka_unit_test(tells_which_device),
		cmocka_unit_test(knows_memory_of_a_pool),
		cmocka_unit_test(refuses_managed_memory),
		cmocka_unit_test(refuses_more_than_was_allocated),
		cmocka_unit_test(takes_a_segment_of_several_parts_and_copies_it),
		cmocka_unit_test(refuses_what_is_reserved_but_not_mapped),
		cmocka_unit_test(works_on_a_thread_without_a_context_and_leaves_it_so),
		cmocka_unit_test(copies_many_small_runs),
		cmocka_unit_test(copies_few_large_runs),
		cmocka_unit_test(copies_nothing),
		cmocka_unit_test(refuses_memory_that_was_freed_and_goes_on),
		cmocka_unit_test(takes_memory_and_says_how_much_is_too_much),
		cmocka_unit_test(pins_shared_memory_in_pieces),
		cmocka_unit_test(there_is_no_device_of_that_number),
		cmocka_unit_test(starts_no_driver_and_makes_no_context),
		cmocka_unit_test(a_device_that_was_reset_answers_with_errors),
		cmocka_unit_test(a_device_that_failed_answers_with_errors),
	};

	if (argc == 2)
		return run_part(argv[1]);
	(void)gpu_count();
	random_state = test_random_seed("device_cuda");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
