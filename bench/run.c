/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <math.h>
#include <mpi.h>
#include <stdlib.h>

#include "error.h"
#include "idle.h"
#include "load.h"
#include "memory.h"
#include "reshape.h"
#include "shares.h"

bool run_open(struct run *r, double *open_s)
{
	if (!job_open(&r->job, open_s))
		return false;
	return world_check(r->world, r->job.idle ? 0 : node_watch(&r->node), "look at ftmem-smp");
}

bool run_start(struct run *r, double *open_s, double *seal_s)
{
	return run_open(r, open_s) && job_seal(&r->job, seal_s);
}

void run_drop(struct run *r)
{
	job_stop(&r->job);
	node_drop(&r->node);
	world_barrier();
}

static bool start(struct run *r, enum start_kind kind, bool timed)
{
	double open_s, seal_s;

	if (!run_start(r, &open_s, &seal_s))
		return false;
	if (timed) {
		series_add(&r->results->open_s[kind], open_s);
		series_add(&r->results->seal_s[kind], seal_s);
	}
	return true;
}

static bool look_at_memory(struct run *r)
{
	uint64_t held;

	usage_look(&r->usage);
	if (!world_check(r->world, node_held(&r->node, &held), "look at what is held"))
		return false;
	held = world_sum_u64(held);
	if (held > r->results->held_bytes)
		r->results->held_bytes = held;
	return true;
}

/* before: of this rank, when the versions that count were still to come. */
static bool count_bytes(struct run *r, const struct ftmem_stats *before, struct rank_bytes *out)
{
	struct ftmem_stats s;

	if (!job_stats(&r->job, &s))
		return false;
	*out = (struct rank_bytes){
		.registered = world_max((double)s.region_bytes),
		.stored = world_max((double)s.data_bytes),
		.arena = world_max((double)s.held_bytes),
		.sent = world_max((double)(s.sent_bytes - before->sent_bytes)
		                  / (double)(s.committed - before->committed)),
	};
	return true;
}

/* The first pass touches both slots and watches memory: not timed. */
bool run_protect(struct run *r, const char *what, struct protect_results *out)
{
	struct job_protect_times t;
	struct ftmem_stats before;

	world_say(r->world, "%s, %u times", what, r->args->repeat);
	if (!world_check(r->world, usage_watch(&r->usage), "start of a thread"))
		return false;
	if (!job_protect(&r->job, &t) || !job_protect(&r->job, &t)
	    || !job_stats(&r->job, &before))
		return false;
	usage_watch_end(&r->usage);
	for (uint32_t i = 0; i < r->args->repeat; i++) {
		if (!job_protect(&r->job, &t))
			return false;
		series_add(&out->call_us, t.call * 1e6);
		series_add(&out->copy_s, t.copy);
		series_add(&out->protect_s, t.protect);
	}
	return count_bytes(r, &before, &out->bytes);
}

static bool measure_protect(struct run *r)
{
	return run_protect(r, "protect", &r->results->protect) && look_at_memory(r);
}

static bool is_lost(const struct run *r, uint32_t count, uint32_t turn, uint32_t node)
{
	const struct args *a = r->args;

	if (count == 0)
		return false;
	if (!a->lose_given)
		return (node + r->world->nodes - turn % r->world->nodes) % r->world->nodes < count;
	for (uint32_t i = 0; i < a->lose_count; i++)
		if (a->lose[i] == node)
			return true;
	return false;
}

/* A new version, the end of all ranks and of count nodes, a new start, a restore. */
static bool lose_and_restore(struct run *r, uint32_t count, uint32_t turn, bool timed)
{
	enum start_kind kind = count ? START_REPLACED : START_AGAIN;
	struct job_protect_times ignored;
	int result = 0;
	double restore_s;

	if (!job_protect(&r->job, &ignored))
		return false;
	job_stop(&r->job);
	if (is_lost(r, count, turn, r->world->node))
		result = node_lose(&r->node);
	if (!world_check(r->world, result, "loss of a node") || !start(r, kind, timed)
	    || !job_restore(&r->job, count > 0, &restore_s))
		return false;
	r->results->verified_bytes += world_sum_u64(r->state.bytes);
	if (timed)
		series_add(count ? &r->results->rebuild_s[count] : &r->results->restore_s,
		           restore_s);
	return true;
}

static bool measure_restore(struct run *r, uint32_t count)
{
	bool done;

	world_say(r->world, "restore with %u nodes lost, %u times", count, r->args->repeat);
	if (!world_check(r->world, usage_watch(&r->usage), "start of a thread"))
		return false;
	done = lose_and_restore(r, count, 0, false);
	usage_watch_end(&r->usage);
	for (uint32_t i = 0; done && i < r->args->repeat; i++)
		done = lose_and_restore(r, count, i + 1, true);
	return done && look_at_memory(r);
}

/* Bad input that shows only now. */
static int check_losses(struct run *r, uint32_t parity)
{
	const struct args *a = r->args;

	if (!a->lose_given || a->lose_count == 0)
		return 0;
	for (uint32_t i = 0; i < a->lose_count; i++)
		if (a->lose[i] >= r->world->nodes)
			return error_set(FTMEM_EINVAL, "--lose: there is no node %" PRIu32
			                 ", only 0 to %" PRIu32, a->lose[i], r->world->nodes - 1);
	if (parity == 0)
		return error_set(FTMEM_EINVAL,
		                 "--lose: one node has no parity; start on more nodes "
		                 "or simulate them with --ranks-per-node");
	return 0;
}

