/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/wire.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "error.h"
#include "slot.h"

_Static_assert(offsetof(struct wire_request, epoch) == 24
                       && offsetof(struct wire_request, job) == 48,
               "documented in docs/formats.md");
_Static_assert(offsetof(struct wire_reply, bytes) == 32
                       && offsetof(struct wire_reply, generation) == 64
                       && offsetof(struct wire_reply, slot) == 88
                       && offsetof(struct wire_slot, check) == 32
                       && offsetof(struct wire_check, block) == 40
                       && offsetof(struct wire_reply, text) == 360,
               "documented in docs/formats.md");

/* Room to see that there were too many; the kernel drops those beyond. */
#define FDS_ROOM 4

union control {
	struct cmsghdr align;
	char room[CMSG_SPACE(FDS_ROOM * sizeof(int))];
};

int wire_send(int sock, const void *msg, size_t bytes, int fd)
{
	struct iovec iov = {(void *)(uintptr_t)msg, bytes};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	union control control = {0};
	struct cmsghdr *c;
	ssize_t n;

	if (fd >= 0) {
		m.msg_control = control.room;
		m.msg_controllen = CMSG_SPACE(sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	do
		n = sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return WIRE_OK;
	/* ETOOMANYREFS: too many descriptors in flight, a matter of time. */
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ETOOMANYREFS)
		return WIRE_AGAIN;
	if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
		return WIRE_CLOSED;
	return error_sys(FTMEM_ESYS, errno, "cannot send a message of the SMP's conversation");
}

/* Closes all descriptors that came but the first; returns how many there were. */
static unsigned take_fds(struct msghdr *m, int *first)
{
	unsigned count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (count++)
				close(fd);
			else
				*first = fd;
		}
	}
	return count;
}

int wire_receive(int sock, union wire_message *msg, size_t *bytes, int *fd)
{
	struct iovec iov = {msg, sizeof(*msg)};
	union control control = {0};
	struct msghdr m = {.msg_iov = &iov,
	                   .msg_iovlen = 1,
	                   .msg_control = control.room,
	                   .msg_controllen = sizeof(control.room)};
	int first = -1;
	unsigned fds;
	ssize_t n;

	*fd = -1;
	*bytes = 0;
	do
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return WIRE_AGAIN;
	if (n < 0 && (errno == ECONNRESET || errno == EPIPE || errno == ENOTCONN))
		return WIRE_CLOSED;
	if (n < 0)
		return error_sys(FTMEM_ESYS, errno, "cannot receive from the SMP's conversation");
	fds = take_fds(&m, &first);
	if ((m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || fds > 1) {
		if (first >= 0)
			close(first);
		return error_set(FTMEM_ESMP, "a message of the SMP's conversation is too long or "
		                             "has too many descriptors");
	}
	if (n == 0) {
		if (first >= 0)
			close(first);
		return WIRE_CLOSED;
	}
	*bytes = (size_t)n;
	*fd = first;
	return WIRE_OK;
}

const char *wire_damage_text(uint32_t damage)
{
	static const char *const text[WIRE_DAMAGES] = {
		[WIRE_WHOLE] = "nothing",         [WIRE_DAMAGE_HEADER] = "header",
		[WIRE_DAMAGE_MAP] = "map",        [WIRE_DAMAGE_RAILS] = "rails",
		[WIRE_DAMAGE_STATE] = "state",    [WIRE_DAMAGE_SUMS] = "checksums",
		[WIRE_DAMAGE_MISSING] = "memory",
	};

	return damage < WIRE_DAMAGES ? text[damage] : "something";
}

const char *wire_block_text(const struct wire_block *b, char text[WIRE_BLOCK_TEXT])
{
	snprintf(text, WIRE_BLOCK_TEXT, "%s %u of rail %u, block %u",
	         b->parity ? "parity row" : "data chunk", b->index, b->rail, b->row);
	return text;
}

void wire_request_init(struct wire_request *r, enum wire_op op, const char *job)
{
	memset(r, 0, sizeof(*r));
	r->magic = WIRE_MAGIC;
	r->version = WIRE_VERSION;
	r->op = op;
	r->format = ARENA_FORMAT;
	memcpy(r->job, job, strnlen(job, FTMEM_NAME_MAX));
}

void wire_reply_init(struct wire_reply *r, uint32_t op)
{
	memset(r, 0, sizeof(*r));
	r->magic = WIRE_MAGIC;
	r->version = WIRE_VERSION;
	r->op = op;
	r->format = ARENA_FORMAT;
}

int wire_request_check(const struct wire_request *r, size_t bytes, const char *job)
{
	if (bytes < offsetof(struct wire_request, op) || r->magic != WIRE_MAGIC)
		return error_set(FTMEM_EINVAL, "no request of a client");
	if (r->version != WIRE_VERSION)
		return error_set(FTMEM_ESMP,
		                 "this ftmem-smp speaks version %u, the client speaks "
		                 "version %u: install both from one release, and end the old "
		                 "ftmem-smp with the ftmem of its release",
		                 WIRE_VERSION, r->version);
	if (bytes != sizeof(*r))
		return error_set(FTMEM_EINVAL, "a request of %zu bytes instead of %zu", bytes,
		                 sizeof(*r));
	if (r->op < WIRE_HELLO || r->op >= WIRE_OPS)
		return error_set(FTMEM_EINVAL, "an unknown request: %u", r->op);
	if (strnlen(r->job, sizeof(r->job)) == sizeof(r->job) || strcmp(r->job, job) != 0)
		return error_set(FTMEM_EINVAL, "a request for another job than %s", job);
	return 0;
}

int wire_reply_check(struct wire_reply *r, size_t bytes, uint32_t op)
{
	if (bytes < offsetof(struct wire_reply, result) || r->magic != WIRE_MAGIC)
		return error_set(FTMEM_ESMP, "what listens on the socket is no ftmem-smp");
	if (r->version != WIRE_VERSION)
		return error_set(FTMEM_ESMP,
		                 "ftmem-smp speaks version %u, this program speaks "
		                 "version %u: install both from one release, and end the old "
		                 "ftmem-smp with the ftmem of its release",
		                 r->version, WIRE_VERSION);
	if (bytes != sizeof(*r) || r->op != op)
		return error_set(FTMEM_ESMP, "ftmem-smp answered something that was not asked");
	r->text[sizeof(r->text) - 1] = '\0';
	for (int i = 0; i < 2; i++)
		if (r->slot[i].check.named > WIRE_BLOCKS)
			r->slot[i].check.named = WIRE_BLOCKS;
	return 0;
}
