/* SPDX-License-Identifier: BSD-3-Clause */
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"
#include "rng.h"

#define INIT_STREAM 1u /* of the random numbers */

enum part { /* the tensors of a layer, in order */
	LN1_GAIN, LN1_BIAS, QKV, QKV_BIAS, PROJ, PROJ_BIAS,
	LN2_GAIN, LN2_BIAS, UP, UP_BIAS, DOWN, DOWN_BIAS, PARTS
};

enum edge { EMBED, POSITION, FINAL_GAIN, FINAL_BIAS, HEAD, EDGES };

/* What the backward pass needs of a layer. */
struct layer_state {
	real *input;              /* [t][c] the residual stream */
	real *ln1, *ln1_saved;    /* [t][c], [t][2] */
	real *qkv;                /* [t][3c] */
	real *probs;              /* [heads][t][t] */
	real *mixed;              /* [t][c] */
	real *middle;             /* [t][c] the residual stream */
	real *ln2, *ln2_saved;    /* [t][c], [t][2] */
	real *up, *tanh, *gelu;   /* [t][4c] */
};

struct model {
	struct model_config config;
	struct model_tensor *tensor; /* edges, then the parts of each layer */
	uint32_t tensors;
	size_t parameters;
	real *memory;                /* of all that follows */
	struct layer_state *layer;
	real *output;                /* [t][c] the residual stream */
	real *normed, *normed_saved; /* [t][c], [t][2] */
	real *logits;                /* [t][vocab] */
	real *flow, *dnarrow;        /* [t][c] gradients */
	real *dwide, *dqkv;          /* [t][4c], [t][3c] */
	real *scratch;
};

static void tensor_add(struct model *m, const char *name, int layer, size_t rows,
                       size_t columns, double init, double spread)
{
	struct model_tensor *t = &m->tensor[m->tensors++];

	if (layer < 0)
		snprintf(t->name, sizeof(t->name), "%s", name);
	else
		snprintf(t->name, sizeof(t->name), "%d.%s", layer, name);
	t->rows = rows;
	t->columns = columns;
	t->offset = m->parameters;
	t->count = rows * columns;
	t->init = init;
	t->spread = spread;
	t->decays = spread > 0;
	m->parameters += t->count;
}

static int tensors_new(struct model *m)
{
	const struct model_config *g = &m->config;
	size_t c = g->dim;
	double spread = 0.02, deep = spread / sqrt(2.0 * g->layers);

	m->tensor = calloc(EDGES + (size_t)g->layers * PARTS, sizeof(*m->tensor));
	if (!m->tensor)
		return -1;
	tensor_add(m, "embed", -1, MODEL_VOCAB, c, 0, spread);
	tensor_add(m, "position", -1, g->context, c, 0, spread);
	tensor_add(m, "final.gain", -1, c, 1, 1, 0);
	tensor_add(m, "final.bias", -1, c, 1, 0, 0);
	tensor_add(m, "head", -1, c, MODEL_VOCAB, 0, spread);
	for (int l = 0; l < (int)g->layers; l++) {
		tensor_add(m, "ln1.gain", l, c, 1, 1, 0);
		tensor_add(m, "ln1.bias", l, c, 1, 0, 0);
		tensor_add(m, "qkv", l, c, 3 * c, 0, spread);
		tensor_add(m, "qkv.bias", l, 3 * c, 1, 0, 0);
		tensor_add(m, "proj", l, c, c, 0, deep);
		tensor_add(m, "proj.bias", l, c, 1, 0, 0);
		tensor_add(m, "ln2.gain", l, c, 1, 1, 0);
		tensor_add(m, "ln2.bias", l, c, 1, 0, 0);
		tensor_add(m, "up", l, c, 4 * c, 0, spread);
		tensor_add(m, "up.bias", l, 4 * c, 1, 0, 0);
		tensor_add(m, "down", l, 4 * c, c, 0, deep);
		tensor_add(m, "down.bias", l, c, 1, 0, 0);
	}
	return 0;
}

static real *take(const struct model *m, size_t *used, size_t count)
{
	size_t at = *used;

	*used += count;
	return m->memory ? m->memory + at : NULL;
}

