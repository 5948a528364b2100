#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: loop.sh MPIRUN LOOP
#
# LOOP, examples/02_cuda_loop, on two nodes: in mid-training its ranks and the memory of one
# node are killed. With another node instead it goes on, and ends with the digests of a run
# that nobody killed. Exit status: 77 if there is no GPU.
set -euo pipefail
mpirun=$1 loop=$2
util=$(cd "$(dirname "$0")/../util" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/ftl.XXXXXX")
runner=""

clean()
{
	[ -z "$runner" ] || kill -TERM "$runner" 2>/dev/null || true
	wait
	sh "$util/end_smps.sh" "$FTMEM_DIR" || true
	rm -rf "$work"
}
trap clean EXIT

export FTMEM_KEEP=yes FTMEM_DIR=$work/d FTMEM_PARITY=1 FTMEM_EXPIRE_S=120
mkdir -m 700 "$FTMEM_DIR"

fail() # LOG TEXT
{
	echo "$2; the output ends with:"
	tail -n 30 "$1"
	exit 1
}

# In the background; the ranks write their process ids down.
launch() # LOG NODE NODE
{
	local log=$1 rank=0 node arguments=()

	shift
	for node; do
		((rank == 0)) || arguments+=(: -n 1)
		# shellcheck disable=SC2016
		arguments+=(env "FTMEM_NODE=$node" sh -c 'echo $$ >"$0" && exec "$1"'
			"$work/pid.$rank" "$loop")
		rank=$((rank + 1))
	done
	timeout -k 5 120 sh "$util/mpi_run.sh" "$mpirun" 1 "${arguments[@]}" >"$log" 2>&1 &
	runner=$!
}

finish() # its status is the job's
{
	local result=0

	wait "$runner" || result=$?
	runner=""
	return "$result"
}

await() # LOG LINE
{
	until grep -q "^$2\$" "$1"; do
		kill -0 "$runner" 2>/dev/null || fail "$1" "ended before '$2'"
		sleep 0.05
	done
}

digests() # LOG
{
	grep -E '^rank [01]: digest [0-9a-f]{16}$' "$1" | sort
}

launch "$work/undisturbed" node0 node1
if ! finish; then
	if grep '^no GPU: ' "$work/undisturbed"; then
		exit 77
	fi
	fail "$work/undisturbed" "the undisturbed run failed"
fi
grep -qx 'starting at step 0' "$work/undisturbed" || fail "$work/undisturbed" "not begun anew"
[ "$(digests "$work/undisturbed" | wc -l)" -eq 2 ] || fail "$work/undisturbed" "no digests"

launch "$work/killed" node0 node1
await "$work/killed" 'step 60'
holder=$(sh "$util/end_smps.sh" --list "$FTMEM_DIR" | sed -n 's/ .* --node node1 .*//p')
[ -n "$holder" ] || fail "$work/killed" "nobody holds the memory of node1"
kill -KILL "$holder" "$(cat "$work/pid.0")" "$(cat "$work/pid.1")"
! finish || fail "$work/killed" "the run ended before it was killed"

launch "$work/again" node0 spare
finish || fail "$work/again" "the restart failed"
grep -qE '^starting at step [1-9][0-9]*$' "$work/again" || fail "$work/again" "begun anew"
if ! diff <(digests "$work/undisturbed") <(digests "$work/again"); then
	fail "$work/again" "not the digests of the undisturbed run"
fi
grep '^starting' "$work/again"
