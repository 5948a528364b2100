/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What ftmem-smp answers to a sequence of requests of several connections: the rules of the
 * store hold, and every answer is the one that they call for.
 *
 * The input is a row of steps; what each may be says enum step. Connections 0, 1 and 2
 * belong to one process each, and so do 4, 5 and 6; 3 and 7 to processes that cannot be
 * watched.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checksum.h"
#include "error.h"
#include "fuzz.h"
#include "slot.h"
#include "smp/requests.h"
#include "smp/scrub.h"

#define CLIENTS   8u
#define PROCESSES 4u /* the last: none */
#define STEPS_MAX 96u

/* Below the first: the request of that number. */
enum step { STEP_CLOSE = 24, STEP_DIES, STEP_ENDED, STEP_RAW, STEP_SCRUB, STEPS };
_Static_assert(WIRE_OPS <= 24, "inputs that are kept go on to mean the same");

struct client {
	bool open;
	struct session session;
};

struct world {
	struct process_table table;
	struct service service;
	struct process *process[PROCESSES];
	struct client client[CLIENTS];
	struct scrub *scrub;
	uint64_t connections, now_ns;
};

/* --- processes and connections, as smp/server.c has them --- */

static void client_close(struct world *w, struct client *c)
{
	if (!c->open)
		return;
	store_connection_ended(w->service.store, c->session.holder.connection, false);
	if (c->session.hello && c->session.rank != WIRE_RANK_OBSERVER)
		w->service.clients--;
	process_put(&w->table, c->session.holder.process);
	*c = (struct client){0};
}

/* Nobody notices yet. */
static void process_dies(struct world *w, uint32_t i)
{
	if (w->process[i])
		FUZZ_REQUIRE(eventfd_write(w->process[i]->pidfd, 1) == 0);
}

static void process_ended(struct world *w, uint32_t i)
{
	struct process *p = w->process[i];

	if (!p)
		return;
	process_dies(w, i);
	for (uint32_t c = 0; c < CLIENTS; c++)
		if (w->client[c].open && w->client[c].session.holder.process == p)
			client_close(w, &w->client[c]);
	store_process_ended(w->service.store, p);
	process_put(&w->table, p);
	w->process[i] = NULL;
}

/* The one that a new connection comes from. */
static struct process *process_of(struct world *w, uint32_t client)
{
	uint32_t i = client % PROCESSES;
	struct process *p;

	if (i == PROCESSES - 1)
		return NULL;
	if (w->process[i] && process_gone(w->process[i]))
		process_ended(w, i);
	if (w->process[i])
		return process_ref(w->process[i]);
	p = calloc(1, sizeof(*p));
	FUZZ_REQUIRE(p != NULL);
	*p = (struct process){.next = w->table.first,
	                      .refs = 2,
	                      .pid = 100 + (int32_t)i,
	                      .pidfd = eventfd(0, EFD_CLOEXEC)};
	FUZZ_REQUIRE(p->pidfd >= 0);
	w->table.first = p;
	w->process[i] = p;
	return p;
}

static void client_open(struct world *w, uint32_t i)
{
	struct client *c = &w->client[i];

	if (c->open)
		return;
	c->session = (struct session){.holder = {.connection = ++w->connections,
	                                         .pid = 100 + (int32_t)(i % PROCESSES),
	                                         .process = process_of(w, i)}};
	c->open = true;
}

/* --- descriptors that come with a request --- */

static int seal(int fd, int seals)
{
	FUZZ_REQUIRE(fcntl(fd, F_ADD_SEALS, seals) == 0);
	return fd;
}

#define SEALS (F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)

/* An arena with a header of which some bytes come from the input. */
static int strange_arena(struct fuzz_input *in, uint32_t rank, uint64_t epoch)
{
	int fd = fuzz_arena(rank, epoch);
	struct arena_header h;
	uint8_t bytes[8];
	uint32_t at;

	FUZZ_REQUIRE(pread(fd, &h, sizeof(h), 0) == (ssize_t)sizeof(h));
	at = fuzz_u8(in) % (uint32_t)(sizeof(h) / 8);
	fuzz_take(in, bytes, sizeof(bytes));
	memcpy((uint8_t *)&h + (size_t)at * 8, bytes, sizeof(bytes));
	h.header_sum = arena_header_sum(&h);
	FUZZ_REQUIRE(pwrite(fd, &h, sizeof(h), 0) == (ssize_t)sizeof(h));
	return seal(fd, SEALS);
}

