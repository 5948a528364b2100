/* SPDX-License-Identifier: BSD-3-Clause */
/* Drives a route (route.h) over the network. Collective; in order with other couriers. */
#ifndef FTMEM_COURIER_H
#define FTMEM_COURIER_H

#include "net.h"
#include "route.h"

/* All rounds of the way there, of the way back. timeout_ms: for each message. ENET,
 * ENOMEM, ETIMEOUT naming the peer: then messages may still be on their way, and the
 * network must not be used for another (net->broken is set). */
int courier_forward(struct net *net, struct route *r, uint32_t timeout_ms, const char *what);
int courier_back(struct net *net, struct route *r, uint32_t timeout_ms, const char *what);

#endif
