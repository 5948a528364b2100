/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The server of ftmem-smp in a process of its own, of which one allocation after the other fails:
 * who asked is told so or hung up on, the others are served, and the next attempt succeeds.
 */
#include "alloc_fail.h"
#include "log.h"
#include "smp/server.h"
#include "smp_fixture.h"

#define BYTES SMP_ARENA_BYTES
/* For which the store has room before it needs more. */
#define ROOM  16u
/* server_new() makes so many: without one of them there is no server. */
#define FIRST 3u

struct served {
	pid_t pid;
	int log;         /* memory that the server's lines are written to */
	unsigned failed; /* calls */
	unsigned fds;    /* of the server, at the end */
};

static void write_line(void *arg, int level, const char *line)
{
	const int *fd = arg;

	dprintf(*fd, "%d %s\n", level, line);
}

static int listen_in(const struct smp_fixture *f, char path[SMP_PATH_MAX])
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_int_equal(smp_path_of(f->dir, "job", "node", "sock", path, SMP_PATH_MAX), 0);
	assert_true(fd >= 0 && strlen(path) < sizeof(addr.sun_path));
	strcpy(addr.sun_path, path);
	assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, SERVER_PEERS_MAX), 0);
	return fd;
}

/* Its exit status: 0, it was stopped; 3, and an allocation had failed; 2, there was no memory for
 * it. */
static void serve(int listener, int *log, int ready, unsigned n)
{
	const struct log to = {write_line, log, FTMEM_LOG_DEBUG, LOG_NO_RANK};
	const struct server_config config = {
		.job = "job", .expire_s = 600, .scrub_mib_s = 64, .listener = listener, .log = &to};
	struct server *s = NULL;
	int rc;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alloc_fail_at(n);
	rc = server_new(&config, &s);
	if (rc)
		_exit(rc == FTMEM_ENOMEM && !s && strstr(error_msg(), "no memory") ? 2 : 1);
	if (write(ready, "r", 1) != 1)
		_exit(1);
	rc = server_run(s);
	server_free(s);
	_exit(rc ? 1 : alloc_fail_count() >= n ? 3 : 0);
}

/* False: it ended for want of memory. */
static bool begin(struct served *s, const struct smp_fixture *f, unsigned n,
                  char path[SMP_PATH_MAX])
{
	int ready[2], listener = listen_in(f, path), status;
	char byte;
	bool is_ready;

	s->log = memfd_create("log", MFD_CLOEXEC);
	assert_true(s->log >= 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (!s->pid) {
		close(ready[0]);
		serve(listener, &s->log, ready[1], n);
	}
	close(ready[1]);
	close(listener);
	is_ready = read(ready[0], &byte, 1) == 1;
	close(ready[0]);
	if (!is_ready) {
		assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 2);
	}
	return is_ready;
}

static bool logged(const struct served *s, const char *part)
{
	char text[65536];
	ssize_t n = pread(s->log, text, sizeof(text) - 1, 0);

	assert_true(n >= 0);
	text[n] = '\0';
	return strstr(text, part) != NULL;
}

/* Whether a call succeeded; if not, for want of memory, and the other client is served. */
static bool done(struct served *s, int rc, struct smp_client *other)
{
	struct smp_info info;

	if (!rc)
		return true;
	s->failed++;
	assert_int_equal(rc, FTMEM_ENOMEM);
	assert_non_null(strstr(error_msg(), "no memory to hold another arena"));
	assert_int_equal(smp_info(other, &info), 0);
	assert_int_equal(info.pid, s->pid);
	return false;
}

/* A process that cannot be watched is hung up on: it comes again. */
static struct smp_client *come(struct served *s, const struct smp_fixture *f, uint32_t rank)
{
	struct smp_config config = f->config;
	struct smp_client *c = NULL;

	config.rank = rank;
	if (smp_connect(&config, &c) == 0)
		return c;
	s->failed++;
	assert_true(logged(s, "no memory to watch process"));
	assert_int_equal(smp_connect(&config, &c), 0);
	return c;
}

