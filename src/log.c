/* SPDX-License-Identifier: BSD-3-Clause */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOG_LINE_MAX 1024
#define LOG_HEAD_MAX 32

static const char *level_name(int level)
{
	switch (level) {
	case FTMEM_LOG_ERROR: return "error";
	case FTMEM_LOG_WARN: return "warning";
	case FTMEM_LOG_INFO: return "info";
	default: return "debug";
	}
}

/* Names come from users: what would break a line or a terminal becomes a space. */
static void line_clean(char *line)
{
	for (; *line != '\0'; line++) {
		if ((unsigned char)*line < ' ' || *line == 0x7f)
			*line = ' ';
	}
}

/* One write(2) each, so that the lines of ranks that share stderr stay whole. There
 * is nobody to tell that stderr is gone. */
static void line_print(const struct log *log, int level, const char *line)
{
	char text[LOG_HEAD_MAX + LOG_LINE_MAX + 1], who[16] = "";
	ssize_t done;
	int len;

	if (log->rank != LOG_NO_RANK)
		snprintf(who, sizeof(who), "[%u]", log->rank);
	len = snprintf(text, sizeof(text), "ftmem%s: %s: %s\n", who, level_name(level), line);
	if (len <= 0 || (size_t)len >= sizeof(text))
		return;
	do {
		done = write(STDERR_FILENO, text, (size_t)len);
	} while (done < 0 && errno == EINTR);
}

static bool line_format(char *line, const char *fmt, va_list args)
{
	if (vsnprintf(line, LOG_LINE_MAX, fmt, args) < 0)
		return false;
	line_clean(line);
	return true;
}

void log_line(const struct log *log, int level, const char *fmt, ...)
{
	char line[LOG_LINE_MAX];
	int saved = errno;
	bool formatted;
	va_list args;

	if (!log || level > log->level)
		return;

	va_start(args, fmt);
	formatted = line_format(line, fmt, args);
	va_end(args);
	if (formatted && log->fn)
		log->fn(log->arg, level, line);
	else if (formatted)
		line_print(log, level, line);
	errno = saved;
}
