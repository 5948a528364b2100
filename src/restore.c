/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ftmem_restore(): gather, choose, verify, rebuild, fill the regions, make whole.
 *
 * In place, the version belongs to the epoch that is sealed: lost slots are rebuilt
 * in it with their parity, and the version is committed again. Otherwise (other ranks,
 * nodes, groups or regions) a snapshot of the regions is committed under the same
 * version in the new epoch. Until that commit nothing is erased, so a failure on the way
 * leaves what was there. In both cases the regions are filled from wherever their parts
 * are stored (move.h).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "move.h"

/* --- what is told to the user --- */

static void list_ranks(const struct rescue *r, bool lost, char *text, size_t bytes)
{
	size_t used = 0;

	text[0] = '\0';
	for (uint32_t i = 0; i < r->ranks && used + 64 < bytes; i++) {
		if (r->lost[i] != lost)
			continue;
		used += (size_t)snprintf(text + used, bytes - used, "%s%" PRIu32 " (%s)",
		                         used ? ", " : "", i,
		                         r->epoch->map->node[r->epoch->map->node_of_rank[i]].name);
	}
}

/* A newer version was committed, but too much of it is missing. */
static void warn_newer(const struct rescue *r)
{
	struct stamp newest = r->choice.stamp;

	for (uint32_t i = 0; i < r->gather->arenas; i++)
		for (int j = 0; j < 2; j++) {
			const struct commit_slot *s = &r->gather->arena[i].slot[j];

			if (s->state == SLOT_COMMITTED && stamp_cmp(s->stamp, newest) > 0)
				newest = s->stamp;
		}
	if (stamp_cmp(newest, r->choice.stamp) > 0)
		log_line(&r->ft->opts.log, FTMEM_LOG_WARN,
		         "version %" PRIu64 " was committed, but too much "
		         "of it is missing or damaged: going back to version %" PRIu64,
		         newest.version, r->choice.stamp.version);
}

static void report_found(const struct rescue *r)
{
	char lost[512];
	uint32_t count = 0;

	for (uint32_t i = 0; i < r->ranks; i++)
		count += r->lost[i];
	if (r->ft->net->rank != 0)
		return;
	list_ranks(r, true, lost, sizeof(lost));
	warn_newer(r);
	log_line(&r->ft->opts.log, FTMEM_LOG_INFO,
	         "version %" PRIu64 " found, held by %" PRIu32 " of %" PRIu32 " ranks%s%s",
	         r->choice.stamp.version, r->ranks - count, r->ranks, count ? "; lost: rank " : "",
	         lost);
}

/* Whose blocks a lost rank was rebuilt from: the live members of its rail. */
static void report_rebuilt(const struct rescue *r, const struct rebuild_report *report, double s)
{
	const struct arena *a = r->ft->epoch->arena;
	const struct map *map = r->ft->map;
	char from[512];
	size_t used = 0;

	if (report->data_bytes + report->parity_bytes == 0)
		return;
	from[0] = '\0';
	for (uint32_t i = 0; r->in_place && i < a->rails[0].n && used + 80 < sizeof(from); i++) {
		uint32_t rank = a->rails[0].rank[i];

		if (!r->lost[rank])
			used += (size_t)snprintf(from + used, sizeof(from) - used,
			                         "%s%" PRIu32 " (%s)", used ? ", " : " from ranks ",
			                         rank, map->node[map->node_of_rank[rank]].name);
	}
	log_line(&r->ft->opts.log, FTMEM_LOG_INFO,
	         "rank %" PRIu32 " on %s: rebuilt %.1f MiB of %sdata and "
	         "%.1f MiB of parity%s in %.3f s",
	         r->ft->net->rank, r->ft->opts.node, (double)report->data_bytes / 1048576.0,
	         r->in_place ? "" : "former ranks' ", (double)report->parity_bytes / 1048576.0,
	         from, s);
}

static int report_lost(const struct gather *g, uint32_t epoch_index,
                       const struct recover_choice *choice, const struct recover_source *source)
{
	char text[768];

	recover_explain(&g->epoch[epoch_index], choice, source, text, sizeof(text));
	return error_set(FTMEM_ELOST,
	                 "%s; nothing was erased: start the job again when those nodes are "
	                 "back",
	                 text);
}

/* --- choosing --- */

