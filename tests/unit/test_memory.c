/* SPDX-License-Identifier: BSD-3-Clause */
/* Linked with --wrap=madvise,--wrap=mmap,--wrap=pthread_create. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "error.h"
#include "memory.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define MIB ((size_t)1 << 20)

int __real_madvise(void *addr, size_t bytes, int advice);
int __wrap_madvise(void *addr, size_t bytes, int advice);
void *__real_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);

/* The advice that fails, and how; 0: none. The errno of mmap(), 0: it works. */
static int bad_advice, advice_errno, mmap_errno;
static unsigned threads_made, threads_refused_after, open_to_signals;

int __wrap_madvise(void *addr, size_t bytes, int advice)
{
	if (advice != bad_advice)
		return __real_madvise(addr, bytes, advice);
	errno = advice_errno;
	return -1;
}

void *__wrap_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	if (mmap_errno == 0)
		return __real_mmap(addr, bytes, prot, flags, fd, offset);
	errno = mmap_errno;
	return MAP_FAILED;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg)
{
	sigset_t mask;

	if (threads_made == threads_refused_after)
		return EAGAIN;
	threads_made++;
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	open_to_signals += sigismember(&mask, SIGTERM) != 1;
	return __real_pthread_create(thread, attr, run, arg);
}

static int faults_clear(void **state)
{
	(void)state;
	bad_advice = 0;
	mmap_errno = 0;
	threads_made = 0;
	open_to_signals = 0;
	threads_refused_after = UINT32_MAX;
	return 0;
}

static char root[64];

