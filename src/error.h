/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Results and messages. A function that finds something wrong writes the
 * detail once with error_set() and returns the code; callers forward it.
 * Any thread: the message belongs to the calling thread.
 */
#ifndef FTMEM_ERROR_H
#define FTMEM_ERROR_H

#include "ftmem.h"

#define ERROR_MSG_MAX 1024

/* Writes the thread's message and returns code. */
int error_set(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same with ": strerror(errnum)" appended. */
int error_sys(int code, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The thread's message, never NULL. */
const char *error_msg(void);
const char *error_text(int code);

#endif
