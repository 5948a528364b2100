/* SPDX-License-Identifier: BSD-3-Clause */
/* The ftmem command: looks at, checks and frees what ftmem-smp processes hold. */
#include "smp/cli.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "opts.h"

#define STRING_(x) #x
#define STRING(x)  STRING_(x)
#define VERSION                                                                                    \
	STRING(FTMEM_VERSION_MAJOR) "." STRING(FTMEM_VERSION_MINOR) "." STRING(FTMEM_VERSION_PATCH)

static const char usage[] =
	"usage: ftmem status [--json] [JOB]   what is held for jobs on this machine\n"
	"       ftmem layout [--json] [--lose NODE[,NODE...]] JOB [NAME]\n"
	"                                     tensors, and which rank stores what of them\n"
	"       ftmem verify JOB              check every checksum of what is held\n"
	"       ftmem drop [--force] JOB      free the memory of a job\n"
	"  --node NODE  only what is held for this node\n"
	"  --dir DIR    folder of sockets, an absolute path (or FTMEM_DIR); default:\n"
	"               $XDG_RUNTIME_DIR/ftmem or /tmp/ftmem-UID\n"
	"  NAME         only tensors and private regions of this name, or pattern such as\n"
	"               'layers.0.*', with their boxes and shares\n"
	"  --lose       what would be lost if these nodes died\n"
	"  --force      drop even while ranks are attached\n"
	"  --help, --version\n"
	"Exit status: 0 done, 1 failed or damage found, 2 usage, 3 no such job, 4 refused:\n"
	"ranks are attached.\n";

struct command {
	const char *name;
	int (*run)(const struct cli *cli);
	bool needs_job, json, force, layout;
};

static const struct command commands[] = {
	{"status", cli_show, false, true, false, false},
	{"layout", cli_layout, true, true, false, true},
	{"verify", cli_verify, true, false, false, false},
	{"drop", cli_drop, true, false, true, false},
};

static int misuse(const char *what, const char *word)
{
	fprintf(stderr, "ftmem: %s%s\n%s", what, word, usage);
	return CLI_USAGE;
}

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static int run(const struct command *command, struct cli *cli)
{
	/* The folder's rule is that of trainers; the job only has to be a name. */
	const struct ftmem_opts asked = {.size = sizeof(asked),
	                                 .job = cli->job ? cli->job : "all",
	                                 .node = cli->node,
	                                 .dir = cli->dir};
	struct opts opts;

	if (command->needs_job && !cli->job)
		return misuse("name the job to ", command->name);
	if (cli->json && !command->json)
		return misuse("--json", " does not go with this command");
	if (cli->force && !command->force)
		return misuse("--force", " does not go with this command");
	if (cli->lose && !command->layout)
		return misuse("--lose", " does not go with this command");
	if (opts_resolve(&asked, &opts)) {
		fprintf(stderr, "ftmem: %s\n", error_msg());
		return CLI_USAGE;
	}
	cli->dir = opts.dir;
	return command->run(cli);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'},
		{"force", no_argument, NULL, 'f'},
		{"lose", required_argument, NULL, 'l'},
		{"node", required_argument, NULL, 'n'},
		{"dir", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},
		{NULL, 0, NULL, 0},
	};
	const struct command *command;
	struct cli cli = {0};
	int c, most;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'j': cli.json = true; break;
		case 'f': cli.force = true; break;
		case 'l': cli.lose = optarg; break;
		case 'n': cli.node = optarg; break;
		case 'd': cli.dir = optarg; break;
		case 'h': fputs(usage, stdout); return CLI_OK;
		case 'v': puts("ftmem " VERSION); return CLI_OK;
		default: fputs(usage, stderr); return CLI_USAGE;
		}
	}
	if (optind == argc)
		return misuse("name a command", "");
	command = find(argv[optind]);
	if (!command)
		return misuse("unknown command ", argv[optind]);
	most = command->layout ? 3 : 2;
	if (argc - optind > most)
		return misuse("unknown argument ", argv[optind + most]);
	cli.job = argc - optind > 1 ? argv[optind + 1] : NULL;
	cli.region = argc - optind > 2 ? argv[optind + 2] : NULL;
	return run(command, &cli);
}