static int read_only(int fd)
{
	char path[64];
	int other;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	other = open(path, O_RDONLY | O_CLOEXEC);
	FUZZ_REQUIRE(other >= 0);
	close(fd);
	return other;
}

static int one_of(int pair[2])
{
	close(pair[1]);
	return pair[0];
}

static int make_fd(struct world *w, struct fuzz_input *in, uint8_t kind, uint32_t rank,
                   uint64_t epoch)
{
	const struct store_entry *e;
	int pair[2];

	switch (kind % 16) {
	case 1: return seal(fuzz_arena(rank, epoch), SEALS);
	case 2: return fuzz_arena(rank, epoch);
	case 3: FUZZ_REQUIRE(pipe2(pair, O_CLOEXEC) == 0); return one_of(pair);
	case 4:
		e = store_at(w->service.store, fuzz_u8(in));
		return e ? fcntl(e->fd, F_DUPFD_CLOEXEC, 0) : -1;
	case 5: return strange_arena(in, rank, epoch);
	case 6: return seal(memfd_create("empty", MFD_CLOEXEC | MFD_ALLOW_SEALING), SEALS);
	case 7: return read_only(seal(fuzz_arena(rank, epoch), SEALS));
	case 8: return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 9: return open("/", O_PATH | O_CLOEXEC);
	case 10: return eventfd(0, EFD_CLOEXEC);
	case 11: return seal(fuzz_arena(rank, epoch), SEALS | F_SEAL_WRITE);
	case 12: return seal(fuzz_arena(rank, epoch), SEALS | F_SEAL_FUTURE_WRITE);
	case 13:
		FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
		return one_of(pair);
	default: return -1;
	}
}

/* --- what must hold --- */

static const struct store_entry *find(const struct store *s, uint64_t epoch, uint32_t rank)
{
	const struct store_entry *e;

	for (uint32_t i = 0; (e = store_at(s, i)); i++)
		if (e->epoch == epoch && e->rank == rank)
			return e;
	return NULL;
}

static uint32_t count_from(const struct store *s, uint64_t epoch)
{
	const struct store_entry *e;
	uint32_t n = 0;

	for (uint32_t i = 0; (e = store_at(s, i)); i++)
		n += e->epoch >= epoch;
	return n;
}

static void check_store(const struct world *w)
{
	const struct store *s = w->service.store;
	uint32_t leases = 0, clients = 0, i;
	const struct store_entry *e;
	uint64_t bytes = 0;

	for (i = 0; (e = store_at(s, i)); i++) {
		struct wire_slot slot[2];

		FUZZ_REQUIRE(e->epoch > 0 && e->rank != WIRE_RANK_OBSERVER && e->fd >= 0);
		FUZZ_REQUIRE(find(s, e->epoch, e->rank) == e);
		bytes += e->bytes;
		leases += e->lease.connection != 0;
		store_slots(e, slot);
	}
	for (uint32_t c = 0; c < CLIENTS; c++)
		clients += w->client[c].open && w->client[c].session.hello
		           && w->client[c].session.rank != WIRE_RANK_OBSERVER;
	FUZZ_REQUIRE(i == store_count(s) && i <= STORE_MAX);
	FUZZ_REQUIRE(bytes == store_bytes(s));
	FUZZ_REQUIRE(leases == store_leases(s));
	FUZZ_REQUIRE(clients == w->service.clients);
}

/* Of the store and of the arena that a request names, before it. */
struct before {
	uint64_t generation;
	uint32_t count, kept;
	bool found, hello;
	struct holder lease;
};

static bool is_own(const struct holder *lease, const struct holder *who)
{
	return lease->process ? lease->process == who->process
	                      : lease->connection == who->connection;
}

static bool is_free(const struct holder *lease)
{
	return lease->connection == 0 || (lease->process && process_gone(lease->process));
}

