#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Explores all that protocol.pml can do, in several configurations, and then wrong protocols,
# each of which must be caught. Prints a table; fails unless all came out as expected.
# With FTMEM_TEST_FULL=1 more crashes and returning nodes are explored, for minutes. Works in the
# current folder. How a promise came to be broken is printed step by step; so is, with
# FTMEM_MODEL_FLAW=NAME, how that wrong protocol is caught.
set -euo pipefail

source=$(cd "$(dirname "$0")" && pwd)
memory_mb=2900
depth=20000

if ! command -v spin >/dev/null; then
	echo "THE MODEL WAS NOT CHECKED: there is no spin (package spin)"
	exit 77
fi

work=$(mktemp -d "$PWD/model.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

# One file, since spin counts the lines of each.
awk -v source="$source" '
	!/^#include "/ { print; next }
	{ gsub(/^#include |"/, ""); while ((getline line <(source "/" $0)) > 0) print line }
	' "$source/protocol.pml" >protocol.pml
spin -a protocol.pml
# One process takes all steps: there is no order to reduce.
${CC:-cc} -O2 -w -DSAFETY -DNOREDUCE -DNOFAIR -DMEMLIM=$memory_mb -o pan pan.c

failed=""
fail() # TEXT
{
	echo "FAILED: $*"
	failed=yes
}

number() # WHAT: as pan names it
{
	sed -n "s/^ *\([0-9.e+]*\) $1.*/\1/p" out | head -n 1
}

depth_reached()
{
	sed -n 's/.*depth reached \([0-9]*\),.*/\1/p' out
}

megabytes()
{
	sed -n 's/^ *\([0-9.]*\)\ttotal actual memory usage.*/\1/p' out
}

explore() # SETTING...
{
	TIMEFORMAT=%U
	rm -f protocol.pml.trail
	{ time env "$@" ./pan "-m$depth" >out 2>&1 || true; } 2>seconds
}

# The steps of the trail that was left, by the labels of the model, and the nodes after each.
tell() # SETTING...
{
	env "$@" SHOW=1 ./pan -r protocol.pml.trail 2>&1 | awk '
		BEGIN {
			while ((getline line <"protocol.pml") > 0) {
				if (line ~ /^[A-Z_]+:$/)
					label = substr(line, 1, length(line) - 1)
				at[++lines] = label
				if (line ~ /^}/)
					label = ""
			}
		}
		match($0, /D_STEP[0-9]+/) {
			if (at[substr($0, RSTART + 6, RLENGTH - 6) + 0])
				print "  " at[substr($0, RSTART + 6, RLENGTH - 6) + 0]
		}
		/^    [0-9]: |^pan:/'
}

row="%-44s %10s %11s %6s %8s %7s  %s\n"

# Nothing wrong may be found, and the search must have come to its end.
right() # SETTING...
{
	local result=ok

	explore "$@"
	grep -q 'errors: 0$' out || result="WRONG: $(grep -m 1 '^pan:' out || tail -n 1 out)"
	! grep -q 'Search not completed\|max search depth too small\|out of memory' out ||
		result="CUT SHORT: $(grep -m 1 'max search\|out of memory\|^pan:' out || true)"
	# shellcheck disable=SC2059
	printf "$row" "$*" "$(number 'states, stored')" "$(number 'transitions')" \
		"$(depth_reached)" "$(cat seconds)" "$(megabytes)" "$result"
	[ "$result" = ok ] && return 0
	fail "$*: $result"
	[ ! -f protocol.pml.trail ] || tell "$@"
}

# Every step of the model must have been taken.
all_reached()
{
	grep -q '(0 of [0-9]* states)' out && return 0
	fail "steps that were never taken:"
	sed -n '/^unreached/,/^$/p' out
}

# The promise that it breaks must be found broken.
wrong() # FLAW PROMISE SETTING...
{
	local flaw=$1 promise=$2 number result

	shift 2
	number=$(sed -n "s/^#define $flaw  *\([0-9]*\)$/\1/p" "$source/protocol.pml")
	[ -n "$number" ] || { fail "$flaw: no such flaw"; return; }
	explore FLAW="$number" "$@"
	result=$(sed -n 's/^pan:[0-9]*: assertion violated \([a-z_]*\).*/\1/p' out)
	printf '%-20s %-46s %9s  %s\n' "$flaw" "$*" "$(number 'states, stored')" \
		"${result:-NOT CAUGHT}"
	[ "$result" = "$promise" ] || fail "$flaw: found ${result:-nothing}, not $promise"
	[ "$flaw" != "${FTMEM_MODEL_FLAW:-}" ] || tell FLAW="$number" "$@"
}

# shellcheck disable=SC2059
printf "$row" configuration states transitions depth seconds MB result
right N=3 M=1 CRASHES=1 AWAY=1 SMPS=1
all_reached
right N=3 M=2 CRASHES=1 AWAY=1 SMPS=1
right N=3 M=1 CRASHES=2 AWAY=1
right N=3 M=2 CRASHES=2 AWAY=1
right N=4 M=1 CRASHES=1 AWAY=1
right N=4 M=2 CRASHES=1 AWAY=1
right N=3 M=1 CRASHES=3 AWAY=1 GONE=1 BAD=0
right N=4 M=1 CRASHES=3 AWAY=0
right N=4 M=2 CRASHES=3 AWAY=0
if [ -n "${FTMEM_TEST_FULL:-}" ]; then
	right N=4 M=1 CRASHES=1 AWAY=1 SMPS=1
	right N=4 M=2 CRASHES=1 AWAY=1 SMPS=1
	right N=4 M=2 CRASHES=1 AWAY=2
	right N=3 M=1 CRASHES=2 AWAY=1 SMPS=1
	right N=3 M=2 CRASHES=2 AWAY=2
	right N=3 M=1 CRASHES=3 AWAY=1
	right N=3 M=2 CRASHES=3 AWAY=1
	right N=4 M=1 CRASHES=2 AWAY=1
	right N=4 M=2 CRASHES=2 AWAY=1
else
	echo "FTMEM_TEST_FULL=1 explores more crashes of 4 nodes that come back"
fi

echo
printf '%-20s %-46s %9s  %s\n' "wrong protocol" configuration states "breaks"
wrong OVERWRITES_EARLY committed_stays_recoverable N=3 M=1 CRASHES=1 GONE=1
wrong VOTES_EARLY committed_stays_recoverable N=3 M=1 CRASHES=1
wrong IGNORES_TRAILERS restored_was_snapshotted_by_all N=3 M=1 CRASHES=1
wrong LACKS_ONE_MORE rebuilt_from_k_members N=3 M=1 CRASHES=1
wrong CLEARS_EARLY committed_stays_recoverable N=3 M=1 CRASHES=2
wrong LETS_ZOMBIES_LIVE rebuilt_from_k_members N=3 M=1 CRASHES=1
wrong COUNTS_STARTS restored_is_not_mixed N=3 M=1 CRASHES=2
wrong FORGETS_WHAT_IS_OUT committed_is_never_forgotten N=3 M=1 CRASHES=1
wrong TRUSTS_NEW_ARENAS committed_is_never_forgotten N=3 M=1 CRASHES=1
wrong TRUSTS_OLD_ARENAS committed_is_never_forgotten N=3 M=1 CRASHES=2
wrong ENTERS_EARLY committed_is_never_forgotten N=3 M=1 CRASHES=2
wrong SPARES_WHAT_IT_KNOWS committed_stays_recoverable N=3 M=1 CRASHES=3 GONE=1 BAD=0
[ -z "${FTMEM_TEST_FULL:-}" ] ||
	wrong JOINS_UNNOTED committed_is_never_forgotten N=3 M=1 CRASHES=3
wrong HANDS_NOTHING_OVER committed_is_never_forgotten N=3 M=1 CRASHES=1 SMPS=1
wrong WAITS_FOR_SKIPPERS resolved_while_all_live N=3 M=1 CRASHES=1

[ -z "$failed" ]
