/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of copy_device.c share:
 *
 *   copy_device.c        the table: begin, fence, cancel, done, open, close
 *   copy_device_ready.c  what is taken beforehand: devices, events, memory
 *   copy_device_pin.c    pinning of arenas, in pieces; queueing of runs that respect these
 *   copy_device_issue.c  the driver thread: queues copies, sees them arrive
 *   copy_device_check.c  checks of replicas in device memory
 *   copy_device_fill.c   the way back: fills and puts
 */
#ifndef FTMEM_COPY_DEVICE_IMPL_H
#define FTMEM_COPY_DEVICE_IMPL_H

#include <pthread.h>

#include "copy_bands.h"
#include "copy_host.h"
#include "copy_stage.h"

/* Runs that are queued at once, or as many as a band has if these are more. */
#define RUNS_AT_ONCE 1024u
/* Of each half of the buffer through which checks read. */
#define BOUNCE_BYTES (UINT64_C(1) << 20)

/* Between two looks at events: a band takes 600 us on a fast link. */
#define PAUSE_MIN_NS  UINT64_C(20000)
#define PAUSE_MAX_NS  UINT64_C(200000)
#define PAUSE_IDLE_NS UINT64_C(500000) /* the regions are not yet as they are to be read */

/* A device in use, open until close(). */
struct copy_gpu {
	int number;
	struct device *d;
	uint32_t plans; /* prepared that use it */
	void *staging;  /* in its memory */
	uint64_t staging_bytes;
	bool warned_staging;
	struct device_event *as_of;       /* on the caller's stream: what is to be read */
	struct device_event *began;       /* on OUT, before the first band */
	struct device_event *staged;      /* on STAGE, behind all that reads regions there */
	struct device_event *asked;       /* on a fence's stream, before what it waits for */
	struct device_event *half[2];     /* on STAGE: that of the bounce buffer is read */
	struct device_event *in;          /* on IN, behind all that was queued */
	pthread_mutex_t in_lock;          /* run, while IN is used */
	struct device_run *run;           /* queued next */
	uint32_t run_room;

	/* Of the job: the driver's, once begin() has set them; direct and has_staged also of
	 * fences, since `issued` was set. */
	uint64_t bytes;
	uint32_t split;                           /* first band that is staged */
	uint32_t issued, reached;                 /* bands: queued to the host; of these, arrived */
	const struct device_event *direct, *last; /* behind the last band that goes straight;
	                                             behind the last */
	bool has_staged;                          /* the event stands for something */
	bool lost;
	/* Changed under the lock: on a stream of its own, and `asked` was recorded. */
	_Atomic bool fenced, timed;
	struct copy_pace pace;
};

/* What was taken for a plan. */
struct copy_ready {
	struct copy_ready *next;
	struct copy_plan *plan;
	struct copy_bands *bands;
	struct device_event **event; /* [bands->parts]: on OUT, behind each */
	uint32_t events;             /* made */
	uint32_t gpus;               /* of bands->device, counted in their `plans` */
	_Atomic uint32_t *left;      /* [bands->bands] of a fill: blocks not yet good */
	unsigned char *good;         /* [plan->blocks] of a fill */
	uint8_t *pinned;             /* NULL: pageable */
	uint64_t pinned_bytes;
};

struct copy {
	struct copy_config config;
	const struct device_ops *ops;
	const struct copy_ops *inner; /* copy_host() */
	struct copy *host;            /* of inner */
	bool sync_ready, driver_started;
	pthread_mutex_t lock;
	pthread_cond_t work;  /* the driver's: a job, or the end */
	pthread_cond_t moved; /* issued, or over */
	/* Of copy threads that wait for blocks: `lock` is the trainer's as well. */
	pthread_mutex_t arrival_lock;
	pthread_cond_t arrival; /* blocks have arrived, or the job stops */
	pthread_t driver;

	/* Changed while no copy is under way. */
	struct copy_gpu *gpu[DEVICE_MAX];
	struct copy_ready *ready; /* all that are prepared */
	uint8_t *bounce;          /* two halves */
	bool bounce_pinned;
	bool warned_pin;
	_Atomic bool on_devices; /* a plan of devices was prepared: streams are checked */

	/* The job: set by begin() under the lock, then the driver's to read. */
	struct copy_job job;
	struct copy_gpu *use[DEVICE_MAX];
	uint32_t uses;
	const struct device_event *as_of;
	bool at_rest; /* begun on COPY_AT_REST */
	bool checked; /* the driver's: device checks are taken */

	/* Under the lock. */
	bool quit;
	bool issued;            /* nothing more of the job will be queued */
	struct copy_figures figures;
	char reason[256]; /* of the job that failed */

	char logged[256]; /* the last reason that was; the driver's */

	/* Changed under the lock. */
	_Atomic bool under_way; /* the driver has, or is given, a job */
	_Atomic bool cancelled, failed;
	_Atomic uint64_t turn; /* of the job */

	_Atomic uint32_t arrived; /* blocks, from the first on; grows under arrival_lock */

	/* A fill. */
	_Atomic bool filling, fill_failed;
	struct copy_fill fill;
	char fill_reason[256]; /* under the lock, if fill_failed */
};

/* --- copy_device_ready.c --- */

/* Opens the device if it is not. ENOMEM, EDEVICE. */
int gpu_need(struct copy *c, int number, struct copy_gpu **out);
int ready_prepare(struct copy *c, struct copy_plan *plan, void *addr, uint64_t bytes);
void ready_release(struct copy *c, struct copy_plan *plan);
/* All that is left. Nothing is under way. */
void ready_close(struct copy *c);

/* --- copy_device_pin.c --- */

/* Pins the arena, or warns: copies of it are then slower. */
void ready_pin(struct copy *c, struct copy_ready *r, void *addr, uint64_t bytes);
void ready_unpin(struct copy *c, struct copy_ready *r);

/* Runs that are queued together, in gpu->run. */
struct run_batch {
	struct copy *c;
	struct copy_gpu *gpu;
	enum device_lane lane;
	uint32_t count;
	int rc; /* once < 0, nothing more is queued */
};
/* host: its end in host memory; NULL: none. */
void run_batch_add(struct run_batch *b, struct device_run run, const void *host);
/* Queues what is left. EDEVICE: some may be under way. */
int run_batch_queue(struct run_batch *b);

/* --- copy_device_issue.c --- */

/* The driver's function; arg: struct copy. */
void *device_drive(void *arg);
/* Whether nothing more is to be queued. */
bool job_stops(const struct copy *c);
/* Copy threads look again whether their blocks arrived, or never will. */
void arrival_tell(struct copy *c);
/* Looks at events, lets arrive what has. True: something has. */
bool job_advance(struct copy *c);
/* Sleeps; *pause grows up to most. */
void pause_grow(uint64_t *pause, uint64_t most);

/* --- copy_device_check.c --- */

/* Takes the job's checks of device memory, unless the job stops before. */
int checks_take(struct copy *c);

/* --- copy_device_fill.c --- */

int fill_begin(struct copy *c, const struct copy_fill *fill, uint32_t ready);
int fill_finish(struct copy *c, uint64_t *damaged);
/* Waits until all lanes IN are through with a fill. */
int fill_drain(struct copy *c);
int device_put(struct copy *c, const struct copy_put *put, uint32_t count);

#endif
