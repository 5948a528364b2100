/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where memory and threads go: NUMA placement of arenas, pinning of the library's
 * threads. The only user of hwloc. A machine that hwloc cannot read gives a topo
 * that places nothing.
 *
 * Beside the trainer: a rank whose process is bound to a part of the CPUs it may use
 * is the trainer there. Its library threads go to
 *   1. the CPUs of cores to which no rank is bound, of the same NUMA nodes or, if these
 *      have fewer than ranks are bound there, of the same packages;
 *   2. the other hardware threads of its own cores, if no rank is bound to them;
 *   3. where the process may run.
 * If it is not bound, 3.
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

/* CPUs by number; those from TOPO_CPUS on are in no set. */
#define TOPO_CPUS 1024
struct topo_set {
	uint64_t word[TOPO_CPUS / 64];
};

/* The CPUs that the process was bound to at topo_new(); none if it may use all that its
 * control group has. */
struct topo_set topo_bound(const struct topo *t);
/* Notes where a rank of this machine is bound: of each, its own as well, before
 * topo_choose(). */
void topo_note(struct topo *t, const struct topo_set *bound);

/*
 * Where the library's threads run: "auto", beside the trainer; "none", where their creator
 * does; or a list such as "2,4-7", of which those count that this process may use. EINVAL:
 * it may use none of them; names the option. ENOMEM.
 */
int topo_choose(struct topo *t, const char *cpus);
/* What of the list does not count, and why, for people; empty: all of it counts. */
const char *topo_left_out(const struct topo *t);
/* That choice for people: "4-7 (free cores beside the trainer)". */
void topo_describe(const struct topo *t, char *text, size_t bytes);

/* How many of them a rank has for its threads, since others of this machine chose the same:
 * at least 1. After topo_choose(). */
uint32_t topo_share(const struct topo *t);

/* Restricts the calling thread to the CPUs chosen, before that to those the process had
 * at topo_new(): undoes the pinning of the thread that created it. Any thread. */
void topo_pin(const struct topo *t);

uint32_t topo_cpus(const struct topo *t);     /* usable by the process, >= 1 */
uint64_t topo_l2_bytes(const struct topo *t); /* of one core; 0 unknown */

#endif
