/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Options: struct ftmem_opts, then FTMEM_* of the environment, then defaults.
 * One table in opts.c gives name, default, range and meaning of each; the
 * README's table is checked against it by a test.
 */
#ifndef FTMEM_OPTS_H
#define FTMEM_OPTS_H

#include "ftmem.h"
#include "log.h"

#define OPTS_PATH_MAX 4096
/* The highest number of a CPU, and the bytes of a list of them. */
#define OPTS_CPU_MAX 65535
#define OPTS_CPUS_TEXT 4096
/* What no device has. */
#define OPTS_STAGING_MAX (UINT64_C(1) << 48)
/* Of an SMP that nothing says otherwise. */
#define OPTS_EXPIRE_S 3600
#define OPTS_SCRUB_MIB_S 64

struct opts {
	char job[FTMEM_NAME_MAX + 1];
	char node[FTMEM_NAME_MAX + 1];
	char rack[FTMEM_NAME_MAX + 1];  /* "" if none */
	char dir[OPTS_PATH_MAX];
	char smp_path[OPTS_PATH_MAX];
	const void *comm;
	uint32_t group_nodes, parity, timeout_ms;
	uint32_t expire_s; /* 0 if nothing says it: what the SMP has stays */
	uint32_t block_bytes, window, copy_threads; /* 0: to be chosen from the machine */
	uint64_t max_bandwidth;
	uint32_t private_rule; /* enum ftmem_private */
	uint32_t compare_every;
	char progress_cpus[OPTS_CPUS_TEXT]; /* "auto", "none" or a list of CPUs */
	uint64_t device_staging;
	uint32_t when_busy; /* enum ftmem_busy_rule */
	uint32_t scrub_mib_s; /* or FTMEM_SCRUB_OFF; 0 if nothing says it, as expire_s */
	uint32_t (*private_from)(void *arg, const char *name, uint32_t rank, uint32_t ranks,
	                         uint32_t old_ranks);
	void *private_arg;
	struct log log; /* rank LOG_NO_RANK, for the caller to set */
};

/*
 * Resolves and checks. EINVAL names the option or variable, its value and the
 * allowed range. Empty strings count as not given; user NULL: the environment says
 * all. The default node is the host name with '-' for characters a node name may not
 * have. The default dir is $XDG_RUNTIME_DIR/ftmem if that is set, else
 * /tmp/ftmem-UID; it need not exist. The default smp_path is the installed one or,
 * if that does not exist, "ftmem-smp" beside the library's own file or in the bin or
 * libexec folder near it, then in PATH; it may not exist: what starts it says so.
 */
int opts_resolve(const struct ftmem_opts *user, struct opts *out);

/* The deadline alone, of FTMEM_TIMEOUT_MS or the default, for what is done before a job has
 * options. EINVAL, and then the default. */
int opts_timeout(uint32_t *timeout_ms);

/* For documentation and its test: variable, default, meaning; NULL at the end. */
struct opts_doc {
	const char *env, *def, *text;
};
const struct opts_doc *opts_docs(void);

#endif
