/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A real ftmem-smp among clients that only do harm, while a rank goes on with its work:
 * it is served all the time, and afterwards the process has the memory and the descriptors
 * that it had before. FTMEM_TEST_FULL goes on for longer.
 */
#include <limits.h>
#include <sched.h>
#include <sys/resource.h>

#include "clock.h"
#include "send_fds.h"
#include "smp_fixture.h"
#include "test_env.h"

#define BYTES SMP_ARENA_BYTES
/* Of clients that do harm at once. */
#define CROWD 4
/* What an allocator, and pages touched the first time, may make of it. Sanitizers keep what
 * was freed. */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)                                  \
	|| __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define GROWTH_KIB (512 * 1024)
#define START_MS   20000u
#else
#define GROWTH_KIB 2048
/* A start takes at most, whatever the crowd does: a client that is kept out for each of the 10 s
 * that a connection may say nothing takes longer. */
#define START_MS   10000u
#endif

static uint64_t status_kib(int32_t pid, const char *name)
{
	char path[64], line[256];
	uint64_t kib = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (strncmp(line, name, strlen(name)) == 0)
			kib = strtoull(line + strlen(name) + 1, NULL, 10);
	fclose(file);
	return kib;
}

static unsigned fds(int32_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	return smp_fixture_entries(path);
}

/* Until it has noticed that clients are gone: those, too, that it had not accepted. */
static void await_fds(int32_t pid, unsigned want)
{
	uint64_t end = clock_deadline(SMP_PATIENCE_MS);
	unsigned have = 0;

	for (int same = 0; same < 10 && clock_ns() < end; same++) {
		clock_sleep(1000000);
		have = fds(pid);
		if (have != want)
			same = -1;
	}
	assert_int_equal(have, want);
}

static struct wire_request hello(uint32_t rank)
{
	struct wire_request r;

	wire_request_init(&r, WIRE_HELLO, "job");
	r.rank = rank;
	return r;
}

/* --- the crowd --- */

typedef void (*harm)(const struct smp_fixture *f, unsigned turn);

