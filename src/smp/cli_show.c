/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "error.h"
#include "smp/cli.h"

#define SECOND UINT64_C(1000000000)

/* What one SMP told. */
struct report {
	const struct cli_site *site;
	struct smp_info info;
	struct smp_entry *entry;
	uint32_t count;
	uint64_t now_ns; /* CLOCK_REALTIME */
};

static uint64_t since_ns(const struct report *r, uint64_t then)
{
	return then && then < r->now_ns ? r->now_ns - then : 0;
}

static bool has_version(enum slot_state state)
{
	return state == SLOT_FILLING || state == SLOT_PREPARED || state == SLOT_COMMITTED;
}

/* What the scrubber says of a slot, behind its version. */
static void check_text(const struct report *r, const struct wire_check *check, char text[48])
{
	char age[CLI_TEXT];

	if (check->bad)
		snprintf(text, 48, ", %" PRIu64 " blocks DAMAGED", check->bad);
	else if (check->checked_ns)
		snprintf(text, 48, ", checked %s ago",
		         cli_seconds(since_ns(r, check->checked_ns) / SECOND, age));
	else
		text[0] = '\0';
}

static void print_slot(const struct report *r, const struct smp_entry *e, int i)
{
	const struct commit_slot *slot = &e->slot[i];
	char text[128], age[CLI_TEXT], check[48];

	check_text(r, &e->check[i], check);
	if (e->check[i].damage)
		snprintf(text, sizeof(text), "DAMAGED: %s", wire_damage_text(e->check[i].damage));
	else if (slot->state == SLOT_FILLING)
		snprintf(text, sizeof(text), "filling %" PRIu64, slot->stamp.version);
	else if (has_version(slot->state))
		snprintf(text, sizeof(text), "%s %" PRIu64 ", %s ago%s", cli_state(slot->state),
		         slot->stamp.version,
		         cli_seconds(since_ns(r, e->filled_ns[i]) / SECOND, age), check);
	else
		snprintf(text, sizeof(text), "%s", cli_state(slot->state));
	printf(i ? "  %s\n" : "  %-40s", text);
}

static void print_damage(const struct smp_entry *e)
{
	char text[WIRE_BLOCK_TEXT];

	if (e->damage)
		printf("          DAMAGED: %s of the arena\n", wire_damage_text(e->damage));
	for (int i = 0; i < 2; i++) {
		const struct wire_check *c = &e->check[i];

		for (uint32_t n = 0; n < c->named; n++)
			printf("          slot %d: %s\n", i, wire_block_text(&c->block[n], text));
		if (c->bad > c->named)
			printf("          slot %d: %" PRIu64 " more\n", i, c->bad - c->named);
	}
}

static void print_entry(const struct report *r, const struct smp_entry *e)
{
	char bytes[CLI_TEXT], holder[CLI_TEXT] = "-";

	if (e->owner)
		snprintf(holder, sizeof(holder), "%" PRId32, e->owner);
	printf("  %6" PRIu32 "  %19" PRIu64 "  %10s  %8s", e->rank, e->epoch,
	       cli_bytes(e->bytes, bytes), holder);
	print_slot(r, e, 0);
	print_slot(r, e, 1);
	print_damage(e);
}

/* How far the scrubber is with what is committed. */
static void print_scrub(const struct report *r)
{
	uint64_t done = 0, all = 0;
	char bytes[CLI_TEXT];

	if (!r->info.scrub_mib_s) {
		printf("  not looked at for damage: the rate is 0\n");
		return;
	}
	for (uint32_t n = 0; n < r->count; n++)
		for (int i = 0; i < 2; i++) {
			const struct wire_check *c = &r->entry[n].check[i];
			uint64_t size = c->bytes ? c->bytes : r->entry[n].bytes / 2;

			if (r->entry[n].slot[i].state != SLOT_COMMITTED)
				continue;
			all += size;
			done += c->checked_ns ? size : c->done;
		}
	printf("  looked at for damage: %.0f%% of %s committed, at %" PRIu32 " MiB/s\n",
	       all ? 100.0 * (double)done / (double)all : 100.0, cli_bytes(all, bytes),
	       r->info.scrub_mib_s);
}

static void print_report(const struct report *r)
{
	char bytes[CLI_TEXT], up[CLI_TEXT], left[CLI_TEXT];
	const struct smp_info *i = &r->info;

	printf("job %s on node %s: process %" PRId32 ", up %s, holds %s, ", r->site->job,
	       r->site->node, i->pid, cli_seconds(since_ns(r, i->started_ns) / SECOND, up),
	       cli_bytes(i->bytes, bytes));
	if (i->clients)
		printf("%" PRIu32 " ranks connected\n", i->clients);
	else
		printf("no rank connected, expires in %s\n",
		       cli_seconds(i->expire_s > i->idle_s ? i->expire_s - i->idle_s : 0, left));
	if (r->count) {
		print_scrub(r);
		printf("    RANK  %19s       BYTES    HOLDER  %-40s  %s\n", "EPOCH", "SLOT 0",
		       "SLOT 1");
	}
	for (uint32_t e = 0; e < r->count; e++)
		print_entry(r, &r->entry[e]);
}

