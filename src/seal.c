/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ftmem_seal(): freezes the layout, agrees on who stores which share of what several ranks
 * hold, and takes the memory for it.
 *
 * If every arena of the newest epoch that the SMPs hold lies on the node of its rank
 * and was sealed with the same geometry, the ranks join that epoch: their arenas are
 * used as they are, with what they hold, and only ranks without one get a new one; so do
 * those that died as they made theirs.
 * Otherwise a new epoch begins with new arenas for all; the older ones stay until
 * its first commit. A block size that is not set is that of the newest epoch, so that
 * a machine with other caches can join it.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "checksum.h"
#include "clock.h"
#include "error.h"
#include "recover.h"
#include "room.h"
#include "session.h"
#include "share.h"

/* Those that FTMEM_BLOCK_BYTES takes. */
#define BLOCK_MIN UINT64_C(4096)
#define BLOCK_MAX (UINT64_C(4) << 20)

struct seal {
	struct ftmem *ft;
	struct layout *layout;
	struct share_cell *cell;
	uint32_t cells;
	struct rail *rails;
	uint32_t rails_count;
	uint64_t geometry;
	uint64_t epoch;
	uint64_t pinned; /* bytes of the largest arena of a rank with regions on devices */
	bool anew, join, created, stored;
	bool unwritten; /* the own arena of the newest epoch: it never held anything */
	struct arena *arena;
};

/* --- block size --- */

static uint64_t newest_epoch(const struct smp_entry *entry, uint32_t count)
{
	uint64_t newest = 0;

	for (uint32_t i = 0; i < count; i++)
		if (entry[i].epoch > newest)
			newest = entry[i].epoch;
	return newest;
}

/* *block stays as it is if the arena is damaged: others of its epoch may tell. */
static int read_block_bytes(struct ftmem *ft, const struct smp_entry *entry, uint64_t *block)
{
	struct arena *a = NULL;
	int fd = -1, rc = smp_attach(ft->keeper.smp, entry->epoch, entry->rank, false, &fd);

	if (rc == 0)
		rc = arena_attach_held(fd, false, &a);
	if (rc == 0)
		*block = a->header->block_bytes;
	arena_free(a);
	return rc == FTMEM_ECORRUPT ? 0 : rc;
}

static int take_stored_block(struct ftmem *ft, uint64_t block, uint64_t epoch)
{
	if (block == 0 || block == ft->opts.block_bytes)
		return 0;
	if (block < BLOCK_MIN || block > BLOCK_MAX || block % BLOCK_MIN != 0)
		return error_set(FTMEM_ECORRUPT,
		                 "epoch %" PRIu64 " is stored in blocks of %" PRIu64
		                 " bytes: set FTMEM_BLOCK_BYTES to begin a new one beside it",
		                 epoch, block);
	log_line(&ft->opts.log, FTMEM_LOG_DEBUG,
	         "blocks of %" PRIu64 " bytes, as epoch %" PRIu64 " is stored, not of %" PRIu32,
	         block, epoch, ft->opts.block_bytes);
	pthread_mutex_lock(&ft->lock);
	ft->opts.block_bytes = (uint32_t)block;
	pthread_mutex_unlock(&ft->lock);
	return 0;
}

/* One rank of each node looks at what its SMP holds. */
static int settle_block_bytes(struct ftmem *ft)
{
	bool looks = ft->map->local_index[ft->net->rank] == 0;
	struct smp_entry *entry = NULL;
	uint32_t count = 0;
	uint64_t epoch, block = 0;
	int rc = looks ? smp_list(ft->keeper.smp, &entry, &count) : 0;

	epoch = newest_epoch(entry, count);
	rc = session_agree(ft, rc, "listing what is stored");
	if (rc == 0)
		rc = net_allreduce(ft->net, &epoch, 1, NET_MAX, session_deadline(ft),
		                   "finding the block size");
	if (rc < 0 || epoch == 0) {
		free(entry);
		return rc;
	}
	for (uint32_t i = 0; rc == 0 && block == 0 && i < count; i++)
		if (entry[i].epoch == epoch)
			rc = read_block_bytes(ft, &entry[i], &block);
	free(entry);
	rc = session_agree(ft, rc, "finding the block size");
	if (rc == 0)
		rc = net_allreduce(ft->net, &block, 1, NET_MAX, session_deadline(ft),
		                   "finding the block size");
	return rc == 0 ? take_stored_block(ft, block, epoch) : rc;
}

