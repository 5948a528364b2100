/* SPDX-License-Identifier: BSD-3-Clause */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[ERROR_MSG_MAX];

/* Formats beside the message first: an argument may be error_msg() itself. */
static void message_write(const char *fmt, va_list args)
{
	char text[ERROR_MSG_MAX];

	if (vsnprintf(text, sizeof(text), fmt, args) < 0)
		snprintf(text, sizeof(text), "message \"%s\" cannot be formatted", fmt);
	memcpy(message, text, strlen(text) + 1);
}

int error_set(int code, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	message_write(fmt, args);
	va_end(args);
	return code;
}

int error_sys(int code, int errnum, const char *fmt, ...)
{
	char text[128];
	const char *cause = strerror_r(errnum, text, sizeof(text));
	size_t room = sizeof(message) - 1, tail = strlen(cause) + 2, head;
	va_list args;

	va_start(args, fmt);
	message_write(fmt, args);
	va_end(args);

	/* A long message gives way to the cause. */
	head = strlen(message);
	if (head + tail > room)
		head = room - tail;
	snprintf(message + head, sizeof(message) - head, ": %s", cause);
	return code;
}

const char *error_msg(void)
{
	return message;
}

const char *error_text(int code)
{
	switch (code) {
#define ERROR_TEXT(name, value, text)                                                              \
	case name: return text;
		FTMEM_RESULTS(ERROR_TEXT)
#undef ERROR_TEXT
	default: return "unknown result";
	}
}
