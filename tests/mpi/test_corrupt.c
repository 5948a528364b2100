/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is stored is damaged between two starts: 4 ranks, one per node. What is restored is
 * exact, or the call says why not. test_repair.c does the same without a restart.
 */
#include "cluster.h"
#include "damage.h"
#include "mpi_check.h"
#include "test_random.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct cluster job;
static uint32_t shape; /* of the job that runs: parity and sizes */

static void begin(void)
{
	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	job.opts.block_bytes = 4096;
	shape = UINT32_MAX;
}

/* Stores versions 1 and 2, in the job that runs if it has that shape. spread: sizes differ, so
 * that stripes have blocks of no bytes, whose loss costs nothing. */
static void prepare(uint32_t parity, uint32_t turn, bool spread)
{
	uint64_t bytes = 30000 + 9000 * (spread ? (job.rank + turn) % 3 : turn % 3);
	uint32_t wanted = parity * 8 + turn % 3 * 2 + spread;

	if (job.ft && shape != wanted)
		cluster_close(&job);
	job.salt++;
	if (!job.ft) {
		job.opts.parity = parity;
		cluster_regions(&job, &bytes, 1);
		cluster_start(&job);
		shape = wanted;
	}
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
}

static struct damage flips(enum damage_place place, uint32_t bits)
{
	return (struct damage){place, DAMAGE_FLIP, DAMAGE_ANY, bits, DAMAGE_ANY};
}

/* Damages version 2, and if both is set version 1. Whether that counts. */
static bool damage(const struct damage *d, bool both, uint64_t *random)
{
	struct slot *newest;
	struct arena *a = cluster_arena(&job, 2, &newest);
	bool counts = both && damage_do(a, &a->slot[newest == &a->slot[0]], d, random);

	counts = damage_do(a, newest, d, random) || counts;
	arena_free(a);
	return counts;
}

static uint64_t repaired(void)
{
	return check_max(job.comm, cluster_stats(&job).repaired_blocks);
}

/* Restores version after another start, and then once more: nothing is left to repair. The job
 * runs on. */
static void restores(uint64_t version, bool repairs)
{
	struct slot *newest;
	uint64_t blocks;

	cluster_start(&job);
	cluster_restore(&job, version);
	blocks = repaired();
	CHECK_MSG((blocks > 0) == repairs, "%llu blocks repaired", (unsigned long long)blocks);
	cluster_restore(&job, version);
	CHECK(repaired() == blocks);
	arena_free(damage_none(&job, version, &newest));
}

static uint64_t own_digest(void)
{
	struct slot *newest;
	struct arena *a = cluster_arena(&job, 2, &newest);
	uint64_t digest = damage_digest(newest);

	arena_free(a);
	return digest;
}

/* That the ranks hold the very bytes that they held before. */
static void check_bytes(uint64_t digest)
{
	CHECK_MSG(own_digest() == digest, "data or parity are not what they were");
}

static bool in_blocks(enum damage_place place)
{
	return place == DAMAGE_DATA || place == DAMAGE_LAYOUT || place == DAMAGE_PARITY;
}

/* That the log of a rank says what was the matter there. Zeros look like what was never written. */
static void check_told(const struct damage *d)
{
	enum damage_place place = d->place;

	if (damage_looks_empty(d) || (place == DAMAGE_RUN && d->kind == DAMAGE_ZEROS))
		return;
	CHECK_MSG(check_logged(in_blocks(place) ? "fail their checksum" : "counted as lost") ||
	                  check_logged("; lost: rank") ||
	                  (place == DAMAGE_RUN && check_logged("last run is damaged")),
	          "damage was passed over in silence");
}

