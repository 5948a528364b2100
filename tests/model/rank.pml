/* SPDX-License-Identifier: BSD-3-Clause */
/* One rank: what it may know of the others, how it stores a version, how it recovers. */

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
	(node[x].p[y].phase == ENTERED || node[x].p[y].phase == EMPTIED -> \
		WITH(ALL_ENTERED) || flaw == CLEARS_EARLY : \
	node[x].p[y].phase > WAIT)))))

/* Any of a set. */
inline pick(set)
{
	do
	:: (set >> i) & 1 -> break
	:: set >> (i + 1) -> i++
	od;
	true
}

/* The slot to write next: one that holds nothing, else not the newest that is committed, as far as
 * it is known here. */
inline spare(first, second)
{
	if
	:: !HOLDS(node[i].slot[0]) -> T.at = 0
	:: HOLDS(node[i].slot[0]) && !HOLDS(node[i].slot[1]) -> T.at = 1
	:: else -> T.at = first && !(second && ABOVE(node[i].slot[1], node[i].slot[0]))
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
	:: fact & ALL_JOINED ->
		all_hold(start[g].cinc, start[g].cver);
		/* More than parity covers was gone of the newest: all that is left is this. */
		done_ver = (start[g].cby < done_by || (start[g].cby == done_by &&
			start[g].cver < done_ver) -> start[g].cver : done_ver);
		done_by = (start[g].cby < done_by -> start[g].cby : done_by)
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

/* --- a rank stores a version --- */

inline call(words)
{
	T.ver = T.ver + 1;
	T.said = words;
	T.phase = FILL;
	spare(node[i].slot[0].state == COMMITTED, node[i].slot[1].state == COMMITTED);
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
	:: T.phase == BEGIN ->
MAKE_ROOM:
		d_step {
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
			T.phase = HELD
		}
	:: T.phase == HELD ->
JOIN:
		d_step {
			node[i].with = (start[g].last > node[i].with && flaw != JOINS_UNNOTED ->
				start[g].last : node[i].with);
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
EMPTY_ALL:
		d_step {
			SLOT_SET(node[i].slot[0], EMPTY, 0, 0, 0);
			SLOT_SET(node[i].slot[1], EMPTY, 0, 0, 0);
			node[i].with = start[g].by;
			T.phase = EMPTIED;
			count_joined();
			count_entered()
		}
	:: T.phase == EMPTIED ->
START_AFRESH:
		d_step {
			T.phase = IDLE
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
