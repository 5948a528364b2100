/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ftmem-smp, the snapshot-management process of one job on one node. Started by a
 * trainer (spawn.c) or by hand: takes the lock, listens, goes to the background and
 * says so in one line. The first process ends only once clients can connect.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "opts.h"
#include "smp/path.h"
#include "smp/scrub.h"
#include "smp/server.h"
#include "smp/spawn.h"

#define STRING_(x) #x
#define STRING(x)  STRING_(x)
#define VERSION                                                                                    \
	STRING(FTMEM_VERSION_MAJOR) "." STRING(FTMEM_VERSION_MINOR) "." STRING(FTMEM_VERSION_PATCH)

#define LINES_AT_ONCE 1000u
#define LINE_NS       UINT64_C(1000000000)

enum status { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2, STATUS_BUSY = 3 };

static const char usage[] =
	"usage: ftmem-smp --job JOB [--node NODE] [--dir DIR] [--expire SECONDS]\n"
	"                 [--scrub MIB_PER_S] [--foreground]\n"
	"Keeps the snapshots of a job's ranks on this node, so that they outlive the\n"
	"trainer. Trainers start it themselves; see ftmem-smp(1) for when to do it by hand.\n"
	"  --job JOB         name of the job (or FTMEM_JOB)\n"
	"  --node NODE       name of the node, default: host name (or FTMEM_NODE)\n"
	"  --dir DIR         folder of sockets and logs, an absolute path (or FTMEM_DIR);\n"
	"                    default: $XDG_RUNTIME_DIR/ftmem or /tmp/ftmem-UID\n"
	"  --expire SECONDS  free the memory and end so long after the last rank left,\n"
	"                    default 3600 (or FTMEM_EXPIRE_S)\n"
	"  --scrub MIB_PER_S how fast what is held is read to find damage, 0: not at all,\n"
	"                    default 64 (or FTMEM_SCRUB_MIB_S)\n"
	"  --foreground      stay in the foreground, log to stderr\n"
	"  --help, --version\n"
	"Exit status: 0 it serves (or has served), 1 it cannot, 2 usage, 3 another\n"
	"ftmem-smp serves this job and node already.\n";

struct service_process {
	struct opts opts;
	bool foreground;
	int lock, listener, log; /* -1: none */
	struct server *server;
	struct log to;
	uint64_t lines_ns; /* when the lines written so far would have been, at their rate */
	uint64_t withheld; /* lines since the last one that was written */
};

static void write_text(int level, const char *line)
{
	static const char *const name[] = {"", "error", "warn", "info", "debug"};
	struct timespec now;
	struct tm tm;
	char when[32];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	dprintf(STDERR_FILENO, "%s %s %s\n", when, name[level], line);
}

/* A reader of stderr that does not read must not hold up clients: in the foreground it may be a
 * pipe. */
static bool takes_lines(void)
{
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

	return poll(&p, 1, 0) != 0;
}

/* Clients without manners must not fill the disk: so many lines at once, then one each
 * second. */
static void write_line(void *arg, int level, const char *line)
{
	struct service_process *p = arg;
	uint64_t burst = LINES_AT_ONCE * LINE_NS, now = clock_ns() + burst;
	char text[64];

	if (p->lines_ns + burst < now)
		p->lines_ns = now - burst;
	if (p->lines_ns > now || !takes_lines()) {
		p->withheld++;
		return;
	}
	p->lines_ns += LINE_NS;
	if (p->withheld) {
		snprintf(text, sizeof(text), "%llu lines withheld: too many, or not read",
		         (unsigned long long)p->withheld);
		write_text(FTMEM_LOG_WARN, text);
	}
	p->withheld = 0;
	write_text(level, line);
}

static int fail(void)
{
	fprintf(stderr, "error: %s\n", error_msg());
	return STATUS_FAILED;
}

static bool parse_number(const char *text, uint32_t most, uint32_t *out)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	*out = (uint32_t)value;
	return !errno && !*end && text[0] >= '0' && text[0] <= '9' && value <= most;
}

static int parse_seconds(const char *text, uint32_t *out)
{
	if (!parse_number(text, UINT32_MAX, out) || !*out)
		return error_set(FTMEM_EINVAL, "--expire %.40s: must be a number of seconds", text);
	return 0;
}