/* Writes a file below root, making its folders. */
static void put(const char *path, const char *text)
{
	char full[256], *at;
	FILE *file;

	snprintf(full, sizeof(full), "%s%s", root, path);
	for (at = strchr(full + strlen(root) + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = '\0';
		assert_true(mkdir(full, 0700) == 0 || errno == EEXIST);
		*at = '/';
	}
	file = fopen(full, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static int root_make(void **state)
{
	faults_clear(state);
	strcpy(root, "/tmp/ftmem-test-memory-XXXXXX");
	if (!mkdtemp(root))
		return -1;
	put("/proc/meminfo", "MemTotal:  9000000 kB\nMemFree:  1 kB\nMemAvailable:  8000000 kB\n");
	return 0;
}

static int root_remove(void **state)
{
	char command[96];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	return system(command);
}

static void what_the_system_has_is_the_most(void **state)
{
	(void)state;
	assert_int_equal(memory_available_in(root), UINT64_C(8000000) * 1024);
	put("/proc/self/cgroup", "garbage\n\n::\n0::\n");
	put("/proc/self/mountinfo", "garbage\n\n1 2 3 - cgroup2\n - cgroup2 x y\n");
	assert_int_equal(memory_available_in(root), UINT64_C(8000000) * 1024);
	put("/proc/meminfo", "MemTotal: 1 kB\n");
	assert_true(memory_available_in(root) > 0);
	assert_true(memory_available_in("/nonexistent") > 0);
	assert_true(memory_available() > 0 && memory_available() < UINT64_MAX);
}

static void unified_limits_count_at_all_levels(void **state)
{
	(void)state;
	put("/proc/self/cgroup", "0::/a/b/c\n");
	put("/proc/self/mountinfo",
	    "22 1 0:21 / /proc rw - proc proc rw\n"
	    "31 23 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
	put("/sys/fs/cgroup/a/b/c/memory.max", "max\n");
	put("/sys/fs/cgroup/a/b/c/memory.current", "5\n");
	assert_int_equal(memory_available_in(root), UINT64_C(8000000) * 1024);
	put("/sys/fs/cgroup/a/b/memory.max", "1000000\n");
	put("/sys/fs/cgroup/a/b/memory.current", "400000\n");
	assert_int_equal(memory_available_in(root), 600000);
	put("/sys/fs/cgroup/a/b/memory.stat",
	    "anon 7\nfile 300000\ninactive_file 100000\nactive_file 50000\n");
	assert_int_equal(memory_available_in(root), 750000);
	put("/sys/fs/cgroup/a/memory.max", "700000\n");
	assert_int_equal(memory_available_in(root), 700000);
	put("/sys/fs/cgroup/a/b/c/memory.max", "9\n");
	assert_int_equal(memory_available_in(root), 4);
	put("/sys/fs/cgroup/a/b/c/memory.current", "10\n");
	assert_int_equal(memory_available_in(root), 0);
	put("/sys/fs/cgroup/a/b/c/memory.stat", "inactive_file 100\n");
	assert_int_equal(memory_available_in(root), 9);
	put("/sys/fs/cgroup/memory.max", "3\n");
	assert_int_equal(memory_available_in(root), 3);
}

static void limits_of_version_1_count_at_all_levels(void **state)
{
	(void)state;
	put("/proc/self/cgroup", "9:name=memory:/x\n5:cpu,cpuacct:/y\n"
	                         "4:hugetlb,memory:/job/step\n0::/z\n");
	put("/proc/self/mountinfo",
	    "30 23 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
	    "31 23 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,hugetlb,memory\n");
	put("/sys/fs/cgroup/memory/job/step/memory.limit_in_bytes", "9223372036854771712\n");
	put("/sys/fs/cgroup/memory/job/step/memory.usage_in_bytes", "1000\n");
	put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "5000\n");
	put("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "2000\n");
	put("/sys/fs/cgroup/memory/job/memory.stat", "inactive_file 7\ntotal_inactive_file 100\n");
	assert_int_equal(memory_available_in(root), 3100);
}

static void containers_see_what_is_mounted(void **state)
{
	(void)state;
	/* the mount begins below the host's root, the group lies below it */
	put("/proc/self/cgroup", "0::/pod/box/inner\n");
	put("/proc/self/mountinfo", "31 23 0:27 /pod/box /cg\\040roup ro - cgroup2 cgroup2 ro\n");
	put("/cg roup/memory.max", "5000\n");
	put("/cg roup/inner/memory.max", "4000\n");
	assert_int_equal(memory_available_in(root), 4000);
	/* or beside it: names alike are not folders below */
	put("/proc/self/cgroup", "0::/pod/boxes\n");
	put("/cg roup/es/memory.max", "1\n");
	assert_int_equal(memory_available_in(root), 5000);
	/* or outside of the namespace */
	put("/proc/self/mountinfo", "31 23 0:27 / /cg\\040roup ro - cgroup2 cgroup2 ro\n");
	put("/proc/self/cgroup", "0::/../inner\n");
	put("/inner/memory.max", "1\n");
	assert_int_equal(memory_available_in(root), 5000);
	put("/proc/self/cgroup", "0::/\n");
	assert_int_equal(memory_available_in(root), 5000);
}

static uint8_t *map_memfd(size_t mapped, size_t backed, int *fd)
{
	void *addr;

	*fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(*fd >= 0);
	assert_int_equal(ftruncate(*fd, (off_t)backed), 0);
	assert_int_equal(memory_map(*fd, mapped, 1, &addr), FTMEM_OK);
	return (uint8_t *)addr;
}

static bool all_resident(void *addr, size_t bytes)
{
	size_t pages = (bytes + 4095) / 4096, i;
	unsigned char *vec = calloc(pages, 1);

	assert_non_null(vec);
	assert_int_equal(mincore(addr, bytes, vec), 0);
	for (i = 0; i < pages && (vec[i] & 1) != 0; i++)
		;
	free(vec);
	return i == pages;
}

/* Pieces of 64 MiB: this is three of them, the last one odd. */
#define TOUCHED (129 * MIB + 4096 * 3 + 5)

static void touch_once(uint32_t threads)
{
	uint8_t *addr;
	int fd;

	addr = map_memfd(TOUCHED, TOUCHED, &fd);
	assert_false(all_resident(addr, TOUCHED));
	addr[70 * MIB + 1] = 42;
	assert_int_equal(memory_touch(addr, TOUCHED, threads), FTMEM_OK);
	assert_true(all_resident(addr, TOUCHED));
	assert_int_equal(addr[70 * MIB + 1], 42);
	assert_int_equal(addr[70 * MIB], 0);
	assert_int_equal(munmap(addr, TOUCHED), 0);
	close(fd);
}

static void touched_memory_is_there_and_as_it_was(void **state)
{
	(void)state;
	touch_once(1);
	assert_int_equal(threads_made, 0);
	touch_once(0);
	touch_once(1000);
	assert_int_equal(threads_made, 2);
	assert_int_equal(open_to_signals, 0);
}

static void touching_works_on_kernels_without_populate(void **state)
{
	(void)state;
	bad_advice = MADV_POPULATE_WRITE;
	advice_errno = EINVAL;
	touch_once(1);
	touch_once(4);
}

static void touching_works_with_fewer_threads_than_asked_for(void **state)
{
	(void)state;
	threads_refused_after = 1;
	touch_once(4);
	assert_int_equal(threads_made, 1);
}

static void any_part_of_a_page_means_the_page(void **state)
{
	uint8_t *addr;
	int fd;

	(void)state;
	addr = map_memfd(4 * 4096, 4 * 4096, &fd);
	assert_int_equal(memory_touch(addr + 4095, 2, 1), FTMEM_OK);
	assert_true(all_resident(addr, 2 * 4096));
	assert_int_equal(memory_touch(addr, 0, 1), FTMEM_OK);
	assert_int_equal(munmap(addr, 4 * 4096), 0);
	close(fd);
}

static void memory_that_cannot_be_had_is_no_signal(void **state)
{
	uint8_t *addr;
	int fd;

	(void)state;
	addr = map_memfd(100 * MIB, 4096, &fd);
	assert_int_equal(memory_touch(addr, 100 * MIB, 2), FTMEM_ENOMEM);
	assert_non_null(strstr(error_msg(), "104857600 bytes"));
	bad_advice = MADV_POPULATE_WRITE;
	advice_errno = EINVAL;
	assert_int_equal(memory_touch(addr, 100 * MIB, 2), FTMEM_ENOMEM);
	advice_errno = ENOMEM;
	assert_int_equal(memory_touch(addr, 4096, 1), FTMEM_ENOMEM);
	assert_int_equal(munmap(addr, 100 * MIB), 0);
	close(fd);
}

/* Whether the mapping that begins at addr has the flag, as /proc/self/smaps says. */
static bool mapping_has(const void *addr, const char *flag)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long begin, end;
	bool inside = false, has = false;
	char line[512];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
			inside = begin == (unsigned long)addr;
		if (inside && strncmp(line, "VmFlags:", 8) == 0)
			has = strstr(line, flag) != NULL;
	}
	fclose(file);
	return has;
}

static void arenas_are_neither_inherited_nor_dumped(void **state)
{
	unsigned char vec;
	uint8_t *addr;
	int fd, status;
	pid_t child;

	(void)state;
	addr = map_memfd(4096, 4096, &fd);
	addr[0] = 1;
	child = fork();
	assert_true(child >= 0);
	if (child == 0)
		_exit(mincore(addr, 4096, &vec) != 0 && errno == ENOMEM ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_true(mapping_has(addr, " dd"));
	assert_int_equal(munmap(addr, 4096), 0);
	close(fd);
}

static void readers_see_what_writers_write(void **state)
{
	void *reader;
	uint8_t *addr;
	int fd;

	(void)state;
	addr = map_memfd(4096, 4096, &fd);
	assert_int_equal(memory_map(fd, 4096, 0, &reader), FTMEM_OK);
	close(fd);
	addr[9] = 7;
	assert_int_equal(((uint8_t *)reader)[9], 7);
	assert_false(mapping_has(reader, " wr"));
	assert_int_equal(munmap(reader, 4096), 0);
	assert_int_equal(munmap(addr, 4096), 0);
}

static void failed_mappings_leave_nothing(void **state)
{
	void *addr = NULL;
	int fd;

	(void)state;
	assert_int_equal(memory_map(-1, 4096, 1, &addr), FTMEM_ESYS);
	assert_non_null(strstr(error_msg(), "4096 bytes"));
	fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4096), 0);
	mmap_errno = ENOMEM;
	assert_int_equal(memory_map(fd, 4096, 1, &addr), FTMEM_ENOMEM);
	mmap_errno = 0;
	bad_advice = MADV_DONTFORK;
	advice_errno = ENOMEM;
	assert_int_equal(memory_map(fd, 4096, 1, &addr), FTMEM_ENOMEM);
	assert_null(addr);
	advice_errno = EINVAL;
	assert_int_equal(memory_map(fd, 4096, 1, &addr), FTMEM_OK);
	assert_int_equal(munmap(addr, 4096), 0);
	close(fd);
}

int main(void)
{
#define TREE(name) cmocka_unit_test_setup_teardown(name, root_make, root_remove)
#define TEST(name) cmocka_unit_test_setup(name, faults_clear)
	const struct CMUnitTest tests[] = {
		TREE(what_the_system_has_is_the_most),
		TREE(unified_limits_count_at_all_levels),
		TREE(limits_of_version_1_count_at_all_levels),
		TREE(containers_see_what_is_mounted),
		TEST(touched_memory_is_there_and_as_it_was),
		TEST(touching_works_on_kernels_without_populate),
		TEST(touching_works_with_fewer_threads_than_asked_for),
		TEST(any_part_of_a_page_means_the_page),
		TEST(memory_that_cannot_be_had_is_no_signal),
		TEST(arenas_are_neither_inherited_nor_dumped),
		TEST(readers_see_what_writers_write),
		TEST(failed_mappings_leave_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
