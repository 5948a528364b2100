/* SPDX-License-Identifier: BSD-3-Clause */
/* ftmem_stored(): what it says is what ftmem_restore() then does, and nothing changes. 4 ranks. */
#include "cluster.h"
#include "mpi_check.h"

#include <stdlib.h>
#include <string.h>

#define NOT_SET UINT64_C(0x5555)

static struct cluster job;

/* Region r0 of 1,000 bytes more from rank to rank; r1 on the last rank alone. */
static void init(const char *layout)
{
	const uint64_t bytes[] = {
		50000 + 1000 * check_rank(), check_rank() == check_size() - 1 ? 777 : 0};

	cluster_init(&job, MPI_COMM_WORLD, layout);
	job.opts.block_bytes = 4096;
	cluster_regions(&job, bytes, 2);
}

static void open_unsealed(struct cluster *c)
{
	CHECK_RESULT(cluster_try_open(c), 0);
}

static void seal(struct cluster *c)
{
	cluster_add_regions(c);
	CHECK_RESULT(ftmem_seal(c->ft), 0);
}

static void check_stored(struct cluster *c, const char *name, uint64_t version, uint64_t bytes)
{
	uint64_t got = NOT_SET, size = NOT_SET;

	CHECK_RESULT(ftmem_stored(c->ft, name, &got, &size), 0);
	CHECK_MSG(got == version && size == bytes, "%s: version %llu with %llu bytes, not %llu "
	          "with %llu", name, (unsigned long long)got, (unsigned long long)size,
	          (unsigned long long)version, (unsigned long long)bytes);
}

static void check_nothing(struct cluster *c, const char *name, int result)
{
	uint64_t got = NOT_SET, size = NOT_SET;

	CHECK_RESULT(ftmem_stored(c->ft, name, &got, &size), result);
	CHECK(got == NOT_SET && size == NOT_SET);
}

/* Whether a process leases the own arena of that epoch. Not collective. */
static bool is_leased(uint64_t epoch)
{
	struct smp_client *smp = cluster_smp(&job, job.node_of[job.rank]);
	struct smp_entry *entry = NULL;
	uint32_t count = 0;
	bool leased = false;

	CHECK(smp);
	CHECK_RESULT(smp_list(smp, &entry, &count), 0);
	for (uint32_t i = 0; i < count; i++)
		leased = leased || (entry[i].epoch == epoch && entry[i].rank == job.rank &&
		                    entry[i].owner != 0);
	free(entry);
	smp_close(smp);
	return leased;
}

static uint64_t newest_epoch(void)
{
	uint64_t epoch;

	cluster_epochs(&job, job.node_of[job.rank], &epoch);
	return epoch;
}

static void before_the_first_commit_nothing_is_stored(void)
{
	init("1,1,1,1");
	open_unsealed(&job);
	check_nothing(&job, "r0", FTMEM_FRESH);
	check_nothing(&job, NULL, FTMEM_FRESH);
	seal(&job);
	check_nothing(&job, "r0", FTMEM_FRESH);
	cluster_restore_fails(&job, FTMEM_FRESH);
	check_nothing(&job, "r0", FTMEM_FRESH);
	cluster_commit(&job, 1);
	check_stored(&job, "r0", 1, 53000);
	CHECK_RESULT(ftmem_forget(job.ft), 0);
	check_nothing(&job, "r0", FTMEM_FRESH);
	cluster_commit(&job, 1);
	check_stored(&job, "r1", 1, 777);
	cluster_deinit(&job);
}

/* Leaves versions 1 and 2. */
static void store_two(void)
{
	cluster_start_fresh(&job);
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
}

static void a_new_start_hears_what_it_will_restore(void)
{
	uint64_t version = 0, untouched = NOT_SET, digest;

	init("1,1,1,1");
	store_two();
	digest = cluster_digest(&job, 0);
	open_unsealed(&job);
	check_stored(&job, "r0", 2, 53000);
	CHECK(!is_leased(newest_epoch()));
	check_barrier(job.comm);
	check_stored(&job, "r1", 2, 777);
	check_stored(&job, "r", 2, 0);
	check_stored(&job, "", 2, 0);
	CHECK_RESULT(ftmem_stored(job.ft, NULL, &version, NULL), 0);
	CHECK_RESULT(ftmem_stored(job.ft, NULL, &version, &untouched), 0);
	CHECK(version == 2 && untouched == NOT_SET);
	cluster_close(&job);
	CHECK_MSG(cluster_digest(&job, 0) == digest, "what is stored was changed");
	open_unsealed(&job);
	check_stored(&job, "r0", 2, 53000);
	seal(&job);
	CHECK(is_leased(newest_epoch()));
	check_stored(&job, "r0", 2, 53000);
	CHECK(is_leased(newest_epoch()));
	CHECK_RESULT(ftmem_snapshot(job.ft, 3, NULL), FTMEM_EINVAL);
	cluster_restore(&job, 2);
	check_stored(&job, "r0", 2, 53000);
	cluster_commit(&job, 3);
	check_stored(&job, "r0", 3, 53000);
	cluster_close(&job);
	cluster_start(&job);
	cluster_restore(&job, 3);
	cluster_deinit(&job);
}

