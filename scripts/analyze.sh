#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Reads the sources of the library and its programs with cppcheck and clang-tidy, without
# running them. Fails at any finding.
set -euo pipefail

usage()
{
	cat <<'END'
usage: scripts/analyze.sh [--deep] [FILE...]

  --deep   lets clang's analyzer follow all paths that it can, not only the first: takes minutes

FILE: of src/; all by default. Where cppcheck or clang-tidy is missing nothing is read, and the
exit status is 77; if FTMEM_REQUIRE_ALL is set that is a failure.
END
}

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# Of a function: enough for what is found at all to be found in nearly all of them.
limit="--extra-arg=-Xclang --extra-arg=-analyzer-config --extra-arg=-Xclang
	--extra-arg=max-nodes=20000"
files=()
while [ $# -gt 0 ]; do
	case $1 in
	--deep) limit= ;;
	-h | --help) usage; exit 0 ;;
	-*) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
	*) files+=("$(cd "$ftmem_here" && realpath "$1")") ;;
	esac
	shift
done
for tool in cppcheck clang-tidy cmake; do
	command -v "$tool" >/dev/null && continue
	echo "NO $tool: THE SOURCES WERE NOT ANALYSED (Debian: cppcheck, clang-tidy)" >&2
	[ -z "${FTMEM_REQUIRE_ALL:-}" ] || exit 1
	exit 77
done
cd "$ftmem_root"

# How each file is compiled; nothing is built. Sources that this machine cannot compile (for
# want of CUDA or ISA-L) are in no command.
work=$ftmem_root/build/analyze
mkdir -p "$ftmem_root/build"
if ! cmake --preset dev -B "$work" >"$work.log" 2>&1; then
	cat "$work.log" >&2
	exit 1
fi
if [ ${#files[@]} -eq 0 ]; then
	mapfile -t files < <(sed -n 's/^ *"file": "\(.*\)",\{0,1\}$/\1/p' \
		"$work/compile_commands.json" | grep "^$ftmem_root/src/" | sort -u)
fi
[ ${#files[@]} -gt 0 ]

failed=""
echo "cppcheck: ${#files[@]} files"
cppcheck -j "$ftmem_jobs" --enable=warning,performance,portability --inline-suppr --std=c11 \
	-DNDEBUG -D_GNU_SOURCE -Isrc -Iinclude --quiet --error-exitcode=1 \
	--template='{file}:{line}: {severity}: {message} [{id}]' "${files[@]}" || failed=yes

# analyze.h tells what clang cannot see across files; where these functions are defined it
# must not.
tidy_file()
{
	local hint=--extra-arg=-include$PWD/tests/util/analyze.h out

	[[ $1 != */src/error.c && $1 != */src/session.c ]] || hint=--extra-arg=-DNDEBUG
	# shellcheck disable=SC2086
	out=$(clang-tidy -p "$work" --quiet $limit $hint "$1" 2>&1) && return
	echo "$out"
	return 1
}
export -f tidy_file
export work limit
echo "clang-tidy: ${#files[@]} files"
# shellcheck disable=SC2016
printf '%s\0' "${files[@]}" |
	xargs -0 -P "$ftmem_jobs" -I FILE bash -c 'tidy_file "$1"' bash FILE || failed=yes
[ -z "$failed" ]