/* --- geometry --- */

static int make_rails(struct seal *s, const uint64_t *data_bytes)
{
	const struct map *map = s->ft->map;
	uint32_t *ids = NULL;
	int rc = map_rails_of(map, s->ft->net->rank, &ids, &s->rails_count);

	if (rc < 0)
		return rc;
	s->rails = calloc(s->rails_count, sizeof(*s->rails));
	if (!s->rails) {
		free(ids);
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " rails", s->rails_count);
	}
	for (uint32_t i = 0; i < s->rails_count; i++) {
		struct rail *r = &s->rails[i];

		map_rail(map, ids[i], r);
		r->block_bytes = s->ft->opts.block_bytes;
		for (uint32_t j = 0; j < r->n; j++)
			r->data_bytes[j] = r->data_bytes[j] ? data_bytes[r->rank[j]] : 0;
	}
	free(ids);
	return 0;
}

/* This rank's contribution to the geometry: the sum over ranks tells two apart. */
static uint64_t geometry_share(const struct seal *s)
{
	uint64_t digest = digest_more(DIGEST_INIT, &s->ft->net->rank, sizeof(s->ft->net->rank));

	digest = digest_more(digest, &s->ft->net->size, sizeof(s->ft->net->size));
	digest = digest_more(digest, &s->layout->digest, sizeof(s->layout->digest));
	for (uint32_t i = 0; i < s->rails_count; i++) {
		const struct rail *r = &s->rails[i];

		digest = digest_more(digest, &r->n, sizeof(r->n));
		digest = digest_more(digest, &r->m, sizeof(r->m));
		digest = digest_more(digest, &r->block_bytes, sizeof(r->block_bytes));
		digest = digest_more(digest, r->rank, sizeof(r->rank[0]) * r->n);
		digest = digest_more(digest, r->data_bytes, sizeof(r->data_bytes[0]) * r->n);
	}
	return digest;
}

static int share_out(struct seal *s)
{
	struct ftmem *ft = s->ft;
	const struct map *map = ft->map;
	uint32_t group = map->node[map->node_of_rank[ft->net->rank]].group;

	return share_settle(ft->net, ft->opts.timeout_ms, group, s->layout, &s->cell, &s->cells);
}

static int freeze(struct seal *s)
{
	struct ftmem *ft = s->ft;
	uint64_t *data_bytes = malloc(sizeof(*data_bytes) * ft->net->size);
	int rc = layout_freeze(ft->regions, &s->layout);

	if (rc == 0 && !data_bytes)
		rc = error_set(FTMEM_ENOMEM, "no memory for the sizes of %" PRIu32 " ranks",
		               ft->net->size);
	rc = session_agree(ft, rc, "freezing the layout");
	if (rc == 0)
		rc = session_agree_sent(ft, share_out(s), 0, "dividing replicas into shares");
	if (rc < 0) {
		free(data_bytes);
		return rc;
	}
	rc = net_allgather(ft->net, &s->layout->data_bytes, sizeof(uint64_t), data_bytes,
	                   session_deadline(ft), "gathering sizes");
	if (rc == 0)
		rc = make_rails(s, data_bytes);
	free(data_bytes);
	rc = session_agree(ft, rc, "forming the groups");
	if (rc < 0)
		return rc;
	s->geometry = geometry_share(s);
	return net_allreduce(ft->net, &s->geometry, 1, NET_SUM, session_deadline(ft),
	                     "comparing layouts");
}

/* --- which epoch --- */

static bool holds(enum slot_state state)
{
	return state == SLOT_PREPARED || state == SLOT_COMMITTED;
}

