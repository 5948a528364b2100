/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "checksum.h"
#include "error.h"
#include "slot.h"
#include "test_random.h"

#define BLOCK 4096u

/* A slot in memory of its own, whose tables fit its contents. */
struct fixture {
	struct rail rail[3];
	struct slot_shape shape;
	struct slot slot;
	uint8_t *memory;
};

static const struct stamp stamp7 = {3, 7};

static struct rail rail_of(uint32_t id, uint32_t n, uint32_t m, const uint64_t *bytes)
{
	struct rail r = {.id = id, .n = n, .m = m, .block_bytes = BLOCK};

	for (uint32_t i = 0; i < n; i++) {
		r.rank[i] = i * 10 + (i == 1 ? 0 : id);
		r.data_bytes[i] = bytes[i];
	}
	return r;
}

static void fill(struct fixture *f, uint64_t *random)
{
	const struct slot *s = &f->slot;

	test_random_fill(random, s->data, s->shape->data_bytes);
	for (uint32_t i = 0; i < s->shape->sums_bytes / 4; i++)
		s->sums[i] = (uint32_t)test_random(random);
	for (uint32_t chunk = 0; chunk < rail_k(&f->rail[0]); chunk++)
		for (uint32_t row = 0; row < rail_chunk_rows(&f->rail[0], 1); row++)
			s->sums[slot_data_sum_index(s->shape, 0, 1, chunk, row)] =
				checksum(s->data + rail_data_offset(&f->rail[0], 1, chunk, row),
			                 rail_data_len(&f->rail[0], 1, chunk, row));
	for (uint32_t i = 0; i < s->shape->rails; i++)
		for (uint32_t p = 0; p < f->rail[i].m; p++)
			for (uint32_t row = 0; row < rail_rows(&f->rail[i]); row++) {
				uint8_t *at = slot_parity(s, i, p) + (uint64_t)row * BLOCK;

				test_random_fill(random, at, rail_parity_len(&f->rail[i], row));
				s->sums[slot_parity_sum_index(s->shape, i, p, row)] =
					checksum(at, rail_parity_len(&f->rail[i], row));
			}
}

/* Rank 10 is member 1 of rails, its data in the first. */
static void set_up(struct fixture *f, uint64_t bytes, uint32_t rails)
{
	const uint64_t first[] = {30000, bytes, 0, 12345}, other[] = {50000, 0, 1};
	uint64_t random = 1;

	memset(f, 0, sizeof(*f));
	f->rail[0] = rail_of(4, 4, 2, first);
	f->rail[1] = rail_of(5, 3, 1, other);
	f->rail[2] = rail_of(6, 3, 2, other);
	assert_int_equal(slot_shape_init(&f->shape, f->rail, rails, 10), 0);
	f->memory = mmap(NULL, f->shape.slot_bytes, PROT_READ | PROT_WRITE,
	                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->memory, MAP_FAILED);
	slot_init(&f->slot, &f->shape, f->memory);
	fill(f, &random);
}

static void tear_down(struct fixture *f)
{
	munmap(f->memory, f->shape.slot_bytes);
}

static void expect(const struct fixture *f, enum slot_state state, struct stamp stamp, bool damaged)
{
	struct stamp got = {9, 9};
	bool bad = !damaged;

	assert_int_equal(slot_read(&f->slot, &got, &bad), state);
	assert_int_equal(bad, damaged);
	assert_int_equal(stamp_cmp(got, stamp), 0);
}

static void publish(struct fixture *f)
{
	slot_set_filling(&f->slot, stamp7);
	slot_set_prepared(&f->slot, stamp7);
}

static void every_checksum_has_one_place(void **state)
{
	struct fixture f;
	uint64_t count;
	uint8_t *seen;

	(void)state;
	set_up(&f, 100000, 3);
	count = f.shape.sums_bytes / 4;
	seen = calloc(count, 1);
	assert_non_null(seen);
	for (uint32_t i = 0; i < 3; i++) {
		for (uint32_t j = 0; j < f.rail[i].n; j++)
			for (uint32_t c = 0; c < rail_k(&f.rail[i]); c++)
				for (uint32_t r = 0; r < rail_chunk_rows(&f.rail[i], j); r++)
					seen[slot_data_sum_index(&f.shape, i, j, c, r)]++;
		for (uint32_t p = 0; p < f.rail[i].m; p++)
			for (uint32_t r = 0; r < rail_rows(&f.rail[i]); r++)
				seen[slot_parity_sum_index(&f.shape, i, p, r)]++;
	}
	for (uint64_t i = 0; i < count; i++)
		assert_int_equal(seen[i], 1);
	free(seen);
	tear_down(&f);
}

