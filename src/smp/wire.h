/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The conversation between trainers (or ftmem) and ftmem-smp: SOCK_SEQPACKET on a
 * UNIX socket, one request and one reply at a time, fixed size, at most one
 * descriptor with SCM_RIGHTS. Host byte order: both ends are one machine. Byte by
 * byte in docs/formats.md. Magic and version lie at the same place in every
 * version, so that both ends can name what they met.
 */
#ifndef FTMEM_SMP_WIRE_H
#define FTMEM_SMP_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ftmem.h"

#define WIRE_MAGIC   0x504d5446u /* "FTMP" in memory */
#define WIRE_VERSION 2u
/* No message of any version is longer: room to receive a foreign one. */
#define WIRE_ROOM    1024u

enum wire_op {
	WIRE_HELLO = 1, /* format, job, rank, index: expire_s or 0, bytes: MiB/s of the
	                     scrubber, WIRE_SCRUB_OFF or 0; first on every connection, and
	                     again for what it tells */
	WIRE_LIST,      /* index: reply describes arena number index, or FRESH */
	WIRE_CREATE,    /* epoch, rank, bytes: reply carries the descriptor; leases it */
	WIRE_ATTACH,    /* epoch, rank, flags: reply carries the descriptor */
	WIRE_ADOPT,     /* epoch, rank: request carries the descriptor; leases it */
	WIRE_RELEASE,   /* epoch, rank: ends the lease */
	WIRE_DROP,      /* epoch, rank: removes the arena */
	WIRE_RETIRE,    /* epoch: removes all arenas of smaller epochs */
	WIRE_FORGET,    /* removes all arenas */
	WIRE_STOP,      /* flags: frees all and ends the process */
	WIRE_BYE,       /* ends all leases taken on this connection */
	WIRE_CHECK,     /* epoch, rank, flags: reply describes the arena, as that of LIST */
	WIRE_OPS,
};

#define WIRE_RANK_OBSERVER UINT32_MAX /* HELLO of a client that is no rank */
#define WIRE_ATTACH_LEASE  1u         /* ATTACH for writing, exclusively */
#define WIRE_STOP_FORCE    2u         /* STOP though ranks are attached */
#define WIRE_CHECK_AGAIN   4u         /* CHECK: the scrubber looks at it anew, and first */
#define WIRE_SCRUB_OFF     UINT32_MAX /* HELLO: nothing is scrubbed */

struct wire_request {
	uint32_t magic, version;
	uint32_t op, flags;
	uint32_t format; /* ARENA_FORMAT */
	uint32_t rank;
	uint64_t epoch, bytes, index;
	char job[FTMEM_NAME_MAX + 1];
};
_Static_assert(sizeof(struct wire_request) == 112, "documented in docs/formats.md");

/* What the scrubber found damaged, beside blocks. */
enum wire_damage {
	WIRE_WHOLE = 0,
	WIRE_DAMAGE_HEADER,  /* of the arena, or the slot */
	WIRE_DAMAGE_MAP,     /* of the arena */
	WIRE_DAMAGE_RAILS,   /* of the arena */
	WIRE_DAMAGE_STATE,   /* of the slot: none that there is */
	WIRE_DAMAGE_SUMS,    /* of the slot: the checksums do not fit theirs */
	WIRE_DAMAGE_MISSING, /* of the slot: its memory was never filled */
	WIRE_DAMAGES,
};

struct wire_block {
	uint32_t rail, parity; /* parity 0: data, index is the chunk; 1: index is the row */
	uint32_t index, row;
};
/* Damaged blocks that are named of a slot; the others are only counted. */
#define WIRE_BLOCKS 4

/* What the scrubber knows of a slot's present version. */
struct wire_check {
	uint32_t damage; /* enum wire_damage; then bad is 0 */
	uint32_t named;  /* of block */
	uint64_t bad;    /* damaged blocks */
	uint64_t checked_ns;  /* CLOCK_REALTIME of the last look at all of it, 0: not yet */
	uint64_t done, bytes; /* of its blocks: looked at since, of how many; 0: not begun */
	struct wire_block block[WIRE_BLOCKS];
};

struct wire_slot {
	uint32_t state; /* enum slot_state */
	uint32_t reserved;
	uint64_t version, incarnation, filled_ns;
	struct wire_check check;
};
_Static_assert(sizeof(struct wire_slot) == 136, "documented in docs/formats.md");

struct wire_reply {
	uint32_t magic, version;
	int32_t result; /* enum ftmem_result */
	uint32_t op;    /* of the request */
	uint32_t format, rank;
	uint64_t epoch;
	uint64_t bytes;    /* of the arena; HELLO: of all */
	uint32_t count;    /* LIST, HELLO: arenas held */
	int32_t pid;       /* of the lease's holder, 0: none; HELLO: of the SMP */
	uint32_t expire_s; /* HELLO: settled time until expiry, */
	uint32_t idle_s;   /* how much of it has passed, */
	uint32_t clients;  /* and connections of ranks */
	uint32_t scrub_mib_s; /* HELLO: 0: off */
	uint64_t generation; /* LIST, HELLO: changes whenever arenas come or go */
	uint64_t started_ns; /* HELLO: CLOCK_REALTIME of the SMP's start */
	uint32_t damage;     /* LIST, CHECK: enum wire_damage, of the arena */
	uint32_t reserved;
	struct wire_slot slot[2];
	char text[256]; /* on error: what and what to do */
};
_Static_assert(sizeof(struct wire_reply) == 616, "documented in docs/formats.md");

/* What is received into. */
union wire_message {
	struct wire_request request;
	struct wire_reply reply;
	char room[WIRE_ROOM];
};

enum wire_result {
	WIRE_OK = 0,
	WIRE_AGAIN = 1,  /* would have to wait */
	WIRE_CLOSED = 2, /* the other end is gone */
};

/* Sends one message, with a copy of fd unless it is -1. Does not wait. ESYS. */
int wire_send(int sock, const void *msg, size_t bytes, int fd);

/*
 * Receives one message. Does not wait. *fd is the descriptor that came with it, the
 * caller's, or -1. ESMP: too long, or with more than one descriptor; what came is
 * closed. ESYS.
 */
int wire_receive(int sock, union wire_message *msg, size_t *bytes, int *fd);

/* What is damaged: one word or two. */
const char *wire_damage_text(uint32_t damage);
/* A damaged block: which. */
#define WIRE_BLOCK_TEXT 72
const char *wire_block_text(const struct wire_block *b, char text[WIRE_BLOCK_TEXT]);

/* Fills magic, version, format, op and job (a valid name). */
void wire_request_init(struct wire_request *r, enum wire_op op, const char *job);
void wire_reply_init(struct wire_reply *r, uint32_t op);

/*
 * Whether bytes at r are a request of this version for this job. ESMP: another
 * version (the message names both). EINVAL: no request.
 */
int wire_request_check(const struct wire_request *r, size_t bytes, const char *job);
/* Whether bytes at r are the reply to op; terminates its text, and bounds what it names.
 * ESMP. */
int wire_reply_check(struct wire_reply *r, size_t bytes, uint32_t op);

#endif
