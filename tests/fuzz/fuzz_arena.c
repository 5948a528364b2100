/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An arena of any bytes: what arena_attach() accepts makes sense, its parts lie inside, the
 * store takes it too, and the scrubber finds in it what its ranks would.
 *
 * The input is what is written in an arena where it is not zero, see struct form. One word
 * says which checksums are made to fit, so that what is behind them is reached.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checksum.h"
#include "error.h"
#include "fuzz.h"
#include "name.h"
#include "slot.h"
#include "smp/scrub.h"
#include "smp/store.h"

#define PAGES_MAX 64u
#define PART_MAX  4096u
/* From one step of the scrubber to the next, and more than such an arena needs. */
#define STEP_NS  UINT64_C(100000000)
#define SCRUB_NS (100 * STEP_NS)

/* Which are not made to fit. */
enum {
	BROKEN_HEADER = 1,
	BROKEN_MAP = 2,
	BROKEN_RAILS = 4,
	BROKEN_SLOTS = 8, /* header and tables of both slots */
	BROKEN_BLOCKS = 16,
	READ_ONLY = 32,
};

/* Begins the input; map and rails follow, then of each slot what lies at its start. */
struct form {
	uint8_t broken, pages;
	uint16_t map_bytes, rails_bytes, slot_bytes;
	struct arena_header header;
};

struct memory {
	int fd;
	uint64_t bytes;
	uint8_t *at;
};

/* Where an arena may say that something is, there it is, if that is in its memory. */
static void place(const struct memory *m, uint64_t offset, const void *part, uint64_t bytes)
{
	if (offset < m->bytes)
		memcpy(m->at + offset, part, fuzz_least(bytes, m->bytes - offset));
}

static bool inside(const struct memory *m, uint64_t offset, uint64_t bytes)
{
	return offset <= m->bytes && bytes <= m->bytes - offset;
}

static void fill(const struct memory *m, struct form *f, struct fuzz_input *in)
{
	struct arena_header *h = &f->header;
	uint8_t part[PART_MAX];

	for (int i = 0; i < 2; i++) {
		fuzz_take(in, part, f->slot_bytes % PART_MAX);
		place(m, h->slot_offset[i], part, f->slot_bytes % PART_MAX);
	}
	fuzz_take(in, part, f->map_bytes % PART_MAX);
	place(m, h->map_offset, part, f->map_bytes % PART_MAX);
	fuzz_take(in, part, f->rails_bytes % PART_MAX);
	place(m, h->rails_offset, part, f->rails_bytes % PART_MAX);
	if (!(f->broken & BROKEN_MAP) && inside(m, h->map_offset, h->map_bytes))
		h->map_sum = checksum(m->at + h->map_offset, h->map_bytes);
	if (!(f->broken & BROKEN_RAILS) && inside(m, h->rails_offset, h->rails_bytes))
		h->rails_sum = checksum(m->at + h->rails_offset, h->rails_bytes);
	if (!(f->broken & BROKEN_HEADER))
		h->header_sum = arena_header_sum(h);
	memcpy(m->at, h, sizeof(*h));
}

/* The checksums of a slot's own blocks are made to fit. */
static void mend_blocks(const struct slot *s)
{
	const struct slot_shape *shape = s->shape;
	uint32_t member = shape->member[0];
	const struct rail *r = shape->rail;

	for (uint32_t c = 0; c < rail_k(r); c++)
		for (uint32_t row = 0; row < rail_chunk_rows(r, member); row++)
			s->sums[slot_data_sum_index(shape, 0, member, c, row)] =
				checksum(s->data + rail_data_offset(r, member, c, row),
			                 rail_data_len(r, member, c, row));
	for (uint32_t i = 0; i < shape->rails; i++)
		for (uint32_t p = 0; r = &shape->rail[i], p < r->m; p++)
			for (uint32_t row = 0; row < rail_rows(r); row++)
				s->sums[slot_parity_sum_index(shape, i, p, row)] =
					checksum(slot_parity(s, i, p)
				                         + (uint64_t)row * r->block_bytes,
				                 rail_parity_len(r, row));
}

