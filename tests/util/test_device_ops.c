/* SPDX-License-Identifier: BSD-3-Clause */
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "error.h"
#include "test_device_impl.h"

static bool countdown(unsigned *n)
{
	return *n > 0 && --*n == 0;
}

/* From the n-th on. */
static bool countdown_stays(unsigned *n)
{
	if (*n > 1)
		--*n;
	else if (*n == 1)
		return true;
	return false;
}

static int lost_error(int device)
{
	return error_set(FTMEM_EDEVICE, "test device %d is lost: start the job again", device);
}

/* --- with the lock held --- */

static int check_device(int device)
{
	return sim.lost[device] ? lost_error(device) : 0;
}

/* Whether the lanes that work still have to use these bytes. */
static bool in_use(const void *at, uint64_t bytes)
{
	for (const struct test_stream *s = sim.streams; s; s = s->next) {
		if (s->lane == SIM_USERS || sim.lost[s->device])
			continue;
		for (const struct sim_op *op = s->in_hand ? s->in_hand : s->first; op;
		     op = op == s->in_hand ? s->first : op->next)
			for (uint32_t i = 0; !op->given_up && i < op->count; i++)
				if (sim_overlaps(op->run[i].to, op->run[i].bytes, at, bytes)
				    || sim_overlaps(op->run[i].from, op->run[i].bytes, at, bytes))
					return true;
	}
	return false;
}

/* How many of the bytes, if they are of the host, are pinned; *pieces: by how many calls. */
static uint64_t pinned_bytes(const void *at, uint64_t bytes, uint32_t *pieces)
{
	uint64_t known = 0;

	*pieces = 0;
	for (const struct sim_pinned *p = sim.pinned; p; p = p->next) {
		uintptr_t from = (uintptr_t)p->at, to = from + p->bytes;
		uintptr_t begin = (uintptr_t)at, end = begin + bytes;

		if (from >= end || begin >= to)
			continue;
		known += (to < end ? to : end) - (from > begin ? from : begin);
		++*pieces;
	}
	return known;
}

/* *pinned falls if they are of the host and not all pinned. A driver knows of no neighbours:
 * EDEVICE if they lie in several pieces. */
static int check_pinned(const void *at, uint64_t bytes, bool *pinned)
{
	const struct sim_memory *m = sim_memory_of(at, bytes);
	uint32_t pieces;

	if (m) {
		*pinned = *pinned && !m->managed;
		return 0;
	}
	if (pinned_bytes(at, bytes, &pieces) < bytes)
		*pinned = false;
	return pieces <= 1 ? 0 : error_set(FTMEM_EDEVICE,
	                                   "a run goes across the border of two pieces of pinned "
	                                   "memory");
}

/* --- the table --- */

static int ops_where(const void *addr, uint64_t bytes, int *device)
{
	const struct sim_memory *m;
	int rc = 0;

	sim_enter();
	m = sim_memory_of(addr, bytes);
	if (!m || m->freed)
		*device = DEVICE_HOST;
	else if (sim.lost[m->device])
		rc = lost_error(m->device);
	else if (m->managed)
		rc = error_set(FTMEM_EINVAL, "managed memory: use memory of one device");
	else if (!sim_bytes_at(addr, bytes))
		rc = error_set(FTMEM_EINVAL, "not all bytes are of one allocation");
	else
		*device = m->device;
	sim_leave();
	return rc;
}

static void ops_close(struct device *d)
{
	if (!d)
		return;
	sim_enter();
	for (int i = 0; i < DEVICE_LANES; i++)
		sim_stream_end(d->lane[i]);
	sim.figures.devices--;
	sim_leave();
	free(d);
}

static void ops_drain(struct device *d)
{
	sim_enter();
	for (int i = 0; i < DEVICE_LANES; i++) {
		const struct test_stream *s = d->lane[i];
		uint64_t queued = s->queued;

		while (s->over < queued && !sim.lost[d->number])
			sim_await();
	}
	sim_leave();
}

static int ops_open(int number, struct device **out)
{
	struct device *d = NULL;
	int rc;

	if (number < 0 || number >= TEST_DEVICES)
		return error_set(FTMEM_EDEVICE, "there is no test device %d", number);
	sim_enter();
	rc = check_device(number);
	if (rc == 0) {
		d = sim_take(sizeof(*d));
		d->number = number;
		sim.figures.devices++;
		for (int i = 0; i < DEVICE_LANES; i++) {
			d->lane[i] = sim_stream_start(number, i);
			if (!d->lane[i])
				rc = error_set(FTMEM_ENOMEM, "no thread for a lane");
		}
	}
	sim_leave();
	if (rc)
		ops_close(d);
	else
		*out = d;
	return rc;
}

/* With the lock held. */
static int usable_stream(void *stream, struct test_stream **out)
{
	struct test_stream *s = sim_stream_of(stream);

	if (!s)
		return error_set(FTMEM_EINVAL, "there is no such stream");
	if (s->capturing)
		return error_set(FTMEM_EINVAL, "a capture is in progress on the stream: end it "
		                               "first");
	*out = s;
	return check_device(s->device);
}

