/* SPDX-License-Identifier: BSD-3-Clause */
/* Streams of the user. */
#include "cuda/device_cuda_impl.h"
#include "error.h"

static bool is_default(const void *stream)
{
	return !stream || stream == (const void *)CU_STREAM_LEGACY
	       || stream == (const void *)CU_STREAM_PER_THREAD;
}

/* On a thread that has no context no default stream is meant, and for any other some context
 * is needed. What is called here is allowed while graphs are captured elsewhere. */
static CUresult scope_user(struct scope *s, const struct driver *cu, const void *stream)
{
	CUcontext current = NULL, other;
	CUresult res = cu->context_current(&current);

	*s = (struct scope){.cu = cu};
	if (res != CUDA_SUCCESS || current)
		return res;
	other = is_default(stream) ? NULL : device_any_context();
	return other ? scope_push(s, other) : CUDA_ERROR_INVALID_CONTEXT;
}

static CUresult stream_number(const struct driver *cu, void *stream, CUdevice *number)
{
	CUcontext context, popped;
	CUresult res;

	if (is_default(stream))
		return cu->context_device(number);
	if (cu->stream_device)
		return cu->stream_device(stream, number);
	res = cu->stream_context(stream, &context);
	if (res == CUDA_SUCCESS)
		res = cu->context_push(context);
	if (res == CUDA_SUCCESS) {
		res = cu->context_device(number);
		(void)cu->context_pop(&popped);
	}
	return res;
}

static int stream_fail(const struct driver *cu, CUresult res, const void *stream)
{
	if (res == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
		return error_set(FTMEM_EINVAL,
		                 "another stream is being captured into a graph, and the default "
		                 "stream would wait for it: give a stream of its own, made with "
		                 "cudaStreamNonBlocking, or end the capture first");
	if (res == CUDA_ERROR_INVALID_CONTEXT)
		return error_set(FTMEM_EINVAL,
		                 "stream %p cannot be used: this thread has no current device: "
		                 "call cudaSetDevice(), or pass a stream",
		                 stream);
	return driver_fail(cu, res,
	                   res == CUDA_ERROR_INVALID_HANDLE || res == CUDA_ERROR_INVALID_VALUE
	                   ? FTMEM_EINVAL : FTMEM_EDEVICE,
	                   "stream %p cannot be used", stream);
}

/* Within a scope: whether work on it can be waited for, and its device. */
static int stream_check(const struct driver *cu, void *stream, CUdevice *number)
{
	CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
	CUresult res = cu->stream_capturing(stream, &status);

	if (res == CUDA_SUCCESS && status != CU_STREAM_CAPTURE_STATUS_NONE)
		return error_set(FTMEM_EINVAL,
		                 "stream %p is being captured into a graph, which would repeat "
		                 "this call's waits without what they wait for: end the capture "
		                 "first",
		                 stream);
	if (res == CUDA_SUCCESS)
		res = stream_number(cu, stream, number);
	return res == CUDA_SUCCESS ? 0 : stream_fail(cu, res, stream);
}

/* Whatever comes of it, the scope is to be left. */
static int scope_stream(struct scope *s, const struct driver *cu, void *stream, CUdevice *number)
{
	CUresult res = scope_user(s, cu, stream);

	if (res != CUDA_SUCCESS)
		return stream_fail(cu, res, stream);
	return stream_check(cu, stream, number);
}

int cuda_stream(void *stream, int *device)
{
	const struct driver *cu = driver_get();
	CUdevice number = 0;
	struct scope s;
	int rc, lost;

	if (!cu || cu->missing)
		return error_set(FTMEM_EINVAL, "stream %p: the process uses no CUDA driver of "
		                 "version 12.0 or later", stream);
	/* The driver trusts handles: a reset has destroyed the streams of its device. */
	lost = device_find_lost();
	if (lost >= 0)
		return driver_fail(cu, CUDA_ERROR_CONTEXT_IS_DESTROYED, FTMEM_EDEVICE,
		                   "CUDA device %d: its streams are gone", lost);
	rc = scope_stream(&s, cu, stream, &number);
	scope_leave(&s);
	if (rc == 0)
		*device = number;
	return rc;
}

int cuda_record_on(struct device_event *e, void *stream)
{
	const struct device *d = e->device;
	CUresult res = device_alive(d);
	struct scope s;

	if (res == CUDA_SUCCESS) {
		res = scope_user(&s, d->cu, stream);
		if (res == CUDA_SUCCESS)
			res = d->cu->event_record(e->event, stream);
		scope_leave(&s);
	}
	return device_result(d, res, "an event cannot be recorded on the given stream");
}

int cuda_stream_wait(void *stream, const struct device_event *e)
{
	const struct device *d = e->device;
	CUresult res = device_alive(d);
	struct scope s;

	if (res == CUDA_SUCCESS) {
		res = scope_user(&s, d->cu, stream);
		if (res == CUDA_SUCCESS)
			res = d->cu->stream_wait(stream, e->event, CU_EVENT_WAIT_DEFAULT);
		scope_leave(&s);
	}
	return device_result(d, res, "the given stream cannot be made to wait");
}
