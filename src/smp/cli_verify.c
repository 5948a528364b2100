/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "smp/cli.h"

/* A slot that is rewritten while it is checked is checked again so often. */
#define TRIES     3
/* Damaged blocks that are named of a slot; the others are only counted. */
#define NAMED_MAX 10u

struct tally {
	uint64_t slots, damaged;
};

struct naming {
	uint32_t named;
	char text[NAMED_MAX][64];
};

static void name_block(void *arg, uint32_t rail, bool parity, uint32_t index, uint32_t row)
{
	struct naming *n = arg;

	if (n->named < NAMED_MAX)
		snprintf(n->text[n->named++], sizeof(n->text[0]),
		         "%s %" PRIu32 " of rail %" PRIu32 ", block %" PRIu32,
		         parity ? "parity row" : "data chunk", index, rail, row);
}

/* What was found in one slot. */
struct finding {
	enum slot_state state;
	struct stamp stamp;
	bool damaged;    /* its header or tables are */
	bool unsteady;   /* it was rewritten all the while */
	uint64_t blocks; /* damaged ones */
	struct naming naming;
};

static void check(const struct slot *slot, struct finding *f)
{
	for (int i = 0; i < TRIES; i++) {
		struct stamp after;
		enum slot_state state;
		bool damaged;

		memset(f, 0, sizeof(*f));
		f->state = slot_read(slot, &f->stamp, &f->damaged);
		if (f->state != SLOT_PREPARED && f->state != SLOT_COMMITTED)
			return;
		f->blocks = slot_verify(slot, name_block, &f->naming);
		state = slot_read(slot, &after, &damaged);
		if ((state == SLOT_PREPARED || state == SLOT_COMMITTED) && !damaged
		    && stamp_cmp(after, f->stamp) == 0)
			return;
	}
	f->unsteady = true;
}

static void print_finding(const struct smp_entry *e, int i, const struct finding *f)
{
	printf("  rank %" PRIu32 ", epoch %" PRIu64 ", slot %d: ", e->rank, e->epoch, i);
	if (f->unsteady)
		printf("rewritten while being checked\n");
	else if (f->damaged)
		printf("DAMAGED: header or checksums\n");
	else if (f->state != SLOT_PREPARED && f->state != SLOT_COMMITTED)
		printf("%s\n", cli_state(f->state));
	else if (f->blocks)
		printf("version %" PRIu64 " DAMAGED: %" PRIu64 " blocks\n", f->stamp.version,
		       f->blocks);
	else
		printf("version %" PRIu64 " good\n", f->stamp.version);
	for (uint32_t n = 0; f->blocks && !f->unsteady && n < f->naming.named; n++)
		printf("    %s\n", f->naming.text[n]);
}

static int verify_entry(struct smp_client *client, const struct smp_entry *e, struct tally *tally)
{
	struct arena *arena = NULL;
	struct finding f;
	int rc = cli_attach(client, e, &arena);

	if (!rc && !arena) {
		printf("  rank %" PRIu32 ", epoch %" PRIu64 ": not written yet\n", e->rank,
		       e->epoch);
		return 0;
	}
	if (rc == FTMEM_ECORRUPT) {
		printf("  rank %" PRIu32 ", epoch %" PRIu64 ": DAMAGED: %s\n", e->rank, e->epoch,
		       error_msg());
		tally->damaged++;
		return 0;
	}
	if (rc)
		return rc;
	if (arena->header->rank != e->rank || arena->header->epoch != e->epoch) {
		printf("  rank %" PRIu32 ", epoch %" PRIu64
		       ": DAMAGED: it says it is of rank %" PRIu32 ", epoch %" PRIu64 "\n",
		       e->rank, e->epoch, arena->header->rank, arena->header->epoch);
		tally->damaged++;
	}
	for (int i = 0; i < 2; i++) {
		check(&arena->slot[i], &f);
		print_finding(e, i, &f);
		tally->slots += !f.unsteady && !f.damaged
		                && (f.state == SLOT_PREPARED || f.state == SLOT_COMMITTED);
		tally->damaged += !f.unsteady && (f.damaged || f.blocks);
	}
	arena_free(arena);
	return 0;
}

static int verify_site(const struct cli *cli, const struct cli_site *site, struct tally *tally)
{
	struct smp_client *client = NULL;
	struct smp_entry *entry = NULL;
	uint32_t count = 0;
	int rc = cli_connect(cli, site, &client);

	if (!rc)
		rc = smp_list(client, &entry, &count);
	if (!rc)
		printf("job %s on node %s:\n", site->job, site->node);
	for (uint32_t i = 0; !rc && i < count; i++)
		rc = verify_entry(client, &entry[i], tally);
	free(entry);
	smp_close(client);
	return rc;
}

int cli_verify(const struct cli *cli)
{
	struct cli_site *sites = NULL;
	struct tally tally = {0};
	uint32_t count = 0;
	int status = CLI_OK;

	if (cli_sites(cli, &sites, &count))
		return cli_fail(NULL);
	for (uint32_t i = 0; i < count; i++)
		if (verify_site(cli, &sites[i], &tally))
			status = cli_fail(&sites[i]);
	free(sites);
	if (!count)
		return cli_no_job(cli);
	printf("%" PRIu64 " snapshots checked, %" PRIu64 " damaged\n", tally.slots, tally.damaged);
	return tally.damaged ? CLI_FAILED : status;
}