/* Tries the own arena of the newest epoch. *veto: it cannot be joined with it. */
static int try_own(struct seal *s, uint64_t newest, bool *veto)
{
	struct ftmem *ft = s->ft;
	int fd = -1, rc = smp_attach(ft->keeper.smp, newest, ft->net->rank, true, &fd);

	if (rc < 0)
		return rc;
	if (arena_unwritten(fd)) {
		close(fd);
		s->unwritten = true;
		return smp_release(ft->keeper.smp, newest, ft->net->rank);
	}
	rc = arena_attach_held(fd, true, &s->arena);
	if (rc == FTMEM_ECORRUPT) {
		log_line(&ft->opts.log, FTMEM_LOG_WARN, "%s: counted as lost", error_msg());
		*veto = true;
		return 0;
	}
	if (rc < 0)
		return rc;
	*veto = *veto || s->arena->header->geometry != s->geometry;
	return 0;
}

static int examine(struct seal *s, const struct smp_entry *entry, uint32_t count, uint64_t newest,
                   bool *veto)
{
	struct ftmem *ft = s->ft;
	uint32_t here = ft->map->node_of_rank[ft->net->rank];
	bool own = false;

	for (uint32_t i = 0; i < count; i++) {
		if (entry[i].epoch != newest)
			continue;
		if (entry[i].rank >= ft->net->size || ft->map->node_of_rank[entry[i].rank] != here)
			*veto = true;
		own = own || entry[i].rank == ft->net->rank;
	}
	return own ? try_own(s, newest, veto) : 0;
}

static bool entry_holds(const struct smp_entry *e)
{
	return holds(e->slot[0].state) || holds(e->slot[1].state);
}

/* What this rank's SMP knows: the newest epoch, the largest incarnation, whether any
 * version is stored. */
static void summarize(const struct smp_entry *entry, uint32_t count, uint64_t *seen)
{
	for (uint32_t i = 0; i < count; i++) {
		if (entry[i].epoch > seen[0])
			seen[0] = entry[i].epoch;
		for (int j = 0; j < 2; j++)
			if (entry[i].slot[j].stamp.incarnation > seen[1])
				seen[1] = entry[i].slot[j].stamp.incarnation;
		seen[2] = seen[2] || entry_holds(&entry[i]);
	}
}

/* Frees an arena of this node if nothing is in it; a damaged one may have held something. */
static int drop_if_empty(struct ftmem *ft, const struct smp_entry *entry)
{
	struct arena *a = NULL;
	bool damaged = false, empty = true;
	int fd = -1, rc = smp_attach(ft->keeper.smp, entry->epoch, entry->rank, false, &fd);

	if (rc == 0 && arena_unwritten(fd)) {
		close(fd);
		return smp_drop(ft->keeper.smp, entry->epoch, entry->rank);
	}
	if (rc == 0)
		rc = arena_attach_held(fd, false, &a);
	if (rc < 0)
		return rc == FTMEM_ECORRUPT ? 0 : rc;
	for (int i = 0; i < 2; i++) {
		struct stamp stamp;

		empty = empty && !holds(slot_read(&a->slot[i], &stamp, &damaged)) && !damaged;
	}
	arena_free(a);
	return empty ? smp_drop(ft->keeper.smp, entry->epoch, entry->rank) : 0;
}

/* Gives back the own arena of an epoch that is not joined. If no arena of it holds
 * anything, they go altogether: starts that come to nothing must not pile up memory. */
static int leave(struct seal *s, const struct smp_entry *entry, uint32_t count, uint64_t newest,
                 bool empty)
{
	struct ftmem *ft = s->ft;
	bool current = ft->epoch && ft->epoch->number == newest;
	int rc = 0;

	if (s->arena && !current)
		rc = smp_release(ft->keeper.smp, newest, ft->net->rank);
	arena_free(s->arena);
	s->arena = NULL;
	rc = session_agree(ft, rc, "leaving the former arena");
	for (uint32_t i = 0; rc == 0 && empty && !current && i < count; i++)
		if (entry[i].epoch == newest && ft->map->local_index[ft->net->rank] == 0)
			rc = drop_if_empty(ft, &entry[i]);
	return session_agree(ft, rc, "leaving the former arena");
}

