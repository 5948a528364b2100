/* SPDX-License-Identifier: BSD-3-Clause */
/* A real ftmem-smp that is killed, and the arenas that its successor must hold. */
#include "smp_fixture.h"

#include "clock.h"
#include "keeper.h"

#define EPOCH 4

/* smp_adopt() that fails a number of times, for the first arena. */
static int fail_adopts;
static unsigned adopts;
int __real_smp_adopt(struct smp_client *c, uint64_t epoch, uint32_t rank, int fd);
int __wrap_smp_adopt(struct smp_client *c, uint64_t epoch, uint32_t rank, int fd);
int __wrap_smp_adopt(struct smp_client *c, uint64_t epoch, uint32_t rank, int fd)
{
	adopts++;
	if (fail_adopts > 0 && epoch == EPOCH) {
		fail_adopts--;
		return error_set(FTMEM_ETIMEOUT, "the test wants no hand-over");
	}
	return __real_smp_adopt(c, epoch, rank, fd);
}

struct lines {
	char text[4096];
	unsigned errors, warnings;
};

static void note_line(void *arg, int level, const char *line)
{
	struct lines *l = arg;
	size_t used = strlen(l->text);

	l->errors += level == FTMEM_LOG_ERROR;
	l->warnings += level == FTMEM_LOG_WARN;
	snprintf(l->text + used, sizeof(l->text) - used, "%s\n", line);
}

struct fixture {
	struct smp_fixture *smp;
	struct keeper keeper;
	struct lines lines;
	struct log log;
	char program[96];         /* a link that can be taken away */
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	void *smp = NULL;

	if (!f || smp_fixture_set_up(&smp))
		return -1;
	*state = f;
	f->smp = smp;
	f->log = (struct log){note_line, &f->lines, FTMEM_LOG_DEBUG, LOG_NO_RANK};
	f->smp->config.log = &f->log;
	snprintf(f->program, sizeof(f->program), "%s-program", f->smp->dir);
	if (symlink(f->smp->config.smp_path, f->program) != 0)
		return -1;
	f->smp->config.smp_path = f->program;
	if (keeper_init(&f->keeper, &f->smp->config) != 0)
		return -1;
	fail_adopts = 0;
	adopts = 0;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	void *smp = f->smp;
	int rc;

	for (int i = 0; i < KEEPER_ARENAS; i++)
		arena_free(f->keeper.arena[i]);
	keeper_deinit(&f->keeper);
	unlink(f->program);
	free(f);
	rc = smp_fixture_tear_down(&smp);
	return rc;
}

/* A new arena that the SMP gave, with a committed version in it; the keeper holds it. */
static struct arena *hold(struct fixture *f, uint64_t epoch)
{
	struct arena *a = NULL;
	int fd = -1;

	assert_int_equal(smp_create(f->keeper.smp, epoch, 0, SMP_ARENA_BYTES, &fd), 0);
	assert_int_equal(smp_arena_write(fd, epoch, 0), 0);
	assert_int_equal(arena_attach(fd, true, &a), 0);
	keeper_hold(&f->keeper, a);
	return a;
}

static void kill_smp(struct fixture *f)
{
	smp_fixture_kill(smp_pid(f->keeper.smp));
	while (smp_alive(f->keeper.smp))
		clock_sleep(100000);
}

/* Arenas that the SMP holds for the keeper's rank, with what hold() put there. */
static uint32_t held(struct fixture *f)
{
	struct smp_entry *entry = NULL;
	uint32_t count = 0;

	assert_int_equal(smp_list(f->keeper.smp, &entry, &count), 0);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(entry[i].rank, 0);
		assert_int_equal(entry[i].bytes, SMP_ARENA_BYTES);
		assert_int_equal(entry[i].owner, getpid());
		assert_int_equal(entry[i].slot[0].state, SLOT_COMMITTED);
		assert_int_equal(entry[i].slot[0].stamp.version, 41);
	}
	free(entry);
	return count;
}

