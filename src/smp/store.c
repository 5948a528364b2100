/* SPDX-License-Identifier: BSD-3-Clause */
#include "smp/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "slot.h"
#include "smp/reap.h"

#define SEALS      (F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
/* Nobody could write snapshots there. */
#define NOT_SEALS  (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)
/* A state word that does not go with its version is read again so often. */
#define READ_TRIES 4

struct store {
	char job[FTMEM_NAME_MAX + 1];
	struct process_table *table;
	struct reap *reap; /* from the first arena that is removed; or NULL */
	struct store_entry *entry;
	uint32_t count, room, limit;
	uint64_t generation, asks;
};

int store_new(const char *job, struct process_table *table, struct store **out)
{
	struct store *s = calloc(1, sizeof(*s));

	if (!s)
		return error_set(FTMEM_ENOMEM, "no memory to hold arenas");
	memcpy(s->job, job, strnlen(job, FTMEM_NAME_MAX));
	s->table = table;
	s->generation = 1;
	s->limit = STORE_MAX;
	*out = s;
	return 0;
}

void store_limit(struct store *s, uint32_t arenas)
{
	s->limit = arenas < STORE_MAX ? arenas : STORE_MAX;
}

static void lease_end(struct store *s, struct store_entry *e)
{
	process_put(s->table, e->lease.process);
	e->lease = (struct holder){0};
}

static void lease_give(struct store *s, struct store_entry *e, const struct holder *holder)
{
	struct process *process = process_ref(holder->process);

	lease_end(s, e);
	e->lease = (struct holder){process, holder->connection, holder->pid};
}

static bool holds(const struct holder *a, const struct holder *b)
{
	return a->process ? a->process == b->process : a->connection == b->connection;
}

/* The caller has the descriptor. */
static int take_out(struct store *s, uint32_t index)
{
	struct store_entry *e = &s->entry[index];
	int fd = e->fd;

	lease_end(s, e);
	*e = s->entry[--s->count];
	s->generation++;
	return fd;
}

/* Without the thread it takes as long as it takes. */
static void give_to_reap(struct store *s, int fd)
{
	if (s->reap || reap_new(&s->reap) == 0)
		reap_close(s->reap, fd);
	else
		close(fd);
}

void store_free(struct store *s)
{
	if (!s)
		return;
	store_forget(s);
	store_finish(s);
	reap_free(s->reap);
	free(s->entry);
	free(s);
}

uint32_t store_count(const struct store *s)
{
	return s->count;
}

uint32_t store_leases(const struct store *s)
{
	uint32_t leases = 0;

	for (uint32_t i = 0; i < s->count; i++)
		leases += s->entry[i].lease.connection != 0;
	return leases;
}

uint64_t store_bytes(const struct store *s)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < s->count; i++)
		bytes += s->entry[i].bytes;
	return bytes;
}

uint64_t store_generation(const struct store *s)
{
	return s->generation;
}

uint64_t store_asks(const struct store *s)
{
	return s->asks;
}

const struct store_entry *store_at(const struct store *s, uint64_t index)
{
	return index < s->count ? &s->entry[index] : NULL;
}

struct store_entry *store_scrubbed(struct store *s, uint64_t index)
{
	return index < s->count ? &s->entry[index] : NULL;
}

static struct store_entry *find(const struct store *s, uint64_t epoch, uint32_t rank)
{
	for (uint32_t i = 0; i < s->count; i++)
		if (s->entry[i].epoch == epoch && s->entry[i].rank == rank)
			return &s->entry[i];
	return NULL;
}

/* What lies in that memory, whatever it is called. */
static const struct store_entry *find_memory(const struct store *s, const struct stat *st)
{
	for (uint32_t i = 0; i < s->count; i++)
		if (s->entry[i].dev == st->st_dev && s->entry[i].ino == st->st_ino)
			return &s->entry[i];
	return NULL;
}

/* Whether there can be an arena called so. */
static bool names_arena(uint64_t epoch, uint32_t rank)
{
	return epoch > 0 && rank != WIRE_RANK_OBSERVER;
}

static int none(uint64_t epoch, uint32_t rank)
{
	return error_set(FTMEM_EINVAL, "no arena of rank %u, epoch %llu is held", rank,
	                 (unsigned long long)epoch);
}

/* false: not written yet, or damaged. */
static bool read_header(int fd, uint64_t bytes, struct arena_header *h)
{
	return pread(fd, h, sizeof(*h), 0) == (ssize_t)sizeof(*h) && h->magic == ARENA_MAGIC
	       && h->format == ARENA_FORMAT && h->header_sum == arena_header_sum(h)
	       && h->arena_bytes <= bytes;
}

/* Gives what is known of the slot if that is of what it holds. */
static void tell_check(const struct store_slot_check *c, uint64_t word, struct wire_slot *out)
{
	if (c->word == word && c->incarnation == out->incarnation)
		out->check = c->found;
}

static void read_slot(int fd, uint64_t offset, const struct store_slot_check *check,
                      struct wire_slot *out)
{
	struct slot_header h = {0};
	uint64_t word = 0;

