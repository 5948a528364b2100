/* SPDX-License-Identifier: BSD-3-Clause */
#include "opts.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "name.h"
#include "sized.h"

#define SMP_PROGRAM "ftmem-smp"
#define TEXT_(x)    #x
#define TEXT(x)     TEXT_(x)

#ifdef FTMEM_SMP_INSTALLED
#define SMP_INSTALLED FTMEM_SMP_INSTALLED
#else
#define SMP_INSTALLED ""
#endif

/*
 * X(kind, member of ftmem_opts, member of opts, least, most, step, variable,
 *   default, meaning). Numbers are parsed from the default as from the variable.
 */
#define OPTS_TABLE(X)                                                                              \
	X(OPT_JOB, job, job, 0, 0, 0, "FTMEM_JOB", "required",                                     \
	  "name of the training run, the same across restarts")                                    \
	X(OPT_NODE, node, node, 0, 0, 0, "FTMEM_NODE", "host name",                                \
	  "name of the failure domain this rank is in")                                            \
	X(OPT_RACK, rack, rack, 0, 0, 0, "FTMEM_RACK", "none",                                     \
	  "label of the node's rack; nodes of one rack are spread over groups")                    \
	X(OPT_DIR, dir, dir, 0, 0, 0, "FTMEM_DIR", "$XDG_RUNTIME_DIR/ftmem or /tmp/ftmem-UID",     \
	  "folder of sockets and logs, an absolute path")                                          \
	X(OPT_SMP, smp_path, smp_path, 0, 0, 0, "FTMEM_SMP", "as installed",                       \
	  "path of the " SMP_PROGRAM " program")                                                   \
	X(OPT_COUNT, group_nodes, group_nodes, 2, 64, 1, "FTMEM_GROUP_NODES", "8",                 \
	  "nodes that protect each other, 2 to 64")                                                \
	X(OPT_COUNT, parity, parity, 1, 4, 1, "FTMEM_PARITY", "1",                                 \
	  "node losses that a group survives, 1 to 4")                                             \
	X(OPT_COUNT, timeout_ms, timeout_ms, 1, 86400000, 1, "FTMEM_TIMEOUT_MS", "30000",          \
	  "deadline for a peer in milliseconds, up to a day")                                      \
	X(OPT_WISH, expire_s, expire_s, 1, 31536000, 1, "FTMEM_EXPIRE_S", TEXT(OPTS_EXPIRE_S),     \
	  "seconds from the last client's end until memory is freed, up to a year")                \
	X(OPT_BYTES, block_bytes, block_bytes, 4096, 4194304, 4096, "FTMEM_BLOCK_BYTES", "auto",   \
	  "unit of copy, checksum and exchange, 4K to 4M, a multiple of 4K; auto: as stored, "     \
	  "else fits the machines' second-level caches")                                           \
	X(OPT_COUNT, window, window, 1, 16, 1, "FTMEM_WINDOW", "auto",                             \
	  "block rows in flight, 1 to 16; auto: 2, or up to 4 that fit the same cache")            \
	X(OPT_COUNT, copy_threads, copy_threads, 1, 64, 1, "FTMEM_COPY_THREADS", "auto",           \
	  "threads of each rank that copy, 1 to 64; auto: 1 to 4, to 12 where there are GPUs, as " \
	  "the rank has CPUs for them")                                                            \
	X(OPT_LEVEL, log_level, log.level, FTMEM_LOG_ERROR, FTMEM_LOG_DEBUG, 1, "FTMEM_LOG_LEVEL", \
	  "info", "error, warn, info or debug, or 1 to 4")                                         \
	X(OPT_BYTES, max_bandwidth, max_bandwidth, 0, UINT64_MAX, 1, "FTMEM_MAX_BANDWIDTH", "0",   \
	  "bytes per second of parity traffic each rank sends, 0: no ceiling")                     \
	X(OPT_PRIVATE, private_rule, private_rule, FTMEM_PRIVATE_RANK, FTMEM_PRIVATE_DROP, 1,      \
	  "FTMEM_PRIVATE", "rank",                                                                 \
	  "private regions when the number of ranks changed: rank (of the old rank of the same "   \
	  "number) or drop (they stay as they are)")                                               \
	X(OPT_COUNT, compare_every, compare_every, 0, 1000000000, 1, "FTMEM_COMPARE_EVERY", "0",   \
	  "snapshots from one comparison of replicas to the next, 0: never")                       \
	X(OPT_CPUS, progress_cpus, progress_cpus, 0, 0, 0, "FTMEM_PROGRESS_CPUS", "auto",          \
	  "CPUs of the library's threads: a list such as 2,4-7, of which those count that the "    \
	  "process may use; auto: beside the trainer's if it is bound to some; none: not pinned")  \
	X(OPT_BYTES, device_staging, device_staging, 0, OPTS_STAGING_MAX, 1,                       \
	  "FTMEM_DEVICE_STAGING", "0",                                                             \
	  "bytes of each GPU's memory at most that a seal takes, for what has not left the GPU "   \
	  "when the fence comes: copied there first it keeps no optimizer waiting; 0: none")       \
	X(OPT_BUSY, when_busy, when_busy, FTMEM_BUSY_SKIP, FTMEM_BUSY_WAIT, 1, "FTMEM_WHEN_BUSY",  \
	  "skip",                                                                                  \
	  "when the spare slot is still in use: skip (the version) or wait (for the slot, up to "  \
	  "the deadline for a peer)")                                                              \
	X(OPT_RATE, scrub_mib_s, scrub_mib_s, 1, 1048576, 1, "FTMEM_SCRUB_MIB_S",                  \
	  TEXT(OPTS_SCRUB_MIB_S),                                                                  \
	  "MiB per second of stored snapshots that are read to find damaged memory, up to "        \
	  "1048576, or off")

