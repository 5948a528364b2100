/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"
#include "smp/cli_layout_impl.h"

/* A slot that is rewritten while it is read is read again so often. */
#define TRIES      8
/* Bytes of a slot that are looked at for a layout: at first, and at most. */
#define BLOB_FIRST (UINT64_C(1) << 20)
#define BLOB_MAX   (UINT64_C(1) << 30)

/* An arena of the job on this machine. */
struct found {
	const struct cli_site *site;
	struct arena *arena;
	struct stamp newest; /* of its complete slots */
	bool complete;       /* there is one */
};

struct search {
	struct layout_view *view;
	struct found *found;
	uint32_t count;
	bool failed; /* an SMP could not be asked */
};

/* --- what is there --- */

static int note_damage(struct layout_view *v, const struct cli_site *site, uint32_t rank)
{
	struct layout_damage *more;

	more = realloc(v->damage, (v->damages + 1) * sizeof(*more));
	if (!more)
		return error_set(FTMEM_ENOMEM, "no memory for a list of what is damaged");
	v->damage = more;
	more = &v->damage[v->damages++];
	*more = (struct layout_damage){.site = site, .rank = rank};
	snprintf(more->text, sizeof(more->text), "%s", error_msg());
	return 0;
}

static int find_arena(struct search *s, const struct cli_site *site, struct smp_client *client,
                      const struct smp_entry *e)
{
	struct arena *arena = NULL;
	struct found *more;
	int rc = cli_attach(client, e, &arena);

	if (rc == FTMEM_ECORRUPT)
		return note_damage(s->view, site, e->rank);
	/* One that is not there any more was retired meanwhile. */
	if (rc == FTMEM_EINVAL || (!rc && !arena))
		return 0;
	if (rc)
		return rc;
	more = realloc(s->found, (s->count + 1) * sizeof(*more));
	if (!more) {
		arena_free(arena);
		return error_set(FTMEM_ENOMEM, "no memory for a list of arenas");
	}
	s->found = more;
	s->found[s->count++] = (struct found){.site = site, .arena = arena};
	return 0;
}

static int find_at(struct search *s, const struct cli_site *site)
{
	struct smp_client *client = NULL;
	struct smp_entry *entry = NULL;
	uint32_t count = 0;
	int rc = cli_connect(s->view->cli, site, &client);

	if (!rc)
		rc = smp_list(client, &entry, &count);
	for (uint32_t i = 0; !rc && i < count; i++)
		rc = find_arena(s, site, client, &entry[i]);
	free(entry);
	smp_close(client);
	return rc;
}

/* --- which version --- */

static bool complete(enum slot_state state)
{
	return state == SLOT_PREPARED || state == SLOT_COMMITTED;
}

static void consider(struct layout_view *v, bool *any, uint64_t epoch, bool committed,
                     struct stamp stamp)
{
	int order = (committed > v->committed) - (committed < v->committed);

	if (!order)
		order = stamp_cmp(stamp, v->stamp);
	if (!order)
		order = (epoch > v->epoch) - (epoch < v->epoch);
	if (*any && order <= 0)
		return;
	*any = true;
	v->epoch = epoch;
	v->stamp = stamp;
	v->committed = committed;
}

/* The newest complete version of an arena, as it is now. */
static void look(struct found *f, struct layout_view *v, bool *any)
{
	for (int i = 0; i < 2; i++) {
		struct stamp stamp;
		bool damaged;
		enum slot_state state = slot_read(&f->arena->slot[i], &stamp, &damaged);

		if (!complete(state))
			continue;
		if (!f->complete || stamp_cmp(stamp, f->newest) > 0)
			f->newest = stamp;
		f->complete = true;
		if (any)
			consider(v, any, f->arena->header->epoch, state == SLOT_COMMITTED, stamp);
	}
}

/*
 * The newest that is committed: what one rank committed all have. Only if there is none
 * the newest that is prepared. Ranks that were looked at before the others committed it
 * are looked at again; one that then has only older ones is a remnant.
 */
