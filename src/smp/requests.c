/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/requests.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "slot.h"

struct turn {
	struct service *service;
	struct session *session;
	const struct wire_request *request;
	struct wire_reply *reply;
	int fd; /* came along; -1 once taken */
	int send_fd;
};

static bool is_observer(const struct session *session)
{
	return session->rank == WIRE_RANK_OBSERVER;
}

static void describe_all(struct turn *t)
{
	const struct service *service = t->service;

	t->reply->count = store_count(service->store);
	t->reply->generation = store_generation(service->store);
	t->reply->bytes = store_bytes(service->store);
	t->reply->pid = (int32_t)getpid();
	t->reply->started_ns = service->started_ns;
	t->reply->expire_s = service->expire_s;
	t->reply->idle_s = service->idle_s;
	t->reply->clients = service->clients;
	t->reply->scrub_mib_s = service->scrub_mib_s;
}

static int on_hello(struct turn *t)
{
	const struct wire_request *r = t->request;

	/* Observers may look at and drop what another release wrote. */
	if (r->rank != WIRE_RANK_OBSERVER && r->format != ARENA_FORMAT)
		return error_set(FTMEM_ESMP,
		                 "this ftmem-smp holds arenas of format %u, the trainer "
		                 "writes format %u: end it with ftmem drop, or use its libftmem",
		                 ARENA_FORMAT, r->format);
	if (!t->session->hello && r->rank != WIRE_RANK_OBSERVER)
		t->service->clients++;
	t->session->hello = true;
	t->session->rank = r->rank;
	if (r->rank != WIRE_RANK_OBSERVER && r->index && r->index <= UINT32_MAX)
		t->service->expire_s = (uint32_t)r->index;
	if (r->rank != WIRE_RANK_OBSERVER && r->bytes && r->bytes <= UINT32_MAX)
		t->service->scrub_mib_s = r->bytes == WIRE_SCRUB_OFF ? 0 : (uint32_t)r->bytes;
	describe_all(t);
	return 0;
}

static void describe(struct turn *t, const struct store_entry *e)
{
	t->reply->epoch = e->epoch;
	t->reply->rank = e->rank;
	t->reply->bytes = e->bytes;
	t->reply->pid = e->lease.pid;
	t->reply->damage = e->check.damage;
	store_slots(e, t->reply->slot);
}

static int on_list(struct turn *t)
{
	const struct store_entry *e = store_at(t->service->store, t->request->index);

	t->reply->count = store_count(t->service->store);
	t->reply->generation = store_generation(t->service->store);
	if (!e)
		return FTMEM_FRESH;
	describe(t, e);
	return 0;
}

static int on_check(struct turn *t)
{
	const struct wire_request *r = t->request;
	const struct store_entry *e = NULL;
	int rc = store_check(t->service->store, r->epoch, r->rank, r->flags & WIRE_CHECK_AGAIN, &e);

	if (!rc)
		describe(t, e);
	return rc;
}

static void log_arena(const struct turn *t, const char *what)
{
	const struct wire_request *r = t->request;

	log_line(t->service->log, FTMEM_LOG_INFO,
	         "%s rank %u, epoch %llu for process %d; %llu "
	         "bytes in all",
	         what, r->rank, (unsigned long long)r->epoch, t->session->holder.pid,
	         (unsigned long long)store_bytes(t->service->store));
}

static int on_create(struct turn *t)
{
	const struct wire_request *r = t->request;
	int rc = store_create(t->service->store, r->epoch, r->rank, r->bytes, &t->session->holder,
	                      &t->send_fd);

	if (!rc)
		log_arena(t, "created");
	return rc;
}

static int on_attach(struct turn *t)
{
	const struct wire_request *r = t->request;
	bool lease = r->flags & WIRE_ATTACH_LEASE;

	return store_attach(t->service->store, r->epoch, r->rank,
	                    lease ? &t->session->holder : NULL, &t->send_fd, &t->reply->pid);
}

static int on_adopt(struct turn *t)
{
	const struct wire_request *r = t->request;
	uint32_t before = store_count(t->service->store);
	int rc, fd = t->fd;

	t->fd = -1;
	rc = store_adopt(t->service->store, r->epoch, r->rank, fd, &t->session->holder,
	                 &t->reply->pid);
	if (!rc && store_count(t->service->store) > before)
		log_arena(t, "adopted");
	return rc;
}

