/* SPDX-License-Identifier: BSD-3-Clause */
/* Linked with --wrap=gethostname,--wrap=dladdr. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "name.h"
#include "opts.h"

int __wrap_gethostname(char *name, size_t bytes);
int __wrap_dladdr(const void *addr, Dl_info *info);

static const char *host = "node17";
static char folder[64], library[96];

int __wrap_gethostname(char *name, size_t bytes)
{
	if (!host) {
		errno = EFAULT;
		return -1;
	}
	snprintf(name, bytes, "%s", host);
	return 0;
}

int __wrap_dladdr(const void *addr, Dl_info *info)
{
	(void)addr;
	memset(info, 0, sizeof(*info));
	info->dli_fname = library;
	return 1;
}

static void file_make(const char *name, mode_t mode)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_CREAT | O_WRONLY, 0700);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static void file_remove(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	assert_int_equal(remove(path), 0);
}

static int environment_clear(void **state)
{
	const struct opts_doc *doc;

	(void)state;
	for (doc = opts_docs(); doc->env; doc++)
		unsetenv(doc->env);
	unsetenv("XDG_RUNTIME_DIR");
	setenv("PATH", "", 1);
	host = "node17";
	return 0;
}

static int folder_make(void **state)
{
	static const char *const below[] = {"/lib", "/bin", "/path"};
	char path[96];
	size_t i;

	(void)state;
	strcpy(folder, "/tmp/ftmem-test-opts-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	for (i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s%s", folder, below[i]);
		if (mkdir(path, 0700) != 0)
			return -1;
	}
	file_make("lib/libftmem.so.0", 0600);
	snprintf(library, sizeof(library), "%s/lib/../lib/libftmem.so.0", folder);
	return 0;
}

static int folder_remove(void **state)
{
	(void)state;
	file_remove("lib/libftmem.so.0");
	file_remove("lib");
	file_remove("bin");
	file_remove("path");
	return rmdir(folder);
}

static void defaults_are_as_documented(void **state)
{
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	struct opts o;
	char dir[64];

	(void)state;
	user.job = "gpt";
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	snprintf(dir, sizeof(dir), "/tmp/ftmem-%u", (unsigned)getuid());
	assert_string_equal(o.job, "gpt");
	assert_string_equal(o.node, "node17");
	assert_string_equal(o.rack, "");
	assert_string_equal(o.dir, dir);
	assert_null(o.comm);
	assert_int_equal(o.group_nodes, 8);
	assert_int_equal(o.parity, 1);
	assert_int_equal(o.timeout_ms, 30000);
	/* What the SMP was started with stays. */
	assert_int_equal(o.expire_s, 0);
	assert_int_equal(OPTS_EXPIRE_S, 3600);
	assert_int_equal(o.scrub_mib_s, 0);
	assert_int_equal(OPTS_SCRUB_MIB_S, 64);
	/* To be chosen from the machine. */
	assert_int_equal(o.block_bytes, 0);
	assert_int_equal(o.window, 0);
	assert_int_equal(o.copy_threads, 0);
	assert_int_equal(o.max_bandwidth, 0);
	assert_int_equal(o.private_rule, FTMEM_PRIVATE_RANK);
	assert_int_equal(o.compare_every, 0);
	assert_string_equal(o.progress_cpus, "auto");
	assert_int_equal(o.device_staging, 0);
	assert_int_equal(o.when_busy, FTMEM_BUSY_SKIP);
	assert_null(o.private_from);
	assert_int_equal(o.log.level, FTMEM_LOG_INFO);
	assert_int_equal(o.log.rank, LOG_NO_RANK);
	assert_null(o.log.fn);
}

static uint32_t hand_out(void *arg, const char *name, uint32_t rank, uint32_t ranks,
                         uint32_t old_ranks)
{
	(void)arg;
	(void)name;
	(void)ranks;
	return rank % old_ranks;
}

static void remember(void *arg, int level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
}

