/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "error.h"
#include "send_fds.h"
#include "slot.h"
#include "smp/wire.h"

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

static int set_up(void **state)
{
	static int pair[2];

	*state = pair;
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
}

static int tear_down(void **state)
{
	int *pair = *state;

	close(pair[0]);
	close(pair[1]);
	return 0;
}

static void a_message_arrives_with_its_descriptor(void **state)
{
	const int *pair = *state;
	struct wire_request request;
	union wire_message got;
	int fd = memfd_create("test", MFD_CLOEXEC), came;
	struct stat a, b;
	size_t bytes;

	wire_request_init(&request, WIRE_ADOPT, "job");
	request.epoch = 5;
	assert_int_equal(wire_send(pair[0], &request, sizeof(request), fd), WIRE_OK);
	assert_int_equal(wire_receive(pair[1], &got, &bytes, &came), WIRE_OK);
	assert_int_equal(bytes, sizeof(request));
	assert_memory_equal(&got.request, &request, sizeof(request));
	assert_int_equal(fstat(fd, &a), 0);
	assert_int_equal(fstat(came, &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_true(fcntl(came, F_GETFD) & FD_CLOEXEC);
	close(came);
	close(fd);
}

static void a_message_without_descriptor_has_none(void **state)
{
	const int *pair = *state;
	struct wire_reply reply;
	union wire_message got;
	size_t bytes;
	int came;

	wire_reply_init(&reply, WIRE_LIST);
	assert_int_equal(wire_send(pair[0], &reply, sizeof(reply), -1), WIRE_OK);
	assert_int_equal(wire_receive(pair[1], &got, &bytes, &came), WIRE_OK);
	assert_int_equal(came, -1);
	assert_int_equal(wire_reply_check(&got.reply, bytes, WIRE_LIST), 0);
}

static void nothing_there_is_no_wait(void **state)
{
	const int *pair = *state;
	union wire_message got;
	size_t bytes;
	int came;

	assert_int_equal(wire_receive(pair[1], &got, &bytes, &came), WIRE_AGAIN);
	assert_int_equal(came, -1);
}

static void a_full_socket_is_no_wait(void **state)
{
	const int *pair = *state;
	struct wire_reply reply = {0};
	int rc = WIRE_OK, i;

	for (i = 0; rc == WIRE_OK && i < 1000000; i++)
		rc = wire_send(pair[0], &reply, sizeof(reply), -1);
	assert_int_equal(rc, WIRE_AGAIN);
}

static void an_end_is_told(void **state)
{
	int *pair = *state;
	union wire_message got;
	size_t bytes;
	int came;

	close(pair[0]);
	assert_int_equal(wire_receive(pair[1], &got, &bytes, &came), WIRE_CLOSED);
	assert_int_equal(wire_send(pair[1], "x", 1, -1), WIRE_CLOSED);
	pair[0] = -1;
}

static void too_many_descriptors_are_refused_and_closed(void **state)
{
	const int *pair = *state;
	union wire_message got;
	unsigned before = open_fds();
	int fds[64], came;
	size_t bytes;

	for (unsigned i = 0; i < 64; i++)
		fds[i] = STDOUT_FILENO;
	for (unsigned count = 2; count <= 64; count += count < 6 ? 1 : 29) {
		assert_int_equal(send_fds(pair[0], "abc", 3, fds, count, 0), 3);
		assert_int_equal(wire_receive(pair[1], &got, &bytes, &came), FTMEM_ESMP);
		assert_int_equal(came, -1);
		assert_int_equal(open_fds(), before);
	}
}

static void too_long_a_message_is_refused_and_its_descriptor_closed(void **state)
{
	const int *pair = *state;
	char big[WIRE_ROOM + 1] = {0};
	unsigned before = open_fds();
	union wire_message got;
	int fd = STDOUT_FILENO, came;
	size_t bytes;

	assert_int_equal(send_fds(pair[0], big, sizeof(big), &fd, 1, 0), sizeof(big));
	assert_int_equal(wire_receive(pair[1], &got, &bytes, &came), FTMEM_ESMP);
	assert_int_equal(came, -1);
	assert_int_equal(open_fds(), before);
}

static void requests_are_checked(void **state)
{
	struct wire_request good, r;

	(void)state;
	wire_request_init(&good, WIRE_CREATE, "job");
	assert_int_equal(wire_request_check(&good, sizeof(good), "job"), 0);
	for (size_t bytes = 0; bytes < sizeof(good); bytes++)
		assert_int_equal(wire_request_check(&good, bytes, "job"), FTMEM_EINVAL);
	assert_int_equal(wire_request_check(&good, sizeof(good) + 1, "job"), FTMEM_EINVAL);
	assert_int_equal(wire_request_check(&good, sizeof(good), "jo"), FTMEM_EINVAL);
	r = good;
	r.magic++;
	assert_int_equal(wire_request_check(&r, sizeof(r), "job"), FTMEM_EINVAL);
	r = good;
	r.op = 0;
	assert_int_equal(wire_request_check(&r, sizeof(r), "job"), FTMEM_EINVAL);
	r.op = WIRE_OPS;
	assert_int_equal(wire_request_check(&r, sizeof(r), "job"), FTMEM_EINVAL);
	r = good;
	memset(r.job, 'j', sizeof(r.job));
	assert_int_equal(wire_request_check(&r, sizeof(r), "job"), FTMEM_EINVAL);
}

static void another_version_is_named_whatever_its_size(void **state)
{
	struct wire_request request;
	struct wire_reply reply;

	(void)state;
	wire_request_init(&request, WIRE_HELLO, "job");
	request.version = 9;
	assert_int_equal(wire_request_check(&request, 8, "job"), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), "version 9"));
	assert_non_null(strstr(error_msg(), "version 2"));
	wire_reply_init(&reply, WIRE_HELLO);
	reply.version = 9;
	assert_int_equal(wire_reply_check(&reply, sizeof(reply) + 40, WIRE_HELLO), FTMEM_ESMP);
	assert_non_null(strstr(error_msg(), "version 9"));
}

