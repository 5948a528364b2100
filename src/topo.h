/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where memory and threads go: NUMA placement of arenas, pinning of the library's
 * threads. The only user of hwloc. A machine that hwloc cannot read gives a topo
 * that places nothing.
 */
#ifndef FTMEM_TOPO_H
#define FTMEM_TOPO_H

#include <stddef.h>
#include <stdint.h>

struct topo;

int topo_new(struct topo **out); /* ENOMEM */
void topo_free(struct topo *t);  /* accepts NULL */

/* Asks for the NUMA nodes nearest to the CPUs that the process may run on. Before
 * the memory is touched. A refusal is no error: returns 0 and the default stays. */
int topo_place(const struct topo *t, void *addr, size_t bytes);

/* Restricts the calling thread to the CPUs the process had at topo_new(): undoes
 * the pinning of the thread that created it. Any thread. */
void topo_pin(const struct topo *t);

uint32_t topo_cpus(const struct topo *t);     /* usable by the process, >= 1 */
uint64_t topo_l2_bytes(const struct topo *t); /* of one core; 0 unknown */

#endif
