/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "smp/requests.h"
#include "smp/scrub.h"

#define SECOND          UINT64_C(1000000000)
/* After accept() failed for want of descriptors or memory. */
#define ACCEPT_PAUSE_NS (SECOND / 10)
/* Of requests alone, before the scrubber has a turn. */
#define SCRUB_LATE_NS   SECOND
/* Descriptors beside those of connections and arenas. */
#define FDS_OTHER       16u
#define PEERS_LEAST     8u

struct peer {
	int fd; /* -1: free */
	struct session session;
	uint64_t since_ns; /* accepted, or last asked something */
};

struct server {
	char job[FTMEM_NAME_MAX + 1];
	int epoll, signals, listener;
	bool listening;       /* the listener is in epoll */
	uint64_t listen_ns;   /* not before */
	uint64_t idle_ns;     /* since when; 0: not idle */
	uint64_t connections; /* made so far: their identifiers */
	uint32_t peers, peers_max;
	struct service service;
	struct scrub *scrub;
	struct process_table table;
	struct peer peer[SERVER_PEERS_MAX];
};

/* What an event belongs to, beside peers and processes. Peers are named by index,
 * processes by address. */
enum source { SOURCE_LISTENER = 1, SOURCE_SIGNALS, SOURCE_PEER, SOURCE_PROCESS };

static int watch(struct server *s, int fd, enum source source, uint64_t detail)
{
	struct epoll_event event = {.events = EPOLLIN};

	event.data.u64 = detail << 3 | (uint64_t)source;
	if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		return error_sys(FTMEM_ESYS, errno, "cannot watch a descriptor");
	return 0;
}

static void listen_pause(struct server *s, uint64_t ns)
{
	if (s->listening)
		epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->listener, NULL);
	s->listening = false;
	s->listen_ns = clock_ns() + ns;
}

static void listen_again(struct server *s)
{
	if (!s->listening && s->peers < s->peers_max && clock_ns() >= s->listen_ns)
		s->listening = !watch(s, s->listener, SOURCE_LISTENER, 0);
}

static void peer_close(struct server *s, struct peer *p)
{
	store_connection_ended(s->service.store, p->session.holder.connection, false);
	if (p->session.hello && p->session.rank != WIRE_RANK_OBSERVER)
		s->service.clients--;
	process_put(&s->table, p->session.holder.process);
	close(p->fd);
	memset(p, 0, sizeof(*p));
	p->fd = -1;
	s->peers--;
}

static void peer_close_quiet(struct server *s, struct peer *p, const char *why)
{
	log_line(s->service.log, FTMEM_LOG_DEBUG, "connection of process %d closed: %s",
	         p->session.holder.pid, why);
	peer_close(s, p);
}

static void peer_close_bad(struct server *s, struct peer *p)
{
	log_line(s->service.log, FTMEM_LOG_WARN, "connection of process %d closed: %s",
	         p->session.holder.pid, error_msg());
	peer_close(s, p);
}

/* Closes what belongs to a process that has ended. */
static void process_ended(struct server *s, struct process *process)
{
	uint32_t leases = store_leases(s->service.store);

	process_ref(process);
	epoll_ctl(s->epoll, EPOLL_CTL_DEL, process->pidfd, NULL);
	for (uint32_t i = 0; i < SERVER_PEERS_MAX; i++)
		if (s->peer[i].fd >= 0 && s->peer[i].session.holder.process == process)
			peer_close(s, &s->peer[i]);
	store_process_ended(s->service.store, process);
	leases -= store_leases(s->service.store);
	if (leases)
		log_line(s->service.log, FTMEM_LOG_INFO, "process %d ended: %u arenas are free",
		         process->pid, leases);
	process_put(&s->table, process);
}

