/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * copy_device.c on a real device: regions of both host and device memory, views among them,
 * with random bytes that are new each time.
 */
#include <stdio.h>
#include <sys/mman.h>

#include "copy_bands.h"
#include "copy_bench.h"
#include "gpu.h"

#define SPOILED 0x5b
#define MIB (UINT64_C(1) << 20)
/* Allocations as large as that do not share their addresses with others. */
#define ALONE_BYTES (64 * MIB)
/* The driver queues about a thousand copies within a device, and more of others. */
#define LANE_RUNS   800u

static uint64_t random_state;

/* A bench whose regions, but for every third, are on device 0. */
struct gpu_bench {
	struct bench b;
	uint8_t *base;            /* on the device: there regions lie as in b.t.memory */
	uint8_t *fresh;           /* pinned, as large */
	bool *on_device;          /* regions */
	size_t slot_bytes;
};

static uint8_t *device_address(const struct gpu_bench *g, const void *host)
{
	return g->base + ((const uint8_t *)host - g->b.t.memory);
}

/* Regions as they are in b.t.memory become those of the device, and of the checks. */
static void regions_move(struct gpu_bench *g)
{
	struct layout *l = &g->b.t.layout;

	g->on_device = calloc(l->regions, sizeof(*g->on_device));
	assert_non_null(g->on_device);
	for (uint32_t i = 0; i < l->regions; i++) {
		g->on_device[i] = i % 3 != 2;
		if (!g->on_device[i])
			continue;
		l->region[i].addr = device_address(g, l->region[i].addr);
		OK(device_ops()->where(l->region[i].addr, l->region[i].bytes,
		                       &l->region[i].device));
		assert_int_equal(l->region[i].device, 0);
	}
	for (uint32_t i = 0; i < CHECKS; i++) {
		g->b.check[i].addr = l->region[10 + i].addr;
		g->b.check[i].device = l->region[10 + i].device;
	}
}

