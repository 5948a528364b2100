/* SPDX-License-Identifier: BSD-3-Clause */
#include "topo.h"

#include <hwloc.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

/* Near to the process, where threads may go. */
enum { NODES_NEAR, PACKAGES_NEAR, LEVELS };

struct level {
	hwloc_cpuset_t cpus;
	uint32_t ranks; /* bound to some of them */
};

/* The machine and all sets are NULL where hwloc cannot read it. Read-only after
 * topo_choose(): any thread. */
struct topo {
	hwloc_topology_t machine;
	hwloc_cpuset_t allowed; /* by the control group, whatever the process is bound to */
	hwloc_cpuset_t cpus;    /* that the process may run on */
	hwloc_nodeset_t nodes;  /* near to them */
	hwloc_cpuset_t bound;   /* that ranks of this machine are bound to */
	struct level level[LEVELS];
	uint32_t ranks;         /* of this machine */
	uint32_t beside;        /* of them, bound to some of cpus */
	uint32_t sharers;       /* whose threads run on those chosen */
	hwloc_cpuset_t chosen;  /* that threads are pinned to; empty: they are not */
	const char *reason;
	char left_out[512];     /* of a list, for people */
};

/* Where the process as a whole may run: a trainer that pinned the calling thread to
 * one core did not mean ours. */
static bool cpus_find(struct topo *t)
{
	if (hwloc_get_cpubind(t->machine, t->cpus, HWLOC_CPUBIND_PROCESS) != 0
	    && hwloc_bitmap_copy(t->cpus, t->allowed) != 0)
		return false;
	if (hwloc_bitmap_and(t->cpus, t->cpus, t->allowed) != 0 || hwloc_bitmap_iszero(t->cpus))
		return false;
	return hwloc_bitmap_copy(t->chosen, t->cpus) == 0;
}

/* Adds all CPUs of the objects of that type which have some of these. */
static bool cover(const struct topo *t, hwloc_const_cpuset_t cpus, hwloc_obj_type_t type,
                  hwloc_cpuset_t out)
{
	hwloc_obj_t at = NULL;

	while ((at = hwloc_get_next_obj_covering_cpuset_by_type(t->machine, cpus, type, at)))
		if (hwloc_bitmap_or(out, out, at->cpuset) != 0)
			return false;
	return true;
}

static bool near_find(struct topo *t)
{
	return hwloc_cpuset_to_nodeset(t->machine, t->cpus, t->nodes) == 0
	       && hwloc_cpuset_from_nodeset(t->machine, t->level[NODES_NEAR].cpus, t->nodes) == 0
	       && cover(t, t->cpus, HWLOC_OBJ_PACKAGE, t->level[PACKAGES_NEAR].cpus);
}

static bool sets_new(struct topo *t)
{
	bool good = true;

	t->allowed = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(t->machine));
	t->cpus = hwloc_bitmap_alloc();
	t->nodes = hwloc_bitmap_alloc();
	t->bound = hwloc_bitmap_alloc();
	t->chosen = hwloc_bitmap_alloc();
	for (int i = 0; i < LEVELS; i++) {
		t->level[i].cpus = hwloc_bitmap_alloc();
		good = good && t->level[i].cpus;
	}
	return good && t->allowed && t->cpus && t->nodes && t->bound && t->chosen;
}

static void machine_forget(struct topo *t)
{
	if (t->machine)
		hwloc_topology_destroy(t->machine);
	hwloc_bitmap_free(t->allowed);
	hwloc_bitmap_free(t->cpus);
	hwloc_bitmap_free(t->nodes);
	hwloc_bitmap_free(t->bound);
	hwloc_bitmap_free(t->chosen);
	for (int i = 0; i < LEVELS; i++)
		hwloc_bitmap_free(t->level[i].cpus);
	*t = (struct topo){0};
}

