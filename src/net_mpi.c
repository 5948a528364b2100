/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * net.h over MPI: the only file that knows it. All traffic runs on a duplicate of
 * the caller's communicator, with errors returned instead of fatal.
 *
 * A poller tests many transfers one after the other, and each MPI_Test() that finds
 * nothing runs all of MPI's progress: over TCP a system call. So all transfers under way
 * lie in one table, and one MPI_Testsome() over it, a sweep, answers for each of them
 * once. Whoever tests a transfer again that the last sweep left open causes the next.
 */
#include <mpi.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "net.h"

/* Transfers under way; a net_req keeps its index here. */
struct table {
	MPI_Request *request;
	struct net_req **owner;
	int *index;           /* outputs of MPI_Testsome() */
	MPI_Status *status;
	uint32_t count, room;
	uint64_t sweep;       /* number of the last one */
};

struct net_mpi {
	struct net net;
	MPI_Comm comm;
	int key;  /* of the attribute that tells of MPI_Finalize() */
	struct table table;
};

/* What net_req.handle holds: where the transfer is, and then of one under way the sweep
 * that last answered for it, of a finished one the bytes that came or MPI's error. */
#define WHERE          0
#define ANSWERED       1
#define RESULT         1
#define WHERE_FINISHED UINT64_MAX
#define WHERE_FAILED   (UINT64_MAX - 1)

static int mpi_failed(int code, const char *what)
{
	char text[MPI_MAX_ERROR_STRING] = "";
	int len = 0;

	MPI_Error_string(code, text, &len);
	return error_set(FTMEM_ENET, "%s: %s", what, text);
}

/* --- the table --- */

static int grow(void *array, size_t count, size_t each)
{
	void *old, *grown;

	memcpy(&old, array, sizeof(old));
	grown = realloc(old, count * each);
	if (!grown)
		return FTMEM_ENOMEM;
	memcpy(array, &grown, sizeof(grown));
	/* cppcheck-suppress memleak ; the array has it now */
	return 0;
}

/* Room for one more transfer: taken before MPI knows of it. */
static int table_reserve(struct table *t)
{
	uint32_t room = t->room ? 2 * t->room : 64;
	int rc;

	if (t->count < t->room)
		return 0;
	rc = grow(&t->request, room, sizeof(*t->request));
	if (rc == 0)
		rc = grow(&t->owner, room, sizeof(*t->owner));
	if (rc == 0)
		rc = grow(&t->index, room, sizeof(*t->index));
	if (rc == 0)
		rc = grow(&t->status, room, sizeof(*t->status));
	if (rc < 0)
		return error_set(rc, "no memory for %" PRIu32 " messages under way", room);
	t->room = room;
	return 0;
}

static void table_free(struct table *t)
{
	free(t->request);
	free(t->owner);
	free(t->index);
	free(t->status);
}

static void table_add(struct table *t, MPI_Request r, struct net_req *req, uint32_t peer,
                      bool receive, size_t bytes)
{
	*req = (struct net_req){
		.handle = {[WHERE] = t->count, [ANSWERED] = t->sweep},
		.peer = peer, .active = true, .receive = receive, .bytes = bytes,
	};
	t->request[t->count] = r;
	t->owner[t->count++] = req;
}

/* Closes the gaps that finished transfers leave. */
static void table_compact(struct table *t)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < t->count; i++) {
		if (t->owner[i]->handle[WHERE] >= WHERE_FAILED)
			continue;
		t->request[kept] = t->request[i];
		t->owner[kept] = t->owner[i];
		t->owner[kept]->handle[WHERE] = kept;
		kept++;
	}
	t->count = kept;
}

/* MPI is through with a transfer. */
static void finish(struct net_req *req, const MPI_Status *status, int code)
{
	int got = 0;

	if (code == MPI_SUCCESS && req->receive)
		code = MPI_Get_count(status, MPI_BYTE, &got);
	req->handle[WHERE] = code == MPI_SUCCESS ? WHERE_FINISHED : WHERE_FAILED;
	req->handle[RESULT] = (uint64_t)(code == MPI_SUCCESS ? got : code);
}

