/* SPDX-License-Identifier: BSD-3-Clause */
/* Private regions when the number of ranks changes: 3 and 4 ranks, one per node. */
#include "cluster.h"
#include "mpi_check.h"

#include <string.h>

static struct cluster job;

static const uint64_t alike[] = {100000, 4095, 1};

/* A job with regions of the same sizes on all ranks, and the first three of them. */
static MPI_Comm begin_alike(struct cluster *few)
{
	MPI_Comm three;

	cluster_init(&job, MPI_COMM_WORLD, "1,1,1,1");
	job.opts.block_bytes = 4096;
	cluster_regions(&job, alike, 3);
	MPI_Comm_split(MPI_COMM_WORLD, job.rank < 3 ? 0 : MPI_UNDEFINED, (int)job.rank, &three);
	if (job.rank < 3) {
		cluster_init(few, three, "1,1,1");
		few->opts.block_bytes = job.opts.block_bytes;
		memcpy(few->job, job.job, sizeof(few->job));
		cluster_regions(few, alike, 3);
	}
	return three;
}

static void end_alike(struct cluster *few, MPI_Comm three)
{
	if (job.rank < 3) {
		cluster_regions(few, NULL, 0);
		MPI_Comm_free(&three);
	}
	cluster_deinit(&job);
}

static void fewer_ranks_get_what_those_of_their_number_had(void)
{
	struct cluster few;
	MPI_Comm three = begin_alike(&few);

	cluster_start_fresh(&job);
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
	/* Without the fourth's node. */
	for (uint64_t v = 2; job.rank < 3 && v < 4; v++) {
		cluster_start(&few);
		cluster_restore(&few, v);
		cluster_commit(&few, v + 1);
		cluster_close(&few);
	}
	check_barrier(job.comm);
	end_alike(&few, three);
}

/* What the ranks of a job of three have stored, as version 2. */
static void three_ranks_store(struct cluster *few)
{
	if (job.rank < 3) {
		cluster_start_fresh(few);
		cluster_commit(few, 1);
		cluster_commit(few, 2);
		cluster_close(few);
	}
	check_barrier(job.comm);
}

static void a_rank_that_was_not_there_has_no_private_regions(void)
{
	struct cluster few;
	MPI_Comm three = begin_alike(&few);

	three_ranks_store(&few);
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_ELAYOUT);
	CHECK_MESSAGE(job.rank == 3 ? "region \"r0\" is private and was stored by 3 ranks"
	                            : "rank 3");
	CHECK(job.rank != 3 || strstr(ftmem_errmsg(), "FTMEM_PRIVATE=drop"));
	cluster_close(&job);
	/* Nothing was lost by that; and without such regions the rank has nothing to ask for. */
	for (uint32_t i = 0; i < 3; i++)
		job.region[i].absent = job.rank == 3;
	cluster_start(&job);
	cluster_restore(&job, 2);
	end_alike(&few, three);
}

static void private_regions_may_stay_as_they_are(void)
{
	struct cluster few;
	MPI_Comm three = begin_alike(&few);
	uint64_t version = 0;

	three_ranks_store(&few);
	job.opts.private_rule = FTMEM_PRIVATE_DROP;
	cluster_start(&job);
	cluster_poison(&job);
	CHECK_RESULT(ftmem_restore(job.ft, &version), 0);
	CHECK(version == 2);
	cluster_verify_poison(&job);
	cluster_commit(&job, 3);
	cluster_close(&job);
	/* As many ranks as before: now each gets its own. */
	cluster_lose(&job, 2);
	cluster_start(&job);
	cluster_restore(&job, 3);
	end_alike(&few, three);
}

/* r0 of rank 1 for all, r1 of the rank of their number or of none, r2 of rank 0. */
static uint32_t give(void *arg, const char *name, uint32_t rank, uint32_t ranks, uint32_t old_ranks)
{
	CHECK(arg == &job && rank == job.rank && ranks == 4 && old_ranks == 3);
	if (strcmp(name, "r1") == 0)
		return rank < old_ranks ? rank : FTMEM_NO_RANK;
	return strcmp(name, "r0") == 0 ? 1 : 0;
}

static uint32_t give_too_far(void *arg, const char *name, uint32_t rank, uint32_t ranks,
                             uint32_t old_ranks)
{
	(void)arg;
	(void)name;
	(void)ranks;
	return rank == 2 ? old_ranks : 0;
}

static void the_trainer_chooses_whose_private_regions_it_gets(void)
{
	struct cluster few;
	MPI_Comm three = begin_alike(&few);
	uint32_t rank = job.rank;
	uint64_t version = 0;

	three_ranks_store(&few);
	job.opts.private_from = give_too_far;
	cluster_start(&job);
	cluster_restore_fails(&job, FTMEM_EINVAL);
	CHECK_MESSAGE(rank == 2 ? "private_from() of struct ftmem_opts gave rank 3" : "rank 2");
	cluster_close(&job);
	/* Before the rule, if both are given. */
	job.opts.private_rule = FTMEM_PRIVATE_DROP;
	job.opts.private_from = give;
	job.opts.private_arg = &job;
	cluster_start(&job);
	cluster_poison(&job);
	CHECK_RESULT(ftmem_restore(job.ft, &version), 0);
	CHECK(version == 2);
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t from = give(&job, job.region[i].name, rank, 4, 3);

		for (uint32_t j = 0; j < 3; j++)
			job.region[j].absent = j != i;
		/* The bytes follow from the rank. */
		job.rank = from;
		if (from == FTMEM_NO_RANK)
			CHECK(cluster_bytes(&job.region[i])[4094] == 0xa5);
		else
			cluster_verify(&job, 2);
		job.rank = rank;
	}
	end_alike(&few, three);
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"fewer_ranks_get_what_those_of_their_number_had",
	         fewer_ranks_get_what_those_of_their_number_had},
		{"a_rank_that_was_not_there_has_no_private_regions",
	         a_rank_that_was_not_there_has_no_private_regions},
		{"private_regions_may_stay_as_they_are", private_regions_may_stay_as_they_are},
		{"the_trainer_chooses_whose_private_regions_it_gets",
	         the_trainer_chooses_whose_private_regions_it_gets},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
