/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The functions through which the linker sends callers of the library's own: each
 * passes its point and goes on. Linked with --wrap for every one of them.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "fault.h"
#include "memory.h"
#include "tags.h"
#include "wrapped.h"

/* Whether the version under way has come to its vote. */
static atomic_bool voted;
/* Whether this thread is inside rebuild_rails(). */
static _Thread_local bool rebuilding;

/* --- the slots --- */

void __wrap_slot_set_empty(struct slot *s)
{
	fault_pass(POINT_CLEAR);
	__real_slot_set_empty(s);
}

void __wrap_slot_set_filling(struct slot *s, struct stamp stamp)
{
	fault_set_version(stamp.version);
	atomic_store(&voted, false);
	fault_pass(POINT_BEGIN_FILL);
	__real_slot_set_filling(s, stamp);
}

void __wrap_slot_set_prepared(struct slot *s, struct stamp stamp)
{
	fault_pass(POINT_BEFORE_PREPARE);
	__real_slot_set_prepared(s, stamp);
	fault_pass(POINT_AFTER_PREPARE);
}

void __wrap_slot_set_committed(struct slot *s)
{
	fault_pass(POINT_BEFORE_COMMIT);
	__real_slot_set_committed(s);
	fault_pass(POINT_AFTER_COMMIT);
}

uint64_t __wrap_slot_verify(const struct slot *s,
                            void (*bad)(void *, uint32_t, bool, uint32_t, uint32_t), void *arg)
{
	fault_pass(POINT_VERIFY);
	return __real_slot_verify(s, bad, arg);
}

/* --- copy, exchange, encode, vote --- */

void __wrap_copy_read_block(const struct copy_job *job, uint32_t index)
{
	enum fault_what todo = fault_pass(POINT_COPY);

	__real_copy_read_block(job, index);
	if (todo == DO_FLIP)
		job->data[job->plan->block[index].offset] ^= 1;
}

/* They check what they write into regions meanwhile; threads have names. */
static bool on_copy_thread(void)
{
	static _Thread_local int answer = -1;
	char name[16] = "";

	if (answer < 0) {
		pthread_getname_np(pthread_self(), name, sizeof(name));
		answer = strcmp(name, "ftmem-copy") == 0;
	}
	return answer == 1;
}

uint32_t __wrap_checksum(const void *data, size_t bytes)
{
	if (rebuilding && !on_copy_thread())
		fault_pass(POINT_REBUILT);
	return __real_checksum(data, bytes);
}

static enum fault_point point_of_tag(uint32_t tag)
{
	if (tag == TAG_TRANSFER)
		return POINT_MOVE_SEND;
	if (tag == TAG_ROUTE)
		return POINT_ROUTE;
	switch ((tag - TAG_RAILS) % TAG_KINDS) {
	case TAG_INTENT: return POINT_TELL;
	case TAG_BLOCK: return POINT_EXCHANGE;
	case TAG_TRAILER: return POINT_TRAILER;
	default: return POINT_REBUILD_SEND;
	}
}

int __real_net_send(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
                    struct net_req *req);
int __wrap_net_send(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
                    struct net_req *req);
int __wrap_net_send(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
                    struct net_req *req)
{
	if (fault_pass(point_of_tag(tag)) == DO_FAIL)
		return fault_fail(FTMEM_ENET, point_of_tag(tag));
	return __real_net_send(net, peer, tag, buf, bytes, req);
}

/* The only collective operation that is tested from outside net.c is the vote. */
int __real_net_test(struct net *net, struct net_req *req);
int __wrap_net_test(struct net *net, struct net_req *req);
int __wrap_net_test(struct net *net, struct net_req *req)
{
	if (req->active && req->peer == NET_ALL && !atomic_exchange(&voted, true)
	    && fault_pass(POINT_VOTE) == DO_FAIL)
		return fault_fail(FTMEM_ENET, POINT_VOTE);
	return __real_net_test(net, req);
}

void __wrap_codec_encode(const struct codec *c, uint32_t row, size_t len, const uint8_t *const *src,
                         uint8_t *dst)
{
	fault_pass(POINT_ENCODE);
	__real_codec_encode(c, row, len, src, dst);
}

void __wrap_codec_decode(const struct codec_decoder *d, size_t len, const uint8_t *const *src,
                         uint8_t *const *dst)
{
	fault_pass(POINT_REBUILD);
	__real_codec_decode(d, len, src, dst);
}

/* --- arenas and ftmem-smp --- */

int __real_arena_attach_held(int fd, bool writable, struct arena **out);
int __wrap_arena_attach_held(int fd, bool writable, struct arena **out);
int __wrap_arena_attach_held(int fd, bool writable, struct arena **out)
{
	if (fault_pass(POINT_ATTACH) == DO_FAIL) {
		close(fd);
		return fault_fail(FTMEM_ENOMEM, POINT_ATTACH);
	}
	return __real_arena_attach_held(fd, writable, out);
}

