/* SPDX-License-Identifier: BSD-3-Clause */
/* ftmem layout, of arenas as four ranks on four nodes leave them. */
#include "layout.h"
#include "smp_fixture.h"

#define RANKS 4u
#define OUT   16384

static char program[4096];

/* Four nodes in one group that may lose one. */
struct job {
	const struct smp_fixture *f;
	struct smp_client *client[RANKS];
	struct arena *arena[RANKS];
	struct layout *layout[RANKS];
	struct map *map;
};

static const char *const nodes[RANKS] = {"n0", "n1", "n2", "n3"};

static int ftmem(const struct smp_fixture *f, char out[OUT], const char *const *args)
{
	char *argv[10] = {"ftmem", "--dir", (char *)(uintptr_t)f->dir, "layout"};

	for (int i = 0; args[i] && i < 5; i++)
		argv[4 + i] = (char *)(uintptr_t)args[i];
	return smp_run(program, argv, out, OUT);
}

#define LAYOUT(...) ftmem(f, out, (const char *const[]){__VA_ARGS__, NULL})

static void expect(const char *out, const char *text)
{
	if (!strstr(out, text))
		fail_msg("'%s' is not in:\n%s", text, out);
}

static void expect_not(const char *out, const char *text)
{
	if (strstr(out, text))
		fail_msg("'%s' is in:\n%s", text, out);
}

static struct map *map_of_four(void)
{
	struct map_rank place[RANKS] = {0};
	struct map *map = NULL;

	for (unsigned i = 0; i < RANKS; i++)
		strcpy(place[i].node, nodes[i]);
	assert_int_equal(map_new(place, RANKS, 4, 1, &map), 0);
	return map;
}

static void add(struct region_set *set, const char *name, uint32_t ndim, const uint64_t *shape,
                const uint64_t *start, const uint64_t *extent)
{
	static uint8_t memory[1024];
	struct ftmem_region r = FTMEM_REGION_INIT;

	r.name = name;
	r.addr = memory;
	r.bytes = ndim ? 4 : 8;
	r.elem_bytes = ndim ? 4 : 0;
	r.ndim = ndim;
	for (uint32_t d = 0; d < ndim; d++) {
		r.shape[d] = shape[d];
		r.start[d] = start[d];
		r.extent[d] = extent[d];
		r.bytes *= extent[d];
	}
	assert_int_equal(region_set_add(set, &r, DEVICE_HOST), 0);
}

/* "w" is the same on all ranks and stored by rows, "m" in shards, "rng" private. */
static struct layout *layout_of(uint32_t rank)
{
	struct layout_piece piece[2] = {
		{.region = 0, .box = {2, {2 * rank, 0}, {2, 16}}},
		{.region = 1, .box = {1, {16 * rank}, {16}}},
	};
	struct layout *l = NULL;
	struct region_set *set = NULL;

	assert_int_equal(region_set_new(&set), 0);
	add(set, "w", 2, (uint64_t[]){8, 16}, (uint64_t[]){0, 0}, (uint64_t[]){8, 16});
	add(set, "m", 1, (uint64_t[]){64}, (uint64_t[]){16 * (uint64_t)rank}, (uint64_t[]){16});
	add(set, "rng", 0, NULL, NULL, NULL);
	assert_int_equal(layout_freeze(set, &l), 0);
	assert_int_equal(layout_settle(l, piece, 2), 0);
	region_set_free(set);
	return l;
}

/* What a rank that has no regions leaves. */
static struct layout *layout_of_nothing(void)
{
	struct region_set *set = NULL;
	struct layout *l = NULL;

	assert_int_equal(region_set_new(&set), 0);
	assert_int_equal(layout_freeze(set, &l), 0);
	assert_int_equal(layout_settle(l, NULL, 0), 0);
	region_set_free(set);
	return l;
}

static struct smp_client *connect_to(const struct smp_fixture *f, const char *node, uint32_t rank)
{
	struct smp_fixture other = *f;

	other.config.node = node;
	return smp_fixture_connect(&other, rank);
}

static struct arena *make_arena(const struct job *j, struct smp_client *c, uint64_t epoch,
                                const char *node, uint32_t rank)
{
	struct arena_spec spec = {.job = "job", .node = node, .epoch = epoch, .rank = rank,
	                          .map = j->map, .rails_count = 1};
	struct arena *a = NULL;
	struct rail rail;
	uint64_t bytes = 0;
	int fd = -1;

	map_rail(j->map, 0, &rail);
	rail.block_bytes = 4096;
	for (uint32_t i = 0; i < RANKS; i++)
		rail.data_bytes[i] = j->layout[i]->data_bytes;
	spec.rails = &rail;
	assert_int_equal(arena_bytes(&spec, &bytes), 0);
	assert_int_equal(smp_create(c, epoch, rank, bytes, &fd), 0);
	assert_int_equal(arena_create(fd, &spec, &a), 0);
	return a;
}