static int choose(struct search *s)
{
	struct layout_view *v = s->view;
	bool any = false;

	for (uint32_t i = 0; i < s->count; i++)
		look(&s->found[i], v, &any);
	for (uint32_t i = 0; v->committed && i < s->count; i++)
		for (int j = 0; j < TRIES && stamp_cmp(s->found[i].newest, v->stamp) < 0; j++)
			look(&s->found[i], v, NULL);
	return any ? 0 : error_set(FTMEM_FRESH, "no version is stored yet");
}

/* --- the layout of a rank --- */

/* A copy of the first blocks of the data, want bytes or more, each checked. */
static int read_blocks(const struct slot *s, uint64_t want, uint8_t *copy, uint64_t *have)
{
	const struct rail *r = &s->shape->rail[0];
	uint32_t member = s->shape->member[0];

	*have = 0;
	for (uint32_t chunk = 0; chunk < rail_k(r); chunk++) {
		for (uint32_t row = 0; row < rail_chunk_rows(r, member) && *have < want; row++) {
			uint32_t length = rail_data_len(r, member, chunk, row);
			uint64_t sum = slot_data_sum_index(s->shape, 0, member, chunk, row);

			if (!length)
				continue;
			memcpy(copy + *have, s->data + *have, length);
			if (checksum(copy + *have, length) != s->sums[sum])
				return error_set(FTMEM_ECORRUPT,
				                 "its layout is damaged: data chunk %" PRIu32
				                 ", block %" PRIu32 " does not match its checksum",
				                 chunk, row);
			*have += length;
		}
	}
	return 0;
}

/* How long a layout is stands in it: what proves too short is read again, longer. */
static int read_slot(const struct slot *s, struct layout **out)
{
	uint64_t data = s->shape->data_bytes, have = 0, want = BLOB_FIRST;
	bool parsed;
	int rc;

	do {
		uint64_t room = want + s->shape->rail[0].block_bytes;
		uint8_t *copy = malloc(room < data ? room : data + 1);

		if (!copy)
			return error_set(FTMEM_ENOMEM, "no memory for a layout");
		rc = read_blocks(s, want, copy, &have);
		parsed = !rc;
		if (parsed)
			rc = layout_parse(copy, have, out);
		free(copy);
		want *= 4;
	} while (rc == FTMEM_ECORRUPT && parsed && have < data && want <= BLOB_MAX);
	if (rc || (*out)->data_bytes == data)
		return rc;
	layout_free(*out);
	*out = NULL;
	return error_set(FTMEM_ECORRUPT, "its layout is not of the slot's size");
}

/* From whichever slot it is to be had: it is the same in all versions of an epoch. */
static int read_arena(const struct arena *a, struct layout **out)
{
	bool bad = false;

	for (int i = 0; i < 2 * TRIES; i++) {
		const struct slot *s = &a->slot[i % 2];
		struct stamp before, after;
		bool damaged;
		int rc;

		if (!complete(slot_read(s, &before, &damaged)))
			continue;
		rc = read_slot(s, out);
		if (complete(slot_read(s, &after, &damaged)) && !stamp_cmp(before, after)) {
			if (rc != FTMEM_ECORRUPT)
				return rc;
			bad = true;
		} else if (!rc) {
			layout_free(*out);
			*out = NULL;
		}
	}
	return bad ? FTMEM_ECORRUPT
	           : error_set(FTMEM_ECORRUPT, "its slots are rewritten faster than they can be "
	                                       "read, or damaged");
}

/* --- the job --- */

/* By rank, then the newest first: of an arena that a lost node brings back only the
 * one that took its place counts. */
static int compare_found(const void *a, const void *b)
{
	const struct found *x = a, *y = b;
	uint32_t p = x->arena->header->rank, q = y->arena->header->rank;

	return p != q ? (p > q) - (p < q) : stamp_cmp(y->newest, x->newest);
}

static bool counts(const struct search *s, uint32_t i)
{
	const struct layout_view *v = s->view;
	const struct found *f = &s->found[i];

	return f->complete && f->arena->header->epoch == v->epoch
	       && (!v->committed || stamp_cmp(f->newest, v->stamp) >= 0);
}

