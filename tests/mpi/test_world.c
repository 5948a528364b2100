/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ftmem_world(): 3 ranks, of one machine or as if they were of two. Linked with
 * --wrap=gethostname,--wrap=bind.
 */
#include "cluster.h"
#include "error.h"
#include "mpi_check.h"

#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int __real_gethostname(char *name, size_t bytes);
int __real_bind(int fd, const struct sockaddr *at, socklen_t bytes);
int __wrap_gethostname(char *name, size_t bytes);
int __wrap_bind(int fd, const struct sockaddr *at, socklen_t bytes);

static bool name_fails, bind_fails;
static const char *host; /* NULL: as it is */

int __wrap_gethostname(char *name, size_t bytes);
int __wrap_bind(int fd, const struct sockaddr *at, socklen_t bytes);

static bool name_fails, bind_fails;
static const char *host; /* NULL: as it is */

int __wrap_gethostname(char *name, size_t bytes)
{
	if (name_fails) {
		errno = EFAULT;
		return -1;
	}
	if (!host)
		return __real_gethostname(name, bytes);
	strncpy(name, host, bytes);
	return 0;
}

int __wrap_bind(int fd, const struct sockaddr *at, socklen_t bytes)
{
	if (bind_fails && at->sa_family == AF_INET) {
		errno = EADDRNOTAVAIL;
		return -1;
	}
	return __real_bind(fd, at, bytes);
}

static struct ftmem_world ask(void)
{
	struct ftmem_world w = FTMEM_WORLD_INIT;

	CHECK_RESULT(ftmem_world(&w), 0);
	CHECK(w.size == sizeof(w) && w.rank == check_rank() && w.ranks == check_size());
	CHECK(w.port >= 1024 && w.port < 65536 && check_same(MPI_COMM_WORLD, w.port));
	return w;
}

/* It is not only told but can be bound. */
static void bind_port(uint32_t port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	CHECK(fd >= 0);
	CHECK_MSG(__real_bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0, "port %u: %s", port,
	          strerror(errno));
	close(fd);
}

static void each_rank_hears_where_it_is(void)
{
	struct ftmem_world w = ask();

	CHECK(w.local_rank == check_rank() && w.local_ranks == check_size());
	CHECK(strcmp(w.host, "127.0.0.1") == 0);
	if (check_rank() == 0)
		bind_port(w.port);
	check_barrier(MPI_COMM_WORLD);
	ask();
}

static void ranks_of_two_machines_hear_the_name_of_the_first(void)
{
	static char longest[301];
	struct ftmem_world w;

	host = check_rank() == 1 ? "other.example" : "first.example";
	w = ask();
	CHECK(w.local_rank == check_rank() / 2 && w.local_ranks == (check_rank() == 1 ? 1 : 2));
	CHECK_MSG(strcmp(w.host, "first.example") == 0, "host %s", w.host);
	memset(longest, 'h', sizeof(longest) - 1);
	host = check_rank() == 1 ? "other.example" : longest;
	w = ask();
	CHECK(strlen(w.host) == sizeof(w.host) - 1);
	host = NULL;
}

static void what_fails_on_one_rank_fails_on_all(void)
{
	struct ftmem_world w = FTMEM_WORLD_INIT, untouched = w;

	name_fails = check_rank() == 1;
	CHECK_RESULT(ftmem_world(&w), FTMEM_ESYS);
	CHECK_MESSAGE(name_fails ? "name of this machine" : "rank 1");
	name_fails = false;
	bind_fails = check_rank() == 0;
	CHECK_RESULT(ftmem_world(&w), FTMEM_ESYS);
	CHECK_MESSAGE(bind_fails ? "free port" : "rank 0");
	bind_fails = false;
	if (check_rank() == 2)
		setenv("FTMEM_TIMEOUT_MS", "soon", 1);
	CHECK_RESULT(ftmem_world(&w), FTMEM_EINVAL);
	CHECK_MESSAGE(check_rank() == 2 ? "FTMEM_TIMEOUT_MS is \"soon\"" : "rank 2");
	unsetenv("FTMEM_TIMEOUT_MS");
	CHECK(memcmp(&w, &untouched, sizeof(w)) == 0);
	ask();
}

static void a_caller_gets_as_much_as_its_struct_has(void)
{
	struct ftmem_world w = FTMEM_WORLD_INIT;

	w.size = offsetof(struct ftmem_world, local_rank);
	w.local_ranks = 77;
	CHECK_RESULT(ftmem_world(&w), 0);
	CHECK(w.size == offsetof(struct ftmem_world, local_rank));
	CHECK(w.ranks == check_size() && w.local_ranks == 77 && w.host[0] == '\0');
	/* Wrong on one rank, right on the others. */
	w.size = check_rank() == 1 ? 0 : sizeof(w);
	CHECK_RESULT(ftmem_world(&w), check_rank() == 1 ? FTMEM_EINVAL : 0);
	CHECK_RESULT(ftmem_world(check_rank() == 1 ? NULL : &w),
	             check_rank() == 1 ? FTMEM_EINVAL : 0);
}

static void jobs_go_on_beside_it(void)
{
	const uint64_t bytes = 5000;
	struct cluster job;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1");
	cluster_regions(&job, &bytes, 1);
	cluster_start(&job);
	ask();
	cluster_fill(&job, 1);
	CHECK_RESULT(ftmem_snapshot(job.ft, 1, NULL), 0);
	ask();
	CHECK_RESULT(ftmem_wait(job.ft, 1, job.opts.timeout_ms), 0);
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"each_rank_hears_where_it_is", each_rank_hears_where_it_is},
		{"ranks_of_two_machines_hear_the_name_of_the_first",
	         ranks_of_two_machines_hear_the_name_of_the_first},
		{"what_fails_on_one_rank_fails_on_all", what_fails_on_one_rank_fails_on_all},
		{"a_caller_gets_as_much_as_its_struct_has",
	         a_caller_gets_as_much_as_its_struct_has},
		{"jobs_go_on_beside_it", jobs_go_on_beside_it},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
