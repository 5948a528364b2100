/* SPDX-License-Identifier: BSD-3-Clause */
#include "engine_cluster.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"

static void require(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "engine cluster: %s: %s\n", what, error_msg());
	abort();
}

/* --- the copy backend --- */

struct copy {
	pthread_mutex_t lock;
	const struct copy_job *job;   /* borrowed while under way: must stay what it was */
	struct copy_job was;
	bool under_way, hold, stuck, cancelled, fail_begin, fail_prepare;
	const char *why;
	uint32_t released;
	uint32_t fail_block;          /* from 1 */
};

static int fake_where(const void *addr, uint64_t bytes, int *device)
{
	(void)addr;
	(void)bytes;
	*device = DEVICE_HOST;
	return 0;
}

static int fake_open(const struct copy_config *config, struct copy **out)
{
	struct copy *c = calloc(1, sizeof(*c));

	(void)config;
	require(c, "memory");
	pthread_mutex_init(&c->lock, NULL);
	*out = c;
	return 0;
}

static int fake_prepare(struct copy *c, struct copy_plan *plan, void *addr, uint64_t bytes)
{
	require(addr && bytes > 0 && !plan->ready, "what is prepared");
	pthread_mutex_lock(&c->lock);
	require(!c->under_way, "a plan is prepared while a copy is under way");
	if (!c->fail_prepare)
		plan->ready = (struct copy_ready *)c;
	pthread_mutex_unlock(&c->lock);
	return plan->ready ? 0 : error_set(FTMEM_ENOMEM, "the test has no memory to pin");
}

static void fake_release(struct copy *c, struct copy_plan *plan)
{
	if (!plan->ready)
		return;
	pthread_mutex_lock(&c->lock);
	require(!c->under_way || c->job->plan != plan, "a plan is released while it is copied");
	c->released++;
	pthread_mutex_unlock(&c->lock);
	plan->ready = NULL;
}

static void fake_figures(struct copy *c, struct copy_figures *out)
{
	(void)c;
	*out = (struct copy_figures){0};
}

static int fake_begin(struct copy *c, const struct copy_job *job, void *stream)
{
	int rc = 0;

	(void)stream;
	pthread_mutex_lock(&c->lock);
	require(!c->under_way, "a copy begins while another is under way");
	c->cancelled = false;
	if (c->fail_begin) {
		rc = error_set(FTMEM_EDEVICE, "the test wants no copy to begin");
	} else {
		for (uint32_t i = 0; i < job->plan->blocks; i++)
			require(atomic_load(&job->landed[i]) == COPY_PENDING,
			        "block marks are not reset");
		c->job = job;
		memcpy(&c->was, job, sizeof(c->was));
		c->under_way = true;
	}
	c->fail_begin = false;
	pthread_mutex_unlock(&c->lock);
	/* It has no thread of its own that could say so later. */
	if (rc == 0 && job->started && job->plan->blocks > 0)
		job->started(job->started_arg);
	return rc;
}

static void copy_block(const struct copy_job *job, uint32_t index)
{
	const struct copy_block *b = &job->plan->block[index];

	for (uint32_t i = 0; i < b->count; i++) {
		const struct copy_piece *p = &job->plan->piece[b->first + i];

		if (p->view)
			box_view_gather(p->view, p->addr, p->from,
			                job->data + b->offset + p->offset, p->bytes);
		else
			memcpy(job->data + b->offset + p->offset, p->addr, p->bytes);
	}
	job->sums[b->sum] = checksum(job->data + b->offset, b->bytes);
}

static void take_check(const struct copy_job *job, uint32_t index)
{
	const struct copy_check *k = &job->check[index];
	uint8_t *packed = malloc(k->bytes);

	require(packed, "memory");
	box_view_gather(&k->view, k->addr, k->from, packed, k->bytes);
	job->check_sum[index] = checksum(packed, k->bytes);
	free(packed);
}

