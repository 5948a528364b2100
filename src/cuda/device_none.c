/* SPDX-License-Identifier: BSD-3-Clause */
/* In the place of device_cuda.c when built without CUDA. */
#include "device.h"

const struct device_ops *device_ops(void)
{
	return NULL;
}