static int peer_identify(struct server *s, struct peer *p)
{
	struct holder *holder = &p->session.holder;
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int rc;

	if (getsockopt(p->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0)
		return error_sys(FTMEM_ESYS, errno, "cannot ask who connects");
	holder->pid = cred.pid;
	if (cred.uid != geteuid())
		return error_set(FTMEM_EINVAL, "it belongs to user %u", (unsigned)cred.uid);
	rc = process_get(&s->table, cred.pid, p->fd, &holder->process);
	if (rc == FTMEM_FRESH)
		return error_set(FTMEM_EINVAL, "it has ended already");
	/* The first connection of a process puts it under watch. */
	if (!rc && holder->process && holder->process->refs == 1)
		rc = watch(s, holder->process->pidfd, SOURCE_PROCESS,
		           (uint64_t)(uintptr_t)holder->process >> 3);
	return rc;
}

/* To a client of another version: it knows where magic, version and result lie. */
static void refuse_version(struct peer *p, const struct wire_request *request)
{
	struct wire_reply reply;

	wire_reply_init(&reply, request->op);
	reply.result = FTMEM_ESMP;
	memcpy(reply.text, error_msg(), strnlen(error_msg(), sizeof(reply.text) - 1));
	/* It is closed next, whether it hears this or not. */
	(void)wire_send(p->fd, &reply, sizeof(reply), -1);
}

static int peer_serve(struct server *s, struct peer *p)
{
	union wire_message message = {0};
	struct wire_reply reply;
	size_t bytes;
	int rc, fd = -1, send_fd = -1;

	rc = wire_receive(p->fd, &message, &bytes, &fd);
	if (rc)
		return rc;
	rc = wire_request_check(&message.request, bytes, s->job);
	if (rc == FTMEM_ESMP)
		refuse_version(p, &message.request);
	if (rc) {
		if (fd >= 0)
			close(fd);
		return rc;
	}
	p->since_ns = clock_ns();
	rc = request_answer(&s->service, &p->session, &message.request, fd, &reply, &send_fd);
	if (rc)
		return rc;
	rc = wire_send(p->fd, &reply, sizeof(reply), send_fd);
	if (rc == WIRE_AGAIN && send_fd >= 0) {
		wire_reply_init(&reply, message.request.op);
		reply.result = FTMEM_ESYS;
		snprintf(reply.text, sizeof(reply.text),
		         "too many descriptors of this user are on their way between processes");
		rc = wire_send(p->fd, &reply, sizeof(reply), -1);
	}
	if (rc == WIRE_AGAIN)
		return error_set(FTMEM_EINVAL, "it does not read its replies");
	if (!rc && !p->session.hello)
		return error_set(FTMEM_EINVAL, "it was refused: %s", reply.text);
	return rc;
}

static void peer_ready(struct server *s, struct peer *p)
{
	int rc;

	if (p->fd < 0)
		return;
	rc = peer_serve(s, p);
	if (rc == WIRE_CLOSED)
		peer_close(s, p);
	else if (rc < 0)
		peer_close_bad(s, p);
}

/* The one that has been quiet for longest, of silent ones or of observers. */
static struct peer *quietest(struct server *s, bool hello)
{
	struct peer *found = NULL;

	for (struct peer *p = s->peer; p < s->peer + SERVER_PEERS_MAX; p++) {
		if (p->fd < 0 || p->session.hello != hello
		    || (hello && p->session.rank != WIRE_RANK_OBSERVER))
			continue;
		if (!found || p->since_ns < found->since_ns)
			found = p;
	}
	return found;
}

/* Of the process with the most connections, if it has several, the one that has been quiet
 * for longest. */
static struct peer *superfluous(struct server *s)
{
	struct peer *found = NULL;
	uint32_t most = 1;

	for (struct peer *p = s->peer; p < s->peer + SERVER_PEERS_MAX; p++) {
		struct peer *quiet = p;
		uint32_t count = 0;

		/* Those that cannot be seen from here cannot be told apart either. */
		if (p->fd < 0 || !p->session.holder.process)
			continue;
		for (struct peer *q = s->peer; q < s->peer + SERVER_PEERS_MAX; q++) {
			if (q->fd < 0 || q->session.holder.process != p->session.holder.process)
				continue;
			count++;
			if (q->since_ns < quiet->since_ns)
				quiet = q;
		}
		if (count > most) {
			most = count;
			found = quiet;
		}
	}
	return found;
}

/* Closes one connection in favour of another. False: there is none to be closed. */
static bool make_room(struct server *s)
{
	struct peer *p;

	while (s->peers >= s->peers_max && (p = quietest(s, false))) {
		/* It may have said something by now. */
		peer_ready(s, p);
		if (p->fd < 0 || p->session.hello)
			continue;
		peer_close_quiet(s, p, "others came, and it said nothing");
	}
	if (s->peers >= s->peers_max && (p = quietest(s, true)))
		peer_close_quiet(s, p, "others came, and it asked nothing for longest");
	if (s->peers >= s->peers_max && (p = superfluous(s)))
		peer_close_quiet(s, p, "others came, and its process has more");
	return s->peers < s->peers_max;
}

static void peer_accept(struct server *s)
{
	struct peer *p = s->peer;
	int rc, fd;

	if (s->peers >= s->peers_max && !make_room(s)) {
		listen_pause(s, 0);
		return;
	}
	fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			listen_pause(s, ACCEPT_PAUSE_NS);
		return;
	}
	while (p->fd >= 0)
		p++;
	p->fd = fd;
	p->since_ns = clock_ns();
	p->session = (struct session){.holder.connection = ++s->connections};
	s->peers++;
	rc = peer_identify(s, p);
	if (!rc)
		rc = watch(s, fd, SOURCE_PEER, (uint64_t)(p - s->peer));
	if (rc)
		peer_close_bad(s, p);
	else
		peer_ready(s, p);
}

