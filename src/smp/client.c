/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "smp/spawn.h"

#define RETRY_FIRST_NS 2000000u
#define RETRY_MOST_NS  100000000u
#define QUEUE_MOST_NS  1000000000u
/* A goodbye is a courtesy: it does not hold up the end of the trainer for long. */
#define BYE_MS         1000u
#define LIST_TRIES     16
/* Giving back hundreds of gigabytes takes its time. */
#define END_MS         600000u

struct smp_client {
	int sock; /* -1: not connected */
	char *dir, *job, *node, *smp_path;
	uint32_t rank, expire_s, timeout_ms;
	uint32_t scrub_mib_s;
	uint32_t settled_s; /* expiry of the SMP connected last; 0: none yet */
	uint32_t settled_mib_s; /* its scrubber's rate, or WIRE_SCRUB_OFF; the same */
	bool owed; /* an answer to smp_check_ask() is still to come */
	const struct log *log;
	int32_t pid;
};

/* What tries to connect may meet. */
enum attempt {
	ATTEMPT_OK = 0,
	ATTEMPT_NONE = 1, /* nobody listens */
	ATTEMPT_FULL = 2, /* its queue is full */
};

static void disconnect(struct smp_client *c)
{
	if (c->sock >= 0)
		close(c->sock);
	c->sock = -1;
	c->owed = false;
}

/* Waits for events on the socket until the deadline. */
static int await(struct smp_client *c, short events, uint64_t deadline_ns)
{
	struct pollfd p = {.fd = c->sock, .events = events};

	for (;;) {
		uint64_t now = clock_ns();
		uint64_t ms = now < deadline_ns ? (deadline_ns - now) / 1000000u + 1 : 0;
		int n = poll(&p, 1, ms > 1000 ? 1000 : (int)ms);

		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return error_sys(FTMEM_ESYS, errno, "cannot wait for ftmem-smp");
		if (!ms) {
			/* The answer may still come: it must not be taken for another's. */
			disconnect(c);
			return error_set(FTMEM_ETIMEOUT,
			                 "ftmem-smp of job %s on node %s (process %d) "
			                 "does not answer: look at it with ftmem status, or end it",
			                 c->job, c->node, c->pid);
		}
	}
}

static int gone(struct smp_client *c)
{
	disconnect(c);
	return error_set(FTMEM_ESMP, "ftmem-smp of job %s on node %s (process %d) has ended",
	                 c->job, c->node, c->pid);
}

/* A reply, if there is one: enum wire_result, or an error. */
static int receive(struct smp_client *c, uint32_t op, struct wire_reply *reply, int *fd)
{
	union wire_message message;
	size_t bytes = 0;
	int rc = wire_receive(c->sock, &message, &bytes, fd);

	if (!rc)
		rc = wire_reply_check(&message.reply, bytes, op);
	if (!rc)
		*reply = message.reply;
	return rc;
}

/* The answer that nobody took, before another question. */
static int settle(struct smp_client *c, uint64_t deadline_ns)
{
	struct wire_reply reply;
	int rc = 0, fd = -1;

	while (c->owed && !rc) {
		rc = receive(c, WIRE_CHECK, &reply, &fd);
		if (fd >= 0)
			close(fd);
		if (rc == WIRE_AGAIN)
			rc = await(c, POLLIN, deadline_ns);
		else
			c->owed = false;
	}
	return rc;
}

/*
 * One request and its reply. fd: sent along unless -1. out: takes a descriptor that
 * came with the reply; NULL: none is expected. Results of the SMP are returned as
 * they are, with its text. *ended: the SMP hung up.
 */
static int exchange(struct smp_client *c, const struct wire_request *request, int fd,
                    struct wire_reply *reply, int *out, uint64_t deadline_ns, bool *ended)
{
	int rc, came = -1;

