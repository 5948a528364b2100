/* SPDX-License-Identifier: BSD-3-Clause */
#include "trainer.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adamw.h"

_Static_assert(sizeof(real) == sizeof(float), "sent as MPI_FLOAT");

#define DATA_STREAM 2u /* of the random numbers */
#define TEXT_MAX ((size_t)64 << 20)
#define WARM_UP 20u    /* steps until the full learning rate */
#define SMOOTH 0.95    /* of the running mean of the loss */

/* Numbers of each rank, for MPI: what is sent and received, shards, sequences. */
enum table { SEND, SEND_AT, RECEIVE, RECEIVE_AT, SHARD, SHARD_AT, BATCH, BATCH_AT, TABLES };

/* Errors of MPI end the program: MPI's default, and right for a trainer that can be
 * started again. */

static size_t shard_first(const struct trainer *t, int rank)
{
	return (size_t)rank * t->parameters / (size_t)t->ranks;
}

static uint32_t batch_first(const struct trainer *t, int rank)
{
	return (uint32_t)((uint64_t)rank * t->args->batch / (uint64_t)t->ranks);
}

static uint32_t batch_parts(const struct trainer *t, int rank, struct tree_part *parts)
{
	return tree_split(batch_first(t, rank), batch_first(t, rank + 1), parts);
}

static int complain(const struct trainer *t, const char *what, const char *why)
{
	fprintf(stderr, "train_gpt: rank %d: %s: %s\n", t->rank, what, why);
	return -1;
}

static int text_read(struct trainer *t)
{
	const char *path = t->args->text;
	FILE *file = fopen(path, "rb");
	bool failed;

	if (!file)
		return complain(t, path, strerror(errno));
	t->text = malloc(TEXT_MAX);
	if (t->text)
		t->text_bytes = fread(t->text, 1, TEXT_MAX, file);
	failed = !t->text || ferror(file);
	fclose(file);
	if (failed)
		return complain(t, path, "cannot be read");
	if (t->text_bytes <= t->args->model.context)
		return complain(t, path, "shorter than --context");
	return 0;
}

static int *table(struct trainer *t, enum table which)
{
	return t->counts + (size_t)which * (size_t)t->ranks;
}

/* Who sends how much: my parts of each owner's shard; each rank's parts of mine. */
static int exchange_new(struct trainer *t)
{
	struct tree_part parts[TREE_PARTS_MAX];
	size_t own = batch_parts(t, t->rank, parts), sent = 0, received = 0;

	t->counts = calloc((size_t)t->ranks * TABLES, sizeof(int));
	if (!t->counts)
		return complain(t, "the model", "no memory for it");
	for (int r = 0; r < t->ranks; r++) {
		size_t shard = shard_first(t, r + 1) - shard_first(t, r);
		size_t theirs = batch_parts(t, r, parts);

		table(t, SEND)[r] = (int)(own * shard);
		table(t, SEND_AT)[r] = (int)sent;
		table(t, RECEIVE)[r] = (int)(theirs * t->count);
		table(t, RECEIVE_AT)[r] = (int)received;
		table(t, SHARD)[r] = (int)shard;
		table(t, SHARD_AT)[r] = (int)shard_first(t, r);
		table(t, BATCH)[r] = (int)(batch_first(t, r + 1) - batch_first(t, r));
		table(t, BATCH_AT)[r] = (int)batch_first(t, r);
		sent += own * shard;
		received += theirs * t->count;
		if (sent > INT_MAX || received > INT_MAX)
			return complain(t, "the model", "too large for this example");
	}
	t->outbox = malloc((sent + 1) * sizeof(real));
	t->inbox = malloc((received + 1) * sizeof(real));
	if (!t->outbox || !t->inbox)
		return complain(t, "the model", "no memory for its gradients");
	return 0;
}

static int memory_take(struct trainer *t)
{
	if (model_new(&t->args->model, &t->model))
		return complain(t, "the model", "no memory for it");
	t->parameters = model_parameters(t->model);
	t->first = shard_first(t, t->rank);
	t->count = shard_first(t, t->rank + 1) - t->first;
	if (!t->count)
		return complain(t, "the model", "fewer parameters than ranks");
	tree_init(&t->leaves, t->parameters);
	tree_init(&t->owned, t->count);
	t->params = malloc(t->parameters * sizeof(real));
	t->moment1 = calloc(t->count, sizeof(real));
	t->moment2 = calloc(t->count, sizeof(real));
	t->losses = calloc(t->args->batch, sizeof(double));
	if (!t->params || !t->moment1 || !t->moment2 || !t->losses)
		return complain(t, "the model", "no memory for it");
	return exchange_new(t);
}

int trainer_new(const struct args *args, struct trainer **out)
{
	struct trainer *t = calloc(1, sizeof(*t));

	if (!t)
		return -1;
	t->args = args;
	MPI_Comm_rank(MPI_COMM_WORLD, &t->rank);
	MPI_Comm_size(MPI_COMM_WORLD, &t->ranks);
	if (text_read(t) || memory_take(t))
		goto fail;
	model_init(t->model, args->seed, t->params);
	t->state.rng.seed = args->seed;
	*out = t;
	return 0;
fail:
	trainer_free(t);
	return -1;
}

void trainer_free(struct trainer *t)
{
	if (!t)
		return;
	free(t->counts);
	free(t->outbox);
	free(t->inbox);
	free(t->losses);
	free(t->moment2);
	free(t->moment1);
	free(t->params);
	tree_deinit(&t->owned);
	tree_deinit(&t->leaves);
	model_free(t->model);
	free(t->text);
	free(t);
}