static void parts_are_pages_that_do_not_overlap(void **state)
{
	static const uint64_t sizes[] = {0, 1, 4095, 4096, 1048577};
	struct fixture f;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t end;

		set_up(&f, sizes[i], 3);
		assert_true(f.shape.sums_offset == ARENA_PAGE);
		end = f.shape.sums_offset + f.shape.sums_bytes;
		assert_true(f.shape.data_offset >= end && f.shape.data_bytes == sizes[i]);
		end = f.shape.data_offset + f.shape.data_bytes;
		for (uint32_t r = 0; r < 3; r++) {
			assert_true(f.shape.parity_offset[r] >= end);
			assert_int_equal(f.shape.parity_offset[r] % ARENA_PAGE, 0);
			end = f.shape.parity_offset[r]
			      + f.rail[r].m * rail_parity_bytes(&f.rail[r]);
		}
		assert_true(f.shape.slot_bytes >= end && f.shape.slot_bytes < end + ARENA_PAGE);
		assert_int_equal(f.shape.data_offset % ARENA_PAGE, 0);
		tear_down(&f);
	}
}

static void rails_that_make_no_sense_are_refused(void **state)
{
	const uint64_t bytes[] = {1, 2, 3};
	struct rail r[2] = {rail_of(1, 3, 1, bytes), rail_of(2, 3, 1, bytes)};
	static struct slot_shape s;

	(void)state;
	assert_int_equal(slot_shape_init(&s, r, 1, 10), 0);
	assert_int_equal(slot_shape_init(&s, r, 0, 10), FTMEM_EINVAL);
	assert_int_equal(slot_shape_init(&s, r, ARENA_RAILS_MAX + 1, 10), FTMEM_EINVAL);
	assert_int_equal(slot_shape_init(&s, r, 1, 11), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "11"));
	assert_int_equal(slot_shape_init(&s, r, 2, 10), FTMEM_EINVAL);
	r[0].block_bytes = 100;
	assert_int_equal(slot_shape_init(&s, r, 1, 10), FTMEM_EINVAL);
	r[0].block_bytes = 1u << 31;
	r[0].data_bytes[1] = RAIL_DATA_MAX;
	r[0].m = 2;
	assert_int_equal(slot_shape_init(&s, r, 1, 10), 0);
	r[0].data_bytes[1] = UINT64_MAX;
	assert_int_equal(slot_shape_init(&s, r, 1, 10), FTMEM_EINVAL);
}

static void slots_beyond_the_address_space_are_refused(void **state)
{
	struct rail *r = calloc(ARENA_RAILS_MAX, sizeof(*r));
	struct slot_shape *s = malloc(sizeof(*s));

	(void)state;
	assert_non_null(r);
	assert_non_null(s);
	for (uint32_t i = 0; i < ARENA_RAILS_MAX; i++) {
		r[i] = (struct rail){.id = i, .n = 2, .m = 1, .block_bytes = 1u << 31};
		r[i].rank[1] = 1;
		r[i].data_bytes[1] = RAIL_DATA_MAX;
	}
	assert_int_equal(slot_shape_init(s, r, ARENA_RAILS_MAX, 0), FTMEM_EINVAL);
	assert_non_null(strstr(error_msg(), "address space"));
	free(s);
	free(r);
}

static void states_follow_what_is_published(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, 100000, 3);
	expect(&f, SLOT_EMPTY, (struct stamp){0}, false);
	slot_set_filling(&f.slot, stamp7);
	expect(&f, SLOT_FILLING, (struct stamp){0}, false);
	assert_true(f.slot.header->filled_ns > 0);
	slot_set_prepared(&f.slot, stamp7);
	expect(&f, SLOT_PREPARED, stamp7, false);
	slot_set_committed(&f.slot);
	expect(&f, SLOT_COMMITTED, stamp7, false);
	slot_set_empty(&f.slot);
	expect(&f, SLOT_EMPTY, (struct stamp){0}, false);
	tear_down(&f);
}

