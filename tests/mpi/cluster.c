/* SPDX-License-Identifier: BSD-3-Clause */
#include "cluster.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "clock.h"
#include "mpi_check.h"
#include "test_random.h"

#define GUARD       64
#define GUARD_BYTE  0xc3
#define POISON_BYTE 0xa5

#define TIMEOUT_MS 30000

/* --- nodes --- */

uint32_t cluster_layout_ranks(const char *layout)
{
	uint32_t ranks = 0;

	for (const char *at = layout; *at >= '0' && *at <= '9';) {
		char *end;

		ranks += (uint32_t)strtoul(at, &end, 10);
		at = *end == ',' ? end + 1 : end;
	}
	return ranks;
}

void cluster_place(struct cluster *c, const char *layout)
{
	uint32_t ranks[CLUSTER_NODES] = {0}, rank = 0;
	const char *at = layout;

	c->nodes = 0;
	while (*at >= '0' && *at <= '9') {
		char *end;

		CHECK(c->nodes < CLUSTER_NODES);
		ranks[c->nodes++] = (uint32_t)strtoul(at, &end, 10);
		at = *end == ',' ? end + 1 : end;
	}
	CHECK_MSG(cluster_layout_ranks(layout) == c->size, "layout %s is not of %u ranks", layout,
	          c->size);
	for (uint32_t node = 0; rank < c->size; node = (node + 1) % c->nodes) {
		uint32_t deal = *at == 'r' ? ranks[node] > 0 : ranks[node];

		for (uint32_t i = 0; i < deal; i++)
			c->node_of[rank++] = node;
		ranks[node] -= deal;
	}
	cluster_name_nodes(c);
}

void cluster_name_nodes(struct cluster *c)
{
	for (uint32_t i = 0; i < CLUSTER_NODES; i++)
		snprintf(c->node[i], sizeof(c->node[i]), "n%u", i);
}

void cluster_replace(struct cluster *c, uint32_t nodes)
{
	static uint32_t spares;

	for (uint32_t i = 0; i < c->nodes; i++)
		if (nodes >> i & 1)
			snprintf(c->node[i], sizeof(c->node[i]), "spare%u", spares++);
}

/* --- regions and their bytes --- */

uint8_t *cluster_bytes(const struct cluster_region *r)
{
	return r->memory + GUARD;
}

static void free_regions(struct cluster *c)
{
	for (uint32_t i = 0; i < c->regions; i++)
		free(c->region[i].memory);
	c->regions = 0;
}

void cluster_regions(struct cluster *c, const uint64_t *bytes, uint32_t count)
{
	CHECK(count <= CLUSTER_REGIONS);
	free_regions(c);
	c->regions = count;
	for (uint32_t i = 0; i < count; i++) {
		struct cluster_region *r = &c->region[i];

		snprintf(r->name, sizeof(r->name), "r%u", i);
		r->bytes = bytes[i];
		r->absent = bytes[i] == 0;
		r->memory = malloc(bytes[i] + 2 * GUARD);
		CHECK(r->memory);
		memset(r->memory, GUARD_BYTE, bytes[i] + 2 * GUARD);
	}
}

void cluster_sizes(struct cluster *c, uint32_t turn)
{
	const uint64_t sizes[] = {
		0, (UINT64_C(1) << 20) + 1, 4095, 1, 300001 + UINT64_C(4097) * c->rank, 8192,
	};

	cluster_regions(c, &sizes[(c->rank + turn) % (sizeof(sizes) / sizeof(sizes[0]))], 1);
}

struct ftmem_region cluster_describe(const struct cluster_region *r)
{
	struct ftmem_region d = FTMEM_REGION_INIT;

	d.name = r->name;
	d.addr = cluster_bytes(r);
	d.bytes = r->bytes;
	return d;
}

