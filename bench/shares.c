/* SPDX-License-Identifier: BSD-3-Clause */
#include "shares.h"

#include <inttypes.h>
#include <math.h>

#include "error.h"
#include "match.h"

#define TOLERANCE   0.01
#define CHECKED_MIN (16.0 * 1048576) /* state of a rank */
#define SHARE_MIN   (2.0 * 1048576)  /* of all its regions: headers stay below the tolerance */

int shares_check_options(const struct run *r)
{
	uint32_t replicas = r->args->replicas;

	if (r->world->size % replicas != 0)
		return error_set(FTMEM_EINVAL,
		                 "--replicas: %" PRIu32 " ranks are not groups of %" PRIu32
		                 ": choose a divisor",
		                 r->world->size, replicas);
	if (r->args->compare && r->resolved->compare_every != 0)
		return error_set(FTMEM_EINVAL, "--compare measures with and without: unset "
		                               "FTMEM_COMPARE_EVERY");
	return 0;
}

bool shares_measure_alone(struct run *r)
{
	double open_s, seal_s;

	if (!run_start(r, &open_s, &seal_s) || !job_restore_nothing(&r->job)
	    || !run_protect(r, "protect, each rank for itself", &r->results->alone))
		return false;
	run_drop(r);
	/* Replicas are on different nodes if they can be. */
	state_replicate(&r->state, r->world->rank % (r->world->size / r->args->replicas));
	return true;
}

/* Shares are near-equal only if regions are large enough to be cut so often. */
static bool can_judge(const struct args *a)
{
	double bytes = (double)a->bytes, regions = a->regions, replicas = a->replicas;

	return bytes >= CHECKED_MIN && bytes / replicas >= SHARE_MIN
	       && bytes / regions / replicas >= 2.0 * (double)MATCH_SHARE_MIN;
}

static bool is_right(double share, uint32_t replicas)
{
	return isnan(share) || fabs(share * replicas - 1) <= TOLERANCE;
}

void shares_judge(struct run *r)
{
	const struct rank_bytes *one = &r->results->alone.bytes, *all = &r->results->protect.bytes;
	struct rank_bytes *s = &r->results->shares;
	uint32_t replicas = r->args->replicas;

	*s = (struct rank_bytes){
		.registered = all->registered / one->registered,
		.stored = all->stored / one->stored,
		.arena = all->arena / one->arena,
		.sent = one->sent > 0 ? all->sent / one->sent : NAN,
	};
	r->results->shares_checked = can_judge(r->args);
	r->results->shares_right = !r->results->shares_checked
	                           || (is_right(s->stored, replicas) && is_right(s->arena, replicas)
	                               && is_right(s->sent, replicas));
	if (!r->results->shares_right)
		world_say(r->world,
		          "shares are not 1/%" PRIu32 " within 1%%: stored %.4f, arena "
		          "%.4f, sent %.4f",
		          replicas, s->stored, s->arena, s->sent);
}

/* Whether what was to be measured was. */
static bool check_compared(struct run *r, uint32_t every)
{
	struct ftmem_stats stats;
	int result = 0;

	if (!job_stats(&r->job, &stats))
		return false;
	if ((stats.compared > 0) != (every > 0) || stats.differing > 0)
		result = error_set(FTMEM_EINVAL,
		                   "%" PRIu64 " versions were compared and %" PRIu64 " differed",
		                   stats.compared, stats.differing);
	return world_check(r->world, result, "check of what was compared");
}

static bool measure_with(struct run *r, uint32_t every)
{
	struct ftmem_opts opts = *r->opts;
	double open_s, seal_s, restore_s;
	bool done;

	opts.compare_every = every;
	job_stop(&r->job);
	r->job.opts = &opts;
	done = run_start(r, &open_s, &seal_s) && job_restore(&r->job, false, &restore_s);
	r->job.opts = r->opts;
	if (!done)
		return false;
	r->results->verified_bytes += world_sum_u64(r->state.bytes);
	return run_protect(r, every ? "protect, replicas compared" : "protect, not compared",
	                   &r->results->compared[every])
	       && check_compared(r, every);
}

bool shares_measure_compare(struct run *r)
{
	return measure_with(r, 0) && measure_with(r, 1);
}
