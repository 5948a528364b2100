/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * CUDA's driver, as the process itself has loaded it: functions are looked up in there, so
 * that nothing of CUDA is linked. A library built with CUDA thus works where there is no
 * driver, beside any version of CUDA's runtime that the program brings, and never starts
 * the driver in a process that does not use it.
 */
#ifndef FTMEM_CUDA_DRIVER_H
#define FTMEM_CUDA_DRIVER_H

#include <cudaTypedefs.h>

/* X(member, symbol, type): all that drivers since CUDA 12.0 have. */
#define DRIVER_CALLS(X)                                                                       \
	X(pointer, "cuPointerGetAttributes", PFN_cuPointerGetAttributes_v7000)                \
	X(error_name, "cuGetErrorName", PFN_cuGetErrorName_v6000)                             \
	X(error_string, "cuGetErrorString", PFN_cuGetErrorString_v6000)                       \
	X(device_count, "cuDeviceGetCount", PFN_cuDeviceGetCount_v2000)                       \
	X(device_get, "cuDeviceGet", PFN_cuDeviceGet_v2000)                                   \
	X(device_attribute, "cuDeviceGetAttribute", PFN_cuDeviceGetAttribute_v2000)           \
	X(primary_state, "cuDevicePrimaryCtxGetState", PFN_cuDevicePrimaryCtxGetState_v7000)  \
	X(primary_retain, "cuDevicePrimaryCtxRetain", PFN_cuDevicePrimaryCtxRetain_v7000)     \
	X(primary_release, "cuDevicePrimaryCtxRelease_v2",                                    \
	  PFN_cuDevicePrimaryCtxRelease_v11000)                                               \
	X(context_id, "cuCtxGetId", PFN_cuCtxGetId_v12000)                                    \
	X(context_current, "cuCtxGetCurrent", PFN_cuCtxGetCurrent_v4000)                      \
	X(context_push, "cuCtxPushCurrent_v2", PFN_cuCtxPushCurrent_v4000)                    \
	X(context_pop, "cuCtxPopCurrent_v2", PFN_cuCtxPopCurrent_v4000)                       \
	X(context_device, "cuCtxGetDevice", PFN_cuCtxGetDevice_v2000)                         \
	X(capture_mode, "cuThreadExchangeStreamCaptureMode",                                  \
	  PFN_cuThreadExchangeStreamCaptureMode_v10010)                                       \
	X(priorities, "cuCtxGetStreamPriorityRange", PFN_cuCtxGetStreamPriorityRange_v5050)   \
	X(stream_new, "cuStreamCreateWithPriority", PFN_cuStreamCreateWithPriority_v5050)     \
	X(stream_free, "cuStreamDestroy_v2", PFN_cuStreamDestroy_v4000)                       \
	X(stream_sync, "cuStreamSynchronize", PFN_cuStreamSynchronize_v2000)                  \
	X(stream_capturing, "cuStreamIsCapturing", PFN_cuStreamIsCapturing_v10000)            \
	X(stream_context, "cuStreamGetCtx", PFN_cuStreamGetCtx_v9020)                         \
	X(stream_wait, "cuStreamWaitEvent", PFN_cuStreamWaitEvent_v3020)                      \
	X(event_new, "cuEventCreate", PFN_cuEventCreate_v2000)                                \
	X(event_free, "cuEventDestroy_v2", PFN_cuEventDestroy_v4000)                          \
	X(event_record, "cuEventRecord", PFN_cuEventRecord_v2000)                             \
	X(event_query, "cuEventQuery", PFN_cuEventQuery_v2000)                                \
	X(event_elapsed, "cuEventElapsedTime", PFN_cuEventElapsedTime_v2000)                  \
	X(copy_out, "cuMemcpyDtoHAsync_v2", PFN_cuMemcpyDtoHAsync_v3020)                      \
	X(copy_within, "cuMemcpyDtoDAsync_v2", PFN_cuMemcpyDtoDAsync_v3020)                   \
	X(copy_in, "cuMemcpyHtoDAsync_v2", PFN_cuMemcpyHtoDAsync_v3020)                       \
	X(alloc, "cuMemAlloc_v2", PFN_cuMemAlloc_v3020)                                       \
	X(free, "cuMemFree_v2", PFN_cuMemFree_v3020)                                          \
	X(host_register, "cuMemHostRegister_v2", PFN_cuMemHostRegister_v6050)                 \
	X(host_unregister, "cuMemHostUnregister", PFN_cuMemHostUnregister_v4000)

/* Drivers since CUDA 12.8 have these two, headers of before do not: what they take is spelled
 * out, so that the toolkit of the build does not matter. The types are those of 12.8, and so
 * is the symbol "cuMemcpyBatchAsync", whatever a later header means by that name. */
typedef CUresult(CUDAAPI *driver_stream_device)(CUstream stream, CUdevice *device);

/* CUmemcpySrcAccessOrder and CUmemcpyFlags */
#define DRIVER_ORDER_STREAM 1
#define DRIVER_COPY_OVERLAP 1

/* CUmemcpyAttributes */
struct driver_copy_attributes {
	int order;
	CUmemLocation from, to; /* of managed memory */
	unsigned flags;
};

typedef CUresult(CUDAAPI *driver_copy_batch)(CUdeviceptr *to, CUdeviceptr *from, size_t *bytes,
                                             size_t count,
                                             struct driver_copy_attributes *attributes,
                                             size_t *first, size_t attributes_count,
                                             size_t *failed, CUstream stream);

struct driver {
#define DRIVER_MEMBER(member, symbol, type) type member;
	DRIVER_CALLS(DRIVER_MEMBER)
#undef DRIVER_MEMBER
	driver_stream_device stream_device; /* or NULL */
	driver_copy_batch copy_batch;       /* or NULL */
	const char *missing; /* of DRIVER_CALLS, a function that the driver lacks, or NULL */
};

/* The driver, with a pointer() at least; NULL if the process has not loaded it. Any thread. */
const struct driver *driver_get(void);
/* error_set() with what the driver says of res, and what to do. Returns code. */
int driver_fail(const struct driver *cu, CUresult res, int code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
