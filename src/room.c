/* SPDX-License-Identifier: BSD-3-Clause */
#include "room.h"

#include <inttypes.h>
#include <stdlib.h>

#include "error.h"
#include "memory.h"

static int check_node(const struct ftmem *ft, const uint64_t *need, const char *what)
{
	const struct map_node *here = &ft->map->node[ft->map->node_of_rank[ft->net->rank]];
	uint64_t total = 0, room;
	uint32_t ranks = 0;

	for (uint32_t i = 0; i < here->ranks; i++) {
		uint64_t one = need[ft->map->rank[here->offset + i]];

		total += one;
		ranks += one > 0;
	}
	if (total == 0)
		return 0;
	room = memory_available();
	if (total <= room)
		return 0;
	return error_set(FTMEM_ENOMEM,
	                 "node %s: %s of %" PRIu32 " ranks need %" PRIu64 " MiB, but only %" PRIu64
	                 " MiB can still be taken (free memory, limits of control groups); "
	                 "free some, raise the limit, or run fewer ranks on a node",
	                 ft->opts.node, what, ranks, total >> 20, room >> 20);
}

int room_check(struct ftmem *ft, uint64_t need, const char *what)
{
	uint64_t *all = malloc(sizeof(*all) * ft->net->size);
	int rc = all ? 0 : error_set(FTMEM_ENOMEM, "no memory for the needs of %" PRIu32 " ranks",
	                             ft->net->size);

	rc = session_agree(ft, rc, "looking for memory");
	if (rc == 0)
		rc = net_allgather(ft->net, &need, sizeof(need), all, session_deadline(ft),
		                   "looking for memory");
	if (rc == 0)
		rc = session_agree(ft, check_node(ft, all, what), "looking for memory");
	free(all);
	return rc;
}

int room_touch(struct ftmem *ft, void *addr, size_t bytes)
{
	uint32_t local = ft->map->node[ft->map->node_of_rank[ft->net->rank]].ranks;
	uint32_t threads = topo_cpus(ft->topo) / local;

	return memory_touch(addr, bytes, threads ? threads : 1);
}
