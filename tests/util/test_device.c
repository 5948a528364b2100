/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test_device_impl.h"

#define PATIENCE_S 20

struct sim sim = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

void sim_misuse(const char *what)
{
	fprintf(stderr, "test device: %s\n", what);
	abort();
}

/* Not malloc(): see test_device.h. */
void *sim_take(size_t bytes)
{
	void *p = aligned_alloc(16, (bytes + 15) / 16 * 16);

	if (!p)
		sim_misuse("out of memory");
	memset(p, 0, bytes);
	return p;
}

void sim_enter(void)
{
	pthread_mutex_lock(&sim.lock);
}

void sim_leave(void)
{
	pthread_mutex_unlock(&sim.lock);
}

void sim_tell(void)
{
	pthread_cond_broadcast(&sim.changed);
}

void sim_await(void)
{
	pthread_cond_wait(&sim.changed, &sim.lock);
}

struct timespec sim_patience(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_S;
	return until;
}

bool sim_await_until(const struct timespec *until)
{
	return pthread_cond_timedwait(&sim.changed, &sim.lock, until) != ETIMEDOUT;
}

bool sim_await_standing(const uint32_t *standing)
{
	struct timespec until = sim_patience();

	while (*standing == 0 && sim_await_until(&until))
		continue;
	return *standing > 0;
}

/* --- memory --- */

static uint64_t pages(uint64_t bytes)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return (bytes + page - 1) / page * page;
}

