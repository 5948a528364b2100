#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Runs the fuzz targets of this folder with libFuzzer, from the inputs in corpus/ and those that the
# targets write of the present formats, each for some seconds, as many at a time as there are cores.
# Fails at the first crash, leak, hang or broken promise; the input is then kept, and how to run it
# again is printed.
set -euo pipefail

usage()
{
	cat <<'END'
usage: tests/fuzz/run.sh [--seconds N] [--target NAME]... [--found FOLDER] [--keep]

  --seconds N      for each target, 60 by default
  --target NAME    only this one: wire, server, arena, layout, records, opts
  --found FOLDER   where inputs that reach something new are gathered, and taken from next time:
                   build/fuzz/found by default, emptied first
  --keep           afterwards writes the least inputs that reach all that is reached into corpus/

Where clang or its libFuzzer is missing nothing is run, and the exit status is 77; if
FTMEM_REQUIRE_ALL is set that is a failure.
END
}

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup.sh"

seconds=60 targets="" found="" keep=""
while [ $# -gt 0 ]; do
	case $1 in
	--seconds) seconds=$2; shift ;;
	--target) targets="$targets $2"; shift ;;
	--found) found=$2; shift ;;
	--keep) keep=yes ;;
	-h | --help) usage; exit 0 ;;
	*) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
	esac
	shift
done
here=$ftmem_root/tests/fuzz work=$ftmem_root/build/fuzz
programs=$work/tests/fuzz logs=$work/logs crashes=$work/crashes
targets=${targets:-$(cd "$here" && printf '%s\n' fuzz_*.c | sed 's/^fuzz_\(.*\)\.c$/\1/')}

there_is_libfuzzer()
{
	command -v clang >/dev/null &&
		echo 'int LLVMFuzzerTestOneInput(const char *d, long n){return d&&n>9;}' |
		clang -x c -fsanitize=fuzzer,address,undefined -o /dev/null - 2>/dev/null
}

if ! there_is_libfuzzer; then
	echo "NO clang WITH libFuzzer: NOTHING WAS FUZZED (Debian: clang, libclang-rt-14-dev)" >&2
	[ -z "${FTMEM_REQUIRE_ALL:-}" ] || exit 1
	exit 77
fi
ftmem_build fuzz fuzz
if [ -z "$found" ]; then
	found=$work/found
	rm -rf "$found"
fi
mkdir -p "$found" "$logs" "$crashes"
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1

fuzz() # TARGET
{
	mkdir -p "$found/$1"
	"$programs/corpus_$1" --seeds "$found/$1" || return 1
	"$programs/fuzz_$1" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 \
		-max_len=4096 -print_final_stats=1 -artifact_prefix="$crashes/$1-" \
		"$found/$1" "$here/corpus/$1" >"$logs/$1.log" 2>&1
}

figure() # TARGET NAME
{
	sed -n "s/^stat::$2: *//p" "$logs/$1.log"
}

report() # TARGET
{
	local log=$logs/$1.log coverage

	coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
	printf '%-10s %12s %9s %9s %10s %8s\n' "$1" "$(figure "$1" number_of_executed_units)" \
		"$(figure "$1" average_exec_per_sec)" "$coverage" "$(figure "$1" new_units_added)" \
		"$(figure "$1" peak_rss_mb)"
}

report_failure() # TARGET
{
	local log=$logs/$1.log input

	sed -n '/ERROR\|does not hold\|runtime error/,$p' "$log" | head -n 60
	input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
	echo "FAILED: $1; log: $log"
	[ -z "$input" ] || echo "  to run it again: $programs/fuzz_$1 $input"
}

declare -A failed=() target_of=()
ended()
{
	local pid status=0

	wait -n -p pid || status=$?
	[ "$status" -eq 0 ] || failed[${target_of[$pid]}]=yes
}

running=0
for target in $targets; do
	[ "$running" -lt "$ftmem_jobs" ] || { ended; running=$((running - 1)); }
	fuzz "$target" &
	target_of[$!]=$target
	running=$((running + 1))
done
for (( ; running > 0; running--)); do
	ended
done

echo "$seconds s each:"
printf '%-10s %12s %9s %9s %10s %8s\n' target executions 'per s' coverage 'new inputs' 'peak MiB'
for target in $targets; do
	report "$target"
done
for target in "${!failed[@]}"; do
	report_failure "$target"
done
[ ${#failed[@]} -eq 0 ] || exit 1

[ -n "$keep" ] || exit 0
for target in $targets; do
	least=$work/least.$target
	rm -rf "$least"
	mkdir -p "$least"
	# Of what is reached, not of how often: a few dozen inputs.
	"$programs/fuzz_$target" -merge=1 -use_counters=0 -max_len=4096 "$least" \
		"$here/corpus/$target" "$found/$target" >"$logs/$target.merge.log" 2>&1
	# Those that found a defect have names of their own, and stay.
	find "$here/corpus/$target" -type f ! -name "$(printf '[0-9a-f]%.0s' {1..40})" \
		-exec cp -t "$least" {} +
	rm -rf "$here/corpus/$target"
	mv "$least" "$here/corpus/$target"
	echo "corpus/$target: $(find "$here/corpus/$target" -type f | wc -l) inputs"
done
