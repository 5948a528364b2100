/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A folder of its own for each test, SMPs in it, and processes that use them. The
 * program ftmem-smp is the one FTMEM_SMP names, ftmem lies beside it. Whatever a test
 * leaves is ended and must then be gone: process, socket, lock, log.
 */
#ifndef FTMEM_TEST_SMP_FIXTURE_H
#define FTMEM_TEST_SMP_FIXTURE_H

#include <dirent.h>
#include <errno.h>
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "checksum.h"
#include "clock.h"
#include "error.h"
#include "slot.h"
#include "smp/client.h"
#include "test_env.h"

/* Long enough never to be met but by what never comes. */
#define SMP_PATIENCE_MS 60000
#define SMP_ARENA_BYTES (256u * 1024u)

struct smp_fixture {
	char dir[64];
	struct smp_config config; /* rank 0, timeout SMP_PATIENCE_MS */
};

/* Entries of a folder but . and .. */
static inline unsigned smp_fixture_entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count - 2;
}

static inline int smp_fixture_pidfd(int32_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* Waits until a process is gone that is no child. fd: its pidfd, or -1 if it was not
 * to be had any more. */
static inline void smp_fixture_await(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (fd < 0)
		return;
	assert_int_equal(poll(&p, 1, SMP_PATIENCE_MS), 1);
	close(fd);
}

static inline int smp_fixture_set_up(void **state)
{
	struct smp_fixture *f = calloc(1, sizeof(*f));

	if (!f)
		return -1;
	*state = f;
	strcpy(f->dir, "/tmp/ftmem-test-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->config = (struct smp_config){.dir = f->dir,
	                                .job = "job",
	                                .node = "node",
	                                .smp_path = getenv("FTMEM_SMP"),
	                                .expire_s = 600,
	                                .timeout_ms = SMP_PATIENCE_MS};
	return 0;
}

static inline bool smp_fixture_runs(int32_t pid)
{
	char path[64], text[512] = "";
	const char *state;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	close(fd);
	state = strrchr(text, ')');
	return state && state[1] && state[2] != 'Z' && state[2] != 'X';
}

/* fd: of that process, or -1 where none can be had, as under valgrind. */
static inline void smp_fixture_await_process(int fd, int32_t pid)
{
	uint64_t end = clock_deadline(SMP_PATIENCE_MS);

	smp_fixture_await(fd);
	while (fd < 0 && smp_fixture_runs(pid)) {
		assert_true(clock_ns() < end);
		clock_sleep(1000000);
	}
}

/* Ends the SMP of that job and node, if there is one. */
static inline void smp_fixture_end(const struct smp_fixture *f, const char *job, const char *node)
{
	struct smp_config config = f->config;
	struct smp_client *c = NULL;
	int32_t pid;
	int fd;

	config.job = job;
	config.node = node;
	config.smp_path = NULL;
	config.rank = WIRE_RANK_OBSERVER;
	if (smp_connect(&config, &c))
		return;
	pid = smp_pid(c);
	fd = smp_fixture_pidfd(pid);
	assert_int_equal(smp_stop(c, true), 0);
	smp_close(c);
	smp_fixture_await_process(fd, pid);
}

static inline int smp_fixture_tear_down(void **state)
{
	struct smp_fixture *f = *state;
	unsigned left;

	smp_fixture_end(f, "job", "node");
	left = smp_fixture_entries(f->dir);
	if (left)
		fprintf(stderr, "%u files left in %s\n", left, f->dir);
	rmdir(f->dir);
	free(f);
	/* No child is left either. */
	return left || waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD;
}

static inline struct smp_client *smp_fixture_connect(const struct smp_fixture *f, uint32_t rank)
{
	struct smp_config config = f->config;
	struct smp_client *c = NULL;

	config.rank = rank;
	if (smp_connect(&config, &c))
		fail_msg("%s", error_msg());
	return c;
}

/* A second process: runs task, tells its result, and lives until it is ended. */
struct smp_agent {
	pid_t pid;
	int out; /* to read what it wrote */
};

typedef int (*smp_task)(const struct smp_fixture *f, int out);

static inline struct smp_agent smp_agent_new(const struct smp_fixture *f, smp_task task)
{
	struct smp_agent a;
	int fd[2], rc;

	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	a.pid = fork();
	assert_true(a.pid >= 0);
	if (!a.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fd[0]);
		rc = task(f, fd[1]);
		if (write(fd[1], &rc, sizeof(rc)) != (ssize_t)sizeof(rc))
			_exit(1);
		for (;;)
			pause();
	}
	close(fd[1]);
	a.out = fd[0];
	return a;
}

/* The next bytes it writes, its task's result being the last. */
static inline void smp_agent_read(const struct smp_agent *a, void *data, size_t bytes)
{
	struct pollfd p = {.fd = a->out, .events = POLLIN};

	assert_int_equal(poll(&p, 1, SMP_PATIENCE_MS), 1);
	assert_int_equal(read(a->out, data, bytes), bytes);
}

static inline int smp_agent_result(const struct smp_agent *a)
{
	int rc = -1000;

	smp_agent_read(a, &rc, sizeof(rc));
	return rc;
}

