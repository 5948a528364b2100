/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ftmem_stored(): gathers and chooses as ftmem_restore() does, looks into the layouts that
 * come with the chosen version, and lets go of all again.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"
#include "gather.h"
#include "layout.h"

/* What all ranks take the largest of: whether they ask for the same shows in a digest and its
 * complement. */
enum { WORD_BYTES, WORD_ASKED, WORD_ASKED_NOT, WORDS };

static uint64_t largest_of(const struct layout *l, const char *name)
{
	uint64_t most = 0;

	for (uint32_t i = 0; i < l->regions; i++)
		if (strcmp(l->region[i].name, name) == 0 && l->region[i].bytes > most)
			most = l->region[i].bytes;
	return most;
}

/* Adds what one old rank stored. Its layout counts only if it is the one that was sealed: what
 * is damaged ftmem_restore() rebuilds, as what is lost. ENOMEM. */
static int look_into(struct ftmem *ft, const struct arena *a, const struct slot *slot,
                     const char *name, uint64_t *most)
{
	struct layout *l = NULL;
	int rc = layout_parse(slot->data, slot->shape->data_bytes, &l);
	uint64_t bytes = rc == 0 ? largest_of(l, name) : 0;

	if (rc == 0 && (l->digest != a->header->layout ||
	                l->data_bytes != slot->shape->data_bytes))
		rc = error_set(FTMEM_ECORRUPT, "stored layout: not the one that was sealed");
	layout_free(l);
	if (rc == FTMEM_ECORRUPT) {
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "%s: what rank %" PRIu32 " stored is passed over", error_msg(),
		         a->header->rank);
		return 0;
	}
	if (rc == 0 && bytes > *most)
		*most = bytes;
	return rc;
}

/* Of the old ranks whose memory this rank attached. */
static int look(const struct gather *g, uint32_t epoch_index, const struct recover_source *source,
                const char *name, uint64_t *most)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < g->epoch[epoch_index].map->ranks; i++) {
		struct arena *a;
		const struct slot *slot = gather_slot(g, &source[i], &a);

		if (slot)
			rc = look_into(g->ft, a, slot, name, most);
	}
	return rc;
}

static uint64_t digest_of(const char *name)
{
	return name ? digest_more(DIGEST_INIT, name, strlen(name) + 1) : 0;
}

/* rc: of choosing, the same on all ranks. */
static int ask(struct ftmem *ft, const struct gather *g, uint32_t epoch_index,
               const struct recover_source *source, const char *name, uint64_t *bytes)
{
	uint64_t words[WORDS] = {[WORD_ASKED] = digest_of(name)};
	int rc = name ? look(g, epoch_index, source, name, &words[WORD_BYTES]) : 0;

	words[WORD_ASKED_NOT] = ~words[WORD_ASKED];
	rc = session_agree(ft, rc, "looking for what is stored");
	if (rc == 0)
		rc = net_allreduce(ft->net, words, WORDS, NET_MAX, session_deadline(ft),
		                   "looking for what is stored");
	if (rc < 0)
		return rc;
	if (words[WORD_ASKED] != ~words[WORD_ASKED_NOT])
		return error_set(FTMEM_EINVAL,
		                 "ftmem_stored: ranks ask for different regions, this one for "
		                 "\"%.255s\"",
		                 name ? name : "");
	*bytes = words[WORD_BYTES];
	return 0;
}

int session_stored(struct ftmem *ft, const char *region, uint64_t *version, uint64_t *bytes)
{
	struct recover_source *source = NULL;
	struct recover_choice choice = {0};
	struct gather *g = NULL;
	uint64_t most = 0;
	uint32_t index = 0;
	int rc = session_pause(ft);

	if (rc < 0)
		return rc;
	rc = session_agree(ft, keeper_ensure(&ft->keeper), "reaching the SMP");
	if (rc == 0)
		rc = gather_new(ft, &g);
	if (rc == 0)
		rc = gather_choose(g, NULL, &choice, &index, &source);
	if (rc == 0)
		rc = ask(ft, g, index, source, region, &most);
	free(source);
	gather_free(g);
	rc = session_resume(ft, rc);
	if (rc == 0)
		*version = choice.stamp.version;
	if (rc == 0 && region)
		*bytes = most;
	return rc;
}