	*ended = false;
	if (c->sock < 0)
		return error_set(FTMEM_ESMP, "not connected to ftmem-smp of job %s", c->job);
	rc = settle(c, deadline_ns);
	while (!rc && (rc = wire_send(c->sock, request, sizeof(*request), fd)) == WIRE_AGAIN) {
		rc = await(c, POLLOUT, deadline_ns);
		if (rc)
			return rc;
	}
	while (!rc && (rc = receive(c, request->op, reply, &came)) == WIRE_AGAIN) {
		rc = await(c, POLLIN, deadline_ns);
		if (rc)
			return rc;
	}
	if (rc == WIRE_CLOSED) {
		*ended = true;
		return gone(c);
	}
	if (!rc && came >= 0 && !out)
		rc = error_set(FTMEM_ESMP, "ftmem-smp sent a descriptor that was not asked for");
	if (!rc && out && reply->result == 0 && came < 0)
		rc = error_set(FTMEM_ESMP, "ftmem-smp did not send the arena's descriptor");
	if (rc) {
		disconnect(c);
	} else if (reply->result < 0) {
		rc = error_set(reply->result, "%s", reply->text);
	} else {
		rc = reply->result;
	}
	if (rc && came >= 0)
		close(came);
	else if (out)
		*out = came;
	return rc;
}

static int call(struct smp_client *c, const struct wire_request *request, int fd,
                struct wire_reply *reply, int *out)
{
	bool ended;

	return exchange(c, request, fd, reply, out, clock_deadline(c->timeout_ms), &ended);
}

/* The other end must be of the same user: the folder says so, the kernel proves it. */
static int check_server(struct smp_client *c)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(c->sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0)
		return error_sys(FTMEM_ESYS, errno, "cannot ask who listens for job %s", c->job);
	if (cred.uid != geteuid())
		return error_set(FTMEM_ESMP,
		                 "the socket of job %s in %s is served by user %u, not by "
		                 "you: choose another folder with FTMEM_DIR",
		                 c->job, c->dir, (unsigned)cred.uid);
	c->pid = cred.pid;
	return 0;
}

/* How long a connection may wait for a place in the queue: its turn comes, where one that
 * only tries now and then finds others in front of it each time. */
static int set_patience(int sock, uint64_t deadline_ns)
{
	/* No time at all would mean for ever. */
	uint64_t now = clock_ns(), ns = now + 1000 < deadline_ns ? deadline_ns - now : 1000;
	struct timeval most;

	if (ns > QUEUE_MOST_NS)
		ns = QUEUE_MOST_NS;
	most = (struct timeval){.tv_sec = (time_t)(ns / 1000000000u),
	                        .tv_usec = (suseconds_t)(ns % 1000000000u / 1000)};
	if (setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof(most)) != 0)
		return error_sys(FTMEM_ESYS, errno, "cannot set a deadline for a connection");
	return 0;
}

