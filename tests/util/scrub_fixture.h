/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A scrubber over arenas in memory, on a clock that the test turns. Reads are watched,
 * and may be disturbed, through pread(): link with WRAP pread, in one source.
 */
#ifndef FTMEM_TEST_SCRUB_FIXTURE_H
#define FTMEM_TEST_SCRUB_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "checksum.h"
#include "error.h"
#include "slot.h"
#include "smp/scrub.h"
#include "test_env.h"
#include "test_random.h"

#define SECOND  UINT64_C(1000000000)
#define MIB_S   64u
#define RANK    2u
#define EPOCH   7u
#define BLOCK   4096u
/* Of the rank: seven blocks and a piece, in three chunks. */
#define DATA    (7 * BLOCK + 700)
#define VERSION 12u

struct fixture {
	struct process_table table;
	struct store *store;
	struct scrub *scrub;
	struct holder me;
	struct log log;
	uint64_t now;
	char lines[4096];
	unsigned warnings;
	uint64_t version; /* the newest that fill_next() wrote */
	uint64_t data;    /* bytes of the rank */
	struct map *map;
	struct arena *arena;
	uint64_t random;
};

/* --- pread() --- */

static struct {
	uint64_t bytes;       /* read in all */
	int fd;               /* of which reads are counted by page */
	uint8_t *reads;       /* [pages] */
	uint64_t pages;
	uint64_t bad_at;      /* a read over this byte fails; 0: none */
	unsigned trigger;     /* the so many-th read from now calls hook; 0: none */
	uint64_t trigger_at;  /* the next read of blocks over this byte does; 0: none */
	bool after;           /* once it is over, not before */
	void (*hook)(void *arg);
	void *arg;
} watch;

ssize_t __real_pread(int fd, void *to, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset)
{
	uint64_t at = (uint64_t)offset;
	bool now = watch.trigger && --watch.trigger == 0;
	ssize_t n;

	if (bytes > 512 && at <= watch.trigger_at && watch.trigger_at < at + bytes) {
		watch.trigger_at = 0;
		now = true;
	}
	if (now && !watch.after)
		watch.hook(watch.arg);
	watch.bytes += bytes;
	if (watch.bad_at && at <= watch.bad_at && watch.bad_at < at + bytes) {
		errno = EIO;
		return -1;
	}
	/* Single checksums and headers are read more often. */
	for (uint64_t p = at / BLOCK; fd == watch.fd && bytes > 512 && p * BLOCK < at + bytes; p++)
		if (p < watch.pages)
			watch.reads[p]++;
	n = __real_pread(fd, to, bytes, offset);
	if (now && watch.after)
		watch.hook(watch.arg);
	return n;
}

/* --- arenas --- */

static inline void note_line(void *arg, int level, const char *line)
{
	struct fixture *f = arg;
	size_t used = strlen(f->lines);

	f->warnings += level <= FTMEM_LOG_WARN;
	snprintf(f->lines + used, sizeof(f->lines) - used, "%s\n", line);
}

/* Ranks 0 and 1 on one node, 2 to 4 on others: rank 2 has its data in rail 0 and only
 * parity in rail 1. */
static inline struct map *map_of_five(void)
{
	static const char *const node[] = {"a", "a", "b", "c", "d"};
	struct map_rank place[5] = {0};
	struct map *map = NULL;

	for (int i = 0; i < 5; i++)
		strcpy(place[i].node, node[i]);
	assert_int_equal(map_new(place, 5, 4, 1, &map), 0);
	return map;
}

static inline void rails_of(const struct map *map, uint64_t data, struct rail rails[2])
{
	for (uint32_t i = 0; i < 2; i++) {
		map_rail(map, i, &rails[i]);
		rails[i].block_bytes = BLOCK;
		for (uint32_t m = 0; m < rails[i].n; m++)
			rails[i].data_bytes[m] *=
				rails[i].rank[m] == RANK ? data : 3 * BLOCK + 80 * m;
	}
}

