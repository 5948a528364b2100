/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * States that differ in nothing that matters are made one: the part of protocol.pml that is in
 * C. Nothing of the protocol is here, and what is not merged would only be explored twice. A
 * state that was merged wrongly would be one that the sorting makes of another; it moves nodes
 * and slots as a whole, and forgets what no step and no promise looks at any more.
 */

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

		for (int k = 0; k < 2; k++) {
			printf(" %s", state[x[k].state]);
			if (x[k].state >= PREPARED)
				printf(" %d.%d", x[k].inc, x[k].ver);
		}
	}

	/* For who reads how a promise is broken: run.sh -t. */
	static void show(void)
	{
		static const char *const phase[] = {
			"-", "waits", "begins", "anew", "rebuilds", "holds", "joined", "entered",
			"clears", "emptied", "idle", "fills", "yes", "no",
		};

		for (int k = 0; k < n; k++) {
			const struct node_t *x = &now.node[k];

			printf("    %d: %-8s v%d", k, phase[x->p[0].phase], x->p[0].ver);
			if (x->p[1].phase)
				printf(", %s %-8s v%d", x->p[1].live ? "zombie" : "ended ",
				       phase[x->p[1].phase], x->p[1].ver);
			printf(" |");
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
			if ((p[k].phase >= BEGIN && p[k].phase <= CLEAR)
			    || p[k].phase == FILL || p[k].phase == YES)
				p[k].at = !p[k].at;
	}

	static int held_bits(const struct slot_t *x)
	{
		int bits = 0;

		for (int k = 0; k < 2; k++)
			if (x[k].state >= PREPARED)
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
				voting[y] |= x->p[y].phase >= YES;
				recovering[y] |= x->p[y].phase >= BEGIN && x->p[y].phase <= CLEAR;
			}
		}
		for (int y = 0; y < 2; y++) {
			struct start_t *x = &now.start[y];

			if (!voting[y])
				x->yes = 0;
			if (!recovering[y])
				x->cinc = x->cver = x->cby = x->last = 0;
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
