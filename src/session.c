/* SPDX-License-Identifier: BSD-3-Clause */
#include "session.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checksum.h"
#include "clock.h"
#include "error.h"

/* --- agreement --- */

uint64_t session_deadline(const struct ftmem *ft)
{
	return clock_deadline(ft->opts.timeout_ms);
}

/* The others may have used up deadlines of their own before they join. */
static uint64_t agree_deadline(const struct ftmem *ft, uint64_t bytes)
{
	return clock_ns() + 3 * UINT64_C(1000000) * ft->opts.timeout_ms + bytes * 10;
}

/* All ranks get the message of the one that failed, as words of which the others have
 * none; without it, where that cannot be done, they hear its name alone. */
static void share_message(struct ftmem *ft, int agreed, uint32_t failed, const char *what)
{
	const char *node =
		ft->map ? ft->map->node[ft->map->node_of_rank[failed]].name : "unknown";
	uint64_t words[ERROR_MSG_MAX / sizeof(uint64_t)] = {0};
	char text[ERROR_MSG_MAX] = "";

	if (ft->net->rank == failed) {
		snprintf(text, sizeof(text), "%s", error_msg());
		memcpy(words, text, sizeof(words));
	}
	if (net_allreduce(ft->net, words, ERROR_MSG_MAX / sizeof(uint64_t), NET_MAX,
	                  agree_deadline(ft, 0), what) == 0)
		memcpy(text, words, sizeof(words));
	text[sizeof(text) - 1] = '\0';
	if (ft->net->rank == failed)
		error_set(agreed, "%s", text);
	else
		error_set(agreed, "%s: rank %" PRIu32 " (node %s): %s", what, failed, node,
		          text[0] ? text : error_text(agreed));
}

int session_agree_late(struct ftmem *ft, int rc, uint64_t bytes, const char *what)
{
	/* Smaller results are worse; the lowest rank among equals. Both fit a word. */
	uint64_t word = ((uint64_t)((int64_t)rc + INT32_MAX) << 32) | ft->net->rank;
	uint64_t worst = word;
	char own[ERROR_MSG_MAX] = "";
	int agreed, net_rc;

	if (rc < 0)
		snprintf(own, sizeof(own), "%s", error_msg());
	net_rc = net_allreduce(ft->net, &worst, 1, NET_MIN, agree_deadline(ft, bytes), what);
	if (net_rc < 0)
		return rc < 0 ? error_set(rc, "%s", own) : net_rc;
	agreed = (int)((int64_t)(worst >> 32) - INT32_MAX);
	if (rc < 0) {
		log_line(&ft->opts.log, FTMEM_LOG_DEBUG, "%s: %s", what, own);
		error_set(rc, "%s", own);
	}
	if (agreed >= 0)
		return rc;
	share_message(ft, agreed, (uint32_t)worst, what);
	/* Its own is what a rank can tell best. */
	if (agreed == rc)
		error_set(rc, "%s", own);
	return agreed;
}

int session_agree(struct ftmem *ft, int rc, const char *what)
{
	return session_agree_late(ft, rc, 0, what);
}

int session_agree_sent(struct ftmem *ft, int rc, uint64_t bytes, const char *what)
{
	bool broken = ft->net->broken;

	/* The others must hear that of the network, whatever was the cause. */
	if (rc < 0 && broken)
		rc = FTMEM_ENET;
	ft->net->broken = false;
	rc = session_agree_late(ft, rc, bytes, what);
	if (broken || rc == FTMEM_ENET || rc == FTMEM_ETIMEOUT)
		ft->net->broken = true;
	return rc;
}

/* --- pause and resume --- */

void session_give_up(struct ftmem *ft, const char *why)
{
	ft->net->broken = true;
	progress_abandon(ft->progress, why);
}

static void on_end(void *arg)
{
	struct ftmem *ft = arg;

	progress_abandon(ft->progress, "MPI has ended");
}

int session_pause(struct ftmem *ft)
{
	int rc = progress_stop(ft->progress, session_deadline(ft));

	/* The others take the step that this rank does not: they would meet its votes. */
	if (rc < 0)
		session_give_up(ft, "a version under way did not end before a collective step");
	return rc < 0 ? rc : progress_check(ft->progress);
}

int session_resume(struct ftmem *ft, int rc)
{
	int started = ft->epoch ? progress_start(ft->progress) : 0;

	return started < 0 && rc >= 0 ? started : rc;
}

static void pin_thread(void *arg)
{
	topo_pin(arg);
}