/* enum attempt, or an error. */
static int attempt(struct smp_client *c, uint64_t deadline_ns)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int rc = smp_path_of(c->dir, c->job, c->node, "sock", addr.sun_path, sizeof(addr.sun_path));

	if (rc)
		return rc;
	disconnect(c);
	/* Blocking, but only here: messages are sent and received with MSG_DONTWAIT. */
	c->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (c->sock < 0)
		return error_sys(FTMEM_ESYS, errno, "cannot make a socket");
	rc = set_patience(c->sock, deadline_ns);
	if (rc)
		return rc;
	if (connect(c->sock, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
		return check_server(c);
	rc = errno;
	disconnect(c);
	if (rc == ENOENT || rc == ECONNREFUSED)
		return ATTEMPT_NONE;
	if (rc == EAGAIN || rc == EINTR)
		return ATTEMPT_FULL;
	return error_sys(FTMEM_ESMP, rc, "cannot connect to %s", addr.sun_path);
}

/* ATTEMPT_NONE: it hung up, as it does when it ends just now. */
static int hello(struct smp_client *c, uint64_t deadline_ns)
{
	struct wire_request request;
	struct wire_reply reply;
	bool ended;
	int rc;

	wire_request_init(&request, WIRE_HELLO, c->job);
	request.rank = c->rank;
	request.index = c->rank == WIRE_RANK_OBSERVER ? 0 : c->expire_s;
	request.bytes = c->rank == WIRE_RANK_OBSERVER ? 0 : c->scrub_mib_s;
	rc = exchange(c, &request, -1, &reply, NULL, deadline_ns, &ended);
	if (ended)
		return ATTEMPT_NONE;
	if (rc)
		disconnect(c);
	else if (reply.pid > 0)
		c->pid = reply.pid;
	if (!rc) {
		c->settled_s = reply.expire_s;
		c->settled_mib_s = reply.scrub_mib_s ? reply.scrub_mib_s : WIRE_SCRUB_OFF;
	}
	return rc;
}

static int start_one(struct smp_client *c, uint64_t deadline_ns)
{
	const struct spawn_config config = {.smp_path = c->smp_path,
	                                    .dir = c->dir,
	                                    .job = c->job,
	                                    .node = c->node,
	                                    .expire_s = c->expire_s ? c->expire_s : c->settled_s,
	                                    .scrub_mib_s = c->scrub_mib_s ? c->scrub_mib_s
	                                                                  : c->settled_mib_s};
	int rc;

	if (!c->smp_path)
		return error_set(FTMEM_ESMP,
		                 "no ftmem-smp serves job %s on node %s in %s: start one "
		                 "with ftmem-smp --job %s --node %s --dir %s",
		                 c->job, c->node, c->dir, c->job, c->node, c->dir);
	rc = smp_dir_check(c->dir, true);
	if (!rc)
		rc = smp_spawn(&config, deadline_ns);
	if (!rc)
		log_line(c->log, FTMEM_LOG_INFO, "started ftmem-smp for job %s on node %s", c->job,
		         c->node);
	return rc;
}

static int connect_until(struct smp_client *c, uint64_t deadline_ns)
{
	uint64_t pause = RETRY_FIRST_NS;
	int rc;

	if (!smp_dir_missing(c->dir)) {
		rc = smp_dir_check(c->dir, false);
		if (rc)
			return rc;
	}
	for (;;) {
		rc = attempt(c, deadline_ns);
		if (rc == ATTEMPT_OK)
			rc = hello(c, deadline_ns);
		if (rc <= 0)
			return rc;
		if (rc == ATTEMPT_NONE)
			rc = start_one(c, deadline_ns);
		if (rc < 0)
			return rc;
		if (clock_ns() >= deadline_ns)
			return error_set(FTMEM_ETIMEOUT,
			                 "ftmem-smp of job %s on node %s in %s runs but "
			                 "lets nobody connect: end it",
			                 c->job, c->node, c->dir);
		if (rc == 0)
			continue;
		clock_sleep(pause);
		pause = pause * 2 < RETRY_MOST_NS ? pause * 2 : RETRY_MOST_NS;
	}
}

static void client_free(struct smp_client *c)
{
	if (!c)
		return;
	disconnect(c);
	free(c->dir);
	free(c->job);
	free(c->node);
	free(c->smp_path);
	free(c);
}

int smp_connect(const struct smp_config *config, struct smp_client **out)
{
	struct smp_client *c = calloc(1, sizeof(*c));
	char path[SMP_PATH_MAX];
	int rc = FTMEM_ENOMEM;

	if (!c)
		goto fail;
	c->sock = -1;
	c->rank = config->rank;
	c->expire_s = config->expire_s;
	c->scrub_mib_s = config->scrub_mib_s;
	c->timeout_ms = config->timeout_ms;
	c->log = config->log;
	c->dir = strdup(config->dir);
	c->job = strdup(config->job);
	c->node = strdup(config->node);
	if (config->smp_path)
		c->smp_path = strdup(config->smp_path);
	if (!c->dir || !c->job || !c->node || (config->smp_path && !c->smp_path))
		goto fail;
	rc = smp_path_of(c->dir, c->job, c->node, "sock", path, sizeof(path));
	if (!rc)
		rc = connect_until(c, clock_deadline(c->timeout_ms));
	if (rc)
		goto fail;
	*out = c;
	return 0;
fail:
	client_free(c);
	return rc == FTMEM_ENOMEM ? error_set(rc, "no memory to connect to ftmem-smp") : rc;
}

void smp_close(struct smp_client *c)
{
	struct wire_request request;
	struct wire_reply reply;
	bool ended;

	if (c && c->sock >= 0) {
		wire_request_init(&request, WIRE_BYE, c->job);
		exchange(c, &request, -1, &reply, NULL, clock_deadline(BYE_MS), &ended);
	}
	client_free(c);
}

bool smp_alive(struct smp_client *c)
{
	struct pollfd p = {.fd = c->sock};
	ssize_t n;
	char byte;

	/* One that is gone may have left the answer that it owed. */
	if (c->sock < 0 || poll(&p, 1, 0) > 0)
		return false;
	n = recv(c->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	/* Between requests nothing may come: a message is as wrong as an end. */
	if (n >= 0)
		return n > 0 && c->owed;
	return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

int smp_reconnect(struct smp_client *c)
{
	return connect_until(c, clock_deadline(c->timeout_ms));
}

int32_t smp_pid(const struct smp_client *c)
{
	return c->pid;
}

int smp_info(struct smp_client *c, struct smp_info *out)
{
	struct wire_request request;
	struct wire_reply reply;
	int rc;

	wire_request_init(&request, WIRE_HELLO, c->job);
	request.rank = c->rank;
	rc = call(c, &request, -1, &reply, NULL);
	if (rc)
		return rc;
	*out = (struct smp_info){.pid = reply.pid,
	                         .started_ns = reply.started_ns,
	                         .bytes = reply.bytes,
	                         .arenas = reply.count,
	                         .clients = reply.clients,
	                         .expire_s = reply.expire_s,
	                         .idle_s = reply.idle_s,
	                         .scrub_mib_s = reply.scrub_mib_s};
	return 0;
}

static void entry_of(const struct wire_reply *reply, struct smp_entry *e)
{
	*e = (struct smp_entry){.epoch = reply->epoch,
	                        .rank = reply->rank,
	                        .bytes = reply->bytes,
	                        .owner = reply->pid,
	                        .damage = reply->damage};
	for (int i = 0; i < 2; i++) {
		const struct wire_slot *s = &reply->slot[i];

		e->slot[i].state = (enum slot_state)s->state;
		e->slot[i].stamp = (struct stamp){s->incarnation, s->version};
		e->filled_ns[i] = s->filled_ns;
		e->check[i] = s->check;
	}
}

static int compare_entries(const void *a, const void *b)
{
	const struct smp_entry *x = a, *y = b;

	if (x->epoch != y->epoch)
		return x->epoch < y->epoch ? -1 : 1;
	return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* One pass over the list. FTMEM_BUSY: it changed meanwhile. */
static int list_once(struct smp_client *c, struct smp_entry **entries, uint32_t *count)
{
	struct wire_request request;
	struct wire_reply reply;
	uint64_t generation = 0;
	uint32_t room = 0;
	int rc;

	*entries = NULL;
	*count = 0;
	wire_request_init(&request, WIRE_LIST, c->job);
	for (;;) {
		request.index = *count;
		rc = call(c, &request, -1, &reply, NULL);
		if (rc < 0)
			return rc;
		if (*count && reply.generation != generation)
			return FTMEM_BUSY;
		if (rc == FTMEM_FRESH)
			return 0;
		generation = reply.generation;
		if (*count == room) {
			struct smp_entry *more;

			room = room ? room * 2 : 16;
			more = realloc(*entries, room * sizeof(*more));
			if (!more)
				return error_set(FTMEM_ENOMEM, "no memory for a list of arenas");
			*entries = more;
		}
		entry_of(&reply, &(*entries)[(*count)++]);
	}
}

int smp_list(struct smp_client *c, struct smp_entry **entries, uint32_t *count)
{
	struct smp_entry *list = NULL;
	uint32_t n = 0;
	int rc = FTMEM_BUSY;

	for (int i = 0; rc == FTMEM_BUSY && i < LIST_TRIES; i++) {
		free(list);
		rc = list_once(c, &list, &n);
	}
	if (rc == FTMEM_BUSY)
		rc = error_set(FTMEM_ETIMEOUT,
		               "the arenas of job %s change faster than they can be "
		               "listed",
		               c->job);
	if (rc) {
		free(list);
		return rc;
	}
	if (n)
		qsort(list, n, sizeof(*list), compare_entries);
	*entries = list;
	*count = n;
	return 0;
}

/* Memory that somebody may cut off under us would end the trainer with a signal. */
static int check_memory(int fd, uint64_t bytes)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) != 0
	    || (uint64_t)st.st_size < bytes) {
		close(fd);
		return error_set(FTMEM_ESMP,
		                 "ftmem-smp sent a descriptor that is no sealed memory");
	}
	return 0;
}

int smp_create(struct smp_client *c, uint64_t epoch, uint32_t rank, uint64_t bytes, int *fd)
{
	struct wire_request request;
	struct wire_reply reply;
	int rc, got = -1;

	wire_request_init(&request, WIRE_CREATE, c->job);
	request.epoch = epoch;
	request.rank = rank;
	request.bytes = bytes;
	rc = call(c, &request, -1, &reply, &got);
	if (!rc)
		rc = check_memory(got, bytes);
	if (!rc)
		*fd = got;
	return rc;
}

/* Until the process ends or a short time has passed: it may also let go. */
static void await_process(int32_t pid)
{
	struct pollfd p = {.fd = -1, .events = POLLIN};

	if (pid > 0)
		p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	poll(&p, 1, 20);
	if (p.fd >= 0)
		close(p.fd);
}

int smp_attach(struct smp_client *c, uint64_t epoch, uint32_t rank, bool lease, int *fd)
{
	uint64_t deadline = clock_deadline(c->timeout_ms);
	struct wire_request request;
	struct wire_reply reply;
	int rc, got = -1;
	bool ended;

	wire_request_init(&request, WIRE_ATTACH, c->job);
	request.epoch = epoch;
	request.rank = rank;
	request.flags = lease ? WIRE_ATTACH_LEASE : 0;
	while ((rc = exchange(c, &request, -1, &reply, &got, clock_deadline(c->timeout_ms), &ended))
	               == FTMEM_EATTACHED
	       && clock_ns() < deadline)
		await_process(reply.pid);
	if (!rc)
		rc = check_memory(got, 0);
	if (!rc)
		*fd = got;
	return rc;
}

/* Requests that name an arena or an epoch and want nothing but the result. */
static int simple(struct smp_client *c, enum wire_op op, uint64_t epoch, uint32_t rank, int fd)
{
	struct wire_request request;
	struct wire_reply reply;

	wire_request_init(&request, op, c->job);
	request.epoch = epoch;
	request.rank = rank;
	return call(c, &request, fd, &reply, NULL);
}

int smp_adopt(struct smp_client *c, uint64_t epoch, uint32_t rank, int fd)
{
	return simple(c, WIRE_ADOPT, epoch, rank, fd);
}

int smp_release(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	return simple(c, WIRE_RELEASE, epoch, rank, -1);
}

int smp_drop(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	return simple(c, WIRE_DROP, epoch, rank, -1);
}

int smp_scrub_again(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	struct wire_request request;
	struct wire_reply reply;

	wire_request_init(&request, WIRE_CHECK, c->job);
	request.epoch = epoch;
	request.rank = rank;
	request.flags = WIRE_CHECK_AGAIN;
	return call(c, &request, -1, &reply, NULL);
}

int smp_check_ask(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	struct wire_request request;
	int rc;

	if (c->sock < 0)
		return error_set(FTMEM_ESMP, "not connected to ftmem-smp of job %s", c->job);
	if (c->owed)
		return FTMEM_BUSY;
	wire_request_init(&request, WIRE_CHECK, c->job);
	request.epoch = epoch;
	request.rank = rank;
	rc = wire_send(c->sock, &request, sizeof(request), -1);
	if (rc == WIRE_CLOSED)
		return gone(c);
	if (rc < 0)
		disconnect(c);
	c->owed = rc == WIRE_OK;
	return rc == WIRE_AGAIN ? FTMEM_BUSY : rc;
}

int smp_check_take(struct smp_client *c, struct smp_entry *out)
{
	struct wire_reply reply;
	int rc, fd = -1;

	if (!c->owed)
		return error_set(FTMEM_EINVAL, "ftmem-smp was asked nothing");
	rc = receive(c, WIRE_CHECK, &reply, &fd);
	if (rc == WIRE_AGAIN)
		return FTMEM_BUSY;
	c->owed = false;
	if (fd >= 0)
		close(fd);
	if (rc == WIRE_CLOSED)
		return gone(c);
	if (rc)
		disconnect(c);
	else if (reply.result < 0)
		rc = error_set(reply.result, "%s", reply.text);
	if (!rc)
		entry_of(&reply, out);
	return rc;
}

int smp_retire(struct smp_client *c, uint64_t epoch)
{
	return simple(c, WIRE_RETIRE, epoch, 0, -1);
}

int smp_forget(struct smp_client *c)
{
	return simple(c, WIRE_FORGET, 0, 0, -1);
}

int smp_stop(struct smp_client *c, bool force)
{
	struct wire_request request;
	struct wire_reply reply;
	uint64_t deadline;
	bool ended;
	int rc;

	wire_request_init(&request, WIRE_STOP, c->job);
	request.flags = force ? WIRE_STOP_FORCE : 0;
	rc = exchange(c, &request, -1, &reply, NULL, clock_deadline(c->timeout_ms), &ended);
	deadline = clock_deadline(END_MS);
	while (!rc && smp_alive(c))
		rc = await(c, POLLIN, deadline);
	if (!rc)
		disconnect(c);
	return rc;
}
