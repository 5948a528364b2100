/* SPDX-License-Identifier: BSD-3-Clause */
#include "cuda/device_cuda_impl.h"

#include <pthread.h>

#include "error.h"

static pthread_mutex_t opened_lock = PTHREAD_MUTEX_INITIALIZER;
static struct device *opened; /* the longest first */

CUresult device_alive(const struct device *d)
{
	unsigned long long id = 0;
	CUresult res = d->cu->context_id(d->context, &id);

	if (res == CUDA_SUCCESS && id != d->id)
		res = CUDA_ERROR_CONTEXT_IS_DESTROYED;
	return res;
}

void scope_begin(struct scope *s, const struct driver *cu)
{
	*s = (struct scope){.cu = cu, .relaxed = true, .mode = CU_STREAM_CAPTURE_MODE_RELAXED};
	/* s->mode becomes the one before. */
	(void)cu->capture_mode(&s->mode);
}

void scope_leave(struct scope *s)
{
	CUcontext popped;

	if (s->relaxed)
		(void)s->cu->capture_mode(&s->mode);
	if (s->pushed)
		(void)s->cu->context_pop(&popped);
}

CUresult scope_push(struct scope *s, CUcontext context)
{
	CUresult res = s->cu->context_push(context);

	s->pushed = res == CUDA_SUCCESS;
	return res;
}

CUresult scope_enter(struct scope *s, const struct device *d)
{
	CUresult res = device_alive(d);

	if (res != CUDA_SUCCESS)
		return res;
	scope_begin(s, d->cu);
	res = scope_push(s, d->context);
	if (res != CUDA_SUCCESS)
		scope_leave(s);
	return res;
}

CUcontext device_any_context(void)
{
	CUcontext context;

	pthread_mutex_lock(&opened_lock);
	context = opened ? opened->context : NULL;
	pthread_mutex_unlock(&opened_lock);
	return context;
}

int device_find_lost(void)
{
	const struct device *d;
	int number;

	pthread_mutex_lock(&opened_lock);
	for (d = opened; d; d = d->next)
		if (device_alive(d) != CUDA_SUCCESS)
			break;
	number = d ? d->number : -1;
	pthread_mutex_unlock(&opened_lock);
	return number;
}

int device_result(const struct device *d, CUresult res, const char *what)
{
	if (res == CUDA_SUCCESS)
		return 0;
	return driver_fail(d->cu, res, FTMEM_EDEVICE, "CUDA device %d: %s", d->number, what);
}

void device_list_add(struct device *d)
{
	struct device **at = &opened;

	pthread_mutex_lock(&opened_lock);
	while (*at)
		at = &(*at)->next;
	*at = d;
	pthread_mutex_unlock(&opened_lock);
}

void device_list_remove(struct device *d)
{
	struct device **at = &opened;

	pthread_mutex_lock(&opened_lock);
	while (*at && *at != d)
		at = &(*at)->next;
	if (*at)
		*at = d->next;
	d->next = NULL;
	pthread_mutex_unlock(&opened_lock);
}
