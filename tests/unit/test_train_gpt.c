/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The example trainer: its gradients, random numbers and order of sums. Compiled
 * here in double, where a finite difference tells a wrong gradient from rounding.
 */
#define TRAIN_REAL double

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../examples/train_gpt/adamw.c"
#include "../../examples/train_gpt/model.c"
#include "../../examples/train_gpt/ops.c"
#include "../../examples/train_gpt/rng.c"
#include "../../examples/train_gpt/tree.c"

static const struct model_config small = {.layers = 2, .dim = 20, .heads = 4, .context = 7};
static const unsigned char text[] = "abacabad"; /* context + 1 bytes */

static void expect_philox(const uint32_t counter[4], const uint32_t key[2],
                          const uint32_t expected[4])
{
	uint32_t out[4];

	philox(counter, key, out);
	assert_memory_equal(out, expected, sizeof(out));
}

static void philox_gives_the_published_vectors(void **state)
{
	(void)state;
	expect_philox((uint32_t[]){0, 0, 0, 0}, (uint32_t[]){0, 0},
	              (uint32_t[]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
	expect_philox((uint32_t[]){0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
	              (uint32_t[]){0xffffffff, 0xffffffff},
	              (uint32_t[]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
	expect_philox((uint32_t[]){0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
	              (uint32_t[]){0xa4093822, 0x299f31d0},
	              (uint32_t[]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

static void random_numbers_differ_by_seed_stream_and_index(void **state)
{
	(void)state;
	assert_true(rng_bits(1, 2, 3) == rng_bits(1, 2, 3));
	assert_true(rng_bits(1, 2, 3) != rng_bits(2, 2, 3));
	assert_true(rng_bits(1, 2, 3) != rng_bits(1, 3, 3));
	assert_true(rng_bits(1, 2, 3) != rng_bits(1, 2, 4));
	assert_true(rng_bits(1, 2, 3) != rng_bits(1, 2, 3 + (UINT64_C(1) << 32)));
}

static void normal_numbers_have_mean_0_and_deviation_1(void **state)
{
	enum { COUNT = 100000 };
	double sum = 0, square = 0;

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		double pair[2];

		rng_normal(7, 0, (uint64_t)i, pair);
		sum += pair[0] + pair[1];
		square += pair[0] * pair[0] + pair[1] * pair[1];
	}
	assert_true(fabs(sum / (2 * COUNT)) < 0.01);
	assert_true(fabs(square / (2 * COUNT) - 1) < 0.02);
}

static void matmul_is_right_for_every_shape(void **state)
{
	double a[12 * 12], b[12 * 12], c[12 * 12];

	(void)state;
	for (int i = 0; i < 12 * 12; i++) {
		a[i] = i % 7 - 3;
		b[i] = i % 5 - 2;
	}
	for (size_t m = 0; m < 10; m++)
		for (size_t n = 0; n < 10; n++)
			for (size_t k = 0; k < 4; k++) {
				for (int i = 0; i < 12 * 12; i++)
					c[i] = 100;
				matmul(c, 12, (struct view){a, 1, 12}, (struct view){b, 12, 1}, m,
				       n, k, true);
				for (size_t i = 0; i < 12 * 12; i++) {
					double sum = 100;

					for (size_t l = 0; i / 12 < m && i % 12 < n && l < k; l++)
						sum += a[l * 12 + i / 12] * b[l * 12 + i % 12];
					assert_true(c[i] == sum);
				}
			}
}

/* Away from the start, where gains are 1 and biases 0 and mistakes can hide. */
static double *parameters_anywhere(const struct model *m)
{
	double *params = malloc(model_parameters(m) * sizeof(double));

	assert_non_null(params);
	model_init(m, 42, params);
	for (size_t i = 0; i < model_parameters(m); i++) {
		double pair[2];

		rng_normal(43, 0, i, pair);
		params[i] += 0.2 * pair[0];
	}
	return params;
}

static double slope(struct model *m, double *params, size_t at)
{
	const double step = 1e-5;
	double here = params[at], up, down;

	params[at] = here + step;
	up = model_loss(m, params, text);
	params[at] = here - step;
	down = model_loss(m, params, text);
	params[at] = here;
	return (up - down) / (2 * step);
}

static void tensors_make_up_the_parameters(void **state)
{
	const struct model_tensor *tensor;
	size_t at = 0;
	uint32_t tensors;
	struct model *m;

	(void)state;
	assert_int_equal(model_new(&small, &m), 0);
	tensor = model_tensors(m, &tensors);
	for (uint32_t i = 0; i < tensors; i++) {
		assert_int_equal(tensor[i].offset, at);
		assert_int_equal(tensor[i].count, tensor[i].rows * tensor[i].columns);
		assert_int_equal(tensor[i].columns > 1, tensor[i].decays);
		for (uint32_t j = 0; j < i; j++)
			assert_string_not_equal(tensor[i].name, tensor[j].name);
		at += tensor[i].count;
	}
	assert_int_equal(at, model_parameters(m));
	model_free(m);
}

static void gradient_of_every_tensor_is_its_finite_difference(void **state)
{
	struct model *m;
	double *params, *grads, loss;
	const struct model_tensor *tensor;
	uint32_t tensors;

	(void)state;
	assert_int_equal(model_new(&small, &m), 0);
	params = parameters_anywhere(m);
	grads = malloc(model_parameters(m) * sizeof(double));
	assert_non_null(grads);
	loss = model_gradient(m, params, text, 3, grads);
	assert_true(loss == model_loss(m, params, text));
	tensor = model_tensors(m, &tensors);
	for (uint32_t i = 0; i < tensors; i++) {
		size_t stride = tensor[i].count / 100 + 1;

		for (size_t j = 0; j < tensor[i].count; j += stride) {
			size_t at = tensor[i].offset + j;
			double expected = 3 * slope(m, params, at);

			if (fabs(grads[at] - expected) > 1e-7 + 1e-5 * fabs(expected))
				fail_msg("%s[%zu]: gradient %g, finite difference %g",
				         tensor[i].name, j, grads[at], expected);
		}
	}
	free(grads);
	free(params);
	model_free(m);
}

static void loss_does_not_depend_on_bytes_to_come(void **state)
{
	struct model *m;
	double *params, before[MODEL_VOCAB];
	unsigned char other[sizeof(text)];

	(void)state;
	assert_int_equal(model_new(&small, &m), 0);
	params = parameters_anywhere(m);
	forward(m, params, text);
	memcpy(before, m->logits + 2 * MODEL_VOCAB, sizeof(before));
	memcpy(other, text, sizeof(other));
	for (size_t i = 3; i < sizeof(other); i++)
		other[i] ^= 1;
	forward(m, params, other);
	assert_memory_equal(before, m->logits + 2 * MODEL_VOCAB, sizeof(before));
	free(params);
	model_free(m);
}

static void optimizer_result_does_not_depend_on_the_cut_into_shards(void **state)
{
	const struct adamw a = {0.01, 0.9, 0.95, 1e-8, 0.1};
	struct model *m;
	double *whole, *cut;
	size_t n;

	(void)state;
	assert_int_equal(model_new(&small, &m), 0);
	n = model_parameters(m);
	whole = calloc(4 * n, sizeof(double));
	cut = calloc(4 * n, sizeof(double));
	assert_non_null(whole);
	assert_non_null(cut);
	for (size_t i = 0; i < n; i++) {
		whole[i] = cut[i] = 1;
		whole[3 * n + i] = cut[3 * n + i] = sin((double)i);
	}
	for (uint64_t step = 1; step < 4; step++) {
		adamw_step(&a, m, step, 0, n, whole, whole + n, whole + 2 * n, whole + 3 * n);
		for (size_t r = 0; r < 5; r++) {
			size_t lo = r * n / 5, hi = (r + 1) * n / 5;

			adamw_step(&a, m, step, lo, hi - lo, cut + lo, cut + n + lo,
			           cut + 2 * n + lo, cut + 3 * n + lo);
		}
	}
	assert_memory_equal(whole, cut, 4 * n * sizeof(double));
	/* The first step of Adam goes by the rate, against the sign of the gradient. */
	assert_true(fabs(whole[1] - (1 - 3 * 0.01 - 3 * 0.001)) < 1e-3);
	free(cut);
	free(whole);
	model_free(m);
}

/* Sums leaves vectors as ranks ranks and the owner of a shard would. */
static void sum_as(uint32_t leaves, uint32_t ranks, double out[2])
{
	struct tree owner;

	tree_init(&owner, 2);
	for (uint32_t r = 0; r < ranks; r++) {
		uint32_t first = leaves * r / ranks, end = leaves * (r + 1) / ranks;
		struct tree_part parts[TREE_PARTS_MAX];
		struct tree local;
		uint32_t count = tree_split(first, end, parts);

		tree_init(&local, 2);
		for (uint32_t i = first; i < end; i++) {
			double *leaf = tree_room(&local);

			leaf[0] = 1 / (1.0 + i);
			leaf[1] = sin(1e6 * i);
			tree_push(&local, (struct tree_part){i, 0});
		}
		assert_int_equal(local.count, count);
		assert_memory_equal(local.part, parts, count * sizeof(*parts));
		for (uint32_t i = 0; i < count; i++) {
			memcpy(tree_room(&owner), local.sum[i], 2 * sizeof(double));
			tree_push(&owner, parts[i]);
		}
		tree_deinit(&local);
	}
	memcpy(out, tree_finish(&owner), 2 * sizeof(double));
	tree_deinit(&owner);
}

static void sum_does_not_depend_on_the_number_of_ranks(void **state)
{
	(void)state;
	for (uint32_t leaves = 1; leaves < 40; leaves++) {
		double one[2], expected = 0;

		sum_as(leaves, 1, one);
		for (uint32_t i = 0; i < leaves; i++)
			expected += 1 / (1.0 + i);
		assert_true(fabs(one[0] - expected) < 1e-12);
		for (uint32_t ranks = 2; ranks < 45; ranks++) {
			double many[2];

			sum_as(leaves, ranks, many);
			assert_memory_equal(one, many, sizeof(one));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(philox_gives_the_published_vectors),
		cmocka_unit_test(random_numbers_differ_by_seed_stream_and_index),
		cmocka_unit_test(normal_numbers_have_mean_0_and_deviation_1),
		cmocka_unit_test(matmul_is_right_for_every_shape),
		cmocka_unit_test(tensors_make_up_the_parameters),
		cmocka_unit_test(gradient_of_every_tensor_is_its_finite_difference),
		cmocka_unit_test(loss_does_not_depend_on_bytes_to_come),
		cmocka_unit_test(optimizer_result_does_not_depend_on_the_cut_into_shards),
		cmocka_unit_test(sum_does_not_depend_on_the_number_of_ranks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