static void fill(struct slot *s, const struct layout *l, uint64_t version, bool commit)
{
	const struct stamp stamp = {1, version};

	slot_set_filling(s, stamp);
	memset(s->data, 0x55, s->shape->data_bytes);
	if (l->blob_bytes)
		memcpy(s->data, l->blob, l->blob_bytes);
	smp_arena_sums(s);
	slot_set_prepared(s, stamp);
	if (commit)
		slot_set_committed(s);
}

/* Makes the ranks' arenas anew, for what their layouts are now. */
static void job_refill(struct job *j)
{
	for (uint32_t r = 0; r < RANKS; r++) {
		arena_free(j->arena[r]);
		assert_int_equal(smp_drop(j->client[r], 1, r), 0);
	}
	for (uint32_t r = 0; r < RANKS; r++) {
		j->arena[r] = make_arena(j, j->client[r], 1, nodes[r], r);
		fill(&j->arena[r]->slot[0], j->layout[r], 41, true);
	}
}

static void job_init(struct job *j, const struct smp_fixture *f)
{
	*j = (struct job){.f = f, .map = map_of_four()};
	for (uint32_t r = 0; r < RANKS; r++)
		j->layout[r] = layout_of(r);
	for (uint32_t r = 0; r < RANKS; r++) {
		j->client[r] = connect_to(f, nodes[r], r);
		j->arena[r] = make_arena(j, j->client[r], 1, nodes[r], r);
		fill(&j->arena[r]->slot[0], j->layout[r], 41, true);
	}
}

static void job_deinit(struct job *j)
{
	for (uint32_t r = 0; r < RANKS; r++) {
		smp_close(j->client[r]);
		arena_free(j->arena[r]);
		layout_free(j->layout[r]);
		smp_fixture_end(j->f, "job", nodes[r]);
	}
	map_free(j->map);
}

static void every_tensor_is_a_line(void **state)
{
	struct smp_fixture *f = *state;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	assert_int_equal(LAYOUT("job"), 0);
	expect(out, "job job: version 41 committed, epoch 1\n  4 ranks on 4 nodes\n");
	expect(out, "  group 0: n0, n1, n2, n3; any 1 of the 4 may be lost\n");
	expect(out, "  NAME  SHAPE    ELEM       BYTES      STORED  BOXES  RANKS\n");
	expect(out, "  m     [64]        4       256 B       256 B      4  0-3\n");
	expect(out, "  w     [8, 16]     4       512 B       512 B      1  0-3\n");
	expect(out, "  rng   private     -        32 B        32 B      4  0-3\n");
	/* 4 * (512 + 64 + 8) bytes, of which w is stored once. */
	expect(out, "4 ranks registered 2.3 KiB and store 800 B, 34.2%\n");
	job_deinit(&j);
}

static void boxes_and_shares_are_shown_by_name(void **state)
{
	struct smp_fixture *f = *state;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	assert_int_equal(LAYOUT("job", "w"), 0);
	expect(out, "w: [8, 16] of 4-byte elements, 512 B\n"
	            "  box [0:8, 0:16], 512 B, of ranks 0-3\n"
	            "  rank 0 on n0 stores [0:2, 0:16], 128 B\n"
	            "  rank 1 on n1 stores [2:4, 0:16], 128 B\n");
	expect_not(out, "rng");
	assert_int_equal(LAYOUT("job", "[mr]*"), 0);
	expect(out, "  box [48:64], 64 B, of rank 3\n");
	expect(out, "rng: private, 32 B\n  of rank 0 on n0: 8 B\n");
	expect_not(out, "w:");
	assert_int_equal(LAYOUT("job", "x"), 1);
	expect(out, "no tensor or private region is called 'x'");
	job_deinit(&j);
}