static void while_the_smp_lives_there_is_nothing_to_do(void **state)
{
	struct fixture *f = *state;
	int32_t pid = smp_pid(f->keeper.smp);

	hold(f, EPOCH);
	assert_int_equal(keeper_ensure(&f->keeper), 0);
	keeper_watch(&f->keeper, clock_ns());
	assert_int_equal(smp_pid(f->keeper.smp), pid);
	assert_int_equal(adopts, 0);
	assert_int_equal(held(f), 1);
}

static void a_killed_smp_is_replaced_and_holds_the_memory_again(void **state)
{
	struct fixture *f = *state;

	for (int round = 0; round < 3; round++) {
		int32_t pid = smp_pid(f->keeper.smp);

		if (round == 0)
			hold(f, EPOCH);
		kill_smp(f);
		assert_int_equal(keeper_ensure(&f->keeper), 0);
		assert_int_not_equal(smp_pid(f->keeper.smp), pid);
		assert_int_equal(held(f), 1);
	}
	assert_non_null(strstr(f->lines.text, "is gone"));
	assert_non_null(strstr(f->lines.text, "taken the memory over"));
	assert_int_equal(f->lines.errors, 0);
}

/* The very memory: what is written here is read there. */
static void the_successor_holds_the_same_memory(void **state)
{
	struct fixture *f = *state;
	struct arena *a = hold(f, EPOCH), *other = NULL;
	int fd = -1;

	kill_smp(f);
	assert_int_equal(keeper_ensure(&f->keeper), 0);
	assert_int_equal(smp_attach(f->keeper.smp, EPOCH, 0, false, &fd), 0);
	assert_int_equal(arena_attach(fd, false, &other), 0);
	a->slot[1].data[5] = 77;
	assert_int_equal(other->slot[1].data[5], 77);
	arena_free(other);
}

static void both_epochs_are_handed_over_but_what_was_let_go(void **state)
{
	struct fixture *f = *state;
	struct arena *former = hold(f, EPOCH);

	hold(f, EPOCH + 1);
	kill_smp(f);
	assert_int_equal(keeper_ensure(&f->keeper), 0);
	assert_int_equal(held(f), 2);
	keeper_let_go(&f->keeper, former);
	arena_free(former);
	kill_smp(f);
	assert_int_equal(keeper_ensure(&f->keeper), 0);
	assert_int_equal(held(f), 1);
	/* The place is free again. */
	hold(f, EPOCH + 2);
	kill_smp(f);
	assert_int_equal(keeper_ensure(&f->keeper), 0);
	assert_int_equal(held(f), 2);
}

static void a_failed_hand_over_is_tried_again(void **state)
{
	struct fixture *f = *state;

	hold(f, EPOCH);
	hold(f, EPOCH + 1);
	for (int fails = 1; fails <= 3; fails++) {
		kill_smp(f);
		fail_adopts = fails;
		for (int i = 0; i < fails; i++)
			assert_int_equal(keeper_ensure(&f->keeper), FTMEM_ETIMEOUT);
		assert_int_equal(keeper_ensure(&f->keeper), 0);
		assert_int_equal(held(f), 2);
	}
}

/* Another took its place. */
static void one_that_is_refused_does_not_keep_the_other_back(void **state)
{
	struct fixture *f = *state;
	struct smp_client *other;
	struct smp_info info;
	int fd = -1;

	hold(f, EPOCH);
	hold(f, EPOCH + 1);
	kill_smp(f);
	other = smp_fixture_connect(f->smp, 1);
	assert_int_equal(smp_create(other, EPOCH, 0, SMP_ARENA_BYTES, &fd), 0);
	close(fd);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(keeper_ensure(&f->keeper), FTMEM_EINVAL);
		assert_int_equal(smp_info(other, &info), 0);
		assert_int_equal(info.arenas, 2);
	}
	assert_int_equal(smp_drop(other, EPOCH, 0), 0);
	assert_int_equal(held(f), 1);
	assert_int_equal(keeper_ensure(&f->keeper), 0);
	assert_int_equal(held(f), 2);
	smp_close(other);
}

