/* SPDX-License-Identifier: BSD-3-Clause */
/* What the phases of a job cost a rank, by the size of the job: table, fit, JSON. */
#ifndef FTMEM_TEST_GROWTH_REPORT_H
#define FTMEM_TEST_GROWTH_REPORT_H

#include "growth.h"

#define GROWTH_SIZES 16
enum growth_phase { GROWTH_OPEN, GROWTH_SEAL, GROWTH_COMMIT, GROWTH_RECOVERY, GROWTH_PHASES };
enum growth_quantity {
	GROWTH_MESSAGES,
	GROWTH_BYTES,
	GROWTH_TABLE_BYTES,
	GROWTH_MEMORY,
	GROWTH_STEPS,
	GROWTH_QUANTITIES
};

extern const char *const growth_phase_name[GROWTH_PHASES];
extern const char *const growth_quantity_name[GROWTH_QUANTITIES];

/* One job: of the ranks that were looked at the most of each quantity. */
struct growth_figures {
	uint32_t nodes, ranks, sampled;
	double value[GROWTH_PHASES][GROWTH_QUANTITIES];
};

/* value = constant + log2 * log2(ranks) + linear * ranks; error: the largest relative
 * distance of a point from it. */
struct growth_fit {
	double constant, log2, linear, error;
};

void growth_figures_add(struct growth_figures *f, enum growth_phase phase,
                        const struct growth_cost *cost);
/* Least squares of relative distances; at least 3 jobs. */
struct growth_fit growth_fit(const struct growth_figures *f, uint32_t count,
                             enum growth_phase phase, enum growth_quantity quantity);
void growth_print(const struct growth_figures *f, uint32_t count);
/* False: the file cannot be written. */
bool growth_write(const char *path, const struct growth_job *job, const struct growth_figures *f,
                  uint32_t count);

#endif