static inline void sum_blocks(const struct slot *s)
{
	const struct rail *r = s->shape->rail;
	uint32_t member = s->shape->member[0];

	for (uint32_t c = 0; c < rail_k(r); c++)
		for (uint32_t row = 0; row < rail_chunk_rows(r, member); row++)
			s->sums[slot_data_sum_index(s->shape, 0, member, c, row)] =
				checksum(s->data + rail_data_offset(r, member, c, row),
			                 rail_data_len(r, member, c, row));
	for (uint32_t i = 0; i < s->shape->rails; i++)
		for (uint32_t row = 0; row < rail_rows(&s->shape->rail[i]); row++)
			s->sums[slot_parity_sum_index(s->shape, i, 0, row)] =
				checksum(slot_parity(s, i, 0) + (uint64_t)row * BLOCK,
			                 rail_parity_len(&s->shape->rail[i], row));
}

static inline void fill_slot(struct fixture *f, struct slot *s, uint64_t version)
{
	struct stamp stamp = {3, version};

	slot_set_filling(s, stamp);
	test_random_fill(&f->random, s->base + BLOCK, s->shape->slot_bytes - BLOCK);
	sum_blocks(s);
	slot_set_prepared(s, stamp);
	slot_set_committed(s);
}

static inline void fill_next(struct fixture *f)
{
	fill_slot(f, &f->arena->slot[0], ++f->version);
}

/* An arena of the store; its first slot is committed. */
static inline struct arena *arena_in_store(struct fixture *f, uint64_t epoch)
{
	struct arena_spec spec = {.job = "job", .node = "b", .epoch = epoch, .rank = RANK,
	                          .map = f->map, .rails_count = 2};
	struct arena *a = NULL;
	struct rail rails[2];
	uint64_t bytes = 0;
	int fd = -1;

	rails_of(f->map, f->data, rails);
	spec.rails = rails;
	assert_int_equal(arena_bytes(&spec, &bytes), 0);
	assert_int_equal(store_create(f->store, epoch, RANK, bytes, &f->me, &fd), 0);
	assert_int_equal(arena_create(dup(fd), &spec, &a), 0);
	fill_slot(f, &a->slot[0], VERSION);
	return a;
}

static inline int set_up(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	memset(&watch, 0, sizeof(watch));
	watch.fd = -1;
	f.random = test_random_seed("scrub");
	f.me = (struct holder){NULL, 1, 11};
	f.log = (struct log){note_line, &f, FTMEM_LOG_DEBUG, LOG_NO_RANK};
	f.now = 1000 * SECOND;
	f.version = VERSION;
	f.data = DATA;
	f.map = map_of_five();
	*state = &f;
	if (store_new("job", &f.table, &f.store) || scrub_new(f.store, &f.log, &f.scrub))
		return -1;
	f.arena = arena_in_store(&f, EPOCH);
	return 0;
}

/* Instead of the arena one of many steps. */
static inline void enlarge(struct fixture *f, uint64_t data)
{
	int32_t pid;

	assert_int_equal(store_drop(f->store, EPOCH, RANK, &f->me, &pid), 0);
	arena_free(f->arena);
	f->data = data;
	f->arena = arena_in_store(f, EPOCH);
}

static inline int tear_down(void **state)
{
	struct fixture *f = *state;

	scrub_free(f->scrub);
	store_free(f->store);
	arena_free(f->arena);
	map_free(f->map);
	free(watch.reads);
	return 0;
}

/* Lets the clock run so many seconds, and the scrubber as it wants. */
static inline unsigned run(struct fixture *f, uint64_t seconds)
{
	uint64_t end = f->now + seconds * SECOND;
	unsigned steps = 0;

	while (scrub_due(f->scrub) < end) {
		if (scrub_due(f->scrub) > f->now)
			f->now = scrub_due(f->scrub);
		scrub_step(f->scrub, MIB_S, f->now);
		steps++;
		/* It always says that it wants to rest, sooner or later. */
		assert_true(steps < 100000);
	}
	f->now = end;
	return steps;
}

static inline void look_again(struct fixture *f)
{
	f->lines[0] = '\0';
	f->warnings = 0;
	run(f, SCRUB_AGAIN_S + 5);
}

static inline struct wire_slot told(struct fixture *f, int slot)
{
	struct wire_slot out[2];

	store_slots(store_at(f->store, 0), out);
	return out[slot];
}

static inline uint32_t arena_damage(struct fixture *f)
{
	return store_at(f->store, 0)->check.damage;
}

/* Nothing at all is said to be wrong. */
static inline bool is_whole(struct fixture *f)
{
	for (int i = 0; i < 2; i++)
		if (told(f, i).check.damage || told(f, i).check.bad)
			return false;
	return !arena_damage(f);
}

#endif
