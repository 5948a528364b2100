/* SPDX-License-Identifier: BSD-3-Clause */
#include "gather.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

/* --- attaching --- */

/* The rank of this node that acts for an arena found on it. */
static uint32_t agent_of(const struct ftmem *ft, uint32_t rank)
{
	const struct map *map = ft->map;
	uint32_t here = map->node_of_rank[ft->net->rank];

	if (rank < map->ranks && map->node_of_rank[rank] == here)
		return rank;
	return map->rank[map->node[here].offset + rank % map->node[here].ranks];
}

static int attach(struct gather *g, const struct smp_entry *entry)
{
	struct ftmem *ft = g->ft;
	struct gather_arena *at = &g->here[g->here_count];
	int fd = -1, rc;

	if (ft->epoch && entry->epoch == ft->epoch->number && entry->rank == ft->net->rank) {
		*at = (struct gather_arena){ft->epoch->arena, true};
		g->here_count++;
		return 0;
	}
	rc = smp_attach(ft->keeper.smp, entry->epoch, entry->rank, true, &fd);
	if (rc < 0)
		return rc;
	/* A start that was cut short: nothing is lost with it. */
	if (arena_unwritten(fd)) {
		close(fd);
		return smp_release(ft->keeper.smp, entry->epoch, entry->rank);
	}
	rc = arena_attach_held(fd, true, &at->arena);
	if (rc == FTMEM_ECORRUPT) {
		log_line(&ft->opts.log, FTMEM_LOG_WARN, "%s: counted as lost", error_msg());
		g->damaged++;
		return smp_release(ft->keeper.smp, entry->epoch, entry->rank);
	}
	if (rc == 0)
		g->here_count++;
	return rc;
}

static int attach_all(struct gather *g)
{
	struct smp_entry *entry = NULL;
	uint32_t count = 0;
	int rc = smp_list(g->ft->keeper.smp, &entry, &count);

	if (rc == 0) {
		g->here = calloc(count ? count : 1, sizeof(*g->here));
		if (!g->here)
			rc = error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " arenas", count);
	}
	for (uint32_t i = 0; rc == 0 && i < count; i++)
		if (agent_of(g->ft, entry[i].rank) == g->ft->net->rank)
			rc = attach(g, &entry[i]);
	free(entry);
	return rc;
}

/* --- the table --- */

static void describe(struct gather *g, const struct arena *a, struct gather_record *r)
{
	*r = (struct gather_record){
		.epoch = a->header->epoch,
		.rank = a->header->rank,
		.map_sum = a->header->map_sum,
		.valid = 1,
		.entered = arena_entered(a),
		.late = a->header->late > 0,
	};
	if (r->entered == UINT64_MAX)
		log_line(&g->ft->opts.log, FTMEM_LOG_WARN,
		         "arena of rank %" PRIu32 ", epoch %" PRIu64
		         ": the note of its last run is damaged: it may be any",
		         r->rank, r->epoch);
	for (int i = 0; i < 2; i++) {
		struct stamp stamp;
		bool damaged = false;

		r->state[i] = slot_read(&a->slot[i], &stamp, &damaged);
		r->incarnation[i] = stamp.incarnation;
		r->version[i] = stamp.version;
		r->unsure = r->unsure || damaged;
		g->damaged += damaged;
		if (damaged)
			log_line(&g->ft->opts.log, FTMEM_LOG_WARN,
			         "slot %d of rank %" PRIu32 ", epoch %" PRIu64
			         ": its header or its checksums are damaged: counted as lost",
			         i, r->rank, r->epoch);
	}
}

static uint64_t next_epoch(const struct gather_record *all, uint64_t total, uint64_t below)
{
	uint64_t best = 0;

	for (uint64_t i = 0; i < total; i++)
		if (all[i].valid && all[i].epoch < below && all[i].epoch > best)
			best = all[i].epoch;
	return best;
}

/* An arena knows what was committed if it was part of the last run that any of its epoch was
 * part of. The others were away, or are not rebuilt yet. */
static void doubt(struct gather_record *all, uint64_t total)
{
	for (uint64_t e = UINT64_MAX; (e = next_epoch(all, total, e)) > 0;) {
		uint64_t last = 0;

		for (uint64_t i = 0; i < total; i++)
			if (all[i].valid && all[i].epoch == e && all[i].entered > last)
				last = all[i].entered;
		for (uint64_t i = 0; i < total; i++)
			if (all[i].epoch == e && (last == 0 || last == UINT64_MAX
			                          || all[i].entered < last))
				all[i].unsure = 1;
	}
}