static int expect_leased(const struct before *b, const struct holder *who)
{
	if (!b->found)
		return FTMEM_EINVAL;
	return is_free(&b->lease) || is_own(&b->lease, who) ? 0 : FTMEM_EATTACHED;
}

static void check_lease(const struct world *w, const struct before *b, const struct client *c,
                        const struct wire_request *r, int result)
{
	const struct store_entry *e = find(w->service.store, r->epoch, r->rank);
	const struct holder *who = &c->session.holder;

	if (r->op == WIRE_ATTACH && !(r->flags & WIRE_ATTACH_LEASE)) {
		FUZZ_REQUIRE(result == (b->found ? 0 : FTMEM_EINVAL));
		return;
	}
	if (r->op == WIRE_ATTACH)
		FUZZ_REQUIRE(result == expect_leased(b, who));
	if (result)
		return;
	FUZZ_REQUIRE(c->session.rank != WIRE_RANK_OBSERVER);
	FUZZ_REQUIRE(e && e->lease.connection == who->connection && is_own(&e->lease, who));
	FUZZ_REQUIRE(!b->found || is_free(&b->lease) || is_own(&b->lease, who));
}

static void check_answer(const struct world *w, const struct before *b, const struct client *c,
                         const struct wire_request *r, const struct wire_reply *reply)
{
	const struct store *s = w->service.store;
	const struct store_entry *e = find(s, r->epoch, r->rank);
	const struct holder *who = &c->session.holder;

	switch ((enum wire_op)r->op) {
	case WIRE_CREATE: FUZZ_REQUIRE(reply->result || !b->found); __attribute__((fallthrough));
	case WIRE_ATTACH:
	case WIRE_ADOPT: check_lease(w, b, c, r, reply->result); break;
	case WIRE_RELEASE:
		FUZZ_REQUIRE(reply->result
		             == (b->found && (!b->lease.connection || is_own(&b->lease, who))
		                         ? 0
		                         : FTMEM_EINVAL));
		FUZZ_REQUIRE(reply->result || !e->lease.connection);
		break;
	case WIRE_DROP:
		FUZZ_REQUIRE(reply->result == expect_leased(b, who));
		FUZZ_REQUIRE(reply->result || !e);
		break;
	case WIRE_RETIRE:
		FUZZ_REQUIRE(store_count(s) == b->kept && count_from(s, r->epoch) == b->kept);
		break;
	case WIRE_FORGET: FUZZ_REQUIRE(store_count(s) == 0); break;
	case WIRE_LIST:
		FUZZ_REQUIRE(reply->result == (r->index < b->count ? 0 : FTMEM_FRESH));
		FUZZ_REQUIRE(reply->count == b->count && reply->generation == b->generation);
		break;
	case WIRE_STOP:
		FUZZ_REQUIRE((reply->result == 0) == w->service.stop);
		FUZZ_REQUIRE(reply->result || (r->flags & WIRE_STOP_FORCE)
		             || !store_leased_by_others(s, who));
		break;
	case WIRE_CHECK: FUZZ_REQUIRE(reply->result == (b->found ? 0 : FTMEM_EINVAL)); break;
	case WIRE_BYE: {
		for (uint32_t i = 0; (e = store_at(s, i)); i++)
			FUZZ_REQUIRE(e->lease.connection != who->connection);
		break;
	}
	default: break;
	}
}

/* --- steps --- */

