/* SPDX-License-Identifier: BSD-3-Clause */
/* What goes wrong: ranks, SMPs and nodes that die, nodes that are out of reach and come back. */

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

inline lose_memory()
{
	SLOT_SET(node[i].slot[0], EMPTY, 0, 0, 0);
	SLOT_SET(node[i].slot[1], EMPTY, 0, 0, 0);
	node[i].with = 0;
	node[i].gone = 1;
	node[i].down = 0
}

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
		start[1].last = start[0].last;
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
