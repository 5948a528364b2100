/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A trainer that can tell whether what it gets back is right. Its state is a chain:
 * each step mixes the step's number and the run's into every word, so that no state of
 * one run equals one of another. Before each snapshot it writes the digest of its
 * state to a folder; after a restore all ranks must hold a state of one and the same
 * run and step, whose digests all ranks had written, and the library's arena must hold
 * that version, whole, and nothing else.
 *
 *   <folder>/digest.<run>.<version>.<rank>   written before the snapshot is asked for
 *   <folder>/committed.<rank>                a line "version run", once it is known
 *   <folder>/result.<run>.<rank>             "restored VERSION" or "restored fresh"
 *   <folder>/failed.<run>.<rank>             with --farewell, when the library failed: what
 *                                            it said, when (of CLOCK_MONOTONIC), then "closed"
 *                                            after ftmem_close()
 *   <folder>/wrong                           what must never be (status 4 or 6)
 *
 * With --prove, after the restore and after the last step, the memory of every set of nodes
 * that parity covers, so many of each group, is spoilt in turn: what is stored must come back
 * each time.
 *
 * With --repair VERSION, rank 1's memory of that version is spoilt once it is committed, and
 * ftmem_repair() called.
 *
 * Exit status: 0 all done, 2 usage, 3 the library failed, 4 wrong state, 5 too much is
 * lost, 6 redundancy is not what was promised.
 */
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checksum.h"
#include "clock.h"
#include "fault.h"
#include "fault_trainer.h"

#define SETTLE_MS 60000
#define PATH_ROOM 512

static const char *const region_name[REGIONS] = {"weights", "moments", "odd", "small", "late"};
#define LATE (REGIONS - 1)

static void append(const struct trainer *t, const char *file, const char *line);
static void hold(const struct trainer *t);

