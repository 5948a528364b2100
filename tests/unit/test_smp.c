/* SPDX-License-Identifier: BSD-3-Clause */
/* A real ftmem-smp in a folder of its own, through client.c and without manners. */
#include "alloc_fail.h"
#include "smp_fixture.h"

#define BYTES SMP_ARENA_BYTES

static void write_byte(int fd, uint8_t value)
{
	assert_int_equal(pwrite(fd, &value, 1, BYTES - 1), 1);
}

static uint8_t read_byte(int fd)
{
	uint8_t value = 0;

	assert_int_equal(pread(fd, &value, 1, BYTES - 1), 1);
	return value;
}

/* Where a link of /proc/<pid> points; "" if there is none. */
static void proc_link(int32_t pid, const char *name, char *out, size_t bytes)
{
	char path[128];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	n = readlink(path, out, bytes - 1);
	out[n < 0 ? 0 : n] = '\0';
}

static unsigned proc_fds(int32_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	return smp_fixture_entries(path);
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

static int connect_and_tell(const struct smp_fixture *f, int out)
{
	struct smp_client *c = NULL;
	int rc = smp_connect(&f->config, &c);
	int32_t pid = rc ? -1 : smp_pid(c);

	return write(out, &pid, sizeof(pid)) == (ssize_t)sizeof(pid) ? rc : -1;
}

static void of_many_at_once_one_starts_it(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent[12];
	int32_t pid, first = 0;

	for (int i = 0; i < 12; i++)
		agent[i] = smp_agent_new(f, connect_and_tell);
	for (int i = 0; i < 12; i++) {
		smp_agent_read(&agent[i], &pid, sizeof(pid));
		assert_int_equal(smp_agent_result(&agent[i]), 0);
		first = i ? first : pid;
		assert_true(pid > 0 && pid == first);
	}
	for (int i = 0; i < 12; i++)
		smp_agent_end(&agent[i]);
}

static int create_in_agent(const struct smp_fixture *f, int out)
{
	struct smp_client *c = NULL;
	int fd = -1, rc = smp_connect(&f->config, &c);

	(void)out;
	if (!rc)
		rc = smp_create(c, 1, 0, BYTES, &fd);
	if (!rc)
		rc = smp_arena_write(fd, 1, 0);
	if (!rc)
		write_byte(fd, 77);
	return rc;
}

static void memory_outlives_its_trainer(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent = smp_agent_new(f, create_in_agent);
	struct smp_entry *entry = NULL;
	struct smp_client *c;
	uint32_t count = 0;
	int fd = -1;

	assert_int_equal(smp_agent_result(&agent), 0);
	c = smp_fixture_connect(f, 1);
	assert_int_equal(smp_list(c, &entry, &count), 0);
	assert_int_equal(count, 1);
	assert_int_equal(entry[0].owner, agent.pid);
	assert_int_equal(entry[0].bytes, BYTES);
	assert_int_equal(entry[0].slot[0].state, SLOT_COMMITTED);
	assert_int_equal(entry[0].slot[0].stamp.version, 41);
	assert_int_equal(entry[0].slot[1].state, SLOT_FILLING);
	free(entry);
	/* Looking is free to everyone. */
	assert_int_equal(smp_attach(c, 1, 0, false, &fd), 0);
	assert_int_equal(read_byte(fd), 77);
	close(fd);
	smp_agent_end(&agent);
	assert_int_equal(smp_attach(c, 1, 0, true, &fd), 0);
	assert_int_equal(read_byte(fd), 77);
	close(fd);
	assert_int_equal(smp_list(c, &entry, &count), 0);
	assert_int_equal(entry[0].owner, getpid());
	free(entry);
	smp_close(c);
}

static void a_live_holder_is_named(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent = smp_agent_new(f, create_in_agent);
	struct smp_client *c;
	char pid[24];
	int fd = -1;

	assert_int_equal(smp_agent_result(&agent), 0);
	/* Hung it is still alive. */
	kill(agent.pid, SIGSTOP);
	f->config.timeout_ms = 100;
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_attach(c, 1, 0, true, &fd), FTMEM_EATTACHED);
	snprintf(pid, sizeof(pid), "process %d", agent.pid);
	assert_non_null(strstr(error_msg(), pid));
	assert_int_equal(fd, -1);
	assert_true(smp_alive(c));
	smp_close(c);
	smp_agent_end(&agent);
	f->config.timeout_ms = SMP_PATIENCE_MS;
}

