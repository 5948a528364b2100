/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commit and recovery of docs/protocol.md. For each transition (the labels in capitals) that
 * page names the code that it stands for. One group of n nodes with parity m and one rank per
 * node, so one rail; versions 1 to V. What is explored is set by environment variables, see
 * init; run.sh does that.
 *
 * One process takes all steps, so that nodes can be sorted after each: states that differ only
 * in which node is which, or which slot of an arena is which, are one. Nothing in the protocol
 * tells them apart, but that of two empty slots the first is filled.
 *
 * What else makes it small, and why nothing is missed:
 * - Messages are facts of their sender that stay: what it said, its vote, that it joined. A
 *   receiver looks at them when it takes a step, at any later time or never, whether the sender
 *   lives or not. So they arrive as late as can be, at each rank at its own time.
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
 *
 * Left out: more ranks than nodes, several groups and new epochs, which random schedules of
 * the code have (tests/sim), and damage.
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
#define JOINED  5  /* holds what is restored */
#define ENTERED 6  /* and has noted that it takes part in this run */
#define CLEAR   7  /* has committed it */
#define IDLE    8
#define FILL    9
#define YES     10 /* has voted */
#define NO      11

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
	unsigned cby : 3
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
hidden byte found, maybe, denied;
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
/* Node x holds what start y restores. */
#define HAS(x, y) (IS(node[x].slot[0], start[y].cinc, start[y].cver) || \
	IS(node[x].slot[1], start[y].cinc, start[y].cver))
#define BIT(b, x)   (1 << (((b) - 1) * V + (x) - 1))

#define SLOT_SET(x, to, a, b, whose) x.state = to; x.inc = a; x.ver = b; x.by = whose
#define SLOT_COPY(x, y)              SLOT_SET(x, y.state, y.inc, y.ver, y.by)
#define TRAINER_SET(x, what, lives)  \
	x.phase = what; x.live = lives; x.said = 0; x.at = 0; x.ver = 0
#define START_CLEAR(x) \
	x.inc = 0; x.by = 0; x.yes = 0; x.cinc = 0; x.cver = 0; x.cby = 0

/* How far a trainer has come: nothing leads back. */
#define POSITION(x) (x.phase < IDLE -> x.phase : 16 + x.ver * 4 + (x.phase == IDLE -> 2 : \
	x.phase >= YES))

/* Facts that a trainer may act on. */
#define ALL_GO     1
#define ALL_GOOD   2
#define ONE_SKIPS  4
#define ALL_VOTED  8
#define ALL_JOINED 16
#define ALL_ENTERED 32

/* Those that rank x of start y may know. */
inline learn(x, y)
{
	fact = ALL_GO | ALL_GOOD | ALL_VOTED | ALL_JOINED | ALL_ENTERED;
	v = node[x].p[y].ver;
	for (c : 0 .. n - 1) {
		if
		:: node[c].p[y].ver == v && node[c].p[y].said == GO
		:: node[c].p[y].ver == v && node[c].p[y].said == BAD -> fact = fact & ~ALL_GOOD
		:: node[c].p[y].ver == v && node[c].p[y].said == SKIP ->
			fact = (fact | ONE_SKIPS) & ~ALL_GO
		:: else -> fact = fact & ~ALL_GO
		fi;
		if
		:: node[c].p[y].ver < v || (node[c].p[y].ver == v && node[c].p[y].phase == FILL) ->
			fact = fact & ~ALL_VOTED
		:: else
		fi;
		if
		:: node[c].p[y].phase < JOINED -> fact = fact & ~(ALL_JOINED | ALL_ENTERED)
		:: node[c].p[y].phase == JOINED -> fact = fact & ~ALL_ENTERED
		:: else
		fi
	}
}

