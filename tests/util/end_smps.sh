#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: end_smps.sh [--list] FOLDER
#
# Ends the ftmem-smp processes that serve FOLDER or a folder below it, and waits
# until they are gone. With --list it only prints them: pid and command line.
set -u

list=
if [ "$1" = --list ]; then
	list=yes
	shift
fi
folder=$1

serving()
{
	for proc in /proc/[0-9]*; do
		case $(readlink "$proc/exe" 2>/dev/null) in
		*/ftmem-smp | *'/ftmem-smp (deleted)') ;;
		*) continue ;;
		esac
		if tr '\0' '\n' <"$proc/cmdline" 2>/dev/null | grep -qF "$folder"; then
			echo "${proc#/proc/}"
		fi
	done
}

if [ -n "$list" ]; then
	for pid in $(serving); do
		echo "$pid $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")"
	done
	exit 0
fi
tries=0
while pids=$(serving) && [ -n "$pids" ] && [ $tries -lt 100 ]; do
	# The first time politely.
	if [ $tries -eq 0 ]; then
		kill -TERM $pids 2>/dev/null
	elif [ $tries -eq 50 ]; then
		kill -KILL $pids 2>/dev/null
	fi
	sleep 0.1
	tries=$((tries + 1))
done
[ -z "$pids" ]