static void gpu_bench_init(struct gpu_bench *g, uint64_t staging, bool checks)
{
	struct bench *b = &g->b;
	struct copy_config config = {.threads = 2, .pin_threads = 2, .device_staging = staging};

	/* With checks if odd. */
	bench_init(b, 1, (test_random(&random_state) & ~UINT64_C(1)) | checks);
	b->ops->close(b->copy);
	copy_plan_free(b->plan);
	free(b->job.data);
	g->base = gpu_alloc(b->t.memory_bytes + ALONE_BYTES);
	/* The first fill of memory loads code, which waits for gates to open. */
	CUDA(cudaMemset(g->base, SPOILED, b->t.memory_bytes + ALONE_BYTES));
	gpu_copy(g->base, b->t.memory, b->t.memory_bytes);
	CUDA(cudaHostAlloc((void **)&g->fresh, b->t.memory_bytes, cudaHostAllocDefault));
	regions_move(g);
	OK(copy_plan_new(&b->t.layout, &b->rail, 1, &b->plan));
	assert_true(b->plan->on_device);
	g->slot_bytes = (b->t.layout.data_bytes + 4095) / 4096 * 4096;
	b->job.plan = b->plan;
	b->job.data = mmap(NULL, g->slot_bytes, PROT_READ | PROT_WRITE,
	                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(b->job.data, MAP_FAILED);
	b->ops = copy_device();
	assert_non_null(b->ops);
	OK(b->ops->open(&config, &b->copy));
	OK(b->ops->prepare(b->copy, b->plan, b->job.data, g->slot_bytes));
}

static void gpu_bench_deinit(struct gpu_bench *g)
{
	struct bench *b = &g->b;

	b->ops->release(b->copy, b->plan);
	b->ops->close(b->copy);
	copy_plan_free(b->plan);
	munmap(b->job.data, g->slot_bytes);
	CUDA(cudaFreeHost(g->fresh));
	if (g->base)
		CUDA(cudaFree(g->base));
	test_layout_deinit(&b->t);
	free(g->on_device);
	free(b->image);
	free(b->job.sums);
	free((void *)b->job.landed);
}

static uint32_t device_runs(const struct gpu_bench *g)
{
	struct copy_bands *bands = NULL;
	uint32_t runs;

	OK(copy_bands_new(g->b.plan, MIB, &bands));
	runs = bands->runs;
	copy_bands_free(bands);
	return runs;
}

/* So that all copies can be queued while the device has not come to them. */
static void gpu_bench_init_gated(struct gpu_bench *g, uint64_t staging)
{
	gpu_bench_init(g, staging, false);
	while (device_runs(g) > LANE_RUNS) {
		gpu_bench_deinit(g);
		gpu_bench_init(g, staging, false);
	}
}

/* Region i as it is in some copy of b.t.memory. */
static uint8_t *region_in(const struct gpu_bench *g, uint8_t *memory, uint32_t i)
{
	const uint8_t *addr = g->b.t.layout.region[i].addr;

	return memory + (addr - (g->on_device[i] ? g->base : g->b.t.memory));
}

/* New content: that of host regions at once, of the device in g->fresh. What the slot is to
 * hold, and the checks to say, follows. */
static void renew(struct gpu_bench *g)
{
	struct bench *b = &g->b;
	struct layout *l = &b->t.layout;
	struct test_layout t = b->t;
	struct region *region = calloc(l->regions, sizeof(*region));

	assert_non_null(region);
	test_random_fill(&random_state, g->fresh, b->t.memory_bytes);
	for (uint32_t i = 0; i < l->regions; i++) {
		region[i] = l->region[i];
		region[i].addr = region_in(g, g->fresh, i);
		if (!g->on_device[i])
			memcpy(l->region[i].addr, region[i].addr, region[i].bytes);
	}
	t.layout.region = region;
	free(b->image);
	b->image = test_boxes_image(&t);
	for (uint32_t i = 0; i < CHECKS; i++) {
		uint64_t random = test_random(&random_state);

		b->check[i] = new_check(&region[10 + i], &random, &b->want_sum[i]);
		b->check[i].addr = l->region[10 + i].addr;
		b->check[i].device = l->region[10 + i].device;
	}
	free(region);
}

/* The device's regions become g->fresh, host regions stay. */
static void upload(struct gpu_bench *g, cudaStream_t s)
{
	CUDA(cudaMemcpyAsync(g->base, g->fresh, g->b.t.memory_bytes, cudaMemcpyDefault, s));
}

static void spoil(struct gpu_bench *g, cudaStream_t s)
{
	CUDA(cudaMemsetAsync(g->base, SPOILED, g->b.t.memory_bytes, s));
}

static void begin_on(struct gpu_bench *g, cudaStream_t s)
{
	flags_clear(&g->b);
	memset(g->b.job.sums, 0x55, g->b.plan->blocks * sizeof(*g->b.job.sums));
	OK(g->b.ops->begin(g->b.copy, &g->b.job, s));
}

static void fence_on(struct gpu_bench *g, cudaStream_t s)
{
	OK(g->b.ops->fence(g->b.copy, s, clock_deadline(MINUTE)));
}

static void await_done(struct gpu_bench *g)
{
	uint64_t deadline = clock_deadline(PATIENCE_S * 1000);

	while (!g->b.ops->done(g->b.copy)) {
		assert_true(clock_ns() < deadline);
		clock_sleep(50000);
	}
}

static void assert_all_landed(struct gpu_bench *g)
{
	await_done(g);
	assert_int_equal(assert_resolved(&g->b), g->b.plan->blocks);
	assert_memory_equal(g->b.job.data, g->b.image, g->b.t.layout.data_bytes);
}

/* --- snapshots --- */

/* What comes before the call on its stream is in it, what comes behind the fence is not, and
 * neither call waits for the device. */
static void snapshot_between(struct gpu_bench *g, cudaStream_t s, cudaStream_t *fenced,
                             uint32_t count)
{
	struct gate gate = GATE_INIT;

	renew(g);
	gate_on(s, &gate);
	upload(g, s);
	begin_on(g, s);
	for (uint32_t i = 0; i < count; i++) {
		fence_on(g, fenced[i]);
		spoil(g, fenced[i]);
	}
	assert_false(g->b.ops->done(g->b.copy));
	gate_open(&gate);
	assert_all_landed(g);
	for (uint32_t i = 0; i < count; i++)
		CUDA(cudaStreamSynchronize(fenced[i]));
}

static void copies_what_lies_between_call_and_fence(void **state)
{
	static const uint64_t staging[] = {0, 300000, 64 * MIB};
	cudaStream_t s = gpu_stream();

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct gpu_bench g;

		gpu_bench_init_gated(&g, staging[i]);
		for (int round = 0; round < 4; round++)
			snapshot_between(&g, s, &s, 1);
		gpu_bench_deinit(&g);
	}
	CUDA(cudaStreamDestroy(s));
}