static bool machine_read(struct topo *t)
{
	if (hwloc_topology_init(&t->machine) != 0) {
		t->machine = NULL;
		return false;
	}
	return hwloc_topology_load(t->machine) == 0 && sets_new(t) && cpus_find(t) && near_find(t);
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

/* --- beside the trainer --- */

static bool is_bound(const struct topo *t)
{
	return t->machine && !hwloc_bitmap_isequal(t->cpus, t->allowed);
}

struct topo_set topo_bound(const struct topo *t)
{
	struct topo_set out = {{0}};

	if (!is_bound(t))
		return out;
	for (int cpu = hwloc_bitmap_first(t->cpus); cpu >= 0 && cpu < TOPO_CPUS;
	     cpu = hwloc_bitmap_next(t->cpus, cpu))
		out.word[cpu / 64] |= UINT64_C(1) << cpu % 64;
	return out;
}

void topo_note(struct topo *t, const struct topo_set *bound)
{
	bool here[LEVELS] = {false}, beside = false;

	t->ranks++;
	if (!t->machine)
		return;
	for (unsigned cpu = 0; cpu < TOPO_CPUS; cpu++) {
		if (!(bound->word[cpu / 64] >> cpu % 64 & 1))
			continue;
		/* What is not noted for want of memory counts as free: slower, not wrong. */
		(void)hwloc_bitmap_set(t->bound, cpu);
		beside = beside || hwloc_bitmap_isset(t->cpus, cpu);
		for (int i = 0; i < LEVELS; i++)
			here[i] = here[i] || hwloc_bitmap_isset(t->level[i].cpus, cpu);
	}
	t->beside += beside;
	for (int i = 0; i < LEVELS; i++)
		t->level[i].ranks += here[i];
}

/* Free are cores as a whole: another hardware thread of a rank's core is in its way. Too
 * few for a CPU each would only slow each other down. */
static bool free_cores(struct topo *t)
{
	hwloc_cpuset_t taken = hwloc_bitmap_dup(t->bound);
	bool found = false;

	if (!taken || !cover(t, t->bound, HWLOC_OBJ_CORE, taken))
		goto out;
	for (int i = 0; i < LEVELS && !found; i++) {
		const struct level *near = &t->level[i];

		found = hwloc_bitmap_and(t->chosen, near->cpus, t->allowed) == 0
		        && hwloc_bitmap_andnot(t->chosen, t->chosen, taken) == 0
		        && hwloc_bitmap_weight(t->chosen) > 0
		        && (uint32_t)hwloc_bitmap_weight(t->chosen) >= near->ranks;
		if (found)
			t->sharers = near->ranks;
	}
out:
	hwloc_bitmap_free(taken);
	return found;
}

static bool siblings(struct topo *t)
{
	hwloc_bitmap_zero(t->chosen);
	return cover(t, t->cpus, HWLOC_OBJ_CORE, t->chosen)
	       && hwloc_bitmap_and(t->chosen, t->chosen, t->allowed) == 0
	       && hwloc_bitmap_andnot(t->chosen, t->chosen, t->bound) == 0
	       && !hwloc_bitmap_iszero(t->chosen);
}

static int choose_beside(struct topo *t)
{
	bool bound = is_bound(t);

	/* Also those that no set can tell of are the trainer's. */
	if (bound && hwloc_bitmap_or(t->bound, t->bound, t->cpus) != 0)
		goto no_memory;
	t->reason = "free cores beside the trainer";
	if (bound && free_cores(t))
		return FTMEM_OK;
	t->reason = "the other hardware threads of the trainer's cores";
	if (bound && siblings(t))
		return FTMEM_OK;
	t->reason = bound ? "with the trainer, for want of others"
	                  : "those of the process, which is not bound";
	if (hwloc_bitmap_copy(t->chosen, t->cpus) == 0)
		return FTMEM_OK;
no_memory:
	return error_set(FTMEM_ENOMEM, "no memory for a set of CPUs");
}

static bool listed(struct topo *t, const char *list)
{
	hwloc_cpuset_t rest = hwloc_bitmap_alloc();
	char text[400];
	bool good;

	good = rest && hwloc_bitmap_list_sscanf(t->chosen, list) == 0
	       && hwloc_bitmap_andnot(rest, t->chosen, t->allowed) == 0
	       && hwloc_bitmap_and(t->chosen, t->chosen, t->allowed) == 0;
	if (good && !hwloc_bitmap_iszero(rest)) {
		hwloc_bitmap_list_snprintf(text, sizeof(text), rest);
		snprintf(t->left_out, sizeof(t->left_out), "%s, which this process may not use",
		         text);
	}
	hwloc_bitmap_free(rest);
	return good;
}

static int choose_listed(struct topo *t, const char *list)
{
	char may[256];

	t->reason = "as progress_cpus says";
	t->sharers = t->ranks;
	if (!t->machine) {
		snprintf(t->left_out, sizeof(t->left_out),
		         "%.400s, since hwloc cannot read this machine", list);
		return FTMEM_OK;
	}
	if (!listed(t, list))
		return error_set(FTMEM_ENOMEM, "no memory for the CPUs %.100s", list);
	if (!hwloc_bitmap_iszero(t->chosen))
		return FTMEM_OK;
	hwloc_bitmap_list_snprintf(may, sizeof(may), t->allowed);
	return error_set(FTMEM_EINVAL,
	                 "progress_cpus, or FTMEM_PROGRESS_CPUS, is \"%.100s\": this process may "
	                 "use none of these CPUs, only %s", list, may);
}

int topo_choose(struct topo *t, const char *cpus)
{
	bool pin = strcmp(cpus, "none") != 0, beside = strcmp(cpus, "auto") == 0;

	t->sharers = is_bound(t) ? t->beside : t->ranks;
	t->left_out[0] = '\0';
	if (pin && !beside)
		return choose_listed(t, cpus);
	if (!t->machine)
		return FTMEM_OK;
	if (beside)
		return choose_beside(t);
	hwloc_bitmap_zero(t->chosen);
	return FTMEM_OK;
}

const char *topo_left_out(const struct topo *t)
{
	return t->left_out;
}

void topo_describe(const struct topo *t, char *text, size_t bytes)
{
	char list[256];

	if (!t->machine || hwloc_bitmap_iszero(t->chosen)) {
		snprintf(text, bytes, "of their creator (not pinned)");
		return;
	}
	hwloc_bitmap_list_snprintf(list, sizeof(list), t->chosen);
	snprintf(text, bytes, "%s (%s)", list, t->reason ? t->reason : "not chosen yet");
}

void topo_pin(const struct topo *t)
{
	/* A refusal leaves the thread where the process may run or, if that is refused
	 * too, where its creator is: slower, not wrong. */
	if (!t->machine || hwloc_bitmap_iszero(t->chosen))
		return;
	if (hwloc_set_cpubind(t->machine, t->chosen, HWLOC_CPUBIND_THREAD) != 0)
		(void)hwloc_set_cpubind(t->machine, t->cpus, HWLOC_CPUBIND_THREAD);
}

/* --- figures --- */

uint32_t topo_cpus(const struct topo *t)
{
	int count = t->cpus ? hwloc_bitmap_weight(t->cpus) : 0;
	cpu_set_t set;

	if (count <= 0)
		count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
	return count > 0 ? (uint32_t)count : 1;
}

uint32_t topo_share(const struct topo *t)
{
	int count = t->chosen ? hwloc_bitmap_weight(t->chosen) : 0;
	uint32_t cpus = count > 0 ? (uint32_t)count : topo_cpus(t);

	return t->sharers > 0 && cpus > t->sharers ? cpus / t->sharers : 1;
}

uint64_t topo_l2_bytes(const struct topo *t)
{
	hwloc_obj_t cache = NULL;

	if (t->machine)
		cache = hwloc_get_next_obj_covering_cpuset_by_type(t->machine, t->cpus,
		                                                   HWLOC_OBJ_L2CACHE, NULL);
	return cache && cache->attr ? cache->attr->cache.size : 0;
}
