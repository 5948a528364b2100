/* SPDX-License-Identifier: BSD-3-Clause */
#include "recover.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int choice_cmp(const struct recover_choice *a, const struct recover_choice *b)
{
	int order = stamp_cmp(a->stamp, b->stamp);

	return order ? order : (a->epoch > b->epoch) - (a->epoch < b->epoch);
}

static bool holds(const struct commit_slot *slot)
{
	return slot->state == SLOT_PREPARED || slot->state == SLOT_COMMITTED;
}

/* The epoch's index, or in->epochs. */
static uint32_t find_epoch(const struct recover_input *in, uint64_t epoch)
{
	uint32_t i = 0;

	while (i < in->epochs && in->epoch[i].epoch != epoch)
		i++;
	return i;
}

/* The largest candidate below limit. */
static bool next_candidate(const struct recover_input *in, const struct recover_choice *limit,
                           struct recover_choice *next, uint32_t *epoch_index)
{
	bool found = false;

	for (uint32_t i = 0; i < in->arenas; i++) {
		const struct recover_arena *a = &in->arena[i];

		for (int s = 0; s < 2; s++) {
			struct recover_choice c = {a->epoch, a->slot[s].stamp};
			uint32_t e;

			if (!holds(&a->slot[s]) || (limit && choice_cmp(&c, limit) >= 0)
			    || (found && choice_cmp(&c, next) <= 0))
				continue;
			e = find_epoch(in, a->epoch);
			if (e == in->epochs || a->rank >= in->epoch[e].map->ranks)
				continue;
			*next = c;
			*epoch_index = e;
			found = true;
		}
	}
	return found;
}

/* Whether slot s of arena a is a better source than what is known. */
static bool better(const struct recover_input *in, const struct recover_source *known, uint32_t a,
                   uint32_t s)
{
	const struct recover_arena *old, *new = &in->arena[a];

	if (known->arena < 0)
		return true;
	old = &in->arena[known->arena];
	if (old->slot[known->slot].state != new->slot[s].state)
		return new->slot[s].state == SLOT_COMMITTED;
	return new->agent < old->agent;
}

static void fill_sources(const struct recover_input *in, const struct map *map,
                         const struct recover_choice *choice, struct recover_source *source)
{
	for (uint32_t r = 0; r < map->ranks; r++)
		source[r] = (struct recover_source){-1, 0};
	for (uint32_t i = 0; i < in->arenas; i++) {
		const struct recover_arena *a = &in->arena[i];

		if (a->epoch != choice->epoch || a->rank >= map->ranks)
			continue;
		for (uint32_t s = 0; s < 2; s++)
			if (holds(&a->slot[s]) && stamp_cmp(a->slot[s].stamp, choice->stamp) == 0
			    && better(in, &source[a->rank], i, s))
				source[a->rank] = (struct recover_source){(int32_t)i, s};
	}
}

/* Members of the rail without a source beyond those that parity makes up for. */
static uint32_t rail_excess(const struct map *map, uint32_t id, const struct recover_source *source)
{
	struct rail rail;
	uint32_t lacking = 0;

	map_rail(map, id, &rail);
	for (uint32_t i = 0; i < rail.n; i++)
		lacking += source[rail.rank[i]].arena < 0;
	return lacking > rail.m ? lacking - rail.m : 0;
}

static bool recoverable(const struct map *map, const struct recover_source *source)
{
	uint32_t rails = map_rail_count(map);

	for (uint32_t id = 0; id < rails; id++)
		if (rail_excess(map, id, source))
			return false;
	return true;
}

/* Whether a sure arena holds what it could not hold had choice been committed: until a
 * newer version is committed, what holds a committed one is not overwritten. */
static bool denies(const struct recover_arena *a, struct stamp stamp)
{
	if (a->unsure)
		return false;
	for (int s = 0; s < 2; s++) {
		int order = stamp_cmp(a->slot[s].stamp, stamp);

		if ((holds(&a->slot[s]) && order == 0)
		    || (a->slot[s].state == SLOT_COMMITTED && order > 0))
			return false;
	}
	return true;
}

static bool maybe_committed(const struct recover_input *in, const struct map *map,
                            const struct recover_choice *choice)
{
	bool denied = false;

	for (uint32_t i = 0; i < in->arenas; i++) {
		const struct recover_arena *a = &in->arena[i];

		if (a->epoch != choice->epoch || a->rank >= map->ranks)
			continue;
		for (int s = 0; s < 2; s++)
			if (a->slot[s].state == SLOT_COMMITTED
			    && stamp_cmp(a->slot[s].stamp, choice->stamp) == 0)
				return true;
		denied = denied || denies(a, choice->stamp);
	}
	return !denied;
}

