/* SPDX-License-Identifier: BSD-3-Clause */
/* Machines and their SMPs, as the ranks' clients see them: replaces smp/client.c. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"
#include "smp/client.h"

struct smp_client {
	struct sim_machine *machine;
	uint32_t smp; /* which of that machine's */
	struct sim_process *process;
};

/* --- the SMPs --- */

void sim_smp_start(struct sim_machine *m)
{
	m->smp += m->smp % 2 == 0;
}

static void forget(struct sim_machine *m, uint32_t i)
{
	sim_buffer_drop(m->arena[i].buffer);
	m->arena[i] = m->arena[--m->arenas];
}

void sim_smp_kill(struct sim_machine *m)
{
	if (m->smp % 2 == 1)
		m->smp++;
	/* What nobody else holds is lost, and so is what nobody hands over to the next SMP. */
	while (m->arenas > 0) {
		m->arena[0].buffer->orphan = &m->losses;
		forget(m, 0);
	}
}

/* As ftmem-smp reads it: false: not written yet, or damaged. */
static bool read_header(const struct sim_buffer *b, struct arena_header *h)
{
	memcpy(h, b->memory, sizeof(*h));
	return h->magic == ARENA_MAGIC && h->format == ARENA_FORMAT
	       && h->header_sum == arena_header_sum(h) && h->arena_bytes <= b->bytes;
}

static struct commit_slot read_slot(const struct sim_buffer *b, uint64_t offset)
{
	const struct slot_header *s = (const void *)(b->memory + offset);
	uint64_t word = atomic_load(&s->state);
	enum slot_state state = (enum slot_state)(word & 0xff);

	if (state == SLOT_FILLING)
		return (struct commit_slot){state, {0, word >> 8}};
	if ((state != SLOT_PREPARED && state != SLOT_COMMITTED) || word >> 8 != s->version)
		return (struct commit_slot){SLOT_EMPTY, {0, 0}};
	return (struct commit_slot){state, {s->incarnation, s->version}};
}

static struct sim_arena *find(struct sim_machine *m, uint64_t epoch, uint32_t rank)
{
	for (uint32_t i = 0; i < m->arenas; i++)
		if (m->arena[i].epoch == epoch && m->arena[i].rank == rank)
			return &m->arena[i];
	return NULL;
}

static void add(struct sim_machine *m, uint64_t epoch, uint32_t rank, struct sim_buffer *b,
                struct sim_process *owner)
{
	sim_require(m->arenas < SIM_ARENAS, "a machine has room for arenas");
	m->arena[m->arenas++] = (struct sim_arena){epoch, rank, b, owner};
}

/* --- clients --- */

static int gone(void)
{
	return error_set(FTMEM_ESMP, "the SMP is gone");
}

static bool reaches(const struct smp_client *c)
{
	return c->machine->smp == c->smp && c->smp % 2 == 1;
}

int smp_connect(const struct smp_config *config, struct smp_client **out)
{
	struct smp_client *c = malloc(sizeof(*c));

	(void)config;
	sim_require(c, "memory");
	*c = (struct smp_client){&sim.machine[sim.now->process->machine], 0, sim.now->process};
	sim_smp_start(c->machine);
	c->smp = c->machine->smp;
	*out = c;
	return 0;
}

void smp_close(struct smp_client *c)
{
	for (uint32_t i = 0; c && i < c->machine->arenas; i++)
		if (c->machine->arena[i].owner == c->process)
			c->machine->arena[i].owner = NULL;
	free(c);
}

bool smp_alive(struct smp_client *c)
{
	return reaches(c);
}

int smp_reconnect(struct smp_client *c)
{
	sim_smp_start(c->machine);
	c->smp = c->machine->smp;
	return 0;
}

int32_t smp_pid(const struct smp_client *c)
{
	return (int32_t)(1000 * (1 + c->machine - sim.machine) + c->smp);
}

int smp_info(struct smp_client *c, struct smp_info *out)
{
	if (!reaches(c))
		return gone();
	*out = (struct smp_info){.pid = smp_pid(c), .arenas = c->machine->arenas};
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct smp_entry *x = a, *y = b;

	if (x->epoch != y->epoch)
		return x->epoch < y->epoch ? -1 : 1;
	return (x->rank > y->rank) - (x->rank < y->rank);
}

