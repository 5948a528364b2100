/* SPDX-License-Identifier: BSD-3-Clause */
/* Checked jumps only go up one stack. */
#undef _FORTIFY_SOURCE

/* Threads that take turns, locks and the clock: replaces pthread and time functions. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "sim.h"

#define FIBERS (SIM_RANKS * SIM_FIBERS)
#define STACK  ((size_t)256 << 10)

static struct sim_fiber fiber[FIBERS];
static _Alignas(4096) uint8_t stack[FIBERS][STACK];

/* What address sanitizers must be told of stacks; absent in other builds. */
__attribute__((weak)) void __sanitizer_start_switch_fiber(void **save, const void *bottom,
                                                          size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void *save, const void **bottom,
                                                           size_t *size);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void *addr, size_t size);
static const void *main_stack;
static size_t main_stack_bytes;

/* --- switching --- */

static struct sim_place scheduler;

/* A jump saves the system calls of swapcontext(), which only begins a stack; but sanitizers
 * know the latter alone. */
static void change(struct sim_place *from, struct sim_place *to)
{
	bool jumps = !__sanitizer_start_switch_fiber && to->begun;

	from->begun = true;
	if (jumps && _setjmp(from->jump) == 0)
		_longjmp(to->jump, 1);
	else if (!jumps && _setjmp(from->jump) == 0)
		swapcontext(&from->context, &to->context);
}

/* From the fiber to the scheduler, for good if it is over. */
static void leave(struct sim_fiber *f)
{
	int saved = errno;

	memcpy(f->error, error_msg(), strlen(error_msg()) + 1);
	if (__sanitizer_start_switch_fiber)
		__sanitizer_start_switch_fiber(f->state == FIBER_OVER ? NULL : &f->sanitizer,
		                               main_stack, main_stack_bytes);
	change(&f->place, &scheduler);
	if (__sanitizer_finish_switch_fiber)
		__sanitizer_finish_switch_fiber(f->sanitizer, &main_stack, &main_stack_bytes);
	/* Its process was killed meanwhile: only its stack is given back. */
	if (f->state == FIBER_OVER)
		leave(f);
	error_set(0, "%s", f->error);
	errno = saved;
}

static void enter(struct sim_fiber *f)
{
	sim.now = f;
	if (__sanitizer_start_switch_fiber)
		__sanitizer_start_switch_fiber(&sim.sanitizer, f->stack, STACK);
	change(&scheduler, &f->place);
	if (__sanitizer_finish_switch_fiber)
		__sanitizer_finish_switch_fiber(sim.sanitizer, NULL, NULL);
	sim.now = NULL;
}

static void begin(void)
{
	struct sim_fiber *f = sim.now;

	if (__sanitizer_finish_switch_fiber)
		__sanitizer_finish_switch_fiber(NULL, &main_stack, &main_stack_bytes);
	if (f->state != FIBER_OVER) {
		error_set(0, "%s", "");
		f->run(f->arg);
	}
	f->state = FIBER_OVER;
	for (uint32_t i = 0; i < FIBERS; i++)
		if (fiber[i].state == FIBER_ASLEEP && fiber[i].waits_for == f)
			fiber[i].state = FIBER_READY;
	leave(f);
}

struct sim_fiber *sim_fiber_new(struct sim_process *p, void *(*run)(void *arg), void *arg)
{
	struct sim_fiber *f = NULL;
	uint32_t at = 0;

	for (uint32_t i = 0; !f && i < FIBERS; i++)
		if (fiber[i].state == FIBER_FREE)
			f = &fiber[i];
	while (at < SIM_FIBERS && p->fiber[at])
		at++;
	sim_require(f && at < SIM_FIBERS, "enough fibers");
	f->stack = stack[f - fiber];
	if (__asan_unpoison_memory_region)
		__asan_unpoison_memory_region(f->stack, STACK);
	f->state = FIBER_READY;
	f->process = p;
	f->run = run;
	f->arg = arg;
	f->waits_for = NULL;
	f->error[0] = '\0';
	f->place.begun = false;
	getcontext(&f->place.context);
	f->place.context.uc_stack.ss_sp = f->stack;
	f->place.context.uc_stack.ss_size = STACK;
	f->place.context.uc_link = NULL;
	makecontext(&f->place.context, begin, 0);
	p->fiber[at] = f;
	return f;
}

void sim_fiber_free(struct sim_fiber *f)
{
	if (f->state != FIBER_OVER) {
		f->state = FIBER_OVER;
		enter(f);
	}
	f->state = FIBER_FREE;
	for (uint32_t i = 0; i < SIM_FIBERS; i++)
		if (f->process->fiber[i] == f)
			f->process->fiber[i] = NULL;
}

/* --- turns --- */

void sim_yield(void)
{
	if (!sim.now || sim.outside > 0)
		return;
	sim.now->state = FIBER_READY;
	leave(sim.now);
}

static void sleep_until(uint64_t wake_ns, const void *waits_for)
{
	struct sim_fiber *f = sim.now;

	f->state = FIBER_ASLEEP;
	f->wake_ns = wake_ns;
	f->waits_for = waits_for;
	leave(f);
}

static bool is_ready(const struct sim_fiber *f)
{
	return f->state == FIBER_READY || (f->state == FIBER_ASLEEP && f->wake_ns <= sim.clock_ns);
}

