/* SPDX-License-Identifier: BSD-3-Clause */
/* A real ftmem-smp: how it starts, how long it stays, how it ends. */
#include "clock.h"
#include "opts.h"
#include "smp_fixture.h"

#define BYTES SMP_ARENA_BYTES

/* Where a link of /proc/<pid> points; "" if there is none. */
static void proc_link(int32_t pid, const char *name, char *out, size_t bytes)
{
	char path[128];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	n = readlink(path, out, bytes - 1);
	out[n < 0 ? 0 : n] = '\0';
}

static void the_started_one_is_detached_from_the_trainer(void **state)
{
	struct smp_fixture *f = *state;
	int marker = fcntl(STDERR_FILENO, F_DUPFD, 200);
	char text[4096], path[64];
	struct smp_client *c;
	ssize_t n;
	int fd;

	assert_true(marker >= 200);
	setenv("OMPI_COMM_WORLD_RANK", "3", 1);
	setenv("SLURM_JOB_ID", "3", 1);
	setenv("PMIX_RANK", "3", 1);
	c = smp_fixture_connect(f, 0);
	assert_true(smp_pid(c) > 0);
	/* No child of ours, in a session of its own. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	assert_int_not_equal(getsid(smp_pid(c)), getsid(0));
	proc_link(smp_pid(c), "cwd", text, sizeof(text));
	assert_string_equal(text, "/");
	proc_link(smp_pid(c), "fd/0", text, sizeof(text));
	assert_string_equal(text, "/dev/null");
	for (int i = 1; i < 3; i++) {
		snprintf(path, sizeof(path), "fd/%d", i);
		proc_link(smp_pid(c), path, text, sizeof(text));
		assert_non_null(strstr(text, "job@node.log"));
	}
	snprintf(path, sizeof(path), "fd/%d", marker);
	proc_link(smp_pid(c), path, text, sizeof(text));
	assert_string_equal(text, "");
	snprintf(path, sizeof(path), "/proc/%d/environ", smp_pid(c));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = read(fd, text, sizeof(text) - 1);
	assert_true(n >= 0);
	assert_null(memmem(text, (size_t)n, "OMPI_", 5));
	assert_null(memmem(text, (size_t)n, "PMIX_", 5));
	assert_null(memmem(text, (size_t)n, "SLURM_", 6));
	close(fd);
	close(marker);
	unsetenv("OMPI_COMM_WORLD_RANK");
	unsetenv("SLURM_JOB_ID");
	unsetenv("PMIX_RANK");
	smp_close(c);
}

static void a_trainer_that_ignores_its_children_can_start_one(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c;

	signal(SIGCHLD, SIG_IGN);
	c = smp_fixture_connect(f, 0);
	signal(SIGCHLD, SIG_DFL);
	smp_close(c);
}

static void files_are_for_the_user_alone(void **state)
{
	static const char *const suffix[] = {"sock", "lock", "log"};
	struct smp_fixture *f = *state;
	struct smp_client *c;
	char path[SMP_PATH_MAX];
	struct stat st;

	c = smp_fixture_connect(f, 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(smp_path_of(f->dir, "job", "node", suffix[i], path, sizeof(path)),
		                 0);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 077, 0);
	}
	smp_close(c);
}

static void of_many_at_once_one_starts_it(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent[12];
	int32_t pid, first = 0;

	for (int i = 0; i < 12; i++)
		agent[i] = smp_agent_new(f, smp_fixture_tell);
	for (int i = 0; i < 12; i++) {
		smp_agent_read(&agent[i], &pid, sizeof(pid));
		assert_int_equal(smp_agent_result(&agent[i]), 0);
		first = i ? first : pid;
		assert_true(pid > 0 && pid == first);
	}
	for (int i = 0; i < 12; i++)
		smp_agent_end(&agent[i]);
}

static void a_stale_socket_is_replaced(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	int32_t first = smp_pid(c);
	struct smp_config config = f->config;

	smp_fixture_kill(first);
	smp_close(c);
	assert_int_equal(smp_fixture_entries(f->dir), 3);
	config.smp_path = NULL;
	c = NULL;
	assert_int_equal(smp_connect(&config, &c), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), "ftmem-smp --job job --node node"));
	c = smp_fixture_connect(f, 0);
	assert_int_not_equal(smp_pid(c), first);
	smp_close(c);
}

static void started_by_hand_it_says_what_it_does(void **state)
{
	struct smp_fixture *f = *state;
	char *const argv[] = {"ftmem-smp", "--job", "job", "--node", "node", "--dir", f->dir, NULL};
	char *const odd[] = {"ftmem-smp", "--job", "a/b", "--dir", f->dir, NULL};
	char *const none[] = {"ftmem-smp", "--nonsense", NULL};
	char out[4096];
	struct smp_client *c;

	assert_int_equal(smp_run(f->config.smp_path, argv, out, sizeof(out)), 0);
	assert_int_equal(strncmp(out, "ready: process ", 15), 0);
	f->config.smp_path = NULL;
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_pid(c), atoi(out + 15));
	smp_close(c);
	f->config.smp_path = getenv("FTMEM_SMP");
	assert_int_equal(smp_run(f->config.smp_path, argv, out, sizeof(out)), 3);
	assert_int_equal(strncmp(out, "busy: ", 6), 0);
	assert_int_equal(smp_run(f->config.smp_path, odd, out, sizeof(out)), 2);
	assert_non_null(strstr(out, "a/b"));
	assert_int_equal(smp_run(f->config.smp_path, none, out, sizeof(out)), 2);
}

/* Without descriptors 0 to 2 what is opened first gets their numbers. */
static void one_without_standard_descriptors_keeps_its_lock(void **state)
{
	static const char *const closed[] = {"<&-", "<&- >&-", "<&- >&- 2>&-"};
	struct smp_fixture *f = *state;
	char script[128], out[4096];
	char *const argv[] = {"sh", "-c", script, f->dir, (char *)(uintptr_t)f->config.smp_path,
	                      NULL};
	struct smp_client *c;
	int lock = -1, fd;

	for (int i = 0; i < 3; i++) {
		snprintf(script, sizeof(script),
		         "exec \"$1\" --job job --node node --dir \"$0\" %s", closed[i]);
		assert_int_equal(smp_run("/bin/sh", argv, out, sizeof(out)), 0);
		assert_int_equal(smp_lock_take(f->dir, "job", "node", &lock), FTMEM_BUSY);
		c = smp_fixture_connect(f, 0);
		fd = smp_fixture_pidfd(smp_pid(c));
		assert_int_equal(smp_stop(c, false), 0);
		smp_fixture_await(fd);
		smp_close(c);
		assert_int_equal(smp_fixture_entries(f->dir), 0);
	}
}

static void take_away(const struct smp_fixture *f, const char *suffix)
{
	char path[SMP_PATH_MAX];

	assert_int_equal(smp_path_of(f->dir, "job", "node", suffix, path, sizeof(path)), 0);
	assert_int_equal(unlink(path), 0);
}

/* As by what clears folders of old files, which leaves sockets alone. */
static void who_lost_its_lock_file_is_not_replaced(void **state)
{
	struct smp_fixture *f = *state;
	char *const argv[] = {"ftmem-smp", "--job", "job", "--node", "node", "--dir", f->dir, NULL};
	struct smp_client *c = smp_fixture_connect(f, 0), *other;
	int fd = smp_fixture_pidfd(smp_pid(c));
	char out[4096];

	take_away(f, "lock");
	assert_int_equal(smp_run(f->config.smp_path, argv, out, sizeof(out)), 3);
	assert_int_equal(strncmp(out, "busy: ", 6), 0);
	other = smp_fixture_connect(f, 1);
	assert_int_equal(smp_pid(other), smp_pid(c));
	smp_close(other);
	assert_int_equal(smp_stop(c, false), 0);
	smp_fixture_await(fd);
	smp_close(c);
	assert_int_equal(smp_fixture_entries(f->dir), 0);
}

static void who_ends_leaves_the_files_of_another(void **state)
{
	struct smp_fixture *f = *state;
	char *const argv[] = {"ftmem-smp", "--job", "job", "--node", "node", "--dir", f->dir, NULL};
	struct smp_client *c = smp_fixture_connect(f, 0);
	int fd = smp_fixture_pidfd(smp_pid(c));
	char out[4096];

	take_away(f, "lock");
	take_away(f, "sock");
	assert_int_equal(smp_run(f->config.smp_path, argv, out, sizeof(out)), 0);
	assert_int_equal(smp_stop(c, false), 0);
	smp_fixture_await(fd);
	smp_close(c);
	f->config.smp_path = NULL;
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_pid(c), atoi(out + strlen("ready: process ")));
	smp_close(c);
}

