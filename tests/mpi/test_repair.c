/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ftmem_repair(): what is stored is damaged while the job runs, and mended without a restart.
 * All fields of all headers, bits and pages everywhere else, in either slot, on as many ranks as
 * parity covers, and on one more.
 */
#include "clock.h"
#include "cluster.h"
#include "damage.h"
#include "mpi_check.h"
#include "rescue.h"
#include "smp/scrub.h"
#include "test_random.h"
#include "wrapped.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct cluster job;
static uint64_t version; /* committed last */

/* --- crashes in the middle --- */

int __real_rescue_prepare(struct rescue *r, bool all);
int __wrap_rescue_prepare(struct rescue *r, bool all);
int __real_rescue_rebuild(struct rescue *r, const struct rebuild_pass *pass,
                          struct rebuild_report *report);
int __wrap_rescue_rebuild(struct rescue *r, const struct rebuild_pass *pass,
                          struct rebuild_report *report);
int __real_rescue_hold(struct rescue *r);
int __wrap_rescue_hold(struct rescue *r);

enum point { NOWHERE, PREPARED, REBUILT, HELD, POINTS };
static enum point crash;

/* All ranks come so far and no further. */
static int end_at(enum point point, int rc)
{
	return crash == point ? FTMEM_ESYS : rc;
}

int __wrap_rescue_prepare(struct rescue *r, bool all)
{
	return end_at(PREPARED, __real_rescue_prepare(r, all));
}

int __wrap_rescue_rebuild(struct rescue *r, const struct rebuild_pass *pass,
                          struct rebuild_report *report)
{
	return end_at(REBUILT, __real_rescue_rebuild(r, pass, report));
}

int __wrap_rescue_hold(struct rescue *r)
{
	return end_at(HELD, __real_rescue_hold(r));
}

/* --- what takes long --- */

int __real_session_agree_late(struct ftmem *ft, int rc, uint64_t bytes, const char *what);
int __wrap_session_agree_late(struct ftmem *ft, int rc, uint64_t bytes, const char *what);

/* Bytes that this rank went through since it last met the others. */
static uint64_t gone_through;
static uint32_t impatient;

uint64_t __wrap_slot_verify(const struct slot *s,
                            void (*bad)(void *, uint32_t, bool, uint32_t, uint32_t), void *arg)
{
	gone_through += s->shape->data_bytes;
	return __real_slot_verify(s, bad, arg);
}

int __wrap_session_agree_late(struct ftmem *ft, int rc, uint64_t bytes, const char *what)
{
	impatient += bytes < gone_through;
	gone_through = 0;
	return __real_session_agree_late(ft, rc, bytes, what);
}

int __wrap_net_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                         uint64_t deadline_ns, const char *what)
{
	impatient += gone_through > 0;
	gone_through = 0;
	return __real_net_allreduce(net, words, count, op, deadline_ns, what);
}

/* --- trials --- */

/* A job with a version stored. */
static void begin(const char *layout, uint32_t parity, uint64_t bytes)
{
	version = 0;
	cluster_init(&job, MPI_COMM_WORLD, layout);
	job.opts.parity = parity;
	job.opts.block_bytes = 4096;
	cluster_regions(&job, &bytes, 1);
	cluster_start(&job);
	cluster_commit(&job, ++version);
}

static uint64_t sum(uint64_t value)
{
	uint64_t all = 0;

	MPI_Allreduce(&value, &all, 1, MPI_UINT64_T, MPI_SUM, job.comm);
	return all;
}

static uint64_t repaired(void)
{
	return sum(cluster_stats(&job).repaired_blocks);
}

/* A set of so many ranks, the same everywhere. */
static uint32_t choose_ranks(uint32_t count, uint64_t *random)
{
	uint32_t set = 0;

	while ((uint32_t)__builtin_popcount(set) < count)
		set |= 1u << test_random_below(random, job.size);
	return set;
}