static bool fake_done(struct copy *c)
{
	bool done;

	pthread_mutex_lock(&c->lock);
	if (c->under_way && !c->stuck && (!c->hold || c->cancelled)) {
		require(memcmp(c->job, &c->was, sizeof(c->was)) == 0,
		        "the job changed under the copy");
		for (uint32_t i = 0; i < c->job->plan->blocks; i++) {
			bool fails = c->cancelled || i + 1 == c->fail_block;

			if (!fails)
				copy_block(c->job, i);
			atomic_store(&c->job->landed[i], fails ? COPY_FAILED : COPY_LANDED);
		}
		for (uint32_t i = 0; i < c->job->checks && !c->cancelled; i++)
			take_check(c->job, i);
		c->fail_block = 0;
		c->under_way = false;
		c->job = NULL;
	}
	done = !c->under_way;
	pthread_mutex_unlock(&c->lock);
	return done;
}

static int fake_fence(struct copy *c, void *stream, uint64_t deadline_ns)
{
	(void)stream;
	(void)deadline_ns;
	return fake_done(c) ? 0 : FTMEM_ETIMEOUT;
}

static void fake_cancel(struct copy *c)
{
	pthread_mutex_lock(&c->lock);
	c->cancelled = c->cancelled || c->under_way;
	pthread_mutex_unlock(&c->lock);
}

static void fake_why(struct copy *c, char *text, size_t bytes)
{
	pthread_mutex_lock(&c->lock);
	snprintf(text, bytes, "%s", c->why ? c->why : "");
	pthread_mutex_unlock(&c->lock);
}

static int fake_put(struct copy *c, const struct copy_put *put, uint32_t count)
{
	(void)c;
	(void)put;
	(void)count;
	return error_set(FTMEM_EDEVICE, "the test's backend writes nothing");
}

