/* SPDX-License-Identifier: BSD-3-Clause */
#include "copy_stage.h"

/* Steps differ by some percent, and what is staged in vain costs a thousandth of what a
 * stream waits for in vain. */
#define SURE 0.95

void copy_stage_learn(struct copy_pace *pace, double window_s)
{
	pace->former_s = pace->window_s < 0 ? window_s : pace->window_s;
	pace->window_s = window_s;
}

/* One step that took long, for an evaluation perhaps, says little of the next. */
uint64_t copy_stage_direct(const struct copy_pace *pace, uint64_t bytes)
{
	double window_s = pace->former_s < pace->window_s ? pace->former_s : pace->window_s;
	double direct = window_s * pace->bytes_per_s * SURE;

	if (window_s < 0 || pace->bytes_per_s <= 0)
		return 0;
	if (direct >= (double)bytes)
		return bytes;
	return (uint64_t)direct;
}