	for (int i = 0; i < READ_TRIES; i++) {
		if (offset > INT64_MAX
		    || pread(fd, &h, sizeof(h), (off_t)offset) != (ssize_t)sizeof(h)) {
			*out = (struct wire_slot){.state = SLOT_EMPTY,
			                          .check.damage = WIRE_DAMAGE_HEADER};
			return;
		}
		memcpy(&word, &h, sizeof(word));
		out->state = (uint32_t)(word & 0xff);
		out->version = word >> 8;
		if (out->state == SLOT_FILLING)
			return;
		if ((out->state != SLOT_PREPARED && out->state != SLOT_COMMITTED)
		    || out->version != h.version)
			continue;
		out->incarnation = h.incarnation;
		out->filled_ns = h.filled_ns;
		tell_check(check, word, out);
		return;
	}
	*out = (struct wire_slot){.state = SLOT_EMPTY, .incarnation = h.incarnation};
	tell_check(check, word, out);
	out->incarnation = 0;
}

void store_slots(const struct store_entry *e, struct wire_slot out[2])
{
	struct arena_header h;
	bool readable = read_header(e->fd, e->bytes, &h);

	for (int i = 0; i < 2; i++) {
		out[i] = (struct wire_slot){.state = SLOT_EMPTY};
		if (readable)
			read_slot(e->fd, h.slot_offset[i], &e->check.slot[i], &out[i]);
	}
}

/* Room for one more. */
static int reserve(struct store *s)
{
	struct store_entry *more;
	uint32_t room = s->room ? s->room * 2 : 16;

	/* What was removed may have the descriptors still. */
	if (s->count < s->limit && s->limit - s->count <= reap_waiting(s->reap))
		reap_finish(s->reap);
	if (s->count >= s->limit)
		return error_set(FTMEM_ENOMEM, "ftmem-smp holds %u arenas and takes no more",
		                 s->count);
	if (s->count < s->room)
		return 0;
	more = realloc(s->entry, room * sizeof(*more));
	if (!more)
		return error_set(FTMEM_ENOMEM, "no memory to hold another arena");
	s->entry = more;
	s->room = room;
	return 0;
}

/* Takes fd. */
static void append(struct store *s, uint64_t epoch, uint32_t rank, int fd, const struct stat *st,
                   const struct holder *holder)
{
	struct store_entry *e = &s->entry[s->count++];

	*e = (struct store_entry){.epoch = epoch,
	                          .rank = rank,
	                          .fd = fd,
	                          .bytes = (uint64_t)st->st_size,
	                          .dev = st->st_dev,
	                          .ino = st->st_ino};
	lease_give(s, e, holder);
	s->generation++;
}

int store_create(struct store *s, uint64_t epoch, uint32_t rank, uint64_t bytes,
                 const struct holder *holder, int *fd)
{
	const uint64_t unwritten = ARENA_UNWRITTEN;
	char name[FTMEM_NAME_MAX + 64];
	struct stat st;
	int memory, rc;

	if (!names_arena(epoch, rank) || bytes < ARENA_PAGE || bytes > INT64_MAX)
		return error_set(FTMEM_EINVAL,
		                 "an arena of %llu bytes for rank %u, epoch %llu cannot "
		                 "be",
		                 (unsigned long long)bytes, rank, (unsigned long long)epoch);
	if (find(s, epoch, rank))
		return error_set(FTMEM_EINVAL, "an arena of rank %u, epoch %llu is held already",
		                 rank, (unsigned long long)epoch);
	rc = reserve(s);
	if (rc)
		return rc;
	snprintf(name, sizeof(name), "ftmem:%s:%u:%llu", s->job, rank, (unsigned long long)epoch);
	memory = memfd_create(name, MFD_ALLOW_SEALING | MFD_CLOEXEC);
	if (memory < 0)
		return error_sys(errno == ENOMEM ? FTMEM_ENOMEM : FTMEM_ESYS, errno,
		                 "cannot make an arena of rank %u", rank);
	if (ftruncate(memory, (off_t)bytes) != 0 || fcntl(memory, F_ADD_SEALS, SEALS) != 0
	    || pwrite(memory, &unwritten, sizeof(unwritten), 0) != (ssize_t)sizeof(unwritten)
	    || fstat(memory, &st) != 0) {
		rc = error_sys(errno == ENOMEM || errno == EFBIG ? FTMEM_ENOMEM : FTMEM_ESYS, errno,
		               "cannot make an arena of %llu bytes for rank %u",
		               (unsigned long long)bytes, rank);
		close(memory);
		return rc;
	}
	append(s, epoch, rank, memory, &st, holder);
	*fd = memory;
	return 0;
}

