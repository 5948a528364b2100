/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Restores into other regions that fail while these are filled, or that meet a layout
 * which does not fit its slot: 3 ranks, one per node. The functions that fail are wrapped
 * by the linker.
 */
#include "cluster.h"
#include "error.h"
#include "layout.h"
#include "mpi_check.h"
#include "transfer.h"

static struct cluster job;
static bool damage_transfer, damage_layout;

int __real_transfer_run(const struct transfer_config *config, const struct transfer_stream *out,
                        uint32_t outs, const struct transfer_stream *in, uint32_t ins);
int __wrap_transfer_run(const struct transfer_config *config, const struct transfer_stream *out,
                        uint32_t outs, const struct transfer_stream *in, uint32_t ins);
int __wrap_transfer_run(const struct transfer_config *config, const struct transfer_stream *out,
                        uint32_t outs, const struct transfer_stream *in, uint32_t ins)
{
	int rc = __real_transfer_run(config, out, outs, in, ins);

	return rc == 0 && damage_transfer ? error_set(FTMEM_ECORRUPT, "a message was bad") : rc;
}

int __real_layout_parse(const uint8_t *blob, uint64_t bytes, struct layout **out);
int __wrap_layout_parse(const uint8_t *blob, uint64_t bytes, struct layout **out);
int __wrap_layout_parse(const uint8_t *blob, uint64_t bytes, struct layout **out)
{
	int rc = __real_layout_parse(blob, bytes, out);

	if (rc == 0 && damage_layout)
		(*out)->data_bytes += LAYOUT_ALIGN;
	return rc;
}

static void begin(void)
{
	const uint64_t stored[] = {300000, 5000}, wanted[] = {300000, 0};

	damage_transfer = damage_layout = false;
	cluster_init(&job, MPI_COMM_WORLD, "1,1,1");
	cluster_regions(&job, stored, 2);
	cluster_start_fresh(&job);
	cluster_commit(&job, 1);
	cluster_commit(&job, 2);
	cluster_close(&job);
	cluster_regions(&job, wanted, 2);
	cluster_start(&job);
}

/* All hear of it, with the reason; and nothing but a good restore helps. */
static void fails(const char *reason)
{
	uint64_t version = 77;

	CHECK_RESULT(ftmem_restore(job.ft, &version), FTMEM_ECORRUPT);
	CHECK_MESSAGE(reason);
	if (job.rank != 1)
		CHECK_MESSAGE("rank 1 (node n1)");
	CHECK(version == 77);
}

static void go_on(void)
{
	damage_transfer = damage_layout = false;
	cluster_restore(&job, 2);
	cluster_commit(&job, 3);
	cluster_close(&job);
	cluster_lose(&job, 2);
	cluster_start(&job);
	cluster_restore(&job, 3);
	cluster_deinit(&job);
}

static void half_filled_regions_are_not_snapshotted(void)
{
	begin();
	damage_transfer = job.rank == 1;
	fails("a message was bad");
	CHECK_RESULT(ftmem_snapshot(job.ft, 3, NULL), FTMEM_EINVAL);
	CHECK_MESSAGE("ftmem_restore");
	go_on();
}

static void a_layout_that_does_not_fit_its_slot_is_refused(void)
{
	begin();
	damage_layout = job.rank == 1;
	cluster_poison(&job);
	fails("the layout stored by rank 1");
	cluster_verify_poison(&job);
	go_on();
}

int main(int argc, char **argv)
{
	static const struct check_case cases[] = {
		{"half_filled_regions_are_not_snapshotted",
	         half_filled_regions_are_not_snapshotted},
		{"a_layout_that_does_not_fit_its_slot_is_refused",
	         a_layout_that_does_not_fit_its_slot_is_refused},
	};

	check_init(&argc, &argv);
	return CHECK_RUN(cases);
}
