/* SPDX-License-Identifier: BSD-3-Clause */
#include "cuda/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "error.h"

/* A function's address, which ISO C does not let a void * become. */
static bool look_up(void *library, const char *symbol, void *function)
{
	void *address = dlsym(library, symbol);

	memcpy(function, &address, sizeof(address));
	return address != NULL;
}

static bool fill(struct driver *cu, void *library)
{
#define DRIVER_LOOK_UP(member, symbol, type)                   \
	if (!look_up(library, symbol, &cu->member))            \
		cu->missing = symbol;
	DRIVER_CALLS(DRIVER_LOOK_UP)
#undef DRIVER_LOOK_UP
	(void)look_up(library, "cuStreamGetDevice", &cu->stream_device);
	(void)look_up(library, "cuMemcpyBatchAsync", &cu->copy_batch);
	return cu->pointer != NULL;
}

/* Once found it stays: the library is not given back. */
const struct driver *driver_get(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct driver driver;
	static const struct driver *_Atomic found;
	const struct driver *cu = atomic_load_explicit(&found, memory_order_acquire);
	void *library;

	if (cu)
		return cu;
	pthread_mutex_lock(&lock);
	cu = atomic_load_explicit(&found, memory_order_acquire);
	if (!cu) {
		library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
		if (library && fill(&driver, library))
			cu = &driver;
		else if (library)
			dlclose(library);
		atomic_store_explicit(&found, cu, memory_order_release);
	}
	pthread_mutex_unlock(&lock);
	return cu;
}

static const char *advice(CUresult res)
{
	switch (res) {
	case CUDA_ERROR_OUT_OF_MEMORY:
	case CUDA_ERROR_INVALID_VALUE:
	case CUDA_ERROR_NOT_PERMITTED:
	case CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED:
	case CUDA_ERROR_NOT_SUPPORTED: return "";
	case CUDA_ERROR_INVALID_HANDLE: return "; was the stream destroyed?";
	case CUDA_ERROR_INVALID_CONTEXT:
	case CUDA_ERROR_CONTEXT_IS_DESTROYED:
		return "; was the device reset? What it held is lost: start the job again";
	case CUDA_ERROR_DEINITIALIZED: return "; the process is ending";
	default: return "; if the device has failed, end the process and start the job again";
	}
}

int driver_fail(const struct driver *cu, CUresult res, int code, const char *fmt, ...)
{
	char what[ERROR_MSG_MAX / 2];
	const char *name = NULL, *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (cu->error_name && cu->error_string) {
		(void)cu->error_name(res, &name);
		(void)cu->error_string(res, &text);
	}
	return error_set(code, "%s: %s (%s)%s", what, text ? text : "unknown error",
	                 name ? name : "unknown", advice(res));
}
