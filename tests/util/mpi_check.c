/* SPDX-License-Identifier: BSD-3-Clause */
#include "mpi_check.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ftmem.h"
#include "test_env.h"
#include "test_random.h"

#define LINES      48
#define LINE_BYTES 400

/* After so long without a note a case counts as hung. */
#define PATIENCE_S       100
#define PATIENCE_QUICK_S 300

static struct {
	int rank, size;
	uint64_t seed;
	const char *name;
	char note[512];
	pthread_mutex_t lock; /* of what follows */
	char line[LINES][LINE_BYTES];
	uint32_t lines;
} check = {.name = "start", .lock = PTHREAD_MUTEX_INITIALIZER};

uint32_t check_rank(void)
{
	return (uint32_t)check.rank;
}

uint32_t check_size(void)
{
	return (uint32_t)check.size;
}

bool check_quick(void)
{
	return test_quick();
}

bool check_full(void)
{
	return test_full();
}

uint64_t check_seed(void)
{
	return check.seed;
}

static void show_lines(FILE *out)
{
	uint32_t first = check.lines > LINES ? check.lines - LINES : 0;

	pthread_mutex_lock(&check.lock);
	for (uint32_t i = first; i < check.lines; i++)
		fprintf(out, "  [%d] %s\n", check.rank, check.line[i % LINES]);
	pthread_mutex_unlock(&check.lock);
}

void check_failed(const char *file, int line, const char *fmt, ...)
{
	char text[8192];
	const char *base = strrchr(file, '/');
	va_list args;
	int at;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text) / 2, fmt, args);
	va_end(args);
	at = (int)strlen(text);
	snprintf(text + at, sizeof(text) - (size_t)at,
	         "\n  case: %s; %s\n  seed: FTMEM_TEST_SEED=%llu\n  last message: %s", check.name,
	         check.note, (unsigned long long)check.seed, ftmem_errmsg());
	fprintf(stderr, "FAILED on rank %d: %s:%d: %s\n", check.rank, base ? base + 1 : file, line,
	        text);
	show_lines(stderr);
	fflush(stderr);
	fflush(stdout);
	MPI_Abort(MPI_COMM_WORLD, 1);
	_exit(1);
}

/* Only what may be done in a signal handler. */
static void on_alarm(int signal)
{
	char text[1024];
	size_t at = 0;
	const char *part[] = {"FAILED: hung in case ", check.name, "; ", check.note, "\n"};

	(void)signal;
	for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++) {
		size_t n = strlen(part[i]);

		if (at + n > sizeof(text))
			break;
		memcpy(text + at, part[i], n);
		at += n;
	}
	if (write(STDERR_FILENO, text, at) < 0)
		_exit(3);
	_exit(2);
}

static void be_patient(void)
{
	alarm(check_quick() ? PATIENCE_QUICK_S : PATIENCE_S);
}

void check_note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(check.note, sizeof(check.note), fmt, args);
	va_end(args);
	if (getenv("FTMEM_TEST_VERBOSE") && check.rank == 0) {
		fprintf(stderr, "-- %s\n", check.note);
		fflush(stderr);
	}
	be_patient();
}

void check_say(const char *fmt, ...)
{
	va_list args;

	if (check.rank != 0)
		return;
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
}

void check_not_tried(const char *what, const char *why)
{
	CHECK_MSG(!test_requires_all(), "%s: %s, and FTMEM_REQUIRE_ALL is set", what, why);
	check_say("NOT TRIED: %s: %s", what, why);
}

void check_result(const char *file, int line, const char *call, int got, int want)
{
	if (got != want)
		check_failed(file, line, "%s gave %d (%s), not %d (%s)", call, got,
		             ftmem_strerror(got), want, ftmem_strerror(want));
}

void check_message(const char *file, int line, const char *part)
{
	if (!strstr(ftmem_errmsg(), part))
		check_failed(file, line, "the message does not contain \"%s\"", part);
}

/* --- among ranks --- */

static void await(MPI_Request *request)
{
	const struct timespec pause = {0, 500000};
	int done = 0;

	for (int i = 0; !done; i++) {
		MPI_Test(request, &done, MPI_STATUS_IGNORE);
		if (!done && i > 20)
			nanosleep(&pause, NULL);
	}
}

void check_barrier(MPI_Comm comm)
{
	MPI_Request request;

	MPI_Ibarrier(comm, &request);
	await(&request);
}

uint64_t check_max(MPI_Comm comm, uint64_t value)
{
	MPI_Request request;
	uint64_t max = value;

	MPI_Iallreduce(&value, &max, 1, MPI_UINT64_T, MPI_MAX, comm, &request);
	await(&request);
	return max;
}

bool check_same(MPI_Comm comm, uint64_t value)
{
	return check_max(comm, value) == value && check_max(comm, ~value) == ~value;
}

/* --- the library's lines --- */

void check_log(void *arg, int level, const char *line)
{
	(void)arg;
	if (getenv("FTMEM_TEST_VERBOSE"))
		fprintf(stderr, "  [%d] %d %s\n", check.rank, level, line);
	pthread_mutex_lock(&check.lock);
	snprintf(check.line[check.lines++ % LINES], LINE_BYTES, "%d %s", level, line);
	pthread_mutex_unlock(&check.lock);
}

bool check_logged(const char *part)
{
	bool found = false;

	pthread_mutex_lock(&check.lock);
	for (uint32_t i = 0; i < check.lines && i < LINES; i++)
		found = found || strstr(check.line[i], part);
	pthread_mutex_unlock(&check.lock);
	return found;
}

void check_log_forget(void)
{
	pthread_mutex_lock(&check.lock);
	check.lines = 0;
	pthread_mutex_unlock(&check.lock);
}

/* --- life --- */

void check_init(int *argc, char ***argv)
{
	int done = 0, level = 0;

	signal(SIGALRM, on_alarm);
	be_patient();
	MPI_Initialized(&done);
	if (!done)
		MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &level);
	MPI_Comm_rank(MPI_COMM_WORLD, &check.rank);
	MPI_Comm_size(MPI_COMM_WORLD, &check.size);
	if (check.rank == 0) {
		const char *base = strrchr((*argv)[0], '/');

		check.seed = test_random_seed(base ? base + 1 : (*argv)[0]);
	}
	MPI_Bcast(&check.seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int check_run(const struct check_case *cases, size_t count)
{
	const char *only = getenv("FTMEM_TEST_CASE");

	for (size_t i = 0; i < count; i++) {
		double begin = seconds();

		if (only && !strstr(cases[i].name, only))
			continue;
		check.name = cases[i].name;
		check_log_forget();
		check_note("begins");
		cases[i].run();
		check_note("ends");
		check_barrier(MPI_COMM_WORLD);
		check_say("ok %s (%.1f s)", cases[i].name, seconds() - begin);
	}
	MPI_Finalize();
	return 0;
}
