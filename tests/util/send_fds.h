/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages with more descriptors than a well-behaved client sends. */
#ifndef FTMEM_TEST_SEND_FDS_H
#define FTMEM_TEST_SEND_FDS_H

#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

/* As many as the kernel takes in one message. */
#define SEND_FDS_MAX 253u

/* sendmsg() with copies of count descriptors, at least one. */
static inline ssize_t send_fds(int sock, const void *msg, size_t bytes, const int *fd,
                               unsigned count, int flags)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(SEND_FDS_MAX * sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)msg, bytes};
	struct msghdr m = {.msg_iov = &iov,
	                   .msg_iovlen = 1,
	                   .msg_control = control.room,
	                   .msg_controllen = CMSG_SPACE(count * sizeof(int))};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(c), fd, count * sizeof(int));
	return sendmsg(sock, &m, flags);
}

#endif
