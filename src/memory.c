/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Room below control groups: /proc/self/cgroup says in which group the process is,
 * /proc/self/mountinfo where that hierarchy is mounted. Every folder from the group
 * up to the mount point may hold a limit. In a container the group's path may lie
 * outside of what is mounted: then the mount point is the innermost level seen.
 */
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <unistd.h>

#include "error.h"
#include "thread.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define TOUCH_PIECE       ((size_t)64 << 20)
#define TOUCH_THREADS_MAX 256
#define TOUCH_PAGES       256 /* one byte of each at once: must fit in a pipe */
#define MEMORY_NAME_MAX   32

/* How one version of control groups names things. */
struct cgroup_kind {
	const char *fstype, *controller; /* controller "": the unified hierarchy */
	const char *limit, *usage, *stat_prefix;
};

static const struct cgroup_kind cgroup_kinds[] = {
	{"cgroup2", "", "memory.max", "memory.current", ""},
	{"cgroup", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"},
};

static FILE *file_open(const char *root, const char *path)
{
	char full[PATH_MAX];
	int len = snprintf(full, sizeof(full), "%s%s", root, path);

	return len > 0 && (size_t)len < sizeof(full) ? fopen(full, "re") : NULL;
}

static FILE *file_open_in(const char *folder, const char *name)
{
	char full[PATH_MAX];
	int len = snprintf(full, sizeof(full), "%s/%s", folder, name);

	return len > 0 && (size_t)len < sizeof(full) ? fopen(full, "re") : NULL;
}

/* A file that holds one number; false if there is none or it says "max". */
static bool file_number(const char *folder, const char *name, uint64_t *value)
{
	FILE *file = file_open_in(folder, name);
	bool found;

	if (!file)
		return false;
	found = fscanf(file, "%" SCNu64, value) == 1;
	fclose(file);
	return found;
}

/* The value behind a name in lines of "name value"; 0 if it is not there. */
static uint64_t file_field(FILE *file, const char *name)
{
	char line[256], key[64];
	uint64_t value;

	rewind(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%63s %" SCNu64, key, &value) == 2 && strcmp(key, name) == 0)
			return value;
	}
	return 0;
}

/* Page cache that the kernel gives up before it refuses memory. */
static uint64_t cgroup_reclaimable(const char *folder, const struct cgroup_kind *kind)
{
	static const char *const names[] = {"inactive_file", "active_file"};
	FILE *file = file_open_in(folder, "memory.stat");
	char name[MEMORY_NAME_MAX];
	uint64_t sum = 0;
	size_t i;

	if (!file)
		return 0;
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(name, sizeof(name), "%s%s", kind->stat_prefix, names[i]);
		sum += file_field(file, name);
	}
	fclose(file);
	return sum;
}

/* Bytes below the limit of one level; UINT64_MAX if it has none. */
static uint64_t cgroup_room(const char *folder, const struct cgroup_kind *kind)
{
	uint64_t limit, usage, reclaimable;

	if (!file_number(folder, kind->limit, &limit))
		return UINT64_MAX;
	if (!file_number(folder, kind->usage, &usage))
		usage = 0;
	reclaimable = cgroup_reclaimable(folder, kind);
	usage = usage > reclaimable ? usage - reclaimable : 0;
	return limit > usage ? limit - usage : 0;
}

/* Whether word is one of the comma-separated words of list. */
static bool list_has(const char *list, const char *word)
{
	size_t len = strlen(word), part;

	for (;; list += part + 1) {
		part = strcspn(list, ",");
		if (part == len && strncmp(list, word, len) == 0)
			return true;
		if (list[part] == '\0')
			return false;
	}
}

/* The process's group in the hierarchy of kind: a line "number:controllers:path". */
static bool cgroup_path(const char *root, const struct cgroup_kind *kind, char *path)
{
	FILE *file = file_open(root, "/proc/self/cgroup");
	char line[PATH_MAX + 256];
	char *controllers, *at;
	bool found = false;

	if (!file)
		return false;
	while (!found && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		controllers = strchr(line, ':');
		at = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!at || strlen(at + 1) >= PATH_MAX)
			continue;
		*at = '\0';
		found = kind->controller[0] == '\0' ? strcmp(line, "0:") == 0
		                                    : list_has(controllers + 1, kind->controller);
		if (found)
			memcpy(path, at + 1, strlen(at + 1) + 1);
	}
	fclose(file);
	return found;
}

