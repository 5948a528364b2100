/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Checksums of what lies in device memory are taken by the driver thread, through a small
 * buffer in host memory: one half is read while the other is summed up. Replicas are compared
 * at one version of many.
 */
#include "checksum.h"
#include "copy_device_impl.h"

/* A check, as far as it was queued. */
struct reading {
	const struct copy_check *check;
	struct copy_gpu *gpu;
	uint64_t queued;
	uint32_t bytes[2]; /* in each half; 0: nothing */
};

/* Queues the next bytes of the check into a half, and the half's event. */
static int half_queue(struct copy *c, struct reading *r, unsigned half)
{
	const struct copy_check *k = r->check;
	uint8_t *to = c->bounce + half * BOUNCE_BYTES;
	uint64_t bytes = 0, left, at, follow;
	uint32_t runs = 0;
	int rc;

	while (runs < RUNS_AT_ONCE && bytes < BOUNCE_BYTES && r->queued + bytes < k->bytes) {
		at = box_view_at(&k->view, k->from + r->queued + bytes, &follow);
		left = k->bytes - r->queued - bytes;
		if (left > BOUNCE_BYTES - bytes)
			left = BOUNCE_BYTES - bytes;
		if (follow > left)
			follow = left;
		r->gpu->run[runs++] = (struct device_run){to + bytes, k->addr + at, follow};
		bytes += follow;
	}
	r->bytes[half] = (uint32_t)bytes;
	if (bytes == 0)
		return 0;
	r->queued += bytes;
	rc = c->ops->copy(r->gpu->d, DEVICE_STAGE, r->gpu->run, runs);
	return rc < 0 ? rc : c->ops->record(r->gpu->half[half], DEVICE_STAGE);
}

/* Until the half was read: 1; 0: the job stops. */
static int half_await(struct copy *c, const struct reading *r, unsigned half)
{
	uint64_t pause = PAUSE_MIN_NS;
	int rc;

	while ((rc = c->ops->query(r->gpu->half[half])) == 0 && !job_stops(c)) {
		if (job_advance(c))
			pause = PAUSE_MIN_NS;
		pause_grow(&pause, PAUSE_MAX_NS);
	}
	return rc;
}

/* 1: taken; 0: the job stops. */
static int check_take(struct copy *c, uint32_t index)
{
	const struct copy_check *k = &c->job.check[index];
	struct reading r = {.check = k, .gpu = c->gpu[k->device]};
	uint32_t sum = 0;
	int rc = half_queue(c, &r, 0);

	if (rc < 0)
		return rc;
	for (unsigned half = 0; r.bytes[half] > 0; half = !half) {
		rc = half_queue(c, &r, !half);
		if (rc == 0)
			rc = half_await(c, &r, half);
		if (rc <= 0)
			return rc;
		sum = checksum_more(sum, c->bounce + half * BOUNCE_BYTES, r.bytes[half]);
	}
	c->job.check_sum[index] = sum;
	return 1;
}

int checks_take(struct copy *c)
{
	int rc = 1;

	for (uint32_t i = 0; i < c->job.checks; i++) {
		if (c->job.check[i].device == DEVICE_HOST)
			continue;
		rc = job_stops(c) ? 0 : check_take(c, i);
		if (rc <= 0)
			return rc;
	}
	if (job_stops(c))
		return 0;
	c->checked = true;
	return 0;
}
