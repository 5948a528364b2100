/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commit and recovery of docs/protocol.md. For each transition (a label in capitals) that page
 * names the code that it stands for. One group of n nodes with parity m and one rank per node,
 * so one rail; versions 1 to V. What is explored is set by environment variables, see set_up();
 * run.sh does that.
 *
 * One process takes all steps, so that nodes can be sorted after each: states that differ only
 * in which node is which, or which slot of an arena is which, are one. Nothing in the protocol
 * tells them apart, but that of two empty slots the first is filled.
 *
 * What else makes it small, and why nothing is missed:
 * - Messages are facts of their sender that stay: what it said, its vote, that it joined. A
 *   receiver looks at them when it takes a step, at any later time or never, whether the sender
 *   lives or not. So they arrive as late as can be, at each rank at its own time. The same holds
 *   for what an all-reduce comes to.
 * - Where a state is published and others are told of it, both are one step. A crash in between
 *   is as if the others never looked at what they were told.
 * - A rank that died is one that takes no more steps. So from CRASH on, when the first ones are
 *   dead, the trainers of that start go on as zombies, each for as long as it likes; those of
 *   the next start wait for their arenas. They have them when the last zombie was ended.
 * - What a trainer does while its node is out of reach only its own arena sees, and the facts
 *   that it acts on were there before: it could have done so before.
 * - Attaching alone is seen by nobody. What counts is that all have, before they gather.
 * - Without `smps` an SMP that dies together with its trainer is a node that is lost, and one
 *   whose memory is handed over changes nothing.
 * - The job begins with a run that all take part in, as when it has started afresh.
 *
 * Left out: more ranks than nodes, several groups and new epochs, which random schedules of
 * the code have (tests/sim); and damage.
 */
#define NODES 4
#define V     3

/* States of a slot. */
#define EMPTY     0
#define FILLING   1
#define PREPARED  2
#define COMMITTED 3

/* What a trainer is at. */
#define NOTHING 0  /* there is none */
#define WAIT    1  /* for its arena */
#define BEGIN   2  /* of recovery */
#define ANEW    3  /* the same; nothing is restored */
#define REBUILD 4
#define HELD    5  /* holds what is restored */
#define JOINED  6  /* and has noted of which run that was the outcome */
#define ENTERED 7  /* and that it takes part in this one */
#define CLEAR   8  /* has committed it */
#define EMPTIED 9  /* has noted that it takes part, with nothing */
#define IDLE    10
#define FILL    11
#define YES     12 /* has voted */
#define NO      13

/* What it said of its version. */
#define GO   1
#define BAD  2 /* GO, but its copy will fail */
#define SKIP 3

/* Wrong protocols, that must be caught. */
#define OVERWRITES_EARLY    1
#define VOTES_EARLY         2
#define IGNORES_TRAILERS    3
#define LACKS_ONE_MORE      4
#define CLEARS_EARLY        5
#define LETS_ZOMBIES_LIVE   6
#define COUNTS_STARTS       7
#define FORGETS_WHAT_IS_OUT 8
#define TRUSTS_NEW_ARENAS   9
#define HANDS_NOTHING_OVER  10
#define WAITS_FOR_SKIPPERS  11
#define TRUSTS_OLD_ARENAS   12
#define ENTERS_EARLY        13
#define SPARES_WHAT_IT_KNOWS 14
#define JOINS_UNNOTED       15

typedef slot_t {
	unsigned state : 2;
	unsigned inc : 3; /* stamp: incarnation */
	unsigned ver : 2; /* and version */
	unsigned by : 3   /* the start whose content it is; the protocol does not see that */
}

typedef trainer_t {
	unsigned phase : 4;
	unsigned live : 1; /* may take steps */
	unsigned said : 2;
	unsigned at : 1;   /* the slot that is under way, or holds what is restored */
	unsigned ver : 2   /* the last one asked for */
}

typedef node_t {
	trainer_t p[2];    /* of the present start; of the former */
	slot_t slot[2];    /* the arena here */
	unsigned with : 3; /* the last run that it began with all it should hold */
	unsigned gone : 1; /* it is not the one that held what is committed */
	unsigned down : 1; /* the SMP died, the trainer alone holds the arena */
	unsigned away : 1; /* another machine was here, whose arena may come back */
	unsigned awith : 3;
	unsigned agone : 1;
	slot_t aslot[2]
}

typedef start_t {
	unsigned inc : 3;
	unsigned by : 3;
	unsigned yes : 1;  /* how the last vote ended */
	unsigned cinc : 3; /* what it restores */
	unsigned cver : 2;
	unsigned cby : 3;
	unsigned last : 3  /* run that arenas knew of */
}

