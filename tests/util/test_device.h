/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Devices that are none: device_ops() of a test program that links test_device.c. Their
 * memory is host memory that only they can reach (what the processor reads or writes at a
 * device address ends the program), their streams are threads, with the order, the
 * events and the failures of real ones. Runs of one copy are carried out last to first,
 * each in pieces; between pieces other streams go on.
 *
 * Misuse that a real device would answer with damage ends the program: host memory
 * unpinned, or device memory freed, while the library's copies use it. So does pinning while
 * no device is open. As with real ones no copy goes across the border of two allocations.
 *
 * Any thread may call all of this. Nothing of it calls malloc(), calloc() or realloc(), so
 * that alloc_fail.h counts and fails those of the library alone.
 */
#ifndef FTMEM_TEST_DEVICE_H
#define FTMEM_TEST_DEVICE_H

#include "device.h"

#define TEST_DEVICES      2
#define TEST_DEVICE_PIECE 65536u /* bytes */

/* --- memory --- */

/* Filled with zeros; an address of the device. */
void *test_device_alloc(int device, uint64_t bytes);
/* One behind the other, an allocation each: their addresses into at. */
void test_device_alloc_row(int device, const uint64_t *bytes, uint32_t count, void **at);
/* Memory that moves between device 0 and host by itself: where() refuses it. */
void *test_device_managed(uint64_t bytes);
/* Copies that meet it from now on fail. Not what the library has allocated. */
void test_device_free(void *at);
/* At once, whatever is queued. */
void test_device_write(void *at, const void *from, uint64_t bytes);
void test_device_read(void *to, const void *at, uint64_t bytes);
void test_device_set(void *at, int value, uint64_t bytes);

/* --- streams: NULL is the default stream, of device 0 --- */

/* Zeroed: closed. */
struct test_gate {
	bool open;
	uint32_t standing; /* streams that wait before it */
};

struct test_stream *test_stream_new(int device);
/* Waits for all that is queued. */
void test_stream_free(struct test_stream *s);
/* A kernel: runs on the stream's thread. */
void test_stream_launch(struct test_stream *s, void (*fn)(void *arg), void *arg);
/* A copy of the user's, between any memory. */
void test_stream_copy(struct test_stream *s, void *to, const void *from, uint64_t bytes);
/* A kernel that ends when the gate is open. */
void test_stream_gate(struct test_stream *s, struct test_gate *gate);
void test_gate_open(struct test_gate *gate);
/* Until a stream stands before it; false: none came for 20 s. */
bool test_gate_await(struct test_gate *gate);
/* Until all that is queued is over; false: it was not for 20 s. */
bool test_stream_sync(struct test_stream *s);
/* Until it waits for an event; false: it did not for 20 s. */
bool test_stream_await_wait(struct test_stream *s);
/* Whether all that was queued is over. */
bool test_stream_idle(struct test_stream *s);
/* Whether a capture is in progress. */
void test_stream_capture(struct test_stream *s, bool capturing);

/* --- the library's lanes --- */

/* Copies of that lane go on for so many pieces, then wait for test_device_go(). */
void test_device_hold(int device, enum device_lane lane, uint64_t pieces);
/* The same, for so many whole copies. */
void test_device_hold_copies(int device, enum device_lane lane, uint64_t copies);
void test_device_go(int device, enum device_lane lane);
/* Until the lane stands; false: it did not come to that for 20 s. */
bool test_device_await_hold(int device, enum device_lane lane);
/* All copies take so long, at least. */
void test_device_slow(uint64_t ns_per_mib);

/* --- what goes wrong: n counts from now, from 1; 0: nothing --- */

/* The n-th copy of the library is refused, with half of it under way. */
void test_device_fail_issue(unsigned n);
/* The n-th event of the library's is not recorded in a lane. */
void test_device_fail_record(unsigned n);
/* The n-th copy of the library makes its device fail in the middle. */
void test_device_fail_copy(unsigned n);
/* The n-th and all later ones. */
void test_device_fail_pin(unsigned n);
void test_device_fail_alloc(unsigned n);
/* Allocations of the library's of more bytes; 0: none. */
void test_device_fail_alloc_above(uint64_t bytes);
/* From now on: nothing is copied any more, and every call answers EDEVICE. */
void test_device_lose(int device);
/* It answers again; what was queued when it failed is not carried out. */
void test_device_mend(int device);

/* --- what the library did, and has --- */

struct test_device_figures {
	uint64_t copies, runs;         /* issued */
	uint64_t bytes[DEVICE_LANES];  /* copied */
	uint64_t allocs;               /* so far */
	uint64_t events_made;          /* so far */
	uint64_t allocated;            /* bytes, now */
	uint64_t pinned;               /* bytes, now */
	uint32_t pins, devices, events; /* now */
	uint32_t queued;               /* things in lanes that are not over, now */
	uint32_t copying;              /* of these, copies */
};
struct test_device_figures test_device_figures(void);

/* Frees what the tests allocated, ends their streams, lets nothing fail, forgets figures:
 * the library has closed all. */
void test_device_reset(void);

#endif
