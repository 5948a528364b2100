/* SPDX-License-Identifier: BSD-3-Clause */
#include "args.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In parts, since a string may have 4095 characters. */
static const char options_help[] =
	"usage: mpirun [-n RANKS] ftmem_bench [OPTION]...\n"
	"\n"
	"Measures libftmem: what a snapshot, a restart and the loss of nodes cost, and\n"
	"the limits of the machine beside them. Every restored byte is compared.\n"
	"\n"
	"  --bytes SIZE          state of each rank, with K, M or G (1024-fold) behind\n"
	"                        the number (default 256M)\n"
	"  --parity M            nodes of a group that may be lost (default: the\n"
	"                        library's, FTMEM_PARITY or 1)\n"
	"  --group N             nodes that protect each other (default: the library's,\n"
	"                        FTMEM_GROUP_NODES or 8)\n"
	"  --ranks-per-node N    simulate nodes: ranks 0 .. N-1 are node 0, the next N\n"
	"                        are node 1, ... (default: nodes as launched, by host\n"
	"                        name or FTMEM_NODE)\n"
	"  --lose LIST           lose these nodes together, such as 0,2; none: measure no\n"
	"                        loss (default: every number of nodes from 1 to M, other\n"
	"                        ones in every repetition). Nodes are numbered by their\n"
	"                        lowest rank.\n"
	"  --repeat N            repetitions of each measurement, 1 to 999 (default 7)\n"
	"  --regions N           regions the state is cut into (default 8)\n"
	"  --replicas R          each R ranks have the same state, stored once in shares:\n"
	"                        what a rank stores, holds and sends must fall to 1/R of\n"
	"                        what it is without, measured before (default 1)\n"
	"  --compare             measure snapshots that compare replicas beside others\n"
	"  --with-load           measure what snapshots take from trainers beside them, one that\n"
	"                        computes and one that sums buffers over all ranks, without and\n"
	"                        with a ceiling on parity traffic\n"
	"  --reshape             measure restores into other boxes than were stored, and on\n"
	"                        one rank less; some need the state of all ranks on each\n"
	"  --json FILE           write the results as JSON too, - for standard output\n"
	"  --help                this text\n"
	"\n";

static const char results_help[] =
	"What is measured, each as median, min and max of the slowest rank's time:\n"
	"  call      host time of ftmem_snapshot()\n"
	"  copy      from the call until ftmem_fence() returned: state may be written\n"
	"  protect   from the call until ftmem_wait() returned: committed on all ranks\n"
	"  restore   ftmem_restore() after a restart with nothing lost\n"
	"  rebuild   ftmem_restore() after a restart with nodes lost: state back in\n"
	"            place and all redundancy whole again\n"
	"  open,     ftmem_open() and ftmem_seal(): at first, at a restart, and at a\n"
	"  seal      restart with nodes replaced\n"
	"  threads   processor time of the library's threads while nothing is under way,\n"
	"            and while a version waits for another rank\n"
	"A node is lost by closing the job and killing the node's ftmem-smp: its memory\n"
	"is gone. Ranks then start again into memory filled with garbage.\n"
	"\n"
	"With --reshape the state is tensors that are cut by rows. What is restored:\n"
	"  rows      what each rank stored; nothing moves\n"
	"  rotated   the rows that the rank before stored: all bytes move\n"
	"  columns, grid, whole    columns; tiles; all on each rank\n"
	"  fewer     rows on all ranks but the last\n"
	"\n"
	"With --with-load each trainer runs in turn alone and beside snapshots, each of which\n"
	"begins when the former has ended: the most that they can take. Printed are\n"
	"  alone, beside   time of a step without and with them\n"
	"  lost            the difference, as part of alone and for each snapshot\n"
	"  protect, fence  a snapshot, and what the trainer waited in ftmem_fence() for it\n"
	"  busy            part of the time in which one was under way\n"
	"\n"
	"Limits are measured at the library's block size with all ranks at once, one\n"
	"thread each, and given for all ranks together and for one:\n"
	"  memcpy    bytes copied as snapshots are, state to memory out of cache\n"
	"  encode    bytes of data read in cache to make one parity block of k out of it\n"
	"  checksum  bytes checked, in cache\n"
	"  verify    bytes checked, out of cache\n"
	"  mpi       bytes each rank sends from out of cache while it receives as many\n"
	"The floor is the time of a protect if each byte took exactly those:\n"
	"  (D/memcpy + (1+m+(m-1)/k)D/checksum + mD/mpi + mD/encode) / P\n"
	"with D bytes (with --replicas its share) and rates of one rank; P = CPUs per\n"
	"rank, at least 1, at most one more than the library's copy threads. Restores and\n"
	"rebuilds have floors of the same kind.\n"
	"\n"
	"Other options of the library are set by its environment variables (FTMEM_DIR,\n"
	"FTMEM_BLOCK_BYTES, FTMEM_WINDOW, FTMEM_COPY_THREADS, ...). Under mpirun pass\n"
	"them with -x. The job's name is unique to the run; it is dropped at the end.\n"
	"\n"
	"Example, four nodes simulated on this machine, two of which may be lost:\n"
	"  mpirun -n 4 --oversubscribe --bind-to none \\\n"
	"      ftmem_bench --ranks-per-node 1 --bytes 256M --parity 2 --json out.json\n"
	"\n"
	"Exit status: 0 measured and every byte right; 1 something failed, a byte was\n"
	"wrong, or shares are not 1/R within 1%; 2 bad option.\n";

const char *args_help(unsigned part)
{
	static const char *const parts[] = {options_help, results_help};

	return part < sizeof(parts) / sizeof(*parts) ? parts[part] : NULL;
}

