/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of device_cuda share.
 *
 * The library's work is in each device's primary context, which is that of CUDA's runtime,
 * and so of PyTorch. Every call makes the context it needs the thread's, and gives back what
 * was there before: a caller's current device is as it was, also where it had none. In
 * between, captures of graphs elsewhere in the process are not disturbed. A context that was
 * reset has another id: from then on all that was made in it answers EDEVICE.
 */
#ifndef FTMEM_CUDA_DEVICE_CUDA_IMPL_H
#define FTMEM_CUDA_DEVICE_CUDA_IMPL_H

#include "cuda/driver.h"
#include "device.h"

struct device {
	struct device *next; /* of those that are open */
	const struct driver *cu;
	CUdevice number;
	CUcontext context;
	unsigned long long id; /* of the context */
	bool retained;
	bool batches; /* copies can be handed over in batches */
	CUstream lane[DEVICE_LANES];
};

struct device_event {
	struct device *device;
	CUevent event;
};

static inline CUdeviceptr cuda_address(const void *at)
{
	return (CUdeviceptr)(uintptr_t)at;
}

/* --- device_cuda_scope.c --- */

/* What a call changes of the calling thread, until scope_leave(). */
struct scope {
	const struct driver *cu;
	bool pushed, relaxed;
	CUstreamCaptureMode mode; /* before, if relaxed */
};

/* The context stays as it is. */
void scope_begin(struct scope *s, const struct driver *cu);
CUresult scope_push(struct scope *s, CUcontext context);
/* Both, with the device's context; if it fails there is nothing to leave. */
CUresult scope_enter(struct scope *s, const struct device *d);
void scope_leave(struct scope *s);
/* Whether the device's context is still the one that was opened. */
CUresult device_alive(const struct device *d);

void device_list_add(struct device *d);
void device_list_remove(struct device *d);
/* The context of an open device, NULL if none is: it may be closed at any time. */
CUcontext device_any_context(void);
/* The number of an open device that is not alive any more, or -1. */
int device_find_lost(void);

/* 0, or EDEVICE with the message. */
int device_result(const struct device *d, CUresult res, const char *what);

/* --- operations of struct device_ops --- */

int cuda_where(const void *addr, uint64_t bytes, int *device);

int cuda_stream(void *stream, int *device);
int cuda_record_on(struct device_event *e, void *stream);
int cuda_stream_wait(void *stream, const struct device_event *e);

int cuda_copy(struct device *d, enum device_lane lane, const struct device_run *run,
              uint32_t count);

#endif