static int choose_epoch(struct seal *s)
{
	struct ftmem *ft = s->ft;
	struct smp_entry *entry = NULL;
	uint32_t count = 0;
	uint64_t seen[5] = {0, 0, 0, clock_wall_ns(), session_chance(ft)};
	uint64_t words[3] = {0}; /* veto, newest holds, an arena of it is there */
	bool veto = false;
	int rc = smp_list(ft->keeper.smp, &entry, &count);

	if (rc == 0)
		summarize(entry, count, seen);
	rc = session_agree(ft, rc, "listing what is stored");
	if (rc == 0)
		rc = net_allreduce(ft->net, seen, 5, NET_MAX, session_deadline(ft),
		                   "finding the epoch");
	if (rc == 0)
		rc = session_agree(ft, examine(s, entry, count, seen[0], &veto),
		                   "attaching to the arena");
	words[0] = veto || s->anew || seen[0] == 0;
	words[2] = s->arena != NULL;
	for (uint32_t i = 0; rc == 0 && i < count; i++)
		words[1] = words[1] || (entry[i].epoch == seen[0] && entry_holds(&entry[i]));
	if (rc == 0)
		rc = net_allreduce(ft->net, words, 3, NET_MAX, session_deadline(ft),
		                   "finding the epoch");
	if (rc == 0) {
		s->join = !words[0] && words[2];
		s->epoch = s->join ? seen[0] : recover_next(seen[0], seen[3], seen[4]);
		s->stored = seen[2];
		if (ft->incarnation == 0)
			ft->incarnation = recover_next(seen[1], seen[3], seen[4]);
	}
	if (rc == 0 && !s->join)
		rc = leave(s, entry, count, seen[0], !words[1]);
	free(entry);
	return rc;
}

/* --- memory --- */

static int take_arena(struct seal *s, const struct arena_spec *spec, uint64_t bytes)
{
	struct ftmem *ft = s->ft;
	int fd = -1, rc = 0;

	if (s->unwritten && s->join)
		rc = smp_drop(ft->keeper.smp, s->epoch, ft->net->rank);
	if (rc == 0)
		rc = smp_create(ft->keeper.smp, s->epoch, ft->net->rank, bytes, &fd);
	if (rc < 0)
		return rc;
	s->created = true;
	return arena_create(fd, spec, &s->arena);
}

static bool on_device(const struct layout *l)
{
	for (uint32_t i = 0; i < l->regions; i++)
		if (l->region[i].device != DEVICE_HOST)
			return true;
	return false;
}

static int settle_memory(struct seal *s)
{
	struct ftmem *ft = s->ft;
	struct arena_spec spec = {
		.job = ft->opts.job,
		.node = ft->opts.node,
		.epoch = s->epoch,
		.geometry = s->geometry,
		.layout = s->layout->digest,
		.rank = ft->net->rank,
		.map = ft->map,
		.rails = s->rails,
		.rails_count = s->rails_count,
		.late = s->join && s->stored,
	};
	uint64_t bytes = 0, most[2]; /* to touch, to pin */
	int rc = s->arena ? 0 : arena_bytes(&spec, &bytes);

	rc = session_agree(ft, rc, "sizing the arenas");
	if (rc == 0)
		rc = room_check(ft, bytes, "the arenas");
	most[0] = s->arena ? s->arena->bytes : bytes;
	most[1] = on_device(s->layout) ? most[0] : 0;
	if (rc == 0)
		rc = net_allreduce(ft->net, most, 2, NET_MAX, session_deadline(ft),
		                   "sizing the arenas");
	if (rc < 0)
		return rc;
	s->pinned = most[1];
	if (!s->arena)
		rc = take_arena(s, &spec, bytes);
	if (rc == 0)
		rc = topo_place(ft->topo, s->arena->base, s->arena->bytes);
	if (rc == 0)
		rc = room_touch(ft, s->arena->base, s->arena->bytes);
	return session_agree_late(ft, rc, most[0], "taking memory for the arenas");
}

/* --- the new epoch takes over --- */

static bool epoch_holds(const struct epoch *e)
{
	for (int i = 0; i < 2; i++) {
		struct stamp stamp;
		bool damaged;

		if (holds(slot_read(&e->arena->slot[i], &stamp, &damaged)))
			return true;
	}
	return false;
}

static void set_former_aside(struct ftmem *ft, const struct epoch *next)
{
	struct epoch *e = ft->epoch;

	if (!e)
		return;
	if (e->number != next->number && epoch_holds(e) && !ft->former) {
		ft->former = e;
		return;
	}
	keeper_let_go(&ft->keeper, e->arena);
	if (e->number != next->number &&
	    smp_drop(ft->keeper.smp, e->number, ft->net->rank) < 0)
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "%s: its memory stays until the next commit", error_msg());
	epoch_free(e, ft->net->lingering);
}

