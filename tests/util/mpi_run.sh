#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: mpi_run.sh MPIRUN RANKS PROGRAM [ARGUMENT...]
#
# Runs PROGRAM under MPI, with more ranks than cores if need be. Unless FTMEM_KEEP is
# set it runs with an FTMEM_DIR of its own, and the ftmem-smp processes that it leaves
# there are ended. Exit status: the program's.
set -u

here=$(dirname "$0")
mpirun=$1 ranks=$2
shift 2

# Two mpirun that end and start in one such folder get in each other's way.
OMPI_MCA_orte_tmpdir_base=$(mktemp -d "${TMPDIR:-/tmp}/ftx.XXXXXX") || exit 1
export OMPI_MCA_orte_tmpdir_base

clean()
{
	rm -rf "$OMPI_MCA_orte_tmpdir_base"
	[ -z "${FTMEM_KEEP:-}" ] || return 0
	sh "$here/end_smps.sh" "$FTMEM_DIR"
	rm -rf "$FTMEM_DIR"
}
if [ -z "${FTMEM_KEEP:-}" ]; then
	FTMEM_DIR=$(mktemp -d "${TMPDIR:-/tmp}/ftm.XXXXXX") || exit 1
	export FTMEM_DIR
fi
trap clean EXIT
trap 'exit 143' TERM INT HUP

set -- -n "$ranks" "$@"
if "$mpirun" --version 2>/dev/null | grep -q 'Open MPI\|OpenRTE'; then
	set -- --oversubscribe --bind-to none "$@"
	# Open MPI refuses to start as root unless told twice.
	if [ "$(id -u)" -eq 0 ]; then
		export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
	fi
fi
"$mpirun" "$@" </dev/null
