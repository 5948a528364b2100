/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The server of ftmem-smp, with connections that send anything: messages cut short or too
 * long, descriptors where none belong, ends in the midst. It must answer the last one, an
 * observer that says what it should, and leave no descriptor behind.
 *
 * The input is a row of steps, all of which clients make before the server begins.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "error.h"
#include "fuzz.h"
#include "slot.h"
#include "smp/server.h"
#include "smp/wire.h"

#define CLIENTS   6u
#define STEPS_MAX 48u
#define FDS_MAX   6u

enum step { STEP_ASK, STEP_RAW, STEP_CUT, STEP_CLOSE, STEP_SHUT, STEPS };

struct world {
	struct sockaddr_un address;
	socklen_t address_len;
	int client[CLIENTS]; /* -1: not connected */
	uint32_t steps;
	bool may_stop; /* somebody may have told the server to end */
};

static int listener_new(struct world *w)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	/* Without a name the kernel gives one that is no file. */
	w->address = (struct sockaddr_un){.sun_family = AF_UNIX};
	FUZZ_REQUIRE(fd >= 0
	             && bind(fd, (struct sockaddr *)&w->address, sizeof(sa_family_t)) == 0);
	w->address_len = sizeof(w->address);
	FUZZ_REQUIRE(getsockname(fd, (struct sockaddr *)&w->address, &w->address_len) == 0);
	FUZZ_REQUIRE(listen(fd, 64) == 0);
	return fd;
}

static int client_new(const struct world *w)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	FUZZ_REQUIRE(fd >= 0
	             && connect(fd, (const struct sockaddr *)&w->address, w->address_len) == 0);
	return fd;
}

static int make_fd(uint8_t kind)
{
	int pair[2];

	switch (kind % 3) {
	case 0: return fuzz_arena(kind / 3, 1);
	case 1:
		FUZZ_REQUIRE(pipe2(pair, O_CLOEXEC) == 0);
		close(pair[1]);
		return pair[0];
	default: {
		int fd = fuzz_arena(kind / 3 % 4u, 1);

		FUZZ_REQUIRE(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
		             == 0);
		return fd;
	}
	}
}