/* In the foreground, where stderr is a pipe. */
static void a_log_that_nobody_reads_holds_nobody_up(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_config config = f->config;
	uint64_t end = clock_deadline(SMP_PATIENCE_MS);
	struct smp_client *c = NULL;
	int out[2], fd;
	pid_t pid;

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_true(fcntl(out[1], F_SETPIPE_SZ, 8192) > 0);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], STDOUT_FILENO);
		dup2(out[1], STDERR_FILENO);
		execl(config.smp_path, "ftmem-smp", "--job", "job", "--node", "node", "--dir",
		      f->dir, "--foreground", (char *)NULL);
		_exit(1);
	}
	close(out[1]);
	config.smp_path = NULL;
	while (smp_connect(&config, &c) != 0 && clock_ns() < end)
		clock_sleep(1000000);
	assert_non_null(c);
	for (int i = 0; i < 200; i++) {
		fd = smp_raw_connect(f);
		assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), 1);
		smp_raw_await_end(fd);
	}
	assert_int_equal(smp_forget(c), 0);
	assert_int_equal(smp_stop(c, false), 0);
	smp_close(c);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(out[0]);
}

static void a_folder_that_others_can_use_is_refused(void **state)
{
	struct smp_fixture *f = *state;
	char *const argv[] = {"ftmem-smp", "--job", "job", "--node", "node", "--dir", f->dir, NULL};
	char link[80], out[4096];
	struct smp_client *c = NULL;
	struct smp_config config = f->config;

	assert_int_equal(chmod(f->dir, 0755), 0);
	assert_int_equal(smp_connect(&config, &c), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), f->dir));
	assert_non_null(strstr(error_msg(), "0700"));
	assert_int_equal(smp_run(config.smp_path, argv, out, sizeof(out)), 1);
	assert_non_null(strstr(out, f->dir));
	assert_int_equal(chmod(f->dir, 0700), 0);

	snprintf(link, sizeof(link), "%s-link", f->dir);
	assert_int_equal(symlink(f->dir, link), 0);
	config.dir = link;
	assert_int_equal(smp_connect(&config, &c), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), "symbolic link"));
	unlink(link);

	config.dir = "/proc/self/status";
	assert_int_equal(smp_connect(&config, &c), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), "no folder"));
	if (geteuid() == 0) {
		config.dir = f->dir;
		assert_int_equal(chown(f->dir, 12345, (gid_t)-1), 0);
		assert_int_equal(smp_connect(&config, &c), FTMEM_ESMP);
		assert_non_null(strstr(error_msg(), "another user"));
		assert_int_equal(chown(f->dir, 0, (gid_t)-1), 0);
	}
	assert_null(c);
}

