/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A job on machines that are made up, driven by the real map, commit and recover:
 * arenas that outlive processes, messages that take their time, and a scheduler that
 * lets one thing happen after the other, as a seed says. What the ranks do around
 * commit_step() is what snapshot.c, stripe.c, seal.c and restore.c do, reduced to
 * what others can see.
 *
 * Blocks carry no bytes but what they stand for: which run of the job took them, at
 * which version. So a mixture is seen wherever it arises.
 */
#ifndef FTMEM_TEST_WORLD_H
#define FTMEM_TEST_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "recover.h"

#define WORLD_RANKS 12
#define WORLD_NODES 6
#define WORLD_RAILS 6       /* of one rank */
#define WORLD_MACHINES 40
#define WORLD_ARENAS 40     /* of one machine */
#define WORLD_STARTS 12
#define WORLD_TABLE (WORLD_NODES * WORLD_ARENAS)
#define FOUND_UNKNOWN 99    /* not asked yet */
#define WORLD_CALLS 10      /* of ftmem_snapshot(), in one run */
#define WORLD_VERSIONS 320  /* numbers below this */
#define WORLD_INBOX 12

/* What a slot's data really is. Run 0: nothing. */
struct identity {
	uint32_t run, version;
};
static inline int identity_cmp(struct identity a, struct identity b)
{
	if (a.run != b.run)
		return a.run < b.run ? -1 : 1;
	return (a.version > b.version) - (a.version < b.version);
}

struct world_arena {
	bool used;
	uint64_t epoch, geometry;
	uint32_t rank;
	bool late;
	uint64_t entered; /* the last run that it knows the outcome of */
	const struct map *map;
	struct commit_slot slot[2];
	struct identity data[2];
	bool parity[2]; /* complete, for this data */
};

enum machine_state { MACHINE_USED, MACHINE_AWAY, MACHINE_GONE };

struct machine {
	enum machine_state state; /* AWAY: not of the job, but it keeps its memory */
	struct world_arena arena[WORLD_ARENAS];
};

enum message_kind { MESSAGE_INTENT, MESSAGE_BLOCKS, MESSAGE_TRAILER };

struct message {
	enum message_kind kind;
	uint32_t version;
	bool good;               /* INTENT: go; TRAILER: the copy is complete */
	struct identity data;    /* BLOCKS */
};

/* Messages from one rank to another about one rail: those that have arrived, then
 * those under way. */
struct inbox {
	struct message message[WORLD_INBOX];
	uint32_t first, arrived, count;
};

enum rail_state { RAIL_RUNNING, RAIL_COMPLETE, RAIL_DISSENTED, RAIL_FAILED };

/* A rank's part in one rail for the version under way. */
struct part {
	struct rail rail;
	uint32_t me;
	enum rail_state state;
	uint32_t sent[3], heard[3]; /* by enum message_kind: members */
	bool all_go;
	bool bad;                   /* a block or trailer was not good, as far as it knows */
	bool mixed;                 /* a block was not what it should be: it cannot know */
	struct inbox inbox[WORLD_NODES];
	uint32_t coming;            /* messages that have not arrived yet */
};

enum life {
	LIFE_SEAL,    /* takes its arena */
	LIFE_SEALED,  /* waits for all, then for what is to be restored */
	LIFE_AFRESH,  /* nothing is: empties its slots, then enters the run */
	LIFE_REBUILD, /* its slot is lost: fills the spare one */
	LIFE_PREPARE,
	LIFE_HOLD,    /* notes the last run that any knew of */
	LIFE_JOIN,    /* waits until all hold the version, then enters the run */
	LIFE_ENTERED, /* waits until all have */
	LIFE_COMMIT,
	LIFE_CLEAR,   /* the other slot, older epochs */
	LIFE_RUN,
	LIFE_DEAD,
};

enum engine { ENGINE_IDLE, ENGINE_FILLING, ENGINE_VOTING };

struct process {
	enum life life;
	struct commit commit;
	struct world_arena *arena;   /* its own */
	struct part part[WORLD_RAILS];
	uint32_t parts;

	enum engine engine;
	uint32_t called, resolved;   /* calls made by the trainer, ended by the engine */
	bool go[WORLD_CALLS];
	uint32_t copy_steps;         /* until the copy rests */
	bool copy_good;
	uint32_t version;            /* under way */
	struct identity data;        /* what it stands for */
	uint32_t pending, slot;      /* actions to take */
};

/* How wrong the protocol is made, to see that it is noticed. */
enum flaw {
	FLAW_NONE,
	FLAW_OVERWRITES_NEWEST,   /* fills the newest committed slot */
	FLAW_SKIPS_SILENTLY,      /* says GO although it skips */
	FLAW_IGNORES_TRAILERS,    /* prepared whatever they say */
	FLAW_COUNTS_INCARNATIONS, /* the next number, without the clock */
	FLAW_COUNTS_EPOCHS,       /* the same for epochs */
	FLAW_COUNTS_IF_LATE,      /* both, where the clock is behind what is stored */
	FLAW_CLOCK_ALONE,         /* the clock, whatever is stored */
	FLAW_HASTY_RECOVERY,      /* clears before all are prepared */
	FLAW_ENTERS_EARLY,        /* before it holds what is restored */
	FLAW_BELIEVES_OLD,        /* arenas that were away deny */
	FLAW_DOUBTS_LATE,         /* arenas that replaced lost ones never deny, all others do */
	FLAW_STAMPS_ANEW,         /* what moves to a new epoch */
	FLAW_STAYS_IN_JOINED,     /* and into the slots of one that was joined */
	FLAWS,
};