#define WITH(x)     ((fact & (x)) != 0)
#define MAY_DISSENT (WITH(ONE_SKIPS) && flaw != WAITS_FOR_SKIPPERS)
/* Whether rank x of start y can take a step. */
#define READY(x, y) \
	(node[x].p[y].phase == IDLE -> node[x].p[y].ver < V : \
	(node[x].p[y].phase == FILL -> WITH(ALL_GO) || MAY_DISSENT : \
	(node[x].p[y].phase >= YES -> WITH(ALL_VOTED) : \
	(node[x].p[y].phase == JOINED -> WITH(ALL_JOINED) || flaw == CLEARS_EARLY : \
	(node[x].p[y].phase == ENTERED -> WITH(ALL_ENTERED) || flaw == CLEARS_EARLY : \
	node[x].p[y].phase > WAIT)))))

/* Which nodes can do what. */
inline look()
{
	lacking = 0;
	parted = 0;
	for (j : 0 .. n - 1) {
		if
		:: node[j].p[0].phase > WAIT ->
			learn(j, 0);
			can = can | (READY(j, 0) << j)
		:: else
		fi;
		if
		:: node[j].p[1].live ->
			learn(j, 1);
			can = can | (READY(j, 1) << (j + NODES))
		:: else
		fi;
		owing = owing | ((node[j].down && (running || node[j].p[1].live)) << j);
		lacking = lacking + (node[j].gone || node[j].down);
		parted = parted + node[j].away
	}
	fact = 0;
	/* No more than most_gone may lack. */
	for (j : 0 .. n - 1) {
		losable = losable | ((node[j].gone || node[j].down ->
			node[j].slot[0].state || node[j].slot[1].state :
			lacking < most_gone) << j);
		away = away | ((node[j].away && (node[j].gone || node[j].down ||
			!node[j].agone || lacking < most_gone)) << j);
		mortal = mortal | ((smps && !node[j].down && (running || node[j].p[1].live) &&
			(node[j].gone || lacking < most_gone)) << j)
	}
	if
	:: running && !(can & 15) ->
		resolved_while_all_live = 1;
		for (j : 0 .. n - 1) {
			resolved_while_all_live = resolved_while_all_live &&
				node[j].p[0].phase == IDLE && node[j].p[0].ver == V
		}
		assert(resolved_while_all_live)
	:: else
	fi
}

/* Any of a set. */
inline pick(set)
{
	do
	:: (set >> i) & 1 -> break
	:: set >> (i + 1) -> i++
	od;
	true
}

/* The slot to write next. */
inline spare()
{
	if
	:: !HOLDS(node[i].slot[0]) -> T.at = 0
	:: HOLDS(node[i].slot[0]) && !HOLDS(node[i].slot[1]) -> T.at = 1
	:: else ->
		T.at = node[i].slot[0].state == COMMITTED && !(node[i].slot[1].state == COMMITTED &&
			OUTRANKS(node[i].slot[1], node[i].slot[0].inc, node[i].slot[0].ver))
	fi
}

/* All that take part hold version (a, b), so what is lost from now on is gone. Of those who took
 * part and are lost or away already, some may hold it too. */
inline all_hold(a, b)
{
	for (c : 0 .. n - 1) {
		node[c].gone = !node[c].p[g].live && !IS(node[c].slot[0], a, b) &&
			!IS(node[c].slot[1], a, b);
		node[c].agone = !IS(node[c].aslot[0], a, b) && !IS(node[c].aslot[1], a, b)
	}
	true
}

/* The last vote settles it. */
inline count_votes()
{
	learn(i, g);
	if
	:: fact & ALL_VOTED ->
		start[g].yes = 1;
		for (c : 0 .. n - 1) {
			start[g].yes = start[g].yes && node[c].p[g].phase == YES
		}
		if
		:: start[g].yes ->
			all_hold(start[g].inc, T.ver);
			done_by = start[g].by;
			done_ver = T.ver
		:: else
		fi
	:: else
	fi
}

inline count_joined()
{
	learn(i, g);
	if
	:: fact & ALL_JOINED -> all_hold(start[g].cinc, start[g].cver)
	:: else
	fi
}

inline count_entered()
{
	learn(i, g);
	if
	:: fact & ALL_ENTERED ->
		done_by = start[g].cby;
		done_ver = start[g].cver
	:: else
	fi
}

