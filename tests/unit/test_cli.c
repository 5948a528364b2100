/* SPDX-License-Identifier: BSD-3-Clause */
/* The ftmem command, that lies beside the program FTMEM_SMP names. */
#include <sched.h>

#include "clock.h"
#include "smp_fixture.h"

static char program[4096];

/* ftmem with up to six arguments and the fixture's folder. */
static int ftmem(const struct smp_fixture *f, char out[8192], const char *const *args)
{
	char *argv[10] = {"ftmem", "--dir", (char *)(uintptr_t)f->dir};

	for (int i = 0; args[i] && i < 6; i++)
		argv[3 + i] = (char *)(uintptr_t)args[i];
	return smp_run(program, argv, out, 8192);
}

#define FTMEM(...) ftmem(f, out, (const char *const[]){__VA_ARGS__, NULL})

static struct smp_client *with_arena(const struct smp_fixture *f, uint32_t rank, int *fd)
{
	struct smp_client *c = smp_fixture_connect(f, rank);

	assert_int_equal(smp_create(c, 1, rank, SMP_ARENA_BYTES, fd), 0);
	assert_int_equal(smp_arena_write(*fd, 1, rank), 0);
	return c;
}

static void status_of_nothing_says_so(void **state)
{
	struct smp_fixture *f = *state;
	char out[8192];

	assert_int_equal(FTMEM("status"), 0);
	assert_non_null(strstr(out, "no jobs"));
	assert_int_equal(FTMEM("status", "--json"), 0);
	assert_string_equal(out, "{\"jobs\":[]}\n");
	assert_int_equal(FTMEM("status", "job"), 3);
	assert_int_equal(FTMEM("verify", "job"), 3);
	assert_int_equal(FTMEM("drop", "job"), 3);
	assert_non_null(strstr(out, "nothing is held for job job"));
	rmdir(f->dir);
	assert_int_equal(FTMEM("status"), 0);
	assert_int_equal(mkdir(f->dir, 0700), 0);
}

static void misuse_is_explained(void **state)
{
	struct smp_fixture *f = *state;
	char out[8192];

	assert_int_equal(FTMEM(NULL), 2);
	assert_int_equal(FTMEM("dance"), 2);
	assert_non_null(strstr(out, "dance"));
	assert_int_equal(FTMEM("drop"), 2);
	assert_int_equal(FTMEM("verify", "a/b"), 2);
	assert_int_equal(FTMEM("status", "a", "b"), 2);
	assert_int_equal(FTMEM("layout"), 2);
	assert_int_equal(FTMEM("layout", "a", "b", "c"), 2);
	assert_int_equal(FTMEM("status", "a", "--lose", "b"), 2);
	assert_non_null(strstr(out, "--lose does not go with this command"));
	assert_int_equal(FTMEM("status", "--force"), 2);
	assert_int_equal(FTMEM("drop", "a", "--json"), 2);
	assert_int_equal(FTMEM("--nonsense"), 2);
	assert_int_equal(FTMEM("--help"), 0);
	assert_int_equal(FTMEM("--version"), 0);
	assert_int_equal(strncmp(out, "ftmem ", 6), 0);
}

static void status_shows_ranks_and_versions(void **state)
{
	struct smp_fixture *f = *state;
	char out[8192], holder[32];
	int fd = -1;
	struct smp_client *c = with_arena(f, 3, &fd);

	assert_int_equal(FTMEM("status"), 0);
	assert_non_null(strstr(out, "job job on node node"));
	assert_non_null(strstr(out, "256.0 KiB"));
	assert_non_null(strstr(out, "committed 41"));
	assert_non_null(strstr(out, "filling 42"));
	assert_non_null(strstr(out, "1 ranks connected"));
	assert_int_equal(FTMEM("status", "--json", "job"), 0);
	assert_non_null(strstr(out, "{\"jobs\":[\n {\"job\":\"job\",\"node\":\"node\",\"pid\":"));
	snprintf(holder, sizeof(holder), "\"holder\":%d,", getpid());
	assert_non_null(strstr(out, holder));
	assert_non_null(strstr(out, "{\"rank\":3,\"epoch\":1,\"bytes\":262144,"));
	assert_non_null(strstr(out, "{\"state\":\"committed\",\"version\":41,\"incarnation\":1,"));
	assert_non_null(strstr(out, "{\"state\":\"filling\",\"version\":42}"));
	assert_int_equal(FTMEM("status", "--node", "other"), 0);
	assert_null(strstr(out, "job job"));
	smp_close(c);
	assert_int_equal(FTMEM("status"), 0);
	assert_non_null(strstr(out, "no rank connected, expires in"));
	close(fd);
}