/* A message with any number of descriptors; whether it arrives is the server's business. */
static void send_with(int sock, const void *data, size_t bytes, uint32_t fds, uint8_t kind)
{
	struct iovec iov = {(void *)(uintptr_t)data, bytes};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control = {0};
	int fd[FDS_MAX];

	for (uint32_t i = 0; i < fds; i++)
		fd[i] = make_fd(kind);
	if (fds > 0) {
		struct cmsghdr *c = &control.align;

		m.msg_control = control.room;
		m.msg_controllen = CMSG_SPACE(fds * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(fds * sizeof(int));
		memcpy(CMSG_DATA(c), fd, fds * sizeof(int));
	}
	(void)sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	for (uint32_t i = 0; i < fds; i++)
		close(fd[i]);
}

static void ask(struct world *w, struct fuzz_input *in, int sock)
{
	uint8_t op = fuzz_u8(in), rank = fuzz_u8(in);
	struct wire_request r;
	uint8_t fds, kind;

	wire_request_init(&r, (enum wire_op)op, FUZZ_JOB);
	r.rank = rank == 0xff ? WIRE_RANK_OBSERVER : rank % 4u;
	r.flags = fuzz_u8(in);
	r.epoch = fuzz_number(in);
	r.bytes = fuzz_number(in);
	r.index = fuzz_number(in);
	fds = fuzz_u8(in) % FDS_MAX;
	kind = fuzz_u8(in);
	w->may_stop |= op == WIRE_STOP;
	send_with(sock, &r, sizeof(r), fds, kind);
}

/* A request with bytes missing or too many. */
static void ask_cut(struct world *w, struct fuzz_input *in, int sock)
{
	union {
		struct wire_request request;
		uint8_t room[WIRE_ROOM + 256];
	} m = {0};
	size_t bytes;

	wire_request_init(&m.request, (enum wire_op)fuzz_u8(in), FUZZ_JOB);
	m.request.rank = WIRE_RANK_OBSERVER;
	bytes = fuzz_u8(in) * (size_t)(1 + fuzz_u8(in) % 5);
	w->may_stop |= bytes == sizeof(m.request);
	send_with(sock, &m, bytes, fuzz_u8(in) % FDS_MAX, 1);
}

static void send_raw(struct world *w, struct fuzz_input *in, int sock)
{
	size_t bytes = fuzz_u8(in);
	uint8_t data[256];

	fuzz_take(in, data, bytes);
	w->may_stop |= bytes == sizeof(struct wire_request);
	send_with(sock, data, bytes, 0, 0);
}

static void step(struct world *w, struct fuzz_input *in)
{
	uint32_t what = fuzz_u8(in) % STEPS, who = fuzz_u8(in) % CLIENTS;

	if (w->client[who] < 0)
		w->client[who] = client_new(w);
	switch ((enum step)what) {
	case STEP_ASK: ask(w, in, w->client[who]); break;
	case STEP_RAW: send_raw(w, in, w->client[who]); break;
	case STEP_CUT: ask_cut(w, in, w->client[who]); break;
	case STEP_SHUT: shutdown(w->client[who], SHUT_WR); break;
	default:
		close(w->client[who]);
		w->client[who] = -1;
		break;
	}
}

/* Asks so often that all others have been served when it tells the server to end. */
static int observer_new(const struct world *w)
{
	int sock = client_new(w);
	struct wire_request r;

	for (uint32_t i = 0; i < w->steps + 3; i++) {
		wire_request_init(&r, i == 0 ? WIRE_HELLO : WIRE_LIST, FUZZ_JOB);
		if (i == w->steps + 2) {
			r.op = WIRE_STOP;
			r.flags = WIRE_STOP_FORCE;
		}
		r.rank = WIRE_RANK_OBSERVER;
		send_with(sock, &r, sizeof(r), 0, 0);
	}
	return sock;
}

/* Whatever comes is a reply. Returns how many came; closes. */
static uint32_t read_replies(int sock)
{
	union wire_message m;
	uint32_t replies = 0;
	size_t bytes;
	int fd;

	while (wire_receive(sock, &m, &bytes, &fd) == WIRE_OK) {
		FUZZ_REQUIRE(bytes == sizeof(m.reply) && m.reply.magic == WIRE_MAGIC
		             && m.reply.version == WIRE_VERSION);
		FUZZ_REQUIRE(memchr(m.reply.text, 0, sizeof(m.reply.text)) != NULL);
		FUZZ_REQUIRE((m.reply.result < 0) == (m.reply.text[0] != 0));
		FUZZ_REQUIRE(fd < 0 || m.reply.result == 0);
		if (fd >= 0)
			close(fd);
		replies++;
	}
	close(sock);
	return replies;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct world w = {.client = {-1, -1, -1, -1, -1, -1}};
	struct server_config config = {.job = FUZZ_JOB, .expire_s = 3600};
	unsigned fds = fuzz_open_fds();
	struct server *server = NULL;
	uint32_t replies;
	sigset_t signals;
	int observer;

	FUZZ_REQUIRE(sigprocmask(SIG_SETMASK, NULL, &signals) == 0);
	config.listener = listener_new(&w);
	FUZZ_REQUIRE(server_new(&config, &server) == 0);
	for (; w.steps < STEPS_MAX && in.left > 0; w.steps++)
		step(&w, &in);
	observer = observer_new(&w);
	FUZZ_REQUIRE(server_run(server) == 0);
	server_free(server);
	FUZZ_REQUIRE(sigprocmask(SIG_SETMASK, &signals, NULL) == 0);
	for (uint32_t i = 0; i < CLIENTS; i++)
		if (w.client[i] >= 0)
			read_replies(w.client[i]);
	replies = read_replies(observer);
	FUZZ_REQUIRE(w.may_stop || replies == w.steps + 3);
	FUZZ_REQUIRE(fuzz_open_fds() == fds);
	return 0;
}

void fuzz_seeds(const char *dir)
{
	/* What, who; op, rank, flags, epoch, bytes, index, descriptors, their kind. */
	static const uint8_t life[][10] = {
		{STEP_ASK, 0, WIRE_HELLO, 0, 0, 0, 0, 0, 0, 0},
		{STEP_ASK, 0, WIRE_CREATE, 0, 0, 1, 0xe2, 0, 0, 0},
		{STEP_ASK, 1, WIRE_HELLO, 1, 0, 0, 0, 0, 0, 0},
		{STEP_ASK, 1, WIRE_ADOPT, 1, 0, 1, 0, 0, 1, 5},
		{STEP_ASK, 0, WIRE_ATTACH, 1, 0, 1, 0, 0, 0, 0},
		{STEP_ASK, 0, WIRE_BYE, 0, 0, 0, 0, 0, 0, 0},
		{STEP_ASK, 2, WIRE_HELLO, 0xff, 0, 0, 0, 0, 0, 0},
		{STEP_ASK, 2, WIRE_LIST, 0, 0, 0, 0, 0, 0, 0},
	};
	static const uint8_t rude[][10] = {
		{STEP_ASK, 0, WIRE_HELLO, 0, 0, 0, 0, 0, 3, 1},
		{STEP_ASK, 1, WIRE_HELLO, 0, 0, 0, 0, 0, 1, 1},
		{STEP_ASK, 2, WIRE_HELLO, 0, 0, 0, 0, 0, 0, 0},
		{STEP_ASK, 2, WIRE_ADOPT, 0, 0, 1, 0, 0, 5, 2},
	};
	static const uint8_t cuts[] = {
		STEP_CUT, 0, WIRE_HELLO, 50,  0, 0, STEP_CUT, 1, WIRE_HELLO, 255, 4, 2,
		STEP_CUT, 2, WIRE_LIST,  112, 0, 0, STEP_RAW, 3, 4,          1,   2, 3,
		4,        STEP_RAW, 4,   0,   STEP_SHUT, 5, STEP_CLOSE, 2};

	fuzz_seed(dir, "life", life, sizeof(life));
	fuzz_seed(dir, "rude", rude, sizeof(rude));
	fuzz_seed(dir, "cuts", cuts, sizeof(cuts));
}
