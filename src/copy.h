/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How region memory is read and written: one constant table of operations for each way.
 * copy_host.c: host memory. copy_device.c: host memory and that of devices (device.h).
 */
#ifndef FTMEM_COPY_H
#define FTMEM_COPY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "box.h"
#include "device.h"
#include "layout.h"
#include "log.h"
#include "rail.h"

/* Bytes that come from, or go to, region memory. */
struct copy_piece {
	uint8_t *addr;               /* contiguous: of the bytes; else of the region */
	const struct box_view *view; /* NULL: contiguous */
	uint64_t from;               /* with a view: the first byte in its packed form */
	uint32_t offset;             /* in the block */
	uint32_t bytes;
	int device;                  /* DEVICE_HOST, or its number */
	uint32_t region;             /* on a device: its index in the layout. Neighbours may
	                                be allocations of their own, which no copy crosses */
};

/* One block of slot data. Bytes that no piece covers are zero and stay so. */
struct copy_block {
	uint64_t offset;    /* in the slot's data */
	uint32_t bytes;
	uint32_t sum;       /* index into the slot's checksums */
	uint32_t first, count; /* pieces */
};

/*
 * All blocks of a rank's data in the order in which the exchange sends them: row
 * by row, in a row chunk by chunk. Immutable; made once per epoch.
 */
struct copy_plan {
	uint32_t blocks, pieces;
	uint32_t chunks;       /* blocks of a row */
	bool on_device;        /* whether any piece is */
	uint64_t devices;      /* a bit for each that holds a region, stored by this rank or not */
	uint64_t blob_bytes;   /* of the slot's data, at its start: the layout, no region */
	struct copy_block *block;
	struct copy_piece *piece;
	struct box_view *view; /* of the pieces of the layout that are not contiguous, owned */
	struct copy_ready *ready; /* what the backend made of it, see copy_ops.prepare() */
};

/* rail, member: where the rank's data lies. The layout is settled; its blob is read like
 * a region. sum index: chunk * rail_chunk_rows() + row. EINVAL, ENOMEM. */
int copy_plan_new(const struct layout *layout, const struct rail *rail,
                  uint32_t member, struct copy_plan **out);
void copy_plan_free(struct copy_plan *plan);
/* Position in the plan of a block, for copy_job.landed. */
uint32_t copy_plan_index(const struct rail *rail, uint32_t member, uint32_t chunk, uint32_t row);

enum copy_landed { COPY_PENDING = 0, COPY_LANDED = 1, COPY_FAILED = 2 };

/* A range of a box in region memory whose checksum is wanted beside the copy. */
struct copy_check {
	const uint8_t *addr;    /* of the region */
	struct box_view view;   /* of the box in it */
	uint64_t from, bytes;   /* of its packed form */
	int device;             /* as in struct copy_piece */
};

/* One snapshot's copy. Borrowed until it is over. */
struct copy_job {
	const struct copy_plan *plan;
	uint8_t *data;                  /* of the slot */
	uint32_t *sums;                 /* written per block */
	_Atomic unsigned char *landed;  /* [plan->blocks], enum copy_landed; set with
	                                   release after the block and its sum */
	const struct copy_check *check; /* taken after the blocks; the last block lands, or
	                                   fails, after them: good if none failed */
	uint32_t checks;
	uint32_t *check_sum;            /* [checks] valid once done() and no block failed */
	void (*started)(void *arg);     /* called once, when the first block is taken or the
	                                   job is cancelled before, unless it has no block;
	                                   not by begin(), but perhaps on the thread that
	                                   cancels, with the backend's lock held: it must not
	                                   wait or call the backend. May be NULL */
	void *started_arg;
};

/* Bytes on their way into a region: a range of the packed form of one view becomes a
 * range of the packed form of another. */
struct copy_put {
	uint8_t *to;              /* of the region */
	struct box_view to_view;
	const uint8_t *source;    /* of an array in host memory */
	struct box_view source_view;
	uint64_t to_from, source_from; /* in the packed form of each view */
	uint64_t bytes;
	int device;               /* of the region: DEVICE_HOST, or its number */
};

/* The way back: a slot's blocks into the regions, each compared with its checksum while it
 * is at hand. Borrowed until fill_end(). */
struct copy_fill {
	const struct copy_plan *plan;
	const uint8_t *data;      /* of the slot */
	const uint32_t *sums;     /* as in struct copy_job; whole before a block is ready */
};

struct copy;