static int attach_in_agent(const struct smp_fixture *f, int out)
{
	struct smp_client *c = NULL;
	int fd = -1, rc = smp_connect(&f->config, &c);

	if (!rc && write(out, "c", 1) == 1)
		rc = smp_attach(c, 1, 0, true, &fd);
	return rc;
}

static void who_waits_gets_it_when_the_holder_dies(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent holder = smp_agent_new(f, create_in_agent), waiter;
	char connected;

	assert_int_equal(smp_agent_result(&holder), 0);
	waiter = smp_agent_new(f, attach_in_agent);
	smp_agent_read(&waiter, &connected, 1);
	smp_agent_end(&holder);
	assert_int_equal(smp_agent_result(&waiter), 0);
	smp_agent_end(&waiter);
}

/* Leaves a grandchild that holds copies of all descriptors. */
static int create_and_fork(const struct smp_fixture *f, int out)
{
	int rc = create_in_agent(f, out);
	pid_t pid = rc ? -1 : fork();

	if (!pid)
		for (;;)
			pause();
	if (write(out, &pid, sizeof(pid)) != (ssize_t)sizeof(pid))
		return -1;
	return rc;
}

static void a_worker_of_a_dead_holder_holds_nothing(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent = smp_agent_new(f, create_and_fork);
	struct smp_info info;
	struct smp_client *c;
	pid_t worker = -1;
	int fd = -1;

	smp_agent_read(&agent, &worker, sizeof(worker));
	assert_int_equal(smp_agent_result(&agent), 0);
	assert_true(worker > 0);
	smp_agent_end(&agent);
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_attach(c, 1, 0, true, &fd), 0);
	close(fd);
	assert_int_equal(smp_info(c, &info), 0);
	assert_int_equal(info.clients, 1);
	smp_close(c);
	fd = smp_fixture_pidfd(worker);
	kill(worker, SIGKILL);
	smp_fixture_await(fd);
}

static void a_goodbye_lets_others_in(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct smp_agent agent;
	int fd = -1;
	char connected;

	assert_int_equal(smp_create(c, 1, 0, BYTES, &fd), 0);
	close(fd);
	smp_close(c);
	agent = smp_agent_new(f, attach_in_agent);
	smp_agent_read(&agent, &connected, 1);
	assert_int_equal(smp_agent_result(&agent), 0);
	smp_agent_end(&agent);
}

static void two_connections_of_a_process_share_a_lease(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *a = smp_fixture_connect(f, 0), *b = smp_fixture_connect(f, 0);
	int fd = -1;

	assert_int_equal(smp_create(a, 1, 0, BYTES, &fd), 0);
	close(fd);
	assert_int_equal(smp_create(b, 1, 0, BYTES, &fd), FTMEM_EINVAL);
	assert_int_equal(smp_attach(b, 1, 0, true, &fd), 0);
	close(fd);
	smp_close(a);
	smp_close(b);
}

static void arenas_can_be_dropped_retired_and_forgotten(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct smp_entry *entry = NULL;
	uint32_t count;
	int fd;

	for (uint32_t i = 0; i < 20; i++) {
		assert_int_equal(smp_create(c, 5 - i % 5, i, BYTES, &fd), 0);
		close(fd);
	}
	assert_int_equal(smp_drop(c, 5, 0), 0);
	assert_int_equal(smp_drop(c, 5, 0), FTMEM_EINVAL);
	assert_int_equal(smp_attach(c, 5, 0, false, &fd), FTMEM_EINVAL);
	assert_int_equal(smp_retire(c, 4), 0);
	assert_int_equal(smp_list(c, &entry, &count), 0);
	assert_int_equal(count, 7);
	for (uint32_t i = 0; i < count; i++) {
		assert_true(entry[i].epoch >= 4);
		assert_true(!i || entry[i - 1].epoch < entry[i].epoch
		            || entry[i - 1].rank < entry[i].rank);
	}
	free(entry);
	assert_int_equal(smp_release(c, 5, 5), 0);
	assert_int_equal(smp_forget(c), 0);
	assert_int_equal(smp_list(c, &entry, &count), 0);
	assert_int_equal(count, 0);
	free(entry);
	assert_true(smp_alive(c));
	smp_close(c);
}