/* Commits a version, damages it, or the one before it, and says whether that counts. *digest: of
 * this rank's newest before. */
static bool commit_and_damage(const struct damage *d, bool older, uint32_t hit, uint64_t *random,
                              uint64_t *digest)
{
	struct slot *newest, *target;
	struct arena *a;
	bool changed = false;

	cluster_commit(&job, ++version);
	a = cluster_arena(&job, version, &newest);
	*digest = damage_digest(newest);
	target = older ? &a->slot[newest == &a->slot[0]] : newest;
	if (hit >> job.rank & 1)
		changed = damage_do(a, target, d, random);
	arena_free(a);
	return check_max(job.comm, changed) > 0;
}

static void mends(const struct damage *d, bool older, uint32_t hit, uint64_t *random)
{
	uint64_t digest, blocks = 99, own = *random + job.rank, before = repaired();
	bool counts = commit_and_damage(d, older, hit, &own, &digest);
	struct slot *newest;
	struct arena *a;

	test_random(random);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), 0);
	CHECK(check_same(job.comm, blocks));
	/* What an older version is replaced by nothing else tells. */
	CHECK_MSG((blocks > 0) == counts || (older && damage_looks_empty(d)), "%llu blocks mended",
	          (unsigned long long)blocks);
	CHECK(repaired() == before + blocks);
	a = damage_none(&job, version, &newest);
	CHECK_MSG(damage_digest(newest) == digest, "not what was there before");
	arena_free(a);
	cluster_verify(&job, version);
	damage_count(counts ? DAMAGE_MENDED : DAMAGE_HARMLESS,
	             (uint32_t)__builtin_popcount(hit));
}

/* All there is of damage, in the newest version or the one before. */
static void mend_all(uint32_t parity, uint32_t every, uint64_t *random)
{
	struct damage d;
	char text[96], set[64];

	for (uint32_t i = 0; damage_number(i, 1 + i % 3, &d); i++)
		for (int older = 0; older < 2; older++) {
			uint32_t hit;

			if ((older && d.place > DAMAGE_STATE) || (i + (uint32_t)older) % every)
				continue;
			hit = choose_ranks(1 + (i + (uint32_t)older) % parity, random);
			check_note("parity %u, %s of the %s version, ranks %s, version %llu",
			           parity, damage_text(&d, text), older ? "older" : "newest",
			           cluster_set_text(hit, set), (unsigned long long)version + 1);
			mends(&d, older, hit, random);
			if (i % 16 == 0)
				cluster_restore(&job, version);
		}
}

static void whatever_is_damaged_is_mended_in_place(void)
{
	uint32_t rounds = check_full() ? 8 : 1;
	uint64_t random = check_seed();

	for (uint32_t m = 1; m <= 3; m++) {
		begin("1,1,1,1", m, 30000 + 7000 * (job.rank + m));
		for (uint32_t i = 0; i < rounds; i++)
			mend_all(m, check_quick() ? 7 : check_full() || m == 2 ? 1 : 2, &random);
		cluster_deinit(&job);
	}
}

/* Nodes of unequal numbers of ranks: ranks that hold parity of several rails. */
static void ranks_with_parity_of_several_rails_are_mended(void)
{
	uint64_t random = check_seed() * 3;

	begin("2,1,1", 1, 25000 + 900 * job.rank);
	mend_all(1, check_full() ? 1 : check_quick() ? 13 : 5, &random);
	cluster_deinit(&job);
}