/* The damage on as many ranks as parity covers, less the nodes that are lost. */
static void comes_back(const struct damage *d, uint32_t parity, uint32_t hit, uint32_t lost,
                       uint64_t *random)
{
	uint64_t digest = own_digest(), own = *random + job.rank, blocks;
	bool counts = false;
	struct slot *newest;

	test_random(random);
	cluster_close(&job);
	if (hit >> job.rank & 1)
		counts = damage(d, false, &own);
	cluster_lose(&job, lost);
	check_log_forget();
	cluster_start(&job);
	cluster_restore(&job, 2);
	if (counts)
		check_told(d);
	counts = check_max(job.comm, counts) > 0;
	blocks = repaired();
	CHECK_MSG((blocks > 0) == (counts && in_blocks(d->place)), "%llu blocks repaired",
	          (unsigned long long)blocks);
	check_bytes(digest);
	arena_free(damage_none(&job, 2, &newest));
	damage_count(counts ? DAMAGE_MENDED : DAMAGE_HARMLESS, (uint32_t)__builtin_popcount(hit));
	/* Redundancy is whole. */
	if (test_random_below(random, 8) > 0)
		return;
	cluster_close(&job);
	cluster_lose(&job, (1u << parity) - 1);
	cluster_start(&job);
	cluster_restore(&job, 2);
}

static uint32_t choose_ranks(uint32_t count, uint32_t but, uint64_t *random)
{
	uint32_t set = 0;

	while ((uint32_t)__builtin_popcount(set) < count)
		set |= (1u << test_random_below(random, 4)) & ~but;
	return set;
}

/* Every field of every header, bits and pages of everything else; nodes lost, too. */
static void whatever_parity_covers_comes_back(void)
{
	uint32_t rounds = check_full() ? 8 : 1, every = check_quick() ? 7 : 1;
	uint64_t random = check_seed();
	struct damage d;
	char text[96], a[64], b[64];

	begin();
	for (uint32_t m = 1; m <= 3; m++)
		for (uint32_t round = 0; round < rounds; round++)
			for (uint32_t i = 0; damage_number(i, 1 + i % 3, &d); i++) {
				uint32_t hits = 1 + test_random_below(&random, m);
				uint32_t hit = choose_ranks(hits, 0, &random);
				uint32_t lost = choose_ranks(
					test_random_below(&random, m - hits + 1), hit, &random);

				if (!check_full() && (i + m) % (2 * every))
					continue;
				check_note("parity %u, %s on %s, %s lost", m,
				           damage_text(&d, text), cluster_set_text(hit, a),
				           cluster_set_text(lost, b));
				prepare(m, round + i / 24, true);
				comes_back(&d, m, hit, lost, &random);
			}
	cluster_deinit(&job);
}

/* Whether the block is needed for what is lost, by its owner or by another, or not. */
static void any_block_of_a_row_is_repaired(void)
{
	begin();
	for (uint32_t stripe = 0; stripe < 4; stripe++)
		for (uint32_t lost = 0; lost < 2; lost++) {
			uint64_t random = check_seed() + stripe;
			struct slot *s;

			check_note("stripe %u of rank 1; %u lost", stripe, lost);
			prepare(2, 0, false);
			cluster_close(&job);
			if (job.rank == 1) {
				struct arena *a = cluster_arena(&job, 2, &s);

				damage_stripe(a, s, stripe, &random);
				arena_free(a);
			}
			cluster_lose(&job, lost ? 1u << (stripe % 2 ? 0 : 3) : 0);
			restores(2, true);
			damage_count(DAMAGE_MENDED, 1);
		}
	cluster_deinit(&job);
}

/* Two bits, of which one is in the number of the format: an SMP holds one format alone. */
static void a_damaged_header_is_not_taken_for_another_release(void)
{
	struct slot *s;

	begin();
	prepare(1, 0, false);
	cluster_close(&job);
	if (job.rank == 1) {
		struct arena *a = cluster_arena(&job, 2, &s);

		a->base[offsetof(struct arena_header, format)] ^= 1;
		a->base[offsetof(struct arena_header, epoch)] ^= 1;
		arena_free(a);
	}
	check_barrier(job.comm);
	restores(2, false);
	damage_count(DAMAGE_MENDED, 1);
	cluster_deinit(&job);
}