static void kill_smp(int32_t pid)
{
	int fd = smp_fixture_pidfd(pid);

	kill(pid, SIGKILL);
	smp_fixture_await(fd);
}

static void memory_is_handed_to_the_next_when_one_dies(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct smp_entry *entry = NULL;
	int fd = -1, again = -1;
	uint32_t count;
	int32_t first;

	assert_int_equal(smp_create(c, 1, 0, BYTES, &fd), 0);
	assert_int_equal(smp_arena_write(fd, 1, 0), 0);
	write_byte(fd, 99);
	first = smp_pid(c);
	kill_smp(first);
	assert_false(smp_alive(c));
	assert_int_equal(smp_forget(c), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), "has ended"));
	assert_int_equal(smp_reconnect(c), 0);
	assert_true(smp_alive(c));
	assert_int_not_equal(smp_pid(c), first);
	assert_int_equal(smp_adopt(c, 1, 0, fd), 0);
	assert_int_equal(smp_adopt(c, 1, 0, fd), 0);
	assert_int_equal(smp_adopt(c, 2, 0, fd), FTMEM_EINVAL);
	close(fd);
	assert_int_equal(smp_list(c, &entry, &count), 0);
	assert_int_equal(count, 1);
	assert_int_equal(entry[0].slot[0].stamp.version, 41);
	assert_int_equal(entry[0].owner, getpid());
	free(entry);
	assert_int_equal(smp_attach(c, 1, 0, true, &again), 0);
	assert_int_equal(read_byte(again), 99);
	close(again);
	smp_close(c);
}

static void a_stale_socket_is_replaced(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	int32_t first = smp_pid(c);
	struct smp_config config = f->config;

	kill_smp(first);
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

static void an_observer_changes_nothing(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, WIRE_RANK_OBSERVER);
	int fd = -1;

	assert_int_equal(smp_create(c, 1, 0, BYTES, &fd), FTMEM_ESMP);
	assert_int_equal(smp_reconnect(c), 0);
	assert_int_equal(smp_attach(c, 1, 0, true, &fd), FTMEM_ESMP);
	assert_int_equal(smp_reconnect(c), 0);
	assert_int_equal(smp_retire(c, 5), FTMEM_ESMP);
	smp_close(c);
}

static void raw_send(int fd, const void *msg, size_t bytes)
{
	assert_int_equal(send(fd, msg, bytes, MSG_NOSIGNAL), bytes);
}

static struct wire_request request_of(enum wire_op op)
{
	struct wire_request r;

	wire_request_init(&r, op, "job");
	return r;
}

static void raw_hello(int fd)
{
	struct wire_request r = request_of(WIRE_HELLO);
	struct wire_reply reply;

	r.rank = 7;
	raw_send(fd, &r, sizeof(r));
	assert_int_equal(recv(fd, &reply, sizeof(reply), 0), sizeof(reply));
	assert_int_equal(reply.result, 0);
}

/* Sends what breaks the rules; after a hello or before. */
static void expect_closed(const struct smp_fixture *f, bool hello, const void *msg, size_t bytes)
{
	int fd = smp_raw_connect(f);

	if (hello)
		raw_hello(fd);
	raw_send(fd, msg, bytes);
	smp_raw_await_end(fd);
}

static void a_bad_message_ends_its_connection_only(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	char noise[2000];
	struct wire_request r;
	unsigned fds = proc_fds(smp_pid(c));

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (char)(i * 7 + 3);
	for (int hello = 0; hello < 2; hello++) {
		expect_closed(f, hello, noise, sizeof(noise));
		expect_closed(f, hello, noise, sizeof(struct wire_request));
		expect_closed(f, hello, noise, 1);
		r = request_of(WIRE_LIST);
		expect_closed(f, hello, &r, sizeof(r) - 1);
		r.magic = 0;
		expect_closed(f, hello, &r, sizeof(r));
		r = request_of(WIRE_OPS);
		expect_closed(f, hello, &r, sizeof(r));
		r = request_of(WIRE_LIST);
		strcpy(r.job, "jab");
		expect_closed(f, hello, &r, sizeof(r));
		r = request_of(WIRE_LIST);
		r.flags = 1;
		expect_closed(f, hello, &r, sizeof(r));
		/* Without the descriptor it needs. */
		r = request_of(WIRE_ADOPT);
		expect_closed(f, hello, &r, sizeof(r));
	}
	r = request_of(WIRE_HELLO);
	r.rank = 8;
	expect_closed(f, true, &r, sizeof(r));
	/* No hello first. */
	for (uint32_t op = WIRE_HELLO + 1; op < WIRE_OPS; op++) {
		r = request_of((enum wire_op)op);
		expect_closed(f, false, &r, sizeof(r));
	}
	assert_true(smp_alive(c));
	assert_int_equal(smp_forget(c), 0);
	assert_int_equal(proc_fds(smp_pid(c)), fds);
	smp_close(c);
}

