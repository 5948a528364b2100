/* SPDX-License-Identifier: BSD-3-Clause */
#include "keeper.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>

#include "clock.h"
#include "error.h"

#define LOOK_NS UINT64_C(250000000)
#define RETRY_NS UINT64_C(5000000000)
#define ASK_NS UINT64_C(5000000000)

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

void keeper_hold(struct keeper *k, struct arena *a)
{
	for (int i = 0; i < KEEPER_ARENAS; i++)
		if (!k->arena[i]) {
			k->arena[i] = a;
			return;
		}
}

static void set_bad(struct keeper *k, int i, uint64_t bad)
{
	uint64_t sum = 0;

	k->bad[i] = bad;
	for (int j = 0; j < KEEPER_ARENAS; j++)
		sum += k->bad[j];
	atomic_store_explicit(&k->damaged, sum, memory_order_relaxed);
}

void keeper_let_go(struct keeper *k, const struct arena *a)
{
	for (int i = 0; i < KEEPER_ARENAS; i++)
		if (k->arena[i] == a) {
			k->arena[i] = NULL;
			set_bad(k, i, 0);
		}
}

/* No SMP takes an arena whose header is damaged. */
static int hand_over_one(struct keeper *k, struct arena *a)
{
	if (arena_mend(a) > 0)
		log_line(k->log, FTMEM_LOG_WARN,
		         "header, map or rails of the memory that holds this rank's versions "
		         "(epoch %" PRIu64 ") were damaged and are mended",
		         a->header->epoch);
	return smp_adopt(k->smp, a->header->epoch, a->header->rank, a->fd);
}

/* One that is refused does not keep the other back. */
static int hand_over(struct keeper *k)
{
	int rc = 0;

	for (int i = 0; i < KEEPER_ARENAS && (rc == 0 || smp_alive(k->smp)); i++) {
		int got = !k->arena[i] ? 0 : hand_over_one(k, k->arena[i]);

		if (got != 0)
			rc = got;
	}
	return rc;
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
	if (rc == 0)
		rc = hand_over(k);
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

static uint64_t count_bad(const struct smp_entry *e)
{
	uint64_t bad = e->damage != WIRE_WHOLE;

	for (int i = 0; i < 2; i++)
		bad += e->check[i].damage ? 1 : e->check[i].bad;
	return bad;
}

/* What is damaged, at least of it one. */
static const char *name_bad(const struct smp_entry *e, char text[WIRE_BLOCK_TEXT])
{
	if (e->damage)
		return wire_damage_text(e->damage);
	for (int i = 0; i < 2; i++) {
		if (e->check[i].damage)
			return wire_damage_text(e->check[i].damage);
		if (e->check[i].named)
			return wire_block_text(&e->check[i].block[0], text);
	}
	return "unknown";
}

static void note_bad(struct keeper *k, int i, const struct smp_entry *e)
{
	uint64_t bad = count_bad(e);
	char text[WIRE_BLOCK_TEXT];

	if (bad > k->bad[i])
		log_line(k->log, FTMEM_LOG_WARN,
		         "%" PRIu64 " blocks of the memory that holds this rank's versions "
		         "(epoch %" PRIu64 ") are damaged: %s%s: the next version takes their "
		         "place, ftmem_repair() mends them now",
		         bad, e->epoch, name_bad(e, text), bad > 1 ? " and others" : "");
	else if (!bad && k->bad[i])
		log_line(k->log, FTMEM_LOG_INFO,
		         "no block of this rank's versions (epoch %" PRIu64 ") is known to be "
		         "damaged any more",
		         e->epoch);
	set_bad(k, i, bad);
}

/* Takes the answer for one arena, if it is there; what is wrong with the SMP the next look
 * finds out. */
static void take_answer(struct keeper *k)
{
	const struct arena *a = k->arena[k->asked];
	struct smp_entry e;
	int rc = smp_check_take(k->smp, &e);

	if (rc == FTMEM_BUSY)
		return;
	k->asking = false;
	if (!rc && a && e.epoch == a->header->epoch && e.rank == a->header->rank)
		note_bad(k, k->asked, &e);
	k->asked = (k->asked + 1) % KEEPER_ARENAS;
}

/* One arena after the other. */
static void ask(struct keeper *k, uint64_t now_ns)
{
	if (k->asking)
		take_answer(k);
	if (k->asking || now_ns < k->next_ask_ns)
		return;
	if (!k->arena[k->asked])
		k->asked = (k->asked + 1) % KEEPER_ARENAS;
	if (!k->arena[k->asked])
		return;
	k->next_ask_ns = now_ns + ASK_NS / KEEPER_ARENAS;
	k->asking = smp_check_ask(k->smp, k->arena[k->asked]->header->epoch,
	                          k->arena[k->asked]->header->rank)
	            == 0;
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
		ask(k, now_ns);
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
