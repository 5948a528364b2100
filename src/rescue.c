/* SPDX-License-Identifier: BSD-3-Clause */
#include "rescue_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "error.h"
#include "room.h"

/* --- rails of the old job --- */

void rescue_old_rail(const struct rescue *r, uint32_t id, struct rail *rail)
{
	map_rail(r->epoch->map, id, rail);
	rail->block_bytes = r->block_bytes;
	for (uint32_t i = 0; i < rail->n; i++)
		rail->data_bytes[i] = rail->data_bytes[i] ? r->data_bytes[rail->rank[i]] : 0;
}

static struct arena *arena_here(const struct rescue *r, uint32_t rank)
{
	return r->gather->here[r->gather->here_index[r->source[rank].arena]].arena;
}

/* Sizes are known to those who hold an arena of a rail; all learn them. */
static int share_sizes(struct rescue *r)
{
	struct ftmem *ft = r->ft;
	uint64_t *words = calloc(r->ranks + 1, sizeof(*words));
	int rc = words ? 0 : error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " sizes", r->ranks);

	rc = session_agree(ft, rc, "sharing sizes");
	for (uint32_t i = 0; rc == 0 && i < r->ranks; i++) {
		const struct arena *a;

		if (r->lost[i] || r->agent[i] != ft->net->rank)
			continue;
		a = arena_here(r, i);
		words[r->ranks] = a->header->block_bytes;
		for (uint32_t j = 0; j < a->shape.rails; j++)
			for (uint32_t x = 0; x < a->rails[j].n; x++)
				if (a->rails[j].data_bytes[x] > 0)
					words[a->rails[j].rank[x]] = a->rails[j].data_bytes[x];
	}
	if (rc == 0)
		rc = net_allreduce(ft->net, words, r->ranks + 1, NET_MAX, session_deadline(ft),
		                   "sharing sizes");
	if (rc == 0) {
		memcpy(r->data_bytes, words, sizeof(*words) * r->ranks);
		r->block_bytes = (uint32_t)words[r->ranks];
	}
	free(words);
	return rc;
}

static int find_busiest(struct rescue *r)
{
	r->busiest = 0;
	for (uint32_t i = 0; i < r->members; i++)
		r->busiest += 4 * r->data_bytes[r->member[i].rank];
	return net_allreduce(r->ft->net, &r->busiest, 1, NET_MAX, session_deadline(r->ft),
	                     "sharing sizes");
}

/* --- members --- */

struct rescue_member *rescue_find(struct rescue *r, uint32_t rank)
{
	for (uint32_t i = 0; i < r->members; i++)
		if (r->member[i].rank == rank)
			return &r->member[i];
	return NULL;
}

/* A slot shaped as that of an old rank, in memory of its own; none is taken yet. */
static int shape_temporary(struct rescue *r, uint32_t rank, struct rescue_member *m)
{
	uint32_t *ids = NULL, count = 0;
	int rc = map_rails_of(r->epoch->map, rank, &ids, &count);

	if (rc < 0)
		return rc;
	m->rails = calloc(count, sizeof(*m->rails));
	if (!m->rails) {
		free(ids);
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " rails", count);
	}
	for (uint32_t i = 0; i < count; i++)
		rescue_old_rail(r, ids[i], &m->rails[i]);
	free(ids);
	m->rank = rank;
	return slot_shape_init(&m->shape, m->rails, count, rank);
}

/* What is written of a temporary slot: parity only in place. */
static uint64_t written_bytes(const struct rescue *r, const struct slot_shape *shape)
{
	return r->in_place ? shape->slot_bytes : shape->data_offset + shape->data_bytes;
}

