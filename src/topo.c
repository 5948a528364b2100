/* SPDX-License-Identifier: BSD-3-Clause */
#include "topo.h"

#include <hwloc.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>

#include "error.h"

/* machine and cpus are NULL where hwloc cannot read the machine. Read-only after
 * topo_new(): any thread. */
struct topo {
	hwloc_topology_t machine;
	hwloc_cpuset_t cpus;   /* that the process may run on */
	hwloc_nodeset_t nodes; /* near to them */
};

/* Where the process as a whole may run: a trainer that pinned the calling thread to
 * one core did not mean ours. */
static bool cpus_find(struct topo *t)
{
	hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(t->machine);

	t->cpus = hwloc_bitmap_alloc();
	t->nodes = hwloc_bitmap_alloc();
	if (!t->cpus || !t->nodes || !allowed)
		return false;
	if (hwloc_get_cpubind(t->machine, t->cpus, HWLOC_CPUBIND_PROCESS) != 0
	    && hwloc_bitmap_copy(t->cpus, allowed) != 0)
		return false;
	if (hwloc_bitmap_and(t->cpus, t->cpus, allowed) != 0 || hwloc_bitmap_iszero(t->cpus))
		return false;
	hwloc_cpuset_to_nodeset(t->machine, t->cpus, t->nodes);
	return true;
}

static void machine_forget(struct topo *t)
{
	if (t->machine)
		hwloc_topology_destroy(t->machine);
	hwloc_bitmap_free(t->cpus);
	hwloc_bitmap_free(t->nodes);
	*t = (struct topo){0};
}

static bool machine_read(struct topo *t)
{
	if (hwloc_topology_init(&t->machine) != 0) {
		t->machine = NULL;
		return false;
	}
	return hwloc_topology_load(t->machine) == 0 && cpus_find(t);
}

int topo_new(struct topo **out)
{
	struct topo *t = calloc(1, sizeof(*t));

	if (!t)
		return error_set(FTMEM_ENOMEM, "no memory for the machine's topology");
	if (!machine_read(t))
		machine_forget(t);
	*out = t;
	return FTMEM_OK;
}

void topo_free(struct topo *t)
{
	if (!t)
		return;
	machine_forget(t);
	free(t);
}

int topo_place(const struct topo *t, void *addr, size_t bytes)
{
	hwloc_membind_policy_t policy;

	if (!t->machine || bytes == 0 || hwloc_bitmap_weight(t->nodes) <= 0
	    || hwloc_get_nbobjs_by_type(t->machine, HWLOC_OBJ_NUMANODE) < 2)
		return FTMEM_OK;
	/* Not strict: a full node overflows into its neighbour instead of failing. A rank
	 * that may run on several nodes copies from all of them: one would be a bottleneck. */
	policy = hwloc_bitmap_weight(t->nodes) == 1 ? HWLOC_MEMBIND_BIND : HWLOC_MEMBIND_INTERLEAVE;
	(void)hwloc_set_area_membind(t->machine, addr, bytes, t->nodes, policy,
	                             HWLOC_MEMBIND_BYNODESET);
	return FTMEM_OK;
}

void topo_pin(const struct topo *t)
{
	/* A refusal leaves the thread where its creator is: slower, not wrong. */
	if (t->cpus)
		(void)hwloc_set_cpubind(t->machine, t->cpus, HWLOC_CPUBIND_THREAD);
}

uint32_t topo_cpus(const struct topo *t)
{
	int count = t->cpus ? hwloc_bitmap_weight(t->cpus) : 0;
	cpu_set_t set;

	if (count <= 0)
		count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
	return count > 0 ? (uint32_t)count : 1;
}

uint64_t topo_l2_bytes(const struct topo *t)
{
	hwloc_obj_t cache = NULL;

	if (t->machine)
		cache = hwloc_get_next_obj_covering_cpuset_by_type(t->machine, t->cpus,
		                                                   HWLOC_OBJ_L2CACHE, NULL);
	return cache && cache->attr ? cache->attr->cache.size : 0;
}
