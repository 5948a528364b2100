/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Trains a small transformer, data-parallel over MPI, protected by libftmem. Kill
 * it, or whole nodes of it, at any time: the same command goes on where it was, on as
 * many ranks as there are then, and ends with the same bits as if nothing had happened.
 *
 * Exit status: 0 trained, 1 failed, 2 bad arguments, 3 too many nodes lost.
 */
#include <inttypes.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "guard.h"
#include "trainer.h"

#define STATUS_USAGE 2
#define STATUS_LOST 3

/* What each rank tells rank 0 after a restore. */
struct arrival {
	char before[TRAIN_NODE_MAX], now[TRAIN_NODE_MAX];
	double restore_s, rebuild_s;
	uint64_t moved; /* bytes, to this rank */
	uint32_t lost;
	int pid;
};

/* As libftmem names it. */
static void node_name(char out[TRAIN_NODE_MAX])
{
	const char *node = getenv("FTMEM_NODE");

	memset(out, 0, TRAIN_NODE_MAX);
	if (node && *node)
		snprintf(out, TRAIN_NODE_MAX, "%s", node);
	else
		gethostname(out, TRAIN_NODE_MAX - 1);
}

/* All ranks have the same parameters: each registers them whole, and stores a share. */
static int params_add(struct guard *g, struct trainer *t)
{
	uint32_t tensors;
	const struct model_tensor *tensor = model_tensors(t->model, &tensors);

	for (uint32_t i = 0; i < tensors; i++) {
		const struct model_tensor *p = &tensor[i];
		char name[40];
		struct guard_box box = {.name = name,
		                        .addr = t->params + p->offset,
		                        .elem_bytes = sizeof(real),
		                        .rows = p->rows,
		                        .columns = p->columns,
		                        .count = p->rows};

		snprintf(name, sizeof(name), "params.%s", p->name);
		if (guard_tensor(g, &box))
			return -1;
	}
	return 0;
}

/* Each rank has its shard of a vector as long as all parameters. */
static int moment_add(struct guard *g, struct trainer *t, const char *name, real *shard)
{
	return guard_tensor(g, &(struct guard_box){.name = name,
	                                           .addr = shard,
	                                           .elem_bytes = sizeof(real),
	                                           .rows = t->parameters,
	                                           .columns = 1,
	                                           .first = t->first,
	                                           .count = t->count});
}

static int regions_add(struct guard *g, struct trainer *t)
{
	/* All ranks have the same: for libftmem it is a tensor of bytes. */
	const struct guard_box state = {.name = "state",
	                                .addr = &t->state,
	                                .elem_bytes = 1,
	                                .rows = sizeof(t->state),
	                                .columns = 1,
	                                .count = sizeof(t->state)};

	if (params_add(g, t) || moment_add(g, t, "moment1", t->moment1) ||
	    moment_add(g, t, "moment2", t->moment2) ||
	    guard_tensor(g, &state) ||
	    guard_private(g, "node", t->node, sizeof(t->node)))
		return -1;
	return 0;
}

static void arrivals_print(const struct arrival *a, int ranks)
{
	for (int r = 0; r < ranks; r++) {
		printf("rank %d: node %s, pid %d", r, a[r].now, a[r].pid);
		if (a[r].before[0] && strcmp(a[r].before, a[r].now) != 0)
			printf(", %s %s", a[r].lost ? "rebuilt: was on" : "moved from",
			       a[r].before);
		printf("\n");
	}
}

static void restored_print(const struct arrival *a, int ranks, uint64_t old, uint64_t version)
{
	double restore_s = 0, rebuild_s = 0;
	bool lost = false;
	uint64_t moved = 0;

	for (int r = 0; r < ranks; r++) {
		restore_s = a[r].restore_s > restore_s ? a[r].restore_s : restore_s;
		rebuild_s = a[r].rebuild_s > rebuild_s ? a[r].rebuild_s : rebuild_s;
		lost = lost || a[r].lost;
		moved += a[r].moved;
	}
	printf("restored version %" PRIu64, version);
	if (old != (uint64_t)ranks)
		printf(" of %" PRIu64 " ranks on %d", old, ranks);
	printf(" in %.1f ms", 1e3 * restore_s);
	if (lost)
		printf(", %.1f ms of it to rebuild", 1e3 * rebuild_s);
	printf("; %.1f MB moved between ranks\n", 1e-6 * (double)moved);
}

/* Collective: who is where, and what the restore did; version NULL if nothing was
 * stored. */
