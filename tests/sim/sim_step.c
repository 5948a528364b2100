/* SPDX-License-Identifier: BSD-3-Clause */
/* Points of the library's work at which a rank may die: callers of these functions pass here
 * (--wrap). Some are spoiled by a flaw, too. */
#include <stdio.h>
#include <string.h>

#include "checksum.h"
#include "recover.h"
#include "sim.h"
#include "wrapped.h"

const char *const sim_step_name[STEPS] = {
#define SIM_STEP(id, name) [STEP_##id] = name,
#include "sim_steps.h"
#undef SIM_STEP
};

void sim_step(enum sim_step step)
{
	if (!sim.now || sim.outside > 0)
		return;
	sim.tally->passed[step]++;
	sim_damage_step();
	if ((int)step == sim.target && sim.target_count > 0 && --sim.target_count == 0) {
		sim.struck = sim.now->process;
		sim_trace("rank %u is %s", sim.struck->rank, sim_step_name[step]);
		sim_yield();
	} else if (sim_chance(3)) {
		sim_yield();
	}
}

static bool back(void)
{
	return sim.now && sim.now->process->restoring;
}

static void either(enum sim_step run, enum sim_step in_restore)
{
	sim_step(back() ? in_restore : run);
}

static bool repairs(void)
{
	const struct sim_process *p = sim.now ? sim.now->process : NULL;

	return p && sim.outside == 0 && p->repairing && p->fiber[0] == sim.now;
}

static void one_of(enum sim_step run, enum sim_step in_restore, enum sim_step in_repair)
{
	sim_step(repairs() ? in_repair : back() ? in_restore : run);
}

/* A repair gives up what was damaged, and no more. */
static void gives_up(const struct slot *s)
{
	int i = 0;
	const struct sim_view *v = repairs() ? sim_view_of_slot(s, &i) : NULL;

	if (v && sim_view_is_good(v, i))
		sim_break("rank %u gives version %llu up in a repair, which was whole",
		          sim.now->process->rank, (unsigned long long)s->header->version);
}

static void tell(const struct slot *s, const char *state, struct stamp stamp)
{
	const struct ftmem *ft = sim.now ? sim.now->process->ft : NULL;
	const struct slot *own = ft && ft->epoch ? ft->epoch->arena->slot : NULL;
	uint32_t run = sim_run_of(stamp.incarnation);
	char what[64] = "";

	if (!sim.trace || !sim.now)
		return;
	if (stamp.incarnation > 0 && run > 0)
		snprintf(what, sizeof(what), " %llu of run %u",
		         (unsigned long long)stamp.version, run);
	else if (stamp.incarnation > 0)
		snprintf(what, sizeof(what), " %llu of this run",
		         (unsigned long long)stamp.version);
	sim_trace("rank %u: %s%s%s", sim.now->process->rank, state, what,
	          s == own ? ", slot 0" : own && s == own + 1 ? ", slot 1" : "");
}

/* --- slots --- */

void __wrap_slot_set_empty(struct slot *s)
{
	one_of(sim.now && sim.now->process->forgetting ? STEP_FORGETEMPTY : STEP_EMPTY,
	       STEP_REEMPTY, STEP_MENDEMPTY);
	tell(s, "EMPTY", (struct stamp){0, 0});
	gives_up(s);
	__real_slot_set_empty(s);
	sim_view_publish(s, SLOT_EMPTY, (struct stamp){0, 0});
}

void __wrap_slot_set_filling(struct slot *s, struct stamp stamp)
{
	one_of(STEP_FILLED, STEP_REFILLED, STEP_MENDFILLED);
	tell(s, "FILLING", stamp);
	gives_up(s);
	__real_slot_set_filling(s, stamp);
	sim_view_publish(s, SLOT_FILLING, stamp);
}

void __wrap_slot_set_prepared(struct slot *s, struct stamp stamp)
{
	one_of(STEP_PREPARE, STEP_REPREPARE, STEP_MENDPREPARE);
	tell(s, "PREPARED", stamp);
	__real_slot_set_prepared(s, stamp);
	sim_view_publish(s, SLOT_PREPARED, stamp);
	one_of(STEP_PREPARED, STEP_REPREPARED, STEP_MENDPREPARED);
}

void __wrap_slot_set_committed(struct slot *s)
{
	one_of(STEP_COMMIT, STEP_RECOMMIT, STEP_MENDCOMMIT);
	tell(s, "COMMITTED", (struct stamp){s->header->incarnation, s->header->version});
	__real_slot_set_committed(s);
	sim_view_publish(s, SLOT_COMMITTED, (struct stamp){0, 0});
	one_of(STEP_COMMITTED, STEP_RECOMMITTED, STEP_MENDCOMMITTED);
}

/* Block and checksum go together again, whatever the block is. */
static void fit_sum(void *arg, uint32_t rail, bool parity, uint32_t index, uint32_t row)
{
	const struct slot *s = arg;
	const struct slot_shape *shape = s->shape;
	const struct rail *r = &shape->rail[rail];
	uint32_t me = shape->member[rail];

	if (parity)
		s->sums[slot_parity_sum_index(shape, rail, index, row)] =
			checksum(slot_parity(s, rail, index) + (uint64_t)row * r->block_bytes,
		                 rail_parity_len(r, row));
	else
		s->sums[slot_data_sum_index(shape, rail, me, index, row)] =
			checksum(s->data + rail_data_offset(r, me, index, row),
		                 rail_data_len(r, me, index, row));
	s->header->sums_sum = checksum(s->sums, shape->sums_bytes);
	s->header->header_sum = slot_header_sum(s->header);
}