int recover_choose(const struct recover_input *in, const struct recover_choice *limit,
                   struct recover_choice *choice, uint32_t *epoch_index,
                   struct recover_source *source)
{
	struct recover_choice lost = {0, {0, 0}}, next = {0, {0, 0}}, last;
	uint32_t lost_index = 0, index = 0;
	bool any_lost = false;

	while (next_candidate(in, limit, &next, &index)) {
		const struct map *map = in->epoch[index].map;

		fill_sources(in, map, &next, source);
		if (recoverable(map, source)) {
			*choice = next;
			*epoch_index = index;
			return 0;
		}
		if (!any_lost && maybe_committed(in, map, &next)) {
			lost = next;
			lost_index = index;
			any_lost = true;
		}
		last = next;
		limit = &last;
	}
	if (!any_lost)
		return FTMEM_FRESH;
	fill_sources(in, in->epoch[lost_index].map, &lost, source);
	*choice = lost;
	*epoch_index = lost_index;
	return FTMEM_ELOST;
}

uint64_t recover_next(uint64_t largest, uint64_t now_ns, uint64_t chance)
{
	return largest < now_ns ? now_ns : largest + 1 + chance % RECOVER_SPREAD;
}

uint64_t recover_largest(const struct recover_input *in)
{
	uint64_t largest = 0;

	for (uint32_t i = 0; i < in->arenas; i++) {
		const struct recover_arena *a = &in->arena[i];

		if (a->entered > largest)
			largest = a->entered;
		for (int s = 0; s < 2; s++)
			if (holds(&a->slot[s]) && a->slot[s].stamp.incarnation > largest)
				largest = a->slot[s].stamp.incarnation;
	}
	return largest;
}

/* Text that is cut where the room ends. */
struct text {
	char *at;
	size_t bytes, used;
	bool cut;
};

__attribute__((format(printf, 2, 3))) static void text_add(struct text *t, const char *fmt, ...)
{
	va_list args;
	int n;

	if (t->cut)
		return;
	va_start(args, fmt);
	/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start() is just above. */
	n = vsnprintf(t->at + t->used, t->bytes - t->used, fmt, args);
	va_end(args);
	if (n >= 0 && (size_t)n < t->bytes - t->used)
		t->used += (size_t)n;
	else
		t->cut = true;
}

static void text_end(struct text *t)
{
	if (t->cut && t->bytes > 3)
		memcpy(t->at + t->bytes - 4, "...", 4);
}

/* How many more nodes the group needs: what its worst rail needs. */
static uint32_t group_excess(const struct map *map, const struct map_group *group,
                             const struct recover_source *source)
{
	uint32_t most = 0;

	for (uint32_t i = 0; i < group->rails; i++) {
		uint32_t excess = rail_excess(map, group->first_rail + i, source);

		if (excess > most)
			most = excess;
	}
	return most;
}

static bool node_lacks(const struct map *map, const struct map_node *node,
                       const struct recover_source *source)
{
	for (uint32_t i = 0; i < node->ranks; i++)
		if (source[map->rank[node->offset + i]].arena < 0)
			return true;
	return false;
}

static void explain_group(struct text *t, const struct map *map, uint32_t g,
                          const struct recover_source *source, bool *listed_groups)
{
	const struct map_group *group = &map->group[g];
	uint32_t excess = group_excess(map, group, source), listed = 0;

	if (!excess)
		return;
	text_add(t, "%sgroup %u (%u nodes, parity %u) lacks ", *listed_groups ? "; " : ": ", g,
	         group->nodes, map->parity);
	*listed_groups = true;
	for (uint32_t i = 0; i < group->nodes; i++) {
		const struct map_node *node = &map->node[map->member[group->offset + i]];

		if (node_lacks(map, node, source))
			text_add(t, "%s%s", listed++ ? ", " : "", node->name);
	}
	text_add(t, ": %u more of them needed", excess);
}

void recover_explain(const struct recover_epoch *epoch, const struct recover_choice *choice,
                     const struct recover_source *source, char *text, size_t bytes)
{
	struct text t = {text, bytes, 0, false};
	bool listed = false;

	if (bytes == 0)
		return;
	text_add(&t, "version %llu cannot be rebuilt", (unsigned long long)choice->stamp.version);
	for (uint32_t g = 0; g < epoch->map->groups && !t.cut; g++)
		explain_group(&t, epoch->map, g, source, &listed);
	text_end(&t);
}
