/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Starting ftmem-smp from a trainer, which may hold the state of CUDA, MPI or
 * Python: posix_spawn, never fork. The program forks once itself and its first
 * process ends when the socket listens, so that nothing is left for the trainer to
 * reap. What it prints, one line, comes back through a pipe.
 */
#ifndef FTMEM_SMP_SPAWN_H
#define FTMEM_SMP_SPAWN_H

#include <stdint.h>

#include "ftmem.h"

/* How the line begins that ftmem-smp prints: it serves; another does so already. */
#define SMP_SAYS_READY "ready: "
#define SMP_SAYS_BUSY  "busy: "

struct spawn_config {
	const char *smp_path;
	const char *dir, *job, *node;
	uint32_t expire_s;    /* 0: the program's default */
	uint32_t scrub_mib_s; /* the same; UINT32_MAX: off */
};

/*
 * Returns 0: it listens; FTMEM_BUSY: another one runs or is being started. ESMP:
 * could not be started, with what it said. ETIMEOUT. ENOMEM. ESYS.
 */
int smp_spawn(const struct spawn_config *config, uint64_t deadline_ns);

#endif
