/* SPDX-License-Identifier: BSD-3-Clause */
#include "fault.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"

#define FAULTS_MAX 8
#define PATH_ROOM  512
#define SMP_END_MS 60000
#define STOPPED_MS 60000

/* Names in a run, and while ftmem_restore() or ftmem_repair() runs. */
static const char *const point_name[POINT_COUNT][2] = {
	[POINT_BEGIN_FILL] = {"begin-fill", "refill"},
	[POINT_COPY] = {"copy", "recopy"},
	[POINT_TELL] = {"tell", "retell"},
	[POINT_EXCHANGE] = {"exchange", "reexchange"},
	[POINT_TRAILER] = {"trailer", "retrailer"},
	[POINT_ENCODE] = {"encode", "reencode"},
	[POINT_BEFORE_PREPARE] = {"before-prepare", "before-reprepare"},
	[POINT_AFTER_PREPARE] = {"after-prepare", "reprepare"},
	[POINT_VOTE] = {"vote", "revote"},
	[POINT_BEFORE_COMMIT] = {"before-commit", "before-recommit"},
	[POINT_AFTER_COMMIT] = {"after-commit", "recommit"},
	[POINT_CLEAR] = {"clear", "reclear"},
	[POINT_ATTACH] = {"attach", "attach"},
	[POINT_CREATE] = {"create", "create"},
	[POINT_TOUCH] = {"touch", "touch"},
	[POINT_VERIFY] = {"", "verify"},
	[POINT_REBUILD] = {"rebuild", "rebuild"},
	[POINT_REBUILD_SEND] = {"rebuild-send", "rebuild-send"},
	[POINT_REBUILT] = {"rebuilt", "rebuilt"},
	[POINT_ROUTE] = {"match", "plan"},
	[POINT_MOVE] = {"move", "move"},
	[POINT_FILL] = {"fill", "fill"},
	[POINT_MOVE_SEND] = {"move-send", "move-send"},
	[POINT_RETIRE] = {"retire", "retire"},
	[POINT_RESPAWN] = {"respawn", "respawn"},
	[POINT_AGREE] = {"agree", "reagree"},
	[POINT_RESTORED] = {"", "restored"},
};

static const char *const what_name[DO_NOTHING] = {
	[DO_KILL_RANK] = "kill-rank", [DO_KILL_SMP] = "kill-smp", [DO_KILL_NODE] = "kill-node",
	[DO_KILL_JOB] = "kill-job",   [DO_STOP] = "stop",         [DO_FAIL] = "fail",
	[DO_FLIP] = "flip",
};

struct fault {
	enum fault_point point;
	bool in_restore[2]; /* whether the name is that of a run, of a restore */
	bool any_version;
	uint64_t version;
	uint32_t count;
	enum fault_what what;
	_Atomic uint32_t seen;
	char text[128];
};

static struct {
	struct fault fault[FAULTS_MAX];
	uint32_t faults;
	char folder[PATH_ROOM], node[FTMEM_NAME_MAX + 1];
	uint32_t rank, ranks;
	struct smp_client *smp;
	atomic_bool restoring, killed_smp;
	_Atomic uint64_t version;
	uint64_t stops; /* other ranks that are to be stopped, a bit each */
} state;

/* --- what happens --- */

static void note(const char *file, const char *line)
{
	char path[PATH_ROOM + 64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.%u", state.folder, file, state.rank);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || dprintf(fd, "%s\n", line) < 0)
		_exit(99);
	close(fd);
}

static void kill_and_wait(pid_t pid)
{
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};

	kill(pid, SIGKILL);
	if (p.fd < 0)
		return;
	poll(&p, 1, SMP_END_MS);
	close(p.fd);
}

static void kill_smp(void)
{
	if (state.smp && smp_pid(state.smp) > 0)
		kill_and_wait(smp_pid(state.smp));
	atomic_store(&state.killed_smp, true);
}

/* Process id and node of a rank, as it noted them. */
static bool find_rank(uint32_t rank, int *pid, char node[FTMEM_NAME_MAX + 1])
{
	char path[PATH_ROOM + 64];
	int found;
	FILE *file;

	snprintf(path, sizeof(path), "%s/pid.%u", state.folder, rank);
	file = fopen(path, "re");
	if (!file)
		return false;
	found = fscanf(file, "%d %63s", pid, node);
	fclose(file);
	return found == 2;
}

/* The other ranks of the job, or of this node alone. */
static void kill_others(bool all)
{
	for (uint32_t i = 0; i < state.ranks; i++) {
		char node[FTMEM_NAME_MAX + 1];
		int pid;

		if (i != state.rank && find_rank(i, &pid, node)
		    && (all || strcmp(node, state.node) == 0))
			kill(pid, SIGKILL);
	}
}

