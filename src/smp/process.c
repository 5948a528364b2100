/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "error.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* since Linux 6.5 */
#endif

/* The kernel's own record of who connected cannot be mistaken for a later process
 * of the same number; where it has none, the number must do. */
static int pidfd_of(int32_t pid, int peer)
{
	socklen_t len = sizeof(int);
	int fd = -1;

	if (peer >= 0 && getsockopt(peer, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0)
		return fd;
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

bool process_gone(const struct process *p)
{
	struct pollfd poller = {.fd = p->pidfd, .events = POLLIN};

	return poll(&poller, 1, 0) > 0;
}

int process_get(struct process_table *table, int32_t pid, int peer, struct process **out)
{
	struct process *p;
	int fd;

	*out = NULL;
	if (pid <= 0)
		return 0;
	for (p = table->first; p; p = p->next) {
		if (p->pid == pid && !process_gone(p)) {
			*out = process_ref(p);
			return 0;
		}
	}
	fd = pidfd_of(pid, peer);
	if (fd < 0 && (errno == ENOSYS || errno == EPERM || errno == EINVAL))
		return 0;
	if (fd < 0 && errno == ESRCH)
		return FTMEM_FRESH;
	if (fd < 0)
		return error_sys(FTMEM_ESYS, errno, "cannot watch process %d", pid);
	p = calloc(1, sizeof(*p));
	if (!p) {
		close(fd);
		return error_set(FTMEM_ENOMEM, "no memory to watch process %d", pid);
	}
	p->refs = 1;
	p->pid = pid;
	p->pidfd = fd;
	p->next = table->first;
	table->first = p;
	*out = p;
	return 0;
}

struct process *process_ref(struct process *p)
{
	if (p)
		p->refs++;
	return p;
}

void process_put(struct process_table *table, struct process *p)
{
	struct process **at = &table->first;

	if (!p || --p->refs)
		return;
	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	close(p->pidfd);
	free(p);
}
