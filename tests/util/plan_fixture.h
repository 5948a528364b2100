/* SPDX-License-Identifier: BSD-3-Clause */
/* Tensors, boxes and records for the tests of a plan; included after cmocka.h. */
#ifndef FTMEM_TEST_PLAN_FIXTURE_H
#define FTMEM_TEST_PLAN_FIXTURE_H

#include "error.h"
#include "plan.h"
#include "test_random.h"

static inline struct tensor make_tensor(const char *name, uint32_t home, uint32_t ndim,
                                        const uint64_t *shape)
{
	struct tensor t = {.home = home, .elem_bytes = home == TENSOR_GLOBAL ? 4 : 1, .ndim = ndim};

	snprintf(t.name, sizeof(t.name), "%s", name);
	memcpy(t.shape, shape, ndim * sizeof(*shape));
	return t;
}

static inline struct tensor tensor_1d(const char *name, uint64_t length)
{
	return make_tensor(name, TENSOR_GLOBAL, 1, &length);
}

static inline struct box box_1d(uint64_t start, uint64_t extent)
{
	return (struct box){.ndim = 1, .start = {start}, .extent = {extent}};
}

static inline struct box whole_of(const struct tensor *t)
{
	struct box b = {.ndim = t->ndim};

	memcpy(b.extent, t->shape, sizeof(b.extent));
	return b;
}

/* From memory of exactly that size, so that a sanitizer sees what reads beyond it. */
static inline int add_exact(struct plan *p, const uint8_t *record, uint64_t bytes)
{
	uint8_t *exact = malloc(bytes ? bytes : 1);
	int rc;

	assert_non_null(exact);
	memcpy(exact, record, bytes);
	rc = plan_add(p, exact, (uint32_t)bytes);
	free(exact);
	return rc;
}

static inline int add_stored(struct plan *p, const struct tensor *t, struct box box, uint32_t agent,
                             uint32_t rank, uint32_t piece)
{
	struct plan_stored s = {*t, box, agent, rank, piece};
	struct bytes b = {0};
	int rc;

	assert_int_equal(plan_stored_put(&b, &s), 0);
	rc = add_exact(p, b.at, b.size);
	bytes_deinit(&b);
	return rc;
}

static inline int add_wanted(struct plan *p, const struct tensor *t, struct box box)
{
	struct plan_wanted w = {*t, box};
	struct bytes b = {0};
	int rc;

	assert_int_equal(plan_wanted_put(&b, &w), 0);
	rc = add_exact(p, b.at, b.size);
	bytes_deinit(&b);
	return rc;
}

static inline struct box random_box(uint64_t *seed, const struct tensor *t)
{
	struct box b = whole_of(t);

	for (uint32_t d = 0; d < t->ndim && test_random_below(seed, 8); d++) {
		b.start[d] = test_random_below(seed, (uint32_t)t->shape[d]);
		b.extent[d] = 1 + test_random_below(seed, (uint32_t)(t->shape[d] - b.start[d]));
	}
	return b;
}

#endif
