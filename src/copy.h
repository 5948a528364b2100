/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a kind of memory must be able to do to be snapshotted: one constant table
 * of operations for each kind. copy_host.c: host memory. src/cuda/: devices.
 */
#ifndef FTMEM_COPY_H
#define FTMEM_COPY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "log.h"
#include "rail.h"
#include "region.h"

/* A run of region memory that is part of one block. */
struct copy_piece {
	uint8_t *addr;      /* in the region */
	uint32_t offset;    /* in the block */
	uint32_t bytes;
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
	struct copy_block *block;
	struct copy_piece *piece;
	uint64_t blob_bytes; /* the first bytes of the data: read, never written back */
};

/* rail, member: where the rank's data lies. The layout's blob is read as a region of
 * its own. Blob and entries without an address (a parsed layout) are left out. sum
 * index: chunk * rail_chunk_rows() + row. EINVAL, ENOMEM. */
int copy_plan_new(const struct layout *layout, const struct rail *rail,
                  uint32_t member, struct copy_plan **out);
void copy_plan_free(struct copy_plan *plan);
/* Position in the plan of a block, for copy_job.landed. */
uint32_t copy_plan_index(const struct rail *rail, uint32_t member, uint32_t chunk, uint32_t row);

enum copy_landed { COPY_PENDING = 0, COPY_LANDED = 1, COPY_FAILED = 2 };

/* One snapshot's copy, or one restore. Borrowed until it is over. */
struct copy_job {
	const struct copy_plan *plan;
	uint8_t *data;                  /* of the slot */
	uint32_t *sums;                 /* written (restore: compared) per block */
	_Atomic unsigned char *landed;  /* [plan->blocks], enum copy_landed; set with
	                                   release after the block and its sum */
};

struct copy;

struct copy_config {
	uint32_t threads;
	const struct log *log;
	void (*pin)(void *arg);  /* called first on every thread made; may be NULL */
	void *pin_arg;
};

struct copy_ops {
	const char *name;
	/* Whether this memory is of the backend's kind. Any thread. */
	bool (*owns)(const void *addr, uint64_t bytes);
	int (*open)(const struct copy_config *config, struct copy **out);
	/* Begins to read the regions as of now (of the work queued on stream). Returns
	 * in microseconds; job is borrowed until copy_ops.done() says true. */
	int (*begin)(struct copy *c, const struct copy_job *job, void *stream);
	/* Makes stream (host: the caller) wait until all regions have been read or the
	 * job was cancelled. ETIMEOUT, EDEVICE. Any thread. */
	int (*fence)(struct copy *c, void *stream, uint64_t deadline_ns);
	/* Stops reading soon: blocks that have not landed become COPY_FAILED. Async. */
	void (*cancel)(struct copy *c);
	/* Whether nothing is under way: every block landed or failed and neither
	 * regions nor job are used any more. Any thread. */
	bool (*done)(struct copy *c);
	/*
	 * Writes the regions from the slot, on all threads; each block is compared with
	 * its checksum before it is used. Waits. ECORRUPT, EDEVICE. The layout's blob
	 * is compared but not written.
	 */
	int (*restore)(struct copy *c, const struct copy_job *job);
	/* Cancels, waits, frees. Accepts NULL. */
	void (*close)(struct copy *c);
};

const struct copy_ops *copy_host(void);
/* NULL when built without CUDA. */
const struct copy_ops *copy_cuda(void);

#endif
