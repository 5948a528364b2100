/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "smp/cli.h"

#define TIMEOUT_MS 10000u

static int compare_sites(const void *a, const void *b)
{
	const struct cli_site *x = a, *y = b;
	int c = strcmp(x->job, y->job);

	return c ? c : strcmp(x->node, y->node);
}

static bool wanted(const struct cli *cli, const struct cli_site *site)
{
	return (!cli->job || strcmp(cli->job, site->job) == 0)
	       && (!cli->node || strcmp(cli->node, site->node) == 0);
}

static int read_sites(const struct cli *cli, DIR *dir, struct cli_site **sites, uint32_t *count)
{
	struct cli_site site, *more;
	struct dirent *file;

	while ((file = readdir(dir))) {
		if (!smp_path_parse(file->d_name, site.job, site.node) || !wanted(cli, &site))
			continue;
		more = realloc(*sites, (*count + 1) * sizeof(*more));
		if (!more)
			return error_set(FTMEM_ENOMEM, "no memory for a list of jobs");
		*sites = more;
		more[(*count)++] = site;
	}
	return 0;
}

int cli_sites(const struct cli *cli, struct cli_site **sites, uint32_t *count)
{
	DIR *dir;
	int rc;

	*sites = NULL;
	*count = 0;
	if (smp_dir_missing(cli->dir))
		return 0;
	rc = smp_dir_check(cli->dir, false);
	if (rc)
		return rc;
	dir = opendir(cli->dir);
	if (!dir)
		return error_sys(FTMEM_ESYS, errno, "cannot read %s", cli->dir);
	rc = read_sites(cli, dir, sites, count);
	closedir(dir);
	if (rc) {
		free(*sites);
		*sites = NULL;
		*count = 0;
	} else if (*count) {
		qsort(*sites, *count, sizeof(**sites), compare_sites);
	}
	return rc;
}

int cli_connect(const struct cli *cli, const struct cli_site *site, struct smp_client **out)
{
	const struct smp_config config = {.dir = cli->dir,
	                                  .job = site->job,
	                                  .node = site->node,
	                                  .rank = WIRE_RANK_OBSERVER,
	                                  .timeout_ms = TIMEOUT_MS};

	return smp_connect(&config, out);
}

int cli_attach(struct smp_client *client, const struct smp_entry *e, struct arena **out)
{
	int fd = -1, rc = smp_attach(client, e->epoch, e->rank, false, &fd);

	*out = NULL;
	if (rc)
		return rc;
	if (!arena_unwritten(fd))
		return arena_attach(fd, false, out);
	close(fd);
	return 0;
}

int cli_fail(const struct cli_site *site)
{
	if (site)
		fprintf(stderr, "ftmem: job %s on node %s: %s\n", site->job, site->node,
		        error_msg());
	else
		fprintf(stderr, "ftmem: %s\n", error_msg());
	return CLI_FAILED;
}

int cli_no_job(const struct cli *cli)
{
	fprintf(stderr, "ftmem: nothing is held for job %s", cli->job);
	if (cli->node)
		fprintf(stderr, " on node %s", cli->node);
	fprintf(stderr, " in %s\n", cli->dir);
	return CLI_NO_JOB;
}

const char *cli_bytes(uint64_t bytes, char text[CLI_TEXT])
{
	static const char *const unit[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes / 1024;
	size_t i = 0;

	if (bytes < 1024) {
		snprintf(text, CLI_TEXT, "%u B", (unsigned)bytes);
		return text;
	}
	for (; value >= 1024; i++)
		value /= 1024;
	snprintf(text, CLI_TEXT, "%.1f %s", value, unit[i]);
	return text;
}

const char *cli_seconds(uint64_t seconds, char text[CLI_TEXT])
{
	unsigned long long s = seconds;

	if (s < 60)
		snprintf(text, CLI_TEXT, "%llus", s);
	else if (s < 3600)
		snprintf(text, CLI_TEXT, "%llum%02llus", s / 60, s % 60);
	else if (s < 86400)
		snprintf(text, CLI_TEXT, "%lluh%02llum", s / 3600, s / 60 % 60);
	else
		snprintf(text, CLI_TEXT, "%llud%02lluh", s / 86400, s / 3600 % 24);
	return text;
}

const char *cli_state(enum slot_state state)
{
	switch (state) {
	case SLOT_EMPTY: return "empty";
	case SLOT_FILLING: return "filling";
	case SLOT_PREPARED: return "prepared";
	case SLOT_COMMITTED: return "committed";
	}
	return "damaged";
}

void cli_json_text(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c > 0x7e)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}