enum opt_kind {
	OPT_JOB,
	OPT_NODE,
	OPT_RACK,
	OPT_DIR,
	OPT_SMP,
	OPT_CPUS,
	OPT_COUNT,
	OPT_BYTES,
	OPT_LEVEL,
	OPT_PRIVATE,
	OPT_BUSY,
	OPT_WISH, /* a count; 0 if nothing says it, its default is another program's */
	OPT_RATE, /* the same, or FTMEM_SCRUB_OFF */
};

struct opt_row {
	enum opt_kind kind;
	const char *name;
	size_t from, from_bytes, to, to_bytes;
	uint64_t least, most, step;
};

#define OPT_MEMBER_BYTES(type, member) sizeof(((const struct type *)0)->member)

static const struct opt_row rows[] = {
#define OPT_ROW(kind, member, to, least, most, step, env, def, text)                               \
	{kind,                                                                                     \
	 #member,                                                                                  \
	 offsetof(struct ftmem_opts, member),                                                      \
	 OPT_MEMBER_BYTES(ftmem_opts, member),                                                     \
	 offsetof(struct opts, to),                                                                \
	 OPT_MEMBER_BYTES(opts, to),                                                               \
	 least,                                                                                    \
	 most,                                                                                     \
	 step},
	OPTS_TABLE(OPT_ROW)
#undef OPT_ROW
};

static const struct opts_doc docs[] = {
#define OPT_DOC(kind, member, to, least, most, step, env, def, text) {env, def, text},
	OPTS_TABLE(OPT_DOC)
#undef OPT_DOC
		{NULL, NULL, NULL},
};

#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

const struct opts_doc *opts_docs(void)
{
	return docs;
}

static int node_default(char *node)
{
	char host[HOST_NAME_MAX + 1];
	size_t i;

	if (gethostname(host, sizeof(host)) != 0)
		return error_sys(FTMEM_ESYS, errno, "host name; set FTMEM_NODE");
	host[sizeof(host) - 1] = '\0';
	for (i = 0; i < FTMEM_NAME_MAX && host[i] != '\0'; i++)
		node[i] = name_char(host[i]) ? host[i] : '-';
	node[i] = '\0';
	if (node[0] == '.' || node[0] == '-')
		node[0] = '_';
	if (i == 0)
		return error_set(FTMEM_EINVAL, "this host has no name: set FTMEM_NODE");
	return FTMEM_OK;
}

static int dir_default(char *dir)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	int len;

	if (run && run[0] == '/')
		len = snprintf(dir, OPTS_PATH_MAX, "%s/ftmem", run);
	else
		len = snprintf(dir, OPTS_PATH_MAX, "/tmp/ftmem-%u", (unsigned)getuid());
	if (len < 0 || len >= OPTS_PATH_MAX)
		return error_set(FTMEM_EINVAL, "XDG_RUNTIME_DIR is too long: set FTMEM_DIR");
	return FTMEM_OK;
}