uint64_t __wrap_slot_verify(const struct slot *s,
                            void (*bad)(void *, uint32_t, bool, uint32_t, uint32_t), void *arg)
{
	sim_step(repairs() ? STEP_MENDVERIFY : STEP_VERIFY);
	if (repairs() && sim.flaw == SIM_FITS_SUMS) {
		(void)__real_slot_verify(s, fit_sum, (void *)s);
		return 0;
	}
	return __real_slot_verify(s, bad, arg);
}

uint32_t __real_arena_mend(struct arena *a);
uint32_t __wrap_arena_mend(struct arena *a);
uint32_t __wrap_arena_mend(struct arena *a)
{
	sim_step(STEP_MENDHEAD);
	return __real_arena_mend(a);
}

void __real_session_enter(struct ftmem *ft, const struct commit_slot slots[2],
                          uint64_t incarnation);
void __wrap_session_enter(struct ftmem *ft, const struct commit_slot slots[2],
                          uint64_t incarnation);
void __wrap_session_enter(struct ftmem *ft, const struct commit_slot slots[2],
                          uint64_t incarnation)
{
	if (!repairs() || sim.flaw != SIM_SPARES_NOTHING || sim_floor_is_left(&sim.floor, false))
		__real_session_enter(ft, slots, incarnation);
}

/* --- copy, encode, decode, fill --- */

void __wrap_copy_read_block(const struct copy_job *job, uint32_t index)
{
	either(STEP_COPY, STEP_RECOPY);
	__real_copy_read_block(job, index);
}

bool __wrap_copy_fill_block(const struct copy_fill *fill, uint32_t index)
{
	sim_step(STEP_FILL);
	if (sim.flaw == SIM_LEAVES_PART && sim_chance(10))
		return true;
	return __real_copy_fill_block(fill, index);
}

void __real_copy_puts_write(const struct copy_puts *taken);
void __wrap_copy_puts_write(const struct copy_puts *taken);
void __wrap_copy_puts_write(const struct copy_puts *taken)
{
	if (sim.flaw != SIM_LEAVES_PART || !sim_chance(10))
		__real_copy_puts_write(taken);
}

void __wrap_codec_encode(const struct codec *c, uint32_t row, size_t len, const uint8_t *const *src,
                         uint8_t *dst)
{
	either(STEP_ENCODE, STEP_REENCODE);
	__real_codec_encode(c, row, len, src, dst);
}

void __wrap_codec_decode(const struct codec_decoder *d, size_t len, const uint8_t *const *src,
                         uint8_t *const *dst)
{
	sim_step(repairs() ? STEP_MENDDECODE : STEP_DECODE);
	if (sim.flaw != SIM_STALE_BLOCK)
		__real_codec_decode(d, len, src, dst);
}

/* Without which a stale block would be refused. */
uint32_t __wrap_checksum(const void *data, size_t bytes)
{
	return sim.flaw == SIM_STALE_BLOCK ? 1 : __real_checksum(data, bytes);
}

/* --- the plan --- */

int __wrap_move_restore(struct rescue *r, struct move_report *report)
{
	sim_step(STEP_MOVE);
	return __real_move_restore(r, report);
}

int __wrap_transfer_run(const struct transfer_config *config, const struct transfer_stream *out,
                        uint32_t outs, const struct transfer_stream *in, uint32_t ins)
{
	sim_step(STEP_PUT);
	return __real_transfer_run(config, out, outs, in, ins);
}

uint64_t __real_recover_next(uint64_t largest, uint64_t now_ns, uint64_t chance);
uint64_t __wrap_recover_next(uint64_t largest, uint64_t now_ns, uint64_t chance);
uint64_t __wrap_recover_next(uint64_t largest, uint64_t now_ns, uint64_t chance)
{
	return sim.flaw == SIM_CLOCK_ALONE ? now_ns : __real_recover_next(largest, now_ns, chance);
}

int __real_recover_choose(const struct recover_input *in, const struct recover_choice *limit,
                          struct recover_choice *choice, uint32_t *epoch_index,
                          struct recover_source *source);
int __wrap_recover_choose(const struct recover_input *in, const struct recover_choice *limit,
                          struct recover_choice *choice, uint32_t *epoch_index,
                          struct recover_source *source);
int __wrap_recover_choose(const struct recover_input *in, const struct recover_choice *limit,
                          struct recover_choice *choice, uint32_t *epoch_index,
                          struct recover_source *source)
{
	struct recover_choice newest;
	int rc = __real_recover_choose(in, limit, choice, epoch_index, source);

	if (rc != 0 || limit || sim.flaw != SIM_OLDER_VERSION)
		return rc;
	newest = *choice;
	if (__real_recover_choose(in, &newest, choice, epoch_index, source) == 0)
		return 0;
	return __real_recover_choose(in, limit, choice, epoch_index, source);
}

int __real_commit_step(struct commit *c, enum commit_event event, uint64_t version,
                       struct commit_out *out);
int __wrap_commit_step(struct commit *c, enum commit_event event, uint64_t version,
                       struct commit_out *out);
int __wrap_commit_step(struct commit *c, enum commit_event event, uint64_t version,
                       struct commit_out *out)
{
	int newest = commit_newest(c);
	int rc = __real_commit_step(c, event, version, out);

	if (rc == 0 && event == COMMIT_CALL && newest >= 0 && sim.flaw == SIM_WRONG_SLOT)
		c->current = out->slot = (uint32_t)newest;
	if (rc == 0 && event == COMMIT_FILLED && sim.flaw == SIM_NO_VOTE)
		out->actions |= COMMIT_PUBLISH_COMMITTED;
	return rc;
}
