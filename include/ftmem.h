/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libftmem: a consistent copy of a training job's state in its nodes' memory.
 *
 * Version:    filling -> prepared -> committed, or dropped on all ranks.
 * Collective: every rank calls it in the same order and gets the same result.
 * Async:      never waits for a peer, a disk or the device.
 * Result:     0 done; < 0 error, outputs untouched; > 0 the caller must handle.
 * Deadlines:  after ETIMEOUT or ENET of a collective call ranks may be out of step:
 *             stored versions stay, but further calls return ENET until the job is
 *             started again.
 * Threads:    one call at a time per handle, unless marked "any thread".
 * Ownership:  structs and strings are copied; region memory is borrowed from
 *             ftmem_region_add() to ftmem_region_remove() or ftmem_close().
 */
#ifndef FTMEM_H
#define FTMEM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FTMEM_API __attribute__((visibility("default")))

#define FTMEM_VERSION_MAJOR 0
#define FTMEM_VERSION_MINOR 1
#define FTMEM_VERSION_PATCH 0

/* Code, value, text: one list for the enum, ftmem_strerror() and bindings. */
#define FTMEM_RESULTS(X)                                                      \
	X(FTMEM_OK, 0, "done")                                                \
	X(FTMEM_BUSY, 1, "spare slot still in use: version skipped")          \
	X(FTMEM_FRESH, 2, "nothing stored: first start")                      \
	X(FTMEM_DROPPED, 3, "version given up on all ranks")                  \
	X(FTMEM_EINVAL, -1, "invalid argument")                               \
	X(FTMEM_ENOMEM, -2, "out of memory")                                  \
	X(FTMEM_ESYS, -3, "system call failed")                               \
	X(FTMEM_ENET, -4, "message passing failed")                           \
	X(FTMEM_EDEVICE, -5, "device copy failed")                            \
	X(FTMEM_ESMP, -6, "snapshot-management process cannot be used")       \
	X(FTMEM_ETIMEOUT, -7, "deadline passed")                              \
	X(FTMEM_ELAYOUT, -8, "regions do not fit what is stored")             \
	X(FTMEM_ECORRUPT, -9, "checksum mismatch beyond repair")              \
	X(FTMEM_ELOST, -10, "more nodes lost than parity covers")             \
	X(FTMEM_EATTACHED, -11, "rank still attached from an earlier start")

enum ftmem_result {
#define FTMEM_RESULT_(name, value, text) name = value,
	FTMEM_RESULTS(FTMEM_RESULT_)
#undef FTMEM_RESULT_
};

/* What a rank's private regions (its random numbers, for example) become when a job is
 * restored on another number of ranks; ranks may differ in it. */
enum ftmem_private {
	FTMEM_PRIVATE_RANK = 1, /* each rank gets those of the old rank of its number, and
	                           ELAYOUT if there was none; default */
	FTMEM_PRIVATE_DROP = 2, /* they stay as they are */
};
/* What ftmem_snapshot() does while the spare slot is still in use; ranks may differ. */
enum ftmem_busy_rule {
	FTMEM_BUSY_SKIP = 1, /* returns BUSY at once: the version is skipped; default */
	FTMEM_BUSY_WAIT = 2, /* waits on the host until the slot is free, at most timeout_ms,
	                        then BUSY */
};
/* For ftmem_opts.scrub_mib_s: nothing is read. */
#define FTMEM_SCRUB_OFF UINT32_MAX
/* Returned by ftmem_opts.private_from: the region stays as it is. */
#define FTMEM_NO_RANK UINT32_MAX

enum ftmem_log_level {
	FTMEM_LOG_ERROR = 1,
	FTMEM_LOG_WARN = 2,
	FTMEM_LOG_INFO = 3, /* default: restores, losses, respawns */
	FTMEM_LOG_DEBUG = 4,
};