static real *room(struct tree *tree)
{
	real *at = tree_room(tree);

	if (!at) {
		fprintf(stderr, "train_gpt: no memory for its gradients\n");
		MPI_Abort(MPI_COMM_WORLD, 1);
	}
	return at;
}

static const unsigned char *sequence(const struct trainer *t, uint32_t index)
{
	const struct rng *r = &t->state.rng;
	uint64_t places = t->text_bytes - t->args->model.context;

	return t->text + rng_bits(r->seed, DATA_STREAM, r->counter + index) % places;
}

/* Mean of the batch's losses, added up in the order of the sequences. */
static double losses_mean(struct trainer *t)
{
	double sum = 0;

	MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, t->losses, table(t, BATCH),
	               table(t, BATCH_AT), MPI_DOUBLE, MPI_COMM_WORLD);
	for (uint64_t i = 0; i < t->args->batch; i++)
		sum += t->losses[i];
	return sum / (double)t->args->batch;
}

/* Every rank's parts of the own shard, in the order of the sequences. */
static const real *parts_add(struct trainer *t)
{
	for (int r = 0; r < t->ranks; r++) {
		struct tree_part parts[TREE_PARTS_MAX];
		uint32_t count = batch_parts(t, r, parts);
		const real *from = t->inbox + table(t, RECEIVE_AT)[r];

		for (uint32_t i = 0; i < count; i++) {
			memcpy(room(&t->owned), from + i * t->count, t->count * sizeof(real));
			tree_push(&t->owned, parts[i]);
		}
	}
	return tree_finish(&t->owned);
}

static void parts_send(struct trainer *t)
{
	real *to = t->outbox;

	for (int r = 0; r < t->ranks; r++) {
		size_t first = shard_first(t, r), count = shard_first(t, r + 1) - first;

		for (uint32_t i = 0; i < t->leaves.count; i++, to += count)
			memcpy(to, t->leaves.sum[i] + first, count * sizeof(real));
	}
	t->leaves.count = 0;
	MPI_Alltoallv(t->outbox, table(t, SEND), table(t, SEND_AT), MPI_FLOAT,
	              t->inbox, table(t, RECEIVE), table(t, RECEIVE_AT), MPI_FLOAT,
	              MPI_COMM_WORLD);
}

double trainer_gradient(struct trainer *t)
{
	uint32_t end = batch_first(t, t->rank + 1);
	real scale = (real)(1.0 / (double)t->args->batch);

	for (uint32_t i = batch_first(t, t->rank); i < end; i++) {
		t->losses[i] = model_gradient(t->model, t->params, sequence(t, i), scale,
		                              room(&t->leaves));
		tree_push(&t->leaves, (struct tree_part){i, 0});
	}
	parts_send(t);
	t->grads = parts_add(t);
	return losses_mean(t);
}

/* Gives all ranks the parameters of all shards. */
static void params_gather(struct trainer *t)
{
	MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, t->params, table(t, SHARD),
	               table(t, SHARD_AT), MPI_FLOAT, MPI_COMM_WORLD);
}

void trainer_update(struct trainer *t, double loss)
{
	struct train_state *s = &t->state;
	double warm = (double)(s->step + 1) / WARM_UP;
	struct adamw adamw = {
		.rate = t->args->rate * (warm < 1 ? warm : 1),
		.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .decay = 0.1,
	};

	adamw_step(&adamw, t->model, s->step + 1, t->first, t->count, t->params + t->first,
	           t->moment1, t->moment2, t->grads);
	params_gather(t);
	s->loss = s->step ? SMOOTH * s->loss + (1 - SMOOTH) * loss : loss;
	s->rng.counter += t->args->batch;
	s->ranks = (uint64_t)t->ranks;
	s->step++;
}

static bool dump_write(struct trainer *t, FILE *file, const real *moment1, const real *moment2)
{
	const struct train_state *s = &t->state;

	fprintf(file, "train_gpt 1: step %" PRIu64 " seed %" PRIu64 " drawn %" PRIu64
	        " loss %a parameters %zu\n", s->step, s->rng.seed, s->rng.counter, s->loss,
	        t->parameters);
	fwrite(t->params, sizeof(real), t->parameters, file);
	fwrite(moment1, sizeof(real), t->parameters, file);
	fwrite(moment2, sizeof(real), t->parameters, file);
	return !ferror(file);
}

static int dump_save(struct trainer *t, const char *path, const real *moment1,
                     const real *moment2)
{
	FILE *file = fopen(path, "wb");
	bool written;

	if (!file)
		return complain(t, path, strerror(errno));
	written = dump_write(t, file, moment1, moment2);
	if (fclose(file) || !written)
		return complain(t, path, "cannot be written");
	return 0;
}

int trainer_dump(struct trainer *t, const char *path)
{
	size_t count = t->rank ? 0 : t->parameters;
	real *moments = calloc(2 * count + 1, sizeof(real));
	int result = 0;

	if (!moments)
		MPI_Abort(MPI_COMM_WORLD, 1);
	MPI_Gatherv(t->moment1, (int)t->count, MPI_FLOAT, moments, table(t, SHARD),
	            table(t, SHARD_AT), MPI_FLOAT, 0, MPI_COMM_WORLD);
	MPI_Gatherv(t->moment2, (int)t->count, MPI_FLOAT, moments + count, table(t, SHARD),
	            table(t, SHARD_AT), MPI_FLOAT, 0, MPI_COMM_WORLD);
	if (t->rank == 0)
		result = dump_save(t, path, moments, moments + count);
	free(moments);
	MPI_Bcast(&result, 1, MPI_INT, 0, MPI_COMM_WORLD);
	return result;
}