static void a_missing_folder_is_made(void **state)
{
	struct smp_fixture *f = *state;
	char dir[80];
	struct smp_client *c = NULL;
	struct smp_config config = f->config;
	struct stat st;
	mode_t mask = umask(0777);
	int fd;

	snprintf(dir, sizeof(dir), "%s/new", f->dir);
	config.dir = dir;
	assert_int_equal(smp_connect(&config, &c), 0);
	umask(mask);
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	fd = smp_fixture_pidfd(smp_pid(c));
	assert_int_equal(smp_stop(c, false), 0);
	smp_fixture_await(fd);
	smp_close(c);
	assert_int_equal(rmdir(dir), 0);
}

static void script(const struct smp_fixture *f, const char *text, char path[96])
{
	int fd;

	snprintf(path, 96, "%s-program", f->dir);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void a_program_that_cannot_serve_is_quoted(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_config config = f->config;
	struct smp_client *c = NULL;
	char path[96];

	config.smp_path = "/nowhere/ftmem-smp";
	assert_int_equal(smp_connect(&config, &c), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), "/nowhere/ftmem-smp"));
	config.smp_path = path;
	script(f, "#!/bin/sh\necho 'error: no such luck'\nexit 1\n", path);
	assert_int_equal(smp_connect(&config, &c), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), "no such luck"));
	script(f, "#!/bin/sh\nexit 0\n", path);
	assert_int_equal(smp_connect(&config, &c), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), "without a word"));
	config.timeout_ms = 200;
	script(f, "#!/bin/sh\nexec sleep 1000\n", path);
	assert_int_equal(smp_connect(&config, &c), FTMEM_ETIMEOUT);
	script(f, "#!/bin/sh\necho 'ready: not at all'\n", path);
	assert_int_equal(smp_connect(&config, &c), FTMEM_ETIMEOUT);
	script(f, "#!/bin/sh\necho 'busy: for ever'\n", path);
	assert_int_equal(smp_connect(&config, &c), FTMEM_ETIMEOUT);
	unlink(path);
	assert_null(c);
}