static void json_has_everything(void **state)
{
	struct smp_fixture *f = *state;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	assert_int_equal(LAYOUT("job", "--json"), 0);
	expect(out, "{\"job\":\"job\",\"epoch\":\"1\",\"version\":41,\"state\":\"committed\","
	            "\"ranks\":4,\"held_ranks\":[0,1,2,3],\"registered_bytes\":2336,"
	            "\"stored_bytes\":800,\"data_bytes\":");
	expect(out, "{\"name\":\"n2\",\"group\":0,\"ranks\":[2]}");
	expect(out, "{\"nodes\":[\"n0\",\"n1\",\"n2\",\"n3\"],\"parity\":1}");
	expect(out, "{\"name\":\"w\",\"elem_bytes\":4,\"shape\":[8,16],\"bytes\":512,"
	            "\"stored_bytes\":512,\"boxes\":[\n  {\"start\":[0,0],\"extent\":[8,16],"
	            "\"bytes\":512,\"ranks\":[0,1,2,3]}],\"shares\":[\n  {\"rank\":0,"
	            "\"node\":\"n0\",\"start\":[0,0],\"extent\":[2,16],\"bytes\":128},");
	expect(out, "{\"name\":\"rng\",\"bytes\":32,\"regions\":[\n"
	            "  {\"rank\":0,\"node\":\"n0\",\"bytes\":8},");
	expect(out, "\"damaged\":[]}\n");
	expect_not(out, "\"lose\"");
	assert_int_equal(LAYOUT("job", "--json", "--lose", "n1,n3"), 0);
	expect(out, "\"lose\":{\"nodes\":[\"n1\",\"n3\"],\"survived\":false,\"groups\":[\n"
	            "  {\"group\":0,\"lost\":2,\"lacking\":1}],\"tensors\":[\n"
	            "  {\"name\":\"m\",\"bytes\":128},\n  {\"name\":\"w\",\"bytes\":256}],"
	            "\"private\":[\n  {\"name\":\"rng\",\"bytes\":16}],\"unknown_ranks\":0}");
	job_deinit(&j);
}

static void what_parity_covers_is_not_lost(void **state)
{
	struct smp_fixture *f = *state;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	assert_int_equal(LAYOUT("job", "--lose", "n1"), 0);
	expect(out, "without n1: nothing is lost, all is rebuilt from parity\n"
	            "  group 0 loses 1 of 4 nodes, parity covers 1\n");
	assert_int_equal(LAYOUT("job", "--lose", "n1,n1"), 0);
	expect(out, "without n1: nothing is lost");
	assert_int_equal(LAYOUT("job", "--json", "--lose", "n1"), 0);
	expect(out, "\"survived\":true,\"groups\":[\n  {\"group\":0,\"lost\":1,\"lacking\":0}],"
	            "\"tensors\":[],\"private\":[],\"unknown_ranks\":0}");
	job_deinit(&j);
}

static void what_would_be_lost_is_named(void **state)
{
	struct smp_fixture *f = *state;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	assert_int_equal(LAYOUT("job", "--lose", "n3,n1"), 0);
	expect(out, "without n1, n3: version 41 is lost\n"
	            "  group 0 loses 2 of 4 nodes, parity covers 1: 1 too many\n"
	            "  m: 128 B of 256 B\n"
	            "  w: 256 B of 512 B\n"
	            "  private rng: 16 B of 32 B\n");
	assert_int_equal(LAYOUT("job", "--lose", "n1,n9"), 2);
	expect(out, "ftmem: job job: --lose: no node is called 'n9'; there are n0, n1, n2, n3\n");
	assert_int_equal(LAYOUT("job", "--lose", "n1,"), 2);
	expect(out, "ftmem: job job: --lose: a name is empty\n");
	assert_int_equal(LAYOUT("job", "--lose", ""), 2);
	expect(out, "--lose: a name is empty\n");
	job_deinit(&j);
}

static void a_node_shows_its_part(void **state)
{
	struct smp_fixture *f = *state;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	assert_int_equal(LAYOUT("job", "--node", "n2"), 0);
	expect(out, "  4 ranks on 4 nodes; held here: 2\n");
	expect(out, "  m     [64]        4       256 B        64 B      1  2\n");
	assert_int_equal(LAYOUT("job", "--node", "n2", "--lose", "n2,n3"), 0);
	expect(out, "  w: 128 B of 512 B\n");
	expect(out, "  and what 1 rank stored that is not held here\n");
	job_deinit(&j);
}

static void without_a_version_there_is_none(void **state)
{
	struct smp_fixture *f = *state;
	char out[OUT];
	struct job j;

	assert_int_equal(LAYOUT("job"), 3);
	job_init(&j, f);
	for (uint32_t r = 0; r < RANKS; r++)
		slot_set_empty(&j.arena[r]->slot[0]);
	assert_int_equal(LAYOUT("job"), 1);
	expect(out, "ftmem: job job: no version is stored yet\n");
	fill(&j.arena[1]->slot[0], j.layout[1], 1, false);
	assert_int_equal(LAYOUT("job"), 0);
	expect(out, "version 1 prepared");
	expect(out, "held here: 1\n");
	job_deinit(&j);
}

