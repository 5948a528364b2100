/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bits flip in what is stored, between two starts: 4 ranks, one per node. What is
 * restored is exact, or the call says why not.
 */
#include "cluster.h"
#include "mpi_check.h"
#include "slot.h"
#include "test_random.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static struct cluster job;

/* Where bits flip. */
enum place {
	DATA,
	PARITY,
	SUMS,
	SLOT_HEADER,
	STATE,
	ARENA_HEADER,
	MAP,
	RAILS,
	PLACES,
};

static const char *const place_name[PLACES] = {
	"data", "parity", "checksums", "slot header", "state", "arena header", "map", "rails",
};

/* Stores versions 1 and 2. spread: sizes differ, so that stripes have blocks of no
 * bytes, whose loss costs nothing. */
static void prepare(uint32_t parity, uint32_t turn, bool spread)
{
	uint64_t bytes = 30000 + 9000 * (spread ? (job.rank + turn) % 3 : turn % 3);

	job.opts.parity = parity;
	job.opts.block_bytes = 4096;
	job.salt++;
	cluster_regions(&job, &bytes, 1);
	cluster_start(&job);
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
}

/* The bytes of a place. */
static uint8_t *find_place(struct arena *a, struct slot *s, enum place place, uint64_t *bytes)
{
	switch (place) {
	case DATA: *bytes = a->shape.data_bytes; return s->data;
	case PARITY:
		*bytes = a->rails[0].m * rail_parity_bytes(&a->rails[0]);
		return slot_parity(s, 0, 0);
	case SUMS: *bytes = a->shape.sums_bytes; return (uint8_t *)s->sums;
	case SLOT_HEADER:
		*bytes = offsetof(struct slot_header, filled_ns);
		return (uint8_t *)s->header;
	case STATE: *bytes = sizeof(s->header->state); return (uint8_t *)s->header;
	case ARENA_HEADER: *bytes = sizeof(struct arena_header); return a->base;
	case MAP: *bytes = a->header->map_bytes; return a->base + a->header->map_offset;
	default: *bytes = a->header->rails_bytes; return a->base + a->header->rails_offset;
	}
}

/* A bit, or several, of this rank's slot of a version. Both are found before the first
 * flip, since what is damaged may not be found any more. */
static void flip(struct arena *a, struct slot *s, enum place place, uint32_t count,
                 uint64_t *random)
{
	uint64_t bytes;
	uint8_t *at = find_place(a, s, place, &bytes);

	/* Several may let it look like the arena of another release, which is refused. */
	if (place == ARENA_HEADER)
		count = 1;
	for (uint32_t i = 0; i < count; i++)
		at[test_random(random) % bytes] ^= (uint8_t)(1u << test_random_below(random, 8));
}

/* Bits of version 2, and if both is set of version 1. */
static void damage(enum place place, uint32_t count, bool both, uint64_t *random)
{
	struct slot *newest;
	struct arena *a = cluster_arena(&job, 2, &newest);

	if (both)
		flip(a, &a->slot[newest == &a->slot[0]], place, count, random);
	flip(a, newest, place, count, random);
	arena_free(a);
}

static uint64_t repaired(void)
{
	return check_max(job.comm, cluster_stats(&job).repaired_blocks);
}

/* Restores version now, and again after another start: then nothing is to repair. */
static void restores(uint64_t version, bool repairs)
{
	uint64_t blocks;

	cluster_start(&job);
	cluster_restore(&job, version);
	blocks = repaired();
	CHECK_MSG((blocks > 0) == repairs, "%llu blocks repaired", (unsigned long long)blocks);
	cluster_close(&job);
	cluster_start(&job);
	cluster_restore(&job, version);
	CHECK(repaired() == 0);
	cluster_close(&job);
}

static void damage_on_one_node_is_repaired(void)
{
	uint32_t turn = 0;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	for (uint32_t m = 1; m <= 3; m++)
		for (uint32_t victim = 0; victim < 4; victim++)
			for (enum place place = 0; place < PLACES; place++, turn++) {
				uint64_t random = check_seed() + turn;

				if (check_quick() && turn % 7)
					continue;
				check_note("parity %u, rank %u, %s, turn %u", m, victim,
				           place_name[place], turn);
				prepare(m, turn, true);
				if (job.rank == victim)
					damage(place, 1 + turn % 3, false, &random);
				restores(2, place == DATA || place == PARITY);
			}
	cluster_deinit(&job);
}

/* Redundancy is whole after a repair: another may be lost. */
static void damage_on_one_node_and_the_loss_of_another(void)
{
	uint32_t turn = 0;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	for (uint32_t victim = 0; victim < 4; victim++)
		for (uint32_t lost = 0; lost < 4; lost++)
			for (enum place place = 0; place < PLACES; place++, turn++) {
				uint64_t random = check_seed() + turn;

				if (victim == lost || turn % (check_quick() ? 9 : 2))
					continue;
				check_note("rank %u, %s; node %u lost; turn %u", victim,
				           place_name[place], lost, turn);
				prepare(2, turn, true);
				if (job.rank == victim)
					damage(place, 2, false, &random);
				cluster_lose(&job, 1u << lost);
				restores(2, place == DATA || place == PARITY);
				cluster_lose(&job, 1u << victim | 1u << turn % 4);
				restores(2, false);
			}
	cluster_deinit(&job);
}

