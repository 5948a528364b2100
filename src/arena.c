/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"
#include "error.h"
#include "memory.h"
#include "name.h"
#include "slot.h"

#define RECORD_HEAD 16u /* id, n, m, block_bytes */
#define RECORD_MAX  (ARENA_RAILS_BYTES_MAX / ARENA_RAILS_MAX)

static uint64_t record_bytes(const struct rail *r)
{
	return RECORD_HEAD + r->n * UINT64_C(12);
}

static uint64_t pages(uint64_t bytes)
{
	return (bytes + ARENA_PAGE - 1) & ~(uint64_t)(ARENA_PAGE - 1);
}

static uint8_t *record_write(const struct rail *r, uint8_t *to)
{
	const uint32_t head[4] = {r->id, r->n, r->m, r->block_bytes};

	memcpy(to, head, RECORD_HEAD);
	to += RECORD_HEAD;
	memcpy(to, r->rank, r->n * sizeof(r->rank[0]));
	to += r->n * sizeof(r->rank[0]);
	memcpy(to, r->data_bytes, r->n * sizeof(r->data_bytes[0]));
	return to + r->n * sizeof(r->data_bytes[0]);
}

/* Returns the bytes the record took, 0 if it is none. */
static uint64_t record_read(const uint8_t *from, uint64_t bytes, struct rail *r)
{
	uint32_t head[4];

	memset(r, 0, sizeof(*r));
	if (bytes < RECORD_HEAD)
		return 0;
	memcpy(head, from, RECORD_HEAD);
	r->id = head[0];
	r->n = head[1];
	r->m = head[2];
	r->block_bytes = head[3];
	if (r->n < 1 || r->n > RAIL_MAX || bytes < record_bytes(r))
		return 0;
	memcpy(r->rank, from + RECORD_HEAD, r->n * sizeof(r->rank[0]));
	memcpy(r->data_bytes, from + RECORD_HEAD + r->n * sizeof(r->rank[0]),
	       r->n * sizeof(r->data_bytes[0]));
	return record_bytes(r);
}

static bool rail_is(const struct rail *r, const struct map *map, uint32_t id)
{
	struct rail want;

	map_rail(map, id, &want);
	return r->id == id && r->n == want.n && r->m == want.m
	       && !memcmp(r->rank, want.rank, want.n * sizeof(want.rank[0]));
}

/* Whether the rails are those that the map gives the rank. */
static int check_rails(const struct map *map, uint32_t rank, const struct rail *rails,
                       uint32_t count)
{
	uint32_t *ids = NULL, n = 0;
	int rc;

	if (rank >= map->ranks)
		return error_set(FTMEM_EINVAL,
		                 "rank %u of an arena is not below the map's %u ranks", rank,
		                 map->ranks);
	rc = map_rails_of(map, rank, &ids, &n);
	if (rc)
		return rc;
	if (n != count)
		rc = error_set(FTMEM_EINVAL, "rank %u has %u rails by the map, the arena has %u",
		               rank, n, count);
	for (uint32_t i = 0; !rc && i < count; i++)
		if (!rail_is(&rails[i], map, ids[i]))
			rc = error_set(FTMEM_EINVAL, "rail %u of rank %u is not the map's rail %u",
			               i, rank, ids[i]);
	free(ids);
	return rc;
}

/* Header of an arena of this spec, but for what describes contents. */
static int lay_out(const struct arena_spec *spec, struct slot_shape *shape, struct arena_header *h)
{
	uint64_t rails_bytes = 0;
	int rc;

	if (!name_valid(spec->job) || !name_valid(spec->node))
		return error_set(FTMEM_EINVAL, "job or node of an arena is no valid name");
	if (!spec->epoch)
		return error_set(FTMEM_EINVAL, "epoch 0 of an arena: epochs begin at 1");
	rc = slot_shape_init(shape, spec->rails, spec->rails_count, spec->rank);
	if (rc)
		return rc;
	rc = check_rails(spec->map, spec->rank, spec->rails, spec->rails_count);
	if (rc)
		return rc;
	for (uint32_t i = 0; i < spec->rails_count; i++)
		rails_bytes += record_bytes(&spec->rails[i]);

	memset(h, 0, sizeof(*h));
	h->magic = ARENA_MAGIC;
	h->format = ARENA_FORMAT;
	h->epoch = spec->epoch;
	h->geometry = spec->geometry;
	h->layout = spec->layout;
	h->rank = spec->rank;
	h->ranks = spec->map->ranks;
	h->rails = spec->rails_count;
	h->block_bytes = spec->rails[0].block_bytes;
	h->map_offset = ARENA_PAGE;
	h->map_bytes = map_blob_bytes(spec->map);
	h->rails_offset = h->map_offset + pages(h->map_bytes);
	h->rails_bytes = rails_bytes;
	h->slot_bytes = shape->slot_bytes;
	h->late = spec->late;
	h->slot_offset[0] = h->rails_offset + pages(rails_bytes);
	h->slot_offset[1] = h->slot_offset[0] + h->slot_bytes;
	h->arena_bytes = h->slot_offset[1] + h->slot_bytes;
	if (h->arena_bytes > INT64_MAX)
		return error_set(FTMEM_EINVAL,
		                 "the arena of rank %u would exceed the address space", spec->rank);
	memcpy(h->job, spec->job, strlen(spec->job));
	memcpy(h->node, spec->node, strlen(spec->node));
	return 0;
}

