/* SPDX-License-Identifier: BSD-3-Clause */
#include "map.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "name.h"

#define BLOB_MAGIC  0x4d4d5446u /* "FTMM" in memory */
#define BLOB_HEADER 32u
#define BLOB_NAME   (FTMEM_NAME_MAX + 1u)
#define BLOB_NODE   (BLOB_NAME + 4u)

void map_free(struct map *m)
{
	if (!m)
		return;
	free(m->node);
	free(m->group);
	free(m->node_of_rank);
	free(m->local_index);
	free(m->rank);
	free(m->member);
	free(m);
}

/* A map of these sizes with everything zero. */
static struct map *map_alloc(uint32_t ranks, uint32_t nodes, uint32_t groups, uint32_t parity)
{
	struct map *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->ranks = ranks;
	m->nodes = nodes;
	m->groups = groups;
	m->parity = parity;
	m->node = calloc(nodes, sizeof(*m->node));
	m->group = calloc(groups, sizeof(*m->group));
	m->node_of_rank = calloc(ranks, sizeof(*m->node_of_rank));
	m->local_index = calloc(ranks, sizeof(*m->local_index));
	m->rank = calloc(ranks, sizeof(*m->rank));
	m->member = calloc(nodes, sizeof(*m->member));
	if (m->node && m->group && m->node_of_rank && m->local_index && m->rank && m->member)
		return m;
	map_free(m);
	return NULL;
}

static int out_of_memory(uint32_t ranks)
{
	return error_set(FTMEM_ENOMEM, "no memory for the map of %u ranks", ranks);
}

int map_copy(const struct map *m, struct map **out)
{
	struct map *copy = map_alloc(m->ranks, m->nodes, m->groups, m->parity);

	if (!copy)
		return out_of_memory(m->ranks);
	memcpy(copy->node, m->node, m->nodes * sizeof(*m->node));
	memcpy(copy->group, m->group, m->groups * sizeof(*m->group));
	memcpy(copy->node_of_rank, m->node_of_rank, m->ranks * sizeof(*m->node_of_rank));
	memcpy(copy->local_index, m->local_index, m->ranks * sizeof(*m->local_index));
	memcpy(copy->rank, m->rank, m->ranks * sizeof(*m->rank));
	memcpy(copy->member, m->member, m->nodes * sizeof(*m->member));
	*out = copy;
	return 0;
}

/* The ranks of each node, in order, from node_of_rank. */
static void index_ranks(struct map *m)
{
	uint32_t offset = 0;

	for (uint32_t r = 0; r < m->ranks; r++) {
		struct map_node *node = &m->node[m->node_of_rank[r]];

		if (node->ranks == 0)
			node->first_rank = r;
		m->local_index[r] = node->ranks++;
	}
	for (uint32_t i = 0; i < m->nodes; i++) {
		m->node[i].offset = offset;
		offset += m->node[i].ranks;
	}
	for (uint32_t r = 0; r < m->ranks; r++)
		m->rank[m->node[m->node_of_rank[r]].offset + m->local_index[r]] = r;
}

/* The nodes of each group, in order, and the numbers of its rails. */
static void index_groups(struct map *m)
{
	uint32_t offset = 0, rail = 0;

	for (uint32_t i = 0; i < m->nodes; i++)
		m->group[m->node[i].group].nodes++;
	for (uint32_t g = 0; g < m->groups; g++) {
		m->group[g].offset = offset;
		offset += m->group[g].nodes;
		m->group[g].nodes = 0;
	}
	for (uint32_t i = 0; i < m->nodes; i++) {
		struct map_group *group = &m->group[m->node[i].group];

		m->member[group->offset + group->nodes++] = i;
		if (m->node[i].ranks > group->rails)
			group->rails = m->node[i].ranks;
	}
	for (uint32_t g = 0; g < m->groups; g++) {
		m->group[g].first_rail = rail;
		rail += m->group[g].rails;
	}
}

/* The names of equal structs in a row, found by hash: each begins with its name. */
struct names {
	const char *base;
	size_t stride;
	uint32_t *slot; /* 0 or 1 + the first of that name */
	uint32_t mask;
};

static bool names_init(struct names *n, const void *base, size_t stride, uint32_t count)
{
	uint64_t slots = 2;

	while (slots < UINT64_C(2) * count)
		slots *= 2;
	*n = (struct names){.base = base, .stride = stride, .mask = (uint32_t)(slots - 1)};
	n->slot = calloc(slots, sizeof(*n->slot));
	return n->slot;
}

