/* SPDX-License-Identifier: BSD-3-Clause */
/* Whether what the ranks of fault_trainer store is whole: looks into the library's memory. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fault_trainer.h"

static void name_bad(void *arg, uint32_t rail, bool parity, uint32_t index, uint32_t row)
{
	const struct trainer *t = arg;

	fprintf(stderr, "trainer: rank %d: rail %u: %s %u, row %u fails its checksum\n", t->rank,
	        rail, parity ? "parity row" : "chunk", index, row);
}

void whole_check(struct trainer *t)
{
	const struct arena *a = t->ft->epoch->arena;
	struct ftmem_stats stats = FTMEM_STATS_INIT;
	int held = 0;

	for (int i = 0; i < 2; i++) {
		struct stamp stamp;
		bool damaged = false;
		enum slot_state state = slot_read(&a->slot[i], &stamp, &damaged);

		if (damaged || (state != SLOT_EMPTY && state != SLOT_COMMITTED))
			quit(t, NOT_WHOLE, "slot %d is in state %#x%s after the restore", i,
			     (unsigned)state, damaged ? ", damaged" : "");
		if (state == SLOT_EMPTY)
			continue;
		held++;
		if (stamp.version != t->restored)
			quit(t, NOT_WHOLE,
			     "slot %d holds version %" PRIu64 " after version %" PRIu64
			     " was restored",
			     i, stamp.version, t->restored);
		if (slot_verify(&a->slot[i], name_bad, t) > 0)
			quit(t, NOT_WHOLE, "version %" PRIu64 " is damaged after the restore",
			     stamp.version);
	}
	if (held != !t->fresh)
		quit(t, NOT_WHOLE, "%d slots hold a version after the restore", held);
	check(t, ftmem_stats(t->ft, &stats), "ftmem_stats");
	if (t->fresh ? stats.stored != 0 : !stats.stored || stats.newest != t->restored)
		quit(t, NOT_WHOLE, "the statistics say that version %" PRIu64 " is stored",
		     stats.newest);
}

/* The slot that holds the version, committed. */
static const struct slot *stored_slot(const struct trainer *t, uint64_t version)
{
	const struct arena *a = t->ft->epoch->arena;

	for (int i = 0; i < 2; i++) {
		struct stamp stamp;
		bool damaged;

		if (slot_read(&a->slot[i], &stamp, &damaged) == SLOT_COMMITTED
		    && stamp.version == version)
			return &a->slot[i];
	}
	quit(t, NOT_WHOLE, "version %" PRIu64 " is not in this rank's memory", version);
}

void whole_repair(struct trainer *t, uint64_t version)
{
	const struct slot *s = stored_slot(t, version);
	uint64_t blocks = 0;
	int rc = FTMEM_ESMP;

	/* Its slot cannot be read any more, and a block in it is wrong. */
	if (t->rank == 1) {
		s->header->header_sum ^= 1;
		s->data[0] ^= 1;
	}
	MPI_Barrier(MPI_COMM_WORLD);
	for (int i = 0; rc == FTMEM_ESMP && i < TRIES; i++)
		rc = ftmem_repair(t->ft, &blocks);
	check(t, rc, "ftmem_repair");
	if (slot_verify(stored_slot(t, version), name_bad, t) > 0)
		quit(t, NOT_WHOLE, "version %" PRIu64 " is damaged after its repair", version);
}

bool whole_held(const struct trainer *t)
{
	const struct opts *o = &t->ft->opts;
	const struct smp_config config = {.dir = o->dir,
	                                  .job = o->job,
	                                  .node = o->node,
	                                  .rank = WIRE_RANK_OBSERVER,
	                                  .timeout_ms = 5000};
	struct smp_client *smp = NULL;
	struct smp_entry *entry = NULL;
	uint32_t count = 0;
	bool held = false;

	if (smp_connect(&config, &smp) == 0 && smp_list(smp, &entry, &count) == 0)
		for (uint32_t i = 0; i < count; i++)
			held = held
			       || (entry[i].epoch == t->ft->epoch->number
			           && entry[i].rank == (uint32_t)t->rank);
	free(entry);
	smp_close(smp);
	return held;
}

/* What this rank stores is as good as lost. Returns a copy of it. */
static uint8_t *spoil(const struct trainer *t, uint64_t version)
{
	const struct slot *stored = stored_slot(t, version);
	struct arena *a = t->ft->epoch->arena;
	uint8_t *was = malloc(a->shape.slot_bytes);

	if (!was)
		quit(t, FAILED, "no memory");
	memcpy(was, stored->base, a->shape.slot_bytes);
	for (int i = 0; i < 2; i++) {
		slot_set_empty(&a->slot[i]);
		/* All but the state, which comes first. */
		memset(a->slot[i].base + sizeof(uint64_t), 0xdd,
		       a->shape.slot_bytes - sizeof(uint64_t));
	}
	return was;
}

/* Parity that is made of the data of others is what was stored: it was right. */
static void check_rebuilt(const struct trainer *t, const uint8_t *was)
{
	const struct slot *now = stored_slot(t, t->restored);
	const struct slot_shape *shape = now->shape;

	if (memcmp(now->data, was + shape->data_offset, shape->data_bytes) != 0)
		quit(t, NOT_WHOLE, "version %" PRIu64 ": rebuilt data differs", t->restored);
	for (uint32_t i = 0; i < shape->rails; i++)
		if (memcmp(slot_parity(now, i, 0), was + shape->parity_offset[i],
		           shape->rail[i].m * rail_parity_bytes(&shape->rail[i]))
		    != 0)
			quit(t, NOT_WHOLE,
			     "version %" PRIu64 ": parity in rail %" PRIu32 " was not that of the "
			     "data",
			     t->restored, i);
}

static void prove_without(struct trainer *t, bool lost, uint64_t version)
{
	uint8_t *was = lost ? spoil(t, version) : NULL;

	state_poison(t);
	MPI_Barrier(MPI_COMM_WORLD);
	t->fresh = check(t, restore(t), "ftmem_restore") == FTMEM_FRESH;
	if (t->fresh || t->restored != version)
		quit(t, NOT_WHOLE,
		     "version %" PRIu64 " was stored, version %" PRIu64 " came back without some",
		     version, t->fresh ? 0 : t->restored);
	check_state(t);
	whole_check(t);
	if (was)
		check_rebuilt(t, was);
	free(was);
}

/* Whether so many of each group's nodes are in the set: a bit each, as the map numbers them. */
static bool covered(const struct map *map, uint64_t lost)
{
	for (uint32_t g = 0; g < map->groups; g++) {
		uint32_t count = 0;

		for (uint32_t i = 0; i < map->nodes; i++)
			count += map->node[i].group == g && (lost >> i & 1);
		if (count != map->parity)
			return false;
	}
	return true;
}

void whole_prove(struct trainer *t)
{
	const struct map *map = t->ft->map;
	struct ftmem_stats stats = FTMEM_STATS_INIT;
	uint32_t mine = map->node_of_rank[t->rank];

	if (!t->prove)
		return;
	check(t, ftmem_stats(t->ft, &stats), "ftmem_stats");
	for (uint64_t lost = 0; stats.stored && lost < UINT64_C(1) << map->nodes; lost++)
		if (covered(map, lost))
			prove_without(t, lost >> mine & 1, stats.newest);
}
