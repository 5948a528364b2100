/* SPDX-License-Identifier: BSD-3-Clause */
#include "adamw.h"

#include <tgmath.h>

struct factors {
	real beta1, beta2, step, correction2, epsilon, keep;
};

static void run(const struct factors *f, size_t count, real *params, real *moment1,
                real *moment2, const real *grads)
{
	for (size_t i = 0; i < count; i++) {
		moment1[i] = f->beta1 * moment1[i] + (1 - f->beta1) * grads[i];
		moment2[i] = f->beta2 * moment2[i] + (1 - f->beta2) * grads[i] * grads[i];
		params[i] = f->keep * params[i] -
		            f->step * moment1[i] / (sqrt(moment2[i] * f->correction2) + f->epsilon);
	}
}

void adamw_step(const struct adamw *a, const struct model *m, uint64_t step, size_t first,
                size_t count, real *params, real *moment1, real *moment2, const real *grads)
{
	struct factors f = {
		.beta1 = (real)a->beta1,
		.beta2 = (real)a->beta2,
		.step = (real)(a->rate / (1 - pow(a->beta1, (double)step))),
		.correction2 = (real)(1 / (1 - pow(a->beta2, (double)step))),
		.epsilon = (real)a->epsilon,
	};
	uint32_t tensors;
	const struct model_tensor *tensor = model_tensors(m, &tensors);
	size_t end = first + count;

	for (uint32_t i = 0; i < tensors; i++) {
		size_t from = tensor[i].offset, to = from + tensor[i].count;

		if (from < first)
			from = first;
		if (to > end)
			to = end;
		if (from >= to)
			continue;
		f.keep = (real)(tensor[i].decays ? 1 - a->rate * a->decay : 1);
		run(&f, to - from, params + from - first, moment1 + from - first,
		    moment2 + from - first, grads + from - first);
	}
}
