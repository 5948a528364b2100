/* SPDX-License-Identifier: BSD-3-Clause */
#include "copy_stage.h"

/* Steps differ by some percent, and what is staged in vain costs a thousandth of what a
 * stream waits for in vain. */
#define SURE 0.95

uint64_t copy_stage_direct(const struct copy_pace *pace, uint64_t bytes)
{
	double direct = pace->window_s * pace->bytes_per_s * SURE;

	if (pace->window_s < 0 || pace->bytes_per_s <= 0)
		return 0;
	if (direct >= (double)bytes)
		return bytes;
	return (uint64_t)direct;
}
