/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "smp/cli_layout_impl.h"

/* Columns are as wide as what is in them, up to this. */
#define WIDTH_MAX 80
#define SHAPE_TEXT (FTMEM_MAX_DIMS * 22 + 3)

/* Names may hold anything, also what a terminal would obey. */
static const char *plain(const char *name, char text[FTMEM_REGION_NAME_MAX + 1])
{
	size_t i;

	for (i = 0; i < FTMEM_REGION_NAME_MAX && name[i]; i++)
		text[i] = (unsigned char)name[i] < 0x20 || name[i] == 0x7f ? '?' : name[i];
	text[i] = '\0';
	return text;
}

static const char *shape_text(const struct region *r, char text[SHAPE_TEXT])
{
	size_t at = 0;

	if (!r->box.ndim)
		return "private";
	for (uint32_t d = 0; d < r->box.ndim; d++)
		at += (size_t)snprintf(text + at, SHAPE_TEXT - at, "%s%" PRIu64, d ? ", " : "[",
		                       r->shape[d]);
	snprintf(text + at, SHAPE_TEXT - at, "]");
	return text;
}

/* Prints ranks in ascending order as "0-3, 7". */
struct ranks {
	uint32_t first, last;
	bool any, printed;
};

static void ranks_flush(struct ranks *r)
{
	if (!r->any)
		return;
	printf("%s%" PRIu32, r->printed ? ", " : "", r->first);
	if (r->last > r->first)
		printf("-%" PRIu32, r->last);
	r->printed = true;
	r->any = false;
}

static void ranks_add(struct ranks *r, uint32_t rank)
{
	if (r->any && rank == r->last + 1) {
		r->last = rank;
		return;
	}
	ranks_flush(r);
	r->first = rank;
	r->last = rank;
	r->any = true;
}

static bool registered_by(const struct layout_name *n, const struct layout_held *held)
{
	for (size_t i = 0; i < n->boxes; i++)
		if (n->box[i].held == held)
			return true;
	return false;
}

static void print_ranks(const struct layout_view *v, const struct layout_name *n)
{
	struct ranks ranks = {0};

	for (uint32_t i = 0; i < v->held_count; i++)
		if (registered_by(n, &v->held[i]))
			ranks_add(&ranks, v->held[i].rank);
	ranks_flush(&ranks);
}

static const char *word(uint64_t count, const char *one, const char *many)
{
	return count == 1 ? one : many;
}

/* --- the job --- */

static void print_group(const struct layout_view *v, uint32_t g)
{
	const struct map *m = v->map;
	const struct map_group *group = &m->group[g];

	printf("  group %" PRIu32 ": ", g);
	for (uint32_t i = 0; i < group->nodes; i++)
		printf("%s%s", i ? ", " : "", m->node[m->member[group->offset + i]].name);
	if (m->parity)
		printf("; any %" PRIu32 " of the %" PRIu32 " may be lost\n", m->parity,
		       group->nodes);
	else
		printf("; no other node protects it\n");
}

static bool group_is_here(const struct layout_view *v, uint32_t g)
{
	for (uint32_t i = 0; i < v->held_count; i++)
		if (v->map->node[v->held[i].node].group == g)
			return true;
	return false;
}

static void print_job(const struct layout_view *v)
{
	const struct map *m = v->map;
	struct ranks ranks = {0};
	uint32_t others = 0;

	printf("job %s: version %" PRIu64 " %s, epoch %" PRIu64 "\n", v->cli->job,
	       v->stamp.version, cli_state(v->committed ? SLOT_COMMITTED : SLOT_PREPARED),
	       v->epoch);
	printf("  %" PRIu32 " %s on %" PRIu32 " %s", m->ranks, word(m->ranks, "rank", "ranks"),
	       m->nodes, word(m->nodes, "node", "nodes"));
	if (v->held_count < m->ranks) {
		printf("; held here: %s", v->held_count ? "" : "none");
		for (uint32_t i = 0; i < v->held_count; i++)
			ranks_add(&ranks, v->held[i].rank);
		ranks_flush(&ranks);
	}
	printf("\n");
	for (uint32_t g = 0; g < m->groups; g++) {
		if (group_is_here(v, g))
			print_group(v, g);
		else
			others++;
	}
	if (others)
		printf("  %" PRIu32 " other %s: any %" PRIu32 " of the nodes of each may be lost\n",
		       others, word(others, "group", "groups"), m->parity);
}

static void print_total(const struct layout_view *v)
{
	char registered[CLI_TEXT], stored[CLI_TEXT];

	printf("%" PRIu32 " %s registered %s and %s %s", v->held_count,
	       word(v->held_count, "rank", "ranks"), cli_bytes(v->registered, registered),
	       word(v->held_count, "stores", "store"), cli_bytes(v->stored, stored));
	if (v->registered)
		printf(", %.1f%%", 100 * (double)v->stored / (double)v->registered);
	printf("\n");
}

/* --- tensors --- */

struct widths {
	int name, shape;
};

static void widen(int *width, const char *text)
{
	size_t length = strlen(text);

	if (length > WIDTH_MAX)
		length = WIDTH_MAX;
	if ((int)length > *width)
		*width = (int)length;
}