static void ask(struct world *w, uint32_t i, const struct wire_request *r, size_t bytes, int fd)
{
	struct client *c = &w->client[i];
	const struct store *s = w->service.store;
	const struct store_entry *e = find(s, r->epoch, r->rank);
	struct before b = {store_generation(s), store_count(s), count_from(s, r->epoch), e != NULL,
	                   c->session.hello,    {0}};
	struct wire_reply reply;
	int rc, send_fd = -1;

	if (e)
		b.lease = e->lease;
	if (wire_request_check(r, bytes, FUZZ_JOB)) {
		if (fd >= 0)
			close(fd);
		client_close(w, c);
		return;
	}
	rc = request_answer(&w->service, &c->session, r, fd, &reply, &send_fd);
	if (rc) {
		FUZZ_REQUIRE(rc == FTMEM_EINVAL && send_fd < 0);
		FUZZ_REQUIRE(store_generation(s) == b.generation);
		client_close(w, c);
		return;
	}
	FUZZ_REQUIRE(b.hello || r->op == WIRE_HELLO);
	FUZZ_REQUIRE(wire_reply_check(&reply, sizeof(reply), r->op) == 0);
	FUZZ_REQUIRE(reply.result >= 0 || (reply.text[0] && send_fd < 0));
	FUZZ_REQUIRE((store_count(s) == b.count) || store_generation(s) != b.generation);
	FUZZ_REQUIRE(reply.result >= 0 || store_generation(s) == b.generation);
	FUZZ_REQUIRE(send_fd < 0 || (e = find(s, r->epoch, r->rank), e && e->fd == send_fd));
	check_answer(w, &b, c, r, &reply);
	if (!c->session.hello)
		client_close(w, c);
}

static void ask_step(struct world *w, struct fuzz_input *in, uint32_t op, uint8_t who)
{
	static const uint32_t flags[] = {0, WIRE_ATTACH_LEASE, WIRE_STOP_FORCE, WIRE_CHECK_AGAIN};
	struct wire_request r;
	uint8_t rank, kind;

	wire_request_init(&r, (enum wire_op)op, FUZZ_JOB);
	r.flags = flags[who >> 3 & 3];
	rank = fuzz_u8(in);
	r.rank = rank == 0xff ? WIRE_RANK_OBSERVER : rank % 8u;
	r.epoch = fuzz_number(in);
	r.bytes = fuzz_number(in);
	r.index = fuzz_number(in);
	kind = fuzz_u8(in);
	if (kind & 0x80)
		r.format = kind;
	client_open(w, who % CLIENTS);
	ask(w, who % CLIENTS, &r, sizeof(r), make_fd(w, in, kind, r.rank, r.epoch));
}

static void raw_step(struct world *w, struct fuzz_input *in, uint32_t client)
{
	union wire_message m = {0};
	size_t bytes = fuzz_u8(in) % 128u;

	fuzz_take(in, &m, bytes);
	client_open(w, client);
	ask(w, client, &m.request, bytes, -1);
}

static void scrub_some(struct world *w, uint8_t steps)
{
	for (uint32_t i = 0; i < steps % 16u + 1; i++) {
		w->now_ns += UINT64_C(1) << (steps >> 4) * 3;
		scrub_step(w->scrub, 1000, w->now_ns);
	}
}