/* What a slot says of itself is made to fit what is there. */
static void mend_slot(const struct slot *s, bool blocks)
{
	struct slot_header *h = s->header;

	if (blocks)
		mend_blocks(s);
	h->version = atomic_load(&h->state) >> 8;
	h->sums_bytes = s->shape->sums_bytes;
	h->sums_sum = checksum(s->sums, s->shape->sums_bytes);
	h->header_sum = checksum(&h->version, offsetof(struct slot_header, header_sum)
	                                              - offsetof(struct slot_header, version));
}

static void check_rail(const struct arena *a, uint32_t i, uint64_t *sums)
{
	const struct slot_shape *shape = &a->shape;
	const struct rail *r = &a->rails[i];

	FUZZ_REQUIRE(rail_valid(r) && r->rank[shape->member[i]] == a->header->rank);
	FUZZ_REQUIRE(shape->parity_offset[i] >= shape->data_offset + shape->data_bytes);
	FUZZ_REQUIRE(shape->parity_offset[i] <= shape->slot_bytes
	             && r->m * rail_parity_bytes(r)
	                        <= shape->slot_bytes - shape->parity_offset[i]);
	for (uint32_t j = 0; j < r->n; j++)
		*sums += rail_data_blocks(r, j);
	*sums += (uint64_t)r->m * rail_rows(r);
}

static void check_shape(const struct arena *a)
{
	const struct arena_header *h = a->header;
	const struct slot_shape *shape = &a->shape;
	uint64_t sums = 0;

	FUZZ_REQUIRE(h->epoch > 0 && h->rank < h->ranks && a->map->ranks == h->ranks);
	FUZZ_REQUIRE(shape->sums_offset == ARENA_PAGE
	             && shape->sums_bytes <= shape->data_offset - shape->sums_offset);
	FUZZ_REQUIRE(shape->data_bytes <= shape->slot_bytes - shape->data_offset);
	for (uint32_t i = 0; i < shape->rails; i++)
		check_rail(a, i, &sums);
	FUZZ_REQUIRE(shape->sums_bytes == sums * sizeof(uint32_t));
	for (int i = 0; i < 2; i++) {
		FUZZ_REQUIRE(a->slot[i].base >= a->base + 3 * (size_t)ARENA_PAGE);
		FUZZ_REQUIRE(a->slot[i].base + shape->slot_bytes <= a->base + a->bytes);
	}
	FUZZ_REQUIRE(a->slot[0].base + shape->slot_bytes <= a->slot[1].base);
}

/* Written again the map is the same bytes. */
static void check_map(const struct arena *a)
{
	uint8_t *blob = malloc(map_blob_bytes(a->map));

	FUZZ_REQUIRE(blob != NULL && map_blob_bytes(a->map) == a->header->map_bytes);
	map_blob_write(a->map, blob);
	FUZZ_REQUIRE(memcmp(blob, a->base + a->header->map_offset, a->header->map_bytes) == 0);
	free(blob);
	for (uint32_t i = 0; i < a->map->nodes; i++) {
		char name[FTMEM_NAME_MAX + 1] = {0};

		FUZZ_REQUIRE(name_valid(a->map->node[i].name));
		memcpy(name, a->map->node[i].name, strlen(a->map->node[i].name));
		FUZZ_REQUIRE(memcmp(name, a->map->node[i].name, sizeof(name)) == 0);
	}
	for (uint32_t id = 0; id < map_rail_count(a->map); id++) {
		struct rail r;

		map_rail(a->map, id, &r);
		r.block_bytes = ARENA_PAGE;
		FUZZ_REQUIRE(rail_valid(&r));
	}
}

static void note_bad(void *arg, uint32_t rail, bool parity, uint32_t index, uint32_t row)
{
	const struct slot *s = arg;
	const struct rail *r = &s->shape->rail[rail];
	uint32_t rows = parity ? rail_rows(r) : rail_chunk_rows(r, s->shape->member[rail]);

	FUZZ_REQUIRE(rail < s->shape->rails && index < (parity ? r->m : rail_k(r)) && row < rows);
}

