/* SPDX-License-Identifier: BSD-3-Clause */
#include "usage.h"

#include <inttypes.h>
#include <stdio.h>

#include "clock.h"
#include "error.h"

static uint64_t anonymous_now(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	uint64_t kib = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %" SCNu64, &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib * 1024;
}

void usage_init(struct usage *u)
{
	*u = (struct usage){.before = anonymous_now()};
}

void usage_look(struct usage *u)
{
	uint64_t now = anonymous_now();

	if (now > atomic_load(&u->peak))
		atomic_store(&u->peak, now);
}

static void *watch(void *arg)
{
	struct usage *u = arg;

	while (!atomic_load(&u->stop)) {
		usage_look(u);
		clock_sleep(1000000);
	}
	return NULL;
}

int usage_watch(struct usage *u)
{
	int errnum;

	atomic_store(&u->stop, false);
	errnum = pthread_create(&u->thread, NULL, watch, u);
	if (errnum)
		return error_sys(FTMEM_ESYS, errnum, "no thread to watch memory with");
	u->running = true;
	return 0;
}

void usage_watch_end(struct usage *u)
{
	if (!u->running)
		return;
	atomic_store(&u->stop, true);
	pthread_join(u->thread, NULL);
	u->running = false;
}

uint64_t usage_extra(const struct usage *u)
{
	uint64_t peak = atomic_load(&u->peak);

	return peak > u->before ? peak - u->before : 0;
}