static void on_signal(struct server *s)
{
	struct signalfd_siginfo info;

	if (read(s->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	log_line(s->service.log, FTMEM_LOG_INFO, "signal %u of process %u: %llu bytes freed",
	         info.ssi_signo, info.ssi_pid, (unsigned long long)store_bytes(s->service.store));
	s->service.stop = true;
}

/* A single event at a time, so that none is for something just freed. */
static void dispatch(struct server *s, uint64_t data)
{
	switch ((enum source)(data & 7)) {
	case SOURCE_LISTENER: peer_accept(s); break;
	case SOURCE_SIGNALS: on_signal(s); break;
	case SOURCE_PEER: peer_ready(s, &s->peer[data >> 3]); break;
	case SOURCE_PROCESS:
		process_ended(s, (struct process *)(uintptr_t)(data & ~UINT64_C(7)));
		break;
	}
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Closes who has said nothing in time; returns when to look again. */
static uint64_t peers_expire(struct server *s, uint64_t now)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < SERVER_PEERS_MAX; i++) {
		struct peer *p = &s->peer[i];

		if (p->fd < 0 || p->session.hello)
			continue;
		if (now - p->since_ns >= SERVER_HELLO_S * SECOND) {
			error_set(FTMEM_EINVAL, "it said nothing for %u s", SERVER_HELLO_S);
			peer_close_bad(s, p);
		} else {
			next = earlier(next, p->since_ns + SERVER_HELLO_S * SECOND);
		}
	}
	return next;
}

/* When the last observer that asked something lately will have been silent. */
static uint64_t observers_until(const struct server *s)
{
	uint64_t until = 0;

	for (uint32_t i = 0; i < SERVER_PEERS_MAX; i++) {
		const struct peer *p = &s->peer[i];

		if (p->fd >= 0 && p->since_ns + SERVER_HELLO_S * SECOND > until)
			until = p->since_ns + SERVER_HELLO_S * SECOND;
	}
	return until;
}

/* Who came while this process had no turn is heard before its memory goes. */
static void hear_all(struct server *s)
{
	struct pollfd p = {.fd = s->listener, .events = POLLIN};

	for (uint32_t i = 0; i < SERVER_PEERS_MAX; i++)
		peer_ready(s, &s->peer[i]);
	for (uint32_t i = 0; i < SERVER_PEERS_MAX && poll(&p, 1, 0) > 0; i++)
		peer_accept(s);
}

static bool is_idle(const struct server *s)
{
	return !s->service.clients && !store_leases(s->service.store);
}

/* Ends an idle server in time; returns when to look again. */
static uint64_t idle_expire(struct server *s, uint64_t now)
{
	struct service *service = &s->service;
	uint64_t end;

	if (!is_idle(s)) {
		s->idle_ns = 0;
		service->idle_s = 0;
		return UINT64_MAX;
	}
	if (!s->idle_ns)
		s->idle_ns = now;
	service->idle_s = (uint32_t)((now - s->idle_ns) / SECOND);
	end = s->idle_ns + service->expire_s * SECOND;
	if (now < end)
		return end;
	end = earlier(observers_until(s), end + SERVER_GRACE_S * SECOND);
	if (now < end)
		return end;
	hear_all(s);
	if (!is_idle(s))
		return now;
	log_line(service->log, FTMEM_LOG_INFO,
	         "expired after %u s without a rank: %llu bytes freed", service->expire_s,
	         (unsigned long long)store_bytes(service->store));
	service->stop = true;
	return now;
}

static int timeout_ms(uint64_t now, uint64_t next)
{
	uint64_t ms;

	if (next <= now)
		return 0;
	ms = (next - now) / 1000000u + 1;
	return ms > 60000 ? 60000 : (int)ms;
}

static uint64_t scrub_next(const struct server *s)
{
	return s->service.scrub_mib_s ? scrub_due(s->scrub) : UINT64_MAX;
}

/* busy: a request was there. */
static void scrub_now(struct server *s, bool busy)
{
	uint64_t now = clock_ns(), due = scrub_next(s);

	if (due <= now && (!busy || now - due >= SCRUB_LATE_NS))
		scrub_step(s->scrub, s->service.scrub_mib_s, now);
}

int server_run(struct server *s)
{
	while (!s->service.stop) {
		struct epoll_event event;
		uint64_t now = clock_ns(), next;
		int n;

		next = earlier(peers_expire(s, now), idle_expire(s, now));
		next = earlier(next, scrub_next(s));
		listen_again(s);
		if (!s->listening && s->peers < s->peers_max)
			next = earlier(next, now + ACCEPT_PAUSE_NS);
		if (s->service.stop)
			break;
		n = epoll_wait(s->epoll, &event, 1, timeout_ms(now, next));
		if (n < 0 && errno != EINTR)
			return error_sys(FTMEM_ESYS, errno, "cannot wait for events");
		if (n > 0)
			dispatch(s, event.data.u64);
		scrub_now(s, n > 0);
	}
	return 0;
}

static int signals_open(struct server *s)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
		return error_sys(FTMEM_ESYS, errno, "cannot block signals");
	s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signals < 0)
		return error_sys(FTMEM_ESYS, errno, "cannot receive signals");
	return watch(s, s->signals, SOURCE_SIGNALS, 0);
}

