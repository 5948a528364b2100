/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "rescue_impl.h"

/* Bad blocks of one slot beyond which it counts as lost altogether. */
#define BAD_MAX 1024
/* Blocks of units in flight, in bytes. */
#define FLIGHT_BYTES (UINT64_C(16) << 20)

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

_Static_assert(sizeof(struct rescue_bad) % sizeof(uint64_t) == 0, "whole words");

/* What each rank found, one behind the other: where nobody else has anything, the largest
 * is what one has. */
static int join_bad(struct rescue *r, const struct collector *c, uint64_t *counts,
                    struct rescue_bad *all, uint64_t total)
{
	struct ftmem *ft = r->ft;
	uint64_t mine = c->count, first = 0, words = total * (sizeof(*all) / sizeof(uint64_t));
	int rc = net_allgather(ft->net, &mine, sizeof(mine), counts, session_deadline(ft),
	                       "verifying");

	for (uint32_t i = 0; rc == 0 && i < ft->net->rank; i++)
		first += counts[i];
	if (rc == 0 && (first > total || mine > total - first || words > UINT32_MAX))
		rc = error_set(FTMEM_ENET, "ranks count damaged blocks differently");
	if (rc == 0 && mine > 0)
		memcpy(all + first, c->bad, mine * sizeof(*all));
	rc = session_agree(ft, rc, "verifying");
	return rc == 0 ? net_allreduce(ft->net, (uint64_t *)(void *)all, (uint32_t)words, NET_MAX,
	                               session_deadline(ft), "verifying")
	               : rc;
}

/* All ranks learn of all bad blocks; usually there are none. */
static int share_bad(struct rescue *r, const struct collector *c)
{
	struct ftmem *ft = r->ft;
	struct rescue_bad *all = NULL;
	uint64_t total = c->count, *counts = NULL;
	int rc = net_allreduce(ft->net, &total, 1, NET_SUM, session_deadline(ft), "verifying");

	if (rc < 0 || total == 0)
		return rc;
	counts = calloc(ft->net->size, sizeof(*counts));
	all = calloc(total, sizeof(*all));
	if (!counts || !all)
		rc = error_set(FTMEM_ENOMEM, "no memory to note damaged blocks");
	rc = session_agree(ft, rc, "verifying");
	if (rc == 0)
		rc = join_bad(r, c, counts, all, total);
	for (uint64_t i = 0; rc == 0 && i < total; i++) {
		if (all[i].rank >= r->ranks)
			continue;
		if (all[i].whole)
			r->lost[all[i].rank] = true;
		else
			all[r->bad_count++] = all[i];
	}
	free(counts);
	if (rc == 0)
		r->bad = all;
	else
		free(all);
	return rc;
}

/* --- rails in which this rank has a part --- */

static uint32_t rail_index(const struct slot *slot, uint32_t id)
{
	for (uint32_t i = 0; i < slot->shape->rails; i++)
		if (slot->shape->rail[i].id == id)
			return i;
	return 0;
}

