/* SPDX-License-Identifier: BSD-3-Clause */
#include "fake_cuda.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "cuda/driver.h"

/* Where streams and events of the library begin. */
#define OURS 0x1000

void *__real_dlopen(const char *file, int mode);
void *__wrap_dlopen(const char *file, int mode);
void *__real_dlsym(void *library, const char *symbol);
void *__wrap_dlsym(void *library, const char *symbol);

struct fake_cuda cuda;
_Thread_local struct fake_self self;

static CUcontext current(void)
{
	return self.depth ? self.stack[self.depth - 1] : NULL;
}

static int device_of(CUcontext context)
{
	return (int)((uintptr_t)context - (uintptr_t)context_of(0));
}

static int device_of_stream(CUstream stream)
{
	return (int)((uintptr_t)stream - (uintptr_t)stream_of(0));
}

static CUresult fake_attributes(unsigned count, CUpointer_attribute *what, void **into,
                                CUdeviceptr at)
{
	const uint8_t *p = (const uint8_t *)(uintptr_t)at;
	int device = -1;
	bool managed = p >= cuda.managed && p < cuda.managed + FAKE_BYTES;

	if (cuda.pointer != CUDA_SUCCESS)
		return cuda.pointer;
	if (cuda.needs_context && !current())
		return CUDA_ERROR_INVALID_CONTEXT;
	for (int i = 0; i < FAKE_DEVICES; i++)
		if (p >= cuda.memory[i] && p < cuda.memory[i] + cuda.mapped)
			device = i;
	for (unsigned i = 0; i < count; i++) {
		switch (what[i]) {
		case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
			*(unsigned *)into[i] = device >= 0 || managed ? CU_MEMORYTYPE_DEVICE : 0;
			break;
		case CU_POINTER_ATTRIBUTE_IS_MANAGED: *(unsigned *)into[i] = managed; break;
		case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)into[i] = device; break;
		case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
			if (device >= 0)
				*(CUdeviceptr *)into[i] = (uintptr_t)cuda.memory[device];
			break;
		case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
			if (device >= 0)
				*(size_t *)into[i] = FAKE_BYTES;
			break;
		default: fail();
		}
	}
	return CUDA_SUCCESS;
}

static CUresult fake_text(CUresult res, const char **text)
{
	*text = res == CUDA_ERROR_LAUNCH_FAILED ? "launch failed" : "some error";
	return CUDA_SUCCESS;
}

static CUresult fake_count(int *count)
{
	*count = FAKE_DEVICES;
	return CUDA_SUCCESS;
}

