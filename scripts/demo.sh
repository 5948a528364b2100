#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Trains on simulated nodes, kills some, or takes some more, goes on, and compares the
# result with an undisturbed training. The trainer is a C program, or a PyTorch script.
set -euo pipefail
export LC_ALL=C
python=${FTMEM_PYTHON:-}
unset "${!FTMEM_@}"
# All nodes are one group, also with the one that --grow adds: any --parity of them may be lost.
export FTMEM_GROUP_NODES=17

usage()
{
	cat <<'END'
usage: scripts/demo.sh [OPTION...]

Trains a small language model on simulated nodes, one rank on each. In mid-training it
kills some of them (SIGKILL), starts the job again with replacements, and lets it finish.
Then it does the same training undisturbed and compares all parameters and all optimizer
state byte by byte.

  --shrink      no replacements: the job goes on with the nodes that are left, later
                stops, and goes on with all nodes again when the lost ones are back
  --grow        nothing dies: in mid-training the job stops, and goes on with one node
                more
  --pytorch     trains with PyTorch (examples/pytorch/train.py, DDP), which is installed into
                build/venv if FTMEM_PYTHON does not name a Python that has it
  --fsdp        the same, fully sharded (train_fsdp.py, FSDP2)
  --nodes N     nodes, 2 to 16 (4)
  --parity M    how many of them may be lost, 1 to 4 (2)
  --lose WHICH  how many, or which, such as node1,node3 (1)
  --what WHAT   node: trainer and memory die; rank: the trainer alone; smp: the process
                that holds the memory alone (node)
  --at STEP     when to kill or stop (half of --steps; with --shrink a third)
  --steps S     how long to train (200; with PyTorch 60)
  --keep        keep logs and results
  --help        print this

Where there are not more nodes than --parity, one less than there are may be lost.

Exit status: 0 the training went on, and its result is bit-exact; 3 more nodes were lost
than --parity covers, and the restart was refused as it must be; 2 bad arguments or
missing packages; 1 anything else.
END
}

die()
{
	printf 'demo.sh: %s\n' "$*" >&2
	exit "${status:-1}"
}

# Arguments

story=replace nodes=4 parity=2 lose="" what="" at="" steps="" keep="" script=""

number() # OPTION VALUE LEAST MOST
{
	if [[ ! $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || (($2 < $3 || $2 > $4)); then
		status=2 die "$1: '$2' is not a number from $3 to $4"
	fi
}

while (($#)); do
	case $1 in
	--nodes | --parity | --lose | --what | --at | --steps)
		(($# > 1)) || status=2 die "$1: a value is missing; see --help"
		declare "${1#--}=$2"
		shift 2
		;;
	--shrink | --grow)
		[ "$story" = replace ] || status=2 die "--shrink and --grow: only one of them"
		story=${1#--}
		shift
		;;
	--pytorch) script=${script:-train.py}; shift ;;
	--fsdp) script=train_fsdp.py; shift ;;
	--keep) keep=yes; shift ;;
	-h | --help) usage; exit 0 ;;
	*) status=2 die "$1: not understood; see --help" ;;
	esac
