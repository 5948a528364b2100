/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random jobs are stored and restored on other ranks and shardings, with all that
 * decides what goes where, and byte arrays for memory. FTMEM_SCHEDULES: how many
 * (default 300); FTMEM_SEED: only this one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../util/test_random.h"
#include "elastic.h"
#include "error.h"
#include "match.h"
#include "plan.h"
#include "schedules.h"

struct sim {
	uint64_t random;
	uint32_t tensors;
	struct tensor tensor[ELASTIC_TENSORS];
	uint8_t *had[ELASTIC_TENSORS]; /* of each element: some old rank registered it */
	struct elastic_job old, new;
	uint32_t agent[ELASTIC_RANKS]; /* of each old rank's slot: a new rank */
	uint32_t homes;                /* old ranks with private regions, or 0 */
};

struct summary {
	uint64_t stored, copies, local, moved; /* bytes */
	uint64_t pieces, parts, restored, refused;
};

static uint32_t below(struct sim *s, uint32_t n)
{
	return test_random_below(&s->random, n);
}

/* --- seal --- */

static void make_jobs(struct sim *s)
{
	elastic_init(&s->old, 1 + below(s, ELASTIC_RANKS));
	elastic_init(&s->new, below(s, 4) ? 1 + below(s, ELASTIC_RANKS) : s->old.ranks);
	s->tensors = 1 + below(s, ELASTIC_TENSORS);
	s->homes = below(s, 2) ? s->old.ranks : 0;
	for (uint32_t i = 0; i < s->tensors; i++) {
		tensor_random(&s->tensor[i], i, &s->random);
		s->had[i] = calloc(tensor_elements(&s->tensor[i]), 1);
		assert_non_null(s->had[i]);
	}
}

static void mark_had(void *arg, uint64_t index)
{
	uint8_t *had = arg;

	had[index] = 1;
}

static void register_old(struct sim *s)
{
	for (uint32_t i = 0; i < s->tensors; i++) {
		const struct tensor *t = &s->tensor[i];
		struct sharding sharding;

		sharding_random(&sharding, t, s->old.ranks, &s->random);
		for (uint32_t r = 0; r < s->old.ranks; r++) {
			struct box box[ELASTIC_BOXES];
			uint32_t boxes = sharding_boxes(&sharding, t, r, s->old.ranks, box);

			for (uint32_t b = 0; b < boxes; b++) {
				elastic_add(&s->old.rank[r], t, &box[b], true);
				tensor_walk(t, &box[b], mark_had, s->had[i]);
			}
		}
	}
	for (uint32_t r = 0; r < s->homes; r++) {
		struct tensor t;

		elastic_private(&t, r);
		elastic_add(&s->old.rank[r], &t, &(struct box){.ndim = 1, .extent = {t.shape[0]}},
		            true);
	}
}

static struct match_claim claim_of(const struct elastic_region *g, uint32_t group)
{
	return (struct match_claim){g->tensor, g->box, group};
}

static void put_claims(const struct elastic_rank *r, uint32_t group, struct fabric *f,
                       uint32_t rank)
{
	struct bytes b = {0};

	for (uint32_t i = 0; i < r->regions; i++) {
		const struct tensor *t = &r->region[i].tensor;
		struct match_claim claim = claim_of(&r->region[i], group);

		if (t->home != TENSOR_GLOBAL)
			continue;
		b.size = 0;
		assert_int_equal(match_claim_put(&b, &claim), 0);
		assert_int_equal(route_put(f->route[rank], tensor_owner(t->name, t->home, f->ranks),
		                           b.at, (uint32_t)b.size),
		                 0);
	}
	bytes_deinit(&b);
}

