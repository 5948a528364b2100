#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Measures what protecting costs on this machine, prints it and draws it.
set -euo pipefail
export LC_ALL=C

usage()
{
	cat <<'END'
usage: bench/measure.sh [OPTION...] table | sweep | growth | all | draw

Runs ftmem_bench with nodes simulated on this machine, keeps its results as JSON, and makes
of them what docs/performance.md shows. Every byte of every restore is compared.

  table     4 ranks with 256 MiB each, one and two of which may be lost, over shared
            memory and, as root, over TCP between network namespaces; prints the table
  sweep     protect, restore and rebuild against the size of the state and against the
            number of nodes and how many may be lost; draws figures
  growth    4 to 64 ranks with small state, and the simulator of thousands of nodes;
            draws figures, and prints what the model (bench/model.py) says of clusters
  all       all of these
  draw      measures nothing: draws the figures again

  --build FOLDER    where the programs are (build/release, which is brought up to date);
                    without any there they are built there. The simulator of growth is
                    built in build/dev, whatever is said here
  --results FOLDER  where the JSON files go (bench/results)
  --figures FOLDER  where the figures go (docs/figures)
  --repeat N        repetitions of each measurement (7)
  --no-tcp          over shared memory alone
  --no-draw         no figures; without this matplotlib is needed, and installed with
                    apt-get if it is missing
  --quick           small states and few repetitions: shows that all works, no more.
                    Results and figures go to a new temporary folder, unless folders for
                    them are given
  -h, --help        print this

The library's environment variables that tune it (FTMEM_BLOCK_BYTES, FTMEM_WINDOW, ...)
are passed on. What does not fit into memory is left out, with a message. A run that fails
leaves the results of the one before as they are. Where table comes to its end, results
table-*.json that it did not measure are removed.

Exit status: 0 all measured; 1 something failed; 2 bad arguments or missing packages.
END
}

die()
{
	printf 'measure.sh: %s\n' "$*" >&2
	exit "${status:-1}"
}

say()
{
	printf 'measure.sh: %s\n' "$*" >&2
}

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/setup.sh"

build=$ftmem_root/build/release results="" figures="" repeat=7 tcp=yes draw=yes quick="" what=""
while (($#)); do
	case $1 in
	--build | --results | --figures | --repeat)
		(($# > 1)) || status=2 die "$1: a value is missing; see --help"
		[ -n "$2" ] || status=2 die "$1: the value is empty"
		declare "${1#--}=$2"
		shift 2
		;;
	--no-tcp) tcp=""; shift ;;
	--no-draw) draw=""; shift ;;
	--quick) quick=yes repeat=2; shift ;;
	-h | --help) usage; exit 0 ;;
	table | sweep | growth | all | draw)
		[ -z "$what" ] || status=2 die "$what and $1: only one at a time"
		what=$1
		shift
		;;
	*) status=2 die "$1: not understood; see --help" ;;
	esac
done
[ -n "$what" ] || status=2 die "what is to be done? table, sweep, growth, all or draw; see --help"
if [[ ! $repeat =~ ^[1-9][0-9]{0,2}$ ]]; then
	status=2 die "--repeat: '$repeat' is not a number from 1 to 999"
fi
case $what in
sweep | growth | all) ;;
draw) draw=yes ;;
table) draw="" ;;
esac
# What --quick measures is not worth keeping: it must not replace what is.
if [ -n "$quick" ]; then
	if [ -z "$results" ] && [ "$what" != draw ]; then
		results=$(mktemp -d "${TMPDIR:-/tmp}/ftmeasure-results.XXXXXX")
		say "the results go to $results"
	fi
	if [ -z "$figures" ] && [ -n "$draw" ]; then
		figures=$(mktemp -d "${TMPDIR:-/tmp}/ftmeasure-figures.XXXXXX")
		say "the figures go to $figures"
	fi
fi
results=${results:-$ftmem_root/bench/results} figures=${figures:-$ftmem_root/docs/figures}

# In MiB; of the table, of the sweep over nodes and of many ranks.
table_size=256 nodes_size=64 ranks_size=4
sizes="1 2 4 8 16 32 64 128 256 512" most_nodes=8 many="4 8 16 32 64"
if [ -n "$quick" ]; then
	table_size=4 nodes_size=1 ranks_size=1 sizes="1 2" most_nodes=3 many="4 8"
fi

# --- programs ---

# Debian's packages are those of the system's own python3, which may not be the first.
find_python()
{
	for python in python3 /usr/bin/python3; do
		"$python" -c 'import matplotlib' 2>/dev/null && return 0
	done
	python=python3
	return 1
}

python=python3
if [ -n "$draw" ] && ! find_python; then
	ftmem_setup plot
	find_python || true
fi

need_writable() # FOLDER HINT
{
	{ mkdir -p "$1" && [ -w "$1" ]; } 2>/dev/null || die "$1 cannot be written: $2"
}

# The usual folder is brought up to date; another one is taken as it is.
compile()
{
	local log=$work/log

	if [ "$what" = growth ] || [ "$what" = all ]; then
		need_writable "$ftmem_root/build/dev" "the simulator of growth is built there"
	fi
	if [ "$build" = "$ftmem_root/build/release" ]; then
		need_writable "$build" "--build FOLDER builds in another folder"
		ftmem_build release ftmem_bench ftmem_smp || die "the build failed"
	elif [ ! -x "$build/bin/ftmem_bench" ]; then
		need_writable "$build" "--build takes a folder to build in"
		{ cmake -S "$ftmem_root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
			-DFTMEM_BUILD_TESTS=OFF &&
			cmake --build "$build" -j "$ftmem_jobs" --target ftmem_bench ftmem_smp; } \
			>"$log" 2>&1 || {
			cat "$log" >&2
			die "the build in $build failed"
		}
	fi
}