struct copy_config {
	uint32_t threads;
	uint64_t device_staging; /* bytes of each device for regions that have not left it when
	                            the fence comes, 0: none */
	uint32_t pin_threads;    /* that pin memory at once */
	uint64_t pin_piece;      /* bytes that are pinned by one call, whole pages; 0: 1 GiB */
	const struct log *log;
	void (*pin)(void *arg);  /* called first on every thread that stays; may be NULL */
	void *pin_arg;
};

/* Of snapshots that were copied, since open(). */
struct copy_figures {
	uint64_t device_bytes;   /* that the last copy took from devices; before the first one,
	                            that it will take */
	uint64_t staged_bytes;   /* of these, by the last copy: within the device first */
	uint64_t stalls;         /* fences at which a stream waited 10 us or more */
	double stall_s;          /* that streams waited at fences, sum */
	double last_stall_s;     /* the same, of the last copy */
	double device_copy_s;    /* of the last copy: first byte to last, of the slowest device.
	                            Both 0 while it is under way, and if it failed */
};

/* As the stream of begin(): the regions are at rest, no stream has to be waited for. */
#define COPY_AT_REST ((void *)UINTPTR_MAX)

struct copy_ops {
	const char *name;
	/* Where memory lies: *device gets a number, or DEVICE_HOST. Any thread. EINVAL: memory
	 * of a kind that cannot be snapshotted; EDEVICE. */
	int (*where)(const void *addr, uint64_t bytes, int *device);
	int (*open)(const struct copy_config *config, struct copy **out);
	/*
	 * Takes all that copying a plan from and to a slot in these bytes of memory, an arena's,
	 * will need: nothing is allocated later. Of several plans each is prepared once and
	 * released before it is freed and the memory unmapped, or before close(). No copy is
	 * under way. Opens all devices of the plan. ENOMEM, EDEVICE, ESYS.
	 */
	int (*prepare)(struct copy *c, struct copy_plan *plan, void *addr, uint64_t bytes);
	void (*release)(struct copy *c, struct copy_plan *plan); /* not prepared: nothing */
	/* Begins to read the regions as of now (of the work queued on stream, of one of the
	 * plan's devices if it has any). Returns in microseconds; job is borrowed until
	 * copy_ops.done() says true. EINVAL, EDEVICE: nothing was begun. */
	int (*begin)(struct copy *c, const struct copy_job *job, void *stream);
	/* Makes stream (of host memory: the caller) wait until all regions have been read or
	 * the job was cancelled. Checks of device memory the caller waits for, as for host
	 * memory. ETIMEOUT: late, but nothing is read any more. EINVAL, also with nothing to
	 * wait for once a plan of devices was prepared: no such stream, or it is captured.
	 * EDEVICE, also if a device's driver is stuck. Any thread. */
	int (*fence)(struct copy *c, void *stream, uint64_t deadline_ns);
	/* Stops reading soon: blocks that have not landed become COPY_FAILED. Async. */
	void (*cancel)(struct copy *c);
	/* Whether nothing is under way: every block landed or failed and neither
	 * regions nor job are used any more. Any thread. */
	bool (*done)(struct copy *c);
	/* Why blocks of the last copy failed, as text; "" if none did or nothing is known.
	 * Any thread. */
	void (*why)(struct copy *c, char *text, size_t bytes);
	/* Writes into regions, on all threads if there are several puts; they may be of any
	 * size and do not overlap. Waits; no copy is under way. ENOMEM, EDEVICE. */
	int (*put)(struct copy *c, const struct copy_put *put, uint32_t count);
	/*
	 * Begins to write blocks into the regions, in the plan's order; returns soon. Ready
	 * are the first `ready` blocks, and further ones when fill_more() says so: their
	 * bytes and checksums are not written any more. A block that does not fit its
	 * checksum is left out and counted. No copy is under way, and until fill_end() none
	 * is begun. EINVAL, EDEVICE: nothing was begun.
	 */
	int (*fill)(struct copy *c, const struct copy_fill *fill, uint32_t ready);
	void (*fill_more)(struct copy *c, uint32_t ready);
	/* No more become ready: waits until what is ready was written. *damaged: how many
	 * blocks were left out because of their checksums. EDEVICE. */
	int (*fill_end)(struct copy *c, uint64_t *damaged);
	/* Any thread. */
	void (*figures)(struct copy *c, struct copy_figures *out);
	/* Cancels, waits, frees. Accepts NULL. */
	void (*close)(struct copy *c);
};

const struct copy_ops *copy_host(void);
/* As copy_host() while no plan has anything on a device; NULL if device_ops() is. */
const struct copy_ops *copy_device(void);

#endif