/* Lays the activations out in the memory, once there is some; the numbers needed. */
static size_t activations_place(struct model *m)
{
	size_t used = 0;
	size_t t = m->config.context, c = m->config.dim;
	size_t square = t * t + t * c;     /* attention_back() */
	size_t weight = 4 * c * c;         /* linear_back() of the largest */
	size_t head = c * MODEL_VOCAB;
	size_t scratch = square > weight ? square : weight;

	for (uint32_t l = 0; l < m->config.layers; l++) {
		struct layer_state *s = &m->layer[l];

		s->input = take(m, &used, t * c);
		s->ln1 = take(m, &used, t * c);
		s->ln1_saved = take(m, &used, t * 2);
		s->qkv = take(m, &used, t * 3 * c);
		s->probs = take(m, &used, m->config.heads * t * t);
		s->mixed = take(m, &used, t * c);
		s->middle = take(m, &used, t * c);
		s->ln2 = take(m, &used, t * c);
		s->ln2_saved = take(m, &used, t * 2);
		s->up = take(m, &used, t * 4 * c);
		s->tanh = take(m, &used, t * 4 * c);
		s->gelu = take(m, &used, t * 4 * c);
	}
	m->output = take(m, &used, t * c);
	m->normed = take(m, &used, t * c);
	m->normed_saved = take(m, &used, t * 2);
	m->logits = take(m, &used, t * MODEL_VOCAB);
	m->flow = take(m, &used, t * c);
	m->dnarrow = take(m, &used, t * c);
	m->dwide = take(m, &used, t * 4 * c);
	m->dqkv = take(m, &used, t * 3 * c);
	m->scratch = take(m, &used, scratch > head ? scratch : head);
	return used;
}

int model_new(const struct model_config *config, struct model **out)
{
	struct model *m = calloc(1, sizeof(*m));

	if (!m)
		return -1;
	m->config = *config;
	m->layer = calloc(config->layers, sizeof(*m->layer));
	if (!m->layer || tensors_new(m))
		goto fail;
	m->memory = calloc(activations_place(m), sizeof(real));
	if (!m->memory)
		goto fail;
	activations_place(m);
	*out = m;
	return 0;
fail:
	model_free(m);
	return -1;
}

void model_free(struct model *m)
{
	if (!m)
		return;
	free(m->memory);
	free(m->layer);
	free(m->tensor);
	free(m);
}

size_t model_parameters(const struct model *m)
{
	return m->parameters;
}

const struct model_tensor *model_tensors(const struct model *m, uint32_t *count)
{
	*count = m->tensors;
	return m->tensor;
}

void model_init(const struct model *m, uint64_t seed, real *params)
{
	for (uint32_t i = 0; i < m->tensors; i++) {
		const struct model_tensor *t = &m->tensor[i];

		for (size_t j = 0; j < t->count; j++) {
			double normal[2] = {0, 0};

			if (t->spread > 0)
				rng_normal(seed, INIT_STREAM, t->offset + j, normal);
			params[t->offset + j] = (real)(t->init + t->spread * normal[0]);
		}
	}
}

static size_t edge_at(const struct model *m, enum edge which)
{
	return m->tensor[which].offset;
}

static size_t part_at(const struct model *m, uint32_t layer, enum part which)
{
	return m->tensor[EDGES + layer * PARTS + which].offset;
}

static void add(real *to, const real *a, const real *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = a[i] + b[i];
}

static struct head head_of(const struct model *m)
{
	size_t c = m->config.dim;

	return (struct head){m->config.context, c / m->config.heads, 3 * c, c};
}

static void layer_forward(struct model *m, const real *params, uint32_t l, real *out)
{
	const real *p[PARTS];
	struct layer_state *s = &m->layer[l];
	struct head h = head_of(m);
	size_t t = m->config.context, c = m->config.dim;

	for (int i = 0; i < PARTS; i++)
		p[i] = params + part_at(m, l, (enum part)i);
	layernorm(s->ln1, s->ln1_saved, s->input, p[LN1_GAIN], p[LN1_BIAS], t, c);
	linear(s->qkv, s->ln1, p[QKV], p[QKV_BIAS], t, c, 3 * c);
	for (uint32_t i = 0; i < m->config.heads; i++) {
		const real *q = s->qkv + i * h.size;

		attention(s->mixed + i * h.size, s->probs + i * t * t, q, q + c, q + 2 * c,
		          m->scratch, &h);
	}
	linear(s->middle, s->mixed, p[PROJ], p[PROJ_BIAS], t, c, c);
	add(s->middle, s->middle, s->input, t * c);
	layernorm(s->ln2, s->ln2_saved, s->middle, p[LN2_GAIN], p[LN2_BIAS], t, c);
	linear(s->up, s->ln2, p[UP], p[UP_BIAS], t, c, 4 * c);
	gelu(s->gelu, s->tanh, s->up, t * 4 * c);
	linear(out, s->gelu, p[DOWN], p[DOWN_BIAS], t, 4 * c, c);
	add(out, out, s->middle, t * c);
}

