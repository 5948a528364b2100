/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A driver of CUDA that is none: fake_cuda.c wraps dlopen and dlsym, and gives functions that
 * keep contexts, capture modes and memory as a driver does, and carry copies out at once. A
 * test says what they refuse. Contexts and streams are numbers.
 */
#ifndef FTMEM_TEST_FAKE_CUDA_H
#define FTMEM_TEST_FAKE_CUDA_H

#include <stdbool.h>
#include <stdint.h>

#include <cuda.h>

#define FAKE_DEVICES 2
#define FAKE_BYTES 4096

struct fake_cuda {
	bool loaded;
	const char *lacks[2];  /* functions */
	CUresult pointer, batch, copy, query, capturing, alloc, pin;
	CUstreamCaptureStatus status;
	bool needs_context;    /* to tell whose memory it is */
	bool own_addresses;    /* of pinned memory, on devices */
	unsigned long long id[FAKE_DEVICES]; /* of contexts; 0: destroyed */
	int retained[FAKE_DEVICES];
	unsigned batches, copies, largest, pins, timed; /* events */
	uint8_t memory[FAKE_DEVICES][FAKE_BYTES], managed[FAKE_BYTES];
	size_t mapped;         /* of each device's memory */
};
extern struct fake_cuda cuda;

/* Of the calling thread. */
struct fake_self {
	CUcontext stack[8];
	int depth;
	CUstreamCaptureMode mode;
};
extern _Thread_local struct fake_self self;

static inline CUcontext context_of(int device)
{
	return (CUcontext)(uintptr_t)(0x100 + device);
}

/* A user's. */
static inline CUstream stream_of(int device)
{
	return (CUstream)(uintptr_t)(0x200 + device);
}

#endif