inline lose_memory()
{
	SLOT_SET(node[i].slot[0], EMPTY, 0, 0, 0);
	SLOT_SET(node[i].slot[1], EMPTY, 0, 0, 0);
	node[i].with = 0;
	node[i].gone = 1;
	node[i].down = 0
}

/* --- a rank stores a version --- */

inline call(words)
{
	T.ver = T.ver + 1;
	T.said = words;
	T.phase = FILL;
	spare();
	T.at = T.at ^ (flaw == OVERWRITES_EARLY && OTHER.state == COMMITTED);
	SLOT_SET(SLOT, FILLING, 0, 0, 0)
}

inline give_up()
{
	SLOT_SET(SLOT, EMPTY, 0, 0, 0);
	T.at = 0;
	T.phase = (flaw == VOTES_EARLY && WITH(ALL_GO) -> YES : NO);
	count_votes()
}

inline resolved()
{
	T.at = 0;
	T.said = 0;
	T.phase = IDLE
}

inline step_idle()
{
	if
	:: true ->
CALL:
		d_step {
			call(GO)
		}
	:: bad_copies ->
CALL_BAD:
		d_step {
			call(BAD)
		}
	:: true ->
CALL_SKIP:
		d_step {
			T.ver = T.ver + 1;
			T.said = SKIP;
			T.phase = NO;
			count_votes()
		}
	fi
}

inline step_fill()
{
	if
	:: WITH(ALL_GO) && (WITH(ALL_GOOD) || flaw == IGNORES_TRAILERS) ->
FILLED:
		d_step {
			only_its_trainer_writes_a_slot = SLOT.state == FILLING || flaw;
			assert(only_its_trainer_writes_a_slot);
			whole = whole | (WITH(ALL_GOOD) -> BIT(start[g].by, T.ver) : 0);
			SLOT_SET(SLOT, PREPARED, start[g].inc, T.ver, start[g].by);
			T.phase = YES;
			count_votes()
		}
	:: WITH(ALL_GO) ->
FAILED:
		d_step {
			give_up()
		}
	:: MAY_DISSENT ->
DISSENT:
		d_step {
			give_up()
		}
	fi
}

inline step_voted()
{
	if
	:: start[g].yes ->
OUTCOME_YES:
		d_step {
			only_its_trainer_writes_a_slot = IS(SLOT, start[g].inc, T.ver) || flaw;
			assert(only_its_trainer_writes_a_slot);
			SLOT.state = COMMITTED;
			resolved()
		}
	:: !start[g].yes && T.phase == YES ->
OUTCOME_NO:
		d_step {
			SLOT_SET(SLOT, EMPTY, 0, 0, 0);
			resolved()
		}
	:: !start[g].yes && T.phase == NO ->
OUTCOME_NO_AS_SAID:
		d_step {
			resolved()
		}
	fi
}

/* --- a rank recovers --- */

inline step_recovering()
{
	if
	:: T.phase == BEGIN && HAS(i, g) ->
JOIN:
		d_step {
			T.at = !IS(node[i].slot[0], start[g].cinc, start[g].cver);
			T.phase = JOINED;
			count_joined()
		}
	:: T.phase == BEGIN && !HAS(i, g) ->
MAKE_ROOM:
		d_step {
			spare();
			SLOT_SET(SLOT, FILLING, 0, 0, 0);
			node[i].with = (flaw == ENTERS_EARLY -> start[g].by : node[i].with);
			T.phase = REBUILD
		}
	:: T.phase == REBUILD ->
REBUILT:
		d_step {
			held = 0;
			for (c : 0 .. n - 1) {
				held = held + (c != i && HAS(c, g))
			}
			/* To a zombie blocks may have come from a node that is lost since. */
			rebuilt_from_k_members = held >= n - m || g == 1;
			assert(rebuilt_from_k_members);
			SLOT_SET(SLOT, PREPARED, start[g].cinc, start[g].cver, start[g].cby);
			T.phase = JOINED;
			count_joined()
		}
	:: T.phase == JOINED ->
ENTER:
		d_step {
			node[i].with = start[g].by;
			T.phase = ENTERED;
			count_entered()
		}
	:: T.phase == ENTERED ->
RECOMMIT:
		d_step {
			SLOT.state = COMMITTED;
			T.phase = CLEAR
		}
	:: T.phase == CLEAR ->
RECLEAR:
		d_step {
			SLOT_SET(OTHER, EMPTY, 0, 0, 0);
			T.at = 0;
			T.ver = start[g].cver;
			T.phase = IDLE
		}
	:: T.phase == ANEW ->
START_AFRESH:
		d_step {
			SLOT_SET(node[i].slot[0], EMPTY, 0, 0, 0);
			SLOT_SET(node[i].slot[1], EMPTY, 0, 0, 0);
			node[i].with = start[g].by;
			T.phase = IDLE;
			count_joined();
			count_entered()
		}
	fi
}