/* Taken before the fence returns, which therefore waits for the device. */
static void takes_checksums_of_replicas(void **state)
{
	cudaStream_t s = gpu_stream();
	struct gpu_bench g;

	(void)state;
	gpu_bench_init(&g, MIB, true);
	for (int round = 0; round < 10; round++) {
		renew(&g);
		upload(&g, s);
		begin_on(&g, s);
		fence_on(&g, s);
		spoil(&g, s);
		assert_all_landed(&g);
	}
	gpu_bench_deinit(&g);
	CUDA(cudaStreamDestroy(s));
}

static void several_streams_may_have_fences(void **state)
{
	cudaStream_t s[] = {gpu_stream(), gpu_stream(), cudaStreamPerThread};
	struct gpu_bench g;

	(void)state;
	gpu_bench_init_gated(&g, 0);
	for (int round = 0; round < 3; round++)
		snapshot_between(&g, s[round], s, 3);
	gpu_bench_deinit(&g);
	CUDA(cudaStreamDestroy(s[0]));
	CUDA(cudaStreamDestroy(s[1]));
}

static void takes_the_default_streams(void **state)
{
	cudaStream_t s[] = {NULL, cudaStreamLegacy, cudaStreamPerThread};
	struct gpu_bench g;

	(void)state;
	gpu_bench_init_gated(&g, MIB);
	for (int i = 0; i < 3; i++)
		snapshot_between(&g, s[i], &s[i], 1);
	gpu_bench_deinit(&g);
}

static void works_where_nothing_is_pinned(void **state)
{
	struct copy_config config = {.threads = 2, .pin_threads = 2};
	cudaStream_t s = gpu_stream();
	struct gpu_bench g;

	(void)state;
	gpu_bench_init(&g, 0, false);
	g.b.ops->release(g.b.copy, g.b.plan);
	g.b.ops->close(g.b.copy);
	/* By somebody else, so that the library cannot; then by nobody. */
	CUDA(cudaHostRegister(g.b.job.data, 4096, cudaHostRegisterDefault));
	OK(g.b.ops->open(&config, &g.b.copy));
	OK(g.b.ops->prepare(g.b.copy, g.b.plan, g.b.job.data, g.slot_bytes));
	CUDA(cudaHostUnregister(g.b.job.data));
	for (int round = 0; round < 2; round++) {
		renew(&g);
		upload(&g, s);
		begin_on(&g, s);
		fence_on(&g, s);
		spoil(&g, s);
		assert_all_landed(&g);
	}
	gpu_bench_deinit(&g);
	CUDA(cudaStreamDestroy(s));
}

static void a_cancelled_snapshot_ends_and_the_next_is_whole(void **state)
{
	cudaStream_t s = gpu_stream();
	struct gate gate = GATE_INIT;
	struct gpu_bench g;

	(void)state;
	gpu_bench_init_gated(&g, MIB);
	renew(&g);
	gate_on(s, &gate);
	upload(&g, s);
	begin_on(&g, s);
	g.b.ops->cancel(g.b.copy);
	gate_open(&gate);
	await_done(&g);
	assert_true(assert_resolved(&g.b) < g.b.plan->blocks);
	snapshot_between(&g, s, &s, 1);
	gpu_bench_deinit(&g);
	CUDA(cudaStreamDestroy(s));
}

