/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What ranks tell one another when they open: that they agree, who is where, and on one
 * machine also which CPUs they use. Of the whole job a rank hears no more than names and a
 * word each, and keeps the map alone.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"
#include "machine.h"
#include "session.h"
#include "tags.h"
#include "tune.h"

/* --- what all must have in common --- */

struct terms {
	uint64_t job; /* digest */
	uint32_t parity, group_nodes, block_bytes, compare_every, format;
	uint32_t reserved;
};

static int check_same(const struct terms *mine, const struct terms *other, uint32_t rank)
{
	const struct {
		const char *name;
		uint64_t mine, other;
	} same[] = {
		{"job", mine->job, other->job},
		{"parity", mine->parity, other->parity},
		{"group_nodes", mine->group_nodes, other->group_nodes},
		{"block_bytes", mine->block_bytes, other->block_bytes},
		{"compare_every", mine->compare_every, other->compare_every},
		{"library format", mine->format, other->format},
	};

	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
		if (same[i].mine != same[i].other)
			return error_set(FTMEM_EINVAL,
			                 "option %s differs between rank 0 and rank %" PRIu32
			                 ": all ranks must pass the same",
			                 same[i].name, rank);
	return 0;
}

/* Equal to its own if that is set. */
static int take_block_bytes(struct ftmem *ft, uint64_t agreed, uint64_t l2_bytes)
{
	if (ft->opts.block_bytes == 0) {
		if (agreed < TUNE_BLOCK_MIN || agreed > TUNE_BLOCK_MAX)
			return error_set(FTMEM_EINVAL,
			                 "ranks chose blocks of %" PRIu64
			                 " bytes: set FTMEM_BLOCK_BYTES",
			                 agreed);
		log_line(&ft->opts.log, FTMEM_LOG_DEBUG,
		         "blocks of %" PRIu64 " KiB: chosen from the ranks' second-level caches, "
		         "here %" PRIu64 " KiB", agreed >> 10, l2_bytes >> 10);
		ft->block_chosen = true;
	}
	ft->opts.block_bytes = (uint32_t)agreed;
	return 0;
}

/*
 * Two words say whether all agree, a third what is the least block size of those chosen,
 * where it is not set. Only if they do not agree do all hear all, to name who does not.
 */
static int agree_terms(struct ftmem *ft)
{
	struct terms mine = {
		.job = digest_more(DIGEST_INIT, ft->opts.job, strlen(ft->opts.job)),
		.parity = ft->opts.parity,
		.group_nodes = ft->opts.group_nodes,
		.block_bytes = ft->opts.block_bytes,
		.compare_every = ft->opts.compare_every,
		.format = ARENA_FORMAT,
	};
	uint64_t digest = digest_more(DIGEST_INIT, &mine, sizeof(mine));
	uint64_t l2_bytes = topo_l2_bytes(ft->topo);
	uint64_t block = mine.block_bytes ? mine.block_bytes : tune_block_bytes(l2_bytes);
	uint64_t words[3] = {digest, ~digest, ~block};
	struct terms *all = NULL;
	int rc = net_allreduce(ft->net, words, 3, NET_MAX, session_deadline(ft), "opening the job");

	if (rc < 0)
		return rc;
	if (words[0] == ~words[1])
		return take_block_bytes(ft, ~words[2], l2_bytes);
	all = calloc(ft->net->size, sizeof(*all));
	if (!all)
		rc = error_set(FTMEM_ENOMEM, "no memory for the options of %" PRIu32 " ranks",
		               ft->net->size);
	rc = session_agree(ft, rc, "opening the job");
	if (rc == 0)
		rc = net_allgather(ft->net, &mine, sizeof(mine), all, session_deadline(ft),
		                   "opening the job");
	for (uint32_t i = 0; rc == 0 && i < ft->net->size; i++)
		rc = check_same(&all[0], &all[i], i);
	free(all);
	return session_agree(ft, rc, "opening the job");
}

/* --- who is where --- */

static const char *node_of(void *arg, uint32_t rank)
{
	const struct map *map = arg;

	return map->node[map->node_of_rank[rank]].name;
}

static int make_map(struct ftmem *ft)
{
	struct map_rank mine = {0}, *all = calloc(ft->net->size, sizeof(*all));
	int rc = all ? 0 : error_set(FTMEM_ENOMEM, "no memory for the table of %" PRIu32 " ranks",
	                             ft->net->size);

	memcpy(mine.node, ft->opts.node, sizeof(mine.node));
	memcpy(mine.rack, ft->opts.rack, sizeof(mine.rack));
	rc = session_agree(ft, rc, "opening the job");
	if (rc == 0)
		rc = net_allgather(ft->net, &mine, sizeof(mine), all, session_deadline(ft),
		                   "gathering nodes");
	if (rc == 0)
		rc = map_new(all, ft->net->size, ft->opts.group_nodes, ft->opts.parity, &ft->map);
	if (rc == 0) {
		ft->net->node_arg = ft->map;
		ft->net->node = node_of;
	}
	free(all);
	return session_agree(ft, rc, "opening the job");
}

