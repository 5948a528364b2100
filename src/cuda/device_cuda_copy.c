/* SPDX-License-Identifier: BSD-3-Clause */
/* Copies, handed to the driver in batches where it takes them. */
#include "cuda/device_cuda_impl.h"
#include "error.h"

/* At once: their addresses are on the stack. */
#define BATCH 512

struct batch {
	size_t count;
	CUdeviceptr to[BATCH], from[BATCH];
	size_t bytes[BATCH];
};

/* What the driver does not know may be the host's. */
static CUresult look(const struct driver *cu, CUdeviceptr first, size_t bytes, bool *device)
{
	CUpointer_attribute what = CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
	unsigned type[2] = {0, 0};
	void *into[] = {&type[0], &type[1]};
	CUresult res = cu->pointer(1, &what, &into[0], first);

	if (res == CUDA_SUCCESS)
		res = cu->pointer(1, &what, &into[1], first + bytes - 1);
	*device = res == CUDA_SUCCESS && type[0] == CU_MEMORYTYPE_DEVICE
	          && type[1] == CU_MEMORYTYPE_DEVICE;
	return res == CUDA_ERROR_INVALID_VALUE ? CUDA_SUCCESS : res;
}

/* Of memory that was freed the driver would think that it is the host's, and touch it: so
 * the end that must be on a device is looked at. */
static int batch_add(struct batch *b, const struct device *d, enum device_lane lane,
                     const struct device_run *run)
{
	CUdeviceptr to = cuda_address(run->to), from = cuda_address(run->from);
	bool device;
	CUresult res = look(d->cu, lane == DEVICE_IN ? to : from, run->bytes, &device);

	if (res != CUDA_SUCCESS)
		return device_result(d, res, "copies cannot be queued");
	if (!device)
		return error_set(FTMEM_EDEVICE,
		                 "CUDA device %d: %zu bytes from %p to %p are not of a device any "
		                 "more: was the memory of a region freed before "
		                 "ftmem_region_remove()?",
		                 d->number, run->bytes, run->from, run->to);
	b->to[b->count] = to;
	b->from[b->count] = from;
	b->bytes[b->count] = run->bytes;
	b->count++;
	return 0;
}

static CUresult copy_at_once(const struct device *d, enum device_lane lane, struct batch *b)
{
	/* Copies over the link are to leave the multiprocessors to the training; those that
	 * a stream waits for may have them. */
	struct driver_copy_attributes attributes = {
		.order = DRIVER_ORDER_STREAM,
		.flags = lane == DEVICE_STAGE ? 0 : DRIVER_COPY_OVERLAP,
	};
	size_t first = 0, failed = 0;

	if (!d->batches || !d->cu->copy_batch)
		return CUDA_ERROR_NOT_SUPPORTED;
	return d->cu->copy_batch(b->to, b->from, b->bytes, b->count, &attributes, &first, 1,
	                         &failed, d->lane[lane]);
}

static CUresult copy_one(const struct device *d, enum device_lane lane, const struct batch *b,
                         size_t i)
{
	CUstream stream = d->lane[lane];
	bool within = false;

	if (lane == DEVICE_STAGE)
		(void)look(d->cu, b->to[i], b->bytes[i], &within);
	if (lane == DEVICE_IN)
		return d->cu->copy_in(b->to[i], (const void *)(uintptr_t)b->from[i], b->bytes[i],
		                      stream);
	if (within)
		return d->cu->copy_within(b->to[i], b->from[i], b->bytes[i], stream);
	return d->cu->copy_out((void *)(uintptr_t)b->to[i], b->from[i], b->bytes[i], stream);
}

/* What a batch is refused for may still go one by one; what was queued twice is the same. */
static int batch_issue(const struct device *d, enum device_lane lane, struct batch *b)
{
	CUresult res;

	if (b->count == 0)
		return 0;
	res = copy_at_once(d, lane, b);
	if (res != CUDA_ERROR_NOT_SUPPORTED && res != CUDA_ERROR_INVALID_VALUE)
		return device_result(d, res, "copies cannot be queued");
	for (size_t i = 0; i < b->count; i++) {
		res = copy_one(d, lane, b, i);
		if (res != CUDA_SUCCESS)
			return driver_fail(d->cu, res, FTMEM_EDEVICE,
			                   "CUDA device %d: %zu bytes cannot be copied from "
			                   "0x%llx to 0x%llx",
			                   d->number, b->bytes[i], b->from[i], b->to[i]);
	}
	return 0;
}

static int runs_issue(const struct device *d, enum device_lane lane, const struct device_run *run,
                      uint32_t count)
{
	struct batch b;
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < count;) {
		for (b.count = 0; rc == 0 && b.count < BATCH && i < count; i++)
			if (run[i].bytes > 0)
				rc = batch_add(&b, d, lane, &run[i]);
		if (rc == 0)
			rc = batch_issue(d, lane, &b);
	}
	return rc;
}

int cuda_copy(struct device *d, enum device_lane lane, const struct device_run *run,
              uint32_t count)
{
	struct scope s;
	CUresult res = scope_enter(&s, d);
	int rc;

	if (res != CUDA_SUCCESS)
		return device_result(d, res, "nothing can be copied");
	rc = runs_issue(d, lane, run, count);
	scope_leave(&s);
	return rc;
}
