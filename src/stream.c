/* SPDX-License-Identifier: BSD-3-Clause */
#include "stream.h"

#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

#define LINE 64
/* Less is not worth the fence at the end. */
#define STREAM_LEAST 4096
/* How far ahead lines are fetched: about what one core needs to have memory busy. The
 * hardware's prefetcher stops at each page. */
#define AHEAD 2048

/* Four stores fill a line's write-combining buffer, which then leaves in one piece. */
static void copy_line(uint8_t *to, const uint8_t *from)
{
	__m128i part[4];

	for (int i = 0; i < 4; i++)
		part[i] = _mm_loadu_si128((const __m128i *)from + i);
	for (int i = 0; i < 4; i++)
		_mm_stream_si128((__m128i *)to + i, part[i]);
}

void stream_copy(void *to, const void *from, size_t bytes)
{
	const uint8_t *source = from;
	uint8_t *target = to;
	size_t head = (LINE - (uintptr_t)target % LINE) % LINE, lines;

	if (bytes < STREAM_LEAST) {
		memcpy(target, source, bytes);
		return;
	}
	memcpy(target, source, head);
	lines = (bytes - head) / LINE;
	target += head;
	source += head;
	for (size_t i = 0; i < lines; i++, target += LINE, source += LINE) {
		/* As a number: near the end it is beyond what may be pointed to. */
		_mm_prefetch((const char *)((uintptr_t)source + AHEAD), _MM_HINT_T0);
		copy_line(target, source);
	}
	memcpy(target, source, bytes - head - lines * LINE);
	/* Non-temporal stores are not ordered with what says that the copy is done. */
	_mm_sfence();
}
#else
void stream_copy(void *to, const void *from, size_t bytes)
{
	memcpy(to, from, bytes);
}
#endif