static bool number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	unsigned long long v;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || *end || v < min || v > max)
		return false;
	*out = v;
	return true;
}

static bool size(const char *text, uint64_t *out)
{
	unsigned long long v;
	unsigned shift = 0;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno)
		return false;
	switch (toupper((unsigned char)*end)) {
	case 'G':
		shift += 10; /* fallthrough */
	case 'M':
		shift += 10; /* fallthrough */
	case 'K':
		shift += 10;
		end++;
	}
	if (*end || v == 0 || v > UINT64_C(1) << (50 - shift))
		return false;
	*out = (uint64_t)v << shift;
	return true;
}

static bool node_list(const char *text, struct args *a)
{
	const char *next = text;

	a->lose_given = true;
	a->lose_count = 0;
	if (strcmp(text, "none") == 0)
		return true;
	while (next) {
		char item[16];
		uint64_t node;
		size_t len = strcspn(next, ",");

		if (len >= sizeof(item) || a->lose_count == ARGS_LOSE_MAX)
			return false;
		memcpy(item, next, len);
		item[len] = '\0';
		if (!number(item, 0, UINT32_MAX - 1, &node))
			return false;
		for (uint32_t i = 0; i < a->lose_count; i++)
			if (a->lose[i] == node)
				return false;
		a->lose[a->lose_count++] = (uint32_t)node;
		next = next[len] ? next + len + 1 : NULL;
	}
	return true;
}

enum option_id { BYTES = 1, PARITY, GROUP, RANKS_PER_NODE, LOSE, REPEAT, REGIONS, REPLICAS,
                 COMPARE, WITH_LOAD, RESHAPE, JSON, HELP };

static const struct option options[] = {
	{"bytes", required_argument, NULL, BYTES},
	{"parity", required_argument, NULL, PARITY},
	{"group", required_argument, NULL, GROUP},
	{"ranks-per-node", required_argument, NULL, RANKS_PER_NODE},
	{"lose", required_argument, NULL, LOSE},
	{"repeat", required_argument, NULL, REPEAT},
	{"regions", required_argument, NULL, REGIONS},
	{"replicas", required_argument, NULL, REPLICAS},
	{"compare", no_argument, NULL, COMPARE},
	{"with-load", no_argument, NULL, WITH_LOAD},
	{"reshape", no_argument, NULL, RESHAPE},
	{"json", required_argument, NULL, JSON},
	{"help", no_argument, NULL, HELP},
	{NULL, 0, NULL, 0},
};

/* Options that are a number, and where it goes. */
static const struct {
	enum option_id id;
	uint64_t min, max;
	size_t at;
	const char *takes;
} numbers[] = {
	{PARITY, 1, 63, offsetof(struct args, parity), "1 to 63 nodes"},
	{GROUP, 2, 64, offsetof(struct args, group), "2 to 64 nodes"},
	{RANKS_PER_NODE, 1, 1 << 20, offsetof(struct args, ranks_per_node), "1 or more ranks"},
	{REPEAT, 1, ARGS_REPEAT_MAX, offsetof(struct args, repeat), "1 to 999 repetitions"},
	{REGIONS, 1, 100000, offsetof(struct args, regions), "1 to 100000 regions"},
	{REPLICAS, 1, 100000, offsetof(struct args, replicas), "1 to 100000 ranks"},
};

static const char *take_number(struct args *a, int option, const char *value)
{
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		uint64_t v;

		if ((int)numbers[i].id != option)
			continue;
		if (!number(value, numbers[i].min, numbers[i].max, &v))
			return numbers[i].takes;
		*(uint32_t *)(void *)((char *)a + numbers[i].at) = (uint32_t)v;
	}
	return NULL;
}

/* NULL, or what the option takes. */
static const char *take(struct args *a, int option, const char *value)
{
	switch (option) {
	case BYTES:
		return size(value, &a->bytes) ? NULL : "1 byte to 1048576G, as 64M or 1G";
	case LOSE:
		return node_list(value, a) ? NULL
		                           : "up to 64 different node numbers, as 0,2, or none";
	case COMPARE:
		a->compare = true;
		return NULL;
	case WITH_LOAD:
		a->with_load = true;
		return NULL;
	case RESHAPE:
		a->reshape = true;
		return NULL;
	case JSON:
		a->json = value;
		return *value ? NULL : "the name of a file, or -";
	default:
		return take_number(a, option, value);
	}
}

enum args_result args_parse(int argc, char **argv, struct args *out, char *text, size_t bytes)
{
	struct args a = {.bytes = UINT64_C(256) << 20, .regions = 8, .repeat = 7, .replicas = 1};
	int option;

	opterr = 0;
	optind = 1;
	while ((option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		const char *takes;

		if (option == HELP)
			return ARGS_HELP;
		if (option == '?' || option == ':') {
			snprintf(text, bytes, "%s %s; see --help", argv[optind - 1],
			         option == ':' ? "needs a value" : "is no option");
			return ARGS_WRONG;
		}
		takes = take(&a, option, optarg);
		if (takes) {
			snprintf(text, bytes, "--%s takes %s, not \"%s\"",
			         options[option - 1].name, takes, optarg);
			return ARGS_WRONG;
		}
	}
	if (optind < argc) {
		snprintf(text, bytes, "%s is no option; see --help", argv[optind]);
		return ARGS_WRONG;
	}
	if (a.compare && a.replicas < 2) {
		snprintf(text, bytes, "--compare needs --replicas 2 or more");
		return ARGS_WRONG;
	}
	if (a.regions > a.bytes)
		a.regions = (uint32_t)a.bytes;
	*out = a;
	return ARGS_RUN;
}
