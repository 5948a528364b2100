/* SPDX-License-Identifier: BSD-3-Clause */
/* What a run found, on rank 0. */
#ifndef BENCH_RESULTS_H
#define BENCH_RESULTS_H

#include "args.h"
#include "floor.h"
#include "job.h"
#include "series.h"

#define LOST_MAX 64

enum start_kind { START_FIRST, START_AGAIN, START_REPLACED, START_KINDS };

/* Of the rank with most, by ftmem_stats(). */
struct rank_bytes {
	double registered, stored, arena;
	double sent;               /* for each version */
};

struct protect_results {
	struct series call_us, copy_s, protect_s;
	struct rank_bytes bytes;
};

/* What is restored of tensors that are stored by rows. */
enum shape { SHAPE_ROWS, SHAPE_ROTATED, SHAPE_COLUMNS, SHAPE_GRID, SHAPE_WHOLE, SHAPE_FEWER,
             SHAPES };

struct shape_results {
	struct series restore_s;
	struct series fill_s;      /* of that, filling the regions */
	uint32_t ranks;
	uint64_t filled, moved;    /* bytes of all ranks; of these from other ranks */
	double of_same;            /* time at the rates of rows and rotated, to the time taken */
};

/* Stand-ins for a training loop. */
enum trainer { TRAINER_COMPUTE, TRAINER_COLLECTIVE, TRAINERS };

/* Of one trainer, and snapshots each of which begins when the former is committed. */
struct load_results {
	struct series alone_s, beside_s;    /* a step without and with snapshots */
	struct series lost;                 /* of the time without, of such pairs */
	struct series lost_s;               /* by each snapshot */
	struct series protect_s, fence_s;   /* of a snapshot; waited in ftmem_fence() for it */
	struct series busy;                 /* part of the time that one was under way */
	uint32_t snapshots;                 /* measured */
	uint32_t alone, chunk;              /* steps of a phase without; between looks at one */
};

/* The least a measured time could be, and that over its median. All zeros: not known. */
struct floor_result {
	struct floor_time time;
	double reached;
};

struct results {
	struct protect_results protect;
	struct protect_results alone;       /* with --replicas: each rank for itself */
	struct rank_bytes shares;  /* of alone; NAN: nothing is sent */
	bool shares_checked, shares_right;  /* right too if not checked */
	struct protect_results compared[2]; /* replicas not compared, compared */
	struct shape_results shape[SHAPES];
	struct state_box tensor;   /* of which a rank stores a box; zeros without --reshape */
	struct series restore_s;
	struct series rebuild_s[LOST_MAX + 1]; /* by number of nodes lost */
	struct series open_s[START_KINDS], seal_s[START_KINDS];
	struct ftmem_stats stats;  /* of rank 0 */
	uint64_t held_bytes;       /* by all SMPs: the most seen between measurements */
	double held_ratio;         /* to the state of all ranks */
	double held_budget;
	uint64_t rss_extra_bytes;  /* of the rank that took most */
	uint64_t verified_bytes;   /* compared and right, of all ranks */
	uint64_t wrong_bytes;
	uint32_t k, m;             /* of rank 0's group; m 0: no parity */
	struct limits limits;
	struct floor_result protect_floor, restore_floor;
	struct floor_result rebuild_floor[LOST_MAX + 1]; /* by number of nodes lost */
	struct load_results load[TRAINERS][2]; /* with --with-load: without and with a ceiling */
	uint64_t load_ceiling;     /* bytes/s that a rank sends; 0: nothing is sent */
	double rest_percent;       /* of a core, of the library's threads while nothing is under
	                              way: of the rank with most, NAN unknown */
	double waiting_percent;    /* while a version waits for another rank */
	double load_before;        /* of rank 0's machine: average of a minute, NAN unknown */
	bool verified;             /* every byte of every restore */
};

#endif