static bool is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* Whether there is a program at folder/below + SMP_PROGRAM. */
static bool smp_try(char *path, const char *folder, size_t folder_len, const char *below)
{
	int len = snprintf(path, OPTS_PATH_MAX, "%.*s/%s" SMP_PROGRAM, (int)folder_len, folder,
	                   below);

	return len > 0 && len < OPTS_PATH_MAX && is_program(path);
}

/* The file this code was loaded from: the library or, linked statically, the
 * program, whose name as dladdr() has it may lack a folder. */
static bool own_file(char *path)
{
	const char *file = "/proc/self/exe";
	Dl_info info;

	if (dladdr(rows, &info) != 0 && info.dli_fname && strchr(info.dli_fname, '/'))
		file = info.dli_fname;
	return realpath(file, path) != NULL;
}

static bool smp_nearby(char *path)
{
	static const char *const below[] = {
		"", "../bin/", "../libexec/", "../libexec/ftmem/", "../../bin/", "../../libexec/"};
	char own[PATH_MAX];
	size_t i, folder;

	if (!own_file(own))
		return false;
	folder = (size_t)(strrchr(own, '/') - own);
	for (i = 0; i < sizeof(below) / sizeof(below[0]); i++) {
		if (smp_try(path, own, folder, below[i]))
			return true;
	}
	return false;
}

static bool smp_in_path(char *path)
{
	const char *at = getenv("PATH");
	size_t len;

	for (; at && *at != '\0'; at += len + (at[len] == ':')) {
		len = strcspn(at, ":");
		if (len > 0 && len < OPTS_PATH_MAX && smp_try(path, at, len, ""))
			return true;
	}
	return false;
}

static int smp_default(char *path)
{
	static const char installed[] = SMP_INSTALLED;
	_Static_assert(sizeof(installed) <= OPTS_PATH_MAX, "install prefix too long");

	if (is_program(installed) || (!smp_nearby(path) && !smp_in_path(path)))
		snprintf(path, OPTS_PATH_MAX, "%s", installed[0] != '\0' ? installed : SMP_PROGRAM);
	return FTMEM_OK;
}

static int name_take(const char *origin, const char *text, char *out)
{
	if (!name_valid(text))
		return error_set(FTMEM_EINVAL,
		                 "%s is \"%.100s\": must be 1 to %d characters of "
		                 "A-Z a-z 0-9 . _ - and not begin with . or -",
		                 origin, text, FTMEM_NAME_MAX);
	memcpy(out, text, strlen(text) + 1);
	return FTMEM_OK;
}

static int path_take(const char *origin, const char *text, bool absolute, char *out)
{
	if (absolute && text[0] != '/')
		return error_set(FTMEM_EINVAL, "%s is \"%.100s\": must be an absolute path", origin,
		                 text);
	if (strlen(text) >= OPTS_PATH_MAX)
		return error_set(FTMEM_EINVAL, "%s is \"%.100s...\": must be shorter than %d bytes",
		                 origin, text, OPTS_PATH_MAX);
	memcpy(out, text, strlen(text) + 1);
	return FTMEM_OK;
}

/* A CPU's number, up to OPTS_CPU_MAX; NULL: there is none. Octal ones are none: hwloc,
 * which reads the list, would understand them. */
static const char *cpu_parse(const char *text, unsigned long *out)
{
	char *end;

	if (!isdigit((unsigned char)text[0]) || (text[0] == '0' && isdigit((unsigned char)text[1])))
		return NULL;
	*out = strtoul(text, &end, 10);
	return *out <= OPTS_CPU_MAX ? end : NULL;
}

/* Numbers and ranges, with commas between. */
static bool is_cpu_list(const char *text)
{
	unsigned long first = 0, last;

	for (;; text++) {
		text = cpu_parse(text, &first);
		last = first;
		if (text && *text == '-')
			text = cpu_parse(text + 1, &last);
		if (!text || last < first)
			return false;
		if (*text != ',')
			return *text == '\0';
	}
}

