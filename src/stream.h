/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copies of what will not be read again soon. Any thread.
 */
#ifndef FTMEM_STREAM_H
#define FTMEM_STREAM_H

#include <stddef.h>

/*
 * memcpy() that leaves the target out of the caches where the processor can (x86-64:
 * non-temporal stores): its lines are not read before they are written, and what the
 * trainer has in its caches stays there. What was read is in the caches afterwards.
 * Other threads see the bytes as after a memcpy().
 */
void stream_copy(void *to, const void *from, size_t bytes);

#endif
