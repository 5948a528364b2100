#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Builds everything on a machine with a GPU, runs all that can be run there, and writes one
# report.
set -euo pipefail
export LC_ALL=C
unset "${!FTMEM_@}"

usage()
{
	cat <<'END'
usage: scripts/gpu-check.sh [OPTION...]

Builds with CUDA, runs the tests and those of a real device once more under
compute-sanitizer, measures, and writes a report in Markdown. Settings of the card are
neither changed nor needed.

  --report FILE    where the report goes (build/gpu-report.md)
  --deps FOLDER    ISA-L and CMocka are not installed, but their Debian packages lie
                   unpacked in this folder (dpkg -x PACKAGE.deb FOLDER); nothing is installed
  --labels REGEX   only tests with these labels: unit, sim, mpi, cuda, e2e, install, lint
  --no-tests       leaves the tests out, except under compute-sanitizer
  --no-sanitizer   leaves compute-sanitizer out
  --no-bench       leaves the measurement out
  --bench-args "ARGUMENT..."
                   for bench/ftmem_gpu_bench.py, instead of --quick
  --help           print this

The tests on a device are to run: one that is skipped is a failure, and so is a missing
compute-sanitizer. Without PyTorch nothing is measured.

Exit status: 0 everything passed; 2 bad arguments or missing packages; 1 anything else, also
if nothing was checked.
END
}

die()
{
	printf 'gpu-check.sh: %s\n' "$*" >&2
	exit "${status:-1}"
}