static int ops_stream(void *stream, int *device)
{
	struct test_stream *s = NULL;
	int rc;

	sim_enter();
	rc = usable_stream(stream, &s);
	if (rc == 0)
		*device = s->device;
	sim_leave();
	return rc;
}

static int ops_event_new(struct device *d, bool timed, struct device_event **out)
{
	struct device_event *e;
	int rc;

	sim_enter();
	rc = check_device(d->number);
	if (rc == 0) {
		e = sim_take(sizeof(*e));
		e->home = d;
		e->device = d->number;
		e->timed = timed;
		e->users = 1;
		sim.figures.events++;
		sim.figures.events_made++;
		*out = e;
	}
	sim_leave();
	return rc;
}

static void ops_event_free(struct device_event *e)
{
	if (!e)
		return;
	sim_enter();
	sim.figures.events--;
	sim_event_unuse(e);
	sim_leave();
}

/* With the lock held. */
static int record_in(struct device_event *e, struct test_stream *s)
{
	struct sim_op *op;
	int rc = check_device(s->device);

	if (rc)
		return rc;
	if (e->device != s->device)
		return error_set(FTMEM_EINVAL, "the stream is on device %d, the event on %d",
		                 s->device, e->device);
	op = sim_op_new(SIM_RECORD, 0);
	op->event = e;
	op->turn = ++e->recorded;
	sim_op_queue(s, op);
	return 0;
}

static int ops_record(struct device_event *e, enum device_lane lane)
{
	int rc;

	sim_enter();
	if (countdown(&sim.fail_record))
		rc = error_set(FTMEM_EDEVICE, "an event was made not to be recorded");
	else
		rc = record_in(e, e->home->lane[lane]);
	sim_leave();
	return rc;
}

static int ops_record_on(struct device_event *e, void *stream)
{
	struct test_stream *s = NULL;
	int rc;

	sim_enter();
	rc = usable_stream(stream, &s);
	if (rc == 0)
		rc = record_in(e, s);
	sim_leave();
	return rc;
}

/* With the lock held. */
static int wait_in(struct test_stream *s, const struct device_event *e)
{
	struct sim_op *op;
	int rc = check_device(s->device);

	if (rc == 0)
		rc = check_device(e->device);
	if (rc || e->recorded == 0)
		return rc;
	op = sim_op_new(SIM_WAIT, 0);
	op->event = (struct device_event *)(uintptr_t)e;
	op->turn = e->recorded;
	sim_op_queue(s, op);
	return 0;
}

static int ops_lane_wait(struct device *d, enum device_lane lane, const struct device_event *e)
{
	int rc;

	sim_enter();
	rc = wait_in(d->lane[lane], e);
	sim_leave();
	return rc;
}

static int ops_stream_wait(void *stream, const struct device_event *e)
{
	struct test_stream *s = NULL;
	int rc;

	sim_enter();
	rc = usable_stream(stream, &s);
	if (rc == 0)
		rc = wait_in(s, e);
	sim_leave();
	return rc;
}

static int ops_query(const struct device_event *e)
{
	int rc;

	sim_enter();
	rc = check_device(e->device);
	if (rc == 0)
		rc = e->reached >= e->recorded;
	sim_leave();
	return rc;
}

static int ops_elapsed(const struct device_event *from, const struct device_event *to,
                       double *seconds)
{
	int rc;

	sim_enter();
	rc = check_device(from->device);
	if (rc == 0 && !(from->timed && to->timed))
		rc = error_set(FTMEM_EDEVICE, "these events have no time");
	if (rc == 0 && (from->device != to->device || from->recorded == 0 || to->recorded == 0
	                || from->reached < from->recorded || to->reached < to->recorded))
		rc = error_set(FTMEM_EDEVICE, "these events have not both been reached");
	if (rc == 0)
		*seconds = ((double)to->ns - (double)from->ns) * 1e-9;
	sim_leave();
	return rc;
}

/* With the lock held: whether not all bytes are of one allocation. */
static bool crosses(const void *at, uint64_t bytes)
{
	const struct sim_memory *m = sim_memory_of(at, bytes);

	return m && ((uintptr_t)at < (uintptr_t)m->at
	             || (uintptr_t)at + bytes > (uintptr_t)m->at + m->bytes);
}

/* With the lock held. */
static int check_runs(const struct device_run *run, uint32_t count, bool *pinned)
{
	int rc = 0;

	*pinned = true;
	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		if (crosses(run[i].to, run[i].bytes) || crosses(run[i].from, run[i].bytes))
			return error_set(FTMEM_EDEVICE, "a run goes across the border of an "
			                                "allocation");
		if (run[i].bytes == 0 || !sim_bytes_at(run[i].to, run[i].bytes)
		    || !sim_bytes_at(run[i].from, run[i].bytes))
			return error_set(FTMEM_EDEVICE,
			                 "run %" PRIu32 " of a copy is of memory that is not "
			                 "there: was it freed?", i);
		rc = check_pinned(run[i].to, run[i].bytes, pinned);
		if (rc == 0)
			rc = check_pinned(run[i].from, run[i].bytes, pinned);
	}
	return rc;
}