static void refuses_a_captured_stream_and_goes_on(void **state)
{
	cudaStream_t s = gpu_stream();
	cudaGraph_t graph = NULL;
	struct gpu_bench g;

	(void)state;
	gpu_bench_init_gated(&g, 0);
	flags_clear(&g.b);
	CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
	REFUSED(g.b.ops->begin(g.b.copy, &g.b.job, s), FTMEM_EINVAL, "captured");
	CUDA(cudaStreamEndCapture(s, &graph));
	CUDA(cudaGraphDestroy(graph));
	snapshot_between(&g, s, &s, 1);
	gpu_bench_deinit(&g);
	CUDA(cudaStreamDestroy(s));
}

static void drops_a_snapshot_of_memory_that_was_freed(void **state)
{
	cudaStream_t s = gpu_stream();
	struct gpu_bench g;
	void *at;

	(void)state;
	gpu_bench_init(&g, 0, false);
	CUDA(cudaFree(g.base));
	g.base = NULL;
	begin_on(&g, s);
	await_done(&g);
	for (uint32_t i = 0; i < g.b.plan->blocks; i++)
		assert_int_not_equal(landed_of(&g.b, i), COPY_PENDING);
	assert_int_equal(landed_of(&g.b, g.b.plan->blocks - 1), COPY_FAILED);
	gpu_bench_deinit(&g);
	/* The device is as good as before. */
	at = gpu_alloc(MIB);
	CUDA(cudaMemset(at, 1, MIB));
	CUDA(cudaDeviceSynchronize());
	CUDA(cudaFree(at));
	CUDA(cudaStreamDestroy(s));
}

/* --- the way back --- */

/* All regions are spoiled, but for what the slot holds. */
static void assert_restored(struct gpu_bench *g, const uint8_t *image)
{
	struct bench *b = &g->b;
	struct layout *l = &b->t.layout;
	uint8_t *want = malloc(b->t.memory_bytes), *got = malloc(b->t.memory_bytes);

	assert_non_null(want);
	assert_non_null(got);
	memset(want, SPOILED, b->t.memory_bytes);
	for (uint32_t p = 0; p < l->pieces; p++) {
		const struct layout_piece *piece = &l->piece[p];
		const struct region *r = &l->region[piece->region];
		uint8_t *to = region_in(g, want, piece->region);

		if (r->box.ndim == 0)
			memcpy(to, image + piece->offset, r->bytes);
		else
			test_boxes_unpack(&r->box, &piece->box, r->elem_bytes, to,
			                  image + piece->offset);
	}
	gpu_copy(got, g->base, b->t.memory_bytes);
	for (uint32_t i = 0; i < l->regions; i++) {
		const uint8_t *is = g->on_device[i] ? region_in(g, got, i) : l->region[i].addr;

		assert_memory_equal(is, region_in(g, want, i), l->region[i].bytes);
	}
	free(want);
	free(got);
}

static void spoil_all(struct gpu_bench *g)
{
	spoil(g, NULL);
	CUDA(cudaDeviceSynchronize());
	memset(g->b.t.memory, SPOILED, g->b.t.memory_bytes);
}

static void restores_what_was_snapshotted(void **state)
{
	cudaStream_t s = gpu_stream();
	struct gpu_bench g;
	struct copy_fill fill;
	uint64_t damaged;

	(void)state;
	gpu_bench_init_gated(&g, MIB);
	fill = (struct copy_fill){g.b.plan, g.b.job.data, g.b.job.sums};
	for (int round = 0; round < 3; round++) {
		snapshot_between(&g, s, &s, 1);
		spoil_all(&g);
		damaged = 99;
		OK(g.b.ops->fill(g.b.copy, &fill, round == 0 ? g.b.plan->blocks : 0));
		for (uint32_t ready = 7; round > 0 && ready < g.b.plan->blocks; ready += 31)
			g.b.ops->fill_more(g.b.copy, ready);
		if (round > 0)
			g.b.ops->fill_more(g.b.copy, g.b.plan->blocks);
		OK(g.b.ops->fill_end(g.b.copy, &damaged));
		assert_int_equal(damaged, 0);
		assert_restored(&g, g.b.image);
	}
	gpu_bench_deinit(&g);
	CUDA(cudaStreamDestroy(s));
}

