/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the copy engine (copy_device.h) needs of a kind of device: one constant table.
 * src/cuda/ has that of CUDA; the tests have one that copies on threads.
 *
 * All results: 0, or < 0 with a message (error.h). Nothing waits for the device, except
 * close(), drain(), alloc(), free(), pin(), unpin() and copies from or to host memory that
 * is not pinned. On any thread, and no call disturbs the capture of a graph elsewhere in the
 * process.
 */
#ifndef FTMEM_DEVICE_H
#define FTMEM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Instead of a device's number: the processor reads these bytes. */
#define DEVICE_HOST (-1)
/* Numbers are below this. */
#define DEVICE_MAX 64

struct device;       /* one opened device: its lanes */
struct device_event; /* a point in a stream, or in a lane */

/* Streams of the library's own, of the lowest priority: copies in one are carried out in
 * order, but the runs of one copy() in any. */
enum device_lane {
	DEVICE_OUT,   /* to the host */
	DEVICE_STAGE, /* within the device */
	DEVICE_IN,    /* from the host */
	DEVICE_LANES,
};

/* Bytes from one place to another, device and host in any combination. */
struct device_run {
	void *to;
	const void *from;
	size_t bytes;
};

struct device_ops {
	const char *name;
	const char *file; /* exists where there are devices: to ask starts no driver. NULL:
	                     nothing tells */
	/*
	 * Where the bytes lie: *device gets the number, or DEVICE_HOST. Makes no context and
	 * starts no driver: without them there is no device memory. Pinned host memory is
	 * DEVICE_HOST. EINVAL: managed memory, or not all bytes are of one allocation;
	 * EDEVICE.
	 */
	int (*where)(const void *addr, uint64_t bytes, int *device);

	/* ENOMEM, EDEVICE. */
	int (*open)(int number, struct device **out);
	/* Waits for the lanes; accepts NULL. */
	void (*close)(struct device *d);
	/* Waits until all that is queued in the lanes is over; not for a device that failed. */
	void (*drain)(struct device *d);

	/*
	 * Whether work queued on stream, one of the user's, can be waited for: *device gets
	 * its number. NULL is the default stream of the calling thread's current device.
	 * EINVAL: a capture is in progress, there is no current device, or the handle is seen to
	 * be none: one of a stream that was destroyed may not be.
	 */
	int (*stream)(void *stream, int *device);

	/* It is recorded where its device is. timed: it has a time, for elapsed(); to record it
	 * then takes longer. ENOMEM, EDEVICE. */
	int (*event_new)(struct device *d, bool timed, struct device_event **out);
	void (*event_free)(struct device_event *e); /* accepts NULL */
	/* Again and again: counts as not reached until it is. */
	int (*record)(struct device_event *e, enum device_lane lane);
	/* On a user's stream that stream() has just taken, on this thread; of the event's
	 * device. */
	int (*record_on)(struct device_event *e, void *stream);
	/* What is queued later waits for what was recorded last; on any device. */
	int (*lane_wait)(struct device *d, enum device_lane lane, const struct device_event *e);
	int (*stream_wait)(void *stream, const struct device_event *e); /* the same; of any */
	/* 1 reached, or never recorded; 0 not yet; EDEVICE: the device failed, and nothing is
	 * copied any more. */
	int (*query)(const struct device_event *e);
	/* Between two reached and timed events of one device; < 0 if `to` was first. EDEVICE. */
	int (*elapsed)(const struct device_event *from, const struct device_event *to,
	               double *seconds);

	/* Queues copies; run is not used afterwards. A run must not go across the border of two
	 * allocations. EDEVICE: some may be under way. */
	int (*copy)(struct device *d, enum device_lane lane, const struct device_run *run,
	            uint32_t count);

	/* Device memory. ENOMEM, EDEVICE. */
	int (*alloc)(struct device *d, uint64_t bytes, void **out);
	void (*free)(struct device *d, void *at); /* accepts NULL */

	/* Lets all devices, of which d is one, copy from and to these bytes of host memory,
	 * whole pages, at full speed and without the caller waiting. A run must not go across the
	 * border of what was pinned by two calls. ENOMEM: no more memory can be pinned; EDEVICE. */
	int (*pin)(struct device *d, void *addr, size_t bytes);
	void (*unpin)(struct device *d, void *addr); /* d: any that is open */
};

/* The table of this build, NULL if it has none. */
const struct device_ops *device_ops(void);

#endif
