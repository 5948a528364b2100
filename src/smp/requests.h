/* SPDX-License-Identifier: BSD-3-Clause */
/* What ftmem-smp does for each request, apart from how it came. */
#ifndef FTMEM_SMP_REQUESTS_H
#define FTMEM_SMP_REQUESTS_H

#include <stdbool.h>

#include "log.h"
#include "smp/store.h"
#include "smp/wire.h"

/* Of the process as a whole. */
struct service {
	struct store *store;
	const struct log *log;
	uint64_t started_ns; /* CLOCK_REALTIME */
	uint32_t expire_s;
	uint32_t scrub_mib_s; /* 0: off */
	uint32_t clients; /* connections of ranks */
	uint32_t idle_s;
	bool stop; /* set by STOP */
};

/* Of the connection. */
struct session {
	struct holder holder;
	bool hello; /* was said */
	uint32_t rank;
};

/*
 * Answers a request that passed wire_request_check(). fd: came with it, taken; -1.
 * *send_fd: to be sent along, borrowed, or -1. EINVAL: the client broke the rules,
 * the connection must be closed unanswered.
 */
int request_answer(struct service *service, struct session *session,
                   const struct wire_request *request, int fd, struct wire_reply *reply,
                   int *send_fd);

#endif
