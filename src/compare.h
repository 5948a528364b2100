/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Whether replicas are equal, by checksums only. Each rank takes checksums of all cells
 * it shares with others, while its regions are read for a snapshot; a cell is cut into
 * checks of COMPARE_BYTES.
 *
 * All are compared with one word: rank number i of the R holders of a cell weighs the
 * checksum of check c with h(cell, c, i) - h(cell, c, i + 1 mod R), h a 64-bit hash.
 * The weights of a check add up to 0 (mod 2^64), so the sum over all ranks and checks is
 * 0 if replicas are equal; if any differ it is 0 by chance of about 2^-32, as for a
 * checksum that does not see a difference. Only if it is not 0 are the checksums
 * themselves sent, to the owners of the tensors, to name what differs.
 */
#ifndef FTMEM_COMPARE_H
#define FTMEM_COMPARE_H

#include "copy.h"
#include "net.h"
#include "share.h"

#define COMPARE_BYTES (UINT64_C(1) << 20)
/* Holds what compare_name() says of any name and box. */
#define COMPARE_TEXT (FTMEM_REGION_NAME_MAX + BOX_TEXT + 128)

struct compare;

/* layout and cells are borrowed for as long as it lives. ENOMEM. */
int compare_new(const struct layout *layout, const struct share_cell *cells, uint32_t count,
                struct compare **out);
void compare_free(struct compare *c); /* accepts NULL */

/* For a copy_job: checks and room for their sums; count 0 if nothing is shared. */
void compare_attach(struct compare *c, struct copy_job *job);
uint64_t compare_bytes(const struct compare *c); /* that are read for it */

/* After the copy: this rank's word. */
uint64_t compare_word(const struct compare *c);

/*
 * Collective. Finds what differs: the same text on all ranks, "rank 2 differs from 3
 * others: tensor w, box [0:4]"; of several the one with the lowest rank; with only two
 * holders, or as many on each side, it says that they differ. Each rank that is in the
 * minority, or of those without a majority, also logs what of its own differs, at most 8
 * lines. If a rank has no memory for it, the text says that it could not be found out.
 * ENET, ETIMEOUT, ENOMEM: text says so, too, and the network is of no more use.
 */
int compare_name(struct compare *c, struct net *net, uint32_t timeout_ms, uint64_t version,
                 const struct log *log, char *text, uint32_t bytes);

#endif
