/* SPDX-License-Identifier: BSD-3-Clause */
#include "growth_report.h"

#include <math.h>
#include <stdio.h>

const char *const growth_phase_name[GROWTH_PHASES] = {"open", "seal", "commit", "recovery"};
const char *const growth_quantity_name[GROWTH_QUANTITIES] = {"messages", "bytes", "table_bytes",
                                                             "memory", "steps"};

void growth_figures_add(struct growth_figures *f, enum growth_phase phase,
                        const struct growth_cost *cost)
{
	const uint64_t value[GROWTH_QUANTITIES] = {cost->messages, cost->bytes, cost->table_bytes,
	                                           cost->memory, cost->steps};

	for (int q = 0; q < GROWTH_QUANTITIES; q++)
		f->value[phase][q] = fmax(f->value[phase][q], (double)value[q]);
}

/* Solves three equations by elimination; a: [3][4]. */
static void solve(double a[3][4], double x[3])
{
	for (int i = 0; i < 3; i++) {
		int best = i;

		for (int r = i + 1; r < 3; r++)
			if (fabs(a[r][i]) > fabs(a[best][i]))
				best = r;
		for (int c = 0; c < 4; c++) {
			double t = a[i][c];

			a[i][c] = a[best][c];
			a[best][c] = t;
		}
		for (int r = i + 1; r < 3; r++) {
			double f = a[i][i] != 0 ? a[r][i] / a[i][i] : 0;

			for (int c = 0; c < 4; c++)
				a[r][c] -= f * a[i][c];
		}
	}
	for (int i = 2; i >= 0; i--) {
		x[i] = a[i][3];
		for (int c = i + 1; c < 3; c++)
			x[i] -= a[i][c] * x[c];
		x[i] = a[i][i] != 0 ? x[i] / a[i][i] : 0;
	}
}

struct growth_fit growth_fit(const struct growth_figures *f, uint32_t count,
                             enum growth_phase phase, enum growth_quantity quantity)
{
	/* Ranks are scaled, so that the three columns are of one size. */
	double scale = f[count - 1].ranks, a[3][4] = {{0}}, x[3];
	struct growth_fit fit;

	for (uint32_t i = 0; i < count; i++) {
		double y = f[i].value[phase][quantity], weight = y > 0 ? 1 / (y * y) : 1;
		double row[3] = {1, log2(f[i].ranks), f[i].ranks / scale};

		for (int r = 0; r < 3; r++) {
			for (int c = 0; c < 3; c++)
				a[r][c] += weight * row[r] * row[c];
			a[r][3] += weight * row[r] * y;
		}
	}
	solve(a, x);
	fit = (struct growth_fit){x[0], x[1], x[2] / scale, 0};
	for (uint32_t i = 0; i < count; i++) {
		double y = f[i].value[phase][quantity];
		double at = fit.constant + fit.log2 * log2(f[i].ranks) + fit.linear * f[i].ranks;

		if (y > 0)
			fit.error = fmax(fit.error, fabs(at / y - 1));
	}
	return fit;
}

void growth_print(const struct growth_figures *f, uint32_t count)
{
	printf("%7s %8s %-9s %9s %12s %12s %12s %12s\n", "nodes", "ranks", "phase", "messages",
	       "bytes", "of table", "memory", "steps");
	for (uint32_t i = 0; i < count; i++)
		for (int p = 0; p < GROWTH_PHASES; p++) {
			const double *v = f[i].value[p];

			printf("%7u %8u %-9s %9.0f %12.0f %12.0f %12.0f %12.0f\n", f[i].nodes,
			       f[i].ranks, growth_phase_name[p], v[GROWTH_MESSAGES],
			       v[GROWTH_BYTES], v[GROWTH_TABLE_BYTES], v[GROWTH_MEMORY],
			       v[GROWTH_STEPS]);
		}
	if (count < 3)
		return;
	printf("\nconstant + a log2(ranks) + b ranks; the farthest point\n");
	for (int p = 0; p < GROWTH_PHASES; p++)
		for (int q = 0; q < GROWTH_QUANTITIES; q++) {
			struct growth_fit fit = growth_fit(f, count, p, q);

			printf("%-9s %-12s %12.1f %+12.2f log2 %+10.3f ranks %6.1f%%\n",
			       growth_phase_name[p], growth_quantity_name[q], fit.constant,
			       fit.log2, fit.linear, 100 * fit.error);
		}
}

static void write_fits(FILE *out, const struct growth_figures *f, uint32_t count)
{
	fprintf(out, "  \"fit\": {");
	for (int p = 0; p < GROWTH_PHASES && count >= 3; p++) {
		fprintf(out, "%s\n    \"%s\": {", p ? "," : "", growth_phase_name[p]);
		for (int q = 0; q < GROWTH_QUANTITIES; q++) {
			struct growth_fit fit = growth_fit(f, count, p, q);

			fprintf(out,
			        "%s\n      \"%s\": {\"constant\": %.6g, \"log2\": %.6g, "
			        "\"linear\": %.6g, \"error\": %.4g}",
			        q ? "," : "", growth_quantity_name[q], fit.constant, fit.log2,
			        fit.linear, fit.error);
		}
		fprintf(out, "\n    }");
	}
	fprintf(out, "\n  }\n");
}

bool growth_write(const char *path, const struct growth_job *job, const struct growth_figures *f,
                  uint32_t count)
{
	FILE *out = fopen(path, "w");
	bool good;

	if (!out)
		return false;
	fprintf(out,
	        "{\n  \"ranks_per_node\": %u, \"group_nodes\": %u, \"parity\": %u,\n"
	        "  \"growth\": [",
	        job->node_ranks, job->group_nodes, job->parity);
	for (uint32_t i = 0; i < count; i++)
		for (int p = 0; p < GROWTH_PHASES; p++) {
			fprintf(out,
			        "%s\n    {\"nodes\": %u, \"ranks\": %u, \"sampled\": %u, "
			        "\"phase\": \"%s\"",
			        i + (uint32_t)p ? "," : "", f[i].nodes, f[i].ranks, f[i].sampled,
			        growth_phase_name[p]);
			for (int q = 0; q < GROWTH_QUANTITIES; q++)
				fprintf(out, ", \"%s\": %.0f", growth_quantity_name[q],
				        f[i].value[p][q]);
			fprintf(out, "}");
		}
	fprintf(out, "\n  ],\n");
	write_fits(out, f, count);
	fprintf(out, "}\n");
	good = !ferror(out);
	return fclose(out) == 0 && good;
}
