/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory of arenas that are removed is freed behind the back of ftmem-smp's loop. Linked with
 * wraps of close(), which tells of arenas and does not return before the test lets it, of
 * pthread_create() and of allocations.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "alloc_fail.h"
#include "log.h"
#include "smp/reap.h"
#include "smp/server.h"
#include "smp/store.h"
#include "smp_fixture.h"

/* No other file is of that size. */
#define BYTES      (5u * 4096u)
/* By which a client of a loop that is held up gives up. */
#define TIMEOUT_MS 20000u
/* For what must not come. */
#define QUIET_MS   200

/* What is told in a pipe, one byte each. */
enum event { BEGINS = 'b', CLOSED = 'c', ANSWERED = 'a' };

static int gate[2] = {-1, -1}; /* close() of an arena takes a byte, or finds its end */
static int told[2] = {-1, -1};
static pthread_t loop;
static atomic_uint closed;
static bool refused; /* threads */
static bool held_up; /* the loop, too, not only other threads */

int __real_close(int fd);
int __wrap_close(int fd);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg)
{
	return refused ? EAGAIN : __real_pthread_create(thread, attr, run, arg);
}

static void tell(enum event event)
{
	const char byte = (char)event;

	/* After a failure the pipe may be closed already. */
	if (write(told[1], &byte, 1) != 1 && errno != EBADF && errno != EPIPE)
		_exit(3);
}

static void await_gate(void)
{
	char byte;

	/* After a failure nobody opens it any more. */
	while (read(gate[0], &byte, 1) < 0 && errno == EINTR)
		;
}

int __wrap_close(int fd)
{
	struct stat st;
	int rc;

	if (fstat(fd, &st) != 0 || st.st_size != BYTES)
		return __real_close(fd);
	tell(BEGINS);
	if (held_up || !pthread_equal(pthread_self(), loop))
		await_gate();
	rc = __real_close(fd);
	atomic_fetch_add(&closed, 1);
	tell(CLOSED);
	return rc;
}

static enum event next_event(void)
{
	struct pollfd p = {.fd = told[0], .events = POLLIN};
	char byte;

	assert_int_equal(poll(&p, 1, SMP_PATIENCE_MS), 1);
	assert_int_equal(read(told[0], &byte, 1), 1);
	return (enum event)byte;
}

static void assert_quiet(void)
{
	struct pollfd p = {.fd = told[0], .events = POLLIN};

	assert_int_equal(poll(&p, 1, QUIET_MS), 0);
}

static void open_gate(unsigned times)
{
	while (times-- > 0)
		assert_int_equal(write(gate[1], "", 1), 1);
}

static int set_up(void **state)
{
	held_up = refused = false;
	atomic_store(&closed, 0);
	loop = pthread_self();
	if (pipe2(gate, O_CLOEXEC) != 0 || pipe2(told, O_CLOEXEC) != 0)
		return -1;
	return smp_fixture_set_up(state);
}

static int tear_down(void **state)
{
	for (int i = 0; i < 2; i++) {
		__real_close(gate[i]);
		__real_close(told[i]);
		gate[i] = told[i] = -1;
	}
	return smp_fixture_tear_down(state);
}

/* --- a server --- */

static void write_nothing(void *arg, int level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
}

static int listen_in(const struct smp_fixture *f)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_int_equal(smp_path_of(f->dir, "job", "node", "sock", addr.sun_path,
	                             sizeof(addr.sun_path)),
	                 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, SERVER_PEERS_MAX), 0);
	return fd;
}

