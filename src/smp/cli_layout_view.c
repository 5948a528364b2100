/* SPDX-License-Identifier: BSD-3-Clause */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "smp/cli_layout_impl.h"

/* Nodes that the message about an unknown one names. */
#define NAMED_MAX 16u

static int compare_u64(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

/* Regions that are listed together: tensors of one name that differ are told apart. */
static int compare_names(const struct region *a, const struct region *b)
{
	int order = (a->box.ndim == 0) - (b->box.ndim == 0);

	if (!order)
		order = strcmp(a->name, b->name);
	if (!order)
		order = compare_u64(a->box.ndim, b->box.ndim);
	if (!order)
		order = compare_u64(a->elem_bytes, b->elem_bytes);
	for (uint32_t d = 0; !order && d < a->box.ndim; d++)
		order = compare_u64(a->shape[d], b->shape[d]);
	return order;
}

static int compare_refs(const void *a, const void *b)
{
	const struct layout_ref *x = a, *y = b;
	int order = compare_names(x->region, y->region);

	if (!order && x->box->ndim)
		order = box_compare(x->box, y->box);
	return order ? order : compare_u64(x->held->rank, y->held->rank);
}

static bool asked_for(const struct cli *cli, const struct region *r)
{
	return !cli->region || strcmp(cli->region, r->name) == 0
	       || fnmatch(cli->region, r->name, 0) == 0;
}

static void collect(struct layout_view *v, const struct layout_held *h)
{
	const struct layout *l = h->layout;

	v->registered += l->region_bytes;
	v->data += l->data_bytes;
	for (uint32_t i = 0; i < l->regions; i++) {
		const struct region *r = &l->region[i];

		if (asked_for(v->cli, r))
			v->box[v->boxes++] = (struct layout_ref){h, r, &r->box, r->bytes};
	}
	for (uint32_t i = 0; i < l->pieces; i++) {
		const struct layout_piece *p = &l->piece[i];
		const struct region *r = &l->region[p->region];

		v->stored += p->bytes;
		if (asked_for(v->cli, r))
			v->share[v->shares++] = (struct layout_ref){h, r, &p->box, p->bytes};
	}
}

static int collect_all(struct layout_view *v)
{
	size_t boxes = 0, shares = 0;

	for (uint32_t i = 0; i < v->held_count; i++) {
		boxes += v->held[i].layout->regions;
		shares += v->held[i].layout->pieces;
	}
	v->box = calloc(boxes + 1, sizeof(*v->box));
	v->share = calloc(shares + 1, sizeof(*v->share));
	v->name = calloc(boxes + 1, sizeof(*v->name));
	if (!v->box || !v->share || !v->name)
		return error_set(FTMEM_ENOMEM, "no memory for a list of %zu regions", boxes);
	for (uint32_t i = 0; i < v->held_count; i++)
		collect(v, &v->held[i]);
	qsort(v->box, v->boxes, sizeof(*v->box), compare_refs);
	qsort(v->share, v->shares, sizeof(*v->share), compare_refs);
	return 0;
}

/* A tensor of more than 2^64 bytes counts as that many. */
static uint64_t tensor_bytes(const struct region *r)
{
	uint64_t bytes = r->elem_bytes;

	for (uint32_t d = 0; d < r->box.ndim; d++)
		if (__builtin_mul_overflow(bytes, r->shape[d], &bytes))
			return UINT64_MAX;
	return bytes;
}

size_t layout_same_box(const struct layout_name *name, size_t from)
{
	size_t to = from + 1;

	while (to < name->boxes && !name->private
	       && box_compare(name->box[to].box, name->box[from].box) == 0)
		to++;
	return to;
}

static void sum_up(struct layout_name *n)
{
	n->private = n->region->box.ndim == 0;
	n->bytes = n->private ? 0 : tensor_bytes(n->region);
	for (size_t i = 0; n->private && i < n->boxes; i++)
		n->bytes += n->box[i].bytes;
	for (size_t i = 0; i < n->shares; i++)
		n->stored += n->share[i].bytes;
	for (size_t i = 0; i < n->boxes; i = layout_same_box(n, i))
		n->distinct++;
}

/* Boxes and shares are in the same order of names, and no share is without a box. */
static void divide(struct layout_view *v)
{
	size_t box = 0, share = 0;

	while (box < v->boxes) {
		struct layout_name *n = &v->name[v->names++];

		n->region = v->box[box].region;
		n->box = &v->box[box];
		n->share = &v->share[share];
		for (; box < v->boxes && !compare_names(v->box[box].region, n->region); box++)
			n->boxes++;
		for (; share < v->shares && !compare_names(v->share[share].region, n->region);
		     share++)
			n->shares++;
		sum_up(n);
	}
}

/* --- what would be lost --- */

static int no_node(const struct layout_view *v, const char *name, size_t length)
{
	char names[NAMED_MAX * (FTMEM_NAME_MAX + 3) + 8] = "";
	size_t at = 0;

	for (uint32_t i = 0; i < v->map->nodes && i < NAMED_MAX; i++)
		at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", i ? ", " : "",
		                       v->map->node[i].name);
	return error_set(FTMEM_EINVAL, "--lose: no node is called '%.*s'; there are %s%s",
	                 (int)length, name, names, v->map->nodes > NAMED_MAX ? ", ..." : "");
}