int arena_bytes(const struct arena_spec *spec, uint64_t *bytes)
{
	struct slot_shape shape;
	struct arena_header h;
	int rc = lay_out(spec, &shape, &h);

	if (!rc)
		*bytes = h.arena_bytes;
	return rc;
}

static int arena_new(int fd, struct arena **out)
{
	struct arena *a = calloc(1, sizeof(*a));

	if (!a) {
		close(fd);
		return error_set(FTMEM_ENOMEM, "no memory for an arena's description");
	}
	a->fd = fd;
	*out = a;
	return 0;
}

void arena_free(struct arena *a)
{
	if (!a)
		return;
	if (a->base)
		munmap(a->base, a->bytes);
	if (a->fd >= 0)
		close(a->fd);
	map_free(a->map);
	free(a->rails);
	free((void *)a->header);
	free(a);
}

static int arena_size(int fd, uint64_t *bytes)
{
	struct stat st;

	if (fstat(fd, &st))
		return error_sys(FTMEM_ESYS, errno, "cannot read the size of an arena");
	*bytes = (uint64_t)st.st_size;
	return 0;
}

static int arena_map(struct arena *a, uint64_t bytes, bool writable)
{
	void *base = NULL;
	int rc = memory_map(a->fd, bytes, writable, &base);

	if (rc)
		return rc;
	a->base = base;
	a->bytes = bytes;
	return 0;
}

/* Points the slots into the mapping, once header and shape are known. */
static void find_slots(struct arena *a)
{
	for (int i = 0; i < 2; i++)
		slot_init(&a->slot[i], &a->shape, a->base + a->header->slot_offset[i]);
}

uint32_t arena_header_sum(const struct arena_header *h)
{
	struct arena_header copy = *h;

	copy.header_sum = 0;
	return checksum(&copy, sizeof(copy));
}

/* Copies of map and rails, from where they were written or found. */
static int copy_contents(struct arena *a, const struct arena_header *h)
{
	uint8_t *blob = a->base + h->map_offset, *at = a->base + h->rails_offset;
	struct arena_header *header;

	header = malloc(sizeof(*header));
	a->header = header;
	a->rails = calloc(h->rails, sizeof(*a->rails));
	if (!header || !a->rails)
		return error_set(FTMEM_ENOMEM, "no memory for an arena's description");
	*header = *h;
	for (uint32_t i = 0; i < h->rails; i++)
		at += record_read(at, RECORD_MAX, &a->rails[i]);
	return map_blob_read(blob, h->map_bytes, &a->map);
}

int arena_create(int fd, const struct arena_spec *spec, struct arena **out)
{
	struct slot_shape shape;
	struct arena_header h;
	struct arena *a = NULL;
	uint64_t size = 0;
	uint8_t *at;
	int rc;

	rc = arena_new(fd, &a);
	if (rc)
		return rc;
	rc = lay_out(spec, &shape, &h);
	if (rc)
		goto fail;
	rc = arena_size(fd, &size);
	if (rc)
		goto fail;
	if (size < h.arena_bytes) {
		rc = error_set(FTMEM_EINVAL, "an arena of %llu bytes does not fit in %llu",
		               (unsigned long long)h.arena_bytes, (unsigned long long)size);
		goto fail;
	}
	rc = arena_map(a, h.arena_bytes, true);
	if (rc)
		goto fail;
	map_blob_write(spec->map, a->base + h.map_offset);
	at = a->base + h.rails_offset;
	for (uint32_t i = 0; i < spec->rails_count; i++)
		at = record_write(&spec->rails[i], at);
	h.map_sum = checksum(a->base + h.map_offset, h.map_bytes);
	h.rails_sum = checksum(a->base + h.rails_offset, h.rails_bytes);
	h.header_sum = arena_header_sum(&h);
	rc = copy_contents(a, &h);
	if (rc)
		goto fail;
	a->shape = shape;
	a->shape.rail = a->rails;
	find_slots(a);
	slot_set_empty(&a->slot[0]);
	slot_set_empty(&a->slot[1]);
	/* The magic number comes last: without it nothing of the header counts. */
	memcpy(a->base + sizeof(h.magic), (const uint8_t *)&h + sizeof(h.magic),
	       sizeof(h) - sizeof(h.magic));
	atomic_store_explicit((_Atomic uint64_t *)(void *)a->base, h.magic, memory_order_release);
	*out = a;
	return 0;
fail:
	arena_free(a);
	return rc;
}