/* The newest version that is whole, or can be made so. FRESH, ELOST, ECORRUPT. */
static int choose(struct ftmem *ft, const struct gather *g, struct rescue **out)
{
	struct recover_input in = gather_input(g);
	struct recover_choice choice = {0}, limit;
	const struct recover_choice *below = NULL;
	uint32_t max = gather_max_ranks(g), index = 0;

	*out = NULL;
	for (;;) {
		struct recover_source *source = calloc(max ? max : 1, sizeof(*source));
		bool possible = false;
		int rc = source ? 0
		                : error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " ranks", max);

		rc = session_agree(ft, rc, "choosing a version");
		if (rc == 0)
			rc = recover_choose(&in, below, &choice, &index, source);
		if (rc == FTMEM_ELOST)
			rc = report_lost(g, index, &choice, source);
		if (rc == FTMEM_FRESH && below)
			rc = error_set(
				FTMEM_ECORRUPT,
				"version %" PRIu64 " is damaged beyond what parity "
				"covers, and there is no older one: ftmem_forget() begins anew",
				choice.stamp.version);
		else if (rc == FTMEM_FRESH && g->damaged > 0)
			rc = error_set(FTMEM_ECORRUPT,
			               "%" PRIu64 " arenas or slots of the job are damaged, and "
			               "no version is left: ftmem_forget() begins anew",
			               g->damaged);
		if (rc != 0) {
			free(source);
			return rc;
		}
		rc = rescue_new(ft, g, &choice, index, source, out);
		if (rc == 0)
			rc = rescue_verify(*out, &possible);
		if (rc == 0 && possible)
			return 0;
		rescue_free(*out);
		*out = NULL;
		if (rc < 0)
			return rc;
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "version %" PRIu64 " is damaged beyond what parity "
		         "covers: trying an older one",
		         choice.stamp.version);
		limit = choice;
		below = &limit;
	}
}

/* --- in place --- */

/* All are prepared: the version is committed on the new membership, the rest goes. */
static void commit_again(struct rescue *r)
{
	struct ftmem *ft = r->ft;
	struct arena *a = ft->epoch->arena;
	struct slot *slot = rescue_find(r, ft->net->rank)->slot;
	struct commit_slot slots[2] = {0};
	int at = slot == &a->slot[0] ? 0 : 1;

	slot_set_committed(slot);
	slot_set_empty(&a->slot[1 - at]);
	slots[at] = (struct commit_slot){SLOT_COMMITTED, r->choice.stamp};
	session_enter(ft, slots, ft->incarnation);
	if (session_retire_former(ft) < 0)
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "%s: memory of earlier epochs stays until the next "
		         "commit",
		         error_msg());
}

static int finish_in_place(struct rescue *r, struct move_report *moved)
{
	struct rescue_member *m = rescue_find(r, r->ft->net->rank);
	int rc;

	if (m->lost)
		slot_set_prepared(m->slot, r->choice.stamp);
	rc = move_restore(r, moved);
	if (rc == 0)
		commit_again(r);
	return rc;
}

/* --- from a former epoch --- */

/*
 * The version keeps its stamp: until it is committed in the new epoch it must not
 * outrank what is out of reach now.
 */
static int protect_again(struct rescue *r)
{
	struct ftmem *ft = r->ft;
	uint64_t version = r->choice.stamp.version, deadline, most = ft->epoch->arena->bytes;
	uint64_t ceiling = ft->epoch->limiter.rate;
	struct commit_slot slots[2] = {0};
	bool damaged;
	int rc =
		net_allreduce(ft->net, &most, 1, NET_MAX, session_deadline(ft), "protecting again");

	if (rc < 0)
		return rc;
	session_enter(ft, slots, r->choice.stamp.incarnation);
	progress_note_forgotten(ft->progress);
	rc = session_agree(ft, progress_start(ft->progress), "starting to protect");
	if (rc < 0)
		return rc;
	/* No training runs that the ceiling would spare. */
	ft->epoch->limiter.rate = 0;
	rc = progress_snapshot(ft->progress, version, NULL);
	/* Room for 100 MB/s beyond the deadline for a peer's answer. */
	deadline = session_deadline(ft) + most * 10;
	if (rc >= 0)
		rc = progress_wait(ft->progress, version, deadline);
	if (rc == FTMEM_DROPPED)
		rc = error_set(FTMEM_ENET,
		               "version %" PRIu64 " was restored, but could not be protected "
		               "again: call ftmem_restore() once more",
		               version);
	if (progress_stop(ft->progress, deadline) < 0) {
		session_give_up(ft, "a restored version could not be protected again in time");
		rc = rc < 0 ? rc : FTMEM_ETIMEOUT;
	}
	ft->epoch->limiter.rate = ceiling;
	rc = session_agree(ft, rc, "protecting the version again");
	/* Snapshots with the old stamps must not follow. */
	ft->must_restore = rc < 0;
	for (int i = 0; rc == 0 && i < 2; i++)
		slots[i].state = slot_read(&ft->epoch->arena->slot[i], &slots[i].stamp, &damaged);
	if (rc == 0)
		session_enter(ft, slots, ft->incarnation);
	return rc;
}

/* --- the whole --- */