static void counts_blocks_that_do_not_fit_their_checksums(void **state)
{
	cudaStream_t s = gpu_stream();
	const struct copy_block *block;
	struct gpu_bench g;
	struct copy_fill fill;
	uint64_t damaged = 99;

	(void)state;
	gpu_bench_init_gated(&g, 0);
	snapshot_between(&g, s, &s, 1);
	fill = (struct copy_fill){g.b.plan, g.b.job.data, g.b.job.sums};
	block = &g.b.plan->block[g.b.plan->blocks / 2];
	g.b.job.data[block->offset + block->bytes / 2] ^= 0x10;
	OK(g.b.ops->fill(g.b.copy, &fill, g.b.plan->blocks));
	OK(g.b.ops->fill_end(g.b.copy, &damaged));
	assert_int_equal(damaged, 1);
	gpu_bench_deinit(&g);
	CUDA(cudaStreamDestroy(s));
}

/* Some bytes of the packed form of boxes in regions. */
static void puts_boxes_into_regions(void **state)
{
	struct copy_put put[CHECKS];
	uint8_t *source[CHECKS], *got;
	struct gpu_bench g;
	struct box inner[CHECKS];

	(void)state;
	gpu_bench_init(&g, 0, false);
	for (int round = 0; round < 5; round++) {
		for (uint32_t i = 0; i < CHECKS; i++) {
			const struct region *r = &g.b.t.layout.region[10 + i];
			uint64_t bytes;

			inner[i] = test_boxes_inner(&r->box, &random_state);
			bytes = test_boxes_count(&inner[i]) * r->elem_bytes;
			source[i] = malloc(bytes);
			assert_non_null(source[i]);
			test_random_fill(&random_state, source[i], bytes);
			put[i] = (struct copy_put){
				.to = r->addr, .source = source[i], .bytes = bytes,
				.device = r->device,
			};
			box_view(&r->box, &inner[i], r->elem_bytes, &put[i].to_view);
			box_view(&inner[i], &inner[i], r->elem_bytes, &put[i].source_view);
		}
		OK(g.b.ops->put(g.b.copy, put, CHECKS));
		for (uint32_t i = 0; i < CHECKS; i++) {
			const struct region *r = &g.b.t.layout.region[10 + i];
			uint8_t *packed = malloc(put[i].bytes);

			got = malloc(r->bytes);
			assert_non_null(got);
			assert_non_null(packed);
			gpu_copy(got, r->addr, r->bytes);
			test_boxes_pack(&r->box, &inner[i], r->elem_bytes, got, packed);
			assert_memory_equal(packed, source[i], put[i].bytes);
			free(packed);
			free(got);
			free(source[i]);
		}
	}
	gpu_bench_deinit(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies_what_lies_between_call_and_fence),
		cmocka_unit_test(takes_checksums_of_replicas),
		cmocka_unit_test(several_streams_may_have_fences),
		cmocka_unit_test(takes_the_default_streams),
		cmocka_unit_test(works_where_nothing_is_pinned),
		cmocka_unit_test(a_cancelled_snapshot_ends_and_the_next_is_whole),
		cmocka_unit_test(refuses_a_captured_stream_and_goes_on),
		cmocka_unit_test(drops_a_snapshot_of_memory_that_was_freed),
		cmocka_unit_test(restores_what_was_snapshotted),
		cmocka_unit_test(counts_blocks_that_do_not_fit_their_checksums),
		cmocka_unit_test(puts_boxes_into_regions),
	};

	(void)gpu_count();
	random_state = test_random_seed("copy_cuda");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
