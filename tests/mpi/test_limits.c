/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the system grants runs out, or its clock jumps: 3 ranks, one per node. The library says
 * what is short, on all ranks, and works as soon as it is not.
 */
#include "cluster.h"
#include "mpi_check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

static struct cluster job;
static const uint32_t odd = 1; /* the rank that is short of something */
static int64_t clock_offset_s;

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	int rc = __real_clock_gettime(id, t);

	if (id == CLOCK_REALTIME)
		t->tv_sec += clock_offset_s;
	return rc;
}

static void init(void)
{
	const uint64_t bytes[] = {70000, 4097};

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1");
	cluster_regions(&job, bytes, 2);
}

/* Also what is committed then, without the memory of the node that was short. */
static void restores_and_commits(uint64_t version)
{
	cluster_start(&job);
	cluster_restore(&job, version);
	cluster_commit(&job, version + 1);
	cluster_close(&job);
	cluster_lose(&job, 1u << odd);
	cluster_start(&job);
	cluster_restore(&job, version + 1);
	cluster_close(&job);
}

/* The descriptor that the next open() gets, and all after it. */
static rlim_t next_descriptor(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	rlim_t last = 0;

	CHECK(dir);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(dir)
		    && (rlim_t)atoi(entry->d_name) > last)
			last = (rlim_t)atoi(entry->d_name);
	closedir(dir);
	return last + 1;
}

static void set_limit(int what, rlim_t value)
{
	struct rlimit limit;

	CHECK(getrlimit((__rlimit_resource_t)what, &limit) == 0);
	limit.rlim_cur = value < limit.rlim_max ? value : limit.rlim_max;
	CHECK(setrlimit((__rlimit_resource_t)what, &limit) == 0);
}

static void too_few_descriptors_are_named_and_later_enough(void)
{
	struct rlimit former;
	unsigned refused = 0;
	bool enough = false;
	uint64_t version = 1;

	init();
	cluster_start(&job);
	cluster_commit(&job, version);
	cluster_close(&job);
	CHECK(getrlimit(RLIMIT_NOFILE, &former) == 0);
	for (rlim_t more = 0; !enough; more++) {
		int rc;

		CHECK(more < 64);
		check_note("%llu descriptors are left", (unsigned long long)more);
		/* Another SMP is started each second time. */
		cluster_lose(&job, more % 2 ? 1u << odd : 0);
		if (job.rank == odd)
			set_limit(RLIMIT_NOFILE, next_descriptor() + more);
		rc = cluster_try_start(&job);
		CHECK(check_same(job.comm, (uint64_t)(int64_t)rc));
		enough = rc == 0;
		if (rc < 0)
			CHECK_MESSAGE(job.rank == odd ? "open files" : "rank 1");
		refused += rc < 0;
		cluster_close(&job);
		CHECK(setrlimit(RLIMIT_NOFILE, &former) == 0);
	}
	CHECK_MSG(refused > 0, "nothing was short");
	restores_and_commits(version);
	cluster_deinit(&job);
	check_say("%u numbers of descriptors were too few", refused);
}

/* ftmem-smp inherits it from who starts it; arenas count as files. */
static void files_that_may_not_grow_are_named(void)
{
	struct rlimit former;
	int rc;

	init();
	CHECK(getrlimit(RLIMIT_FSIZE, &former) == 0);
	if (job.rank == odd)
		set_limit(RLIMIT_FSIZE, 4096);
	rc = cluster_try_start(&job);
	CHECK(setrlimit(RLIMIT_FSIZE, &former) == 0);
	CHECK_MSG(rc == FTMEM_ENOMEM || rc == FTMEM_ESYS || rc == FTMEM_ESMP, "%d", rc);
	CHECK_MESSAGE(job.rank == odd ? "File too large" : "rank 1");
	cluster_close(&job);
	cluster_lose(&job, ~0u);
	cluster_start(&job);
	cluster_commit(&job, 1);
	cluster_close(&job);
	restores_and_commits(1);
	cluster_deinit(&job);
}

static void host_memory_needs_no_right_to_lock_it(void)
{
	struct rlimit former;

	init();
	CHECK(getrlimit(RLIMIT_MEMLOCK, &former) == 0);
	set_limit(RLIMIT_MEMLOCK, 0);
	cluster_start(&job);
	cluster_commit(&job, 1);
	cluster_close(&job);
	restores_and_commits(1);
	CHECK(setrlimit(RLIMIT_MEMLOCK, &former) == 0);
	cluster_deinit(&job);
}

/* A device on which every write fails for want of room stands for the disk. */
static void a_full_log_disk_stops_nobody(void)
{
	char path[512];
	int refused = 0;

	init();
	snprintf(path, sizeof(path), "%s/%s@%s.log", getenv("FTMEM_DIR"), job.job,
	         job.node[job.node_of[job.rank]]);
	if (job.rank == 0 && mkdir(getenv("FTMEM_DIR"), 0700) != 0)
		CHECK(errno == EEXIST);
	check_barrier(job.comm);
	if (mknod(path, S_IFCHR | 0600, makedev(1, 7)) != 0)
		refused = errno;
	else
		close(open(path, O_WRONLY | O_CLOEXEC));
	if (check_max(job.comm, (uint64_t)refused) > 0) {
		check_not_tried("a full log disk", "a device cannot be made here: needs root");
		unlink(path);
		cluster_deinit(&job);
		return;
	}
	cluster_start(&job);
	cluster_commit(&job, 1);
	cluster_close(&job);
	restores_and_commits(1);
	cluster_deinit(&job);
	unlink(path);
}

static void a_clock_that_jumps_confuses_nothing(void)
{
	static const int64_t jump_s[] = {-3600, 7200, -86400 * 365, 86400 * 365 * 20, -5, 0};
	uint64_t version = 1;

	init();
	cluster_start(&job);
	cluster_commit(&job, version);
	for (size_t i = 0; i < sizeof(jump_s) / sizeof(jump_s[0]); i++) {
		/* In the midst of a run, then between two, on one rank or all. */
		clock_offset_s = i % 2 || job.rank == odd ? jump_s[i] : clock_offset_s;
		cluster_commit(&job, ++version);
		cluster_close(&job);
		clock_offset_s -= 100;
		cluster_lose(&job, 1u << (i % 3));
		cluster_start(&job);
		cluster_restore(&job, version);
		/* The same number again, with other content. */
		job.salt++;
		cluster_commit(&job, ++version);
		cluster_close(&job);
		cluster_start(&job);
		cluster_restore(&job, version);
	}
	clock_offset_s = 0;
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"too_few_descriptors_are_named_and_later_enough",
	         too_few_descriptors_are_named_and_later_enough},
		{"files_that_may_not_grow_are_named", files_that_may_not_grow_are_named},
		{"host_memory_needs_no_right_to_lock_it", host_memory_needs_no_right_to_lock_it},
		{"a_full_log_disk_stops_nobody", a_full_log_disk_stops_nobody},
		{"a_clock_that_jumps_confuses_nothing", a_clock_that_jumps_confuses_nothing},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
