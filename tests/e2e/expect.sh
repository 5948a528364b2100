#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: expect.sh STATUS COMMAND [ARGUMENT...]: passes if the command ends with it
status=$1
shift
# Two mpirun that end and start in one such folder get in each other's way.
OMPI_MCA_orte_tmpdir_base=$(mktemp -d "${TMPDIR:-/tmp}/ftx.XXXXXX") || exit 1
export OMPI_MCA_orte_tmpdir_base
trap 'rm -rf "$OMPI_MCA_orte_tmpdir_base"' EXIT
"$@"
got=$?
[ "$got" -eq "$status" ] && exit 0
echo "ended with status $got, not $status"
exit 1
