#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Builds and runs the tests, after installing what is missing.
set -euo pipefail

usage()
{
	cat <<'END'
usage: scripts/test.sh [OPTION...] [-- CTEST ARGUMENT...]

Without options, what CI runs: all tests but the large ones in the dev build; unit, sim and mpi
tests under the sanitizers of addresses and undefined behaviour (compiled by clang where there is
one), unit and mpi tests under that of threads; unit tests under valgrind, but for the slowest; a
minute of each fuzzer; clang-tidy and cppcheck.

  --quick   dev build only, without the model, mpi, e2e, install and python tests
  --full    the large tests too, in all builds; ten minutes of each fuzzer; all unit tests under
            valgrind; builds without ISA-L and without CUDA. Takes hours
  --dev, --asan, --tsan, --valgrind, --fuzz, --analyze
            only these
  -h, --help

Tests of the PyTorch binding run in build/venv, into which PyTorch is installed, or with the
Python that FTMEM_PYTHON names. Without PyTorch they are skipped.

If FTMEM_REQUIRE_ALL is set, whatever is skipped because something is missing here (PyTorch, network
namespaces, clang) is a failure. What needs a GPU is skipped without one all the same.

After --, arguments are passed on to every run of ctest: -R NAME, -L LABEL, -V.
END
}

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

parts="" quick="" full=""
while [ $# -gt 0 ]; do
	case $1 in
	--quick) quick=yes ;;
	--full) full=yes ;;
	--dev | --asan | --tsan | --valgrind | --fuzz | --analyze) parts="$parts ${1#--}" ;;
	-h | --help) usage; exit 0 ;;
	--) shift; break ;;
	*) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
	esac
	shift
done
if [ -z "$parts" ]; then
	parts=dev
	[ -n "$quick" ] || parts="dev asan tsan valgrind fuzz analyze"
fi
[ -z "$full" ] || export FTMEM_TEST_FULL=1

ftmem_setup test
cd "$ftmem_root"

# Whatever the tests start works below this folder, so that what they leave is seen.
TMPDIR=$(mktemp -d /tmp/ftmtest.XXXX)
# Tests as another user pass through it.
chmod 711 "$TMPDIR"
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
	[ "$preset" != asan ] || ! command -v clang >/dev/null || local -x CC=clang
	ftmem_build "$preset" || return 1
	# Much of what tests take is waiting: more at a time than there are processors.
	ctest --test-dir "build/$preset" -j "$((2 * ftmem_jobs))" --output-on-failure \
		--no-tests=error "$@"
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

# Leaks are left to the sanitizers, which know what is kept for MPI on purpose.
memcheck() # TEST
{
	local status=0

	valgrind -q --error-exitcode=99 --leak-check=no --suppressions=tests/util/valgrind.supp \
		--trace-children=no "$1" >"$1.valgrind" 2>&1 || status=$?
	case $status in
	0) echo "ok       ${1##*/}"; rm "$1.valgrind" ;;
	77) echo "SKIPPED  ${1##*/}" ;;
	*) cat "$1.valgrind"; echo "FAILED   ${1##*/}"; return 1 ;;
	esac
}

# Valgrind 3.19 knows no pidfd_open(), by which ftmem-smp sees that processes end, and has no room
# for mappings of many TiB.
unfit_for_valgrind="cli|scrub|smp_flood|smp_life|store"
# Those that take longer than 12 s in it: only with --full.
slow_in_valgrind="checksum|compare_name|copy_device|copy_device_f.*|copy_host|match_cells"
slow_in_valgrind="$slow_in_valgrind|plan_unwanted|rebuild|rebuild_pass|route|train_gpt|transfer"
run_memcheck()
{
	local left_out="$unfit_for_valgrind" preset=dev

	command -v valgrind >/dev/null || { echo "no valgrind: NOT RUN"; return 1; }
	ftmem_build "$preset" || return 1
	[ -n "$full" ] || left_out="$left_out|$slow_in_valgrind"
	echo "NOT RUN: $left_out"
	export -f memcheck
	find "build/$preset/tests/unit" -maxdepth 1 -type f -name 'test_*' -executable |
		grep -vE "/test_($left_out)$" | sort |
		FTMEM_TEST_QUICK=1 FTMEM_SMP=$PWD/build/$preset/bin/ftmem-smp \
			xargs -P "$ftmem_jobs" -I TEST bash -c 'memcheck TEST'
}

without_python=""
python_environment()
{
	ftmem_venv setuptools mpi4py && "$FTMEM_PYTHON" -c 'import torch, pytest' && return 0
	without_python="
  PyTorch or pytest cannot be had: TESTS OF THE PYTHON BINDING WERE NOT RUN"
	[ -z "${FTMEM_REQUIRE_ALL:-}" ]
}

if [ -z "$quick" ] && [[ " $parts " = *" dev "* ]]; then
	step "looking for PyTorch" python_environment
fi
few=() fuzz_seconds=600
[ -n "$full" ] || few=(-LE '^large$') fuzz_seconds=60
for part in $parts; do
	case $part in
	dev)
		[ -z "$quick" ] || few=(-LE '^(model|mpi|e2e|install|python|large)$')
		step dev run_tests dev "${few[@]}" "$@"
		;;
	asan) step asan run_tests asan -L '^(unit|sim|mpi)$' "${few[@]}" "$@" ;;
	tsan) step tsan run_tests tsan -L '^(unit|mpi)$' "${few[@]}" "$@" ;;
	valgrind) step valgrind run_memcheck ;;
	fuzz) step fuzz tests/fuzz/run.sh --seconds "$fuzz_seconds" ;;
	analyze) step analyze scripts/analyze.sh ;;
	esac
done
if [ -n "$full" ]; then
	step "without ISA-L" without FTMEM_WITH_ISAL plain
	step "without CUDA" without FTMEM_WITH_CUDA no-cuda
fi
step "no ftmem-smp left" no_smp_left

echo
echo "$SECONDS s in all:$summary$without_python"
[ -z "$failed" ]
