/* SPDX-License-Identifier: BSD-3-Clause */
#include "floor.h"

#include <math.h>

/* What a rank does, in GB. */
struct work {
	double copied;
	double checked;  /* while in cache */
	double verified; /* read from memory for that alone */
	double sent;
	double coded; /* source bytes of each block that is made */
};

/* Work that is not done takes no time, also where its rate is unknown. */
static double seconds(double work, const struct limit *l)
{
	return work > 0 ? work / l->rank : 0;
}

static struct floor_time at_limits(const struct floor_case *c, const struct limits *l,
                                   const struct work *w)
{
	struct floor_time f = {
		.copy = seconds(w->copied, &l->copy),
		.checksum = seconds(w->checked, &l->checksum),
		.verify = seconds(w->verified, &l->verify),
		.mpi = seconds(w->sent, &l->mpi),
		.encode = seconds(w->coded, &l->encode),
		.overlap = fmax(1, fmin(c->cores, c->copy_threads + 1)),
	};

	f.all = (f.copy + f.checksum + f.verify + f.mpi + f.encode) / f.overlap;
	return f;
}

struct floor_time floor_protect(const struct floor_case *c, const struct limits *l)
{
	double d = (double)c->bytes / 1e9, m = c->m;
	struct work w = {
		.copied = d,
		/* The checksum of the first parity row follows from those of the data. */
		.checked = d * (1 + m + (m > 0 ? m - 1 : 0) / c->k),
		.sent = d * m,
		.coded = d * m,
	};

	return at_limits(c, l, &w);
}

struct floor_time floor_restore(const struct floor_case *c, const struct limits *l)
{
	double d = (double)c->bytes / 1e9;
	struct work w = {
		.copied = d,
		.checked = d,
		.verified = d * c->m / c->k,
	};

	return at_limits(c, l, &w);
}

/* The n ranks of a rail have n D/k bytes of rows of blocks, so D/k each, times what is
 * done with the blocks of a row. */
struct floor_time floor_rebuild(const struct floor_case *c, const struct limits *l, uint32_t lost)
{
	double d = (double)c->bytes / 1e9, k = c->k, m = c->m;
	double live = (k + m - lost) / (k + m);
	struct work w = {
		.copied = d,
		.checked = live * d + d / k * (k - 1 + 2 * lost),
		.verified = live * d * m / k,
		.sent = d / k * (k - 1 + lost),
		.coded = d * lost,
	};

	return at_limits(c, l, &w);
}
