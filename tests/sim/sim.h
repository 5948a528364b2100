/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The whole library, as it is, for all ranks of a job in one thread of one process: what
 * it asks the system for comes from here instead.
 *
 *   sim_fiber.c    threads, locks and the clock: one thing happens after the other, as a
 *                  seed says, and time passes when all wait
 *   sim_memory.c   heaps and mappings, which end with their process; descriptors
 *   sim_smp.c      machines and their SMPs: the memory that outlives processes
 *   sim_view.c     what lies where in that memory, and what was published in it
 *   sim_damage.c   bits of it that flip
 *   sim_net.c      the network, fake_net.h
 *   sim_step.c     points at which a process may be made to die
 *   sim_trainer.c  what a rank does: open, seal, restore, snapshots, and the state that it
 *                  trains, of which every byte follows from run and version
 *   sim_schedule.c jobs, what they lose and when, and with what they start again
 *   sim_mend.c     ftmem_repair() and ftmem_forget(): when, and what they promise
 *   sim_floor.c    what all ranks hold, and what is left of it
 *   sim_judge.c    what was promised, from what the trainers got and what is left
 */
#ifndef FTMEM_TEST_SIM_H
#define FTMEM_TEST_SIM_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

#include "error.h"
#include "fake_net.h"
#include "session.h"

#define SIM_RANKS    8u
#define SIM_NODES    6u
#define SIM_MACHINES 32u
#define SIM_ARENAS   24u /* of one machine */
#define SIM_STARTS   10u
#define SIM_FIBERS   4u  /* of one process */
#define SIM_VERSIONS 64u /* numbers below this */
#define SIM_RUNS     (3 * SIM_STARTS + 2) /* starts, and what begins anew after forgetting */
#define SIM_REPAIRS  4u  /* of one start */
#define SIM_BADS     64u /* blocks */
#define SIM_EVER     UINT64_MAX
#define SIM_TIMEOUT_MS 1000u

/* --- steps, sim_step.c --- */

enum sim_step {
#define SIM_STEP(id, name) STEP_##id,
#include "sim_steps.h"
#undef SIM_STEP
	STEPS
};
extern const char *const sim_step_name[STEPS];

/* What of an arena is damaged. */
enum sim_place_kind {
	SIM_DATA, SIM_PARITY, SIM_SUMS, SIM_SLOT_HEADER, SIM_STATE, SIM_ARENA_HEADER, SIM_MAP,
	SIM_RAILS, SIM_RUN_WORD, SIM_PLACES
};
extern const char *const sim_place_name[SIM_PLACES];

/* --- what happened, for the summary --- */

struct sim_tally {
	uint64_t schedules, switches, starts, orderly;
	uint64_t ranks_died, machines_lost, smps_died, machines_back, clock_back, idle;
	uint64_t snapshots, committed, dropped, busy, skipped;
	uint64_t restores, resized, resealed, interrupted, refused, fresh, failed;
	uint64_t damages[SIM_PLACES], hit_inside, repairs, mended, blocks, beyond, spared;
	uint64_t repairs_failed, repairs_cut, corrupt, forgotten, forgets_cut;
	uint64_t passed[STEPS], died[STEPS];
};

/* How the library, or what is around it, is spoiled to see that it is noticed. */
enum sim_flaw {
	SIM_SOUND,
	SIM_STALE_BLOCK,    /* rebuilds a block from what was there before; sums say nothing */
	SIM_LEAVES_PART,    /* fills regions but for one part */
	SIM_CLOCK_ALONE,    /* numbers runs and epochs by the clock, whatever is stored */
	SIM_WRONG_SLOT,     /* fills the newest committed slot */
	SIM_EARLY_END,      /* the SMP gives older epochs up when a new one is sealed */
	SIM_NO_VOTE,        /* COMMITTED as soon as it is prepared */
	SIM_OLDER_VERSION,  /* chooses the one before the newest */
	SIM_CLEARS_EARLY,   /* a repair empties the older slot before all hold the version */
	SIM_FITS_SUMS,      /* a repair writes checksums that fit what is damaged */
	SIM_SPARES_NOTHING, /* after a refused repair the next version goes over the older one */
	SIM_LONE_FORGET,    /* forgets before all may */
	SIM_FLAWS
};

