/* SPDX-License-Identifier: BSD-3-Clause */
/* Heaps of processes, mappings and descriptors of arenas, and the machine as the library
 * sees it: replaces malloc() and so on, mmap(), topo.c, parts of memory.c and machine.c. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"
#include "memory.h"
#include "sim.h"
#include "topo.h"

#define FIRST_FD 1000000
#define PAGE     4096u

void *__real_malloc(size_t bytes);
void __real_free(void *p);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void __wrap_free(void *p);

/* --- heaps --- */

static struct sim_block nobody = {&nobody, &nobody, NULL, 0};

static struct sim_block *block_of(void *p)
{
	return (struct sim_block *)p - 1;
}

/* The block's head lies before what the caller gets. */
static void *take(size_t align, size_t bytes)
{
	struct sim_block *ring = sim.now && sim.outside == 0 ? &sim.now->process->ring : &nobody;
	size_t head = align > sizeof(struct sim_block) ? align : sizeof(struct sim_block);
	uint8_t *raw = __real_malloc(head + align + bytes), *at;
	struct sim_block *b;

	if (!raw || bytes > SIZE_MAX - 2 * head)
		return NULL;
	at = raw + head;
	at += (align - (uintptr_t)at % align) % align;
	b = block_of(at);
	*b = (struct sim_block){ring->next, ring, raw, bytes};
	ring->next->prev = b;
	ring->next = b;
	return at;
}

void *__wrap_malloc(size_t bytes)
{
	return take(16, bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	void *p;

	if (bytes > 0 && count > SIZE_MAX / bytes)
		return NULL;
	p = take(16, count * bytes);
	return p ? memset(p, 0, count * bytes) : NULL;
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	return take(align, bytes);
}

void __wrap_free(void *p)
{
	struct sim_block *b;

	if (!p)
		return;
	b = block_of(p);
	b->next->prev = b->prev;
	b->prev->next = b->next;
	__real_free(b->raw);
}

void *__wrap_realloc(void *p, size_t bytes)
{
	void *grown = take(16, bytes);

	if (!grown || !p)
		return grown;
	memcpy(grown, p, block_of(p)->bytes < bytes ? block_of(p)->bytes : bytes);
	__wrap_free(p);
	return grown;
}

void sim_process_begin(struct sim_process *p)
{
	p->ring.next = p->ring.prev = &p->ring;
}

bool sim_process_holds(const struct sim_process *p)
{
	for (uint32_t i = 0; i < SIM_HANDLES; i++)
		if (sim.handle[i].buffer && sim.handle[i].process == p)
			return true;
	return p->ring.next != &p->ring;
}

void sim_process_end(struct sim_process *p)
{
	for (uint32_t i = 0; i < SIM_FIBERS; i++)
		if (p->fiber[i])
			sim_fiber_free(p->fiber[i]);
	while (p->ring.next && p->ring.next != &p->ring)
		__wrap_free(p->ring.next + 1);
	for (uint32_t i = 0; i < SIM_HANDLES; i++)
		if (sim.handle[i].buffer && sim.handle[i].process == p) {
			sim_buffer_drop(sim.handle[i].buffer);
			sim.handle[i].buffer = NULL;
		}
	for (uint32_t i = 0; i < sim.machines; i++)
		for (uint32_t j = 0; j < sim.machine[i].arenas; j++)
			if (sim.machine[i].arena[j].owner == p)
				sim.machine[i].arena[j].owner = NULL;
}

/* --- arenas --- */

struct sim_buffer *sim_buffer_new(uint64_t bytes)
{
	struct sim_buffer *b;

	sim.outside++;
	b = malloc(sizeof(*b));
	sim_require(b, "memory");
	*b = (struct sim_buffer){aligned_alloc(PAGE, bytes), bytes, 1, NULL, NULL};
	sim_require(b->memory, "memory");
	memset(b->memory, 0, bytes);
	sim.outside--;
	return b;
}

void sim_buffer_drop(struct sim_buffer *b)
{
	if (--b->holders > 0)
		return;
	if (b->orphan)
		++*b->orphan;
	sim_view_free(b->view);
	free(b->memory);
	free(b);
}

static uint32_t handle_new(struct sim_buffer *b, bool is_mapping)
{
	uint32_t i = 0;

	while (i < SIM_HANDLES && sim.handle[i].buffer)
		i++;
	sim_require(i < SIM_HANDLES, "enough descriptors");
	b->holders++;
	sim.handle[i] = (struct sim_handle){b, sim.now ? sim.now->process : NULL, is_mapping};
	return i;
}

static void handle_free(struct sim_handle *h)
{
	struct sim_buffer *b = h->buffer;

	h->buffer = NULL;
	sim_buffer_drop(b);
}

int sim_handle_open(struct sim_buffer *b)
{
	return FIRST_FD + (int)handle_new(b, false);
}

struct sim_buffer *sim_handle_buffer(int fd)
{
	sim_require(fd >= FIRST_FD && fd < FIRST_FD + (int)SIM_HANDLES
	            && sim.handle[fd - FIRST_FD].buffer, "a descriptor of an arena");
	return sim.handle[fd - FIRST_FD].buffer;
}

void *__wrap_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	struct sim_buffer *b;
	void *p;

	(void)addr;
	(void)prot;
	(void)flags;
	(void)offset;
	if (fd >= FIRST_FD) {
		b = sim_handle_buffer(fd);
		handle_new(b, true);
		return b->memory;
	}
	p = take(PAGE, bytes);
	return p ? memset(p, 0, bytes) : MAP_FAILED;
}

