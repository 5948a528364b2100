/* SPDX-License-Identifier: BSD-3-Clause */
#include "node.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "smp/client.h"
#include "smp/wire.h"

#define END_MS 60000

static const char *const suffixes[] = {"sock", "lock", "log"};

#define FILES (sizeof(suffixes) / sizeof(*suffixes))

/* What a signal must clean up: no more than a handler may do. */
static volatile sig_atomic_t guarded; /* pid of the SMP to end, 0: none */
static char files[FILES][OPTS_PATH_MAX];

static void on_signal(int number)
{
	if (guarded > 0) {
		kill((pid_t)guarded, SIGKILL);
		for (size_t i = 0; i < FILES; i++)
			unlink(files[i]);
	}
	raise(number); /* the handler is reset: this ends the process */
}

void node_guard_init(void)
{
	static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGSEGV, SIGBUS, SIGABRT, SIGFPE};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		sigaction(numbers[i], &action, NULL);
}

void node_init(struct node *n, const struct opts *opts, bool leader)
{
	*n = (struct node){.opts = opts, .leader = leader};
	for (size_t i = 0; i < FILES; i++)
		if (smp_path_of(opts->dir, opts->job, opts->node, suffixes[i], files[i],
		                sizeof(files[i])) != 0)
			files[i][0] = '\0';
}

/* State and start time of a process; false if there is none. */
static bool process_read(int32_t pid, char *state, uint64_t *started)
{
	char path[64], line[1024], *at;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%" PRId32 "/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	at = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	fclose(f);
	return at && sscanf(at + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d"
	                    " %*d %*d %*d %*d %*d %" SCNu64, state, started) == 2;
}

static bool process_gone(const struct node *n)
{
	uint64_t started;
	char state;

	return n->pid <= 0 || !process_read(n->pid, &state, &started)
	       || started != n->started || state == 'Z' || state == 'X';
}

static bool wait_gone(const struct node *n, uint32_t ms)
{
	uint64_t deadline = clock_deadline(ms);

	while (!process_gone(n)) {
		if (clock_ns() > deadline)
			return false;
		clock_sleep(1000000);
	}
	return true;
}

static int connect_observer(const struct node *n, struct smp_client **out)
{
	struct smp_config config = {
		.dir = n->opts->dir,
		.job = n->opts->job,
		.node = n->opts->node,
		.rank = WIRE_RANK_OBSERVER,
		.expire_s = n->opts->expire_s,
		.timeout_ms = END_MS,
		.log = &n->opts->log,
	};

	return smp_connect(&config, out);
}

int node_watch(struct node *n)
{
	struct smp_client *c = NULL;
	int result;
	char state;

	if (!n->leader)
		return 0;
	result = connect_observer(n, &c);
	if (result < 0)
		return result;
	n->pid = smp_pid(c);
	smp_close(c);
	if (!process_read(n->pid, &state, &n->started)) {
		n->pid = 0;
		return error_set(FTMEM_ESMP, "node %s: its ftmem-smp ended unasked", n->opts->node);
	}
	guarded = n->pid;
	return 0;
}

int node_held(struct node *n, uint64_t *bytes)
{
	struct smp_client *c = NULL;
	struct smp_entry *entries = NULL;
	uint32_t count = 0;
	int result;

	*bytes = 0;
	if (!n->leader)
		return 0;
	result = connect_observer(n, &c);
	if (result == 0)
		result = smp_list(c, &entries, &count);
	for (uint32_t i = 0; i < count; i++)
		*bytes += entries[i].bytes;
	free(entries);
	smp_close(c);
	return result;
}

static void forget_pid(struct node *n)
{
	guarded = 0;
	n->pid = 0;
}

int node_lose(struct node *n)
{
	if (!n->leader)
		return 0;
	if (process_gone(n))
		return error_set(FTMEM_ESMP, "node %s: its ftmem-smp ended unasked", n->opts->node);
	if (kill(n->pid, SIGKILL) != 0)
		return error_sys(FTMEM_ESYS, errno, "cannot kill ftmem-smp, pid %" PRId32, n->pid);
	if (!wait_gone(n, END_MS))
		return error_set(FTMEM_ESYS, "ftmem-smp, pid %" PRId32 ", does not die", n->pid);
	forget_pid(n);
	return 0;
}

void node_drop(struct node *n)
{
	struct smp_client *c = NULL;

	if (!n->leader)
		return;
	if (connect_observer(n, &c) == 0) {
		smp_stop(c, true);
		smp_close(c);
	}
	if (!wait_gone(n, END_MS) && kill(n->pid, SIGKILL) != 0)
		fprintf(stderr, "ftmem_bench: node %s: cannot end ftmem-smp, pid %" PRId32 "\n",
		        n->opts->node, n->pid);
	forget_pid(n);
	for (size_t i = 0; i < FILES; i++)
		unlink(files[i]);
}