static void struct_comes_before_the_environment(void **state)
{
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	struct opts o;
	int comm = 0;

	(void)state;
	setenv("FTMEM_JOB", "theirs", 1);
	setenv("FTMEM_NODE", "n-theirs", 1);
	setenv("FTMEM_PARITY", "4", 1);
	setenv("FTMEM_GROUP_NODES", "not asked for", 1);
	setenv("FTMEM_MAX_BANDWIDTH", "1M", 1);
	user.job = "ours";
	user.parity = 2;
	user.group_nodes = 16;
	user.max_bandwidth = 5;
	user.log_level = FTMEM_LOG_DEBUG;
	user.comm = &comm;
	user.log = remember;
	user.log_arg = &o;
	user.private_rule = FTMEM_PRIVATE_DROP;
	user.private_from = hand_out;
	user.private_arg = &user;
	user.compare_every = 7;
	user.progress_cpus = "none";
	setenv("FTMEM_PROGRESS_CPUS", "0", 1);
	user.device_staging = UINT64_C(8) << 30;
	user.when_busy = FTMEM_BUSY_WAIT;
	setenv("FTMEM_DEVICE_STAGING", "1G", 1);
	setenv("FTMEM_WHEN_BUSY", "skip", 1);
	user.dir = "/run/x";
	user.smp_path = "./smp";
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_string_equal(o.job, "ours");
	assert_string_equal(o.node, "n-theirs");
	assert_int_equal(o.parity, 2);
	assert_int_equal(o.group_nodes, 16);
	assert_int_equal(o.max_bandwidth, 5);
	assert_int_equal(o.log.level, FTMEM_LOG_DEBUG);
	assert_ptr_equal(o.comm, &comm);
	assert_ptr_equal(o.log.fn, remember);
	assert_ptr_equal(o.log.arg, &o);
	assert_int_equal(o.private_rule, FTMEM_PRIVATE_DROP);
	assert_ptr_equal(o.private_from, hand_out);
	assert_ptr_equal(o.private_arg, &user);
	assert_int_equal(o.compare_every, 7);
	assert_string_equal(o.progress_cpus, "none");
	assert_int_equal(o.device_staging, UINT64_C(8) << 30);
	assert_int_equal(o.when_busy, FTMEM_BUSY_WAIT);
	assert_string_equal(o.dir, "/run/x");
	assert_string_equal(o.smp_path, "./smp");
}

static void every_variable_is_heard(void **state)
{
	struct opts o;

	(void)state;
	setenv("FTMEM_JOB", "gpt.v2", 1);
	setenv("FTMEM_NODE", "n_1", 1);
	setenv("FTMEM_RACK", "r-1", 1);
	setenv("FTMEM_DIR", "/run/ftmem", 1);
	setenv("FTMEM_SMP", "/opt/smp", 1);
	setenv("FTMEM_GROUP_NODES", "64", 1);
	setenv("FTMEM_PARITY", "4", 1);
	setenv("FTMEM_TIMEOUT_MS", "250", 1);
	setenv("FTMEM_EXPIRE_S", "9", 1);
	setenv("FTMEM_BLOCK_BYTES", "1m", 1);
	setenv("FTMEM_WINDOW", "16", 1);
	setenv("FTMEM_COPY_THREADS", "64", 1);
	setenv("FTMEM_LOG_LEVEL", "error", 1);
	setenv("FTMEM_MAX_BANDWIDTH", "3G", 1);
	setenv("FTMEM_PRIVATE", "drop", 1);
	setenv("FTMEM_COMPARE_EVERY", "100", 1);
	setenv("FTMEM_PROGRESS_CPUS", "2,4-7", 1);
	setenv("FTMEM_DEVICE_STAGING", "8g", 1);
	setenv("FTMEM_WHEN_BUSY", "wait", 1);
	assert_int_equal(opts_resolve(NULL, &o), FTMEM_OK);
	assert_string_equal(o.job, "gpt.v2");
	assert_string_equal(o.node, "n_1");
	assert_string_equal(o.rack, "r-1");
	assert_string_equal(o.dir, "/run/ftmem");
	assert_string_equal(o.smp_path, "/opt/smp");
	assert_int_equal(o.group_nodes, 64);
	assert_int_equal(o.parity, 4);
	assert_int_equal(o.timeout_ms, 250);
	assert_int_equal(o.expire_s, 9);
	assert_int_equal(o.block_bytes, 1 << 20);
	assert_int_equal(o.window, 16);
	assert_int_equal(o.copy_threads, 64);
	assert_int_equal(o.log.level, FTMEM_LOG_ERROR);
	assert_int_equal(o.max_bandwidth, UINT64_C(3) << 30);
	assert_int_equal(o.private_rule, FTMEM_PRIVATE_DROP);
	assert_int_equal(o.compare_every, 100);
	assert_string_equal(o.progress_cpus, "2,4-7");
	assert_int_equal(o.device_staging, UINT64_C(8) << 30);
	assert_int_equal(o.when_busy, FTMEM_BUSY_WAIT);
	setenv("FTMEM_LOG_LEVEL", "4", 1);
	assert_int_equal(opts_resolve(NULL, &o), FTMEM_OK);
	assert_int_equal(o.log.level, FTMEM_LOG_DEBUG);
}