/* The longest job or node name, in characters of [A-Za-z0-9._-]. */
#define FTMEM_NAME_MAX 63
/* The longest region name, in bytes. */
#define FTMEM_REGION_NAME_MAX 255
/* Versions are below this. */
#define FTMEM_VERSION_MAX (UINT64_C(1) << 56)

struct ftmem; /* one rank's part in a protected job */

/*
 * Zero means default; a longer struct is accepted if its tail is zero. Where
 * the struct says nothing, the environment variable FTMEM_<NAME> is asked.
 */
struct ftmem_opts {
	size_t size;             /* sizeof(struct ftmem_opts) */
	const char *job;         /* required; the same across restarts */
	const char *node;        /* failure domain, default: host name */
	const char *rack;        /* nodes of one rack are spread over groups */
	const char *dir;         /* folder of sockets and logs, see ftmem-smp(1) */
	const char *smp_path;    /* the ftmem-smp program, default: as installed */
	const void *comm;        /* MPI_Comm *, duplicated; NULL: world */
	uint32_t group_nodes;    /* nodes that protect each other, default 8 */
	uint32_t parity;         /* losses survived per group, default 1 */
	uint32_t timeout_ms;     /* deadline for a peer, default 30 000 */
	uint32_t expire_s;       /* memory freed so long after the last client left;
	                            default: as ftmem-smp was started, else 3 600 */
	uint32_t block_bytes;    /* unit of copy and exchange, the same on all ranks; default:
	                            as stored, else chosen from their caches, 65 536 to
	                            262 144 */
	uint32_t window;         /* block rows in flight; default: 2 to 4, from the cache */
	uint32_t copy_threads;   /* of each rank; default: 1 to 4, to 12 where there are
	                            devices, from the CPUs it has */
	uint32_t log_level;      /* enum ftmem_log_level, default FTMEM_LOG_INFO */
	uint64_t max_bandwidth;  /* bytes/s of parity traffic sent, 0: no ceiling */
	void (*log)(void *arg, int level, const char *line); /* any thread */
	void *log_arg;
	uint32_t private_rule;   /* enum ftmem_private, default FTMEM_PRIVATE_RANK */
	/*
	 * Snapshots from one comparison of replicas to the next, up to 10^9, the same on all
	 * ranks; default 0: they are never compared. A version whose replicas differ is
	 * dropped on all ranks: ftmem_wait() returns DROPPED, with a message that names
	 * tensor, box and rank.
	 */
	uint32_t compare_every;
	/*
	 * Asked instead of private_rule if the number of ranks is not that of the snapshot,
	 * for each private region, on the thread that calls ftmem_restore(). Returns the old
	 * rank whose region called name this rank gets, below old_ranks, or FTMEM_NO_RANK;
	 * that region must be of equal size. The same may be given to several ranks; ranks
	 * may differ in the function, or have none.
	 */
	uint32_t (*private_from)(void *arg, const char *name, uint32_t rank, uint32_t ranks,
	                         uint32_t old_ranks);
	void *private_arg;
	/*
	 * CPUs that the library's own threads run on: a list such as "2,4-7", also of CPUs that
	 * the process is not bound to, of which those count that the process may use; "auto",
	 * the default: where the launcher bound the process to some CPUs, near to these but on
	 * cores to which no rank is bound, if there are enough; "none": as the thread that
	 * calls ftmem_open() or another collective call.
	 */
	const char *progress_cpus;
	/*
	 * Bytes of each device's memory, up to 2^48, that ftmem_seal() takes, but no more than
	 * the regions there have, and keeps while an epoch has regions there: what has not left
	 * the device when the fence comes is copied there first, at the speed of the device's
	 * memory, and the optimizer goes on. If a device has less it takes less, of which a
	 * warning tells. For what finds no room there, and with 0, the default, streams wait at
	 * the fence until it has left the device.
	 */
	uint64_t device_staging;
	uint32_t when_busy;      /* enum ftmem_busy_rule, default FTMEM_BUSY_SKIP */
	/*
	 * MiB/s at which ftmem-smp reads what it holds to find damaged memory, up to 2^20, or
	 * FTMEM_SCRUB_OFF; default: as ftmem-smp was started, else 64. Each snapshot that
	 * stays is read once in 10 minutes at most. Of ranks on one node the one that connects
	 * last counts.
	 */
	uint32_t scrub_mib_s;
};
#define FTMEM_OPTS_INIT { .size = sizeof(struct ftmem_opts) }

