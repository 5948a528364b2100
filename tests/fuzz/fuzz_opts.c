/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Options of any text, from the environment and from the program: what is accepted is within
 * the documented ranges, and each text ends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "fuzz.h"
#include "name.h"
#include "opts.h"

#define TEXT_MAX 600u

struct texts {
	char at[32][TEXT_MAX];
	uint32_t count;
};

/* The next text of the input: up to a zero byte. */
static const char *next_text(struct fuzz_input *in, struct texts *t)
{
	char *text = t->at[t->count++];
	size_t i = 0;

	while (i < TEXT_MAX - 1 && in->left > 0 && (text[i] = (char)fuzz_u8(in)))
		i++;
	text[i] = '\0';
	return text;
}

extern char **environ;

/* Not by setenv(), which keeps all that it was ever given. */
static void set_environment(struct fuzz_input *in, struct texts *t)
{
	static char line[32][64 + TEXT_MAX], *own[33];
	const struct opts_doc *doc = opts_docs();
	uint32_t which = fuzz_u32(in), count = 0;

	for (uint32_t i = 0; doc[i].env; i++)
		if (which & UINT32_C(1) << i) {
			own[count] = line[count];
			snprintf(line[count++], sizeof(line[0]), "%s=%s", doc[i].env,
			         next_text(in, t));
		}
	own[count] = NULL;
	environ = own;
}

static void set_options(struct fuzz_input *in, struct texts *t, struct ftmem_opts *o)
{
	uint16_t which;

	fuzz_take(in, &which, sizeof(which));
	if (which & 1)
		o->job = next_text(in, t);
	if (which & 2)
		o->node = next_text(in, t);
	if (which & 4)
		o->rack = next_text(in, t);
	if (which & 8)
		o->dir = next_text(in, t);
	if (which & 16)
		o->smp_path = next_text(in, t);
	if (which & 32)
		o->progress_cpus = next_text(in, t);
	if (which & 64)
		o->group_nodes = fuzz_u32(in);
	if (which & 128)
		o->block_bytes = fuzz_u32(in);
	if (which & 256)
		o->timeout_ms = fuzz_u32(in);
	if (which & 512)
		o->device_staging = fuzz_number(in);
	if (which & 1024)
		o->size = fuzz_u8(in) & 1 ? offsetof(struct ftmem_opts, log) : 0;
}

static bool ends(const char *text, size_t room)
{
	return memchr(text, 0, room) != NULL;
}

static void check(const struct opts *o)
{
	FUZZ_REQUIRE(name_valid(o->job) && name_valid(o->node));
	FUZZ_REQUIRE(o->rack[0] == '\0' || name_valid(o->rack));
	FUZZ_REQUIRE(o->dir[0] == '/' && ends(o->dir, sizeof(o->dir)));
	FUZZ_REQUIRE(ends(o->smp_path, sizeof(o->smp_path)));
	FUZZ_REQUIRE(o->progress_cpus[0] && ends(o->progress_cpus, sizeof(o->progress_cpus)));
	FUZZ_REQUIRE(o->group_nodes >= 2 && o->group_nodes <= 64);
	FUZZ_REQUIRE(o->parity >= 1 && o->parity <= 4);
	FUZZ_REQUIRE(o->timeout_ms >= 1 && o->timeout_ms <= 86400000);
	FUZZ_REQUIRE(o->expire_s <= 31536000 && o->window <= 16 && o->copy_threads <= 64);
	FUZZ_REQUIRE(o->block_bytes % 4096 == 0 && o->block_bytes <= 4194304);
	FUZZ_REQUIRE(o->log.level >= FTMEM_LOG_ERROR && o->log.level <= FTMEM_LOG_DEBUG);
	FUZZ_REQUIRE(o->private_rule == FTMEM_PRIVATE_RANK
	             || o->private_rule == FTMEM_PRIVATE_DROP);
	FUZZ_REQUIRE(o->when_busy >= FTMEM_BUSY_SKIP && o->when_busy <= FTMEM_BUSY_WAIT);
	FUZZ_REQUIRE(o->compare_every <= 1000000000 && o->device_staging <= OPTS_STAGING_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct texts texts;
	static struct opts opts;
	struct ftmem_opts user = FTMEM_OPTS_INIT;
	struct fuzz_input in = {data, size};
	uint32_t timeout = 0;
	int rc;

	texts.count = 0;
	set_environment(&in, &texts);
	set_options(&in, &texts, &user);
	rc = opts_resolve(&user, &opts);
	FUZZ_REQUIRE(rc == 0 || rc == FTMEM_EINVAL);
	if (rc == 0)
		check(&opts);
	else
		FUZZ_REQUIRE(error_msg()[0] != '\0');
	rc = opts_timeout(&timeout);
	FUZZ_REQUIRE((rc == 0 || rc == FTMEM_EINVAL) && timeout >= 1 && timeout <= 86400000);
	return 0;
}

void fuzz_seeds(const char *dir)
{
	static const char *const good[] = {
		"job", "node-1", "rack_a", "/tmp/dir", "/usr/bin/ftmem-smp", "4", "2",
		"1000", "60", "256K", "3", "8", "debug", "1G", "drop", "10", "2,4-7,64",
		"64M", "wait",
	};
	uint8_t input[1024] = {1};
	size_t at = 4;

	memcpy(input + at, "job", 4);
	fuzz_seed(dir, "least", input, at + 4);
	memset(input, 0xff, 4);
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		memcpy(input + at, good[i], strlen(good[i]) + 1);
		at += strlen(good[i]) + 1;
	}
	fuzz_seed(dir, "all", input, at);
	memset(input, 0, 4);
	input[4] = 63;
	input[5] = 0;
	memcpy(input + 6, "job\0node\0rack\0/dir\0/smp\0none", 29);
	fuzz_seed(dir, "user", input, 35);
}
