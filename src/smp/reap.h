/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Closes descriptors of memory by a thread of its own: the kernel frees some GB a second, and
 * who closes the last descriptor of hundreds of them waits that long. For one user at a time.
 */
#ifndef FTMEM_SMP_REAP_H
#define FTMEM_SMP_REAP_H

#include <stdint.h>

struct reap;

/* Starts the thread, with all signals blocked. ENOMEM, ESYS. */
int reap_new(struct reap **out);
/* After reap_finish(). Accepts NULL. */
void reap_free(struct reap *r);
/* Takes fd, which is closed soon; before it returns if too many wait. */
void reap_close(struct reap *r, int fd);
/* Descriptors that are still open. Accepts NULL. */
uint32_t reap_waiting(struct reap *r);
/* Returns when all are closed, and helps with it. Accepts NULL. */
void reap_finish(struct reap *r);

#endif