static void fake_close(struct copy *c)
{
	if (!c)
		return;
	fake_cancel(c);
	fake_done(c);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

const struct copy_ops *engine_copy(void)
{
	static const struct copy_ops ops = {
		.name = "test",
		.where = fake_where,
		.open = fake_open,
		.prepare = fake_prepare,
		.release = fake_release,
		.begin = fake_begin,
		.fence = fake_fence,
		.cancel = fake_cancel,
		.done = fake_done,
		.why = fake_why,
		.put = fake_put,
		.figures = fake_figures,
		.close = fake_close,
	};

	return &ops;
}

void engine_copy_tell(struct copy *c, const char *why)
{
	pthread_mutex_lock(&c->lock);
	c->why = why;
	pthread_mutex_unlock(&c->lock);
}

void engine_copy_hold(struct copy *c, bool hold)
{
	pthread_mutex_lock(&c->lock);
	c->hold = hold;
	pthread_mutex_unlock(&c->lock);
}

void engine_copy_stick(struct copy *c, bool stuck)
{
	pthread_mutex_lock(&c->lock);
	c->stuck = stuck;
	pthread_mutex_unlock(&c->lock);
}

void engine_copy_fail_prepare(struct copy *c, bool fail)
{
	pthread_mutex_lock(&c->lock);
	c->fail_prepare = fail;
	pthread_mutex_unlock(&c->lock);
}

uint32_t engine_copy_released(struct copy *c)
{
	uint32_t released;

	pthread_mutex_lock(&c->lock);
	released = c->released;
	pthread_mutex_unlock(&c->lock);
	return released;
}

void engine_copy_fail_begin(struct copy *c)
{
	pthread_mutex_lock(&c->lock);
	c->fail_begin = true;
	pthread_mutex_unlock(&c->lock);
}

void engine_copy_fail_block(struct copy *c, uint32_t n)
{
	pthread_mutex_lock(&c->lock);
	c->fail_block = n;
	pthread_mutex_unlock(&c->lock);
}

bool engine_copy_cancelled(struct copy *c)
{
	bool cancelled;

	pthread_mutex_lock(&c->lock);
	cancelled = c->cancelled;
	pthread_mutex_unlock(&c->lock);
	return cancelled;
}

bool engine_copy_under_way(struct copy *c)
{
	bool under_way;

	pthread_mutex_lock(&c->lock);
	under_way = c->under_way;
	pthread_mutex_unlock(&c->lock);
	return under_way;
}

/* --- ranks --- */

static void note_line(void *arg, int level, const char *line)
{
	struct engine_rank *r = arg;
	size_t used = strlen(r->lines);

	(void)level;
	snprintf(r->lines + used, sizeof(r->lines) - used, "%s\n", line);
	atomic_fetch_add(&r->logged, 1);
}

static void new_regions(struct engine_rank *r, uint64_t bytes)
{
	uint64_t first = bytes / 3 / 4 * 4, second = bytes > 1 ? bytes / 2 : 0;

	r->bytes[0] = first;
	r->bytes[1] = second;
	r->bytes[2] = bytes - first - second;
	for (int i = 0; i < ENGINE_REGIONS; i++) {
		r->memory[i] = calloc(1, r->bytes[i] + 1);
		require(r->memory[i], "memory");
	}
}

static struct layout *new_layout(const struct engine_rank *r)
{
	struct region_set *set = NULL;
	struct layout *layout = NULL;

	require(region_set_new(&set) == 0, "regions");
	for (int i = 0; i < ENGINE_REGIONS; i++) {
		char name[32];
		struct ftmem_region region = FTMEM_REGION_INIT;

		snprintf(name, sizeof(name), "region%d", i);
		region.name = name;
		region.addr = r->memory[i];
		region.bytes = r->bytes[i];
		if (r->bytes[i] > 0)
			require(region_set_add(set, &region, DEVICE_HOST) == 0, "region");
	}
	require(layout_freeze(set, &layout) == 0, "layout");
	require(layout_settle_whole(layout) == 0, "layout");
	region_set_free(set);
	return layout;
}

struct epoch_parts engine_parts(const struct engine_cluster *c, uint32_t layout, uint32_t arena)
{
	struct epoch_parts parts = {
		.layout = new_layout(&c->rank[layout]),
		.cell = calloc(1, sizeof(*parts.cell)), /* none is used */
		.arena = test_job_arena(c->map, c->data_bytes, arena),
	};

	require(parts.cell, "memory");
	return parts;
}

static void new_epoch(struct engine_cluster *c, struct engine_rank *r)
{
	const struct epoch_config config = {
		.net = r->net,
		.copy_ops = engine_copy(),
		.copy = r->copy,
		.window = 2,
		.log = &r->log,
	};
	const struct epoch_parts parts = engine_parts(c, r->rank, r->rank);

	require(epoch_new(&config, &parts, &r->epoch) == 0, "epoch");
}

void engine_cluster_init(struct engine_cluster *c, const struct test_job_spec *spec, uint64_t seed)
{
	memset(c, 0, sizeof(*c));
	c->map = test_job_map(spec);
	c->ranks = c->map->ranks;
	c->net = fake_net_new(c->ranks, seed);
	for (uint32_t i = 0; i < c->ranks; i++) {
		struct engine_rank *r = &c->rank[i];
		struct layout *layout;

		r->rank = i;
		r->net = fake_net_of(c->net, i);
		r->log = (struct log){note_line, r, FTMEM_LOG_DEBUG, i};
		new_regions(r, spec->data_bytes[i]);
		layout = new_layout(r);
		c->data_bytes[i] = layout->data_bytes;
		layout_free(layout);
		require(engine_copy()->open(NULL, &r->copy) == 0, "copy");
	}
	for (uint32_t i = 0; i < c->ranks; i++)
		new_epoch(c, &c->rank[i]);
}

void engine_cluster_deinit(struct engine_cluster *c)
{
	for (uint32_t i = 0; i < c->ranks; i++) {
		struct engine_rank *r = &c->rank[i];
		struct epoch *e = r->epoch;

		engine_copy_stick(r->copy, false);
		engine_copy()->cancel(r->copy);
		require(engine_copy()->done(r->copy), "a copy ends when it is cancelled");
		for (uint32_t x = 0; e && x < e->arena->shape.rails; x++)
			if (stripe_busy(e->stripe[x])) {
				test_job_given_up(e->stripe[x]);
				test_job_given_up(e->arena);
			}
		epoch_free(e, false);
		engine_copy()->close(r->copy);
		for (int x = 0; x < ENGINE_REGIONS; x++)
			free(r->memory[x]);
	}
	fake_net_free(c->net);
	map_free(c->map);
}

/* --- what slots hold --- */

static void region_data(const struct engine_rank *r, uint64_t version, int region, uint8_t *out)
{
	test_job_data(r->rank * ENGINE_REGIONS + (uint32_t)region, version, out, r->bytes[region]);
}

void engine_fill_regions(struct engine_rank *r, uint64_t version)
{
	for (int i = 0; i < ENGINE_REGIONS; i++)
		region_data(r, version, i, r->memory[i]);
}

static bool wrong(uint32_t rank, const char *what)
{
	fprintf(stderr, "rank %" PRIu32 ": %s\n", rank, what);
	return false;
}

static bool regions_right(const struct engine_rank *r, const struct slot *slot, uint64_t version)
{
	const struct layout *l = r->epoch->layout;
	uint32_t piece = 0;
	bool same = true;

	for (int i = 0; same && i < ENGINE_REGIONS; i++) {
		uint8_t *want = malloc(r->bytes[i] + 1);

		require(want, "memory");
		region_data(r, version, i, want);
		if (r->bytes[i] > 0)
			same = memcmp(slot->data + l->piece[piece++].offset, want, r->bytes[i])
			       == 0;
		free(want);
	}
	return same && (l->blob_bytes == 0 || memcmp(slot->data, l->blob, l->blob_bytes) == 0);
}

static bool parity_right(const struct engine_cluster *c, const struct slot *slot, uint32_t rail,
                         uint64_t version)
{
	const struct rail *r = &slot->shape->rail[rail];
	uint8_t block[TEST_JOB_BLOCK];
	const uint8_t *data[RAIL_MAX];
	bool same = true;

	for (uint32_t i = 0; i < r->n; i++) {
		const struct slot *other = engine_slot(c, r->rank[i], version);

		if (!other)
			return false;
		data[i] = r->data_bytes[i] ? other->data : NULL;
	}
	for (uint32_t j = 0; j < r->m; j++)
		for (uint32_t b = 0; b < rail_rows(r); b++) {
			test_job_parity(r, rail_stripe_of_parity(r, slot->shape->member[rail], j),
			                j, b, data, block);
			same = same
			       && memcmp(slot_parity(slot, rail, j) + (uint64_t)b * r->block_bytes,
			                 block, rail_parity_len(r, b))
			                  == 0;
		}
	return same;
}

struct slot *engine_slot(const struct engine_cluster *c, uint32_t rank, uint64_t version)
{
	struct arena *a = c->rank[rank].epoch->arena;

	for (int i = 0; i < 2; i++) {
		uint64_t word = atomic_load(&a->slot[i].header->state);

		if (word != 0 && word >> 8 == version)
			return &a->slot[i];
	}
	return NULL;
}

enum slot_state engine_state(const struct engine_cluster *c, uint32_t rank, uint64_t version)
{
	const struct slot *slot = engine_slot(c, rank, version);
	struct stamp stamp;
	bool damaged;
	enum slot_state state = slot ? slot_read(slot, &stamp, &damaged) : SLOT_EMPTY;

	require(!slot || !damaged, "a slot is damaged");
	return state;
}

bool engine_protected(const struct engine_cluster *c, uint32_t rank, uint64_t version)
{
	const struct slot *slot = engine_slot(c, rank, version);

	if (!slot)
		return wrong(rank, "no slot holds the version");
	if (!regions_right(&c->rank[rank], slot, version))
		return wrong(rank, "its regions are not what they were");
	if (slot_verify(slot, NULL, NULL) != 0)
		return wrong(rank, "a checksum does not fit");
	for (uint32_t i = 0; i < slot->shape->rails; i++)
		if (!parity_right(c, slot, i, version))
			return wrong(rank, "its parity is wrong");
	return true;
}
