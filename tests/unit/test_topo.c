/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Linked with --wrap=malloc,calloc,realloc and alloc_fail.c, and with --wrap= for the
 * functions of hwloc below. Machines are made up with HWLOC_SYNTHETIC, and what the
 * process may use and is bound to with `allowed` and `bound`.
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
hwloc_const_cpuset_t __real_hwloc_topology_get_allowed_cpuset(hwloc_topology_t machine);
hwloc_const_cpuset_t __wrap_hwloc_topology_get_allowed_cpuset(hwloc_topology_t machine);
int __real_hwloc_get_cpubind(hwloc_topology_t machine, hwloc_cpuset_t cpus, int flags);
int __wrap_hwloc_get_cpubind(hwloc_topology_t machine, hwloc_cpuset_t cpus, int flags);
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

/* Lists of CPUs; NULL: as the machine says. */
static const char *allowed, *bound;

hwloc_const_cpuset_t __wrap_hwloc_topology_get_allowed_cpuset(hwloc_topology_t machine)
{
	static hwloc_bitmap_t set;

	if (!allowed)
		return __real_hwloc_topology_get_allowed_cpuset(machine);
	hwloc_bitmap_free(set);
	set = hwloc_bitmap_alloc();
	hwloc_bitmap_list_sscanf(set, allowed);
	return set;
}

int __wrap_hwloc_get_cpubind(hwloc_topology_t machine, hwloc_cpuset_t cpus, int flags)
{
	return bound ? hwloc_bitmap_list_sscanf(cpus, bound)
	             : __real_hwloc_get_cpubind(machine, cpus, flags);
}

static unsigned cpubinds, refuse_binds;
static char pinned_to[64];

int __wrap_hwloc_set_cpubind(hwloc_topology_t machine, hwloc_const_bitmap_t cpus, int flags)
{
	cpubinds++;
	hwloc_bitmap_list_snprintf(pinned_to, sizeof(pinned_to), cpus);
	if (cpubinds <= refuse_binds)
		return -1;
	return __real_hwloc_set_cpubind(machine, cpus, flags);
}