/* Divides the descriptors that the process may have: two for each connection, with its
 * process, and for each arena, with its holder's. */
static void share_descriptors(struct server *s)
{
	struct rlimit limit = {0};
	uint64_t room = UINT32_MAX, peers;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < room)
		room = limit.rlim_cur;
	peers = earlier(room / 8, SERVER_PEERS_MAX);
	s->peers_max = peers < PEERS_LEAST ? PEERS_LEAST : (uint32_t)peers;
	room -= earlier(room, 2 * (uint64_t)s->peers_max + FDS_OTHER);
	store_limit(s->service.store, (uint32_t)(room / 2));
}

int server_new(const struct server_config *config, struct server **out)
{
	struct server *s = calloc(1, sizeof(*s));
	struct timespec now;
	int rc;

	if (!s) {
		close(config->listener);
		return error_set(FTMEM_ENOMEM, "no memory to serve job %s", config->job);
	}
	s->signals = -1;
	s->listener = config->listener;
	for (uint32_t i = 0; i < SERVER_PEERS_MAX; i++)
		s->peer[i].fd = -1;
	memcpy(s->job, config->job, strnlen(config->job, FTMEM_NAME_MAX));
	clock_gettime(CLOCK_REALTIME, &now);
	s->service.started_ns = (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
	s->service.expire_s = config->expire_s;
	s->service.scrub_mib_s = config->scrub_mib_s;
	s->service.log = config->log;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (s->epoll < 0)
		rc = error_sys(FTMEM_ESYS, errno, "cannot watch descriptors");
	else
		rc = store_new(s->job, &s->table, &s->service.store);
	if (!rc)
		rc = scrub_new(s->service.store, config->log, &s->scrub);
	if (!rc)
		rc = signals_open(s);
	if (rc) {
		server_free(s);
		return rc;
	}
	share_descriptors(s);
	listen_again(s);
	*out = s;
	return 0;
}

void server_free(struct server *s)
{
	if (!s)
		return;
	/* Whoever waits for the end of a connection finds the memory free. */
	close(s->listener);
	if (s->service.store) {
		store_forget(s->service.store);
		store_finish(s->service.store);
	}
	for (uint32_t i = 0; i < SERVER_PEERS_MAX; i++)
		if (s->peer[i].fd >= 0)
			peer_close(s, &s->peer[i]);
	store_free(s->service.store);
	scrub_free(s->scrub);
	if (s->signals >= 0)
		close(s->signals);
	if (s->epoll >= 0)
		close(s->epoll);
	free(s);
}