static int cpus_take(const char *origin, const char *text, char *out)
{
	bool word = strcmp(text, "auto") == 0 || strcmp(text, "none") == 0;

	if ((!word && !is_cpu_list(text)) || strlen(text) >= OPTS_CPUS_TEXT)
		return error_set(FTMEM_EINVAL,
		                 "%s is \"%.100s\": must be auto, none, or numbers of CPUs and "
		                 "ascending ranges, without spaces, such as 2,4-7, up to %d, in "
		                 "less than %d characters",
		                 origin, text, OPTS_CPU_MAX, OPTS_CPUS_TEXT);
	memcpy(out, text, strlen(text) + 1);
	return FTMEM_OK;
}

static int text_default(const struct opt_row *row, char *out)
{
	switch (row->kind) {
	case OPT_NODE: return node_default(out);
	case OPT_DIR: return dir_default(out);
	case OPT_SMP: return smp_default(out);
	case OPT_RACK: out[0] = '\0'; return FTMEM_OK;
	case OPT_CPUS:
		snprintf(out, OPTS_CPUS_TEXT, "%s", docs[row - rows].def);
		return FTMEM_OK;
	default:
		return error_set(FTMEM_EINVAL,
		                 "the job has no name: set %s of struct ftmem_opts or %s",
		                 row->name, docs[row - rows].env);
	}
}

static int text_resolve(const struct opt_row *row, const struct ftmem_opts *user, char *out)
{
	const char *text, *origin = row->name;

	memcpy(&text, (const char *)user + row->from, sizeof(text));
	if (!text || text[0] == '\0') {
		origin = docs[row - rows].env;
		text = getenv(origin);
	}
	if (!text || text[0] == '\0')
		return text_default(row, out);
	if (row->kind == OPT_CPUS)
		return cpus_take(origin, text, out);
	if (row->kind == OPT_DIR || row->kind == OPT_SMP)
		return path_take(origin, text, row->kind == OPT_DIR, out);
	return name_take(origin, text, out);
}

/* Words that stand for 1, 2, .. in that kind of option; NULL: it takes none. */
static const char *const *words_of(enum opt_kind kind)
{
	static const char *const level[] = {"error", "warn", "info", "debug", NULL};
	static const char *const private_rule[] = {"rank", "drop", NULL};
	static const char *const busy_rule[] = {"skip", "wait", NULL};

	switch (kind) {
	case OPT_LEVEL: return level;
	case OPT_PRIVATE: return private_rule;
	case OPT_BUSY: return busy_rule;
	default: return NULL;
	}
}

static bool word_parse(const char *text, enum opt_kind kind, uint64_t *out)
{
	const char *const *word = words_of(kind);

	for (unsigned i = 0; word && word[i]; i++) {
		if (strcmp(text, word[i]) == 0) {
			*out = i + 1;
			return true;
		}
	}
	return false;
}

/* Decimal digits; for bytes also one binary suffix. */
static bool number_parse(const char *text, enum opt_kind kind, uint64_t *out)
{
	static const char suffixes[] = "KMGT";
	const char *suffix;
	unsigned shift = 0;
	uint64_t value;
	char *end;

	if (word_parse(text, kind, out))
		return true;
	if (kind == OPT_RATE && (strcmp(text, "off") == 0 || strcmp(text, "0") == 0)) {
		*out = FTMEM_SCRUB_OFF;
		return true;
	}
	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno != 0)
		return false;
	if (kind == OPT_BYTES && *end != '\0') {
		suffix = strchr(suffixes, toupper((unsigned char)*end));
		if (!suffix)
			return false;
		shift = 10 * ((unsigned)(suffix - suffixes) + 1);
		end++;
	}
	if (*end != '\0' || value > UINT64_MAX >> shift)
		return false;
	*out = value << shift;
	return true;
}

/* What may be said by a variable: in the struct 0 does. */
static bool may_be_auto(const struct opt_row *row, const char *origin)
{
	return origin != row->name && strcmp(docs[row - rows].def, "auto") == 0;
}

static int number_bad(const struct opt_row *row, const char *origin, const char *text)
{
	const char *const *word = words_of(row->kind);
	/* In the struct it is a number. */
	bool suffix = row->kind == OPT_BYTES && origin != row->name;
	char step[48] = "", words[64] = "";
	size_t at = 0;

	if (row->kind == OPT_RATE)
		at = (size_t)snprintf(words, sizeof(words), "off, ");
	if (row->step > 1)
		snprintf(step, sizeof(step), "a multiple of %" PRIu64 " ", row->step);
	for (; word && *word && at < sizeof(words); word++)
		at += (size_t)snprintf(words + at, sizeof(words) - at, "%s, ", *word);
	return error_set(FTMEM_EINVAL,
	                 "%s is \"%.100s\": must be %s%s%s%s %" PRIu64 " to %" PRIu64 "%s",
	                 origin, text, may_be_auto(row, origin) ? "auto or " : "", words, step,
	                 words[0] != '\0' ? "or" : "from", row->least, row->most,
	                 suffix ? ", also with K, M, G or T behind" : "");
}