static inline void smp_agent_end(struct smp_agent *a)
{
	kill(a->pid, SIGKILL);
	assert_int_equal(waitpid(a->pid, NULL, 0), a->pid);
	close(a->out);
}

static inline void smp_fixture_kill(int32_t pid)
{
	int fd = smp_fixture_pidfd(pid);

	kill(pid, SIGKILL);
	smp_fixture_await_process(fd, pid);
}

/* A task: connects and writes the SMP's process. */
static inline int smp_fixture_tell(const struct smp_fixture *f, int out)
{
	struct smp_client *c = NULL;
	int rc = smp_connect(&f->config, &c);
	int32_t pid = rc ? -1 : smp_pid(c);

	return write(out, &pid, sizeof(pid)) == (ssize_t)sizeof(pid) ? rc : -1;
}

/* A connection without any manners. */
static inline int smp_raw_connect(const struct smp_fixture *f)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_int_equal(smp_path_of(f->dir, f->config.job, f->config.node, "sock", addr.sun_path,
	                             sizeof(addr.sun_path)),
	                 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

/* Whether the other end hangs up; reads what it sends until then. */
static inline void smp_raw_await_end(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char room[1024];
	ssize_t n;

	do {
		assert_int_equal(poll(&p, 1, SMP_PATIENCE_MS), 1);
		n = recv(fd, room, sizeof(room), MSG_DONTWAIT);
	} while (n > 0);
	assert_true(n == 0 || errno == ECONNRESET);
	close(fd);
}

/* Writes the checksums of a slot's own blocks. */
static inline void smp_arena_sums(const struct slot *s)
{
	const struct slot_shape *shape = s->shape;
	const struct rail *r = shape->rail;
	uint32_t member = shape->member[0];

	for (uint32_t chunk = 0; chunk < rail_k(r); chunk++)
		for (uint32_t row = 0; row < rail_chunk_rows(r, member); row++)
			s->sums[slot_data_sum_index(shape, 0, member, chunk, row)] =
				checksum(s->data + rail_data_offset(r, member, chunk, row),
			                 rail_data_len(r, member, chunk, row));
	for (uint32_t p = 0; p < r->m; p++)
		for (uint32_t row = 0; row < rail_rows(r); row++)
			s->sums[slot_parity_sum_index(shape, 0, p, row)] =
				checksum(slot_parity(s, 0, p) + (uint64_t)row * r->block_bytes,
			                 rail_parity_len(r, row));
}

/* Makes fd, of SMP_ARENA_BYTES, an arena: slot 0 committed, slot 1 being filled. */
static inline int smp_arena_write(int fd, uint64_t epoch, uint32_t rank)
{
	struct map_rank place[4] = {0};
	struct arena_spec spec = {.job = "job", .node = "node", .epoch = epoch, .rank = rank};
	struct arena *a = NULL;
	struct map *map = NULL;
	struct rail rail;
	uint64_t bytes;
	int rc;

	for (unsigned i = 0; i < 4; i++)
		snprintf(place[i].node, sizeof(place[i].node), "n%u", i);
	rc = map_new(place, 4, 4, 1, &map);
	if (!rc) {
		map_rail(map, 0, &rail);
		rail.block_bytes = 4096;
		spec.map = map;
		spec.rails = &rail;
		spec.rails_count = 1;
		rc = arena_bytes(&spec, &bytes);
		assert_true(rc || bytes <= SMP_ARENA_BYTES);
	}
	if (!rc)
		rc = arena_create(dup(fd), &spec, &a);
	if (!rc) {
		smp_arena_sums(&a->slot[0]);
		slot_set_filling(&a->slot[0], (struct stamp){1, 41});
		slot_set_prepared(&a->slot[0], (struct stamp){1, 41});
		slot_set_committed(&a->slot[0]);
		slot_set_filling(&a->slot[1], (struct stamp){1, 42});
	}
	arena_free(a);
	map_free(map);
	return rc;
}

/* Runs a program to its end; returns its exit status and what it printed. */
static inline int smp_run(const char *path, char *const argv[], char *out, size_t bytes)
{
	int fd[2], status;
	size_t len = 0;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		dup2(fd[1], STDOUT_FILENO);
		dup2(fd[1], STDERR_FILENO);
		execv(path, argv);
		_exit(127);
	}
	close(fd[1]);
	while (len < bytes - 1 && (n = read(fd[0], out + len, bytes - 1 - len)) > 0)
		len += (size_t)n;
	out[len] = '\0';
	close(fd[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* A test that only root can do is skipped, which counts as passed, unless all must be tried. */
static inline void smp_fixture_needs_root(void)
{
	if (geteuid() == 0)
		return;
	if (test_requires_all())
		fail_msg("FTMEM_REQUIRE_ALL is set, and this needs root");
	print_message("NOT TRIED: needs root\n");
	skip();
}

/* To be returned by main() where FTMEM_SMP is not set: the test is skipped. */
static inline int smp_fixture_skip(void)
{
	const char *path = getenv("FTMEM_SMP");

	if (path && access(path, X_OK) == 0)
		return 0;
	printf("FTMEM_SMP does not name the ftmem-smp program: %s\n",
	       test_requires_all() ? "FTMEM_REQUIRE_ALL is set" : "skipped");
	return test_requires_all() ? 1 : 77;
}

#endif