static void the_committed_version_is_taken(void **state)
{
	struct smp_fixture *f = *state;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	fill(&j.arena[0]->slot[1], j.layout[0], 42, false);
	assert_int_equal(LAYOUT("job"), 0);
	expect(out, "version 41 committed");
	/* Of what one rank committed the others have at least the prepared slot. */
	for (uint32_t r = 1; r < RANKS; r++)
		fill(&j.arena[r]->slot[1], j.layout[r], 42, r == 3);
	assert_int_equal(LAYOUT("job"), 0);
	expect(out, "version 42 committed");
	expect(out, "  4 ranks on 4 nodes\n");
	job_deinit(&j);
}

static void remnants_are_passed_over(void **state)
{
	struct smp_fixture *f = *state;
	struct smp_client *c;
	struct arena *old, *moved;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	/* Rank 3 was rebuilt on another node, of which the map does not know; what it
	 * left on n3 is still there. */
	for (uint32_t r = 0; r < RANKS - 1; r++)
		fill(&j.arena[r]->slot[1], j.layout[r], 42, true);
	assert_int_equal(LAYOUT("job"), 0);
	expect(out, "held here: 0-2\n");
	c = connect_to(f, "spare", 3);
	moved = make_arena(&j, c, 1, "spare", 3);
	fill(&moved->slot[0], j.layout[3], 42, true);
	/* An epoch of before, with an older version. */
	old = make_arena(&j, j.client[0], 7, "n0", 0);
	fill(&old->slot[0], j.layout[0], 40, true);
	assert_int_equal(LAYOUT("job", "m"), 0);
	expect(out, "version 42 committed, epoch 1");
	expect(out, "  group 0: n0, n1, n2, spare; any 1");
	expect(out, "  rank 3 on spare stores [48:64], 64 B\n");
	/* Of two that have the version the newer one counts, and only that. */
	fill(&j.arena[3]->slot[1], j.layout[3], 42, true);
	fill(&moved->slot[1], j.layout[3], 43, false);
	assert_int_equal(LAYOUT("job"), 0);
	expect(out, "n2, spare; any 1");
	expect(out, "4 ranks registered");
	arena_free(old);
	arena_free(moved);
	smp_close(c);
	smp_fixture_end(f, "job", "spare");
	job_deinit(&j);
}

static void damage_is_named_and_the_others_are_shown(void **state)
{
	struct smp_fixture *f = *state;
	struct slot *slot;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	slot = &j.arena[2]->slot[0];
	slot->data[40] ^= 1;
	assert_int_equal(LAYOUT("job"), 1);
	expect(out, "ftmem: job job on node n2: rank 2: DAMAGED: its layout is damaged: "
	            "data chunk 0, block 0 does not match its checksum\n");
	expect(out, "held here: 0-1, 3\n");
	assert_int_equal(LAYOUT("job", "--json"), 1);
	expect(out, "\"damaged\":[\n {\"rank\":2,\"node\":\"n2\",\"error\":"
	            "\"its layout is damaged");
	/* The other slot says the same. */
	fill(&j.arena[2]->slot[1], j.layout[2], 40, true);
	assert_int_equal(LAYOUT("job"), 0);
	expect(out, "  4 ranks on 4 nodes\n");
	/* What passes its checksum but is no layout. */
	for (int i = 0; i < 2; i++) {
		slot = &j.arena[2]->slot[i];
		memset(slot->data, 0xee, 16);
		smp_arena_sums(slot);
		slot_set_prepared(slot, (struct stamp){1, 41});
	}
	assert_int_equal(LAYOUT("job"), 1);
	expect(out, "rank 2: DAMAGED: ");
	/* And an arena whose description is. */
	j.arena[0]->base[100] ^= 1;
	assert_int_equal(LAYOUT("job"), 1);
	expect(out, "rank 0: DAMAGED: ");
	expect(out, "held here: 1, 3\n");
	job_deinit(&j);
}

static void a_rank_may_have_no_regions(void **state)
{
	struct smp_fixture *f = *state;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	layout_free(j.layout[3]);
	j.layout[3] = layout_of_nothing();
	job_refill(&j);
	assert_int_equal(LAYOUT("job"), 0);
	expect(out, "  4 ranks on 4 nodes\n");
	expect(out, "  w     [8, 16]     4       512 B       384 B      1  0-2\n");
	job_deinit(&j);
}