int __wrap_munmap(void *addr, size_t bytes);
int __wrap_munmap(void *addr, size_t bytes)
{
	struct sim_process *p = sim.now ? sim.now->process : NULL;

	(void)bytes;
	for (uint32_t i = 0; i < SIM_HANDLES; i++) {
		struct sim_handle *h = &sim.handle[i];

		if (h->buffer && h->is_mapping && h->process == p && h->buffer->memory == addr) {
			handle_free(h);
			return 0;
		}
	}
	__wrap_free(addr);
	return 0;
}

int __wrap_madvise(void *addr, size_t bytes, int advice);
int __wrap_madvise(void *addr, size_t bytes, int advice)
{
	(void)addr;
	(void)bytes;
	(void)advice;
	return 0;
}

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
	if (fd < FIRST_FD)
		return __real_close(fd);
	sim_handle_buffer(fd);
	handle_free(&sim.handle[fd - FIRST_FD]);
	return 0;
}

int __wrap_fstat(int fd, struct stat *st);
int __wrap_fstat(int fd, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_size = (off_t)sim_handle_buffer(fd)->bytes;
	return 0;
}

ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset)
{
	const struct sim_buffer *b = sim_handle_buffer(fd);

	sim_require((uint64_t)offset + bytes <= b->bytes, "what is read is there");
	memcpy(to, b->memory + offset, bytes);
	return (ssize_t)bytes;
}

/* --- the machine --- */

uint64_t __wrap_memory_available(void);
uint64_t __wrap_memory_available(void)
{
	return UINT64_C(1) << 40;
}

uint64_t __wrap_machine_boot(void);
uint64_t __wrap_machine_boot(void)
{
	return 1000 + sim.now->process->machine;
}

ssize_t __wrap_getrandom(void *to, size_t bytes, unsigned int flags);
ssize_t __wrap_getrandom(void *to, size_t bytes, unsigned int flags)
{
	uint8_t *at = to;

	(void)flags;
	for (size_t i = 0; i < bytes; i++)
		at[i] = (uint8_t)sim_random(256);
	return (ssize_t)bytes;
}

const struct device_ops *__wrap_device_ops(void);
const struct device_ops *__wrap_device_ops(void)
{
	return NULL;
}

struct topo {
	uint32_t cpus;
};

int topo_new(struct topo **out)
{
	static struct topo one = {1};

	*out = &one;
	return 0;
}

void topo_free(struct topo *t)
{
	(void)t;
}

int topo_place(const struct topo *t, void *addr, size_t bytes)
{
	(void)t;
	(void)addr;
	(void)bytes;
	return 0;
}

struct topo_set topo_bound(const struct topo *t)
{
	(void)t;
	return (struct topo_set){{0}};
}

void topo_note(struct topo *t, const struct topo_set *bound)
{
	(void)t;
	(void)bound;
}

int topo_choose(struct topo *t, const char *cpus)
{
	(void)t;
	(void)cpus;
	return 0;
}

const char *topo_left_out(const struct topo *t)
{
	(void)t;
	return "";
}

void topo_describe(const struct topo *t, char *text, size_t bytes)
{
	(void)t;
	if (bytes > 0)
		text[0] = '\0';
}

uint32_t topo_share(const struct topo *t)
{
	return t->cpus;
}

void topo_pin(const struct topo *t)
{
	(void)t;
}

uint32_t topo_cpus(const struct topo *t)
{
	return t->cpus;
}

uint64_t topo_l2_bytes(const struct topo *t)
{
	(void)t;
	return 1 << 20;
}