node_t node[NODES];
start_t start[2];  /* the present one; the former */
bit running;       /* the trainers of the present start have attached */
bit refused;       /* too much was lost for them, and nothing came back since */
byte crashes;
byte clock = 1;
byte done_by, done_ver; /* the newest version that all voted for */
short whole;       /* versions that all snapshotted */

/* Between two steps these are 0. */
byte i, g, fact;
byte can, losable, mortal, owing, away, parted, before;
/* Used within one step alone. */
hidden byte j, s, c, v, held, lacking, limit, latest;
hidden byte found, maybe, denied, first, second;
/* Set once. */
hidden byte n, m, most_crashes, most_gone, most_away, bad_copies, smps, flaw, showing;

/* What is promised, set where it is asserted. */
hidden byte restored_was_snapshotted_by_all, restored_is_not_mixed, committed_stays_recoverable,
	committed_is_never_forgotten, never_committed_starts_afresh, rebuilt_from_k_members,
	every_step_leads_on, resolved_while_all_live, only_its_trainer_writes_a_slot;

#define T           node[i].p[g]
#define SLOT        node[i].slot[T.at]
#define OTHER       node[i].slot[1 - T.at]
#define HOLDS(x)    (x.state >= PREPARED)
#define IS(x, a, b) (x.state >= PREPARED && x.inc == (a) && x.ver == (b))
/* It has a stamp above that one, committed. */
#define OUTRANKS(x, a, b) \
	(x.state == COMMITTED && (x.inc > (a) || (x.inc == (a) && x.ver > (b))))
#define ABOVE(x, y) (x.inc > y.inc || (x.inc == y.inc && x.ver > y.ver))
/* Node x holds what y does, committed. */
#define COMMITS(x, y) \
	((node[x].slot[0].state == COMMITTED && node[x].slot[0].inc == y.inc && \
	node[x].slot[0].ver == y.ver) || (node[x].slot[1].state == COMMITTED && \
	node[x].slot[1].inc == y.inc && node[x].slot[1].ver == y.ver))
/* Node x holds what start y restores. */
#define HAS(x, y) (IS(node[x].slot[0], start[y].cinc, start[y].cver) || \
	IS(node[x].slot[1], start[y].cinc, start[y].cver))
#define BIT(b, x)   (1 << (((b) - 1) * V + (x) - 1))

#define SLOT_SET(x, to, a, b, whose) x.state = to; x.inc = a; x.ver = b; x.by = whose
#define SLOT_COPY(x, y)              SLOT_SET(x, y.state, y.inc, y.ver, y.by)
#define TRAINER_SET(x, what, lives)  \
	x.phase = what; x.live = lives; x.said = 0; x.at = 0; x.ver = 0
#define START_CLEAR(x) \
	x.inc = 0; x.by = 0; x.yes = 0; x.cinc = 0; x.cver = 0; x.cby = 0; x.last = 0

#include "rank.pml"
#include "faults.pml"
#include "start.pml"
#include "canonical.pml"

inline set_up()
{
	c_code {
		n = setting("N", 3);
		m = setting("M", 1);
		most_crashes = setting("CRASHES", 1);
		/* One more than parity covers, but never all: nothing would be left. */
		most_gone = setting("GONE", m + 1 < n ? m + 1 : n - 1);
		most_away = setting("AWAY", 1);
		bad_copies = setting("BAD", 1);
		smps = setting("SMPS", 0);
		flaw = setting("FLAW", 0);
		showing = setting("SHOW", 0);
	};
	d_step {
		for (j : 0 .. n - 1) {
			TRAINER_SET(node[j].p[0], IDLE, 1);
			node[j].with = 1
		}
		start[0].inc = 1;
		start[0].by = 1;
		running = 1
	}
}

init {
	atomic {
		set_up()
	}
	do
	:: atomic {
		d_step {
			look()
		}
		if
		:: can ->
			step();
			d_step {
				every_step_leads_on = POSITION(T) > before;
				assert(every_step_leads_on)
			}
		:: running && crashes < most_crashes -> crash()
		:: mortal -> smp_dies()
		:: owing -> hand_over()
		:: !running && losable -> lose_node()
		:: !running && away -> node_back()
		:: !running && !refused -> gather()
		:: else -> break
		fi;
		d_step {
			i = 0;
			g = 0;
			fact = 0;
			before = 0;
			can = 0;
			losable = 0;
			mortal = 0;
			owing = 0;
			away = 0;
			parted = 0
		}
		c_code {
			canonical();
			if (showing)
				show();
		}
	   }
	od
}