/* m->flow: the gradient of the layer's output, replaced by that of its input. */
static void layer_backward(struct model *m, const real *params, uint32_t l, real *grads)
{
	const real *p[PARTS];
	real *g[PARTS];
	struct layer_state *s = &m->layer[l];
	struct head h = head_of(m);
	size_t t = m->config.context, c = m->config.dim;

	for (int i = 0; i < PARTS; i++) {
		p[i] = params + part_at(m, l, (enum part)i);
		g[i] = grads + part_at(m, l, (enum part)i);
	}
	linear_back(m->dwide, g[DOWN], g[DOWN_BIAS], m->flow, s->gelu, p[DOWN], m->scratch,
	            t, 4 * c, c);
	gelu_back(m->dwide, m->dwide, s->tanh, s->up, t * 4 * c);
	linear_back(m->dnarrow, g[UP], g[UP_BIAS], m->dwide, s->ln2, p[UP], m->scratch,
	            t, c, 4 * c);
	layernorm_back(m->flow, g[LN2_GAIN], g[LN2_BIAS], m->dnarrow, s->ln2_saved, s->middle,
	               p[LN2_GAIN], t, c);
	linear_back(m->dnarrow, g[PROJ], g[PROJ_BIAS], m->flow, s->mixed, p[PROJ], m->scratch,
	            t, c, c);
	for (uint32_t i = 0; i < m->config.heads; i++) {
		const real *q = s->qkv + i * h.size;
		real *dq = m->dqkv + i * h.size;

		attention_back(dq, dq + c, dq + 2 * c, m->dnarrow + i * h.size,
		               s->probs + i * t * t, q, q + c, q + 2 * c, m->scratch, &h);
	}
	linear_back(m->dnarrow, g[QKV], g[QKV_BIAS], m->dqkv, s->ln1, p[QKV], m->scratch,
	            t, c, 3 * c);
	layernorm_back(m->flow, g[LN1_GAIN], g[LN1_BIAS], m->dnarrow, s->ln1_saved, s->input,
	               p[LN1_GAIN], t, c);
}

static void forward(struct model *m, const real *params, const unsigned char *text)
{
	const real *embed = params + edge_at(m, EMBED), *position = params + edge_at(m, POSITION);
	size_t t = m->config.context, c = m->config.dim;

	for (size_t i = 0; i < t; i++)
		add(m->layer[0].input + i * c, embed + text[i] * c, position + i * c, c);
	for (uint32_t l = 0; l < m->config.layers; l++)
		layer_forward(m, params, l,
		              l + 1 < m->config.layers ? m->layer[l + 1].input : m->output);
	layernorm(m->normed, m->normed_saved, m->output, params + edge_at(m, FINAL_GAIN),
	          params + edge_at(m, FINAL_BIAS), t, c);
	linear(m->logits, m->normed, params + edge_at(m, HEAD), NULL, t, c, MODEL_VOCAB);
}

double model_loss(struct model *m, const real *params, const unsigned char *text)
{
	forward(m, params, text);
	return cross_entropy(m->logits, text + 1, 1, m->config.context, MODEL_VOCAB);
}

double model_gradient(struct model *m, const real *params, const unsigned char *text,
                      real scale, real *grads)
{
	size_t t = m->config.context, c = m->config.dim;
	real *dembed = grads + edge_at(m, EMBED), *dposition = grads + edge_at(m, POSITION);
	double loss;

	forward(m, params, text);
	loss = cross_entropy(m->logits, text + 1, scale, t, MODEL_VOCAB);
	memset(grads, 0, m->parameters * sizeof(real));
	memset(m->flow, 0, t * c * sizeof(real));
	linear_back(m->dnarrow, grads + edge_at(m, HEAD), NULL, m->logits, m->normed,
	            params + edge_at(m, HEAD), m->scratch, t, c, MODEL_VOCAB);
	layernorm_back(m->flow, grads + edge_at(m, FINAL_GAIN), grads + edge_at(m, FINAL_BIAS),
	               m->dnarrow, m->normed_saved, m->output, params + edge_at(m, FINAL_GAIN),
	               t, c);
	for (uint32_t l = m->config.layers; l-- > 0;)
		layer_backward(m, params, l, grads);
	for (size_t i = 0; i < t; i++) {
		add(dembed + text[i] * c, dembed + text[i] * c, m->flow + i * c, c);
		add(dposition + i * c, dposition + i * c, m->flow + i * c, c);
	}
	return loss;
}
