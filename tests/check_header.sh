#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: check_header.sh INCLUDE_DIR C_COMPILER
#
# ftmem.h compiles alone, as C11 without extensions, as C17 and as C++17, and its
# initialisers do too.
set -euo pipefail
include=$1 cc=$2
cxx=${CXX:-c++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
strict=(-Wall -Wextra -Wpedantic -Werror -fsyntax-only -I "$include")

cat >"$work/use.c" <<'C'
#include <ftmem.h>
#include <ftmem.h>
struct ftmem_opts opts = FTMEM_OPTS_INIT;
struct ftmem_region region = FTMEM_REGION_INIT;
struct ftmem_stats stats = FTMEM_STATS_INIT;
int (*open_it)(const struct ftmem_opts *, struct ftmem **) = ftmem_open;
int ok = FTMEM_OK + FTMEM_ELOST + FTMEM_LOG_INFO;
C
"$cc" -std=c11 "${strict[@]}" -Wno-missing-field-initializers "$work/use.c"
"$cc" -std=c17 "${strict[@]}" -Wno-missing-field-initializers "$work/use.c"
if ! command -v "$cxx" >/dev/null; then
	echo "no C++ compiler: C++17 not checked"
	exit 77
fi
# Designated initialisers are C++20's: the macros of options are for C there.
grep -v _INIT "$work/use.c" >"$work/use.cpp"
"$cxx" -std=c++17 "${strict[@]}" "$work/use.cpp"
"$cxx" -std=c++20 "${strict[@]}" -Wno-missing-field-initializers -x c++ "$work/use.c"