if [ "$what" != draw ]; then
	ftmem_setup build
	mkdir -p "$results"
	work=$(mktemp -d "${TMPDIR:-/tmp}/ftmeasure.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	compile
	bench=$build/bin/ftmem_bench
	unset FTMEM_DIR FTMEM_JOB FTMEM_NODE FTMEM_SMP FTMEM_KEEP
fi

# --- one run ---

# KiB that processes can still take here, by the system and by its control group.
memory_left()
{
	local left max used
	local group=/sys/fs/cgroup

	left=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)
	max=$(cat "$group/memory.max" 2>/dev/null || echo max)
	used=$(cat "$group/memory.current" 2>/dev/null || echo 0)
	if [ "$max" != max ] && (((max - used) / 1024 < left)); then
		left=$(((max - used) / 1024))
	fi
	echo "$left"
}

# For each rank the state, two copies with parity, what the limits copy into, and staging.
fits() # RANKS MIB PARITY
{
	local m=$3 k=$((($1 < 8 ? $1 : 8) - $3))

	(($1 * ($2 * (4 * k + 2 * m) / k + 64) * 1024 < $(memory_left)))
}

with_mpirun() # RANKS PROGRAM...
{
	sh "$ftmem_root/tests/util/mpi_run.sh" mpirun "$@"
}

with_hosts() # RANKS PROGRAM...
{
	local ranks=$1

	shift
	"$ftmem_root/scripts/netns.sh" --hosts "$ranks" -- -n "$ranks" "$@"
}

measured=""
run() # HOW NAME RANKS MIB PARITY OPTION...
{
	local how=$1 name=$2 ranks=$3 size=$4 parity=$5 result=0

	shift 5
	if ! fits "$ranks" "$size" "$parity"; then
		say "$name is left out: $ranks ranks with $size MiB each do not fit into memory"
		return 0
	fi
	say "$name ..."
	"$how" "$ranks" "$bench" --ranks-per-node 1 --bytes "${size}M" --parity "$parity" \
		--repeat "$repeat" --json "$work/$name.json" "$@" </dev/null >"$work/log" 2>&1 ||
		result=$?
	if ((result == 77)); then
		return 77
	elif ((result != 0)); then
		cat "$work/log" >&2
		die "$name failed, see above"
	fi
	mv "$work/$name.json" "$results/$name.json" || die "$results cannot be written"
	measured="$measured $name "
}

# What an earlier run left must not look as if this one had measured it.
only_measured() # SET
{
	local path name

	for path in "$results/$1"-*.json; do
		name=$(basename "$path" .json)
		if [ -e "$path" ] && [[ $measured != *" $name "* ]]; then
			say "$path is removed: this run did not measure it"
			rm -f "$path"
		fi
	done
}

# --- what is measured ---

measure_table()
{
	local m

	for m in 1 2; do
		run with_mpirun "table-shm-m$m" 4 "$table_size" "$m"
	done
	for m in ${tcp:+1 2}; do
		if ! run with_hosts "table-tcp-m$m" 4 "$table_size" "$m"; then
			say "not over TCP: $(cat "$work/log")"
			break
		fi
	done
	only_measured table
}

measure_sweep()
{
	local m n size

	for m in 1 2; do
		for size in $sizes; do
			run with_mpirun "size-m$m-${size}M" 4 "$size" "$m"
		done
	done
	for m in 1 2 3; do
		for ((n = m + 1; n <= most_nodes; n++)); do
			run with_mpirun "nodes-n$n-m$m" "$n" "$nodes_size" "$m" --lose none
		done
	done
}

# The simulator is one of the tests.
simulate()
{
	local nodes=8,32,128,512,1024,4096,16384

	[ -z "$quick" ] || nodes=8,32,64
	say "growth: the simulator ..."
	ftmem_setup test
	ftmem_build dev test_sim_growth || die "the build of the simulator failed"
	"$ftmem_root/build/dev/tests/sim/test_sim_growth" --nodes "$nodes" \
		--json "$work/growth.json" >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		die "growth failed, see above"
	}
	mv "$work/growth.json" "$results/growth.json" || die "$results cannot be written"
}

measure_growth()
{
	local n

	for n in $many; do
		run with_mpirun "ranks-$n" "$n" "$ranks_size" 1 --lose none
	done
	simulate
}

# Rates from what was measured here with the largest state.
model()
{
	local name

	for name in table-shm-m2 table-shm-m1 ranks-4; do
		if [ -e "$results/$name.json" ]; then
			say "the model, with the rates of $name:"
			"$python" "$ftmem_root/bench/model.py" "$results/$name.json" \
				"$results/growth.json" || die "the model failed, see above"
			return 0
		fi
	done
	say "no model: $results has neither table-shm-*.json nor ranks-4.json"
}

case $what in
table | sweep | growth) "measure_$what" ;;
all)
	measure_table
	measure_sweep
	measure_growth
	;;
esac
if [ -n "$draw" ]; then
	"$python" "$ftmem_root/bench/plot.py" --results "$results" --out "$figures"
fi
if [ "$what" = table ] || [ "$what" = all ]; then
	"$python" "$ftmem_root/bench/table.py" --results "$results"
fi
if [ "$what" = growth ] || [ "$what" = all ]; then
	model
fi
