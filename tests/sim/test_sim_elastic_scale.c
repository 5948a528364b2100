/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a seal and the plan of a restore cost each rank of a large job, and that it grows
 * with what a rank has and with the logarithm of their number. FTMEM_SIM_RANKS (default
 * 1024), FTMEM_SIM_REGIONS (64) of each rank, FTMEM_SIM_TENSOR_KIB (1024).
 *
 * Where all the answers of a plan would not fit here, each is stood in for by its size,
 * and orders are counted, not sent.
 */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "error.h"
#include "fabric.h"
#include "match.h"
#include "plan_impl.h"
#include "route_impl.h"
#include "schedules.h"

#define NODE_RANKS   8u
#define GROUP_RANKS  (8 * NODE_RANKS)
#define ELEM_BYTES   4u
/* Bytes of answers in flight that this process takes. */
#define ANSWERS_MAX  (UINT64_C(1) << 30)
#define ORDERS_MAX   4000000u
/* Of a record with its name and its answer, beside the parts; of an owner for one. */
#define RECORD_BYTES 320u
#define OWNER_BYTES  2048u

/* --- what an owner allocates --- */

static bool counting;
static uint64_t allocated, allocated_peak;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void __real_free(void *at);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void __wrap_free(void *at);

static void *count_more(void *at)
{
	if (counting && at)
		allocated += malloc_usable_size(at);
	if (allocated > allocated_peak)
		allocated_peak = allocated;
	return at;
}

static void count_less(void *at)
{
	if (counting && at)
		allocated -= malloc_usable_size(at);
}

void *__wrap_malloc(size_t bytes)
{
	return count_more(__real_malloc(bytes));
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	return count_more(__real_calloc(count, bytes));
}

void *__wrap_realloc(void *old, size_t bytes)
{
	count_less(old);
	return count_more(__real_realloc(old, bytes));
}

void __wrap_free(void *at)
{
	count_less(at);
	__real_free(at);
}

/* --- jobs --- */

static uint32_t ranks, regions;
static uint64_t rows, columns; /* of each tensor */

struct shape {
	const char *name;
	/* A rank's box of each tensor, as it is stored and as it is wanted. */
	struct box (*before)(uint32_t rank), (*after)(uint32_t rank);
	uint32_t (*claims)(void); /* distinct ones of a tensor */
	uint32_t (*wants)(void);  /* distinct boxes: those of ranks 0 .. wants - 1 */
	uint64_t (*parts)(void);  /* of one wanted box, about */
};

static struct box grid(uint32_t down, uint32_t across, uint32_t i)
{
	uint64_t r = i / across, c = i % across;
	struct box b = {.ndim = 2};

	b.start[0] = rows * r / down;
	b.extent[0] = rows * (r + 1) / down - b.start[0];
	b.start[1] = columns * c / across;
	b.extent[1] = columns * (c + 1) / across - b.start[1];
	return b;
}

static uint64_t shares_of(uint64_t cut, uint64_t holders)
{
	uint64_t most = rows * columns * ELEM_BYTES / cut / MATCH_SHARE_MIN;

	return most == 0 ? 1 : most < holders ? most : holders;
}

static uint32_t groups(void)
{
	return (ranks + GROUP_RANKS - 1) / GROUP_RANKS;
}

static struct box whole(uint32_t rank)
{
	(void)rank;
	return grid(1, 1, 0);
}

static uint32_t one(void)
{
	return 1;
}

static uint64_t replica_parts(void)
{
	return 2 * shares_of(1, ranks);
}

static struct box shard(uint32_t rank)
{
	return grid(ranks, 1, rank);
}

static struct box tile(uint32_t rank)
{
	return grid(ranks / 8, 8, rank);
}

static uint32_t each(void)
{
	return ranks;
}

static uint64_t tile_parts(void)
{
	return 8;
}

static struct box eighth(uint32_t rank)
{
	return grid(1, 8, rank % 8);
}

static struct box quarter(uint32_t rank)
{
	return grid(1, 4, rank % 4);
}

static uint32_t eight_groups(void)
{
	return 8 * groups();
}