static void a_long_name_keeps_the_columns(void **state)
{
	const char *name = "model.decoder.layers.11.self_attention.linear_qkv."
	                   "layer_norm_weight.exp_avg";
	struct smp_fixture *f = *state;
	struct region_set *set = NULL;
	char out[OUT], line[256];
	struct job j;

	job_init(&j, f);
	assert_int_equal(region_set_new(&set), 0);
	add(set, name, 0, NULL, NULL, NULL);
	layout_free(j.layout[0]);
	assert_int_equal(layout_freeze(set, &j.layout[0]), 0);
	assert_int_equal(layout_settle(j.layout[0], NULL, 0), 0);
	region_set_free(set);
	job_refill(&j);
	assert_int_equal(LAYOUT("job"), 0);
	snprintf(line, sizeof(line), "  %-*s  SHAPE    ELEM", (int)strlen(name), "NAME");
	expect(out, line);
	snprintf(line, sizeof(line), "  %s  private     -", name);
	expect(out, line);
	job_deinit(&j);
}

static void a_long_layout_is_read_whole(void **state)
{
	enum { REGIONS = 60000 }; /* of 40 bytes and more each: beyond the first look */
	struct smp_fixture *f = *state;
	struct region_set *set = NULL;
	char out[OUT], name[32];
	struct job j;

	job_init(&j, f);
	assert_int_equal(region_set_new(&set), 0);
	for (int i = 0; i < REGIONS; i++) {
		snprintf(name, sizeof(name), "r%d", i);
		add(set, name, 0, NULL, NULL, NULL);
	}
	layout_free(j.layout[2]);
	assert_int_equal(layout_freeze(set, &j.layout[2]), 0);
	assert_int_equal(layout_settle(j.layout[2], NULL, 0), 0);
	assert_true(j.layout[2]->blob_bytes > 1 << 20);
	region_set_free(set);
	job_refill(&j);
	assert_int_equal(LAYOUT("job", "r59999"), 0);
	expect(out, "r59999: private, 8 B\n  of rank 2 on n2: 8 B\n");
	job_deinit(&j);
}

static void a_dead_process_counts_if_its_ranks_are_missing(void **state)
{
	struct smp_fixture *f = *state;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	smp_fixture_kill(smp_pid(j.client[3]));
	assert_int_equal(LAYOUT("job"), 1);
	expect(out, "no ftmem-smp serves job job on node n3");
	expect(out, "held here: 0-2\n");
	/* Rank 3 goes on elsewhere. */
	smp_close(j.client[3]);
	arena_free(j.arena[3]);
	j.client[3] = connect_to(f, "spare", 3);
	j.arena[3] = make_arena(&j, j.client[3], 1, "spare", 3);
	fill(&j.arena[3]->slot[0], j.layout[3], 41, true);
	assert_int_equal(LAYOUT("job"), 0);
	expect(out, "  4 ranks on 4 nodes\n");
	smp_fixture_end(f, "job", "spare");
	/* Which clears away what the dead one left. */
	smp_close(connect_to(f, "n3", 3));
	job_deinit(&j);
}

static void names_cannot_steer_a_terminal(void **state)
{
	struct smp_fixture *f = *state;
	struct region_set *set = NULL;
	char out[OUT];
	struct job j;

	job_init(&j, f);
	assert_int_equal(region_set_new(&set), 0);
	add(set, "a\033[2J\"\n", 0, NULL, NULL, NULL);
	layout_free(j.layout[0]);
	assert_int_equal(layout_freeze(set, &j.layout[0]), 0);
	assert_int_equal(layout_settle(j.layout[0], NULL, 0), 0);
	region_set_free(set);
	job_refill(&j);
	assert_int_equal(LAYOUT("job"), 0);
	expect(out, "  a?[2J\"?  private");
	assert_int_equal(LAYOUT("job", "--json"), 0);
	expect(out, "{\"name\":\"a\\u001b[2J\\\"\\u000a\",");
	job_deinit(&j);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, smp_fixture_set_up, smp_fixture_tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_tensor_is_a_line),
		TEST(boxes_and_shares_are_shown_by_name),
		TEST(json_has_everything),
		TEST(what_parity_covers_is_not_lost),
		TEST(what_would_be_lost_is_named),
		TEST(a_node_shows_its_part),
		TEST(without_a_version_there_is_none),
		TEST(the_committed_version_is_taken),
		TEST(remnants_are_passed_over),
		TEST(damage_is_named_and_the_others_are_shown),
		TEST(a_rank_may_have_no_regions),
		TEST(a_long_name_keeps_the_columns),
		TEST(a_long_layout_is_read_whole),
		TEST(names_cannot_steer_a_terminal),
		TEST(a_dead_process_counts_if_its_ranks_are_missing),
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