/* The pattern's word i is the i-th number of a generator that starts here. */
static uint64_t pattern(const struct cluster *c, const struct cluster_region *r, uint64_t version)
{
	uint64_t state = digest_more(DIGEST_INIT, r->name, strlen(r->name)) + c->salt;

	state ^= test_random(&state) + c->rank;
	state ^= test_random(&state) + version;
	return state;
}

void cluster_fill(struct cluster *c, uint64_t version)
{
	for (uint32_t i = 0; i < c->regions; i++) {
		struct cluster_region *r = &c->region[i];
		uint64_t state = pattern(c, r, version);

		for (uint64_t at = 0; at < r->bytes; at += 8) {
			uint64_t word = test_random(&state);

			memcpy(cluster_bytes(r) + at, &word, r->bytes - at < 8 ? r->bytes - at : 8);
		}
	}
}

void cluster_poison(struct cluster *c)
{
	for (uint32_t i = 0; i < c->regions; i++)
		memset(cluster_bytes(&c->region[i]), POISON_BYTE, c->region[i].bytes);
}

static void verify_guards(const struct cluster_region *r)
{
	for (uint64_t i = 0; i < GUARD; i++)
		CHECK_MSG(r->memory[i] == GUARD_BYTE
		                  && r->memory[GUARD + r->bytes + i] == GUARD_BYTE,
		          "bytes beside region %s were written", r->name);
}

static void verify_region(const struct cluster *c, const struct cluster_region *r, uint64_t version)
{
	uint64_t state = pattern(c, r, version);
	const uint8_t *bytes = cluster_bytes(r);

	for (uint64_t at = 0; at < r->bytes; at += 8) {
		uint64_t word = test_random(&state);

		CHECK_MSG(memcmp(bytes + at, &word, r->bytes - at < 8 ? r->bytes - at : 8) == 0,
		          "rank %u: region %s (%llu bytes) is not that of version %llu from byte "
		          "%llu on: %02x %02x ..",
		          c->rank, r->name, (unsigned long long)r->bytes,
		          (unsigned long long)version, (unsigned long long)at, bytes[at],
		          at + 1 < r->bytes ? bytes[at + 1] : 0);
	}
}

void cluster_verify(const struct cluster *c, uint64_t version)
{
	for (uint32_t i = 0; i < c->regions; i++) {
		verify_guards(&c->region[i]);
		if (!c->region[i].absent)
			verify_region(c, &c->region[i], version);
	}
}

void cluster_verify_poison(const struct cluster *c)
{
	for (uint32_t i = 0; i < c->regions; i++) {
		const struct cluster_region *r = &c->region[i];

		verify_guards(r);
		for (uint64_t at = 0; at < r->bytes; at++)
			CHECK_MSG(cluster_bytes(r)[at] == POISON_BYTE,
			          "region %s was written at byte %llu", r->name,
			          (unsigned long long)at);
	}
}

/* --- the job --- */

void cluster_init(struct cluster *c, MPI_Comm comm, const char *layout)
{
	static uint64_t jobs;
	int rank, size;

	check_log_forget();
	memset(c, 0, sizeof(*c));
	MPI_Comm_rank(comm, &rank);
	MPI_Comm_size(comm, &size);
	c->comm = comm;
	c->rank = (uint32_t)rank;
	c->size = (uint32_t)size;
	CHECK(size <= CLUSTER_RANKS);
	jobs = check_max(comm, jobs + 1);
	snprintf(c->job, sizeof(c->job), "job%llu", (unsigned long long)jobs);
	c->opts = (struct ftmem_opts)FTMEM_OPTS_INIT;
	c->opts.parity = 1;
	c->opts.timeout_ms = TIMEOUT_MS;
	c->opts.log_level = FTMEM_LOG_DEBUG;
	c->opts.log = check_log;
	c->salt = check_seed();
	cluster_place(c, layout);
}

void cluster_deinit(struct cluster *c)
{
	cluster_close(c);
	cluster_lose(c, ~0u);
	free_regions(c);
}

