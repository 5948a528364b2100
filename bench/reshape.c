/* SPDX-License-Identifier: BSD-3-Clause */
#include "reshape.h"

#include <inttypes.h>
#include <mpi.h>

#include "error.h"
#include "memory.h"

#define ROW_WORDS 2048 /* 16 KiB */

static const char *const names[SHAPES] = {"the same rows",    "rotated rows",
                                          "columns",          "a grid",
                                          "all on each rank", "rows on one rank less"};

/* --- boxes --- */

/* The tensors: rows of at least a word for each rank. */
static void tensor_init(const struct run *r, struct state_box *b)
{
	uint64_t words = r->args->bytes / r->args->regions / sizeof(uint64_t);
	uint64_t width = r->world->size > ROW_WORDS ? r->world->size : ROW_WORDS;

	*b = (struct state_box){.shape = {words / width * r->world->size, width}};
}

/* Of total, part number i of count parts. */
static void cut(uint64_t total, uint32_t i, uint32_t count, uint64_t *start, uint64_t *extent)
{
	*start = total * i / count;
	*extent = total * (i + 1) / count - *start;
}

/* Ranks side by side in a grid; 1: there is no grid. */
static uint32_t grid_height(uint32_t ranks)
{
	uint32_t height = 1;

	for (uint32_t i = 2; i <= ranks / i; i++)
		if (ranks % i == 0)
			height = i;
	return height;
}

static void box_of(enum shape shape, uint32_t rank, uint32_t ranks, struct state_box *b)
{
	uint32_t down = ranks, across = 1;

	if (shape == SHAPE_ROTATED)
		rank = (rank + ranks - 1) % ranks;
	if (shape == SHAPE_COLUMNS)
		down = 1;
	if (shape == SHAPE_GRID)
		down = grid_height(ranks);
	if (shape == SHAPE_COLUMNS || shape == SHAPE_GRID)
		across = ranks / down;
	if (shape == SHAPE_WHOLE) {
		down = 1;
		rank = 0;
	}
	cut(b->shape[0], rank / across, down, &b->start[0], &b->extent[0]);
	cut(b->shape[1], rank % across, across, &b->start[1], &b->extent[1]);
}

int reshape_check_options(const struct run *r)
{
	uint32_t ranks = r->world->size;
	uint64_t whole = r->args->bytes * ranks;
	uint64_t available = memory_available() / r->world->host_ranks;
	struct state_box tensor;

	if (ranks < 2)
		return error_set(FTMEM_EINVAL, "--reshape: one rank has nobody to share with");
	tensor_init(r, &tensor);
	if (tensor.shape[0] == 0)
		return error_set(FTMEM_EINVAL,
		                 "--reshape cuts tensors into rows of %" PRIu64 " KiB: each of the "
		                 "%" PRIu32 " regions must have one; use a larger --bytes",
		                 tensor.shape[1] * sizeof(uint64_t) / 1024, r->args->regions);
	if (available < r->args->bytes || whole > available - r->args->bytes)
		return error_set(FTMEM_ENOMEM,
		                 "--reshape: the state of all ranks, %" PRIu64 " MiB, must fit "
		                 "on each, but each of the %u ranks of a machine can take %" PRIu64
		                 " MiB at most: use a smaller --bytes",
		                 whole >> 20, r->world->host_ranks, available >> 20);
	return 0;
}

/* --- one restore --- */

/* Leaves rows of a new version behind, and nothing else. */
static bool store_rows(struct run *r)
{
	struct job_protect_times ignored;
	struct state_box box = r->results->tensor;
	struct state rows;
	double open_s, seal_s;
	bool done;

	box_of(SHAPE_ROWS, r->world->rank, r->world->size, &box);
	done = world_check(r->world, state_init_boxes(&rows, &box, r->args->regions), "the rows");
	r->job.state = &rows;
	done = done && run_open(r, &open_s) && job_forget(&r->job) && job_seal(&r->job, &seal_s)
	       && job_protect(&r->job, &ignored);
	job_stop(&r->job);
	r->job.state = &r->state;
	state_deinit(&rows);
	return done;
}

