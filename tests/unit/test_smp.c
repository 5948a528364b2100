/* SPDX-License-Identifier: BSD-3-Clause */
/* A real ftmem-smp: arenas, leases, and clients without manners. */
#include "alloc_fail.h"
#include "clock.h"
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

static unsigned proc_fds(int32_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	return smp_fixture_entries(path);
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
	smp_fixture_kill(first);
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
	assert_int_equal(smp_reconnect(c), 0);
	assert_int_equal(smp_scrub_again(c, 1, 0), FTMEM_ESMP);
	smp_close(c);
}

static void take(struct smp_client *c, int want, struct smp_entry *e)
{
	uint64_t end = clock_deadline(SMP_PATIENCE_MS);
	int rc;

	while ((rc = smp_check_take(c, e)) == FTMEM_BUSY && clock_ns() < end)
		clock_sleep(100000);
	assert_int_equal(rc, want);
}

/* Asked without waiting; whatever is asked meanwhile has its own answer. */
static void what_was_found_is_told_on_request(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct smp_entry e = {0};
	struct smp_info info;
	int fd = -1;

	assert_int_equal(smp_check_take(c, &e), FTMEM_EINVAL);
	assert_int_equal(smp_create(c, 3, 0, BYTES, &fd), 0);
	assert_int_equal(smp_arena_write(fd, 3, 0), 0);
	assert_int_equal(smp_check_ask(c, 3, 0), 0);
	assert_int_equal(smp_check_ask(c, 3, 0), FTMEM_BUSY);
	take(c, 0, &e);
	assert_int_equal(e.epoch, 3);
	assert_int_equal(e.slot[0].stamp.version, 41);
	assert_int_equal(smp_check_ask(c, 4, 0), 0);
	take(c, FTMEM_EINVAL, &e);
	assert_int_equal(smp_check_ask(c, 3, 0), 0);
	assert_true(smp_alive(c));
	assert_int_equal(smp_info(c, &info), 0);
	assert_int_equal(info.arenas, 1);
	assert_int_equal(smp_check_take(c, &e), FTMEM_EINVAL);
	assert_true(smp_alive(c));
	/* Before it can answer. */
	assert_int_equal(kill(smp_pid(c), SIGSTOP), 0);
	assert_int_equal(smp_check_ask(c, 3, 0), 0);
	smp_fixture_kill(smp_pid(c));
	take(c, FTMEM_ESMP, &e);
	assert_false(smp_alive(c));
	assert_int_equal(smp_check_ask(c, 3, 0), FTMEM_ESMP);
	close(fd);
	smp_close(c);
	smp_close(smp_fixture_connect(f, 0));
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

/* Serves one client, and has so much to free, so to say, that it takes longer than an answer. */
static int end_slowly(const struct smp_fixture *f, int out)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), client;
	struct wire_request request;
	struct wire_reply reply;
	int rc = smp_path_of(f->dir, "job", "node", "sock", addr.sun_path, sizeof(addr.sun_path));

	if (rc || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0 || listen(fd, 1) != 0
	    || write(out, &rc, sizeof(rc)) != (ssize_t)sizeof(rc))
		return -1;
	client = accept(fd, NULL, NULL);
	for (int i = 0; i < 2; i++) {
		if (recv(client, &request, sizeof(request), 0) != (ssize_t)sizeof(request))
			return -2;
		wire_reply_init(&reply, request.op);
		if (send(client, &reply, sizeof(reply), MSG_NOSIGNAL) < 0)
			return -3;
	}
	sleep(2);
	unlink(addr.sun_path);
	close(client);
	close(fd);
	return request.op == WIRE_STOP ? 0 : -4;
}

static void who_has_much_to_free_is_waited_for(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_agent agent = smp_agent_new(f, end_slowly);
	struct smp_client *c;

	assert_int_equal(smp_agent_result(&agent), 0);
	f->config.timeout_ms = 1000;
	c = smp_fixture_connect(f, WIRE_RANK_OBSERVER);
	assert_int_equal(smp_stop(c, true), 0);
	smp_close(c);
	assert_int_equal(smp_agent_result(&agent), 0);
	smp_agent_end(&agent);
	f->config.timeout_ms = SMP_PATIENCE_MS;
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
	agent = smp_agent_new(f, smp_fixture_tell);
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
		TEST(memory_outlives_its_trainer),
		TEST(a_live_holder_is_named),
		TEST(who_waits_gets_it_when_the_holder_dies),
		TEST(a_worker_of_a_dead_holder_holds_nothing),
		TEST(a_goodbye_lets_others_in),
		TEST(two_connections_of_a_process_share_a_lease),
		TEST(arenas_can_be_dropped_retired_and_forgotten),
		TEST(memory_is_handed_to_the_next_when_one_dies),
		TEST(an_observer_changes_nothing),
		TEST(what_was_found_is_told_on_request),
		TEST(a_bad_message_ends_its_connection_only),
		TEST(descriptors_that_were_not_asked_for_are_closed),
		TEST(another_format_or_version_is_told_so),
		TEST(a_foreign_or_silent_server_is_named),
		TEST(who_has_much_to_free_is_waited_for),
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
