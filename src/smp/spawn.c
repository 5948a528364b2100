/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"

extern char **environ;

#define LINE_MAX_BYTES 512
#define REAP_STEP_NS   1000000u

/* Variables by which launchers and their MPI find the processes of a job. */
static bool is_launcher_variable(const char *variable)
{
	static const char *const prefix[] = {"OMPI_", "PMIX_", "PMI",   "SLURM_", "PRTE",
	                                     "HYDRA", "MPI_",  "MPICH", "I_MPI_", "MV2_",
	                                     "FLUX_", "PALS_", "ORTE_"};

	for (size_t i = 0; i < sizeof(prefix) / sizeof(prefix[0]); i++)
		if (strncmp(variable, prefix[i], strlen(prefix[i])) == 0)
			return true;
	return false;
}

/* The environment without those; the strings are the environment's own. */
static char **environment_new(void)
{
	size_t count = 0, kept = 0;
	char **env;

	while (environ && environ[count])
		count++;
	env = calloc(count + 1, sizeof(*env));
	for (size_t i = 0; env && i < count; i++)
		if (!is_launcher_variable(environ[i]))
			env[kept++] = environ[i];
	return env;
}

/* 0 or an errno. */
static int set_actions(posix_spawn_file_actions_t *actions, int out)
{
	int rc = posix_spawn_file_actions_adddup2(actions, out, STDOUT_FILENO);

	if (!rc)
		rc = posix_spawn_file_actions_adddup2(actions, out, STDERR_FILENO);
	/* After the copies: a trainer without stdin may have the pipe as 0. */
	if (!rc)
		rc = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY,
		                                      0);
	if (!rc)
		rc = posix_spawn_file_actions_addclosefrom_np(actions, STDERR_FILENO + 1);
	return rc;
}

static int set_attributes(posix_spawnattr_t *attr)
{
	sigset_t none, all;
	int rc;

	sigemptyset(&none);
	sigfillset(&all);
	rc = posix_spawnattr_setsigmask(attr, &none);
	if (!rc)
		rc = posix_spawnattr_setsigdefault(attr, &all);
	if (!rc)
		rc = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK
		                                            | POSIX_SPAWN_SETSIGDEF);
	return rc;
}

/* 0 or an errno. */
static int spawn_process(const char *path, char *const argv[], char *const env[], int out,
                         pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int rc;

	rc = posix_spawn_file_actions_init(&actions);
	if (rc)
		return rc;
	rc = posix_spawnattr_init(&attr);
	if (rc) {
		posix_spawn_file_actions_destroy(&actions);
		return rc;
	}
	rc = set_actions(&actions, out);
	if (!rc)
		rc = set_attributes(&attr);
	if (!rc)
		rc = posix_spawnp(pid, path, &actions, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return rc;
}

/* One line, without its end. Not until end of file: another thread's fork may have
 * left a copy of the pipe's other end somewhere. */
static int read_line(int in, char line[LINE_MAX_BYTES], uint64_t deadline_ns)
{
	size_t len = 0;

	while (len < LINE_MAX_BYTES - 1) {
		uint64_t now = clock_ns();
		uint64_t ms = now < deadline_ns ? (deadline_ns - now) / 1000000u + 1 : 0;
		struct pollfd p = {.fd = in, .events = POLLIN};
		ssize_t n;

		if (!ms)
			return error_set(FTMEM_ETIMEOUT, "ftmem-smp was started but did not become "
			                                 "ready in time");
		if (poll(&p, 1, ms > 1000 ? 1000 : (int)ms) <= 0)
			continue;
		n = read(in, line + len, 1);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0 || line[len] == '\n')
			break;
		len++;
	}
	line[len] = '\0';
	return 0;
}

/* Its first process ends by itself; if it does not in time, it is made to. A
 * trainer that ignores SIGCHLD, or reaps all children, leaves nothing to wait for. */
static void reap(pid_t pid, uint64_t deadline_ns)
{
	bool killed = false;

	for (;;) {
		pid_t got = waitpid(pid, NULL, killed ? 0 : WNOHANG);

		if (got == pid || (got < 0 && errno != EINTR))
			return;
		if (!killed && clock_ns() >= deadline_ns) {
			kill(pid, SIGKILL);
			killed = true;
		} else if (!killed) {
			clock_sleep(REAP_STEP_NS);
		}
	}
}

static int judge(const struct spawn_config *config, const char *line)
{
	static const char error[] = "error: ";

	if (strncmp(line, SMP_SAYS_READY, strlen(SMP_SAYS_READY)) == 0)
		return 0;
	if (strncmp(line, SMP_SAYS_BUSY, strlen(SMP_SAYS_BUSY)) == 0)
		return FTMEM_BUSY;
	if (strncmp(line, error, strlen(error)) == 0)
		line += strlen(error);
	return error_set(FTMEM_ESMP, "%s could not serve job %s: %s", config->smp_path, config->job,
	                 line[0] ? line : "it ended without a word");
}

int smp_spawn(const struct spawn_config *config, uint64_t deadline_ns)
{
	char line[LINE_MAX_BYTES], expire[16], scrub[16];
	char *argv[12] = {"ftmem-smp",
	                  "--job",
	                  (char *)(uintptr_t)config->job,
	                  "--node",
	                  (char *)(uintptr_t)config->node,
	                  "--dir",
	                  (char *)(uintptr_t)config->dir};
	size_t args = 7;
	char **env = NULL;
	int pipe_fd[2] = {-1, -1};
	pid_t pid = -1;
	int rc;

	snprintf(expire, sizeof(expire), "%u", config->expire_s);
	snprintf(scrub, sizeof(scrub), "%u",
	         config->scrub_mib_s == UINT32_MAX ? 0 : config->scrub_mib_s);
	if (config->expire_s) {
		argv[args++] = "--expire";
		argv[args++] = expire;
	}
	if (config->scrub_mib_s) {
		argv[args++] = "--scrub";
		argv[args++] = scrub;
	}
	env = environment_new();
	if (!env)
		return error_set(FTMEM_ENOMEM, "no memory to start %s", config->smp_path);
	if (pipe2(pipe_fd, O_CLOEXEC) != 0) {
		rc = error_sys(FTMEM_ESYS, errno, "cannot make a pipe to start %s",
		               config->smp_path);
		goto out;
	}
	rc = spawn_process(config->smp_path, argv, env, pipe_fd[1], &pid);
	if (rc) {
		rc = error_sys(rc == ENOMEM || rc == EAGAIN ? FTMEM_ESYS : FTMEM_ESMP, rc,
		               "cannot start %s (set FTMEM_SMP to the ftmem-smp program)",
		               config->smp_path);
		goto out;
	}
	close(pipe_fd[1]);
	pipe_fd[1] = -1;
	rc = read_line(pipe_fd[0], line, deadline_ns);
	reap(pid, deadline_ns);
	if (!rc)
		rc = judge(config, line);
out:
	if (pipe_fd[0] >= 0)
		close(pipe_fd[0]);
	if (pipe_fd[1] >= 0)
		close(pipe_fd[1]);
	free(env);
	return rc;
}
