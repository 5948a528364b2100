/* SPDX-License-Identifier: BSD-3-Clause */
#include "compare.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "clock.h"
#include "courier.h"
#include "error.h"

#define WHAT       "comparing replicas"
#define LINES_MAX  8u
#define TEXT_WORDS ((COMPARE_TEXT + 7) / 8)

struct compare {
	const struct layout *layout;
	const struct share_cell *cell;
	uint32_t cells, checks;
	uint32_t *first; /* [cells + 1]: the first check of each */
	struct copy_check *check;
	uint32_t *sum; /* of each check */
	uint64_t bytes;
};

/* --- the checks --- */

static const struct region *region_of(const struct compare *c, uint32_t cell)
{
	return &c->layout->region[c->cell[cell].region];
}

static uint64_t cell_bytes(const struct compare *c, uint32_t cell)
{
	return box_count(&c->cell[cell].cell.box) * region_of(c, cell)->elem_bytes;
}

static void set_checks(struct compare *c, uint32_t cell)
{
	const struct region *region = region_of(c, cell);
	uint64_t bytes = cell_bytes(c, cell), from = 0;
	struct copy_check check = {.addr = region->addr, .device = region->device};

	box_view(&region->box, &c->cell[cell].cell.box, region->elem_bytes, &check.view);
	for (uint32_t i = c->first[cell]; i < c->first[cell + 1]; i++) {
		check.from = from;
		check.bytes = bytes - from < COMPARE_BYTES ? bytes - from : COMPARE_BYTES;
		from += check.bytes;
		c->check[i] = check;
	}
	c->bytes += bytes;
}

int compare_new(const struct layout *layout, const struct share_cell *cells, uint32_t count,
                struct compare **out)
{
	struct compare *c = calloc(1, sizeof(*c));

	*out = NULL;
	if (!c)
		goto fail;
	c->layout = layout;
	c->cell = cells;
	c->cells = count;
	c->first = calloc((size_t)count + 1, sizeof(*c->first));
	if (!c->first)
		goto fail;
	for (uint32_t i = 0; i < count; i++) {
		c->first[i] = c->checks;
		c->checks += (uint32_t)((cell_bytes(c, i) + COMPARE_BYTES - 1) / COMPARE_BYTES);
	}
	c->first[count] = c->checks;
	c->check = calloc((size_t)c->checks + 1, sizeof(*c->check));
	c->sum = calloc((size_t)c->checks + 1, sizeof(*c->sum));
	if (!c->check || !c->sum)
		goto fail;
	for (uint32_t i = 0; i < count; i++)
		set_checks(c, i);
	*out = c;
	return 0;
fail:
	compare_free(c);
	return error_set(FTMEM_ENOMEM, "no memory for the comparison of %" PRIu32 " shared boxes",
	                 count);
}

void compare_free(struct compare *c)
{
	if (!c)
		return;
	free(c->first);
	free(c->check);
	free(c->sum);
	free(c);
}

void compare_attach(struct compare *c, struct copy_job *job)
{
	job->check = c->check;
	job->checks = c->checks;
	job->check_sum = c->sum;
}

uint64_t compare_bytes(const struct compare *c)
{
	return c->bytes;
}

/* --- the word --- */

static uint64_t cell_hash(const struct compare *c, uint32_t cell)
{
	const char *name = region_of(c, cell)->name;
	const struct box *b = &c->cell[cell].cell.box;
	uint64_t digest = digest_more(DIGEST_INIT, name, strlen(name) + 1);

	digest = digest_more(digest, b->start, b->ndim * sizeof(b->start[0]));
	return digest_mix(digest_more(digest, b->extent, b->ndim * sizeof(b->extent[0])));
}

uint64_t compare_word(const struct compare *c)
{
	uint64_t word = 0;

	for (uint32_t i = 0; i < c->cells; i++) {
		const struct match_cell *cell = &c->cell[i].cell;
		uint32_t next = (cell->ordinal + 1) % cell->holders;
		uint64_t hash = cell_hash(c, i);

		for (uint32_t j = c->first[i]; j < c->first[i + 1]; j++) {
			uint64_t check = digest_mix(hash + (j - c->first[i]));

			word += c->sum[j] * (digest_mix(check + cell->ordinal) -
			                     digest_mix(check + next));
		}
	}
	return word;
}

/* --- what differs --- */

/* The owner's answer to a checksum that not all holders of a cell have. */
struct verdict {
	uint32_t same, others; /* holders that have it, that have another one */
	uint32_t tied;         /* as many have it as any other; else fewer */
};

