/* SPDX-License-Identifier: BSD-3-Clause */
/* The public calls: check the arguments, delegate. */
#include <inttypes.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "session.h"

static int check_handle(const struct ftmem *ft)
{
	return ft ? 0 : error_set(FTMEM_EINVAL, "the handle is NULL: call ftmem_open() first");
}

static int check_sealed(const struct ftmem *ft, const char *call)
{
	int rc = check_handle(ft);

	if (rc < 0)
		return rc;
	if (!ft->epoch)
		return error_set(FTMEM_EINVAL,
		                 "%s: no layout yet: add regions and call ftmem_seal()", call);
	return 0;
}

int ftmem_open(const struct ftmem_opts *opts, struct ftmem **out)
{
	if (!out)
		return error_set(FTMEM_EINVAL, "ftmem_open: out is NULL");
	return session_open(opts, out);
}

void ftmem_close(struct ftmem *ft)
{
	session_close(ft);
}

/* Where its memory lies. What is not all there region_set_add() refuses. */
static int region_where(const struct ftmem *ft, const struct ftmem_region *r, int *device)
{
	int rc;

	*device = DEVICE_HOST;
	if (!r || r->size < offsetof(struct ftmem_region, elem_bytes) || !r->name || !r->addr
	    || r->bytes == 0 || r->bytes > UINTPTR_MAX - (uintptr_t)r->addr)
		return 0;
	rc = ft->copy_ops->where(r->addr, r->bytes, device);
	if (rc < 0)
		error_set(rc, "region \"%.255s\" of %" PRIu64 " bytes: %s", r->name, r->bytes,
		          error_msg());
	return rc;
}

int ftmem_region_add(struct ftmem *ft, const struct ftmem_region *r)
{
	int rc = check_handle(ft), device;

	if (rc == 0)
		rc = region_where(ft, r, &device);
	if (rc == 0)
		rc = region_set_add(ft->regions, r, device);
	if (rc == 0)
		ft->regions_changed = true;
	return rc;
}

/* Until no region is read any more, by a device neither. */
static int await_copy(struct ftmem *ft)
{
	uint64_t deadline = session_deadline(ft);
	struct net_backoff backoff = {0};

	while (!ft->copy_ops->done(ft->copy)) {
		if (clock_ns() > deadline) {
			ft->copy_ops->cancel(ft->copy);
			return error_set(FTMEM_ETIMEOUT,
			                 "regions were not copied in time, the version is dropped: "
			                 "do not free them before a further ftmem_region_remove()");
		}
		net_backoff(&backoff);
	}
	return 0;
}

int ftmem_region_remove(struct ftmem *ft, const char *name)
{
	int rc = check_handle(ft);

	/* The memory may be freed next. */
	if (rc == 0)
		rc = await_copy(ft);
	if (rc == 0)
		rc = region_set_remove(ft->regions, name);
	if (rc == 0)
		ft->regions_changed = true;
	return rc;
}

int ftmem_seal(struct ftmem *ft)
{
	int rc = check_handle(ft);

	return rc < 0 ? rc : session_seal(ft);
}

int ftmem_restore(struct ftmem *ft, uint64_t *version)
{
	int rc = check_sealed(ft, "ftmem_restore");

	if (rc < 0)
		return rc;
	if (!version)
		return error_set(FTMEM_EINVAL, "ftmem_restore: version is NULL");
	if (ft->regions_changed)
		return error_set(FTMEM_EINVAL,
		                 "ftmem_restore: regions changed: call ftmem_seal() first");
	return session_restore(ft, version);
}

int ftmem_snapshot(struct ftmem *ft, uint64_t version, void *stream)
{
	int rc = check_sealed(ft, "ftmem_snapshot");

	if (rc < 0)
		return rc;
	if (ft->regions_changed)
		return error_set(FTMEM_EINVAL,
		                 "ftmem_snapshot: regions changed: call ftmem_seal() first");
	if (ft->must_restore)
		return error_set(FTMEM_EINVAL,
		                 "ftmem_snapshot: job %s holds versions of an earlier start: "
		                 "call ftmem_restore(), or ftmem_forget() to begin anew",
		                 ft->opts.job);
	return progress_snapshot(ft->progress, version, stream);
}