/* The first of those up to i that are called as i is; asked in order. */
static uint32_t names_first(struct names *n, uint32_t i)
{
	const char *name = n->base + i * n->stride;
	uint32_t at = 2166136261u;

	for (const char *c = name; *c; c++)
		at = (at ^ (uint8_t)*c) * 16777619u;
	for (at &= n->mask; n->slot[at]; at = (at + 1) & n->mask)
		if (strcmp(n->base + (n->slot[at] - 1) * n->stride, name) == 0)
			return n->slot[at] - 1;
	n->slot[at] = i + 1;
	return i;
}

struct labelled {
	const char *rack;
	uint32_t node;
};

static int compare_labels(const void *a, const void *b)
{
	const struct labelled *x = a, *y = b;
	int order = strcmp(x->rack, y->rack);

	return order ? order : (x->node > y->node) - (x->node < y->node);
}

static int check_ranks(const struct map_rank *rank, uint32_t ranks)
{
	if (ranks == 0)
		return error_set(FTMEM_EINVAL, "a map of no ranks");
	for (uint32_t r = 0; r < ranks; r++) {
		if (!name_valid(rank[r].node))
			return error_set(FTMEM_EINVAL, "rank %u has no valid node name", r);
		if (strnlen(rank[r].rack, sizeof(rank[r].rack)) == sizeof(rank[r].rack))
			return error_set(FTMEM_EINVAL, "rank %u has an endless rack name", r);
	}
	return 0;
}

/* Numbers the nodes by their lowest rank: fills node_of_rank [ranks]. */
static int number_nodes(const struct map_rank *rank, uint32_t ranks, uint32_t *node_of_rank,
                        uint32_t *nodes)
{
	struct names names;
	int rc = names_init(&names, rank, sizeof(*rank), ranks) ? 0 : out_of_memory(ranks);

	*nodes = 0;
	for (uint32_t r = 0; r < ranks && !rc; r++) {
		uint32_t leader = names_first(&names, r);

		node_of_rank[r] = leader == r ? (*nodes)++ : node_of_rank[leader];
		if (strcmp(rank[r].rack, rank[leader].rack) != 0)
			rc = error_set(
				FTMEM_EINVAL,
				"node %s is in rack \"%s\" says rank %u and in rack "
				"\"%s\" says rank %u: give all its ranks the same FTMEM_RACK",
				rank[r].node, rank[leader].rack, leader, rank[r].rack, r);
	}
	free(names.slot);
	return rc;
}

/* How many groups: of near-equal size around the aim, each able to lose parity. */
static int count_groups(uint32_t nodes, uint32_t aim, uint32_t parity, uint32_t *groups)
{
	uint32_t most = nodes / (parity + 1), count, size;

	if (most == 0)
		return error_set(FTMEM_EINVAL,
		                 "parity %u needs at least %u nodes, but there are %u: start on "
		                 "more nodes or set FTMEM_PARITY to %u",
		                 parity, parity + 1, nodes, nodes - 1);
	count = (uint32_t)(((uint64_t)nodes + aim / 2) / aim);
	if (count == 0)
		count = 1;
	if (count > most)
		count = most;
	size = (nodes + count - 1) / count;
	if (size > RAIL_MAX)
		return error_set(FTMEM_EINVAL,
		                 "groups of %u nodes would exceed %u: set FTMEM_GROUP_NODES or "
		                 "FTMEM_PARITY lower",
		                 size, RAIL_MAX);
	*groups = count;
	return 0;
}

/* Runs of neighbours; the first groups take one more if it does not come out even. */
static void group_neighbours(struct map *m)
{
	uint32_t size = m->nodes / m->groups, more = m->nodes % m->groups, node = 0;

	for (uint32_t g = 0; g < m->groups; g++)
		for (uint32_t i = 0; i < size + (g < more); i++)
			m->node[node++].group = g;
}

static int group_by_rack(struct map *m, const struct map_rank *rank)
{
	struct labelled *label = calloc(m->nodes, sizeof(*label));

	if (!label)
		return out_of_memory(m->ranks);
	for (uint32_t i = 0; i < m->nodes; i++)
		label[i] = (struct labelled){rank[m->node[i].first_rank].rack, i};
	qsort(label, m->nodes, sizeof(*label), compare_labels);
	for (uint32_t i = 0; i < m->nodes; i++)
		m->node[label[i].node].group = i % m->groups;
	free(label);
	return 0;
}