static int restore(struct ftmem *ft, struct rescue *r, uint64_t *version)
{
	struct rebuild_report report = {0};
	struct move_report moved = {0};
	uint64_t begin;
	int rc;

	report_found(r);
	begin = clock_ns();
	rc = rescue_rebuild(r, &report);
	if (rc == 0)
		report_rebuilt(r, &report, (double)(clock_ns() - begin) * 1e-9);
	if (rc == 0 && r->in_place) {
		rc = finish_in_place(r, &moved);
	} else if (rc == 0) {
		rc = move_restore(r, &moved);
		if (rc == 0)
			rc = protect_again(r);
	}
	if (rc == 0) {
		uint32_t lost = 0;

		*version = r->choice.stamp.version;
		for (uint32_t i = 0; r->in_place && i < ft->epoch->arena->rails[0].n; i++)
			lost += r->lost[ft->epoch->arena->rails[0].rank[i]];
		pthread_mutex_lock(&ft->lock);
		ft->figures.rebuild_s = (double)(clock_ns() - begin) * 1e-9;
		ft->figures.repaired_blocks += report.repaired_blocks;
		ft->figures.lost_members = lost;
		ft->figures.moved_bytes = moved.moved_bytes;
		ft->figures.move_s = moved.seconds;
		pthread_mutex_unlock(&ft->lock);
	}
	return rc;
}

/* Whether the sealed epoch holds what an older one would be restored over: a version
 * that cannot be rebuilt now, but perhaps when missing nodes are back. */
static bool would_overwrite(const struct rescue *r)
{
	const struct gather *g = r->gather;
	bool holds = false;

	for (uint32_t i = 0; !r->in_place && i < g->arenas; i++)
		for (int j = 0; g->arena[i].epoch == r->ft->epoch->number && j < 2; j++)
			holds = holds || g->arena[i].slot[j].state == SLOT_PREPARED ||
			        g->arena[i].slot[j].state == SLOT_COMMITTED;
	return holds;
}

/* A new run begins: versions may come again, with other content. */
static int new_incarnation(struct ftmem *ft, const struct gather *g)
{
	struct recover_input in = gather_input(g);
	uint64_t next = recover_incarnation(&in, clock_wall_ns());
	int rc;

	if (next <= ft->incarnation)
		next = ft->incarnation + 1;
	rc = net_allreduce(ft->net, &next, 1, NET_MAX, session_deadline(ft), "restoring");
	if (rc == 0)
		ft->incarnation = next;
	return rc;
}

/* Gathers and chooses; *g and *r are the caller's to free, also on error. */
static int find(struct ftmem *ft, struct gather **g, struct rescue **r)
{
	int rc = gather_new(ft, g);

	if (rc == 0)
		rc = new_incarnation(ft, *g);
	if (rc == 0)
		rc = choose(ft, *g, r);
	if (rc != 0 || !would_overwrite(*r))
		return rc;
	rescue_free(*r);
	gather_free(*g);
	*r = NULL;
	*g = NULL;
	rc = session_seal_anew(ft);
	if (rc == 0)
		rc = gather_new(ft, g);
	return rc < 0 ? rc : choose(ft, *g, r);
}

static void report_whole(const struct ftmem *ft, uint64_t version, double seconds)
{
	if (ft->net->rank == 0 && ft->map->parity > 0)
		log_line(&ft->opts.log, FTMEM_LOG_INFO,
		         "version %" PRIu64 " is committed on %" PRIu32
		         " nodes, redundancy is whole (%.3f s)",
		         version, ft->map->nodes, seconds);
	else if (ft->net->rank == 0)
		log_line(&ft->opts.log, FTMEM_LOG_INFO,
		         "version %" PRIu64 " is committed on one node, without parity (%.3f s)",
		         version, seconds);
}

int session_restore(struct ftmem *ft, uint64_t *version)
{
	const struct commit_slot empty[2] = {0};
	uint64_t begin = clock_ns();
	struct gather *g = NULL;
	struct rescue *r = NULL;
	int rc = session_pause(ft);

	if (rc < 0)
		return rc;
	rc = session_agree(ft, keeper_ensure(&ft->keeper), "reaching the SMP");
	if (rc == 0)
		rc = find(ft, &g, &r);
	if (rc == 0)
		rc = restore(ft, r, version);
	rescue_free(r);
	gather_free(g);
	if (rc == 0) {
		double seconds = (double)(clock_ns() - begin) * 1e-9;

		progress_note_restored(ft->progress, *version);
		pthread_mutex_lock(&ft->lock);
		ft->figures.restore_s = seconds;
		pthread_mutex_unlock(&ft->lock);
		report_whole(ft, *version, seconds);
	}
	if (rc == FTMEM_FRESH) {
		/* Remains of a first snapshot that never was committed. */
		slot_set_empty(&ft->epoch->arena->slot[0]);
		slot_set_empty(&ft->epoch->arena->slot[1]);
		session_enter(ft, empty, ft->incarnation);
	}
	if (rc >= 0)
		ft->must_restore = false;
	return session_resume(ft, rc);
}
