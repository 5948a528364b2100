/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "checksum.h"
#include "error.h"
#include "slot.h"
#include "smp/store.h"

#define BYTES (64u * 1024u)
#define SEALS (F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)

struct fixture {
	struct process_table table;
	struct store *store;
	struct holder me, you; /* by connection */
};

static unsigned open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static int set_up(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	f.me = (struct holder){NULL, 1, 11};
	f.you = (struct holder){NULL, 2, 22};
	*state = &f;
	return store_new("job", &f.table, &f.store);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	store_free(f->store);
	assert_null(f->table.first);
	return 0;
}

/* A process that lives until it is ended, or the test is. */
static pid_t child_new(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!pid)
		pause();
	return pid;
}

static void child_end(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static int create(struct fixture *f, uint64_t epoch, uint32_t rank)
{
	int fd;

	return store_create(f->store, epoch, rank, BYTES, &f->me, &fd);
}

/* Sealed memory whose header says what store_adopt() wants to read. */
static int adoptable(uint64_t epoch, uint32_t rank, const char *job, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct arena_header h = {.magic = ARENA_MAGIC,
	                         .format = ARENA_FORMAT,
	                         .arena_bytes = BYTES,
	                         .epoch = epoch,
	                         .rank = rank};

	strcpy(h.job, job);
	h.header_sum = checksum(&h, sizeof(h));
	assert_int_equal(ftruncate(fd, BYTES), 0);
	assert_int_equal(pwrite(fd, &h, sizeof(h), 0), sizeof(h));
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void created_memory_is_sealed_zeroed_and_of_that_size(void **state)
{
	struct fixture *f = *state;
	uint8_t byte = 1;
	struct stat st;
	int fd = -1;

	assert_int_equal(store_create(f->store, 1, 2, BYTES, &f->me, &fd), 0);
	assert_int_equal(fcntl(fd, F_GET_SEALS) & SEALS, SEALS);
	assert_int_not_equal(ftruncate(fd, 0), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, BYTES);
	assert_int_equal(pread(fd, &byte, 1, BYTES - 1), 1);
	assert_int_equal(byte, 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(store_count(f->store), 1);
	assert_int_equal(store_bytes(f->store), BYTES);
	assert_int_equal(store_leases(f->store), 1);
}

static void sizes_and_names_that_cannot_be_are_refused(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(store_create(f->store, 1, 2, 0, &f->me, &fd), FTMEM_EINVAL);
	assert_int_equal(store_create(f->store, 1, 2, UINT64_MAX, &f->me, &fd), FTMEM_EINVAL);
	assert_int_equal(store_create(f->store, 0, 2, BYTES, &f->me, &fd), FTMEM_EINVAL);
	assert_int_equal(store_create(f->store, 1, WIRE_RANK_OBSERVER, BYTES, &f->me, &fd),
	                 FTMEM_EINVAL);
	assert_int_equal(create(f, 1, 2), 0);
	assert_int_equal(create(f, 1, 2), FTMEM_EINVAL);
	assert_int_equal(create(f, 2, 2), 0);
	assert_int_equal(create(f, 1, 3), 0);
}

static void a_lease_is_exclusive_until_released(void **state)
{
	struct fixture *f = *state;
	int32_t pid;
	int fd;

	assert_int_equal(create(f, 1, 0), 0);
	assert_int_equal(store_attach(f->store, 1, 0, &f->you, &fd, &pid), FTMEM_EATTACHED);
	assert_int_equal(pid, 11);
	assert_non_null(strstr(error_msg(), "process 11"));
	assert_int_equal(store_attach(f->store, 1, 0, NULL, &fd, &pid), 0);
	assert_int_equal(store_attach(f->store, 1, 0, &f->me, &fd, &pid), 0);
	assert_int_equal(store_release(f->store, 1, 0, &f->you), FTMEM_EINVAL);
	assert_int_equal(store_release(f->store, 1, 0, &f->me), 0);
	assert_int_equal(store_leases(f->store), 0);
	assert_int_equal(store_attach(f->store, 1, 0, &f->you, &fd, &pid), 0);
	assert_int_equal(store_attach(f->store, 1, 0, &f->me, &fd, &pid), FTMEM_EATTACHED);
	assert_int_equal(store_attach(f->store, 2, 0, &f->me, &fd, &pid), FTMEM_EINVAL);
}

static void a_lease_by_connection_ends_with_it(void **state)
{
	struct fixture *f = *state;
	int32_t pid;
	int fd;

	assert_int_equal(create(f, 1, 0), 0);
	store_connection_ended(f->store, 2, false);
	assert_int_equal(store_leases(f->store), 1);
	store_connection_ended(f->store, 1, false);
	assert_int_equal(store_leases(f->store), 0);
	assert_int_equal(store_attach(f->store, 1, 0, &f->you, &fd, &pid), 0);
}

static void a_lease_by_process_outlives_its_connection_and_ends_with_the_process(void **state)
{
	struct fixture *f = *state;
	struct process *process = NULL;
	pid_t child = child_new();
	struct holder theirs;
	struct pollfd gone;
	int32_t pid;
	int fd;

	assert_int_equal(process_get(&f->table, child, -1, &process), 0);
	assert_non_null(process);
	theirs = (struct holder){process, 5, child};
	assert_int_equal(store_create(f->store, 1, 0, BYTES, &theirs, &fd), 0);
	store_connection_ended(f->store, 5, false);
	assert_int_equal(store_attach(f->store, 1, 0, &f->me, &fd, &pid), FTMEM_EATTACHED);
	/* A second connection of the same process may take it again. */
	theirs.connection = 6;
	assert_int_equal(store_attach(f->store, 1, 0, &theirs, &fd, &pid), 0);

	child_end(child);
	gone = (struct pollfd){.fd = process->pidfd, .events = POLLIN};
	assert_int_equal(poll(&gone, 1, 10000), 1);
	assert_true(process_gone(process));
	assert_int_equal(store_attach(f->store, 1, 0, &f->me, &fd, &pid), 0);
	process_put(&f->table, process);
}

static void a_process_that_ended_leaves_its_arenas_free(void **state)
{
	struct fixture *f = *state;
	struct process *process = NULL;
	pid_t child = child_new();
	struct holder theirs;
	int fd;

	assert_int_equal(process_get(&f->table, child, -1, &process), 0);
	theirs = (struct holder){process, 5, child};
	assert_int_equal(store_create(f->store, 1, 0, BYTES, &theirs, &fd), 0);
	assert_int_equal(create(f, 1, 1), 0);
	child_end(child);
	store_process_ended(f->store, process);
	assert_int_equal(store_leases(f->store), 1);
	assert_int_equal(store_count(f->store), 2);
	process_put(&f->table, process);
	assert_null(f->table.first);
}

static void a_goodbye_frees_what_was_taken_there(void **state)
{
	struct fixture *f = *state;
	struct process *process = NULL;
	struct holder first, second;
	int fd;

	assert_int_equal(process_get(&f->table, getpid(), -1, &process), 0);
	first = (struct holder){process, 5, getpid()};
	second = (struct holder){process, 6, getpid()};
	assert_int_equal(store_create(f->store, 1, 0, BYTES, &first, &fd), 0);
	assert_int_equal(store_create(f->store, 1, 1, BYTES, &second, &fd), 0);
	assert_true(store_leased_by_others(f->store, &f->me));
	assert_false(store_leased_by_others(f->store, &first));
	store_connection_ended(f->store, 5, true);
	assert_int_equal(store_leases(f->store), 1);
	store_connection_ended(f->store, 6, true);
	assert_int_equal(store_leases(f->store), 0);
	process_put(&f->table, process);
}

static void a_process_is_one_object_while_it_lives(void **state)
{
	struct fixture *f = *state;
	struct process *a = NULL, *b = NULL;
	pid_t child = child_new();

	assert_int_equal(process_get(&f->table, child, -1, &a), 0);
	assert_int_equal(process_get(&f->table, child, -1, &b), 0);
	assert_ptr_equal(a, b);
	child_end(child);
	process_put(&f->table, b);
	b = NULL;
	assert_int_equal(process_get(&f->table, child, -1, &b), FTMEM_FRESH);
	assert_null(b);
	assert_int_equal(process_get(&f->table, 0, -1, &b), 0);
	assert_null(b);
	process_put(&f->table, a);
}

static void adopted_memory_is_checked(void **state)
{
	struct fixture *f = *state;
	unsigned fds = open_fds();
	int32_t pid;

	assert_int_equal(store_adopt(f->store, 1, 0, open("/dev/null", O_RDWR), &f->me, &pid),
	                 FTMEM_EINVAL);
	assert_int_equal(
		store_adopt(f->store, 1, 0, adoptable(1, 0, "job", F_SEAL_GROW), &f->me, &pid),
		FTMEM_EINVAL);
	assert_int_equal(store_adopt(f->store, 1, 0, adoptable(1, 0, "job", SEALS | F_SEAL_WRITE),
	                             &f->me, &pid),
	                 FTMEM_EINVAL);
	assert_int_equal(store_adopt(f->store, 1, 0, adoptable(2, 0, "job", SEALS), &f->me, &pid),
	                 FTMEM_EINVAL);
	assert_int_equal(store_adopt(f->store, 1, 0, adoptable(1, 1, "job", SEALS), &f->me, &pid),
	                 FTMEM_EINVAL);
	assert_int_equal(store_adopt(f->store, 1, 0, adoptable(1, 0, "jab", SEALS), &f->me, &pid),
	                 FTMEM_EINVAL);
	assert_int_equal(open_fds(), fds);
	assert_int_equal(store_count(f->store), 0);
	assert_int_equal(store_adopt(f->store, 1, 0, adoptable(1, 0, "job", SEALS), &f->me, &pid),
	                 0);
	assert_int_equal(store_count(f->store), 1);
	assert_int_equal(store_bytes(f->store), BYTES);
}

static void adopting_again_is_fine_with_the_same_memory_only(void **state)
{
	struct fixture *f = *state;
	int fd = adoptable(1, 0, "job", SEALS);
	unsigned fds;
	int32_t pid;

	assert_int_equal(store_adopt(f->store, 1, 0, dup(fd), &f->me, &pid), 0);
	fds = open_fds();
	assert_int_equal(store_adopt(f->store, 1, 0, dup(fd), &f->me, &pid), 0);
	assert_int_equal(store_adopt(f->store, 1, 0, dup(fd), &f->you, &pid), FTMEM_EATTACHED);
	assert_int_equal(pid, 11);
	assert_int_equal(store_adopt(f->store, 1, 0, adoptable(1, 0, "job", SEALS), &f->me, &pid),
	                 FTMEM_EINVAL);
	assert_int_equal(open_fds(), fds);
	assert_int_equal(store_count(f->store), 1);
	close(fd);
}

/* Whatever its header says meanwhile. */
static void the_same_memory_is_not_held_twice(void **state)
{
	struct fixture *f = *state;
	int fd = adoptable(1, 0, "job", SEALS);
	struct arena_header h;
	int32_t pid;

	assert_int_equal(store_adopt(f->store, 1, 0, dup(fd), &f->me, &pid), 0);
	assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
	h.epoch = 2;
	h.header_sum = arena_header_sum(&h);
	assert_int_equal(pwrite(fd, &h, sizeof(h), 0), sizeof(h));
	assert_int_equal(store_adopt(f->store, 2, 0, dup(fd), &f->me, &pid), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "held for another"));
	assert_int_equal(store_count(f->store), 1);
	assert_int_equal(store_bytes(f->store), BYTES);
	close(fd);
}

static void dropping_frees_memory(void **state)
{
	struct fixture *f = *state;
	unsigned fds = open_fds();
	uint64_t generation;
	int32_t pid;

	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(create(f, 1 + i % 4, i), 0);
	generation = store_generation(f->store);
	assert_int_equal(store_drop(f->store, 1, 0, &f->you, &pid), FTMEM_EATTACHED);
	assert_int_equal(store_drop(f->store, 1, 0, &f->me, &pid), 0);
	assert_int_equal(store_drop(f->store, 1, 0, &f->me, &pid), FTMEM_EINVAL);
	assert_int_equal(store_count(f->store), 39);
	assert_true(store_generation(f->store) != generation);
	store_retire(f->store, 3);
	assert_int_equal(store_count(f->store), 20);
	for (uint32_t i = 0; i < 20; i++)
		assert_true(store_at(f->store, i)->epoch >= 3);
	assert_null(store_at(f->store, 20));
	store_forget(f->store);
	assert_int_equal(store_count(f->store), 0);
	store_finish(f->store);
	assert_int_equal(open_fds(), fds);
}

/* As a trainer writes it: header, then slots. */
static void write_slots(int fd, uint64_t slot0, uint64_t slot1)
{
	struct arena_header h = {.magic = ARENA_MAGIC,
	                         .format = ARENA_FORMAT,
	                         .arena_bytes = BYTES,
	                         .slot_offset = {slot0, slot1}};

	h.header_sum = checksum(&h, sizeof(h));
	assert_int_equal(pwrite(fd, &h, sizeof(h), 0), sizeof(h));
}

static void slots_are_shown_as_they_are(void **state)
{
	struct fixture *f = *state;
	struct slot_header slot = {.version = 9, .incarnation = 4, .filled_ns = 77};
	struct wire_slot got[2];
	int fd = -1;

	assert_int_equal(store_create(f->store, 1, 2, BYTES, &f->me, &fd), 0);
	store_slots(store_at(f->store, 0), got);
	assert_int_equal(got[0].state, SLOT_EMPTY);
	write_slots(fd, 8192, 16384);
	atomic_store(&slot.state, 9 << 8 | SLOT_COMMITTED);
	assert_int_equal(pwrite(fd, &slot, sizeof(slot), 8192), sizeof(slot));
	atomic_store(&slot.state, 10 << 8 | SLOT_FILLING);
	assert_int_equal(pwrite(fd, &slot, sizeof(slot), 16384), sizeof(slot));
	store_slots(store_at(f->store, 0), got);
	assert_int_equal(got[0].state, SLOT_COMMITTED);
	assert_int_equal(got[0].version, 9);
	assert_int_equal(got[0].incarnation, 4);
	assert_int_equal(got[0].filled_ns, 77);
	assert_int_equal(got[1].state, SLOT_FILLING);
	assert_int_equal(got[1].version, 10);
	/* A word that does not go with its version. */
	atomic_store(&slot.state, 10 << 8 | SLOT_COMMITTED);
	assert_int_equal(pwrite(fd, &slot, sizeof(slot), 16384), sizeof(slot));
	store_slots(store_at(f->store, 0), got);
	assert_int_equal(got[1].state, SLOT_EMPTY);
}

static void looking_at_hostile_headers_is_harmless(void **state)
{
	static const uint64_t offsets[] = {0,
	                                   1,
	                                   BYTES - 1,
	                                   BYTES,
	                                   BYTES + 4096,
	                                   UINT64_MAX,
	                                   (uint64_t)INT64_MAX,
	                                   (uint64_t)INT64_MAX + 1};
	struct fixture *f = *state;
	struct wire_slot got[2];
	struct stat st;
	int fd = -1;

	assert_int_equal(store_create(f->store, 1, 2, BYTES, &f->me, &fd), 0);
	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		write_slots(fd, offsets[i], offsets[i]);
		store_slots(store_at(f->store, 0), got);
		assert_int_equal(got[0].state, SLOT_EMPTY);
	}
	/* And takes no memory: only the page that was written is there. */
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_blocks * 512 <= 4096);
}