/* With the lock held. */
static void copy_queue(struct test_stream *s, const struct device_run *run, uint32_t count)
{
	struct sim_op *op = sim_op_new(SIM_COPY, count);

	for (uint32_t i = 0; i < count; i++)
		op->run[i] = run[i];
	op->fails = countdown(&sim.fail_copy);
	sim.figures.copies++;
	sim.figures.runs += count;
	sim_op_queue(s, op);
}

static int ops_copy(struct device *d, enum device_lane lane, const struct device_run *run,
                    uint32_t count)
{
	struct test_stream *s = d->lane[lane];
	bool refused, pinned = true;
	uint64_t turn;
	int rc;

	sim_enter();
	rc = check_device(d->number);
	if (rc == 0)
		rc = check_runs(run, count, &pinned);
	refused = rc == 0 && countdown(&sim.fail_issue);
	if (rc == 0 && count > 0)
		copy_queue(s, run, refused ? count / 2 : count);
	turn = s->queued;
	while (rc == 0 && !pinned && s->over < turn)
		sim_await();
	if (refused)
		rc = error_set(FTMEM_EDEVICE, "a copy was made to be refused");
	if (rc == 0)
		rc = check_device(d->number);
	sim_leave();
	return rc;
}

static int ops_alloc(struct device *d, uint64_t bytes, void **out)
{
	int rc;

	sim_enter();
	rc = check_device(d->number);
	if (rc == 0 && (bytes == 0 || (sim.largest > 0 && bytes > sim.largest)
	                || countdown_stays(&sim.fail_alloc)))
		rc = error_set(FTMEM_ENOMEM, "test device %d has no %" PRIu64 " bytes left",
		               d->number, bytes);
	if (rc == 0) {
		*out = sim_memory_new(d->number, bytes, true);
		sim.figures.allocs++;
		sim.figures.allocated += bytes;
	}
	sim_leave();
	return rc;
}

static void ops_free(struct device *d, void *at)
{
	struct sim_memory *m;

	if (!at)
		return;
	sim_enter();
	m = sim_memory_of(at, 1);
	if (!m || m->at != at || m->freed || !m->library || m->device != d->number)
		sim_misuse("the library frees what it does not have");
	if (in_use(m->at, m->bytes))
		sim_misuse("the library frees device memory that its copies use");
	m->freed = true;
	sim.figures.allocated -= m->bytes;
	sim_leave();
}

static int ops_pin(struct device *d, void *addr, size_t bytes)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct sim_pinned *p;
	int rc = 0;

	if (bytes == 0 || (uintptr_t)addr % page || bytes % page)
		return error_set(FTMEM_EINVAL, "whole pages are pinned");
	sim_enter();
	if (!d || sim.figures.devices == 0)
		sim_misuse("the library pins memory for a device that is not open");
	for (p = sim.pinned; p && rc == 0; p = p->next)
		if (sim_overlaps(p->at, p->bytes, addr, bytes))
			rc = error_set(FTMEM_EDEVICE, "this memory is already pinned");
	if (rc == 0 && countdown_stays(&sim.fail_pin))
		rc = error_set(FTMEM_ENOMEM, "no more memory can be pinned");
	if (rc == 0) {
		p = sim_take(sizeof(*p));
		*p = (struct sim_pinned){sim.pinned, addr, bytes};
		sim.pinned = p;
		sim.figures.pins++;
		sim.figures.pinned += bytes;
	}
	sim_leave();
	return rc;
}

static void ops_unpin(struct device *d, void *addr)
{
	struct sim_pinned **at = &sim.pinned, *p;

	sim_enter();
	if (!d || sim.figures.devices == 0)
		sim_misuse("the library unpins memory for a device that is not open");
	while (*at && (*at)->at != addr)
		at = &(*at)->next;
	p = *at;
	if (!p)
		sim_misuse("the library unpins what is not pinned");
	if (in_use(p->at, p->bytes))
		sim_misuse("the library unpins memory that its copies use");
	*at = p->next;
	sim.figures.pins--;
	sim.figures.pinned -= p->bytes;
	sim_leave();
	free(p);
}

const struct device_ops *device_ops(void)
{
	static const struct device_ops ops = {
		.name = "test",
		.where = ops_where,
		.open = ops_open,
		.close = ops_close,
		.drain = ops_drain,
		.stream = ops_stream,
		.event_new = ops_event_new,
		.event_free = ops_event_free,
		.record = ops_record,
		.record_on = ops_record_on,
		.lane_wait = ops_lane_wait,
		.stream_wait = ops_stream_wait,
		.query = ops_query,
		.elapsed = ops_elapsed,
		.copy = ops_copy,
		.alloc = ops_alloc,
		.free = ops_free,
		.pin = ops_pin,
		.unpin = ops_unpin,
	};

	return &ops;
}