/* --- threads and time --- */

enum sim_fiber_state { FIBER_FREE, FIBER_READY, FIBER_ASLEEP, FIBER_OVER };

struct sim_process;

/* Where a stack goes on. */
struct sim_place {
	jmp_buf jump;
	ucontext_t context;
	bool begun;
};

struct sim_fiber {
	enum sim_fiber_state state;
	struct sim_process *process;
	struct sim_place place;
	void *stack;
	void *(*run)(void *arg);
	void *arg;
	uint64_t wake_ns;      /* ASLEEP: SIM_EVER, or when it wakes by itself */
	const void *waits_for; /* a condition or a fiber, or NULL */
	char error[ERROR_MSG_MAX];
	void *sanitizer;       /* of its stack */
};

/* --- memory --- */

struct sim_block {
	struct sim_block *next, *prev; /* of a process, in a ring */
	void *raw;
	uint64_t bytes;
};

/* Memory of an arena: goes with its last holder. */
struct sim_buffer {
	uint8_t *memory;
	uint64_t bytes;
	uint32_t holders, *orphan; /* orphan: counts it as lost when the last one goes */
	struct sim_view *view;     /* see sim_view() */
};

/* An arena as its rank made it, whatever happened to its memory since. */
struct sim_view {
	struct arena_header header;
	uint8_t *head;             /* all before the slots */
	struct rail *rail;
	struct slot_shape shape;
	struct slot slot[2];       /* in the memory itself */
	struct commit_slot published[2]; /* by its rank */
};

/* A block of a slot. */
struct sim_stored {
	uint32_t rail, stripe, row; /* rail: its id */
	bool parity;
	uint64_t offset, bytes;     /* in the slot */
	uint64_t sum;               /* index of its checksum */
};

struct sim_handle { /* a descriptor, or a mapping */
	struct sim_buffer *buffer;
	struct sim_process *process;
	bool is_mapping;
};
#define SIM_HANDLES 512u

struct sim_arena {
	uint64_t epoch;
	uint32_t rank;
	struct sim_buffer *buffer;
	struct sim_process *owner; /* leases it; may be gone */
};

enum sim_machine_state { SIM_USED, SIM_AWAY };

struct sim_machine {
	enum sim_machine_state state;
	uint32_t smp;              /* counts its SMPs; even: there is none */
	uint32_t losses;           /* counts what memory was lost here */
	struct sim_arena arena[SIM_ARENAS];
	uint32_t arenas;
};

/* --- ranks --- */

/* What state is: the run that trained it, and its version. */
struct sim_content {
	uint32_t run, version;
};

struct sim_part { /* of the state: words from .. from + count of a tensor */
	char name[16];
	uint32_t tensor, from, count, shape;
	bool private_part;
	uint64_t *word;
};
#define SIM_PARTS 6u

struct sim_process {
	uint32_t rank, machine;
	bool alive, restoring, repairing, forgetting;
	uint32_t run, repairs, erases; /* repairs, and words on forgetting, so far */
	struct sim_fiber *fiber[SIM_FIBERS];
	struct sim_block ring;     /* its heap */
	struct ftmem *ft;
	struct sim_part part[SIM_PARTS];
	uint32_t parts, seals;
	const char *doing;         /* for the trace */
	uint64_t since_ns;         /* when that began */
	uint32_t progress;         /* of its trainer: enum sim_stage */
	struct sim_content got;
};
enum sim_stage { STAGE_BEGIN, STAGE_RESTORED, STAGE_OVER };

struct sim_bad {
	uint32_t rank, rail, stripe, row;
};

