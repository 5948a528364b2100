/* SPDX-License-Identifier: BSD-3-Clause */
/* The commands of ftmem, and what they share. Each returns an exit status. */
#ifndef FTMEM_SMP_CLI_H
#define FTMEM_SMP_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smp/client.h"

/* Exit statuses, documented in ftmem(1). */
enum cli_status {
	CLI_OK = 0,
	CLI_FAILED = 1, /* or damage was found */
	CLI_USAGE = 2,
	CLI_NO_JOB = 3,
	CLI_REFUSED = 4, /* ranks are attached */
};

struct cli {
	const char *dir;
	const char *job;  /* NULL: all */
	const char *node; /* NULL: all */
	const char *region; /* name or pattern, NULL: all */
	const char *lose; /* nodes, separated by commas; NULL: none */
	bool json, force;
};

/* A socket in the folder. */
struct cli_site {
	char job[FTMEM_NAME_MAX + 1];
	char node[FTMEM_NAME_MAX + 1];
};

/* The sockets that cli asks for, by job, then node; free() *sites. None is no error. */
int cli_sites(const struct cli *cli, struct cli_site **sites, uint32_t *count);
/* As an observer; does not start an SMP. */
int cli_connect(const struct cli *cli, const struct cli_site *site, struct smp_client **out);
/* Read-only. *out NULL: it was handed out but never written. */
int cli_attach(struct smp_client *client, const struct smp_entry *e, struct arena **out);
/* Prints "ftmem: ..." with the thread's message to stderr; returns CLI_FAILED. */
int cli_fail(const struct cli_site *site);
/* To stderr; returns CLI_NO_JOB. */
int cli_no_job(const struct cli *cli);

/* Room for any number of bytes or seconds as text. */
#define CLI_TEXT 32
const char *cli_bytes(uint64_t bytes, char text[CLI_TEXT]);
const char *cli_seconds(uint64_t seconds, char text[CLI_TEXT]);
const char *cli_state(enum slot_state state);
/* Prints a JSON string; what is not ASCII byte by byte. */
void cli_json_text(const char *text);

int cli_show(const struct cli *cli); /* ftmem status */
int cli_layout(const struct cli *cli);
int cli_drop(const struct cli *cli);
int cli_verify(const struct cli *cli);

#endif
