/* SPDX-License-Identifier: BSD-3-Clause */
/* There is less memory than arenas or a restore need: 4 ranks, one per node. */
#include "cluster.h"
#include "error.h"
#include "memory.h"
#include "mpi_check.h"
#include "session.h"

#include <sys/mman.h>
#include <unistd.h>

static struct cluster job;
static const uint32_t odd = 2; /* the rank whose node is short */

/* What the library is told, in place of what is. */
static uint64_t room = UINT64_MAX;
static uint64_t room_grows; /* by so much at each look */
static bool touch_fails;

/* Bytes that this rank touched since it last met the others, and how often it met them without
 * being given time for that. */
static uint64_t touched;
static uint32_t impatient;

uint64_t __real_memory_available(void);
int __real_memory_touch(void *addr, size_t bytes, uint32_t threads);
uint64_t __wrap_memory_available(void);
int __wrap_memory_touch(void *addr, size_t bytes, uint32_t threads);

uint64_t __wrap_memory_available(void)
{
	uint64_t is = __real_memory_available(), told = is < room ? is : room;

	room += room_grows;
	return told;
}

int __wrap_memory_touch(void *addr, size_t bytes, uint32_t threads)
{
	if (touch_fails)
		return error_set(FTMEM_ENOMEM, "no page to give");
	touched += bytes;
	return __real_memory_touch(addr, bytes, threads);
}

/* As if it was killed just then. */
static bool dies_making_its_arena;

int __wrap_arena_create(int fd, const struct arena_spec *spec, struct arena **out);
int __real_arena_create(int fd, const struct arena_spec *spec, struct arena **out);
int __wrap_arena_create(int fd, const struct arena_spec *spec, struct arena **out)
{
	if (!dies_making_its_arena)
		return __real_arena_create(fd, spec, out);
	close(fd);
	return error_set(FTMEM_ENOMEM, "it fails, says the test");
}

int __wrap_smp_drop(struct smp_client *c, uint64_t epoch, uint32_t rank);
int __real_smp_drop(struct smp_client *c, uint64_t epoch, uint32_t rank);
int __wrap_smp_drop(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	return dies_making_its_arena ? 0 : __real_smp_drop(c, epoch, rank);
}

int __wrap_session_agree(struct ftmem *ft, int rc, const char *what);
int __real_session_agree(struct ftmem *ft, int rc, const char *what);
int __wrap_session_agree(struct ftmem *ft, int rc, const char *what)
{
	impatient += touched > 0;
	touched = 0;
	return __real_session_agree(ft, rc, what);
}

int __wrap_session_agree_late(struct ftmem *ft, int rc, uint64_t bytes, const char *what);
int __real_session_agree_late(struct ftmem *ft, int rc, uint64_t bytes, const char *what);
int __wrap_session_agree_late(struct ftmem *ft, int rc, uint64_t bytes, const char *what)
{
	impatient += bytes < touched;
	touched = 0;
	return __real_session_agree_late(ft, rc, bytes, what);
}

static void start_fresh(void)
{
	const uint64_t bytes[] = {100000 + 3000 * check_rank(), 4095};

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	cluster_regions(&job, bytes, 2);
	cluster_start_fresh(&job);
}

static uint32_t epochs_held(void)
{
	uint64_t newest;

	return cluster_epochs(&job, job.node_of[job.rank], &newest);
}

/* After a seal that failed: the version is there, the trainer goes on without what
 * was too much. */
static void the_former_epoch_goes_on(const char *too_much, uint64_t version)
{
	CHECK_RESULT(ftmem_wait(job.ft, version, 1000), 0);
	check_barrier(job.comm);
	CHECK_MSG(epochs_held() == 1, "%u epochs", epochs_held());
	check_barrier(job.comm);
	CHECK_RESULT(ftmem_region_remove(job.ft, too_much), 0);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_commit(&job, version + 1);
	cluster_close(&job);
	cluster_lose(&job, 1);
	cluster_start(&job);
	cluster_restore(&job, version + 1);
	cluster_deinit(&job);
}

