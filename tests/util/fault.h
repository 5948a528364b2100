/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Makes things go wrong at a chosen point of the library's work, from outside: the
 * functions of fault_wrap.c are called across object files, so the linker can send
 * their callers there (--wrap, tests/e2e/CMakeLists.txt). The product knows nothing
 * of it.
 *
 *   FTMEM_TEST_FAULT = point[@version]:rank:count:what[,...]
 *
 * When rank (a number, or * for any) passes the point for the count-th time (with
 * @version: while that version is under way), `what` happens:
 *
 *   kill-rank   this process is killed
 *   kill-smp    the ftmem-smp of this node is
 *   kill-node   ftmem-smp, then the other ranks of this node, then this process
 *   kill-job    all ranks, this one last
 *   stop        this process is stopped
 *   fail        the call fails (only at points of calls that can)
 *   flip        a bit of the block is flipped after its checksum was taken (copy only)
 *
 * While ftmem_restore() or ftmem_repair() runs some points have names of their own, in
 * brackets:
 *
 *   begin-fill [refill]           before a slot is marked as being filled
 *   copy [recopy]                 before a block is copied
 *   tell, exchange, trailer       before a message of the exchange is sent
 *     [retell, reexchange, retrailer]
 *   encode [reencode]             before a parity block is computed
 *   before-prepare [before-reprepare], after-prepare [reprepare]
 *   vote [revote]                 after the rank joined the vote
 *   before-commit [before-recommit], after-commit [recommit]
 *   clear [reclear]               before a slot is marked empty
 *   attach, create, touch         before an arena is attached, created, touched
 *   [verify]                      before a slot's blocks are verified, not in place
 *   rebuild                       before a row of blocks is decoded
 *   rebuilt                       before a rebuilt block is checked
 *   rebuild-send                  before a block or checksums of a rebuild are sent
 *   match [plan]                  before records go to the owners of names, or back
 *   move                          before it is looked up what goes into which region
 *   fill                          before a block of the own slot is written into regions,
 *                                 in place; else when parts at hand are in the regions,
 *                                 others are not
 *   move-send                     before a part is sent to another rank
 *   retire                        before arenas of older epochs are given up
 *   respawn                       before an arena is handed to a new ftmem-smp
 *   agree [reagree]               before a collective step of open and seal, of restore
 *   [restored]                    before ftmem_restore() returns
 *
 * What fired is appended to <folder>/fired.<rank>, one line each.
 */
#ifndef FTMEM_TEST_FAULT_H
#define FTMEM_TEST_FAULT_H

#include "smp/client.h"

/*
 * To be called first; a barrier of the caller's must follow. folder is where the
 * ranks of one job leave their process ids; node is the failure domain. Ends the
 * program if FTMEM_TEST_FAULT makes no sense.
 */
void fault_start(const char *folder, uint32_t rank, uint32_t ranks, const char *node);

/* Whether kill-smp happened here. */
bool fault_killed_smp(void);

/* --- for fault_wrap.c --- */

enum fault_point {
	POINT_BEGIN_FILL,
	POINT_COPY,
	POINT_TELL,
	POINT_EXCHANGE,
	POINT_TRAILER,
	POINT_ENCODE,
	POINT_BEFORE_PREPARE,
	POINT_AFTER_PREPARE,
	POINT_VOTE,
	POINT_BEFORE_COMMIT,
	POINT_AFTER_COMMIT,
	POINT_CLEAR,
	POINT_ATTACH,
	POINT_CREATE,
	POINT_TOUCH,
	POINT_VERIFY,
	POINT_REBUILD,
	POINT_REBUILD_SEND,
	POINT_REBUILT,
	POINT_ROUTE,
	POINT_MOVE,
	POINT_FILL,
	POINT_MOVE_SEND,
	POINT_RETIRE,
	POINT_RESPAWN,
	POINT_AGREE,
	POINT_RESTORED,
	POINT_COUNT,
};

enum fault_what {
	DO_KILL_RANK,
	DO_KILL_SMP,
	DO_KILL_NODE,
	DO_KILL_JOB,
	DO_STOP,
	DO_FAIL,
	DO_FLIP,
	DO_NOTHING,
};

/* The rank passes a point. DO_FAIL or DO_FLIP is left to the caller; else
 * DO_NOTHING. Any thread. */
enum fault_what fault_pass(enum fault_point point);
/* Sets a message and returns code. */
int fault_fail(int code, enum fault_point point);

void fault_set_version(uint64_t version);
void fault_set_restoring(bool restoring);
void fault_set_smp(struct smp_client *smp);

#endif
