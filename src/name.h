/* SPDX-License-Identifier: BSD-3-Clause */
/* What a job or node may be called: safe in paths and to print. Pure. */
#ifndef FTMEM_NAME_H
#define FTMEM_NAME_H

#include <stdbool.h>
#include <stddef.h>

#include "ftmem.h"

static inline bool name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '_' || c == '-';
}

/* Whether name has 1 to FTMEM_NAME_MAX characters of [A-Za-z0-9._-], the first not '.'
 * or '-', and ends there. Reads FTMEM_NAME_MAX + 1 bytes at most. */
static inline bool name_valid(const char *name)
{
	if (!name || name[0] == '\0' || name[0] == '.' || name[0] == '-')
		return false;
	for (size_t i = 0; name[i] != '\0'; i++)
		if (i == FTMEM_NAME_MAX || !name_char(name[i]))
			return false;
	return true;
}

#endif