static void arenas_larger_than_memory_are_refused(void)
{
	const size_t huge = (size_t)__real_memory_available() * 4;

	for (uint32_t all = 0; all < 2; all++) {
		struct ftmem_region r = FTMEM_REGION_INIT;

		check_note("%s", all ? "all ranks" : "one rank");
		start_fresh();
		cluster_commit(&job, 1);
		r.name = "huge";
		r.bytes = all || job.rank == odd ? huge : 10;
		r.addr = mmap(NULL, r.bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		              -1, 0);
		CHECK(r.addr != MAP_FAILED);
		CHECK_RESULT(ftmem_region_add(job.ft, &r), 0);
		CHECK_RESULT(ftmem_seal(job.ft), FTMEM_ENOMEM);
		if (all)
			CHECK_MESSAGE("MiB");
		the_former_epoch_goes_on("huge", 1);
		munmap(r.addr, r.bytes);
	}
}

/* The next seal needs memory for another epoch. */
static void store_and_add_a_region(void)
{
	static uint8_t more[5000];
	struct ftmem_region r = FTMEM_REGION_INIT;

	start_fresh();
	cluster_commit(&job, 1);
	r.name = "more";
	r.addr = more;
	r.bytes = sizeof(more);
	CHECK_RESULT(ftmem_region_add(job.ft, &r), 0);
}

static void a_node_without_room_is_named(void)
{
	store_and_add_a_region();
	room = job.rank == odd ? 100000 : UINT64_MAX;
	CHECK_RESULT(ftmem_seal(job.ft), FTMEM_ENOMEM);
	CHECK_MESSAGE("n2");
	room = UINT64_MAX;
	the_former_epoch_goes_on("more", 1);
}

/* What a former epoch held is freed in the background. */
static void memory_that_is_being_freed_is_waited_for(void)
{
	store_and_add_a_region();
	if (job.rank == odd) {
		room = 0;
		room_grows = 200000;
	}
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	room = UINT64_MAX;
	room_grows = 0;
	cluster_commit(&job, 2);
	cluster_deinit(&job);
}

static void memory_that_runs_out_while_it_is_taken_is_given_back(void)
{
	for (uint32_t all = 0; all < 2; all++) {
		store_and_add_a_region();
		touch_fails = all || job.rank == odd;
		CHECK_RESULT(ftmem_seal(job.ft), FTMEM_ENOMEM);
		CHECK_MESSAGE(touch_fails ? "no page" : "n2");
		touch_fails = false;
		the_former_epoch_goes_on("more", 1);
	}
}

static void a_first_seal_that_failed_can_be_done_again(void)
{
	const uint64_t bytes = 100000;

	for (uint32_t i = 0; i < 2; i++) {
		cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
		cluster_regions(&job, &bytes, 1);
		CHECK_RESULT(cluster_try_open(&job), 0);
		cluster_add_regions(&job);
		touch_fails = i == 0 && job.rank == odd;
		room = i == 1 && job.rank == odd ? 4096 : UINT64_MAX;
		CHECK_RESULT(ftmem_seal(job.ft), FTMEM_ENOMEM);
		CHECK_RESULT(ftmem_snapshot(job.ft, 1, NULL), FTMEM_EINVAL);
		check_barrier(job.comm);
		CHECK(epochs_held() == 0);
		touch_fails = false;
		room = UINT64_MAX;
		check_barrier(job.comm);
		CHECK_RESULT(ftmem_seal(job.ft), 0);
		cluster_restore_fails(&job, FTMEM_FRESH);
		cluster_commit(&job, 1);
		cluster_deinit(&job);
	}
}

/* A start that finds no memory leaves what is stored alone. */
static void what_is_stored_outlives_a_start_without_memory(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
	cluster_lose(&job, 1u << odd);
	room = job.rank == odd ? 4096 : UINT64_MAX;
	CHECK_RESULT(cluster_try_start(&job), FTMEM_ENOMEM);
	cluster_close(&job);
	room = UINT64_MAX;
	cluster_start(&job);
	cluster_restore(&job, 2);
	cluster_deinit(&job);
}