static void step(struct world *w, struct fuzz_input *in)
{
	uint32_t what = fuzz_u8(in) % STEPS;
	uint8_t who = fuzz_u8(in);

	switch (what) {
	case STEP_CLOSE: client_close(w, &w->client[who % CLIENTS]); break;
	case STEP_DIES: process_dies(w, who % (PROCESSES - 1)); break;
	case STEP_ENDED: process_ended(w, who % (PROCESSES - 1)); break;
	case STEP_RAW: raw_step(w, in, who % CLIENTS); break;
	case STEP_SCRUB: scrub_some(w, who); break;
	default: ask_step(w, in, what, who); break;
	}
	check_store(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct world w = {.service = {.expire_s = 60}};
	unsigned fds = fuzz_open_fds();

	FUZZ_REQUIRE(store_new(FUZZ_JOB, &w.table, &w.service.store) == 0);
	FUZZ_REQUIRE(scrub_new(w.service.store, NULL, &w.scrub) == 0);
	for (uint32_t i = 0; i < STEPS_MAX && in.left > 0 && !w.service.stop; i++)
		step(&w, &in);
	for (uint32_t i = 0; i < CLIENTS; i++)
		client_close(&w, &w.client[i]);
	for (uint32_t i = 0; i < PROCESSES; i++)
		process_ended(&w, i);
	FUZZ_REQUIRE(store_leases(w.service.store) == 0);
	scrub_free(w.scrub);
	store_free(w.service.store);
	FUZZ_REQUIRE(w.table.first == NULL);
	FUZZ_REQUIRE(fuzz_open_fds() == fds);
	return 0;
}

void fuzz_seeds(const char *dir)
{
	/* Each step: what, who and flags, rank, epoch, bytes, index, kind of descriptor. */
	static const uint8_t life[][7] = {
		{WIRE_HELLO, 0, 0, 0, 0, 60, 0},
		{WIRE_CREATE, 0, 0, 1, 0xe2, 0, 0},
		{WIRE_LIST, 0, 0, 0, 0, 0, 0},
		{WIRE_HELLO, 1, 1, 0, 0, 0, 0},
		{WIRE_ATTACH, 1 | 1 << 3, 0, 1, 0, 0, 0},
		{WIRE_ATTACH, 1, 0, 1, 0, 0, 0},
		{WIRE_CREATE, 1, 1, 2, 0xe3, 0, 0},
		{WIRE_RELEASE, 0, 0, 1, 0, 0, 0},
		{WIRE_ATTACH, 1 | 1 << 3, 0, 1, 0, 0, 0},
		{WIRE_RETIRE, 1, 1, 2, 0, 0, 0},
		{WIRE_BYE, 1, 1, 0, 0, 0, 0},
		{WIRE_HELLO, 7, 0xff, 0, 0, 0, 0},
		{WIRE_DROP, 7, 1, 2, 0, 0, 0},
		{WIRE_FORGET, 7, 0, 0, 0, 0, 0},
		{WIRE_STOP, 7 | 2 << 3, 0, 0, 0, 0, 0},
	};
	static const uint8_t adopt[][7] = {
		{WIRE_HELLO, 3, 2, 0, 0, 0, 0},
		{WIRE_ADOPT, 3, 2, 5, 0, 0, 1},
		{WIRE_LIST, 3, 0, 0, 0, 0, 0},
		{WIRE_HELLO, 2, 2, 0, 0, 0, 0},
		{WIRE_ATTACH, 2 | 1 << 3, 2, 5, 0, 0, 0},
	};
	/* What no rank could attach. */
	static const uint8_t nobody[][7] = {
		{WIRE_HELLO, 0, 0, 0, 0, 0, 0},
		{WIRE_ADOPT, 0, 1, 0, 0, 0, 1},
		{WIRE_ADOPT, 0, 0xff, 3, 0, 0, 1},
	};
	uint8_t all[4 * 7 * 16];
	size_t at;

	fuzz_seed(dir, "life", life, sizeof(life));
	fuzz_seed(dir, "adopt", adopt, sizeof(adopt));
	fuzz_seed(dir, "adopt-of-nobody", nobody, sizeof(nobody));
	for (uint8_t kind = 1; kind < 14; kind++) {
		const uint8_t with[][7] = {{WIRE_HELLO, 0, 1, 0, 0, 0, 0},
		                           {WIRE_ADOPT, 0, 1, 9, 0, 0, kind},
		                           {WIRE_LIST, 0, 0, 0, 0, 0, 0}};
		char name[16];

		snprintf(name, sizeof(name), "fd%u", kind);
		fuzz_seed(dir, name, with, sizeof(with));
	}
	at = sizeof(adopt);
	memcpy(all, adopt, at);
	memcpy(all + at, (const uint8_t[]){STEP_CLOSE, 3}, 2);
	memcpy(all + at + 2, adopt[4], 7);
	memcpy(all + at + 9, (const uint8_t[]){STEP_DIES, 2, STEP_ENDED, 2}, 4);
	fuzz_seed(dir, "ends", all, at + 13);
	memcpy(all + at, (const uint8_t[]){STEP_SCRUB, 0xff}, 2);
	memcpy(all + at + 2, (const uint8_t[]){WIRE_CHECK, 3 | 3 << 3, 2, 5, 0, 0, 0}, 7);
	memcpy(all + at + 9, (const uint8_t[]){STEP_SCRUB, 0xff}, 2);
	memcpy(all + at + 11, (const uint8_t[]){WIRE_CHECK, 3, 2, 5, 0, 0, 0}, 7);
	fuzz_seed(dir, "scrub", all, at + 18);
}