void quit(const struct trainer *t, enum status status, const char *fmt, ...)
{
	char text[1200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	fprintf(stderr, "trainer: rank %d: %s\n", t->rank, text);
	if (status == WRONG || status == NOT_WHOLE)
		append(t, "wrong", text);
	/* Not exit(): MPI would wait for the others. */
	_exit((int)status);
}

/* Closing must come to its end, too, while peers are out of reach. The first rank to exit
 * makes the launcher end the others: --hold keeps it. */
static void say_farewell(const struct trainer *t, int rc, const char *what)
{
	char file[64], line[1200];
	uint64_t begin;

	snprintf(file, sizeof(file), "failed.%" PRIu64 ".%d", t->run, t->rank);
	snprintf(line, sizeof(line), "%s: %s: %s", what, ftmem_strerror(rc), ftmem_errmsg());
	append(t, file, line);
	begin = clock_ns();
	snprintf(line, sizeof(line), "told at %" PRIu64 " ns", begin);
	append(t, file, line);
	ftmem_close(t->ft);
	snprintf(line, sizeof(line), "closed in %" PRIu64 " ms", (clock_ns() - begin) / 1000000u);
	append(t, file, line);
	hold(t);
}

int check(const struct trainer *t, int rc, const char *what)
{
	if (rc < 0 && t->farewell)
		say_farewell(t, rc, what);
	if (rc < 0)
		quit(t, rc == FTMEM_ELOST ? LOST : FAILED, "%s: %s: %s", what, ftmem_strerror(rc),
		     ftmem_errmsg());
	return rc;
}

/* --- the state --- */

static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static void state_init(struct trainer *t)
{
	for (int r = 0; r < REGIONS; r++)
		for (uint64_t i = 0; i < t->words[r]; i++)
			t->region[r][i] = mix(((uint64_t)t->rank << 48) ^ ((uint64_t)r << 40) ^ i);
	t->head = (struct head){0};
}

/* Not zero, so that a region that nobody filled shows. */
void state_poison(struct trainer *t)
{
	for (int r = 0; r < REGIONS; r++)
		memset(t->region[r], 0xee, t->words[r] * sizeof(uint64_t));
	memset(&t->head, 0xee, sizeof(t->head));
}

static void state_step(struct trainer *t)
{
	uint64_t salt = mix(++t->head.step ^ (t->run << 32));

	t->head.run = t->run;
	for (int r = 0; r < REGIONS; r++)
		for (uint64_t i = 0; i < t->words[r]; i++)
			t->region[r][i] = (t->region[r][i] ^ salt) * UINT64_C(0x2545f4914f6cdd1d)
			                  + i;
}

static int regions(const struct trainer *t)
{
	return t->head.grown ? REGIONS : LATE;
}

/* Bytes of a region: not a whole number of words or blocks. */
static uint64_t region_bytes(const struct trainer *t, int r)
{
	return t->words[r] * sizeof(uint64_t) - (r == 2 ? 3 : 0);
}

static uint64_t state_digest(const struct trainer *t)
{
	uint64_t digest = digest_more(DIGEST_INIT, &t->head, sizeof(t->head));

	for (int r = 0; r < regions(t); r++)
		digest = digest_more(digest, t->region[r], region_bytes(t, r));
	return digest;
}

static void state_alloc(struct trainer *t)
{
	/* Different on every rank; the last rank's is a single word but for the head. */
	uint64_t scale = t->rank == t->ranks - 1 && t->ranks > 2 ? 0 : t->bytes / sizeof(uint64_t);

	t->words[0] = 1 + scale / 2 + (scale ? (uint64_t)t->rank * 513 : 0);
	t->words[1] = 1 + scale / 4;
	t->words[2] = 1 + scale / 5;
	t->words[3] = 1;
	t->words[LATE] = 1 + scale / 8;
	for (int r = 0; r < REGIONS; r++) {
		t->region[r] = malloc(t->words[r] * sizeof(uint64_t));
		if (!t->region[r])
			quit(t, FAILED, "no memory");
	}
}

/* --- the folder --- */

static void append(const struct trainer *t, const char *file, const char *line)
{
	char path[PATH_ROOM];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", t->folder, file);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || dprintf(fd, "%s\n", line) < 0)
		quit(t, FAILED, "cannot write %s", path);
	close(fd);
}

static void digest_record(const struct trainer *t)
{
	char file[96], line[32];

	snprintf(file, sizeof(file), "digest.%" PRIu64 ".%" PRIu64 ".%d", t->head.run, t->head.step,
	         t->rank);
	snprintf(line, sizeof(line), "%016" PRIx64, state_digest(t));
	append(t, file, line);
}

/* Whether rank recorded a state of that run and version. */
static bool digest_find(const struct trainer *t, uint64_t run, uint64_t version, int rank,
                        uint64_t *digest)
{
	char path[PATH_ROOM];
	bool found;
	FILE *file;

	snprintf(path, sizeof(path), "%s/digest.%" PRIu64 ".%" PRIu64 ".%d", t->folder, run,
	         version, rank);
	file = fopen(path, "re");
	if (!file)
		return false;
	found = fscanf(file, "%" SCNx64, digest) == 1;
	fclose(file);
	return found;
}

static void note_committed(struct trainer *t, uint64_t version)
{
	char file[64], line[64];

	if (version <= t->noted)
		return;
	t->noted = version;
	snprintf(file, sizeof(file), "committed.%d", t->rank);
	snprintf(line, sizeof(line), "%" PRIu64 " %" PRIu64, version, t->run);
	append(t, file, line);
}

/* --- what a restore must give --- */

void check_state(struct trainer *t)
{
	uint64_t mine[2] = {t->head.step, t->head.run}, least[2], most[2], digest = 0;

	MPI_Allreduce(mine, least, 2, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD);
	MPI_Allreduce(mine, most, 2, MPI_UINT64_T, MPI_MAX, MPI_COMM_WORLD);
	if (memcmp(least, most, sizeof(least)) != 0)
		quit(t, WRONG,
		     "ranks got different states: steps %" PRIu64 " to %" PRIu64 ", runs %" PRIu64
		     " to %" PRIu64,
		     least[0], most[0], least[1], most[1]);
	if (t->head.step != t->restored)
		quit(t, WRONG,
		     "version %" PRIu64 " was restored, but the state is of step %" PRIu64,
		     t->restored, t->head.step);
	for (int i = 0; i < t->ranks; i++)
		if (!digest_find(t, t->head.run, t->head.step, i, &digest))
			quit(t, WRONG,
			     "version %" PRIu64 " of run %" PRIu64 " was never asked for by rank "
			     "%d",
			     t->head.step, t->head.run, i);
	digest_find(t, t->head.run, t->head.step, t->rank, &digest);
	if (digest != state_digest(t))
		quit(t, WRONG, "version %" PRIu64 ": the state differs from what was snapshotted",
		     t->head.step);
}

/* --- the library --- */

static void add_region(struct trainer *t, const char *name, void *addr, uint64_t bytes)
{
	struct ftmem_region r = FTMEM_REGION_INIT;

	r.name = name;
	r.addr = addr;
	r.bytes = bytes;
	check(t, ftmem_region_add(t->ft, &r), "ftmem_region_add");
}

static void protect(struct trainer *t)
{
	struct ftmem_opts opts = FTMEM_OPTS_INIT;

	opts.job = t->job;
	opts.node = t->node[t->rank];
	opts.parity = t->parity;
	opts.group_nodes = t->group_nodes;
	opts.block_bytes = 16384;
	opts.timeout_ms = t->timeout_ms;
	check(t, ftmem_open(&opts, &t->ft), "ftmem_open");
	add_region(t, "head", &t->head, sizeof(t->head));
	for (int r = 0; r < LATE; r++)
		add_region(t, region_name[r], t->region[r], region_bytes(t, r));
	if (t->grow)
		add_region(t, region_name[LATE], t->region[LATE], region_bytes(t, LATE));
	check(t, ftmem_seal(t->ft), "ftmem_seal");
}

int restore(struct trainer *t)
{
	int rc = FTMEM_ESMP;

	for (int i = 0; rc == FTMEM_ESMP && i < TRIES; i++) {
		rc = ftmem_restore(t->ft, &t->restored);
		if (rc == FTMEM_ESMP)
			fprintf(stderr, "trainer: rank %d: once more after: %s\n", t->rank,
			        ftmem_errmsg());
	}
	return rc;
}

static void resume(struct trainer *t)
{
	char file[64], line[96];
	int rc;

	state_poison(t);
	rc = restore(t);
	/* What is stored may be older than the region that came late. */
	if (rc == FTMEM_ELAYOUT && t->grow) {
		check(t, ftmem_region_remove(t->ft, region_name[LATE]), "ftmem_region_remove");
		check(t, ftmem_seal(t->ft), "ftmem_seal");
		rc = restore(t);
		if (rc == 0 && t->head.grown)
			quit(t, WRONG, "a region was refused that is stored");
	}
	t->fresh = check(t, rc, "ftmem_restore") == FTMEM_FRESH;
	if (t->fresh) {
		state_init(t);
		t->restored = 0;
		if (t->grow) {
			check(t, ftmem_region_remove(t->ft, region_name[LATE]),
			      "ftmem_region_remove");
			check(t, ftmem_seal(t->ft), "ftmem_seal");
		}
	} else {
		check_state(t);
	}
	whole_check(t);
	/* A late region that is not stored begins anew. */
	for (uint64_t i = 0; !t->head.grown && i < t->words[LATE]; i++)
		t->region[LATE][i] = i;
	snprintf(file, sizeof(file), "result.%" PRIu64 ".%d", t->run, t->rank);
	if (t->fresh)
		snprintf(line, sizeof(line), "restored fresh");
	else
		snprintf(line, sizeof(line), "restored %" PRIu64, t->restored);
	append(t, file, line);
}

/* For the reader of a failed test. */
static void note_stats(struct trainer *t)
{
	struct ftmem_stats stats = FTMEM_STATS_INIT;
	char file[64], line[128];

	check(t, ftmem_stats(t->ft, &stats), "ftmem_stats");
	snprintf(file, sizeof(file), "result.%" PRIu64 ".%d", t->run, t->rank);
	snprintf(line, sizeof(line), "committed %" PRIu64 " dropped %" PRIu64 " skipped %" PRIu64,
	         stats.committed, stats.dropped, stats.skipped);
	append(t, file, line);
}

static void grow(struct trainer *t)
{
	t->head.grown = 1;
	add_region(t, region_name[LATE], t->region[LATE], region_bytes(t, LATE));
	check(t, ftmem_seal(t->ft), "ftmem_seal");
}

static void train(struct trainer *t)
{
	uint64_t first = t->head.step + 1, last = t->head.step + t->steps;

	for (uint64_t v = first; v <= last; v++) {
		int rc;

		check(t, ftmem_fence(t->ft, NULL), "ftmem_fence");
		if (t->grow && !t->head.grown && v > t->grow)
			grow(t);
		/* As the gradients' reduction does. Waiting for a version does it too. */
		if (t->async)
			MPI_Barrier(MPI_COMM_WORLD);
		state_step(t);
		digest_record(t);
		rc = check(t, ftmem_snapshot(t->ft, v, NULL), "ftmem_snapshot");
		if (t->step_ms)
			clock_sleep((uint64_t)t->step_ms * 1000000u);
		for (uint64_t w = t->async ? v - 1 : v; w >= first && w <= v; w++) {
			rc = ftmem_wait(t->ft, w, t->async ? 0 : t->wait_ms);
			if (rc == 0)
				note_committed(t, w);
			else if (rc != FTMEM_ETIMEOUT || !t->async)
				check(t, rc, "ftmem_wait");
		}
		if (v == t->repair)
			whole_repair(t, v);
	}
	if (last >= first)
		check(t, ftmem_wait(t->ft, last, t->wait_ms), "ftmem_wait");
	/* Also those that were committed when nobody looked any more. */
	for (uint64_t w = t->noted < first ? first : t->noted + 1; w <= last; w++)
		if (ftmem_wait(t->ft, w, 0) == 0)
			note_committed(t, w);
}

/* Where ftmem-smp was killed, until every rank of the node has handed its memory to
 * another one. */
static void settle(struct trainer *t)
{
	uint64_t deadline = clock_deadline(SETTLE_MS);
	int killed = fault_killed_smp() ? t->rank : -1, who;

	MPI_Allreduce(&killed, &who, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
	if (who >= 0 && strcmp(t->node[who], t->node[t->rank]) == 0) {
		bool held;

		while (!(held = whole_held(t)) && clock_ns() < deadline)
			clock_sleep(20000000);
		if (!held)
			quit(t, NOT_WHOLE, "no ftmem-smp has taken the memory over");
	}
	MPI_Barrier(MPI_COMM_WORLD);
}

static void hold(const struct trainer *t)
{
	char path[PATH_ROOM], line[64];

	if (!t->hold)
		return;
	snprintf(line, sizeof(line), "holding %d", getpid());
	snprintf(path, sizeof(path), "holding.%d", t->rank);
	append(t, path, line);
	snprintf(path, sizeof(path), "%s/%s", t->folder, t->hold);
	while (access(path, F_OK) != 0)
		clock_sleep(10000000);
}

/* --- arguments --- */

static void parse(struct trainer *t, int argc, char **argv)
{
	static const struct option options[] = {
		{"folder", required_argument, NULL, 'f'},
		{"job", required_argument, NULL, 'j'},
		{"run", required_argument, NULL, 'r'},
		{"steps", required_argument, NULL, 's'},
		{"nodes", required_argument, NULL, 'n'},
		{"parity", required_argument, NULL, 'p'},
		{"group-nodes", required_argument, NULL, 'G'},
		{"bytes", required_argument, NULL, 'b'},
		{"timeout-ms", required_argument, NULL, 't'},
		{"grow", required_argument, NULL, 'g'},
		{"async", no_argument, NULL, 'a'},
		{"hold", required_argument, NULL, 'h'},
		{"step-ms", required_argument, NULL, 'w'},
		{"wait-ms", required_argument, NULL, 'v'},
		{"farewell", no_argument, NULL, 'e'},
		{"prove", no_argument, NULL, 'o'},
		{"repair", required_argument, NULL, 'R'},
		{NULL, 0, NULL, 0},
	};
	int c, count = 0;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'f': t->folder = optarg; break;
		case 'j': t->job = optarg; break;
		case 'h': t->hold = optarg; break;
		case 'n': t->nodes = optarg; break;
		case 'a': t->async = true; break;
		case 'e': t->farewell = true; break;
		case 'o': t->prove = true; break;
		case 'R': t->repair = strtoull(optarg, NULL, 10); break;
		case 'r': t->run = strtoull(optarg, NULL, 10); break;
		case 's': t->steps = strtoull(optarg, NULL, 10); break;
		case 'g': t->grow = strtoull(optarg, NULL, 10); break;
		case 'b': t->bytes = strtoull(optarg, NULL, 10); break;
		case 'p': t->parity = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'G': t->group_nodes = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 't': t->timeout_ms = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'w': t->step_ms = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'v': t->wait_ms = (uint32_t)strtoul(optarg, NULL, 10); break;
		default: quit(t, USAGE, "unknown option");
		}
	}
	if (t->wait_ms == 0)
		t->wait_ms = t->timeout_ms;
	for (char *rest = t->nodes, *one; rest && (one = strtok_r(rest, ",", &rest)); count++)
		if (count < RANKS_MAX)
			t->node[count] = one;
	if (!t->folder || count != t->ranks)
		quit(t, USAGE, "needs --folder, and --nodes with a name for each of %d ranks",
		     t->ranks);
}

int main(int argc, char **argv)
{
	static struct trainer t = {
		.job = "fault", .parity = 1, .timeout_ms = 15000, .bytes = 400000, .run = 1};
	int provided = 0;

	MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
	MPI_Comm_rank(MPI_COMM_WORLD, &t.rank);
	MPI_Comm_size(MPI_COMM_WORLD, &t.ranks);
	parse(&t, argc, argv);
	fault_start(t.folder, (uint32_t)t.rank, (uint32_t)t.ranks, t.node[t.rank]);
	MPI_Barrier(MPI_COMM_WORLD);
	state_alloc(&t);
	protect(&t);
	resume(&t);
	whole_prove(&t);
	train(&t);
	settle(&t);
	whole_prove(&t);
	note_stats(&t);
	hold(&t);
	ftmem_close(t.ft);
	MPI_Finalize();
	for (int r = 0; r < REGIONS; r++)
		free(t.region[r]);
	return DONE;
}