static int machine_clear(void **state)
{
	(void)state;
	unsetenv("HWLOC_SYNTHETIC");
	unreadable = false;
	memset(&placed, 0, sizeof(placed));
	cpubinds = refuse_binds = 0;
	pinned_to[0] = '\0';
	allowed = bound = NULL;
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
	struct topo_set told;
	struct topo *t;
	char text[100];

	(void)state;
	unreadable = true;
	assert_int_equal(topo_new(&t), FTMEM_OK);
	assert_int_equal(topo_place(t, arena, sizeof(arena)), FTMEM_OK);
	told = topo_bound(t);
	topo_note(t, &told);
	assert_int_equal(topo_choose(t, "auto"), FTMEM_OK);
	assert_int_equal(topo_choose(t, "1000"), FTMEM_OK);
	topo_pin(t);
	topo_describe(t, text, sizeof(text));
	assert_string_equal(text, "of their creator (not pinned)");
	assert_int_equal(placed.calls, 0);
	assert_int_equal(cpubinds, 0);
	assert_true(topo_cpus(t) >= 1);
	assert_int_equal(topo_l2_bytes(t), 0);
	assert_int_equal(topo_share(t), topo_cpus(t));
	topo_note(t, &told);
	topo_note(t, &told);
	topo_note(t, &told);
	assert_int_equal(topo_choose(t, "auto"), FTMEM_OK);
	assert_int_equal(topo_share(t), topo_cpus(t) > 4 ? topo_cpus(t) / 4 : 1);
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

/* --- beside the trainer --- */

static struct topo_set set_of(const char *list)
{
	hwloc_bitmap_t bits = hwloc_bitmap_alloc();
	struct topo_set set = {{0}};

	assert_int_equal(hwloc_bitmap_list_sscanf(bits, list), 0);
	for (int cpu = hwloc_bitmap_first(bits); cpu >= 0; cpu = hwloc_bitmap_next(bits, cpu))
		set.word[cpu / 64] |= UINT64_C(1) << cpu % 64;
	hwloc_bitmap_free(bits);
	return set;
}

/* Where threads go on that machine: of a rank that is bound to own (NULL: not bound), as
 * are others, with cpus as option. The caller frees. */
static struct topo *choose(const char *machine, const char *own, const char *const *others,
                           const char *cpus)
{
	struct topo_set set;
	struct topo *t;

	setenv("HWLOC_SYNTHETIC", machine, 1);
	bound = own;
	assert_int_equal(topo_new(&t), FTMEM_OK);
	set = topo_bound(t);
	topo_note(t, &set);
	for (; others && *others; others++) {
		set = set_of(*others);
		topo_note(t, &set);
	}
	assert_int_equal(topo_choose(t, cpus), FTMEM_OK);
	cpubinds = 0;
	pinned_to[0] = '\0';
	topo_pin(t);
	return t;
}

static void goes_to(const char *expected, const char *machine, const char *own,
                    const char *const *others)
{
	topo_free(choose(machine, own, others, "auto"));
	assert_string_equal(pinned_to, expected);
}

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
/* CPUs of a core are neighbours: 0 and 1, 2 and 3, .. */
#define TWO_SOCKETS "package:2 numa:1 core:4 pu:2"

static void threads_go_beside_the_ranks_of_their_memory_node(void **state)
{
	(void)state;
	goes_to("4-7", TWO_SOCKETS, "0-1", LIST("2-3", "8-9", "10-11"));
	goes_to("12-15", TWO_SOCKETS, "8-9", LIST("0-1", "2-3", "10-11"));
	goes_to("2-7", TWO_SOCKETS, "0-1", NULL);
}

static void half_a_core_is_not_free(void **state)
{
	(void)state;
	goes_to("4-7", TWO_SOCKETS, "0", LIST("2"));
}

static void other_nodes_of_the_package_help_out(void **state)
{
	(void)state;
	goes_to("4-7", "package:2 numa:2 core:4 pu:1", "0-1", LIST("2-3"));
	goes_to("3-7", "package:2 numa:2 core:4 pu:1", "0", LIST("1", "2"));
}

/* Also not on the other package, whose memory is far. */
static void without_free_cores_threads_share_those_of_the_rank(void **state)
{
	(void)state;
	goes_to("1", TWO_SOCKETS, "0", LIST("2", "4", "6"));
	goes_to("0-1", TWO_SOCKETS, "0-1", LIST("2-3", "4-5", "6-7"));
	goes_to("0", "package:2 numa:1 core:2 pu:1", "0", LIST("1"));
	goes_to("0-7", TWO_SOCKETS, "0-7", LIST("8-15"));
}

static void a_sibling_of_another_rank_is_not_taken(void **state)
{
	(void)state;
	goes_to("0", TWO_SOCKETS, "0", LIST("1", "2", "4", "6"));
}

static void fewer_free_cpus_than_ranks_are_left_alone(void **state)
{
	(void)state;
	goes_to("3", "package:1 numa:1 core:4 pu:1", "0-2", NULL);
	goes_to("0", "package:1 numa:1 core:4 pu:1", "0", LIST("1", "2"));
	goes_to("2-3", "package:1 numa:1 core:4 pu:1", "0", LIST("1"));
	goes_to("2-3", "package:2 numa:1 core:4 pu:1", "0", LIST("1", "4", "5"));
}

static void a_rank_that_is_not_bound_keeps_all_its_cpus(void **state)
{
	struct topo_set none;
	struct topo *t;

	(void)state;
	goes_to("0-15", TWO_SOCKETS, NULL, LIST("2-3"));
	t = choose(TWO_SOCKETS, NULL, NULL, "auto");
	none = topo_bound(t);
	topo_free(t);
	assert_memory_equal(&none, &(struct topo_set){{0}}, sizeof(none));
	/* That the control group gives it no more is not the launcher's binding. */
	allowed = "4-7";
	goes_to("4-7", TWO_SOCKETS, "4-7", NULL);
}

static void cpus_of_others_control_groups_are_left_alone(void **state)
{
	(void)state;
	allowed = "0-5";
	goes_to("2-5", TWO_SOCKETS, "0-1", NULL);
	allowed = "0-1,6,8-15";
	goes_to("0", TWO_SOCKETS, "0", LIST("1,6"));
}

static void listed_cpus_are_taken_if_they_may_be_used(void **state)
{
	char text[100];
	struct topo *t = choose(TWO_SOCKETS, "0-1", LIST("2-3"), "3,14-20");

	(void)state;
	assert_string_equal(pinned_to, "3,14-15");
	topo_describe(t, text, sizeof(text));
	assert_string_equal(text, "3,14-15 (as progress_cpus says)");
	assert_string_equal(topo_left_out(t), "16-20, which this process may not use");
	assert_int_equal(topo_choose(t, "16-20"), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "FTMEM_PROGRESS_CPUS"));
	assert_non_null(strstr(error_msg(), "\"16-20\""));
	assert_non_null(strstr(error_msg(), "only 0-15"));
	assert_int_equal(topo_choose(t, "3,15"), FTMEM_OK);
	assert_string_equal(topo_left_out(t), "");
	topo_free(t);
}