static uint32_t four(void)
{
	return 4;
}

static uint64_t quarter_parts(void)
{
	return 4 * shares_of(8, ranks / 8);
}

static const struct shape shapes[] = {
	{"data-parallel", whole, whole, groups, one, replica_parts},
	{"shards", shard, tile, each, each, tile_parts},
	{"tensor x data", eighth, quarter, eight_groups, four, quarter_parts},
};

static struct tensor tensor_of(uint32_t region)
{
	struct tensor t = {.home = TENSOR_GLOBAL, .elem_bytes = ELEM_BYTES, .ndim = 2};

	snprintf(t.name, sizeof(t.name), "model.layers.%u.weight", region);
	t.shape[0] = rows;
	t.shape[1] = columns;
	return t;
}

static uint32_t owner_of(const struct tensor *t)
{
	return tensor_owner(t->name, t->home, ranks);
}

/* The most tensors that one rank owns. */
static uint32_t owned_most(void)
{
	uint32_t *owned = calloc(ranks, sizeof(*owned)), most = 0;

	assert_non_null(owned);
	for (uint32_t i = 0; i < regions; i++) {
		struct tensor t = tensor_of(i);
		uint32_t *of = &owned[owner_of(&t)];

		most = ++*of > most ? *of : most;
	}
	free(owned);
	return most;
}

/* --- figures --- */

struct most {
	uint64_t max, sum;
};

static void most_add(struct most *m, uint64_t value)
{
	m->max = value > m->max ? value : m->max;
	m->sum += value;
}

/* Of one phase, over all ranks. */
struct figures {
	struct most messages, bytes, route, owner, records;
	struct most kept;    /* bytes of what a rank reads from the answers */
	struct most pieces;  /* stored by a rank, or parts of what it wants */
	struct most content; /* bytes of regions in them */
};

static void figures_of(const struct fabric *f, struct figures *out)
{
	for (uint32_t r = 0; r < ranks; r++) {
		most_add(&out->messages, f->count[r].messages);
		most_add(&out->bytes, f->count[r].bytes);
		/* A stand-in takes less memory than what it stands for. */
		most_add(&out->route, f->count[r].peak + (f->weigh ? f->count[r].received : 0));
		most_add(&out->records, route_arrived(f->route[r]));
	}
}

static void print_figures(const char *shape, const char *phase, const struct figures *f)
{
	print_message("%-14s %-7s %4llu %9.1f %9.1f %9.1f %9.1f %8llu %8llu %8llu %9.1f %9.2f\n",
	              shape, phase, (unsigned long long)f->messages.max,
	              (double)f->bytes.max / 1024, (double)f->bytes.sum / ranks / 1024,
	              (double)f->route.max / 1024, (double)f->owner.max / 1024,
	              (unsigned long long)f->records.max, (unsigned long long)f->pieces.max,
	              (unsigned long long)(f->pieces.sum / ranks), (double)f->kept.max / 1024,
	              (double)f->content.max * ranks
	                      / (double)(f->content.sum ? f->content.sum : 1));
}

/* --- seal --- */

static struct match_claim claim_of(const struct shape *s, uint32_t rank, uint32_t region)
{
	return (struct match_claim){tensor_of(region), s->before(rank), rank / GROUP_RANKS};
}

static void put_claims(const struct shape *s, struct fabric *f)
{
	struct bytes b = {0};

	for (uint32_t r = 0; r < ranks; r++)
		for (uint32_t i = 0; i < regions; i++) {
			struct match_claim claim = claim_of(s, r, i);

			b.size = 0;
			assert_int_equal(match_claim_put(&b, &claim), 0);
			assert_int_equal(route_put(f->route[r], owner_of(&claim.tensor), b.at,
			                           (uint32_t)b.size),
			                 0);
		}
	bytes_deinit(&b);
}