static void match_as_owner(struct route *route)
{
	struct match *m = NULL;
	struct bytes b = {0};

	assert_int_equal(match_new(&m), 0);
	for (uint32_t i = 0; i < route_arrived(route); i++) {
		struct route_record record = route_get(route, i);

		assert_int_equal(match_add(m, record.at, record.bytes, record.count), 0);
	}
	assert_int_equal(match_solve(m), 0);
	for (uint32_t i = 0; i < route_arrived(route); i++) {
		b.size = 0;
		assert_int_equal(match_answer(m, i, &b), 0);
		assert_int_equal(route_answer(route, i, b.at, (uint32_t)b.size), 0);
	}
	bytes_deinit(&b);
	match_free(m);
}

/* The regions of a layout are those of the rank, in the same order. */
static void settle(struct elastic_rank *r, uint32_t group, const struct route *route)
{
	struct bytes pieces = {0};
	uint32_t number = 0;

	for (uint32_t i = 0; i < r->regions; i++) {
		struct match_claim claim = claim_of(&r->region[i], group);
		struct match_cell *cell = NULL;
		struct route_reply reply;
		uint32_t cells = 0;

		if (claim.tensor.home != TENSOR_GLOBAL)
			continue;
		reply = route_reply(route, number++);
		if (match_read(&claim, reply.at, reply.bytes, reply.index, &cell, &cells))
			fail_msg("%s", error_msg());
		for (uint32_t c = 0; c < cells; c++) {
			struct box box[BOX_RANGE_MAX];
			uint32_t boxes = match_share(&cell[c], box);

			for (uint32_t b = 0; b < boxes; b++) {
				struct layout_piece p = {.region = i, .box = box[b]};

				assert_int_equal(bytes_put(&pieces, &p, sizeof(p)), 0);
			}
		}
		free(cell);
	}
	assert_int_equal(layout_settle(r->layout, (const void *)pieces.at,
	                               (uint32_t)(pieces.size / sizeof(struct layout_piece))),
	                 0);
	bytes_deinit(&pieces);
}

static void seal(struct sim *s)
{
	uint32_t per_group = 1 + below(s, s->old.ranks);
	struct fabric f;

	fabric_init(&f, s->old.ranks);
	for (uint32_t r = 0; r < s->old.ranks; r++) {
		elastic_freeze(&s->old.rank[r]);
		put_claims(&s->old.rank[r], r / per_group, &f, r);
	}
	fabric_forward(&f);
	for (uint32_t r = 0; r < s->old.ranks; r++)
		match_as_owner(f.route[r]);
	fabric_back(&f);
	for (uint32_t r = 0; r < s->old.ranks; r++)
		settle(&s->old.rank[r], r / per_group, f.route[r]);
	fabric_deinit(&f);
}

static void count_element(void *arg, uint64_t index)
{
	uint8_t *stored = arg;

	stored[index]++;
}

/* Every element that was registered is in exactly one share. */
static void check_shares(struct sim *s, struct summary *sum)
{
	for (uint32_t i = 0; i < s->tensors; i++) {
		uint64_t elements = tensor_elements(&s->tensor[i]), bytes = 0, covered = 0;
		uint8_t *stored = calloc(elements, 1);

		assert_non_null(stored);
		for (uint32_t r = 0; r < s->old.ranks; r++) {
			const struct layout *l = s->old.rank[r].layout;

			for (uint32_t p = 0; p < l->pieces; p++) {
				const struct region *g = &l->region[l->piece[p].region];

				if (strcmp(g->name, s->tensor[i].name) != 0)
					continue;
				assert_true(box_contains(&g->box, &l->piece[p].box));
				tensor_walk(&s->tensor[i], &l->piece[p].box, count_element, stored);
				bytes += l->piece[p].bytes;
				sum->pieces++;
			}
		}
		assert_memory_equal(stored, s->had[i], elements);
		for (uint64_t e = 0; e < elements; e++)
			covered += s->had[i][e];
		assert_int_equal(bytes, covered * s->tensor[i].elem_bytes);
		sum->stored += bytes;
		free(stored);
	}
}

