/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ftmem_world(): a network of all ranks for a moment. Rank 0 says where it can be reached,
 * and all hear it as words of which the others have none.
 */
#include "world.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checksum.h"
#include "clock.h"
#include "error.h"
#include "machine.h"
#include "net.h"
#include "opts.h"

#define WHAT "finding the ranks"
#define HOST_WORDS (sizeof(((struct ftmem_world *)0)->host) / sizeof(uint64_t))

/* What all ranks take the largest of. */
enum { WORD_FAILED, WORD_PORT, WORD_HOST, WORDS = WORD_HOST + HOST_WORDS };

/* Others may take it before it is used: it can only be told what was free. */
static int free_port(uint64_t *port)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t bytes = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 0;

	if (fd < 0)
		return error_sys(FTMEM_ESYS, errno, "finding a free port: socket");
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 ||
	    getsockname(fd, (struct sockaddr *)&at, &bytes) != 0)
		rc = error_sys(FTMEM_ESYS, errno, "finding a free port: bind");
	close(fd);
	*port = ntohs(at.sin_port);
	return rc;
}

static int find_host(struct ftmem_world *w)
{
	if (gethostname(w->host, sizeof(w->host)) != 0)
		return error_sys(FTMEM_ESYS, errno, "finding the name of this machine");
	w->host[sizeof(w->host) - 1] = '\0';
	return 0;
}

/* Hosts are told apart by their names as well: machines that are simulated have one boot. */
static uint64_t machine_of(const struct ftmem_world *w)
{
	return digest_more(machine_boot(), w->host, strlen(w->host));
}

/* rc: how it went on this rank. All ranks take the largest of words, and get the same result. */
static int agree(struct net *net, int rc, uint64_t words[WORDS], uint64_t deadline_ns)
{
	int net_rc;

	if (rc < 0)
		words[WORD_FAILED] = (uint64_t)-rc << 32 | net->rank;
	net_rc = net_allreduce(net, words, WORDS, NET_MAX, deadline_ns, WHAT);
	if (rc < 0 || net_rc < 0)
		return rc < 0 ? rc : net_rc;
	if (words[WORD_FAILED] == 0)
		return 0;
	rc = -(int)(words[WORD_FAILED] >> 32);
	return error_set(rc, WHAT ": rank %" PRIu32 ": %s", (uint32_t)words[WORD_FAILED],
	                 error_text(rc));
}

/* machine: [ranks]. */
static int count_local(struct net *net, uint64_t *machine, uint64_t deadline_ns,
                       struct ftmem_world *w)
{
	uint64_t mine = machine_of(w);
	int rc = net_allgather(net, &mine, sizeof(mine), machine, deadline_ns, WHAT);

	for (uint32_t i = 0; rc == 0 && i < net->size; i++) {
		w->local_ranks += machine[i] == mine;
		w->local_rank += i < net->rank && machine[i] == mine;
	}
	return rc;
}

/* On rank 0. */
static int find_address(const struct ftmem_world *w, uint64_t words[WORDS])
{
	const char *host = w->local_ranks < w->ranks ? w->host : "127.0.0.1";

	memcpy(&words[WORD_HOST], host, strlen(host));
	return free_port(&words[WORD_PORT]);
}

/* rc: as in agree(). */
static int find(struct net *net, int rc, uint64_t deadline_ns, struct ftmem_world *w)
{
	uint64_t *machine = calloc(net->size, sizeof(*machine)), words[WORDS] = {0};

	if (rc == 0)
		rc = find_host(w);
	if (rc == 0 && !machine)
		rc = error_set(FTMEM_ENOMEM, "no memory for the table of %" PRIu32 " ranks",
		               net->size);
	rc = agree(net, rc, words, deadline_ns);
	if (rc == 0)
		rc = count_local(net, machine, deadline_ns, w);
	free(machine);
	if (rc < 0)
		return rc;
	if (net->rank == 0)
		rc = find_address(w, words);
	rc = agree(net, rc, words, deadline_ns);
	if (rc < 0)
		return rc;
	w->port = (uint32_t)words[WORD_PORT];
	memcpy(w->host, &words[WORD_HOST], sizeof(w->host));
	return 0;
}

int world_find(struct ftmem_world *out)
{
	struct ftmem_world w = {.size = out->size};
	struct net *net = NULL;
	uint32_t timeout_ms;
	/* A rank whose environment is wrong still tells the others so. */
	int opts_rc = opts_timeout(&timeout_ms);
	int rc = net_mpi_open(NULL, timeout_ms, &net);

	if (!net)
		return rc;
	w.rank = net->rank;
	w.ranks = net->size;
	rc = find(net, rc < 0 ? rc : opts_rc, clock_deadline(timeout_ms), &w);
	net_free(net);
	if (rc == 0)
		*out = w;
	return rc;
}