static void match_as_owner(struct route *route, struct most *memory)
{
	struct match *m = NULL;
	struct bytes b = {0};

	allocated = allocated_peak = 0;
	counting = true;
	assert_int_equal(match_new(&m), 0);
	for (uint32_t i = 0; i < route_arrived(route); i++) {
		struct route_record record = route_get(route, i);

		assert_int_equal(match_add(m, record.at, record.bytes, record.count), 0);
	}
	assert_int_equal(match_solve(m), 0);
	counting = false;
	for (uint32_t i = 0; i < route_arrived(route); i++) {
		b.size = 0;
		assert_int_equal(match_answer(m, i, &b), 0);
		assert_int_equal(route_answer(route, i, b.at, (uint32_t)b.size), 0);
	}
	most_add(memory, allocated_peak);
	bytes_deinit(&b);
	match_free(m);
}

/* What of a region is this rank's to store, told to the owner at once. */
static uint64_t store_region(const struct shape *s, struct fabric *plan, uint32_t rank,
                             uint32_t region, struct route_reply reply, uint32_t *pieces)
{
	struct match_claim claim = claim_of(s, rank, region);
	struct plan_stored stored = {.tensor = claim.tensor, .agent = rank, .rank = rank};
	struct match_cell *cell = NULL;
	struct bytes b = {0};
	uint64_t elements = 0;
	uint32_t cells = 0;

	if (match_read(&claim, reply.at, reply.bytes, reply.index, &cell, &cells))
		fail_msg("%s", error_msg());
	for (uint32_t c = 0; c < cells; c++) {
		struct box box[BOX_RANGE_MAX];
		uint32_t boxes = match_share(&cell[c], box);

		for (uint32_t k = 0; k < boxes; k++) {
			stored.box = box[k];
			stored.piece = (*pieces)++;
			b.size = 0;
			assert_int_equal(plan_stored_put(&b, &stored), 0);
			assert_int_equal(route_put(plan->route[rank], owner_of(&stored.tensor),
			                           b.at, (uint32_t)b.size),
			                 0);
			elements += box_count(&box[k]);
		}
	}
	free(cell);
	bytes_deinit(&b);
	return elements;
}

/* Every rank reads its shares; all of them are all there is. */
static void store(const struct shape *s, struct fabric *seal, struct fabric *plan,
                  struct figures *out)
{
	for (uint32_t r = 0; r < ranks; r++) {
		uint64_t elements = 0;
		uint32_t pieces = 0;

		for (uint32_t i = 0; i < regions; i++)
			elements += store_region(s, plan, r, i, route_reply(seal->route[r], i),
			                         &pieces);
		route_free(seal->route[r]);
		seal->route[r] = NULL;
		most_add(&out->content, elements * ELEM_BYTES);
		most_add(&out->pieces, pieces);
		most_add(&out->kept,
		         pieces * sizeof(struct box) + regions * sizeof(struct match_cell));
	}
	assert_int_equal(out->content.sum, rows * columns * ELEM_BYTES * regions);
}

static void seal(const struct shape *s, struct fabric *plan, struct figures *out)
{
	struct fabric f;

	fabric_init(&f, ranks);
	put_claims(s, &f);
	fabric_forward(&f);
	for (uint32_t r = 0; r < ranks; r++)
		match_as_owner(f.route[r], &out->owner);
	fabric_back(&f);
	figures_of(&f, out);
	store(s, &f, plan, out);
	fabric_deinit(&f);
}

/* --- plan --- */

/* A message whose answers are uint32_t sizes. */
static uint64_t weigh_sizes(const uint8_t *message, uint64_t bytes)
{
	uint64_t weight = 0;

	for (uint64_t at = 0; at < bytes;) {
		uint32_t size = route_load(message + at + 8);

		weight += ROUTE_HEAD + (size ? route_load(message + at + ROUTE_HEAD) : 0);
		at += ROUTE_HEAD + size;
	}
	return weight;
}

/* Before all else: they are numbers 0 .. regions - 1 of each rank. */
static void put_wanted(const struct shape *s, struct fabric *f)
{
	struct bytes b = {0};

	for (uint32_t r = 0; r < ranks; r++)
		for (uint32_t i = 0; i < regions; i++) {
			struct plan_wanted w = {tensor_of(i), s->after(r)};

			b.size = 0;
			assert_int_equal(plan_wanted_put(&b, &w), 0);
			assert_int_equal(
				route_put(f->route[r], owner_of(&w.tensor), b.at, (uint32_t)b.size),
				0);
		}
	bytes_deinit(&b);
}