struct sim_floor {             /* a version that all ranks of a run held */
	bool known, clouded;       /* clouded: damaged where it could not be noticed */
	struct sim_content content;
	struct stamp stamp;
	uint64_t epoch;
	struct map *map;
	uint32_t machine[SIM_RANKS], losses[SIM_RANKS];
	uint8_t *copy[SIM_RANKS];  /* of what each rank held; NULL: that was damaged */
	uint32_t lacks;            /* bits: ranks whose slot or arena cannot be read */
	struct sim_bad bad[SIM_BADS];
	uint32_t bads;
};

struct sim_repair {            /* one call, of all ranks */
	bool begun, over, marked;  /* marked: blocks were damaged before */
	uint64_t damages;          /* before */
	struct sim_content content;
	int found;
};

struct sim {
	uint64_t seed, random;
	enum sim_flaw flaw;
	bool trace;
	struct sim_tally *tally;
	uint64_t turn;             /* switches of this schedule: its time */
	char broken[256];

	struct sim_fiber *now;     /* runs; NULL: the schedule itself */
	uint32_t outside;          /* > 0: what is allocated is nobody's */
	void *sanitizer;
	uint64_t clock_ns, wall_ns; /* wall_ns: at clock 0 */

	uint32_t nodes, ranks, parity, aim, layout_seed;
	bool elastic;              /* no private state: any number of ranks may restore it */
	uint32_t bytes;            /* of each tensor, about */
	uint32_t node_of[SIM_RANKS], machine_of[SIM_NODES];
	struct sim_machine machine[SIM_MACHINES];
	uint32_t machines;
	struct sim_handle handle[SIM_HANDLES];

	/* This start of the job. */
	uint32_t run, runs, calls; /* runs: numbers given so far */
	uint64_t run_random;
	struct fake_net *net;
	struct sim_process process[SIM_RANKS];
	int target;                /* the step to strike at, or -1 */
	uint32_t target_count;
	struct sim_process *struck; /* passed it */
	bool disturbed;            /* somebody died, or was late, in this start */
	bool chosen;               /* some rank got a result of its restore */
	struct sim_content restored;
	int found;

	/* What is true, whatever the ranks believe. */
	uint64_t incarnation[SIM_RUNS]; /* by run */
	uint32_t went[SIM_RUNS][SIM_VERSIONS]; /* ranks that snapshotted it */
	uint32_t all[SIM_RUNS];         /* ranks of the run */
	bool unordered;
	struct sim_floor floor;         /* the newest */
	struct sim_floor older;         /* the one before, as long as all still hold it */
	bool floor_visible;             /* when this start began */
	struct sim_content fallback;    /* what was left then of the older one; run 0: nothing */

	/* Damage, repairs, forgetting. */
	bool damaging, wild, mending;   /* wild: also more than parity makes up for */
	bool mends;                     /* in this start */
	uint32_t forget_at;             /* that call of this start */
	uint32_t damage_in;             /* steps; 0: never */
	uint64_t damages, start_damages; /* so far; when this start began */
	bool hit_inside;                /* in this start, while some call read what was hit */
	struct sim_repair repair[SIM_REPAIRS];
	struct sim_content beyond;      /* was refused to be repaired */
	uint32_t forgetting;            /* ranks that may forget, bits */
	bool half_forgotten;
	uint32_t doubtful, forgotten;   /* runs up to this one may be, are */
};
extern struct sim sim;

uint32_t sim_random(uint32_t below);
bool sim_chance(uint32_t percent);
__attribute__((format(printf, 1, 2))) void sim_trace(const char *fmt, ...);
__attribute__((format(printf, 1, 2))) void sim_break(const char *fmt, ...);
/* A fault of the test itself. */
void sim_require(bool good, const char *what);

/* sim_fiber.c */
struct sim_fiber *sim_fiber_new(struct sim_process *p, void *(*run)(void *arg), void *arg);
void sim_fiber_free(struct sim_fiber *f);
/* Lets others run. */
void sim_yield(void);
/* Runs fibers until a process was struck or turns have passed. False: nothing is left to
 * run. */
bool sim_turns(uint64_t turns);
void sim_fibers_end(void);

