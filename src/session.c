/* SPDX-License-Identifier: BSD-3-Clause */
#include "session.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "tune.h"

/* More of them pin memory no faster. */
#define PIN_THREADS_MAX 8u

/* --- agreement --- */

uint64_t session_deadline(const struct ftmem *ft)
{
	return clock_deadline(ft->opts.timeout_ms);
}

uint64_t session_chance(const struct ftmem *ft)
{
	uint64_t chance;

	if (ft->net->rank != 0)
		return 0;
	/* Early in the life of a machine there may be none yet. */
	if (getrandom(&chance, sizeof(chance), GRND_NONBLOCK) != (ssize_t)sizeof(chance))
		chance = clock_ns() ^ (uint64_t)getpid() << 32;
	return chance;
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

	if (ft->net->out_of_step)
		return rc < 0 ? rc : error_set(FTMEM_ENET, "%s: start the job again", what);
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

static int connect_smp(struct ftmem *ft)
{
	struct smp_config config = {
		.dir = ft->opts.dir,
		.job = ft->opts.job,
		.node = ft->opts.node,
		.smp_path = ft->opts.smp_path,
		.rank = ft->net->rank,
		.expire_s = ft->opts.expire_s,
		.scrub_mib_s = ft->opts.scrub_mib_s,
		.timeout_ms = ft->opts.timeout_ms,
		.log = &ft->opts.log,
	};

	return keeper_init(&ft->keeper, &config);
}

static int choose_cpus(struct ftmem *ft)
{
	char text[512];
	int rc = topo_choose(ft->topo, ft->opts.progress_cpus);

	if (rc == 0 && topo_left_out(ft->topo)[0] != '\0')
		log_line(&ft->opts.log, FTMEM_LOG_WARN,
		         "progress_cpus, or FTMEM_PROGRESS_CPUS, is \"%.100s\": left out are %s",
		         ft->opts.progress_cpus, topo_left_out(ft->topo));
	topo_describe(ft->topo, text, sizeof(text));
	if (rc == 0)
		log_line(&ft->opts.log, FTMEM_LOG_DEBUG, "the library's threads run on CPUs %s",
		         text);
	return rc;
}

/* Without starting a driver. The threads begin before it is known where regions lie. */
static bool sees_devices(void)
{
	const struct device_ops *ops = device_ops();

	return ops && ops->file && access(ops->file, F_OK) == 0;
}

static void choose_threads(struct ftmem *ft)
{
	uint32_t cpus = topo_share(ft->topo);
	bool devices = sees_devices();

	if (ft->opts.copy_threads != 0)
		return;
	ft->opts.copy_threads = tune_copy_threads(cpus, devices);
	log_line(&ft->opts.log, FTMEM_LOG_DEBUG,
	         "%" PRIu32 " copy threads: chosen from %" PRIu32
	         " CPUs for the library's threads%s",
	         ft->opts.copy_threads, cpus, devices ? ", as there are devices" : "");
}

/* They work while the trainer's thread waits, as those that touch memory. */
static uint32_t pin_threads(const struct ftmem *ft)
{
	uint32_t ranks = ft->map->node[ft->map->node_of_rank[ft->net->rank]].ranks;
	uint32_t share = topo_cpus(ft->topo) / ranks;

	if (share == 0)
		return 1;
	return share < PIN_THREADS_MAX ? share : PIN_THREADS_MAX;
}

static int open_local(struct ftmem *ft)
{
	struct copy_config copy = {
		.device_staging = ft->opts.device_staging,
		.pin_threads = pin_threads(ft),
		.log = &ft->opts.log,
		.pin = pin_thread,
	};
	struct progress_config progress = {
		.net = ft->net,
		.keeper = &ft->keeper,
		.log = &ft->opts.log,
		.timeout_ms = ft->opts.timeout_ms,
		.compare_every = ft->opts.compare_every,
		.wait_busy = ft->opts.when_busy == FTMEM_BUSY_WAIT,
		.pin = pin_thread,
		.retire = on_retire,
		.retire_arg = ft,
	};
	int rc = choose_cpus(ft);

	if (rc == 0)
		rc = region_set_new(&ft->regions);
	choose_threads(ft);
	copy.threads = ft->opts.copy_threads;
	copy.pin_arg = progress.pin_arg = ft->topo;
	ft->copy_ops = device_ops() ? copy_device() : copy_host();
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
	if (!ft->net)
		goto fail;
	ft->opts.log.rank = ft->net->rank;
	rc = session_agree(ft, rc < 0 ? rc : opts_rc, "checking the options");
	if (rc < 0)
		goto fail;
	rc = session_meet(ft);
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

/* --- close --- */

/* What copies use: the former epochs' plans and arenas, then the backend. False: a copy does
 * not come to its end, so all of that stays, with what it points to. */
static bool free_copies(struct ftmem *ft)
{
	bool linger = ft->net && ft->net->lingering;

	if (ft->copy && !ft->copy_ops->done(ft->copy)) {
		log_line(&ft->opts.log, FTMEM_LOG_ERROR,
		         "closing: a copy of regions was cancelled and does not end; is a device "
		         "stuck? Its memory stays until the process ends: do not free regions");
		return false;
	}
	epoch_free(ft->epoch, linger);
	epoch_free(ft->former, linger);
	if (ft->copy)
		ft->copy_ops->close(ft->copy);
	return true;
}

void session_close(struct ftmem *ft)
{
	bool whole;

	if (!ft)
		return;
	if (ft->net)
		ft->net->ending = NULL;
	if (ft->progress && progress_stop(ft->progress, session_deadline(ft)) < 0) {
		log_line(&ft->opts.log, FTMEM_LOG_WARN, "closing: %s; it is given up", error_msg());
		session_give_up(ft, "the job was closed");
	}
	progress_free(ft->progress);
	/* An SMP that died a moment ago would lose what this rank still maps. */
	if (ft->epoch && keeper_ensure(&ft->keeper) < 0)
		log_line(&ft->opts.log, FTMEM_LOG_WARN, "closing: %s: this node's memory is lost",
		         error_msg());
	keeper_deinit(&ft->keeper);
	whole = free_copies(ft);
	region_set_free(ft->regions);
	topo_free(ft->topo);
	net_free(ft->net);
	map_free(ft->map);
	if (!whole)
		return;
	pthread_mutex_destroy(&ft->lock);
	free(ft);
}

void session_scrub_again(struct ftmem *ft)
{
	if (smp_scrub_again(ft->keeper.smp, ft->epoch->number, ft->net->rank) < 0)
		log_line(&ft->opts.log, FTMEM_LOG_DEBUG, "%s", error_msg());
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
		arena_enter(ft->epoch->arena, ft->incarnation);
		session_enter(ft, empty, ft->incarnation);
	} else {
		rc = smp_forget(ft->keeper.smp);
	}
	rc = session_agree(ft, rc, "forgetting the job");
	/* All may store versions again, or none. */
	if (rc == 0) {
		ft->must_restore = false;
		progress_note_forgotten(ft->progress);
	}
	return session_resume(ft, rc);
}