static void the_deadline_is_known_before_the_rest(void **state)
{
	uint32_t ms = 0;

	(void)state;
	assert_int_equal(opts_timeout(&ms), FTMEM_OK);
	assert_int_equal(ms, 30000);
	setenv("FTMEM_TIMEOUT_MS", "250", 1);
	setenv("FTMEM_PARITY", "none", 1);
	assert_int_equal(opts_timeout(&ms), FTMEM_OK);
	assert_int_equal(ms, 250);
	setenv("FTMEM_TIMEOUT_MS", "0", 1);
	assert_int_equal(opts_timeout(&ms), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "FTMEM_TIMEOUT_MS is \"0\""));
	assert_int_equal(ms, 30000);
}

static void what_the_machine_may_say_is_a_number_or_auto(void **state)
{
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	struct opts o;

	(void)state;
	user.job = "j";
	user.window = 5;
	setenv("FTMEM_BLOCK_BYTES", "auto", 1);
	setenv("FTMEM_WINDOW", "auto", 1);
	setenv("FTMEM_COPY_THREADS", "auto", 1);
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_int_equal(o.block_bytes, 0);
	assert_int_equal(o.window, 5);
	assert_int_equal(o.copy_threads, 0);
	setenv("FTMEM_BLOCK_BYTES", "5K", 1);
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_string_equal(error_msg(), "FTMEM_BLOCK_BYTES is \"5K\": must be auto or a multiple "
	                                 "of 4096 from 4096 to 4194304, also with K, M, G "
	                                 "or T behind");
}

static void empty_variables_count_as_unset(void **state)
{
	const struct opts_doc *doc;
	struct opts o;

	(void)state;
	for (doc = opts_docs(); doc->env; doc++)
		setenv(doc->env, "", 1);
	setenv("FTMEM_JOB", "j", 1);
	assert_int_equal(opts_resolve(NULL, &o), FTMEM_OK);
	assert_string_equal(o.node, "node17");
	assert_int_equal(o.parity, 1);
}

