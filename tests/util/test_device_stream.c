/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "test_device_impl.h"

/* Shorter delays are saved up. */
#define NAP_NS UINT64_C(100000)

/* --- what streams carry out; with the lock held --- */

void sim_event_unuse(struct device_event *e)
{
	if (--e->users == 0)
		free(e);
}

static bool stopped(const struct test_stream *s)
{
	return sim.lost[s->device] || s->in_hand->given_up;
}

/* Until the lane may copy a piece, or begin a copy. */
static void hold_pass(struct test_stream *s, bool whole)
{
	struct sim_hold *h;

	if (s->lane == SIM_USERS)
		return;
	h = &sim.hold[s->device][s->lane];
	h->standing++;
	while (h->on && h->whole == whole && h->left == 0 && !stopped(s)) {
		sim_tell();
		sim_await();
	}
	h->standing--;
	if (h->on && h->whole == whole && h->left > 0)
		h->left--;
}

/* A piece has been copied; other streams go on meanwhile. */
static void piece_pause(struct test_stream *s, uint64_t bytes)
{
	uint64_t nap_ns = 0;

	s->nap_ns += bytes * sim.ns_per_mib >> 20;
	if (s->nap_ns >= NAP_NS) {
		nap_ns = s->nap_ns;
		s->nap_ns = 0;
	}
	sim_leave();
	if (nap_ns > 0)
		clock_sleep(nap_ns);
	sim_enter();
}

/* False: nothing more is copied. */
static bool piece_copy(struct test_stream *s, uint8_t *to, const uint8_t *from, uint64_t bytes)
{
	uint8_t *to_at, *from_at;

	hold_pass(s, false);
	if (stopped(s))
		return false;
	to_at = sim_bytes_at(to, bytes);
	from_at = sim_bytes_at(from, bytes);
	if (!to_at || !from_at) {
		sim.lost[s->device] = true;
		sim_tell();
		return false;
	}
	memcpy(to_at, from_at, bytes);
	if (s->lane != SIM_USERS)
		sim.figures.bytes[s->lane] += bytes;
	piece_pause(s, bytes);
	return true;
}

static bool run_copy(struct test_stream *s, const struct device_run *run)
{
	uint64_t n;

	for (uint64_t done = 0; done < run->bytes; done += n) {
		n = run->bytes - done < TEST_DEVICE_PIECE ? run->bytes - done : TEST_DEVICE_PIECE;
		if (!piece_copy(s, (uint8_t *)run->to + done, (const uint8_t *)run->from + done,
		                n))
			return false;
	}
	return true;
}

static void op_copy(struct test_stream *s, const struct sim_op *op)
{
	uint32_t half = op->count / 2;

	hold_pass(s, true);
	for (uint32_t i = op->count; i-- > 0;) {
		struct device_run run = op->run[i];

		if (op->fails && i == half)
			run.bytes /= 2;
		if (!run_copy(s, &run))
			return;
		if (op->fails && i == half) {
			sim.lost[s->device] = true;
			sim_tell();
			return;
		}
	}
}

static void event_await(struct test_stream *s, const struct sim_op *op)
{
	s->waiting = 1;
	sim_tell();
	while (op->event->reached < op->turn && !sim.lost[op->event->device] && !op->given_up)
		sim_await();
	s->waiting = 0;
}

static void op_run(struct test_stream *s, struct sim_op *op)
{
	switch (op->kind) {
	case SIM_COPY: op_copy(s, op); break;
	case SIM_RECORD:
		if (op->turn > op->event->reached) {
			op->event->reached = op->turn;
			op->event->ns = clock_ns();
		}
		break;
	case SIM_WAIT: event_await(s, op); break;
	case SIM_CALL:
		sim_leave();
		op->fn(op->arg);
		sim_enter();
		break;
	case SIM_GATE:
		op->gate->standing++;
		sim_tell();
		while (!op->gate->open)
			sim_await();
		op->gate->standing--;
		break;
	}
}

static void *stream_thread(void *arg)
{
	struct test_stream *s = arg;

	sim_enter();
	for (;;) {
		while (!s->first && !s->quit)
			sim_await();
		if (!s->first)
			break;
		s->in_hand = s->first;
		s->first = s->in_hand->next;
		if (!s->first)
			s->last = &s->first;
		op_run(s, s->in_hand);
		if (s->in_hand->event)
			sim_event_unuse(s->in_hand->event);
		free(s->in_hand);
		s->in_hand = NULL;
		s->over++;
		sim_tell();
	}
	sim_leave();
	return NULL;
}

