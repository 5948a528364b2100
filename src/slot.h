/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The format of an arena: shared memory of one rank, read by trainers, ftmem-smp
 * and ftmem. Byte by byte in docs/formats.md.
 *
 *   arena = [ header page | map blob | rails ] [ slot 0 ] [ slot 1 ]
 *   slot  = [ header page | checksums | data | parity of rail 0 | of rail 1 ... ]
 *
 * Parts begin on 4096-byte boundaries. The rank is a member of one or more
 * rails; its data lies in the first (see map.h). Checksums, in order, 32 bits
 * each: for every rail, for every member in order, its data blocks (chunk by
 * chunk, row by row); then for every rail the own parity blocks (parity row by
 * row, then block row by block row). What a table says of a data block of length 0
 * means nothing.
 *
 * A rail record is packed: id, n, m, block_bytes (32 bits each), n ranks (32 bits
 * each), n data sizes (64 bits each).
 *
 * The state word of a slot is published with one release store after all else,
 * and read with acquire. Everything read from an arena is checked before use.
 */
#ifndef FTMEM_SLOT_H
#define FTMEM_SLOT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "ftmem.h"
#include "map.h"
#include "rail.h"

#define ARENA_MAGIC UINT64_C(0x414d454d54464c31) /* "1LFTMEMA" in memory */
/* What memory begins with until the header is there: no flipped bits make it of the other. */
#define ARENA_UNWRITTEN (~ARENA_MAGIC)
#define ARENA_FORMAT 3u
#define ARENA_PAGE 4096u
#define ARENA_RAILS_MAX 256

/* Far apart, so that flipped bits do not turn one into another. */
enum slot_state {
	SLOT_EMPTY = 0x00,
	SLOT_FILLING = 0x3c,
	SLOT_PREPARED = 0x5a,
	SLOT_COMMITTED = 0xa5,
};

/* What a slot holds: incarnation tells runs of the job apart that may produce
 * the same version number twice. Ordered by incarnation, then version. */
struct stamp {
	uint64_t incarnation, version;
};
static inline int stamp_cmp(struct stamp a, struct stamp b)
{
	if (a.incarnation != b.incarnation)
		return a.incarnation < b.incarnation ? -1 : 1;
	return a.version < b.version ? -1 : a.version > b.version;
}

/* At offset 0 of the arena; written once, before the arena is announced. */
struct arena_header {
	uint64_t magic;
	uint32_t format;
	uint32_t header_sum;   /* checksum of this struct with this field 0 */
	uint64_t arena_bytes;
	uint64_t epoch;        /* >= 1 */
	uint64_t geometry;     /* digest of map, rails and layouts of all ranks */
	uint64_t layout;       /* digest of this rank's layout */
	uint32_t rank, ranks;
	uint32_t rails, block_bytes;
	uint64_t map_offset, map_bytes;
	uint64_t rails_offset; /* rail records, one after the other */
	uint32_t map_sum, rails_sum;
	uint64_t slot_offset[2], slot_bytes;
	char job[FTMEM_NAME_MAX + 1];
	char node[FTMEM_NAME_MAX + 1]; /* where it was created */
	uint64_t rails_bytes;
	uint32_t late;     /* 1: made after the epoch was first sealed, for a lost rank; its map
	                      names the nodes as they were then */
	uint32_t reserved; /* 0 */
};
_Static_assert(sizeof(struct arena_header) == 264, "documented in docs/formats.md");

/* At this offset of the arena. */
#define ARENA_RUN_OFFSET 512u
struct arena_run {
	_Atomic uint64_t entered; /* see arena_entered() */
	_Atomic uint64_t inverse; /* its complement; both 0: none */
};
_Static_assert(sizeof(struct arena_run) == 16, "documented in docs/formats.md");

/* At the start of a slot. All but state is valid if state is not EMPTY or
 * FILLING and header_sum fits. */
struct slot_header {
	_Atomic uint64_t state;    /* version << 8 | enum slot_state */
	uint64_t version;
	uint64_t incarnation;
	uint64_t sums_bytes;       /* of the checksum tables */
	uint32_t sums_sum;         /* checksum of the tables */
	uint32_t header_sum;       /* of version .. sums_sum, state excluded */
	uint64_t filled_ns;        /* CLOCK_REALTIME of the snapshot, for display;
	                              not covered by header_sum */
};
_Static_assert(sizeof(struct slot_header) == 48, "documented in docs/formats.md");

/* What header_sum must be, whatever it is. */
uint32_t arena_header_sum(const struct arena_header *h);
uint32_t slot_header_sum(const struct slot_header *h);

/* Where the parts of a rank's slot lie: follows from its rails alone. */
struct slot_shape {
	uint32_t rails;
	const struct rail *rail;      /* [rails], borrowed */
	uint32_t member[ARENA_RAILS_MAX]; /* this rank in each rail */
	uint64_t data_sum[ARENA_RAILS_MAX];   /* index of the first data checksum */
	uint64_t parity_sum[ARENA_RAILS_MAX]; /* of the first own parity checksum */
	uint64_t sums_offset, sums_bytes;
	uint64_t data_offset, data_bytes;
	uint64_t parity_offset[ARENA_RAILS_MAX];
	uint64_t slot_bytes;
};

/*
 * EINVAL: a rail that makes no sense, that rank is not a member of or that, not
 * being the first, holds data of it; sizes that overflow.
 */