static void bad_numbers_are_refused_by_name(void **state)
{
	static const char *const bad[][2] = {
		{"FTMEM_PARITY", "5"},
		{"FTMEM_PARITY", "0"},
		{"FTMEM_PARITY", "-1"},
		{"FTMEM_PARITY", " 1"},
		{"FTMEM_PARITY", "1 "},
		{"FTMEM_PARITY", "two"},
		{"FTMEM_PARITY", "0x2"},
		{"FTMEM_PARITY", "1K"},
		{"FTMEM_PARITY", "auto"},
		{"FTMEM_WINDOW", "Auto"},
		{"FTMEM_COPY_THREADS", "auto1"},
		{"FTMEM_BLOCK_BYTES", "0"},
		{"FTMEM_PARITY", "4294967297"},
		{"FTMEM_GROUP_NODES", "1"},
		{"FTMEM_GROUP_NODES", "65"},
		{"FTMEM_WINDOW", "17"},
		{"FTMEM_WINDOW", "0"},
		{"FTMEM_COPY_THREADS", "65"},
		{"FTMEM_TIMEOUT_MS", "0"},
		{"FTMEM_TIMEOUT_MS", "1K"},
		{"FTMEM_TIMEOUT_MS", "86400001"},
		{"FTMEM_EXPIRE_S", "31536001"},
		{"FTMEM_BLOCK_BYTES", "4095"},
		{"FTMEM_BLOCK_BYTES", "6000"},
		{"FTMEM_BLOCK_BYTES", "8M"},
		{"FTMEM_BLOCK_BYTES", "1KB"},
		{"FTMEM_BLOCK_BYTES", "100MB"},
		{"FTMEM_BLOCK_BYTES", "K"},
		{"FTMEM_LOG_LEVEL", "loud"},
		{"FTMEM_LOG_LEVEL", "5"},
		{"FTMEM_LOG_LEVEL", "0"},
		{"FTMEM_PRIVATE", "debug"},
		{"FTMEM_PRIVATE", "3"},
		{"FTMEM_COMPARE_EVERY", "-2"},
		{"FTMEM_MAX_BANDWIDTH", "20000000T"},
		{"FTMEM_MAX_BANDWIDTH", "1.5G"},
		{"FTMEM_MAX_BANDWIDTH", "18446744073709551616"},
		{"FTMEM_DEVICE_STAGING", "auto"},
		{"FTMEM_DEVICE_STAGING", "257T"},
		{"FTMEM_WHEN_BUSY", "drop"},
		{"FTMEM_WHEN_BUSY", "3"},
		{"FTMEM_SCRUB_MIB_S", "on"},
		{"FTMEM_SCRUB_MIB_S", "64M"},
		{"FTMEM_SCRUB_MIB_S", "1048577"},
	};
	struct opts o;
	size_t i;

	(void)state;
	memset(&o, 0x55, sizeof(o));
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		setenv("FTMEM_JOB", "j", 1);
		setenv(bad[i][0], bad[i][1], 1);
		assert_int_equal(opts_resolve(NULL, &o), FTMEM_EINVAL);
		assert_non_null(strstr(error_msg(), bad[i][0]));
		assert_non_null(strstr(error_msg(), bad[i][1]));
		assert_int_equal(o.parity, 0x55555555);
		environment_clear(NULL);
	}
}

static void bad_members_are_refused_by_name(void **state)
{
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	struct opts o;

	(void)state;
	user.job = "j";
	user.block_bytes = 4097;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_string_equal(error_msg(), "block_bytes is \"4097\": must be a multiple of 4096 "
	                                 "from 4096 to 4194304");
	user.block_bytes = 4096;
	user.parity = 5;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_string_equal(error_msg(), "parity is \"5\": must be from 1 to 4");
	user.parity = 0;
	user.private_rule = 3;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_string_equal(error_msg(), "private_rule is \"3\": must be rank, drop, or 1 to 2");
	user.private_rule = 0;
	user.when_busy = 3;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_string_equal(error_msg(), "when_busy is \"3\": must be skip, wait, or 1 to 2");
	user.when_busy = 0;
	user.device_staging = (UINT64_C(1) << 48) + 1;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "device_staging is \"281474976710657\""));
	user.device_staging = 0;
	user.log_level = 5;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_string_equal(error_msg(), "log_level is \"5\": must be error, warn, info, debug, "
	                                 "or 1 to 4");
	user.log_level = 0;
	user.dir = "here";
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "dir is \"here\""));
	user.dir = NULL;
	user.node = "a/b";
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "node is \"a/b\""));
	user.node = NULL;
	user.job = "../x";
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "job is \"../x\""));
	user.job = NULL;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "FTMEM_JOB"));
}