int __real_arena_create(int fd, const struct arena_spec *spec, struct arena **out);
int __wrap_arena_create(int fd, const struct arena_spec *spec, struct arena **out);
int __wrap_arena_create(int fd, const struct arena_spec *spec, struct arena **out)
{
	if (fault_pass(POINT_CREATE) == DO_FAIL) {
		close(fd);
		return fault_fail(FTMEM_ENOMEM, POINT_CREATE);
	}
	return __real_arena_create(fd, spec, out);
}

int __real_memory_touch(void *addr, size_t bytes, uint32_t threads);
int __wrap_memory_touch(void *addr, size_t bytes, uint32_t threads);
int __wrap_memory_touch(void *addr, size_t bytes, uint32_t threads)
{
	if (fault_pass(POINT_TOUCH) == DO_FAIL)
		return fault_fail(FTMEM_ENOMEM, POINT_TOUCH);
	return __real_memory_touch(addr, bytes, threads);
}

int __real_smp_connect(const struct smp_config *config, struct smp_client **out);
int __wrap_smp_connect(const struct smp_config *config, struct smp_client **out);
int __wrap_smp_connect(const struct smp_config *config, struct smp_client **out)
{
	int rc = __real_smp_connect(config, out);

	if (rc == 0 && config->rank != WIRE_RANK_OBSERVER)
		fault_set_smp(*out);
	return rc;
}

int __real_smp_adopt(struct smp_client *c, uint64_t epoch, uint32_t rank, int fd);
int __wrap_smp_adopt(struct smp_client *c, uint64_t epoch, uint32_t rank, int fd);
int __wrap_smp_adopt(struct smp_client *c, uint64_t epoch, uint32_t rank, int fd)
{
	if (fault_pass(POINT_RESPAWN) == DO_FAIL)
		return fault_fail(FTMEM_ESMP, POINT_RESPAWN);
	return __real_smp_adopt(c, epoch, rank, fd);
}

int __real_smp_retire(struct smp_client *c, uint64_t epoch);
int __wrap_smp_retire(struct smp_client *c, uint64_t epoch);
int __wrap_smp_retire(struct smp_client *c, uint64_t epoch)
{
	if (fault_pass(POINT_RETIRE) == DO_FAIL)
		return fault_fail(FTMEM_ESMP, POINT_RETIRE);
	return __real_smp_retire(c, epoch);
}

/* --- collective steps, restore --- */

int __wrap_net_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                         uint64_t deadline_ns, const char *what)
{
	if (fault_pass(POINT_AGREE) == DO_FAIL)
		return fault_fail(FTMEM_ENET, POINT_AGREE);
	return __real_net_allreduce(net, words, count, op, deadline_ns, what);
}

int __real_rebuild_rails(const struct rebuild_config *config, uint32_t count,
                         struct rebuild_report *report);
int __wrap_rebuild_rails(const struct rebuild_config *config, uint32_t count,
                         struct rebuild_report *report);
int __wrap_rebuild_rails(const struct rebuild_config *config, uint32_t count,
                         struct rebuild_report *report)
{
	int rc;

	rebuilding = true;
	rc = __real_rebuild_rails(config, count, report);
	rebuilding = false;
	return rc;
}

int __wrap_move_restore(struct rescue *r, struct move_report *report)
{
	fault_pass(POINT_MOVE);
	return __real_move_restore(r, report);
}

int __wrap_transfer_run(const struct transfer_config *config, const struct transfer_stream *out,
                        uint32_t outs, const struct transfer_stream *in, uint32_t ins)
{
	fault_pass(POINT_FILL);
	return __real_transfer_run(config, out, outs, in, ins);
}

bool __wrap_copy_fill_block(const struct copy_fill *fill, uint32_t index)
{
	fault_pass(POINT_FILL);
	return __real_copy_fill_block(fill, index);
}

/* Its points have the names of a restore. */
int __real_session_repair(struct ftmem *ft, uint64_t *blocks);
int __wrap_session_repair(struct ftmem *ft, uint64_t *blocks);
int __wrap_session_repair(struct ftmem *ft, uint64_t *blocks)
{
	int rc;

	fault_set_restoring(true);
	rc = __real_session_repair(ft, blocks);
	fault_set_restoring(false);
	return rc;
}

int __real_session_restore(struct ftmem *ft, uint64_t *version);
int __wrap_session_restore(struct ftmem *ft, uint64_t *version);
int __wrap_session_restore(struct ftmem *ft, uint64_t *version)
{
	int rc;

	fault_set_restoring(true);
	rc = __real_session_restore(ft, version);
	fault_pass(POINT_RESTORED);
	fault_set_restoring(false);
	return rc;
}