static int parse_rate(const char *text, uint32_t *out)
{
	if (!parse_number(text, SCRUB_MIB_S_MAX, out))
		return error_set(FTMEM_EINVAL,
		                 "--scrub %.40s: must be a number of MiB per second up to %u, 0: "
		                 "nothing is read",
		                 text, SCRUB_MIB_S_MAX);
	if (!*out)
		*out = FTMEM_SCRUB_OFF;
	return 0;
}

/* Returns an exit status, or -1 to go on. */
static int parse(int argc, char **argv, struct service_process *p)
{
	static const struct option options[] = {
		{"job", required_argument, NULL, 'j'},  {"node", required_argument, NULL, 'n'},
		{"dir", required_argument, NULL, 'd'},  {"expire", required_argument, NULL, 'e'},
		{"scrub", required_argument, NULL, 's'}, {"foreground", no_argument, NULL, 'f'},
		{"help", no_argument, NULL, 'h'},       {"version", no_argument, NULL, 'v'},
		{NULL, 0, NULL, 0},
	};
	struct ftmem_opts opts = FTMEM_OPTS_INIT;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'j': opts.job = optarg; break;
		case 'n': opts.node = optarg; break;
		case 'd': opts.dir = optarg; break;
		case 'f': p->foreground = true; break;
		case 'e':
			if (parse_seconds(optarg, &opts.expire_s)) {
				fail();
				return STATUS_USAGE;
			}
			break;
		case 's':
			if (parse_rate(optarg, &opts.scrub_mib_s)) {
				fail();
				return STATUS_USAGE;
			}
			break;
		case 'h': fputs(usage, stdout); return STATUS_OK;
		case 'v': puts("ftmem-smp " VERSION); return STATUS_OK;
		default: fputs(usage, stderr); return STATUS_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "error: unknown argument %s\n%s", argv[optind], usage);
		return STATUS_USAGE;
	}
	if (opts_resolve(&opts, &p->opts)) {
		fail();
		return STATUS_USAGE;
	}
	if (p->opts.expire_s == 0)
		p->opts.expire_s = OPTS_EXPIRE_S;
	if (p->opts.scrub_mib_s == 0)
		p->opts.scrub_mib_s = OPTS_SCRUB_MIB_S;
	if (p->opts.scrub_mib_s == FTMEM_SCRUB_OFF)
		p->opts.scrub_mib_s = 0;
	return -1;
}

/* Whether somebody serves though the lock was to be had: what clears folders of old files may have
 * removed it. */
static bool is_served(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool served = fd >= 0
	              && (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0
	                  || errno == EAGAIN);

	if (fd >= 0)
		close(fd);
	return served;
}

/* FTMEM_BUSY: another listens there. */
static int listen_at(const struct opts *o, int *out)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int rc, fd;

	rc = smp_path_of(o->dir, o->job, o->node, "sock", addr.sun_path, sizeof(addr.sun_path));
	if (rc)
		return rc;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_sys(FTMEM_ESYS, errno, "cannot make a socket");
	if (is_served(&addr)) {
		close(fd);
		return FTMEM_BUSY;
	}
	unlink(addr.sun_path);
	if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0
	    || listen(fd, SERVER_PEERS_MAX) != 0) {
		rc = error_sys(FTMEM_ESYS, errno, "cannot listen at %s", addr.sun_path);
		close(fd);
		return rc;
	}
	*out = fd;
	return 0;
}

static int open_log(const struct opts *o, int *out)
{
	char path[SMP_PATH_MAX];
	int rc = smp_path_of(o->dir, o->job, o->node, "log", path, sizeof(path));

	if (rc)
		return rc;
	*out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (*out < 0)
		return error_sys(FTMEM_ESYS, errno, "cannot open %s", path);
	return 0;
}

static int start_server(struct service_process *p)
{
	const struct server_config config = {.job = p->opts.job,
	                                     .expire_s = p->opts.expire_s,
	                                     .scrub_mib_s = p->opts.scrub_mib_s,
	                                     .listener = p->listener,
	                                     .log = &p->to};

	p->listener = -1;
	return server_new(&config, &p->server);
}

static void say_ready(const struct service_process *p)
{
	const struct opts *o = &p->opts;

	printf(SMP_SAYS_READY "process %ld serves job %s on node %s at %s/%s@%s.sock, until %u s "
	                      "after its last rank left\n",
	       (long)getpid(), o->job, o->node, o->dir, o->job, o->node, o->expire_s);
	fflush(stdout);
}

