/* SPDX-License-Identifier: BSD-3-Clause */
/* Which machine this is. */
#ifndef FTMEM_MACHINE_H
#define FTMEM_MACHINE_H

#include <stdint.h>

/* Equal in all processes of one machine, also in containers with names of their own, and another
 * one after a reboot; 0: not known. Any thread. */
uint64_t machine_boot(void);

#endif
