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
 *
 * In place, without shares and without another epoch all that is tried in one pass at first
 * (refill.h). If it meets damage, the steps are taken one after the other, as in all other
 * cases.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "restore_impl.h"
#include "thread.h"

struct restoring {
	struct ftmem *ft;
	struct gather *g;
	struct rescue *r;
	uint64_t begin;              /* when rebuilding began */
	struct rebuild_report rebuilt;
	struct move_report moved;
	bool tried, whole;           /* in one pass: then only the commit is left */
	bool given_up;               /* the newest version, for its damage */
};

/* --- choosing --- */

static int try_refill(struct restoring *s)
{
	struct refill_report report;
	bool fits = false;
	int rc = refill_fits(s->r, &fits);

	if (rc < 0 || !fits)
		return rc;
	s->begin = clock_ns();
	s->tried = true;
	rc = refill_run(s->r, &report, &s->whole);
	if (rc == 0 && s->whole) {
		s->rebuilt = report.rebuilt;
		s->moved.seconds = report.seconds;
	}
	return rc;
}

/* A node that was away may bring back what another has rebuilt meanwhile: where one of the two
 * arenas is damaged the other is tried. */
static bool try_others(struct restoring *s)
{
	const struct rescue *r = s->r;
	bool any = false;

	for (uint32_t i = 0; i < r->ranks; i++)
		if (rescue_is_damaged(r, i))
			any = gather_pass_over(s->g, &r->choice, i, &r->source[i]) || any;
	return any;
}

/* The newest version that is whole, or can be made so. FRESH, ELOST, ECORRUPT. */
static int choose(struct restoring *s)
{
	struct ftmem *ft = s->ft;
	struct recover_choice choice = {0}, limit;
	const struct recover_choice *below = NULL;
	uint32_t index = 0;

	for (;;) {
		struct recover_source *source;
		bool possible = false, others;
		char who[512] = "";
		int rc = gather_choose(s->g, below, &choice, &index, &source);

		if (rc != 0)
			return rc;
		rc = rescue_new(ft, s->g, &choice, index, source, &s->r);
		if (rc == 0 && !below)
			rc = try_refill(s);
		if (rc == 0 && !s->whole)
			rc = rescue_verify(s->r, &possible);
		if (rc == 0 && (s->whole || possible))
			return 0;
		if (rc == 0)
			rescue_list_damaged(s->r, who, sizeof(who));
		others = rc == 0 && try_others(s);
		rescue_free(s->r);
		s->r = NULL;
		if (rc < 0)
			return rc;
		if (others)
			continue;
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "version %" PRIu64 " is damaged beyond what parity "
		         "covers, lost or damaged on ranks %s: trying an older one",
		         choice.stamp.version, who);
		s->given_up = true;
		limit = choice;
		below = &limit;
	}
}

/* --- in place --- */

/* All hold it: what else they hold goes. Who is not there now must not pass later for one that
 * saw nothing of it; so all note that they were, before it counts as committed. */
static int commit_alone(struct rescue *r)
{
	int rc;

	arena_enter(r->ft->epoch->arena, r->ft->incarnation);
	rc = session_agree(r->ft, 0, "beginning the run");
	if (rc == 0)
		rescue_commit(r, (struct commit_slot){SLOT_EMPTY, {0, 0}});
	return rc;
}