/* Each bit of both headers. */
static void every_bit_of_the_headers_is_mended(void)
{
	static const enum damage_place header[] = {DAMAGE_ARENA_HEADER, DAMAGE_SLOT_HEADER};
	uint64_t random = check_seed() * 5;
	uint32_t every = check_full() ? 1 : check_quick() ? 601 : 71;

	begin("1,1,1,1", 2, 9000);
	for (int h = 0; h < 2; h++) {
		uint32_t bits = header[h] == DAMAGE_ARENA_HEADER ? sizeof(struct arena_header)
		                                                 : sizeof(struct slot_header);

		for (uint32_t bit = (uint32_t)(check_seed() % every); bit < bits * 8;
		     bit += every) {
			struct damage d = {header[h], DAMAGE_FLIP, DAMAGE_ANY, 1, bit};

			check_note("bit %u of header %d", bit, h);
			mends(&d, false, 1u << bit % 4, &random);
		}
	}
	cluster_deinit(&job);
}

/* Ranks wait for each other the longer the more any of them goes through. */
static void ranks_have_time_to_look_through_what_they_hold(void)
{
	uint64_t blocks;

	begin("1,1,1,1", 1, 30000);
	cluster_commit(&job, ++version);
	impatient = 0;
	gone_through = 0;
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), 0);
	CHECK_MSG(impatient == 0, "%u times a rank was not given time", impatient);
	cluster_deinit(&job);
}

/* So many blocks that the slot counts as lost, though it can be read. */
static void a_slot_with_very_many_bad_blocks_is_rebuilt(void)
{
	uint64_t blocks = 0, digest = 0;
	struct commit_slot older;
	struct slot *newest;
	struct arena *a;
	bool damaged;

	begin("1,1,1,1", 1, UINT64_C(1100) * 4096);
	cluster_commit(&job, ++version);
	a = cluster_arena(&job, version, &newest);
	digest = damage_digest(newest);
	for (uint64_t at = 0; job.rank == 2 && at < a->shape.data_bytes; at += 4096)
		newest->data[at] ^= 1;
	arena_free(a);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), 0);
	CHECK_MSG(blocks > 1100, "%llu", (unsigned long long)blocks);
	a = damage_none(&job, version, &newest);
	CHECK(damage_digest(newest) == digest);
	older.state = slot_read(&a->slot[newest == &a->slot[0]], &older.stamp, &damaged);
	CHECK_MSG(older.state == SLOT_COMMITTED && older.stamp.version == version - 1,
	          "the version before is gone");
	arena_free(a);
	cluster_commit(&job, ++version);
	cluster_restore(&job, version);
	cluster_deinit(&job);
}

/* --- more than parity covers --- */

/* Damages the version on one rank more than parity covers: in one stripe, or slots. both: the
 * version before, too. */
static uint32_t damage_beyond(uint32_t parity, bool blocks, bool both, uint64_t *random)
{
	uint32_t hit = choose_ranks(parity + 1, random);
	uint64_t same = *random, own = *random + job.rank;
	struct damage d = {DAMAGE_SUMS, DAMAGE_FLIP, DAMAGE_ANY, 1, DAMAGE_ANY};
	struct slot *newest;
	struct arena *a = cluster_arena(&job, version, &newest);

	for (int i = 0; i < 2; i++) {
		const struct slot *s = &a->slot[i];

		if (!(hit >> job.rank & 1) || (s != newest && !both))
			continue;
		if (blocks)
			damage_stripe(a, s, (uint32_t)*random % 4, &same);
		else
			damage_do(a, s, &d, &own);
	}
	arena_free(a);
	test_random(random);
	return hit;
}

/* Also when it is tried again, as long as anything tells of the version. */
static void refuses(uint32_t hit, bool legible)
{
	uint64_t digest = cluster_digest(&job, 0), blocks = 99;
	char name[32], v[32];

	snprintf(name, sizeof(name), "%d (n%d)", __builtin_ctz(hit), __builtin_ctz(hit));
	snprintf(v, sizeof(v), "version %llu ", (unsigned long long)version);
	for (int i = 0; i < 1 + legible; i++) {
		CHECK_RESULT(ftmem_repair(job.ft, &blocks), FTMEM_ECORRUPT);
		CHECK_MESSAGE(v);
		CHECK_MESSAGE(name);
		CHECK(blocks == 99 && cluster_digest(&job, 0) == digest);
	}
	cluster_verify(&job, version);
	damage_count(DAMAGE_REFUSED, (uint32_t)__builtin_popcount(hit));
}