/* One bit of what this rank holds in a stripe, data or parity. */
static void damage_stripe(uint32_t stripe, uint64_t *random)
{
	struct slot *s;
	struct arena *a = cluster_arena(&job, 2, &s);
	const struct rail *r = &a->rails[0];
	uint32_t me = a->shape.member[0], row = test_random_below(random, rail_chunk_rows(r, me));
	uint8_t *block;

	if (rail_is_parity(r, stripe, me))
		block = slot_parity(s, 0, rail_parity_row(r, stripe, me)) +
		        (uint64_t)row * r->block_bytes;
	else
		block = s->data + rail_data_offset(r, me, rail_chunk(r, stripe, me), row);
	block[test_random_below(random, 64)] ^= 4;
	arena_free(a);
}

/* Whether the block is needed for what is lost, by its owner or by another, or not. */
static void any_block_of_a_row_is_repaired(void)
{
	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	for (uint32_t stripe = 0; stripe < 4; stripe++)
		for (uint32_t lost = 0; lost < 2; lost++) {
			uint64_t random = check_seed() + stripe;

			check_note("stripe %u of rank 1; %u lost", stripe, lost);
			prepare(2, stripe, false);
			if (job.rank == 1)
				damage_stripe(stripe, &random);
			cluster_lose(&job, lost ? 1u << (stripe % 2 ? 0 : 3) : 0);
			restores(2, true);
		}
	cluster_deinit(&job);
}

/* A node is lost and parity has nothing left for a bit: the older version is there. */
static void damage_beyond_parity_gives_the_older_version(void)
{
	uint32_t turn = 0;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	for (uint32_t m = 1; m <= 2; m++)
		for (enum place place = DATA; place <= STATE; place++, turn++) {
			uint64_t random = check_seed() + turn;

			check_note("parity %u, %s", m, place_name[place]);
			prepare(m, turn, false);
			if (job.rank == 3)
				damage(place, 1, false, &random);
			cluster_lose(&job, m == 1 ? 1 : 3);
			restores(1, false);
		}
	cluster_deinit(&job);
}

static void damage_beyond_parity_of_both_versions_is_refused(void)
{
	uint32_t turn = 0;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	for (uint32_t m = 1; m <= 3; m++)
		for (enum place place = DATA; place < PLACES; place++, turn++) {
			uint64_t random = check_seed() + turn, got = 99;
			int rc;

			check_note("parity %u, %s", m, place_name[place]);
			prepare(m, turn, false);
			if (job.rank == 3)
				damage(place, 1, place < ARENA_HEADER, &random);
			cluster_lose(&job, (1u << m) - 1);
			cluster_start(&job);
			cluster_poison(&job);
			rc = ftmem_restore(job.ft, &got);
			CHECK_MSG(rc == FTMEM_ECORRUPT || rc == FTMEM_ELOST, "%d (%s)", rc,
			          ftmem_strerror(rc));
			CHECK(check_same(job.comm, (uint64_t)rc) && got == 99);
			if (rc == FTMEM_ELOST)
				cluster_verify_poison(&job);
			CHECK_MESSAGE(rc == FTMEM_ELOST ? "version" : "ftmem_forget");
			CHECK_RESULT(ftmem_restore(job.ft, &got), rc);
			if (place <= PARITY)
				CHECK_RESULT(ftmem_snapshot(job.ft, 3, NULL), FTMEM_EINVAL);
			/* The user may give it up. */
			CHECK_RESULT(ftmem_forget(job.ft), 0);
			cluster_commit(&job, 1);
			cluster_close(&job);
		}
	cluster_deinit(&job);
}

/* Two ranks store version 1; four others, on other nodes, version 2. A node of either job is
 * lost; the rest starts as the four. */
static void prepare_two_jobs(void)
{
	uint64_t bytes = 30000, random = check_seed();
	struct cluster few;
	MPI_Comm two;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	job.opts.block_bytes = 4096;
	MPI_Comm_split(MPI_COMM_WORLD, job.rank < 2 ? 0 : MPI_UNDEFINED, (int)job.rank, &two);
	if (job.rank < 2) {
		cluster_init(&few, two, "1,1");
		memcpy(few.job, job.job, sizeof(few.job));
		cluster_regions(&few, &bytes, 1);
		cluster_start(&few);
		cluster_restore_fails(&few, FTMEM_FRESH);
		cluster_commit(&few, 1);
		cluster_close(&few);
		cluster_lose(&few, 2);
		cluster_regions(&few, NULL, 0);
		MPI_Comm_free(&two);
	}
	check_barrier(job.comm);
	cluster_replace(&job, 15);
	cluster_regions(&job, &bytes, 1);
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_FRESH);
	cluster_commit(&job, 2);
	cluster_close(&job);
	if (job.rank == 3)
		damage(DATA, 1, false, &random);
	cluster_lose(&job, 1);
	memcpy(job.node[0], "n0", sizeof("n0"));
}