#define FTMEM_MAX_DIMS 8

/*
 * ndim 0: private to the rank, and restored to the rank of the same number; shape and
 * extent are 0. Else a box of the global tensor called name, in memory an array of just
 * its elements in row-major order: the last dimension runs fastest. Ranks that register
 * the same elements hold replicas, which must be equal at every snapshot; each stores only
 * its share of them. On restore a rank may ask for any box of what was stored, whoever
 * stored it. A tensor has fewer than 2^64 bytes, a rank's regions at most 2^48 together.
 */
struct ftmem_region {
	size_t size;             /* sizeof(struct ftmem_region) */
	const char *name;        /* the same across restarts; unique in the rank, but boxes of
	                            one tensor that do not overlap have the same */
	void *addr;              /* host or device, contiguous; not managed memory */
	uint64_t bytes;          /* at least 1; of a box: elem_bytes times the product of extent */
	uint32_t elem_bytes;     /* of a box at least 1, and equal on all ranks */
	uint32_t ndim;           /* up to FTMEM_MAX_DIMS; entries from ndim on are ignored */
	uint64_t shape[FTMEM_MAX_DIMS];  /* of the whole tensor, in elements; equal on all ranks */
	uint64_t start[FTMEM_MAX_DIMS];  /* of this box in it: start + extent <= shape */
	uint64_t extent[FTMEM_MAX_DIMS]; /* at least 1 */
};
#define FTMEM_REGION_INIT { .size = sizeof(struct ftmem_region) }

/* Of this rank, since ftmem_open(). Times in seconds, 0 where none was taken. */
struct ftmem_stats {
	size_t size;             /* sizeof(struct ftmem_stats) */
	uint64_t committed, dropped, skipped; /* versions */
	uint64_t newest;         /* committed version; valid if stored is not 0 */
	uint32_t stored;         /* 1 if the job holds a committed version */
	uint32_t nodes, groups, group_nodes, parity; /* parity 0: one node */
	uint32_t block_bytes, window, copy_threads; /* in use, the first two from the
	                            seal on; window 0: not yet chosen */
	uint32_t lost_members;   /* of this rank's rail, rebuilt by the last restore */
	uint64_t data_bytes;     /* D: what this rank stores of the regions, and its description */
	uint64_t held_bytes;     /* arenas of this rank */
	uint64_t staging_bytes;  /* buffers of this rank, at most 64 MiB */
	uint64_t sent_bytes, repaired_blocks;
	double call_s;           /* host time of the last ftmem_snapshot(), with what it waited */
	double copy_s;           /* of the last committed version: call to copied */
	double protect_s;        /* of the last committed version: call to committed */
	double rebuild_s;        /* of the last restore, until redundant again */
	double restore_s;        /* of the last restore: whole call */
	double fence_s;          /* host time of ftmem_fence(), sum */
	uint64_t region_bytes;   /* registered by this rank */
	uint64_t moved_bytes;    /* by the last restore, from other ranks to this one */
	double move_s;           /* of the last restore: regions filled */
	uint64_t compared;       /* versions whose replicas were compared */
	uint64_t differing;      /* of these found to differ, and dropped */
	uint64_t waited;         /* ftmem_snapshot() calls that waited for the spare slot, see
	                            when_busy; those that waited in vain are in skipped, too */
	double wait_s;           /* that they waited, sum */
	/* Of regions on devices; 0 if there are none. Stalls are measured on the stream, with
	 * device events, and known when the copy is over: of each device's streams the first fence
	 * after a snapshot, as far as it waits for that device; the longest counts. */
	uint64_t device_bytes;   /* that this rank stores, of the layout of the last snapshot;
	                            before the first one, of the one that is sealed */
	uint64_t staged_bytes;   /* of these, by the last snapshot: through device_staging */
	uint64_t stalls;         /* first fences at which a stream waited 10 us or more */
	double stall_s;          /* that streams waited at first fences, sum */
	double last_stall_s;     /* the same, of the last snapshot */
	double device_copy_s;    /* of the last snapshot: from the first byte to leave a device
	                            to the last to reach the host, of the slowest device */
	double device_copy_rate; /* device_bytes over that, bytes/s */
	uint64_t damaged_blocks; /* of this rank's memory, as ftmem-smp found them last; a damaged
	                            header or table of checksums counts as one. 0 after they were
	                            mended or written anew */
};
#define FTMEM_STATS_INIT { .size = sizeof(struct ftmem_stats) }