static int take_temporary(struct rescue *r, struct rescue_member *m)
{
	void *memory = mmap(NULL, m->shape.slot_bytes, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return error_sys(FTMEM_ENOMEM, errno,
		                 "no memory for the %" PRIu64 " MiB of rank %" PRIu32,
		                 m->shape.slot_bytes >> 20, m->rank);
	m->memory = memory;
	m->memory_bytes = m->shape.slot_bytes;
	slot_init(&m->temporary, &m->shape, m->memory);
	m->slot = &m->temporary;
	return room_touch(r->ft, m->memory, written_bytes(r, &m->shape));
}

static void temporary_free(const struct rescue *r, struct rescue_member *m)
{
	if (m->memory && !r->ft->net->lingering)
		munmap(m->memory, m->memory_bytes);
	free(m->rails);
}

static bool committed_somewhere(const struct gather *g, uint64_t epoch, struct stamp stamp)
{
	for (uint32_t i = 0; i < g->arenas; i++)
		for (int j = 0; g->arena[i].epoch == epoch && j < 2; j++)
			if (g->arena[i].slot[j].state == SLOT_COMMITTED &&
			    stamp_cmp(g->arena[i].slot[j].stamp, stamp) == 0)
				return true;
	return false;
}

/* The slot of the own arena into which a lost version is rebuilt. What another rank committed
 * was committed here as well, also if this one was away when that was heard. */
static struct slot *own_target(const struct rescue *r)
{
	struct arena *a = r->ft->epoch->arena;
	struct commit_slot slots[2] = {0};

	for (int i = 0; i < 2; i++) {
		bool damaged;

		slots[i].state = slot_read(&a->slot[i], &slots[i].stamp, &damaged);
		if (slots[i].state == SLOT_PREPARED &&
		    committed_somewhere(r->gather, r->ft->epoch->number, slots[i].stamp))
			slots[i].state = SLOT_COMMITTED;
	}
	return &a->slot[commit_spare(slots)];
}

static int make_members(struct rescue *r)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < r->ranks; i++)
		count += r->agent[i] == r->ft->net->rank;
	r->member = calloc(count ? count : 1, sizeof(*r->member));
	if (!r->member)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " ranks", count);
	for (uint32_t i = 0; i < r->ranks; i++) {
		struct rescue_member *m = &r->member[r->members];

		if (r->agent[i] != r->ft->net->rank)
			continue;
		r->members++;
		m->rank = i;
		m->lost = r->lost[i];
		if (!m->lost)
			m->slot = &arena_here(r, i)->slot[r->source[i].slot];
	}
	return 0;
}

int rescue_new(struct ftmem *ft, const struct gather *g, const struct recover_choice *choice,
               uint32_t epoch_index, struct recover_source *source, struct rescue **out)
{
	struct rescue *r = calloc(1, sizeof(*r));
	int rc = 0;

	*out = NULL;
	if (!r) {
		free(source);
		return session_agree(ft, error_set(FTMEM_ENOMEM, "no memory to rebuild"),
		                     "rebuilding");
	}
	r->ft = ft;
	r->gather = g;
	r->choice = *choice;
	r->epoch = &g->epoch[epoch_index];
	r->in_place = choice->epoch == ft->epoch->number;
	r->ranks = r->epoch->map->ranks;
	r->source = source;
	r->agent = calloc(r->ranks, sizeof(*r->agent));
	r->lost = calloc(r->ranks, sizeof(*r->lost));
	r->data_bytes = calloc(r->ranks, sizeof(*r->data_bytes));
	if (!r->agent || !r->lost || !r->data_bytes)
		rc = error_set(FTMEM_ENOMEM, "no memory for a table of %" PRIu32 " ranks",
		               r->ranks);
	for (uint32_t i = 0; rc == 0 && i < r->ranks; i++) {
		r->lost[i] = source[i].arena < 0;
		r->agent[i] = r->lost[i] ? i % ft->net->size : g->arena[source[i].arena].agent;
	}
	if (rc == 0)
		rc = make_members(r);
	rc = session_agree(ft, rc, "rebuilding");
	if (rc == 0)
		rc = share_sizes(r);
	if (rc == 0)
		rc = find_busiest(r);
	if (rc < 0) {
		rescue_free(r);
		return rc;
	}
	*out = r;
	return 0;
}

void rescue_free(struct rescue *r)
{
	if (!r)
		return;
	for (uint32_t i = 0; i < r->members; i++)
		temporary_free(r, &r->member[i]);
	free(r->member);
	free(r->source);
	free(r->agent);
	free(r->lost);
	free(r->data_bytes);
	rescue_rails_free(r);
	free(r);
}

