/* SPDX-License-Identifier: BSD-3-Clause */
#include "idle.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"

#define LOOK_NS   UINT64_C(150000000)  /* for each of --repeat */
#define LOOK_MAX  UINT64_C(2000000000)
#define SETTLE_NS UINT64_C(100000000) /* until all that can be done has been */
#define WAIT_MS   600000
#define THREAD    "ftmem-" /* how the library's threads are called */

static bool task_read(const char *id, const char *file, char *line, int bytes)
{
	char path[300];
	bool got;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%s/%s", id, file);
	f = fopen(path, "re");
	got = f && fgets(line, bytes, f);
	if (f)
		fclose(f);
	return got;
}

/* Processor time of the library's threads in this process, in ns; NAN: the kernel does
 * not tell. */
static double threads_ns(void)
{
	DIR *tasks = opendir("/proc/self/task");
	const struct dirent *task;
	double sum = tasks ? 0 : NAN;

	while (tasks && (task = readdir(tasks))) {
		char line[128];
		uint64_t ns;

		if (!task_read(task->d_name, "comm", line, sizeof(line))
		    || strncmp(line, THREAD, strlen(THREAD)) != 0)
			continue;
		if (!task_read(task->d_name, "schedstat", line, sizeof(line))
		    || sscanf(line, "%" SCNu64, &ns) != 1)
			sum = NAN;
		else
			sum += (double)ns;
	}
	if (tasks)
		closedir(tasks);
	return sum;
}

/* Of the rank with most, in percent of a core. */
static double look(const struct run *r)
{
	uint64_t start = clock_ns(), ns = r->args->repeat * LOOK_NS;
	double before = threads_ns(), percent;

	clock_sleep(ns < LOOK_MAX ? ns : LOOK_MAX);
	percent = 100 * (threads_ns() - before) / (double)(clock_ns() - start);
	return world_sum(isnan(percent)) > 0 ? NAN : world_max(percent);
}

/* The last rank asks for the version only when the others have waited for it. */
static bool wait_for_last(struct run *r)
{
	bool last = r->world->rank == r->world->size - 1;
	uint64_t version = r->job.version + 1;
	int called = 0, waited = 0;

	state_fill(&r->state, version);
	world_barrier();
	if (!last)
		called = ftmem_snapshot(r->job.ft, version, NULL);
	clock_sleep(SETTLE_NS);
	r->results->waiting_percent = look(r);
	if (last)
		called = ftmem_snapshot(r->job.ft, version, NULL);
	if (called == 0)
		waited = ftmem_wait(r->job.ft, version, WAIT_MS);
	if (!world_check(r->world, called, "ftmem_snapshot")
	    || !world_check(r->world, waited, "ftmem_wait"))
		return false;
	r->job.version = version;
	return true;
}

bool idle_measure(struct run *r)
{
	world_say(r->world, "threads at rest");
	world_barrier();
	clock_sleep(SETTLE_NS);
	r->results->rest_percent = look(r);
	r->results->waiting_percent = NAN;
	return r->world->size == 1 || wait_for_last(r);
}
