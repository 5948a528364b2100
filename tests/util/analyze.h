/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Included before each source that clang-tidy reads: tells it that error_set() and
 * error_sys() return their code, which it cannot see across files and without which
 * it follows paths that do not exist.
 */
#include "error.h"

#define error_set(code, ...) ((void)(error_set)((code), __VA_ARGS__), (code))
#define error_sys(code, ...) ((void)(error_sys)((code), __VA_ARGS__), (code))