static void json_check(const struct report *r, const struct wire_check *c)
{
	if (c->damage)
		printf(",\"damaged\":\"%s\"", wire_damage_text(c->damage));
	if (c->checked_ns)
		printf(",\"checked_age_s\":%.3f",
		       (double)since_ns(r, c->checked_ns) / (double)SECOND);
	printf(",\"damaged_blocks\":%" PRIu64 ",\"damage\":[", c->bad);
	for (uint32_t i = 0; i < c->named; i++)
		printf("%s{\"rail\":%" PRIu32 ",\"parity\":%s,\"index\":%" PRIu32
		       ",\"row\":%" PRIu32 "}",
		       i ? "," : "", c->block[i].rail, c->block[i].parity ? "true" : "false",
		       c->block[i].index, c->block[i].row);
	printf("]");
}

static void json_slot(const struct report *r, const struct smp_entry *e, int i)
{
	const struct commit_slot *slot = &e->slot[i];

	printf("{\"state\":\"%s\"", cli_state(slot->state));
	if (has_version(slot->state))
		printf(",\"version\":%" PRIu64, slot->stamp.version);
	if (slot->state == SLOT_PREPARED || slot->state == SLOT_COMMITTED)
		printf(",\"incarnation\":%" PRIu64 ",\"age_s\":%.3f", slot->stamp.incarnation,
		       (double)since_ns(r, e->filled_ns[i]) / (double)SECOND);
	if (e->check[i].damage || slot->state == SLOT_COMMITTED)
		json_check(r, &e->check[i]);
	printf("}%s", i ? "" : ",");
}

static void json_report(const struct report *r)
{
	const struct smp_info *i = &r->info;

	printf("\"pid\":%" PRId32 ",\"uptime_s\":%.3f,\"bytes\":%" PRIu64 ",\"clients\":%" PRIu32
	       ",\"expire_s\":%" PRIu32 ",\"idle_s\":%" PRIu32 ",\"scrub_mib_s\":%" PRIu32
	       ",\"arenas\":[",
	       i->pid, (double)since_ns(r, i->started_ns) / (double)SECOND, i->bytes, i->clients,
	       i->expire_s, i->idle_s, i->scrub_mib_s);
	for (uint32_t n = 0; n < r->count; n++) {
		const struct smp_entry *e = &r->entry[n];

		printf("%s\n  {\"rank\":%" PRIu32 ",\"epoch\":%" PRIu64 ",\"bytes\":%" PRIu64
		       ",\"holder\":%" PRId32 ",",
		       n ? "," : "", e->rank, e->epoch, e->bytes, e->owner);
		if (e->damage)
			printf("\"damaged\":\"%s\",", wire_damage_text(e->damage));
		printf("\"slots\":[");
		json_slot(r, e, 0);
		json_slot(r, e, 1);
		printf("]}");
	}
	printf("]");
}

static int ask(const struct cli *cli, struct report *r)
{
	struct smp_client *client = NULL;
	struct timespec now;
	int rc = cli_connect(cli, r->site, &client);

	if (!rc)
		rc = smp_info(client, &r->info);
	if (!rc)
		rc = smp_list(client, &r->entry, &r->count);
	clock_gettime(CLOCK_REALTIME, &now);
	r->now_ns = (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
	smp_close(client);
	return rc;
}

static int show_site(const struct cli *cli, const struct cli_site *site, bool first)
{
	struct report r = {.site = site};
	int rc = ask(cli, &r);

	if (cli->json) {
		printf("%s\n {\"job\":\"%s\",\"node\":\"%s\",", first ? "" : ",", site->job,
		       site->node);
		if (rc) {
			printf("\"error\":");
			cli_json_text(error_msg());
		} else {
			json_report(&r);
		}
		printf("}");
	} else if (!rc) {
		print_report(&r);
	}
	if (rc)
		cli_fail(site);
	free(r.entry);
	return rc ? CLI_FAILED : CLI_OK;
}

int cli_show(const struct cli *cli)
{
	struct cli_site *sites = NULL;
	uint32_t count = 0;
	int rc = cli_sites(cli, &sites, &count) ? cli_fail(NULL) : CLI_OK;

	if (cli->json)
		printf("{\"jobs\":[");
	for (uint32_t i = 0; i < count; i++)
		if (show_site(cli, &sites[i], i == 0))
			rc = CLI_FAILED;
	if (cli->json)
		printf("]}\n");
	free(sites);
	if (!rc && !count && cli->job)
		return cli_no_job(cli);
	if (!rc && !count && !cli->json)
		printf("no jobs in %s\n", cli->dir);
	return rc;
}
