/* SPDX-License-Identifier: BSD-3-Clause */
/* The node's SMP as the real rank's client sees it: replaces smp/client.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "error.h"
#include "growth.h"

struct smp_client {
	bool connected;
};

static struct smp_client client;
static struct {
	uint64_t epoch, bytes;
	int fd; /* of the real rank's arena; -1: there is none */
} held = {.fd = -1};

void growth_smp_end(void)
{
	if (held.fd >= 0)
		close(held.fd);
	held.fd = -1;
}

int smp_connect(const struct smp_config *config, struct smp_client **out)
{
	(void)config;
	client.connected = true;
	*out = &client;
	return 0;
}

void smp_close(struct smp_client *c)
{
	(void)c;
}

bool smp_alive(struct smp_client *c)
{
	return c->connected;
}

int smp_reconnect(struct smp_client *c)
{
	(void)c;
	return error_set(FTMEM_ESMP, "the test's SMP never dies");
}

int32_t smp_pid(const struct smp_client *c)
{
	(void)c;
	return 1;
}

int smp_info(struct smp_client *c, struct smp_info *out)
{
	(void)c;
	*out = (struct smp_info){.pid = 1};
	return 0;
}

/* Of all ranks of the node; those of the others are never attached. */
int smp_list(struct smp_client *c, struct smp_entry **entries, uint32_t *count)
{
	const struct growth_world *w = &growth_world;
	uint32_t first = growth_node_of(w->rank) * w->job->node_ranks;

	(void)c;
	*count = held.fd >= 0 ? w->job->node_ranks : 0;
	*entries = calloc(w->job->node_ranks, sizeof(**entries));
	growth_require(*entries, "memory");
	for (uint32_t i = 0; i < *count; i++) {
		struct smp_entry *e = &(*entries)[i];

		*e = (struct smp_entry){.epoch = held.epoch, .rank = first + i,
		                        .bytes = held.bytes};
		for (int s = 0; s < 2; s++)
			e->slot[s] = (struct commit_slot){
				(enum slot_state)w->record.state[s],
				{w->record.incarnation[s], w->record.version[s]}};
	}
	return 0;
}

int smp_create(struct smp_client *c, uint64_t epoch, uint32_t rank, uint64_t bytes, int *fd)
{
	(void)c;
	growth_require(rank == growth_world.rank && held.fd < 0, "one arena of the real rank");
	held.fd = memfd_create("growth", MFD_CLOEXEC);
	growth_require(held.fd >= 0 && ftruncate(held.fd, (off_t)bytes) == 0, "memfd");
	held.epoch = epoch;
	held.bytes = bytes;
	*fd = dup(held.fd);
	return *fd >= 0 ? 0 : error_set(FTMEM_ESYS, "dup");
}

int smp_attach(struct smp_client *c, uint64_t epoch, uint32_t rank, bool lease, int *fd)
{
	(void)c;
	(void)lease;
	growth_require(rank == growth_world.rank && epoch == held.epoch && held.fd >= 0,
	               "a rank attaches its own arena");
	*fd = dup(held.fd);
	return *fd >= 0 ? 0 : error_set(FTMEM_ESYS, "dup");
}

int smp_adopt(struct smp_client *c, uint64_t epoch, uint32_t rank, int fd)
{
	(void)c;
	(void)epoch;
	(void)rank;
	(void)fd;
	return 0;
}

int smp_release(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	(void)c;
	(void)epoch;
	(void)rank;
	return 0;
}

int smp_drop(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	(void)c;
	(void)epoch;
	(void)rank;
	return 0;
}

int smp_retire(struct smp_client *c, uint64_t epoch)
{
	(void)c;
	(void)epoch;
	return 0;
}

int smp_forget(struct smp_client *c)
{
	(void)c;
	return 0;
}

int smp_scrub_again(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	(void)c;
	(void)epoch;
	(void)rank;
	return 0;
}

int smp_check_ask(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	(void)c;
	(void)epoch;
	(void)rank;
	return FTMEM_BUSY;
}

int smp_check_take(struct smp_client *c, struct smp_entry *out)
{
	(void)c;
	(void)out;
	return FTMEM_BUSY;
}