/* Standard descriptors: nothing, and the log. */
static int detach(int log)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0
	    || dup2(log, STDERR_FILENO) < 0)
		return error_sys(FTMEM_ESYS, errno, "cannot redirect to the log");
	if (null > STDERR_FILENO)
		close(null);
	return 0;
}

static int serve(struct service_process *p)
{
	int rc;

	log_line(&p->to, FTMEM_LOG_INFO, "serving job %s on node %s, process %ld, version " VERSION,
	         p->opts.job, p->opts.node, (long)getpid());
	rc = server_run(p->server);
	if (rc)
		log_line(&p->to, FTMEM_LOG_ERROR, "%s", error_msg());
	server_free(p->server);
	smp_files_remove(p->opts.dir, p->opts.job, p->opts.node, p->lock);
	return rc ? STATUS_FAILED : STATUS_OK;
}

/* What was put into the folder so far; the lock is still held. */
static int give_up(const struct service_process *p)
{
	smp_files_remove(p->opts.dir, p->opts.job, p->opts.node, p->lock);
	return STATUS_FAILED;
}

static int serve_here(struct service_process *p)
{
	if (start_server(p)) {
		fail();
		return give_up(p);
	}
	say_ready(p);
	return serve(p);
}

/* In the background: ready is closed, with a byte in it, when clients can connect. */
static int serve_behind(struct service_process *p, int ready)
{
	setsid();
	if (chdir("/") != 0 || start_server(p))
		return fail();
	say_ready(p);
	if (detach(p->log))
		return fail();
	if (write(ready, "r", 1) != 1)
		log_line(&p->to, FTMEM_LOG_WARN, "nobody waits for this process to be ready");
	close(ready);
	return serve(p);
}

static int go_behind(struct service_process *p)
{
	int rc, ready[2];
	ssize_t n;
	char byte;
	pid_t pid = -1;

	rc = open_log(&p->opts, &p->log);
	if (!rc && pipe2(ready, O_CLOEXEC) != 0)
		rc = error_sys(FTMEM_ESYS, errno, "cannot make a pipe");
	if (!rc && (pid = fork()) < 0)
		rc = error_sys(FTMEM_ESYS, errno, "cannot go to the background");
	if (rc) {
		fail();
		return give_up(p);
	}
	if (!pid) {
		close(ready[0]);
		return serve_behind(p, ready[1]);
	}
	close(ready[1]);
	do
		n = read(ready[0], &byte, 1);
	while (n < 0 && errno == EINTR);
	return n == 1 ? STATUS_OK : give_up(p);
}

/* Two descriptors for each connection, one for each arena and its holder. */
static void raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* What is opened must not take the place of one of these, which are replaced later. */
static void open_standard(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

static int take_place(struct service_process *p)
{
	const struct opts *o = &p->opts;
	int rc = smp_dir_check(o->dir, true);

	if (!rc)
		rc = smp_lock_take(o->dir, o->job, o->node, &p->lock);
	if (!rc)
		rc = listen_at(o, &p->listener);
	if (rc == FTMEM_BUSY) {
		printf(SMP_SAYS_BUSY
		       "another ftmem-smp serves job %s on node %s in %s, or is about "
		       "to\n",
		       o->job, o->node, o->dir);
		return STATUS_BUSY;
	}
	if (!rc)
		return -1;
	fail();
	return p->lock < 0 ? STATUS_FAILED : give_up(p);
}

int main(int argc, char **argv)
{
	struct service_process p = {.lock = -1, .listener = -1, .log = -1};
	int rc = parse(argc, argv, &p);

	if (rc >= 0)
		return rc;
	open_standard();
	if (!p.foreground)
		closefrom(STDERR_FILENO + 1);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	/* An arena or a log that may not grow is an error, not the end. */
	signal(SIGXFSZ, SIG_IGN);
	umask(077);
	raise_limit();
	p.to = (struct log){
		.fn = write_line, .arg = &p, .level = p.opts.log.level, .rank = LOG_NO_RANK};
	rc = take_place(&p);
	if (rc >= 0)
		return rc;
	return p.foreground ? serve_here(&p) : go_behind(&p);
}
