/* SPDX-License-Identifier: BSD-3-Clause */
/* What the scrubber finds, whom it does not blame, how fast it reads. */
#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>

#include "scrub_fixture.h"

/* --- good arenas --- */

static void what_is_whole_is_said_to_be(void **state)
{
	struct fixture *f = *state;
	struct wire_slot s;

	fill_slot(f, &f->arena->slot[1], VERSION + 1);
	assert_int_equal(told(f, 0).check.checked_ns, 0);
	run(f, 5);
	for (int i = 0; i < 2; i++) {
		s = told(f, i);
		assert_int_equal(s.version, VERSION + (unsigned)i);
		assert_true(s.check.checked_ns > 0);
		assert_int_equal(s.check.bad, 0);
		assert_true(s.check.bytes > DATA);
		assert_int_equal(s.check.done, s.check.bytes);
	}
	assert_true(is_whole(f));
	assert_int_equal(f->warnings, 0);
}

static void only_committed_slots_are_read(void **state)
{
	struct fixture *f = *state;

	slot_set_filling(&f->arena->slot[1], (struct stamp){3, VERSION + 1});
	run(f, 5);
	slot_set_prepared(&f->arena->slot[1], (struct stamp){3, VERSION + 1});
	look_again(f);
	assert_int_equal(told(f, 1).check.checked_ns, 0);
	slot_set_committed(&f->arena->slot[1]);
	run(f, 5);
	/* It was never filled with anything that fits. */
	assert_int_not_equal(told(f, 1).check.bad, 0);
}

static void a_new_version_is_unknown_until_it_is_read(void **state)
{
	struct fixture *f = *state;

	f->arena->slot[0].data[5] ^= 1;
	run(f, 5);
	assert_int_equal(told(f, 0).check.bad, 1);
	fill_slot(f, &f->arena->slot[0], VERSION + 2);
	assert_int_equal(told(f, 0).check.bad, 0);
	assert_int_equal(told(f, 0).check.checked_ns, 0);
	run(f, 5);
	assert_true(told(f, 0).check.checked_ns > 0);
	assert_true(is_whole(f));
}

static void memory_that_was_never_written_is_no_damage(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(store_create(f->store, EPOCH + 1, 0, BLOCK * 100, &f->me, &fd), 0);
	run(f, 5);
	assert_int_equal(store_at(f->store, 1)->check.damage, 0);
	assert_int_equal(f->warnings, 0);
}

/* --- damage --- */

static struct wire_block only_block(struct fixture *f)
{
	struct wire_slot s = told(f, 0);

	assert_int_equal(s.check.damage, 0);
	assert_int_equal(s.check.bad, 1);
	assert_int_equal(s.check.named, 1);
	return s.check.block[0];
}

/* Flips a bit of the block, looks, and puts it right again. */
static void try_block(struct fixture *f, uint8_t *at, uint32_t bytes, struct wire_block want)
{
	uint32_t bit = test_random_below(&f->random, bytes * 8);
	struct wire_block got;

	at[bit / 8] ^= (uint8_t)(1u << bit % 8);
	look_again(f);
	got = only_block(f);
	assert_memory_equal(&got, &want, sizeof(want));
	assert_int_equal(f->warnings, 1);
	assert_non_null(strstr(f->lines, "damaged blocks: 1, the first:"));
	at[bit / 8] ^= (uint8_t)(1u << bit % 8);
	look_again(f);
	assert_true(is_whole(f));
	assert_non_null(strstr(f->lines, "nothing is damaged any more"));
}

static void a_flip_in_any_block_is_found_and_named(void **state)
{
	struct fixture *f = *state;
	const struct slot *s = &f->arena->slot[0];
	const struct rail *r = s->shape->rail;
	uint32_t member = s->shape->member[0], tried = 0;

	for (uint32_t c = 0; c < rail_k(r); c++)
		for (uint32_t row = 0; row < rail_chunk_rows(r, member); row++) {
			uint32_t bytes = rail_data_len(r, member, c, row);

			if (!bytes)
				continue;
			try_block(f, s->data + rail_data_offset(r, member, c, row), bytes,
			          (struct wire_block){0, 0, c, row});
			tried++;
		}
	for (uint32_t i = 0; i < s->shape->rails; i++)
		for (uint32_t row = 0; row < rail_rows(&s->shape->rail[i]); row++, tried++)
			try_block(f, slot_parity(s, i, 0) + (uint64_t)row * BLOCK,
			          rail_parity_len(&s->shape->rail[i], row),
			          (struct wire_block){i, 1, 0, row});
	assert_true(tried > 12);
}