/* What a rank finds in its slots. */
struct found {
	enum slot_state state[2];
	bool damaged[2], prepared[2]; /* prepared: as the word alone says */
	uint64_t bad[2];
};

static void read_slots(const struct arena *a, const struct form *f, struct found *found)
{
	for (int i = 0; i < 2; i++) {
		struct slot s = a->slot[i];
		struct stamp stamp;

		if (!(f->broken & (BROKEN_SLOTS | READ_ONLY)))
			mend_slot(&s, !(f->broken & BROKEN_BLOCKS));
		found->state[i] = slot_read(&s, &stamp, &found->damaged[i]);
		found->prepared[i] = (atomic_load(&s.header->state) & 0xff) == SLOT_PREPARED;
		FUZZ_REQUIRE(found->state[i] == SLOT_EMPTY || !found->damaged[i]);
		FUZZ_REQUIRE(found->state[i] == SLOT_PREPARED || found->state[i] == SLOT_COMMITTED
		             || (stamp.incarnation == 0 && stamp.version == 0));
		found->bad[i] = slot_verify(&s, note_bad, &s);
		FUZZ_REQUIRE(found->bad[i] == 0
		             || (f->broken & (BROKEN_SLOTS | BROKEN_BLOCKS | READ_ONLY)));
	}
}

static void check_scrubbed(const struct store_entry *e, const struct found *found)
{
	struct wire_slot slot[2];

	FUZZ_REQUIRE(e->check.damage == WIRE_WHOLE);
	store_slots(e, slot);
	for (int i = 0; i < 2; i++) {
		const struct wire_check *c = &slot[i].check;

		/* What is prepared is soon committed, or goes: it is not looked at. */
		FUZZ_REQUIRE(!found->damaged[i] || c->damage || found->prepared[i]);
		if (found->state[i] != SLOT_COMMITTED)
			continue;
		FUZZ_REQUIRE(slot[i].state == SLOT_COMMITTED && c->checked_ns && !c->damage);
		FUZZ_REQUIRE(c->bad == found->bad[i]);
		FUZZ_REQUIRE(c->named == fuzz_least(c->bad, WIRE_BLOCKS));
	}
}

/* The store keeps it, and says of its slots what any reader may. found: NULL if no rank
 * could attach it. */