inline step()
{
	pick(can);
	d_step {
		g = i / NODES;
		i = i % NODES;
		learn(i, g);
		before = POSITION(T)
	}
	if
	:: T.phase == IDLE -> step_idle()
	:: T.phase == FILL -> step_fill()
	:: T.phase >= YES -> step_voted()
	:: T.phase < IDLE -> step_recovering()
	fi
}

/* --- what goes wrong --- */

/* One rank dies, or several, or all. */
inline crash()
{
	true;
CRASH:
	d_step {
		crashes++;
		for (j : 0 .. n - 1) {
			TRAINER_SET(node[j].p[1], node[j].p[0].phase, 1);
			node[j].p[1].said = node[j].p[0].said;
			node[j].p[1].at = node[j].p[0].at;
			node[j].p[1].ver = node[j].p[0].ver;
			TRAINER_SET(node[j].p[0], WAIT, 1)
		}
		start[1].inc = start[0].inc;
		start[1].by = start[0].by;
		start[1].yes = start[0].yes;
		start[1].cinc = start[0].cinc;
		start[1].cver = start[0].cver;
		start[1].cby = start[0].cby;
		START_CLEAR(start[0]);
		running = 0
	}
}

inline smp_dies()
{
	pick(mortal);
SMP_DIES:
	d_step {
		node[i].down = 1
	}
}

inline hand_over()
{
	pick(owing);
HAND_OVER:
	d_step {
		node[i].down = 0;
		s = node[i].gone;
		if
		:: flaw == HANDS_NOTHING_OVER -> lose_memory()
		:: else
		fi;
		node[i].gone = s
	}
}

/* The node with all its memory; another one takes its place. */
inline lose_node()
{
	pick(losable);
	if
	:: true ->
LOSE_NODE:
		d_step {
			node[i].p[1].live = 0;
			lose_memory()
		}
	:: !node[i].away && parted < most_away ->
PART_NODE:
		d_step {
			node[i].p[1].live = 0;
			node[i].away = 1;
			node[i].awith = node[i].with;
			node[i].agone = node[i].gone;
			SLOT_COPY(node[i].aslot[0], node[i].slot[0]);
			SLOT_COPY(node[i].aslot[1], node[i].slot[1]);
			lose_memory()
		}
	fi
}

inline node_back()
{
	pick(away);
NODE_BACK:
	d_step {
		node[i].p[1].live = 0;
		node[i].down = 0;
		node[i].with = node[i].awith;
		node[i].gone = node[i].agone;
		SLOT_COPY(node[i].slot[0], node[i].aslot[0]);
		SLOT_COPY(node[i].slot[1], node[i].aslot[1]);
		SLOT_SET(node[i].aslot[0], EMPTY, 0, 0, 0);
		SLOT_SET(node[i].aslot[1], EMPTY, 0, 0, 0);
		node[i].away = 0;
		node[i].awith = 0;
		node[i].agone = 0;
		refused = 0
	}
}

/* --- the next start --- */