/* The map that names the nodes as they were last: of an arena that was made for a lost
 * rank, if there is one. */
static void take_map(struct search *s)
{
	struct arena *best;
	uint32_t i = 0;

	/* choose() took the epoch of one that counts. */
	while (!counts(s, i))
		i++;
	best = s->found[i].arena;
	for (; i < s->count; i++)
		if (counts(s, i) && s->found[i].arena->header->late && !best->header->late)
			best = s->found[i].arena;
	s->view->map = best->map;
	best->map = NULL;
}

static int hold(struct search *s, const struct found *f)
{
	struct layout_view *v = s->view;
	struct layout_held *h = &v->held[v->held_count];
	uint32_t rank = f->arena->header->rank;
	int rc;

	h->rank = rank;
	h->node = v->map->node_of_rank[rank];
	/* A node is called what it is called now. */
	memcpy(v->map->node[h->node].name, f->site->node, sizeof(f->site->node));
	rc = read_arena(f->arena, &h->layout);
	if (rc == FTMEM_ECORRUPT)
		return note_damage(v, f->site, rank);
	v->held_count += !rc;
	return rc;
}

static int hold_all(struct search *s)
{
	struct layout_view *v = s->view;
	uint32_t next = 0;
	int rc = 0;

	take_map(s);
	qsort(s->found, s->count, sizeof(*s->found), compare_found);
	v->held = calloc(s->count, sizeof(*v->held));
	if (!v->held)
		return error_set(FTMEM_ENOMEM, "no memory for a list of ranks");
	for (uint32_t i = 0; !rc && i < s->count; i++) {
		uint32_t rank = s->found[i].arena->header->rank;

		if (!counts(s, i) || rank < next || rank >= v->map->ranks)
			continue;
		next = rank + 1;
		rc = hold(s, &s->found[i]);
	}
	return rc;
}

static void tell_damage(const struct layout_view *v)
{
	for (uint32_t i = 0; i < v->damages; i++)
		fprintf(stderr, "ftmem: job %s on node %s: rank %" PRIu32 ": DAMAGED: %s\n",
		        v->damage[i].site->job, v->damage[i].site->node, v->damage[i].rank,
		        v->damage[i].text);
}

static int show(struct search *s)
{
	struct layout_view *v = s->view;
	int rc = choose(s);

	if (!rc)
		rc = hold_all(s);
	if (!rc)
		rc = layout_view_build(v);
	tell_damage(v);
	if (!rc && v->cli->region && !v->names)
		rc = error_set(FTMEM_FRESH, "no tensor or private region is called '%s'",
		               v->cli->region);
	if (rc) {
		fprintf(stderr, "ftmem: job %s: %s\n", v->cli->job, error_msg());
		return rc == FTMEM_EINVAL ? CLI_USAGE : CLI_FAILED;
	}
	if (v->cli->json)
		layout_print_json(v);
	else
		layout_print_text(v);
	/* A process that does not answer may be one whose ranks have moved on. */
	return v->damages || (s->failed && v->held_count < v->map->ranks) ? CLI_FAILED : CLI_OK;
}

int cli_layout(const struct cli *cli)
{
	struct layout_view view = {.cli = cli};
	struct search search = {.view = &view};
	struct cli_site *sites = NULL;
	uint32_t count = 0;
	int status = CLI_FAILED;

	if (cli_sites(cli, &sites, &count))
		return cli_fail(NULL);
	for (uint32_t i = 0; i < count; i++)
		if (find_at(&search, &sites[i])) {
			cli_fail(&sites[i]);
			search.failed = true;
		}
	if (!count)
		status = cli_no_job(cli);
	else if (search.count || !search.failed)
		status = show(&search);
	for (uint32_t i = 0; i < search.count; i++)
		arena_free(search.found[i].arena);
	free(search.found);
	layout_view_deinit(&view);
	free(sites);
	return status;
}
