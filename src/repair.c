/* SPDX-License-Identifier: BSD-3-Clause */
#include "repair.h"

#include <inttypes.h>
#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "rescue.h"

struct repair {
	struct ftmem *ft;
	uint64_t newest;          /* the version that was committed last */
	struct gather *g;
	struct recover_choice choice;
	struct rescue *r;
	struct rebuild_report rebuilt;
	uint64_t mended;          /* by this rank */
};

/* --- what is to be mended --- */

/* The newest version that any rank knows of as committed: in the sealed epoch, or EINVAL. */
static int find_newest(struct repair *p)
{
	struct ftmem *ft = p->ft;
	struct progress_stats stats;
	uint64_t words[3]; /* something is stored, the version, an older epoch is there */
	int rc;

	progress_read(ft->progress, &stats);
	words[0] = stats.stored;
	words[1] = stats.stored ? stats.newest : 0;
	words[2] = ft->former != NULL;
	rc = net_allreduce(ft->net, words, 3, NET_MAX, session_deadline(ft), "repairing");
	if (rc < 0)
		return rc;
	if (words[0] == 0)
		return FTMEM_FRESH;
	p->newest = words[1];
	if (words[2] == 0)
		return 0;
	return error_set(FTMEM_EINVAL,
	                 "ftmem_repair: version %" PRIu64
	                 " is of an earlier layout: the next version that commits takes its "
	                 "place",
	                 p->newest);
}

/* After a repair that was refused the session counts on the version before. As long as one slot
 * says that there was a newer one it is refused again. */
static void look_for_newer(struct repair *p)
{
	for (uint32_t i = 0; i < p->g->arenas; i++) {
		const struct recover_arena *a = &p->g->arena[i];

		for (int j = 0; a->epoch == p->ft->epoch->number && j < 2; j++)
			if (a->slot[j].state == SLOT_COMMITTED &&
			    a->slot[j].stamp.version > p->newest)
				p->newest = a->slot[j].stamp.version;
	}
}

/* Whether a slot of the rank holds the newest version and can be read. */
static bool holds_newest(const struct repair *p, uint32_t rank)
{
	for (uint32_t i = 0; i < p->g->arenas; i++) {
		const struct recover_arena *a = &p->g->arena[i];

		if (a->epoch != p->ft->epoch->number || a->rank != rank)
			continue;
		for (int j = 0; j < 2; j++)
			if (a->slot[j].state == SLOT_COMMITTED &&
			    a->slot[j].stamp.version == p->newest)
				return true;
	}
	return false;
}

static void list_unreadable(const struct repair *p, char *text, size_t bytes)
{
	const struct map *map = p->ft->map;

	text[0] = '\0';
	for (uint32_t rank = 0; rank < map->ranks; rank++)
		if (!holds_newest(p, rank))
			rescue_list_rank(map, rank, text, bytes);
}

static int beyond(const struct repair *p, const char *ranks)
{
	return error_set(FTMEM_ECORRUPT,
	                 "version %" PRIu64 " is damaged beyond what parity covers, on ranks %s; "
	                 "it stays as it is, and the next version that commits takes its place",
	                 p->newest, ranks);
}

/*
 * The version that comes next goes over the damaged one, not over an older one that is whole:
 * that is what is left until it commits.
 */
static int spare_older(struct repair *p, const struct recover_choice *below)
{
	struct ftmem *ft = p->ft;
	struct recover_choice older = {0};
	struct recover_source *source;
	struct commit_slot slots[2];
	struct rescue *r = NULL;
	bool possible = false, damaged;
	uint32_t index = 0;
	int rc = gather_choose(p->g, below, &older, &index, &source);

	if (rc == FTMEM_FRESH || rc == FTMEM_ELOST || rc == FTMEM_ECORRUPT)
		return 0;
	if (rc == 0)
		rc = rescue_new(ft, p->g, &older, index, source, &r);
	if (rc == 0)
		rc = rescue_verify(r, &possible);
	possible = possible && rc == 0 && r->in_place;
	rescue_free(r);
	for (int i = 0; possible && i < 2; i++) {
		slots[i].state = slot_read(&ft->epoch->arena->slot[i], &slots[i].stamp, &damaged);
		if (stamp_cmp(slots[i].stamp, older.stamp) != 0)
			slots[i] = (struct commit_slot){SLOT_EMPTY, {0, 0}};
	}
	if (possible)
		session_enter(ft, slots, ft->incarnation);
	return rc;
}

/* The newest version, if k good blocks are left of all its stripes. ECORRUPT if not. */
static int find(struct repair *p)
{
	struct ftmem *ft = p->ft;
	struct recover_source *source;
	const struct recover_choice *below = NULL;
	bool possible = false;
	char ranks[512];
	uint32_t index = 0;
	int rc = gather_choose(p->g, NULL, &p->choice, &index, &source), spare_rc;

	look_for_newer(p);
	if (rc == 0 && (p->choice.epoch != ft->epoch->number ||
	                p->choice.stamp.version < p->newest)) {
		free(source);
		rc = FTMEM_ECORRUPT;
	} else if (rc == 0) {
		below = &p->choice;
		rc = rescue_new(ft, p->g, &p->choice, index, source, &p->r);
		if (rc == 0)
			rc = rescue_verify(p->r, &possible);
		if (rc < 0 || possible)
			return rc;
		rc = FTMEM_ECORRUPT;
	}
	if (rc != FTMEM_FRESH && rc != FTMEM_ELOST && rc != FTMEM_ECORRUPT)
		return rc;
	if (p->r)
		rescue_list_damaged(p->r, ranks, sizeof(ranks));
	else
		list_unreadable(p, ranks, sizeof(ranks));
	spare_rc = spare_older(p, below);
	return spare_rc < 0 ? spare_rc : beyond(p, ranks);
}