static int on_release(struct turn *t)
{
	const struct wire_request *r = t->request;

	return store_release(t->service->store, r->epoch, r->rank, &t->session->holder);
}

static int on_drop(struct turn *t)
{
	const struct wire_request *r = t->request;

	return store_drop(t->service->store, r->epoch, r->rank, &t->session->holder,
	                  &t->reply->pid);
}

static int on_retire(struct turn *t)
{
	store_retire(t->service->store, t->request->epoch);
	return 0;
}

static int on_forget(struct turn *t)
{
	log_line(t->service->log, FTMEM_LOG_INFO, "process %d forgets all: %llu bytes to be freed",
	         t->session->holder.pid, (unsigned long long)store_bytes(t->service->store));
	store_forget(t->service->store);
	return 0;
}

static int on_stop(struct turn *t)
{
	struct service *service = t->service;
	uint32_t others = service->clients - !is_observer(t->session);

	if (!(t->request->flags & WIRE_STOP_FORCE)
	    && (others || store_leased_by_others(service->store, &t->session->holder)))
		return error_set(FTMEM_EATTACHED,
		                 "%u ranks are connected or still hold memory: end "
		                 "the job first, or use force",
		                 others);
	log_line(service->log, FTMEM_LOG_INFO, "stopped by process %d: %llu bytes freed",
	         t->session->holder.pid, (unsigned long long)store_bytes(service->store));
	service->stop = true;
	return 0;
}

static int on_bye(struct turn *t)
{
	store_connection_ended(t->service->store, t->session->holder.connection, true);
	return 0;
}

struct rule {
	int (*answer)(struct turn *t);
	bool observers; /* may ask this */
	bool fd;        /* comes with a descriptor */
	uint32_t flags; /* that it may have */
};

static const struct rule rules[WIRE_OPS] = {
	[WIRE_HELLO] = {on_hello, true, false, 0},
	[WIRE_LIST] = {on_list, true, false, 0},
	[WIRE_CREATE] = {on_create, false, false, 0},
	[WIRE_ATTACH] = {on_attach, true, false, WIRE_ATTACH_LEASE},
	[WIRE_ADOPT] = {on_adopt, false, true, 0},
	[WIRE_RELEASE] = {on_release, false, false, 0},
	[WIRE_DROP] = {on_drop, true, false, 0},
	[WIRE_RETIRE] = {on_retire, false, false, 0},
	[WIRE_FORGET] = {on_forget, true, false, 0},
	[WIRE_STOP] = {on_stop, true, false, WIRE_STOP_FORCE},
	[WIRE_BYE] = {on_bye, true, false, 0},
	[WIRE_CHECK] = {on_check, false, false, WIRE_CHECK_AGAIN},
};

static bool keeps_rules(const struct turn *t)
{
	const struct wire_request *r = t->request;
	const struct rule *rule = &rules[r->op];

	if ((r->flags & ~rule->flags) || rule->fd != (t->fd >= 0))
		return false;
	if (!t->session->hello)
		return r->op == WIRE_HELLO;
	if (r->op == WIRE_HELLO)
		return r->rank == t->session->rank;
	if (is_observer(t->session))
		return rule->observers && !(r->op == WIRE_ATTACH && r->flags);
	return true;
}

int request_answer(struct service *service, struct session *session,
                   const struct wire_request *request, int fd, struct wire_reply *reply,
                   int *send_fd)
{
	struct turn t = {service, session, request, reply, fd, -1};
	int rc = FTMEM_EINVAL;

	wire_reply_init(reply, request->op);
	*send_fd = -1;
	if (!keeps_rules(&t)) {
		error_set(rc, "a request %u that this client may not make, or not now",
		          request->op);
		goto out;
	}
	rc = rules[request->op].answer(&t);
	reply->result = rc;
	if (rc < 0)
		snprintf(reply->text, sizeof(reply->text), "%.*s", (int)sizeof(reply->text) - 1,
		         error_msg());
	else
		*send_fd = t.send_fd;
	rc = 0;
out:
	if (t.fd >= 0)
		close(t.fd);
	return rc;
}