int cluster_try_open(struct cluster *c)
{
	c->opts.job = c->job;
	c->opts.node = c->node[c->node_of[c->rank]];
	c->opts.comm = &c->comm;
	c->ft = NULL;
	return ftmem_open(&c->opts, &c->ft);
}

void cluster_add_regions(struct cluster *c)
{
	for (uint32_t i = 0; i < c->regions; i++) {
		struct ftmem_region d = cluster_describe(&c->region[i]);

		if (!c->region[i].absent)
			CHECK_RESULT(ftmem_region_add(c->ft, &d), 0);
	}
}

int cluster_try_start(struct cluster *c)
{
	int rc = cluster_try_open(c);

	if (rc < 0)
		return rc;
	cluster_add_regions(c);
	return ftmem_seal(c->ft);
}

void cluster_start(struct cluster *c)
{
	CHECK_RESULT(cluster_try_start(c), 0);
}

void cluster_start_fresh(struct cluster *c)
{
	cluster_start(c);
	cluster_restore_fails(c, FTMEM_FRESH);
}

void cluster_close(struct cluster *c)
{
	ftmem_close(c->ft);
	c->ft = NULL;
	check_barrier(c->comm);
}

void cluster_commit(struct cluster *c, uint64_t version)
{
	CHECK_RESULT(ftmem_fence(c->ft, NULL), 0);
	cluster_fill(c, version);
	CHECK_RESULT(ftmem_snapshot(c->ft, version, NULL), 0);
	CHECK_RESULT(ftmem_wait(c->ft, version, c->opts.timeout_ms), 0);
}

void cluster_restore(struct cluster *c, uint64_t version)
{
	uint64_t got = UINT64_MAX;

	cluster_poison(c);
	CHECK_RESULT(ftmem_restore(c->ft, &got), 0);
	CHECK_MSG(got == version, "version %llu was restored, not %llu", (unsigned long long)got,
	          (unsigned long long)version);
	cluster_verify(c, version);
}

void cluster_restore_fails(struct cluster *c, int result)
{
	uint64_t got = UINT64_MAX;

	cluster_poison(c);
	CHECK_RESULT(ftmem_restore(c->ft, &got), result);
	CHECK(got == UINT64_MAX);
	cluster_verify_poison(c);
}

struct ftmem_stats cluster_stats(const struct cluster *c)
{
	struct ftmem_stats s = FTMEM_STATS_INIT;

	CHECK_RESULT(ftmem_stats(c->ft, &s), 0);
	return s;
}

/* --- what the nodes hold --- */

struct smp_client *cluster_smp(const struct cluster *c, uint32_t node)
{
	struct smp_config config = {
		.dir = getenv("FTMEM_DIR"),
		.job = c->job,
		.node = c->node[node],
		.rank = WIRE_RANK_OBSERVER,
		.timeout_ms = TIMEOUT_MS,
	};
	struct smp_client *smp = NULL;
	int rc;

	CHECK_MSG(config.dir, "set FTMEM_DIR: tests/util/mpi_run.sh does");
	rc = smp_connect(&config, &smp);
	CHECK_MSG(rc == 0 || rc == FTMEM_ESMP, "node %s: %d", config.node, rc);
	return rc == 0 ? smp : NULL;
}

void cluster_lose(struct cluster *c, uint32_t nodes)
{
	check_barrier(c->comm);
	for (uint32_t i = 0; c->rank == 0 && i < c->nodes; i++) {
		struct smp_client *smp = nodes >> i & 1 ? cluster_smp(c, i) : NULL;

		if (smp)
			CHECK_RESULT(smp_stop(smp, true), 0);
		smp_close(smp);
	}
	check_barrier(c->comm);
}