static bool part_is_good(const struct arena *a, uint64_t offset, uint64_t bytes, uint32_t sum)
{
	return checksum(a->base + offset, bytes) == sum;
}

static struct arena_run *run_of(const struct arena *a)
{
	return (struct arena_run *)(void *)(a->base + ARENA_RUN_OFFSET);
}

uint64_t arena_entered(const struct arena *a)
{
	uint64_t entered = atomic_load_explicit(&run_of(a)->entered, memory_order_acquire);
	uint64_t inverse = atomic_load_explicit(&run_of(a)->inverse, memory_order_acquire);

	if (entered == 0 && inverse == 0)
		return 0;
	return inverse == ~entered ? entered : UINT64_MAX;
}

void arena_enter(struct arena *a, uint64_t incarnation)
{
	atomic_store_explicit(&run_of(a)->inverse, ~incarnation, memory_order_release);
	atomic_store_explicit(&run_of(a)->entered, incarnation, memory_order_release);
}

uint32_t arena_mend(struct arena *a)
{
	const struct arena_header *h = a->header;
	uint8_t *at = a->base + h->rails_offset;
	uint32_t mended = 0;

	/* The copy may be what is damaged. */
	if (arena_header_sum(h) != h->header_sum)
		return 0;
	if (!part_is_good(a, h->map_offset, h->map_bytes, h->map_sum)) {
		map_blob_write(a->map, a->base + h->map_offset);
		mended++;
	}
	if (!part_is_good(a, h->rails_offset, h->rails_bytes, h->rails_sum)) {
		for (uint32_t i = 0; i < h->rails; i++)
			at = record_write(&a->rails[i], at);
		mended++;
	}
	if (memcmp(a->base, h, sizeof(*h)) != 0) {
		memcpy(a->base, h, sizeof(*h));
		mended++;
	}
	return mended;
}

static int damaged(const struct arena_header *h, const char *what)
{
	return error_set(FTMEM_ECORRUPT, "arena of rank %u, epoch %llu: %s", h->rank,
	                 (unsigned long long)h->epoch, what);
}

/* A name, and nothing but zeros behind it. */
static bool name_fits(const char name[FTMEM_NAME_MAX + 1])
{
	size_t len = strnlen(name, FTMEM_NAME_MAX + 1);

	if (len > FTMEM_NAME_MAX || !name_valid(name))
		return false;
	for (size_t i = len; i <= FTMEM_NAME_MAX; i++)
		if (name[i])
			return false;
	return true;
}

/* Whether [offset, offset + bytes) is whole pages' begin and inside the arena. */
static bool part_fits(const struct arena_header *h, uint64_t offset, uint64_t bytes)
{
	return offset >= ARENA_PAGE && !(offset % ARENA_PAGE) && offset <= h->arena_bytes
	       && bytes <= h->arena_bytes - offset;
}

/* Another format may have its checksum elsewhere; but a flipped bit in the word must not pass
 * for a foreign format. */
static int check_format(const struct arena_header *h)
{
	struct arena_header ours = *h;

	ours.format = ARENA_FORMAT;
	if (h->magic != ARENA_MAGIC || h->format == ARENA_FORMAT
	    || arena_header_sum(&ours) == h->header_sum)
		return 0;
	return error_set(FTMEM_ESMP,
	                 "arena of format %u, this program reads format %u: "
	                 "drop the job with the ftmem that wrote it, or use its libftmem",
	                 h->format, ARENA_FORMAT);
}

int arena_check_header(const struct arena_header *h, uint64_t size)
{
	if (h->magic != ARENA_MAGIC)
		return error_set(FTMEM_ECORRUPT, "no arena: it begins with %016llx",
		                 (unsigned long long)h->magic);
	if (arena_header_sum(h) != h->header_sum || h->format != ARENA_FORMAT)
		return damaged(h, "its header does not match its checksum");
	if (h->arena_bytes > size)
		return damaged(h, "it is longer than its memory");
	if (!h->epoch || h->rank >= h->ranks)
		return damaged(h, "its epoch or rank makes no sense");
	if (!h->rails || h->rails > ARENA_RAILS_MAX
	    || h->rails_bytes > (uint64_t)h->rails * RECORD_MAX)
		return damaged(h, "its number of rails makes no sense");
	if (!part_fits(h, h->map_offset, h->map_bytes)
	    || !part_fits(h, h->rails_offset, h->rails_bytes)
	    || !part_fits(h, h->slot_offset[0], h->slot_bytes)
	    || !part_fits(h, h->slot_offset[1], h->slot_bytes)
	    || h->slot_offset[0] < h->map_offset + h->map_bytes
	    || h->slot_offset[0] < h->rails_offset + h->rails_bytes
	    || h->slot_offset[1] < h->slot_offset[0] + h->slot_bytes)
		return damaged(h, "its parts lie outside or overlap");
	if (!name_fits(h->job) || !name_fits(h->node))
		return damaged(h, "its job or node is no name");
	return 0;
}