/* Records of one check differ in their last bytes only, which are the checksum. */
static int put_checks(const struct compare *c, uint32_t ranks, struct route *r)
{
	struct bytes record = {0};
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < c->cells; i++) {
		const char *name = region_of(c, i)->name;
		const struct box *box = &c->cell[i].cell.box;
		uint32_t length = (uint32_t)strlen(name);
		uint64_t head;

		record.size = 0;
		if (bytes_put_u32(&record, length) < 0 || bytes_put(&record, name, length) < 0
		    || bytes_put_u32(&record, box->ndim) < 0 || box_put(&record, box) < 0)
			rc = FTMEM_ENOMEM;
		head = record.size;
		for (uint32_t j = c->first[i]; rc == 0 && j < c->first[i + 1]; j++) {
			record.size = head;
			if (bytes_put_u32(&record, j - c->first[i]) < 0
			    || bytes_put_u32(&record, c->sum[j]) < 0)
				rc = FTMEM_ENOMEM;
			else
				rc = route_put(r, tensor_owner(name, TENSOR_GLOBAL, ranks),
				               record.at, (uint32_t)record.size);
		}
	}
	bytes_deinit(&record);
	return rc;
}

struct arrived {
	struct route_record record;
	uint32_t i;
};

static int compare_arrived(const void *left, const void *right)
{
	const struct route_record *a = &((const struct arrived *)left)->record;
	const struct route_record *b = &((const struct arrived *)right)->record;

	if (a->bytes != b->bytes)
		return a->bytes < b->bytes ? -1 : 1;
	return memcmp(a->at, b->at, a->bytes);
}

static bool same_check(const struct route_record *a, const struct route_record *b)
{
	return a->bytes == b->bytes && a->bytes > sizeof(uint32_t)
	       && memcmp(a->at, b->at, a->bytes - sizeof(uint32_t)) == 0;
}

/* The checksums of one check. */
static int judge(struct route *r, const struct arrived *a, uint32_t count)
{
	uint32_t total = 0, top = 0, tops = 0;
	int rc = 0;

	for (uint32_t i = 0; i < count; i++) {
		total += a[i].record.count;
		tops = a[i].record.count > top ? 1 : tops + (a[i].record.count == top);
		top = a[i].record.count > top ? a[i].record.count : top;
	}
	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		uint32_t same = a[i].record.count;
		struct verdict v = {same, total - same, same == top};

		/* The only one that most have is taken for right. */
		if (same < top || tops > 1)
			rc = route_answer(r, a[i].i, &v, sizeof(v));
	}
	return rc;
}

static int judge_all(struct route *r)
{
	uint32_t count = route_arrived(r), to;
	struct arrived *a = calloc((size_t)count + 1, sizeof(*a));
	int rc = 0;

	if (!a)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " checksums", count);
	for (uint32_t i = 0; i < count; i++)
		a[i] = (struct arrived){route_get(r, i), i};
	qsort(a, count, sizeof(*a), compare_arrived);
	for (uint32_t i = 0; rc == 0 && i < count; i = to) {
		to = i + 1;
		while (to < count && same_check(&a[i].record, &a[to].record))
			to++;
		if (to - i > 1)
			rc = judge(r, a + i, to - i);
	}
	free(a);
	return rc;
}

/* What a rank knows of itself; of all ranks the least counts. Where one could not say all,
 * a majority may be none. */
enum finding { FOUND_ERROR, FOUND_MINORITY, FOUND_TIED, FOUND_NOTHING };

struct naming {
	enum finding finding;
	uint64_t text[TEXT_WORDS];
};

static void set_text(struct naming *n, const struct compare *c, uint32_t cell, uint32_t rank,
                     const struct verdict *v)
{
	const char *name = region_of(c, cell)->name;
	char box[BOX_TEXT];

	box_text(&c->cell[cell].cell.box, box);
	memset(n->text, 0, sizeof(n->text));
	n->finding = v->tied ? FOUND_TIED : FOUND_MINORITY;
	/* Ranks first: they are there even if the rest is cut. */
	if (v->tied)
		snprintf((char *)n->text, sizeof(n->text),
		         "the %" PRIu32 " ranks that hold it differ, without a majority; rank "
		         "%" PRIu32 " is one of them: tensor %s, box %s",
		         v->same + v->others, rank, name, box);
	else
		snprintf((char *)n->text, sizeof(n->text),
		         "rank %" PRIu32 " differs from %" PRIu32 " others: tensor %s, box %s",
		         rank, v->others, name, box);
}

static void set_no_memory(struct naming *n, uint32_t rank)
{
	memset(n->text, 0, sizeof(n->text));
	n->finding = FOUND_ERROR;
	snprintf((char *)n->text, sizeof(n->text),
	         "where its replicas differ could not be found out: rank %" PRIu32
	         " has no memory for it",
	         rank);
}

/* The checks of one cell with verdicts of one kind. */
struct tally {
	uint32_t checks, first;
	struct verdict verdict; /* of the first */
};

static struct tally count_verdicts(const struct compare *c, const struct route *r, uint32_t cell,
                                   enum finding kind)
{
	struct tally t = {0};