static int sweep(struct table *t)
{
	int done = 0, rc;

	t->sweep++;
	rc = MPI_Testsome((int)t->count, t->request, &done, t->index, t->status);
	if (rc != MPI_SUCCESS && rc != MPI_ERR_IN_STATUS)
		return mpi_failed(rc, "MPI_Testsome");
	if (done == MPI_UNDEFINED)
		done = 0;
	for (int i = 0; i < done; i++)
		finish(t->owner[t->index[i]], &t->status[i],
		       rc == MPI_SUCCESS ? MPI_SUCCESS : t->status[i].MPI_ERROR);
	/* With an error Open MPI frees what failed, named or not. */
	for (uint32_t i = 0; rc != MPI_SUCCESS && i < t->count; i++)
		if (t->request[i] == MPI_REQUEST_NULL &&
		    t->owner[i]->handle[WHERE] < WHERE_FAILED) {
			finish(t->owner[i], NULL, MPI_ERR_OTHER);
			done++;
		}
	if (done > 0)
		table_compact(t);
	return 0;
}

/* --- operations --- */

static int check_transfer(struct net *net, uint32_t peer, uint32_t tag, size_t bytes)
{
	if (peer >= net->size || bytes > NET_MESSAGE_MAX || tag > net->tag_max)
		return error_set(FTMEM_ENET,
		                 "message of %zu bytes with tag %" PRIu32 " to rank %" PRIu32
		                 " is beyond the limits of this MPI",
		                 bytes, tag, peer);
	return 0;
}

static int mpi_send(struct net *net, uint32_t peer, uint32_t tag, const void *buf, size_t bytes,
                    struct net_req *req)
{
	struct net_mpi *m = (struct net_mpi *)net;
	MPI_Request r;
	int rc = check_transfer(net, peer, tag, bytes);

	if (rc == 0)
		rc = table_reserve(&m->table);
	if (rc < 0)
		return rc;
	rc = MPI_Isend(buf, (int)bytes, MPI_BYTE, (int)peer, (int)tag, m->comm, &r);
	if (rc != MPI_SUCCESS)
		return mpi_failed(rc, "MPI_Isend");
	table_add(&m->table, r, req, peer, false, bytes);
	return 0;
}

static int mpi_recv(struct net *net, uint32_t peer, uint32_t tag, void *buf, size_t bytes,
                    struct net_req *req)
{
	struct net_mpi *m = (struct net_mpi *)net;
	MPI_Request r;
	int rc = check_transfer(net, peer, tag, bytes);

	if (rc == 0)
		rc = table_reserve(&m->table);
	if (rc < 0)
		return rc;
	rc = MPI_Irecv(buf, (int)bytes, MPI_BYTE, (int)peer, (int)tag, m->comm, &r);
	if (rc != MPI_SUCCESS)
		return mpi_failed(rc, "MPI_Irecv");
	table_add(&m->table, r, req, peer, true, bytes);
	return 0;
}

static int mpi_allreduce(struct net *net, uint64_t *words, uint32_t count, enum net_reduce op,
                         struct net_req *req)
{
	struct net_mpi *m = (struct net_mpi *)net;
	const MPI_Op ops[] = {[NET_MIN] = MPI_MIN, [NET_MAX] = MPI_MAX, [NET_SUM] = MPI_SUM};
	MPI_Request r;
	int rc = table_reserve(&m->table);

	if (rc < 0)
		return rc;
	rc = MPI_Iallreduce(MPI_IN_PLACE, words, (int)count, MPI_UINT64_T, ops[op], m->comm, &r);
	if (rc != MPI_SUCCESS)
		return mpi_failed(rc, "MPI_Iallreduce");
	table_add(&m->table, r, req, NET_ALL, false, 0);
	return 0;
}

static int mpi_test(struct net *net, struct net_req *req)
{
	struct table *t = &((struct net_mpi *)net)->table;
	int rc;

	if (req->handle[WHERE] < WHERE_FAILED && req->handle[ANSWERED] == t->sweep) {
		rc = sweep(t);
		if (rc < 0)
			return rc;
	}
	if (req->handle[WHERE] < WHERE_FAILED) {
		req->handle[ANSWERED] = t->sweep;
		return 0;
	}
	req->active = false;
	if (req->handle[WHERE] == WHERE_FAILED)
		return mpi_failed((int)req->handle[RESULT],
		                  req->receive ? "receive" : "MPI_Testsome");
	if (req->receive && req->handle[RESULT] != req->bytes)
		return error_set(FTMEM_ENET, "rank %" PRIu32 " sent %" PRIu64 " bytes where %"
		                 PRIu64 " were expected: do all ranks run the same library "
		                 "version?",
		                 req->peer, req->handle[RESULT], req->bytes);
	return 0;
}