static int share_boot(struct ftmem *ft, uint64_t **out)
{
	uint64_t mine = machine_boot(), *all = calloc(ft->net->size, sizeof(*all));
	int rc = all ? 0 : error_set(FTMEM_ENOMEM, "no memory for the table of %" PRIu32 " ranks",
	                             ft->net->size);

	*out = all;
	rc = session_agree(ft, rc, "opening the job");
	if (rc == 0)
		rc = net_allgather(ft->net, &mine, sizeof(mine), all, session_deadline(ft),
		                   "gathering machines");
	return rc;
}

/* Nodes of different names that are one machine protect nothing from its loss. */
static void warn_same_machine(const struct ftmem *ft, const uint64_t *boot)
{
	for (uint32_t i = 0; ft->net->rank == 0 && i < ft->map->nodes; i++)
		for (uint32_t j = 0; j < i && j < 64; j++) {
			const struct map_node *a = &ft->map->node[i], *b = &ft->map->node[j];

			if (boot[a->first_rank] == 0 || boot[a->first_rank] != boot[b->first_rank])
				continue;
			log_line(&ft->opts.log, FTMEM_LOG_WARN,
			         "nodes %s and %s are one machine: good for "
			         "trying out, but its loss takes both",
			         b->name, a->name);
			return;
		}
}

/* --- on one machine --- */

/* What a rank and another one of its machine tell each other: where they are bound. */
struct neighbour {
	struct topo_set bound;
	struct net_req send, recv;
};

/* On the heap, since what is given up may still be read or written. */
struct machine {
	struct topo_set mine;
	uint32_t count;
	struct neighbour neighbour[];
};

/* Whatever they call their nodes. Two ranks find the same of each other, also if only one
 * of them can read its boot id. */
static bool same_machine(const struct ftmem *ft, const uint64_t *boot, uint32_t rank)
{
	uint32_t me = ft->net->rank;

	return boot[me] && boot[rank]
	               ? boot[rank] == boot[me]
	               : ft->map->node_of_rank[rank] == ft->map->node_of_rank[me];
}

static struct machine *machine_new(const struct ftmem *ft, const uint64_t *boot)
{
	struct machine *m;
	uint32_t count = 0;

	for (uint32_t i = 0; i < ft->net->size; i++)
		count += i != ft->net->rank && same_machine(ft, boot, i);
	m = calloc(1, sizeof(*m) + count * sizeof(m->neighbour[0]));
	if (m)
		m->mine = topo_bound(ft->topo);
	return m;
}

static int machine_tell(struct ftmem *ft, const uint64_t *boot, struct machine *m)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < ft->net->size; i++) {
		struct neighbour *n = &m->neighbour[m->count];

		if (i == ft->net->rank || !same_machine(ft, boot, i))
			continue;
		m->count++;
		rc = net_recv(ft->net, i, TAG_MEET, &n->bound, sizeof(n->bound), &n->recv);
		if (rc == 0)
			rc = net_send(ft->net, i, TAG_MEET, &m->mine, sizeof(m->mine), &n->send);
	}
	for (uint32_t i = 0; rc == 0 && i < m->count; i++) {
		rc = net_wait(ft->net, &m->neighbour[i].recv, session_deadline(ft),
		              "opening the job");
		if (rc == 0)
			rc = net_wait(ft->net, &m->neighbour[i].send, session_deadline(ft),
			              "opening the job");
	}
	return rc;
}

static void machine_free(struct net *net, struct machine *m)
{
	bool lingers = false;

	for (uint32_t i = 0; m && i < m->count; i++) {
		struct neighbour *n = &m->neighbour[i];

		lingers = lingers || n->recv.active || n->send.active;
		net->ops->cancel(net, &n->recv);
		net->ops->cancel(net, &n->send);
	}
	net->lingering = net->lingering || lingers;
	if (!lingers)
		free(m);
}

/* Where the ranks of this machine run is not where the library's threads should. */
static int share_bound(struct ftmem *ft, const uint64_t *boot)
{
	struct machine *m = machine_new(ft, boot);
	int rc = session_agree(ft, m ? 0 : error_set(FTMEM_ENOMEM, "no memory to open the job"),
	                       "opening the job");

	if (rc == 0) {
		rc = machine_tell(ft, boot, m);
		ft->net->broken = ft->net->broken || rc < 0;
		rc = session_agree_sent(ft, rc, 0, "opening the job");
	}
	if (rc == 0)
		topo_note(ft->topo, &m->mine);
	for (uint32_t i = 0; rc == 0 && i < m->count; i++)
		topo_note(ft->topo, &m->neighbour[i].bound);
	machine_free(ft->net, m);
	return rc;
}

/* --- the whole --- */

int session_meet(struct ftmem *ft)
{
	uint64_t *boot = NULL;
	int rc = session_agree(ft, topo_new(&ft->topo), "opening the job");

	if (rc == 0)
		rc = agree_terms(ft);
	if (rc == 0)
		rc = make_map(ft);
	if (rc == 0)
		rc = share_boot(ft, &boot);
	if (rc == 0)
		rc = share_bound(ft, boot);
	if (rc == 0)
		warn_same_machine(ft, boot);
	free(boot);
	if (rc == 0 && ft->map->nodes == 1 && ft->net->rank == 0)
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "the job runs on one node (%s): versions survive its "
		         "processes, not the node; no parity is kept",
		         ft->map->node[0].name);
	return rc;
}
