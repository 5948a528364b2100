/* SPDX-License-Identifier: BSD-3-Clause */
/* The folder of sockets, locks and logs, and the names in it. Any thread. */
#ifndef FTMEM_SMP_PATH_H
#define FTMEM_SMP_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "ftmem.h"

/* Longest path of a socket, with its 0: what a socket address holds. */
#define SMP_PATH_MAX 108

/* <dir>/<job>@<node>.sock and its kin: suffix is "sock", "lock" or "log". EINVAL if
 * the path does not fit a socket address. */
int smp_path_of(const char *dir, const char *job, const char *node, const char *suffix, char *path,
                size_t bytes);

/* The inverse, of a socket's file name: job and node have room for
 * FTMEM_NAME_MAX + 1. false if it is none. */
bool smp_path_parse(const char *file, char *job, char *node);

/*
 * Whether dir is a folder of the user's with mode 0700; with create, a missing one
 * is made (not its parents). ESMP names what is wrong and what to do.
 */
int smp_dir_check(const char *dir, bool create);

/* Whether dir does not exist. */
bool smp_dir_missing(const char *dir);

/*
 * Takes the lock of job and node, creating its file: *fd holds it until closed.
 * FTMEM_BUSY: another process holds it. ESYS.
 */
int smp_lock_take(const char *dir, const char *job, const char *node, int *fd);

/* Removes socket, log and lock file, in this order. lock is held; nothing is removed if its file is
 * gone and another process holds the one that is there now. */
void smp_files_remove(const char *dir, const char *job, const char *node, int lock);

#endif