/* What is damaged does not come into regions that the older version leaves as they are. */
static void damage_leaves_alone_what_the_older_version_does(void)
{
	uint64_t version = 0;

	prepare_two_jobs();
	job.opts.private_rule = FTMEM_PRIVATE_DROP;
	cluster_start(&job);
	cluster_poison(&job);
	CHECK_RESULT(ftmem_restore(job.ft, &version), 0);
	CHECK(version == 1);
	cluster_verify_poison(&job);
	cluster_deinit(&job);
}

/* Up to three bits anywhere in both versions. */
static void damage_anything(uint64_t *random)
{
	struct slot *newest;
	struct arena *a = cluster_arena(&job, 2, &newest);
	uint32_t count = 1 + test_random_below(random, 3);

	for (uint32_t i = 0; i < count; i++) {
		struct slot *s = &a->slot[test_random_below(random, 2)];
		enum place place =
			(enum place)test_random_below(random, i == 0 ? PLACES : SUMS + 1);

		flip(a, s, place, 1, random);
	}
	arena_free(a);
}

/* Whatever flips and whoever is lost: exact bytes of a version that was committed, the
 * newest if few are concerned, or a refusal. */
static void whatever_flips_nothing_wrong_is_restored(void)
{
	uint32_t rounds = check_quick() ? 8 : 60;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	for (uint32_t i = 0; i < rounds; i++) {
		uint64_t random = check_seed() + i, own = check_seed() * 7 + i * 64 + job.rank;
		uint32_t m = 1 + test_random_below(&random, 3);
		uint32_t lost = test_random_below(&random, 15),
			 hit = test_random_below(&random, 16);
		uint64_t got = 99;
		char a[64], b[64];
		int rc;

		lost &= test_random_below(&random, 16);
		check_note("round %u, parity %u: flips on %s, lost %s", i, m,
		           cluster_set_text(hit, a), cluster_set_text(lost, b));
		prepare(m, i, true);
		if (hit >> job.rank & 1)
			damage_anything(&own);
		cluster_lose(&job, lost);
		cluster_start(&job);
		cluster_poison(&job);
		rc = ftmem_restore(job.ft, &got);
		CHECK(check_same(job.comm, (uint64_t)rc) && check_same(job.comm, got));
		if (rc == 0) {
			CHECK(got == 1 || got == 2);
			cluster_verify(&job, got);
		} else {
			CHECK_MSG(rc == FTMEM_ELOST || rc == FTMEM_ECORRUPT, "%d", rc);
			CHECK(got == 99);
			if (rc == FTMEM_ELOST)
				cluster_verify_poison(&job);
		}
		if ((uint32_t)__builtin_popcount(hit | lost) <= m)
			CHECK_MSG(rc == 0 && got == 2, "%d, version %llu", rc,
			          (unsigned long long)got);
		cluster_close(&job);
	}
	cluster_deinit(&job);
}

/* All that is left is damaged: that is not a first start. */
static void damage_is_not_taken_for_a_first_start(void)
{
	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	for (enum place place = SUMS; place <= ARENA_HEADER; place++) {
		uint64_t random = check_seed() + place, got = 99;
		int rc;

		check_note("%s of all", place_name[place]);
		prepare(1, place, true);
		damage(place, 1, place < ARENA_HEADER, &random);
		check_barrier(job.comm);
		cluster_start(&job);
		rc = ftmem_restore(job.ft, &got);
		CHECK_MSG(rc == FTMEM_ECORRUPT || rc == FTMEM_ELOST, "%d (%s)", rc,
		          ftmem_strerror(rc));
		CHECK_MESSAGE("ftmem_forget");
		CHECK_RESULT(ftmem_forget(job.ft), 0);
		cluster_commit(&job, 1);
		cluster_close(&job);
	}
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"damage_on_one_node_is_repaired", damage_on_one_node_is_repaired},
		{"damage_on_one_node_and_the_loss_of_another",
	         damage_on_one_node_and_the_loss_of_another},
		{"any_block_of_a_row_is_repaired", any_block_of_a_row_is_repaired},
		{"damage_beyond_parity_gives_the_older_version",
	         damage_beyond_parity_gives_the_older_version},
		{"damage_beyond_parity_of_both_versions_is_refused",
	         damage_beyond_parity_of_both_versions_is_refused},
		{"damage_leaves_alone_what_the_older_version_does",
	         damage_leaves_alone_what_the_older_version_does},
		{"whatever_flips_nothing_wrong_is_restored",
	         whatever_flips_nothing_wrong_is_restored},
		{"damage_is_not_taken_for_a_first_start", damage_is_not_taken_for_a_first_start},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
