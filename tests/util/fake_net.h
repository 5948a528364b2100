/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * net.h between ranks of one process. A transfer ends in the test() of its own rank,
 * when the seed says so: until then the sender's bytes may still be read and the
 * receiver's buffer still be written, as with MPI. Messages of one sender with one
 * tag arrive in the order of their sends. A receive's buffer is overwritten when it is
 * posted, so that early readers are seen.
 *
 * Any number of threads, one for each rank. A test that steps all ranks itself on one
 * thread gets the same course for the same seed.
 */
#ifndef FTMEM_TEST_FAKE_NET_H
#define FTMEM_TEST_FAKE_NET_H

#include "net.h"

#define FAKE_NET_RANKS 16
#define FAKE_NET_TAG_MAX 32767
/* Every tag; every rank. */
#define FAKE_NET_ANY UINT32_MAX

struct fake_net;

struct fake_net *fake_net_new(uint32_t ranks, uint64_t seed);
/* What was given up while under way stays allocated, for its memory may be in use. */
void fake_net_free(struct fake_net *f);
/* When no rank uses any memory of theirs: all goes, whatever was under way. */
void fake_net_destroy(struct fake_net *f);
struct net *fake_net_of(struct fake_net *f, uint32_t rank);

/* Chance in percent that a test() ends what could end; default 100. */
void fake_net_set_chance(struct fake_net *f, uint32_t percent);

/* Messages from, to and with this tag wait from now on; matching ones under way too. */
void fake_net_hold(struct fake_net *f, uint32_t from, uint32_t to, uint32_t tag);
void fake_net_hold_collectives(struct fake_net *f);
/* Ends all holds. */
void fake_net_release(struct fake_net *f);
/* Nothing that this rank takes part in ends any more: its host is gone. */
void fake_net_silence(struct fake_net *f, uint32_t rank);
/* Its process has ended: its memory is not used any more. What it sent arrives if reached is
 * set, else only what has arrived; so it is with its part in collective calls. */
void fake_net_end(struct fake_net *f, uint32_t rank, bool reached);
/* Every further call of this rank returns ENET. */
void fake_net_break(struct fake_net *f, uint32_t rank);

/* Flips one bit of the n-th message (from 1) sent from now on so; 0: of none. */
void fake_net_corrupt(struct fake_net *f, uint32_t from, uint32_t to, uint32_t tag, uint32_t n);
/* Whether it was delivered. */
bool fake_net_corrupted(struct fake_net *f);
/* Cuts the n-th message short by one byte: its receiver gets ENET. */
void fake_net_cut(struct fake_net *f, uint32_t from, uint32_t to, uint32_t tag, uint32_t n);

/* Sends or receives that were begun and not tested to their end or cancelled. */
uint32_t fake_net_under_way(struct fake_net *f);
/* Messages sent and not received. */
uint32_t fake_net_unreceived(struct fake_net *f);
uint64_t fake_net_messages(struct fake_net *f);
/* Collective calls that rank joined. */
uint32_t fake_net_joined(struct fake_net *f, uint32_t rank);

#endif