/* What was not written yet is no reason to take memory for another epoch on all nodes. */
static void who_died_as_it_made_its_arena_makes_another(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
	cluster_lose(&job, 1u << odd);
	dies_making_its_arena = job.rank == odd;
	CHECK_RESULT(cluster_try_start(&job), FTMEM_ENOMEM);
	dies_making_its_arena = false;
	cluster_close(&job);
	CHECK(epochs_held() == 1);
	check_barrier(job.comm);
	room = job.rank == odd ? UINT64_MAX : 4096;
	cluster_start(&job);
	cluster_restore(&job, 2);
	room = UINT64_MAX;
	CHECK(epochs_held() == 1);
	check_barrier(job.comm);
	cluster_commit(&job, 3);
	cluster_deinit(&job);
}

/* The version moves to a new epoch: a lost rank's slot is held beside the arenas. */
static void a_restore_without_room_touches_nothing(void)
{
	for (uint32_t turn = 0; turn < 2; turn++) {
		check_note("a node lost, no %s", turn ? "room" : "page");
		start_fresh();
		cluster_commit(&job, 1);
		cluster_close(&job);
		job.region[1].absent = true;
		cluster_lose(&job, 1u << odd);
		cluster_start(&job);
		room = turn && job.rank == odd ? 4096 : UINT64_MAX;
		touch_fails = !turn && job.rank == odd;
		cluster_restore_fails(&job, FTMEM_ENOMEM);
		CHECK_MESSAGE(touch_fails ? "no page" : job.node[job.node_of[odd]]);
		touch_fails = false;
		room = UINT64_MAX;
		cluster_restore(&job, 1);
		cluster_commit(&job, 2);
		cluster_deinit(&job);
	}
}

/* In new arenas, in those that are there, and for lost slots that are held beside them. */
static void ranks_have_time_to_take_memory(void)
{
	impatient = 0;
	start_fresh();
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_start(&job);
	cluster_restore(&job, 1);
	cluster_close(&job);
	job.region[1].absent = true;
	cluster_lose(&job, 1u << odd);
	cluster_start(&job);
	cluster_restore(&job, 1);
	CHECK_MSG(impatient == 0, "%u times a rank was not given time", impatient);
	cluster_deinit(&job);
}

/* What lies on other nodes comes straight into the regions. */
static void a_restore_on_other_nodes_needs_no_room(void)
{
	start_fresh();
	cluster_commit(&job, 1);
	cluster_close(&job);
	for (uint32_t i = 0; i < job.size; i++)
		job.node_of[i] = (i + 1) % job.size;
	cluster_start(&job);
	room = job.rank == odd ? 4096 : UINT64_MAX;
	touch_fails = job.rank == odd;
	cluster_restore(&job, 1);
	touch_fails = false;
	room = UINT64_MAX;
	cluster_commit(&job, 2);
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"arenas_larger_than_memory_are_refused", arenas_larger_than_memory_are_refused},
		{"a_node_without_room_is_named", a_node_without_room_is_named},
		{"memory_that_is_being_freed_is_waited_for",
	         memory_that_is_being_freed_is_waited_for},
		{"memory_that_runs_out_while_it_is_taken_is_given_back",
	         memory_that_runs_out_while_it_is_taken_is_given_back},
		{"a_first_seal_that_failed_can_be_done_again",
	         a_first_seal_that_failed_can_be_done_again},
		{"what_is_stored_outlives_a_start_without_memory",
	         what_is_stored_outlives_a_start_without_memory},
		{"who_died_as_it_made_its_arena_makes_another",
	         who_died_as_it_made_its_arena_makes_another},
		{"a_restore_without_room_touches_nothing", a_restore_without_room_touches_nothing},
		{"ranks_have_time_to_take_memory", ranks_have_time_to_take_memory},
		{"a_restore_on_other_nodes_needs_no_room", a_restore_on_other_nodes_needs_no_room},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
