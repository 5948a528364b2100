/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Linked with --wrap=malloc,calloc,realloc and alloc_fail.c, and with
 * --wrap=hwloc_topology_load,--wrap=hwloc_set_area_membind,--wrap=hwloc_set_cpubind.
 * Machines are made up with HWLOC_SYNTHETIC.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <hwloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "topo.h"
#include "util/alloc_fail.h"

int __real_hwloc_topology_load(hwloc_topology_t machine);
int __wrap_hwloc_topology_load(hwloc_topology_t machine);
int __wrap_hwloc_set_area_membind(hwloc_topology_t machine, const void *addr, size_t bytes,
                                  hwloc_const_bitmap_t nodes, hwloc_membind_policy_t policy,
                                  int flags);
int __real_hwloc_set_cpubind(hwloc_topology_t machine, hwloc_const_bitmap_t cpus, int flags);
int __wrap_hwloc_set_cpubind(hwloc_topology_t machine, hwloc_const_bitmap_t cpus, int flags);

static bool unreadable;
static struct {
	unsigned calls;
	const void *addr;
	size_t bytes;
	char nodes[64];
	hwloc_membind_policy_t policy;
	int flags;
} placed;

int __wrap_hwloc_topology_load(hwloc_topology_t machine)
{
	return unreadable ? -1 : __real_hwloc_topology_load(machine);
}

int __wrap_hwloc_set_area_membind(hwloc_topology_t machine, const void *addr, size_t bytes,
                                  hwloc_const_bitmap_t nodes, hwloc_membind_policy_t policy,
                                  int flags)
{
	(void)machine;
	placed.calls++;
	placed.addr = addr;
	placed.bytes = bytes;
	placed.policy = policy;
	placed.flags = flags;
	hwloc_bitmap_list_snprintf(placed.nodes, sizeof(placed.nodes), nodes);
	return -1; /* a refusal is no error */
}

static unsigned cpubinds;

int __wrap_hwloc_set_cpubind(hwloc_topology_t machine, hwloc_const_bitmap_t cpus, int flags)
{
	cpubinds++;
	return __real_hwloc_set_cpubind(machine, cpus, flags);
}

static int machine_clear(void **state)
{
	(void)state;
	unsetenv("HWLOC_SYNTHETIC");
	unreadable = false;
	memset(&placed, 0, sizeof(placed));
	cpubinds = 0;
	return 0;
}

static void this_machine_is_read(void **state)
{
	struct topo *t = NULL;
	cpu_set_t set;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
	assert_int_equal(topo_new(&t), FTMEM_OK);
	assert_int_equal(topo_cpus(t), CPU_COUNT(&set));
	topo_free(t);
}

static void caches_and_cpus_are_counted(void **state)
{
	struct topo *t;

	(void)state;
	setenv("HWLOC_SYNTHETIC", "node:2 l2:3(size=1048576) core:1 pu:2", 1);
	assert_int_equal(topo_new(&t), FTMEM_OK);
	assert_int_equal(topo_cpus(t), 12);
	assert_int_equal(topo_l2_bytes(t), 1048576);
	topo_free(t);
	setenv("HWLOC_SYNTHETIC", "core:3 pu:1", 1);
	assert_int_equal(topo_new(&t), FTMEM_OK);
	assert_int_equal(topo_l2_bytes(t), 0);
	topo_free(t);
}

static void memory_goes_to_all_nodes_the_process_may_run_on(void **state)
{
	static char arena[100];
	struct topo *t;

	(void)state;
	setenv("HWLOC_SYNTHETIC", "node:2 core:2 pu:1", 1);
	assert_int_equal(topo_new(&t), FTMEM_OK);
	assert_int_equal(topo_place(t, arena, 0), FTMEM_OK);
	assert_int_equal(placed.calls, 0);
	assert_int_equal(topo_place(t, arena, sizeof(arena)), FTMEM_OK);
	assert_int_equal(placed.calls, 1);
	assert_ptr_equal(placed.addr, arena);
	assert_int_equal(placed.bytes, sizeof(arena));
	assert_string_equal(placed.nodes, "0-1");
	assert_int_equal(placed.policy, HWLOC_MEMBIND_INTERLEAVE);
	assert_int_equal(placed.flags & HWLOC_MEMBIND_BYNODESET, HWLOC_MEMBIND_BYNODESET);
	assert_int_equal(placed.flags & HWLOC_MEMBIND_STRICT, 0);
	topo_free(t);
}