static int try_connect(const struct smp_fixture *f, int flags)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0);

	if (fd < 0)
		return -1;
	if (smp_path_of(f->dir, "job", "node", "sock", addr.sun_path, sizeof(addr.sun_path)) == 0
	    && connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* The last so many descriptors stay open. */
static void keep(int fd, unsigned turn)
{
	static int kept[700];
	int *at = &kept[turn % 700];

	if (*at > 0)
		close(*at);
	*at = fd > 0 ? fd : 0;
}

static void say_nothing(const struct smp_fixture *f, unsigned turn)
{
	keep(try_connect(f, 0), turn);
}

static void connect_at_once(const struct smp_fixture *f, unsigned turn)
{
	int fd = try_connect(f, SOCK_NONBLOCK);

	(void)turn;
	if (fd >= 0)
		close(fd);
}

static void say_half(const struct smp_fixture *f, unsigned turn)
{
	struct wire_request r = hello(3);
	int fd = try_connect(f, 0);

	if (fd >= 0)
		send(fd, &r, 1 + turn % (sizeof(r) - 1), MSG_NOSIGNAL);
	keep(fd, turn);
}

static void hello_for_ever(const struct smp_fixture *f, unsigned turn)
{
	struct wire_request r = hello(turn % 2 ? 3 : WIRE_RANK_OBSERVER);
	struct wire_reply reply;
	int fd = try_connect(f, 0);

	for (int i = 0; fd >= 0 && i < 100; i++)
		if (send(fd, &r, sizeof(r), MSG_NOSIGNAL) < 0
		    || recv(fd, &reply, sizeof(reply), 0) <= 0)
			break;
	keep(fd, turn);
}

static void never_read(const struct smp_fixture *f, unsigned turn)
{
	struct wire_request r = hello(WIRE_RANK_OBSERVER);
	int fd = try_connect(f, 0);

	while (fd >= 0 && send(fd, &r, sizeof(r), MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
		;
	keep(fd, turn);
}

static int hostile_fd(unsigned turn)
{
	int fd = -1, pair[2] = {-1, -1};

	switch (turn % 5) {
	case 0: fd = socket(AF_UNIX, SOCK_STREAM, 0); break;
	case 1:
		if (pipe(pair) == 0)
			close(pair[1]);
		fd = pair[0];
		break;
	case 2: /* huge, not sealed */
		fd = memfd_create("huge", MFD_ALLOW_SEALING);
		if (fd >= 0 && ftruncate(fd, (off_t)1 << 60) != 0)
			return fd;
		break;
	case 3: /* huge, sealed, no arena */
		fd = memfd_create("huge", MFD_ALLOW_SEALING);
		if (fd >= 0 && ftruncate(fd, (off_t)1 << 60) == 0)
			fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
		break;
	default: fd = open("/dev/zero", O_RDWR); break;
	}
	return fd;
}

/* Each message has many descriptors, or one that is no arena. Whether it is taken is all one. */
static void send_descriptors(const struct smp_fixture *f, unsigned turn)
{
	struct wire_request r = hello(3), adopt;
	int fd = try_connect(f, 0), one, many[SEND_FDS_MAX], flags = MSG_NOSIGNAL | MSG_DONTWAIT;
	struct wire_reply reply;

	wire_request_init(&adopt, WIRE_ADOPT, "job");
	adopt.epoch = 1;
	if (fd < 0)
		return;
	one = turn % 6 == 5 ? dup(fd) : hostile_fd(turn); /* itself: its own end in flight */
	for (unsigned i = 0; i < SEND_FDS_MAX; i++)
		many[i] = one;
	if (send(fd, &r, sizeof(r), MSG_NOSIGNAL) > 0 && recv(fd, &reply, sizeof(reply), 0) > 0) {
		(void)send_fds(fd, &adopt, sizeof(adopt), many, 1, flags);
		if (recv(fd, &reply, sizeof(reply), 0) > 0)
			(void)send_fds(fd, &adopt, sizeof(adopt), many,
			               turn % 3 ? SEND_FDS_MAX : 2, flags);
	}
	if (one >= 0)
		close(one);
	/* And some that nobody has asked for yet. */
	for (unsigned i = 0; i < 50; i++)
		(void)send_fds(fd, &adopt, sizeof(adopt), &fd, 1, flags);
	keep(fd, turn);
}

static void behave_badly(const struct smp_fixture *f, harm harm)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(100);
	for (unsigned turn = 0;; turn++)
		harm(f, turn);
}

/* --- the rank --- */

/* What a rank does of a life: connects, takes memory, lists, and goes. */
static void one_start(const struct smp_fixture *f, uint64_t epoch)
{
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct smp_entry *entry = NULL;
	uint32_t count = 0;
	int fd = -1;

	assert_int_equal(smp_create(c, epoch, 0, BYTES, &fd), 0);
	assert_int_equal(smp_arena_write(fd, epoch, 0), 0);
	assert_int_equal(smp_list(c, &entry, &count), 0);
	assert_true(count >= 1);
	free(entry);
	assert_int_equal(smp_retire(c, epoch), 0);
	assert_int_equal(smp_drop(c, epoch, 0), 0);
	close(fd);
	smp_close(c);
}

static void gather(const struct smp_fixture *f, harm harm, pid_t crowd[CROWD])
{
	for (int i = 0; i < CROWD; i++) {
		crowd[i] = fork();
		assert_true(crowd[i] >= 0);
		if (!crowd[i])
			behave_badly(f, harm);
	}
}

static void disperse(const pid_t crowd[CROWD])
{
	for (int i = 0; i < CROWD; i++) {
		kill(crowd[i], SIGKILL);
		assert_int_equal(waitpid(crowd[i], NULL, 0), crowd[i]);
	}
}

/* A rank goes on with its work, others start, while a crowd does harm. */
static void endure(struct smp_fixture *f, harm harm)
{
	struct smp_client *c = smp_fixture_connect(f, 0);
	int32_t pid = smp_pid(c);
	uint64_t memory, end, begin, longest = 0;
	unsigned before = fds(pid), starts = 0, limit = test_quick() ? 20000 : START_MS;
	pid_t crowd[CROWD];
	int fd = -1;

	/* All memory that a round takes was touched once. */
	one_start(f, 1);
	memory = status_kib(pid, "VmRSS:");
	gather(f, harm, crowd);
	end = clock_deadline(test_full() ? 10000 : 700);
	do {
		begin = clock_ns();
		one_start(f, 2 + starts++);
		if (clock_ns() - begin > longest)
			longest = clock_ns() - begin;
		if (!smp_alive(c))
			assert_int_equal(smp_reconnect(c), 0);
		assert_int_equal(smp_create(c, 1, 0, BYTES, &fd), 0);
		assert_int_equal(smp_drop(c, 1, 0), 0);
		close(fd);
		assert_true(status_kib(pid, "VmRSS:") <= memory + GROWTH_KIB);
		assert_true(fds(pid) <= before + 2 * 256 + 2 * CROWD);
	} while (clock_ns() < end || starts < 5);
	disperse(crowd);
	assert_int_equal(smp_forget(c), 0);
	assert_int_equal(smp_pid(c), pid);
	await_fds(pid, before);
	assert_true(status_kib(pid, "VmRSS:") <= memory + GROWTH_KIB);
	smp_close(c);
	printf("  %u starts of a rank meanwhile, the longest took %u ms\n", starts,
	       (unsigned)(longest / 1000000));
	assert_true(longest / 1000000 < limit);
}

static void silent_connections(void **state)
{
	endure(*state, say_nothing);
}

static void connections_faster_than_they_are_accepted(void **state)
{
	endure(*state, connect_at_once);
}

static void half_messages(void **state)
{
	endure(*state, say_half);
}

static void endless_hellos(void **state)
{
	endure(*state, hello_for_ever);
}

static void replies_that_nobody_reads(void **state)
{
	endure(*state, never_read);
}

static void descriptors_of_all_kinds(void **state)
{
	endure(*state, send_descriptors);
}

/* --- one at a time --- */

/* The rank's connection stays when strangers come in any number, as long as they have
 * said nothing, or only look. */
static void a_rank_never_gives_way_to_strangers(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct wire_request r = hello(WIRE_RANK_OBSERVER);
	struct wire_reply reply;
	static int fd[600];

	for (int i = 0; i < 600; i++) {
		fd[i] = smp_raw_connect(f);
		if (i % 2) {
			assert_int_equal(send(fd[i], &r, sizeof(r), MSG_NOSIGNAL), sizeof(r));
			assert_int_equal(recv(fd[i], &reply, sizeof(reply), 0), sizeof(reply));
		}
	}
	assert_true(smp_alive(c));
	assert_int_equal(smp_forget(c), 0);
	for (int i = 0; i < 600; i++)
		close(fd[i]);
	assert_true(smp_alive(c));
	smp_close(c);
}

/* What was said before it is accepted counts, however many come after. */
static void who_has_spoken_is_heard_before_it_gives_way(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct wire_request r = hello(5);
	struct wire_reply reply;
	unsigned before = fds(smp_pid(c));
	static int fd[300];

	/* All places are taken. */
	for (int i = 0; i < 255; i++)
		fd[i] = smp_raw_connect(f);
	await_fds(smp_pid(c), before + 255);
	assert_int_equal(kill(smp_pid(c), SIGSTOP), 0);
	for (int i = 255; i < 300; i++)
		fd[i] = smp_raw_connect(f);
	/* The first would be the first to give way; the last waits in the queue. */
	assert_int_equal(send(fd[0], &r, sizeof(r), MSG_NOSIGNAL), sizeof(r));
	assert_int_equal(send(fd[299], &r, sizeof(r), MSG_NOSIGNAL), sizeof(r));
	assert_int_equal(kill(smp_pid(c), SIGCONT), 0);
	assert_int_equal(recv(fd[0], &reply, sizeof(reply), 0), sizeof(reply));
	assert_int_equal(reply.result, 0);
	assert_int_equal(recv(fd[299], &reply, sizeof(reply), 0), sizeof(reply));
	assert_int_equal(reply.result, 0);
	for (int i = 0; i < 300; i++)
		close(fd[i]);
	smp_close(c);
}

/* All places are taken by ranks of one process: its others come in. */
static void a_process_does_not_take_all_places(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct wire_request r = hello(5);
	struct wire_reply reply;
	struct smp_agent agent;
	static int fd[300];
	int32_t pid = 0;

	for (int i = 0; i < 300; i++) {
		fd[i] = smp_raw_connect(f);
		assert_int_equal(send(fd[i], &r, sizeof(r), MSG_NOSIGNAL), sizeof(r));
		assert_int_equal(recv(fd[i], &reply, sizeof(reply), 0), sizeof(reply));
	}
	agent = smp_agent_new(f, smp_fixture_tell);
	smp_agent_read(&agent, &pid, sizeof(pid));
	assert_int_equal(smp_agent_result(&agent), 0);
	smp_agent_end(&agent);
	for (int i = 0; i < 300; i++)
		close(fd[i]);
	if (!smp_alive(c))
		assert_int_equal(smp_reconnect(c), 0);
	assert_int_equal(smp_pid(c), pid);
	smp_close(c);
}

static int adopt_raw(int sock, uint64_t epoch, int memory)
{
	struct wire_request r;
	struct wire_reply reply;

	wire_request_init(&r, WIRE_ADOPT, "job");
	r.epoch = epoch;
	r.rank = 1;
	assert_int_equal(wire_send(sock, &r, sizeof(r), memory), WIRE_OK);
	assert_int_equal(recv(sock, &reply, sizeof(reply), 0), sizeof(reply));
	return reply.result;
}

/* Sealed memory that begins with the header of an arena of that epoch. */
static int crafted(uint64_t epoch)
{
	int fd = memfd_create("crafted", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct arena_header h = {.magic = ARENA_MAGIC,
	                         .format = ARENA_FORMAT,
	                         .arena_bytes = UINT64_C(1) << 50,
	                         .epoch = epoch,
	                         .rank = 1,
	                         .job = "job"};

	h.header_sum = arena_header_sum(&h);
	assert_int_equal(ftruncate(fd, (off_t)1 << 50), 0);
	assert_int_equal(pwrite(fd, &h, sizeof(h), 0), sizeof(h));
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL), 0);
	return fd;
}

/* Adopts as many as it gets, until the program's limit, or that of its descriptors. */
static void as_many_arenas_as_it_takes(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct wire_request r = hello(1);
	struct wire_reply reply;
	int fd = smp_raw_connect(f), memory, rc = 0;
	int32_t pid = smp_pid(c);
	uint64_t epoch = 1;

	assert_int_equal(send(fd, &r, sizeof(r), MSG_NOSIGNAL), sizeof(r));
	assert_int_equal(recv(fd, &reply, sizeof(reply), 0), sizeof(reply));
	for (; rc == 0 && epoch < 5000; epoch++) {
		memory = crafted(epoch);
		rc = adopt_raw(fd, epoch, memory);
		close(memory);
	}
	assert_int_equal(rc, FTMEM_ENOMEM);
	assert_true(epoch > 16);
	printf("  %llu arenas, %llu KiB\n", (unsigned long long)epoch - 1,
	       (unsigned long long)status_kib(pid, "VmRSS:"));
	/* It still has descriptors for who comes. */
	smp_close(smp_fixture_connect(f, 2));
	assert_int_equal(smp_forget(c), 0);
	one_start(f, 1);
	close(fd);
	smp_close(c);
}

static int start_with_few(const struct smp_fixture *f, int out)
{
	const struct rlimit few = {64, 64};

	return setrlimit(RLIMIT_NOFILE, &few) != 0 ? -1 : smp_fixture_tell(f, out);
}

/* A program that may have few descriptors, as where a limit is set, stays within them. */
static void few_descriptors_are_shared_out(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent = smp_agent_new(f, start_with_few);
	struct smp_client *c;
	static int fd[300];
	int32_t pid = 0;

	smp_agent_read(&agent, &pid, sizeof(pid));
	assert_int_equal(smp_agent_result(&agent), 0);
	smp_agent_end(&agent);
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_pid(c), pid);
	for (int i = 0; i < 300; i++)
		fd[i] = smp_raw_connect(f);
	one_start(f, 2);
	assert_true(fds(smp_pid(c)) <= 64);
	for (int i = 0; i < 300; i++)
		close(fd[i]);
	smp_close(c);
	as_many_arenas_as_it_takes(state);
}

