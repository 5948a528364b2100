/* SPDX-License-Identifier: BSD-3-Clause */
#include "rescue.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "error.h"
#include "room.h"

/* Bad blocks of one slot beyond which it counts as lost altogether. */
#define BAD_MAX 1024

/* --- rails of the old job --- */

static void old_rail(const struct rescue *r, uint32_t id, struct rail *rail)
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
		old_rail(r, ids[i], &m->rails[i]);
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

/* The slot of the own arena into which a lost version is rebuilt. */
static struct slot *own_target(const struct rescue *r)
{
	struct arena *a = r->ft->epoch->arena;
	struct commit_slot slots[2] = {0};

	for (int i = 0; i < 2; i++) {
		bool damaged;

		slots[i].state = slot_read(&a->slot[i], &slots[i].stamp, &damaged);
	}
	return &a->slot[commit_spare(slots)];
}

static int make_members(struct rescue *r)
{
	int rc = 0;

	r->member = calloc(r->ranks, sizeof(*r->member));
	if (!r->member)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " ranks", r->ranks);
	for (uint32_t i = 0; rc == 0 && i < r->ranks; i++) {
		struct rescue_member *m = &r->member[r->members];

		if (r->agent[i] != r->ft->net->rank)
			continue;
		r->members++;
		m->rank = i;
		m->lost = r->lost[i];
		if (!m->lost)
			m->slot = &arena_here(r, i)->slot[r->source[i].slot];
	}
	return rc;
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
	free(r->bad);
	free(r);
}

/* --- verify --- */

struct collector {
	struct rescue_bad *bad;
	uint32_t count, first;   /* first: of the slot in hand */
	const struct slot *slot;
	uint32_t rank;
};

static void collect(void *arg, uint32_t rail, bool parity, uint32_t index, uint32_t row)
{
	struct collector *c = arg;

	if (c->count - c->first < BAD_MAX)
		c->bad[c->count++] = (struct rescue_bad){
			c->rank, c->slot->shape->rail[rail].id, parity, index, row, 0};
}

static int verify_own(struct rescue *r, struct collector *c)
{
	c->bad = calloc((size_t)(r->members ? r->members : 1) * BAD_MAX, sizeof(*c->bad));
	if (!c->bad)
		return error_set(FTMEM_ENOMEM, "no memory to note damaged blocks");
	for (uint32_t i = 0; i < r->members; i++) {
		uint64_t bad;

		if (r->member[i].lost)
			continue;
		c->first = c->count;
		c->slot = r->member[i].slot;
		c->rank = r->member[i].rank;
		bad = slot_verify(c->slot, collect, c);
		if (bad > 0)
			log_line(&r->ft->opts.log, FTMEM_LOG_WARN,
			         "%" PRIu64 " blocks of rank %" PRIu32
			         " fail their checksum: they are rebuilt from parity",
			         bad, c->rank);
		if (bad > BAD_MAX) {
			c->count = c->first + 1;
			c->bad[c->first].whole = 1;
		}
	}
	return 0;
}

/* All ranks learn of all bad blocks; usually there are none. */
static int share_bad(struct rescue *r, const struct collector *c)
{
	struct ftmem *ft = r->ft;
	struct rescue_bad *mine = NULL, *all = NULL;
	uint64_t most = c->count;
	int rc = net_allreduce(ft->net, &most, 1, NET_MAX, session_deadline(ft), "verifying");

	if (rc < 0 || most == 0)
		return rc;
	mine = calloc(most, sizeof(*mine));
	all = calloc(most * ft->net->size, sizeof(*all));
	if (!mine || !all)
		rc = error_set(FTMEM_ENOMEM, "no memory to note damaged blocks");
	rc = session_agree(ft, rc, "verifying");
	for (uint64_t i = 0; rc == 0 && i < most; i++)
		mine[i] = i < c->count ? c->bad[i] : (struct rescue_bad){.rank = UINT32_MAX};
	if (rc == 0)
		rc = net_allgather(ft->net, mine, most * sizeof(*mine), all, session_deadline(ft),
		                   "verifying");
	for (uint64_t i = 0; rc == 0 && i < most * ft->net->size; i++) {
		if (all[i].rank >= r->ranks)
			continue;
		if (all[i].whole)
			r->lost[all[i].rank] = true;
		else
			all[r->bad_count++] = all[i];
	}
	free(mine);
	if (rc == 0)
		r->bad = all;
	else
		free(all);
	return rc;
}

/* --- rails in which this rank has a part --- */

/* What rebuild.h needs to know of one rail. */
struct rail_job {
	struct rail rail;
	struct rebuild_member member[RAIL_MAX];
	struct rebuild_bad *bad;
	uint32_t bad_count;
	bool mine, lost;
};

static uint32_t rail_index(const struct slot *slot, uint32_t id)
{
	for (uint32_t i = 0; i < slot->shape->rails; i++)
		if (slot->shape->rail[i].id == id)
			return i;
	return 0;
}