/* --- streams; with the lock held --- */

struct test_stream *sim_stream_start(int device, int lane)
{
	struct test_stream *s = sim_take(sizeof(*s));

	s->device = device;
	s->lane = lane;
	s->last = &s->first;
	if (pthread_create(&s->thread, NULL, stream_thread, s) != 0) {
		free(s);
		return NULL;
	}
	s->next = sim.streams;
	sim.streams = s;
	return s;
}

void sim_stream_end(struct test_stream *s)
{
	struct test_stream **at = &sim.streams;

	if (!s)
		return;
	s->quit = true;
	sim_tell();
	sim_leave();
	pthread_join(s->thread, NULL);
	sim_enter();
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	free(s);
}

struct test_stream *sim_stream_of(void *stream)
{
	struct test_stream *s = sim.streams;

	if (!stream) {
		if (!sim.standard)
			sim.standard = sim_stream_start(0, SIM_USERS);
		return sim.standard;
	}
	while (s && (s != stream || s->lane != SIM_USERS))
		s = s->next;
	return s;
}

static struct test_stream *known_stream(struct test_stream *stream)
{
	struct test_stream *s = sim_stream_of(stream);

	if (!s)
		sim_misuse("a test uses a stream that it does not have");
	return s;
}

struct sim_op *sim_op_new(enum sim_kind kind, uint32_t runs)
{
	struct sim_op *op = sim_take(sizeof(*op) + runs * sizeof(op->run[0]));

	op->kind = kind;
	op->count = runs;
	return op;
}

void sim_op_queue(struct test_stream *s, struct sim_op *op)
{
	if (op->event)
		op->event->users++;
	*s->last = op;
	s->last = &op->next;
	s->queued++;
	sim_tell();
}

static void queue(struct test_stream *s, struct sim_op *op)
{
	sim_enter();
	sim_op_queue(known_stream(s), op);
	sim_leave();
}

/* --- for tests --- */

struct test_stream *test_stream_new(int device)
{
	struct test_stream *s;

	sim_enter();
	s = sim_stream_start(device, SIM_USERS);
	sim_leave();
	if (!s)
		sim_misuse("no thread for a stream");
	return s;
}

void test_stream_free(struct test_stream *s)
{
	sim_enter();
	sim_stream_end(s);
	sim_leave();
}

void test_stream_launch(struct test_stream *s, void (*fn)(void *arg), void *arg)
{
	struct sim_op *op = sim_op_new(SIM_CALL, 0);

	op->fn = fn;
	op->arg = arg;
	queue(s, op);
}

void test_stream_copy(struct test_stream *s, void *to, const void *from, uint64_t bytes)
{
	struct sim_op *op = sim_op_new(SIM_COPY, 1);

	op->run[0] = (struct device_run){to, from, bytes};
	queue(s, op);
}

void test_stream_gate(struct test_stream *s, struct test_gate *gate)
{
	struct sim_op *op = sim_op_new(SIM_GATE, 0);

	op->gate = gate;
	queue(s, op);
}

void test_gate_open(struct test_gate *gate)
{
	sim_enter();
	gate->open = true;
	sim_tell();
	sim_leave();
}

bool test_gate_await(struct test_gate *gate)
{
	bool came;

	sim_enter();
	came = sim_await_standing(&gate->standing);
	sim_leave();
	return came;
}

bool test_stream_sync(struct test_stream *s)
{
	struct timespec until = sim_patience();
	uint64_t queued;
	bool over;

	sim_enter();
	s = known_stream(s);
	queued = s->queued;
	while (s->over < queued && sim_await_until(&until))
		continue;
	over = s->over >= queued;
	sim_leave();
	return over;
}

bool test_stream_await_wait(struct test_stream *s)
{
	bool came;

	sim_enter();
	came = sim_await_standing(&known_stream(s)->waiting);
	sim_leave();
	return came;
}

bool test_stream_idle(struct test_stream *s)
{
	bool idle;

	sim_enter();
	s = known_stream(s);
	idle = s->over == s->queued;
	sim_leave();
	return idle;
}

void test_stream_capture(struct test_stream *s, bool capturing)
{
	sim_enter();
	known_stream(s)->capturing = capturing;
	sim_leave();
}