/* One that can go on, or NULL. */
static struct sim_fiber *pick(void)
{
	struct sim_fiber *ready[FIBERS];
	uint32_t count = 0;

	for (uint32_t i = 0; i < FIBERS; i++)
		if (is_ready(&fiber[i]))
			ready[count++] = &fiber[i];
	return count ? ready[sim_random(count)] : NULL;
}

/* Time passes until somebody wakes. */
static bool pass_time(void)
{
	uint64_t next = SIM_EVER;

	for (uint32_t i = 0; i < FIBERS; i++)
		if (fiber[i].state == FIBER_ASLEEP && fiber[i].wake_ns < next)
			next = fiber[i].wake_ns;
	if (next == SIM_EVER)
		return false;
	sim.clock_ns = next;
	return true;
}

bool sim_turns(uint64_t turns)
{
	while (turns-- > 0 && !sim.broken[0] && !sim.struck) {
		struct sim_fiber *f = pick();

		if (!f && !pass_time())
			return false;
		if (!f)
			continue;
		sim.turn++;
		sim.tally->switches++;
		f->state = FIBER_READY;
		enter(f);
		if (f->state == FIBER_OVER)
			sim_fiber_free(f);
	}
	return true;
}

void sim_fibers_end(void)
{
	for (uint32_t i = 0; i < FIBERS; i++)
		if (fiber[i].state != FIBER_FREE)
			sim_fiber_free(&fiber[i]);
}

/* --- locks --- */

int __real_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
	if (!sim.now || sim.outside > 0)
		return __real_pthread_mutex_lock(m);
	if (sim_chance(5))
		sim_yield();
	while (pthread_mutex_trylock(m) != 0)
		sim_yield();
	return 0;
}

static uint64_t ns_of(const struct timespec *t)
{
	return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec;
}

static int await(pthread_cond_t *c, pthread_mutex_t *m, uint64_t until_ns)
{
	bool late;

	pthread_mutex_unlock(m);
	sleep_until(until_ns, c);
	/* Who is woken waits for nothing any more. */
	late = sim.now->waits_for == c;
	sim.now->waits_for = NULL;
	while (pthread_mutex_trylock(m) != 0)
		sim_yield();
	return late ? ETIMEDOUT : 0;
}

int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m);
int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
	return await(c, m, SIM_EVER);
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t);
int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t)
{
	return await(c, m, ns_of(t));
}

static void wake(const pthread_cond_t *c, bool all)
{
	struct sim_fiber *waiting[FIBERS];
	uint32_t count = 0, first;

	for (uint32_t i = 0; i < FIBERS; i++)
		if (fiber[i].state == FIBER_ASLEEP && fiber[i].waits_for == c)
			waiting[count++] = &fiber[i];
	first = count ? sim_random(count) : 0;
	for (uint32_t i = 0; i < (all ? count : count > 0); i++) {
		waiting[(first + i) % count]->state = FIBER_READY;
		waiting[(first + i) % count]->waits_for = NULL;
	}
}

int __wrap_pthread_cond_signal(pthread_cond_t *c);
int __wrap_pthread_cond_signal(pthread_cond_t *c)
{
	wake(c, false);
	return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *c);
int __wrap_pthread_cond_broadcast(pthread_cond_t *c)
{
	wake(c, true);
	return 0;
}

/* --- threads --- */

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg)
{
	(void)attr;
	*thread = (pthread_t)sim_fiber_new(sim.now->process, run, arg);
	return 0;
}

int __wrap_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result)
{
	const struct sim_fiber *f = (const struct sim_fiber *)thread;

	(void)result;
	/* One that is over may be somebody else's by now. */
	for (uint32_t i = 0; i < SIM_FIBERS; i++)
		if (sim.now->process->fiber[i] == f && f->state != FIBER_OVER)
			sleep_until(SIM_EVER, f);
	return 0;
}

int __wrap_pthread_setname_np(pthread_t thread, const char *name);
int __wrap_pthread_setname_np(pthread_t thread, const char *name)
{
	(void)thread;
	(void)name;
	return 0;
}

int __wrap_pthread_setschedparam(pthread_t thread, int policy, const struct sched_param *param);
int __wrap_pthread_setschedparam(pthread_t thread, int policy, const struct sched_param *param)
{
	(void)thread;
	(void)policy;
	(void)param;
	return 0;
}

int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *before);
int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *before)
{
	(void)how;
	(void)set;
	(void)before;
	return 0;
}

int __wrap_prctl(int option, ...);
int __wrap_prctl(int option, ...)
{
	(void)option;
	return 0;
}

/* --- the clock --- */

int __real_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
	uint64_t ns;

	if (!sim.now)
		return __real_clock_gettime(clock, t);
	ns = sim.clock_ns += 50;
	if (clock == CLOCK_REALTIME)
		ns += sim.wall_ns;
	*t = (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
	return 0;
}

int __wrap_nanosleep(const struct timespec *t, struct timespec *left);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
	uint64_t ns = ns_of(t);

	(void)left;
	sleep_until(sim.clock_ns + ns + sim_random((uint32_t)ns + 1), NULL);
	return 0;
}

/* A waiter's fruitless looks without a sleep would change nothing here. */
void __real_net_backoff(struct net_backoff *b);
void __wrap_net_backoff(struct net_backoff *b);
void __wrap_net_backoff(struct net_backoff *b)
{
	if (b->idle < 8)
		b->idle = 8;
	__real_net_backoff(b);
}