/* At the first seal of a start, what an earlier one stored goes first. */
static bool must_restore(const struct seal *s)
{
	return s->ft->epoch ? s->ft->must_restore : s->stored;
}

static void enter(struct seal *s, struct epoch *e)
{
	struct ftmem *ft = s->ft;
	struct commit_slot slots[2] = {0};
	bool damaged;

	ft->must_restore = must_restore(s);
	set_former_aside(ft, e);
	ft->epoch = e;
	pthread_mutex_lock(&ft->lock);
	ft->figures.data_bytes = e->layout->data_bytes;
	ft->figures.region_bytes = e->layout->region_bytes;
	ft->figures.held_bytes = e->arena->bytes;
	ft->figures.staging_bytes = epoch_staging_bytes(e);
	ft->figures.window = e->window;
	pthread_mutex_unlock(&ft->lock);
	ft->regions_changed = false;
	keeper_hold(&ft->keeper, e->arena);
	for (int i = 0; !ft->must_restore && i < 2; i++)
		slots[i].state = slot_read(&e->arena->slot[i], &slots[i].stamp, &damaged);
	session_enter(ft, slots, ft->incarnation);
}

static void seal_deinit(struct seal *s)
{
	if (s->created && smp_drop(s->ft->keeper.smp, s->epoch, s->ft->net->rank) < 0)
		log_line(&s->ft->opts.log, FTMEM_LOG_WARN, "%s", error_msg());
	arena_free(s->arena);
	layout_free(s->layout);
	free(s->cell);
	free(s->rails);
}

static int seal(struct seal *s)
{
	struct ftmem *ft = s->ft;
	struct epoch_config config = {
		.net = ft->net,
		.copy_ops = ft->copy_ops,
		.copy = ft->copy,
		.window = ft->opts.window,
		.l2_bytes = topo_l2_bytes(ft->topo),
		.max_bandwidth = ft->opts.max_bandwidth,
		.compare = ft->opts.compare_every > 0,
		.log = &ft->opts.log,
	};
	struct epoch_parts parts;
	struct epoch *e = NULL;
	int rc = session_agree(ft, keeper_ensure(&ft->keeper), "reaching the SMP");

	if (rc == 0 && ft->block_chosen && ft->incarnation == 0)
		rc = settle_block_bytes(ft);
	if (rc == 0)
		rc = freeze(s);
	if (rc == 0)
		rc = choose_epoch(s);
	if (rc == 0)
		rc = settle_memory(s);
	if (rc < 0)
		return rc;
	parts = (struct epoch_parts){s->layout, s->cell, s->cells, s->arena};
	s->layout = NULL;
	s->cell = NULL;
	s->arena = NULL;
	rc = epoch_new(&config, &parts, &e);
	/* As all do, before one of them can store anything. */
	if (rc == 0 && !must_restore(s))
		arena_enter(e->arena, ft->incarnation);
	rc = session_agree_late(ft, rc, s->pinned, "preparing copies and the exchange");
	if (rc < 0) {
		epoch_free(e, ft->net->lingering);
		return rc;
	}
	if (config.window == 0)
		log_line(&ft->opts.log, FTMEM_LOG_DEBUG,
		         "%" PRIu32 " block rows in flight: chosen from %" PRIu64
		         " KiB of second-level cache",
		         e->window, config.l2_bytes >> 10);
	s->created = false;
	enter(s, e);
	return 0;
}

int session_seal_anew(struct ftmem *ft)
{
	struct seal s = {.ft = ft, .anew = true};
	int rc = seal(&s);

	seal_deinit(&s);
	return rc;
}

int session_seal(struct ftmem *ft)
{
	struct seal s = {.ft = ft};
	int rc = session_pause(ft);
	bool first = ft->incarnation == 0;

	if (rc < 0)
		return rc;
	rc = seal(&s);
	seal_deinit(&s);
	if (rc < 0 && first)
		ft->incarnation = 0;
	return session_resume(ft, rc);
}