/* Shows the status until there is that text in it. */
static void await_status(const struct smp_fixture *f, char out[8192], const char *text)
{
	uint64_t end = clock_deadline(SMP_PATIENCE_MS);

	do {
		clock_sleep(20000000);
		assert_int_equal(FTMEM("status"), 0);
	} while (!strstr(out, text) && clock_ns() < end);
	assert_non_null(strstr(out, text));
}

static void status_shows_what_the_scrubber_found(void **state)
{
	struct smp_fixture *f = *state;
	struct arena *a = NULL;
	char out[8192];
	int fd = -1;
	struct smp_client *c = with_arena(f, 3, &fd);

	await_status(f, out, "s ago, checked ");
	assert_non_null(strstr(out, "looked at for damage: 100% of"));
	assert_non_null(strstr(out, "at 64 MiB/s"));
	assert_int_equal(FTMEM("status", "--json"), 0);
	assert_non_null(strstr(out, "\"scrub_mib_s\":64"));
	assert_non_null(strstr(out, "\"checked_age_s\":"));
	assert_non_null(strstr(out, "\"damaged_blocks\":0,\"damage\":[]}"));
	assert_int_equal(arena_attach(dup(fd), true, &a), 0);
	a->slot[0].data[0] ^= 1;
	*slot_parity(&a->slot[0], 0, 0) ^= 2;
	assert_int_equal(smp_scrub_again(c, 1, 3), 0);
	await_status(f, out, "2 blocks DAMAGED");
	assert_non_null(strstr(out, "slot 0: data chunk 0 of rail 0, block 0"));
	assert_non_null(strstr(out, "slot 0: parity row 0 of rail 0, block 0"));
	assert_int_equal(FTMEM("status", "--json"), 0);
	assert_non_null(strstr(out, "\"damaged_blocks\":2,\"damage\":[{\"rail\":0,"
	                            "\"parity\":false,\"index\":0,\"row\":0},"));
	a->slot[0].sums[0] ^= 1;
	assert_int_equal(smp_scrub_again(c, 1, 3), 0);
	await_status(f, out, "DAMAGED: checksums");
	a->base[a->header->map_offset + 40] ^= 1;
	assert_int_equal(smp_scrub_again(c, 1, 3), 0);
	await_status(f, out, "DAMAGED: map of the arena");
	assert_int_equal(FTMEM("status", "--json"), 0);
	assert_non_null(strstr(out, "\"damaged\":\"map\",\"slots\":[{\"state\":"));
	assert_non_null(strstr(out, "\"damaged\":\"checksums\""));
	arena_free(a);
	smp_close(c);
	close(fd);
}

static void verify_finds_damage(void **state)
{
	struct smp_fixture *f = *state;
	char out[8192];
	int fd = -1, bare = -1;
	struct smp_client *c = with_arena(f, 2, &fd);
	struct arena *a = NULL;

	assert_int_equal(smp_create(c, 1, 9, SMP_ARENA_BYTES, &bare), 0);
	assert_int_equal(FTMEM("verify", "job"), 0);
	assert_non_null(strstr(out, "rank 2, epoch 1, slot 0: version 41 good"));
	assert_non_null(strstr(out, "rank 2, epoch 1, slot 1: filling"));
	assert_non_null(strstr(out, "rank 9, epoch 1: not written yet"));
	assert_non_null(strstr(out, "1 snapshots checked, 0 damaged"));

	assert_int_equal(arena_attach(dup(fd), true, &a), 0);
	a->slot[0].data[0] ^= 1;
	assert_int_equal(FTMEM("verify", "job"), 1);
	assert_non_null(strstr(out, "version 41 DAMAGED: 1 blocks"));
	assert_non_null(strstr(out, "data chunk 0 of rail 0, block 0"));
	a->slot[0].data[0] ^= 1;
	a->slot[0].sums[0] ^= 1;
	assert_int_equal(FTMEM("verify", "job"), 1);
	assert_non_null(strstr(out, "DAMAGED: header or checksums"));
	a->base[100] ^= 1;
	assert_int_equal(FTMEM("verify", "job"), 1);
	assert_non_null(strstr(out, "rank 2, epoch 1: DAMAGED"));
	arena_free(a);
	smp_close(c);
	close(fd);
	close(bare);
}

