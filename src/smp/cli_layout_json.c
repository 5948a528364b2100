/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdio.h>

#include "smp/cli_layout_impl.h"

static const char *comma(size_t i)
{
	return i ? "," : "";
}

static void numbers(const char *key, const uint64_t *value, uint32_t count)
{
	printf("\"%s\":[", key);
	for (uint32_t i = 0; i < count; i++)
		printf("%s%" PRIu64, comma(i), value[i]);
	printf("]");
}

static void nodes(const struct layout_view *v)
{
	const struct map *m = v->map;

	printf(",\"nodes\":[");
	for (uint32_t i = 0; i < m->nodes; i++) {
		printf("%s\n {\"name\":\"%s\",\"group\":%" PRIu32 ",\"ranks\":[", comma(i),
		       m->node[i].name, m->node[i].group);
		for (uint32_t r = 0; r < m->node[i].ranks; r++)
			printf("%s%" PRIu32, comma(r), m->rank[m->node[i].offset + r]);
		printf("]}");
	}
	printf("],\"groups\":[");
	for (uint32_t g = 0; g < m->groups; g++) {
		printf("%s\n {\"nodes\":[", comma(g));
		for (uint32_t i = 0; i < m->group[g].nodes; i++)
			printf("%s\"%s\"", comma(i),
			       m->node[m->member[m->group[g].offset + i]].name);
		printf("],\"parity\":%" PRIu32 "}", m->parity);
	}
	printf("]");
}

static void tensor(const struct layout_view *v, const struct layout_name *n)
{
	const struct region *r = n->region;

	printf("\n {\"name\":");
	cli_json_text(r->name);
	printf(",\"elem_bytes\":%" PRIu32 ",", r->elem_bytes);
	numbers("shape", r->shape, r->box.ndim);
	printf(",\"bytes\":%" PRIu64 ",\"stored_bytes\":%" PRIu64 ",\"boxes\":[", n->bytes,
	       n->stored);
	for (size_t i = 0, end; i < n->boxes; i = end) {
		end = layout_same_box(n, i);
		printf("%s\n  {", comma(i));
		numbers("start", n->box[i].box->start, r->box.ndim);
		printf(",");
		numbers("extent", n->box[i].box->extent, r->box.ndim);
		printf(",\"bytes\":%" PRIu64 ",\"ranks\":[", n->box[i].bytes);
		for (size_t j = i; j < end; j++)
			printf("%s%" PRIu32, comma(j - i), n->box[j].held->rank);
		printf("]}");
	}
	printf("],\"shares\":[");
	for (size_t i = 0; i < n->shares; i++) {
		const struct layout_ref *s = &n->share[i];

		printf("%s\n  {\"rank\":%" PRIu32 ",\"node\":\"%s\",", comma(i), s->held->rank,
		       layout_node(v, s->held));
		numbers("start", s->box->start, r->box.ndim);
		printf(",");
		numbers("extent", s->box->extent, r->box.ndim);
		printf(",\"bytes\":%" PRIu64 "}", s->bytes);
	}
	printf("]}");
}

static void private(const struct layout_view *v, const struct layout_name *n)
{
	printf("\n {\"name\":");
	cli_json_text(n->region->name);
	printf(",\"bytes\":%" PRIu64 ",\"regions\":[", n->bytes);
	for (size_t i = 0; i < n->boxes; i++)
		printf("%s\n  {\"rank\":%" PRIu32 ",\"node\":\"%s\",\"bytes\":%" PRIu64 "}",
		       comma(i), n->box[i].held->rank, layout_node(v, n->box[i].held),
		       n->box[i].bytes);
	printf("]}");
}

static void names(const struct layout_view *v, const char *key, bool which)
{
	bool first = true;

	printf(",\"%s\":[", key);
	for (size_t i = 0; i < v->names; i++) {
		if (v->name[i].private != which)
			continue;
		printf("%s", first ? "" : ",");
		first = false;
		if (which)
			private(v, &v->name[i]);
		else
			tensor(v, &v->name[i]);
	}
	printf("]");
}

static void lost_names(const struct layout_view *v, const char *key, bool which)
{
	bool first = true;

	printf(",\"%s\":[", key);
	for (size_t i = 0; i < v->names; i++) {
		uint64_t bytes = layout_name_lost(v, &v->name[i]);

		if (v->name[i].private != which || !bytes)
			continue;
		printf("%s\n  {\"name\":", first ? "" : ",");
		first = false;
		cli_json_text(v->name[i].region->name);
		printf(",\"bytes\":%" PRIu64 "}", bytes);
	}
	printf("]");
}

static void lose(const struct layout_view *v)
{
	const struct map *m = v->map;
	bool first = true;

	printf(",\"lose\":{\"nodes\":[");
	for (uint32_t i = 0; i < m->nodes; i++) {
		if (!v->lost[i])
			continue;
		printf("%s\"%s\"", first ? "" : ",", m->node[i].name);
		first = false;
	}
	printf("],\"survived\":%s,\"groups\":[", layout_survives(v) ? "true" : "false");
	first = true;
	for (uint32_t g = 0; g < m->groups; g++) {
		uint32_t lost = v->group_lost[g];

		if (!lost)
			continue;
		printf("%s\n  {\"group\":%" PRIu32 ",\"lost\":%" PRIu32 ",\"lacking\":%" PRIu32 "}",
		       first ? "" : ",", g, lost, lost > m->parity ? lost - m->parity : 0);
		first = false;
	}
	printf("]");
	lost_names(v, "tensors", false);
	lost_names(v, "private", true);
	printf(",\"unknown_ranks\":%" PRIu32 "}", layout_unknown_lost(v));
}

static void damage(const struct layout_view *v)
{
	printf(",\"damaged\":[");
	for (uint32_t i = 0; i < v->damages; i++) {
		printf("%s\n {\"rank\":%" PRIu32 ",\"node\":\"%s\",\"error\":", comma(i),
		       v->damage[i].rank, v->damage[i].site->node);
		cli_json_text(v->damage[i].text);
		printf("}");
	}
	printf("]");
}

void layout_print_json(const struct layout_view *v)
{
	/* An epoch is text: as a number many readers of JSON would round it. */
	printf("{\"job\":\"%s\",\"epoch\":\"%" PRIu64 "\",\"version\":%" PRIu64
	       ",\"state\":\"%s\",\"ranks\":%" PRIu32 ",\"held_ranks\":[",
	       v->cli->job, v->epoch, v->stamp.version,
	       cli_state(v->committed ? SLOT_COMMITTED : SLOT_PREPARED), v->map->ranks);
	for (uint32_t i = 0; i < v->held_count; i++)
		printf("%s%" PRIu32, comma(i), v->held[i].rank);
	printf("],\"registered_bytes\":%" PRIu64 ",\"stored_bytes\":%" PRIu64
	       ",\"data_bytes\":%" PRIu64,
	       v->registered, v->stored, v->data);
	nodes(v);
	names(v, "tensors", false);
	names(v, "private", true);
	if (v->lost)
		lose(v);
	damage(v);
	printf("}\n");
}