static void damage_of_the_header_is_mended_before_the_hand_over(void **state)
{
	struct fixture *f = *state;
	struct arena *a = hold(f, EPOCH);

	for (size_t at = 0; at < sizeof(*a->header); at += 7) {
		a->base[at] ^= 1;
		kill_smp(f);
		assert_int_equal(keeper_ensure(&f->keeper), 0);
		assert_memory_equal(a->base, a->header, sizeof(*a->header));
		assert_int_equal(held(f), 1);
	}
	assert_int_equal(f->lines.errors, 0);
}

static void watching_replaces_the_smp_now_and_then(void **state)
{
	struct fixture *f = *state;
	uint64_t now = clock_ns();

	hold(f, EPOCH);
	keeper_watch(&f->keeper, now);
	kill_smp(f);
	/* Looked a moment ago. */
	keeper_watch(&f->keeper, now + 1);
	assert_false(smp_alive(f->keeper.smp));
	keeper_watch(&f->keeper, now + UINT64_C(1000000000));
	assert_true(smp_alive(f->keeper.smp));
	assert_int_equal(held(f), 1);
}

static void a_watch_that_fails_says_so_once_and_goes_on(void **state)
{
	struct fixture *f = *state;
	uint64_t now = clock_ns(), step = UINT64_C(60000000000);

	hold(f, EPOCH);
	kill_smp(f);
	assert_int_equal(unlink(f->program), 0);
	for (int i = 1; i <= 3; i++)
		keeper_watch(&f->keeper, now + (uint64_t)i * step);
	assert_int_equal(f->lines.errors, 1);
	assert_int_equal(keeper_ensure(&f->keeper), FTMEM_ESMP);
	assert_int_equal(symlink(getenv("FTMEM_SMP"), f->program), 0);
	keeper_watch(&f->keeper, now + 4 * step);
	assert_true(smp_alive(f->keeper.smp));
	assert_int_equal(held(f), 1);
	/* And a second time is worth a second line. */
	kill_smp(f);
	fail_adopts = 1;
	keeper_watch(&f->keeper, now + 5 * step);
	assert_int_equal(f->lines.errors, 2);
	keeper_watch(&f->keeper, now + 6 * step);
	assert_int_equal(held(f), 1);
}

/* However long an attempt took: what else its thread does comes in between. */
static void attempts_that_fail_leave_a_pause(void **state)
{
	struct fixture *f = *state;
	uint64_t old = clock_ns() - UINT64_C(40000000000);
	unsigned before;

	hold(f, EPOCH);
	kill_smp(f);
	fail_adopts = 100;
	/* The attempt began 40 s ago, so to say. */
	keeper_watch(&f->keeper, old);
	before = adopts;
	assert_int_equal(before, 1);
	keeper_watch(&f->keeper, clock_ns());
	assert_int_equal(adopts, before);
	fail_adopts = 0;
	assert_int_equal(keeper_ensure(&f->keeper), 0);
	assert_int_equal(held(f), 1);
}

/* Watches until so many damaged blocks are known. */
static void watch_until(struct fixture *f, uint64_t damaged)
{
	uint64_t end = clock_deadline(SMP_PATIENCE_MS), now = clock_ns();

	/* Time goes faster for the keeper, which asks only now and then. */
	for (; f->keeper.damaged != damaged && clock_ns() < end; now += UINT64_C(1000000000)) {
		keeper_watch(&f->keeper, now);
		clock_sleep(1000000);
	}
	assert_int_equal(f->keeper.damaged, damaged);
}