/* In a process of its own; every close() of an arena waits for the gate. */
static pid_t serve(struct smp_fixture *f)
{
	const struct log to = {write_nothing, NULL, FTMEM_LOG_DEBUG, LOG_NO_RANK};
	const struct server_config config = {
		.job = "job", .expire_s = 600, .listener = listen_in(f), .log = &to};
	struct server *s = NULL;
	pid_t pid = fork();
	int rc;

	f->config.smp_path = NULL;
	f->config.timeout_ms = TIMEOUT_MS;
	assert_true(pid >= 0);
	if (pid) {
		__real_close(config.listener);
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	__real_close(gate[1]);
	held_up = true;
	rc = server_new(&config, &s);
	if (!rc)
		rc = server_run(s);
	server_free(s);
	_exit(rc ? 1 : 0);
}

static void assert_ends(const struct smp_fixture *f, pid_t pid)
{
	char path[SMP_PATH_MAX];
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(smp_path_of(f->dir, "job", "node", "sock", path, sizeof(path)), 0);
	assert_int_equal(unlink(path), 0);
}

static void create(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	int fd = -1;

	assert_int_equal(smp_create(c, epoch, rank, BYTES, &fd), 0);
	/* The server has it still. */
	__real_close(fd);
}

static void clients_are_served_while_retired_memory_is_freed(void **state)
{
	struct smp_fixture *f = *state;
	pid_t pid = serve(f);
	struct smp_client *c = smp_fixture_connect(f, 0), *other = smp_fixture_connect(f, 1);
	struct smp_info info;

	create(c, 1, 0);
	create(c, 1, 1);
	create(c, 2, 0);
	assert_int_equal(smp_retire(c, 2), 0);
	assert_int_equal(next_event(), BEGINS);
	assert_int_equal(smp_info(other, &info), 0);
	assert_int_equal(info.arenas, 1);
	/* The names are free. */
	create(other, 1, 1);
	assert_int_equal(smp_retire(other, 2), 0);
	assert_quiet();
	open_gate(3);
	assert_int_equal(next_event(), CLOSED);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(next_event(), BEGINS);
		assert_int_equal(next_event(), CLOSED);
	}
	/* The thread that did this takes no signals. */
	open_gate(1);
	assert_int_equal(kill(pid, SIGTERM), 0);
	assert_ends(f, pid);
	assert_int_equal(next_event(), BEGINS);
	assert_int_equal(next_event(), CLOSED);
	smp_close(other);
	smp_close(c);
}

static int drop_the_one(struct smp_client *c)
{
	return smp_drop(c, 1, 0);
}

static void serve_while_freeing(void **state, int (*give_up)(struct smp_client *c))
{
	struct smp_fixture *f = *state;
	pid_t pid = serve(f);
	struct smp_client *c = smp_fixture_connect(f, 0), *other = smp_fixture_connect(f, 1);
	struct smp_info info;

	create(c, 1, 0);
	assert_int_equal(give_up(c), 0);
	assert_int_equal(next_event(), BEGINS);
	assert_int_equal(smp_info(other, &info), 0);
	assert_int_equal(info.arenas, 0);
	create(other, 1, 0);
	open_gate(1);
	assert_int_equal(next_event(), CLOSED);
	open_gate(1);
	assert_int_equal(smp_stop(c, true), 0);
	assert_int_equal(next_event(), BEGINS);
	assert_int_equal(next_event(), CLOSED);
	assert_ends(f, pid);
	smp_close(other);
	smp_close(c);
}

static void clients_are_served_while_what_was_dropped_is_freed(void **state)
{
	serve_while_freeing(state, drop_the_one);
}

static void clients_are_served_while_what_was_forgotten_is_freed(void **state)
{
	serve_while_freeing(state, smp_forget);
}

static int stop(const struct smp_fixture *f, int out)
{
	struct smp_client *c = NULL;
	int rc = smp_connect(&f->config, &c);

	(void)out;
	if (!rc)
		rc = smp_stop(c, true);
	tell(ANSWERED);
	smp_close(c);
	return rc;
}

