/* SPDX-License-Identifier: BSD-3-Clause */
#include "tree.h"

#include <stdlib.h>
#include <string.h>

uint32_t tree_split(uint32_t first, uint32_t end, struct tree_part *parts)
{
	uint32_t count = 0;

	while (first < end) {
		uint32_t level = 0;

		while (level < 31 && first % (2u << level) == 0 && (2u << level) <= end - first)
			level++;
		parts[count++] = (struct tree_part){first, level};
		first += 1u << level;
	}
	return count;
}

void tree_init(struct tree *t, size_t length)
{
	memset(t, 0, sizeof(*t));
	t->length = length;
}

void tree_deinit(struct tree *t)
{
	for (uint32_t i = 0; i <= TREE_PARTS_MAX; i++)
		free(t->sum[i]);
	memset(t, 0, sizeof(*t));
}

real *tree_room(struct tree *t)
{
	if (!t->sum[t->count])
		t->sum[t->count] = malloc((t->length ? t->length : 1) * sizeof(real));
	return t->sum[t->count];
}

/* Adds the last part to the one before it. */
static void fold(struct tree *t)
{
	real *to = t->sum[t->count - 2];
	const real *from = t->sum[t->count - 1];

	for (size_t i = 0; i < t->length; i++)
		to[i] += from[i];
	t->count--;
}

static int siblings(struct tree_part a, struct tree_part b)
{
	return a.level == b.level && a.level < 31 && a.start % (2u << a.level) == 0 &&
	       b.start == a.start + (1u << a.level);
}

void tree_push(struct tree *t, struct tree_part part)
{
	t->part[t->count++] = part;
	while (t->count > 1 && siblings(t->part[t->count - 2], t->part[t->count - 1])) {
		fold(t);
		t->part[t->count - 1].level++;
	}
}

const real *tree_finish(struct tree *t)
{
	while (t->count > 1)
		fold(t);
	t->count = 0;
	return t->sum[0];
}
