/* SPDX-License-Identifier: BSD-3-Clause */
/* Devices of CUDA, through its driver. */
#include <stdlib.h>

#include "cuda/device_cuda_impl.h"
#include "error.h"

static void cuda_drain(struct device *d)
{
	struct scope s;

	if (!d->retained || scope_enter(&s, d) != CUDA_SUCCESS)
		return;
	for (int i = 0; i < DEVICE_LANES; i++)
		if (d->lane[i])
			(void)d->cu->stream_sync(d->lane[i]);
	scope_leave(&s);
}

static void cuda_close(struct device *d)
{
	struct scope s;

	if (!d)
		return;
	device_list_remove(d);
	cuda_drain(d);
	if (d->retained && scope_enter(&s, d) == CUDA_SUCCESS) {
		for (int i = 0; i < DEVICE_LANES; i++)
			if (d->lane[i])
				(void)d->cu->stream_free(d->lane[i]);
		scope_leave(&s);
	}
	/* Also after a reset, which does not release it. */
	if (d->retained)
		(void)d->cu->primary_release(d->number);
	free(d);
}

static CUresult lanes_new(struct device *d)
{
	int least = 0, greatest = 0;
	CUresult res = d->cu->priorities(&least, &greatest);

	for (int i = 0; res == CUDA_SUCCESS && i < DEVICE_LANES; i++)
		res = d->cu->stream_new(&d->lane[i], CU_STREAM_NON_BLOCKING, least);
	return res;
}

static CUresult context_take(struct device *d, int number)
{
	CUresult res = d->cu->device_get(&d->number, number);

	if (res == CUDA_SUCCESS)
		res = d->cu->primary_retain(&d->context, d->number);
	d->retained = res == CUDA_SUCCESS;
	if (res == CUDA_SUCCESS)
		res = d->cu->context_id(d->context, &d->id);
	return res;
}

static CUresult open_in(struct device *d, int number)
{
	struct scope s;
	int same = 0;
	CUresult res = context_take(d, number);

	if (res == CUDA_SUCCESS)
		res = scope_enter(&s, d);
	if (res != CUDA_SUCCESS)
		return res;
	/* Elsewhere (WSL) batches meet addresses of pinned memory that the device does
	 * not know. */
	d->batches = d->cu->device_attribute(
			&same, CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
			d->number) == CUDA_SUCCESS && same;
	res = lanes_new(d);
	scope_leave(&s);
	return res;
}

static int cuda_open(int number, struct device **out)
{
	const struct driver *cu = driver_get();
	struct device *d;
	CUresult res;

	if (!cu || cu->missing)
		return error_set(FTMEM_EDEVICE,
		                 "CUDA device %d: the driver %s%s: one of CUDA 12.0 or later is "
		                 "needed",
		                 number, cu ? "has no " : "is not loaded", cu ? cu->missing : "");
	d = calloc(1, sizeof(*d));
	if (!d)
		return error_set(FTMEM_ENOMEM, "no memory for a device");
	d->cu = cu;
	res = open_in(d, number);
	if (res != CUDA_SUCCESS) {
		cuda_close(d);
		return driver_fail(cu, res,
		                   res == CUDA_ERROR_OUT_OF_MEMORY ? FTMEM_ENOMEM : FTMEM_EDEVICE,
		                   "CUDA device %d cannot be used", number);
	}
	device_list_add(d);
	*out = d;
	return 0;
}

/* --- events --- */

static int cuda_event_new(struct device *d, bool timed, struct device_event **out)
{
	struct device_event *e = calloc(1, sizeof(*e));
	struct scope s;
	CUresult res;

	if (!e)
		return error_set(FTMEM_ENOMEM, "no memory for an event");
	e->device = d;
	res = scope_enter(&s, d);
	if (res == CUDA_SUCCESS) {
		res = d->cu->event_new(&e->event,
		                       timed ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING);
		scope_leave(&s);
	}
	if (res == CUDA_SUCCESS) {
		*out = e;
		return 0;
	}
	free(e);
	return driver_fail(d->cu, res,
	                   res == CUDA_ERROR_OUT_OF_MEMORY ? FTMEM_ENOMEM : FTMEM_EDEVICE,
	                   "CUDA device %d: no event can be made", d->number);
}

static void cuda_event_free(struct device_event *e)
{
	struct scope s;

	if (!e)
		return;
	if (scope_enter(&s, e->device) == CUDA_SUCCESS) {
		(void)e->device->cu->event_free(e->event);
		scope_leave(&s);
	}
	free(e);
}