int session_retire_former(struct ftmem *ft)
{
	if (ft->former) {
		keeper_let_go(&ft->keeper, ft->former->arena);
		epoch_free(ft->former, ft->net && ft->net->lingering);
		ft->former = NULL;
	}
	return smp_retire(ft->keeper.smp, ft->epoch->number);
}

static void on_retire(void *arg)
{
	struct ftmem *ft = arg;

	if (session_retire_former(ft) < 0)
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "%s: memory of earlier epochs stays until the next "
		         "commit after a restore, or until the job is dropped",
		         error_msg());
}

void session_enter(struct ftmem *ft, const struct commit_slot slots[2], uint64_t incarnation)
{
	progress_set_epoch(ft->progress, ft->epoch, slots, incarnation);
}

/* --- open --- */

/* What each rank tells the others when it opens. */
struct hello {
	struct map_rank place;
	uint64_t job, boot;      /* digests */
	uint32_t parity, group_nodes, block_bytes, compare_every, format;
	uint32_t reserved;
};

static uint64_t boot_digest(void)
{
	char id[64] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, id, sizeof(id));

	if (fd >= 0)
		close(fd);
	return n > 0 ? digest_more(DIGEST_INIT, id, (size_t)n) : 0;
}

static int check_same(const struct hello *mine, const struct hello *other, uint32_t rank)
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

/* Nodes of different names that are one machine protect nothing from its loss. */
static void warn_same_machine(const struct ftmem *ft, const struct hello *all)
{
	for (uint32_t i = 0; ft->net->rank == 0 && i < ft->map->nodes; i++)
		for (uint32_t j = 0; j < i && i < 64; j++) {
			const struct hello *a = &all[ft->map->node[i].first_rank];
			const struct hello *b = &all[ft->map->node[j].first_rank];

			if (a->boot == 0 || a->boot != b->boot)
				continue;
			log_line(&ft->opts.log, FTMEM_LOG_WARN,
			         "nodes %s and %s are one machine: good for "
			         "trying out, but its loss takes both",
			         b->place.node, a->place.node);
			return;
		}
}

static int meet(struct ftmem *ft)
{
	struct hello mine = {
		.job = digest_more(DIGEST_INIT, ft->opts.job, strlen(ft->opts.job)),
		.boot = boot_digest(),
		.parity = ft->opts.parity,
		.group_nodes = ft->opts.group_nodes,
		.block_bytes = ft->opts.block_bytes,
		.compare_every = ft->opts.compare_every,
		.format = ARENA_FORMAT,
	};
	struct hello *all = calloc(ft->net->size, sizeof(*all));
	struct map_rank *places = calloc(ft->net->size, sizeof(*places));
	int rc = 0;

	memcpy(mine.place.node, ft->opts.node, sizeof(mine.place.node));
	memcpy(mine.place.rack, ft->opts.rack, sizeof(mine.place.rack));
	if (!all || !places)
		rc = error_set(FTMEM_ENOMEM, "no memory for the table of %" PRIu32 " ranks",
		               ft->net->size);
	rc = session_agree(ft, rc, "opening the job");
	if (rc == 0)
		rc = net_allgather(ft->net, &mine, sizeof(mine), all, session_deadline(ft),
		                   "opening the job");
	for (uint32_t i = 0; rc == 0 && i < ft->net->size; i++) {
		rc = check_same(&all[0], &all[i], i);
		places[i] = all[i].place;
	}
	if (rc == 0)
		rc = map_new(places, ft->net->size, ft->opts.group_nodes, ft->opts.parity,
		             &ft->map);
	if (rc == 0)
		warn_same_machine(ft, all);
	if (rc == 0 && ft->map->nodes == 1 && ft->net->rank == 0)
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "the job runs on one node (%s): versions survive its "
		         "processes, not the node; no parity is kept",
		         ft->map->node[0].name);
	free(all);
	free(places);
	return rc;
}

static int connect_smp(struct ftmem *ft)
{
	struct smp_config config = {
		.dir = ft->opts.dir,
		.job = ft->opts.job,
		.node = ft->opts.node,
		.smp_path = ft->opts.smp_path,
		.rank = ft->net->rank,
		.expire_s = ft->opts.expire_s,
		.timeout_ms = ft->opts.timeout_ms,
		.log = &ft->opts.log,
	};

	return keeper_init(&ft->keeper, &config);
}