static void descriptors_that_were_not_asked_for_are_closed(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	unsigned fds = proc_fds(smp_pid(c));
	struct wire_request r = request_of(WIRE_LIST);
	int fd;

	for (int i = 0; i < 20; i++) {
		fd = smp_raw_connect(f);
		raw_hello(fd);
		assert_int_equal(wire_send(fd, &r, sizeof(r), STDOUT_FILENO), WIRE_OK);
		smp_raw_await_end(fd);
	}
	assert_int_equal(smp_forget(c), 0);
	assert_int_equal(proc_fds(smp_pid(c)), fds);
	smp_close(c);
}

static void another_format_or_version_is_told_so(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct wire_request r = request_of(WIRE_HELLO);
	struct wire_reply reply;
	int fd = smp_raw_connect(f);

	r.format = 99;
	raw_send(fd, &r, sizeof(r));
	assert_int_equal(recv(fd, &reply, sizeof(reply), 0), sizeof(reply));
	assert_int_equal(reply.result, FTMEM_ESMP);
	assert_non_null(strstr(reply.text, "format 99"));
	smp_raw_await_end(fd);
	fd = smp_raw_connect(f);
	r.version = 88;
	raw_send(fd, &r, 60);
	assert_int_equal(recv(fd, &reply, sizeof(reply), 0), sizeof(reply));
	assert_int_equal(reply.result, FTMEM_ESMP);
	assert_non_null(strstr(reply.text, "version 88"));
	smp_raw_await_end(fd);
	assert_true(smp_alive(c));
	smp_close(c);
}

/* Listens where an SMP would, and answers the first message with a version of its
 * own, or not at all. */
static int impostor(const struct smp_fixture *f, int out)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0), peer;
	struct wire_reply reply;
	char room[1024];

	smp_path_of(f->dir, "job", "node", "sock", addr.sun_path, sizeof(addr.sun_path));
	if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 5)
	    || write(out, "l", 1) != 1)
		return -1;
	peer = accept(fd, NULL, NULL);
	if (recv(peer, room, sizeof(room), 0) <= 0)
		return -2;
	wire_reply_init(&reply, WIRE_HELLO);
	reply.version = 66;
	if (send(peer, &reply, sizeof(reply), 0) < 0)
		return -3;
	peer = accept(fd, NULL, NULL);
	return peer < 0 ? -4 : 0;
}

static void a_foreign_or_silent_server_is_named(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent = smp_agent_new(f, impostor);
	struct smp_client *c = NULL;
	char path[SMP_PATH_MAX];
	char listening;

	smp_agent_read(&agent, &listening, 1);
	assert_int_equal(smp_connect(&f->config, &c), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), "version 66"));
	f->config.timeout_ms = 100;
	assert_int_equal(smp_connect(&f->config, &c), FTMEM_ETIMEOUT);
	assert_non_null(strstr(error_msg(), "does not answer"));
	assert_int_equal(smp_agent_result(&agent), 0);
	smp_agent_end(&agent);
	smp_path_of(f->dir, "job", "node", "sock", path, sizeof(path));
	unlink(path);
}

static void who_does_not_read_is_cut_off(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct wire_request r = request_of(WIRE_LIST);
	struct pollfd p = {.events = POLLHUP};
	int fd = smp_raw_connect(f);

	raw_hello(fd);
	p.fd = fd;
	while (send(fd, &r, sizeof(r), MSG_NOSIGNAL | MSG_DONTWAIT) > 0 || errno == EAGAIN)
		if (poll(&p, 1, 0) > 0)
			break;
	smp_raw_await_end(fd);
	assert_int_equal(smp_forget(c), 0);
	smp_close(c);
}