static void many_damaged_blocks_are_counted_and_some_named(void **state)
{
	struct fixture *f = *state;
	const struct slot *s = &f->arena->slot[0];
	uint64_t blocks = slot_verify(s, NULL, NULL);

	assert_int_equal(blocks, 0);
	for (uint64_t i = BLOCK * 2; i < s->shape->slot_bytes; i += 64)
		s->base[i] ^= 0x10;
	blocks = slot_verify(s, NULL, NULL);
	assert_true(blocks > 12);
	run(f, 5);
	assert_int_equal(told(f, 0).check.bad, blocks);
	assert_int_equal(told(f, 0).check.named, WIRE_BLOCKS);
	/* When the first was found, and when all were known. */
	assert_int_equal(f->warnings, 2);
	look_again(f);
	assert_int_equal(told(f, 0).check.bad, blocks);
	assert_int_equal(f->warnings, 0);
}

static void a_flip_in_the_checksums_is_no_damaged_block(void **state)
{
	struct fixture *f = *state;
	const struct slot *s = &f->arena->slot[0];

	for (uint64_t i = 0; i < s->shape->sums_bytes; i += 3) {
		((uint8_t *)s->sums)[i] ^= 0x80;
		look_again(f);
		assert_int_equal(told(f, 0).check.damage, WIRE_DAMAGE_SUMS);
		assert_int_equal(told(f, 0).check.bad, 0);
		assert_non_null(strstr(f->lines, "damaged: checksums"));
		((uint8_t *)s->sums)[i] ^= 0x80;
		look_again(f);
		assert_true(is_whole(f));
	}
}

