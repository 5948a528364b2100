/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdio.h>

#include "error.h"
#include "restore_impl.h"

static void list_ranks(const struct rescue *r, bool lost, char *text, size_t bytes)
{
	text[0] = '\0';
	for (uint32_t i = 0; i < r->ranks; i++)
		if (r->lost[i] == lost)
			rescue_list_rank(r->epoch->map, i, text, bytes);
}

/* A newer version was committed, but too much of it is missing. */
static void warn_newer(const struct rescue *r)
{
	struct stamp newest = r->choice.stamp;

	for (uint32_t i = 0; i < r->gather->arenas; i++)
		for (int j = 0; j < 2; j++) {
			const struct commit_slot *s = &r->gather->arena[i].slot[j];

			if (s->state == SLOT_COMMITTED && stamp_cmp(s->stamp, newest) > 0)
				newest = s->stamp;
		}
	if (stamp_cmp(newest, r->choice.stamp) > 0)
		log_line(&r->ft->opts.log, FTMEM_LOG_WARN,
		         "version %" PRIu64 " was committed, but too much "
		         "of it is missing or damaged: going back to version %" PRIu64,
		         newest.version, r->choice.stamp.version);
}

void restore_tell_found(const struct rescue *r)
{
	char lost[512];
	uint32_t count = 0;

	for (uint32_t i = 0; i < r->ranks; i++)
		count += r->lost[i];
	if (r->ft->net->rank != 0)
		return;
	list_ranks(r, true, lost, sizeof(lost));
	warn_newer(r);
	log_line(&r->ft->opts.log, FTMEM_LOG_INFO,
	         "version %" PRIu64 " found, held by %" PRIu32 " of %" PRIu32 " ranks%s%s",
	         r->choice.stamp.version, r->ranks - count, r->ranks, count ? "; lost: rank " : "",
	         lost);
}

void restore_tell_rebuilt(const struct rescue *r, const struct rebuild_report *report,
                          double seconds)
{
	const struct arena *a = r->ft->epoch->arena;
	const struct map *map = r->ft->map;
	char from[512] = "";

	if (report->data_bytes + report->parity_bytes == 0)
		return;
	for (uint32_t i = 0; r->in_place && i < a->rails[0].n; i++)
		if (!r->lost[a->rails[0].rank[i]])
			rescue_list_rank(map, a->rails[0].rank[i], from, sizeof(from));
	log_line(&r->ft->opts.log, FTMEM_LOG_INFO,
	         "rank %" PRIu32 " on %s: rebuilt %.1f MiB of %sdata and "
	         "%.1f MiB of parity%s%s in %.3f s",
	         r->ft->net->rank, r->ft->opts.node, (double)report->data_bytes / 1048576.0,
	         r->in_place ? "" : "former ranks' ", (double)report->parity_bytes / 1048576.0,
	         from[0] ? " from ranks " : "", from, seconds);
}

void restore_tell_whole(const struct ftmem *ft, uint64_t version, double seconds)
{
	if (ft->net->rank == 0 && ft->map->parity > 0)
		log_line(&ft->opts.log, FTMEM_LOG_INFO,
		         "version %" PRIu64 " is committed on %" PRIu32
		         " nodes, redundancy is whole (%.3f s)",
		         version, ft->map->nodes, seconds);
	else if (ft->net->rank == 0)
		log_line(&ft->opts.log, FTMEM_LOG_INFO,
		         "version %" PRIu64 " is committed on one node, without parity (%.3f s)",
		         version, seconds);
}