static void a_failed_allocation_leaves_nothing_behind(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_entry *entry = NULL;
	struct smp_client *c = NULL;
	unsigned fds = smp_fixture_entries("/proc/self/fd");
	int rc = FTMEM_ENOMEM, fd = -1;
	uint32_t count = 0;
	unsigned n;

	for (n = 1; rc == FTMEM_ENOMEM; n++) {
		alloc_fail_at(n);
		rc = smp_connect(&f->config, &c);
		alloc_fail_off();
		if (rc) {
			assert_null(c);
			assert_int_equal(smp_fixture_entries("/proc/self/fd"), fds);
		}
	}
	assert_int_equal(rc, 0);
	assert_true(n > 3);
	assert_int_equal(smp_create(c, 1, 0, BYTES, &fd), 0);
	close(fd);
	alloc_fail_at(1);
	assert_int_equal(smp_list(c, &entry, &count), FTMEM_ENOMEM);
	alloc_fail_off();
	assert_null(entry);
	assert_true(smp_alive(c));
	smp_close(c);
}

static void silent_ones_do_not_keep_others_out(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *first = smp_fixture_connect(f, 0);
	struct smp_agent agent;
	int32_t pid = 0;
	int fd[400];

	/* Those beyond the limit wait in the queue, and so does who comes then. Ended and
	 * not closed: the agent has copies. */
	for (int i = 0; i < 400; i++)
		fd[i] = smp_raw_connect(f);
	assert_int_equal(smp_forget(first), 0);
	agent = smp_agent_new(f, connect_and_tell);
	for (int i = 0; i < 400; i++) {
		shutdown(fd[i], SHUT_RDWR);
		close(fd[i]);
	}
	smp_agent_read(&agent, &pid, sizeof(pid));
	assert_int_equal(smp_agent_result(&agent), 0);
	assert_int_equal(pid, smp_pid(first));
	smp_agent_end(&agent);
	smp_close(first);
}

static void who_says_nothing_is_cut_off(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);

	smp_raw_await_end(smp_raw_connect(f));
	assert_true(smp_alive(c));
	smp_close(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, smp_fixture_set_up, smp_fixture_tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_started_one_is_detached_from_the_trainer),
		TEST(a_trainer_that_ignores_its_children_can_start_one),
		TEST(files_are_for_the_user_alone),
		TEST(of_many_at_once_one_starts_it),
		TEST(memory_outlives_its_trainer),
		TEST(a_live_holder_is_named),
		TEST(who_waits_gets_it_when_the_holder_dies),
		TEST(a_worker_of_a_dead_holder_holds_nothing),
		TEST(a_goodbye_lets_others_in),
		TEST(two_connections_of_a_process_share_a_lease),
		TEST(arenas_can_be_dropped_retired_and_forgotten),
		TEST(memory_is_handed_to_the_next_when_one_dies),
		TEST(a_stale_socket_is_replaced),
		TEST(started_by_hand_it_says_what_it_does),
		TEST(a_folder_that_others_can_use_is_refused),
		TEST(a_missing_folder_is_made),
		TEST(a_program_that_cannot_serve_is_quoted),
		TEST(a_path_too_long_for_a_socket_is_refused),
		TEST(jobs_and_nodes_have_their_own),
		TEST(it_ends_when_its_time_is_over),
		TEST(it_does_not_expire_under_a_lease),
		TEST(a_later_start_sets_the_time_anew),
		TEST(a_signal_ends_it_cleanly),
		TEST(it_is_not_stopped_under_ranks),
		TEST(an_observer_changes_nothing),
		TEST(a_bad_message_ends_its_connection_only),
		TEST(descriptors_that_were_not_asked_for_are_closed),
		TEST(another_format_or_version_is_told_so),
		TEST(a_foreign_or_silent_server_is_named),
		TEST(who_does_not_read_is_cut_off),
		TEST(a_failed_allocation_leaves_nothing_behind),
		TEST(silent_ones_do_not_keep_others_out),
		TEST(who_says_nothing_is_cut_off),
	};
	int skip = smp_fixture_skip();

	if (skip)
		return skip;
	alarm(300);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