/* A node is lost and parity has nothing left for a bit: the older version is there. */
static void damage_beyond_parity_gives_the_older_version(void)
{
	uint32_t turn = 0;

	begin();
	for (uint32_t m = 1; m <= 2; m++)
		for (enum damage_place place = DAMAGE_DATA; place <= DAMAGE_STATE;
		     place++, turn++) {
			uint64_t random = check_seed() + turn;
			struct damage d = flips(place, 1);

			check_note("parity %u, %s", m, damage_place_name[place]);
			prepare(m, turn / 4, false);
			cluster_close(&job);
			if (place == DAMAGE_SLOT_HEADER)
				d.field = turn % 6; /* all but the time */
			if (job.rank == 3)
				CHECK(damage(&d, false, &random));
			cluster_lose(&job, m == 1 ? 1 : 3);
			restores(1, false);
			damage_count(DAMAGE_OLDER, 1);
		}
	cluster_deinit(&job);
}

static void damage_beyond_parity_of_both_versions_is_refused(void)
{
	uint32_t turn = 0;

	begin();
	for (uint32_t m = 1; m <= 3; m++)
		for (enum damage_place place = DAMAGE_DATA; place <= DAMAGE_RAILS;
		     place++, turn++) {
			uint64_t random = check_seed() + turn, got = 99;
			struct damage d = flips(place, 1);
			int rc;

			check_note("parity %u, %s", m, damage_place_name[place]);
			prepare(m, turn / 9, false);
			cluster_close(&job);
			if (place == DAMAGE_SLOT_HEADER)
				d.field = turn % 6;
			if (job.rank == 3)
				CHECK(damage(&d, place < DAMAGE_ARENA_HEADER, &random));
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
			if (place <= DAMAGE_PARITY)
				CHECK_RESULT(ftmem_snapshot(job.ft, 3, NULL), FTMEM_EINVAL);
			/* The user may give it up. */
			CHECK_RESULT(ftmem_forget(job.ft), 0);
			cluster_commit(&job, 1);
			damage_count(DAMAGE_REFUSED, 1);
		}
	cluster_deinit(&job);
}

/* Two ranks store version 1; four others, on other nodes, version 2. A node of either job is
 * lost; the rest starts as the four. */
