/* SPDX-License-Identifier: BSD-3-Clause */
#include "args.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind { NUMBER32, NUMBER64, RATE, TEXT, SET, CLEAR };

struct option_row {
	const char *name;
	enum kind kind;
	size_t at; /* in struct args */
	uint64_t least, most;
	const char *text;
};

#define AT(member) offsetof(struct args, member)

static const struct option_row rows[] = {
	{"steps", NUMBER64, AT(steps), 0, 1000000000, "train up to this step (300)"},
	{"text", TEXT, AT(text), 0, 0, "learn this file (the GPL, if Debian installed it)"},
	{"layers", NUMBER32, AT(model.layers), 1, 64, "layers (2)"},
	{"dim", NUMBER32, AT(model.dim), 2, 4096, "width, a multiple of --heads (64)"},
	{"heads", NUMBER32, AT(model.heads), 1, 256, "attention heads (4)"},
	{"context", NUMBER32, AT(model.context), 2, 4096, "bytes looked at (64)"},
	{"batch", NUMBER64, AT(batch), 1, 65536, "sequences per step, of all ranks (12)"},
	{"rate", RATE, AT(rate), 0, 0, "learning rate (0.003)"},
	{"seed", NUMBER64, AT(seed), 0, UINT64_MAX, "of all random numbers (1)"},
	{"job", TEXT, AT(job), 0, 0, "name under which the state is kept (train_gpt)"},
	{"parity", NUMBER64, AT(parity), 0, 254, "nodes that may be lost (the library's default)"},
	{"every", NUMBER64, AT(every), 1, 1000000000, "steps from snapshot to snapshot (1)"},
	{"no-protect", CLEAR, AT(protect), 0, 0, "train without libftmem"},
	{"dump", TEXT, AT(dump), 0, 0, "write the final state into this file"},
	{"print", NUMBER64, AT(print), 0, 1000000000, "steps from line to line (10), 0: none"},
	{"quiet", SET, AT(quiet), 0, 0, "print only warnings and the result"},
	{"pause-ms", NUMBER64, AT(pause_ms), 0, 60000, "wait after each step (0)"},
	{"die-at", NUMBER64, AT(die_at), 0, 1000000000,
	 "kill --die-rank (SIGKILL) after this step"},
	{"die-rank", NUMBER64, AT(die_rank), 0, UINT32_MAX, "the rank to kill (0)"},
	{"help", SET, AT(help), 0, 0, "print this"},
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

void args_usage(void)
{
	printf("usage: mpirun -n RANKS train_gpt [options]\n\n"
	       "Trains a small transformer on a text. Its state is kept by libftmem: kill it,\n"
	       "run the same command again, and it goes on where it was, with the same number\n"
	       "of ranks or another.\n\n");
	for (size_t i = 0; i < ROWS; i++) {
		bool flag = rows[i].kind == SET || rows[i].kind == CLEAR;

		printf("  --%-10s %-5s %s\n", rows[i].name,
		       flag ? "" : rows[i].kind == TEXT ? "TEXT" : "N", rows[i].text);
	}
}

static const char *default_text(void)
{
	static const char *const files[] = {
		"/usr/share/common-licenses/GPL-3", "README.md", "../README.md",
	};

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (!access(files[i], R_OK))
			return files[i];
	return NULL;
}

static int number_parse(const char *value, uint64_t least, uint64_t most, uint64_t *out)
{
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(value, &end, 10);
	if (errno || end == value || *end || strchr(value, '-'))
		return -1;
	if (number < least || number > most)
		return -1;
	*out = number;
	return 0;
}

static int rate_parse(const char *value, double *out)
{
	char *end;
	double rate = strtod(value, &end);

	if (end == value || *end || !(rate > 0 && rate <= 1))
		return -1;
	*out = rate;
	return 0;
}

static int row_apply(const struct option_row *row, const char *value, struct args *out,
                     char *message, size_t bytes)
{
	char *member = (char *)out + row->at;
	uint64_t number = 0;

	switch (row->kind) {
	case NUMBER32:
	case NUMBER64:
		if (number_parse(value, row->least, row->most, &number)) {
			snprintf(message, bytes, "--%s: '%s' is not a number from %llu to %llu",
			         row->name, value, (unsigned long long)row->least,
			         (unsigned long long)row->most);
			return -1;
		}
		if (row->kind == NUMBER32)
			*(uint32_t *)(void *)member = (uint32_t)number;
		else
			*(uint64_t *)(void *)member = number;
		return 0;
	case RATE:
		if (!rate_parse(value, (double *)(void *)member))
			return 0;
		snprintf(message, bytes, "--%s: '%s' is not a number above 0, at most 1",
		         row->name, value);
		return -1;
	case TEXT:
		*(const char **)(void *)member = value;
		return 0;
	default:
		*(bool *)member = row->kind == SET;
		return 0;
	}
}

static int args_check(struct args *out, char *message, size_t bytes)
{
	if (out->help)
		return 0;
	if (out->model.dim % out->model.heads) {
		snprintf(message, bytes, "--dim: %u is not a multiple of --heads, %u",
		         out->model.dim, out->model.heads);
		return -1;
	}
	if (!out->text)
		out->text = default_text();
	if (!out->text) {
		snprintf(message, bytes, "no text found to learn: name one with --text FILE");
		return -1;
	}
	return 0;
}

int args_parse(struct args *out, int argc, char **argv, char *message, size_t bytes)
{
	struct option table[ROWS + 1];
	int which, index = 0;

	memset(table, 0, sizeof(table));
	for (size_t i = 0; i < ROWS; i++) {
		bool flag = rows[i].kind == SET || rows[i].kind == CLEAR;

		table[i].name = rows[i].name;
		table[i].has_arg = flag ? no_argument : required_argument;
	}
	*out = (struct args){
		.model = {.layers = 2, .dim = 64, .heads = 4, .context = 64},
		.batch = 12, .steps = 300, .seed = 1, .every = 1, .print = 10, .rate = 0.003,
		.job = "train_gpt", .protect = true,
	};
	opterr = 0; /* one rank speaks for all */
	while ((which = getopt_long(argc, argv, ":", table, &index)) != -1) {
		if (which == ':' || which == '?') {
			snprintf(message, bytes, "%s: %s; see --help", argv[optind - 1],
			         which == ':' ? "a value is missing" : "not understood");
			return -1;
		}
		if (row_apply(&rows[index], optarg, out, message, bytes))
			return -1;
	}
	if (optind < argc) {
		snprintf(message, bytes, "%s: not understood; see --help", argv[optind]);
		return -1;
	}
	return args_check(out, message, bytes);
}
