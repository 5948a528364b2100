/* SPDX-License-Identifier: BSD-3-Clause */
#include "match_impl.h"

#include <stdlib.h>
#include <string.h>

#include "checksum.h"

static uint64_t seed_of(const struct tensor *t, const struct box *cell)
{
	uint64_t digest = digest_more(DIGEST_INIT, t->name, strlen(t->name));

	return digest_more(digest, cell->start, cell->ndim * sizeof(*cell->start));
}

static int compare_holders(const void *a, const void *b)
{
	const struct match_holder *x = a, *y = b;

	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	return (x->part > y->part) - (x->part < y->part);
}

/* Where the run of holders of one group ends, and how many ranks they are. */
static uint32_t group_end(const struct match_holder *holder, uint32_t from, uint32_t count,
                          uint32_t *ranks)
{
	uint32_t to = from;

	for (*ranks = 0; to < count && holder[to].group == holder[from].group; to++)
		*ranks += holder[to].count;
	return to;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* What groups take if each takes as many shares as it has ranks, level at most; and
 * how many groups could take one more. */
static uint64_t taken_at(const struct match_holder *holder, uint32_t count, uint32_t level,
                         uint32_t *more)
{
	uint64_t taken = 0;
	uint32_t ranks;

	*more = 0;
	for (uint32_t at = 0; at < count;) {
		at = group_end(holder, at, count, &ranks);
		taken += min_u32(ranks, level);
		*more += ranks > level;
	}
	return taken;
}

/* The highest level at which no more than all shares are taken. */
static uint32_t find_level(const struct match_holder *holder, uint32_t count, uint32_t shares)
{
	uint32_t low = 0, high = shares, more;

	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;

		if (taken_at(holder, count, middle, &more) <= shares)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

/* Of from .. to - 1, what lies in at .. at + count - 1. */
static uint32_t common(uint64_t from, uint64_t to, uint64_t at, uint32_t count, uint32_t *first)
{
	from = from > at ? from : at;
	to = to < at + count ? to : at + count;
	if (from >= to)
		return 0;
	*first = (uint32_t)(from - at);
	return (uint32_t)(to - from);
}

/* In a group of so many ranks, takers in a row take one share each, as in a ring: the
 * ring's end and its beginning may both be of one claim. */
static void deal_group(struct match_holder *holder, uint32_t count, uint32_t ranks, uint32_t takers,
                       uint32_t start, uint32_t *share)
{
	uint64_t end = (uint64_t)start + takers, wrapped = end > ranks ? end - ranks : 0, at = 0;

	for (uint32_t i = 0; i < count; i++) {
		struct match_holder *h = &holder[i];

		h->first = 0;
		h->takers = common(0, wrapped, at, h->count, &h->first);
		h->takers += common(start, end - wrapped, at, h->count, &h->first);
		h->share = *share;
		*share += h->takers;
		at += h->count;
	}
}

static uint32_t count_shares(const struct tensor *t, const struct box *cell, uint32_t holders)
{
	uint64_t elements = box_count(cell), shares = UINT64_MAX;

	if (!__builtin_mul_overflow(elements, t->elem_bytes, &shares))
		shares /= MATCH_SHARE_MIN;
	if (shares > elements)
		shares = elements;
	if (shares > holders)
		shares = holders;
	return shares > 0 ? (uint32_t)shares : 1;
}

void match_deal(const struct tensor *t, const struct box *cell, struct match_holder *holder,
                uint32_t count, uint32_t *holders, uint32_t *shares)
{
	uint32_t total = 0, level, more, extra, turn = 0, ranks, share = 0;
	uint64_t seed = seed_of(t, cell);

	qsort(holder, count, sizeof(*holder), compare_holders);
	for (uint32_t i = 0; i < count; i++) {
		holder[i].ordinal = total;
		total += holder[i].count;
	}
	*holders = total;
	*shares = count_shares(t, cell, total);
	level = find_level(holder, count, *shares);
	extra = *shares - (uint32_t)taken_at(holder, count, level, &more);
	if (more > 0)
		turn = (uint32_t)(digest_mix(seed) % more);
	for (uint32_t at = 0, end; at < count; at = end) {
		uint32_t takers;

		end = group_end(holder, at, count, &ranks);
		takers = min_u32(ranks, level);
		if (ranks > level) {
			/* Its number among those that could take one more, counted from turn. */
			takers += turn < extra;
			turn = turn + 1 < more ? turn + 1 : 0;
		}
		deal_group(&holder[at], end - at, ranks, takers,
		           (uint32_t)(digest_mix(seed + 1 + holder[at].group) % ranks), &share);
	}
}