/* Where this process is among those that the launcher started, as other communication
 * libraries ask to be told. */
struct ftmem_world {
	size_t size;             /* sizeof(struct ftmem_world) */
	uint32_t rank, ranks;    /* of MPI_COMM_WORLD */
	uint32_t local_rank, local_ranks; /* among those of this machine */
	uint32_t port;           /* a TCP port that was free on rank 0's machine a moment ago,
	                            below 65 536; the same on all ranks, as host */
	char host[256];          /* name of rank 0's machine; "127.0.0.1" if all run there */
};
#define FTMEM_WORLD_INIT { .size = sizeof(struct ftmem_world) }

/*
 * Collective over MPI_COMM_WORLD, before ftmem_open() or beside open jobs. Initialises MPI if
 * the caller did not, as ftmem_open() does. Fills *out as far as out->size reaches. A process
 * that no launcher started is a world of one.
 * EINVAL, ENOMEM, ESYS, ENET; ETIMEOUT: not all ranks came within FTMEM_TIMEOUT_MS,
 * for which MPI_Init() itself, if this call makes it, does not look.
 */
FTMEM_API int ftmem_world(struct ftmem_world *out);

/*
 * Collective. Joins the job and attaches to the node's snapshot-management
 * process, starting it if there is none. Initialises MPI if the caller did not.
 * EINVAL, ENOMEM, ESYS, ENET, ESMP, ETIMEOUT.
 */
FTMEM_API int ftmem_open(const struct ftmem_opts *opts, struct ftmem **out);

/*
 * Collective. Waits for versions under way; stored versions survive. Accepts
 * NULL. A region may be freed afterwards, but for what ftmem_restore() says of ETIMEOUT
 * and ENET, and unless an error was logged that a copy does not end: a device is stuck.
 * Threads of the library then go on: regions, and opts.log with log_arg, must stay as well
 * until the process ends.
 * Before MPI_Finalize(): what is still under way then is given up, and after it
 * ftmem_close() only frees.
 */
FTMEM_API void ftmem_close(struct ftmem *ft);

/*
 * Local; takes effect at the next ftmem_seal(). Whether memory is the host's or a device's
 * is found out from its address: nothing has to be said, and a rank may have regions of
 * both, and of several devices. Each lies in one allocation.
 * EINVAL: what struct ftmem_region says is not kept; a name that is missing or too long,
 * or taken, unless by boxes of the same tensor that do not overlap this one; managed
 * (unified) memory, which has no place of its own; in a build without a device backend,
 * memory whose ends the processor cannot read, as that of devices. ENOMEM, EDEVICE.
 */