static void a_failed_allocation_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct process *process = NULL;
	struct store *other = NULL;
	unsigned fds = open_fds();
	int fd = -1;
	int32_t pid;

	alloc_fail_at(1);
	assert_int_equal(store_new("job", &f->table, &other), FTMEM_ENOMEM);
	alloc_fail_at(1);
	assert_int_equal(create(f, 1, 0), FTMEM_ENOMEM);
	alloc_fail_off();
	fd = adoptable(1, 0, "job", SEALS);
	alloc_fail_at(1);
	assert_int_equal(store_adopt(f->store, 1, 0, fd, &f->me, &pid), FTMEM_ENOMEM);
	alloc_fail_at(1);
	assert_int_equal(process_get(&f->table, getpid(), -1, &process), FTMEM_ENOMEM);
	alloc_fail_off();
	assert_null(process);
	assert_int_equal(store_count(f->store), 0);
	assert_int_equal(open_fds(), fds);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(created_memory_is_sealed_zeroed_and_of_that_size),
		TEST(sizes_and_names_that_cannot_be_are_refused),
		TEST(a_lease_is_exclusive_until_released),
		TEST(a_lease_by_connection_ends_with_it),
		TEST(a_lease_by_process_outlives_its_connection_and_ends_with_the_process),
		TEST(a_process_that_ended_leaves_its_arenas_free),
		TEST(a_goodbye_frees_what_was_taken_there),
		TEST(a_process_is_one_object_while_it_lives),
		TEST(adopted_memory_is_checked),
		TEST(adopting_again_is_fine_with_the_same_memory_only),
		TEST(the_same_memory_is_not_held_twice),
		TEST(dropping_frees_memory),
		TEST(slots_are_shown_as_they_are),
		TEST(looking_at_hostile_headers_is_harmless),
		TEST(a_failed_allocation_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
