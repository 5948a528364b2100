#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: check_readme_example.sh README INCLUDE_DIR LIB_DIR C_COMPILER MPIRUN
#
# The README's C example compiles as printed without warnings, and runs: a first
# start, then a second one that goes on from what the first left.
set -euo pipefail
readme=$1 include=$2 lib=$3 cc=$4 mpirun=$5
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/ftm.XXXXXX")
export FTMEM_DIR=$work/d
trap 'sh "$here/util/end_smps.sh" "$FTMEM_DIR"; rm -rf "$work"' EXIT
mkdir -m 700 "$FTMEM_DIR"

awk '/^```c$/ { take = 1; next } /^```$/ { if (take) exit } take' "$readme" >"$work/example.c"
lines=$(grep -c . "$work/example.c" || true)
if [ "$lines" -lt 5 ] || [ "$lines" -gt 25 ]; then
	echo "the README's example has $lines lines of code; about 20 are promised"
	exit 1
fi
"$cc" -std=c11 -Wall -Wextra -Wpedantic -Werror -I "$include" "$work/example.c" \
	-L "$lib" -lftmem -Wl,-rpath,"$lib" -o "$work/example"

start()
{
	echo "start $1:"
	# One folder for both starts: the job's memory outlives the first.
	FTMEM_KEEP=1 sh "$here/util/mpi_run.sh" "$mpirun" 3 \
		sh -c 'FTMEM_NODE=n$OMPI_COMM_WORLD_RANK exec "$0"' "$work/example" 2>&1 |
		tee "$work/out.$1"
}
start 1
start 2
if [ "$(grep -c '^from step 0$' "$work/out.1")" -ne 3 ] ||
	[ "$(grep -c '^from step [1-9]' "$work/out.2")" -ne 3 ]; then
	echo "the second start did not go on where the first ended"
	exit 1
fi