static void damage_that_the_smp_finds_is_told_once(void **state)
{
	struct fixture *f = *state;
	struct arena *a = hold(f, EPOCH);

	hold(f, EPOCH + 1);
	watch_until(f, 0);
	a->slot[0].data[0] ^= 1;
	assert_int_equal(smp_scrub_again(f->keeper.smp, EPOCH, 0), 0);
	watch_until(f, 1);
	assert_int_equal(f->lines.warnings, 1);
	assert_non_null(strstr(f->lines.text, "1 blocks of the memory"));
	assert_non_null(strstr(f->lines.text, "data chunk 0 of rail 0, block 0"));
	assert_non_null(strstr(f->lines.text, "ftmem_repair()"));
	for (uint64_t i = 1; i < 40; i++) {
		keeper_watch(&f->keeper, clock_ns() + i * UINT64_C(100000000000));
		clock_sleep(1000000);
	}
	assert_int_equal(f->lines.warnings, 1);
	/* Mended: the next look finds it whole. */
	a->slot[0].data[0] ^= 1;
	assert_int_equal(smp_scrub_again(f->keeper.smp, EPOCH, 0), 0);
	watch_until(f, 0);
	assert_int_equal(f->lines.warnings, 1);
	assert_non_null(strstr(f->lines.text, "damaged any more"));
}

static void damage_of_what_was_let_go_does_not_count(void **state)
{
	struct fixture *f = *state;
	struct arena *a = hold(f, EPOCH);

	slot_set_filling(&a->slot[0], (struct stamp){1, 43});
	a->slot[0].sums[0] ^= 1;
	slot_set_prepared(&a->slot[0], (struct stamp){1, 43});
	slot_set_committed(&a->slot[0]);
	assert_int_equal(smp_scrub_again(f->keeper.smp, EPOCH, 0), 0);
	watch_until(f, 1);
	keeper_let_go(&f->keeper, a);
	assert_int_equal(f->keeper.damaged, 0);
	arena_free(a);
	for (uint64_t i = 1; i < 10; i++)
		keeper_watch(&f->keeper, clock_ns() + i * UINT64_C(100000000000));
	assert_int_equal(f->keeper.damaged, 0);
}

/* One that hangs is asked, and nobody waits for its answer. */
static void a_stopped_smp_holds_nobody_up(void **state)
{
	struct fixture *f = *state;
	uint64_t now = clock_ns(), begin = now;

	hold(f, EPOCH);
	assert_int_equal(kill(smp_pid(f->keeper.smp), SIGSTOP), 0);
	for (uint64_t i = 1; i < 40; i++)
		keeper_watch(&f->keeper, now + i * UINT64_C(10000000000));
	assert_true(clock_ns() - begin < SMP_PATIENCE_MS * UINT64_C(1000000));
	assert_int_equal(f->lines.warnings + f->lines.errors, 0);
	assert_int_equal(kill(smp_pid(f->keeper.smp), SIGCONT), 0);
	/* An answer that comes late is not taken for another's. */
	assert_int_equal(held(f), 1);
	assert_int_equal(keeper_ensure(&f->keeper), 0);
}

static void what_never_connected_can_be_ended(void **state)
{
	struct fixture *f = *state;
	struct smp_config config = f->smp->config;
	struct keeper k;

	config.job = "other";
	config.smp_path = NULL;
	assert_int_equal(keeper_init(&k, &config), FTMEM_ESMP);
	keeper_deinit(&k);
	keeper_deinit(&k);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(while_the_smp_lives_there_is_nothing_to_do),
		TEST(a_killed_smp_is_replaced_and_holds_the_memory_again),
		TEST(the_successor_holds_the_same_memory),
		TEST(both_epochs_are_handed_over_but_what_was_let_go),
		TEST(a_failed_hand_over_is_tried_again),
		TEST(one_that_is_refused_does_not_keep_the_other_back),
		TEST(damage_of_the_header_is_mended_before_the_hand_over),
		TEST(watching_replaces_the_smp_now_and_then),
		TEST(a_watch_that_fails_says_so_once_and_goes_on),
		TEST(attempts_that_fail_leave_a_pause),
		TEST(damage_that_the_smp_finds_is_told_once),
		TEST(damage_of_what_was_let_go_does_not_count),
		TEST(a_stopped_smp_holds_nobody_up),
		TEST(what_never_connected_can_be_ended),
	};
	int skip = smp_fixture_skip();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