static void give_answer(struct route *route, uint32_t i, const struct bytes *b, bool sizes)
{
	uint32_t size = (uint32_t)b->size;

	assert_true(size > sizeof(uint32_t) && route_load(b->at) == VERDICT_PARTS);
	assert_int_equal(sizes ? route_answer(route, i, &size, sizeof(size))
	                       : route_answer(route, i, b->at, size),
	                 0);
}

static void plan_as_owner(struct route *route, bool sizes, struct most *memory)
{
	struct plan *p = NULL;
	struct bytes b = {0};

	allocated = allocated_peak = 0;
	counting = true;
	assert_int_equal(plan_new(&p), 0);
	for (uint32_t i = 0; i < route_arrived(route); i++) {
		struct route_record record = route_get(route, i);

		assert_int_equal(plan_add(p, record.at, record.bytes), 0);
	}
	assert_int_equal(plan_solve(p), 0);
	counting = false;
	for (uint32_t i = 0; i < route_arrived(route); i++) {
		b.size = 0;
		assert_int_equal(plan_answer(p, i, &b), 0);
		if (b.size > 0)
			give_answer(route, i, &b, sizes);
	}
	most_add(memory, allocated_peak);
	bytes_deinit(&b);
	plan_free(p);
}

static void put_orders(struct fabric *orders, uint32_t rank, const struct plan_part *part,
                       uint32_t parts)
{
	struct bytes b = {0};

	for (uint32_t k = 0; k < parts; k++) {
		struct plan_order o = {rank, part[k].rank, part[k].piece, part[k].box};

		if (part[k].agent == rank)
			continue;
		b.size = 0;
		assert_int_equal(plan_order_put(&b, &o), 0);
		assert_int_equal(
			route_put(orders->route[rank], part[k].agent, b.at, (uint32_t)b.size), 0);
	}
	bytes_deinit(&b);
}

/* What a rank learns about one region; how many parts, *answer: its bytes. */
static uint32_t read_region(const struct shape *s, const struct fabric *f, struct fabric *orders,
                            uint32_t rank, uint32_t region, uint64_t *answer)
{
	struct plan_wanted w = {tensor_of(region), s->after(rank)};
	struct route_reply reply = route_reply(f->route[rank], region);
	struct plan_part *part = NULL;
	uint32_t parts = 0;

	if (f->weigh) {
		*answer = route_load(reply.at);
		return (uint32_t)((*answer - 4) / (2 * 2 * sizeof(uint64_t) + 12));
	}
	*answer = reply.bytes;
	if (plan_read(&w, reply.at, reply.bytes, &part, &parts))
		fail_msg("%s", error_msg());
	if (orders->ranks)
		put_orders(orders, rank, part, parts);
	free(part);
	return parts;
}

/* The largest of all answers about a tensor together. */
static uint64_t read_plan(const struct shape *s, struct fabric *f, struct fabric *orders,
                          struct figures *out)
{
	uint64_t largest = 0, *of_region = calloc(regions, sizeof(*of_region));

	assert_non_null(of_region);
	for (uint32_t r = 0; r < ranks; r++) {
		uint64_t answer = 0, parts = 0;

		for (uint32_t i = 0; i < regions; i++) {
			uint64_t bytes = 0;

			parts += read_region(s, f, orders, r, i, &bytes);
			answer += bytes;
			/* Equal boxes have one answer. */
			if (r < s->wants())
				of_region[i] += bytes;
		}
		most_add(&out->pieces, parts);
		most_add(&out->kept, answer + parts * sizeof(struct plan_part));
		most_add(&out->content, answer);
		route_free(f->route[r]);
		f->route[r] = NULL;
	}
	for (uint32_t i = 0; i < regions; i++)
		largest = of_region[i] > largest ? of_region[i] : largest;
	free(of_region);
	return largest;
}

