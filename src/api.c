/* SPDX-License-Identifier: BSD-3-Clause */
/* The public calls: check the arguments, delegate. */
#include <inttypes.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "repair.h"
#include "session.h"
#include "world.h"

static int check_handle(const struct ftmem *ft)
{
	return ft ? 0 : error_set(FTMEM_EINVAL, "the handle is NULL: call ftmem_open() first");
}

/* That the layout is sealed. */
static int check_settled(const struct ftmem *ft, const char *call)
{
	int rc = check_handle(ft);

	if (rc < 0)
		return rc;
	if (!ft->epoch)
		return error_set(FTMEM_EINVAL,
		                 "%s: no layout yet: add regions and call ftmem_seal()", call);
	if (ft->regions_changed)
		return error_set(FTMEM_EINVAL, "%s: regions changed: call ftmem_seal() first",
		                 call);
	return 0;
}

/* What a caller of that struct sees of ours: as much as its own has. */
static int fill_sized(void *out, size_t size, const void *ours, size_t bytes, const char *what)
{
	if (size < sizeof(size_t))
		return error_set(FTMEM_EINVAL,
		                 "%s is NULL or its size is not set: begin with its _INIT", what);
	memcpy(out, ours, size < bytes ? size : bytes);
	memcpy(out, &size, sizeof(size));
	return 0;
}

int ftmem_world(struct ftmem_world *out)
{
	struct ftmem_world w = FTMEM_WORLD_INIT;
	int rc = world_find(&w);

	return rc < 0 ? rc : fill_sized(out, out ? out->size : 0, &w, sizeof(w),
	                                "ftmem_world: struct ftmem_world");
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
	int rc = check_settled(ft, "ftmem_restore");

	if (rc < 0)
		return rc;
	if (!version)
		return error_set(FTMEM_EINVAL, "ftmem_restore: version is NULL");
	return session_restore(ft, version);
}

/* That versions may be asked for. */
static int check_running(const struct ftmem *ft, const char *call)
{
	int rc = check_settled(ft, call);

	if (rc == 0 && ft->must_restore)
		rc = error_set(FTMEM_EINVAL,
		               "%s: job %s holds versions of an earlier start: call "
		               "ftmem_restore(), or ftmem_forget() to begin anew",
		               call, ft->opts.job);
	return rc;
}

int ftmem_snapshot(struct ftmem *ft, uint64_t version, void *stream)
{
	int rc = check_running(ft, "ftmem_snapshot");

	return rc < 0 ? rc : progress_snapshot(ft->progress, version, stream);
}

int ftmem_skip(struct ftmem *ft, uint64_t version)
{
	int rc = check_running(ft, "ftmem_skip");

	return rc < 0 ? rc : progress_skip(ft->progress, version);
}

int ftmem_stored(struct ftmem *ft, const char *region, uint64_t *version, uint64_t *bytes)
{
	int rc = check_handle(ft);

	if (rc < 0)
		return rc;
	if (!version || (region && !bytes))
		return error_set(FTMEM_EINVAL, "ftmem_stored: %s is NULL",
		                 version ? "bytes" : "version");
	return session_stored(ft, region, version, bytes);
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

int ftmem_repair(struct ftmem *ft, uint64_t *blocks)
{
	int rc = check_running(ft, "ftmem_repair");

	return rc < 0 ? rc : session_repair(ft, blocks);
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
	s->damaged_blocks = atomic_load_explicit(&ft->keeper.damaged, memory_order_relaxed);
	s->waited = p.waited;
	s->wait_s = p.wait_s;
	s->fence_s = (double)atomic_load_explicit(&ft->fence_ns, memory_order_relaxed) * 1e-9;
	s->sent_bytes = atomic_load_explicit(&ft->net->sent_bytes, memory_order_relaxed);
}

int ftmem_stats(struct ftmem *ft, struct ftmem_stats *out)
{
	struct ftmem_stats s = FTMEM_STATS_INIT;
	int rc = check_handle(ft);

	if (rc < 0)
		return rc;
	fill_stats(ft, &s);
	fill_device_stats(ft, &s);
	return fill_sized(out, out ? out->size : 0, &s, sizeof(s),
	                  "ftmem_stats: struct ftmem_stats");
}

const char *ftmem_strerror(int result)
{
	return error_text(result);
}

const char *ftmem_errmsg(void)
{
	return error_msg();
}