/* Where a rank is when it dies. Those of a run follow COMMIT_PUBLISH_FILLING and so on:
 * an action that was to be taken next. */
enum death {
	DEATH_UNSEALED,
	DEATH_SEALED,
	DEATH_AFRESH,
	DEATH_REBUILD,
	DEATH_PREPARE,
	DEATH_HOLD,
	DEATH_JOIN,
	DEATH_ENTERED,
	DEATH_COMMIT,
	DEATH_CLEAR,
	DEATH_IDLE,
	DEATH_COPY,
	DEATH_INTENTS,
	DEATH_BLOCKS,
	DEATH_TRAILERS,
	DEATH_EXCHANGED,
	DEATH_VOTE,
	DEATH_ACTION, /* + number of the action's bit */
	DEATHS = DEATH_ACTION + 11,
};
extern const char *const death_name[DEATHS];

/* What happened, for the summary. */
struct tally {
	uint64_t schedules, steps, starts, kills, machines_lost, machines_back, clock_back;
	uint64_t commits, drops, restores, moves, rebuilds, interrupted, refusals, fresh;
	uint64_t unordered; /* starts that a clock behind kept from seeing what is newest */
	uint64_t death[DEATHS];
};

struct vote {
	uint32_t yes, no;     /* bits of ranks */
	uint32_t least, most; /* versions */
};

struct world {
	uint64_t seed, random, clock;
	enum flaw flaw;
	bool trace;
	uint64_t step;

	uint32_t ranks, nodes, parity, aim;
	uint32_t node_of[WORLD_RANKS];
	uint32_t skip_percent, fail_percent; /* of calls, of copies, of exchanges */
	uint32_t restless;        /* percent: nodes that get another machine without need */
	uint32_t stepped;         /* the rank that did something last */
	int aimed_at;             /* a rank to die next, or -1 */
	uint32_t machines;
	struct tally *tally;

	/* This start of the job. */
	uint32_t run;
	uint32_t machine_of[WORLD_NODES]; /* by node */
	struct map *map[WORLD_STARTS + 1];
	uint64_t geometry, epoch, incarnation;
	bool joined;                      /* an epoch that was there */
	bool late;                        /* and that holds something */
	int found;                        /* what recover_choose() returned */
	bool in_place;                    /* else its first call commits it anew */
	uint32_t base;                    /* the version it goes on from */
	struct recover_choice choice;
	struct identity restored;
	struct recover_arena table[WORLD_TABLE];
	uint32_t tabled;
	struct world_arena *table_arena[WORLD_TABLE];
	struct recover_source source[WORLD_RANKS];
	struct vote vote[WORLD_CALLS];
	struct process process[WORLD_RANKS];

	/* What is true, whatever the ranks believe. */
	uint32_t copied[WORLD_STARTS + 1][WORLD_VERSIONS]; /* ranks whose copy was good */
	bool floor_known;
	struct identity floor;            /* the newest that was committed */
	bool floor_entered;               /* all noted the run that it is of, or was restored in */
	uint32_t afresh;                  /* instead: the run that all noted, with nothing; or 0 */
	const struct map *floor_map;
	uint64_t floor_epoch;
	uint32_t home[WORLD_RANKS];       /* machines that held it, or noted that, then */
	uint64_t incarnations[WORLD_STARTS + 1]; /* of the runs; 0: it had none yet */
	bool unordered;                   /* a clock that went back: numbers need not grow */
	char broken[160];                 /* the promise that was broken, or "" */

	struct machine machine[WORLD_MACHINES]; /* those that are not used are empty */
};

/* w is zeroed, or was used before. */
void world_init(struct world *w, uint64_t seed, enum flaw flaw, bool trace, struct tally *tally);
void world_deinit(struct world *w);

uint32_t world_random(struct world *w, uint32_t below);
bool world_chance(struct world *w, uint32_t percent);
__attribute__((format(printf, 2, 3))) void world_trace(struct world *w, const char *fmt, ...);
__attribute__((format(printf, 2, 3))) void world_break(struct world *w, const char *fmt, ...);

/* Begins a run of the job on machine_of. */
void world_start(struct world *w);
/* Lets one thing happen. False: nothing can, or the job cannot go on. */
bool world_step(struct world *w);
/* Where a rank that lives is. */
enum death world_death(const struct world *w, uint32_t rank);
/* The process ends, its memory stays. */
void world_kill(struct world *w, uint32_t rank);

/* engine.c: what the progress thread of a rank does. */
/* Before anything is sent. */
void engine_init(struct world *w, uint32_t rank);
void engine_begin(struct world *w, uint32_t rank, const struct commit_slot slots[2]);
bool engine_step(struct world *w, uint32_t rank);
/* Lets one message from anybody to rank arrive. */
bool engine_deliver(struct world *w, uint32_t rank);
/* What it is about while it fills. */
enum death engine_stage(const struct process *p);

/* judge.c: what was promised. */
bool judge_home_is_there(const struct world *w, uint32_t rank);
bool judge_within_tolerance(const struct world *w);
void judge_incarnation(struct world *w);
void judge_choice(struct world *w);
void judge_committed(struct world *w, struct identity data);
void judge_held(struct world *w);
void judge_entered(struct world *w);
void judge_forgotten(struct world *w);

#endif