static void what_a_reply_names_is_bounded(void **state)
{
	char text[WIRE_BLOCK_TEXT];
	struct wire_block worst;
	struct wire_reply r;

	(void)state;
	wire_reply_init(&r, WIRE_LIST);
	r.slot[0].check.named = WIRE_BLOCKS;
	r.slot[1].check.named = UINT32_MAX;
	assert_int_equal(wire_reply_check(&r, sizeof(r), WIRE_LIST), 0);
	assert_int_equal(r.slot[0].check.named, WIRE_BLOCKS);
	assert_int_equal(r.slot[1].check.named, WIRE_BLOCKS);
	assert_string_equal(wire_damage_text(WIRE_DAMAGE_SUMS), "checksums");
	for (uint32_t i = 0; i < WIRE_DAMAGES + 3; i++)
		assert_non_null(wire_damage_text(i));
	memset(&worst, 0xff, sizeof(worst));
	assert_true(strlen(wire_block_text(&worst, text)) < WIRE_BLOCK_TEXT - 1);
	assert_string_equal(wire_block_text(&(struct wire_block){1, 0, 2, 3}, text),
	                    "data chunk 2 of rail 1, block 3");
}

static void replies_are_checked(void **state)
{
	struct wire_reply good, r;

	(void)state;
	wire_reply_init(&good, WIRE_LIST);
	r = good;
	assert_int_equal(wire_reply_check(&r, sizeof(r), WIRE_CREATE), FTMEM_ESMP);
	assert_int_equal(wire_reply_check(&r, sizeof(r) - 1, WIRE_LIST), FTMEM_ESMP);
	assert_int_equal(wire_reply_check(&r, 3, WIRE_LIST), FTMEM_ESMP);
	r.magic ^= 1;
	assert_int_equal(wire_reply_check(&r, sizeof(r), WIRE_LIST), FTMEM_ESMP);
	r = good;
	memset(r.text, 'x', sizeof(r.text));
	assert_int_equal(wire_reply_check(&r, sizeof(r), WIRE_LIST), 0);
	assert_int_equal(strlen(r.text), sizeof(r.text) - 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_message_arrives_with_its_descriptor),
		TEST(a_message_without_descriptor_has_none),
		TEST(nothing_there_is_no_wait),
		TEST(a_full_socket_is_no_wait),
		TEST(an_end_is_told),
		TEST(too_many_descriptors_are_refused_and_closed),
		TEST(too_long_a_message_is_refused_and_its_descriptor_closed),
		cmocka_unit_test(requests_are_checked),
		cmocka_unit_test(another_version_is_named_whatever_its_size),
		cmocka_unit_test(replies_are_checked),
		cmocka_unit_test(what_a_reply_names_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
