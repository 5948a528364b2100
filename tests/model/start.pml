/* SPDX-License-Identifier: BSD-3-Clause */
/* The next start of the job: attaching, gathering, choosing; and what is promised of that. */

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
	true
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
	/* Unless all are gone that could tell. */
	committed_is_never_forgotten = found || refused || !done_by || lacking == n;
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

/* Where each holds what is restored, or writes it if it lacks it. Who did not hear of a commit
 * learns it from the others. */
inline choose_slots()
{
	for (i : 0 .. n - 1) {
		first = 0;
		second = 0;
		for (c : 0 .. n - 1) {
			first = first || ((c == i || flaw != SPARES_WHAT_IT_KNOWS) &&
				COMMITS(c, node[i].slot[0]));
			second = second || ((c == i || flaw != SPARES_WHAT_IT_KNOWS) &&
				COMMITS(c, node[i].slot[1]))
		}
		if
		:: found && HAS(i, 0) ->
			T.at = !IS(node[i].slot[0], start[0].cinc, start[0].cver);
			T.phase = HELD
		:: found && !HAS(i, 0) -> spare(first, second)
		:: else
		fi
	}
	i = 0
}

inline begin_recovery()
{
	start[0].cinc = (found -> limit : 0);
	start[0].cver = (found -> v : 0);
	start[0].cby = (found -> before : 0);
	start[0].last = (found -> latest : 0);
	for (j : 0 .. n - 1) {
		TRAINER_SET(node[j].p[0], (found -> BEGIN : ANEW), 1)
	}
	choose_slots();
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
