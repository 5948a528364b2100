/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "error.h"
#include "name.h"

_Static_assert(SMP_PATH_MAX == sizeof(((struct sockaddr_un *)0)->sun_path), "as the kernel has it");

/* A lock file that is removed while it is waited for is tried again. */
#define LOCK_TRIES 16

int smp_path_of(const char *dir, const char *job, const char *node, const char *suffix, char *path,
                size_t bytes)
{
	int n = snprintf(path, bytes, "%s/%s@%s.%s", dir, job, node, suffix);

	if (n < 0 || (size_t)n >= bytes || n >= SMP_PATH_MAX)
		return error_set(FTMEM_EINVAL,
		                 "%s/%s@%s.%s is %d characters, a socket's path has "
		                 "at most %d: choose a shorter folder (FTMEM_DIR), job or node",
		                 dir, job, node, suffix, n, SMP_PATH_MAX - 1);
	return 0;
}

bool smp_path_parse(const char *file, char *job, char *node)
{
	const char *at = strchr(file, '@');
	size_t len = strlen(file), job_len, node_len;

	if (!at || len < 5 || strcmp(file + len - 5, ".sock") != 0)
		return false;
	job_len = (size_t)(at - file);
	node_len = len - 5 - job_len - 1;
	if (len < job_len + 6 || job_len > FTMEM_NAME_MAX || node_len > FTMEM_NAME_MAX)
		return false;
	memcpy(job, file, job_len);
	job[job_len] = '\0';
	memcpy(node, at + 1, node_len);
	node[node_len] = '\0';
	return name_valid(job) && name_valid(node);
}

bool smp_dir_missing(const char *dir)
{
	struct stat st;

	return lstat(dir, &st) != 0 && errno == ENOENT;
}

static int dir_bad(const char *dir, const char *what)
{
	return error_set(FTMEM_ESMP,
	                 "%s %s: sockets are only trusted in a folder of your own with "
	                 "mode 0700; remove it, correct it (chmod 700) or choose another with "
	                 "FTMEM_DIR",
	                 dir, what);
}

int smp_dir_check(const char *dir, bool create)
{
	struct stat st;
	bool made = create && mkdir(dir, 0700) == 0;

	if (create && !made && errno != EEXIST)
		return error_sys(FTMEM_ESMP, errno,
		                 "cannot create the folder %s: choose another "
		                 "with FTMEM_DIR",
		                 dir);
	/* A umask may have taken the owner's bits away. */
	if (made && chmod(dir, 0700) != 0)
		return error_sys(FTMEM_ESMP, errno, "cannot set the mode of %s", dir);
	if (lstat(dir, &st) != 0)
		return error_sys(FTMEM_ESMP, errno, "cannot read the folder %s", dir);
	if (S_ISLNK(st.st_mode))
		return dir_bad(dir, "is a symbolic link");
	if (!S_ISDIR(st.st_mode))
		return dir_bad(dir, "is no folder");
	if (st.st_uid != geteuid())
		return dir_bad(dir, "belongs to another user");
	if ((st.st_mode & 0777) != 0700)
		return dir_bad(dir, "can be used by others or not by you");
	return 0;
}

/* Whether the locked file is still the one at path: its last holder may have
 * removed it between open and lock. */
static bool lock_is_current(int fd, const char *path)
{
	struct stat ours, there;

	return fstat(fd, &ours) == 0 && lstat(path, &there) == 0 && ours.st_ino == there.st_ino
	       && ours.st_dev == there.st_dev;
}

int smp_lock_take(const char *dir, const char *job, const char *node, int *fd)
{
	char path[SMP_PATH_MAX];
	int rc = smp_path_of(dir, job, node, "lock", path, sizeof(path));

	if (rc)
		return rc;
	for (int i = 0; i < LOCK_TRIES; i++) {
		int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (lock < 0)
			return error_sys(FTMEM_ESYS, errno, "cannot open %s", path);
		if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
			rc = errno == EWOULDBLOCK
			             ? FTMEM_BUSY
			             : error_sys(FTMEM_ESYS, errno, "cannot lock %s", path);
			close(lock);
			return rc;
		}
		if (lock_is_current(lock, path)) {
			*fd = lock;
			return 0;
		}
		close(lock);
	}
	return FTMEM_BUSY;
}

void smp_files_remove(const char *dir, const char *job, const char *node, int lock)
{
	static const char *const suffix[] = {"sock", "log", "lock"};
	char path[SMP_PATH_MAX];
	int again = -1;

	if (smp_path_of(dir, job, node, "lock", path, sizeof(path))
	    || (!lock_is_current(lock, path) && smp_lock_take(dir, job, node, &again)))
		return;
	/* The lock goes last: nobody starts while something of ours is left. */
	for (size_t i = 0; i < sizeof(suffix) / sizeof(suffix[0]); i++)
		if (!smp_path_of(dir, job, node, suffix[i], path, sizeof(path)))
			unlink(path);
	if (again >= 0)
		close(again);
}
