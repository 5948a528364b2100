/* SPDX-License-Identifier: BSD-3-Clause */
#include "room.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "error.h"
#include "memory.h"

/* Between two looks at memory that grows; and before its pace is judged, at most. */
#define LOOK_NS  UINT64_C(100000000)
#define JUDGE_NS UINT64_C(1000000000)

/* Whether so much as it grew by since begin_ns will do, at that pace, before the deadline. */
static bool grows_in_time(uint64_t grown, uint64_t lacks, uint64_t begin_ns, uint64_t deadline_ns)
{
	uint64_t now = clock_ns();
	double left = now < deadline_ns ? (double)(deadline_ns - now) : 0.0;

	return grown > 0 && (double)grown * left >= (double)lacks * (double)(now - begin_ns);
}

/* What can be taken, and how much more that is than at first. What removed arenas held is freed
 * after the SMP has answered, and waited for: the others, who then agree, wait one timeout longer
 * than this rank does. */
static uint64_t await_room(const struct ftmem *ft, uint64_t total, uint64_t *grown)
{
	uint64_t patience = 2 * (uint64_t)ft->opts.timeout_ms * 1000000u, begin = clock_ns();
	uint64_t judge = patience / 8 < JUDGE_NS ? patience / 8 : JUDGE_NS;
	uint64_t first = memory_available(), room = first;

	while (room < total) {
		clock_sleep(judge < LOOK_NS ? judge : LOOK_NS);
		room = memory_available();
		*grown = room > first ? room - first : 0;
		if (room < total && clock_ns() - begin >= judge
		    && !grows_in_time(*grown, total - room, begin, begin + patience))
			break;
	}
	return room;
}

static int check_node(const struct ftmem *ft, const uint64_t *need, const char *what)
{
	const struct map_node *here = &ft->map->node[ft->map->node_of_rank[ft->net->rank]];
	uint64_t total = 0, grown = 0, room;
	uint32_t ranks = 0;
	char late[64] = "";

	for (uint32_t i = 0; i < here->ranks; i++) {
		uint64_t one = need[ft->map->rank[here->offset + i]];

		total += one;
		ranks += one > 0;
	}
	if (total == 0)
		return 0;
	room = await_room(ft, total, &grown);
	if (total <= room)
		return 0;
	if (grown >> 20 > 0)
		snprintf(late, sizeof(late), "wait, as %" PRIu64 " MiB were just freed, or ",
		         grown >> 20);
	return error_set(FTMEM_ENOMEM,
	                 "node %s: %s of %" PRIu32 " ranks need %" PRIu64 " MiB, but only %" PRIu64
	                 " MiB can still be taken (free memory, limits of control groups); "
	                 "%sfree some, raise the limit, or run fewer ranks on a node",
	                 ft->opts.node, what, ranks, total >> 20, room >> 20, late);
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