static int assign_groups(struct map *m, const struct map_rank *rank)
{
	for (uint32_t i = 0; i < m->nodes; i++) {
		const struct map_rank *first = &rank[m->node[i].first_rank];

		memcpy(m->node[i].name, first->node, strlen(first->node));
	}
	for (uint32_t i = 0; i < m->nodes; i++)
		if (rank[m->node[i].first_rank].rack[0])
			return group_by_rack(m, rank);
	group_neighbours(m);
	return 0;
}

int map_new(const struct map_rank *rank, uint32_t ranks, uint32_t aim, uint32_t parity,
            struct map **out)
{
	uint32_t *numbers = NULL, nodes = 0, groups = 1;
	struct map *m = NULL;
	int rc = check_ranks(rank, ranks);

	if (rc)
		return rc;
	if (aim < 2 || parity < 1 || parity >= RAIL_MAX)
		return error_set(FTMEM_EINVAL, "groups of %u nodes with parity %u cannot be", aim,
		                 parity);
	numbers = calloc(ranks, sizeof(*numbers));
	if (!numbers) {
		rc = out_of_memory(ranks);
		goto fail;
	}
	rc = number_nodes(rank, ranks, numbers, &nodes);
	if (rc)
		goto fail;
	if (nodes == 1)
		parity = 0;
	else
		rc = count_groups(nodes, aim, parity, &groups);
	if (rc)
		goto fail;
	m = map_alloc(ranks, nodes, groups, parity);
	if (!m) {
		rc = out_of_memory(ranks);
		goto fail;
	}
	memcpy(m->node_of_rank, numbers, ranks * sizeof(*numbers));
	index_ranks(m);
	rc = assign_groups(m, rank);
	if (rc)
		goto fail;
	index_groups(m);
	*out = m;
	m = NULL;
fail:
	map_free(m);
	free(numbers);
	return rc;
}

uint32_t map_rail_count(const struct map *m)
{
	const struct map_group *last = &m->group[m->groups - 1];

	return last->first_rail + last->rails;
}

/* The group whose rails include id. */
static const struct map_group *group_of_rail(const struct map *m, uint32_t id)
{
	uint32_t low = 0, high = m->groups;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;

		if (m->group[middle].first_rail <= id)
			low = middle;
		else
			high = middle;
	}
	return &m->group[low];
}

void map_rail(const struct map *m, uint32_t id, struct rail *out)
{
	const struct map_group *group = group_of_rail(m, id);
	uint32_t index = id - group->first_rail;

	memset(out, 0, sizeof(*out));
	out->id = id;
	out->n = group->nodes;
	out->m = m->parity;
	for (uint32_t i = 0; i < group->nodes; i++) {
		const struct map_node *node = &m->node[m->member[group->offset + i]];

		out->rank[i] = m->rank[node->offset + index % node->ranks];
		out->data_bytes[i] = index < node->ranks;
	}
}

int map_rails_of(const struct map *m, uint32_t rank, uint32_t **ids, uint32_t *count)
{
	const struct map_node *node = &m->node[m->node_of_rank[rank]];
	const struct map_group *group = &m->group[node->group];
	uint32_t local = m->local_index[rank];
	uint32_t rails = (group->rails - local + node->ranks - 1) / node->ranks;
	uint32_t *list = calloc(rails, sizeof(*list));

	if (!list)
		return error_set(FTMEM_ENOMEM, "no memory for the %u rails of rank %u", rails,
		                 rank);
	for (uint32_t i = 0; i < rails; i++)
		list[i] = group->first_rail + local + i * node->ranks;
	*ids = list;
	*count = rails;
	return 0;
}

static void put_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

static uint32_t get_u32(const uint8_t *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16
	       | (uint32_t)at[3] << 24;
}

static uint64_t blob_bytes(uint64_t ranks, uint64_t nodes)
{
	return BLOB_HEADER + nodes * BLOB_NODE + ranks * 4;
}

uint64_t map_blob_bytes(const struct map *m)
{
	return blob_bytes(m->ranks, m->nodes);
}

