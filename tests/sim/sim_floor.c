/* SPDX-License-Identifier: BSD-3-Clause */
/* Which versions all ranks of a run hold, and what is left of them when machines are gone and
 * memory is damaged. What ranks publish counts, and what hits the memory afterwards; so what
 * the library itself spoils does not count as damage. */
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "sim.h"

#define CANDIDATES (2 * (SIM_ARENAS * SIM_NODES + SIM_HANDLES))

int sim_content_cmp(struct sim_content a, struct sim_content b)
{
	if (a.run != b.run)
		return a.run < b.run ? -1 : 1;
	return (a.version > b.version) - (a.version < b.version);
}

/* --- candidates --- */

/* A version of an epoch that some slots hold. */
struct candidate {
	uint64_t epoch;
	struct stamp stamp;
	struct sim_content content;
	uint32_t held, ranks;               /* bits; how many the epoch has */
	uint32_t machine[SIM_RANKS];
	const struct sim_view *view;        /* of one of its arenas */
};

static struct candidate *candidate_of(struct candidate *list, uint32_t *count, uint64_t epoch,
                                      struct stamp stamp)
{
	for (uint32_t i = 0; i < *count; i++)
		if (list[i].epoch == epoch && stamp_cmp(list[i].stamp, stamp) == 0)
			return &list[i];
	memset(&list[*count], 0, sizeof(list[0]));
	list[*count].epoch = epoch;
	list[*count].stamp = stamp;
	list[*count].content =
		(struct sim_content){sim_run_of(stamp.incarnation), (uint32_t)stamp.version};
	return &list[(*count)++];
}

static void add_candidates(struct sim_buffer *b, uint32_t machine, struct candidate *list,
                           uint32_t *count)
{
	const struct sim_view *v = sim_view(b);

	for (int i = 0; v && i < 2; i++) {
		const struct commit_slot *s = &v->published[i];
		struct candidate *c;

		if (s->state != SLOT_PREPARED && s->state != SLOT_COMMITTED)
			continue;
		c = candidate_of(list, count, v->header.epoch, s->stamp);
		c->held |= 1u << v->header.rank;
		c->ranks = v->header.ranks;
		c->machine[v->header.rank] = machine;
		c->view = v;
	}
}

/* An arena that a process holds, but no SMP any more; or NULL. */
static struct sim_buffer *orphan_at(uint32_t handle)
{
	const struct sim_handle *h = &sim.handle[handle];

	return h->buffer && h->process && h->buffer->orphan && sim_view(h->buffer) ? h->buffer
	                                                                           : NULL;
}

/* The newest that all its ranks hold, below that; NULL: there is none. */
static const struct candidate *newest(const struct candidate *list, uint32_t count,
                                      const struct candidate *below)
{
	const struct candidate *best = NULL;

	for (uint32_t i = 0; i < count; i++) {
		const struct candidate *c = &list[i];
		int order = best ? sim_content_cmp(c->content, best->content) : 1;

		if (c->held != (1u << c->ranks) - 1 || c->content.run <= sim.doubtful
		    || sim_content_cmp(c->content, sim.beyond) == 0
		    || (below && sim_content_cmp(c->content, below->content) >= 0))
			continue;
		if (order > 0 || (order == 0 && c->epoch > best->epoch))
			best = c;
	}
	return best;
}

/* --- what is there of a version --- */

static bool home_is_there(const struct sim_floor *f, uint32_t rank)
{
	const struct sim_machine *m = &sim.machine[f->machine[rank]];

	return m->state == SIM_USED && m->losses == f->losses[rank];
}

/* The arena of a rank, wherever its machine is; NULL: it has none. */
static struct sim_buffer *home_of(const struct sim_floor *f, uint32_t rank)
{
	const struct sim_machine *m = &sim.machine[f->machine[rank]];

	for (uint32_t i = 0; i < m->arenas; i++)
		if (m->arena[i].epoch == f->epoch && m->arena[i].rank == rank)
			return m->arena[i].buffer;
	for (uint32_t i = 0; i < SIM_HANDLES; i++) {
		struct sim_buffer *b = orphan_at(i);

		if (b && sim.handle[i].process->machine == f->machine[rank]
		    && b->view->header.epoch == f->epoch && b->view->header.rank == rank)
			return b;
	}
	return NULL;
}

struct look {
	struct sim_floor *f;
	const struct sim_view *view;
	uint32_t rank;
	int slot;
	struct sim_bad bad[SIM_BADS];   /* of all ranks, when it is over */
	uint32_t bads;
	bool born;                      /* nothing was known of it */
};