static uint8_t *map(uint64_t bytes, int prot)
{
	void *p = mmap(NULL, pages(bytes), prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		sim_misuse("no memory to map");
	return p;
}

static struct sim_memory *memory_new(int device, uint8_t *at, uint64_t bytes)
{
	struct sim_memory *m = sim_take(sizeof(*m));

	if (device < 0 || device >= TEST_DEVICES || bytes == 0)
		sim_misuse("no such device, or no bytes");
	m->bytes = bytes;
	m->device = device;
	m->bytes_at = map(bytes, PROT_READ | PROT_WRITE);
	m->at = at ? at : m->bytes_at;
	m->next = sim.memory;
	sim.memory = m;
	return m;
}

/* Addresses of freed memory are not used again before test_device_reset(). */
void *sim_memory_new(int device, uint64_t bytes, bool library)
{
	struct sim_memory *m = memory_new(device, map(bytes, PROT_NONE), bytes);

	m->map = m->at;
	m->mapped = bytes;
	m->library = library;
	return m->at;
}

static void memory_unmap(struct sim_memory *m)
{
	munmap(m->bytes_at, pages(m->bytes));
	if (m->map)
		munmap(m->map, pages(m->mapped));
	free(m);
}

bool sim_overlaps(const void *a, uint64_t a_bytes, const void *b, uint64_t b_bytes)
{
	return (uintptr_t)a < (uintptr_t)b + b_bytes && (uintptr_t)b < (uintptr_t)a + a_bytes;
}

struct sim_memory *sim_memory_of(const void *at, uint64_t bytes)
{
	for (struct sim_memory *m = sim.memory; m; m = m->next)
		if (sim_overlaps(m->at, m->bytes, at, bytes))
			return m;
	return NULL;
}

uint8_t *sim_bytes_at(const void *at, uint64_t bytes)
{
	struct sim_memory *m = sim_memory_of(at, bytes);
	uintptr_t from;

	if (!m)
		return (uint8_t *)(uintptr_t)at;
	from = (uintptr_t)at - (uintptr_t)m->at;
	if (m->freed || (uintptr_t)at < (uintptr_t)m->at || bytes > m->bytes - from)
		return NULL;
	return m->bytes_at + from;
}

static uint8_t *known_bytes(const void *at, uint64_t bytes)
{
	uint8_t *p = sim_bytes_at(at, bytes);

	if (!p)
		sim_misuse("a test uses memory that no device has");
	return p;
}

void *test_device_alloc(int device, uint64_t bytes)
{
	void *at;

	sim_enter();
	at = sim_memory_new(device, bytes, false);
	sim_leave();
	return at;
}

void test_device_alloc_row(int device, const uint64_t *bytes, uint32_t count, void **at)
{
	struct sim_memory *m = NULL;
	uint64_t all = 0, done = 0;
	uint8_t *base;

	for (uint32_t i = 0; i < count; i++)
		all += bytes[i];
	sim_enter();
	base = map(all, PROT_NONE);
	for (uint32_t i = 0; i < count; i++) {
		m = memory_new(device, base + done, bytes[i]);
		at[i] = m->at;
		done += bytes[i];
	}
	m->map = base;
	m->mapped = all;
	sim_leave();
}

void *test_device_managed(uint64_t bytes)
{
	struct sim_memory *m;

	sim_enter();
	m = memory_new(0, NULL, bytes);
	m->managed = true;
	sim_leave();
	return m->at;
}

void test_device_free(void *at)
{
	struct sim_memory *m;

	sim_enter();
	m = sim_memory_of(at, 1);
	if (!m || m->at != at || m->freed || m->library)
		sim_misuse("a test frees what it does not have");
	m->freed = true;
	sim_leave();
}

void test_device_write(void *at, const void *from, uint64_t bytes)
{
	sim_enter();
	memcpy(known_bytes(at, bytes), from, bytes);
	sim_leave();
}

void test_device_read(void *to, const void *at, uint64_t bytes)
{
	sim_enter();
	memcpy(to, known_bytes(at, bytes), bytes);
	sim_leave();
}

void test_device_set(void *at, int value, uint64_t bytes)
{
	sim_enter();
	memset(known_bytes(at, bytes), value, bytes);
	sim_leave();
}

/* --- lanes and faults --- */

static void hold(int device, enum device_lane lane, bool whole, uint64_t left)
{
	struct sim_hold *h = &sim.hold[device][lane];

	sim_enter();
	h->on = true;
	h->whole = whole;
	h->left = left;
	sim_tell();
	sim_leave();
}

void test_device_hold(int device, enum device_lane lane, uint64_t pieces)
{
	hold(device, lane, false, pieces);
}

void test_device_hold_copies(int device, enum device_lane lane, uint64_t copies)
{
	hold(device, lane, true, copies);
}

void test_device_go(int device, enum device_lane lane)
{
	sim_enter();
	sim.hold[device][lane].on = false;
	sim_tell();
	sim_leave();
}

bool test_device_await_hold(int device, enum device_lane lane)
{
	bool came;

	sim_enter();
	came = sim_await_standing(&sim.hold[device][lane].standing);
	sim_leave();
	return came;
}

void test_device_slow(uint64_t ns_per_mib)
{
	sim_enter();
	sim.ns_per_mib = ns_per_mib;
	sim_leave();
}

static void set_fault(unsigned *fault, unsigned n)
{
	sim_enter();
	*fault = n;
	sim_leave();
}

void test_device_fail_issue(unsigned n)
{
	set_fault(&sim.fail_issue, n);
}

void test_device_fail_record(unsigned n)
{
	set_fault(&sim.fail_record, n);
}

void test_device_fail_copy(unsigned n)
{
	set_fault(&sim.fail_copy, n);
}

void test_device_fail_pin(unsigned n)
{
	set_fault(&sim.fail_pin, n);
}

void test_device_fail_alloc(unsigned n)
{
	set_fault(&sim.fail_alloc, n);
}

void test_device_fail_alloc_above(uint64_t bytes)
{
	sim_enter();
	sim.largest = bytes;
	sim_leave();
}

void test_device_lose(int device)
{
	sim_enter();
	sim.lost[device] = true;
	sim_tell();
	sim_leave();
}

static void give_up(struct test_stream *s)
{
	if (s->in_hand)
		s->in_hand->given_up = true;
	for (struct sim_op *op = s->first; op; op = op->next)
		op->given_up = true;
}

void test_device_mend(int device)
{
	sim_enter();
	for (struct test_stream *s = sim.streams; s; s = s->next)
		if (s->lane != SIM_USERS && s->device == device)
			give_up(s);
	sim.lost[device] = false;
	sim_tell();
	sim_leave();
}

static uint32_t copies_of(const struct test_stream *s)
{
	uint32_t copies = s->in_hand && s->in_hand->kind == SIM_COPY;

	for (const struct sim_op *op = s->first; op; op = op->next)
		copies += op->kind == SIM_COPY;
	return copies;
}

struct test_device_figures test_device_figures(void)
{
	struct test_device_figures f;

	sim_enter();
	f = sim.figures;
	for (struct test_stream *s = sim.streams; s; s = s->next)
		if (s->lane != SIM_USERS) {
			f.queued += (uint32_t)(s->queued - s->over);
			f.copying += copies_of(s);
		}
	sim_leave();
	return f;
}

void test_device_reset(void)
{
	const struct test_device_figures *f = &sim.figures;

	sim_enter();
	if (f->devices > 0 || f->pins > 0 || f->allocated > 0 || f->events > 0)
		sim_misuse("a test ends while the library has something open");
	while (sim.streams)
		sim_stream_end(sim.streams);
	while (sim.memory) {
		struct sim_memory *m = sim.memory;

		sim.memory = m->next;
		memory_unmap(m);
	}
	sim.standard = NULL;
	memset(sim.hold, 0, sizeof(sim.hold));
	memset(sim.lost, 0, sizeof(sim.lost));
	sim.fail_issue = sim.fail_copy = sim.fail_record = sim.fail_pin = sim.fail_alloc = 0;
	sim.largest = 0;
	sim.ns_per_mib = 0;
	sim.figures = (struct test_device_figures){0};
	sim_leave();
}