static int finish_in_place(struct restoring *s)
{
	int rc = rescue_hold(s->r);

	if (rc == 0)
		rc = move_restore(s->r, &s->moved);
	return rc == 0 ? commit_alone(s->r) : rc;
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
	arena_enter(ft->epoch->arena, ft->incarnation);
	session_enter(ft, slots, r->choice.stamp.incarnation);
	progress_note_forgotten(ft->progress);
	rc = session_agree(ft, progress_start(ft->progress), "starting to protect");
	if (rc < 0)
		return rc;
	/* No training runs that the ceiling would spare. */
	ft->epoch->limiter.rate = 0;
	rc = progress_snapshot(ft->progress, version, COPY_AT_REST);
	/* Room for 100 MB/s beyond the deadline for a peer's answer. */
	deadline = session_deadline(ft) + most * 10;
	if (rc >= 0)
		rc = progress_wait(ft->progress, version, deadline);
	if (rc == FTMEM_DROPPED)
		rc = error_set(FTMEM_ENET,
		               "version %" PRIu64 " was restored, but could not be protected "
		               "again: call ftmem_restore() once more: %s",
		               version, error_msg());
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

/* From what was verified. */
static int step_by_step(struct restoring *s)
{
	int rc;

	s->begin = clock_ns();
	rc = rescue_prepare(s->r, false);
	if (rc == 0)
		rc = rescue_rebuild(s->r, NULL, &s->rebuilt);
	if (rc < 0)
		return rc;
	restore_tell_rebuilt(s->r, &s->rebuilt, (double)(clock_ns() - s->begin) * 1e-9);
	if (s->r->in_place)
		return finish_in_place(s);
	rc = move_restore(s->r, &s->moved);
	return rc == 0 ? protect_again(s->r) : rc;
}

static void note_figures(const struct restoring *s)
{
	struct ftmem *ft = s->ft;
	const struct rail *rail = epoch_rail(ft->epoch);
	uint32_t lost = 0;

	for (uint32_t i = 0; s->r->in_place && i < rail->n; i++)
		lost += s->r->lost[rail->rank[i]];
	pthread_mutex_lock(&ft->lock);
	ft->figures.rebuild_s = (double)(clock_ns() - s->begin) * 1e-9;
	ft->figures.repaired_blocks += s->rebuilt.repaired_blocks;
	ft->figures.lost_members = lost;
	ft->figures.moved_bytes = s->moved.moved_bytes;
	ft->figures.move_s = s->moved.seconds;
	pthread_mutex_unlock(&ft->lock);
}

static int restore(struct restoring *s, uint64_t *version)
{
	int rc = 0;

	restore_tell_found(s->r);
	if (s->whole) {
		restore_tell_rebuilt(s->r, &s->rebuilt, s->moved.seconds);
		rc = commit_alone(s->r);
	} else {
		rc = step_by_step(s);
	}
	if (rc == 0) {
		*version = s->r->choice.stamp.version;
		note_figures(s);
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
	uint64_t words[2] = {clock_wall_ns(), session_chance(ft)};
	uint64_t largest = recover_largest(&in);
	int rc = net_allreduce(ft->net, words, 2, NET_MAX, session_deadline(ft), "restoring");

	if (largest < ft->incarnation)
		largest = ft->incarnation;
	if (rc == 0)
		ft->incarnation = recover_next(largest, words[0], words[1]);
	return rc;
}

/* Gathers and chooses; what is in s is the caller's to free, also on error. */
static int find(struct restoring *s)
{
	struct ftmem *ft = s->ft;
	int rc = gather_new(ft, &s->g);

	if (rc == 0)
		rc = new_incarnation(ft, s->g);
	if (rc == 0)
		rc = choose(s);
	if (rc != 0 || !would_overwrite(s->r))
		return rc;
	rescue_free(s->r);
	gather_free(s->g);
	s->r = NULL;
	s->g = NULL;
	rc = session_seal_anew(ft);
	if (rc == 0)
		rc = gather_new(ft, &s->g);
	return rc < 0 ? rc : choose(s);
}

/* After these errors regions are untouched; but the one pass wrote into them. Only if all
 * there is is damaged or lost, to forget it is what helps. */
static int not_untouched(const struct restoring *s, int rc)
{
	char text[ERROR_MSG_MAX];

	if (rc != FTMEM_ELOST && rc != FTMEM_ELAYOUT && rc != FTMEM_EINVAL)
		return rc;
	snprintf(text, sizeof(text), "%s", error_msg());
	if (!s->given_up || rc != FTMEM_ELOST)
		return error_set(rc == FTMEM_EINVAL ? FTMEM_EDEVICE : FTMEM_ECORRUPT,
		                 "%s; the regions are unspecified: call ftmem_restore() again",
		                 text);
	return error_set(FTMEM_ECORRUPT,
	                 "the newest version is damaged beyond what parity covers, and of what "
	                 "else there is: %s; ftmem_forget() begins anew",
	                 text);
}

/* Remains of a first snapshot that never was committed go. All note that they were there before
 * one of them can store anything: else who dies now could not deny later that it was committed.
 * Returns FRESH. */
static int start_afresh(struct ftmem *ft)
{
	const struct commit_slot empty[2] = {0};
	int rc;

	slot_set_empty(&ft->epoch->arena->slot[0]);
	slot_set_empty(&ft->epoch->arena->slot[1]);
	arena_enter(ft->epoch->arena, ft->incarnation);
	rc = session_agree(ft, 0, "beginning the run");
	if (rc < 0)
		return rc;
	session_enter(ft, empty, ft->incarnation);
	return FTMEM_FRESH;
}

int session_restore(struct ftmem *ft, uint64_t *version)
{
	struct restoring s = {.ft = ft};
	uint64_t begin = clock_ns();
	int rc = session_pause(ft), slack;

	if (rc < 0)
		return rc;
	slack = thread_slack(THREAD_SLACK_NS);
	rc = session_agree(ft, keeper_ensure(&ft->keeper), "reaching the SMP");
	if (rc == 0)
		rc = find(&s);
	if (rc == 0)
		rc = restore(&s, version);
	if (s.tried)
		rc = not_untouched(&s, rc);
	rescue_free(s.r);
	gather_free(s.g);
	if (rc == 0) {
		double seconds = (double)(clock_ns() - begin) * 1e-9;

		progress_note_restored(ft->progress, *version);
		pthread_mutex_lock(&ft->lock);
		ft->figures.restore_s = seconds;
		pthread_mutex_unlock(&ft->lock);
		restore_tell_whole(ft, *version, seconds);
		session_scrub_again(ft);
	}
	if (rc == FTMEM_FRESH)
		rc = start_afresh(ft);
	if (rc >= 0)
		ft->must_restore = false;
	(void)thread_slack(slack);
	return session_resume(ft, rc);
}
