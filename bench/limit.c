/* SPDX-License-Identifier: BSD-3-Clause */
#include "limit.h"

#include <math.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "checksum.h"
#include "clock.h"
#include "ec/codec.h"
#include "error.h"
#include "series.h"
#include "stream.h"

#define ROUNDS 5
#define ROUND_NS UINT64_C(100000000)
#define COPY_MAX (UINT64_C(256) << 20) /* of the state, so that memory stays small */
#define IN_FLIGHT 16                   /* messages each way */

struct load {
	const struct world *world;
	const struct state *state;
	struct codec *codec;
	uint32_t block, k, m;
	uint64_t turn;
	uint64_t area_bytes;
	uint8_t *area;       /* target of copies */
	uint8_t *blocks;     /* k + 1, at least 2 * IN_FLIGHT, blocks */
	const uint8_t **src; /* [k] */
};

static volatile uint32_t checksum_sink;

/* Where the next block of the state begins, and its bytes. */
static uint64_t next_block(struct load *l, uint64_t *at)
{
	*at = l->turn++ * l->block % l->area_bytes;
	return l->area_bytes - *at < l->block ? l->area_bytes - *at : l->block;
}

/* Each does one unit of work and returns its bytes. */
static uint64_t do_copy(struct load *l)
{
	uint64_t at, len = next_block(l, &at);

	stream_copy(l->area + at, l->state->data + at, len);
	return len;
}

static uint64_t do_checksum(struct load *l)
{
	checksum_sink = checksum(l->blocks + l->turn++ % 4 * l->block, l->block);
	return l->block;
}

static uint64_t do_verify(struct load *l)
{
	uint64_t at, len = next_block(l, &at);

	checksum_sink = checksum(l->state->data + at, len);
	return len;
}

/* The next whole block of memory that is out of cache. */
static uint8_t *cold_block(struct load *l)
{
	uint64_t count = l->area_bytes / l->block;

	return count ? l->area + l->turn++ % count * l->block
	             : l->blocks + (size_t)l->k * l->block;
}

/* Parity is written to where it stays. */
static uint64_t do_encode(struct load *l)
{
	uint8_t *to = cold_block(l);

	codec_encode(l->codec, (uint32_t)(l->turn % l->m), l->block, l->src, to);
	return (uint64_t)l->k * l->block;
}

/* One message each way; slot: which of those under way. */
static void post(struct load *l, MPI_Request *request, int slot)
{
	const struct world *w = l->world;
	int to = (int)((w->rank + w->shift) % w->size);
	int from = (int)((w->rank + w->size - w->shift) % w->size);
	if (slot < IN_FLIGHT)
		MPI_Irecv(l->blocks + (size_t)slot * l->block, (int)l->block, MPI_BYTE, from, 0,
		          MPI_COMM_WORLD, request);
	else
		MPI_Isend(cold_block(l), (int)l->block, MPI_BYTE, to, 0, MPI_COMM_WORLD,
		          request);
}

/* Sends count messages and receives as many. yielding: leaves the processor to
 * others while there is nothing to do, which pays if ranks share processors. */
static void exchange(struct load *l, uint64_t count, bool yielding)
{
	MPI_Request request[2 * IN_FLIGHT];
	uint64_t posted[2] = {IN_FLIGHT, IN_FLIGHT}, done = 0;
	int finished[2 * IN_FLIGHT], some;

	for (int i = 0; i < 2 * IN_FLIGHT; i++)
		post(l, &request[i], i);
	while (done < 2 * count) {
		MPI_Testsome(2 * IN_FLIGHT, request, &some, finished, MPI_STATUSES_IGNORE);
		for (int i = 0; i < some; i++)
			if (posted[finished[i] / IN_FLIGHT]++ < count)
				post(l, &request[finished[i]], finished[i]);
		if (some == 0 && yielding)
			clock_sleep(20000);
		done += (uint64_t)(some > 0 ? some : 0);
	}
}

