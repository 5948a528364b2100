/* SPDX-License-Identifier: BSD-3-Clause */
#include "keeper.h"

#include <inttypes.h>
#include <stddef.h>

#include "clock.h"
#include "error.h"

#define LOOK_NS UINT64_C(250000000)
#define RETRY_NS UINT64_C(5000000000)

int keeper_init(struct keeper *k, const struct smp_config *config)
{
	*k = (struct keeper){.log = config->log};
	return smp_connect(config, &k->smp);
}

void keeper_deinit(struct keeper *k)
{
	smp_close(k->smp);
	k->smp = NULL;
}

void keeper_hold(struct keeper *k, const struct arena *a)
{
	for (int i = 0; i < KEEPER_ARENAS; i++)
		if (!k->arena[i]) {
			k->arena[i] = a;
			return;
		}
}

void keeper_let_go(struct keeper *k, const struct arena *a)
{
	for (int i = 0; i < KEEPER_ARENAS; i++)
		if (k->arena[i] == a)
			k->arena[i] = NULL;
}

static int ensure(struct keeper *k, bool alive)
{
	int rc = 0;

	if (alive && !k->owing)
		return 0;
	k->owing = true;
	if (!alive) {
		log_line(k->log, FTMEM_LOG_WARN,
		         "the snapshot-management process (pid %" PRId32
		         ") is gone: starting another and handing the memory over",
		         smp_pid(k->smp));
		rc = smp_reconnect(k->smp);
	}
	for (int i = 0; rc == 0 && i < KEEPER_ARENAS; i++)
		if (k->arena[i])
			rc = smp_adopt(k->smp, k->arena[i]->header->epoch,
			               k->arena[i]->header->rank, k->arena[i]->fd);
	k->owing = rc != 0;
	if (rc == 0)
		log_line(k->log, FTMEM_LOG_INFO, "snapshot-management process %" PRId32
		         " has taken the memory over", smp_pid(k->smp));
	return rc;
}

int keeper_ensure(struct keeper *k)
{
	struct smp_info info;

	/* One that is about to die looks alive until it fails to answer. */
	return ensure(k, smp_alive(k->smp) && smp_info(k->smp, &info) == 0);
}

void keeper_watch(struct keeper *k, uint64_t now_ns)
{
	int rc;

	if (now_ns < k->next_look_ns)
		return;
	k->next_look_ns = now_ns + LOOK_NS;
	rc = ensure(k, smp_alive(k->smp));
	if (rc == 0) {
		k->failing = false;
		return;
	}
	/* The attempt itself may have taken longer than that. */
	k->next_look_ns = clock_ns() + RETRY_NS;
	if (!k->failing)
		log_line(k->log, FTMEM_LOG_ERROR,
		         "%s: the versions live in the trainer alone until this "
		         "succeeds",
		         error_msg());
	k->failing = true;
}
