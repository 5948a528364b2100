/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reads one arena for the scrubber, a step at a time: its description, then a slot of it.
 * Nothing that it reads is trusted before it was checked, and memory is of a fixed size.
 */
#ifndef FTMEM_SMP_SCRUB_WALK_H
#define FTMEM_SMP_SCRUB_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "slot.h"
#include "smp/wire.h"

/* Bytes read in a step at most, but for headers and single checksums. */
#define WALK_STEP (256u * 1024u)

enum walk_result {
	WALK_ON,    /* call again */
	WALK_FOUND, /* the same; more blocks are known to be damaged */
	WALK_END,   /* all was read: damage, or bad blocks, or neither */
	WALK_LEFT,  /* it is written anew, or not there (yet) */
};

enum walk_phase { WALK_MAP, WALK_SUMS, WALK_BLOCKS, WALK_CONFIRM };

struct walk {
	int fd; /* borrowed */
	struct arena_header header;
	struct rail rail[ARENA_RAILS_MAX];
	struct slot_shape shape;
	enum walk_phase phase;
	uint64_t cost;    /* bytes read by the last call */
	uint32_t damage;  /* enum wire_damage */
	/* a range whose checksum is taken */
	uint64_t at, left;
	uint32_t sum;
	bool unreadable;  /* the kernel refused some of it: a page is lost */
	/* the slot */
	uint64_t base;
	struct slot_header slot;
	uint64_t first, count; /* blocks: begins there and goes round */
	uint64_t done;         /* of them */
	uint64_t done_bytes, bytes;
	bool again;            /* what is in hand did not fit once already */
	uint64_t bad;          /* blocks, of which confirmed so many: the tables were good */
	uint64_t confirmed;
	uint32_t named;
	struct wire_block block[WIRE_BLOCKS];
	uint8_t buffer[WALK_STEP];
};
_Static_assert(ARENA_RAILS_BYTES_MAX <= WALK_STEP, "rail records are read into buffer");

/* Begins with an arena of that memory, of so many bytes. WALK_ON: go on with walk_map().
 * WALK_END: damage says what is. WALK_LEFT: it was not written yet. */
enum walk_result walk_open(struct walk *w, int fd, uint64_t bytes, uint64_t epoch, uint32_t rank);
/* Until WALK_END. */
enum walk_result walk_map(struct walk *w);

/* Reads the header of slot 0 or 1 into slot. WALK_ON: it is committed. WALK_END: damage says
 * what is. WALK_LEFT: nothing to look at. */
enum walk_result walk_slot(struct walk *w, int slot);
/* Begins with block next, modulo their number; then walk_step() until WALK_END or _LEFT. */
void walk_begin(struct walk *w, uint64_t next);
enum walk_result walk_step(struct walk *w);
/* The block to begin with if it is left now. */
uint64_t walk_next(const struct walk *w);

#endif