void map_blob_write(const struct map *m, uint8_t *blob)
{
	memset(blob, 0, BLOB_HEADER);
	put_u32(blob, BLOB_MAGIC);
	put_u32(blob + 4, m->ranks);
	put_u32(blob + 8, m->nodes);
	put_u32(blob + 12, m->groups);
	put_u32(blob + 16, m->parity);
	blob += BLOB_HEADER;
	for (uint32_t i = 0; i < m->nodes; i++, blob += BLOB_NODE) {
		memcpy(blob, m->node[i].name, BLOB_NAME);
		put_u32(blob + BLOB_NAME, m->node[i].group);
	}
	for (uint32_t r = 0; r < m->ranks; r++, blob += 4)
		put_u32(blob, m->node_of_rank[r]);
}

static int corrupt(const char *what)
{
	return error_set(FTMEM_ECORRUPT, "map: %s", what);
}

/* Sizes that fit the bytes and one another, so that allocations stay in bounds. */
static int check_header(const uint8_t *blob, uint64_t bytes)
{
	uint32_t ranks, nodes, groups, parity;

	if (bytes < BLOB_HEADER || get_u32(blob) != BLOB_MAGIC)
		return corrupt("does not begin as one");
	ranks = get_u32(blob + 4);
	nodes = get_u32(blob + 8);
	groups = get_u32(blob + 12);
	parity = get_u32(blob + 16);
	if (bytes != blob_bytes(ranks, nodes))
		return corrupt("its size does not fit its ranks and nodes");
	if (nodes == 0 || nodes > ranks || groups == 0 || groups > nodes)
		return corrupt("ranks, nodes and groups make no sense");
	if ((nodes == 1) != (parity == 0) || parity >= RAIL_MAX)
		return corrupt("parity makes no sense");
	if (get_u32(blob + 20) || get_u32(blob + 24) || get_u32(blob + 28))
		return corrupt("reserved words are not zero");
	return 0;
}

static int check_names(const struct map *m)
{
	struct names names;
	int rc = 0;

	if (!names_init(&names, m->node, sizeof(*m->node), m->nodes))
		rc = out_of_memory(m->ranks);
	for (uint32_t i = 0; i < m->nodes && !rc; i++)
		if (names_first(&names, i) != i)
			rc = corrupt("two nodes have one name");
	free(names.slot);
	return rc;
}

static int read_nodes(const uint8_t *blob, struct map *m)
{
	for (uint32_t i = 0; i < m->nodes; i++, blob += BLOB_NODE) {
		struct map_node *node = &m->node[i];

		memcpy(node->name, blob, BLOB_NAME);
		if (!name_valid(node->name))
			return corrupt("a node's name is none");
		for (size_t c = strlen(node->name); c < BLOB_NAME; c++)
			if (node->name[c])
				return corrupt("a node's name is not padded with zeros");
		node->group = get_u32(blob + BLOB_NAME);
		if (node->group >= m->groups)
			return corrupt("a node's group is none");
		m->group[node->group].nodes++;
	}
	for (uint32_t g = 0; g < m->groups; g++) {
		if (m->group[g].nodes <= m->parity || m->group[g].nodes > RAIL_MAX)
			return corrupt("a group has too few or too many nodes");
		m->group[g].nodes = 0;
	}
	return check_names(m);
}

static int read_ranks(const uint8_t *blob, struct map *m)
{
	uint32_t seen = 0;

	for (uint32_t r = 0; r < m->ranks; r++, blob += 4) {
		uint32_t node = get_u32(blob);

		if (node > seen || node >= m->nodes)
			return corrupt("nodes are not numbered by their lowest ranks");
		if (node == seen)
			seen++;
		m->node_of_rank[r] = node;
	}
	if (seen != m->nodes)
		return corrupt("a node has no ranks");
	return 0;
}

int map_blob_read(const uint8_t *blob, uint64_t bytes, struct map **out)
{
	struct map *m = NULL;
	int rc = check_header(blob, bytes);

	if (rc)
		return rc;
	m = map_alloc(get_u32(blob + 4), get_u32(blob + 8), get_u32(blob + 12), get_u32(blob + 16));
	if (!m)
		return out_of_memory(get_u32(blob + 4));
	rc = read_nodes(blob + BLOB_HEADER, m);
	if (rc)
		goto fail;
	rc = read_ranks(blob + BLOB_HEADER + (uint64_t)m->nodes * BLOB_NODE, m);
	if (rc)
		goto fail;
	index_ranks(m);
	index_groups(m);
	*out = m;
	return 0;
fail:
	map_free(m);
	return rc;
}
