/* SPDX-License-Identifier: BSD-3-Clause */
#include "job.h"

#include <inttypes.h>
#include <stdio.h>

#include "clock.h"
#include "error.h"

#define WAIT_MS 600000

static double seconds_since(uint64_t start_ns)
{
	return (double)(clock_ns() - start_ns) / 1e9;
}

static int add_regions(struct job *j)
{
	int result = 0;

	for (uint32_t i = 0; !j->idle && i < j->state->regions && result == 0; i++) {
		char name[STATE_NAME];
		struct ftmem_region r;

		state_region(j->state, i, name, &r);
		result = ftmem_region_add(j->ft, &r);
	}
	return result;
}

bool job_open(struct job *j, double *open_s)
{
	uint64_t start;
	int result;

	world_barrier();
	start = clock_ns();
	result = j->idle ? 0 : ftmem_open(j->opts, &j->ft);
	*open_s = seconds_since(start);
	if (!world_check(j->world, result, "ftmem_open"))
		return false;
	*open_s = world_max(*open_s);
	return true;
}

bool job_seal(struct job *j, double *seal_s)
{
	uint64_t start;
	int result;

	if (!world_check(j->world, add_regions(j), "ftmem_region_add"))
		return false;
	world_barrier();
	start = clock_ns();
	result = j->idle ? 0 : ftmem_seal(j->ft);
	*seal_s = seconds_since(start);
	if (!world_check(j->world, result, "ftmem_seal"))
		return false;
	*seal_s = world_max(*seal_s);
	return true;
}

void job_stop(struct job *j)
{
	ftmem_close(j->ft);
	j->ft = NULL;
	world_barrier();
}

bool job_protect(struct job *j, struct job_protect_times *out)
{
	uint64_t version = j->version + 1, start;
	int called, fenced, waited = 0;

	state_fill(j->state, version);
	world_barrier();
	start = clock_ns();
	called = ftmem_snapshot(j->ft, version, NULL);
	out->call = seconds_since(start);
	fenced = ftmem_fence(j->ft, NULL);
	out->copy = seconds_since(start);
	if (called == 0)
		waited = ftmem_wait(j->ft, version, WAIT_MS);
	out->protect = seconds_since(start);
	world_barrier();
	if (!world_check(j->world, called, "ftmem_snapshot")
	    || !world_check(j->world, fenced, "ftmem_fence")
	    || !world_check(j->world, waited, "ftmem_wait"))
		return false;
	j->version = version;
	out->call = world_max(out->call);
	out->copy = world_max(out->copy);
	out->protect = world_max(out->protect);
	return true;
}

bool job_restore_nothing(struct job *j)
{
	uint64_t version;
	int result = ftmem_restore(j->ft, &version);

	if (result == FTMEM_OK)
		result = error_set(FTMEM_EINVAL, "there is a version %" PRIu64 " of this new job",
		                   version);
	return world_check(j->world, result == FTMEM_FRESH ? 0 : result, "first ftmem_restore");
}

/* ECORRUPT, with what came back instead. */
static int compare(struct job *j, uint64_t version)
{
	uint64_t first = 0, wrong;

	if (j->idle)
		return 0;
	if (version != j->version) {
		j->wrong = j->state->bytes;
		return error_set(FTMEM_ECORRUPT, "version %" PRIu64 " came back, not %" PRIu64,
		                 version, j->version);
	}
	wrong = state_check(j->state, version, &first);
	if (wrong == 0)
		return 0;
	j->wrong += wrong;
	return error_set(FTMEM_ECORRUPT, "%" PRIu64 " bytes of version %" PRIu64
	                 " are wrong, the first at offset %" PRIu64, wrong, version, first);
}

static int own_stats(const struct job *j, struct ftmem_stats *out)
{
	*out = (struct ftmem_stats)FTMEM_STATS_INIT;
	return j->idle ? 0 : ftmem_stats(j->ft, out);
}

/* Whether the library saw the loss: else something else was measured. */
static bool check_loss(struct job *j, bool lost)
{
	struct ftmem_stats stats;
	int result = own_stats(j, &stats);
	uint64_t members = world_sum_u64(result == 0 ? stats.lost_members : 0);

	if (result == 0 && lost != (members > 0))
		result = error_set(FTMEM_EINVAL, "ftmem_stats() tells of %s lost members",
		                   lost ? "no" : "some");
	return world_check(j->world, result, "check of what was lost");
}

bool job_restore(struct job *j, bool lost, double *restore_s)
{
	uint64_t version = 0, start;
	int result;

	if (!j->idle)
		state_poison(j->state);
	world_barrier();
	start = clock_ns();
	result = j->idle ? 0 : ftmem_restore(j->ft, &version);
	*restore_s = seconds_since(start);
	world_barrier();
	if (!world_check(j->world, result, "ftmem_restore")
	    || !world_check(j->world, compare(j, version), "comparison after ftmem_restore"))
		return false;
	*restore_s = world_max(*restore_s);
	return check_loss(j, lost);
}

bool job_forget(struct job *j)
{
	return world_check(j->world, j->idle ? 0 : ftmem_forget(j->ft), "ftmem_forget");
}

bool job_stats(struct job *j, struct ftmem_stats *out)
{
	return world_check(j->world, own_stats(j, out), "ftmem_stats");
}