/* Of another user, who somehow reached the socket: not answered, and not served. */
static int as_another_user(const struct smp_fixture *f, int out)
{
	struct wire_request r = hello(3);
	struct wire_reply reply;
	int fd;

	(void)out;
	if (setgid(65534) != 0 || setuid(65534) != 0)
		return -1;
	fd = try_connect(f, 0);
	if (fd < 0)
		return -2;
	if (send(fd, &r, sizeof(r), MSG_NOSIGNAL) < 0 && errno != EPIPE)
		return -3;
	return recv(fd, &reply, sizeof(reply), 0) > 0 ? -4 : 0;
}

static void another_user_is_not_answered(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent;
	char path[SMP_PATH_MAX];
	struct smp_client *c;

	smp_fixture_needs_root();
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_path_of(f->dir, "job", "node", "sock", path, sizeof(path)), 0);
	assert_int_equal(chmod(f->dir, 0755), 0);
	assert_int_equal(chmod(path, 0777), 0);
	for (int i = 0; i < 3; i++) {
		agent = smp_agent_new(f, as_another_user);
		assert_int_equal(smp_agent_result(&agent), 0);
		smp_agent_end(&agent);
	}
	assert_int_equal(chmod(f->dir, 0700), 0);
	assert_true(smp_alive(c));
	one_start(f, 1);
	smp_close(c);
}