static void fill_slots(struct sim *s, struct summary *sum)
{
	for (uint32_t r = 0; r < s->old.ranks; r++) {
		struct elastic_rank *rank = &s->old.rank[r];
		const struct layout *l = rank->layout;

		sum->copies += l->region_bytes;
		rank->slot = calloc(1, l->data_bytes + 1);
		assert_non_null(rank->slot);
		if (l->blob_bytes)
			memcpy(rank->slot, l->blob, l->blob_bytes);
		for (uint32_t p = 0; p < l->pieces; p++) {
			const struct layout_piece *piece = &l->piece[p];
			const struct region *g = &l->region[piece->region];
			struct box_view v = box_view_flat(piece->bytes);

			if (piece->box.ndim > 0)
				box_view(&g->box, &piece->box, g->elem_bytes, &v);
			assert_int_equal(v.bytes, piece->bytes);
			box_view_gather(&v, g->addr, 0, rank->slot + piece->offset, v.bytes);
		}
	}
}

/* --- restore --- */

/* Slots stay with their ranks, but those that are lost or have no rank any more are
 * found elsewhere; all that is known of them is their bytes. */
static void lose_ranks(struct sim *s)
{
	for (uint32_t r = 0; r < s->old.ranks; r++) {
		struct elastic_rank *rank = &s->old.rank[r];
		uint64_t bytes = rank->layout->data_bytes;

		s->agent[r] = r < s->new.ranks &&below(s, 4) ? r : below(s, s->new.ranks);
		layout_free(rank->layout);
		rank->layout = NULL;
		assert_int_equal(layout_parse(rank->slot, bytes, &rank->layout), 0);
	}
}

static void register_new(struct sim *s)
{
	for (uint32_t i = 0; i < s->tensors; i++) {
		const struct tensor *t = &s->tensor[i];
		struct sharding sharding;

		sharding_random(&sharding, t, s->new.ranks, &s->random);
		for (uint32_t r = 0; r < s->new.ranks &&i < 5; r++) {
			struct box box[ELASTIC_BOXES];
			uint32_t boxes = sharding_boxes(&sharding, t, r, s->new.ranks, box);

			for (uint32_t b = 0; b < boxes; b++)
				elastic_add(&s->new.rank[r], t, &box[b], false);
		}
	}
	for (uint32_t r = 0; s->homes && r < s->new.ranks; r++) {
		struct tensor t;

		elastic_private(&t, s->new.ranks == s->old.ranks ? r : below(s, s->homes));
		elastic_add(&s->new.rank[r], &t, &(struct box){.ndim = 1, .extent = {t.shape[0]}},
		            false);
	}
}

static void send_to_owner(struct fabric *f, uint32_t rank, const struct tensor *t, struct bytes *b)
{
	assert_int_equal(route_put(f->route[rank], tensor_owner(t->name, t->home, f->ranks), b->at,
	                           (uint32_t)b->size),
	                 0);
	b->size = 0;
}

static void put_records(struct sim *s, struct fabric *f)
{
	uint32_t number[ELASTIC_RANKS] = {0};
	struct bytes b = {0};

	for (uint32_t r = 0; r < s->old.ranks; r++) {
		const struct layout *l = s->old.rank[r].layout;

		for (uint32_t p = 0; p < l->pieces; p++) {
			struct plan_stored stored;

			elastic_stored(l, r, p, &stored);
			stored.agent = s->agent[r];
			assert_int_equal(plan_stored_put(&b, &stored), 0);
			send_to_owner(f, stored.agent, &stored.tensor, &b);
			number[stored.agent]++;
		}
	}
	for (uint32_t r = 0; r < s->new.ranks; r++)
		for (uint32_t i = 0; i < s->new.rank[r].regions; i++) {
			struct elastic_region *g = &s->new.rank[r].region[i];
			struct plan_wanted wanted = {g->tensor, g->box};

			assert_int_equal(plan_wanted_put(&b, &wanted), 0);
			send_to_owner(f, r, &g->tensor, &b);
			g->number = number[r]++;
		}
	bytes_deinit(&b);
}