static void a_path_too_long_for_a_socket_is_refused(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_config config = f->config;
	struct smp_client *c = NULL;
	char job[FTMEM_NAME_MAX + 1];

	memset(job, 'x', FTMEM_NAME_MAX);
	job[FTMEM_NAME_MAX] = '\0';
	config.job = job;
	config.node = job;
	assert_int_equal(smp_connect(&config, &c), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "FTMEM_DIR"));
}

static void jobs_and_nodes_have_their_own(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *a = smp_fixture_connect(f, 0), *b;
	struct smp_fixture other = *f;

	other.config.node = "node2";
	b = smp_fixture_connect(&other, 0);
	assert_int_not_equal(smp_pid(a), smp_pid(b));
	smp_close(a);
	smp_close(b);
	smp_fixture_end(f, "job", "node2");
}

static void it_ends_when_its_time_is_over(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c;
	struct pollfd p = {.events = POLLIN};
	struct smp_info info;
	int fd = -1;

	f->config.expire_s = 1;
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_create(c, 1, 0, BYTES, &fd), 0);
	close(fd);
	assert_int_equal(smp_info(c, &info), 0);
	assert_int_equal(info.expire_s, 1);
	assert_int_equal(info.arenas, 1);
	assert_int_equal(info.bytes, BYTES);
	/* Not while a rank is there. */
	p.fd = smp_fixture_pidfd(smp_pid(c));
	assert_int_equal(poll(&p, 1, 1500), 0);
	assert_true(smp_alive(c));
	smp_close(c);
	smp_fixture_await(p.fd);
	assert_int_equal(smp_fixture_entries(f->dir), 0);
}

static void ask_raw(int fd, enum wire_op op, uint32_t rank, struct wire_reply *reply)
{
	struct wire_request r;

	wire_request_init(&r, op, "job");
	r.rank = rank;
	assert_int_equal(send(fd, &r, sizeof(r), MSG_NOSIGNAL), sizeof(r));
	if (reply)
		assert_int_equal(recv(fd, reply, sizeof(*reply), 0), sizeof(*reply));
}

/* Does not return before it stands. */
static void stop(int32_t pid)
{
	char path[64], text[256], *state;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	assert_int_equal(kill(pid, SIGSTOP), 0);
	do {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = read(fd, text, sizeof(text) - 1);

		close(fd);
		text[n < 0 ? 0 : n] = '\0';
		state = strrchr(text, ')');
		assert_non_null(state);
	} while (strncmp(state, ") T", 3) != 0);
}

/* It had no turn until its time was over, and then somebody else's first. */
static void who_came_before_it_expires_is_heard(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c;
	struct wire_reply reply;
	int fd = -1, other;
	int32_t pid;

	f->config.expire_s = 4;
	c = smp_fixture_connect(f, 0);
	pid = smp_pid(c);
	assert_int_equal(smp_create(c, 1, 0, BYTES, &fd), 0);
	close(fd);
	smp_close(c);
	other = smp_raw_connect(f);
	do
		ask_raw(other, WIRE_HELLO, WIRE_RANK_OBSERVER, &reply);
	while (reply.clients > 0);
	stop(pid);
	close(other);
	fd = smp_raw_connect(f);
	ask_raw(fd, WIRE_HELLO, 0, NULL);
	clock_sleep(UINT64_C(5000000000));
	assert_int_equal(kill(pid, SIGCONT), 0);
	assert_int_equal(recv(fd, &reply, sizeof(reply), 0), sizeof(reply));
	assert_int_equal(reply.result, 0);
	ask_raw(fd, WIRE_LIST, 0, &reply);
	assert_int_equal(reply.count, 1);
	close(fd);
}