static int in_a_namespace(const struct smp_fixture *f, int out)
{
	struct smp_client *c = NULL;
	int fd = -1, status = -1, rc;
	pid_t pid;

	(void)out;
	if (unshare(CLONE_NEWPID) != 0)
		return -1;
	pid = fork();
	if (!pid) {
		rc = smp_connect(&f->config, &c);
		if (!rc)
			rc = smp_create(c, 1, 0, BYTES, &fd);
		if (!rc)
			rc = smp_drop(c, 1, 0);
		smp_close(c);
		_exit(rc ? 1 : 0);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -2;
}

/* The program in a pid namespace of its own sees nobody by number: leases are of
 * connections then. And clients in theirs. */
static void pid_namespaces_do_not_matter(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent;
	struct smp_client *c, *other;
	uint64_t end;
	int32_t pid;
	int fd;
	pid_t starter;

	smp_fixture_needs_root();
	c = smp_fixture_connect(f, 0);
	agent = smp_agent_new(f, in_a_namespace);
	assert_int_equal(smp_agent_result(&agent), 0);
	smp_agent_end(&agent);
	/* It holds its lock until it has ended: the next one would find it busy. */
	pid = smp_pid(c);
	fd = smp_fixture_pidfd(pid);
	assert_int_equal(smp_stop(c, true), 0);
	smp_fixture_await_process(fd, pid);
	smp_close(c);
	/* A program that lives in a namespace, of which the first process must stay. */
	starter = fork();
	if (!starter) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unshare(CLONE_NEWPID) != 0 || (starter = fork()) < 0)
			_exit(1);
		if (starter)
			for (;;)
				pause();
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl(f->config.smp_path, "ftmem-smp", "--job", "job", "--node", "node", "--dir",
		      f->dir, "--foreground", (char *)NULL);
		_exit(1);
	}
	end = clock_deadline(SMP_PATIENCE_MS);
	while ((fd = try_connect(f, 0)) < 0 && clock_ns() < end)
		clock_sleep(1000000);
	assert_true(fd >= 0);
	close(fd);
	f->config.smp_path = NULL;
	c = smp_fixture_connect(f, 0);
	assert_int_equal(smp_create(c, 1, 0, BYTES, &fd), 0);
	close(fd);
	other = smp_fixture_connect(f, 1);
	f->config.timeout_ms = 100;
	assert_int_equal(smp_stop(other, false), FTMEM_EATTACHED);
	f->config.timeout_ms = SMP_PATIENCE_MS;
	smp_close(c);
	assert_int_equal(smp_attach(other, 1, 0, true, &fd), 0);
	close(fd);
	assert_int_equal(smp_stop(other, true), 0);
	smp_close(other);
	while (smp_fixture_entries(f->dir) > 0)
		clock_sleep(1000000);
	kill(starter, SIGKILL);
	waitpid(starter, NULL, 0);
	f->config.smp_path = getenv("FTMEM_SMP");
}

