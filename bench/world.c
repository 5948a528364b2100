/* SPDX-License-Identifier: BSD-3-Clause */
#include "world.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "clock.h"
#include "error.h"

/* Hosts that were booted together are one machine: containers, network namespaces. */
static int machine_color(void)
{
	char id[MPI_MAX_PROCESSOR_NAME] = "";
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
	int len;

	if (!f || !fgets(id, sizeof(id), f))
		MPI_Get_processor_name(id, &len);
	if (f)
		fclose(f);
	return (int)(digest_more(DIGEST_INIT, id, strlen(id)) & INT_MAX);
}

static void count_cpus(struct world *w)
{
	cpu_set_t mine, host;
	MPI_Comm comm;
	int ranks;
	double cores;

	CPU_ZERO(&mine);
	if (sched_getaffinity(0, sizeof(mine), &mine) != 0)
		CPU_SET(0, &mine);
	MPI_Comm_split(MPI_COMM_WORLD, machine_color(), 0, &comm);
	MPI_Comm_size(comm, &ranks);
	MPI_Allreduce(&mine, &host, (int)sizeof(mine), MPI_BYTE, MPI_BOR, comm);
	MPI_Comm_free(&comm);
	w->host_ranks = (uint32_t)ranks;
	w->cpus = (uint32_t)CPU_COUNT(&host);
	cores = (double)w->cpus / w->host_ranks;
	MPI_Allreduce(&cores, &w->cores, 1, MPI_DOUBLE, MPI_MIN, MPI_COMM_WORLD);
}

struct place {
	char node[FTMEM_NAME_MAX + 1];
	char host[MPI_MAX_PROCESSOR_NAME];
};

/* EINVAL: nodes that no machine could be. */
static int number_nodes(struct world *w, const struct place *places)
{
	int result = 0;

	w->nodes = 0;
	w->shift = 0;
	w->hosts = 0;
	for (uint32_t r = 0; r < w->size; r++) {
		uint32_t first = 0, same = 0;

		while (strcmp(places[same].host, places[r].host) != 0)
			same++;
		w->hosts += same == r;
		while (strcmp(places[first].node, places[r].node) != 0)
			first++;
		if (strcmp(places[first].host, places[r].host) != 0)
			result = error_set(
				FTMEM_EINVAL,
				"ranks %u and %u of node %s are on different "
				"machines: choose another --ranks-per-node, or place ranks "
				"by slot",
				first, r, places[r].node);
		if (strcmp(places[r].node, w->name) == 0 && first == r) {
			w->node = w->nodes;
			w->leader = r == w->rank;
		}
		w->nodes += first == r;
		w->shift += first == 0;
	}
	return result;
}

bool world_init(struct world *w, const char *name)
{
	struct place *places, mine = {0};
	int rank, size, len, result;

	*w = (struct world){0};
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	w->rank = (uint32_t)rank;
	w->size = (uint32_t)size;
	snprintf(w->name, sizeof(w->name), "%s", name);
	places = calloc(w->size, sizeof(*places));
	if (!world_check(w, places ? 0 : FTMEM_ENOMEM, "the table of nodes")) {
		free(places);
		return false;
	}
	snprintf(mine.node, sizeof(mine.node), "%s", name);
	MPI_Get_processor_name(mine.host, &len);
	MPI_Allgather(&mine, (int)sizeof(mine), MPI_CHAR, places, (int)sizeof(mine), MPI_CHAR,
	              MPI_COMM_WORLD);
	result = number_nodes(w, places);
	free(places);
	count_cpus(w);
	return world_check(w, result, "options");
}

void world_barrier(void)
{
	MPI_Request request;
	int done = 0;

	MPI_Ibarrier(MPI_COMM_WORLD, &request);
	for (;;) {
		MPI_Test(&request, &done, MPI_STATUS_IGNORE);
		if (done)
			return;
		clock_sleep(20000);
	}
}

double world_max(double x)
{
	double max;

	MPI_Allreduce(&x, &max, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
	return max;
}

double world_sum(double x)
{
	double sum;

	MPI_Allreduce(&x, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
	return sum;
}

uint64_t world_sum_u64(uint64_t x)
{
	uint64_t sum;

	MPI_Allreduce(&x, &sum, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
	return sum;
}

bool world_check(const struct world *w, int result, const char *what)
{
	uint32_t mine = result ? w->rank : UINT32_MAX, first;

	MPI_Allreduce(&mine, &first, 1, MPI_UINT32_T, MPI_MIN, MPI_COMM_WORLD);
	if (first == UINT32_MAX)
		return true;
	if (first == w->rank)
		fprintf(stderr, "ftmem_bench: rank %u: %s: %s\n", w->rank, what,
		        result < 0 && *ftmem_errmsg() ? ftmem_errmsg() : ftmem_strerror(result));
	return false;
}

void world_say(const struct world *w, const char *fmt, ...)
{
	va_list args;

	if (w->rank != 0)
		return;
	va_start(args, fmt);
	fputs("ftmem_bench: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
}