static void one_memory_node_needs_no_placing(void **state)
{
	static char arena[100];
	struct topo *t;

	(void)state;
	setenv("HWLOC_SYNTHETIC", "node:1 core:2 pu:1", 1);
	assert_int_equal(topo_new(&t), FTMEM_OK);
	assert_int_equal(topo_place(t, arena, sizeof(arena)), FTMEM_OK);
	assert_int_equal(placed.calls, 0);
	topo_free(t);
}

static void unreadable_machine_places_nothing(void **state)
{
	static char arena[100];
	struct topo *t;

	(void)state;
	unreadable = true;
	assert_int_equal(topo_new(&t), FTMEM_OK);
	assert_int_equal(topo_place(t, arena, sizeof(arena)), FTMEM_OK);
	topo_pin(t);
	assert_int_equal(placed.calls, 0);
	assert_int_equal(cpubinds, 0);
	assert_true(topo_cpus(t) >= 1);
	assert_int_equal(topo_l2_bytes(t), 0);
	topo_free(t);
}

struct pinned {
	struct topo *topo;
	int before, after;
};

static void *pin_self(void *arg)
{
	struct pinned *p = (struct pinned *)arg;
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		p->before = CPU_COUNT(&set);
	topo_pin(p->topo);
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		p->after = CPU_COUNT(&set);
	return NULL;
}

static void threads_get_the_cpus_of_the_process_not_of_their_creator(void **state)
{
	cpu_set_t all, one;
	struct pinned p = {0};
	pthread_t thread;
	int cpu = 0;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	if (CPU_COUNT(&all) < 2)
		skip();
	assert_int_equal(topo_new(&p.topo), FTMEM_OK);
	while (!CPU_ISSET(cpu, &all))
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(pthread_create(&thread, NULL, pin_self, &p), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	assert_int_equal(p.before, 1);
	assert_int_equal(p.after, CPU_COUNT(&all));
	topo_free(p.topo);
}

/* A machine of two memory nodes, one CPU each, as this process sees it when it may
 * run on one CPU only. */
static void memory_goes_to_the_node_of_the_cpus(void **state)
{
	static char arena[100];
	cpu_set_t all, one;
	struct topo *t;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	if (!CPU_ISSET(1, &all))
		skip();
	CPU_ZERO(&one);
	CPU_SET(1, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	setenv("HWLOC_SYNTHETIC", "node:2 core:1 pu:1", 1);
	setenv("HWLOC_THISSYSTEM", "1", 1);
	assert_int_equal(topo_new(&t), FTMEM_OK);
	unsetenv("HWLOC_THISSYSTEM");
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	assert_int_equal(topo_cpus(t), 1);
	assert_int_equal(topo_place(t, arena, sizeof(arena)), FTMEM_OK);
	assert_int_equal(placed.calls, 1);
	assert_string_equal(placed.nodes, "1");
	assert_int_equal(placed.policy, HWLOC_MEMBIND_BIND);
	assert_int_equal(placed.flags & HWLOC_MEMBIND_STRICT, 0);
	topo_free(t);
}

static void no_memory_is_said(void **state)
{
	struct topo *t = NULL;

	(void)state;
	alloc_fail_at(1);
	assert_int_equal(topo_new(&t), FTMEM_ENOMEM);
	alloc_fail_off();
	assert_null(t);
	topo_free(NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, machine_clear)
	const struct CMUnitTest tests[] = {
		TEST(this_machine_is_read),
		TEST(caches_and_cpus_are_counted),
		TEST(memory_goes_to_all_nodes_the_process_may_run_on),
		TEST(memory_goes_to_the_node_of_the_cpus),
		TEST(one_memory_node_needs_no_placing),
		TEST(unreadable_machine_places_nothing),
		TEST(threads_get_the_cpus_of_the_process_not_of_their_creator),
		TEST(no_memory_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