done
number --nodes "$nodes" 2 16
number --parity "$parity" 1 4
((parity < nodes)) || status=2 die "--parity: with $nodes nodes at most $((nodes - 1))"
# The last step of the first part, and with --shrink of the second.
third=0
[ "$story" != shrink ] || third=1
[ -n "$steps" ] || steps=$((${#script} > 0 ? 60 : 200))
number --steps "$steps" $((2 + third)) 100000
at=${at:-$((steps / (2 + third)))}
number --at "$at" 1 $((steps - 1 - third))
again=$((at + (steps - at) / 2))
if [ -n "$script" ] && [ "$story" != replace ]; then
	status=2 die "--$story: PyTorch's sums depend on the number of ranks, so the result" \
		"would not be bit-exact"
fi
if [ "$story" = grow ] && [ -n "$lose$what" ]; then
	status=2 die "--grow: nothing is lost, so neither --lose nor --what goes with it"
fi
if [ "$story" = shrink ] && [ "${what:-node}" != node ]; then
	status=2 die "--shrink: nodes are lost, so --what $what does not go with it"
fi
lose=${lose:-1} what=${what:-node}
case $what in
node | rank | smp) ;;
*) status=2 die "--what: '$what' is not node, rank or smp" ;;
esac

names=()
for ((i = 0; i < nodes; i++)); do names+=("node$i"); done
victims=()
if [[ $lose =~ ^[0-9]+$ ]]; then
	number --lose "$lose" 1 "$nodes"
	for ((i = 0; i < lose; i++)); do victims+=("node$(((nodes / 2 + i) % nodes))"); done
else
	IFS=, read -ra victims <<<"$lose"
	for name in "${victims[@]}"; do
		[[ " ${names[*]} " = *" $name "* ]] ||
			status=2 die "--lose: '$name' is none of ${names[*]}"
	done
	[ "$(printf '%s\n' "${victims[@]}" | sort -u | wc -l)" -eq ${#victims[@]} ] ||
		status=2 die "--lose: '$lose' names a node twice"
fi
[ "$what" != node ] || ((${#victims[@]} < nodes)) ||
	status=2 die "--lose: with --what node at least one node must be left"

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ftmem_setup build
if [ -n "$script" ]; then
	[ -z "$python" ] || export FTMEM_PYTHON=$python
	ftmem_venv || exit 2
	export FTMEM_LIBRARY=$ftmem_root/build/release/bin/libftmem.so
	export PYTHONPATH=$ftmem_root/python
fi
bin=$ftmem_root/build/release/bin
[ -x "$bin/train_gpt" ] || echo "Building (the first time takes a little longer) ..."
ftmem_build release train_gpt ftmem_smp ftmem_command ftmem || die "the build failed"

# What it prints

bold="" dim="" red="" green="" plain=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
fi
interval=$((steps > 6 ? steps / 6 : 1)) # of the steps that are shown
began=${EPOCHREALTIME//./}

say() # TEXT
{
	local ms=$(((${EPOCHREALTIME//./} - began) / 1000))

	printf '%s%3d.%d s%s  %s\n' "$dim" $((ms / 1000)) $((ms % 1000 / 100)) "$plain" "$*"
}

title()
{
	echo
	say "$bold$*$plain"
}

join() # WORD...: "a", "a and b", "a, b and c"
{
	local out=$1

	shift
	while (($# > 1)); do out+=", $1"; shift; done
	(($# == 0)) || out+=" and $1"
	echo "$out"
}

# What it leaves: nothing, whatever happens.

folder=$(mktemp -d "${TMPDIR:-/tmp}/ftmem-demo.XXXX")
export FTMEM_DIR=$folder/smp
mkdir -m 700 "$FTMEM_DIR"
runner=""

clean()
{
	local result=$?

	trap - EXIT INT TERM HUP PIPE
	set +e
	if [ -n "$runner" ]; then
		kill -TERM "$runner" 2>/dev/null
		wait "$runner" 2>/dev/null
	fi
	"$bin/ftmem" drop demo >/dev/null 2>&1
	"$bin/ftmem" drop undisturbed >/dev/null 2>&1
	sh "$ftmem_root/tests/util/end_smps.sh" "$FTMEM_DIR"
	if [ -n "$keep" ]; then
		echo "Logs and results are in $folder"
	else
		rm -rf "$folder"
	fi
	exit "$result"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
trap 'exit 141' PIPE

failed() # LOG TEXT
{
	say "$red$2$plain"
	echo "The end of $1:" >&2
	tail -n 30 "$1" >&2
	exit 1
}

finish() # LOG: waits for the job's end, which must be a good one
{
	local result=0

	wait "$runner" || result=$?
	runner=""
	((result == 0)) || failed "$1" "the training failed with status $result"
}

# Starts the job on ${names[@]}, in the background. It ends after step $until.
launch() # JOB LOG DUMP
{
	local arguments=() program name covered=$parity

	if [ -n "$script" ]; then
		program=("$FTMEM_PYTHON" "$ftmem_root/examples/pytorch/$script"
			--batch $((3 * nodes)))
	else
		program=("$bin/train_gpt" --print 1 --dump "$3")
	fi

	((covered < ${#names[@]})) || covered=$((${#names[@]} - 1))
	((covered > 0)) || covered=1
	for name in "${names[@]}"; do
		[ ${#arguments[@]} -eq 0 ] || arguments+=(:)
		arguments+=(-n 1 env "FTMEM_NODE=$name" "${program[@]}" --job "$1"
			--steps "$until" --parity "$covered")
	done
	: >"$2"
	timeout -k 5 300 mpirun -q --oversubscribe --bind-to none "${arguments[@]}" \
		</dev/null >"$2" 2>&1 &
	runner=$!
	exec 5<"$2"
	partial="" step=0 line=""
}

# The next line of the log, into $line. Fails when the job has ended and all is read.
next_line()
{
	local ended=""

	while ! IFS= read -r line <&5; do
		partial+=$line
		[ -z "$ended" ] || return 1
		kill -0 "$runner" 2>/dev/null || ended=yes
		[ -n "$ended" ] || sleep 0.02
	done
	line=$partial$line
	partial=""
}

# Milliseconds since a moment of $EPOCHREALTIME without its point.
since() # MOMENT
{
	echo $(((${EPOCHREALTIME//./} - $1) / 1000))
}

declare -A trainer

# A line of the library. That all nodes are one machine is what a simulation is.
library_line()
{
	[[ $line != *"are one machine"* ]] || return 0
	if [[ $line =~ ^ftmem\[([0-9]+)\]:\ (info|INFO):\ (.*)$ ]]; then
		[ -z "$stopped" ] || say "$green${BASH_REMATCH[3]}$plain"
	else
		say "$red$line$plain"
	fi
}

# Shows what matters of the job's lines, until it ends or has done step $1.
follow() # [STEP]
{
	while next_line; do
		case $line in
		step*)
			read -r _ step _ <<<"$line"
			[ -z "$stopped" ] || [ -n "$back_ms" ] || back_ms=$(since "$stopped")
			((step != 1 && step % interval)) || say "$line"
			((step != ${1:-0})) || return 0
			;;
		rank\ *)
			if [[ $line =~ ^rank\ [0-9]+:\ node\ ([^,]+),\ pid\ ([0-9]+) ]]; then
				trainer[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
			fi
			;;
		restored\ version*)
			[[ $line =~ ^restored\ version\ ([0-9]+) ]] && restored=${BASH_REMATCH[1]}
			say "$line"
			;;
		done:*) say "$line" ;;
		ftmem\[*) library_line ;;
		ftmem:* | train_gpt:*) say "$red$line$plain" ;;
		esac
	done
	(($# == 0))
}

# Lines of "NODE PID VERSION": who holds memory of the job, and its newest version.
holders()
{
	"$bin/ftmem" status --json demo 2>/dev/null | awk '
		function show() { if (pid) print node, pid, newest }
		match($0, /"node":"[^"]*"/) {
			show()
			node = substr($0, RSTART + 8, RLENGTH - 9)
			pid = match($0, /"pid":[0-9]+/) ? substr($0, RSTART + 6, RLENGTH - 6) : 0
			newest = 0
		}
		{
			while (match($0, /"committed","version":[0-9]+/)) {
				version = substr($0, RSTART + 22, RLENGTH - 22) + 0
				if (version > newest) newest = version
				$0 = substr($0, RSTART + RLENGTH)
			}
		}
		END { show() }' || true
}

holder_of() # NODE
{
	holders | sed -n "s/^$1 \([0-9]*\) .*/\1/p"
}

show_holders()
{
	local node pid version

	while read -r node pid version; do
		((version == 0)) || say "  $node: version $version, held by process $pid"
	done < <(holders)
}

# The acts

kill_victims()
{
	local name pid targets pids=() lines=()

	for name in "${victims[@]}"; do
		targets=()
		if [ "$what" != smp ]; then
			pids+=("${trainer[$name]}")
			targets+=("trainer (process ${trainer[$name]})")
		fi
		if [ "$what" != rank ]; then
			pid=$(holder_of "$name")
			[ -n "$pid" ] ||
				failed "$folder/first.log" "no process holds the memory of $name"
			pids+=("$pid")
			targets+=("memory (process $pid)")
			old_holder[$name]=$pid
		fi
		lines+=("  $name: $(join "${targets[@]}") killed")
	done
	kill -KILL "${pids[@]}"
	stopped=${EPOCHREALTIME//./}
	title "${red}SIGKILL in step $((step + 1))"
	for line in "${lines[@]}"; do say "$red$line$plain"; done
}

# The trainers go on, start another holder, and hand the memory over.
watch_handover()
{
	local name pid

	follow
	finish "$folder/first.log"
	for name in "${victims[@]}"; do
		pid=$(holder_of "$name")
		if [ -z "$pid" ] || [ "$pid" = "${old_holder[$name]}" ]; then
			failed "$folder/first.log" "nobody took the memory of $name over"
		fi
	done
	say "What is held now:"
	show_holders
}

replace_victims()
{
	local name i spare=0

	[ "$what" = node ] || return 0
	for name in "${victims[@]}"; do
		for i in "${!names[@]}"; do
			[ "${names[i]}" != "$name" ] || names[i]=spare$spare
		done
		spares+=("spare$spare")
		spare=$((spare + 1))
	done
}

drop_victims()
{
	local name left=()

	for name in "${names[@]}"; do
		[[ " ${victims[*]} " = *" $name "* ]] || left+=("$name")
	done
	names=("${left[@]}")
}

# After the kill.
await_end()
{
	local result=0

	wait "$runner" || result=$?
	runner=""
	((result != 0)) || failed "$folder/first.log" "the training ended before the kill"
	say "mpirun returned $(since "$stopped") ms later. What is left:"
	while next_line; do
		[[ $line != step* ]] || read -r _ step _ <<<"$line"
	done
	last=$step
	show_holders
}

# Starts what was killed again, on ${names[@]}.
start_again()
{
	resumed_log=$folder/second.log
	launch demo "$resumed_log" "$folder/resumed.bin"
	follow
	if [ "$what" = node ] && ((${#victims[@]} > parity)); then
		refused
	fi
	finish "$folder/second.log"
	say "from the kill to the next step: ${back_ms:--} ms;" \
		"steps done again: $((last - restored))"
}

# Goes on after a part that has ended by itself.
go_on() # LOG
{
	launch demo "$1" "$folder/resumed.bin"
	follow
	finish "$1"
	say "from the stop to the next step: ${back_ms:--} ms"
}

show_protection()
{
	say "What is held now:"
	show_holders
	"$bin/ftmem" layout demo >"$folder/layout.log" 2>&1 ||
		failed "$folder/layout.log" "ftmem layout does not understand what is held"
	say "  $(sed -n 's/^  group 0: //p' "$folder/layout.log")"
	say "  $(tail -n 1 "$folder/layout.log")"
}

refused()
{
	local result=0

	wait "$runner" || result=$?
	runner=""
	((result == 3)) || failed "$folder/second.log" "not refused, but status $result"
	title "Refused, as it must be: ${#victims[@]} nodes are lost, parity covers $parity."
	say "Nothing was destroyed. What is still held:"
	show_holders
	exit 3
}

clean_up()
{
	local job left

	for job in demo undisturbed; do
		"$bin/ftmem" drop "$job" >"$folder/drop.log" 2>&1 ||
			failed "$folder/drop.log" "the memory of job $job cannot be freed"
	done
	left=$(sh "$ftmem_root/tests/util/end_smps.sh" --list "$FTMEM_DIR")
	[ -z "$left" ] || failed "$folder/drop.log" "still running: $left"
	say "Memory freed, no process left."
}

# The last digest in a log.
digest_of() # LOG
{
	sed -n 's/^digest //p' "$1" | tail -n 1
}

compare_digests()
{
	local resumed undisturbed

	resumed=$(digest_of "$resumed_log")
	undisturbed=$(digest_of "$folder/undisturbed.log")
	say "SHA-256 of weights, optimizer state and loss curve"
	say "  resumed:     $resumed"
	say "  undisturbed: $undisturbed"
	if [ -n "$resumed" ] && [ "$resumed" = "$undisturbed" ]; then
		say "${bold}${green}bit-exact: yes$plain"
	else
		say "${bold}${red}bit-exact: no$plain"
		keep=yes
		exit 1
	fi
}

compare()
{
	local bytes

	echo
	if [ -n "$script" ]; then
		compare_digests
		return
	fi
	bytes=$(stat -c %s "$folder/resumed.bin")
	if cmp "$folder/resumed.bin" "$folder/undisturbed.bin"; then
		say "${bold}${green}bit-exact: yes$plain" \
			"($bytes bytes of parameters and optimizer state)"
	else
		say "${bold}${red}bit-exact: no$plain"
		keep=yes
		exit 1
	fi
}

begin()
{
	title "Training on ${names[0]} to ${names[-1]}, simulated here, one rank on each"
	say "any $parity of the $nodes may be lost"
	launch demo "$folder/first.log" "$folder/resumed.bin"
}

begin_and_kill()
{
	begin
	if ! follow "$at"; then
		wait "$runner" || true
		runner=""
		failed "$folder/first.log" "the training ended before step $at"
	fi
	kill_victims
}

replace() # Nodes die, others take their place; or only a process of them dies.
{
	begin_and_kill
	if [ "$what" = smp ]; then
		watch_handover
		return
	fi
	await_end
	replace_victims
	if [ "$what" = node ]; then
		title "Starting again: $(join "${spares[@]}") for $(join "${victims[@]}")"
	else
		title "Starting again"
	fi
	start_again
}

shrink() # Nodes die, the others go on, and then all.
{
	begin_and_kill
	await_end
	drop_victims
	until=$again
	title "Starting again without $(join "${victims[@]}"): on $(join "${names[@]}") alone"
	start_again
	show_protection
	names=("${everybody[@]}")
	until=$steps stopped=${EPOCHREALTIME//./} back_ms=""
	title "Stopped after step $again. $(join "${victims[@]}") can be used again:" \
		"going on with $nodes nodes"
	go_on "$folder/third.log"
	show_protection
}

grow() # The job stops, and goes on with one node more.
{
	until=$at
	begin
	follow
	finish "$folder/first.log"
	show_protection
	names+=("node$nodes")
	until=$steps stopped=${EPOCHREALTIME//./}
	title "Stopped after step $at. Going on with node$nodes too"
	go_on "$folder/second.log"
	show_protection
}

stopped="" back_ms="" restored=0 last=0 until=$steps
resumed_log=$folder/first.log
spares=()
declare -A old_holder
everybody=("${names[@]}")

"$story"
title "The same training, undisturbed"
names=("${everybody[@]}")
stopped=""
launch undisturbed "$folder/undisturbed.log" "$folder/undisturbed.bin"
follow
finish "$folder/undisturbed.log"
clean_up
compare