static void cpus_are_numbers_and_ranges_or_a_word(void **state)
{
	static const char *const good[] = {"auto", "none", "0", "0-0", "2,4-7", "7,0-3,65535"};
	static const char *const bad[] = {"some", "Auto", "auto,1", "-1", "1-", "4-2", "1-2-3",
	                                  "1,", ",1", "1,,2", "1;2", " 1", "1 ", "0x3", "08",
	                                  "1-02", "65536", "0-65536", "18446744073709551617"};
	static char list[2 * OPTS_CPUS_TEXT];
	struct opts o;
	size_t i;

	(void)state;
	setenv("FTMEM_JOB", "j", 1);
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		setenv("FTMEM_PROGRESS_CPUS", good[i], 1);
		assert_int_equal(opts_resolve(NULL, &o), FTMEM_OK);
		assert_string_equal(o.progress_cpus, good[i]);
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		setenv("FTMEM_PROGRESS_CPUS", bad[i], 1);
		assert_int_equal(opts_resolve(NULL, &o), FTMEM_EINVAL);
		assert_non_null(strstr(error_msg(), "FTMEM_PROGRESS_CPUS"));
		assert_non_null(strstr(error_msg(), bad[i]));
		assert_non_null(strstr(error_msg(), "ascending ranges, without spaces"));
	}
	for (i = 0; i < OPTS_CPUS_TEXT - 1; i += 2)
		memcpy(list + i, "1,", 3);
	list[OPTS_CPUS_TEXT - 1] = '\0';
	setenv("FTMEM_PROGRESS_CPUS", list, 1);
	assert_int_equal(opts_resolve(NULL, &o), FTMEM_OK);
	strcat(list, ",1");
	setenv("FTMEM_PROGRESS_CPUS", list, 1);
	assert_int_equal(opts_resolve(NULL, &o), FTMEM_EINVAL);
}

static void paths_that_are_too_long_are_refused(void **state)
{
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	static char path[OPTS_PATH_MAX + 1];
	struct opts o;

	(void)state;
	memset(path, '/', OPTS_PATH_MAX);
	user.job = "j";
	user.dir = path;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	user.dir = NULL;
	user.smp_path = path;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	user.smp_path = NULL;
	setenv("XDG_RUNTIME_DIR", path, 1);
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "FTMEM_DIR"));
	path[OPTS_PATH_MAX - 1] = '\0';
	user.dir = path;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_string_equal(o.dir, path);
}

static void odd_host_names_become_node_names(void **state)
{
	static const char *const names[][2] = {
		{"gpu-17.cluster", "gpu-17.cluster"},
		{"my host/1", "my-host-1"},
		{".x", "_x"},
		{"\xc3\xa9", "_-"},
		{"a123456789b123456789c123456789d123456789e123456789f123456789g1234",
	         "a123456789b123456789c123456789d123456789e123456789f123456789g12"},
	};
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	struct opts o;
	size_t i;

	(void)state;
	user.job = "j";
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		host = names[i][0];
		assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
		assert_string_equal(o.node, names[i][1]);
		assert_true(name_valid(o.node));
	}
	host = "";
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	host = NULL;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_ESYS);
	assert_non_null(strstr(error_msg(), "FTMEM_NODE"));
}

static void sockets_lie_in_the_runtime_folder_if_there_is_one(void **state)
{
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	struct opts o;

	(void)state;
	user.job = "j";
	setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_string_equal(o.dir, "/run/user/7/ftmem");
	setenv("XDG_RUNTIME_DIR", "relative", 1);
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_int_equal(strncmp(o.dir, "/tmp/ftmem-", 11), 0);
}

struct newer_opts {
	struct ftmem_opts known;
	uint64_t more[2];
};

static void structs_of_other_versions_are_understood(void **state)
{
	struct newer_opts newer = {.known = FTMEM_OPTS_INIT};
	struct opts o;

	(void)state;
	newer.known.size = sizeof(newer);
	newer.known.job = "j";
	newer.known.parity = 2;
	newer.known.window = 99;
	assert_int_equal(opts_resolve(&newer.known, &o), FTMEM_EINVAL);
	newer.known.window = 3;
	assert_int_equal(opts_resolve(&newer.known, &o), FTMEM_OK);
	assert_int_equal(o.window, 3);
	newer.more[1] = 1;
	assert_int_equal(opts_resolve(&newer.known, &o), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "older"));
	newer.known.size = offsetof(struct ftmem_opts, window);
	newer.known.window = 99;
	assert_int_equal(opts_resolve(&newer.known, &o), FTMEM_OK);
	assert_int_equal(o.parity, 2);
	assert_int_equal(o.window, 0);
	newer.known.size = offsetof(struct ftmem_opts, node);
	assert_int_equal(opts_resolve(&newer.known, &o), FTMEM_OK);
	assert_int_equal(o.parity, 1);
}