static void mpi_cancel(struct net *net, struct net_req *req)
{
	struct table *t = &((struct net_mpi *)net)->table;
	int flag = 0, over = 0;
	MPI_Request *r;

	if (!req->active)
		return;
	req->active = false;
	if (req->handle[WHERE] >= WHERE_FAILED)
		return;
	r = &t->request[req->handle[WHERE]];
	MPI_Finalized(&over);
	/* An MPI that found an error may have freed others too. */
	over = over || *r == MPI_REQUEST_NULL;
	if (!over && req->receive)
		MPI_Cancel(r);
	/* A collective cannot be freed while it is active: it stays MPI's. */
	if (!over && MPI_Test(r, &flag, MPI_STATUS_IGNORE) == MPI_SUCCESS && !flag
	    && req->peer != NET_ALL)
		MPI_Request_free(r);
	net->lingering = net->lingering || (!over && !flag && req->peer != NET_ALL);
	net->out_of_step = net->out_of_step || (!over && !flag && req->peer == NET_ALL);
	req->handle[WHERE] = WHERE_FINISHED;
	table_compact(t);
}

static void mpi_free(struct net *net)
{
	struct net_mpi *m = (struct net_mpi *)net;
	int finalized = 0;

	MPI_Finalized(&finalized);
	net->ending = NULL;
	net_roll_close(net);
	if (!finalized && m->key != MPI_KEYVAL_INVALID) {
		MPI_Comm_delete_attr(MPI_COMM_SELF, m->key);
		MPI_Comm_free_keyval(&m->key);
	}
	/* MPI gives a freed communicator's number to another one, though messages of what was
	 * given up here may still arrive under it. */
	if (!finalized && m->comm != MPI_COMM_NULL && !net->broken && !net->out_of_step
	    && !net->lingering && m->table.count == 0)
		MPI_Comm_free(&m->comm);
	table_free(&m->table);
	free(m);
}

static const struct net_ops mpi_ops = {
	.send = mpi_send,
	.recv = mpi_recv,
	.allreduce = mpi_allreduce,
	.test = mpi_test,
	.cancel = mpi_cancel,
	.free = mpi_free,
};

/* The process that initialised MPI: not a forked child of it. */
static pid_t owner;

static void finalize_at_exit(int status, void *arg)
{
	int finalized = 1;

	(void)arg;
	if (getpid() != owner || status != 0)
		return;
	MPI_Finalized(&finalized);
	if (!finalized)
		MPI_Finalize();
}

/* MPI_Finalize() first frees MPI_COMM_SELF, and with it this attribute (MPI 3.1,
 * section 8.7.1): the progress thread must not call MPI after that. */
static int on_finalize(MPI_Comm comm, int key, void *attribute, void *extra)
{
	struct net *net = attribute;

	(void)comm;
	(void)key;
	(void)extra;
	net->broken = true;
	if (net->ending)
		net->ending(net->ending_arg);
	return MPI_SUCCESS;
}

static int watch_finalize(struct net_mpi *m)
{
	int rc = MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, on_finalize, &m->key, NULL);

	return rc == MPI_SUCCESS ? MPI_Comm_set_attr(MPI_COMM_SELF, m->key, &m->net) : rc;
}

static int init_mpi(void)
{
	int done = 0, level = MPI_THREAD_SINGLE, rc;

	MPI_Finalized(&done);
	if (done)
		return error_set(FTMEM_EINVAL,
		                 "MPI was finalised: call libftmem before MPI_Finalize()");
	MPI_Initialized(&done);
	if (done) {
		MPI_Query_thread(&level);
	} else {
		rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
		if (rc != MPI_SUCCESS)
			return mpi_failed(rc, "MPI_Init_thread");
		owner = getpid();
		if (on_exit(finalize_at_exit, NULL) != 0)
			return error_set(FTMEM_ENOMEM, "on_exit: no room");
	}
	if (level < MPI_THREAD_MULTIPLE)
		return error_set(
			FTMEM_EINVAL,
			"MPI was initialised without MPI_THREAD_MULTIPLE: call "
			"MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided), or let "
			"libftmem initialise MPI");
	return 0;
}

