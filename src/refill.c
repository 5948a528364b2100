/* SPDX-License-Identifier: BSD-3-Clause */
#include "refill.h"

#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "layout.h"

/* Nobody else stores any of what this rank registered. */
static bool stores_all(const struct layout *l)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < l->pieces; i++)
		bytes += l->piece[i].bytes;
	return bytes == l->region_bytes;
}

static bool fits_here(const struct rescue *r)
{
	const struct epoch *e = r->ft->epoch;
	const struct rescue_member *m = r->member;

	return r->members == 1 && m->rank == r->ft->net->rank && stores_all(e->layout) &&
	       (m->lost || m->slot == &e->arena->slot[0] || m->slot == &e->arena->slot[1]);
}

int refill_fits(struct rescue *r, bool *fits)
{
	uint64_t word = fits_here(r);
	int rc = 0;

	*fits = false;
	/* The way back from damage may lead to another epoch, whose version leaves some
	 * private regions as they are: nothing may have been written into them. */
	if (!r->in_place || r->gather->epochs > 1)
		return 0;
	rc = net_allreduce(r->ft->net, &word, 1, NET_MIN, session_deadline(r->ft), "restoring");
	*fits = rc == 0 && word == 1;
	return rc;
}

/* --- the pass --- */

static void on_landed(void *arg, uint32_t rows)
{
	struct ftmem *ft = arg;
	const struct epoch *e = ft->epoch;
	uint32_t own = rail_chunk_rows(epoch_rail(e), epoch_member(e));

	ft->copy_ops->fill_more(ft->copy, (rows < own ? rows : own) * rail_k(epoch_rail(e)));
}

/* The version was snapshotted with the layout that is sealed. */
static bool same_layout(const struct epoch *e, const struct slot *slot)
{
	return e->layout->blob_bytes == 0 ||
	       memcmp(slot->data, e->layout->blob, e->layout->blob_bytes) == 0;
}

/* *damaged: blocks that this rank met. */
static int fill_and_rebuild(struct rescue *r, struct refill_report *report, uint64_t *damaged)
{
	struct ftmem *ft = r->ft;
	const struct epoch *e = ft->epoch;
	const struct rescue_member *m = &r->member[0];
	const struct copy_fill fill = {e->plan, m->slot->data, epoch_own_sums(e, m->slot)};
	const struct rebuild_pass pass = {m->lost ? on_landed : NULL, ft};
	uint64_t begin = clock_ns();
	int rc, fill_rc = ft->copy_ops->fill(ft->copy, &fill, m->lost ? 0 : e->plan->blocks);
	bool begun = fill_rc == 0;
	char cause[ERROR_MSG_MAX];

	*damaged = 0;
	snprintf(cause, sizeof(cause), "%s", error_msg());
	if (!begun)
		log_line(&ft->opts.log, FTMEM_LOG_ERROR, "%s", cause);
	/* Also a rank that cannot fill serves the others. */
	rc = rescue_rebuild(r, &pass, &report->rebuilt);
	if (rc < 0)
		snprintf(cause, sizeof(cause), "%s", error_msg());
	if (begun) {
		fill_rc = ft->copy_ops->fill_end(ft->copy, damaged);
		if (fill_rc < 0)
			log_line(&ft->opts.log, FTMEM_LOG_ERROR, "%s", error_msg());
	}
	/* The message is that of the result. */
	if (rc < 0 || !begun)
		error_set(rc < 0 ? rc : fill_rc, "%s", cause);
	report->seconds = (double)(clock_ns() - begin) * 1e-9;
	if (rc == 0)
		rc = session_agree_late(ft, fill_rc, r->busiest, "filling the regions");
	*damaged += report->rebuilt.damaged_blocks;
	*damaged += rc == 0 && *damaged == 0 && !same_layout(e, m->slot);
	return rc;
}

int refill_run(struct rescue *r, struct refill_report *report, bool *whole)
{
	struct ftmem *ft = r->ft;
	uint64_t damaged = 0;
	int rc = rescue_prepare(r, true);

	*whole = false;
	*report = (struct refill_report){0};
	if (rc < 0)
		return rc;
	/* From here on they hold neither what they held nor what they shall. */
	ft->must_restore = true;
	rc = fill_and_rebuild(r, report, &damaged);
	if (rc == 0)
		rc = net_allreduce(ft->net, &damaged, 1, NET_SUM, session_deadline(ft),
		                   "restoring");
	if (rc < 0 || damaged > 0)
		return rc;
	*whole = true;
	return rescue_hold(r);
}