static int create_and_hang_up(const struct smp_fixture *f, int out)
{
	struct smp_client *c = NULL;
	int fd = -1, rc = smp_connect(&f->config, &c);
	int sock;

	(void)out;
	if (!rc)
		rc = smp_create(c, 1, 0, BYTES, &fd);
	/* No goodbye: the connection breaks, the lease stays. */
	for (sock = 3; !rc && sock < 100; sock++)
		if (sock != out)
			close(sock);
	return rc;
}

static void it_does_not_expire_under_a_lease(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent;
	struct smp_client *c;
	struct smp_info info;
	struct pollfd p = {.events = POLLIN};

	f->config.expire_s = 1;
	agent = smp_agent_new(f, create_and_hang_up);
	assert_int_equal(smp_agent_result(&agent), 0);
	c = smp_fixture_connect(f, WIRE_RANK_OBSERVER);
	assert_int_equal(smp_info(c, &info), 0);
	assert_int_equal(info.clients, 0);
	p.fd = smp_fixture_pidfd(smp_pid(c));
	smp_close(c);
	assert_int_equal(poll(&p, 1, 1500), 0);
	smp_agent_end(&agent);
	smp_fixture_await(p.fd);
	assert_int_equal(smp_fixture_entries(f->dir), 0);
}

static void a_later_start_sets_the_time_anew(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct smp_info info;

	smp_close(c);
	f->config.expire_s = 700;
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_info(c, &info), 0);
	assert_int_equal(info.expire_s, 700);
	smp_close(c);
	f->config.expire_s = 800;
	c = smp_fixture_connect(f, WIRE_RANK_OBSERVER);
	assert_int_equal(smp_info(c, &info), 0);
	assert_int_equal(info.expire_s, 700);
	smp_close(c);
}

static void a_start_that_does_not_say_leaves_the_time(void **state)
{
	struct smp_fixture *f = *state;
	char *const argv[] = {"ftmem-smp", "--job",    "job",   "--node", "node",
	                      "--dir",     f->dir,     "--expire", "86400",  NULL};
	char out[4096];
	struct smp_client *c;
	struct smp_info info;

	assert_int_equal(smp_run(f->config.smp_path, argv, out, sizeof(out)), 0);
	f->config.expire_s = 0;
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_info(c, &info), 0);
	assert_int_equal(info.expire_s, 86400);
	/* Nor does it go with the process. */
	smp_fixture_kill(smp_pid(c));
	assert_int_equal(smp_reconnect(c), 0);
	assert_int_equal(smp_info(c, &info), 0);
	assert_int_equal(info.expire_s, 86400);
	smp_close(c);
}

static uint32_t rate(struct smp_client *c)
{
	struct smp_info info;

	assert_int_equal(smp_info(c, &info), 0);
	return info.scrub_mib_s;
}