/* --- room for what is rebuilt --- */

static bool goes_to_own_arena(const struct rescue *r, const struct rescue_member *m)
{
	return r->in_place && m->rank == r->ft->net->rank;
}

/* What memory is needed beside the arenas for what is rebuilt. */
static int plan_room(struct rescue *r, uint64_t *need)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < r->members; i++) {
		struct rescue_member *m = &r->member[i];

		if (!m->lost || goes_to_own_arena(r, m))
			continue;
		rc = shape_temporary(r, m->rank, m);
		*need += written_bytes(r, &m->shape);
	}
	return rc;
}

static int take_room(struct rescue *r)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < r->members; i++) {
		struct rescue_member *m = &r->member[i];

		if (!m->lost)
			continue;
		if (goes_to_own_arena(r, m)) {
			/* One that is lost for its many bad blocks goes, not the other version. */
			m->slot = m->slot ? m->slot : own_target(r);
			slot_set_filling(m->slot, r->choice.stamp);
		} else {
			rc = take_temporary(r, m);
		}
	}
	return rc;
}

int rescue_make_room(struct rescue *r)
{
	uint64_t need = 0;
	int rc = session_agree(r->ft, plan_room(r, &need), "rebuilding");

	if (rc == 0)
		rc = room_check(r->ft, need, "the slots to rebuild");
	return rc == 0 ? session_agree_late(r->ft, take_room(r), r->busiest, "rebuilding") : rc;
}

/* --- in place, at the end --- */

/* The last run that arenas of the sealed epoch know of. */
static uint64_t last_run(const struct rescue *r)
{
	const struct gather *g = r->gather;
	uint64_t last = 0;

	for (uint32_t i = 0; i < g->arenas; i++)
		if (g->arena[i].epoch == r->ft->epoch->number && g->arena[i].entered > last)
			last = g->arena[i].entered;
	return last;
}

int rescue_hold(struct rescue *r)
{
	struct rescue_member *m = rescue_find(r, r->ft->net->rank);
	struct arena *a = r->ft->epoch->arena;
	uint64_t last = last_run(r), entered = arena_entered(a);

	if (m->lost)
		slot_set_prepared(m->slot, r->choice.stamp);
	/* What it holds now is what came of that run, as if it had been there. */
	if (entered < last || entered == UINT64_MAX)
		arena_enter(a, last);
	return session_agree(r->ft, 0, "making the version whole");
}

void rescue_commit(struct rescue *r, struct commit_slot other)
{
	struct ftmem *ft = r->ft;
	struct arena *a = ft->epoch->arena;
	struct slot *slot = rescue_find(r, ft->net->rank)->slot;
	struct commit_slot slots[2] = {other, other};
	int at = slot == &a->slot[0] ? 0 : 1;

	slot_set_committed(slot);
	if (other.state != SLOT_COMMITTED)
		slot_set_empty(&a->slot[1 - at]);
	slots[at] = (struct commit_slot){SLOT_COMMITTED, r->choice.stamp};
	session_enter(ft, slots, ft->incarnation);
	if (session_retire_former(ft) < 0)
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "%s: memory of earlier epochs stays until the next "
		         "commit",
		         error_msg());
}

/* --- for the user --- */

bool rescue_is_damaged(const struct rescue *r, uint32_t rank)
{
	for (uint32_t i = 0; i < r->bad_count; i++)
		if (r->bad[i].rank == rank)
			return true;
	return r->lost[rank];
}

void rescue_list_rank(const struct map *map, uint32_t rank, char *text, size_t bytes)
{
	size_t used = strlen(text);

	/* A comma, a number, a name. */
	if (bytes - used > FTMEM_NAME_MAX + 20)
		snprintf(text + used, bytes - used, "%s%" PRIu32 " (%s)", used ? ", " : "", rank,
		         map->node[map->node_of_rank[rank]].name);
}

void rescue_list_damaged(const struct rescue *r, char *text, size_t bytes)
{
	text[0] = '\0';
	for (uint32_t i = 0; i < r->ranks; i++)
		if (rescue_is_damaged(r, i))
			rescue_list_rank(r->epoch->map, i, text, bytes);
}
