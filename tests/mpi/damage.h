/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Damage to what a rank stores: bits that flip, pages that are torn, anywhere in its arena; and
 * what must be true of it when it has been mended.
 */
#ifndef FTMEM_TEST_DAMAGE_H
#define FTMEM_TEST_DAMAGE_H

#include "cluster.h"

/* Where. Those up to DAMAGE_STATE are parts of a slot. */
enum damage_place {
	DAMAGE_DATA,
	DAMAGE_LAYOUT, /* the description at the start of the data */
	DAMAGE_PARITY,
	DAMAGE_SUMS,
	DAMAGE_SLOT_HEADER,
	DAMAGE_STATE,
	DAMAGE_ARENA_HEADER,
	DAMAGE_MAP,
	DAMAGE_RAILS,
	DAMAGE_RUN,
	DAMAGE_PLACES,
};

extern const char *const damage_place_name[DAMAGE_PLACES];

enum damage_kind {
	DAMAGE_FLIP,
	/* Of a page, or the rest of the place: */
	DAMAGE_ZEROS,
	DAMAGE_OTHER,  /* what the other slot has there; of the arena's own parts: its data */
	DAMAGE_SHIFT,  /* by some bytes */
	DAMAGE_KINDS,
};

#define DAMAGE_ANY UINT32_MAX

struct damage {
	enum damage_place place;
	enum damage_kind kind;
	uint32_t field; /* of a header, that a bit flips in; or DAMAGE_ANY */
	uint32_t bits;  /* that flip */
	uint32_t bit;   /* that flips, from the place's first; or DAMAGE_ANY */
};

/* How many fields a header has; 0: the place is none. */
uint32_t damage_fields(enum damage_place place);
/* Bytes of a place in that arena. */
uint64_t damage_bytes(const struct arena *a, enum damage_place place);
/* Does it to the arena, in or around that slot. Whether anything changed that counts: when the
 * snapshot was filled may become wrong. */
bool damage_do(const struct arena *a, const struct slot *s, const struct damage *d,
               uint64_t *random);
const char *damage_text(const struct damage *d, char text[96]);
/* Whether the slot now looks like one that never held anything. */
bool damage_looks_empty(const struct damage *d);

/* All fields of all headers, then flips and torn pages of all places; damage number i, or false
 * behind the last. bits: of the flips that are in no field. */
bool damage_number(uint32_t i, uint32_t bits, struct damage *d);

/* One bit of this rank's block of a stripe, in a row that random chooses. */
void damage_stripe(const struct arena *a, const struct slot *s, uint32_t stripe,
                   uint64_t *random);

/* A digest of data and parity of a slot. */
uint64_t damage_digest(const struct slot *s);
/* That the arena, as shared memory shows it, and its slots pass all checks. *newest: the slot
 * that holds that version committed; ends the run if none does. Not collective. */
struct arena *damage_none(const struct cluster *c, uint64_t version, struct slot **newest);

/* What became of it, counted for each rank that was damaged; damage_say() prints it. */
enum damage_end {
	DAMAGE_MENDED,   /* the newest version, whole again */
	DAMAGE_OLDER,    /* an older version: more was damaged than parity covers */
	DAMAGE_REFUSED,  /* with the reason */
	DAMAGE_HARMLESS, /* nothing was damaged that counts */
	DAMAGE_ENDS,
};
void damage_count(enum damage_end end, uint32_t ranks);
void damage_say(const char *what);

#endif