/* Nothing is made worse; the next version goes over the damaged one, the older one stays. */
static void more_than_parity_covers_is_refused(void)
{
	uint64_t random = check_seed() * 7;

	for (uint32_t m = 1; m <= 3; m++)
		for (uint32_t i = 0; i < (check_full() ? 40 : 4); i++) {
			uint64_t blocks = 99;
			uint32_t hit;

			if (i == 0)
				begin("1,1,1,1", m, 30000);
			check_note("parity %u, turn %u", m, i);
			cluster_commit(&job, ++version);
			hit = damage_beyond(m, i % 2, i & 2, &random);
			check_barrier(job.comm);
			refuses(hit, i % 2 || m < 3);
			cluster_commit(&job, ++version);
			CHECK_RESULT(ftmem_repair(job.ft, &blocks), 0);
			CHECK_MSG((blocks > 0) == ((i & 2) > 0), "%llu blocks mended",
			          (unsigned long long)blocks);
			cluster_restore(&job, version);
			if (i + 1 == (check_full() ? 40 : 4))
				cluster_deinit(&job);
		}
}

/* The version before is what a restart finds while the next one is not yet there. */
static void a_refused_version_leaves_the_older_one_to_restore(void)
{
	uint64_t random = check_seed() * 11, blocks;
	struct slot *newest;
	struct arena *a;

	begin("1,1,1,1", 1, 30000);
	cluster_commit(&job, ++version);
	damage_beyond(1, true, false, &random);
	check_barrier(job.comm);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), FTMEM_ECORRUPT);
	/* As if all ended while the next one is filled. */
	CHECK_RESULT(ftmem_snapshot(job.ft, version + 1, NULL), 0);
	CHECK_RESULT(ftmem_wait(job.ft, version + 1, job.opts.timeout_ms), 0);
	a = cluster_arena(&job, version + 1, &newest);
	cluster_close(&job);
	slot_set_filling(newest, (struct stamp){1, version + 1});
	arena_free(a);
	check_barrier(job.comm);
	cluster_start(&job);
	cluster_restore(&job, version - 1);
	cluster_deinit(&job);
}

/* One node: no parity, but what there is is verified. */
static void without_parity_damage_is_found(void)
{
	struct damage d = {DAMAGE_DATA, DAMAGE_FLIP, DAMAGE_ANY, 1, DAMAGE_ANY};
	uint64_t random = check_seed(), digest, blocks = 0;

	begin("4", 1, 20000);
	commit_and_damage(&d, false, 1, &random, &digest);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), FTMEM_ECORRUPT);
	CHECK_MESSAGE("0 (n0)");
	d.place = DAMAGE_ARENA_HEADER;
	commit_and_damage(&d, false, 2, &random, &digest);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), 0);
	CHECK(blocks == 1);
	cluster_restore(&job, version);
	cluster_deinit(&job);
}

/* --- what the scrubber found --- */

/* Sets the rate of this rank's SMP: what is found at once, or not at all. */
static void scrub(uint32_t mib_s)
{
	struct smp_config config = {.dir = getenv("FTMEM_DIR"),
	                            .job = job.job,
	                            .node = job.node[job.node_of[job.rank]],
	                            .rank = job.rank,
	                            .timeout_ms = job.opts.timeout_ms,
	                            .scrub_mib_s = mib_s};
	struct smp_client *smp = NULL;

	CHECK_RESULT(smp_connect(&config, &smp), 0);
	smp_close(smp);
}