/* sim_memory.c */
void sim_process_begin(struct sim_process *p);
/* Whether it has memory, mappings or descriptors. */
bool sim_process_holds(const struct sim_process *p);
/* All that it has goes. */
void sim_process_end(struct sim_process *p);
struct sim_buffer *sim_buffer_new(uint64_t bytes);
void sim_buffer_drop(struct sim_buffer *b);
/* A new descriptor, of the process that runs. */
int sim_handle_open(struct sim_buffer *b);
struct sim_buffer *sim_handle_buffer(int fd);

/* sim_view.c: NULL as long as no rank has written its header. */
struct sim_view *sim_view(struct sim_buffer *b);
void sim_view_free(struct sim_view *v);
/* A rank published that. COMMITTED: with the stamp that it had. */
void sim_view_publish(const struct slot *s, enum slot_state state, struct stamp stamp);
/* Whether header, map and rails are what they were. */
bool sim_view_head_is_whole(const struct sim_buffer *b);
/* Whether it holds what was published, and says so. */
bool sim_view_can_be_read(const struct sim_view *v, int slot);
/* What an arena holds of a stamp, by what was published; -1: nothing. */
int sim_view_find(const struct sim_view *v, struct stamp stamp);
void sim_view_blocks(const struct sim_view *v,
                     void (*visit)(void *arg, const struct sim_stored *s), void *arg);
/* Whether a slot holds something committed of which all can be read. */
bool sim_view_is_good(const struct sim_view *v, int slot);
/* The view of an arena that a process maps, and the number of the slot in it; NULL: it is in
 * none. */
struct sim_view *sim_view_of_slot(const struct slot *s, int *number);

/* sim_damage.c */
void sim_damage_some(void);
/* Slots of the newest version cannot be read any more. */
void sim_damage_slots(void);
/* Some steps are over: bits may flip. */
void sim_damage_step(void);

/* sim_floor.c */
/* Looks at all memory: which versions all ranks of their run hold by now. */
void sim_judge_memory(void);
/* Whether every rail lacks no more of it than parity makes up for; all_back: if the machines
 * that are out of reach were back. */
bool sim_floor_is_left(const struct sim_floor *f, bool all_back);
/* Whether all ranks whose machines are there hold all of it, checksums and headers too. */
bool sim_floor_is_whole(const struct sim_floor *f);
/* Bits of the arena flip: of its head (slot -1), of a slot, or of one block of it. */
void sim_floor_hit(struct sim_floor *f, uint32_t machine, const struct sim_view *v, int slot,
                   const struct sim_stored *block);
void sim_floor_drop(struct sim_floor *f);
int sim_content_cmp(struct sim_content a, struct sim_content b);

/* sim_mend.c: true: the trainer goes on. */
bool sim_repair(struct sim_process *p);
bool sim_forget(struct sim_process *p);
/* The rank joins the agreement before which nobody forgets. */
void sim_forget_joined(struct sim_process *p);

/* sim_smp.c */
void sim_smp_start(struct sim_machine *m);
/* Its arenas go, unless ranks map them. */
void sim_smp_kill(struct sim_machine *m);

/* sim_net.c */
struct net *sim_net_of(uint32_t rank);
void sim_net_begin(void);
void sim_net_end(void);

/* sim_step.c */
void sim_step(enum sim_step step);

/* sim_trainer.c */
void *sim_trainer(void *process);
void sim_does(struct sim_process *p, const char *what);
/* Whether it went well. Nothing may fail but for what somebody else's loss explains. */
bool sim_well(struct sim_process *p, int rc);

/* sim_schedule.c: starts a job and loses parts of it, again and again. */
void sim_schedule(void);

/* sim_judge.c */
/* Which run was given that number; 0: none that is known. */
uint32_t sim_run_of(uint64_t incarnation);
bool sim_judge_floor_is_visible(void);
/* Whether somebody else's loss explains it. */
bool sim_judge_excuses(int rc);
/* A rank's ftmem_restore() returned rc. */
void sim_judge_restore(struct sim_process *p, int rc);
void sim_judge_incarnation(uint32_t run, uint64_t incarnation);
bool sim_judge_anything_is_hidden(void);
void sim_judge_end(void);

#endif
