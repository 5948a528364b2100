/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Test programs that run under mpirun. Any check that fails on any rank says which
 * rank, which case, what was being tried and the seed, shows the last lines that
 * libftmem logged there, and ends the whole run. A case that hangs is ended the same
 * way after a while.
 *
 *   FTMEM_TEST_CASE=NAME   runs the cases whose name contains NAME alone
 *   FTMEM_TEST_SEED=NUMBER the seed of a former run
 *   FTMEM_TEST_QUICK=1     a selection, for builds with sanitizers
 *   FTMEM_TEST_FULL=1      many times as much, where a program has random rounds
 *   FTMEM_REQUIRE_ALL=1    what cannot be tried here is a failure
 */
#ifndef FTMEM_TEST_MPI_CHECK_H
#define FTMEM_TEST_MPI_CHECK_H

#include <mpi.h>

#include <stdbool.h>
#include <stdint.h>

struct check_case {
	const char *name;
	void (*run)(void);
};

/* Initialises MPI unless it is already, and agrees on the seed. */
void check_init(int *argc, char ***argv);
/* Runs the cases in order on all ranks and finalises MPI. Returns the exit status. */
int check_run(const struct check_case *cases, size_t count);
#define CHECK_RUN(cases) check_run(cases, sizeof(cases) / sizeof((cases)[0]))

uint32_t check_rank(void);
uint32_t check_size(void);
bool check_quick(void);
bool check_full(void);
/* The same on all ranks; differs from case to case. */
uint64_t check_seed(void);

/* What is being tried now, shown when something fails; gives it more time. */
void check_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* On rank 0: a line that stays even if nothing fails. */
void check_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same, of what cannot be tried here. With FTMEM_REQUIRE_ALL a failure. */
void check_not_tried(const char *what, const char *why);

_Noreturn void check_failed(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition))                                                                  \
			check_failed(__FILE__, __LINE__, "%s", #condition);                        \
	} while (0)
#define CHECK_MSG(condition, ...)                                                                  \
	do {                                                                                       \
		if (!(condition))                                                                  \
			check_failed(__FILE__, __LINE__, __VA_ARGS__);                             \
	} while (0)
/* A call of the library gives this result. */
#define CHECK_RESULT(call, want) check_result(__FILE__, __LINE__, #call, call, want)
void check_result(const char *file, int line, const char *call, int got, int want);
/* The thread's last message contains this. */
#define CHECK_MESSAGE(part) check_message(__FILE__, __LINE__, part)
void check_message(const char *file, int line, const char *part);

/* Waits for all ranks of comm without using up the core that others need. */
void check_barrier(MPI_Comm comm);
/* Whether a value is the same on all ranks of comm. */
bool check_same(MPI_Comm comm, uint64_t value);
uint64_t check_max(MPI_Comm comm, uint64_t value);

/* For ftmem_opts.log: keeps the last lines. */
void check_log(void *arg, int level, const char *line);
/* Whether one of the kept lines contains part. */
bool check_logged(const char *part);
void check_log_forget(void);

#endif