static CUresult fake_get(CUdevice *device, int ordinal)
{
	*device = ordinal;
	return ordinal < FAKE_DEVICES ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

static CUresult fake_attribute(int *value, CUdevice_attribute what, CUdevice device)
{
	(void)device;
	assert_int_equal(what, CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM);
	*value = !cuda.own_addresses;
	return CUDA_SUCCESS;
}

static CUresult fake_state(CUdevice device, unsigned *flags, int *active)
{
	*flags = 0;
	*active = device == 1;
	return CUDA_SUCCESS;
}

static CUresult fake_retain(CUcontext *context, CUdevice device)
{
	*context = context_of(device);
	cuda.retained[device]++;
	return CUDA_SUCCESS;
}

static CUresult fake_release(CUdevice device)
{
	cuda.retained[device]--;
	return CUDA_SUCCESS;
}

static CUresult fake_id(CUcontext context, unsigned long long *id)
{
	*id = cuda.id[device_of(context)];
	return *id ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

static CUresult fake_current(CUcontext *context)
{
	*context = current();
	return CUDA_SUCCESS;
}

static CUresult fake_push(CUcontext context)
{
	self.stack[self.depth++] = context;
	return CUDA_SUCCESS;
}

static CUresult fake_pop(CUcontext *context)
{
	assert_true(self.depth > 0);
	*context = self.stack[--self.depth];
	return CUDA_SUCCESS;
}

static CUresult fake_device(CUdevice *device)
{
	if (!current())
		return CUDA_ERROR_INVALID_CONTEXT;
	*device = device_of(current());
	return CUDA_SUCCESS;
}

static CUresult fake_mode(CUstreamCaptureMode *mode)
{
	CUstreamCaptureMode before = self.mode;

	self.mode = *mode;
	*mode = before;
	return CUDA_SUCCESS;
}

/* What changes or asks a device happens within a context, and relaxed. */
static void assert_scope(void)
{
	assert_non_null(current());
	assert_int_equal(self.mode, CU_STREAM_CAPTURE_MODE_RELAXED);
}

/* What a capture elsewhere allows. */
static void assert_context(void)
{
	assert_non_null(current());
}

static CUresult fake_priorities(int *least, int *greatest)
{
	assert_scope();
	*least = 0;
	*greatest = -5;
	return CUDA_SUCCESS;
}

static CUresult fake_stream_new(CUstream *stream, unsigned flags, int priority)
{
	static uintptr_t last = OURS;

	assert_scope();
	assert_int_equal(flags, CU_STREAM_NON_BLOCKING);
	assert_int_equal(priority, 0);
	*stream = (CUstream)++last;
	return CUDA_SUCCESS;
}

static CUresult fake_stream(CUstream stream)
{
	assert_scope();
	assert_true((uintptr_t)stream > OURS);
	return CUDA_SUCCESS;
}

static CUresult fake_capturing(CUstream stream, CUstreamCaptureStatus *status)
{
	assert_context();
	(void)stream;
	*status = cuda.status;
	return cuda.capturing;
}

static CUresult fake_stream_context(CUstream stream, CUcontext *context)
{
	assert_context();
	*context = context_of(device_of_stream(stream));
	return CUDA_SUCCESS;
}

static CUresult fake_stream_device(CUstream stream, CUdevice *device)
{
	assert_context();
	*device = device_of_stream(stream);
	return CUDA_SUCCESS;
}

static CUresult fake_wait(CUstream stream, CUevent event, unsigned flags)
{
	assert_context();
	(void)stream;
	assert_non_null(event);
	assert_int_equal(flags, 0);
	return CUDA_SUCCESS;
}

static CUresult fake_event_new(CUevent *event, unsigned flags)
{
	assert_scope();
	assert_true(flags == CU_EVENT_DEFAULT || flags == CU_EVENT_DISABLE_TIMING);
	cuda.timed += flags == CU_EVENT_DEFAULT;
	*event = (CUevent)(uintptr_t)OURS;
	return cuda.alloc;
}

static CUresult fake_event(CUevent event)
{
	assert_scope();
	assert_non_null(event);
	return cuda.query;
}

static CUresult fake_record(CUevent event, CUstream stream)
{
	assert_context();
	assert_non_null(event);
	(void)stream;
	return cuda.query == CUDA_ERROR_NOT_READY ? CUDA_SUCCESS : cuda.query;
}

static CUresult fake_elapsed(float *ms, CUevent from, CUevent to)
{
	assert_scope();
	assert_ptr_equal(from, to);
	*ms = 250;
	return cuda.query;
}

static CUresult fake_move(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
	if (cuda.copy != CUDA_SUCCESS)
		return cuda.copy;
	assert_scope();
	assert_true(bytes > 0);
	memcpy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes);
	cuda.copies++;
	return CUDA_SUCCESS;
}

static CUresult fake_out(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
	(void)stream;
	return fake_move((uintptr_t)to, from, bytes);
}

static CUresult fake_in(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
	(void)stream;
	return fake_move(to, (uintptr_t)from, bytes);
}

static CUresult fake_within(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
	(void)stream;
	return fake_move(to, from, bytes);
}

/* Headers of before CUDA 12.8 have no such functions; drivers do not mind them. */
#if CUDA_VERSION >= 12080
static CUresult fake_batch(CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count,
                           CUmemcpyAttributes *attributes, size_t *first, size_t attributes_count,
                           size_t *failed, CUstream stream)
{
	_Static_assert(sizeof(*attributes) == sizeof(struct driver_copy_attributes), "as in 12.8");
	assert_int_equal(attributes[0].srcAccessOrder, CU_MEMCPY_SRC_ACCESS_ORDER_STREAM);
	assert_true(attributes[0].flags == CU_MEMCPY_FLAG_DEFAULT
	            || attributes[0].flags == CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE);
#else
static CUresult fake_batch(CUdeviceptr *to, CUdeviceptr *from, size_t *bytes, size_t count,
                           struct driver_copy_attributes *attributes, size_t *first,
                           size_t attributes_count, size_t *failed, CUstream stream)
{
	assert_int_equal(attributes[0].order, DRIVER_ORDER_STREAM);
#endif
	assert_int_equal(attributes_count, 1);
	assert_int_equal(first[0], 0);
	(void)stream;
	*failed = 0;
	if (cuda.batch != CUDA_SUCCESS)
		return cuda.batch;
	for (size_t i = 0; i < count; i++)
		assert_int_equal(fake_move(to[i], from[i], bytes[i]), CUDA_SUCCESS);
	cuda.batches++;
	if (count > cuda.largest)
		cuda.largest = (unsigned)count;
	return CUDA_SUCCESS;
}

static CUresult fake_alloc(CUdeviceptr *at, size_t bytes)
{
	assert_scope();
	*at = bytes;
	return cuda.alloc;
}

static CUresult fake_free(CUdeviceptr at)
{
	assert_scope();
	assert_true(at > 0);
	return CUDA_SUCCESS;
}

static CUresult fake_register(void *at, size_t bytes, unsigned flags)
{
	assert_scope();
	assert_non_null(at);
	assert_true(bytes > 0);
	assert_int_equal(flags, CU_MEMHOSTREGISTER_PORTABLE);
	cuda.pins += cuda.pin == CUDA_SUCCESS;
	return cuda.pin;
}

static CUresult fake_unregister(void *at)
{
	assert_scope();
	assert_non_null(at);
	cuda.pins--;
	return CUDA_SUCCESS;
}

typedef void (*function)(void);

static const struct {
	const char *symbol;
	function fn;
} functions[] = {
	{"cuPointerGetAttributes", (function)fake_attributes},
	{"cuGetErrorName", (function)fake_text},
	{"cuGetErrorString", (function)fake_text},
	{"cuDeviceGetCount", (function)fake_count},
	{"cuDeviceGet", (function)fake_get},
	{"cuDeviceGetAttribute", (function)fake_attribute},
	{"cuDevicePrimaryCtxGetState", (function)fake_state},
	{"cuDevicePrimaryCtxRetain", (function)fake_retain},
	{"cuDevicePrimaryCtxRelease_v2", (function)fake_release},
	{"cuCtxGetId", (function)fake_id},
	{"cuCtxGetCurrent", (function)fake_current},
	{"cuCtxPushCurrent_v2", (function)fake_push},
	{"cuCtxPopCurrent_v2", (function)fake_pop},
	{"cuCtxGetDevice", (function)fake_device},
	{"cuThreadExchangeStreamCaptureMode", (function)fake_mode},
	{"cuCtxGetStreamPriorityRange", (function)fake_priorities},
	{"cuStreamCreateWithPriority", (function)fake_stream_new},
	{"cuStreamDestroy_v2", (function)fake_stream},
	{"cuStreamSynchronize", (function)fake_stream},
	{"cuStreamIsCapturing", (function)fake_capturing},
	{"cuStreamGetCtx", (function)fake_stream_context},
	{"cuStreamGetDevice", (function)fake_stream_device},
	{"cuStreamWaitEvent", (function)fake_wait},
	{"cuEventCreate", (function)fake_event_new},
	{"cuEventDestroy_v2", (function)fake_event},
	{"cuEventRecord", (function)fake_record},
	{"cuEventQuery", (function)fake_event},
	{"cuEventElapsedTime", (function)fake_elapsed},
	{"cuMemcpyDtoHAsync_v2", (function)fake_out},
	{"cuMemcpyDtoDAsync_v2", (function)fake_within},
	{"cuMemcpyHtoDAsync_v2", (function)fake_in},
	{"cuMemcpyBatchAsync", (function)fake_batch},
	{"cuMemAlloc_v2", (function)fake_alloc},
	{"cuMemFree_v2", (function)fake_free},
	{"cuMemHostRegister_v2", (function)fake_register},
	{"cuMemHostUnregister", (function)fake_unregister},
};

void *__wrap_dlopen(const char *file, int mode)
{
	if (!file || strcmp(file, "libcuda.so.1") != 0)
		return __real_dlopen(file, mode);
	/* The library loads no driver. */
	assert_true(mode & RTLD_NOLOAD);
	return cuda.loaded ? &cuda : NULL;
}

void *__wrap_dlsym(void *library, const char *symbol)
{
	void *address = NULL;

	if (library != &cuda)
		return __real_dlsym(library, symbol);
	for (int i = 0; i < 2; i++)
		if (cuda.lacks[i] && strcmp(symbol, cuda.lacks[i]) == 0)
			return NULL;
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		if (strcmp(symbol, functions[i].symbol) == 0)
			memcpy(&address, &functions[i].fn, sizeof(address));
	return address;
}