static void plan_as_owner(struct route *route)
{
	struct plan *p = NULL;
	struct bytes b = {0};

	assert_int_equal(plan_new(&p), 0);
	for (uint32_t i = 0; i < route_arrived(route); i++) {
		struct route_record record = route_get(route, i);

		assert_int_equal(plan_add(p, record.at, record.bytes), 0);
	}
	assert_int_equal(plan_solve(p), 0);
	for (uint32_t i = 0; i < route_arrived(route); i++) {
		b.size = 0;
		assert_int_equal(plan_answer(p, i, &b), 0);
		if (b.size > 0)
			assert_int_equal(route_answer(route, i, b.at, (uint32_t)b.size), 0);
	}
	bytes_deinit(&b);
	plan_free(p);
}

struct looking {
	const uint8_t *had;
	bool all;
};

static void look_element(void *arg, uint64_t index)
{
	struct looking *l = arg;

	l->all = l->all && l->had[index];
}

static bool is_stored(const struct sim *s, const struct elastic_region *g)
{
	struct looking l = {.all = true};

	if (g->tensor.home != TENSOR_GLOBAL)
		return true;
	l.had = s->had[g->tensor.name[1] - '0'];
	tensor_walk(&g->tensor, &g->box, look_element, &l);
	return l.all;
}

/* Whether all that is wanted can be had; the plan must say the same. */
static bool read_answers(struct sim *s, const struct fabric *f)
{
	bool good = true;

	for (uint32_t r = 0; r < s->new.ranks; r++)
		for (uint32_t i = 0; i < s->new.rank[r].regions; i++) {
			struct elastic_region *g = &s->new.rank[r].region[i];
			struct route_reply reply = route_reply(f->route[r], g->number);
			struct plan_wanted wanted = {g->tensor, g->box};
			int rc = plan_read(&wanted, reply.at, reply.bytes, &g->part, &g->parts);

			if (rc && rc != FTMEM_ELAYOUT)
				fail_msg("%s", error_msg());
			assert_int_equal(rc == 0, is_stored(s, g));
			good = good && rc == 0;
		}
	return good;
}

static bool make_plan(struct sim *s)
{
	struct fabric f;
	bool good;

	fabric_init(&f, s->new.ranks);
	put_records(s, &f);
	fabric_forward(&f);
	for (uint32_t r = 0; r < s->new.ranks; r++)
		plan_as_owner(f.route[r]);
	fabric_back(&f);
	good = read_answers(s, &f);
	fabric_deinit(&f);
	return good;
}

/* --- what goes where --- */

/* A part and where it goes. */
struct delivery {
	struct elastic_region *region;
	const struct plan_part *part;
	struct plan_order order;
};

static int compare_deliveries(const void *a, const void *b)
{
	const struct delivery *x = a, *y = b;

	if (x->part->agent != y->part->agent)
		return x->part->agent < y->part->agent ? -1 : 1;
	return plan_order_compare(&x->order, &y->order);
}

static int compare_orders(const void *a, const void *b)
{
	return plan_order_compare(a, b);
}

/* By agent, then as the agent sends them; the caller's to free. */
static struct delivery *deliveries_of(const struct elastic_job *job, uint32_t rank, uint32_t *count)
{
	struct elastic_rank *r = &job->rank[rank];
	struct delivery *list;
	uint32_t n = 0;

	for (uint32_t i = 0; i < r->regions; i++)
		n += r->region[i].parts;
	list = calloc(n + 1, sizeof(*list));
	assert_non_null(list);
	n = 0;
	for (uint32_t i = 0; i < r->regions; i++)
		for (uint32_t k = 0; k < r->region[i].parts; k++) {
			const struct plan_part *p = &r->region[i].part[k];

			list[n++] = (struct delivery){
				&r->region[i], p, {rank, p->rank, p->piece, p->box}};
		}
	qsort(list, n, sizeof(*list), compare_deliveries);
	*count = n;
	return list;
}