static void prepare_two_jobs(void)
{
	uint64_t bytes = 30000, random = check_seed();
	const struct damage d = flips(DAMAGE_DATA, 1);
	struct cluster few;
	MPI_Comm two;

	begin();
	MPI_Comm_split(MPI_COMM_WORLD, job.rank < 2 ? 0 : MPI_UNDEFINED, (int)job.rank, &two);
	if (job.rank < 2) {
		cluster_init(&few, two, "1,1");
		memcpy(few.job, job.job, sizeof(few.job));
		cluster_regions(&few, &bytes, 1);
		cluster_start_fresh(&few);
		cluster_commit(&few, 1);
		cluster_close(&few);
		cluster_lose(&few, 2);
		cluster_regions(&few, NULL, 0);
		MPI_Comm_free(&two);
	}
	check_barrier(job.comm);
	cluster_replace(&job, 15);
	cluster_regions(&job, &bytes, 1);
	cluster_start_fresh(&job);
	cluster_commit(&job, 2);
	cluster_close(&job);
	if (job.rank == 3)
		damage(&d, false, &random);
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

/* Up to three bits or pages anywhere in both versions. */
static bool damage_anything(uint64_t *random)
{
	struct slot *newest;
	struct arena *a = cluster_arena(&job, 2, &newest);
	uint32_t count = 1 + test_random_below(random, 3);
	bool counts = false;

	for (uint32_t i = 0; i < count; i++) {
		const struct slot *s = &a->slot[test_random_below(random, 2)];
		/* Only one in what describes the others. */
		struct damage d = flips((enum damage_place)test_random_below(
						random, i == 0 ? DAMAGE_PLACES : DAMAGE_SUMS + 1),
		                        1);

		if (test_random_below(random, 3) == 0)
			d.kind = (enum damage_kind)test_random_below(random, DAMAGE_KINDS);
		counts = damage_do(a, s, &d, random) || counts;
	}
	arena_free(a);
	return counts;
}

/* Whatever flips and whoever is lost: exact bytes of a version that was committed, the
 * newest if few are concerned, or a refusal. */
static void whatever_flips_nothing_wrong_is_restored(void)
{
	uint32_t rounds = check_full() ? 1000 : check_quick() ? 8 : 60;

	begin();
	for (uint32_t i = 0; i < rounds; i++) {
		uint64_t random = check_seed() + i, own = check_seed() * 7 + i * 64 + job.rank;
		uint32_t m = 1 + i * 3 / rounds, hits;
		uint32_t lost = test_random_below(&random, 15),
			 hit = test_random_below(&random, 16);
		uint64_t got = 99;
		bool counts = false;
		char a[64], b[64];
		int rc;

		lost &= test_random_below(&random, 16);
		hits = (uint32_t)__builtin_popcount(hit);
		check_note("round %u, parity %u: damage on %s, lost %s", i, m,
		           cluster_set_text(hit, a), cluster_set_text(lost, b));
		prepare(m, i / 16, true);
		cluster_close(&job);
		if (hit >> job.rank & 1)
			counts = damage_anything(&own);
		counts = check_max(job.comm, counts) > 0;
		cluster_lose(&job, lost);
		cluster_start(&job);
		cluster_poison(&job);
		rc = ftmem_restore(job.ft, &got);
		CHECK(check_same(job.comm, (uint64_t)rc) && check_same(job.comm, got));
		if (rc == 0) {
			CHECK(got == 1 || got == 2);
			cluster_verify(&job, got);
			damage_count(got == 1  ? DAMAGE_OLDER
			             : counts ? DAMAGE_MENDED
			                      : DAMAGE_HARMLESS,
			             hits);
		} else {
			CHECK_MSG(rc == FTMEM_ELOST || rc == FTMEM_ECORRUPT, "%d", rc);
			CHECK(got == 99);
			if (rc == FTMEM_ELOST)
				cluster_verify_poison(&job);
			damage_count(DAMAGE_REFUSED, hits);
		}
		if ((uint32_t)__builtin_popcount(hit | lost) <= m)
			CHECK_MSG(rc == 0 && got == 2, "%d, version %llu", rc,
			          (unsigned long long)got);
	}
	cluster_deinit(&job);
}

/* All that is left is damaged: that is not a first start. */
static void damage_is_not_taken_for_a_first_start(void)
{
	begin();
	for (enum damage_place place = DAMAGE_SUMS; place <= DAMAGE_ARENA_HEADER; place++) {
		uint64_t random = check_seed() + place, got = 99;
		struct damage d = flips(place, 1);
		int rc;

		check_note("%s of all", damage_place_name[place]);
		prepare(1, 0, true);
		cluster_close(&job);
		if (place == DAMAGE_SLOT_HEADER)
			d.field = (uint32_t)(random % 6);
		CHECK(damage(&d, place < DAMAGE_ARENA_HEADER, &random));
		check_barrier(job.comm);
		cluster_start(&job);
		rc = ftmem_restore(job.ft, &got);
		CHECK_MSG(rc == FTMEM_ECORRUPT || rc == FTMEM_ELOST, "%d (%s)", rc,
		          ftmem_strerror(rc));
		CHECK_MESSAGE("ftmem_forget");
		CHECK_RESULT(ftmem_forget(job.ft), 0);
		cluster_commit(&job, 1);
		damage_count(DAMAGE_REFUSED, 4);
	}
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"whatever_parity_covers_comes_back", whatever_parity_covers_comes_back},
		{"any_block_of_a_row_is_repaired", any_block_of_a_row_is_repaired},
		{"a_damaged_header_is_not_taken_for_another_release",
	         a_damaged_header_is_not_taken_for_another_release},
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
	int status;

	check_init(&argc, &argv);
	status = CHECK_RUN(cases);
	damage_say("damage between two starts");
	return status;
}