static void print_line(const struct layout_view *v, const struct layout_name *n,
                       const struct widths *w)
{
	char name[FTMEM_REGION_NAME_MAX + 1], shape[SHAPE_TEXT], elem[16] = "-";
	char bytes[CLI_TEXT], stored[CLI_TEXT];

	if (!n->private)
		snprintf(elem, sizeof(elem), "%" PRIu32, n->region->elem_bytes);
	printf("  %-*s  %-*s  %4s  %10s  %10s  %5zu  ", w->name, plain(n->region->name, name),
	       w->shape, shape_text(n->region, shape), elem, cli_bytes(n->bytes, bytes),
	       cli_bytes(n->stored, stored), n->distinct);
	print_ranks(v, n);
	printf("\n");
}

static void print_table(const struct layout_view *v)
{
	char name[FTMEM_REGION_NAME_MAX + 1], shape[SHAPE_TEXT];
	struct widths w = {4, 5};

	for (size_t i = 0; i < v->names; i++) {
		widen(&w.name, plain(v->name[i].region->name, name));
		widen(&w.shape, shape_text(v->name[i].region, shape));
	}
	if (v->names)
		printf("  %-*s  %-*s  ELEM  %10s  %10s  BOXES  RANKS\n", w.name, "NAME", w.shape,
		       "SHAPE", "BYTES", "STORED");
	for (size_t i = 0; i < v->names; i++)
		print_line(v, &v->name[i], &w);
}

static void print_private(const struct layout_view *v, const struct layout_name *n)
{
	char name[FTMEM_REGION_NAME_MAX + 1], bytes[CLI_TEXT];

	printf("%s: private, %s\n", plain(n->region->name, name), cli_bytes(n->bytes, bytes));
	for (size_t i = 0; i < n->boxes; i++)
		printf("  of rank %" PRIu32 " on %s: %s\n", n->box[i].held->rank,
		       layout_node(v, n->box[i].held), cli_bytes(n->box[i].bytes, bytes));
}

static void print_tensor(const struct layout_view *v, const struct layout_name *n)
{
	char name[FTMEM_REGION_NAME_MAX + 1], shape[SHAPE_TEXT], box[BOX_TEXT], bytes[CLI_TEXT];

	printf("%s: %s of %" PRIu32 "-byte elements, %s\n", plain(n->region->name, name),
	       shape_text(n->region, shape), n->region->elem_bytes, cli_bytes(n->bytes, bytes));
	for (size_t i = 0, end; i < n->boxes; i = end) {
		struct ranks ranks = {0};

		end = layout_same_box(n, i);
		printf("  box %s, %s, of %s ", box_text(n->box[i].box, box),
		       cli_bytes(n->box[i].bytes, bytes), word(end - i, "rank", "ranks"));
		for (size_t j = i; j < end; j++)
			ranks_add(&ranks, n->box[j].held->rank);
		ranks_flush(&ranks);
		printf("\n");
	}
	for (size_t i = 0; i < n->shares; i++)
		printf("  rank %" PRIu32 " on %s stores %s, %s\n", n->share[i].held->rank,
		       layout_node(v, n->share[i].held), box_text(n->share[i].box, box),
		       cli_bytes(n->share[i].bytes, bytes));
}

static void print_details(const struct layout_view *v)
{
	for (size_t i = 0; i < v->names; i++) {
		if (v->name[i].private)
			print_private(v, &v->name[i]);
		else
			print_tensor(v, &v->name[i]);
	}
}

/* --- what would be lost --- */

static void print_lost_groups(const struct layout_view *v)
{
	const struct map *m = v->map;

	for (uint32_t g = 0; g < m->groups; g++) {
		uint32_t lost = v->group_lost[g];

		if (!lost)
			continue;
		printf("  group %" PRIu32 " loses %" PRIu32 " of %" PRIu32 " nodes, parity covers "
		       "%" PRIu32, g, lost, m->group[g].nodes, m->parity);
		if (layout_group_fails(v, g))
			printf(": %" PRIu32 " too many", lost - m->parity);
		printf("\n");
	}
}

static void print_lost_names(const struct layout_view *v)
{
	uint32_t unknown = layout_unknown_lost(v);

	for (size_t i = 0; i < v->names; i++) {
		char name[FTMEM_REGION_NAME_MAX + 1], lost[CLI_TEXT], bytes[CLI_TEXT];
		const struct layout_name *n = &v->name[i];
		uint64_t gone = layout_name_lost(v, n);

		if (gone)
			printf("  %s%s: %s of %s\n", n->private ? "private " : "",
			       plain(n->region->name, name), cli_bytes(gone, lost),
			       cli_bytes(n->bytes, bytes));
	}
	if (unknown)
		printf("  and what %" PRIu32 " %s stored that %s not held here\n", unknown,
		       word(unknown, "rank", "ranks"), word(unknown, "is", "are"));
}

static void print_loss(const struct layout_view *v)
{
	bool first = true;

	printf("without ");
	for (uint32_t i = 0; i < v->map->nodes; i++) {
		if (!v->lost[i])
			continue;
		printf("%s%s", first ? "" : ", ", v->map->node[i].name);
		first = false;
	}
	if (layout_survives(v)) {
		printf(": nothing is lost, all is rebuilt from parity\n");
		print_lost_groups(v);
		return;
	}
	printf(": version %" PRIu64 " is lost\n", v->stamp.version);
	print_lost_groups(v);
	print_lost_names(v);
}

void layout_print_text(const struct layout_view *v)
{
	print_job(v);
	if (v->lost) {
		print_loss(v);
	} else if (v->cli->region) {
		print_details(v);
	} else {
		print_table(v);
		print_total(v);
	}
}
