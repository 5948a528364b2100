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
	DATA, PARITY, SUMS, SLOT_HEADER, STATE, ARENA_HEADER, MAP, RAILS, PLACES,
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

/* This rank's own arena, to be written to. */
static struct arena *own_arena(void)
{
	struct smp_client *smp = cluster_smp(&job, job.node_of[job.rank]);
	struct smp_entry *entry = NULL;
	struct arena *a = NULL;
	uint32_t count = 0;
	int fd = -1;

	CHECK(smp);
	CHECK_RESULT(smp_list(smp, &entry, &count), 0);
	CHECK(count == 1 && entry[0].rank == job.rank);
	CHECK_RESULT(smp_attach(smp, entry[0].epoch, job.rank, false, &fd), 0);
	CHECK_RESULT(arena_attach(fd, true, &a), 0);
	free(entry);
	smp_close(smp);
	return a;
}

/* The slot that holds version, by what it says itself. */
static struct slot *find_slot(struct arena *a, uint64_t version)
{
	for (int i = 0; i < 2; i++)
		if (a->slot[i].header->version == version)
			return &a->slot[i];
	check_failed(__FILE__, __LINE__, "version %llu is not there", (unsigned long long)version);
}

/* The bytes of a place. */
static uint8_t *find_place(struct arena *a, struct slot *s, enum place place, uint64_t *bytes)
{
	switch (place) {
	case DATA:
		*bytes = a->shape.data_bytes;
		return s->data;
	case PARITY:
		*bytes = a->rails[0].m * rail_parity_bytes(&a->rails[0]);
		return slot_parity(s, 0, 0);
	case SUMS:
		*bytes = a->shape.sums_bytes;
		return (uint8_t *)s->sums;
	case SLOT_HEADER:
		*bytes = offsetof(struct slot_header, filled_ns);
		return (uint8_t *)s->header;
	case STATE:
		*bytes = sizeof(s->header->state);
		return (uint8_t *)s->header;
	case ARENA_HEADER:
		*bytes = sizeof(struct arena_header);
		return a->base;
	case MAP:
		*bytes = a->header->map_bytes;
		return a->base + a->header->map_offset;
	default:
		*bytes = a->header->rails_bytes;
		return a->base + a->header->rails_offset;
	}
}

static void flip(uint64_t version, enum place place, uint32_t count, uint64_t *random)
{
	struct arena *a = own_arena();
	uint64_t bytes;
	uint8_t *at = find_place(a, find_slot(a, version), place, &bytes);

	/* Several may let it look like the arena of another release, which is refused. */
	if (place == ARENA_HEADER)
		count = 1;
	for (uint32_t i = 0; i < count; i++)
		at[test_random(random) % bytes] ^= (uint8_t)(1u << test_random_below(random, 8));
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
					flip(2, place, 1 + turn % 3, &random);
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
					flip(2, place, 2, &random);
				cluster_lose(&job, 1u << lost);
				restores(2, place == DATA || place == PARITY);
				cluster_lose(&job, 1u << victim | 1u << turn % 4);
				restores(2, false);
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
				flip(2, place, 1, &random);
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
			/* After this what lies behind a damaged arena header is not found. */
			if (job.rank == 3 && place < ARENA_HEADER)
				flip(1, place, 1, &random);
			if (job.rank == 3)
				flip(2, place, 1, &random);
			cluster_lose(&job, (1u << m) - 1);
			cluster_start(&job);
			rc = ftmem_restore(job.ft, &got);
			CHECK_MSG(rc == FTMEM_ECORRUPT || rc == FTMEM_ELOST, "%d (%s)", rc,
			          ftmem_strerror(rc));
			CHECK(check_same(job.comm, (uint64_t)rc) && got == 99);
			CHECK_MESSAGE(rc == FTMEM_ELOST ? "version" : "ftmem_forget");
			CHECK_RESULT(ftmem_restore(job.ft, &got), rc);
			/* The user may give it up. */
			CHECK_RESULT(ftmem_forget(job.ft), 0);
			cluster_commit(&job, 1);
			cluster_close(&job);
		}
	cluster_deinit(&job);
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
		uint32_t lost = test_random_below(&random, 15), hit = test_random_below(&random, 16);
		uint64_t got = 99;
		char a[64], b[64];
		int rc;

		lost &= test_random_below(&random, 16);
		check_note("round %u, parity %u: flips on %s, lost %s", i, m, cluster_set_text(hit, a),
		           cluster_set_text(lost, b));
		prepare(m, i, true);
		for (uint32_t j = 0; hit >> job.rank & 1 && j < 3; j++) {
			enum place place = (enum place)test_random_below(&own, j < 2 ? SUMS + 1 : PLACES);

			if (j < 2 || test_random_below(&own, 2))
				flip(j == 0 || place >= ARENA_HEADER ? 2 : 1, place, 1, &own);
			if (place == STATE || place == SLOT_HEADER)
				break;
		}
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
		}
		if ((uint32_t)__builtin_popcount(hit | lost) <= m)
			CHECK_MSG(rc == 0 && got == 2, "%d, version %llu", rc, (unsigned long long)got);
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
		if (place < ARENA_HEADER)
			flip(1, place, 1, &random);
		flip(2, place, 1, &random);
		check_barrier(job.comm);
		cluster_start(&job);
		rc = ftmem_restore(job.ft, &got);
		CHECK_MSG(rc == FTMEM_ECORRUPT || rc == FTMEM_ELOST, "%d (%s)", rc, ftmem_strerror(rc));
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
		{"damage_beyond_parity_gives_the_older_version",
		 damage_beyond_parity_gives_the_older_version},
		{"damage_beyond_parity_of_both_versions_is_refused",
		 damage_beyond_parity_of_both_versions_is_refused},
		{"whatever_flips_nothing_wrong_is_restored", whatever_flips_nothing_wrong_is_restored},
		{"damage_is_not_taken_for_a_first_start", damage_is_not_taken_for_a_first_start},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