/* A launcher that started several processes but no MPI job among them. */
static int check_launcher(uint64_t world)
{
	static const struct {
		const char *env, *advice;
	} launcher[] = {
		{"WORLD_SIZE", "torchrun starts no MPI job; use: mpirun -n %s python SCRIPT"},
		{"SLURM_STEP_NUM_TASKS",
	         "srun started no MPI job; use: srun --mpi=pmix -n %s PROGRAM"},
		{"OMPI_COMM_WORLD_SIZE",
	         "the program's MPI is not the one of mpirun; use: mpirun -n %s "
	         "of the OpenMPI that libftmem is linked with"},
		{"PMI_SIZE",
	         "the launcher's process manager is not the one of this MPI; use: mpirun -n %s "
	         "of the OpenMPI that libftmem is linked with"},
	};

	for (size_t i = 0; i < sizeof(launcher) / sizeof(launcher[0]); i++) {
		const char *text = getenv(launcher[i].env);
		uint64_t size = text ? strtoull(text, NULL, 10) : 0;
		char advice[256];

		if (size <= world)
			continue;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(advice, sizeof(advice), launcher[i].advice, text);
#pragma GCC diagnostic pop
		return error_set(FTMEM_EINVAL, "%s is %s, but MPI has %" PRIu64 " rank%s: %s",
		                 launcher[i].env, text, world, world == 1 ? "" : "s", advice);
	}
	return 0;
}

/* MPI_Comm_dup() with a deadline. */
static int duplicate(struct net_mpi *m, MPI_Comm comm, uint32_t timeout_ms)
{
	uint64_t deadline = clock_deadline(timeout_ms);
	struct net_backoff backoff = {0};
	MPI_Request r;
	int done = 0, rc = MPI_Comm_idup(comm, &m->comm, &r);

	while (rc == MPI_SUCCESS && !done) {
		rc = MPI_Test(&r, &done, MPI_STATUS_IGNORE);
		if (rc == MPI_SUCCESS && !done && clock_ns() > deadline)
			return error_set(FTMEM_ETIMEOUT,
			                 "not every rank made the call that joins them, such "
			                 "as ftmem_open(), within %" PRIu32 " ms",
			                 timeout_ms);
		net_backoff(&backoff);
	}
	return rc == MPI_SUCCESS ? 0 : mpi_failed(rc, "duplicating the communicator");
}

int net_mpi_open(const void *comm, uint32_t timeout_ms, struct net **out)
{
	struct net_mpi *m = NULL;
	int rc, world = 0, rank = 0, size = 0, flag = 0, *tag_ub = NULL;

	*out = NULL;
	rc = init_mpi();
	if (rc < 0)
		return rc;
	MPI_Comm_size(MPI_COMM_WORLD, &world);
	rc = check_launcher((uint64_t)world);
	if (rc < 0)
		return rc;
	m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(FTMEM_ENOMEM, "no memory for the network");
	m->net.ops = &mpi_ops;
	m->comm = MPI_COMM_NULL;
	m->key = MPI_KEYVAL_INVALID;
	rc = duplicate(m, comm ? *(const MPI_Comm *)comm : MPI_COMM_WORLD, timeout_ms);
	if (rc < 0) {
		/* MPI may still write to the communicator's handle: m stays. */
		if (rc != FTMEM_ETIMEOUT)
			free(m);
		return rc;
	}
	rc = MPI_Comm_set_errhandler(m->comm, MPI_ERRORS_RETURN);
	if (rc == MPI_SUCCESS)
		rc = MPI_Comm_rank(m->comm, &rank);
	if (rc == MPI_SUCCESS)
		rc = MPI_Comm_size(m->comm, &size);
	if (rc == MPI_SUCCESS)
		rc = MPI_Comm_get_attr(m->comm, MPI_TAG_UB, &tag_ub, &flag);
	if (rc == MPI_SUCCESS)
		rc = watch_finalize(m);
	if (rc != MPI_SUCCESS) {
		rc = mpi_failed(rc, "duplicating the communicator");
		/* The others begin with a step that this rank does not take. */
		m->net.out_of_step = true;
		mpi_free(&m->net);
		return rc;
	}
	m->net.rank = (uint32_t)rank;
	m->net.size = (uint32_t)size;
	m->net.tag_max = flag ? (uint32_t)*tag_ub : 32767;
	*out = &m->net;
	return net_roll_open(&m->net);
}
