/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Included before each source that clang-tidy reads, but those that define these
 * functions: tells it that a negative result which goes in comes out, which it cannot
 * see across files and without which it follows paths that do not exist.
 */
#include "error.h"
#include "session.h"

#define error_set(code, ...) ((void)(error_set)((code), __VA_ARGS__), (code))
#define error_sys(code, ...) ((void)(error_sys)((code), __VA_ARGS__), (code))
#define session_agree(ft, own, what)                                          \
	__extension__({                                                       \
		int own_ = (own);                                             \
		int agreed_ = (session_agree)((ft), own_, (what));            \
		own_ ? own_ : agreed_;                                        \
	})