static bool look(struct run *r, bool timed, double restore_s, struct shape_results *out)
{
	struct ftmem_stats stats;
	double fill_s;

	if (!job_stats(&r->job, &stats))
		return false;
	fill_s = world_max(stats.move_s);
	out->filled = world_sum_u64(stats.region_bytes);
	out->moved = world_sum_u64(stats.moved_bytes);
	r->results->verified_bytes += out->filled;
	if (timed) {
		series_add(&out->restore_s, restore_s);
		series_add(&out->fill_s, fill_s);
	}
	return true;
}

/* What is stored now, in other boxes. */
static bool restore_as(struct run *r, enum shape shape, bool timed, struct shape_results *out)
{
	struct state_box box = r->results->tensor;
	struct state state = {0};
	double open_s, seal_s, restore_s;
	int result = 0;
	bool done;

	if (!r->job.idle) {
		box_of(shape, r->world->rank, out->ranks, &box);
		result = state_init_boxes(&state, &box, r->args->regions);
	}
	done = world_check(r->world, result, "the boxes");
	r->job.state = &state;
	done = done && run_open(r, &open_s) && job_seal(&r->job, &seal_s)
	       && job_restore(&r->job, false, &restore_s) && look(r, timed, restore_s, out);
	job_stop(&r->job);
	r->job.state = &r->state;
	state_deinit(&state);
	return done;
}

/* On the ranks of comm, where others are idle. */
static bool restore_on(struct run *r, MPI_Comm comm, bool timed, struct shape_results *out)
{
	struct ftmem_opts opts = *r->opts;
	bool done;

	opts.comm = &comm;
	r->job.opts = &opts;
	r->job.idle = comm == MPI_COMM_NULL;
	done = restore_as(r, SHAPE_FEWER, timed, out);
	r->job.idle = false;
	r->job.opts = r->opts;
	return done;
}

static bool restore_fewer(struct run *r, bool timed, struct shape_results *out)
{
	bool last = r->world->rank == r->world->size - 1;
	MPI_Comm comm;
	bool done;

	MPI_Comm_split(MPI_COMM_WORLD, last ? MPI_UNDEFINED : 0, (int)r->world->rank, &comm);
	done = restore_on(r, comm, timed, out);
	if (comm != MPI_COMM_NULL)
		MPI_Comm_free(&comm);
	return done;
}

/* --- all --- */

static bool measure_shape(struct run *r, enum shape shape)
{
	struct shape_results *out = &r->results->shape[shape];
	uint32_t ranks = r->world->size;

	world_say(r->world, "restore as %s, %u times", names[shape], r->args->repeat);
	out->ranks = shape == SHAPE_FEWER ? ranks - 1 : ranks;
	for (uint32_t i = 0; i <= r->args->repeat; i++) {
		if (!store_rows(r))
			return false;
		if (shape == SHAPE_FEWER ? !restore_fewer(r, i > 0, out)
		                         : !restore_as(r, shape, i > 0, out))
			return false;
	}
	return true;
}

/* Whether the last rank takes a node with it, and others could not go on. */
static bool fewer_would_fail(const struct run *r)
{
	bool last = r->world->rank == r->world->size - 1;
	uint32_t nodes = r->world->nodes;

	if (world_sum_u64(last && r->world->leader) > 0)
		nodes--;
	return nodes > 1 && nodes <= r->results->m;
}

/* What is not moved takes its time at the rate of rows, what is moved at that of rotated. */
static void compare_rates(struct shape_results *all)
{
	const struct shape_results *rows = &all[SHAPE_ROWS], *rotated = &all[SHAPE_ROTATED];
	double local = series_summary(&rows->fill_s).median / (double)rows->filled;
	double moved = series_summary(&rotated->fill_s).median / (double)rotated->moved;

	for (int i = 0; i < SHAPES; i++)
		all[i].of_same = ((double)(all[i].filled - all[i].moved) * local
		                  + (double)all[i].moved * moved)
		                 / series_summary(&all[i].fill_s).median;
}

bool reshape_measure(struct run *r)
{
	bool no_fewer = fewer_would_fail(r);

	job_stop(&r->job);
	tensor_init(r, &r->results->tensor);
	for (int i = 0; i < SHAPES; i++) {
		if (i == SHAPE_GRID && grid_height(r->world->size) == 1)
			continue;
		if (i == SHAPE_FEWER && no_fewer)
			continue;
		if (!measure_shape(r, (enum shape)i))
			return false;
	}
	compare_rates(r->results->shape);
	return true;
}