int slot_shape_init(struct slot_shape *shape, const struct rail *rails,
                    uint32_t count, uint32_t rank);

/* Index into the checksum table of a data block of a member of a rail, of an
 * own parity block. */
uint64_t slot_data_sum_index(const struct slot_shape *s, uint32_t rail,
                             uint32_t member, uint32_t chunk, uint32_t row);
uint64_t slot_parity_sum_index(const struct slot_shape *s, uint32_t rail,
                               uint32_t parity_row, uint32_t row);

/* One slot of a mapped arena. */
struct slot {
	struct slot_header *header;
	uint32_t *sums;
	uint8_t *data;
	const struct slot_shape *shape;
	uint8_t *base;
};
/* The slot of that shape which lies at base; writes nothing. */
void slot_init(struct slot *s, const struct slot_shape *shape, void *base);
/* Start of the parity chunk of parity_row in rail. */
uint8_t *slot_parity(const struct slot *s, uint32_t rail, uint32_t parity_row);

/* Writers: one thread of the owning rank. Each is one release store; prepare
 * first writes the header and the tables' checksum. */
void slot_set_empty(struct slot *s);
void slot_set_filling(struct slot *s, struct stamp stamp);
void slot_set_prepared(struct slot *s, struct stamp stamp);
void slot_set_committed(struct slot *s);

/*
 * Readers. The state, and for PREPARED and COMMITTED the stamp (else zeros). A slot
 * whose header or tables do not pass their checksums reads as EMPTY, *damaged true.
 * A slot that is rewritten meanwhile reads as it is then, or as FILLING.
 */
enum slot_state slot_read(const struct slot *s, struct stamp *stamp, bool *damaged);

/* A mapped arena. */
struct arena {
	int fd;                 /* owned; -1 if none */
	uint8_t *base;
	uint64_t bytes;
	const struct arena_header *header; /* owned copies, checked: what others */
	struct map *map;        /* write into the arena later does not change them */
	struct rail *rails;     /* [header->rails] */
	struct slot_shape shape;
	struct slot slot[2];
};

/* What a new arena is made of; all borrowed. */
struct arena_spec {
	const char *job, *node;
	uint64_t epoch, geometry, layout;
	uint32_t rank;
	const struct map *map;
	const struct rail *rails;
	uint32_t rails_count;
	bool late;  /* see struct arena_header */
};

/* Bytes an arena of this spec takes. EINVAL: names, sizes, or rails that are not
 * those of the rank in the map, in the order of map_rails_of(). ENOMEM. */
int arena_bytes(const struct arena_spec *spec, uint64_t *bytes);
/*
 * Maps fd of at least arena_bytes() and writes header, map and rails; both slots
 * empty. Takes fd: closes it on error too. ENOMEM, ESYS. Memory is not touched
 * beyond the headers.
 */
int arena_create(int fd, const struct arena_spec *spec, struct arena **out);
/*
 * Whether it was made, but its header never written, since its rank ended before: it never
 * held anything. Borrows fd.
 */
bool arena_unwritten(int fd);
/*
 * Maps an existing arena and checks header, map and rails. Takes fd. ECORRUPT
 * says what is damaged; ESMP: another format version (names both). writable
 * false maps it read-only. ENOMEM, ESYS.
 */
int arena_attach(int fd, bool writable, struct arena **out);
/* The same for a rank whose SMP gave it the arena: as that holds arenas of one format and lets
 * in no rank that has another, what looks like one is damaged, too: ECORRUPT. */
int arena_attach_held(int fd, bool writable, struct arena **out);
/*
 * Writes header, map and rails anew from the checked copies where those in the mapping are not
 * the same any more: the only copies of them in shared memory. How many of the three; none if
 * the copy of the header is itself damaged.
 */
uint32_t arena_mend(struct arena *a);

/*
 * The last run of the job that the arena knows the outcome of: it was part of it from the
 * beginning, when it held what that run restored or was emptied; or what came of that run was
 * rebuilt in it. Its incarnation; 0: none; UINT64_MAX: damaged, it may be any.
 */
uint64_t arena_entered(const struct arena *a);
/* By the owning rank; before the run commits anything. */
void arena_enter(struct arena *a, uint64_t incarnation);
/* Unmaps; the memory lives on in its other holders. Accepts NULL. */
void arena_free(struct arena *a);

/* Bytes of rail records at most. */
#define ARENA_RAILS_BYTES_MAX (ARENA_RAILS_MAX * (16u + RAIL_MAX * 12u))
/* What arena_attach_held() checks, for who reads arenas without mapping them. size: of the
 * memory. ECORRUPT. */
int arena_check_header(const struct arena_header *h, uint64_t size);
/* records: a copy of the rail records, of a header that passed. Fills rails [h->rails] and
 * shape, which borrows them. ECORRUPT. */
int arena_check_rails(const struct arena_header *h, const uint8_t *records, struct rail *rails,
                      struct slot_shape *shape);

/*
 * Recomputes the checksums of all own blocks of a slot. Calls bad, if given, for
 * each block that fails: parity false: data (index is the chunk), true: parity
 * (index is the parity row). Returns the number of bad blocks.
 */
uint64_t slot_verify(const struct slot *s,
                     void (*bad)(void *arg, uint32_t rail, bool parity,
                                 uint32_t index, uint32_t row), void *arg);

#endif