static int lose(struct layout_view *v, const char *name, size_t length)
{
	bool found = false;

	if (!length)
		return error_set(FTMEM_EINVAL, "--lose: a name is empty");
	for (uint32_t i = 0; i < v->map->nodes; i++) {
		const struct map_node *node = &v->map->node[i];

		if (strlen(node->name) != length || memcmp(node->name, name, length) != 0)
			continue;
		found = true;
		v->group_lost[node->group] += !v->lost[i];
		v->lost[i] = true;
	}
	return found ? 0 : no_node(v, name, length);
}

static int lose_all(struct layout_view *v)
{
	const char *name = v->cli->lose;
	int rc = 0;

	if (!name)
		return 0;
	v->lost = calloc(v->map->nodes, sizeof(*v->lost));
	v->group_lost = calloc(v->map->groups, sizeof(*v->group_lost));
	if (!v->lost || !v->group_lost)
		return error_set(FTMEM_ENOMEM, "no memory for a list of nodes");
	while (!rc && name) {
		size_t length = strcspn(name, ",");

		rc = lose(v, name, length);
		name = name[length] ? name + length + 1 : NULL;
	}
	return rc;
}

bool layout_group_fails(const struct layout_view *v, uint32_t group)
{
	return v->group_lost[group] > v->map->parity;
}

bool layout_survives(const struct layout_view *v)
{
	for (uint32_t g = 0; g < v->map->groups; g++)
		if (layout_group_fails(v, g))
			return false;
	return true;
}

static bool node_fails(const struct layout_view *v, uint32_t node)
{
	return v->lost[node] && layout_group_fails(v, v->map->node[node].group);
}

bool layout_rank_lost(const struct layout_view *v, const struct layout_held *held)
{
	return node_fails(v, held->node);
}

uint64_t layout_name_lost(const struct layout_view *v, const struct layout_name *name)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < name->shares; i++)
		if (layout_rank_lost(v, name->share[i].held))
			bytes += name->share[i].bytes;
	return bytes;
}

uint32_t layout_unknown_lost(const struct layout_view *v)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < v->map->nodes; i++)
		if (node_fails(v, i))
			count += v->map->node[i].ranks;
	for (uint32_t i = 0; i < v->held_count; i++)
		count -= layout_rank_lost(v, &v->held[i]);
	return count;
}

const char *layout_node(const struct layout_view *v, const struct layout_held *held)
{
	return v->map->node[held->node].name;
}

/* --- life --- */

int layout_view_build(struct layout_view *v)
{
	int rc = lose_all(v);

	if (!rc)
		rc = collect_all(v);
	if (!rc)
		divide(v);
	return rc;
}

void layout_view_deinit(struct layout_view *v)
{
	for (uint32_t i = 0; i < v->held_count; i++)
		layout_free(v->held[i].layout);
	free(v->held);
	free(v->damage);
	free(v->box);
	free(v->share);
	free(v->name);
	free(v->lost);
	free(v->group_lost);
	map_free(v->map);
}