static double exchange_rate(struct load *l, uint64_t count, bool yielding)
{
	uint64_t start;

	world_barrier();
	start = clock_ns();
	exchange(l, count, yielding);
	return (double)count * l->block / (double)(clock_ns() - start);
}

/* Rounds are as long on all ranks: they send one count of messages. */
static double measure_exchange(struct load *l, bool yielding)
{
	struct series sums = {0};
	double rate = exchange_rate(l, 8 * IN_FLIGHT, yielding);
	uint64_t count = (uint64_t)(-world_max(-rate) * (double)ROUND_NS / l->block);

	if (count < IN_FLIGHT)
		count = IN_FLIGHT;
	for (int i = 0; i < ROUNDS; i++)
		series_add(&sums, world_sum(exchange_rate(l, count, yielding)));
	return series_summary(&sums).median;
}

static double run_round(struct load *l, uint64_t (*unit)(struct load *))
{
	uint64_t bytes = 0, start, now;

	world_barrier();
	start = clock_ns();
	do {
		bytes += unit(l);
		now = clock_ns();
	} while (now - start < ROUND_NS);
	return (double)bytes / (double)(now - start); /* bytes per ns: GB/s */
}

static double measure(struct load *l, uint64_t (*unit)(struct load *))
{
	struct series sums = {0};

	for (int i = 0; i < ROUNDS; i++)
		series_add(&sums, world_sum(run_round(l, unit)));
	return series_summary(&sums).median;
}

static struct limit limit_of(const struct world *w, double sum)
{
	return (struct limit){.rank = sum / w->size, .sum = sum};
}

static void load_deinit(struct load *l)
{
	if (l->area)
		munmap(l->area, l->area_bytes);
	free(l->blocks);
	free(l->src);
	codec_free(l->codec);
}

static int load_init(struct load *l)
{
	size_t count = l->k + 1 < 2 * IN_FLIGHT ? 2 * IN_FLIGHT : l->k + 1;
	void *area;

	l->area_bytes = l->state->bytes < COPY_MAX ? l->state->bytes : COPY_MAX;
	area = mmap(NULL, l->area_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	            0);
	if (area == MAP_FAILED)
		return error_set(FTMEM_ENOMEM, "no memory to measure the limits with");
	l->area = area;
	l->blocks = aligned_alloc(4096, count * l->block);
	l->src = calloc(l->k, sizeof(*l->src));
	if (!l->blocks || !l->src)
		return error_set(FTMEM_ENOMEM, "no memory to measure the limits with");
	memset(l->area, 1, l->area_bytes);
	for (size_t i = 0; i < count * l->block; i++)
		l->blocks[i] = (uint8_t)(i * 131 >> 5);
	for (uint32_t i = 0; i < l->k; i++)
		l->src[i] = l->blocks + (size_t)i * l->block;
	return l->m ? codec_new(l->k, l->m, &l->codec) : 0;
}

int limits_measure(const struct world *w, const struct state *s, uint32_t block_bytes,
                   uint32_t k, uint32_t m, struct limits *out)
{
	struct load l = {.world = w, .state = s, .block = block_bytes, .k = k, .m = m};
	int result = load_init(&l);

	if (!world_check(w, result, "limits")) {
		load_deinit(&l);
		return result ? result : FTMEM_ENOMEM;
	}
	*out = (struct limits){.encode = {NAN, NAN}, .mpi = {NAN, NAN}};
	out->copy = limit_of(w, measure(&l, do_copy));
	out->checksum = limit_of(w, measure(&l, do_checksum));
	out->verify = limit_of(w, measure(&l, do_verify));
	if (m) {
		out->encode = limit_of(w, measure(&l, do_encode));
		out->mpi = limit_of(w, fmax(measure_exchange(&l, false),
		                            measure_exchange(&l, true)));
	}
	load_deinit(&l);
	return 0;
}
