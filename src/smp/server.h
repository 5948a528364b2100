/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The loop of ftmem-smp: one thread, one epoll, nothing that waits for a client, nor for what
 * is removed to be freed (reap.h).
 *
 * A connection must say HELLO within 10 s of being made; one that breaks the rules
 * of wire.h is closed. Connections of a process end with it, even if a child of it
 * holds a copy of the socket.
 *
 * 256 connections at most, fewer if the process may not have the descriptors. When another
 * comes, one gives way: the oldest that said nothing; else the observer that has been quiet
 * for longest; else, of the process with the most connections, if it has several, the one
 * that has. If there is none of these, who comes waits in the queue. What a connection sent
 * is read when it is accepted, and before it gives way.
 *
 * Idle is: no lease, no connection of a rank. After expire_s of it the server ends;
 * an observer that asked something in the last 10 s is let finish, for a minute.
 *
 * In between it looks for damage (scrub.h), when no request is there, or none was let
 * through for a second.
 */
#ifndef FTMEM_SMP_SERVER_H
#define FTMEM_SMP_SERVER_H

#include <stdint.h>

#include "log.h"

#define SERVER_PEERS_MAX 256
#define SERVER_HELLO_S   10u
#define SERVER_GRACE_S   60u

struct server;

struct server_config {
	const char *job; /* copied */
	uint32_t expire_s;
	uint32_t scrub_mib_s; /* 0: off */
	int listener; /* bound, not blocking; taken, on error too */
	const struct log *log;
};

/* Blocks SIGTERM and SIGINT in the calling thread to receive them. ENOMEM, ESYS. */
int server_new(const struct server_config *config, struct server **out);
/* Until stopped, told to end or expired: 0. ESYS. */
int server_run(struct server *s);
/* Frees all memory held. Accepts NULL. */
void server_free(struct server *s);

#endif