static int fill_table(struct gather *g, const struct gather_record *all, uint32_t per_rank)
{
	uint64_t total = (uint64_t)per_rank * g->ft->net->size;

	g->arena = calloc(total ? total : 1, sizeof(*g->arena));
	g->here_index = calloc(total ? total : 1, sizeof(*g->here_index));
	if (!g->arena || !g->here_index)
		return error_set(FTMEM_ENOMEM, "no memory for the table of %" PRIu64 " arenas",
		                 total);
	for (uint64_t i = 0; i < total; i++) {
		const struct gather_record *r = &all[i];
		struct recover_arena *a = &g->arena[g->arenas];

		if (!r->valid)
			continue;
		a->epoch = r->epoch;
		a->rank = r->rank;
		a->agent = (uint32_t)(i / per_rank);
		a->unsure = r->unsure;
		a->entered = r->entered == UINT64_MAX ? 0 : r->entered;
		for (int j = 0; j < 2; j++)
			a->slot[j] = (struct commit_slot){(enum slot_state)r->state[j],
			                                  {r->incarnation[j], r->version[j]}};
		g->here_index[g->arenas++] = (uint32_t)(i % per_rank);
	}
	return 0;
}

/* --- maps --- */

static bool holds(const struct gather_record *r)
{
	for (int i = 0; i < 2; i++)
		if (r->state[i] == SLOT_PREPARED || r->state[i] == SLOT_COMMITTED)
			return true;
	return false;
}

/*
 * The arena whose map speaks for an epoch: one that holds something, best a late
 * one, since it names the nodes as they were last. -1: the epoch holds nothing.
 */
static int64_t spokesman(const struct gather_record *all, uint64_t total, uint64_t epoch)
{
	int64_t best = -1;

	for (uint64_t i = 0; i < total; i++) {
		if (!all[i].valid || all[i].epoch != epoch || !holds(&all[i]))
			continue;
		if (best < 0 || (all[i].late && !all[best].late))
			best = (int64_t)i;
	}
	return best;
}

/* Whether all ranks have an arena of the map that speaks for an epoch; *mine: that of this
 * rank, NULL if it has none. */
static bool all_have_map(const struct gather *g, const struct gather_record *all,
                         uint32_t per_rank, const struct gather_record *speaker,
                         const struct map **mine)
{
	uint32_t holders = 0;

	*mine = NULL;
	for (uint32_t rank = 0; rank < g->ft->net->size; rank++)
		for (uint32_t i = 0; i < per_rank; i++) {
			const struct gather_record *r = &all[(uint64_t)rank * per_rank + i];

			if (!r->valid || r->epoch != speaker->epoch ||
			    r->map_sum != speaker->map_sum)
				continue;
			if (rank == g->ft->net->rank)
				*mine = g->here[i].arena->map;
			holders++;
			break;
		}
	return holders == g->ft->net->size;
}

/* Gives all ranks the map that some have: what one has is no less than nothing. */
static int share_map(struct ftmem *ft, const struct map *mine, struct map **out)
{
	uint64_t bytes = mine ? map_blob_bytes(mine) : 0, words, *blob;
	int rc = net_allreduce(ft->net, &bytes, 1, NET_MAX, session_deadline(ft), "sharing a map");

	if (rc < 0)
		return rc;
	words = (bytes + 7) / 8;
	blob = calloc(words ? words : 1, sizeof(*blob));
	rc = session_agree(ft, blob ? 0 : error_set(FTMEM_ENOMEM, "no memory for a map of %" PRIu64
	                                            " bytes", bytes), "sharing a map");
	if (rc == 0 && mine)
		map_blob_write(mine, (uint8_t *)blob);
	if (rc == 0)
		rc = net_allreduce(ft->net, blob, (uint32_t)words, NET_MAX, session_deadline(ft),
		                   "sharing a map");
	if (rc == 0)
		rc = map_blob_read((uint8_t *)blob, bytes, out);
	free(blob);
	return rc;
}