int smp_list(struct smp_client *c, struct smp_entry **entries, uint32_t *count)
{
	struct smp_entry *entry;

	if (!reaches(c))
		return gone();
	entry = calloc(c->machine->arenas + 1, sizeof(*entry));
	sim_require(entry, "memory");
	for (uint32_t i = 0; i < c->machine->arenas; i++) {
		const struct sim_arena *a = &c->machine->arena[i];
		struct arena_header h;
		bool readable = read_header(a->buffer, &h);

		entry[i] = (struct smp_entry){.epoch = a->epoch, .rank = a->rank,
		                              .bytes = a->buffer->bytes};
		for (int j = 0; readable && j < 2; j++)
			entry[i].slot[j] = read_slot(a->buffer, h.slot_offset[j]);
	}
	*count = c->machine->arenas;
	qsort(entry, *count, sizeof(*entry), compare);
	*entries = entry;
	return 0;
}

int smp_create(struct smp_client *c, uint64_t epoch, uint32_t rank, uint64_t bytes, int *fd)
{
	const uint64_t unwritten = ARENA_UNWRITTEN;
	struct sim_buffer *b;

	sim_step(STEP_CREATE);
	if (!reaches(c))
		return gone();
	if (find(c->machine, epoch, rank))
		return error_set(FTMEM_EINVAL, "there is an arena of rank %u already", rank);
	for (uint32_t i = 0; sim.flaw == SIM_EARLY_END && i < c->machine->arenas; i++)
		if (c->machine->arena[i].rank == rank)
			forget(c->machine, i);
	b = sim_buffer_new(bytes);
	memcpy(b->memory, &unwritten, sizeof(unwritten));
	add(c->machine, epoch, rank, b, c->process);
	*fd = sim_handle_open(b);
	return 0;
}

int smp_attach(struct smp_client *c, uint64_t epoch, uint32_t rank, bool lease, int *fd)
{
	struct sim_arena *a;

	sim_step(STEP_ATTACH);
	if (!reaches(c))
		return gone();
	a = find(c->machine, epoch, rank);
	if (!a)
		return error_set(FTMEM_EINVAL, "there is no arena of rank %u", rank);
	if (lease && a->owner && a->owner != c->process)
		return error_set(FTMEM_EATTACHED, "rank %u has the arena", a->owner->rank);
	if (lease)
		a->owner = c->process;
	*fd = sim_handle_open(a->buffer);
	return 0;
}

int smp_adopt(struct smp_client *c, uint64_t epoch, uint32_t rank, int fd)
{
	struct sim_buffer *b = sim_handle_buffer(fd);
	struct arena_header h;
	struct sim_arena *a;

	sim_step(STEP_ADOPT);
	if (!reaches(c))
		return gone();
	if (!read_header(b, &h) || h.epoch != epoch || h.rank != rank)
		return error_set(FTMEM_EINVAL, "what is handed over is no arena of rank %u", rank);
	a = find(c->machine, epoch, rank);
	if (a && a->buffer != b)
		return error_set(FTMEM_EINVAL, "there is another arena of rank %u", rank);
	if (a)
		return 0;
	b->holders++;
	b->orphan = NULL;
	add(c->machine, epoch, rank, b, c->process);
	return 0;
}

int smp_release(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	struct sim_arena *a = find(c->machine, epoch, rank);

	if (!reaches(c))
		return gone();
	if (!a || a->owner != c->process)
		return error_set(FTMEM_EINVAL, "rank %u's arena is not leased", rank);
	a->owner = NULL;
	return 0;
}

int smp_drop(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	struct sim_arena *a = find(c->machine, epoch, rank);

	if (!reaches(c))
		return gone();
	if (!a)
		return error_set(FTMEM_EINVAL, "there is no arena of rank %u", rank);
	forget(c->machine, (uint32_t)(a - c->machine->arena));
	return 0;
}

int smp_retire(struct smp_client *c, uint64_t epoch)
{
	sim_step(sim.now->process->restoring    ? STEP_RERETIRE
	         : sim.now->process->repairing  ? STEP_MENDRETIRE
	         : sim.now->process->forgetting ? STEP_FORGETRETIRE
	                                        : STEP_RETIRE);
	if (!reaches(c))
		return gone();
	for (uint32_t i = c->machine->arenas; i-- > 0;)
		if (c->machine->arena[i].epoch < epoch)
			forget(c->machine, i);
	return 0;
}

int smp_forget(struct smp_client *c)
{
	if (!reaches(c))
		return gone();
	while (c->machine->arenas > 0)
		forget(c->machine, 0);
	return 0;
}

/* Nothing is scrubbed. */
int smp_scrub_again(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	(void)epoch;
	(void)rank;
	return reaches(c) ? 0 : gone();
}

int smp_check_ask(struct smp_client *c, uint64_t epoch, uint32_t rank)
{
	(void)epoch;
	(void)rank;
	return reaches(c) ? FTMEM_BUSY : gone();
}

int smp_check_take(struct smp_client *c, struct smp_entry *out)
{
	(void)out;
	return reaches(c) ? FTMEM_BUSY : gone();
}