static void adopt(const struct memory *m, const struct arena_header *h, const struct found *found)
{
	struct process_table table = {0};
	struct holder holder = {NULL, 1, 1};
	struct scrub *scrub = NULL;
	struct store *s = NULL;
	struct wire_slot slot[2];
	int32_t pid;
	int rc;

	FUZZ_REQUIRE(store_new(FUZZ_JOB, &table, &s) == 0);
	rc = store_adopt(s, h->epoch, h->rank, dup(m->fd), &holder, &pid);
	FUZZ_REQUIRE(!found || strcmp(h->job, FUZZ_JOB) != 0 || rc == 0);
	if (rc == 0) {
		FUZZ_REQUIRE(scrub_new(s, NULL, &scrub) == 0);
		/* It rests when all was looked at. */
		for (uint64_t now = 1; scrub_due(scrub) <= now + STEP_NS && now < SCRUB_NS;
		     now += STEP_NS)
			scrub_step(scrub, SCRUB_MIB_S_MAX, now);
		store_slots(store_at(s, 0), slot);
		for (int i = 0; i < 2; i++)
			FUZZ_REQUIRE(slot[i].state == SLOT_EMPTY || slot[i].state == SLOT_FILLING
			             || slot[i].state == SLOT_PREPARED
			             || slot[i].state == SLOT_COMMITTED);
		if (found)
			check_scrubbed(store_at(s, 0), found);
		scrub_free(scrub);
	}
	store_free(s);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed)
{
	return fuzz_mutate(data, size, size_max, seed, offsetof(struct form, header));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	unsigned fds = fuzz_open_fds();
	struct found found = {0};
	struct arena *a = NULL;
	struct memory m;
	struct form f;
	int rc;

	fuzz_take(&in, &f, sizeof(f));
	m.bytes = (uint64_t)(f.pages % PAGES_MAX) * ARENA_PAGE;
	m.fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	FUZZ_REQUIRE(m.fd >= 0 && ftruncate(m.fd, (off_t)m.bytes) == 0);
	FUZZ_REQUIRE(fcntl(m.fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
	if (m.bytes > 0) {
		m.at = mmap(NULL, m.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);
		FUZZ_REQUIRE(m.at != MAP_FAILED);
		fill(&m, &f, &in);
		munmap(m.at, m.bytes);
	}
	rc = arena_attach(dup(m.fd), !(f.broken & READ_ONLY), &a);
	FUZZ_REQUIRE((rc == 0) == (a != NULL));
	FUZZ_REQUIRE(rc == 0 || rc == FTMEM_ECORRUPT || rc == FTMEM_ESMP);
	if (a) {
		check_shape(a);
		check_map(a);
		read_slots(a, &f, &found);
	}
	adopt(&m, &f.header, a ? &found : NULL);
	arena_free(a);
	close(m.fd);
	FUZZ_REQUIRE(fuzz_open_fds() == fds);
	return 0;
}

/* An arena of that many ranks on as many nodes, as an input. */
static void seed(const char *dir, const char *name, uint32_t ranks, uint32_t nodes, uint32_t rank,
                 uint32_t parity)
{
	struct map_rank where[16] = {0};
	struct arena_spec spec = {.job = FUZZ_JOB, .node = "n0", .epoch = 7, .rank = rank};
	struct form f = {.pages = PAGES_MAX - 1, .slot_bytes = sizeof(struct slot_header)};
	struct slot_header slot = {.state = 42u << 8 | SLOT_COMMITTED};
	uint8_t input[sizeof(f) + 3 * PART_MAX], *at = input + sizeof(f);
	int fd = memfd_create("seed", MFD_CLOEXEC);
	struct rail rails[16];
	struct arena *a = NULL;
	uint32_t *ids = NULL;
	uint64_t bytes;

	for (uint32_t i = 0; i < ranks; i++)
		where[i].node[0] = (char)('a' + i % nodes);
	FUZZ_REQUIRE(map_new(where, ranks, 4, parity, (struct map **)(uintptr_t)&spec.map) == 0);
	FUZZ_REQUIRE(map_rails_of(spec.map, rank, &ids, &spec.rails_count) == 0);
	for (uint32_t i = 0; i < spec.rails_count; i++) {
		map_rail(spec.map, ids[i], &rails[i]);
		rails[i].block_bytes = ARENA_PAGE;
		for (uint32_t j = 0; j < rails[i].n; j++)
			rails[i].data_bytes[j] *= 5000 + 100 * j;
	}
	spec.rails = rails;
	FUZZ_REQUIRE(arena_bytes(&spec, &bytes) == 0 && ftruncate(fd, (off_t)bytes) == 0);
	FUZZ_REQUIRE(arena_create(fd, &spec, &a) == 0);
	f.header = *a->header;
	f.map_bytes = (uint16_t)f.header.map_bytes;
	f.rails_bytes = (uint16_t)f.header.rails_bytes;
	f.pages = (uint8_t)(bytes / ARENA_PAGE);
	memcpy(input, &f, sizeof(f));
	for (int i = 0; i < 2; i++, at += sizeof(slot))
		memcpy(at, &slot, sizeof(slot));
	memcpy(at, a->base + f.header.map_offset, f.map_bytes);
	memcpy(at + f.map_bytes, a->base + f.header.rails_offset, f.rails_bytes);
	fuzz_seed(dir, name, input, (size_t)(at - input) + f.map_bytes + f.rails_bytes);
	arena_free(a);
	map_free((struct map *)(uintptr_t)spec.map);
	free(ids);
}

void fuzz_seeds(const char *dir)
{
	seed(dir, "alone", 1, 1, 0, 1);
	seed(dir, "pair", 2, 2, 1, 1);
	seed(dir, "four", 4, 4, 2, 2);
	seed(dir, "lends", 5, 3, 2, 1);
	seed(dir, "groups", 9, 9, 8, 1);
	seed(dir, "shared", 8, 4, 5, 1);
}