static void the_end_waits_for_what_was_retired(void **state)
{
	struct smp_fixture *f = *state;
	pid_t pid = serve(f);
	struct smp_client *c = smp_fixture_connect(f, 0);
	struct smp_agent agent;

	create(c, 1, 0);
	assert_int_equal(smp_retire(c, 2), 0);
	assert_int_equal(next_event(), BEGINS);
	agent = smp_agent_new(f, stop);
	assert_quiet();
	open_gate(1);
	assert_int_equal(next_event(), CLOSED);
	assert_int_equal(next_event(), ANSWERED);
	assert_int_equal(smp_agent_result(&agent), 0);
	smp_agent_end(&agent);
	assert_ends(f, pid);
	smp_close(c);
}

/* --- a store --- */

static void fill(struct store *s, uint64_t epoch, uint32_t ranks)
{
	const struct holder me = {NULL, 1, 11};
	int fd;

	for (uint32_t i = 0; i < ranks; i++)
		assert_int_equal(store_create(s, epoch, i, BYTES, &me, &fd), 0);
}

static void what_cannot_be_freed_by_a_thread_is_freed_at_once(void **state)
{
	struct process_table table = {0};
	struct store *s = NULL;

	(void)state;
	assert_int_equal(store_new("job", &table, &s), 0);
	fill(s, 1, 3);
	refused = true;
	store_retire(s, 2);
	assert_int_equal(atomic_load(&closed), 3);
	refused = false;
	fill(s, 1, 1);
	alloc_fail_at(1);
	store_retire(s, 2);
	alloc_fail_off();
	assert_int_equal(atomic_load(&closed), 4);
	/* The next time there is a thread. */
	fill(s, 1, 1);
	open_gate(1);
	store_retire(s, 2);
	store_free(s);
	assert_int_equal(atomic_load(&closed), 5);
}

/* When the loop has closed two. */
static void *open_late(void *arg)
{
	char byte;

	(void)arg;
	for (int i = 0; i < 2; i++)
		while (read(told[0], &byte, 1) == 1 && byte != CLOSED)
			;
	if (write(gate[1], "", 1) != 1)
		_exit(4);
	return NULL;
}

static void descriptors_that_are_not_closed_yet_count(void **state)
{
	struct process_table table = {0};
	struct store *s = NULL;
	pthread_t opener;
	unsigned found;

	(void)state;
	assert_int_equal(store_new("job", &table, &s), 0);
	store_limit(s, 4);
	fill(s, 1, 3);
	store_retire(s, 2);
	/* The thread closes one and the loop the others. */
	assert_int_equal(next_event(), BEGINS);
	fill(s, 2, 1);
	assert_int_equal(atomic_load(&closed), 0);
	assert_int_equal(__real_pthread_create(&opener, NULL, open_late, NULL), 0);
	fill(s, 3, 1);
	found = atomic_load(&closed);
	assert_int_equal(pthread_join(opener, NULL), 0);
	assert_int_equal(found, 3);
	assert_int_equal(store_count(s), 2);
	open_gate(2);
	store_free(s);
	assert_int_equal(atomic_load(&closed), 5);
}

static void without_memory_or_threads_there_is_no_reaper(void **state)
{
	struct reap *r = NULL;

	(void)state;
	alloc_fail_at(1);
	assert_int_equal(reap_new(&r), FTMEM_ENOMEM);
	alloc_fail_off();
	assert_null(r);
	refused = true;
	assert_int_equal(reap_new(&r), FTMEM_ESYS);
	assert_null(r);
	assert_int_equal(reap_waiting(NULL), 0);
	reap_finish(NULL);
	reap_free(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(clients_are_served_while_retired_memory_is_freed),
		TEST(clients_are_served_while_what_was_dropped_is_freed),
		TEST(clients_are_served_while_what_was_forgotten_is_freed),
		TEST(the_end_waits_for_what_was_retired),
		TEST(what_cannot_be_freed_by_a_thread_is_freed_at_once),
		TEST(descriptors_that_are_not_closed_yet_count),
		TEST(without_memory_or_threads_there_is_no_reaper),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(100);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