static int prepare_rail(struct rescue *r, uint32_t id, struct rescue_rail *job)
{
	memset(job, 0, sizeof(*job));
	rescue_old_rail(r, id, &job->rail);
	for (uint32_t i = 0; i < job->rail.n; i++) {
		uint32_t rank = job->rail.rank[i];
		struct rescue_member *m = rescue_find(r, rank);

		job->member[i] = (struct rebuild_member){r->agent[rank], r->lost[rank], NULL, 0};
		job->lost = job->lost || r->lost[rank];
		if (!m || !m->slot)
			continue;
		job->member[i].slot = m->slot;
		job->member[i].rail_index = rail_index(m->slot, id);
	}
	if (r->bad_count == 0)
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

static int compare_ids(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* The rails in which this rank acts for a member, each once. */
static int own_rails(const struct rescue *r, uint32_t **out, uint32_t *count)
{
	uint32_t *list = NULL, total = 0, distinct = 0;

	for (uint32_t i = 0; i < r->members; i++) {
		uint32_t *ids = NULL, *grown, n = 0;
		int rc = map_rails_of(r->epoch->map, r->member[i].rank, &ids, &n);

		grown = rc == 0 ? realloc(list, (total + n) * sizeof(*list)) : NULL;
		if (!grown) {
			free(ids);
			free(list);
			return rc < 0 ? rc : error_set(FTMEM_ENOMEM, "no memory for rails");
		}
		list = grown;
		memcpy(list + total, ids, n * sizeof(*list));
		total += n;
		free(ids);
	}
	if (total > 0)
		qsort(list, total, sizeof(*list), compare_ids);
	for (uint32_t i = 0; i < total; i++)
		if (i == 0 || list[i] != list[i - 1])
			list[distinct++] = list[i];
	*out = list;
	*count = distinct;
	return 0;
}

/* Whether k good blocks are left of every stripe of the own rails. */
static int look_at_rails(struct rescue *r, bool *possible)
{
	uint32_t *ids = NULL, count = 0;
	int rc = own_rails(r, &ids, &count);

	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		struct rescue_rail job;
		bool ok = true;

		rc = prepare_rail(r, ids[i], &job);
		if (rc == 0)
			rc = rebuild_possible(&job.rail, job.member, job.bad, job.bad_count, &ok);
		free(job.bad);
		*possible = *possible && ok;
	}
	free(ids);
	return rc;
}

int rescue_verify(struct rescue *r, bool *possible)
{
	struct collector c = {0};
	uint64_t hopeless;
	bool own = true;
	int rc = session_agree_late(r->ft, verify_own(r, &c), r->busiest, "verifying");

	if (rc == 0)
		rc = share_bad(r, &c);
	free(c.bad);
	for (uint32_t i = 0; i < r->members; i++)
		r->member[i].lost = r->lost[r->member[i].rank];
	if (rc == 0)
		rc = look_at_rails(r, &own);
	hopeless = !own;
	rc = session_agree(r->ft, rc, "verifying");
	if (rc == 0)
		rc = net_allreduce(r->ft->net, &hopeless, 1, NET_MAX, session_deadline(r->ft),
		                   "verifying");
	*possible = hopeless == 0;
	return rc;
}

/* --- rebuild --- */

static void jobs_free(struct rescue *r)
{
	for (uint32_t i = 0; i < r->jobs; i++)
		free(r->job[i].bad);
	free(r->job);
	r->job = NULL;
	r->jobs = 0;
}

void rescue_rails_free(struct rescue *r)
{
	jobs_free(r);
	free(r->bad);
}

/* Rails in which this rank has a part and, unless all are asked for, something is missing. */
static int find_rails(struct rescue *r, bool all)
{
	uint32_t *ids = NULL, count = 0;
	int rc = own_rails(r, &ids, &count);

	jobs_free(r);
	r->job = calloc(count ? count : 1, sizeof(*r->job));
	if (rc == 0 && !r->job)
		rc = error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " rails", count);
	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		struct rescue_rail *job = &r->job[r->jobs];

		rc = prepare_rail(r, ids[i], job);
		if (rc == 0 && (all || job->lost || job->bad_count > 0))
			r->jobs++;
		else
			free(job->bad);
	}
	free(ids);
	return rc;
}

int rescue_prepare(struct rescue *r, bool all)
{
	int rc = rescue_make_room(r);

	return rc == 0 ? session_agree(r->ft, find_rails(r, all), "rebuilding") : rc;
}

/* A unit waits for its sources and then for its decoder: the units of two rows hide that. */
static uint32_t units_in_flight(const struct rail *rail)
{
	uint64_t room = FLIGHT_BYTES / ((uint64_t)rail->n * rail->block_bytes),
		 wanted = UINT64_C(2) * rail->n;

	if (room > wanted)
		room = wanted;
	return room > 2 ? (uint32_t)room : 2;
}

static int rebuild_all(struct rescue *r, const struct rebuild_pass *pass,
                       struct rebuild_report *report)
{
	struct rebuild_config *config = calloc(r->jobs ? r->jobs : 1, sizeof(*config));
	const struct rebuild_pass checks = {0};
	uint32_t own = epoch_rail(r->ft->epoch)->id;
	int rc;

	if (!config)
		return error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " rails", r->jobs);
	for (uint32_t i = 0; i < r->jobs; i++) {
		const struct rescue_rail *job = &r->job[i];

		config[i] = (struct rebuild_config){
			.net = r->ft->net,
			.rail = &job->rail,
			.member = job->member,
			.bad = job->bad,
			.bad_count = job->bad_count,
			.pass = pass && job->rail.id != own ? &checks : pass,
			.parity = r->in_place,
			.window = units_in_flight(&job->rail),
			.timeout_ms = r->ft->opts.timeout_ms,
		};
	}
	rc = rebuild_rails(config, r->jobs, report);
	free(config);
	return rc;
}

int rescue_rebuild(struct rescue *r, const struct rebuild_pass *pass,
                   struct rebuild_report *report)
{
	struct ftmem *ft = r->ft;
	int rc = session_agree_late(ft, rebuild_all(r, pass, report), r->busiest, "rebuilding");

	/* What is on its way would be taken for another try's. */
	ft->net->broken = ft->net->broken || rc < 0;
	return rc;
}