static bool is_marked(const struct sim_floor *f, const struct sim_bad *b)
{
	for (uint32_t i = 0; i < f->bads; i++)
		if (memcmp(&f->bad[i], b, sizeof(*b)) == 0)
			return true;
	return false;
}

static void note_bad(struct look *l, const struct sim_bad *bad)
{
	if (l->bads < SIM_BADS)
		l->bad[l->bads++] = *bad;
	else
		l->f->clouded = true;
}

static void look_at_block(void *arg, const struct sim_stored *s)
{
	struct look *l = arg;
	const struct slot *slot = &l->view->slot[l->slot];
	const uint8_t *now = slot->base + s->offset, *copy = l->f->copy[l->rank];
	struct sim_bad bad = {l->rank, s->rail, s->stripe, s->row};

	if (copy ? memcmp(now, copy + s->offset, s->bytes) == 0
	         : checksum(now, s->bytes) == slot->sums[s->sum])
		return;
	if (!l->born && copy && !is_marked(l->f, &bad) && !l->f->clouded)
		sim_break("rank %u spoils version %u of run %u, which all held: stripe %u, row %u "
		          "of rail %u", l->rank, l->f->content.version, l->f->content.run,
		          s->stripe, s->row, s->rail);
	note_bad(l, &bad);
}

static void keep_marks(struct look *l)
{
	for (uint32_t i = 0; i < l->f->bads; i++)
		if (l->f->bad[i].rank == l->rank)
			note_bad(l, &l->f->bad[i]);
}

static void copy_slot(struct look *l)
{
	uint64_t bytes = l->view->shape.slot_bytes;
	uint8_t **copy = &l->f->copy[l->rank];

	if (!*copy) {
		*copy = malloc(bytes);
		sim_require(*copy, "memory");
		memcpy(*copy, l->view->slot[l->slot].base, bytes);
	}
}

/* What one rank holds; what it does not publish any more stays as it was known. */
static void look_at_rank(struct look *l)
{
	struct sim_floor *f = l->f;
	struct sim_buffer *b = home_is_there(f, l->rank) ? home_of(f, l->rank) : NULL;
	uint32_t bit = 1u << l->rank, before = l->bads;
	bool can_be_read;

	l->view = b ? sim_view(b) : NULL;
	l->slot = l->view ? sim_view_find(l->view, f->stamp) : -1;
	if (l->slot < 0) {
		keep_marks(l);
		return;
	}
	can_be_read = sim_view_can_be_read(l->view, l->slot) && sim_view_head_is_whole(b);
	if (!can_be_read && !l->born && !(f->lacks & bit))
		sim_break("rank %u spoils the description of version %u of run %u, which all held",
		          l->rank, f->content.version, f->content.run);
	f->lacks = can_be_read ? f->lacks & ~bit : f->lacks | bit;
	if (can_be_read || f->copy[l->rank])
		sim_view_blocks(l->view, look_at_block, l);
	else
		keep_marks(l);
	if (can_be_read && l->bads == before)
		copy_slot(l);
}

static void look_at_all(struct sim_floor *f, bool born)
{
	static struct look l;

	memset(&l, 0, sizeof(l));
	l.f = f;
	l.born = born;
	sim.outside++;
	for (l.rank = 0; f->known && l.rank < f->map->ranks; l.rank++)
		look_at_rank(&l);
	sim.outside--;
	memcpy(f->bad, l.bad, sizeof(f->bad));
	f->bads = l.bads;
}

void sim_floor_drop(struct sim_floor *f)
{
	sim.outside++;
	map_free(f->map);
	for (uint32_t i = 0; i < SIM_RANKS; i++)
		free(f->copy[i]);
	sim.outside--;
	memset(f, 0, sizeof(*f));
}

static bool is_at_home(const struct sim_floor *f, const struct candidate *c)
{
	bool same = f->known && f->epoch == c->epoch && stamp_cmp(f->stamp, c->stamp) == 0;

	for (uint32_t i = 0; same && i < c->ranks; i++)
		same = home_is_there(f, i) && f->machine[i] == c->machine[i];
	return same;
}

static void take(struct sim_floor *f, const struct candidate *c)
{
	const struct arena_header *h = &c->view->header;

	if (is_at_home(f, c))
		return;
	sim_floor_drop(f);
	f->known = true;
	f->content = c->content;
	f->stamp = c->stamp;
	f->epoch = c->epoch;
	sim.outside++;
	sim_require(map_blob_read(c->view->head + h->map_offset, h->map_bytes, &f->map) == 0,
	            "an arena's map is whole");
	sim.outside--;
	for (uint32_t i = 0; i < c->ranks; i++) {
		f->machine[i] = c->machine[i];
		f->losses[i] = sim.machine[c->machine[i]].losses;
	}
	look_at_all(f, true);
}