static void struct_without_its_size_is_refused(void **state)
{
	struct ftmem_opts user = {.job = "j"};
	struct opts o;

	(void)state;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "FTMEM_OPTS_INIT"));
	user.size = sizeof(size_t);
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	user.size = SIZE_MAX;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
}

static void smp_is(const char *expected)
{
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	struct opts o;
	char path[256];

	user.job = "j";
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	snprintf(path, sizeof(path), "%s/%s", folder, expected);
	assert_string_equal(o.smp_path, path);
}

static void smp_is_looked_for_near_the_library_then_in_path(void **state)
{
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	struct opts o;
	char path[256];

	(void)state;
	user.job = "j";
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_non_null(strstr(o.smp_path, "ftmem-smp"));
	if (access(o.smp_path, X_OK) == 0)
		skip(); /* installed: then that one is taken */

	snprintf(path, sizeof(path), "/nowhere::%s/path:", folder);
	setenv("PATH", path, 1);
	file_make("path/ftmem-smp", 0700);
	smp_is("path/ftmem-smp");
	file_make("bin/ftmem-smp", 0700);
	smp_is("lib/../bin/ftmem-smp");
	file_make("lib/ftmem-smp", 0600);
	smp_is("lib/../bin/ftmem-smp");
	file_remove("lib/ftmem-smp");
	file_make("lib/ftmem-smp", 0700);
	smp_is("lib/ftmem-smp");
	file_remove("lib/ftmem-smp");
	file_remove("bin/ftmem-smp");
	file_remove("path/ftmem-smp");
}

static void the_scrubber_can_be_turned_off(void **state)
{
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	struct opts o;

	(void)state;
	user.job = "j";
	setenv("FTMEM_SCRUB_MIB_S", "off", 1);
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_int_equal(o.scrub_mib_s, FTMEM_SCRUB_OFF);
	setenv("FTMEM_SCRUB_MIB_S", "0", 1);
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_int_equal(o.scrub_mib_s, FTMEM_SCRUB_OFF);
	setenv("FTMEM_SCRUB_MIB_S", "17", 1);
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_int_equal(o.scrub_mib_s, 17);
	user.scrub_mib_s = FTMEM_SCRUB_OFF;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_int_equal(o.scrub_mib_s, FTMEM_SCRUB_OFF);
	user.scrub_mib_s = 200;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_OK);
	assert_int_equal(o.scrub_mib_s, 200);
	user.scrub_mib_s = 1048577;
	assert_int_equal(opts_resolve(&user, &o), FTMEM_EINVAL);
	assert_string_equal(error_msg(),
	                    "scrub_mib_s is \"1048577\": must be off, or 1 to 1048576");
}

static void every_option_is_documented_once(void **state)
{
	const struct opts_doc *doc, *other;
	unsigned count = 0;

	(void)state;
	for (doc = opts_docs(); doc->env; doc++, count++) {
		assert_int_equal(strncmp(doc->env, "FTMEM_", 6), 0);
		assert_true(doc->def[0] != '\0' && doc->text[0] != '\0');
		for (other = opts_docs(); other != doc; other++)
			assert_string_not_equal(doc->env, other->env);
	}
	assert_int_equal(count, 20);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, environment_clear)
	const struct CMUnitTest tests[] = {
		TEST(defaults_are_as_documented),
		TEST(struct_comes_before_the_environment),
		TEST(every_variable_is_heard),
		TEST(the_deadline_is_known_before_the_rest),
		TEST(what_the_machine_may_say_is_a_number_or_auto),
		TEST(empty_variables_count_as_unset),
		TEST(bad_numbers_are_refused_by_name),
		TEST(bad_members_are_refused_by_name),
		TEST(cpus_are_numbers_and_ranges_or_a_word),
		TEST(paths_that_are_too_long_are_refused),
		TEST(odd_host_names_become_node_names),
		TEST(sockets_lie_in_the_runtime_folder_if_there_is_one),
		TEST(structs_of_other_versions_are_understood),
		TEST(struct_without_its_size_is_refused),
		TEST(smp_is_looked_for_near_the_library_then_in_path),
		TEST(the_scrubber_can_be_turned_off),
		TEST(every_option_is_documented_once),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