int ftmem_fence(struct ftmem *ft, void *stream)
{
	int rc = check_handle(ft);
	uint64_t begin;

	if (rc < 0)
		return rc;
	begin = clock_ns();
	rc = ft->copy_ops->fence(ft->copy, stream, session_deadline(ft));
	atomic_fetch_add_explicit(&ft->fence_ns, clock_ns() - begin, memory_order_relaxed);
	return rc;
}

int ftmem_wait(struct ftmem *ft, uint64_t version, uint32_t timeout_ms)
{
	int rc = check_handle(ft);

	return rc < 0 ? rc : progress_wait(ft->progress, version, clock_deadline(timeout_ms));
}

int ftmem_forget(struct ftmem *ft)
{
	int rc = check_handle(ft);

	return rc < 0 ? rc : session_forget(ft);
}

static void fill_device_stats(struct ftmem *ft, struct ftmem_stats *s)
{
	struct copy_figures f = {0};

	ft->copy_ops->figures(ft->copy, &f);
	s->device_bytes = f.device_bytes;
	s->staged_bytes = f.staged_bytes;
	s->stalls = f.stalls;
	s->stall_s = f.stall_s;
	s->last_stall_s = f.last_stall_s;
	s->device_copy_s = f.device_copy_s;
	if (f.device_copy_s > 0)
		s->device_copy_rate = (double)f.device_bytes / f.device_copy_s;
}

static void fill_stats(struct ftmem *ft, struct ftmem_stats *s)
{
	const struct map_node *node = &ft->map->node[ft->map->node_of_rank[ft->net->rank]];
	struct session_figures figures;
	struct progress_stats p;

	progress_read(ft->progress, &p);
	s->committed = p.committed;
	s->dropped = p.dropped;
	s->skipped = p.skipped;
	s->newest = p.newest;
	s->stored = p.stored;
	s->call_s = p.call_s;
	s->copy_s = p.copy_s;
	s->protect_s = p.protect_s;
	s->nodes = ft->map->nodes;
	s->groups = ft->map->groups;
	for (uint32_t i = 0; i < ft->map->nodes; i++)
		s->group_nodes += ft->map->node[i].group == node->group;
	s->parity = ft->map->parity;
	s->copy_threads = ft->opts.copy_threads;
	pthread_mutex_lock(&ft->lock);
	figures = ft->figures;
	s->block_bytes = ft->opts.block_bytes;
	pthread_mutex_unlock(&ft->lock);
	s->window = figures.window ? figures.window : ft->opts.window;
	s->compared = p.compared;
	s->differing = p.differing;
	s->data_bytes = figures.data_bytes;
	s->region_bytes = figures.region_bytes;
	s->moved_bytes = figures.moved_bytes;
	s->move_s = figures.move_s;
	s->held_bytes = figures.held_bytes;
	s->staging_bytes = figures.staging_bytes;
	s->lost_members = figures.lost_members;
	s->repaired_blocks = figures.repaired_blocks;
	s->rebuild_s = figures.rebuild_s;
	s->restore_s = figures.restore_s;
	s->waited = p.waited;
	s->wait_s = p.wait_s;
	s->fence_s = (double)atomic_load_explicit(&ft->fence_ns, memory_order_relaxed) * 1e-9;
	s->sent_bytes = atomic_load_explicit(&ft->net->sent_bytes, memory_order_relaxed);
}

int ftmem_stats(struct ftmem *ft, struct ftmem_stats *out)
{
	struct ftmem_stats s = FTMEM_STATS_INIT;
	int rc = check_handle(ft);
	size_t size;

	if (rc < 0)
		return rc;
	if (!out || out->size < sizeof(size_t))
		return error_set(FTMEM_EINVAL,
		                 "ftmem_stats: out is NULL or its size is not set: use "
		                 "FTMEM_STATS_INIT");
	size = out->size < sizeof(s) ? out->size : sizeof(s);
	fill_stats(ft, &s);
	fill_device_stats(ft, &s);
	s.size = out->size;
	memcpy(out, &s, size);
	return 0;
}

const char *ftmem_strerror(int result)
{
	return error_text(result);
}

const char *ftmem_errmsg(void)
{
	return error_msg();
}