/* Until each rank knows of damage in what it stores; or of none. */
static void await_told(bool damaged)
{
	uint64_t deadline = clock_deadline(60000);

	while ((cluster_stats(&job).damaged_blocks > 0) != damaged) {
		CHECK_MSG(clock_ns() < deadline, "rank %u still counts %llu damaged blocks",
		          job.rank, (unsigned long long)cluster_stats(&job).damaged_blocks);
		clock_sleep(10000000);
	}
	check_barrier(job.comm);
}

/* Commits a version and damages it at that place of this rank, before it is looked at. */
static void commit_what_is_found(enum damage_place place)
{
	struct damage d = {place, DAMAGE_FLIP, DAMAGE_ANY, 1, DAMAGE_ANY};
	uint64_t own = check_seed() + job.rank, digest;

	if (place == DAMAGE_SLOT_HEADER)
		d.field = 5; /* its checksum: it still says that it holds a version */
	scrub(WIRE_SCRUB_OFF);
	commit_and_damage(&d, false, 15, &own, &digest);
	check_log_forget();
	scrub(SCRUB_MIB_S_MAX);
	await_told(true);
	CHECK(check_logged("are damaged: ") && check_logged("ftmem_repair() mends them"));
}

static void what_the_scrubber_finds_is_told_until_it_is_mended(void)
{
	/* Of each rank. No version takes the place of a map. */
	static const enum damage_place now[] = {DAMAGE_DATA, DAMAGE_PARITY, DAMAGE_SUMS,
	                                        DAMAGE_MAP};
	static const enum damage_place later[] = {DAMAGE_DATA, DAMAGE_PARITY, DAMAGE_SUMS,
	                                          DAMAGE_SLOT_HEADER};
	uint64_t blocks = 0;

	begin("1,1,1,1", 3, 30000);
	check_note("a repair mends it");
	commit_what_is_found(now[job.rank]);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), 0);
	CHECK(blocks >= job.size);
	await_told(false);
	check_note("the next versions mend it");
	commit_what_is_found(later[job.rank]);
	cluster_commit(&job, ++version);
	cluster_commit(&job, ++version);
	await_told(false);
	CHECK(check_logged("is known to be damaged any more"));
	cluster_restore(&job, version);
	cluster_deinit(&job);
}

static void a_restore_that_mends_is_looked_at_anew(void)
{
	begin("1,1,1,1", 3, 30000);
	commit_what_is_found(job.rank % 2 ? DAMAGE_DATA : DAMAGE_PARITY);
	cluster_restore(&job, version);
	await_told(false);
	cluster_deinit(&job);
}

/* --- the rest --- */

/* The run that a restore was to begin is none that anybody entered. */
static void a_restore_that_breaks_off_leaves_nothing_to_mend(void)
{
	uint64_t got, blocks = 99;

	begin("1,1,1,1", 2, 20000);
	crash = PREPARED;
	CHECK_RESULT(ftmem_restore(job.ft, &got), FTMEM_ESYS);
	crash = NOWHERE;
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), 0);
	CHECK_MSG(blocks == 0, "%llu", (unsigned long long)blocks);
	cluster_restore(&job, version);
	cluster_deinit(&job);
}

/* At any point in the middle, the version can be restored as before. */
static void a_repair_that_breaks_off_leaves_the_version(void)
{
	static const enum damage_place place[] = {DAMAGE_DATA, DAMAGE_SUMS};
	uint64_t random = check_seed(), digest;

	begin("1,1,1,1", 2, 40000);
	for (enum point point = PREPARED; point < POINTS; point++)
		for (int i = 0; i < 2; i++) {
			struct damage d = {place[i], DAMAGE_FLIP, DAMAGE_ANY, 1, DAMAGE_ANY};

			check_note("point %d, place %d", point, i);
			commit_and_damage(&d, false, 6, &random, &digest);
			crash = point;
			CHECK_RESULT(ftmem_repair(job.ft, NULL), FTMEM_ESYS);
			crash = NOWHERE;
			cluster_close(&job);
			cluster_start(&job);
			cluster_restore(&job, version);
			CHECK_RESULT(ftmem_repair(job.ft, &digest), 0);
			CHECK(digest == 0);
		}
	cluster_deinit(&job);
}