static int cuda_record(struct device_event *e, enum device_lane lane)
{
	struct device *d = e->device;
	struct scope s;
	CUresult res = scope_enter(&s, d);

	if (res == CUDA_SUCCESS) {
		res = d->cu->event_record(e->event, d->lane[lane]);
		scope_leave(&s);
	}
	return device_result(d, res, "an event cannot be recorded");
}

static int cuda_lane_wait(struct device *d, enum device_lane lane, const struct device_event *e)
{
	struct scope s;
	CUresult res = device_alive(e->device);

	if (res == CUDA_SUCCESS)
		res = scope_enter(&s, d);
	if (res == CUDA_SUCCESS) {
		res = d->cu->stream_wait(d->lane[lane], e->event, CU_EVENT_WAIT_DEFAULT);
		scope_leave(&s);
	}
	return device_result(d, res, "copies cannot be made to wait for an event");
}

static int cuda_query(const struct device_event *e)
{
	const struct device *d = e->device;
	struct scope s;
	CUresult res = scope_enter(&s, d);

	if (res == CUDA_SUCCESS) {
		res = d->cu->event_query(e->event);
		scope_leave(&s);
	}
	if (res == CUDA_ERROR_NOT_READY)
		return 0;
	if (res != CUDA_SUCCESS)
		return device_result(d, res, "what was queued was not carried out");
	return 1;
}

static int cuda_elapsed(const struct device_event *from, const struct device_event *to,
                        double *seconds)
{
	const struct device *d = to->device;
	float ms = 0;
	struct scope s;
	CUresult res = scope_enter(&s, d);

	if (res == CUDA_SUCCESS) {
		res = d->cu->event_elapsed(&ms, from->event, to->event);
		scope_leave(&s);
	}
	if (res == CUDA_SUCCESS)
		*seconds = ms / 1e3;
	return device_result(d, res, "the time between two events is not known");
}

/* --- memory --- */

static int cuda_alloc(struct device *d, uint64_t bytes, void **out)
{
	CUdeviceptr at = 0;
	struct scope s;
	CUresult res = scope_enter(&s, d);

	if (res == CUDA_SUCCESS) {
		res = d->cu->alloc(&at, bytes);
		scope_leave(&s);
	}
	if (res == CUDA_SUCCESS) {
		*out = (void *)(uintptr_t)at;
		return 0;
	}
	return driver_fail(d->cu, res,
	                   res == CUDA_ERROR_OUT_OF_MEMORY ? FTMEM_ENOMEM : FTMEM_EDEVICE,
	                   "CUDA device %d has no %llu bytes to spare: lower device_staging",
	                   d->number, (unsigned long long)bytes);
}

static void cuda_free(struct device *d, void *at)
{
	struct scope s;

	if (!at || scope_enter(&s, d) != CUDA_SUCCESS)
		return;
	(void)d->cu->free(cuda_address(at));
	scope_leave(&s);
}

static int cuda_pin(struct device *d, void *addr, size_t bytes)
{
	struct scope s;
	CUresult res = scope_enter(&s, d);

	if (res != CUDA_SUCCESS)
		return device_result(d, res, "memory cannot be pinned");
	res = d->cu->host_register(addr, bytes, CU_MEMHOSTREGISTER_PORTABLE);
	scope_leave(&s);
	if (res == CUDA_SUCCESS)
		return 0;
	if (res == CUDA_ERROR_OUT_OF_MEMORY || res == CUDA_ERROR_NOT_PERMITTED)
		return driver_fail(d->cu, res, FTMEM_ENOMEM,
		                   "%zu bytes of host memory cannot be pinned: raise the limit of "
		                   "locked memory (ulimit -l) or of the container's memory",
		                   bytes);
	return driver_fail(d->cu, res, FTMEM_EDEVICE, "%zu bytes of host memory cannot be pinned",
	                   bytes);
}

static void cuda_unpin(struct device *d, void *addr)
{
	struct scope s;

	if (scope_enter(&s, d) != CUDA_SUCCESS)
		return;
	(void)d->cu->host_unregister(addr);
	scope_leave(&s);
}

const struct device_ops *device_ops(void)
{
	static const struct device_ops ops = {
		.name = "cuda",
		.file = "/dev/nvidiactl",
		.where = cuda_where,
		.open = cuda_open,
		.close = cuda_close,
		.drain = cuda_drain,
		.stream = cuda_stream,
		.event_new = cuda_event_new,
		.event_free = cuda_event_free,
		.record = cuda_record,
		.record_on = cuda_record_on,
		.lane_wait = cuda_lane_wait,
		.stream_wait = cuda_stream_wait,
		.query = cuda_query,
		.elapsed = cuda_elapsed,
		.copy = cuda_copy,
		.alloc = cuda_alloc,
		.free = cuda_free,
		.pin = cuda_pin,
		.unpin = cuda_unpin,
	};

	return &ops;
}
