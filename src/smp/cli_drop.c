/* SPDX-License-Identifier: BSD-3-Clause */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "smp/cli.h"

/* For the process to end once its memory is free. */
#define END_MS 120000u

/* One SMP to be ended. */
struct target {
	const struct cli_site *site;
	struct smp_client *client; /* NULL: nobody serves the socket */
	struct smp_info info;
	bool leased;
	int pidfd; /* -1: not visible */
};

/* A socket that nobody serves belongs to a process that was killed. The message is
 * left that says why it cannot be used, if it is served. */
static int clear_stale(const struct cli *cli, const struct cli_site *site)
{
	int lock = -1, rc = smp_lock_take(cli->dir, site->job, site->node, &lock);

	if (rc)
		return rc < 0 ? rc : FTMEM_ESMP;
	smp_files_remove(cli->dir, site->job, site->node, lock);
	close(lock);
	printf("job %s on node %s: nothing was held, the socket of a process that is gone was "
	       "removed\n",
	       site->job, site->node);
	return 0;
}

static int look(const struct cli *cli, struct target *t)
{
	struct smp_entry *entry = NULL;
	uint32_t count = 0;
	int rc = cli_connect(cli, t->site, &t->client);

	if (rc == FTMEM_ESMP)
		return clear_stale(cli, t->site);
	if (!rc)
		rc = smp_info(t->client, &t->info);
	if (!rc)
		rc = smp_list(t->client, &entry, &count);
	for (uint32_t i = 0; i < count; i++)
		t->leased |= entry[i].owner != 0;
	free(entry);
	if (!rc)
		t->pidfd = (int)syscall(SYS_pidfd_open, t->info.pid, 0);
	return rc;
}

/* Its memory is free when it is gone. Where its process cannot be seen, or its number is that of
 * another here, its lock tells the same. */
static int await_end(const struct cli *cli, const struct target *t)
{
	uint64_t deadline = clock_deadline(END_MS);
	struct pollfd p = {.fd = t->pidfd, .events = POLLIN};
	int lock;

	while (clock_ns() < deadline) {
		if (poll(&p, 1, t->pidfd >= 0 ? 1000 : 10) > 0)
			return 0;
		if (!smp_lock_take(cli->dir, t->site->job, t->site->node, &lock)) {
			smp_files_remove(cli->dir, t->site->job, t->site->node, lock);
			close(lock);
			return 0;
		}
	}
	return error_set(FTMEM_ETIMEOUT, "process %d does not end: end it with kill -9",
	                 t->info.pid);
}

static int stop(const struct cli *cli, struct target *t)
{
	char text[CLI_TEXT];
	int rc = smp_stop(t->client, cli->force);

	if (!rc)
		rc = await_end(cli, t);
	if (!rc)
		printf("job %s on node %s: %s freed (%llu bytes), process %d has ended\n",
		       t->site->job, t->site->node, cli_bytes(t->info.bytes, text),
		       (unsigned long long)t->info.bytes, t->info.pid);
	return rc;
}

/* Whether every one may be ended: all or none is. */
static int refuse(const struct cli *cli, const struct target *targets, uint32_t count)
{
	int status = CLI_OK;

	for (uint32_t i = 0; !cli->force && i < count; i++) {
		const struct target *t = &targets[i];

		if (!t->client || !(t->info.clients || t->leased))
			continue;
		fprintf(stderr,
		        "ftmem: job %s on node %s: ranks are still attached (ftmem status "
		        "shows them): end the job first, or use --force\n",
		        t->site->job, t->site->node);
		status = CLI_REFUSED;
	}
	return status;
}

static int drop_all(const struct cli *cli, struct target *targets, uint32_t count)
{
	int rc, status = CLI_OK;

	for (uint32_t i = 0; i < count; i++)
		if (look(cli, &targets[i]))
			return cli_fail(targets[i].site);
	status = refuse(cli, targets, count);
	if (status)
		return status;
	for (uint32_t i = 0; i < count; i++) {
		rc = targets[i].client ? stop(cli, &targets[i]) : 0;
		if (rc)
			status = cli_fail(targets[i].site);
		if (rc == FTMEM_EATTACHED)
			status = CLI_REFUSED;
	}
	return status;
}

int cli_drop(const struct cli *cli)
{
	struct cli_site *sites = NULL;
	struct target *targets = NULL;
	uint32_t count = 0;
	int status;

	if (cli_sites(cli, &sites, &count))
		return cli_fail(NULL);
	targets = calloc(count ? count : 1, sizeof(*targets));
	for (uint32_t i = 0; targets && i < count; i++)
		targets[i] = (struct target){.site = &sites[i], .pidfd = -1};
	if (!targets) {
		error_set(FTMEM_ENOMEM, "no memory for a list of jobs");
		status = cli_fail(NULL);
	} else {
		status = count ? drop_all(cli, targets, count) : cli_no_job(cli);
	}
	for (uint32_t i = 0; targets && i < count; i++) {
		smp_close(targets[i].client);
		if (targets[i].pidfd >= 0)
			close(targets[i].pidfd);
	}
	free(targets);
	free(sites);
	return status;
}
