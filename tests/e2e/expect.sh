#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: expect.sh STATUS COMMAND [ARGUMENT...]: passes if the command ends with it
status=$1
shift
"$@"
got=$?
[ "$got" -eq "$status" ] && exit 0
echo "ended with status $got, not $status"
exit 1
