/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Message passing between the ranks of a job, as few operations as the library
 * needs. net_mpi.c implements it over MPI; tests have networks of their own.
 *
 * Messages between two ranks with one tag arrive in the order of their sends.
 * One thread at a time. Every function returns ENET with the cause, or 0; what begins a
 * transfer also ENOMEM.
 */
#ifndef FTMEM_NET_H
#define FTMEM_NET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct net;

/* A transfer under way. Zeroed or completed: idle. Its memory must stay put. */
struct net_req {
	uint64_t handle[2];
	uint32_t peer;
	bool active;
	bool receive;
	uint64_t bytes;
};

/* The tags of all-gathers and roll calls; the others are the callers'. */
#define NET_TAG      0u
#define NET_TAG_ROLL 15u

/* net_req.peer of a collective operation. */
#define NET_ALL UINT32_MAX

enum net_reduce { NET_MIN, NET_MAX, NET_SUM };

struct net_ops {
	int (*send)(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
	            struct net_req *req);
	/* The message must have exactly bytes bytes: else ENET when tested. */
	int (*recv)(struct net *net, uint32_t peer, uint32_t tag, void *buf, size_t bytes,
	            struct net_req *req);
	/* Nonblocking all-reduce of count words in place, matched by call order. */
	int (*allreduce)(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
	                 struct net_req *req);
	/* Completes req if it can: then req->active is false. */
	int (*test)(struct net *net, struct net_req *req);
	/* Gives up a receive or send that will not complete; best effort. */
	void (*cancel)(struct net *net, struct net_req *req);
	/* Collective unless transfers are lost. */
	void (*free)(struct net *net);
};

struct net {
	const struct net_ops *ops;
	uint32_t rank, size;
	uint32_t tag_max;
	/* Called by the thread that ends the network while it is still good (MPI_Finalize(),
	 * exit()): whoever uses it must have stopped when this returns. May be NULL. */
	void (*ending)(void *arg);
	void *ending_arg;
	_Atomic uint64_t sent_bytes;
	bool lingering; /* a transfer was given up: MPI may still touch its memory, which
	                   must stay mapped */
	atomic_bool broken; /* a collective call was not joined or did not end: further
	                       ones return ENET */
	bool out_of_step;      /* for good: this rank did not join a reduction, or left it, so
	                          that its next one would meet others' last */
	struct net_roll *roll; /* NULL: of a collective call nobody can be named who is missing */
	/* The node of a rank, for messages. NULL: not known. */
	const char *(*node)(void *arg, uint32_t rank);
	void *node_arg;
};

/* Ranks in a message: "rank 3 (node7)". */
struct net_who {
	char text[128];
};
struct net_who net_who(const struct net *net, uint32_t rank);

/* Bytes per message at most; larger ones are the caller's to cut. */
#define NET_MESSAGE_MAX (UINT64_C(1) << 30)

/*
 * comm: MPI_Comm * or NULL for world. Initialises MPI if nobody did, and then
 * finalises it when the process exits with status 0; with another status it does not,
 * since that would wait for all other ranks, and the launcher ends the job. Collective.
 * EINVAL: MPI without MPI_THREAD_MULTIPLE, MPI finalised already, or a launcher whose
 * world is larger than MPI's (torchrun, srun without a PMI): names the command to use.
 * ENET, ETIMEOUT. ENOMEM; if *out is there nonetheless the others, whom this rank joined, are
 * still to be told so.
 */
int net_mpi_open(const void *comm, uint32_t timeout_ms, struct net **out);

int net_send(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
             struct net_req *req);
int net_recv(struct net *net, uint32_t peer, uint32_t tag, void *buf, size_t bytes,
             struct net_req *req);
int net_test(struct net *net, struct net_req *req);
void net_free(struct net *net); /* accepts NULL */

/* What a poller does between two fruitless looks: look again, then sleep, longer and longer
 * up to 8 ms. Zeroed: start over, as after every fruitful one. */
struct net_backoff {
	uint32_t idle;
};
void net_backoff(struct net_backoff *b);

/*
 * Roll calls name who is missing where a collective call does not end. A rank that has
 * waited for long tells its neighbours, which are 1, 2, 4, 8 and so on ranks away, that it
 * has joined; one that does not tell the same is missing, busy or out of reach. A neighbour
 * that reads nothing is told one thing only, so that nothing heaps up, and another once it is
 * seen to wait for this rank.
 *
 * For nets that have it: from open, by whoever implements the net, to close, in its free();
 * lingering is then set if anybody was told anything. ENOMEM.
 */
int net_roll_open(struct net *net);
void net_roll_close(struct net *net);
/* To be called while a collective call is waited for, often: does nothing at first. */
void net_roll_call(struct net *net);
/* The same while something else is waited for: tells only who asked. */
void net_roll_answer(struct net *net);
/* Of whom there is no sign that they joined the latest collective call: "rank 3 (node7) and 1
 * more"; "": not yet known, or of none of the neighbours. */
struct net_who net_roll_missing(const struct net *net);

/* Begins an all-reduce to be tested with net_test(); net_roll_missing() will be asked at
 * the deadline or later. */
int net_allreduce_begin(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                        uint64_t deadline_ns, struct net_req *req);

/* Waits until req is done; ETIMEOUT names what and the peer or, as far as it is known, who
 * is missing from a collective call. */
int net_wait(struct net *net, struct net_req *req, uint64_t deadline_ns, const char *what);

/* Collective, with a deadline (clock.h). Outputs are untouched on error. */
int net_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                  uint64_t deadline_ns, const char *what);
int net_allgather(struct net *net, const void *in, size_t bytes, void *out,
                  uint64_t deadline_ns, const char *what);

#endif