FTMEM_API int ftmem_region_add(struct ftmem *ft, const struct ftmem_region *r);
/* Likewise; waits on the host until no snapshot reads regions any more, so that the memory
 * may be freed next. Of one name, all are removed. EINVAL: there is none. ETIMEOUT: it is
 * still read after timeout_ms; the version is dropped; call again before freeing it. */
FTMEM_API int ftmem_region_remove(struct ftmem *ft, const char *name);

/*
 * Collective. Freezes the layout, divides replicas into shares, takes and touches all
 * memory it will need: with regions on devices it also takes device_staging of each and
 * pins the arenas. If no more memory can be pinned a warning says so, and copies are slower.
 * Called again after regions changed it begins a new epoch; versions of the old
 * one stay restorable until the new one's first commit.
 * EINVAL: ranks disagree on a tensor's shape or element size; its boxes overlap partly, in
 * more than 65,536 cells; a rank's regions have more than 2^48 bytes.
 * EINVAL, ENOMEM, ESYS, ENET, EDEVICE, ESMP, ETIMEOUT, EATTACHED. On error the former
 * epoch, if there was one, goes on with what it stores; if regions changed,
 * snapshots are refused until a seal succeeds.
 */
FTMEM_API int ftmem_seal(struct ftmem *ft);

/*
 * Collective; needs no seal. Tells what ftmem_restore() would find, and changes nothing: for
 * callers that must know before they register regions. Waits for versions under way.
 * *version: the newest of which enough is there. Its data is not verified: what is damaged
 * beyond repair makes ftmem_restore() go back to an older one, or fail.
 * region: NULL, or a name, the same on all ranks: *bytes gets the size of the private region
 * or box of that name in this version, the largest that any rank registered whose memory is
 * there. What lost ranks had is not known before it is rebuilt. 0: none of them had any.
 * FRESH: nothing is stored.
 * EINVAL, ENOMEM, ESYS, ENET, ESMP, ETIMEOUT, EATTACHED, ECORRUPT, ELOST.
 */
FTMEM_API int ftmem_stored(struct ftmem *ft, const char *region, uint64_t *version,
                           uint64_t *bytes);

/*
 * Collective, after ftmem_seal(). Agrees on the newest recoverable version,
 * rebuilds what is lost, fills the regions, makes redundancy whole. FRESH if
 * the job holds nothing. On error stored versions are intact; regions are
 * untouched after ELAYOUT, ELOST and EINVAL, else unspecified. Device regions are filled
 * when it returns: what is queued on any stream from then on sees them. It waits for no work
 * queued before, not even on default streams: what uses the regions must be over, so
 * synchronize their devices first. After ETIMEOUT and ENET
 * messages on their way may still write into them until the process ends: load nothing
 * else into them, do not free them, start the job again.
 * EINVAL, ENOMEM, ESYS, ENET, EDEVICE, ESMP, ETIMEOUT, ELAYOUT, ECORRUPT, ELOST.
 */
FTMEM_API int ftmem_restore(struct ftmem *ft, uint64_t *version);

/*
 * Async, in microseconds. Captures host regions as of the call, and device regions as of
 * the work now queued on stream, a cudaStream_t of a device that holds regions. Work on other
 * streams that they depend on must be made to come before it. NULL is the legacy default
 * stream of the calling thread's current device, always: also in programs compiled with
 * --default-stream per-thread, which pass cudaStreamPerThread for theirs. Without regions on
 * devices stream is ignored; else it must be valid: that it was destroyed may go unnoticed.
 *
 * Ranks pass the same growing versions, below FTMEM_VERSION_MAX. Regions must not be written
 * before ftmem_fence(): those of the host before it returned, those of devices by work that
 * is not ordered behind a fence on some stream.
 *
 * BUSY: the spare slot is still in use; with FTMEM_BUSY_WAIT the call waits for it at first,
 * and captures what there is at the end of that wait. DROPPED: the copy could not begin, and
 * ftmem_errmsg() says why: stream is being captured into a graph, or is of a device that holds
 * no regions, or a device failed. After both the version will not be stored, and training
 * goes on untouched; so it does if the copy fails later, of which ftmem_wait() tells. EINVAL
 * (also: stored versions neither restored nor forgotten, regions changed since the last seal),
 * ENET: none will be stored any more.
 */