/* An SMP takes over only memory with a good header. */
static void a_header_is_mended_before_another_smp_takes_the_memory(void)
{
	uint64_t blocks = 0;
	struct slot *newest;
	struct arena *a;

	begin("1,1,1,1", 1, 20000);
	cluster_commit(&job, ++version);
	a = cluster_arena(&job, version, &newest);
	if (job.rank == 1) {
		a->base[40] ^= 1;
		CHECK(cluster_kill_smp(&job, 1, true));
	}
	arena_free(a);
	check_barrier(job.comm);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), 0);
	CHECK(check_max(job.comm, blocks) <= 1);
	arena_free(damage_none(&job, version, &newest));
	cluster_close(&job);
	cluster_lose(&job, 1);
	cluster_start(&job);
	cluster_restore(&job, version);
	cluster_deinit(&job);
}

/* Without a repair: the next version takes the place of what is damaged. */
static void the_next_version_replaces_what_is_damaged(void)
{
	static const enum damage_place place[] = {DAMAGE_DATA, DAMAGE_SUMS, DAMAGE_STATE,
	                                          DAMAGE_PARITY};
	uint64_t random = check_seed() * 13, digest;

	begin("1,1,1,1", 2, 30000);
	for (int i = 0; i < 4; i++) {
		struct damage d = {place[i], DAMAGE_FLIP, DAMAGE_ANY, 1, DAMAGE_ANY};

		check_note("place %d", i);
		commit_and_damage(&d, false, 15, &random, &digest);
		cluster_commit(&job, ++version);
		cluster_close(&job);
		cluster_lose(&job, i % 2 ? 5 : 10);
		cluster_start(&job);
		cluster_restore(&job, version);
	}
	cluster_deinit(&job);
}

/* Which run it was nobody knows: it is the one that goes on. */
static void notes_of_the_run_that_all_lost_are_mended_once(void)
{
	struct slot *newest;
	struct arena *a;
	uint64_t blocks = 99;

	begin("1,1,1,1", 1, 20000);
	cluster_commit(&job, ++version);
	a = cluster_arena(&job, version, &newest);
	a->base[ARENA_RUN_OFFSET] ^= 1;
	arena_free(a);
	check_barrier(job.comm);
	for (int i = 0; i < 2; i++) {
		CHECK_RESULT(ftmem_repair(job.ft, &blocks), 0);
		CHECK(blocks == (i == 0 ? job.size : 0));
	}
	a = cluster_arena(&job, version, &newest);
	CHECK(arena_entered(a) != 0 && arena_entered(a) != UINT64_MAX);
	arena_free(a);
	cluster_close(&job);
	cluster_start(&job);
	cluster_restore(&job, version);
	cluster_deinit(&job);
}

/* Versions under way are waited for; numbers, skips and waits go on as if nothing had been. */
static void snapshots_go_on_after_a_repair(void)
{
	uint64_t blocks = 99;

	begin("1,1,1,1", 1, 50000);
	for (uint32_t i = 0; i < 6; i++) {
		CHECK_RESULT(ftmem_fence(job.ft, NULL), 0);
		cluster_fill(&job, ++version);
		CHECK_RESULT(ftmem_snapshot(job.ft, version, NULL), 0);
		CHECK_RESULT(ftmem_repair(job.ft, i % 2 ? NULL : &blocks), 0);
		CHECK(i % 2 || blocks == 0);
		CHECK_RESULT(ftmem_wait(job.ft, version, 0), 0);
		CHECK_RESULT(ftmem_skip(job.ft, version + 1), 0);
		CHECK_RESULT(ftmem_repair(job.ft, NULL), 0);
		CHECK_RESULT(ftmem_snapshot(job.ft, version + 1, NULL), FTMEM_EINVAL);
		CHECK_RESULT(ftmem_wait(job.ft, version + 1, 0), FTMEM_DROPPED);
		CHECK(cluster_stats(&job).newest == version);
		version++;
	}
	cluster_restore(&job, version - 1);
	cluster_deinit(&job);
}