static int prepare_rail(struct rescue *r, uint32_t id, struct rail_job *job)
{
	memset(job, 0, sizeof(*job));
	old_rail(r, id, &job->rail);
	for (uint32_t i = 0; i < job->rail.n; i++) {
		uint32_t rank = job->rail.rank[i];
		struct rescue_member *m = rescue_find(r, rank);

		job->member[i] = (struct rebuild_member){r->agent[rank], r->lost[rank], NULL, 0};
		job->lost = job->lost || r->lost[rank];
		job->mine = job->mine || m;
		if (!m || !m->slot)
			continue;
		job->member[i].slot = m->slot;
		job->member[i].rail_index = rail_index(m->slot, id);
	}
	if (!job->mine || r->bad_count == 0)
		return 0;
	job->bad = calloc(r->bad_count, sizeof(*job->bad));
	if (!job->bad)
		return error_set(FTMEM_ENOMEM, "no memory to note damaged blocks");
	for (uint32_t i = 0; i < r->bad_count; i++) {
		const struct rescue_bad *b = &r->bad[i];
		int at = b->rail_id == id ? rail_find(&job->rail, b->rank) : -1;

		if (at >= 0 && !r->lost[b->rank])
			job->bad[job->bad_count++] =
				(struct rebuild_bad){(uint32_t)at, b->parity, b->index, b->row};
	}
	return 0;
}

int rescue_verify(struct rescue *r, bool *possible)
{
	struct collector c = {0};
	uint64_t hopeless = 0;
	int rc = session_agree_late(r->ft, verify_own(r, &c), r->busiest, "verifying");

	if (rc == 0)
		rc = share_bad(r, &c);
	free(c.bad);
	for (uint32_t i = 0; i < r->members; i++)
		r->member[i].lost = r->lost[r->member[i].rank];
	for (uint32_t id = 0; rc == 0 && id < map_rail_count(r->epoch->map); id++) {
		struct rail_job job;
		bool ok = true;

		rc = prepare_rail(r, id, &job);
		if (rc == 0 && job.mine)
			rc = rebuild_possible(&job.rail, job.member, job.bad, job.bad_count, &ok);
		free(job.bad);
		hopeless = hopeless || !ok;
	}
	rc = session_agree(r->ft, rc, "verifying");
	if (rc == 0)
		rc = net_allreduce(r->ft->net, &hopeless, 1, NET_MAX, session_deadline(r->ft),
		                   "verifying");
	*possible = hopeless == 0;
	return rc;
}

/* --- rebuild --- */

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
			m->slot = own_target(r);
			slot_set_filling(m->slot, r->choice.stamp);
		} else {
			rc = take_temporary(r, m);
		}
	}
	return rc;
}

/* Collective. */
static int make_room(struct rescue *r)
{
	uint64_t need = 0;
	int rc = session_agree(r->ft, plan_room(r, &need), "rebuilding");

	if (rc == 0)
		rc = room_check(r->ft, need, "the slots to rebuild");
	return rc == 0 ? session_agree(r->ft, take_room(r), "rebuilding") : rc;
}

/* Rails in which something is missing and this rank has a part; jobs are the caller's
 * to free, with their bad lists. */
static int broken_rails(struct rescue *r, struct rail_job **jobs, uint32_t *count)
{
	uint32_t room = 0;
	int rc = 0;

	*jobs = NULL;
	*count = 0;
	for (uint32_t id = 0; rc == 0 && id < map_rail_count(r->epoch->map); id++) {
		struct rail_job *grown;

		if (*count == room) {
			room = room ? 2 * room : 8;
			grown = realloc(*jobs, room * sizeof(**jobs));
			if (!grown)
				return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " rails",
				                 room);
			*jobs = grown;
		}
		rc = prepare_rail(r, id, &(*jobs)[*count]);
		if (rc == 0 && (*jobs)[*count].mine &&
		    ((*jobs)[*count].lost || (*jobs)[*count].bad_count > 0))
			(*count)++;
		else
			free((*jobs)[*count].bad);
	}
	return rc;
}

static int rebuild_all(struct rescue *r, struct rail_job *jobs, uint32_t count,
                       struct rebuild_report *report)
{
	struct rebuild_config *config = calloc(count ? count : 1, sizeof(*config));
	int rc;

	if (!config)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " rails", count);
	for (uint32_t i = 0; i < count; i++)
		config[i] = (struct rebuild_config){
			.net = r->ft->net,
			.rail = &jobs[i].rail,
			.member = jobs[i].member,
			.bad = jobs[i].bad,
			.bad_count = jobs[i].bad_count,
			.parity = r->in_place,
			.window = r->ft->epoch->window + 2,
			.timeout_ms = r->ft->opts.timeout_ms,
		};
	rc = rebuild_rails(config, count, report);
	free(config);
	return rc;
}

int rescue_rebuild(struct rescue *r, struct rebuild_report *report)
{
	struct ftmem *ft = r->ft;
	struct rail_job *jobs = NULL;
	uint32_t count = 0;
	int rc = make_room(r);

	if (rc < 0)
		return rc;
	rc = session_agree(ft, broken_rails(r, &jobs, &count), "rebuilding");
	if (rc == 0) {
		rc = session_agree_late(ft, rebuild_all(r, jobs, count, report), r->busiest,
		                        "rebuilding");
		/* What is on its way would be taken for another try's. */
		ft->net->broken = ft->net->broken || rc < 0;
	}
	for (uint32_t i = 0; i < count; i++)
		free(jobs[i].bad);
	free(jobs);
	return rc;
}
