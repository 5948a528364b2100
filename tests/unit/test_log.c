/* SPDX-License-Identifier: BSD-3-Clause */
/* Linked with --wrap=write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "log.h"

ssize_t __real_write(int fd, const void *data, size_t bytes);
ssize_t __wrap_write(int fd, const void *data, size_t bytes);

static char written[4096];
static unsigned writes, interruptions;
static int capturing;

ssize_t __wrap_write(int fd, const void *data, size_t bytes)
{
	if (!capturing || fd != STDERR_FILENO)
		return __real_write(fd, data, bytes);
	if (interruptions > 0) {
		interruptions--;
		errno = EINTR;
		return -1;
	}
	writes++;
	assert_true(bytes < sizeof(written));
	memcpy(written, data, bytes);
	written[bytes] = '\0';
	return (ssize_t)bytes;
}

static void capture(void)
{
	writes = 0;
	written[0] = '\0';
	capturing = 1;
}

static void lines_name_the_rank_and_the_level(void **state)
{
	struct log log = {.level = FTMEM_LOG_DEBUG, .rank = 12};

	(void)state;
	capture();
	log_line(&log, FTMEM_LOG_WARN, "node %s lost", "n3");
	assert_string_equal(written, "ftmem[12]: warning: node n3 lost\n");
	log_line(&log, FTMEM_LOG_ERROR, "x");
	assert_string_equal(written, "ftmem[12]: error: x\n");
	log_line(&log, FTMEM_LOG_INFO, "x");
	assert_string_equal(written, "ftmem[12]: info: x\n");
	log.rank = LOG_NO_RANK;
	log_line(&log, FTMEM_LOG_DEBUG, "x");
	assert_string_equal(written, "ftmem: debug: x\n");
	capturing = 0;
}

static void a_line_is_one_write_whatever_it_contains(void **state)
{
	struct log log = {.level = FTMEM_LOG_INFO, .rank = UINT32_MAX - 1};
	char text[3000];

	(void)state;
	memset(text, 'y', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	capture();
	interruptions = 1;
	log_line(&log, FTMEM_LOG_WARN, "%s", text);
	assert_int_equal(writes, 1);
	assert_true(strlen(written) > 1023 && strlen(written) < 1100);
	assert_int_equal(written[strlen(written) - 1], '\n');
	capture();
	log_line(&log, FTMEM_LOG_WARN, "a\nb\x1b[0mc\x7f\xc3\xa9");
	assert_int_equal(writes, 1);
	assert_string_equal(written, "ftmem[4294967294]: warning: a b [0mc \xc3\xa9\n");
	capturing = 0;
}

static void quieter_levels_print_less(void **state)
{
	struct log log = {.level = FTMEM_LOG_WARN};

	(void)state;
	capture();
	log_line(&log, FTMEM_LOG_INFO, "x");
	log_line(NULL, FTMEM_LOG_ERROR, "x");
	assert_int_equal(writes, 0);
	log_line(&log, FTMEM_LOG_WARN, "x");
	assert_int_equal(writes, 1);
	capturing = 0;
}

static void remember(void *arg, int level, const char *line)
{
	errno = EBADF;
	snprintf((char *)arg, 64, "%d %s", level, line);
}

static void callback_gets_the_bare_line_and_errno_stays(void **state)
{
	char seen[64] = "";
	struct log log = {.fn = remember, .arg = seen, .level = FTMEM_LOG_INFO};

	(void)state;
	capture();
	errno = ERANGE;
	log_line(&log, FTMEM_LOG_INFO, "%d\nnodes", 3);
	assert_int_equal(errno, ERANGE);
	assert_string_equal(seen, "3 3 nodes");
	assert_int_equal(writes, 0);
	capturing = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_name_the_rank_and_the_level),
		cmocka_unit_test(a_line_is_one_write_whatever_it_contains),
		cmocka_unit_test(quieter_levels_print_less),
		cmocka_unit_test(callback_gets_the_bare_line_and_errno_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