	for (uint32_t i = c->first[cell]; i < c->first[cell + 1]; i++) {
		struct route_reply reply = route_reply(r, i);
		struct verdict v;

		if (reply.bytes != sizeof(v))
			continue;
		memcpy(&v, reply.at, sizeof(v));
		if ((v.tied ? FOUND_TIED : FOUND_MINORITY) != kind)
			continue;
		if (t.checks++ == 0) {
			t.first = i - c->first[cell];
			t.verdict = v;
		}
	}
	return t;
}

static void log_cell(const struct compare *c, const struct log *log, uint64_t version,
                     uint32_t cell, const struct tally *t)
{
	const struct verdict *v = &t->verdict;
	char box[BOX_TEXT];

	log_line(log, FTMEM_LOG_ERROR,
	         "version %" PRIu64 ": tensor %s, box %s: this rank%s differs from %" PRIu32
	         " other%s%s in %" PRIu32 " of %" PRIu32
	         " parts of 1 MiB, the first of them begins at byte %" PRIu64 " of the box",
	         version, region_of(c, cell)->name, box_text(&c->cell[cell].cell.box, box),
	         v->tied ? "'s" : "", v->others, v->others == 1 ? "" : "s",
	         v->tied ? ", no majority," : "", t->checks, c->first[cell + 1] - c->first[cell],
	         t->first * COMPARE_BYTES);
}

/* Ties come last, so that they leave no minority without its line. */
static void read_verdicts(const struct compare *c, const struct route *r, uint32_t rank,
                          uint64_t version, const struct log *log, struct naming *n)
{
	static const enum finding kind[] = {FOUND_MINORITY, FOUND_TIED};
	uint32_t lines = 0;

	for (uint32_t k = 0; k < 2; k++)
		for (uint32_t i = 0; i < c->cells; i++) {
			struct tally t = count_verdicts(c, r, i, kind[k]);

			if (t.checks == 0)
				continue;
			if (kind[k] < n->finding)
				set_text(n, c, i, rank, &t.verdict);
			if (lines++ < LINES_MAX)
				log_cell(c, log, version, i, &t);
		}
}

/* Before the first message, so that a rank without memory makes no one wait. */
static int agree_to_ask(struct net *net, uint32_t timeout_ms, bool able, bool *all)
{
	uint64_t word = able;
	int rc = net_allreduce(net, &word, 1, NET_MIN, clock_deadline(timeout_ms), WHAT);

	*all = rc == 0 && word == 1;
	return rc;
}

/* Asks the owners. An owner that lacks memory to judge still goes all the way. */
static int ask_owners(struct net *net, struct route *r, uint32_t timeout_ms, struct naming *n)
{
	int rc = courier_forward(net, r, timeout_ms, WHAT);

	if (rc < 0)
		return rc;
	if (judge_all(r) < 0)
		set_no_memory(n, net->rank);
	return courier_back(net, r, timeout_ms, WHAT);
}

static int ask(const struct compare *c, struct net *net, uint32_t timeout_ms, uint64_t version,
               const struct log *log, struct naming *n)
{
	struct route *r = NULL;
	bool able, all;
	int rc;

	able = route_new(net->rank, net->size, &r) == 0 && put_checks(c, net->size, r) == 0;
	if (!able)
		set_no_memory(n, net->rank);
	rc = agree_to_ask(net, timeout_ms, able, &all);
	if (rc == 0 && all)
		rc = ask_owners(net, r, timeout_ms, n);
	if (rc == 0 && all)
		read_verdicts(c, r, net->rank, version, log, n);
	route_free(r);
	return rc;
}

/* The lowest rank of the least finding tells all. */
static int agree(struct net *net, uint32_t timeout_ms, struct naming *n)
{
	static const char what[] = "naming the replica that differs";
	uint64_t own = (uint64_t)n->finding << 32 | net->rank, least = own;
	int rc = net_allreduce(net, &least, 1, NET_MIN, clock_deadline(timeout_ms), what);

	if (rc < 0)
		return rc;
	if (own != least)
		memset(n->text, 0, sizeof(n->text));
	n->finding = (enum finding)(least >> 32);
	return net_allreduce(net, n->text, TEXT_WORDS, NET_MAX, clock_deadline(timeout_ms), what);
}

int compare_name(struct compare *c, struct net *net, uint32_t timeout_ms, uint64_t version,
                 const struct log *log, char *text, uint32_t bytes)
{
	struct naming n = {.finding = FOUND_NOTHING};
	int rc;

	snprintf((char *)n.text, sizeof(n.text),
	         "replicas differed, but checked one by one they are equal");
	rc = ask(c, net, timeout_ms, version, log, &n);
	if (rc == 0)
		rc = agree(net, timeout_ms, &n);
	if (rc < 0) {
		snprintf(text, bytes, "where its replicas differ could not be found out: %s",
		         error_msg());
		return rc;
	}
	snprintf(text, bytes, "%.*s", (int)sizeof(n.text), (const char *)n.text);
	return 0;
}
