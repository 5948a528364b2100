/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the test device share: test_device.c (memory, faults, figures),
 * test_device_stream.c (streams and lanes), test_device_ops.c (the table).
 *
 * One lock guards everything, also the bytes while a piece of them is copied: so a device
 * that is said to have failed touches nothing any more, and what races there are between
 * streams show as wrong content, not as races of the simulation.
 */
#ifndef FTMEM_TEST_DEVICE_IMPL_H
#define FTMEM_TEST_DEVICE_IMPL_H

#include <pthread.h>
#include <time.h>

#include "test_device.h"

#define SIM_USERS (-1) /* in place of a lane */

struct sim_memory {
	struct sim_memory *next;
	uint8_t *at;    /* its address; of a device: nothing can be read there */
	uint8_t *bytes_at; /* where its bytes are */
	uint64_t bytes;
	uint8_t *map;   /* to be unmapped with it: its addresses, perhaps those of others */
	uint64_t mapped;
	int device;
	bool managed, freed, library;
};

struct sim_pinned {
	struct sim_pinned *next;
	uint8_t *at;
	uint64_t bytes;
};

struct device_event {
	struct device *home;
	int device;
	bool timed;
	uint64_t recorded, reached; /* turns */
	uint64_t ns;                /* when it was reached last */
	uint32_t users;             /* its owner, and what is queued */
};

enum sim_kind { SIM_COPY, SIM_RECORD, SIM_WAIT, SIM_CALL, SIM_GATE };

struct sim_op {
	struct sim_op *next;
	enum sim_kind kind;
	struct device_event *event;
	uint64_t turn;
	void (*fn)(void *arg);
	void *arg;
	struct test_gate *gate;
	bool fails, given_up;
	uint32_t count;
	struct device_run run[];
};

/* A stream of a test, or a lane. */
struct test_stream {
	struct test_stream *next;
	pthread_t thread;
	int device, lane;
	struct sim_op *first, **last, *in_hand;
	uint64_t queued, over; /* ops */
	uint64_t nap_ns;
	uint32_t waiting; /* for an event: 1 */
	bool quit, capturing;
};

struct device {
	int number;
	struct test_stream *lane[DEVICE_LANES];
};

struct sim_hold {
	bool on, whole;
	uint64_t left; /* pieces, or whole copies */
	uint32_t standing;
};

struct sim {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct test_stream *streams, *standard;
	struct sim_memory *memory;
	struct sim_pinned *pinned;
	struct sim_hold hold[TEST_DEVICES][DEVICE_LANES];
	bool lost[TEST_DEVICES];
	unsigned fail_issue, fail_copy, fail_record, fail_pin, fail_alloc;
	uint64_t largest; /* allocation of the library's; 0: any */
	uint64_t ns_per_mib;
	struct test_device_figures figures;
};
extern struct sim sim;

_Noreturn void sim_misuse(const char *what);
/* Zeroed; free() ends it. */
void *sim_take(size_t bytes);
void sim_enter(void);
void sim_leave(void);

/* --- with the lock held --- */

/* Something changed: all who wait look again. */
void sim_tell(void);
void sim_await(void);
/* Until *standing is not 0; false: it was 0 for too long. */
bool sim_await_standing(const uint32_t *standing);
struct timespec sim_patience(void);
/* False: it is late. */
bool sim_await_until(const struct timespec *until);

bool sim_overlaps(const void *a, uint64_t a_bytes, const void *b, uint64_t b_bytes);
void *sim_memory_new(int device, uint64_t bytes, bool library);
/* That has any of these bytes, or NULL. */
struct sim_memory *sim_memory_of(const void *at, uint64_t bytes);
/* Where bytes of a device or of the host are, NULL if nowhere. */
uint8_t *sim_bytes_at(const void *at, uint64_t bytes);

/* NULL: no thread. */
struct test_stream *sim_stream_start(int device, int lane);
/* Waits for what is queued; accepts NULL. */
void sim_stream_end(struct test_stream *s);
/* NULL: there is no such stream of a test. */
struct test_stream *sim_stream_of(void *stream);
struct sim_op *sim_op_new(enum sim_kind kind, uint32_t runs);
void sim_op_queue(struct test_stream *s, struct sim_op *op);
void sim_event_unuse(struct device_event *e);

#endif