/* Zombies are ended. An arena whose SMP died meanwhile is not found. Where there is none a new
 * one is made. */
inline attach()
{
	for (i : 0 .. n - 1) {
		if
		:: node[i].down -> lose_memory()
		:: else
		fi;
		if
		:: flaw != LETS_ZOMBIES_LIVE -> TRAINER_SET(node[i].p[1], NOTHING, 0)
		:: else
		fi
	}
	if
	:: flaw != LETS_ZOMBIES_LIVE -> START_CLEAR(start[1])
	:: else
	fi;
	latest = 0;
	for (j : 0 .. n - 1) {
		latest = (node[j].with > latest -> node[j].with : latest)
	}
}

/* Who holds stamp (limit, v), and whether it may have been committed. */
inline judge()
{
	held = 0;
	maybe = 0;
	denied = 0;
	for (j : 0 .. n - 1) {
		for (s : 0 .. 1) {
			held = held + IS(node[j].slot[s], limit, v);
			maybe = maybe || (IS(node[j].slot[s], limit, v) &&
				node[j].slot[s].state == COMMITTED)
		}
		denied = denied ||
			((node[j].with -> node[j].with == latest || flaw == TRUSTS_OLD_ARENAS :
			flaw == TRUSTS_NEW_ARENAS) &&
			!IS(node[j].slot[0], limit, v) && !OUTRANKS(node[j].slot[0], limit, v) &&
			!IS(node[j].slot[1], limit, v) && !OUTRANKS(node[j].slot[1], limit, v))
	}
	maybe = held > 0 && (maybe || !denied)
}

/* The largest stamp that is recoverable is (limit, v) if found. refused: there is none, and one
 * that is not may have been committed. */
inline choose()
{
	found = 0;
	refused = 0;
	limit = clock;
	do
	:: limit > 0 && !found ->
		v = V;
		do
		:: v > 0 && !found ->
			judge();
			found = held > 0 && held + (flaw == LACKS_ONE_MORE) >= n - m;
			refused = refused || (maybe && flaw != FORGETS_WHAT_IS_OUT);
			v = v - !found
		:: else -> break
		od;
		limit = limit - !found
	:: else -> break
	od;
	refused = refused && !found
}

inline check_choice()
{
	lacking = 0;
	before = 0;
	restored_is_not_mixed = 1;
	for (j : 0 .. n - 1) {
		lacking = lacking + node[j].gone;
		for (s : 0 .. 1) {
			if
			:: found && IS(node[j].slot[s], limit, v) ->
				restored_is_not_mixed = restored_is_not_mixed &&
					(before == 0 || before == node[j].slot[s].by);
				before = node[j].slot[s].by
			:: else
			fi
		}
	}
	assert(restored_is_not_mixed);
	restored_was_snapshotted_by_all = !found || (whole & BIT(before, v));
	assert(restored_was_snapshotted_by_all);
	committed_stays_recoverable = lacking > m || !done_by || (found && (before > done_by ||
		(before == done_by && v >= done_ver)));
	assert(committed_stays_recoverable);
	committed_is_never_forgotten = found || refused || !done_by;
	assert(committed_is_never_forgotten);
	never_committed_starts_afresh = found || !refused || done_by || lacking > m;
	assert(never_committed_starts_afresh)
}

inline new_incarnation()
{
	clock++;
	start[0].by = clock;
	start[0].inc = (flaw == COUNTS_STARTS -> 1 : clock);
	for (j : 0 .. n - 1) {
		for (s : 0 .. 1) {
			if
			:: HOLDS(node[j].slot[s]) && node[j].slot[s].inc >= start[0].inc ->
				start[0].inc = node[j].slot[s].inc + 1
			:: else
			fi
		}
	}
}

inline begin_recovery()
{
	start[0].cinc = (found -> limit : 0);
	start[0].cver = (found -> v : 0);
	start[0].cby = (found -> before : 0);
	for (j : 0 .. n - 1) {
		TRAINER_SET(node[j].p[0], (found -> BEGIN : ANEW), 1)
	}
	running = 1
}