static uint64_t number_load(const void *at, size_t bytes)
{
	uint32_t narrow;
	uint64_t wide;

	if (bytes == sizeof(wide)) {
		memcpy(&wide, at, sizeof(wide));
		return wide;
	}
	memcpy(&narrow, at, sizeof(narrow));
	return narrow;
}

static void number_store(void *at, size_t bytes, uint64_t value)
{
	uint32_t narrow = (uint32_t)value;

	if (bytes == sizeof(value))
		memcpy(at, &value, sizeof(value));
	else
		memcpy(at, &narrow, sizeof(narrow));
}

static int number_resolve(const struct opt_row *row, const struct ftmem_opts *user, char *out)
{
	uint64_t value = number_load((const char *)user + row->from, row->from_bytes);
	const char *origin = row->name, *text;
	char digits[24];

	if (value != 0) {
		snprintf(digits, sizeof(digits), "%" PRIu64, value);
		text = digits;
	} else {
		origin = docs[row - rows].env;
		text = getenv(origin);
		if ((!text || text[0] == '\0') && (row->kind == OPT_WISH || row->kind == OPT_RATE))
			return FTMEM_OK;
		if (!text || text[0] == '\0')
			text = docs[row - rows].def;
		/* It stays 0: who uses it chooses. */
		if (may_be_auto(row, origin) && strcmp(text, "auto") == 0)
			return FTMEM_OK;
		if (!number_parse(text, row->kind, &value))
			return number_bad(row, origin, text);
	}
	if (row->kind == OPT_RATE && value == FTMEM_SCRUB_OFF)
		number_store(out, row->to_bytes, value);
	else if (value < row->least || value > row->most || value % row->step != 0)
		return number_bad(row, origin, text);
	number_store(out, row->to_bytes, value);
	return FTMEM_OK;
}

/* The caller's struct as this version of the library knows it. */
static int user_take(const struct ftmem_opts *user, struct ftmem_opts *own)
{
	if (!user) {
		*own = (struct ftmem_opts)FTMEM_OPTS_INIT;
		return FTMEM_OK;
	}
	switch (sized_copy(own, sizeof(*own), user, offsetof(struct ftmem_opts, node))) {
	case SIZED_OK: return FTMEM_OK;
	case SIZED_UNSET:
		return error_set(FTMEM_EINVAL,
		                 "struct ftmem_opts has size %zu: begin with FTMEM_OPTS_INIT",
		                 user->size);
	default:
		return error_set(FTMEM_EINVAL,
		                 "struct ftmem_opts has options set that this libftmem does not "
		                 "know: it is older than the header the program was built with");
	}
}

int opts_resolve(const struct ftmem_opts *user, struct opts *out)
{
	struct ftmem_opts own;
	struct opts opts = {0};
	size_t i;
	int rc;

	rc = user_take(user, &own);
	for (i = 0; rc == FTMEM_OK && i < ROW_COUNT; i++) {
		char *to = (char *)&opts + rows[i].to;

		if (rows[i].kind < OPT_COUNT)
			rc = text_resolve(&rows[i], &own, to);
		else
			rc = number_resolve(&rows[i], &own, to);
	}
	if (rc != FTMEM_OK)
		return rc;

	opts.comm = own.comm;
	opts.private_from = own.private_from;
	opts.private_arg = own.private_arg;
	opts.log.fn = own.log;
	opts.log.arg = own.log_arg;
	opts.log.rank = LOG_NO_RANK;
	*out = opts;
	return FTMEM_OK;
}

int opts_timeout(uint32_t *timeout_ms)
{
	const struct ftmem_opts unset = FTMEM_OPTS_INIT;
	const struct opt_row *row = rows;
	uint64_t value = 0;

	while (row->to != offsetof(struct opts, timeout_ms))
		row++;
	(void)number_parse(docs[row - rows].def, row->kind, &value);
	*timeout_ms = (uint32_t)value;
	return number_resolve(row, &unset, (char *)timeout_ms);
}