/* Collective. Where all ranks have the map nothing is sent. */
static int find_map(struct gather *g, const struct gather_record *all, uint32_t per_rank,
                    const struct gather_record *speaker, struct map **out)
{
	const struct map *mine;
	int rc = all_have_map(g, all, per_rank, speaker, &mine) ? map_copy(mine, out)
	                                                        : share_map(g->ft, mine, out);

	rc = session_agree(g->ft, rc, "sharing a map");
	if (rc < 0) {
		map_free(*out);
		*out = NULL;
	}
	return rc;
}

static int share_maps(struct gather *g, const struct gather_record *all, uint32_t per_rank)
{
	uint64_t total = (uint64_t)per_rank * g->ft->net->size, e = UINT64_MAX;
	uint32_t room = 0;
	int rc = 0;

	while ((e = next_epoch(all, total, e)) > 0)
		room++;
	g->epoch = calloc(room ? room : 1, sizeof(*g->epoch));
	rc = session_agree(g->ft, g->epoch ? 0 : error_set(FTMEM_ENOMEM, "no memory for %" PRIu32
	                                                   " epochs", room), "sharing maps");
	e = UINT64_MAX;
	while (rc == 0 && (e = next_epoch(all, total, e)) > 0) {
		int64_t who = spokesman(all, total, e);
		struct map *map = NULL;

		if (who < 0)
			continue;
		rc = find_map(g, all, per_rank, &all[who], &map);
		if (rc == 0)
			g->epoch[g->epochs++] = (struct recover_epoch){e, map};
	}
	return rc;
}

/* --- life --- */

static int gather(struct gather *g)
{
	struct ftmem *ft = g->ft;
	struct gather_record *mine = NULL, *all = NULL;
	uint64_t per_rank;
	int rc = session_agree(ft, attach_all(g), "attaching to what is stored");

	if (rc < 0)
		return rc;
	per_rank = g->here_count;
	rc = net_allreduce(ft->net, &per_rank, 1, NET_MAX, session_deadline(ft), "counting arenas");
	if (rc < 0)
		return rc;
	mine = calloc(per_rank ? per_rank : 1, sizeof(*mine));
	all = calloc(per_rank ? per_rank * ft->net->size : 1, sizeof(*all));
	if (!mine || !all)
		rc = error_set(FTMEM_ENOMEM, "no memory for the table of arenas");
	for (uint32_t i = 0; rc == 0 && i < g->here_count; i++)
		describe(g, g->here[i].arena, &mine[i]);
	rc = session_agree(ft, rc, "gathering what is stored");
	if (rc == 0)
		rc = net_allreduce(ft->net, &g->damaged, 1, NET_SUM, session_deadline(ft),
		                   "gathering what is stored");
	if (rc == 0 && per_rank > 0)
		rc = net_allgather(ft->net, mine, per_rank * sizeof(*mine), all,
		                   session_deadline(ft), "gathering what is stored");
	if (rc == 0 && per_rank > 0)
		doubt(all, per_rank * ft->net->size);
	if (rc == 0)
		rc = session_agree(ft, fill_table(g, all, (uint32_t)per_rank),
		                   "gathering what is stored");
	if (rc == 0 && per_rank > 0)
		rc = share_maps(g, all, (uint32_t)per_rank);
	free(mine);
	free(all);
	return rc;
}

int gather_new(struct ftmem *ft, struct gather **out)
{
	struct gather *g = calloc(1, sizeof(*g));
	int rc;

	*out = NULL;
	rc = session_agree(ft, g ? 0 : error_set(FTMEM_ENOMEM, "no memory to gather"), "gathering");
	if (rc == 0) {
		g->ft = ft;
		rc = gather(g);
	}
	if (rc < 0) {
		gather_free(g);
		return rc;
	}
	*out = g;
	return 0;
}

/* Its lease is the session's, since before something was gathered. */
static bool session_holds(const struct ftmem *ft, const struct arena *a)
{
	return a->header->rank == ft->net->rank && ft->former &&
	       a->header->epoch == ft->former->number;
}

