/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "checksum.h"
#include "error.h"
#include "slot.h"
#include "test_random.h"

#define RANKS 5u

/* Two nodes of two ranks and one of one, that lends its rank to the second rail. */
struct fixture {
	struct map *map;
	struct rail *rails;
	uint32_t count;
	struct arena_spec spec;
	uint64_t bytes;
	int fd;
};

static void make_rails(struct fixture *f, uint32_t rank)
{
	uint32_t *ids = NULL;

	assert_int_equal(map_rails_of(f->map, rank, &ids, &f->count), 0);
	f->rails = calloc(f->count, sizeof(*f->rails));
	assert_non_null(f->rails);
	for (uint32_t i = 0; i < f->count; i++) {
		map_rail(f->map, ids[i], &f->rails[i]);
		f->rails[i].block_bytes = 4096;
		for (uint32_t j = 0; j < f->rails[i].n; j++)
			if (f->rails[i].data_bytes[j])
				f->rails[i].data_bytes[j] = 10000 + 1000 * f->rails[i].rank[j];
	}
	free(ids);
}

static void set_up(struct fixture *f, uint32_t rank)
{
	static const char *const node[RANKS] = {"a", "a", "b", "c", "c"};
	struct map_rank place[RANKS] = {0};

	memset(f, 0, sizeof(*f));
	for (uint32_t i = 0; i < RANKS; i++)
		strcpy(place[i].node, node[i]);
	assert_int_equal(map_new(place, RANKS, 8, 1, &f->map), 0);
	make_rails(f, rank);
	f->spec = (struct arena_spec){.job = "job",
	                              .node = node[rank],
	                              .epoch = 3,
	                              .geometry = 4,
	                              .layout = 5,
	                              .rank = rank,
	                              .map = f->map,
	                              .rails = f->rails,
	                              .rails_count = f->count};
	assert_int_equal(arena_bytes(&f->spec, &f->bytes), 0);
	f->fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(f->fd >= 0);
	assert_int_equal(ftruncate(f->fd, (off_t)f->bytes), 0);
}

static void tear_down(struct fixture *f)
{
	close(f->fd);
	free(f->rails);
	map_free(f->map);
}

static struct arena *create(struct fixture *f)
{
	struct arena *a = NULL;

	assert_int_equal(arena_create(dup(f->fd), &f->spec, &a), 0);
	return a;
}

static unsigned open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static void attached_is_what_was_created(void **state)
{
	(void)state;
	for (uint32_t rank = 0; rank < RANKS; rank++) {
		struct arena *a, *b = NULL;
		struct fixture f;

		set_up(&f, rank);
		a = create(&f);
		assert_int_equal(arena_attach(dup(f.fd), true, &b), 0);
		assert_true(a->bytes == f.bytes && b->bytes == f.bytes);
		assert_memory_equal(a->header, b->header, sizeof(*a->header));
		assert_string_equal(b->header->job, "job");
		assert_int_equal(b->header->rank, rank);
		assert_int_equal(b->header->epoch, 3);
		assert_int_equal(b->map->ranks, RANKS);
		assert_int_equal(b->shape.rails, f.count);
		for (uint32_t i = 0; i < f.count; i++) {
			assert_int_equal(b->rails[i].id, f.rails[i].id);
			assert_memory_equal(b->rails[i].rank, f.rails[i].rank,
			                    f.rails[i].n * sizeof(uint32_t));
			assert_memory_equal(b->rails[i].data_bytes, f.rails[i].data_bytes,
			                    f.rails[i].n * sizeof(uint64_t));
		}
		assert_true(a->shape.slot_bytes == b->shape.slot_bytes);
		arena_free(a);
		arena_free(b);
		tear_down(&f);
	}
}

static void a_rank_that_lends_itself_is_in_more_rails(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, 2);
	assert_int_equal(f.count, 2);
	tear_down(&f);
}

