/* SPDX-License-Identifier: BSD-3-Clause */
#include "room.h"

#include <inttypes.h>
#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "memory.h"

/* Between two looks at memory that grows, and the share of what lacks that it grows by at least:
 * all of it comes within half a minute or so. */
#define LOOK_NS UINT64_C(100000000)
#define SHARE   256u

/* What can be taken. The SMP frees what a former epoch held after it has answered: as long as
 * that goes on, for half of the others' patience at most, it is waited for. */
static uint64_t await_room(const struct ftmem *ft, uint64_t total)
{
	uint64_t deadline = clock_deadline(ft->opts.timeout_ms / 2);
	uint64_t room = memory_available();

	while (room < total && clock_ns() < deadline) {
		uint64_t before = room;

		clock_sleep(LOOK_NS);
		room = memory_available();
		if (room < total && (room <= before || room - before < (total - room) / SHARE))
			break;
	}
	return room;
}

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
	room = await_room(ft, total);
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