static bool is_stopped(uint32_t rank)
{
	char node[FTMEM_NAME_MAX + 1], path[64], run = '\0';
	int pid, found = 0;
	FILE *file;

	if (!find_rank(rank, &pid, node))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	found = fscanf(file, "%*d (%*[^)]) %c", &run);
	fclose(file);
	return found == 1 && run == 'T';
}

/* What else is asked for happens when the others that are to be stopped are. */
static void await_stopped(void)
{
	uint64_t deadline = clock_deadline(STOPPED_MS);

	for (uint32_t i = 0; i < state.ranks && i < 64; i++)
		while (state.stops >> i & 1 && !is_stopped(i) && clock_ns() < deadline)
			clock_sleep(1000000);
}

static void happen(const struct fault *f)
{
	if (f->what != DO_STOP)
		await_stopped();
	note("fired", f->text);
	switch (f->what) {
	case DO_KILL_SMP: kill_smp(); return;
	case DO_KILL_NODE:
		kill_smp();
		kill_others(false);
		kill(getpid(), SIGKILL);
		return;
	case DO_KILL_JOB:
		kill_others(true);
		kill(getpid(), SIGKILL);
		return;
	case DO_KILL_RANK: kill(getpid(), SIGKILL); return;
	case DO_STOP:
		raise(SIGSTOP); /* this thread at once, then the others */
		return;
	default: return;
	}
}

enum fault_what fault_pass(enum fault_point point)
{
	enum fault_what todo = DO_NOTHING;
	bool restoring = atomic_load(&state.restoring);

	for (uint32_t i = 0; i < state.faults; i++) {
		struct fault *f = &state.fault[i];

		if (f->point != point || !f->in_restore[restoring])
			continue;
		if (!f->any_version && f->version != atomic_load(&state.version))
			continue;
		if (atomic_fetch_add(&f->seen, 1) + 1 != f->count)
			continue;
		happen(f);
		if (f->what == DO_FAIL || f->what == DO_FLIP)
			todo = f->what;
	}
	return todo;
}

int fault_fail(int code, enum fault_point point)
{
	return error_set(code, "made to fail at %s", point_name[point][0]);
}

/* --- what is asked for --- */

static void misuse(const char *text)
{
	fprintf(stderr, "FTMEM_TEST_FAULT: cannot make sense of %s\n", text);
	_exit(2);
}

/* A fault that is not for this rank is left out. */
static void parse_one(char *text)
{
	struct fault *f = &state.fault[state.faults];
	char name[32], rank[16], what[16], *at;
	bool known = false;

	if (state.faults == FAULTS_MAX)
		misuse(text);
	snprintf(f->text, sizeof(f->text), "%s", text);
	if (sscanf(text, "%31[^:]:%15[^:]:%u:%15s", name, rank, &f->count, what) != 4 || !f->count)
		misuse(text);
	at = strchr(name, '@');
	f->any_version = !at;
	if (at) {
		f->version = strtoull(at + 1, NULL, 10);
		*at = '\0';
	}
	for (int i = 0; i < POINT_COUNT; i++) {
		bool run = strcmp(name, point_name[i][0]) == 0;
		bool restore = strcmp(name, point_name[i][1]) == 0;

		if (!run && !restore)
			continue;
		f->point = (enum fault_point)i;
		f->in_restore[0] = run;
		f->in_restore[1] = restore;
		known = true;
	}
	f->what = DO_NOTHING;
	for (int i = 0; i < DO_NOTHING; i++)
		if (strcmp(what, what_name[i]) == 0)
			f->what = (enum fault_what)i;
	if (!known || f->what == DO_NOTHING || (f->what == DO_FLIP && f->point != POINT_COPY))
		misuse(text);
	if (strcmp(rank, "*") == 0 || strtoul(rank, NULL, 10) == state.rank)
		state.faults++;
	else if (f->what == DO_STOP && strtoul(rank, NULL, 10) < 64)
		state.stops |= UINT64_C(1) << strtoul(rank, NULL, 10);
}

void fault_start(const char *folder, uint32_t rank, uint32_t ranks, const char *node)
{
	const char *text = getenv("FTMEM_TEST_FAULT");
	char line[FTMEM_NAME_MAX + 32], *copy = strdup(text ? text : ""), *rest = copy, *one;

	snprintf(state.folder, sizeof(state.folder), "%s", folder);
	snprintf(state.node, sizeof(state.node), "%s", node);
	state.rank = rank;
	state.ranks = ranks;
	while (copy && (one = strtok_r(rest, ",", &rest)))
		parse_one(one);
	free(copy);
	snprintf(line, sizeof(line), "%d %s", getpid(), node);
	note("pid", line);
}

/* --- what the hooks tell --- */

void fault_set_version(uint64_t version)
{
	atomic_store(&state.version, version);
}

void fault_set_restoring(bool restoring)
{
	atomic_store(&state.restoring, restoring);
}

void fault_set_smp(struct smp_client *smp)
{
	state.smp = smp;
}

bool fault_killed_smp(void)
{
	return atomic_load(&state.killed_smp);
}
