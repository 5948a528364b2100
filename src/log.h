/* SPDX-License-Identifier: BSD-3-Clause */
/* Lines for the user, through the callback of struct ftmem_opts or to stderr. */
#ifndef FTMEM_LOG_H
#define FTMEM_LOG_H

#include "ftmem.h"

#define LOG_NO_RANK UINT32_MAX

struct log {
	void (*fn)(void *arg, int level, const char *line);
	void *arg;
	int level;      /* the most talkative level that is printed */
	uint32_t rank;  /* named in lines to stderr unless LOG_NO_RANK */
};

/* Any thread. Lines are cut at 1 KiB; control characters become spaces. log may be
 * NULL: nothing is written. */
void log_line(const struct log *log, int level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