inline gather()
{
	true;
GATHER:
	d_step {
		attach();
		choose();
		check_choice();
		if
		:: !refused ->
			new_incarnation();
			begin_recovery()
		:: else
		fi;
		before = 0
	}
}

c_decl {
\#include <stdlib.h>
\#include <string.h>
}

c_code {
	static int setting(const char *name, int usual)
	{
		const char *value = getenv(name);

		return value ? atoi(value) : usual;
	}

	static void show_slots(const struct slot_t *x)
	{
		static const char *const state[] = {"-", "filling", "PREPARED", "COMMITTED"};

		for (int k = 0; k < 2; k++)
			printf(" %s %d.%d", state[x[k].state], x[k].inc, x[k].ver);
	}

	/* For who reads how a promise is broken: run.sh -t. */
	static void show(void)
	{
		static const char *const phase[] = {
			"-", "waits", "begins", "anew", "rebuilds", "joined", "entered",
			"clears", "idle", "fills", "yes", "no",
		};

		for (int k = 0; k < n; k++) {
			const struct node_t *x = &now.node[k];

			printf("    %d: %-8s v%d, zombie %-8s v%d%s |", k,
			       phase[x->p[0].phase], x->p[0].ver, phase[x->p[1].phase],
			       x->p[1].ver, x->p[1].live ? "" : " (dead)");
			show_slots(x->slot);
			printf(" | run %d%s%s", x->with, x->gone ? ", gone" : "",
			       x->down ? ", no SMP" : "");
			if (x->away) {
				printf(" | away:");
				show_slots(x->aslot);
				printf(" | run %d", x->awith);
			}
			printf("\n");
		}
	}

	static int slot_key(const struct slot_t *x)
	{
		return x->inc << 8 | x->ver << 6 | x->state << 4 | x->by;
	}

	static void slots_sort(struct slot_t *x, struct trainer_t *p)
	{
		struct slot_t other = x[0];

		if (slot_key(&x[0]) >= slot_key(&x[1]))
			return;
		x[0] = x[1];
		x[1] = other;
		for (int k = 0; p && k < 2; k++)
			if ((p[k].phase >= 4 && p[k].phase <= 7) || p[k].phase == 9
			    || p[k].phase == 10)
				p[k].at = !p[k].at;
	}

	static int held_bits(const struct slot_t *x)
	{
		int bits = 0;

		for (int k = 0; k < 2; k++)
			if (x[k].state >= 2)
				bits |= 1 << ((x[k].by - 1) * V + x[k].ver - 1);
		return bits;
	}

	/* Forgets what matters no more, and sorts slots and nodes. */
	static void canonical(void)
	{
		int bits = 0, moved = 1, voting[2] = {0, 0}, recovering[2] = {0, 0};

		for (int k = 0; k < n; k++) {
			struct node_t *x = &now.node[k];

			slots_sort(x->slot, x->p);
			slots_sort(x->aslot, NULL);
			bits |= held_bits(x->slot) | held_bits(x->aslot);
			x->agone = x->away && x->agone;
			for (int y = 0; y < 2; y++) {
				voting[y] |= x->p[y].phase >= 10;
				recovering[y] |= x->p[y].phase >= 2 && x->p[y].phase <= 7;
			}
		}
		for (int y = 0; y < 2; y++) {
			struct start_t *x = &now.start[y];

			if (!voting[y])
				x->yes = 0;
			if (!recovering[y])
				x->cinc = x->cver = x->cby = 0;
			if (x->cver)
				bits |= 1 << ((x->cby - 1) * V + x->cver - 1);
		}
		now.whole &= bits;
		while (moved) {
			moved = 0;
			for (int k = 0; k + 1 < n; k++) {
				struct node_t x = now.node[k];

				if (memcmp(&x, &now.node[k + 1], sizeof(x)) <= 0)
					continue;
				now.node[k] = now.node[k + 1];
				now.node[k + 1] = x;
				moved = 1;
			}
		}
	}
}

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