void gather_free(struct gather *g)
{
	if (!g)
		return;
	for (uint32_t i = 0; i < g->here_count; i++) {
		struct arena *a = g->here[i].arena;
		struct ftmem *ft = g->ft;

		if (g->here[i].own)
			continue;
		/* What the present run retired meanwhile is not there any more. */
		if (!session_holds(ft, a) &&
		    smp_release(ft->keeper.smp, a->header->epoch, a->header->rank) < 0)
			log_line(&ft->opts.log, FTMEM_LOG_DEBUG, "%s", error_msg());
		if (!ft->net->lingering)
			arena_free(a);
	}
	for (uint32_t i = 0; i < g->epochs; i++)
		map_free((struct map *)g->epoch[i].map);
	free(g->here);
	free(g->arena);
	free(g->here_index);
	free(g->epoch);
	free(g);
}

struct recover_input gather_input(const struct gather *g)
{
	return (struct recover_input){g->epoch, g->epochs, g->arena, g->arenas};
}

/* --- choosing --- */

/* Ranks of the largest map. */
static uint32_t max_ranks(const struct gather *g)
{
	uint32_t max = 0;

	for (uint32_t i = 0; i < g->epochs; i++)
		if (g->epoch[i].map->ranks > max)
			max = g->epoch[i].map->ranks;
	return max;
}

static int tell_lost(const struct gather *g, uint32_t epoch_index,
                     const struct recover_choice *choice, const struct recover_source *source)
{
	char text[768];

	recover_explain(&g->epoch[epoch_index], choice, source, text, sizeof(text));
	return error_set(FTMEM_ELOST,
	                 "%s; nothing was erased: start the job again when those nodes, or "
	                 "those that have taken their place since, are back",
	                 text);
}

/* What there is, if anything, cannot be used. */
static int tell_fresh(const struct gather *g, const struct recover_choice *limit)
{
	if (limit)
		return error_set(FTMEM_ECORRUPT,
		                 "version %" PRIu64 " is damaged beyond what parity covers, and "
		                 "there is no older one: ftmem_forget() begins anew",
		                 limit->stamp.version);
	if (g->damaged > 0)
		return error_set(FTMEM_ECORRUPT,
		                 "%" PRIu64 " arenas or slots of the job are damaged, and no "
		                 "version is left: ftmem_forget() begins anew",
		                 g->damaged);
	return FTMEM_FRESH;
}

int gather_choose(const struct gather *g, const struct recover_choice *limit,
                  struct recover_choice *choice, uint32_t *epoch_index,
                  struct recover_source **source)
{
	const struct recover_input in = gather_input(g);
	uint32_t max = max_ranks(g);
	int rc = 0;

	*source = calloc(max ? max : 1, sizeof(**source));
	if (!*source)
		rc = error_set(FTMEM_ENOMEM, "no memory for %" PRIu32 " ranks", max);
	rc = session_agree(g->ft, rc, "choosing a version");
	if (rc == 0)
		rc = recover_choose(&in, limit, choice, epoch_index, *source);
	if (rc == FTMEM_ELOST)
		rc = tell_lost(g, *epoch_index, choice, *source);
	else if (rc == FTMEM_FRESH)
		rc = tell_fresh(g, limit);
	if (rc != 0) {
		free(*source);
		*source = NULL;
	}
	return rc;
}

static bool holds_choice(const struct recover_arena *a, const struct recover_choice *choice,
                         uint32_t rank)
{
	bool found = false;

	for (int i = 0; a->epoch == choice->epoch && a->rank == rank && i < 2; i++)
		found = found || ((a->slot[i].state == SLOT_PREPARED ||
		                   a->slot[i].state == SLOT_COMMITTED) &&
		                  stamp_cmp(a->slot[i].stamp, choice->stamp) == 0);
	return found;
}

bool gather_pass_over(struct gather *g, const struct recover_choice *choice, uint32_t rank,
                      const struct recover_source *source)
{
	bool another = false;

	for (uint32_t i = 0; source->arena >= 0 && i < g->arenas; i++)
		another = another || (i != (uint32_t)source->arena &&
		                      holds_choice(&g->arena[i], choice, rank));
	if (another) {
		g->arena[source->arena].slot[source->slot] =
			(struct commit_slot){SLOT_EMPTY, {0, 0}};
		g->arena[source->arena].unsure = true;
	}
	return another;
}

struct slot *gather_slot(const struct gather *g, const struct recover_source *source,
                         struct arena **arena)
{
	if (source->arena < 0 || g->arena[source->arena].agent != g->ft->net->rank)
		return NULL;
	*arena = g->here[g->here_index[source->arena]].arena;
	return &(*arena)->slot[source->slot];
}