/* An order's bytes from the slot, appended. */
static void pack(const struct sim *s, uint32_t agent, const struct plan_order *o, struct bytes *out)
{
	const struct layout *l;
	struct plan_stored stored;
	struct box_view v;
	uint8_t *to;

	assert_true(o->rank < s->old.ranks);
	assert_int_equal(s->agent[o->rank], agent);
	l = s->old.rank[o->rank].layout;
	assert_true(o->piece < l->pieces);
	elastic_stored(l, o->rank, o->piece, &stored);
	assert_true(box_contains(&stored.box, &o->box));
	box_view(&stored.box, &o->box, stored.tensor.elem_bytes, &v);
	to = bytes_grow(out, v.bytes);
	assert_non_null(to);
	box_view_gather(&v, s->old.rank[o->rank].slot + l->piece[o->piece].offset, 0, to, v.bytes);
}

/* Takes a part's bytes from the packed ones; how many. */
static uint64_t unpack(struct elastic_region *g, const struct box *part, const uint8_t *from,
                       uint64_t left)
{
	uint64_t follow = 0;
	struct box_view v;

	assert_true(box_contains(&g->box, part));
	box_view(&g->box, part, g->tensor.elem_bytes, &v);
	assert_true(v.bytes <= left);
	box_view_scatter(&v, g->memory, 0, from, v.bytes);
	if (!g->hits)
		g->hits = calloc(g->bytes, 1);
	assert_non_null(g->hits);
	for (uint64_t at = 0; at < v.bytes; at += follow) {
		uint8_t *hit = g->hits + box_view_at(&v, at, &follow);

		for (uint64_t i = 0; i < follow; i++)
			hit[i]++;
	}
	return v.bytes;
}

static void put_orders(const struct sim *s, struct fabric *f)
{
	struct bytes b = {0};
	uint32_t count;

	for (uint32_t r = 0; r < s->new.ranks; r++) {
		struct delivery *d = deliveries_of(&s->new, r, &count);

		for (uint32_t i = 0; i < count; i++) {
			if (d[i].part->agent == r)
				continue;
			b.size = 0;
			assert_int_equal(plan_order_put(&b, &d[i].order), 0);
			assert_int_equal(
				route_put(f->route[r], d[i].part->agent, b.at, (uint32_t)b.size),
				0);
		}
		free(d);
	}
	bytes_deinit(&b);
}

/* What an agent sends: one stream for each rank that ordered. */
static void send_streams(const struct sim *s, const struct route *route, uint32_t agent,
                         struct bytes stream[ELASTIC_RANKS])
{
	uint32_t count = route_arrived(route);
	struct plan_order *order = calloc(count + 1, sizeof(*order));

	assert_non_null(order);
	for (uint32_t i = 0; i < count; i++) {
		struct route_record record = route_get(route, i);

		assert_int_equal(record.count, 1);
		assert_int_equal(plan_order_get(record.at, record.bytes, &order[i]), 0);
		assert_true(order[i].to < s->new.ranks);
		assert_int_not_equal(order[i].to, agent);
	}
	qsort(order, count, sizeof(*order), compare_orders);
	for (uint32_t i = 0; i < count; i++)
		pack(s, agent, &order[i], &stream[order[i].to]);
	free(order);
}

static void receive(struct sim *s, uint32_t rank, struct bytes stream[][ELASTIC_RANKS],
                    struct summary *sum)
{
	uint64_t taken[ELASTIC_RANKS] = {0};
	uint32_t count;
	struct delivery *d = deliveries_of(&s->new, rank, &count);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t agent = d[i].part->agent;
		struct bytes *from = &stream[agent][rank];