FTMEM_API int ftmem_snapshot(struct ftmem *ft, uint64_t version, void *stream);

/*
 * Async, instead of ftmem_snapshot() where this rank cannot capture its state: it reads no
 * regions, waits for no slot, and the version is dropped on all ranks. Counted in
 * ftmem_stats.skipped. 0; EINVAL and ENET as of ftmem_snapshot().
 */
FTMEM_API int ftmem_skip(struct ftmem *ft, uint64_t version);

/*
 * Any thread. Before the regions are written again: what is queued on stream from now on
 * waits until they have been read; stream is as of ftmem_snapshot(). Several streams may each
 * have a fence. The host does not wait for a device, only for host regions, for copies that a
 * snapshot a moment ago still has to queue, and for checksums of replicas if it compares them.
 * 0 also when nothing is under way. EDEVICE, EINVAL (stream is being captured, or the default
 * stream of a thread that has no current device): stream does not wait, nothing may be written
 * yet; EDEVICE also where the driver of a device is stuck. ETIMEOUT: host regions not read, or
 * copies not queued, within timeout_ms; the version is dropped and the regions may be written.
 * Both may take timeout_ms and 10 s.
 */
FTMEM_API int ftmem_fence(struct ftmem *ft, void *stream);

/*
 * Any thread, not concurrent with ftmem_close(). Waits until version is
 * committed (OK) or dropped or skipped (DROPPED). EINVAL for a version never
 * asked for or resolved long ago, ETIMEOUT.
 */
FTMEM_API int ftmem_wait(struct ftmem *ft, uint64_t version, uint32_t timeout_ms);

/*
 * Collective, after ftmem_seal(). Waits for versions under way, then verifies all that the
 * ranks hold of the newest committed version, and mends from parity what is damaged, in place:
 * blocks of data and parity, checksums, headers. Regions are neither read nor written, and
 * snapshots go on after it. *blocks, which may be NULL: blocks mended on all ranks, where a
 * header, or an older version that was discarded, counts as one; 0: nothing was wrong. Also
 * in ftmem_stats.repaired_blocks, of each rank. Not needed before a restart, as
 * ftmem_restore() mends, too; nor before the next ftmem_snapshot(): once it commits, its
 * version takes the place of what was damaged.
 * FRESH: nothing is stored. ECORRUPT: more is damaged than parity covers; the message names
 * the ranks. What is damaged then stays as it is, and the next version that commits takes its
 * place.
 * EINVAL: stored versions were neither restored nor forgotten; the newest version is of an
 * earlier layout, whose place the next version takes that commits.
 * EINVAL, ENOMEM, ESYS, ENET, ESMP, ETIMEOUT, ECORRUPT.
 */
FTMEM_API int ftmem_repair(struct ftmem *ft, uint64_t *blocks);

/*
 * Collective. Erases every stored version of the job. Its memory is freed soon after, at some GB a
 * second; ftmem_seal() waits for what it needs of that. ENET, ESMP, ETIMEOUT.
 */
FTMEM_API int ftmem_forget(struct ftmem *ft);

/* Any thread. Fills *out as far as out->size reaches. EINVAL. */
FTMEM_API int ftmem_stats(struct ftmem *ft, struct ftmem_stats *out);

/* Any thread. Static text of a result. */
FTMEM_API const char *ftmem_strerror(int result);

/*
 * Any thread. The calling thread's last detailed message, "" if none: which
 * rank, node, region or version, and what to do. Valid until its next call.
 */
FTMEM_API const char *ftmem_errmsg(void);

#ifdef __cplusplus
}
#endif
#endif