static bool measure_losses(struct run *r)
{
	const struct args *a = r->args;
	uint32_t most = r->results->m;

	if (a->lose_given)
		return a->lose_count == 0 || measure_restore(r, a->lose_count);
	for (uint32_t count = 1; count <= most; count++)
		if (!measure_restore(r, count))
			return false;
	return true;
}

/* Those of what is measured beside the usual. */
static int check_options(const struct run *r)
{
	int result = shares_check_options(r);

	if (result == 0 && r->args->with_load)
		result = load_check_options(r);
	return result == 0 && r->args->reshape ? reshape_check_options(r) : result;
}

static bool prepare(struct run *r)
{
	uint64_t available = memory_available() / r->world->host_ranks;
	int result = 0;
	uint64_t *all = calloc(2 * (size_t)r->world->size, sizeof(*all));

	if (!all)
		result = error_set(FTMEM_ENOMEM, "no memory for the bench's own tables");
	else if (r->args->bytes > available)
		result = error_set(FTMEM_ENOMEM,
		                   "--bytes: each of the %u ranks of a machine can take "
		                   "%" PRIu64 " MiB at most, before any copy is held",
		                   r->world->host_ranks, available >> 20);
	else
		result = check_options(r);
	if (result == 0)
		result = state_init(&r->state, r->args->bytes, r->args->regions, r->world->rank);
	if (!world_check(r->world, result, "the state")) {
		free(all);
		return false;
	}
	/* What MPI takes for its first messages is not the library's. */
	MPI_Alltoall(all, 1, MPI_UINT64_T, all + r->world->size, 1, MPI_UINT64_T, MPI_COMM_WORLD);
	free(all);
	usage_init(&r->usage);
	return true;
}

static bool measure_usual(struct run *r)
{
	struct results *out = r->results;

	if (!start(r, START_FIRST, true) || !job_restore_nothing(&r->job)
	    || !job_stats(&r->job, &out->stats))
		return false;
	out->m = out->stats.parity;
	out->k = out->stats.group_nodes - out->m;
	if (out->m == 0)
		out->k = 1;
	if (!world_check(r->world, check_losses(r, out->m), "options"))
		return false;
	return measure_protect(r) && idle_measure(r) && measure_restore(r, 0)
	       && measure_losses(r);
}

static bool measure_job(struct run *r)
{
	const struct args *a = r->args;

	if (a->replicas > 1 && !shares_measure_alone(r))
		return false;
	if (!measure_usual(r))
		return false;
	if (a->replicas > 1)
		shares_judge(r);
	if (a->compare && !shares_measure_compare(r))
		return false;
	if (a->with_load && !load_measure(r))
		return false;
	return !a->reshape || reshape_measure(r);
}

static struct floor_result compare_floor(struct floor_time f, const struct series *s)
{
	return (struct floor_result){f, f.all / series_summary(s).median};
}

/* What is moved in a restore of replicas, or when several groups may lose nodes, has
 * no floor here. */
static void find_floors(struct run *r)
{
	struct results *out = r->results;
	struct floor_case c = {
		.bytes = r->state.bytes / r->args->replicas,
		.k = out->k,
		.m = out->m,
		.copy_threads = out->stats.copy_threads,
		.cores = r->world->cores,
	};

	out->protect_floor =
		compare_floor(floor_protect(&c, &out->limits), &out->protect.protect_s);
	if (r->args->replicas > 1)
		return;
	out->restore_floor = compare_floor(floor_restore(&c, &out->limits), &out->restore_s);
	for (uint32_t i = 1; i <= out->m && out->stats.groups == 1; i++)
		if (out->rebuild_s[i].count > 0)
			out->rebuild_floor[i] = compare_floor(floor_rebuild(&c, &out->limits, i),
			                                      &out->rebuild_s[i]);
}

static bool measure_limits(struct run *r)
{
	struct results *out = r->results;

	world_say(r->world, "limits");
	if (limits_measure(r->world, &r->state, out->stats.block_bytes, out->k, out->m,
	                   &out->limits) != 0)
		return false;
	find_floors(r);
	return true;
}

bool run_all(const struct world *w, const struct args *a, const struct ftmem_opts *opts,
             const struct opts *resolved, struct results *out)
{
	struct run r = {
		.world = w, .args = a, .opts = opts, .resolved = resolved, .results = out,
		.job = {.world = w, .opts = opts},
	};
	bool done;

	r.job.state = &r.state;
	out->shares_right = true;
	node_init(&r.node, resolved, w->leader);
	if (getloadavg(&out->load_before, 1) != 1)
		out->load_before = NAN;
	done = prepare(&r) && measure_job(&r);
	usage_watch_end(&r.usage);
	job_stop(&r.job);
	node_drop(&r.node);
	out->wrong_bytes = world_sum_u64(r.job.wrong);
	out->verified = done && out->wrong_bytes == 0;
	out->rss_extra_bytes = (uint64_t)world_max((double)usage_extra(&r.usage));
	out->held_ratio = (double)out->held_bytes / (double)world_sum_u64(a->bytes);
	out->held_budget = world_sum(2 * (1 + (double)out->m / (out->k ? out->k : 1))) / w->size
	                   / a->replicas;
	done = (done || out->wrong_bytes) && measure_limits(&r);
	state_deinit(&r.state);
	return done;
}
