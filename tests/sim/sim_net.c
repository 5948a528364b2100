/* SPDX-License-Identifier: BSD-3-Clause */
/* The network of the ranks: replaces net_mpi.c. It is fake_net.h, whose memory is not the
 * processes'. */
#include <string.h>

#include "sim.h"
#include "tags.h"
#include "wrapped.h"

struct end {
	struct net net;
	struct net *fake;
};

static struct end end[SIM_RANKS];
/* A collective call of net.c is under way, by rank: what else is reduced is the vote. */
static bool inside[SIM_RANKS];

static struct net *fake_of(struct net *net)
{
	return ((struct end *)(void *)net)->fake;
}

static void step_of_tag(uint32_t tag)
{
	bool back = sim.now->process->restoring, mends = sim.now->process->repairing;

	if (tag == TAG_TRANSFER)
		sim_step(STEP_TRANSFER);
	if (tag == TAG_ROUTE && back)
		sim_step(STEP_ROUTE);
	if (tag < TAG_RAILS)
		return;
	switch ((tag - TAG_RAILS) % TAG_KINDS) {
	case TAG_INTENT: sim_step(back ? STEP_RETELL : STEP_TELL); break;
	case TAG_BLOCK: sim_step(back ? STEP_REEXCHANGE : STEP_EXCHANGE); break;
	case TAG_TRAILER: sim_step(back ? STEP_RETRAILER : STEP_TRAILER); break;
	case TAG_SOURCE: sim_step(mends ? STEP_MENDSOURCE : STEP_SOURCE); break;
	case TAG_RESULT: sim_step(mends ? STEP_MENDRESULT : STEP_RESULT); break;
	default: sim_step(mends ? STEP_MENDSUMS : STEP_SUMS); break;
	}
}

static int end_send(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
                    struct net_req *req)
{
	int rc;

	step_of_tag(tag);
	sim.outside++;
	rc = fake_of(net)->ops->send(fake_of(net), peer, tag, buf, bytes, req);
	sim.outside--;
	return rc;
}

static int end_recv(struct net *net, uint32_t peer, uint32_t tag, void *buf, size_t bytes,
                    struct net_req *req)
{
	int rc;

	sim.outside++;
	rc = fake_of(net)->ops->recv(fake_of(net), peer, tag, buf, bytes, req);
	sim.outside--;
	return rc;
}

static int end_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                         struct net_req *req)
{
	int rc;

	if (!inside[net->rank])
		sim_step(sim.now->process->restoring ? STEP_REVOTE : STEP_VOTE);
	sim.outside++;
	rc = fake_of(net)->ops->allreduce(fake_of(net), words, count, op, req);
	sim.outside--;
	return rc;
}

static int end_test(struct net *net, struct net_req *req)
{
	int rc;

	sim.outside++;
	rc = fake_of(net)->ops->test(fake_of(net), req);
	sim.outside--;
	return rc;
}

static void end_cancel(struct net *net, struct net_req *req)
{
	sim.outside++;
	fake_of(net)->ops->cancel(fake_of(net), req);
	sim.outside--;
}

static void end_free(struct net *net)
{
	(void)net;
}

static const struct net_ops ops = {
	.send = end_send,
	.recv = end_recv,
	.allreduce = end_allreduce,
	.test = end_test,
	.cancel = end_cancel,
	.free = end_free,
};

int net_mpi_open(const void *comm, uint32_t timeout_ms, struct net **out)
{
	struct end *e = &end[sim.now->process->rank];

	(void)comm;
	(void)timeout_ms;
	*out = &e->net;
	return 0;
}

void sim_net_begin(void)
{
	sim.net = fake_net_new(sim.ranks, sim.run_random);
	fake_net_set_chance(sim.net, 30 + sim_random(71));
	memset(inside, 0, sizeof(inside));
	for (uint32_t i = 0; i < sim.ranks; i++) {
		struct net *fake = fake_net_of(sim.net, i);

		end[i] = (struct end){
			.net = {.ops = &ops,
		                .rank = i,
		                .size = sim.ranks,
		                .tag_max = fake->tag_max},
			.fake = fake,
		};
	}
}

void sim_net_end(void)
{
	fake_net_destroy(sim.net);
	sim.net = NULL;
}

/* --- collective calls, by what they are for --- */

int __real_net_allgather(struct net *net, const void *in, size_t bytes, void *out,
                         uint64_t deadline_ns, const char *what);
int __wrap_net_allgather(struct net *net, const void *in, size_t bytes, void *out,
                         uint64_t deadline_ns, const char *what);

static void step_of_call(const char *what)
{
	struct sim_process *p = sim.now->process;
	int i = 0;

	if (p->repairing)
		sim_step(STEP_MENDGATHER);
	while (i < STEP_OTHER && strcmp(sim_step_name[i], what) != 0)
		i++;
	sim_step((enum sim_step)i);
	if (i == STEP_FORGETTING)
		sim_forget_joined(p);
}

static void clear_older(struct arena *a)
{
	struct stamp stamp[2];
	bool damaged;

	for (int i = 0; i < 2; i++)
		(void)slot_read(&a->slot[i], &stamp[i], &damaged);
	if (stamp[0].version > 0 && stamp[1].version > 0)
		slot_set_empty(&a->slot[stamp_cmp(stamp[0], stamp[1]) > 0]);
}

/* Wrong on purpose: true if the call is left out. */
static bool goes_astray(const char *what)
{
	struct sim_process *p = sim.now->process;

	if (sim.flaw == SIM_LONE_FORGET && strcmp(what, sim_step_name[STEP_FORGETTING]) == 0)
		return !p->erases++;
	if (p->repairing && sim.flaw == SIM_CLEARS_EARLY
	    && strcmp(what, sim_step_name[STEP_WHOLE]) == 0)
		clear_older(p->ft->epoch->arena);
	return false;
}

int __wrap_net_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                         uint64_t deadline_ns, const char *what)
{
	int rc;

	step_of_call(what);
	if (goes_astray(what))
		return 0;
	inside[net->rank] = true;
	rc = __real_net_allreduce(net, words, count, op, deadline_ns, what);
	inside[net->rank] = false;
	return rc;
}

int __wrap_net_allgather(struct net *net, const void *in, size_t bytes, void *out,
                         uint64_t deadline_ns, const char *what)
{
	step_of_call(what);
	return __real_net_allgather(net, in, bytes, out, deadline_ns, what);
}