/* A version that is under way is waited for. */
static void a_version_under_way_counts_once_it_is_committed(void)
{
	init("1,1,1,1");
	store_two();
	cluster_start(&job);
	cluster_restore(&job, 2);
	for (uint64_t v = 3; v < 8; v++) {
		CHECK_RESULT(ftmem_fence(job.ft, NULL), 0);
		cluster_fill(&job, v);
		CHECK_RESULT(ftmem_snapshot(job.ft, v, NULL), 0);
		check_stored(&job, "r1", v, 777);
	}
	cluster_deinit(&job);
}

static void until_a_new_epoch_commits_the_former_one_is_what_is_stored(void)
{
	uint64_t former, sizes[] = {9000, 64};

	init("1,1,1,1");
	store_two();
	cluster_start(&job);
	cluster_restore(&job, 2);
	former = newest_epoch();
	CHECK_RESULT(ftmem_region_remove(job.ft, "r0"), 0);
	if (!job.region[1].absent)
		CHECK_RESULT(ftmem_region_remove(job.ft, "r1"), 0);
	cluster_regions(&job, sizes, 2);
	check_barrier(job.comm);
	seal(&job);
	CHECK(newest_epoch() != former);
	check_stored(&job, "r0", 2, 53000);
	/* It stays this rank's own. */
	CHECK(is_leased(former) && is_leased(newest_epoch()));
	check_barrier(job.comm);
	cluster_commit(&job, 3);
	check_stored(&job, "r0", 3, 9000);
	check_stored(&job, "r1", 3, 64);
	cluster_close(&job);
	cluster_lose(&job, 4);
	open_unsealed(&job);
	check_stored(&job, "r0", 3, 9000);
	seal(&job);
	cluster_restore(&job, 3);
	cluster_deinit(&job);
}

static void what_lost_ranks_had_does_not_count(void)
{
	init("1,1,1,1");
	store_two();
	cluster_lose(&job, 8);
	open_unsealed(&job);
	check_stored(&job, "r0", 2, 52000);
	check_stored(&job, "r1", 2, 0);
	seal(&job);
	check_stored(&job, "r0", 2, 52000);
	cluster_restore(&job, 2);
	check_stored(&job, "r0", 2, 53000);
	check_stored(&job, "r1", 2, 777);
	cluster_deinit(&job);
}

static void too_many_lost_nodes_are_named(void)
{
	init("1,1,1,1");
	store_two();
	cluster_lose(&job, 6);
	open_unsealed(&job);
	check_nothing(&job, "r0", FTMEM_ELOST);
	CHECK_MESSAGE("n1");
	CHECK_MESSAGE("n2");
	seal(&job);
	check_nothing(&job, NULL, FTMEM_ELOST);
	cluster_restore_fails(&job, FTMEM_ELOST);
	cluster_deinit(&job);
}

/* The last rank's memory is there, though no rank has its number. */
static void fewer_ranks_hear_of_all_that_is_there(void)
{
	const uint64_t bytes[] = {50000 + 1000 * check_rank()};
	struct cluster few;
	MPI_Comm three;

	init("2,2");
	store_two();
	MPI_Comm_split(MPI_COMM_WORLD, job.rank < 3 ? 0 : MPI_UNDEFINED, (int)job.rank, &three);
	if (job.rank < 3) {
		cluster_init(&few, three, "2,1");
		few.opts.block_bytes = job.opts.block_bytes;
		memcpy(few.job, job.job, sizeof(few.job));
		cluster_regions(&few, bytes, 1);
		open_unsealed(&few);
		check_stored(&few, "r0", 2, 53000);
		check_stored(&few, "r1", 2, 777);
		seal(&few);
		check_stored(&few, "r1", 2, 777);
		few.salt = job.salt;
		cluster_restore(&few, 2);
		check_stored(&few, "r1", 2, 0);
		cluster_close(&few);
		cluster_regions(&few, NULL, 0);
		MPI_Comm_free(&three);
	}
	check_barrier(job.comm);
	cluster_deinit(&job);
}