/* --- mending --- */

static uint64_t slot_blocks(const struct slot_shape *shape)
{
	uint64_t blocks = rail_data_blocks(&shape->rail[0], shape->member[0]);

	for (uint32_t i = 0; i < shape->rails; i++)
		blocks += (uint64_t)shape->rail[i].m * rail_rows(&shape->rail[i]);
	return blocks;
}

static int rebuild(struct repair *p)
{
	uint64_t begin = clock_ns(), entered = arena_entered(p->ft->epoch->arena);
	const struct rescue_member *m;
	int rc = rescue_prepare(p->r, false);

	if (rc == 0)
		rc = rescue_rebuild(p->r, NULL, &p->rebuilt);
	if (rc == 0)
		rc = rescue_hold(p->r);
	if (rc < 0)
		return rc;
	/* Nothing is committed in an arena that entered no run. Which it was another arena told
	 * just now, or none: then it is the run that goes on. */
	p->mended += entered == 0 || entered == UINT64_MAX;
	if (arena_entered(p->ft->epoch->arena) == 0)
		arena_enter(p->ft->epoch->arena, p->ft->incarnation);
	m = rescue_find(p->r, p->ft->net->rank);
	p->mended += p->rebuilt.repaired_blocks;
	if (m->lost)
		p->mended += slot_blocks(m->slot->shape);
	if (p->rebuilt.data_bytes + p->rebuilt.parity_bytes > 0)
		log_line(&p->ft->opts.log, FTMEM_LOG_INFO,
		         "rank %" PRIu32 " on %s: rebuilt %" PRIu64 " bytes of data and %" PRIu64
		         " of parity of version %" PRIu64 " in %.3f s%s",
		         p->ft->net->rank, p->ft->opts.node, p->rebuilt.data_bytes,
		         p->rebuilt.parity_bytes, p->choice.stamp.version,
		         (double)(clock_ns() - begin) * 1e-9,
		         m->lost ? ": its slot could not be read" : "");
	return 0;
}

/* What the slot beside the version's holds: an older version, if that is good. */
static struct commit_slot look_beside(struct repair *p)
{
	struct arena *a = p->ft->epoch->arena;
	const struct slot *own = rescue_find(p->r, p->ft->net->rank)->slot;
	const struct slot *s = own == &a->slot[0] ? &a->slot[1] : &a->slot[0];
	struct commit_slot slot;
	bool damaged;

	slot.state = slot_read(s, &slot.stamp, &damaged);
	damaged = damaged || slot.state == SLOT_PREPARED ||
	          (slot.state == SLOT_COMMITTED && slot_verify(s, NULL, NULL) > 0);
	if (slot.state == SLOT_COMMITTED && !damaged &&
	    stamp_cmp(slot.stamp, p->choice.stamp) < 0)
		return slot;
	if (damaged) {
		p->mended++;
		log_line(&p->ft->opts.log, FTMEM_LOG_WARN,
		         "rank %" PRIu32 " on %s: what it held beside version %" PRIu64
		         " is damaged, and was emptied",
		         p->ft->net->rank, p->ft->opts.node, p->choice.stamp.version);
	}
	return (struct commit_slot){SLOT_EMPTY, {0, 0}};
}

static int repair(struct repair *p)
{
	struct ftmem *ft = p->ft;
	struct commit_slot beside;
	int rc = find_newest(p);

	if (rc == 0)
		rc = gather_new(ft, &p->g);
	if (rc == 0)
		rc = find(p);
	if (rc == 0)
		rc = rebuild(p);
	if (rc != 0)
		return rc;
	beside = look_beside(p);
	/* Who has no older version does not look through it. */
	rc = session_agree_late(ft, 0, p->r->busiest, "verifying the older version");
	if (rc == 0)
		rescue_commit(p->r, beside);
	return rc;
}

/* --- the whole --- */

static void note(struct repair *p, uint64_t blocks)
{
	struct ftmem *ft = p->ft;

	pthread_mutex_lock(&ft->lock);
	ft->figures.repaired_blocks += p->mended;
	pthread_mutex_unlock(&ft->lock);
	if (ft->net->rank == 0)
		log_line(&ft->opts.log, blocks > 0 ? FTMEM_LOG_WARN : FTMEM_LOG_INFO,
		         "version %" PRIu64 " was verified on all ranks: %" PRIu64
		         " blocks mended, redundancy is whole",
		         p->choice.stamp.version, blocks);
}

int session_repair(struct ftmem *ft, uint64_t *blocks)
{
	struct repair p = {.ft = ft};
	uint64_t sum;
	int rc = session_pause(ft);

	if (rc < 0)
		return rc;
	/* An SMP takes no memory over whose header it cannot read. */
	p.mended = arena_mend(ft->epoch->arena);
	if (p.mended > 0)
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "rank %" PRIu32 " on %s: header, map or rails of its memory were damaged "
		         "and are mended",
		         ft->net->rank, ft->opts.node);
	rc = session_agree(ft, keeper_ensure(&ft->keeper), "reaching the SMP");
	if (rc == 0)
		rc = repair(&p);
	rescue_free(p.r);
	gather_free(p.g);
	sum = p.mended;
	if (rc == 0)
		rc = net_allreduce(ft->net, &sum, 1, NET_SUM, session_deadline(ft), "repairing");
	if (rc == 0)
		note(&p, sum);
	if (rc == 0)
		session_scrub_again(ft);
	if (rc == 0 && blocks)
		*blocks = sum;
	return session_resume(ft, rc);
}