bool cluster_kill_smp(const struct cluster *c, uint32_t node, bool wait)
{
	struct smp_client *smp = cluster_smp(c, node);
	uint64_t deadline = clock_deadline(TIMEOUT_MS);

	if (!smp)
		return false;
	CHECK(smp_pid(smp) > 1 && kill(smp_pid(smp), SIGKILL) == 0);
	while (wait && smp_alive(smp)) {
		CHECK_MSG(clock_ns() < deadline, "node %s: a killed process does not end",
		          c->node[node]);
		clock_sleep(1000000);
	}
	smp_close(smp);
	return true;
}

static uint64_t digest_arena(struct smp_client *smp, const struct smp_entry *e)
{
	struct arena *a = NULL;
	uint64_t digest;
	int fd = -1;

	CHECK_RESULT(smp_attach(smp, e->epoch, e->rank, false, &fd), 0);
	CHECK_RESULT(arena_attach(fd, false, &a), 0);
	digest = ((uint64_t)e->rank << 32) + checksum(a->base, a->bytes);
	arena_free(a);
	return digest;
}

uint64_t cluster_digest(const struct cluster *c, uint32_t but)
{
	uint64_t digest = 0;

	check_barrier(c->comm);
	for (uint32_t i = 0; c->rank == 0 && i < c->nodes; i++) {
		struct smp_client *smp = but >> i & 1 ? NULL : cluster_smp(c, i);
		struct smp_entry *entry = NULL;
		uint32_t count = 0;

		if (!smp)
			continue;
		CHECK_RESULT(smp_list(smp, &entry, &count), 0);
		for (uint32_t j = 0; j < count; j++)
			digest = digest * 31 + digest_arena(smp, &entry[j]);
		free(entry);
		smp_close(smp);
	}
	return check_max(c->comm, digest);
}

struct arena *cluster_arena(const struct cluster *c, uint64_t version, struct slot **slot)
{
	struct smp_client *smp = cluster_smp(c, c->node_of[c->rank]);
	struct smp_entry *entry = NULL;
	uint64_t epoch = 0, incarnation = 0;
	struct arena *a = NULL;
	uint32_t count = 0;
	int fd = -1, which = 0;

	CHECK(smp);
	CHECK_RESULT(smp_list(smp, &entry, &count), 0);
	for (uint32_t i = 0; i < count; i++)
		for (int j = 0; j < 2; j++) {
			const struct commit_slot *s = &entry[i].slot[j];

			if (entry[i].rank != c->rank || s->state != SLOT_COMMITTED
			    || s->stamp.version != version || s->stamp.incarnation <= incarnation)
				continue;
			epoch = entry[i].epoch;
			incarnation = s->stamp.incarnation;
			which = j;
		}
	CHECK_MSG(epoch, "version %llu is not held", (unsigned long long)version);
	CHECK_RESULT(smp_attach(smp, epoch, c->rank, false, &fd), 0);
	CHECK_RESULT(arena_attach(fd, true, &a), 0);
	*slot = &a->slot[which];
	free(entry);
	smp_close(smp);
	return a;
}

uint32_t cluster_epochs(const struct cluster *c, uint32_t node, uint64_t *newest)
{
	struct smp_client *smp = cluster_smp(c, node);
	struct smp_entry *entry = NULL;
	uint32_t count = 0, epochs = 0;

	*newest = 0;
	if (!smp)
		return 0;
	CHECK_RESULT(smp_list(smp, &entry, &count), 0);
	for (uint32_t i = 0; i < count; i++) {
		epochs += entry[i].epoch != *newest;
		*newest = entry[i].epoch;
	}
	free(entry);
	smp_close(smp);
	return epochs;
}

const char *cluster_set_text(uint32_t set, char text[64])
{
	size_t used = 0;

	text[used++] = '{';
	for (uint32_t i = 0; i < 32 && used < 56; i++)
		if (set >> i & 1)
			used += (size_t)snprintf(text + used, 64 - used, used > 1 ? ",%u" : "%u",
			                         i);
	memcpy(text + used, "}", 2);
	return text;
}