static void arrivals_report(struct trainer *t, struct guard *g, const uint64_t *version)
{
	struct arrival mine, *all = NULL;
	struct ftmem_stats stats;

	guard_stats(g, &stats);
	memset(&mine, 0, sizeof(mine));
	memcpy(mine.before, t->node, TRAIN_NODE_MAX);
	mine.before[TRAIN_NODE_MAX - 1] = 0;
	node_name(mine.now);
	memcpy(t->node, mine.now, TRAIN_NODE_MAX);
	mine.restore_s = stats.restore_s;
	mine.rebuild_s = stats.rebuild_s;
	mine.moved = stats.moved_bytes;
	mine.lost = stats.lost_members;
	mine.pid = (int)getpid();
	if (t->rank == 0)
		all = calloc((size_t)t->ranks, sizeof(*all));
	if (t->rank == 0 && !all)
		MPI_Abort(MPI_COMM_WORLD, 1);
	MPI_Gather(&mine, sizeof(mine), MPI_BYTE, all, sizeof(mine), MPI_BYTE, 0, MPI_COMM_WORLD);
	if (all && !t->args->quiet) {
		arrivals_print(all, t->ranks);
		if (version)
			restored_print(all, t->ranks, t->state.ranks, *version);
		fflush(stdout);
	}
	free(all);
}

static void print_start(const struct trainer *t)
{
	const struct args *a = t->args;

	if (t->rank || a->quiet)
		return;
	printf("%d ranks, %zu parameters, %" PRIu64 " sequences of %u bytes per step, %s\n",
	       t->ranks, t->parameters, a->batch, a->model.context, a->text);
	fflush(stdout);
}

/* Collective. Opens the job and fills the trainer with what is stored. */
static int resume(struct trainer *t, struct guard *g)
{
	uint64_t version = 0;
	int result = guard_open(g, t->args, t->rank);

	if (result < 0)
		return result;
	if (regions_add(g, t))
		MPI_Abort(MPI_COMM_WORLD, 1);
	result = guard_restore(g, &version);
	if (result < 0)
		return result;
	if (result == FTMEM_OK && t->rank == 0 && t->args->seed != t->state.rng.seed)
		fprintf(stderr, "train_gpt: --seed is ignored: this training began with %" PRIu64
		        "\n", t->state.rng.seed);
	arrivals_report(t, g, result == FTMEM_OK ? &version : NULL);
	return FTMEM_OK;
}

static void print_step(struct trainer *t, struct guard *g, double started)
{
	const struct args *a = t->args;
	struct ftmem_stats stats;

	if (t->rank || a->quiet || !a->print || (t->state.step % a->print && t->state.step != 1))
		return;
	printf("step %6" PRIu64 "  loss %.4f", t->state.step, t->state.loss);
	guard_stats(g, &stats);
	if (stats.stored)
		printf("  committed %6" PRIu64, stats.newest);
	if (g->ft)
		printf("  snapshots take %.2f%% of the time",
		       100 * g->lost_s / (MPI_Wtime() - started));
	printf("\n");
	fflush(stdout);
}

static void between_steps(const struct trainer *t)
{
	const struct args *a = t->args;
	struct timespec pause = {(time_t)(a->pause_ms / 1000),
	                         (long)(a->pause_ms % 1000 * 1000000)};

	if (a->die_at == t->state.step && (int)a->die_rank == t->rank)
		raise(SIGKILL);
	if (a->pause_ms)
		nanosleep(&pause, NULL);
}

static void train(struct trainer *t, struct guard *g)
{
	double started = MPI_Wtime();

	while (t->state.step < t->args->steps) {
		double loss = trainer_gradient(t);

		guard_fence(g); /* the last snapshot has read what the update writes */
		trainer_update(t, loss);
		if (t->state.step % t->args->every == 0)
			guard_snapshot(g, t->state.step);
		print_step(t, g, started);
		between_steps(t);
	}
	guard_fence(g);
	guard_drain(g);
}

static void print_end(struct trainer *t, struct guard *g)
{
	struct ftmem_stats stats;

	if (t->rank)
		return;
	guard_stats(g, &stats);
	printf("done: %" PRIu64 " steps, loss %.4f", t->state.step, t->state.loss);
	if (g->ft)
		printf("; versions: %" PRIu64 " committed, %" PRIu64 " skipped, %" PRIu64
		       " dropped", stats.committed, stats.skipped, stats.dropped);
	if (g->failed)
		printf("; %" PRIu64 " calls failed", g->failed);
	printf("\n");
	fflush(stdout);
}

static int run(const struct args *args)
{
	struct trainer *t = NULL;
	struct guard g = {0};
	int result, status = EXIT_FAILURE, failed = trainer_new(args, &t) != 0;

	MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
	if (failed)
		goto out;
	print_start(t);
	result = resume(t, &g);
	if (result == FTMEM_ELOST)
		status = STATUS_LOST;
	if (result < 0)
		goto out;
	train(t, &g);
	print_end(t, &g);
	status = args->dump && trainer_dump(t, args->dump) ? EXIT_FAILURE : EXIT_SUCCESS;
out:
	guard_close(&g);
	trainer_free(t);
	return status;
}

int main(int argc, char **argv)
{
	struct args args;
	char message[256];
	int level, rank, status = EXIT_SUCCESS;

	if (MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level))
		return EXIT_FAILURE;
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	if (args_parse(&args, argc, argv, message, sizeof(message))) {
		if (rank == 0)
			fprintf(stderr, "train_gpt: %s\n", message);
		status = STATUS_USAGE;
	} else if (args.help) {
		if (rank == 0)
			args_usage();
	} else {
		status = run(&args);
	}
	MPI_Finalize();
	return status;
}