static int come_twice(const struct smp_fixture *f, int out)
{
	struct smp_client *c = NULL;
	int rc = smp_connect(&f->config, &c), again = 0;

	(void)out;
	if (rc)
		again = smp_connect(&f->config, &c);
	smp_close(c);
	return again ? -1 : rc != 0;
}

static int create(struct served *s, struct smp_client *c, uint64_t epoch,
                  struct smp_client *other)
{
	int fd = -1;

	if (!done(s, smp_create(c, epoch, 0, BYTES, &fd), other))
		assert_int_equal(smp_create(c, epoch, 0, BYTES, &fd), 0);
	return fd;
}

static void await_freed(const struct served *s, int arena)
{
	char path[64];
	struct stat of, at;
	DIR *dir;
	bool held;

	assert_int_equal(fstat(arena, &of), 0);
	snprintf(path, sizeof(path), "/proc/%d/fd", s->pid);
	do {
		dir = opendir(path);
		assert_non_null(dir);
		held = false;
		for (struct dirent *e = readdir(dir); e && !held; e = readdir(dir))
			held = fstatat(dirfd(dir), e->d_name, &at, 0) == 0
			       && at.st_dev == of.st_dev && at.st_ino == of.st_ino;
		closedir(dir);
	} while (held);
}

/* All that a server needs memory for: processes, room for arenas, made or handed over, and the
 * thread that frees them. */
static void live(struct served *s, const struct smp_fixture *f)
{
	struct smp_client *c = come(s, f, 0), *other = come(s, f, 1);
	struct smp_agent agent;
	struct smp_info info;
	char path[64];
	int last, rc;

	for (uint64_t epoch = 1; epoch < ROOM; epoch++)
		close(create(s, c, epoch, other));
	last = create(s, c, ROOM, other);
	assert_int_equal(smp_arena_write(last, ROOM, 0), 0);
	assert_int_equal(smp_drop(c, ROOM, 0), 0);
	await_freed(s, last);
	close(create(s, c, ROOM + 1, other));
	if (!done(s, smp_adopt(c, ROOM, 0, last), other))
		assert_int_equal(smp_adopt(c, ROOM, 0, last), 0);
	close(last);
	agent = smp_agent_new(f, come_twice);
	rc = smp_agent_result(&agent);
	assert_true(rc == 0 || rc == 1);
	s->failed += (unsigned)rc;
	assert_int_equal(smp_info(other, &info), 0);
	assert_int_equal(info.arenas, ROOM + 1);
	smp_agent_end(&agent);
	/* Until it has noticed that the agent is gone. */
	snprintf(path, sizeof(path), "/proc/%d/fd", s->pid);
	while (info.clients > 2)
		assert_int_equal(smp_info(other, &info), 0);
	s->fds = smp_fixture_entries(path);
	smp_close(other);
	assert_int_equal(smp_stop(c, true), 0);
	smp_close(c);
}

static void each_allocation_fails_once_and_all_goes_on(void **state)
{
	struct smp_fixture *f = *state;
	unsigned fds[64] = {0}, n = 0, unseen = 0;
	struct served s;
	bool served, hit;

	f->config.smp_path = NULL;
	do {
		char path[SMP_PATH_MAX];
		int status;

		s = (struct served){0};
		hit = true;
		served = begin(&s, f, ++n, path);
		assert_true(served == (n > FIRST));
		if (served) {
			live(&s, f);
			assert_int_equal(waitpid(s.pid, &status, 0), s.pid);
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) % 3 == 0);
			hit = WEXITSTATUS(status) == 3;
			assert_true(s.failed <= hit);
			unseen += hit && !s.failed;
		}
		fds[n] = s.fds;
		close(s.log);
		unlink(path);
	} while (hit && n < 63);
	printf("  %u allocations\n", n - 1);
	/* The server and what it serves with, two processes, room for arenas twice, the thread that
	 * frees them: without it the loop does. */
	assert_int_equal(n - 1, FIRST + 5);
	assert_int_equal(unseen, 1);
	/* Nothing that failed kept a descriptor. */
	for (unsigned i = FIRST + 1; i < n; i++)
		assert_int_equal(fds[i], fds[n]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_allocation_fails_once_and_all_goes_on,
		                                smp_fixture_set_up, smp_fixture_tear_down),
	};

	alarm(100);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