/* What clients do wrong is told in the log, but not for ever. */
static void the_log_does_not_grow_with_them(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	char path[SMP_PATH_MAX];
	struct stat st;
	int fd;

	for (int i = 0; i < 6000; i++) {
		fd = smp_raw_connect(f);
		assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), 1);
		close(fd);
	}
	assert_int_equal(smp_forget(c), 0);
	assert_int_equal(smp_path_of(f->dir, "job", "node", "log", path, sizeof(path)), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_size > 1000 && st.st_size < 256 * 1024);
	smp_close(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, smp_fixture_set_up, smp_fixture_tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(silent_connections),
		TEST(connections_faster_than_they_are_accepted),
		TEST(half_messages),
		TEST(endless_hellos),
		TEST(replies_that_nobody_reads),
		TEST(descriptors_of_all_kinds),
		TEST(a_rank_never_gives_way_to_strangers),
		TEST(who_has_spoken_is_heard_before_it_gives_way),
		TEST(a_process_does_not_take_all_places),
		TEST(as_many_arenas_as_it_takes),
		TEST(few_descriptors_are_shared_out),
		TEST(another_user_is_not_answered),
		TEST(pid_namespaces_do_not_matter),
		TEST(the_log_does_not_grow_with_them),
	};
	struct rlimit limit;
	int skip = smp_fixture_skip();

	if (skip)
		return skip;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	alarm(300);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