/* All bits that a checksum covers, and those of the state word. */
static void a_flip_in_a_slots_header_is_found(void **state)
{
	struct fixture *f = *state;
	uint8_t *at = f->arena->slot[0].base;
	uint32_t damage;

	for (uint32_t bit = 0; bit < 40 * 8; bit++) {
		at[bit / 8] ^= (uint8_t)(1u << bit % 8);
		look_again(f);
		damage = told(f, 0).check.damage;
		assert_int_equal(damage, bit < 8 ? WIRE_DAMAGE_STATE : WIRE_DAMAGE_HEADER);
		at[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	look_again(f);
	assert_true(is_whole(f));
}

/* Wherever a bit of a slot flips, the scrubber says what a reader that maps it would find. */
static void random_flips_are_found_as_a_reader_finds_them(void **state)
{
	struct fixture *f = *state;
	struct slot *s = &f->arena->slot[0];
	unsigned tries = test_quick() ? 300 : test_full() ? 200000 : 3000, found = 0;

	for (unsigned i = 0; i < tries; i++) {
		uint32_t bits = (uint32_t)s->shape->slot_bytes * 8, bit;
		const struct store_entry *e = NULL;
		struct wire_check check;
		struct stamp stamp;
		bool damaged;
		uint64_t bad;

		/* Every fourth hits the header and the checksums. */
		bit = test_random_below(&f->random, i % 4 ? bits : 2 * BLOCK * 8);
		if (i % 4 == 0 && bit >= BLOCK * 8)
			bit = BLOCK * 8 + bit % ((uint32_t)s->shape->sums_bytes * 8);
		else if (i % 4 == 0)
			bit %= sizeof(struct slot_header) * 8;
		s->base[bit / 8] ^= (uint8_t)(1u << bit % 8);
		slot_read(s, &stamp, &damaged);
		bad = damaged ? 0 : slot_verify(s, NULL, NULL);
		assert_int_equal(store_check(f->store, EPOCH, RANK, true, &e), 0);
		run(f, 1);
		check = told(f, 0).check;
		assert_int_equal(check.damage != WIRE_WHOLE, damaged);
		assert_int_equal(check.bad, bad);
		found += damaged || bad;
		s->base[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	printf("  %u bits flipped, %u of them where a checksum covers them, all found\n", tries,
	       found);
}

static void try_description(struct fixture *f, uint64_t from, uint64_t bytes, uint32_t want)
{
	for (uint64_t i = from; i < from + bytes; i++) {
		f->arena->base[i] ^= (uint8_t)(1u << i % 8);
		look_again(f);
		assert_int_equal(arena_damage(f), want);
		f->arena->base[i] ^= (uint8_t)(1u << i % 8);
	}
	look_again(f);
	assert_true(is_whole(f));
}

static void a_flip_in_the_arenas_description_is_found(void **state)
{
	struct fixture *f = *state;
	const struct arena_header *h = f->arena->header;

	run(f, 5);
	try_description(f, 0, sizeof(*h), WIRE_DAMAGE_HEADER);
	try_description(f, h->map_offset, h->map_bytes, WIRE_DAMAGE_MAP);
	try_description(f, h->rails_offset, h->rails_bytes, WIRE_DAMAGE_RAILS);
}

static void a_page_that_cannot_be_read_is_a_damaged_block(void **state)
{
	struct fixture *f = *state;
	const struct slot *s = &f->arena->slot[0];

	watch.bad_at = (uint64_t)(s->data - f->arena->base) + BLOCK + 9;
	run(f, 5);
	assert_int_equal(only_block(f).row, 1);
	watch.bad_at = (uint64_t)((uint8_t *)s->sums - f->arena->base);
	look_again(f);
	assert_int_equal(told(f, 0).check.damage, WIRE_DAMAGE_SUMS);
	watch.bad_at = (uint64_t)(s->base - f->arena->base);
	look_again(f);
	assert_int_equal(told(f, 0).check.damage, WIRE_DAMAGE_HEADER);
	watch.bad_at = f->arena->header->map_offset;
	look_again(f);
	assert_int_equal(arena_damage(f), WIRE_DAMAGE_MAP);
	watch.bad_at = 8;
	look_again(f);
	assert_int_equal(arena_damage(f), WIRE_DAMAGE_HEADER);
	watch.bad_at = 0;
	look_again(f);
	assert_true(is_whole(f));
}

/* --- writers --- */

static void begin_version(void *arg)
{
	struct fixture *f = arg;
	struct slot *s = &f->arena->slot[0];

	slot_set_filling(s, (struct stamp){3, ++f->version});
	memset(s->data, 0x77, DATA);
	s->sums[0] ^= 1;
}

static void whole_version(void *arg)
{
	fill_next(arg);
}

/* Before and after each read of a look a trainer writes its next version, in part or whole. */
static void a_slot_that_is_written_meanwhile_is_not_blamed(void **state)
{
	static void (*const write[])(void *) = {begin_version, whole_version};
	struct fixture *f = *state;
	unsigned read, tried = 0;

	/* The second half with an arena of several steps, not after each read. */
	for (int i = 0; i < 8; i++) {
		if (i == 4)
			enlarge(f, 150 * BLOCK);
		for (read = 1;; read += i < 4 ? 1 : 11, tried++) {
			fill_next(f);
			watch.trigger = read;
			watch.after = i & 1;
			watch.hook = write[i / 2 % 2];
			watch.arg = f;
			run(f, 2);
			assert_true(is_whole(f));
			assert_int_equal(f->warnings, 0);
			if (watch.trigger > 0)
				break;
		}
	}
	watch.trigger = 0;
	assert_true(tried > 4 * 40);
}

static void flip(void *arg)
{
	*(uint8_t *)arg ^= 4;
}

/* One that mends in place, while the slot stays committed, is seen half-way at most once. */
static void a_block_that_is_mended_at_this_moment_is_read_again(void **state)
{
	struct fixture *f = *state;
	const struct slot *s;
	const uint8_t *at[2];

	enlarge(f, 150 * BLOCK);
	s = &f->arena->slot[0];
	at[0] = &s->data[BLOCK + 3];
	at[1] = (const uint8_t *)&s->sums[1];
	for (int i = 0; i < 2; i++) {
		fill_next(f);
		watch.trigger_at = (uint64_t)(at[i] - f->arena->base);
		watch.after = true;
		watch.hook = flip;
		watch.arg = (void *)(uintptr_t)at[i];
		flip(watch.arg);
		run(f, 5);
		assert_int_equal(watch.trigger_at, 0);
		assert_true(is_whole(f));
		assert_int_equal(f->warnings, 0);
		assert_true(told(f, 0).check.checked_ns > 0);
	}
}

static void blocks_are_read_in_turn_where_versions_come_fast(void **state)
{
	struct fixture *f = *state;
	uint64_t pages, first, end, unread = 0;

	enlarge(f, 400 * BLOCK);
	pages = f->arena->bytes / BLOCK;
	watch.fd = store_at(f->store, 0)->fd;
	watch.reads = calloc(pages, 1);
	watch.pages = pages;
	first = (uint64_t)(f->arena->slot[0].data - f->arena->base) / BLOCK;
	end = first + (f->arena->header->slot_bytes - f->arena->shape.data_offset) / BLOCK;
	for (unsigned i = 1; i < 40; i++) {
		fill_next(f);
		/* Of each version not all is read before the next comes. */
		watch.trigger = 250;
		watch.after = false;
		watch.hook = begin_version;
		watch.arg = f;
		run(f, 3);
		assert_int_equal(watch.trigger, 0);
	}
	for (uint64_t p = first; p < end; p++)
		unread += !watch.reads[p];
	assert_int_equal(unread, 0);
	assert_int_equal(f->warnings, 0);
}

/* --- pace --- */

static void it_reads_no_faster_than_it_may(void **state)
{
	struct fixture *f = *state;

	for (uint32_t rate = 1; rate <= 64; rate *= 8) {
		uint64_t begin = f->now, most;

		watch.bytes = 0;
		for (unsigned i = 0; i < 400; i++) {
			/* New versions all the time: it is never done. */
			if (i % 4 == 0)
				fill_slot(f, &f->arena->slot[i / 4 % 2],
				          VERSION + 10 + i + rate * 1000);
			if (scrub_due(f->scrub) > f->now)
				f->now = scrub_due(f->scrub);
			scrub_step(f->scrub, rate, f->now);
		}
		/* What a sixteenth of a second gives, and one step, may be ahead. */
		most = (uint64_t)((double)(f->now - begin) * 1e-9 * rate * 1048576.0)
		       + (rate << 16) + 256 * 1024;
		assert_true(watch.bytes <= most);
		assert_true(watch.bytes > 0);
	}
}

static void nothing_is_read_twice_before_its_time(void **state)
{
	struct fixture *f = *state;
	uint64_t pages = f->arena->bytes / BLOCK;

	fill_slot(f, &f->arena->slot[1], VERSION + 1);
	watch.fd = store_at(f->store, 0)->fd;
	watch.reads = calloc(pages, 1);
	watch.pages = pages;
	run(f, SCRUB_AGAIN_S - 2);
	for (uint64_t p = 0; p < pages; p++)
		assert_true(watch.reads[p] <= 3); /* blocks of three chunks may lie there */
	watch.bytes = 0;
	run(f, 5);
	assert_true(watch.bytes > 2 * DATA);
	/* Then it only asks now and then. */
	watch.bytes = 0;
	assert_true(run(f, 500) < 1100);
	assert_true(watch.bytes < 2000 * sizeof(struct arena_header));
}

static void who_is_asked_for_comes_first(void **state)
{
	struct fixture *f = *state;
	struct arena *other[20];
	const struct store_entry *e = NULL;

	for (unsigned i = 0; i < 20; i++)
		other[i] = arena_in_store(f, EPOCH + 1 + i);
	other[17]->slot[0].data[1] ^= 1;
	run(f, 20);
	assert_int_equal(store_check(f->store, EPOCH + 18, RANK, false, &e), 0);
	assert_int_equal(e->check.slot[0].found.bad, 1);
	/* There is much to do, and it rests. */
	for (unsigned i = 0; i < 20; i++)
		if (i != 17)
			fill_slot(f, &other[i]->slot[1], VERSION + 1);
	assert_true(scrub_due(f->scrub) >= f->now);
	/* It was mended: nothing is known of it, then good. */
	other[17]->slot[0].data[1] ^= 1;
	assert_int_equal(store_check(f->store, EPOCH + 18, RANK, true, &e), 0);
	assert_int_equal(e->check.slot[0].found.bad, 0);
	assert_int_equal(e->check.slot[0].found.checked_ns, 0);
	assert_true(scrub_due(f->scrub) < f->now);
	for (unsigned i = 0; i < 6; i++)
		scrub_step(f->scrub, MIB_S, f->now++);
	assert_true(e->check.slot[0].found.checked_ns > 0);
	assert_int_equal(e->check.slot[0].found.bad, 0);
	assert_int_equal(store_check(f->store, EPOCH + 99, RANK, true, &e), FTMEM_EINVAL);
	run(f, 10);
	for (unsigned i = 0; i < 20; i++)
		arena_free(other[i]);
}

static void arenas_may_come_and_go_at_any_step(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 400; i++) {
		uint64_t epoch = EPOCH + 1 + test_random_below(&f->random, 6);
		const struct store_entry *e = NULL;
		int32_t pid;

		if (store_check(f->store, epoch, RANK, i % 3 == 0, &e))
			arena_free(arena_in_store(f, epoch));
		else
			assert_int_equal(store_drop(f->store, epoch, RANK, &f->me, &pid), 0);
		for (uint32_t n = test_random_below(&f->random, 4); n > 0; n--)
			scrub_step(f->scrub, MIB_S, f->now += SECOND);
	}
	run(f, 30);
	for (uint64_t i = 0; i < store_count(f->store); i++)
		assert_true(store_at(f->store, i)->check.slot[0].found.checked_ns > 0);
	assert_int_equal(f->warnings, 0);
}

/* --- hostile arenas --- */

/* Memory of so many bytes that begins with h, its checksum made right. */
static void hand_over(struct fixture *f, struct arena_header h, uint64_t bytes, const void *rails)
{
	int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int32_t pid;

	h.header_sum = arena_header_sum(&h);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	if (rails && h.rails_offset < bytes && h.rails_bytes <= bytes - h.rails_offset)
		assert_true(pwrite(fd, rails, h.rails_bytes, (off_t)h.rails_offset) > 0);
	assert_int_equal(pwrite(fd, &h, sizeof(h), 0), sizeof(h));
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL), 0);
	if (store_adopt(f->store, h.epoch, h.rank, fd, &f->me, &pid))
		fail_msg("%s", error_msg());
}

/* Of fields that are right, some are changed, now and then to what is nearly so. */
static void a_hostile_header_costs_nothing(void **state)
{
	struct fixture *f = *state;
	const struct arena_header good = *f->arena->header;
	struct mallinfo2 before;
	uint8_t *rails = malloc(good.rails_bytes);

	memcpy(rails, f->arena->base + good.rails_offset, good.rails_bytes);
	run(f, 5);
	for (unsigned i = 0; i < (test_quick() ? 400 : 4000); i++) {
		struct arena_header h = good;
		uint64_t *word = (uint64_t *)(void *)&h;
		uint32_t changes = 1 + test_random_below(&f->random, 3);
		unsigned steps;

		for (uint32_t n = 0; n < changes; n++) {
			/* From geometry to slot_bytes, and rails_bytes. */
			uint32_t at = 4 + test_random_below(&f->random, 12);

			word[at == 15 ? 31 : at] =
				test_random(&f->random) >> test_random_below(&f->random, 64);
		}
		h.epoch = EPOCH + 1;
		h.rank = RANK;
		h.arena_bytes = f->arena->bytes;
		hand_over(f, h, f->arena->bytes, h.rails_bytes == good.rails_bytes ? rails : NULL);
		before = mallinfo2();
		watch.bytes = 0;
		steps = run(f, 3);
		assert_true(steps < 50);
		assert_true(watch.bytes < 4 * f->arena->bytes + 8 * 1048576);
		assert_int_equal(mallinfo2().uordblks, before.uordblks);
		store_retire(f->store, EPOCH + 2);
	}
	free(rails);
}

/* Much is said to be there, of which nothing is. */
static void a_huge_arena_without_memory_is_not_walked(void **state)
{
	struct fixture *f = *state;
	struct map *map = f->map;
	struct rail rails[2];
	struct arena_spec spec = {.job = "job", .node = "b", .epoch = EPOCH + 1, .rank = RANK,
	                          .map = map, .rails = rails, .rails_count = 2};
	struct slot_header slot = {.version = VERSION};
	struct slot_shape shape;
	struct arena *a = NULL;
	uint64_t bytes = 0, sums;
	int fd = -1;

	rails_of(map, DATA, rails);
	for (uint32_t m = 0; m < rails[0].n; m++)
		rails[0].data_bytes[m] = UINT64_C(1) << 40;
	assert_int_equal(arena_bytes(&spec, &bytes), 0);
	assert_true(bytes > UINT64_C(1) << 41);
	assert_int_equal(slot_shape_init(&shape, rails, 2, RANK), 0);
	sums = shape.sums_bytes;
	assert_int_equal(store_create(f->store, EPOCH + 1, RANK, bytes, &f->me, &fd), 0);
	assert_int_equal(arena_create(dup(fd), &spec, &a), 0);
	/* Committed without ever reading it all, as slot_set_prepared() would. */
	slot.sums_bytes = sums;
	slot.header_sum = slot_header_sum(&slot);
	atomic_init(&slot.state, (uint64_t)VERSION << 8 | SLOT_COMMITTED);
	assert_int_equal(pwrite(fd, &slot, sizeof(slot), (off_t)a->header->slot_offset[0]),
	                 sizeof(slot));
	arena_free(a);
	watch.bytes = 0;
	run(f, 20);
	assert_int_equal(store_at(f->store, 1)->check.slot[0].found.damage, WIRE_DAMAGE_MISSING);
	assert_true(told(f, 0).check.checked_ns > 0);
	assert_true(watch.bytes < 8 * 1048576);
}

/* So is a map. */
static void a_huge_map_without_memory_is_not_read(void **state)
{
	struct fixture *f = *state;
	struct arena_header h = *f->arena->header;
	uint8_t *rails = malloc(h.rails_bytes);

	memcpy(rails, f->arena->base + h.rails_offset, h.rails_bytes);
	h.epoch = EPOCH + 1;
	h.arena_bytes = UINT64_C(1) << 50;
	h.slot_offset[0] = h.arena_bytes - 2 * h.slot_bytes;
	h.slot_offset[1] = h.arena_bytes - h.slot_bytes;
	h.map_bytes = UINT64_C(1) << 49;
	h.map_offset = 2 * BLOCK;
	h.rails_offset = BLOCK;
	hand_over(f, h, h.arena_bytes, rails);
	run(f, 20);
	assert_int_equal(store_at(f->store, 1)->check.damage, WIRE_DAMAGE_HEADER);
	assert_true(told(f, 0).check.checked_ns > 0);
	assert_true(watch.bytes < 8 * 1048576);
	free(rails);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_is_whole_is_said_to_be),
		TEST(only_committed_slots_are_read),
		TEST(a_new_version_is_unknown_until_it_is_read),
		TEST(memory_that_was_never_written_is_no_damage),
		TEST(a_flip_in_any_block_is_found_and_named),
		TEST(many_damaged_blocks_are_counted_and_some_named),
		TEST(a_flip_in_the_checksums_is_no_damaged_block),
		TEST(a_flip_in_a_slots_header_is_found),
		TEST(random_flips_are_found_as_a_reader_finds_them),
		TEST(a_flip_in_the_arenas_description_is_found),
		TEST(a_page_that_cannot_be_read_is_a_damaged_block),
		TEST(a_slot_that_is_written_meanwhile_is_not_blamed),
		TEST(a_block_that_is_mended_at_this_moment_is_read_again),
		TEST(blocks_are_read_in_turn_where_versions_come_fast),
		TEST(it_reads_no_faster_than_it_may),
		TEST(nothing_is_read_twice_before_its_time),
		TEST(who_is_asked_for_comes_first),
		TEST(arenas_may_come_and_go_at_any_step),
		TEST(a_hostile_header_costs_nothing),
		TEST(a_huge_arena_without_memory_is_not_walked),
		TEST(a_huge_map_without_memory_is_not_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
