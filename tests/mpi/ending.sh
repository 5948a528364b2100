#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: ending.sh STATUS MPIRUN RANKS PROGRAM MODE
#
# Passes if mpirun ends by itself, with that exit status.
want=$1
shift
# What MPI may still touch when a transfer is given up stays allocated on purpose.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0"
timeout 60 sh "$(dirname "$0")/../util/mpi_run.sh" "$@"
got=$?
[ "$got" -eq "$want" ] && exit 0
echo "exit status $got instead of $want"
exit 1
