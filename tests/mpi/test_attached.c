/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A process of an earlier start still holds an arena: 3 ranks, one per node. The
 * process is this program again: --hold JOB NODE RANK.
 */
#include "clock.h"
#include "cluster.h"
#include "mpi_check.h"

#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define PATIENCE_MS 700

static struct cluster job;
static char *self;

/* Takes the lease, says so, and stops. */
static int hold(char **argv)
{
	struct smp_config config = {
		.dir = getenv("FTMEM_DIR"),
		.job = argv[2],
		.node = argv[3],
		.rank = (uint32_t)atoi(argv[4]),
		.timeout_ms = 20000,
	};
	struct smp_client *smp = NULL;
	struct smp_entry *entry = NULL;
	uint32_t count = 0;
	int fd = -1;

	/* Ends with its parent's patience, whatever happens. */
	alarm(60);
	if (smp_connect(&config, &smp) != 0 || smp_list(smp, &entry, &count) != 0 || count == 0)
		return 1;
	if (smp_attach(smp, entry[count - 1].epoch, config.rank, true, &fd) != 0)
		return 1;
	if (write(STDOUT_FILENO, "x", 1) != 1)
		return 1;
	for (;;)
		raise(SIGSTOP);
}

/* Returns when it holds the arena of rank on node. */
static pid_t start_holder(uint32_t node, uint32_t rank)
{
	char number[16], byte;
	char *argv[] = {self, "--hold", job.job, job.node[node], number, NULL};
	posix_spawn_file_actions_t actions;
	int ends[2];
	pid_t pid;

	snprintf(number, sizeof(number), "%u", rank);
	CHECK(pipe(ends) == 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
	posix_spawn_file_actions_addclose(&actions, ends[0]);
	CHECK(posix_spawn(&pid, self, &actions, NULL, argv, environ) == 0);
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	CHECK_MSG(read(ends[0], &byte, 1) == 1, "the holder did not attach");
	close(ends[0]);
	return pid;
}

static void end_holder(pid_t pid)
{
	int status;

	CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
}

static void prepare(void)
{
	cluster_init(&job, MPI_COMM_WORLD, "1,1,1");
	cluster_sizes(&job, 1);
	cluster_start_fresh(&job);
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
}

/* That rank's message names the process, the others' that rank. */
static void check_named(uint32_t rank, pid_t pid)
{
	char text[64];

	snprintf(text, sizeof(text), job.rank == rank ? "process %d" : "rank %d",
	         job.rank == rank ? (int)pid : (int)rank);
	CHECK_MESSAGE(text);
}

static void a_stopped_process_is_named_and_then_replaced(void)
{
	for (uint32_t victim = 0; victim < 3; victim++) {
		pid_t pid = 0;

		check_note("rank %u", victim);
		prepare();
		if (job.rank == victim)
			pid = start_holder(victim, victim);
		check_barrier(job.comm);
		job.opts.timeout_ms = PATIENCE_MS;
		CHECK_RESULT(cluster_try_open(&job), 0);
		cluster_add_regions(&job);
		CHECK_RESULT(ftmem_seal(job.ft), FTMEM_EATTACHED);
		check_named(victim, pid);
		CHECK_RESULT(ftmem_seal(job.ft), FTMEM_EATTACHED);
		check_named(victim, pid);
		if (job.rank == victim)
			end_holder(pid);
		check_barrier(job.comm);
		CHECK_RESULT(ftmem_seal(job.ft), 0);
		job.opts.timeout_ms = 30000;
		cluster_restore(&job, 2);
		cluster_commit(&job, 3);
		cluster_close(&job);
		cluster_lose(&job, 1u << victim);
		cluster_start(&job);
		cluster_restore(&job, 3);
		cluster_deinit(&job);
	}
}

/* The job is closed and opened again before the process ends. */
static void a_later_start_finds_everything(void)
{
	pid_t pid = 0;

	prepare();
	if (job.rank == 1)
		pid = start_holder(1, 1);
	check_barrier(job.comm);
	job.opts.timeout_ms = PATIENCE_MS;
	CHECK_RESULT(cluster_try_start(&job), FTMEM_EATTACHED);
	cluster_close(&job);
	if (job.rank == 1)
		end_holder(pid);
	check_barrier(job.comm);
	job.opts.timeout_ms = 30000;
	cluster_start(&job);
	cluster_restore(&job, 2);
	cluster_deinit(&job);
}

/* An arena that none of its node's ranks needs for itself. */
static void it_is_found_when_ranks_are_reordered_too(void)
{
	uint64_t version = 99;
	pid_t pid = 0;

	prepare();
	if (job.rank == 2)
		pid = start_holder(2, 2);
	for (uint32_t i = 0; i < 3; i++)
		job.node_of[i] = (i + 1) % 3;
	check_barrier(job.comm);
	job.opts.timeout_ms = PATIENCE_MS;
	cluster_start(&job);
	cluster_poison(&job);
	CHECK_RESULT(ftmem_restore(job.ft, &version), FTMEM_EATTACHED);
	check_named(1, (pid_t)check_max(job.comm, (uint64_t)pid));
	cluster_verify_poison(&job);
	CHECK(version == 99);
	if (job.rank == 2)
		end_holder(pid);
	check_barrier(job.comm);
	cluster_restore(&job, 2);
	cluster_deinit(&job);
}

/* It ends while the ranks wait for it: nobody sees an error. */
static void a_process_that_ends_meanwhile_is_waited_for(void)
{
	pid_t pid = 0;

	prepare();
	if (job.rank == 0)
		pid = start_holder(2, 2);
	check_barrier(job.comm);
	CHECK_RESULT(cluster_try_open(&job), 0);
	cluster_add_regions(&job);
	if (job.rank == 0) {
		/* As its parent does when it gives up on it: late enough that the call
		 * below is likely to wait already; it must succeed either way. */
		char command[96];

		snprintf(command, sizeof(command), "(sleep 0.5; kill -9 %d) >/dev/null 2>&1 &",
		         (int)pid);
		CHECK(system(command) == 0);
	}
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	if (job.rank == 0)
		CHECK(waitpid(pid, NULL, 0) == pid);
	cluster_restore(&job, 2);
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"a_stopped_process_is_named_and_then_replaced",
	         a_stopped_process_is_named_and_then_replaced},
		{"a_later_start_finds_everything", a_later_start_finds_everything},
		{"it_is_found_when_ranks_are_reordered_too",
	         it_is_found_when_ranks_are_reordered_too},
		{"a_process_that_ends_meanwhile_is_waited_for",
	         a_process_that_ends_meanwhile_is_waited_for},
	};

	self = argv[0];
	if (argc == 5 && strcmp(argv[1], "--hold") == 0)
		return hold(argv);
	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