static void the_largest_version_fits_the_state_word(void **state)
{
	const struct stamp most = {UINT64_MAX, FTMEM_VERSION_MAX - 1};
	struct fixture f;

	(void)state;
	set_up(&f, 1, 1);
	slot_set_filling(&f.slot, most);
	slot_set_prepared(&f.slot, most);
	expect(&f, SLOT_PREPARED, most, false);
	slot_set_committed(&f.slot);
	expect(&f, SLOT_COMMITTED, most, false);
	tear_down(&f);
}

static void every_flipped_bit_of_a_header_is_found(void **state)
{
	struct fixture f;
	uint8_t *byte;

	(void)state;
	set_up(&f, 100000, 3);
	for (int committed = 0; committed < 2; committed++) {
		publish(&f);
		if (committed)
			slot_set_committed(&f.slot);
		byte = (uint8_t *)f.slot.header;
		for (size_t bit = 0; bit < 8 * offsetof(struct slot_header, filled_ns); bit++) {
			byte[bit / 8] ^= (uint8_t)(1u << bit % 8);
			expect(&f, SLOT_EMPTY, (struct stamp){0}, true);
			byte[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		expect(&f, committed ? SLOT_COMMITTED : SLOT_PREPARED, stamp7, false);
	}
	tear_down(&f);
}

static void every_flipped_bit_of_the_tables_is_found(void **state)
{
	struct fixture f;
	uint8_t *byte;

	(void)state;
	set_up(&f, 10000, 3);
	publish(&f);
	byte = (uint8_t *)f.slot.sums;
	for (size_t bit = 0; bit < 8 * f.shape.sums_bytes; bit++) {
		byte[bit / 8] ^= (uint8_t)(1u << bit % 8);
		expect(&f, SLOT_EMPTY, (struct stamp){0}, true);
		byte[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	expect(&f, SLOT_PREPARED, stamp7, false);
	tear_down(&f);
}

static void a_flipped_bit_never_makes_a_version_of_an_empty_slot(void **state)
{
	struct fixture f;
	uint64_t clean;

	(void)state;
	set_up(&f, 100, 1);
	publish(&f);
	slot_set_committed(&f.slot);
	/* The header still fits version 7: only the state word says otherwise. */
	for (int filling = 0; filling < 2; filling++) {
		clean = filling ? 7 << 8 | SLOT_FILLING : SLOT_EMPTY;
		for (unsigned bit = 0; bit < 64; bit++) {
			struct stamp stamp;
			enum slot_state got;
			bool damaged;

			atomic_store(&f.slot.header->state, clean ^ UINT64_C(1) << bit);
			got = slot_read(&f.slot, &stamp, &damaged);
			assert_true(got == SLOT_EMPTY || got == SLOT_FILLING);
			assert_int_equal(got == SLOT_EMPTY, damaged);
		}
	}
	tear_down(&f);
}

static void a_torn_state_word_is_no_version(void **state)
{
	const uint64_t old = UINT64_C(0x0123456789abcd) << 8 | SLOT_COMMITTED;
	const uint64_t new = UINT64_C(0x0765432fedcba1) << 8 | SLOT_PREPARED;
	struct fixture f;

	(void)state;
	set_up(&f, 100, 1);
	slot_set_prepared(&f.slot, (struct stamp){1, new >> 8});
	for (unsigned cut = 1; cut < 8; cut++) {
		uint64_t low = (UINT64_C(1) << 8 * cut) - 1;

		atomic_store(&f.slot.header->state, (old & ~low) | (new &low));
		expect(&f, SLOT_EMPTY, (struct stamp){0}, true);
	}
	tear_down(&f);
}

static void tables_of_another_shape_are_no_version(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, 100000, 3);
	publish(&f);
	f.shape.sums_bytes -= 4;
	expect(&f, SLOT_EMPTY, (struct stamp){0}, true);
	tear_down(&f);
}

struct found {
	uint32_t count, rail, index, row;
	bool parity;
};

static void note(void *arg, uint32_t rail, bool parity, uint32_t index, uint32_t row)
{
	struct found *f = arg;

	*f = (struct found){f->count + 1, rail, index, row, parity};
}

static void check_found(struct fixture *f, uint8_t *at, uint32_t bytes, const struct found *want)
{
	struct found found = {0};

	if (!bytes)
		return;
	at[bytes - 1] ^= 0x10;
	assert_int_equal(slot_verify(&f->slot, note, &found), 1);
	at[bytes - 1] ^= 0x10;
	assert_memory_equal(&found, want, offsetof(struct found, parity) + sizeof(bool));
}

static void verify_names_each_bad_block(void **state)
{
	static const uint64_t sizes[] = {0, 1, 4095, 100001};
	struct fixture f;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		set_up(&f, sizes[i], 3);
		assert_int_equal(slot_verify(&f.slot, NULL, NULL), 0);
		for (uint32_t c = 0; c < 2; c++)
			for (uint32_t row = 0; row < rail_chunk_rows(&f.rail[0], 1); row++)
				check_found(&f,
				            f.slot.data + rail_data_offset(&f.rail[0], 1, c, row),
				            rail_data_len(&f.rail[0], 1, c, row),
				            &(struct found){1, 0, c, row, false});
		for (uint32_t r = 0; r < 3; r++)
			for (uint32_t p = 0; p < f.rail[r].m; p++)
				for (uint32_t row = 0; row < rail_rows(&f.rail[r]); row++)
					check_found(&f,
					            slot_parity(&f.slot, r, p)
					                    + (uint64_t)row * BLOCK,
					            rail_parity_len(&f.rail[r], row),
					            &(struct found){1, r, p, row, true});
		tear_down(&f);
	}
}

static void verify_counts_all_bad_blocks(void **state)
{
	struct fixture f;
	struct found found = {0};
	uint64_t bad;

	(void)state;
	set_up(&f, 100000, 2);
	memset(f.slot.sums, 0x5e, f.shape.sums_bytes);
	bad = slot_verify(&f.slot, note, &found);
	assert_int_equal(bad, found.count);
	assert_int_equal(found.count, rail_data_blocks(&f.rail[0], 1) + 2 * rail_rows(&f.rail[0])
	                                      + rail_rows(&f.rail[1]));
	tear_down(&f);
}

/* Publishes version after version until it is ended. */
static void write_on(struct fixture *f)
{
	for (uint64_t v = 1;; v++) {
		const struct stamp stamp = {v * 3, v};

		slot_set_filling(&f->slot, stamp);
		for (uint64_t i = 0; i < f->shape.sums_bytes / 4; i++)
			f->slot.sums[i] = (uint32_t)(v + i);
		slot_set_prepared(&f->slot, stamp);
		if (v % 2)
			slot_set_committed(&f->slot);
		if (v % 3 == 0)
			slot_set_empty(&f->slot);
	}
}

static void a_reader_beside_a_writer_sees_no_torn_version(void **state)
{
	unsigned seen = 0;
	struct fixture f;
	pid_t writer;

	(void)state;
	set_up(&f, 20000, 3);
	writer = fork();
	assert_true(writer >= 0);
	if (!writer) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		write_on(&f);
	}
	while (seen < 300) {
		struct stamp stamp;
		bool damaged;
		enum slot_state got = slot_read(&f.slot, &stamp, &damaged);

		assert_false(damaged);
		if (got == SLOT_PREPARED || got == SLOT_COMMITTED) {
			assert_true(stamp.version && stamp.incarnation == stamp.version * 3);
			seen++;
		}
	}
	kill(writer, SIGKILL);
	assert_int_equal(waitpid(writer, NULL, 0), writer);
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_checksum_has_one_place),
		cmocka_unit_test(parts_are_pages_that_do_not_overlap),
		cmocka_unit_test(rails_that_make_no_sense_are_refused),
		cmocka_unit_test(slots_beyond_the_address_space_are_refused),
		cmocka_unit_test(states_follow_what_is_published),
		cmocka_unit_test(the_largest_version_fits_the_state_word),
		cmocka_unit_test(every_flipped_bit_of_a_header_is_found),
		cmocka_unit_test(every_flipped_bit_of_the_tables_is_found),
		cmocka_unit_test(a_flipped_bit_never_makes_a_version_of_an_empty_slot),
		cmocka_unit_test(a_torn_state_word_is_no_version),
		cmocka_unit_test(tables_of_another_shape_are_no_version),
		cmocka_unit_test(verify_names_each_bad_block),
		cmocka_unit_test(verify_counts_all_bad_blocks),
		cmocka_unit_test(a_reader_beside_a_writer_sees_no_torn_version),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
