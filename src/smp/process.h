/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The processes that ftmem-smp talks to, each held by a pidfd: a process identifier
 * may be used again, a pidfd stays with its process. Connections and leases of one
 * process share one object.
 */
#ifndef FTMEM_SMP_PROCESS_H
#define FTMEM_SMP_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

struct process {
	struct process *next;
	uint32_t refs;
	int32_t pid;
	int pidfd; /* readable when the process is gone */
};

struct process_table {
	struct process *first;
};

/*
 * The process pid, the caller's reference; peer: its connected socket, or -1. *out
 * is NULL if it cannot be seen from here (another pid namespace, an old kernel).
 * FTMEM_FRESH: it is gone already. ENOMEM, ESYS.
 */
int process_get(struct process_table *table, int32_t pid, int peer, struct process **out);
struct process *process_ref(struct process *p);                   /* accepts NULL */
void process_put(struct process_table *table, struct process *p); /* accepts NULL */
/* Whether it has ended: its memory mappings are gone. */
bool process_gone(const struct process *p);

#endif