/* Whether holder may have e; *pid says who has it. */
static int may_lease(const struct store_entry *e, const struct holder *holder, int32_t *pid)
{
	*pid = e->lease.pid;
	if (!e->lease.connection || holds(&e->lease, holder)
	    || (e->lease.process && process_gone(e->lease.process)))
		return 0;
	return error_set(FTMEM_EATTACHED,
	                 "rank %u, epoch %llu is still held by process %d of an "
	                 "earlier start: end that process",
	                 e->rank, (unsigned long long)e->epoch, e->lease.pid);
}

int store_attach(struct store *s, uint64_t epoch, uint32_t rank, const struct holder *holder,
                 int *fd, int32_t *pid)
{
	struct store_entry *e = find(s, epoch, rank);
	int rc = 0;

	*pid = 0;
	if (!e)
		return none(epoch, rank);
	if (holder)
		rc = may_lease(e, holder, pid);
	if (rc)
		return rc;
	if (holder)
		lease_give(s, e, holder);
	*fd = e->fd;
	return 0;
}

static int check_adopted(const struct store *s, uint64_t epoch, uint32_t rank, int fd,
                         struct stat *st)
{
	struct arena_header h;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & SEALS) != SEALS || (seals & NOT_SEALS) || fstat(fd, st) != 0
	    || !S_ISREG(st->st_mode) || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR)
		return error_set(FTMEM_EINVAL,
		                 "what was handed over for rank %u is no sealed memory", rank);
	if (!read_header(fd, (uint64_t)st->st_size, &h) || !names_arena(epoch, rank)
	    || h.epoch != epoch || h.rank != rank || strncmp(h.job, s->job, sizeof(h.job)) != 0)
		return error_set(FTMEM_EINVAL,
		                 "what was handed over is no arena of job %s, rank %u, "
		                 "epoch %llu",
		                 s->job, rank, (unsigned long long)epoch);
	return 0;
}

int store_adopt(struct store *s, uint64_t epoch, uint32_t rank, int fd, const struct holder *holder,
                int32_t *pid)
{
	struct store_entry *e = find(s, epoch, rank);
	struct stat st = {0};
	int rc;

	*pid = 0;
	rc = check_adopted(s, epoch, rank, fd, &st);
	if (!rc && e != find_memory(s, &st))
		rc = error_set(FTMEM_EINVAL,
		               e ? "other memory is held for rank %u, epoch %llu already"
		                 : "the memory for rank %u, epoch %llu is held for another",
		               rank, (unsigned long long)epoch);
	if (!rc)
		rc = e ? may_lease(e, holder, pid) : reserve(s);
	if (rc || e)
		close(fd);
	if (!rc && e)
		lease_give(s, e, holder);
	else if (!rc)
		append(s, epoch, rank, fd, &st, holder);
	return rc;
}

int store_check(struct store *s, uint64_t epoch, uint32_t rank, bool again,
                const struct store_entry **out)
{
	struct store_entry *e = find(s, epoch, rank);

	if (!e)
		return none(epoch, rank);
	if (again) {
		e->check = (struct store_check){.first = true};
		s->asks++;
	}
	*out = e;
	return 0;
}

int store_release(struct store *s, uint64_t epoch, uint32_t rank, const struct holder *holder)
{
	struct store_entry *e = find(s, epoch, rank);

	if (!e)
		return none(epoch, rank);
	if (e->lease.connection && !holds(&e->lease, holder))
		return error_set(FTMEM_EINVAL,
		                 "rank %u, epoch %llu is held by process %d, not by you", rank,
		                 (unsigned long long)epoch, e->lease.pid);
	lease_end(s, e);
	return 0;
}

int store_drop(struct store *s, uint64_t epoch, uint32_t rank, const struct holder *holder,
               int32_t *pid)
{
	struct store_entry *e = find(s, epoch, rank);
	int rc;

	*pid = 0;
	if (!e)
		return none(epoch, rank);
	rc = may_lease(e, holder, pid);
	if (!rc)
		give_to_reap(s, take_out(s, (uint32_t)(e - s->entry)));
	return rc;
}

void store_retire(struct store *s, uint64_t epoch)
{
	for (uint32_t i = s->count; i-- > 0;)
		if (s->entry[i].epoch < epoch)
			give_to_reap(s, take_out(s, i));
}

void store_forget(struct store *s)
{
	while (s->count)
		give_to_reap(s, take_out(s, s->count - 1));
}

void store_finish(struct store *s)
{
	reap_finish(s->reap);
}

void store_process_ended(struct store *s, const struct process *process)
{
	for (uint32_t i = 0; i < s->count; i++)
		if (s->entry[i].lease.process == process)
			lease_end(s, &s->entry[i]);
}

void store_connection_ended(struct store *s, uint64_t connection, bool bye)
{
	for (uint32_t i = 0; i < s->count; i++) {
		struct store_entry *e = &s->entry[i];

		if (e->lease.connection == connection && (bye || !e->lease.process))
			lease_end(s, e);
	}
}

bool store_leased_by_others(const struct store *s, const struct holder *holder)
{
	for (uint32_t i = 0; i < s->count; i++)
		if (s->entry[i].lease.connection && !holds(&s->entry[i].lease, holder))
			return true;
	return false;
}
