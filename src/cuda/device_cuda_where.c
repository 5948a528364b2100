/* SPDX-License-Identifier: BSD-3-Clause */
/* Whose memory an address is. */
#include "cuda/device_cuda_impl.h"
#include "error.h"

/* What is known of an address. */
struct place {
	unsigned type, managed;
	int device;
	CUdeviceptr start; /* of the allocation, or of the addresses reserved for it */
	size_t bytes;
};

static CUresult look_here(const struct driver *cu, const void *at, struct place *out)
{
	CUpointer_attribute what[] = {
		CU_POINTER_ATTRIBUTE_MEMORY_TYPE,      CU_POINTER_ATTRIBUTE_IS_MANAGED,
		CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,   CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
		CU_POINTER_ATTRIBUTE_RANGE_SIZE,
	};
	void *into[] = {&out->type, &out->managed, &out->device, &out->start, &out->bytes};

	*out = (struct place){0};
	return cu->pointer(sizeof(what) / sizeof(*what), what, into, cuda_address(at));
}

/* For a thread without a context: in one that the process uses already. */
static CUresult look_elsewhere(const struct driver *cu, const void *at, struct place *out)
{
	CUresult res = CUDA_ERROR_INVALID_CONTEXT;
	int count = 0, active;
	unsigned flags;
	CUcontext context;
	struct scope s;

	if (cu->missing || cu->device_count(&count) != CUDA_SUCCESS)
		return res;
	for (CUdevice i = 0; i < count && res == CUDA_ERROR_INVALID_CONTEXT; i++) {
		active = 0;
		if (cu->primary_state(i, &flags, &active) != CUDA_SUCCESS || !active
		    || cu->primary_retain(&context, i) != CUDA_SUCCESS)
			continue;
		scope_begin(&s, cu);
		if (scope_push(&s, context) == CUDA_SUCCESS)
			res = look_here(cu, at, out);
		scope_leave(&s);
		(void)cu->primary_release(i);
	}
	return res;
}

/* Type 0: nothing that CUDA knows. */
static int look(const struct driver *cu, const void *at, struct place *out)
{
	CUresult res = look_here(cu, at, out);

	if (res == CUDA_ERROR_INVALID_CONTEXT)
		res = look_elsewhere(cu, at, out);
	switch (res) {
	case CUDA_SUCCESS: return 0;
	/* Without a driver that runs, and a context, there is no memory of a device. */
	case CUDA_ERROR_NOT_INITIALIZED:
	case CUDA_ERROR_DEINITIALIZED:
	case CUDA_ERROR_NO_DEVICE:
	case CUDA_ERROR_INVALID_CONTEXT:
	case CUDA_ERROR_INVALID_VALUE: *out = (struct place){0}; return 0;
	default:
		return driver_fail(cu, res, FTMEM_EDEVICE, "CUDA does not say where %p lies", at);
	}
}

static int check_managed(const struct place *p, const void *addr)
{
	if (!p->managed)
		return 0;
	return error_set(FTMEM_EINVAL,
	                 "%p is managed memory of CUDA, which moves between host and device while "
	                 "it is copied: take memory of cudaMalloc() or of the host",
	                 addr);
}

/* Reserved addresses may be mapped in part, by many physical allocations: what counts is
 * that the region is within them and that its ends are the device's. */
static int check_range(const struct driver *cu, const struct place *first, const void *addr,
                       uint64_t bytes)
{
	uint64_t before = cuda_address(addr) - first->start;
	/* In numbers: of too many bytes the end may lie before the start. */
	const void *end = (const void *)(uintptr_t)(cuda_address(addr) + bytes - 1);
	struct place last;
	int rc;

	if (first->bytes > 0 && (before > first->bytes || bytes > first->bytes - before))
		return error_set(FTMEM_EINVAL,
		                 "%llu bytes at %p are more than there are: the device's memory "
		                 "ends %llu bytes on",
		                 (unsigned long long)bytes, addr,
		                 (unsigned long long)(first->bytes - before));
	rc = look(cu, end, &last);
	if (rc < 0)
		return rc;
	if (last.type != CU_MEMORYTYPE_DEVICE || last.device != first->device)
		return error_set(FTMEM_EINVAL,
		                 "%p is memory of CUDA device %d, but not %p, the last byte of "
		                 "%llu",
		                 addr, first->device, end, (unsigned long long)bytes);
	return check_managed(&last, end);
}

int cuda_where(const void *addr, uint64_t bytes, int *device)
{
	const struct driver *cu = driver_get();
	struct place p;
	int rc;

	*device = DEVICE_HOST;
	if (!cu || !addr || bytes == 0)
		return 0;
	rc = look(cu, addr, &p);
	if (rc < 0)
		return rc;
	rc = check_managed(&p, addr);
	if (rc < 0 || p.type != CU_MEMORYTYPE_DEVICE)
		return rc;
	if (p.device < 0 || p.device >= DEVICE_MAX)
		return error_set(FTMEM_EDEVICE,
		                 "%p is memory of CUDA device %d: those below %d can be used", addr,
		                 p.device, DEVICE_MAX);
	rc = check_range(cu, &p, addr, bytes);
	if (rc == 0)
		*device = p.device;
	return rc;
}