/* mountinfo writes blanks and backslashes in paths as \ooo. */
static void octal_decode(char *text)
{
	char *to = text;

	for (; *text != '\0'; to++) {
		if (text[0] == '\\' && strspn(text + 1, "01234567") >= 3) {
			*to = (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
			text += 4;
		} else {
			*to = *text++;
		}
	}
	*to = '\0';
}

/* Copies the n-th blank-separated field of line; false if it has fewer. */
static bool field_copy(const char *line, unsigned n, char *to, size_t bytes)
{
	size_t len;

	while (n-- > 0) {
		line += strcspn(line, " \n");
		line += strspn(line, " ");
	}
	len = strcspn(line, " \n");
	if (len == 0 || len >= bytes)
		return false;
	memcpy(to, line, len);
	to[len] = '\0';
	return true;
}

/* A line of mountinfo: "id parent device root mountpoint ... - fstype source options". */
static bool mount_match(const char *line, const struct cgroup_kind *kind, char *inside, char *point)
{
	const char *tail = strstr(line, " - ");
	char text[256];

	if (!tail || !field_copy(tail + 3, 0, text, sizeof(text))
	    || strcmp(text, kind->fstype) != 0)
		return false;
	if (kind->controller[0] != '\0'
	    && (!field_copy(tail + 3, 2, text, sizeof(text)) || !list_has(text, kind->controller)))
		return false;
	if (!field_copy(line, 3, inside, PATH_MAX) || !field_copy(line, 4, point, PATH_MAX))
		return false;
	octal_decode(inside);
	octal_decode(point);
	return true;
}

static bool cgroup_mount(const char *root, const struct cgroup_kind *kind, char *inside,
                         char *point)
{
	FILE *file = file_open(root, "/proc/self/mountinfo");
	char line[2 * PATH_MAX];
	bool found = false;

	if (!file)
		return false;
	while (!found && fgets(line, sizeof(line), file))
		found = mount_match(line, kind, inside, point);
	fclose(file);
	return found;
}

/* The part of the group's path below what is mounted; "" if it lies outside. */
static const char *path_below(const char *path, const char *inside)
{
	size_t len = strcmp(inside, "/") == 0 ? 0 : strlen(inside);

	if (strstr(path, "/..") || strncmp(path, inside, len) != 0
	    || (path[len] != '/' && path[len] != '\0') || strcmp(path + len, "/") == 0)
		return "";
	return path + len;
}

/* The least room of all levels from the process's group up to the mount point. */
static uint64_t cgroup_available(const char *root, const struct cgroup_kind *kind)
{
	char path[PATH_MAX], inside[PATH_MAX], point[PATH_MAX], folder[PATH_MAX];
	uint64_t least = UINT64_MAX, room;
	size_t top;
	int len;

	if (!cgroup_path(root, kind, path) || !cgroup_mount(root, kind, inside, point))
		return UINT64_MAX;
	top = strlen(root) + strlen(point);
	len = snprintf(folder, sizeof(folder), "%s%s%s", root, point, path_below(path, inside));
	if (len < 0 || (size_t)len >= sizeof(folder))
		return UINT64_MAX;
	for (;;) {
		room = cgroup_room(folder, kind);
		least = room < least ? room : least;
		if (strlen(folder) <= top)
			return least;
		*strrchr(folder, '/') = '\0';
	}
}

static uint64_t system_available(const char *root)
{
	FILE *file = file_open(root, "/proc/meminfo");
	struct sysinfo info;
	uint64_t kib = 0;

	if (file) {
		kib = file_field(file, "MemAvailable:");
		fclose(file);
	}
	if (kib > 0)
		return kib * 1024;
	return sysinfo(&info) == 0 ? (uint64_t)info.freeram * info.mem_unit : UINT64_MAX;
}

uint64_t memory_available_in(const char *root)
{
	uint64_t least = system_available(root), room;
	size_t i;

	for (i = 0; i < sizeof(cgroup_kinds) / sizeof(cgroup_kinds[0]); i++) {
		room = cgroup_available(root, &cgroup_kinds[i]);
		least = room < least ? room : least;
	}
	return least;
}

uint64_t memory_available(void)
{
	return memory_available_in("");
}

/* What the threads of one memory_touch() share: each takes the next piece. */
struct touch {
	uint8_t *addr;
	size_t bytes, page;
	_Atomic size_t next;
	_Atomic int failed; /* errno, 0 while all is well */
};

/* A page that cannot be had fails the system call: no signal. Whole transfers: the
 * pipe has room for all, and gives back what it took. */
static int pages_bounce(const int pipe_fd[2], const struct iovec *pages, int count)
{
	ssize_t done;

	done = writev(pipe_fd[1], pages, count);
	if (done == count)
		done = readv(pipe_fd[0], pages, count);
	if (done < 0)
		return errno;
	return done == count ? 0 : EFAULT;
}

static int piece_bounce(uint8_t *addr, size_t bytes, size_t page)
{
	struct iovec pages[TOUCH_PAGES];
	int pipe_fd[2], count, errnum = 0;
	size_t at = 0;

	if (pipe2(pipe_fd, O_CLOEXEC) != 0)
		return errno;
	while (at < bytes && errnum == 0) {
		for (count = 0; count < TOUCH_PAGES && at < bytes; count++, at += page)
			pages[count] = (struct iovec){addr + at, 1};
		errnum = pages_bounce(pipe_fd, pages, count);
	}
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	return errnum;
}

static int piece_touch(uint8_t *addr, size_t bytes, size_t page)
{
	int rc;

	do {
		rc = madvise(addr, bytes, MADV_POPULATE_WRITE);
	} while (rc != 0 && errno == EINTR);
	if (rc == 0)
		return 0;
	return errno == EINVAL ? piece_bounce(addr, bytes, page) : errno;
}

static void *touch_run(void *arg)
{
	struct touch *t = (struct touch *)arg;
	size_t at, bytes;
	int errnum;

	while (atomic_load(&t->failed) == 0) {
		at = atomic_fetch_add(&t->next, TOUCH_PIECE);
		if (at >= t->bytes)
			break;
		bytes = t->bytes - at < TOUCH_PIECE ? t->bytes - at : TOUCH_PIECE;
		errnum = piece_touch(t->addr + at, bytes, t->page);
		if (errnum != 0)
			atomic_store(&t->failed, errnum);
	}
	return NULL;
}

int memory_touch(void *addr, size_t bytes, uint32_t threads)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), before = (uintptr_t)addr % page;
	struct touch t = {.addr = (uint8_t *)addr - before, .bytes = bytes + before, .page = page};
	size_t pieces = (t.bytes + TOUCH_PIECE - 1) / TOUCH_PIECE;
	pthread_t thread[TOUCH_THREADS_MAX];
	uint32_t started = 0;
	int errnum;

	if (bytes == 0)
		return FTMEM_OK;
	if (threads > pieces)
		threads = (uint32_t)pieces;
	if (threads > TOUCH_THREADS_MAX)
		threads = TOUCH_THREADS_MAX;
	/* A thread that cannot be made is no loss: the caller does what is left. */
	while (started + 1 < threads && thread_start(&thread[started], touch_run, &t) == 0)
		started++;
	touch_run(&t);
	while (started > 0)
		pthread_join(thread[--started], NULL);

	errnum = atomic_load(&t.failed);
	if (errnum == 0)
		return FTMEM_OK;
	return error_sys(FTMEM_ENOMEM, errnum,
	                 "%zu bytes of memory cannot be taken; free memory or raise the limit "
	                 "of the container or job step",
	                 bytes);
}

/* Advice is a wish: a kernel built without it says EINVAL. */
static int advise(void *addr, size_t bytes, int advice)
{
	if (madvise(addr, bytes, advice) == 0 || errno == EINVAL)
		return FTMEM_OK;
	return error_sys(errno == ENOMEM ? FTMEM_ENOMEM : FTMEM_ESYS, errno,
	                 "advice %d on %zu bytes of an arena", advice, bytes);
}

int memory_map(int fd, size_t bytes, int writable, void **addr)
{
	static const int advice[] = {MADV_HUGEPAGE, MADV_DONTFORK, MADV_DONTDUMP};
	int rc = FTMEM_OK;
	void *at;
	size_t i;

	at = mmap(NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return error_sys(errno == ENOMEM ? FTMEM_ENOMEM : FTMEM_ESYS, errno,
		                 "an arena of %zu bytes cannot be mapped", bytes);
	for (i = 0; i < sizeof(advice) / sizeof(advice[0]) && rc == FTMEM_OK; i++)
		rc = advise(at, bytes, advice[i]);
	if (rc != FTMEM_OK) {
		munmap(at, bytes);
		return rc;
	}
	*addr = at;
	return FTMEM_OK;
}