report="" deps="" labels="" tests=yes sanitizer=yes bench=yes bench_args=--quick
while (($#)); do
	case $1 in
	--report | --deps | --labels | --bench-args)
		(($# > 1)) || status=2 die "$1: a value is missing; see --help"
		name=${1#--}
		declare "${name//-/_}=$2"
		shift 2
		;;
	--no-tests | --no-sanitizer | --no-bench) declare "${1#--no-}="; shift ;;
	-h | --help) usage; exit 0 ;;
	*) status=2 die "$1: not understood; see --help" ;;
	esac
done

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

report=$(realpath -m "${report:-$ftmem_root/build/gpu-report.md}")
[ -z "$deps" ] || deps=$(realpath -e "$deps") || status=2 die "--deps: no such folder"
cd "$ftmem_root"
mkdir -p build "$(dirname "$report")"

# Packages that were only unpacked say that they lie in /usr.
use_unpacked() # FOLDER
{
	local pc found=""

	rm -rf build/deps
	mkdir -p build/deps
	while IFS= read -r pc; do
		sed -E "s#(^[a-z_]+=|-[IL])/usr#\1$1/usr#g" "$pc" >"build/deps/$(basename "$pc")"
		found=yes
	done < <(find "$1" -name '*.pc')
	[ -n "$found" ] || status=2 die "--deps: no .pc file in $1: unpack libisal-dev, libisal2," \
		"libcmocka-dev and libcmocka0 there"
	export PKG_CONFIG_PATH=$ftmem_root/build/deps${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
	while IFS= read -r pc; do
		LD_LIBRARY_PATH=$pc${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
	done < <(find "$1" -name '*.so.*' -printf '%h\n' | sort -u)
	# Not all that links them asks pkg-config.
	export LD_LIBRARY_PATH LIBRARY_PATH=$LD_LIBRARY_PATH
}
if [ -n "$deps" ]; then
	use_unpacked "$deps"
else
	ftmem_setup test
fi

# Whatever the tests start works below this folder.
TMPDIR=$(mktemp -d /tmp/ftmgpu.XXXX)
export TMPDIR FTMEM_DIR=$TMPDIR/d
mkdir -m 700 "$FTMEM_DIR"
trap 'sh "$ftmem_root/tests/util/end_smps.sh" "$TMPDIR"; rm -rf "$TMPDIR"' EXIT

failed="" summary=()
note() # NAME RESULT [TIME]
{
	summary+=("| $1 | $2 | ${3:-} |")
	echo "== $1: $2"
}

step() # NAME COMMAND...
{
	local name=$1 start=$SECONDS result=passed

	shift
	echo "== $name"
	if ! "$@"; then
		result=FAILED
		failed=yes
	fi
	note "$name" "$result" "$((SECONDS - start)) s"
}

# The machine

# The first line of a program's output that has the words, or "-".
version_of() # WORDS COMMAND...
{
	local words=$1

	shift
	{ "$@" 2>/dev/null || true; } | grep -m 1 -E "$words" || echo "-"
}

machine()
{
	local cards

	cards=$({ nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader \
		2>/dev/null || true; } |
		sort | uniq -c | sed -E 's/^ *([0-9]+) /\1 x /' | paste -sd ';')
	cat <<END
| | |
|---|---|
| devices (memory, driver) | ${cards:-none found} |
| processor | $(version_of . sed -n 's/^model name[^:]*: //p' /proc/cpuinfo), $ftmem_jobs CPUs |
| memory | $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo) |
| system | $(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r) |
| CUDA toolkit | $(version_of release nvcc --version) |
| compiler | $(version_of . cc --version) |
| MPI | $(version_of . mpirun --version) |
| PyTorch | $(version_of . python3 -c 'import torch; print(torch.__version__)') |
| libftmem | $(version_of . build/gpu/bin/ftmem --version) |
END
}

# The tests

run_tests()
{
	ctest --test-dir build/gpu -j "$ftmem_jobs" --output-on-failure --no-tests=error \
		${labels:+-L "$labels"} >build/gpu-tests.log 2>&1 && return 0
	sed -n '/^The following tests FAILED/,$p' build/gpu-tests.log
	return 1
}

# How many lines of ctest's log go on that way.
count_tests() # REGEX
{
	grep -cE "^ *[0-9]+/[0-9]+ Test +#[0-9]+: $1" build/gpu-tests.log || true
}

# Whether labels that were asked for leave those of a device in.
device_tests_wanted()
{
	[ -n "$tests" ] && [[ cuda =~ ${labels:-cuda} ]]
}

# Without a device that can be used ctest is content, for it skips them.
ran_on_device()
{
	local all skipped

	all=$(count_tests 'cuda\.') skipped=$(count_tests 'cuda\..*\*\*\*Skipped')
	((all > 0 && skipped == 0)) && return 0
	echo "of $all tests on a device $skipped were skipped"
	return 1
}

# Tests within the programs of a device: some need two of them.
skipped_within()
{
	awk '/^[0-9]+\/[0-9]+ Test: / { name = $3 }
		name ~ /^cuda\./ && /^\[  SKIPPED \] [a-z_0-9]+$/ && !seen[name, $4]++ {
			print "- `" name "`: `" $4 "`"
		}' build/gpu/Testing/Temporary/LastTest.log
}

report_tests()
{
	local all passed skipped within

	all=$(count_tests "") passed=$(count_tests ".* Passed ")
	skipped=$(count_tests ".*\*\*\*Skipped") within=$(skipped_within)
	echo "$all tests: $passed passed, $skipped skipped, $((all - passed - skipped)) failed."
	echo
	echo "| on a device | result | |"
	echo "|---|---|---|"
	awk '/Test +#[0-9]+: cuda\./ {
		sub(/^.*Test +#[0-9]+: /, "")
		name = $1
		sub(/^[^ ]+ [ .]*(\*\*\*)?/, "")
		result = $1
		sub(/^[^ ]+ */, "")
		print "| `" name "` | " result " | " $0 " |"
	}' build/gpu-tests.log
	[ -z "$within" ] || printf '\nSkipped within them:\n\n%s\n' "$within"
	echo
	sed -n '/^The following tests FAILED/,$p' build/gpu-tests.log | sed 's/^/    /'
}

# Calls that are meant to fail are no errors; what tests do to devices in processes of their
# own is.
run_sanitizer()
{
	local program result=0

	: >build/gpu-sanitizer.log
	for program in build/gpu/tests/cuda/test_*; do
		echo "--- $(basename "$program")" >>build/gpu-sanitizer.log
		if ! timeout 300 compute-sanitizer --tool memcheck --report-api-errors no \
			--target-processes application-only --error-exitcode 99 "$program" \
			>>build/gpu-sanitizer.log 2>&1; then
			echo "--- FAILED: $(basename "$program")" >>build/gpu-sanitizer.log
			result=1
		fi
	done
	grep -q 'ERROR SUMMARY' build/gpu-sanitizer.log || result=1
	((result == 0)) || cat build/gpu-sanitizer.log
	return "$result"
}

report_sanitizer()
{
	echo "| program | memcheck |"
	echo "|---|---|"
	awk '/^--- test_/ { program = $2 }
		/ERROR SUMMARY/ { sub(/^=* */, ""); print "| `" program "` | " $0 " |" }
		/^--- FAILED/ { print "| `" $3 "` | FAILED |" }' build/gpu-sanitizer.log
}

# The measurement

run_bench()
{
	# Word splitting is what the option is for.
	# shellcheck disable=SC2086
	python3 bench/ftmem_gpu_bench.py --library build/gpu/bin/libftmem.so \
		--json build/gpu-bench.json $bench_args >build/gpu-bench.log 2>&1 && return 0
	tail -n 40 build/gpu-bench.log
	return 1
}

report_bench()
{
	echo '```'
	cat build/gpu-bench.log
	echo '```'
	if [ -s build/gpu-bench.json ]; then
		echo
		echo '```json'
		cat build/gpu-bench.json
		echo
		echo '```'
	fi
}

# A part of the report, if its step was run.
section() # TITLE RUN? COMMAND
{
	[ -n "$2" ] || return 0
	printf '\n## %s\n\n' "$1"
	"$3"
}

write_report()
{
	echo "# libftmem on a GPU"
	echo
	echo "$(date -u +%Y-%m-%d), by \`scripts/gpu-check.sh\`."
	echo
	machine
	echo
	echo "| step | result | time |"
	echo "|---|---|---|"
	printf '%s\n' "${summary[@]}"
	section "Tests" "$tests" report_tests
	section "compute-sanitizer" "$sanitizer" report_sanitizer
	section "Measured" "$bench" report_bench
}

# All of it

rm -f build/gpu-tests.log build/gpu-sanitizer.log build/gpu-bench.log build/gpu-bench.json
step "build" ftmem_build gpu
if [ -n "$failed" ]; then
	tests="" sanitizer="" bench=""
fi
if [ -n "$sanitizer" ] && ! command -v compute-sanitizer >/dev/null; then
	note "compute-sanitizer" "FAILED: not found; --no-sanitizer leaves it out"
	failed=yes sanitizer=""
fi
if [ -n "$bench" ] && ! python3 -c 'import torch' 2>/dev/null; then
	note "measurement" "skipped: no PyTorch"
	bench=""
fi
[ -z "$tests" ] || step "tests" run_tests
! device_tests_wanted || step "tests on a device" ran_on_device
[ -z "$sanitizer" ] || step "compute-sanitizer" run_sanitizer
[ -z "$bench" ] || step "measurement" run_bench
if [ -z "$failed$tests$sanitizer$bench" ]; then
	note "checks" "FAILED: none was run"
	failed=yes
fi
write_report >"$report"
echo "report: $report"
[ -z "$failed" ]