static void what_one_writes_the_other_reads(void **state)
{
	const struct stamp stamp = {1, 2};
	struct arena *a, *b = NULL;
	struct fixture f;
	struct stamp got;
	bool damaged;

	(void)state;
	set_up(&f, 0);
	a = create(&f);
	assert_int_equal(arena_attach(dup(f.fd), false, &b), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(slot_read(&b->slot[i], &got, &damaged), SLOT_EMPTY);
		slot_set_filling(&a->slot[i], stamp);
		memset(a->slot[i].data, 7 + i, a->shape.data_bytes);
		slot_set_prepared(&a->slot[i], stamp);
		assert_int_equal(slot_read(&b->slot[i], &got, &damaged), SLOT_PREPARED);
		assert_int_equal(stamp_cmp(got, stamp), 0);
		assert_memory_equal(a->slot[i].data, b->slot[i].data, a->shape.data_bytes);
	}
	assert_int_equal(b->slot[0].data[0], 7);
	arena_free(a);
	arena_free(b);
	tear_down(&f);
}

static void attached_for_reading_cannot_be_written(void **state)
{
	struct arena *a, *b = NULL;
	struct fixture f;
	int status;
	pid_t pid;

	(void)state;
	set_up(&f, 0);
	a = create(&f);
	assert_int_equal(arena_attach(dup(f.fd), false, &b), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		*(volatile uint8_t *)b->slot[0].data = 1;
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	arena_free(a);
	arena_free(b);
	tear_down(&f);
}

static void expect_damaged(struct fixture *f)
{
	struct arena *a = NULL;

	assert_int_equal(arena_attach(dup(f->fd), false, &a), FTMEM_ECORRUPT);
	assert_null(a);
	assert_true(error_msg()[0]);
}

static void every_flipped_bit_of_the_description_is_found(void **state)
{
	struct arena *a;
	struct fixture f;
	unsigned fds;

	(void)state;
	set_up(&f, 2);
	a = create(&f);
	fds = open_fds();
	for (int part = 0; part < 3; part++) {
		const uint64_t at[] = {0, a->header->map_offset, a->header->rails_offset};
		const uint64_t bytes[] = {sizeof(*a->header), a->header->map_bytes,
		                          a->header->rails_bytes};

		for (uint64_t bit = 0; bit < 8 * bytes[part]; bit++) {
			a->base[at[part] + bit / 8] ^= (uint8_t)(1u << bit % 8);
			expect_damaged(&f);
			a->base[at[part] + bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
	assert_int_equal(open_fds(), fds);
	arena_free(a);
	tear_down(&f);
}

static void a_damaged_copy_of_the_header_mends_nothing(void **state)
{
	struct arena *a;
	struct fixture f;
	uint8_t *copy;

	(void)state;
	set_up(&f, 2);
	a = create(&f);
	copy = (uint8_t *)(uintptr_t)a->header;
	for (uint64_t bit = 0; bit < 8 * sizeof(*a->header); bit++) {
		a->base[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(arena_mend(a), 1);
		assert_memory_equal(a->base, a->header, sizeof(*a->header));
		copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(arena_mend(a), 0);
		copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_memory_equal(a->base, a->header, sizeof(*a->header));
	}
	arena_free(a);
	tear_down(&f);
}

static void another_format_is_named(void **state)
{
	struct arena_header *h;
	struct arena *a, *b = NULL;
	struct fixture f;
	char ours[32];

	(void)state;
	set_up(&f, 0);
	a = create(&f);
	h = (struct arena_header *)a->base;
	h->format = 77;
	h->header_sum = 0;
	assert_int_equal(arena_attach(dup(f.fd), false, &b), FTMEM_ESMP);
	/* Where it cannot be one. */
	assert_int_equal(arena_attach_held(dup(f.fd), false, &b), FTMEM_ECORRUPT);
	assert_int_equal(arena_attach(dup(f.fd), false, &b), FTMEM_ESMP);
	snprintf(ours, sizeof(ours), "format %u:", ARENA_FORMAT);
	assert_non_null(strstr(error_msg(), "77"));
	assert_non_null(strstr(error_msg(), ours));
	arena_free(a);
	tear_down(&f);
}

static void sum_again(uint8_t *base)
{
	struct arena_header *h = (struct arena_header *)base;

	h->header_sum = 0;
	h->header_sum = checksum(h, sizeof(*h));
}

/* Whatever is accepted lies inside the mapping. */
static void read_all(const struct slot *slot)
{
	struct stamp stamp;
	bool damaged;

	assert_int_equal(slot_read(slot, &stamp, &damaged), SLOT_EMPTY);
	assert_false(damaged);
	(void)slot_verify(slot, NULL, NULL);
}

/* Contents whose checksums are right but that make no sense: whatever a word of the
 * description becomes, attaching succeeds or says what is damaged. */
static void nonsense_with_right_checksums_is_survived(void **state)
{
	uint64_t random = test_random_seed("test_arena");
	unsigned refused = 0;
	struct fixture f;

	(void)state;
	set_up(&f, 2);
	for (int i = 0; i < 5000; i++) {
		struct arena *a = create(&f), *b = NULL;
		struct arena_header *h = (struct arena_header *)a->base;
		const uint64_t at[] = {16, h->map_offset, h->rails_offset};
		const uint64_t bytes[] = {sizeof(*h) - 16, h->map_bytes, h->rails_bytes};
		uint32_t part = test_random_below(&random, 3);
		uint8_t *word = a->base + at[part]
		                + test_random_below(&random, (uint32_t)bytes[part] / 4) * 4;
		uint32_t value = (uint32_t)test_random(&random);
		int rc;

		if (test_random_below(&random, 2))
			value %= 5;
		memcpy(word, &value, sizeof(value));
		if (part == 1)
			h->map_sum =
				checksum(a->base + a->header->map_offset, a->header->map_bytes);
		if (part == 2)
			h->rails_sum =
				checksum(a->base + a->header->rails_offset, a->header->rails_bytes);
		sum_again(a->base);
		rc = arena_attach(dup(f.fd), false, &b);
		assert_true(rc == 0 || rc == FTMEM_ECORRUPT);
		refused += rc != 0;
		for (int j = 0; !rc && j < 2; j++)
			read_all(&b->slot[j]);
		arena_free(b);
		arena_free(a);
	}
	assert_true(refused > 500);
	tear_down(&f);
}

static void too_little_memory_is_refused(void **state)
{
	static const off_t sizes[] = {0, 1, 4095, 4096};
	struct arena *a;
	struct fixture f;

	(void)state;
	set_up(&f, 0);
	arena_free(create(&f));
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int fd = memfd_create("test", MFD_CLOEXEC);
		uint8_t page[4096] = {0};

		assert_int_equal(pread(f.fd, page, sizeof(page), 0), sizeof(page));
		assert_int_equal(pwrite(fd, page, (size_t)sizes[i], 0), sizes[i]);
		a = NULL;
		assert_int_equal(arena_attach(dup(fd), false, &a), FTMEM_ECORRUPT);
		assert_int_equal(arena_create(fd, &f.spec, &a), FTMEM_EINVAL);
		assert_null(a);
	}
	tear_down(&f);
}

static void specs_that_make_no_sense_are_refused(void **state)
{
	struct fixture f;
	uint64_t bytes;

	(void)state;
	set_up(&f, 2);
	f.spec.job = "a/b";
	assert_int_equal(arena_bytes(&f.spec, &bytes), FTMEM_EINVAL);
	f.spec.job = "job";
	f.spec.epoch = 0;
	assert_int_equal(arena_bytes(&f.spec, &bytes), FTMEM_EINVAL);
	f.spec.epoch = 1;
	f.spec.rails_count = 1;
	assert_int_equal(arena_bytes(&f.spec, &bytes), FTMEM_EINVAL);
	f.spec.rails_count = f.count;
	f.rails[1].rank[0]++;
	assert_int_equal(arena_bytes(&f.spec, &bytes), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "rail 1"));
	tear_down(&f);
}

static void a_failed_allocation_leaves_nothing_behind(void **state)
{
	struct fixture f;
	unsigned fds, n;
	int rc;

	(void)state;
	set_up(&f, 2);
	fds = open_fds();
	for (int attach = 0; attach < 2; attach++) {
		rc = FTMEM_ENOMEM;
		for (n = 1; rc == FTMEM_ENOMEM; n++) {
			struct arena *a = NULL;
			int fd = dup(f.fd);

			alloc_fail_at(n);
			rc = attach ? arena_attach(fd, true, &a) : arena_create(fd, &f.spec, &a);
			alloc_fail_off();
			if (rc)
				assert_null(a);
			arena_free(a);
			assert_int_equal(open_fds(), fds);
		}
		assert_int_equal(rc, 0);
		assert_true(n > 4);
	}
	tear_down(&f);
}

static void an_arena_without_memory_is_freed_as_well(void **state)
{
	(void)state;
	arena_free(NULL);
}

static void an_arena_whose_rank_ended_before_its_header_was_written_says_so(void **state)
{
	const uint64_t unwritten = ARENA_UNWRITTEN, zeros = 0;
	int fd = memfd_create("test", MFD_CLOEXEC);
	struct arena *a = NULL;

	(void)state;
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	/* Zeros are what a page may turn to that was written. */
	assert_false(arena_unwritten(fd));
	assert_int_equal(pwrite(fd, &unwritten, sizeof(unwritten), 0), sizeof(unwritten));
	assert_true(arena_unwritten(fd));
	assert_int_equal(arena_attach(dup(fd), false, &a), FTMEM_ECORRUPT);
	assert_int_equal(pwrite(fd, &zeros, sizeof(zeros), 0), sizeof(zeros));
	assert_false(arena_unwritten(fd));
	close(fd);
}

static void the_run_it_was_part_of_is_read_back_or_damaged(void **state)
{
	const uint64_t run = UINT64_C(1795357045123456789);
	struct arena *a, *b = NULL;
	struct fixture f;

	(void)state;
	set_up(&f, 0);
	a = create(&f);
	assert_int_equal(arena_attach(dup(f.fd), false, &b), 0);
	assert_int_equal(arena_entered(b), 0);
	arena_enter(a, 7);
	arena_enter(a, run);
	assert_int_equal(arena_entered(b), run);
	for (uint32_t bit = 0; bit < 8 * sizeof(struct arena_run); bit++) {
		a->base[ARENA_RUN_OFFSET + bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(arena_entered(b), UINT64_MAX);
		a->base[ARENA_RUN_OFFSET + bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(arena_entered(b), run);
	arena_free(b);
	arena_free(a);
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attached_is_what_was_created),
		cmocka_unit_test(a_rank_that_lends_itself_is_in_more_rails),
		cmocka_unit_test(what_one_writes_the_other_reads),
		cmocka_unit_test(attached_for_reading_cannot_be_written),
		cmocka_unit_test(every_flipped_bit_of_the_description_is_found),
		cmocka_unit_test(a_damaged_copy_of_the_header_mends_nothing),
		cmocka_unit_test(another_format_is_named),
		cmocka_unit_test(nonsense_with_right_checksums_is_survived),
		cmocka_unit_test(too_little_memory_is_refused),
		cmocka_unit_test(specs_that_make_no_sense_are_refused),
		cmocka_unit_test(a_failed_allocation_leaves_nothing_behind),
		cmocka_unit_test(an_arena_without_memory_is_freed_as_well),
		cmocka_unit_test(an_arena_whose_rank_ended_before_its_header_was_written_says_so),
		cmocka_unit_test(the_run_it_was_part_of_is_read_back_or_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