		if (agent == rank)
			pack(s, agent, &d[i].order, from);
		taken[agent] += unpack(d[i].region, &d[i].part->box, from->at + taken[agent],
		                       from->size - taken[agent]);
		sum->parts++;
	}
	for (uint32_t a = 0; a < s->new.ranks; a++) {
		assert_int_equal(taken[a], stream[a][rank].size);
		*(a == rank ? &sum->local : &sum->moved) += taken[a];
	}
	free(d);
}

static void move(struct sim *s, struct summary *sum)
{
	static struct bytes stream[ELASTIC_RANKS][ELASTIC_RANKS];
	struct fabric f;

	fabric_init(&f, s->new.ranks);
	put_orders(s, &f);
	fabric_forward(&f);
	for (uint32_t r = 0; r < s->new.ranks; r++)
		send_streams(s, f.route[r], r, stream[r]);
	fabric_deinit(&f);
	for (uint32_t r = 0; r < s->new.ranks; r++)
		receive(s, r, stream, sum);
	for (uint32_t a = 0; a < ELASTIC_RANKS; a++)
		for (uint32_t r = 0; r < ELASTIC_RANKS; r++)
			bytes_deinit(&stream[a][r]);
}

static void check_regions(const struct sim *s)
{
	for (uint32_t r = 0; r < s->new.ranks; r++)
		for (uint32_t i = 0; i < s->new.rank[r].regions; i++) {
			const struct elastic_region *g = &s->new.rank[r].region[i];

			assert_non_null(g->hits);
			for (uint64_t at = 0; at < g->bytes; at++)
				assert_int_equal(g->hits[at], 1);
			if (!elastic_good(g))
				fail_msg("rank %u, region %u of \"%s\": not as it was", r, i,
				         g->tensor.name);
		}
}

/* --- tests --- */

static uint64_t running; /* the seed in hand, 0: none */

static void run_schedule(uint64_t seed, struct summary *sum)
{
	struct sim s = {.random = seed};

	make_jobs(&s);
	register_old(&s);
	seal(&s);
	check_shares(&s, sum);
	fill_slots(&s, sum);
	lose_ranks(&s);
	register_new(&s);
	if (make_plan(&s)) {
		move(&s, sum);
		check_regions(&s);
		sum->restored++;
	} else {
		sum->refused++;
	}
	elastic_deinit(&s.old);
	elastic_deinit(&s.new);
	for (uint32_t i = 0; i < s.tensors; i++)
		free(s.had[i]);
}

static void every_job_is_restored_on_any_shape(void **state)
{
	uint64_t count = schedules_number("FTMEM_SCHEDULES", 300), first = 1;
	const char *one = getenv("FTMEM_SEED");
	struct summary sum = {0};

	(void)state;
	if (one) {
		first = schedules_number("FTMEM_SEED", 1);
		count = 1;
	}
	for (running = first; running < first + count; running++)
		run_schedule(running, &sum);
	running = 0;
	print_message("%llu jobs: %llu restored, %llu refused; %llu of %llu bytes stored in %llu "
	              "pieces; %llu parts: %llu bytes moved, %llu in place\n",
	              (unsigned long long)count, (unsigned long long)sum.restored,
	              (unsigned long long)sum.refused, (unsigned long long)sum.stored,
	              (unsigned long long)sum.copies, (unsigned long long)sum.pieces,
	              (unsigned long long)sum.parts, (unsigned long long)sum.moved,
	              (unsigned long long)sum.local);
	assert_true(one || (sum.restored > count / 4 && sum.refused > 0));
}

static int tell_seed(void **state)
{
	(void)state;
	if (running)
		print_message("seed %llu: again with FTMEM_SEED=%llu\n",
		              (unsigned long long)running, (unsigned long long)running);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(every_job_is_restored_on_any_shape, tell_seed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