static int open_local(struct ftmem *ft)
{
	struct copy_config copy = {
		.threads = ft->opts.copy_threads,
		.log = &ft->opts.log,
		.pin = pin_thread,
	};
	struct progress_config progress = {
		.net = ft->net,
		.keeper = &ft->keeper,
		.log = &ft->opts.log,
		.timeout_ms = ft->opts.timeout_ms,
		.compare_every = ft->opts.compare_every,
		.pin = pin_thread,
		.retire = on_retire,
		.retire_arg = ft,
	};
	int rc = topo_new(&ft->topo);

	if (rc == 0)
		rc = region_set_new(&ft->regions);
	copy.pin_arg = progress.pin_arg = ft->topo;
	ft->copy_ops = copy_host();
	if (rc == 0)
		rc = ft->copy_ops->open(&copy, &ft->copy);
	progress.copy_ops = ft->copy_ops;
	progress.copy = ft->copy;
	if (rc == 0)
		rc = progress_new(&progress, &ft->progress);
	if (rc == 0) {
		ft->net->ending_arg = ft;
		ft->net->ending = on_end;
	}
	if (rc == 0)
		rc = connect_smp(ft);
	return rc;
}

int session_open(const struct ftmem_opts *opts, struct ftmem **out)
{
	size_t comm_end = offsetof(struct ftmem_opts, comm) + sizeof(opts->comm);
	const void *comm = opts && opts->size >= comm_end ? opts->comm : NULL;
	struct ftmem *ft = NULL;
	struct opts resolved;
	int rc, opts_rc;

	/* A rank whose options are wrong still tells the others so. */
	opts_rc = opts_resolve(opts, &resolved);
	ft = calloc(1, sizeof(*ft));
	if (!ft)
		return error_set(FTMEM_ENOMEM, "no memory for the session");
	pthread_mutex_init(&ft->lock, NULL);
	if (opts_rc == 0)
		ft->opts = resolved;
	else
		ft->opts.timeout_ms = 30000;
	rc = net_mpi_open(comm, ft->opts.timeout_ms, &ft->net);
	if (rc < 0)
		goto fail;
	ft->opts.log.rank = ft->net->rank;
	rc = session_agree(ft, opts_rc, "checking the options");
	if (rc < 0)
		goto fail;
	rc = meet(ft);
	if (rc == 0)
		rc = open_local(ft);
	rc = session_agree(ft, rc, "opening the job");
	if (rc < 0)
		goto fail;
	*out = ft;
	return 0;
fail:
	session_close(ft);
	return rc;
}

void session_close(struct ftmem *ft)
{
	if (!ft)
		return;
	if (ft->net)
		ft->net->ending = NULL;
	if (ft->progress && progress_stop(ft->progress, session_deadline(ft)) < 0)
		log_line(&ft->opts.log, FTMEM_LOG_WARN, "closing: %s; it is given up", error_msg());
	progress_free(ft->progress);
	/* An SMP that died a moment ago would lose what this rank still maps. */
	if (ft->epoch && keeper_ensure(&ft->keeper) < 0)
		log_line(&ft->opts.log, FTMEM_LOG_WARN, "closing: %s: this node's memory is lost",
		         error_msg());
	if (ft->copy)
		ft->copy_ops->close(ft->copy);
	keeper_deinit(&ft->keeper);
	epoch_free(ft->epoch, ft->net && ft->net->lingering);
	epoch_free(ft->former, ft->net && ft->net->lingering);
	region_set_free(ft->regions);
	topo_free(ft->topo);
	map_free(ft->map);
	net_free(ft->net);
	pthread_mutex_destroy(&ft->lock);
	free(ft);
}

/* --- forget --- */

int session_forget(struct ftmem *ft)
{
	const struct commit_slot empty[2] = {0};
	int rc = session_pause(ft);

	if (rc < 0)
		return rc;
	rc = keeper_ensure(&ft->keeper);
	/* Nobody erases before everybody may. */
	rc = session_agree(ft, rc, "forgetting the job");
	if (rc < 0)
		return session_resume(ft, rc);
	if (ft->epoch) {
		slot_set_empty(&ft->epoch->arena->slot[0]);
		slot_set_empty(&ft->epoch->arena->slot[1]);
		rc = session_retire_former(ft);
		ft->incarnation++;
		session_enter(ft, empty, ft->incarnation);
	} else {
		rc = smp_forget(ft->keeper.smp);
	}
	if (rc == 0) {
		ft->must_restore = false;
		progress_note_forgotten(ft->progress);
	}
	rc = session_agree(ft, rc, "forgetting the job");
	return session_resume(ft, rc);
}