static void of_boxes_the_largest_counts(void)
{
	struct ftmem_region box = FTMEM_REGION_INIT;
	uint32_t column[4] = {1, 2, 3, 4};

	init("1,1,1,1");
	box.name = "tensor";
	box.addr = column;
	box.elem_bytes = sizeof(column[0]);
	box.ndim = 1;
	box.shape[0] = 10;
	box.start[0] = job.rank * (job.rank + 1) / 2;
	box.extent[0] = job.rank + 1;
	box.bytes = box.extent[0] * box.elem_bytes;
	CHECK_RESULT(cluster_try_open(&job), 0);
	CHECK_RESULT(ftmem_region_add(job.ft, &box), 0);
	seal(&job);
	cluster_commit(&job, 1);
	check_stored(&job, "tensor", 1, 16);
	/* A replica counts as a whole, though each rank stores but a share of it. */
	CHECK_RESULT(ftmem_region_remove(job.ft, "tensor"), 0);
	box.start[0] = 0;
	box.extent[0] = 4;
	box.bytes = sizeof(column);
	CHECK_RESULT(ftmem_region_add(job.ft, &box), 0);
	CHECK_RESULT(ftmem_seal(job.ft), 0);
	cluster_commit(&job, 2);
	cluster_close(&job);
	open_unsealed(&job);
	check_stored(&job, "tensor", 2, 16);
	cluster_deinit(&job);
}

static void damaged_descriptions_are_passed_over(void)
{
	struct slot *slot;
	struct arena *a;
	uint8_t *found;

	init("1,1,1,1");
	store_two();
	if (job.rank == 3) {
		a = cluster_arena(&job, 2, &slot);
		/* A size that would pass for one: only the digest tells. */
		found = memmem(slot->data, 4096, &job.region[1].bytes, sizeof(uint64_t));
		CHECK(found);
		*found ^= 1;
		arena_free(a);
	}
	check_barrier(job.comm);
	open_unsealed(&job);
	check_log_forget();
	check_stored(&job, "r0", 2, 52000);
	CHECK(job.rank != 3 || check_logged("rank 3 stored is passed over"));
	seal(&job);
	cluster_restore(&job, 2);
	check_stored(&job, "r0", 2, 53000);
	cluster_deinit(&job);
}

static void ranks_must_ask_for_the_same(void)
{
	const char *other[] = {"r1", NULL};

	init("1,1,1,1");
	store_two();
	open_unsealed(&job);
	for (int i = 0; i < 2; i++) {
		check_nothing(&job, job.rank == 2 ? other[i] : "r0", FTMEM_EINVAL);
		CHECK_MESSAGE("different regions");
	}
	check_stored(&job, "r0", 2, 53000);
	seal(&job);
	cluster_restore(&job, 2);
	CHECK_RESULT(ftmem_stored(job.ft, "r0", NULL, NULL), FTMEM_EINVAL);
	CHECK_RESULT(ftmem_stored(NULL, NULL, NULL, NULL), FTMEM_EINVAL);
	cluster_deinit(&job);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"before_the_first_commit_nothing_is_stored",
	         before_the_first_commit_nothing_is_stored},
		{"a_new_start_hears_what_it_will_restore", a_new_start_hears_what_it_will_restore},
		{"a_version_under_way_counts_once_it_is_committed",
	         a_version_under_way_counts_once_it_is_committed},
		{"until_a_new_epoch_commits_the_former_one_is_what_is_stored",
	         until_a_new_epoch_commits_the_former_one_is_what_is_stored},
		{"what_lost_ranks_had_does_not_count", what_lost_ranks_had_does_not_count},
		{"too_many_lost_nodes_are_named", too_many_lost_nodes_are_named},
		{"fewer_ranks_hear_of_all_that_is_there", fewer_ranks_hear_of_all_that_is_there},
		{"of_boxes_the_largest_counts", of_boxes_the_largest_counts},
		{"damaged_descriptions_are_passed_over", damaged_descriptions_are_passed_over},
		{"ranks_must_ask_for_the_same", ranks_must_ask_for_the_same},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