static void a_repair_needs_something_stored_in_this_layout(void)
{
	uint64_t bytes[2] = {9000, 5000}, blocks = 99;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	cluster_regions(&job, bytes, 1);
	CHECK_RESULT(ftmem_repair(NULL, &blocks), FTMEM_EINVAL);
	CHECK_RESULT(cluster_try_open(&job), 0);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), FTMEM_EINVAL);
	CHECK_MESSAGE("ftmem_seal()");
	cluster_close(&job);
	cluster_start(&job);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), FTMEM_FRESH);
	cluster_commit(&job, 1);
	cluster_close(&job);
	cluster_start(&job);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), FTMEM_EINVAL);
	CHECK_MESSAGE("ftmem_restore()");
	cluster_restore(&job, 1);
	/* Another layout: what is stored is of the former one. */
	CHECK_RESULT(ftmem_region_remove(job.ft, "r0"), 0);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), FTMEM_EINVAL);
	cluster_regions(&job, bytes, 2);
	cluster_add_regions(&job);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), FTMEM_EINVAL);
	CHECK_MESSAGE("version 1 is of an earlier layout");
	CHECK(blocks == 99);
	cluster_commit(&job, 2);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), 0);
	CHECK(blocks == 0);
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	CHECK_RESULT(ftmem_repair(job.ft, &blocks), FTMEM_FRESH);
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"a_repair_needs_something_stored_in_this_layout",
	         a_repair_needs_something_stored_in_this_layout},
		{"snapshots_go_on_after_a_repair", snapshots_go_on_after_a_repair},
		{"notes_of_the_run_that_all_lost_are_mended_once",
	         notes_of_the_run_that_all_lost_are_mended_once},
		{"whatever_is_damaged_is_mended_in_place", whatever_is_damaged_is_mended_in_place},
		{"ranks_with_parity_of_several_rails_are_mended",
	         ranks_with_parity_of_several_rails_are_mended},
		{"every_bit_of_the_headers_is_mended", every_bit_of_the_headers_is_mended},
		{"ranks_have_time_to_look_through_what_they_hold",
	         ranks_have_time_to_look_through_what_they_hold},
		{"a_slot_with_very_many_bad_blocks_is_rebuilt",
	         a_slot_with_very_many_bad_blocks_is_rebuilt},
		{"more_than_parity_covers_is_refused", more_than_parity_covers_is_refused},
		{"a_refused_version_leaves_the_older_one_to_restore",
	         a_refused_version_leaves_the_older_one_to_restore},
		{"without_parity_damage_is_found", without_parity_damage_is_found},
		{"a_restore_that_mends_is_looked_at_anew", a_restore_that_mends_is_looked_at_anew},
		{"a_restore_that_breaks_off_leaves_nothing_to_mend",
	         a_restore_that_breaks_off_leaves_nothing_to_mend},
		{"a_repair_that_breaks_off_leaves_the_version",
	         a_repair_that_breaks_off_leaves_the_version},
		{"a_header_is_mended_before_another_smp_takes_the_memory",
	         a_header_is_mended_before_another_smp_takes_the_memory},
		{"what_the_scrubber_finds_is_told_until_it_is_mended",
	         what_the_scrubber_finds_is_told_until_it_is_mended},
		{"the_next_version_replaces_what_is_damaged",
	         the_next_version_replaces_what_is_damaged},
	};
	int status;

	check_init(&argc, &argv);
	status = CHECK_RUN(cases);
	damage_say("damage mended without a restart");
	return status;
}