int arena_check_rails(const struct arena_header *h, const uint8_t *records, struct rail *rails,
                      struct slot_shape *shape)
{
	uint64_t at = 0;

	if (checksum(records, h->rails_bytes) != h->rails_sum)
		return damaged(h, "its rails do not match their checksum");
	for (uint32_t i = 0; i < h->rails; i++) {
		uint64_t took = record_read(records + at, h->rails_bytes - at, &rails[i]);

		at += took;
		if (!took || rails[i].block_bytes != h->block_bytes)
			return damaged(h, "its rail records make no sense");
	}
	if (at != h->rails_bytes)
		return damaged(h, "its rail records end too early");
	if (slot_shape_init(shape, rails, h->rails, h->rank) || shape->slot_bytes != h->slot_bytes)
		return damaged(h, "its slots do not follow from its rails");
	return 0;
}

/* Copies the part first: what is checked must be what is used. */
static int copy_part(const struct arena *a, uint64_t offset, uint64_t bytes, uint8_t **out)
{
	*out = malloc(bytes ? bytes : 1);
	if (!*out)
		return error_set(FTMEM_ENOMEM, "no memory for an arena's description");
	memcpy(*out, a->base + offset, bytes);
	return 0;
}

static int read_map(struct arena *a)
{
	const struct arena_header *h = a->header;
	uint8_t *blob = NULL;
	int rc = copy_part(a, h->map_offset, h->map_bytes, &blob);

	if (rc)
		return rc;
	if (checksum(blob, h->map_bytes) != h->map_sum)
		rc = damaged(h, "its map does not match its checksum");
	if (!rc)
		rc = map_blob_read(blob, h->map_bytes, &a->map);
	free(blob);
	if (!rc && a->map->ranks != h->ranks)
		rc = damaged(h, "its map is of another number of ranks");
	return rc;
}

static int read_contents(struct arena *a)
{
	const struct arena_header *h = a->header;
	uint8_t *records = NULL;
	int rc = read_map(a);

	if (!rc)
		rc = copy_part(a, h->rails_offset, h->rails_bytes, &records);
	if (rc)
		return rc;
	a->rails = calloc(h->rails, sizeof(*a->rails));
	if (!a->rails)
		rc = error_set(FTMEM_ENOMEM, "no memory for an arena's rails");
	if (!rc)
		rc = arena_check_rails(h, records, a->rails, &a->shape);
	free(records);
	if (!rc)
		rc = check_rails(a->map, h->rank, a->rails, h->rails);
	return rc == FTMEM_EINVAL ? damaged(h, "its rails do not follow from its map") : rc;
}

bool arena_unwritten(int fd)
{
	uint64_t magic = 0;

	return pread(fd, &magic, sizeof(magic), 0) == (ssize_t)sizeof(magic)
	       && magic == ARENA_UNWRITTEN;
}

static int attach(int fd, bool writable, bool held, struct arena **out)
{
	struct arena_header *h;
	struct arena *a = NULL;
	uint64_t size = 0;
	int rc;

	rc = arena_new(fd, &a);
	if (rc)
		return rc;
	h = malloc(sizeof(*h));
	a->header = h;
	if (!h) {
		rc = error_set(FTMEM_ENOMEM, "no memory for an arena's description");
		goto fail;
	}
	rc = arena_size(fd, &size);
	if (rc)
		goto fail;
	if (size < ARENA_PAGE) {
		rc = error_set(FTMEM_ECORRUPT, "no arena: only %llu bytes",
		               (unsigned long long)size);
		goto fail;
	}
	if (pread(fd, h, sizeof(*h), 0) != (ssize_t)sizeof(*h)) {
		rc = error_sys(FTMEM_ESYS, errno, "cannot read the header of an arena");
		goto fail;
	}
	rc = held ? 0 : check_format(h);
	if (!rc)
		rc = arena_check_header(h, size);
	if (rc)
		goto fail;
	rc = arena_map(a, h->arena_bytes, writable);
	if (rc)
		goto fail;
	rc = read_contents(a);
	if (rc)
		goto fail;
	find_slots(a);
	*out = a;
	return 0;
fail:
	arena_free(a);
	return rc;
}

int arena_attach(int fd, bool writable, struct arena **out)
{
	return attach(fd, writable, false, out);
}

int arena_attach_held(int fd, bool writable, struct arena **out)
{
	return attach(fd, writable, true, out);
}