static void a_list_for_an_unreadable_machine_is_left_out(void **state)
{
	struct topo *t;

	(void)state;
	unreadable = true;
	assert_int_equal(topo_new(&t), FTMEM_OK);
	assert_int_equal(topo_choose(t, "0,4-7"), FTMEM_OK);
	assert_string_equal(topo_left_out(t), "0,4-7, since hwloc cannot read this machine");
	assert_int_equal(topo_choose(t, "auto"), FTMEM_OK);
	assert_string_equal(topo_left_out(t), "");
	topo_free(t);
}

static void none_pins_nothing(void **state)
{
	struct topo *t = choose(TWO_SOCKETS, "0-1", NULL, "none");

	(void)state;
	assert_int_equal(cpubinds, 0);
	topo_free(t);
}

static void refused_cpus_leave_threads_with_the_process(void **state)
{
	struct topo *t = choose(TWO_SOCKETS, "0-1", NULL, "auto");

	(void)state;
	cpubinds = 0;
	refuse_binds = 1;
	topo_pin(t);
	assert_int_equal(cpubinds, 2);
	assert_string_equal(pinned_to, "0-1");
	topo_free(t);
}

static void share_is(uint32_t expected, const char *machine, const char *own,
                     const char *const *others, const char *cpus)
{
	struct topo *t = choose(machine, own, others, cpus);

	assert_int_equal(topo_share(t), expected);
	topo_free(t);
}

static void ranks_whose_threads_run_on_the_same_cpus_share_them(void **state)
{
	(void)state;
	/* Free cores: with those near to them. */
	share_is(2, TWO_SOCKETS, "0-1", LIST("2-3", "8-9", "10-11"), "auto");
	share_is(6, TWO_SOCKETS, "0-1", LIST("8-9", "10-11"), "auto");
	/* With the trainer, and other trainers there. */
	share_is(2, TWO_SOCKETS, "0-1", LIST("2-3", "4-5", "6-7"), "auto");
	share_is(2, TWO_SOCKETS, "0-7", LIST("0-7", "0-7", "8-15", "8-15"), "auto");
	share_is(1, TWO_SOCKETS, "0", LIST("2", "4", "6"), "auto");
	share_is(2, TWO_SOCKETS, "0-7", LIST("0-7", "0-7"), "none");
	/* Not bound, or listed: with all of the machine. */
	share_is(16, TWO_SOCKETS, NULL, NULL, "auto");
	share_is(5, TWO_SOCKETS, NULL, LIST("", ""), "auto");
	share_is(5, TWO_SOCKETS, NULL, LIST("", ""), "none");
	share_is(3, TWO_SOCKETS, "0-7", LIST("8-15"), "2-7");
}

static void a_rank_has_at_least_one_cpu(void **state)
{
	struct topo *t;

	(void)state;
	share_is(1, "package:1 numa:1 core:2 pu:1", NULL, LIST("", "", "", ""), "auto");
	share_is(1, TWO_SOCKETS, "0-1", LIST("0-1", "0-1", "2-7"), "auto");
	assert_int_equal(topo_new(&t), FTMEM_OK);
	assert_true(topo_share(t) >= 1);
	topo_free(t);
}

/* What other ranks say is only looked at where this machine has CPUs. */
static void cpus_that_do_not_exist_are_noted_for_nothing(void **state)
{
	(void)state;
	goes_to("4-7", TWO_SOCKETS, "0-1", LIST("2-3", "16-1023"));
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
		TEST(threads_go_beside_the_ranks_of_their_memory_node),
		TEST(half_a_core_is_not_free),
		TEST(other_nodes_of_the_package_help_out),
		TEST(without_free_cores_threads_share_those_of_the_rank),
		TEST(a_sibling_of_another_rank_is_not_taken),
		TEST(fewer_free_cpus_than_ranks_are_left_alone),
		TEST(a_rank_that_is_not_bound_keeps_all_its_cpus),
		TEST(cpus_of_others_control_groups_are_left_alone),
		TEST(listed_cpus_are_taken_if_they_may_be_used),
		TEST(a_list_for_an_unreadable_machine_is_left_out),
		TEST(none_pins_nothing),
		TEST(refused_cpus_leave_threads_with_the_process),
		TEST(ranks_whose_threads_run_on_the_same_cpus_share_them),
		TEST(a_rank_has_at_least_one_cpu),
		TEST(cpus_that_do_not_exist_are_noted_for_nothing),
		TEST(no_memory_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