void sim_judge_memory(void)
{
	static struct candidate list[CANDIDATES];
	const struct candidate *best, *second;
	uint32_t count = 0;

	for (uint32_t node = 0; node < sim.nodes; node++) {
		struct sim_machine *m = &sim.machine[sim.machine_of[node]];

		for (uint32_t i = 0; i < m->arenas && m->state == SIM_USED; i++)
			add_candidates(m->arena[i].buffer, sim.machine_of[node], list, &count);
	}
	for (uint32_t i = 0; i < SIM_HANDLES; i++)
		if (orphan_at(i))
			add_candidates(orphan_at(i), sim.handle[i].process->machine, list, &count);
	look_at_all(&sim.floor, false);
	best = newest(list, count, NULL);
	second = best ? newest(list, count, best) : NULL;
	if (best && (!sim.floor.known || sim_content_cmp(best->content, sim.floor.content) >= 0)) {
		if (sim_content_cmp(sim.floor.content, best->content) != 0)
			sim_trace("version %u of run %u is on all ranks", best->content.version,
			          best->content.run);
		take(&sim.floor, best);
	}
	if (second)
		take(&sim.older, second);
	else
		sim_floor_drop(&sim.older);
	look_at_all(&sim.older, false);
}

/* --- what is left --- */

static bool lacks(const struct sim_floor *f, uint32_t rank, bool all_back)
{
	const struct sim_machine *m = &sim.machine[f->machine[rank]];

	return (f->lacks & 1u << rank) || m->losses != f->losses[rank]
	       || (m->state != SIM_USED && !all_back);
}

/* Blocks that fail in the stripe of the i-th, at ranks that have others. */
static uint32_t fellows(const struct sim_floor *f, uint32_t i, bool all_back)
{
	const struct sim_bad *a = &f->bad[i];
	uint32_t count = 0;

	for (uint32_t j = 0; j < f->bads; j++) {
		const struct sim_bad *b = &f->bad[j];

		count += a->rail == b->rail && a->stripe == b->stripe && a->row == b->row
		         && !lacks(f, b->rank, all_back);
	}
	return count;
}

bool sim_floor_is_left(const struct sim_floor *f, bool all_back)
{
	struct rail rail;

	for (uint32_t id = 0; f->known && id < map_rail_count(f->map); id++) {
		uint32_t lacking = 0;

		map_rail(f->map, id, &rail);
		for (uint32_t i = 0; i < rail.n; i++)
			lacking += lacks(f, rail.rank[i], all_back);
		if (lacking > rail.m)
			return false;
		for (uint32_t i = 0; i < f->bads; i++)
			if (f->bad[i].rail == id && lacking + fellows(f, i, all_back) > rail.m)
				return false;
	}
	return f->known && !f->clouded;
}

static bool rank_is_whole(const struct sim_floor *f, uint32_t rank)
{
	struct sim_buffer *b = home_of(f, rank);
	const struct sim_view *v = b ? sim_view(b) : NULL;
	int slot = v ? sim_view_find(v, f->stamp) : -1;

	bool whole;

	for (uint32_t i = 0; i < f->bads; i++)
		if (f->bad[i].rank == rank)
			return false;
	sim.outside++;
	whole = slot >= 0 && !(f->lacks & 1u << rank)
	        && slot_verify(&v->slot[slot], NULL, NULL) == 0;
	sim.outside--;
	return whole;
}

bool sim_floor_is_whole(const struct sim_floor *f)
{
	for (uint32_t i = 0; f->known && i < f->map->ranks; i++)
		/* Of an SMP that has just died only ranks hold something. */
		if (home_is_there(f, i) && home_of(f, i) && !rank_is_whole(f, i)) {
			sim_trace("rank %u does not hold all of version %u of run %u", i,
			          f->content.version, f->content.run);
			return false;
		}
	return true;
}

void sim_floor_hit(struct sim_floor *f, uint32_t machine, const struct sim_view *v, int slot,
                   const struct sim_stored *block)
{
	uint32_t rank = v->header.rank;
	struct sim_bad bad = {rank, 0, 0, 0};

	if (!f->known || v->header.epoch != f->epoch || f->machine[rank] != machine
	    || (slot >= 0 && sim_view_find(v, f->stamp) != slot))
		return;
	if (!block) {
		f->lacks |= 1u << rank;
		return;
	}
	bad.rail = block->rail;
	bad.stripe = block->stripe;
	bad.row = block->row;
	if (is_marked(f, &bad))
		return;
	f->clouded = f->clouded || f->bads == SIM_BADS;
	if (f->bads < SIM_BADS)
		f->bad[f->bads++] = bad;
}