static void take_orders(struct fabric *f, struct figures *out)
{
	fabric_forward(f);
	figures_of(f, out);
	for (uint32_t r = 0; r < ranks; r++) {
		uint32_t count = route_arrived(f->route[r]);

		for (uint32_t i = 0; i < count; i++) {
			struct route_record record = route_get(f->route[r], i);
			struct plan_order o;

			assert_int_equal(plan_order_get(record.at, record.bytes, &o), 0);
			assert_int_equal(o.rank, r);
		}
		most_add(&out->kept, count * sizeof(struct plan_order));
	}
}

/* --- tests --- */

/* Records travel at most `rounds` ways; those of a tensor come together at its owner. */
static void check_bounds(const struct figures *f, uint64_t own, uint64_t at_owner, uint64_t answers,
                         uint64_t at_owner_answers)
{
	uint64_t rounds = route_rounds(ranks) ? route_rounds(ranks) : 1;
	uint64_t bytes = (own * rounds + at_owner) * RECORD_BYTES + answers * rounds
	                 + at_owner_answers;

	assert_true(f->bytes.max <= bytes);
	assert_true(f->route.max <= 4 * bytes);
	assert_true(f->owner.max <= 4096 + at_owner * OWNER_BYTES);
	assert_true(f->records.max <= at_owner);
}

static void run_shape(const struct shape *s)
{
	uint64_t parts = s->parts() * ranks * regions, owned = owned_most(), answers;
	struct figures sealed = {0}, planned = {0}, ordered = {0};
	struct fabric plan, orders = {0};
	bool sizes = parts * 48 * 3 > ANSWERS_MAX;

	fabric_init(&plan, ranks);
	put_wanted(s, &plan);
	seal(s, &plan, &sealed);
	print_figures(s->name, "seal", &sealed);
	check_bounds(&sealed, regions, owned * s->claims(), 0, 0);
	assert_int_equal(sealed.messages.max, 2 * route_rounds(ranks));

	plan.weigh = sizes ? weigh_sizes : NULL;
	fabric_forward(&plan);
	for (uint32_t r = 0; r < ranks; r++)
		plan_as_owner(plan.route[r], sizes, &planned.owner);
	fabric_back(&plan);
	figures_of(&plan, &planned);
	if (!sizes && parts <= ORDERS_MAX)
		fabric_init(&orders, ranks);
	answers = read_plan(s, &plan, &orders, &planned);
	fabric_deinit(&plan);
	print_figures(s->name, "plan", &planned);
	check_bounds(&planned, regions + sealed.pieces.max,
	             sealed.pieces.sum / regions * 2 * owned + owned * s->wants(),
	             planned.content.max, owned * answers);
	if (orders.ranks == 0)
		return;
	take_orders(&orders, &ordered);
	print_figures(s->name, "orders", &ordered);
	assert_int_equal(ordered.messages.max, route_rounds(ranks));
	fabric_deinit(&orders);
}

static void costs_grow_with_own_regions(void **state)
{
	uint64_t bytes = schedules_number("FTMEM_SIM_TENSOR_KIB", 1024) << 10;

	(void)state;
	ranks = (uint32_t)schedules_number("FTMEM_SIM_RANKS", 1024);
	regions = (uint32_t)schedules_number("FTMEM_SIM_REGIONS", 64);
	rows = ranks < 1024 ? 1024 : ranks;
	columns = bytes / ELEM_BYTES / rows < 8 ? 8 : bytes / ELEM_BYTES / rows;
	assert_int_equal(ranks % 8, 0);
	print_message("%u ranks x %u regions; tensors of %llu KiB; memory and traffic in KiB, the "
	              "most of any rank\n",
	              ranks, regions, (unsigned long long)(rows * columns * ELEM_BYTES >> 10));
	print_message("%-14s %-7s %4s %9s %9s %9s %9s %8s %8s %8s %9s %9s\n", "", "", "msgs",
	              "sent", "(mean)", "route", "owner", "records", "pieces", "(mean)", "kept",
	              "max/mean");
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		run_shape(&shapes[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(costs_grow_with_own_regions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