static void drop_frees_and_says_how_much(void **state)
{
	struct smp_fixture *f = *state, other = *f;
	char out[8192];
	int fd = -1, fd2 = -1, pidfd;
	struct smp_client *c, *c2;

	other.config.node = "node2";
	c = with_arena(f, 0, &fd);
	c2 = with_arena(&other, 0, &fd2);
	close(fd);
	close(fd2);
	smp_close(c2);
	/* All or none: a rank of one node is there. */
	assert_int_equal(FTMEM("drop", "job"), 4);
	assert_non_null(strstr(out, "node node:"));
	assert_int_equal(smp_fixture_entries(f->dir), 6);
	assert_true(smp_alive(c));
	pidfd = smp_fixture_pidfd(smp_pid(c));
	smp_close(c);
	assert_int_equal(FTMEM("drop", "job", "--node", "node2"), 0);
	assert_non_null(strstr(out, "job job on node node2: 256.0 KiB freed (262144 bytes)"));
	assert_int_equal(smp_fixture_entries(f->dir), 3);
	assert_int_equal(FTMEM("drop", "job"), 0);
	assert_int_equal(smp_fixture_entries(f->dir), 0);
	/* When the command returns, the process is gone. */
	assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 0), 1);
	close(pidfd);
	assert_int_equal(FTMEM("drop", "job"), 3);
}

static void drop_can_be_forced(void **state)
{
	struct smp_fixture *f = *state;
	char out[8192];
	int fd = -1;
	struct smp_client *c = with_arena(f, 0, &fd);

	assert_int_equal(FTMEM("drop", "job", "--force"), 0);
	assert_false(smp_alive(c));
	assert_int_equal(smp_fixture_entries(f->dir), 0);
	smp_close(c);
	close(fd);
}

/* The first process of a pid namespace of its own: here that is the number of another. */
static pid_t start_in_a_namespace(const struct smp_fixture *f)
{
	pid_t starter = fork();

	if (starter)
		return starter;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(CLONE_NEWPID) != 0 || (starter = fork()) < 0)
		_exit(1);
	if (starter)
		_exit(waitpid(starter, NULL, 0) == starter ? 0 : 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execl(f->config.smp_path, "ftmem-smp", "--job", "job", "--node", "node", "--dir", f->dir,
	      "--foreground", (char *)NULL);
	_exit(1);
}

static void drop_does_not_wait_for_another_process_of_that_number(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_config config = f->config;
	uint64_t end = clock_deadline(SMP_PATIENCE_MS);
	struct smp_client *c = NULL;
	char out[8192];
	pid_t starter;

	smp_fixture_needs_root();
	starter = start_in_a_namespace(f);
	config.smp_path = NULL;
	while (smp_connect(&config, &c) != 0 && clock_ns() < end)
		clock_sleep(1000000);
	assert_non_null(c);
	assert_int_equal(smp_pid(c), 1);
	smp_close(c);
	assert_int_equal(FTMEM("drop", "job"), 0);
	assert_int_equal(smp_fixture_entries(f->dir), 0);
	assert_int_equal(waitpid(starter, NULL, 0), starter);
}

static void what_a_killed_one_left_is_removed(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c = smp_fixture_connect(f, 0);
	int pidfd = smp_fixture_pidfd(smp_pid(c));
	char out[8192];

	kill(smp_pid(c), SIGKILL);
	smp_fixture_await(pidfd);
	smp_close(c);
	assert_int_equal(FTMEM("status"), 1);
	assert_non_null(strstr(out, "no ftmem-smp serves job job"));
	assert_int_equal(FTMEM("status", "--json"), 1);
	assert_non_null(strstr(out, "\"error\":\"no ftmem-smp serves"));
	assert_int_equal(FTMEM("drop", "job"), 0);
	assert_non_null(strstr(out, "nothing was held"));
	assert_int_equal(smp_fixture_entries(f->dir), 0);
}

static void a_foreign_folder_is_refused(void **state)
{
	struct smp_fixture *f = *state;
	char out[8192];

	assert_int_equal(chmod(f->dir, 0711), 0);
	assert_int_equal(FTMEM("status"), 1);
	assert_non_null(strstr(out, f->dir));
	assert_int_equal(chmod(f->dir, 0700), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, smp_fixture_set_up, smp_fixture_tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(status_of_nothing_says_so),         TEST(misuse_is_explained),
		TEST(status_shows_ranks_and_versions),   TEST(verify_finds_damage),
		TEST(drop_frees_and_says_how_much),      TEST(drop_can_be_forced),
		TEST(status_shows_what_the_scrubber_found),
		TEST(drop_does_not_wait_for_another_process_of_that_number),
		TEST(what_a_killed_one_left_is_removed), TEST(a_foreign_folder_is_refused),
	};
	int skip = smp_fixture_skip();
	char *slash;

	if (skip)
		return skip;
	snprintf(program, sizeof(program) - 8, "%s", getenv("FTMEM_SMP"));
	slash = strrchr(program, '/');
	strcpy(slash ? slash + 1 : program, "ftmem");
	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
