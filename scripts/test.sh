#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Builds and runs the tests, after installing what is missing.
set -euo pipefail

usage()
{
	cat <<'END'
usage: scripts/test.sh [OPTION...] [-- CTEST ARGUMENT...]

Without options: all tests in the dev build, then unit, sim and mpi tests under the address
sanitizer, unit and mpi tests under that of threads.

  --quick   dev build only, without the mpi, e2e, install and python tests
  --full    also builds with clang, without ISA-L and without CUDA, and runs clang-tidy where
            there is one
  --dev, --asan, --tsan
            only these builds
  -h, --help

Tests of the PyTorch binding run in build/venv, into which PyTorch is installed, or with the
Python that FTMEM_PYTHON names. Without PyTorch they are skipped; if FTMEM_REQUIRE_PYTHON is set
that is a failure.

After --, arguments are passed on to every run of ctest: -R NAME, -L LABEL, -V.
END
}

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

builds="" quick="" full=""
while [ $# -gt 0 ]; do
	case $1 in
	--quick) quick=yes ;;
	--full) full=yes ;;
	--dev | --asan | --tsan) builds="$builds ${1#--}" ;;
	-h | --help) usage; exit 0 ;;
	--) shift; break ;;
	*) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
	esac
	shift
done
if [ -z "$builds" ]; then
	builds=dev
	[ -n "$quick" ] || builds="dev asan tsan"
fi

ftmem_setup test
cd "$ftmem_root"

# Whatever the tests start works below this folder, so that what they leave is seen.
TMPDIR=$(mktemp -d /tmp/ftmtest.XXXX)
export TMPDIR FTMEM_DIR=$TMPDIR/d
mkdir -m 700 "$FTMEM_DIR"
unset FTMEM_JOB FTMEM_NODE FTMEM_SMP
trap 'sh "$ftmem_root/tests/util/end_smps.sh" "$TMPDIR"; rm -rf "$TMPDIR"' EXIT

summary="" failed=""
step()
{
	local name=$1 start=$SECONDS result=passed
	shift
	echo "== $name"
	if ! "$@"; then
		result=FAILED
		failed=yes
	fi
	summary="$summary
  $name: $result, $((SECONDS - start)) s"
}

run_tests()
{
	local preset=$1
	shift
	ftmem_build "$preset" || return 1
	ctest --test-dir "build/$preset" -j "$ftmem_jobs" --output-on-failure --no-tests=error "$@"
}

no_smp_left()
{
	local left

	left=$(sh tests/util/end_smps.sh --list "$TMPDIR")
	[ -z "$left" ] && return 0
	echo "left running by the tests:"
	echo "$left"
	return 1
}

with_clang()
{
	command -v clang >/dev/null || { echo "no clang: not built with it"; return 0; }
	cmake --preset dev -B build/clang -DCMAKE_C_COMPILER=clang >build/clang.log 2>&1 &&
		cmake --build build/clang -j "$ftmem_jobs" >>build/clang.log 2>&1 &&
		return 0
	cat build/clang.log
	return 1
}

without() # OPTION FOLDER
{
	local folder=build/$2

	cmake --preset dev -B "$folder" "-D$1=OFF" >"$folder.log" 2>&1 &&
		cmake --build "$folder" -j "$ftmem_jobs" >>"$folder.log" 2>&1 &&
		ctest --test-dir "$folder" -j "$ftmem_jobs" --output-on-failure -L '^(unit|sim)$' &&
		return 0
	cat "$folder.log"
	return 1
}

tidy()
{
	command -v clang-tidy >/dev/null || { echo "no clang-tidy: not run"; return 0; }
	find src -name '*.c' | sort | xargs -P "$ftmem_jobs" -I FILE sh -c '
		case $1 in
		*/error.c | */session.c) hint= ;;
		*) hint=--extra-arg=-include$PWD/tests/util/analyze.h ;;
		esac
		clang-tidy -p build/dev --quiet $hint "$1" 2>/dev/null' sh FILE
}

without_python=""
python_environment()
{
	ftmem_venv setuptools mpi4py && "$FTMEM_PYTHON" -c 'import torch, pytest' && return 0
	without_python="
  PyTorch or pytest cannot be had: TESTS OF THE PYTHON BINDING WERE NOT RUN"
	[ -z "${FTMEM_REQUIRE_PYTHON:-}" ]
}

if [ -z "$quick" ] && [[ " $builds " = *" dev "* ]]; then
	step "looking for PyTorch" python_environment
fi
for build in $builds; do
	labels=()
	[ -n "$quick" ] && labels=(-LE '^(mpi|e2e|install|python)$')
	# Large jobs run the same code as small ones; simulations have one thread, and so have these.
	large='^mpi\.loss\.[0-9][0-9][0-9][0-9]|^sim\.elastic_scale$'
	single='^unit\.(match_cells|plan_unwanted|rebuild|rebuild_faults|route|train_gpt)$'
	[ "$build" = asan ] && labels=(-L '^(unit|sim|mpi)$' -E "$large")
	[ "$build" = tsan ] && labels=(-L '^(unit|mpi)$' -E "$large|$single")
	step "$build" run_tests "$build" "${labels[@]}" "$@"
done
if [ -n "$full" ]; then
	step "clang" with_clang
	step "without ISA-L" without FTMEM_WITH_ISAL plain
	step "without CUDA" without FTMEM_WITH_CUDA no-cuda
	step "clang-tidy" tidy
fi
step "no ftmem-smp left" no_smp_left

echo
echo "builds: $builds; $SECONDS s$summary$without_python"
[ -z "$failed" ]