static void the_rate_of_the_scrubber_is_set_as_the_time_is(void **state)
{
	struct smp_fixture *f = *state;
	char *const argv[] = {"ftmem-smp", "--job",    "job",   "--node", "node",
	                      "--dir",     f->dir,     "--scrub", "7",    NULL};
	char *const bad[] = {"ftmem-smp", "--job", "job", "--scrub", "fast", NULL};
	struct smp_client *c;
	char out[4096];

	assert_int_equal(smp_run(f->config.smp_path, bad, out, sizeof(out)), 2);
	assert_non_null(strstr(out, "--scrub fast: must be"));
	assert_int_equal(smp_run(f->config.smp_path, argv, out, sizeof(out)), 0);
	c = smp_fixture_connect(f, 0);
	assert_int_equal(rate(c), 7);
	smp_fixture_kill(smp_pid(c));
	assert_int_equal(smp_reconnect(c), 0);
	assert_int_equal(rate(c), 7);
	smp_close(c);
	f->config.scrub_mib_s = 9;
	c = smp_fixture_connect(f, WIRE_RANK_OBSERVER);
	assert_int_equal(rate(c), 7);
	smp_close(c);
	c = smp_fixture_connect(f, 0);
	assert_int_equal(rate(c), 9);
	smp_close(c);
	f->config.scrub_mib_s = WIRE_SCRUB_OFF;
	c = smp_fixture_connect(f, 0);
	assert_int_equal(rate(c), 0);
	smp_close(c);
	f->config.scrub_mib_s = 0;
	c = smp_fixture_connect(f, 0);
	assert_int_equal(rate(c), 0);
	smp_fixture_kill(smp_pid(c));
	assert_int_equal(smp_reconnect(c), 0);
	assert_int_equal(rate(c), 0);
	smp_close(c);
}

static void where_nothing_says_it_the_time_is_the_documented_one(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c;
	struct smp_info info;

	f->config.expire_s = 0;
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_info(c, &info), 0);
	assert_int_equal(info.expire_s, OPTS_EXPIRE_S);
	assert_int_equal(info.scrub_mib_s, OPTS_SCRUB_MIB_S);
	smp_close(c);
}

static void a_signal_ends_it_cleanly(void **state)
{
	static const int signals[] = {SIGTERM, SIGINT};
	struct smp_fixture *f = *state;

	for (int i = 0; i < 2; i++) {
		struct smp_client *c = smp_fixture_connect(f, 0);
		int fd = smp_fixture_pidfd(smp_pid(c));

		kill(smp_pid(c), signals[i]);
		smp_fixture_await(fd);
		assert_int_equal(smp_fixture_entries(f->dir), 0);
		assert_false(smp_alive(c));
		smp_close(c);
	}
}

static void it_is_not_stopped_under_ranks(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *rank = smp_fixture_connect(f, 0);
	struct smp_client *c = smp_fixture_connect(f, WIRE_RANK_OBSERVER);
	int fd = smp_fixture_pidfd(smp_pid(c));

	assert_int_equal(smp_stop(c, false), FTMEM_EATTACHED);
	assert_true(smp_alive(rank));
	assert_int_equal(smp_stop(c, true), 0);
	smp_fixture_await(fd);
	assert_false(smp_alive(rank));
	assert_int_equal(smp_fixture_entries(f->dir), 0);
	smp_close(c);
	smp_close(rank);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, smp_fixture_set_up, smp_fixture_tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_started_one_is_detached_from_the_trainer),
		TEST(a_trainer_that_ignores_its_children_can_start_one),
		TEST(files_are_for_the_user_alone),
		TEST(of_many_at_once_one_starts_it),
		TEST(a_stale_socket_is_replaced),
		TEST(started_by_hand_it_says_what_it_does),
		TEST(one_without_standard_descriptors_keeps_its_lock),
		TEST(who_lost_its_lock_file_is_not_replaced),
		TEST(who_ends_leaves_the_files_of_another),
		TEST(a_log_that_nobody_reads_holds_nobody_up),
		TEST(a_folder_that_others_can_use_is_refused),
		TEST(a_missing_folder_is_made),
		TEST(a_program_that_cannot_serve_is_quoted),
		TEST(a_path_too_long_for_a_socket_is_refused),
		TEST(jobs_and_nodes_have_their_own),
		TEST(it_ends_when_its_time_is_over),
		TEST(who_came_before_it_expires_is_heard),
		TEST(it_does_not_expire_under_a_lease),
		TEST(a_later_start_sets_the_time_anew),
		TEST(a_start_that_does_not_say_leaves_the_time),
		TEST(the_rate_of_the_scrubber_is_set_as_the_time_is),
		TEST(where_nothing_says_it_the_time_is_the_documented_one),
		TEST(a_signal_ends_it_cleanly),
		TEST(it_is_not_stopped_under_ranks),
	};
	int skip = smp_fixture_skip();

	if (skip)
		return skip;
	alarm(300);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
